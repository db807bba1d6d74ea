//! Connections that may end or begin at a proxy, and which exchanges may lie within one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use phalanx_common::packet::protocol;

use super::super::clock::{Clocks, Difference};
use super::super::conversation::StitchedConversation;
use super::super::exchange::{Exchange, Exchanges};
use super::super::proxy::ProxyLink;
use super::super::trail::{Crossing, Trail};
use crate::limits::{EXCHANGE_NESTED_COUNT_MAX, EXCHANGE_TOTAL_MAX};
use crate::side::Endpoint;

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
pub(super) struct Course<'a> {
    pub(super) conversation: usize,
    pub(super) trail: &'a Trail,
    pub(super) exchanges: Exchanges,
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
pub(super) struct Farther<'a> {
    pub(super) courses: Vec<Course<'a>>,
    /// By hop.
    places: BTreeMap<Place, BTreeMap<u32, Entries>>,
}

/// An exchange beyond that may lie within one on the client's side.
#[derive(Clone, Copy, Debug)]
pub(super) struct Nested {
    pub(super) far: usize,
    pub(super) exchange: usize,
    /// Whether clocks leave no doubt.
    pub(super) is_certain: bool,
    pub(super) clock: Difference,
}

/// Connections that may end at a proxy, and those that may begin at one. `None` where there are
/// more exchanges than are kept: what is not known might fit better.
pub(super) fn courses<'a>(
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

    pub(super) fn exchange(&self, nested: &Nested) -> &Exchange {
        &self.courses[nested.far].exchanges.list[nested.exchange]
    }

    /// The exchanges that may lie within one, in the order of their connections. `None` where there
    /// are too many to tell, or not all are known.
    pub(super) fn nested(
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
}

/// Whether one connection may go on in another. Where only the hop says so, hosts that any end is
/// the same of are other ones.
fn may_go_on(near: &Trail, far: &Trail) -> bool {
    let (near, far) = (near.ends, far.ends);
    near.server.address == far.client.address
        || (near.client.address != far.client.address && near.server.address != far.server.address)
}
