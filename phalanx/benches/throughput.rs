//! What a bulk transfer loses by being watched: TCP over three veth pairs between two namespaces,
//! the real daemon on one of them, pass-through programs on the same hooks of the others. Rounds
//! are interleaved; the figures are medians. The third pair tells how much two equal pairs differ.
#![allow(missing_docs)]
#![expect(
    clippy::unwrap_used,
    reason = "the daemon of the network tests, which may panic"
)]

use std::fs::{self, File};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use aya::programs::links::LinkOrder;
use aya::programs::tc::TcAttachOptions;
use aya::programs::xdp::XdpMode;
use aya::programs::{SchedClassifier, TcAttachType, Xdp};
use aya::sys::{Stats, enable_stats};
use aya::{Ebpf, EbpfLoader};
use daemon::{Accounting, Daemon};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use phalanx_common::abi::Counter;
use phalanx_range::traffic::{Download, Outcome, Program, Server, Upload, run};
use phalanx_range::{Host, Range, Topology};

#[expect(dead_code, reason = "the tests use the rest")]
#[path = "../tests/network/daemon.rs"]
mod daemon;

const TOPOLOGY: &str = "
nodes: [{ name: peer }, { name: host }]
links:
  - { name: watched, a: { node: peer, interface: peer0 }, b: { node: host, interface: watched } }
  - { name: passed, a: { node: peer, interface: peer1 }, b: { node: host, interface: passed } }
  - { name: again, a: { node: peer, interface: peer2 }, b: { node: host, interface: again } }
";
/// The interfaces of the host; the daemon is on the first.
const INTERFACES: [&str; 3] = ["watched", "passed", "again"];

/// Many short rounds, so that what else runs on the machine meets all pairs alike: 15 seconds for
/// each pair.
const ROUND_COUNT: usize = 51;
const ROUND_SECONDS: f64 = 0.3;
const WARM_UP_SECONDS: f64 = 0.5;
/// What a super-segment carries at most: a program that saw the whole bulk ran more often than this
/// goes into it.
const SEGMENT_BYTES_MAX: u64 = 65_536;
/// Packets of a transfer that wait for their flow to open, and those of the neighbour discovery.
const WAITING_COUNT_MAX: u64 = 20;
/// Acknowledgements of one transfer, with SYN and FIN, at least.
const ACK_COUNT_MIN: u64 = 10;

/// Budget: throughput when watched against that with pass-through programs.
const THROUGHPUT_BUDGET: f64 = 0.97;

/// Where packets in are seen; packets out are seen at TC.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hook {
    Tc,
    Xdp,
}

impl Hook {
    const fn name(self) -> &'static str {
        match self {
            Self::Tc => "tc",
            Self::Xdp => "xdp",
        }
    }

    const fn counter(self) -> Counter {
        match self {
            Self::Tc => Counter::SeenTcIngress,
            Self::Xdp => Counter::SeenXdp,
        }
    }
}

/// Which way the bulk goes, from the host's view.
#[derive(Clone, Copy)]
enum Way {
    In,
    Out,
}

impl Way {
    const fn name(self) -> &'static str {
        match self {
            Self::In => "in",
            Self::Out => "out",
        }
    }
}

/// Pass-through programs on the two hooks of an interface, of one instance each, so that their
/// runs are told apart; detached when dropped.
struct Pass {
    ingress: Ebpf,
    egress: Ebpf,
    ingress_name: &'static str,
}

impl Pass {
    fn attach(host: &Host, interface: &str, hook: Hook) -> Result<Self> {
        host.enter(|| {
            let mut pass = Self {
                ingress: load()?,
                egress: load()?,
                ingress_name: match hook {
                    Hook::Tc => "pass_tc",
                    Hook::Xdp => "pass_xdp",
                },
            };
            attach_tc(&mut pass.egress, interface, TcAttachType::Egress)?;
            match hook {
                Hook::Tc => attach_tc(&mut pass.ingress, interface, TcAttachType::Ingress)?,
                Hook::Xdp => attach_xdp(&mut pass.ingress, interface)?,
            }
            Ok(pass)
        })?
    }

