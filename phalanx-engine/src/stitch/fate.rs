//! Fates: what became of each packet of one direction on its way past the hops: arrived, lost and
//! where, there and not captured, or a copy that the network made.

use hashbrown::HashSet;
use phalanx_common::packet::TcpFlags;

use super::alignment::Item;
use super::beside::{Beside, Lies};
use super::journey::Journeys;
use super::trail::Crossing;
use crate::limits::FATE_NEIGHBOUR_COUNT_MAX;

/// What became of a packet. Stops are counted along the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// The last stop saw it.
    Arrived,
    /// Nobody saw it after this stop, and its bytes had to be sent again or never came.
    Lost { after: usize },
    /// The same, of what nobody sends again and nothing acknowledges by itself.
    Missing { after: usize },
    /// Nobody saw it after this stop, and yet it arrived.
    Uncaptured { after: usize },
    /// Where it would have come next nobody recorded then.
    Open { after: usize },
}

/// What else a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// The first stop saw it.
    Sent,
    /// A copy that the network made before this stop; of which journey.
    Copied { before: usize, of: usize },
    /// Stops before this one did not capture it.
    Uncaptured { before: usize },
}

/// What a stop's capture did when something was due there; later ones tell less of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Watch {
    /// It recorded.
    On,
    /// It was before its first packet or behind its last one: it may have recorded.
    Over,
    /// It recorded nothing, as is known.
    Paused,
}

/// When a stop recorded, in nanoseconds of its clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Recorded<'a> {
    /// First and last packet.
    pub(super) window_ns: (i64, i64),
    /// From and until, when it recorded nothing in between.
    pub(super) gaps_ns: &'a [(i64, i64)],
}

impl Recorded<'_> {
    /// What it did when something was due, at the earliest and as is usual.
    pub(super) fn at(&self, earliest_ns: i64, usual_ns: i64) -> Watch {
        let is_in = |(from, until): &(i64, i64)| *from <= usual_ns && earliest_ns < *until;
        let (first, last) = self.window_ns;
        if self.gaps_ns.iter().any(is_in) {
            Watch::Paused
        } else if (first..=last).contains(&usual_ns) {
            Watch::On
        } else {
            Watch::Over
        }
    }
}

/// What is known beside the journeys themselves.
pub(super) struct Circumstances<'a> {
    /// Packets of the direction at each stop.
    pub(super) items: &'a [&'a [Item]],
    /// Acknowledgements at each stop: position and when it was first reached, both rising.
    pub(super) acknowledged: &'a [Vec<(u64, i64)>],
    /// By stop.
    pub(super) recorded: &'a [Recorded<'a>],
    /// What a stop did when a packet was due that was at another one at a time of that one.
    pub(super) watch: &'a dyn Fn(usize, usize, i64) -> Watch,
    /// Stops that lie side by side.
    pub(super) beside: &'a Beside,
}

pub(super) struct Fates {
    pub(super) fates: Vec<Fate>,
    pub(super) origins: Vec<Origin>,
    /// Journeys, and the stops that did not see them for they recorded nothing then.
    away: HashSet<(usize, usize), foldhash::fast::FixedState>,
}

impl Fates {
    pub(super) fn of(journeys: &Journeys, circumstances: &Circumstances<'_>) -> Self {
        let mut order: Vec<usize> = (0..journeys.len()).collect();
        order.sort_by_key(|it| journeys.range(*it).start);
        let judge = Judge {
            journeys,
            circumstances,
        };
        let mut fates = vec![Fate::Arrived; journeys.len()];
        let mut origins = vec![Origin::Sent; journeys.len()];
        for (at, journey) in order.iter().enumerate() {
            let same = || judge.others(&order, at);
            fates[*journey] = judge.fate(*journey, same());
            origins[*journey] = judge.origin(*journey, same());
        }
        for (at, journey) in judge.copies_without_range() {
            origins[at] = journey;
        }
        Self {
            fates,
            origins,
            away: judge.away().collect(),
        }
    }

    /// Whether a stop recorded nothing when a packet was due there that it did not see.
    pub(super) fn is_away(&self, journey: usize, stop: usize) -> bool {
        self.away.contains(&(journey, stop))
    }
}

struct Judge<'a> {
    journeys: &'a Journeys,
    circumstances: &'a Circumstances<'a>,
}

