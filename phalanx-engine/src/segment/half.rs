//! One direction of a TCP connection: what its sender sent, and what the peer said to that.
//!
//! A half is told of each segment of its sender ([`Half::send`]) and of each acknowledgement of the
//! peer ([`Half::acknowledge`]). Deliberately without time budget, turns and roles (`trace`'s).

mod why;

use phalanx_common::packet::TcpFlags;

use super::class::{Class, Mark};
use super::clock::RoundTrips;
use super::id::{Ids, LOST_SILENCE_NS, Silence};
use super::packet::{Acknowledged, Acknowledgement, Sending, Sent};
use super::sender::{Sender, Step};
use super::space::{Overlap, Run, Space, Unseen};
use crate::limits::{
    REPEATED_COUNT_MAX, RUN_COUNT_MAX, RUN_COUNT_SCARCE_MAX, SENDER_VIEW_COUNT_MAX,
    SENDER_VIEW_COUNT_SCARCE_MAX, SEQUENCE_JUMP_MAX,
};

/// Where unwrapped sequence numbers begin, so that smaller ones can be told.
const ORIGIN: u64 = 1 << 32;

/// Most bytes that may be sent before the first acknowledgement, by an initial window that somebody
/// has raised.
const FIRST_WINDOW_MAX: u32 = 1 << 16;

/// How a loss is being repaired.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Recovery {
    #[default]
    None,
    /// Until this is acknowledged.
    Fast(u64),
    /// Until this is acknowledged.
    Timeout(u64),
}

/// Where the number of a RST lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ResetNumber {
    /// Where its sender stands.
    Expected,
    /// Elsewhere in the peer's window.
    Within,
    Outside,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Half {
    is_started: bool,
    /// Number before the first data byte: of the SYN.
    origin: u64,
    /// End of the highest byte sent.
    next: u64,
    /// All below is acknowledged.
    acknowledged: u64,
    space: Space,
    pub(crate) round_trips: RoundTrips,
    pub(crate) recovery: Recovery,
    /// End of the peer's window, where it is known.
    edge: Option<u64>,
    /// The peer's latest window as sent.
    raw_window: u16,
    has_window: bool,
    /// The peer's window is closed.
    pub(crate) is_blocked: bool,
    duplicate_acks: u32,
    /// Latest sending of what is known to have arrived.
    delivered_ns: i64,
    last_ack_ns: i64,
    /// Latest sending of bytes below the highest, and where they began.
    repaired_ns: i64,
    repaired_start: u64,
    keep_alive_pending: bool,
    /// The byte that was sent into the closed window last, until it is known whether it was taken.
    probe: Option<Run>,
    implausible_next: Option<u64>,
    repeated: [(u64, u64); REPEATED_COUNT_MAX],
    repeated_at: u8,
    unseen: Unseen,
    /// Largest payload.
    pub(crate) segment_max: u32,
    pub(crate) flight_max: u64,
    pub(crate) sender: Sender,
    /// The round trip in which its latest loss was seen.
    lost_round: Option<u32>,
    /// When the sender's latest packet was seen.
    sent_ns: i64,
    /// Since then bytes were acknowledged that were not captured.
    has_capture_gap: bool,
    /// Its highest data fills a segment: it is likely to have had more.
    has_more: bool,
    /// Whether IP ids rise by a little from packet to packet.
    ids: Ids,
}

impl Half {
    /// Bytes under way, as far as they are known not to have arrived.
    pub(crate) fn flight(&self) -> u64 {
        (self.next - self.acknowledged).saturating_sub(self.space.sacked_bytes)
    }

    /// Whether anything is not acknowledged.
    pub(crate) fn is_outstanding(&self) -> bool {
        self.is_started && self.next > self.acknowledged
    }

    /// Until when the peer's window has no room for what the sender would send.
    pub(crate) fn limited_until_ns(&self) -> Option<i64> {
        self.sender
            .limited_until_ns(self.next, self.segment_max.into())
    }

