//! The parser over real captures and mutations of them: the invariants, and etherparse as a second
//! opinion.

#[path = "support/frames.rs"]
mod frames;
#[path = "support/invariant.rs"]
mod invariant;

use std::collections::BTreeMap;

use frames::{Frame, mutated, read_folder, shared_captures};
use phalanx_common::packet::LinkKind;

/// Mutated frames that are parsed; the seed is fixed, so that a failure repeats.
const MUTATION_COUNT: usize = 100_000;
const MUTATION_SEED: u64 = 20_261;

fn check(frame: &Frame) -> Option<(LinkKind, bool)> {
    let kind = LinkKind::from_linktype(frame.linktype)?;
    let result =
        std::panic::catch_unwind(|| invariant::check(&frame.bytes, kind, frame.wire_length));
    let Ok((_, full)) = result else {
        panic!(
            "{} frame {}: linktype {}, wire length {}, bytes {:02x?}",
            frame.file, frame.number, frame.linktype, frame.wire_length, frame.bytes
        );
    };
    Some((kind, full.is_ok()))
}

#[test]
fn invariants_hold_over_all_captures() {
    let Some(folder) = shared_captures("invariants_hold_over_all_captures") else {
        return;
    };
    let mut parsed = BTreeMap::<&str, usize>::new();
    let frames = read_folder(&folder);
    for frame in &frames {
        let class = match check(frame) {
            None => "unknown link",
            Some((_, true)) => "parsed",
            Some((_, false)) => "unparsed",
        };
        *parsed.entry(class).or_default() += 1;
    }
    println!("{} frames: {parsed:?}", frames.len());
    assert!(parsed["parsed"] * 10 >= frames.len() * 8, "{parsed:?}");
}

#[test]
fn invariants_hold_over_mutated_captures() {
    let Some(folder) = shared_captures("invariants_hold_over_mutated_captures") else {
        return;
    };
    let frames: Vec<_> = read_folder(&folder)
        .into_iter()
        .filter(|frame| LinkKind::from_linktype(frame.linktype).is_some())
        .collect();
    let parsed = mutated(&frames, MUTATION_COUNT, MUTATION_SEED)
        .filter(|frame| check(frame).is_some_and(|(_, is_parsed)| is_parsed))
        .count();
    println!("{MUTATION_COUNT} mutated frames, {parsed} of them parsed");
    // Mutations that only ever destroy the first header would test little.
    assert!(parsed * 5 >= MUTATION_COUNT, "{parsed}");
}
