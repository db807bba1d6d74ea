//! Rhythm: what the times of many equal packets tell by themselves, whatever their delay is. The
//! delay that most of them can have had is the one they had: a list that is shifted by one fits
//! worse.

use std::collections::BTreeMap;

use crate::limits::{ALIGNMENT_WINDOW_COUNT, RHYTHM_NEIGHBOUR_COUNT};

/// Cost of a pair that is out of step: less than that of leaving both alone.
const OUT_OF_STEP_COST: i64 = 5;

/// Parts of the usual pause that a delay is told to.
const PARTS_PER_PAUSE: i64 = 4;

/// Fewest packets of either side that have a rhythm.
const RHYTHM_COUNT_MIN: usize = 3;

/// The delay of a list of equal packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rhythm {
    delay_ns: i64,
    /// What is no nearer to it is out of step.
    part_ns: i64,
}

impl Rhythm {
    /// From the times of both sides, each rising, and from what is known of the delay. `None` where
    /// there are too few, or all at once.
    pub(super) fn of(
        sent_ns: &[i64],
        seen_ns: &[i64],
        known_ns: Option<(i64, i64)>,
    ) -> Option<Self> {
        if sent_ns.len().min(seen_ns.len()) < RHYTHM_COUNT_MIN {
            return None;
        }
        let mut pauses: Vec<i64> = sent_ns
            .windows(2)
            .map(|it| it[1].saturating_sub(it[0]))
            .collect();
        pauses.sort_unstable();
        let part_ns = pauses[pauses.len() / 2] / PARTS_PER_PAUSE;
        if part_ns <= 0 {
            return None;
        }
        let (least_ns, most_ns) = known_ns.unwrap_or((i64::MIN, i64::MAX));
        let half = RHYTHM_NEIGHBOUR_COUNT / 2;
        let mut votes: BTreeMap<i64, u32> = BTreeMap::new();
        // Where nothing is known of the delay, those of the same rank are near each other.
        let by_rank = sent_ns.len().abs_diff(seen_ns.len());
        let by_rank = by_rank.min(ALIGNMENT_WINDOW_COUNT);
        for (rank, sent) in sent_ns.iter().enumerate() {
            let (from, count) = match known_ns {
                Some(_) => {
                    let due_ns = sent.saturating_add(least_ns);
                    (seen_ns.partition_point(|it| *it < due_ns), half)
                }
                None => (rank.saturating_sub(half + by_rank), 2 * (half + by_rank)),
            };
            for seen in seen_ns.iter().skip(from).take(count) {
                let delay_ns = seen.saturating_sub(*sent);
                if (least_ns..=most_ns.saturating_add(part_ns)).contains(&delay_ns) {
                    *votes.entry(delay_ns.div_euclid(part_ns)).or_default() += 1;
                }
            }
        }
        let count = |part: i64| votes.get(&part).copied().unwrap_or(0);
        // Delays that are spread over two parts are one; of equals the least is meant.
        let sums = votes
            .keys()
            .map(|part| (count(*part) + count(part + 1), *part));
        let (_, part) = sums.max_by_key(|it| (it.0, std::cmp::Reverse(it.1.saturating_abs())))?;
        Some(Self {
            delay_ns: part.saturating_add(1).saturating_mul(part_ns),
            part_ns,
        })
    }

    /// What it costs to take a delay for one of these.
    pub(super) const fn cost(&self, delay_ns: i64) -> i64 {
        let off_ns = delay_ns.saturating_sub(self.delay_ns).saturating_abs();
        let parts = off_ns / self.part_ns / 2;
        if parts < OUT_OF_STEP_COST {
            parts
        } else {
            OUT_OF_STEP_COST
        }
    }
}