    /// The sender's congestion window at least: what was under way in the round trip that goes on
    /// counts, unless a loss was seen in it.
    pub(crate) fn congestion_window(&self) -> u64 {
        let window = self.sender.congestion_window;
        if self.lost_round == Some(self.sender.round()) {
            return window;
        }
        window.max(self.sender.round_flight())
    }

    pub(crate) fn has_hole(&self) -> bool {
        self.space.has_hole()
    }

    pub(crate) fn is_started(&self) -> bool {
        self.is_started
    }

    /// A number counted from the initial sequence number.
    pub(crate) fn relative(&self, unwrapped: u64) -> u64 {
        unwrapped.saturating_sub(self.origin)
    }

    /// The same, where the number is not before the initial one.
    pub(crate) fn offset(&self, unwrapped: u64) -> Option<u64> {
        unwrapped
            .checked_sub(self.origin)
            .filter(|_| self.is_started)
    }

    /// The same of a number on the wire.
    pub(crate) fn place(&self, number: u32) -> Option<u64> {
        self.is_started
            .then(|| self.unwrap(number))
            .and_then(|at| self.offset(at))
    }

    /// Bytes of runs and of acknowledgements on their way.
    pub(crate) fn grown_bytes(&self) -> usize {
        self.space.capacity() + self.sender.capacity()
    }

    /// Bytes of a run and of an acknowledgement on its way.
    #[cfg(test)]
    pub(crate) const PART_BYTES: [usize; 2] = [Space::RUN_BYTES, Sender::VIEW_BYTES];

    /// Gives memory back that is not in use.
    pub(crate) fn shrink(&mut self) {
        self.space.shrink_to(0);
        self.sender.shrink_to(0);
    }

    /// The same, but for what one direction gets where memory is scarce.
    pub(crate) fn spare(&mut self) {
        self.space.shrink_to(RUN_COUNT_SCARCE_MAX);
        self.sender.shrink_to(SENDER_VIEW_COUNT_SCARCE_MAX);
    }

    pub(crate) fn capacity(&self) -> usize {
        self.grown_bytes() + self.round_trips.capacity() + self.unseen.capacity()
    }

    /// Where the number of a RST lies. What a sender uses is the number after all that it sent or,
    /// where the window has no room for that, the window's end; one that goes back after a timeout,
    /// that of a segment under way; and in an answer what the peer has acknowledged (RFC 9293
    /// section 3.5.2). What it sent before a number further on may just not have been captured,
    /// unless its IP ids tell that nothing is missing.
    pub(crate) fn reset_number(&self, sequence: u32, ip_id: u16) -> ResetNumber {
        if !self.is_started {
            return ResetNumber::Expected;
        }
        let at = self.unwrap(sequence);
        let end = self.edge.unwrap_or(self.next).max(self.next);
        let acknowledged = self.acknowledged.saturating_sub(1)..=self.acknowledged;
        if at == self.next
            || self.edge == Some(at)
            || acknowledged.contains(&at)
            || self.space.has_edge(at)
        {
            ResetNumber::Expected
        } else if !(self.acknowledged..=end).contains(&at) {
            ResetNumber::Outside
        } else if at < self.next || (self.ids.tell_missing() && self.ids.step(ip_id) == 1) {
            ResetNumber::Within
        } else {
            ResetNumber::Expected
        }
    }

    /// Whether `sequence` may be the initial one: it is, where the SYN was seen, else it lies less
    /// than a first window before all that was.
    pub(crate) fn may_begin_at(&self, sequence: u32, has_syn: bool) -> bool {
        let distance = (self.origin as u32).wrapping_sub(sequence);
        !self.is_started || distance == 0 || (!has_syn && distance < FIRST_WINDOW_MAX)
    }

    /// Whether a segment brings bytes beyond all that were sent.
    pub(crate) fn is_news(&self, sequence: u32, length: u32) -> bool {
        length > 0 && (!self.is_started || self.unwrap(sequence) + u64::from(length) > self.next)
    }

