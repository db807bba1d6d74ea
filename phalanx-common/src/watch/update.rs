//! What the state of a flow looks like to user space: a `FlowUpdate`.

use super::entry::{FlowEntry, Half, sequence_of};
use crate::abi::{FlowKey, FlowUpdate, HalfCounters, event_kind};
use crate::limits::SAMPLE_COUNT;

/// Writes the next update of a flow, and takes its samples. All fields of `update` are written.
#[inline(always)]
pub fn write_update(
    update: &mut FlowUpdate,
    key: &FlowKey,
    entry: &FlowEntry,
    reason: u32,
    now_ns: u64,
) {
    update.kind = event_kind::FLOW_UPDATE;
    update.reason = reason;
    update.key = *key;
    update.incarnation = entry.incarnation.load();
    update.version = entry.version.fetch_add(1).wrapping_add(1);
    update.initiator = entry.initiator.load();
    update.opened_ns = entry.opened_ns.load();
    update.now_ns = now_ns;
    update.handshake_server_us = entry.handshake_server_us.load();
    update.handshake_client_us = entry.handshake_client_us.load();
    update.icmp_error = entry.icmp_error.load();
    update.matched = entry.matched.load();
    write_counters(&mut update.halves[0], &entry.halves[0]);
    write_counters(&mut update.halves[1], &entry.halves[1]);
    update.sample_count = take_samples(&mut update.samples, entry);
}

/// Moves the samples into an update, each to its own place, and returns how many there were. A
/// sample that another CPU is just writing goes out with the next update.
#[inline(always)]
fn take_samples(samples: &mut [u32; SAMPLE_COUNT], entry: &FlowEntry) -> u32 {
    let is_any = entry.sample_count.swap(0) != 0;
    let mut count = 0;
    // To its own place, not to the next free one: an index that depends on what was found would
    // make the verifier follow each of the 2¹⁶ ways through this loop.
    for (to, from) in samples.iter_mut().zip(&entry.samples) {
        let is_taken = is_any && from.load() != 0;
        *to = if is_taken { from.swap(0) } else { 0 };
        count += u32::from(is_taken);
    }
    count
}

#[inline(always)]
fn write_counters(counters: &mut HalfCounters, half: &Half) {
    let traits = half.traits.load();
    counters.packets = half.packets.load();
    counters.bytes = half.bytes.load();
    counters.retransmitted_bytes = half.retransmitted_bytes.load();
    counters.retransmitted_packets = half.retransmitted_packets.load();
    counters.out_of_sequence_packets = half.out_of_sequence_packets.load();
    counters.duplicate_packets = half.duplicate_packets.load();
    counters.gap_count = half.gap_count.load();
    counters.zero_window_count = half.zero_window_count.load();
    counters.keep_alive_count = half.keep_alive_count.load();
    counters.ecn_marked_packets = half.ecn_marked_packets.load();
    counters.syn_count = half.syn_count.load();
    counters.fin_count = half.fin_count.load();
    counters.rst_count = half.rst_count.load();
    counters.icmp_error_count = half.icmp_error_count.load();
    counters.acknowledged_unseen_count = half.acknowledged_unseen_count.load();
    counters.rtt_min_us = half.rtt_min_us.load();
    counters.rtt_sample_count = half.rtt_sample_count.load();
    counters.sample_lost_count = half.sample_lost_count.load();
    counters.next_sequence = sequence_of(half.head.load());
    counters.acknowledged = half.acknowledged.load();
    counters.seen_tick = half.seen.load();
    counters.window = half.window.load().saturating_sub(1) as u16;
    counters.mss = half.mss.load() as u16;
    counters.window_scale_plus_one = (traits >> 24) as u8;
    counters.flags_seen = (traits >> 16) as u8;
    counters.ttl_min = traits as u8;
    counters.ttl_max = (traits >> 8) as u8;
}
