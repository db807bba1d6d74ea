//! QUIC handshakes (RFC 9000) and the spin bit, from the datagrams of a UDP flow, by what is in
//! clear for every version (RFC 8999). Nothing is decrypted, the names in an Initial neither.

mod header;
mod spin;

use super::delay::Moment;
use crate::limits::{QUIC_COALESCED_COUNT_MAX, QUIC_VERSION_COUNT_MAX};
use crate::side::{Side, Sides};
pub use header::QuicVersion;
use header::{Kind, Long};
use spin::Spin;
pub use spin::{SpinStory, SpinUse};

/// What the QUIC packets of one flow tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QuicStory {
    /// The version of the last packet with a long header: the one that was agreed on.
    pub version: Option<QuicVersion>,
    /// Length of the destination connection id of the first client's Initial, in bytes.
    pub destination_id_length: Option<u8>,
    /// Lengths of the source connection ids that both sides chose, in bytes.
    pub source_id_length: Sides<Option<u8>>,
    /// The client's first Initial.
    pub client_initial: Option<Moment>,
    /// The server's first Initial or Handshake packet.
    pub server_hello: Option<Moment>,
    /// The first Retry: the server wanted the client's address confirmed.
    pub retry: Option<Moment>,
    /// The first Version Negotiation: the server does not speak the client's version.
    pub version_negotiation: Option<Moment>,
    /// The versions that it names.
    pub versions_offered: Vec<QuicVersion>,
    /// Whether the client sent data before the handshake was over (0-RTT).
    pub has_early_data: bool,
    /// The first packet with a short header of each side: its handshake is over.
    pub short: Sides<Option<Moment>>,
    /// Packets with a long header, as far as they were found in their datagrams.
    pub long_count: Sides<u32>,
    /// Packets with a short header.
    pub short_count: Sides<u32>,
    /// The spin bit.
    pub spin: SpinStory,
}

impl QuicStory {
    /// Nanoseconds from the client's first Initial to the server's first Initial or Handshake.
    #[must_use]
    pub fn hello_delay_ns(&self) -> Option<u64> {
        Some(self.client_initial?.until(self.server_hello?))
    }

    /// Nanoseconds from the client's first Initial to the first packet with a short header of a
    /// side.
    #[must_use]
    pub fn handshake_ns(&self, side: Side) -> Option<u64> {
        Some(self.client_initial?.until((*self.short.get(side))?))
    }
}

/// The QUIC packets of one flow.
#[derive(Default)]
pub(super) struct Quic {
    story: QuicStory,
    spin: Spin,
}

/// Whether a datagram of `length` bytes begins a QUIC connection: with an Initial or a Handshake of
/// a known version, or of any version at QUIC's port.
pub(super) fn begins(bytes: &[u8], length: u32, is_port: bool) -> bool {
    /// A datagram with an Initial is at least as long (RFC 9000 section 14.1).
    const INITIAL_LENGTH_MIN: u32 = 1_200;
    let Some(long) = Long::parse(bytes, length) else {
        return false;
    };
    match long.kind {
        Kind::Initial | Kind::Handshake if long.version.is_known() => true,
        Kind::Unknown => is_port && length >= INITIAL_LENGTH_MIN,
        _ => false,
    }
}

impl Quic {
    /// A datagram of `length` bytes.
    pub(super) fn datagram(&mut self, side: Side, bytes: &[u8], length: u32, moment: Moment) {
        let (mut left, mut length) = (bytes, length);
        for index in 0..QUIC_COALESCED_COUNT_MAX {
            let Some(first) = left.first() else {
                return;
            };
            if first & header::LONG == 0 {
                // Behind other packets it may be padding.
                let is_packet = index == 0 || first & header::FIXED != 0;
                if !is_packet {
                    return;
                }
                self.take_short(side, *first, moment);
                return;
            }
            let Some(long) = Long::parse(left, length) else {
                return;
            };
            self.take_long(side, &long, left, moment);
            let Some(rest) = long.length.and_then(|length| left.get(length as usize..)) else {
                return;
            };
            length = length.saturating_sub(long.length.unwrap_or(0));
            left = rest;
        }
    }

    fn take_short(&mut self, side: Side, first: u8, moment: Moment) {
        let count = self.story.short_count.get_mut(side);
        *count = count.saturating_add(1);
        self.story.short.get_mut(side).get_or_insert(moment);
        let is_set = first & header::SPIN != 0;
        self.spin.take(side, is_set, moment.time_ns);
    }

    fn take_long(&mut self, side: Side, long: &Long, bytes: &[u8], moment: Moment) {
        let count = self.story.long_count.get_mut(side);
        *count = count.saturating_add(1);
        let story = &mut self.story;
        if long.kind == Kind::VersionNegotiation {
            if story.version_negotiation.is_none() {
                story.version_negotiation = Some(moment);
                story.versions_offered =
                    long.versions(bytes).take(QUIC_VERSION_COUNT_MAX).collect();
            }
            return;
        }
        story.version = Some(long.version);
        let source_length = story.source_id_length.get_mut(side);
        source_length.get_or_insert(long.source_id_length);
        match (side, long.kind) {
            (_, Kind::Retry) => {
                story.retry.get_or_insert(moment);
            }
            (Side::Client, Kind::Initial) => {
                story.client_initial.get_or_insert(moment);
                story
                    .destination_id_length
                    .get_or_insert(long.destination_id_length);
            }
            (Side::Server, Kind::Initial | Kind::Handshake) => {
                story.server_hello.get_or_insert(moment);
            }
            (_, Kind::EarlyData) => story.has_early_data = true,
            _ => {}
        }
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.story.versions_offered.capacity() * size_of::<QuicVersion>()
    }

    pub(super) fn finish(self) -> QuicStory {
        QuicStory {
            spin: self.spin.finish(),
            ..self.story
        }
    }
}

#[cfg(test)]
mod tests;
