//! The daemon on real interfaces, in network namespaces of its own.
//! Run by `cargo xtask test --ring network`.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::io::{BufRead, BufReader};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_phalanx");
/// Loading five programs takes the verifier some seconds, more on a busy machine.
const START_TIMEOUT: Duration = Duration::from_secs(120);
const STEP_TIMEOUT: Duration = Duration::from_secs(30);

/// Two namespaces joined by a veth pair, removed when dropped.
struct Pair {
    names: [String; 2],
}

impl Pair {
    fn new(tag: &str) -> Self {
        let names = ["a", "b"].map(|end| format!("phx-{tag}-{}-{end}", std::process::id()));
        for name in &names {
            ip(&["netns", "add", name]);
            ip(&["-n", name, "link", "set", "lo", "up"]);
        }
        let pair = Self { names };
        pair.join();
        pair
    }

    fn join(&self) {
        let [a, b] = &self.names;
        ip(&[
            "-n", a, "link", "add", "veth0", "type", "veth", "peer", "name", "veth0", "netns", b,
        ]);
        for (name, address) in self.names.iter().zip(["10.77.0.1/24", "10.77.0.2/24"]) {
            ip(&["-n", name, "addr", "add", address, "dev", "veth0"]);
            ip(&["-n", name, "link", "set", "veth0", "up"]);
        }
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.names[0], program]);
        command
    }

    /// Some packets: a connection that is refused.
    fn knock(&self) {
        let script = "exec 3<>/dev/tcp/10.77.0.2/9";
        let output = self.command("bash").args(["-c", script]).output().unwrap();
        assert!(!output.status.success());
    }

    /// How many TCX programs are attached to an interface, in and out.
    fn tcx_count(&self, interface: &str) -> usize {
        let path = format!("/run/netns/{}", self.names[0]);
        let interface = interface.to_owned();
        let count = move || {
            use aya::programs::{SchedClassifier, TcAttachType};
            let file = std::fs::File::open(path).unwrap();
            nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            [TcAttachType::Ingress, TcAttachType::Egress]
                .into_iter()
                .map(|way| SchedClassifier::query_tcx(&interface, way).unwrap().1.len())
                .sum()
        };
        std::thread::spawn(count).join().unwrap()
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().unwrap();
    assert!(output.status.success(), "ip {arguments:?}: {output:?}");
}

/// A daemon in the first namespace of a pair; killed when dropped.
struct Daemon {
    child: Child,
    log: Receiver<String>,
    port: u16,
}

