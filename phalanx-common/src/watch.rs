//! The watch rule: what one packet does to the state of its flow. One code, run by the kernel
//! programs on their maps and by user space on records, so that both measure the same.
//!
//! State is of constant size. Each direction has its own [`Half`]; wherever two CPUs may write one
//! word, it is written by compare-and-exchange or by addition, and a lost race drops a sample: a
//! sample is never wrong. What constant-size state cannot tell apart is counted as
//! `out_of_sequence`, never guessed.
//!
//! Deliberately absent: capture filters, records, and any knowledge of hooks.

mod entry;
mod open;
mod pending;
mod rtt;
mod sequence;
mod update;

pub use entry::{FlowEntry, Half};
pub use pending::{Pending, PendingHalf};
pub use update::write_update;

use crate::abi::{Counter, Direction, FlowKey, Sample, SampleKind, update_reason};
use crate::bytes::Bytes;
use crate::packet::{Headers, TcpFlags, protocol};

/// Time inside the state of a flow: units of 1,024 ns, modulo 2³² (73 minutes). A shift costs a
/// tenth of the division by 1,000; samples are turned into microseconds when they are taken.
pub type Tick = u32;

/// The tick of a time in nanoseconds; never 0, which stands for "not yet".
#[inline(always)]
#[must_use]
pub const fn tick(now_ns: u64) -> Tick {
    let tick = (now_ns >> 10) as u32;
    if tick == 0 { 1 } else { tick }
}

/// Microseconds between two ticks, rounded; saturating where they are more than 71 minutes apart.
#[inline(always)]
#[must_use]
pub const fn microseconds_between(from: Tick, to: Tick) -> u32 {
    let nanoseconds = (to.wrapping_sub(from) as u64) << 10;
    let microseconds = (nanoseconds + 500) / 1000;
    if microseconds > u32::MAX as u64 {
        u32::MAX
    } else {
        microseconds as u32
    }
}

/// Whether `a` comes after `b` in modular arithmetic (RFC 9293 section 3.4, RFC 1982).
#[inline(always)]
#[must_use]
pub const fn is_after(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) > 0
}

/// One packet on its way through the rule.
#[derive(Clone, Copy, Debug)]
pub struct Sighting<'packet, B> {
    /// Its decoded headers.
    pub headers: &'packet Headers,
    /// Its flow.
    pub key: &'packet FlowKey,
    /// Which way it goes through its flow.
    pub direction: Direction,
    /// When it was seen: `CLOCK_MONOTONIC` nanoseconds.
    pub now_ns: u64,
    /// Packets on the wire that it stands for: 1, or the segments of a super-segment.
    pub segments: u32,
    /// Payload bytes of each segment of a super-segment, 0 for a plain packet.
    pub segment_size: u32,
    /// Its bytes, for the options that only some packets are asked for.
    pub bytes: B,
}

impl<B> Sighting<'_, B> {
    #[inline(always)]
    fn now(&self) -> Tick {
        tick(self.now_ns)
    }

    #[inline(always)]
    fn flags(&self) -> TcpFlags {
        self.headers.tcp_flags
    }

    /// IP bytes on the wire: a super-segment's headers are sent once with each segment.
    #[inline(always)]
    fn wire_bytes(&self) -> u32 {
        let headers = self.headers;
        if self.segments <= 1 {
            return headers.ip_length;
        }
        let repeated = headers.ip_length.wrapping_sub(headers.payload_length);
        headers
            .ip_length
            .wrapping_add((self.segments - 1).wrapping_mul(repeated))
    }

    /// Sequence numbers that the segment takes: payload, SYN, FIN (RFC 9293 section 3.4).
    #[inline(always)]
    fn sequence_length(&self) -> u32 {
        self.headers.payload_length
            + u32::from(self.flags().any(TcpFlags::SYN))
            + u32::from(self.flags().any(TcpFlags::FIN))
    }
}

