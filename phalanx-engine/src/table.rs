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

/// Entries in one piece of a table, which grows by pieces so that nothing is moved.
const PIECE_COUNT: usize = 1 << 10;

pub(crate) struct Table<T> {
    index: HashTable<Place>,
    /// By slot; all but the last are full.
    pieces: Vec<Vec<Option<T>>>,
    free: Vec<Slot>,
    count_max: usize,
    hash: FixedState,
}

/// Where an entry is. Its hash stands beside, so that the index grows without looking at entries.
#[derive(Clone, Copy)]
struct Place {
    slot: Slot,
    hash: u32,
}

/// The index wants 64 bits: it finds a place by the lowest ones, and a mark by the highest ones.
fn wide(hash: u32) -> u64 {
    u64::from(hash) << 32 | u64::from(hash)
}

impl<T: Keyed> Table<T> {
    pub(crate) fn new(count_max: usize, seed: u64) -> Self {
        Self {
            index: HashTable::new(),
            pieces: Vec::new(),
            free: Vec::new(),
            count_max: count_max.min(Slot::MAX as usize),
            hash: FixedState::with_seed(seed),
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.slot_end() as usize - self.free.len()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.count() >= self.count_max
    }

    /// Heap bytes in use.
    pub(crate) fn capacity(&self) -> usize {
        let entries: usize = self.pieces.iter().map(Vec::capacity).sum();
        entries * size_of::<Option<T>>()
            + self.pieces.capacity() * size_of::<Vec<Option<T>>>()
            + self.free.capacity() * size_of::<Slot>()
            + self.index.allocation_size()
    }

    /// One more than the highest slot in use so far.
    pub(crate) fn slot_end(&self) -> Slot {
        let last = self.pieces.last().map_or(0, Vec::len);
        (self.pieces.len().saturating_sub(1) * PIECE_COUNT + last) as Slot
    }

    fn hash_of(&self, key: &T::Key) -> u32 {
        (self.hash.hash_one(key) >> 32) as u32
    }

    pub(crate) fn find(&self, key: &T::Key) -> Option<Slot> {
        let hash = self.hash_of(key);
        let is_it = |place: &Place| place.hash == hash && self.holds(place.slot, key);
        let place = self.index.find(wide(hash), is_it)?;
        Some(place.slot)
    }

    fn holds(&self, slot: Slot, key: &T::Key) -> bool {
        self.get(slot).is_some_and(|entry| entry.key() == *key)
    }

    pub(crate) fn get(&self, slot: Slot) -> Option<&T> {
        let piece = self.pieces.get(slot as usize / PIECE_COUNT)?;
        piece.get(slot as usize % PIECE_COUNT)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, slot: Slot) -> Option<&mut T> {
        self.room(slot)?.as_mut()
    }

    fn room(&mut self, slot: Slot) -> Option<&mut Option<T>> {
        let piece = self.pieces.get_mut(slot as usize / PIECE_COUNT)?;
        piece.get_mut(slot as usize % PIECE_COUNT)
    }

    /// Puts an entry in; an entry of the same key is found by it no longer. `None` where it is
    /// full.
    pub(crate) fn insert(&mut self, entry: T) -> Option<Slot> {
        if self.is_full() {
            return None;
        }
        self.hide(&entry.key());
        self.insert_new(entry)
    }

    /// Puts an entry in whose key no other one has. `None` where it is full.
    pub(crate) fn insert_new(&mut self, entry: T) -> Option<Slot> {
        if self.is_full() {
            return None;
        }
        let hash = self.hash_of(&entry.key());
        let slot = match self.free.pop() {
            Some(slot) => {
                *self.room(slot)? = Some(entry);
                slot
            }
            None => self.push(entry),
        };
        let place = Place { slot, hash };
        self.index
            .insert_unique(wide(hash), place, |place| wide(place.hash));
        Some(slot)
    }

    fn push(&mut self, entry: T) -> Slot {
        let slot = self.slot_end();
        match self.pieces.last_mut() {
            Some(piece) if piece.len() < PIECE_COUNT => piece.push(Some(entry)),
            last => {
                // A small table stays small.
                let mut piece = Vec::with_capacity(last.map_or(0, |_| PIECE_COUNT));
                piece.push(Some(entry));
                self.pieces.push(piece);
            }
        }
        slot
    }

    /// Lets the entry of this key stay in its slot without being found any more.
    pub(crate) fn hide(&mut self, key: &T::Key) {
        if let Some(slot) = self.find(key) {
            self.unlist(slot, key);
        }
    }

    pub(crate) fn remove(&mut self, slot: Slot) -> Option<T> {
        let key = self.get(slot)?.key();
        self.unlist(slot, &key);
        self.free.push(slot);
        self.room(slot)?.take()
    }

    fn unlist(&mut self, slot: Slot, key: &T::Key) {
        let hash = wide(self.hash_of(key));
        let is_it = |place: &Place| place.slot == slot;
        if let Ok(found) = self.index.find_entry(hash, is_it) {
            found.remove();
        }
    }

    /// Takes all entries out, in the order of their slots.
    pub(crate) fn take_all(&mut self) -> impl Iterator<Item = T> + use<T> {
        self.index.clear();
        self.free.clear();
        let pieces = std::mem::take(&mut self.pieces);
        pieces.into_iter().flatten().flatten()
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
