//! What two clocks can differ by, from times that can only be late: the lower hull of the times of
//! one direction and the upper hull of those of the other leave room for every line that is
//! possible, and for no other.
//!
//! A packet that goes from X to Y gives `t_Y − t_X = θ + d ≥ θ`, one from Y to X gives
//! `t_Y − t_X = θ − d ≤ θ`, where θ is how far Y's clock is ahead and `d` the delay, however long
//! and however uneven. The slope is that of the hull's edge below the mean time (Moon, Skelly and
//! Towsley, INFOCOM 1999), of both hulls; the rest after Zhang, Liu and Xia (INFOCOM 2002).

/// A point: time at X, and how far Y's time was ahead, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Point {
    pub(super) time_ns: i64,
    pub(super) ahead_ns: i64,
}

/// How far Y's clock is ahead at `time_ns`, and how that grows.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Line {
    pub(super) time_ns: i64,
    pub(super) ahead_ns: f64,
    /// In nanoseconds for each nanosecond.
    pub(super) slope: f64,
}

impl Line {
    pub(super) fn at(&self, time_ns: i64) -> f64 {
        self.ahead_ns + self.slope * time_ns.saturating_sub(self.time_ns) as f64
    }
}

/// The largest skew that is believed, in nanoseconds for each: NTP mends 500 ppm at most (RFC 5905
/// section 11), and no clock of a host in order is off by half of that.
pub(super) const SKEW_MAX: f64 = 250e-6;

/// Steps of a bisection: beyond, slopes differ by less than a nanosecond in a day.
const BISECTION_COUNT: usize = 60;

/// Which side of its hull all points lie on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Face {
    /// Points lie above it.
    Lower,
    /// Points lie below it.
    Upper,
}

/// A hull.
#[derive(Clone, Debug)]
struct Hull {
    face: Face,
    /// In the order of time, one a time.
    corners: Vec<Point>,
}

impl Hull {
    /// From points in the order of time (monotone chain, Andrew 1979).
    fn of(face: Face, points: impl Iterator<Item = Point>) -> Self {
        let mut corners: Vec<Point> = Vec::new();
        for point in points {
            if let Some(last) = corners.last().copied()
                && last.time_ns == point.time_ns
            {
                let is_tighter = match face {
                    Face::Lower => point.ahead_ns < last.ahead_ns,
                    Face::Upper => point.ahead_ns > last.ahead_ns,
                };
                if !is_tighter {
                    continue;
                }
                corners.pop();
            }
            while let [.., a, b] = corners[..]
                && !is_corner(face, a, b, point)
            {
                corners.pop();
            }
            corners.push(point);
        }
        Self { face, corners }
    }

    /// Where the tightest line of a slope that leaves all points on their side meets `origin_ns`.
    fn support(&self, slope: f64, origin_ns: i64) -> f64 {
        let lift =
            |it: &Point| it.ahead_ns as f64 - slope * it.time_ns.saturating_sub(origin_ns) as f64;
        let (at, _) = self.touched(slope);
        // The neighbours too, as edges of nearly the same slope are told apart by rounding.
        let near = self.corners.get(at.saturating_sub(1)..).unwrap_or_default();
        let lifts = near.iter().take(3).map(lift);
        match self.face {
            Face::Lower => lifts.fold(f64::INFINITY, f64::min),
            Face::Upper => lifts.fold(f64::NEG_INFINITY, f64::max),
        }
    }

    /// The corner that a line of a slope touches, and how many edges were looked at to find it: the
    /// slopes of edges rise along a lower hull and fall along an upper one, so they are halved.
    /// Whoever makes times up cannot make it long.
    fn touched(&self, slope: f64) -> (usize, u32) {
        let (mut low, mut high) = (0, self.corners.len().saturating_sub(1));
        let mut looked_count = 0;
        while low < high {
            let middle = usize::midpoint(low, high);
            let (a, b) = (self.corners[middle], self.corners[middle + 1]);
            let run = b.time_ns.saturating_sub(a.time_ns) as f64;
            let rise = b.ahead_ns.saturating_sub(a.ahead_ns) as f64;
            let is_before = match self.face {
                Face::Lower => rise < slope * run,
                Face::Upper => rise > slope * run,
            };
            (low, high) = if is_before {
                (middle + 1, high)
            } else {
                (low, middle)
            };
            looked_count += 1;
        }
        (low, looked_count)
    }