/// Writes the flow of a packet at an interface, and returns which way the packet goes through it.
#[inline(always)]
#[must_use]
pub fn write_key(headers: &Headers, ifindex: u32, key: &mut FlowKey) -> Direction {
    let is_from_low = match compare(headers.source[0], headers.destination[0]) {
        0 => match compare(headers.source[1], headers.destination[1]) {
            0 => headers.source_port <= headers.destination_port,
            order => order < 0,
        },
        order => order < 0,
    };
    key.ifindex = ifindex;
    key.vlan = headers.vlan;
    key.protocol = headers.protocol;
    key.reserved = 0;
    if is_from_low {
        key.low = zerocopy::transmute!(headers.source);
        key.high = zerocopy::transmute!(headers.destination);
        key.low_port = headers.source_port;
        key.high_port = headers.destination_port;
        Direction::FromLow
    } else {
        key.low = zerocopy::transmute!(headers.destination);
        key.high = zerocopy::transmute!(headers.source);
        key.low_port = headers.destination_port;
        key.high_port = headers.source_port;
        Direction::FromHigh
    }
}

#[inline(always)]
const fn compare(a: u64, b: u64) -> i32 {
    (a > b) as i32 - (a < b) as i32
}

/// Follows an ICMP error to the flow that it quotes. Returns whether that flow is known.
///
/// `quote` are the headers of the quoted packet, which travelled against the error; `key` is room
/// for its flow.
#[inline(always)]
pub fn watch_icmp_error<T: Tables>(
    tables: &T,
    error: &Headers,
    quote: &Headers,
    ifindex: u32,
    now_ns: u64,
    key: &mut FlowKey,
) -> bool {
    let direction = write_key(quote, ifindex, key);
    let icmp_error = error.sequence;
    let Some(entry) = tables.flow(key) else {
        return open::unreachable(tables, key, direction, now_ns, icmp_error);
    };
    entry.half(direction).icmp_error_count.add(1);
    entry.icmp_error.store(icmp_error);
    tables.send_update(key, entry, update_reason::ICMP_ERROR, now_ns);
    true
}

/// How an attempt to connect stands: what an [`crate::abi::Attempt`] says beside its flow.
#[derive(Clone, Copy, Debug)]
pub struct AttemptState {
    /// Who sent the SYN.
    pub initiator: Direction,
    /// When, in nanoseconds.
    pub now_ns: u64,
    /// One of [`crate::abi::attempt_outcome`].
    pub outcome: u32,
    /// SYN to its answer in microseconds, 0 where there was none yet.
    pub answer_us: u32,
    /// Type and code of the ICMP error, or 0.
    pub icmp_error: u32,
}

/// The tables that the rule works on: maps in the kernel, plain memory in user space.
pub trait Tables {
    /// The open flow of `key`.
    fn flow(&self, key: &FlowKey) -> Option<&FlowEntry>;
    /// Opens a flow with an empty entry, or finds the one that another CPU has just opened. `None`
    /// where the table is full.
    fn open(&self, key: &FlowKey, now_ns: u64) -> Option<&FlowEntry>;
    /// Forgets an open flow.
    fn remove(&self, key: &FlowKey);
    /// The pending entry at `index`, below [`crate::limits::PENDING_COUNT`].
    fn pending(&self, index: u32) -> Option<&Pending>;
    /// The seed of the pending table's hash: attackers choose keys.
    fn seed(&self) -> u64;
    /// Adds to a counter.
    fn count(&self, counter: Counter, amount: u32);
    /// Longest time between two updates, in nanoseconds.
    fn update_interval_ns(&self) -> u64;
    /// Sends an update of a flow.
    fn send_update(&self, key: &FlowKey, entry: &FlowEntry, reason: u32, now_ns: u64);
    /// Sends word of an attempt to open the flow `key`.
    fn send_attempt(&self, key: &FlowKey, attempt: &AttemptState);
}

