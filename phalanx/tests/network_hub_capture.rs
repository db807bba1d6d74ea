//! One request at a hub captures on three hosts: their packets become one file and one ladder, and
//! whatever dies or is cut meanwhile is told. Run by `cargo xtask test --ring network`.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[expect(dead_code, reason = "each test file uses its part")]
#[path = "network/daemon.rs"]
mod daemon;
#[path = "network/fleet.rs"]
mod fleet;
#[path = "network/folder.rs"]
mod folder;

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::process::Stdio;
use std::time::{Duration, Instant};

use daemon::{BINARY, Daemon, await_that};
use fleet::{agent_of, enroll, make_hub, start_agent, start_hub};
use folder::Folder;
use nix::sys::signal::Signal;
use phalanx::capture_file::CaptureFile;
use phalanx_range::traffic::{Download, Program, RequestResponse, Server, run};
use phalanx_range::{Direction, Host, Impairment, Range, Topology};
use serde_json::{Value, json};

/// Three hosts in a row with a link that loses, and a hub that each reaches by a link of its own:
/// what they tell it does not lie on the path.
const ROW: &str = "
nodes:
  - { name: client }
  - { name: middle, kind: router }
  - { name: server }
  - { name: hub }
links:
  - { name: bad, kind: emulated, a: { node: client }, b: { node: middle } }
  - { a: { node: middle }, b: { node: server } }
  - { a: { node: client }, b: { node: hub } }
  - { a: { node: middle }, b: { node: hub } }
  - { a: { node: server }, b: { node: hub } }
";
/// Hosts, their agents' ports, and what they watch.
const AGENTS: [(&str, u16, &[&str]); 3] = [
    ("client", 7581, &["-i", "to-middle"]),
    ("middle", 7582, &["-i", "to-client", "-i", "to-server"]),
    ("server", 7583, &["-i", "to-middle"]),
];
const HUB_PORT: u16 = 7580;
const SERVER_PORT: u16 = 8_080;
const QUIET: Duration = Duration::from_millis(200);
const PATIENCE: Duration = Duration::from_secs(30);

struct Stage {
    range: Range,
    folder: Folder,
    _alone: File,
}

struct Fleet<'range> {
    hub: Daemon<'range>,
    agents: BTreeMap<&'static str, Daemon<'range>>,
}

impl Stage {
    fn new(name: &str) -> Self {
        Self::of(name, ROW)
    }

    fn of(name: &str, topology: &str) -> Self {
        let alone = File::create(std::env::temp_dir().join("phalanx-range-network.lock")).unwrap();
        alone.lock().unwrap();
        Self {
            range: Range::build(&Topology::from_yaml_str(topology).unwrap()).unwrap(),
            folder: Folder::new(name),
            _alone: alone,
        }
    }

    fn host(&self, name: &str) -> &Host {
        self.range.host(name).unwrap()
    }

    fn fleet(&self, more: &[&str]) -> Fleet<'_> {
        make_hub(&self.folder, self.host("hub"));
        let hub = start_hub(&self.folder, self.host("hub"), HUB_PORT);
        let mut agents = BTreeMap::new();
        for (name, ..) in AGENTS {
            enroll(&self.folder, self.host(name), &self.url(name), name);
            agents.insert(name, self.agent(name, more));
        }
        let fleet = Fleet { hub, agents };
        fleet.await_hops();
        fleet
    }

    /// Where a host reaches the hub.
    fn url(&self, name: &str) -> String {
        let interface = self.host("hub").interface_to(name).unwrap();
        let mut addresses = interface.addresses.iter().map(|net| net.addr());
        let address = addresses.find(IpAddr::is_ipv4).unwrap();
        format!("https://{address}:7071")
    }

    fn agent(&self, name: &'static str, more: &[&str]) -> Daemon<'_> {
        let known = AGENTS.iter().find(|it| it.0 == name).unwrap();
        let (_, port, watched) = *known;
        let arguments = [watched, more].concat();
        start_agent(&self.folder, self.host(name), port, name, &arguments)
    }

    fn target(&self) -> SocketAddr {
        (self.host("server").ipv4().unwrap(), SERVER_PORT).into()
    }

    fn talk(&self, program: &Program) {
        let target = self.target();
        let outcome = self.host("client").enter(|| run(program, target));
        let outcome = outcome.unwrap().unwrap();
        assert_eq!(outcome.error, None);
    }

    fn impair(&self, impairment: Impairment) {
        let link = self.range.link("bad").unwrap();
        for direction in Direction::BOTH {
            link.set(direction, impairment).unwrap();
        }
    }
}

