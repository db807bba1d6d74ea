//! Trails: what one flow's packets looked like at one hop, kept small. Made from records and what
//! the tracer said of them; read by all that compares hops.

use std::hash::{BuildHasher, Hasher};

use foldhash::fast::FixedState;
use phalanx_common::packet::{TcpFlags, protocol};

use super::content::Content;
use crate::limits::{TRAIL_CROSSING_BYTES, TRAIL_DIGEST_BYTES, TRAIL_TCP_DIGEST_BYTES};
use crate::record::PacketRecord;
use crate::segment::{Class, Segment};
use crate::side::{Endpoint, RoleBasis, Side, Sides};

/// One packet as it crossed a hop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Crossing {
    /// When, in nanoseconds since the epoch of the hop's clock.
    pub time_ns: i64,
    /// Number of its frame at the hop.
    pub frame: u64,
    /// Sequence number as sent; 0 for what is not TCP.
    pub sequence: u32,
    /// Acknowledgement number as sent; 0 without ACK.
    pub acknowledgement: u32,
    /// Payload bytes on the wire.
    pub length: u32,
    /// `TSval` of the timestamps option, 0 without.
    pub timestamp_value: u32,
    /// `TSecr`.
    pub timestamp_echo: u32,
    /// A hash of the first bytes of the payload and of its length, 0 where they were not captured
    /// or there are none; of an acknowledgement without payload, of its SACK blocks.
    pub digest: u32,
    /// IP identification, 0 where there is none.
    pub ip_id: u16,
    /// Window as sent.
    pub window: u16,
    /// TCP flags.
    pub flags: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// What the tracer took it for.
    pub class: Option<Class>,
}

const _: () = assert!(size_of::<Crossing>() <= TRAIL_CROSSING_BYTES);

/// What a SYN announced (the options that middleboxes rewrite).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SynOptions {
    /// MSS in bytes, 0 without.
    pub mss: u16,
    /// Window scale shift plus one, 0 without.
    pub window_scale_plus_one: u8,
    /// SACK permitted.
    pub sack_permitted: bool,
    /// Timestamps.
    pub has_timestamps: bool,
}

/// SYNs of other numbers than the first of their side, which may be spoofed, or the first may: what
/// the other side acknowledges counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Handshake {
    /// The latest of other numbers, with what it announced.
    others: Sides<Option<(u32, SynOptions)>>,
    /// Sides of which the other one has acknowledged the initial number.
    is_settled: Sides<bool>,
}

/// One flow at one hop.
#[derive(Clone, Debug)]
pub struct Trail {
    /// Number of the hop.
    pub hop: u32,
    /// Number of its first frame there: names the flow.
    pub flow: u64,
    /// IANA protocol number.
    pub protocol: u8,
    /// Its ends, as this hop sees them.
    pub ends: Sides<Endpoint>,
    /// How it was decided who is the client.
    pub role_basis: RoleBasis,
    /// By sender, in the order of the capture; copies that the capture made are left out.
    pub crossings: Sides<Vec<Crossing>>,
    /// Initial sequence numbers, where SYN or SYN-ACK was seen.
    pub initial: Sides<Option<u32>>,
    /// What the SYNs announced.
    pub syn: Sides<Option<SynOptions>>,
    /// What is not settled of the handshake.
    pub handshake: Handshake,
    /// What it carries, where payload was captured (TCP).
    pub content: Box<Content>,
    /// Packets that were not kept, since there was no room.
    pub left_out: u64,
    /// First frames of what this hop took for other flows though it is this one: their packets
    /// stand here.
    pub parts: Vec<u64>,
}

impl Trail {
    /// An empty one, for the flow that a segment and its record belong to.
    #[must_use]
    pub fn new(record: &PacketRecord<'_>, segment: &Segment) -> Self {
        let (source, destination) = record.endpoints();
        let ends = match segment.side {
            Side::Client => Sides {
                client: source,
                server: destination,
            },
            Side::Server => Sides {
                client: destination,
                server: source,
            },
        };
        Self {
            hop: record.hop,
            flow: segment.flow,
            protocol: segment.protocol,
            ends,
            role_basis: RoleBasis::Order,
            crossings: Sides::default(),
            initial: Sides::default(),
            syn: Sides::default(),
            handshake: Handshake::default(),
            content: Box::default(),
            left_out: 0,
            parts: Vec::new(),
        }
    }

    /// Takes a packet of the flow in. Whether it takes room: copies that the capture made do not.
    pub fn push(&mut self, record: &PacketRecord<'_>, segment: &Segment) -> bool {
        if segment.class == Some(Class::CaptureDuplicate) {
            return false;
        }
        let crossing = Crossing::of(record, segment.class);
        if self.protocol == protocol::TCP {
            self.note_handshake(record, segment.side);
            self.content.push(record, segment.side);
        }
        self.crossings.get_mut(segment.side).push(crossing);
        true
    }

