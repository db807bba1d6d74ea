//! The sequence space of one direction in constant state: what is new, what came before, what
//! cannot be told; and the acknowledgements that clock the other direction.

use super::entry::{FlowEntry, Half, pack, sequence_of, state};
use super::promote::SICK;
use super::{Sighting, is_after, rtt};
use crate::abi::update_reason;
use crate::packet::TcpFlags;
use crate::word::Word32;

/// What a segment was to its flow.
pub(super) struct Seen {
    /// Bits of `abi::update_reason`, and [`SICK`].
    pub(super) reasons: u32,
    /// It carried bytes that this hop had not seen.
    pub(super) is_new: bool,
}

/// Follows a TCP segment; `is_like_before` says that it has flags and window of the one before.
#[inline(always)]
pub(super) fn observe(entry: &FlowEntry, sighting: &Sighting, is_like_before: bool) -> Seen {
    let own = entry.half(sighting.direction());
    let flags = sighting.flags();
    let mut reasons = 0;
    if flags.any(TcpFlags::ACK) {
        reasons |= acknowledge(entry, sighting);
    }
    // What looks like the packet before has its window, and no SYN, FIN or RST.
    if !is_like_before {
        reasons |= note_window(own, sighting);
    }
    let length = sighting.sequence_length();
    let segment = if flags.any(TcpFlags::RST) {
        0
    } else if length == 0 {
        note_empty_keep_alive(own, sighting);
        0
    } else {
        advance(entry, own, sighting, length)
    };
    // After the sequence has moved: a FIN that it follows is believed.
    if !is_like_before && flags.any(TcpFlags::SYN | TcpFlags::FIN | TcpFlags::RST) {
        reasons |= note_flags(entry, sighting);
    }
    Seen {
        reasons: reasons | (segment & SICK),
        is_new: segment & NEW != 0,
    }
}

/// What the bytes of a segment were, beside [`SICK`]: some were new.
const NEW: u32 = 1;

/// A segment without payload one byte before the next: RFC 9293 section 3.8.4.
#[inline(always)]
fn note_empty_keep_alive(own: Half<'_>, sighting: &Sighting) {
    let head = own.head.load();
    if head != 0 && sighting.headers.sequence.wrapping_add(1) == sequence_of(head) {
        own.keep_alive_count.add(1);
    }
}

/// Follows the bytes of a segment; returns whether any were new, and whether they show the flow
/// sick: [`NEW`] and [`SICK`].
#[inline(always)]
fn advance(entry: &FlowEntry, own: Half<'_>, sighting: &Sighting, length: u32) -> u32 {
    let start = sighting.headers.sequence;
    let end = start.wrapping_add(length);
    let head = own.head.load();
    if head == 0 || start == sequence_of(head) {
        // Where another CPU was faster, its segment and this one raced to be next: neither is
        // timed wrong, since a slot is only filled by the one that moved the head.
        if own.head.replace(head, pack(end, sighting.now())) {
            rtt::fill(own, sighting, end);
        }
        own.memory.last_segment.store(identity(sighting));
        return NEW;
    }
    if is_after(start, sequence_of(head)) {
        return u32::from(jump(entry, sighting, end));
    }
    behind(entry, sighting, end)
}

/// IP id and lower half of the sequence number: enough to know the segment just before again.
#[inline(always)]
fn identity(sighting: &Sighting) -> u32 {
    u32::from(sighting.headers.ip_id) << 16 | (sighting.headers.sequence & 0xffff)
}

/// A segment beyond the highest sequence: something before it is missing here. Returns whether it
/// is believed.
#[inline(never)]
fn jump(entry: &FlowEntry, sighting: &Sighting, end: u32) -> bool {
    let own = entry.half(sighting.direction());
    let other = entry.half(sighting.direction().reverse());
    let acknowledged = other.acknowledged.load();
    let is_in_window = acknowledged == 0 || end.wrapping_sub(acknowledged) <= window_bytes(other);
    if !is_in_window && !is_confirmed(&own.memory.doubted_sequence, end, other) {
        own.implausible_packets.add(1);
        return false;
    }
    let head = own.head.load();
    if !own.head.replace(head, pack(end, sighting.now())) {
        return true;
    }
    own.gap_count.add(1);
    let hole = own.memory.hole.load();
    let (first, last) = ((hole >> 32) as u32, hole as u32);
    let first = if first == last {
        sequence_of(head)
    } else {
        first
    };
    own.memory
        .hole
        .store(pack(first, sighting.headers.sequence));
    own.memory.last_segment.store(identity(sighting));
    rtt::fill(own, sighting, end);
    true
}

/// The least that a window is taken for, in bytes: the widest one without a scale.
const WINDOW_BYTES_MIN: u32 = 1 << 16;
/// The scale of a window whose handshake was not seen: the largest one (RFC 7323 section 2.3).
const SCALE_MAX: u32 = 14;

