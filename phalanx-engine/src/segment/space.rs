//! The sequence space of one direction: which bytes are under way, each run with its times.
//!
//! Sequence numbers are unwrapped to 64 bits; their lower half is the number on the wire. Runs are
//! sorted, do not overlap, and lie above what was acknowledged. Their number is bounded: neighbours
//! are joined, then the oldest are forgotten (their bytes still count as seen).

use std::collections::VecDeque;

use crate::limits::{RUN_COUNT_MAX, RUN_WALK_MAX, UNSEEN_COUNT_MAX};

/// Most bytes that a digest is of.
const DIGEST_BYTES: u64 = crate::limits::DIGEST_LENGTH_MAX as u64;

/// What a run of bytes went through.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Run {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) first_ns: i64,
    /// When it was last sent.
    pub(crate) last_ns: i64,
    /// The frame that carried it first.
    pub(crate) frame: u64,
    /// `TSval` of the first and of the last time it was sent.
    pub(crate) first_timestamp: u32,
    pub(crate) last_timestamp: u32,
    pub(crate) ip_id: u16,
    /// A hash of its first bytes, as they were first sent; 0 where they were not captured.
    pub(crate) digest: u32,
    /// How often it was sent.
    pub(crate) copies: u16,
    pub(crate) is_sacked: bool,
    /// It jumped ahead of the highest sequence number when it came.
    pub(crate) opened_gap: bool,
}

impl Run {
    /// Bytes that the digest is of.
    pub(crate) fn digest_length(&self) -> u64 {
        (self.end - self.start).min(DIGEST_BYTES)
    }
}

/// What was found where a segment lies.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Overlap {
    /// Bytes seen before.
    pub(crate) old: u64,
    /// Bytes not seen before.
    pub(crate) new: u64,
    /// The first run that holds some of it, as it was before.
    pub(crate) run: Option<Run>,
    /// Whether all its old bytes were SACKed.
    pub(crate) is_sacked: bool,
}

/// What an acknowledgement took away.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Removed {
    /// The run that ends where the acknowledgement does.
    pub(crate) last: Option<Run>,
    /// Latest sending of any run that was removed.
    pub(crate) latest_ns: i64,
    /// A run sent more than once whose last sending the echoed timestamp names.
    pub(crate) by_timestamp: Option<Run>,
    /// Bytes acknowledged that were never seen.
    pub(crate) unseen: u64,
}

/// Bytes that were acknowledged and never seen, the latest of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Unseen {
    ranges: VecDeque<(u64, u64)>,
}

impl Unseen {
    /// Heap bytes in use.
    pub(crate) fn capacity(&self) -> usize {
        self.ranges.capacity() * size_of::<(u64, u64)>()
    }

    pub(crate) fn push(&mut self, start: u64, end: u64) {
        if self.ranges.len() >= UNSEEN_COUNT_MAX {
            self.ranges.pop_front();
        }
        self.ranges.push_back((start, end));
    }