    /// Whether the peer's acknowledgement goes beyond all others.
    pub(crate) fn is_newer_ack(&self, number: u32, flags: TcpFlags) -> bool {
        flags.any(TcpFlags::ACK) && (!self.is_started || self.unwrap(number) > self.acknowledged)
    }

    pub(crate) fn ids_tell_order(&self) -> bool {
        self.ids.tell_order()
    }

    /// Whether an IP id may be the sender's next.
    pub(crate) fn fits_id(&self, id: u16) -> bool {
        id == 0 || !self.ids.tell_order() || self.ids.step(id) < 2_048
    }

    fn unwrap(&self, number: u32) -> u64 {
        let distance = number.wrapping_sub(self.next as u32) as i32;
        self.next.wrapping_add_signed(i64::from(distance))
    }

    fn start(&mut self, origin: u64, next: u64) {
        self.is_started = true;
        self.origin = origin;
        self.next = next;
        self.acknowledged = next;
        self.space = Space::new(next);
        self.sender = Sender::new(next);
        self.lost_round = None;
        // Before any time, also where times are negative.
        (self.delivered_ns, self.last_ack_ns) = (i64::MIN, i64::MIN);
        (self.sent_ns, self.repaired_ns) = (i64::MIN, i64::MIN);
    }

    /// Begins where a segment says, if it has not begun yet.
    fn ensure_started(&mut self, sequence: u32, is_syn: bool) {
        if !self.is_started {
            let at = ORIGIN + u64::from(sequence);
            self.start(if is_syn { at } else { at - 1 }, at);
        }
    }

    /// Takes a segment of the sender in, copies aside.
    pub(crate) fn send(&mut self, sending: &Sending, count_max: usize) -> Sent {
        // A RST that answers an unknown connection has a number of its own (RFC 9293
        // section 3.10.7.1).
        if sending.is_rst && !self.is_started {
            return Sent::default();
        }
        self.ensure_started(sending.sequence, sending.is_syn);
        let silence = self.note_packet(sending);
        let start = self.unwrap(sending.sequence);
        let length =
            u64::from(sending.length) + u64::from(sending.is_syn) + u64::from(sending.is_fin);
        let mut sent = Sent {
            start,
            ..Sent::default()
        };
        let Some(start) = self.plausible(start, length) else {
            sent.marks.set(Mark::Implausible);
            return sent;
        };
        sent.start = start;
        let end = start + length;
        let is_control = sending.is_syn || sending.is_fin || sending.is_rst;
        if sending.length <= 1 && !is_control && self.is_keep_alive(start, sending.length) {
            return self.probe(sent);
        }
        if length == 0 {
            return sent;
        }
        self.segment_max = self.segment_max.max(sending.length);
        let mut run = first_run(sending, start, end);
        if sending.length == 1 && !is_control && start == self.next && self.is_blocked {
            self.probe_window(run, &mut sent);
            return sent;
        }
        // Who goes on behind the probe knows that its byte was taken.
        sent.accepted = self.accept_probe(start, count_max);
        run.opened_gap = start > self.next;
        if start >= self.next {
            let was_lost = silence.filter(|it| {
                let hole_count = (start - self.next).div_ceil(u64::from(self.segment_max).max(1));
                it.has_lost(hole_count, self.has_more)
            });
            self.has_more = sending.length >= self.segment_max;
            self.send_new(sending, &mut sent, run, count_max);
            if let Some(silence) = was_lost {
                sent.class = Some(Class::FillsHole);
                sent.why = "a packet is missing by its IP id, sent a timeout before it";
                sent.lateness_ns = silence.passed_ns;
            }
        } else {
            self.send_old(sending, &mut sent, &run, count_max);
        }
        if self.edge.is_some_and(|edge| {
            end <= edge && edge - end < u64::from(self.segment_max) && !is_control
        }) {
            sent.marks.set(Mark::WindowFull);
        }
        sent
    }

