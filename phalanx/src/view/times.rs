//! A running summary of measured times.

/// How times of one kind came out so far, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// How many there were.
    pub count: u64,
    /// The smallest.
    pub min_us: u32,
    /// The largest.
    pub max_us: u32,
    /// The latest.
    pub last_us: u32,
    sum_us: u64,
}

impl Times {
    /// Adds one.
    pub(super) fn add(&mut self, us: u32) {
        self.min_us = if self.count == 0 {
            us
        } else {
            self.min_us.min(us)
        };
        self.max_us = self.max_us.max(us);
        self.last_us = us;
        self.count += 1;
        self.sum_us = self.sum_us.saturating_add(u64::from(us));
    }

    /// The mean in microseconds; 0 before the first.
    #[must_use]
    pub const fn mean_us(&self) -> u64 {
        match self.sum_us.checked_div(self.count) {
            Some(mean) => mean,
            None => 0,
        }
    }
}
