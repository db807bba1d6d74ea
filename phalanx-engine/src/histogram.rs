//! How measured times are distributed, in constant space.
//!
//! Buckets are linear within each power of two, so that a bucket is at most 1/32 of its value wide
//! and a quantile, interpolated within its bucket, is off by less than 3.2 %, and never beyond the
//! extremes. Integers only: the same samples give the same answer on every machine.

use crate::limits::HISTOGRAM_WINDOW_NS;
use crate::pair::Quantiles;
use crate::time::Monotonic;

const PART_BITS: u32 = 5;
const PARTS: u32 = 1 << PART_BITS;

/// Largest time that is told apart: a sample's, 2²⁹ − 1 microseconds.
const VALUE_MAX: u32 = (1 << 29) - 1;

/// Buckets that can be in use: 32 for the values below 32, and 32 for each of 24 powers of two.
pub(crate) const BUCKET_COUNT: usize = (bucket(VALUE_MAX) + 1) as usize;

const fn bucket(value: u32) -> u32 {
    if value < PARTS {
        return value;
    }
    let shift = value.ilog2() - PART_BITS;
    shift * PARTS + (value >> shift)
}

/// Smallest value of a bucket, and how many values it holds.
const fn bounds(bucket: u32) -> (u32, u32) {
    if bucket < 2 * PARTS {
        return (bucket, 1);
    }
    let shift = bucket / PARTS - 1;
    ((bucket - shift * PARTS) << shift, 1 << shift)
}

/// Buckets by which the span of a histogram grows: 32 bytes.
const SPAN_STEP: u32 = 8;

/// Only the span between the smallest and the largest bucket in use takes space, in steps.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Histogram {
    first: u32,
    counts: Vec<u32>,
    total: u64,
    min: u32,
    max: u32,
}

impl Histogram {
    pub(crate) fn add(&mut self, value: u32) {
        let value = value.min(VALUE_MAX);
        let bucket = bucket(value);
        if self.counts.is_empty() {
            self.first = bucket - bucket % SPAN_STEP;
            (self.min, self.max) = (value, value);
        } else if bucket < self.first {
            let first = bucket - bucket % SPAN_STEP;
            let more = (self.first - first) as usize;
            self.counts.splice(0..0, std::iter::repeat_n(0, more));
            self.first = first;
        }
        let index = (bucket - self.first) as usize;
        if index >= self.counts.len() {
            let length = (index + 1).next_multiple_of(SPAN_STEP as usize);
            self.counts.reserve_exact(length - self.counts.len());
            self.counts.resize(length, 0);
        }
        self.counts[index] = self.counts[index].saturating_add(1);
        self.total += 1;
        self.min = self.min.min(value);
        self.max = self.max.max(value);
    }

    /// The buckets that are kept, with what they hold.
    fn iter(&self) -> impl Iterator<Item = (u32, u64)> {
        let counts = self.counts.iter().map(|count| u64::from(*count));
        (self.first..).zip(counts)
    }

    fn count(&self, bucket: u32) -> u64 {
        let index = bucket.checked_sub(self.first).map(|index| index as usize);
        index
            .and_then(|index| self.counts.get(index))
            .map_or(0, |count| u64::from(*count))
    }

    fn clear(&mut self) {
        *self = Self::default();
    }

    /// Heap bytes in use.
    pub(crate) fn capacity(&self) -> usize {
        self.counts.capacity() * size_of::<u32>()
    }

    pub(crate) const fn total(&self) -> u64 {
        self.total
    }

    /// `None` where it is empty.
    pub(crate) fn quantile(&self, percent: u64) -> Option<u32> {
        let found = interpolate(self.total, percent, self.iter());
        (self.total > 0).then(|| found.clamp(self.min, self.max))
    }
}

/// The distribution of the last one to two windows.
#[derive(Clone, Debug, Default)]
pub(crate) struct RecentHistogram {
    current: Histogram,
    previous: Histogram,
    window: u64,
}

impl RecentHistogram {
    pub(crate) fn add(&mut self, value: u32, now: Monotonic) {
        self.turn(now);
        self.current.add(value);
    }

    /// Lets go what is older than the window before this one.
    fn turn(&mut self, now: Monotonic) {
        let window = now.0 / HISTOGRAM_WINDOW_NS;
        if window > self.window {
            self.previous = std::mem::take(&mut self.current);
            if window > self.window + 1 {
                self.previous.clear();
            }
            self.window = window;
        }
    }

