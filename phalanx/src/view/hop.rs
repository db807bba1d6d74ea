//! Hops as they are shown.

use std::collections::BTreeMap;
use std::sync::Arc;

use phalanx_engine::{Hop, HopId};

/// One hop.
#[derive(Clone, Debug)]
pub struct HopEntry {
    /// What the shell told of it.
    pub facts: Arc<Hop>,
}

/// The hops that are watched; bounded by the engine.
#[derive(Debug, Default)]
pub struct Hops(BTreeMap<HopId, HopEntry>);

impl Hops {
    pub(super) fn appear(&mut self, hop: &Arc<Hop>) {
        self.0.insert(
            hop.id,
            HopEntry {
                facts: Arc::clone(hop),
            },
        );
    }

    pub(super) fn vanish(&mut self, hop: HopId) {
        self.0.remove(&hop);
    }

    /// A hop.
    #[must_use]
    pub fn get(&self, hop: HopId) -> Option<&HopEntry> {
        self.0.get(&hop)
    }

    /// All hops, by number.
    pub fn iter(&self) -> impl Iterator<Item = (HopId, &HopEntry)> {
        self.0.iter().map(|(id, entry)| (*id, entry))
    }
}
