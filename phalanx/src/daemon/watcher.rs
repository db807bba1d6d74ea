//! Watches the interfaces of one namespace from a thread in it: loads the programs, attaches them
//! to interfaces as they come, lets go of those that left, and tells the loop.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use caps::Capability;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::wake::Waker;
use crate::interface::{Link, LinkTable, Namespace, Selection, driver};
use crate::kernel::{
    Attachment, HookChoice, Instance, KernelLog, LoadOptions, Programs, Ring, Tables, TcAttachment,
    load, plan, remove_stale_filters,
};
use crate::privilege;
use crate::socket::SocketTable;
use crate::translation::Conntrack;

/// Reports that wait for the loop; full: the watcher waits, and reads what changed meanwhile.
pub(super) const REPORT_COUNT_MAX: usize = 256;
/// Orders that wait for the watcher; full: the main thread waits.
const ORDER_COUNT_MAX: usize = 4;
/// Shortest time between two looks at all interfaces.
const LOOK_INTERVAL_MIN: Duration = Duration::from_millis(50);
/// A look may cost this share of the time at most: a host with thousands of interfaces is looked
/// at less often.
const LOOK_SHARE: u32 = 20;
/// Time between two looks where nothing is heard: packet counts, and another try where attaching
/// failed.
const LOOK_INTERVAL_MAX: Duration = Duration::from_secs(30);

/// What a watcher is started with.
#[derive(Clone, Debug)]
pub(super) struct WatcherOptions {
    pub(super) namespace: Namespace,
    pub(super) selection: Selection,
    pub(super) hook: HookChoice,
    pub(super) load: LoadOptions,
    /// Connection tracking is there, and asked.
    pub(super) has_conntrack: bool,
}

/// What a watcher gives once its programs are loaded and its first look is done.
pub(super) struct Ready {
    pub(super) namespace: Namespace,
    pub(super) inode: u64,
    pub(super) tables: Tables,
    pub(super) events: Ring,
    pub(super) records: Ring,
    pub(super) log: Option<KernelLog>,
    pub(super) sockets: Option<SocketTable>,
    pub(super) conntrack: Option<Conntrack>,
    pub(super) reports: Vec<Report>,
}

/// What a watcher tells.
#[derive(Debug)]
pub(super) enum Report {
    /// Programs are attached.
    Attached {
        link: Link,
        ingress: &'static str,
        egress: &'static str,
        reason: String,
    },
    /// They are no longer.
    Detached { ifindex: u32 },
    /// They could not be attached.
    Failed { link: Link, reason: String },
    /// What the interface has counted since it was made.
    Counted { ifindex: u32, received_packets: u64 },
    /// The watcher ended by itself.
    Ended { reason: String },
}

/// What a watcher is told.
#[derive(Debug)]
enum Order {
    Select(Selection),
    Stop,
}

/// A running watcher.
pub(super) struct Watcher {
    orders: SyncSender<Order>,
    waker: Waker,
    thread: JoinHandle<()>,
}

/// Where a watcher reports: under its number.
#[derive(Clone)]
pub(super) struct Outbox {
    pub(super) number: usize,
    pub(super) reports: SyncSender<(usize, Report)>,
    pub(super) waker: Waker,
}

impl Watcher {
    /// Starts a watcher and waits until it is ready.
    pub(super) fn start(options: WatcherOptions, outbox: Outbox) -> anyhow::Result<(Self, Ready)> {
        let (orders, inbox) = sync_channel(ORDER_COUNT_MAX);
        let (readiness, ready) = sync_channel(1);
        let waker = Waker::new()?;
        let woken = waker.clone();
        let run = move || match prepare(&options) {
            Ok((watch, prepared)) => {
                if readiness.send(Ok(prepared)).is_ok() {
                    watch.run(&inbox, &woken, &outbox);
                }
            }
            Err(error) => {
                // Fails only where the starting thread is gone already.
                let _ = readiness.send(Err(error));
            }
        };
        let thread = std::thread::Builder::new()
            .name("watcher".to_owned())
            .spawn(run)?;
        let prepared = ready
            .recv()
            .context("the watcher ended before it was ready")??;
        Ok((
            Self {
                orders,
                waker,
                thread,
            },
            prepared,
        ))
    }

    /// Changes which interfaces are watched.
    pub(super) fn select(&self, selection: Selection) {
        // Fails only where the watcher has ended, which it has reported.
        let _ = self.orders.send(Order::Select(selection));
        self.waker.wake();
    }

