//! [`Roster`]: what each agent is to the engine: its hops under numbers that no other agent has,
//! its namespaces, its clock. A value: the same batches at the same times give the same inputs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use phalanx_common::abi::{Attempt, COUNTER_COUNT, FlowKey, FlowUpdate};
use phalanx_engine::{ClockId, Hop, HopId, Input, Monotonic, NamespaceId};
use zerocopy::FromBytes;

use super::position::Position;
use super::registry::Registered;
use super::shift::Shift;
use crate::clock::ClockEvent;
use crate::daemon::{Core, Feed, FeedClosed, KernelStatus};
use crate::link::protocol::item::Kind;
use crate::link::protocol::{self, Contents, clock_event};
use crate::link::{link_of, name_of, status_of};
use crate::lookback::LookbackStatus;
use crate::translation::LookupCounts;

/// Namespaces that are told apart; further ones of all agents count as one.
const NAMESPACE_COUNT_MAX: usize = 65_536;
/// Hops of one agent; what is of further ones is counted as unknown.
const AGENT_HOP_COUNT_MAX: usize = phalanx_engine::limits::HOP_COUNT_MAX / 4;

/// A batch that is in the store.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) at: Monotonic,
    pub(crate) agent: Arc<Registered>,
    /// How far the agent has come with it.
    pub(crate) position: Position,
    pub(crate) is_new_run: bool,
    pub(crate) boot: u128,
    pub(crate) contents: Contents,
}

/// How an agent does, for those who show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AgentState {
    /// A session is under way.
    Connected,
    /// None is.
    Away,
}

/// How an agent does, for those who show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentStatus {
    /// Its id.
    pub agent: String,
    /// What it is called: its host, or where another agent has that name, with a number.
    pub name: String,
    /// The host that it was enrolled for.
    pub host: String,
    /// Whether another agent was enrolled for a host of this name.
    pub has_namesake: bool,
    /// Whether it is connected.
    pub state: AgentState,
    /// Where it came from the last time.
    pub peer: Option<String>,
    /// Its version.
    pub version: Option<String>,
    /// Boot id of its host: agents with the same one share a clock.
    pub boot: Option<u128>,
    /// When a batch of it was taken in the last time.
    pub heard: Option<Monotonic>,
    /// Its wall clock less the hub's when that batch came, and the time it took to come; in
    /// nanoseconds.
    pub clock_offset_ns: i64,
    /// Hops that it watches.
    pub hop_count: usize,
    /// The last batch of its run.
    pub sequence: u64,
    /// Items of that run.
    pub items: u64,
    /// Gaps in what it told, all runs.
    pub gaps: u64,
    /// Batches that are missing in them, where that is known.
    pub lost_batches: u64,
    /// Items that are missing in them, where that is known.
    pub lost_items: u64,
    /// Batches that were refused, because they were malformed or out of order.
    pub refused: u64,
}

impl AgentStatus {
    /// Of one that was let in and has told nothing.
    pub(crate) fn new(registered: &Registered) -> Self {
        Self {
            agent: registered.agent.clone(),
            name: registered.name.clone(),
            host: registered.host.clone(),
            has_namesake: false,
            state: AgentState::Away,
            peer: None,
            version: None,
            boot: None,
            heard: None,
            clock_offset_ns: 0,
            hop_count: 0,
            sequence: 0,
            items: 0,
            gaps: 0,
            lost_batches: 0,
            lost_items: 0,
            refused: 0,
        }
    }
}

struct AgentHop {
    id: HopId,
    /// It has vanished; flows that were read at its end may still come.
    is_gone: bool,
}

struct Agent {
    registered: Arc<Registered>,
    name: Arc<str>,
    boot: u128,
    shift: Shift,
    hops: BTreeMap<u32, AgentHop>,
    position: Position,
    heard: Monotonic,
    clock_offset_ns: i64,
    kernel: Option<KernelStatus>,
}

