//! Analysis of capture files: makes a [`Report`](crate::report::Report) from the stories that the
//! engine tells of their packets.
//!
//! All threads do the same: take the next chunk of the file, decode its frames, sort the records
//! by shard, and let the shards that nobody works at take in what waits for them. Chunks may be
//! decoded in any order; they pass the *sequence* in the order of the file, and so reach each shard
//! in it. A flow lies in one shard, so its packets come in order. Fragments are put together at the
//! sequence: the datagram goes to its shard with the batch that completed it.

mod batch;
mod fragment;
mod hop;
mod merge;
mod refusal;
mod shard;
mod walk;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use phalanx_common::packet::Layers;
use phalanx_engine::filter::Filter;
use phalanx_engine::stitch::Trail;
use phalanx_engine::story::FlowStory;

use self::batch::{BACK_MAX_NS, Batch, Selection, decode};
use self::fragment::Assembly;
use self::hop::HopFacts;
use self::shard::{Drain, FlowCounts, Shard, Worst};
use crate::capture_file::{
    self, CaptureFile, Follow, Interface, OpenError, OpenOptions, ReadError,
};
use crate::report::Damage;

pub use self::hop::hop_reports;
pub(crate) use self::hop::interface_ids;
pub use self::merge::{Merge, MergeError, MergeHop, MergeSource, MergeTally, Merged};
pub use self::refusal::{Refusal, Refusals};
pub use self::shard::TrailBudget;
pub use self::walk::{Outside, Told, Walked, plots, walk};

/// Batches between the file and the shards, for each thread: enough that nobody waits for a slow
/// one. A batch holds a chunk of 256 KiB and 1,024 records of some 200 bytes.
const BATCH_COUNT_MAX: usize = 4;

/// Stories kept unless asked otherwise: some 25 MB.
const STORY_COUNT_DEFAULT: usize = 10_000;

/// What to analyse, and how much of it.
#[derive(Clone, Debug)]
pub struct Request {
    /// The capture; `-` is the standard input.
    pub path: PathBuf,
    /// Threads that work at it, at least 1.
    pub threads: usize,
    /// Frames that count; all without one.
    pub filter: Option<Filter>,
    /// Earliest time that counts, in nanoseconds since the epoch.
    pub since_ns: Option<i64>,
    /// Latest.
    pub until_ns: Option<i64>,
    /// Stories kept, the worst ones.
    pub story_count_max: usize,
    /// The one flow that is told of, by the number of its first frame; all without one.
    pub flow: Option<u64>,
    /// How to go on at the end of the file until told to stop.
    pub follow: Option<Follow>,
    /// Where the bytes of the file are kept as they are read.
    pub copy: Option<Arc<File>>,
    /// Whether its packets are compared with those of other captures.
    pub is_one_of_several: bool,
    /// Room for that, shared by all captures of a run.
    pub trail_budget: Arc<TrailBudget>,
}

impl Request {
    /// All of one capture, by all processors.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            filter: None,
            since_ns: None,
            until_ns: None,
            story_count_max: STORY_COUNT_DEFAULT,
            flow: None,
            follow: None,
            copy: None,
            is_one_of_several: false,
            trail_budget: Arc::default(),
        }
    }

    /// Whether its bytes are there a second time, all of them.
    fn can_read_again(&self) -> bool {
        self.follow.is_none() && self.path.as_os_str() != "-" && self.path.is_file()
    }

    fn open(&self) -> Result<CaptureFile, OpenError> {
        let options = OpenOptions {
            follow: self.follow.clone(),
            copy: self.copy.clone(),
        };
        capture_file::open(&self.path, &options)
    }
}

/// What one file came to.
#[derive(Debug, Default)]
pub struct Outcome {
    /// By interface of the file.
    pub hops: Vec<HopFacts>,
    /// The interfaces, as the file describes them.
    pub interfaces: Vec<Interface>,
    /// The worst conversations, by hop and first frame.
    pub stories: Vec<Box<FlowStory>>,
    /// The packets of all flows, by hop and first frame, where there is more than one hop.
    pub trails: Vec<Trail>,
    /// Conversations that were found.
    pub conversation_count: u64,
    /// Of these, flows that were ended early to make room for others: one that went on is a
    /// conversation once more, in the middle.
    pub evicted_count: u64,
    /// What the filter could not be applied to.
    pub refusals: Refusals,
    /// Counted oddities of the file.
    pub notes: BTreeMap<String, u64>,
    /// Where the file is damaged.
    pub damage: Option<Damage>,
    /// Why reading ended early.
    pub error: Option<ReadError>,
}

struct Source {
    file: CaptureFile,
    next: u64,
    has_ended: bool,
    error: Option<ReadError>,
    /// Frames that were read.
    frame_count: u64,
    /// Of these, those before a second interface was described: they are not compared.
    unkept_count: u64,
    selection: Arc<Selection>,
}

struct Sequence {
    next: u64,
    /// The latest time of all records that have passed.
    clock_ns: i64,
    /// Frames that are far earlier than one before them.
    back_count: u64,
    waiting: BTreeMap<u64, Batch>,
    assembly: Assembly,
}

