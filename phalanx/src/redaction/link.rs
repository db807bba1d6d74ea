//! What lies around IP: link headers, ARP, the headers of tunnels.

use std::ops::Range;

use phalanx_common::packet::{Next, Tunnel};

use super::Addresses;
use super::draft::{Draft, read};

pub(super) const ETHER_TYPE_ARP: u16 = 0x0806;

/// ARP for IPv4 over Ethernet (RFC 826), in bytes.
const ARP_BYTES: usize = 28;

impl Addresses {
    fn hardware(&mut self, address: [u8; 6]) -> [u8; 6] {
        match self {
            Self::Replaced(pseudonyms) => pseudonyms.hardware(address),
            Self::Kept => address,
        }
    }

    pub(super) fn v4(&mut self, address: [u8; 4]) -> [u8; 4] {
        match self {
            Self::Replaced(pseudonyms) => pseudonyms.v4(address),
            Self::Kept => address,
        }
    }

    pub(super) fn v6(&mut self, address: [u8; 16]) -> [u8; 16] {
        match self {
            Self::Replaced(pseudonyms) => pseudonyms.v6(address),
            Self::Kept => address,
        }
    }
}

fn replace_hardware(draft: &mut Draft<'_>, at: usize, addresses: &mut Addresses) {
    if let Some(address) = draft.read::<6>(at) {
        draft.put(at, &addresses.hardware(address));
    }
}

/// Rewrites one header, which fills `place`.
pub(super) fn rewrite(
    draft: &mut Draft<'_>,
    kind: Next,
    place: Range<usize>,
    addresses: &mut Addresses,
) {
    let at = place.start;
    match kind {
        // What follows IP's own rules; and what a radio told, which is taken off.
        Next::Ip(_) | Next::Radiotap | Next::Prism | Next::Ppi => {}
        Next::Ethernet => {
            replace_hardware(draft, at, addresses);
            replace_hardware(draft, at + 6, addresses);
            draft.keep(at + 12..place.end);
        }
        // Tags, labels, sessions and types name no host. Only a tag has bytes here.
        Next::EtherType(_) => draft.keep(at..place.end.min(at + 4)),
        Next::Llc | Next::Mpls | Next::Pppoe | Next::Ppp | Next::Family | Next::CiscoHdlc => {
            draft.keep(place)
        }
        Next::Cooked => {
            draft.keep(at..at + 6);
            let length = draft.read::<2>(at + 4).map_or(0, u16::from_be_bytes);
            if length == 6 {
                replace_hardware(draft, at + 6, addresses);
            }
            draft.keep(at + 14..place.end);
        }
        Next::CookedV2 => {
            draft.keep(at..at + 12);
            if draft.read::<1>(at + 11) == Some([6]) {
                replace_hardware(draft, at + 12, addresses);
            }
        }
        Next::Wireless { is_padded } => wireless(draft, place, is_padded, addresses),
    }
}

/// An IEEE 802.11 header: three or four addresses, and those of the first frame of an aggregate.
fn wireless(
    draft: &mut Draft<'_>,
    place: Range<usize>,
    is_padded: bool,
    addresses: &mut Addresses,
) {
    let at = place.start;
    let header = WirelessHeader::read(draft.source(), at);
    let end = at + header.length;
    draft.keep(at..end.min(place.end));
    for offset in [4, 10, 16] {
        replace_hardware(draft, at + offset, addresses);
    }
    if header.has_four_addresses {
        replace_hardware(draft, at + 24, addresses);
    }
    if header.is_aggregate {
        let first = if is_padded {
            at + header.length.next_multiple_of(4)
        } else {
            end
        };
        replace_hardware(draft, first, addresses);
        replace_hardware(draft, first + 6, addresses);
        draft.keep(first + 12..(first + 14).min(place.end));
    }
}

/// What the length of an IEEE 802.11 data header depends on (IEEE 802.11-2020 section 9.2.4).
struct WirelessHeader {
    length: usize,
    has_four_addresses: bool,
    is_aggregate: bool,
}

