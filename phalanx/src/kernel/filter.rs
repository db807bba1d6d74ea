//! Recording filters as the kernel wants them: a tuple space of shapes, keys and candidates.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::ops::RangeInclusive;

use phalanx_common::abi::{Filter, Shape, TupleKey};
use phalanx_common::limits::{FILTER_COUNT_MAX, SHAPE_COUNT_MAX, SNAP_CLASSES};

/// Bits of an address: IPv4 ones are mapped into IPv6.
const ADDRESS_BITS: u8 = 128;
/// Bits before the IPv4 address in a mapped one.
const MAPPED_BITS: u8 = 96;

/// One end of a recording filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordingEnd {
    /// Network in which the address must be; its length counts in IPv6 bits, 0 fits all.
    pub network: (Ipv6Addr, u8),
    /// Ports that fit.
    pub ports: RangeInclusive<u16>,
}

impl RecordingEnd {
    /// An end that fits everything.
    pub const ANY: Self = Self {
        network: (Ipv6Addr::UNSPECIFIED, 0),
        ports: 0..=u16::MAX,
    };

    /// An end in a network; the length is that of the address's own family.
    #[must_use]
    pub fn in_network(address: IpAddr, prefix_length: u8, ports: RangeInclusive<u16>) -> Self {
        let network = match address {
            IpAddr::V4(address) => (
                address.to_ipv6_mapped(),
                MAPPED_BITS.saturating_add(prefix_length),
            ),
            IpAddr::V6(address) => (address, prefix_length),
        };
        Self {
            network: (network.0, network.1.min(ADDRESS_BITS)),
            ports,
        }
    }
}

/// One recording filter: the ends may stand either way round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordingFilter {
    /// One end.
    pub a: RecordingEnd,
    /// The other end.
    pub b: RecordingEnd,
    /// IANA protocol number; absent: all.
    pub protocol: Option<u8>,
    /// Index into [`SNAP_CLASSES`].
    pub snap_class: u8,
    /// Whether records carry payload up to the snap length.
    pub has_payload: bool,
}

/// What is written into the maps for a set of filters.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct TupleSpace {
    pub(crate) filters: Vec<Filter>,
    pub(crate) shapes: Vec<Shape>,
    pub(crate) tuples: BTreeMap<TupleIndex, u64>,
}

/// A [`TupleKey`] without its generation, in an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TupleIndex {
    shape: u16,
    protocol: u8,
    a: [u32; 4],
    b: [u32; 4],
}

impl TupleIndex {
    pub(crate) fn key(self, generation: u32) -> TupleKey {
        let Self {
            shape,
            protocol,
            a,
            b,
        } = self;
        TupleKey {
            a,
            b,
            generation,
            shape,
            protocol,
            reserved: 0,
        }
    }
}

impl TupleSpace {
    /// Sorts filters, each with its number, into shapes.
    ///
    /// # Errors
    /// If a number or a snap class is out of range, or there are too many shapes.
    pub(crate) fn build(filters: &[(u8, RecordingFilter)]) -> Result<Self, String> {
        let mut space = Self {
            filters: vec![Filter::default(); FILTER_COUNT_MAX],
            ..Self::default()
        };
        for (number, filter) in filters {
            let Some(slot) = space.filters.get_mut(usize::from(*number)) else {
                return Err(format!(
                    "filter number {number}: must be below {FILTER_COUNT_MAX}"
                ));
            };
            if usize::from(filter.snap_class) >= SNAP_CLASSES.len() {
                return Err(format!("snap class {}: there is none", filter.snap_class));
            }
            *slot = kernel_filter(filter);
            let (a_mask, b_mask) = (mask(filter.a.network.1), mask(filter.b.network.1));
            let shape = Shape {
                a_mask,
                b_mask,
                has_protocol: u32::from(filter.protocol.is_some()),
                is_set: 1,
            };
            let index = TupleIndex {
                shape: space.shape_number(shape)?,
                protocol: filter.protocol.unwrap_or(0),
                a: masked(filter.a.network.0, a_mask),
                b: masked(filter.b.network.0, b_mask),
            };
            *space.tuples.entry(index).or_default() |= 1 << number;
        }
        Ok(space)
    }