    /// Whether all of a segment was taken for unseen; it is not from now on.
    pub(crate) fn take(&mut self, start: u64, end: u64) -> bool {
        let holds = |range: &(u64, u64)| range.0 <= start && end <= range.1;
        let Some(index) = self.ranges.iter().position(holds) else {
            return false;
        };
        let range = self.ranges[index];
        self.ranges[index] = (range.0, start);
        if end < range.1 {
            self.push(end, range.1);
        }
        true
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Space {
    runs: VecDeque<Run>,
    /// Bytes below count as seen: acknowledged, or forgotten.
    floor: u64,
    /// Bytes in the runs.
    held: u64,
    pub(crate) sacked_bytes: u64,
}

impl Space {
    #[cfg(test)]
    pub(crate) const RUN_BYTES: usize = size_of::<Run>();

    pub(crate) fn new(floor: u64) -> Self {
        Self {
            runs: VecDeque::new(),
            floor,
            held: 0,
            sacked_bytes: 0,
        }
    }

    #[cfg(test)]
    pub(crate) fn run_count(&self) -> usize {
        self.runs.len()
    }

    /// Heap bytes in use.
    pub(crate) fn capacity(&self) -> usize {
        self.runs.capacity() * size_of::<Run>()
    }

    /// Gives memory back that is not in use, but for `count` runs.
    pub(crate) fn shrink_to(&mut self, count: usize) {
        self.runs.shrink_to(count);
    }

    /// Whether bytes below the highest seen are missing.
    pub(crate) fn has_hole(&self) -> bool {
        self.runs
            .back()
            .is_some_and(|last| last.end - self.floor != self.held)
    }

    /// Adds a run beyond all others.
    pub(crate) fn push(&mut self, run: Run, count_max: usize) {
        if self.runs.len() >= count_max {
            self.compact(count_max);
        }
        self.held += run.end - run.start;
        self.runs.push_back(run);
    }

    /// Joins neighbours that nothing tells apart; where that is not enough forgets the oldest.
    fn compact(&mut self, count_max: usize) {
        let mut kept: VecDeque<Run> = VecDeque::with_capacity(count_max.min(RUN_COUNT_MAX));
        let mut may_join = false;
        for run in &self.runs {
            match kept.back_mut() {
                Some(last)
                    if may_join
                        && last.end == run.start
                        && last.copies == run.copies
                        && last.is_sacked == run.is_sacked =>
                {
                    *last = Run {
                        start: last.start,
                        opened_gap: last.opened_gap,
                        // One of fewer bytes than a digest has would be taken for one of more.
                        digest: if last.digest_length() < DIGEST_BYTES {
                            0
                        } else {
                            last.digest
                        },
                        ..*run
                    };
                    may_join = false;
                }
                _ => {
                    kept.push_back(*run);
                    may_join = true;
                }
            }
        }
        while kept.len() * 4 > count_max * 3 {
            let Some(oldest) = kept.pop_front() else {
                break;
            };
            self.floor = self.floor.max(oldest.end);
            self.held -= oldest.end - oldest.start;
            if oldest.is_sacked {
                self.sacked_bytes -= oldest.end - oldest.start;
            }
        }
        self.runs = kept;
    }

    /// Cuts the run at `index` in two where `at` is inside of it, and there is room. Only the part
    /// that keeps the start has its digest.
    fn split(&mut self, index: usize, at: u64, count_max: usize) -> bool {
        if self.runs.len() >= count_max {
            return false;
        }
        let Some(run) = self.runs.get_mut(index) else {
            return false;
        };
        if at <= run.start || run.end <= at {
            return false;
        }
        let rest = Run {
            start: at,
            digest: 0,
            opened_gap: false,
            ..*run
        };
        if at - run.start < run.digest_length() {
            run.digest = 0;
        }
        run.end = at;
        self.runs.insert(index + 1, rest);
        true
    }

    /// Index of the first run that ends beyond `at`.
    fn index_beyond(&self, at: u64) -> usize {
        self.runs.partition_point(|run| run.end <= at)
    }

    /// Whether a run begins or ends at `at`.
    pub(crate) fn has_edge(&self, at: u64) -> bool {
        let index = self.index_beyond(at);
        let is_start = self.runs.get(index).is_some_and(|run| run.start == at);
        let before = index.checked_sub(1).and_then(|index| self.runs.get(index));
        is_start || before.is_some_and(|run| run.end == at)
    }

    /// Notes that `[sent.start, sent.end)`, part of it at least below the highest seen, was sent.
    /// Of a run that it holds in part the rest stays as it was, where there is room for both.
    pub(crate) fn repeat(&mut self, sent: &Run, count_max: usize) -> Overlap {
        let mut overlap = Overlap {
            is_sacked: true,
            ..Overlap::default()
        };
        let mut at = sent.start.max(self.floor).min(sent.end);
        overlap.old = at - sent.start;
        let mut index = self.index_beyond(at);
        if self.split(index, at, count_max) {
            index += 1;
        }
        for _ in 0..RUN_WALK_MAX {
            if at >= sent.end {
                break;
            }
            self.split(index, sent.end, count_max);
            let run = match self.runs.get_mut(index) {
                Some(run) if run.start <= at => run,
                next => {
                    // A hole: up to the next run, or to the end.
                    let end = next.map_or(sent.end, |run| run.start.min(sent.end));
                    overlap.new += end - at;
                    overlap.is_sacked = false;
                    if self.runs.len() < count_max {
                        let filled = Run {
                            start: at,
                            end,
                            digest: if at == sent.start && end == sent.end {
                                sent.digest
                            } else {
                                0
                            },
                            ..*sent
                        };
                        self.held += end - at;
                        self.runs.insert(index, filled);
                        index += 1;
                    }
                    at = end;
                    continue;
                }
            };
            overlap.run.get_or_insert(*run);
            overlap.is_sacked &= run.is_sacked;
            overlap.old += run.end.min(sent.end) - at;
            run.copies = run.copies.saturating_add(1);
            run.last_ns = sent.last_ns;
            run.last_timestamp = sent.last_timestamp;
            run.ip_id = sent.ip_id;
            at = run.end;
            index += 1;
        }
        if overlap.old == 0 {
            overlap.is_sacked = false;
        }
        overlap
    }

    /// The run that jumped ahead and left the hole that begins at or holds `at`.
    pub(crate) fn gap_opener(&self, at: u64) -> Option<Run> {
        let first = self.index_beyond(at);
        self.runs
            .range(first..)
            .take(RUN_WALK_MAX)
            .find(|run| run.opened_gap)
            .or_else(|| self.runs.get(first))
            .copied()
    }

    /// Removes what lies below `acknowledged`, which is at most the highest seen.
    pub(crate) fn acknowledge(
        &mut self,
        acknowledged: u64,
        echo: u32,
        unseen: &mut Unseen,
    ) -> Removed {
        let mut removed = Removed {
            latest_ns: i64::MIN,
            ..Removed::default()
        };
        let mut at = self.floor;
        while let Some(run) = self.runs.front_mut() {
            if run.start >= acknowledged {
                break;
            }
            if run.start > at {
                removed.unseen += run.start - at;
                unseen.push(at, run.start);
            }
            if run.end > acknowledged {
                if run.is_sacked {
                    self.sacked_bytes -= acknowledged - run.start;
                }
                self.held -= acknowledged - run.start;
                run.start = acknowledged;
                // It is of bytes that are gone.
                run.digest = 0;
                at = acknowledged;
                break;
            }
            at = run.end;
            self.held -= run.end - run.start;
            removed.latest_ns = removed.latest_ns.max(run.last_ns);
            if run.is_sacked {
                self.sacked_bytes -= run.end - run.start;
            }
            if echo != 0 && run.copies > 1 && names(run, echo) {
                removed.by_timestamp = Some(*run);
            }
            if run.end == acknowledged {
                removed.last = Some(*run);
            }
            self.runs.pop_front();
        }
        let at = at.max(self.floor);
        if acknowledged > at {
            removed.unseen += acknowledged - at;
            unseen.push(at, acknowledged);
        }
        self.floor = self.floor.max(acknowledged);
        removed
    }

    /// Marks what a SACK block names; gives the latest sending among what is new, `None` where
    /// nothing is. Of a run of which it names a part, as of one that is cut into segments only
    /// after this hop, that part, where there is room for both.
    pub(crate) fn sack(&mut self, start: u64, end: u64, count_max: usize) -> Option<i64> {
        let mut latest = None;
        let first = self.index_beyond(start);
        for index in first..first + RUN_WALK_MAX {
            let Some(run) = self.runs.get(index).filter(|run| run.start < end) else {
                break;
            };
            if run.is_sacked {
                continue;
            }
            if run.start < start {
                // What is split off is next.
                self.split(index, start, count_max);
                continue;
            }
            if run.end > end && !self.split(index, end, count_max) {
                break;
            }
            let run = &mut self.runs[index];
            run.is_sacked = true;
            self.sacked_bytes += run.end - run.start;
            let sent_ns = if run.copies == 1 {
                run.last_ns
            } else {
                run.first_ns
            };
            latest = latest.max(Some(sent_ns));
        }
        latest
    }
}

/// Whether an echoed timestamp tells the last sending of a run from the first.
fn names(run: &Run, echo: u32) -> bool {
    run.last_timestamp == echo && run.first_timestamp != echo
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(start: u64, end: u64, digest: u32) -> Run {
        Run {
            start,
            end,
            digest,
            copies: 1,
            ..Run::default()
        }
    }

    #[test]
    fn a_run_that_is_acknowledged_in_part_has_no_digest() {
        let mut space = Space::new(0);
        space.push(run(0, 100, 7), RUN_COUNT_MAX);
        space.acknowledge(50, 0, &mut Unseen::default());
        let overlap = space.repeat(&run(50, 100, 9), RUN_COUNT_MAX);
        assert_eq!(overlap.run.unwrap().digest, 0);
    }

    #[test]
    fn a_sack_block_marks_the_part_that_it_names() {
        let mut space = Space::new(0);
        space.push(run(0, 20_000, 7), RUN_COUNT_MAX);
        assert_eq!(space.sack(1_448, 2_896, RUN_COUNT_MAX), Some(0));
        assert_eq!(space.sack(1_448, 2_896, RUN_COUNT_MAX), None);
        assert_eq!(space.sack(1_448, 4_344, RUN_COUNT_MAX), Some(0));
        assert_eq!(space.sacked_bytes, 2_896);
        assert!(!space.has_hole());
        assert!(!space.repeat(&run(0, 1_448, 7), RUN_COUNT_MAX).is_sacked);
        assert!(space.repeat(&run(2_000, 3_000, 1), RUN_COUNT_MAX).is_sacked);
        assert!(!space.repeat(&run(4_000, 5_000, 1), RUN_COUNT_MAX).is_sacked);
        space.acknowledge(20_000, 0, &mut Unseen::default());
        assert_eq!((space.sacked_bytes, space.run_count()), (0, 0));
    }

    #[test]
    fn what_is_sent_again_in_part_leaves_the_rest_as_it_was() {
        let mut space = Space::new(0);
        space.push(run(0, 20_000, 7), RUN_COUNT_MAX);
        let again = Run {
            last_ns: 5,
            ..run(1_448, 2_896, 8)
        };
        let overlap = space.repeat(&again, RUN_COUNT_MAX);
        assert_eq!((overlap.old, overlap.new), (1_448, 0));
        let held: Vec<_> = space
            .runs
            .iter()
            .map(|it| (it.start, it.end, it.copies, it.last_ns, it.digest))
            .collect();
        let rest = [(0, 1_448, 1, 0, 7), (2_896, 20_000, 1, 0, 0)];
        assert_eq!(held, [rest[0], (1_448, 2_896, 2, 5, 0), rest[1]]);
        // A digest is of no bytes that another run has.
        space.repeat(&run(0, 8, 7), RUN_COUNT_MAX);
        assert_eq!(space.runs[0].digest, 0);
    }

    #[test]
    fn without_room_runs_stay_whole() {
        let mut space = Space::new(0);
        for start in [0, 1_000] {
            space.push(run(start, start + 1_000, 7), 8);
        }
        assert_eq!(space.sack(500, 1_500, 2), None);
        space.repeat(&run(900, 1_100, 7), 2);
        assert_eq!(space.run_count(), 2);
        assert!(space.runs.iter().all(|it| it.copies == 2 && !it.is_sacked));
        // One split has room, the other has not.
        assert_eq!(space.sack(500, 1_500, 3), Some(0));
        assert_eq!((space.run_count(), space.sacked_bytes), (3, 500));
    }

    #[test]
    fn joined_runs_keep_the_digest_of_their_first_bytes() {
        for (length, digest) in [(16, 7), (15, 0)] {
            let mut space = Space::new(0);
            space.push(run(0, length, 7), 8);
            space.push(run(length, 40, 9), 8);
            space.compact(8);
            assert_eq!(space.run_count(), 1);
            let overlap = space.repeat(&run(0, 40, 1), 8);
            assert_eq!(overlap.run.unwrap().digest, digest);
        }
    }
}
