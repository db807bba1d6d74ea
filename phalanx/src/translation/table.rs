//! [`Translations`]: what connection tracking said of flows lately, for captures that hold them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use phalanx_engine::{Endpoint, NamespaceId, Sides, Translation};

use super::limits::KEPT_COUNT_MAX;

/// A flow in a namespace, whoever its client is: the lower end first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    namespace: NamespaceId,
    protocol: u8,
    ends: [Endpoint; 2],
}

impl Key {
    fn new(namespace: NamespaceId, protocol: u8, ends: [Endpoint; 2]) -> Self {
        let [a, b] = ends;
        Self {
            namespace,
            protocol,
            ends: [a.min(b), a.max(b)],
        }
    }

    /// The flows on either side of a translation.
    fn of(namespace: NamespaceId, translation: &Translation) -> [Self; 2] {
        let of = |ends: &Sides<Endpoint>| {
            Self::new(namespace, translation.protocol, [ends.client, ends.server])
        };
        [of(&translation.inside), of(&translation.outside)]
    }
}

#[derive(Debug, Default)]
struct Kept {
    /// Each translation by both of its flows.
    by_flow: BTreeMap<Key, Translation>,
    /// In the order of their coming; what was replaced or forgotten meanwhile is not there any
    /// more when its turn comes.
    order: VecDeque<(NamespaceId, Translation)>,
}

/// The latest translations, and what became of all questions.
#[derive(Debug, Default)]
pub struct Translations {
    kept: Mutex<Kept>,
    translated: AtomicU64,
    plain: AtomicU64,
    unknown: AtomicU64,
    left_out: AtomicU64,
    forgotten: AtomicU64,
    failed: AtomicU64,
}

/// What became of the questions about flows since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LookupCounts {
    /// The flow is translated here.
    pub translated: u64,
    /// The flow is tracked, and not translated.
    pub untranslated: u64,
    /// The flow is not tracked here.
    pub unknown: u64,
    /// Not asked: too many at once.
    pub left_out: u64,
    /// Of the translated ones, those that made room for later ones before a capture asked.
    pub forgotten: u64,
    /// Connection tracking did not answer.
    pub failed: u64,
}

impl Translations {
    /// What became of the questions.
    #[must_use]
    pub fn counts(&self) -> LookupCounts {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        LookupCounts {
            translated: load(&self.translated),
            untranslated: load(&self.plain),
            unknown: load(&self.unknown),
            left_out: load(&self.left_out),
            forgotten: load(&self.forgotten),
            failed: load(&self.failed),
        }
    }

    pub(super) fn count_left_out(&self) {
        self.left_out.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes what was found of a flow; the translation, if there is one.
    pub(crate) fn note(
        &self,
        namespace: NamespaceId,
        protocol: u8,
        ends: Sides<Endpoint>,
        found: Option<Translation>,
    ) -> Option<Translation> {
        let counter = match found {
            None => &self.unknown,
            Some(found) if found.changes_anything() => &self.translated,
            Some(_) => &self.plain,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        let translation = found.filter(Translation::changes_anything);
        match translation {
            Some(translation) => {
                let is_forgetting = self.lock().keep(namespace, translation);
                self.forgotten
                    .fetch_add(u64::from(is_forgetting), Ordering::Relaxed);
            }
            // Its addresses and ports may have been another connection's before.
            None => {
                let key = Key::new(namespace, protocol, [ends.client, ends.server]);
                self.lock().by_flow.remove(&key);
            }
        }
        translation
    }

    /// The translation that a flow of a namespace is one side of; its ends in any order.
    #[must_use]
    pub(crate) fn find(
        &self,
        namespace: NamespaceId,
        protocol: u8,
        ends: [Endpoint; 2],
    ) -> Option<Translation> {
        let key = Key::new(namespace, protocol, ends);
        self.lock().by_flow.get(&key).copied()
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    /// Keeps a translation; whether another one had to make room.
    fn keep(&mut self, namespace: NamespaceId, translation: Translation) -> bool {
        let keys = Key::of(namespace, &translation);
        if keys
            .iter()
            .all(|key| self.by_flow.get(key) == Some(&translation))
        {
            return false;
        }
        let mut is_forgetting = false;
        if self.order.len() >= KEPT_COUNT_MAX
            && let Some((namespace, oldest)) = self.order.pop_front()
        {
            for key in Key::of(namespace, &oldest) {
                if self.by_flow.get(&key) == Some(&oldest) {
                    self.by_flow.remove(&key);
                    is_forgetting = true;
                }
            }
        }
        for key in keys {
            self.by_flow.insert(key, translation);
        }
        self.order.push_back((namespace, translation));
        is_forgetting
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: NamespaceId = NamespaceId(1);

    fn end(network: u8, number: u32, port: u16) -> Endpoint {
        let [_, a, b, c] = number.to_be_bytes();
        Endpoint {
            address: std::net::Ipv4Addr::new(network + a, b, c, 1).into(),
            port,
        }
    }

    fn translation(number: u32) -> Translation {
        let server = end(20, 0, 80);
        Translation {
            protocol: 6,
            inside: Sides {
                client: end(10, number, 50_000),
                server,
            },
            outside: Sides {
                client: end(30, number, 1_025),
                server,
            },
        }
    }

    fn find(table: &Translations, ends: Sides<Endpoint>) -> Option<Translation> {
        table.find(HOST, 6, [ends.server, ends.client])
    }

    #[test]
    fn a_translation_is_found_by_either_side_until_its_flow_is_another() {
        let table = Translations::default();
        let told = translation(1);
        assert_eq!(table.note(HOST, 6, told.inside, Some(told)), Some(told));
        assert_eq!(find(&table, told.inside), Some(told));
        assert_eq!(find(&table, told.outside), Some(told));
        assert_eq!(
            table.find(NamespaceId(2), 6, [told.inside.client, told.inside.server]),
            None
        );
        let plain = Translation {
            outside: told.inside,
            ..told
        };
        assert_eq!(table.note(HOST, 6, told.inside, Some(plain)), None);
        assert_eq!(find(&table, told.inside), None);
        assert_eq!(table.note(HOST, 6, told.outside, None), None);
        assert_eq!(find(&table, told.outside), None);
        table.count_left_out();
        let counts = LookupCounts {
            translated: 1,
            untranslated: 1,
            unknown: 1,
            left_out: 1,
            ..LookupCounts::default()
        };
        assert_eq!(table.counts(), counts);
    }

    #[test]
    fn the_latest_are_kept() {
        let table = Translations::default();
        for number in 0..2 * KEPT_COUNT_MAX as u32 {
            let told = translation(number);
            for _ in 0..2 {
                table.note(HOST, 6, told.inside, Some(told));
            }
        }
        let kept = table.lock();
        assert_eq!(
            (kept.by_flow.len(), kept.order.len()),
            (2 * KEPT_COUNT_MAX, KEPT_COUNT_MAX)
        );
        drop(kept);
        assert_eq!(table.counts().forgotten, KEPT_COUNT_MAX as u64);
        assert_eq!(find(&table, translation(0).inside), None);
        let last = translation(2 * KEPT_COUNT_MAX as u32 - 1);
        assert_eq!(find(&table, last.outside), Some(last));
    }
}
