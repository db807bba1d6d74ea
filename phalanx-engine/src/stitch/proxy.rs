//! Proxies: conversations that carry the same content, since something between the hops ends one
//! connection and begins another. Told by content in both directions, and by its times: what the
//! client says is seen on the client's side first, what the server says on the server's. So whoever
//! fetches the same twice is no proxy.

use std::collections::BTreeMap;

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use super::clock::Clocks;
use super::trail::Trail;
use crate::limits::{CONTENT_HOLDER_COUNT_MAX, CONTENT_SHARED_COUNT_MIN};
use crate::side::Side;

/// Two conversations of one exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxyLink {
    /// Their places among the conversations, that on the client's side first.
    pub conversations: [usize; 2],
    /// Chunks that both carry, in one order: from the client, and from the server.
    pub chunks: [u32; 2],
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

/// Finds conversations that carry the content of one another; `groups` are the trails of each.
pub(super) fn link(groups: &[&[usize]], trails: &[Trail], clocks: &Clocks) -> Vec<ProxyLink> {
    let mut links: Vec<ProxyLink> = Vec::new();
    for ((a, b), sides) in share(groups, trails, clocks) {
        // Which of both is nearer to the client: seen first there, and answered last.
        for conversations in [[a, b], [b, a]] {
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
            let shared_count = sides[0].len() + sides[1].len();
            if chunks.iter().all(|it| *it > 0)
                && total >= CONTENT_SHARED_COUNT_MIN
                && 2 * total as usize > shared_count
            {
                links.push(ProxyLink {
                    conversations,
                    chunks,
                });
                break;
            }
        }
    }
    // The best of each conversation; where two are equally good, none is told.
    let total = |it: &ProxyLink| it.chunks[0] + it.chunks[1];
    let mut best: BTreeMap<usize, (u32, usize)> = BTreeMap::new();
    for link in &links {
        for conversation in link.conversations {
            let (most, count) = best.entry(conversation).or_default();
            match total(link).cmp(most) {
                std::cmp::Ordering::Greater => (*most, *count) = (total(link), 1),
                std::cmp::Ordering::Equal => *count += 1,
                std::cmp::Ordering::Less => {}
            }
        }
    }
    links.retain(|it| {
        let mine = it.conversations.iter().map(|of| best.get(of).copied());
        mine.into_iter().all(|best| best == Some((total(it), 1)))
    });
    links
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
