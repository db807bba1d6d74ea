//! What the fuzzers share: seeds in `tests/corpus`, random changes of them, and the search for
//! inputs that do something new. A search runs for `PHALANX_FUZZ_SECONDS` (2 by default) from
//! `PHALANX_FUZZ_SEED`; what breaks an invariant is written beside the seeds and replayed from then
//! on.

#[path = "../../../phalanx-common/tests/support/random.rs"]
mod random;

use std::collections::HashSet;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub(crate) use random::Random;

/// Seeds that are kept; what is found beyond is tried once and dropped.
const SEED_COUNT_MAX: usize = 20_000;

/// A number from the environment.
fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| {
        let number = value.parse();
        number.unwrap_or_else(|_| panic!("{name}={value}: not a number"))
    })
}

/// Inputs of one kind that are kept in files.
pub(crate) struct Corpus {
    /// Folder in `tests/corpus`.
    pub(crate) name: &'static str,
    /// How its files end, without the dot.
    pub(crate) ending: &'static str,
}

impl Corpus {
    fn folder(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/corpus")
            .join(self.name)
    }

    /// The committed seeds and past crashes, sorted by name.
    pub(crate) fn read(&self) -> Vec<Vec<u8>> {
        let entries = std::fs::read_dir(self.folder()).into_iter().flatten();
        let paths = entries.map(|entry| entry.expect("entry of the corpus").path());
        let is_seed = |path: &PathBuf| path.extension().is_some_and(|end| end == self.ending);
        let mut paths: Vec<_> = paths.filter(is_seed).collect();
        paths.sort();
        let read = |path| std::fs::read(path).expect("read seed");
        paths.iter().map(read).collect()
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::create_dir_all(self.folder()).expect("make corpus");
        let path = self.folder().join(format!("{name}.{}", self.ending));
        std::fs::write(path, bytes).expect("write to the corpus");
    }

    /// Holds a committed seed to the bytes that it is made of, or writes it.
    pub(crate) fn check(&self, name: &str, bytes: &[u8]) {
        if std::env::var_os("PHALANX_WRITE_CORPUS").is_some() {
            self.write(name, bytes);
        }
        let path = self.folder().join(format!("{name}.{}", self.ending));
        let committed = std::fs::read(&path).unwrap_or_default();
        let remedy = "run this test with PHALANX_WRITE_CORPUS=1";
        assert!(committed == bytes, "{}: differs; {remedy}", path.display());
    }

    /// Runs one input; one that breaks an invariant is kept.
    pub(crate) fn run<T>(&self, bytes: impl Fn() -> Vec<u8>, run: impl Fn() -> T) -> T {
        catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
            let bytes = bytes();
            let mut hasher = DefaultHasher::new();
            bytes.hash(&mut hasher);
            let name = format!("crash_{:016x}", hasher.finish());
            self.write(&name, &bytes);
            println!("kept as {name}.{}; commit it with the fix", self.ending);
            resume_unwind(panic)
        })
    }
}

/// Changes seeds until the time is over, and keeps as a new seed whatever goes a new way. What goes
/// which way is told by `run`; `mutate` changes its first input, and may borrow from the second.
pub(crate) fn search<T>(
    mut seeds: Vec<T>,
    run: impl Fn(&T) -> u64,
    mutate: impl Fn(&mut Random, &T, &T) -> T,
) {
    let budget = Duration::from_secs(number("PHALANX_FUZZ_SECONDS", 2));
    let mut random = Random(number("PHALANX_FUZZ_SEED", 1));
    let mut ways: HashSet<u64> = seeds.iter().map(&run).collect();
    let (seed_count, begun) = (seeds.len(), Instant::now());
    let mut count = 0_u64;
    // At least one round, whatever the budget.
    while count == 0 || begun.elapsed() < budget {
        for _ in 0..1_000 {
            let (from, other) = (random.below(seeds.len()), random.below(seeds.len()));
            let mutated = mutate(&mut random, &seeds[from], &seeds[other]);
            count += 1;
            if ways.insert(run(&mutated)) && seeds.len() < SEED_COUNT_MAX {
                seeds.push(mutated);
            }
        }
    }
    let found = ways.len();
    println!("{count} inputs in {budget:?}: {found} ways from {seed_count} seeds");
    // A fuzzer that finds nothing new fuzzes nothing.
    assert!(found > 4 * seed_count, "only {found} ways found");
}
