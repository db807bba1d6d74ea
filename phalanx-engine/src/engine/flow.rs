//! The life of flows: opened, grown, asked for after silence, closed.

use phalanx_common::abi::{FlowKey, FlowUpdate, update_reason};

use super::{Engine, Expiry, Sweep};
use crate::change::{ChangeKind, CloseReason, FlowClosed, FlowOpened, FlowUpdated, IcmpError};
use crate::flow::{Flow, FlowId, FlowState};
use crate::hop::HopId;
use crate::input::Command;
use crate::limits::{
    DEADLINE_BATCH, EVICTION_TRIES, READ_TIMEOUT_NS, SWEEP_SLOT_COUNT, TOLD_SLACK_NS,
};
use crate::role;
use crate::side::Endpoint;
use crate::table::Slot;
use crate::time::Monotonic;
use crate::timer::Timer;

impl Engine {
    pub(super) fn update(&mut self, hop: HopId, update: &FlowUpdate) {
        let Some(watched) = self.hops.get(&hop) else {
            self.outbox.tally.hop_unknown += 1;
            return;
        };
        let flow_first = watched.flow_first;
        let slot = match self.find_current(hop, flow_first, update) {
            Current::Flow(slot) => slot,
            Current::Older => {
                self.outbox.tally.updates_after_close += 1;
                return;
            }
            Current::Missing => match self.open_flow(hop, update) {
                Some(slot) => slot,
                None => return,
            },
        };
        if self
            .flows
            .get(slot)
            .is_none_or(|flow| update.version <= flow.version)
        {
            self.outbox.tally.updates_stale += 1;
            return;
        }
        self.grow_flow(slot, update);
        if update.reason & update_reason::REUSED != 0 {
            self.close_flow(slot, CloseReason::Reused);
        }
    }

    /// The flow that an update is of; closes one that it shows to have ended.
    fn find_current(&mut self, hop: HopId, flow_first: FlowId, update: &FlowUpdate) -> Current {
        let key = (hop, update.key);
        let Some((slot, flow)) = self
            .flows
            .find(&key)
            .and_then(|s| Some((s, self.flows.get(s)?)))
        else {
            let is_closed = self.closed.holds(&key, update.incarnation);
            return if is_closed {
                Current::Older
            } else {
                Current::Missing
            };
        };
        if flow.id < flow_first {
            self.close_flow(slot, CloseReason::HopVanished);
            return Current::Missing;
        }
        if flow.incarnation == update.incarnation {
            return Current::Flow(slot);
        }
        if Monotonic(update.opened_ns) < flow.opened || self.closed.holds(&key, update.incarnation)
        {
            return Current::Older;
        }
        self.close_flow(slot, CloseReason::Reused);
        Current::Missing
    }

    fn open_flow(&mut self, hop: HopId, update: &FlowUpdate) -> Option<Slot> {
        if self.flows.is_full() {
            self.evict_flow();
        }
        let namespace = self.hops.get(&hop)?.hop.namespace;
        let protocol = update.key.protocol;
        let role = role::decide(update, |end| {
            self.names
                .is_listener(protocol, Endpoint::of(&update.key, end), namespace)
        });
        let flow = Flow::new(FlowId(self.flow_next), hop, update, role, self.outbox.now);
        let slot = self.flows.insert(flow)?;
        self.flow_next += 1;
        if let Some(flow) = self.flows.get_mut(slot) {
            flow.deadline = flow.silent_at(self.config.tcp_idle_timeout_ns);
            flow.timer = flow.deadline;
            self.timers.set(flow.timer, Timer::Flow(slot));
        }
        let conversation = self.join_conversation(slot, namespace)?;
        let flow = self.flows.get_mut(slot)?;
        let opened = FlowOpened {
            flow: flow.id,
            hop,
            conversation,
            key: flow.key,
            incarnation: flow.incarnation,
            endpoints: flow.endpoints(),
            role_basis: flow.role_basis,
            opened: flow.opened,
        };
        self.outbox.change(ChangeKind::FlowOpened(Box::new(opened)));
        Some(slot)
    }

