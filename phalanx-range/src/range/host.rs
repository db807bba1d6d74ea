//! A running host or router: its namespace, what runs in it, and how it is configured.

use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use ipnet::IpNet;

use super::process::{Process, text_of};
use crate::firewall::ruleset;
use crate::interface::{Offload, set_offload};
use crate::limits::TUN_QUEUE_PACKETS;
use crate::namespace::{Namespace, feed, ip_batch};
use crate::topology::{EndSpec, LinkKind, LinkSpec, NodeKind, NodeSpec, Topology, plan};

const ALLOWED_CONGESTION_CONTROL: &str = "/proc/sys/net/ipv4/tcp_allowed_congestion_control";

/// An interface of a host.
#[derive(Debug, Clone)]
pub struct Interface {
    /// Its name in the namespace.
    pub name: String,
    /// The link it is an end of.
    pub link: String,
    /// The node at the other end.
    pub peer: String,
    /// Its addresses.
    pub addresses: Vec<IpNet>,
}

/// A running host or router.
#[derive(Debug)]
pub struct Host {
    pub(super) spec: NodeSpec,
    pub(super) namespace: Namespace,
    interfaces: Vec<Interface>,
}

impl Host {
    pub(super) fn new(topology: &Topology, index: usize, namespace: Namespace) -> Self {
        let mut interfaces = Vec::new();
        for link in &topology.links {
            for (end, peer) in [(&link.a, &link.b), (&link.b, &link.a)] {
                if end.node == index {
                    interfaces.push(Interface {
                        name: end.interface.clone(),
                        link: link.name.clone(),
                        peer: topology.nodes[peer.node].name.clone(),
                        addresses: end.addresses.clone(),
                    });
                }
            }
        }
        Self {
            spec: topology.nodes[index].clone(),
            namespace,
            interfaces,
        }
    }

    /// Its name in the topology.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// Its network namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Its interfaces, in the order of the links.
    pub fn interfaces(&self) -> &[Interface] {
        &self.interfaces
    }

    /// The interface towards a neighbour.
    pub fn interface_to(&self, peer: &str) -> Result<&Interface> {
        self.interfaces
            .iter()
            .find(|interface| interface.peer == peer)
            .with_context(|| format!("{} has no link to {peer}", self.name()))
    }

