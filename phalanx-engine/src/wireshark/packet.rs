//! What of a packet the rules look at, of a segment on its own or one that an ICMP error quotes.

use phalanx_common::packet::{
    Headers, TcpFlags, TcpOptions, parse_quote, parse_tcp_options, protocol,
};

use crate::record::PacketRecord;

/// SACK blocks that tshark takes in; more fit beside no other option.
const SACK_BLOCK_COUNT_MAX: usize = 3;

/// Bytes of a quoted TCP header without which tshark gives up: up to its window.
const QUOTE_LENGTH_MIN: usize = 16;

/// One segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packet {
    pub(super) number: u64,
    pub(super) time_ns: i64,
    pub(super) sequence: u32,
    pub(super) acknowledgement: u32,
    /// Payload in bytes.
    pub(super) length: u32,
    pub(super) flags: TcpFlags,
    /// Not scaled.
    pub(super) window: u32,
    /// Of the window scale option; 0 where it is absent.
    pub(super) window_scale_plus_one: u8,
    /// Bytes in the SACK blocks.
    pub(super) sacked: u32,
    /// The capture ends in the options: tshark shows nothing then.
    pub(super) is_cut: bool,
    /// Its length cannot be told, so that it takes part in no analysis: an ICMP error quotes it, or
    /// it is the first of fragments that were not captured whole.
    pub(super) is_partial: bool,
}

impl Packet {
    pub(super) fn of(record: &PacketRecord<'_>) -> Self {
        let headers = record.headers;
        let options_length = headers
            .payload_offset
            .saturating_sub(headers.transport_offset + 20);
        Self {
            number: record.number,
            time_ns: record.time_ns,
            sequence: headers.sequence,
            acknowledgement: headers.acknowledgement,
            length: if headers.is_fragmented {
                0
            } else {
                headers.payload_length
            },
            flags: headers.tcp_flags,
            window: headers.window.into(),
            window_scale_plus_one: record.options.window_scale_plus_one,
            sacked: sacked(record.options, record.bytes),
            is_cut: record.bytes.len() < headers.payload_offset as usize
                && options_are_cut(record.option_bytes(), options_length as usize),
            is_partial: headers.is_fragmented,
        }
    }
}

/// Whether all of the IP packet was captured, as its header tells its length.
pub(super) fn is_captured_whole(record: &PacketRecord<'_>) -> bool {
    let start = record.headers.network_offset as usize;
    let packet = record.bytes.get(start..).unwrap_or_default();
    let (at, header_length) = match record.headers.version {
        4 => (2, 0),
        _ => (4, 40),
    };
    let Some([high, low]) = packet.get(at..at + 2).and_then(<[u8]>::first_chunk) else {
        return false;
    };
    packet.len() >= header_length + usize::from(u16::from_be_bytes([*high, *low]))
}

fn sacked(options: &TcpOptions, bytes: &[u8]) -> u32 {
    if options.sack_block_count == 0 {
        return 0;
    }
    let blocks = options.sack_blocks(bytes).take(SACK_BLOCK_COUNT_MAX);
    blocks.fold(0, |sum: u32, (left, right)| {
        sum.wrapping_add(right.wrapping_sub(left))
    })
}

/// Whether the walk over the options, of which there were `length` bytes, reaches beyond those that
/// were captured. What follows the end of the list is looked at too; a malformed option ends it.
fn options_are_cut(mut captured: &[u8], mut length: usize) -> bool {
    while length > captured.len() {
        let step = match captured {
            [] | [0, ..] => return true,
            [1, ..] => 1,
            [_] => return true,
            [_, step, ..] => usize::from(*step),
        };
        if step == 0 || step > length || step == 1 && captured[0] != 1 {
            return false;
        }
        let Some(rest) = captured.get(step..) else {
            return true;
        };
        captured = rest;
        length -= step;
    }
    false
}

/// The segment that an ICMP error quotes, and its headers; `None` where it quotes too little of it.
pub(super) fn quoted(record: &PacketRecord<'_>) -> Option<(Headers, Packet)> {
    let error = record.headers;
    // Of the ICMPv6 errors only these quote (RFC 4443 section 2.1).
    if error.protocol == protocol::ICMPV6 && error.sequence >> 8 > 4 {
        return None;
    }
    let headers = parse_quote(record.bytes, error).ok()?;
    if headers.protocol != protocol::TCP {
        return None;
    }
    let end = (error.payload_offset as usize).saturating_add(error.payload_length as usize);
    let bytes = record.bytes.get(..end).unwrap_or(record.bytes);
    let start = headers.transport_offset as usize;
    let tcp = bytes.get(start..)?;
    let tcp: &[u8; QUOTE_LENGTH_MIN] = tcp.first_chunk()?;
    let header_length = u32::from(tcp[12] >> 4) * 4;
    let options_start = headers.transport_offset.saturating_add(20);
    let options_end = headers.transport_offset.saturating_add(header_length);
    let options = parse_tcp_options(bytes, options_start, options_end);
    let option_bytes = bytes.get(options_start as usize..).unwrap_or_default();
    let packet = Packet {
        number: record.number,
        time_ns: record.time_ns,
        sequence: headers.sequence,
        acknowledgement: u32::from_be_bytes([tcp[8], tcp[9], tcp[10], tcp[11]]),
        length: 0,
        flags: TcpFlags(tcp[13]),
        window: u16::from_be_bytes([tcp[14], tcp[15]]).into(),
        window_scale_plus_one: options.window_scale_plus_one,
        sacked: sacked(&options, bytes),
        is_cut: bytes.len() < start + 20
            || options_are_cut(
                option_bytes,
                options_end.saturating_sub(options_start) as usize,
            ),
        is_partial: true,
    };
    Some((headers, packet))
}
