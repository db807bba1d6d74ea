//! One stream as Wireshark keeps it.

use std::collections::VecDeque;

use phalanx_common::packet::TcpFlags;

use super::{Analysis, AnalysisFlag, AnalysisFlags};
use crate::limits::WIRESHARK_SEGMENT_COUNT_MAX;
use crate::record::PacketRecord;

/// Wireshark's threshold of out-of-order segments where the handshake was not seen.
const OUT_OF_ORDER_NS: i64 = 3_000_000;

/// Longest time from the last duplicate ACK to a fast retransmission.
const FAST_NS: i64 = 20_000_000;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Scale {
    #[default]
    Unknown,
    Unused,
    Shift(u8),
}

/// A segment that is not acknowledged.
#[derive(Clone, Copy, Debug)]
struct Unacked {
    frame: u64,
    time_ns: i64,
    sequence: u32,
    next: u32,
}

#[derive(Clone, Debug, Default)]
struct Direction {
    base: Option<u32>,
    /// 0 means none, as in Wireshark.
    next: u32,
    next_ns: i64,
    /// End of what came without a hole; 0 means none.
    max_acked: u32,
    last_ack: u32,
    last_ack_ns: i64,
    window: u32,
    window_is_unscaled: bool,
    scale: Scale,
    duplicate_acks: u32,
    last_flags: AnalysisFlags,
    /// The latest first.
    segments: VecDeque<Unacked>,
    is_flight_valid: bool,
    sacks: [(u32, u32); 4],
    sack_count: u8,
}

#[derive(Clone, Debug)]
pub(super) struct Stream {
    number: u32,
    directions: [Direction; 2],
    syn_ns: Option<i64>,
    first_rtt_ns: Option<i64>,
}

const fn is_after(left: u32, right: u32) -> bool {
    (right.wrapping_sub(left) as i32) < 0
}

const fn is_before(left: u32, right: u32) -> bool {
    (left.wrapping_sub(right) as i32) < 0
}

/// A segment, as the rules name its parts.
struct Parts {
    sequence: u32,
    acknowledgement: u32,
    length: u32,
    window: u32,
    flags: TcpFlags,
    time_ns: i64,
    frame: u64,
}

impl Parts {
    /// None of SYN, FIN and RST.
    const fn is_plain(&self) -> bool {
        !self
            .flags
            .any(TcpFlags::SYN | TcpFlags::FIN | TcpFlags::RST)
    }
}

impl Stream {
    pub(super) fn new(number: u32) -> Self {
        let direction = || Direction {
            is_flight_valid: true,
            ..Direction::default()
        };
        Self {
            number,
            directions: [direction(), direction()],
            syn_ns: None,
            first_rtt_ns: None,
        }
    }

    /// Whether a SYN begins another session.
    pub(super) fn has_other_base(&self, direction: usize, sequence: u32) -> bool {
        self.directions[direction]
            .base
            .is_some_and(|base| base != sequence)
    }

    pub(super) fn analyze(&mut self, record: &PacketRecord<'_>, direction: usize) -> Analysis {
        let headers = record.headers;
        let parts = Parts {
            sequence: headers.sequence,
            acknowledgement: headers.acknowledgement,
            length: headers.payload_length,
            window: u32::from(headers.window),
            flags: headers.tcp_flags,
            time_ns: record.time_ns,
            frame: record.number,
        };
        let mut analysis = Analysis {
            stream: self.number,
            ..Analysis::default()
        };
        self.set_base(&parts, direction, &mut analysis);
        if headers.is_fragmented {
            return analysis;
        }
        self.read_options(record, direction);
        self.check_acknowledgement(&parts, direction, &mut analysis);
        let mut says_anything = self.check_order(&parts, direction, &mut analysis);
        says_anything |= self.store(&parts, direction, &mut analysis);
        self.time_handshake(&parts);
        says_anything |= !analysis.flags.is_empty() || analysis.acks_frame.is_some();
        if says_anything {
            analysis.initial_rtt_ns = self.first_rtt_ns.filter(|it| *it != 0);
        }
        analysis
    }

