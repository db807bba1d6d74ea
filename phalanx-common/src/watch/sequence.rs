//! The sequence space of one direction in constant state: what is new, what came before, what
//! cannot be told; and the acknowledgements that clock the other direction.

use super::entry::{FlowEntry, Half, pack, sequence_of, state};
use super::{Sighting, Tick, is_after, rtt};
use crate::abi::update_reason;
use crate::bytes::Bytes;
use crate::packet::TcpFlags;

/// What a segment was to its flow.
pub(super) struct Seen {
    /// Bits of `abi::update_reason`.
    pub(super) reasons: u32,
    /// It carried bytes that this hop had not seen.
    pub(super) is_new: bool,
}

/// Follows a TCP segment.
#[inline(always)]
pub(super) fn observe<B: Bytes>(entry: &FlowEntry, sighting: &Sighting<'_, B>) -> Seen {
    let own = entry.half(sighting.direction);
    let flags = sighting.flags();
    let mut reasons = 0;
    if flags.any(TcpFlags::ACK) {
        reasons |= acknowledge(entry, sighting);
    }
    note_window(own, sighting);
    if flags.any(TcpFlags::SYN | TcpFlags::FIN | TcpFlags::RST) {
        reasons |= note_flags(entry, own, sighting);
    }
    let length = sighting.sequence_length();
    let other = entry.half(sighting.direction.reverse());
    let is_new = if flags.any(TcpFlags::RST) {
        false
    } else if length == 0 {
        note_empty_keep_alive(own, sighting);
        false
    } else {
        advance(own, other, sighting, length)
    };
    Seen { reasons, is_new }
}

/// A segment without payload one byte before the next: RFC 9293 section 3.8.4.
#[inline(always)]
fn note_empty_keep_alive<B: Bytes>(own: &Half, sighting: &Sighting<'_, B>) {
    let head = own.head.load();
    if head != 0 && sighting.headers.sequence.wrapping_add(1) == sequence_of(head) {
        own.keep_alive_count.add(1);
    }
}

/// Follows the bytes of a segment; returns whether any were new.
#[inline(always)]
fn advance<B: Bytes>(own: &Half, other: &Half, sighting: &Sighting<'_, B>, length: u32) -> bool {
    let start = sighting.headers.sequence;
    let end = start.wrapping_add(length);
    let head = own.head.load();
    if head == 0 || start == sequence_of(head) {
        // Where another CPU was faster, its segment and this one raced to be next: neither is
        // timed wrong, since a slot is only filled by the one that moved the head.
        if own.head.replace(head, pack(end, sighting.now())) {
            rtt::fill(own, sighting, end);
        }
        own.last_segment.store(identity(sighting));
        return true;
    }
    if is_after(start, sequence_of(head)) {
        jump(own, sighting, head, end);
        return true;
    }
    behind(own, other, sighting, end)
}

/// IP id and lower half of the sequence number: enough to know the segment just before again.
#[inline(always)]
fn identity<B: Bytes>(sighting: &Sighting<'_, B>) -> u32 {
    u32::from(sighting.headers.ip_id) << 16 | (sighting.headers.sequence & 0xffff)
}

/// A segment beyond the highest sequence: something before it is missing here.
#[inline(never)]
fn jump<B: Bytes>(own: &Half, sighting: &Sighting<'_, B>, head: u64, end: u32) {
    if !own.head.replace(head, pack(end, sighting.now())) {
        return;
    }
    own.gap_count.add(1);
    let hole = own.hole.load();
    let (first, last) = ((hole >> 32) as u32, hole as u32);
    let first = if first == last {
        sequence_of(head)
    } else {
        first
    };
    own.hole.store(pack(first, sighting.headers.sequence));
    own.last_segment.store(identity(sighting));
    rtt::fill(own, sighting, end);
}

/// A segment behind the highest sequence: returns whether part of it was new all the same.
#[inline(never)]
fn behind<B: Bytes>(own: &Half, other: &Half, sighting: &Sighting<'_, B>, end: u32) -> bool {
    let headers = sighting.headers;
    let next = sequence_of(own.head.load());
    let start = headers.sequence;
    let is_plain = !sighting.flags().any(TcpFlags::SYN | TcpFlags::FIN);
    // RFC 9293 section 3.8.4: a keep-alive may carry one byte of garbage. It asks after a peer that
    // has acknowledged everything; otherwise the byte is sent again because it is missed.
    let is_quiet = other.acknowledged.load() == next;
    if is_plain && is_quiet && headers.payload_length == 1 && start.wrapping_add(1) == next {
        own.keep_alive_count.add(1);
        return false;
    }
    let before = own.last_segment.swap(identity(sighting));
    if headers.ip_id != 0 && before == identity(sighting) {
        own.duplicate_packets.add(sighting.segments);
        return false;
    }
    rtt::invalidate(own, sighting, end);
    let hole = own.hole.load();
    let (first, last) = ((hole >> 32) as u32, hole as u32);
    if first != last && is_after(last, start) && is_after(end, first) {
        own.out_of_sequence_packets.add(sighting.segments);
        return true;
    }
    retransmitted(own, sighting, next, end);
    let is_partly_new = is_after(end, next);
    if is_partly_new {
        let head = own.head.load();
        if sequence_of(head) == next {
            own.head.replace(head, pack(end, sighting.now()));
        }
    }
    is_partly_new
}