/// How far the numbers of the data that this end receives may lie apart: as wide as its window ever
/// was.
#[inline(always)]
fn window_bytes(receiver: Half<'_>) -> u32 {
    let scale_plus_one = receiver.traits.load() >> 24;
    let scale = if scale_plus_one != 0 {
        (scale_plus_one - 1) & 15
    } else if receiver.syn_count.load() != 0 {
        0
    } else {
        SCALE_MAX
    };
    let bytes = (receiver.memory.window_max.load() & 0x1_ffff) << scale;
    if bytes < WINDOW_BYTES_MIN {
        WINDOW_BYTES_MIN
    } else {
        bytes
    }
}

/// Whether a number that is doubted is to be believed all the same: once another one follows it (as
/// RFC 5961 asks twice before it believes). A forged packet does not find its successor.
#[inline(always)]
fn is_confirmed(doubted: &Word32, number: u32, receiver: Half<'_>) -> bool {
    let before = doubted.load();
    let is_next = before != 0 && number.wrapping_sub(before) < window_bytes(receiver);
    if is_next {
        doubted.store(0);
    } else {
        doubted.store(number.wrapping_add(1));
    }
    is_next
}

/// A segment behind the highest sequence: returns [`NEW`] where part of it was new all the same,
/// and [`SICK`] where it was lost before, or came too late.
#[inline(never)]
fn behind(entry: &FlowEntry, sighting: &Sighting, end: u32) -> u32 {
    let own = entry.half(sighting.direction());
    let other = entry.half(sighting.direction().reverse());
    let headers = &sighting.headers;
    let next = sequence_of(own.head.load());
    let start = headers.sequence;
    if next.wrapping_sub(start) > window_bytes(other) {
        return u32::from(resume(own, other, sighting, end));
    }
    let is_plain = !sighting.flags().any(TcpFlags::SYN | TcpFlags::FIN);
    // RFC 9293 section 3.8.4: a keep-alive may carry one byte of garbage. It asks after a peer that
    // has acknowledged everything; otherwise the byte is sent again because it is missed.
    let is_quiet = other.acknowledged.load() == next;
    if is_plain && is_quiet && headers.payload_length == 1 && start.wrapping_add(1) == next {
        own.keep_alive_count.add(1);
        return 0;
    }
    let before = own.memory.last_segment.swap(identity(sighting));
    if headers.ip_id != 0 && before == identity(sighting) {
        own.duplicate_packets.add(sighting.segments);
        return 0;
    }
    rtt::invalidate(own, sighting, end);
    let hole = own.memory.hole.load();
    let (first, last) = ((hole >> 32) as u32, hole as u32);
    if first != last && is_after(last, start) && is_after(end, first) {
        own.out_of_sequence_packets.add(sighting.segments);
        return NEW | SICK;
    }
    retransmitted(own, sighting, next, end);
    if is_after(end, next) {
        let head = own.head.load();
        if sequence_of(head) == next {
            own.head.replace(head, pack(end, sighting.now()));
        }
        return NEW | SICK;
    }
    SICK
}

/// A segment so far behind that it cannot be a repetition: the highest sequence was forged, or this
/// segment is.
#[inline(always)]
fn resume(own: Half<'_>, other: Half<'_>, sighting: &Sighting, end: u32) -> bool {
    let is_believed = is_confirmed(&own.memory.doubted_sequence, end, other);
    own.implausible_packets.add(u32::from(!is_believed));
    if is_believed {
        own.head.store(pack(end, sighting.now()));
        own.memory.hole.store(0);
        rtt::forget(own);
    }
    is_believed
}

