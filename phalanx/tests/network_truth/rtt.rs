//! Round-trip times against those of a simultaneous tcpdump of the same interface.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use phalanx_common::limits::RTT_RANGE_SHIFT;
use phalanx_range::Range;
use phalanx_range::interface::Offload;
use phalanx_range::traffic::{Program, RequestResponse, Server, Upload, run};

use super::capture::Capture;
use super::compare::{Agreement, compare, off_percent};
use super::reference::{self, Reference};
use super::watch::Watch;
use super::{alone, build, impair};

/// How far samples may be from their references, at the median and the 95th percentile, in
/// microseconds: hook and tap lie apart by the run of the programs, of tcpdump's copy, and by what
/// interrupts a busy machine in between; the programs' clock ticks each 1.024 us.
const DEVIATION_US: [f64; 2] = [20.0, 200.0];

/// What is asked of a case.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Bounds {
    /// Share of the reference's samples that must be found where few segments are outstanding.
    few: f64,
    /// Share of the round trips with a sample of the reference that must have one.
    round_trips: f64,
    /// How far the median may be off, in percent.
    p50_percent: f64,
    /// How far the 95th percentile may be off, in percent.
    p95_percent: f64,
}

/// Fewest samples whose quantiles are judged.
const SAMPLE_COUNT_MIN: usize = 20;

/// What is wanted of every case.
const WANTED: Bounds = Bounds {
    few: 0.99,
    round_trips: 1.0,
    p50_percent: 1.0,
    p95_percent: 5.0,
};
/// A sender that fills a queue has hundreds of segments outstanding, of which some are timed: what
/// the queue does meanwhile is a matter of chance for quantiles of few round trips.
const REACHED_BULK: Bounds = Bounds {
    round_trips: 0.9,
    p50_percent: 5.0,
    p95_percent: 15.0,
    ..WANTED
};
/// With losses the window is small: most segments have a slot.
const REACHED_LOSSY_BULK: Bounds = Bounds {
    round_trips: 0.95,
    p50_percent: 2.0,
    p95_percent: 10.0,
    ..WANTED
};
/// On a short path the queue that a bulk transfer makes is most of the round trip, and it grows
/// and falls within one.
const REACHED_SHORT_BULK: Bounds = Bounds {
    round_trips: 0.9,
    p50_percent: 40.0,
    p95_percent: 40.0,
    ..WANTED
};
/// Packets one by one: an acknowledgement of many at once may end outside of the ranges timed.
const REACHED_PACKETS: Bounds = Bounds {
    round_trips: 0.6,
    p50_percent: 5.0,
    p95_percent: 15.0,
    ..WANTED
};
/// The same with losses.
const REACHED_LOSSY_PACKETS: Bounds = Bounds {
    round_trips: 0.95,
    p50_percent: 2.0,
    p95_percent: 10.0,
    ..WANTED
};
/// Hook and tap lie apart by some 4 us, which is 1 % of the path where the machine is busy.
const REACHED_SHORT: Bounds = Bounds {
    p50_percent: 5.0,
    p95_percent: 15.0,
    ..WANTED
};

/// Time stamps of captures are taken where packets reach the stack's taps, not where they are
/// queued for it, which may be a while before. It is a setting of the whole machine.
struct Stamps(String);

const STAMPS: &str = "/proc/sys/net/core/netdev_tstamp_prequeue";

impl Stamps {
    fn at_the_tap() -> Self {
        let before = std::fs::read_to_string(STAMPS).unwrap();
        std::fs::write(STAMPS, "0").unwrap();
        Self(before)
    }
}

impl Drop for Stamps {
    fn drop(&mut self) {
        let _ = std::fs::write(STAMPS, &self.0);
    }
}

/// A capture file, removed when dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new(tag: &str) -> Self {
        let name = format!("phalanx-truth-{}-{tag}.pcap", std::process::id());
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// One measurement: traffic through a path.
struct Case {
    name: &'static str,
    delay_ms: f64,
    /// Loss towards the server and back.
    loss: [f64; 2],
    program: Program,
    /// What is reached; less than [`WANTED`] is a known miss, and said so.
    bounds: Bounds,
}

impl Case {
    const fn new(name: &'static str, delay_ms: f64, loss: [f64; 2], program: Program) -> Self {
        let bounds = WANTED;
        Self {
            name,
            delay_ms,
            loss,
            program,
            bounds,
        }
    }

    /// A case whose bounds are those reached.
    const fn reaches(self, bounds: Bounds) -> Self {
        Self { bounds, ..self }
    }
}

