//! The scene of one conversation: its hops in the order of either way, each packet followed from
//! hop to hop, and the legs that come of it.

use std::collections::BTreeMap;

use phalanx_common::packet::protocol;

use super::StitchHop;
use super::alignment::{Expectation, Item};
use super::beside::{Beside, PATH_SHARE, Seen};
use super::clock::{Clocks, Difference};
use super::conversation::{
    Alignment, Group, Packets, PathCount, Rewrite, RewriteField, StitchedConversation, pairs,
};
use super::fate::{Circumstances, Fate, Fates, Origin, Recorded};
use super::journey::{Journeys, Stop};
use super::ladder::{Ladder, Told};
use super::leg::{LegStory, Unseen, Way, round_trips};
use super::path::arrange;
use super::sighting::{Common, Order};
use super::trail::Trail;
use crate::side::{Side, Sides};

/// What is known of all conversations.
#[derive(Clone, Copy)]
pub(super) struct Known<'a> {
    pub(super) trails: &'a [Trail],
    pub(super) hops: &'a [StitchHop],
    pub(super) clocks: &'a Clocks,
}

/// All that the legs of one conversation are made from.
pub(super) struct Scene<'a> {
    group: &'a Group,
    known: Known<'a>,
    /// By member.
    packets: Vec<Packets>,
    /// By pair of members, the lower first.
    commons: BTreeMap<(usize, usize), Common>,
}

/// One direction, followed hop by hop.
pub(super) struct Course<'a> {
    /// Members in the order of the way.
    pub(super) members: &'a [usize],
    pub(super) items: Vec<&'a [Item]>,
    pub(super) journeys: Journeys,
    pub(super) fates: Fates,
    beside: Beside,
    pub(super) is_tcp: bool,
    segment_length: u64,
}

impl Course<'_> {
    pub(super) fn way(&self) -> Way<'_> {
        Way {
            items: &self.items,
            journeys: &self.journeys,
            fates: &self.fates,
            beside: &self.beside,
            segment_length: self.segment_length,
        }
    }

    /// Members that follow each other on some way.
    fn legs(&self) -> impl Iterator<Item = [usize; 2]> + '_ {
        self.beside
            .legs()
            .map(|stops| stops.map(|it| self.members[it]))
    }

    /// What a member did not see of this direction.
    fn unseen(&self, member: usize) -> Unseen {
        let place = self.members.iter().position(|it| *it == member);
        place.map_or_else(Unseen::default, |stop| self.way().unseen(stop))
    }

    fn stops(&self, members: [usize; 2]) -> Option<[usize; 2]> {
        let place = |member: usize| self.members.iter().position(|it| *it == member);
        Some([place(members[0])?, place(members[1])?])
    }
}

impl<'a> Scene<'a> {
    pub(super) fn new(group: &'a Group, known: Known<'a>) -> Self {
        let packets = group.packets(known.trails);
        let of = |(a, b): (usize, usize)| ((a, b), Common::of(&packets[a], &packets[b]));
        Self {
            group,
            known,
            commons: pairs(packets.len()).map(of).collect(),
            packets,
        }
    }

    /// Which of two members the packets of a side meet first; by the clocks where nothing else
    /// tells.
    fn order(&self, a: usize, b: usize, side: Side) -> Order {
        let order = self.group.order(a, b, side);
        if order != Order::Unknown {
            return order;
        }
        let sightings = self.commons.get(&(a, b)).map(|it| it.sightings.get(side));
        let Some(sighting) = sightings.and_then(|it| it.get(it.len() / 2)) else {
            return Order::Unknown;
        };
        let [first_ns, second_ns] = sighting.times_ns;
        let Some(difference) = self.difference(a, b, first_ns) else {
            return Order::Unknown;
        };
        let delay_ns = second_ns.saturating_sub(first_ns) as f64 - difference.ahead_ns;
        if delay_ns.abs() <= difference.error_ns() {
            Order::Unknown
        } else if delay_ns > 0.0 {
            Order::First
        } else {
            Order::Second
        }
    }

