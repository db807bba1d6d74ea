//! [`Lane`]: a hop's times by the clock of the reference, in the order of its capture.
//!
//! Where a clock was set back it showed the times of a stretch twice; the packet at which they drop
//! tells which is which.

use phalanx_engine::stitch::ClockReading;

use super::MergeHop;

/// A hop, and its place among all hops.
pub(super) struct Lane<'a> {
    pub(super) port: usize,
    pub(super) hop: &'a MergeHop,
    latest_ns: i64,
    /// By reading, whether the clock was seen to be set back to it.
    was_set_back: Vec<bool>,
}

impl<'a> Lane<'a> {
    pub(super) fn new(port: usize, hop: &'a MergeHop) -> Self {
        Self {
            port,
            hop,
            latest_ns: i64::MIN,
            was_set_back: vec![false; hop.readings.len()],
        }
    }

    /// The next packet's time by the clock of the reference, and what that may be off by.
    pub(super) fn reference_ns(&mut self, time_ns: i64) -> (i64, Option<i64>) {
        let readings = &self.hop.readings;
        if readings.len() < 2 {
            return self.hop.reference_ns(time_ns);
        }
        self.latest_ns = self.latest_ns.max(time_ns);
        let drop_ns = self.latest_ns.abs_diff(time_ns);
        for (pair, was_set_back) in readings.windows(2).zip(&mut self.was_set_back[1..]) {
            let back_ns = back_ns(&pair[0], &pair[1]);
            let is_near = is_near(&pair[1], time_ns, back_ns);
            *was_set_back |= back_ns > 0 && is_near && drop_ns > back_ns / 2;
        }
        let reading = &readings[self.reading(time_ns)];
        (reading.reference_ns(time_ns), reading.error_ns)
    }

    /// The place of the reading that holds.
    fn reading(&self, time_ns: i64) -> usize {
        let readings = &self.hop.readings;
        let after = readings.partition_point(|it| it.from_ns <= time_ns);
        let index = after.saturating_sub(1);
        // Once it was set back, and as long as it was not.
        let is_set_to = |next: usize, is_set: bool| {
            let back_ns = back_ns(&readings[next - 1], &readings[next]);
            let is_told = back_ns > 0 && is_near(&readings[next], time_ns, back_ns);
            is_told && self.was_set_back[next] == is_set
        };
        if index + 1 < readings.len() && is_set_to(index + 1, true) {
            index + 1
        } else if index > 0 && is_set_to(index, false) {
            index - 1
        } else {
            index
        }
    }
}

/// By how much a clock was set back between two readings, if it was.
fn back_ns(before: &ClockReading, after: &ClockReading) -> u64 {
    let (old_ns, new_ns) = (
        before.reference_ns(after.from_ns),
        after.reference_ns(after.from_ns),
    );
    new_ns
        .checked_sub(old_ns)
        .map_or(0, |it| it.max(0).cast_unsigned())
}

/// Whether a clock that was set back to a reading may have shown a time twice.
fn is_near(reading: &ClockReading, time_ns: i64, back_ns: u64) -> bool {
    time_ns.abs_diff(reading.from_ns) <= back_ns
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture_file::Interface;

    const BACK_NS: i64 = 1_000;

    /// A clock that was right and is set back after 10,000 ns, which is told as of `from_ns`.
    fn hop(from_ns: i64) -> MergeHop {
        let reading = |from_ns, offset_ns| ClockReading {
            from_ns,
            offset_ns,
            skew_ppm: 0.0,
            error_ns: Some(5),
        };
        MergeHop {
            name: "host".to_owned(),
            interface: Interface::default(),
            readings: vec![reading(0, 0), reading(from_ns, -BACK_NS)],
            window_ns: (0, 20_000),
            gaps_ns: Vec::new(),
        }
    }

    #[test]
    fn times_that_were_there_twice_are_told_apart() {
        for from_ns in [9_000, 9_400, 10_000] {
            let hop = hop(from_ns);
            let mut lane = Lane::new(0, &hop);
            for true_ns in (0..20_000).step_by(50) {
                let shown_ns = true_ns - if true_ns < 10_000 { 0 } else { BACK_NS };
                let told = lane.reference_ns(shown_ns);
                assert_eq!(told, (true_ns, Some(5)), "set back at {from_ns}");
            }
        }
    }

    #[test]
    fn a_little_disorder_is_no_clock_set_back() {
        let hop = hop(9_400);
        let mut lane = Lane::new(0, &hop);
        for time_ns in [9_000, 9_300, 9_250, 9_500, 9_450, 9_900] {
            assert_eq!(lane.reference_ns(time_ns).0, time_ns);
        }
    }
}