fn request_response(connections: u32, requests: u32) -> Program {
    Program::RequestResponse(RequestResponse {
        connections,
        requests,
        ..RequestResponse::default()
    })
}

fn upload(bytes: u64) -> Program {
    Program::Upload(Upload {
        bytes,
        ..Upload::default()
    })
}

/// Runs a case under the watch and a tcpdump; what was sent by the client and by the server.
fn measure(range: &Range, watch: &Watch, case: &Case) -> [Agreement; 2] {
    impair(range, case.delay_ms, case.loss);
    let (client, server) = (range.host("client").unwrap(), range.host("server").unwrap());
    let service = server.enter(|| Server::start(0)).unwrap().unwrap();
    let target = SocketAddr::new(server.ipv4().unwrap().into(), service.port());
    let scratch = Scratch::new("rtt");
    watch.take();
    let capture = Capture::start(range, "client", "to-edge", &scratch.0);
    let outcome = client
        .enter(|| run(&case.program, target))
        .unwrap()
        .unwrap();
    assert_eq!(
        (outcome.failed, &outcome.error),
        (0, &None),
        "{}",
        case.name
    );
    capture.finish();
    let updates = watch.take();
    let reference: Reference = reference::read(&scratch.0);
    let port = service.port();
    [
        compare(&updates, &reference, |way| way.1.port() == port),
        compare(&updates, &reference, |way| way.0.port() == port),
    ]
}

/// What does not hold of a case.
struct Miss {
    text: String,
    /// It may never happen. What else does not hold is a matter of chance as well: what the machine
    /// does meanwhile.
    is_never_allowed: bool,
}

/// What does not hold of a case. Median and 95th percentile are for the way across the path; what
/// the other end sent is acknowledged at once, within some ticks of the clock.
fn misses(case: &Case, bounds: Bounds, [sent, received]: &[Agreement; 2]) -> Vec<Miss> {
    let mut misses = Vec::new();
    for (way, it) in [("sent", sent), ("received", received)] {
        let (ambiguous, by_timestamp) = (&it.ambiguous, it.by_timestamp);
        let wrong = [
            (ambiguous.is_empty(), format!("no samples: {ambiguous:#?}")),
            (
                by_timestamp.1 == 0,
                format!("by timestamp: {by_timestamp:?}"),
            ),
        ];
        let wrong = wrong.into_iter().filter(|(holds, _)| !holds);
        misses.extend(wrong.map(|(_, what)| Miss {
            text: format!("{}: {way}: {what}", case.name),
            is_never_allowed: true,
        }));
    }
    let mut expect = |holds: bool, what: String| {
        if !holds {
            misses.push(Miss {
                text: format!("{}: {what}", case.name),
                is_never_allowed: false,
            });
        }
    };
    // What is sent within a small part of the round trip is timed as one.
    let range_us = case.delay_ms * 2e3 / f64::from(1 << RTT_RANGE_SHIFT);
    for (way, it) in [("sent", sent), ("received", received)] {
        let [few, round_trips] = [it.few, it.round_trips].map(share);
        expect(
            few >= bounds.few,
            format!("{way}: few outstanding: {few:.3}"),
        );
        expect(
            round_trips >= bounds.round_trips,
            format!("{way}: round trips: {round_trips:.3}"),
        );
        let off = it.deviation_us;
        // Of a few samples, as those of a handshake, there are no quantiles.
        let is_judged = it.measured_count >= SAMPLE_COUNT_MIN;
        expect(
            !is_judged
                || off.0 <= DEVIATION_US[0] + range_us && off.1 <= DEVIATION_US[1] + range_us,
            format!("{way}: deviation: {off:?} us"),
        );
    }
    expect(
        sent.measured_count >= SAMPLE_COUNT_MIN,
        format!("{} samples", sent.measured_count),
    );
    let [p50, p95] = [sent.p50, sent.p95].map(off_percent);
    expect(p50 <= bounds.p50_percent, format!("p50 off by {p50:.2} %"));
    expect(p95 <= bounds.p95_percent, format!("p95 off by {p95:.2} %"));
    misses
}

fn share((all, found): (usize, usize)) -> f64 {
    if all == 0 {
        1.0
    } else {
        found as f64 / all as f64
    }
}