    /// The members on the way of either side's packets.
    fn courses(&self) -> Sides<Vec<usize>> {
        let count = self.group.members.len();
        let course = |side: Side| {
            let order = |a: usize, b: usize| self.order(a, b, side);
            let way = match side {
                Side::Client => arrange(count, order),
                // Where nothing is known, the way back is the way there.
                Side::Server => {
                    let back = |it: usize| count - 1 - it;
                    let reversed = |a: usize, b: usize| order(back(b), back(a)).reversed();
                    arrange(count, reversed).into_iter().map(back).collect()
                }
            };
            let saw_any = |it: &usize| !self.packets[*it].get(side).is_empty();
            way.into_iter().filter(saw_any).collect::<Vec<usize>>()
        };
        Sides {
            client: course(Side::Client),
            server: course(Side::Server),
        }
    }

    /// The packets one by one, `most` of them at most, with times by the clock of `reference`.
    pub(super) fn ladder(&self, reference: u32, most: usize) -> Ladder {
        let members = self.courses();
        let hop = |member: usize| self.trail(member).hop;
        let mut hops: Vec<u32> = members.client.iter().map(|it| hop(*it)).collect();
        for member in members.server.iter().rev() {
            if !hops.contains(&hop(*member)) {
                hops.push(hop(*member));
            }
        }
        let reading =
            |hop: u32, time_ns: i64| match self.known.clocks.estimate(hop, reference, time_ns) {
                Some(it) => {
                    let reference_ns = time_ns.saturating_add(it.ahead_ns as i64);
                    let error_ns = it.is_bounded().then(|| it.error_ns().ceil() as i64);
                    (reference_ns, error_ns)
                }
                None => (time_ns, None),
            };
        let forward = self.course(&members.client, Side::Client);
        let reverse = self.course(&members.server, Side::Server);
        let told = |side: Side, course: &'_ Option<Course<'_>>, other: &'_ Option<Course<'_>>| {
            let course = course.as_ref()?;
            let is_missing_lost = |at: usize| {
                let is_lost_before = |next: &usize| {
                    let other = other.as_ref();
                    let unseen = other.map(|it| it.unseen(course.members[*next]));
                    let stops = [at, *next];
                    course
                        .way()
                        .is_missing_lost(stops, unseen.unwrap_or_default())
                };
                let next = course.beside.next(at).iter();
                next.filter_map(is_lost_before).all(|it| it)
            };
            let stops = 0..course.members.len();
            Some((side, stops.map(is_missing_lost).collect::<Vec<bool>>()))
        };
        let ways = [
            (told(Side::Client, &forward, &reverse), forward.as_ref()),
            (told(Side::Server, &reverse, &forward), reverse.as_ref()),
        ];
        let ways: Vec<Told<'_>> = ways
            .into_iter()
            .filter_map(|(told, course)| {
                let (side, is_missing_lost) = told?;
                Some(Told {
                    side,
                    course: course?,
                    is_missing_lost,
                })
            })
            .collect();
        Ladder::of(hops, &ways, &hop, &reading, most)
    }

    pub(super) fn fill(&self, conversation: &mut StitchedConversation) {
        let courses = self.courses();
        let hop = |member: &usize| self.trail(*member).hop;
        conversation.path = courses.client.iter().map(hop).collect();
        conversation.return_path = courses.server.iter().map(hop).collect();
        let forward = self.course(&courses.client, Side::Client);
        let reverse = self.course(&courses.server, Side::Server);
        for (course, side) in [(&forward, Side::Client), (&reverse, Side::Server)] {
            if let Some(course) = course.as_ref().filter(|it| it.members.len() > 1) {
                count_alignment(course, &mut conversation.alignment);
                conversation.paths.extend(self.paths(course, side));
            }
        }
        // A way that all packets took need not be told.
        let ways = |side: Side| {
            conversation
                .paths
                .iter()
                .filter(|it| it.side == side)
                .count()
        };
        if ways(Side::Client) < 2 && ways(Side::Server) < 2 {
            conversation.paths.clear();
        }
        let onward = legs(&courses.client, forward.as_ref());
        let back = legs(&courses.server, reverse.as_ref());
        for [first, second] in both_ways(onward, &back) {
            let leg = self.leg([first, second], forward.as_ref(), reverse.as_ref());
            conversation.legs.push(leg);
            let rewrite = self.rewrite(first, second);
            conversation.rewrites.extend(rewrite);
        }
    }

