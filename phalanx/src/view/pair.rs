//! Service pairs as they are shown.

use std::collections::BTreeMap;
use std::sync::Arc;

use phalanx_engine::change::{AttemptFailed, PairMeasured, PairUpdated};
use phalanx_engine::measure::Counts;
use phalanx_engine::{Monotonic, PairId, PairKey, PairSummary, Sides};

/// One service pair.
#[derive(Clone, Debug)]
pub struct PairEntry {
    /// Who talks to whom.
    pub key: Arc<PairKey>,
    /// What was sent, by sender, since the pair was first seen.
    pub totals: Sides<Counts>,
    /// Attempts to connect that failed.
    pub attempt_failed_count: u64,
    /// What the engine last told of it.
    pub summary: PairSummary,
    /// When it last changed.
    pub changed: Monotonic,
}

/// The service pairs; bounded by the engine, which tells of each that it forgets.
#[derive(Debug, Default)]
pub struct Pairs(BTreeMap<PairId, PairEntry>);

impl Pairs {
    pub(super) fn open(&mut self, pair: PairId, key: &Arc<PairKey>) {
        let entry = PairEntry {
            key: Arc::clone(key),
            totals: Sides::default(),
            attempt_failed_count: 0,
            summary: PairSummary::default(),
            changed: Monotonic::default(),
        };
        self.0.insert(pair, entry);
    }

    pub(super) fn update(&mut self, updated: &PairUpdated, at: Monotonic) {
        let Some(entry) = self.0.get_mut(&updated.pair) else {
            return;
        };
        entry.totals.client.add(&updated.added.client);
        entry.totals.server.add(&updated.added.server);
        entry.changed = at;
    }

    pub(super) fn measure(&mut self, measured: &PairMeasured, at: Monotonic) {
        let Some(entry) = self.0.get_mut(&measured.pair) else {
            return;
        };
        entry.summary = measured.summary.clone();
        entry.changed = at;
    }

    pub(super) fn fail(&mut self, failed: &AttemptFailed, at: Monotonic) {
        let Some(entry) = self.0.get_mut(&failed.pair) else {
            return;
        };
        entry.attempt_failed_count += 1;
        entry.changed = at;
    }

    pub(super) fn forget(&mut self, pair: PairId) {
        self.0.remove(&pair);
    }

    /// A pair.
    #[must_use]
    pub fn get(&self, pair: PairId) -> Option<&PairEntry> {
        self.0.get(&pair)
    }

    /// All pairs, by number.
    pub fn iter(&self) -> impl Iterator<Item = (PairId, &PairEntry)> {
        self.0.iter().map(|(id, entry)| (*id, entry))
    }
}
