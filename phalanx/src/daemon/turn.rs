//! The loop: one thread owns rings, tables and engine. A turn takes what waits in the rings (a
//! bounded part of it), lets the engine work, does what the engine asks for and hands on what it
//! decided.

mod record;

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use anyhow::Context;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use phalanx_common::abi::{COUNTER_COUNT, Counter, FlowKey, FlowUpdate, update_reason};
use phalanx_engine::{
    ClockId, Command, Hop, HopId, Input, Link as HopLink, Monotonic, NameFact, NamespaceId,
};
use tokio::sync::mpsc;

use super::core::FeedClosed;
use super::feed::{Record, Request};
use super::status::{HopState, HopStatus, InstanceStatus, KernelStatus, RingStatus};
use super::wake::Waker;
use super::watcher::{Ready, Report};
use crate::capture::PromotedPackets;
use crate::clock::{self, Clock, Reading};
use crate::interface::{Link, LinkLayer, Namespace};
use crate::kernel::{Event, KernelLog, Ring, Tables};
use crate::link::Told;
use crate::lookback::Lookback;
use crate::translation::Translations;
use record::Governing;

/// Events taken from one ring in one turn: some milliseconds of work.
const EVENT_BATCH: usize = 4_096;
/// Batches taken from the rings when an interface has gone: what fits into the ring of records, 8
/// MiB of at least 256 bytes each.
const DRAIN_BATCH_COUNT: usize = 32;
/// Flows looked at in one turn of a walk through the table, which begins after events were lost.
const WALK_BATCH: u32 = 1_024;
/// Name facts taken in one turn.
const NAME_BATCH: usize = 256;
/// Turns without an event after which the loop sleeps until something wakes it.
const IDLE_TURN_COUNT: u32 = 4;
/// How many packets an interface must count, with none seen by the programs, to be called blind.
const BLIND_PACKET_COUNT: u64 = 100;
const STATUS_INTERVAL_NS: u64 = 1_000_000_000;
/// Statuses, one a second, between the last lost event and the walk: longer than the silence that
/// the walk asks for.
const WALK_DELAY_TURN_COUNT: u32 = 3;
/// The maps are preallocated: what they take hardly changes.
const MAP_MEMORY_TURN_COUNT: u64 = 60;

/// What the loop is started with.
pub(super) struct TurnOptions {
    pub(super) link: Box<dyn super::link::Link>,
    pub(super) host: Arc<str>,
    /// The clock that the hops' times are from.
    pub(super) boot: ClockId,
    pub(super) ready: Vec<Ready>,
    pub(super) reports: Receiver<(usize, Report)>,
    pub(super) names: Receiver<NameFact>,
    pub(super) requests: mpsc::Receiver<Request>,
    pub(super) records: mpsc::Sender<Vec<Record>>,
    pub(super) promoted: Arc<PromotedPackets>,
    pub(super) lookback: Arc<Lookback>,
    pub(super) translations: Arc<Translations>,
    pub(super) signals: Signals,
    pub(super) clock: Clock,
}

/// How the loop and the other threads reach each other.
#[derive(Clone, Debug)]
pub(super) struct Signals {
    /// Wakes the loop.
    pub(super) waker: Waker,
    /// Ends it.
    pub(super) stops: Arc<AtomicBool>,
    /// Wakes the one who finds names: flows were opened.
    pub(super) names: Waker,
}

struct InstanceState {
    namespace: Namespace,
    inode: u64,
    tables: Tables,
    events: Ring,
    records: Ring,
    log: Option<KernelLog>,
    hops: BTreeMap<u32, HopEntry>,
    /// Hops that have gone in this turn: at its end the engine has closed all of their flows.
    departed: Vec<HopId>,
    deleted_count: u64,
    /// Events that had found the ring full when it was last looked at.
    events_dropped: u64,
    /// Statuses until the table is walked through; 0: it need not be.
    walk_due: u32,
}

