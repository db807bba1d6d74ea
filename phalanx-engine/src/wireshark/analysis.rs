//! What is said of one packet.

/// One of Wireshark's `tcp.analysis` flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum AnalysisFlag {
    /// Data, SYN or FIN below the highest sequence number, and none of the other kinds; set beside
    /// [`Self::FastRetransmission`] and [`Self::SpuriousRetransmission`] too.
    Retransmission = 0,
    /// Sent within 20 ms after a second duplicate ACK that asks for it.
    FastRetransmission = 1,
    /// Data that was acknowledged before.
    SpuriousRetransmission = 2,
    /// Below the highest sequence number, within the initial round trip after it.
    OutOfOrder = 3,
    /// Bytes before it were not captured.
    LostSegment = 4,
    /// Acknowledges what was not captured.
    AckLostSegment = 5,
    /// The same as the ACK before, without data.
    DuplicateAck = 6,
    /// Announces a window of 0.
    ZeroWindow = 7,
    /// One byte, sent into a window of 0.
    ZeroWindowProbe = 8,
    /// Answers a zero-window probe, and the window is 0 still.
    ZeroWindowProbeAck = 9,
    /// Ends exactly where the peer's window does.
    WindowFull = 10,
    /// Changes nothing but the window.
    WindowUpdate = 11,
    /// No byte or one, just before the next.
    KeepAlive = 12,
    /// Answers a keep-alive.
    KeepAliveAck = 13,
    /// A SYN or SYN-ACK of addresses and ports that were used before.
    ReusedPorts = 14,
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

    /// The flag as Wireshark spells it behind `tcp.analysis.`.
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
    pub(super) const NONE: Self = Self(0);

    pub(super) const fn set(&mut self, flag: AnalysisFlag) {
        self.0 |= 1 << flag as u16;
    }

    /// Whether a flag is in.
    #[must_use]
    pub const fn has(self, flag: AnalysisFlag) -> bool {
        self.0 & (1 << flag as u16) != 0
    }

    /// Whether there is none.
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

    /// The names of the flags in the set, in order.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        self.iter().map(AnalysisFlag::name)
    }
}

/// What Wireshark's columns hold of one packet; `None` where a column is empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Analysis {
    /// `tcp.stream`: counts from 0 in the order of first packets.
    pub stream: u32,
    /// `tcp.completeness` of the stream before this packet, as one pass shows it: SYN 1, SYN-ACK
    /// 2, ACK 4, data 8, FIN 16, RST 32.
    pub completeness: u8,
    /// The flags.
    pub flags: AnalysisFlags,
    /// `tcp.analysis.duplicate_ack_num`: how many duplicates of one ACK there were so far.
    pub duplicate_ack_number: Option<u32>,
    /// `tcp.analysis.duplicate_ack_frame`: the number of the frame that it is a duplicate of.
    pub duplicate_ack_frame: Option<u64>,
    /// `tcp.analysis.acks_frame`: the number of the frame whose end it acknowledges.
    pub acks_frame: Option<u64>,
    /// `tcp.analysis.ack_rtt`: the time since that frame, in nanoseconds.
    pub ack_rtt_ns: Option<i64>,
    /// `tcp.analysis.initial_rtt`: from the last SYN to the first ACK, in nanoseconds. Shown, as
    /// tshark does, where there is anything else to show.
    pub initial_rtt_ns: Option<i64>,
    /// `tcp.analysis.rto`: since the oldest segment that is not acknowledged, in nanoseconds.
    pub rto_ns: Option<i64>,
    /// `tcp.analysis.bytes_in_flight`: payload sent and not acknowledged after it, in bytes.
    pub bytes_in_flight: Option<u32>,
}