    fn grow_flow(&mut self, slot: Slot, update: &FlowUpdate) {
        let Some(flow) = self.flows.get_mut(slot) else {
            return;
        };
        let growth = flow.grow(update, self.outbox.now, &mut self.outbox.tally);
        if !flow.is_read {
            flow.deadline = flow.silent_at(self.config.tcp_idle_timeout_ns);
        }
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
            measures: growth.measures.clone(),
            reason: update.reason,
            icmp_error: (update.reason & update_reason::ICMP_ERROR != 0)
                .then(|| IcmpError::new(update.icmp_error)),
            lost_updates: growth.lost_updates,
        };
        self.outbox
            .change(ChangeKind::FlowUpdated(Box::new(updated)));
        self.grow_conversation(slot, &growth);
    }

    pub(super) fn flow_due(&mut self, slot: Slot) {
        let Some(flow) = self.flows.get_mut(slot) else {
            return;
        };
        if flow.deadline > self.outbox.now {
            flow.timer = flow.deadline;
            self.timers.set(flow.timer, Timer::Flow(slot));
            return;
        }
        if self.config.expiry == Expiry::Told {
            return self.told_flow_due(slot);
        }
        if flow.is_read {
            self.outbox.tally.reads_unanswered += 1;
            self.close_flow(slot, CloseReason::Idle);
            return;
        }
        flow.is_read = true;
        flow.deadline = self.outbox.now.plus_ns(READ_TIMEOUT_NS);
        flow.timer = flow.deadline;
        self.timers.set(flow.timer, Timer::Flow(slot));
        let (hop, key, incarnation) = (flow.hop, flow.key, flow.incarnation);
        self.outbox.command(Command::ReadAndDelete {
            hop,
            key,
            incarnation,
        });
    }

    /// A flow is silent that another engine looks after: it is left alone until it is sure that
    /// what that one said of it was lost.
    fn told_flow_due(&mut self, slot: Slot) {
        let Some(flow) = self.flows.get_mut(slot) else {
            return;
        };
        // No hop: it has vanished, and the sweep comes.
        let heard = self.hops.get(&flow.hop).map(|watched| watched.heard);
        let lost_at = flow
            .silent_at(self.config.tcp_idle_timeout_ns)
            .plus_ns(TOLD_SLACK_NS);
        if heard.is_some_and(|heard| heard > lost_at) {
            self.outbox.tally.reads_unanswered += 1;
            self.close_flow(slot, CloseReason::Idle);
            return;
        }
        flow.deadline = self.outbox.now.plus_ns(TOLD_SLACK_NS);
        flow.timer = flow.deadline;
        self.timers.set(flow.timer, Timer::Flow(slot));
    }

    pub(super) fn flow_read(&mut self, hop: HopId, update: &FlowUpdate) {
        match self.find_incarnation(hop, &update.key, update.incarnation) {
            Some(slot) => {
                self.grow_flow(slot, update);
                self.close_flow(slot, CloseReason::Idle);
            }
            None => self.outbox.tally.reads_unexpected += 1,
        }
    }

    pub(super) fn flow_gone(&mut self, hop: HopId, key: FlowKey, incarnation: u32) {
        match self.find_incarnation(hop, &key, incarnation) {
            Some(slot) => self.close_flow(slot, CloseReason::Idle),
            None => self.outbox.tally.reads_unexpected += 1,
        }
    }

    fn find_incarnation(&self, hop: HopId, key: &FlowKey, incarnation: u32) -> Option<Slot> {
        let slot = self.flows.find(&(hop, *key))?;
        self.flows
            .get(slot)
            .filter(|flow| flow.incarnation == incarnation)
            .map(|_| slot)
    }

    /// Makes room: the flow that would be asked for next goes, and the kernel's entry with it.
    fn evict_flow(&mut self) {
        // Timers are moved late: those of flows that were heard of since are moved now.
        for _ in 0..EVICTION_TRIES {
            match self
                .timers
                .first_flow()
                .map(|slot| (slot, self.flows.get_mut(slot)))
            {
                Some((slot, Some(flow))) if flow.timer < flow.deadline => {
                    self.timers.clear(flow.timer, Timer::Flow(slot));
                    flow.timer = flow.deadline;
                    self.timers.set(flow.timer, Timer::Flow(slot));
                }
                _ => break,
            }
        }
        let Some(slot) = self.timers.first_flow() else {
            return;
        };
        let Some(flow) = self.flows.get(slot) else {
            return;
        };
        let (hop, key, incarnation) = (flow.hop, flow.key, flow.incarnation);
        self.outbox.tally.flows_evicted += 1;
        self.outbox.command(Command::ReadAndDelete {
            hop,
            key,
            incarnation,
        });
        self.close_flow(slot, CloseReason::Evicted);
    }

    /// Ends a flow: for `reason`, unless it had its FIN or RST before.
    fn close_flow(&mut self, slot: Slot, reason: CloseReason) {
        let Some(flow) = self.flows.remove(slot) else {
            return;
        };
        self.timers.clear(flow.timer, Timer::Flow(slot));
        self.closed.add((flow.hop, flow.key), flow.incarnation);
        let (reason, ended) = match flow.state {
            FlowState::Open => (reason, flow.last),
            FlowState::Ended(reason, ended) => (reason, ended),
        };
        let (id, hop, opened) = (flow.id, flow.hop, flow.opened);
        let closed = FlowClosed {
            flow: id,
            hop,
            reason,
            opened,
            ended,
        };
        self.outbox.change(ChangeKind::FlowClosed(closed));
        self.leave_conversation(slot, &flow, (reason, ended));
    }

    /// Closes flows of hops that have vanished, a bounded part of them.
    pub(super) fn sweep(&mut self) {
        let Some(mut sweep) = self.sweeps.pop_front() else {
            return;
        };
        self.sweep_traces(&mut sweep);
        if sweep.has_traces {
            self.sweeps.push_front(sweep);
            return;
        }
        let end = self
            .flows
            .slot_end()
            .min(sweep.slot.saturating_add(SWEEP_SLOT_COUNT));
        let mut closed = 0;
        for slot in sweep.slot..end {
            if closed == DEADLINE_BATCH {
                self.sweeps.push_front(Sweep { slot, ..sweep });
                return;
            }
            let Some(flow) = self
                .flows
                .get(slot)
                .filter(|flow| flow.hop == sweep.hop && flow.id < sweep.flow_end)
            else {
                continue;
            };
            // The kernel's table does not know of interfaces that have gone.
            let (hop, key, incarnation) = (flow.hop, flow.key, flow.incarnation);
            self.outbox.command(Command::Delete {
                hop,
                key,
                incarnation,
            });
            self.close_flow(slot, CloseReason::HopVanished);
            closed += 1;
        }
        if end < self.flows.slot_end() {
            self.sweeps.push_front(Sweep { slot: end, ..sweep });
        }
    }
}