impl Fleet<'_> {
    fn await_hops(&self) {
        await_that("all agents are there with all hops", || {
            AGENTS.iter().all(|(name, _, watched)| {
                let agent = agent_of(&self.hub, name);
                agent["state"] == "connected" && agent["hop_count"] == watched.len() / 2
            })
        });
    }

    fn begin(&self, request: &Value) -> String {
        let view = self.hub.post("/api/v1/captures", request);
        println!("{view:#}");
        view["id"].as_str().unwrap().to_owned()
    }

    fn view(&self, id: &str) -> Value {
        self.hub.get(&format!("/api/v1/captures/{id}"))
    }

    fn ended(&self, id: &str) -> Value {
        await_that("the capture has ended", || {
            self.view(id)["state"] != "running"
        });
        let view = self.view(id);
        println!("{view:#}");
        view
    }

    fn report(&self, id: &str) -> Value {
        self.hub.get(&format!("/api/v1/captures/{id}/report"))
    }

    fn merged(&self, id: &str) -> Vec<(String, Vec<u8>)> {
        let bytes = self.hub.curl(&[], &format!("/api/v1/captures/{id}/file"));
        frames(bytes)
    }
}

/// The frames of a file with the names of their interfaces.
fn frames(bytes: Vec<u8>) -> Vec<(String, Vec<u8>)> {
    let mut file = CaptureFile::from_reader("merged", std::io::Cursor::new(bytes)).unwrap();
    let frames = file.frames().unwrap();
    assert_eq!(file.damage(), None);
    let name = |interface: usize| file.interfaces()[interface].name.clone();
    let named = frames.into_iter().map(|it| (name(it.interface), it.bytes));
    named.collect()
}

fn count(frames: &[(String, Vec<u8>)]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for (name, _) in frames {
        *counts.entry(name.clone()).or_default() += 1;
    }
    counts
}

fn host<'view>(view: &'view Value, name: &str) -> &'view Value {
    let hosts = view["hosts"].as_array().unwrap();
    hosts.iter().find(|it| it["host"] == name).unwrap()
}

fn kinds(losses: &Value) -> Vec<&str> {
    let losses = losses.as_array().unwrap().iter();
    losses.map(|it| it["kind"].as_str().unwrap()).collect()
}

fn requests(requests: u32, pause_ms: f64) -> Program {
    Program::RequestResponse(RequestResponse {
        requests,
        response_bytes: 4_000,
        pause_ms,
        ..RequestResponse::default()
    })
}

