//! The daemon on real interfaces, in network namespaces of its own.
//! Run by `cargo xtask test --ring network`.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[expect(dead_code, reason = "each test file uses its part")]
#[path = "network/daemon.rs"]
mod daemon;

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use daemon::{BINARY, Daemon, STEP_TIMEOUT, await_that, error_of, hop, up};
use nix::sys::signal::Signal;
use phalanx_range::{Host, Range, Topology};
use serde_json::Value;

const PAIR: &str = "
nodes: [{ name: a }, { name: b }]
links:
  - a: { node: a, interface: veth0, addresses: [10.77.0.1/24] }
    b: { node: b, interface: veth0, addresses: [10.77.0.2/24] }
";

/// Two hosts joined by a veth pair; the daemon runs in the first.
struct Pair {
    range: Range,
}

impl Pair {
    fn new() -> Self {
        let range = Range::build(&Topology::from_yaml_str(PAIR).unwrap()).unwrap();
        Self { range }
    }

    fn a(&self) -> &Host {
        self.range.host("a").unwrap()
    }

    fn b(&self) -> &Host {
        self.range.host("b").unwrap()
    }

    fn ip(&self, arguments: &str) {
        let words: Vec<&str> = arguments.split(' ').collect();
        self.a().exec(&[&["ip"], &words[..]].concat()).unwrap();
    }

    /// Makes the veth pair again, after it was deleted.
    fn join(&self) {
        let other = self.b().namespace().name();
        self.ip(&format!(
            "link add veth0 type veth peer name veth0 netns {other}"
        ));
        for (host, address) in [(self.a(), "10.77.0.1/24"), (self.b(), "10.77.0.2/24")] {
            let add = ["ip", "address", "add", address, "dev", "veth0"];
            host.exec(&add).unwrap();
            host.exec(&["ip", "link", "set", "veth0", "up"]).unwrap();
        }
    }

    /// Some packets: a connection that is refused.
    fn knock(&self) {
        let refused = || std::net::TcpStream::connect("10.77.0.2:9").is_err();
        assert!(self.a().enter(refused).unwrap());
    }

