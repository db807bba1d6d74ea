//! Flows: both directions of one 5-tuple at one hop, from the kernel's updates.
//!
//! A flow turns cumulative counters into what was added, and samples into measures; what end it
//! speaks of by direction becomes client and server. Deliberately without names and conversations.

use std::collections::VecDeque;

use phalanx_common::abi::{
    Direction, FlowKey, FlowUpdate, HalfCounters, ReadSample, SampleKind, update_reason,
};
use phalanx_common::watch::tick;

use crate::change::CloseReason;
use crate::conversation::Beginning;
use crate::hop::HopId;
use crate::limits::{
    CLOSED_COUNT_MAX, ICMP_IDLE_TIMEOUT_NS, TCP_CLOSED_TIMEOUT_NS, UDP_IDLE_TIMEOUT_NS,
};
use crate::measure::{Counts, MeasureKind, Measures};
use crate::side::{Endpoint, RoleBasis, Side, Sides};
use crate::table::{Keyed, Slot, Table};
use crate::tally::Tally;
use crate::time::Monotonic;

/// A flow of the engine; never used again for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowId(pub u64);

pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const ICMPV6: u8 = 58;

/// Where a flow stands in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FlowState {
    Open,
    /// FIN or RST was seen, then.
    Ended(CloseReason, Monotonic),
}

#[derive(Debug)]
pub(crate) struct Flow {
    pub(crate) id: FlowId,
    pub(crate) hop: HopId,
    pub(crate) key: FlowKey,
    pub(crate) incarnation: u32,
    pub(crate) version: u32,
    pub(crate) client: Direction,
    pub(crate) role_basis: RoleBasis,
    /// How it began, where that was seen.
    pub(crate) beginning: Option<Beginning>,
    /// Its conversation, from its opening to its close.
    pub(crate) conversation: Slot,
    pub(crate) opened: Monotonic,
    /// Its last packet, as far as it is known.
    pub(crate) last: Monotonic,
    /// When the kernel made its last update.
    pub(crate) heard: Monotonic,
    pub(crate) state: FlowState,
    /// The highest value of each counter, by sender.
    pub(crate) counted: Sides<Counts>,
    has_handshake: Sides<bool>,
    /// How many of its samples have been read, lost ones included.
    samples_read: u32,
    /// When its timer fires, as it stands in the queue.
    pub(crate) timer: Monotonic,
    /// When it has been silent for too long; may be later than its timer.
    pub(crate) deadline: Monotonic,
    /// Whether a read is under way.
    pub(crate) is_read: bool,
}

impl Keyed for Flow {
    type Key = (HopId, FlowKey);

    fn key(&self) -> Self::Key {
        (self.hop, self.key)
    }
}

impl Flow {
    /// How much of the exchange it shows: more is better. Hops tell equals apart.
    pub(crate) fn detail(&self) -> (bool, bool, std::cmp::Reverse<HopId>) {
        let is_two_way = self.counted.client.packets > 0 && self.counted.server.packets > 0;
        (
            is_two_way,
            self.has_handshake.server,
            std::cmp::Reverse(self.hop),
        )
    }
}

/// What one update adds to its flow.
#[derive(Clone, Debug)]
pub(crate) struct Growth {
    pub(crate) totals: Sides<HalfCounters>,
    pub(crate) added: Sides<Counts>,
    pub(crate) measures: Measures,
    pub(crate) lost_updates: u32,
}

impl Flow {
    pub(crate) fn new(
        id: FlowId,
        hop: HopId,
        update: &FlowUpdate,
        role: (Direction, RoleBasis),
        now: Monotonic,
    ) -> Self {
        let opened = Monotonic(update.opened_ns.min(update.now_ns)).min(now);
        Self {
            id,
            hop,
            key: update.key,
            incarnation: update.incarnation,
            version: 0,
            client: role.0,
            role_basis: role.1,
            beginning: (role.1 == RoleBasis::Opener)
                .then(|| Beginning::of(update, role.0))
                .flatten(),
            conversation: Slot::MAX,
            opened,
            last: opened,
            heard: opened,
            state: FlowState::Open,
            counted: Sides::default(),
            has_handshake: Sides::default(),
            samples_read: 0,
            timer: crate::limits::NEVER,
            deadline: crate::limits::NEVER,
            is_read: false,
        }
    }

