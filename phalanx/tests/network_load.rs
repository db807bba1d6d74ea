//! Load whose truth is known: every packet and byte is counted once, whatever the number of flows,
//! and what is lost is counted too.
//! Run by `cargo xtask test --ring network`.
#![expect(clippy::unwrap_used, reason = "a test may panic")]
#![expect(
    clippy::cast_possible_truncation,
    reason = "metrics are whole numbers below 2⁵³"
)]

#[expect(dead_code, reason = "each test file uses its part")]
#[path = "network/daemon.rs"]
mod daemon;

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use daemon::{Daemon, Sent, await_quiet, await_that};
use nix::sys::signal::Signal;
use phalanx_common::abi::{Counter, FlowKey};
use phalanx_engine::limits;
use phalanx_range::traffic::{
    Flood, FloodKind, Program, RequestResponse, Server, ShortConnections, UdpStream, run,
};
use phalanx_range::{Range, Topology};
use serde_json::json;

/// Two hosts and nothing between them.
const PLAIN: &str = "
nodes: [{ name: client }, { name: server }]
links: [{ a: { node: client }, b: { node: server } }]
";

/// The records that are read in one go while the daemon stands still otherwise.
const RECORDS_PER_PULSE: u64 = 300_000;

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn a_consumer_at_a_tenth_of_the_rate_loses_only_what_is_counted() {
    let range = Range::build(&Topology::from_yaml_str(PLAIN).unwrap()).unwrap();
    let (client, server) = (range.host("client").unwrap(), range.host("server").unwrap());
    let daemon = Daemon::start(client, 7402, &["-i", "to-server"]);
    let service = server.enter(|| Server::start(8080)).unwrap().unwrap();
    let target: SocketAddr = (server.ipv4().unwrap(), service.port()).into();
    let idle_bytes = daemon.resident_bytes();
    let request = json!({"filter": "udp port 8080", "duration": 300, "max_packets": 10_000_000});
    let capture = daemon.post("/api/v1/captures", &request);
    assert_eq!(capture["state"], "running", "{capture}");
    let stream = Program::UdpStream(UdpStream {
        threads: 2,
        datagrams: 500_000,
        bytes: 64,
        rate_per_s: 0.0,
    });
    daemon.signal(Signal::SIGSTOP);
    let outcome = std::thread::scope(|scope| {
        let sender = scope.spawn(|| client.enter(|| run(&stream, target)).unwrap().unwrap());
        let mut due = RECORDS_PER_PULSE;
        while !sender.is_finished() {
            if daemon.counters().of(Counter::Matched) >= due {
                due += RECORDS_PER_PULSE;
                daemon.signal(Signal::SIGCONT);
                std::thread::sleep(Duration::from_millis(20));
                daemon.signal(Signal::SIGSTOP);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        sender.join().unwrap()
    });
    let accounting = await_quiet(&daemon);
    daemon.signal(Signal::SIGCONT);
    let stop = format!("/api/v1/captures/{}/stop", capture["id"].as_str().unwrap());
    let capture = daemon.post(&stop, &json!({}));
    let (matched, delivered, dropped) = (
        accounting.of(Counter::Matched),
        accounting.of(Counter::Delivered),
        accounting.of(Counter::DroppedRingFull),
    );
    let loaded_bytes = daemon.resident_bytes();
    println!(
        "{} sent, {matched} matched, {delivered} delivered, {dropped} dropped; resident \
         {idle_bytes} then {loaded_bytes} bytes; {capture}",
        outcome.datagrams_sent
    );
    assert_eq!(outcome.datagrams_sent, 1_000_000);
    assert!(matched >= outcome.datagrams_sent);
    assert!(delivered * 5 < matched, "the consumer was not slow enough");
    assert_eq!(accounting.of(Counter::SampledOut), 0);
    accounting.check(daemon.pending_packets());
    // One flow is traced.
    let most = limits::MEMORY_BYTES_MAX - limits::LIVE_TRACE_BYTES_MAX;
    assert!(loaded_bytes < most as u64);
    assert_eq!(capture["state"], "partial");
    let losses = capture["losses"].as_array().unwrap();
    let lost = |kind: &str| -> u64 {
        let of_kind = losses.iter().filter(|loss| loss["kind"] == kind);
        of_kind.map(|loss| loss["packets"].as_u64().unwrap()).sum()
    };
    assert_eq!(lost("ring_full"), dropped);
    let written = capture["packets"].as_u64().unwrap();
    assert_eq!(written + lost("queue_full"), delivered, "{capture}");
    await_that("the status shows the losses", || {
        let status = daemon.get("/api/v1/status");
        status["kernel"]["counters"]["dropped_ring_full"] == dropped
            && status["kernel"]["counters"]["matched"] == matched
    });
    let family = "phalanx_kernel_records_total";
    assert_eq!(daemon.metric(family, &["dropped_ring_full"]), dropped);
    assert_eq!(daemon.metric(family, &["delivered"]), delivered);
}

/// More connections than the ring of events holds updates.
const MISSED_CONNECTIONS: u32 = 6_000;

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn flows_that_a_stalled_daemon_missed_are_found_and_closed() {
    let range = Range::build(&Topology::from_yaml_str(PLAIN).unwrap()).unwrap();
    let (client, server) = (range.host("client").unwrap(), range.host("server").unwrap());
    let daemon = Daemon::start(client, 7404, &["-i", "to-server"]);
    let service = server.enter(|| Server::start(8080)).unwrap().unwrap();
    let target: SocketAddr = (server.ipv4().unwrap(), service.port()).into();
    daemon.signal(Signal::SIGSTOP);
    let program = Program::ShortConnections(ShortConnections {
        count: MISSED_CONNECTIONS,
        rate_per_s: 2_000.0,
        ..ShortConnections::default()
    });
    let outcome = client.enter(|| run(&program, target)).unwrap().unwrap();
    assert_eq!(outcome.error, None);
    let accounting = await_quiet(&daemon);
    let mut missed = Sent::default();
    let flows = daemon.flows();
    for halves in flows.values() {
        missed.add(halves[0]);
        missed.add(halves[1]);
    }
    let dropped = accounting.of(Counter::EventsDroppedRingFull);
    println!("{} flows, {missed:?}, {dropped} events lost", flows.len());
    assert!(dropped > 0 && flows.len() > 5_000);
    daemon.signal(Signal::SIGCONT);
    await_that("their ends are noticed", || daemon.flows().is_empty());
    await_that("the metrics have all of their packets", || {
        daemon.metric("phalanx_packets_total", &[]) == missed.packets
    });
    assert_eq!(daemon.metric("phalanx_bytes_total", &[]), missed.bytes);
    assert_eq!(
        daemon.metric("phalanx_kernel_events_total", &["dropped"]),
        dropped
    );
    accounting.check(daemon.pending_packets());
}

/// Packets that an interface received, as the kernel counts them.
fn received(host: &phalanx_range::Host, interface: &str) -> u64 {
    let path = format!("/sys/class/net/{interface}/statistics/rx_packets");
    host.exec(&["cat", &path]).unwrap().trim().parse().unwrap()
}

/// What a named counter of nftables stands at.
fn nft_packets(host: &phalanx_range::Host) -> u64 {
    let text = host
        .exec(&["nft", "list", "counter", "inet", "truth", "both"])
        .unwrap();
    let mut words = text
        .split_whitespace()
        .skip_while(|word| *word != "packets");
    words.nth(1).unwrap().parse().unwrap()
}

const SOURCES: u32 = 200_000;

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn floods_are_counted_and_cost_no_established_flow() {
    let range = Range::build(&Topology::from_yaml_str(PLAIN).unwrap()).unwrap();
    let (client, server) = (range.host("client").unwrap(), range.host("server").unwrap());
    server
        .load_nft(
            "table inet truth {
                counter both { }
                chain in { type filter hook prerouting priority -300;
                    tcp dport 8080 counter name both; }
                chain out { type filter hook postrouting priority 300;
                    tcp sport 8080 counter name both; }
            }",
        )
        .unwrap();
    let daemon = Daemon::start(server, 7403, &["-i", "to-client"]);
    let service = server.enter(|| Server::start(8080)).unwrap().unwrap();
    let target: SocketAddr = (server.ipv4().unwrap(), service.port()).into();
    let (seen, interface) = (daemon.counters(), received(server, "to-client"));
    let program = Program::RequestResponse(RequestResponse {
        requests: 300,
        pause_ms: 50.0,
        ..RequestResponse::default()
    });
    let established = |flows: &std::collections::BTreeMap<FlowKey, [Sent; 2]>| {
        let is_it =
            |key: &FlowKey| key.protocol == 6 && [key.low_port, key.high_port].contains(&8080);
        let mut found = flows.iter().filter(|(key, _)| is_it(key));
        let (_, halves) = found.next().expect("the established flow is in the table");
        assert!(found.next().is_none());
        halves[0].packets + halves[1].packets
    };
    std::thread::scope(|scope| {
        let steady = scope.spawn(|| client.enter(|| run(&program, target)).unwrap().unwrap());
        await_that("the flow is established", || daemon.flows().len() == 1);
        let mut packets = 0;
        for kind in [FloodKind::Syn, FloodKind::Ack, FloodKind::Udp] {
            let flood = Flood {
                kind,
                target: SocketAddrV4::new(server.ipv4().unwrap(), 81),
                source_first: Ipv4Addr::new(100, 64, 0, 1),
                sources: SOURCES,
                packets: SOURCES.into(),
                rate_per_s: 60_000.0,
            };
            let outcome = client.enter(|| flood.run()).unwrap().unwrap();
            let now = established(&daemon.flows());
            println!("{kind:?}: {outcome:?}; the established flow is at {now} packets");
            assert!(now > packets, "its counters go on");
            packets = now;
        }
        let outcome = steady.join().unwrap();
        assert_eq!((outcome.error, outcome.requests), (None, 300));
    });
    let accounting = await_quiet(&daemon);
    let packets = established(&daemon.flows());
    let interface = received(server, "to-client") - interface;
    let ingress = accounting.of(Counter::SeenTcIngress) - seen.of(Counter::SeenTcIngress);
    println!("{ingress} packets in, the interface says {interface}; {accounting:?}");
    assert_eq!(ingress, interface);
    assert!(accounting.of(Counter::Parsed) >= 3 * u64::from(SOURCES) * 9 / 10);
    assert_eq!(packets, nft_packets(server));
    accounting.check(daemon.pending_packets());
}
