//! Proxies told by times alone, where headers are all that was captured: the exchanges of one
//! connection lie within those of another, one in each, and the first one's client is the host
//! that the other one's server is. That is a hypothesis (METHODS K7); content goes before it.
//!
//! Each exchange that is nested by chance is as likely as the proxy's own time is a part of the
//! time between two requests. What speaks against a pair, or as much for another one, leaves both
//! untold: an exchange of the farther connection that lies elsewhere, as in a pool that serves many
//! clients; a second connection that fits half as often.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::clock::{Clocks, Difference};
use super::conversation::StitchedConversation;
use super::exchange::{Exchange, Exchanges};
use super::proxy::{End, ProxyBasis, ProxyLink, are_siblings, pair_up};
use super::trail::{Crossing, Trail};
use crate::limits::{
    EXCHANGE_CLUSTER_COUNT_MAX, EXCHANGE_NESTED_COUNT_MAX, EXCHANGE_PAIR_COUNT_MAX,
    EXCHANGE_TOTAL_MAX,
};
use crate::side::Endpoint;
use phalanx_common::packet::protocol;

/// Fewest nested exchanges that tell by themselves.
const COUNT_MIN: u32 = 3;

/// The same where not the addresses but the hop alone says that both are the proxy's.
const HOP_COUNT_MIN: u32 = 8;

/// Exchanges that a connection may have for itself: two of a TLS handshake.
const HANDSHAKE_COUNT: u32 = 2;

/// Least evidence, as a logarithm of the odds: once in a thousand by chance.
const EVIDENCE_MIN: f64 = 6.9;

/// Evidence from which on nothing is added, and the confidence then: what METHODS section 4 gives
/// a heuristic at most.
const EVIDENCE_FULL: f64 = 20.0;
const CONFIDENCE_MAX: f64 = 0.5;

/// Confidence in a single exchange.
const CONFIDENCE_SINGLE: f64 = 0.2;

/// Least share of chance that one exchange counts with, since requests may come in step.
const SHARE_MIN: f64 = 1.0 / 16.0;

/// The same of an exchange that others fit but for those that are needed elsewhere.
const SHARE_MIN_AMONG: f64 = 1.0 / 2.0;

/// Of so many exchanges the proxy may have answered one by itself.
const OWN_PART: u32 = 8;

/// Of so many exchanges one may be another's.
const DOUBTED_PART: u32 = 16;

/// What tells connections of one proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    /// Its address.
    Address(IpAddr),
    /// A hop that no router lies in front of.
    Hop(u32),
}

/// A connection at the hop nearest to the proxy.
#[derive(Debug)]
struct Course<'a> {
    conversation: usize,
    trail: &'a Trail,
    exchanges: Exchanges,
}

/// An exchange beyond the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    /// First packet of its request.
    start_ns: i64,
    far: usize,
    exchange: usize,
}

/// Exchanges beyond a proxy that one hop saw.
#[derive(Debug)]
struct Entries {
    /// In the order of time.
    list: Vec<Entry>,
    /// From then on some are not known.
    until_ns: i64,
}

/// Connections beyond proxies.
#[derive(Debug)]
struct Farther<'a> {
    courses: Vec<Course<'a>>,
    /// By hop.
    places: BTreeMap<Place, BTreeMap<u32, Entries>>,
}

/// An exchange beyond that may lie within one on the client's side.
#[derive(Clone, Copy, Debug)]
struct Nested {
    far: usize,
    exchange: usize,
    /// Whether clocks leave no doubt.
    is_certain: bool,
    clock: Difference,
}

/// What two connections have in common.
#[derive(Clone, Debug, Default)]
struct Tally {
    /// Exchanges of the nearer one before the first that holds one of the farther.
    before: u32,
    /// Exchanges of the nearer one that hold one of the farther beyond doubt.
    holding: u32,
    /// Exchanges of the farther one that are held so.
    held: u32,
    /// Exchanges of the nearer one that can hold no other.
    assigned: u32,
    /// Of these, those that hold nobody else's, and that nobody else may hold.
    alone: u32,
    /// Of those that hold one, those whose sizes are alike.
    alike: u32,
    /// Logarithm of the odds against chance.
    evidence: f64,
    /// Places of the last one: in the nearer connection, and the last within it.
    last: Option<(usize, Nested)>,
}

