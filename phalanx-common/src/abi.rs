//! The contract with the kernel programs, byte for byte: keys, events, records, counters, filters.
//!
//! All structures are `repr(C)` with fixed widths and named padding; `zerocopy`'s derives prove
//! that there is no hidden padding. A change of any layout or meaning here raises [`ABI_VERSION`].

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::limits::{RECORD_DIGEST_SIZE, SAMPLE_COUNT};
use crate::packet::Unparsed;

/// The version of this contract. The object carries it, the loader compares.
pub const ABI_VERSION: u32 = 3;

/// Both directions of one 5-tuple at one interface: the same for a packet and for its answer.
///
/// `low` and `high` are the two ends (address and port) in an order that is total but without
/// meaning, chosen by `watch::write_key`. Addresses are in wire order, IPv4 ones mapped into IPv6;
/// ports are in the machine's order.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
#[repr(C)]
pub struct FlowKey {
    /// Address of the low end, in wire order.
    pub low: [u32; 4],
    /// Address of the high end, in wire order.
    pub high: [u32; 4],
    /// Port of the low end.
    pub low_port: u16,
    /// Port of the high end.
    pub high_port: u16,
    /// Index of the interface, in the namespace that the program was loaded for.
    pub ifindex: u32,
    /// Outermost VLAN id, 0 where there is none.
    pub vlan: u16,
    /// IANA protocol number.
    pub protocol: u8,
    /// Zero.
    pub reserved: u8,
}

/// Which way a packet goes through its flow: index into the halves of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Direction {
    /// Sent by the low end.
    FromLow = 0,
    /// Sent by the high end.
    FromHigh = 1,
}

impl Direction {
    /// The other way.
    #[must_use]
    pub const fn reverse(self) -> Self {
        match self {
            Self::FromLow => Self::FromHigh,
            Self::FromHigh => Self::FromLow,
        }
    }
}

/// Where in the network stack a packet was seen. What its clock means depends on this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Hook {
    /// XDP: received, before GRO.
    Xdp = 0,
    /// TC ingress: received, mostly after GRO.
    TcIngress = 1,
    /// TC egress: sent, before the queueing discipline and before TSO segmentation.
    TcEgress = 2,
}

/// What an event in the ring of events is: the first word of each.
pub mod event_kind {
    /// A [`super::FlowUpdate`].
    pub const FLOW_UPDATE: u32 = 1;
    /// An [`super::Attempt`].
    pub const ATTEMPT: u32 = 2;
}

/// Why a [`FlowUpdate`] was sent: bits.
pub mod update_reason {
    /// The flow was opened; its first update.
    pub const OPENED: u32 = 1;
    /// TCP: both ends have sent FIN and had it acknowledged.
    pub const CLOSED: u32 = 1 << 1;
    /// TCP: reset by either end.
    pub const RESET: u32 = 1 << 2;
    /// The interval since the last update has passed.
    pub const INTERVAL: u32 = 1 << 3;
    /// The samples are full.
    pub const SAMPLES: u32 = 1 << 4;
    /// An ICMP error quoted this flow.
    pub const ICMP_ERROR: u32 = 1 << 5;
    /// The 5-tuple was used again by a new connection: the last update of the old one.
    pub const REUSED: u32 = 1 << 6;
    /// Read from the table by user space after its silence.
    pub const EXPIRED: u32 = 1 << 7;
}

