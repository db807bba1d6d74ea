//! Service pairs: who talks to whom, by service and port.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::change::{ChangeKind, PairMeasured};
use crate::histogram::RecentHistogram;
use crate::limits::{HISTOGRAM_WINDOW_NS, MEASURE_INTERVAL_NS, PAIR_COUNT_MAX};
use crate::measure::{Counts, Measure, MeasureKind};
use crate::outbox::Outbox;
use crate::side::Sides;
use crate::time::Monotonic;
use crate::timer::{Timer, Timers};

/// A service pair of the engine; never used again for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PairId(pub u32);

/// Who talks to whom: what a metric is labelled with.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PairKey {
    /// Service of the client.
    pub client: Arc<str>,
    /// Service of the server.
    pub server: Arc<str>,
    /// Port of the server.
    pub port: u16,
    /// IANA protocol number.
    pub protocol: u8,
}

/// How one kind of measure was distributed in the last one to two minutes, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantiles {
    /// How many were measured.
    pub count: u64,
    /// The median.
    pub p50_us: u32,
    /// 95 of 100 were at most this.
    pub p95_us: u32,
    /// 99 of 100 were at most this.
    pub p99_us: u32,
}

/// What is known of a service pair.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PairSummary {
    /// Conversations that are open now.
    pub conversations_open: u64,
    /// Conversations opened so far.
    pub conversations_opened: u64,
    /// Attempts to connect that failed so far.
    pub attempts_failed: u64,
    /// All counts so far, by sender.
    pub totals: Sides<Counts>,
    /// RTT toward that side, by acknowledgements.
    pub rtt: Sides<Option<Quantiles>>,
    /// Handshake, that side's part.
    pub handshake: Sides<Option<Quantiles>>,
    /// Think time of the server.
    pub think: Option<Quantiles>,
    /// Time to the server's first answer with the path in it, where the path is not known (UDP).
    pub think_and_path: Option<Quantiles>,
}

/// What is measured of a pair, by kind; each takes space once there is a first measure.
#[derive(Debug, Default)]
struct Distributions {
    rtt: Sides<RecentHistogram>,
    handshake: Sides<RecentHistogram>,
    think: RecentHistogram,
    think_and_path: RecentHistogram,
}

/// Distributions of a pair, each two histograms of all buckets at most.
#[cfg(test)]
pub(crate) const DISTRIBUTION_COUNT: usize = 6;

#[derive(Debug)]
pub(crate) struct Pair {
    key: Arc<PairKey>,
    conversations_open: u64,
    conversations_opened: u64,
    attempts_failed: u64,
    totals: Sides<Counts>,
    distributions: Distributions,
    last: Monotonic,
    /// Whether there is something that was not told yet; then its timer runs.
    is_changed: bool,
    /// When it is told of next. Once it is silent, that is one last time, when its quantiles
    /// have passed.
    timer: Option<Monotonic>,
}

/// All service pairs, bounded: those without open conversations make room, the oldest first; where
/// there is none, newcomers are counted in the pair `other`.
#[derive(Default)]
pub(crate) struct Pairs {
    by_key: BTreeMap<Arc<PairKey>, PairId>,
    by_id: BTreeMap<PairId, Pair>,
    /// Pairs without open conversations, by their last change.
    idle: BTreeSet<(Monotonic, PairId)>,
    id_next: u32,
}

/// The pair of what found no room.
pub(crate) const OTHER: PairId = PairId(0);

impl Pairs {
    pub(crate) fn count(&self) -> usize {
        self.by_id.len()
    }

    /// Finds a pair or makes it; `may_evict` tells whether another one may be forgotten for it.
    pub(crate) fn find(
        &mut self,
        key: PairKey,
        may_evict: bool,
        outbox: &mut Outbox,
        timers: &mut Timers,
    ) -> PairId {
        if let Some(id) = self.by_key.get(&key) {
            return *id;
        }
        if self.by_id.len() >= PAIR_COUNT_MAX && !(may_evict && self.evict(outbox, timers)) {
            outbox.tally.pairs_overflowed += 1;
            if !self.by_id.contains_key(&OTHER) {
                let other: Arc<str> = Arc::from("other");
                let key = PairKey {
                    client: Arc::clone(&other),
                    server: other,
                    port: 0,
                    protocol: 0,
                };
                self.add(OTHER, key, outbox);
            }
            return OTHER;
        }
        self.id_next += 1;
        let id = PairId(self.id_next);
        self.add(id, key, outbox);
        id
    }

