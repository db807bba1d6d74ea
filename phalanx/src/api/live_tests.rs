//! The API over real sockets: WebSocket, limits, the client of the commands.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use phalanx_common::abi::update_reason;
use phalanx_engine::Input;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_tungstenite::tungstenite::Message;

use super::fixture::{Fixture, Scratch, record, settings, update};
use super::serve::{CONNECTION_COUNT_MAX, Listen, Server};
use crate::capture_file::CaptureFile;
use crate::daemon::Record;
use crate::stream::REPLAY_COUNT_MAX;

/// Serves a fixture's API at an address of its own, until the sender is dropped.
async fn serve(fixture: &Fixture) -> (SocketAddr, watch::Sender<bool>) {
    let listen = Listen {
        address: "127.0.0.1:0".parse().unwrap(),
        tls: None,
    };
    let server = Server::bind(&listen, false).await.unwrap();
    let address = server.address().unwrap();
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(server.run(fixture.router(), stopped));
    (address, stop)
}

type Socket = tokio_tungstenite::WebSocketStream<TcpStream>;

async fn follow(address: SocketAddr, query: &str) -> Socket {
    let stream = TcpStream::connect(address).await.unwrap();
    let uri = format!("ws://{address}/api/v1/stream{query}");
    tokio_tungstenite::client_async(uri, stream)
        .await
        .unwrap()
        .0
}

