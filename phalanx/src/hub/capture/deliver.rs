//! An agent delivers its part: bytes of a file, written as they come. It may break off and go on in
//! another delivery; whatever it sends, bytes of other parts stay what they are.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::fs::{File, OpenOptions};
use tokio::io::AsyncWriteExt;
use tokio::sync::{OwnedMutexGuard, mpsc, watch};
use tokio::time::Instant;
use tonic::{Status, Streaming};

use super::{PathCapture, PathCaptures, State};
use crate::capture::{CaptureState, CaptureView, EndReason, Loss, LossKind};
use crate::hub::registry::{Registered, Registry};
use crate::hub::session::REGISTRY_INTERVAL;
use crate::link::limits::HELLO_TIMEOUT;
use crate::link::protocol::capture_part::Part as FromAgent;
use crate::link::protocol::{CaptureBegin, CapturePart, CaptureReceipt};

/// Receipts that wait for an agent to read.
const RECEIPT_COUNT_MAX: usize = 2;
/// How an agent may say that its part stands, in bytes of JSON: 64 interfaces looked back at take
/// some 300 bytes each.
const VIEW_BYTES_MAX: usize = 32 << 10;
/// What a part may take beyond its bound: statistics at its end.
const PART_SLACK: u64 = 64 << 10;
/// What a pcapng file begins with. Nothing else is taken: not what would be unpacked first.
const PCAPNG_MAGIC: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];
/// How often an agent may say how its part stands, and what is said in between is left out.
const VIEW_INTERVAL: Duration = Duration::from_millis(200);
/// Longest name that an agent may give its file, in bytes.
const FILE_LENGTH_MAX: usize = 64;
/// Files that an agent may begin a part with, one after the other: each is written down.
const FILE_COUNT_MAX: usize = 8;
/// Longest wait for the delivery before this one to let go.
const TAKE_OVER_TIMEOUT: Duration = Duration::from_secs(10);
/// Gaps that an agent may tell of.
const GAP_COUNT_MAX: usize = 16;
/// Losses that an agent may tell of: some of each kind.
const LOSS_COUNT_MAX: usize = 64;
/// Characters of what an agent says in words.
const TEXT_LENGTH_MAX: usize = 256;

/// A delivery under way.
struct Delivery {
    keeper: Arc<PathCaptures>,
    capture: Arc<PathCapture>,
    /// The place of the part.
    number: usize,
    /// Number of this delivery, and of the one that counts.
    own: u64,
    counts: watch::Receiver<u64>,
    file: File,
    bytes: u64,
    bytes_max: u64,
    registry: Registry,
    agent: String,
    /// When it was last looked whether the agent was removed, and when it last said how it does.
    looked: Instant,
    viewed: Option<Instant>,
    _writing: OwnedMutexGuard<()>,
}

type Receipts = mpsc::Sender<Result<CaptureReceipt, Status>>;

impl PathCaptures {
    /// Takes a part of an agent's, in a task of its own.
    pub(crate) async fn deliver(
        self: Arc<Self>,
        agent: &Registered,
        registry: &Registry,
        mut inbox: Streaming<CapturePart>,
    ) -> Result<mpsc::Receiver<Result<CaptureReceipt, Status>>, Status> {
        let first = tokio::time::timeout(HELLO_TIMEOUT, inbox.message());
        let first = first.await;
        let first = first.map_err(|_| Status::deadline_exceeded("no part came"))??;
        let Some(FromAgent::Begin(begin)) = first.and_then(|it| it.part) else {
            return Err(Status::invalid_argument("the first part must be an id"));
        };
        let CaptureBegin { id, file } = begin;
        let unknown = || Status::not_found("the hub wants no part of this capture");
        let capture = self.find(&id).map_err(|_| unknown())?;
        let number = capture.lock().number_of(&agent.agent);
        let number = number.ok_or_else(unknown)?;
        let registry = (registry.clone(), agent.agent.clone());
        let mut delivery = Delivery::begin(self, capture, number, registry).await?;
        delivery.know(&file)?;
        let (receipts, outgoing) = mpsc::channel(RECEIPT_COUNT_MAX);
        drop(receipts.try_send(Ok(delivery.receipt())));
        let name = agent.name.clone();
        tokio::spawn(async move {
            let taken = delivery.take_all(inbox, &receipts).await;
            // Who comes next goes by the length of the file.
            let flushed = delivery.file.flush().await;
            if let Err(error) = flushed {
                tracing::warn!(agent = name, %error, "write a part of a capture");
            }
            if let Err(status) = taken {
                tracing::debug!(agent = name, reason = status.message(), "a delivery ended");
                drop(receipts.send(Err(status)).await);
            }
        });
        Ok(outgoing)
    }
}

