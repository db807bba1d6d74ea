//! The engine: a value that takes inputs and time, and gives changes and commands.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use phalanx_common::abi::{Direction, FlowKey, FlowUpdate, update_reason};

use crate::change::{Change, ChangeKind, CloseReason, FlowClosed, FlowOpened, FlowUpdated};
use crate::flow::{Flow, FlowId, FlowState};
use crate::hop::{Hop, HopId};
use crate::input::{Command, Input};
use crate::limits::{
    CHANGE_COUNT_MAX, COMMAND_COUNT_MAX, DEADLINE_BATCH, FLOW_COUNT_DEFAULT, HOP_COUNT_MAX,
    TCP_IDLE_TIMEOUT_NS,
};
use crate::side::RoleBasis;
use crate::table::{Slot, Table};
use crate::tally::Tally;
use crate::time::Monotonic;
use crate::timer::{Timer, Timers};

/// What an engine is told once.
#[derive(Clone, Copy, Debug)]
pub struct EngineConfig {
    /// Seed of the hashes: drawn at random by the shell, since flow keys are chosen by others.
    pub seed: u64,
    /// Flows kept at once; one more than the kernel's table holds is never needed.
    pub flow_count_max: usize,
    /// Silence after which an established TCP flow is closed, in nanoseconds.
    pub tcp_idle_timeout_ns: u64,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            seed: 0,
            flow_count_max: FLOW_COUNT_DEFAULT,
            tcp_idle_timeout_ns: TCP_IDLE_TIMEOUT_NS,
        }
    }
}

/// Flows join conversations, conversations make up service pairs; every step says what changed.
pub struct Engine {
    config: EngineConfig,
    hops: BTreeMap<HopId, Arc<Hop>>,
    flows: Table<Flow>,
    flow_next: u64,
    timers: Timers,
    changes: VecDeque<Change>,
    sequence: u64,
    commands: VecDeque<Command>,
    tally: Tally,
    now: Monotonic,
}

impl Engine {
    /// An engine that knows nothing yet.
    #[must_use]
    pub fn new(config: EngineConfig) -> Self {
        Self {
            config,
            hops: BTreeMap::new(),
            flows: Table::new(config.flow_count_max, config.seed),
            flow_next: 1,
            timers: Timers::default(),
            changes: VecDeque::new(),
            sequence: 0,
            commands: VecDeque::new(),
            tally: Tally::default(),
            now: Monotonic::default(),
        }
    }