    /// Runs of the programs, in and out, while the kernel counted them.
    fn runs(&self) -> Result<[u64; 2]> {
        Ok([
            runs(&self.ingress, self.ingress_name)?,
            runs(&self.egress, "pass_tc")?,
        ])
    }
}

fn load() -> Result<Ebpf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../phalanx-ebpf/prebuilt/bench.bpf.o");
    let mut loader = EbpfLoader::new();
    // The maps are for other benches: as small as they go.
    loader.map_max_entries("FLOWS", 1);
    loader.map_max_entries("CONTROL_FLOWS", 1);
    Ok(loader.load_file(path)?)
}

fn attach_tc(ebpf: &mut Ebpf, interface: &str, direction: TcAttachType) -> Result<()> {
    let program = ebpf.program_mut("pass_tc").context("no program pass_tc")?;
    let program: &mut SchedClassifier = program.try_into()?;
    program.load()?;
    let order = TcAttachOptions::TcxOrder(LinkOrder::first());
    program.attach_with_options(interface, direction, order)?;
    Ok(())
}

fn attach_xdp(ebpf: &mut Ebpf, interface: &str) -> Result<()> {
    let program = ebpf
        .program_mut("pass_xdp")
        .context("no program pass_xdp")?;
    let program: &mut Xdp = program.try_into()?;
    program.load()?;
    program.attach(interface, XdpMode::Driver)?;
    Ok(())
}

fn runs(ebpf: &Ebpf, name: &str) -> Result<u64> {
    let program = ebpf.program(name).context("no such program")?;
    let descriptor = program.fd()?.as_fd().as_raw_fd();
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{descriptor}"))?;
    let runs = text.lines().find_map(|line| line.strip_prefix("run_cnt:"));
    Ok(runs.context("no run_cnt")?.trim().parse()?)
}

/// Everything in place for one choice of hooks.
struct Stand<'range> {
    peer: &'range Host,
    host: &'range Host,
    hook: Hook,
    daemon: Daemon<'range>,
    passes: [Pass; 2],
    service: Server,
}

impl<'range> Stand<'range> {
    fn build(range: &'range Range, hook: Hook) -> Result<Self> {
        let host = range.host("host")?;
        let [watched, passed, again] = INTERFACES;
        let api_port = 7601;
        Ok(Self {
            peer: range.host("peer")?,
            host,
            hook,
            daemon: Daemon::start(host, api_port, &["-i", watched, "--hook", hook.name()]),
            passes: [
                Pass::attach(host, passed, hook)?,
                Pass::attach(host, again, hook)?,
            ],
            service: host.enter(|| Server::start(8080))??,
        })
    }

    /// One connection over the pair of this interface.
    fn transfer(&self, index: usize, way: Way, seconds: f64) -> Result<Outcome> {
        let interfaces = self.host.interfaces();
        let interface = interfaces.iter().find(|it| it.name == INTERFACES[index]);
        let addresses = &interface.context("no such interface")?.addresses;
        let address = addresses.iter().find(|address| address.addr().is_ipv4());
        let target = (
            address.context("no IPv4 address")?.addr(),
            self.service.port(),
        );
        let program = match way {
            Way::In => Program::Upload(Upload {
                seconds,
                ..Upload::default()
            }),
            Way::Out => Program::Download(Download {
                seconds,
                ..Download::default()
            }),
        };
        let outcome = self.peer.enter(|| run(&program, target.into()))??;
        ensure!(outcome.error.is_none(), "transfer: {outcome:?}");
        Ok(outcome)
    }

