//! The proof: for hundreds of expressions drawn from the grammar, the frames we select are the
//! frames tcpdump selects, every one, on every capture.

#[path = "support/corpus.rs"]
mod corpus;
#[path = "support/expression.rs"]
mod expression;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use corpus::{Corpus, Frame};
use expression::{CONSTRUCTS, Generator, Sample};
use phalanx_engine::filter::{Decision, Filter, LinkType};

const SEED: u64 = 20_240_607;

/// One expression on one file: what both selected.
struct Outcome {
    partial: bool,
    /// Frames cut too short to decide that tcpdump's optimiser lets through.
    reordered: usize,
    mismatch: Option<String>,
}

/// A capture per link type in a folder of its own, removed when dropped.
struct Merged {
    folder: PathBuf,
    files: BTreeMap<LinkType, PathBuf>,
}

impl Merged {
    fn write(corpus: &Corpus, name: &str) -> Self {
        let id = std::process::id();
        let folder = std::env::temp_dir().join(format!("phalanx-filter-{name}-{id}"));
        std::fs::create_dir_all(&folder).expect("create folder");
        let write = |(link, frames): (&LinkType, &Vec<Frame>)| {
            let path = folder.join(format!("{}.pcap", link.number()));
            corpus::write_pcap(&path, *link, frames);
            (*link, path)
        };
        let files = corpus.iter().map(write).collect();
        Self { folder, files }
    }
}

impl Drop for Merged {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.folder).ok();
    }
}

fn samples(corpus: &Corpus, count: usize) -> Vec<Sample> {
    let mut generator = Generator::new(&corpus[&LinkType::Ethernet], SEED);
    let main = CONSTRUCTS.iter().cycle();
    main.take(count)
        .map(|main| generator.sample(main))
        .collect()
}

fn compare(text: &str, link: LinkType, path: &Path, frames: &[Frame]) -> Outcome {
    let filter = Filter::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    let program = filter.compile(link);
    let ours: Vec<_> = match &program {
        Ok(program) => frames
            .iter()
            .map(|f| program.decide(&f.bytes, f.wire_length))
            .collect(),
        Err(_) => vec![Decision::NoMatch; frames.len()],
    };
    let (mut mismatch, mut reordered) = (None, 0);
    // Without its optimiser tcpdump must agree on every frame; that is asked only where the
    // optimised answer differs, which it may only for frames cut too short.
    for flags in [&[][..], &["-O"]] {
        if !flags.is_empty() && reordered == 0 {
            continue;
        }
        let theirs = match corpus::tcpdump_selects(path, flags, text) {
            Ok(indices) if program.is_ok() => indices,
            Err(_) if program.is_err() => continue,
            other => {
                let refused = other.map(|indices| indices.len());
                mismatch = Some(format!(
                    "{text} on {link:?}: {program:?}, tcpdump {refused:?}"
                ));
                continue;
            }
        };
        let mut selected = vec![false; frames.len()];
        theirs.iter().for_each(|index| selected[*index] = true);
        for (index, (ours, theirs)) in ours.iter().zip(selected).enumerate() {
            match (*ours == Decision::Match, theirs) {
                (ours, theirs) if ours == theirs => {}
                (false, true) if flags.is_empty() && *ours == Decision::Undecided => reordered += 1,
                _ => {
                    let Frame { bytes, wire_length } = &frames[index];
                    mismatch.get_or_insert_with(|| {
                        let frame = format!("{index} of {wire_length} bytes: {bytes:02x?}");
                        format!("{text} {flags:?} on {link:?}: ours {ours:?}, frame {frame}")
                    });
                }
            }
        }
    }
    let matching = ours
        .iter()
        .filter(|decision| **decision == Decision::Match)
        .count();
    Outcome {
        partial: (1..frames.len()).contains(&matching),
        reordered,
        mismatch,
    }
}

