//! What there is room for: captures at once, their filters in the kernel, their bytes on the disk.

use super::super::RUNNING_COUNT_MAX;
use super::super::age::Age;
use super::super::plan::free_numbers;
use super::super::request::Wanted;
use super::{Captures, Failure};
use crate::kernel::RecordingFilter;

impl Captures {
    /// Whether a capture may run, with what others may write; what is kept makes room for it. `own`
    /// is where it goes on, with the bytes of its file, which is not deleted for it.
    pub(super) fn check_limits(
        &self,
        wanted: &Wanted,
        own: Option<(&str, u64)>,
    ) -> Result<(), Failure> {
        let running: Vec<u64> = self
            .lock()
            .values()
            .filter(|capture| capture.running().is_some())
            .map(|capture| capture.view().request.max_bytes.unwrap_or_default())
            .collect();
        if running.len() >= RUNNING_COUNT_MAX {
            return Err(Failure::Limit(format!(
                "{RUNNING_COUNT_MAX} captures run, no more may at once"
            )));
        }
        let promised: u64 = running.iter().sum();
        let needed = promised.saturating_add(wanted.bytes_max);
        if needed > self.keeping.bytes_max {
            return Err(Failure::Limit(format!(
                "running captures may write {promised} bytes, with this one that is beyond {}",
                self.keeping.bytes_max
            )));
        }
        let (id, bytes) = own.unzip();
        self.make_room(needed, id);
        let bytes = bytes.unwrap_or_default();
        self.store
            .check_room(wanted.bytes_max.saturating_sub(bytes))
    }

    /// Free numbers for the recording filters of a capture.
    pub(super) fn number(
        &self,
        filters: Vec<RecordingFilter>,
    ) -> Result<Vec<(u8, RecordingFilter)>, Failure> {
        let numbers = free_numbers(self.used_numbers(), filters.len()).ok_or_else(|| {
            Failure::Limit(format!(
                "the filter needs {} of the kernel's recording filters, not as many are free",
                filters.len()
            ))
        })?;
        Ok(numbers.into_iter().zip(filters).collect())
    }

    /// Numbers of recording filters that captures have, as bits: also those of captures whose last
    /// records are still on their way.
    fn used_numbers(&self) -> u64 {
        let captures = self.lock();
        captures
            .values()
            .filter_map(|capture| capture.running().as_ref().map(|it| it.mask))
            .fold(self.daemon.lookback.mask(), |used, mask| used | mask)
    }

    /// Deletes kept captures that are too old, then the oldest beyond the bounds, so that `needed`
    /// more bytes fit; not that of `own`.
    pub(super) fn make_room(&self, needed: u64, own: Option<&str>) {
        let now = Age::now();
        let mut captures = self.lock();
        let ended = captures.values().filter(|it| it.running().is_none());
        let kept = ended.filter_map(|capture| {
            let view = capture.view();
            let ended = capture.ended.get().copied().unwrap_or(now);
            let is_own = own == Some(&view.id);
            (!is_own).then(|| (ended, view.id.clone(), view.bytes))
        });
        for id in self.store.clear(kept.collect(), &self.keeping, needed) {
            captures.remove(&id);
        }
    }
}
