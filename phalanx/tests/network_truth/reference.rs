//! Round-trip times of a capture, by a rule of its own: that of tcptrace. A segment gives a sample
//! when an acknowledgement equals exactly its end, it was sent once, and nothing before it was sent
//! again after it. A super-segment is many segments, sent at one moment: it gives one for each
//! acknowledgement inside of it as well. Nothing is shared with the code under test.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;

/// Sender and receiver of a segment.
pub(crate) type Way = (SocketAddrV4, SocketAddrV4);

/// One round-trip time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// Who sent the data.
    pub(crate) way: Way,
    /// Where the segment ends and what acknowledged it.
    pub(crate) end: u32,
    /// The acknowledgement before that one.
    pub(crate) acknowledged_before: u32,
    /// When the segment was sent: nanoseconds of the capture's clock.
    pub(crate) sent_ns: u64,
    /// When the acknowledgement came.
    pub(crate) acknowledged_ns: u64,
    /// Segments that were outstanding when this one was sent.
    pub(crate) outstanding: usize,
}

impl Sample {
    pub(crate) fn microseconds(&self) -> f64 {
        (self.acknowledged_ns - self.sent_ns) as f64 / 1e3
    }
}

/// What a capture shows.
#[derive(Debug, Default)]
pub(crate) struct Reference {
    /// In the order of their acknowledgements.
    pub(crate) samples: Vec<Sample>,
    /// Segments sent again: who sent them, where they end.
    pub(crate) retransmissions: Vec<(Way, u32)>,
    /// Segments that were acknowledged exactly and are ambiguous.
    pub(crate) ambiguous: usize,
}

/// A TCP packet.
struct Packet {
    time_ns: u64,
    way: Way,
    sequence: u32,
    acknowledgement: u32,
    flags: u8,
    payload: u32,
}

const FIN: u8 = 1;
const SYN: u8 = 2;
const ACK: u8 = 16;

#[derive(Clone, Copy)]
struct Segment {
    start: u32,
    end: u32,
    sent_ns: u64,
    is_ambiguous: bool,
    outstanding: usize,
}

#[derive(Default)]
struct Sender {
    next: Option<u32>,
    acknowledged: Option<u32>,
    outstanding: Vec<Segment>,
}

/// Reads a capture of an Ethernet interface and applies the rule.
pub(crate) fn read(path: &Path) -> Reference {
    let mut reference = Reference::default();
    let mut senders: BTreeMap<Way, Sender> = BTreeMap::new();
    for packet in packets(&std::fs::read(path).unwrap()) {
        if packet.flags & ACK != 0 {
            let way = (packet.way.1, packet.way.0);
            acknowledge(
                senders.entry(way).or_default(),
                way,
                &packet,
                &mut reference,
            );
        }
        let sender = senders.entry(packet.way).or_default();
        send(sender, &packet, &mut reference);
    }
    reference
}

fn is_after(a: u32, b: u32) -> bool {
    (1..1 << 31).contains(&a.wrapping_sub(b))
}

fn acknowledge(sender: &mut Sender, way: Way, packet: &Packet, reference: &mut Reference) {
    let number = packet.acknowledgement;
    let before = sender.acknowledged;
    if before.is_some_and(|before| !is_after(number, before)) {
        return;
    }
    sender.acknowledged = Some(number);
    let holder = sender
        .outstanding
        .iter()
        .find(|segment| is_after(number, segment.start) && !is_after(number, segment.end))
        .copied();
    sender
        .outstanding
        .retain(|segment| is_after(segment.end, number));
    if let Some(segment) = holder {
        if segment.is_ambiguous {
            reference.ambiguous += 1;
            return;
        }
        reference.samples.push(Sample {
            way,
            end: number,
            acknowledged_before: before.unwrap_or(0),
            sent_ns: segment.sent_ns,
            acknowledged_ns: packet.time_ns,
            outstanding: segment.outstanding,
        });
    }
}

fn send(sender: &mut Sender, packet: &Packet, reference: &mut Reference) {
    let flag = |flag| u32::from(packet.flags & flag != 0);
    let length = packet.payload + flag(SYN) + flag(FIN);
    if length == 0 {
        return;
    }
    let end = packet.sequence.wrapping_add(length);
    let is_new = sender
        .next
        .is_none_or(|next| !is_after(next, packet.sequence));
    if !is_new {
        for segment in &mut sender.outstanding {
            segment.is_ambiguous |= is_after(segment.end, packet.sequence);
        }
        reference.retransmissions.push((packet.way, end));
    }
    // The handshake is measured apart from the round-trip times of data.
    if flag(SYN) == 0 && sender.next.is_none_or(|next| is_after(end, next)) {
        let outstanding = sender.outstanding.len();
        sender.outstanding.push(Segment {
            start: packet.sequence,
            end,
            sent_ns: packet.time_ns,
            is_ambiguous: !is_new,
            outstanding,
        });
    }
    if sender.next.is_none_or(|next| is_after(end, next)) {
        sender.next = Some(end);
    }
}

/// The TCP packets of a pcap file with nanoseconds, Ethernet and IPv4, in their order.
fn packets(file: &[u8]) -> Vec<Packet> {
    let word = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap());
    assert_eq!(word(0), 0xa1b2_3c4d, "a pcap file with nanoseconds");
    assert_eq!(word(20), 1, "an Ethernet capture");
    let mut packets = Vec::new();
    let mut at = 24;
    while at + 16 <= file.len() {
        let time_ns = u64::from(word(at)) * 1_000_000_000 + u64::from(word(at + 4));
        let captured = word(at + 8) as usize;
        packets.extend(packet(time_ns, &file[at + 16..at + 16 + captured]));
        at += 16 + captured;
    }
    packets
}

fn packet(time_ns: u64, frame: &[u8]) -> Option<Packet> {
    let u16_at = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    let u32_at = |at: usize| u32::from_be_bytes(frame[at..at + 4].try_into().unwrap());
    if frame.len() < 54 || u16_at(12) != 0x0800 || frame[23] != 6 {
        return None;
    }
    let total = u32::from(u16_at(16));
    let ip_header = usize::from(frame[14] & 15) * 4;
    let tcp = 14 + ip_header;
    let tcp_header = usize::from(frame[tcp + 12] >> 4) * 4;
    let end = |address: usize, port| {
        SocketAddrV4::new(Ipv4Addr::from_bits(u32_at(address)), u16_at(port))
    };
    Some(Packet {
        time_ns,
        way: (end(26, tcp), end(30, tcp + 2)),
        sequence: u32_at(tcp + 4),
        acknowledgement: u32_at(tcp + 8),
        flags: frame[tcp + 13],
        payload: total - (ip_header + tcp_header) as u32,
    })
}
