//! RTT by sequence range: data is timed from its sending to an acknowledgement that ends in it.
//! Segments that were sent at the same moment, as far as round trips can tell, share a range: those
//! of a super-segment, and those that follow one another within a small part of the least round
//! trip. Karn's rule (RFC 6298 section 3) and its widening by tcptrace are kept: no sample for what
//! was sent twice, nor for what was sent before something else was sent again, since its
//! acknowledgement waited for that. Where timestamps tell a retransmission from its original (RFC
//! 7323 section 3), the retransmission itself is timed.

use super::entry::{FlowEntry, Half, pack, sequence_of, tick_of};
use super::promote::SICK;
use super::{Sighting, Tick, is_after, microseconds_between};
use crate::abi::{Sample, SampleKind};
use crate::limits::{RTT_RANGE_SHIFT, RTT_SLOT_COUNT, RTT_SLOT_FIRST_COUNT};

/// A round trip that is shorter than this part of the least before gives no sample: its range may
/// be wide beside it. So no sample is off by more than 2⁵⁻¹⁰, 3 %, and the next by a thousandth.
const SHRINK_SHIFT: u32 = 5;

/// A round trip has stepped up where so many samples in a row are twice the least and more than it
/// by this, in microseconds: beyond the 40 ms for which Linux holds back an acknowledgement
/// (`TCP_DELACK_MIN`), so that a receiver that begins to delay them is no step.
const STEP_SAMPLE_COUNT: u32 = 4;
const STEP_US_MIN: u32 = 50_000;

const MASK: usize = RTT_SLOT_COUNT - 1;

/// Begins to time a segment that ends at `end`, in the range just before it or in a free slot: all
/// segments while few are outstanding; beyond, those at the front of the window, as slots fall
/// free.
#[inline(always)]
pub(super) fn fill(own: Half<'_>, sighting: &Sighting, end: u32) {
    let memory = own.memory;
    let filled = memory.slots_filled.load();
    let outstanding = filled.wrapping_sub(memory.slots_consumed.load());
    if outstanding != 0 {
        let last = memory.slots[filled.wrapping_sub(1) as usize & MASK].load();
        if sequence_of(last) == sighting.headers.sequence {
            let spent = sighting.now().wrapping_sub(tick_of(last));
            if spent <= own.rtt_min_us.load() >> RTT_RANGE_SHIFT && tick_of(last) != 0 {
                widen(
                    own,
                    sighting,
                    filled.wrapping_sub(1),
                    pack(end, tick_of(last)),
                );
                return;
            }
        }
        if outstanding > RTT_SLOT_COUNT as u32 {
            // A CPU that was slow to store its count has put one of the two back.
            forget(own);
            return;
        }
        if outstanding == RTT_SLOT_COUNT as u32
            || (outstanding == RTT_SLOT_FIRST_COUNT && !is_under_way(own, sighting.now()))
        {
            return;
        }
    }
    fill_slot(own, sighting, filled, pack(end, sighting.now()));
}

/// Whether the oldest range has been under way for three eighths of the least round trip: a bit
/// less than half, so that the next one to fall free finds it so.
#[inline(always)]
fn is_under_way(own: Half<'_>, now: Tick) -> bool {
    let memory = own.memory;
    let oldest = memory.slots[memory.slots_consumed.load() as usize & MASK].load();
    let rtt_min_us = own.rtt_min_us.load();
    now.wrapping_sub(tick_of(oldest)) >= (rtt_min_us >> 1) - (rtt_min_us >> 3)
}

/// Moves the end of the last range.
#[inline(always)]
fn widen(own: Half<'_>, sighting: &Sighting, last: u32, word: u64) {
    let memory = own.memory;
    let index = last as usize & MASK;
    let old = memory.slots[index].load();
    // Another CPU may have taken the slot, or made it one that can no longer be timed.
    if tick_of(old) == tick_of(word) && memory.slots[index].replace(old, word) {
        memory.slot_timestamps[index].store(sighting.headers.timestamp_value);
    }
}

#[inline(always)]
fn fill_slot(own: Half<'_>, sighting: &Sighting, filled: u32, word: u64) {
    let memory = own.memory;
    let index = filled as usize & MASK;
    // The count says that the slot is free; what a lost race left in it is overwritten.
    let old = memory.slots[index].load();
    memory.slot_starts[index].store(sighting.headers.sequence);
    if memory.slots[index].replace(old, word) {
        memory.slot_timestamps[index].store(sighting.headers.timestamp_value);
        memory.slots_filled.store(filled.wrapping_add(1));
    }
}

/// Forgets what is outstanding: the sequence goes on elsewhere, where no acknowledgement would ever
/// come to the slots' turn.
#[inline(always)]
pub(super) fn forget(own: Half<'_>) {
    let memory = own.memory;
    memory.slots_consumed.store(memory.slots_filled.load());
    memory.retransmission.store(0);
}

