//! One direction of a simulated connection: a sender with its congestion window and its repair of
//! losses, and what its receiver has. One transfer (a request or a response) follows the other;
//! segments are numbered within the transfer.

use super::frame::SEGMENT_BYTES;
use super::packet::SackBlocks;
use super::ranges::Ranges;

const SEGMENT: u32 = SEGMENT_BYTES as u32;
/// Initial window in segments (RFC 6928).
const INITIAL_WINDOW: f64 = 10.0;
/// Bounds of the retransmission timeout, as Linux has them.
const TIMEOUT_MIN_NS: u64 = 200_000_000;
const TIMEOUT_MAX_NS: u64 = 60_000_000_000;
/// Before the first sample (RFC 6298).
const TIMEOUT_FIRST_NS: u64 = 1_000_000_000;
/// Duplicate acknowledgements, or segments above a hole, that mean a loss.
const LOSS_THRESHOLD: u32 = 3;
/// Cubic's share of the window that is left after a loss.
const DECREASE: f64 = 0.7;
/// Largest window advertised before anything was received.
const WINDOW_FIRST_BYTES: u32 = 64_240;

/// How the sender repairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Repair {
    None,
    Fast,
    Timeout,
}

/// What the receiver does about a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reaction {
    /// It acknowledges at once, rather than with the next segment or after a while.
    pub(super) is_prompt: bool,
    /// The transfer is complete with this segment.
    pub(super) is_complete: bool,
    /// Bytes that came twice.
    pub(super) duplicate: Option<(u32, u32)>,
}

/// One direction.
#[derive(Debug)]
pub(super) struct Half {
    /// Relative sequence number of the transfer's first byte.
    base: u32,
    bytes: u32,
    segments: u32,
    // What the sender knows.
    unacknowledged: u32,
    next: u32,
    sacked: Ranges,
    window: f64,
    threshold: f64,
    peer_window_bytes: u32,
    repair: Repair,
    repair_end: u32,
    again_next: u32,
    lost_end: u32,
    duplicates: u32,
    smoothed_ns: Option<(u64, u64)>,
    backoff: u32,
    /// When the retransmission timer runs out; `None` when it does not run.
    pub(super) timeout_due_ns: Option<u64>,
    /// The FIN was sent.
    pub(super) is_ended: bool,
    // What the receiver has.
    received: u32,
    above: Ranges,
    latest: (u32, u32),
    waiting: u8,
    window_bytes_max: u32,
    /// When a delayed acknowledgement is due.
    pub(super) delayed_due_ns: Option<u64>,
    /// The FIN arrived.
    pub(super) is_end_received: bool,
}

impl Half {
    /// A direction that has carried only its SYN; its receiver has room for this much.
    pub(super) fn new(window_bytes_max: u32) -> Self {
        Self {
            base: 1,
            bytes: 0,
            segments: 0,
            unacknowledged: 0,
            next: 0,
            sacked: Ranges::default(),
            window: INITIAL_WINDOW,
            threshold: f64::MAX,
            peer_window_bytes: WINDOW_FIRST_BYTES,
            repair: Repair::None,
            repair_end: 0,
            again_next: 0,
            lost_end: 0,
            duplicates: 0,
            smoothed_ns: None,
            backoff: 0,
            timeout_due_ns: None,
            is_ended: false,
            received: 0,
            above: Ranges::default(),
            latest: (0, 0),
            waiting: 0,
            window_bytes_max,
            delayed_due_ns: None,
            is_end_received: false,
        }
    }

    /// Starts the next transfer; the one before has arrived, and its sender knows.
    pub(super) fn start(&mut self, bytes: u32) {
        self.base = self.base.wrapping_add(self.bytes);
        self.bytes = bytes;
        self.segments = bytes.div_ceil(SEGMENT);
        self.unacknowledged = 0;
        self.next = 0;
        self.sacked.clear();
        self.repair = Repair::None;
        self.lost_end = 0;
        self.duplicates = 0;
        self.backoff = 0;
        self.timeout_due_ns = None;
        self.received = 0;
        self.above.clear();
        // A window that rested starts over (RFC 5681, 4.1), if not from so little.
        self.window = self.window.min(4.0 * INITIAL_WINDOW);
    }

