//! What a sender knows: acknowledgements and windows reach it some time after they pass the hop.
//!
//! At the sender's own host that is at once. Near the receiver it is a round trip from the hop to
//! the sender and back before data shows that it knew. Rounds, flights and limits of the window are
//! told from its view, so that each hop tells the same.

use std::collections::VecDeque;

/// Rounds in a row with no more bytes under way than before, after which the sender is taken to be
/// limited by its own buffer: a congestion window would have grown, and does not shrink without a
/// loss, a pause (RFC 5681 sections 3.1 and 4.1) or an echo of congestion (RFC 3168 section 6.1.2).
/// That of CUBIC hardly grows for as long as it is about where the loss before was, and one that
/// goes by delays keeps a level: these are told as the sender's limit too.
const PLATEAU_ROUNDS: u16 = 8;

/// Acknowledgement and window on their way to the sender.
#[derive(Clone, Copy, Debug)]
struct View {
    /// When data can show that the sender knows, in nanoseconds.
    at_ns: i64,
    /// From when on rounds take it for known: a little before, since the round trip to the sender
    /// is measured by few samples, mostly that of the handshake.
    early_ns: i64,
    acknowledged: u64,
    edge: Option<u64>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Sender {
    pending: VecDeque<View>,
    /// Of these, from the front, those that rounds have taken.
    early_count: usize,
    /// Nothing of what is pending is taken before this time, in nanoseconds.
    due_ns: i64,
    acknowledged: u64,
    /// End of the peer's window, and as rounds take it.
    edge: Option<u64>,
    early_edge: Option<u64>,
    /// The largest window so far.
    window_max: u64,
    /// Of the round trip that goes on: its number, the end of what was sent before it, and the most
    /// bytes under way.
    round: u32,
    round_end: u64,
    round_flight: u64,
    /// In the current round data was sent.
    round_has_data: bool,
    /// In the current round a loss was seen, or a pause.
    round_is_broken: bool,
    /// In the current round the window was full.
    round_is_full: bool,
    plateau: u64,
    plateau_rounds: u16,
    /// Most bytes under way in the round before, if that was off the level; 0 if its window was
    /// full.
    off_level: Option<u64>,
    /// Since when nothing is under way.
    quiet_since_ns: Option<i64>,
    /// Most bytes under way since the last loss, half of what was at it (after Dapper, SOSR 2017).
    pub(crate) congestion_window: u64,
}

/// A segment as its sender's view takes it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    pub(crate) time_ns: i64,
    /// End of the highest byte sent.
    pub(crate) next: u64,
    /// Largest payload.
    pub(crate) segment_max: u64,
    /// The peer has sent data since the last segment.
    pub(crate) is_answer: bool,
    /// Whole round trip, in nanoseconds.
    pub(crate) round_trip_ns: i64,
}

impl Sender {
    #[cfg(test)]
    pub(crate) const VIEW_BYTES: usize = size_of::<View>();

    pub(crate) fn new(next: u64) -> Self {
        Self {
            acknowledged: next,
            round_end: next,
            due_ns: i64::MAX,
            ..Self::default()
        }
    }

    /// The peer's acknowledgement passes the hop; `times_ns` are when it does, and how long it
    /// takes until the sender's data can show that it knows.
    pub(crate) fn tell(&mut self, times_ns: (i64, i64), acknowledged: u64, edge: Option<u64>) {
        let at_ns = times_ns.0.saturating_add(times_ns.1);
        let view = View {
            at_ns,
            early_ns: at_ns.saturating_sub(times_ns.1 / 16),
            acknowledged,
            edge,
        };
        self.due_ns = self.due_ns.min(view.early_ns);
        self.pending.push_back(view);
    }

    /// Takes in what has reached the sender by now.
    #[inline]
    pub(crate) fn see(&mut self, now_ns: i64, next: u64, segment_max: u64) {
        if now_ns >= self.due_ns {
            self.take_due(now_ns, next, segment_max);
        }
    }

    fn take_due(&mut self, now_ns: i64, next: u64, segment_max: u64) {
        while let Some(view) = self.pending.get(self.early_count)
            && view.early_ns <= now_ns
        {
            self.take_early(*view, next);
            self.turn_round(next, segment_max);
        }
        while self.early_count > 0
            && let Some(view) = self.pending.front()
            && view.at_ns <= now_ns
        {
            self.take_window();
        }
        self.note_due();
    }