struct HopEntry {
    id: Option<HopId>,
    status: HopStatus,
    /// What the interface had counted when the programs were attached.
    received_packets: u64,
}

/// The loop and all that it owns.
pub(super) struct Turn {
    link: Box<dyn super::link::Link>,
    instances: Vec<InstanceState>,
    hop_next: u32,
    host: Arc<str>,
    boot: ClockId,
    reports: Receiver<(usize, Report)>,
    names: Receiver<NameFact>,
    requests: mpsc::Receiver<Request>,
    records: mpsc::Sender<Vec<Record>>,
    promoted: Arc<PromotedPackets>,
    lookback: Arc<Lookback>,
    translations: Arc<Translations>,
    governing: Option<Governing>,
    /// Records that were lost up to the last status, and when that was.
    records_lost: (u64, Monotonic),
    signals: Signals,
    clock: Clock,
    status_next: Monotonic,
    status_count: u64,
    idle_turn_count: u32,
    tallies: Tallies,
}

#[derive(Clone, Copy, Debug, Default)]
struct Tallies {
    events_read: u64,
    events_unknown: u64,
    events_unplaced: u64,
    records_read: u64,
    records_dropped: u64,
    event_lag_ns: u64,
    map_memory_bytes: u64,
}

impl Turn {
    pub(super) fn new(options: TurnOptions) -> anyhow::Result<Self> {
        let mut turn = Self {
            link: options.link,
            instances: Vec::new(),
            hop_next: 1,
            host: options.host,
            boot: options.boot,
            reports: options.reports,
            names: options.names,
            requests: options.requests,
            records: options.records,
            promoted: options.promoted,
            governing: options.lookback.governor().map(Governing::new),
            lookback: options.lookback,
            translations: options.translations,
            records_lost: (0, clock::now()),
            signals: options.signals,
            clock: options.clock,
            status_next: Monotonic::default(),
            status_count: 0,
            idle_turn_count: 0,
            tallies: Tallies::default(),
        };
        for (number, ready) in options.ready.into_iter().enumerate() {
            turn.instances.push(InstanceState {
                namespace: ready.namespace,
                inode: ready.inode,
                tables: ready.tables,
                events: ready.events,
                records: ready.records,
                log: ready.log,
                hops: BTreeMap::new(),
                departed: Vec::new(),
                deleted_count: 0,
                events_dropped: 0,
                walk_due: 0,
            });
            for report in ready.reports {
                turn.take_report(number, report)?;
            }
        }
        turn.begin_lookback()?;
        Ok(turn)
    }

    /// Runs until it is stopped, or nobody takes what it finds.
    pub(super) fn run(mut self) -> anyhow::Result<()> {
        while !self.signals.stops.load(Ordering::Acquire) {
            self.turn_and_sleep()?;
        }
        self.settle(clock::now())?;
        let status = Box::new(self.status()?);
        let now = clock::now();
        // The receiver may have ended first: then nobody needs the last status.
        let _ = self.link.tell(Told::Status(status), now);
        self.link.close(now);
        Ok(())
    }

    /// One turn; how many events and records it took.
    fn turn(&mut self) -> anyhow::Result<usize> {
        while let Ok((number, report)) = self.reports.try_recv() {
            if matches!(report, Report::Detached { .. }) {
                self.drain(number)?;
            }
            self.take_report(number, report)?;
        }
        while let Ok(request) = self.requests.try_recv() {
            self.answer(request)?;
        }
        let mut taken = 0;
        for number in 0..self.instances.len() {
            taken += self.take_events(number)?;
            taken += self.take_records(number)?;
            taken += self.walk(number)?;
            if let Some(log) = &mut self.instances[number].log {
                log.tell();
            }
        }
        let now = clock::now();
        self.govern(now)?;
        for _ in 0..NAME_BATCH {
            let Ok(fact) = self.names.try_recv() else {
                break;
            };
            self.handle(Input::Names(fact), now)?;
        }
        while self.link.deadline().is_some_and(|deadline| deadline <= now) {
            self.settle(now)?;
        }
        self.settle(now)?;
        for instance in &mut self.instances {
            instance.departed.clear();
        }
        if now >= self.status_next {
            self.status_next = now.plus_ns(STATUS_INTERVAL_NS);
            self.tell_status()?;
        }
        Ok(taken)
    }

