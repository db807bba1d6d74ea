//! The watch rule on one entry from two threads at once: what must not be lost.

use std::sync::Barrier;

use phalanx_common::abi::{Direction, FlowKey, update_reason};
use phalanx_common::packet::{Headers, TcpFlags, protocol};
use phalanx_common::watch::{self, FlowEntry, Sighting};

const ROUND_COUNT: usize = 20_000;

/// A segment without payload at 5 ms; numbers are the same in both directions.
fn segment(direction: Direction, flags: u8, sequence: u32, acknowledgement: u32) -> Sighting {
    Sighting {
        headers: Headers {
            protocol: protocol::TCP,
            ttl: 64,
            ip_length: 40,
            tcp_flags: TcpFlags(flags),
            sequence,
            acknowledgement,
            window: 500,
            ..Headers::default()
        },
        key: FlowKey::default(),
        now_ns: 5_000_000,
        segments: 1,
        segment_size: 0,
        direction: direction.into(),
    }
}

/// Both ends close at the same moment, then each acknowledges the other's FIN.
#[test]
fn fins_that_are_seen_at_once_close_the_flow() {
    let entries: Vec<FlowEntry> = (0..ROUND_COUNT).map(|_| FlowEntry::default()).collect();
    let barrier = Barrier::new(2);
    let end = |direction| {
        let fin = segment(direction, TcpFlags::FIN | TcpFlags::ACK, 100, 100);
        barrier.wait();
        for entry in &entries {
            watch::observe(entry, &fin);
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| end(Direction::FromLow));
        scope.spawn(|| end(Direction::FromHigh));
    });
    let (low, high) = (Direction::FromLow, Direction::FromHigh);
    for (number, entry) in entries.iter().enumerate() {
        let before = watch::observe(entry, &segment(low, TcpFlags::ACK, 101, 101));
        let reasons = before | watch::observe(entry, &segment(high, TcpFlags::ACK, 101, 101));
        assert_eq!(reasons, update_reason::CLOSED, "entry {number}");
    }
}
