//! The packet parser: from bytes to [`Headers`], the decoded headers of one packet's outermost IP
//! layer. The kernel programs run [`parse`]; files run `parse_layers`, which gives every IP layer
//! by the same functions.
//!
//! **Invariant**: ports are never read from a fragment that is not the first one.

#[cfg(not(target_arch = "bpf"))]
mod encapsulation;
mod icmp;
mod ip;
#[cfg(not(target_arch = "bpf"))]
mod layer;
mod link;
mod reason;
mod tcp;
#[cfg(not(target_arch = "bpf"))]
mod tunnel;
#[cfg(not(target_arch = "bpf"))]
mod wireless;

#[cfg(not(target_arch = "bpf"))]
pub use encapsulation::{Encapsulation, Next};
pub use icmp::{is_error, parse_quote, parse_quote_into};
pub use ip::{Headers, parse_ip};
#[cfg(not(target_arch = "bpf"))]
pub use layer::{Layer, Layers, Station, parse_layers, visit_layers};
pub use link::{Link, LinkKind, parse_link};
pub use reason::Unparsed;
pub use tcp::{
    TcpFlags, TcpOptions, is_syn, parse_tcp_options, parse_timestamps, read_options,
    read_syn_options, read_timestamps,
};

#[cfg(not(target_arch = "bpf"))]
pub use tunnel::Tunnel;

use crate::bytes::Bytes;

/// Protocol numbers (IANA) that the parser looks into.
pub mod protocol {
    /// IPv6 hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// ICMP for IPv4.
    pub const ICMP: u8 = 1;
    /// IPv4 in IP (RFC 2003).
    pub const IPV4: u8 = 4;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6 in IP (RFC 2473, RFC 4213).
    pub const IPV6: u8 = 41;
    /// IPv6 routing header.
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header.
    pub const FRAGMENT: u8 = 44;
    /// Generic routing encapsulation (RFC 2784).
    pub const GRE: u8 = 47;
    /// IP authentication header (RFC 4302).
    pub const AUTHENTICATION: u8 = 51;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = 58;
    /// IPv6: nothing follows.
    pub const NO_NEXT: u8 = 59;
    /// IPv6 destination options.
    pub const DESTINATION: u8 = 60;
    /// Mobility header (RFC 6275).
    pub const MOBILITY: u8 = 135;
}

/// Parses a frame down to its transport header, the way the kernel programs do: one link layer,
/// up to two VLAN tags, the outermost IP layer. TCP's options are for [`read_options`].
///
/// `wire_length` is the length of the whole frame in bytes, of which `bytes` may hold only the
/// first part.
///
/// # Errors
/// The reason why the packet does not take part in any flow.
#[inline(always)]
pub fn parse<B: Bytes>(bytes: B, kind: LinkKind, wire_length: u32) -> Result<Headers, Unparsed> {
    let link = parse_link(bytes, kind)?;
    parse_ip(bytes, link, wire_length)
}

/// The same into `headers`, all of which is written where the packet is parsed: the kernel programs
/// have no stack to spare for a copy.
///
/// # Errors
/// The reason why the packet does not take part in any flow.
#[inline(always)]
pub fn parse_into<B: Bytes>(
    bytes: B,
    kind: LinkKind,
    wire_length: u32,
    headers: &mut Headers,
) -> Result<(), Unparsed> {
    let link = parse_link(bytes, kind)?;
    ip::parse_ip_into(bytes, link, wire_length, headers)
}
