//! Joining the flows of several hops, where that is hard: thousands of conversations at once, many
//! of them from one address, without their beginnings, without timestamps, with the same content,
//! with the ports of others that have ended.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[path = "hops/association.rs"]
mod association;
#[path = "network/folder.rs"]
mod folder;
#[path = "hops/made.rs"]
mod made;
#[path = "hops/told.rs"]
mod told;

use association::{Score, judge};
use made::Made;
use phalanx_range::synthesis::{HopProtocol, HopSynthesis, LegCourse, Shares};

/// Of the conversations that several hops saw, how many must be joined, whole.
const FOUND_MIN: f64 = 0.999;
/// Conversations of the large case: what a build without optimization does within a minute.
const CONVERSATIONS: u32 = if cfg!(debug_assertions) {
    2_000
} else {
    10_000
};

fn score(tag: &str, synthesis: &HopSynthesis, protocols: &[HopProtocol]) -> Vec<Score> {
    let made = Made::new(tag, synthesis);
    let report = told::report(&made.folder.0, &made.names());
    protocols
        .iter()
        .map(|protocol| {
            let score = judge(&report, &made.truth, *protocol);
            score.print(&format!("{tag}, {protocol:?}"));
            assert!(score.joint > 0, "{tag}: nothing to join");
            assert!(score.wrong.is_empty(), "{tag}: joined wrongly");
            score
        })
        .collect()
}

fn check(tag: &str, synthesis: &HopSynthesis, protocols: &[HopProtocol]) {
    for score in score(tag, synthesis, protocols) {
        assert!(score.share() >= FOUND_MIN, "{tag}: only {}", score.share());
    }
}

/// TCP alone.
fn connections() -> Shares {
    Shares {
        lookup: 0.0,
        datagrams: 0.0,
        echo: 0.0,
        ..Shares::default()
    }
}

#[test]
fn many_at_once_are_told_apart() {
    let synthesis = HopSynthesis {
        conversations: CONVERSATIONS,
        snap_bytes: 96,
        ..HopSynthesis::default()
    };
    check("many", &synthesis, &[HopProtocol::Tcp, HopProtocol::Udp]);
}

#[test]
fn without_beginnings_timestamps_and_content_behind_one_address() {
    let synthesis = HopSynthesis {
        conversations: 1_000,
        snap_bytes: 96,
        shares: Shares {
            midstream: 1.0,
            no_timestamps: 1.0,
            translated: 1.0,
            equal_payload: 1.0,
            lone: 0.1,
            detour: 0.1,
            ..connections()
        },
        ..HopSynthesis::default()
    };
    check("hard", &synthesis, &[HopProtocol::Tcp]);
}

#[test]
fn ports_that_come_back_are_other_conversations() {
    let synthesis = HopSynthesis {
        conversations: 400,
        shares: Shares {
            reused: 1.0,
            midstream: 0.0,
            lone: 0.0,
            detour: 0.0,
            ..connections()
        },
        ..HopSynthesis::default()
    };
    check("reuse", &synthesis, &[HopProtocol::Tcp]);
}

#[test]
fn shifted_sequence_numbers_are_followed() {
    let synthesis = HopSynthesis {
        conversations: 300,
        shares: Shares {
            shifted: 1.0,
            translated: 1.0,
            midstream: 0.0,
            reused: 0.0,
            ..connections()
        },
        ..HopSynthesis::default()
    };
    check("shifted", &synthesis, &[HopProtocol::Tcp]);
}

#[test]
fn the_two_sides_of_a_relay_are_two_conversations() {
    let synthesis = HopSynthesis {
        conversations: 300,
        snap_bytes: 0,
        shares: Shares {
            relayed: 0.5,
            ..connections()
        },
        ..HopSynthesis::default()
    };
    check("relay", &synthesis, &[HopProtocol::Tcp]);
}

#[test]
fn datagrams_and_echoes_are_joined() {
    let synthesis = HopSynthesis {
        conversations: 1_000,
        shares: Shares {
            lookup: 0.5,
            datagrams: 0.4,
            echo: 0.1,
            ..Shares::default()
        },
        ..HopSynthesis::default()
    };
    check(
        "datagrams",
        &synthesis,
        &[HopProtocol::Udp, HopProtocol::Icmp],
    );
}

#[test]
fn six_hops_that_lose_and_overtake_and_copy() {
    let leg = LegCourse {
        forward_ms: 2.0,
        reverse_ms: 3.0,
        jitter_ms: 0.2,
        loss: 0.01,
        reorder: 0.01,
        duplicate: 0.01,
    };
    let synthesis = HopSynthesis {
        conversations: 400,
        legs: vec![leg; 5],
        ..HopSynthesis::default()
    };
    check("six", &synthesis, &[HopProtocol::Tcp, HopProtocol::Udp]);
}
