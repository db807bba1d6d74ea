//! Alignment: which packet here is which packet there, in one direction of one conversation,
//! between the packets that come from upstream and those that one hop saw.
//!
//! Bytes are aligned, not packets: the borders of all segments of both sides cut the sequence space
//! into runs, and of each run the sendings upstream are matched in order with those downstream. So
//! it does not matter where segments were cut or merged (TSO, GSO, GRO). What takes no sequence
//! space, as acknowledgements, is matched in the same way with what equals it.
//!
//! The order-preserving matching of lists is that of Needleman and Wunsch (1970); long lists, as of
//! equal datagrams, are matched from the front, a window at a time, so that their times tell which
//! of them is missing.

use std::ops::Range;

use super::rhythm::Rhythm;
use super::trail::Crossing;
use crate::limits::{
    ALIGNMENT_LIST_MAX, ALIGNMENT_VISIT_COUNT_MAX, ALIGNMENT_VISITS_PER_PACKET,
    ALIGNMENT_WINDOW_COUNT,
};

/// One packet to be aligned.
#[derive(Clone, Copy, Debug)]
pub(super) struct Item {
    /// Where it lies in sequence space, from a number that both sides share; empty for what takes
    /// none of it.
    pub(super) start: u64,
    pub(super) end: u64,
    /// When it crossed, in nanoseconds of its own hop's clock, or of the other's as far as it is
    /// known.
    pub(super) time_ns: i64,
    /// The position in the other direction that it acknowledges, 0 without ACK.
    pub(super) acknowledged: u64,
    /// Hops just before the other side's that did not see it.
    pub(super) missed_count: usize,
    pub(super) crossing: Crossing,
}

/// A range of sequence space, upstream and downstream: places among the items. One of both may be
/// absent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) upstream: Option<u32>,
    pub(super) downstream: Option<u32>,
    pub(super) range: Range<u64>,
    /// Nothing else could be meant: one packet of these bytes on either side.
    pub(super) is_plain: bool,
}

/// What is known of a pair of hops before their packets are matched.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Expectation {
    /// Least and usual time from upstream to downstream, in nanoseconds, where clocks are known:
    /// downstream's time less upstream's.
    pub(super) delay_ns: Option<(i64, i64)>,
    /// IP ids come through.
    pub(super) ids_survive: bool,
    /// Timestamps come through.
    pub(super) stamps_survive: bool,
}

/// Cost of a packet that only one side has.
const GAP_COST: i64 = 6;

/// Cost of what is left over at the end of a window: what follows may have its partner.
const REST_COST: i64 = 1;

/// Cost of what differs that ought to be the same: more than two gaps.
const DIFFERENCE_COST: i64 = 13;

/// Cost of a match that takes longer than usual: grows to this.
const LATENESS_COST_MAX: i64 = 4;

/// Cost of each hop just before that did not see it: of two that may be meant, the one that came
/// farther is.
const MISSED_COST: i64 = 2;

/// As many of these count.
const MISSED_COUNT_MAX: usize = 3;

/// How much earlier than the least delay a packet may come: clocks tick and bend.
const EARLY_NS: i64 = 200_000;

/// Aligns what is upstream with what is downstream. Items of either side are in the order of time.
/// The links of each item upstream are in the order of its bytes. `None` where the segments are cut
/// so oddly that the work has no bound.
pub(super) fn align(
    upstream: &[Item],
    downstream: &[Item],
    expectation: &Expectation,
) -> Option<Vec<Link>> {
    let mut links = Vec::with_capacity(upstream.len().max(downstream.len()));
    let runs = Runs::of(upstream, downstream)?;
    let mut lists = Lists {
        upstream,
        downstream,
        expectation,
        rhythm: None,
        costs: Vec::new(),
    };
    for run in &runs.runs {
        let xs = &runs.visits[0][run.visits[0].clone()];
        let ys = &runs.visits[1][run.visits[1].clone()];
        lists.match_run(xs, ys, &run.range, &mut links);
    }
    lists.match_sayings(&mut links);
    Some(links)
}

/// A run of sequence space with the items that cover it.
struct Run {
    range: Range<u64>,
    /// Places in [`Runs::visits`], upstream and downstream.
    visits: [Range<usize>; 2],
}

struct Runs {
    runs: Vec<Run>,
    visits: [Vec<u32>; 2],
}

