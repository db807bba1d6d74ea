//! Names of services from real processes: in nested namespaces, in cgroups, behind address
//! translation. Run by `cargo xtask test --ring network`.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[expect(dead_code, reason = "each test file uses its part")]
#[path = "network/daemon.rs"]
mod daemon;
#[path = "network/service.rs"]
mod service;

use std::time::{Duration, Instant};

use daemon::{Daemon, STEP_TIMEOUT, await_that};
use phalanx_range::{Host, Range, Topology};
use serde_json::Value;
use service::{Service, Slice};

/// Small tables: several daemons run at once.
const SMALL: [&str; 4] = [
    "--flow-count-max",
    "1024",
    "--set",
    "namespace_flow_count_max=1024",
];

const NESTED: &str = "
nodes:
  - { name: client }
  - { name: machine, kind: router }
links:
  - a: { node: client, addresses: [10.88.1.1/24] }
    b: { node: machine, addresses: [10.88.1.2/24] }
";

fn range(topology: &str) -> Range {
    Range::build(&Topology::from_yaml_str(topology).unwrap()).unwrap()
}

/// Joins the namespace of a process to the machine, on a network of its own.
fn join(range: &Range, process: u32, name: &str, network: u32) {
    let machine = range.host("machine").unwrap();
    let inside = |arguments: &[&str]| {
        let target = process.to_string();
        let enter = ["nsenter", "--net", "--target", &target, "ip"];
        machine.exec(&[&enter, arguments].concat()).unwrap();
    };
    let process = process.to_string();
    machine
        .exec(&[
            "ip", "link", "add", name, "type", "veth", "peer", "name", "inner", "netns", &process,
        ])
        .unwrap();
    let [outer, inner] = [1, 2].map(|last| format!("10.88.{network}.{last}/24"));
    machine
        .exec(&["ip", "address", "add", &outer, "dev", name])
        .unwrap();
    machine.exec(&["ip", "link", "set", name, "up"]).unwrap();
    inside(&["link", "set", "lo", "up"]);
    inside(&["address", "add", &inner, "dev", "inner"]);
    inside(&["link", "set", "inner", "up"]);
    inside(&[
        "route",
        "add",
        "default",
        "via",
        &format!("10.88.{network}.1"),
    ]);
}

/// What is asked for at a time.
const COUNT: u64 = 40;

/// A client of a name in a host, which has not asked yet.
fn asker(host: &Host, name: &str, address: &str, port: &str) -> Service {
    let task = ["ask", address, port, &COUNT.to_string()];
    Service::start(host, &[], name, &task)
}

/// The conversations with a server at an address; there may be none yet.
fn conversations(daemon: &Daemon<'_>, server: &str) -> Vec<Value> {
    let page = daemon.get(&format!("/api/v1/conversations?server={server}"));
    page["conversations"].as_array().unwrap().clone()
}

/// Names and their sources at both ends.
fn names(conversation: &Value) -> [[&str; 2]; 2] {
    ["client", "server"].map(|end| {
        ["service", "service_basis"].map(|key| conversation[end][key].as_str().unwrap_or("none"))
    })
}

/// Asks until the one conversation with the address has these names.
fn ask_until_named(
    daemon: &Daemon<'_>,
    asker: &mut Service,
    address: &str,
    wanted: [[&str; 2]; 2],
) -> Value {
    let end = Instant::now() + STEP_TIMEOUT;
    loop {
        asker.go_on_until("asked");
        std::thread::sleep(Duration::from_millis(300));
        let found = conversations(daemon, address);
        assert!(found.len() <= 1, "{found:#?}");
        if let Some(found) = found.first()
            && (names(found) == wanted || Instant::now() > end)
        {
            assert_eq!(names(found), wanted, "{found:#}");
            return found.clone();
        }
        assert!(Instant::now() < end, "{found:#?}");
    }
}

/// Packets and bytes of both sides.
fn sent(view: &Value) -> [u64; 4] {
    let of = |side: &str, what: &str| view[side][what].as_u64().unwrap();
    [
        of("client_sent", "packets"),
        of("client_sent", "bytes"),
        of("server_sent", "packets"),
        of("server_sent", "bytes"),
    ]
}

/// What a closed conversation sent, which is the same at each of its hops.
fn sent_at_all_hops(daemon: &Daemon<'_>, conversation: &Value, hop_count: usize) -> [u64; 4] {
    let id = conversation["id"].as_str().unwrap();
    let mut flows = Vec::new();
    await_that("all flows are closed", || {
        let page = daemon.get(&format!("/api/v1/flows?conversation={id}"));
        flows = page["flows"].as_array().unwrap().clone();
        flows.iter().all(|flow| flow["state"] == "closed")
    });
    assert_eq!(flows.len(), hop_count, "{flows:#?}");
    let sent: Vec<_> = flows.iter().map(sent).collect();
    assert!(sent.windows(2).all(|two| two[0] == two[1]), "{sent:?}");
    sent[0]
}

