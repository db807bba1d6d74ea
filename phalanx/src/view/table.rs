//! A bounded table of things that open and close: closed ones are kept for a while.

use std::collections::{BTreeMap, VecDeque};

use super::limits::{CLOSED_COUNT_MAX, ENTRY_COUNT_MAX};

/// Entries by id, in the order of their opening.
#[derive(Debug)]
pub struct Table<Id, Entry> {
    entries: BTreeMap<Id, Entry>,
    closed: VecDeque<Id>,
    refused_count: u64,
}

impl<Id, Entry> Default for Table<Id, Entry> {
    fn default() -> Self {
        Self {
            entries: BTreeMap::new(),
            closed: VecDeque::new(),
            refused_count: 0,
        }
    }
}

impl<Id: Ord + Copy, Entry> Table<Id, Entry> {
    /// Adds an entry, unless the table is full.
    pub(super) fn insert(&mut self, id: Id, entry: Entry) {
        if self.entries.len() >= ENTRY_COUNT_MAX {
            self.refused_count += 1;
            return;
        }
        self.entries.insert(id, entry);
    }

    /// An entry, to change it.
    pub(super) fn get_mut(&mut self, id: Id) -> Option<&mut Entry> {
        self.entries.get_mut(&id)
    }

    /// Notes that an entry was closed; the one closed the longest ago makes room.
    pub(super) fn retire(&mut self, id: Id) {
        if self.closed.len() >= CLOSED_COUNT_MAX
            && let Some(oldest) = self.closed.pop_front()
        {
            self.entries.remove(&oldest);
        }
        self.closed.push_back(id);
    }

    /// An entry.
    #[must_use]
    pub fn get(&self, id: Id) -> Option<&Entry> {
        self.entries.get(&id)
    }

    /// All entries in the order of their opening.
    pub fn iter(&self) -> impl Iterator<Item = (Id, &Entry)> + Clone {
        self.entries.iter().map(|(id, entry)| (*id, entry))
    }

    /// How many are open.
    #[must_use]
    pub fn open_count(&self) -> usize {
        self.entries.len().saturating_sub(self.closed.len())
    }

    /// How many were left out because the table was full.
    #[must_use]
    pub const fn refused_count(&self) -> u64 {
        self.refused_count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_closed_ones_are_kept() {
        let mut table = Table::<u64, ()>::default();
        for id in 0..CLOSED_COUNT_MAX as u64 + 10 {
            table.insert(id, ());
            table.retire(id);
        }
        assert_eq!(table.iter().count(), CLOSED_COUNT_MAX);
        assert_eq!(table.open_count(), 0);
        assert!(table.get(9).is_none());
        assert!(table.get(10).is_some());
    }
}