/// What a connection on the client's side has in common with those beyond.
#[derive(Debug, Default)]
struct Tallies {
    by_far: BTreeMap<usize, Tally>,
    /// Its exchanges that may hold one of anybody.
    holding: u32,
}

/// Which exchanges may belong together, and which do. Exchanges have numbers across all connections
/// of a side.
#[derive(Debug)]
struct Matching {
    /// Number of the first exchange of each connection, on the client's side and beyond.
    firsts: [Vec<usize>; 2],
    /// Of each exchange beyond: how many on the client's side may hold it, two at most.
    holder_counts: Vec<u8>,
    /// Of each exchange on the client's side: the one beyond that alone is left for it.
    assigned: Vec<Option<usize>>,
}

/// Two connections that fit.
#[derive(Clone, Copy, Debug)]
struct Fit {
    near: usize,
    far: usize,
    exchanges: u32,
    confidence: f64,
}

/// Finds the conversations on both sides of proxies by their times; `linked` are those of which
/// content tells.
pub(super) fn link(
    conversations: &[StitchedConversation],
    trails: &[Trail],
    clocks: &Clocks,
    linked: &[ProxyLink],
) -> Vec<ProxyLink> {
    let Some((near, farther)) = courses(conversations, trails, linked) else {
        return Vec::new();
    };
    let Some(matching) = Matching::of(&near, &farther, clocks) else {
        return Vec::new();
    };
    let fit = |near: (usize, &Course<'_>)| {
        let tallies = farther.tallies(near, &matching, clocks);
        farther.best(near, &tallies)
    };
    let mut fits: Vec<Fit> = near.iter().enumerate().filter_map(fit).collect();
    let devotion = devotion(&farther.courses, &matching);
    fits.retain(|fit| {
        let is_devoted = fit.exchanges >= COUNT_MIN || {
            let (held, all) = devotion[&service(&farther.courses[fit.far])];
            8 * held >= 7 * all
        };
        let pair = [&near[fit.near], &farther.courses[fit.far]].map(|it| it.conversation);
        let members = pair.map(|it| &conversations[it].flows[..]);
        is_devoted && !are_siblings(members, trails)
    });
    let told = fits.iter().map(|fit| ProxyLink {
        conversations: [
            near[fit.near].conversation,
            farther.courses[fit.far].conversation,
        ],
        basis: ProxyBasis::Timing {
            exchanges: fit.exchanges,
            confidence: fit.confidence,
        },
    });
    told.collect()
}

/// Who asks whom beyond the proxy.
fn service(course: &Course<'_>) -> (IpAddr, Endpoint) {
    let ends = course.trail.ends;
    (ends.client.address, ends.server)
}

