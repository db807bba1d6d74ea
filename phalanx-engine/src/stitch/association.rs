//! Association: which flows of several hops are one conversation. Flows that share keys are scored;
//! who scores enough, and well above the next, is the same flow seen elsewhere.
//!
//! A key that two flows of one hop share tells nothing, so nobody gains by repeating one. Time is
//! not asked: the clocks of the hops are not known yet.

use std::collections::{BTreeMap, BTreeSet};

use phalanx_common::packet::protocol;

use super::key::{Family, Key, keys};
use super::part;
use super::trail::Trail;
use crate::limits::{HOP_PER_CONVERSATION_MAX, PART_COUNT_MAX};

/// Least score of an association, in logarithms of the odds.
const SCORE_MIN: u32 = 30;

/// Least distance to the runner-up.
const MARGIN_MIN: u32 = 10;

/// A flow at one hop and a flow at another that are taken for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Association {
    /// Places of the two among the trails.
    trails: (usize, usize),
    /// Sum of the weights of the keys that they share.
    score: u32,
    /// Whether the client of one is the server of the other.
    is_turned: bool,
}

/// What flows share.
#[derive(Clone, Copy, Debug, Default)]
struct Shared {
    score: u32,
    /// Weights of keys whose sides agree, and of those whose sides are opposite.
    same: u32,
    turned: u32,
    families: u16,
    /// Datagrams of one content, and those of one content with one end.
    digest_count: u32,
    addressed_count: u32,
}

/// Conversations: each a list of places among the trails, in the order of the hops. What is seen at
/// one hop only is one of a single place.
#[derive(Debug, Default)]
pub(super) struct Associations {
    /// Conversations.
    pub(super) groups: Vec<Vec<usize>>,
    /// Pairs that scored enough and not well above the next.
    pub(super) ambiguous_count: u64,
    /// Keys that too many flows hold to tell anything.
    pub(super) crowded_key_count: u64,
}

/// Associates the trails of several hops, and turns those round whose roles were guessed wrongly.
pub(super) fn associate(trails: &mut [Trail]) -> Associations {
    let (pairs, crowded_key_count) = score(trails);
    let (accepted, ambiguous_count) = accept(&pairs, trails);
    let mut groups = join(&accepted, trails);
    for group in &mut groups {
        part::bring_together(group, trails);
    }
    Associations {
        groups,
        ambiguous_count,
        crowded_key_count,
    }
}

type Pairs = BTreeMap<(usize, usize), Shared>;

/// Most holders of a key that are compared: as two conversations have that all hops see. One that
/// more hold tells nothing, and whoever repeats it gains no work.
const HOLDER_COUNT_MAX: usize = 2 * HOP_PER_CONVERSATION_MAX;

/// Scores all pairs of trails of different hops that share a key, and counts keys that too many
/// hold.
fn score(trails: &[Trail]) -> (Pairs, u64) {
    // Sorted rather than hashed: whoever makes keys that collide gains nothing.
    let mut holders: Vec<(Key, u32)> = Vec::new();
    for (place, trail) in (0..).zip(trails) {
        holders.extend(keys(trail).into_iter().map(|key| (key, place)));
    }
    holders.sort_unstable_by_key(|(key, place)| (key.hash, *place, *key));
    let mut pairs = Pairs::new();
    let mut crowded_count = 0;
    for holders in holders.chunk_by(|a, b| a.0.hash == b.0.hash) {
        if holders.len() > HOLDER_COUNT_MAX {
            crowded_count += 1;
        } else {
            share(holders, trails, &mut pairs);
        }
    }
    (pairs, crowded_count)
}

/// Adds one key to all pairs that hold it. Holders come in the order of the trails.
fn share(holders: &[(Key, u32)], trails: &[Trail], pairs: &mut Pairs) {
    let hop = |at: usize| trails[holders[at].1 as usize].hop;
    // Holders of one hop stand together: a hop that has two tells nothing.
    let is_alone = |at: usize| {
        let mut others = (0..holders.len()).filter(|other| *other != at);
        !others.any(|other| hop(other) == hop(at) && holders[other].1 != holders[at].1)
    };
    if holders.len() < 2 {
        return;
    }
    let alone: Vec<usize> = (0..holders.len()).filter(|at| is_alone(*at)).collect();
    for (index, first) in alone.iter().enumerate() {
        for second in alone.iter().skip(index + 1) {
            let ((key, a), (other, b)) = (holders[*first], holders[*second]);
            if a == b || hop(*first) == hop(*second) {
                continue;
            }
            let weight = key.family.weight(trails[a as usize].protocol);
            let shared = pairs.entry((a as usize, b as usize)).or_default();
            shared.score += weight;
            shared.digest_count += u32::from(key.family == Family::Digest);
            shared.addressed_count += u32::from(key.family == Family::Addressed);
            shared.families |= 1 << key.family as u16;
            if key.side == other.side {
                shared.same += weight;
            } else {
                shared.turned += weight;
            }
        }
    }
}

