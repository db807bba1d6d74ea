//! Steps: where one of two clocks was set. A clock that is set moves the times of both directions
//! by the same amount in the same moment; a route that changes moves one, or both away from each
//! other (Paxson, SIGMETRICS 1998).

use super::hull::{Corridor, Point};
use crate::limits::CLOCK_PIECE_COUNT_MAX;

/// Windows in which extremes are taken, in nanoseconds.
const WINDOW_NS: i64 = 500_000_000;

/// Least step that is looked for, in nanoseconds: less is what NTP slews.
const STEP_MIN_NS: f64 = 2_000_000.0;

/// How many times the usual unrest of the extremes a step is.
const STEP_PER_UNREST: f64 = 8.0;

/// Windows on either side of a step that have to agree.
const AGREEING_COUNT: usize = 3;

/// The extremes of a window: nearest to the truth from above and below.
#[derive(Clone, Copy, Debug)]
struct Window {
    first_ns: i64,
    above: f64,
    below: f64,
}

/// Times at which one of the clocks was set, rising. `above` and `below` are in the order of time.
pub(super) fn cuts(above: &[Point], below: &[Point]) -> Vec<i64> {
    let windows = windows(above, below);
    let mut cuts: Vec<i64> = jumps(&windows)
        .into_iter()
        .take(CLOCK_PIECE_COUNT_MAX - 1)
        .map(|(from_ns, to_ns)| place(above, below, from_ns, to_ns))
        .collect();
    cuts.dedup();
    contradictions(above, below, &mut cuts);
    cuts.truncate(CLOCK_PIECE_COUNT_MAX - 1);
    cuts
}

/// Windows that have packets of both directions.
fn windows(above: &[Point], below: &[Point]) -> Vec<Window> {
    let mut windows: std::collections::BTreeMap<i64, [Option<f64>; 2]> =
        std::collections::BTreeMap::new();
    for (side, points) in [above, below].into_iter().enumerate() {
        for point in points {
            let window = windows
                .entry(point.time_ns.div_euclid(WINDOW_NS))
                .or_default();
            let ahead = point.ahead_ns as f64;
            let tighter = match (side, window[side]) {
                (_, None) => ahead,
                (0, Some(known)) => known.min(ahead),
                (_, Some(known)) => known.max(ahead),
            };
            window[side] = Some(tighter);
        }
    }
    let both = windows.into_iter().filter_map(|(index, [above, below])| {
        Some(Window {
            first_ns: index.saturating_mul(WINDOW_NS),
            above: above?,
            below: below?,
        })
    });
    both.collect()
}

/// Between which times both extremes moved by the same amount, and stayed there.
fn jumps(windows: &[Window]) -> Vec<(i64, i64)> {
    let middle = |it: &Window| f64::midpoint(it.above, it.below);
    let moves: Vec<f64> = windows
        .windows(2)
        .map(|it| middle(&it[1]) - middle(&it[0]))
        .collect();
    let unrest = 1.4826 * median(moves.iter().map(|it| it.abs()));
    let least = STEP_MIN_NS.max(STEP_PER_UNREST * unrest);
    let mut found: Vec<(i64, i64, usize)> = Vec::new();
    for at in 1..windows.len() {
        let before = &windows[at.saturating_sub(AGREEING_COUNT)..at];
        let after = &windows[at..(at + AGREEING_COUNT).min(windows.len())];
        let change =
            |of: fn(&Window) -> f64| median(after.iter().map(of)) - median(before.iter().map(of));
        let (above, below) = (change(|it| it.above), change(|it| it.below));
        let step = f64::midpoint(above, below);
        if step.abs() < least || (above - below).abs() > step.abs() / 2.0 {
            continue;
        }
        // Windows near a step see it too: the one with the largest move is where it is.
        match found.last_mut() {
            Some(last) if at - last.2 <= AGREEING_COUNT => {
                if moves[at - 1].abs() > moves[last.2 - 1].abs() {
                    *last = (
                        windows[at - 1].first_ns,
                        windows[at].first_ns + WINDOW_NS,
                        at,
                    );
                }
            }
            _ => found.push((
                windows[at - 1].first_ns,
                windows[at].first_ns + WINDOW_NS,
                at,
            )),
        }
    }
    found.into_iter().map(|it| (it.0, it.1)).collect()
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// The time within a stretch at which the largest move is: between the two packets of either
/// direction that differ most.
fn place(above: &[Point], below: &[Point], from_ns: i64, to_ns: i64) -> i64 {
    let mut best = (0, i64::midpoint(from_ns, to_ns));
    for points in [within(above, from_ns, to_ns), within(below, from_ns, to_ns)] {
        for pair in points.windows(2) {
            let jump = pair[1].ahead_ns.abs_diff(pair[0].ahead_ns);
            if jump > best.0 {
                best = (jump, pair[1].time_ns);
            }
        }
    }
    best.1
}

/// The points of a stretch, of points in the order of time.
fn within(points: &[Point], from_ns: i64, to_ns: i64) -> &[Point] {
    let from = points.partition_point(|it| it.time_ns < from_ns);
    let to = points.partition_point(|it| it.time_ns < to_ns);
    points.get(from..to).unwrap_or_default()
}

/// Whether a line passes between both directions in a stretch, or one of them has no points.
fn passes(above: &[Point], below: &[Point], from_ns: i64, to_ns: i64) -> bool {
    let (above, below) = (within(above, from_ns, to_ns), within(below, from_ns, to_ns));
    above.is_empty()
        || below.is_empty()
        || Corridor::of(above.iter().copied(), below.iter().copied()).is_some()
}

/// Cuts where no line passes between both directions: looks for the longest stretch that one
/// passes, again and again. The stretch is doubled until none does and then halved, so that the
/// work is that of its own points, however many follow.
fn contradictions(above: &[Point], below: &[Point], cuts: &mut Vec<i64>) {
    let mut times: Vec<i64> = above.iter().chain(below).map(|it| it.time_ns).collect();
    times.sort_unstable();
    times.dedup();
    let mut from_ns = i64::MIN;
    let mut at = 0;
    while cuts.len() < CLOCK_PIECE_COUNT_MAX - 1 {
        let to_ns = cuts.get(at).copied().unwrap_or(i64::MAX);
        if passes(above, below, from_ns, to_ns) {
            if to_ns == i64::MAX {
                return;
            }
            (from_ns, at) = (to_ns, at + 1);
            continue;
        }
        let first = times.partition_point(|it| *it < from_ns);
        let last = times.partition_point(|it| *it < to_ns);
        let stretch = times.get(first..last).unwrap_or_default();
        let passes_to = |count: usize| {
            let until = stretch.get(count - 1).map(|it| it.saturating_add(1));
            until.is_none_or(|until_ns| passes(above, below, from_ns, until_ns))
        };
        let mut fails = 1;
        while fails < stretch.len() && passes_to(fails) {
            fails = (2 * fails).min(stretch.len());
        }
        let mut holds = fails / 2;
        while fails - holds > 1 {
            let count = usize::midpoint(holds, fails);
            if passes_to(count) {
                holds = count;
            } else {
                fails = count;
            }
        }
        // At least one time is in the piece, so that this ends.
        let Some(cut_ns) = stretch.get(holds.max(1)).copied() else {
            return;
        };
        cuts.insert(at, cut_ns);
        (from_ns, at) = (cut_ns, at + 1);
    }
}