impl Daemon {
    fn start(pair: &Pair, port: u16, arguments: &[&str]) -> Self {
        let mut child = pair
            .command(BINARY)
            .args(["up", "--listen", &format!("127.0.0.1:{port}")])
            .args([
                "--set",
                &format!("capture_directory=/tmp/{}-{port}", pair.names[0]),
            ])
            .args(arguments)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, log) = channel();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        std::thread::spawn(move || {
            lines
                .map_while(Result::ok)
                .try_for_each(|it| sender.send(it))
        });
        let daemon = Self { child, log, port };
        daemon.await_line("watching;", START_TIMEOUT);
        daemon
    }

    fn await_line(&self, wanted: &str, timeout: Duration) -> String {
        let end = Instant::now() + timeout;
        let mut seen = Vec::new();
        while let Ok(line) = self
            .log
            .recv_timeout(end.saturating_duration_since(Instant::now()))
        {
            if line.contains(wanted) {
                return line;
            }
            seen.push(line);
        }
        panic!("no {wanted:?} in {seen:#?}");
    }

    fn status(&self, pair: &Pair) -> Value {
        let output = pair
            .command(BINARY)
            .args([
                "status",
                "--format",
                "json",
                "--api",
                &format!("127.0.0.1:{}", self.port),
            ])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(self.child.id().cast_signed());
        nix::sys::signal::kill(pid, signal).unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn await_that(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + STEP_TIMEOUT;
    while !holds() {
        assert!(Instant::now() < end, "it never came that {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn hop(status: &Value, interface: &str) -> Value {
    let hops = status["hops"].as_array().unwrap();
    hops.iter()
        .find(|hop| hop["interface"] == interface)
        .cloned()
        .unwrap_or_default()
}

fn error_of(output: &Output) -> String {
    assert!(!output.status.success(), "{output:?}");
    assert_eq!(output.status.signal(), None);
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn an_interface_that_leaves_comes_back_and_nothing_is_left_after_a_kill() {
    let pair = Pair::new("back");
    let mut daemon = Daemon::start(&pair, 7301, &["-i", "veth*"]);
    pair.knock();
    await_that("the programs run", || {
        hop(&daemon.status(&pair), "veth0")["state"] == "running"
    });
    ip(&["-n", &pair.names[0], "link", "del", "veth0"]);
    daemon.await_line("detached", STEP_TIMEOUT);
    pair.join();
    daemon.await_line("attached", STEP_TIMEOUT);
    assert_eq!(pair.tcx_count("veth0"), 2);
    pair.knock();
    await_that("the programs run again", || {
        hop(&daemon.status(&pair), "veth0")["state"] == "running"
    });
    daemon.signal(nix::sys::signal::Signal::SIGKILL);
    daemon.child.wait().unwrap();
    await_that("nothing is attached", || pair.tcx_count("veth0") == 0);
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn sigterm_detaches_and_ends_well() {
    let pair = Pair::new("term");
    let mut daemon = Daemon::start(&pair, 7302, &["-i", "veth0", "-i", "lo"]);
    assert_eq!((pair.tcx_count("veth0"), pair.tcx_count("lo")), (2, 1));
    daemon.signal(nix::sys::signal::Signal::SIGTERM);
    assert!(daemon.child.wait().unwrap().success());
    assert_eq!((pair.tcx_count("veth0"), pair.tcx_count("lo")), (0, 0));
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn two_hundred_interfaces_come_and_go() {
    let pair = Pair::new("many");
    let daemon = Daemon::start(&pair, 7303, &["-i", "veth0", "-i", "many*"]);
    let namespace = &pair.names[0];
    let begin = Instant::now();
    for number in 0..100 {
        let (one, other) = (format!("many{number}"), format!("manyp{number}"));
        ip(&[
            "-n", namespace, "link", "add", &one, "up", "type", "veth", "peer", "name", &other,
        ]);
        ip(&["-n", namespace, "link", "set", &other, "up"]);
        if number >= 10 {
            ip(&[
                "-n",
                namespace,
                "link",
                "del",
                &format!("many{}", number - 10),
            ]);
        }
    }
    assert!(
        begin.elapsed() < Duration::from_secs(60),
        "{:?}",
        begin.elapsed()
    );
    await_that("the last ones are watched and no others", || {
        let status = daemon.status(&pair);
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
    let pair = Pair::new("other");
    let first = Daemon::start(&pair, 7304, &["-i", "veth0", "--hook", "xdp-generic"]);
    assert_eq!(hop(&first.status(&pair), "veth0")["ingress"], "xdp-generic");
    let second = Daemon::start(&pair, 7305, &["-i", "veth0", "--hook", "xdp-generic"]);
    let seen = hop(&second.status(&pair), "veth0");
    assert_eq!(seen["ingress"], "tcx");
    assert!(
        seen["reason"].as_str().unwrap().contains("somebody else"),
        "{seen}"
    );
    pair.knock();
    for daemon in [&first, &second] {
        await_that("both see packets", || {
            hop(&daemon.status(&pair), "veth0")["state"] == "running"
        });
    }
    assert_eq!(pair.tcx_count("veth0"), 3);
    drop(second);
    assert_eq!(hop(&first.status(&pair), "veth0")["ingress"], "xdp-generic");
    await_that("only the first is attached", || {
        pair.tcx_count("veth0") == 1
    });
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn where_only_clsact_exists_cleanup_removes_what_a_kill_left() {
    let pair = Pair::new("clsact");
    let filters = || {
        let output = pair
            .command("tc")
            .args(["filter", "show", "dev", "veth0", "ingress"])
            .output();
        String::from_utf8_lossy(&output.unwrap().stdout).into_owned()
    };
    let mut daemon = Daemon::start(
        &pair,
        7306,
        &["-i", "veth0", "--set", "tc_attachment=clsact"],
    );
    assert_eq!(hop(&daemon.status(&pair), "veth0")["egress"], "clsact");
    daemon.signal(nix::sys::signal::Signal::SIGKILL);
    daemon.child.wait().unwrap();
    assert!(filters().contains("phalanx_tc_ingress"), "{}", filters());
    let output = pair.command(BINARY).arg("cleanup").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("phalanx_tc_egress"));
    assert_eq!(filters(), "");
    let output = pair
        .command("tc")
        .args(["qdisc", "show", "dev", "veth0"])
        .output()
        .unwrap();
    assert!(!String::from_utf8_lossy(&output.stdout).contains("clsact"));
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn another_namespace_is_watched_from_here() {
    let pair = Pair::new("netns");
    let other = pair.names[1].clone();
    let daemon = Daemon::start(&pair, 7307, &["-i", "veth*", "--netns", &other]);
    pair.knock();
    await_that("both ends see packets", || {
        let status = daemon.status(&pair);
        let hops = status["hops"].as_array().unwrap();
        let runs = |namespace: &str| {
            hops.iter()
                .any(|hop| hop["namespace"] == namespace && hop["state"] == "running")
        };
        runs("own") && runs(&other)
    });
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn what_keeps_it_from_starting_is_told_with_the_remedy() {
    let pair = Pair::new("error");
    let up = |arguments: &[&str]| {
        let mut command = pair.command(BINARY);
        command.arg("up").args(arguments);
        command
    };
    let output = up(&["--listen", "127.0.0.1:7308", "-i", "nosuch0"])
        .output()
        .unwrap();
    let error = error_of(&output);
    assert!(
        error.contains("nosuch0") && error.contains("veth0"),
        "{error}"
    );

    let holder = Daemon::start(&pair, 7309, &["-i", "veth0"]);
    let error = error_of(
        &up(&["--listen", "127.0.0.1:7309", "-i", "veth0"])
            .output()
            .unwrap(),
    );
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

    let error = error_of(&up(&["--netns", "no-such-namespace"]).output().unwrap());
    assert!(error.contains("/run/netns/no-such-namespace"), "{error}");
}