impl Runs {
    fn of(upstream: &[Item], downstream: &[Item]) -> Option<Self> {
        let sides = [upstream, downstream];
        let mut borders = Vec::with_capacity(2 * (upstream.len() + downstream.len()));
        for item in sides.into_iter().flatten() {
            if item.start < item.end {
                borders.extend([item.start, item.end]);
            }
        }
        borders.sort_unstable();
        borders.dedup();
        let room = (upstream.len() + downstream.len() + 1) * ALIGNMENT_VISITS_PER_PACKET;
        let room = room.min(ALIGNMENT_VISIT_COUNT_MAX);
        let mut spans = 0;
        // Each item visits the runs that it covers: by run, then by time.
        let visits = sides.map(|items| {
            let mut visits = Vec::with_capacity(items.len());
            for (place, item) in items.iter().enumerate() {
                if item.start >= item.end {
                    continue;
                }
                let first = borders.partition_point(|border| *border < item.start);
                let last = borders.partition_point(|border| *border < item.end);
                spans += last - first;
                if spans > room {
                    return Vec::new();
                }
                visits.extend((first..last).map(|run| (run as u32, place as u32)));
            }
            visits.sort_unstable();
            visits
        });
        if spans > room {
            return None;
        }
        let mut at = [0; 2];
        let mut runs = Vec::with_capacity(borders.len());
        for (index, border) in borders.windows(2).enumerate() {
            let range = border[0]..border[1];
            let of = [0, 1].map(|side| {
                let begin = at[side];
                while visits[side]
                    .get(at[side])
                    .is_some_and(|it| it.0 as usize == index)
                {
                    at[side] += 1;
                }
                begin..at[side]
            });
            if !of[0].is_empty() || !of[1].is_empty() {
                runs.push(Run { range, visits: of });
            }
        }
        let visits = visits.map(|list| list.into_iter().map(|it| it.1).collect());
        Some(Self { runs, visits })
    }
}

/// What of an acknowledgement comes through unchanged.
#[derive(Clone, Copy, Debug)]
struct Survival {
    stamps: bool,
    /// What its SACK blocks say: who shifts sequence numbers mostly shifts these as well.
    blocks: bool,
}

/// What a packet says that takes no sequence space: equal on its whole way.
type Saying = ([u32; 6], u8, u16);

fn saying(crossing: &Crossing, survival: Survival) -> Saying {
    let of = |survives: bool, word: u32| if survives { word } else { 0 };
    let is_bare = crossing.length == 0;
    let words = [
        crossing.sequence,
        crossing.acknowledgement,
        of(survival.stamps, crossing.timestamp_value),
        of(survival.stamps, crossing.timestamp_echo),
        of(survival.blocks || !is_bare, crossing.digest),
        crossing.length,
    ];
    (words, crossing.flags, crossing.window)
}

/// Items of both sides that take no sequence space, by what they say.
fn by_saying(
    sides: [&[Item]; 2],
    survival: Survival,
    counts: impl Fn(usize, u32) -> bool,
) -> Vec<[Vec<u32>; 2]> {
    let mut all: Vec<(Saying, usize, u32)> = Vec::new();
    for (side, items) in sides.into_iter().enumerate() {
        for (place, item) in (0..).zip(items) {
            if item.start >= item.end && counts(side, place) {
                all.push((saying(&item.crossing, survival), side, place));
            }
        }
    }
    all.sort_unstable();
    let mut lists: Vec<[Vec<u32>; 2]> = Vec::new();
    for group in all.chunk_by(|a, b| a.0 == b.0) {
        let mut list = [Vec::new(), Vec::new()];
        for (_, side, place) in group {
            list[*side].push(*place);
        }
        lists.push(list);
    }
    lists
}

/// One of so many that could has to match, else what it says is rewritten on the way.
const REWRITTEN_SHARE: usize = 2;

struct Lists<'a> {
    upstream: &'a [Item],
    downstream: &'a [Item],
    expectation: &'a Expectation,
    /// What the times of a long list tell by themselves.
    rhythm: Option<Rhythm>,
    /// Room for the table of costs.
    costs: Vec<i64>,
}

