//! Two agents with their kernel programs and one hub: what went through both is one conversation
//! of two hops at the hub. Run by `cargo xtask test --ring network`.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[expect(dead_code, reason = "each test file uses its part")]
#[path = "network/daemon.rs"]
mod daemon;
#[path = "network/folder.rs"]
mod folder;

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use daemon::{BINARY, Daemon, START_TIMEOUT, await_that, error_of};
use folder::Folder;
use nix::sys::signal::Signal;
use phalanx_range::traffic::{Program, RequestResponse, Server, run};
use phalanx_range::{Host, Range, Topology};
use serde_json::Value;

const PLAIN: &str = "
nodes: [{ name: client }, { name: server }]
links: [{ a: { node: client }, b: { node: server } }]
";
const REQUEST_COUNT: u32 = 20;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn phalanx(arguments: &[&str]) -> String {
    let output = Command::new(BINARY).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Makes a hub that is reached at the server's address.
fn make_hub(folder: &Folder, server: &Host) -> String {
    let address = server.ipv4().unwrap().to_string();
    let directory = folder.0.join("hub");
    phalanx(&["hub", "init", "--dir", text(&directory), "--name", &address]);
    format!("https://{address}:7071")
}

fn start_hub<'range>(folder: &Folder, host: &'range Host, port: u16) -> Daemon<'range> {
    let mut command = host.command(BINARY).unwrap();
    command.args(["hub", "--dir", text(&folder.0.join("hub"))]);
    command.args(["--listen", &format!("127.0.0.1:{port}")]);
    let hub = Daemon::spawn(host, port, command);
    hub.await_line("hub: agents at", START_TIMEOUT);
    hub
}

fn enroll(folder: &Folder, host: &Host, url: &str, name: &str) {
    let hub = folder.0.join("hub");
    let told = phalanx(&[
        "hub",
        "token",
        "--dir",
        text(&hub),
        "--host",
        name,
        "--url",
        url,
        "--format",
        "json",
    ]);
    let told: Value = serde_json::from_str(&told).unwrap();
    let mut command = host.command(BINARY).unwrap();
    command.args(["agent", "enroll", "--dir", text(&folder.0.join(name))]);
    let token = told["token"].as_str().unwrap();
    let output = command.args(["--token", token]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let again = host
        .command(BINARY)
        .unwrap()
        .args(["agent", "enroll", "--token", token])
        .args(["--dir", text(&folder.0.join(format!("{name}-again")))])
        .output()
        .unwrap();
    assert!(error_of(&again).contains("the token was used already"));
}

fn start_agent<'range>(
    folder: &Folder,
    host: &'range Host,
    port: u16,
    (name, interface): (&str, &str),
) -> Daemon<'range> {
    let mut command = host.command(BINARY).unwrap();
    command.args([
        "agent",
        "--dir",
        text(&folder.0.join(name)),
        "-i",
        interface,
    ]);
    command.args(["--listen", &format!("127.0.0.1:{port}")]);
    let agent = Daemon::spawn(host, port, command);
    agent.await_line("watching;", START_TIMEOUT);
    agent
}

/// Talks from one host to the other; the port that was talked to.
fn talk(client: &Host, server: &Host) -> u16 {
    let service = server.enter(|| Server::start(8080)).unwrap().unwrap();
    let target: SocketAddr = (server.ipv4().unwrap(), service.port()).into();
    let program = Program::RequestResponse(RequestResponse {
        requests: REQUEST_COUNT,
        response_bytes: 4_000,
        ..RequestResponse::default()
    });
    let outcome = client.enter(|| run(&program, target)).unwrap().unwrap();
    assert_eq!(outcome.error, None);
    service.port()
}

/// The conversations with a server's port.
fn conversations(daemon: &Daemon<'_>, port: u16) -> Vec<Value> {
    let list = daemon.get("/api/v1/conversations");
    let all = list["conversations"].as_array().unwrap().iter();
    all.filter(|it| it["server"]["port"] == port)
        .cloned()
        .collect()
}

fn agent_of(hub: &Daemon<'_>, name: &str) -> Value {
    let list = hub.get("/api/v1/agents");
    let agents = list["agents"].as_array().unwrap();
    let found = agents.iter().find(|agent| agent["name"] == name);
    found.cloned().unwrap_or_default()
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn what_two_agents_saw_is_one_conversation_of_two_hops() {
    let range = Range::build(&Topology::from_yaml_str(PLAIN).unwrap()).unwrap();
    let (client, server) = (range.host("client").unwrap(), range.host("server").unwrap());
    let folder = Folder::new("hub");
    let url = make_hub(&folder, server);
    let mut hub = start_hub(&folder, server, 7480);
    enroll(&folder, client, &url, "web-1");
    enroll(&folder, server, &url, "db-1");
    let near = start_agent(&folder, client, 7481, ("web-1", "to-server"));
    let far = start_agent(&folder, server, 7482, ("db-1", "to-client"));
    await_that("both agents are connected", || {
        ["web-1", "db-1"].iter().all(|name| {
            let agent = agent_of(&hub, name);
            agent["state"] == "connected" && agent["hop_count"] == 1
        })
    });

    let port = talk(client, server);
    await_that("the conversation has closed at the hub", || {
        let found = conversations(&hub, port);
        found.len() == 1 && found[0]["state"] == "closed"
    });
    let found = conversations(&hub, port);
    let conversation = &found[0];
    println!("{conversation:#}");
    let path = conversation["path"].as_array().unwrap();
    assert_eq!(path.len(), 2, "{conversation}");
    let hops = hub.get("/api/v1/hops");
    let mut hosts: Vec<String> = path
        .iter()
        .map(|hop| {
            let hops = hops["hops"].as_array().unwrap();
            let hop = hops.iter().find(|it| it["id"] == hop["id"]).unwrap();
            hop["host"].as_str().unwrap().to_owned()
        })
        .collect();
    hosts.sort();
    assert_eq!(hosts, ["db-1", "web-1"]);
    // Counted once, as each agent counted it.
    let at_agent = conversations(&near, port);
    let features = [
        "client_packets",
        "server_packets",
        "client_bytes",
        "server_bytes",
    ];
    for feature in features {
        let told = &conversation["features"][feature];
        assert_eq!(told, &at_agent[0]["features"][feature], "{feature}");
    }
    for name in ["web-1", "db-1"] {
        let agent = agent_of(&hub, name);
        assert_eq!(agent["gaps"], 0, "{agent}");
    }

    // The hub is killed, and knows what it knew.
    hub.signal(Signal::SIGKILL);
    hub.wait();
    drop(hub);
    let port_after = talk(client, server);
    let hub = start_hub(&folder, server, 7480);
    await_that(
        "the agents are connected again and both conversations are there",
        || {
            let found = conversations(&hub, port_after);
            found.len() == if port == port_after { 2 } else { 1 }
                && found.iter().all(|it| it["state"] == "closed")
                && ["web-1", "db-1"]
                    .iter()
                    .all(|name| agent_of(&hub, name)["state"] == "connected")
        },
    );
    let after = conversations(&hub, port);
    let kept = after
        .iter()
        .find(|it| it["client"] == conversation["client"])
        .unwrap();
    for feature in features {
        assert_eq!(kept["features"][feature], conversation["features"][feature]);
    }
    for agent in [near, far] {
        let batches = agent.metric("phalanx_uplink_batches_total", &["dropped"]);
        assert_eq!(batches, 0);
    }
    for name in ["web-1", "db-1"] {
        assert_eq!(agent_of(&hub, name)["gaps"], 0);
    }
}
