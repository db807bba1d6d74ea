//! The engine: a value that takes inputs and time, and gives changes and commands.

mod attempt;
mod conversation;
mod flow;
mod record;
mod translation;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use self::record::Traces;
use crate::attempt::PendingAttempt;
use crate::change::{Change, ChangeKind};
use crate::conversation::{Conversation, ConversationKey};
use crate::flow::{ClosedFlows, Flow, FlowId};
use crate::hop::{Hop, HopId};
use crate::input::{Command, Input};
use crate::limits::{
    ATTEMPT_COUNT_MAX, DEADLINE_BATCH, FLOW_COUNT_DEFAULT, HOP_COUNT_MAX, TCP_IDLE_TIMEOUT_NS,
};
use crate::name::{NameFact, Names};
use crate::outbox::Outbox;
use crate::pair::Pairs;
use crate::side::Sides;
use crate::table::{Slot, Table};
use crate::tally::Tally;
use crate::time::Monotonic;
use crate::timer::{Timer, Timers};

/// Who finds out that a flow is silent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Expiry {
    /// The engine, which asks for the kernel's entry: see [`Command::ReadAndDelete`].
    #[default]
    Asked,
    /// Another engine, near the kernel: the entries that it has asked for come as
    /// [`Input::FlowRead`] and [`Input::FlowGone`], late perhaps, and the commands of this engine
    /// are not obeyed. A flow of which [`Input::HopHeard`] shows that this was lost is closed.
    Told,
}

/// What an engine is told once.
#[derive(Clone, Copy, Debug)]
pub struct EngineConfig {
    /// Seed of the hashes: drawn at random by the shell, since flow keys are chosen by others.
    pub seed: u64,
    /// Flows kept at once; more than the kernel's tables hold are never needed.
    pub flow_count_max: usize,
    /// Silence after which an established TCP flow is closed, in nanoseconds.
    pub tcp_idle_timeout_ns: u64,
    /// Who finds out that a flow is silent.
    pub expiry: Expiry,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            seed: 0,
            flow_count_max: FLOW_COUNT_DEFAULT,
            tcp_idle_timeout_ns: TCP_IDLE_TIMEOUT_NS,
            expiry: Expiry::Asked,
        }
    }
}

/// How full the engine's tables are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Occupancy {
    /// Hops watched.
    pub hops: usize,
    /// Flows open.
    pub flows: usize,
    /// Conversations open.
    pub conversations: usize,
    /// Service pairs kept.
    pub pairs: usize,
    /// Attempts to connect that wait, or failed just now.
    pub attempts: usize,
    /// Socket owners known.
    pub owners: usize,
    /// Flows traced packet by packet.
    pub traces: usize,
}

struct WatchedHop {
    hop: Arc<Hop>,
    /// Flows with lower numbers belong to a hop that had this number before.
    flow_first: FlowId,
    /// All that was told of it before has come.
    heard: Monotonic,
}

/// A hop has vanished: its flows are closed slot by slot.
struct Sweep {
    hop: HopId,
    flow_end: FlowId,
    slot: Slot,
    /// Its traced flows have not all been ended yet.
    has_traces: bool,
}

/// Flows join conversations, conversations make up service pairs; every step says what changed.
///
/// ```
/// use phalanx_engine::{ChangeKind, Engine, EngineConfig, Hop, HopId, Input, Link, Monotonic};
///
/// let mut engine = Engine::new(EngineConfig::default());
/// let hop = Hop {
///     id: HopId(1), host: "web-1".into(), namespace: Default::default(), namespace_name: None,
///     interface: "eth0".into(), ifindex: 2, link: Link::Ethernet,
///     clock: Default::default(),
/// };
/// engine.handle(Input::HopAppeared(hop), Monotonic(1_000));
/// let change = engine.changes().next().expect("a hop that appears is a change");
/// assert!(matches!(change.kind, ChangeKind::HopAppeared(hop) if &*hop.interface == "eth0"));
/// assert_eq!((change.sequence, engine.deadline()), (1, None));
/// ```
pub struct Engine {
    config: EngineConfig,
    hops: BTreeMap<HopId, WatchedHop>,
    sweeps: VecDeque<Sweep>,
    flows: Table<Flow>,
    flow_next: u64,
    closed: ClosedFlows,
    conversations: Table<Conversation>,
    /// Those whose beginning was seen, by what follows the initial sequence numbers.
    begun: HashMap<Sides<u32>, Slot, FixedState>,
    /// Those that NAT has rewritten, by what they are called elsewhere.
    aliases: HashMap<ConversationKey, Slot, FixedState>,
    conversation_next: u64,
    pairs: Pairs,
    attempts: Table<PendingAttempt>,
    traces: Traces,
    names: Names,
    timers: Timers,
    outbox: Outbox,
}

