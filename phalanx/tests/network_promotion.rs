//! Promotion from end to end: a connection that loses packets on its path is recorded from its
//! first retransmission on, and what is served of it is what tcpdump has beside it.
//! Run by `cargo xtask test --ring network`.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[expect(dead_code, reason = "each test file uses its part")]
#[path = "network/daemon.rs"]
mod daemon;
#[path = "network/folder.rs"]
mod folder;
#[path = "network/mark.rs"]
mod mark;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use daemon::{Daemon, await_quiet, await_that};
use folder::Folder;
use mark::{HEADERS_MAX, Mark, ORDER_NS, finish, first_retransmission_ns, holds, is_tcp, marks};
use phalanx::capture_file::{CaptureFile, Frame};
use phalanx_common::abi::Counter;
use phalanx_range::traffic::{Program, Server, Upload, run};
use phalanx_range::{Direction, Impairment, Range, Topology};
use serde_json::{Value, json};

/// A client on a veth pair, and a server behind an emulated link.
const TOPOLOGY: &str = "
nodes: [{ name: client }, { name: edge, kind: router }, { name: server }]
links:
  - { a: { node: client }, b: { node: edge } }
  - name: wan
    kind: emulated
    a: { node: edge, interface: wan0 }
    b: { node: server, interface: wan1 }
";

const SICK_PORT: u16 = 8080;
const HEALTHY_PORT: u16 = 8081;

