//! Address translation on the host that does it: what the daemon there tells, against what the
//! kernel's own table of connections says. Run by `cargo xtask test --ring network`.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[expect(dead_code, reason = "each test file uses its part")]
#[path = "network/daemon.rs"]
mod daemon;
#[path = "network/fleet.rs"]
mod fleet;
#[path = "network/folder.rs"]
mod folder;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Command;

use daemon::{BINARY, Daemon, STEP_TIMEOUT, await_that};
use fleet::{agent_of, enroll, make_hub, start_agent, start_hub};
use folder::Folder;
use phalanx_range::{Host, Range, Topology};
use serde_json::{Value, json};

/// One port is sent on to another address and port, its client hidden behind the router; datagrams
/// keep their destination; port 8204 is only passed on.
const TRANSLATED: &str = "
nodes:
  - { name: client }
  - name: router
    kind: router
    firewall:
      - { verdict: dnat, protocol: tcp, destination: 10.99.0.1/32, port: 80,
          to: \"10.92.2.2:8203\" }
      - { verdict: masquerade, protocol: tcp, destination: 10.92.2.2/32, port: 8203 }
      - { verdict: masquerade, protocol: udp, destination: 10.92.2.2/32, port: 8205 }
  - { name: server }
links:
  - a: { node: client, addresses: [10.92.1.1/24] }
    b: { node: router, addresses: [10.92.1.2/24] }
  - a: { node: router, addresses: [10.92.2.1/24] }
    b: { node: server, addresses: [10.92.2.2/24] }
";

fn range() -> Range {
    Range::build(&Topology::from_yaml_str(TRANSLATED).unwrap()).unwrap()
}

/// A connection between two hosts, which stays open.
struct Connection {
    client: TcpStream,
    server: TcpStream,
}

impl Connection {
    fn open(client: &Host, server: &Host, port: u16, to: &str) -> Self {
        let listener = server
            .enter(|| TcpListener::bind(("0.0.0.0", port)))
            .unwrap()
            .unwrap();
        let client = client.enter(|| TcpStream::connect(to)).unwrap().unwrap();
        let (server, _) = listener.accept().unwrap();
        Self { client, server }
    }

    /// Says something in both directions.
    fn talk(&mut self) {
        for _ in 0..10 {
            self.client.write_all(&[b'?'; 100]).unwrap();
            self.server.read_exact(&mut [0; 100]).unwrap();
            self.server.write_all(&[b'!'; 2_000]).unwrap();
            self.client.read_exact(&mut [0; 2_000]).unwrap();
        }
    }

    /// What each end takes for itself and the other: client and server, at the client's side and
    /// at the server's.
    fn ends(&self) -> [[SocketAddr; 2]; 2] {
        let ends = |it: &TcpStream| [it.local_addr().unwrap(), it.peer_addr().unwrap()];
        let [server, client] = ends(&self.server);
        [ends(&self.client), [client, server]]
    }
}

/// Datagrams of a client at a port of the server, and back; the sockets.
fn datagrams(client: &Host, server: &Host) -> ([[SocketAddr; 2]; 2], [UdpSocket; 2]) {
    let bind = |host: &Host, at: &str| host.enter(|| UdpSocket::bind(at)).unwrap().unwrap();
    let (asker, echo) = (bind(client, "10.92.1.1:0"), bind(server, "10.92.2.2:8205"));
    for socket in [&asker, &echo] {
        socket.set_read_timeout(Some(STEP_TIMEOUT)).unwrap();
    }
    let server_end = echo.local_addr().unwrap();
    let mut seen_as = server_end;
    for _ in 0..10 {
        asker.send_to(&[b'?'; 50], server_end).unwrap();
        (_, seen_as) = echo.recv_from(&mut [0; 100]).unwrap();
        echo.send_to(&[b'!'; 50], seen_as).unwrap();
        asker.recv_from(&mut [0; 100]).unwrap();
    }
    let inside = [asker.local_addr().unwrap(), server_end];
    ([inside, [seen_as, server_end]], [asker, echo])
}

/// The lines of the kernel's table of connections in a host's namespace: the ends inside, and those
/// outside.
fn kernel_table(host: &Host) -> Vec<[[SocketAddr; 2]; 2]> {
    let text = host.exec(&["cat", "/proc/net/nf_conntrack"]).unwrap();
    let connection = |line: &str| {
        let values = |key: &str| {
            let fields = line
                .split_whitespace()
                .filter_map(|it| it.strip_prefix(key));
            fields.map(str::to_owned).collect::<Vec<String>>()
        };
        let [source, destination, sport, dport] = ["src=", "dst=", "sport=", "dport="].map(values);
        let end = |address: &str, port: &str| {
            SocketAddr::new(address.parse().unwrap(), port.parse().unwrap())
        };
        Some([
            [
                end(source.first()?, sport.first()?),
                end(destination.first()?, dport.first()?),
            ],
            [
                end(destination.get(1)?, dport.get(1)?),
                end(source.get(1)?, sport.get(1)?),
            ],
        ])
    };
    text.lines().filter_map(connection).collect()
}

/// Ends as the API tells them.
fn told_ends(view: &Value) -> [SocketAddr; 2] {
    ["client", "server"].map(|side| {
        let end = &view[side];
        let address = end["address"].as_str().unwrap().parse().unwrap();
        SocketAddr::new(address, end["port"].as_u64().unwrap().try_into().unwrap())
    })
}

/// The conversation with these ends; `Null` where there is none.
fn conversation(daemon: &Daemon<'_>, ends: [SocketAddr; 2]) -> Value {
    let [client, server] = ends.map(|end| end.ip());
    let path = format!("/api/v1/conversations?client={client}&server={server}&limit=1000");
    let page = daemon.get(&path);
    let all = page["conversations"].as_array().unwrap().iter();
    let mut found = all.filter(|it| told_ends(it) == ends);
    found.next().cloned().unwrap_or_default()
}

/// Waits until the conversations on both sides tell of one translation, each with the other; the
/// one inside.
fn await_translation(daemon: &Daemon<'_>, host: &str, [inside, outside]: [[SocketAddr; 2]; 2]) {
    let mut both = [Value::Null, Value::Null];
    await_that("both conversations tell of the translation", || {
        both = [inside, outside].map(|ends| conversation(daemon, ends));
        let is_told = |it: &Value| it["translations"][0]["conversation"].is_string();
        both.iter().all(is_told)
    });
    for (view, other) in [(&both[0], &both[1]), (&both[1], &both[0])] {
        let all = view["translations"].as_array().unwrap();
        assert_eq!(all.len(), 1, "{view:#}");
        assert_eq!(all[0]["host"], host, "{view:#}");
        assert_eq!(all[0]["conversation"], other["id"], "{view:#}");
        assert_eq!(told_ends(&all[0]["inside"]), inside, "{view:#}");
        assert_eq!(told_ends(&all[0]["outside"]), outside, "{view:#}");
    }
}

/// The ends of a connection as they are seen from nearest.
fn near_ends([inside, outside]: [[SocketAddr; 2]; 2]) -> [SocketAddr; 2] {
    [inside[0], outside[1]]
}

/// Waits until the one conversation of a connection tells of its translation.
fn await_joined(daemon: &Daemon<'_>, host: &str, ends: [[SocketAddr; 2]; 2]) {
    let mut view = Value::Null;
    await_that("the conversation tells of the translation", || {
        view = conversation(daemon, near_ends(ends));
        view["translations"][0].is_object()
    });
    let all = view["translations"].as_array().unwrap();
    assert_eq!(all.len(), 1, "{view:#}");
    assert_eq!(all[0]["host"], host, "{view:#}");
    assert_eq!(all[0].get("conversation"), None, "{view:#}");
    let told = ["inside", "outside"].map(|side| told_ends(&all[0][side]));
    assert_eq!(told, ends, "{view:#}");
}

fn host_name() -> String {
    nix::unistd::gethostname().unwrap().into_string().unwrap()
}

/// What `phalanx analyze` says of files.
fn analyze(files: &[&Path]) -> Value {
    let output = Command::new(BINARY)
        .args(["analyze", "--format", "json"])
        .args(files)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The rewrites of addresses and ports in a report, by the server port inside.
fn rewrites(report: &Value, port: u16) -> Vec<Value> {
    let all = report["conversations"].as_array().unwrap().iter();
    let mut of_port = all.filter(|it| it["server"]["port"] == port);
    let found = of_port.next().unwrap_or_else(|| panic!("{report:#}"));
    found["rewrites"].as_array().cloned().unwrap_or_default()
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn what_the_kernel_translates_is_told_live_and_confirmed_in_captures() {
    let range = range();
    let [client, router, server] =
        ["client", "router", "server"].map(|name| range.host(name).unwrap());
    let folder = Folder::new("translation");
    let daemon = Daemon::start(router, 7521, &["--all"]);
    let body = json!({"filter": "tcp or udp", "duration": 120});
    let capture = daemon.post("/api/v1/captures", &body);
    assert_eq!(capture["state"], "running", "{capture}");

    let mut translated = Connection::open(client, server, 8203, "10.99.0.1:80");
    let mut plain = Connection::open(client, server, 8204, "10.92.2.2:8204");
    translated.talk();
    plain.talk();
    let (udp, _sockets) = datagrams(client, server);
    // What the sockets say is what the kernel's table says.
    let table = kernel_table(router);
    for ends in [translated.ends(), plain.ends(), udp] {
        assert!(table.contains(&ends), "{ends:?} in {table:?}");
    }
    assert_ne!(translated.ends()[0], translated.ends()[1]);
    let host = host_name();
    await_joined(&daemon, &host, translated.ends());
    await_translation(&daemon, &host, udp);
    let [ends, _] = plain.ends();
    let view = conversation(&daemon, ends);
    assert!(
        view.is_object() && view.get("translations").is_none(),
        "{view:#}"
    );
    // Once the daemon's second is over the metrics tell as well.
    await_that("the lookups are counted", || {
        let lookups = |outcome: &str| {
            let label = format!("outcome=\"{outcome}\"");
            daemon.metric("phalanx_translation_lookups_total", &[&label])
        };
        // Each is asked for at both hops; the questions of this test come over the loopback.
        lookups("translated") == 4 && lookups("untranslated") >= 2
    });

    let path = format!("/api/v1/captures/{}", capture["id"].as_str().unwrap());
    let capture = daemon.post(&format!("{path}/stop"), &json!({}));
    assert_eq!(capture["state"], "complete", "{capture}");
    let file = daemon.curl(&[], capture["file"].as_str().unwrap());
    assert_eq!(capture["bytes"], file.len());
    confirm(&folder, &file, &host);
    redact(&folder, &file, &host);
}

/// A report of the capture confirms what was translated; one of a capture whose host says otherwise
/// joins the same, and confirms nothing.
fn confirm(folder: &Folder, file: &[u8], host: &str) {
    let path = folder.0.join("router.pcapng");
    std::fs::write(&path, file).unwrap();
    let report = analyze(&[&path]);
    for port in [80, 8205] {
        let told = rewrites(&report, port);
        assert_eq!(told.len(), 1, "{told:#?}");
        assert_eq!(told[0]["confirmed_by"], "conntrack", "{told:#?}");
        assert_eq!(told[0]["host"], host, "{told:#?}");
    }
    assert!(rewrites(&report, 8204).is_empty());
    let merged = folder.0.join("merged.pcapng");
    let status = Command::new(BINARY)
        .args(["analyze", "--merge", merged.to_str().unwrap()])
        .arg(&path)
        .output()
        .unwrap();
    assert!(status.status.success(), "{status:?}");
    assert_eq!(
        rewrites(&analyze(&[&merged]), 80)[0]["confirmed_by"],
        "conntrack"
    );

    let other = replaced(file, b" 10.92.2.1:", b" 10.92.2.9:");
    let path = folder.0.join("other.pcapng");
    std::fs::write(&path, other).unwrap();
    let other = analyze(&[&path]);
    for port in [80, 8205] {
        let told = rewrites(&other, port);
        assert_eq!(told.len(), 1, "{told:#?}");
        assert_eq!(told[0]["fields"], rewrites(&report, port)[0]["fields"]);
        assert_eq!(told[0].get("confirmed_by"), None, "{told:#?}");
    }
}

fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut bytes = bytes.to_vec();
    let places: Vec<usize> = (0..bytes.len() - from.len())
        .filter(|at| bytes[*at..].starts_with(from))
        .collect();
    assert!(places.len() >= 2, "{places:?}");
    for at in places {
        bytes[at..at + to.len()].copy_from_slice(to);
    }
    bytes
}

/// Nothing of a translation is in a redacted capture.
fn redact(folder: &Folder, file: &[u8], host: &str) {
    let [from, to] = ["router.pcapng", "redacted.pcapng"].map(|name| folder.0.join(name));
    let output = Command::new(BINARY)
        .args(["redact", "-o", to.to_str().unwrap(), from.to_str().unwrap()])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let redacted = std::fs::read(&to).unwrap();
    let holds = |bytes: &[u8], text: &[u8]| bytes.windows(text.len()).any(|it| it == text);
    let secrets = [
        b"phalanx-translation".as_slice(),
        b"10.92.",
        b"10.99.0.1",
        host.as_bytes(),
        &[10, 92, 1, 1],
        &[10, 92, 2, 1],
        &[10, 99, 0, 1],
    ];
    for secret in secrets {
        assert!(holds(file, secret), "{secret:?} is in the capture");
        assert!(
            !holds(&redacted, secret),
            "{secret:?} is in the redacted capture"
        );
    }
    assert_eq!(rewrites(&analyze(&[&to]), 80).len(), 1);
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn where_it_is_not_asked_for_nothing_is_told_and_no_rule_changes() {
    let range = range();
    let [client, router, server] =
        ["client", "router", "server"].map(|name| range.host(name).unwrap());
    let rules = || router.exec(&["nft", "-s", "list", "ruleset"]).unwrap();
    let before = rules();
    let events = || router.exec(&["cat", "/proc/sys/net/netfilter/nf_conntrack_events"]);
    let events_before = events().unwrap();
    let off = Daemon::start(
        router,
        7522,
        &["--all", "--set", "connection_tracking=false"],
    );
    let on = Daemon::start(router, 7523, &["--all"]);
    let mut connection = Connection::open(client, server, 8203, "10.99.0.1:80");
    connection.talk();
    await_joined(&on, &host_name(), connection.ends());
    // What comes behind it is known at both.
    let mut later = Connection::open(client, server, 8203, "10.99.0.1:80");
    later.talk();
    await_joined(&on, &host_name(), later.ends());
    await_that("the other daemon has seen it as well", || {
        conversation(&off, near_ends(later.ends())).is_object()
    });
    for ends in [connection.ends(), later.ends()] {
        let view = conversation(&off, near_ends(ends));
        assert!(
            view.is_object() && view.get("translations").is_none(),
            "{view:#}"
        );
    }
    assert_eq!(off.metric("phalanx_translation_lookups_total", &[]), 0);
    assert_eq!(rules(), before);
    assert_eq!(events().unwrap(), events_before);
}

/// The hub hears of it, under the name of its agent, and of the client's agent that the connection
/// before the router is the one behind it.
#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn a_hub_tells_of_the_translation_of_an_agent() {
    const PORT: u16 = 7524;
    let range = range();
    let [client, router, server] =
        ["client", "router", "server"].map(|name| range.host(name).unwrap());
    let folder = Folder::new("translation-hub");
    let url = make_hub(&folder, server);
    let hub = start_hub(&folder, server, PORT);
    let watched: [(&Host, &str, &[&str]); 2] = [
        (client, "web-1", &["-i", "to-router"]),
        (router, "edge-1", &["-i", "to-client", "-i", "to-server"]),
    ];
    let mut agents = Vec::new();
    for (port, (host, name, arguments)) in (PORT + 1..).zip(watched) {
        enroll(&folder, host, &url, name);
        agents.push(start_agent(&folder, host, port, name, arguments));
    }
    await_that("both agents are there with their hops", || {
        [("web-1", 1), ("edge-1", 2)].iter().all(|(name, count)| {
            let agent = agent_of(&hub, name);
            agent["state"] == "connected" && agent["hop_count"] == *count
        })
    });
    let mut connection = Connection::open(client, server, 8203, "10.99.0.1:80");
    connection.talk();
    await_joined(&hub, "edge-1", connection.ends());
    let whole = || conversation(&hub, near_ends(connection.ends()));
    await_that("it was seen at all of its hops", || {
        whole()["path"].as_array().is_some_and(|it| it.len() == 3)
    });
    let id = whole()["id"].clone();

    // What is taken of its path goes on behind the router.
    let body = json!({"filter": "", "path_of": id, "duration": 60});
    let capture = hub.post("/api/v1/captures", &body);
    let path = format!("/api/v1/captures/{}", capture["id"].as_str().unwrap());
    await_that("the capture has begun on both hosts", || {
        let view = hub.get(&path);
        let hosts = view["hosts"].as_array().unwrap();
        hosts.len() == 2 && hosts.iter().all(|it| it["capture"].is_string())
    });
    connection.talk();
    hub.post(&format!("{path}/stop"), &json!({}));
    await_that("the capture has ended", || {
        hub.get(&path)["state"] != "running"
    });
    let report = hub.get(&format!("{path}/report"));
    assert_eq!(report["hops"].as_array().unwrap().len(), 3, "{report:#}");
    let told = rewrites(&report, 80);
    assert_eq!(told.len(), 1, "{told:#?}");
    assert_eq!(told[0]["confirmed_by"], "conntrack", "{told:#?}");
    // The hub's name of it, which its file does not say.
    assert_eq!(told[0]["host"], "edge-1", "{told:#?}");
    assert_ne!(host_name(), "edge-1");
}
