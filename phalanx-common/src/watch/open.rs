//! The first packets of a flow: they wait in the pending table until the flow has proven itself,
//! by an answer from the other end or by going on.

use super::entry::{FlowEntry, Half, merge_traits, pack, state, with_window_scale};
use super::pending::{Address, Bucket, Counts, Pended, PendingHalf, Syn};
use super::{AttemptState, Sighting, Tables, Tick, microseconds_between, tick, watch_open};
use crate::abi::{Counter, Direction, FlowKey, attempt_outcome, update_reason};
use crate::limits::{BUCKET_PLACE_COUNT, ONE_WAY_PACKETS_MAX, REUSE_SILENCE_NS};
use crate::packet::{TcpFlags, protocol};

/// Whether a SYN on an open flow begins a new connection: after the old one's end, or where it
/// comes with another sequence number after a silence and is answered by a SYN-ACK (which then
/// begins it, as far as this hop tells). A late copy of the old SYN does not, nor does one that is
/// thrown at a live connection, whose end answers by an acknowledgement (RFC 5961 section 4).
#[inline(never)]
pub(super) fn is_reuse(entry: &FlowEntry, sighting: &Sighting) -> bool {
    let own = entry.half(sighting.direction());
    if sighting.flags().any(TcpFlags::ACK) {
        let other = entry.half(sighting.direction().reverse());
        let asked = other.memory.doubted_syn.load();
        return asked != 0 && asked == sighting.headers.acknowledgement;
    }
    if own.memory.initial_sequence.load() == sighting.headers.sequence && own.head.load() != 0 {
        return false;
    }
    let has_ended = entry.has_state(state::CLOSED) || entry.has_state(state::RESET);
    let silent_ticks = sighting.now().wrapping_sub(own.seen.load());
    // Half the round of ticks: another CPU's clock may be ahead of this one's.
    let is_silent = silent_ticks > (REUSE_SILENCE_NS >> 10) as u32 && silent_ticks < 1 << 31;
    if is_silent && !has_ended {
        let asked = sighting.headers.sequence.wrapping_add(1);
        own.memory.doubted_syn.store(asked);
    }
    has_ended
}

/// Where a flow that is not open waits.
#[derive(Clone, Copy)]
struct Waiting<'tables> {
    bucket: &'tables Bucket,
    address: Address,
}

impl<'tables> Waiting<'tables> {
    #[inline(always)]
    fn of<T: Tables>(tables: &'tables T, key: &FlowKey) -> Option<Self> {
        let address = Address::of(key, tables.seed());
        let bucket = tables.bucket(address.bucket)?;
        Some(Self { bucket, address })
    }

    /// How many packets of a direction wait.
    #[inline(always)]
    fn packets(self, direction: Direction) -> u32 {
        self.bucket
            .find(direction, self.address)
            .map_or(0, |place| place.packets(self.address))
    }
}

/// Follows a packet that belongs to no open flow; opens the flow if it is time, and returns whether
/// it did.
#[inline(always)]
pub fn first_packets<T: Tables>(tables: &T, sighting: &Sighting) -> bool {
    let Some(waiting) = Waiting::of(tables, &sighting.key) else {
        tables.count(Counter::UntrackedTableFull, 1);
        return false;
    };
    match judge(waiting, sighting) {
        Judgement::Open => open(tables, waiting, sighting),
        Judgement::Refused => {
            refuse(tables, waiting, sighting);
            false
        }
        Judgement::Wait => wait(tables, waiting, sighting),
    }
}

enum Judgement {
    Open,
    Refused,
    Wait,
}

/// Decides what a packet does to a flow that is not open.
#[inline(always)]
fn judge(waiting: Waiting<'_>, sighting: &Sighting) -> Judgement {
    let is_answered = waiting.packets(sighting.direction().reverse()) > 0;
    let goes_on = waiting.packets(sighting.direction()) >= ONE_WAY_PACKETS_MAX;
    if sighting.headers.protocol == protocol::TCP {
        let flags = sighting.flags();
        if flags.any(TcpFlags::RST) {
            // An answer of RST, to whatever was sent, opens nothing: a flood would open flows.
            return if is_answered {
                Judgement::Refused
            } else {
                Judgement::Wait
            };
        }
        if flags.any(TcpFlags::SYN) {
            // The handshake's first two packets wait for the third.
            return if goes_on {
                Judgement::Open
            } else {
                Judgement::Wait
            };
        }
    }
    if is_answered || goes_on {
        Judgement::Open
    } else {
        Judgement::Wait
    }
}

