//! Clocks of hops that are set off, too fast or too slow, and put right in the middle: what the
//! report says of them, against how the captures were retimed.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[path = "hops/clock.rs"]
mod clock;
#[path = "network/folder.rs"]
mod folder;
#[path = "hops/made.rs"]
mod made;
#[path = "hops/told.rs"]
mod told;

use clock::{Case, Shown};
use made::{Made, retime};
use phalanx_range::retiming::{Retiming, Step};
use phalanx_range::synthesis::{HopSynthesis, LegCourse, Shares};

const HOUR_NS: i64 = 3_600_000_000_000;
/// Long enough to tell 2 ppm.
const SPAN_NS: i128 = 60_000_000_000;
/// What a response takes, and the pause after it.
const REQUESTS: u32 = 2_000;
const LEGS: [LegCourse; 2] = [
    LegCourse {
        forward_ms: 2.0,
        reverse_ms: 3.0,
        jitter_ms: 0.4,
        loss: 0.001,
        reorder: 0.0,
        duplicate: 0.0,
    },
    LegCourse {
        forward_ms: 7.0,
        reverse_ms: 11.0,
        jitter_ms: 1.0,
        loss: 0.001,
        reorder: 0.0,
        duplicate: 0.0,
    },
];

fn none() -> Shares {
    Shares {
        lookup: 0.0,
        datagrams: 0.0,
        echo: 0.0,
        relayed: 0.0,
        midstream: 0.0,
        no_timestamps: 0.0,
        no_identification: 0.0,
        ipv6: 0.0,
        translated: 0.0,
        redirected: 0.0,
        shifted: 0.0,
        clamped: 0.0,
        equal_payload: 0.0,
        reused: 0.0,
        lone: 0.0,
        detour: 0.0,
    }
}

/// A minute of small requests over three hops, in three connections.
fn steady(tag: &str) -> Made {
    let synthesis = HopSynthesis {
        conversations: 3,
        legs: LEGS.to_vec(),
        duration_ms: 50.0,
        requests: (REQUESTS, REQUESTS),
        pause_ms: 7.0,
        shares: none(),
        ..HopSynthesis::default()
    };
    Made::new(tag, &synthesis)
}

fn ahead(offset_ns: i64, skew_ppm: f64) -> Retiming {
    Retiming {
        offset_ns,
        skew_ppm,
        step: None,
    }
}

fn stepped(offset_ns: i64, by_ns: i64) -> Retiming {
    Retiming {
        offset_ns,
        skew_ppm: 0.0,
        step: Some(Step {
            after_ns: 31_000_000_000,
            by_ns,
        }),
    }
}

/// Retimes the hops, and gives back what is wrong with what is told of their clocks.
fn judge(made: &Made, what: &str, retimings: [Retiming; 3]) -> Vec<String> {
    let names = ["a0.pcap", "a1.pcap", "a2.pcap"];
    let first_ns = |hop: usize| {
        let own = made.truth.flows.iter().filter(|flow| flow.hop == hop);
        i128::from(own.map(|flow| flow.first_ns).min().unwrap())
    };
    let shown: Vec<Shown> = (0..3)
        .map(|hop| Shown {
            retiming: retimings[hop],
            first_ns: first_ns(hop),
        })
        .collect();
    for (hop, name) in names.iter().enumerate() {
        retime(
            &retimings[hop],
            &made.path(&made.files[hop]),
            &made.path(name),
        );
    }
    let report = told::report(&made.folder.0, &names);
    let mut faults = Vec::new();
    let mut compared = 0;
    for hop in 0..3 {
        let id = format!("a{hop}");
        let Some(clock) = report.clock(&id) else {
            faults.push(format!("{what}: no clock of {id}"));
            continue;
        };
        let other: Option<usize> = clock
            .reference
            .strip_prefix('a')
            .and_then(|it| it.parse().ok());
        let Some(reference) = other.filter(|it| *it < 3) else {
            faults.push(format!(
                "{what}: the reference of {id} is {:?}",
                clock.reference
            ));
            continue;
        };
        if reference == hop {
            continue;
        }
        let between = &LEGS[hop.min(reference)..hop.max(reference)];
        let round_trip_ms: f64 = between
            .iter()
            .map(|leg| leg.forward_ms + leg.reverse_ms)
            .sum();
        let case = Case {
            what: &format!("{what}, {id}"),
            clock,
            hop: shown[hop],
            reference: shown[reference],
            last_ns: shown[0].first_ns + SPAN_NS,
            round_trip_ns: round_trip_ms * 1e6,
        };
        faults.extend(case.judge());
        compared += 1;
    }
    if compared != 2 {
        faults.push(format!("{what}: {compared} clocks compared, there are 2"));
    }
    faults
}

#[test]
fn offsets_and_skews_are_found_within_their_error() {
    let made = steady("clock");
    let own = Retiming::default();
    let cases = [
        ("none", [own; 3]),
        ("an hour ahead", [own, ahead(HOUR_NS, 0.0), own]),
        ("an hour behind", [own, own, ahead(-HOUR_NS, 0.0)]),
        (
            "both off",
            [own, ahead(-3_700_000, 0.0), ahead(250_000_000, 0.0)],
        ),
        ("too fast", [own, ahead(0, 100.0), own]),
        ("too slow", [own, ahead(1_000_000, -100.0), ahead(40, 17.3)]),
        (
            "off and too fast",
            [own, ahead(HOUR_NS, 100.0), ahead(-HOUR_NS, -100.0)],
        ),
        ("the first one", [ahead(HOUR_NS, -42.0), own, own]),
        (
            "all",
            [
                ahead(-9_000_000, 5.0),
                ahead(77_000_000, -61.0),
                ahead(HOUR_NS / 2, 99.0),
            ],
        ),
    ];
    let faults: Vec<String> = cases
        .into_iter()
        .flat_map(|(what, retimings)| judge(&made, what, retimings))
        .collect();
    assert!(faults.is_empty(), "{} faults: {faults:#?}", faults.len());
}

#[test]
fn a_step_is_found() {
    let made = steady("step");
    let own = Retiming::default();
    let cases = [
        ("forward", [own, stepped(0, 50_000_000), own]),
        ("back", [own, own, stepped(HOUR_NS, -50_000_000)]),
        ("of the first one", [stepped(0, 50_000_000), own, own]),
    ];
    let faults: Vec<String> = cases
        .into_iter()
        .flat_map(|(what, retimings)| judge(&made, what, retimings))
        .collect();
    assert!(faults.is_empty(), "{} faults: {faults:#?}", faults.len());
}
