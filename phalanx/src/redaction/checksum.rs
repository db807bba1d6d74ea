//! Checksums: right ones stay right and wrong ones wrong, and none tells of what was cut off.
//!
//! A header's own checksum is updated by what has changed (RFC 1624). That would not do for those
//! of TCP, UDP and ICMP: they would go on telling the sum of the payload, and with it a payload of
//! one or two bytes whole. So each of them is found to be one of five, and written as the same one
//! of what is left, cut payload counted as zeros.

use std::ops::Range;

use phalanx_common::packet::{Headers, protocol};

use super::draft::{Draft, read};
use super::pseudo_addresses;

/// What a checksum is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Right,
    /// The sum of the pseudo-header alone: the sender left the rest to its card, which had not
    /// computed it yet when the packet was captured.
    Partial,
    Wrong,
    /// UDP over IPv4 need not have one.
    Absent,
    /// Not all that it covers is there.
    Unknown,
}

/// Updates the checksum at `field` by what has changed in `place` (RFC 1624, equation 3).
pub(super) fn update(draft: &mut Draft<'_>, field: usize, place: Range<usize>) {
    let Some(checksum) = draft.read::<2>(field).map(u16::from_be_bytes) else {
        return;
    };
    let end = place.end.min(draft.bytes().len());
    let place = place.start.min(end)..end;
    let before = fold(sum(&draft.source()[place.clone()]));
    let after = fold(sum(&draft.bytes()[place]));
    if before == after {
        return;
    }
    let updated = !fold(u64::from(!checksum) + u64::from(!before) + u64::from(after));
    draft.put(field, &updated.to_be_bytes());
}

/// Settles the checksum of a layer's transport header, or of its GRE header.
pub(super) fn settle(draft: &mut Draft<'_>, headers: &Headers) {
    let Some(field) = field(draft.source(), headers) else {
        return;
    };
    let segment = Segment::of(headers, field);
    let Some(stored) = draft.read::<2>(field).map(u16::from_be_bytes) else {
        return;
    };
    let state = segment.state(draft.source(), stored);
    let right = segment.right(draft.bytes());
    let settled = match state {
        State::Right => right,
        State::Partial => segment.pseudo(draft.bytes()),
        // Not 0, which would mean that there is none.
        State::Wrong if right == 1 => 2,
        State::Wrong => right ^ 1,
        State::Absent | State::Unknown => 0,
    };
    draft.put(field, &settled.to_be_bytes());
}

/// Where the checksum lies; `None` where there is none.
fn field(bytes: &[u8], headers: &Headers) -> Option<usize> {
    let at = headers.transport_offset as usize;
    match headers.protocol {
        protocol::TCP => Some(at + 16),
        protocol::UDP => Some(at + 6),
        protocol::ICMP | protocol::ICMPV6 => Some(at + 2),
        // Present by the first flag, in version 0 (RFC 2784).
        protocol::GRE => {
            let [flags, version] = read::<2>(bytes, at)?;
            (flags & 0x80 != 0 && version & 0x07 == 0).then_some(at + 4)
        }
        _ => None,
    }
}

/// What a checksum covers.
struct Segment<'a> {
    headers: &'a Headers,
    place: Range<usize>,
    field: usize,
    has_pseudo_header: bool,
}

impl<'a> Segment<'a> {
    const fn of(headers: &'a Headers, field: usize) -> Self {
        let start = headers.transport_offset as usize;
        let end = headers.payload_offset as usize + headers.payload_length as usize;
        Self {
            headers,
            place: start..end,
            field,
            has_pseudo_header: !matches!(headers.protocol, protocol::ICMP | protocol::GRE),
        }
    }

    fn state(&self, source: &[u8], stored: u16) -> State {
        let is_udp = self.headers.protocol == protocol::UDP;
        if is_udp && stored == 0 {
            return State::Absent;
        }
        if self.has_pseudo_header && stored == self.pseudo(source) {
            return State::Partial;
        }
        if self.headers.is_fragmented || self.place.end > source.len() {
            return State::Unknown;
        }
        // Of 0 and 0xffff, which are the same number, any may be written.
        let right = self.right(source);
        if stored == right || (stored, right) == (0xffff, 0) || (stored, right) == (0, 0xffff) {
            State::Right
        } else {
            State::Wrong
        }
    }

    /// The sum of the pseudo-header (RFC 9293 section 3.1, RFC 8200 section 8.1).
    fn pseudo(&self, bytes: &[u8]) -> u16 {
        if !self.has_pseudo_header {
            return 0;
        }
        let addresses = bytes.get(pseudo_addresses(self.headers));
        let length = self.place.len() as u64;
        fold(sum(addresses.unwrap_or_default()) + length + u64::from(self.headers.protocol))
    }

    /// The checksum as it would be right; what `bytes` do not hold counts as zeros.
    fn right(&self, bytes: &[u8]) -> u16 {
        let end = self.place.end.min(bytes.len());
        let place = self.place.start.min(end)..end;
        let field = read::<2>(bytes, self.field).map_or(0, u16::from_be_bytes);
        let held = fold(sum(&bytes[place]));
        // The field itself counts as zero.
        let sum = u64::from(held) + u64::from(!field) + u64::from(self.pseudo(bytes));
        match !fold(sum) {
            0 if self.headers.protocol == protocol::UDP => 0xffff,
            right => right,
        }
    }
}

/// The sum of 16-bit words in network order; a last odd byte counts as the upper half of one.
fn sum(bytes: &[u8]) -> u64 {
    let words = bytes.chunks(2).map(|word| match word {
        [upper, lower] => u64::from(u16::from_be_bytes([*upper, *lower])),
        [upper] => u64::from(*upper) << 8,
        _ => 0,
    });
    words.sum()
}

/// The sum in one's complement (RFC 1071).
fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}