/// Measures a case once, or three times where it does not hold: the machine may stall once. What
/// does not hold most of the times, or may never happen.
fn measure_often(range: &Range, watch: &Watch, case: &Case) -> Vec<String> {
    let mut failures = Vec::new();
    let mut failed_count = 0;
    for _ in 0..3 {
        let agreements = measure(range, watch, case);
        for (way, agreement) in ["sent", "recv"].into_iter().zip(&agreements) {
            agreement.print(case.name, way);
        }
        for miss in misses(case, WANTED, &agreements) {
            println!("MISS {}", miss.text);
        }
        let missed = misses(case, case.bounds, &agreements);
        if missed.is_empty() && failures.is_empty() {
            return Vec::new();
        }
        let is_over = missed.iter().any(|miss| miss.is_never_allowed);
        failed_count += usize::from(!missed.is_empty());
        failures.extend(missed.into_iter().map(|miss| miss.text));
        if is_over {
            return failures;
        }
    }
    if failed_count < 2 {
        failures.clear();
    }
    failures
}

/// Measures all cases and prints the table before it judges.
fn measure_all(range: &Range, cases: &[Case]) {
    let _stamps = Stamps::at_the_tap();
    let watch = Watch::start(range, "client", "to-edge", Duration::ZERO);
    println!("{}", Agreement::HEADER);
    let mut failures = Vec::new();
    for case in cases {
        failures.extend(measure_often(range, &watch, case));
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn rtt_of_a_path_of_40_ms_without_and_with_loss() {
    let _alone = alone();
    let range = build();
    let case = |name, loss, program| Case::new(name, 20.0, loss, program);
    let requests = || request_response(8, 60);
    let bulk = || upload(2_000_000);
    measure_all(
        &range,
        &[
            case("40 ms, requests", [0.0, 0.0], requests()),
            case("40 ms, requests, 2 % one way", [0.02, 0.0], requests()),
            case("40 ms, requests, 2 % both ways", [0.02, 0.02], requests()),
            // Long enough for its quantiles to be of many round trips.
            case("40 ms, bulk", [0.0, 0.0], upload(80_000_000)).reaches(REACHED_BULK),
            case("40 ms, bulk, 2 % one way", [0.02, 0.0], bulk()).reaches(REACHED_LOSSY_BULK),
            case("40 ms, bulk, 2 % both ways", [0.02, 0.02], bulk()).reaches(REACHED_LOSSY_BULK),
        ],
    );
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn rtt_of_a_path_of_a_fifth_of_a_millisecond() {
    let _alone = alone();
    let range = build();
    let case = |name, loss, program| Case::new(name, 0.1, loss, program);
    let requests = request_response(1, 2_000);
    measure_all(
        &range,
        &[
            case("0.2 ms, requests", [0.0, 0.0], requests).reaches(REACHED_SHORT),
            case("0.2 ms, bulk", [0.0, 0.0], upload(40_000_000)).reaches(REACHED_SHORT_BULK),
            case("0.2 ms, bulk, 2 %", [0.02, 0.02], upload(2_000_000)).reaches(REACHED_SHORT_BULK),
        ],
    );
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn rtt_where_segments_are_packets() {
    let _alone = alone();
    let range = build();
    // Without the offloads of the device alone, the stack would cut super-segments up between
    // hook and tap; so TCP makes none.
    let one = ["ip", "link", "set", "to-edge", "gso_max_segs", "1"];
    range.host("client").unwrap().exec(&one).unwrap();
    for (host, interface) in [("client", "to-edge"), ("edge", "to-client")] {
        let none = Offload {
            tso: Some(false),
            gso: Some(false),
            gro: Some(false),
            ..Offload::default()
        };
        range
            .host(host)
            .unwrap()
            .set_offload(interface, none)
            .unwrap();
    }
    let case = |name, loss, program| Case::new(name, 20.0, loss, program);
    // 5 MB/s: some 140 segments are outstanding.
    let paced = Program::Upload(Upload {
        bytes: 15_000_000,
        write_chunk_bytes: 50_000,
        write_pause_ms: 10.0,
        ..Upload::default()
    });
    let bulk = || upload(2_000_000);
    measure_all(
        &range,
        &[
            case(
                "40 ms, packets, requests",
                [0.0, 0.0],
                request_response(8, 40),
            ),
            case("40 ms, packets, paced", [0.0, 0.0], paced).reaches(REACHED_PACKETS),
            case("40 ms, packets, bulk", [0.0, 0.0], upload(20_000_000)).reaches(REACHED_PACKETS),
            case("40 ms, packets, 2 % both ways", [0.02, 0.02], bulk())
                .reaches(REACHED_LOSSY_PACKETS),
        ],
    );
}
