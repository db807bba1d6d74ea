//! Captures of the real daemon from end to end, compared with tcpdump on the same interface.
//! Run by `cargo xtask test --ring network`.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[expect(dead_code, reason = "each test file uses its part")]
#[path = "network/daemon.rs"]
mod daemon;
#[path = "network/folder.rs"]
mod folder;

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use daemon::{BINARY, Daemon, await_that};
use folder::Folder;
use phalanx::capture_file::{CaptureFile, Frame};
use phalanx_range::range::Capture;
use phalanx_range::traffic::{Program, RequestResponse, Server, Upload, run};
use phalanx_range::{Host, Range, Topology};
use serde_json::{Value, json};

const PLAIN: &str = "
nodes: [{ name: client }, { name: server }]
links: [{ a: { node: client }, b: { node: server }, offload: { tso: true, gso: true } }]
";

const ETHERNET: usize = 14;
/// Ethernet, IPv4 without options, TCP with all its options.
const HEADERS_MAX: usize = ETHERNET + 20 + 60;

fn range() -> Range {
    Range::build(&Topology::from_yaml_str(PLAIN).unwrap()).unwrap()
}

/// A file's frames.
fn frames(bytes: &[u8]) -> (Vec<String>, Vec<Frame>) {
    let input = std::io::Cursor::new(bytes.to_vec());
    let mut capture = CaptureFile::from_reader("capture", input).unwrap();
    let frames = capture.frames().unwrap();
    assert_eq!(capture.damage(), None);
    let names = capture.interfaces().iter().map(|it| it.name.clone());
    (names.collect(), frames)
}

/// What tells packets apart: IP id, sequence, acknowledgement, flags, and the length on the wire.
type Mark = (u16, u32, u32, u8, u32);

fn marks(frames: &[Frame]) -> BTreeMap<Mark, u32> {
    let mut marks = BTreeMap::new();
    for frame in frames {
        let bytes = &frame.bytes;
        let half = |at: usize| u16::from_be_bytes(bytes[at..at + 2].try_into().unwrap());
        let word = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
        assert_eq!(
            (bytes[ETHERNET], bytes[ETHERNET + 9]),
            (0x45, 6),
            "IPv4 and TCP"
        );
        let tcp = ETHERNET + 20;
        let mark = (
            half(ETHERNET + 4),
            word(tcp + 4),
            word(tcp + 8),
            bytes[tcp + 13],
            frame.wire_length,
        );
        *marks.entry(mark).or_default() += 1;
    }
    marks
}

/// tcpdump's choice from a capture of everything, and that capture's losses: none.
fn chosen_by_tcpdump(capture: Capture, filter: &str) -> Vec<Frame> {
    let path = capture.path().to_owned();
    let counters = capture.finish().unwrap();
    assert_eq!(counters.dropped, 0, "{counters:?}");
    let output = Command::new("tcpdump")
        .args(["-r", path.to_str().unwrap(), "-w", "-", filter])
        .stderr(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success());
    frames(&output.stdout).1
}

fn requests(count: u32) -> Program {
    Program::RequestResponse(RequestResponse {
        requests: count,
        response_bytes: 4_000,
        ..RequestResponse::default()
    })
}

fn bulk(bytes: u64) -> Program {
    Program::Upload(Upload {
        bytes,
        ..Upload::default()
    })
}

/// Traffic that the filter of the tests wants, and some that it does not.
fn traffic(client: &Host, server: &Host) {
    let wanted = server.enter(|| Server::start(8080)).unwrap().unwrap();
    let other = server.enter(|| Server::start(8081)).unwrap().unwrap();
    let address = server.ipv4().unwrap();
    for (program, port) in [
        (requests(50), wanted.port()),
        (requests(50), other.port()),
        (bulk(3_000_000), wanted.port()),
        (bulk(1_000_000), other.port()),
    ] {
        let target: SocketAddr = (address, port).into();
        let outcome = client.enter(|| run(&program, target)).unwrap().unwrap();
        assert_eq!(outcome.error, None);
    }
}