    /// Its addresses: those of its loopback interface, then those of its links.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let linked = self
            .interfaces
            .iter()
            .flat_map(|interface| &interface.addresses);
        self.spec.addresses.iter().chain(linked).map(IpNet::addr)
    }

    /// Its first IPv4 address.
    pub fn ipv4(&self) -> Result<Ipv4Addr> {
        self.addresses()
            .find_map(|address| match address {
                IpAddr::V4(address) => Some(address),
                IpAddr::V6(_) => None,
            })
            .with_context(|| format!("{} has no IPv4 address", self.name()))
    }

    /// Its first IPv6 address.
    pub fn ipv6(&self) -> Result<Ipv6Addr> {
        self.addresses()
            .find_map(|address| match address {
                IpAddr::V6(address) => Some(address),
                IpAddr::V4(_) => None,
            })
            .with_context(|| format!("{} has no IPv6 address", self.name()))
    }

    /// Runs `work` inside, on a thread of its own. Sockets opened there stay there.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        self.namespace.enter(work)
    }

    /// A command that will run inside.
    pub fn command(&self, program: &str) -> Result<Command> {
        self.namespace.command(program)
    }

    /// Runs a program inside to its end; gives back its standard output, and fails as it does.
    pub fn exec(&self, program: &[&str]) -> Result<String> {
        let (first, rest) = program.split_first().context("no program given")?;
        let output = self
            .command(first)?
            .args(rest)
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("start {first}"))?;
        text_of(&program.join(" "), &output)
    }

    /// Starts a program inside, its output kept; it is ended when the handle is dropped.
    pub fn spawn(&self, program: &[&str]) -> Result<Process> {
        let (first, rest) = program.split_first().context("no program given")?;
        let mut command = self.command(first)?;
        command.args(rest);
        Process::start(command)
    }

    /// Sets a kernel setting such as `net.ipv4.tcp_sack`.
    pub fn set_sysctl(&self, name: &str, value: &str) -> Result<()> {
        self.enter(|| write_sysctl(name, value))?
    }

    /// Loads a ruleset in the language of nftables.
    pub fn load_nft(&self, ruleset: &str) -> Result<()> {
        feed(self.command("nft")?.args(["-f", "-"]), ruleset).context("nft (from nftables)")
    }

    /// Sets the offloads of an interface.
    pub fn set_offload(&self, interface: &str, offload: Offload) -> Result<()> {
        self.enter(|| set_offload(interface, offload))?
            .with_context(|| format!("set the offloads of {interface}"))
    }

    /// Kernel settings that make runs repeatable; before any interface exists, so that these
    /// start with the defaults.
    pub(super) fn set_defaults(&self) -> Result<()> {
        let forwarding = if self.spec.kind == NodeKind::Router {
            "1"
        } else {
            "0"
        };
        let mut settings = vec![
            ("net.ipv4.ip_forward", forwarding),
            ("net.ipv6.conf.all.forwarding", forwarding),
            // One run must not teach the next.
            ("net.ipv4.tcp_no_metrics_save", "1"),
        ];
        for scope in ["all", "default"] {
            settings.extend(match scope {
                "all" => [
                    ("net.ipv4.conf.all.rp_filter", "0"),
                    ("net.ipv6.conf.all.disable_ipv6", "0"),
                    ("net.ipv6.conf.all.accept_ra", "0"),
                    ("net.ipv6.conf.all.accept_dad", "0"),
                ],
                _ => [
                    ("net.ipv4.conf.default.rp_filter", "0"),
                    ("net.ipv6.conf.default.disable_ipv6", "0"),
                    ("net.ipv6.conf.default.accept_ra", "0"),
                    ("net.ipv6.conf.default.accept_dad", "0"),
                ],
            });
        }
        let result = self.enter(|| {
            settings
                .iter()
                .try_for_each(|(name, value)| write_sysctl(name, value))
        })?;
        result
            .and_then(|()| self.set_congestion_control(&self.spec.congestion_control))
            .with_context(|| format!("node {}", self.name()))
    }

    /// Sets the congestion control of new TCP connections. Where the kernel keeps an algorithm
    /// for the initial namespace, it is first allowed to all (`tcp_allowed_congestion_control`),
    /// which stays so until the machine restarts.
    pub fn set_congestion_control(&self, algorithm: &str) -> Result<()> {
        let name = "net.ipv4.tcp_congestion_control";
        let Err(error) = self.set_sysctl(name, algorithm) else {
            return Ok(());
        };
        let is_restricted = error
            .downcast_ref::<std::io::Error>()
            .is_some_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied);
        if !is_restricted {
            return Err(error);
        }
        let allowed = fs::read_to_string(ALLOWED_CONGESTION_CONTROL)?;
        if !allowed.split_whitespace().any(|known| known == algorithm) {
            fs::write(
                ALLOWED_CONGESTION_CONTROL,
                format!("{} {algorithm}", allowed.trim()),
            )
            .with_context(|| format!("allow {algorithm} in all namespaces"))?;
        }
        self.set_sysctl(name, algorithm)
    }

    pub(super) fn configure(&self, topology: &Topology, index: usize) -> Result<()> {
        let mut lines = String::from("link set lo up\n");
        for address in &self.spec.addresses {
            writeln!(lines, "address add {address} dev lo")?;
        }
        let own_ends = |link: &LinkSpec| {
            link.ends()
                .into_iter()
                .filter(|end| end.node == index)
                .cloned()
                .collect::<Vec<_>>()
        };
        for link in &topology.links {
            for end in own_ends(link) {
                add_interface(&mut lines, &end, link.kind)?;
            }
        }
        for route in plan::routes(topology, index) {
            match route.via {
                Some(via) => writeln!(lines, "route replace {} via {via}", route.to)?,
                None => writeln!(lines, "route replace blackhole {}", route.to)?,
            }
        }
        for link in topology
            .links
            .iter()
            .filter(|link| link.kind == LinkKind::Emulated)
        {
            for end in own_ends(link) {
                // A tun device has no neighbours to find: without a link-local address it sends
                // nothing that nobody asked for.
                let name = format!("net/ipv6/conf/{}/addr_gen_mode", end.interface);
                self.set_sysctl(&name, "1")?;
            }
        }
        ip_batch(Some(&self.namespace), &lines)?;
        for end in topology.links.iter().flat_map(own_ends) {
            if end.offload != Offload::default() {
                self.set_offload(&end.interface, end.offload)?;
            }
        }
        for (name, value) in &self.spec.sysctls {
            self.set_sysctl(name, value)?;
        }
        let rules = ruleset(&self.spec.firewall);
        for ruleset in [Some(rules.as_str()), self.spec.nft.as_deref()]
            .into_iter()
            .flatten()
        {
            if !ruleset.is_empty() {
                self.load_nft(ruleset)?;
            }
        }
        Ok(())
    }
}

fn write_sysctl(name: &str, value: &str) -> Result<()> {
    let path = Path::new("/proc/sys").join(name.replace('.', "/"));
    fs::write(&path, value).with_context(|| format!("set {name} to {value}"))
}

fn add_interface(lines: &mut String, end: &EndSpec, kind: LinkKind) -> Result<()> {
    let name = &end.interface;
    writeln!(lines, "link set {name} mtu {}", end.mtu_bytes)?;
    if kind == LinkKind::Emulated {
        writeln!(lines, "link set {name} txqueuelen {TUN_QUEUE_PACKETS}")?;
    }
    for address in &end.addresses {
        let flags = if address.addr().is_ipv6() {
            " nodad"
        } else {
            ""
        };
        writeln!(lines, "address add {address} dev {name}{flags}")?;
    }
    writeln!(lines, "link set {name} up")?;
    Ok(())
}