/// Compares all samples on all files; returns a table by construct, or the mismatches.
fn prove(corpus: &Corpus, samples: &[Sample], name: &str) -> (String, f64, Vec<String>) {
    let merged = Merged::write(corpus, name);
    let reordered = AtomicUsize::new(0);
    let run = |samples: &[Sample]| -> Vec<(bool, Vec<String>)> {
        let outcome = |sample: &Sample| {
            let (mut partial, mut mismatches) = (false, Vec::new());
            for (link, path) in &merged.files {
                let outcome = compare(&sample.text, *link, path, &corpus[link]);
                partial |= *link == LinkType::Ethernet && outcome.partial;
                mismatches.extend(outcome.mismatch);
                reordered.fetch_add(outcome.reordered, Ordering::Relaxed);
            }
            (partial, mismatches)
        };
        samples.iter().map(outcome).collect()
    };
    let (left, right) = samples.split_at(samples.len() / 2);
    let outcomes = std::thread::scope(|scope| {
        let left = scope.spawn(|| run(left));
        let right = run(right);
        let mut all = left.join().expect("no panic");
        all.extend(right);
        all
    });
    let mut table = format!(
        "{:<24}{:>12}{:>10}{:>12}\n",
        "construct", "expressions", "partial", "mismatches"
    );
    for construct in CONSTRUCTS {
        let rows: Vec<_> = samples
            .iter()
            .zip(&outcomes)
            .filter(|(sample, _)| sample.constructs.contains(construct))
            .map(|(_, outcome)| outcome)
            .collect();
        let partial = rows.iter().filter(|(partial, _)| *partial).count();
        let wrong = rows
            .iter()
            .filter(|(_, mismatches)| !mismatches.is_empty())
            .count();
        writeln!(
            table,
            "{construct:<24}{:>12}{partial:>10}{wrong:>12}",
            rows.len()
        )
        .expect("write to a string");
        assert!(
            rows.len() >= 20 || samples.len() < 500,
            "{construct}: only {}",
            rows.len()
        );
    }
    let partial = outcomes.iter().filter(|(partial, _)| *partial).count();
    let share = partial as f64 / samples.len() as f64;
    let frames: Vec<_> = corpus
        .iter()
        .map(|(link, f)| format!("{link:?} {}", f.len()))
        .collect();
    writeln!(
        table,
        "{} expressions, {:.0} % match some but not all Ethernet frames; frames: {}; {} answers \
         on cut frames differ once tcpdump's optimiser has reordered the tests",
        samples.len(),
        share * 100.0,
        frames.join(", "),
        reordered.into_inner(),
    )
    .expect("write to a string");
    (
        table,
        share,
        outcomes
            .into_iter()
            .flat_map(|(_, mismatches)| mismatches)
            .collect(),
    )
}

#[test]
fn frames_selected_are_those_of_tcpdump_on_made_captures() {
    if !corpus::has_tcpdump() {
        return;
    }
    let corpus = corpus::made_here();
    let (table, _, mismatches) = prove(&corpus, &samples(&corpus, 240), "made");
    println!("{table}");
    assert!(
        mismatches.is_empty(),
        "{}:\n{}",
        mismatches.len(),
        mismatches.join("\n")
    );
}

#[test]
fn frames_selected_are_those_of_tcpdump_on_shared_captures() {
    let Some(folder) = corpus::shared_captures().filter(|_| corpus::has_tcpdump()) else {
        return;
    };
    let (corpus, refused) = corpus::read_folder(&folder);
    for (reason, files) in &refused {
        println!("refused: {reason}: {}", files.join(" "));
    }
    let (table, share, mismatches) = prove(&corpus, &samples(&corpus, 600), "shared");
    println!("{table}");
    assert!(
        mismatches.is_empty(),
        "{}:\n{}",
        mismatches.len(),
        mismatches.join("\n")
    );
    assert!(share >= 0.6, "only {share} match some but not all frames");
}
