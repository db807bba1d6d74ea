//! Counts of a side by what its packets are.

use crate::segment::{Class, Mark, Marks, Sent};
use crate::story::SideCounts;

/// Counts a segment by its class.
pub(super) fn count_class(counts: &mut SideCounts, class: Option<Class>, sent: &Sent) {
    let Some(class) = class else {
        return;
    };
    if class.is_retransmission() {
        counts.retransmitted_packets += 1;
        counts.retransmitted_bytes += sent.old;
    }
    let count = match class {
        Class::FastRetransmission => &mut counts.fast_retransmissions,
        Class::TimeoutRetransmission => &mut counts.timeout_retransmissions,
        Class::TailLossProbe => &mut counts.tail_loss_probes,
        Class::SpuriousRetransmission => &mut counts.spurious_retransmissions,
        Class::Reordered => &mut counts.reordered_packets,
        Class::FillsHole => &mut counts.holes_filled,
        Class::KeepAlive => &mut counts.keep_alives,
        Class::ZeroWindowProbe => &mut counts.zero_window_probes,
        _ => return,
    };
    *count += 1;
}

/// Counts what else was noted of a packet.
pub(super) fn count_marks(counts: &mut SideCounts, marks: Marks) {
    if marks == Marks::default() {
        return;
    }
    for mark in marks.iter() {
        let count = match mark {
            Mark::DuplicateAck => &mut counts.duplicate_acks,
            Mark::WindowUpdate => &mut counts.window_updates,
            Mark::WindowFull => &mut counts.window_full,
            Mark::ZeroWindow => &mut counts.zero_windows,
            Mark::AckOfUnseen => &mut counts.acks_of_unseen,
            Mark::Sack => &mut counts.sacks,
            Mark::Dsack => &mut counts.dsacks,
            Mark::Gap => &mut counts.gaps,
            Mark::UnfittingReset => &mut counts.unfitting_resets,
            Mark::Implausible => &mut counts.implausible_packets,
            Mark::Conflict => &mut counts.conflicting_packets,
            Mark::PortReuse | Mark::KeepAliveAck | Mark::ZeroWindowProbeAck => continue,
        };
        *count += 1;
    }
}
