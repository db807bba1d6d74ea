//! What was typed: a tree of primitives with their qualifiers resolved, nothing about bytes yet.
//!
//! `Display` writes the canonical text, fully qualified and parenthesised; parsing it gives the
//! same tree.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

/// A boolean expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expression {
    /// Both hold; the right side is looked at only if the left holds.
    And(Box<Expression>, Box<Expression>),
    /// One holds; the right side is looked at only if the left does not hold.
    Or(Box<Expression>, Box<Expression>),
    /// Does not hold.
    Not(Box<Expression>),
    /// A single test.
    Primitive(Primitive),
}

/// A single test of a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Primitive {
    /// `tcp`, `ip6`, …
    Protocol(Protocol),
    /// `proto 6`, `ip proto 6`, `ip6 proto 6`.
    ProtocolNumber {
        /// Which IP versions.
        family: Family,
        /// Value of the protocol or next-header field.
        number: u32,
    },
    /// `ether proto 0x0800`: an EtherType.
    EtherProtocol(u16),
    /// `ether host`, `ether src`, `ether dst`.
    EtherHost {
        /// Which of the two addresses.
        direction: Direction,
        /// The MAC address.
        address: [u8; 6],
    },
    /// `host`, `net`, `src`, `dst` with an IPv4 address or prefix.
    Ipv4 {
        /// In which header.
        carrier: Carrier,
        /// Which of the two addresses.
        direction: Direction,
        /// The address, masked.
        address: Ipv4Addr,
        /// The mask; need not be contiguous.
        mask: Ipv4Addr,
    },
    /// `host`, `net`, `src`, `dst` with an IPv6 address or prefix.
    Ipv6 {
        /// Which of the two addresses.
        direction: Direction,
        /// The address, masked.
        address: Ipv6Addr,
        /// Prefix length in bits.
        length: u8,
    },
    /// `port`, `portrange`.
    Port {
        /// One transport, or any of TCP, UDP and SCTP.
        transport: Option<Transport>,
        /// Which of the two ports.
        direction: Direction,
        /// Lowest port.
        low: u16,
        /// Highest port.
        high: u16,
    },
    /// `vlan`, `vlan 100`: also moves the offsets of all that stands to its right.
    Vlan(Option<u16>),
    /// `less 100`: at most so many bytes on the wire.
    LengthAtMost(u32),
    /// `greater 100`: at least so many bytes on the wire.
    LengthAtLeast(u32),
    /// `broadcast`: to the Ethernet broadcast address.
    Broadcast,
    /// `multicast`, `ip multicast`, `ip6 multicast`.
    Multicast(Layer),
    /// A comparison of two computed values.
    Relation {
        /// Left value.
        left: Arithmetic,
        /// How they are compared, as unsigned 32-bit numbers.
        operator: Comparison,
        /// Right value.
        right: Arithmetic,
    },
}

/// A protocol that is a test by its name alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names of the protocols")]
pub enum Protocol {
    Ip,
    Ip6,
    Arp,
    Rarp,
    Tcp,
    Udp,
    Sctp,
    Icmp,
    Icmp6,
    Igmp,
    Pim,
    Vrrp,
    Ah,
    Esp,
    /// `ether`: as the base of a byte access only.
    Ether,
}

/// IP versions of a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names of the versions")]
pub enum Family {
    Any,
    Ip,
    Ip6,
}

/// Which header an IPv4 address is looked for in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    /// IPv4, ARP and RARP.
    Any,
    /// IPv4 only.
    Ip,
    /// ARP only.
    Arp,
    /// RARP only.
    Rarp,
}

/// Which of two addresses or ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// One of them: no qualifier, or `src or dst`.
    Either,
    /// `src`.
    Source,
    /// `dst`.
    Destination,
    /// `src and dst`.
    Both,
}

/// A transport with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names of the protocols")]
pub enum Transport {
    Tcp,
    Udp,
    Sctp,
}

/// Where a multicast address is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names of the layers")]
pub enum Layer {
    Ether,
    Ip,
    Ip6,
}

