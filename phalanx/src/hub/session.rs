//! Sessions: an agent is greeted, its batches are unpacked and checked within bounds, and go to the
//! store. Whatever it sends, it can only end its own session.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use phalanx_common::abi::ABI_VERSION;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::authority::Authority;
use super::capture::PathCaptures;
use super::lines::Lines;
use super::openers::Openers;
use super::registry::{Registered, Registry};
use super::store::{Arrived, Order};
use super::token::Tokens;
use crate::link::batch::Malformed;
use crate::link::credential::Identity;
use crate::link::limits::{
    BATCH_BYTES_MAX, BATCH_ITEM_COUNT_MAX, CREDIT_BYTES, HELLO_TIMEOUT, PLAIN_BYTES_MAX,
};
use crate::link::protocol::agent_message::Message as FromAgent;
use crate::link::protocol::hub_message::Message as FromHub;
use crate::link::protocol::hub_server::Hub;
use crate::link::protocol::{
    AgentMessage, Batch, CapturePart, CaptureReceipt, EnrollRequest, EnrollResponse, Hello,
    HubMessage, Welcome,
};
use crate::link::{PROTOCOL_VERSION, explain_versions};

/// Acknowledgements that wait for an agent to read; full: they are added up.
const OUTBOX_COUNT_MAX: usize = 8;
/// What batches of all agents that are unpacked at once hold, in KiB: eight of the largest, 2 MiB
/// each, or some thousands of those that most agents send; some three times that in memory. They
/// are on their way to the engine: 16 MiB are a third of a second of 100,000 updates a second.
const OPEN_KIB_MAX: usize = 8 * (PLAIN_BYTES_MAX >> 10);
/// Items of one agent in a second; beyond, it waits. Far more than a kernel's ring gives.
const ITEM_RATE_MAX: u64 = 400_000;
/// Tries to enroll in a minute, of everybody together: a token cannot be guessed, and nobody is to
/// keep the hub busy with it.
const ENROLL_RATE_MAX: u32 = 600;
const ENROLL_WINDOW: Duration = Duration::from_secs(60);
/// How often it is looked whether an agent was removed.
pub(crate) const REGISTRY_INTERVAL: Duration = Duration::from_secs(2);
/// Pause before the store is asked again while it is busy.
const STORE_PAUSE: Duration = Duration::from_millis(2);

/// A session as it is shown.
#[derive(Clone, Debug)]
pub(crate) struct SessionFacts {
    pub(crate) number: u64,
    pub(crate) peer: SocketAddr,
    pub(crate) version: String,
    pub(crate) is_open: bool,
    pub(crate) refused: u64,
}

/// What all sessions share.
pub(crate) struct Shared {
    pub(crate) authority: Authority,
    pub(crate) registry: Registry,
    pub(crate) tokens: Tokens,
    pub(crate) orders: SyncSender<Order>,
    pub(crate) places: Arc<Semaphore>,
    /// The ways to the agents that are here.
    pub(crate) lines: Arc<Lines>,
    /// None where captures cannot be kept.
    pub(crate) captures: Option<Arc<PathCaptures>>,
    openers: Openers,
    session_last: AtomicU64,
    /// By agent; bounded by the registry.
    facts: Mutex<BTreeMap<String, SessionFacts>>,
    enrolling: Mutex<(Option<Instant>, u32)>,
}

impl Shared {
    pub(crate) fn new(
        authority: Authority,
        registry: Registry,
        tokens: Tokens,
        orders: SyncSender<Order>,
    ) -> Self {
        Self {
            authority,
            registry,
            tokens,
            orders,
            lines: Arc::default(),
            captures: None,
            places: Arc::new(Semaphore::new(OPEN_KIB_MAX)),
            openers: Openers::default(),
            session_last: AtomicU64::new(0),
            facts: Mutex::default(),
            enrolling: Mutex::default(),
        }
    }

    /// The latest session of each agent.
    pub(crate) fn facts(&self) -> BTreeMap<String, SessionFacts> {
        self.lock_facts().clone()
    }

