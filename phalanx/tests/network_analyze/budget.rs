//! The time budget against the truth, for what is known from outside: how long the programs slept,
//! what the sender's kernel was held back by, when the link was out.

use std::collections::BTreeMap;

use crate::packet::{Packet, RST, SYN, Way};
use crate::scenario::{self, Scenario};
use crate::stage::Evidence;
use crate::talk::{Told, sum_ms};
use crate::truth::Truth;
use crate::verdict;

/// How far a bucket may be from the truth, as a share of it.
const OFF_MAX: f64 = 0.05;
/// Share of the wall time that may be unknown.
const UNKNOWN_MAX: f64 = 0.05;
/// Buckets are rounded to the microsecond at the worst; there are eleven.
const SUM_OFF_MAX_MS: f64 = 0.012;

/// Where a capture was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tap {
    Client,
    Server,
}

/// A bucket, at a tap, and its true size in milliseconds.
type Expected = (Tap, &'static str, f64);

/// What is known of a conversation.
type Expect = fn(&Told, &Truth) -> Vec<Expected>;

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn the_time_goes_where_it_went() {
    let mut faults = Vec::new();
    let cases: [(Scenario, Expect); 6] = [
        (scenario::turns(), turns),
        (scenario::stalls(), stalls),
        (scenario::small_window(), small_window),
        (scenario::small_buffer(), small_buffer),
        (scenario::pauses(), pauses),
        (scenario::outages(), outages),
    ];
    for (scenario, expect) in cases {
        let (evidence, told) = scenario.run();
        let truth = Truth::of(&evidence);
        println!("\n{}: {}", scenario.name, told.socket.text);
        let expected = expect(&told, &truth);
        faults.extend(compare(scenario.name, &evidence, &expected));
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

fn compare(name: &str, evidence: &Evidence, expected: &[Expected]) -> Vec<String> {
    let mut faults = Vec::new();
    for (tap, capture) in [
        (Tap::Client, &evidence.client_capture),
        (Tap::Server, &evidence.server_capture),
    ] {
        let (buckets, wall_ms) = verdict::budget(capture);
        let place = format!("{name}, at the {tap:?}");
        print(&place, &buckets, wall_ms);
        let sum_ms: f64 = buckets.values().sum();
        if (sum_ms - wall_ms).abs() > SUM_OFF_MAX_MS {
            faults.push(format!("{place}: {sum_ms} ms in buckets, of {wall_ms}"));
        }
        let unknown_ms = buckets["unknown"];
        if unknown_ms > UNKNOWN_MAX * wall_ms {
            faults.push(format!("{place}: {unknown_ms} ms unknown of {wall_ms}"));
        }
        for (_, bucket, truth_ms) in expected.iter().filter(|it| it.0 == tap) {
            let told_ms = buckets[*bucket];
            let off = (told_ms - truth_ms) / truth_ms;
            println!(
                "  {bucket:<18} truth {truth_ms:>9.1} ms, told {told_ms:>9.1} ms: {:+.1} %",
                off * 1e2
            );
            if off.abs() > OFF_MAX {
                faults.push(format!("{place}: {bucket} {told_ms} ms, truth {truth_ms}"));
            }
        }
    }
    faults
}

fn print(place: &str, buckets: &BTreeMap<String, f64>, wall_ms: f64) {
    let filled: Vec<String> = buckets
        .iter()
        .filter(|(_, value)| **value > 0.0)
        .map(|(bucket, value)| format!("{bucket} {value:.1}"))
        .collect();
    println!("{place}: {wall_ms:.1} ms: {}", filled.join(", "));
}

fn at_both(bucket: &'static str, truth_ms: f64) -> [Expected; 2] {
    [
        (Tap::Client, bucket, truth_ms),
        (Tap::Server, bucket, truth_ms),
    ]
}

/// What both programs slept.
fn turns(told: &Told, _: &Truth) -> Vec<Expected> {
    let thought = at_both("server_think", sum_ms(&told.thinks));
    let idled = at_both("client_idle", sum_ms(&told.idles));
    [thought, idled].concat()
}

/// From when the reader's kernel told that there was no room, to when the reader woke up: for what
/// comes between falling asleep and being full, the window is open.
fn stalls(told: &Told, truth: &Truth) -> Vec<Expected> {
    let zero = |packet: &&Packet| {
        packet.way == Way::ToClient && packet.window == 0 && packet.flags & (SYN | RST) == 0
    };
    let closed: Vec<u64> = truth
        .at_server
        .iter()
        .filter(zero)
        .map(|it| it.time_ns)
        .collect();
    let told_zero = told.stalls.iter().filter_map(|stall| {
        let first_ns = closed
            .iter()
            .find(|at| (stall.from_ns..stall.to_ns).contains(at))?;
        Some((stall.to_ns - first_ns) as f64 / 1e6)
    });
    let zero_ms: f64 = told_zero.sum();
    println!(
        "{} stalls, {:.1} ms; closed for {zero_ms:.1} ms",
        told.stalls.len(),
        sum_ms(&told.stalls)
    );
    at_both("zero_window", zero_ms).to_vec()
}

/// The sender's kernel says how long the peer's window held it back.
fn small_window(told: &Told, _: &Truth) -> Vec<Expected> {
    at_both("receiver_window", told.socket.window_limited_ms).to_vec()
}

/// The sender's kernel, asked each millisecond, had sent all it was given, with room in both
/// windows, while the writer waited for its buffer.
fn small_buffer(told: &Told, _: &Truth) -> Vec<Expected> {
    println!("{:?}", told.limits);
    at_both("sender_limited", told.limits.buffer_ms).to_vec()
}

/// What the writer slept. Until all that was written is acknowledged, the path has its part of it.
fn pauses(told: &Told, truth: &Truth) -> Vec<Expected> {
    let acknowledged = |packet: &&Packet| packet.way == Way::ToClient && packet.length == 0;
    let acks: Vec<u64> = truth
        .at_client
        .iter()
        .filter(acknowledged)
        .map(|packet| packet.time_ns)
        .collect();
    let idle_ms = told.pauses.iter().map(|pause| {
        let mut within = acks
            .iter()
            .filter(|at| (pause.from_ns..pause.to_ns).contains(at));
        let from_ns = within.next_back().copied().unwrap_or(pause.from_ns);
        (pause.to_ns - from_ns) as f64 / 1e6
    });
    at_both("sender_limited", idle_ms.sum()).to_vec()
}

/// From the sending of what was lost to the acknowledgement of its repetition. Only the sender's
/// tap can know: to the receiver's, nothing was lost, and nothing came.
fn outages(_: &Told, truth: &Truth) -> Vec<Expected> {
    let lost = &truth.ways[Way::ToServer as usize].lost;
    let mut repaired_ms = 0.0;
    let mut packets = truth.at_client.iter();
    while let Some(first) = packets.find(|it| it.length > 0 && lost.contains(&it.number)) {
        let repaired = packets
            .by_ref()
            .find(|it| it.way == Way::ToClient && it.acknowledgement >= first.end())
            .unwrap();
        repaired_ms += (repaired.time_ns - first.time_ns) as f64 / 1e6;
    }
    vec![(Tap::Client, "timeout_recovery", repaired_ms)]
}
