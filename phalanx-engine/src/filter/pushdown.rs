//! What the kernel can check of an expression: 5-tuple filters that lose no matching packet.
//!
//! The kernel looks filters up once for a whole flow, so a [`FlowFilter`] knows no direction: it
//! holds if its sides fit the two ends of the flow either way round. Here the tree is first
//! narrowed to boxes with a direction, then the direction is dropped. Whatever cannot be
//! narrowed becomes the box that every flow fits; that only costs records.

mod tuple;

pub use tuple::{FlowFilter, IpVersion, Prefix, Side};

use super::ast::{
    Arithmetic, Carrier, Direction, Expression, Family, Primitive, Protocol, Transport,
};
use super::limit::{BOX_COUNT_MAX, FLOW_FILTER_COUNT_MAX};
use super::link::{ARP, IPV4, IPV6, RARP};
use tuple::Directed;

/// Protocol numbers that a flow's key may not show: IPv6 extension headers, which the packet
/// parser walks through and libpcap does not.
const EXTENSION_HEADERS: [u32; 12] = [0, 43, 44, 50, 51, 59, 60, 135, 139, 140, 253, 254];

/// Which part of an expression goes where in a live capture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushdown {
    /// At most [`FLOW_FILTER_COUNT_MAX`]; a flow is recorded if one of them holds. Empty if the
    /// expression matches no IP packet: nothing can be captured live.
    pub filters: Vec<FlowFilter>,
    /// The parts that the filters do not express; `None` if the filters say it all for untagged
    /// packets without IPv6 extension headers. The whole expression is still evaluated on each
    /// record, so that a capture holds what tcpdump would.
    pub residual: Option<Expression>,
}

impl Pushdown {
    /// Narrows an expression; `None` is the one that everything matches.
    pub(super) fn of(expression: Option<&Expression>) -> Self {
        let Some(expression) = expression else {
            return Self {
                filters: vec![FlowFilter::EVERYTHING],
                residual: None,
            };
        };
        let mut narrowing = Narrowing { shift: 0 };
        let narrowed = narrowing.narrow(expression, false, 0);
        let mut filters: Vec<FlowFilter> = Vec::new();
        for directed in narrowed.unwrap_or_else(|| vec![Directed::EVERYTHING]) {
            let filter = directed.undirected();
            if !filters.iter().any(|known| known.covers(&filter)) {
                filters.retain(|known| !filter.covers(known));
                filters.push(filter);
            }
        }
        let overflows = filters.len() > FLOW_FILTER_COUNT_MAX;
        if overflows {
            filters = vec![FlowFilter::EVERYTHING];
        }
        let residual = if overflows {
            Some(expression.clone())
        } else {
            residual(expression)
        };
        Self { filters, residual }
    }

    /// Whether a live capture can hold anything: frames without IP are never recorded.
    #[must_use]
    pub fn matches_ip(&self) -> bool {
        !self.filters.is_empty()
    }

    /// One sentence for each side: what the kernel checks, what is checked on the records.
    #[must_use]
    pub fn explain(&self) -> String {
        if self.filters.is_empty() {
            return "in the kernel: nothing; the expression matches no IP packet, and live \
                    captures record IP packets only (files may hold others)"
                .into();
        }
        let kernel = match self.filters.as_slice() {
            [all] if *all == FlowFilter::EVERYTHING => "all flows".into(),
            some => some
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(" | "),
        };
        let records = match &self.residual {
            None => "nothing that the kernel has not checked".into(),
            Some(residual) => residual.to_string(),
        };
        format!("in the kernel: {kernel}; on the records: {records}")
    }
}

/// Boxes; `None` is "any flow".
type Boxes = Option<Vec<Directed>>;

/// Walks the tree in the order of the text, as `vlan` counts from left to right.
struct Narrowing {
    /// `vlan` primitives seen so far.
    shift: u32,
}

