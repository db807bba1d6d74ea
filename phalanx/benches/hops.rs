//! How well `phalanx analyze` joins ten thousand conversations that three hops saw, and what that
//! takes; and how often the clocks of hops are told within their stated error.
#![allow(missing_docs)]
#![expect(clippy::unwrap_used, reason = "what fails ends the bench")]

use std::time::Instant;

#[path = "../tests/hops/association.rs"]
mod association;
#[path = "../tests/hops/clock.rs"]
mod clock;
#[path = "../tests/network/folder.rs"]
mod folder;
#[path = "../tests/hops/made.rs"]
mod made;
#[path = "../tests/hops/steady.rs"]
mod steady;
#[path = "../tests/hops/told.rs"]
mod told;

use association::judge;
use made::Made;
use phalanx_range::random::Random;
use phalanx_range::retiming::Retiming;
use phalanx_range::synthesis::{HopProtocol, HopSynthesis};

const CONVERSATIONS: u32 = 10_000;
/// Share of the conversations that must be joined, in percent.
const JOINED_MIN: f64 = 99.9;
/// Random clocks, ahead or behind by an hour at most, too fast or slow by 100 ppm at most.
const CLOCK_CASES: u32 = 20;
const OFFSET_MAX_NS: f64 = 3.6e12;
const SKEW_MAX_PPM: f64 = 100.0;

fn main() {
    join();
    compare_clocks();
}

fn join() {
    let synthesis = HopSynthesis {
        conversations: CONVERSATIONS,
        snap_bytes: 96,
        ..HopSynthesis::default()
    };
    let made = Made::new("bench", &synthesis);
    let start = Instant::now();
    let report = told::report(&made.folder.0, &made.names());
    let seconds = start.elapsed().as_secs_f64();
    let packets: u64 = made.truth.packets.iter().sum();
    let mut wrong = 0;
    for protocol in [HopProtocol::Tcp, HopProtocol::Udp, HopProtocol::Icmp] {
        let score = judge(&report, &made.truth, protocol);
        score.print(&format!("{protocol:?}"));
        wrong += score.wrong.len();
        let share = score.share() * 1e2;
        let joint = score.joint;
        row(
            &format!("joined of {joint} {protocol:?} conversations at three hops"),
            &format!("{share:.2} %"),
            &format!(">= {JOINED_MIN} %"),
            share >= JOINED_MIN,
        );
    }
    row("joined wrongly", &wrong.to_string(), "0", wrong == 0);
    println!("bench: {packets} packets of three hops in {seconds:.1} s | - | - | ok");
}

fn compare_clocks() {
    let made = steady::made("bench-clock");
    let mut random = Random::new(1, 1);
    let mut faults = Vec::new();
    for case in 0..CLOCK_CASES {
        let mut clock = || Retiming {
            offset_ns: ((random.unit() * 2.0 - 1.0) * OFFSET_MAX_NS) as i64,
            skew_ppm: (random.unit() * 2.0 - 1.0) * SKEW_MAX_PPM,
            step: None,
        };
        let retimings = [clock(), clock(), clock()];
        faults.extend(steady::judge(&made, &format!("clock {case}"), retimings));
    }
    faults.iter().for_each(|fault| println!("{fault}"));
    row(
        &format!("faults in {CLOCK_CASES} sets of random clocks, over a minute"),
        &faults.len().to_string(),
        "0",
        faults.is_empty(),
    );
}

fn row(what: &str, measured: &str, budget: &str, is_kept: bool) {
    let verdict = if is_kept { "ok" } else { "over" };
    println!("bench: {what} | {measured} | {budget} | {verdict}");
}
