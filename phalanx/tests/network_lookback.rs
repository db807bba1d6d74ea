//! Looking back from end to end: what happened before a capture was asked for is in its file, each
//! packet once and none missing at the seam; and recording all flows keeps within its share of a
//! CPU, flows whole.
//! Run by `cargo xtask test --ring network`.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[expect(dead_code, reason = "each test file uses its part")]
#[path = "network/daemon.rs"]
mod daemon;
#[path = "network/folder.rs"]
mod folder;
#[path = "network/mark.rs"]
mod mark;

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use daemon::{Daemon, await_quiet, await_that};
use folder::Folder;
use mark::{HEADERS_MAX, ORDER_NS, TRANSPORT, finish, first_retransmission_ns, holds, marks};
use phalanx::capture_file::{CaptureFile, Frame};
use phalanx_common::abi::{Counter, FlowKey};
use phalanx_common::packet::{self, LinkKind};
use phalanx_common::watch;
use phalanx_range::traffic::{
    Flood, FloodKind, Program, RequestResponse, Server, UdpStream, Upload, run,
};
use phalanx_range::{Direction, Host, Impairment, Range, Topology};
use serde_json::{Value, json};

/// A client on a veth pair, and a server behind an emulated link.
const LOSSY: &str = "
nodes: [{ name: client }, { name: edge, kind: router }, { name: server }]
links:
  - { a: { node: client }, b: { node: edge } }
  - name: wan
    kind: emulated
    a: { node: edge, interface: wan0 }
    b: { node: server, interface: wan1 }
";

/// Two hosts and nothing between them.
const PLAIN: &str = "
nodes: [{ name: client }, { name: server }]
links: [{ a: { node: client }, b: { node: server } }]
";

const PORT: u16 = 8080;
const OTHER_PORT: u16 = 8081;
/// How long before the request the fault is.
const BEFORE: Duration = Duration::from_secs(5);

fn build(topology: &str) -> Range {
    Range::build(&Topology::from_yaml_str(topology).unwrap()).unwrap()
}

fn impair(range: &Range, loss: f64) {
    let link = range.link("wan").unwrap();
    for (direction, loss) in Direction::BOTH.into_iter().zip([loss, 0.0]) {
        let impairment = Impairment {
            loss,
            ..Impairment::delay(5.0)
        };
        link.set(direction, impairment).unwrap();
    }
}

fn serve(range: &Range, port: u16) -> Server {
    let server = range.host("server").unwrap();
    server.enter(|| Server::start(port)).unwrap().unwrap()
}

fn target(range: &Range, port: u16) -> SocketAddr {
    (range.host("server").unwrap().ipv4().unwrap(), port).into()
}

fn talk(range: &Range, port: u16, program: &Program) {
    let client = range.host("client").unwrap();
    let target = target(range, port);
    let outcome = client.enter(|| run(program, target)).unwrap().unwrap();
    assert_eq!(outcome.error, None);
}

fn upload(bytes: u64) -> Program {
    Program::Upload(Upload {
        bytes,
        ..Upload::default()
    })
}

/// Some seconds of short exchanges.
fn exchanges() -> Program {
    Program::RequestResponse(RequestResponse {
        requests: 300,
        response_bytes: 4_000,
        pause_ms: 10.0,
        ..RequestResponse::default()
    })
}

fn frames(bytes: &[u8]) -> Vec<Frame> {
    let input = std::io::Cursor::new(bytes.to_vec());
    let mut capture = CaptureFile::from_reader("capture", input).unwrap();
    let frames = capture.frames().unwrap();
    assert_eq!(capture.damage(), None);
    frames
}

/// What tcpdump has of a filter in a capture of everything that lost nothing.
fn truth_of(path: &Path, filter: &str) -> Vec<Frame> {
    let output = Command::new("tcpdump")
        .args(["-r", path.to_str().unwrap(), "-w", "-", filter])
        .stderr(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success());
    frames(&output.stdout)
}

