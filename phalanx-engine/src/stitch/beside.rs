//! Stops that lie side by side, on ways of which a packet takes one, and the way of each packet as
//! far as it can be told.

use std::collections::BTreeSet;

use hashbrown::HashMap;

use super::alignment::Item;
use super::conversation::pairs;
use super::fate::Watch;
use super::journey::Journeys;

/// Stops of which more than one packet in so many crossed both follow each other. A way that fewer
/// took is none: their captures missed them.
pub(super) const PATH_SHARE: u64 = 20;

/// Fewest packets of either stop that tell that they lie side by side.
const BESIDE_COUNT_MIN: u64 = 8;

/// A run of packets on one way tells of those within it where chance makes such a run at most once
/// in so many.
const CHANCE_INVERSE: f64 = 100.0;

/// Whether a stop lies on the way of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lies {
    On,
    Off,
    /// On it or on one beside it.
    Unknown,
}

/// The packets of one direction, and what is known of the times at its stops.
#[derive(Clone, Copy)]
pub(super) struct Seen<'a> {
    pub(super) journeys: &'a Journeys,
    /// By stop.
    pub(super) items: &'a [&'a [Item]],
    /// What a stop did when a packet was due that was at another one at a time of that one.
    pub(super) watch: &'a dyn Fn(usize, usize, i64) -> Watch,
    /// When it would have come there, by the clock of the other.
    pub(super) arrival_ns: &'a dyn Fn(usize, usize, i64) -> i64,
}

/// Which stops lie side by side.
#[derive(Clone, Debug, Default)]
pub(super) struct Beside {
    /// Pairs of stops, the earlier first.
    pairs: BTreeSet<(usize, usize)>,
    /// By stop: those that come next on some way.
    next: Vec<Vec<usize>>,
    /// By journey and stop, where those before and after it tell of it.
    by_others: HashMap<(usize, usize), Lies, foldhash::fast::FixedState>,
}

impl Beside {
    /// From what either stop saw while both were watching.
    pub(super) fn of(seen: Seen<'_>) -> Self {
        let count = seen.items.len();
        let mut beside = Self {
            pairs: pairs(count).filter(|pair| seen.are_beside(*pair)).collect(),
            ..Self::default()
        };
        beside.next = (0..count)
            .map(|from| beside.find_next(from, count))
            .collect();
        for stop in 0..count {
            let told = beside.ask_others(seen, stop);
            told.into_iter()
                .for_each(|(journey, lies)| beside.note(seen.journeys, (journey, stop), lies));
        }
        beside
    }

    /// Notes where a packet went, and so where it did not: what was told before stands.
    fn note(&mut self, journeys: &Journeys, (journey, stop): (usize, usize), lies: Lies) {
        if self.lies(journeys, journey, stop) != Lies::Unknown {
            return;
        }
        self.by_others.insert((journey, stop), lies);
        let partners: Vec<usize> = self.partners(stop).collect();
        for partner in partners {
            if self.lies(journeys, journey, partner) != Lies::Unknown {
                continue;
            }
            let is_off = |it: usize| self.lies(journeys, journey, it) == Lies::Off;
            if lies == Lies::On {
                self.by_others.insert((journey, partner), Lies::Off);
            } else if self.partners(partner).all(is_off) {
                self.by_others.insert((journey, partner), Lies::On);
            }
        }
    }

    pub(super) fn are_beside(&self, a: usize, b: usize) -> bool {
        self.pairs.contains(&(a.min(b), a.max(b)))
    }