impl Engine {
    /// An engine that knows nothing yet.
    #[must_use]
    pub fn new(config: EngineConfig) -> Self {
        Self {
            config,
            hops: BTreeMap::new(),
            sweeps: VecDeque::new(),
            flows: Table::new(config.flow_count_max.max(1), config.seed),
            flow_next: 1,
            closed: ClosedFlows::new(config.seed),
            // Each open conversation holds an open flow.
            conversations: Table::new(config.flow_count_max.max(1), config.seed),
            begun: HashMap::with_hasher(FixedState::with_seed(config.seed)),
            aliases: HashMap::with_hasher(FixedState::with_seed(config.seed)),
            conversation_next: 1,
            pairs: Pairs::default(),
            attempts: Table::new(ATTEMPT_COUNT_MAX, config.seed),
            traces: Traces::new(config.seed),
            names: Names::default(),
            timers: Timers::default(),
            outbox: Outbox::default(),
        }
    }

    /// Takes an input in. `now` is the time of the decision; it never goes back, an earlier one
    /// counts as the latest so far.
    pub fn handle(&mut self, input: Input<'_>, now: Monotonic) {
        self.outbox.now = self.outbox.now.max(now);
        match input {
            Input::HopAppeared(hop) => self.add_hop(hop),
            Input::HopVanished(hop) => self.remove_hop(hop),
            Input::Update { hop, update } => self.update(hop, update),
            Input::FlowRead { hop, update } => self.flow_read(hop, update),
            Input::FlowGone {
                hop,
                key,
                incarnation,
            } => self.flow_gone(hop, key, incarnation),
            Input::Attempt { hop, attempt } => self.attempt(hop, attempt),
            Input::Record { hop, header, bytes } => self.record(hop, header, bytes),
            Input::HopHeard { hop, at } => match self.hops.get_mut(&hop) {
                Some(watched) => watched.heard = watched.heard.max(at),
                None => self.outbox.tally.hop_unknown += 1,
            },
            Input::Names(NameFact::Translated {
                host,
                namespace,
                translation,
            }) => self.translate(&host, namespace, translation),
            Input::Names(fact) => self.names.learn(fact, &mut self.outbox.tally),
        }
    }

    /// When [`Self::handle_deadline`] wants to run next; may be past, then it wants to run at once.
    #[must_use]
    pub fn deadline(&self) -> Option<Monotonic> {
        if self.sweeps.is_empty() {
            self.timers.next()
        } else {
            Some(self.outbox.now)
        }
    }

    /// Does what has become due, a bounded part of it: ask [`Self::deadline`] again afterwards.
    pub fn handle_deadline(&mut self, now: Monotonic) {
        self.outbox.now = self.outbox.now.max(now);
        self.sweep();
        for _ in 0..DEADLINE_BATCH {
            match self.timers.pop(self.outbox.now) {
                Some(Timer::Flow(slot)) => self.flow_due(slot),
                Some(Timer::Attempt(slot)) => self.attempt_due(slot),
                Some(Timer::Pair(pair)) => {
                    self.pairs.measure(pair, &mut self.outbox, &mut self.timers);
                }
                // Stories are large: the caller takes those of one part before the next.
                Some(Timer::Traces) if !self.traces_due() => return,
                Some(Timer::Traces) => {}
                None => return,
            }
        }
    }

    /// Drains the changes made so far, in order.
    pub fn changes(&mut self) -> impl Iterator<Item = Change> + '_ {
        self.outbox.drain()
    }

    /// Drains what the engine asks the shell to do, in order.
    pub fn commands(&mut self) -> impl Iterator<Item = Command> + '_ {
        self.outbox.commands.drain(..)
    }

    /// What could not be used or kept so far.
    #[must_use]
    pub fn tally(&self) -> &Tally {
        &self.outbox.tally
    }

    /// How full the tables are.
    #[must_use]
    pub fn occupancy(&self) -> Occupancy {
        Occupancy {
            hops: self.hops.len(),
            flows: self.flows.count(),
            conversations: self.conversations.count(),
            pairs: self.pairs.count(),
            attempts: self.attempts.count(),
            owners: self.names.owner_count(),
            traces: self.traces.tracer.count(),
        }
    }

    #[cfg(test)]
    pub(crate) fn timer_count(&self) -> usize {
        self.timers.count()
    }

    #[cfg(test)]
    pub(crate) fn traced_record_count(&self) -> u64 {
        self.traces.tracer.tally().packets
    }

    fn add_hop(&mut self, hop: Hop) {
        if self.hops.contains_key(&hop.id) {
            self.remove_hop(hop.id);
        } else if self.hops.len() >= HOP_COUNT_MAX {
            self.outbox.tally.hops_refused += 1;
            return;
        }
        let hop = Arc::new(hop);
        let flow_first = FlowId(self.flow_next);
        self.hops.insert(
            hop.id,
            WatchedHop {
                hop: Arc::clone(&hop),
                flow_first,
                heard: Monotonic::default(),
            },
        );
        self.outbox.change(ChangeKind::HopAppeared(hop));
    }

    fn remove_hop(&mut self, hop: HopId) {
        if self.hops.remove(&hop).is_none() {
            self.outbox.tally.hop_unknown += 1;
            return;
        }
        self.outbox.change(ChangeKind::HopVanished(hop));
        // One sweep for each hop is enough: it closes all flows up to its end.
        self.sweeps.retain(|sweep| sweep.hop != hop);
        self.sweeps.push_back(Sweep {
            hop,
            flow_end: FlowId(self.flow_next),
            slot: 0,
            has_traces: true,
        });
    }
}
