//! What the ring covers: since when each hop is there, which part of the flows was recorded when,
//! and what was lost on the way.

use std::collections::{BTreeMap, VecDeque};

use phalanx_common::watch::SAMPLE_ALL;
use phalanx_engine::HopId;

/// Changes of the threshold that are remembered; beyond, the oldest two are told as one, by the
/// smaller.
const CHANGE_COUNT_MAX: usize = 256;

/// Times at which something was lost that are remembered; beyond, the oldest two are told as one.
const LOSS_COUNT_MAX: usize = 64;

/// A packet reads the time before it reads the threshold: one that began before the threshold fell
/// may go by the new one. Programs take microseconds; a host that is short of CPU may stop one.
const MARGIN_NS: u64 = 1_000_000;

/// What is remembered.
#[derive(Debug)]
pub(crate) struct History {
    began_ns: u64,
    changes: VecDeque<Change>,
    losses: VecDeque<Loss>,
    hops: BTreeMap<HopId, u64>,
}

#[derive(Clone, Copy, Debug)]
struct Change {
    at_ns: u64,
    threshold: u32,
}

#[derive(Clone, Copy, Debug)]
struct Loss {
    from_ns: u64,
    until_ns: u64,
    count: u64,
}

/// A time in which one part of the flows was recorded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Span {
    pub(crate) from_ns: u64,
    pub(crate) until_ns: u64,
    pub(crate) threshold: u32,
}

impl History {
    /// Begins now, with all flows.
    pub(crate) fn new(now_ns: u64) -> Self {
        let all = Change {
            at_ns: now_ns,
            threshold: SAMPLE_ALL,
        };
        Self {
            began_ns: now_ns,
            changes: [all].into(),
            losses: VecDeque::new(),
            hops: BTreeMap::new(),
        }
    }

    /// Programs watch this hop from now on.
    pub(crate) fn add_hop(&mut self, hop: HopId, now_ns: u64) {
        self.hops.insert(hop, now_ns);
    }

    /// They do so no longer.
    pub(crate) fn remove_hop(&mut self, hop: HopId) {
        self.hops.remove(&hop);
    }

    /// The threshold moved between two times.
    pub(crate) fn move_threshold(&mut self, threshold: u32, before_ns: u64, after_ns: u64) {
        let falls = self
            .changes
            .back()
            .is_some_and(|it| threshold < it.threshold);
        let at_ns = if falls {
            before_ns.saturating_sub(MARGIN_NS)
        } else {
            after_ns
        };
        let last_ns = self.changes.back().map_or(0, |it| it.at_ns);
        self.changes.push_back(Change {
            at_ns: at_ns.max(last_ns),
            threshold,
        });
        if self.changes.len() > CHANGE_COUNT_MAX
            && let Some(oldest) = self.changes.pop_front()
            && let Some(next) = self.changes.front_mut()
        {
            next.at_ns = oldest.at_ns;
            next.threshold = next.threshold.min(oldest.threshold);
        }
    }

    /// So many records were lost between two times.
    pub(crate) fn lose(&mut self, count: u64, from_ns: u64, until_ns: u64) {
        self.losses.push_back(Loss {
            from_ns,
            until_ns,
            count,
        });
        if self.losses.len() > LOSS_COUNT_MAX
            && let Some(oldest) = self.losses.pop_front()
            && let Some(next) = self.losses.front_mut()
        {
            next.from_ns = oldest.from_ns;
            next.count += oldest.count;
        }
    }

    /// Since when a hop is covered; `None` for one that is not there.
    pub(crate) fn since_ns(&self, hop: HopId) -> Option<u64> {
        self.hops.get(&hop).map(|since| *since.max(&self.began_ns))
    }

    /// What was lost between two times at most, whichever hop it was at.
    pub(crate) fn lost(&self, from_ns: u64, until_ns: u64) -> u64 {
        let touches = |loss: &&Loss| loss.from_ns <= until_ns && loss.until_ns >= from_ns;
        self.losses.iter().filter(touches).map(|it| it.count).sum()
    }

    /// Which part of the flows was recorded between two times.
    pub(crate) fn spans(&self, from_ns: u64, until_ns: u64) -> Vec<Span> {
        let ends = self.changes.iter().skip(1).map(|it| it.at_ns);
        let ends = ends.chain([u64::MAX]);
        let spans = self.changes.iter().zip(ends).map(|(change, end_ns)| Span {
            from_ns: change.at_ns.max(from_ns),
            until_ns: end_ns.min(until_ns),
            threshold: change.threshold,
        });
        spans.filter(|span| span.from_ns < span.until_ns).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn spans_are_those_of_the_interval_and_a_fall_counts_from_before_it() {
        let mut history = History::new(10 * MS);
        history.move_threshold(100, 50 * MS, 51 * MS);
        history.move_threshold(200, 80 * MS, 81 * MS);
        let span = |from, until, threshold| Span {
            from_ns: from * MS,
            until_ns: until * MS,
            threshold,
        };
        assert_eq!(
            history.spans(20 * MS, 90 * MS),
            [
                span(20, 49, SAMPLE_ALL),
                span(49, 81, 100),
                span(81, 90, 200)
            ]
        );
        assert_eq!(history.spans(60 * MS, 70 * MS), [span(60, 70, 100)]);
        assert!(history.spans(0, 5 * MS).is_empty());
    }

    #[test]
    fn changes_are_bounded_and_never_promise_too_much() {
        let mut history = History::new(1);
        for number in 1..2_000_u64 {
            let threshold = if number == 5 { 7 } else { 1_000 };
            history.move_threshold(threshold, number * 10 * MS, number * 10 * MS);
        }
        assert_eq!(history.changes.len(), CHANGE_COUNT_MAX);
        let spans = history.spans(0, u64::MAX);
        assert_eq!(spans[0].threshold, 7);
        assert!(
            spans
                .windows(2)
                .all(|pair| pair[0].until_ns == pair[1].from_ns)
        );
    }

    #[test]
    fn losses_are_told_for_their_time_and_bounded() {
        let mut history = History::new(1);
        for number in 0..200_u64 {
            history.lose(1, number * 10, number * 10 + 9);
        }
        assert_eq!(history.losses.len(), LOSS_COUNT_MAX);
        assert_eq!(history.lost(0, u64::MAX), 200);
        assert_eq!(history.lost(1_995, u64::MAX), 1);
        assert_eq!(history.lost(5_000, u64::MAX), 0);
    }

    #[test]
    fn a_hop_is_covered_since_it_is_there() {
        let mut history = History::new(10);
        history.add_hop(HopId(1), 5);
        history.add_hop(HopId(2), 20);
        history.remove_hop(HopId(3));
        assert_eq!(history.since_ns(HopId(1)), Some(10));
        assert_eq!(history.since_ns(HopId(2)), Some(20));
        assert_eq!(history.since_ns(HopId(3)), None);
    }
}
