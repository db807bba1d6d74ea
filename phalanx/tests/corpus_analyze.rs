//! All captures of others through the analysis: what must hold of each report, whatever is in it,
//! and whatever was done to the file.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/captures.rs"]
mod captures;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use phalanx_engine::budget::Bucket;

/// Mutations of the captures that are analysed.
const MUTATION_COUNT: usize = 50_000;

/// Captures beyond this are not mutated: time is better spent on more of the others.
const MUTATED_BYTES_MAX: usize = 48 << 10;

/// Longest that one mutation may take, in a debug build on a shared machine.
const MUTATION_TIME_MAX: Duration = Duration::from_secs(20);

fn phalanx(arguments: &[&str]) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_phalanx"))
        .args(arguments)
        .output()
        .unwrap()
}

#[test]
fn time_budgets_sum_to_the_duration_in_every_file() {
    let Some(folder) = captures::shared() else {
        return;
    };
    let (mut files, mut budgets) = (0, 0);
    for path in captures::list(&folder) {
        files += 1;
        for story in captures::stories(&path, 1) {
            let Some(budget) = &story.budget else {
                continue;
            };
            budgets += 1;
            let place = format!("{} flow {}", path.display(), story.flow);
            assert_eq!(budget.total_ns(), story.duration_ns, "{place}");
            for bucket in Bucket::ALL {
                assert!(budget.get(bucket) >= 0, "{place}: {}", bucket.name());
            }
        }
    }
    println!("{budgets} budgets in {files} files");
    assert!(
        files >= 170 && budgets > 3_000,
        "{budgets} in {files} files"
    );
}

#[test]
fn a_report_does_not_depend_on_the_number_of_threads() {
    let Some(folder) = captures::shared() else {
        return;
    };
    for path in captures::list(&folder) {
        let path = path.display().to_string();
        let report =
            |threads| phalanx(&["analyze", "--format", "json", "--threads", threads, &path]).stdout;
        let (one, three) = (report("1"), report("3"));
        assert!(one == three, "{path}: another report with three threads");
    }
}

#[test]
fn bad_input_is_told_with_its_exit_code() {
    let folder = std::env::temp_dir().join(format!("phalanx-bad-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let mut header = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 0, 1] {
        header.extend(word.to_le_bytes());
    }
    let mut cut = header.clone();
    cut.extend([1, 0, 0, 0, 0, 0, 0, 0, 60, 0, 0, 0, 60, 0, 0, 0, 1, 2, 3]);
    let cases: [(&str, &[u8], i32, &str); 4] = [
        ("empty", b"", 1, "is empty"),
        ("text", b"this is no capture at all, is it", 1, "is no pcap"),
        ("bare", &header, 0, ""),
        ("cut", &cut, 3, "damaged at byte 24"),
    ];
    for (name, bytes, code, words) in cases {
        let path = folder.join(name);
        std::fs::write(&path, bytes).unwrap();
        for command in ["analyze", "packets"] {
            let output = phalanx(&[command, &path.display().to_string()]);
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(
                output.status.code(),
                Some(code),
                "{command} {name}: {error}"
            );
            assert!(error.contains(words), "{command} {name}: {error}");
        }
    }
    let missing = folder.join("missing").display().to_string();
    assert_eq!(phalanx(&["analyze", &missing]).status.code(), Some(1));
    assert_eq!(phalanx(&["analyze"]).status.code(), Some(2));
    std::fs::remove_dir_all(&folder).unwrap();
}

/// A small generator: the same seed gives the same mutations.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
}

fn mutate(bytes: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..=random.below(8) {
        let at = random.below(bytes.len());
        match random.below(6) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.next() as u8,
            2 => bytes[at] = [0, 0x7f, 0x80, 0xff][random.below(4)],
            3 => bytes.truncate(at.max(1)),
            4 => {
                let end = (at + random.below(200)).min(bytes.len());
                bytes.drain(at..end);
            }
            _ => {
                let end = (at + random.below(400)).min(bytes.len());
                let copied = bytes[at..end].to_vec();
                let place = random.below(bytes.len());
                bytes.splice(place..place, copied);
            }
        }
        if bytes.is_empty() {
            bytes.push(0);
        }
    }
    bytes
}

/// Analyses mutations of the files in turn until there were enough.
fn analyze_mutations(files: &[(PathBuf, Vec<u8>)], scratch: &Path, done: &AtomicUsize, seed: u64) {
    let mut random = Random(seed);
    loop {
        let number = done.fetch_add(1, Ordering::Relaxed);
        if number >= MUTATION_COUNT {
            return;
        }
        let (name, bytes) = &files[number % files.len()];
        std::fs::write(scratch, mutate(bytes, &mut random)).unwrap();
        let begun = Instant::now();
        let threads = 1 + number % 2;
        for story in captures::stories(scratch, threads) {
            if let Some(budget) = &story.budget {
                let place = format!("{}, seed {seed}, mutation {number}", name.display());
                assert_eq!(budget.total_ns(), story.duration_ns, "{place}");
            }
        }
        let took = begun.elapsed();
        assert!(took < MUTATION_TIME_MAX, "{}: {took:?}", name.display());
    }
}

#[test]
fn mutated_captures_end_in_a_report_or_an_error() {
    let Some(folder) = captures::shared() else {
        return;
    };
    let files: Vec<(PathBuf, Vec<u8>)> = captures::list(&folder)
        .into_iter()
        .map(|path| {
            let bytes = std::fs::read(&path).unwrap();
            (path, bytes)
        })
        .filter(|(_, bytes)| (1..=MUTATED_BYTES_MAX).contains(&bytes.len()))
        .collect();
    let done = AtomicUsize::new(0);
    let shm = Path::new("/dev/shm");
    let place = if shm.is_dir() {
        shm.to_owned()
    } else {
        std::env::temp_dir()
    };
    std::thread::scope(|scope| {
        for seed in 1..=2_u64 {
            let scratch = place.join(format!("phalanx-mutation-{}-{seed}", std::process::id()));
            let (files, done) = (&files, &done);
            scope.spawn(move || {
                analyze_mutations(files, &scratch, done, seed * 0x9e37_79b9);
                std::fs::remove_file(&scratch).ok();
            });
        }
    });
    println!("{MUTATION_COUNT} mutations of {} captures", files.len());
}
