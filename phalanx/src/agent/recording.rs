//! Captures that the hub asks for: taken here as any other, and delivered as they grow. What the
//! hub has is deleted here. One that broke off when the agent ended goes on in its file; one that
//! had ended by then is delivered as it is.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use bytes::Bytes;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::capture::{
    CaptureRequest, CaptureState, CaptureView, Captures, EndReason, Missing, RUNNING_COUNT_MAX,
    Salvaged,
};
use crate::link::connection::Connection;
use crate::link::protocol::capture_part::Part;
use crate::link::protocol::hub_client::HubClient;
use crate::link::protocol::{CaptureBegin, CaptureOrder, CapturePart, CaptureReceipt, CaptureStop};

/// What the hub asks, waiting to be done; full: it is dropped, and the hub shows this host as away.
pub(super) const ORDER_COUNT_MAX: usize = 64;
/// Captures of the hub at once, those included that still deliver.
const ERRAND_COUNT_MAX: usize = 2 * RUNNING_COUNT_MAX;
/// Captures of the hub that are remembered, so that none is taken twice.
const KNOWN_COUNT_MAX: usize = 256;
/// Bytes of a file that travel together.
const PART_BYTES: usize = 64 << 10;
/// Parts that wait for the connection.
const PART_COUNT_MAX: usize = 4;
/// How often the hub is told how the capture stands.
const VIEW_INTERVAL: Duration = Duration::from_secs(1);
/// Longest wait for the beginning that the hub asks for: clocks may be set meanwhile.
const START_WAIT_MAX: Duration = Duration::from_secs(5);
/// Pause before the hub is tried again.
const PAUSE: Duration = Duration::from_secs(1);
/// How long after its end a capture waits for a hub that is away; then it stays here.
const DELIVERY_TIME_MAX: Duration = Duration::from_secs(600);
/// How long the hub may take to answer, or to take a part.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a capture whose file is whole may take to have ended: its file is synced.
const END_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the interfaces of a capture that goes on may take to be watched again before it goes on
/// without those that are not, how long any of them may take, and how often it is tried.
const VANISHED_TIMEOUT: Duration = Duration::from_secs(5);
const RESUME_TIMEOUT: Duration = Duration::from_secs(10);
const RESUME_PAUSE: Duration = Duration::from_millis(250);
/// Longest id of the hub in bytes.
const ID_LENGTH_MAX: usize = 64;
/// Part of what captures may take on this disk that one of the hub may.
const BYTES_PART: u64 = 4;

/// What an agent lets its hub record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HubCaptures {
    /// Nothing.
    Off,
    /// Packets without payload.
    #[default]
    Headers,
    /// Whole packets.
    Payload,
}

impl HubCaptures {
    /// As the setting spells them.
    pub const NAMES: &[&str] = &["off", "headers", "payload"];

    /// By its name.
    #[must_use]
    pub fn from_name(name: &str) -> Self {
        match name {
            "off" => Self::Off,
            "payload" => Self::Payload,
            _ => Self::Headers,
        }
    }

    /// Why a request is refused here; none: it is not.
    fn refuses(self, request: &CaptureRequest) -> Option<&'static str> {
        match self {
            Self::Off => Some(
                "this agent takes no captures for its hub: set hub_captures to headers or payload \
                 there",
            ),
            Self::Headers if request.snaplen > 0 => Some(
                "this agent gives its hub headers only: ask for snaplen 0, or set hub_captures to \
                 payload there",
            ),
            Self::Headers | Self::Payload => None,
        }
    }
}

/// What the hub asks.
#[derive(Debug)]
pub(crate) enum Asked {
    /// A capture.
    Begin(CaptureOrder),
    /// Its end.
    Stop(CaptureStop),
}

/// The way to the hub, while there is one.
pub(crate) type Line = watch::Receiver<Option<HubClient<Connection>>>;

/// Where the uplink hands over what the hub asks.
#[derive(Debug)]
pub(crate) struct Orders {
    pub(super) asked: mpsc::Receiver<Asked>,
    pub(super) line: Line,
    /// Id of this agent.
    pub(super) agent: String,
}

