//! What the engine says of one packet of a flow that is followed packet by packet.

mod class;
mod clock;
mod half;
mod id;
mod packet;
mod sender;
mod space;

pub use class::{Class, Mark, Marks};
pub(crate) use half::{Half, Recovery, ResetNumber, run_count_max};
pub(crate) use packet::{Acknowledged, Acknowledgement, Sending, Sent};
pub(crate) use sender::Sender;

use crate::side::Side;

/// A packet of a traced flow, with all that was decided about it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Segment {
    /// Number of the frame at its hop, from 1.
    pub number: u64,
    /// When it was seen, in nanoseconds since the epoch.
    pub time_ns: i64,
    /// Number of the first frame of its flow: names the flow.
    pub flow: u64,
    /// IANA protocol number.
    pub protocol: u8,
    /// Who sent it.
    pub side: Side,
    /// What the segment is in its direction's sequence space; `None` for what carries no data,
    /// SYN or FIN, and for what is not TCP.
    pub class: Option<Class>,
    /// Why, in words.
    pub why: &'static str,
    /// What else is to be said of it.
    pub marks: Marks,
    /// TCP flags.
    pub flags: u8,
    /// First sequence number, in bytes from the sender's initial one (or the first one seen);
    /// `None` where it is not known or lies before that.
    pub sequence: Option<u64>,
    /// Payload bytes on the wire.
    pub length: u32,
    /// What it acknowledges, counted as the peer's `sequence`; `None` without ACK, and as
    /// there.
    pub acknowledgement: Option<u64>,
    /// Its window in bytes; `None` where its scale is not known.
    pub window: Option<u32>,
    /// Number of the frame whose data or SYN it acknowledges.
    pub acknowledged_frame: Option<u64>,
    /// Round trip that it gave: from the sending of what it acknowledges, in nanoseconds.
    pub rtt_ns: Option<i64>,
    /// Bytes of its sender under way after it; `None` where that is not known.
    pub flight: Option<u64>,
    /// Number of the frame that it repeats, where that is known.
    pub repeats_frame: Option<u64>,
}
