//! Journeys: each packet of one direction with all the hops that it crossed. Made by aligning hop
//! after hop, in the order of the way, with what came from all hops before: so a packet that one
//! hop did not capture is found again at the next.

use std::ops::Range;

use super::alignment::{Expectation, Item, Link, align};

/// No crossing.
const NONE: u32 = u32::MAX;

/// The packets of one direction of a conversation: each a piece of sequence space that one packet
/// carried at the hop where segments are the smallest.
#[derive(Clone, Debug, Default)]
pub(super) struct Journeys {
    /// Hops on the way.
    width: usize,
    ranges: Vec<Range<u64>>,
    /// Places of the crossings among those of each hop, `width` for each journey.
    places: Vec<u32>,
}

/// One hop on the way, with the packets of the direction.
pub(super) struct Stop<'a> {
    pub(super) items: &'a [Item],
    /// What is known of the way from the hop before.
    pub(super) expectation: Expectation,
}

impl Journeys {
    /// Aligns the packets of all hops, in the order of the way. `ahead_ns` tells how far the clock
    /// of a later stop is ahead of that of an earlier one, at a time of the earlier, and how much
    /// longer the way is than what is expected. `None` where segments are cut so oddly that they
    /// are not aligned.
    pub(super) fn of(
        stops: &[Stop<'_>],
        ahead_ns: impl Fn(usize, usize, i64) -> i64,
    ) -> Option<Self> {
        let mut journeys = Self {
            width: stops.len(),
            ..Self::default()
        };
        for (at, stop) in stops.iter().enumerate() {
            let upstream = journeys.upstream(stops, at, &ahead_ns);
            let items: Vec<Item> = upstream.iter().map(|it| it.1).collect();
            let links = align(&items, stop.items, &stop.expectation)?;
            let order: Vec<usize> = upstream.iter().map(|it| it.0).collect();
            journeys.extend(at, &order, stop.items, links);
        }
        Some(journeys)
    }

    pub(super) fn len(&self) -> usize {
        self.ranges.len()
    }

    /// The piece of sequence space; empty for what takes none.
    pub(super) fn range(&self, journey: usize) -> &Range<u64> {
        &self.ranges[journey]
    }

    /// The crossing at a stop.
    pub(super) fn place(&self, journey: usize, stop: usize) -> Option<usize> {
        let place = self.places[journey * self.width + stop];
        (place != NONE).then_some(place as usize)
    }

    /// The stops that saw it: never none.
    pub(super) fn stops(&self, journey: usize) -> impl DoubleEndedIterator<Item = usize> + '_ {
        let places = &self.places[journey * self.width..(journey + 1) * self.width];
        (0..self.width).filter(move |stop| places[*stop] != NONE)
    }

    /// All so far as they come to a stop, in the order of time there: number and item.
    fn upstream(
        &self,
        stops: &[Stop<'_>],
        at: usize,
        ahead_ns: &impl Fn(usize, usize, i64) -> i64,
    ) -> Vec<(usize, Item)> {
        let item = |journey: usize| {
            let last = self.stops(journey).next_back()?;
            let item = &stops[last].items[self.place(journey, last)?];
            let range = self.range(journey);
            let (start, end) = if range.is_empty() {
                (item.start, item.end)
            } else {
                (range.start, range.end)
            };
            let time_ns = item
                .time_ns
                .saturating_add(ahead_ns(last, at, item.time_ns));
            Some((
                journey,
                Item {
                    start,
                    end,
                    time_ns,
                    acknowledged: item.acknowledged,
                    missed_count: at - 1 - last,
                    crossing: item.crossing,
                },
            ))
        };
        let mut items: Vec<_> = (0..self.len()).filter_map(item).collect();
        items.sort_by_key(|(_, item)| (item.time_ns, item.crossing.frame, item.start));
        items
    }

    /// Takes in how what came from upstream is linked with what a stop saw.
    fn extend(&mut self, at: usize, order: &[usize], items: &[Item], mut links: Vec<Link>) {
        // By journey, then by bytes; what nobody upstream saw comes last, by packet and bytes.
        let key = |link: &Link| {
            (
                link.upstream.unwrap_or(NONE),
                link.downstream,
                link.range.start,
            )
        };
        let by_bytes = |link: &Link| (link.upstream.unwrap_or(NONE), link.range.start);
        links.sort_by(|a, b| {
            if a.upstream.is_some() || b.upstream.is_some() {
                by_bytes(a).cmp(&by_bytes(b))
            } else {
                key(a).cmp(&key(b))
            }
        });
        let same = |a: &Link, b: &Link| {
            a.upstream == b.upstream
                && a.downstream == b.downstream
                && (a.range.end == b.range.start || a.range.is_empty())
                && (a.upstream.is_some() || a.downstream.is_some())
        };
        let mut taken = vec![false; order.len()];
        for piece in links.chunk_by(same) {
            let (first, last) = (&piece[0], &piece[piece.len() - 1]);
            let range = first.range.start..last.range.end;
            let place = first.downstream.unwrap_or(NONE);
            let Some(upstream) = first.upstream else {
                debug_assert!((place as usize) < items.len());
                self.begin(at, range, place);
                continue;
            };
            let journey = order[upstream as usize];
            if std::mem::replace(&mut taken[upstream as usize], true) {
                self.split(at, journey, range, place);
            } else {
                self.ranges[journey] = range;
                self.places[journey * self.width + at] = place;
            }
        }
    }

    /// A packet that no hop before saw.
    fn begin(&mut self, at: usize, range: Range<u64>, place: u32) {
        self.ranges.push(range);
        let begin = self.places.len();
        self.places.resize(begin + self.width, NONE);
        self.places[begin + at] = place;
    }

    /// A further piece of what was one packet upstream.
    fn split(&mut self, at: usize, journey: usize, range: Range<u64>, place: u32) {
        self.ranges.push(range);
        let begin = journey * self.width;
        let end = self.places.len();
        self.places.extend_from_within(begin..begin + self.width);
        self.places[end + at] = place;
    }
}