/// Counts a packet as waiting.
#[inline(always)]
fn wait<T: Tables>(tables: &T, waiting: Waiting<'_>, sighting: &Sighting) -> bool {
    let half = waiting.bucket.place(sighting.direction(), waiting.address);
    let (segments, bytes) = (sighting.segments, sighting.wire_bytes());
    let is_first = match half.count(waiting.address, segments, bytes) {
        Pended::Counted(packets) => packets == segments,
        Pended::Displaced(lost) => {
            tables.count(Counter::PendingDisplaced, 1);
            tables.count(Counter::PendingDisplacedPackets, lost.packets);
            tables.count(Counter::PendingDisplacedBytes, lost.bytes);
            true
        }
        Pended::Contended => return open(tables, waiting, sighting),
    };
    tables.count(Counter::Pended, 1);
    tables.count(Counter::PendedPackets, segments);
    if is_first {
        half.clear_syn();
        half.first_ns.store(sighting.now_ns);
        half.traits.store(0);
    }
    let headers = &sighting.headers;
    half.traits.store(merge_traits(
        half.traits.load(),
        headers.ttl,
        headers.tcp_flags.0,
    ));
    if sighting.flags().any(TcpFlags::SYN) {
        keep_syn(tables, half, sighting, is_first);
    }
    // Another CPU may have opened the flow meanwhile, without this packet: then it is folded in
    // here. Opening writes the flow first and then looks here; this writes here first and then
    // looks for the flow: one of the two sees the other.
    if let Some(entry) = tables.flow(&sighting.key) {
        fold(tables, entry, waiting, sighting.direction());
    }
    false
}

#[inline(always)]
fn keep_syn<T: Tables>(tables: &T, half: &PendingHalf, sighting: &Sighting, is_first: bool) {
    let (mss, scale) = (sighting.headers.mss, sighting.headers.window_scale_plus_one);
    let is_answer = sighting.flags().any(TcpFlags::ACK);
    half.keep_syn(
        sighting.headers.sequence,
        sighting.now(),
        mss,
        scale,
        is_answer,
    );
    if is_first && !is_answer {
        let attempt = AttemptState {
            initiator: sighting.direction(),
            now_ns: sighting.now_ns,
            outcome: attempt_outcome::STARTED,
            answer_us: 0,
            icmp_error: 0,
        };
        tables.send_attempt(&sighting.key, &attempt);
    }
}

/// A RST answers what waits: the flow does not come to be.
#[inline(always)]
fn refuse<T: Tables>(tables: &T, waiting: Waiting<'_>, sighting: &Sighting) {
    tables.count(Counter::Refused, 1);
    let initiator = sighting.direction().reverse();
    let answered = waiting
        .bucket
        .find(sighting.direction(), waiting.address)
        .and_then(|half| half.take(waiting.address))
        .unwrap_or_default();
    let Some(half) = waiting.bucket.find(initiator, waiting.address) else {
        return;
    };
    let syn = half.syn();
    let Some(asked) = half.take(waiting.address) else {
        return;
    };
    tables.count(Counter::PendingCleared, answered.packets + asked.packets);
    if syn.sent_count == 0 {
        return;
    }
    half.clear_syn();
    let answer_us = microseconds_between(syn.tick, sighting.now());
    let attempt = AttemptState {
        initiator,
        now_ns: sighting.now_ns,
        outcome: attempt_outcome::REFUSED,
        answer_us,
        icmp_error: 0,
    };
    tables.send_attempt(&sighting.key, &attempt);
}

/// An ICMP error quotes a packet of a flow that is not open: returns whether one was waiting.
#[inline(always)]
pub(super) fn unreachable<T: Tables>(
    tables: &T,
    key: &FlowKey,
    quoted: Direction,
    now_ns: u64,
    icmp_error: u32,
) -> bool {
    let Some(waiting) = Waiting::of(tables, key) else {
        return false;
    };
    let Some(half) = waiting.bucket.find(quoted, waiting.address) else {
        return false;
    };
    let syn = half.syn();
    if syn.sent_count != 0 {
        let answer_us = microseconds_between(syn.tick, tick(now_ns));
        let attempt = AttemptState {
            initiator: quoted,
            now_ns,
            outcome: attempt_outcome::ICMP_ERROR,
            answer_us,
            icmp_error,
        };
        tables.send_attempt(key, &attempt);
    }
    true
}