/// Counts what a segment repeats of the bytes below `next`.
#[inline(always)]
fn retransmitted(own: Half<'_>, sighting: &Sighting, next: u32, end: u32) {
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
fn acknowledge(entry: &FlowEntry, sighting: &Sighting) -> u32 {
    let own = entry.half(sighting.direction());
    let number = sighting.headers.acknowledgement;
    let before = own.acknowledged.load();
    if number == before {
        return 0;
    }
    let other = entry.half(sighting.direction().reverse());
    let head = other.head.load();
    // 0 stands for "none yet"; a number that happens to be 0 only makes the next one the first.
    let is_behind = before != 0 && !is_after(number, before);
    let is_ahead = head != 0 && is_after(number, sequence_of(head));
    if (is_behind || is_ahead) && !unseen(entry, sighting) {
        return 0;
    }
    own.acknowledged.store(number);
    let mut reasons = rtt::consume(entry, other, sighting);
    close_hole(other, number);
    if entry.state.load() != 0 {
        reasons |= note_fin_acknowledged(entry, sighting);
    }
    reasons
}

/// An acknowledgement of old data, or of data that this hop never saw: it passed elsewhere, or the
/// hop missed it, or the number is forged. Returns whether it is to be followed; what comes after
/// data that was missed is new then, not a jump.
#[inline(never)]
fn unseen(entry: &FlowEntry, sighting: &Sighting) -> bool {
    let own = entry.half(sighting.direction());
    let other = entry.half(sighting.direction().reverse());
    let number = sighting.headers.acknowledgement;
    let before = own.acknowledged.load();
    let head = other.head.load();
    let is_behind = before != 0 && !is_after(number, before);
    let far = if is_behind {
        before.wrapping_sub(number)
    } else if before == 0 {
        number.wrapping_sub(sequence_of(head))
    } else {
        number.wrapping_sub(before)
    };
    let is_plausible = far <= window_bytes(own);
    if is_plausible && is_behind {
        return false;
    }
    // Bytes that were not seen are asked for twice, also within the window, which is wide enough to
    // be hit by a guess.
    if !is_confirmed(&own.memory.doubted_acknowledgement, number, own) {
        own.implausible_packets.add(u32::from(!is_plausible));
        return false;
    }
    if !is_plausible {
        rtt::forget(other);
    }
    own.acknowledged_unseen_count.add(1);
    if !is_plausible || is_after(number, sequence_of(head)) {
        other.head.replace(head, pack(number, sighting.now()));
    }
    true
}

/// Holes below an acknowledgement are filled.
#[inline(always)]
fn close_hole(other: Half<'_>, number: u32) {
    let hole = other.memory.hole.load();
    let (first, last) = ((hole >> 32) as u32, hole as u32);
    if first == last {
        return;
    }
    if !is_after(last, number) {
        other.memory.hole.replace(hole, 0);
    } else if is_after(number, first) {
        other.memory.hole.replace(hole, pack(number, last));
    }
}

/// Keeps the window and counts its falls to zero. A window in a SYN, FIN or RST says nothing.
/// Returns [`SICK`] where it fell to zero.
#[inline(always)]
fn note_window(own: Half<'_>, sighting: &Sighting) -> u32 {
    let window = u32::from(sighting.headers.window) + 1;
    let before = own.window.load();
    if window == before {
        return 0;
    }
    if window == 1 {
        if sighting
            .flags()
            .any(TcpFlags::SYN | TcpFlags::FIN | TcpFlags::RST)
        {
            return 0;
        }
        own.zero_window_count.add(1);
    }
    own.window.store(window);
    if window > own.memory.window_max.load() {
        own.memory.window_max.store(window);
    }
    if window == 1 { SICK } else { 0 }
}

/// Whether a number of this end lies within a window of the highest one that was seen.
#[inline(always)]
fn is_near(own: Half<'_>, receiver: Half<'_>, number: u32) -> bool {
    let head = own.head.load();
    let ahead = number.wrapping_sub(sequence_of(head));
    let window = window_bytes(receiver);
    head == 0 || ahead <= window || ahead.wrapping_neg() <= window
}

/// Counts SYN, FIN and RST and follows the closing. A RST or FIN beyond any window ends nothing, as
/// its receiver drops it too (RFC 9293 section 3.10.7.4, RFC 5961 section 3). A reset shows a flow
/// sick where neither end had begun to close: many programs end a connection that is done by a
/// reset after the FIN.
#[inline(never)]
fn note_flags(entry: &FlowEntry, sighting: &Sighting) -> u32 {
    let own = entry.half(sighting.direction());
    let other = entry.half(sighting.direction().reverse());
    let flags = sighting.flags();
    let end = sighting
        .headers
        .sequence
        .wrapping_add(sighting.sequence_length());
    let is_near = is_near(own, other, end);
    if flags.any(TcpFlags::RST) {
        if !is_near {
            own.implausible_packets.add(1);
            return 0;
        }
        own.rst_count.add(1);
        let is_open = entry.state.load() == 0;
        return match entry.set_state(state::RESET) {
            true if is_open => update_reason::RESET | SICK,
            true => update_reason::RESET,
            false => 0,
        };
    }
    if flags.any(TcpFlags::SYN) {
        own.syn_count.add(1);
    }
    if flags.any(TcpFlags::FIN) && is_near {
        own.fin_count.add(1);
        own.memory.fin_end.store(end);
        entry.set_state(state::FIN_SENT << sighting.direction() as u32);
    }
    0
}

/// Both FINs acknowledged: the connection is closed.
#[inline(never)]
fn note_fin_acknowledged(entry: &FlowEntry, sighting: &Sighting) -> u32 {
    let other = sighting.direction().reverse();
    let sent = state::FIN_SENT << other as u32;
    let fin_end = entry.half(other).memory.fin_end.load();
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