impl Delivery {
    /// Takes over from the delivery before it.
    async fn begin(
        keeper: Arc<PathCaptures>,
        capture: Arc<PathCapture>,
        number: usize,
        (registry, agent): (Registry, String),
    ) -> Result<Self, Status> {
        let (path, bytes_max, writing, counts, own) = {
            let state = capture.lock();
            let gone = || Status::not_found("the hub wants no part of this capture");
            let part = state.parts.get(number).ok_or_else(gone)?;
            part.delivery.send_modify(|number| *number += 1);
            let counts = part.delivery.subscribe();
            let own = *counts.borrow();
            let writing = Arc::clone(&part.writing);
            (part.path.clone(), part.bytes_max, writing, counts, own)
        };
        let writing = tokio::time::timeout(TAKE_OVER_TIMEOUT, writing.lock_owned()).await;
        let writing = writing.map_err(|_| Status::unavailable("another delivery is under way"))?;
        let (file, bytes) = open(&path).await?;
        Ok(Self {
            keeper,
            capture,
            number,
            own,
            counts,
            file,
            bytes,
            bytes_max,
            registry,
            agent,
            looked: Instant::now(),
            viewed: None,
            _writing: writing,
        })
    }

    /// Notes which file it is of. Nobody else writes meanwhile, so the length of the part says
    /// whether another has come before.
    fn know(&self, file: &str) -> Result<(), Status> {
        let known = self.capture.lock().know(self.number, file, self.bytes);
        // So many times for a part (`FILE_COUNT_MAX`): an agent may begin to deliver as often as it
        // likes.
        if known? {
            self.keeper.describe(&self.capture);
        }
        Ok(())
    }

    fn receipt(&self) -> CaptureReceipt {
        CaptureReceipt { bytes: self.bytes }
    }

    /// Takes what comes until the part is whole, or the delivery breaks off.
    async fn take_all(
        &mut self,
        mut inbox: Streaming<CapturePart>,
        receipts: &Receipts,
    ) -> Result<(), Status> {
        loop {
            let own = self.own;
            let part = tokio::select! {
                part = inbox.message() => part?,
                _ = self.counts.wait_for(|number| *number != own) => {
                    return Err(Status::unavailable("another delivery took over"));
                }
                () = receipts.closed() => return Ok(()),
            };
            let Some(part) = part else {
                return Err(Status::unavailable("the delivery broke off"));
            };
            self.look_whether_removed()?;
            match part.part {
                Some(FromAgent::Bytes(bytes)) => self.write(&bytes).await?,
                Some(FromAgent::View(view)) => self.see(&view)?,
                Some(FromAgent::End(view)) => {
                    let view = read_view(&view)?;
                    let synced = self.sync().await;
                    synced.map_err(|error| self.give_up(&error))?;
                    self.end(&view)?;
                    drop(receipts.send(Ok(self.receipt())).await);
                    return Ok(());
                }
                Some(FromAgent::Refusal(why)) => {
                    let why: String = why.chars().take(TEXT_LENGTH_MAX).collect();
                    self.lose(LossKind::HostRefused, &why);
                    drop(receipts.send(Ok(self.receipt())).await);
                    return Ok(());
                }
                Some(FromAgent::Begin(_)) => {
                    return Err(Status::invalid_argument("the id was told before"));
                }
                // What a newer agent knows.
                None => {}
            }
        }
    }

