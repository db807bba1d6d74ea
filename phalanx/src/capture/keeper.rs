//! All captures: those that run and those that are kept.

mod entry;
mod resume;
mod room;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use phalanx_common::abi::Counter;
use phalanx_engine::{Hop, HopId};
use tokio::sync::{mpsc, oneshot, watch};

pub(crate) use self::resume::{Missing, Salvaged};
use super::QUEUE_COUNT_MAX;
use super::age::Age;
use super::job::{Job, Outcome, Progress};
use super::past::Past;
use super::plan::Plan;
use super::remains::Remains;
use super::request::{BadField, CaptureRequest, Wanted};
use super::store::{Keeping, Store};
use super::study::{Source, Study};
use super::view::{
    CaptureState, CaptureView, EndReason, Gap, Loss, LossKind, PlanView, count_captures,
    latest_first,
};
use crate::api::show::wall_time;
use crate::daemon::{DaemonHandle, Record};
use crate::kernel::RecordingFilter;
use crate::lookback::Seam;
use crate::view::Outlook;

/// How often a running capture looks whether its interfaces are there, and old ones are deleted.
const TICK: Duration = Duration::from_secs(1);

/// After a filter was taken out of the kernel, and the ring was drained: until its last records
/// have come to the capture.
const DRAIN: Duration = Duration::from_millis(250);

/// Ids that are tried for a capture, each another.
const ID_TRY_COUNT: usize = 16;

/// How long the end of a capture is waited for, and how often it is looked for.
const END_TIMEOUT: Duration = Duration::from_secs(5);
const END_PAUSE: Duration = Duration::from_millis(20);

/// All captures.
#[derive(Debug)]
pub struct Captures {
    keeping: Keeping,
    store: Store,
    outlook: Arc<Outlook>,
    daemon: DaemonHandle,
    pub(crate) study: Study,
    captures: Mutex<BTreeMap<String, Arc<Capture>>>,
    /// Held while the recording filters of the kernel are changed: one after the other.
    recording: tokio::sync::Mutex<()>,
    created_count: AtomicU64,
}

/// One capture.
#[derive(Debug)]
struct Capture {
    view: Mutex<CaptureView>,
    progress: Arc<Progress>,
    flushed: watch::Receiver<u64>,
    running: Mutex<Option<Running>>,
    /// When it ended, on the clock that nobody sets.
    ended: OnceLock<Age>,
}

/// What a capture has while it runs.
#[derive(Debug)]
struct Running {
    filters: Vec<(u8, RecordingFilter)>,
    mask: u64,
    records: Option<SyncSender<Arc<Vec<Record>>>>,
    stop: Option<oneshot::Sender<EndReason>>,
    losses_before: (u64, u64),
}

/// What a capture does, within the limits.
struct Task {
    wanted: Wanted,
    filters: Vec<(u8, RecordingFilter)>,
    hops: BTreeMap<HopId, Arc<Hop>>,
}

/// A capture that can begin.
struct Prepared {
    capture: Arc<Capture>,
    file: std::fs::File,
    job: Job,
    stopped: oneshot::Receiver<EndReason>,
}

/// Why something cannot be done with captures.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// A field is not acceptable.
    #[error(transparent)]
    Field(#[from] BadField),
    /// A limit is reached.
    #[error("{0}")]
    Limit(String),
    /// There is no room on the disk.
    #[error("{0}")]
    DiskFull(String),
    /// There is no such capture.
    #[error("there is no such capture")]
    Unknown,
    /// It runs.
    #[error("the capture runs")]
    Running,
    /// The kernel side or the disk refused.
    #[error("{0}")]
    Unavailable(String),
}

impl Captures {
    /// Opens the directory and lists what earlier runs have left there.
    ///
    /// # Errors
    /// The directory cannot be made or read.
    pub fn open(
        keeping: Keeping,
        outlook: Arc<Outlook>,
        daemon: DaemonHandle,
    ) -> std::io::Result<Self> {
        let store = Store::open(&keeping.directory)?;
        let mut captures = BTreeMap::new();
        for view in store.load()? {
            captures.insert(view.id.clone(), Arc::new(Capture::kept(view)));
        }
        let study = Study::new(&keeping.directory);
        let captures = Self {
            study,
            keeping,
            store,
            outlook,
            daemon,
            captures: Mutex::new(captures),
            recording: tokio::sync::Mutex::new(()),
            created_count: AtomicU64::new(0),
        };
        captures.make_room(0, None);
        captures.count();
        Ok(captures)
    }

    /// Bytes that all captures may take.
    pub(crate) const fn bytes_max(&self) -> u64 {
        self.keeping.bytes_max
    }