    /// Sees to it that the programs of both hooks run, with each pair.
    fn warm_up(&self, way: Way) -> Result<()> {
        let before = self.daemon.counters();
        let outcome = self.transfer(0, way, WARM_UP_SECONDS)?;
        self.check_watched(&before, way, &outcome)?;
        let counting = enable_stats(Stats::RunTime)?;
        for (number, pass) in self.passes.iter().enumerate() {
            let before = pass.runs()?;
            let outcome = self.transfer(1 + number, way, WARM_UP_SECONDS)?;
            let after = pass.runs()?;
            check_runs([after[0] - before[0], after[1] - before[1]], way, &outcome)?;
        }
        drop(counting);
        Ok(())
    }

    /// Whether the daemon's programs of both hooks ran since `before`, and followed what they saw.
    fn check_watched(&self, before: &Accounting, way: Way, outcome: &Outcome) -> Result<()> {
        let after = self.daemon.counters();
        let more = |counter| after.of(counter) - before.of(counter);
        let (seen, watched) = (more(Counter::Seen), more(Counter::Watched));
        ensure!(
            watched + WAITING_COUNT_MAX >= seen,
            "the daemon's programs watched {watched} of {seen} packets"
        );
        let ran = [more(self.hook.counter()), more(Counter::SeenTcEgress)];
        check_runs(ran, way, outcome)
    }

    fn round(&self, index: usize, way: Way) -> Result<Round> {
        let before = self.daemon.counters();
        let start_ns = [ends_ns()?, self.daemon_ns()?];
        let outcome = self.transfer(index, way, ROUND_SECONDS)?;
        let (ends_ns, daemon_ns) = (ends_ns()? - start_ns[0], self.daemon_ns()? - start_ns[1]);
        if index == 0 {
            self.check_watched(&before, way, &outcome)?;
        }
        let bytes = bulk_bytes(&outcome) as f64;
        // The daemon is there in each round, but only one of the pairs owes it to itself.
        let daemon_ns = if index == 0 { daemon_ns } else { 0 };
        Ok(Round {
            gigabits_per_s: bytes * 8.0 / 1e9 / outcome.seconds,
            cpu_s_per_gb: (ends_ns + daemon_ns) as f64 / bytes,
            daemon_s_per_gb: daemon_ns as f64 / bytes,
        })
    }

    /// CPU time of the daemon so far.
    fn daemon_ns(&self) -> Result<u64> {
        let mut sum = 0;
        for entry in fs::read_dir(format!("/proc/{}/task", self.daemon.id()))?.flatten() {
            // A thread may end meanwhile.
            sum += on_cpu_ns(&entry.path()).unwrap_or(0);
        }
        Ok(sum)
    }
}

/// CPU time so far of both ends, which are threads of this process and carry their packets through
/// the kernel, and of the kernel's threads that help them.
fn ends_ns() -> Result<u64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let own = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(u64::try_from(own)? * 1_000 + softirq_thread_ns()?)
}

fn bulk_bytes(outcome: &Outcome) -> u64 {
    outcome.bytes_sent.max(outcome.bytes_received)
}

/// Whether programs that ran so often, in and out, saw a transfer.
fn check_runs(ran: [u64; 2], way: Way, outcome: &Outcome) -> Result<()> {
    let [bulk, acknowledgements] = match way {
        Way::In => ran,
        Way::Out => [ran[1], ran[0]],
    };
    ensure!(
        bulk >= bulk_bytes(outcome) / SEGMENT_BYTES_MAX && acknowledgements >= ACK_COUNT_MIN,
        "the programs ran {ran:?} times: {outcome:?}"
    );
    Ok(())
}

/// What one round gave.
#[derive(Clone, Copy)]
struct Round {
    gigabits_per_s: f64,
    /// CPU time of both ends, and of the daemon where it watches.
    cpu_s_per_gb: f64,
    /// The daemon's part of it.
    daemon_s_per_gb: f64,
}

/// CPU time of the kernel's threads for soft interrupts.
fn softirq_thread_ns() -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir("/proc")?.flatten() {
        let path = entry.path();
        let name = fs::read_to_string(path.join("comm")).unwrap_or_default();
        if name.starts_with("ksoftirqd/") {
            sum += on_cpu_ns(&path)?;
        }
    }
    Ok(sum)
}

