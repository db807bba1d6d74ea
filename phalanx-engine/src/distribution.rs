//! Distributions: count, sum, extremes and quantiles of measured times.

use crate::histogram::Histogram;

/// How measured times are distributed. Count, mean and extremes are exact to the nanosecond;
/// quantiles are off by less than 3.2 % (see `histogram`).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Distribution {
    histogram: Histogram,
    sum_ns: i64,
    min_ns: i64,
    max_ns: i64,
}

impl Distribution {
    /// Adds a time in nanoseconds.
    pub(crate) fn add(&mut self, nanoseconds: i64) {
        if self.count() == 0 {
            (self.min_ns, self.max_ns) = (nanoseconds, nanoseconds);
        }
        self.min_ns = self.min_ns.min(nanoseconds);
        self.max_ns = self.max_ns.max(nanoseconds);
        self.sum_ns = self.sum_ns.saturating_add(nanoseconds);
        let microseconds = (nanoseconds.max(0) / 1_000).min(i64::from(u32::MAX));
        self.histogram
            .add(u32::try_from(microseconds).unwrap_or(u32::MAX));
    }

    /// Heap bytes in use.
    pub(crate) fn capacity(&self) -> usize {
        self.histogram.capacity()
    }

    /// Whether a time that was added is the shortest or the longest.
    pub(crate) const fn is_extreme(&self, nanoseconds: i64) -> bool {
        nanoseconds <= self.min_ns || self.max_ns <= nanoseconds
    }

    /// How many were added.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.histogram.total()
    }

    /// The smallest, in nanoseconds.
    #[must_use]
    pub fn min_ns(&self) -> Option<i64> {
        (self.count() > 0).then_some(self.min_ns)
    }

    /// The largest, in nanoseconds.
    #[must_use]
    pub fn max_ns(&self) -> Option<i64> {
        (self.count() > 0).then_some(self.max_ns)
    }

    /// The sum, in nanoseconds; of 292 years and more that.
    #[must_use]
    pub const fn sum_ns(&self) -> i64 {
        self.sum_ns
    }

    /// The mean, in nanoseconds.
    #[must_use]
    pub fn mean_ns(&self) -> Option<f64> {
        (self.count() > 0).then(|| self.sum_ns as f64 / self.count() as f64)
    }

    /// A quantile in nanoseconds, `percent` of 1 to 100: never beyond the extremes.
    #[must_use]
    pub fn quantile_ns(&self, percent: u64) -> Option<i64> {
        let microseconds = self.histogram.quantile(percent)?;
        Some((i64::from(microseconds) * 1_000).clamp(self.min_ns, self.max_ns))
    }
}

impl FromIterator<i64> for Distribution {
    /// From times in nanoseconds.
    fn from_iter<T: IntoIterator<Item = i64>>(times: T) -> Self {
        let mut distribution = Self::default();
        for nanoseconds in times {
            distribution.add(nanoseconds);
        }
        distribution
    }
}