    /// `None` where nothing was measured.
    pub(crate) fn quantiles(&mut self, now: Monotonic) -> Option<Quantiles> {
        self.turn(now);
        let count = self.current.total + self.previous.total;
        if count == 0 {
            return None;
        }
        Some(Quantiles {
            count,
            p50_us: self.quantile(count, 50),
            p95_us: self.quantile(count, 95),
            p99_us: self.quantile(count, 99),
        })
    }

    fn quantile(&self, count: u64, percent: u64) -> u32 {
        let used = || {
            [&self.current, &self.previous]
                .into_iter()
                .filter(|held| held.total > 0)
        };
        let min = used().map(|held| held.min).min().unwrap_or(0);
        let max = used().map(|held| held.max).max().unwrap_or(VALUE_MAX);
        let held = |bucket| self.current.count(bucket) + self.previous.count(bucket);
        let buckets = (0..BUCKET_COUNT as u32).map(|bucket| (bucket, held(bucket)));
        interpolate(count, percent, buckets).clamp(min, max)
    }
}

/// The value that `percent` of the `count` values in `buckets` do not exceed.
fn interpolate(count: u64, percent: u64, buckets: impl Iterator<Item = (u32, u64)>) -> u32 {
    let rank = (count * percent).div_ceil(100).max(1);
    let mut before = 0;
    for (bucket, held) in buckets {
        if before + held >= rank {
            let (low, width) = bounds(bucket);
            let inside = (u64::from(width) * (2 * (rank - before) - 1)) / (2 * held);
            return low + u32::try_from(inside).unwrap_or(width - 1);
        }
        before += held;
    }
    VALUE_MAX
}

/// Count, sum and extremes: what a conversation keeps of each kind of measure.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Summary {
    count: u64,
    sum_us: u64,
    min_us: u32,
    max_us: u32,
}

impl Summary {
    pub(crate) fn add(&mut self, microseconds: u32) {
        self.min_us = if self.count == 0 {
            microseconds
        } else {
            self.min_us.min(microseconds)
        };
        self.max_us = self.max_us.max(microseconds);
        self.sum_us = self.sum_us.saturating_add(u64::from(microseconds));
        self.count += 1;
    }

    pub(crate) fn min_ms(&self) -> Option<f64> {
        (self.count > 0).then(|| f64::from(self.min_us) / 1e3)
    }

    pub(crate) fn mean_ms(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum_us as f64 / self.count as f64 / 1e3)
    }

    pub(crate) fn max_ms(&self) -> Option<f64> {
        (self.count > 0).then(|| f64::from(self.max_us) / 1e3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_join_without_gap() {
        let mut next = 0;
        for bucket_number in 0..BUCKET_COUNT as u32 {
            let (low, width) = bounds(bucket_number);
            assert_eq!(low, next);
            assert_eq!(bucket(low), bucket_number);
            assert_eq!(bucket(low + width - 1), bucket_number);
            assert!(low < PARTS || u64::from(width) * 32 <= u64::from(low));
            next = low + width;
        }
        assert_eq!(next, VALUE_MAX + 1);
    }

    #[test]
    fn quantiles_are_close_and_old_windows_go() {
        let mut histogram = RecentHistogram::default();
        let start = Monotonic(HISTOGRAM_WINDOW_NS * 10);
        for value in (1..=10_000u32).rev() {
            histogram.add(value * 7, start);
        }
        let quantiles = histogram.quantiles(start).unwrap();
        assert_eq!(quantiles.count, 10_000);
        for (got, wanted) in [
            (quantiles.p50_us, 35_000),
            (quantiles.p95_us, 66_500),
            (quantiles.p99_us, 69_300),
        ] {
            assert!(
                got.abs_diff(wanted) * 100 < wanted,
                "{got} is not within 1 % of {wanted}"
            );
        }
        let next = start.plus_ns(HISTOGRAM_WINDOW_NS);
        histogram.add(41_000, next);
        assert_eq!(histogram.quantiles(next).unwrap().count, 10_001);
        let later = next.plus_ns(HISTOGRAM_WINDOW_NS);
        let single = Quantiles {
            count: 1,
            p50_us: 41_000,
            p95_us: 41_000,
            p99_us: 41_000,
        };
        assert_eq!(histogram.quantiles(later), Some(single));
        assert_eq!(
            histogram.quantiles(later.plus_ns(HISTOGRAM_WINDOW_NS)),
            None
        );
    }
}
