//! A topology brought to life: namespaces, interfaces, routes, faults and running links. All of
//! it goes when the [`Range`] is dropped, and by a watcher process however this one ends.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::clock::monotonic_ns;
use crate::namespace::{Namespaces, ip_batch, remove_stale};
use crate::topology::{LinkKind, Topology};

mod capture;
mod counters;
mod host;
mod link;
mod process;

pub use capture::{Capture, CaptureCounters};
pub use counters::{KernelCounters, SocketTruth};
pub use host::{Host, Interface};
pub use link::Link;
pub use process::Process;

use link::open_devices;

/// A running topology.
#[derive(Debug)]
pub struct Range {
    // Dropped in this order: the links hold devices in the namespaces.
    links: Vec<Link>,
    hosts: Vec<Host>,
    _namespaces: Namespaces,
}

impl Range {
    /// Builds the topology; needs root. What earlier runs left behind is removed first.
    pub fn build(topology: &Topology) -> Result<Self> {
        remove_stale().context("remove what dead runs left")?;
        let names: Vec<&str> = topology
            .nodes
            .iter()
            .map(|node| node.name.as_str())
            .collect();
        let namespaces = Namespaces::create(&names)?;
        let hosts: Vec<Host> = topology
            .nodes
            .iter()
            .enumerate()
            .map(|(index, _)| Host::new(topology, index, namespaces.get(index).clone()))
            .collect();
        for host in &hosts {
            host.set_defaults()?;
        }
        create_veths(topology, &hosts)?;
        let mut opened = Vec::new();
        for spec in &topology.links {
            let devices = open_devices(spec, &hosts);
            opened.push(devices.with_context(|| format!("link {}", spec.name))?);
        }
        for (index, host) in hosts.iter().enumerate() {
            host.configure(topology, index)
                .with_context(|| format!("node {}", host.name()))?;
        }
        // Links carry packets only now that both ends are up: none is refused.
        let mut links = Vec::new();
        for (spec, devices) in topology.links.iter().zip(opened) {
            let link = Link::start(spec, devices, topology.seed, &hosts);
            links.push(link.with_context(|| format!("link {}", spec.name))?);
        }
        let range = Self {
            links,
            hosts,
            _namespaces: namespaces,
        };
        range.run_commands()?;
        let start_ns = monotonic_ns();
        for (link, spec) in range.links.iter().zip(&topology.links) {
            link.start_schedule(&spec.schedule, start_ns)?;
        }
        Ok(range)
    }

    /// A host or router by its name.
    pub fn host(&self, name: &str) -> Result<&Host> {
        self.hosts
            .iter()
            .find(|host| host.name() == name)
            .with_context(|| {
                let known: Vec<&str> = self.hosts.iter().map(Host::name).collect();
                format!("no node `{name}`; there are {}", known.join(", "))
            })
    }

    /// Waits until nobody waits for an acknowledgement and every emulated link is quiet, as
    /// [`Link::settle`] has it; fails after `limit`. Silence alone is not the end of a TCP
    /// conversation whose last packet was lost: it goes on after a retransmission timeout.
    pub fn settle(&self, quiet: Duration, limit: Duration) -> Result<()> {
        let end = Instant::now() + limit;
        loop {
            while let Some(host) = self.waiting_host()? {
                ensure!(
                    Instant::now() < end,
                    "{}: something is not acknowledged after {limit:?}",
                    host.name()
                );
                std::thread::sleep(Duration::from_millis(2));
            }
            for link in self.links.iter().filter(|it| it.is_emulated()) {
                link.settle(quiet, limit)?;
            }
            // What one of them was waiting for may have made another one speak.
            if self.waiting_host()?.is_none() {
                return Ok(());
            }
        }
    }

    /// A host that waits for an acknowledgement.
    fn waiting_host(&self) -> Result<Option<&Host>> {
        for host in &self.hosts {
            if host.outstanding_sockets()? > 0 {
                return Ok(Some(host));
            }
        }
        Ok(None)
    }

    /// All hosts and routers, in the order of the file.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// A link by its name.
    pub fn link(&self, name: &str) -> Result<&Link> {
        self.links
            .iter()
            .find(|link| link.name() == name)
            .with_context(|| {
                let known: Vec<&str> = self.links.iter().map(Link::name).collect();
                format!("no link `{name}`; there are {}", known.join(", "))
            })
    }

    /// All links, in the order of the file.
    pub fn links(&self) -> &[Link] {
        &self.links
    }

    fn run_commands(&self) -> Result<()> {
        for host in &self.hosts {
            for command in &host.spec.run {
                host.exec(&["sh", "-c", command])
                    .with_context(|| format!("node {}: run `{command}`", host.name()))?;
            }
        }
        Ok(())
    }
}

fn create_veths(topology: &Topology, hosts: &[Host]) -> Result<()> {
    let mut lines = String::new();
    for link in topology
        .links
        .iter()
        .filter(|link| link.kind == LinkKind::Veth)
    {
        let [a, b] = link.ends().map(|end| {
            format!(
                "{} netns {}",
                end.interface,
                hosts[end.node].namespace.name()
            )
        });
        writeln!(lines, "link add {a} type veth peer name {b}")?;
    }
    ip_batch(None, &lines).context("create the veth pairs")
}
