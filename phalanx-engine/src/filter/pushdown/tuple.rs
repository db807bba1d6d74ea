//! 5-tuple filters: prefixes and port ranges of the two ends of a flow.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

/// An IP version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names of the versions")]
pub enum IpVersion {
    V4,
    V6,
}

/// Addresses that share their first bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    /// The address; bits beyond `length` are zero.
    pub address: IpAddr,
    /// Bits that count: at most 32 or 128.
    pub length: u8,
}

/// One end of a flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Side {
    /// `None`: any address of either version.
    pub prefix: Option<Prefix>,
    /// Flows without ports have port 0.
    pub ports: RangeInclusive<u16>,
}

/// A filter for whole flows: holds if `a` fits one end and `b` the other. The ends are those of
/// the outermost IP header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowFilter {
    /// `None`: any.
    pub protocol: Option<u8>,
    /// `None`: either.
    pub version: Option<IpVersion>,
    /// One end.
    pub a: Side,
    /// The other end.
    pub b: Side,
}

/// As [`FlowFilter`], with a direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Directed {
    pub(super) protocol: Option<u8>,
    pub(super) version: Option<IpVersion>,
    pub(super) source: Side,
    pub(super) destination: Side,
}

impl Prefix {
    /// The narrowest prefix around an address under a mask; a mask with holes is widened to its
    /// leading bits.
    pub(super) fn v4(address: Ipv4Addr, mask: Ipv4Addr) -> Self {
        let length = u32::from(mask).leading_ones();
        let kept = u32::MAX.checked_shl(32 - length).unwrap_or(0);
        let address = Ipv4Addr::from(u32::from(address) & kept);
        Self {
            address: IpAddr::V4(address),
            length: u8::try_from(length).unwrap_or(32),
        }
    }

    pub(super) fn v6(address: Ipv6Addr, length: u8) -> Self {
        Self {
            address: IpAddr::V6(address),
            length,
        }
    }

    pub(super) fn is_contiguous(mask: Ipv4Addr) -> bool {
        let mask = u32::from(mask);
        mask.leading_ones() + mask.trailing_zeros() >= 32
    }

    /// The version of its addresses.
    #[must_use]
    pub fn version(&self) -> IpVersion {
        match self.address {
            IpAddr::V4(_) => IpVersion::V4,
            IpAddr::V6(_) => IpVersion::V6,
        }
    }

    /// Whether an address is in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let mask = u32::MAX
                    .checked_shl(32 - u32::from(self.length.min(32)))
                    .unwrap_or(0);
                u32::from(own) & mask == u32::from(other) & mask
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let shift = 128 - u32::from(self.length.min(128));
                let mask = u128::MAX.checked_shl(shift).unwrap_or(0);
                u128::from(own) & mask == u128::from(other) & mask
            }
            _ => false,
        }
    }

    fn covers(&self, other: &Prefix) -> bool {
        self.length <= other.length && self.contains(other.address)
    }
}

impl Side {
    /// Any address and port.
    pub const ANY: Self = Self {
        prefix: None,
        ports: 0..=u16::MAX,
    };

    pub(super) fn of(prefix: Prefix) -> Self {
        Self {
            prefix: Some(prefix),
            ..Self::ANY
        }
    }

    /// Whether an end of a flow fits.
    #[must_use]
    pub fn contains(&self, address: IpAddr, port: u16) -> bool {
        self.ports.contains(&port) && self.prefix.is_none_or(|prefix| prefix.contains(address))
    }

    fn covers(&self, other: &Side) -> bool {
        let prefix = match (&self.prefix, &other.prefix) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(own), Some(other)) => own.covers(other),
        };
        prefix && self.ports.contains(other.ports.start()) && self.ports.contains(other.ports.end())
    }

    fn intersect(&self, other: &Side) -> Option<Side> {
        let prefix = match (self.prefix, other.prefix) {
            (None, prefix) | (prefix, None) => prefix,
            (Some(a), Some(b)) if a.covers(&b) => Some(b),
            (Some(a), Some(b)) if b.covers(&a) => Some(a),
            _ => return None,
        };
        let low = *self.ports.start().max(other.ports.start());
        let high = *self.ports.end().min(other.ports.end());
        (low <= high).then_some(Side {
            prefix,
            ports: low..=high,
        })
    }
}

