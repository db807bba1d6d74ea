//! One direction of an emulated link as a value: packets and times go in, packets come out when
//! they are due. No clock, file or thread: the same packets at the same times with the same seed
//! give the same decisions.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use serde::Serialize;

use crate::impairment::{Impairment, Patch, Timetable, ms_to_ns};
use crate::limits::{UNDER_WAY_BYTES_MAX, UNDER_WAY_PACKETS_MAX};
use crate::packet::decrement_ttl;
use crate::random::Random;

/// What happened to a packet that was offered to a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// It will be delivered.
    Pass,
    /// It will be delivered later than its turn.
    HeldBack,
    /// It will be delivered twice.
    Duplicated,
    /// Dropped: the link is out.
    Outage,
    /// Dropped: TTL or hop limit spent.
    Ttl,
    /// Dropped: larger than the silent MTU.
    Mtu,
    /// Dropped: above the policer's rate.
    Policed,
    /// Dropped: the bottleneck's queue is full.
    QueueFull,
    /// Dropped: random loss.
    Lost,
    /// Dropped: burst loss.
    BurstLost,
    /// Dropped: too much under way (see `limits`).
    Overflow,
}

impl Action {
    /// The name used in decision logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::HeldBack => "held_back",
            Self::Duplicated => "duplicated",
            Self::Outage => "outage",
            Self::Ttl => "ttl",
            Self::Mtu => "mtu",
            Self::Policed => "policed",
            Self::QueueFull => "queue_full",
            Self::Lost => "lost",
            Self::BurstLost => "burst_lost",
            Self::Overflow => "overflow",
        }
    }
}

/// Packets dropped, by cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Dropped {
    /// The link was out.
    pub outage: u64,
    /// The TTL or hop limit was spent.
    pub ttl: u64,
    /// Larger than the silent MTU.
    pub mtu: u64,
    /// Above the policer's rate.
    pub policed: u64,
    /// The bottleneck's queue was full.
    pub queue_full: u64,
    /// Random loss.
    pub lost: u64,
    /// Burst loss.
    pub burst_lost: u64,
    /// Too much under way.
    pub overflow: u64,
    /// The far end refused the packet (its interface is down).
    pub refused: u64,
}

impl Dropped {
    /// All causes together.
    pub fn total(&self) -> u64 {
        self.outage
            + self.ttl
            + self.mtu
            + self.policed
            + self.queue_full
            + self.lost
            + self.burst_lost
            + self.overflow
            + self.refused
    }
}

/// The truth about one direction of a link. At any moment
/// `packets_in + duplicated = packets_out + dropped.total() + under_way`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Counters {
    /// Packets taken from the sending side.
    pub packets_in: u64,
    /// Bytes of those packets, from the IP header on.
    pub bytes_in: u64,
    /// Packets delivered to the receiving side, copies included.
    pub packets_out: u64,
    /// Bytes delivered, copies included.
    pub bytes_out: u64,
    /// Packets dropped, by cause.
    pub dropped: Dropped,
    /// Packets chosen to be held back.
    pub held_back: u64,
    /// Packets delivered after one that had entered later (RFC 4737, type-P-reordered).
    pub reordered: u64,
    /// Copies made.
    pub duplicated: u64,
    /// Packets that have entered and are not delivered yet.
    pub under_way: u64,
    /// Packets that the kernel dropped before the link saw them (its tun queue was full).
    pub device_dropped: u64,
}

/// A packet on its way.
#[derive(Debug, PartialEq, Eq)]
struct Travelling {
    due_ns: u64,
    /// Order of entry; copies share it, `copy` tells them apart.
    index: u64,
    copy: bool,
    packet: Vec<u8>,
}

impl Ord for Travelling {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due_ns, self.index, self.copy).cmp(&(other.due_ns, other.index, other.copy))
    }
}

impl PartialOrd for Travelling {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// A stream of random numbers per kind of decision, so that one does not shift the others.
#[derive(Debug)]
struct Dice {
    loss: Random,
    burst: Random,
    duplicate: Random,
    reorder: Random,
    jitter: Random,
}

/// One direction of an emulated link.
#[derive(Debug)]
pub struct Channel {
    impairment: Impairment,
    timetable: Option<Timetable>,
    dice: Dice,
    is_burst: bool,
    /// When the bottleneck has sent all that waits before it.
    line_free_at_ns: u64,
    tokens_bytes: f64,
    tokens_at_ns: u64,
    travelling: BinaryHeap<Reverse<Travelling>>,
    travelling_bytes: u64,
    last_due_ns: u64,
    index_next: u64,
    index_delivered_max: Option<u64>,
    counters: Counters,
}

/// What was decided on one packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// What happens to it.
    pub action: Action,
    /// When it is due at the far end, in nanoseconds; 0 when it is dropped.
    pub due_ns: u64,
}

