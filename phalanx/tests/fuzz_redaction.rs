//! The fuzzer of the redactor: mutations of the frames of `phalanx-common/tests/corpus/parser`,
//! keeping as a new seed whatever is redacted in a new way. It runs for `PHALANX_FUZZ_SECONDS` (2
//! by default) from `PHALANX_FUZZ_SEED`; a frame that breaks an invariant is written to
//! `tests/corpus/redaction` and replayed from then on.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../phalanx-common/tests/support/frames.rs"]
mod frames;
#[path = "redaction/invariant.rs"]
mod invariant;

use std::collections::HashSet;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use frames::Mutator;
use invariant::Ground;
use phalanx::redaction::Payload;
use phalanx_common::packet::{LinkKind, visit_layers};

/// Seeds that are kept; what is found beyond is tried once and dropped.
const SEED_COUNT_MAX: usize = 20_000;

/// A frame to begin from.
struct Seed {
    link_type: u32,
    bytes: Vec<u8>,
}

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/redaction")
}

/// Files named `LINKTYPE-NAME.frame`, sorted.
fn read_seeds(folder: &Path) -> Vec<Seed> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|it| it == "frame"));
    paths.sort();
    let seed = |path: PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        Seed {
            link_type: name.split('-').next().unwrap().parse().unwrap(),
            bytes: std::fs::read(&path).unwrap(),
        }
    };
    paths.into_iter().map(seed).collect()
}

fn seeds() -> Vec<Seed> {
    let parser =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../phalanx-common/tests/corpus/parser");
    let mut seeds = read_seeds(&parser);
    assert!(seeds.len() > 30, "no frames in {}", parser.display());
    seeds.extend(read_seeds(&corpus()));
    seeds
}

/// A number from the environment.
fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| {
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name}={value}: not a number"))
    })
}

/// A redactor that cuts payload, and one that keeps it.
struct Grounds {
    cut: Ground,
    kept: Ground,
}

impl Grounds {
    fn new() -> Self {
        Self {
            cut: Ground::new(Payload::Cut),
            kept: Ground::new(Payload::Kept {
                masks: vec![1..3, 9..u32::MAX],
            }),
        }
    }

    /// Redacts one frame in both ways; the answer is the way that it went, coarsely. One that
    /// breaks an invariant is kept.
    fn run(&mut self, link_type: u32, bytes: &[u8], wire_length: u32) -> u64 {
        let checked = std::panic::catch_unwind(AssertUnwindSafe(|| {
            let cut = self.cut.check(bytes, link_type, wire_length);
            let kept = self.kept.check(bytes, link_type, wire_length);
            let lengths = |it: &Result<Vec<u8>, _>| it.as_ref().map(Vec::len).map_err(|it| *it);
            assert!(lengths(&cut).unwrap_or(0) <= lengths(&kept).unwrap_or(0));
            self.check_cut_bytes(link_type, bytes, wire_length, &cut);
            cut.err()
        }));
        let reason = checked.unwrap_or_else(|panic| {
            let mut hasher = DefaultHasher::new();
            bytes.hash(&mut hasher);
            let name = format!("{link_type}-crash_{:016x}.frame", hasher.finish());
            std::fs::create_dir_all(corpus()).unwrap();
            std::fs::write(corpus().join(&name), bytes).unwrap();
            println!("wire length {wire_length}, kept as {name}; commit it with the fix");
            std::panic::resume_unwind(panic)
        });
        let mut hasher = DefaultHasher::new();
        (link_type, reason).hash(&mut hasher);
        let kind = LinkKind::from_linktype(link_type).unwrap();
        let layers = visit_layers(bytes, kind, wire_length, |station, _| {
            std::mem::discriminant(&station).hash(&mut hasher);
        });
        for layer in layers.iter().flat_map(|it| it.iter()) {
            let headers = &layer.headers;
            (headers.version, headers.protocol, headers.is_fragmented).hash(&mut hasher);
            (headers.payload_length == 0).hash(&mut hasher);
        }
        hasher.finish()
    }