impl FlowFilter {
    /// Every flow.
    pub const EVERYTHING: Self = Self {
        protocol: None,
        version: None,
        a: Side::ANY,
        b: Side::ANY,
    };

    /// Whether a flow between two ends fits, either way round; ports are 0 without a transport.
    #[must_use]
    pub fn contains(&self, protocol: u8, one: (IpAddr, u16), other: (IpAddr, u16)) -> bool {
        let version = if one.0.is_ipv4() {
            IpVersion::V4
        } else {
            IpVersion::V6
        };
        let fits = |a: (IpAddr, u16), b: (IpAddr, u16)| {
            self.a.contains(a.0, a.1) && self.b.contains(b.0, b.1)
        };
        self.protocol.is_none_or(|own| own == protocol)
            && self.version.is_none_or(|own| own == version)
            && (fits(one, other) || fits(other, one))
    }

    /// Whether it holds for every flow that `other` holds for (it may say no where it does).
    pub(super) fn covers(&self, other: &FlowFilter) -> bool {
        let sides = |a: &Side, b: &Side| self.a.covers(a) && self.b.covers(b);
        self.protocol.is_none_or(|own| other.protocol == Some(own))
            && self.version.is_none_or(|own| other.version == Some(own))
            && (sides(&other.a, &other.b) || sides(&other.b, &other.a))
    }
}

impl Directed {
    pub(super) const EVERYTHING: Self = Self {
        protocol: None,
        version: None,
        source: Side::ANY,
        destination: Side::ANY,
    };

    pub(super) fn of(version: Option<IpVersion>, protocol: Option<u8>) -> Self {
        Self {
            protocol,
            version,
            ..Self::EVERYTHING
        }
    }

    /// The flows in both; `None` if there are none.
    pub(super) fn intersect(&self, other: &Directed) -> Option<Directed> {
        let both = Directed {
            protocol: agree(self.protocol, other.protocol)?,
            version: agree(self.version, other.version)?,
            source: self.source.intersect(&other.source)?,
            destination: self.destination.intersect(&other.destination)?,
        };
        both.agreed_version().is_some().then_some(both)
    }

    /// The version that its parts allow: `None` if they contradict each other.
    fn agreed_version(&self) -> Option<Option<IpVersion>> {
        let of = |side: &Side| side.prefix.map(|prefix| prefix.version());
        agree(
            agree(of(&self.source), of(&self.destination))?,
            self.version,
        )
    }

    /// Forgets the direction and states the version that the prefixes imply.
    pub(super) fn undirected(self) -> FlowFilter {
        let version = self.agreed_version().unwrap_or(self.version);
        FlowFilter {
            protocol: self.protocol,
            version,
            a: self.source,
            b: self.destination,
        }
    }
}

fn agree<T: PartialEq>(a: Option<T>, b: Option<T>) -> Option<Option<T>> {
    match (a, b) {
        (Some(a), Some(b)) => (a == b).then_some(Some(a)),
        (some, None) | (None, some) => Some(some),
    }
}

impl fmt::Display for FlowFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.protocol {
            None => f.write_str("any protocol")?,
            Some(6) => f.write_str("tcp")?,
            Some(17) => f.write_str("udp")?,
            Some(132) => f.write_str("sctp")?,
            Some(other) => write!(f, "protocol {other}")?,
        }
        match self.version {
            Some(IpVersion::V4) => f.write_str(" over ipv4")?,
            Some(IpVersion::V6) => f.write_str(" over ipv6")?,
            None => {}
        }
        write!(f, " {} <-> {}", self.a, self.b)
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.prefix {
            None => f.write_str("*")?,
            Some(Prefix { address, length }) => {
                let whole = if address.is_ipv4() { 32 } else { 128 };
                match length == whole {
                    true => write!(f, "{address}")?,
                    false => write!(f, "{address}/{length}")?,
                }
            }
        }
        match (*self.ports.start(), *self.ports.end()) {
            (0, u16::MAX) => Ok(()),
            (low, high) if low == high => write!(f, " port {low}"),
            (low, high) => write!(f, " ports {low}-{high}"),
        }
    }
}