fn build() -> Range {
    Range::build(&Topology::from_yaml_str(TOPOLOGY).unwrap()).unwrap()
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

fn upload(range: &Range, port: u16, bytes: u64) {
    let target: SocketAddr = (range.host("server").unwrap().ipv4().unwrap(), port).into();
    let program = Program::Upload(Upload {
        bytes,
        ..Upload::default()
    });
    let client = range.host("client").unwrap();
    let outcome = client.enter(|| run(&program, target)).unwrap().unwrap();
    assert_eq!(outcome.error, None);
}

fn serve(range: &Range, port: u16) -> Server {
    let server = range.host("server").unwrap();
    server.enter(|| Server::start(port)).unwrap().unwrap()
}

fn frames(bytes: &[u8]) -> (Vec<String>, Vec<Frame>) {
    let input = std::io::Cursor::new(bytes.to_vec());
    let mut capture = CaptureFile::from_reader("capture", input).unwrap();
    let frames = capture.frames().unwrap();
    assert_eq!(capture.damage(), None);
    let names = capture.interfaces().iter().map(|it| it.name.clone());
    (names.collect(), frames)
}

/// What tcpdump has of a port in a capture of everything that lost nothing.
fn truth_of(path: &Path, port: u16) -> Vec<Frame> {
    let output = Command::new("tcpdump")
        .args(["-r", path.to_str().unwrap(), "-w", "-"])
        .arg(format!("tcp port {port}"))
        .stderr(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success());
    frames(&output.stdout).1
}

/// The only flow of a port, once it has closed.
fn closed_flow(daemon: &Daemon<'_>, port: u16) -> Value {
    let mut flow = Value::Null;
    await_that("the flow is closed", || {
        let page = daemon.get(&format!("/api/v1/flows?port={port}"));
        let flows = page["flows"].as_array().unwrap().clone();
        assert!(flows.len() < 2, "{page}");
        flow = flows.into_iter().next().unwrap_or_default();
        flow["state"] == "closed"
    });
    flow
}

fn packets(daemon: &Daemon<'_>, flow: &Value) -> Vec<u8> {
    let id = flow["id"].as_str().unwrap();
    daemon.curl(&[], &format!("/api/v1/flows/{id}/packets"))
}

/// Compares what was kept of the sick flow with what tcpdump has of it.
fn compare(file: &[u8], truth: &[Frame]) -> usize {
    let (names, kept) = frames(file);
    assert_eq!(names, ["to-edge"]);
    assert!(kept.iter().chain(truth).all(is_tcp), "IPv4 and TCP");
    let sick_ns = first_retransmission_ns(truth, SICK_PORT);
    let since = |from_ns: i64| marks(truth.iter().filter(|it| it.time_ns >= from_ns));
    let (least, most) = (since(sick_ns + ORDER_NS), since(sick_ns - ORDER_NS));
    let found = marks(&kept);
    let count = |marks: &BTreeMap<Mark, u32>| marks.values().sum::<u32>();
    println!(
        "{} packets kept; tcpdump has {} after the first retransmission ({} since 1 ms after it, \
         {} since 1 ms before it), {} in all",
        kept.len(),
        count(&since(sick_ns + 1)),
        count(&least),
        count(&most),
        truth.len()
    );
    assert!(holds(&found, &least), "some packets are missing");
    assert!(holds(&most, &found), "some packets are too many");
    assert!(count(&least) > 50 && truth.len() > count(&most) as usize);
    assert!(kept.iter().all(|frame| frame.bytes.len() <= HEADERS_MAX));
    assert!(String::from_utf8_lossy(file).contains("while it was promoted"));
    kept.len()
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn a_flow_that_loses_packets_is_recorded_and_no_capture_gets_it() {
    let range = build();
    let client = range.host("client").unwrap();
    let folder = Folder::new("promotion");
    let daemon = Daemon::start(client, 7421, &["-i", "to-edge"]);
    let servers = [SICK_PORT, HEALTHY_PORT].map(|port| serve(&range, port));
    let tcpdump = client.capture("to-edge", &folder.0.join("all.pcap"), 0);
    let body = json!({"filter": format!("tcp port {HEALTHY_PORT}"), "duration": 120});
    let capture = daemon.post("/api/v1/captures", &body);
    assert_eq!(capture["state"], "running", "{capture}");
    impair(&range, 0.0);
    upload(&range, HEALTHY_PORT, 500_000);
    impair(&range, 0.02);
    upload(&range, SICK_PORT, 1_000_000);
    let sick = closed_flow(&daemon, SICK_PORT);
    let healthy = closed_flow(&daemon, HEALTHY_PORT);
    let path = finish(tcpdump.unwrap());
    println!("{sick}");

    let kept = compare(&packets(&daemon, &sick), &truth_of(&path, SICK_PORT));
    assert_eq!(frames(&packets(&daemon, &healthy)).1, []);

    let id = capture["id"].as_str().unwrap();
    let view = daemon.post(&format!("/api/v1/captures/{id}/stop"), &json!({}));
    assert_eq!(view["state"], "complete", "{view}");
    assert_eq!(view["filtered_out"], 0, "{view}");
    let file = daemon.curl(&[], view["file"].as_str().unwrap());
    let truth = truth_of(&path, HEALTHY_PORT);
    assert_eq!(marks(&frames(&file).1), marks(&truth));

    let counters = await_quiet(&daemon);
    let of = |counter| counters.of(counter);
    assert_eq!(of(Counter::Promoted), 1);
    let outcomes = [
        Counter::Delivered,
        Counter::DroppedRingFull,
        Counter::SampledOut,
    ];
    assert_eq!(of(Counter::Matched), outcomes.map(of).iter().sum::<u64>());
    assert_eq!(of(Counter::Matched), (kept + truth.len()) as u64);
    let metric = "phalanx_daemon_promoted_packets_total";
    await_that("the metrics tell of them", || {
        daemon.metric(metric, &["outcome=\"kept\""]) == kept as u64
    });
    assert_eq!(daemon.metric("phalanx_kernel_flows_promoted_total", &[]), 1);
    drop(servers);
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn no_more_flows_are_promoted_than_may_be() {
    const FLOWS: usize = 12;
    let range = build();
    let client = range.host("client").unwrap();
    let limit = ["--set", "promotions_per_second_max=1"];
    let arguments = [&["-i", "to-edge"], &limit[..]].concat();
    let daemon = Daemon::start(client, 7422, &arguments);
    let server = serve(&range, SICK_PORT);
    impair(&range, 0.05);
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..FLOWS {
            scope.spawn(|| upload(&range, SICK_PORT, 200_000));
        }
    });
    let counters = await_quiet(&daemon);
    // One in each window of 1.07 s, of which one more than fit may have been touched.
    let allowed = started.elapsed().as_nanos() as u64 / phalanx_common::watch::WINDOW_NS + 2;
    let (promoted, limited) = (
        counters.of(Counter::Promoted),
        counters.of(Counter::PromotionsLimited),
    );
    println!("{promoted} of {FLOWS} flows promoted, {allowed} may be; limited {limited} times");
    assert!((1..=allowed).contains(&promoted));
    assert!(limited > 0);
    await_that("the metrics tell of the limit", || {
        daemon.metric("phalanx_kernel_promotions_limited_total", &[]) == limited
    });
    drop(server);
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn nothing_is_promoted_where_it_is_off() {
    let range = build();
    let client = range.host("client").unwrap();
    let daemon = Daemon::start(client, 7423, &["-i", "to-edge", "--set", "promotion=false"]);
    let server = serve(&range, SICK_PORT);
    impair(&range, 0.05);
    upload(&range, SICK_PORT, 300_000);
    let flow = closed_flow(&daemon, SICK_PORT);
    assert!(
        flow["client_sent"]["retransmitted_packets"].as_u64() > Some(0),
        "{flow}"
    );
    assert_eq!(frames(&packets(&daemon, &flow)).1, []);
    std::thread::sleep(Duration::from_millis(100));
    let counters = await_quiet(&daemon);
    assert_eq!(counters.of(Counter::Matched), 0);
    assert_eq!(counters.of(Counter::Promoted), 0);
    drop(server);
}
