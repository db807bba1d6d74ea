//! ICMP and `ICMPv6`: echo identifiers, and the packet that an error quotes.

use super::{Headers, Link, TcpFlags, Unparsed, ip, protocol};
use crate::bytes::{Bytes, Window};
use crate::limits::OFFSET_MASK;

/// Reads type, code and echo identifier; returns the header length in bytes.
#[inline(always)]
pub(super) fn parse_icmp<B: Bytes>(
    bytes: B,
    at: usize,
    headers: &mut Headers,
) -> Result<u32, Unparsed> {
    let icmp = bytes.window::<8>(at).ok_or(Unparsed::Truncated)?;
    let (kind, code) = (icmp.u8(0), icmp.u8(1));
    headers.sequence = u32::from(kind) << 8 | u32::from(code);
    let is_echo = match headers.protocol {
        protocol::ICMP => matches!(kind, 0 | 8),
        _ => matches!(kind, 128 | 129),
    };
    if is_echo {
        headers.source_port = icmp.u16(4);
        headers.destination_port = icmp.u16(4);
    }
    Ok(8)
}

/// Whether `headers` are those of an ICMP error, which quotes the packet it is about: RFC 792
/// (unreachable, source quench, redirect, time exceeded, parameter problem), RFC 4443 (types below
/// 128).
#[inline(always)]
#[must_use]
pub const fn is_error(headers: &Headers) -> bool {
    let kind = (headers.sequence >> 8) as u8;
    match headers.protocol {
        protocol::ICMP => matches!(kind, 3 | 4 | 5 | 11 | 12),
        protocol::ICMPV6 => kind >= 1 && kind < 128,
        _ => false,
    }
}

/// Parses the packet that the ICMP error in `error` quotes: its addresses, protocol, ports and,
/// for TCP, the sequence number, of which eight bytes are always quoted (RFC 792).
///
/// # Errors
/// The reason why the quote names no flow.
#[inline(always)]
pub fn parse_quote<B: Bytes>(bytes: B, error: &Headers) -> Result<Headers, Unparsed> {
    let mut quote = Headers::default();
    parse_quote_into(bytes, error, &mut quote)?;
    Ok(quote)
}

/// The same into `quote`, as [`super::parse_into`] does.
///
/// # Errors
/// The reason why the quote names no flow.
#[inline(always)]
pub fn parse_quote_into<B: Bytes>(
    bytes: B,
    error: &Headers,
    quote: &mut Headers,
) -> Result<(), Unparsed> {
    let link = Link {
        offset: error.payload_offset & OFFSET_MASK,
        version: 0,
        vlan: error.vlan,
    };
    ip::parse_quoted(bytes, link, quote)?;
    // Eight bytes behind the quoted IP header are promised (RFC 792); what lies behind the error
    // itself is padding of the frame.
    let end = link.offset.saturating_add(error.payload_length);
    if quote.transport_offset + 8 > end {
        return Err(Unparsed::Truncated);
    }
    let at = (quote.transport_offset & OFFSET_MASK) as usize;
    match quote.protocol {
        protocol::TCP | protocol::UDP => {
            let ports = bytes.window::<8>(at).ok_or(Unparsed::Truncated)?;
            quote.source_port = ports.u16(0);
            quote.destination_port = ports.u16(2);
            if quote.protocol == protocol::TCP {
                quote.sequence = ports.u32(4);
                quote.tcp_flags = TcpFlags::default();
            }
        }
        protocol::ICMP | protocol::ICMPV6 => {
            parse_icmp(bytes, at, quote)?;
        }
        _ => {}
    }
    Ok(())
}