    /// Begins a capture.
    ///
    /// # Errors
    /// A field is not acceptable, a limit is reached, or the kernel side or the disk refuses.
    pub async fn create(self: &Arc<Self>, request: CaptureRequest) -> Result<CaptureView, Failure> {
        self.create_for(request, None).await
    }

    /// Begins a capture; `hub_id` is where a hub asked for it.
    pub(crate) async fn create_for(
        self: &Arc<Self>,
        request: CaptureRequest,
        hub_id: Option<String>,
    ) -> Result<CaptureView, Failure> {
        let keeper = Arc::clone(self);
        // In a task of its own: who asks may go away at any time, and what has begun by then must
        // still be followed to its end.
        let begun = tokio::spawn(async move { keeper.begin(request, hub_id).await });
        let broken = |_| Failure::Unavailable("the capture did not begin".to_owned());
        begun.await.map_err(broken)?
    }

    async fn begin(
        self: Arc<Self>,
        mut request: CaptureRequest,
        hub_id: Option<String>,
    ) -> Result<CaptureView, Failure> {
        request.narrow(&self.outlook.view())?;
        let wanted = request.check(self.keeping.bytes_max)?;
        let Plan { filters, view } = Plan::new(&wanted)?;
        let hops = wanted.request.hops(&self.outlook.view())?;
        self.check_lookback(&wanted)?;
        let guard = self.recording.lock().await;
        self.check_limits(&wanted, None)?;
        let task = Task {
            filters: self.number(filters)?,
            wanted,
            hops,
        };
        let prepared = self.prepare(task, view, hub_id)?;
        let id = prepared.capture.view().id.clone();
        let launched = self.launch(prepared).await;
        drop(guard);
        if launched.is_err() {
            self.lock().remove(&id);
            let _ = self.store.delete(&id);
        }
        launched
    }

    /// Lets a capture record, and follows it to its end. Whoever calls holds `recording`.
    async fn launch(self: &Arc<Self>, prepared: Prepared) -> Result<CaptureView, Failure> {
        let Prepared {
            capture,
            file,
            mut job,
            stopped,
        } = prepared;
        let id = capture.view().id.clone();
        self.lock().insert(id, Arc::clone(&capture));
        let recording = self.daemon.set_recording(self.filters()).await;
        let seam = recording.map_err(Failure::Unavailable)?;
        if job.remains.is_some() {
            let on_ns = self.outlook.clock.wall_ns(crate::clock::now());
            capture.view().end_gap(wall_time(on_ns));
        }
        self.look_back(&capture, &mut job, seam);
        let view = capture.show();
        let (done, outcome) = oneshot::channel();
        let duration = job.wanted.duration;
        let thread = std::thread::Builder::new().name("capture".to_owned());
        // Where no thread can be had, `done` is dropped, and the capture ends as failed.
        let started = thread.spawn(move || drop(done.send(job.run(file))));
        if let Err(error) = started {
            tracing::warn!(%error, "start the thread of a capture");
        }
        let keeper = Arc::clone(self);
        tokio::spawn(async move {
            let ends = (outcome, stopped);
            keeper.watch(&capture, duration, ends).await;
        });
        self.count();
        Ok(view)
    }

    /// Whether looking back is possible, where it is asked for.
    fn check_lookback(&self, wanted: &Wanted) -> Result<(), Failure> {
        if wanted.request.lookback.is_none() || self.daemon.lookback.is_on() {
            return Ok(());
        }
        Err(Failure::Field(BadField::new(
            "lookback",
            "this daemon keeps no recent packets",
            "leave it out, or set lookback_feed to promoted, filter or all",
        )))
    }

    /// Where a capture looks back, says what of that time it covers and gives it to its thread.
    fn look_back(&self, capture: &Capture, job: &mut Job, seam: Seam) {
        let mut view = capture.view();
        // What goes on has looked back before.
        let Some(seconds) = view.request.lookback.filter(|_| job.remains.is_none()) else {
            return;
        };
        let lookback = &self.daemon.lookback;
        let since_ns = seam
            .at_ns
            .saturating_sub(u64::from(seconds) * 1_000_000_000);
        let hops = job.hops.iter().map(|(id, hop)| (*id, &*hop.interface));
        let covered = lookback.cover(hops, since_ns, seam, &self.outlook.clock);
        view.lookback = Some(covered);
        job.past = Some(Past {
            lookback: Arc::clone(lookback),
            seam,
            since_ns,
            from: lookback.first_since(since_ns),
        });
    }

