//! The emulated link and the namespaces against independent measurements. Needs root.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use phalanx_range::clock::prioritize_thread;
use phalanx_range::traffic::{
    ConnectionRecord, Download, Flood, FloodKind, FlowOutcome, Flows, Outcome, Program,
    RequestResponse, Server, ShortConnections, Summary, UdpStream, Upload, run,
};
use phalanx_range::{
    Change, Direction, Impairment, Link, Patch, Range, Schedule, Topology, namespace,
};

/// Two hosts on one emulated link.
const PAIR: &str = "
nodes: [{ name: left }, { name: right }]
links:
  - name: wire
    kind: emulated
    a: { node: left }
    b: { node: right }
";

/// A range that has the machine to itself: one measurement at a time, among threads and processes.
struct Bench {
    /// Removed before the lock is given up.
    range: Range,
    #[expect(dead_code, reason = "held until the range is removed")]
    lock: File,
}

impl std::ops::Deref for Bench {
    type Target = Range;

    fn deref(&self) -> &Range {
        &self.range
    }
}

impl Bench {
    fn build(topology: &str) -> Result<Self> {
        let lock = alone()?;
        let range = Range::build(&Topology::from_yaml_str(topology)?)?;
        Ok(Self { range, lock })
    }

    /// Two hosts, with a fault on the way from left to right.
    fn pair(forward: Impairment) -> Result<Self> {
        let bench = Self::build(PAIR)?;
        bench.wire()?.set(Direction::Forward, forward)?;
        Ok(bench)
    }

    /// Two hosts, 40 ms apart and back.
    fn distant_pair() -> Result<Self> {
        let bench = Self::build(PAIR)?;
        for direction in Direction::BOTH {
            bench.wire()?.set(direction, Impairment::delay(20.0))?;
        }
        Ok(bench)
    }

    fn wire(&self) -> Result<&Link> {
        self.link("wire")
    }
}

fn alone() -> Result<File> {
    let file = File::create(std::env::temp_dir().join("phalanx-range-network.lock"))?;
    file.lock()?;
    Ok(file)
}

fn udp(range: &Range, host: &str) -> Result<UdpSocket> {
    let host = range.host(host)?;
    let address = host.ipv4()?;
    Ok(host.enter(|| UdpSocket::bind((address, 0)))??)
}

/// Connected sockets on both ends.
fn sockets(range: &Range) -> Result<(UdpSocket, UdpSocket)> {
    let (left, right) = (udp(range, "left")?, udp(range, "right")?);
    left.connect(right.local_addr()?)?;
    right.connect(left.local_addr()?)?;
    right.set_read_timeout(Some(Duration::from_millis(500)))?;
    left.set_read_timeout(Some(Duration::from_millis(500)))?;
    Ok((left, right))
}

/// Sends `count` numbered datagrams of `bytes` payload, one each `gap`, and gives back the
/// numbers in the order in which they arrived.
fn send_numbered(range: &Range, count: u32, bytes: usize, gap: Duration) -> Result<Vec<u32>> {
    let (left, right) = sockets(range)?;
    let sender = std::thread::spawn(move || -> Result<()> {
        prioritize_thread();
        let start = Instant::now();
        let mut payload = vec![0u8; bytes];
        for number in 0..count {
            let due = gap * number;
            if let Some(early) = due.checked_sub(start.elapsed()) {
                std::thread::sleep(early);
            }
            payload[..4].copy_from_slice(&number.to_be_bytes());
            left.send(&payload)?;
        }
        Ok(())
    });
    // The socket's buffer holds 80 ms of this: reading must not wait for longer.
    prioritize_thread();
    let mut buffer = vec![0u8; 65_536];
    let mut arrived = Vec::new();
    loop {
        match right.recv(&mut buffer) {
            Ok(length) => {
                assert_eq!(length, bytes);
                arrived.push(u32::from_be_bytes([
                    buffer[0], buffer[1], buffer[2], buffer[3],
                ]));
            }
            Err(_) if sender.is_finished() => break,
            Err(_) => {}
        }
    }
    sender.join().ok().context("the sender panicked")??;
    Ok(arrived)
}

