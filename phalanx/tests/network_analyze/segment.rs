//! The classes of segments against the truth.

use std::collections::BTreeMap;
use std::path::PathBuf;

use phalanx_range::range::KernelCounters;

use crate::packet::{self, RST, Way};
use crate::scenario::{self, Scenario};
use crate::stage::Evidence;
use crate::talk::Told;
use crate::truth::{Labels, Truth};
use crate::verdict::{self, KINDS, Score, Scores};

/// What the classes must reach at the receiver's tap.
const SHARE_MIN: f64 = 0.98;

/// Sums over the scenarios, at the receiver's tap.
#[derive(Default)]
struct Sums {
    phalanx: Scores,
    tshark: Scores,
    /// Frames where the sender's tap is not told exactly.
    at_sender: Vec<String>,
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn segments_are_what_they_are() {
    println!(
        "{:<24} {:<17} {:<8} {:<15} {:>8} {:>6}   {:<28} {:<28}",
        "scenario", "way", "tap", "kind", "segments", "truth", "phalanx", "tshark"
    );
    let mut sums = Sums::default();
    for scenario in scenario::faults() {
        compare(&scenario, &mut sums);
    }
    for (at, kind) in KINDS.iter().enumerate() {
        let (phalanx, tshark) = (sums.phalanx[at], sums.tshark[at]);
        println!(
            "all, at the receiver: {kind:<15} phalanx {}   tshark {}",
            show(&phalanx),
            show(&tshark)
        );
    }
    assert!(
        sums.at_sender.is_empty(),
        "at the sender: {:#?}",
        sums.at_sender
    );
    for (kind, score) in KINDS.iter().zip(&sums.phalanx) {
        assert!(score.right >= 100, "{kind}: too few to tell");
        let worst = score.precision().min(score.recall());
        assert!(worst >= SHARE_MIN, "{kind}: {score:?}");
    }
}

fn compare(scenario: &Scenario, sums: &mut Sums) {
    let (evidence, told) = run(scenario);
    let truth = Truth::of(&evidence);
    println!("{}: {}", scenario.name, told.socket.text);
    let captures = [&evidence.client_capture, &evidence.server_capture];
    let phalanx = captures.map(|capture| verdict::phalanx(capture));
    let tshark = captures.map(|capture| verdict::tshark(capture));
    let counters = [&evidence.client_counters, &evidence.server_counters];
    for way in Way::BOTH {
        let labels = &truth.ways[way as usize];
        let (sender, receiver) = match way {
            Way::ToServer => (0, 1),
            Way::ToClient => (1, 0),
        };
        for (tap, is_receiver, truth) in [
            (sender, false, &labels.at_sender),
            (receiver, true, &labels.at_receiver),
        ] {
            let claims = phalanx[tap].get(&way).cloned().unwrap_or_default();
            let own = claims.labels;
            let own_scores = verdict::scores(&own, truth);
            let other = tshark[tap].as_ref().map(|it| it.within(&truth.segments));
            let other_scores = other.map(|other| verdict::scores(&other, truth));
            let place = format!("{:<24} {:<17}", scenario.name, way.name());
            let tap_name = if is_receiver { "receiver" } else { "sender" };
            print(
                &format!("{place} {tap_name:<8}"),
                truth,
                &own_scores,
                other_scores,
            );
            wrong(&place, tap_name, &own, truth);
            if !is_receiver {
                print_kinds(&claims.classes, counters[way as usize]);
                let bad = own_scores.iter().any(|it| it.wrong + it.missed > 0);
                sums.at_sender.extend(bad.then(|| place.clone()));
                continue;
            }
            add(&mut sums.phalanx, &own_scores);
            add(&mut sums.tshark, &other_scores.unwrap_or_default());
        }
    }
}

/// Runs a scenario; once more where a reset ended its connection early: it was another one then.
fn run(scenario: &Scenario) -> (Evidence, Told) {
    const ATTEMPT_COUNT: usize = 3;
    for _ in 1..ATTEMPT_COUNT {
        let (evidence, told) = scenario.run();
        let captures = [&evidence.client_capture, &evidence.server_capture];
        let is_reset =
            |capture: &PathBuf| packet::read(capture).iter().any(|it| it.flags & RST != 0);
        if !captures.into_iter().any(is_reset) {
            return (evidence, told);
        }
        println!("{}: reset, and so void", scenario.name);
    }
    scenario.run()
}

fn add(sums: &mut Scores, scores: &Scores) {
    let pairs = sums.iter_mut().zip(scores);
    pairs.for_each(|(sum, score)| sum.add(*score));
}

fn print(place: &str, truth: &Labels, own: &Scores, other: Option<Scores>) {
    let sets = [&truth.retransmissions, &truth.reordered, &truth.duplicates];
    for (at, kind) in KINDS.iter().enumerate() {
        let shown = [Some(own[at]), other.map(|other| other[at])];
        let is_quiet = |score: &Score| score.right + score.wrong + score.missed == 0;
        if shown.iter().flatten().all(is_quiet) {
            continue;
        }
        let other = other.map_or_else(|| "-".to_owned(), |other| show(&other[at]));
        println!(
            "{place} {kind:<15} {:>8} {:>6}   {:<28} {other:<28}",
            truth.segments.len(),
            sets[at].len(),
            show(&own[at]),
        );
    }
}

/// Why segments were sent again, beside what the sender's kernel says: shown, not judged, since it
/// counts by its own state, and probes whether they repeat something or not.
fn print_kinds(classes: &BTreeMap<String, usize>, kernel: &KernelCounters) {
    let kernel: Vec<String> = [
        "TCPFastRetrans",
        "TCPSlowStartRetrans",
        "TCPTimeouts",
        "TCPLossProbes",
        "TCPLostRetransmit",
        "TCPDSACKRecv",
        "TCPSpuriousRTOs",
    ]
    .iter()
    .map(|name| (name, kernel.get(&format!("TcpExt.{name}"))))
    .filter(|(_, count)| *count > 0)
    .map(|(name, count)| format!("{name} {count}"))
    .collect();
    let claimed: Vec<String> = classes
        .iter()
        .filter(|(class, _)| *class != "new")
        .map(|(class, count)| format!("{class} {count}"))
        .collect();
    if !kernel.is_empty() || !claimed.is_empty() {
        println!("  {}; kernel: {}", claimed.join(", "), kernel.join(", "));
    }
}

fn show(score: &Score) -> String {
    let Score {
        right,
        wrong,
        missed,
    } = score;
    format!(
        "{:.3} {:.3} (+{right} !{wrong} -{missed})",
        score.precision(),
        score.recall()
    )
}

/// Names the first frames that are told wrongly.
fn wrong(place: &str, tap: &str, claimed: &Labels, truth: &Labels) {
    const NAMED_MAX: usize = 12;
    let pairs = [
        (&claimed.retransmissions, &truth.retransmissions),
        (&claimed.reordered, &truth.reordered),
        (&claimed.duplicates, &truth.duplicates),
    ];
    for (kind, (claimed, truth)) in KINDS.iter().zip(pairs) {
        for (what, frames) in [
            ("wrongly", claimed.difference(truth)),
            ("not", truth.difference(claimed)),
        ] {
            let frames: Vec<u64> = frames.copied().take(NAMED_MAX).collect();
            if !frames.is_empty() {
                println!("  {place} {tap}: {what} called {kind}: frames {frames:?}");
            }
        }
    }
}