/// Waits until the pairs of a server have, together, what was sent; all clients of theirs are among
/// `clients`.
fn await_pairs(daemon: &Daemon<'_>, server: &str, clients: &[&str], total: [u64; 4]) {
    await_pairs_of(daemon, &[server], clients, total);
}

/// The same of a server that was known by several names.
fn await_pairs_of(daemon: &Daemon<'_>, servers: &[&str], clients: &[&str], total: [u64; 4]) {
    let mut pairs = Vec::new();
    let mut sums = [0; 4];
    let end = Instant::now() + STEP_TIMEOUT;
    while sums != total && Instant::now() < end {
        pairs = Vec::new();
        for server in servers {
            let page = daemon.get(&format!("/api/v1/pairs?server={server}"));
            pairs.extend(page["pairs"].as_array().unwrap().iter().cloned());
        }
        sums = [0; 4];
        for pair in &pairs {
            let values = sent(pair);
            sums = std::array::from_fn(|index| sums[index] + values[index]);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(sums, total, "{pairs:#?}");
    for pair in pairs {
        assert!(
            clients.contains(&pair["client"].as_str().unwrap()),
            "{pair:#}"
        );
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn processes_in_nested_namespaces_are_named_at_both_ends() {
    let range = range(NESTED);
    let (client, machine) = (
        range.host("client").unwrap(),
        range.host("machine").unwrap(),
    );
    let serve = ["serve", "8200"];
    let network = ["unshare", "-n"];
    let processes = ["unshare", "-n", "-pf", "--kill-child", "--mount-proc"];
    // The same port is served at three places of one machine.
    let mut own = Service::start(machine, &[], "edge-own", &serve);
    let mut plain = Service::start(machine, &network, "edge-plain", &serve);
    let mut deep = Service::start(machine, &processes, "edge-deep", &serve);
    await_that("the innermost processes are there", || {
        comm(plain.id()) == "edge-plain" && comm(deep.id()) == "edge-deep"
    });
    join(&range, plain.id(), "plain0", 2);
    join(&range, deep.id(), "deep0", 3);
    for service in [&mut own, &mut plain, &mut deep] {
        service.go_on_until("listens");
    }
    let (plain_id, deep_id) = (plain.id().to_string(), deep.id().to_string());
    let mut arguments = vec!["--all"];
    for namespace in [client.namespace().name(), &plain_id, &deep_id] {
        arguments.extend(["--netns", namespace]);
    }
    arguments.extend(SMALL);
    let daemon = Daemon::start(machine, 7501, &arguments);
    for (address, server, hop_count) in [
        ("10.88.1.2", "edge-own", 2),
        ("10.88.2.2", "edge-plain", 4),
        ("10.88.3.2", "edge-deep", 4),
    ] {
        let name = format!("{server}-c");
        let mut asker = asker(client, &name, address, "8200");
        let wanted = [[&*name, "process"], [server, "process"]];
        let found = ask_until_named(&daemon, &mut asker, address, wanted);
        assert_eq!(found["path"].as_array().unwrap().len(), hop_count);
        asker.close();
        let total = sent_at_all_hops(&daemon, &found, hop_count);
        // The first packets came before the client's name.
        await_pairs(&daemon, server, &["10.88.1.1", &name], total);
    }
}

fn comm(process: u32) -> String {
    let path = format!("/proc/{process}/comm");
    std::fs::read_to_string(path).unwrap().trim_end().to_owned()
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn units_and_containers_are_named_by_their_cgroups() {
    const CONTAINER: &str = "3f2a91bc02de4c1b8f0e6d5a7c9b1e2f3a4d5c6b7e8f90a1b2c3d4e5f60718ab";
    let slice = match Slice::new() {
        Ok(slice) => slice,
        Err(why) => {
            println!("SKIPPED: names by cgroup: {why}");
            return;
        }
    };
    let range = range(NESTED);
    let (client, machine) = (
        range.host("client").unwrap(),
        range.host("machine").unwrap(),
    );
    let mut server = Service::start(machine, &[], "edge-server", &["serve", "8201"]);
    slice.put(&server, "edge-unit.service");
    server.go_on_until("listens");
    let arguments = [&["--all", "--netns", client.namespace().name()], &SMALL[..]].concat();
    let daemon = Daemon::start(machine, 7502, &arguments);
    let mut asker = asker(client, "edge-asker", "10.88.1.2", "8201");
    slice.put(&asker, &format!("docker-{CONTAINER}.scope"));
    let in_container = format!("edge-asker@{}", &CONTAINER[..12]);
    let wanted = [[&*in_container, "workload"], ["edge-unit", "workload"]];
    let found = ask_until_named(&daemon, &mut asker, "10.88.1.2", wanted);
    asker.close();
    let total = sent_at_all_hops(&daemon, &found, 2);
    await_pairs(&daemon, "edge-unit", &["10.88.1.1", &in_container], total);
}

const TRANSLATED: &str = "
nodes:
  - { name: client }
  - name: router
    kind: router
    firewall:
      - { verdict: dnat, protocol: tcp, destination: 10.99.0.1/32, port: 80,
          to: \"10.89.2.2:8202\" }
    nft: |
      table inet truth {
        chain through {
          type filter hook forward priority 0;
          ip saddr 10.89.1.1 tcp dport 8202 counter
          ip daddr 10.89.1.1 tcp sport 8202 counter
        }
      }
  - { name: server }
links:
  - a: { node: client, addresses: [10.89.1.1/24] }
    b: { node: router, addresses: [10.89.1.2/24] }
  - a: { node: router, addresses: [10.89.2.1/24] }
    b: { node: server, addresses: [10.89.2.2/24] }
";

/// Packets and bytes of both directions, as the router's firewall counted them.
fn truth(router: &Host) -> [u64; 4] {
    let table = ["nft", "-j", "list", "table", "inet", "truth"];
    let ruleset: Value = serde_json::from_str(&router.exec(&table).unwrap()).unwrap();
    let rules = ruleset["nftables"].as_array().unwrap().iter();
    let counters: Vec<u64> = rules
        .filter_map(|entry| {
            let parts = entry["rule"]["expr"].as_array()?;
            parts.iter().find_map(|part| part.get("counter"))
        })
        .flat_map(|counter| ["packets", "bytes"].map(|what| counter[what].as_u64().unwrap()))
        .collect();
    counters.try_into().unwrap()
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn behind_address_translation_each_host_names_what_it_can_see() {
    let range = range(TRANSLATED);
    let [client, router, server] =
        ["client", "router", "server"].map(|name| range.host(name).unwrap());
    let mut service = Service::start(server, &[], "edge-server", &["serve", "8202"]);
    service.go_on_until("listens");
    let arguments = [&["--all"], &SMALL[..]].concat();
    let [at_client, at_router, at_server] =
        [client, router, server].map(|host| Daemon::start(host, 7503, &arguments));

    let mut asker = asker(client, "edge-asker", "10.99.0.1", "80");
    let none = ["none", "none"];
    let named = [["edge-asker", "process"], none];
    let outside = ask_until_named(&at_client, &mut asker, "10.99.0.1", named);
    assert_eq!(outside["server"]["port"], 80, "{outside:#}");
    let named = [none, ["edge-server", "process"]];
    let inside = ask_until_named(&at_server, &mut asker, "10.89.2.2", named);
    assert_eq!(inside["server"]["port"], 8202, "{inside:#}");
    assert_eq!(inside["client"]["address"], "10.89.1.1", "{inside:#}");
    // The router sees both tuples, each at one hop, of one conversation with the nearest ends.
    let through = ask_until_named(&at_router, &mut asker, "10.89.2.2", [none, none]);
    assert_eq!(through["path"].as_array().unwrap().len(), 2, "{through:#}");
    assert_eq!(through["client"]["address"], "10.89.1.1", "{through:#}");
    assert_eq!(conversations(&at_router, "10.99.0.1").len(), 0);
    asker.close();

    let totals = [
        sent_at_all_hops(&at_client, &outside, 1),
        sent_at_all_hops(&at_server, &inside, 1),
        sent_at_all_hops(&at_router, &through, 2),
    ];
    let truth = truth(router);
    println!("the firewall counted {truth:?}, the daemons {totals:?}");
    assert_eq!(totals, [truth; 3]);
    await_pairs(&at_client, "10.99.0.1", &["10.89.1.1", "edge-asker"], truth);
    await_pairs(&at_server, "edge-server", &["10.89.1.1"], truth);
    // Counted once; what came before the second hop told of it, for the server known by then.
    let servers = ["10.99.0.1", "10.89.2.2"];
    await_pairs_of(&at_router, &servers, &["10.89.1.1"], truth);
    for (daemon, pair_count) in [(&at_client, 2), (&at_router, 2), (&at_server, 1)] {
        let page = daemon.get("/api/v1/pairs?protocol=tcp&limit=1000");
        let pairs = page["pairs"].as_array().unwrap().iter();
        // The questions of this test itself come over the loopback.
        let others = pairs.filter(|pair| pair["port"] == 80 || pair["port"] == 8202);
        assert!(others.count() <= pair_count, "{page:#}");
    }
}
