//! The parser's fuzzer: mutations of the committed seeds in `tests/corpus/parser` (made by
//! `support/tunnels.rs`), keeping as a new seed whatever the parser answers in a new way. It runs
//! for `PHALANX_FUZZ_SECONDS` (2 by default) from `PHALANX_FUZZ_SEED`; what breaks an invariant is
//! written beside the seeds and replayed from then on.
#![expect(
    clippy::unwrap_used,
    reason = "a corpus that cannot be read has failed"
)]

#[path = "support/frames.rs"]
mod frames;
#[path = "support/invariant.rs"]
mod invariant;
#[path = "support/tunnels.rs"]
mod tunnels;

use std::collections::HashSet;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use frames::Mutator;
use phalanx_common::packet::{LinkKind, Unparsed, parse_tcp_options};

/// Seeds that are kept; what is found beyond is tried once and dropped.
const SEED_COUNT_MAX: usize = 20_000;

/// A frame to begin from.
struct Seed {
    linktype: u32,
    bytes: Vec<u8>,
}

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/parser")
}

/// The committed seeds: files named `LINKTYPE-NAME.frame`, sorted.
fn read_seeds() -> Vec<Seed> {
    let mut paths: Vec<_> = std::fs::read_dir(corpus())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "frame")
        })
        .collect();
    paths.sort();
    paths
        .into_iter()
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            Seed {
                linktype: name.split('-').next().unwrap().parse().unwrap(),
                bytes: std::fs::read(&path).unwrap(),
            }
        })
        .collect()
}

/// A number from the environment.
fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| {
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name}={value}: not a number"))
    })
}

/// What the parser answered, coarsely: the ways it can go, not the values on them.
fn answer(bytes: &[u8], kind: LinkKind, wire_length: u32) -> u64 {
    let (kernel, full) = invariant::check(bytes, kind, wire_length);
    let mut hasher = DefaultHasher::new();
    (kind as u8, kernel.err()).hash(&mut hasher);
    let layers = match full {
        Ok(layers) => layers,
        Err(reason) => {
            reason.hash(&mut hasher);
            return hasher.finish();
        }
    };
    layers.stopped().hash(&mut hasher);
    for layer in layers.iter() {
        let headers = &layer.headers;
        let (wrapped, chain) = (
            layer.encapsulation,
            headers.transport_offset - headers.network_offset,
        );
        (wrapped.tunnel.name(), headers.version, headers.protocol).hash(&mut hasher);
        (
            wrapped.mpls_label.is_some(),
            wrapped.pppoe_session.is_some(),
        )
            .hash(&mut hasher);
        (chain.min(128) / 8, headers.is_fragmented, headers.vlan != 0).hash(&mut hasher);
    }
    let innermost = layers.innermost().headers;
    let start = innermost.transport_offset + 20;
    let options = parse_tcp_options(bytes, start, innermost.payload_offset);
    (options.mss != 0, options.window_scale_plus_one != 0).hash(&mut hasher);
    (options.sack_block_count, options.has_timestamps).hash(&mut hasher);
    layers
        .quote(bytes)
        .map(|quote| {
            quote
                .map(|headers| headers.protocol)
                .map_err(Unparsed::name)
        })
        .hash(&mut hasher);
    hasher.finish()
}

/// Runs one frame; a frame that breaks an invariant is kept in the corpus.
fn run(seed: &Seed, wire_length: u32) -> u64 {
    let kind = LinkKind::from_linktype(seed.linktype).unwrap();
    let result = std::panic::catch_unwind(|| answer(&seed.bytes, kind, wire_length));
    result.unwrap_or_else(|panic| {
        let mut hasher = DefaultHasher::new();
        seed.bytes.hash(&mut hasher);
        let name = format!("{}-crash_{:016x}.frame", seed.linktype, hasher.finish());
        std::fs::write(corpus().join(&name), &seed.bytes).unwrap();
        println!("wire length {wire_length}: kept as {name}; commit it with the fix");
        std::panic::resume_unwind(panic)
    })
}

#[test]
fn the_corpus_holds_what_the_builders_make() {
    let is_written = std::env::var_os("PHALANX_WRITE_CORPUS").is_some();
    for (name, linktype, frame) in tunnels::all() {
        let path = corpus().join(format!("{linktype}-{name}.frame"));
        if is_written {
            std::fs::create_dir_all(corpus()).unwrap();
            std::fs::write(&path, &frame).unwrap();
        }
        let committed = std::fs::read(&path).unwrap_or_default();
        let remedy = "run this test with PHALANX_WRITE_CORPUS=1";
        assert!(committed == frame, "{}: differs; {remedy}", path.display());
    }
}

#[test]
fn seeds_and_past_crashes_hold_cut_at_every_byte() {
    for mut seed in read_seeds() {
        let wire_length = seed.bytes.len() as u32;
        loop {
            run(&seed, wire_length);
            run(&seed, seed.bytes.len() as u32);
            if seed.bytes.pop().is_none() {
                break;
            }
        }
    }
}

#[test]
fn invariants_hold_over_mutations() {
    let budget = Duration::from_secs(number("PHALANX_FUZZ_SECONDS", 2));
    let mut mutator = Mutator::new(number("PHALANX_FUZZ_SEED", 1));
    let mut seeds = read_seeds();
    let mut answers: HashSet<u64> = seeds
        .iter()
        .map(|seed| run(seed, seed.bytes.len() as u32))
        .collect();
    let begun = (seeds.len(), Instant::now());
    let mut run_count = 0_u64;
    // At least one round, whatever the budget.
    while run_count == 0 || begun.1.elapsed() < budget {
        for _ in 0..5_000 {
            let (from, other) = (mutator.below(seeds.len()), mutator.below(seeds.len()));
            let mutated = Seed {
                linktype: seeds[from].linktype,
                bytes: mutator.mutate(&seeds[from].bytes, &seeds[other].bytes),
            };
            let length = mutated.bytes.len() as u32;
            let wire_length = match mutator.below(16) {
                0 => u32::MAX,
                1 => mutator.below(length as usize + 1) as u32,
                2 => length + mutator.below(70_000) as u32,
                _ => length,
            };
            run_count += 1;
            if answers.insert(run(&mutated, wire_length)) && seeds.len() < SEED_COUNT_MAX {
                seeds.push(mutated);
            }
        }
    }
    println!(
        "{run_count} frames in {budget:?}, {} ways of the parser found from {} seeds",
        answers.len(),
        begun.0
    );
    // A fuzzer that finds nothing new fuzzes nothing.
    assert!(
        answers.len() > 4 * begun.0,
        "only {} ways found",
        answers.len()
    );
}
