//! A bounded table: entries in slots, found by a key through a seeded hash.
//!
//! The index holds slot numbers only; iteration goes by slot, so that it does not depend on hashes.

use std::hash::{BuildHasher, Hash};

use foldhash::fast::FixedState;
use hashbrown::HashTable;

/// What can be found by a key that is part of it.
pub(crate) trait Keyed {
    type Key: Copy + Eq + Hash;

    fn key(&self) -> Self::Key;
}

/// Number of an entry; used again once the entry is removed.
pub(crate) type Slot = u32;

pub(crate) struct Table<T> {
    index: HashTable<Slot>,
    entries: Vec<Option<T>>,
    free: Vec<Slot>,
    count_max: usize,
    hash: FixedState,
}

impl<T: Keyed> Table<T> {
    pub(crate) fn new(count_max: usize, seed: u64) -> Self {
        Self {
            index: HashTable::new(),
            entries: Vec::new(),
            free: Vec::new(),
            count_max: count_max.min(Slot::MAX as usize),
            hash: FixedState::with_seed(seed),
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.count() >= self.count_max
    }

    /// One more than the highest slot in use so far.
    pub(crate) fn slot_end(&self) -> Slot {
        self.entries.len() as Slot
    }

    pub(crate) fn find(&self, key: &T::Key) -> Option<Slot> {
        let entries = &self.entries;
        self.index
            .find(self.hash.hash_one(key), |slot| holds(entries, *slot, key))
            .copied()
    }

    pub(crate) fn get(&self, slot: Slot) -> Option<&T> {
        self.entries.get(slot as usize)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, slot: Slot) -> Option<&mut T> {
        self.entries.get_mut(slot as usize)?.as_mut()
    }

    /// Puts an entry in; an entry of the same key is found by it no longer. `None` where it is
    /// full.
    pub(crate) fn insert(&mut self, entry: T) -> Option<Slot> {
        if self.is_full() {
            return None;
        }
        let key = entry.key();
        self.hide(&key);
        let slot = match self.free.pop() {
            Some(slot) => {
                self.entries[slot as usize] = Some(entry);
                slot
            }
            None => {
                self.entries.push(Some(entry));
                (self.entries.len() - 1) as Slot
            }
        };
        let (entries, hash) = (&self.entries, &self.hash);
        self.index.insert_unique(hash.hash_one(key), slot, |slot| {
            let entry = entries[*slot as usize].as_ref();
            entry.map_or(0, |entry| hash.hash_one(entry.key()))
        });
        Some(slot)
    }

    /// Lets the entry of this key stay in its slot without being found any more.
    pub(crate) fn hide(&mut self, key: &T::Key) {
        let entries = &self.entries;
        let hash = self.hash.hash_one(key);
        if let Ok(found) = self
            .index
            .find_entry(hash, |slot| holds(entries, *slot, key))
        {
            found.remove();
        }
    }

    pub(crate) fn remove(&mut self, slot: Slot) -> Option<T> {
        let key = self.get(slot)?.key();
        if let Ok(found) = self
            .index
            .find_entry(self.hash.hash_one(key), |held| *held == slot)
        {
            found.remove();
        }
        self.free.push(slot);
        self.entries[slot as usize].take()
    }
}

/// A clock's hand that goes round the slots of a table, to find an entry that may go: one that was
/// not seen since the hand passed it last (the CLOCK rule of page replacement).
#[derive(Default)]
pub(crate) struct Hand(Slot);

/// What a hand makes of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fit {
    /// It must stay.
    Stays,
    /// It goes if there is nothing better.
    Fresh,
    /// It goes.
    Stale,
}

impl Hand {
    /// The first stale entry in the next `tries` slots, else the last fresh one of them.
    pub(crate) fn turn<T: Keyed>(
        &mut self,
        table: &mut Table<T>,
        tries: usize,
        mut judge: impl FnMut(&mut T) -> Fit,
    ) -> Option<Slot> {
        let mut fresh = None;
        for _ in 0..tries {
            let next = self.0 + 1;
            self.0 = if next >= table.slot_end() { 0 } else { next };
            match table.get_mut(self.0).map(&mut judge) {
                Some(Fit::Stale) => return Some(self.0),
                Some(Fit::Fresh) => fresh = Some(self.0),
                Some(Fit::Stays) | None => {}
            }
        }
        fresh
    }
}

fn holds<T: Keyed>(entries: &[Option<T>], slot: Slot, key: &T::Key) -> bool {
    matches!(entries.get(slot as usize), Some(Some(entry)) if entry.key() == *key)
}
