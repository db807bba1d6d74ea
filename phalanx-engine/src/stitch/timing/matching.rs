//! Which exchange on the client's side is which beyond, where one way alone is left to give each
//! its own.

use std::collections::{BTreeMap, BTreeSet};

use super::super::clock::Clocks;
use super::super::proxy::{End, pair_up};
use super::course::{Course, Farther, Nested};
use crate::limits::{EXCHANGE_CLUSTER_COUNT_MAX, EXCHANGE_PAIR_COUNT_MAX};

/// Which exchanges may belong together, and which do. Exchanges have numbers across all connections
/// of a side.
#[derive(Debug)]
pub(super) struct Matching {
    /// Number of the first exchange of each connection, on the client's side and beyond.
    firsts: [Vec<usize>; 2],
    /// Of each exchange beyond: how many on the client's side may hold it, two at most.
    holder_counts: Vec<u8>,
    /// Of each exchange on the client's side: the one beyond that alone is left for it.
    assigned: Vec<Option<usize>>,
}

impl Matching {
    /// Finds who belongs together where that is clear. `None` where there is more than is compared.
    pub(super) fn of(near: &[Course<'_>], farther: &Farther<'_>, clocks: &Clocks) -> Option<Self> {
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
                    let first = matching.firsts[1][few[0].far];
                    for one in few {
                        let count = &mut matching.holder_counts[first + one.exchange];
                        *count = (*count + 1).min(2);
                    }
                    // Those before the last are its connection's own.
                    let number = matching.firsts[0][index] + place;
                    pairs.extend(few.last().map(|it| [number, first + it.exchange]));
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
    pub(super) fn assigns(&self, (near, place): (usize, usize), nested: &Nested) -> bool {
        let far = self.firsts[1][nested.far] + nested.exchange;
        self.assigned[self.firsts[0][near] + place] == Some(far)
    }

    /// Whether anybody may hold any exchange of a connection beyond.
    pub(super) fn is_held(&self, far: usize, course: &Course<'_>) -> bool {
        let own = self.holder_counts[self.firsts[1][far]..].iter();
        own.take(course.exchanges.list.len()).any(|it| *it > 0)
    }

    /// How many may hold an exchange, two at most.
    pub(super) fn holder_count(&self, nested: &Nested) -> u8 {
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