/// By service: connections that somebody holds an exchange of, and all. A host that asks a service
/// on its own account as well may do so at any time.
fn devotion(
    courses: &[Course<'_>],
    matching: &Matching,
) -> BTreeMap<(IpAddr, Endpoint), (usize, usize)> {
    let mut services: BTreeMap<_, (usize, usize)> = BTreeMap::new();
    for (course, first) in courses.iter().zip(&matching.firsts[1]) {
        let own = &matching.holder_counts[*first..first + course.exchanges.list.len()];
        let counts = services.entry(service(course)).or_default();
        counts.0 += usize::from(own.iter().any(|it| *it > 0));
        counts.1 += 1;
    }
    services
}

/// Connections that may end at a proxy, and those that may begin at one. `None` where there are
/// more exchanges than are kept: what is not known might fit better.
fn courses<'a>(
    conversations: &[StitchedConversation],
    trails: &'a [Trail],
    linked: &[ProxyLink],
) -> Option<(Vec<Course<'a>>, Farther<'a>)> {
    let taken =
        |end: usize| -> BTreeSet<usize> { linked.iter().map(|it| it.conversations[end]).collect() };
    let (near_taken, far_taken) = (taken(0), taken(1));
    let mut near: Vec<(usize, &Trail)> = Vec::new();
    let mut far: Vec<(usize, &Trail)> = Vec::new();
    for (index, conversation) in conversations.iter().enumerate() {
        let at = |hop: &u32| {
            let mut flows = conversation.flows.iter().map(|it| &trails[*it]);
            flows.find(|it| it.hop == *hop && speaks_both_ways(it))
        };
        if !near_taken.contains(&index) {
            let nearest = conversation.path.iter().rev().find_map(at);
            near.extend(nearest.map(|it| (index, it)));
        }
        if !far_taken.contains(&index) {
            let nearest = conversation.path.iter().find_map(at);
            far.extend(nearest.map(|it| (index, it)));
        }
    }
    let places = |of: &[(usize, &Trail)], side: fn(&Trail) -> Vec<Place>| -> BTreeSet<Place> {
        of.iter().flat_map(|it| side(it.1)).collect()
    };
    let (ending, beginning) = (places(&near, server_places), places(&far, client_places));
    near.retain(|it| server_places(it.1).iter().any(|it| beginning.contains(it)));
    far.retain(|it| client_places(it.1).iter().any(|it| ending.contains(it)));
    let mut total = 0;
    let mut follow = |of: Vec<(usize, &'a Trail)>| -> Option<Vec<Course<'a>>> {
        let mut courses = Vec::new();
        for (conversation, trail) in of {
            let exchanges = Exchanges::of(trail);
            total += exchanges.list.len();
            if total > EXCHANGE_TOTAL_MAX {
                return None;
            }
            if !exchanges.list.is_empty() {
                courses.push(Course {
                    conversation,
                    trail,
                    exchanges,
                });
            }
        }
        Some(courses)
    };
    let near = follow(near)?;
    Some((near, Farther::of(follow(far)?)))
}

fn speaks_both_ways(trail: &Trail) -> bool {
    let speaks = |of: &[Crossing]| of.iter().any(|it| it.length > 0);
    let (client, server) = (&trail.crossings.client, &trail.crossings.server);
    trail.protocol == protocol::TCP && speaks(client) && speaks(server)
}

/// Where a connection ends.
fn server_places(trail: &Trail) -> Vec<Place> {
    places(trail, &trail.ends.server, &trail.crossings.server)
}

/// Where a connection begins.
fn client_places(trail: &Trail) -> Vec<Place> {
    places(trail, &trail.ends.client, &trail.crossings.client)
}

fn places(trail: &Trail, end: &Endpoint, sent: &[Crossing]) -> Vec<Place> {
    let here = Place::Hop(trail.hop);
    if end.is_scoped() {
        return vec![here];
    }
    // What hosts send packets with; no router has taken anything off.
    let is_whole = |it: &Crossing| matches!(it.ttl, 32 | 64 | 128 | 255);
    let is_local = sent.first().is_some_and(is_whole);
    let address = Place::Address(end.address);
    std::iter::once(address)
        .chain(is_local.then_some(here))
        .collect()
}

impl<'a> Farther<'a> {
    fn of(courses: Vec<Course<'a>>) -> Self {
        let mut places: BTreeMap<Place, BTreeMap<u32, Entries>> = BTreeMap::new();
        for (far, course) in courses.iter().enumerate() {
            let exchanges = &course.exchanges;
            let entries = || {
                let starts = exchanges.list.iter().map(|it| it.request.first_ns);
                starts.enumerate().map(|(exchange, start_ns)| Entry {
                    start_ns,
                    far,
                    exchange,
                })
            };
            for place in client_places(course.trail) {
                let hops = places.entry(place).or_default();
                let kept = hops.entry(course.trail.hop).or_insert_with(|| Entries {
                    list: Vec::new(),
                    until_ns: i64::MAX,
                });
                kept.list.extend(entries());
                if let Some(last) = exchanges.list.last().filter(|_| exchanges.is_cut) {
                    kept.until_ns = kept.until_ns.min(last.request.first_ns);
                }
            }
        }
        for entries in places.values_mut().flat_map(BTreeMap::values_mut) {
            entries.list.sort_unstable();
        }
        Self { courses, places }
    }

    fn exchange(&self, nested: &Nested) -> &Exchange {
        &self.courses[nested.far].exchanges.list[nested.exchange]
    }

    /// What each of these connections has in common with one on the client's side.
    fn tallies(
        &self,
        (near, course): (usize, &Course<'_>),
        matching: &Matching,
        clocks: &Clocks,
    ) -> Tallies {
        let mut tallies = Tallies::default();
        for (place, exchange) in course.exchanges.list.iter().enumerate() {
            let Some(nested) = self.nested(course, exchange, clocks) else {
                tallies.holding += 1;
                continue;
            };
            tallies.holding += u32::from(!nested.is_empty());
            let is_one = nested.iter().all(|it| it.far == nested[0].far);
            for few in nested.chunk_by(|a, b| a.far == b.far) {
                let certain = || few.iter().filter(|it| it.is_certain);
                let (Some(first), Some(last)) = (certain().next(), certain().next_back()) else {
                    continue;
                };
                let tally = tallies.by_far.entry(last.far).or_default();
                if tally.holding == 0 {
                    tally.before = place as u32;
                }
                tally.holding += 1;
                tally.held += certain().count() as u32;
                tally.last = Some((place, *last));
                let pair = [self.exchange(first), self.exchange(last)];
                tally.alike += u32::from(are_alike(exchange, pair[1], (512, 4)));
                if !matching.assigns((near, place), last) {
                    continue;
                }
                tally.assigned += 1;
                let is_alone = is_one && few.iter().all(|it| matching.holder_count(it) == 1);
                tally.alone += u32::from(is_alone);
                let least = if is_alone { SHARE_MIN } else { SHARE_MIN_AMONG };
                let share = chance(course, place, pair, last.clock);
                tally.evidence -= share.clamp(least, 1.0).ln();
            }
        }
        tallies
    }

    /// The exchanges that may lie within one, in the order of their connections. `None` where there
    /// are too many to tell, or not all are known.
    fn nested(
        &self,
        course: &Course<'_>,
        outer: &Exchange,
        clocks: &Clocks,
    ) -> Option<Vec<Nested>> {
        let mut nested: Vec<Nested> = Vec::new();
        let hops = server_places(course.trail);
        let hops = hops.iter().filter_map(|it| self.places.get(it)).flatten();
        for (hop, entries) in hops {
            let (asked_ns, answered_ns) = (outer.request.first_ns, outer.response.first_ns);
            let Some(clock) = clocks.difference(course.trail.hop, *hop, asked_ns) else {
                continue;
            };
            let there = |time_ns: i64, more_ns: f64| {
                time_ns.saturating_add((clock.ahead_ns + more_ns) as i64)
            };
            let error_ns = clock.error_ns();
            let (from_ns, to_ns) = (there(asked_ns, -error_ns), there(answered_ns, error_ns));
            if to_ns >= entries.until_ns {
                return None;
            }
            let first = entries.list.partition_point(|it| it.start_ns < from_ns);
            let within = entries.list[first..].iter();
            for (index, entry) in within.take_while(|it| it.start_ns <= to_ns).enumerate() {
                if index == EXCHANGE_NESTED_COUNT_MAX {
                    return None;
                }
                let inner = &self.courses[entry.far].exchanges.list[entry.exchange];
                if inner.response.first_ns > to_ns
                    || inner.request.last_ns < there(outer.request.last_ns, -error_ns)
                    || !may_go_on(course.trail, self.courses[entry.far].trail)
                {
                    continue;
                }
                nested.push(Nested {
                    far: entry.far,
                    exchange: entry.exchange,
                    is_certain: inner.request.first_ns >= there(asked_ns, error_ns)
                        && inner.response.first_ns <= there(answered_ns, -error_ns),
                    clock,
                });
            }
        }
        nested.sort_unstable_by_key(|it| (it.far, it.exchange));
        nested.dedup_by_key(|it| (it.far, it.exchange));
        Some(nested)
    }

    /// The connection that one on the client's side goes on in: no more than one in sixteen
    /// exchanges may be another's.
    fn best(&self, (near, course): (usize, &Course<'_>), tallies: &Tallies) -> Option<Fit> {
        // As many as there are might have fitted by chance.
        let doubt = (tallies.by_far.len().max(1) as f64).ln();
        let is_its =
            |tally: &Tally| DOUBTED_PART * (tallies.holding - tally.assigned) <= tallies.holding;
        let (far, tally) = tallies.by_far.iter().find(|it| is_its(it.1))?;
        let beyond = &self.courses[*far];
        Some(Fit {
            near,
            far: *far,
            exchanges: tally.holding,
            confidence: self.confidence(course, beyond, tally, doubt)?,
        })
    }

    /// How sure it is that one connection goes on in another, if it may be.
    fn confidence(
        &self,
        near: &Course<'_>,
        far: &Course<'_>,
        tally: &Tally,
        doubt: f64,
    ) -> Option<f64> {
        let all = near.exchanges.list.len() as u32;
        let handshake = tally.before.min(HANDSHAKE_COUNT);
        let fits = !near.exchanges.is_cut
            && !far.exchanges.is_cut
            && tally.held == far.exchanges.list.len() as u32
            && tally.held - tally.holding <= HANDSHAKE_COUNT
            && OWN_PART * (all - tally.holding - handshake) <= all
            && 4 * tally.alike >= 3 * tally.holding;
        if !fits {
            return None;
        }
        let is_addressed = has_one_address(near.trail, far.trail);
        if tally.holding < COUNT_MIN {
            let is_alone = tally.alone == tally.holding;
            return (is_addressed && is_alone && self.is_one_life(near, far, tally))
                .then_some(CONFIDENCE_SINGLE);
        }
        let evidence = tally.evidence - doubt;
        let share = if is_addressed { 1.0 } else { 0.5 };
        (evidence >= EVIDENCE_MIN && (is_addressed || tally.holding >= HOP_COUNT_MIN))
            .then_some(share * CONFIDENCE_MAX * (evidence / EVIDENCE_FULL).min(1.0))
    }

    /// Whether one connection lives within the other, for exchanges of the same sizes, and the
    /// proxy took the lesser part of the time.
    fn is_one_life(&self, near: &Course<'_>, far: &Course<'_>, tally: &Tally) -> bool {
        let lives = near.exchanges.life_ns.zip(far.exchanges.life_ns);
        let (Some((outer_life, inner_life)), Some((place, last))) = (lives, &tally.last) else {
            return false;
        };
        let (outer, inner) = (&near.exchanges.list[*place], self.exchange(last));
        // By the clock on the client's side, and what is left of it beyond doubt.
        let here = |time_ns: i64| time_ns.saturating_sub(last.clock.ahead_ns as i64);
        let error_ns = last.clock.error_ns() as i64;
        let (opened_ns, ended_ns) = (here(inner_life.0), here(inner_life.1));
        let is_within = opened_ns.saturating_sub(error_ns) >= outer_life.0
            && ended_ns.saturating_add(error_ns) <= outer_life.1;
        // A proxy connects when its client does, or when that asks.
        let begun_ns = if opened_ns < outer.request.first_ns {
            outer_life.0
        } else {
            outer.request.first_ns
        };
        let answered_ns = outer.response.first_ns;
        let beyond_ns = here(inner.response.first_ns).saturating_sub(opened_ns);
        let all_ns = answered_ns.saturating_sub(begun_ns);
        is_within && 2 * beyond_ns.max(0) >= all_ns && are_alike(outer, inner, (256, 8))
    }
}

impl Matching {
    /// Finds who belongs together where that is clear. `None` where there is more than is compared.
    fn of(near: &[Course<'_>], farther: &Farther<'_>, clocks: &Clocks) -> Option<Self> {
        let (near_firsts, near_count) = numbers(near);
        let (far_firsts, far_count) = numbers(&farther.courses);
        let mut matching = Self {
            firsts: [near_firsts, far_firsts],
            holder_counts: vec![0; far_count],
            assigned: vec![None; near_count],
        };
        let mut pairs: Vec<[usize; 2]> = Vec::new();
        for (index, course) in near.iter().enumerate() {
            for (place, exchange) in course.exchanges.list.iter().enumerate() {
                let nested = farther.nested(course, exchange, clocks).unwrap_or_default();
                for few in nested.chunk_by(|a, b| a.far == b.far) {
                    for one in few {
                        let count =
                            &mut matching.holder_counts[matching.firsts[1][one.far] + one.exchange];
                        *count = (*count + 1).min(2);
                    }
                    // Those before it are its connection's own.
                    if let Some(last) = few.last() {
                        let far = matching.firsts[1][last.far] + last.exchange;
                        pairs.push([matching.firsts[0][index] + place, far]);
                    }
                }
                if pairs.len() > EXCHANGE_PAIR_COUNT_MAX {
                    return None;
                }
            }
        }
        matching.assign(pairs);
        Some(matching)
    }

    /// Assigns exchanges, each cluster of those that hang together by itself.
    fn assign(&mut self, pairs: Vec<[usize; 2]>) {
        let near_count = self.assigned.len();
        let mut clusters = Clusters::new(near_count + self.holder_counts.len());
        for [near, far] in &pairs {
            clusters.join(*near, near_count + far);
        }
        let mut numbered: Vec<(usize, [usize; 2])> = pairs
            .into_iter()
            .map(|it| (clusters.of(it[0]), it))
            .collect();
        numbered.sort_unstable();
        for cluster in numbered.chunk_by(|a, b| a.0 == b.0) {
            if let [(_, [near, far])] = cluster {
                self.assigned[*near] = Some(*far);
            } else if cluster.len() <= EXCHANGE_CLUSTER_COUNT_MAX {
                let mut partners: BTreeMap<End, BTreeSet<End>> = BTreeMap::new();
                for (_, [near, far]) in cluster {
                    let (near, far) = ((false, *near), (true, *far));
                    partners.entry(near).or_default().insert(far);
                    partners.entry(far).or_default().insert(near);
                }
                for (near, far) in pair_up(&partners).iter().filter(|it| !it.0.0) {
                    self.assigned[near.1] = Some(far.1);
                }
            }
        }
    }

    /// Whether an exchange, by connection and place, has this one beyond.
    fn assigns(&self, (near, place): (usize, usize), nested: &Nested) -> bool {
        let far = self.firsts[1][nested.far] + nested.exchange;
        self.assigned[self.firsts[0][near] + place] == Some(far)
    }

    fn holder_count(&self, nested: &Nested) -> u8 {
        self.holder_counts[self.firsts[1][nested.far] + nested.exchange]
    }
}

/// The number of the first exchange of each connection, and how many there are.
fn numbers(courses: &[Course<'_>]) -> (Vec<usize>, usize) {
    let mut count = 0;
    let mut number = |it: &Course<'_>| {
        count += it.exchanges.list.len();
        count - it.exchanges.list.len()
    };
    let firsts = courses.iter().map(&mut number).collect();
    (firsts, count)
}

/// Things that hang together (union-find, with path halving).
#[derive(Debug)]
struct Clusters {
    parents: Vec<usize>,
}

impl Clusters {
    fn new(count: usize) -> Self {
        Self {
            parents: (0..count).collect(),
        }
    }

    fn of(&mut self, mut it: usize) -> usize {
        while self.parents[it] != it {
            self.parents[it] = self.parents[self.parents[it]];
            it = self.parents[it];
        }
        it
    }

    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.of(a), self.of(b));
        self.parents[a.max(b)] = a.min(b);
    }
}

/// How likely it is that an exchange lies so within one of a connection by chance: the time that is
/// left, as a part of that between two requests.
fn chance(course: &Course<'_>, place: usize, inner: [&Exchange; 2], clock: Difference) -> f64 {
    let list = &course.exchanges.list;
    let outer = &list[place];
    let start = |it: usize| list.get(it).map(|it| it.request.first_ns);
    let before = place.checked_sub(1).and_then(start);
    let (from_ns, to_ns) = match (before, start(place + 1)) {
        (_, Some(next)) => (outer.request.first_ns, next),
        (Some(before), None) => (before, outer.request.first_ns),
        (None, None) => (outer.request.first_ns, outer.response.first_ns),
    };
    let [first, last] = inner;
    let whole_ns = outer.response.first_ns as f64 - outer.request.first_ns as f64;
    let beyond_ns = last.response.first_ns as f64 - first.request.first_ns as f64;
    let left_ns = whole_ns - beyond_ns + 2.0 * clock.error_ns();
    left_ns / (to_ns as f64 - from_ns as f64).max(1.0)
}

/// Whether the sizes of two exchanges differ by so many bytes and a part of the larger at most.
fn are_alike(a: &Exchange, b: &Exchange, (bytes, part): (u64, u64)) -> bool {
    let are_near = |a: u64, b: u64| a.abs_diff(b) <= bytes + a.max(b) / part;
    are_near(a.request.bytes, b.request.bytes) && are_near(a.response.bytes, b.response.bytes)
}

/// Whether the host that one connection goes to is, by its address, the one that another comes from.
fn has_one_address(near: &Trail, far: &Trail) -> bool {
    let (server, client) = (near.ends.server, far.ends.client);
    server.address == client.address && !server.is_scoped()
}

/// Whether one connection may go on in another. Where only the hop says so, hosts that any end is
/// the same of are other ones.
fn may_go_on(near: &Trail, far: &Trail) -> bool {
    let (near, far) = (near.ends, far.ends);
    near.server.address == far.client.address
        || (near.client.address != far.client.address && near.server.address != far.server.address)
}
