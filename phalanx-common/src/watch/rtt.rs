//! RTT by sequence range: a segment is timed from its sending to the acknowledgement of exactly
//! its end. Karn's rule (RFC 6298 section 3) and its widening by tcptrace are kept: no sample for
//! what was sent twice, nor for what was sent before something else was sent again, since its
//! acknowledgement waited for that. Where timestamps tell a retransmission from its original (RFC
//! 7323 section 3), the retransmission itself is timed.

use super::entry::{FlowEntry, Half, pack, sequence_of, tick_of};
use super::{Sighting, is_after, microseconds_between};
use crate::abi::{Sample, SampleKind};
use crate::bytes::Bytes;
use crate::limits::RTT_SLOT_COUNT;
use crate::packet::parse_timestamps;

const MASK: usize = RTT_SLOT_COUNT - 1;

/// Begins to time a segment, if a slot is free: all segments while few are outstanding, at least
/// one in each round trip beyond, since slots fall free as acknowledgements pass.
#[inline(always)]
pub(super) fn fill<B: Bytes>(own: &Half, sighting: &Sighting<'_, B>, end: u32) {
    let filled = own.slots_filled.load();
    if filled.wrapping_sub(own.slots_consumed.load()) >= RTT_SLOT_COUNT as u32 {
        return;
    }
    fill_slot(own, sighting, filled, pack(end, sighting.now()));
}

#[inline(always)]
fn fill_slot<B: Bytes>(own: &Half, sighting: &Sighting<'_, B>, filled: u32, word: u64) {
    let index = filled as usize & MASK;
    // The count says that the slot is free; what a lost race left in it is overwritten.
    let old = own.slots[index].load();
    if own.slots[index].replace(old, word) {
        let timestamp = timestamps(sighting).map_or(0, |(value, _)| value);
        own.slot_timestamps[index].store(timestamp);
        own.slots_filled.store(filled.wrapping_add(1));
    }
}

#[inline(always)]
fn timestamps<B: Bytes>(sighting: &Sighting<'_, B>) -> Option<(u32, u32)> {
    let headers = sighting.headers;
    parse_timestamps(
        sighting.bytes,
        headers.transport_offset + 20,
        headers.payload_offset,
    )
}

/// Takes the slots that an acknowledgement covers; the one that ends at it gives a sample.
#[inline(always)]
pub(super) fn consume<B: Bytes>(
    entry: &FlowEntry,
    other: &Half,
    sighting: &Sighting<'_, B>,
) -> u32 {
    let consumed = other.slots_consumed.load();
    let mut reasons = 0;
    if consumed != other.slots_filled.load() {
        reasons = consume_slots(entry, other, sighting);
    }
    let retransmission = other.retransmission.load();
    if retransmission != 0 {
        reasons |= consume_retransmission(entry, other, sighting);
    }
    reasons
}

#[inline(never)]
fn consume_slots<B: Bytes>(entry: &FlowEntry, other: &Half, sighting: &Sighting<'_, B>) -> u32 {
    let number = sighting.headers.acknowledgement;
    let mut reasons = 0;
    for _ in 0..RTT_SLOT_COUNT {
        let consumed = other.slots_consumed.load();
        if consumed == other.slots_filled.load() {
            break;
        }
        let slot = &other.slots[consumed as usize & MASK];
        let word = slot.load();
        if word != 0 && is_after(sequence_of(word), number) {
            break;
        }
        // A lost race drops the sample: another CPU took it, or it could no longer be timed.
        let is_taken = word != 0 && slot.replace(word, 0);
        other.slots_consumed.store(consumed.wrapping_add(1));
        if !is_taken {
            continue;
        }
        if sequence_of(word) == number && tick_of(word) != 0 {
            reasons |= take(
                entry,
                other,
                sighting,
                microseconds_between(tick_of(word), sighting.now()),
            );
        }
    }
    reasons
}

/// Keeps a sample of the data that the other direction sent.
#[inline(always)]
fn take<B: Bytes>(entry: &FlowEntry, other: &Half, sighting: &Sighting<'_, B>, rtt_us: u32) -> u32 {
    let rtt_us = if rtt_us == 0 { 1 } else { rtt_us };
    let least = other.rtt_min_us.load();
    if least == 0 || rtt_us < least {
        other.rtt_min_us.store(rtt_us);
    }
    other.rtt_sample_count.add(1);
    let kind = SampleKind::Rtt(sighting.direction.reverse());
    entry.push_sample(Sample::new(kind, rtt_us), other)
}

/// A segment from `start` on was sent again: whatever ends after `start` can no longer be timed.
/// Where the original's timestamp is known and differs, the retransmission is timed by its own.
#[inline(always)]
pub(super) fn invalidate<B: Bytes>(own: &Half, sighting: &Sighting<'_, B>, end: u32) {
    let start = sighting.headers.sequence;
    own.retransmission.store(0);
    let own_timestamp = timestamps(sighting).map_or(0, |(value, _)| value);
    for index in 0..RTT_SLOT_COUNT {
        let word = own.slots[index].load();
        if word == 0 || !is_after(sequence_of(word), start) {
            continue;
        }
        let original = own.slot_timestamps[index].load();
        if sequence_of(word) == end && original != 0 && is_after(own_timestamp, original) {
            own.retransmission_timestamp.store(own_timestamp);
            own.retransmission.store(pack(end, sighting.now()));
        }
        // The end stays, so that the slot is consumed in its turn.
        own.slots[index].replace(word, pack(sequence_of(word), 0));
    }
}

/// Times a retransmission whose acknowledgement echoes its timestamp, and not the original's.
#[inline(never)]
fn consume_retransmission<B: Bytes>(
    entry: &FlowEntry,
    other: &Half,
    sighting: &Sighting<'_, B>,
) -> u32 {
    let word = other.retransmission.load();
    let number = sighting.headers.acknowledgement;
    if word == 0 || is_after(sequence_of(word), number) || !other.retransmission.replace(word, 0) {
        return 0;
    }
    let echo = timestamps(sighting).map_or(0, |(_, echo)| echo);
    if sequence_of(word) != number || echo != other.retransmission_timestamp.load() {
        return 0;
    }
    let kind = SampleKind::RttByTimestamp(sighting.direction.reverse());
    let rtt_us = microseconds_between(tick_of(word), sighting.now());
    entry.push_sample(Sample::new(kind, rtt_us), other)
}