    fn partners(&self, stop: usize) -> impl Iterator<Item = usize> + '_ {
        let other = move |(a, b): &(usize, usize)| match stop {
            _ if *a == stop => Some(*b),
            _ if *b == stop => Some(*a),
            _ => None,
        };
        self.pairs.iter().filter_map(other)
    }

    /// Stops before which no other one lies on a way that goes on from `from`.
    fn find_next(&self, from: usize, count: usize) -> Vec<usize> {
        let follows = |to: &usize| {
            let is_off = |it: usize| self.are_beside(from, it) || self.are_beside(it, *to);
            !self.are_beside(from, *to) && (from + 1..*to).all(is_off)
        };
        (from + 1..count).filter(follows).collect()
    }

    /// The stops that come next on some way, in the order of the stops; none behind the last one.
    pub(super) fn next(&self, stop: usize) -> &[usize] {
        &self.next[stop]
    }

    /// Pairs of stops that follow each other on some way.
    pub(super) fn legs(&self) -> impl Iterator<Item = [usize; 2]> + '_ {
        let from = self.next.iter().enumerate();
        from.flat_map(|(from, next)| next.iter().map(move |to| [from, *to]))
    }

    /// Whether a stop lies on the way of a packet.
    pub(super) fn lies(&self, journeys: &Journeys, journey: usize, stop: usize) -> Lies {
        match self.lies_by_sight(journeys, journey, stop) {
            Lies::Unknown => {
                let told = self.by_others.get(&(journey, stop));
                told.copied().unwrap_or(Lies::Unknown)
            }
            known => known,
        }
    }

    /// The same, by the stops that saw the packet.
    fn lies_by_sight(&self, journeys: &Journeys, journey: usize, stop: usize) -> Lies {
        if self.pairs.is_empty() || journeys.place(journey, stop).is_some() {
            return Lies::On;
        }
        let passes_by = |stop: usize| {
            let mut seen = journeys.stops(journey);
            seen.any(|seen| self.are_beside(seen, stop))
        };
        if passes_by(stop) {
            Lies::Off
        } else if self.partners(stop).all(passes_by) {
            Lies::On
        } else {
            Lies::Unknown
        }
    }

    /// Tells of packets that no stop saw where ways part, by those that came before and after.
    fn ask_others(&self, seen: Seen<'_>, stop: usize) -> Vec<(usize, Lies)> {
        if self.partners(stop).next().is_none() {
            return Vec::new();
        }
        let (mut known, mut unknown) = (Vec::new(), Vec::new());
        for journey in 0..seen.journeys.len() {
            let Some(due_ns) = seen.due_ns(journey, stop) else {
                continue;
            };
            match self.lies_by_sight(seen.journeys, journey, stop) {
                // One that was away would not have seen it.
                Lies::Unknown if seen.is_any_away(self, journey, stop) => {}
                Lies::Unknown => unknown.push((due_ns, journey)),
                lies => known.push((due_ns, lies)),
            }
        }
        known.sort_by_key(|it| it.0);
        let Some(run) = telling_run(&known) else {
            return Vec::new();
        };
        // How many of those before each lie on the way.
        let mut on = vec![0_usize];
        on.extend(known.iter().scan(0, |count, it| {
            *count += usize::from(it.1 == Lies::On);
            Some(*count)
        }));
        let tell = |(due_ns, journey): (i64, usize)| {
            let at = known.partition_point(|it| it.0 < due_ns);
            let (first, end) = (at.saturating_sub(run), known.len().min(at + run));
            let lies = match on[end] - on[first] {
                0 => Lies::Off,
                count if count == end - first => Lies::On,
                _ => return None,
            };
            (end - first >= run).then_some((journey, lies))
        };
        unknown.into_iter().filter_map(tell).collect()
    }
}

/// How many packets in a row on one way are no chance, by the share of those on the rarer one.
fn telling_run(known: &[(i64, Lies)]) -> Option<usize> {
    let on = known.iter().filter(|it| it.1 == Lies::On).count();
    let rarer = on.min(known.len() - on) as f64;
    if rarer == 0.0 {
        return None;
    }
    let usual_share = 1.0 - rarer / known.len() as f64;
    Some((CHANCE_INVERSE.ln() / -usual_share.ln()).ceil() as usize)
}

impl Seen<'_> {
    fn time_ns(&self, journey: usize, stop: usize) -> Option<i64> {
        let item = self.items[stop].get(self.journeys.place(journey, stop)?)?;
        Some(item.time_ns)
    }

    /// When a packet came to a stop, or would have, by the first that saw it.
    fn due_ns(&self, journey: usize, stop: usize) -> Option<i64> {
        let first = self.journeys.stops(journey).next();
        let first = first.filter(|it| *it <= stop)?;
        let time_ns = self.time_ns(journey, first)?;
        Some(match first == stop {
            true => time_ns,
            false => (self.arrival_ns)(first, stop, time_ns),
        })
    }

    /// Whether a stop or one beside it recorded nothing when a packet was due.
    fn is_any_away(&self, beside: &Beside, journey: usize, stop: usize) -> bool {
        let first = self.journeys.stops(journey).next();
        let at = first.and_then(|first| Some((first, self.time_ns(journey, first)?)));
        let mut all = beside.partners(stop).chain([stop]);
        at.is_some_and(|(first, time_ns)| {
            all.any(|it| (self.watch)(first, it, time_ns) == Watch::Paused)
        })
    }

    /// Whether hardly a packet crossed two stops, though each saw some, and one of them was
    /// watching while the other one did.
    fn are_beside(&self, (first, second): (usize, usize)) -> bool {
        let (mut alone, mut watched) = ([0_u64; 2], [0_u64; 2]);
        let mut both = 0;
        for journey in 0..self.journeys.len() {
            match [first, second].map(|stop| self.time_ns(journey, stop)) {
                [Some(_), Some(_)] => both += 1,
                [Some(time_ns), None] => {
                    alone[0] += 1;
                    watched[0] += u64::from((self.watch)(first, second, time_ns) == Watch::On);
                }
                [None, Some(time_ns)] => {
                    alone[1] += 1;
                    watched[1] += u64::from((self.watch)(second, first, time_ns) == Watch::On);
                }
                [None, None] => {}
            }
        }
        let least = alone[0].min(alone[1]);
        let most_watched = watched[0].max(watched[1]);
        least.min(most_watched) >= BESIDE_COUNT_MIN && both * PATH_SHARE < least
    }
}
