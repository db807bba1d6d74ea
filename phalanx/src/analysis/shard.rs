//! Shards: the flows that fall to one place, and the worst conversations among them.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, TryLockError};

use phalanx_engine::limits::{TRAIL_COUNT_MAX, TRAIL_PACKET_COUNT_MAX};
use phalanx_engine::record::PacketRecord;
use phalanx_engine::segment::Segment;
use phalanx_engine::stitch::Trail;
use phalanx_engine::story::FlowStory;
use phalanx_engine::trace::{Ended, Tracer};

use super::batch::{Batch, ItemRole};
use super::lock;
use crate::report::{lone_syn_points, points};

/// Where the flows of one part of the 5-tuples are followed.
pub(super) struct Shard {
    queue: Mutex<VecDeque<Arc<Batch>>>,
    state: Mutex<State>,
}

struct State {
    tracer: Tracer,
    gathering: Gathering,
}

/// What becomes of flows that have ended.
struct Gathering {
    /// The only one to be told of.
    flow: Option<u64>,
    /// All of them.
    count: u64,
    trails: Trails,
}

/// The packets of all flows, where hops are to be compared: by hop and first frame.
struct Trails {
    trails: BTreeMap<(u32, u64), Trail>,
    budget: Arc<TrailBudget>,
}

/// What the trails of all captures of one run have taken.
#[derive(Debug, Default)]
pub struct TrailBudget {
    trail_count: AtomicUsize,
    packet_count: AtomicUsize,
}

impl TrailBudget {
    /// Takes room for one more, if there is some.
    fn take(count: &AtomicUsize, most: usize) -> bool {
        let more = |it: usize| (it < most).then_some(it + 1);
        count
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .is_ok()
    }
}

impl Trails {
    fn push(&mut self, record: &PacketRecord<'_>, segment: &Segment) {
        let trail = match self.trails.entry((record.hop, segment.flow)) {
            Entry::Occupied(trail) => trail.into_mut(),
            Entry::Vacant(place) => {
                if !TrailBudget::take(&self.budget.trail_count, TRAIL_COUNT_MAX) {
                    return;
                }
                place.insert(Trail::new(record, segment))
            }
        };
        // What is left out once is left out from then on: what is kept has no gaps.
        if trail.left_out > 0
            || !TrailBudget::take(&self.budget.packet_count, TRAIL_PACKET_COUNT_MAX)
        {
            trail.left_out += 1;
        } else {
            trail.push(record, segment);
        }
    }

    fn note_end(&mut self, ended: &Ended) {
        if let Some(trail) = self.trails.get_mut(&(ended.hop(), ended.flow()))
            && let Some(basis) = ended.role_basis()
        {
            trail.role_basis = basis;
        }
    }
}

/// How many flows there were.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FlowCounts {
    pub(super) all: u64,
    /// Of these, flows that were ended early to make room.
    pub(super) evicted: u64,
}

impl FlowCounts {
    pub(super) const fn plus(self, other: Self) -> Self {
        Self {
            all: self.all + other.all,
            evicted: self.evicted + other.evicted,
        }
    }
}

/// Flows that are ranked before they are handed on.
const RANKED_COUNT: usize = 1 << 10;

impl Shard {
    /// One of `count`; `flow` is the only one to be told of.
    pub(super) fn new(count: usize, flow: Option<u64>, budget: &Arc<TrailBudget>) -> Self {
        Self {
            queue: Mutex::default(),
            state: Mutex::new(State {
                // Whoever makes flow keys that collide makes his own analysis slow.
                tracer: Tracer::one_of(count, std::process::id().into()),
                gathering: Gathering {
                    flow,
                    count: 0,
                    trails: Trails {
                        trails: BTreeMap::new(),
                        budget: Arc::clone(budget),
                    },
                },
            }),
        }
    }

    pub(super) fn push(&self, batch: Arc<Batch>) {
        lock(&self.queue).push_back(batch);
    }

    /// Takes in what waits, unless another thread does; then waits for it if `is_patient`.
    pub(super) fn drain(&self, drain: Drain<'_>, release: impl Fn(Arc<Batch>)) {
        let mut state = match self.state.try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(error)) => error.into_inner(),
            Err(TryLockError::WouldBlock) if drain.is_patient => lock(&self.state),
            Err(TryLockError::WouldBlock) => return,
        };
        let state = &mut *state;
        loop {
            let next = lock(&self.queue).pop_front();
            let Some(batch) = next else {
                return;
            };
            state.take(&batch, drain.index);
            state.gathering.collect(state.tracer.ended(), drain.worst);
            release(batch);
        }
    }

    /// Ends all flows at the latest time of the capture: how many there were, and their trails.
    pub(super) fn finish(self, clock_ns: i64, worst: &Mutex<Worst>) -> (FlowCounts, Vec<Trail>) {
        let mut state = self
            .state
            .into_inner()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        state.tracer.advance(clock_ns);
        state.gathering.collect(state.tracer.finish(), worst);
        let counts = FlowCounts {
            all: state.gathering.count,
            evicted: state.tracer.tally().evicted,
        };
        let trails = state.gathering.trails.trails;
        (counts, trails.into_values().collect())
    }
}