/// What one direction of a flow has counted since the flow was opened. Cumulative.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct HalfCounters {
    /// Packets on the wire: a GSO super-segment counts as its segments.
    pub packets: u64,
    /// IP bytes on the wire: headers are counted once for each segment of a super-segment.
    pub bytes: u64,
    /// Packets (upper 28 bits) and bytes that are not yet in the two above: see
    /// [`FlowUpdate::settle`].
    pub recent: u64,
    /// Payload bytes that this hop had seen before (TCP).
    pub retransmitted_bytes: u64,
    /// When `next_sequence` was reached, in ticks like `seen_tick` (TCP).
    pub next_sequence_tick: u32,
    /// Highest sequence number plus one (TCP).
    pub next_sequence: u32,
    /// Highest acknowledgement number sent by this end (TCP).
    pub acknowledged: u32,
    /// Time of the last packet: `CLOCK_MONOTONIC` in units of 1,024 ns, modulo 2³²; 0: none yet.
    pub seen_tick: u32,
    /// Smallest TTL or hop limit.
    pub ttl_min: u8,
    /// Largest TTL or hop limit.
    pub ttl_max: u8,
    /// All TCP flags seen, ORed.
    pub flags_seen: u8,
    /// Window scale of the SYN plus one, 0 where absent or not seen (TCP).
    pub window_scale_plus_one: u8,
    /// Last window sent, not scaled, plus one; 0: none yet (TCP).
    pub window_plus_one: u32,
    /// MSS option of the SYN in bytes, 0 where absent (TCP).
    pub mss: u32,
    /// Segments whose bytes this hop had all or partly seen before (TCP, SYN and FIN included).
    pub retransmitted_packets: u32,
    /// Segments behind the highest sequence that may be retransmissions of what was lost before
    /// this hop, or reordered: constant-size state cannot tell (TCP).
    pub out_of_sequence_packets: u32,
    /// Copies of the segment just before: same IP id and same sequence (TCP).
    pub duplicate_packets: u32,
    /// How often the sequence jumped ahead: packets lost or reordered before this hop (TCP).
    pub gap_count: u32,
    /// How often this end's receive window fell to zero (TCP).
    pub zero_window_count: u32,
    /// Keep-alive segments (TCP).
    pub keep_alive_count: u32,
    /// Packets that carried ECN "congestion experienced".
    pub ecn_marked_packets: u32,
    /// SYN segments.
    pub syn_count: u32,
    /// FIN segments.
    pub fin_count: u32,
    /// RST segments.
    pub rst_count: u32,
    /// ICMP errors that quoted a packet of this direction.
    pub icmp_error_count: u32,
    /// Acknowledgements from this end of bytes that this hop had not seen (TCP).
    pub acknowledged_unseen_count: u32,
    /// Segments and acknowledgements of this end whose numbers lie beyond any window: forged, or
    /// of a connection whose middle was not seen. They move nothing (TCP).
    pub implausible_packets: u32,
    /// Smallest RTT sample of data sent in this direction, in microseconds; 0 before the first.
    pub rtt_min_us: u32,
    /// RTT samples taken for data sent in this direction.
    pub rtt_sample_count: u32,
}

/// What user space learns of a flow: cumulative counters of both directions, and the latest
/// samples. It is the head of the flow's entry in the table, sent as it lies there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FlowUpdate {
    /// [`event_kind::FLOW_UPDATE`].
    pub kind: u32,
    /// Bits of [`update_reason`].
    pub reason: u32,
    /// Which flow.
    pub key: FlowKey,
    /// Tells apart the flows that used one key one after the other.
    pub incarnation: u32,
    /// Number of this update within its flow, from 1; a jump tells of updates lost in the ring.
    pub version: u32,
    /// 0: who opened the flow is not known; 1: the low end did; 2: the high end did.
    pub initiator: u32,
    /// When the first packet was seen: `CLOCK_MONOTONIC` nanoseconds.
    pub opened_ns: u64,
    /// When this update was made: `CLOCK_MONOTONIC` nanoseconds.
    pub now_ns: u64,
    /// SYN to SYN-ACK as seen at this hop, in microseconds; 0 where it was not seen or ambiguous.
    pub handshake_server_us: u32,
    /// SYN-ACK to its ACK as seen at this hop, in microseconds; 0 where not seen or ambiguous.
    pub handshake_client_us: u32,
    /// Type (upper byte) and code (lower byte) of the last ICMP error that quoted this flow.
    pub icmp_error: u32,
    /// Samples since the flow was opened; the last [`SAMPLE_COUNT`] of them are in `samples`.
    pub sample_count: u32,
    /// Which recording filters match this flow: bits by number of filter.
    pub matched: u64,
    /// Counters by [`Direction`].
    pub halves: [HalfCounters; 2],
    /// The latest samples as [`SampleWord`]s; sample number n lies at n modulo [`SAMPLE_COUNT`].
    pub samples: [u64; SAMPLE_COUNT],
}

/// What a sample measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SampleKind {
    /// Data of this direction to its exact acknowledgement, by sequence range (Karn's rule kept).
    Rtt(Direction),
    /// A retransmission of this direction to its acknowledgement, told by its timestamp (RFC 7323).
    RttByTimestamp(Direction),
    /// The last payload of the other direction to the first payload of this one: think time and
    /// path, or idle time and path.
    Turn(Direction),
}

/// One measured time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// What was measured.
    pub kind: SampleKind,
    /// How long it took, in microseconds; at least 1.
    pub microseconds: u32,
}

/// A sample as it lies in an update, with its number, so that a reader knows which one it holds
/// while a program may be writing there: from the highest bit down the number modulo 256 (8 bits),
/// the code of its kind (16), microseconds (32), and the number once more (8). A word of which only
/// a part was written when it was copied has two different numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SampleWord(pub u64);

