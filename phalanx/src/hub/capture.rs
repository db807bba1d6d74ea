//! [`PathCaptures`]: captures on several hosts at once. Each agent takes its part as any capture
//! and delivers it while it grows; at the end all parts become one file on one clock.
//!
//! **Invariant:** a capture ends, whatever its agents do, and says what each of them did not give.
//! It goes on where the hub is restarted. What the hub has told an agent that it has, is on disk.

mod deliver;
mod part;
#[cfg(test)]
mod tests;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use phalanx_engine::{Hop, HopId};
use tokio::sync::{Notify, watch as channel};
use tokio::task::JoinSet;

use super::lines::Lines;
use super::roster::AgentStatus;
use super::run::nanoseconds;
use crate::api::agents::boot_id;
use crate::api::show::wall_time;
use crate::capture::{
    Age, BYTES_DEFAULT, BYTES_MIN, BadField, CaptureRequest, CaptureState, CaptureView, EndReason,
    Failure, Gap, HostPart, INTERFACE_COUNT_MAX, Keeping, Loss, LossKind, PlanView,
    RUNNING_COUNT_MAX, Source, Store, Study, Wanted, count_captures, latest_first, plan_of,
};
use crate::clock::Reading;
use crate::link::protocol::hub_message::Message as FromHub;
use crate::link::protocol::{CaptureOrder, CaptureStop};
use crate::view::Outlook;

use self::part::Part;

/// Hosts of one capture.
const HOST_COUNT_MAX: usize = 64;
/// What a capture takes on disk of its total: the parts, and once more when they are put together,
/// with a comment a packet.
const DISK_FACTOR: u64 = 3;
/// How far ahead the beginning lies, so that all agents hear of it before.
const LEAD: Duration = Duration::from_millis(300);
/// How long the beginning of all parts is waited for by whoever asks for a capture, and its end by
/// whoever stops it; how often it is looked for.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(3);
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(20);
/// How often it is looked for captures that are too old.
const KEEPING_INTERVAL: Duration = Duration::from_secs(1);

/// All captures of a hub.
#[derive(Debug)]
pub(crate) struct PathCaptures {
    keeping: Keeping,
    store: Store,
    outlook: Arc<Outlook>,
    lines: Arc<Lines>,
    pub(crate) study: Study,
    captures: Mutex<BTreeMap<String, Arc<PathCapture>>>,
    /// Held while a capture begins: the limits are of all of them.
    beginning: tokio::sync::Mutex<()>,
    /// Held while the description of a capture is written.
    describing: Mutex<()>,
    created_count: AtomicU64,
}

/// One capture.
#[derive(Debug)]
struct PathCapture {
    state: Mutex<State>,
    /// Something happened that its task is to look at.
    changed: Notify,
    /// Bytes of the merged file that readers can have; the sending half goes when it has ended.
    merged: channel::Receiver<u64>,
    growing: Mutex<Option<channel::Sender<u64>>>,
    /// When it ended, on the clock that nobody sets.
    ended: OnceLock<Age>,
}

#[derive(Debug)]
struct State {
    view: CaptureView,
    /// In the order of `view.hosts`.
    parts: Vec<Part>,
    /// When its parts begin and end, in nanoseconds since 1970.
    start_wall_ns: u64,
    end_wall_ns: u64,
    /// Somebody or a limit ended it before.
    stopped: Option<EndReason>,
}

/// A host that is to record.
struct Site {
    status: AgentStatus,
    interfaces: BTreeSet<String>,
}

impl PathCaptures {
    /// Opens the directory and lists what earlier runs have left there; those that were under way
    /// go on with [`Self::keep`].
    ///
    /// # Errors
    /// The directory cannot be made or read.
    pub(crate) fn open(
        keeping: Keeping,
        outlook: Arc<Outlook>,
        lines: Arc<Lines>,
    ) -> std::io::Result<Self> {
        let store = Store::open(&keeping.directory)?;
        let mut captures = BTreeMap::new();
        for mut view in store.load_as_it_was()? {
            for (number, host) in view.hosts.iter_mut().enumerate() {
                let file = std::fs::metadata(store.part(&view.id, number));
                host.bytes = file.map_or(0, |file| file.len());
            }
            let parts = view.hosts.iter().enumerate();
            let parts = parts.map(|(number, host)| {
                let path = store.part(&view.id, number);
                let is_done = host.state != CaptureState::Running;
                Part::found(path, view.request.max_bytes.unwrap_or_default(), is_done)
            });
            let parts = parts.collect();
            captures.insert(view.id.clone(), Arc::new(PathCapture::new(view, parts)));
        }
        let study = Study::new(&keeping.directory);
        let captures = Self {
            keeping,
            store,
            outlook,
            lines,
            study,
            captures: Mutex::new(captures),
            beginning: tokio::sync::Mutex::new(()),
            describing: Mutex::default(),
            created_count: AtomicU64::new(0),
        };
        captures.make_room(0);
        captures.count();
        Ok(captures)
    }

