//! Clocks: how far the clocks of two hops are apart, and those of all hops from that of one of
//! them, with bounds that hold whatever queues do.

use std::collections::{BTreeMap, BTreeSet};

use super::StitchHop;
use super::hull::{Corridor, Line, Point, robust_slope};
use crate::limits::{CLOCK_KNOT_COUNT, CLOCK_PIECE_COUNT_MAX, SIGHTING_COUNT_MAX};

/// Packets that two hops both saw, of all conversations.
#[derive(Clone, Debug, Default)]
pub(super) struct Sightings {
    /// Went from the first hop to the second: `ahead_ns` is too much by their delay.
    pub(super) onward: Vec<Point>,
    /// Came back: too little.
    pub(super) back: Vec<Point>,
}

/// How far the clock of the second hop of a pair is ahead of the first's.
#[derive(Clone, Debug)]
pub(super) struct PairClock {
    /// Pieces in the order of time; neither clock is set within one.
    pieces: Vec<Piece>,
}

#[derive(Clone, Debug)]
struct Piece {
    /// Until when, in the first hop's time.
    end_ns: i64,
    line: Line,
    /// Bounds in the order of time; none where packets of one direction alone were seen.
    knots: Vec<Knot>,
    /// How near to the line the packets of either direction came: onward and back.
    least_ns: [f64; 2],
}

/// Bounds at one time.
#[derive(Clone, Copy, Debug)]
struct Knot {
    time_ns: i64,
    low_ns: f64,
    high_ns: f64,
}

/// What the difference of two clocks is at a time, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Difference {
    pub(super) ahead_ns: f64,
    pub(super) low_ns: f64,
    pub(super) high_ns: f64,
}

impl Difference {
    /// How far the truth may be from `ahead_ns`.
    pub(super) fn error_ns(&self) -> f64 {
        (self.high_ns - self.ahead_ns).max(self.ahead_ns - self.low_ns)
    }

    /// Whether the truth is known to be near at all.
    pub(super) const fn is_bounded(&self) -> bool {
        self.low_ns.is_finite() && self.high_ns.is_finite()
    }

    /// The same seen from the other clock.
    pub(super) fn reversed(self) -> Self {
        Self {
            ahead_ns: -self.ahead_ns,
            low_ns: -self.high_ns,
            high_ns: -self.low_ns,
        }
    }

    /// Of the first clock to the third.
    pub(super) fn then(self, next: Self) -> Self {
        Self {
            ahead_ns: self.ahead_ns + next.ahead_ns,
            low_ns: self.low_ns + next.low_ns,
            high_ns: self.high_ns + next.high_ns,
        }
    }
}

/// What a clock that was set adds to the doubt of its pair, in nanoseconds: more than the
/// difference of any other pair may be off by, so that others are not compared by way of it where
/// there is another way.
const SET_DOUBT_NS: f64 = 1e12;

impl PairClock {
    /// From what both saw; `None` where packets of one direction are missing, or where nothing
    /// agrees.
    pub(super) fn of(sightings: &mut Sightings) -> Option<Self> {
        for points in [&mut sightings.onward, &mut sightings.back] {
            points.sort_unstable_by_key(|it| (it.time_ns, it.ahead_ns));
        }
        let (onward, back) = (&sightings.onward[..], &sightings.back[..]);
        let last = |points: &[Point]| points.last().map(|it| it.time_ns);
        let end_ns = last(onward)?.max(last(back)?);
        let mut pieces = Vec::new();
        let mut from_ns = i64::MIN;
        for cut_ns in super::step::cuts(onward, back)
            .into_iter()
            .chain([i64::MAX])
        {
            let within = |points: &[Point]| -> Vec<Point> {
                let in_piece = |it: &&Point| from_ns <= it.time_ns && it.time_ns < cut_ns;
                points.iter().filter(in_piece).copied().collect()
            };
            let (above, below) = (within(onward), within(back));
            from_ns = cut_ns;
            let piece = Piece::of(&above, &below, cut_ns);
            let Some(piece) = piece.or_else(|| Piece::open(&above, &below, cut_ns)) else {
                continue;
            };
            pieces.push(piece);
            if pieces.len() == CLOCK_PIECE_COUNT_MAX {
                break;
            }
        }
        if let Some(last) = pieces.last_mut() {
            last.end_ns = last.end_ns.max(end_ns.saturating_add(1));
        }
        let is_known = pieces.iter().any(Piece::is_closed);
        guess_open(&mut pieces);
        is_known.then_some(Self { pieces })
    }