    /// Where a segment begins, if that can be. A jump that no window allows is forged, or follows
    /// a hole in the capture: only a second segment that goes on from there moves the numbers.
    fn plausible(&mut self, start: u64, length: u64) -> Option<u64> {
        if start.abs_diff(self.next) <= SEQUENCE_JUMP_MAX {
            return Some(start);
        }
        if self.implausible_next != Some(start) {
            self.implausible_next = Some(start + length);
            return None;
        }
        self.implausible_next = None;
        // Always onwards, so that numbers never fall below where they began: on the wire the one
        // is the other.
        let start = if start < self.next {
            start + ORIGIN
        } else {
            start
        };
        self.start(self.origin, start);
        Some(start)
    }

    fn is_keep_alive(&self, start: u64, length: u32) -> bool {
        start + 1 == self.next && (length == 0 || self.acknowledged >= self.next)
    }

    fn probe(&mut self, mut sent: Sent) -> Sent {
        self.keep_alive_pending = true;
        if self.is_blocked {
            sent.class = Some(Class::ZeroWindowProbe);
            sent.why = "asks again for a window that is closed";
        } else {
            sent.class = Some(Class::KeepAlive);
            sent.why = "the number before the next, with nothing under way";
        }
        sent
    }

    /// A byte that the peer may take or not.
    fn probe_window(&mut self, run: Run, sent: &mut Sent) {
        sent.class = Some(Class::ZeroWindowProbe);
        sent.why = "one byte sent into a closed window";
        match &mut self.probe {
            Some(probe) if probe.start == run.start => {
                probe.copies = probe.copies.saturating_add(1);
                probe.last_ns = run.last_ns;
                probe.last_timestamp = run.last_timestamp;
                probe.ip_id = run.ip_id;
            }
            probe => *probe = Some(run),
        }
    }

    /// Counts the byte of a probe as sent once numbers from `known` on tell that it was taken;
    /// gives how many bytes that is.
    fn accept_probe(&mut self, known: u64, count_max: usize) -> u64 {
        let Some(probe) = self.probe.filter(|probe| probe.start == self.next) else {
            // It was sent again with more.
            self.probe = None;
            return 0;
        };
        if known < probe.end {
            return 0;
        }
        self.probe = None;
        self.next = probe.end;
        self.space.push(probe, count_max);
        probe.end - probe.start
    }

    fn send_new(&mut self, sending: &Sending, sent: &mut Sent, run: Run, count_max: usize) {
        sent.class = Some(Class::New);
        sent.why = "continues the sequence";
        sent.new = u64::from(sending.length);
        if run.opened_gap {
            sent.marks.set(Mark::Gap);
            sent.why = "beyond bytes that were not captured yet";
            self.sender.disturb();
        }
        self.next = run.end;
        self.space.push(run, count_max);
        self.flight_max = self.flight_max.max(self.flight());
        let round_trip_ns = self.round_trips.min_ns().unwrap_or(0);
        self.sender.send(&Step {
            time_ns: sending.time_ns,
            next: self.next,
            segment_max: self.segment_max.into(),
            is_answer: sending.is_answer,
            round_trip_ns: round_trip_ns.saturating_add(sending.peer_rtt_ns.unwrap_or(0)),
        });
    }

