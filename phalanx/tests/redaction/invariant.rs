//! What must hold of every redacted frame, whatever is in it.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::net::{IpAddr, Ipv6Addr};

use phalanx::redaction::{Addresses, Key, Payload, Pseudonyms, Redactor};
use phalanx_common::packet::{
    Headers, Layers, LinkKind, Next, Station, Unparsed, protocol, read_options, visit_layers,
};

pub(crate) const KEY: [u8; 32] = *b"a key that everybody knows, here";

pub(crate) fn pseudonyms() -> Pseudonyms {
    Pseudonyms::new(&Key::from_bytes(KEY), false)
}

/// One redactor, and the stand-ins that it must use.
pub(crate) struct Ground {
    pub(crate) redactor: Redactor,
    pub(crate) pseudonyms: Pseudonyms,
}

impl Ground {
    pub(crate) fn new(payload: Payload) -> Self {
        let addresses = Addresses::Replaced(Box::new(pseudonyms()));
        Self {
            redactor: Redactor::new(addresses, payload),
            pseudonyms: pseudonyms(),
        }
    }

    /// Redacts a frame and asserts all that must hold of what comes of it.
    pub(crate) fn check(
        &mut self,
        bytes: &[u8],
        link_type: u32,
        wire_length: u32,
    ) -> Result<Vec<u8>, Unparsed> {
        let number = u16::try_from(link_type).expect("link types of files have 16 bits");
        let (before, is_below_mpls) = parse(bytes, link_type, wire_length);
        let redacted = match self.redactor.redact(bytes, number, wire_length) {
            Ok(redacted) => (redacted.bytes.to_vec(), redacted.wire_length),
            Err(reason) => {
                let is_ppi = number == 192 && reason == Unparsed::UnknownLink;
                assert!(
                    before.is_err() || is_ppi,
                    "left out, but parsed: {reason:?}"
                );
                return Err(reason);
            }
        };
        let (redacted, length) = redacted;
        assert!(redacted.len() <= bytes.len(), "grown");
        let kind = u32::from(Redactor::link_type(number).expect("it was redacted"));
        // What lies below a label stack is guessed from its bytes, so it may be guessed anew.
        if !is_below_mpls {
            let (after, _) = parse(&redacted, kind, length);
            self.compare((bytes, &before), (&redacted, &after));
        }
        Ok(redacted)
    }

    fn compare(
        &mut self,
        (bytes, before): (&[u8], &Result<Layers, Unparsed>),
        (redacted, after): (&[u8], &Result<Layers, Unparsed>),
    ) {
        let (before, after) = match (before, after) {
            (Ok(before), Ok(after)) => (before, after),
            (Err(before), after) => {
                let is_known = matches!(before, Unparsed::NonFirstFragment | Unparsed::NotIp);
                assert!(is_known, "{before:?} was not left out");
                assert_eq!(after, &Err(*before));
                return;
            }
            (Ok(_), Err(after)) => panic!("no longer parsed: {after:?}"),
        };
        assert_eq!(before.count(), after.count());
        assert_eq!(before.stopped().is_some(), after.stopped().is_some());
        for (before, after) in before.iter().zip(after.iter()) {
            assert_eq!(before.encapsulation, after.encapsulation);
            self.compare_headers((bytes, before.headers), (redacted, after.headers));
        }
        let (quote, quoted) = (before.quote(bytes), after.quote(redacted));
        match (quote, quoted) {
            (Some(Ok(quote)), Some(Ok(quoted))) => {
                assert_eq!(self.replaced(&quote), ends(&quoted));
                assert_eq!(
                    (quote.source_port, quote.destination_port, quote.sequence),
                    (quoted.source_port, quoted.destination_port, quoted.sequence)
                );
            }
            (quote, quoted) => {
                let is_error =
                    |it: Option<Result<Headers, Unparsed>>| it.is_some_and(|it| it.is_err());
                assert_eq!(is_error(quote), is_error(quoted));
            }
        }
    }

    fn compare_headers(
        &mut self,
        (bytes, mut before): (&[u8], Headers),
        (redacted, mut after): (&[u8], Headers),
    ) {
        read_options(bytes, &mut before);
        read_options(redacted, &mut after);
        assert_eq!(self.replaced(&before), ends(&after));
        let removed = before.network_offset - after.network_offset;
        let moved = Headers {
            source: after.source,
            destination: after.destination,
            network_offset: before.network_offset - removed,
            transport_offset: before.transport_offset - removed,
            payload_offset: before.payload_offset - removed,
            ..before
        };
        assert_eq!(moved, after);
    }

    /// The addresses that must stand in for those of a layer.
    pub(crate) fn replaced(&mut self, headers: &Headers) -> [IpAddr; 2] {
        ends(headers).map(|end| match end {
            IpAddr::V4(address) if headers.version == 4 => {
                IpAddr::from(self.pseudonyms.v4(address.octets()))
            }
            IpAddr::V4(_) => unreachable!("addresses of IPv6 are given as such"),
            IpAddr::V6(address) => IpAddr::from(self.pseudonyms.v6(address.octets())),
        })
    }
}

/// Source and destination of a layer.
pub(crate) fn ends(headers: &Headers) -> [IpAddr; 2] {
    [headers.source, headers.destination].map(|words| {
        let mut octets = [0; 16];
        octets[..8].copy_from_slice(&words[0].to_ne_bytes());
        octets[8..].copy_from_slice(&words[1].to_ne_bytes());
        let address = Ipv6Addr::from(octets);
        match address.to_ipv4_mapped() {
            Some(address) if headers.version == 4 => address.into(),
            _ => address.into(),
        }
    })
}

/// The layers, and whether Ethernet, or what was guessed, lies below a stack of labels.
fn parse(bytes: &[u8], link_type: u32, wire_length: u32) -> (Result<Layers, Unparsed>, bool) {
    let Some(kind) = LinkKind::from_linktype(link_type) else {
        return (Err(Unparsed::UnknownLink), false);
    };
    let mut is_below_mpls = false;
    let layers = visit_layers(bytes, kind, wire_length, |station, _| {
        is_below_mpls |= station == Station::Link(Next::Mpls);
    });
    (layers, is_below_mpls)
}

/// Whether a frame holds these bytes anywhere.
pub(crate) fn holds(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|it| it == wanted)
}

/// Whether what follows the transport header may be headers too.
pub(crate) const fn is_icmp(headers: &Headers) -> bool {
    matches!(headers.protocol, protocol::ICMP | protocol::ICMPV6)
}
