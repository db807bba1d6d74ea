//! What is remembered of one direction.

use super::analysis::AnalysisFlags;
use super::unacked::Unacked;

/// In place of a count of duplicates: the peer has acknowledged what was not captured. It is also
/// two or more, so that tshark calls what follows a fast retransmission.
pub(super) const UNSEEN_ACKNOWLEDGED: u32 = u32::MAX;

/// What is known of a direction's window scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scale {
    Unknown,
    /// The two did not agree on scaling.
    Unused,
    Shift(u8),
}

impl Scale {
    pub(super) const fn shift(self) -> u32 {
        match self {
            Self::Unknown | Self::Unused => 0,
            Self::Shift(shift) => shift as u32,
        }
    }
}

/// One direction. As in tshark, 0 in a sequence number stands for "not known yet".
#[derive(Clone, Debug)]
pub(super) struct Flow {
    /// The initial sequence number, or the first one seen less one.
    pub(super) base: u32,
    /// The highest end so far.
    pub(super) next: u32,
    /// Where the data that came without a gap ends.
    pub(super) contiguous: u32,
    /// Of the last packet, with the ACK flag or without.
    pub(super) acknowledgement: u32,
    /// Of the last packet, not scaled; none at first, which is none of those that fit a packet.
    pub(super) window: u32,
    /// Bytes in the SACK blocks of the last packet.
    pub(super) sacked: u32,
    /// When `next` last rose.
    pub(super) next_time_ns: i64,
    /// When the last packet came.
    pub(super) time_ns: i64,
    /// The frame that `acknowledgement` came with first.
    pub(super) acknowledgement_frame: u64,
    /// Duplicates of `acknowledgement`, or [`UNSEEN_ACKNOWLEDGED`].
    pub(super) duplicate_count: u32,
    pub(super) flags: AnalysisFlags,
    pub(super) scale: Scale,
    pub(super) has_base: bool,
    /// No gap since the peer's last ACK: what is in flight can be told.
    pub(super) tells_flight: bool,
    /// Its SYN was seen, and no ACK after it.
    pub(super) awaits_first_ack: bool,
    pub(super) unacked: Unacked,
}

impl Flow {
    pub(super) const NEW: Self = Self {
        base: 0,
        next: 0,
        contiguous: 0,
        acknowledgement: 0,
        window: u32::MAX,
        sacked: 0,
        next_time_ns: 0,
        time_ns: 0,
        acknowledgement_frame: 0,
        duplicate_count: 0,
        flags: AnalysisFlags::NONE,
        scale: Scale::Unknown,
        has_base: false,
        tells_flight: true,
        awaits_first_ack: false,
        unacked: Unacked::EMPTY,
    };

    pub(super) fn set_base(&mut self, base: u32) {
        self.has_base = true;
        if self.base != base {
            self.base = base;
            self.unacked.rebase(base);
        }
    }
}
