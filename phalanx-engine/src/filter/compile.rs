//! Tree to program, one primitive at a time, in the order in which libpcap would test: where
//! bytes are missing, the order decides.

mod relation;

use thiserror::Error;

use super::ast::{Carrier, Direction, Expression, Family, Layer, Primitive, Protocol, Transport};
use super::link::{ARP, Carries, IPV4, IPV6, LinkType, RARP};
use super::program::{Compare, Load, Program, Step, Target, Test};

/// EtherTypes that announce a VLAN tag.
const VLAN_TYPES: [u16; 3] = [0x8100, 0x88a8, 0x9100];
/// Bytes of a VLAN tag.
const VLAN_TAG_BYTES: u32 = 4;
/// IPv6 next header: a fragment header.
const FRAGMENT_HEADER: u32 = 44;
/// Bytes of the fixed IPv6 header.
const IPV6_HEADER_BYTES: u32 = 40;

/// A valid expression that has no meaning on a link type.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CompileError {
    /// The primitive needs a layer the link type does not have.
    #[error("`{primitive}` needs Ethernet; frames here are of link type {}", link.number())]
    NeedsEthernet {
        /// Canonical text of the primitive.
        primitive: String,
        /// The link type compiled for.
        link: LinkType,
    },
    /// A constant division by zero.
    #[error("`{0}` divides by zero")]
    DivisionByZero(String),
    /// A constant shift that leaves nothing.
    #[error("`{0}` shifts by more than 31 bits")]
    ShiftTooFar(String),
}

/// Conditions before they are laid out as steps.
#[derive(Debug, Clone)]
pub(super) enum Condition {
    Constant(bool),
    Test(Test),
    And(Box<Condition>, Box<Condition>),
    Or(Box<Condition>, Box<Condition>),
    Not(Box<Condition>),
}

/// Compiles for one link type.
pub(super) fn compile(
    expression: Option<&Expression>,
    link: LinkType,
) -> Result<Program, CompileError> {
    let condition = match expression {
        None => Condition::Constant(true),
        Some(expression) => Compiler { link, shift: 0 }.expression(expression)?,
    };
    let mut steps = Vec::new();
    let entry = condition.lay_out(&mut steps, Target::Match, Target::NoMatch);
    Ok(Program { steps, entry })
}

impl Condition {
    pub(super) fn and(self, right: Condition) -> Condition {
        match (self, right) {
            (Condition::Constant(true), other) | (other, Condition::Constant(true)) => other,
            (Condition::Constant(false), _) => Condition::Constant(false),
            (left, right) => Condition::And(Box::new(left), Box::new(right)),
        }
    }

    pub(super) fn or(self, right: Condition) -> Condition {
        match (self, right) {
            (Condition::Constant(false), other) | (other, Condition::Constant(false)) => other,
            (Condition::Constant(true), _) => Condition::Constant(true),
            (left, right) => Condition::Or(Box::new(left), Box::new(right)),
        }
    }

    fn negate(self) -> Condition {
        match self {
            Condition::Constant(value) => Condition::Constant(!value),
            other => Condition::Not(Box::new(other)),
        }
    }

    /// Appends the steps, last ones first, so that every step points to lower indices.
    fn lay_out(self, steps: &mut Vec<Step>, yes: Target, no: Target) -> Target {
        match self {
            Condition::Constant(true) => yes,
            Condition::Constant(false) => no,
            Condition::Not(inner) => inner.lay_out(steps, no, yes),
            Condition::And(left, right) => {
                let right = right.lay_out(steps, yes, no);
                left.lay_out(steps, right, no)
            }
            Condition::Or(left, right) => {
                let right = right.lay_out(steps, yes, no);
                left.lay_out(steps, yes, right)
            }
            Condition::Test(test) => {
                steps.push(Step { test, yes, no });
                Target::Step(steps.len() - 1)
            }
        }
    }
}

/// Compiles primitives from left to right; `vlan` moves the offsets of all that follows.
struct Compiler {
    link: LinkType,
    /// Bytes of VLAN tags before the network header.
    shift: u32,
}

impl Compiler {
    fn expression(&mut self, expression: &Expression) -> Result<Condition, CompileError> {
        Ok(match expression {
            Expression::And(left, right) => {
                let left = self.expression(left)?;
                left.and(self.expression(right)?)
            }
            Expression::Or(left, right) => {
                let left = self.expression(left)?;
                left.or(self.expression(right)?)
            }
            Expression::Not(inner) => self.expression(inner)?.negate(),
            Expression::Primitive(primitive) => self.primitive(primitive)?,
        })
    }