    /// Where one of the clocks was set, in the first hop's time.
    pub(super) fn cuts(&self) -> impl Iterator<Item = i64> + '_ {
        let ends = self.pieces.iter().map(|piece| piece.end_ns);
        ends.take(self.pieces.len().saturating_sub(1))
    }

    /// What the difference may be off by in the middle of its longest stretch, in nanoseconds; more
    /// with each time that a clock was set: near it the difference is known badly, and a clock that
    /// was set back shows times twice.
    fn doubt_ns(&self) -> f64 {
        let longest = self.pieces.iter().max_by_key(|it| {
            let (first, last) = (it.knots.first(), it.knots.last());
            let times = first
                .zip(last)
                .map(|(a, b)| b.time_ns.saturating_sub(a.time_ns));
            times.unwrap_or_default()
        });
        let middle = longest.and_then(|it| it.knots.get(it.knots.len() / 2));
        let doubt_ns = middle.map_or(f64::INFINITY, |knot| (knot.high_ns - knot.low_ns) / 2.0);
        doubt_ns + self.cuts().count() as f64 * SET_DOUBT_NS
    }

    /// The difference at a time of the first hop.
    pub(super) fn at(&self, time_ns: i64) -> Difference {
        let index = self.pieces.partition_point(|it| it.end_ns <= time_ns);
        let piece = self.pieces.get(index).or(self.pieces.last());
        piece.map_or_else(Difference::default, |piece| piece.at(time_ns))
    }
}

/// Lays the lines of pieces of one direction so that its packets came as near to them as they do in
/// the nearest piece of both.
fn guess_open(pieces: &mut [Piece]) {
    let closed: Vec<(usize, Line, [f64; 2])> = pieces
        .iter()
        .enumerate()
        .filter(|it| it.1.is_closed())
        .map(|(at, it)| (at, it.line, it.least_ns))
        .collect();
    for (at, piece) in pieces.iter_mut().enumerate() {
        let nearest = closed.iter().min_by_key(|it| it.0.abs_diff(at));
        if let Some((_, line, least_ns)) = nearest.filter(|_| !piece.is_closed()) {
            // What of its own points is not there adds nothing.
            let own = piece.least_ns;
            let side = usize::from(own[0].is_infinite());
            piece.line.slope = line.slope;
            piece.line.ahead_ns -= least_ns[side];
        }
    }
}

impl Piece {
    /// One of a direction alone: where its points are the tightest.
    fn open(above: &[Point], below: &[Point], end_ns: i64) -> Option<Self> {
        let tightest = match above.iter().min_by_key(|it| it.ahead_ns) {
            Some(point) => (point, [0.0, f64::INFINITY]),
            None => (
                below.iter().max_by_key(|it| it.ahead_ns)?,
                [f64::INFINITY, 0.0],
            ),
        };
        let (point, least_ns) = tightest;
        Some(Self {
            end_ns,
            line: Line {
                time_ns: point.time_ns,
                ahead_ns: point.ahead_ns as f64,
                slope: 0.0,
            },
            knots: Vec::new(),
            least_ns,
        })
    }

    /// Whether packets of both directions bound it.
    const fn is_closed(&self) -> bool {
        !self.knots.is_empty()
    }

    fn of(above: &[Point], below: &[Point], end_ns: i64) -> Option<Self> {
        let slopes = (robust_slope(above, true), robust_slope(below, false));
        let slope = slopes.0.zip(slopes.1).map(|(a, b)| f64::midpoint(a, b));
        let (above_points, below_points) = (above.iter().copied(), below.iter().copied());
        let corridor = Corridor::with_slope(above_points, below_points, slope)?;
        let times = || above.iter().chain(below).map(|it| it.time_ns);
        let (first, last) = (times().min()?, times().max()?);
        let step = (last.saturating_sub(first) / CLOCK_KNOT_COUNT as i64).max(1);
        let knots = (0..=CLOCK_KNOT_COUNT as i64).map(|index| {
            let time_ns = first.saturating_add(index.saturating_mul(step));
            let (low_ns, high_ns) = corridor.bounds(time_ns);
            Knot {
                time_ns,
                low_ns,
                high_ns,
            }
        });
        let line = corridor.line();
        let off = |it: &Point| it.ahead_ns as f64 - line.at(it.time_ns);
        Some(Self {
            end_ns,
            line,
            knots: knots.collect(),
            least_ns: [
                above.iter().map(off).fold(f64::INFINITY, f64::min),
                below.iter().map(off).fold(f64::NEG_INFINITY, f64::max),
            ],
        })
    }