/// Does what the hub asks, until the uplink ends.
pub(crate) async fn record(mut orders: Orders, captures: Arc<Captures>, allowed: HubCaptures) {
    // By the hub's id; those that have ended are taken out when another begins.
    let mut errands: BTreeMap<String, Arc<Notify>> = BTreeMap::new();
    let mut known: VecDeque<String> = VecDeque::new();
    let running = Arc::new(AtomicUsize::new(0));
    while let Some(asked) = orders.asked.recv().await {
        let (id, order) = match asked {
            Asked::Begin(order) => (order.id.clone(), Some(order)),
            Asked::Stop(CaptureStop { id }) => (id, None),
        };
        if let (Some(stop), None) = (errands.get(&id), &order) {
            stop.notify_one();
            continue;
        }
        // The errand holds the other one.
        errands.retain(|_, stop| Arc::strong_count(stop) > 1);
        // It is told of anew in each session; one that has just been delivered may be so as well.
        let is_known = errands.contains_key(&id) || known.contains(&id);
        if is_known || id.len() > ID_LENGTH_MAX {
            continue;
        }
        let count = running.fetch_add(1, Ordering::Relaxed);
        if count >= 2 * ERRAND_COUNT_MAX {
            running.fetch_sub(1, Ordering::Relaxed);
            tracing::warn!("the hub asks for more than this agent does; it is not done");
            continue;
        }
        if known.len() == KNOWN_COUNT_MAX {
            known.pop_front();
        }
        known.push_back(id.clone());
        let stop = Arc::new(Notify::new());
        let errand = Errand {
            own_id: format!("{}/{id}", orders.agent),
            id: id.clone(),
            line: orders.line.clone(),
            captures: Arc::clone(&captures),
            stop: Arc::clone(&stop),
            salvaged_bytes: None,
        };
        errands.insert(id, stop);
        let is_much = count >= ERRAND_COUNT_MAX;
        let running = Arc::clone(&running);
        tokio::spawn(async move {
            match order {
                Some(order) => errand.run(&order, allowed, is_much).await,
                None => errand.deliver_rest().await,
            }
            running.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

/// One capture for the hub.
struct Errand {
    /// What the hub calls it, and the same with the agent before it: agents may share a disk.
    id: String,
    own_id: String,
    line: Line,
    captures: Arc<Captures>,
    stop: Arc<Notify>,
    /// Bytes that its file had when it went on, until they were compared with the hub's.
    salvaged_bytes: Option<u64>,
}

/// A part that has begun, and what the hub says of it.
struct Delivery {
    parts: mpsc::Sender<CapturePart>,
    receipts: Streaming<CaptureReceipt>,
    /// Bytes that the hub had before.
    had: u64,
}

impl Errand {
    async fn run(mut self, order: &CaptureOrder, allowed: HubCaptures, is_much: bool) {
        let begun = match is_much {
            true => Err(format!(
                "{ERRAND_COUNT_MAX} captures of the hub are under way here"
            )),
            false => self.begin(order, allowed).await,
        };
        let view = match begun {
            Ok(view) => view,
            Err(refusal) => return self.refuse(&refusal).await,
        };
        tracing::info!(
            id = view.id,
            hub_id = self.id,
            "the hub asked for a capture"
        );
        self.follow(&view).await;
    }

    /// Delivers what is left of a capture that is over by now.
    async fn deliver_rest(mut self) {
        if let Some(salvaged) = self.captures.salvage(&self.own_id).await {
            self.salvaged_bytes = Some(salvaged.bytes());
            self.follow(&salvaged.view).await;
        }
    }

    /// Delivers a capture, which ends when the hub says so.
    async fn follow(mut self, view: &CaptureView) {
        let (captures, stop, id) = (self.captures.clone(), self.stop.clone(), view.id.clone());
        let stopping = tokio::spawn(async move {
            stop.notified().await;
            // Fails only where it is gone.
            drop(captures.stop(&id).await);
        });
        let delivered = self.deliver_all(&view.id).await;
        stopping.abort();
        if let Err(error) = delivered {
            let error = format!("{error:#}");
            tracing::warn!(
                error,
                id = view.id,
                "a capture did not get to the hub; it stays here"
            );
        }
    }

    async fn begin(
        &mut self,
        order: &CaptureOrder,
        allowed: HubCaptures,
    ) -> Result<CaptureView, String> {
        let mut request: CaptureRequest = serde_json::from_slice(&order.request)
            .map_err(|error| format!("the agent does not understand the request: {error}"))?;
        if let Some(refusal) = allowed.refuses(&request) {
            return Err(refusal.to_owned());
        }
        let bytes_max = self.captures.bytes_max() / BYTES_PART;
        request.max_bytes = Some(request.max_bytes.unwrap_or(bytes_max).min(bytes_max));
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let start = Duration::from_nanos(order.start_wall_ns);
        let wait = start.saturating_sub(now.unwrap_or_default());
        tokio::time::sleep(wait.min(START_WAIT_MAX)).await;
        if let Some(salvaged) = self.captures.salvage(&self.own_id).await {
            self.salvaged_bytes = Some(salvaged.bytes());
            return Ok(match salvaged.is_over() {
                true => salvaged.view,
                false => self.resume(salvaged, request.duration).await,
            });
        }
        let hub_id = Some(self.own_id.clone());
        let created = self.captures.create_for(request, hub_id).await;
        created.map_err(|failure| failure.to_string())
    }

    /// Goes on with a capture, once its interfaces are watched again, or after a while with those
    /// that are. Where that cannot be, what is left of it is delivered.
    async fn resume(&self, salvaged: Salvaged, duration_s: u32) -> CaptureView {
        let began = Instant::now();
        let end = began + Duration::from_secs(duration_s.into());
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let missing = match began.elapsed() < VANISHED_TIMEOUT {
                true => Missing::AwaitIt,
                false => Missing::TellIt,
            };
            match self.captures.resume(&salvaged, left, missing).await {
                Ok(view) => return view,
                Err(_) if began.elapsed() < RESUME_TIMEOUT && !left.is_zero() => {}
                Err(failure) => {
                    let id = &salvaged.view.id;
                    tracing::warn!(id, %failure, "a capture that broke off does not go on");
                    return salvaged.view;
                }
            }
            tokio::time::sleep(RESUME_PAUSE).await;
        }
    }

    async fn refuse(mut self, refusal: &str) {
        tracing::warn!(id = self.id, refusal, "a capture for the hub was refused");
        let Some(client) = self.client(Instant::now() + PAUSE).await else {
            return;
        };
        // Who cannot be told sees this host as away.
        if let Ok(mut delivery) = self.open(client, "").await {
            let part = Part::Refusal(refusal.to_owned());
            if send(&delivery.parts, part).await.is_ok() {
                drop(delivery.parts);
                drop(in_time(delivery.receipts.message()).await);
            }
        }
    }

    /// The way to the hub, once there is one.
    async fn client(&mut self, until: Instant) -> Option<HubClient<Connection>> {
        let there = self.line.wait_for(Option::is_some);
        let there = tokio::time::timeout_at(until, there).await;
        there.ok()?.ok()?.clone()
    }

    /// Delivers the whole capture, over as many connections as it takes.
    async fn deliver_all(&mut self, id: &str) -> anyhow::Result<()> {
        let (path, flushed) = self.captures.file(id).context("find the capture")?;
        let view = self.captures.get(id)?;
        let is_running = view.state == CaptureState::Running;
        let duration = u64::from(view.request.duration);
        let until = Instant::now() + Duration::from_secs(duration) + DELIVERY_TIME_MAX;
        let status = loop {
            let client = self.client(until).await;
            let client = client.context("the hub was away for too long")?;
            let delivering = self.deliver(client, id, (&path, flushed.clone(), is_running));
            let delivered = tokio::time::timeout_at(until, delivering).await;
            match delivered.context("the hub took too long")? {
                Ok(()) => break None,
                Err(status) if is_final(&status) => break Some(status),
                Err(status) if status.code() == Code::DataLoss => bail!("{}", status.message()),
                Err(status) => tracing::debug!(id, reason = status.message(), "delivery"),
            }
            anyhow::ensure!(Instant::now() < until, "the hub was away for too long");
            tokio::time::sleep(PAUSE).await;
        };
        // Also where the hub wants no more of it.
        self.captures.stop(id).await?;
        self.captures.delete(id)?;
        if let Some(status) = status {
            tracing::info!(
                id,
                reason = status.message(),
                "the hub wants no more of a capture"
            );
        }
        Ok(())
    }

    async fn open(
        &self,
        mut client: HubClient<Connection>,
        file: &str,
    ) -> Result<Delivery, Status> {
        let (parts, outgoing) = mpsc::channel(PART_COUNT_MAX);
        let begin = CaptureBegin {
            id: self.id.clone(),
            file: file.to_owned(),
        };
        send(&parts, Part::Begin(begin)).await?;
        let response = in_time(client.deliver(ReceiverStream::new(outgoing))).await?;
        let mut receipts = response.into_inner();
        let first = in_time(receipts.message()).await?;
        let first = first.ok_or_else(|| Status::unavailable("the hub gave no receipt"))?;
        Ok(Delivery {
            parts,
            receipts,
            had: first.bytes,
        })
    }

    /// Delivers what the hub does not have, and what comes, to the end.
    async fn deliver(
        &mut self,
        client: HubClient<Connection>,
        id: &str,
        (path, mut flushed, is_running): (&PathBuf, watch::Receiver<u64>, bool),
    ) -> Result<(), Status> {
        let mut delivery = self.open(client, id).await?;
        self.check_salvaged(&mut delivery).await?;
        let Delivery {
            parts,
            mut receipts,
            had,
        } = delivery;
        let here = |error: std::io::Error| Status::data_loss(format!("read the capture: {error}"));
        let mut file = File::open(path).await.map_err(here)?;
        let mut sent = had;
        file.seek(std::io::SeekFrom::Start(sent))
            .await
            .map_err(here)?;
        let mut tick = tokio::time::interval(VIEW_INTERVAL);
        loop {
            let whole = *flushed.borrow_and_update();
            while sent < whole {
                let size = usize::try_from(whole - sent).unwrap_or(PART_BYTES);
                let mut bytes = vec![0; size.min(PART_BYTES)];
                file.read_exact(&mut bytes).await.map_err(here)?;
                sent += bytes.len() as u64;
                send(&parts, Part::Bytes(bytes.into())).await?;
            }
            tokio::select! {
                // The sending half goes when the file is whole.
                changed = flushed.changed() => {
                    let whole = *flushed.borrow();
                    if changed.is_err() && whole == sent {
                        break;
                    }
                    if changed.is_err() && whole < sent {
                        return Err(Status::data_loss("the hub has more than there is"));
                    }
                }
                _ = tick.tick() => send(&parts, Part::View(self.view(id)?)).await?,
                receipt = receipts.message() => {
                    // It says nothing before the end but that it wants no more.
                    return Err(match receipt {
                        Err(status) => status,
                        Ok(_) => Status::unavailable("the hub ended the delivery"),
                    });
                }
            }
        }
        self.await_end(id).await;
        let reason = self.captures.get(id).ok().and_then(|it| it.end_reason);
        if is_running && reason == Some(EndReason::DaemonStopped) {
            // The next process of the agent goes on with it.
            return Err(Status::unavailable("the agent ends"));
        }
        send(&parts, Part::End(self.view(id)?)).await?;
        drop(parts);
        match in_time(receipts.message()).await? {
            Some(receipt) if receipt.bytes == sent => Ok(()),
            Some(_) | None => Err(Status::unavailable("the hub does not have it all")),
        }
    }

    /// A power failure may have taken what the hub has: what came since does not follow on that.
    async fn check_salvaged(&mut self, delivery: &mut Delivery) -> Result<(), Status> {
        let bytes = self.salvaged_bytes.take();
        if bytes.is_none_or(|bytes| bytes >= delivery.had) {
            return Ok(());
        }
        let refusal = "its file lost packets when the agent ended, and does not go on";
        send(&delivery.parts, Part::Refusal(refusal.to_owned())).await?;
        drop(in_time(delivery.receipts.message()).await);
        Err(Status::failed_precondition(refusal))
    }

    /// A file is whole a moment before its capture has ended.
    async fn await_end(&self, id: &str) {
        let ended = async {
            while self
                .captures
                .get(id)
                .is_ok_and(|it| it.state == CaptureState::Running)
            {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        // What takes longer is told as it stands.
        drop(tokio::time::timeout(END_TIMEOUT, ended).await);
    }

    fn view(&self, id: &str) -> Result<Bytes, Status> {
        let view = self.captures.get(id);
        let view = view.map_err(|failure| Status::data_loss(failure.to_string()))?;
        let text =
            serde_json::to_vec(&view).map_err(|error| Status::data_loss(error.to_string()))?;
        Ok(text.into())
    }
}

/// Whether the hub will never want it.
fn is_final(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::NotFound | Code::InvalidArgument | Code::ResourceExhausted | Code::FailedPrecondition
    )
}

/// What the hub answers, unless it takes too long.
async fn in_time<T>(answer: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, answer).await;
    answer.unwrap_or_else(|_| Err(Status::unavailable("the hub does not answer")))
}

async fn send(parts: &mpsc::Sender<CapturePart>, part: Part) -> Result<(), Status> {
    let part = CapturePart { part: Some(part) };
    let sent = tokio::time::timeout(ANSWER_TIMEOUT, parts.send(part)).await;
    let ended = || Status::unavailable("the connection to the hub ended");
    sent.ok().and_then(Result::ok).ok_or_else(ended)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hub_gets_what_its_agent_lets_it_have() {
        let request = |snaplen| CaptureRequest {
            snaplen,
            ..serde_json::from_str(r#"{"filter": ""}"#).unwrap()
        };
        for (name, headers, payload) in [
            ("off", false, false),
            ("headers", true, false),
            ("payload", true, true),
        ] {
            let allowed = HubCaptures::from_name(name);
            assert_eq!(allowed.refuses(&request(0)).is_none(), headers, "{name}");
            assert_eq!(allowed.refuses(&request(512)).is_none(), payload, "{name}");
        }
    }
}
