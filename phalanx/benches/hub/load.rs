//! The load: a process that plays many agents over real mutual TLS, each with a session of its own
//! that keeps to its credit. Of an agent there is what the hub sees: batches, packed, numbered,
//! closed each 200 ms, with a status each second.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use phalanx::clock::Reading;
use phalanx::daemon::{HopState, HopStatus, InstanceStatus, KernelStatus, RingStatus};
use phalanx::link::connection::{Address, connect};
use phalanx::link::limits::{BATCH_AGE_MAX, BATCH_BYTES_MAX};
use phalanx::link::protocol::agent_message::Message as FromAgent;
use phalanx::link::protocol::hub_message::Message as FromHub;
use phalanx::link::protocol::{AgentMessage, Hello, HubMessage};
use phalanx::link::{Batcher, PROTOCOL_VERSION, Told};
use phalanx::lookback::LookbackStatus;
use phalanx::translation::LookupCounts;
use phalanx_common::abi::{ABI_VERSION, COUNTER_COUNT};
use phalanx_engine::{HopId, Input, Monotonic, Tally};
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::fleet::Fleet;
use crate::flow::Flows;
use crate::stage::{hop, monotonic};

/// Where a process of this program finds that it is the load.
pub(crate) const ORDER: &str = "PHALANX_BENCH_LOAD";
/// Agents that come at once: the hub has room for 128 that it does not know yet.
const COMING_COUNT_MAX: usize = 32;
/// Updates of one batch: what a mebibyte holds.
const BATCH_UPDATE_COUNT_MAX: u64 = 2_000;
/// Reads of one batch, beside the updates.
const READ_COUNT_MAX: usize = 400;
const STATUS_INTERVAL_NS: u64 = 1_000_000_000;
const HOP: HopId = HopId(1);

/// What the load is to be.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    /// The files of the agents.
    pub(crate) fleet: PathBuf,
    /// Where the hub is.
    pub(crate) hub: SocketAddr,
    /// How many agents: an even number, two of them see the same connections.
    pub(crate) agent_count: usize,
    /// Connections of two of them at once.
    pub(crate) flow_count: usize,
    /// Updates a second of each agent; none: as many as the hub takes.
    pub(crate) rate: Option<u64>,
    pub(crate) seconds: u64,
}

/// What all agents have done.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Progress {
    pub(crate) connected: AtomicU64,
    /// Updates that were made, and those that the hub has acknowledged.
    pub(crate) made: AtomicU64,
    pub(crate) acknowledged: AtomicU64,
    /// Items that were told: updates, reads and statuses.
    pub(crate) items: AtomicU64,
    /// Packets of all connections, each counted once.
    pub(crate) packets: AtomicU64,
    /// Bytes of batches as they travel.
    pub(crate) bytes: AtomicU64,
    /// All is told and acknowledged.
    pub(crate) is_done: bool,
}

/// Plays the agents; tells of its progress each second, one line of JSON.
pub(crate) fn run(order: &Order) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let progress = Arc::new(Progress::default());
    let played = runtime.block_on(play(order, &progress));
    let mut progress = Arc::into_inner(progress).context("an agent still plays")?;
    progress.is_done = played.is_ok();
    println!("{}", serde_json::to_string(&progress)?);
    played
}

async fn play(order: &Order, progress: &Arc<Progress>) -> Result<()> {
    let begin = watch::Sender::new(None);
    let coming = Arc::new(Semaphore::new(COMING_COUNT_MAX));
    let mut agents = tokio::task::JoinSet::new();
    for number in 0..order.agent_count {
        let (order, progress) = (order.clone(), Arc::clone(progress));
        let (begun, coming) = (begin.subscribe(), Arc::clone(&coming));
        agents.spawn(async move {
            let place = coming.acquire().await?;
            let agent = Agent::come(&order, number, progress).await?;
            drop(place);
            agent.play(&order, begun).await
        });
    }
    let mut second = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            played = agents.join_next() => match played {
                Some(played) => played??,
                None => return Ok(()),
            },
            _ = second.tick() => println!("{}", serde_json::to_string(&**progress)?),
        }
        let connected = progress.connected.load(Ordering::Relaxed);
        if connected == order.agent_count as u64 && begin.borrow().is_none() {
            begin.send_replace(Some(Instant::now()));
        }
    }
}

