//! The uplink: a thread that keeps what is to be told and tells it, one session after the other.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use phalanx_common::abi::ABI_VERSION;
use rustls::ClientConfig;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::queue::Queue;
use super::recording::{Asked, ORDER_COUNT_MAX, Orders};
use super::spool::Spool;
use crate::link::PROTOCOL_VERSION;
use crate::link::connection::{Address, Connection, connect, explain_status};
use crate::link::limits::HELLO_TIMEOUT;
use crate::link::protocol::agent_message::Message as FromAgent;
use crate::link::protocol::hub_client::HubClient;
use crate::link::protocol::hub_message::Message as FromHub;
use crate::link::protocol::{AgentMessage, Batch, Hello, HubMessage, Welcome};

/// Batches that wait for the uplink: a second of a loop that makes one each few milliseconds; full:
/// the loop drops what it has, and the hub sees the gap.
pub const UPLINK_BATCH_COUNT_MAX: usize = 64;
/// Messages that wait to be sent.
const MESSAGE_COUNT_MAX: usize = 4;
/// Pause before the hub is tried again, doubled with each failure up to the longest.
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// How long an acknowledgement may take before the session is given up: a connection may be dead
/// one way only, and still answer by itself.
const ACKNOWLEDGEMENT_TIMEOUT: Duration = Duration::from_secs(20);
/// How long the hub is given at the end to acknowledge what it was sent.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// How the uplink does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum UplinkState {
    /// No session, and no failure yet.
    #[default]
    Connecting,
    /// A session is under way.
    Connected,
    /// The last try failed, and why.
    Failed(String),
}

/// How the uplink does, for those who show it.
#[derive(Debug, Default)]
pub struct UplinkStatus {
    /// Batches made since the start.
    pub batches: AtomicU64,
    /// Batches that the hub has acknowledged.
    pub acknowledged: AtomicU64,
    /// Batches dropped because memory and spool were full.
    pub dropped: Arc<AtomicU64>,
    /// Batches that wait in memory.
    pub memory_batches: AtomicU64,
    /// Bytes on disk.
    pub spool_bytes: AtomicU64,
    /// Sessions that have begun.
    pub sessions: AtomicU64,
    state: Mutex<UplinkState>,
}

impl UplinkStatus {
    /// How the session does.
    #[must_use]
    pub fn state(&self) -> UplinkState {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set_state(&self, state: UplinkState) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }
}

/// What an uplink is started with.
#[derive(Debug)]
pub struct UplinkOptions {
    /// Id of the agent.
    pub agent: String,
    /// Where the hub is.
    pub address: Address,
    /// TLS with the agent's certificate.
    pub config: ClientConfig,
    /// Where batches are spooled, and how many bytes of them.
    pub spool: PathBuf,
    /// See [`Self::spool`].
    pub spool_bytes_max: u64,
}

/// A running uplink.
#[derive(Debug)]
pub struct Uplink {
    /// Where batches go, in order.
    pub batches: mpsc::Sender<Batch>,
    /// Number of this run.
    pub run: u64,
    /// How it does.
    pub status: Arc<UplinkStatus>,
    /// What the hub asks for.
    pub(crate) orders: Orders,
    /// Ends once all senders of batches are gone.
    pub thread: std::thread::JoinHandle<()>,
}

/// Starts the uplink. `wall_ns` numbers the run: later ones are higher, also where the clock was
/// set back while batches of an earlier run wait.
///
/// # Errors
/// The spool cannot be opened or the thread not started.
pub fn start_uplink(options: UplinkOptions, wall_ns: u64) -> anyhow::Result<Uplink> {
    let spool = Spool::open(&options.spool, options.spool_bytes_max).context("open the spool")?;
    let queue = Queue::new(spool);
    let run = queue.last().map_or(wall_ns, |last| wall_ns.max(last.0 + 1));
    let (batches, inbox) = mpsc::channel(UPLINK_BATCH_COUNT_MAX);
    let status = Arc::new(UplinkStatus::default());
    let (asked, asked_end) = mpsc::channel(ORDER_COUNT_MAX);
    let line = watch::Sender::new(None);
    let orders = Orders {
        asked: asked_end,
        line: line.subscribe(),
        agent: options.agent,
    };
    let worker = Worker {
        address: options.address,
        config: Arc::new(options.config),
        run,
        queue,
        inbox,
        status: Arc::clone(&status),
        asked,
        line,
        is_ending: false,
        dropped_told: 0,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime of the uplink")?;
    let thread = std::thread::Builder::new()
        .name("uplink".to_owned())
        .spawn(move || {
            if let Err(error) = crate::privilege::keep_only(&[]) {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "the uplink keeps capabilities"
                );
            }
            runtime.block_on(worker.work());
        })
        .context("start the uplink")?;
    Ok(Uplink {
        batches,
        run,
        status,
        orders,
        thread,
    })
}

