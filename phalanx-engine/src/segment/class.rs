//! The classes of segments, and the marks beside them.

/// What a segment is in its direction's sequence space. Each data segment, SYN and FIN has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Class {
    /// Bytes not seen before, at or beyond the highest sequence number.
    New,
    /// Bytes seen before, sent again after duplicate acknowledgements or SACK (RFC 5681
    /// section 3.2, RFC 6675).
    FastRetransmission,
    /// Bytes seen before, sent again after the retransmission timeout (RFC 6298).
    TimeoutRetransmission,
    /// The last segment sent again to draw an acknowledgement (RFC 8985 section 7).
    TailLossProbe,
    /// Bytes sent again that were acknowledged before, or that DSACK calls needless (RFC 2883).
    SpuriousRetransmission,
    /// Bytes seen before, sent again for a reason that cannot be told.
    Retransmission,
    /// A copy that no endpoint sent: same IP id, sequence, options.
    NetworkDuplicate,
    /// A copy of the same packet from another place of its way: its TTL, MAC or VLAN differs.
    CaptureDuplicate,
    /// Bytes not seen before, overtaken by later ones.
    Reordered,
    /// Bytes not seen before that were lost before this hop and sent again.
    FillsHole,
    /// A byte or none just before the next: asks whether the peer is alive (RFC 9293
    /// section 3.8.4).
    KeepAlive,
    /// A byte sent into a closed window (RFC 9293 section 3.8.6.1).
    ZeroWindowProbe,
}

impl Class {
    /// How many classes there are.
    pub const COUNT: usize = 12;

    /// All classes, in order.
    pub const ALL: [Self; Self::COUNT] = [
        Self::New,
        Self::FastRetransmission,
        Self::TimeoutRetransmission,
        Self::TailLossProbe,
        Self::SpuriousRetransmission,
        Self::Retransmission,
        Self::NetworkDuplicate,
        Self::CaptureDuplicate,
        Self::Reordered,
        Self::FillsHole,
        Self::KeepAlive,
        Self::ZeroWindowProbe,
    ];

    /// The class as reports spell it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::FastRetransmission => "fast_retransmission",
            Self::TimeoutRetransmission => "timeout_retransmission",
            Self::TailLossProbe => "tail_loss_probe",
            Self::SpuriousRetransmission => "spurious_retransmission",
            Self::Retransmission => "retransmission",
            Self::NetworkDuplicate => "network_duplicate",
            Self::CaptureDuplicate => "capture_duplicate",
            Self::Reordered => "reordered",
            Self::FillsHole => "fills_hole",
            Self::KeepAlive => "keep_alive",
            Self::ZeroWindowProbe => "zero_window_probe",
        }
    }

    /// Whether the sender sent these bytes before, as far as can be told here; what fills a hole
    /// was sent before, but not seen.
    #[must_use]
    pub const fn is_retransmission(self) -> bool {
        matches!(
            self,
            Self::FastRetransmission
                | Self::TimeoutRetransmission
                | Self::TailLossProbe
                | Self::SpuriousRetransmission
                | Self::Retransmission
        )
    }

    /// Whether the packet was captured once already.
    #[must_use]
    pub const fn is_copy(self) -> bool {
        matches!(self, Self::NetworkDuplicate | Self::CaptureDuplicate)
    }
}

/// One thing to be said of a packet beside its class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Mark {
    /// Acknowledges the same as before while data is under way (RFC 5681 section 2).
    DuplicateAck = 0,
    /// Changes nothing but the window.
    WindowUpdate = 1,
    /// Its data ends where the peer's window does.
    WindowFull = 2,
    /// Announces a window of 0.
    ZeroWindow = 3,
    /// Acknowledges bytes that were not captured.
    AckOfUnseen = 4,
    /// Carries SACK blocks (RFC 2018).
    Sack = 5,
    /// Carries a DSACK block (RFC 2883).
    Dsack = 6,
    /// The 5-tuple was used before: a new connection.
    PortReuse = 7,
    /// Answers a keep-alive.
    KeepAliveAck = 8,
    /// Answers a zero-window probe.
    ZeroWindowProbeAck = 9,
    /// Bytes before it were not captured (yet).
    Gap = 10,
    /// A RST that does not fit its sender: TTL, IP id, sequence or timestamps.
    UnfittingReset = 11,
    /// Numbers beyond any window of the connection.
    Implausible = 12,
    /// Bytes that were seen before with another content: somebody else may have sent them.
    Conflict = 13,
}

impl Mark {
    /// All marks, in order.
    pub const ALL: [Self; 14] = [
        Self::DuplicateAck,
        Self::WindowUpdate,
        Self::WindowFull,
        Self::ZeroWindow,
        Self::AckOfUnseen,
        Self::Sack,
        Self::Dsack,
        Self::PortReuse,
        Self::KeepAliveAck,
        Self::ZeroWindowProbeAck,
        Self::Gap,
        Self::UnfittingReset,
        Self::Implausible,
        Self::Conflict,
    ];

    /// The mark as reports spell it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::DuplicateAck => "duplicate_ack",
            Self::WindowUpdate => "window_update",
            Self::WindowFull => "window_full",
            Self::ZeroWindow => "zero_window",
            Self::AckOfUnseen => "ack_of_unseen",
            Self::Sack => "sack",
            Self::Dsack => "dsack",
            Self::PortReuse => "port_reuse",
            Self::KeepAliveAck => "keep_alive_ack",
            Self::ZeroWindowProbeAck => "zero_window_probe_ack",
            Self::Gap => "gap",
            Self::UnfittingReset => "unfitting_reset",
            Self::Implausible => "implausible",
            Self::Conflict => "conflict",
        }
    }
}

/// A set of [`Mark`]s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks(u16);

impl Marks {
    /// Puts a mark in.
    pub const fn set(&mut self, mark: Mark) {
        self.0 |= 1 << mark as u16;
    }

    /// Whether a mark is in.
    #[must_use]
    pub const fn has(self, mark: Mark) -> bool {
        self.0 & (1 << mark as u16) != 0
    }

    /// Puts all of another set in.
    pub const fn join(&mut self, other: Self) {
        self.0 |= other.0;
    }

    /// The marks in the set, in order.
    pub fn iter(self) -> impl Iterator<Item = Mark> {
        Mark::ALL.into_iter().filter(move |mark| self.has(*mark))
    }
}