impl Narrowing {
    /// Boxes that hold every flow with a frame for which `expression` (negated: its contrary)
    /// holds. `tags` is how many VLAN tags such a frame has for certain: after more or fewer
    /// `vlan`, other bytes than the flow's addresses are looked at.
    fn narrow(&mut self, expression: &Expression, negated: bool, tags: u32) -> Boxes {
        let (left, right, both) = match expression {
            Expression::Not(inner) => return self.narrow(inner, !negated, tags),
            Expression::Primitive(primitive) => return self.primitive(primitive, negated, tags),
            Expression::And(left, right) => (left, right, !negated),
            Expression::Or(left, right) => (left, right, negated),
        };
        let narrowed = self.narrow(left, negated, tags);
        if both {
            let tags = if negated {
                tags
            } else {
                tags + certain_tags(left)
            };
            intersect(narrowed, self.narrow(right, negated, tags))
        } else {
            unite(narrowed, self.narrow(right, negated, tags))
        }
    }

    fn primitive(&mut self, primitive: &Primitive, negated: bool, tags: u32) -> Boxes {
        if matches!(primitive, Primitive::Vlan(_)) {
            self.shift += 1;
            return None;
        }
        if negated || self.shift != tags {
            return None;
        }
        match primitive {
            Primitive::Protocol(protocol) => by_protocol(*protocol),
            Primitive::ProtocolNumber { family, number } => by_number(*family, *number),
            Primitive::EtherProtocol(IPV4) => by_protocol(Protocol::Ip),
            Primitive::EtherProtocol(IPV6) => by_protocol(Protocol::Ip6),
            Primitive::EtherProtocol(ARP | RARP) => Some(vec![]),
            Primitive::Ipv4 {
                carrier: Carrier::Arp | Carrier::Rarp,
                ..
            } => Some(vec![]),
            Primitive::Ipv4 {
                direction,
                address,
                mask,
                ..
            } => Some(by_side(*direction, Side::of(Prefix::v4(*address, *mask)))),
            Primitive::Ipv6 {
                direction,
                address,
                length,
            } => Some(by_side(*direction, Side::of(Prefix::v6(*address, *length)))),
            Primitive::Port {
                transport,
                direction,
                low,
                high,
            } => {
                let sides = by_side(
                    *direction,
                    Side {
                        ports: *low..=*high,
                        ..Side::ANY
                    },
                );
                Some(with_transports(*transport, &sides))
            }
            Primitive::Relation { left, right, .. } => intersect(by_guards(left), by_guards(right)),
            _ => None,
        }
    }
}

/// VLAN tags that a frame has for certain where the expression holds.
fn certain_tags(expression: &Expression) -> u32 {
    match expression {
        Expression::Primitive(Primitive::Vlan(_)) => 1,
        Expression::And(left, right) => certain_tags(left) + certain_tags(right),
        _ => 0,
    }
}

fn by_protocol(protocol: Protocol) -> Boxes {
    match (protocol, protocol.number()) {
        (_, Some((family, number))) => by_number(family, number),
        (Protocol::Ip, _) => Some(vec![Directed::of(Some(IpVersion::V4), None)]),
        (Protocol::Ip6, _) => Some(vec![Directed::of(Some(IpVersion::V6), None)]),
        (Protocol::Arp | Protocol::Rarp, _) => Some(vec![]),
        _ => None,
    }
}

fn by_number(family: Family, number: u32) -> Boxes {
    let version = match family {
        Family::Any => None,
        Family::Ip => Some(IpVersion::V4),
        Family::Ip6 => Some(IpVersion::V6),
    };
    if EXTENSION_HEADERS.contains(&number) {
        return Some(vec![Directed::of(version, None)]);
    }
    // A protocol field has eight bits; nothing equals a larger number.
    Some(u8::try_from(number).map_or_else(|_| vec![], |n| vec![Directed::of(version, Some(n))]))
}

fn by_side(direction: Direction, side: Side) -> Vec<Directed> {
    let directed = |source: &Side, destination: &Side| Directed {
        source: source.clone(),
        destination: destination.clone(),
        ..Directed::EVERYTHING
    };
    match direction {
        Direction::Source => vec![directed(&side, &Side::ANY)],
        Direction::Destination => vec![directed(&Side::ANY, &side)],
        Direction::Either => vec![directed(&side, &Side::ANY), directed(&Side::ANY, &side)],
        Direction::Both => vec![directed(&side, &side)],
    }
}

