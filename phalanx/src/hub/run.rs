//! `phalanx hub`: starts its threads in order, replays its log, serves until a signal ends it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use phalanx_engine::{Engine, EngineConfig, Expiry, Input, Monotonic, NameFact};
use prost::Message;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsAcceptor;

use super::authority::Authority;
use super::directory::Directory;
use super::lines::Lines;
use super::listen::{Door, bind};
use super::log::{Log, Retention, seed};
use super::position::{Positions, Standing};
use super::registry::{Registered, Registry};
use super::roster::{AgentState, AgentStatus, Roster, Taken};
use super::session::Shared;
use super::store::{GROUP_TAKEN_COUNT_MAX, ORDER_COUNT_MAX, Order, Store, Stored};
use super::token::Tokens;
use crate::capture::{Keeping, PromotedPackets};
use crate::clock::Clock;
use crate::config::Config;
use crate::daemon::{
    Core, DaemonHandle, FEED_COUNT_MAX, Feed, FeedClosed, Outlet, RECORD_BATCH_COUNT_MAX,
    REQUEST_COUNT_MAX, Replay, Request, Service, Signalled, Waker, block_signals, next_signal,
    notify,
};
use crate::link::Opener;
use crate::link::credential::{Files, server_config};
use crate::link::protocol::Batch;
use crate::lookback::{Lookback, LookbackFeed, LookbackOptions};
use crate::socket::load_names;

/// How often the main thread looks whether the loop still runs.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How often the loop tells how the hub and its agents do.
const STATUS_INTERVAL_NS: u64 = 1_000_000_000;
/// Longest sleep of the loop: what is due in the engine is done that late at most.
const TICK: Duration = Duration::from_millis(100);
/// Threads that serve agents: unpacking and checking batches is most of what they do.
const THREAD_COUNT: usize = 2;

/// What a hub is started with.
#[derive(Clone, Debug)]
pub struct HubOptions {
    /// Where its files are.
    pub directory: PathBuf,
    /// Where agents come.
    pub agents: SocketAddr,
    /// Bytes that its log takes.
    pub log_bytes_max: u64,
    /// Age at which the log forgets.
    pub log_age_max: Duration,
}