    /// Everything that a new capture needs.
    fn prepare(
        &self,
        task: Task,
        plan: PlanView,
        hub_id: Option<String>,
    ) -> Result<Prepared, Failure> {
        let (id, file) = self.create_file().map_err(unwritten)?;
        let interfaces = task.hops.values().map(|hop| hop.interface.to_string());
        let view = CaptureView {
            state: CaptureState::Running,
            end_reason: None,
            request: task.wanted.request.clone(),
            plan,
            interfaces: interfaces.collect(),
            created: wall_time(self.outlook.clock.wall_ns(crate::clock::now())),
            ended: None,
            packets: 0,
            bytes: 0,
            filtered_out: 0,
            lookback: None,
            losses: Vec::new(),
            gaps: Vec::new(),
            hub_id,
            hosts: Vec::new(),
            file: format!("/api/v1/captures/{id}/file"),
            id,
        };
        self.store.describe(&view).map_err(|error| {
            let _ = self.store.delete(&view.id);
            unwritten(error)
        })?;
        Ok(self.assemble(task, view, (file, None)))
    }

    /// A capture, and what its thread needs; `remains` where it goes on.
    fn assemble(
        &self,
        task: Task,
        view: CaptureView,
        (file, remains): (std::fs::File, Option<Remains>),
    ) -> Prepared {
        let Task {
            wanted,
            filters,
            hops,
        } = task;
        let mask = filters
            .iter()
            .fold(0, |mask, (number, _)| mask | 1 << number);
        let bytes = remains.as_ref().map_or(0, |it| it.bytes);
        let (records, queue) = sync_channel(QUEUE_COUNT_MAX);
        let (flushed, flushed_receiver) = watch::channel(bytes);
        let (stop, stopped) = oneshot::channel();
        let progress = Arc::new(Progress::of(&view, bytes));
        let written = &self.outlook.metrics.daemon().capture_packets;
        let job = Job {
            written: written.with_label_values(&["written"]),
            comment: format!("Phalanx capture {}: {}", view.id, wanted.request.filter),
            wanted,
            hops,
            records: queue,
            past: None,
            remains,
            mask,
            progress: Arc::clone(&progress),
            flushed,
            clock: self.outlook.clock.clone(),
            translations: Arc::clone(&self.daemon.translations),
        };
        let running = Running {
            filters,
            mask,
            records: Some(records),
            stop: Some(stop),
            losses_before: self.losses(),
        };
        let capture = Capture {
            view: Mutex::new(view),
            progress,
            flushed: flushed_receiver,
            running: Mutex::new(Some(running)),
            ended: OnceLock::new(),
        };
        Prepared {
            capture: Arc::new(capture),
            file,
            job,
            stopped,
        }
    }

