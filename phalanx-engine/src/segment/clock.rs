//! Round trips and timeouts, as a hop in the middle can estimate them.

use crate::distribution::Distribution;

/// Least retransmission timeout of Linux and, near enough, of others; RFC 6298's second is kept by
/// none.
const TIMEOUT_MIN_NS: i64 = 200_000_000;

/// Longest round trip that is believed: an hour. Times that lie further apart are a clock's fault.
const ROUND_TRIP_MAX_NS: i64 = 3_600_000_000_000;

/// RFC 6298 section 2.1: before any sample.
const TIMEOUT_INITIAL_NS: i64 = 1_000_000_000;

/// Round trips of one direction's data: from the hop to the peer and back.
#[derive(Clone, Debug, Default)]
pub(crate) struct RoundTrips {
    pub(crate) samples: Distribution,
    smoothed_ns: i64,
    variation_ns: i64,
    last_ns: i64,
}

impl RoundTrips {
    /// RFC 6298 section 2.
    pub(crate) fn add(&mut self, rtt_ns: i64) {
        let rtt_ns = rtt_ns.clamp(0, ROUND_TRIP_MAX_NS);
        if self.samples.count() == 0 {
            (self.smoothed_ns, self.variation_ns) = (rtt_ns, rtt_ns / 2);
        } else {
            let error_ns = (self.smoothed_ns - rtt_ns).abs();
            self.variation_ns += (error_ns - self.variation_ns) / 4;
            self.smoothed_ns += (rtt_ns - self.smoothed_ns) / 8;
        }
        self.last_ns = rtt_ns;
        self.samples.add(rtt_ns);
    }

    pub(crate) fn min_ns(&self) -> Option<i64> {
        self.samples.min_ns()
    }

    /// Whether no sample was shorter than this one, or none was longer.
    pub(crate) fn is_extreme(&self, rtt_ns: i64) -> bool {
        self.samples.is_extreme(rtt_ns)
    }

    /// The latest sample.
    pub(crate) fn last_ns(&self) -> Option<i64> {
        (self.samples.count() > 0).then_some(self.last_ns)
    }

    pub(crate) fn smoothed_ns(&self) -> Option<i64> {
        (self.samples.count() > 0).then_some(self.smoothed_ns)
    }

    /// The sender's retransmission timeout: its round trip is the one on this side of the hop and
    /// the one on the other, `rest_ns`.
    pub(crate) fn timeout_ns(&self, rest_ns: Option<i64>) -> i64 {
        match self.smoothed_ns() {
            None => TIMEOUT_INITIAL_NS,
            Some(smoothed_ns) => smoothed_ns
                .saturating_add(rest_ns.unwrap_or(0))
                .saturating_add((4 * self.variation_ns).max(TIMEOUT_MIN_NS)),
        }
    }

    /// The least time after which a timeout is believed: a fifth of it is allowed for what the hop
    /// does not see.
    pub(crate) fn timeout_min_ns(&self, rest_ns: Option<i64>) -> i64 {
        self.timeout_ns(rest_ns) / 5 * 4
    }

    /// The least time after which a tail-loss probe may be sent (RFC 8985 section 7.2): twice the
    /// round trip, of which a fifth is allowed for what the hop does not see.
    pub(crate) fn probe_ns(&self, rest_ns: Option<i64>) -> i64 {
        probe_ns(self.smoothed_ns(), rest_ns)
    }

    /// The same by the least round trip.
    pub(crate) fn probe_min_ns(&self, rest_ns: Option<i64>) -> i64 {
        probe_ns(self.min_ns(), rest_ns)
    }

    pub(crate) fn capacity(&self) -> usize {
        self.samples.capacity()
    }
}

fn probe_ns(round_trip_ns: Option<i64>, rest_ns: Option<i64>) -> i64 {
    let round_trip_ns = round_trip_ns.unwrap_or(TIMEOUT_INITIAL_NS / 2);
    (round_trip_ns.saturating_add(rest_ns.unwrap_or(0)) / 5 * 8).max(2_000_000)
}
