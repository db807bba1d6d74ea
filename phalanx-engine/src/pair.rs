//! Service pairs: who talks to whom, by service and port.

use std::sync::Arc;

use crate::measure::Counts;
use crate::side::Sides;

/// A service pair of the engine; never used again for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PairId(pub u32);

/// Who talks to whom: what a metric is labelled with.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PairKey {
    /// Service of the client.
    pub client: Arc<str>,
    /// Service of the server.
    pub server: Arc<str>,
    /// Port of the server.
    pub port: u16,
    /// IANA protocol number.
    pub protocol: u8,
}

/// How one kind of measure was distributed in the last one to two minutes, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantiles {
    /// How many were measured.
    pub count: u64,
    /// The median.
    pub p50_us: u32,
    /// 95 of 100 were at most this.
    pub p95_us: u32,
    /// 99 of 100 were at most this.
    pub p99_us: u32,
}

/// What is known of a service pair.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PairSummary {
    /// Conversations that are open now.
    pub conversations_open: u64,
    /// Conversations opened so far.
    pub conversations_opened: u64,
    /// Attempts to connect that failed so far.
    pub attempts_failed: u64,
    /// All counts so far, by sender.
    pub totals: Sides<Counts>,
    /// RTT toward that side, by acknowledgements.
    pub rtt: Sides<Option<Quantiles>>,
    /// Handshake, that side's part.
    pub handshake: Sides<Option<Quantiles>>,
    /// Think time of the server; with the path in it where the path is not known.
    pub think: Option<Quantiles>,
}
