//! Records: one packet at one hop, decoded, from the bytes of a frame.
//!
//! A record borrows its frame: it is made, handed to the flow it belongs to, and forgotten.

use phalanx_common::packet::{
    Encapsulation, Headers, Layers, LinkKind, TcpFlags, TcpOptions, Unparsed, parse_tcp_options,
    protocol,
};

use crate::side::Endpoint;

/// One packet, or one super-segment, seen at one hop.
#[derive(Clone, Copy, Debug)]
pub struct PacketRecord<'a> {
    /// Number of its hop among those of one source, from 0.
    pub hop: u32,
    /// Number of the frame at its source, from 1.
    pub number: u64,
    /// When it was seen, in nanoseconds since the epoch of its hop's clock.
    pub time_ns: i64,
    /// Length of the frame on the wire, in bytes.
    pub wire_length: u32,
    /// The captured bytes of the frame; may end before [`Self::wire_length`].
    pub bytes: &'a [u8],
    /// The headers of the innermost IP layer; their offsets count from the start of `bytes`.
    pub headers: &'a Headers,
    /// The TCP options; nothing for other protocols.
    pub options: &'a TcpOptions,
    /// How the innermost IP layer is wrapped.
    pub encapsulation: Encapsulation,
    /// Fragments that the packet was put together from, 0 where it came in one frame; see
    /// [`crate::fragment`].
    pub fragment_count: u16,
}

impl<'a> PacketRecord<'a> {
    /// The same packet at another hop.
    #[inline]
    #[must_use]
    pub const fn at_hop(mut self, hop: u32) -> Self {
        self.hop = hop;
        self
    }

    /// The captured part of the transport payload, padding of the frame aside.
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        let start = self.headers.payload_offset as usize;
        let end = start.saturating_add(self.headers.payload_length as usize);
        let end = end.min(self.bytes.len());
        self.bytes.get(start..end).unwrap_or_default()
    }

    /// The captured part of the TCP options.
    #[must_use]
    pub fn option_bytes(&self) -> &'a [u8] {
        let start = self.headers.transport_offset as usize + 20;
        let end = (self.headers.payload_offset as usize).min(self.bytes.len());
        self.bytes.get(start..end).unwrap_or_default()
    }

    /// The SACK blocks, as left and right edge.
    pub fn sack_blocks(&self) -> impl Iterator<Item = (u32, u32)> + use<'a> {
        self.options.sack_blocks(self.bytes)
    }

    /// Source and destination of the innermost IP layer.
    #[must_use]
    pub fn endpoints(&self) -> (Endpoint, Endpoint) {
        let headers = self.headers;
        (
            Endpoint::of_words(headers.source, headers.source_port),
            Endpoint::of_words(headers.destination, headers.destination_port),
        )
    }

    /// Whether it came in fragments, or is the first of some that did not all come.
    #[must_use]
    pub const fn came_in_fragments(&self) -> bool {
        self.fragment_count > 0 || self.headers.is_fragmented
    }

    /// The TCP flags.
    #[must_use]
    pub const fn flags(&self) -> TcpFlags {
        self.headers.tcp_flags
    }

    /// How far the segment goes in sequence space: its payload, and one each for SYN and FIN
    /// (RFC 9293 section 3.4).
    #[must_use]
    pub fn sequence_length(&self) -> u32 {
        let flags = self.flags();
        self.headers.payload_length
            + u32::from(flags.any(TcpFlags::SYN))
            + u32::from(flags.any(TcpFlags::FIN))
    }
}

/// What a frame was decoded to: a record without its frame.
#[derive(Clone, Copy, Debug, Default)]
pub struct Decoded {
    /// See [`PacketRecord::headers`].
    pub headers: Headers,
    /// See [`PacketRecord::options`].
    pub options: TcpOptions,
    /// See [`PacketRecord::encapsulation`].
    pub encapsulation: Encapsulation,
    /// See [`PacketRecord::fragment_count`].
    pub fragment_count: u16,
}

impl Decoded {
    /// Decodes the innermost IP layer of a frame; `layers` is room that is used again and again.
    ///
    /// # Errors
    /// The reason why the packet takes part in no flow.
    #[inline]
    pub fn of(
        layers: &mut Layers,
        bytes: &[u8],
        kind: LinkKind,
        wire_length: u32,
    ) -> Result<Self, Unparsed> {
        layers.parse(bytes, kind, wire_length)?;
        let innermost = layers.innermost();
        let headers = innermost.headers;
        let options = if headers.protocol == protocol::TCP {
            let start = headers.transport_offset + 20;
            parse_tcp_options(bytes, start, headers.payload_offset)
        } else {
            TcpOptions::default()
        };
        Ok(Self {
            headers,
            options,
            encapsulation: innermost.encapsulation,
            fragment_count: 0,
        })
    }

    /// The record of the frame that this was decoded from.
    #[inline]
    #[must_use]
    pub fn record<'a>(
        &'a self,
        number: u64,
        time_ns: i64,
        wire_length: u32,
        bytes: &'a [u8],
    ) -> PacketRecord<'a> {
        PacketRecord {
            hop: 0,
            number,
            time_ns,
            wire_length,
            bytes,
            headers: &self.headers,
            options: &self.options,
            encapsulation: self.encapsulation,
            fragment_count: self.fragment_count,
        }
    }
}
