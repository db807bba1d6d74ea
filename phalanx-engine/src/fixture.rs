//! Inputs for tests.

use phalanx_common::abi::{FlowKey, FlowUpdate, HalfCounters, event_kind};
use phalanx_common::limits::SAMPLE_COUNT;
use phalanx_common::watch::tick;

use crate::hop::{Hop, HopId, Link, NamespaceId};

/// An update of a TCP flow opened by its low end, 10.0.0.1:50000 to 10.0.0.2:80.
pub(crate) fn update(version: u32) -> FlowUpdate {
    let now_ns = u64::from(version) * 1_000_000_000;
    FlowUpdate {
        kind: event_kind::FLOW_UPDATE,
        reason: 0,
        key: key([10, 0, 0, 1], 50_000, [10, 0, 0, 2], 80, 6),
        incarnation: 1,
        version,
        initiator: 1,
        opened_ns: 1_000_000_000,
        now_ns,
        handshake_server_us: 0,
        handshake_client_us: 0,
        icmp_error: 0,
        sample_count: 0,
        matched: 0,
        halves: [half(u64::from(version), now_ns); 2],
        samples: [0; SAMPLE_COUNT],
    }
}

/// The key of a flow between two IPv4 ends; the first is the low one.
pub(crate) fn key(
    low: [u8; 4],
    low_port: u16,
    high: [u8; 4],
    high_port: u16,
    protocol: u8,
) -> FlowKey {
    let words = |octets| {
        [
            0,
            0,
            u32::from_ne_bytes([0, 0, 0xff, 0xff]),
            u32::from_ne_bytes(octets),
        ]
    };
    let (low, high) = (words(low), words(high));
    FlowKey {
        low,
        high,
        low_port,
        high_port,
        ifindex: 2,
        vlan: 0,
        protocol,
        reserved: 0,
    }
}

/// A half that has counted this many packets of 100 bytes, the last one at `now_ns`.
pub(crate) fn half(packets: u64, now_ns: u64) -> HalfCounters {
    HalfCounters {
        packets,
        bytes: packets * 100,
        seen_tick: tick(now_ns),
        ..HalfCounters::default()
    }
}

/// A hop of the host `web-1`, in namespace 7.
pub(crate) fn hop(id: u32, interface: &str) -> Hop {
    Hop {
        id: HopId(id),
        host: "web-1".into(),
        namespace: NamespaceId(7),
        namespace_name: None,
        interface: interface.into(),
        ifindex: id,
        link: Link::Ethernet,
    }
}
