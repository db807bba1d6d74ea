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
mod promote;
mod rtt;
mod sample;
mod sequence;

pub use entry::{FlowEntry, Half, HalfCells, HalfMemory};
pub use open::first_packets;
pub use pending::{Bucket, PendingHalf};
pub use promote::{PROMOTION_COUNT_MAX, PromotionLimit, WINDOW_NS, promote};
pub use sample::{SAMPLE_ALL, sample_of};

use promote::SICK;

use crate::abi::{Counter, Direction, FlowKey, Sample, SampleKind, update_reason};
use crate::packet::{Headers, TcpFlags, protocol};
use crate::word::Word64;

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
#[repr(C)]
pub struct Sighting {
    /// Its decoded headers, with the options that `packet::read_options` reads.
    pub headers: Headers,
    /// Its flow.
    pub key: FlowKey,
    /// When it was seen: `CLOCK_MONOTONIC` nanoseconds.
    pub now_ns: u64,
    /// Packets on the wire that it stands for: 1, or the segments of a super-segment.
    pub segments: u32,
    /// Payload bytes of each segment of a super-segment, 0 for a plain packet.
    pub segment_size: u32,
    /// Which way it goes through its flow.
    pub direction: DirectionWord,
}

/// A [`Direction`] in memory that is shared with the verifier, which does not know that it is one
/// of two.
#[derive(Clone, Copy, Debug, Default)]
#[repr(transparent)]
pub struct DirectionWord(u32);

impl From<Direction> for DirectionWord {
    #[inline(always)]
    fn from(direction: Direction) -> Self {
        Self(direction as u32)
    }
}

impl Sighting {
    /// Which way the packet goes through its flow.
    #[inline(always)]
    #[must_use]
    pub fn direction(&self) -> Direction {
        if self.direction.0 & 1 == 0 {
            Direction::FromLow
        } else {
            Direction::FromHigh
        }
    }

    #[inline(always)]
    fn now(&self) -> Tick {
        tick(self.now_ns)
    }

    #[inline(always)]
    fn flags(&self) -> TcpFlags {
        self.headers.tcp_flags
    }

    /// TTL, flags and window in one word; a TTL is never 0.
    #[inline(always)]
    fn look(&self) -> u32 {
        let headers = &self.headers;
        u32::from(headers.window) << 16
            | u32::from(headers.tcp_flags.0) << 8
            | u32::from(headers.ttl)
    }