    /// Goes on with the captures that were under way when the hub ended, and deletes what has
    /// become too old.
    pub(crate) async fn keep(self: Arc<Self>) {
        let all: Vec<_> = self.lock().values().cloned().collect();
        for capture in all.into_iter().filter(|it| it.is_running()) {
            tokio::spawn(Arc::clone(&self).follow(capture));
        }
        let mut tick = tokio::time::interval(KEEPING_INTERVAL);
        loop {
            tick.tick().await;
            self.make_room(0);
            self.count();
        }
    }

    /// Begins a capture.
    ///
    /// # Errors
    /// A field is not acceptable, a limit is reached, no agent is here, or the disk refuses.
    pub(crate) async fn create(
        self: &Arc<Self>,
        request: CaptureRequest,
    ) -> Result<CaptureView, Failure> {
        let keeper = Arc::clone(self);
        // In a task of its own: who asks may go away at any time, and what has begun by then must
        // still be followed to its end.
        let begun = tokio::spawn(async move { keeper.begin(request).await });
        let broken = |_| Failure::Unavailable("the capture did not begin".to_owned());
        begun.await.map_err(broken)?
    }

    async fn begin(self: Arc<Self>, mut request: CaptureRequest) -> Result<CaptureView, Failure> {
        request.narrow(&self.outlook.view())?;
        let hops = request.hops(&self.outlook.view())?;
        let sites = self.sites(&hops)?;
        let wanted = share(request, sites.len() as u64, self.keeping.bytes_max)?;
        let plan = plan_of(&wanted)?;
        let beginning = self.beginning.lock().await;
        self.check_limits(&wanted)?;
        let capture = self.prepare(wanted.request, plan, &sites)?;
        let id = capture.lock().view.id.clone();
        self.lock().insert(id, Arc::clone(&capture));
        drop(beginning);
        let mut orders = JoinSet::new();
        for number in 0..sites.len() {
            let (keeper, capture) = (Arc::clone(&self), Arc::clone(&capture));
            orders.spawn(async move { keeper.order(&capture, number).await });
        }
        orders.join_all().await;
        tokio::spawn(Arc::clone(&self).follow(Arc::clone(&capture)));
        // Who asked may send at once what is to be captured.
        let limit = tokio::time::Instant::now() + BEGIN_TIMEOUT;
        while !capture.lock().has_begun() && tokio::time::Instant::now() < limit {
            tokio::time::sleep(PAUSE).await;
        }
        let view = capture.show();
        self.count();
        Ok(view)
    }

    /// The hosts of some hops, each with its agent.
    fn sites(&self, hops: &BTreeMap<HopId, Arc<Hop>>) -> Result<BTreeMap<String, Site>, Failure> {
        let agents = self.outlook.agents();
        let mut sites: BTreeMap<String, Site> = BTreeMap::new();
        for hop in hops.values() {
            let agent = agents.iter().find(|it| it.name == *hop.host);
            let agent = agent.ok_or_else(|| {
                let host = &hop.host;
                Failure::Unavailable(format!("{host} has only just come: ask again in a second"))
            })?;
            let site = sites.entry(agent.name.clone()).or_insert_with(|| Site {
                status: agent.clone(),
                interfaces: BTreeSet::new(),
            });
            site.interfaces.insert(hop.interface.to_string());
        }
        if sites.len() > HOST_COUNT_MAX {
            return Err(Failure::Limit(format!(
                "{} hosts are asked, the most is {HOST_COUNT_MAX}: name some with hops",
                sites.len()
            )));
        }
        if !sites
            .values()
            .any(|it| self.lines.is_open(&it.status.agent))
        {
            return Err(Failure::Unavailable(
                "no agent of these hosts is connected: see /api/v1/agents".to_owned(),
            ));
        }
        Ok(sites)
    }

