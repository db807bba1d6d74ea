//! Redaction: from a frame to one that can be handed on, which says no more who talked and what
//! was said, and still goes through the analysis to the same story.
//!
//! A frame is not cleaned but written anew: it begins as zeros, and only what is understood and
//! harmless is copied or replaced. What the parser does not understand is left out, with a reason.
//! Deliberately absent: payload in which addresses are looked for; payload is kept as it is or not
//! at all.

mod checksum;
mod draft;
mod export;
mod link;
mod mask;
mod network;
mod pseudonym;
mod special;
mod transport;

use std::ops::Range;

use phalanx_common::packet::visit_layers;
use phalanx_common::packet::{Headers, Layers, LinkKind, Next, Station, Unparsed, protocol};

use draft::Draft;

pub use export::{Export, ExportError, Exported, Tally};
pub use mask::MASK;
pub(crate) use mask::{mask, parse_mask};
pub use pseudonym::{Key, KeyError, Pseudonyms};

/// What becomes of addresses.
#[derive(Debug)]
pub enum Addresses {
    /// Stand-ins replace them.
    Replaced(Box<Pseudonyms>),
    /// They stay, of hosts and of network cards.
    Kept,
}

/// What becomes of payload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Payload {
    /// A packet ends after its transport header.
    #[default]
    Cut,
    /// Payload of TCP, UDP and echoes stays, but for these ranges of bytes of each packet's.
    Kept {
        /// From the first byte of payload on.
        masks: Vec<Range<u32>>,
    },
}

/// A frame as it may be handed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Redacted<'a> {
    /// From its link header on.
    pub bytes: &'a [u8],
    /// Bytes it had on the wire; headers of radios, which are taken off, do not count.
    pub wire_length: u32,
}

/// Rewrites frames, one at a time.
#[derive(Debug)]
pub struct Redactor {
    addresses: Addresses,
    payload: Payload,
    stations: Vec<(Station, usize)>,
    bytes: Vec<u8>,
}

/// What a radio told of a frame, before the frame.
struct Radio {
    /// Where the frame's own header begins.
    wireless: usize,
    /// Whether that header is filled up to a multiple of four.
    is_padded: bool,
}

/// What of a frame is kept.
#[derive(Default)]
struct Plan {
    /// Bytes of the frame, from its beginning, that something is kept of.
    end: usize,
    /// The IP layers that were parsed whole.
    layers: Option<Layers>,
    /// Payload that is kept; none where it is empty.
    payload: Range<usize>,
    /// The IP header of a later fragment, which is innermost.
    fragment: Option<usize>,
    arp: Option<usize>,
}

impl Redactor {
    /// One that does the same to each frame.
    #[must_use]
    pub const fn new(addresses: Addresses, payload: Payload) -> Self {
        Self {
            addresses,
            payload,
            stations: Vec::new(),
            bytes: Vec::new(),
        }
    }

    /// Whether frames of a link type can be redacted, and the link type that they have then.
    #[must_use]
    pub fn link_type(link_type: u16) -> Option<u16> {
        const RAW: u16 = 101;
        const IEEE802_11: u16 = 105;
        match LinkKind::from_linktype(u32::from(link_type))? {
            // What a radio tells of a frame tells where it stands, too.
            LinkKind::Radiotap | LinkKind::Prism | LinkKind::Ppi => Some(IEEE802_11),
            LinkKind::None if link_type < RAW => Some(RAW),
            _ => Some(link_type),
        }
    }

