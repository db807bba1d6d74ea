//! [`Positions`]: how far each agent has come, and what is missing before it.

use std::collections::BTreeMap;

use crate::link::protocol::Batch;

/// How far an agent has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Position {
    /// Its run, and the last batch of that.
    pub(crate) run: u64,
    pub(crate) sequence: u64,
    /// Items of that run so far, missing ones included.
    pub(crate) items: u64,
    /// The run has said that it ends.
    pub(crate) is_ended: bool,
    /// Gaps so far, and what was missing in those whose size is known.
    pub(crate) gaps: u64,
    pub(crate) lost_batches: u64,
    pub(crate) lost_items: u64,
}

/// What a batch is to its agent's position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// The next one.
    Next {
        /// It begins another run.
        is_new_run: bool,
    },
    /// It is here already.
    Repeated,
}

/// A batch that cannot come now: its agent is broken, or hostile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "batch {sequence} of run {run} after {after}: {said} are said to be missing, not {missing}"
)]
pub(crate) struct Disorder {
    run: u64,
    sequence: u64,
    after: u64,
    said: u64,
    missing: u64,
}

/// How far each agent has come, by its id. Bounded by the agents that the hub lets in.
#[derive(Clone, Debug, Default)]
pub(crate) struct Positions(pub(crate) BTreeMap<String, Position>);

impl Positions {
    /// How far an agent has come.
    pub(crate) fn get(&self, agent: &str) -> Position {
        self.0.get(agent).copied().unwrap_or_default()
    }

    /// What a batch is to its agent's position, and moves that on.
    ///
    /// # Errors
    /// It cannot come now.
    pub(crate) fn take(&mut self, agent: &str, batch: &Batch) -> Result<Standing, Disorder> {
        let before = self.get(agent);
        if (batch.run, batch.sequence) <= (before.run, before.sequence) {
            return Ok(Standing::Repeated);
        }
        let is_new_run = batch.run != before.run;
        let mut position = before;
        if is_new_run {
            // The first run of all has nothing before it.
            position.gaps += u64::from(before.run != 0 && !before.is_ended);
            position.run = batch.run;
            position.sequence = 0;
            position.items = 0;
        }
        let missing = batch.sequence - position.sequence - 1;
        let disorder = Disorder {
            run: batch.run,
            sequence: batch.sequence,
            after: position.sequence,
            said: batch.dropped_batches,
            missing,
        };
        let items_missing = batch.first_item.checked_sub(position.items);
        let (true, Some(items_missing)) = (missing == batch.dropped_batches, items_missing) else {
            return Err(disorder);
        };
        if missing == 0 && items_missing != 0 {
            return Err(disorder);
        }
        let items = batch.first_item.checked_add(u64::from(batch.item_count));
        position.items = items.ok_or(disorder)?;
        position.gaps += u64::from(missing > 0);
        position.lost_batches = position.lost_batches.saturating_add(missing);
        position.lost_items = position.lost_items.saturating_add(items_missing);
        position.sequence = batch.sequence;
        position.is_ended = batch.is_last;
        self.0.insert(agent.to_owned(), position);
        Ok(Standing::Next { is_new_run })
    }
}

/// Positions as they were before some batches: those now, and what those batches moved. A copy of
/// all of them is made where it is asked for, which is once a segment of the log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Before<'a> {
    pub(crate) now: &'a Positions,
    /// Agents and where they were, the latest move last; none: nowhere yet.
    pub(crate) moved: &'a [(String, Option<Position>)],
}

impl Before<'_> {
    /// How far each agent had come.
    pub(crate) fn positions(&self) -> Positions {
        let mut positions = self.now.clone();
        positions.put_back(self.moved);
        positions
    }
}

impl Positions {
    /// Takes moves back.
    pub(crate) fn put_back(&mut self, moved: &[(String, Option<Position>)]) {
        for (agent, position) in moved.iter().rev() {
            match position {
                Some(position) => self.0.insert(agent.clone(), *position),
                None => self.0.remove(agent),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(run: u64, sequence: u64, first_item: u64, dropped_batches: u64) -> Batch {
        Batch {
            run,
            sequence,
            first_item,
            item_count: 10,
            dropped_batches,
            ..Batch::default()
        }
    }

    const NEXT: Result<Standing, Disorder> = Ok(Standing::Next { is_new_run: false });
    const NEW_RUN: Result<Standing, Disorder> = Ok(Standing::Next { is_new_run: true });

    #[test]
    fn batches_in_order_are_taken_once() {
        let mut positions = Positions::default();
        assert_eq!(positions.take("a", &batch(5, 1, 0, 0)), NEW_RUN);
        assert_eq!(positions.take("a", &batch(5, 2, 10, 0)), NEXT);
        assert_eq!(
            positions.take("a", &batch(5, 2, 10, 0)),
            Ok(Standing::Repeated)
        );
        assert_eq!(
            positions.take("a", &batch(4, 9, 10, 0)),
            Ok(Standing::Repeated)
        );
        let position = positions.get("a");
        assert_eq!(
            (position.sequence, position.items, position.gaps),
            (2, 20, 0)
        );
    }

    #[test]
    fn a_gap_is_counted_if_it_was_said_and_refused_if_not() {
        let mut positions = Positions::default();
        positions.take("a", &batch(5, 1, 0, 0)).unwrap();
        assert!(positions.take("a", &batch(5, 4, 30, 0)).is_err());
        assert!(positions.take("a", &batch(5, 4, 30, 1)).is_err());
        assert!(positions.take("a", &batch(5, 2, 30, 0)).is_err());
        assert!(positions.take("a", &batch(5, 4, 5, 2)).is_err());
        assert_eq!(positions.take("a", &batch(5, 4, 30, 2)), NEXT);
        let position = positions.get("a");
        assert_eq!((position.gaps, position.lost_batches), (1, 2));
        assert_eq!(position.lost_items, 20);
        let far = batch(5, 5, u64::MAX, 0);
        assert!(positions.take("a", &far).is_err());
    }

    #[test]
    fn moves_are_taken_back_in_their_order() {
        let mut positions = Positions::default();
        positions.take("a", &batch(5, 1, 0, 0)).unwrap();
        let before = positions.clone();
        let mut moved = Vec::new();
        for (agent, sequence, first_item) in [("a", 2, 10), ("b", 1, 0), ("a", 3, 20)] {
            moved.push((agent.to_owned(), positions.0.get(agent).copied()));
            positions
                .take(agent, &batch(5, sequence, first_item, 0))
                .unwrap();
        }
        assert_eq!(positions.get("a").sequence, 3);
        let known = Before {
            now: &positions,
            moved: &moved,
        };
        assert_eq!(known.positions().0, before.0);
        positions.put_back(&moved);
        assert_eq!(positions.0, before.0);
    }

    #[test]
    fn a_run_that_was_cut_is_a_gap_and_one_that_ended_is_none() {
        let mut positions = Positions::default();
        positions.take("a", &batch(5, 1, 0, 0)).unwrap();
        assert_eq!(positions.take("a", &batch(6, 1, 0, 0)), NEW_RUN);
        assert_eq!(positions.get("a").gaps, 1);
        let last = Batch {
            is_last: true,
            ..batch(6, 2, 10, 0)
        };
        positions.take("a", &last).unwrap();
        assert_eq!(positions.take("a", &batch(7, 1, 0, 0)), NEW_RUN);
        assert_eq!(positions.get("a").gaps, 1);
    }
}