enum Current {
    Flow(Slot),
    Missing,
    /// The update is of a flow that was closed here.
    Older,
}

#[cfg(test)]
mod tests {
    use crate::change::ChangeKind;
    use crate::fixture::{hop, update};
    use crate::limits::{TCP_IDLE_TIMEOUT_NS, TOLD_SLACK_NS};
    use crate::{Engine, EngineConfig, Expiry, HopId, Input, Monotonic};

    const HOP: HopId = HopId(1);
    const S: u64 = 1_000_000_000;

    fn told_engine() -> Engine {
        let mut engine = Engine::new(EngineConfig {
            expiry: Expiry::Told,
            ..EngineConfig::default()
        });
        for id in [1, 2] {
            engine.handle(Input::HopAppeared(hop(id, "eth0")), Monotonic(S));
        }
        let update = &update(1);
        engine.handle(Input::Update { hop: HOP, update }, Monotonic(S));
        engine
    }

    /// Lets it do all that is due until `to`, as a hub does.
    fn advance(engine: &mut Engine, to: u64) {
        while let Some(due) = engine.deadline().filter(|due| due.0 <= to) {
            engine.handle_deadline(due);
        }
    }

    #[test]
    fn a_flow_that_another_engine_looks_after_waits_for_what_that_one_read() {
        let mut engine = told_engine();
        // Its agent is away for long, then everything comes.
        advance(&mut engine, 100 * TCP_IDLE_TIMEOUT_NS);
        assert_eq!(engine.occupancy().flows, 1);
        assert_eq!(engine.commands().count(), 0);
        let late = Monotonic(100 * TCP_IDLE_TIMEOUT_NS);
        let update = &update(2);
        engine.handle(Input::Update { hop: HOP, update }, late);
        engine.handle(Input::FlowRead { hop: HOP, update }, late);
        assert_eq!(engine.occupancy().flows, 0);
        let tally = engine.tally();
        assert_eq!((tally.updates_after_close, tally.reads_unanswered), (0, 0));
    }

    #[test]
    fn a_flow_whose_end_was_lost_is_closed_once_that_is_sure() {
        let mut engine = told_engine();
        let lost_at = S + TCP_IDLE_TIMEOUT_NS + TOLD_SLACK_NS;
        let heard = |engine: &mut Engine, ns| {
            let at = Monotonic(ns);
            engine.handle(Input::HopHeard { hop: HOP, at }, at);
            advance(engine, ns + 2 * TOLD_SLACK_NS);
        };
        heard(&mut engine, lost_at);
        assert_eq!(engine.occupancy().flows, 1);
        heard(&mut engine, lost_at + 3 * TOLD_SLACK_NS);
        assert_eq!(engine.occupancy().flows, 0);
        assert_eq!(engine.tally().reads_unanswered, 1);
    }

    #[test]
    fn a_conversation_keeps_the_hops_whose_flow_has_ended() {
        let mut engine = told_engine();
        let update = &update(2);
        for hop in [HOP, HopId(2)] {
            engine.handle(Input::Update { hop, update }, Monotonic(2 * S));
        }
        for hop in [HOP, HopId(2)] {
            engine.handle(Input::FlowRead { hop, update }, Monotonic(3 * S));
        }
        let closed = engine.changes().find_map(|change| match change.kind {
            ChangeKind::ConversationClosed(closed) => Some(closed.path),
            _ => None,
        });
        assert_eq!(closed, Some(vec![HOP, HopId(2)]));
    }
}
