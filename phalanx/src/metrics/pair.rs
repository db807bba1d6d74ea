//! The series of service pairs, kept with the pair so that a change finds them by one look-up.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use phalanx_engine::change::{
    AttemptFailed, AttemptFailure, ConversationClosed, ConversationOpened, PairUpdated,
};
use phalanx_engine::measure::{Counts, Measure, MeasureKind};
use phalanx_engine::{ConversationId, Monotonic, PairId, PairKey, Side, Sides};
use prometheus::{Histogram, IntCounter, IntGauge};

use super::family::Families;
use super::label::{CLIENT_SET_COUNT_MAX, IDLE_NS, Labels, SERVER_SET_COUNT_MAX};

const SIDES: [&str; 2] = ["client", "server"];
const FAILURES: [&str; 3] = ["refused", "unanswered", "unreachable"];

/// The service pairs that the engine knows, with their series.
#[derive(Debug)]
pub(super) struct Pairs {
    families: Arc<Families>,
    /// Bounded by the engine, which tells of each pair that it forgets.
    pairs: HashMap<PairId, Pair>,
    /// Bounded by the engine, which tells of each conversation that it closes.
    conversations: HashMap<ConversationId, (PairId, Arc<Series>)>,
    client_sets: HashMap<Labels, Arc<Series>>,
    server_sets: HashMap<Labels, Arc<Series>>,
    other_sets: HashMap<Labels, Arc<Series>>,
    /// No label set was idle long enough when this was last looked at.
    searched: Monotonic,
}

#[derive(Debug)]
struct Pair {
    key: Arc<PairKey>,
    series: Option<Arc<Series>>,
}

/// Searching for an idle label set is linear in their number; it is done this often at most.
const SEARCH_PAUSE_NS: u64 = 10_000_000_000;

impl Pairs {
    pub(super) fn new(families: Arc<Families>) -> Self {
        Self {
            families,
            pairs: HashMap::new(),
            conversations: HashMap::new(),
            client_sets: HashMap::new(),
            server_sets: HashMap::new(),
            other_sets: HashMap::new(),
            searched: Monotonic::default(),
        }
    }

    pub(super) fn open(&mut self, pair: PairId, key: &Arc<PairKey>) {
        self.pairs.insert(
            pair,
            Pair {
                key: Arc::clone(key),
                series: None,
            },
        );
    }

    pub(super) fn forget(&mut self, pair: PairId) {
        self.pairs.remove(&pair);
    }

    pub(super) fn update(&mut self, updated: &PairUpdated, at: Monotonic) {
        if let Some(series) = self.series(updated.pair, at) {
            series.add(&updated.added);
            updated
                .measures
                .iter()
                .for_each(|measure| series.observe(measure));
        }
    }

    pub(super) fn fail(&mut self, failed: &AttemptFailed, at: Monotonic) {
        let Some(series) = self.series(failed.pair, at) else {
            return;
        };
        let index = match failed.failure {
            AttemptFailure::Refused => 0,
            AttemptFailure::Unanswered => 1,
            AttemptFailure::Unreachable { .. } => 2,
        };
        if let Some(tcp) = &series.tcp {
            tcp.failures[index].inc();
        }
    }

    pub(super) fn conversation_opened(&mut self, opened: &ConversationOpened, at: Monotonic) {
        if let Some(series) = self.series(opened.pair, at) {
            series.conversations.inc();
            series.conversations_open.inc();
            self.conversations
                .insert(opened.conversation, (opened.pair, series));
        }
    }

    /// A conversation whose services got a name counts for another pair from then on.
    pub(super) fn conversation_moved(
        &mut self,
        conversation: ConversationId,
        pair: PairId,
        at: Monotonic,
    ) {
        if self
            .conversations
            .get(&conversation)
            .is_none_or(|(known, _)| *known == pair)
        {
            return;
        }
        let Some(series) = self.series(pair, at) else {
            return;
        };
        series.conversations_open.inc();
        if let Some((_, left)) = self.conversations.insert(conversation, (pair, series)) {
            left.conversations_open.dec();
        }
    }

