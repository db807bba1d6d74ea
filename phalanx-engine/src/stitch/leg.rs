//! Legs: what lies between two neighbouring hops of a path: delay, loss, reordering, duplication.

use hashbrown::HashMap;
use phalanx_common::packet::TcpFlags;

use super::alignment::Item;
use super::beside::{Beside, Lies, PATH_SHARE};
use super::clock::Difference;
use super::fate::{Fate, Fates, Origin};
use super::hull::{Point, SKEW_MAX, robust_slope};
use super::journey::Journeys;
use crate::distribution::Distribution;

/// One direction of a leg.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LegWay {
    /// Packets that set out, as the hop counts them where segments are the smallest. Those are not
    /// among them of which it is not known whether they took this leg or one beside it.
    pub packets: u64,
    /// Of these, lost on the leg.
    pub lost: u64,
    /// Lost here or on a leg beside it, where ways part and nothing tells which one they took: not
    /// among `packets`, and told of each of these legs.
    pub lost_here_or_beside: u64,
    /// Not seen any more, of such packets; nothing tells whether they were lost or not captured.
    pub unresolved_here_or_beside: u64,
    /// Overtaken on the leg (RFC 4737 section 3.3): singletons that came after a later one.
    pub reordered: u64,
    /// Copies that came beside the original.
    pub duplicated: u64,
    /// Passed, and not captured at the far end of the leg.
    pub not_captured: u64,
    /// Not seen at the far end, and nothing tells whether they were lost or not captured, or where
    /// they were lost.
    pub unresolved: u64,
    /// One-way delay in nanoseconds, by the clocks as they were found out.
    pub delay: Distribution,
    /// What the delays may be off by, in nanoseconds: a hard bound; `None` where the clocks could
    /// not be compared, and there are no delays.
    pub delay_error_ns: Option<i64>,
    /// Delay beyond the least of the minute before, in nanoseconds: needs no clocks.
    pub queueing: Distribution,
}

/// A leg of a conversation. `from` is nearer to the client.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LegStory {
    /// Number of the hop nearer to the client.
    pub from: u32,
    /// Number of the other.
    pub to: u32,
    /// From the client to the server.
    pub forward: Option<LegWay>,
    /// From the server to the client.
    pub reverse: Option<LegWay>,
    /// From one hop to the other and back, in nanoseconds: the difference of the round trips that
    /// either sees of the same data and acknowledgement, so that clocks do not matter.
    pub rtt: Distribution,
}

/// How long a least delay counts, in nanoseconds.
const LEAST_DELAY_NS: i64 = 60_000_000_000;

/// How many times the share that a capture misses must be lost, for a loss to be believed of what
/// nothing else tells of.
const CAPTURE_LOSS_FACTOR: u128 = 3;

/// Packets of one direction that passed a hop, and those of them that it did not see.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Unseen {
    unseen: u64,
    all: u64,
}

/// Whether what is missing may as well not have been captured, since the far end misses as much of
/// what passed: of this direction, or so much of the other one that there is a way around it.
fn may_be_missed(count: &Count, other: Unseen) -> bool {
    let leg = &count.leg;
    // What passed while the far end recorded nothing does not tell what it misses when it records.
    let packets = leg.packets - count.away;
    let passed = packets - leg.lost - leg.unresolved - count.missing;
    let not_captured = leg.not_captured - count.away + count.not_captured_here_or_beside;
    let missing = count.missing + count.missing_here_or_beside;
    let [missed, passed, not_captured, packets] =
        [missing, passed, not_captured, packets].map(u128::from);
    let is_missed = missed * passed <= CAPTURE_LOSS_FACTOR * not_captured * packets;
    let is_passed_by = other.unseen > 0 && other.unseen * PATH_SHARE >= other.all;
    let [unseen, all] = [other.unseen, other.all].map(u128::from);
    let is_unseen = is_passed_by && missed * all <= CAPTURE_LOSS_FACTOR * unseen * packets;
    (is_missed && not_captured > 0) || is_unseen
}

/// What was counted on a leg.
#[derive(Default)]
struct Count {
    leg: LegWay,
    /// Packets that are missing behind its first stop.
    missing: u64,
    /// The same, of those that may have taken a leg beside it.
    missing_here_or_beside: u64,
    /// Packets that passed here or on a leg beside it, and were captured on none of them.
    not_captured_here_or_beside: u64,
    /// Of those that were not captured at its far end: due while that recorded nothing.
    away: u64,
}