    fn lock_facts(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, SessionFacts>> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn may_enroll(&self) -> bool {
        let mut enrolling = self
            .enrolling
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let is_over = |began: Instant| now.duration_since(began) >= ENROLL_WINDOW;
        if enrolling.0.is_none_or(is_over) {
            *enrolling = (Some(now), 0);
        }
        enrolling.1 += 1;
        enrolling.1 <= ENROLL_RATE_MAX
    }

    async fn order(&self, order: Order) -> Result<(), Status> {
        let mut order = order;
        loop {
            match self.orders.try_send(order) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Full(back)) => order = back,
                Err(TrySendError::Disconnected(_)) => {
                    return Err(Status::unavailable("the hub is stopping"));
                }
            }
            tokio::time::sleep(STORE_PAUSE).await;
        }
    }
}

/// One connection.
pub(crate) struct Reception {
    pub(crate) shared: Arc<Shared>,
    pub(crate) peer: SocketAddr,
    /// Whose certificate it came with.
    pub(crate) identity: Option<Identity>,
}

#[tonic::async_trait]
impl Hub for Reception {
    async fn enroll(
        &self,
        request: Request<EnrollRequest>,
    ) -> Result<Response<EnrollResponse>, Status> {
        let request = request.into_inner();
        check_version(request.protocol_version, &request.version)?;
        let shared = Arc::clone(&self.shared);
        if !shared.may_enroll() {
            return Err(Status::resource_exhausted(
                "too many try to enroll: try again in a minute",
            ));
        }
        let peer = self.peer;
        let enrolling = tokio::task::spawn_blocking(move || enroll(&shared, &request));
        match enrolling.await {
            Ok(Ok((registered, response))) => {
                tracing::info!(%peer, agent = registered.name, "an agent was enrolled");
                Ok(Response::new(response))
            }
            Ok(Err(status)) => {
                tracing::warn!(%peer, reason = status.message(), "nobody was enrolled");
                Err(status)
            }
            Err(error) => {
                tracing::error!(%error, "enrolling");
                Err(Status::internal("the hub could not enroll this agent"))
            }
        }
    }

    type DeliverStream = ReceiverStream<Result<CaptureReceipt, Status>>;

    async fn deliver(
        &self,
        request: Request<Streaming<CapturePart>>,
    ) -> Result<Response<Self::DeliverStream>, Status> {
        let agent = self.know()?;
        let Some(captures) = self.shared.captures.clone() else {
            return Err(Status::not_found("this hub keeps no captures"));
        };
        let outgoing = captures
            .deliver(&agent, &self.shared.registry, request.into_inner())
            .await?;
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }

    type SessionStream = ReceiverStream<Result<HubMessage, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let begun = self.begin(request.into_inner()).await;
        if let Err(status) = &begun {
            let host = self.identity.as_ref().map(|it| it.host.as_str());
            let reason = status.message();
            tracing::warn!(peer = %self.peer, host, reason, "no session began");
        }
        begun.map(|outgoing| Response::new(ReceiverStream::new(outgoing)))
    }
}

impl Reception {
    /// Greets an agent, and follows it in a task of its own.
    async fn begin(
        &self,
        mut inbox: Streaming<AgentMessage>,
    ) -> Result<mpsc::Receiver<Result<HubMessage, Status>>, Status> {
        let agent = self.know()?;
        let first = tokio::time::timeout(HELLO_TIMEOUT, inbox.message());
        let first = first
            .await
            .map_err(|_| Status::deadline_exceeded("no hello came"))??;
        let Some(FromAgent::Hello(hello)) = first.and_then(|it| it.message) else {
            return Err(Status::invalid_argument(
                "the first message must be a hello",
            ));
        };
        check_hello(&hello)?;
        let number = self.shared.session_last.fetch_add(1, Ordering::Relaxed) + 1;
        let (outbox, outgoing) = mpsc::channel(OUTBOX_COUNT_MAX);
        let (reply, answer) = oneshot::channel();
        let order = Order::Begin {
            session: number,
            agent: Arc::clone(&agent),
            run: hello.run,
            outbox: outbox.clone(),
            reply,
        };
        self.shared.order(order).await?;
        let stopping = |_| Status::unavailable("the hub is stopping");
        let position = answer.await.map_err(stopping)??;
        let welcome = Welcome {
            name: agent.name.clone(),
            run: position.run,
            sequence: position.sequence,
            credit_bytes: CREDIT_BYTES,
        };
        let message = Some(FromHub::Welcome(welcome));
        drop(outbox.try_send(Ok(HubMessage { message })));
        self.shared.lines.open(&agent.agent, number, outbox.clone());
        self.note(&agent, number, hello.version);
        if let Some(captures) = self.shared.captures.clone() {
            let agent = agent.agent.clone();
            tokio::spawn(async move { captures.greet(&agent).await });
        }
        let session = Session {
            number,
            agent,
            shared: Arc::clone(&self.shared),
            inbox,
            outbox,
            began: Instant::now(),
            items: 0,
            looked: Instant::now(),
        };
        tokio::spawn(session.follow());
        Ok(outgoing)
    }

