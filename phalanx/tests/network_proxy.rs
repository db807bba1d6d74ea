//! A proxy between two hops: the connections on its two sides are two conversations, and are told
//! to carry the same, or, where headers alone were captured, to be one exchange by hypothesis. Who
//! fetches the same twice is no proxy. Run by `cargo xtask test --ring network`.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[path = "network/folder.rs"]
mod folder;
#[path = "network_proxy/session.rs"]
mod session;
#[path = "hops/told.rs"]
mod told;

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread::{JoinHandle, spawn};

use folder::Folder;
use phalanx_range::{Host, Range, Topology};
use serde_json::Value;
use session::{Pair, Sessions};

const TOPOLOGY: &str = "
nodes:
  - { name: client }
  - { name: proxy, kind: router }
  - { name: server }
links:
  - { a: { node: client }, b: { node: proxy } }
  - { a: { node: proxy }, b: { node: server } }
";

const PLACES: [(&str, &str, &str); 4] = [
    ("client", "client", "to-proxy"),
    ("near", "proxy", "to-client"),
    ("far", "proxy", "to-server"),
    ("server", "server", "to-proxy"),
];
const PORT: u16 = 8_080;
const PROXY_PORT: u16 = 3_128;
/// Connections, one after the other: each asks for something else, and for the same as the last.
const FETCH_COUNT: u8 = 12;
const ANSWER_BYTES: usize = 40_000;
/// Headers, and too little payload for a chunk of content.
const HEADER_BYTES: u32 = 96;

const SHARED: [&str; 1] = ["--shared-clock"];
const OF_PROXY: [&str; 2] = ["--same-clock", "near,far"];

/// Text that differs with its seed.
fn text(seed: u8, length: usize) -> Vec<u8> {
    let mut state = u32::from(seed).wrapping_mul(2_654_435_761) | 1;
    let letter = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        b'a' + (state >> 24) as u8 % 26
    };
    (0..length).map(letter).collect()
}

fn request(seed: u8) -> Vec<u8> {
    let mut request = vec![seed];
    request.extend(text(seed.wrapping_add(100), 400));
    request
}

fn serve(server: &Host, count: u8) -> JoinHandle<()> {
    let address = (server.ipv4().unwrap(), PORT);
    let bind = || TcpListener::bind(address);
    let listener = server.enter(bind).unwrap().unwrap();
    spawn(move || {
        for _ in 0..count {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = vec![0; request(0).len()];
            stream.read_exact(&mut asked).unwrap();
            stream.write_all(&text(asked[0], ANSWER_BYTES)).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            assert_eq!(stream.read(&mut [0]).unwrap(), 0);
        }
    })
}

/// Passes on what either side says, cut otherwise than it came.
fn pass_on(proxy: &Host, target: SocketAddr, count: u8) -> JoinHandle<()> {
    let bind = || TcpListener::bind(("0.0.0.0", PROXY_PORT));
    let listener = proxy.enter(bind).unwrap().unwrap();
    let connect = || (0..count).map(|_| TcpStream::connect(target).unwrap());
    let onward: Vec<TcpStream> = proxy.enter(|| connect().collect()).unwrap();
    spawn(move || {
        for server in onward {
            let (client, _) = listener.accept().unwrap();
            let back = (client.try_clone().unwrap(), server.try_clone().unwrap());
            let there = spawn(move || copy(client, server));
            copy(back.1, back.0);
            there.join().unwrap();
        }
    })
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    let mut piece = [0; 777];
    loop {
        match from.read(&mut piece).unwrap() {
            0 => break,
            count => to.write_all(&piece[..count]).unwrap(),
        }
    }
    to.shutdown(Shutdown::Write).unwrap();
}

fn fetch(client: &Host, target: SocketAddr, seed: u8) {
    let connect = || TcpStream::connect(target);
    let mut stream = client.enter(connect).unwrap().unwrap();
    stream.write_all(&request(seed)).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, text(seed, ANSWER_BYTES));
}

/// The report of what `work` does, and what that gives. No conversation passes the proxy, so that
/// nothing but an option tells of the clocks beyond.
fn record<T>(snap_bytes: u32, clocks: &[&str], work: impl FnOnce(&Range) -> T) -> (Value, T) {
    let alone = File::create(std::env::temp_dir().join("phalanx-range-network.lock")).unwrap();
    alone.lock().unwrap();
    let range = Range::build(&Topology::from_yaml_str(TOPOLOGY).unwrap()).unwrap();
    let folder = Folder::new("proxy");
    let capture = |(hop, node, interface): &(&str, &str, &str)| {
        let path = folder.0.join(format!("{hop}.pcap"));
        range
            .host(node)
            .unwrap()
            .capture(interface, &path, snap_bytes)
            .unwrap()
    };
    let captures: Vec<_> = PLACES.iter().map(capture).collect();
    let outcome = work(&range);
    for capture in captures {
        assert_eq!(capture.finish().unwrap().dropped, 0, "tcpdump was too slow");
    }
    let files: Vec<String> = PLACES.iter().map(|it| format!("{}.pcap", it.0)).collect();
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    let run = told::analyze(&folder.0, &files, clocks);
    (run.report.unwrap().all, outcome)
}