/// One direction of a conversation, with all that was found out of it.
pub(super) struct Way<'a> {
    pub(super) items: &'a [&'a [Item]],
    pub(super) journeys: &'a Journeys,
    pub(super) fates: &'a Fates,
    pub(super) beside: &'a Beside,
    /// Payload of a full segment where segments are the smallest.
    pub(super) segment_length: u64,
}

impl Way<'_> {
    fn item(&self, journey: usize, stop: usize) -> Option<&Item> {
        self.items[stop].get(self.journeys.place(journey, stop)?)
    }

    /// Packets that a journey stands for: more than one where what was lost was never cut.
    pub(super) fn weight(&self, journey: usize) -> u64 {
        let is_cut = self.journeys.stops(journey).all(|stop| {
            let item = self.item(journey, stop);
            item.is_some_and(|item| u64::from(item.crossing.length) <= self.segment_length)
        });
        match is_cut {
            true => 1,
            false => self
                .payload(journey)
                .div_ceil(self.segment_length.max(1))
                .max(1),
        }
    }

    /// Payload bytes of a journey: SYN and FIN take a place in sequence space and none in a packet.
    fn payload(&self, journey: usize) -> u64 {
        let range = self.journeys.range(journey);
        let first = self.journeys.stops(journey).next();
        let item = first.and_then(|stop| self.item(journey, stop));
        let control = item.map_or(0, |item| {
            let flags = TcpFlags(item.crossing.flags);
            u64::from(flags.any(TcpFlags::SYN) && item.start == range.start)
                + u64::from(flags.any(TcpFlags::FIN) && item.end == range.end)
        });
        let length = range.end.saturating_sub(range.start);
        length.saturating_sub(control)
    }

    /// Whether a journey's times at both stops are of its own first byte.
    fn is_timed(&self, journey: usize, stops: [usize; 2]) -> bool {
        let range = self.journeys.range(journey);
        stops.iter().all(|stop| {
            let item = self.item(journey, *stop);
            item.is_some_and(|item| range.is_empty() || item.start == range.start)
        })
    }

    /// What happened between two stops that follow each other; `difference` is that of their
    /// clocks at a time of the first, and `unseen` what the far end did not see of the other
    /// direction.
    pub(super) fn leg(
        &self,
        stops: [usize; 2],
        unseen: Unseen,
        difference: impl Fn(i64) -> Option<Difference>,
    ) -> LegWay {
        let count = self.counts(stops);
        let may_be_missed = may_be_missed(&count, unseen);
        let Count {
            mut leg,
            missing,
            missing_here_or_beside,
            ..
        } = count;
        if may_be_missed {
            leg.unresolved += missing;
            leg.unresolved_here_or_beside += missing_here_or_beside;
        } else {
            leg.lost += missing;
            leg.lost_here_or_beside += missing_here_or_beside;
        }
        leg.reordered = self.overtaken(stops).len() as u64;
        self.delays(stops, difference, &mut leg);
        leg
    }

    /// Whether what is missing behind the first of two stops counts as lost on the leg; `None`
    /// where nothing is.
    pub(super) fn is_missing_lost(&self, stops: [usize; 2], unseen: Unseen) -> Option<bool> {
        let count = self.counts(stops);
        let is_any = count.missing + count.missing_here_or_beside > 0;
        is_any.then(|| !may_be_missed(&count, unseen))
    }

    /// Stops that follow each other on some way.
    pub(super) fn legs(&self) -> impl Iterator<Item = [usize; 2]> + '_ {
        self.beside.legs()
    }

    fn counts(&self, stops: [usize; 2]) -> Count {
        let mut count = Count::default();
        for journey in 0..self.journeys.len() {
            self.count(journey, stops, &mut count);
        }
        count
    }

    fn lies(&self, journey: usize, stop: usize) -> Lies {
        self.beside.lies(self.journeys, journey, stop)
    }

    fn count(&self, journey: usize, [from, to]: [usize; 2], count: &mut Count) {
        let weight = self.weight(journey);
        let leg = &mut count.leg;
        if let Origin::Copied { before, of } = self.fates.origins[journey]
            && before >= to
        {
            let is_here = before == to && self.lies(of, from) == Lies::On;
            leg.duplicated += if is_here { weight } else { 0 };
            return;
        }
        let lies = [from, to].map(|stop| self.lies(journey, stop));
        // What went by another way has nothing to do with this one.
        if lies.contains(&Lies::Off) {
            return;
        }
        let fate = self.fates.fates[journey];
        if lies.contains(&Lies::Unknown) {
            match fate {
                Fate::Lost { after } if after == from => leg.lost_here_or_beside += weight,
                Fate::Missing { after } if after == from => {
                    count.missing_here_or_beside += weight;
                }
                Fate::Open { after } if after == from => {
                    leg.unresolved_here_or_beside += weight;
                }
                Fate::Lost { .. } | Fate::Missing { .. } | Fate::Open { .. } => {}
                Fate::Arrived | Fate::Uncaptured { .. } if !self.fates.is_away(journey, to) => {
                    count.not_captured_here_or_beside += weight;
                }
                Fate::Arrived | Fate::Uncaptured { .. } => {}
            }
            return;
        }
        match fate {
            Fate::Lost { after } | Fate::Missing { after } | Fate::Open { after }
                if after < from => {}
            Fate::Lost { after } if after == from => {
                leg.packets += weight;
                leg.lost += weight;
            }
            Fate::Missing { after } if after == from => {
                leg.packets += weight;
                count.missing += weight;
            }
            Fate::Open { after } if after == from => {
                leg.packets += weight;
                leg.unresolved += weight;
            }
            _ => {
                let is_seen = self.journeys.place(journey, to).is_some();
                leg.packets += weight;
                if !is_seen {
                    leg.not_captured += weight;
                    count.away += u64::from(self.fates.is_away(journey, to)) * weight;
                }
            }
        }
    }

    /// What a stop did not see of all that passed it.
    pub(super) fn unseen(&self, stop: usize) -> Unseen {
        let mut unseen = Unseen::default();
        for journey in 0..self.journeys.len() {
            if self.lies(journey, stop) != Lies::On || self.fates.is_away(journey, stop) {
                continue;
            }
            let weight = self.weight(journey);
            let is_seen = self.journeys.place(journey, stop).is_some();
            let is_beyond = self.journeys.stops(journey).next_back() > Some(stop);
            let is_copy = matches!(self.fates.origins[journey], Origin::Copied { .. });
            let is_past =
                matches!(self.fates.fates[journey], Fate::Uncaptured { after } if after < stop);
            if is_seen {
                unseen.all += weight;
            } else if (is_beyond || is_past) && !is_copy {
                unseen.all += weight;
                unseen.unseen += weight;
            }
        }
        unseen
    }

    /// Journeys that a later one overtook between two stops; the pieces of one packet count once.
    pub(super) fn overtaken(&self, [from, to]: [usize; 2]) -> Vec<usize> {
        let mut seen: Vec<(u64, u64, (u64, u64), usize)> = Vec::new();
        for journey in 0..self.journeys.len() {
            let both = (self.item(journey, from), self.item(journey, to));
            if let (Some(x), Some(y)) = both {
                let start = self.journeys.range(journey).start;
                seen.push((y.crossing.frame, start, (x.crossing.frame, start), journey));
            }
        }
        seen.sort_unstable();
        let mut latest = (0, 0);
        let mut overtaken = Vec::new();
        let mut last_frame = 0;
        for (frame, _, sent, journey) in seen {
            if sent < latest && last_frame != frame {
                overtaken.push(journey);
                last_frame = frame;
            }
            latest = latest.max(sent);
        }
        overtaken
    }

    fn delays(
        &self,
        [from, to]: [usize; 2],
        difference: impl Fn(i64) -> Option<Difference>,
        leg: &mut LegWay,
    ) {
        let mut ahead: Vec<(i64, i64)> = Vec::new();
        // By clocks that cannot be compared.
        let mut raw: Vec<(i64, i64)> = Vec::new();
        let mut error_ns = 0.0_f64;
        for journey in 0..self.journeys.len() {
            if !self.is_timed(journey, [from, to]) {
                continue;
            }
            let times = [from, to].map(|stop| self.item(journey, stop).map(|it| it.time_ns));
            let [Some(sent_ns), Some(seen_ns)] = times else {
                continue;
            };
            let raw_ns = seen_ns.saturating_sub(sent_ns);
            match difference(sent_ns) {
                // What nothing bounds is no delay, and still one that can be compared with others.
                Some(difference) if !difference.is_bounded() => {
                    ahead.push((sent_ns, raw_ns.saturating_sub(difference.ahead_ns as i64)));
                }
                Some(difference) => {
                    error_ns = error_ns.max(difference.error_ns());
                    let delay_ns = raw_ns.saturating_sub(difference.ahead_ns as i64);
                    leg.delay.add(delay_ns);
                    ahead.push((sent_ns, delay_ns));
                }
                None => raw.push((sent_ns, raw_ns)),
            }
        }
        if leg.delay.count() > 0 {
            leg.delay_error_ns = Some(error_ns.ceil() as i64);
        }
        ahead.extend(without_skew(raw));
        ahead.sort_unstable();
        beyond_least(&ahead, &mut leg.queueing);
    }
}