    /// The agent of this connection, if it was let in and not shut out since.
    fn know(&self) -> Result<Arc<Registered>, Status> {
        let Some(identity) = &self.identity else {
            return Err(Status::unauthenticated(
                "no certificate came: enroll this host with phalanx agent enroll --token …",
            ));
        };
        let registered = self.shared.registry.find(&identity.agent);
        registered
            .map(Arc::new)
            .ok_or_else(|| removed(&identity.agent, &identity.host))
    }

    fn note(&self, agent: &Registered, number: u64, version: String) {
        let mut facts = self.shared.lock_facts();
        let refused = facts.get(&agent.agent).map_or(0, |before| before.refused);
        let session = SessionFacts {
            number,
            peer: self.peer,
            version: version.chars().take(32).collect(),
            is_open: true,
            refused,
        };
        tracing::info!(agent = agent.name, peer = %self.peer, "an agent is here");
        facts.insert(agent.agent.clone(), session);
    }
}

fn removed(agent: &str, host: &str) -> Status {
    Status::permission_denied(format!(
        "the agent {agent} of host {host} was removed from this hub: enroll this host anew"
    ))
}

fn check_version(protocol: u32, version: &str) -> Result<(), Status> {
    let own = (PROTOCOL_VERSION, env!("CARGO_PKG_VERSION"));
    let version: String = version.chars().take(32).collect();
    match explain_versions(own, (protocol, &version)) {
        Some(why) => Err(Status::failed_precondition(why)),
        None => Ok(()),
    }
}

fn check_hello(hello: &Hello) -> Result<(), Status> {
    check_version(hello.protocol_version, &hello.version)?;
    if hello.abi_version != ABI_VERSION {
        return Err(Status::failed_precondition(format!(
            "the hub reads structures of version {ABI_VERSION} (phalanx {}), the agent sends \
             version {}: run the same phalanx at both",
            env!("CARGO_PKG_VERSION"),
            hello.abi_version
        )));
    }
    if hello.run == 0 {
        return Err(Status::invalid_argument("the run must have a number"));
    }
    Ok(())
}

fn enroll(
    shared: &Shared,
    request: &EnrollRequest,
) -> Result<(Registered, EnrollResponse), Status> {
    let refuse = |error: anyhow::Error| Status::internal(format!("{error:#}"));
    let host = shared.tokens.redeem(&request.secret).map_err(|fault| {
        tracing::debug!(?fault, "token");
        Status::permission_denied(fault.to_string())
    })?;
    let registered = shared.registry.add(&host).map_err(refuse)?;
    let identity = Identity {
        agent: registered.agent.clone(),
        host: registered.host.clone(),
    };
    let certificate_pem = shared
        .authority
        .sign(&identity, &request.public_key)
        .map_err(|error| Status::invalid_argument(format!("{error:#}")))?;
    let response = EnrollResponse {
        agent: identity.agent,
        host: registered.name.clone(),
        certificate_pem,
    };
    Ok((registered, response))
}

struct Session {
    number: u64,
    agent: Arc<Registered>,
    shared: Arc<Shared>,
    inbox: Streaming<AgentMessage>,
    outbox: mpsc::Sender<Result<HubMessage, Status>>,
    began: Instant,
    items: u64,
    /// When it was last looked whether the agent was removed.
    looked: Instant,
}

