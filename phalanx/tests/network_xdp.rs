//! XDP in the driver and behind it, on interfaces that can and that cannot. Run by
//! `cargo xtask test --ring network`.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[expect(dead_code, reason = "each test file uses its part")]
#[path = "network/daemon.rs"]
mod daemon;

use std::net::SocketAddr;

use daemon::{Daemon, STEP_TIMEOUT, await_quiet, await_that, error_of, hop, up};
use phalanx_common::abi::Counter;
use phalanx_range::traffic::{Program, RequestResponse, Server, run};
use phalanx_range::{Host, Range, Topology};
use serde_json::Value;

const PAIR: &str = "
nodes: [{ name: a }, { name: b }]
links:
  - name: plain
    a: { node: a, interface: plain0, addresses: [10.91.0.1/24] }
    b: { node: b, interface: plain0, addresses: [10.91.0.2/24] }
  - name: jumbo
    mtu_bytes: 9000
    a: { node: a, interface: jumbo0, addresses: [10.91.1.1/24] }
    b: { node: b, interface: jumbo0, addresses: [10.91.1.2/24] }
  - name: tun
    kind: emulated
    a: { node: a, interface: tun0, addresses: [10.91.2.1/24] }
    b: { node: b, interface: tun0, addresses: [10.91.2.2/24] }
";
const COUNT: u32 = 100;

fn range() -> Range {
    Range::build(&Topology::from_yaml_str(PAIR).unwrap()).unwrap()
}

/// Requests from `b` to a server in `a` at an address of its.
fn ask(range: &Range, address: &str) {
    let (a, b) = (range.host("a").unwrap(), range.host("b").unwrap());
    let server = a.enter(|| Server::start(8300)).unwrap().unwrap();
    let target: SocketAddr = format!("{address}:{}", server.port()).parse().unwrap();
    let program = Program::RequestResponse(RequestResponse {
        requests: COUNT,
        ..RequestResponse::default()
    });
    let outcome = b.enter(|| run(&program, target)).unwrap().unwrap();
    assert_eq!(outcome.error, None);
}

/// What the kernel says is attached at XDP: nothing, `1` in the driver, `2` behind it.
fn mode(host: &Host, interface: &str) -> Value {
    let text = host.exec(&["ip", "-j", "link", "show", interface]).unwrap();
    let links: Value = serde_json::from_str(&text).unwrap();
    links[0]["xdp"]["mode"].clone()
}

/// Packets that the interface has received, as it counts them itself.
fn received(host: &Host, interface: &str) -> u64 {
    let command = ["ip", "-j", "-s", "link", "show", interface];
    let links: Value = serde_json::from_str(&host.exec(&command).unwrap()).unwrap();
    links[0]["stats64"]["rx"]["packets"].as_u64().unwrap()
}