    fn add(&mut self, id: PairId, key: PairKey, outbox: &mut Outbox) {
        let key = Arc::new(key);
        // The pair `other` is not found by its key: a service may have that name.
        if id != OTHER {
            self.by_key.insert(Arc::clone(&key), id);
            self.idle.insert((outbox.now, id));
        }
        let pair = Pair {
            key: Arc::clone(&key),
            conversations_open: 0,
            conversations_opened: 0,
            attempts_failed: 0,
            totals: Sides::default(),
            distributions: Distributions::default(),
            last: outbox.now,
            is_changed: false,
            timer: None,
        };
        self.by_id.insert(id, pair);
        outbox.change(ChangeKind::PairOpened { pair: id, key });
    }

    fn evict(&mut self, outbox: &mut Outbox, timers: &mut Timers) -> bool {
        let Some((_, id)) = self.idle.pop_first() else {
            return false;
        };
        if let Some(pair) = self.by_id.remove(&id) {
            self.by_key.remove(&pair.key);
            if let Some(at) = pair.timer {
                timers.clear(at, Timer::Pair(id));
            }
            outbox.tally.pairs_evicted += 1;
            outbox.change(ChangeKind::PairForgotten(id));
        }
        true
    }

    /// Changes a pair, keeps its place in the order, and starts its timer where it does not run.
    fn touch(
        &mut self,
        id: PairId,
        now: Monotonic,
        timers: &mut Timers,
        change: impl FnOnce(&mut Pair),
    ) {
        let Some(pair) = self.by_id.get_mut(&id) else {
            return;
        };
        if pair.conversations_open == 0 {
            self.idle.remove(&(pair.last, id));
        }
        change(pair);
        pair.last = now;
        if pair.conversations_open == 0 && id != OTHER {
            self.idle.insert((now, id));
        }
        if !pair.is_changed {
            pair.is_changed = true;
            pair.set_timer(id, now.plus_ns(MEASURE_INTERVAL_NS), timers);
        }
    }

    pub(crate) fn open_conversation(&mut self, id: PairId, now: Monotonic, timers: &mut Timers) {
        self.touch(id, now, timers, |pair| {
            pair.conversations_open += 1;
            pair.conversations_opened += 1;
        });
    }

    pub(crate) fn close_conversation(&mut self, id: PairId, now: Monotonic, timers: &mut Timers) {
        self.touch(id, now, timers, |pair| {
            pair.conversations_open = pair.conversations_open.saturating_sub(1);
        });
    }

    pub(crate) fn fail_attempt(&mut self, id: PairId, now: Monotonic, timers: &mut Timers) {
        self.touch(id, now, timers, |pair| pair.attempts_failed += 1);
    }

    pub(crate) fn grow(
        &mut self,
        id: PairId,
        now: Monotonic,
        timers: &mut Timers,
        (added, measures): (&Sides<Counts>, &[Measure]),
    ) {
        self.touch(id, now, timers, |pair| {
            pair.totals.client.add(&added.client);
            pair.totals.server.add(&added.server);
            for measure in measures {
                pair.distributions.add(*measure, now);
            }
        });
    }

    /// Tells what is known of a pair, now that its timer has fired.
    pub(crate) fn measure(&mut self, id: PairId, outbox: &mut Outbox, timers: &mut Timers) {
        let Some(pair) = self.by_id.get_mut(&id) else {
            return;
        };
        pair.timer = None;
        let summary = pair.summary(outbox.now);
        if std::mem::take(&mut pair.is_changed) && summary.has_quantiles() {
            pair.set_timer(id, outbox.now.plus_ns(2 * HISTOGRAM_WINDOW_NS), timers);
        }
        outbox.change(ChangeKind::PairMeasured(Box::new(PairMeasured {
            pair: id,
            summary,
        })));
    }
}