    /// A file under an id that nobody has: two daemons may share the directory, and a hub lets them
    /// begin in the same millisecond.
    fn create_file(&self) -> std::io::Result<(String, std::fs::File)> {
        for _ in 0..ID_TRY_COUNT {
            let id = self.new_id();
            match self.store.create(&id) {
                Ok(file) => return Ok((id, file)),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(std::io::ErrorKind::AlreadyExists.into())
    }

    fn new_id(&self) -> String {
        let wall_ms = self.outlook.clock.wall_ns(crate::clock::now()) / 1_000_000;
        let count = self.created_count.fetch_add(1, Ordering::Relaxed);
        format!("{wall_ms:x}-{count:x}")
    }

    /// The recording filters of all captures that run.
    fn filters(&self) -> Vec<(u8, RecordingFilter)> {
        let captures = self.lock();
        captures
            .values()
            .filter_map(|capture| capture.running().as_ref().map(|it| it.filters.clone()))
            .flatten()
            .collect()
    }

    /// What was lost so far, whichever capture it was for: ring, queue of the daemon.
    fn losses(&self) -> (u64, u64) {
        self.outlook.kernel().map_or((0, 0), |kernel| {
            (
                kernel.counter(Counter::DroppedRingFull),
                kernel.records_dropped_queue_full,
            )
        })
    }

    /// Ends a capture when its time is over, it is told to, it has reached a limit, or its
    /// interfaces are gone.
    async fn watch(
        &self,
        capture: &Capture,
        duration: Duration,
        (mut thread, mut stopped): (oneshot::Receiver<Outcome>, oneshot::Receiver<EndReason>),
    ) {
        let end = tokio::time::sleep(duration);
        tokio::pin!(end);
        let mut tick = tokio::time::interval(TICK);
        let (reason, outcome) = loop {
            tokio::select! {
                () = &mut end => break (EndReason::Duration, None),
                reason = &mut stopped => break (reason.unwrap_or(EndReason::Stopped), None),
                outcome = &mut thread => break (EndReason::WriteFailed, Some(outcome)),
                _ = tick.tick() => {
                    if self.check_interfaces(capture) {
                        break (EndReason::InterfacesVanished, None);
                    }
                }
            }
        };
        self.withdraw(capture).await;
        let outcome = match outcome {
            Some(outcome) => outcome,
            None => {
                tokio::time::sleep(DRAIN).await;
                // The thread ends when it has written what waits in its queue.
                if let Some(running) = &mut *capture.running() {
                    running.records = None;
                }
                thread.await
            }
        };
        self.finish(capture, reason, outcome.ok());
    }

    /// Notes interfaces that have vanished; whether none is left.
    fn check_interfaces(&self, capture: &Capture) -> bool {
        let view = self.outlook.view();
        let is_there = |name: &String| {
            view.hops
                .iter()
                .any(|(_, hop)| *hop.facts.interface == **name)
        };
        let mut shown = capture.view();
        let gone: Vec<String> = shown
            .interfaces
            .iter()
            .filter(|name| !is_there(name))
            .cloned()
            .collect();
        for name in &gone {
            shown.note_vanished(name);
        }
        gone.len() == shown.interfaces.len()
    }

    /// Takes the filters of a capture out of the kernel.
    async fn withdraw(&self, capture: &Capture) {
        let _guard = self.recording.lock().await;
        if let Some(running) = &mut *capture.running() {
            running.filters.clear();
        }
        if let Err(error) = self.daemon.set_recording(self.filters()).await {
            tracing::debug!(error, "withdraw recording filters");
        }
    }

    fn finish(&self, capture: &Capture, reason: EndReason, outcome: Option<Outcome>) {
        let before = capture
            .running()
            .take()
            .map_or((0, 0), |running| running.losses_before);
        let after = self.losses();
        let mut view = capture.view();
        let (ended, failure) = match outcome {
            Some(outcome) => (outcome.end_reason, outcome.failure),
            None => (
                Some(EndReason::WriteFailed),
                Some((LossKind::WriteFailed, "the writer broke off".to_owned())),
            ),
        };
        let _ = capture.ended.set(Age::now());
        view.end_reason = Some(ended.unwrap_or(reason));
        view.ended = Some(wall_time(self.outlook.clock.wall_ns(crate::clock::now())));
        let failure = failure.map(|(kind, detail)| Loss {
            kind,
            packets: 0,
            detail,
        });
        view.losses.extend(failure);
        let queue = Progress::load(&capture.progress.queue_dropped);
        let queue = queue.saturating_add(after.1.saturating_sub(before.1));
        let past = Progress::load(&capture.progress.past_gone);
        // Of what goes on, the process before told that.
        let covered = view.lookback.as_ref().filter(|_| view.gaps.is_empty());
        let past = past + covered.map_or(0, |it| it.lost);
        let counted = [
            (
                LossKind::RingFull,
                after.0.saturating_sub(before.0),
                RING_FULL,
            ),
            (LossKind::QueueFull, queue, QUEUE_FULL),
            (LossKind::Lookback, past, PAST_LOST),
            (
                LossKind::Undecided,
                Progress::load(&capture.progress.undecided),
                UNDECIDED,
            ),
        ];
        for (kind, packets, detail) in counted.into_iter().filter(|(_, packets, _)| *packets > 0) {
            view.losses.push(Loss {
                kind,
                packets,
                detail: detail.to_owned(),
            });
        }
        view.state = if view.losses.is_empty() {
            CaptureState::Complete
        } else {
            CaptureState::Partial
        };
        capture.overlay(&mut view);
        if let Err(error) = self.store.describe(&view) {
            tracing::warn!(%error, id = view.id, "describe a capture");
        }
        drop(view);
        self.make_room(0, None);
        self.count();
    }

    /// Hands records to the captures that want them; never waits.
    pub fn dispatch(&self, batch: Vec<Record>) {
        let batch = Arc::new(batch);
        let captures = self.lock();
        for capture in captures.values() {
            let running = capture.running();
            let Some(running) = &*running else { continue };
            let Some(records) = &running.records else {
                continue;
            };
            let wanted = batch
                .iter()
                .filter(|it| it.header.matched & running.mask != 0)
                .count();
            if wanted == 0 {
                continue;
            }
            match records.try_send(Arc::clone(&batch)) {
                Ok(()) => {}
                Err(TrySendError::Full(_)) => {
                    let dropped = wanted as u64;
                    capture
                        .progress
                        .queue_dropped
                        .fetch_add(dropped, Ordering::Relaxed);
                    let family = &self.outlook.metrics.daemon().capture_packets;
                    family
                        .with_label_values(&["dropped_queue_full"])
                        .inc_by(dropped);
                }
                Err(TrySendError::Disconnected(_)) => {}
            }
        }
    }

    /// Hands out records until the daemon's loop ends, and deletes what has become too old.
    pub async fn follow(&self, mut records: mpsc::Receiver<Vec<Record>>) {
        let mut tick = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                batch = records.recv() => match batch {
                    Some(batch) => self.dispatch(batch),
                    None => return,
                },
                _ = tick.tick() => {
                    self.make_room(0, None);
                    self.count();
                }
            }
        }
    }