/// Takes the slots that an acknowledgement covers; the one that it ends in gives a sample.
#[inline(always)]
pub(super) fn consume(entry: &FlowEntry, other: Half<'_>, sighting: &Sighting) -> u32 {
    let mut reasons = 0;
    if other.memory.slots_consumed.load() != other.memory.slots_filled.load() {
        reasons = consume_slots(entry, sighting);
    }
    if other.memory.retransmission.load() != 0 {
        reasons |= consume_retransmission(entry, sighting);
    }
    reasons
}

#[inline(never)]
fn consume_slots(entry: &FlowEntry, sighting: &Sighting) -> u32 {
    let other = entry.half(sighting.direction().reverse());
    let memory = other.memory;
    let number = sighting.headers.acknowledgement;
    let mut reasons = 0;
    for _ in 0..RTT_SLOT_COUNT {
        let consumed = memory.slots_consumed.load();
        if consumed == memory.slots_filled.load() {
            break;
        }
        let index = consumed as usize & MASK;
        let word = memory.slots[index].load();
        let is_whole = word == 0 || !is_after(sequence_of(word), number);
        // A lost race drops the sample: another CPU took it, or it could no longer be timed.
        let is_timed = if is_whole {
            let is_taken = word != 0 && memory.slots[index].replace(word, 0);
            memory.slots_consumed.store(consumed.wrapping_add(1));
            is_taken && sequence_of(word) == number
        } else {
            is_after(number, memory.slot_starts[index].load())
        };
        if is_timed && tick_of(word) != 0 {
            reasons |= take(entry, other, sighting, tick_of(word));
        }
        if !is_whole {
            break;
        }
    }
    reasons
}

/// Keeps a sample of the data that the other direction sent.
#[inline(always)]
fn take(entry: &FlowEntry, other: Half<'_>, sighting: &Sighting, sent: Tick) -> u32 {
    let rtt_us = match microseconds_between(sent, sighting.now()) {
        0 => 1,
        rtt_us => rtt_us,
    };
    let least = other.rtt_min_us.load();
    if least == 0 || rtt_us < least {
        other.rtt_min_us.store(rtt_us);
    }
    if rtt_us < least >> SHRINK_SHIFT {
        // Of a range that was laid out for a far longer round trip: the next ones are narrower.
        return 0;
    }
    other.rtt_sample_count.add(1);
    let reasons = entry.push_sample(Sample {
        kind: SampleKind::Rtt(sighting.direction().reverse()),
        microseconds: rtt_us,
    });
    reasons | note_step(other, rtt_us, least)
}

/// Notes a sample beside the least one before; returns [`SICK`] while the round trip has stepped
/// up. A lost race costs one sample in a row.
#[inline(always)]
fn note_step(other: Half<'_>, rtt_us: u32, least: u32) -> u32 {
    let high = &other.memory.rtt_high_count;
    let is_high = least != 0 && rtt_us >= least.saturating_add(least.max(STEP_US_MIN));
    if !is_high {
        if high.load() != 0 {
            high.store(0);
        }
        return 0;
    }
    let count = high.load().wrapping_add(1);
    if count >= STEP_SAMPLE_COUNT {
        return SICK;
    }
    high.store(count);
    0
}

/// A segment was sent again: whatever ends after its start can no longer be timed. Where the
/// original's timestamp is known and differs, the retransmission is timed by its own.
#[inline(always)]
pub(super) fn invalidate(own: Half<'_>, sighting: &Sighting, end: u32) {
    let memory = own.memory;
    let start = sighting.headers.sequence;
    memory.retransmission.store(0);
    let own_timestamp = sighting.headers.timestamp_value;
    for index in 0..RTT_SLOT_COUNT {
        let word = memory.slots[index].load();
        if word == 0 || !is_after(sequence_of(word), start) {
            continue;
        }
        let original = memory.slot_timestamps[index].load();
        let holds_end =
            is_after(end, memory.slot_starts[index].load()) && !is_after(end, sequence_of(word));
        if holds_end && original != 0 && is_after(own_timestamp, original) {
            memory.retransmission_timestamp.store(own_timestamp);
            memory.retransmission.store(pack(end, sighting.now()));
        }
        // The end stays, so that the slot is consumed in its turn.
        memory.slots[index].replace(word, pack(sequence_of(word), 0));
    }
}

/// Times a retransmission whose acknowledgement echoes its timestamp, and not the original's.
#[inline(never)]
fn consume_retransmission(entry: &FlowEntry, sighting: &Sighting) -> u32 {
    let memory = entry.half(sighting.direction().reverse()).memory;
    let word = memory.retransmission.load();
    let number = sighting.headers.acknowledgement;
    if word == 0 || is_after(sequence_of(word), number) || !memory.retransmission.replace(word, 0) {
        return 0;
    }
    let echo = sighting.headers.timestamp_echo;
    if sequence_of(word) != number || echo != memory.retransmission_timestamp.load() {
        return 0;
    }
    entry.push_sample(Sample {
        kind: SampleKind::RttByTimestamp(sighting.direction().reverse()),
        microseconds: microseconds_between(tick_of(word), sighting.now()),
    })
}