impl PairSummary {
    fn has_quantiles(&self) -> bool {
        let Self {
            rtt,
            handshake,
            think,
            think_and_path,
            ..
        } = self;
        [
            rtt.client,
            rtt.server,
            handshake.client,
            handshake.server,
            *think,
            *think_and_path,
        ]
        .iter()
        .any(Option::is_some)
    }
}

impl Pair {
    fn set_timer(&mut self, id: PairId, at: Monotonic, timers: &mut Timers) {
        if let Some(at) = self.timer.replace(at) {
            timers.clear(at, Timer::Pair(id));
        }
        timers.set(at, Timer::Pair(id));
    }

    fn summary(&mut self, now: Monotonic) -> PairSummary {
        let Distributions {
            rtt,
            handshake,
            think,
            think_and_path,
        } = &mut self.distributions;
        PairSummary {
            conversations_open: self.conversations_open,
            conversations_opened: self.conversations_opened,
            attempts_failed: self.attempts_failed,
            totals: self.totals,
            rtt: quantiles(rtt, now),
            handshake: quantiles(handshake, now),
            think: think.quantiles(now),
            think_and_path: think_and_path.quantiles(now),
        }
    }
}

fn quantiles(sides: &mut Sides<RecentHistogram>, now: Monotonic) -> Sides<Option<Quantiles>> {
    Sides {
        client: sides.client.quantiles(now),
        server: sides.server.quantiles(now),
    }
}

impl Distributions {
    fn add(&mut self, measure: Measure, now: Monotonic) {
        let distribution = match measure.kind {
            MeasureKind::Rtt(side) | MeasureKind::RttByTimestamp(side) => self.rtt.get_mut(side),
            MeasureKind::Handshake(side) => self.handshake.get_mut(side),
            MeasureKind::Think => &mut self.think,
            MeasureKind::ThinkAndPath => &mut self.think_and_path,
            MeasureKind::Idle | MeasureKind::IdleAndPath => return,
        };
        distribution.add(measure.microseconds, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: usize) -> PairKey {
        let client = Arc::from(format!("client {number}"));
        PairKey {
            client,
            server: Arc::from("server"),
            port: 80,
            protocol: 6,
        }
    }

    #[test]
    fn pairs_without_conversations_make_room_and_others_do_not() {
        let (mut pairs, mut outbox) = (Pairs::default(), Outbox::default());
        let mut timers = Timers::default();
        let mut ids = Vec::new();
        for number in 0..PAIR_COUNT_MAX {
            outbox.now = Monotonic(number as u64);
            ids.push(pairs.find(key(number), true, &mut outbox, &mut timers));
            pairs.open_conversation(ids[number], outbox.now, &mut timers);
        }
        assert_eq!(
            pairs.find(key(PAIR_COUNT_MAX), true, &mut outbox, &mut timers),
            OTHER
        );
        pairs.close_conversation(ids[3], Monotonic(10_001), &mut timers);
        pairs.close_conversation(ids[2], Monotonic(10_002), &mut timers);
        assert_eq!(
            pairs.find(key(PAIR_COUNT_MAX), false, &mut outbox, &mut timers),
            OTHER
        );
        let newcomer = pairs.find(key(PAIR_COUNT_MAX), true, &mut outbox, &mut timers);
        assert!(newcomer > ids[PAIR_COUNT_MAX - 1]);
        let forgotten: Vec<_> = outbox
            .changes
            .iter()
            .filter_map(|change| match change.kind {
                ChangeKind::PairForgotten(pair) => Some(pair),
                _ => None,
            })
            .collect();
        assert_eq!(forgotten, [ids[3]]);
        assert_eq!(outbox.tally.pairs_overflowed, 2);
        assert_eq!(
            timers.count(),
            PAIR_COUNT_MAX - 1,
            "no timer is left behind"
        );
        assert_eq!(pairs.find(key(2), true, &mut outbox, &mut timers), ids[2]);
        // `other` stands beside the bound, and is never forgotten.
        assert_eq!(pairs.count(), PAIR_COUNT_MAX + 1);
    }
}