    /// How many TCX programs are attached to an interface, in and out.
    fn tcx_count(&self, interface: &str) -> usize {
        use aya::programs::{SchedClassifier, TcAttachType};
        let ways = [TcAttachType::Ingress, TcAttachType::Egress];
        let count = |way| SchedClassifier::query_tcx(interface, way).unwrap().1.len();
        self.a().enter(|| ways.map(count).iter().sum()).unwrap()
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn an_interface_that_leaves_comes_back_and_nothing_is_left_after_a_kill() {
    let pair = Pair::new();
    let mut daemon = Daemon::start(pair.a(), 7301, &["-i", "veth*"]);
    pair.knock();
    await_that("the programs run", || {
        hop(&daemon.status(), "veth0")["state"] == "running"
    });
    pair.ip("link delete veth0");
    daemon.await_line("detached", STEP_TIMEOUT);
    pair.join();
    daemon.await_line("attached", STEP_TIMEOUT);
    assert_eq!(pair.tcx_count("veth0"), 2);
    pair.knock();
    await_that("the programs run again", || {
        hop(&daemon.status(), "veth0")["state"] == "running"
    });
    daemon.signal(Signal::SIGKILL);
    daemon.wait();
    await_that("nothing is attached", || pair.tcx_count("veth0") == 0);
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn sigterm_detaches_and_ends_well() {
    let pair = Pair::new();
    let mut daemon = Daemon::start(pair.a(), 7302, &["-i", "veth0", "-i", "lo"]);
    assert_eq!((pair.tcx_count("veth0"), pair.tcx_count("lo")), (2, 1));
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.wait().success());
    assert_eq!((pair.tcx_count("veth0"), pair.tcx_count("lo")), (0, 0));
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn two_hundred_interfaces_come_and_go() {
    let pair = Pair::new();
    let daemon = Daemon::start(pair.a(), 7303, &["-i", "veth0", "-i", "many*"]);
    let begin = Instant::now();
    for number in 0..100 {
        pair.ip(&format!(
            "link add many{number} up type veth peer name manyp{number}"
        ));
        pair.ip(&format!("link set manyp{number} up"));
        if number >= 10 {
            pair.ip(&format!("link delete many{}", number - 10));
        }
    }
    assert!(
        begin.elapsed() < Duration::from_secs(60),
        "{:?}",
        begin.elapsed()
    );
    await_that("the last ones are watched and no others", || {
        let status = daemon.status();
        let hops = status["hops"].as_array().unwrap();
        let many = |hop: &&Value| hop["interface"].as_str().unwrap().starts_with("many");
        hops.iter().filter(many).count() == 20
    });
    // The status is told once a second: it may have been that of a moment before.
    await_that("the last one is watched", || pair.tcx_count("many99") == 2);
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn programs_of_others_stay() {
    let pair = Pair::new();
    let first = Daemon::start(pair.a(), 7304, &["-i", "veth0", "--hook", "xdp-generic"]);
    assert_eq!(hop(&first.status(), "veth0")["ingress"], "xdp-generic");
    let second = Daemon::start(pair.a(), 7305, &["-i", "veth0", "--hook", "xdp-generic"]);
    let seen = hop(&second.status(), "veth0");
    assert_eq!(seen["ingress"], "tcx");
    assert!(
        seen["reason"].as_str().unwrap().contains("somebody else"),
        "{seen}"
    );
    pair.knock();
    for daemon in [&first, &second] {
        await_that("both see packets", || {
            hop(&daemon.status(), "veth0")["state"] == "running"
        });
    }
    assert_eq!(pair.tcx_count("veth0"), 3);
    drop(second);
    assert_eq!(hop(&first.status(), "veth0")["ingress"], "xdp-generic");
    await_that("only the first is attached", || {
        pair.tcx_count("veth0") == 1
    });
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn where_only_clsact_exists_cleanup_removes_what_a_kill_left() {
    let pair = Pair::new();
    let tc = |arguments: &str| {
        let words: Vec<&str> = arguments.split(' ').collect();
        pair.a().exec(&words).unwrap()
    };
    let filters = || tc("tc filter show dev veth0 ingress");
    let mut daemon = Daemon::start(
        pair.a(),
        7306,
        &["-i", "veth0", "--set", "tc_attachment=clsact"],
    );
    assert_eq!(hop(&daemon.status(), "veth0")["egress"], "clsact");
    daemon.signal(Signal::SIGKILL);
    daemon.wait();
    assert!(filters().contains("phalanx_tc_ingress"), "{}", filters());
    let removed = pair.a().exec(&[BINARY, "cleanup"]).unwrap();
    assert!(removed.contains("phalanx_tc_egress"));
    assert_eq!(filters(), "");
    assert!(!tc("tc qdisc show dev veth0").contains("clsact"));
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn another_namespace_is_watched_from_here() {
    let pair = Pair::new();
    let other = pair.b().namespace().name();
    let daemon = Daemon::start(pair.a(), 7307, &["-i", "veth*", "--netns", other]);
    pair.knock();
    await_that("both ends see packets", || {
        let status = daemon.status();
        let hops = status["hops"].as_array().unwrap();
        let runs = |namespace: &str| {
            hops.iter()
                .any(|hop| hop["namespace"] == namespace && hop["state"] == "running")
        };
        runs("own") && runs(other)
    });
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn what_keeps_it_from_starting_is_told_with_the_remedy() {
    let pair = Pair::new();
    let up = |arguments: &[&str]| up(pair.a()).args(arguments).output().unwrap();
    let output = up(&["--listen", "127.0.0.1:7308", "-i", "nosuch0"]);
    let error = error_of(&output);
    assert!(
        error.contains("nosuch0") && error.contains("veth0"),
        "{error}"
    );

    let holder = Daemon::start(pair.a(), 7309, &["-i", "veth0"]);
    let error = error_of(&up(&["--listen", "127.0.0.1:7309", "-i", "veth0"]));
    assert!(
        error.contains("7309") && error.contains("--listen"),
        "{error}"
    );
    drop(holder);

    let error = error_of(
        &Command::new(BINARY)
            .args(["up"])
            .uid(65_534)
            .output()
            .unwrap(),
    );
    assert!(
        error.contains("CAP_BPF") && error.contains("run as root"),
        "{error}"
    );

    let error = error_of(&up(&["--netns", "no-such-namespace"]));
    assert!(error.contains("/run/netns/no-such-namespace"), "{error}");
}