    fn primitive(&mut self, primitive: &Primitive) -> Result<Condition, CompileError> {
        Ok(match primitive {
            Primitive::Protocol(protocol) => self.protocol(*protocol),
            Primitive::ProtocolNumber { family, number } => self.protocol_number(*family, *number),
            Primitive::EtherProtocol(number) => self.carries(*number),
            Primitive::EtherHost { direction, address } => {
                self.needs_ethernet(primitive)?;
                either(*direction, |source| {
                    ether_address(if source { 6 } else { 0 }, *address)
                })
            }
            Primitive::Ipv4 {
                carrier,
                direction,
                address,
                mask,
            } => self.ipv4(*carrier, *direction, u32::from(*address), u32::from(*mask)),
            Primitive::Ipv6 {
                direction,
                address,
                length,
            } => self.ipv6(*direction, u128::from(*address), *length),
            Primitive::Port {
                transport,
                direction,
                low,
                high,
            } => {
                let ports = Ports {
                    direction: *direction,
                    low: *low,
                    high: *high,
                };
                self.port6(*transport, ports)
                    .or(self.port4(*transport, ports))
            }
            Primitive::Vlan(id) => {
                self.needs_ethernet(primitive)?;
                self.vlan(*id)
            }
            Primitive::LengthAtMost(length) => {
                compare(Load::WireLength, Compare::Greater, *length).negate()
            }
            Primitive::LengthAtLeast(length) => {
                compare(Load::WireLength, Compare::GreaterOrEqual, *length)
            }
            Primitive::Broadcast => {
                self.needs_ethernet(primitive)?;
                ether_address(0, [0xff; 6])
            }
            Primitive::Multicast(Layer::Ether) => {
                self.needs_ethernet(primitive)?;
                masked(Load::Frame { offset: 0, size: 1 }, 1, 1)
            }
            Primitive::Multicast(Layer::Ip) => {
                self.carries(IPV4)
                    .and(compare(self.network(16, 1), Compare::GreaterOrEqual, 224))
            }
            Primitive::Multicast(Layer::Ip6) => {
                self.carries(IPV6).and(equal(self.network(24, 1), 255))
            }
            Primitive::Relation {
                left,
                operator,
                right,
            } => self.relation(left, *operator, right)?,
        })
    }

    fn needs_ethernet(&self, primitive: &Primitive) -> Result<(), CompileError> {
        match self.link {
            LinkType::Ethernet => Ok(()),
            link => Err(CompileError::NeedsEthernet {
                primitive: primitive.to_string(),
                link,
            }),
        }
    }

    fn carries(&self, ether_type: u16) -> Condition {
        match self.link.carries(ether_type, self.shift) {
            Carries::Always => Condition::Constant(true),
            Carries::Never => Condition::Constant(false),
            Carries::If(tests) => tests
                .into_iter()
                .fold(Condition::Constant(false), |any, test| {
                    any.or(Condition::Test(test))
                }),
        }
    }

    fn network_offset(&self) -> u32 {
        self.link.network_offset() + self.shift
    }

    fn network(&self, offset: u32, size: u8) -> Load {
        Load::Frame {
            offset: self.network_offset() + offset,
            size,
        }
    }

    fn protocol(&self, protocol: Protocol) -> Condition {
        match (protocol, protocol.number()) {
            (_, Some((family, number))) => self.protocol_number(family, number),
            (Protocol::Ip, _) => self.carries(IPV4),
            (Protocol::Ip6, _) => self.carries(IPV6),
            (Protocol::Arp, _) => self.carries(ARP),
            (Protocol::Rarp, _) => self.carries(RARP),
            _ => Condition::Constant(true),
        }
    }

    fn protocol_number(&self, family: Family, number: u32) -> Condition {
        let ip = || self.carries(IPV4).and(equal(self.network(9, 1), number));
        // Of the extension headers only a fragment header right behind the fixed one is seen.
        let ip6 = || {
            let direct = equal(self.network(6, 1), number);
            let fragment = equal(self.network(6, 1), FRAGMENT_HEADER)
                .and(equal(self.network(IPV6_HEADER_BYTES, 1), number));
            self.carries(IPV6).and(direct.or(fragment))
        };
        match family {
            Family::Ip => ip(),
            Family::Ip6 => ip6(),
            Family::Any => ip().or(ip6()),
        }
    }