/// Opens the flow of a packet and counts the packet in it.
#[inline(always)]
fn open<T: Tables>(tables: &T, waiting: Waiting<'_>, sighting: &Sighting) -> bool {
    let Some(entry) = tables.open(&sighting.key, sighting.now_ns) else {
        tables.count(Counter::UntrackedTableFull, 1);
        return false;
    };
    let from_low = fold(tables, entry, waiting, Direction::FromLow);
    let from_high = fold(tables, entry, waiting, Direction::FromHigh);
    complete_handshake(entry, sighting, from_low, from_high);
    watch_open(tables, entry, sighting, update_reason::OPENED);
    true
}

/// Moves what waits of one direction into the open flow; returns the SYN that was there.
#[inline(never)]
fn fold<T: Tables>(
    tables: &T,
    entry: &FlowEntry,
    waiting: Waiting<'_>,
    direction: Direction,
) -> Syn {
    let mut kept = Syn::default();
    // Two CPUs may each have found another place for the flow's first packets.
    for _ in 0..BUCKET_PLACE_COUNT {
        let Some(half) = waiting.bucket.find(direction, waiting.address) else {
            break;
        };
        let syn = half.syn();
        let packets = move_counts(entry, direction, half, waiting.address);
        if packets == 0 {
            break;
        }
        half.clear_syn();
        tables.count(Counter::PendingFolded, packets);
        if syn.sent_count != 0 {
            keep_folded(entry.half(direction), syn);
            kept = syn;
        }
    }
    kept
}

#[inline(always)]
fn keep_folded(own: Half<'_>, syn: Syn) {
    own.head
        .replace(0, pack(syn.sequence.wrapping_add(1), syn.tick));
    own.memory.initial_sequence.store(syn.sequence);
    own.mss.store(u32::from(syn.mss));
    own.traits.store(with_window_scale(
        own.traits.load(),
        syn.window_scale_plus_one,
    ));
    own.syn_count.add(syn.sent_count);
    own.retransmitted_packets.add(syn.sent_count - 1);
}

/// Moves the counts that wait into an open flow; returns how many packets that were.
#[inline(always)]
fn move_counts(
    entry: &FlowEntry,
    direction: Direction,
    half: &PendingHalf,
    address: Address,
) -> u32 {
    let own = entry.half(direction);
    let first_ns = half.first_ns.load();
    let traits = half.traits.load();
    let Counts { packets, bytes } = half.take(address).unwrap_or_default();
    if packets == 0 {
        return 0;
    }
    entry.count(direction, packets, bytes);
    if own.traits.load() == 0 {
        own.traits.store(traits);
    }
    let opened_ns = entry.opened_ns.load();
    if first_ns != 0 && first_ns < opened_ns {
        entry.opened_ns.replace(opened_ns, first_ns);
    }
    packets
}

/// Tells who opened the connection, and splits the handshake into the server's and the client's
/// side where each of its packets was sent once (Karn's rule).
#[inline(always)]
fn complete_handshake(entry: &FlowEntry, sighting: &Sighting, from_low: Syn, from_high: Syn) {
    let Some(client) = opener(from_low, from_high) else {
        return;
    };
    entry.initiator.store(client as u32 + 1);
    let (request, answer) = match client {
        Direction::FromLow => (from_low, from_high),
        Direction::FromHigh => (from_high, from_low),
    };
    if answer.sent_count != 1 || !answer.is_answer {
        return;
    }
    if request.sent_count == 1 {
        entry
            .handshake_server_us
            .store(at_least_one(request.tick, answer.tick));
    }
    let acknowledges = sighting.headers.acknowledgement == answer.sequence.wrapping_add(1);
    if sighting.direction() == client && acknowledges {
        entry
            .handshake_client_us
            .store(at_least_one(answer.tick, sighting.now()));
    }
}

/// Who sent the SYN, told by it or by its answer; of two that opened at once, neither.
#[inline(always)]
fn opener(from_low: Syn, from_high: Syn) -> Option<Direction> {
    let sent = |syn: Syn, is_answer: bool| syn.sent_count != 0 && syn.is_answer == is_answer;
    let is_low = sent(from_low, false) || sent(from_high, true);
    let is_high = sent(from_high, false) || sent(from_low, true);
    match (is_low, is_high) {
        (true, false) => Some(Direction::FromLow),
        (false, true) => Some(Direction::FromHigh),
        _ => None,
    }
}

/// Microseconds between two ticks, at least 1: 0 says "not measured".
#[inline(always)]
fn at_least_one(from: Tick, to: Tick) -> u32 {
    let microseconds = microseconds_between(from, to);
    if microseconds == 0 { 1 } else { microseconds }
}
