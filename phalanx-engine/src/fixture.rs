//! Inputs for tests.

use phalanx_common::abi::{FlowKey, FlowUpdate, HalfCounters, RecordHeader, event_kind};
use phalanx_common::limits::{RECORD_DIGEST_SIZE, SAMPLE_COUNT};
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
        clock: crate::ClockId::default(),
    }
}

/// A TCP segment between 10.0.0.1 and 10.0.0.2, of which no payload is captured.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TcpFrame {
    /// Port of the end that is taken for the client; the other one has 80.
    pub(crate) port: u16,
    pub(crate) is_server: bool,
    pub(crate) flags: u8,
    pub(crate) sequence: u32,
    pub(crate) acknowledgement: u32,
    /// Payload on the wire.
    pub(crate) length: u16,
}

impl TcpFrame {
    /// The frame as a record has it, seen at `time_ns`.
    pub(crate) fn record(&self, time_ns: u64) -> (RecordHeader, Vec<u8>) {
        let total = 40_u16.saturating_add(self.length);
        let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0];
        bytes.extend(total.to_be_bytes());
        bytes.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
        let (client, server) = (([10, 0, 0, 1], self.port), ([10, 0, 0, 2], 80));
        let (source, destination) = match self.is_server {
            true => (server, client),
            false => (client, server),
        };
        bytes.extend([source.0, destination.0].concat());
        bytes.extend(source.1.to_be_bytes());
        bytes.extend(destination.1.to_be_bytes());
        bytes.extend(self.sequence.to_be_bytes());
        bytes.extend(self.acknowledgement.to_be_bytes());
        bytes.extend([0x50, self.flags, 4, 0, 0, 0, 0, 0]);
        let header = RecordHeader {
            time_ns,
            matched: 1,
            key: key(client.0, client.1, server.0, server.1, 6),
            incarnation: 1,
            frame_length: 14 + u32::from(total),
            captured_length: bytes.len() as u32,
            network_offset: 14,
            transport_offset: 34,
            payload_offset: 54,
            gso_segments: 1,
            gso_size: 0,
            vlan_tag: 0,
            hook: 0,
            direction: 0,
            has_ethernet: 1,
            digest_length: 0,
            digest: [0; RECORD_DIGEST_SIZE],
            is_promoted: 0,
            reserved: [0; 7],
        };
        (header, bytes)
    }
}