    /// Takes what is left in the rings: by an interface that has gone, or for filters that have.
    fn drain(&mut self, number: usize) -> anyhow::Result<()> {
        for _ in 0..DRAIN_BATCH_COUNT {
            if self.take_events(number)? + self.take_records(number)? == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Looks for flows that nobody has told of because the ring of events was full: they would stay
    /// in the table for ever. How many flows it looked at.
    fn walk(&mut self, number: usize) -> anyhow::Result<usize> {
        let instance = &mut self.instances[number];
        if !instance.tables.is_walking() {
            return Ok(0);
        }
        let now = clock::now();
        let updates = instance.tables.walk(WALK_BATCH, now)?;
        for update in &updates {
            let instance = &mut self.instances[number];
            match instance.find_hop(&update.key) {
                Some(hop) => self.handle(Input::Update { hop, update }, now)?,
                // Its interface has gone.
                None => drop(instance.delete(&update.key, update.incarnation, now)),
            }
        }
        Ok(WALK_BATCH as usize)
    }

    fn take_events(&mut self, number: usize) -> anyhow::Result<usize> {
        for taken in 0..EVENT_BATCH {
            let instance = &mut self.instances[number];
            let Some(event) = instance.events.next_event() else {
                return Ok(taken);
            };
            self.tallies.events_read += 1;
            let now = clock::now();
            match event {
                Event::Update(update) => {
                    self.tallies.event_lag_ns = now.0.saturating_sub(update.now_ns);
                    // The program has deleted the entry of the old connection.
                    let is_reused = update.reason & update_reason::REUSED != 0;
                    instance.deleted_count += u64::from(is_reused);
                    match instance.find_hop(&update.key) {
                        Some(hop) => self.handle(
                            Input::Update {
                                hop,
                                update: &update,
                            },
                            now,
                        )?,
                        None => self.miss(number),
                    }
                }
                Event::Attempt(attempt) => {
                    self.tallies.event_lag_ns = now.0.saturating_sub(attempt.now_ns);
                    match instance.find_hop(&attempt.key) {
                        Some(hop) => self.handle(
                            Input::Attempt {
                                hop,
                                attempt: &attempt,
                            },
                            now,
                        )?,
                        None => self.miss(number),
                    }
                }
                Event::Unknown => self.tallies.events_unknown += 1,
            }
        }
        Ok(EVENT_BATCH)
    }

    /// Notes an event of an interface that is not known yet, or no longer. What it told is looked
    /// for in the table.
    fn miss(&mut self, number: usize) {
        self.tallies.events_unplaced += 1;
        self.instances[number].walk_due = WALK_DELAY_TURN_COUNT;
    }

    fn handle(&mut self, input: Input<'_>, now: Monotonic) -> Result<(), FeedClosed> {
        self.link.tell(Told::Input(input), now)?;
        self.obey_all()
    }

    /// Lets those who take what is told work, and does what they ask for.
    fn settle(&mut self, now: Monotonic) -> Result<(), FeedClosed> {
        self.link.settle(now)?;
        self.obey_all()
    }

    fn obey_all(&mut self) -> Result<(), FeedClosed> {
        for command in self.link.commands() {
            self.obey(command)?;
        }
        Ok(())
    }

    fn obey(&mut self, command: Command) -> Result<(), FeedClosed> {
        let (Command::ReadAndDelete {
            hop,
            key,
            incarnation,
        }
        | Command::Delete {
            hop,
            key,
            incarnation,
        }) = command;
        let now = clock::now();
        let holds = |instance: &&mut InstanceState| instance.holds(hop);
        let instance = self.instances.iter_mut().find(holds);
        let update = instance.and_then(|instance| instance.delete(&key, incarnation, now));
        if matches!(command, Command::Delete { .. }) {
            return Ok(());
        }
        let answer = match &update {
            Some(update) => Input::FlowRead { hop, update },
            None => Input::FlowGone {
                hop,
                key,
                incarnation,
            },
        };
        self.link.tell(Told::Input(answer), now)
    }

    fn take_report(&mut self, number: usize, report: Report) -> Result<(), FeedClosed> {
        let now = clock::now();
        match report {
            Report::Attached {
                link,
                ingress,
                egress,
                reason,
            } => {
                let status = self.new_status(number, &link, ingress, egress, reason);
                self.add_hop(number, &link, status, now)?;
            }
            Report::Detached { ifindex } => {
                if let Some(entry) = self.instances[number].hops.remove(&ifindex)
                    && let Some(id) = entry.id
                {
                    self.instances[number].departed.push(id);
                    self.lookback.remove_hop(id);
                    self.handle(Input::HopVanished(id), now)?;
                }
            }
            Report::Failed { link, reason } => {
                let mut status = self.new_status(number, &link, "", "", String::new());
                status.state = HopState::Failed(reason);
                let entry = HopEntry {
                    id: None,
                    status,
                    received_packets: 0,
                };
                self.instances[number].hops.insert(link.index, entry);
            }
            Report::Counted {
                ifindex,
                received_packets,
            } => {
                if let Some(entry) = self.instances[number].hops.get_mut(&ifindex) {
                    entry.judge_sight(received_packets);
                }
            }
            Report::Ended { reason } => {
                let instance = &mut self.instances[number];
                let namespace = &instance.namespace;
                tracing::error!(%namespace, reason, "its interfaces are no longer followed");
                let mut gone = Vec::new();
                for entry in instance.hops.values_mut() {
                    entry.status.state = HopState::Failed(reason.clone());
                    gone.extend(entry.id.take());
                }
                instance.departed.extend(&gone);
                for id in gone {
                    self.lookback.remove_hop(id);
                    self.handle(Input::HopVanished(id), now)?;
                }
            }
        }
        Ok(())
    }

    fn add_hop(
        &mut self,
        number: usize,
        link: &Link,
        mut status: HopStatus,
        now: Monotonic,
    ) -> Result<(), FeedClosed> {
        let id = HopId(self.hop_next);
        self.hop_next = self.hop_next.wrapping_add(1);
        status.hop = Some(id);
        let instance = &mut self.instances[number];
        let namespace_name = match &instance.namespace {
            Namespace::Own => None,
            Namespace::Other(name) => Some(Arc::from(name.as_str())),
        };
        let hop = Hop {
            id,
            host: Arc::clone(&self.host),
            namespace: NamespaceId(instance.inode),
            namespace_name,
            interface: Arc::from(link.name.as_str()),
            ifindex: link.index,
            link: match link.layer {
                _ if link.is_loopback => HopLink::Loopback,
                LinkLayer::None => HopLink::Ip,
                LinkLayer::Ethernet | LinkLayer::Unknown(_) => HopLink::Ethernet,
            },
            clock: self.boot,
        };
        let entry = HopEntry {
            id: Some(id),
            status,
            received_packets: link.received_packets,
        };
        instance.hops.insert(link.index, entry);
        self.lookback.add_hop(id, now);
        self.handle(Input::HopAppeared(hop), now)
    }

    fn new_status(
        &self,
        number: usize,
        link: &Link,
        ingress: &str,
        egress: &str,
        reason: String,
    ) -> HopStatus {
        HopStatus {
            hop: None,
            namespace: self.instances[number].namespace.to_string(),
            interface: link.name.clone(),
            ifindex: link.index,
            ingress: ingress.to_owned(),
            egress: egress.to_owned(),
            reason,
            state: HopState::Quiet,
        }
    }

    fn tell_status(&mut self) -> anyhow::Result<()> {
        for event in self.clock.sample(Reading::take()) {
            tracing::info!(?event, "the clocks of this host jumped");
            self.link.tell(Told::Clock(event), clock::now())?;
        }
        if self.status_count.is_multiple_of(MAP_MEMORY_TURN_COUNT) {
            self.tallies.map_memory_bytes = super::process::map_memory_bytes();
        }
        self.status_count += 1;
        self.mind_lost_events()?;
        self.mind_lost_records()?;
        let status = Box::new(self.status()?);
        self.link.tell(Told::Status(status), clock::now())?;
        super::notify::keep_alive();
        Ok(())
    }

    /// Begins a walk through each table of which events were lost, a while after the last was: by
    /// then the flows that go on have told of themselves.
    fn mind_lost_events(&mut self) -> anyhow::Result<()> {
        for instance in &mut self.instances {
            let counters = instance.tables.counters()?;
            let dropped = counters[Counter::EventsDroppedRingFull as usize];
            if dropped != instance.events_dropped {
                instance.events_dropped = dropped;
                instance.walk_due = WALK_DELAY_TURN_COUNT;
            } else if instance.walk_due > 0 {
                instance.walk_due -= 1;
                if instance.walk_due == 0 {
                    tracing::info!(
                        dropped,
                        "events were lost: looking through the table of flows"
                    );
                    instance.tables.begin_walk();
                }
            }
        }
        Ok(())
    }

    fn status(&self) -> anyhow::Result<KernelStatus> {
        let mut counters = [0_u64; COUNTER_COUNT];
        let mut instances = Vec::new();
        for instance in &self.instances {
            let own = instance.tables.counters()?;
            for (sum, counter) in counters.iter_mut().zip(own) {
                *sum = sum.wrapping_add(counter);
            }
            instances.push(instance.status(own[Counter::FlowsOpened as usize]));
        }
        let hops = self
            .instances
            .iter()
            .flat_map(|instance| instance.hops.values());
        let (promoted_packets, promoted_evicted) = self.promoted.counts();
        Ok(KernelStatus {
            at: clock::now(),
            counters,
            instances,
            tally: self.link.tally(),
            map_memory_bytes: self.tallies.map_memory_bytes,
            hops: hops.map(|entry| entry.status.clone()).collect(),
            events_read: self.tallies.events_read,
            events_unknown: self.tallies.events_unknown,
            events_unplaced: self.tallies.events_unplaced,
            records_read: self.tallies.records_read,
            promoted_packets,
            promoted_evicted,
            lookback: self.lookback.status(),
            translations: self.translations.counts(),
            records_dropped_queue_full: self.tallies.records_dropped,
            event_lag_ns: self.tallies.event_lag_ns,
            cpu_ns: super::process::cpu_ns(),
            resident_bytes: super::process::resident_bytes(),
        })
    }

    /// Sleeps as long as the last turn allows: the busier, the shorter. After some empty turns the
    /// programs are asked to wake the loop with their next event.
    fn sleep(&mut self, taken: usize) -> anyhow::Result<()> {
        self.idle_turn_count = if taken == 0 {
            self.idle_turn_count.saturating_add(1)
        } else {
            0
        };
        let is_idle = self.idle_turn_count >= IDLE_TURN_COUNT;
        let mut timeout = pause(taken, is_idle);
        let now = clock::now();
        let due = self
            .link
            .deadline()
            .unwrap_or(self.status_next)
            .min(self.status_next);
        timeout = timeout.min(Duration::from_nanos(due.since_ns(now)));
        if is_idle {
            for instance in &mut self.instances {
                instance.tables.announce_sleep().context("sleep")?;
            }
        }
        let mut descriptors = vec![PollFd::new(self.signals.waker.as_fd(), PollFlags::POLLIN)];
        if is_idle {
            for instance in &self.instances {
                descriptors.push(PollFd::new(instance.events.as_fd(), PollFlags::POLLIN));
                descriptors.push(PollFd::new(instance.records.as_fd(), PollFlags::POLLIN));
            }
        }
        // A timeout is in whole milliseconds: rounded up, or the last one is spun away.
        let timeout = PollTimeout::try_from(timeout + Duration::from_micros(999));
        match poll(&mut descriptors, timeout.unwrap_or(PollTimeout::MAX)) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error).context("wait for events"),
        }
        self.signals.waker.clear();
        Ok(())
    }
}