/// What the threads share.
struct Shared<'a> {
    request: &'a Request,
    source: Mutex<Source>,
    sequence: Mutex<Sequence>,
    shards: Vec<Shard>,
    worst: Mutex<Worst>,
    hops: Mutex<Vec<HopFacts>>,
    free: Mutex<Vec<Batch>>,
    /// Batches that have been read and not been taken in by all shards.
    under_way: AtomicUsize,
    /// A thread has panicked.
    has_failed: AtomicBool,
    stop: &'a AtomicBool,
    progress: &'a (dyn Fn(u64, Option<u64>) + Sync),
}

/// Ends the work of all threads where the one that holds it panics: what that one had taken would
/// be waited for without end.
struct Alarm<'a>(&'a AtomicBool);

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

/// A mutex whose holder has panicked is used on: the panic ends the run where it is joined, and the
/// [`Alarm`] brings the others there.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Analyses one capture. `progress` is told the bytes read so far and those there are, by any
/// thread; `stop` ends the reading early.
///
/// # Errors
/// The file cannot be opened, or is no capture. What goes wrong later is in the outcome.
pub fn analyze(
    request: &Request,
    stop: &AtomicBool,
    progress: &(dyn Fn(u64, Option<u64>) + Sync),
) -> Result<Outcome, OpenError> {
    match analyze_once(request, stop, progress)? {
        Some(outcome) => Ok(outcome),
        // It is one of several hops, as only a later part of it has told: read again from its
        // beginning, with all packets kept to compare them.
        None => {
            let again = Request {
                is_one_of_several: true,
                ..request.clone()
            };
            Ok(analyze_once(&again, stop, progress)?.unwrap_or_default())
        }
    }
}

/// `None` where the file has to be read again, with its packets kept.
fn analyze_once(
    request: &Request,
    stop: &AtomicBool,
    progress: &(dyn Fn(u64, Option<u64>) + Sync),
) -> Result<Option<Outcome>, OpenError> {
    let file = request.open()?;
    let threads = request.threads.max(1);
    let shared = Shared {
        request,
        source: Mutex::new(Source {
            file,
            next: 0,
            has_ended: false,
            error: None,
            frame_count: 0,
            unkept_count: 0,
            selection: Arc::default(),
        }),
        sequence: Mutex::new(Sequence {
            next: 0,
            clock_ns: i64::MIN,
            back_count: 0,
            waiting: BTreeMap::new(),
            assembly: Assembly::default(),
        }),
        shards: (0..threads)
            .map(|_| Shard::new(threads, request.flow, &request.trail_budget))
            .collect(),
        worst: Mutex::new(Worst::new(request.story_count_max)),
        hops: Mutex::default(),
        free: Mutex::default(),
        under_way: AtomicUsize::new(0),
        has_failed: AtomicBool::new(false),
        stop,
        progress,
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(|| shared.work());
        }
        shared.work();
    });
    let is_to_be_read_again = lock(&shared.source).unkept_count > 0 && request.can_read_again();
    let outcome = shared.finish();
    Ok((!is_to_be_read_again).then_some(outcome))
}

