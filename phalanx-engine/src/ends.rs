//! The two ends of a packet's flow in a fixed order, from its headers: what both directions share.

use std::hash::{Hash, Hasher};

use phalanx_common::packet::Headers;

use crate::side::Endpoint;

/// Which end sent a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Low,
    High,
}

impl End {
    /// The one that did not.
    pub(crate) const fn other(self) -> Self {
        match self {
            Self::Low => Self::High,
            Self::High => Self::Low,
        }
    }
}

/// Addresses and ports, the lower end first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ends {
    low: [u64; 2],
    high: [u64; 2],
    low_port: u16,
    high_port: u16,
}

impl Hash for Ends {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // Whole words: each write costs the same.
        for word in self.low.into_iter().chain(self.high) {
            state.write_u64(word);
        }
        state.write_u64(u64::from(self.low_port) << 16 | u64::from(self.high_port));
    }
}

impl Ends {
    /// The ends of a packet, and which of them sent it.
    pub(crate) fn of(headers: &Headers) -> (Self, End) {
        let source = (headers.source, headers.source_port);
        let destination = (headers.destination, headers.destination_port);
        let (low, high, end) = if source <= destination {
            (source, destination, End::Low)
        } else {
            (destination, source, End::High)
        };
        let ends = Self {
            low: low.0,
            high: high.0,
            low_port: low.1,
            high_port: high.1,
        };
        (ends, end)
    }

    pub(crate) fn endpoint(&self, end: End) -> Endpoint {
        match end {
            End::Low => Endpoint::of_words(self.low, self.low_port),
            End::High => Endpoint::of_words(self.high, self.high_port),
        }
    }
}
