//! A packet as the halves of its connection take it, and what they say of it. Values only.

use super::class::{Class, Marks};

/// A segment as its half takes it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sending {
    pub(crate) sequence: u32,
    /// Payload bytes.
    pub(crate) length: u32,
    pub(crate) is_syn: bool,
    pub(crate) is_fin: bool,
    pub(crate) is_rst: bool,
    pub(crate) time_ns: i64,
    pub(crate) frame: u64,
    pub(crate) ip_id: u16,
    /// `TSval`, 0 without timestamps.
    pub(crate) timestamp: u32,
    /// A hash of the first bytes of the payload, 0 where they were not captured.
    pub(crate) digest: u32,
    /// Largest segment that the peer takes, by its SYN; 0 where that is not known.
    pub(crate) mss: u16,
    /// The peer has sent data since this side's last packet.
    pub(crate) is_answer: bool,
    /// Round trip of the sender, as far as it is known, in nanoseconds.
    pub(crate) peer_rtt_ns: Option<i64>,
}

/// What a half says of a segment of its sender.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sent {
    pub(crate) class: Option<Class>,
    pub(crate) why: &'static str,
    pub(crate) marks: Marks,
    /// Unwrapped number of its first byte.
    pub(crate) start: u64,
    /// Payload bytes that had been seen before.
    pub(crate) old: u64,
    /// Payload bytes that had not.
    pub(crate) new: u64,
    /// Bytes of a zero-window probe before it that it tells to have been taken.
    pub(crate) accepted: u64,
    /// The frame that carried its bytes first.
    pub(crate) repeats_frame: Option<u64>,
    /// Of the new bytes, those that had been acknowledged and taken for not captured.
    pub(crate) found: u64,
    /// Bytes that were seen before with another content.
    pub(crate) is_conflict: bool,
    /// How long the hole that it fills was open, in nanoseconds.
    pub(crate) lateness_ns: i64,
}

/// An acknowledgement as the half of the data's sender takes it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Acknowledgement<'a> {
    pub(crate) number: u32,
    /// Window in bytes, scaled; `None` where the scale is not known.
    pub(crate) window: Option<u32>,
    /// Window as sent.
    pub(crate) raw_window: u16,
    /// Neither payload, SYN, FIN nor RST.
    pub(crate) is_pure: bool,
    /// SYN, FIN or RST.
    pub(crate) is_control: bool,
    pub(crate) is_reset: bool,
    /// ECE, other than in the handshake.
    pub(crate) has_ecn_echo: bool,
    pub(crate) sacks: &'a [(u32, u32)],
    /// Most runs that there may be.
    pub(crate) run_count_max: usize,
    /// `TSecr`, 0 without timestamps.
    pub(crate) echo: u32,
    pub(crate) time_ns: i64,
    /// From the hop to the data's sender and back, in nanoseconds.
    pub(crate) upstream_ns: i64,
}

/// What came of an acknowledgement.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Acknowledged {
    pub(crate) marks: Marks,
    /// Unwrapped.
    pub(crate) number: u64,
    /// Bytes acknowledged for the first time.
    pub(crate) new: u64,
    /// Of these a zero-window probe's.
    pub(crate) accepted: u64,
    /// Of the new never seen here.
    pub(crate) unseen: u64,
    pub(crate) rtt_ns: Option<i64>,
    pub(crate) frame: Option<u64>,
    /// The first duplicate in a row.
    pub(crate) is_first_duplicate: bool,
    /// A DSACK that names a segment sent again.
    pub(crate) is_needless: bool,
}