impl Lists<'_> {
    /// Matches what takes no sequence space by what it says, and what is left over by what of that
    /// comes through, where middleboxes rewrite the rest.
    fn match_sayings(&mut self, links: &mut Vec<Link>) {
        let sides = [self.upstream, self.downstream];
        let all = Survival {
            stamps: true,
            blocks: true,
        };
        let begin = links.len();
        for [xs, ys] in by_saying(sides, all, |_, _| true) {
            self.match_run(&xs, &ys, &(0..0), links);
        }
        let mut is_matched = [vec![false; sides[0].len()], vec![false; sides[1].len()]];
        for link in &links[begin..] {
            if let (Some(x), Some(y)) = (link.upstream, link.downstream) {
                is_matched[0][x as usize] = true;
                is_matched[1][y as usize] = true;
            }
        }
        let survives = |has: fn(&Crossing) -> bool| {
            let able = |side: usize| {
                let items = sides[side].iter().zip(&is_matched[side]);
                items.filter(|(item, _)| item.start >= item.end && has(&item.crossing))
            };
            // The side that saw less tells what could match.
            let side = usize::from(able(0).count() > able(1).count());
            let matched = able(side).filter(|it| *it.1).count();
            matched * REWRITTEN_SHARE >= able(side).count()
        };
        let survival = Survival {
            stamps: survives(Crossing::has_timestamps),
            blocks: survives(|it| it.flags != 0 && it.length == 0 && it.digest != 0),
        };
        if survival.stamps && survival.blocks {
            return;
        }
        let is_alone = |link: &Link| link.upstream.is_none() || link.downstream.is_none();
        links.retain(|link| !(link.range.is_empty() && is_alone(link)));
        let begin = links.len();
        let is_left = |side: usize, place: u32| !is_matched[side][place as usize];
        for [xs, ys] in by_saying(sides, survival, is_left) {
            self.match_run(&xs, &ys, &(0..0), links);
        }
        // Nothing says that they are one but their numbers.
        links[begin..].iter_mut().for_each(|it| it.is_plain = false);
    }

    /// Matches those that sent the bytes of a run with those that brought them.
    fn match_run(&mut self, xs: &[u32], ys: &[u32], range: &Range<u64>, links: &mut Vec<Link>) {
        let mut link = |upstream: Option<u32>, downstream: Option<u32>, is_plain| {
            links.push(Link {
                upstream,
                downstream,
                range: range.clone(),
                is_plain,
            });
        };
        if let ([x], [y]) = (xs, ys)
            && self.cost(*x, *y) < 2 * GAP_COST
        {
            return link(Some(*x), Some(*y), true);
        }
        let matched = if xs.len() <= ALIGNMENT_LIST_MAX && ys.len() <= ALIGNMENT_LIST_MAX {
            self.match_short(xs, ys)
        } else {
            self.match_long(xs, ys)
        };
        let mut y_at = 0;
        let mut matched = matched.into_iter().peekable();
        for (x_at, x) in xs.iter().enumerate() {
            let partner = matched.next_if(|it| it.0 == x_at).map(|it| it.1);
            if let Some(partner) = partner {
                ys[y_at..partner]
                    .iter()
                    .for_each(|y| link(None, Some(*y), false));
                y_at = partner + 1;
            }
            link(Some(*x), partner.map(|at| ys[at]), false);
        }
        ys[y_at..].iter().for_each(|y| link(None, Some(*y), false));
    }

    /// The cheapest order-preserving matching of two short lists: pairs of places, rising.
    fn match_short(&mut self, xs: &[u32], ys: &[u32]) -> Vec<(usize, usize)> {
        if xs.len() != ys.len() {
            self.find_rhythm(xs, ys);
        }
        let matched = self.match_whole(xs, ys, GAP_COST);
        self.rhythm = None;
        matched
    }

    /// Finds out what the times of two lists tell by themselves.
    fn find_rhythm(&mut self, xs: &[u32], ys: &[u32]) {
        let times = |items: &[Item], places: &[u32]| -> Vec<i64> {
            places
                .iter()
                .map(|it| items[*it as usize].time_ns)
                .collect()
        };
        let (sent_ns, seen_ns) = (times(self.upstream, xs), times(self.downstream, ys));
        self.rhythm = Rhythm::of(&sent_ns, &seen_ns, self.expectation.delay_ns);
    }

    /// The same, where what is left over behind the last pair costs `rest_cost` each.
    fn match_whole(&mut self, xs: &[u32], ys: &[u32], rest_cost: i64) -> Vec<(usize, usize)> {
        if xs.is_empty() || ys.is_empty() {
            return Vec::new();
        }
        let width = ys.len() + 1;
        let mut costs = std::mem::take(&mut self.costs);
        costs.clear();
        costs.resize((xs.len() + 1) * width, 0);
        for x in (0..=xs.len()).rev() {
            for y in (0..=ys.len()).rev() {
                let at = |x: usize, y: usize| x * width + y;
                costs[at(x, y)] = if x == xs.len() {
                    (ys.len() - y) as i64 * rest_cost
                } else if y == ys.len() {
                    (xs.len() - x) as i64 * rest_cost
                } else {
                    let both = self.cost(xs[x], ys[y]) + costs[at(x + 1, y + 1)];
                    let gap = costs[at(x + 1, y)].min(costs[at(x, y + 1)]) + GAP_COST;
                    both.min(gap)
                };
            }
        }
        let (mut x, mut y) = (0, 0);
        let mut matched = Vec::new();
        while x < xs.len() && y < ys.len() {
            let here = costs[x * width + y];
            if here == self.cost(xs[x], ys[y]) + costs[(x + 1) * width + y + 1] {
                matched.push((x, y));
                (x, y) = (x + 1, y + 1);
            } else if here == costs[(x + 1) * width + y] + GAP_COST {
                x += 1;
            } else {
                y += 1;
            }
        }
        self.costs = costs;
        matched
    }

    /// A matching of long lists from the front: the first half of each window stands, the rest is
    /// matched again with what follows. Where a window has no pair, the side that is earlier is
    /// passed by.
    fn match_long(&mut self, xs: &[u32], ys: &[u32]) -> Vec<(usize, usize)> {
        self.find_rhythm(xs, ys);
        let delay_ns = self.expectation.delay_ns.map_or(0, |it| it.1);
        let (mut x, mut y) = (0, 0);
        let mut matched = Vec::new();
        while x < xs.len() && y < ys.len() {
            let ends = [(x, xs.len()), (y, ys.len())]
                .map(|(from, count)| (from + ALIGNMENT_WINDOW_COUNT).min(count));
            let is_last = ends == [xs.len(), ys.len()];
            let rest_cost = if is_last { GAP_COST } else { REST_COST };
            let window = self.match_whole(&xs[x..ends[0]], &ys[y..ends[1]], rest_cost);
            let stands =
                |it: &&(usize, usize)| is_last || it.0.max(it.1) < ALIGNMENT_WINDOW_COUNT / 2;
            let count = window.iter().take_while(stands).count();
            matched.extend(window[..count].iter().map(|it| (x + it.0, y + it.1)));
            match window[..count].last() {
                Some(last) => (x, y) = (x + last.0 + 1, y + last.1 + 1),
                None if is_last => break,
                None => {
                    let sent_ns = self.upstream[xs[x] as usize].time_ns;
                    if sent_ns.saturating_add(delay_ns) <= self.downstream[ys[y] as usize].time_ns {
                        x += 1;
                    } else {
                        y += 1;
                    }
                }
            }
        }
        self.rhythm = None;
        matched
    }

    /// What it costs to take one for the other.
    fn cost(&self, x: u32, y: u32) -> i64 {
        let (x, y) = (&self.upstream[x as usize], &self.downstream[y as usize]);
        let (sent, seen) = (&x.crossing, &y.crossing);
        let mut cost = MISSED_COST * x.missed_count.min(MISSED_COUNT_MAX) as i64;
        if let Some((least_ns, usual_ns)) = self.expectation.delay_ns {
            let delay_ns = y.time_ns.saturating_sub(x.time_ns);
            if delay_ns < least_ns.saturating_sub(EARLY_NS) {
                return 4 * DIFFERENCE_COST;
            }
            let spread_ns = usual_ns.saturating_sub(least_ns).max(1_000_000);
            let late = delay_ns.saturating_sub(usual_ns) / spread_ns;
            cost += late.clamp(0, LATENESS_COST_MAX);
        }
        if let Some(rhythm) = &self.rhythm {
            cost += rhythm.cost(y.time_ns.saturating_sub(x.time_ns));
        }
        let stamps = |it: &Crossing| (it.timestamp_value, it.timestamp_echo);
        if self.expectation.stamps_survive && stamps(sent) != stamps(seen) {
            cost += DIFFERENCE_COST;
        }
        if self.expectation.ids_survive && !ids_agree(sent, seen) {
            cost += DIFFERENCE_COST;
        }
        // What takes no sequence space has been compared by what it says.
        let has_bytes = x.start < x.end && x.start == y.start;
        let differs = sent.digest != 0 && seen.digest != 0 && sent.digest != seen.digest;
        if has_bytes && differs {
            cost += DIFFERENCE_COST;
        }
        cost
    }
}

/// Whether the IP ids may be those of one packet: where one was cut into others, these count on.
pub(super) fn ids_agree(sent: &Crossing, seen: &Crossing) -> bool {
    if sent.length == seen.length {
        return sent.ip_id == seen.ip_id;
    }
    let (long, short) = if sent.length > seen.length {
        (sent, seen)
    } else {
        (seen, sent)
    };
    let parts = long.length / short.length.max(1) + 1;
    u32::from(short.ip_id.wrapping_sub(long.ip_id)) <= parts
}