/// The first number of `schedstat`: nanoseconds on a CPU (proc(5)).
fn on_cpu_ns(task: &Path) -> Result<u64> {
    let text = fs::read_to_string(task.join("schedstat"))?;
    let first = text.split_whitespace().next();
    Ok(first.context("schedstat is empty")?.parse()?)
}

fn main() -> Result<()> {
    // `cargo test --benches` runs benches too, to see that they start.
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    let lock = File::create(std::env::temp_dir().join("phalanx-range-network.lock"))?;
    lock.lock()?;
    go_first()?;
    for hook in [Hook::Tc, Hook::Xdp] {
        let range = Range::build(&Topology::from_yaml_str(TOPOLOGY)?)?;
        let stand = Stand::build(&range, hook)?;
        for way in [Way::In, Way::Out] {
            compare(&stand, way)?;
        }
    }
    Ok(())
}

/// Goes ahead of what else runs on the machine, with the threads and the daemon that are started
/// after this.
fn go_first() -> Result<()> {
    let own = std::process::id().to_string();
    let renice = Command::new("renice")
        .args(["-n", "-20", "-p", &own])
        .output()?;
    ensure!(renice.status.success(), "renice: {renice:?}");
    println!(
        "load average: {}",
        fs::read_to_string("/proc/loadavg")?.trim()
    );
    Ok(())
}

/// The three pairs in turn, another one first in each round.
fn compare(stand: &Stand<'_>, way: Way) -> Result<()> {
    stand.warm_up(way)?;
    let mut rounds = [const { Vec::new() }; INTERFACES.len()];
    for number in 0..ROUND_COUNT {
        for turn in 0..INTERFACES.len() {
            let index = (number + turn) % INTERFACES.len();
            rounds[index].push(stand.round(index, way)?);
        }
    }
    let hooks = match stand.hook {
        Hook::Tc => "TC in and out",
        Hook::Xdp => "XDP in, TC out",
    };
    let what = format!("bulk TCP {}, {hooks}", way.name());
    report(&what, &rounds);
    Ok(())
}

/// The watched pair against the two that are not, and these against each other.
fn report(what: &str, rounds: &[Vec<Round>; INTERFACES.len()]) {
    let [watched, passed, again] = rounds;
    for (name, rounds) in INTERFACES.iter().zip(rounds) {
        let speed = median(rounds, |round| round.gigabits_per_s);
        let cost = median(rounds, |round| round.cpu_s_per_gb);
        let daemon = median(rounds, |round| round.daemon_s_per_gb);
        println!(
            "{what}, {name}: {speed:.2} Gbit/s, {cost:.3} CPU s per GB, {daemon:.3} by the daemon"
        );
    }
    let ratio =
        |one: &[Round], other: &[Round], of: fn(&Round) -> f64| median(one, of) / median(other, of);
    let control: Vec<Round> = passed.iter().chain(again).copied().collect();
    let speed = ratio(watched, &control, |round| round.gigabits_per_s);
    let verdict = if speed >= THROUGHPUT_BUDGET {
        "ok"
    } else {
        "over"
    };
    println!("bench: {what}, to pass-through | {speed:.3} | ≥ {THROUGHPUT_BUDGET} | {verdict}");
    let equal = ratio(again, passed, |round| round.gigabits_per_s);
    println!("bench: {what}, one pass-through to another | {equal:.3} | - | -");
    let cost = ratio(watched, &control, |round| round.cpu_s_per_gb);
    println!("bench: {what}, CPU per GB, to pass-through | {cost:.3} | - | -");
    let equal = ratio(again, passed, |round| round.cpu_s_per_gb);
    println!("bench: {what}, CPU per GB, one pass-through to another | {equal:.3} | - | -");
}

fn median(rounds: &[Round], of: impl Fn(&Round) -> f64) -> f64 {
    let mut values: Vec<f64> = rounds.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
