//! The IP layer and the ports above it: makes [`Headers`].

use super::{Link, TcpFlags, Unparsed, protocol};
use crate::bytes::{Bytes, Window};
use crate::limits::{EXTENSION_COUNT_MAX, OFFSET_MASK};

/// The decoded headers of one packet's IP layer and of the transport layer in it.
///
/// IPv4 addresses stand as IPv4-mapped IPv6 addresses (RFC 4291 section 2.5.5.2). Addresses are in
/// wire order; all other numbers are in the machine's order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    /// Source address: wire order, as two words.
    pub source: [u64; 2],
    /// Destination address: wire order, as two words.
    pub destination: [u64; 2],
    /// Source port; for ICMP echo its identifier; 0 where the protocol has none.
    pub source_port: u16,
    /// Destination port; for ICMP echo its identifier; 0 where the protocol has none.
    pub destination_port: u16,
    /// IANA protocol number of the transport layer.
    pub protocol: u8,
    /// 4 or 6.
    pub version: u8,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// DSCP (upper six bits) and ECN (lower two).
    pub traffic_class: u8,
    /// IPv4 identification; 0 for IPv6 without a fragment header.
    pub ip_id: u16,
    /// Outermost VLAN id, 0 where there is none.
    pub vlan: u16,
    /// More fragments follow this first one.
    pub is_fragmented: bool,
    /// The IPv4 "don't fragment" bit; always set for IPv6.
    pub dont_fragment: bool,
    /// TCP flags; 0 for other protocols.
    pub tcp_flags: TcpFlags,
    /// Offset of the IP header in bytes.
    pub network_offset: u32,
    /// Offset of the transport header in bytes.
    pub transport_offset: u32,
    /// Offset of the transport payload in bytes; may lie beyond what was captured.
    pub payload_offset: u32,
    /// Bytes from the IP header to the end of the packet, padding of the frame aside.
    pub ip_length: u32,
    /// Bytes of transport payload on the wire.
    pub payload_length: u32,
    /// TCP sequence number; ICMP: type in the upper, code in the lower of the two lowest bytes.
    pub sequence: u32,
    /// TCP acknowledgement number.
    pub acknowledgement: u32,
    /// TCP window as sent, not scaled.
    pub window: u16,
    /// MSS option of a SYN in bytes, 0 where absent; see [`super::read_options`] for this and what
    /// follows.
    pub mss: u16,
    /// Window scale option of a SYN plus one, 0 where absent.
    pub window_scale_plus_one: u8,
    /// `TSval` of the timestamps option, 0 where absent.
    pub timestamp_value: u32,
    /// `TSecr` of the timestamps option, 0 where absent.
    pub timestamp_echo: u32,
}

/// `::ffff:0:0/96` in wire order: the second half of a mapped address is this, then the address.
#[inline(always)]
fn mapped(address: u32) -> [u64; 2] {
    // Wire order read as a machine word: the prefix comes first in memory.
    let prefix = u32::from_ne_bytes([0, 0, 0xff, 0xff]);
    if cfg!(target_endian = "little") {
        [0, (address as u64) << 32 | prefix as u64]
    } else {
        [0, (prefix as u64) << 32 | address as u64]
    }
}

/// Parses the IP layer at the place that `link` found, and the transport header in it.
///
/// # Errors
/// The reason why the packet does not take part in any flow.
#[inline(always)]
pub fn parse_ip<B: Bytes>(bytes: B, link: Link, wire_length: u32) -> Result<Headers, Unparsed> {
    let mut headers = Headers::default();
    parse_ip_into(bytes, link, wire_length, &mut headers)?;
    Ok(headers)
}

/// The same into `headers`, all of which is written where the packet is parsed: the kernel programs
/// have no stack to spare for a copy.
#[inline(always)]
pub(super) fn parse_ip_into<B: Bytes>(
    bytes: B,
    link: Link,
    wire_length: u32,
    headers: &mut Headers,
) -> Result<(), Unparsed> {
    // The verifier learns nothing from a check for a single byte at the start of a packet; no IP
    // header is shorter than 20.
    let first = bytes
        .window::<20>(link.offset as usize)
        .ok_or(Unparsed::Truncated)?
        .u8(0);
    let version = first >> 4;
    if link.version != 0 && link.version != version {
        return Err(Unparsed::BadIpHeader);
    }
    match version {
        4 => parse_ipv4(bytes, link, wire_length, headers)?,
        6 => parse_ipv6(bytes, link, wire_length, headers)?,
        _ if link.version == 0 => return Err(Unparsed::NotIp),
        _ => return Err(Unparsed::BadIpHeader),
    }
    parse_transport(bytes, headers)
}