async fn next(socket: &mut Socket) -> Value {
    loop {
        let message = tokio::time::timeout(Duration::from_secs(5), socket.next()).await;
        match message.unwrap().unwrap().unwrap() {
            Message::Text(text) => return serde_json::from_str(&text).unwrap(),
            Message::Ping(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn the_stream_resumes_where_a_client_left_it() {
    let scratch = Scratch::new();
    let mut fixture = Fixture::with_traffic(settings(&scratch));
    let (address, _stop) = serve(&fixture).await;
    let mut socket = follow(address, "?after=0").await;
    let hello = next(&mut socket).await;
    assert_eq!(hello["type"], "hello");
    let latest = hello["sequence"].as_u64().unwrap();
    for expected in 1..=latest {
        let change = next(&mut socket).await;
        assert_eq!(change["type"], "change");
        assert_eq!(change["sequence"], expected);
    }
    socket.close(None).await.unwrap();
    fixture.update(1, &update(1, 6, 3, update_reason::INTERVAL));
    fixture.publish();
    let stream = hello["stream"].as_str().unwrap();
    let mut socket = follow(address, &format!("?after={latest}&stream={stream}")).await;
    assert_eq!(next(&mut socket).await["type"], "hello");
    let change = next(&mut socket).await;
    assert_eq!(change["sequence"], latest + 1);
    assert_eq!(change["kind"], "flow_updated");
    // Another run of the daemon has other numbers.
    let mut socket = follow(address, "?after=5&stream=another").await;
    next(&mut socket).await;
    assert_eq!(next(&mut socket).await["reason"], "restarted");
}

#[tokio::test]
async fn a_recorded_flow_is_told_of_when_it_ends() {
    let scratch = Scratch::new();
    let mut fixture = Fixture::with_traffic(settings(&scratch));
    let (address, _stop) = serve(&fixture).await;
    let mut socket = follow(address, "?kinds=flow_traced").await;
    next(&mut socket).await;
    let Record { hop, header, bytes } = record(1, 1, 900);
    let (header, bytes) = (&header, &bytes[..]);
    let now = crate::clock::now();
    fixture
        .engine
        .handle(Input::Record { hop, header, bytes }, now);
    fixture.engine.handle(Input::HopVanished(hop), now);
    fixture.engine.handle_deadline(now);
    fixture.publish();
    let traced = next(&mut socket).await;
    assert_eq!(
        (&traced["kind"], &traced["hop"]),
        (&"flow_traced".into(), &"1".into())
    );
    assert_eq!(
        (&traced["state"], &traced["protocol"]),
        (&"established".into(), &"tcp".into())
    );
    assert_eq!(
        traced["server"],
        json!({"address": "10.0.1.1", "port": 443})
    );
    let sent = json!({
        "packets": 1, "bytes": 940, "data_packets": 1, "payload_bytes": 900, "unique_bytes": 900,
        "cut_packets": 1,
    });
    assert_eq!(traced["counts"], json!({"client": sent, "server": {}}));
    // What was not measured is absent.
    let turns = json!({"count": 0, "is_last_unanswered": true});
    assert_eq!(traced["turns"], turns);
    assert_eq!(traced["time_budget_ms"].as_object().unwrap().len(), 11);
}

#[tokio::test]
async fn a_client_that_is_too_far_behind_is_told_what_it_missed() {
    let scratch = Scratch::new();
    let mut fixture = Fixture::with_traffic(settings(&scratch));
    let (address, _stop) = serve(&fixture).await;
    for version in 3..REPLAY_COUNT_MAX as u32 {
        fixture.update(1, &update(1, 6, version, update_reason::INTERVAL));
        fixture.publish();
    }
    let mut socket = follow(address, "?after=1").await;
    next(&mut socket).await;
    let gap = next(&mut socket).await;
    assert_eq!(
        (&gap["type"], &gap["reason"]),
        (&"gap".into(), &"behind".into())
    );
    assert_eq!(gap["first"], 2);
    assert_eq!(
        next(&mut socket).await["sequence"],
        gap["last"].as_u64().unwrap() + 1
    );
}

#[tokio::test]
async fn the_stream_can_be_narrowed_and_is_bounded() {
    let scratch = Scratch::new();
    let fixture = Fixture::with_traffic(settings(&scratch));
    let (address, _stop) = serve(&fixture).await;
    let mut socket = follow(address, "?after=0&kinds=hop_appeared,flow_closed").await;
    next(&mut socket).await;
    let kinds = [
        next(&mut socket).await,
        next(&mut socket).await,
        next(&mut socket).await,
    ];
    assert_eq!(kinds[0]["kind"], "hop_appeared");
    assert_eq!(kinds[2]["kind"], "flow_closed");
    let mut sockets = Vec::new();
    for _ in 1..super::stream::READER_COUNT_MAX {
        sockets.push(follow(address, "").await);
    }
    let stream = TcpStream::connect(address).await.unwrap();
    let uri = format!("ws://{address}/api/v1/stream");
    let refused = tokio_tungstenite::client_async(uri, stream)
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("429"), "{refused}");
    socket.send(Message::Close(None)).await.unwrap();
}

#[tokio::test]
async fn connections_are_bounded() {
    let scratch = Scratch::new();
    let fixture = Fixture::with_traffic(settings(&scratch));
    let (address, _stop) = serve(&fixture).await;
    let mut held = Vec::new();
    for _ in 0..CONNECTION_COUNT_MAX {
        held.push(TcpStream::connect(address).await.unwrap());
    }
    let mut beyond = TcpStream::connect(address).await.unwrap();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(5), beyond.read_to_end(&mut answer)).await;
    assert!(matches!(read.unwrap(), Ok(0) | Err(_)), "{answer:?}");
    drop(held);
    let mut request = TcpStream::connect(address).await.unwrap();
    let text = "GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    for _ in 0..50 {
        answer.clear();
        if request.write_all(text.as_bytes()).await.is_ok()
            && request.read_to_end(&mut answer).await.is_ok()
            && answer.starts_with(b"HTTP/1.1 200")
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        request = TcpStream::connect(address).await.unwrap();
    }
    panic!("no place became free");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let scratch = Scratch::new();
    let fixture = Fixture::with_traffic(settings(&scratch));
    let (_held, never) = http_body_util::channel::Channel::<axum::body::Bytes>::new(1);
    let request = super::fixture::request("POST", "/api/v1/captures")
        .header("content-type", "application/json");
    let answer = fixture
        .send(request.body(axum::body::Body::new(never)).unwrap())
        .await;
    assert_eq!(answer.status.as_u16(), 408, "{}", answer.text());
}

#[tokio::test]
async fn a_download_follows_the_capture_to_its_end() {
    let scratch = Scratch::new();
    let fixture = Fixture::with_traffic(settings(&scratch));
    let created = fixture
        .post("/api/v1/captures", r#"{"filter": "tcp"}"#)
        .await
        .json();
    let id = created["id"].as_str().unwrap().to_owned();
    let uri = format!("/api/v1/captures/{id}/file?follow=true");
    let captures = fixture.captures();
    let router = fixture.router();
    let download = tokio::spawn(async move {
        use tower::ServiceExt;
        let request = super::fixture::request("GET", &uri);
        let response = router
            .oneshot(request.body(axum::body::Body::empty()).unwrap())
            .await;
        axum::body::to_bytes(response.unwrap().into_body(), usize::MAX)
            .await
            .unwrap()
    });
    for _ in 0..5 {
        captures.dispatch(vec![record(1, 1, 3)]);
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    captures.stop(&id).await.unwrap();
    let body = tokio::time::timeout(Duration::from_secs(5), download)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(captures.get(&id).unwrap().bytes, body.len() as u64);
    let mut capture = CaptureFile::from_reader("capture", std::io::Cursor::new(body)).unwrap();
    assert_eq!(capture.frames().unwrap().len(), 5);
}
