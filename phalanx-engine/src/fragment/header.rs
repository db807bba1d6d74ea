//! Headers of fragments: what tells datagrams apart, and which bytes of one a fragment has.

use phalanx_common::bytes::{Bytes, Window};
use phalanx_common::limits::EXTENSION_COUNT_MAX;
use phalanx_common::packet::{Tunnel, protocol};

use super::Fragment;

/// The longest payload of an IPv6 packet, and the longest IPv4 packet, in bytes.
const LENGTH_MAX: u32 = 65_535;

/// What tells datagrams apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) hop: u32,
    version: u8,
    /// 0 for IPv6, whose fragments need not agree in it (RFC 8200 section 4.5).
    protocol: u8,
    pub(super) identification: u32,
    source: [u64; 2],
    destination: [u64; 2],
    /// The same addresses mean different hosts in different virtual networks.
    tunnel: Tunnel,
}

/// Why a fragment is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    TooLong,
    Contradictory,
    Malformed,
}

/// A fragment's IP header.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub(super) key: Key,
    /// Bytes from the IP header to the fragment's payload.
    pub(super) length: u32,
    /// The part of the datagram's payload that the fragment has, on the wire.
    pub(super) start: u32,
    pub(super) end: u32,
    pub(super) has_more: bool,
    pub(super) is_uneven: bool,
    /// Of IPv6: where the number of the fragment header stands, from the IP header on.
    pub(super) next_at: u32,
}

impl Header {
    pub(super) fn read(fragment: &Fragment<'_>) -> Result<Self, Fault> {
        let offset = fragment.place.offset;
        let mut header = read_at(fragment.bytes, offset, fragment.wire_length)?;
        header.key.hop = fragment.hop;
        header.key.tunnel = fragment.place.tunnel();
        let is_only = header.start == 0 && !header.has_more;
        if is_only || header.end == header.start {
            return Err(Fault::Malformed);
        }
        // The headers before the payload count, but the fragment header, which goes, and that of
        // IPv6 itself.
        let own = match header.key.version {
            4 => header.length,
            _ => header.length - 48,
        };
        if header.end > LENGTH_MAX - own.min(LENGTH_MAX) {
            return Err(Fault::TooLong);
        }
        Ok(header)
    }

    pub(super) const fn is_ipv4(&self) -> bool {
        self.key.version == 4
    }
}

/// What the fields say, whether it makes sense or not.
fn read_at(bytes: &[u8], offset: u32, wire_length: u32) -> Result<Header, Fault> {
    let first = bytes.get(offset as usize).ok_or(Fault::Malformed)?;
    let read = match first >> 4 {
        4 => read_ipv4(bytes, offset, wire_length),
        6 => read_ipv6(bytes, offset, wire_length),
        _ => None,
    };
    read.ok_or(Fault::Malformed)
}

/// Whether an IP header with a fragment's fields may lie there; `None` where the bytes end before.
pub(super) fn read_fields(bytes: &[u8], offset: u32, wire_length: u32) -> Option<Header> {
    let header = read_at(bytes, offset, wire_length).ok()?;
    (header.start > 0 || header.has_more).then_some(header)
}

fn read_ipv4(bytes: &[u8], offset: u32, wire_length: u32) -> Option<Header> {
    let ip = bytes.window::<20>(offset as usize)?;
    let length = u32::from(ip.u8(0) & 0x0f) * 4;
    let held = wire_length.saturating_sub(offset);
    let ip_length = match u32::from(ip.u16(2)) {
        0 => held,
        declared => declared.min(held),
    };
    let field = ip.u16(6);
    let place = Piece {
        start: u32::from(field & 0x1fff) * 8,
        length: ip_length.checked_sub(length)?,
        has_more: field & 0x2000 != 0,
    };
    let key = Key {
        hop: 0,
        version: 4,
        protocol: ip.u8(9),
        identification: ip.u16(4).into(),
        source: [0, ip.word(12).into()],
        destination: [0, ip.word(16).into()],
        tunnel: Tunnel::None,
    };
    (length >= 20).then(|| place.header(key, length, 0))
}

fn read_ipv6(bytes: &[u8], offset: u32, wire_length: u32) -> Option<Header> {
    let ip = bytes.window::<40>(offset as usize)?;
    let held = wire_length.saturating_sub(offset);
    let ip_length = match u32::from(ip.u16(4)) {
        0 => held,
        declared => (declared + 40).min(held),
    };
    let mut next = ip.u8(6);
    let (mut at, mut next_at) = (40, 6);
    for _ in 0..EXTENSION_COUNT_MAX {
        let extension = bytes.window::<8>((offset + at) as usize)?;
        let units = u32::from(extension.u8(1));
        match next {
            protocol::FRAGMENT => {
                let field = extension.u16(2);
                let length = at + 8;
                let place = Piece {
                    start: u32::from(field & 0xfff8),
                    length: ip_length.checked_sub(length)?,
                    has_more: field & 1 != 0,
                };
                let key = Key {
                    hop: 0,
                    version: 6,
                    protocol: 0,
                    identification: extension.u32(4),
                    source: ip.address(8),
                    destination: ip.address(24),
                    tunnel: Tunnel::None,
                };
                return Some(place.header(key, length, next_at));
            }
            // RFC 4302 section 2.2 counts in units of four bytes, less two.
            protocol::AUTHENTICATION => (at, next_at) = (at + (units + 2) * 4, at),
            protocol::HOP_BY_HOP
            | protocol::ROUTING
            | protocol::DESTINATION
            | protocol::MOBILITY => (at, next_at) = (at + (units + 1) * 8, at),
            _ => return None,
        }
        next = extension.u8(0);
    }
    None
}

/// Where a fragment's payload lies in that of the datagram.
struct Piece {
    start: u32,
    length: u32,
    has_more: bool,
}

impl Piece {
    fn header(self, key: Key, length: u32, next_at: u32) -> Header {
        // The next one begins at a multiple of 8: what goes beyond can only be wrong.
        let whole = if self.has_more {
            self.length & !7
        } else {
            self.length
        };
        Header {
            key,
            length,
            start: self.start,
            end: self.start + whole,
            has_more: self.has_more,
            is_uneven: whole != self.length,
            next_at,
        }
    }
}