impl SampleWord {
    /// Packs sample number `number` of its flow, counted from 0.
    #[inline(always)]
    #[must_use]
    pub const fn new(number: u32, sample: Sample) -> Self {
        let code = match sample.kind {
            SampleKind::Rtt(direction) => 1 + direction as u64,
            SampleKind::Turn(direction) => 3 + direction as u64,
            SampleKind::RttByTimestamp(direction) => 5 + direction as u64,
        };
        let microseconds = if sample.microseconds == 0 {
            1
        } else {
            sample.microseconds
        };
        let number = (number & 0xff) as u64;
        Self(number << 56 | code << 40 | (microseconds as u64) << 8 | number)
    }

    /// The number of the sample modulo 256, or `None` where only a part of it was written.
    #[must_use]
    pub const fn number(self) -> Option<u8> {
        let number = self.0 as u8;
        if (self.0 >> 56) as u8 == number {
            Some(number)
        } else {
            None
        }
    }

    /// The sample, or `None` for a word that no kernel program writes.
    #[must_use]
    pub const fn sample(self) -> Option<Sample> {
        let kind = match (self.0 >> 40) as u16 {
            1 => SampleKind::Rtt(Direction::FromLow),
            2 => SampleKind::Rtt(Direction::FromHigh),
            3 => SampleKind::Turn(Direction::FromLow),
            4 => SampleKind::Turn(Direction::FromHigh),
            5 => SampleKind::RttByTimestamp(Direction::FromLow),
            6 => SampleKind::RttByTimestamp(Direction::FromHigh),
            _ => return None,
        };
        let microseconds = (self.0 >> 8) as u32;
        Some(Sample { kind, microseconds })
    }
}

/// What a reader of a flow's updates finds of its samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadSample {
    /// The next sample.
    Sample(Sample),
    /// So many were overwritten before this update was made, or are of no known kind.
    Lost(u32),
}

/// Bits of [`HalfCounters::recent`] that count bytes.
pub const RECENT_BYTES_BITS: u32 = 36;

impl HalfCounters {
    /// Adds what is recent to packets and bytes.
    pub const fn settle(&mut self) {
        self.packets = self.packets.wrapping_add(self.recent >> RECENT_BYTES_BITS);
        self.bytes = self
            .bytes
            .wrapping_add(self.recent & ((1 << RECENT_BYTES_BITS) - 1));
        self.recent = 0;
    }
}

impl FlowUpdate {
    /// Makes the packets and bytes of an update that comes from the kernel whole.
    #[must_use]
    pub const fn settle(mut self) -> Self {
        self.halves[0].settle();
        self.halves[1].settle();
        self
    }

    /// Adds a sample as the programs do.
    pub fn push_sample(&mut self, sample: Sample) {
        let number = self.sample_count;
        self.samples[number as usize % SAMPLE_COUNT] = SampleWord::new(number, sample).0;
        self.sample_count = number.wrapping_add(1);
    }

    /// The samples after the first `read_count` of the flow, in their order. `read_count` moves on;
    /// a sample that was being written when the update was made is left for the next one.
    pub fn read_samples(&self, read_count: &mut u32, mut each: impl FnMut(ReadSample)) {
        let waiting = self.sample_count.wrapping_sub(*read_count);
        if waiting > u32::MAX / 2 {
            // An update that is older than one read before.
            return;
        }
        let overwritten = waiting.saturating_sub(SAMPLE_COUNT as u32);
        if overwritten > 0 {
            each(ReadSample::Lost(overwritten));
            *read_count = read_count.wrapping_add(overwritten);
        }
        while *read_count != self.sample_count {
            let number = *read_count;
            let word = SampleWord(self.samples[number as usize % SAMPLE_COUNT]);
            // A number before the wanted one: not written yet. 128 back are 8 rounds.
            let read = match word.number().map(|it| (number as u8).wrapping_sub(it)) {
                Some(0) if word.0 != 0 => word
                    .sample()
                    .map_or(ReadSample::Lost(1), ReadSample::Sample),
                None | Some(0..128) => return,
                Some(128..) => ReadSample::Lost(1),
            };
            each(read);
            *read_count = number.wrapping_add(1);
        }
    }
}

/// How an attempt to connect stands: [`Attempt::outcome`].
pub mod attempt_outcome {
    /// A first SYN was seen.
    pub const STARTED: u32 = 1;
    /// The SYN was answered by a RST.
    pub const REFUSED: u32 = 2;
    /// The SYN was answered by an ICMP error.
    pub const ICMP_ERROR: u32 = 3;
}

