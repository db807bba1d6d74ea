//! One value behind its qualifiers: an address, a prefix, a port, a protocol number.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::super::ast::{Carrier, Expression, Family, Primitive, Protocol, Transport};
use super::super::error::FilterError;
use super::super::lexer::{Token, TokenKind};
use super::{Kind, Parser, Qualifiers};

/// Numbers up to this one in the type field of a frame are 802.3 lengths.
const LENGTH_FIELD_MAX: u32 = 1500;
/// EtherTypes that libpcap looks for behind a SNAP header too: AppleTalk and its ARP.
const SNAP_TYPES: [u32; 2] = [0x809b, 0x80f3];

impl Parser<'_> {
    pub(super) fn parse_value(&mut self, q: Qualifiers) -> Result<Expression, FilterError> {
        let token = self.advance();
        let primitive = match token.kind {
            TokenKind::Number(number) => number_value(q, token, number),
            TokenKind::Ipv4 { bits, length } => self.parse_ipv4(q, token, bits, length),
            TokenKind::Ipv6(address) => self.parse_ipv6(q, token, address),
            TokenKind::Mac(address) => mac_value(q, token, address),
            TokenKind::Escaped => escaped_value(q, token),
            TokenKind::Word => word_value(q, token),
            _ => Err(FilterError::unexpected(
                token.position,
                token.text,
                q.expected(),
            )),
        };
        primitive.map(Expression::Primitive)
    }

    fn parse_ipv4(
        &mut self,
        q: Qualifiers,
        token: Token<'_>,
        bits: u32,
        given: u8,
    ) -> Result<Primitive, FilterError> {
        if matches!(q.kind, Kind::Port | Kind::PortRange | Kind::Proto) {
            return Err(FilterError::unexpected(
                token.position,
                token.text,
                q.expected(),
            ));
        }
        let explicit = if self.is_symbol("/") {
            self.advance();
            Some(self.parse_prefix_length(32)?)
        } else if self.peek().text == "mask" {
            self.advance();
            let mask = self.advance();
            let TokenKind::Ipv4 { bits, .. } = mask.kind else {
                let expected = "a mask such as 255.255.255.0";
                return Err(FilterError::unexpected(mask.position, mask.text, expected));
            };
            Some(bits)
        } else {
            None
        };
        if explicit.is_some() && q.kind != Kind::Net {
            let reason = "a mask needs `net` before the address";
            return Err(FilterError::value(token.position, token.text, reason));
        }
        // Libpcap reads `host 10.1` as all of 10.1.0.0/16.
        let mask = explicit.unwrap_or(u32::MAX << (32 - u32::from(given)));
        if bits & !mask != 0 {
            let reason = "bits are set beyond the mask; clear them or use `host`";
            return Err(FilterError::value(token.position, token.text, reason));
        }
        ipv4_value(q, token, bits, mask)
    }

    fn parse_ipv6(
        &mut self,
        q: Qualifiers,
        token: Token<'_>,
        address: Ipv6Addr,
    ) -> Result<Primitive, FilterError> {
        if matches!(q.kind, Kind::Port | Kind::PortRange | Kind::Proto) {
            return Err(FilterError::unexpected(
                token.position,
                token.text,
                q.expected(),
            ));
        }
        if !matches!(q.protocol, None | Some(Protocol::Ip6)) {
            let reason = "an IPv6 address goes with no protocol or with ip6";
            return Err(FilterError::value(token.position, token.text, reason));
        }
        let mut length = 128;
        if self.is_symbol("/") {
            self.advance();
            let at = self.peek();
            length = self.expect_number()?;
            if length > 128 || (length < 128 && q.kind != Kind::Net) {
                let reason = "a prefix length is at most 128 and needs `net` before the address";
                return Err(FilterError::value(at.position, at.text, reason));
            }
        }
        if u128::from(address) & !prefix_mask_v6(length) != 0 {
            let reason = "bits are set beyond the prefix; clear them or use `host`";
            return Err(FilterError::value(token.position, token.text, reason));
        }
        let length = u8::try_from(length).unwrap_or(128);
        Ok(Primitive::Ipv6 {
            direction: q.direction,
            address,
            length,
        })
    }

    fn parse_prefix_length(&mut self, max: u32) -> Result<u32, FilterError> {
        let token = self.peek();
        let length = self.expect_number()?;
        if length > max {
            let reason = format!("a prefix length is at most {max}");
            return Err(FilterError::value(token.position, token.text, reason));
        }
        Ok(u32::MAX.checked_shl(max - length).unwrap_or(0))
    }
}

impl Qualifiers {
    fn expected(self) -> &'static str {
        match self.kind {
            Kind::Default | Kind::Host => "an address",
            Kind::Net => "an address or a prefix such as 10.0.0.0/8",
            Kind::Port => "a port number",
            Kind::PortRange => "a port range such as 8000-8080",
            Kind::Proto => "a protocol number or a name such as \\tcp",
        }
    }
}

fn prefix_mask_v6(length: u32) -> u128 {
    u128::MAX.checked_shl(128 - length.min(128)).unwrap_or(0)
}