    pub(super) fn conversation_closed(&mut self, closed: &ConversationClosed, at: Monotonic) {
        if let Some((_, series)) = self.conversations.remove(&closed.conversation) {
            series.conversations_open.dec();
        }
        if let Some(series) = self.series(closed.pair, at)
            && let Some(tcp) = &series.tcp
        {
            tcp.duration
                .observe(seconds(closed.ended.since_ns(closed.opened)));
        }
    }

    /// Forgets what was counted, but not what is open.
    pub(super) fn begin_anew(&mut self) {
        self.families.clear_pairs();
        for sets in [
            &mut self.client_sets,
            &mut self.server_sets,
            &mut self.other_sets,
        ] {
            sets.clear();
        }
        let pairs = self.pairs.iter_mut();
        let used = pairs.filter_map(|(id, pair)| {
            let used = pair.series.take()?.used.load(Ordering::Relaxed);
            Some((*id, Monotonic(used)))
        });
        // Whoever comes first has labels of its own.
        let used: BTreeMap<PairId, Monotonic> = used.collect();
        for (pair, at) in &used {
            self.series(*pair, *at);
        }
        for (conversation, (pair, _)) in std::mem::take(&mut self.conversations) {
            let at = used.get(&pair).copied().unwrap_or_default();
            if let Some(series) = self.series(pair, at) {
                series.conversations_open.inc();
                self.conversations.insert(conversation, (pair, series));
            }
        }
    }

    /// The series of a pair, found anew where their label set had to make room.
    fn series(&mut self, pair: PairId, at: Monotonic) -> Option<Arc<Series>> {
        let known = self.pairs.get(&pair)?;
        let series = match &known.series {
            Some(series) => Arc::clone(series),
            None => {
                let key = Arc::clone(&known.key);
                let series = self.place(&key, at);
                if let Some(known) = self.pairs.get_mut(&pair) {
                    known.series = Some(Arc::clone(&series));
                }
                series
            }
        };
        series.used.store(at.0, Ordering::Relaxed);
        Some(series)
    }

    /// The series of the closest label set that there is room for.
    fn place(&mut self, key: &PairKey, at: Monotonic) -> Arc<Series> {
        let own = Labels::of(key);
        if let Some(series) = self.client_sets.get(&own) {
            return Arc::clone(series);
        }
        if self.client_sets.len() < CLIENT_SET_COUNT_MAX || self.make_room(at) {
            return insert(&self.families, &mut self.client_sets, own);
        }
        self.families
            .label_overflow
            .with_label_values(&["client"])
            .inc();
        let server = Labels::of_server(key);
        if let Some(series) = self.server_sets.get(&server) {
            return Arc::clone(series);
        }
        if self.server_sets.len() < SERVER_SET_COUNT_MAX {
            return insert(&self.families, &mut self.server_sets, server);
        }
        self.families
            .label_overflow
            .with_label_values(&["server"])
            .inc();
        insert(
            &self.families,
            &mut self.other_sets,
            Labels::of_other(key.protocol),
        )
    }

    /// Removes the label set that was idle the longest, if long enough. Its series go stale at
    /// Prometheus; sums over a counter's rate are not touched.
    fn make_room(&mut self, at: Monotonic) -> bool {
        if self.searched.0 != 0 && at.since_ns(self.searched) < SEARCH_PAUSE_NS {
            return false;
        }
        let used = |series: &Arc<Series>| Monotonic(series.used.load(Ordering::Relaxed));
        let idlest = self
            .client_sets
            .iter()
            .filter(|(_, series)| at.since_ns(used(series)) >= IDLE_NS)
            .filter(|(_, series)| series.conversations_open.get() == 0)
            .min_by_key(|(labels, series)| (used(series), *labels));
        let Some(labels) = idlest.map(|(labels, _)| labels.clone()) else {
            self.searched = at;
            return false;
        };
        if let Some(removed) = self.client_sets.remove(&labels) {
            let left = self.pairs.values_mut().filter(|pair| {
                pair.series
                    .as_ref()
                    .is_some_and(|series| Arc::ptr_eq(series, &removed))
            });
            left.for_each(|pair| pair.series = None);
        }
        remove(&self.families, &labels);
        true
    }
}