    fn note_due(&mut self) {
        let early_ns = self.pending.get(self.early_count).map(|it| it.early_ns);
        let first = self.pending.front().filter(|_| self.early_count > 0);
        let at_ns = first.map(|it| it.at_ns);
        self.due_ns = early_ns.into_iter().chain(at_ns).min().unwrap_or(i64::MAX);
    }

    fn take_early(&mut self, view: View, next: u64) {
        self.early_count += 1;
        self.acknowledged = self.acknowledged.max(view.acknowledged);
        self.early_edge = view.edge;
        if self.acknowledged >= next {
            self.quiet_since_ns = Some(view.at_ns);
        }
    }

    /// The oldest view's window is known.
    fn take_window(&mut self) {
        let Some(view) = self.pending.pop_front() else {
            return;
        };
        self.early_count -= 1;
        self.edge = view.edge;
        if let Some(edge) = view.edge {
            let window = edge.saturating_sub(view.acknowledged);
            self.window_max = self.window_max.max(window);
        }
        self.note_due();
    }

    /// New data was sent; `step.next` is its end.
    pub(crate) fn send(&mut self, step: &Step) {
        let pause_ns = (step.round_trip_ns / 4).max(2_000_000);
        let is_pause = self
            .quiet_since_ns
            .take()
            .is_some_and(|since_ns| step.time_ns.saturating_sub(since_ns) > pause_ns);
        if is_pause || step.is_answer {
            (self.plateau, self.plateau_rounds) = (0, 0);
            self.round_is_broken = true;
        }
        self.round_has_data = true;
        // Who sends beyond a window knows the next one.
        while self.early_count > 0 && self.edge.is_some_and(|edge| edge < step.next) {
            self.take_window();
        }
        let flight = step.next.saturating_sub(self.acknowledged);
        self.round_flight = self.round_flight.max(flight);
        self.round_is_full |= self.has_no_room(self.early_edge, step.next, step.segment_max);
    }

    /// A loss was seen, or the order was not kept: the round says nothing of limits.
    pub(crate) fn disturb(&mut self) {
        self.round_is_broken = true;
    }

    /// A loss sets the estimate of the congestion window.
    pub(crate) fn lose(&mut self, congestion_window: u64) {
        self.congestion_window = congestion_window;
        self.round_is_broken = true;
    }

    /// Ends a round trip once something is acknowledged that was sent after its beginning. The last
    /// of what was under way then may be acknowledged at once: a burst is one flight.
    fn turn_round(&mut self, next: u64, segment_max: u64) {
        if self.acknowledged <= self.round_end {
            return;
        }
        let segment = segment_max.max(1);
        let flight = if self.round_is_full {
            0
        } else {
            self.round_flight
        };
        // Less than before tells as much: the congestion window has had room for more, and what a
        // buffer holds varies with how it is cut into packets, which the kernel charges with their
        // overhead. What grows as Reno does, by 0.53 segments a round trip and more (RFC 9438
        // section 4.3), leaves the level in time.
        let most = |level: u64| level.saturating_add(2 * segment);
        if self.round_is_broken || (self.round_has_data && self.round_flight < 2 * segment) {
            (self.plateau, self.plateau_rounds) = (0, 0);
        } else if !self.round_has_data {
            // Only the rest of a flight was acknowledged.
        } else if !self.round_is_full && self.round_flight <= most(self.plateau) {
            self.plateau_rounds = self.plateau_rounds.saturating_add(1);
            self.off_level = None;
        } else if self.plateau_rounds > 0 && self.off_level.is_none() {
            // A buffer may hold more for once; a congestion window that has grown stays so.
            self.off_level = Some(flight);
        } else {
            let before = self.off_level.take().filter(|it| *it > 0);
            (self.plateau, self.plateau_rounds) = match before {
                Some(before) if flight > 0 && flight <= most(before) => (before, 1),
                _ => (flight, 0),
            };
        }
        self.congestion_window = self.congestion_window.max(self.round_flight);
        self.round_flight = next.saturating_sub(self.acknowledged);
        (self.round_is_broken, self.round_is_full) = (false, false);
        self.round_has_data = false;
        self.round_end = next;
        self.round = self.round.wrapping_add(1);
    }

