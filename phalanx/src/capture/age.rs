//! How long ago a capture ended, whatever happens to the wall clock meanwhile: a host without a
//! battery starts in 1970 and steps by decades, and that must delete nothing.

use std::time::Duration;

use crate::clock::Reading;

/// An instant in nanoseconds of `CLOCK_BOOTTIME`, which runs while the host sleeps and which nobody
/// sets; below 0 before the host was booted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Age(i128);

impl Age {
    pub(crate) fn now() -> Self {
        Self(i128::from(Reading::take().boot_ns))
    }

    /// An instant of which only the wall time is known, by what the clocks say now. One that lies
    /// ahead, or cannot be read, counts as now.
    pub(crate) fn at(wall_time: &str, now: Reading) -> Self {
        let wall_ns = i128::from(now.wall_ns);
        let then_ns = wall_time
            .parse::<jiff::Timestamp>()
            .map_or(wall_ns, jiff::Timestamp::as_nanosecond);
        Self(i128::from(now.boot_ns) - (wall_ns - then_ns).max(0))
    }

    pub(crate) fn since(self, earlier: Self) -> Duration {
        let ns = u64::try_from(self.0 - earlier.0).unwrap_or_default();
        Duration::from_nanos(ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instant_is_as_old_as_the_clocks_said_when_it_was_read() {
        const S: u64 = 1_000_000_000;
        let now = Reading {
            monotonic_ns: 50 * S,
            wall_ns: 100 * S,
            boot_ns: 60 * S,
        };
        let age_s = |text: &str| {
            Age(i128::from(now.boot_ns))
                .since(Age::at(text, now))
                .as_secs()
        };
        assert_eq!(age_s("1970-01-01T00:01:30.000000000Z"), 10);
        assert_eq!(
            age_s("1970-01-01T00:00:00Z"),
            100,
            "before the host was booted"
        );
        assert_eq!(age_s("2030-01-01T00:00:00Z"), 0, "the clock was ahead");
        assert_eq!(age_s("yesterday"), 0);
    }
}
