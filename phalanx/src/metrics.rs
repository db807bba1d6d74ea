//! The Prometheus metrics: folded from the engine's changes and the daemon's status into families
//! of one registry, all of them defined in one table.
//!
//! A change costs a look-up of its pair and some additions: the children of a pair's families are
//! kept with the pair. Deliberately absent: global registries.

mod agent;
mod daemon;
mod document;
mod family;
mod hop;
mod label;
mod pair;
pub mod table;

use std::sync::{Arc, Mutex, PoisonError};

use phalanx_engine::{Change, ChangeKind};
use prometheus::{Registry, TextEncoder};

use crate::agent::UplinkStatus;
use crate::clock::ClockEvent;
use crate::daemon::{KernelStatus, Replay};
use crate::hub::AgentStatus;
use agent::AgentMetrics;
pub use daemon::DaemonMetrics;
pub(crate) use daemon::state_name;
pub use document::document;
use family::Families;
use hop::Hops;
use pair::Pairs;

/// All metrics. Reading (scraping) does not hold up folding for longer than one family takes.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    fold: Mutex<Fold>,
    daemon: DaemonMetrics,
    agents: AgentMetrics,
}

/// What folding remembers.
#[derive(Debug)]
struct Fold {
    pairs: Pairs,
    hops: Hops,
    /// What comes was before.
    is_replaying: bool,
}

impl Metrics {
    /// All metrics at zero.
    ///
    /// # Errors
    /// Two definitions of the table contradict each other: a fault of the table.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let families = Arc::new(Families::new(&registry)?);
        let daemon = DaemonMetrics::new(&registry)?;
        let agents = AgentMetrics::new(&registry)?;
        let pairs = Pairs::new(Arc::clone(&families));
        let hops = Hops::new(families);
        Ok(Self {
            registry,
            fold: Mutex::new(Fold {
                pairs,
                hops,
                is_replaying: false,
            }),
            daemon,
            agents,
        })
    }

    /// Folds changes in, in their order.
    pub fn fold(&self, changes: &[Change]) {
        let mut fold = self.fold.lock().unwrap_or_else(PoisonError::into_inner);
        for change in changes {
            fold.change(change);
        }
        self.daemon.changes.inc_by(changes.len() as u64);
    }

    /// Takes in that the changes which follow are of before, or no longer. Meanwhile nothing is
    /// told of service pairs; and where they are a part of the past only, counters begin at 0. Else
    /// it would look to Prometheus as if the past had been counted just now.
    pub(crate) fn replay(&self, replay: Replay) {
        let mut fold = self.fold.lock().unwrap_or_else(PoisonError::into_inner);
        fold.is_replaying = replay == Replay::Begun;
        if replay == (Replay::Ended { is_whole: false }) {
            fold.pairs.begin_anew();
        }
    }

    /// Takes in how the kernel side does.
    pub fn kernel(&self, status: &KernelStatus) {
        self.daemon.kernel(status);
    }

    /// Takes in how the agents of a hub do.
    pub fn agents(&self, agents: &[AgentStatus], log_bytes: u64) {
        self.agents.tell(agents, log_bytes);
    }

    /// Takes in how the uplink of an agent does.
    pub fn uplink(&self, uplink: &UplinkStatus) {
        self.agents.tell_uplink(uplink);
    }

    /// Counts a jump of the clocks.
    pub fn clock(&self, event: &ClockEvent) {
        self.daemon.clock(event);
    }

    /// The daemon's own metrics, for those who count in them.
    #[must_use]
    pub const fn daemon(&self) -> &DaemonMetrics {
        &self.daemon
    }

    /// The text that Prometheus scrapes.
    ///
    /// # Errors
    /// The registry holds what the format cannot say: a fault of the table.
    pub fn text(&self) -> Result<String, prometheus::Error> {
        self.daemon.read_process();
        let was_replaying = self.is_replaying();
        let mut families = self.registry.gather();
        if was_replaying || self.is_replaying() {
            families.retain(|family| !table::is_of_pairs(family.name()));
        }
        TextEncoder::new().encode_to_string(&families)
    }

    fn is_replaying(&self) -> bool {
        let fold = self.fold.lock().unwrap_or_else(PoisonError::into_inner);
        fold.is_replaying
    }
}

impl Fold {
    fn change(&mut self, change: &Change) {
        match &change.kind {
            ChangeKind::HopAppeared(hop) => self.hops.appear(hop),
            ChangeKind::HopVanished(hop) => self.hops.vanish(*hop),
            ChangeKind::FlowOpened(opened) => self.hops.flow_opened(opened.hop),
            ChangeKind::FlowClosed(closed) => self.hops.flow_closed(closed.hop),
            ChangeKind::PairOpened { pair, key } => self.pairs.open(*pair, key),
            ChangeKind::PairForgotten(pair) => self.pairs.forget(*pair),
            ChangeKind::PairUpdated(updated) => self.pairs.update(updated, change.at),
            ChangeKind::AttemptFailed(failed) => self.pairs.fail(failed, change.at),
            ChangeKind::ConversationOpened(opened) => {
                self.pairs.conversation_opened(opened, change.at);
            }
            ChangeKind::ConversationUpdated(updated) => {
                self.pairs
                    .conversation_moved(updated.conversation, updated.pair, change.at);
            }
            ChangeKind::ConversationClosed(closed) => {
                self.pairs.conversation_closed(closed, change.at);
            }
            ChangeKind::FlowUpdated(_)
            | ChangeKind::ConversationTranslated(_)
            | ChangeKind::PairMeasured(_)
            | ChangeKind::NameLearned { .. }
            | ChangeKind::FlowTraced(_) => {}
        }
    }
}

#[cfg(test)]
mod tests;
