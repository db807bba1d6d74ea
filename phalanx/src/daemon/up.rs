//! `phalanx up`: starts all threads in order, waits for signals, ends them in order.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signalfd::SignalFd;
use phalanx_common::watch::PromotionLimit;
use phalanx_engine::{ClockId, Engine, EngineConfig, Expiry, NameFact, NamespaceId};
use tokio::sync::mpsc;

use super::core::{Core, NameSeekers};
use super::feed::{
    DaemonHandle, FEED_COUNT_MAX, Outlet, RECORD_BATCH_COUNT_MAX, REQUEST_COUNT_MAX,
};
use super::link::{Direct, Link, Remote};
use super::notify;
use super::serve::Service;
use super::signal::{Signalled, block_signals, next_signal};
use super::turn::{Signals, Turn, TurnOptions};
use super::wake::Waker;
use super::watcher::{Outbox, REPORT_COUNT_MAX, Ready, Watcher, WatcherOptions};
use crate::agent::{Uplink, UplinkOptions, start_uplink};
use crate::capture::{Keeping, PromotedPackets};
use crate::clock::{Clock, Reading};
use crate::config::{Config, Layers, compare};
use crate::interface::Namespace;
use crate::kernel::LoadOptions;
use crate::link::Batcher;
use crate::lookback::Lookback;
use crate::privilege;
use crate::socket::{FACT_COUNT_MAX, Finder, FinderOptions, load_names, start_resolver};
use crate::translation::{Asker, Presence, Seeker, Translations, presence, start_seeker};

/// How often the main thread looks whether the loop still runs.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Runs the daemon until a signal ends it. `read` reads the configuration again; with an uplink a
/// hub is told of all that the loop is.
///
/// # Errors
/// Whatever keeps it from starting, with the remedy; or that a part of it ended.
pub fn up(
    layers: Layers,
    read: impl Fn() -> anyhow::Result<Layers>,
    uplink: Option<UplinkOptions>,
) -> anyhow::Result<()> {
    let config = Config::new(&layers)?;
    let missing = privilege::missing(&privilege::TO_LOAD);
    if !missing.is_empty() {
        let names: Vec<String> = missing.iter().map(ToString::to_string).collect();
        bail!(
            "not permitted: {} missing; run as root or see phalanx doctor",
            names.join(", ")
        );
    }
    let signals = block_signals()?;
    privilege::forbid_new_privileges()?;
    // Bound before anything is attached: a port in use is told before the kernel is touched.
    let service = Service::bind(&config)?;
    let daemon = Daemon::start(&config, service, uplink)?;
    daemon.await_ready();
    notify::ready(&daemon.describe());
    let result = daemon.serve_signals(&signals, layers, read);
    notify::stopping();
    daemon.stop();
    result
}

/// A running daemon.
struct Daemon {
    watchers: Vec<(Namespace, Watcher)>,
    turn: JoinHandle<anyhow::Result<()>>,
    finder: JoinHandle<()>,
    service: Service,
    signals: Signals,
    facts: SyncSender<NameFact>,
    uplink: Option<JoinHandle<()>>,
}

