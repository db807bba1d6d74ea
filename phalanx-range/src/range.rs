//! A topology brought to life: namespaces, interfaces, routes, faults and running links. All of
//! it goes when the [`Range`] is dropped, and by a watcher process however this one ends.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use ipnet::IpNet;

use crate::channel::Channel;
use crate::clock::monotonic_ns;
use crate::firewall::ruleset;
use crate::impairment::{Direction, Impairment, Patch, Schedule};
use crate::interface::{Offload, open_tun, set_offload};
use crate::limits::TUN_QUEUE_PACKETS;
use crate::link::{EmulatedLink, LinkCounters};
use crate::namespace::{Namespace, Namespaces, feed, ip_batch, remove_stale};
use crate::random::seed_of;
use crate::topology::{EndSpec, LinkKind, LinkSpec, NodeKind, NodeSpec, Topology, plan};

const ALLOWED_CONGESTION_CONTROL: &str = "/proc/sys/net/ipv4/tcp_allowed_congestion_control";

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
    spec: NodeSpec,
    namespace: Namespace,
    interfaces: Vec<Interface>,
}

impl Host {
    fn new(topology: &Topology, index: usize, namespace: Namespace) -> Self {
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
    fn set_defaults(&self) -> Result<()> {
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

    fn configure(&self, topology: &Topology, index: usize) -> Result<()> {
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

/// A running link.
#[derive(Debug)]
pub struct Link {
    spec: LinkSpec,
    ends: [Namespace; 2],
    emulated: Option<EmulatedLink>,
}

impl Link {
    fn start(spec: &LinkSpec, devices: Devices, seed: u64, hosts: &[Host]) -> Result<Self> {
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

    fn start_schedule(&self, schedule: &Schedule, start_ns: u64) -> Result<()> {
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

/// A program running inside a host, ended when dropped. Its output is read while it runs, so
/// that it never waits for us.
#[derive(Debug)]
pub struct Process {
    child: Option<Child>,
}

impl Process {
    /// Starts a command with its output kept.
    pub fn start(mut command: Command) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {name}"))?;
        Ok(Self { child: Some(child) })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// The child itself, for its pipes.
    pub fn child(&mut self) -> Option<&mut Child> {
        self.child.as_mut()
    }

    /// Waits for its end and gives back its standard output; fails as it does.
    pub fn finish(mut self) -> Result<String> {
        let child = self
            .child
            .take()
            .context("the process was waited for already")?;
        text_of("the process", &child.wait_with_output()?)
    }

    /// Asks it to end (SIGTERM) and gives back its standard output, whatever its exit status.
    pub fn stop(mut self) -> Result<String> {
        let child = self
            .child
            .take()
            .context("the process was waited for already")?;
        terminate(child.id());
        Ok(String::from_utf8_lossy(&child.wait_with_output()?.stdout).into_owned())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            terminate(child.id());
            let end = Instant::now() + Duration::from_millis(500);
            while Instant::now() < end {
                if !matches!(child.try_wait(), Ok(None)) {
                    return;
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            // It may end just now; then there is nothing left to do.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn terminate(pid: u32) {
    let pid = nix::unistd::Pid::from_raw(pid.cast_signed());
    // A child that has ended already is reaped by its owner.
    let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
}

fn text_of(what: &str, output: &Output) -> Result<String> {
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr);
        bail!("{what}: {}: {}", output.status, reason.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn write_sysctl(name: &str, value: &str) -> Result<()> {
    let path = Path::new("/proc/sys").join(name.replace('.', "/"));
    fs::write(&path, value).with_context(|| format!("set {name} to {value}"))
}

/// The tun devices of an emulated link; a veth link has none.
type Devices = Option<(File, File)>;

fn open_devices(spec: &LinkSpec, hosts: &[Host]) -> Result<Devices> {
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