/// A time of the API in nanoseconds since 1970.
fn time_ns(view: &Value) -> i64 {
    let time: jiff::Timestamp = view.as_str().unwrap().parse().unwrap();
    i64::try_from(time.as_nanosecond()).unwrap()
}

fn ask(daemon: &Daemon<'_>, filter: &str, lookback: u32) -> Value {
    let body = json!({"filter": filter, "duration": 120, "lookback": lookback});
    let capture = daemon.post("/api/v1/captures", &body);
    assert_eq!(capture["state"], "running", "{capture}");
    capture
}

/// The capture as it ended, whole, and its file.
fn stop(daemon: &Daemon<'_>, capture: &Value) -> (Value, Vec<Frame>) {
    let id = capture["id"].as_str().unwrap();
    let view = daemon.post(&format!("/api/v1/captures/{id}/stop"), &json!({}));
    assert_eq!(view["state"], "complete", "{view}");
    let file = daemon.curl(&[], view["file"].as_str().unwrap());
    (view, frames(&file))
}

/// A fault some seconds before the request, with traffic of the same filter before it, across the
/// request and after it, is in the capture: every packet once, as tcpdump has them.
fn check_filter(port: u16, arguments: &[&str], datagrams: u32) {
    let range = build(LOSSY);
    let client = range.host("client").unwrap();
    let folder = Folder::new("lookback");
    let set = [
        "--set",
        "lookback_feed=filter",
        "--set",
        "lookback_filter=port 8080",
    ];
    let arguments = [&["-i", "to-edge"], &set[..], arguments].concat();
    let daemon = Daemon::start(client, port, &arguments);
    let servers = [PORT, OTHER_PORT].map(|port| serve(&range, port));
    let tcpdump = client.capture("to-edge", &folder.0.join("all.pcap"), 0);
    impair(&range, 0.0);
    if datagrams > 0 {
        let stream = UdpStream {
            threads: 1,
            datagrams,
            bytes: 400,
            rate_per_s: 6_000.0,
        };
        talk(&range, PORT, &Program::UdpStream(stream));
    }
    impair(&range, 0.02);
    talk(&range, PORT, &upload(1_000_000));
    talk(&range, OTHER_PORT, &upload(100_000));
    let fault = Instant::now();
    impair(&range, 0.0);
    let (capture, other) = std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(BEFORE.saturating_sub(Duration::from_secs(1)));
            talk(&range, PORT, &exchanges());
        });
        scope.spawn(|| talk(&range, OTHER_PORT, &exchanges()));
        std::thread::sleep(BEFORE.saturating_sub(fault.elapsed()));
        let capture = ask(&daemon, "port 8080", 60);
        (capture, ask(&daemon, "tcp port 8081", 60))
    });
    talk(&range, PORT, &upload(300_000));
    await_quiet(&daemon);
    let (view, found) = stop(&daemon, &capture);
    let (other, not_fed) = stop(&daemon, &other);
    let path = finish(tcpdump.unwrap());
    let truth = truth_of(&path, "port 8080");
    let past = &view["lookback"];
    let seam_ns = time_ns(&past["hops"][0]["until"]);
    let before = truth.iter().filter(|it| it.time_ns < seam_ns).count();
    let near = |it: &&Frame| (it.time_ns - seam_ns).abs() < 100_000_000;
    println!(
        "{} packets in the file, tcpdump has {}; {} of before the request, tcpdump has {before}; \
         {} within 100 ms of the seam; {past}",
        found.len(),
        truth.len(),
        past["packets"],
        truth.iter().filter(near).count()
    );
    assert!(truth.iter().filter(near).count() > 10);
    assert_eq!(marks(&found), marks(&truth));
    let ring = daemon.get("/api/v1/status")["kernel"]["lookback"].clone();
    println!("{ring}");
    let has_file = ring["place"] == "file";
    assert_eq!(has_file, datagrams > 0);
    assert!(
        !has_file || ring["used_bytes"].as_u64().unwrap() > 10 << 20,
        "{ring}"
    );
    assert_eq!(ring["evicted"], 0, "{ring}");
    let past_packets = past["packets"].as_u64().unwrap();
    assert!(past_packets.abs_diff(before as u64) <= 20, "{past}");
    assert_eq!(past["feed"], "filter");
    assert_eq!(past["filter"], "port 8080");
    assert_eq!(past["hops"][0]["interface"], "to-edge");
    assert_eq!(past["hops"][0]["packets"], past_packets);
    assert_eq!(past["hops"][0]["spans"][0]["flows_per_65536"], 65_536);
    assert!(found.iter().all(|frame| frame.bytes.len() <= HEADERS_MAX));
    // What the standing filter does not select is there before only after it turned sick: no flow
    // is from its beginning on.
    let live_ns = time_ns(&other["lookback"]["hops"][0]["until"]) - 100_000_000;
    let early = not_fed.iter().filter(|it| it.time_ns < live_ns);
    assert!(early.clone().all(|it| it.bytes[TRANSPORT + 13] & 0x02 == 0));
    drop(servers);
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn a_fault_before_the_request_is_in_the_capture_packet_by_packet() {
    check_filter(7431, &[], 0);
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn a_ring_in_a_file_gives_the_same() {
    let folder = Folder::new("lookback-file");
    let directory = format!("lookback_directory={}", folder.0.display());
    // With payload, so that 8 MiB in memory do not hold them.
    let sets = ["lookback_size_mib=40", &directory, "lookback_snaplen=512"];
    let arguments = sets.map(|set| ["--set", set]).concat();
    check_filter(7432, &arguments, 30_000);
    assert_eq!(std::fs::read_dir(&folder.0).unwrap().count(), 0);
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn a_flow_that_turned_sick_before_the_request_is_there_from_then_on() {
    let range = build(LOSSY);
    let client = range.host("client").unwrap();
    let folder = Folder::new("lookback-promoted");
    let daemon = Daemon::start(client, 7433, &["-i", "to-edge"]);
    let server = serve(&range, PORT);
    let tcpdump = client.capture("to-edge", &folder.0.join("all.pcap"), 0);
    impair(&range, 0.02);
    talk(&range, PORT, &upload(1_000_000));
    std::thread::sleep(BEFORE);
    let capture = ask(&daemon, "tcp port 8080", 30);
    let (view, found) = stop(&daemon, &capture);
    let truth = truth_of(&finish(tcpdump.unwrap()), "tcp port 8080");
    let sick_ns = first_retransmission_ns(&truth, PORT);
    let since = |from_ns: i64| marks(truth.iter().filter(|it| it.time_ns >= from_ns));
    let (least, most) = (since(sick_ns + ORDER_NS), since(sick_ns - ORDER_NS));
    println!(
        "{} packets in the file; tcpdump has {} since 1 ms after the first retransmission, {} \
         since 1 ms before it, {} in all; {}",
        found.len(),
        least.values().sum::<u32>(),
        most.values().sum::<u32>(),
        truth.len(),
        view["lookback"]
    );
    assert!(holds(&marks(&found), &least), "some packets are missing");
    assert!(holds(&most, &marks(&found)), "some packets are too many");
    assert!(least.values().sum::<u32>() > 50);
    assert_eq!(view["lookback"]["feed"], "promoted");
    assert_eq!(view["lookback"]["packets"], found.len());
    drop(server);
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn a_round_trip_that_steps_up_is_there_from_its_fourth_sample_on() {
    let range = build(LOSSY);
    let client = range.host("client").unwrap();
    // No probe of the tail: it would be a retransmission, which promotes as well.
    client
        .set_sysctl("net.ipv4.tcp_early_retrans", "0")
        .unwrap();
    let daemon = Daemon::start(client, 7437, &["-i", "to-edge"]);
    let server = serve(&range, PORT);
    let delay = |ms| {
        let link = range.link("wan").unwrap();
        for (direction, ms) in Direction::BOTH.into_iter().zip([ms, 5.0]) {
            link.set(direction, Impairment::delay(ms)).unwrap();
        }
    };
    delay(25.0);
    let begun = Instant::now();
    let stepped = std::thread::scope(|scope| {
        let program = Program::RequestResponse(RequestResponse {
            requests: 60,
            response_bytes: 500,
            pause_ms: 10.0,
            ..RequestResponse::default()
        });
        let range = &range;
        let talking = scope.spawn(move || talk(range, PORT, &program));
        std::thread::sleep(Duration::from_secs(1));
        delay(105.0);
        let stepped = begun.elapsed();
        talking.join().unwrap();
        stepped
    });
    let flow = daemon.get(&format!("/api/v1/flows?port={PORT}"))["flows"][0].clone();
    for side in ["client_sent", "server_sent"] {
        assert_eq!(flow[side]["retransmitted_packets"], 0, "{flow}");
        assert_eq!(flow[side]["out_of_sequence_packets"], 0, "{flow}");
    }
    let (view, found) = stop(&daemon, &ask(&daemon, "tcp port 8080", 30));
    println!(
        "stepped after {} ms; {} packets from then on; {}",
        stepped.as_millis(),
        found.len(),
        view["lookback"]
    );
    assert_eq!(daemon.counters().of(Counter::Promoted), 1);
    assert!(found.len() > 20);
    drop(server);
}

/// A file system of a few MiB in memory.
struct SmallDisk(Folder);

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0.0).status();
    }
}

