//! Deadlines in order: one for each thing that has one, so that nothing is ever scanned.

use std::collections::BTreeSet;

use crate::table::Slot;
use crate::time::Monotonic;

/// What a deadline is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    Flow(Slot),
    Attempt(Slot),
    Pair(Slot),
}

#[derive(Default)]
pub(crate) struct Timers {
    queue: BTreeSet<(Monotonic, Timer)>,
}

impl Timers {
    pub(crate) fn set(&mut self, at: Monotonic, timer: Timer) {
        self.queue.insert((at, timer));
    }

    pub(crate) fn clear(&mut self, at: Monotonic, timer: Timer) {
        self.queue.remove(&(at, timer));
    }

    pub(crate) fn next(&self) -> Option<Monotonic> {
        self.queue.first().map(|(at, _)| *at)
    }

    /// Takes the first deadline that has come.
    pub(crate) fn pop(&mut self, now: Monotonic) -> Option<Timer> {
        if self.next()? > now {
            return None;
        }
        self.queue.pop_first().map(|(_, timer)| timer)
    }
}
