//! The flows that are open at each interface. Interfaces come and go by the hundred, so the series
//! of one goes when it has vanished and its last flow is closed.

use std::collections::HashMap;
use std::sync::Arc;

use phalanx_engine::{Hop, HopId};
use prometheus::IntGauge;

use super::family::Families;

/// The hops that are watched, and those that have vanished and have flows still; bounded by the
/// engine, which closes the flows of a hop that has vanished.
#[derive(Debug)]
pub(super) struct Hops {
    families: Arc<Families>,
    hops: HashMap<HopId, Watched>,
}

#[derive(Debug)]
struct Watched {
    hop: Arc<Hop>,
    /// Of the interface's name: an interface that came again has another hop and the same gauge.
    gauge: IntGauge,
    open_count: u64,
    is_gone: bool,
}

impl Hops {
    pub(super) fn new(families: Arc<Families>) -> Self {
        Self {
            families,
            hops: HashMap::new(),
        }
    }

    pub(super) fn appear(&mut self, hop: &Arc<Hop>) {
        let gauge = self.families.flows_open.with_label_values(&labels(hop));
        let watched = Watched {
            hop: Arc::clone(hop),
            gauge,
            open_count: 0,
            is_gone: false,
        };
        self.hops.insert(hop.id, watched);
    }

    pub(super) fn vanish(&mut self, hop: HopId) {
        if let Some(watched) = self.hops.get_mut(&hop) {
            watched.is_gone = true;
            self.forget_if_done(hop);
        }
    }

    pub(super) fn flow_opened(&mut self, hop: HopId) {
        if let Some(watched) = self.hops.get_mut(&hop) {
            watched.open_count += 1;
            watched.gauge.inc();
        }
    }

    pub(super) fn flow_closed(&mut self, hop: HopId) {
        if let Some(watched) = self.hops.get_mut(&hop) {
            watched.open_count = watched.open_count.saturating_sub(1);
            watched.gauge.dec();
            self.forget_if_done(hop);
        }
    }

    fn forget_if_done(&mut self, hop: HopId) {
        let is_done = |watched: &Watched| watched.is_gone && watched.open_count == 0;
        if !self.hops.get(&hop).is_some_and(is_done) {
            return;
        }
        let Some(gone) = self.hops.remove(&hop) else {
            return;
        };
        let gone = labels(&gone.hop);
        if self.hops.values().all(|other| labels(&other.hop) != gone) {
            // Fails only where the series is not there.
            drop(self.families.flows_open.remove_label_values(&gone));
        }
    }
}

/// The host, which at a hub is the name of the agent, the namespace and the interface.
fn labels(hop: &Hop) -> [&str; 3] {
    [
        &hop.host,
        hop.namespace_name.as_deref().unwrap_or("own"),
        &hop.interface,
    ]
}