fn insert(
    families: &Families,
    sets: &mut HashMap<Labels, Arc<Series>>,
    labels: Labels,
) -> Arc<Series> {
    let made = || Arc::new(Series::new(families, &labels));
    Arc::clone(sets.entry(labels.clone()).or_insert_with(made))
}

/// The series of one label set.
#[derive(Debug)]
struct Series {
    sent: Sides<Sent>,
    response: Histogram,
    conversations: IntCounter,
    conversations_open: IntGauge,
    tcp: Option<Box<Tcp>>,
    /// When a change last reached it: monotonic nanoseconds.
    used: AtomicU64,
}

/// What one side sends, of any protocol.
#[derive(Debug)]
struct Sent {
    packets: IntCounter,
    bytes: IntCounter,
    ecn_marked: IntCounter,
    icmp_errors: IntCounter,
}

/// What there is for TCP only.
#[derive(Debug)]
struct Tcp {
    rtt: Sides<Histogram>,
    handshake: Sides<Histogram>,
    think: Histogram,
    duration: Histogram,
    sent: Sides<TcpSent>,
    failures: [IntCounter; 3],
}

/// What one side sends with TCP.
#[derive(Debug)]
struct TcpSent {
    retransmitted: IntCounter,
    retransmitted_bytes: IntCounter,
    out_of_sequence: IntCounter,
    duplicates: IntCounter,
    zero_windows: IntCounter,
    resets: IntCounter,
}

impl Series {
    fn new(families: &Families, labels: &Labels) -> Self {
        let protocol = labels.protocol_name();
        let all: [&str; 4] = [&labels.client, &labels.server, &labels.port, &protocol];
        let sent = |sender: &str| {
            let with = [all[0], all[1], all[2], all[3], sender];
            Sent {
                packets: families.packets.with_label_values(&with),
                bytes: families.bytes.with_label_values(&with),
                ecn_marked: families.ecn_marked.with_label_values(&with),
                icmp_errors: families.icmp_errors.with_label_values(&with),
            }
        };
        Self {
            sent: Sides {
                client: sent(SIDES[0]),
                server: sent(SIDES[1]),
            },
            response: families.response.with_label_values(&all),
            conversations: families.conversations.with_label_values(&all),
            conversations_open: families.conversations_open.with_label_values(&all),
            tcp: labels
                .is_tcp()
                .then(|| Box::new(Tcp::new(families, [all[0], all[1], all[2]]))),
            used: AtomicU64::new(0),
        }
    }

    fn add(&self, added: &Sides<Counts>) {
        for side in [Side::Client, Side::Server] {
            let counts = added.get(side);
            let sent = self.sent.get(side);
            sent.packets.inc_by(counts.packets);
            sent.bytes.inc_by(counts.bytes);
            sent.ecn_marked.inc_by(counts.ecn_marked_packets);
            sent.icmp_errors.inc_by(counts.icmp_error_count);
            if let Some(tcp) = &self.tcp {
                tcp.sent.get(side).add(counts);
            }
        }
    }

    fn observe(&self, measure: &Measure) {
        let value = f64::from(measure.microseconds) / 1e6;
        match (measure.kind, &self.tcp) {
            (MeasureKind::Rtt(side) | MeasureKind::RttByTimestamp(side), Some(tcp)) => {
                tcp.rtt.get(side).observe(value);
            }
            (MeasureKind::Handshake(side), Some(tcp)) => tcp.handshake.get(side).observe(value),
            (MeasureKind::Think, Some(tcp)) => tcp.think.observe(value),
            (MeasureKind::ThinkAndPath, _) => self.response.observe(value),
            (MeasureKind::Idle | MeasureKind::IdleAndPath, _) | (_, None) => {}
        }
    }
}