/// Compares a capture's file with what tcpdump chose.
fn compare(file: &[u8], truth: &[Frame], interface: &str) {
    let (names, frames) = frames(file);
    assert_eq!(names, [interface]);
    let comments = String::from_utf8_lossy(file)
        .matches("GSO super-segment: ")
        .count();
    let supers = frames.iter().filter(|it| it.wire_length > 1_514).count();
    println!(
        "{} packets, tcpdump has {}, {supers} of them super-segments, {comments} comments",
        frames.len(),
        truth.len()
    );
    assert!(truth.len() > 200);
    assert_eq!(marks(&frames), marks(truth));
    assert!(supers > 0 && comments == supers);
    // Headers only: no payload that starts with the order of a request is there.
    let is_short = |frame: &Frame| frame.bytes.len() <= HEADERS_MAX;
    assert!(frames.iter().all(is_short));
    assert!(
        frames
            .windows(2)
            .all(|pair| pair[0].time_ns <= pair[1].time_ns + 1_000_000)
    );
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn a_scoped_capture_has_the_packets_of_tcpdump() {
    let range = range();
    let (client, server) = (range.host("client").unwrap(), range.host("server").unwrap());
    let folder = Folder::new("capture");
    let daemon = Daemon::start(client, 7411, &["-i", "to-server"]);
    let filter = format!("tcp port 8080 and host {}", server.ipv4().unwrap());

    let tcpdump = client
        .capture("to-server", &folder.0.join("api.pcap"), 0)
        .unwrap();
    let body = json!({"filter": filter, "duration": 120, "interfaces": ["to-server"]});
    let capture = daemon.post("/api/v1/captures", &body);
    assert_eq!(capture["state"], "running", "{capture}");
    traffic(client, server);
    let truth = chosen_by_tcpdump(tcpdump, &filter);
    let path = format!("/api/v1/captures/{}", capture["id"].as_str().unwrap());
    let capture = daemon.post(&format!("{path}/stop"), &json!({}));
    assert_eq!(capture["state"], "complete", "{capture}");
    assert_eq!(capture["packets"], truth.len(), "{capture}");
    let file = daemon.curl(&[], capture["file"].as_str().unwrap());
    assert_eq!(capture["bytes"], file.len());
    compare(&file, &truth, "to-server");

    let tcpdump = client
        .capture("to-server", &folder.0.join("cli.pcap"), 0)
        .unwrap();
    let file = folder.0.join("cli.pcapng");
    let mut shell = shell_capture(client, &daemon, &filter, &file);
    await_that("the capture runs", || {
        assert_eq!(shell.try_wait().unwrap(), None, "the shell's capture ended");
        running(&daemon).is_some()
    });
    traffic(client, server);
    let truth = chosen_by_tcpdump(tcpdump, &filter);
    let path = format!("/api/v1/captures/{}/stop", running(&daemon).unwrap());
    daemon.post(&path, &json!({}));
    let output = shell.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    compare(&std::fs::read(&file).unwrap(), &truth, "to-server");
}

fn shell_capture(
    host: &Host,
    daemon: &Daemon<'_>,
    filter: &str,
    file: &Path,
) -> std::process::Child {
    host.command(BINARY)
        .unwrap()
        .args(["capture", "-w", file.to_str().unwrap(), "--duration", "60s"])
        .args(["--api", &format!("http://{}", daemon.api()), filter])
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap()
}

/// The id of the capture that runs.
fn running(daemon: &Daemon<'_>) -> Option<String> {
    let list = daemon.get("/api/v1/captures");
    let items = list["captures"]
        .as_array()
        .unwrap_or_else(|| panic!("{list}"));
    let found = items.iter().find(|capture| capture["state"] == "running");
    found.map(|capture| capture["id"].as_str().unwrap().to_owned())
}

fn await_end(daemon: &Daemon<'_>, capture: &Value) -> Value {
    let path = format!("/api/v1/captures/{}", capture["id"].as_str().unwrap());
    let mut view = Value::Null;
    await_that("the capture ends", || {
        view = daemon.get(&path);
        view["state"] != "running"
    });
    view
}

fn losses(view: &Value, kind: &str) -> Vec<String> {
    let losses = view["losses"].as_array().unwrap().iter();
    losses
        .filter(|loss| loss["kind"] == kind)
        .map(|loss| loss["detail"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn a_capture_whose_interface_vanishes_is_partial() {
    let range = range();
    let (client, server) = (range.host("client").unwrap(), range.host("server").unwrap());
    let mut daemon = Daemon::start(client, 7412, &["-i", "to-server", "-i", "lo"]);
    let body = json!({"filter": "tcp", "duration": 120, "interfaces": ["to-server"]});
    let capture = daemon.post("/api/v1/captures", &body);
    assert_eq!(capture["state"], "running", "{capture}");
    let service = server.enter(|| Server::start(8080)).unwrap().unwrap();
    let target: SocketAddr = (server.ipv4().unwrap(), service.port()).into();
    client
        .enter(|| run(&requests(20), target))
        .unwrap()
        .unwrap();
    client.exec(&["ip", "link", "delete", "to-server"]).unwrap();
    let view = await_end(&daemon, &capture);
    println!("{view}");
    assert_eq!(view["state"], "partial");
    assert_eq!(view["end_reason"], "interfaces_vanished");
    assert_eq!(losses(&view, "interface_vanished"), ["to-server vanished"]);
    let file = daemon.curl(&[], view["file"].as_str().unwrap());
    let (_, frames) = frames(&file);
    assert!(frames.len() > 40);
    assert_eq!(view["packets"], frames.len());
    assert!(daemon.is_alive());
}

/// A small file system in memory; gone with the value.
struct SmallDisk(Folder);

impl SmallDisk {
    fn new(size: &str) -> Self {
        let folder = Folder::new("disk");
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "phalanx-test"])
            .arg(&folder.0)
            .status();
        assert!(status.unwrap().success());
        Self(folder)
    }

    /// Leaves no room.
    fn fill(&self) {
        let mut file = std::fs::File::create(self.0.0.join("filler")).unwrap();
        let chunk = vec![0; 1 << 20];
        while file.write_all(&chunk).is_ok() {}
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0.0).status();
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn a_full_disk_ends_the_capture_and_not_the_daemon() {
    let range = range();
    let (client, server) = (range.host("client").unwrap(), range.host("server").unwrap());
    // What captures leave free is 64 MiB.
    let disk = SmallDisk::new("72m");
    let directory = format!("capture_directory={}", disk.0.0.display());
    let mut daemon = Daemon::start(client, 7413, &["-i", "to-server", "--set", &directory]);
    let body = json!({"filter": "tcp", "duration": 120, "max_bytes": 4_000_000});
    let capture = daemon.post("/api/v1/captures", &body);
    assert_eq!(capture["state"], "running", "{capture}");
    disk.fill();
    let service = server.enter(|| Server::start(8080)).unwrap().unwrap();
    let target: SocketAddr = (server.ipv4().unwrap(), service.port()).into();
    client
        .enter(|| run(&requests(500), target))
        .unwrap()
        .unwrap();
    let view = await_end(&daemon, &capture);
    println!("{view}");
    assert_eq!(view["state"], "partial");
    assert_eq!(view["end_reason"], "write_failed");
    assert_eq!(losses(&view, "disk_full").len(), 1);
    let refused = daemon.post("/api/v1/captures", &body);
    println!("{refused}");
    assert_eq!(refused["status"], 507);
    assert!(daemon.is_alive());
    std::fs::remove_file(disk.0.0.join("filler")).unwrap();
    let capture = daemon.post("/api/v1/captures", &body);
    client
        .enter(|| run(&requests(20), target))
        .unwrap()
        .unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let path = format!("/api/v1/captures/{}/stop", capture["id"].as_str().unwrap());
    let view = daemon.post(&path, &json!({}));
    assert_eq!(view["state"], "complete", "{view}");
    assert!(view["packets"].as_u64().unwrap() > 40);
}