fn with_transports(only: Option<Transport>, boxes: &[Directed]) -> Vec<Directed> {
    let all = [Transport::Tcp, Transport::Udp, Transport::Sctp];
    all.iter()
        .filter(|transport| only.is_none_or(|only| only == **transport))
        .flat_map(|transport| {
            boxes.iter().map(|directed| Directed {
                protocol: Some(transport.number()),
                ..directed.clone()
            })
        })
        .collect()
}

/// The protocol checks that come before the bytes of a value are read.
fn by_guards(value: &Arithmetic) -> Boxes {
    match value {
        Arithmetic::Number(_) | Arithmetic::Length => None,
        Arithmetic::Negate(inner) => by_guards(inner),
        // Those of a right operand are not made.
        Arithmetic::Binary { left, .. } => by_guards(left),
        Arithmetic::Load {
            base: Protocol::Ether,
            index,
            ..
        } => by_guards(index),
        Arithmetic::Load { base, index, .. } => {
            let own = match base.number() {
                // Transport headers are looked for in IPv4 only, except for ICMPv6.
                Some((Family::Any | Family::Ip, number)) => by_number(Family::Ip, number),
                _ => by_protocol(*base),
            };
            intersect(by_guards(index), own)
        }
    }
}

fn intersect(left: Boxes, right: Boxes) -> Boxes {
    let (left, right) = match (left, right) {
        (None, other) | (other, None) => return other,
        (Some(left), Some(right)) => (left, right),
    };
    let mut boxes = Vec::new();
    for a in &left {
        for b in &right {
            add(&mut boxes, a.intersect(b));
        }
        if boxes.len() > BOX_COUNT_MAX {
            // Either side alone is wide enough.
            return Some(if left.len() <= right.len() {
                left
            } else {
                right
            });
        }
    }
    Some(boxes)
}

fn unite(left: Boxes, right: Boxes) -> Boxes {
    let mut boxes = left?;
    for directed in right? {
        add(&mut boxes, Some(directed));
    }
    (boxes.len() <= BOX_COUNT_MAX).then_some(boxes)
}

fn add(boxes: &mut Vec<Directed>, directed: Option<Directed>) {
    if let Some(directed) = directed.filter(|new| !boxes.contains(new)) {
        boxes.push(directed);
    }
}

/// The conjuncts that filters without direction do not express.
fn residual(expression: &Expression) -> Option<Expression> {
    match expression {
        Expression::And(left, right) => match (residual(left), residual(right)) {
            (Some(left), Some(right)) => Some(Expression::And(Box::new(left), Box::new(right))),
            (some, None) | (None, some) => some,
        },
        _ if is_exact(expression) => None,
        _ => Some(expression.clone()),
    }
}

/// Whether a test says the same of all packets of a flow, and the filters say it too.
fn is_exact(expression: &Expression) -> bool {
    match expression {
        Expression::And(left, right) | Expression::Or(left, right) => {
            is_exact(left) && is_exact(right)
        }
        Expression::Not(_) => false,
        Expression::Primitive(primitive) => match primitive {
            Primitive::Protocol(Protocol::Arp | Protocol::Rarp | Protocol::Ether) => false,
            Primitive::Protocol(protocol) => protocol
                .number()
                .is_none_or(|(_, number)| !EXTENSION_HEADERS.contains(&number)),
            Primitive::ProtocolNumber { number, .. } => !EXTENSION_HEADERS.contains(number),
            Primitive::EtherProtocol(ether_type) => matches!(*ether_type, IPV4 | IPV6),
            Primitive::Ipv4 {
                carrier: Carrier::Any | Carrier::Ip,
                direction,
                mask,
                ..
            } => *direction == Direction::Either && Prefix::is_contiguous(*mask),
            Primitive::Ipv6 { direction, .. } | Primitive::Port { direction, .. } => {
                *direction == Direction::Either
            }
            _ => false,
        },
    }
}