    fn check_limits(&self, wanted: &Wanted) -> Result<(), Failure> {
        let running: Vec<u64> = self
            .lock()
            .values()
            .filter(|capture| capture.is_running())
            .map(|capture| capture.lock().total_max())
            .collect();
        if running.len() >= RUNNING_COUNT_MAX {
            return Err(Failure::Limit(format!(
                "{RUNNING_COUNT_MAX} captures run, no more may at once"
            )));
        }
        let total = wanted.request.max_total_bytes.unwrap_or_default();
        let needed = running.iter().sum::<u64>().saturating_add(total);
        let needed = needed.saturating_mul(DISK_FACTOR);
        if needed > self.keeping.bytes_max {
            return Err(Failure::Limit(format!(
                "this capture and those that run may write {needed} bytes, that is beyond {}",
                self.keeping.bytes_max
            )));
        }
        self.make_room(needed);
        self.store.check_room(total.saturating_mul(DISK_FACTOR))
    }

    /// Writes down what is asked for, within the limits.
    fn prepare(
        &self,
        request: CaptureRequest,
        plan: PlanView,
        sites: &BTreeMap<String, Site>,
    ) -> Result<Arc<PathCapture>, Failure> {
        let wall_ns = self.wall_ns();
        let count = self.created_count.fetch_add(1, Ordering::Relaxed);
        let id = format!("{:x}-{count:x}", wall_ns / 1_000_000);
        let interfaces = sites.iter().flat_map(|(host, site)| {
            let names = site.interfaces.iter();
            names.map(move |name| format!("{host}:{name}"))
        });
        let view = CaptureView {
            state: CaptureState::Running,
            end_reason: None,
            plan,
            interfaces: interfaces.collect(),
            created: wall_time(wall_ns + nanoseconds(LEAD)),
            ended: None,
            packets: 0,
            bytes: 0,
            filtered_out: 0,
            lookback: None,
            losses: Vec::new(),
            gaps: Vec::new(),
            hub_id: None,
            hosts: sites
                .iter()
                .map(|(host, site)| host_part(host, site))
                .collect(),
            file: format!("/api/v1/captures/{id}/file"),
            request,
            id,
        };
        let unavailable =
            |error: std::io::Error| Failure::Unavailable(format!("write the capture: {error}"));
        let bytes_max = view.request.max_bytes.unwrap_or_default();
        let begun = self.store.create_parts(&view).map(|paths| {
            let parts = paths.into_iter();
            let parts = parts.map(|path| Part::found(path, bytes_max, false));
            Arc::new(PathCapture::new(view.clone(), parts.collect()))
        });
        begun.map_err(|error| {
            // Fails only where the disk is as bad as before.
            let _ = self.store.delete(&view.id);
            unavailable(error)
        })
    }

    /// Tells an agent what to record; where it is not here, its part has ended.
    async fn order(&self, capture: &PathCapture, number: usize) {
        let Some((agent, order)) = capture.lock().order(number, self.wall_ns()) else {
            return;
        };
        if !self.lines.tell(&agent, FromHub::Capture(order)).await {
            let away = "no session with its agent when the capture began";
            capture.lock().lose(number, LossKind::HostAway, away);
            capture.changed.notify_one();
        }
    }

    /// A session begins: its agent is told of captures that are under way.
    pub(crate) async fn greet(&self, agent: &str) {
        let all: Vec<_> = self.lock().values().cloned().collect();
        for capture in all {
            let number = capture.lock().number_of(agent);
            let Some(number) = number.filter(|_| capture.is_running()) else {
                continue;
            };
            let message = {
                let state = capture.lock();
                match state.stopped.is_some() || self.wall_ns() >= state.end_wall_ns {
                    true => Some(FromHub::CaptureStop(CaptureStop {
                        id: state.view.id.clone(),
                    })),
                    false => state
                        .order(number, self.wall_ns())
                        .map(|(_, order)| FromHub::Capture(order)),
                }
            };
            if let Some(message) = message {
                // Where it does not get there, another session begins or the capture ends.
                self.lines.tell(agent, message).await;
            }
        }
    }

    /// All captures, the latest first.
    pub(crate) fn list(&self) -> Vec<CaptureView> {
        latest_first(self.lock().values().map(|it| it.show()))
    }

    /// One capture.
    pub(crate) fn get(&self, id: &str) -> Result<CaptureView, Failure> {
        Ok(self.find(id)?.show())
    }