fn tcp(report: &Value) -> Vec<&Value> {
    let all = report["conversations"].as_array().unwrap();
    all.iter().filter(|it| it["protocol"] == "tcp").collect()
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn connections_on_both_sides_of_a_proxy_know_each_other() {
    let (report, ()) = record(0, &SHARED, |range| {
        let host = |name| range.host(name).unwrap();
        let server = serve(host("server"), FETCH_COUNT);
        let target = (host("server").ipv4().unwrap(), PORT).into();
        let proxy = pass_on(host("proxy"), target, FETCH_COUNT);
        let near = (host("proxy").ipv4().unwrap(), PROXY_PORT).into();
        for seed in 0..FETCH_COUNT {
            fetch(host("client"), near, seed);
        }
        proxy.join().unwrap();
        server.join().unwrap();
    });
    let conversations = tcp(&report);
    assert_eq!(conversations.len(), 2 * usize::from(FETCH_COUNT));
    for one in &conversations {
        let other = &one["proxied"]["conversation"];
        let other = conversations.iter().find(|it| it["id"] == *other);
        let other = other.unwrap_or_else(|| panic!("{} is alone", one["id"]));
        assert_eq!(other["proxied"]["conversation"], one["id"]);
        // One is on the client's side, the other on the server's.
        let ports = [one, other].map(|it| it["server"]["port"].as_u64().unwrap());
        assert_eq!(
            ports[0] + ports[1],
            u64::from(PORT + PROXY_PORT),
            "{ports:?}"
        );
        assert!(one["proxied"]["server_chunks"].as_u64().unwrap() > 20);
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn who_fetches_the_same_again_is_no_proxy() {
    let (report, ()) = record(0, &SHARED, |range| {
        let host = |name| range.host(name).unwrap();
        let server = serve(host("server"), 2);
        let target = (host("server").ipv4().unwrap(), PORT).into();
        fetch(host("client"), target, 3);
        fetch(host("client"), target, 3);
        server.join().unwrap();
    });
    let conversations = tcp(&report);
    assert_eq!(conversations.len(), 2);
    for one in conversations {
        assert_eq!(one["proxied"], Value::Null, "{one}");
        assert_eq!(
            one["path"],
            serde_json::json!(["client", "near", "far", "server"])
        );
    }
}

/// What is linked of sessions of which headers alone were captured; what the proxy did; and the
/// confidences.
fn linked(sessions: Sessions) -> (Vec<Pair>, Vec<Pair>, Vec<f64>) {
    let (report, passed) = record(HEADER_BYTES, &OF_PROXY, |range| sessions.play(range));
    let conversations = tcp(&report);
    let beyond = if sessions.is_pooled {
        1
    } else {
        sessions.clients
    };
    assert_eq!(conversations.len(), sessions.clients + beyond);
    let port = |it: &Value| it["client"]["port"].as_u64().unwrap() as u16;
    let (mut links, mut confidences) = (Vec::new(), Vec::new());
    for one in &conversations {
        assert_eq!(one["proxied"], Value::Null, "no content was captured");
        let proxies = one["proxies"].as_array();
        for link in proxies.into_iter().flatten() {
            assert_eq!(
                (&link["basis"], &link["hypothesis"]),
                (&"timing".into(), &true.into())
            );
            let other = conversations
                .iter()
                .find(|it| it["id"] == link["conversation"]);
            if link["side"] == "toward_server" {
                links.push((port(one), port(other.unwrap())));
                confidences.push(link["confidence"].as_f64().unwrap());
                let back = &other.unwrap()["proxies"][0];
                assert_eq!(
                    (&back["side"], &back["conversation"]),
                    (&"toward_client".into(), &one["id"])
                );
            }
        }
    }
    (links, passed, confidences)
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn headers_alone_make_a_hypothesis() {
    for (is_in_step, clients) in [(false, 4), (true, 2)] {
        let (links, passed, confidences) = linked(Sessions {
            clients,
            rounds: 20,
            is_in_step,
            is_pooled: false,
        });
        println!("in step {is_in_step}: {links:?} of {passed:?}, {confidences:?}");
        // None is crossed; most are found where they are not all in step.
        assert!(
            links.iter().all(|it| passed.contains(it)),
            "{links:?} {passed:?}"
        );
        assert!(is_in_step || links.len() >= 3, "{links:?} {passed:?}");
        assert!(
            confidences.iter().all(|it| *it > 0.1 && *it <= 0.5),
            "{confidences:?}"
        );
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn a_connection_that_serves_several_clients_is_nobodys() {
    let (links, ..) = linked(Sessions {
        clients: 3,
        rounds: 12,
        is_in_step: false,
        is_pooled: true,
    });
    assert_eq!(links, []);
}