    /// Behind what is redacted, bytes decide nothing but whether a checksum was right: with each of
    /// them changed the frame comes to the same, checksums aside.
    fn check_cut_bytes<Reason: PartialEq>(
        &mut self,
        link_type: u32,
        bytes: &[u8],
        wire_length: u32,
        cut: &Result<Vec<u8>, Reason>,
    ) {
        let Ok(cut) = cut else { return };
        // What is taken off before the frame is as long in both.
        let kind = LinkKind::from_linktype(link_type).unwrap();
        let mut has_label = false;
        let visited = visit_layers(bytes, kind, wire_length, |station, _| {
            use phalanx_common::packet::{Next, Station};
            has_label |= station == Station::Link(Next::Mpls);
        });
        let (Ok(layers), false) = (visited, has_label) else {
            return;
        };
        let headers = layers.innermost().headers;
        let end = headers.payload_offset as usize;
        // Quotes and targets of neighbours lie behind; tunnels that were not followed are headers.
        if invariant::is_icmp(&headers) || layers.stopped().is_some() || end >= bytes.len() {
            return;
        }
        let mut other = bytes.to_vec();
        for byte in &mut other[end..] {
            *byte ^= 0x5a;
        }
        let again = visit_layers(&other, kind, wire_length, |_, _| {});
        // Bytes of an unknown protocol may be those of a tunnel now.
        if again != Ok(layers) {
            return;
        }
        let Ok(other) = self.cut.check(&other, link_type, wire_length) else {
            panic!("bytes that are cut decide whether a frame is left out");
        };
        assert_eq!(other.len(), cut.len());
        let differences = other
            .iter()
            .zip(cut)
            .filter(|(one, other)| one != other)
            .count();
        assert!(
            differences <= 2 * layers.count(),
            "more than checksums: {differences}"
        );
    }
}

#[test]
fn seeds_and_past_crashes_hold_cut_at_every_byte() {
    let mut grounds = Grounds::new();
    for Seed { link_type, bytes } in seeds() {
        for length in 0..=bytes.len() {
            grounds.run(link_type, &bytes[..length], bytes.len() as u32);
            grounds.run(link_type, &bytes[..length], length as u32);
        }
    }
}

#[test]
fn invariants_hold_over_mutations() {
    let budget = Duration::from_secs(number("PHALANX_FUZZ_SECONDS", 2));
    let mut mutator = Mutator::new(number("PHALANX_FUZZ_SEED", 1));
    let (mut grounds, mut seeds) = (Grounds::new(), seeds());
    let mut answers: HashSet<u64> = seeds
        .iter()
        .map(|seed| grounds.run(seed.link_type, &seed.bytes, seed.bytes.len() as u32))
        .collect();
    let (seed_count, begun, mut run_count) = (seeds.len(), Instant::now(), 0_u64);
    // At least one round, whatever the budget.
    while run_count == 0 || begun.elapsed() < budget {
        for _ in 0..500 {
            let from = mutator.below(seeds.len());
            let other = mutator.below(seeds.len());
            let link_type = seeds[from].link_type;
            let bytes = mutator.mutate(&seeds[from].bytes, &seeds[other].bytes);
            let more = [0, 0, 0, 700][mutator.below(4)];
            let wire_length = bytes.len() as u32 + more;
            run_count += 1;
            let is_new = answers.insert(grounds.run(link_type, &bytes, wire_length));
            if is_new && seeds.len() < SEED_COUNT_MAX {
                seeds.push(Seed { link_type, bytes });
            }
        }
    }
    println!(
        "{run_count} frames in {budget:?}, {} ways found from {seed_count} seeds",
        answers.len()
    );
    // A fuzzer that finds nothing new fuzzes nothing.
    assert!(
        answers.len() > 3 * seed_count,
        "only {} ways found",
        answers.len()
    );
}