    fn at(&self, time_ns: i64) -> Difference {
        // The upper bound is convex in time and the lower one concave, so that a straight line
        // between two knots lies outside of both.
        let after = self.knots.partition_point(|it| it.time_ns <= time_ns);
        let (low_ns, high_ns) = match (
            after.checked_sub(1).and_then(|it| self.knots.get(it)),
            self.knots.get(after),
        ) {
            (Some(a), Some(b)) => {
                let share = (time_ns - a.time_ns) as f64 / (b.time_ns - a.time_ns) as f64;
                let mix = |from: f64, to: f64| from + share * (to - from);
                (mix(a.low_ns, b.low_ns), mix(a.high_ns, b.high_ns))
            }
            (Some(knot), None) | (None, Some(knot)) => {
                let away = (time_ns as f64 - knot.time_ns as f64).abs();
                let bend = if self.knots.len() > 1 {
                    away * 2.0 * super::hull::SKEW_MAX
                } else {
                    0.0
                };
                (knot.low_ns - bend, knot.high_ns + bend)
            }
            // The other direction would bound it, and there is none.
            (None, None) => (f64::NEG_INFINITY, f64::INFINITY),
        };
        Difference {
            ahead_ns: self.line.at(time_ns).max(low_ns).min(high_ns),
            low_ns,
            high_ns,
        }
    }
}

/// Packets that pairs of hops saw, of all conversations.
#[derive(Debug, Default)]
pub(super) struct AllSightings {
    pairs: BTreeMap<(u32, u32), Sightings>,
    /// Packets that two hops saw at the same time, and all that they saw.
    equal: BTreeMap<(u32, u32), (usize, usize)>,
}

/// Fewest packets that two captures are told to be one by.
const TWIN_COUNT_MIN: usize = 4;

impl AllSightings {
    /// Adds a packet of two hops, the lower number first: `ahead_ns` at a time of the first.
    pub(super) fn add(&mut self, pair: (u32, u32), point: Point, is_onward: bool) {
        let sightings = self.pairs.entry(pair).or_default();
        let points = match is_onward {
            true => &mut sightings.onward,
            false => &mut sightings.back,
        };
        points.push(point);
        if points.len() >= SIGHTING_COUNT_MAX {
            thin(points, is_onward);
        }
    }

    /// Notes packets of which nothing tells at which of two hops they were first.
    pub(super) fn note_equal(&mut self, pair: (u32, u32), equal_count: usize, all_count: usize) {
        let counts = self.equal.entry(pair).or_default();
        counts.0 += equal_count;
        counts.1 += all_count;
    }

    /// Pairs of hops that saw everything that they share at the same times.
    pub(super) fn twins(&self) -> Vec<(u32, u32)> {
        let is_twin = |(_, (equal, all)): &(&(u32, u32), &(usize, usize))| {
            *all >= TWIN_COUNT_MIN && equal == all
        };
        let twins = self.equal.iter().filter(is_twin);
        twins.map(|(pair, _)| *pair).collect()
    }

    /// Finds out how far clocks are apart. Where hops share one and nothing speaks against it, they
    /// are not.
    pub(super) fn settle(self, hops: &[StitchHop], clocks: &mut Clocks) {
        clocks.share(hops, &self.pairs);
        let mut one_way = BTreeMap::new();
        for (pair, mut sightings) in self.pairs {
            if clocks.are_one(pair.0, pair.1) {
                continue;
            }
            match PairClock::of(&mut sightings) {
                Some(clock) => clocks.add(pair, clock),
                None => {
                    one_way.insert(pair, sightings);
                }
            }
        }
        clocks.find_routes();
        close_by_third(&one_way, clocks);
        clocks.find_routes();
    }
}