impl Daemon {
    fn start(
        config: &Config,
        mut service: Service,
        uplink: Option<UplinkOptions>,
    ) -> anyhow::Result<Self> {
        let signals = Signals {
            waker: Waker::new()?,
            stops: Arc::new(AtomicBool::new(false)),
            names: Waker::new()?,
        };
        let names = load_names(config.names_file.as_ref())?;
        let seed = draw_seed()?;
        let (reports, inbox) = sync_channel(REPORT_COUNT_MAX);
        let mut watchers = Vec::new();
        let mut ready = Vec::new();
        let has_conntrack = has_conntrack(config);
        let namespaces = std::iter::once(&Namespace::Own).chain(&config.namespaces);
        for (number, namespace) in namespaces.enumerate() {
            let outbox = Outbox {
                number,
                reports: reports.clone(),
                waker: signals.waker.clone(),
            };
            let options = WatcherOptions {
                has_conntrack,
                ..watcher_options(config, namespace, seed)
            };
            let (watcher, prepared) = Watcher::start(options, outbox)?;
            watchers.push((namespace.clone(), watcher));
            ready.push(prepared);
        }
        // The watchers are loaded: from here on only those who look for names and translations
        // need anything.
        let (facts, fact_inbox) = sync_channel(FACT_COUNT_MAX);
        facts.send(names).context("tell the names file")?;
        let finder = start_finder(config, &mut ready, &signals, facts.clone())?;
        let resolver = match config.has_reverse_dns {
            true => Some(start_resolver(facts.clone(), signals.waker.clone())?),
            false => None,
        };
        let translations = Arc::<Translations>::default();
        let outlet = (facts.clone(), Arc::clone(&translations));
        let asker = start_asker(&mut ready, &signals, outlet)?;
        privilege::keep_only(&[])?;
        let (feed, feed_end) = mpsc::channel(FEED_COUNT_MAX);
        let (records, records_end) = mpsc::channel(RECORD_BATCH_COUNT_MAX);
        let (requests, requests_end) = mpsc::channel(REQUEST_COUNT_MAX);
        let clock = Clock::new(Reading::take());
        let promoted = Arc::<PromotedPackets>::default();
        let lookback = Lookback::new(config.lookback.clone()).map_err(anyhow::Error::msg)?;
        let lookback = Arc::new(lookback);
        let engine = Engine::new(EngineConfig {
            seed,
            flow_count_max: flow_count_max(config),
            tcp_idle_timeout_ns: nanoseconds(config.tcp_idle_timeout),
            expiry: Expiry::Asked,
        });
        let seekers = NameSeekers {
            finder: signals.names.clone(),
            resolver,
            translations: asker,
        };
        let core = Core::new(engine, feed, Some(seekers));
        let boot = boot_id()?;
        let uplink = uplink
            .map(|options| start_uplink(options, Reading::take().wall_ns))
            .transpose()?;
        let (link, uplink, told): (Box<dyn Link>, _, _) = match uplink {
            None => (Box::new(Direct(core)), None, None),
            Some(uplink) => {
                let remote = remote(core, &uplink, boot, &clock)?;
                let told = (uplink.status, uplink.orders);
                (Box::new(remote), Some(uplink.thread), Some(told))
            }
        };
        let daemon = DaemonHandle {
            requests,
            waker: signals.waker.clone(),
            clock: clock.clone(),
            promoted: Arc::clone(&promoted),
            lookback: Arc::clone(&lookback),
            translations: Arc::clone(&translations),
        };
        service.start(
            Outlet {
                feed: feed_end,
                records: records_end,
                daemon,
            },
            Keeping {
                directory: config.capture_directory.clone(),
                bytes_max: config.capture_bytes_max,
                age_max: config.capture_age_max,
            },
            None,
        )?;
        if let Some((status, orders)) = told {
            service.show_uplink(status);
            service.record_for_hub(orders, config.hub_captures);
        }
        let options = TurnOptions {
            link,
            host: Arc::from(host_name()),
            boot: ClockId(u128::from_be_bytes(boot)),
            ready,
            reports: inbox,
            names: fact_inbox,
            requests: requests_end,
            records,
            promoted,
            lookback,
            translations,
            signals: signals.clone(),
            clock,
        };
        let turn = std::thread::Builder::new()
            .name("loop".to_owned())
            .spawn(|| Turn::new(options)?.run())?;
        Ok(Self {
            watchers,
            turn,
            finder,
            service,
            signals,
            facts,
            uplink,
        })
    }

    /// Waits until whoever asks is told that the daemon is ready, or the loop has ended.
    fn await_ready(&self) {
        while !self.turn.is_finished() && !self.service.await_ready(LOOK_INTERVAL) {}
    }

    fn describe(&self) -> String {
        format!("watching; metrics and API at {}", self.service.address())
    }

    fn serve_signals(
        &self,
        signals: &SignalFd,
        mut layers: Layers,
        read: impl Fn() -> anyhow::Result<Layers>,
    ) -> anyhow::Result<()> {
        tracing::info!("{}", self.describe());
        loop {
            let signalled = next_signal(signals, LOOK_INTERVAL)?;
            if self.turn.is_finished() {
                bail!("the loop ended by itself; the log says why");
            }
            match signalled {
                None => {}
                Some(Signalled::Stop) => return Ok(()),
                Some(Signalled::Reload) => {
                    notify::reloading();
                    match read().and_then(|fresh| self.reload(&layers, &fresh).map(|()| fresh)) {
                        Ok(fresh) => layers = fresh,
                        Err(error) => {
                            tracing::error!(error = format!("{error:#}"), "nothing was reloaded");
                        }
                    }
                    notify::ready(&self.describe());
                }
            }
        }
    }

    fn reload(&self, before: &Layers, after: &Layers) -> anyhow::Result<()> {
        let config = Config::new(after)?;
        let (changed, fixed) = compare(before, after);
        if !fixed.is_empty() {
            tracing::warn!(keys = ?fixed, "take a restart");
        }
        for (namespace, watcher) in &self.watchers {
            watcher.select(match namespace {
                Namespace::Own => config.selection.clone(),
                Namespace::Other(_) => config.namespace_selection.clone(),
            });
        }
        // The file may have changed under the same name.
        match load_names(config.names_file.as_ref()) {
            Ok(names) => {
                // Fails only where the loop has ended, which is noticed elsewhere.
                let _ = self.facts.send(names);
                self.signals.waker.wake();
            }
            Err(error) => tracing::error!(error = format!("{error:#}"), "names stay as they are"),
        }
        tracing::info!(?changed, "reloaded");
        Ok(())
    }