    /// Notes a packet of the sender. Gives its silence if that was as long as a tail-loss probe
    /// takes, it had nothing to acknowledge, and by its IP id packets are missing just before.
    fn note_packet(&mut self, sending: &Sending) -> Option<Silence> {
        self.sender
            .see(sending.time_ns, self.next, self.segment_max.into());
        let before_ns = std::mem::replace(&mut self.sent_ns, sending.time_ns);
        let has_capture_gap = std::mem::take(&mut self.has_capture_gap);
        if sending.ip_id == 0 {
            return None;
        }
        let missing_count = self.ids.missing_before(sending.ip_id);
        self.ids.learn(sending.ip_id);
        if has_capture_gap || sending.is_answer || before_ns == i64::MIN {
            return None;
        }
        let passed_ns = sending.time_ns.saturating_sub(before_ns);
        let is_meant = passed_ns >= self.round_trips.probe_min_ns(sending.peer_rtt_ns);
        let probe_ns = self.round_trips.probe_ns(sending.peer_rtt_ns);
        missing_count
            .filter(|_| is_meant)
            .map(|missing_count| Silence {
                passed_ns,
                is_long: passed_ns >= probe_ns.max(LOST_SILENCE_NS),
                missing_count,
            })
    }

    /// Bytes of which some at least lie below the highest sent.
    fn send_old(&mut self, sending: &Sending, sent: &mut Sent, run: &Run, count_max: usize) {
        self.sender.disturb();
        (self.repaired_ns, self.repaired_start) = (sending.time_ns, run.start);
        if run.end <= self.acknowledged && self.unseen.take(run.start, run.end) {
            sent.new = u64::from(sending.length);
            sent.class = Some(Class::Reordered);
            sent.why = "captured after its acknowledgement";
            sent.found = sent.new;
            return;
        }
        if run.end <= self.acknowledged {
            sent.old = u64::from(sending.length);
            sent.class = Some(Class::SpuriousRetransmission);
            sent.why = "all of it had been acknowledged";
            return;
        }
        let opener = self.space.gap_opener(run.start);
        let overlap = self.space.repeat(run, count_max);
        let beyond = run.end.saturating_sub(self.next.max(run.start));
        let is_in_hole = overlap.new > beyond;
        self.next = self.next.max(run.end);
        sent.repeats_frame = overlap.run.map(|it| it.frame);
        sent.is_conflict = overlap.run.is_some_and(|held| {
            let is_comparable = held.digest != 0 && run.digest != 0 && held.start == run.start;
            is_comparable
                && held.digest_length() == run.digest_length()
                && held.digest != run.digest
        });
        let control = u64::from(sending.is_syn) + u64::from(sending.is_fin);
        if overlap.old >= overlap.new || !is_in_hole {
            sent.old = overlap.old.min(u64::from(sending.length));
            sent.new = overlap.new.saturating_sub(control);
            let (class, why) = match overlap.run {
                Some(held) => self.repeat_kind(sending, run, &held, &overlap),
                None => (
                    Class::Retransmission,
                    "begins with bytes that were acknowledged",
                ),
            };
            sent.class = Some(class);
            sent.why = why;
            // What is known to be needless already is not counted again when a DSACK says so.
            if class != Class::SpuriousRetransmission {
                self.remember_repeat(run.start, run.end);
            }
        } else {
            sent.old = overlap.old;
            sent.new = overlap.new.saturating_sub(control);
            let opener = opener.unwrap_or_default();
            sent.lateness_ns = sending.time_ns.saturating_sub(opener.first_ns);
            let (class, why) = self.hole_kind(sending, &opener, sent.lateness_ns);
            sent.class = Some(class);
            sent.why = why;
            let timeout_ns = self.round_trips.timeout_min_ns(sending.peer_rtt_ns);
            if class == Class::FillsHole && sent.lateness_ns >= timeout_ns {
                self.begin_timeout();
            }
        }
    }

    fn remember_repeat(&mut self, start: u64, end: u64) {
        self.repeated[usize::from(self.repeated_at) % REPEATED_COUNT_MAX] = (start, end);
        self.repeated_at = self.repeated_at.wrapping_add(1);
    }

    fn begin_timeout(&mut self) {
        self.recovery = Recovery::Timeout(self.next);
        // RFC 5681 section 3.1: one segment.
        self.sender.lose(self.segment_max.into());
        self.lost_round = Some(self.sender.round());
    }