    /// An agent that was shut out is told so while it speaks.
    fn look_whether_removed(&mut self) -> Result<(), Status> {
        if self.looked.elapsed() < REGISTRY_INTERVAL {
            return Ok(());
        }
        self.looked = Instant::now();
        match self.registry.find(&self.agent) {
            Some(_) => Ok(()),
            None => {
                self.lose(LossKind::HostAway, "its agent was removed from the hub");
                Err(Status::not_found("this agent was removed from the hub"))
            }
        }
    }

    /// Everything is on disk. What could not be written is told by the next call only, and
    /// `sync_all` tells of nothing before it.
    async fn sync(&mut self) -> std::io::Result<()> {
        self.file.flush().await?;
        self.file.sync_all().await?;
        match self.file.metadata().await?.len() {
            length if length == self.bytes => Ok(()),
            length => Err(std::io::Error::other(format!(
                "the file has {length} bytes of {}",
                self.bytes
            ))),
        }
    }

    fn see(&mut self, view: &[u8]) -> Result<(), Status> {
        let is_soon = |viewed: Instant| viewed.elapsed() < VIEW_INTERVAL;
        if self.viewed.is_some_and(is_soon) {
            return Ok(());
        }
        self.viewed = Some(Instant::now());
        self.note(&read_view(view)?)
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), Status> {
        if bytes.is_empty() {
            return Err(Status::invalid_argument("there is nothing in a part"));
        }
        if self.bytes == 0 && !bytes.starts_with(&PCAPNG_MAGIC) {
            self.lose(LossKind::HostRefused, "what it sent is no pcapng file");
            return Err(Status::invalid_argument("a part must be a pcapng file"));
        }
        let after = self.bytes.saturating_add(bytes.len() as u64);
        if after > self.bytes_max.saturating_add(PART_SLACK) {
            let much = "it sent more than it was asked for";
            self.lose(LossKind::HostRefused, much);
            return Err(Status::resource_exhausted(much));
        }
        let written = self.file.write_all(bytes).await;
        written.map_err(|error| self.give_up(&error))?;
        self.bytes = after;
        let mut state = self.capture.lock();
        if state.parts.get(self.number).is_none_or(|part| part.is_done) {
            return Err(Status::not_found("the hub waits no longer for this part"));
        }
        if let Some(part) = state.parts.get_mut(self.number) {
            part.heard = Instant::now();
        }
        if let Some(host) = state.view.hosts.get_mut(self.number) {
            host.bytes = after;
        }
        state.add_up();
        let slack = PART_SLACK * state.parts.len() as u64;
        let beyond = state.view.bytes.checked_sub(state.total_max());
        drop(state);
        if beyond.is_some_and(|beyond| beyond > slack) {
            let much = "all hosts together had sent what was asked for";
            self.lose(LossKind::EndedEarly, much);
            return Err(Status::resource_exhausted(much));
        }
        if beyond.is_some() {
            self.capture.stop(EndReason::MaxBytes);
        }
        Ok(())
    }

    /// The disk does not take it.
    fn give_up(&self, error: &std::io::Error) -> Status {
        let kind = match error.kind() {
            std::io::ErrorKind::StorageFull => LossKind::DiskFull,
            _ => LossKind::WriteFailed,
        };
        self.lose(kind, &format!("the hub could not write its part: {error}"));
        Status::resource_exhausted(format!("the hub cannot write: {error}"))
    }

    fn lose(&self, kind: LossKind, detail: &str) {
        self.capture.lock().lose(self.number, kind, detail);
        self.keeper.describe(&self.capture);
        self.capture.changed.notify_one();
    }