    fn trail(&self, member: usize) -> &'a Trail {
        &self.known.trails[self.group.members[member]]
    }

    fn difference(&self, from: usize, to: usize, time_ns: i64) -> Option<Difference> {
        let (from, to) = (self.trail(from).hop, self.trail(to).hop);
        self.known.clocks.difference(from, to, time_ns)
    }

    /// The same, also where nothing bounds it.
    fn estimate(&self, from: usize, to: usize, time_ns: i64) -> Option<Difference> {
        let (from, to) = (self.trail(from).hop, self.trail(to).hop);
        self.known.clocks.estimate(from, to, time_ns)
    }

    /// How far the clock of a member is ahead of another's: where that is not known, with the least
    /// delay in it.
    fn ahead_ns(&self, from: usize, to: usize, side: Side, time_ns: i64) -> i64 {
        if let Some(difference) = self.estimate(from, to, time_ns) {
            return difference.ahead_ns as i64;
        }
        let range = self.common(from, to).and_then(|(common, is_swapped)| {
            let (least, most) = (*common.ahead_ns.get(side))?;
            Some(if is_swapped { -most } else { least })
        });
        range.unwrap_or_default()
    }

    /// What two members both saw, and whether the first is the second there.
    fn common(&self, a: usize, b: usize) -> Option<(&Common, bool)> {
        let common = self.commons.get(&(a.min(b), a.max(b)))?;
        Some((common, a > b))
    }

    /// The delays that packets of a side had between two members, in nanoseconds, rising; by
    /// clocks as far as they are known.
    fn delays(&self, from: usize, to: usize, side: Side) -> Vec<i64> {
        let Some((common, is_swapped)) = self.common(from, to) else {
            return Vec::new();
        };
        let delay_ns = |times_ns: [i64; 2]| {
            let [first, second] = times_ns;
            let (sent_ns, seen_ns) = if is_swapped {
                (second, first)
            } else {
                (first, second)
            };
            let ahead_ns = self.ahead_ns(from, to, side, sent_ns);
            seen_ns.saturating_sub(sent_ns).saturating_sub(ahead_ns)
        };
        let sightings = common.sightings.get(side).iter();
        let mut delays: Vec<i64> = sightings.map(|it| delay_ns(it.times_ns)).collect();
        delays.sort_unstable();
        delays
    }

    /// What the packets of a side do between two members.
    fn expectation(&self, from: usize, to: usize, side: Side) -> Expectation {
        let Some((common, _)) = self.common(from, to) else {
            return Expectation::default();
        };
        let delays = self.delays(from, to, side);
        let at = |percent: usize| delays.get(delays.len().saturating_sub(1) * percent / 100);
        let delay_ns = at(0).zip(at(95)).map(|(least_ns, usual_ns)| {
            // The least of a few is not the least of all.
            let spread_ns = usual_ns.saturating_sub(*least_ns);
            let unseen_ns = spread_ns.saturating_add(FEW_DELAYS_NS / delays.len() as i64);
            (least_ns.saturating_sub(unseen_ns), *usual_ns)
        });
        Expectation {
            delay_ns,
            ids_survive: *common.ids_survive.get(side),
            stamps_survive: *common.stamps_survive.get(side),
        }
    }

    /// Whether two members saw the same packet of a side.
    fn have_common(&self, a: usize, b: usize, side: Side) -> bool {
        let common = self.common(a, b);
        common.is_some_and(|(common, _)| !common.sightings.get(side).is_empty())
    }

    /// Which stop each one's packets come from: the last one before it that saw some of them.
    fn stops_before(&self, members: &[usize], side: Side) -> Vec<usize> {
        let before = |at: usize| {
            let mut earlier = (0..at).rev();
            let found = earlier.find(|it| self.have_common(members[*it], members[at], side));
            found.unwrap_or(at.saturating_sub(1))
        };
        (0..members.len()).map(before).collect()
    }

    /// How much longer packets are on their way from a stop than from the one that others come
    /// from, in nanoseconds, where these two lie on ways of their own: by stop, then by the first.
    fn detours_ns(&self, members: &[usize], before: &[usize], side: Side) -> Vec<Vec<i64>> {
        let least_ns = |from: usize, to: usize| {
            let delays = self.delays(members[from], members[to], side);
            delays.first().copied()
        };
        let detour_ns = |from: usize, to: usize| {
            let usual = before[to];
            if from == usual || self.have_common(members[from], members[usual], side) {
                return 0;
            }
            let both = least_ns(from, to).zip(least_ns(usual, to));
            both.map_or(0, |(this, that)| this.saturating_sub(that))
        };
        let of = |to: usize| (0..to).map(|from| detour_ns(from, to)).collect();
        (0..members.len()).map(of).collect()
    }

    /// Follows the packets of a side along its way.
    fn course<'b>(&'b self, members: &'b [usize], side: Side) -> Option<Course<'b>> {
        if members.is_empty() {
            return None;
        }
        let items: Vec<&[Item]> = members
            .iter()
            .map(|it| &self.packets[*it].get(side)[..])
            .collect();
        let before = self.stops_before(members, side);
        let stops: Vec<Stop<'_>> = (0..members.len())
            .map(|at| Stop {
                items: items[at],
                expectation: match at {
                    0 => Expectation::default(),
                    _ => self.expectation(members[before[at]], members[at], side),
                },
            })
            .collect();
        let ahead = |from: usize, to: usize, time_ns: i64| {
            self.ahead_ns(members[from], members[to], side, time_ns)
        };
        let detours_ns = self.detours_ns(members, &before, side);
        let due = |from: usize, to: usize, time_ns: i64| {
            ahead(from, to, time_ns).saturating_add(detours_ns[to][from])
        };
        let journeys = Journeys::of(&stops, due)?;
        let delays = stops.iter().map(|it| it.expectation.delay_ns);
        let delays: Vec<(i64, i64)> = delays.map(Option::unwrap_or_default).collect();
        let arrival = |from: usize, to: usize, time_ns: i64| {
            let due_ns = time_ns.saturating_add(due(from, to, time_ns));
            due_ns.saturating_add(delays[to].1)
        };
        let acknowledged = self.acknowledged(members, side, &items);
        let recorded: Vec<Recorded<'_>> = members.iter().map(|it| self.recorded(*it)).collect();
        let watch = |from: usize, to: usize, time_ns: i64| {
            if from < to {
                let usual_ns = arrival(from, to, time_ns);
                let (least_ns, most_ns) = delays[to];
                let sooner_ns = most_ns.saturating_sub(least_ns);
                return recorded[to].at(usual_ns.saturating_sub(sooner_ns), usual_ns);
            }
            // Against the way: as if it took no time.
            let due_ns = time_ns.saturating_add(ahead(from, to, time_ns));
            recorded[to].at(due_ns, due_ns)
        };
        let beside = Beside::of(Seen {
            journeys: &journeys,
            items: &items,
            watch: &watch,
            arrival_ns: &arrival,
        });
        let fates = Fates::of(
            &journeys,
            &Circumstances {
                items: &items,
                acknowledged: &acknowledged,
                recorded: &recorded,
                watch: &watch,
                beside: &beside,
            },
        );
        Some(Course {
            members,
            is_tcp: self.trail(members[0]).protocol == protocol::TCP,
            segment_length: segment_length(&items),
            items,
            journeys,
            fates,
            beside,
        })
    }

    /// What is acknowledged at each stop; where a stop does not see the other direction, what
    /// another one saw, by its own clock.
    fn acknowledged(
        &self,
        members: &[usize],
        side: Side,
        items: &[&[Item]],
    ) -> Vec<Vec<(u64, i64)>> {
        // Nobody acknowledges what nobody sent.
        let end = items.iter().flat_map(|it| it.iter()).map(|it| it.end).max();
        let own = |member: usize| {
            let replies = self.packets[member].get(side.other());
            acknowledgements(replies, end.unwrap_or_default())
        };
        let all = || 0..self.packets.len();
        let seen: Vec<Vec<(u64, i64)>> = all().map(own).collect();
        let elsewhere = all().find(|it| !seen[*it].is_empty());
        let of = |member: &usize| match elsewhere {
            Some(other) if seen[*member].is_empty() => {
                let here = |it: &(u64, i64)| {
                    let ahead_ns = self.ahead_ns(other, *member, side.other(), it.1);
                    (it.0, it.1.saturating_add(ahead_ns))
                };
                seen[other].iter().map(here).collect()
            }
            _ => seen[*member].clone(),
        };
        members.iter().map(of).collect()
    }

    /// The time that a member's packets are of: its hop's capture, or as far as they were kept.
    fn recorded(&self, member: usize) -> Recorded<'_> {
        let trail = self.trail(member);
        let found = self.known.hops.iter().find(|it| it.hop == trail.hop);
        let (first, mut last) = found.map_or((i64::MIN, i64::MAX), |it| it.window_ns);
        if trail.left_out > 0 {
            let both = [&trail.crossings.client, &trail.crossings.server];
            let kept = both
                .into_iter()
                .filter_map(|it| it.last())
                .map(|it| it.time_ns);
            last = kept.max().unwrap_or(first).min(last);
        }
        Recorded {
            window_ns: (first, last),
            gaps_ns: found.map_or(&[], |it| &it.gaps_ns),
        }
    }

    fn leg(
        &self,
        [first, second]: [usize; 2],
        forward: Option<&Course<'_>>,
        reverse: Option<&Course<'_>>,
    ) -> LegStory {
        let way = |[course, other]: [Option<&Course<'_>>; 2], from: usize, to: usize| {
            let course = course?;
            let is_leg = course.legs().any(|it| it == [from, to]);
            let stops = course.stops([from, to]).filter(|_| is_leg)?;
            let difference = |time_ns: i64| self.estimate(from, to, time_ns);
            let unseen = other.map_or_else(Unseen::default, |it| it.unseen(to));
            Some(course.way().leg(stops, unseen, difference))
        };
        let mut leg = LegStory {
            from: self.trail(first).hop,
            to: self.trail(second).hop,
            forward: way([forward, reverse], first, second),
            reverse: way([reverse, forward], second, first),
            ..LegStory::default()
        };
        if let (Some(forward), Some(reverse)) = (forward, reverse)
            && let (Some(onward), Some(back)) = (
                forward.stops([first, second]),
                reverse.stops([first, second]),
            )
        {
            let swapped = |[a, b]: [usize; 2]| [b, a];
            round_trips(&forward.way(), onward, &reverse.way(), back, &mut leg.rtt);
            let (back, onward) = (swapped(back), swapped(onward));
            round_trips(&reverse.way(), back, &forward.way(), onward, &mut leg.rtt);
        }
        leg
    }

    /// What differs between two members.
    fn rewrite(&self, first: usize, second: usize) -> Option<Rewrite> {
        let (a, b) = (self.trail(first), self.trail(second));
        let mut fields = Vec::new();
        let mut compare = |field: RewriteField, differs: bool| {
            if differs && !fields.contains(&field) {
                fields.push(field);
            }
        };
        let ends = (&a.ends, &b.ends);
        compare(
            RewriteField::ClientAddress,
            ends.0.client.address != ends.1.client.address,
        );
        compare(
            RewriteField::ClientPort,
            ends.0.client.port != ends.1.client.port,
        );
        compare(
            RewriteField::ServerAddress,
            ends.0.server.address != ends.1.server.address,
        );
        compare(
            RewriteField::ServerPort,
            ends.0.server.port != ends.1.server.port,
        );
        for side in [Side::Client, Side::Server] {
            if let (Some(x), Some(y)) = (a.syn.get(side), b.syn.get(side)) {
                compare(RewriteField::Mss, x.mss != y.mss);
                let scales = (x.window_scale_plus_one, y.window_scale_plus_one);
                compare(RewriteField::WindowScale, scales.0 != scales.1);
                compare(
                    RewriteField::SackPermitted,
                    x.sack_permitted != y.sack_permitted,
                );
                compare(
                    RewriteField::Timestamps,
                    x.has_timestamps != y.has_timestamps,
                );
            }
            if let (Some(x), Some(y)) = (a.initial.get(side), b.initial.get(side)) {
                compare(RewriteField::Sequence, x != y);
            }
        }
        (!fields.is_empty()).then_some(Rewrite {
            from: a.hop,
            to: b.hop,
            fields,
        })
    }

    /// The ways that packets took past the hops, the most frequent first.
    fn paths(&self, course: &Course<'_>, side: Side) -> Vec<PathCount> {
        let mut counts: BTreeMap<Vec<u32>, u64> = BTreeMap::new();
        let way = course.way();
        for journey in 0..course.journeys.len() {
            let has_arrived = course.fates.fates[journey] == Fate::Arrived;
            if has_arrived && course.fates.origins[journey] == Origin::Sent {
                let stops = course.journeys.stops(journey);
                let hops = stops.map(|stop| self.trail(course.members[stop]).hop);
                *counts.entry(hops.collect()).or_default() += way.weight(journey);
            }
        }
        let all: u64 = counts.values().sum();
        let mut paths: Vec<PathCount> = counts
            .into_iter()
            .filter(|(_, packets)| packets * PATH_SHARE >= all)
            .map(|(hops, packets)| PathCount {
                side,
                hops,
                packets,
            })
            .collect();
        paths.sort_by_key(|it| std::cmp::Reverse(it.packets));
        paths
    }
}

