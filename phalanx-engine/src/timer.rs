//! Deadlines in order: one for each thing that has one, so that nothing is ever scanned.

use std::collections::BTreeSet;

use crate::pair::PairId;
use crate::table::Slot;
use crate::time::Monotonic;

/// What a deadline is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    Flow(Slot),
    Attempt(Slot),
    Pair(PairId),
    /// Traced flows are looked at for silence; one for all of them.
    Traces,
}

/// Flows have a queue of their own, so that the one due first is found at once.
#[derive(Default)]
pub(crate) struct Timers {
    flows: BTreeSet<(Monotonic, Slot)>,
    others: BTreeSet<(Monotonic, Timer)>,
}

impl Timers {
    pub(crate) fn set(&mut self, at: Monotonic, timer: Timer) {
        match timer {
            Timer::Flow(slot) => self.flows.insert((at, slot)),
            _ => self.others.insert((at, timer)),
        };
    }

    pub(crate) fn clear(&mut self, at: Monotonic, timer: Timer) {
        match timer {
            Timer::Flow(slot) => self.flows.remove(&(at, slot)),
            _ => self.others.remove(&(at, timer)),
        };
    }

    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        self.flows.len() + self.others.len()
    }

    pub(crate) fn next(&self) -> Option<Monotonic> {
        let flow = self.flows.first().map(|(at, _)| *at);
        let other = self.others.first().map(|(at, _)| *at);
        flow.into_iter().chain(other).min()
    }

    pub(crate) fn first_flow(&self) -> Option<Slot> {
        self.flows.first().map(|(_, slot)| *slot)
    }

    /// Takes the first deadline that has come.
    pub(crate) fn pop(&mut self, now: Monotonic) -> Option<Timer> {
        let next = self.next().filter(|next| *next <= now)?;
        if self.flows.first().is_some_and(|(at, _)| *at == next) {
            return self.flows.pop_first().map(|(_, slot)| Timer::Flow(slot));
        }
        self.others.pop_first().map(|(_, timer)| timer)
    }
}
