//! Sums under load: over ten thousand flows with loss, reordering, super-segments both ways and
//! busy CPUs, and one flow that four threads send on, every packet and byte is counted once, flow
//! by flow. The truth is a tcpdump of the wire behind the watched interface, where each segment
//! stands for itself, and what the senders say.
//! Run by `cargo xtask test --ring network`.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[expect(dead_code, reason = "each test file uses its part")]
#[path = "network/daemon.rs"]
mod daemon;

#[path = "network_truth/capture.rs"]
mod capture;

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use capture::Capture;
use daemon::{Daemon, Sent, await_quiet, await_that};
use phalanx_common::abi::Counter;
use phalanx_range::traffic::{Outcome, Program, Server, ShortConnections, UdpStream, run};
use phalanx_range::{Host, LinkCounters, Range, Topology};
use serde_json::Value;

/// The client is watched on a veth pair; the wire is a pair of tun devices, which take no
/// super-segments and pass none on. A veth device merges what it receives only where its peer sends
/// no super-segments itself.
const TOPOLOGY: &str = "
nodes: [{ name: client }, { name: edge, kind: router }, { name: server }]
links:
  - a: { node: client, offload: { tso: true, gso: true, gro: true } }
    b: { node: edge, offload: { tso: false } }
  - name: wan
    kind: emulated
    a: { node: edge, interface: wan0 }
    b: { node: server, interface: wan1 }
    both: { delay_ms: 2, loss: 0.02, reorder: 0.02, reorder_extra_ms: 4 }
";
const PORT: u16 = 8080;
const CONNECTIONS: u32 = 12_000;
const CONNECTIONS_PER_S: f64 = 400.0;
const DATAGRAM_THREADS: u32 = 4;
const DATAGRAMS_PER_THREAD: u32 = 50_000;
const DATAGRAM_BYTES: u32 = 100;
/// Headers of IPv4 and UDP.
const DATAGRAM_HEADER_BYTES: u64 = 28;
/// Between two readings of the flows: the latest 8,192 that closed are shown, and fewer close.
const READ_INTERVAL: Duration = Duration::from_secs(3);
/// Silence after which a UDP flow is closed, and some.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(120);
/// How long received segments wait for more to be merged with, in nanoseconds.
const GRO_FLUSH_TIMEOUT_NS: u32 = 200_000;

const TCP: u8 = 6;
const UDP: u8 = 17;

/// A flow to the server: protocol and port of the client.
type Key = (u8, u16);
/// What the client sent and what the server sent.
type Flows = BTreeMap<Key, [Sent; 2]>;

/// The flows that have closed, as the API shows them, by their ids.
#[derive(Default)]
struct Shown {
    flows: BTreeMap<String, (Key, [Sent; 2])>,
}

impl Shown {
    /// Reads all pages.
    fn read(&mut self, daemon: &Daemon<'_>) {
        let path = "/api/v1/flows?state=closed&sort=opened&order=asc&limit=1000";
        let mut cursor = String::new();
        loop {
            let page = daemon.get(&format!("{path}{cursor}"));
            for flow in page["flows"].as_array().unwrap() {
                let key = match flow["protocol"].as_str().unwrap() {
                    "tcp" => (TCP, port(&flow["client"])),
                    "udp" => (UDP, port(&flow["client"])),
                    _ => continue,
                };
                assert_eq!(port(&flow["server"]), PORT, "{flow}");
                let sent = [sent(&flow["client_sent"]), sent(&flow["server_sent"])];
                let id = flow["id"].as_str().unwrap().to_owned();
                self.flows.insert(id, (key, sent));
            }
            match page["next"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return,
            }
        }
    }

    /// The sums by 5-tuple: a port that is free again may be taken for another connection.
    fn by_key(&self) -> Flows {
        let mut sums = Flows::new();
        for (key, halves) in self.flows.values() {
            let sum = sums.entry(*key).or_default();
            sum[0].add(halves[0]);
            sum[1].add(halves[1]);
        }
        sums
    }
}

fn port(end: &Value) -> u16 {
    u16::try_from(end["port"].as_u64().unwrap()).unwrap()
}

fn sent(view: &Value) -> Sent {
    Sent {
        packets: view["packets"].as_u64().unwrap(),
        bytes: view["bytes"].as_u64().unwrap(),
    }
}

/// The flows in a capture of the wire, each packet a segment.
fn read_wire(path: &Path, client: Ipv4Addr) -> Flows {
    const FILE_HEADER_SIZE: usize = 24;
    const PACKET_HEADER_SIZE: usize = 16;
    let file = std::fs::read(path).unwrap();
    let mut rest = &file[FILE_HEADER_SIZE..];
    let mut flows = Flows::new();
    while !rest.is_empty() {
        let length = u32::from_ne_bytes(rest[8..12].try_into().unwrap()) as usize;
        let (packet, after) = rest[PACKET_HEADER_SIZE..].split_at(length);
        rest = after;
        let word = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
        assert_eq!(
            (packet[0], packet[9]),
            (0x45, TCP),
            "not plain IPv4 and TCP"
        );
        assert_eq!(word(6) & 0x3fff, 0, "a fragment");
        let is_client = packet[12..16] == client.octets();
        let (source, destination) = (word(20), word(22));
        let (own, other) = if is_client {
            (source, destination)
        } else {
            (destination, source)
        };
        assert_eq!(other, PORT);
        let halves = flows.entry((TCP, own)).or_default();
        halves[usize::from(!is_client)].add(Sent {
            packets: 1,
            bytes: word(2).into(),
        });
    }
    flows
}