impl WirelessHeader {
    fn read(bytes: &[u8], at: usize) -> Self {
        let [kind, flags] = read::<2>(bytes, at).unwrap_or_default();
        let has_four_addresses = flags & 0x03 == 0x03;
        let mut length = if has_four_addresses { 30 } else { 24 };
        let mut is_aggregate = false;
        if kind & 0x80 != 0 {
            is_aggregate = read::<1>(bytes, at + length).is_some_and(|[qos]| qos & 0x80 != 0);
            length += if flags & 0x80 == 0 { 2 } else { 6 };
        }
        Self {
            length,
            has_four_addresses,
            is_aggregate,
        }
    }
}

/// What fills up an IEEE 802.11 header that lies in `place`.
pub(super) fn wireless_padding(bytes: &[u8], place: Range<usize>) -> Range<usize> {
    let header = WirelessHeader::read(bytes, place.start);
    let start = (place.start + header.length).min(bytes.len());
    let end = place.start + header.length.next_multiple_of(4);
    start..end.min(bytes.len()).min(place.end.max(start))
}

/// The frame's own address where it is a group's: from the group's address as it is by now.
pub(super) fn rewrite_group(draft: &mut Draft<'_>, ethernet: usize, network: usize) {
    let version = draft.read::<1>(network).map(|[first]| first >> 4);
    let Some(prefix) = draft.read::<3>(ethernet) else {
        return;
    };
    match (prefix, version) {
        ([0x33, 0x33, _], Some(6)) => {
            if let Some([0xff, .., a, b, c, d]) = read::<16>(draft.bytes(), network + 24) {
                draft.put(ethernet + 2, &[a, b, c, d]);
            }
        }
        ([0x01, 0x00, 0x5e], Some(4)) => {
            if let Some([0xe0..=0xef, b, c, d]) = read::<4>(draft.bytes(), network + 16) {
                draft.put(ethernet + 3, &[b & 0x7f, c, d]);
            }
        }
        _ => {}
    }
}

/// Where ARP ends that begins at `at`; `None` where it is not for IPv4 over Ethernet.
pub(super) fn arp_end(bytes: &[u8], at: usize) -> Option<usize> {
    let whole = read::<ARP_BYTES>(bytes, at)?;
    // Hardware: Ethernet, or IEEE 802. Protocol: IPv4. Lengths: 6 and 4.
    let is_known = matches!(whole[..6], [0, 1 | 6, 0x08, 0x00, 6, 4]);
    is_known.then_some(at + ARP_BYTES)
}

pub(super) fn rewrite_arp(draft: &mut Draft<'_>, at: usize, addresses: &mut Addresses) {
    draft.keep(at..at + 8);
    for hardware in [at + 8, at + 18] {
        replace_hardware(draft, hardware, addresses);
        if let Some(address) = draft.read::<4>(hardware + 6) {
            draft.put(hardware + 6, &addresses.v4(address));
        }
    }
}

/// Rewrites the header of a tunnel: keys and networks stay, since inner addresses are told apart by
/// them; what an operator may have put beside them goes.
pub(super) fn rewrite_tunnel(draft: &mut Draft<'_>, tunnel: Tunnel, place: Range<usize>) {
    let at = place.start;
    match tunnel {
        Tunnel::None | Tunnel::IpInIp => {}
        Tunnel::Gre { .. } | Tunnel::Pptp { .. } => draft.keep(place),
        Tunnel::Vxlan { .. } => draft.keep(at..at + 8),
        Tunnel::Erspan { version, .. } => {
            // Version 3 may have a subheader of the platform behind its 12 bytes.
            let end = match version {
                3 => place.end.min(at + gre_length(draft, at) + 12),
                _ => place.end,
            };
            draft.keep(at..end);
        }
        Tunnel::Geneve { .. } => {
            draft.keep(at..at + 8);
            geneve_options(draft, at + 8..place.end);
        }
    }
}

/// Bytes of a GRE header: checksum, key and sequence number, four each, where flags say so.
fn gre_length(draft: &Draft<'_>, at: usize) -> usize {
    let flags = draft.read::<2>(at).map_or(0, u16::from_be_bytes);
    4 + 4 * (flags & 0xb000).count_ones() as usize
}

/// Options of Geneve (RFC 8926 section 3.5): class, type and length stay, data goes.
fn geneve_options(draft: &mut Draft<'_>, place: Range<usize>) {
    let mut at = place.start;
    while at + 4 <= place.end {
        let Some([.., length]) = draft.read::<4>(at) else {
            return;
        };
        draft.keep(at..at + 4);
        at += 4 + 4 * usize::from(length & 0x1f);
    }
}