/// Finds the clocks of hops that saw one direction only: a packet was there after it had passed a
/// hop before and before it passed one behind, and the clocks of these two are known.
fn close_by_third(one_way: &BTreeMap<(u32, u32), Sightings>, clocks: &mut Clocks) {
    let hops: BTreeSet<u32> = one_way.keys().flat_map(|it| [it.0, it.1]).collect();
    let mut found = Vec::new();
    for hop in &hops {
        if clocks.is_known(*hop) {
            continue;
        }
        for anchor in hops.iter().filter(|it| *it != hop) {
            let mut sightings = Sightings::default();
            for (pair, seen) in one_way.iter().filter(|it| it.0.0 == *hop || it.0.1 == *hop) {
                let other = if pair.0 == *hop { pair.1 } else { pair.0 };
                seen.of_hop(*hop == pair.1, |time_ns, ahead_ns, is_after| {
                    // The other's time, by the anchor's clock; what is in doubt widens the bound.
                    let Some(to) = clocks.difference(other, *anchor, time_ns) else {
                        return;
                    };
                    let (shift, points) = match is_after {
                        true => (to.low_ns.floor(), &mut sightings.onward),
                        false => (to.high_ns.ceil(), &mut sightings.back),
                    };
                    points.push(Point {
                        time_ns: time_ns.saturating_add(to.ahead_ns as i64),
                        ahead_ns: ahead_ns.saturating_sub(shift as i64),
                    });
                });
            }
            if let Some(clock) = PairClock::of(&mut sightings) {
                found.push(((*anchor, *hop), clock));
                break;
            }
        }
    }
    for (pair, clock) in found {
        clocks.add(pair, clock);
    }
}

/// Leaves the tightest of every few points: bounds become no tighter than they are.
fn thin(points: &mut Vec<Point>, is_onward: bool) {
    points.sort_unstable_by_key(|it| (it.time_ns, it.ahead_ns));
    let tightest = |few: &[Point]| {
        let key = |it: &&Point| match is_onward {
            true => it.ahead_ns,
            false => it.ahead_ns.saturating_neg(),
        };
        few.iter().min_by_key(key).copied()
    };
    *points = points.chunks(4).filter_map(tightest).collect();
}

impl Sightings {
    /// Tells each packet as the other hop's time, how far the clock of one hop was ahead of that
    /// then, and whether the packet came to it after the other. The hop is the second or the first.
    fn of_hop(&self, is_second: bool, mut tell: impl FnMut(i64, i64, bool)) {
        for (points, is_onward) in [(&self.onward, true), (&self.back, false)] {
            for point in points {
                let (time_ns, ahead_ns) = match is_second {
                    true => (point.time_ns, point.ahead_ns),
                    false => (
                        point.time_ns.saturating_add(point.ahead_ns),
                        point.ahead_ns.saturating_neg(),
                    ),
                };
                tell(time_ns, ahead_ns, is_onward == is_second);
            }
        }
    }

    /// Whether the clocks may be one: nothing came before it went, ticks aside.
    fn allow_none(&self) -> bool {
        const TICK_NS: i64 = 1_000;
        let onward = self.onward.iter().all(|it| it.ahead_ns >= -TICK_NS);
        onward && self.back.iter().all(|it| it.ahead_ns <= TICK_NS)
    }
}

/// The clocks of all hops. Hops that share one are one *node*, named after one of them.
#[derive(Debug, Default)]
pub(super) struct Clocks {
    node_of: BTreeMap<u32, u32>,
    /// By pair of nodes, the first one's clock first.
    pairs: BTreeMap<(u32, u32), PairClock>,
    /// By pair of nodes: the pairs over which the difference is the least in doubt.
    routes: BTreeMap<(u32, u32), Vec<(u32, u32)>>,
}

impl Clocks {
    /// Hops of one clock are one node, unless packets say otherwise.
    fn share(&mut self, hops: &[StitchHop], pairs: &BTreeMap<(u32, u32), Sightings>) {
        let clock = |hop: u32| hops.iter().find(|it| it.hop == hop).map(|it| it.clock);
        let mut alone = BTreeSet::new();
        for (pair, sightings) in pairs {
            if clock(pair.0) == clock(pair.1) && !sightings.allow_none() {
                alone.extend([pair.0, pair.1]);
            }
        }
        let mut first: BTreeMap<u32, u32> = BTreeMap::new();
        for hop in hops {
            let node = match alone.contains(&hop.hop) {
                true => hop.hop,
                false => *first.entry(hop.clock).or_insert(hop.hop),
            };
            self.node_of.insert(hop.hop, node);
        }
    }