/// Whether the packets in were all seen at XDP, and those of the flow were counted.
fn check_seen(range: &Range, daemon: &Daemon<'_>, interface: &str, address: &str) {
    let host = range.host("a").unwrap();
    let before = (
        await_quiet(daemon).of(Counter::SeenXdp),
        received(host, interface),
    );
    ask(range, address);
    let counters = await_quiet(daemon);
    counters.check(daemon.pending_packets());
    let seen = counters.of(Counter::SeenXdp) - before.0;
    let arrived = received(host, interface) - before.1;
    println!("{interface}: {seen} seen at XDP, {arrived} received; {counters:?}");
    assert_eq!(seen, arrived);
    assert!(seen > u64::from(COUNT));
    assert_eq!(counters.of(Counter::SeenTcIngress), 0);
    assert!(counters.of(Counter::SeenTcEgress) > u64::from(COUNT));
    assert_eq!(
        daemon.status()["status"]["kernel"]["counters"]["seen_tc_ingress"],
        0
    );
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn native_xdp_of_veth_sees_every_packet_in() {
    let range = range();
    let host = range.host("a").unwrap();
    let daemon = Daemon::start(host, 7551, &["-i", "plain0", "--hook", "xdp"]);
    let shown = hop(&daemon.status(), "plain0");
    assert_eq!(
        (&shown["ingress"], &shown["egress"]),
        (&"xdp".into(), &"tcx".into())
    );
    assert_eq!(mode(host, "plain0"), 1);
    check_seen(&range, &daemon, "plain0", "10.91.0.1");
    drop(daemon);
    await_that("nothing is attached", || mode(host, "plain0").is_null());
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn jumbo_frames_have_no_native_xdp_and_the_reason_is_told() {
    let range = range();
    let host = range.host("a").unwrap();
    let output = up(host).args(["-i", "jumbo0", "--hook", "xdp"]).output();
    let error = error_of(&output.unwrap());
    println!("{}", error.trim_end());
    for part in ["jumbo0", "MTU", "--hook auto"] {
        assert!(error.contains(part), "{part:?} is not in {error}");
    }

    let arguments = ["-i", "plain0", "-i", "jumbo0", "--hook", "xdp"];
    let daemon = Daemon::start(host, 7552, &arguments);
    let status = daemon.status();
    assert_eq!(hop(&status, "plain0")["ingress"], "xdp");
    let refused = hop(&status, "jumbo0");
    println!("{refused}");
    assert_eq!(refused["state"], "failed");
    assert!(
        refused["failure"].as_str().unwrap().contains("MTU"),
        "{refused}"
    );

    // It is tried again as soon as the interface changes.
    // The other end first: its frames are those that must fit, and nobody tells of its change.
    for host in range.hosts().iter().rev() {
        host.exec(&["ip", "link", "set", "jumbo0", "mtu", "1500"])
            .unwrap();
    }
    daemon.await_line("attached interface=jumbo0", STEP_TIMEOUT);
    await_that("it is shown", || {
        hop(&daemon.status(), "jumbo0")["ingress"] == "xdp"
    });
    drop(daemon);

    // Where it was not asked for, jumbo frames are seen without it.
    for host in range.hosts() {
        host.exec(&["ip", "link", "set", "jumbo0", "mtu", "9000"])
            .unwrap();
    }
    let daemon = Daemon::start(host, 7553, &["-i", "jumbo0"]);
    ask(&range, "10.91.1.1");
    let shown = hop(&daemon.status(), "jumbo0");
    assert_eq!(shown["ingress"], "tcx", "{shown}");
    assert!(await_quiet(&daemon).of(Counter::SeenTcIngress) > u64::from(COUNT));
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn generic_xdp_works_where_the_driver_has_none() {
    let range = range();
    let host = range.host("a").unwrap();
    for command in [
        "ip link add bridge0 type bridge",
        "ip link set plain0 master bridge0",
        "ip address del 10.91.0.1/24 dev plain0",
        "ip address add 10.91.0.1/24 dev bridge0",
        "ip link set bridge0 up",
    ] {
        host.exec(&command.split(' ').collect::<Vec<_>>()).unwrap();
    }
    let output = up(host).args(["-i", "bridge0", "--hook", "xdp"]).output();
    let error = error_of(&output.unwrap());
    println!("{}", error.trim_end());
    assert!(
        error.contains("bridge0: the driver has no native XDP"),
        "{error}"
    );

    let daemon = Daemon::start(host, 7554, &["-i", "bridge0", "--hook", "xdp-generic"]);
    assert_eq!(hop(&daemon.status(), "bridge0")["ingress"], "xdp-generic");
    assert_eq!(mode(host, "bridge0"), 2);
    check_seen(&range, &daemon, "bridge0", "10.91.0.1");
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn an_interface_without_link_layer_is_seen_by_tc_whatever_was_asked_for() {
    let range = range();
    let host = range.host("a").unwrap();
    for (port, hook) in [(7555, "xdp"), (7556, "xdp-generic")] {
        let daemon = Daemon::start(host, port, &["-i", "tun0", "--hook", hook]);
        let shown = hop(&daemon.status(), "tun0");
        assert_eq!(shown["ingress"], "tcx", "{shown}");
        let reason = shown["reason"].as_str().unwrap();
        assert!(reason.contains("without a link layer"), "{shown}");
        assert!(mode(host, "tun0").is_null());
        ask(&range, "10.91.2.1");
        let counters = await_quiet(&daemon);
        counters.check(daemon.pending_packets());
        assert!(counters.of(Counter::SeenTcIngress) > u64::from(COUNT));
        assert_eq!(counters.of(Counter::SeenXdp), 0);
    }
}