    fn ipv4(&self, carrier: Carrier, direction: Direction, bits: u32, mask: u32) -> Condition {
        let within = |ether_type, source_offset, destination_offset| {
            either(direction, |source| {
                let offset = if source {
                    source_offset
                } else {
                    destination_offset
                };
                self.carries(ether_type)
                    .and(masked(self.network(offset, 4), mask, bits))
            })
        };
        let ip = || within(IPV4, 12, 16);
        let arp = || within(ARP, 14, 24);
        let rarp = || within(RARP, 14, 24);
        match carrier {
            Carrier::Ip => ip(),
            Carrier::Arp => arp(),
            Carrier::Rarp => rarp(),
            Carrier::Any => ip().or(arp()).or(rarp()),
        }
    }

    fn ipv6(&self, direction: Direction, address: u128, length: u8) -> Condition {
        let mask = u128::MAX
            .checked_shl(128 - u32::from(length.min(128)))
            .unwrap_or(0);
        let word = |value: u128, index: u32| (value >> (96 - 32 * index)) as u32;
        either(direction, |source| {
            let offset = if source { 8 } else { 24 };
            (0..4).fold(self.carries(IPV6), |condition, index| {
                let load = self.network(offset + 4 * index, 4);
                condition.and(masked(load, word(mask, index), word(address, index)))
            })
        })
    }

    fn port6(&self, transport: Option<Transport>, ports: Ports) -> Condition {
        let transports = transports(transport, |transport| {
            equal(self.network(6, 1), u32::from(transport.number()))
        });
        let at = |offset| self.network(IPV6_HEADER_BYTES + offset, 2);
        self.carries(IPV6).and(transports.and(ports.condition(at)))
    }

    fn port4(&self, transport: Option<Transport>, ports: Ports) -> Condition {
        let transports = transports(transport, |transport| {
            equal(self.network(9, 1), u32::from(transport.number()))
        });
        let at = |offset| Load::BehindIpv4 {
            header: self.network_offset(),
            offset,
            size: 2,
        };
        let condition = self.first_fragment().and(ports.condition(at));
        self.carries(IPV4).and(transports.and(condition))
    }

    /// The IPv4 fragment offset is zero.
    fn first_fragment(&self) -> Condition {
        masked(self.network(6, 2), 0x1fff, 0)
    }

    fn vlan(&mut self, id: Option<u16>) -> Condition {
        let tagged = VLAN_TYPES
            .iter()
            .fold(Condition::Constant(false), |any, number| {
                any.or(self.carries(*number))
            });
        let condition = match id {
            None => tagged,
            Some(id) => tagged.and(masked(self.network(0, 2), 0x0fff, u32::from(id))),
        };
        self.shift += VLAN_TAG_BYTES;
        condition
    }
}

#[derive(Clone, Copy)]
struct Ports {
    direction: Direction,
    low: u16,
    high: u16,
}

impl Ports {
    fn condition(self, at: impl Fn(u32) -> Load) -> Condition {
        either(self.direction, |source| {
            let load = at(if source { 0 } else { 2 });
            let (low, high) = (u32::from(self.low), u32::from(self.high));
            if low == high {
                return equal(load, low);
            }
            compare(load, Compare::GreaterOrEqual, low)
                .and(compare(load, Compare::Greater, high).negate())
        })
    }
}

fn transports(only: Option<Transport>, is: impl Fn(Transport) -> Condition) -> Condition {
    match only {
        Some(transport) => is(transport),
        None => is(Transport::Sctp)
            .or(is(Transport::Tcp))
            .or(is(Transport::Udp)),
    }
}

/// Applies a direction to a test of the source (`true`) or destination (`false`).
fn either(direction: Direction, test: impl Fn(bool) -> Condition) -> Condition {
    match direction {
        Direction::Source => test(true),
        Direction::Destination => test(false),
        Direction::Either => test(true).or(test(false)),
        Direction::Both => test(true).and(test(false)),
    }
}

fn ether_address(offset: u32, address: [u8; 6]) -> Condition {
    let [a, b, c, d, e, f] = address;
    equal(
        Load::Frame {
            offset: offset + 2,
            size: 4,
        },
        u32::from_be_bytes([c, d, e, f]),
    )
    .and(equal(
        Load::Frame { offset, size: 2 },
        u32::from_be_bytes([0, 0, a, b]),
    ))
}

fn compare(load: Load, compare: Compare, value: u32) -> Condition {
    Condition::Test(Test::Field {
        load,
        mask: u32::MAX,
        compare,
        value,
    })
}

fn equal(load: Load, value: u32) -> Condition {
    compare(load, Compare::Equal, value)
}

fn masked(load: Load, mask: u32, value: u32) -> Condition {
    Condition::Test(Test::Field {
        load,
        mask,
        compare: Compare::Equal,
        value,
    })
}