struct Agent {
    number: usize,
    batcher: Batcher,
    flows: Flows,
    outbox: mpsc::Sender<AgentMessage>,
    inbox: Streaming<HubMessage>,
    credit_bytes: u64,
    /// Batches that are not acknowledged: their numbers and their updates.
    waiting: VecDeque<(u64, u64)>,
    made: u64,
    /// Updates and items of the batch under way.
    batch_updates: u64,
    batch_items: u64,
    status_next_ns: u64,
    progress: Arc<Progress>,
}

impl Agent {
    /// Connects, says hello and is welcome.
    async fn come(order: &Order, number: usize, progress: Arc<Progress>) -> Result<Self> {
        let tls = Fleet::new(&order.fleet).tls(number)?;
        let address = Address::parse(&format!("https://{}", order.hub))?;
        let mut client = connect(&address, Arc::new(tls)).await?;
        let (outbox, outgoing) = mpsc::channel(4);
        let run = Reading::take().wall_ns;
        let hello = Hello {
            protocol_version: PROTOCOL_VERSION,
            abi_version: ABI_VERSION,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            run,
        };
        let message = Some(FromAgent::Hello(hello));
        outbox.send(AgentMessage { message }).await?;
        let response = client.session(ReceiverStream::new(outgoing)).await?;
        let mut inbox = response.into_inner();
        let welcome = inbox.message().await?.and_then(|it| it.message);
        let Some(FromHub::Welcome(welcome)) = welcome else {
            bail!("agent {number}: the hub did not say welcome");
        };
        progress.connected.fetch_add(1, Ordering::Relaxed);
        let mut boot = [0; 16];
        boot[..8].copy_from_slice(&(number as u64 + 1).to_be_bytes());
        let mut agent = Self {
            number,
            batcher: Batcher::new(run, boot)?,
            flows: Flows::new(number / 2, number % 2 == 1, order.flow_count),
            outbox,
            inbox,
            credit_bytes: welcome.credit_bytes,
            waiting: VecDeque::new(),
            made: 0,
            batch_updates: 0,
            batch_items: 0,
            status_next_ns: 0,
            progress,
        };
        agent.tell(&Told::Input(Input::HopAppeared(hop())));
        Ok(agent)
    }