/// The longest packet that an IP header can declare, in bytes: IPv6's header and its payload.
pub(super) const PACKET_LENGTH_MAX: u32 = 40 + 65_535;

/// Parses a quoted IP header, whose declared length is not held against the quote's own.
#[inline(always)]
pub(super) fn parse_quoted<B: Bytes>(
    bytes: B,
    link: Link,
    quote: &mut Headers,
) -> Result<(), Unparsed> {
    let first = bytes
        .window::<20>(link.offset as usize)
        .ok_or(Unparsed::Truncated)?
        .u8(0);
    let wire_length = link.offset.saturating_add(PACKET_LENGTH_MAX);
    match first >> 4 {
        4 => parse_ipv4(bytes, link, wire_length, quote),
        6 => parse_ipv6(bytes, link, wire_length, quote),
        _ => Err(Unparsed::BadIpHeader),
    }
}

/// The length of the IP packet: what its header declares, but not more than the frame holds. A
/// declared 0 stands for "as long as the frame" (TSO, BIG TCP).
#[inline(always)]
fn clamp_length(declared: u32, offset: u32, wire_length: u32) -> u32 {
    let held = wire_length.saturating_sub(offset);
    if declared == 0 || declared > held {
        held
    } else {
        declared
    }
}

#[inline(always)]
fn parse_ipv4<B: Bytes>(
    bytes: B,
    link: Link,
    wire_length: u32,
    headers: &mut Headers,
) -> Result<(), Unparsed> {
    let ip = bytes
        .window::<20>(link.offset as usize)
        .ok_or(Unparsed::Truncated)?;
    let header_length = u32::from(ip.u8(0) & 0x0f) * 4;
    let ip_length = clamp_length(u32::from(ip.u16(2)), link.offset, wire_length);
    if header_length < 20 || ip_length < header_length {
        return Err(Unparsed::BadIpHeader);
    }
    let fragment = ip.u16(6);
    if fragment & 0x1fff != 0 {
        return Err(Unparsed::NonFirstFragment);
    }
    *headers = Headers {
        source: mapped(ip.word(12)),
        destination: mapped(ip.word(16)),
        protocol: ip.u8(9),
        version: 4,
        ttl: ip.u8(8),
        traffic_class: ip.u8(1),
        ip_id: ip.u16(4),
        vlan: link.vlan,
        is_fragmented: fragment & 0x2000 != 0,
        dont_fragment: fragment & 0x4000 != 0,
        network_offset: link.offset,
        transport_offset: link.offset + header_length,
        ip_length,
        ..Headers::default()
    };
    Ok(())
}

#[inline(always)]
fn parse_ipv6<B: Bytes>(
    bytes: B,
    link: Link,
    wire_length: u32,
    headers: &mut Headers,
) -> Result<(), Unparsed> {
    let ip = bytes
        .window::<40>(link.offset as usize)
        .ok_or(Unparsed::Truncated)?;
    let declared = match u32::from(ip.u16(4)) {
        // A jumbogram (RFC 2675, BIG TCP); but a header that nothing follows is all there is.
        0 if ip.u8(6) != protocol::NO_NEXT => 0,
        payload => payload + 40,
    };
    let ip_length = clamp_length(declared, link.offset, wire_length);
    if ip_length < 40 {
        return Err(Unparsed::BadIpHeader);
    }
    *headers = Headers {
        source: ip.address(8),
        destination: ip.address(24),
        protocol: ip.u8(6),
        version: 6,
        ttl: ip.u8(7),
        traffic_class: (ip.u16(0) >> 4) as u8,
        vlan: link.vlan,
        dont_fragment: true,
        network_offset: link.offset,
        transport_offset: link.offset + 40,
        ip_length,
        ..Headers::default()
    };
    walk_extensions(bytes, headers)
}