/// Counts what a segment repeats of the bytes below `next`.
#[inline(always)]
fn retransmitted<B: Bytes>(own: &Half, sighting: &Sighting<'_, B>, next: u32, end: u32) {
    let repeated_end = if is_after(end, next) { next } else { end };
    let repeated = repeated_end.wrapping_sub(sighting.headers.sequence);
    let payload = sighting.headers.payload_length;
    own.retransmitted_bytes
        .add(u64::from(if repeated < payload {
            repeated
        } else {
            payload
        }));
    // A super-segment that is only partly a repetition: the segments that hold repeated bytes.
    let size = sighting.segment_size;
    let packets = if size == 0 || repeated >= payload {
        sighting.segments
    } else {
        repeated.div_ceil(size)
    };
    own.retransmitted_packets.add(packets);
}

/// Follows an acknowledgement: it clocks the data of the other direction.
#[inline(always)]
fn acknowledge<B: Bytes>(entry: &FlowEntry, sighting: &Sighting<'_, B>) -> u32 {
    let own = entry.half(sighting.direction);
    let number = sighting.headers.acknowledgement;
    let before = own.acknowledged.load();
    if number == before {
        return 0;
    }
    // 0 stands for "none yet"; a number that happens to be 0 only makes the next one the first.
    if before != 0 && !is_after(number, before) {
        return 0;
    }
    own.acknowledged.store(number);
    let other = entry.half(sighting.direction.reverse());
    let mut reasons = rtt::consume(entry, other, sighting);
    let head = other.head.load();
    if head != 0 && is_after(number, sequence_of(head)) {
        unseen(other, number, sighting.now(), own);
    }
    close_hole(other, number);
    if entry.state.load() != 0 {
        reasons |= note_fin_acknowledged(entry, sighting);
    }
    reasons
}

/// The peer acknowledges bytes that this hop never saw: they passed elsewhere, or the hop missed
/// them. What follows is then new, not a jump.
#[inline(never)]
fn unseen(other: &Half, number: u32, now: Tick, own: &Half) {
    own.acknowledged_unseen_count.add(1);
    let head = other.head.load();
    if is_after(number, sequence_of(head)) {
        other.head.replace(head, pack(number, now));
    }
}

/// Holes below an acknowledgement are filled.
#[inline(always)]
fn close_hole(other: &Half, number: u32) {
    let hole = other.hole.load();
    let (first, last) = ((hole >> 32) as u32, hole as u32);
    if first == last {
        return;
    }
    if !is_after(last, number) {
        other.hole.replace(hole, 0);
    } else if is_after(number, first) {
        other.hole.replace(hole, pack(number, last));
    }
}

/// Keeps the window and counts its falls to zero. A window in a SYN, FIN or RST says nothing.
#[inline(always)]
fn note_window<B: Bytes>(own: &Half, sighting: &Sighting<'_, B>) {
    let window = u32::from(sighting.headers.window) + 1;
    let before = own.window.load();
    if window == before {
        return;
    }
    if window == 1 {
        if sighting
            .flags()
            .any(TcpFlags::SYN | TcpFlags::FIN | TcpFlags::RST)
        {
            return;
        }
        own.zero_window_count.add(1);
    }
    own.window.store(window);
}

/// Counts SYN, FIN and RST and follows the closing.
#[inline(never)]
fn note_flags<B: Bytes>(entry: &FlowEntry, own: &Half, sighting: &Sighting<'_, B>) -> u32 {
    let flags = sighting.flags();
    if flags.any(TcpFlags::RST) {
        own.rst_count.add(1);
        return if entry.set_state(state::RESET) {
            update_reason::RESET
        } else {
            0
        };
    }
    if flags.any(TcpFlags::SYN) {
        own.syn_count.add(1);
    }
    if flags.any(TcpFlags::FIN) {
        own.fin_count.add(1);
        let end = sighting
            .headers
            .sequence
            .wrapping_add(sighting.sequence_length());
        own.fin_end.store(end);
        entry.set_state(state::FIN_SENT << sighting.direction as u32);
    }
    0
}

/// Both FINs acknowledged: the connection is closed.
#[inline(never)]
fn note_fin_acknowledged<B: Bytes>(entry: &FlowEntry, sighting: &Sighting<'_, B>) -> u32 {
    let other = sighting.direction.reverse();
    let sent = state::FIN_SENT << other as u32;
    let fin_end = entry.half(other).fin_end.load();
    if entry.has_state(sent) && !is_after(fin_end, sighting.headers.acknowledgement) {
        entry.set_state(state::FIN_ACKNOWLEDGED << other as u32);
    }
    let is_closed = entry.has_state(state::FIN_ACKNOWLEDGED | state::FIN_ACKNOWLEDGED << 1);
    if is_closed && entry.set_state(state::CLOSED) {
        update_reason::CLOSED
    } else {
        0
    }
}
