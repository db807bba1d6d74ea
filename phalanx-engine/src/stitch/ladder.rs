//! Ladders: the packets of one conversation, one rung each, with all hops that they crossed, what
//! became of them, and what they have to do with each other.

use std::collections::BTreeMap;

use super::fate::{Fate, Origin};
use super::journey::Journeys;
use super::scene::Course;
use crate::segment::Class;
use crate::side::Side;

/// The packets of one conversation, in the order of their times by the reference's clock.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ladder {
    /// Hops from the client to the server.
    pub hops: Vec<u32>,
    /// Packets, the earliest first.
    pub rungs: Vec<Rung>,
    /// Packets that are left out, since there are more than were asked for.
    pub left_out: u64,
}

/// One packet, and the hops that it crossed.
#[derive(Clone, Debug, PartialEq)]
pub struct Rung {
    /// Who sent it.
    pub side: Side,
    /// TCP flags; 0 for other protocols.
    pub flags: u8,
    /// First byte, counted from the initial sequence number; `None` for what is not TCP.
    pub sequence: Option<u32>,
    /// Bytes of the piece that travelled as one packet; payload, SYN and FIN for TCP.
    pub length: u64,
    /// What it acknowledges, counted from the peer's initial sequence number.
    pub acknowledgement: Option<u32>,
    /// What its segment is at the first hop that saw it.
    pub class: Option<Class>,
    /// Where it crossed, in the order of its way: never empty.
    pub crossings: Vec<RungCrossing>,
    /// What became of it.
    pub end: RungEnd,
    /// The rung that carried some of its bytes first.
    pub repeats: Option<usize>,
    /// The rung that it is a copy of, which the network made.
    pub copy_of: Option<usize>,
    /// The hop before which later packets overtook it.
    pub overtaken_before: Option<u32>,
}

/// A crossing of a rung.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RungCrossing {
    /// The hop.
    pub hop: u32,
    /// Number of the frame there.
    pub frame: u64,
    /// By the hop's own clock, in nanoseconds since the epoch.
    pub time_ns: i64,
    /// By the clock of the reference, as far as it is known.
    pub reference_ns: i64,
    /// What that may be off by; `None` where clocks could not be compared.
    pub error_ns: Option<i64>,
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RungEnd {
    /// The last hop on its way saw it.
    Arrived,
    /// It was lost after this hop.
    Lost(u32),
    /// It arrived; hops after this one did not capture it.
    Uncaptured(u32),
    /// It was seen up to this hop, and nothing tells what became of it.
    Unknown(u32),
}

/// How the time of a hop reads on the reference's clock, and what that may be off by.
pub(super) type Reading<'a> = &'a dyn Fn(u32, i64) -> (i64, Option<i64>);

/// One direction of a conversation.
pub(super) struct Told<'a> {
    pub(super) side: Side,
    pub(super) course: &'a Course<'a>,
    /// By stop: whether what is missing behind it was lost.
    pub(super) is_missing_lost: Vec<bool>,
}

impl Told<'_> {
    /// When a journey was first seen, by the reference's clock.
    fn begin_ns(
        &self,
        journey: usize,
        hop: &dyn Fn(usize) -> u32,
        reading: Reading<'_>,
    ) -> Option<i64> {
        let course = self.course;
        let stop = course.journeys.stops(journey).next()?;
        let item = course.items[stop].get(course.journeys.place(journey, stop)?)?;
        Some(reading(hop(course.members[stop]), item.time_ns).0)
    }
}