fn number_value(q: Qualifiers, token: Token<'_>, number: u32) -> Result<Primitive, FilterError> {
    match q.kind {
        Kind::Default | Kind::Host => ipv4_value(q, token, number, u32::MAX),
        Kind::Net => {
            // `net 10` is 10.0.0.0/8: the number moves up until its first byte is set.
            let shift = if number == 0 {
                0
            } else {
                number.leading_zeros() / 8 * 8
            };
            ipv4_value(q, token, number << shift, u32::MAX << shift)
        }
        Kind::Port | Kind::PortRange => match u16::try_from(number) {
            Ok(port) => port_value(q, token, port, port),
            Err(_) => Err(FilterError::value(
                token.position,
                token.text,
                "a port is at most 65535",
            )),
        },
        Kind::Proto => protocol_value(q, token, number),
    }
}

fn ipv4_value(
    q: Qualifiers,
    token: Token<'_>,
    bits: u32,
    mask: u32,
) -> Result<Primitive, FilterError> {
    let Some(carrier) = Carrier::of(q.protocol) else {
        let reason = "an IPv4 address goes with no protocol or with ip, arp or rarp; \
                      join tests with and";
        return Err(FilterError::value(token.position, token.text, reason));
    };
    let (address, mask) = (Ipv4Addr::from(bits), Ipv4Addr::from(mask));
    Ok(Primitive::Ipv4 {
        carrier,
        direction: q.direction,
        address,
        mask,
    })
}

fn port_value(
    q: Qualifiers,
    token: Token<'_>,
    from: u16,
    to: u16,
) -> Result<Primitive, FilterError> {
    let transport = match q.protocol {
        None => None,
        Some(Protocol::Tcp) => Some(Transport::Tcp),
        Some(Protocol::Udp) => Some(Transport::Udp),
        Some(Protocol::Sctp) => Some(Transport::Sctp),
        Some(_) => {
            let reason = "a port goes with no protocol or with tcp, udp or sctp";
            return Err(FilterError::value(token.position, token.text, reason));
        }
    };
    let (low, high) = (from.min(to), from.max(to));
    Ok(Primitive::Port {
        transport,
        direction: q.direction,
        low,
        high,
    })
}

fn protocol_value(q: Qualifiers, token: Token<'_>, number: u32) -> Result<Primitive, FilterError> {
    let family = match q.protocol {
        None => Family::Any,
        Some(Protocol::Ip) => Family::Ip,
        Some(Protocol::Ip6) => Family::Ip6,
        Some(Protocol::Ether) => return ether_protocol_value(token, number),
        Some(_) => {
            let reason = "proto goes with no protocol or with ip, ip6 or ether";
            return Err(FilterError::value(token.position, token.text, reason));
        }
    };
    Ok(Primitive::ProtocolNumber { family, number })
}

fn ether_protocol_value(token: Token<'_>, number: u32) -> Result<Primitive, FilterError> {
    match u16::try_from(number) {
        Ok(ether_type) if number > LENGTH_FIELD_MAX && !SNAP_TYPES.contains(&number) => {
            Ok(Primitive::EtherProtocol(ether_type))
        }
        _ => {
            let reason = "supported are EtherTypes from 1501 to 65535 without AppleTalk";
            Err(FilterError::value(token.position, token.text, reason))
        }
    }
}

fn mac_value(q: Qualifiers, token: Token<'_>, address: [u8; 6]) -> Result<Primitive, FilterError> {
    let addressed = matches!(q.kind, Kind::Host | Kind::Default);
    if q.protocol != Some(Protocol::Ether) || !addressed {
        let reason = "a MAC address needs ether host, ether src or ether dst before it";
        return Err(FilterError::value(token.position, token.text, reason));
    }
    Ok(Primitive::EtherHost {
        direction: q.direction,
        address,
    })
}

fn escaped_value(q: Qualifiers, token: Token<'_>) -> Result<Primitive, FilterError> {
    if q.kind != Kind::Proto {
        return word_value(q, token);
    }
    let number = match (token.text.trim_start_matches('\\'), q.protocol) {
        ("ip", Some(Protocol::Ether)) => Some(0x0800),
        ("ip6", Some(Protocol::Ether)) => Some(0x86dd),
        ("arp", Some(Protocol::Ether)) => Some(0x0806),
        ("rarp", Some(Protocol::Ether)) => Some(0x8035),
        (_, Some(Protocol::Ether)) => None,
        ("icmp", _) => Some(1),
        ("igmp", _) => Some(2),
        ("tcp", _) => Some(6),
        ("udp", _) => Some(17),
        ("esp", _) => Some(50),
        ("ah", _) => Some(51),
        ("pim", _) => Some(103),
        ("vrrp", _) => Some(112),
        ("sctp", _) => Some(132),
        _ => None,
    };
    match number {
        Some(number) => protocol_value(q, token, number),
        None => Err(FilterError::unsupported(
            token.position,
            token.text,
            "supported are \\icmp \\igmp \\tcp \\udp \\esp \\ah \\pim \\vrrp \\sctp, after ether \
             proto \\ip \\ip6 \\arp \\rarp, and numbers",
        )),
    }
}

fn word_value(q: Qualifiers, token: Token<'_>) -> Result<Primitive, FilterError> {
    if q.kind == Kind::PortRange
        && let Some((from, to)) = token.text.split_once('-')
        && let (Ok(from), Ok(to)) = (from.parse(), to.parse())
    {
        return port_value(q, token, from, to);
    }
    let remedy = match q.kind {
        Kind::Default | Kind::Host | Kind::Net => "names are not resolved; use the address",
        Kind::Port => "service names are not looked up; use the port number",
        Kind::PortRange => "use two port numbers such as 8000-8080",
        Kind::Proto => "use the protocol number, or a backslash before a name such as \\tcp",
    };
    Err(FilterError::unsupported(token.position, token.text, remedy))
}