    fn set_base(&mut self, parts: &Parts, direction: usize, analysis: &mut Analysis) {
        let is_syn = parts.flags.any(TcpFlags::SYN);
        let forward = &mut self.directions[direction];
        match forward.base {
            None => {
                let before = if is_syn { 0 } else { 1 };
                forward.base = Some(parts.sequence.wrapping_sub(before));
            }
            Some(base) if is_syn && parts.flags.any(TcpFlags::ACK) && base != parts.sequence => {
                analysis.flags.set(AnalysisFlag::ReusedPorts);
                forward.base = Some(parts.sequence);
            }
            Some(_) => {}
        }
    }

    fn read_options(&mut self, record: &PacketRecord<'_>, direction: usize) {
        let flags = record.flags();
        let forward = &mut self.directions[direction];
        forward.sack_count = 0;
        for (room, block) in forward.sacks.iter_mut().zip(record.sack_blocks()) {
            *room = block;
            forward.sack_count += 1;
        }
        if !flags.any(TcpFlags::SYN) {
            return;
        }
        forward.scale = match record.options.window_scale_plus_one.checked_sub(1) {
            Some(shift) => Scale::Shift(shift),
            None => Scale::Unused,
        };
        if flags.any(TcpFlags::ACK) {
            let [left, right] = &mut self.directions;
            if left.scale == Scale::Unused || right.scale == Scale::Unused {
                (left.scale, right.scale) = (Scale::Unused, Scale::Unused);
            }
        }
    }

    /// The tests of windows and acknowledgements, in their order; each `return` skips the rest.
    fn check_acknowledgement(&mut self, parts: &Parts, direction: usize, analysis: &mut Analysis) {
        let (forward, reverse) = both(&mut self.directions, direction);
        let flags = &mut analysis.flags;
        let is_next = parts.sequence == forward.next;
        if parts.length == 1 && is_next && reverse.window == 0 {
            flags.set(AnalysisFlag::ZeroWindowProbe);
            return;
        }
        if parts.window == 0 && parts.is_plain() {
            flags.set(AnalysisFlag::ZeroWindow);
        }
        if forward.next != 0
            && is_after(parts.sequence, forward.next)
            && !parts.flags.any(TcpFlags::RST)
        {
            flags.set(AnalysisFlag::LostSegment);
            forward.is_flight_valid = false;
        }
        if parts.length <= 1 && parts.sequence == forward.next.wrapping_sub(1) && parts.is_plain() {
            flags.set(AnalysisFlag::KeepAlive);
        }
        let is_empty = parts.length == 0 && is_next && parts.is_plain();
        let is_same_ack = is_empty && parts.acknowledgement == forward.last_ack;
        let is_same_window = parts.window == forward.window;
        if is_same_ack && parts.window != 0 && !is_same_window {
            flags.set(AnalysisFlag::WindowUpdate);
        }
        if parts.length > 0 && parts.is_plain() && fills_window(parts, reverse) {
            flags.set(AnalysisFlag::WindowFull);
        }
        if !is_same_ack || !is_same_window {
            return;
        }
        let answers = |flag| reverse.last_flags.has(flag);
        if parts.window != 0 && answers(AnalysisFlag::KeepAlive) {
            flags.set(AnalysisFlag::KeepAliveAck);
        } else if parts.window == 0 && answers(AnalysisFlag::ZeroWindowProbe) {
            flags.set(AnalysisFlag::ZeroWindowProbeAck);
        } else if parts.window != 0 {
            forward.duplicate_acks = forward.duplicate_acks.wrapping_add(1);
            flags.set(AnalysisFlag::DuplicateAck);
            analysis.duplicate_ack_number = Some(forward.duplicate_acks);
        }
    }