    fn node(&self, hop: u32) -> u32 {
        self.node_of.get(&hop).copied().unwrap_or(hop)
    }

    /// Whether two hops share a clock.
    pub(super) fn are_one(&self, a: u32, b: u32) -> bool {
        self.node(a) == self.node(b)
    }

    /// Whether a hop's clock can be compared with another's.
    fn is_known(&self, hop: u32) -> bool {
        let node = self.node(hop);
        self.pairs.keys().any(|it| it.0 == node || it.1 == node)
    }

    /// Keeps the clock of two hops; of two pairs of the same clocks the one less in doubt.
    fn add(&mut self, pair: (u32, u32), clock: PairClock) {
        let nodes = (self.node(pair.0), self.node(pair.1));
        let known = self.pairs.get(&nodes);
        if known.is_none_or(|known| clock.doubt_ns() < known.doubt_ns()) {
            self.pairs.insert(nodes, clock);
        }
    }

    /// Finds the way from each clock to each other one that leaves the least doubt (Bellman and
    /// Ford, with doubts as lengths).
    fn find_routes(&mut self) {
        self.routes.clear();
        let nodes: BTreeSet<u32> = self.pairs.keys().flat_map(|it| [it.0, it.1]).collect();
        for from in &nodes {
            let mut best: BTreeMap<u32, (f64, Vec<(u32, u32)>)> = BTreeMap::new();
            best.insert(*from, (0.0, Vec::new()));
            for _ in &nodes {
                let mut has_changed = false;
                for (pair, clock) in &self.pairs {
                    let doubt_ns = clock.doubt_ns();
                    for (here, there) in [*pair, (pair.1, pair.0)] {
                        let Some((so_far, way)) = best.get(&here) else {
                            continue;
                        };
                        let next = so_far + doubt_ns;
                        if best.get(&there).is_none_or(|known| next + 1.0 < known.0) {
                            let mut way = way.clone();
                            way.push((here, there));
                            best.insert(there, (next, way));
                            has_changed = true;
                        }
                    }
                }
                if !has_changed {
                    break;
                }
            }
            for (to, (_, way)) in best {
                self.routes.insert((*from, to), way);
            }
        }
    }

    /// How far the clock of `to` is ahead of that of `from` at a time of `from`, where that is
    /// bounded.
    pub(super) fn difference(&self, from: u32, to: u32, time_ns: i64) -> Option<Difference> {
        let estimate = self.estimate(from, to, time_ns);
        estimate.filter(Difference::is_bounded)
    }

    /// The same, also where nothing bounds it.
    pub(super) fn estimate(&self, from: u32, to: u32, time_ns: i64) -> Option<Difference> {
        let nodes = (self.node(from), self.node(to));
        if nodes.0 == nodes.1 {
            return Some(Difference::default());
        }
        let mut sum = Difference::default();
        for (here, there) in self.routes.get(&nodes)? {
            let time_here = time_ns.saturating_add(sum.ahead_ns as i64);
            let step = match self.pairs.get(&(*here, *there)) {
                Some(clock) => clock.at(time_here),
                None => reverse(self.pairs.get(&(*there, *here))?, time_here),
            };
            sum = sum.then(step);
        }
        Some(sum)
    }

    /// When clocks were set: the pair of hops, and the time of the first.
    pub(super) fn cuts(&self) -> impl Iterator<Item = ((u32, u32), i64)> + '_ {
        let of_pair = |(pair, clock): (&(u32, u32), &'_ PairClock)| {
            let pair = *pair;
            let cuts: Vec<i64> = clock.cuts().collect();
            cuts.into_iter().map(move |cut| (pair, cut))
        };
        self.pairs.iter().flat_map(of_pair)
    }
}

/// The difference seen from the second hop, at a time of its own clock.
fn reverse(clock: &PairClock, time_ns: i64) -> Difference {
    // The first hop's time at that moment, to the skew's share of the offset: two steps are enough.
    let first = clock.at(time_ns).ahead_ns;
    let near = time_ns.saturating_sub(first as i64);
    let again = clock.at(near).ahead_ns;
    clock.at(time_ns.saturating_sub(again as i64)).reversed()
}
