//! Where packets stand in the picture: time becomes height, never backwards, with room for the
//! words of each packet and with silence cut short.

use crate::report::ladder::Told;

/// From one packet's beginning to the next at least: a line of words.
const ROW_HEIGHT: f64 = 17.0;

/// What is so much higher is cut as silence.
const UNCUT_HEIGHT_MAX: f64 = 90.0;

/// What silence is cut down to.
const SILENCE_HEIGHT: f64 = 46.0;

/// The height of a packet's way that takes as long as most do.
const TRANSIT_HEIGHT: f64 = 34.0;

/// A height at a time.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Knot {
    time_ns: i64,
    height: f64,
}

/// The heights of all that happens.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// By rung and crossing.
    heights: Vec<Vec<f64>>,
    knots: Vec<Knot>,
    /// Silences that were cut short: between which heights, and how long.
    pub(super) silences: Vec<(f64, f64, i64)>,
    pub(super) end: f64,
}

/// A crossing.
#[derive(Clone, Copy)]
struct Event {
    time_ns: i64,
    rung: usize,
    crossing: usize,
}

impl Places {
    /// Lays out the first `count` rungs from a height on.
    pub(super) fn of(told: &Told<'_>, count: usize, top: f64) -> Self {
        let mut events = Vec::new();
        let mut transits = Vec::new();
        for (rung, it) in told.rungs().iter().take(count).enumerate() {
            let begin_ns = told.begin_ns(it);
            let mut end_ns = begin_ns;
            for (index, crossing) in it.crossings.iter().enumerate() {
                // Where clocks cannot be compared, it is drawn as if it took no time; where they
                // are off, it is still not drawn upwards.
                let time_ns = match crossing.error_ns {
                    Some(_) => told.at_ns(crossing).max(end_ns),
                    None => end_ns,
                };
                end_ns = time_ns;
                events.push(Event {
                    time_ns,
                    rung,
                    crossing: index,
                });
            }
            transits.extend(Some(end_ns - begin_ns).filter(|it| *it > 0));
        }
        events.sort_by_key(|it| (it.time_ns, it.rung, it.crossing));
        transits.sort_unstable();
        let transit_ns = transits.get(transits.len() / 2).copied();
        let mut places = Self {
            heights: vec![Vec::new(); count.min(told.rungs().len())],
            end: top,
            ..Self::default()
        };
        places.fill(&events, transit_ns.unwrap_or(1_000_000), top);
        places
    }

    #[expect(clippy::cast_precision_loss, reason = "2⁵³ ns are a hundred days")]
    fn fill(&mut self, events: &[Event], transit_ns: i64, top: f64) {
        let scale = TRANSIT_HEIGHT / transit_ns as f64;
        let mut height = top;
        let mut row = top - ROW_HEIGHT;
        let mut before_ns = events.first().map_or(0, |it| it.time_ns);
        for event in events {
            let passed_ns = event.time_ns.saturating_sub(before_ns);
            let grown = passed_ns as f64 * scale;
            let from = height;
            if grown > UNCUT_HEIGHT_MAX {
                height += SILENCE_HEIGHT;
                self.silences.push((from, height, passed_ns));
            } else {
                height += grown;
            }
            if event.crossing == 0 {
                height = height.max(row + ROW_HEIGHT);
                row = height;
            }
            before_ns = event.time_ns;
            self.knots.push(Knot {
                time_ns: event.time_ns,
                height,
            });
            if let Some(heights) = self.heights.get_mut(event.rung) {
                heights.push(height);
            }
        }
        self.end = height;
    }

    /// Where a rung crosses a hop: `crossing` counts the hops on its way.
    pub(super) fn height(&self, rung: usize, crossing: usize) -> f64 {
        let heights = self.heights.get(rung);
        let found = heights.and_then(|it| it.get(crossing).or(it.last()));
        found.copied().unwrap_or_default()
    }

    /// The height of any time.
    #[expect(clippy::cast_precision_loss, reason = "2⁵³ ns are a hundred days")]
    pub(super) fn at(&self, time_ns: i64) -> f64 {
        let after = self.knots.partition_point(|it| it.time_ns < time_ns);
        let before = after.checked_sub(1).and_then(|it| self.knots.get(it));
        match (before, self.knots.get(after)) {
            (Some(a), Some(b)) if b.time_ns > a.time_ns => {
                let share = (time_ns - a.time_ns) as f64 / (b.time_ns - a.time_ns) as f64;
                a.height + share * (b.height - a.height)
            }
            (Some(knot), _) | (None, Some(knot)) => knot.height,
            (None, None) => 0.0,
        }
    }
}
