//! A running link of either kind: what it does, and the truth about what it did.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::Host;
use crate::channel::Channel;
use crate::clock::monotonic_ns;
use crate::impairment::{Direction, Impairment, Patch, Schedule};
use crate::interface::open_tun;
use crate::link::{EmulatedLink, LinkCounters};
use crate::namespace::Namespace;
use crate::random::seed_of;
use crate::topology::{EndSpec, LinkKind, LinkSpec};

/// A running link.
#[derive(Debug)]
pub struct Link {
    spec: LinkSpec,
    ends: [Namespace; 2],
    emulated: Option<EmulatedLink>,
}

impl Link {
    pub(super) fn start(
        spec: &LinkSpec,
        devices: Devices,
        seed: u64,
        hosts: &[Host],
    ) -> Result<Self> {
        let ends = spec.ends().map(|end| hosts[end.node].namespace.clone());
        let channel = |direction: Direction| {
            let own = seed_of(seed, &format!("{} {}", spec.name, direction.name()));
            Channel::new(*spec.impairment(direction), own)
        };
        let channels = (channel(Direction::Forward), channel(Direction::Reverse));
        let emulated = devices
            .map(|devices| EmulatedLink::start(&spec.name, devices, channels))
            .transpose()?;
        Ok(Self {
            spec: spec.clone(),
            ends,
            emulated,
        })
    }

    pub(super) fn start_schedule(&self, schedule: &Schedule, start_ns: u64) -> Result<()> {
        match &self.emulated {
            Some(emulated) if !schedule.changes.is_empty() => emulated.schedule(schedule, start_ns),
            _ => Ok(()),
        }
    }

    /// Its name in the topology.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// What the topology says about it.
    pub fn spec(&self) -> &LinkSpec {
        &self.spec
    }

    /// The truth about what it did so far, one consistent set per direction. A veth link knows
    /// packets and bytes only (with the Ethernet header).
    pub fn counters(&self) -> Result<LinkCounters> {
        let mut counters = match &self.emulated {
            Some(emulated) => emulated.counters()?,
            None => LinkCounters::default(),
        };
        let [a, b] = self.spec.ends();
        let (a, b) = (
            DeviceCounters::read(&self.ends[0], &a.interface)?,
            DeviceCounters::read(&self.ends[1], &b.interface)?,
        );
        counters.forward.device_dropped = a.sent_dropped;
        counters.reverse.device_dropped = b.sent_dropped;
        if self.emulated.is_none() {
            for (counters, from, to) in [
                (&mut counters.forward, &a, &b),
                (&mut counters.reverse, &b, &a),
            ] {
                counters.packets_in = from.sent_packets;
                counters.bytes_in = from.sent_bytes;
                counters.packets_out = to.received_packets;
                counters.bytes_out = to.received_bytes;
            }
        }
        Ok(counters)
    }

    /// The values in force in a direction.
    pub fn impairment(&self, direction: Direction) -> Result<Impairment> {
        self.emulated()?.impairment(direction)
    }

    /// Replaces all values of a direction from now on.
    pub fn set(&self, direction: Direction, impairment: Impairment) -> Result<()> {
        if let Err(message) = impairment.check() {
            bail!("link {}: {message}", self.name());
        }
        self.emulated()?.patch(direction, impairment.into())
    }

    /// Replaces some values of a direction from now on.
    pub fn patch(&self, direction: Direction, patch: Patch) -> Result<()> {
        let mut after = self.impairment(direction)?;
        patch.apply(&mut after);
        self.set(direction, after)
    }

    /// Replaces the schedule; its time starts now.
    pub fn schedule(&self, schedule: &Schedule) -> Result<()> {
        for direction in Direction::BOTH {
            if let Err(message) = schedule.check(&self.impairment(direction)?) {
                bail!("link {}: {message}", self.name());
            }
        }
        self.emulated()?.schedule(schedule, monotonic_ns())
    }

    /// Logs every decision of a direction to a new CSV file, from now on; see
    /// [`JOURNAL_HEADER`](crate::JOURNAL_HEADER) for the columns.
    pub fn log_to(&self, direction: Direction, path: &Path) -> Result<()> {
        self.emulated()?.log_to(direction, path)
    }

    /// Ends the logs; their files are complete when this returns.
    pub fn end_logs(&self) -> Result<()> {
        self.emulated()?.end_logs()
    }

    pub(super) fn is_emulated(&self) -> bool {
        self.emulated.is_some()
    }

    /// Waits until nothing is under way and the counters stand still for `quiet`, and gives
    /// them back; fails after `limit`.
    pub fn settle(&self, quiet: Duration, limit: Duration) -> Result<LinkCounters> {
        let end = Instant::now() + limit;
        let mut last = self.counters()?;
        let mut since = Instant::now();
        loop {
            std::thread::sleep(Duration::from_millis(2).min(quiet));
            let now = self.counters()?;
            if now != last {
                (last, since) = (now, Instant::now());
            }
            let under_way = now.forward.under_way + now.reverse.under_way;
            if under_way == 0 && since.elapsed() >= quiet {
                return Ok(now);
            }
            if Instant::now() > end {
                bail!("link {}: not quiet after {limit:?}", self.name());
            }
        }
    }

    fn emulated(&self) -> Result<&EmulatedLink> {
        self.emulated.as_ref().with_context(|| {
            format!(
                "link {} is a veth pair: make it `kind: emulated`",
                self.name()
            )
        })
    }
}

/// The tun devices of an emulated link; a veth link has none.
pub(super) type Devices = Option<(File, File)>;

pub(super) fn open_devices(spec: &LinkSpec, hosts: &[Host]) -> Result<Devices> {
    if spec.kind == LinkKind::Veth {
        return Ok(None);
    }
    let open = |end: &EndSpec| {
        hosts[end.node]
            .enter(|| open_tun(&end.interface))?
            .with_context(|| {
                format!(
                    "create the tun device {} (needs /dev/net/tun)",
                    end.interface
                )
            })
    };
    Ok(Some((open(&spec.a)?, open(&spec.b)?)))
}

/// What the kernel counted on an interface.
#[derive(Debug, Default)]
struct DeviceCounters {
    received_bytes: u64,
    received_packets: u64,
    sent_bytes: u64,
    sent_packets: u64,
    sent_dropped: u64,
}

impl DeviceCounters {
    fn read(namespace: &Namespace, interface: &str) -> Result<Self> {
        // `/proc/net` is that of the process's first thread; this one is of the asking thread.
        let text = namespace
            .enter(|| fs::read_to_string("/proc/thread-self/net/dev"))?
            .context("read the interface counters")?;
        Self::parse(&text, interface)
            .with_context(|| format!("no interface {interface} in {}", namespace.name()))
    }

    fn parse(text: &str, interface: &str) -> Option<Self> {
        let (_, rest) = text
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.trim() == interface)?;
        let numbers: Vec<u64> = rest
            .split_whitespace()
            .filter_map(|n| n.parse().ok())
            .collect();
        Some(Self {
            received_bytes: *numbers.first()?,
            received_packets: *numbers.get(1)?,
            sent_bytes: *numbers.get(8)?,
            sent_packets: *numbers.get(9)?,
            sent_dropped: *numbers.get(11)?,
        })
    }
}
