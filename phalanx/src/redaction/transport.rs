//! Transport headers: of TCP's options only those stay by which a connection is measured, of ICMP
//! what names nobody, with the headers of the packet that an error quotes.

use phalanx_common::packet::{Headers, is_error, parse_quote, protocol};

use super::Addresses;
use super::draft::{Draft, read};
use super::network;

/// Bytes behind its IP header that are kept of a packet that an ICMP error quotes: as many as are
/// always quoted (RFC 792).
const QUOTED_BYTES: usize = 8;

/// Bytes of the target of a neighbour solicitation or advertisement (RFC 4861 section 4.3).
const TARGET_BYTES: usize = 16;

/// Whether an option of TCP is kept, by kind and length: segment size, window scale, SACK
/// permitted, SACK, timestamps, user timeout (RFC 5482). Of all others only kind and length stay:
/// keys, tokens and addresses of Multipath TCP (30), the cookie of Fast Open (34), signatures (19,
/// 29) and the identifiers of hosts and subscribers that middleboxes write (76, 78, 253, 254) name
/// somebody.
const fn is_harmless(kind: u8, length: u8) -> bool {
    matches!(
        (kind, length),
        (2 | 28, 4) | (3, 3) | (4, 2) | (5, 10 | 18 | 26 | 34) | (8, 10)
    )
}

/// The type of an ICMP message.
const fn icmp_type(headers: &Headers) -> u8 {
    (headers.sequence >> 8) as u8
}

/// Whether an ICMP message is an echo, or its answer.
pub(super) const fn is_echo(headers: &Headers) -> bool {
    matches!(
        (headers.protocol, icmp_type(headers)),
        (protocol::ICMP, 0 | 8) | (protocol::ICMPV6, 128 | 129)
    )
}

/// Whether an ICMP message is a neighbour solicitation or advertisement.
const fn has_target(headers: &Headers) -> bool {
    headers.protocol == protocol::ICMPV6 && matches!(icmp_type(headers), 135 | 136)
}

/// Where what is kept of the innermost layer ends, payload aside.
pub(super) fn header_end(bytes: &[u8], headers: &Headers) -> usize {
    let end = headers.payload_offset as usize;
    if has_target(headers) && headers.payload_length as usize >= TARGET_BYTES {
        return end + TARGET_BYTES;
    }
    if headers.protocol == protocol::GRE {
        return end + acknowledgement_bytes(bytes, end);
    }
    match is_error(headers).then(|| parse_quote(bytes, headers)) {
        Some(Ok(quote)) => quote.transport_offset as usize + QUOTED_BYTES,
        _ => end,
    }
}

/// Bytes of a GRE header that only acknowledges (PPTP, RFC 2637 section 4.1): it has a key, the
/// acknowledgement and no sequence number, and nothing follows. 0 for any other.
fn acknowledgement_bytes(bytes: &[u8], at: usize) -> usize {
    match read::<4>(bytes, at) {
        Some([first, flags, 0x88, 0x0b]) if first & 0x30 == 0x20 && flags & 0x07 == 1 => {
            8 + usize::from(flags & 0x80 != 0) * 4
        }
        _ => 0,
    }
}

/// Rewrites the transport header of a layer; checksums are settled when all is written.
pub(super) fn rewrite(draft: &mut Draft<'_>, headers: &Headers, addresses: &mut Addresses) {
    let at = headers.transport_offset as usize;
    let end = headers.payload_offset as usize;
    match headers.protocol {
        protocol::TCP => {
            draft.keep(at..at + 20);
            network::keep_options(draft, at + 20..end, &is_harmless);
        }
        protocol::UDP => draft.keep(at..at + 8),
        protocol::ICMP => {
            draft.keep(at..at + 4);
            match icmp_type(headers) {
                // Identifiers and numbers, the MTU, a pointer.
                0 | 3 | 4 | 8 | 11..=14 | 17 | 18 => draft.keep(at + 4..at + 8),
                // A redirect names a gateway.
                5 => {
                    if let Some(gateway) = draft.read::<4>(at + 4) {
                        draft.put(at + 4, &addresses.v4(gateway));
                    }
                }
                _ => {}
            }
            quote(draft, headers, addresses);
        }
        protocol::ICMPV6 => {
            draft.keep(at..at + 4);
            // The MTU, a pointer, identifiers and numbers, flags of routers and neighbours.
            if matches!(icmp_type(headers), 1..=4 | 128 | 129 | 134..=136) {
                draft.keep(at + 4..at + 8);
            }
            if has_target(headers)
                && let Some(target) = draft.read::<TARGET_BYTES>(end)
            {
                draft.put(end, &addresses.v6(target));
            }
            quote(draft, headers, addresses);
        }
        protocol::GRE => draft.keep(at..at + acknowledgement_bytes(draft.source(), at)),
        _ => {}
    }
}

/// The packet that an ICMP error quotes, up to its ports.
fn quote(draft: &mut Draft<'_>, error: &Headers, addresses: &mut Addresses) {
    if !is_error(error) {
        return;
    }
    let Ok(quote) = parse_quote(draft.source(), error) else {
        return;
    };
    network::rewrite(draft, quote.network_offset as usize, addresses);
    let at = quote.transport_offset as usize;
    match quote.protocol {
        protocol::TCP => draft.keep(at..at + QUOTED_BYTES),
        // Without the checksum, which tells of a payload that is not there to settle it by.
        protocol::UDP => draft.keep(at..at + 6),
        protocol::ICMP | protocol::ICMPV6 => {
            draft.keep(at..at + 2);
            if is_echo(&quote) {
                draft.keep(at + 4..at + QUOTED_BYTES);
            }
        }
        _ => {}
    }
}
