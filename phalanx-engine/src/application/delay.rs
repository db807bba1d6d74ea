//! Moments in a capture, and what a row of delays comes to.

/// When something was seen, and in which frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// Nanoseconds since the epoch of the hop's clock.
    pub time_ns: i64,
    /// Number of the frame at its hop.
    pub frame: u64,
}

impl Moment {
    /// Nanoseconds from this moment to a later one; 0 where the clock went back.
    #[must_use]
    pub fn until(self, later: Self) -> u64 {
        let elapsed_ns = later.time_ns.saturating_sub(self.time_ns);
        u64::try_from(elapsed_ns).unwrap_or(0)
    }
}

/// Count, sum and range of delays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delays {
    /// How many.
    pub count: u32,
    /// Sum in nanoseconds.
    pub sum_ns: u64,
    /// The shortest in nanoseconds; 0 without any.
    pub min_ns: u64,
    /// The longest in nanoseconds; 0 without any.
    pub max_ns: u64,
}

impl Delays {
    /// Adds one delay.
    pub(super) fn add(&mut self, delay_ns: u64) {
        self.min_ns = if self.count == 0 {
            delay_ns
        } else {
            self.min_ns.min(delay_ns)
        };
        self.max_ns = self.max_ns.max(delay_ns);
        self.sum_ns = self.sum_ns.saturating_add(delay_ns);
        self.count = self.count.saturating_add(1);
    }

    /// The mean in nanoseconds.
    #[must_use]
    pub fn mean_ns(&self) -> Option<u64> {
        self.sum_ns.checked_div(u64::from(self.count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_keep_their_range() {
        let mut delays = Delays::default();
        assert_eq!(delays.mean_ns(), None);
        for delay_ns in [30, 10, 20] {
            delays.add(delay_ns);
        }
        assert_eq!(
            (delays.min_ns, delays.max_ns, delays.mean_ns()),
            (10, 30, Some(20))
        );
    }

    #[test]
    fn a_clock_that_goes_back_makes_no_delay() {
        let at = |time_ns| Moment { time_ns, frame: 1 };
        assert_eq!(at(5).until(at(3)), 0);
        assert_eq!(at(i64::MIN).until(at(i64::MAX)), i64::MAX as u64);
    }
}