/// Walks the chain of IPv6 extension headers (RFC 8200 section 4) up to the transport header.
#[inline(always)]
fn walk_extensions<B: Bytes>(bytes: B, headers: &mut Headers) -> Result<(), Unparsed> {
    for _ in 0..EXTENSION_COUNT_MAX {
        if !is_extension(headers.protocol) {
            return Ok(());
        }
        // Each turn adds at most 2,048 bytes: the bound is written out for the verifier, which
        // forgets it across turns.
        let offset = headers.transport_offset & OFFSET_MASK;
        let extension = bytes
            .window::<8>(offset as usize)
            .ok_or(Unparsed::Truncated)?;
        let units = u32::from(extension.u8(1));
        let length = match headers.protocol {
            protocol::FRAGMENT => {
                let fragment = extension.u16(2);
                if fragment & 0xfff8 != 0 {
                    return Err(Unparsed::NonFirstFragment);
                }
                headers.is_fragmented = fragment & 1 != 0;
                headers.ip_id = extension.u16(6);
                8
            }
            // RFC 4302 section 2.2 counts in units of four bytes, less two.
            protocol::AUTHENTICATION => (units + 2) * 4,
            _ => (units + 1) * 8,
        };
        headers.protocol = extension.u8(0);
        headers.transport_offset = offset + length;
    }
    if is_extension(headers.protocol) {
        Err(Unparsed::ExtensionsTooMany)
    } else {
        Ok(())
    }
}

#[inline(always)]
const fn is_extension(next: u8) -> bool {
    matches!(
        next,
        protocol::HOP_BY_HOP
            | protocol::ROUTING
            | protocol::FRAGMENT
            | protocol::AUTHENTICATION
            | protocol::DESTINATION
            | protocol::MOBILITY
    )
}

#[inline(always)]
fn parse_transport<B: Bytes>(bytes: B, headers: &mut Headers) -> Result<(), Unparsed> {
    let offset = (bytes.forget(headers.transport_offset) & OFFSET_MASK) as usize;
    // No overflow: `clamp_length` keeps the sum within the length of the frame.
    let mut length = (headers.network_offset + headers.ip_length)
        .checked_sub(headers.transport_offset)
        .ok_or(Unparsed::BadTransportHeader)?;
    let header_length = match headers.protocol {
        protocol::TCP => parse_tcp(bytes, offset, headers)?,
        protocol::UDP => parse_udp(bytes, offset, headers, &mut length)?,
        protocol::ICMP | protocol::ICMPV6 => super::icmp::parse_icmp(bytes, offset, headers)?,
        _ => 0,
    };
    // A first fragment may be too short for its own header (RFC 1858): it says nothing of a flow.
    headers.payload_length = length
        .checked_sub(header_length)
        .ok_or(Unparsed::BadTransportHeader)?;
    headers.payload_offset = headers.transport_offset + header_length;
    Ok(())
}

#[inline(always)]
fn parse_tcp<B: Bytes>(bytes: B, at: usize, headers: &mut Headers) -> Result<u32, Unparsed> {
    let tcp = bytes.window::<20>(at).ok_or(Unparsed::Truncated)?;
    headers.source_port = tcp.u16(0);
    headers.destination_port = tcp.u16(2);
    headers.sequence = tcp.u32(4);
    headers.acknowledgement = tcp.u32(8);
    headers.tcp_flags = TcpFlags(tcp.u8(13));
    headers.window = tcp.u16(14);
    let header_length = u32::from(tcp.u8(12) >> 4) * 4;
    if header_length < 20 {
        Err(Unparsed::BadTransportHeader)
    } else {
        Ok(header_length)
    }
}

/// Reads the ports, and cuts `length`, the bytes that the IP layer has for the datagram, down to
/// the datagram's own length: what follows it is not payload (RFC 768, RFC 9868).
#[inline(always)]
fn parse_udp<B: Bytes>(
    bytes: B,
    at: usize,
    headers: &mut Headers,
    length: &mut u32,
) -> Result<u32, Unparsed> {
    let udp = bytes.window::<8>(at).ok_or(Unparsed::Truncated)?;
    headers.source_port = udp.u16(0);
    headers.destination_port = udp.u16(2);
    let declared = u32::from(udp.u16(4));
    // A length of 0 is a jumbogram's (RFC 2675 section 4); one that is longer than the packet is
    // a first fragment's, or that of a capture that was cut without telling.
    if declared != 0 && declared < *length {
        if declared < 8 {
            return Err(Unparsed::BadTransportHeader);
        }
        *length = declared;
    }
    Ok(8)
}