/// Packets that both ends of the veth pair lost; the wire saw none of them, or the client none.
fn veth_dropped(range: &Range) -> u64 {
    let ends = [("client", "to-edge"), ("edge", "to-client")];
    let mut sum = 0;
    for (host, interface) in ends {
        for counter in ["rx_dropped", "tx_dropped", "rx_errors", "tx_errors"] {
            let path = format!("/sys/class/net/{interface}/statistics/{counter}");
            let text = range.host(host).unwrap().exec(&["cat", &path]).unwrap();
            sum += text.trim().parse::<u64>().unwrap();
        }
    }
    sum
}

/// Idle and all CPU time of the machine, in ticks.
fn machine_ticks() -> [u64; 2] {
    let text = std::fs::read_to_string("/proc/stat").unwrap();
    let fields = text.lines().next().unwrap().split_whitespace().skip(1);
    let ticks: Vec<u64> = fields.map(|field| field.parse().unwrap()).collect();
    [ticks[3] + ticks[4], ticks.iter().take(8).sum()]
}

fn send_datagrams(client: &Host, target: SocketAddr) -> (Key, [Sent; 2]) {
    let program = Program::UdpStream(UdpStream {
        threads: DATAGRAM_THREADS,
        datagrams: DATAGRAMS_PER_THREAD,
        bytes: DATAGRAM_BYTES,
        rate_per_s: 0.0,
    });
    let outcome = client.enter(|| run(&program, target)).unwrap().unwrap();
    let packets = u64::from(DATAGRAM_THREADS * DATAGRAMS_PER_THREAD);
    assert_eq!((outcome.datagrams_sent, outcome.failed), (packets, 0));
    let sent = Sent {
        packets,
        bytes: packets * (u64::from(DATAGRAM_BYTES) + DATAGRAM_HEADER_BYTES),
    };
    ((UDP, outcome.local[0].port()), [sent, Sent::default()])
}

/// The connections, while the flows that close are read.
fn connect(client: &Host, target: SocketAddr, daemon: &Daemon<'_>, shown: &mut Shown) -> Outcome {
    let program = Program::ShortConnections(ShortConnections {
        count: CONNECTIONS,
        rate_per_s: CONNECTIONS_PER_S,
        request_bytes: 4_000,
        response_bytes: 12_000,
        ..ShortConnections::default()
    });
    std::thread::scope(|scope| {
        let traffic = scope.spawn(|| client.enter(|| run(&program, target)).unwrap().unwrap());
        while !traffic.is_finished() {
            shown.read(daemon);
            std::thread::sleep(READ_INTERVAL);
        }
        traffic.join().unwrap()
    })
}

/// Reads the flows until none is open.
fn await_closed(daemon: &Daemon<'_>, shown: &mut Shown) {
    let end = Instant::now() + CLOSE_TIMEOUT;
    let is_open = |protocol: &str| {
        let page = daemon.get(&format!(
            "/api/v1/flows?state=open&protocol={protocol}&limit=1"
        ));
        !page["flows"].as_array().unwrap().is_empty()
    };
    while is_open("tcp") || is_open("udp") {
        assert!(Instant::now() < end, "some flows are never closed");
        shown.read(daemon);
        std::thread::sleep(READ_INTERVAL);
    }
    shown.read(daemon);
}

fn sum(flows: &Flows, protocol: u8) -> [Sent; 2] {
    let mut sums = [Sent::default(); 2];
    for (_, halves) in flows.iter().filter(|((it, _), _)| *it == protocol) {
        sums[0].add(halves[0]);
        sums[1].add(halves[1]);
    }
    sums
}

/// Says how what is shown differs from the truth; how many flows do.
fn print_differences(shown: &Flows, truth: &Flows) -> usize {
    let keys: std::collections::BTreeSet<_> = shown.keys().chain(truth.keys()).collect();
    let mut differences = 0;
    for key in keys {
        if shown.get(key) != truth.get(key) {
            differences += 1;
            if differences <= 20 {
                println!(
                    "  {key:?}: {:?}, truth {:?}",
                    shown.get(key),
                    truth.get(key)
                );
            }
        }
    }
    let total = |flows: &Flows| [TCP, UDP].map(|protocol| sum(flows, protocol));
    println!("{differences} of {} 5-tuples differ", truth.len());
    println!("shown {:?}\ntruth {:?}", total(shown), total(truth));
    differences
}