impl Channel {
    /// Makes a direction that has carried nothing yet.
    pub fn new(impairment: Impairment, seed: u64) -> Self {
        Self {
            impairment,
            timetable: None,
            dice: Dice {
                loss: Random::new(seed, 1),
                burst: Random::new(seed, 2),
                duplicate: Random::new(seed, 3),
                reorder: Random::new(seed, 4),
                jitter: Random::new(seed, 5),
            },
            is_burst: false,
            line_free_at_ns: 0,
            tokens_bytes: impairment.police_burst_bytes as f64,
            tokens_at_ns: 0,
            travelling: BinaryHeap::new(),
            travelling_bytes: 0,
            last_due_ns: 0,
            index_next: 0,
            index_delivered_max: None,
            counters: Counters::default(),
        }
    }

    /// Takes a packet that arrived at `now_ns`; times never go backwards.
    pub fn offer(&mut self, now_ns: u64, mut packet: Vec<u8>) -> Decision {
        self.advance(now_ns);
        self.counters.packets_in += 1;
        self.counters.bytes_in += packet.len() as u64;
        let leaves_ns = match self.admit(now_ns, &mut packet) {
            Ok(leaves_ns) => leaves_ns,
            Err(action) => {
                self.count_drop(action);
                return Decision { action, due_ns: 0 };
            }
        };
        // All dice are thrown for every admitted packet, so that one decision does not depend
        // on another.
        let is_lost = self.dice.loss.chance(self.impairment.loss);
        let is_burst_lost = self.burst_loses();
        let is_duplicated = self.dice.duplicate.chance(self.impairment.duplicate);
        let is_held_back = self.dice.reorder.chance(self.impairment.reorder);
        let jitter = self.dice.jitter.unit();
        if is_lost || is_burst_lost {
            let action = if is_lost {
                Action::Lost
            } else {
                Action::BurstLost
            };
            self.count_drop(action);
            return Decision { action, due_ns: 0 };
        }
        let due_ns = self.due(leaves_ns, jitter, is_held_back);
        let index = self.index_next;
        self.index_next += 1;
        if is_duplicated && self.has_room(packet.len()) {
            self.counters.duplicated += 1;
            self.push(Travelling {
                due_ns,
                index,
                copy: true,
                packet: packet.clone(),
            });
        }
        self.push(Travelling {
            due_ns,
            index,
            copy: false,
            packet,
        });
        if is_held_back {
            self.counters.held_back += 1;
        }
        let action = match (is_held_back, is_duplicated) {
            (true, _) => Action::HeldBack,
            (false, true) => Action::Duplicated,
            (false, false) => Action::Pass,
        };
        Decision { action, due_ns }
    }

    /// The next packet that is due at `now_ns`, already counted as delivered.
    pub fn take_due(&mut self, now_ns: u64) -> Option<Vec<u8>> {
        if self.travelling.peek()?.0.due_ns > now_ns {
            return None;
        }
        let Reverse(first) = self.travelling.pop()?;
        self.travelling_bytes -= first.packet.len() as u64;
        self.counters.packets_out += 1;
        self.counters.bytes_out += first.packet.len() as u64;
        match self.index_delivered_max {
            Some(max) if first.index < max => {
                // A copy of a late packet is late only once.
                if !first.copy {
                    self.counters.reordered += 1;
                }
            }
            _ => self.index_delivered_max = Some(first.index),
        }
        Some(first.packet)
    }

    /// Counts the packet just taken as refused by the far end instead of delivered.
    pub fn refuse(&mut self, packet: &[u8]) {
        self.counters.packets_out -= 1;
        self.counters.bytes_out -= packet.len() as u64;
        self.counters.dropped.refused += 1;
    }

    /// When this direction next has something to do by itself.
    pub fn deadline_ns(&self) -> Option<u64> {
        let due = self.travelling.peek().map(|first| first.0.due_ns);
        let change = self.timetable.as_ref().and_then(Timetable::next_at_ns);
        match (due, change) {
            (Some(due), Some(change)) => Some(due.min(change)),
            (due, change) => due.or(change),
        }
    }

    /// Carries out the changes of the schedule that are due at `now_ns`.
    pub fn advance(&mut self, now_ns: u64) {
        while let Some(patch) = self
            .timetable
            .as_mut()
            .and_then(|table| table.take_due(now_ns))
        {
            self.patch(&patch);
        }
    }

    /// Changes some values from now on.
    pub fn patch(&mut self, patch: &Patch) {
        let was_policing = self.impairment.police_mbit_per_s > 0.0;
        patch.apply(&mut self.impairment);
        if !was_policing {
            self.tokens_bytes = self.impairment.police_burst_bytes as f64;
        }
        if self.impairment.burst_enter == 0.0 {
            self.is_burst = false;
        }
    }