    /// The slope of the edge over a time.
    fn slope_at(&self, time_ns: i64) -> Option<f64> {
        let after = self.corners.partition_point(|it| it.time_ns <= time_ns);
        let after = after.clamp(1, self.corners.len().max(2) - 1);
        let (a, b) = (self.corners.get(after - 1)?, self.corners.get(after)?);
        let run = (b.time_ns - a.time_ns) as f64;
        Some((b.ahead_ns - a.ahead_ns) as f64 / run)
    }
}

/// Whether `b` is a corner between `a` and `c`.
fn is_corner(face: Face, a: Point, b: Point, c: Point) -> bool {
    let run = |from: Point, to: Point| i128::from(to.time_ns) - i128::from(from.time_ns);
    let rise = |from: Point, to: Point| i128::from(to.ahead_ns) - i128::from(from.ahead_ns);
    let cross = run(a, b) * rise(b, c) - rise(a, b) * run(b, c);
    match face {
        Face::Lower => cross > 0,
        Face::Upper => cross < 0,
    }
}

/// All that two clocks may differ by, over a stretch of time in which neither is set.
#[derive(Clone, Debug)]
pub(super) struct Corridor {
    above: Hull,
    below: Hull,
    origin_ns: i64,
    /// The least and the largest slope with which a line passes.
    slopes: (f64, f64),
    line: Line,
}

impl Corridor {
    /// From points that lie above the line and points that lie below it, each in the order of time.
    /// `None` where no line passes between them, or where one side has none.
    pub(super) fn of(
        above: impl Iterator<Item = Point>,
        below: impl Iterator<Item = Point>,
    ) -> Option<Self> {
        Self::with_slope(above, below, None)
    }

    /// The same with a slope for its middle, where it passes: that of the hulls is of few points.
    pub(super) fn with_slope(
        above: impl Iterator<Item = Point>,
        below: impl Iterator<Item = Point>,
        slope: Option<f64>,
    ) -> Option<Self> {
        let above = Hull::of(Face::Lower, above);
        let below = Hull::of(Face::Upper, below);
        let origin_ns = above.corners.first()?.time_ns;
        let mut corridor = Self {
            above,
            below,
            origin_ns,
            slopes: (0.0, 0.0),
            line: Line::default(),
        };
        let widest = corridor.widest()?;
        corridor.slopes = (
            corridor.edge(widest, -SKEW_MAX),
            corridor.edge(widest, SKEW_MAX),
        );
        corridor.line = corridor.middle(widest, slope);
        Some(corridor)
    }

    /// Room that a slope leaves: concave.
    fn width(&self, slope: f64) -> f64 {
        self.above.support(slope, self.origin_ns) - self.below.support(slope, self.origin_ns)
    }

    /// The slope that leaves the most room, where any leaves some.
    fn widest(&self) -> Option<f64> {
        let (mut low, mut high) = (-SKEW_MAX, SKEW_MAX);
        for _ in 0..2 * BISECTION_COUNT {
            let third = (high - low) / 3.0;
            let (a, b) = (low + third, high - third);
            if self.width(a) < self.width(b) {
                low = a;
            } else {
                high = b;
            }
        }
        let slope = f64::midpoint(low, high);
        let width = self.width(slope);
        (width >= 0.0 && width.is_finite()).then_some(slope)
    }

    /// How far from a slope that passes others do, towards `limit`.
    fn edge(&self, passes: f64, limit: f64) -> f64 {
        if self.width(limit) >= 0.0 {
            return limit;
        }
        let (mut inside, mut outside) = (passes, limit);
        for _ in 0..BISECTION_COUNT {
            let slope = f64::midpoint(inside, outside);
            if self.width(slope) >= 0.0 {
                inside = slope;
            } else {
                outside = slope;
            }
        }
        inside
    }

    /// The line in the middle, of a given slope or of that which both hulls show.
    fn middle(&self, widest: f64, slope: Option<f64>) -> Line {
        let corners = self.above.corners.iter().chain(&self.below.corners);
        let times = || corners.clone().map(|it| it.time_ns);
        let (first, last) = (times().min(), times().max());
        let centre = i64::midpoint(first.unwrap_or_default(), last.unwrap_or_default());
        let slopes = [&self.above, &self.below].map(|hull| hull.slope_at(centre));
        let slope = slope.unwrap_or(match slopes {
            [Some(a), Some(b)] => f64::midpoint(a, b),
            _ => widest,
        });
        let slope = slope.clamp(self.slopes.0, self.slopes.1);
        let high = self.above.support(slope, self.origin_ns);
        let low = self.below.support(slope, self.origin_ns);
        Line {
            time_ns: self.origin_ns,
            ahead_ns: f64::midpoint(low, high),
            slope,
        }
    }