/// What `phalanx capture --lookback` tells, and its file.
fn capture_by_command(daemon: &Daemon<'_>, host: &Host, file: &Path) -> (String, Vec<Frame>) {
    let output = host
        .command(daemon::BINARY)
        .unwrap()
        .args(["capture", "--lookback", "30s", "--duration", "1s", "-w"])
        .arg(file)
        .args(["--api", &daemon.api(), "tcp", "port", "8080"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let told = String::from_utf8(output.stderr).unwrap();
    (told, frames(&std::fs::read(file).unwrap()))
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn a_disk_without_room_is_told_and_all_lies_in_memory() {
    let range = build(PLAIN);
    let client = range.host("client").unwrap();
    let disk = SmallDisk(Folder::new("lookback-disk"));
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=4m", "phalanx-test"])
        .arg(&disk.0.0)
        .status();
    assert!(mounted.unwrap().success());
    let directory = format!("lookback_directory={}", disk.0.0.display());
    let mut command = daemon::up(client);
    command.args(["--listen", "127.0.0.1:7438", "-i", "to-server"]);
    command.args(["--set", "lookback_feed=all", "--set", &directory]);
    let mut daemon = Daemon::spawn(client, 7438, command);
    let line = daemon.await_line("lookback_directory", daemon::START_TIMEOUT);
    println!("{line}");
    assert!(
        line.contains("ERROR") && line.contains("No space left"),
        "{line}"
    );
    assert!(line.contains("kept in memory"), "{line}");
    daemon.await_line("watching;", daemon::START_TIMEOUT);
    let service = serve(&range, PORT);
    talk(&range, PORT, &exchanges());
    let (view, found) = stop(&daemon, &ask(&daemon, "tcp port 8080", 30));
    assert_eq!(view["lookback"]["packets"], found.len());
    assert!(found.len() > 600);
    let ring = daemon.get("/api/v1/status")["kernel"]["lookback"].clone();
    assert_eq!(ring["place"], "memory");
    assert_eq!(ring["size_bytes"], 64 << 20);
    let (told, same) = capture_by_command(&daemon, client, &disk.0.0.join("command.pcapng"));
    println!("{told}");
    assert!(told.contains(&format!("{} packets of before the request", found.len())));
    assert_eq!(marks(&same), marks(&found));
    assert!(daemon.is_alive());
    drop(service);
}

/// CPU time of a thread in seconds, in ticks of a hundredth.
fn cpu_s(daemon: &Daemon<'_>, thread: &str) -> f64 {
    let mut ticks = 0;
    for task in std::fs::read_dir(format!("/proc/{}/task", daemon.id())).unwrap() {
        let text = std::fs::read_to_string(task.unwrap().path().join("stat")).unwrap();
        let (name, rest) = text.rsplit_once(')').unwrap();
        if !name.ends_with(&format!("({thread}")) {
            continue;
        }
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        ticks += fields[11].parse::<u32>().unwrap() + fields[12].parse::<u32>().unwrap();
    }
    f64::from(ticks) / 100.0
}

const CPU_PERCENT: u32 = 5;
const MEASURED: Duration = Duration::from_secs(20);

/// What part of a CPU the loop takes under a flood from many sources, and what the status says
/// then.
fn loop_share(feed: &str, port: u16) -> (f64, f64, Value) {
    const RATE: f64 = 100_000.0;
    let range = build(PLAIN);
    let (client, server) = (range.host("client").unwrap(), range.host("server").unwrap());
    let set = format!("lookback_feed={feed}");
    let percent = format!("lookback_cpu_percent={CPU_PERCENT}");
    let arguments = ["-i", "to-client", "--set", &set, "--set", &percent];
    let daemon = Daemon::start(server, port, &arguments);
    let flood = Flood {
        kind: FloodKind::Udp,
        target: SocketAddrV4::new(server.ipv4().unwrap(), PORT),
        source_first: Ipv4Addr::new(198, 18, 0, 1),
        sources: 20_000,
        packets: (RATE * (MEASURED.as_secs_f64() + 8.0)) as u64,
        rate_per_s: RATE,
    };
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| client.enter(|| flood.run()).unwrap().unwrap());
        std::thread::sleep(Duration::from_secs(1));
        let (begun, before) = (Instant::now(), cpu_s(&daemon, "loop"));
        std::thread::sleep(MEASURED);
        let share = (cpu_s(&daemon, "loop") - before) / begun.elapsed().as_secs_f64();
        let status = daemon.get("/api/v1/status")["kernel"]["lookback"].clone();
        let outcome = sender.join().unwrap();
        let rate = outcome.packets as f64 / outcome.seconds;
        daemon.counters().check(daemon.pending_packets());
        (share, rate, status)
    })
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn recording_all_flows_of_a_flood_keeps_within_its_share() {
    let (without, _, _) = loop_share("off", 7434);
    let (with, rate, status) = loop_share("all", 7435);
    println!(
        "the loop takes {:.2}% of a CPU at {rate:.0} packets a second of one flow each; {:.2}% \
         without looking back; {status}",
        with * 100.0,
        without * 100.0
    );
    let most = 1.2 * f64::from(CPU_PERCENT) / 100.0;
    assert!(
        with - without <= most,
        "looking back takes more than {most}"
    );
    let count = |name: &str| status[name].as_u64().unwrap();
    let (kept, sampled_out) = (count("kept"), count("sampled_out"));
    // Or else the flood was none.
    assert!(sampled_out * 10 > kept + sampled_out, "{status}");
    assert!(status["kept"].as_u64().unwrap() > 10_000, "{status}");
}

const STREAMS: usize = 100;
/// Between the time that is told of a change of the threshold and the change, on a busy machine.
const EDGE_NS: i64 = 100_000_000;

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn sampled_flows_are_whole() {
    const SECONDS: u32 = 14;
    const RATE: f64 = 250.0;
    let range = build(PLAIN);
    let (client, server) = (range.host("client").unwrap(), range.host("server").unwrap());
    let folder = Folder::new("lookback-sampled");
    let arguments = ["-i", "to-server", "--set", "lookback_feed=all"];
    let arguments = [&arguments[..], &["--set", "lookback_cpu_percent=3"]].concat();
    let daemon = Daemon::start(client, 7436, &arguments);
    let service = serve(&range, PORT);
    let tcpdump = client.capture("to-server", &folder.0.join("all.pcap"), 64);
    let stream = Program::UdpStream(UdpStream {
        threads: 1,
        datagrams: (RATE * f64::from(SECONDS)) as u32,
        bytes: 64,
        rate_per_s: RATE,
    });
    let address = target(&range, PORT);
    std::thread::scope(|scope| {
        for _ in 0..STREAMS {
            scope.spawn(|| client.enter(|| run(&stream, address)).unwrap().unwrap());
        }
    });
    await_quiet(&daemon);
    let capture = ask(&daemon, "udp port 8080", 30);
    let (view, found) = stop(&daemon, &capture);
    let truth = truth_of(&finish(tcpdump.unwrap()), "udp port 8080");
    drop(service);
    let _ = server;
    check_spans(&view["lookback"], &found, &truth);
    let counters = await_quiet(&daemon);
    let outcomes = [
        Counter::Delivered,
        Counter::DroppedRingFull,
        Counter::SampledOut,
    ];
    let sum = outcomes.map(|it| counters.of(it)).iter().sum::<u64>();
    assert_eq!(counters.of(Counter::Matched), sum);
    await_that("the metrics tell of the sampling", || {
        let metric = "phalanx_lookback_packets_total";
        daemon.metric(metric, &["outcome=\"sampled_out\""]) > 0
    });
}

/// By which number a packet's flow is sampled.
fn sample(frame: &Frame) -> u64 {
    let bytes = frame.bytes.as_slice();
    let headers = packet::parse(bytes, LinkKind::Ethernet, frame.wire_length).unwrap();
    let mut key = FlowKey::default();
    let _ = watch::write_key(&headers, 0, &mut key);
    u64::from(watch::sample_of(&key))
}

/// Within each span of one threshold each flow that lies below is there with all of its packets,
/// and but for its edges no other is.
fn check_spans(covered: &Value, found: &[Frame], truth: &[Frame]) {
    let (mut whole, mut sampled_spans) = (0, 0);
    for span in covered["hops"][0]["spans"].as_array().unwrap() {
        // The times of tcpdump and ours are microseconds apart.
        let from_ns = time_ns(&span["from"]) + ORDER_NS;
        let until_ns = time_ns(&span["until"]) - ORDER_NS;
        let part = span["flows_per_65536"].as_u64().unwrap();
        let within = |frame: &Frame, margin_ns: i64| {
            (from_ns + margin_ns..until_ns - margin_ns).contains(&frame.time_ns)
        };
        let due = truth.iter().filter(|it| within(it, 0) && sample(it) < part);
        let due = marks(due);
        let have = marks(found.iter().filter(|it| within(it, -ORDER_NS)));
        assert!(holds(&have, &due), "a flow of {span} has lost packets");
        let extra = found
            .iter()
            .filter(|it| within(it, EDGE_NS) && sample(it) >= part);
        assert_eq!(
            extra.count(),
            0,
            "{span} has packets of flows that are not sampled"
        );
        let flows: BTreeSet<u64> = truth
            .iter()
            .filter(|it| within(it, 0))
            .map(sample)
            .collect();
        let sampled = flows.iter().filter(|sample| **sample < part).count();
        let packets = due.values().sum::<u32>();
        whole += packets;
        println!(
            "{} ms: {sampled} of {} flows ({part} of 65536); {packets} packets, none missing",
            (until_ns - from_ns) / 1_000_000,
            flows.len(),
        );
        sampled_spans += u32::from(part < 65_536 && sampled > 0 && packets > 100);
    }
    println!(
        "{whole} packets of whole flows; {} found, {} in all",
        found.len(),
        truth.len()
    );
    assert!(sampled_spans > 0, "nothing was sampled: {covered}");
    assert!(found.len() < truth.len());
}
