//! Proxies: conversations that are one exchange, since something between the hops ends one
//! connection and begins another. Told by content in both directions, and by its times: what the
//! client says is seen on the client's side first, what the server says on the server's. So whoever
//! fetches the same twice is no proxy. Where content does not tell, times alone may
//! ([`super::timing`]).

use std::collections::{BTreeMap, BTreeSet};

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use super::clock::Clocks;
use super::conversation::StitchedConversation;
use super::timing;
use super::trail::Trail;
use crate::limits::{CONTENT_HOLDER_COUNT_MAX, CONTENT_SHARED_COUNT_MIN};
use crate::side::Side;

/// Two conversations of one exchange.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ProxyLink {
    /// Their places among the conversations, that on the client's side first.
    pub conversations: [usize; 2],
    /// What tells it.
    pub basis: ProxyBasis,
}

/// What tells that two conversations are one exchange.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ProxyBasis {
    /// What they carry.
    Content {
        /// Chunks that both carry, in one order: from the client, and from the server.
        chunks: [u32; 2],
    },
    /// A hypothesis: exchanges of the one lie within those of the other.
    Timing {
        /// Exchanges of the conversation on the client's side that hold one of the other.
        exchanges: u32,
        /// How sure it is, from 0 to 1; 0.5 at most.
        confidence: f64,
    },
}

/// Two conversations that carry the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ContentLink {
    /// That on the client's side first.
    conversations: [usize; 2],
    /// From the client, and from the server.
    chunks: [u32; 2],
}

/// Finds conversations that are one exchange, by content, and by times where that does not tell.
pub(super) fn link(
    conversations: &[StitchedConversation],
    trails: &[Trail],
    clocks: &Clocks,
) -> Vec<ProxyLink> {
    let groups: Vec<&[usize]> = conversations.iter().map(|it| &it.flows[..]).collect();
    let mut links = link_by_content(&groups, trails, clocks);
    let hypotheses = timing::link(conversations, trails, clocks, &links);
    links.extend(hypotheses);
    links.sort_by_key(|it| it.conversations);
    links
}

/// A chunk that two conversations share.
#[derive(Clone, Copy, Debug)]
struct Common {
    /// Places in both.
    places: (u32, u32),
    /// How much later it was seen in the second, in nanoseconds, and what that may be off by.
    later_ns: (f64, f64),
}

/// Chunks that two conversations share, by side.
type Shared = BTreeMap<(usize, usize), [Vec<Common>; 2]>;

/// Finds conversations that carry the content of one another; `groups` are the trails of each. Of a
/// chain of proxies each pair of neighbours is told. Where several may be meant, none is.
pub(super) fn link_by_content(
    groups: &[&[usize]],
    trails: &[Trail],
    clocks: &Clocks,
) -> Vec<ProxyLink> {
    let mut links: Vec<ContentLink> = Vec::new();
    for ((a, b), sides) in share(groups, trails, clocks) {
        if !are_siblings([groups[a], groups[b]], trails) {
            links.extend(directed([a, b], &sides));
        }
    }
    skip_ends_of_chains(&mut links);
    let mut told = match_best(links);
    break_circles(&mut told, groups, trails);
    let told = told.iter().map(|it| ProxyLink {
        conversations: it.conversations,
        basis: ProxyBasis::Content { chunks: it.chunks },
    });
    told.collect()
}

/// A chain does not come to one server twice: of one that seems to, only those links stand that go
/// on from the host that the one before went to.
fn break_circles(links: &mut Vec<ContentLink>, groups: &[&[usize]], trails: &[Trail]) {
    let onward: BTreeMap<usize, usize> = links
        .iter()
        .map(|it| (it.conversations[0], it.conversations[1]))
        .collect();
    let reached: BTreeSet<usize> = onward.values().copied().collect();
    let mut doubted: BTreeSet<usize> = BTreeSet::new();
    for first in onward.keys().filter(|it| !reached.contains(it)) {
        let chain: Vec<usize> =
            std::iter::successors(Some(*first), |it| onward.get(it).copied()).collect();
        let servers = || {
            let members = chain.iter().flat_map(|it| groups[*it]);
            members.map(|it| (trails[*it].hop, trails[*it].ends.server))
        };
        if servers().collect::<BTreeSet<_>>().len() < servers().count() {
            doubted.extend(chain);
        }
    }
    links.retain(|link| {
        let [near, far] = link.conversations.map(|it| groups[it]);
        let goes_on = near.iter().any(|a| {
            let host = trails[*a].ends.server.address;
            far.iter().any(|b| trails[*b].ends.client.address == host)
        });
        goes_on || !doubted.contains(&link.conversations[0])
    });
}