impl Ladder {
    /// The packets of both directions; `hop` gives the number of a member.
    pub(super) fn of(
        hops: Vec<u32>,
        ways: &[Told<'_>],
        hop: &dyn Fn(usize) -> u32,
        reading: Reading<'_>,
        most: usize,
    ) -> Self {
        // All are put in order, and those alone are made that are shown.
        let mut order: Vec<(Option<i64>, usize, usize)> = Vec::new();
        let mut all_links = Vec::new();
        for (way, told) in ways.iter().enumerate() {
            let count = told.course.journeys.len();
            let begins: Vec<Option<i64>> = (0..count)
                .map(|journey| told.begin_ns(journey, hop, reading))
                .collect();
            all_links.push(Links::of(told.course, &begins));
            order.extend(begins.into_iter().enumerate().map(|(at, it)| (it, way, at)));
        }
        order.sort_unstable();
        let left_out = order.len().saturating_sub(most) as u64;
        order.truncate(most);
        let places: BTreeMap<(usize, usize), usize> =
            order.iter().map(|it| (it.1, it.2)).zip(0..).collect();
        let make = |(_, way, journey): &(Option<i64>, usize, usize)| {
            let (told, links) = (&ways[*way], &all_links[*way]);
            let place = |of: &usize| places.get(&(*way, *of)).copied();
            let stop = links.overtaken.get(journey);
            Rung {
                repeats: links.repeats.get(journey).and_then(place),
                copy_of: links.copies.get(journey).and_then(place),
                overtaken_before: stop.map(|stop| hop(told.course.members[*stop])),
                ..rung(told, *journey, hop, reading)
            }
        };
        Self {
            hops,
            rungs: order.iter().map(make).collect(),
            left_out,
        }
    }
}

fn rung(told: &Told<'_>, journey: usize, hop: &dyn Fn(usize) -> u32, reading: Reading<'_>) -> Rung {
    let (course, side) = (told.course, told.side);
    let journeys: &Journeys = &course.journeys;
    let hop_at = |stop: usize| hop(course.members[stop]);
    let mut crossings = Vec::new();
    let mut first = None;
    for stop in journeys.stops(journey) {
        let place = journeys.place(journey, stop);
        let Some(item) = place.and_then(|place| course.items[stop].get(place)) else {
            continue;
        };
        first.get_or_insert(item);
        let (reference_ns, error_ns) = reading(hop_at(stop), item.time_ns);
        crossings.push(RungCrossing {
            hop: hop_at(stop),
            frame: item.crossing.frame,
            time_ns: item.time_ns,
            reference_ns,
            error_ns,
        });
    }
    let range = journeys.range(journey);
    let begins = |item: &super::alignment::Item| range.start.saturating_sub(item.start) as u32;
    let is_tcp = course.is_tcp;
    let has_ack = |item: &super::alignment::Item| item.acknowledged > 0;
    Rung {
        side,
        flags: first.map_or(0, |it| it.crossing.flags),
        sequence: first.filter(|_| is_tcp).map(|it| {
            let further = if range.is_empty() { 0 } else { begins(it) };
            it.crossing.sequence.wrapping_add(further)
        }),
        length: if range.is_empty() {
            first.map_or(0, |it| u64::from(it.crossing.length))
        } else {
            range.end - range.start
        },
        acknowledgement: first
            .filter(|it| has_ack(it))
            .map(|it| it.crossing.acknowledgement),
        class: first.and_then(|it| it.crossing.class),
        crossings,
        end: match course.fates.fates[journey] {
            Fate::Arrived => RungEnd::Arrived,
            Fate::Missing { after } if !told.is_missing_lost[after] => {
                RungEnd::Unknown(hop_at(after))
            }
            Fate::Lost { after } | Fate::Missing { after } => RungEnd::Lost(hop_at(after)),
            Fate::Uncaptured { after } => RungEnd::Uncaptured(hop_at(after)),
            Fate::Open { after } => RungEnd::Unknown(hop_at(after)),
        },
        repeats: None,
        copy_of: None,
        overtaken_before: None,
    }
}

/// What the packets of one direction have to do with each other.
struct Links {
    /// By journey: the earlier one that carried some of its bytes.
    repeats: BTreeMap<usize, usize>,
    copies: BTreeMap<usize, usize>,
    /// By journey: the stop before which it was overtaken.
    overtaken: BTreeMap<usize, usize>,
}

impl Links {
    /// `begins` are the times by the reference's clock at which each was first seen.
    fn of(course: &Course<'_>, begins: &[Option<i64>]) -> Self {
        let journeys = &course.journeys;
        let mut copies = BTreeMap::new();
        for (journey, origin) in course.fates.origins.iter().enumerate() {
            if let Origin::Copied { of, .. } = origin {
                copies.insert(journey, *of);
            }
        }
        let mut overtaken = BTreeMap::new();
        for [from, to] in course.way().legs() {
            for journey in course.way().overtaken([from, to]) {
                overtaken.entry(journey).or_insert(to);
            }
        }
        // By first byte: the first that carried it. What was cut differently is found by where its
        // first byte lies.
        let mut order: Vec<usize> = (0..journeys.len()).collect();
        order.retain(|it| !journeys.range(*it).is_empty() && !copies.contains_key(it));
        order.sort_by_key(|it| (begins[*it], *it));
        let mut carried: BTreeMap<u64, (u64, usize)> = BTreeMap::new();
        let mut repeats = BTreeMap::new();
        for journey in order {
            let range = journeys.range(journey);
            let before = carried.range(..=range.start).next_back();
            match before.filter(|(_, (end, _))| *end > range.start) {
                Some((_, (_, first))) => {
                    repeats.insert(journey, *first);
                }
                None => {
                    carried.insert(range.start, (range.end, journey));
                }
            }
        }
        Self {
            repeats,
            copies,
            overtaken,
        }
    }
}
