//! Readings: the clock of each hop against that of one of them, as a report tells it.

use super::clock::{Clocks, Difference};
use super::{StitchHop, StitchedConversation};
use crate::limits::CLOCK_KNOT_COUNT;

/// How the clock of a hop maps onto that of the reference, from one time on:
/// `reference = time − offset − skew · (time − from)`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ClockReading {
    /// From when, in nanoseconds of the hop's clock.
    pub from_ns: i64,
    /// How far the hop's clock is ahead then, in nanoseconds.
    pub offset_ns: i64,
    /// How much more it gets ahead, in parts per million.
    pub skew_ppm: f64,
    /// What the two together may be off by at most, in nanoseconds: a hard bound. `None` where
    /// packets of one direction alone were seen since the clock was set, which bound nothing.
    pub error_ns: Option<i64>,
}

impl ClockReading {
    /// What the reference's clock showed at a time of the hop's, both in nanoseconds; what is out
    /// of range is cut to it.
    #[must_use]
    pub fn reference_ns(&self, time_ns: i64) -> i64 {
        let since_ns = i128::from(time_ns) - i128::from(self.from_ns);
        let gained_ns = (self.skew_ppm / 1e6 * since_ns as f64).round() as i128;
        let reference_ns = (i128::from(time_ns) - i128::from(self.offset_ns))
            .saturating_sub(gained_ns)
            .clamp(i64::MIN.into(), i64::MAX.into());
        reference_ns as i64
    }

    /// That of a hop's readings which holds at a time of the hop's.
    #[must_use]
    pub fn at(readings: &[Self], time_ns: i64) -> Option<&Self> {
        let after = readings.partition_point(|it| it.from_ns <= time_ns);
        readings.get(after.saturating_sub(1))
    }
}

/// The clock of a hop.
#[derive(Clone, Debug, PartialEq)]
pub struct HopClock {
    /// Number of the hop.
    pub hop: u32,
    /// Number of the hop whose clock is the reference.
    pub reference: u32,
    /// Whether both have the same clock.
    pub is_shared: bool,
    /// In the order of time: the first, and one more for each time that a clock was set.
    pub readings: Vec<ClockReading>,
}

/// Least jump that a set clock is told by, in nanoseconds.
const JUMP_MIN_NS: f64 = 500_000.0;

/// The hop whose clock is the reference: the first on the way of most packets.
pub(super) fn reference(conversations: &[StitchedConversation], hops: &[StitchHop]) -> u32 {
    let packets = |hop: u32| -> u64 {
        let begins = conversations
            .iter()
            .filter(|it| it.path.first() == Some(&hop));
        begins
            .filter(|it| it.path.len() > 1)
            .map(|it| it.alignment.packets)
            .sum()
    };
    let most = hops
        .iter()
        .map(|it| it.hop)
        .max_by_key(|hop| (packets(*hop), std::cmp::Reverse(*hop)));
    most.unwrap_or_default()
}

/// The clocks of all hops that can be compared with the reference's.
pub(super) fn readings(reference: u32, hops: &[StitchHop], clocks: &Clocks) -> Vec<HopClock> {
    let read = |hop: &StitchHop| {
        let is_shared = hop.hop != reference && clocks.are_one(hop.hop, reference);
        let (first, last) = hop.window_ns;
        let ahead = |time_ns: i64| {
            let difference = clocks.estimate(hop.hop, reference, time_ns)?;
            Some(difference.reversed())
        };
        let mut times = vec![first];
        times.extend(jumps(hop, clocks, &ahead));
        let ends = times.iter().skip(1).copied().chain([last]);
        let readings: Option<Vec<ClockReading>> = times
            .iter()
            .zip(ends)
            .map(|(from, to)| reading(*from, to, &ahead))
            .collect();
        Some(HopClock {
            hop: hop.hop,
            reference,
            is_shared,
            readings: readings?,
        })
    };
    hops.iter().filter_map(read).collect()
}