/// The connections over the wire, and the truth about them.
fn carry(range: &Range, daemon: &Daemon<'_>, target: SocketAddr, shown: &mut Shown) -> Flows {
    let (client, wan) = (range.host("client").unwrap(), range.link("wan").unwrap());
    let quiet = Duration::from_millis(500);
    let settle = || {
        range.settle(quiet, daemon::STEP_TIMEOUT).unwrap();
        wan.counters().unwrap()
    };
    let link_before = settle();
    let path = std::env::temp_dir().join(format!("{}.pcap", client.namespace().name()));
    let wire = Capture::start(range, "edge", "wan0", &path);
    let (dropped, seen, ticks) = (veth_dropped(range), daemon.counters(), machine_ticks());
    let outcome = connect(client, target, daemon, shown);
    let ticks_after = machine_ticks();
    let link = settle();
    wire.finish();
    let truth = read_wire(&path, client.ipv4().unwrap());
    std::fs::remove_file(&path).unwrap();
    let idle = (ticks_after[0] - ticks[0]) as f64 / (ticks_after[1] - ticks[1]) as f64;
    println!(
        "{} connections, {} failed, in {:.0} s, CPUs {:.0} % busy; lost on the way: {} out, {} in",
        outcome.connections,
        outcome.failed,
        outcome.seconds,
        100.0 - idle * 100.0,
        link.forward.dropped.lost - link_before.forward.dropped.lost,
        link.reverse.dropped.lost - link_before.reverse.dropped.lost,
    );
    assert_eq!(
        outcome.connections,
        u64::from(CONNECTIONS),
        "{:?}",
        outcome.error
    );
    // The truth is one: nothing was lost between the client and the wire, nothing by tcpdump.
    assert_eq!(veth_dropped(range), dropped, "lost on the veth pair");
    let [from_client, from_server] = sum(&truth, TCP);
    let taken = |link: &LinkCounters| link.forward.packets_in + link.forward.device_dropped;
    let given = |link: &LinkCounters| link.reverse.packets_out;
    assert_eq!(from_client.packets, taken(&link) - taken(&link_before));
    assert_eq!(from_server.packets, given(&link) - given(&link_before));
    let accounting = await_quiet(daemon);
    let more = |counter| accounting.of(counter) - seen.of(counter);
    let (out, into) = (more(Counter::SeenTcEgress), more(Counter::SeenTcIngress));
    println!(
        "{} segments out in {out} packets at the hook, {} in in {into}",
        from_client.packets, from_server.packets
    );
    assert!(out * 20 < from_client.packets * 19, "none joined out");
    assert!(into * 20 < from_server.packets * 19, "none joined in");
    truth
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn every_packet_and_byte_is_counted_once_flow_by_flow() {
    let lock = File::create(std::env::temp_dir().join("phalanx-range-network.lock")).unwrap();
    lock.lock().unwrap();
    let range = Range::build(&Topology::from_yaml_str(TOPOLOGY).unwrap()).unwrap();
    let (client, server) = (range.host("client").unwrap(), range.host("server").unwrap());
    let flush = "/sys/class/net/to-edge/gro_flush_timeout";
    let set = format!("echo {GRO_FLUSH_TIMEOUT_NS} > {flush}");
    client.exec(&["sh", "-c", &set]).unwrap();
    // A connection whose last words were lost is closed for its silence.
    let idle = ["--set", "tcp_idle_timeout_s=60"];
    let daemon = Daemon::start(client, 7405, &[&["-i", "to-edge"][..], &idle].concat());
    let service = server.enter(|| Server::start(PORT)).unwrap().unwrap();
    let target: SocketAddr = (server.ipv4().unwrap(), service.port()).into();
    let (datagram_key, datagrams) = send_datagrams(client, target);
    let mut shown = Shown::default();
    let mut truth = carry(&range, &daemon, target, &mut shown);
    truth.insert(datagram_key, datagrams);
    await_closed(&daemon, &mut shown);
    let accounting = await_quiet(&daemon);
    println!("{accounting:?}");
    println!(
        "displaced from the pending table: {} flows with {} packets",
        accounting.of(Counter::PendingDisplaced),
        accounting.of(Counter::PendingDisplacedPackets)
    );
    accounting.check(daemon.pending_packets());
    let opened = accounting.of(Counter::FlowsOpened);
    println!("{} flows told, {opened} opened", shown.flows.len());
    assert!(shown.flows.len() > CONNECTIONS as usize);
    assert_eq!(print_differences(&shown.by_key(), &truth), 0);
    for (protocol, label) in [(TCP, "protocol=\"tcp\""), (UDP, "protocol=\"udp\"")] {
        let [mut all, server] = sum(&truth, protocol);
        all.add(server);
        await_that("the metrics have all packets", || {
            daemon.metric("phalanx_packets_total", &[label]) == all.packets
        });
        assert_eq!(daemon.metric("phalanx_bytes_total", &[label]), all.bytes);
    }
}
