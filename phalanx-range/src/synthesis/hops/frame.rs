//! The bytes of a packet as one hop sees it, with right checksums.

use std::net::SocketAddr;

use super::conversation::Conversation;
use super::course::{Content, Kind, Lookup, Packet, Sent};
use crate::packet::checksum;
use crate::random::seed_of;
use crate::synthesis::frame::pseudo_sum;
use crate::synthesis::packet::Side;
use crate::synthesis::payload::{DNS_ANSWER, DNS_QUESTION, FILL};

pub(super) const FIN: u8 = 0x01;
pub(super) const SYN: u8 = 0x02;
pub(super) const PSH: u8 = 0x08;
pub(super) const ACK: u8 = 0x10;

const ETHERNET_BYTES: usize = 14;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
/// What hosts start with.
const HOP_LIMIT: u8 = 64;
/// Bytes of a payload that come from its seed.
const HEAD_BYTES: usize = 32;
const SEGMENT_SIZE: u16 = 1_460;
const SEGMENT_SIZE_CLAMPED: u16 = 1_360;
const WINDOW: u16 = 501;
const LETTERS: u8 = 26;

/// Makes the frame of a packet at a hop; gives back its whole length.
pub(super) fn make(
    frame: &mut Vec<u8>,
    conversation: &Conversation,
    sent: &Sent,
    hop: usize,
    snap_bytes: usize,
) -> usize {
    let packet = &sent.packet;
    let pair = conversation.pairs[hop];
    let (source, destination) = match packet.from {
        Side::Client => (pair.client, pair.server),
        Side::Server => (pair.server, pair.client),
    };
    let (head, fill_bytes) = payload(packet.content);
    let mut transport = Vec::with_capacity(HEAD_BYTES + 60);
    let protocol = put_transport(
        &mut transport,
        conversation,
        packet,
        hop,
        (source, destination),
    );
    let header_bytes = transport.len();
    transport.extend_from_slice(&head);
    let length = transport.len() + fill_bytes;
    let at = match protocol {
        TCP => 16,
        UDP => 6,
        _ => 2,
    };
    if protocol == UDP {
        transport[4..6].copy_from_slice(&(length as u16).to_be_bytes());
    }
    let addresses = (source.ip(), destination.ip());
    let start = match protocol {
        ICMP => 0,
        _ => pseudo_sum(addresses, protocol, length),
    };
    // Heads have an even length, so the filling is made of whole words and perhaps half a one.
    let word = u32::from(u16::from_be_bytes([FILL, FILL]));
    let fill_sum =
        (fill_bytes / 2) as u32 * word + (fill_bytes % 2) as u32 * (u32::from(FILL) << 8);
    let sum = checksum(&transport, start + fill_sum);
    // RFC 768: a sum of zero is sent as all ones.
    let sum = if sum == 0 && protocol == UDP {
        u16::MAX
    } else {
        sum
    };
    transport[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    debug_assert_eq!(header_bytes % 2, 0);
    put_network(
        frame,
        (source, destination),
        (protocol, packet.ip_id),
        length,
        distance(packet, hop),
    );
    frame.extend_from_slice(&transport);
    let whole = frame.len() + fill_bytes;
    frame.resize(whole.min(snap_bytes.max(frame.len())), FILL);
    whole
}

/// Routers passed: each hop lies behind one more, from the client's side; the server is as far.
fn distance(packet: &Packet, hop: usize) -> u8 {
    match packet.from {
        Side::Client => hop as u8,
        Side::Server => (crate::limits::HOPS_MAX - 1 - hop) as u8,
    }
}

/// The first bytes of a payload, and how many of filling follow.
fn payload(content: Content) -> (Vec<u8>, usize) {
    match content {
        Content::Filled { seed, bytes } => {
            let mut head = Vec::with_capacity(HEAD_BYTES);
            for part in ["1", "2", "3", "4"] {
                head.extend_from_slice(&seed_of(seed, part).to_be_bytes());
            }
            let even = usize::from(bytes) & !1;
            head.truncate(even);
            let rest = usize::from(bytes) - head.len();
            (head, rest)
        }
        Content::Question(lookup) => (dns(lookup, [0x01, 0, 0, 1, 0, 0], &[]), 0),
        Content::Answer(lookup) => (dns(lookup, [0x81, 0x80, 0, 1, 0, 1], DNS_ANSWER), 0),
    }
}

fn dns(lookup: Lookup, head: [u8; 6], answer: &[u8]) -> Vec<u8> {
    let mut message = lookup.id.to_be_bytes().to_vec();
    message.extend_from_slice(&head);
    message.extend_from_slice(&[0; 4]);
    let name_at = message.len() + 1;
    message.extend_from_slice(DNS_QUESTION);
    // Two letters of the host's name.
    message[name_at] = b'a' + lookup.name / LETTERS;
    message[name_at + 1] = b'a' + lookup.name % LETTERS;
    message.extend_from_slice(answer);
    message
}

fn put_transport(
    bytes: &mut Vec<u8>,
    conversation: &Conversation,
    packet: &Packet,
    hop: usize,
    (source, destination): (SocketAddr, SocketAddr),
) -> u8 {
    match packet.kind {
        Kind::Tcp { .. } => {
            bytes.extend_from_slice(&source.port().to_be_bytes());
            bytes.extend_from_slice(&destination.port().to_be_bytes());
            put_tcp(bytes, conversation, packet, hop);
            TCP
        }
        Kind::Udp => {
            bytes.extend_from_slice(&source.port().to_be_bytes());
            bytes.extend_from_slice(&destination.port().to_be_bytes());
            bytes.extend_from_slice(&[0; 4]);
            UDP
        }
        Kind::Echo { sequence } => {
            let is_v4 = source.is_ipv4();
            let (id, kind) = match (packet.from, is_v4) {
                (Side::Client, true) => (source.port(), 8),
                (Side::Client, false) => (source.port(), 128),
                (Side::Server, true) => (destination.port(), 0),
                (Side::Server, false) => (destination.port(), 129),
            };
            bytes.extend_from_slice(&[kind, 0, 0, 0]);
            bytes.extend_from_slice(&id.to_be_bytes());
            bytes.extend_from_slice(&sequence.to_be_bytes());
            if is_v4 { ICMP } else { ICMPV6 }
        }
    }
}

/// All of the header after the ports.
fn put_tcp(bytes: &mut Vec<u8>, conversation: &Conversation, packet: &Packet, hop: usize) {
    let Kind::Tcp {
        flags,
        sequence,
        acknowledgement,
        timestamps,
    } = packet.kind
    else {
        return;
    };
    let shift = if hop == 0 { 0 } else { conversation.shift };
    let (sequence, acknowledgement) = match packet.from {
        Side::Client => (sequence.wrapping_add(shift), acknowledgement),
        Side::Server => (sequence, acknowledgement.wrapping_add(shift)),
    };
    bytes.extend_from_slice(&sequence.to_be_bytes());
    bytes.extend_from_slice(&acknowledgement.to_be_bytes());
    bytes.extend_from_slice(&[0, flags]);
    bytes.extend_from_slice(&WINDOW.to_be_bytes());
    bytes.extend_from_slice(&[0; 4]);
    if flags & SYN != 0 {
        // Either way, it is clamped on the first leg.
        let is_behind = (packet.from == Side::Client) == (hop > 0);
        let size = if conversation.is_clamped() && is_behind {
            SEGMENT_SIZE_CLAMPED
        } else {
            SEGMENT_SIZE
        };
        bytes.extend_from_slice(&[2, 4]);
        bytes.extend_from_slice(&size.to_be_bytes());
        bytes.extend_from_slice(&[1, 1, 4, 2]);
    }
    if let Some((value, echo)) = timestamps {
        bytes.extend_from_slice(&[1, 1, 8, 10]);
        bytes.extend_from_slice(&value.to_be_bytes());
        bytes.extend_from_slice(&echo.to_be_bytes());
    }
    if flags & SYN != 0 {
        bytes.extend_from_slice(&[1, 3, 3, 7]);
    }
    bytes[12] = (bytes.len() as u8 / 4) << 4;
}

fn put_network(
    frame: &mut Vec<u8>,
    (source, destination): (SocketAddr, SocketAddr),
    (protocol, ip_id): (u8, u16),
    length: usize,
    distance: u8,
) {
    frame.clear();
    frame.extend_from_slice(&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1]);
    let hop_limit = HOP_LIMIT - distance;
    match (source, destination) {
        (SocketAddr::V4(source), SocketAddr::V4(destination)) => {
            frame.extend_from_slice(&[0x08, 0x00, 0x45, 0]);
            frame.extend_from_slice(&((20 + length) as u16).to_be_bytes());
            frame.extend_from_slice(&ip_id.to_be_bytes());
            frame.extend_from_slice(&[0x40, 0, hop_limit, protocol, 0, 0]);
            frame.extend_from_slice(&source.ip().octets());
            frame.extend_from_slice(&destination.ip().octets());
            let sum = checksum(&frame[ETHERNET_BYTES..], 0);
            frame[ETHERNET_BYTES + 10..ETHERNET_BYTES + 12].copy_from_slice(&sum.to_be_bytes());
        }
        (SocketAddr::V6(source), SocketAddr::V6(destination)) => {
            frame.extend_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend_from_slice(&(length as u16).to_be_bytes());
            frame.extend_from_slice(&[protocol, hop_limit]);
            frame.extend_from_slice(&source.ip().octets());
            frame.extend_from_slice(&destination.ip().octets());
        }
        _ => unreachable!("both ends of a conversation are of one family"),
    }
}