/// Takes out of differences by time what they grow by evenly: one clock is faster.
fn without_skew(mut times: Vec<(i64, i64)>) -> Vec<(i64, i64)> {
    times.sort_unstable();
    let point = |it: &(i64, i64)| Point {
        time_ns: it.0,
        ahead_ns: it.1,
    };
    let points: Vec<Point> = times.iter().map(point).collect();
    let slope = robust_slope(&points, true).unwrap_or_default();
    let slope = slope.clamp(-SKEW_MAX, SKEW_MAX);
    let first_ns = times.first().map_or(0, |it| it.0);
    for (time_ns, ahead_ns) in &mut times {
        let grown_ns = slope * time_ns.saturating_sub(first_ns) as f64;
        *ahead_ns = ahead_ns.saturating_sub(grown_ns as i64);
    }
    times
}

/// What each is beyond the least of the minute before it.
fn beyond_least(times: &[(i64, i64)], beyond: &mut Distribution) {
    let mut least: std::collections::VecDeque<(i64, i64)> = std::collections::VecDeque::new();
    for (time_ns, delay_ns) in times {
        while least.back().is_some_and(|it| it.1 >= *delay_ns) {
            least.pop_back();
        }
        least.push_back((*time_ns, *delay_ns));
        while least
            .front()
            .is_some_and(|it| time_ns - it.0 > LEAST_DELAY_NS)
        {
            least.pop_front();
        }
        if let Some((_, floor)) = least.front() {
            beyond.add(delay_ns.saturating_sub(*floor));
        }
    }
}