    fn shape_number(&mut self, shape: Shape) -> Result<u16, String> {
        let found = self.shapes.iter().position(|known| *known == shape);
        let number = found.unwrap_or(self.shapes.len());
        if number == SHAPE_COUNT_MAX {
            return Err(format!(
                "more than {SHAPE_COUNT_MAX} combinations of prefix lengths and protocols at once"
            ));
        }
        if found.is_none() {
            self.shapes.push(shape);
        }
        u16::try_from(number).map_err(|error| error.to_string())
    }
}

fn kernel_filter(filter: &RecordingFilter) -> Filter {
    Filter {
        a_port_first: *filter.a.ports.start(),
        a_port_last: *filter.a.ports.end(),
        b_port_first: *filter.b.ports.start(),
        b_port_last: *filter.b.ports.end(),
        is_set: 1,
        snap_class: filter.snap_class,
        has_payload: u8::from(filter.has_payload),
        reserved: [0; 5],
    }
}

/// The mask of a prefix length as words in wire order.
fn mask(prefix_length: u8) -> [u32; 4] {
    let missing = u32::from(ADDRESS_BITS - prefix_length.min(ADDRESS_BITS));
    let mask = u128::MAX.checked_shl(missing).unwrap_or(0);
    words(mask.to_be_bytes())
}

fn masked(address: Ipv6Addr, mask: [u32; 4]) -> [u32; 4] {
    let address = words(address.octets());
    std::array::from_fn(|index| address[index] & mask[index])
}

fn words(octets: [u8; 16]) -> [u32; 4] {
    zerocopy::transmute!(octets)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(a: &str, length: u8, protocol: Option<u8>) -> RecordingFilter {
        let a = RecordingEnd::in_network(a.parse().unwrap(), length, 443..=443);
        RecordingFilter {
            a,
            b: RecordingEnd::ANY,
            protocol,
            snap_class: 0,
            has_payload: false,
        }
    }

    #[test]
    fn masks_are_in_wire_order() {
        assert_eq!(mask(0), [0; 4]);
        assert_eq!(mask(128), [u32::MAX; 4]);
        let bytes: [u8; 16] = zerocopy::transmute!(mask(96 + 20));
        assert_eq!(bytes[11..], [0xff, 0xff, 0xff, 0xf0, 0]);
    }

    #[test]
    fn filters_of_one_shape_share_it_and_equal_tuples_share_a_set() {
        let filters = [
            (0, filter("10.0.0.1", 32, Some(6))),
            (1, filter("10.0.0.2", 32, Some(6))),
            (5, filter("10.0.0.2", 32, Some(6))),
            (63, filter("10.0.0.99", 24, None)),
        ];
        let space = TupleSpace::build(&filters).unwrap();
        assert_eq!(space.shapes.len(), 2);
        let sets: Vec<u64> = space.tuples.values().copied().collect();
        assert_eq!(sets, [1, 1 << 1 | 1 << 5, 1 << 63]);
        let network = space.tuples.keys().last().unwrap();
        let octets: [u8; 16] = zerocopy::transmute!(network.a);
        assert_eq!(octets[12..], [10, 0, 0, 0]);
        assert_eq!(
            space
                .filters
                .iter()
                .filter(|filter| filter.is_set == 1)
                .count(),
            4
        );
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert!(TupleSpace::build(&[(64, filter("10.0.0.1", 32, None))]).is_err());
        let many: Vec<_> = (0..33)
            .map(|number| (number, filter("2001:db8::", number, None)))
            .collect();
        assert!(TupleSpace::build(&many).unwrap_err().contains("32"));
        assert!(TupleSpace::build(&many[..32]).is_ok());
    }
}