/// Whether two conversations go to the same server and port past the same hop: then none is the
/// other's beyond a proxy, which would go to itself.
pub(super) fn are_siblings(groups: [&[usize]; 2], trails: &[Trail]) -> bool {
    let there = |it: &usize| (trails[*it].hop, trails[*it].ends.server);
    let first = groups[0].iter().map(there);
    first
        .into_iter()
        .any(|here| groups[1].iter().any(|other| there(other) == here))
}

/// The two with the one nearer to the client first: what the client says is seen first there, and
/// what the server says last.
fn directed([a, b]: [usize; 2], sides: &[Vec<Common>; 2]) -> Option<ContentLink> {
    let shared_count = sides[0].len() + sides[1].len();
    let passing = |conversations: [usize; 2]| {
        let is_first = conversations[0] == a;
        let passes = |side: Side| {
            let mine = sides[side as usize].iter().filter(|it| {
                let (later_ns, error_ns) = it.later_ns;
                let is_onward = (side == Side::Client) == is_first;
                let passed_ns = if is_onward { later_ns } else { -later_ns };
                passed_ns >= -error_ns
            });
            longest_rise(mine.map(|it| it.places))
        };
        let chunks = [passes(Side::Client), passes(Side::Server)];
        let total = chunks[0] + chunks[1];
        let is_telling = chunks.iter().all(|it| *it > 0)
            && total >= CONTENT_SHARED_COUNT_MIN
            && 2 * total as usize > shared_count;
        is_telling.then_some(ContentLink {
            conversations,
            chunks,
        })
    };
    // Where the bounds of the clocks allow both, what is likelier comes first.
    let later = |side: Side| -> f64 { sides[side as usize].iter().map(|it| it.later_ns.0).sum() };
    let is_likely = later(Side::Client) - later(Side::Server) >= 0.0;
    let order = if is_likely {
        [[a, b], [b, a]]
    } else {
        [[b, a], [a, b]]
    };
    order.into_iter().find_map(passing)
}

fn total(link: &ContentLink) -> u32 {
    link.chunks[0] + link.chunks[1]
}

/// Leaves links out that others lead around: the two ends of a chain are no neighbours.
fn skip_ends_of_chains(links: &mut Vec<ContentLink>) {
    let mut onward: BTreeMap<usize, BTreeMap<usize, u32>> = BTreeMap::new();
    for link in links.iter() {
        let [from, to] = link.conversations;
        onward.entry(from).or_default().insert(to, total(link));
    }
    links.retain(|link| {
        let [from, to] = link.conversations;
        let between = onward.get(&from).into_iter().flatten();
        let is_led_around = |(middle, first): (&usize, &u32)| {
            let second = onward.get(middle).and_then(|it| it.get(&to));
            second.is_some_and(|second| *first.min(second) >= total(link))
        };
        !between.filter(|it| *it.0 != to).any(is_led_around)
    });
}

/// An end of a link: whether it is the one nearer to the server, and the conversation.
pub(super) type End = (bool, usize);

fn ends(link: &ContentLink) -> [End; 2] {
    let [near, far] = link.conversations;
    [(false, near), (true, far)]
}

/// The best links of each conversation to either side, where it is clear which belong together.
fn match_best(mut links: Vec<ContentLink>) -> Vec<ContentLink> {
    links.sort_by_key(|it| (std::cmp::Reverse(total(it)), it.conversations));
    let mut told: Vec<ContentLink> = Vec::new();
    let mut taken: BTreeSet<End> = BTreeSet::new();
    for equals in links.chunk_by(|a, b| total(a) == total(b)) {
        let mut partners: BTreeMap<End, BTreeSet<End>> = BTreeMap::new();
        for link in equals {
            let [near, far] = ends(link);
            if !taken.contains(&near) && !taken.contains(&far) {
                partners.entry(near).or_default().insert(far);
                partners.entry(far).or_default().insert(near);
            }
        }
        taken.extend(partners.keys());
        let pairs = pair_up(&partners);
        let is_told = |link: &&ContentLink| {
            let [near, far] = ends(link);
            pairs.get(&near) == Some(&far)
        };
        told.extend(equals.iter().filter(is_told));
    }
    told.sort_by_key(|it| it.conversations);
    told
}