    /// Whether bytes that were not captured are acknowledged, told or not.
    fn check_order(&mut self, parts: &Parts, direction: usize, analysis: &mut Analysis) -> bool {
        let first_rtt_ns = self.first_rtt_ns;
        let (forward, reverse) = both(&mut self.directions, direction);
        if parts.acknowledgement != forward.last_ack {
            forward.duplicate_acks = 0;
        }
        let is_lost = reverse.max_acked != 0
            && is_after(parts.acknowledgement, reverse.max_acked)
            && parts.flags.any(TcpFlags::ACK);
        if is_lost {
            reverse.acknowledged_lost(analysis);
        }
        let is_control = parts.flags.any(TcpFlags::SYN | TcpFlags::FIN);
        let is_keep_alive = analysis.flags.has(AnalysisFlag::KeepAlive);
        if (parts.length == 0 && !is_control) || is_keep_alive {
            return is_lost;
        }
        let is_behind = forward.next != 0
            && is_before(parts.sequence, forward.next)
            && !(parts.length > 1 && forward.next.wrapping_sub(1) == parts.sequence);
        let end = parts.sequence.wrapping_add(parts.length);
        if parts.length > 0 && reverse.last_ack != 0 && !is_after(end, reverse.last_ack) {
            analysis.flags.set(AnalysisFlag::SpuriousRetransmission);
            analysis.flags.set(AnalysisFlag::Retransmission);
            return is_lost;
        }
        if !is_behind {
            return is_lost;
        }
        let since_ack_ns = parts.time_ns.saturating_sub(reverse.last_ack_ns);
        if reverse.duplicate_acks >= 2
            && reverse.last_ack == parts.sequence
            && (0..FAST_NS).contains(&since_ack_ns)
        {
            analysis.flags.set(AnalysisFlag::FastRetransmission);
            analysis.flags.set(AnalysisFlag::Retransmission);
            return is_lost;
        }
        let since_next_ns = parts.time_ns.saturating_sub(forward.next_ns);
        let threshold_ns = first_rtt_ns
            .filter(|it| *it != 0)
            .unwrap_or(OUT_OF_ORDER_NS);
        let whole_end = end.wrapping_add(u32::from(is_control));
        // Wireshark counts without a sign: a clock that steps back is far away.
        if (0..threshold_ns).contains(&since_next_ns) && forward.next != whole_end {
            analysis.flags.set(AnalysisFlag::OutOfOrder);
            return is_lost;
        }
        analysis.flags.set(AnalysisFlag::Retransmission);
        let oldest_ns = forward
            .segments
            .back()
            .map_or(forward.next_ns, |it| it.time_ns);
        analysis.rto_ns = Some(parts.time_ns.saturating_sub(oldest_ns));
        is_lost
    }

    /// Whether bytes in flight are counted, even if there are none.
    fn store(&mut self, parts: &Parts, direction: usize, analysis: &mut Analysis) -> bool {
        let (forward, reverse) = both(&mut self.directions, direction);
        let is_control = parts.flags.any(TcpFlags::SYN | TcpFlags::FIN);
        let next = parts
            .sequence
            .wrapping_add(parts.length)
            .wrapping_add(u32::from(is_control));
        if (parts.length > 0 || is_control) && forward.segments.len() < WIRESHARK_SEGMENT_COUNT_MAX
        {
            forward.segments.push_front(Unacked {
                frame: parts.frame,
                time_ns: parts.time_ns,
                sequence: parts.sequence,
                next,
            });
        }
        let is_probe = analysis.flags.has(AnalysisFlag::ZeroWindowProbe);
        if (is_after(next, forward.next) || forward.next == 0) && !is_probe {
            forward.next = next;
            forward.next_ns = parts.time_ns;
        }
        if (parts.sequence == forward.max_acked || forward.max_acked == 0) && !is_probe {
            forward.max_acked = forward.next;
        }
        forward.window = parts.window;
        forward.window_is_unscaled = parts.flags.any(TcpFlags::SYN);
        forward.last_ack = parts.acknowledgement;
        forward.last_ack_ns = parts.time_ns;
        forward.last_flags = analysis.flags;
        reverse.acknowledge(parts, analysis);
        if parts.flags.any(TcpFlags::ACK) {
            reverse.is_flight_valid = true;
        }
        let is_counted = parts.length > 0 && forward.is_flight_valid;
        if is_counted {
            let bytes = forward.in_flight(reverse);
            analysis.bytes_in_flight = bytes.map(|it| it - u32::from(is_control));
        }
        is_counted
    }