    pub(crate) fn endpoints(&self) -> Sides<Endpoint> {
        endpoints(&self.key, self.client)
    }

    /// Takes an update in. One that claims to come from the future counts as made now.
    pub(crate) fn grow(
        &mut self,
        update: &FlowUpdate,
        now: Monotonic,
        tally: &mut Tally,
    ) -> Growth {
        let lost_updates = update
            .version
            .saturating_sub(self.version.saturating_add(1));
        tally.updates_lost += u64::from(lost_updates);
        self.version = self.version.max(update.version);
        let now = Monotonic(update.now_ns).min(now);
        self.heard = self.heard.max(now);
        self.last = self.last.max(last_packet(update, now));
        let totals = halves(update, self.client);
        let added = Sides {
            client: count(&mut self.counted.client, &totals.client, tally),
            server: count(&mut self.counted.server, &totals.server, tally),
        };
        let measures = self.measure(update, &totals, tally);
        if update.reason & update_reason::RESET != 0 {
            self.end(CloseReason::Reset, now);
        } else if update.reason & update_reason::CLOSED != 0 {
            self.end(CloseReason::Fin, now);
        }
        Growth {
            totals,
            added,
            measures,
            lost_updates,
        }
    }

    fn end(&mut self, reason: CloseReason, now: Monotonic) {
        if self.state == FlowState::Open {
            self.state = FlowState::Ended(reason, now.max(self.opened));
        }
    }

    fn measure(
        &mut self,
        update: &FlowUpdate,
        totals: &Sides<HalfCounters>,
        tally: &mut Tally,
    ) -> Measures {
        let mut measures = Measures::default();
        let handshakes = [
            (Side::Server, update.handshake_server_us),
            (Side::Client, update.handshake_client_us),
        ];
        for (side, microseconds) in handshakes {
            if microseconds != 0 && !*self.has_handshake.get(side) {
                *self.has_handshake.get_mut(side) = true;
                measures.push(MeasureKind::Handshake(side), microseconds);
            }
        }
        let path = Sides {
            client: path_us(totals.server.rtt_min_us, update.handshake_client_us),
            server: path_us(totals.client.rtt_min_us, update.handshake_server_us),
        };
        let mut read = self.samples_read;
        update.read_samples(&mut read, |read| match read {
            ReadSample::Sample(it) => {
                self.measure_sample(it.kind, it.microseconds, &path, &mut measures);
            }
            ReadSample::Lost(count) => tally.samples_lost += u64::from(count),
        });
        self.samples_read = read;
        measures
    }

    fn measure_sample(
        &self,
        kind: SampleKind,
        microseconds: u32,
        path: &Sides<Option<u32>>,
        measures: &mut Measures,
    ) {
        // Data of one side is acknowledged by the other: the round trip goes to the other side.
        let (kind, microseconds) = match kind {
            SampleKind::Rtt(sender) => {
                (MeasureKind::Rtt(self.side(sender.reverse())), microseconds)
            }
            SampleKind::RttByTimestamp(sender) => (
                MeasureKind::RttByTimestamp(self.side(sender.reverse())),
                microseconds,
            ),
            SampleKind::Turn(sender) => {
                let side = self.side(sender);
                match (side, path.get(side)) {
                    (Side::Server, Some(path)) => {
                        (MeasureKind::Think, microseconds.saturating_sub(*path))
                    }
                    (Side::Server, None) => (MeasureKind::ThinkAndPath, microseconds),
                    (Side::Client, Some(path)) => {
                        (MeasureKind::Idle, microseconds.saturating_sub(*path))
                    }
                    (Side::Client, None) => (MeasureKind::IdleAndPath, microseconds),
                }
            }
        };
        measures.push(kind, microseconds);
    }

    fn side(&self, sender: Direction) -> Side {
        if sender == self.client {
            Side::Client
        } else {
            Side::Server
        }
    }

    /// When the flow, as it stands, will have been silent for too long.
    pub(crate) fn silent_at(&self, tcp_idle_timeout_ns: u64) -> Monotonic {
        let is_over = self.state != FlowState::Open;
        let timeout_ns = silence_max_ns(self.key.protocol, is_over, tcp_idle_timeout_ns);
        self.heard.plus_ns(timeout_ns)
    }
}