/// Runs a hub until a signal ends it.
///
/// # Errors
/// Whatever keeps it from starting, with the remedy; or that a part of it ended.
pub fn hub(config: &Config, options: &HubOptions) -> anyhow::Result<()> {
    let signals = block_signals()?;
    crate::privilege::forbid_new_privileges()?;
    let directory = Directory::new(&options.directory);
    let authority = Authority::open(&directory)?;
    let tls = server_config(Files {
        authority: &directory.authority_certificate(),
        certificate: &directory.certificate(),
        key: &directory.key(),
    })?;
    let lock = lock(&directory)?;
    let service = Service::bind(config)?;
    let running = Running::start(config, options, &directory, authority, service, tls)?;
    running.await_ready();
    notify::ready(&running.describe());
    tracing::info!("{}", running.describe());
    let result = loop {
        if running.turn.is_finished() {
            break Err(anyhow::anyhow!(
                "the loop ended by itself; the log says why"
            ));
        }
        match next_signal(&signals, LOOK_INTERVAL) {
            Ok(None) => {}
            Ok(Some(Signalled::Reload)) => tracing::warn!("a hub takes a restart to be changed"),
            Ok(Some(Signalled::Stop)) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    notify::stopping();
    running.stop();
    drop(lock);
    result
}

/// One hub a directory: two would write one log.
fn lock(directory: &Directory) -> anyhow::Result<nix::fcntl::Flock<std::fs::File>> {
    use nix::fcntl::{Flock, FlockArg};
    let path = directory.path().join("lock");
    let file = std::fs::File::create(&path).with_context(|| format!("open {}", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| {
        anyhow::anyhow!(
            "{}: another hub runs in this directory ({errno})",
            directory.path().display()
        )
    })
}

struct Running {
    service: Service,
    runtime: Runtime,
    agents: SocketAddr,
    stops: watch::Sender<bool>,
    turn: JoinHandle<anyhow::Result<()>>,
    shared: Arc<Shared>,
}

impl Running {
    fn start(
        config: &Config,
        options: &HubOptions,
        directory: &Directory,
        authority: Authority,
        mut service: Service,
        tls: rustls::ServerConfig,
    ) -> anyhow::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(THREAD_COUNT)
            .max_blocking_threads(THREAD_COUNT)
            .thread_name("agents")
            .enable_all()
            .build()
            .context("start the runtime")?;
        let listener: TcpListener = runtime.block_on(bind(options.agents))?;
        let agents = listener
            .local_addr()
            .context("read the address of agents")?;
        let log = Log::open(
            &directory.log(),
            Retention {
                bytes_max: options.log_bytes_max,
                age_max_ns: nanoseconds(options.log_age_max),
            },
        )?;
        let names = load_names(config.names_file.as_ref())?;
        let (feed, feed_end) = mpsc::channel(FEED_COUNT_MAX);
        let (_records, records_end) = mpsc::channel(RECORD_BATCH_COUNT_MAX);
        let (requests, requests_end) = mpsc::channel(REQUEST_COUNT_MAX);
        let lines = Arc::<Lines>::default();
        // A hub has no packets of its own.
        let lookback = Lookback::new(LookbackOptions {
            feed: LookbackFeed::Off,
            ..LookbackOptions::default()
        });
        let daemon = DaemonHandle {
            requests,
            waker: Waker::new()?,
            clock: Clock::wall_clock(),
            promoted: Arc::<PromotedPackets>::default(),
            lookback: Arc::new(lookback.map_err(anyhow::Error::msg)?),
            translations: Arc::default(),
        };
        service.start(
            Outlet {
                feed: feed_end,
                records: records_end,
                daemon,
            },
            Keeping {
                directory: directory.captures(),
                bytes_max: config.capture_bytes_max,
                age_max: config.capture_age_max,
            },
            Some(Arc::clone(&lines)),
        )?;
        let engine = Engine::new(EngineConfig {
            seed: authority.seed,
            flow_count_max: config.hub_flow_count_max as usize,
            tcp_idle_timeout_ns: nanoseconds(config.tcp_idle_timeout),
            expiry: Expiry::Told,
        });
        let registry = Registry::new(directory);
        let (orders, orders_end) = sync_channel(ORDER_COUNT_MAX);
        let tokens = Tokens::new(directory);
        let mut shared = Shared::new(authority, registry, tokens, orders);
        (shared.lines, shared.captures) = (lines, service.path_captures());
        let shared = Arc::new(shared);
        let turn = Turn {
            core: Core::new(engine, feed, None),
            roster: Roster::default(),
            shared: Arc::clone(&shared),
            requests: requests_end,
            log_bytes: 0,
            status_next: Monotonic::default(),
            now: Monotonic::default(),
        };
        let turn = std::thread::Builder::new()
            .name("loop".to_owned())
            .spawn(move || turn.run(log, orders_end, names))
            .context("start the loop")?;
        let stops = watch::Sender::new(false);
        let door = Door {
            listener,
            tls: TlsAcceptor::from(Arc::new(tls)),
            shared: Arc::clone(&shared),
        };
        runtime.spawn(door.serve(stops.subscribe()));
        Ok(Self {
            service,
            runtime,
            agents,
            stops,
            turn,
            shared,
        })
    }

    fn await_ready(&self) {
        while !self.turn.is_finished() && !self.service.await_ready(LOOK_INTERVAL) {}
    }

    fn describe(&self) -> String {
        format!(
            "hub: agents at {}; metrics and API at {}",
            self.agents,
            self.service.address()
        )
    }

    /// Ends the sessions first: what was acknowledged is in the log.
    fn stop(self) {
        self.stops.send_replace(true);
        self.runtime.shutdown_timeout(LOOK_INTERVAL);
        // With the store ends the loop. It fails only where the store has ended.
        drop(self.shared.orders.send(Order::Stop));
        match self.turn.join() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(error = format!("{error:#}"), "the loop failed"),
            Err(_) => tracing::error!("the loop ended in panic"),
        }
        self.service.stop();
    }
}

/// The loop: one thread owns the engine of all agents.
struct Turn {
    core: Core,
    roster: Roster,
    shared: Arc<Shared>,
    requests: mpsc::Receiver<Request>,
    log_bytes: u64,
    status_next: Monotonic,
    now: Monotonic,
}

impl Turn {
    fn run(mut self, log: Log, orders: Receiver<Order>, names: NameFact) -> anyhow::Result<()> {
        self.core
            .handle(Input::Names(names), Monotonic::default())?;
        let (log, positions) = self.replay(log)?;
        let (stored, stored_end) = sync_channel(GROUP_TAKEN_COUNT_MAX);
        let store = Store::new(log, positions, self.now);
        let storing = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || store.work(&orders, &stored))
            .context("start the store")?;
        let result = self.take_all(&stored_end);
        drop(stored_end);
        if storing.join().is_err() {
            bail!("the store ended in panic");
        }
        result
    }

    /// Gives the engine what the log holds, at the times at which it came.
    fn replay(&mut self, mut log: Log) -> anyhow::Result<(Log, Positions)> {
        let began = std::time::Instant::now();
        let mut positions = Positions::default();
        let mut opener = Opener::new().context("prepare unpacking")?;
        let mut agents: std::collections::BTreeMap<String, Option<Arc<Registered>>> =
            std::collections::BTreeMap::new();
        let (mut batch_count, mut fault_count, mut removed_count) = (0_u64, 0_u64, 0_u64);
        let has_forgotten = log.has_forgotten();
        self.core.tell(Feed::Replay(Replay::Begun))?;
        log.replay(|entry| {
            self.now = self.now.max(Monotonic(entry.at_ns));
            if let Some(head) = entry.positions {
                seed(&mut positions, head);
                return Ok(());
            }
            batch_count += 1;
            let shared = &self.shared;
            let registered = agents
                .entry(entry.agent)
                .or_insert_with_key(|agent| shared.registry.find(agent).map(Arc::new));
            // What a removed agent told is forgotten with it.
            let Some(agent) = registered.clone() else {
                removed_count += 1;
                return Ok(());
            };
            let Ok(batch) = Batch::decode(entry.batch) else {
                fault_count += 1;
                return Ok(());
            };
            let standing = positions.take(&agent.agent, &batch);
            let (Ok(Standing::Next { is_new_run }), Ok(opened)) = (standing, opener.open(&batch))
            else {
                fault_count += 1;
                return Ok(());
            };
            let taken = Taken {
                at: self.now,
                position: positions.get(&agent.agent),
                agent,
                is_new_run,
                boot: u128::from_be_bytes(opened.boot),
                contents: opened.contents,
            };
            self.feed(taken).map_err(anyhow::Error::from)
        })?;
        self.core.hand_on()?;
        // What was counted before this process began may have been more.
        let is_whole = !has_forgotten && fault_count == 0 && removed_count == 0;
        self.core.tell(Feed::Replay(Replay::Ended { is_whole }))?;
        self.log_bytes = log.bytes();
        let elapsed_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::info!(
            batch_count,
            fault_count,
            removed_count,
            bytes = self.log_bytes,
            elapsed_ms,
            "the log was replayed"
        );
        Ok((log, positions))
    }

    fn take_all(&mut self, stored: &Receiver<Stored>) -> anyhow::Result<()> {
        loop {
            match stored.recv_timeout(TICK) {
                Ok(Stored { batches, log_bytes }) => {
                    for (taken, place) in batches {
                        self.feed(taken)?;
                        drop(place);
                    }
                    self.log_bytes = log_bytes;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            self.now = self.now.max(wall_now());
            self.advance(self.now)?;
            self.core.hand_on()?;
            while let Ok(Request::SetRecording { reply, .. }) = self.requests.try_recv() {
                // Fails only where the asker has gone.
                drop(reply.send(Err("a hub records nothing itself".to_owned())));
            }
            if self.now >= self.status_next {
                self.status_next = self.now.plus_ns(STATUS_INTERVAL_NS);
                self.tell_status()?;
            }
        }
    }

    fn feed(&mut self, taken: Taken) -> Result<(), FeedClosed> {
        self.advance(taken.at)?;
        self.roster.feed(&mut self.core, taken)?;
        // The engines at the agents look after the kernel's tables.
        drop(self.core.commands());
        Ok(())
    }

    /// Lets the engine do what is due, each at its own time: so a replay, which knows only the
    /// times of batches, gives the same.
    fn advance(&mut self, to: Monotonic) -> Result<(), FeedClosed> {
        while let Some(due) = self.core.deadline().filter(|due| *due <= to) {
            self.core.handle_deadline(due);
            self.core.hand_on()?;
            drop(self.core.commands());
        }
        Ok(())
    }

    fn tell_status(&mut self) -> anyhow::Result<()> {
        let agents = self.agents()?;
        self.core.tell(Feed::Agents {
            agents,
            log_bytes: self.log_bytes,
        })?;
        let kernel = self.roster.kernel(&self.core, self.now);
        self.core.tell(Feed::Kernel(Box::new(kernel)))?;
        notify::keep_alive();
        Ok(())
    }

    /// All agents that were let in, with what the roster and the sessions know of them.
    fn agents(&self) -> anyhow::Result<Vec<AgentStatus>> {
        let registered = self.shared.registry.list()?;
        let sessions = self.shared.facts();
        let mut statuses = self.roster.statuses();
        let mut hosts = BTreeSet::new();
        let doubled: BTreeSet<&str> = registered
            .iter()
            .map(|it| it.host.as_str())
            .filter(|host| !hosts.insert(*host))
            .collect();
        let status = |it: &Registered| {
            let known = statuses.remove(it.agent.as_str());
            let mut status = known.unwrap_or_else(|| AgentStatus::new(it));
            status.has_namesake = doubled.contains(it.host.as_str());
            if let Some(session) = sessions.get(&it.agent) {
                status.peer = Some(session.peer.to_string());
                status.version = Some(session.version.clone());
                status.refused = session.refused;
                if session.is_open {
                    status.state = AgentState::Connected;
                }
            }
            status
        };
        Ok(registered.iter().map(status).collect())
    }
}

fn wall_now() -> Monotonic {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    Monotonic(now.map_or(0, nanoseconds))
}

pub(super) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