struct Worker {
    address: Address,
    config: Arc<ClientConfig>,
    run: u64,
    queue: Queue,
    inbox: mpsc::Receiver<Batch>,
    status: Arc<UplinkStatus>,
    /// Where what the hub asks goes.
    asked: mpsc::Sender<Asked>,
    /// The way to the hub, for those who deliver what it asked for.
    line: watch::Sender<Option<HubClient<Connection>>>,
    /// Nothing more is told.
    is_ending: bool,
    dropped_told: u64,
}

/// A session under way.
struct Session {
    client: HubClient<Connection>,
    outbox: mpsc::Sender<AgentMessage>,
    inbox: Streaming<HubMessage>,
    credit_bytes: u64,
}

impl Worker {
    async fn work(mut self) {
        let mut pause = PAUSE_MIN;
        while !self.is_ending {
            match self.begin().await {
                Ok(Some(session)) => {
                    pause = PAUSE_MIN;
                    self.status.sessions.fetch_add(1, Ordering::Relaxed);
                    self.status.set_state(UplinkState::Connected);
                    self.line.send_replace(Some(session.client.clone()));
                    let conversed = self.converse(session).await;
                    self.line.send_replace(None);
                    if let Err(error) = conversed {
                        self.fail(&error);
                    }
                }
                Ok(None) => break,
                Err(error) => self.fail(&error),
            }
            if self.is_ending {
                break;
            }
            self.wait(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
        self.queue.keep();
        self.count();
    }

    fn fail(&self, error: &anyhow::Error) {
        let text = format!("{error:#}");
        if self.status.state() != UplinkState::Failed(text.clone()) {
            tracing::warn!(
                error = text,
                "no session with the hub; what it is to be told waits"
            );
        }
        self.status.set_state(UplinkState::Failed(text));
    }

    /// Keeps what comes, for as long as a pause takes.
    async fn wait(&mut self, pause: Duration) {
        let end = Instant::now() + pause;
        while !self.is_ending {
            tokio::select! {
                () = tokio::time::sleep_until(end) => return,
                batch = self.inbox.recv() => self.take(batch),
            }
        }
    }

    fn take(&mut self, batch: Option<Batch>) {
        match batch {
            Some(batch) => {
                self.queue.push(batch);
                self.count();
                // Last: who sees it sees where it is.
                self.status.batches.fetch_add(1, Ordering::Release);
            }
            None => self.is_ending = true,
        }
    }

    fn count(&mut self) {
        let (batches, _, spool_bytes) = self.queue.sizes();
        let status = &self.status;
        status
            .memory_batches
            .store(batches as u64, Ordering::Relaxed);
        status.spool_bytes.store(spool_bytes, Ordering::Relaxed);
        let dropped = self.queue.dropped_count();
        status
            .dropped
            .fetch_add(dropped - self.dropped_told, Ordering::Relaxed);
        self.dropped_told = dropped;
    }

    /// Connects and says hello, and keeps what comes meanwhile. None: nothing more is told.
    async fn begin(&mut self) -> anyhow::Result<Option<Session>> {
        let (address, config, run) = (self.address.clone(), Arc::clone(&self.config), self.run);
        let beginning = greet(address, config, run);
        tokio::pin!(beginning);
        let (session, welcome) = loop {
            tokio::select! {
                begun = &mut beginning => break begun?,
                batch = self.inbox.recv() => {
                    self.take(batch);
                    if self.is_ending {
                        return Ok(None);
                    }
                }
            }
        };
        tracing::info!(hub = %self.address, name = welcome.name, "the hub listens");
        let acknowledged = self.queue.resume((welcome.run, welcome.sequence));
        self.status
            .acknowledged
            .fetch_add(acknowledged, Ordering::Relaxed);
        self.count();
        Ok(Some(session))
    }

    /// Sends what there is, as far as there is credit, until the session or the agent ends.
    async fn converse(&mut self, mut session: Session) -> anyhow::Result<()> {
        let outbox = session.outbox.clone();
        let mut end: Option<Instant> = None;
        // Since when an acknowledgement is waited for.
        let mut since = Instant::now();
        loop {
            let next = self.queue.next_bytes();
            if self.is_ending && self.queue.is_empty() {
                return Ok(());
            }
            let may_send = next.is_some_and(|bytes| bytes <= session.credit_bytes);
            let ending = end.unwrap_or_else(Instant::now);
            let is_awaiting = self.queue.is_awaiting();
            tokio::select! {
                message = session.inbox.message() => {
                    self.hear(&mut session, message)?;
                    since = Instant::now();
                }
                () = tokio::time::sleep_until(since + ACKNOWLEDGEMENT_TIMEOUT), if is_awaiting => {
                    bail!(
                        "{}: nothing was acknowledged for {ACKNOWLEDGEMENT_TIMEOUT:?}",
                        self.address
                    );
                }
                place = outbox.reserve(), if may_send => {
                    let Ok(place) = place else {
                        // The other way tells why.
                        let message = session.inbox.message().await;
                        self.hear(&mut session, message)?;
                        bail!("the hub ended the session");
                    };
                    if let Some(batch) = self.queue.send() {
                        if !is_awaiting {
                            since = Instant::now();
                        }
                        session.credit_bytes -= batch.body.len() as u64;
                        let message = Some(FromAgent::Batch(batch));
                        place.send(AgentMessage { message });
                    }
                }
                batch = self.inbox.recv(), if !self.is_ending => {
                    self.take(batch);
                    if self.is_ending {
                        end = Some(Instant::now() + END_TIMEOUT);
                    }
                }
                () = tokio::time::sleep_until(ending), if end.is_some() => return Ok(()),
            }
        }
    }

    fn hear(
        &mut self,
        session: &mut Session,
        message: Result<Option<HubMessage>, tonic::Status>,
    ) -> anyhow::Result<()> {
        let message = match message {
            Ok(Some(message)) => message.message,
            Ok(None) => bail!("the hub ended the session"),
            Err(status) => bail!("{}: {}", self.address, explain_status(&status)),
        };
        match message {
            Some(FromHub::Ack(ack)) => {
                let acknowledged = self.queue.acknowledge((ack.run, ack.sequence));
                self.status
                    .acknowledged
                    .fetch_add(acknowledged, Ordering::Relaxed);
                session.credit_bytes = session.credit_bytes.saturating_add(ack.credit_bytes);
                self.count();
            }
            Some(FromHub::Capture(order)) => self.ask(Asked::Begin(order)),
            Some(FromHub::CaptureStop(stop)) => self.ask(Asked::Stop(stop)),
            // What a newer hub asks for.
            Some(FromHub::Welcome(_)) | None => {}
        }
        Ok(())
    }

    fn ask(&self, asked: Asked) {
        if self.asked.try_send(asked).is_err() {
            tracing::warn!("the hub asks for more than this agent does; it is not done");
        }
    }
}

/// Connects and says hello; what the hub answers.
async fn greet(
    address: Address,
    config: Arc<ClientConfig>,
    run: u64,
) -> anyhow::Result<(Session, Welcome)> {
    let mut client = connect(&address, config).await?;
    let (outbox, outgoing) = mpsc::channel(MESSAGE_COUNT_MAX);
    let hello = Hello {
        protocol_version: PROTOCOL_VERSION,
        abi_version: ABI_VERSION,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        run,
    };
    let message = Some(FromAgent::Hello(hello));
    outbox
        .send(AgentMessage { message })
        .await
        .context("say hello")?;
    let greeting = async {
        let response = client.session(ReceiverStream::new(outgoing)).await?;
        let mut inbox = response.into_inner();
        let first = inbox.message().await?;
        Ok::<_, tonic::Status>((inbox, first))
    };
    let greeted = tokio::time::timeout(HELLO_TIMEOUT, greeting).await;
    let (inbox, first) = match greeted {
        Ok(Ok(greeted)) => greeted,
        Ok(Err(status)) => bail!("{address}: {}", explain_status(&status)),
        Err(_) => bail!("{address}: no answer within {HELLO_TIMEOUT:?}"),
    };
    let Some(FromHub::Welcome(welcome)) = first.and_then(|it| it.message) else {
        bail!("{address}: the hub did not say welcome");
    };
    let session = Session {
        client,
        outbox,
        inbox,
        credit_bytes: welcome.credit_bytes,
    };
    Ok((session, welcome))
}