/// Pairs up what belongs together, where there is one way alone to give each a partner: whoever has
/// one alone gets it, again and again. Where somebody is left without, nothing is told of all that
/// hang together.
pub(super) fn pair_up(partners: &BTreeMap<End, BTreeSet<End>>) -> BTreeMap<End, End> {
    let mut left = partners.clone();
    let mut pairs: BTreeMap<End, End> = BTreeMap::new();
    let mut waiting: Vec<End> = partners.keys().copied().collect();
    while let Some(end) = waiting.pop() {
        let only = left.get(&end).filter(|it| it.len() == 1);
        let Some(partner) = only.and_then(|it| it.first().copied()) else {
            continue;
        };
        pairs.extend([(end, partner), (partner, end)]);
        left.remove(&end);
        for other in left.remove(&partner).unwrap_or_default() {
            if let Some(theirs) = left.get_mut(&other) {
                theirs.remove(&partner);
                waiting.push(other);
            }
        }
    }
    // All that hang together with somebody who has nobody.
    let lonely = partners.keys().filter(|it| !pairs.contains_key(it));
    let mut waiting: Vec<End> = lonely.copied().collect();
    let mut seen: BTreeSet<End> = waiting.iter().copied().collect();
    while let Some(end) = waiting.pop() {
        pairs.remove(&end);
        for other in partners.get(&end).into_iter().flatten() {
            if seen.insert(*other) {
                waiting.push(*other);
            }
        }
    }
    pairs
}

fn share(groups: &[&[usize]], trails: &[Trail], clocks: &Clocks) -> Shared {
    // Conversation, place of the chunk, hop, time.
    type Holder = (usize, u32, u32, i64);
    let mut holders: HashMap<(u64, Side), Vec<Holder>, FixedState> = HashMap::default();
    for (group, members) in groups.iter().enumerate() {
        let fullest = members.iter().max_by_key(|it| trails[**it].content.count());
        let Some(trail) = fullest.map(|it| &trails[*it]) else {
            continue;
        };
        for side in [Side::Client, Side::Server] {
            for (place, chunk) in (0..).zip(trail.content.chunks(side)) {
                let list = holders.entry((chunk.hash, side)).or_default();
                if list.len() <= CONTENT_HOLDER_COUNT_MAX {
                    list.push((group, place, trail.hop, chunk.time_ns));
                }
            }
        }
    }
    let mut shared = Shared::new();
    for ((_, side), list) in holders {
        if list.len() > CONTENT_HOLDER_COUNT_MAX {
            continue;
        }
        for (index, one) in list.iter().enumerate() {
            for other in list.iter().skip(index + 1).filter(|it| it.0 != one.0) {
                let (first, second) = if one.0 < other.0 {
                    (one, other)
                } else {
                    (other, one)
                };
                // Without their clocks nothing is told.
                let Some(difference) = clocks.difference(first.2, second.2, first.3) else {
                    continue;
                };
                let later_ns = second.3.saturating_sub(first.3) as f64 - difference.ahead_ns;
                let common = Common {
                    places: (first.1, second.1),
                    later_ns: (later_ns, difference.error_ns()),
                };
                let pair = (first.0, second.0);
                shared.entry(pair).or_default()[side as usize].push(common);
            }
        }
    }
    shared
}

/// Pairs of places that rise in both: the longest chain.
fn longest_rise(pairs: impl Iterator<Item = (u32, u32)>) -> u32 {
    let mut pairs: Vec<(u32, u32)> = pairs.collect();
    pairs.sort_unstable_by_key(|it| (it.0, std::cmp::Reverse(it.1)));
    // The least end of a chain of each length.
    let mut ends: Vec<u32> = Vec::new();
    for (_, place) in pairs {
        let at = ends.partition_point(|end| *end < place);
        match ends.get_mut(at) {
            Some(end) => *end = place,
            None => ends.push(place),
        }
    }
    ends.len() as u32
}