    /// The number of the round trip that goes on.
    pub(crate) fn round(&self) -> u32 {
        self.round
    }

    /// Most bytes under way that the rounds of late keep within; 0 where there are none.
    pub(crate) fn plateau(&self) -> u64 {
        self.plateau
    }

    /// Rounds that have kept within that, beyond the first.
    pub(crate) fn plateau_rounds(&self) -> u16 {
        self.plateau_rounds
    }

    /// Whether its own buffer must hold the sender back.
    pub(crate) fn is_at_plateau(&self) -> bool {
        self.plateau_rounds >= PLATEAU_ROUNDS
    }

    /// Until when the window has no room for what the sender would send; `None` where it has.
    pub(crate) fn limited_until_ns(&self, next: u64, segment_max: u64) -> Option<i64> {
        if !self.has_no_room(self.edge, next, segment_max) {
            return None;
        }
        let lifted = self
            .pending
            .iter()
            .find(|view| !self.has_no_room(view.edge, next, segment_max));
        Some(lifted.map_or(i64::MAX, |view| view.at_ns))
    }

    /// RFC 9293 section 3.8.6.2.1: a sender waits for room for a full segment, or for half the
    /// largest window.
    fn has_no_room(&self, edge: Option<u64>, next: u64, segment_max: u64) -> bool {
        let wanted = segment_max.min(self.window_max / 2).max(1);
        edge.is_some_and(|edge| edge.saturating_sub(next) < wanted)
    }

    pub(crate) fn capacity(&self) -> usize {
        self.pending.capacity() * size_of::<View>()
    }

    /// Takes the oldest for arrived, so that one more are `count_max` at most.
    pub(crate) fn hasten(&mut self, count_max: usize, next: u64) {
        while self.pending.len() >= count_max.max(1)
            && let Some(oldest) = self.pending.front()
        {
            if self.early_count == 0 {
                self.take_early(*oldest, next);
            }
            self.take_window();
        }
    }

    /// Most bytes under way in the round trip that goes on.
    pub(crate) fn round_flight(&self) -> u64 {
        self.round_flight
    }

    /// Gives memory back that is not in use, but for `count` of them.
    pub(crate) fn shrink_to(&mut self, count: usize) {
        self.pending.shrink_to(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: u64 = 1_448;
    const ROUND_TRIP_NS: i64 = 80_000_000;

    /// Bursts of so many segments, each acknowledged in two parts at once.
    fn bursts(segments: impl IntoIterator<Item = u64>) -> Sender {
        let mut sender = Sender::new(0);
        let (mut next, mut time_ns) = (0, 0);
        for count in segments {
            let first = next + count.div_ceil(2) * SEGMENT;
            next += count * SEGMENT;
            sender.send(&Step {
                time_ns,
                next,
                segment_max: SEGMENT,
                is_answer: false,
                round_trip_ns: ROUND_TRIP_NS,
            });
            time_ns += ROUND_TRIP_NS;
            for acknowledged in [first, next] {
                sender.tell((time_ns, 0), acknowledged, None);
                sender.see(time_ns, next, SEGMENT);
            }
        }
        sender
    }

    #[test]
    fn a_burst_acknowledged_in_parts_is_one_flight() {
        let sender = bursts([22; 10]);
        assert!(sender.is_at_plateau());
        assert_eq!(sender.plateau(), 22 * SEGMENT);
        assert_eq!(sender.round(), 10);
    }

    #[test]
    fn a_level_may_vary_and_does_not_grow() {
        assert!(bursts([22, 24, 20, 17, 22, 24, 18, 22, 22]).is_at_plateau());
        assert!(!bursts(60..80).is_at_plateau());
        assert!(bursts([22, 12, 18, 9, 12, 12, 22, 15, 22]).is_at_plateau());
        assert!(bursts([22, 22, 22, 22, 40, 22, 22, 22, 22, 22, 22]).is_at_plateau());
        assert!(!bursts([22, 22, 22, 22, 40, 40, 40, 22, 22, 22, 22]).is_at_plateau());
    }
}