/// Round trips between two hops: of data that was sent once and acknowledged by the packet that
/// ends there. `data` and `replies` are the two directions; stops are of each.
pub(super) fn round_trips(
    data: &Way<'_>,
    data_stops: [usize; 2],
    replies: &Way<'_>,
    reply_stops: [usize; 2],
    rtt: &mut Distribution,
) {
    // By where the data ends: its times at the hop nearer to its sender and at the other.
    let mut waiting: HashMap<u64, Option<[i64; 2]>, foldhash::fast::FixedState> =
        HashMap::default();
    for journey in 0..data.journeys.len() {
        let range = data.journeys.range(journey);
        if range.is_empty() {
            continue;
        }
        let times = data_stops.map(|stop| data.item(journey, stop).map(|it| it.time_ns));
        let both = match times {
            [Some(near), Some(far)] if data.is_timed(journey, data_stops) => Some([near, far]),
            _ => None,
        };
        // Bytes that were sent twice are ambiguous (Karn).
        let is_first = !waiting.contains_key(&range.end);
        waiting.insert(range.end, both.filter(|_| is_first));
    }
    let mut answers: Vec<(i64, u64, [i64; 2])> = Vec::new();
    for journey in 0..replies.journeys.len() {
        let items = reply_stops.map(|stop| replies.item(journey, stop));
        if let [Some(near), Some(far)] = items {
            let times = [near.time_ns, far.time_ns];
            answers.push((far.time_ns, far.acknowledged, times));
        }
    }
    answers.sort_unstable();
    for (_, position, [near, far]) in answers {
        if let Some(Some([sent_near, sent_far])) = waiting.remove(&position) {
            let whole_ns = near.saturating_sub(sent_near);
            let beyond_ns = far.saturating_sub(sent_far);
            if whole_ns > 0 && beyond_ns >= 0 {
                rtt.add(whole_ns.saturating_sub(beyond_ns));
            }
        }
    }
}