/// A comparison of unsigned numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names of the operators")]
pub enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// A computed unsigned 32-bit value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Arithmetic {
    /// A literal.
    Number(u32),
    /// `len`: bytes on the wire.
    Length,
    /// `tcp[13]`, `ip[2:2]`: bytes of a header, big-endian.
    Load {
        /// Whose header; frames without it do not match.
        base: Protocol,
        /// Offset from the start of the header, in bytes.
        index: Box<Arithmetic>,
        /// 1, 2 or 4 bytes.
        size: u8,
    },
    /// Unary minus.
    Negate(Box<Arithmetic>),
    /// Two values combined; wraps at 32 bits.
    Binary {
        /// How.
        operator: Operator,
        /// Left value.
        left: Box<Arithmetic>,
        /// Right value.
        right: Box<Arithmetic>,
    },
}

/// An arithmetic operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names of the operators")]
pub enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
    And,
    Or,
    Xor,
    ShiftLeft,
    ShiftRight,
}

impl Protocol {
    pub(crate) const ALL: [(&'static str, Protocol); 16] = [
        ("ip", Protocol::Ip),
        ("ip6", Protocol::Ip6),
        ("arp", Protocol::Arp),
        ("rarp", Protocol::Rarp),
        ("tcp", Protocol::Tcp),
        ("udp", Protocol::Udp),
        ("sctp", Protocol::Sctp),
        ("icmp", Protocol::Icmp),
        ("icmp6", Protocol::Icmp6),
        ("igmp", Protocol::Igmp),
        ("pim", Protocol::Pim),
        ("vrrp", Protocol::Vrrp),
        ("ah", Protocol::Ah),
        ("esp", Protocol::Esp),
        ("ether", Protocol::Ether),
        ("link", Protocol::Ether),
    ];

    /// The word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(_, protocol)| *protocol == self)
            .map_or("ether", |(name, _)| name)
    }

    /// The IP protocol number and the IP versions it is looked for in; `None` below IP.
    pub(crate) fn number(self) -> Option<(Family, u32)> {
        Some(match self {
            Protocol::Ip | Protocol::Ip6 | Protocol::Arp | Protocol::Rarp | Protocol::Ether => {
                return None;
            }
            Protocol::Tcp => (Family::Any, 6),
            Protocol::Udp => (Family::Any, 17),
            Protocol::Sctp => (Family::Any, 132),
            Protocol::Icmp => (Family::Ip, 1),
            Protocol::Icmp6 => (Family::Ip6, 58),
            Protocol::Igmp => (Family::Ip, 2),
            Protocol::Pim => (Family::Any, 103),
            Protocol::Vrrp => (Family::Ip, 112),
            Protocol::Ah => (Family::Any, 51),
            Protocol::Esp => (Family::Any, 50),
        })
    }
}

impl Transport {
    fn prefix(self) -> &'static str {
        match self {
            Transport::Tcp => "tcp ",
            Transport::Udp => "udp ",
            Transport::Sctp => "sctp ",
        }
    }

    /// IP protocol number.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Transport::Tcp => 6,
            Transport::Udp => 17,
            Transport::Sctp => 132,
        }
    }
}

impl Operator {
    pub(crate) fn symbol(self) -> &'static str {
        match self {
            Operator::Add => "+",
            Operator::Subtract => "-",
            Operator::Multiply => "*",
            Operator::Divide => "/",
            Operator::Remainder => "%",
            Operator::And => "&",
            Operator::Or => "|",
            Operator::Xor => "^",
            Operator::ShiftLeft => "<<",
            Operator::ShiftRight => ">>",
        }
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Expression::Primitive(primitive) => primitive.fmt(f),
            Expression::Not(inner) => {
                f.write_str("not ")?;
                inner.fmt_operand(f)
            }
            // `and` and `or` bind equally and to the left, so only a right operand needs
            // parentheses for the tree; a left one gets them for the reader.
            Expression::And(left, right) => {
                match **left {
                    Expression::Or(..) => left.fmt_operand(f)?,
                    _ => left.fmt(f)?,
                }
                f.write_str(" and ")?;
                right.fmt_operand(f)
            }
            Expression::Or(left, right) => {
                match **left {
                    Expression::And(..) => left.fmt_operand(f)?,
                    _ => left.fmt(f)?,
                }
                f.write_str(" or ")?;
                right.fmt_operand(f)
            }
        }
    }
}

impl Expression {
    fn fmt_operand(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Expression::And(..) | Expression::Or(..) => write!(f, "({self})"),
            _ => fmt::Display::fmt(self, f),
        }
    }
}