    /// Takes an input in. `now` is the time of the decision; it never goes back, an earlier one
    /// counts as the latest so far.
    pub fn handle(&mut self, input: Input<'_>, now: Monotonic) {
        self.now = self.now.max(now);
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
            Input::Record { bytes, .. } => {
                self.tally.records += 1;
                self.tally.record_bytes += bytes.len() as u64;
            }
            Input::Attempt { .. } | Input::Names(_) => {}
        }
    }

    /// When [`Self::handle_deadline`] wants to run next; may be past, then it wants to run at once.
    #[must_use]
    pub fn deadline(&self) -> Option<Monotonic> {
        self.timers.next()
    }

    /// Does what has become due, a bounded part of it: ask [`Self::deadline`] again afterwards.
    pub fn handle_deadline(&mut self, now: Monotonic) {
        self.now = self.now.max(now);
        for _ in 0..DEADLINE_BATCH {
            let Some(timer) = self.timers.pop(self.now) else {
                return;
            };
            if let Timer::Flow(slot) = timer {
                self.flow_due(slot);
            }
        }
    }

    /// Drains the changes made so far, in order.
    pub fn changes(&mut self) -> impl Iterator<Item = Change> + '_ {
        self.changes.drain(..)
    }

    /// Drains what the engine asks the shell to do, in order.
    pub fn commands(&mut self) -> impl Iterator<Item = Command> + '_ {
        self.commands.drain(..)
    }

    /// What could not be used or kept so far.
    #[must_use]
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    fn change(&mut self, kind: ChangeKind) {
        if self.changes.len() >= CHANGE_COUNT_MAX {
            self.changes.pop_front();
            self.tally.changes_lost += 1;
        }
        self.sequence += 1;
        self.changes.push_back(Change {
            sequence: self.sequence,
            at: self.now,
            kind,
        });
    }

    fn command(&mut self, command: Command) {
        if self.commands.len() >= COMMAND_COUNT_MAX {
            self.commands.pop_front();
            self.tally.commands_lost += 1;
        }
        self.commands.push_back(command);
    }

    fn add_hop(&mut self, hop: Hop) {
        if self.hops.contains_key(&hop.id) {
            self.remove_hop(hop.id);
        } else if self.hops.len() >= HOP_COUNT_MAX {
            self.tally.hops_refused += 1;
            return;
        }
        let hop = Arc::new(hop);
        self.hops.insert(hop.id, Arc::clone(&hop));
        self.change(ChangeKind::HopAppeared(hop));
    }

    fn remove_hop(&mut self, hop: HopId) {
        if self.hops.remove(&hop).is_none() {
            self.tally.hop_unknown += 1;
            return;
        }
        self.change(ChangeKind::HopVanished(hop));
    }

    fn update(&mut self, hop: HopId, update: &FlowUpdate) {
        if !self.hops.contains_key(&hop) {
            self.tally.hop_unknown += 1;
            return;
        }
        let slot = match self.flows.find(&(hop, update.key)) {
            Some(slot) => {
                let Some(flow) = self.flows.get(slot) else {
                    return;
                };
                if flow.incarnation == update.incarnation {
                    Some(slot)
                } else if Monotonic(update.opened_ns) < flow.opened {
                    self.tally.updates_after_close += 1;
                    return;
                } else {
                    self.close_flow(slot, CloseReason::Reused);
                    None
                }
            }
            None => None,
        };
        let Some(slot) = slot.or_else(|| self.open_flow(hop, update)) else {
            return;
        };
        if self
            .flows
            .get(slot)
            .is_some_and(|flow| update.version <= flow.version)
        {
            self.tally.updates_stale += 1;
            return;
        }
        self.grow_flow(slot, update);
        if update.reason & update_reason::REUSED != 0 {
            self.close_flow(slot, CloseReason::Reused);
        }
    }

    fn open_flow(&mut self, hop: HopId, update: &FlowUpdate) -> Option<Slot> {
        let id = FlowId(self.flow_next);
        let client = if update.initiator == 2 {
            Direction::FromHigh
        } else {
            Direction::FromLow
        };
        let role_basis = if update.initiator == 0 {
            RoleBasis::Order
        } else {
            RoleBasis::Opener
        };
        let flow = Flow::new(id, hop, update, (client, role_basis));
        let opened = FlowOpened {
            flow: id,
            hop,
            conversation: flow.conversation,
            key: flow.key,
            incarnation: flow.incarnation,
            endpoints: flow.endpoints(),
            role_basis,
            opened: flow.opened,
        };
        let slot = self.flows.insert(flow)?;
        self.flow_next += 1;
        self.change(ChangeKind::FlowOpened(Box::new(opened)));
        Some(slot)
    }

    fn grow_flow(&mut self, slot: Slot, update: &FlowUpdate) {
        let Some(flow) = self.flows.get_mut(slot) else {
            return;
        };
        let growth = flow.grow(update, &mut self.tally);
        flow.deadline = flow.silent_at(self.config.tcp_idle_timeout_ns);
        if flow.deadline < flow.timer {
            self.timers.clear(flow.timer, Timer::Flow(slot));
            flow.timer = flow.deadline;
            self.timers.set(flow.timer, Timer::Flow(slot));
        }
        let updated = FlowUpdated {
            flow: flow.id,
            hop: flow.hop,
            observed: Monotonic(update.now_ns),
            totals: growth.totals,
            added: growth.added,
            measures: growth.measures,
            reason: update.reason,
            lost_updates: growth.lost_updates,
        };
        self.change(ChangeKind::FlowUpdated(Box::new(updated)));
    }

    fn flow_due(&mut self, slot: Slot) {
        let Some(flow) = self.flows.get_mut(slot) else {
            return;
        };
        if flow.deadline > self.now {
            flow.timer = flow.deadline;
            self.timers.set(flow.timer, Timer::Flow(slot));
            return;
        }
        if flow.is_read {
            self.tally.reads_unanswered += 1;
            self.close_flow(slot, CloseReason::Idle);
            return;
        }
        flow.is_read = true;
        flow.deadline = self.now.plus_ns(crate::limits::READ_TIMEOUT_NS);
        flow.timer = flow.deadline;
        self.timers.set(flow.timer, Timer::Flow(slot));
        let command = Command::ReadAndDelete {
            hop: flow.hop,
            key: flow.key,
            incarnation: flow.incarnation,
        };
        self.command(command);
    }

    fn flow_read(&mut self, hop: HopId, update: &FlowUpdate) {
        match self.find_incarnation(hop, &update.key, update.incarnation) {
            Some(slot) => {
                self.grow_flow(slot, update);
                self.close_flow(slot, CloseReason::Idle);
            }
            None => self.tally.reads_unexpected += 1,
        }
    }

    fn flow_gone(&mut self, hop: HopId, key: FlowKey, incarnation: u32) {
        match self.find_incarnation(hop, &key, incarnation) {
            Some(slot) => self.close_flow(slot, CloseReason::Idle),
            None => self.tally.reads_unexpected += 1,
        }
    }

    fn find_incarnation(&self, hop: HopId, key: &FlowKey, incarnation: u32) -> Option<Slot> {
        let slot = self.flows.find(&(hop, *key))?;
        self.flows
            .get(slot)
            .filter(|flow| flow.incarnation == incarnation)
            .map(|_| slot)
    }

    /// Ends a flow: for `reason`, unless it had its FIN or RST before.
    fn close_flow(&mut self, slot: Slot, reason: CloseReason) {
        let Some(flow) = self.flows.remove(slot) else {
            return;
        };
        self.timers.clear(flow.timer, Timer::Flow(slot));
        let (reason, ended) = match flow.state {
            FlowState::Open => (reason, flow.last),
            FlowState::Ended(reason, ended) => (reason, ended),
        };
        let closed = FlowClosed {
            flow: flow.id,
            hop: flow.hop,
            reason,
            opened: flow.opened,
            ended,
        };
        self.change(ChangeKind::FlowClosed(closed));
    }
}