    /// Ends a capture; what the hosts have by then still comes.
    pub(crate) async fn stop(&self, id: &str) -> Result<CaptureView, Failure> {
        let capture = self.find(id)?;
        if capture.is_running() {
            capture.stop(EndReason::Stopped);
            self.describe(&capture);
        }
        let limit = tokio::time::Instant::now() + STOP_TIMEOUT;
        while capture.is_running() && tokio::time::Instant::now() < limit {
            tokio::time::sleep(PAUSE).await;
        }
        Ok(capture.show())
    }

    /// Deletes a capture and its files.
    pub(crate) fn delete(&self, id: &str) -> Result<(), Failure> {
        let capture = self.find(id)?;
        if capture.is_running() {
            return Err(Failure::Running);
        }
        let refused = |error| Failure::Unavailable(format!("delete the capture: {error}"));
        self.store.delete(id).map_err(refused)?;
        self.lock().remove(id);
        self.count();
        Ok(())
    }

    /// The merged file of a capture, and how much of it there is: nothing before its end.
    pub(crate) fn file(&self, id: &str) -> Result<(PathBuf, channel::Receiver<u64>), Failure> {
        let capture = self.find(id)?;
        Ok((self.store.file(id), capture.merged.clone()))
    }

    /// The parts of a capture that has ended.
    pub(crate) fn sources(&self, id: &str) -> Result<Vec<Source>, Failure> {
        let capture = self.find(id)?;
        if capture.is_running() {
            return Err(Failure::Running);
        }
        Ok(capture.lock().sources())
    }

    fn wall_ns(&self) -> u64 {
        self.outlook.clock.wall_ns(self.outlook.clock.now())
    }

    fn find(&self, id: &str) -> Result<Arc<PathCapture>, Failure> {
        self.lock().get(id).cloned().ok_or(Failure::Unknown)
    }

    /// Deletes kept captures, so that `needed` more bytes fit.
    fn make_room(&self, needed: u64) {
        let now = Age::now();
        let mut captures = self.lock();
        let ended = captures.values().filter(|capture| !capture.is_running());
        let kept = ended.map(|capture| {
            let view = capture.show();
            let bytes = view.disk_bytes();
            let ended = capture.ended.get().copied().unwrap_or(now);
            (ended, view.id, bytes)
        });
        for id in self.store.clear(kept.collect(), &self.keeping, needed) {
            captures.remove(&id);
        }
    }