    fn time_handshake(&mut self, parts: &Parts) {
        let is_ack = parts.flags.any(TcpFlags::ACK);
        match (parts.flags.any(TcpFlags::SYN), is_ack) {
            (true, false) => self.syn_ns = Some(parts.time_ns),
            // A zero counts as not known.
            (false, true) if self.first_rtt_ns.unwrap_or(0) == 0 => {
                self.first_rtt_ns = self
                    .syn_ns
                    .map(|syn_ns| parts.time_ns.saturating_sub(syn_ns));
            }
            _ => {}
        }
    }
}

impl Direction {
    /// Bytes that were not captured are acknowledged. Told once until the other side acknowledges
    /// something else: its count of duplicates, set to all ones, remembers that.
    fn acknowledged_lost(&mut self, analysis: &mut Analysis) {
        if is_after(self.next, self.max_acked) {
            self.max_acked = self.next;
            analysis.flags.set(AnalysisFlag::AckLostSegment);
            return;
        }
        if self.duplicate_acks == 0 {
            analysis.flags.set(AnalysisFlag::AckLostSegment);
        }
        self.duplicate_acks = u32::MAX;
    }

    /// Takes away what an acknowledgement covers. The list goes from the latest to the oldest, so
    /// of several that end there the oldest is told.
    fn acknowledge(&mut self, parts: &Parts, analysis: &mut Analysis) {
        let number = parts.acknowledgement;
        self.segments.retain_mut(|segment| {
            if number == segment.next {
                analysis.acks_frame = Some(segment.frame);
                let rtt_ns = parts.time_ns.saturating_sub(segment.time_ns);
                // A time of zero is not shown.
                analysis.ack_rtt_ns = Some(rtt_ns).filter(|it| *it != 0);
                return false;
            }
            if is_after(number, segment.sequence) && is_before(number, segment.next) {
                segment.sequence = number;
            }
            is_after(segment.next, number)
        });
    }

    fn in_flight(&self, reverse: &Self) -> Option<u32> {
        let base = self.base.unwrap_or(0);
        let first = self
            .segments
            .iter()
            .map(|it| it.sequence.wrapping_sub(base))
            .min()?;
        let last = self
            .segments
            .iter()
            .map(|it| it.next.wrapping_sub(base))
            .max()?;
        let mut bytes = last.wrapping_sub(first);
        let count = usize::from(reverse.sack_count);
        for (left, right) in &reverse.sacks[..count] {
            bytes = bytes.wrapping_sub(right.wrapping_sub(*left));
        }
        (1..2_000_000_000).contains(&bytes).then_some(bytes)
    }
}

fn fills_window(parts: &Parts, reverse: &Direction) -> bool {
    let shift = match reverse.scale {
        Scale::Unknown => return false,
        _ if reverse.window_is_unscaled => 0,
        Scale::Unused => 0,
        Scale::Shift(shift) => shift,
    };
    let edge = reverse.last_ack.wrapping_add(reverse.window << shift);
    parts.sequence.wrapping_add(parts.length) == edge
}

/// This direction and the other one.
fn both(directions: &mut [Direction; 2], direction: usize) -> (&mut Direction, &mut Direction) {
    let [low, high] = directions;
    if direction == 0 {
        (low, high)
    } else {
        (high, low)
    }
}