/// Runs the rule on a packet and returns its flow, if it has one that is open.
#[inline(always)]
pub fn watch<'tables, T: Tables, B: Bytes>(
    tables: &'tables T,
    sighting: &Sighting<'_, B>,
) -> Option<&'tables FlowEntry> {
    if let Some(entry) = tables.flow(sighting.key) {
        let is_syn = sighting.flags().any(TcpFlags::SYN) && !sighting.flags().any(TcpFlags::ACK);
        if !(is_syn && open::is_reuse(entry, sighting)) {
            tables.count(Counter::Watched, 1);
            observe(tables, entry, sighting);
            return Some(entry);
        }
        tables.send_update(sighting.key, entry, update_reason::REUSED, sighting.now_ns);
        tables.remove(sighting.key);
    }
    open::first_packets(tables, sighting)
}

/// Counts a packet in its open flow. A function of its own in the kernel too: inlined twice, its
/// variables would not fit on the stack of 512 bytes that all callers share.
#[inline(never)]
fn observe<T: Tables, B: Bytes>(tables: &T, entry: &FlowEntry, sighting: &Sighting<'_, B>) {
    let own = entry.half(sighting.direction);
    own.packets.add(u64::from(sighting.segments));
    own.bytes.add(u64::from(sighting.wire_bytes()));
    let now = sighting.now();
    own.seen.store(now);
    note_traits(own, sighting);
    let mut reasons = 0;
    let mut has_new_payload = sighting.headers.payload_length > 0;
    if sighting.headers.protocol == protocol::TCP {
        let seen = sequence::observe(entry, sighting);
        reasons |= seen.reasons;
        has_new_payload &= seen.is_new;
    }
    if has_new_payload {
        reasons |= note_turn(entry, sighting.direction, now);
    }
    if sighting.now_ns.wrapping_sub(entry.pushed_ns.load()) > tables.update_interval_ns() {
        reasons |= update_reason::INTERVAL;
    }
    if reasons != 0 {
        send(tables, entry, sighting, reasons);
    }
}

/// Sends an update; of several CPUs that see the same interval pass, one sends.
#[inline(never)]
fn send<T: Tables, B: Bytes>(
    tables: &T,
    entry: &FlowEntry,
    sighting: &Sighting<'_, B>,
    reasons: u32,
) {
    let pushed = entry.pushed_ns.load();
    let is_first = entry.pushed_ns.replace(pushed, sighting.now_ns);
    if is_first || reasons != update_reason::INTERVAL {
        tables.send_update(sighting.key, entry, reasons, sighting.now_ns);
    }
}

/// Keeps the range of TTLs, the flags seen and the ECN marks.
#[inline(always)]
fn note_traits<B: Bytes>(own: &Half, sighting: &Sighting<'_, B>) {
    let headers = sighting.headers;
    // RFC 3168 section 5: both bits set say "congestion experienced".
    if headers.traffic_class & 3 == 3 {
        own.ecn_marked_packets.add(sighting.segments);
    }
    let traits = own.traits.load();
    let merged = entry::merge_traits(traits, headers.ttl, headers.tcp_flags.0);
    if merged != traits {
        // A lost race is mended by the next packet that carries the same.
        own.traits.store(merged);
    }
}

/// Takes a turn sample where new payload changes direction: think time, or idle time, and path.
#[inline(always)]
fn note_turn(entry: &FlowEntry, direction: Direction, now: Tick) -> u32 {
    let own = entry.half(direction);
    let own_last = own.payload.load();
    let other_last = entry.half(direction.reverse()).payload.load();
    own.payload.store(now);
    if other_last == 0 || (own_last != 0 && !is_after(other_last, own_last)) {
        return 0;
    }
    let waited = microseconds_between(other_last, now);
    entry.push_sample(Sample::new(SampleKind::Turn(direction), waited), own)
}
