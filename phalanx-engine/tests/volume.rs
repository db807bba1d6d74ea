//! The engine under volume: what an update costs, and that memory stays within its bound.
//!
//! `cargo test --release -p phalanx-engine --test volume -- --nocapture` prints the figures; a
//! debug build plays a fifth of it.

use std::time::Instant;

use phalanx_common::abi::{Direction, update_reason};
use phalanx_common::abi::{FlowKey, FlowUpdate, HalfCounters, Sample, SampleKind, event_kind};
use phalanx_common::limits::SAMPLE_COUNT;
use phalanx_engine::limits::{LIVE_TRACE_BYTES_MAX, MEMORY_BYTES_MAX, PAIR_COUNT_MAX};
use phalanx_engine::{
    Command, Engine, EngineConfig, Hop, HopId, Input, Link, Monotonic, NamespaceId,
};

const SHARE: u32 = if cfg!(debug_assertions) { 5 } else { 1 };
const FLOW_COUNT: u32 = 100_000 / SHARE;
const UPDATES_PER_FLOW: u32 = 10;
const HOP: HopId = HopId(1);

/// The update of a version of the numbered flow; clients come from 10.0.0.0/8.
fn update(number: u32, version: u32, now_ns: u64) -> FlowUpdate {
    let words = |octets| {
        [
            0,
            0,
            u32::from_ne_bytes([0, 0, 0xff, 0xff]),
            u32::from_ne_bytes(octets),
        ]
    };
    let key = FlowKey {
        low: words([10, (number >> 12) as u8, (number >> 4) as u8, 1]),
        high: words([192, 0, 2, 1]),
        low_port: 32_768 + (number & 15) as u16,
        high_port: 443,
        ifindex: 2,
        vlan: 0,
        protocol: 6,
        reserved: 0,
    };
    let half = HalfCounters {
        packets: u64::from(version) * 8,
        bytes: u64::from(version) * 8_000,
        rtt_min_us: 20_000,
        ..HalfCounters::default()
    };
    let mut update = FlowUpdate {
        kind: event_kind::FLOW_UPDATE,
        reason: if version == 1 {
            update_reason::OPENED
        } else {
            update_reason::SAMPLES
        },
        key,
        incarnation: 1,
        version,
        initiator: 1,
        opened_ns: now_ns,
        now_ns,
        handshake_server_us: 20_000,
        handshake_client_us: 300,
        icmp_error: 0,
        sample_count: (version - 1) * SAMPLE_COUNT as u32,
        matched: 0,
        halves: [half; 2],
        samples: [0; SAMPLE_COUNT],
    };
    for index in 0..SAMPLE_COUNT {
        let kind = match index % 2 {
            0 => SampleKind::Rtt(Direction::FromLow),
            _ => SampleKind::Turn(Direction::FromHigh),
        };
        let microseconds = 20_000 + (number * 7 + version) % 5_000;
        update.push_sample(Sample { kind, microseconds });
    }
    update
}

/// Resident memory of this process in bytes; `None` where `/proc` does not tell.
fn resident_bytes() -> Option<usize> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    Some(text.split(' ').nth(1)?.parse::<usize>().ok()? * 4_096)
}

#[test]
fn many_flows_and_updates_stay_within_memory() {
    let mut engine = Engine::new(EngineConfig {
        seed: 7,
        ..EngineConfig::default()
    });
    let hop = Hop {
        id: HOP,
        host: "host".into(),
        namespace: NamespaceId(1),
        namespace_name: None,
        interface: "eth0".into(),
        ifindex: 2,
        link: Link::Ethernet,
        clock: phalanx_engine::ClockId::default(),
    };
    engine.handle(Input::HopAppeared(hop), Monotonic(0));
    let before = resident_bytes();
    let (mut changes, mut spent_ns) = (0_u64, 0);
    for version in 1..=UPDATES_PER_FLOW {
        let now = u64::from(version) * 1_000_000_000;
        for number in 0..FLOW_COUNT {
            let update = update(number, version, now);
            let start = Instant::now();
            engine.handle(
                Input::Update {
                    hop: HOP,
                    update: &update,
                },
                Monotonic(now),
            );
            if number % 512 == 511 {
                engine.handle_deadline(Monotonic(now));
            }
            changes += engine.changes().count() as u64;
            spent_ns += start.elapsed().as_nanos();
        }
    }
    let updates = u64::from(FLOW_COUNT * UPDATES_PER_FLOW);
    let resident = before
        .zip(resident_bytes())
        .map(|(before, after)| after.saturating_sub(before));
    println!(
        "{FLOW_COUNT} flows, {updates} updates, {changes} changes: {} ns per update, {} MiB",
        spent_ns / u128::from(updates),
        resident.map_or_else(|| "?".to_owned(), |bytes| (bytes >> 20).to_string()),
    );
    let occupancy = engine.occupancy();
    assert_eq!(occupancy.flows, FLOW_COUNT as usize);
    // The pair `other` stands beside the bound.
    assert!(occupancy.pairs <= PAIR_COUNT_MAX + 1);
    assert_eq!(engine.tally().changes_lost, 0);
    assert_eq!(engine.tally().updates_lost, 0);
    // Nothing is traced here.
    let most = MEMORY_BYTES_MAX - LIVE_TRACE_BYTES_MAX;
    assert!(resident.is_none_or(|bytes| bytes < most));

    // After their silence all flows are asked for, and go with the answers.
    let now = Monotonic(10_000_000_000_000);
    while engine.deadline().is_some_and(|deadline| deadline <= now) {
        engine.handle_deadline(now);
        let commands: Vec<_> = engine.commands().collect();
        for command in commands {
            let Command::ReadAndDelete {
                hop,
                key,
                incarnation,
            } = command
            else {
                continue;
            };
            engine.handle(
                Input::FlowGone {
                    hop,
                    key,
                    incarnation,
                },
                now,
            );
        }
        engine.changes().for_each(drop);
    }
    assert_eq!(engine.tally().commands_lost, 0);
    assert_eq!(
        (engine.occupancy().flows, engine.occupancy().conversations),
        (0, 0)
    );
}
