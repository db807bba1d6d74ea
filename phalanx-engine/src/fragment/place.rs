//! Places: where the IP header of a fragment lies in a frame.
//!
//! The parser gives a later fragment no headers, so its place is found by trial: a header that
//! looks like a fragment's is made whole in a copy, and where the parser then finds a layer there,
//! that is the place.

use phalanx_common::packet::{Encapsulation, Layers, LinkKind, Unparsed, parse_link};

use super::header::{Header, read_fields};
use crate::limits::{FRAGMENT_PLACE_SPAN, FRAGMENT_PLACE_TRIES};

/// A protocol that no transport header is read of (RFC 3692: for experiments).
const EXPERIMENT: u8 = 253;

/// Where the IP header of a fragment lies in a frame, and how it is wrapped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// In bytes from the start of the frame.
    pub offset: u32,
    /// The VLAN id of its layer, 0 where there is none.
    pub vlan: u16,
    /// How its layer is wrapped.
    pub encapsulation: Encapsulation,
}

/// Whether a frame holds a fragment. `layers` are as the parser left them, `error` is what it said
/// where it found no layer.
#[inline]
#[must_use]
pub fn is_fragment(
    layers: &mut Layers,
    error: Option<Unparsed>,
    bytes: &[u8],
    kind: LinkKind,
    wire_length: u32,
) -> bool {
    match error {
        None => {
            layers.outermost().headers.is_fragmented
                || layers.stopped() == Some(Unparsed::NonFirstFragment)
                || layers.count() > 1 && layers.iter().any(|it| it.headers.is_fragmented)
        }
        Some(Unparsed::NonFirstFragment) => true,
        // A first fragment may end before its transport header does.
        Some(Unparsed::Truncated | Unparsed::BadTransportHeader) => {
            find(layers, bytes, kind, wire_length).is_some()
        }
        Some(_) => false,
    }
}

/// Finds the outermost fragment of a frame; `layers` is room that is used again and again.
#[must_use]
pub fn find(layers: &mut Layers, bytes: &[u8], kind: LinkKind, wire_length: u32) -> Option<Place> {
    match layers.parse(bytes, kind, wire_length) {
        Ok(()) => {
            if let Some(layer) = layers.iter().find(|it| it.headers.is_fragmented) {
                return Some(Place {
                    offset: layer.headers.network_offset,
                    vlan: layer.headers.vlan,
                    encapsulation: layer.encapsulation,
                });
            }
            let from = layers.innermost().headers.payload_offset;
            match layers.stopped()? {
                Unparsed::NonFirstFragment => search(layers, bytes, kind, wire_length, from),
                _ => None,
            }
        }
        Err(_) => match parse_link(bytes, kind) {
            Ok(link) => read_fields(bytes, link.offset, wire_length).map(|_| Place {
                offset: link.offset,
                vlan: link.vlan,
                encapsulation: Encapsulation::default(),
            }),
            Err(_) => search(layers, bytes, kind, wire_length, 0),
        },
    }
}

/// Tries the places that look like a fragment's header.
fn search(
    layers: &mut Layers,
    bytes: &[u8],
    kind: LinkKind,
    wire_length: u32,
    from: u32,
) -> Option<Place> {
    (from..from.saturating_add(FRAGMENT_PLACE_SPAN))
        .take_while(|offset| (*offset as usize) < bytes.len())
        .filter_map(|offset| Some((offset, read_fields(bytes, offset, wire_length)?)))
        .take(FRAGMENT_PLACE_TRIES)
        .find_map(|(offset, header)| {
            let whole = made_whole(bytes, offset, &header)?;
            layers.parse(&whole, kind, wire_length).ok()?;
            let layer = layers
                .iter()
                .find(|it| it.headers.network_offset == offset)?;
            Some(Place {
                offset,
                vlan: layer.headers.vlan,
                encapsulation: layer.encapsulation,
            })
        })
}

/// The frame up to the fragment's payload, with a header that says it is no fragment.
fn made_whole(bytes: &[u8], offset: u32, header: &Header) -> Option<Vec<u8>> {
    let at = offset as usize;
    let end = at + header.length as usize;
    let mut whole = bytes.get(..end.min(bytes.len()))?.to_vec();
    if header.is_ipv4() {
        whole[at + 6] &= 0xc0;
        whole[at + 7] = 0;
        whole[at + 9] = EXPERIMENT;
    } else {
        whole[end - 8] = EXPERIMENT;
        whole[end - 6..end - 4].fill(0);
    }
    Some(whole)
}