    /// Tells the metrics.
    fn count(&self) {
        let views: Vec<_> = self.lock().values().map(|it| it.show()).collect();
        count_captures(self.outlook.metrics.daemon(), &views);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<PathCapture>>> {
        self.captures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PathCapture {
    fn new(view: CaptureView, parts: Vec<Part>) -> Self {
        let is_running = view.state == CaptureState::Running;
        let (sender, merged) = channel::channel(if is_running { 0 } else { view.bytes });
        let stopped = view.end_reason.filter(|_| is_running);
        let ended = OnceLock::new();
        if !is_running {
            let text = view.ended.as_ref().unwrap_or(&view.created);
            let _ = ended.set(Age::at(text, Reading::take()));
        }
        let created: Option<jiff::Timestamp> = view.created.parse().ok();
        let start_wall_ns = created.map_or(0, |it| it.as_nanosecond().try_into().unwrap_or(0));
        let duration = Duration::from_secs(view.request.duration.into());
        Self {
            state: Mutex::new(State {
                view,
                parts,
                start_wall_ns,
                end_wall_ns: start_wall_ns.saturating_add(nanoseconds(duration)),
                stopped,
            }),
            changed: Notify::new(),
            merged,
            growing: Mutex::new(is_running.then_some(sender)),
            ended,
        }
    }

    fn is_running(&self) -> bool {
        self.lock().view.state == CaptureState::Running
    }

    fn show(&self) -> CaptureView {
        self.lock().view.clone()
    }

    /// The capture is to end; the first reason counts.
    fn stop(&self, reason: EndReason) {
        let mut state = self.lock();
        let reason = *state.stopped.get_or_insert(reason);
        // Written down with the rest, for the next run of the hub.
        state.view.end_reason = Some(reason);
        drop(state);
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn total_max(&self) -> u64 {
        self.view.request.max_total_bytes.unwrap_or_default()
    }

    /// Whether each part has begun, or will not.
    fn has_begun(&self) -> bool {
        let mut parts = self.view.hosts.iter().zip(&self.parts);
        parts.all(|(host, part)| host.created.is_some() || part.is_done)
    }

    /// The place of an agent's part that is not done.
    fn number_of(&self, agent: &str) -> Option<usize> {
        let mut parts = self.view.hosts.iter().zip(&self.parts);
        parts.position(|(host, part)| host.agent == agent && !part.is_done)
    }

    /// What an agent is to be told; none where its part is done.
    fn order(&self, number: usize, now_ns: u64) -> Option<(String, CaptureOrder)> {
        let host = self.view.hosts.get(number)?;
        if self.parts.get(number)?.is_done {
            return None;
        }
        // Who comes late records what is left of the time.
        let late_s = now_ns.saturating_sub(self.start_wall_ns) / 1_000_000_000;
        let duration = u64::from(self.view.request.duration).saturating_sub(late_s);
        // A host with more than can be named is meant as a whole.
        let is_few = host.interfaces.len() <= INTERFACE_COUNT_MAX;
        let request = CaptureRequest {
            interfaces: is_few.then(|| host.interfaces.clone()),
            duration: u32::try_from(duration).ok()?.max(1),
            hops: None,
            path_of: None,
            max_total_bytes: None,
            ..self.view.request.clone()
        };
        let offset_ns = (host.clock_offset_s * 1e9) as i64;
        let order = CaptureOrder {
            id: self.view.id.clone(),
            request: serde_json::to_vec(&request).ok()?.into(),
            start_wall_ns: self.start_wall_ns.saturating_add_signed(offset_ns),
        };
        Some((host.agent.clone(), order))
    }

    /// A part ends without the rest of it.
    fn lose(&mut self, number: usize, kind: LossKind, detail: &str) {
        let (Some(host), Some(part)) =
            (self.view.hosts.get_mut(number), self.parts.get_mut(number))
        else {
            return;
        };
        if part.is_done {
            return;
        }
        part.is_done = true;
        host.away_since = None;
        host.state = CaptureState::Partial;
        host.losses.push(Loss {
            kind,
            packets: 0,
            detail: detail.to_owned(),
        });
    }

    /// The parts that hold anything.
    fn sources(&self) -> Vec<Source> {
        let parts = self.view.hosts.iter().zip(&self.parts);
        let parts = parts.filter(|(host, _)| host.bytes > 0);
        let source = |(host, part): (&HostPart, &Part)| Source {
            name: host.host.clone(),
            path: part.path.clone(),
            clock: host.boot_id.clone(),
            host: Some(host.host.clone()),
            // Where a clock was set back meanwhile, it is told, and says nothing to an analysis.
            gaps: (host.gaps.iter().filter_map(Gap::ns))
                .filter(|(from_ns, until_ns)| from_ns < until_ns)
                .collect(),
        };
        parts.map(source).collect()
    }
}

/// What a host will give.
fn host_part(host: &str, site: &Site) -> HostPart {
    HostPart {
        host: host.to_owned(),
        agent: site.status.agent.clone(),
        capture: None,
        boot_id: site.status.boot.map(boot_id),
        state: CaptureState::Running,
        end_reason: None,
        away_since: None,
        interfaces: site.interfaces.iter().cloned().collect(),
        created: None,
        clock_offset_s: site.status.clock_offset_ns as f64 / 1e9,
        lookback: None,
        packets: 0,
        bytes: 0,
        filtered_out: 0,
        losses: Vec::new(),
        gaps: Vec::new(),
    }
}

/// Gives each host its part of the bytes, and checks the request.
fn share(mut request: CaptureRequest, host_count: u64, bytes_max: u64) -> Result<Wanted, BadField> {
    let total = request.max_total_bytes.unwrap_or_else(|| {
        let per_host = request.max_bytes.unwrap_or(BYTES_DEFAULT);
        per_host.saturating_mul(host_count).min(bytes_max / 4)
    });
    request.max_total_bytes = Some(total);
    let part = (total / host_count.max(1)).min(BYTES_DEFAULT);
    if part < BYTES_MIN {
        let detail = format!("{total} bytes for {host_count} hosts");
        let remedy = format!("allow {BYTES_MIN} bytes for each");
        return Err(BadField::new("max_total_bytes", detail, remedy));
    }
    // No host may take more than all of them.
    let part = request.max_bytes.unwrap_or(part).min(total);
    request.max_bytes = Some(part);
    request.check(bytes_max)
}