impl Session {
    async fn follow(mut self) {
        let ended = self.take_batches().await;
        let is_fault = matches!(&ended, Err(status) if is_fault(status));
        self.note_end(is_fault);
        self.shared.lines.close(&self.agent.agent, self.number);
        let name = &self.agent.name;
        match ended {
            Ok(()) => tracing::info!(agent = name, "an agent has gone"),
            Err(status) => {
                tracing::warn!(agent = name, reason = status.message(), "a session ended");
                drop(self.outbox.try_send(Err(status)));
            }
        }
        let session = self.number;
        // Fails only where the hub is stopping.
        drop(self.shared.order(Order::End { session }).await);
    }

    fn note_end(&self, is_fault: bool) {
        let mut facts = self.shared.lock_facts();
        if let Some(known) = facts.get_mut(&self.agent.agent) {
            known.refused += u64::from(is_fault);
            if known.number == self.number {
                known.is_open = false;
            }
        }
    }

    async fn take_batches(&mut self) -> Result<(), Status> {
        loop {
            // The store ends a session by dropping its outbox, or somebody else takes its place.
            let message = tokio::select! {
                message = self.inbox.message() => message?,
                () = self.outbox.closed() => return Ok(()),
            };
            let Some(message) = message else {
                return Ok(());
            };
            match message.message {
                Some(FromAgent::Batch(batch)) => self.take(batch).await?,
                Some(FromAgent::Hello(_)) => {
                    return Err(Status::invalid_argument("hello was said before"));
                }
                // What a newer agent knows.
                None => {}
            }
        }
    }

    async fn take(&mut self, batch: Batch) -> Result<(), Status> {
        self.look_whether_removed()?;
        // Before it is waited for: what it says need not be true yet.
        if batch.item_count as usize > BATCH_ITEM_COUNT_MAX {
            return Err(Status::invalid_argument(
                Malformed::Count("items").to_string(),
            ));
        }
        self.slow_down(u64::from(batch.item_count)).await;
        let places = Arc::clone(&self.shared.places);
        let place = places.acquire_many_owned(open_kib(&batch)?).await;
        let place = place.map_err(|_| Status::unavailable("the hub is stopping"))?;
        let opened = self.shared.openers.open(&batch)?;
        let arrived = Box::new(Arrived {
            batch,
            opened,
            place,
        });
        let session = self.number;
        self.shared.order(Order::Take { session, arrived }).await
    }

    /// An agent that was shut out is told so while it speaks.
    fn look_whether_removed(&mut self) -> Result<(), Status> {
        if self.looked.elapsed() < REGISTRY_INTERVAL {
            return Ok(());
        }
        self.looked = Instant::now();
        match self.shared.registry.find(&self.agent.agent) {
            Some(_) => Ok(()),
            None => Err(removed(&self.agent.agent, &self.agent.host)),
        }
    }

    /// Waits where an agent sends more items than it may: a second of them may come at once.
    async fn slow_down(&mut self, items: u64) {
        self.items += items;
        let due_ns = self.items.saturating_mul(1_000_000_000) / ITEM_RATE_MAX;
        let elapsed = self.began.elapsed();
        let due = Duration::from_nanos(due_ns);
        if due + Duration::from_secs(1) < elapsed {
            // It sent less than it might have: that is not saved up.
            self.began = Instant::now();
            self.items = items;
        } else if due > elapsed + Duration::from_secs(1) {
            tokio::time::sleep(due - elapsed - Duration::from_secs(1)).await;
        }
    }
}

/// The room that a batch takes as long as it is unpacked.
fn open_kib(batch: &Batch) -> Result<u32, Status> {
    let bytes = batch.body.len().max(batch.plain_length as usize);
    if bytes > BATCH_BYTES_MAX {
        return Err(Status::invalid_argument(Malformed::Size(bytes).to_string()));
    }
    // Not more than the largest, which is far less than there is.
    Ok(1 + (bytes >> 10) as u32)
}

/// Whether a session ended because of what its agent sent.
fn is_fault(status: &Status) -> bool {
    use tonic::Code;
    matches!(
        status.code(),
        Code::InvalidArgument | Code::OutOfRange | Code::ResourceExhausted
    )
}