    /// Detaches everything and ends.
    pub(super) fn stop(self) {
        let _ = self.orders.send(Order::Stop);
        self.waker.wake();
        if self.thread.join().is_err() {
            tracing::warn!("a watcher ended in panic");
        }
    }
}

struct Watch {
    selection: Selection,
    hook: HookChoice,
    is_own: bool,
    programs: Programs,
    table: LinkTable,
    attached: BTreeMap<u32, Attachment>,
    /// Interfaces that were reported as failed, with the reason, so that it is told once.
    failed: BTreeMap<u32, String>,
}

fn prepare(options: &WatcherOptions) -> anyhow::Result<(Watch, Ready)> {
    options.namespace.enter()?;
    let namespace = options.namespace.clone();
    let inode = namespace.inode()?;
    let table = LinkTable::open().context("open the interface table")?;
    let sockets = SocketTable::open().context("open the socket table")?;
    let conntrack = match options.has_conntrack {
        true => open_conntrack(&namespace),
        false => None,
    };
    let Instance {
        programs,
        tables,
        events,
        records,
        log,
    } = load(options.load)?;
    let mut watch = Watch {
        selection: options.selection.clone(),
        hook: options.hook,
        is_own: namespace == Namespace::Own,
        programs,
        table,
        attached: BTreeMap::new(),
        failed: BTreeMap::new(),
    };
    let reports = watch.first_look(&namespace)?;
    // TCX and XDP links attach without any; `clsact` is changed over netlink.
    let has_clsact = watch.attached.values().any(|it| it.ingress == "clsact");
    let needs_admin = has_clsact || options.load.tc_attachment == TcAttachment::Clsact;
    let kept: &[Capability] = if needs_admin {
        &[Capability::CAP_NET_ADMIN]
    } else {
        &[]
    };
    privilege::keep_only(kept)?;
    tracing::info!(%namespace, ?kept, "programs loaded, capabilities dropped");
    Ok((
        watch,
        Ready {
            namespace,
            inode,
            tables,
            events,
            records,
            log,
            sockets: Some(sockets),
            conntrack,
            reports,
        },
    ))
}

/// Connection tracking of the namespace entered, where it can be had.
fn open_conntrack(namespace: &Namespace) -> Option<Conntrack> {
    let opened = Conntrack::open();
    if let Err(error) = &opened {
        tracing::warn!(%namespace, %error, "connection tracking cannot be read");
    }
    opened.ok()
}

impl Watch {
    fn first_look(&mut self, namespace: &Namespace) -> anyhow::Result<Vec<Report>> {
        let links = self.table.read().context("read the interfaces")?;
        self.check_names(&links, namespace)?;
        let mut reports = Vec::new();
        self.look(links, &mut reports);
        let failure = reports.iter().find_map(|report| match report {
            Report::Failed { reason, .. } => Some(reason),
            _ => None,
        });
        if self.attached.is_empty() {
            if let Some(reason) = failure {
                bail!("{reason}");
            }
            tracing::warn!(%namespace, "no interface fits yet; name some with -i, or use --all");
        }
        Ok(reports)
    }

    /// A plain name must be there at the start; a pattern may wait for its interfaces.
    fn check_names(
        &self,
        links: &BTreeMap<u32, Link>,
        namespace: &Namespace,
    ) -> anyhow::Result<()> {
        let Selection::Patterns(patterns) = &self.selection else {
            return Ok(());
        };
        if !self.is_own {
            return Ok(());
        }
        let names: Vec<&str> = links.values().map(|link| link.name.as_str()).collect();
        for pattern in patterns.iter().filter(|pattern| pattern.is_plain()) {
            if !names.contains(&pattern.0.as_str()) {
                bail!(
                    "interface {pattern}: there is none in namespace {namespace}, only {}; a \
                     pattern such as '{pattern}*' waits for it",
                    names.join(", ")
                );
            }
        }
        Ok(())
    }

    fn run(mut self, inbox: &Receiver<Order>, waker: &Waker, outbox: &Outbox) {
        let result = self.watch(inbox, waker, outbox);
        self.attached.clear();
        if let Err(error) = result {
            outbox.send(Report::Ended {
                reason: format!("{error:#}"),
            });
        }
    }

