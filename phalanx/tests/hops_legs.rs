//! What each leg lost, let overtake and copied, in many synthetic conversations over six
//! hops, against the truth.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[path = "network/folder.rs"]
mod folder;
#[path = "hops/legs.rs"]
mod legs;
#[path = "hops/made.rs"]
mod made;
#[path = "hops/told.rs"]
mod told;

use made::Made;
use phalanx_range::synthesis::{HopSynthesis, LegCourse, Shares};

/// How many faults a message shows.
const SHOWN_MAX: usize = 12;

fn check(tag: &str, leg: LegCourse, shares: Shares) {
    let synthesis = HopSynthesis {
        conversations: 150,
        legs: vec![leg; 5],
        requests: (4, 12),
        pause_ms: 15.0,
        shares: Shares {
            lookup: 0.0,
            datagrams: 0.0,
            echo: 0.0,
            reused: 0.0,
            lone: 0.0,
            detour: 0.0,
            ..shares
        },
        ..HopSynthesis::default()
    };
    let made = Made::new(&format!("legs-{tag}"), &synthesis);
    let report = told::report(&made.folder.0, &made.names());
    let faults = legs::judge(&report, &made.truth);
    let shown = &faults[..faults.len().min(SHOWN_MAX)];
    assert!(
        faults.is_empty(),
        "{tag}: {} faults: {shown:#?}",
        faults.len()
    );
}

fn course() -> LegCourse {
    LegCourse {
        forward_ms: 2.0,
        reverse_ms: 3.0,
        jitter_ms: 0.2,
        ..LegCourse::default()
    }
}

#[test]
fn losses_are_exact() {
    let leg = LegCourse {
        loss: 0.02,
        ..course()
    };
    check("loss", leg, Shares::default());
}

/// Where nothing tells a packet from its repetition but its place.
#[test]
fn losses_are_exact_without_timestamps_and_identification() {
    let leg = LegCourse {
        loss: 0.02,
        ..course()
    };
    let shares = Shares {
        no_timestamps: 1.0,
        no_identification: 1.0,
        ..Shares::default()
    };
    check("bare", leg, shares);
}

#[test]
fn losses_beside_copies_and_packets_overtaken() {
    let leg = LegCourse {
        loss: 0.01,
        reorder: 0.01,
        duplicate: 0.01,
        ..course()
    };
    let shares = Shares {
        no_identification: 0.0,
        ipv6: 0.0,
        ..Shares::default()
    };
    check("all", leg, shares);
}