/// Of each leg of the only conversation, by the names of its hops: what the client's packets and
/// the server's lost on it.
fn lost(report: &Value) -> BTreeMap<(String, String), [u64; 2]> {
    let conversations = report["conversations"].as_array().unwrap();
    assert_eq!(conversations.len(), 1, "{conversations:#?}");
    let legs = conversations[0]["legs"].as_array().unwrap().iter();
    let name = |it: &Value| it.as_str().unwrap().to_owned();
    legs.map(|leg| {
        let lost = ["forward", "reverse"].map(|way| leg[way]["lost"].as_u64().unwrap());
        ((name(&leg["from"]), name(&leg["to"])), lost)
    })
    .collect()
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn one_command_captures_on_all_hops_of_a_path() {
    let stage = Stage::new("hub-capture");
    let fleet = stage.fleet(&[]);
    let output = stage.folder.0.join("path.pcapng");
    let server = stage.host("server").enter(|| Server::start(SERVER_PORT));
    let _server = server.unwrap().unwrap();
    stage.impair(Impairment {
        loss: 0.02,
        ..Impairment::delay(5.0)
    });
    let link = stage.range.link("bad").unwrap();
    let settle = || {
        stage.range.settle(QUIET, PATIENCE).unwrap();
        link.counters().unwrap()
    };
    let before = settle();
    let mut capture = stage.host("hub").command(BINARY).unwrap();
    capture
        .args(["capture", "--api", &fleet.hub.api(), "--hops"])
        .args(["client,middle,server", "--duration", "12s", "-w"])
        .arg(&output)
        .arg(format!("tcp port {SERVER_PORT}"));
    let capture = capture.stderr(Stdio::piped()).spawn().unwrap();
    await_that("all hosts record", || {
        let list = fleet.hub.get("/api/v1/captures");
        let all = list["captures"].as_array().unwrap();
        all.iter().any(|it| {
            let hosts = it["hosts"].as_array().unwrap();
            hosts.iter().all(|host| host["created"].is_string())
        })
    });
    stage.talk(&Program::Download(Download {
        bytes: 2_000_000,
        ..Download::default()
    }));
    let after = settle();
    let ended = capture.wait_with_output().unwrap();
    let told = String::from_utf8(ended.stderr).unwrap();
    println!("{told}");
    assert!(ended.status.success(), "{:?}: {told}", ended.status);

    let list = fleet.hub.get("/api/v1/captures");
    let view = &list["captures"][0];
    println!("{view:#}");
    let id = view["id"].as_str().unwrap();
    assert_eq!(view["state"], "complete");
    assert_eq!(view["end_reason"], "duration");
    let counts = count(&frames(std::fs::read(&output).unwrap()));
    println!("{counts:?}");
    let names: Vec<&str> = counts.keys().map(String::as_str).collect();
    let all = ["client", "middle:to-client", "middle:to-server", "server"];
    assert_eq!(names, all);
    let packets: usize = counts.values().sum();
    assert_eq!(view["packets"], packets);
    assert_eq!(
        count(&fleet.merged(id)),
        counts,
        "the API has the same file"
    );

    let report = fleet.report(id);
    let lost = lost(&report);
    println!("{lost:?}");
    let key = |from: &str, to: &str| (from.to_owned(), to.to_owned());
    let truth = [
        after.forward.dropped.total() - before.forward.dropped.total(),
        after.reverse.dropped.total() - before.reverse.dropped.total(),
    ];
    assert!(truth.iter().sum::<u64>() > 10, "{truth:?}");
    assert_eq!(lost[&key("client", "middle:to-client")], truth);
    assert_eq!(lost[&key("middle:to-client", "middle:to-server")], [0, 0]);
    assert_eq!(lost[&key("middle:to-server", "server")], [0, 0]);
    let conversation = &report["conversations"][0];
    assert!(conversation["ladder"]["rungs"].as_array().unwrap().len() > 100);
    // All hosts are one machine here: one clock, and no error.
    for hop in report["hops"].as_array().unwrap() {
        assert_eq!(hop["clock"]["error_ns"], 0, "{hop}");
    }
    let svg = fleet
        .hub
        .curl(&[], &format!("/api/v1/captures/{id}/report?format=svg"));
    let svg = String::from_utf8(svg).unwrap();
    assert!(
        svg.starts_with("<svg") || svg.starts_with("<?xml"),
        "{svg:.200}"
    );
    assert!(svg.contains("middle:to-server"));
    let page = fleet.hub.curl(
        &["-i"],
        &format!("/api/v1/captures/{id}/report?format=html"),
    );
    let page = String::from_utf8_lossy(&page).to_lowercase();
    assert!(
        page.contains("content-security-policy: sandbox"),
        "{page:.400}"
    );

    // The hosts keep nothing of it, and tell what they did.
    for agent in fleet.agents.values() {
        let list = agent.get("/api/v1/captures");
        assert_eq!(list["captures"], json!([]));
    }
    let gone = fleet
        .hub
        .curl(&["-X", "DELETE"], &format!("/api/v1/captures/{id}"));
    assert!(gone.is_empty());
    let left = std::fs::read_dir(stage.folder.0.join("hub/captures")).unwrap();
    assert_eq!(left.count(), 0);
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn what_dies_meanwhile_is_told_and_the_rest_is_kept() {
    let stage = Stage::new("hub-capture-dies");
    let mut fleet = stage.fleet(&[]);
    let server = stage.host("server").enter(|| Server::start(SERVER_PORT));
    let _server = server.unwrap().unwrap();
    let filter = format!("tcp port {SERVER_PORT}");
    let id = fleet.begin(&json!({ "filter": filter, "duration": 12 }));
    stage.talk(&requests(50, 0.0));
    await_that("the packets are at the hub", || {
        let view = fleet.view(&id);
        ["client", "middle", "server"]
            .iter()
            .all(|it| host(&view, it)["packets"] != 0)
    });

    // The hub dies and comes back: the agents go on with what it does not have.
    fleet.hub.signal(Signal::SIGKILL);
    fleet.hub.wait();
    stage.talk(&requests(50, 0.0));
    fleet.hub = start_hub(&stage.folder, stage.host("hub"), HUB_PORT);
    fleet.await_hops();
    stage.talk(&requests(50, 0.0));
    let view = fleet.ended(&id);
    assert_eq!(view["state"], "complete");
    // Nothing is missing of what came before, and nothing lies there twice.
    let counts = count(&fleet.merged(&id));
    println!("{counts:?}");
    for name in ["client", "server"] {
        assert_eq!(counts[name], host(&view, name)["packets"]);
    }
    let report = fleet.report(&id);
    let conversations = report["conversations"].as_array().unwrap();
    assert_eq!(conversations.len(), 3);
    for conversation in conversations {
        assert_eq!(conversation["flows"].as_array().unwrap().len(), 4);
        for leg in conversation["legs"].as_array().unwrap() {
            for way in ["forward", "reverse"] {
                let told = ["lost", "not_captured", "duplicated"];
                let told = told.map(|it| leg[way][it].as_u64().unwrap_or(0));
                assert_eq!(told, [0; 3], "{way} {leg:#}");
            }
        }
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn an_agent_that_is_restarted_goes_on_with_its_part() {
    let stage = Stage::new("hub-capture-restart");
    let mut fleet = stage.fleet(&[]);
    let server = stage.host("server").enter(|| Server::start(SERVER_PORT));
    let _server = server.unwrap().unwrap();
    let filter = format!("tcp port {SERVER_PORT}");
    let id = fleet.begin(&json!({ "filter": filter, "duration": 40 }));
    std::thread::scope(|scope| {
        // One connection, from before the first restart to after the last.
        let talking = scope.spawn(|| stage.talk(&requests(1_500, 10.0)));
        let packets = |fleet: &Fleet<'_>, name| host(&fleet.view(&id), name)["packets"].as_u64();
        for (name, signal) in [("middle", Signal::SIGKILL), ("server", Signal::SIGTERM)] {
            await_that("its packets are at the hub", || {
                packets(&fleet, name) > Some(100)
            });
            let mut agent = fleet.agents.remove(name).unwrap();
            agent.signal(signal);
            agent.wait();
            let ended = Instant::now();
            drop(agent);
            let away = |fleet: &Fleet<'_>| host(&fleet.view(&id), name)["away_since"].is_string();
            await_that("it is away", || away(&fleet));
            assert!(ended.elapsed() < Duration::from_secs(5), "it was seen late");
            assert_eq!(host(&fleet.view(&id), name)["state"], "running");
            let before = packets(&fleet, name);
            fleet.agents.insert(name, stage.agent(name, &[]));
            await_that("it goes on", || {
                packets(&fleet, name) > before.map(|it| it + 100)
            });
            assert!(!away(&fleet));
        }
        assert!(!talking.is_finished(), "it must last longer");
        talking.join().unwrap();
    });
    std::thread::sleep(Duration::from_secs(1));
    fleet
        .hub
        .post(&format!("/api/v1/captures/{id}/stop"), &json!({}));
    let view = fleet.ended(&id);
    assert_eq!(view["state"], "partial");
    assert_eq!(host(&view, "client")["state"], "complete");
    let counts = count(&fleet.merged(&id));
    println!("{counts:?}");
    let names: Vec<&str> = counts.keys().map(String::as_str).collect();
    let all = ["client", "middle:to-client", "middle:to-server", "server"];
    assert_eq!(names, all, "one interface a hop");
    for name in ["middle", "server"] {
        let part = host(&view, name);
        assert_eq!(part["state"], "partial");
        assert_eq!(kinds(&part["losses"]), ["restarted"], "{part}");
        let gaps = part["gaps"].as_array().unwrap();
        assert_eq!(gaps.len(), 1);
        let time = |it: &str| gaps[0][it].as_str().unwrap().parse::<jiff::Timestamp>();
        let (from, until) = (time("from").unwrap(), time("until").unwrap());
        assert!(from < until, "{gaps:?}");
        let of_host = counts.iter().filter(|(hop, _)| hop.starts_with(name));
        let packets: usize = of_host.map(|(_, count)| count).sum();
        assert_eq!(part["packets"], packets, "nothing is there twice");
        assert_eq!(part["end_reason"], "stopped");
        // What the agent had is deleted there.
        let own = fleet.agents[name].get("/api/v1/captures");
        assert_eq!(own["captures"], json!([]));
    }
    let merged = fleet.hub.curl(&[], &format!("/api/v1/captures/{id}/file"));
    let told = String::from_utf8_lossy(&merged);
    let told = told.matches("nothing was recorded from").count();
    assert_eq!(told, 3, "of each interface that was away");
    let report = fleet.report(&id);
    for hop in report["hops"].as_array().unwrap() {
        let name = hop["id"].as_str().unwrap().split(':').next().unwrap();
        assert_eq!(hop.get("gaps"), host(&view, name).get("gaps"), "{hop}");
    }
    let lost = lost(&report);
    println!("{lost:?}");
    assert_eq!(
        lost.values().flatten().sum::<u64>(),
        0,
        "it was not there to see"
    );
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn an_agent_that_comes_back_after_the_end_delivers_what_it_had() {
    let stage = Stage::new("hub-capture-rest");
    let mut fleet = stage.fleet(&[]);
    let server = stage.host("server").enter(|| Server::start(SERVER_PORT));
    let _server = server.unwrap().unwrap();
    let filter = format!("tcp port {SERVER_PORT}");
    let id = fleet.begin(&json!({ "filter": filter, "duration": 8 }));
    // What it records while the hub is away lies on its own disk alone.
    fleet.hub.signal(Signal::SIGKILL);
    fleet.hub.wait();
    stage.talk(&requests(50, 0.0));
    std::thread::sleep(Duration::from_millis(500));
    let middle = fleet.agents.remove("middle").unwrap();
    let had = middle.get("/api/v1/captures")["captures"][0]["packets"].clone();
    middle.signal(Signal::SIGKILL);
    drop(middle);
    fleet.hub = start_hub(&stage.folder, stage.host("hub"), HUB_PORT);
    await_that("the others have delivered theirs", || {
        let view = fleet.view(&id);
        ["client", "server"]
            .iter()
            .all(|it| host(&view, it)["state"] == "complete")
    });
    let part = host(&fleet.view(&id), "middle").clone();
    assert_eq!(part["state"], "running", "it is waited for");
    assert_eq!(part["packets"], 0, "none of them is here");
    fleet.agents.insert("middle", stage.agent("middle", &[]));
    let view = fleet.ended(&id);
    let part = host(&view, "middle");
    assert_eq!(part["packets"], had);
    assert_eq!(kinds(&part["losses"]), ["daemon_stopped", "ended_early"]);
    let counts = count(&fleet.merged(&id));
    let of_middle = counts.iter().filter(|(hop, _)| hop.starts_with("middle"));
    assert_eq!(of_middle.map(|(_, count)| count).sum::<usize>(), had);
    assert_eq!(lost(&fleet.report(&id)).values().flatten().sum::<u64>(), 0);
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn a_part_that_had_ended_before_its_agent_was_restarted_is_delivered() {
    let stage = Stage::new("hub-capture-ended");
    let mut fleet = stage.fleet(&[]);
    let server = stage.host("server").enter(|| Server::start(SERVER_PORT));
    let _server = server.unwrap().unwrap();
    let filter = format!("tcp port {SERVER_PORT}");
    let request = json!({ "filter": filter, "duration": 120, "max_packets": 40 });
    let id = fleet.begin(&request);
    fleet.hub.signal(Signal::SIGKILL);
    fleet.hub.wait();
    stage.talk(&requests(50, 0.0));
    let middle = fleet.agents.remove("middle").unwrap();
    let own = || middle.get("/api/v1/captures")["captures"][0].clone();
    await_that("it has its packets", || {
        own()["end_reason"] == "max_packets"
    });
    middle.signal(Signal::SIGKILL);
    drop(middle);
    fleet.hub = start_hub(&stage.folder, stage.host("hub"), HUB_PORT);
    // The time is not over: it is asked to begin.
    fleet.agents.insert("middle", stage.agent("middle", &[]));
    let view = fleet.ended(&id);
    assert_eq!(view["state"], "complete", "{view:#}");
    for name in ["client", "middle", "server"] {
        let part = host(&view, name);
        assert_eq!(part["packets"], 40);
        assert_eq!(part["end_reason"], "max_packets");
    }
    let own = fleet.agents["middle"].get("/api/v1/captures");
    assert_eq!(own["captures"], json!([]));
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn the_seconds_before_the_request_are_there_for_one_conversation() {
    let stage = Stage::new("hub-capture-past");
    let fleet = stage.fleet(&["--set", "lookback_feed=all"]);
    let server = stage.host("server").enter(|| Server::start(SERVER_PORT));
    let _server = server.unwrap().unwrap();
    stage.talk(&requests(20, 10.0));
    stage.talk(&requests(10, 10.0));
    std::thread::sleep(Duration::from_secs(3));
    let list = fleet
        .hub
        .get(&format!("/api/v1/conversations?port={SERVER_PORT}"));
    let conversations = list["conversations"].as_array().unwrap();
    assert_eq!(conversations.len(), 2, "{conversations:#?}");
    let wanted = &conversations[1];
    assert_eq!(wanted["path"].as_array().unwrap().len(), 4);
    let request = json!({
        "filter": "", "path_of": wanted["id"], "duration": 1, "lookback": 30,
    });
    let view = fleet.ended(&fleet.begin(&request));
    assert_eq!(view["state"], "complete", "{view:#}");
    for name in ["client", "middle", "server"] {
        let past = &host(&view, name)["lookback"];
        assert_eq!(past["packets"], host(&view, name)["packets"]);
        assert!(past["packets"].as_u64().unwrap() > 0, "{past}");
    }
    let report = fleet.report(view["id"].as_str().unwrap());
    assert_eq!(lost(&report).values().flatten().sum::<u64>(), 0);
    let seen = report["conversations"][0]["client"]["port"].as_u64();
    assert_eq!(seen, wanted["client"]["port"].as_u64());

    // The same to be handed on.
    let output = stage.folder.0.join("redacted.pcapng");
    let mut capture = stage.host("hub").command(BINARY).unwrap();
    capture.args(["capture", "--api", &fleet.hub.api(), "--redact"]);
    capture.args(["--path-of", wanted["id"].as_str().unwrap()]);
    capture.args(["--lookback", "30s", "--duration", "1s", "-w"]);
    let ran = capture.arg(&output).output().unwrap();
    assert!(ran.status.success(), "{ran:?}");
    let redacted = frames(std::fs::read(&output).unwrap());
    assert_eq!(redacted.len() as u64, view["packets"].as_u64().unwrap());
    let address = stage.host("client").ipv4().unwrap().octets();
    let tells = |bytes: &[u8]| bytes.windows(4).any(|it| it == address);
    assert!(!redacted.iter().any(|(_, bytes)| tells(bytes)));
    let whole = fleet.merged(view["id"].as_str().unwrap());
    assert!(whole.iter().all(|(_, bytes)| tells(bytes)));

    // What an agent does not allow, and what nobody has.
    let refused = fleet.begin(&json!({ "filter": "tcp", "snaplen": 512, "duration": 1 }));
    let view = fleet.ended(&refused);
    assert_eq!(view["state"], "partial");
    let told = host(&view, "client")["losses"].to_string();
    assert!(told.contains("hub_captures"), "{told}");
    for (body, field) in [
        (json!({ "filter": "", "hops": ["nobody"] }), "hops[0]"),
        (json!({ "filter": "", "hops": ["client:lo"] }), "hops[0]"),
        (json!({ "filter": "", "path_of": "99999" }), "path_of"),
        (json!({ "filter": "tcp prot" }), "filter"),
    ] {
        let problem = fleet.hub.post("/api/v1/captures", &body);
        assert_eq!(problem["field"], field, "{problem}");
        assert!(problem["remedy"].is_string());
    }
    // One that is stopped ends at once, at all hosts.
    let id = fleet.begin(&json!({ "filter": "tcp", "duration": 600 }));
    std::thread::sleep(Duration::from_secs(1));
    let began = Instant::now();
    fleet
        .hub
        .post(&format!("/api/v1/captures/{id}/stop"), &json!({}));
    let view = fleet.ended(&id);
    assert!(began.elapsed() < Duration::from_secs(10));
    assert_eq!(view["end_reason"], "stopped");
    assert_eq!(view["state"], "complete", "{view:#}");
    // A total that is reached ends it as well.
    let id = fleet.begin(&json!({
        "filter": "tcp", "duration": 600, "max_bytes": 1_000_000, "max_total_bytes": 60_000,
    }));
    for _ in 0..10 {
        stage.talk(&requests(100, 0.0));
    }
    let view = fleet.ended(&id);
    assert_eq!(view["end_reason"], "max_bytes", "{view:#}");
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn the_path_of_a_conversation_goes_on_beyond_a_nat() {
    let nat = "{ name: middle, kind: router, firewall: \
               [{ verdict: masquerade, output: to-server }] }";
    let topology = ROW.replace("{ name: middle, kind: router }", nat);
    let stage = Stage::of("hub-capture-nat", &topology);
    let fleet = stage.fleet(&["--set", "lookback_feed=all"]);
    let server = stage.host("server").enter(|| Server::start(SERVER_PORT));
    let _server = server.unwrap().unwrap();
    for count in [20, 60, 180] {
        stage.talk(&requests(count, 1.0));
    }
    let conversations = || {
        let path = format!("/api/v1/conversations?port={SERVER_PORT}&state=closed");
        let list = fleet.hub.get(&path);
        list["conversations"].as_array().unwrap().clone()
    };
    await_that("all have ended", || conversations().len() == 3);
    let all = conversations();
    let address = stage.host("client").ipv4().unwrap().to_string();
    let wanted = &all[1];
    assert_eq!(wanted["client"]["address"], address, "{wanted:#}");
    assert_eq!(wanted["path"].as_array().unwrap().len(), 4, "{wanted:#}");
    let request = json!({
        "filter": "", "path_of": wanted["id"], "duration": 1, "lookback": 60,
    });
    let view = fleet.ended(&fleet.begin(&request));
    assert_eq!(view["state"], "complete", "{view:#}");
    let counts = count(&fleet.merged(view["id"].as_str().unwrap()));
    println!("{counts:?}");
    assert_eq!(counts.len(), 4, "all hops, on both sides");
    let report = fleet.report(view["id"].as_str().unwrap());
    assert_eq!(lost(&report).values().flatten().sum::<u64>(), 0);
    let told = &report["conversations"][0];
    assert_eq!(told["client"]["port"], wanted["client"]["port"]);
    assert_eq!(told["flows"].as_array().unwrap().len(), 4);
    assert!(told["rewrites"].as_array().unwrap().len() == 1, "{told:#}");
}