/// What each agent is to the engine.
#[derive(Default)]
pub(crate) struct Roster {
    agents: BTreeMap<String, Agent>,
    hop_last: u32,
    namespaces: BTreeMap<(u128, u64), NamespaceId>,
    /// Items of hops that found no room.
    unplaced_count: u64,
}

impl Roster {
    /// Feeds the engine with a batch.
    pub(crate) fn feed(&mut self, core: &mut Core, taken: Taken) -> Result<(), FeedClosed> {
        let now = taken.at;
        let mut agent = match self.agents.remove(&taken.agent.agent) {
            Some(agent) => agent,
            None => Agent::new(Arc::clone(&taken.agent)),
        };
        if taken.is_new_run {
            for hop in std::mem::take(&mut agent.hops).into_values() {
                if !hop.is_gone {
                    core.handle(Input::HopVanished(hop.id), now)?;
                }
            }
            agent.kernel = None;
        }
        agent.boot = taken.boot;
        agent.position = taken.position;
        agent.heard = now;
        let Contents {
            now_ns,
            wall_ns,
            hops,
            items,
        } = taken.contents;
        agent.clock_offset_ns = wall_ns.wrapping_sub(now.0).cast_signed();
        agent.shift = Shift::new(now_ns, wall_ns);
        let named: BTreeMap<u32, protocol::Hop> =
            hops.into_iter().map(|hop| (hop.id, hop)).collect();
        let mut result = Ok(());
        for item in items {
            result = self.feed_item(core, &mut agent, &named, item, now);
            if result.is_err() {
                break;
            }
        }
        self.agents.insert(taken.agent.agent.clone(), agent);
        result
    }

    fn feed_item(
        &mut self,
        core: &mut Core,
        agent: &mut Agent,
        named: &BTreeMap<u32, protocol::Hop>,
        item: protocol::Item,
        now: Monotonic,
    ) -> Result<(), FeedClosed> {
        let Some(kind) = item.kind else {
            // Of a kind that a newer agent knows.
            return Ok(());
        };
        match kind {
            Kind::Name(message) => {
                let boot = agent.boot;
                let namespace = |inode| self.namespace(boot, inode);
                match name_of(&message, &agent.name, namespace) {
                    Some(fact) => core.handle(Input::Names(fact), now),
                    None => Ok(()),
                }
            }
            Kind::Status(status) => self.feed_status(core, agent, status, now),
            Kind::Clock(event) => match clock_event_of(&event, agent.shift) {
                Some(event) => core.tell(Feed::Clock(event)),
                None => Ok(()),
            },
            Kind::HopVanished(_) => match agent.hops.get_mut(&item.hop) {
                Some(hop) if !hop.is_gone => {
                    hop.is_gone = true;
                    core.handle(Input::HopVanished(hop.id), now)
                }
                _ => Ok(()),
            },
            kind => match self.place(core, agent, named.get(&item.hop), now)? {
                Some(hop) => feed_flow(core, hop, kind, agent.shift, now),
                None => {
                    self.unplaced_count += 1;
                    Ok(())
                }
            },
        }
    }

    /// The hub's number of an agent's hop, which appears where it is new.
    fn place(
        &mut self,
        core: &mut Core,
        agent: &mut Agent,
        named: Option<&protocol::Hop>,
        now: Monotonic,
    ) -> Result<Option<HopId>, FeedClosed> {
        let Some(named) = named else {
            return Ok(None);
        };
        if let Some(hop) = agent.hops.get(&named.id) {
            return Ok(Some(hop.id));
        }
        if agent.hops.len() >= AGENT_HOP_COUNT_MAX {
            return Ok(None);
        }
        // Four thousand million hops are not reached.
        self.hop_last = self.hop_last.wrapping_add(1);
        let id = HopId(self.hop_last);
        let hop = Hop {
            id,
            host: Arc::clone(&agent.name),
            namespace: self.namespace(agent.boot, named.namespace),
            namespace_name: match named.namespace_name.as_str() {
                "" => None,
                name => Some(Arc::from(name)),
            },
            interface: Arc::from(named.interface.as_str()),
            ifindex: named.ifindex,
            link: link_of(named),
            clock: ClockId(agent.boot),
        };
        let is_gone = false;
        agent.hops.insert(named.id, AgentHop { id, is_gone });
        core.handle(Input::HopAppeared(hop), now)?;
        Ok(Some(id))
    }