/// Those pairs that score enough, and well above all others of either flow.
fn accept(pairs: &Pairs, trails: &[Trail]) -> (Vec<Association>, u64) {
    let rivals = Rivals::of(pairs, trails);
    let mut accepted = Vec::new();
    let mut ambiguous_count = 0;
    for ((a, b), shared) in pairs {
        if shared.score <= SCORE_MIN || !is_possible(&trails[*a], &trails[*b], shared) {
            continue;
        }
        let runner_up = rivals
            .score(*a, *b, trails)
            .max(rivals.score(*b, *a, trails));
        if shared.score > runner_up + MARGIN_MIN {
            accepted.push(Association {
                trails: (*a, *b),
                score: shared.score,
                is_turned: shared.turned > shared.same,
            });
        } else if shared.score >= runner_up {
            ambiguous_count += 1;
        }
    }
    accepted.sort_by_key(|it| (std::cmp::Reverse(it.score), it.trails));
    (accepted, ambiguous_count)
}

/// What each flow has in common with those of each other hop.
struct Rivals {
    /// By flow and hop: the best there, its score, and the best score of those that are no parts of
    /// one flow with it.
    best: BTreeMap<(usize, u32), (usize, u32, u32)>,
}

impl Rivals {
    fn of(pairs: &Pairs, trails: &[Trail]) -> Self {
        let both = || {
            let ways =
                |((a, b), it): (&(usize, usize), &Shared)| [(*a, *b, it.score), (*b, *a, it.score)];
            pairs.iter().flat_map(ways)
        };
        let mut best: BTreeMap<(usize, u32), (usize, u32, u32)> = BTreeMap::new();
        for (one, other, score) in both() {
            let known = best
                .entry((one, trails[other].hop))
                .or_insert((other, score, 0));
            if score > known.1 {
                *known = (other, score, 0);
            }
        }
        for (one, other, score) in both() {
            if let Some(known) = best.get_mut(&(one, trails[other].hop))
                && other != known.0
                && !part::may_be_one(&trails[other], &trails[known.0])
            {
                known.2 = known.2.max(score);
            }
        }
        Self { best }
    }

    /// The best score of a flow with another than this one at its hop.
    fn score(&self, one: usize, other: usize, trails: &[Trail]) -> u32 {
        let Some((best, score, next)) = self.best.get(&(one, trails[other].hop)) else {
            return 0;
        };
        if *best == other || part::may_be_one(&trails[other], &trails[*best]) {
            *next
        } else {
            *score
        }
    }
}

/// Whether nothing speaks against it: other initial numbers of the same side are another
/// connection, unless what both packets hold agrees.
fn is_possible(a: &Trail, b: &Trail, shared: &Shared) -> bool {
    let has = |family: Family| shared.families & (1 << family as u16) != 0;
    if a.protocol != b.protocol {
        return false;
    }
    let are_other = |x: Option<u32>, y: Option<u32>| matches!((x, y), (Some(x), Some(y)) if x != y);
    let is_other = are_other(a.initial.client, b.initial.client)
        || are_other(a.initial.server, b.initial.server);
    if a.protocol != protocol::TCP {
        // One datagram that others send as well is none of these.
        return has(Family::Tuple)
            || has(Family::Numbered)
            || shared.digest_count.max(shared.addressed_count) > 1;
    }
    // Timestamps alone are those of other connections between the same hosts too.
    !is_other || has(Family::Shape) || has(Family::Addressed)
}

/// Joins what was accepted, the best first: of each hop one flow, or the parts of one.
fn join(accepted: &[Association], trails: &mut [Trail]) -> Vec<Vec<usize>> {
    let mut group_of: Vec<usize> = (0..trails.len()).collect();
    let mut groups: Vec<Vec<usize>> = (0..trails.len()).map(|place| vec![place]).collect();
    let mut is_turned = vec![false; trails.len()];
    for association in accepted {
        let (a, b) = association.trails;
        let (into, from) = (group_of[a].min(group_of[b]), group_of[a].max(group_of[b]));
        if into == from {
            continue;
        }
        if !fit_together(&groups[into], &groups[from], trails) {
            continue;
        }
        let moved = std::mem::take(&mut groups[from]);
        if association.is_turned ^ is_turned[a] ^ is_turned[b] {
            for place in guessed(&groups[into], &moved, trails) {
                trails[*place].turn_round();
                is_turned[*place] ^= true;
            }
        }
        moved.iter().for_each(|place| group_of[*place] = into);
        groups[into].extend(moved);
    }
    groups.retain(|group| !group.is_empty());
    for group in &mut groups {
        group.sort_by_key(|place| (trails[*place].hop, part::first_frame(&trails[*place])));
    }
    groups
}

/// Whether two groups may be one: there is room, and they have a hop in common only where what it
/// saw of both may be one flow.
fn fit_together(here: &[usize], there: &[usize], trails: &[Trail]) -> bool {
    let all = || here.iter().chain(there);
    let hops: BTreeSet<u32> = all().map(|it| trails[*it].hop).collect();
    let may_be_beside = |a: &usize, b: &usize| {
        trails[*a].hop != trails[*b].hop || part::may_be_one(&trails[*a], &trails[*b])
    };
    hops.len() <= HOP_PER_CONVERSATION_MAX
        && all().count() <= PART_COUNT_MAX
        && here
            .iter()
            .all(|a| there.iter().all(|b| may_be_beside(a, b)))
}

/// Of two groups whose roles disagree, the one whose roles are known less well.
fn guessed<'a>(here: &'a [usize], there: &'a [usize], trails: &[Trail]) -> &'a [usize] {
    let basis = |group: &[usize]| group.iter().map(|it| trails[*it].role_basis).min();
    if basis(here) <= basis(there) {
        there
    } else {
        here
    }
}