/// How long to sleep after a turn that took so many events. The ring of events holds 4,369 updates
/// and four times as many attempts: 50 ms of 90,000 a second.
fn pause(taken: usize, is_idle: bool) -> Duration {
    Duration::from_millis(match taken {
        _ if is_idle => 1_000,
        0..=8 => 50,
        9..=64 => 20,
        65..=512 => 5,
        513..EVENT_BATCH => 1,
        _ => 0,
    })
}

fn find_hop(hops: &mut BTreeMap<u32, HopEntry>, key: &FlowKey) -> Option<HopId> {
    let entry = hops.get_mut(&key.ifindex)?;
    entry.id?;
    if entry.status.state != HopState::Running {
        tracing::info!(
            interface = entry.status.interface,
            "the programs see packets"
        );
        entry.status.state = HopState::Running;
    }
    entry.id
}

impl InstanceState {
    /// Whether a hop is here, or was until this turn.
    fn holds(&self, hop: HopId) -> bool {
        self.departed.contains(&hop) || self.hops.values().any(|entry| entry.id == Some(hop))
    }

    /// Deletes a flow from the kernel's table: what it held, if it is of this incarnation still.
    fn delete(&mut self, key: &FlowKey, incarnation: u32, now: Monotonic) -> Option<FlowUpdate> {
        match self.tables.read_and_delete(key, incarnation, now) {
            Ok(update) => {
                self.deleted_count += u64::from(update.is_some());
                update
            }
            Err(error) => {
                tracing::debug!(error = format!("{error:#}"), "flow table");
                None
            }
        }
    }