/// A TCP connection that is not open yet: a SYN was seen, or was refused. An attempt of which
/// nothing more is heard, neither a flow nor a refusal, went unanswered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Attempt {
    /// [`event_kind::ATTEMPT`].
    pub kind: u32,
    /// One of [`attempt_outcome`].
    pub outcome: u32,
    /// Which flow it would become.
    pub key: FlowKey,
    /// 1: the low end sent the SYN; 2: the high end did.
    pub initiator: u32,
    /// When: `CLOCK_MONOTONIC` nanoseconds.
    pub now_ns: u64,
    /// SYN to its answer, in microseconds; 0 where there was none yet.
    pub answer_us: u32,
    /// Type (upper byte) and code (lower byte) of the ICMP error, or 0.
    pub icmp_error: u32,
}

/// One packet of a recorded flow: the header of a record, followed by `captured_length` bytes of
/// the frame in an area whose size is one of [`crate::limits::SNAP_CLASSES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RecordHeader {
    /// When: `CLOCK_MONOTONIC` nanoseconds, at the hook.
    pub time_ns: u64,
    /// Which recording filters match: bits by number of filter.
    pub matched: u64,
    /// Which flow.
    pub key: FlowKey,
    /// The flow's incarnation, as in its updates; 0 where the flow is not open yet.
    pub incarnation: u32,
    /// Length of the frame at the hook in bytes; a super-segment's is up to 64 KiB and more.
    pub frame_length: u32,
    /// How many bytes of the frame follow.
    pub captured_length: u32,
    /// Offset of the IP header in the frame, in bytes.
    pub network_offset: u16,
    /// Offset of the transport header in the frame, in bytes.
    pub transport_offset: u16,
    /// Offset of the transport payload in the frame, in bytes.
    pub payload_offset: u16,
    /// Segments in this super-segment; 1 for a plain packet.
    pub gso_segments: u16,
    /// Payload bytes of each segment of a super-segment; 0 for a plain packet.
    pub gso_size: u16,
    /// VLAN tag kept beside the frame by the kernel (TCI), 0 where there is none.
    pub vlan_tag: u16,
    /// A [`Hook`].
    pub hook: u8,
    /// A [`Direction`].
    pub direction: u8,
    /// 1 where the frame begins with Ethernet, 0 where it begins with IP.
    pub has_ethernet: u8,
    /// How many bytes of `digest` are filled.
    pub digest_length: u8,
    /// The first bytes of the payload, that stitching needs: 16 for TCP, 32 for UDP. Empty where no
    /// filter matches.
    pub digest: [u8; RECORD_DIGEST_SIZE],
    /// 1 where the flow was promoted before this packet; `matched` may be 0 then.
    pub is_promoted: u8,
    /// Zero.
    pub reserved: [u8; 7],
}

/// A counter of the kernel programs, one slot per CPU. The sums over all CPUs obey, exactly, once
/// traffic has stopped:
/// - `Seen = SeenXdp + SeenTcIngress + SeenTcEgress = Parsed + Σ Unparsed`
/// - `Parsed = Watched + Pended + UntrackedTableFull + IcmpErrors + Refused`
/// - `Matched = Delivered + DroppedRingFull + SampledOut`
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum Counter {
    /// Packets that reached a hook (super-segments count once).
    Seen = 0,
    /// Packets parsed down to a flow.
    Parsed = 1,
    /// Parsed packets that were counted in a flow of the table.
    Watched = 2,
    /// Parsed packets that wait in the table of flows not yet opened.
    Pended = 3,
    /// Parsed packets whose flow could not be opened: the table is full.
    UntrackedTableFull = 4,
    /// Parsed packets that are ICMP errors (they are counted at the flow they quote, if any).
    IcmpErrors = 5,
    /// ICMP errors whose quote names a flow that is known.
    IcmpErrorsMatched = 6,
    /// Flows opened.
    FlowsOpened = 7,
    /// Packets that were lost for the flows because their pending entry was displaced.
    PendingDisplacedPackets = 8,
    /// Entries of the pending table that were displaced by others.
    PendingDisplaced = 9,
    /// Updates, attempts and the like that were delivered to the ring of events.
    EventsDelivered = 10,
    /// Events that found the ring full.
    EventsDroppedRingFull = 11,
    /// Packets of flows that match a recording filter.
    Matched = 12,
    /// Records delivered.
    Delivered = 13,
    /// Records that found the ring full.
    DroppedRingFull = 14,
    /// Records left out on purpose: of flows that looking back does not sample, and those of
    /// [`Counter::RecordsWithheld`].
    SampledOut = 15,
    /// Packets that start or answer a connection that is then refused: they open no flow.
    Refused = 16,
    /// Flows promoted to the record level by the program.
    Promoted = 17,
    /// Packets that reached the XDP hook.
    SeenXdp = 18,
    /// Packets that reached the TC ingress hook.
    SeenTcIngress = 19,
    /// Packets that reached the TC egress hook.
    SeenTcEgress = 20,
    /// Packets that waited in the pending table and were then counted in their flow.
    PendingFolded = 21,
    /// Packets that waited in the pending table until their connection was refused.
    PendingCleared = 22,
    /// Packets on the wire that `Pended` stands for: each segment of a super-segment counts.
    PendedPackets = 23,
    /// IP bytes that were lost for the flows because their pending entry was displaced.
    PendingDisplacedBytes = 24,
    /// Flows that would have been promoted, more often than may be.
    PromotionsLimited = 25,
    /// Attempts that were not told, since the ring of events was half full: a flood of SYNs must
    /// not drown the updates.
    AttemptsWithheld = 26,
    /// Records that no capture asked for, and that found the ring half full: part of `SampledOut`.
    RecordsWithheld = 27,
    /// The first of the [`Unparsed`] reasons; the others follow in their order.
    UnparsedFirst = 32,
}