impl Judge<'_> {
    fn away(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        let recorded = self.circumstances.recorded.iter().enumerate();
        let paused = recorded.filter(|(_, it)| !it.gaps_ns.is_empty());
        paused.flat_map(|(stop, _)| {
            let all = (0..self.journeys.len()).map(move |journey| (journey, stop));
            all.filter(|(journey, stop)| self.is_away(*journey, *stop))
        })
    }

    /// By the stop nearest to it that saw the packet.
    fn is_away(&self, journey: usize, stop: usize) -> bool {
        if self.journeys.place(journey, stop).is_some() {
            return false;
        }
        let stops = self.journeys.stops(journey);
        let seen = stops.min_by_key(|seen| seen.abs_diff(stop));
        let at = seen.and_then(|seen| Some((seen, self.time_ns(journey, seen)?)));
        at.is_some_and(|(seen, time_ns)| {
            (self.circumstances.watch)(seen, stop, time_ns) == Watch::Paused
        })
    }

    /// Journeys that carried some of the same bytes.
    fn others<'a>(&'a self, order: &'a [usize], at: usize) -> impl Iterator<Item = usize> + 'a {
        let journey = order[at];
        let range = self.journeys.range(journey).clone();
        let before = order[..at].iter().rev().take(FATE_NEIGHBOUR_COUNT_MAX);
        let after = order[at + 1..].iter().take(FATE_NEIGHBOUR_COUNT_MAX);
        let end = range.end;
        let after = after.take_while(move |it| self.journeys.range(**it).start < end);
        before.chain(after).copied().filter(move |it| {
            let other = self.journeys.range(*it);
            !range.is_empty() && other.start < range.end && range.start < other.end
        })
    }

    fn item(&self, journey: usize, stop: usize) -> Option<&Item> {
        let place = self.journeys.place(journey, stop)?;
        self.circumstances.items[stop].get(place)
    }

    fn time_ns(&self, journey: usize, stop: usize) -> Option<i64> {
        self.item(journey, stop).map(|item| item.time_ns)
    }

    fn fate(&self, journey: usize, others: impl Iterator<Item = usize>) -> Fate {
        let Some(after) = self.journeys.stops(journey).next_back() else {
            return Fate::Arrived;
        };
        // The last one on its own way.
        if self.circumstances.beside.next(after).is_empty() {
            return Fate::Arrived;
        }
        let sent_ns = self.time_ns(journey, after).unwrap_or_default();
        let range = self.journeys.range(journey);
        let watch = self.watch(journey, after, sent_ns);
        if range.is_empty() {
            return match watch {
                Watch::On => Fate::Missing { after },
                Watch::Over | Watch::Paused => Fate::Open { after },
            };
        }
        // What was lost while the next stop was away may have come as far as there, and farther.
        let lost = match watch {
            Watch::Paused => Fate::Open { after },
            Watch::On | Watch::Over => Fate::Lost { after },
        };
        let acknowledged_ns = |stop: usize| self.acknowledged_ns(stop, range.end);
        for other in others {
            // The last that both crossed: behind it they may have gone different ways.
            let Some((at, [mine, again])) = self.last_common(journey, other) else {
                continue;
            };
            let when = |it: &Item| (it.time_ns, it.crossing.frame);
            if when(again) > when(mine) {
                // Sent again later, from where this one was seen.
                let was_needed = acknowledged_ns(at).is_none_or(|known| known > again.time_ns);
                if was_needed || self.came_first(other, at, range.end) {
                    return lost;
                }
            } else if self.came_farther(other, after) && watch != Watch::Over {
                // Sent before, and had come to the end when this was sent: this one was needless,
                // and what became of it nobody can know but the stops.
                return lost;
            }
        }
        match acknowledged_ns(after) {
            Some(_) => Fate::Uncaptured { after },
            None if watch == Watch::On => lost,
            None => Fate::Open { after },
        }
    }

    /// The last stop that two packets crossed, and both there.
    fn last_common(&self, one: usize, other: usize) -> Option<(usize, [&Item; 2])> {
        let both = |stop: usize| Some([self.item(one, stop)?, self.item(other, stop)?]);
        let mut stops = self.journeys.stops(one).rev();
        stops.find_map(|stop| Some((stop, both(stop)?)))
    }

    /// Whether a packet came beyond a stop on the same way, or to the end of its own.
    fn came_farther(&self, journey: usize, after: usize) -> bool {
        let beside = self.circumstances.beside;
        let last = self.journeys.stops(journey).next_back();
        last.is_some_and(|last| {
            (last > after && !beside.are_beside(last, after)) || beside.next(last).is_empty()
        })
    }

    /// Whether another sending of the bytes came to a later stop before they were acknowledged
    /// there.
    fn came_first(&self, other: usize, after: usize, end: u64) -> bool {
        let Some(stop) = self
            .journeys
            .stops(other)
            .next_back()
            .filter(|it| *it > after)
        else {
            return false;
        };
        let came_ns = self.time_ns(other, stop);
        let known_ns = self.acknowledged_ns(stop, end);
        matches!((came_ns, known_ns), (Some(came), Some(known)) if came < known)
    }

    /// When a stop first saw all bytes before a position acknowledged.
    fn acknowledged_ns(&self, stop: usize, end: u64) -> Option<i64> {
        let list = self.circumstances.acknowledged.get(stop)?;
        let at = list.partition_point(|it| it.0 < end);
        list.get(at).map(|it| it.1)
    }

    /// What the captures of the stops that come next on a packet's way did at the time at which it
    /// would have come there: the one that did least.
    fn watch(&self, journey: usize, after: usize, sent_ns: i64) -> Watch {
        let beside = self.circumstances.beside;
        let may_come = |stop: &&usize| beside.lies(self.journeys, journey, **stop) != Lies::Off;
        let next = beside.next(after).iter().filter(may_come);
        let watch = next.map(|next| (self.circumstances.watch)(after, *next, sent_ns));
        watch.max().unwrap_or(Watch::Over)
    }

    fn origin(&self, journey: usize, others: impl Iterator<Item = usize>) -> Origin {
        let Some(first) = self.journeys.stops(journey).next().filter(|it| *it > 0) else {
            return Origin::Sent;
        };
        for other in others {
            if self.is_copy(journey, other, first) {
                return Origin::Copied {
                    before: first,
                    of: other,
                };
            }
        }
        Origin::Uncaptured { before: first }
    }

    /// Whether a packet that begins at a stop is a copy of one that came from farther.
    fn is_copy(&self, journey: usize, other: usize, first: usize) -> bool {
        let is_from_before = self.journeys.stops(other).next() < Some(first);
        let items = (self.item(journey, first), self.item(other, first));
        match items {
            (Some(copy), Some(original)) if is_from_before => are_same(copy, original),
            _ => false,
        }
    }

    /// Copies of packets that take no sequence space.
    fn copies_without_range(&self) -> Vec<(usize, Origin)> {
        let mut all: Vec<(usize, (Said, usize, i64))> = Vec::new();
        for journey in 0..self.journeys.len() {
            if self.journeys.range(journey).is_empty() {
                for stop in self.journeys.stops(journey) {
                    if let Some(item) = self.item(journey, stop) {
                        all.push((journey, (said(&item.crossing), stop, item.time_ns)));
                    }
                }
            }
        }
        all.sort_unstable_by_key(|it| it.1);
        let mut copies = Vec::new();
        for group in all.chunk_by(|a, b| (a.1.0, a.1.1) == (b.1.0, b.1.1)) {
            let stop = group[0].1.1;
            let begins = |journey: usize| self.journeys.stops(journey).next() == Some(stop);
            let time_ns = |journey: usize| self.time_ns(journey, stop).unwrap_or_default();
            let (copied, originals): (Vec<usize>, Vec<usize>) =
                group.iter().map(|it| it.0).partition(|it| begins(*it));
            if stop == 0 {
                continue;
            }
            // Both are in the order of time: the nearest to either side.
            for copy in copied {
                let after = originals.partition_point(|it| time_ns(*it) <= time_ns(copy));
                let near = originals
                    .iter()
                    .take(after + 1)
                    .skip(after.saturating_sub(1));
                let near = near.min_by_key(|it| time_ns(**it).abs_diff(time_ns(copy)));
                if let Some(of) = near.copied().filter(|of| self.is_copy(copy, *of, stop)) {
                    copies.push((copy, Origin::Copied { before: stop, of }));
                }
            }
        }
        copies
    }
}

/// What tells packets apart that take no sequence space.
type Said = ([u32; 6], u8, u16, u16);

fn said(it: &Crossing) -> Said {
    let words = [
        it.sequence,
        it.acknowledgement,
        it.timestamp_value,
        it.timestamp_echo,
        it.digest,
        it.length,
    ];
    (words, it.flags, it.window, it.ip_id)
}

/// How far apart the two may come that nothing tells apart, in nanoseconds: before the least
/// timeout of any sender (RFC 8985 has 200 ms in practice).
const COPY_MAX_NS: i64 = 50_000_000;

/// Whether two packets of one stop are one that came twice.
fn are_same(copy: &Item, original: &Item) -> bool {
    let (a, b) = (&copy.crossing, &original.crossing);
    let is_equal = said(a) == said(b) && copy.start == original.start && copy.end == original.end;
    let is_told = a.ip_id != 0 || a.timestamp_value != 0;
    let apart_ns = copy
        .time_ns
        .saturating_sub(original.time_ns)
        .saturating_abs();
    is_equal && (is_told || apart_ns <= COPY_MAX_NS || TcpFlags(a.flags).any(TcpFlags::SYN))
}
