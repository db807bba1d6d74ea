//! What Wireshark 4.0 says of TCP segments (`tcp.analysis`), from the same records as ours: to
//! compare, and for those who think in its words. Rules and their order are those of
//! `tcp_analyze_sequence_number` in its `packet-tcp.c`; where they are wrong, so is this.

mod stream;

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use phalanx_common::packet::{TcpFlags, protocol};

use self::stream::Stream;
use crate::limits::WIRESHARK_STREAM_COUNT_MAX;
use crate::record::PacketRecord;

/// One thing that Wireshark says of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum AnalysisFlag {
    /// Suspected retransmission, fast and spurious ones too.
    Retransmission,
    /// After two duplicate ACKs or more, within 20 ms.
    FastRetransmission,
    /// Of what was acknowledged.
    SpuriousRetransmission,
    /// Soon after the highest sequence number.
    OutOfOrder,
    /// Previous segment not captured.
    LostSegment,
    /// ACKed segment that was not captured.
    AckLostSegment,
    /// Duplicate ACK.
    DuplicateAck,
    /// Window of 0.
    ZeroWindow,
    /// One byte into a window of 0.
    ZeroWindowProbe,
    /// The answer to that.
    ZeroWindowProbeAck,
    /// The window is full.
    WindowFull,
    /// Window update.
    WindowUpdate,
    /// Keep-alive.
    KeepAlive,
    /// The answer to that.
    KeepAliveAck,
    /// A new session with the same ports.
    ReusedPorts,
}

impl AnalysisFlag {
    /// All flags, in order.
    pub const ALL: [Self; 15] = [
        Self::Retransmission,
        Self::FastRetransmission,
        Self::SpuriousRetransmission,
        Self::OutOfOrder,
        Self::LostSegment,
        Self::AckLostSegment,
        Self::DuplicateAck,
        Self::ZeroWindow,
        Self::ZeroWindowProbe,
        Self::ZeroWindowProbeAck,
        Self::WindowFull,
        Self::WindowUpdate,
        Self::KeepAlive,
        Self::KeepAliveAck,
        Self::ReusedPorts,
    ];

    /// The flag as Wireshark's fields spell it, behind `tcp.analysis.`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Retransmission => "retransmission",
            Self::FastRetransmission => "fast_retransmission",
            Self::SpuriousRetransmission => "spurious_retransmission",
            Self::OutOfOrder => "out_of_order",
            Self::LostSegment => "lost_segment",
            Self::AckLostSegment => "ack_lost_segment",
            Self::DuplicateAck => "duplicate_ack",
            Self::ZeroWindow => "zero_window",
            Self::ZeroWindowProbe => "zero_window_probe",
            Self::ZeroWindowProbeAck => "zero_window_probe_ack",
            Self::WindowFull => "window_full",
            Self::WindowUpdate => "window_update",
            Self::KeepAlive => "keep_alive",
            Self::KeepAliveAck => "keep_alive_ack",
            Self::ReusedPorts => "reused_ports",
        }
    }
}

/// A set of [`AnalysisFlag`]s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AnalysisFlags(u16);

impl AnalysisFlags {
    /// Puts a flag in.
    pub const fn set(&mut self, flag: AnalysisFlag) {
        self.0 |= 1 << flag as u16;
    }

    /// Whether a flag is in.
    #[must_use]
    pub const fn has(self, flag: AnalysisFlag) -> bool {
        self.0 & (1 << flag as u16) != 0
    }

    /// Whether none is in.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The flags in the set, in order.
    pub fn iter(self) -> impl Iterator<Item = AnalysisFlag> {
        AnalysisFlag::ALL
            .into_iter()
            .filter(move |flag| self.has(*flag))
    }
}

/// What Wireshark says of one segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Analysis {
    /// `tcp.stream`.
    pub stream: u32,
    /// The flags.
    pub flags: AnalysisFlags,
    /// `tcp.analysis.duplicate_ack_num`.
    pub duplicate_ack_number: Option<u32>,
    /// `tcp.analysis.acks_frame`.
    pub acks_frame: Option<u64>,
    /// `tcp.analysis.ack_rtt`, in nanoseconds.
    pub ack_rtt_ns: Option<i64>,
    /// `tcp.analysis.initial_rtt`, in nanoseconds; only where anything else is said.
    pub initial_rtt_ns: Option<i64>,
    /// `tcp.analysis.rto`, in nanoseconds.
    pub rto_ns: Option<i64>,
    /// `tcp.analysis.bytes_in_flight`.
    pub bytes_in_flight: Option<u32>,
}

/// Addresses and ports, the smaller end first.
type Key = ([u64; 2], u16, [u64; 2], u16);

/// All streams of one capture.
pub struct Wireshark {
    streams: HashMap<Key, Stream, FixedState>,
    next: u32,
    left_out: u64,
}

impl Wireshark {
    /// No stream yet. `seed` is of the hash: addresses and ports are chosen by others.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            streams: HashMap::with_hasher(FixedState::with_seed(seed)),
            next: 0,
            left_out: 0,
        }
    }

    /// Segments of streams beyond those that are kept, of which nothing is said.
    #[must_use]
    pub const fn left_out(&self) -> u64 {
        self.left_out
    }

    /// Takes a packet in, in the order of the capture; `None` for what is not TCP.
    pub fn handle(&mut self, record: &PacketRecord<'_>) -> Option<Analysis> {
        let headers = record.headers;
        if headers.protocol != protocol::TCP {
            return None;
        }
        let source = (headers.source, headers.source_port);
        let destination = (headers.destination, headers.destination_port);
        let is_forward = source <= destination;
        let (low, high) = if is_forward {
            (source, destination)
        } else {
            (destination, source)
        };
        let key = (low.0, low.1, high.0, high.1);
        let is_known = self.streams.contains_key(&key);
        if !is_known && self.streams.len() >= WIRESHARK_STREAM_COUNT_MAX {
            self.left_out += 1;
            return None;
        }
        let next = &mut self.next;
        let stream = self.streams.entry(key).or_insert_with(|| {
            let stream = Stream::new(*next);
            *next += 1;
            stream
        });
        let direction = usize::from(!is_forward);
        let is_syn = headers.tcp_flags.0 & (TcpFlags::SYN | TcpFlags::ACK) == TcpFlags::SYN;
        let mut is_reused = false;
        if is_syn && stream.has_other_base(direction, headers.sequence) {
            *stream = Stream::new(*next);
            *next += 1;
            is_reused = true;
        }
        let mut analysis = stream.analyze(record, direction);
        if is_reused {
            analysis.flags.set(AnalysisFlag::ReusedPorts);
        }
        Some(analysis)
    }
}
