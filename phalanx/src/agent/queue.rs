//! [`Queue`]: batches that the hub has not acknowledged, in order: the oldest in memory, and what
//! finds the memory full on disk. A value but for the spool's files.

use std::collections::VecDeque;

use super::spool::{Place, Spool, place};
use crate::link::protocol::Batch;

/// Bytes of batches in memory: some seconds of a very busy host, so that a short absence of the
/// hub costs no disk.
pub(crate) const MEMORY_BYTES_MAX: usize = 16 << 20;

/// What has not been acknowledged.
pub(crate) struct Queue {
    memory: VecDeque<Batch>,
    memory_bytes: usize,
    /// Batches of `memory`, from the first, that were sent.
    sent_count: usize,
    spool: Spool,
    /// The batch before the next one to be sent.
    position: Place,
    /// Batches dropped because there was room neither in memory nor on disk.
    dropped_count: u64,
}

impl Queue {
    pub(crate) fn new(spool: Spool) -> Self {
        Self {
            memory: VecDeque::new(),
            memory_bytes: 0,
            sent_count: 0,
            spool,
            position: (0, 0),
            dropped_count: 0,
        }
    }

    /// Adds a batch, later than all others.
    pub(crate) fn push(&mut self, batch: Batch) {
        let fits = self.memory_bytes + batch.body.len() <= MEMORY_BYTES_MAX;
        if fits && !self.spool.has_unread() {
            self.remember(batch);
        } else if !self.spool.push(&batch) {
            self.push_without_disk(batch);
        }
    }

    /// The disk takes nothing: the oldest in memory makes room.
    fn push_without_disk(&mut self, batch: Batch) {
        while self.memory_bytes + batch.body.len() > MEMORY_BYTES_MAX {
            let Some(oldest) = self.memory.pop_front() else {
                break;
            };
            self.memory_bytes -= oldest.body.len();
            self.dropped_count += u64::from(self.sent_count == 0);
            self.sent_count = self.sent_count.saturating_sub(1);
        }
        self.remember(batch);
    }

    fn remember(&mut self, batch: Batch) {
        self.memory_bytes += batch.body.len();
        self.memory.push_back(batch);
    }

    /// Bytes of the next batch to be sent, if there is one.
    pub(crate) fn next_bytes(&mut self) -> Option<u64> {
        while self.sent_count == self.memory.len() && self.spool.has_unread() {
            if self.memory_bytes >= MEMORY_BYTES_MAX {
                return None;
            }
            if let Some(batch) = self.spool.read() {
                self.remember(batch);
            }
        }
        let batch = self.memory.get(self.sent_count)?;
        Some(batch.body.len() as u64)
    }

    /// The next batch to be sent, which tells how many before it were dropped.
    pub(crate) fn send(&mut self) -> Option<Batch> {
        let mut batch = self.memory.get(self.sent_count)?.clone();
        self.sent_count += 1;
        let before = if batch.run == self.position.0 {
            self.position.1
        } else {
            0
        };
        batch.dropped_batches = batch.sequence.saturating_sub(before.saturating_add(1));
        self.position = place(&batch);
        Some(batch)
    }

    /// The hub has all batches to this place; how many of those in memory that were.
    pub(crate) fn acknowledge(&mut self, acknowledged: Place) -> u64 {
        let mut count = 0;
        while self
            .memory
            .front()
            .is_some_and(|batch| place(batch) <= acknowledged)
        {
            if let Some(batch) = self.memory.pop_front() {
                self.memory_bytes -= batch.body.len();
                self.sent_count = self.sent_count.saturating_sub(1);
                count += 1;
            }
        }
        self.spool.forget(acknowledged);
        count
    }

    /// A session has begun: the hub has all batches to this place, and what was sent after it is
    /// to be sent again. How many of those in memory it has.
    pub(crate) fn resume(&mut self, acknowledged: Place) -> u64 {
        let count = self.acknowledge(acknowledged);
        self.position = acknowledged;
        self.sent_count = 0;
        count
    }

    /// Puts what is in memory on disk, for the next process.
    pub(crate) fn keep(&mut self) {
        // What was read from disk is there still.
        self.spool.rewind();
        let first_on_disk = self.spool.first();
        let batches: Vec<Batch> = self
            .memory
            .drain(..)
            .filter(|batch| first_on_disk.is_none_or(|first| place(batch) < first))
            .collect();
        self.memory_bytes = 0;
        self.sent_count = 0;
        self.spool.put_first(&batches);
    }

    /// Whether the hub has everything.
    pub(crate) fn is_empty(&self) -> bool {
        self.memory.is_empty() && !self.spool.has_unread()
    }

    /// Whether a batch was sent that is not acknowledged.
    pub(crate) fn is_awaiting(&self) -> bool {
        self.sent_count > 0
    }

    /// Batches in memory, their bytes, and bytes on disk.
    pub(crate) fn sizes(&self) -> (usize, usize, u64) {
        (self.memory.len(), self.memory_bytes, self.spool.bytes())
    }

    /// Batches that were dropped.
    pub(crate) fn dropped_count(&self) -> u64 {
        self.dropped_count + self.spool.dropped_count
    }

    /// The last place that an earlier process used.
    pub(crate) fn last(&self) -> Option<Place> {
        self.spool.last()
    }
}
