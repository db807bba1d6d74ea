//! IP headers: addresses are replaced, of options only those stay that name nobody.

use std::ops::Range;

use phalanx_common::limits::EXTENSION_COUNT_MAX;
use phalanx_common::packet::protocol;

use super::Addresses;
use super::checksum;
use super::draft::{Draft, read};

/// No operation, which fills the place of what is no option: RFC 791 for IP, RFC 9293 for TCP.
const NO_OPERATION: u8 = 1;

/// The IPv4 option that asks routers to look (RFC 2113).
const ROUTER_ALERT_V4: (u8, u8) = (148, 4);

/// Options of IPv6: no operation of one byte, of several, router alert (RFC 2711), jumbo payload
/// (RFC 2675).
const PAD_1: u8 = 0;
const PAD_N: u8 = 1;
const ROUTER_ALERT_V6: (u8, u8) = (5, 2);
const JUMBO_PAYLOAD: (u8, u8) = (0xc2, 4);

/// Where an IP header ends, its options and extensions included, as far as they were captured;
/// `None` where it is none.
pub(super) fn header_end(bytes: &[u8], at: usize) -> Option<usize> {
    let [first] = read::<1>(bytes, at)?;
    match first >> 4 {
        4 => {
            let end = at + usize::from(first & 0x0f) * 4;
            Some(end.min(bytes.len()))
        }
        6 => {
            let last = extensions(bytes, at).last();
            let end = last.map_or(at + 40, |extension| extension.place.end);
            Some(end.min(bytes.len()))
        }
        _ => None,
    }
}

/// Rewrites the IP header at `at`, and its checksum.
pub(super) fn rewrite(draft: &mut Draft<'_>, at: usize, addresses: &mut Addresses) {
    match draft.read::<1>(at).map(|[first]| first >> 4) {
        Some(4) => rewrite_v4(draft, at, addresses),
        Some(6) => rewrite_v6(draft, at, addresses),
        _ => {}
    }
}

fn rewrite_v4(draft: &mut Draft<'_>, at: usize, addresses: &mut Addresses) {
    draft.keep(at..at + 12);
    for place in [at + 12, at + 16] {
        if let Some(address) = draft.read::<4>(place) {
            draft.put(place, &addresses.v4(address));
        }
    }
    let words = draft.read::<1>(at).map_or(5, |[first]| first & 0x0f);
    let end = at + usize::from(words) * 4;
    keep_options(draft, at + 20..end, &|kind, length| {
        (kind, length) == ROUTER_ALERT_V4
    });
    checksum::update(draft, at + 10, at + 12..end);
}

/// Keeps the options that `is_harmless` by kind and length, of others no more than these two; what
/// does not read as options goes too. IPv4 and TCP write them alike.
pub(super) fn keep_options(
    draft: &mut Draft<'_>,
    place: Range<usize>,
    is_harmless: &dyn Fn(u8, u8) -> bool,
) {
    let mut at = place.start;
    while at < place.end {
        let Some([kind]) = draft.read::<1>(at) else {
            return;
        };
        if kind == 0 {
            // What follows the end of the list stays zero.
            return;
        }
        if kind == NO_OPERATION {
            draft.put(at, &[NO_OPERATION]);
            at += 1;
            continue;
        }
        let length = draft.read::<1>(at + 1).map_or(0, |[length]| length);
        let end = at + usize::from(length);
        if length < 2 || end > place.end {
            draft.fill(at..place.end, NO_OPERATION);
            return;
        }
        if is_harmless(kind, length) {
            draft.keep(at..end);
        } else {
            // Not filled up with no operations: readers follow so many options and no more.
            draft.put(at, &[kind, length]);
        }
        at = end;
    }
}

/// One extension header of IPv6.
struct Extension {
    kind: u8,
    place: Range<usize>,
}

/// The extension headers of the IPv6 header at `at` (RFC 8200 section 4), as far as the parser
/// follows them: up to the transport header, or the fragment header of a later fragment.
fn extensions(bytes: &[u8], at: usize) -> impl Iterator<Item = Extension> {
    let mut next = read::<1>(bytes, at + 6).map(|[next]| next);
    let mut at = at + 40;
    let walk = move || {
        let kind = next.take()?;
        let head = read::<8>(bytes, at)?;
        let units = usize::from(head[1]);
        let length = match kind {
            protocol::FRAGMENT => 8,
            protocol::AUTHENTICATION => (units + 2) * 4,
            protocol::HOP_BY_HOP
            | protocol::ROUTING
            | protocol::DESTINATION
            | protocol::MOBILITY => (units + 1) * 8,
            _ => return None,
        };
        let is_later =
            kind == protocol::FRAGMENT && u16::from_be_bytes([head[2], head[3]]) & 0xfff8 != 0;
        next = (!is_later).then_some(head[0]);
        let place = at..at + length;
        at = place.end;
        Some(Extension { kind, place })
    };
    std::iter::from_fn(walk).take(EXTENSION_COUNT_MAX)
}

fn rewrite_v6(draft: &mut Draft<'_>, at: usize, addresses: &mut Addresses) {
    draft.keep(at..at + 8);
    for place in [at + 8, at + 24] {
        if let Some(address) = draft.read::<16>(place) {
            draft.put(place, &addresses.v6(address));
        }
    }
    for Extension { kind, place } in extensions(draft.source(), at) {
        let start = place.start;
        match kind {
            protocol::FRAGMENT => draft.keep(place),
            protocol::HOP_BY_HOP | protocol::DESTINATION => {
                draft.keep(start..start + 2);
                keep_options_v6(draft, start + 2..place.end);
            }
            // Which key and which packet (RFC 4302); the digest goes.
            protocol::AUTHENTICATION => draft.keep(start..place.end.min(start + 12)),
            // Next header, length and type; routes and addresses of homes go.
            _ => draft.keep(start..start + 3),
        }
    }
}

/// Options of IPv6 (RFC 8200 section 4.2); those that go become padding of their length.
fn keep_options_v6(draft: &mut Draft<'_>, place: Range<usize>) {
    let mut at = place.start;
    while at < place.end {
        let Some([kind]) = draft.read::<1>(at) else {
            return;
        };
        if kind == PAD_1 {
            at += 1;
            continue;
        }
        let Some([length]) = draft.read::<1>(at + 1) else {
            return;
        };
        let end = at + 2 + usize::from(length);
        if end > place.end {
            // Zeros: padding, byte by byte.
            return;
        }
        if [ROUTER_ALERT_V6, JUMBO_PAYLOAD].contains(&(kind, length)) {
            draft.keep(at..end);
        } else {
            draft.put(at, &[PAD_N, length]);
        }
        at = end;
    }
}
