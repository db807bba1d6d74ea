//! Lists in pages: filtered, sorted by a key, continued after a cursor. A page holds the best
//! `limit` entries only, whatever the table holds.

use std::collections::BinaryHeap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::problem::Problem;

/// Entries of a page where nothing else is asked for.
pub const LIMIT_DEFAULT: u32 = 100;

/// Entries of a page at most: 1,000 flows are 1.5 MB of JSON.
pub const LIMIT_MAX: u32 = 1_000;

/// Which way a list is sorted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// Smallest first.
    Asc,
    /// Largest first.
    #[default]
    Desc,
}

/// What to list of a table: how many, from where on, which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    limit: usize,
    after: Option<Place>,
    order: Order,
}

/// Where an entry stands: its sort key, then its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    key: u64,
    id: u64,
}

/// Some entries of a list.
#[derive(Clone, Debug)]
pub(super) struct Page<T> {
    pub(super) items: Vec<T>,
    /// The cursor of the page that follows, where there is one.
    pub(super) next: Option<String>,
}

impl Window {
    /// Checks what was asked for.
    pub(super) fn new(
        limit: Option<u32>,
        cursor: Option<&str>,
        order: Option<Order>,
    ) -> Result<Self, Problem> {
        let limit = limit.unwrap_or(LIMIT_DEFAULT);
        if !(1..=LIMIT_MAX).contains(&limit) {
            return Err(Problem::invalid(
                "limit",
                format!("limit is {limit}, it must be from 1 to {LIMIT_MAX}"),
                "ask for fewer and follow next",
            ));
        }
        let after = cursor.map(Place::parse).transpose()?;
        Ok(Self {
            limit: limit as usize,
            after,
            order: order.unwrap_or_default(),
        })
    }

    /// Chooses the page from entries with their id and sort key, and shows them.
    pub(super) fn page<E, T>(
        &self,
        entries: impl Iterator<Item = (u64, u64, E)>,
        show: impl Fn(u64, E) -> T,
    ) -> Page<T> {
        let mut best: BinaryHeap<Candidate<E>> = BinaryHeap::with_capacity(self.limit + 2);
        for (id, key, entry) in entries {
            let rank = self.rank(Place { key, id });
            if self.after.is_some_and(|after| rank <= self.rank(after)) {
                continue;
            }
            if best.len() > self.limit && best.peek().is_some_and(|worst| worst.rank <= rank) {
                continue;
            }
            best.push(Candidate {
                rank,
                id,
                key,
                entry,
            });
            if best.len() > self.limit + 1 {
                best.pop();
            }
        }
        let mut sorted = best.into_sorted_vec();
        let has_more = sorted.len() > self.limit;
        sorted.truncate(self.limit);
        let last = sorted.last().map(|last| Place {
            key: last.key,
            id: last.id,
        });
        Page {
            next: last.filter(|_| has_more).map(Place::text),
            items: sorted
                .into_iter()
                .map(|found| show(found.id, found.entry))
                .collect(),
        }
    }

    /// The smaller, the earlier in the list.
    const fn rank(&self, place: Place) -> (u64, u64) {
        match self.order {
            Order::Asc => (place.key, place.id),
            Order::Desc => (place.key ^ u64::MAX, place.id ^ u64::MAX),
        }
    }
}

struct Candidate<E> {
    rank: (u64, u64),
    id: u64,
    key: u64,
    entry: E,
}

impl<E> PartialEq for Candidate<E> {
    fn eq(&self, other: &Self) -> bool {
        self.rank == other.rank
    }
}

impl<E> Eq for Candidate<E> {}

impl<E> PartialOrd for Candidate<E> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Candidate<E> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.rank.cmp(&other.rank)
    }
}

impl Place {
    fn text(self) -> String {
        format!("{:x}-{:x}", self.key, self.id)
    }

    fn parse(text: &str) -> Result<Self, Problem> {
        let number = |text| u64::from_str_radix(text, 16).ok();
        text.split_once('-')
            .and_then(|(key, id)| {
                Some(Self {
                    key: number(key)?,
                    id: number(id)?,
                })
            })
            .ok_or_else(|| {
                Problem::invalid(
                    "cursor",
                    "the cursor was not made by this API",
                    "take it from next of the page before, or leave it out",
                )
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(order: Order, limit: u32) -> Vec<u64> {
        let keys = [5, 1, 5, 9, 0, 5, 2, 9];
        let (mut seen, mut cursor) = (Vec::new(), None::<String>);
        loop {
            let window = Window::new(Some(limit), cursor.as_deref(), Some(order)).unwrap();
            let entries = keys
                .iter()
                .enumerate()
                .map(|(id, key)| (id as u64, *key, ()));
            let page = window.page(entries, |id, ()| id);
            assert!(page.items.len() <= limit as usize);
            seen.extend(page.items);
            cursor = page.next;
            if cursor.is_none() {
                return seen;
            }
        }
    }

    #[test]
    fn pages_of_any_size_join_to_the_whole_list() {
        for limit in 1..=9 {
            assert_eq!(walk(Order::Asc, limit), [4, 1, 6, 0, 2, 5, 3, 7], "{limit}");
            assert_eq!(
                walk(Order::Desc, limit),
                [7, 3, 5, 2, 0, 6, 1, 4],
                "{limit}"
            );
        }
    }

    #[test]
    fn bad_windows_name_their_field() {
        for limit in [0, LIMIT_MAX + 1, u32::MAX] {
            let problem = Window::new(Some(limit), None, None).unwrap_err();
            assert_eq!(problem.field.as_deref(), Some("limit"));
        }
        for cursor in ["", "-", "1", "g-1", "1-2-3", "11111111111111111-1"] {
            let problem = Window::new(None, Some(cursor), None).unwrap_err();
            assert_eq!(problem.field.as_deref(), Some("cursor"), "{cursor}");
        }
    }
}