    /// Rewrites a frame; `wire_length` is that of the whole frame, of which `bytes` may hold only
    /// the first part.
    ///
    /// # Errors
    /// Why it cannot be: it is left out.
    pub fn redact(
        &mut self,
        bytes: &[u8],
        link_type: u16,
        wire_length: u32,
    ) -> Result<Redacted<'_>, Unparsed> {
        let kind = LinkKind::from_linktype(u32::from(link_type)).ok_or(Unparsed::UnknownLink)?;
        self.stations.clear();
        let parsed = visit_layers(bytes, kind, wire_length, |station, at| {
            self.stations.push((station, at as usize));
        });
        let radio = self.radio()?;
        let plan = self.plan(bytes, parsed)?;
        let mut draft = Draft::new(bytes, plan.end, std::mem::take(&mut self.bytes));
        self.rewrite_links(&mut draft, plan.end);
        for layer in plan.layers.iter().flat_map(Layers::iter) {
            let at = layer.headers.network_offset as usize;
            network::rewrite(&mut draft, at, &mut self.addresses);
            transport::rewrite(&mut draft, &layer.headers, &mut self.addresses);
        }
        if let Some(at) = plan.fragment {
            network::rewrite(&mut draft, at, &mut self.addresses);
        }
        if let Some(at) = plan.arp {
            link::rewrite_arp(&mut draft, at, &mut self.addresses);
        }
        self.keep_payload(&mut draft, plan.payload);
        // From the innermost layer outwards, as each checksum covers what is inside.
        for layer in plan.layers.iter().flat_map(Layers::iter).rev() {
            checksum::settle(&mut draft, &layer.headers);
        }
        self.rewrite_groups(&mut draft);
        self.bytes = draft.into_bytes();
        let removed = self.take_off(radio) as u32;
        Ok(Redacted {
            bytes: &self.bytes,
            wire_length: wire_length.saturating_sub(removed),
        })
    }

    /// What a radio told, where that is what the frame begins with.
    fn radio(&self) -> Result<Option<Radio>, Unparsed> {
        let Some((Station::Link(Next::Radiotap | Next::Prism | Next::Ppi), _)) =
            self.stations.first()
        else {
            return Ok(None);
        };
        match self.stations.get(1) {
            Some((Station::Link(Next::Wireless { is_padded }), at)) => Ok(Some(Radio {
                wireless: *at,
                is_padded: *is_padded,
            })),
            // It does not read as what it should be, which the parser tells.
            None => Ok(None),
            // Their link type would be another one.
            _ => Err(Unparsed::UnknownLink),
        }
    }

    fn plan(&self, bytes: &[u8], parsed: Result<Layers, Unparsed>) -> Result<Plan, Unparsed> {
        let last = self.stations.last().copied();
        let (layers, reason) = match parsed {
            Ok(layers) => (Some(layers), layers.stopped()),
            Err(reason) => (None, Some(reason)),
        };
        match (reason, last) {
            (Some(Unparsed::NonFirstFragment), Some((Station::Link(Next::Ip(_)), at))) => {
                return Ok(Plan {
                    end: network::header_end(bytes, at).ok_or(Unparsed::Truncated)?,
                    layers,
                    fragment: Some(at),
                    ..Plan::default()
                });
            }
            (Some(Unparsed::NotIp), Some((Station::Link(Next::EtherType(kind)), at)))
                if kind == link::ETHER_TYPE_ARP && layers.is_none() =>
            {
                return Ok(Plan {
                    end: link::arp_end(bytes, at).ok_or(Unparsed::NotIp)?,
                    arp: Some(at),
                    ..Plan::default()
                });
            }
            _ => {}
        }
        let Some(layers) = layers else {
            return Err(reason.unwrap_or(Unparsed::NotIp));
        };
        let payload = self.kept_payload(bytes, &layers);
        let headers_end = transport::header_end(bytes, &layers.innermost().headers);
        Ok(Plan {
            end: headers_end.max(payload.end),
            layers: Some(layers),
            payload,
            ..Plan::default()
        })
    }

    /// Where the payload lies that is to be kept.
    fn kept_payload(&self, bytes: &[u8], layers: &Layers) -> Range<usize> {
        let headers = &layers.innermost().headers;
        let is_known = matches!(headers.protocol, protocol::TCP | protocol::UDP)
            || transport::is_echo(headers);
        let is_tunnel = layers.stopped().is_some();
        if self.payload == Payload::Cut || is_tunnel || !is_known {
            return 0..0;
        }
        let start = (headers.payload_offset as usize).min(bytes.len());
        let end = start + (headers.payload_length as usize).min(bytes.len() - start);
        start..end
    }

    fn rewrite_links(&mut self, draft: &mut Draft<'_>, end: usize) {
        for (index, (station, at)) in self.stations.iter().enumerate() {
            if *at >= end {
                break;
            }
            let next = self.stations.get(index + 1).map_or(end, |(_, at)| *at);
            match station {
                Station::Link(next_kind) => {
                    link::rewrite(draft, *next_kind, *at..next, &mut self.addresses);
                }
                Station::Tunnel(tunnel) => link::rewrite_tunnel(draft, *tunnel, *at..next),
            }
        }
    }

    fn keep_payload(&self, draft: &mut Draft<'_>, payload: Range<usize>) {
        draft.keep(payload.clone());
        let Payload::Kept { masks } = &self.payload else {
            return;
        };
        for mask in masks {
            let place = |offset: u32| payload.start.saturating_add(offset as usize);
            let end = place(mask.end).min(payload.end);
            draft.fill(place(mask.start).min(end)..end, MASK);
        }
    }

    /// A frame to a group of IP bears the end of the group's address in its own (RFC 1112 section
    /// 6.4, RFC 2464 section 7).
    fn rewrite_groups(&self, draft: &mut Draft<'_>) {
        if matches!(self.addresses, Addresses::Kept) {
            return;
        }
        let mut ethernet = None;
        for (station, at) in &self.stations {
            match station {
                Station::Link(Next::Ethernet) => ethernet = Some(*at),
                Station::Link(Next::Ip(_)) => {
                    if let Some(ethernet) = ethernet.take() {
                        link::rewrite_group(draft, ethernet, *at);
                    }
                }
                Station::Link(_) => {}
                Station::Tunnel(_) => ethernet = None,
            }
        }
    }

    /// Takes off what a radio told, and what fills up the header behind it; gives how many bytes.
    fn take_off(&mut self, radio: Option<Radio>) -> usize {
        let Some(Radio {
            wireless,
            is_padded,
        }) = radio
        else {
            return 0;
        };
        let mut removed = wireless;
        let behind = self.stations.get(2).map(|(_, at)| *at);
        if let (true, Some(behind)) = (is_padded, behind) {
            let padding = link::wireless_padding(&self.bytes, wireless..behind);
            removed += padding.len();
            self.bytes.drain(padding);
        }
        self.bytes.drain(..wireless.min(self.bytes.len()));
        removed
    }
}

/// The addresses that the pseudo-header of a layer has, for IPv4 and IPv6.
fn pseudo_addresses(headers: &Headers) -> Range<usize> {
    let at = headers.network_offset as usize;
    if headers.version == 4 {
        at + 12..at + 20
    } else {
        at + 8..at + 40
    }
}