    /// Replaces the schedule.
    pub(crate) fn follow(&mut self, timetable: Timetable) {
        self.timetable = Some(timetable);
    }

    /// The values in force.
    pub fn impairment(&self) -> &Impairment {
        &self.impairment
    }

    /// What was counted so far.
    pub fn counters(&self) -> Counters {
        Counters {
            under_way: self.travelling.len() as u64,
            ..self.counters
        }
    }

    /// The stages up to the bottleneck: when the packet leaves it, or why it does not.
    fn admit(&mut self, now_ns: u64, packet: &mut [u8]) -> Result<u64, Action> {
        let values = self.impairment;
        if values.outage {
            return Err(Action::Outage);
        }
        if values.ttl_decrement > 0 && !decrement_ttl(packet, values.ttl_decrement) {
            return Err(Action::Ttl);
        }
        if values.mtu_bytes > 0 && packet.len() > values.mtu_bytes as usize {
            return Err(Action::Mtu);
        }
        if !self.has_room(packet.len()) {
            return Err(Action::Overflow);
        }
        if values.police_mbit_per_s > 0.0 && !self.police(now_ns, packet.len()) {
            return Err(Action::Policed);
        }
        if values.rate_mbit_per_s > 0.0 {
            return self.queue(now_ns, packet.len()).ok_or(Action::QueueFull);
        }
        Ok(now_ns)
    }

    fn police(&mut self, now_ns: u64, length: usize) -> bool {
        let elapsed_ns = now_ns.saturating_sub(self.tokens_at_ns);
        self.tokens_at_ns = now_ns;
        // Mbit/s are bits per microsecond: one eighth of a byte per thousand nanoseconds.
        let earned = elapsed_ns as f64 * self.impairment.police_mbit_per_s / 8_000.0;
        let depth = self.impairment.police_burst_bytes as f64;
        self.tokens_bytes = (self.tokens_bytes + earned).min(depth);
        if self.tokens_bytes < length as f64 {
            return false;
        }
        self.tokens_bytes -= length as f64;
        true
    }

    /// When the packet has left the bottleneck, or nothing when its queue is full.
    fn queue(&mut self, now_ns: u64, length: usize) -> Option<u64> {
        let ns_per_byte = 8_000.0 / self.impairment.rate_mbit_per_s;
        let starts_ns = self.line_free_at_ns.max(now_ns);
        let waiting_bytes = (starts_ns - now_ns) as f64 / ns_per_byte;
        let is_idle = starts_ns == now_ns;
        if !is_idle && waiting_bytes + length as f64 > self.impairment.queue_bytes as f64 {
            return None;
        }
        self.line_free_at_ns = starts_ns + (length as f64 * ns_per_byte).round() as u64;
        Some(self.line_free_at_ns)
    }

    fn burst_loses(&mut self) -> bool {
        if self.impairment.burst_enter == 0.0 {
            return false;
        }
        let turn = if self.is_burst {
            self.impairment.burst_leave
        } else {
            self.impairment.burst_enter
        };
        if self.dice.burst.chance(turn) {
            self.is_burst = !self.is_burst;
        }
        self.dice.burst.chance(self.impairment.burst_loss) && self.is_burst
    }

    fn due(&mut self, leaves_ns: u64, jitter: f64, is_held_back: bool) -> u64 {
        let values = &self.impairment;
        let delay_ms = values.delay_ms + (jitter * 2.0 - 1.0) * values.jitter_ms;
        let due_ns = leaves_ns + ms_to_ns(delay_ms.max(0.0));
        if is_held_back {
            return due_ns + ms_to_ns(values.reorder_extra_ms);
        }
        if !values.keep_order {
            return due_ns;
        }
        self.last_due_ns = self.last_due_ns.max(due_ns);
        self.last_due_ns
    }

    fn has_room(&self, length: usize) -> bool {
        self.travelling.len() < UNDER_WAY_PACKETS_MAX
            && self.travelling_bytes + (length as u64) <= UNDER_WAY_BYTES_MAX
    }

    fn push(&mut self, travelling: Travelling) {
        self.travelling_bytes += travelling.packet.len() as u64;
        self.travelling.push(Reverse(travelling));
    }

    fn count_drop(&mut self, action: Action) {
        let dropped = &mut self.counters.dropped;
        match action {
            Action::Outage => dropped.outage += 1,
            Action::Ttl => dropped.ttl += 1,
            Action::Mtu => dropped.mtu += 1,
            Action::Policed => dropped.policed += 1,
            Action::QueueFull => dropped.queue_full += 1,
            Action::Lost => dropped.lost += 1,
            Action::BurstLost => dropped.burst_lost += 1,
            Action::Overflow => dropped.overflow += 1,
            Action::Pass | Action::HeldBack | Action::Duplicated => {}
        }
    }
}

#[cfg(test)]
#[path = "channel_tests.rs"]
mod tests;