    fn watch(
        &mut self,
        inbox: &Receiver<Order>,
        waker: &Waker,
        outbox: &Outbox,
    ) -> anyhow::Result<()> {
        let mut looked = Instant::now();
        let mut pause = LOOK_INTERVAL_MIN;
        loop {
            self.wait(waker, LOOK_INTERVAL_MAX)?;
            waker.clear();
            loop {
                match inbox.try_recv() {
                    Ok(Order::Select(selection)) => self.selection = selection,
                    Ok(Order::Stop) | Err(TryRecvError::Disconnected) => return Ok(()),
                    Err(TryRecvError::Empty) => break,
                }
            }
            // Many changes in a row are answered by one look.
            std::thread::sleep(pause.saturating_sub(looked.elapsed()));
            self.table.has_changed()?;
            looked = Instant::now();
            let links = self.table.read().context("read the interfaces")?;
            pause = LOOK_INTERVAL_MIN.max(looked.elapsed() * LOOK_SHARE);
            let mut reports = Vec::new();
            self.look(links, &mut reports);
            for report in reports {
                outbox.send(report);
            }
        }
    }

    fn wait(&self, waker: &Waker, timeout: Duration) -> anyhow::Result<()> {
        let mut descriptors = [
            PollFd::new(self.table.events(), PollFlags::POLLIN),
            PollFd::new(std::os::fd::AsFd::as_fd(waker), PollFlags::POLLIN),
        ];
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
        match poll(&mut descriptors, timeout) {
            Ok(_) | Err(nix::Error::EINTR) => Ok(()),
            Err(error) => Err(error).context("wait for interfaces"),
        }
    }

    /// Compares what is there with what is attached, and acts on the difference.
    fn look(&mut self, links: BTreeMap<u32, Link>, reports: &mut Vec<Report>) {
        let gone: Vec<u32> = self
            .attached
            .keys()
            .filter(|index| !links.contains_key(index))
            .copied()
            .collect();
        for ifindex in gone {
            self.detach(ifindex, "the interface has gone", reports);
        }
        self.failed.retain(|index, _| {
            let is_there = links.contains_key(index);
            if !is_there {
                // It was told as failed: it has to be told as gone too.
                reports.push(Report::Detached { ifindex: *index });
            }
            is_there
        });
        for (ifindex, link) in links {
            match (
                self.selection.judge(&link),
                self.attached.contains_key(&ifindex),
            ) {
                (Ok(_), true) => {
                    let received_packets = link.received_packets;
                    reports.push(Report::Counted {
                        ifindex,
                        received_packets,
                    });
                }
                (Ok(reason), false) => self.attach(link, &reason, reports),
                // One that only went down comes up again as the same interface.
                (Err(_), true) if !link.is_up => {}
                (Err(reason), true) => self.detach(ifindex, &reason, reports),
                (Err(_), false) => {}
            }
        }
    }

    fn attach(&mut self, link: Link, reason: &str, reports: &mut Vec<Report>) {
        let driver = if self.is_own {
            driver(&link.name)
        } else {
            None
        };
        let plan = plan(self.hook, &link, driver.as_deref());
        self.clean(&link);
        match self.programs.attach(&link, &plan) {
            Ok(attachment) => {
                let (ingress, egress) = (attachment.ingress, attachment.egress);
                let note = &attachment.note;
                let separator = if note.is_empty() { "" } else { "; " };
                let reason = format!("{reason}; {}{separator}{note}", plan.reason);
                tracing::info!(interface = %link.name, ingress, egress, reason, "attached");
                self.failed.remove(&link.index);
                self.attached.insert(link.index, attachment);
                reports.push(Report::Attached {
                    link,
                    ingress,
                    egress,
                    reason,
                });
            }
            Err(error) => {
                let reason = format!("{error:#}");
                if self.failed.get(&link.index) != Some(&reason) {
                    tracing::warn!(interface = %link.name, reason, "not attached; will try again");
                    self.failed.insert(link.index, reason.clone());
                    reports.push(Report::Failed { link, reason });
                }
            }
        }
    }

    /// Where only `clsact` exists, a killed daemon leaves its filters behind.
    fn clean(&self, link: &Link) {
        match remove_stale_filters(link) {
            Ok(names) if names.is_empty() => {}
            Ok(names) => tracing::warn!(interface = %link.name, ?names, "removed old filters"),
            Err(error) => tracing::debug!(interface = %link.name, %error, "old filters"),
        }
    }

    fn detach(&mut self, ifindex: u32, reason: &str, reports: &mut Vec<Report>) {
        self.attached.remove(&ifindex);
        tracing::info!(ifindex, reason, "detached");
        reports.push(Report::Detached { ifindex });
    }
}

impl Outbox {
    fn send(&self, report: Report) {
        // Fails only where the loop has ended: then nobody wants to know.
        let _ = self.reports.send((self.number, report));
        self.waker.wake();
    }
}