/// How many counter slots there are: the counters and the reasons of [`Unparsed`], rounded up.
pub const COUNTER_COUNT: usize = 48;
const _: () = assert!(Counter::UnparsedFirst as usize + Unparsed::COUNT <= COUNTER_COUNT);

/// One recording filter as the kernel checks it, after the tuple space has made it a candidate:
/// the ends may stand either way round.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Filter {
    /// First port of end `a`.
    pub a_port_first: u16,
    /// Last port of end `a`.
    pub a_port_last: u16,
    /// First port of end `b`.
    pub b_port_first: u16,
    /// Last port of end `b`.
    pub b_port_last: u16,
    /// 1 where the filter is in force.
    pub is_set: u8,
    /// Index into [`crate::limits::SNAP_CLASSES`]; the whole class is captured where
    /// `has_payload` is set.
    pub snap_class: u8,
    /// 1 where records carry payload up to the snap length; 0: they end after the headers.
    pub has_payload: u8,
    /// Zero.
    pub reserved: [u8; 5],
}

/// What filters of one kind have in common, so that a hash finds them: the prefix lengths and
/// whether the protocol counts.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Shape {
    /// Mask of end `a`, in wire order.
    pub a_mask: [u32; 4],
    /// Mask of end `b`, in wire order.
    pub b_mask: [u32; 4],
    /// 1 where the protocol counts.
    pub has_protocol: u32,
    /// 1 where the shape is in force.
    pub is_set: u32,
}

/// Where the tuple space keeps the candidates of a shape: the value is a set of filters, bits by
/// number.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct TupleKey {
    /// Masked address of end `a`, in wire order.
    pub a: [u32; 4],
    /// Masked address of end `b`, in wire order.
    pub b: [u32; 4],
    /// The generation of the filters.
    pub generation: u32,
    /// Number of the shape.
    pub shape: u16,
    /// Protocol, or 0 where it does not count.
    pub protocol: u8,
    /// Zero.
    pub reserved: u8,
}

/// What user space tells the programs while they run: one entry, in an array map.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Control {
    /// Generation of the filters in force; 0: none. A flow whose cached answer is older asks again.
    pub generation: u32,
    /// How many shapes are in force.
    pub shape_count: u32,
    /// Longest time between two updates of a flow that sees packets, in nanoseconds.
    pub update_interval_ns: u64,
    /// 1: user space sleeps for long, and the next event shall wake it; the program that does
    /// writes 0.
    pub sleeps: u32,
    /// How many flows are promoted in one window of [`crate::watch::WINDOW_NS`] at most, over all
    /// CPUs.
    pub promotion_count_max: u32,
    /// How long a flow that has turned sick stays promoted, in nanoseconds; 0: none is promoted.
    pub promotion_hold_ns: u64,
    /// Recording filters of those who look back: bits by number. What these alone ask for takes
    /// half of the ring of records at most, and of it flows are sampled.
    pub lookback: u64,
    /// Flows whose [`crate::watch::sample_of`] lies below are recorded for looking back; all where
    /// it is [`crate::watch::SAMPLE_ALL`].
    pub sample_threshold: u32,
    /// Zero.
    pub reserved: u32,
}