fn percentile(sorted: &[f64], share: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * share) as usize]
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn a_path_of_40_ms_is_measured_within_1_ms() -> Result<()> {
    let range = Bench::distant_pair()?;
    let mut medians = Vec::new();
    for _ in 0..5 {
        let times_ms = ping(&range, 30)?;
        let [min, p50, p90] = [0.0, 0.5, 0.9].map(|share| percentile(&times_ms, share));
        println!("RTT over 2 × 20 ms: min {min} ms, p50 {p50} ms, p90 {p90} ms");
        assert!(min >= 40.0, "faster than the link: {min} ms");
        medians.push(p50);
    }
    // A busy machine makes a round slower, nothing makes one faster: the best one counts.
    let best = medians.iter().copied().fold(f64::INFINITY, f64::min);
    assert!(best < 41.0, "{medians:?}");
    Ok(())
}

/// Round-trip times from left to right in milliseconds, sorted. Kernels answer and take the times,
/// so that only the link waits for threads to wake up.
fn ping(range: &Range, count: usize) -> Result<Vec<f64>> {
    let to = range.host("right")?.ipv4()?.to_string();
    let count = count.to_string();
    let told = range
        .host("left")?
        .exec(&["ping", "-n", "-i", "0.01", "-c", &count, &to])?;
    let times = told
        .split_whitespace()
        .filter_map(|word| word.strip_prefix("time="));
    let mut times: Vec<f64> = times.map(str::parse).collect::<Result<_, _>>()?;
    anyhow::ensure!(!times.is_empty(), "no answer: {told}");
    times.sort_by(f64::total_cmp);
    Ok(times)
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn loss_duplication_and_reordering_equal_what_the_receiver_counts() -> Result<()> {
    let range = Bench::pair(Impairment {
        delay_ms: 5.0,
        loss: 0.05,
        burst_enter: 0.01,
        burst_leave: 0.3,
        duplicate: 0.04,
        reorder: 0.05,
        reorder_extra_ms: 3.0,
        ..Impairment::default()
    })?;
    let link = range.wire()?;
    let count = 5_000;
    let arrived = send_numbered(&range, count, 100, Duration::from_micros(300))?;
    let truth = link.counters()?.forward;
    let distinct: BTreeSet<u32> = arrived.iter().copied().collect();
    let mut seen = BTreeSet::new();
    let mut reordered = 0;
    for number in &arrived {
        let is_late = seen.last().is_some_and(|max| number < max);
        if seen.insert(*number) && is_late {
            reordered += 1;
        }
    }
    println!("{truth:?}");
    assert_eq!(truth.packets_in, u64::from(count));
    assert_eq!(truth.packets_out, arrived.len() as u64);
    assert_eq!(
        truth.dropped.total(),
        u64::from(count) - distinct.len() as u64
    );
    assert_eq!(
        truth.dropped.total(),
        truth.dropped.lost + truth.dropped.burst_lost
    );
    assert_eq!(truth.duplicated, (arrived.len() - distinct.len()) as u64);
    assert_eq!(truth.reordered, reordered);
    assert!(
        truth.dropped.lost > 150 && truth.dropped.burst_lost > 50,
        "{truth:?}"
    );
    assert!(truth.duplicated > 100 && reordered > 150, "{truth:?}");
    assert_eq!((truth.under_way, truth.device_dropped), (0, 0));
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn the_rate_is_kept_within_3_percent() -> Result<()> {
    let range = Bench::pair(Impairment {
        rate_mbit_per_s: 20.0,
        queue_bytes: 100_000,
        ..Impairment::default()
    })?;
    let (left, right) = sockets(&range)?;
    let sender = std::thread::spawn(move || {
        prioritize_thread();
        let start = Instant::now();
        // 1472 + 28 bytes at 40 Mbit/s: twice the rate.
        for number in 0..6_666_u32 {
            let due = Duration::from_micros(300) * number;
            if let Some(early) = due.checked_sub(start.elapsed()) {
                std::thread::sleep(early);
            }
            let _ = left.send(&[0u8; 1_472]);
        }
    });
    prioritize_thread();
    let mut buffer = [0u8; 2_048];
    let (mut bytes, mut first, mut last) = (0usize, None, Instant::now());
    while let Ok(length) = right.recv(&mut buffer) {
        last = Instant::now();
        match first {
            None => first = Some(last),
            Some(_) => bytes += length + 28,
        }
    }
    sender.join().ok().context("the sender panicked")?;
    let seconds = (last - first.context("nothing arrived")?).as_secs_f64();
    let rate = bytes as f64 * 8.0 / seconds / 1e6;
    println!("{rate:.3} Mbit/s at a rate of 20");
    assert!((19.4..20.6).contains(&rate), "{rate}");
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn a_silent_mtu_drops_large_packets_only() -> Result<()> {
    let range = Bench::pair(Impairment {
        mtu_bytes: 1_000,
        ..Impairment::default()
    })?;
    let link = range.wire()?;
    let small = send_numbered(&range, 20, 972, Duration::from_millis(1))?;
    let large = send_numbered(&range, 30, 973, Duration::from_millis(1))?;
    let truth = link.counters()?;
    assert_eq!((small.len(), large.len()), (20, 0));
    assert_eq!(
        (truth.forward.dropped.mtu, truth.forward.packets_out),
        (30, 20)
    );
    assert_eq!(truth.reverse.packets_in, 0, "an ICMP message came back");
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn an_outage_by_schedule_drops_one_run_and_the_log_tells_which() -> Result<()> {
    let range = Bench::build(PAIR)?;
    let link = range.wire()?;
    let log = std::env::temp_dir().join(format!("phalanx-range-{}.csv", std::process::id()));
    link.log_to(Direction::Forward, &log)?;
    let set = |outage| Patch {
        outage: Some(outage),
        ..Patch::default()
    };
    let changes = [(150.0, true), (350.0, false)].map(|(at_ms, outage)| Change {
        at_ms,
        direction: None,
        set: set(outage),
    });
    link.schedule(&Schedule {
        changes: changes.to_vec(),
        period_ms: None,
    })?;
    let arrived = send_numbered(&range, 250, 64, Duration::from_millis(2))?;
    link.end_logs()?;
    let text = std::fs::read_to_string(&log)?;
    std::fs::remove_file(&log)?;
    let truth = link.counters()?.forward;
    assert_eq!(truth.dropped.outage, 250 - arrived.len() as u64);
    // 200 ms of one packet each 2 ms.
    assert!((95..=105).contains(&truth.dropped.outage), "{truth:?}");
    let missing: Vec<u32> = (0..250)
        .filter(|number| !arrived.contains(number))
        .collect();
    let span = missing
        .last()
        .zip(missing.first())
        .map(|(last, first)| last - first + 1);
    assert_eq!(span, Some(missing.len() as u32), "not one run");
    let logged: Vec<u32> = text
        .lines()
        .filter(|line| line.split(',').nth(7) == Some("outage"))
        .filter_map(|line| line.split(',').nth(5)?.parse().ok())
        .collect();
    assert_eq!(logged, missing);
    assert_eq!(text.lines().count(), 251);
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn routers_forward_both_families_and_faults_take_hold() -> Result<()> {
    let text = "
nodes:
  - { name: client }
  - name: edge
    kind: router
    firewall:
      - { verdict: reject_reset, protocol: tcp, port: 81 }
      - { verdict: dnat, protocol: tcp, port: 82, to: '10.77.2.2:80' }
      - { verdict: masquerade, output: to-server, source: 10.77.1.0/24 }
  - { name: server }
links:
  - { a: { node: client }, b: { node: edge }, offload: { tso: false, gro: false } }
  - { a: { node: edge }, b: { node: server }, kind: emulated, both: { ttl_decrement: 3 } }
";
    let range = Bench::build(text)?;
    let (client, server) = (range.host("client")?, range.host("server")?);
    let any: SocketAddr = "[::]:80".parse()?;
    let listener = server.enter(|| std::net::TcpListener::bind(any))??;
    let connect = |address: SocketAddr| {
        client.enter(|| std::net::TcpStream::connect_timeout(&address, Duration::from_secs(2)))
    };
    let v6 = connect((server.ipv6()?, 80).into())??;
    assert_eq!(listener.accept()?.1.ip(), v6.local_addr()?.ip());
    drop(connect((server.ipv4()?, 80).into())??);
    let seen = listener.accept()?.1.ip().to_canonical();
    assert_eq!(seen.to_string(), "10.77.2.1", "not masqueraded");
    let refused = connect((server.ipv4()?, 81).into())?;
    assert_eq!(
        refused.map_err(|e| e.kind()).err(),
        Some(std::io::ErrorKind::ConnectionRefused)
    );
    drop(connect("10.77.1.2:82".parse()?)??);
    assert!(listener.accept().is_ok());
    assert_eq!(
        client
            .exec(&["sysctl", "-n", "net.ipv4.tcp_congestion_control"])?
            .trim(),
        "cubic"
    );
    let counters = range.link("edge-server")?.counters()?;
    assert!(counters.forward.packets_in > 5, "{counters:?}");
    // Multicast reports of the kernel have a hop limit of 1, which the link takes.
    let dropped = counters.forward.dropped;
    assert_eq!(dropped.total(), dropped.ttl, "{counters:?}");
    assert_eq!(counters.reverse.dropped.total(), 0, "{counters:?}");
    assert!(range.link("client-edge")?.counters()?.forward.packets_out > 5);
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn namespaces_and_their_processes_go_with_the_range() -> Result<()> {
    let range = Bench::build(PAIR)?;
    let paths: Vec<_> = range
        .hosts()
        .iter()
        .map(|host| host.namespace().path())
        .collect();
    assert!(paths.iter().all(|path| path.exists()));
    let mut orphan = range.host("left")?.command("sleep")?.arg("60").spawn()?;
    drop(range);
    assert!(paths.iter().all(|path| !path.exists()));
    let end = Instant::now() + Duration::from_secs(5);
    while orphan.try_wait()?.is_none() {
        assert!(Instant::now() < end, "the process still runs");
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

const DEMO: (&str, &str) = (
    include_str!("../../examples/demo_topology.yaml"),
    include_str!("../../examples/flows.yaml"),
);

#[test]
fn the_examples_are_read() -> Result<()> {
    let topology = Topology::from_yaml_str(DEMO.0)?;
    let flows = Flows::from_yaml_str(DEMO.1)?;
    flows.check(&topology)?;
    assert_eq!((topology.nodes.len(), flows.flows.len()), (6, 8));
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn the_examples_run_and_every_flow_succeeds() -> Result<()> {
    let range = Bench::build(DEMO.0)?;
    let mut flows = Flows::from_yaml_str(DEMO.1)?;
    for flow in &mut flows.flows {
        flow.repeat = false;
        flow.start_ms = 0.0;
    }
    let outcomes = Mutex::new(Vec::new());
    let report = |outcome: FlowOutcome| outcomes.lock().unwrap().push(outcome);
    flows.run(&range, &AtomicBool::new(false), &report)?;
    let outcomes = outcomes.into_inner().unwrap();
    assert_eq!(outcomes.len(), flows.flows.len());
    for run in &outcomes {
        assert_eq!(
            (run.outcome.failed, &run.outcome.error),
            (0, &None),
            "{}",
            run.flow
        );
        assert!(run.outcome.requests > 0, "{}", run.flow);
    }
    Ok(())
}

/// A server on `right` and the outcome of a program run from `left`.
fn serve(range: &Range, program: &Program) -> Result<(Outcome, Server)> {
    let right = range.host("right")?;
    let server = right.enter(|| Server::start(0))??;
    let target = SocketAddr::new(right.ipv4()?.into(), server.port());
    Ok((range.host("left")?.enter(|| run(program, target))??, server))
}

/// The same of a program that makes one connection, with what the server saw of it.
fn serve_one(range: &Range, program: &Program) -> Result<(Outcome, ConnectionRecord)> {
    let (outcome, server) = serve(range, program)?;
    let record = server.finish(LIMIT)?.pop();
    Ok((outcome, record.context("no record of the connection")?))
}

const LIMIT: Duration = Duration::from_secs(5);

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn think_times_are_what_the_server_slept() -> Result<()> {
    let range = Bench::distant_pair()?;
    let program = Program::RequestResponse(RequestResponse {
        requests: 15,
        think_ms: 30.0,
        response_bytes: 5_000,
        ..RequestResponse::default()
    });
    let (outcome, record) = serve_one(&range, &program)?;
    assert_eq!(
        (outcome.failed, outcome.requests, record.requests),
        (0, 15, 15)
    );
    assert_eq!(outcome.bytes_sent, record.bytes_received);
    assert_eq!(outcome.bytes_received, record.bytes_sent);
    assert_eq!(record.slept_us, outcome.slept_us);
    let p50 = |summary: &Summary| summary.quantile(0.5).unwrap();
    let (slept, took) = (p50(&record.slept_us), p50(&outcome.response_us));
    println!("slept {slept} µs, answered after {took} µs");
    assert!((30_000..32_000).contains(&slept), "{slept}");
    assert!(
        (slept + 40_000..slept + 44_000).contains(&took),
        "{slept} {took}"
    );
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn the_kernel_retransmits_what_the_link_loses() -> Result<()> {
    let range = Bench::pair(Impairment {
        delay_ms: 5.0,
        loss: 0.02,
        ..Impairment::default()
    })?;
    let link = range.wire()?;
    let program = Program::Upload(Upload {
        bytes: 3_000_000,
        ..Upload::default()
    });
    let (outcome, record) = serve_one(&range, &program)?;
    assert_eq!(
        (outcome.bytes_sent, record.bytes_received),
        (3_000_000, 3_000_000)
    );
    range.settle(Duration::from_millis(50), LIMIT)?;
    let truth = link.counters()?.forward;
    println!(
        "{} lost, {} retransmitted",
        truth.dropped.lost, outcome.retransmits
    );
    assert!(truth.dropped.lost > 10, "{truth:?}");
    // Pure ACKs of the answer are lost without a retransmission; spurious ones come on top.
    assert!(
        outcome.retransmits + 3 >= truth.dropped.lost,
        "{outcome:?} {truth:?}"
    );
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn a_bulk_transfer_passes_some_hundred_mbit_per_s() -> Result<()> {
    let range = Bench::build(PAIR)?;
    let program = Program::Download(Download {
        seconds: 2.0,
        ..Download::default()
    });
    let (outcome, record) = serve_one(&range, &program)?;
    assert_eq!(
        (outcome.failed, outcome.bytes_received),
        (0, record.bytes_sent)
    );
    assert!(outcome.seconds < 4.0, "{}", outcome.seconds);
    let rate = outcome.bytes_received as f64 * 8.0 / outcome.seconds / 1e6;
    println!("{rate:.0} Mbit/s");
    assert!(rate > 100.0, "{rate}");
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn one_udp_flow_from_four_threads_arrives_whole() -> Result<()> {
    let range = Bench::build(PAIR)?;
    let program = Program::UdpStream(UdpStream {
        threads: 4,
        datagrams: 2_000,
        bytes: 300,
        rate_per_s: 2_000.0,
    });
    let (outcome, server) = serve(&range, &program)?;
    range.settle(Duration::from_millis(100), LIMIT)?;
    let counters = server.counters();
    assert_eq!(outcome.datagrams_sent, 8_000);
    assert_eq!(counters.datagrams_received, 8_000);
    assert_eq!(counters.datagram_bytes_received, outcome.bytes_sent);
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn short_connections_and_resets_are_counted() -> Result<()> {
    let range = Bench::build(PAIR)?;
    for reset in [false, true] {
        let program = Program::ShortConnections(ShortConnections {
            count: 200,
            rate_per_s: 400.0,
            reset,
            ..ShortConnections::default()
        });
        let (outcome, server) = serve(&range, &program)?;
        let records = server.finish(LIMIT)?;
        assert_eq!(
            (outcome.connections, outcome.failed, records.len()),
            (200, 0, 200)
        );
        let aborted = records
            .iter()
            .filter(|record| record.error.is_some())
            .count();
        assert_eq!(aborted, if reset { 200 } else { 0 });
    }
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn floods_arrive_exactly_from_200_000_sources() -> Result<()> {
    let text = "
nodes: [{ name: attacker }, { name: victim }]
links: [{ name: wire, a: { node: attacker }, b: { node: victim } }]
";
    let range = Bench::build(text)?;
    let (attacker, victim) = (range.host("attacker")?, range.host("victim")?);
    victim.load_nft(
        "table ip count {
           set seen { type ipv4_addr; size 300000; flags dynamic; }
           chain in { type filter hook prerouting priority raw;
             ip saddr 100.64.0.0/10 counter add @seen { ip saddr } drop
           }
         }",
    )?;
    for kind in [FloodKind::Syn, FloodKind::Ack, FloodKind::Udp] {
        let flood = Flood {
            kind,
            target: SocketAddrV4::new(victim.ipv4()?, 80),
            source_first: Ipv4Addr::new(100, 64, 0, 1),
            sources: 200_000,
            packets: 200_000,
            rate_per_s: 100_000.0,
        };
        let outcome = attacker.enter(|| flood.run())??;
        assert_eq!((outcome.packets, outcome.sources), (200_000, 200_000));
        println!(
            "{kind:?}: {:.0} packets/s",
            outcome.packets as f64 / outcome.seconds
        );
    }
    let chain = victim.exec(&["nft", "list", "chain", "ip", "count", "in"])?;
    assert!(chain.contains("counter packets 600000 "), "{chain}");
    let set = victim.exec(&["nft", "list", "set", "ip", "count", "seen"])?;
    let is_address = |word: &&str| word.parse::<Ipv4Addr>().is_ok();
    assert_eq!(
        set.split([' ', ',', '\n', '\t']).filter(is_address).count(),
        200_000
    );
    Ok(())
}

/// The namespaces of the run with process id `pid`.
fn namespaces_of(pid: u32) -> Result<usize> {
    let prefix = format!("phx-{pid}-");
    Ok(namespace::names()?
        .iter()
        .filter(|name| name.starts_with(&prefix))
        .count())
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn nothing_stays_after_signals_sigkill_included() -> Result<()> {
    let _alone = alone()?;
    let file = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../examples/demo_topology.yaml"
    );
    for signal in ["TERM", "INT", "KILL"] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_phalanx-range"))
            .args(["up", "-f", file])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let stderr = BufReader::new(child.stderr.take().context("no standard error")?);
        let is_up = stderr
            .lines()
            .map_while(Result::ok)
            .any(|line| line.starts_with("up;"));
        assert!(is_up, "{:?}", child.wait()?);
        assert_eq!(namespaces_of(child.id())?, 6);
        let pid = child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-s", signal, &pid])
                .status()?
                .success()
        );
        let status = child.wait()?;
        assert_eq!(status.success(), signal != "KILL", "{signal}: {status}");
        let end = Instant::now() + LIMIT;
        while namespaces_of(child.id())? > 0 {
            assert!(Instant::now() < end, "{signal}: namespaces stay");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn what_dead_runs_left_is_removed_at_the_next_start() -> Result<()> {
    let _alone = alone()?;
    // A process that has ended: its id may be used again, its start time may not.
    let mut child = Command::new("true").spawn()?;
    let name = format!("phx-{}-1-0-stale", child.id());
    child.wait()?;
    assert!(
        Command::new("ip")
            .args(["netns", "add", &name])
            .status()?
            .success()
    );
    let range = Range::build(&Topology::from_yaml_str(PAIR)?)?;
    let names = namespace::names()?;
    assert!(!names.contains(&name));
    assert!(
        names
            .iter()
            .any(|name| name == range.hosts()[0].namespace().name())
    );
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn offloads_decide_whether_super_segments_are_sent() -> Result<()> {
    for is_on in [true, false] {
        let offload = format!("{{ tso: {is_on}, gso: {is_on}, gro: false }}");
        let text = format!(
            "
nodes: [{{ name: left }}, {{ name: right }}]
links: [{{ name: wire, a: {{ node: left }}, b: {{ node: right }}, offload: {offload} }}]
"
        );
        let range = Bench::build(&text)?;
        let program = Program::Upload(Upload {
            bytes: 20_000_000,
            ..Upload::default()
        });
        let (outcome, _server) = serve(&range, &program)?;
        assert_eq!((outcome.failed, outcome.bytes_sent), (0, 20_000_000));
        let sent = range.wire()?.counters()?.forward;
        let mean_bytes = sent.bytes_in / sent.packets_in;
        println!("offloads {is_on}: {mean_bytes} bytes a packet");
        assert_eq!(mean_bytes > 1_514, is_on, "{sent:?}");
    }
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn a_policer_caps_the_rate_without_delay() -> Result<()> {
    let range = Bench::pair(Impairment {
        police_mbit_per_s: 10.0,
        police_burst_bytes: 30_000,
        ..Impairment::default()
    })?;
    let link = range.wire()?;
    // 1000-byte packets at 20 Mbit/s for one second.
    let start = Instant::now();
    let arrived = send_numbered(&range, 2_500, 972, Duration::from_micros(400))?;
    let seconds = start.elapsed().as_secs_f64();
    let truth = link.counters()?.forward;
    assert_eq!(truth.packets_out, arrived.len() as u64);
    assert_eq!(truth.dropped.policed, 2_500 - arrived.len() as u64);
    // The bucket's 30 packets and 1250 a second: at least those of the second that sending
    // takes, at most those of the time that has passed.
    let most = 30 + (1_250.0 * seconds) as usize;
    assert!(
        (1_270..=most).contains(&arrived.len()),
        "{} of {most}",
        arrived.len()
    );
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn a_capture_holds_what_the_link_delivered() -> Result<()> {
    let range = Bench::pair(Impairment {
        loss: 0.1,
        duplicate: 0.1,
        ..Impairment::default()
    })?;
    let link = range.wire()?;
    let file = std::env::temp_dir().join(format!("phalanx-range-{}.pcap", std::process::id()));
    let capture = range.host("right")?.capture("to-left", &file, 96)?;
    send_numbered(&range, 1_000, 500, Duration::from_micros(300))?;
    let counters = capture.finish()?;
    let bytes = std::fs::metadata(&file)?.len();
    std::fs::remove_file(&file)?;
    let truth = link.counters()?.forward;
    assert_eq!(
        (counters.captured, counters.dropped),
        (truth.packets_out, 0)
    );
    // The file's header, and per packet a header and at least its IP and UDP headers.
    assert!(bytes > 24 + truth.packets_out * (16 + 28), "{bytes} bytes");
    Ok(())
}

#[test]
fn the_reference_shows_what_is_read() -> Result<()> {
    let text = include_str!("../README.md");
    let blocks: Vec<&str> = text
        .split("```yaml\n")
        .skip(1)
        .filter_map(|block| block.split("```").next())
        .collect();
    let [topology, flows] = blocks[..] else {
        panic!("{} blocks of YAML", blocks.len());
    };
    Flows::from_yaml_str(flows)?.check(&Topology::from_yaml_str(topology)?)?;
    Ok(())
}
