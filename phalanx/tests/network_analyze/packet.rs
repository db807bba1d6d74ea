//! The TCP packets of a capture (pcap, nanoseconds, Ethernet, IPv4), read by a reader of its own:
//! nothing is shared with the code under test.

use std::collections::BTreeMap;
use std::path::Path;

/// Which side of the connection sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Way {
    ToServer,
    ToClient,
}

impl Way {
    pub(crate) const BOTH: [Self; 2] = [Self::ToServer, Self::ToClient];

    /// As reports spell it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::ToServer => "client_to_server",
            Self::ToClient => "server_to_client",
        }
    }

    pub(crate) fn other(self) -> Self {
        match self {
            Self::ToServer => Self::ToClient,
            Self::ToClient => Self::ToServer,
        }
    }
}

/// A TCP packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packet {
    /// Of its frame, from 1.
    pub(crate) number: u64,
    pub(crate) time_ns: u64,
    pub(crate) way: Way,
    pub(crate) ip_id: u16,
    /// As on the wire, and counted from the sender's initial one.
    pub(crate) wire_sequence: u32,
    pub(crate) sequence: u64,
    /// Payload bytes, SYN and FIN.
    pub(crate) length: u64,
    pub(crate) acknowledgement: u64,
    pub(crate) window: u16,
    pub(crate) flags: u8,
    pub(crate) timestamp: u32,
}

impl Packet {
    pub(crate) fn end(&self) -> u64 {
        self.sequence + self.length
    }

    /// What tells one sending of a segment from another, and not from its copies.
    pub(crate) fn identity(&self) -> (u16, u64, u64, u64, u32) {
        let Self {
            ip_id,
            sequence,
            length,
            acknowledgement,
            timestamp,
            ..
        } = *self;
        (ip_id, sequence, length, acknowledgement, timestamp)
    }
}

const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
const ACK: u8 = 16;

/// All packets of the one connection; who sends the first SYN is the client.
pub(crate) fn read(path: &Path) -> Vec<Packet> {
    let bytes = std::fs::read(path).unwrap();
    assert_eq!(le32(&bytes, 0), 0xa1b2_3c4d, "a pcap with nanoseconds");
    assert_eq!(le32(&bytes, 20), 1, "of Ethernet");
    let (mut at, mut number) = (24, 0);
    let mut initial: BTreeMap<Way, u32> = BTreeMap::new();
    let mut ports = None;
    let mut packets = Vec::new();
    while at + 16 <= bytes.len() {
        let time_ns = u64::from(le32(&bytes, at)) * 1_000_000_000 + u64::from(le32(&bytes, at + 4));
        let kept = le32(&bytes, at + 8) as usize;
        let frame = &bytes[at + 16..at + 16 + kept];
        at += 16 + kept;
        number += 1;
        if be16(frame, 12) != 0x0800 || frame[23] != 6 {
            continue;
        }
        let tcp = 14 + usize::from(frame[14] & 15) * 4;
        let (source, destination) = (be16(frame, tcp), be16(frame, tcp + 2));
        let flags = frame[tcp + 13];
        let (client, server) = *ports.get_or_insert((source, destination));
        let way = match (source, destination) {
            pair if pair == (client, server) => Way::ToServer,
            pair if pair == (server, client) => Way::ToClient,
            pair => panic!("frame {number} is of another connection: {pair:?}"),
        };
        let wire_sequence = be32(frame, tcp + 4);
        let initial_own = *initial.entry(way).or_insert(wire_sequence);
        let initial_peer = initial.get(&way.other()).copied().unwrap_or_default();
        let header = usize::from(frame[tcp + 12] >> 4) * 4;
        let payload = u64::from(be16(frame, 16)) - (tcp - 14 + header) as u64;
        let acknowledgement = match flags & ACK {
            0 => 0,
            _ => be32(frame, tcp + 8).wrapping_sub(initial_peer).into(),
        };
        packets.push(Packet {
            number,
            time_ns,
            way,
            ip_id: be16(frame, 18),
            wire_sequence,
            sequence: unwrap(wire_sequence.wrapping_sub(initial_own)),
            length: payload + u64::from(flags & SYN != 0) + u64::from(flags & FIN != 0),
            acknowledgement,
            window: be16(frame, tcp + 14),
            flags,
            timestamp: timestamp(&frame[tcp + 20..tcp + header]),
        });
    }
    packets
}

/// Offsets from the initial number: no connection here carries gigabytes.
fn unwrap(offset: u32) -> u64 {
    assert!(offset < 1 << 31, "before the initial sequence number");
    offset.into()
}

/// TSval (RFC 7323), where there is one.
fn timestamp(mut options: &[u8]) -> u32 {
    loop {
        match options {
            [8, 10, rest @ ..] => return be32(rest, 0),
            [1, rest @ ..] => options = rest,
            [_, length, ..] if *length >= 2 => options = &options[usize::from(*length)..],
            _ => return 0,
        }
    }
}

fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(bytes[at..at + 2].try_into().unwrap())
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}