    /// Ends all threads: the hooks first, so that nothing is counted that nobody takes.
    fn stop(self) {
        for (_, watcher) in self.watchers {
            watcher.stop();
        }
        self.signals.stops.store(true, Ordering::Release);
        self.signals.waker.wake();
        self.signals.names.wake();
        match self.turn.join() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(error = format!("{error:#}"), "the loop failed"),
            Err(_) => tracing::error!("the loop ended in panic"),
        }
        // With the loop its sender of batches has gone: the uplink sends or spools what is left.
        if let Some(uplink) = self.uplink
            && uplink.join().is_err()
        {
            tracing::error!("the uplink ended in panic");
        }
        self.service.stop();
        // The finder may be in the middle of a pass; it holds nothing that outlives the process.
        if self.finder.is_finished() && self.finder.join().is_err() {
            tracing::warn!("the finder of names ended in panic");
        }
    }
}

/// The link to a hub.
fn remote(core: Core, uplink: &Uplink, boot: [u8; 16], clock: &Clock) -> anyhow::Result<Remote> {
    let batcher = Batcher::new(uplink.run, boot).context("prepare batches for the hub")?;
    let dropped = Arc::clone(&uplink.status.dropped);
    let batches = uplink.batches.clone();
    Ok(Remote::new(core, batcher, batches, dropped, clock.clone()))
}

fn host_name() -> String {
    let host = nix::unistd::gethostname().ok();
    host.map(|host| host.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// What the host is called while it runs: who has the same has the same clock.
fn boot_id() -> anyhow::Result<[u8; 16]> {
    let path = "/proc/sys/kernel/random/boot_id";
    let text = std::fs::read_to_string(path).with_context(|| format!("read {path}"))?;
    let digits: String = text.trim().chars().filter(|it| *it != '-').collect();
    let number = u128::from_str_radix(&digits, 16).with_context(|| format!("read {path}"))?;
    Ok(number.to_be_bytes())
}

fn watcher_options(config: &Config, namespace: &Namespace, seed: u64) -> WatcherOptions {
    let (selection, flow_count_max) = match namespace {
        Namespace::Own => (&config.selection, config.flow_count_max),
        Namespace::Other(_) => (&config.namespace_selection, config.namespace_flow_count_max),
    };
    WatcherOptions {
        namespace: namespace.clone(),
        selection: selection.clone(),
        hook: config.hook,
        load: LoadOptions {
            flow_count_max,
            seed,
            update_interval_ns: nanoseconds(config.update_interval),
            promotion: PromotionLimit {
                hold_ns: nanoseconds(config.promotion_hold),
                count_max: config.promotion_count_max,
            },
            tc_attachment: config.tc_attachment,
            log: config.kernel_log,
        },
        has_conntrack: false,
    }
}

fn start_finder(
    config: &Config,
    ready: &mut [Ready],
    signals: &Signals,
    facts: SyncSender<NameFact>,
) -> anyhow::Result<JoinHandle<()>> {
    let mut namespaces = Vec::new();
    for ready in ready {
        if let Some(sockets) = ready.sockets.take().filter(|_| config.has_socket_owners) {
            namespaces.push((NamespaceId(ready.inode), sockets));
        }
    }
    let finder = Finder::new(FinderOptions {
        namespaces,
        facts,
        told: signals.waker.clone(),
        waker: signals.names.clone(),
        stops: Arc::clone(&signals.stops),
    });
    let thread = std::thread::Builder::new().name("names".to_owned());
    thread
        .spawn(|| finder.run())
        .context("start the finder of names")
}

/// Whether connection tracking is wanted, and there; told where it is not.
fn has_conntrack(config: &Config) -> bool {
    let is_there = config.has_connection_tracking && presence() == Presence::There;
    if config.has_connection_tracking && !is_there {
        tracing::info!(
            "nf_conntrack_netlink is not loaded: translations of addresses are not known"
        );
    }
    is_there
}

/// Starts the reader of connection tracking, where any namespace has one that can be read.
fn start_asker(
    ready: &mut [Ready],
    signals: &Signals,
    (facts, translations): (SyncSender<NameFact>, Arc<Translations>),
) -> anyhow::Result<Option<Asker>> {
    let table = |ready: &mut Ready| Some((NamespaceId(ready.inode), ready.conntrack.take()?));
    let tables: BTreeMap<_, _> = ready.iter_mut().filter_map(table).collect();
    if tables.is_empty() {
        return Ok(None);
    }
    let asker = start_seeker(Seeker {
        tables,
        host: Arc::from(host_name()),
        facts,
        told: signals.waker.clone(),
        translations,
    });
    asker.map(Some)
}

/// Flows that the engine keeps: as many as all tables together.
fn flow_count_max(config: &Config) -> usize {
    let further = config.namespaces.len() * config.namespace_flow_count_max as usize;
    config.flow_count_max as usize + further
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A seed that nobody can guess: the keys of flows are chosen by others.
fn draw_seed() -> anyhow::Result<u64> {
    let mut bytes = [0; 8];
    let mut source = std::fs::File::open("/dev/urandom").context("open /dev/urandom")?;
    source.read_exact(&mut bytes).context("read /dev/urandom")?;
    Ok(u64::from_ne_bytes(bytes))
}