impl Tcp {
    fn new(families: &Families, labels: [&str; 3]) -> Self {
        let [client, server, port] = labels;
        let sides = |make: &dyn Fn(&[&str]) -> Histogram| Sides {
            client: make(&[client, server, port, SIDES[0]]),
            server: make(&[client, server, port, SIDES[1]]),
        };
        let sent = |sender: &str| TcpSent::new(families, &[client, server, port, sender]);
        Self {
            rtt: sides(&|with| families.rtt.with_label_values(with)),
            handshake: sides(&|with| families.handshake.with_label_values(with)),
            think: families.think.with_label_values(&labels),
            duration: families.duration.with_label_values(&labels),
            sent: Sides {
                client: sent(SIDES[0]),
                server: sent(SIDES[1]),
            },
            failures: FAILURES.map(|reason| {
                families
                    .connect_failures
                    .with_label_values(&[client, server, port, reason])
            }),
        }
    }
}

impl TcpSent {
    fn new(families: &Families, with: &[&str]) -> Self {
        Self {
            retransmitted: families.retransmitted.with_label_values(with),
            retransmitted_bytes: families.retransmitted_bytes.with_label_values(with),
            out_of_sequence: families.out_of_sequence.with_label_values(with),
            duplicates: families.duplicates.with_label_values(with),
            zero_windows: families.zero_windows.with_label_values(with),
            resets: families.resets.with_label_values(with),
        }
    }

    fn add(&self, counts: &Counts) {
        self.retransmitted.inc_by(counts.retransmitted_packets);
        self.retransmitted_bytes.inc_by(counts.retransmitted_bytes);
        self.out_of_sequence.inc_by(counts.out_of_sequence_packets);
        self.duplicates.inc_by(counts.duplicate_packets);
        self.zero_windows.inc_by(counts.zero_window_count);
        self.resets.inc_by(counts.rst_count);
    }
}

/// Removes all series of a label set. Those of TCP carry no protocol: they stay where another
/// protocol has the same client, server and port. What is not there is no error.
fn remove(families: &Families, labels: &Labels) {
    let protocol = labels.protocol_name();
    let [client, server, port] = [&*labels.client, &*labels.server, &*labels.port];
    let with_protocol = [client, server, port, &*protocol];
    drop(families.response.remove_label_values(&with_protocol));
    drop(families.conversations.remove_label_values(&with_protocol));
    drop(
        families
            .conversations_open
            .remove_label_values(&with_protocol),
    );
    for side in SIDES {
        let with = [client, server, port, &*protocol, side];
        for family in [
            &families.packets,
            &families.bytes,
            &families.ecn_marked,
            &families.icmp_errors,
        ] {
            drop(family.remove_label_values(&with));
        }
    }
    if labels.is_tcp() {
        remove_tcp(families, [client, server, port]);
    }
}

fn remove_tcp(families: &Families, labels: [&str; 3]) {
    let [client, server, port] = labels;
    drop(families.think.remove_label_values(&labels));
    drop(families.duration.remove_label_values(&labels));
    for side in SIDES {
        let with = [client, server, port, side];
        for family in [&families.rtt, &families.handshake] {
            drop(family.remove_label_values(&with));
        }
        for family in [
            &families.retransmitted,
            &families.retransmitted_bytes,
            &families.out_of_sequence,
            &families.duplicates,
            &families.zero_windows,
            &families.resets,
        ] {
            drop(family.remove_label_values(&with));
        }
    }
    for reason in FAILURES {
        drop(
            families
                .connect_failures
                .remove_label_values(&[client, server, port, reason]),
        );
    }
}

/// Nanoseconds as seconds.
#[expect(clippy::cast_precision_loss, reason = "2⁵³ ns are a hundred days")]
fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}
