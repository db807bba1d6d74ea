//! Two agents with their kernel programs and one hub: what went through both is one conversation
//! of two hops at the hub. Run by `cargo xtask test --ring network`.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[expect(dead_code, reason = "each test file uses its part")]
#[path = "network/daemon.rs"]
mod daemon;
#[path = "network/fleet.rs"]
mod fleet;
#[path = "network/folder.rs"]
mod folder;

use std::net::SocketAddr;

use daemon::{Daemon, await_that};
use fleet::{agent_of, enroll, make_hub, start_agent, start_hub};
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
    let near = start_agent(&folder, client, 7481, "web-1", &["-i", "to-server"]);
    let far = start_agent(&folder, server, 7482, "db-1", &["-i", "to-client"]);
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

/// Both ends are rewritten between the agents.
const TRANSLATED: &str = r#"
nodes:
  - name: client
  - name: gate
    kind: router
    addresses: [10.99.0.1/32]
    firewall: [{ verdict: dnat, protocol: tcp, port: 80, to: "10.77.2.2:8080" }]
    nft: |
      table ip own {
        chain post {
          type nat hook postrouting priority srcnat;
          oifname "to-server" meta l4proto tcp masquerade to :20000-29999;
        }
      }
  - name: server
links:
  - { a: { node: client }, b: { node: gate } }
  - { a: { node: gate }, b: { node: server } }
"#;

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn what_was_translated_between_two_agents_is_one_conversation() {
    let range = Range::build(&Topology::from_yaml_str(TRANSLATED).unwrap()).unwrap();
    let (client, server) = (range.host("client").unwrap(), range.host("server").unwrap());
    let folder = Folder::new("hub-translated");
    let url = make_hub(&folder, server);
    let hub = start_hub(&folder, server, 7486);
    enroll(&folder, client, &url, "web-1");
    enroll(&folder, server, &url, "db-1");
    let near = start_agent(&folder, client, 7487, "web-1", &["-i", "to-gate"]);
    let far = start_agent(&folder, server, 7488, "db-1", &["-i", "to-gate"]);
    await_that("both agents are connected", || {
        ["web-1", "db-1"]
            .iter()
            .all(|name| agent_of(&hub, name)["hop_count"] == 1)
    });

    let service = server.enter(|| Server::start(8080)).unwrap().unwrap();
    let shown: SocketAddr = ([10, 99, 0, 1], 80).into();
    let program = Program::RequestResponse(RequestResponse {
        requests: REQUEST_COUNT,
        response_bytes: 4_000,
        ..RequestResponse::default()
    });
    let outcome = client.enter(|| run(&program, shown)).unwrap().unwrap();
    assert_eq!(outcome.error, None);
    drop(service);
    await_that("the conversation has closed at the hub", || {
        let found = conversations(&hub, 8080);
        found.len() == 1 && found[0]["state"] == "closed"
    });
    // Each agent by itself sees what it sees; together they know both ends.
    let (inside, outside) = (conversations(&near, 80), conversations(&far, 8080));
    assert_eq!((inside.len(), outside.len()), (1, 1));
    assert_ne!(
        inside[0]["client"]["address"],
        outside[0]["client"]["address"]
    );
    let found = conversations(&hub, 8080);
    println!("{:#}", found[0]);
    assert_eq!(found[0]["path"].as_array().unwrap().len(), 2);
    for field in ["address", "port"] {
        assert_eq!(found[0]["client"][field], inside[0]["client"][field]);
        assert_eq!(found[0]["server"][field], outside[0]["server"][field]);
    }
    let told = &found[0]["features"]["client_packets"];
    assert_eq!(
        told, &inside[0]["features"]["client_packets"],
        "counted once"
    );
    assert_eq!(conversations(&hub, 80).len(), 0);
}