/// How much less than the least delay of one packet that of another may be, in nanoseconds; of
/// several, by their number less.
const FEW_DELAYS_NS: i64 = 20_000_000;

/// Members that follow each other on a way; where its packets were not followed, in its order.
fn legs(members: &[usize], course: Option<&Course<'_>>) -> Vec<[usize; 2]> {
    match course {
        Some(course) => course.legs().collect(),
        None => members.windows(2).map(|it| [it[0], it[1]]).collect(),
    }
}

/// The legs of both ways, the member nearer to the client first.
fn both_ways(mut onward: Vec<[usize; 2]>, back: &[[usize; 2]]) -> Vec<[usize; 2]> {
    let mut reversed: Vec<[usize; 2]> = back.iter().map(|[near, far]| [*far, *near]).collect();
    reversed.reverse();
    reversed.retain(|it| !onward.contains(it));
    onward.append(&mut reversed);
    onward
}

fn count_alignment(course: &Course<'_>, alignment: &mut Alignment) {
    let way = course.way();
    for journey in 0..course.journeys.len() {
        let weight = way.weight(journey);
        alignment.packets += weight;
        let is_told = !matches!(course.fates.origins[journey], Origin::Uncaptured { .. })
            && !matches!(
                course.fates.fates[journey],
                Fate::Open { .. } | Fate::Uncaptured { .. }
            );
        alignment.aligned += if is_told { weight } else { 0 };
    }
}

/// Positions that were acknowledged, and when each was first.
fn acknowledgements(items: &[Item], end: u64) -> Vec<(u64, i64)> {
    let mut list: Vec<(u64, i64)> = Vec::new();
    let is_believed = |it: &&Item| (1..=end).contains(&it.acknowledged);
    for item in items.iter().filter(is_believed) {
        if list.last().is_none_or(|last| last.0 < item.acknowledged) {
            list.push((item.acknowledged, item.time_ns));
        }
    }
    list
}

/// Payload of the longest segment at the stop where they are the shortest, of those that saw most
/// bytes.
fn segment_length(items: &[&[Item]]) -> u64 {
    let length = |it: &Item| it.end.saturating_sub(it.start);
    let bytes = |items: &[Item]| items.iter().map(length).fold(0, u64::saturating_add);
    let most = items.iter().map(|it| bytes(it)).max().unwrap_or(0);
    let telling = items.iter().filter(|it| bytes(it) >= most / 2);
    let payload = |it: &Item| u64::from(it.crossing.length);
    let longest = telling.filter_map(|it| it.iter().map(payload).max().filter(|it| *it > 0));
    longest.min().unwrap_or(1)
}