/// The times within a hop's capture at which its clock, or the reference's, was set.
fn jumps(hop: &StitchHop, clocks: &Clocks, ahead: &impl Fn(i64) -> Option<Difference>) -> Vec<i64> {
    let (first, last) = hop.window_ns;
    let here = |((of, _), cut_ns): ((u32, u32), i64)| {
        let difference = clocks.estimate(of, hop.hop, cut_ns)?;
        let time_ns = cut_ns.saturating_add(difference.ahead_ns as i64);
        // The difference just after the cut is that of the new clock: the jump lies at most its
        // own size away, and where it is, is found by halving.
        Some(time_ns)
    };
    let near = 2_000_000_000;
    let mut times: Vec<i64> = Vec::new();
    for time_ns in clocks.cuts().filter_map(here) {
        let (mut low, mut high) = (
            time_ns.saturating_sub(near).max(first),
            time_ns.saturating_add(near).min(last),
        );
        let (Some(before), Some(after)) = (ahead(low), ahead(high)) else {
            continue;
        };
        if low >= high || (after.ahead_ns - before.ahead_ns).abs() < JUMP_MIN_NS {
            continue;
        }
        let middle = f64::midpoint(before.ahead_ns, after.ahead_ns);
        let is_after =
            |difference: Difference| (difference.ahead_ns > middle) == (after.ahead_ns > middle);
        while high - low > 1 {
            let time_ns = i64::midpoint(low, high);
            match ahead(time_ns) {
                Some(difference) if !is_after(difference) => low = time_ns,
                _ => high = time_ns,
            }
        }
        times.push(high);
    }
    times.sort_unstable();
    times.dedup_by_key(|time| *time / 1_000_000);
    times.retain(|time| first < *time && *time < last);
    times
}

/// The straight line through the two ends of a stretch, and how far from it the truth may be.
fn reading(
    from_ns: i64,
    to_ns: i64,
    ahead: &impl Fn(i64) -> Option<Difference>,
) -> Option<ClockReading> {
    let last_ns = to_ns.saturating_sub(1).max(from_ns);
    let (first, last) = (ahead(from_ns)?, ahead(last_ns)?);
    let run = last_ns.saturating_sub(from_ns);
    let skew = match run {
        0 => 0.0,
        _ => (last.ahead_ns - first.ahead_ns) / run as f64,
    };
    let mut error_ns = 0.0_f64;
    for knot in 0..=CLOCK_KNOT_COUNT as i64 {
        let step = (i128::from(run) * i128::from(knot) / CLOCK_KNOT_COUNT as i128) as i64;
        let difference = ahead(from_ns.saturating_add(step))?;
        let line = first.ahead_ns + skew * step as f64;
        error_ns = error_ns
            .max(difference.high_ns - line)
            .max(line - difference.low_ns);
    }
    Some(ClockReading {
        from_ns,
        offset_ns: first.ahead_ns.round() as i64,
        skew_ppm: skew * 1e6,
        error_ns: error_ns.is_finite().then_some(error_ns.ceil() as i64),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const READINGS: [ClockReading; 2] = [
        ClockReading {
            from_ns: 1_000_000_000,
            offset_ns: 5_000,
            skew_ppm: 100.0,
            error_ns: Some(7),
        },
        ClockReading {
            from_ns: 3_000_000_000,
            offset_ns: -400,
            skew_ppm: 0.0,
            error_ns: Some(9),
        },
    ];

    #[test]
    fn each_reading_holds_from_its_time_on() {
        let offset = |time_ns| ClockReading::at(&READINGS, time_ns).map(|it| it.offset_ns);
        assert_eq!(offset(i64::MIN), Some(5_000));
        assert_eq!(offset(2_999_999_999), Some(5_000));
        assert_eq!(offset(3_000_000_000), Some(-400));
        assert_eq!(offset(i64::MAX), Some(-400));
        assert_eq!(ClockReading::at(&[], 0), None);
    }

    #[test]
    fn a_time_is_put_right_by_offset_and_skew() {
        let [skewed, set] = READINGS;
        assert_eq!(skewed.reference_ns(1_000_000_000), 999_995_000);
        // Two seconds at 100 ppm are 200 µs.
        assert_eq!(skewed.reference_ns(3_000_000_000), 2_999_795_000);
        assert_eq!(set.reference_ns(5), 405);
    }

    #[test]
    fn absurd_times_are_cut_to_what_fits() {
        let reading = |offset_ns, skew_ppm| ClockReading {
            from_ns: i64::MIN,
            offset_ns,
            skew_ppm,
            error_ns: Some(0),
        };
        assert_eq!(reading(i64::MAX, 0.0).reference_ns(i64::MIN), i64::MIN);
        assert_eq!(reading(i64::MIN, 0.0).reference_ns(i64::MAX), i64::MAX);
        assert_eq!(reading(0, f64::MAX).reference_ns(i64::MAX), i64::MIN);
        assert_eq!(reading(0, f64::NEG_INFINITY).reference_ns(0), i64::MAX);
        assert_eq!(reading(3, f64::NAN).reference_ns(10), 7);
    }
}
