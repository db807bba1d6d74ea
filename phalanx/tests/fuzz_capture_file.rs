//! The fuzzer of the reader of captures: mutations of captures written by hand and of the files in
//! `tests/corpus/capture_file`, keeping as a new seed whatever is answered in a new way. It runs
//! for `PHALANX_FUZZ_SECONDS` (2 by default) from `PHALANX_FUZZ_SEED`; a file that breaks an
//! invariant is written to the corpus and replayed from then on.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashSet;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

#[path = "capture_file/builder.rs"]
mod builder;
#[path = "capture_file/mutation.rs"]
mod mutation;
use mutation::{Answer, Mutator, check};

/// Seeds that are kept; what is found beyond is tried once and dropped.
const SEED_COUNT_MAX: usize = 20_000;
/// A file that grows longer lends no more.
const SEED_BYTES_MAX: usize = 16_384;
/// No file may take longer, on a busy machine too.
const FILE_TIME_MAX: Duration = Duration::from_secs(10);

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/capture_file")
}

fn past_crashes() -> Vec<Vec<u8>> {
    let Ok(entries) = std::fs::read_dir(corpus()) else {
        return Vec::new();
    };
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
        .iter()
        .map(|path| std::fs::read(path).unwrap())
        .collect()
}

fn seeds() -> Vec<Vec<u8>> {
    let (pcap, pcapng) = (builder::pcap(5), builder::pcapng());
    let mut seeds = vec![
        builder::gzip(&pcap, 2),
        builder::gzip(&pcapng, 1),
        builder::zstd(&pcap, 2),
        builder::zstd(&pcapng, 1),
        pcap,
        pcapng,
        builder::snoop(5),
        builder::noted(builder::Order::Little),
        builder::noted(builder::Order::Big),
    ];
    seeds.extend(past_crashes());
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

/// Reads one file; one that breaks an invariant is kept in the corpus.
fn run(file: &[u8]) -> Answer {
    let begun = Instant::now();
    let result = std::panic::catch_unwind(|| {
        let answer = check(file);
        assert!(
            begun.elapsed() < FILE_TIME_MAX,
            "took {:?}",
            begun.elapsed()
        );
        answer
    });
    result.unwrap_or_else(|panic| {
        let mut hasher = DefaultHasher::new();
        file.hash(&mut hasher);
        let name = format!("crash_{:016x}", hasher.finish());
        std::fs::create_dir_all(corpus()).unwrap();
        std::fs::write(corpus().join(&name), file).unwrap();
        println!("kept as {name}; commit it with the fix");
        std::panic::resume_unwind(panic)
    })
}

#[test]
fn seeds_and_past_crashes_hold_cut_at_every_byte() {
    for file in seeds() {
        for length in 0..=file.len() {
            run(&file[..length]);
        }
    }
}

#[test]
fn invariants_hold_over_mutations() {
    let budget = Duration::from_secs(number("PHALANX_FUZZ_SECONDS", 2));
    let mut mutator = Mutator::new(number("PHALANX_FUZZ_SEED", 1));
    let mut seeds = seeds();
    let mut answers: HashSet<Answer> = seeds.iter().map(|seed| run(seed)).collect();
    let (seed_count, begun, mut run_count) = (seeds.len(), Instant::now(), 0_u64);
    // At least one round, whatever the budget.
    while run_count == 0 || begun.elapsed() < budget {
        for _ in 0..500 {
            let (from, other) = (mutator.below(seeds.len()), mutator.below(seeds.len()));
            let mutated = mutator.mutate(&seeds[from], &seeds[other]);
            run_count += 1;
            let is_new = answers.insert(run(&mutated));
            if is_new && mutated.len() <= SEED_BYTES_MAX && seeds.len() < SEED_COUNT_MAX {
                seeds.push(mutated);
            }
        }
    }
    println!(
        "{run_count} files in {budget:?}, {} ways of the reader found from {seed_count} seeds",
        answers.len()
    );
    // A fuzzer that finds nothing new fuzzes nothing.
    assert!(
        answers.len() > 4 * seed_count,
        "only {} ways found",
        answers.len()
    );
}