    fn note_handshake(&mut self, record: &PacketRecord<'_>, side: Side) {
        let (flags, headers) = (record.flags(), record.headers);
        if flags.any(TcpFlags::ACK) && !flags.any(TcpFlags::RST) {
            self.settle(side.other(), headers.acknowledgement.wrapping_sub(1));
        }
        if !flags.any(TcpFlags::SYN) {
            return;
        }
        let announced = SynOptions {
            mss: record.options.mss,
            window_scale_plus_one: record.options.window_scale_plus_one,
            sack_permitted: record.options.sack_permitted,
            has_timestamps: record.options.has_timestamps,
        };
        let initial = self.initial.get_mut(side).get_or_insert(headers.sequence);
        if *initial == headers.sequence {
            self.syn.get_mut(side).get_or_insert(announced);
        } else if !self.handshake.is_settled.get(side) {
            *self.handshake.others.get_mut(side) = Some((headers.sequence, announced));
        }
        if flags.any(TcpFlags::ACK) {
            let peer = self.initial.get_mut(side.other());
            peer.get_or_insert(headers.acknowledgement.wrapping_sub(1));
        }
    }

    /// Takes in that the number of a side's SYN may have been acknowledged.
    fn settle(&mut self, side: Side, number: u32) {
        let is_settled = self.handshake.is_settled.get_mut(side);
        if *is_settled {
            return;
        }
        let initial = self.initial.get_mut(side);
        if *initial == Some(number) {
            *is_settled = true;
        } else if let Some((other, announced)) = *self.handshake.others.get(side)
            && other == number
        {
            *is_settled = true;
            *initial = Some(other);
            *self.syn.get_mut(side) = Some(announced);
        }
    }

    /// Turns the roles round: who is the client was guessed wrongly here.
    pub(super) fn turn_round(&mut self) {
        fn swap<T>(sides: &mut Sides<T>) {
            std::mem::swap(&mut sides.client, &mut sides.server);
        }
        swap(&mut self.ends);
        swap(&mut self.crossings);
        swap(&mut self.initial);
        swap(&mut self.syn);
        swap(&mut self.handshake.others);
        swap(&mut self.handshake.is_settled);
        self.content.turn_round();
    }

    /// Packets that were kept.
    #[must_use]
    pub fn packet_count(&self) -> usize {
        self.crossings.client.len() + self.crossings.server.len()
    }
}

impl Crossing {
    fn of(record: &PacketRecord<'_>, class: Option<Class>) -> Self {
        let headers = record.headers;
        let is_tcp = headers.protocol == protocol::TCP;
        let has_ack = record.flags().any(TcpFlags::ACK);
        Self {
            time_ns: record.time_ns.clamp(-TIME_MAX_NS, TIME_MAX_NS),
            frame: record.number,
            sequence: if is_tcp { headers.sequence } else { 0 },
            acknowledgement: if has_ack { headers.acknowledgement } else { 0 },
            length: headers.payload_length,
            timestamp_value: record.options.timestamp_value,
            timestamp_echo: record.options.timestamp_echo,
            digest: digest(record),
            ip_id: headers.ip_id,
            window: headers.window,
            flags: headers.tcp_flags.0,
            ttl: headers.ttl,
            class,
        }
    }

    /// Bytes that it takes in sequence space: payload, SYN and FIN (RFC 9293 section 3.4).
    #[must_use]
    pub fn sequence_length(&self) -> u32 {
        let one = |flag| u32::from(TcpFlags(self.flags).any(flag));
        self.length
            .saturating_add(one(TcpFlags::SYN) + one(TcpFlags::FIN))
    }

    /// Whether it carries timestamps.
    pub(super) const fn has_timestamps(&self) -> bool {
        self.timestamp_value != 0 || self.timestamp_echo != 0
    }
}

/// Times farther from the epoch are a file's fault, and taken for this one: a quarter of the range,
/// so that differences of differences are within it. 73 years.
pub(super) const TIME_MAX_NS: i64 = i64::MAX / 4;

/// See [`Crossing::digest`]. Of TCP without the length, which super-segments change.
fn digest(record: &PacketRecord<'_>) -> u32 {
    let headers = record.headers;
    let mut hasher = FixedState::with_seed(0).build_hasher();
    if headers.protocol == protocol::TCP && headers.payload_length == 0 {
        let mut block_count = 0_u32;
        for (left, right) in record.sack_blocks() {
            hasher.write_u32(left);
            hasher.write_u32(right);
            block_count += 1;
        }
        return if block_count == 0 {
            0
        } else {
            (hasher.finish() as u32).max(1)
        };
    }
    let (most, start) = match headers.protocol {
        protocol::TCP => (TRAIL_TCP_DIGEST_BYTES, headers.payload_offset),
        // The sequence number of an echo stands at the end of its header.
        protocol::ICMP | protocol::ICMPV6 => {
            (TRAIL_DIGEST_BYTES, headers.payload_offset.saturating_sub(2))
        }
        _ => (TRAIL_DIGEST_BYTES, headers.payload_offset),
    };
    let end = headers.payload_offset + headers.payload_length;
    let length = most.min((end - start.min(end)) as usize);
    let start = start as usize;
    let Some(bytes) = record.bytes.get(start..start.saturating_add(length)) else {
        return 0;
    };
    if bytes.is_empty() {
        return 0;
    }
    hasher.write(bytes);
    if headers.protocol != protocol::TCP {
        hasher.write_u32(headers.payload_length);
    }
    (hasher.finish() as u32).max(1)
}
