//! [`Link`]: who takes what the loop of a host tells, and says what the kernel's tables want.
//!
//! With `phalanx up` that is the engine of the same process ([`Direct`]); with `phalanx agent` the
//! hub hears all of it as well ([`Remote`]), and the engine here looks after the kernel's tables.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use phalanx_engine::{Command, Monotonic, Tally};

use tokio::sync::mpsc;

use super::core::{Core, FeedClosed};
use super::feed::Feed;
use crate::clock::Clock;
use crate::link::protocol::Batch;
use crate::link::{Batcher, Told};

/// Who takes what the loop tells.
pub(super) trait Link: Send {
    /// Takes it.
    fn tell(&mut self, told: Told<'_>, now: Monotonic) -> Result<(), FeedClosed>;
    /// When [`Self::settle`] wants to run next.
    fn deadline(&self) -> Option<Monotonic>;
    /// Does a bounded part of what is due, and hands on what came of it.
    fn settle(&mut self, now: Monotonic) -> Result<(), FeedClosed>;
    /// What is to be done with the kernel's tables.
    fn commands(&mut self) -> Vec<Command>;
    /// What its engine could not use or keep.
    fn tally(&self) -> Tally;
    /// The loop ends: nothing more is told.
    fn close(&mut self, now: Monotonic);
}

/// The engine is in this process.
pub(super) struct Direct(pub(super) Core);

impl Link for Direct {
    fn tell(&mut self, told: Told<'_>, now: Monotonic) -> Result<(), FeedClosed> {
        match told {
            Told::Input(input) => self.0.handle(input, now),
            Told::Status(status) => self.0.tell(Feed::Kernel(status)),
            Told::Clock(event) => self.0.tell(Feed::Clock(event)),
        }
    }

    fn deadline(&self) -> Option<Monotonic> {
        self.0.deadline()
    }

    fn settle(&mut self, now: Monotonic) -> Result<(), FeedClosed> {
        if self.0.deadline().is_some_and(|deadline| deadline <= now) {
            self.0.handle_deadline(now);
        }
        self.0.hand_on()
    }

    fn commands(&mut self) -> Vec<Command> {
        self.0.commands()
    }

    fn tally(&self) -> Tally {
        self.0.tally()
    }

    fn close(&mut self, _now: Monotonic) {}
}

/// The hub hears what the engine here is told.
pub(super) struct Remote {
    direct: Direct,
    batcher: Batcher,
    batches: mpsc::Sender<Batch>,
    /// Batches that found the way to the uplink full: a gap, which the next one shows.
    dropped: Arc<AtomicU64>,
    clock: Clock,
}

impl Remote {
    pub(super) fn new(
        core: Core,
        batcher: Batcher,
        batches: mpsc::Sender<Batch>,
        dropped: Arc<AtomicU64>,
        clock: Clock,
    ) -> Self {
        Self {
            direct: Direct(core),
            batcher,
            batches,
            dropped,
            clock,
        }
    }

    fn send(&mut self, now: Monotonic, is_last: bool) {
        match self.batcher.close(now, self.clock.wall_ns(now)) {
            Ok(None) => {}
            Ok(Some(mut batch)) => {
                batch.is_last = is_last;
                // The loop must not wait for a disk: the kernel's ring would overflow instead.
                if self.batches.try_send(batch).is_err() {
                    self.dropped.fetch_add(1, Ordering::Relaxed);
                }
            }
            Err(error) => {
                self.dropped.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(%error, "a batch for the hub could not be packed");
            }
        }
    }
}

impl Link for Remote {
    fn tell(&mut self, told: Told<'_>, now: Monotonic) -> Result<(), FeedClosed> {
        if self.batcher.tell(&told, now) {
            self.send(now, false);
        }
        self.direct.tell(told, now)
    }

    fn deadline(&self) -> Option<Monotonic> {
        let due = [self.direct.deadline(), self.batcher.due()];
        due.into_iter().flatten().min()
    }

    fn settle(&mut self, now: Monotonic) -> Result<(), FeedClosed> {
        if self.batcher.due().is_some_and(|due| due <= now) {
            self.send(now, false);
        }
        self.direct.settle(now)
    }

    fn commands(&mut self) -> Vec<Command> {
        self.direct.commands()
    }

    fn tally(&self) -> Tally {
        self.direct.tally()
    }

    fn close(&mut self, now: Monotonic) {
        self.send(now, true);
    }
}
