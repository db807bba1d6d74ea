//! TCP flags and options.

use super::{Headers, protocol};
use crate::bytes::{Bytes, Window};
use crate::limits::{OFFSET_MASK, TCP_OPTION_COUNT_MAX};

/// The TCP flags (RFC 9293 section 3.1), the lower eight bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// Push.
    pub const PSH: u8 = 0x08;
    /// The acknowledgement number counts.
    pub const ACK: u8 = 0x10;
    /// The urgent pointer counts.
    pub const URG: u8 = 0x20;
    /// ECN echo (RFC 3168).
    pub const ECE: u8 = 0x40;
    /// Congestion window reduced (RFC 3168).
    pub const CWR: u8 = 0x80;

    /// Whether any flag of `mask` is set.
    #[inline(always)]
    #[must_use]
    pub const fn any(self, mask: u8) -> bool {
        self.0 & mask != 0
    }
}

/// The TCP options that flows are told apart and measured by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpOptions {
    /// Maximum segment size in bytes; 0 where the option is absent.
    pub mss: u16,
    /// Window scale shift plus one; 0 where the option is absent (RFC 7323 section 2).
    pub window_scale_plus_one: u8,
    /// SACK permitted (RFC 2018 section 2).
    pub sack_permitted: bool,
    /// Timestamps present (RFC 7323 section 3).
    pub has_timestamps: bool,
    /// `TSval`.
    pub timestamp_value: u32,
    /// `TSecr`.
    pub timestamp_echo: u32,
    /// Where the SACK blocks begin, in bytes from the start of the frame; 0 where there are none.
    pub sack_offset: u16,
    /// How many SACK blocks there are: 0 to 4.
    pub sack_block_count: u8,
}

impl TcpOptions {
    /// The SACK blocks as `(left edge, right edge)`, of the frame whose options these are; one
    /// that was not captured ends them.
    pub fn sack_blocks<B: Bytes>(self, bytes: B) -> impl Iterator<Item = (u32, u32)> {
        let first = usize::from(self.sack_offset);
        (0..usize::from(self.sack_block_count)).map_while(move |index| {
            let block = bytes.window::<8>(first + 8 * index)?;
            Some((block.u32(0), block.u32(4)))
        })
    }
}

/// Reads the options that flows are measured by into `headers`: the timestamps of every segment
/// that carries them where nearly every stack puts them, and what a SYN announces. Nothing for what
/// is not TCP.
pub fn read_options<B: Bytes>(bytes: B, headers: &mut Headers) {
    read_timestamps(bytes, headers);
    if is_syn(headers) {
        let (start, end) = (headers.transport_offset + 20, headers.payload_offset);
        read_syn_options(bytes, start, end, headers);
    }
}

/// Whether the packet is a SYN, or a SYN-ACK.
#[inline(always)]
#[must_use]
pub const fn is_syn(headers: &Headers) -> bool {
    headers.protocol == protocol::TCP && headers.tcp_flags.any(TcpFlags::SYN)
}

/// The first part of [`read_options`].
#[inline(always)]
pub fn read_timestamps<B: Bytes>(bytes: B, headers: &mut Headers) {
    let (start, end) = (headers.transport_offset + 20, headers.payload_offset);
    if headers.protocol == protocol::TCP
        && let Some((value, echo)) = parse_timestamps(bytes, start, end)
    {
        headers.timestamp_value = value;
        headers.timestamp_echo = echo;
    }
}

/// The second part of [`read_options`], for a SYN whose options lie between `start` and `end`.
#[inline(always)]
pub fn read_syn_options<B: Bytes>(bytes: B, start: u32, end: u32, headers: &mut Headers) {
    let options = parse_tcp_options(bytes, start, end);
    headers.mss = options.mss;
    headers.window_scale_plus_one = options.window_scale_plus_one;
}

/// Reads the options between `start` and `end` (bytes from the start of the frame). What is
/// malformed or cut ends the walk; what was read before it stands.
#[inline(always)]
pub fn parse_tcp_options<B: Bytes>(bytes: B, start: u32, end: u32) -> TcpOptions {
    let mut options = TcpOptions::default();
    let mut at = start & OFFSET_MASK;
    for _ in 0..TCP_OPTION_COUNT_MAX {
        if at >= end {
            break;
        }
        let Some(length) = parse_option(bytes, at, end, &mut options) else {
            break;
        };
        at = (at + length) & OFFSET_MASK;
    }
    options
}

/// Reads one option and returns its length in bytes, or `None` where the list ends.
#[inline(always)]
fn parse_option<B: Bytes>(bytes: B, at: u32, end: u32, options: &mut TcpOptions) -> Option<u32> {
    let offset = at as usize;
    let kind = bytes.window::<1>(offset)?.u8(0);
    match kind {
        0 => return None,
        1 => return Some(1),
        _ => {}
    }
    let length = u32::from(bytes.window::<2>(offset)?.u8(1));
    if length < 2 || at + length > end {
        return None;
    }
    match (kind, length) {
        (2, 4) => options.mss = bytes.window::<4>(offset)?.u16(2),
        // RFC 7323 section 2.3: a shift above 14 is taken as 14.
        (3, 3) => options.window_scale_plus_one = bytes.window::<3>(offset)?.u8(2).min(14) + 1,
        (4, 2) => options.sack_permitted = true,
        (5, 10 | 18 | 26 | 34) => {
            options.sack_offset = (at + 2) as u16;
            options.sack_block_count = (length / 8) as u8;
        }
        (8, 10) => {
            let timestamps = bytes.window::<10>(offset)?;
            options.has_timestamps = true;
            options.timestamp_value = timestamps.u32(2);
            options.timestamp_echo = timestamps.u32(6);
        }
        _ => {}
    }
    Some(length)
}

/// The timestamps of a segment whose options begin as nearly every stack writes them (two NOPs,
/// then timestamps: RFC 7323 appendix A), without a walk: `(TSval, TSecr)`.
#[inline(always)]
pub fn parse_timestamps<B: Bytes>(bytes: B, start: u32, end: u32) -> Option<(u32, u32)> {
    if end.wrapping_sub(start) < 12 {
        return None;
    }
    let options = bytes.window::<12>((start & OFFSET_MASK) as usize)?;
    (options.u32(0) == 0x0101_080a).then(|| (options.u32(4), options.u32(8)))
}
