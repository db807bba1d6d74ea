//! A minute of small requests over three hops, and what a report says of their clocks when the
//! captures are retimed.

#![allow(dead_code, reason = "each test uses a part of it")]

use phalanx_range::retiming::Retiming;
use phalanx_range::synthesis::{HopSynthesis, LegCourse, Shares};

use crate::clock::{Case, Shown};
use crate::made::{Made, retime};
use crate::told;

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

/// A minute of small requests over three hops, in two connections.
pub(crate) fn made(tag: &str) -> Made {
    let synthesis = HopSynthesis {
        conversations: 2,
        legs: LEGS.to_vec(),
        duration_ms: 50.0,
        requests: (REQUESTS, REQUESTS),
        pause_ms: 7.0,
        shares: none(),
        ..HopSynthesis::default()
    };
    Made::new(tag, &synthesis)
}

/// Retimes the hops, and gives back what is wrong with what is told of their clocks.
pub(crate) fn judge(made: &Made, what: &str, retimings: [Retiming; 3]) -> Vec<String> {
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