    fn begin_fast(&mut self) {
        if !matches!(self.recovery, Recovery::Fast(_)) {
            self.recovery = Recovery::Fast(self.next);
            // RFC 5681 section 3.2: half of what is under way.
            self.sender.lose(self.flight() / 2);
            self.lost_round = Some(self.sender.round());
        }
    }

    /// Takes an acknowledgement of the peer in.
    pub(crate) fn acknowledge(&mut self, ack: &Acknowledgement<'_>) -> Acknowledged {
        if !self.is_started {
            let at = ORIGIN + u64::from(ack.number);
            self.start(at - 1, at);
            self.unseen.push(at - 1, at);
        }
        if ack.has_ecn_echo {
            // The sender cuts its window as after a loss (RFC 3168 section 6.1.2).
            self.sender.disturb();
        }
        let number = self.unwrap(ack.number);
        let mut out = Acknowledged {
            number,
            ..Acknowledged::default()
        };
        if number.abs_diff(self.next) > SEQUENCE_JUMP_MAX {
            out.marks.set(Mark::Implausible);
            return out;
        }
        if !ack.sacks.is_empty() {
            self.take_sacks(ack, number, &mut out);
        }
        if number > self.acknowledged {
            self.advance(ack, number, &mut out);
        } else if number == self.acknowledged {
            self.repeat_ack(ack, &mut out);
        }
        if ack.time_ns > self.last_ack_ns && (out.new > 0 || !self.has_window) {
            self.last_ack_ns = ack.time_ns;
        }
        self.take_window(ack, number, &mut out);
        out
    }

    fn advance(&mut self, ack: &Acknowledgement<'_>, number: u64, out: &mut Acknowledged) {
        out.accepted = self.accept_probe(number, ack.run_count_max);
        if out.accepted > 0 && number == self.next && ack.is_pure && ack.raw_window == 0 {
            out.marks.set(Mark::ZeroWindowProbeAck);
        }
        if number > self.next {
            self.next = number;
        }
        out.new = number - self.acknowledged;
        let removed = self.space.acknowledge(number, ack.echo, &mut self.unseen);
        out.unseen = removed.unseen;
        if out.unseen > 0 {
            out.marks.set(Mark::AckOfUnseen);
            self.has_capture_gap = true;
            self.sender.disturb();
        }
        if let Some(run) = removed.last {
            out.frame = Some(run.frame);
            // Karn, and no sending after it that may have drawn the acknowledgement: also not of
            // a hole below, until which the receiver could not acknowledge it.
            let is_late = self.repaired_ns > run.first_ns && self.repaired_start < run.start;
            let is_latest = removed.latest_ns <= run.first_ns && !is_late;
            if run.copies == 1 && is_latest && out.unseen == 0 {
                out.rtt_ns = Some(ack.time_ns.saturating_sub(run.first_ns).max(0));
            }
        }
        if let (None, Some(run)) = (out.rtt_ns, removed.by_timestamp) {
            out.rtt_ns = Some(ack.time_ns.saturating_sub(run.last_ns).max(0));
        }
        if let Some(rtt_ns) = out.rtt_ns {
            self.round_trips.add(rtt_ns);
        }
        self.delivered_ns = self.delivered_ns.max(removed.last.map_or(i64::MIN, |run| {
            if run.copies == 1 {
                run.first_ns
            } else {
                i64::MIN
            }
        }));
        self.acknowledged = number;
        self.duplicate_acks = 0;
        self.keep_alive_pending = false;
        match self.recovery {
            Recovery::Fast(point) | Recovery::Timeout(point) if number >= point => {
                self.recovery = Recovery::None;
            }
            _ => {}
        }
    }