    /// The hop of an event, which also proves that the programs run there.
    fn find_hop(&mut self, key: &FlowKey) -> Option<HopId> {
        find_hop(&mut self.hops, key)
    }

    fn status(&self, opened_count: u64) -> InstanceStatus {
        InstanceStatus {
            namespace: self.namespace.to_string(),
            events: RingStatus {
                used_bytes: self.events.used_bytes(),
                size_bytes: u64::from(phalanx_common::limits::EVENT_RING_SIZE),
            },
            records: RingStatus {
                used_bytes: self.records.used_bytes(),
                size_bytes: u64::from(phalanx_common::limits::RECORD_RING_SIZE),
            },
            flow_count: opened_count.saturating_sub(self.deleted_count),
            flow_count_max: u64::from(self.tables.flow_count_max()),
        }
    }
}

impl HopEntry {
    fn judge_sight(&mut self, received_packets: u64) {
        let unseen = received_packets.saturating_sub(self.received_packets);
        if self.status.state == HopState::Quiet && unseen >= BLIND_PACKET_COUNT {
            tracing::warn!(
                interface = self.status.interface,
                unseen,
                "packets come in but the programs see none: another program ends the chain first?"
            );
            self.status.state = HopState::Blind;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busier_the_shorter_the_sleep() {
        let pauses: Vec<Duration> = [0, 8, 9, 64, 65, 512, 513, EVENT_BATCH - 1, EVENT_BATCH]
            .into_iter()
            .map(|taken| pause(taken, false))
            .collect();
        assert!(pauses.is_sorted_by(|a, b| a >= b), "{pauses:?}");
        assert_eq!(pauses.last(), Some(&Duration::ZERO));
        assert!(pause(0, true) > pause(0, false));
    }
}