    /// All captures, the latest first.
    #[must_use]
    pub fn list(&self) -> Vec<CaptureView> {
        latest_first(self.lock().values().map(|capture| capture.show()))
    }

    /// One capture.
    ///
    /// # Errors
    /// There is none with this id.
    pub fn get(&self, id: &str) -> Result<CaptureView, Failure> {
        Ok(self.find(id)?.show())
    }

    /// Ends a capture; its file is kept. One that has ended already stays as it is.
    ///
    /// # Errors
    /// There is none with this id.
    pub async fn stop(&self, id: &str) -> Result<CaptureView, Failure> {
        let capture = self.find(id)?;
        let stop = capture
            .running()
            .as_mut()
            .and_then(|running| running.stop.take());
        if let Some(stop) = stop {
            let _ = stop.send(EndReason::Stopped);
        }
        let limit = tokio::time::Instant::now() + END_TIMEOUT;
        while capture.running().is_some() && tokio::time::Instant::now() < limit {
            tokio::time::sleep(END_PAUSE).await;
        }
        Ok(capture.show())
    }

    /// Ends all captures, because the daemon does.
    pub async fn end_all(&self) {
        let captures: Vec<_> = self.lock().values().cloned().collect();
        for capture in &captures {
            let stop = capture
                .running()
                .as_mut()
                .and_then(|running| running.stop.take());
            if let Some(stop) = stop {
                let _ = stop.send(EndReason::DaemonStopped);
            }
        }
        let limit = tokio::time::Instant::now() + END_TIMEOUT;
        while captures.iter().any(|capture| capture.running().is_some())
            && tokio::time::Instant::now() < limit
        {
            tokio::time::sleep(END_PAUSE).await;
        }
    }

    /// Deletes a capture and its file.
    ///
    /// # Errors
    /// There is none with this id, it runs, or the disk refuses.
    pub fn delete(&self, id: &str) -> Result<(), Failure> {
        let capture = self.find(id)?;
        if capture.running().is_some() {
            return Err(Failure::Running);
        }
        let refused = |error| Failure::Unavailable(format!("delete the capture: {error}"));
        self.store.delete(id).map_err(refused)?;
        self.lock().remove(id);
        self.count();
        Ok(())
    }

    /// The file of a capture, how much of it is whole, and whether it grows still.
    ///
    /// # Errors
    /// There is none with this id.
    pub fn file(&self, id: &str) -> Result<(PathBuf, watch::Receiver<u64>), Failure> {
        let capture = self.find(id)?;
        Ok((self.store.file(id), capture.flushed.clone()))
    }

    fn find(&self, id: &str) -> Result<Arc<Capture>, Failure> {
        self.lock().get(id).cloned().ok_or(Failure::Unknown)
    }

    /// Tells the metrics.
    fn count(&self) {
        let views: Vec<_> = self.lock().values().map(|it| it.show()).collect();
        count_captures(self.outlook.metrics.daemon(), &views);
    }

    /// The file of a capture that has ended, to be studied.
    ///
    /// # Errors
    /// There is none with this id, or it runs.
    pub(crate) fn sources(&self, id: &str) -> Result<Vec<Source>, Failure> {
        let capture = self.find(id)?;
        if capture.running().is_some() {
            return Err(Failure::Running);
        }
        let gaps = capture.view().gaps.iter().filter_map(Gap::ns).collect();
        Ok(vec![Source {
            name: "capture".to_owned(),
            path: self.store.file(id),
            clock: None,
            host: None,
            gaps,
        }])
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Capture>>> {
        self.captures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The disk refused.
fn unwritten(error: std::io::Error) -> Failure {
    Failure::Unavailable(format!("write the capture: {error}"))
}

const RING_FULL: &str = "the ring of records was full; narrow the filter or capture fewer bytes";
const QUEUE_FULL: &str = "the writing did not keep up; narrow the filter or use a faster disk";
const PAST_LOST: &str =
    "packets of before the request did not reach the memory, or left it before they were read";
const UNDECIDED: &str =
    "the filter looks at bytes that were not captured; ask for a larger snaplen";
