//! A recorded connection is told of by the stream as `phalanx analyze` tells of it from the file of
//! the same capture. Run by `cargo xtask test --ring network`.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[expect(dead_code, reason = "each test file uses its part")]
#[path = "network/daemon.rs"]
mod daemon;
#[path = "network/folder.rs"]
mod folder;

use std::net::{SocketAddr, TcpStream};

use daemon::{BINARY, Daemon, STEP_TIMEOUT};
use folder::Folder;
use phalanx_range::traffic::{Program, RequestResponse, Server, run};
use phalanx_range::{Host, Range, Topology};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::protocol::WebSocket;
use tokio_tungstenite::tungstenite::{Message, client};

const PLAIN: &str = "
nodes: [{ name: client }, { name: server }]
links: [{ a: { node: client }, b: { node: server }, offload: { tso: true, gso: true } }]
";

/// Follows the stories of traced flows.
fn follow(host: &Host, daemon: &Daemon<'_>) -> WebSocket<TcpStream> {
    let address: SocketAddr = daemon.api().parse().unwrap();
    let stream = host.enter(|| TcpStream::connect(address)).unwrap().unwrap();
    stream.set_read_timeout(Some(STEP_TIMEOUT)).unwrap();
    let uri = format!("ws://{address}/api/v1/stream?kinds=flow_traced");
    let (mut socket, _) = client::client(uri, stream).unwrap();
    assert_eq!(next(&mut socket)["type"], "hello");
    socket
}

fn next(socket: &mut WebSocket<TcpStream>) -> Value {
    loop {
        if let Message::Text(text) = socket.read().unwrap() {
            return serde_json::from_str(&text).unwrap();
        }
    }
}

fn analyze(file: &std::path::Path) -> Value {
    let output = std::process::Command::new(BINARY)
        .args(["analyze", "--format", "json", file.to_str().unwrap()])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let conversations = report["conversations"].as_array().unwrap();
    assert_eq!(conversations.len(), 1, "{report}");
    conversations[0].clone()
}

/// Compares what both doors tell, time apart by the steps of a clock that is kept right meanwhile.
fn compare(live: &Value, file: &Value) {
    for name in ["protocol", "client", "server", "state", "role_basis"] {
        assert_eq!(live[name], file[name], "{name}");
    }
    assert_eq!(live["turns"]["count"], file["turns"]["count"]);
    for side in ["client", "server"] {
        let counts = live["counts"][side].as_object().unwrap();
        for (name, count) in counts {
            assert_eq!(count, &file["features"][format!("{side}_{name}")], "{name}");
        }
        assert!(counts["packets"].as_u64().unwrap() > 20);
        assert_eq!(counts["cut_packets"], counts["data_packets"]);
    }
    let mut sum_ms = 0.0;
    for (bucket, ms) in live["time_budget_ms"].as_object().unwrap() {
        let (ms, file_ms) = (ms.as_f64().unwrap(), &file["time_budget_ms"][bucket]);
        assert!((ms - file_ms.as_f64().unwrap()).abs() < 1.0, "{bucket}");
        sum_ms += ms;
    }
    assert!((sum_ms - live["duration_s"].as_f64().unwrap() * 1e3).abs() < 1e-3);
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn the_stream_tells_of_a_recorded_flow_as_its_file_does() {
    let range = Range::build(&Topology::from_yaml_str(PLAIN).unwrap()).unwrap();
    let (client, server) = (range.host("client").unwrap(), range.host("server").unwrap());
    let folder = Folder::new("traced");
    let daemon = Daemon::start(client, 7461, &["-i", "to-server"]);
    let mut stories = follow(client, &daemon);
    let body = json!({"filter": "tcp port 8080", "duration": 120, "interfaces": ["to-server"]});
    let capture = daemon.post("/api/v1/captures", &body);
    assert_eq!(capture["state"], "running", "{capture}");

    let service = server.enter(|| Server::start(8080)).unwrap().unwrap();
    let target: SocketAddr = (server.ipv4().unwrap(), service.port()).into();
    let program = Program::RequestResponse(RequestResponse {
        requests: 20,
        response_bytes: 4_000,
        ..RequestResponse::default()
    });
    let outcome = client.enter(|| run(&program, target)).unwrap().unwrap();
    assert_eq!(outcome.error, None);

    let live = next(&mut stories);
    println!("{live}");
    assert_eq!(live["kind"], "flow_traced");
    assert_eq!(live["state"], "closed");
    assert_eq!(live["turns"]["count"], 20);
    let path = format!("/api/v1/captures/{}", capture["id"].as_str().unwrap());
    let capture = daemon.post(&format!("{path}/stop"), &json!({}));
    assert_eq!(capture["state"], "complete", "{capture}");
    let file = folder.0.join("capture.pcapng");
    std::fs::write(&file, daemon.curl(&[], capture["file"].as_str().unwrap())).unwrap();
    let file = analyze(&file);
    println!("{file}");
    compare(&live, &file);
    let packets = ["client", "server"].map(|side| live["counts"][side]["packets"].as_u64());
    let packets: u64 = packets.into_iter().map(Option::unwrap).sum();
    assert_eq!(capture["packets"], packets);
    let tally = &daemon.status()["status"]["kernel"]["engine"];
    assert_eq!(
        (&tally["records"], &tally["records_unparsed"]),
        (&packets.into(), &0.into())
    );
    assert_eq!(
        (&tally["traces_evicted"], &tally["stories_lost"]),
        (&0.into(), &0.into())
    );
}