    /// How the part stands, as its agent says.
    fn note(&self, told: &CaptureView) -> Result<(), Status> {
        let mut state = self.capture.lock();
        if state.parts.get(self.number).is_none_or(|part| part.is_done) {
            return Err(Status::not_found("the hub waits no longer for this part"));
        }
        if let Some(host) = state.view.hosts.get_mut(self.number) {
            host.away_since = None;
            host.packets = told.packets;
            host.filtered_out = told.filtered_out;
            host.created = told.created.parse::<jiff::Timestamp>().is_ok().then(|| {
                // It was read: it is a time and nothing else.
                told.created.clone()
            });
            // An agent that was restarted does not know it any more.
            if told.lookback.is_some() {
                host.lookback.clone_from(&told.lookback);
            }
            host.gaps = told
                .gaps
                .iter()
                .filter(|gap| gap.ns().is_some())
                .take(GAP_COUNT_MAX)
                .cloned()
                .collect();
        }
        state.add_up();
        Ok(())
    }

    /// The part is whole: on disk first, then for everybody to see.
    fn end(&self, told: &CaptureView) -> Result<(), Status> {
        self.note(told)?;
        let mut state = self.capture.lock();
        if let Some(part) = state.parts.get_mut(self.number) {
            part.is_done = true;
        }
        if let Some(host) = state.view.hosts.get_mut(self.number) {
            let is_whole = told.state == CaptureState::Complete && host.losses.is_empty();
            host.state = match is_whole {
                true => CaptureState::Complete,
                false => CaptureState::Partial,
            };
            host.end_reason = told.end_reason;
            host.away_since = None;
            let shortened = |loss: &Loss| Loss {
                detail: loss.detail.chars().take(TEXT_LENGTH_MAX).collect(),
                ..loss.clone()
            };
            let told = told.losses.iter().take(LOSS_COUNT_MAX).map(shortened);
            host.losses.extend(told);
        }
        drop(state);
        self.keeper.describe(&self.capture);
        self.capture.changed.notify_one();
        Ok(())
    }
}

impl State {
    /// A delivery must be of the file that the ones before it were of, of which there are so many
    /// `bytes`; whether its name is new.
    pub(super) fn know(&mut self, number: usize, file: &str, bytes: u64) -> Result<bool, Status> {
        if file.len() > FILE_LENGTH_MAX || file.contains(char::is_control) {
            return Err(Status::invalid_argument("the name of the file"));
        }
        let (Some(host), Some(part)) =
            (self.view.hosts.get_mut(number), self.parts.get_mut(number))
        else {
            return Ok(false);
        };
        if part.is_done {
            return Err(Status::not_found("the hub waits no longer for this part"));
        }
        // A refusal is of no file.
        if file.is_empty() || host.capture.as_deref() == Some(file) {
            return Ok(false);
        }
        // Of what nothing has come, another file may take the place.
        if host.capture.is_some() && (bytes > 0 || part.file_count >= FILE_COUNT_MAX) {
            let restarted = "the agent was restarted while it captured";
            self.lose(number, LossKind::HostAway, restarted);
            return Err(Status::failed_precondition(restarted));
        }
        part.file_count += 1;
        host.capture = Some(file.to_owned());
        Ok(true)
    }
}

async fn open(path: &PathBuf) -> Result<(File, u64), Status> {
    let open = async {
        let file = OpenOptions::new().append(true).open(path).await?;
        let bytes = file.metadata().await?.len();
        Ok::<_, std::io::Error>((file, bytes))
    };
    let opened = open.await;
    opened.map_err(|error| Status::unavailable(format!("open the part: {error}")))
}

/// What an agent says of its part, within bounds.
fn read_view(bytes: &[u8]) -> Result<CaptureView, Status> {
    let wrong = |what: &str| Status::invalid_argument(format!("the view of a capture: {what}"));
    if bytes.len() > VIEW_BYTES_MAX {
        return Err(wrong("it is too large"));
    }
    serde_json::from_slice(bytes).map_err(|error| wrong(&error.to_string()))
}
