//! Proxies: conversations that carry the same content, since something between the hops ends one
//! connection and begins another. Told by content in both directions alone: what two connections
//! share by chance, as the beginning of a session, is shared in one.

use std::collections::BTreeMap;

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use super::trail::Trail;
use crate::limits::{CONTENT_HOLDER_COUNT_MAX, CONTENT_SHARED_COUNT_MIN};
use crate::side::Side;

/// Two conversations of one exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxyLink {
    /// Their places among the conversations.
    pub conversations: [usize; 2],
    /// Chunks that both carry, in one order: from the client, and from the server.
    pub chunks: [u32; 2],
}

/// Chunks that two conversations share: places in both, by side.
type Shared = BTreeMap<(usize, usize), [Vec<(u32, u32)>; 2]>;

/// Finds conversations that carry the content of one another; `groups` are the trails of each.
pub(super) fn link(groups: &[&[usize]], trails: &[Trail]) -> Vec<ProxyLink> {
    let shared = share(groups, trails);
    let mut links: Vec<ProxyLink> = Vec::new();
    for ((a, b), sides) in shared {
        let chunks = sides.map(|pairs| longest_rise(&pairs));
        let total = chunks[0] + chunks[1];
        if chunks.iter().all(|it| *it > 0) && total >= CONTENT_SHARED_COUNT_MIN {
            links.push(ProxyLink {
                conversations: [a, b],
                chunks,
            });
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

fn share(groups: &[&[usize]], trails: &[Trail]) -> Shared {
    let mut holders: HashMap<(u64, Side), Vec<(usize, u32)>, FixedState> = HashMap::default();
    for (group, members) in groups.iter().enumerate() {
        let fullest = members.iter().max_by_key(|it| trails[**it].content.count());
        let Some(content) = fullest.map(|it| &trails[*it].content) else {
            continue;
        };
        for side in [Side::Client, Side::Server] {
            for (place, chunk) in (0..).zip(content.chunks(side)) {
                let list = holders.entry((*chunk, side)).or_default();
                if list.len() <= CONTENT_HOLDER_COUNT_MAX {
                    list.push((group, place));
                }
            }
        }
    }
    let mut shared = Shared::new();
    for ((_, side), list) in holders {
        if list.len() > CONTENT_HOLDER_COUNT_MAX {
            continue;
        }
        for (index, (a, here)) in list.iter().enumerate() {
            for (b, there) in list.iter().skip(index + 1).filter(|it| it.0 != *a) {
                let (pair, places) = match a < b {
                    true => ((*a, *b), (*here, *there)),
                    false => ((*b, *a), (*there, *here)),
                };
                shared.entry(pair).or_default()[side as usize].push(places);
            }
        }
    }
    shared
}

/// Pairs of places that rise in both: the longest chain.
fn longest_rise(pairs: &[(u32, u32)]) -> u32 {
    let mut pairs = pairs.to_vec();
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