    /// Relative sequence number and length of a segment of this transfer.
    pub(super) fn segment(&self, number: u32) -> (u32, u16) {
        let offset = number * SEGMENT;
        let length = (self.bytes - offset).min(SEGMENT);
        (self.base.wrapping_add(offset), length as u16)
    }

    pub(super) fn is_last(&self, number: u32) -> bool {
        number + 1 == self.segments
    }

    /// Where the sender's next byte goes, for packets without data.
    pub(super) fn next_sequence(&self) -> u32 {
        let sent = (self.next * SEGMENT).min(self.bytes);
        self.base.wrapping_add(sent) + u32::from(self.is_ended)
    }

    /// What the receiver acknowledges.
    pub(super) fn acknowledgement(&self) -> u32 {
        let received = (self.received * SEGMENT).min(self.bytes);
        self.base.wrapping_add(received) + u32::from(self.is_end_received)
    }

    /// The window that the receiver advertises, in bytes: it grows with what it has got.
    pub(super) fn receive_window_bytes(&self) -> u32 {
        let got = self
            .base
            .saturating_add(self.received.saturating_mul(SEGMENT));
        got.saturating_mul(2)
            .saturating_add(WINDOW_FIRST_BYTES)
            .min(self.window_bytes_max)
    }

    /// What the receiver has above its holes, the latest first.
    pub(super) fn blocks(&self, duplicate: Option<(u32, u32)>) -> SackBlocks {
        let mut blocks = SackBlocks::default();
        if let Some(duplicate) = duplicate {
            blocks.push(duplicate);
        }
        if self.above.is_empty() {
            return blocks;
        }
        let to_bytes = |range: (u32, u32)| {
            let end = (range.1 * SEGMENT).min(self.bytes);
            (
                self.base.wrapping_add(range.0 * SEGMENT),
                self.base.wrapping_add(end),
            )
        };
        if self.latest.0 >= self.received {
            blocks.push(to_bytes(self.latest));
        }
        self.above
            .iter()
            .rev()
            .for_each(|range| blocks.push(to_bytes(range)));
        blocks
    }

    /// The receiver gets a segment.
    pub(super) fn receive(&mut self, number: u32, sequence: u32, length: u16) -> Reaction {
        let end = sequence.wrapping_add(length.into());
        let is_old = (sequence.wrapping_sub(self.base) as i32) < 0;
        if is_old || number < self.received || self.above.contains(number) {
            return Reaction {
                is_prompt: true,
                is_complete: false,
                duplicate: Some((sequence, end)),
            };
        }
        let mut is_prompt = true;
        if number > self.received {
            self.latest = self.above.insert(number, number + 1);
        } else {
            let fills = !self.above.is_empty();
            self.received = self.above.take_from(number + 1);
            self.waiting += 1;
            is_prompt = fills || self.waiting >= 2;
        }
        Reaction {
            is_prompt,
            is_complete: self.received == self.segments,
            duplicate: None,
        }
    }

    /// An acknowledgement of what was received has been sent.
    pub(super) fn acknowledged(&mut self) {
        self.waiting = 0;
        self.delayed_due_ns = None;
    }

    /// The next segment that may be sent, and whether it was sent before.
    pub(super) fn take_next(&mut self, now_ns: u64) -> Option<(u32, bool)> {
        let window = self
            .window
            .min(f64::from(self.peer_window_bytes / SEGMENT).max(1.0));
        if f64::from(self.in_flight()) >= window {
            return None;
        }
        let taken = self.take_lost().map(|number| (number, true)).or_else(|| {
            let number = self.next;
            (number < self.segments).then(|| {
                self.next += 1;
                (number, false)
            })
        })?;
        if self.timeout_due_ns.is_none() || taken.1 {
            self.timeout_due_ns = Some(now_ns + self.timeout_ns());
        }
        Some(taken)
    }

    fn take_lost(&mut self) -> Option<u32> {
        if self.repair == Repair::None {
            return None;
        }
        self.again_next = self.again_next.max(self.unacknowledged);
        while self.again_next < self.lost_end {
            let number = self.again_next;
            self.again_next += 1;
            if !self.sacked.contains(number) {
                return Some(number);
            }
        }
        None
    }