impl Shared<'_> {
    fn work(&self) {
        let mut layers = Layers::default();
        let mut facts = Vec::new();
        let most = BATCH_COUNT_MAX * self.shards.len();
        let _alarm = Alarm(&self.has_failed);
        while !self.has_failed.load(Ordering::Relaxed) {
            if self.under_way.load(Ordering::Relaxed) >= most {
                self.drain(true);
                // Nothing waited: another thread still decodes what is next in order.
                std::thread::yield_now();
                continue;
            }
            let Some(mut batch) = self.read() else {
                break;
            };
            decode(&mut batch, &mut layers, self.shards.len(), &mut facts);
            self.pass(batch);
            self.drain(false);
        }
        let mut hops = lock(&self.hops);
        for (index, fact) in facts.into_iter().enumerate() {
            if hops.len() <= index {
                hops.resize_with(index + 1, HopFacts::default);
            }
            hops[index].add(&fact);
        }
    }

    /// The next chunk of the file.
    fn read(&self) -> Option<Batch> {
        let mut batch = lock(&self.free).pop().unwrap_or_default();
        let mut source = lock(&self.source);
        if source.has_ended || self.stop.load(Ordering::Relaxed) {
            return None;
        }
        match source.file.read_chunk(&mut batch.chunk) {
            Ok(true) => {}
            Ok(false) => {
                source.has_ended = true;
                return None;
            }
            Err(error) => {
                source.has_ended = true;
                source.error = Some(error);
                return None;
            }
        }
        // Interfaces may be described anywhere in a file.
        let interfaces = source.file.interfaces();
        if let Some(more) = Selection::beyond(&source.selection, self.request, interfaces) {
            if more.keeps_trails() && !source.selection.keeps_trails() {
                source.unkept_count = source.frame_count;
                if source.unkept_count > 0 && self.request.can_read_again() {
                    source.has_ended = true;
                    return None;
                }
            }
            source.selection = Arc::new(more);
        }
        source.frame_count += batch.chunk.frames().len() as u64;
        batch.number = source.next;
        source.next += 1;
        batch.selection = Arc::clone(&source.selection);
        (self.progress)(source.file.bytes_read(), source.file.size());
        self.under_way.fetch_add(1, Ordering::Relaxed);
        Some(batch)
    }

    /// Lets a batch through once all before it are: each shard gets it in the order of the file.
    fn pass(&self, batch: Batch) {
        let mut sequence = lock(&self.sequence);
        sequence.waiting.insert(batch.number, batch);
        while let Some(mut batch) = {
            let next = sequence.next;
            sequence.waiting.remove(&next)
        } {
            sequence.next += 1;
            if !batch.fragments.is_empty() || !sequence.assembly.is_empty() {
                sequence.assembly.pass(&mut batch);
            }
            batch.clock_before_ns = sequence.clock_ns;
            let is_back = batch.first_ns.is_some_and(|first| {
                sequence.clock_ns != i64::MIN
                    && sequence.clock_ns.saturating_sub(first) > BACK_MAX_NS
            });
            sequence.back_count += batch.back_count + u64::from(is_back);
            sequence.clock_ns = sequence.clock_ns.max(batch.clock_ns);
            self.hand_on(batch);
        }
    }

    /// Gives a batch to all shards.
    fn hand_on(&self, batch: Batch) {
        let batch = Arc::new(batch);
        for shard in &self.shards {
            shard.push(Arc::clone(&batch));
        }
    }

    /// Takes in what waits at the shards that nobody works at; `is_patient` waits for the others.
    fn drain(&self, is_patient: bool) {
        for (index, shard) in self.shards.iter().enumerate() {
            let drain = Drain {
                index,
                is_patient,
                worst: &self.worst,
            };
            shard.drain(drain, |batch| self.release(batch));
        }
    }

    fn release(&self, batch: Arc<Batch>) {
        if let Some(batch) = Arc::into_inner(batch) {
            lock(&self.free).push(batch);
            self.under_way.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Hands out what no fragment completes any more.
    fn finish_fragments(&self) {
        let mut sequence = lock(&self.sequence);
        if sequence.assembly.is_empty() {
            return;
        }
        let mut batch = lock(&self.free).pop().unwrap_or_default();
        batch.clear(self.shards.len());
        batch.clock_before_ns = sequence.clock_ns;
        sequence.assembly.finish();
        let clock_ns = sequence.clock_ns;
        sequence.assembly.add_to(&mut batch, clock_ns);
        self.under_way.fetch_add(1, Ordering::Relaxed);
        self.hand_on(batch);
    }

    fn finish(self) -> Outcome {
        self.finish_fragments();
        self.drain(true);
        let sequence = self.sequence.into_inner();
        let Sequence {
            clock_ns,
            assembly,
            back_count,
            ..
        } = sequence.unwrap_or_else(PoisonError::into_inner);
        let source = self
            .source
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        let (flow_counts, mut trails) = finish_all(self.shards, clock_ns, &self.worst);
        trails.sort_by_key(|trail| (trail.hop, trail.flow));
        let worst = self
            .worst
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        let mut hops = self
            .hops
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        let interfaces = source.file.interfaces().to_vec();
        let count = interfaces.len().max(hops.len()).max(assembly.facts().len());
        hops.resize_with(count, HopFacts::default);
        for (hop, facts) in hops.iter_mut().zip(assembly.facts()) {
            hop.add(facts);
        }
        let left_out = |index: u32| hops.get(index as usize).map_or(0, |hop| hop.left_out);
        let filter = self.request.filter.as_ref();
        Outcome {
            refusals: Refusals::new(filter, &interfaces, left_out),
            hops,
            interfaces,
            stories: worst.into_stories(),
            trails,
            conversation_count: flow_counts.all,
            evicted_count: flow_counts.evicted,
            notes: hop::notes(
                source.file.notes(),
                assembly.counts(),
                back_count,
                source.unkept_count,
            ),
            damage: source.file.damage().map(|damage| Damage {
                offset: damage.offset,
                frame: damage.frame_count,
                reason: damage.fault.to_string(),
            }),
            error: source.error,
        }
    }
}

/// Ends all flows, those of each shard by a thread of its own: how many there were, and their
/// trails.
fn finish_all(
    mut shards: Vec<Shard>,
    clock_ns: i64,
    worst: &Mutex<Worst>,
) -> (FlowCounts, Vec<Trail>) {
    let last = shards.pop();
    std::thread::scope(|scope| {
        let spawn = |shard: Shard| scope.spawn(move || shard.finish(clock_ns, worst));
        let others: Vec<_> = shards.into_iter().map(spawn).collect();
        let last = last.map(|shard| shard.finish(clock_ns, worst));
        let (mut counts, mut trails) = last.unwrap_or_default();
        for other in others {
            match other.join() {
                Ok((more, others)) => {
                    counts = counts.plus(more);
                    trails.extend(others);
                }
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        (counts, trails)
    })
}