    /// The hub's number of a namespace: the same for agents on one host, since a namespace has one
    /// inode while the host runs.
    fn namespace(&mut self, boot: u128, inode: u64) -> NamespaceId {
        if let Some(known) = self.namespaces.get(&(boot, inode)) {
            return *known;
        }
        let number = self.namespaces.len() as u64 + 1;
        if self.namespaces.len() < NAMESPACE_COUNT_MAX {
            self.namespaces.insert((boot, inode), NamespaceId(number));
        }
        NamespaceId(number)
    }

    /// The status names all hops that are watched: one that it does not has vanished unheard.
    fn feed_status(
        &mut self,
        core: &mut Core,
        agent: &mut Agent,
        message: protocol::Status,
        now: Monotonic,
    ) -> Result<(), FeedClosed> {
        let mut status = status_of(message);
        let told: BTreeSet<u32> = status
            .hops
            .iter()
            .filter_map(|hop| Some(hop.hop?.0))
            .collect();
        for (number, hop) in &agent.hops {
            if !hop.is_gone && !told.contains(number) {
                core.handle(Input::HopVanished(hop.id), now)?;
            }
        }
        agent
            .hops
            .retain(|number, hop| !hop.is_gone && told.contains(number));
        let heard = agent.shift.instant(status.at.0).min(now);
        for hop in agent.hops.values() {
            let at = heard;
            core.handle(Input::HopHeard { hop: hop.id, at }, now)?;
        }
        status.at = now;
        for hop in &mut status.hops {
            hop.hop = hop
                .hop
                .and_then(|number| agent.hops.get(&number.0))
                .map(|known| known.id);
            hop.namespace = format!("{}/{}", agent.name, hop.namespace);
        }
        for instance in &mut status.instances {
            instance.namespace = format!("{}/{}", agent.name, instance.namespace);
        }
        agent.kernel = Some(status);
        Ok(())
    }

    /// The kernel sides of all agents as one.
    pub(crate) fn kernel(&self, core: &Core, now: Monotonic) -> KernelStatus {
        let mut all = KernelStatus::empty(now);
        all.tally = core.tally();
        all.tally.hop_unknown += self.unplaced_count;
        for status in self.agents.values().filter_map(|it| it.kernel.as_ref()) {
            all.add(status);
        }
        all
    }

    /// How the agents do that have told anything, by id.
    pub(crate) fn statuses(&self) -> BTreeMap<&str, AgentStatus> {
        let status = |agent: &Agent| AgentStatus {
            boot: Some(agent.boot),
            heard: Some(agent.heard),
            clock_offset_ns: agent.clock_offset_ns,
            hop_count: agent.hops.values().filter(|hop| !hop.is_gone).count(),
            sequence: agent.position.sequence,
            items: agent.position.items,
            gaps: agent.position.gaps,
            lost_batches: agent.position.lost_batches,
            lost_items: agent.position.lost_items,
            ..AgentStatus::new(&agent.registered)
        };
        let all = self.agents.iter();
        all.map(|(id, agent)| (id.as_str(), status(agent)))
            .collect()
    }
}

impl Agent {
    fn new(registered: Arc<Registered>) -> Self {
        Self {
            name: Arc::from(registered.name.as_str()),
            registered,
            boot: 0,
            shift: Shift::default(),
            hops: BTreeMap::new(),
            position: Position::default(),
            heard: Monotonic::default(),
            clock_offset_ns: 0,
            kernel: None,
        }
    }
}