    /// Waits for all others, then tells until its time is over and all is acknowledged.
    async fn play(
        mut self,
        order: &Order,
        mut begun: watch::Receiver<Option<Instant>>,
    ) -> Result<()> {
        let begin = begun.wait_for(Option::is_some).await?.context("begin")?;
        let end = begin + Duration::from_secs(order.seconds);
        // Agents do not close their batches together, unless they see the same.
        let phase =
            BATCH_AGE_MAX.mul_f64((self.number / 2) as f64 / order.agent_count as f64 * 2.0);
        let mut turn = tokio::time::interval_at(begin + phase, BATCH_AGE_MAX);
        turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while Instant::now() < end {
            if order.rate.is_some() {
                tokio::select! {
                    message = self.inbox.message() => {
                        self.hear(message?)?;
                        continue;
                    }
                    _ = turn.tick() => {}
                }
            }
            // The last turn ends after its time.
            let elapsed = begin.elapsed().min(end - begin);
            self.tell_due(order.rate.map(|rate| due(rate, elapsed)))
                .await?;
        }
        if let Some(rate) = order.rate {
            let all = rate * order.seconds;
            while self.made < all {
                self.tell_due(Some(all)).await?;
            }
        }
        self.status_next_ns = 0;
        self.tell_status();
        self.close(true).await?;
        while !self.waiting.is_empty() {
            let message = self.inbox.message().await?;
            self.hear(message)?;
        }
        if self.number.is_multiple_of(2) {
            let packets = self.flows.packet_count;
            self.progress.packets.fetch_add(packets, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Tells a batch: so many updates that `due` are made in all, as far as they fit.
    async fn tell_due(&mut self, due: Option<u64>) -> Result<()> {
        let wanted = due.map_or(u64::MAX, |due| due.saturating_sub(self.made));
        let now = monotonic();
        for _ in 0..wanted.min(BATCH_UPDATE_COUNT_MAX) {
            let update = &self.flows.step(now.0);
            self.made += 1;
            self.batch_updates += 1;
            self.tell(&Told::Input(Input::Update { hop: HOP, update }));
        }
        for read in std::iter::from_fn(|| self.flows.read(now.0))
            .take(READ_COUNT_MAX)
            .collect::<Vec<_>>()
        {
            let update = &read;
            self.tell(&Told::Input(Input::FlowRead { hop: HOP, update }));
        }
        self.tell_status();
        self.close(false).await
    }

    fn tell_status(&mut self) {
        let now = monotonic();
        if now.0 >= self.status_next_ns {
            self.status_next_ns = now.0 + STATUS_INTERVAL_NS;
            self.tell(&Told::Status(Box::new(status(now))));
        }
    }

    fn tell(&mut self, told: &Told<'_>) {
        self.batch_items += 1;
        // A batch over a mebibyte is still within what the hub takes.
        self.batcher.tell(told, monotonic());
    }

    async fn close(&mut self, is_last: bool) -> Result<()> {
        let now = Reading::take();
        let closed = self
            .batcher
            .close(Monotonic(now.monotonic_ns), now.wall_ns)?;
        let Some(mut batch) = closed else {
            return Ok(());
        };
        batch.is_last = is_last;
        let bytes = batch.body.len() as u64;
        let updates = std::mem::take(&mut self.batch_updates);
        let items = std::mem::take(&mut self.batch_items);
        self.progress.made.fetch_add(updates, Ordering::Relaxed);
        self.progress.items.fetch_add(items, Ordering::Relaxed);
        self.progress.bytes.fetch_add(bytes, Ordering::Relaxed);
        while self.credit_bytes < bytes.min(BATCH_BYTES_MAX as u64) {
            let message = self.inbox.message().await?;
            self.hear(message)?;
        }
        self.credit_bytes -= bytes;
        self.waiting.push_back((batch.sequence, updates));
        let message = Some(FromAgent::Batch(batch));
        self.outbox.send(AgentMessage { message }).await?;
        Ok(())
    }

    fn hear(&mut self, message: Option<HubMessage>) -> Result<()> {
        let message = message.context("the hub ended the session")?;
        let Some(FromHub::Ack(ack)) = message.message else {
            return Ok(());
        };
        self.credit_bytes += ack.credit_bytes;
        while let Some((_, updates)) = self
            .waiting
            .pop_front_if(|(sequence, _)| *sequence <= ack.sequence)
        {
            self.progress
                .acknowledged
                .fetch_add(updates, Ordering::Relaxed);
        }
        Ok(())
    }
}

fn due(rate: u64, elapsed: Duration) -> u64 {
    (rate as f64 * elapsed.as_secs_f64()) as u64
}

/// The status of an agent with one interface.
fn status(at: Monotonic) -> KernelStatus {
    let ring = RingStatus {
        used_bytes: at.0 % 65_536,
        size_bytes: 4 << 20,
    };
    KernelStatus {
        at,
        counters: [at.0 / 1_000_000; COUNTER_COUNT],
        instances: vec![InstanceStatus {
            namespace: "own".to_owned(),
            events: ring,
            records: ring,
            flow_count: 100,
            flow_count_max: 131_072,
        }],
        tally: Tally::default(),
        map_memory_bytes: 178_000_000,
        hops: vec![HopStatus {
            hop: Some(HOP),
            namespace: "own".to_owned(),
            interface: "eth0".to_owned(),
            ifindex: 2,
            ingress: "tcx".to_owned(),
            egress: "tcx".to_owned(),
            reason: "it has the default route".to_owned(),
            state: HopState::Running,
        }],
        events_read: at.0 / 10_000_000,
        events_unknown: 0,
        events_unplaced: 0,
        records_read: 0,
        promoted_packets: 0,
        promoted_evicted: 0,
        lookback: LookbackStatus::off(),
        translations: LookupCounts::default(),
        records_dropped_queue_full: 0,
        event_lag_ns: 20_000_000,
        cpu_ns: at.0 / 1_000,
        resident_bytes: 40_000_000,
    }
}