    /// The most likely line.
    pub(super) const fn line(&self) -> Line {
        self.line
    }

    /// The least and the most that Y's clock can be ahead at a time: hard bounds as long as both
    /// clocks run evenly, with a skew of [`SKEW_MAX`] at most.
    pub(super) fn bounds(&self, time_ns: i64) -> (f64, f64) {
        let run = (time_ns - self.origin_ns) as f64;
        let top = |slope: f64| self.above.support(slope, self.origin_ns) + slope * run;
        let bottom = |slope: f64| self.below.support(slope, self.origin_ns) + slope * run;
        (
            -largest(self.slopes, |slope| -bottom(slope)),
            largest(self.slopes, top),
        )
    }
}

/// Windows that the extremes are taken of for a slope, and the fewest that must have some.
const SLOPE_WINDOW_COUNT: usize = 64;
const SLOPE_WINDOW_COUNT_MIN: usize = 16;

/// The slope of the tightest points of many windows: the median of those of all pairs that are a
/// quarter of the time apart or more (Theil 1950, Sen 1968; of minima, Paxson, SIGMETRICS 1998).
/// Points are in the order of time.
pub(super) fn robust_slope(points: &[Point], is_above: bool) -> Option<f64> {
    let (first, last) = (points.first()?.time_ns, points.last()?.time_ns);
    let width = last.saturating_sub(first) / SLOPE_WINDOW_COUNT as i64 + 1;
    let window = |it: &Point| it.time_ns.saturating_sub(first) / width;
    let tightest: Vec<Point> = points
        .chunk_by(|a, b| window(a) == window(b))
        .filter_map(|few| match is_above {
            true => few.iter().min_by_key(|it| it.ahead_ns).copied(),
            false => few.iter().max_by_key(|it| it.ahead_ns).copied(),
        })
        .collect();
    if tightest.len() < SLOPE_WINDOW_COUNT_MIN {
        return None;
    }
    let apart = tightest.len() / 4;
    let mut slopes = Vec::new();
    for (index, a) in tightest.iter().enumerate() {
        for b in tightest.iter().skip(index + apart) {
            let run = b.time_ns.saturating_sub(a.time_ns).max(1) as f64;
            slopes.push(b.ahead_ns.saturating_sub(a.ahead_ns) as f64 / run);
        }
    }
    slopes.sort_by(f64::total_cmp);
    slopes.get(slopes.len() / 2).copied()
}

/// The largest value of a concave function.
fn largest((mut low, mut high): (f64, f64), of: impl Fn(f64) -> f64) -> f64 {
    let mut most = of(low).max(of(high));
    for _ in 0..BISECTION_COUNT {
        let third = (high - low) / 3.0;
        let (a, b) = (low + third, high - third);
        let (at_a, at_b) = (of(a), of(b));
        most = most.max(at_a).max(at_b);
        if at_a < at_b {
            low = a;
        } else {
            high = b;
        }
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As many corners as points can have: a parabola, with slopes from −100 to 100 ppm.
    fn bowl(count: i64, sign: i64) -> Vec<Point> {
        let point = |index: i64| Point {
            time_ns: index * 1_000_000_000,
            ahead_ns: sign * (index - count / 2) * (index - count / 2) + sign * 1_000_000,
        };
        (0..count).map(point).collect()
    }

    #[test]
    fn corners_are_found_by_halving_however_many_there_are() {
        const COUNT: usize = crate::limits::SIGHTING_COUNT_MAX;
        for face in [Face::Lower, Face::Upper] {
            let sign = if face == Face::Lower { 1 } else { -1 };
            let points = bowl(COUNT as i64, sign);
            let hull = Hull::of(face, points.iter().copied());
            assert_eq!(hull.corners.len(), COUNT);
            for ppm in [-300, -250, -99, -1, 0, 3, 77, 250] {
                let slope = f64::from(ppm) * 1e-6;
                let (_, looked_count) = hull.touched(slope);
                assert!(looked_count <= COUNT.ilog2() + 1, "{looked_count}");
                let lift = |it: &Point| it.ahead_ns as f64 - slope * it.time_ns as f64;
                let brute = match face {
                    Face::Lower => points.iter().map(lift).fold(f64::INFINITY, f64::min),
                    Face::Upper => points.iter().map(lift).fold(f64::NEG_INFINITY, f64::max),
                };
                assert_eq!(hull.support(slope, 0), brute, "{ppm}");
            }
        }
    }
}
