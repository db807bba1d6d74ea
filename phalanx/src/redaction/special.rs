//! How many of an address's first bits are told as they are: so many that its pseudonym is of the
//! same kind, be it loopback, multicast or none such.
//!
//! Bits are only ever flipped by what comes before them. So a bit may be flipped unless that could
//! lead into or out of a range: where the bits before it begin both addresses of the range and
//! others. What depends on the bits before alone keeps prefixes, and maps no two addresses to one.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Addresses of one kind.
#[derive(Clone, Copy)]
struct Range {
    /// First address, in the upper bits.
    first: u128,
    /// Bits that all have in common.
    length: u32,
    /// Bits that are told of an address in it.
    told: u32,
    is_private: bool,
}

/// Tells the address whole.
const WHOLE: u32 = 128;

const fn v4(first: [u8; 4], length: u32, told: u32) -> Range {
    Range {
        first: (u32::from_be_bytes(first) as u128) << 96,
        length,
        told,
        is_private: false,
    }
}

const fn v6(first: [u16; 8], length: u32, told: u32) -> Range {
    let [a, b, c, d, e, f, g, h] = first;
    Range {
        first: Ipv6Addr::new(a, b, c, d, e, f, g, h).to_bits(),
        length,
        told,
        is_private: false,
    }
}

const fn private(range: Range) -> Range {
    Range {
        is_private: true,
        ..range
    }
}

/// RFC 6890 and RFC 5771. Ranges of documentation, benchmarks and shared address space are not
/// here: near each of them, addresses would show more of their bits.
const RANGES_V4: [Range; 9] = [
    // "This network", and loopback: of the host alone, they name nobody.
    v4([0, 0, 0, 0], 8, WHOLE),
    v4([127, 0, 0, 0], 8, WHOLE),
    v4([169, 254, 0, 0], 16, 16),
    private(v4([10, 0, 0, 0], 8, 8)),
    private(v4([172, 16, 0, 0], 12, 12)),
    private(v4([192, 168, 0, 0], 16, 16)),
    // The control blocks of multicast are protocols; groups beyond may be anybody's.
    v4([224, 0, 0, 0], 23, WHOLE),
    v4([224, 0, 0, 0], 4, 4),
    // Reserved, and broadcast.
    v4([240, 0, 0, 0], 4, WHOLE),
];

/// RFC 6890, RFC 4291 and RFC 4193.
const RANGES_V6: [Range; 6] = [
    // Unspecified, and loopback.
    v6([0; 8], 127, WHOLE),
    v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 64, 64),
    private(v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7, 7)),
    // Groups that are assigned for good name protocols; but the solicited-node groups hold the end
    // of a host's address. Of other groups the flags and the scope are told.
    v6([0xff02, 0, 0, 0, 0, 1, 0xff00, 0], 104, 104),
    v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 12, WHOLE),
    v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8, 16),
];

/// Bits of an address of IPv4 that are told.
pub(super) fn told_v4(address: [u8; 4], are_private_kept: bool) -> u32 {
    let bits = u128::from(Ipv4Addr::from(address).to_bits()) << 96;
    told(bits, &RANGES_V4, are_private_kept).min(32)
}

/// Bits of an address of IPv6 that are told.
pub(super) fn told_v6(address: [u8; 16], are_private_kept: bool) -> u32 {
    told(u128::from_be_bytes(address), &RANGES_V6, are_private_kept)
}

fn told(address: u128, ranges: &[Range], are_private_kept: bool) -> u32 {
    let mut told = 0;
    let mut narrowest: Option<Range> = None;
    for range in ranges {
        let common = (address ^ range.first).leading_zeros();
        // The bit in which it leaves the range is told, those behind need not be.
        told = told.max(range.length.min(common + 1));
        if common >= range.length && narrowest.is_none_or(|it| it.length < range.length) {
            narrowest = Some(*range);
        }
    }
    match narrowest {
        Some(range) if range.is_private && are_private_kept => WHOLE,
        Some(range) => told.max(range.told),
        None => told,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_of_an_address() {
        for (address, bits) in [
            ("0.0.0.0", 32),
            ("127.0.0.53", 32),
            ("255.255.255.255", 32),
            ("224.0.0.251", 32),
            ("239.1.2.3", 5),
            ("169.254.1.1", 16),
            ("10.1.2.3", 8),
            ("172.31.2.3", 12),
            ("192.168.2.3", 16),
            ("192.0.2.1", 9),
            ("8.8.8.8", 7),
            ("198.51.100.1", 6),
            ("203.0.113.1", 5),
            ("100.64.0.1", 4),
        ] {
            let address: Ipv4Addr = address.parse().unwrap();
            assert_eq!(told_v4(address.octets(), false), bits, "{address}");
        }
        for (address, bits) in [
            ("::", 128),
            ("::1", 128),
            ("fe80::1", 64),
            ("fd00::1", 7),
            ("ff02::1", 128),
            ("ff02::1:ff00:1", 104),
            ("ff15::1", 16),
            ("ff3e:30:2001:db8::1", 16),
            ("2001:db8::1", 3),
            ("64:ff9b::1", 10),
        ] {
            let address: Ipv6Addr = address.parse().unwrap();
            assert_eq!(told_v6(address.octets(), false), bits, "{address}");
        }
        assert_eq!(told_v4([10, 1, 2, 3], true), 32);
        assert_eq!(told_v4([11, 1, 2, 3], true), 8);
        assert_eq!(
            told_v6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1).octets(), true),
            128
        );
    }

    /// `docs/privacy.md` names these figures.
    #[test]
    fn public_addresses_tell_few_bits() {
        let mut counts = [0_u32; 33];
        for upper in 0..=u16::MAX {
            let [a, b] = upper.to_be_bytes();
            let address = Ipv4Addr::new(a, b, 9, 9);
            let is_unicast = !address.is_multicast() && a < 240 && a != 0 && a != 127;
            if is_unicast && !address.is_private() && !address.is_link_local() {
                counts[told_v4(address.octets(), false) as usize] += 1;
            }
        }
        let all: u32 = counts.iter().sum();
        let within = |bits| counts[..=bits].iter().sum::<u32>() * 100 / all;
        assert_eq!((within(5), within(8), within(12)), (83, 98, 99));
        assert_eq!(counts[17..].iter().sum::<u32>(), 0);
    }
}