    /// IP bytes on the wire: a super-segment's headers are sent once with each segment.
    #[inline(always)]
    fn wire_bytes(&self) -> u32 {
        let headers = &self.headers;
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

/// How many segments of `size` payload bytes a super-segment holds, at least one.
#[inline(always)]
#[must_use]
pub const fn segments_of(headers: &Headers, size: u32) -> u32 {
    match headers.payload_length.checked_div(size) {
        None | Some(0) => 1,
        Some(whole) if whole * size == headers.payload_length => whole,
        Some(whole) => whole + 1,
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
    // Each field is written in either branch, word by word: a copy between places that may overlap
    // would be a loop over bytes in the kernel programs.
    if is_from_low {
        key.low = words(headers.source);
        key.high = words(headers.destination);
        key.low_port = headers.source_port;
        key.high_port = headers.destination_port;
        Direction::FromLow
    } else {
        key.low = words(headers.destination);
        key.high = words(headers.source);
        key.low_port = headers.destination_port;
        key.high_port = headers.source_port;
        Direction::FromHigh
    }
}

/// An address in four words instead of two.
#[inline(always)]
const fn words(address: [u64; 2]) -> [u32; 4] {
    [
        address[0] as u32,
        (address[0] >> 32) as u32,
        address[1] as u32,
        (address[1] >> 32) as u32,
    ]
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
    // Anyone can send errors that quote a known flow, of any kind: after the first one they are
    // told no more often than the interval.
    let is_first = entry.icmp_error.load() == 0;
    entry.icmp_error.store(icmp_error);
    if is_first || is_due(tables, entry, now_ns) {
        send(tables, entry, update_reason::ICMP_ERROR, now_ns);
    }
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
    /// The bucket of flows not yet open at `index`, below [`crate::limits::BUCKET_COUNT`].
    fn bucket(&self, index: u32) -> Option<&Bucket>;
    /// The seed of the pending table's hash: attackers choose keys.
    fn seed(&self) -> u64;
    /// Adds to a counter.
    fn count(&self, counter: Counter, amount: u32);
    /// Longest time between two updates, in nanoseconds.
    fn update_interval_ns(&self) -> u64;
    /// Sends the head of a flow's entry as its update.
    fn send_update(&self, entry: &FlowEntry);
    /// Sends word of an attempt to open the flow `key`.
    fn send_attempt(&self, key: &FlowKey, attempt: &AttemptState);
    /// What may be promoted.
    fn promotion_limit(&self) -> PromotionLimit;
    /// How many promotions were made in which window: one word for all CPUs.
    fn promotions(&self) -> Option<&Word64>;

    /// Runs [`promote()`], on a path that few packets take.
    #[inline(always)]
    fn promote(&self, entry: &FlowEntry, now_ns: u64)
    where
        Self: Sized,
    {
        promote(self, entry, now_ns);
    }

    /// Runs [`observe`]: the kernel programs give it a function that is verified on its own.
    #[inline(always)]
    fn observe(&self, entry: &FlowEntry, sighting: &Sighting) -> u32 {
        observe(entry, sighting)
    }

    /// Runs [`first_packets`], likewise.
    #[inline(always)]
    fn first_packets(&self, sighting: &Sighting) -> bool
    where
        Self: Sized,
    {
        first_packets(self, sighting)
    }
}

/// Runs the rule on a packet and returns its flow, if it has one that is open.
#[inline(always)]
pub fn watch<'tables, T: Tables>(
    tables: &'tables T,
    sighting: &Sighting,
) -> Option<&'tables FlowEntry> {
    if let Some(entry) = tables.flow(&sighting.key) {
        if !(sighting.flags().any(TcpFlags::SYN) && open::is_reuse(entry, sighting)) {
            watch_open(tables, entry, sighting, 0);
            return Some(entry);
        }
        send(tables, entry, update_reason::REUSED, sighting.now_ns);
        tables.remove(&sighting.key);
    }
    if tables.first_packets(sighting) {
        tables.flow(&sighting.key)
    } else {
        None
    }
}

/// Counts a packet in its open flow and tells of it, where there is something to tell.
#[inline(always)]
fn watch_open<T: Tables>(tables: &T, entry: &FlowEntry, sighting: &Sighting, reasons: u32) {
    tables.count(Counter::Watched, 1);
    let mut reasons = reasons | tables.observe(entry, sighting);
    if reasons & SICK != 0 {
        reasons &= !SICK;
        tables.promote(entry, sighting.now_ns);
    }
    if is_due(tables, entry, sighting.now_ns) {
        reasons |= update_reason::INTERVAL;
    }
    if reasons != 0 {
        send(tables, entry, reasons, sighting.now_ns);
    }
}

/// Counts a packet in its flow; returns the reasons to send an update, bits of
/// [`update_reason`], and the bit that says that the packet shows the flow sick.
#[inline(always)]
pub fn observe(entry: &FlowEntry, sighting: &Sighting) -> u32 {
    let own = entry.half(sighting.direction());
    entry.count(
        sighting.direction(),
        sighting.segments,
        sighting.wire_bytes(),
    );
    let now = sighting.now();
    own.seen.store(now);
    // RFC 3168 section 5: both bits set say "congestion experienced".
    if sighting.headers.traffic_class & 3 == 3 {
        own.ecn_marked_packets.add(sighting.segments);
    }
    let look = sighting.look();
    let is_like_before = own.memory.look.load() == look;
    if !is_like_before {
        note_traits(own, sighting);
        let is_plain = !sighting
            .flags()
            .any(TcpFlags::SYN | TcpFlags::FIN | TcpFlags::RST);
        own.memory.look.store(if is_plain { look } else { 0 });
    }
    let mut reasons = entry.waiting.load();
    let mut has_new_payload = sighting.headers.payload_length > 0;
    if sighting.headers.protocol == protocol::TCP {
        let seen = sequence::observe(entry, sighting, is_like_before);
        reasons |= seen.reasons;
        has_new_payload &= seen.is_new;
    }
    if has_new_payload {
        reasons |= note_turn(entry, sighting);
    }
    reasons
}

/// Whether the longest time between two updates has passed.
#[inline(always)]
fn is_due<T: Tables>(tables: &T, entry: &FlowEntry, now_ns: u64) -> bool {
    // Another CPU that took the time later may have sent one since.
    now_ns.saturating_sub(entry.pushed_ns.load()) > tables.update_interval_ns()
}

/// Sends an update of a flow; of several CPUs that would at once, one does, and then once more for
/// the others.
#[inline(never)]
fn send<T: Tables>(tables: &T, entry: &FlowEntry, reasons: u32, now_ns: u64) {
    let mut reasons = reasons;
    for _ in 0..2 {
        if reasons == 0 || !entry.begin_update(reasons, now_ns) {
            return;
        }
        tables.send_update(entry);
        // What comes up during the second one is left to the next packet.
        reasons = entry.end_update();
    }
}

/// Keeps the range of TTLs and the flags seen.
#[inline(always)]
fn note_traits(own: Half<'_>, sighting: &Sighting) {
    let headers = &sighting.headers;
    let traits = own.traits.load();
    let merged = entry::merge_traits(traits, headers.ttl, headers.tcp_flags.0);
    if merged != traits {
        // A lost race is mended by the next packet that carries the same and looks new.
        own.traits.store(merged);
    }
}

/// Takes a turn sample where new payload changes direction: think time, or idle time, and path.
#[inline(always)]
fn note_turn(entry: &FlowEntry, sighting: &Sighting) -> u32 {
    let (direction, now) = (sighting.direction(), sighting.now());
    let own = entry.half(direction).memory;
    let own_last = own.payload.load();
    let other_last = entry.half(direction.reverse()).memory.payload.load();
    own.payload.store(now);
    if other_last == 0 || (own_last != 0 && !is_after(other_last, own_last)) {
        return 0;
    }
    // Another CPU may have seen its packet after this one; and of what was seen more than half a
    // round of ticks ago they do not tell when.
    if is_after(other_last, now) || entry.was_silent_for_long(sighting.now_ns) {
        return 0;
    }
    entry.push_sample(Sample {
        kind: SampleKind::Turn(direction),
        microseconds: microseconds_between(other_last, now),
    })
}
