//! The beginning of a capture that looks back: what the ring of recent packets holds of the time
//! before the request, without what the capture records itself.
//!
//! Each packet of the ring has a number. Below `seam.before` none is the capture's own, whatever
//! filters it names: their numbers were others' then. From there on a packet that names the
//! capture's filters comes to it alive, and is left out here. From `seam.after` on all that match
//! do.

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use phalanx_engine::HopId;

use super::job::{Job, Sheet, Taken};
use super::view::EndReason;
use crate::daemon::Record;
use crate::lookback::{Lookback, Seam, packets};
use crate::pcapng::WriteError;

/// Records that wait in memory while the past is written, for the queue is short: at 320 bytes and
/// its header each, 32 MiB. Beyond, the queue fills, and what it drops is counted.
const HELD_COUNT_MAX: usize = 65_536;

/// Where a capture looks back to.
#[derive(Debug)]
pub(super) struct Past {
    pub(super) lookback: Arc<Lookback>,
    pub(super) seam: Seam,
    /// The time asked for.
    pub(super) since_ns: u64,
    /// Number of the first packet that may be of that time.
    pub(super) from: u64,
}

/// What came alive while the past was written.
#[derive(Debug, Default)]
pub(super) struct Held {
    batches: Vec<Arc<Vec<Record>>>,
    count: usize,
}

impl Held {
    /// All of it, in order.
    pub(super) fn take(self) -> impl Iterator<Item = Arc<Vec<Record>>> {
        self.batches.into_iter()
    }
}

impl Job {
    /// Writes what the ring holds; tells where that reaches a limit.
    pub(super) fn look_back<W: Write>(
        &self,
        sheet: &mut Sheet<W>,
        past: &Past,
        held: &mut Held,
    ) -> Result<Option<EndReason>, WriteError> {
        let hops: BTreeSet<HopId> = sheet.ports.keys().copied().collect();
        let mut next = past.from;
        let mut bytes = Vec::new();
        while let Some(chunk) = past.lookback.read(next, past.since_ns, &hops, &mut bytes) {
            let gone = &self.progress.past_gone;
            gone.fetch_add(chunk.gone, Ordering::Relaxed);
            if chunk.first >= past.seam.after {
                break;
            }
            for (number, packet) in packets(&bytes, chunk.first) {
                let is_own = number >= past.seam.before && packet.matched & self.mask != 0;
                let is_due = number >= next && number < past.seam.after;
                if !is_due || is_own || packet.time_ns < past.since_ns {
                    continue;
                }
                match self.take(sheet, &packet)? {
                    Taken::Yes => self.count_past(packet.hop),
                    Taken::LeftOut | Taken::No => {}
                    Taken::End(reason) => return Ok(Some(reason)),
                }
            }
            next = chunk.end;
            self.hold(held);
        }
        self.flush(sheet)?;
        Ok(None)
    }

    fn count_past(&self, hop: HopId) {
        let past = &self.progress.past;
        let mut past = past.lock().unwrap_or_else(PoisonError::into_inner);
        *past.entry(hop).or_default() += 1;
    }

    /// Takes over what waits in the queue.
    fn hold(&self, held: &mut Held) {
        while held.count < HELD_COUNT_MAX
            && let Ok(batch) = self.records.try_recv()
        {
            held.count += batch.len();
            held.batches.push(batch);
        }
    }
}