/// How long a flow may be silent; `is_over` after its FIN or RST.
pub(crate) const fn silence_max_ns(protocol: u8, is_over: bool, tcp_idle_timeout_ns: u64) -> u64 {
    match (is_over, protocol) {
        (true, _) => TCP_CLOSED_TIMEOUT_NS,
        (false, TCP) => tcp_idle_timeout_ns,
        (false, ICMP | ICMPV6) => ICMP_IDLE_TIMEOUT_NS,
        (false, _) => UDP_IDLE_TIMEOUT_NS,
    }
}

/// The two ends of a key, once it is known which is the client.
pub(crate) fn endpoints(key: &FlowKey, client: Direction) -> Sides<Endpoint> {
    Sides {
        client: Endpoint::of(key, client),
        server: Endpoint::of(key, client.reverse()),
    }
}

/// An update's counters by sender.
pub(crate) const fn halves(update: &FlowUpdate, client: Direction) -> Sides<HalfCounters> {
    let [low, high] = update.halves;
    match client {
        Direction::FromLow => Sides {
            client: low,
            server: high,
        },
        Direction::FromHigh => Sides {
            client: high,
            server: low,
        },
    }
}

/// The smallest round trip that is known: of data, else of the handshake.
fn path_us(rtt_min_us: u32, handshake_us: u32) -> Option<u32> {
    [rtt_min_us, handshake_us]
        .into_iter()
        .filter(|us| *us != 0)
        .min()
}

/// A packet that another CPU saw while the update was made is less than this after it: a second.
const LATER_TICKS_MAX: u32 = 1 << 20;

/// When the last packet of an update was seen.
fn last_packet(update: &FlowUpdate, now: Monotonic) -> Monotonic {
    let ages = update
        .halves
        .iter()
        .filter(|half| half.packets > 0)
        .map(|half| {
            let ticks = tick(update.now_ns).wrapping_sub(half.seen_tick);
            let is_later = ticks > u32::MAX - LATER_TICKS_MAX;
            if is_later { 0 } else { u64::from(ticks) << 10 }
        });
    Monotonic(now.0.saturating_sub(ages.min().unwrap_or(0)))
}

fn count(counted: &mut Counts, half: &HalfCounters, tally: &mut Tally) -> Counts {
    let total = Counts::from(half);
    if total.is_behind(counted) {
        tally.counters_fell += 1;
    }
    let added = total.beyond(counted);
    counted.add(&added);
    added
}

/// Flows closed of late, so that updates still under way do not open them again: their counters
/// are cumulative and would count twice. Bounded: the first one closed is forgotten first.
pub(crate) struct ClosedFlows {
    flows: Table<ClosedEntry>,
    order: VecDeque<Slot>,
}

pub(crate) struct ClosedEntry {
    key: (HopId, FlowKey),
    incarnation: u32,
}

impl Keyed for ClosedEntry {
    type Key = (HopId, FlowKey);

    fn key(&self) -> Self::Key {
        self.key
    }
}

impl ClosedFlows {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            flows: Table::new(CLOSED_COUNT_MAX, seed),
            order: VecDeque::new(),
        }
    }

    pub(crate) fn add(&mut self, key: (HopId, FlowKey), incarnation: u32) {
        if self.flows.is_full()
            && let Some(oldest) = self.order.pop_front()
        {
            self.flows.remove(oldest);
        }
        self.order
            .extend(self.flows.insert(ClosedEntry { key, incarnation }));
    }

    /// Whether this incarnation is the last one of its key that was closed.
    pub(crate) fn holds(&self, key: &(HopId, FlowKey), incarnation: u32) -> bool {
        let found = self.flows.find(key).and_then(|slot| self.flows.get(slot));
        found.is_some_and(|entry| entry.incarnation == incarnation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::update;

    #[test]
    fn a_packet_seen_while_the_update_was_made_is_the_last() {
        let mut update = update(1);
        update.now_ns = 9_000_000_000;
        let now = Monotonic(update.now_ns);
        for (seen_ns, expected_ns) in [
            (9_000_005_000, 9_000_000_000),
            (8_000_000_000, 8_000_000_000),
        ] {
            for half in &mut update.halves {
                (half.packets, half.seen_tick) = (1, tick(seen_ns));
            }
            assert!(last_packet(&update, now).0.abs_diff(expected_ns) < 2_048);
        }
    }
}
