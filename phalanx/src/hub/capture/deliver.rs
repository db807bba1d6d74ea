//! An agent delivers its part: bytes of a file, written as they come. It may break off and go on in
//! another delivery; whatever it sends, it can only spoil its own part.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::fs::{File, OpenOptions};
use tokio::io::AsyncWriteExt;
use tokio::sync::{OwnedMutexGuard, mpsc, watch};
use tonic::{Status, Streaming};

use super::{PathCapture, PathCaptures};
use crate::capture::{CaptureState, CaptureView, EndReason, Loss, LossKind};
use crate::hub::registry::Registered;
use crate::link::limits::HELLO_TIMEOUT;
use crate::link::protocol::capture_part::Part as FromAgent;
use crate::link::protocol::{CapturePart, CaptureReceipt};

/// Receipts that wait for an agent to read.
const RECEIPT_COUNT_MAX: usize = 2;
/// How an agent may say that its part stands, in bytes of JSON: 64 interfaces looked back at take
/// some 300 bytes each.
const VIEW_BYTES_MAX: usize = 32 << 10;
/// What a part may take beyond its bound: statistics at its end.
const PART_SLACK: u64 = 64 << 10;
/// Longest wait for the delivery before this one to let go.
const TAKE_OVER_TIMEOUT: Duration = Duration::from_secs(10);
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
    _writing: OwnedMutexGuard<()>,
}

type Receipts = mpsc::Sender<Result<CaptureReceipt, Status>>;

impl PathCaptures {
    /// Takes a part of an agent's, in a task of its own.
    pub(crate) async fn deliver(
        self: Arc<Self>,
        agent: &Registered,
        mut inbox: Streaming<CapturePart>,
    ) -> Result<mpsc::Receiver<Result<CaptureReceipt, Status>>, Status> {
        let first = tokio::time::timeout(HELLO_TIMEOUT, inbox.message());
        let first = first.await;
        let first = first.map_err(|_| Status::deadline_exceeded("no part came"))??;
        let Some(FromAgent::Id(id)) = first.and_then(|it| it.part) else {
            return Err(Status::invalid_argument("the first part must be an id"));
        };
        let unknown = || Status::not_found("the hub wants no part of this capture");
        let capture = self.find(&id).map_err(|_| unknown())?;
        let number = capture.lock().number_of(&agent.agent);
        let number = number.ok_or_else(unknown)?;
        let mut delivery = Delivery::begin(self, capture, number).await?;
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
            _writing: writing,
        })
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
            match part.part {
                Some(FromAgent::Bytes(bytes)) => self.write(&bytes).await?,
                Some(FromAgent::View(view)) => self.note(&read_view(&view)?),
                Some(FromAgent::End(view)) => {
                    let view = read_view(&view)?;
                    let synced = self.file.sync_all().await;
                    synced.map_err(|error| self.give_up(&error))?;
                    self.end(&view);
                    drop(receipts.send(Ok(self.receipt())).await);
                    return Ok(());
                }
                Some(FromAgent::Refusal(why)) => {
                    let why: String = why.chars().take(TEXT_LENGTH_MAX).collect();
                    self.lose(LossKind::HostRefused, &why);
                    drop(receipts.send(Ok(self.receipt())).await);
                    return Ok(());
                }
                Some(FromAgent::Id(_)) => {
                    return Err(Status::invalid_argument("the id was told before"));
                }
                // What a newer agent knows.
                None => {}
            }
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), Status> {
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
        if let Some(host) = state.view.hosts.get_mut(self.number) {
            host.bytes = after;
        }
        state.add_up();
        let is_full = state.view.bytes >= state.total_max();
        drop(state);
        if is_full {
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
        self.capture.changed.notify_one();
    }

    /// How the part stands, as its agent says.
    fn note(&self, told: &CaptureView) {
        let mut state = self.capture.lock();
        let is_done = state.parts.get(self.number).is_none_or(|part| part.is_done);
        if let Some(host) = state.view.hosts.get_mut(self.number).filter(|_| !is_done) {
            host.packets = told.packets;
            host.filtered_out = told.filtered_out;
            host.created = told.created.parse::<jiff::Timestamp>().is_ok().then(|| {
                // It was read: it is a time and nothing else.
                told.created.clone()
            });
            host.lookback.clone_from(&told.lookback);
        }
        state.add_up();
    }

    /// The part is whole: on disk first, then for everybody to see.
    fn end(&self, told: &CaptureView) {
        self.note(told);
        let mut state = self.capture.lock();
        if let Some(part) = state.parts.get_mut(self.number) {
            part.is_done = true;
        }
        if let Some(host) = state.view.hosts.get_mut(self.number) {
            host.state = match told.losses.is_empty() && host.losses.is_empty() {
                true => CaptureState::Complete,
                false => CaptureState::Partial,
            };
            host.end_reason = told.end_reason;
            let shortened = |loss: &Loss| Loss {
                detail: loss.detail.chars().take(TEXT_LENGTH_MAX).collect(),
                ..loss.clone()
            };
            let told = told.losses.iter().take(LOSS_COUNT_MAX).map(shortened);
            host.losses.extend(told);
        }
        self.keeper.describe(&state.view);
        drop(state);
        self.capture.changed.notify_one();
    }
}

async fn open(path: &PathBuf) -> Result<(File, u64), Status> {
    let open = async {
        let file = OpenOptions::new().append(true).open(path).await?;
        let bytes = file.metadata().await?.len();
        Ok::<_, std::io::Error>((file, bytes))
    };
    let opened = open.await;
    opened.map_err(|error| Status::resource_exhausted(format!("open the part: {error}")))
}

/// What an agent says of its part, within bounds.
fn read_view(bytes: &[u8]) -> Result<CaptureView, Status> {
    let wrong = |what: &str| Status::invalid_argument(format!("the view of a capture: {what}"));
    if bytes.len() > VIEW_BYTES_MAX {
        return Err(wrong("it is too large"));
    }
    serde_json::from_slice(bytes).map_err(|error| wrong(&error.to_string()))
}