    fn in_flight(&self) -> u32 {
        let outstanding = self.next - self.unacknowledged;
        if self.repair == Repair::None && self.sacked.is_empty() {
            return outstanding;
        }
        let from = self.again_next.max(self.unacknowledged);
        let waiting = (from..self.lost_end)
            .filter(|number| !self.sacked.contains(*number))
            .count() as u32;
        outstanding.saturating_sub(self.sacked.count() + waiting)
    }

    /// The sender learns what the receiver has.
    pub(super) fn learn(
        &mut self,
        now_ns: u64,
        (acknowledgement, window_bytes): (u32, u32),
        blocks: &SackBlocks,
        (is_pure, round_trip_ns): (bool, u64),
    ) {
        self.peer_window_bytes = window_bytes;
        let offset = acknowledgement.wrapping_sub(self.base);
        if (offset as i32) < 0 {
            return;
        }
        let number = offset.min(self.bytes).div_ceil(SEGMENT);
        if number < self.unacknowledged {
            return;
        }
        for (start, end) in blocks.as_slice() {
            let (start, end) = (start.wrapping_sub(self.base), end.wrapping_sub(self.base));
            let is_ahead = start > offset && start < end && end <= self.bytes;
            if is_ahead {
                self.sacked
                    .insert(start.div_ceil(SEGMENT), end.div_ceil(SEGMENT));
            }
        }
        if number > self.unacknowledged {
            self.advance(now_ns, number, round_trip_ns);
        } else if is_pure && self.unacknowledged < self.next {
            self.duplicates += 1;
        }
        self.find_losses();
    }

    fn advance(&mut self, now_ns: u64, number: u32, round_trip_ns: u64) {
        let delivered = f64::from(number - self.unacknowledged);
        self.unacknowledged = number;
        self.sacked.take_from(number);
        self.duplicates = 0;
        self.backoff = 0;
        self.sample(round_trip_ns);
        if self.repair != Repair::None && number >= self.repair_end {
            if self.repair == Repair::Fast {
                self.window = self.threshold;
            }
            self.repair = Repair::None;
            self.lost_end = 0;
        } else if self.repair != Repair::Fast {
            self.window += if self.window < self.threshold {
                delivered
            } else {
                delivered / self.window
            };
        }
        self.timeout_due_ns = (self.unacknowledged < self.next).then(|| now_ns + self.timeout_ns());
    }

    fn find_losses(&mut self) {
        if self.unacknowledged == self.next {
            return;
        }
        let is_loss = self.duplicates >= LOSS_THRESHOLD || self.sacked.count() >= LOSS_THRESHOLD;
        if self.repair == Repair::None && is_loss {
            self.repair = Repair::Fast;
            self.repair_end = self.next;
            self.again_next = self.unacknowledged;
            self.threshold = (self.window * DECREASE).max(2.0);
            self.window = self.threshold;
        }
        if self.repair == Repair::Fast {
            let above = self.sacked.end().max(self.unacknowledged + 1);
            self.lost_end = self.lost_end.max(above);
        }
    }

    /// The retransmission timer ran out.
    pub(super) fn time_out(&mut self) {
        self.threshold = (self.window / 2.0).max(2.0);
        self.window = 1.0;
        self.repair = Repair::Timeout;
        self.repair_end = self.next;
        self.again_next = self.unacknowledged;
        self.lost_end = self.next;
        self.duplicates = 0;
        self.backoff += 1;
        self.timeout_due_ns = None;
    }

    /// RFC 6298: smoothed round trip and its variation.
    fn sample(&mut self, round_trip_ns: u64) {
        self.smoothed_ns = Some(match self.smoothed_ns {
            None => (round_trip_ns, round_trip_ns / 2),
            Some((smoothed, variation)) => (
                (7 * smoothed + round_trip_ns) / 8,
                (3 * variation + smoothed.abs_diff(round_trip_ns)) / 4,
            ),
        });
    }

    fn timeout_ns(&self) -> u64 {
        let base_ns = self
            .smoothed_ns
            .map_or(TIMEOUT_FIRST_NS, |(smoothed, variation)| {
                smoothed + (4 * variation).max(TIMEOUT_MIN_NS)
            });
        (base_ns << self.backoff.min(8)).min(TIMEOUT_MAX_NS)
    }
}
