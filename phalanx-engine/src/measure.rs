//! What an update adds: counts by side, and measured times. From the kernel's cumulative counters
//! and packed samples; deliberately without any memory of the flow (that is `flow`'s).

use phalanx_common::abi::HalfCounters;
use phalanx_common::limits::SAMPLE_COUNT;

use crate::side::Side;

macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident,)+) => {
        /// What one side has sent, or what happened to it: a total, or the difference of two.
        ///
        /// "Segments", windows, FIN, SYN and RST are TCP's; all are 0 for other protocols.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counts {
            $($(#[$doc])* pub $name: u64,)+
        }

        impl Counts {
            /// The names of the fields, in order.
            pub const NAMES: &[&str] = &[$(stringify!($name)),+];

            /// The values of the fields, in the order of [`Self::NAMES`].
            pub fn values(&self) -> impl Iterator<Item = u64> {
                [$(self.$name),+].into_iter()
            }

            /// What `self` has beyond `earlier`, field by field; a field that fell counts 0.
            #[must_use]
            pub const fn beyond(&self, earlier: &Self) -> Self {
                Self { $($name: self.$name.saturating_sub(earlier.$name)),+ }
            }

            /// Adds, field by field.
            pub const fn add(&mut self, more: &Self) {
                $(self.$name = self.$name.saturating_add(more.$name);)+
            }

            /// Whether any field is smaller than in `earlier`.
            #[must_use]
            pub const fn is_behind(&self, earlier: &Self) -> bool {
                false $(|| self.$name < earlier.$name)+
            }

            /// Whether every field is 0.
            #[must_use]
            pub fn is_zero(&self) -> bool {
                *self == Self::default()
            }
        }

        impl From<&HalfCounters> for Counts {
            fn from(half: &HalfCounters) -> Self {
                Self { $($name: u64::from(half.$name)),+ }
            }
        }
    };
}

counts! {
    /// Packets on the wire.
    packets,
    /// IP bytes on the wire.
    bytes,
    /// Payload bytes that the hop had seen before.
    retransmitted_bytes,
    /// Segments whose bytes the hop had all or partly seen before.
    retransmitted_packets,
    /// Segments behind the highest sequence: retransmitted before the hop, or reordered.
    out_of_sequence_packets,
    /// Copies of the segment just before.
    duplicate_packets,
    /// How often the sequence jumped ahead: packets lost or reordered before the hop.
    gap_count,
    /// How often the window fell to zero.
    zero_window_count,
    /// Keep-alive segments.
    keep_alive_count,
    /// Packets marked "congestion experienced".
    ecn_marked_packets,
    /// SYN segments.
    syn_count,
    /// FIN segments.
    fin_count,
    /// RST segments.
    rst_count,
    /// ICMP errors that quoted a packet of this side.
    icmp_error_count,
    /// Acknowledgements from this side of bytes that the hop had not seen.
    acknowledged_unseen_count,
    /// RTT samples taken for data of this side.
    rtt_sample_count,
    /// Packets whose numbers lie beyond any window: forged, or of a connection whose middle the hop
    /// did not see.
    implausible_packets,
}

/// What a measured time is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MeasureKind {
    /// Hop to that side and back: data to its acknowledgement.
    Rtt(Side),
    /// The same for a retransmission, told by its timestamp.
    RttByTimestamp(Side),
    /// Hop to that side and back while connecting: SYN to SYN-ACK (server), SYN-ACK to ACK
    /// (client).
    Handshake(Side),
    /// From the request's arrival at the server to its first answer: the path is subtracted.
    Think,
    /// From the answer's arrival at the client to its next request: the path is subtracted.
    Idle,
    /// Last payload of the client to the first of the server as seen at the hop, path included:
    /// where no round trip to the server is known, as with UDP.
    ThinkAndPath,
    /// Last payload of the server to the next of the client, path included.
    IdleAndPath,
}

/// One measured time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measure {
    /// What it is.
    pub kind: MeasureKind,
    /// How long it took, in microseconds.
    pub microseconds: u32,
}

/// Most measures of one update: its samples and the two parts of a handshake.
pub const MEASURE_COUNT_MAX: usize = SAMPLE_COUNT + 2;

/// The measures of one update, in the order of their samples; the handshake's come first.
#[derive(Clone)]
pub struct Measures {
    items: [Measure; MEASURE_COUNT_MAX],
    count: usize,
}

impl Default for Measures {
    fn default() -> Self {
        let empty = Measure {
            kind: MeasureKind::Think,
            microseconds: 0,
        };
        Self {
            items: [empty; MEASURE_COUNT_MAX],
            count: 0,
        }
    }
}

impl Measures {
    /// Adds one; the count of samples in an update bounds how many there are, more are left out.
    pub(crate) fn push(&mut self, kind: MeasureKind, microseconds: u32) {
        if let Some(item) = self.items.get_mut(self.count) {
            *item = Measure { kind, microseconds };
            self.count += 1;
        }
    }
}

impl std::ops::Deref for Measures {
    type Target = [Measure];

    fn deref(&self) -> &[Measure] {
        &self.items[..self.count]
    }
}

impl std::fmt::Debug for Measures {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_list().entries(self.iter()).finish()
    }
}

impl PartialEq for Measures {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}