impl fmt::Display for Primitive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Primitive::Protocol(protocol) => f.write_str(protocol.name()),
            Primitive::ProtocolNumber { family, number } => match family {
                Family::Any => write!(f, "proto {number}"),
                Family::Ip => write!(f, "ip proto {number}"),
                Family::Ip6 => write!(f, "ip6 proto {number}"),
            },
            Primitive::EtherProtocol(number) => write!(f, "ether proto {number:#06x}"),
            Primitive::EtherHost {
                direction,
                address: [a, b, c, d, e, g],
            } => {
                write!(
                    f,
                    "ether {direction}host {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}"
                )
            }
            Primitive::Ipv4 {
                carrier,
                direction,
                address,
                mask,
            } => {
                f.write_str(carrier.prefix())?;
                direction.fmt(f)?;
                fmt_network(f, *address, *mask)
            }
            Primitive::Ipv6 {
                direction,
                address,
                length: 128,
            } => {
                write!(f, "{direction}host {address}")
            }
            Primitive::Ipv6 {
                direction,
                address,
                length,
            } => {
                write!(f, "{direction}net {address}/{length}")
            }
            Primitive::Port {
                transport,
                direction,
                low,
                high,
            } => {
                let transport = transport.map_or("", Transport::prefix);
                match low == high {
                    true => write!(f, "{transport}{direction}port {low}"),
                    false => write!(f, "{transport}{direction}portrange {low}-{high}"),
                }
            }
            Primitive::Vlan(None) => f.write_str("vlan"),
            Primitive::Vlan(Some(id)) => write!(f, "vlan {id}"),
            Primitive::LengthAtMost(length) => write!(f, "less {length}"),
            Primitive::LengthAtLeast(length) => write!(f, "greater {length}"),
            Primitive::Broadcast => f.write_str("broadcast"),
            Primitive::Multicast(Layer::Ether) => f.write_str("multicast"),
            Primitive::Multicast(Layer::Ip) => f.write_str("ip multicast"),
            Primitive::Multicast(Layer::Ip6) => f.write_str("ip6 multicast"),
            Primitive::Relation {
                left,
                operator,
                right,
            } => {
                write!(f, "{left} {operator} {right}")
            }
        }
    }
}

fn fmt_network(f: &mut fmt::Formatter<'_>, address: Ipv4Addr, mask: Ipv4Addr) -> fmt::Result {
    let length = u32::from(mask).leading_ones();
    match length + u32::from(mask).trailing_zeros() {
        _ if length == 32 => write!(f, "host {address}"),
        32.. => write!(f, "net {address}/{length}"),
        _ => write!(f, "net {address} mask {mask}"),
    }
}

impl Carrier {
    fn prefix(self) -> &'static str {
        match self {
            Carrier::Any => "",
            Carrier::Ip => "ip ",
            Carrier::Arp => "arp ",
            Carrier::Rarp => "rarp ",
        }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Direction::Either => "",
            Direction::Source => "src ",
            Direction::Destination => "dst ",
            Direction::Both => "src and dst ",
        })
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Comparison::Equal => "==",
            Comparison::NotEqual => "!=",
            Comparison::Less => "<",
            Comparison::LessOrEqual => "<=",
            Comparison::Greater => ">",
            Comparison::GreaterOrEqual => ">=",
        })
    }
}

impl fmt::Display for Arithmetic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Arithmetic::Number(number) => write!(f, "{number}"),
            Arithmetic::Length => f.write_str("len"),
            Arithmetic::Load {
                base,
                index,
                size: 1,
            } => write!(f, "{}[{index}]", base.name()),
            Arithmetic::Load { base, index, size } => {
                write!(f, "{}[{index}:{size}]", base.name())
            }
            Arithmetic::Negate(inner) => {
                f.write_str("-")?;
                inner.fmt_operand(f)
            }
            Arithmetic::Binary {
                operator,
                left,
                right,
            } => {
                left.fmt_operand(f)?;
                write!(f, " {} ", operator.symbol())?;
                right.fmt_operand(f)
            }
        }
    }
}

impl Arithmetic {
    fn fmt_operand(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Arithmetic::Binary { .. } => write!(f, "({self})"),
            _ => fmt::Display::fmt(self, f),
        }
    }
}