/// Feeds what is of a hop. Lengths were checked when the batch came.
fn feed_flow(
    core: &mut Core,
    hop: HopId,
    kind: Kind,
    shift: Shift,
    now: Monotonic,
) -> Result<(), FeedClosed> {
    match kind {
        Kind::Update(bytes) => {
            let Ok(mut update) = FlowUpdate::read_from_bytes(&bytes) else {
                return Ok(());
            };
            shift.update(&mut update);
            let update = &update;
            core.handle(Input::Update { hop, update }, now)
        }
        Kind::FlowRead(bytes) => {
            let Ok(mut update) = FlowUpdate::read_from_bytes(&bytes) else {
                return Ok(());
            };
            shift.update(&mut update);
            let update = &update;
            core.handle(Input::FlowRead { hop, update }, now)
        }
        Kind::FlowGone(gone) => {
            let Ok(key) = FlowKey::read_from_bytes(&gone.key) else {
                return Ok(());
            };
            let incarnation = gone.incarnation;
            let gone = Input::FlowGone {
                hop,
                key,
                incarnation,
            };
            core.handle(gone, now)
        }
        Kind::Attempt(bytes) => {
            let Ok(mut attempt) = Attempt::read_from_bytes(&bytes) else {
                return Ok(());
            };
            shift.attempt(&mut attempt);
            let attempt = &attempt;
            core.handle(Input::Attempt { hop, attempt }, now)
        }
        Kind::HopAppeared(_)
        | Kind::HopVanished(_)
        | Kind::Name(_)
        | Kind::Status(_)
        | Kind::Clock(_) => Ok(()),
    }
}

fn clock_event_of(event: &protocol::ClockEvent, shift: Shift) -> Option<ClockEvent> {
    let at = shift.instant(event.at_ns);
    Some(match event.kind? {
        clock_event::Kind::SteppedNs(by_ns) => ClockEvent::Stepped { at, by_ns },
        clock_event::Kind::SuspendedNs(for_ns) => ClockEvent::Suspended { at, for_ns },
    })
}

impl KernelStatus {
    /// Of nothing.
    fn empty(at: Monotonic) -> Self {
        Self {
            at,
            counters: [0; COUNTER_COUNT],
            instances: Vec::new(),
            tally: phalanx_engine::Tally::default(),
            map_memory_bytes: 0,
            hops: Vec::new(),
            events_read: 0,
            events_unknown: 0,
            events_unplaced: 0,
            records_read: 0,
            promoted_packets: 0,
            promoted_evicted: 0,
            records_dropped_queue_full: 0,
            event_lag_ns: 0,
            cpu_ns: crate::daemon::cpu_ns(),
            resident_bytes: crate::daemon::resident_bytes(),
            lookback: LookbackStatus::off(),
            translations: LookupCounts::default(),
        }
    }

    /// Adds the kernel side of an agent. A hostile one may tell any number.
    fn add(&mut self, other: &Self) {
        for (sum, counter) in self.counters.iter_mut().zip(other.counters) {
            *sum = sum.wrapping_add(counter);
        }
        self.instances.extend(other.instances.iter().cloned());
        self.hops.extend(other.hops.iter().cloned());
        for (sum, count) in [
            (&mut self.map_memory_bytes, other.map_memory_bytes),
            (&mut self.events_read, other.events_read),
            (&mut self.events_unknown, other.events_unknown),
            (&mut self.events_unplaced, other.events_unplaced),
            (&mut self.records_read, other.records_read),
            (&mut self.promoted_packets, other.promoted_packets),
            (&mut self.promoted_evicted, other.promoted_evicted),
            (
                &mut self.records_dropped_queue_full,
                other.records_dropped_queue_full,
            ),
        ] {
            *sum = sum.wrapping_add(count);
        }
        self.event_lag_ns = self.event_lag_ns.max(other.event_lag_ns);
    }
}