impl State {
    fn take(&mut self, batch: &Batch, index: usize) {
        for item in batch.items.get(index).into_iter().flatten() {
            let frame = &item.frame;
            let bytes = batch.bytes_of(item);
            let record = item
                .decoded
                .record(frame.number, frame.time_ns, frame.wire_length, bytes)
                .at_hop(frame.interface);
            // What is silent ends by the time of all packets, whatever shard they fall to.
            self.tracer
                .advance(item.clock_ns.max(batch.clock_before_ns));
            let segment = match item.role {
                ItemRole::Whole => self.tracer.handle(&record),
                ItemRole::Own => self.tracer.handle_own(&record),
                ItemRole::Quote => {
                    self.tracer.handle_quote(&record);
                    continue;
                }
            };
            if batch.selection.keeps_trails() {
                self.gathering.trails.push(&record, &segment);
            }
        }
    }
}

impl Gathering {
    /// Ranks what has ended, and hands on what may be among the worst.
    fn collect(&mut self, mut ended: impl Iterator<Item = Ended>, worst: &Mutex<Worst>) {
        let mut ranked = Vec::new();
        loop {
            let floor = lock(worst).floor();
            let before = self.count;
            for ended in ended.by_ref().take(RANKED_COUNT) {
                self.count += 1;
                self.trails.note_end(&ended);
                if self.flow.is_none_or(|flow| flow == ended.flow()) {
                    let rank = Rank::of(&ended);
                    if floor.is_none_or(|floor| rank > floor) {
                        ranked.push((rank, ended));
                    }
                }
            }
            if !ranked.is_empty() {
                let mut worst = lock(worst);
                for (rank, ended) in ranked.drain(..) {
                    worst.insert(rank, ended);
                }
            }
            if self.count - before < RANKED_COUNT as u64 {
                return;
            }
        }
    }
}

/// Which shard is to be drained, and how.
#[derive(Clone, Copy)]
pub(super) struct Drain<'a> {
    pub(super) index: usize,
    /// Waits for whoever works at it.
    pub(super) is_patient: bool,
    pub(super) worst: &'a Mutex<Worst>,
}

/// The worst flows of all shards, so many of them. Which they are does not depend on the order in
/// which they come.
#[derive(Debug)]
pub(super) struct Worst {
    most: usize,
    /// By badness; of equals the earlier one is worse.
    flows: BTreeMap<Rank, Ended>,
}

/// Order of badness, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    /// Score in thousandths.
    score: u64,
    hop: std::cmp::Reverse<u32>,
    flow: std::cmp::Reverse<u64>,
}

impl Rank {
    fn of(ended: &Ended) -> Self {
        let lone_syn = || lone_syn_points(ended.watched_ns());
        let points = ended.story().map_or_else(lone_syn, points);
        Self {
            score: (points * 1e3) as u64,
            hop: std::cmp::Reverse(ended.hop()),
            flow: std::cmp::Reverse(ended.flow()),
        }
    }
}

impl Worst {
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            flows: BTreeMap::new(),
        }
    }

    /// Only what is worse finds room.
    fn floor(&self) -> Option<Rank> {
        let (best, _) = self.flows.first_key_value()?;
        (self.flows.len() >= self.most).then_some(*best)
    }

    fn insert(&mut self, rank: Rank, ended: Ended) {
        if self.flows.len() >= self.most {
            match self.flows.first_key_value() {
                Some((best, _)) if *best < rank => {
                    self.flows.pop_first();
                }
                _ => return,
            }
        }
        self.flows.insert(rank, ended);
    }

    /// By hop and first frame.
    #[expect(clippy::vec_box, reason = "a story is moved and sorted often")]
    pub(super) fn into_stories(self) -> Vec<Box<FlowStory>> {
        let mut flows: Vec<Ended> = self.flows.into_values().collect();
        flows.sort_by_key(|ended| (ended.hop(), ended.flow()));
        flows.into_iter().map(Ended::into_story).collect()
    }
}