    fn repeat_ack(&mut self, ack: &Acknowledgement<'_>, out: &mut Acknowledged) {
        if !ack.is_pure {
            return;
        }
        let is_same_window = self.has_window && self.raw_window == ack.raw_window;
        if self.keep_alive_pending {
            self.keep_alive_pending = false;
            out.marks.set(if ack.raw_window == 0 {
                Mark::ZeroWindowProbeAck
            } else {
                Mark::KeepAliveAck
            });
        } else if self.probe.is_some() && ack.raw_window == 0 {
            out.marks.set(Mark::ZeroWindowProbeAck);
        } else if self.is_outstanding() && (is_same_window || out.marks.has(Mark::Sack)) {
            // RFC 5681 section 2; with SACK the window may move (RFC 6675 section 2).
            out.marks.set(Mark::DuplicateAck);
            self.duplicate_acks = self.duplicate_acks.saturating_add(1);
            out.is_first_duplicate = self.duplicate_acks == 1;
        } else if !is_same_window && self.has_window {
            out.marks.set(Mark::WindowUpdate);
        }
    }

    fn take_window(&mut self, ack: &Acknowledgement<'_>, number: u64, out: &mut Acknowledged) {
        if number < self.acknowledged || ack.is_reset || (ack.is_control && ack.raw_window == 0) {
            return;
        }
        self.has_window = true;
        self.raw_window = ack.raw_window;
        self.is_blocked = ack.raw_window == 0;
        if self.is_blocked {
            out.marks.set(Mark::ZeroWindow);
        }
        self.edge = ack.window.map(|window| number + u64::from(window));
        let times_ns = (ack.time_ns, ack.upstream_ns);
        let view_count_max = if ack.run_count_max < RUN_COUNT_MAX {
            SENDER_VIEW_COUNT_SCARCE_MAX
        } else {
            SENDER_VIEW_COUNT_MAX
        };
        self.sender.hasten(view_count_max, self.next);
        self.sender.tell(times_ns, number, self.edge);
        self.sender
            .see(ack.time_ns, self.next, self.segment_max.into());
    }

    fn take_sacks(&mut self, ack: &Acknowledgement<'_>, number: u64, out: &mut Acknowledged) {
        out.marks.set(Mark::Sack);
        let block = |index: usize| {
            let (left, right) = *ack.sacks.get(index)?;
            Some((self.unwrap(left), self.unwrap(right)))
        };
        let first = block(0);
        // RFC 2883 section 4: the first block is below the acknowledgement, or inside the second.
        let is_dsack = first.is_some_and(|(left, right)| {
            let is_inside = block(1).is_some_and(|(low, high)| low <= left && right <= high);
            left < right && (right <= number || is_inside)
        });
        if let (true, Some((left, right))) = (is_dsack, first) {
            out.marks.set(Mark::Dsack);
            let found = self
                .repeated
                .iter_mut()
                .find(|(start, end)| *start < right && left < *end);
            if let Some(repeated) = found {
                *repeated = (0, 0);
                out.is_needless = true;
            }
        }
        for index in usize::from(is_dsack)..ack.sacks.len() {
            let (left, right) = ack.sacks[index];
            let (left, right) = (self.unwrap(left), self.unwrap(right));
            if left < right && right <= self.next && left >= number {
                let latest = self.space.sack(left, right, ack.run_count_max);
                self.delivered_ns = self.delivered_ns.max(latest.unwrap_or(i64::MIN));
            }
        }
    }
}

/// A run of bytes that are sent for the first time, as far as is known.
fn first_run(sending: &Sending, start: u64, end: u64) -> Run {
    Run {
        start,
        end,
        first_ns: sending.time_ns,
        last_ns: sending.time_ns,
        frame: sending.frame,
        first_timestamp: sending.timestamp,
        last_timestamp: sending.timestamp,
        ip_id: sending.ip_id,
        digest: sending.digest,
        copies: 1,
        is_sacked: false,
        opened_gap: false,
    }
}

/// Runs kept for one direction.
pub(crate) const fn run_count_max(is_scarce: bool) -> usize {
    if is_scarce {
        RUN_COUNT_SCARCE_MAX
    } else {
        RUN_COUNT_MAX
    }
}
