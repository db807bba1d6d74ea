//! The TCP packets of a capture (pcap, nanoseconds, IPv4, Ethernet or none), read by a reader of
//! its own: nothing is shared with the code under test.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;

const SYN: u8 = 2;
const FIN: u8 = 1;
const RST: u8 = 4;
/// Link types: Ethernet, and raw IP as tun devices have it.
const ETHERNET: u32 = 1;
const RAW: u32 = 101;

/// What one packet is, wherever it is seen; addresses and ports may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Identity {
    pub(crate) sequence: u32,
    pub(crate) ip_id: u16,
    pub(crate) payload_bytes: u32,
    pub(crate) acknowledgement: u32,
    pub(crate) timestamp: u32,
    /// SYN, FIN and RST.
    pub(crate) flags: u8,
}

/// A TCP packet at a hop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packet {
    pub(crate) time_ns: u64,
    pub(crate) source: SocketAddrV4,
    pub(crate) destination: SocketAddrV4,
    pub(crate) identity: Identity,
    /// Announced in a SYN.
    pub(crate) segment_size: Option<u16>,
}

impl Packet {
    /// As it goes on the wire, when it was seen before it was cut.
    pub(crate) fn split(self, segment_bytes: u32) -> Vec<Self> {
        let all = self.identity.payload_bytes;
        if all <= segment_bytes {
            return vec![self];
        }
        let cut = |number: u32| {
            let before = number * segment_bytes;
            let is_last = all - before <= segment_bytes;
            let identity = Identity {
                sequence: self.identity.sequence.wrapping_add(before),
                ip_id: self.identity.ip_id.wrapping_add(number as u16),
                payload_bytes: segment_bytes.min(all - before),
                flags: if is_last { self.identity.flags } else { 0 },
                ..self.identity
            };
            Self { identity, ..self }
        };
        (0..all.div_ceil(segment_bytes)).map(cut).collect()
    }
}

pub(crate) fn read(path: &Path) -> Vec<Packet> {
    let bytes = std::fs::read(path).unwrap();
    assert_eq!(le32(&bytes, 0), 0xa1b2_3c4d, "a pcap with nanoseconds");
    let link_bytes = match le32(&bytes, 20) {
        ETHERNET => 14,
        RAW => 0,
        other => panic!("link type {other}"),
    };
    let mut at = 24;
    let mut packets = Vec::new();
    while at + 16 <= bytes.len() {
        let time_ns = u64::from(le32(&bytes, at)) * 1_000_000_000 + u64::from(le32(&bytes, at + 4));
        let kept = le32(&bytes, at + 8) as usize;
        let frame = &bytes[at + 16..at + 16 + kept];
        at += 16 + kept;
        let is_ip = link_bytes == 0 || be16(frame, 12) == 0x0800;
        if is_ip && frame[link_bytes] >> 4 == 4 && frame[link_bytes + 9] == 6 {
            packets.push(packet(time_ns, &frame[link_bytes..]));
        }
    }
    packets
}

fn packet(time_ns: u64, ip: &[u8]) -> Packet {
    let tcp = &ip[usize::from(ip[0] & 15) * 4..];
    let header = usize::from(tcp[12] >> 4) * 4;
    let address = |at: usize| Ipv4Addr::new(ip[at], ip[at + 1], ip[at + 2], ip[at + 3]);
    let options = Options::read(&tcp[20..header]);
    let headers = ip.len() - tcp.len() + header;
    Packet {
        time_ns,
        source: SocketAddrV4::new(address(12), be16(tcp, 0)),
        destination: SocketAddrV4::new(address(16), be16(tcp, 2)),
        identity: Identity {
            sequence: be32(tcp, 4),
            ip_id: be16(ip, 4),
            payload_bytes: u32::from(be16(ip, 2)) - headers as u32,
            acknowledgement: be32(tcp, 8),
            timestamp: options.timestamp,
            flags: tcp[13] & (SYN | FIN | RST),
        },
        segment_size: options.segment_size,
    }
}

#[derive(Default)]
struct Options {
    timestamp: u32,
    segment_size: Option<u16>,
}

impl Options {
    fn read(mut options: &[u8]) -> Self {
        let mut told = Self::default();
        loop {
            match options {
                [1, rest @ ..] => options = rest,
                [kind, length, ..] if *kind != 0 && *length >= 2 => {
                    let body = &options[2..usize::from(*length)];
                    match kind {
                        8 => told.timestamp = be32(body, 0),
                        2 => told.segment_size = Some(be16(body, 0)),
                        _ => {}
                    }
                    options = &options[usize::from(*length)..];
                }
                _ => return told,
            }
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
