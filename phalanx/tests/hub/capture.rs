//! Captures that agents deliver: in pieces, over several connections, or not as they should.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use phalanx::agent::AgentFiles;
use phalanx::capture_file::CaptureFile;
use phalanx::link::connection::{Address, connect, explain_status};
use phalanx::link::credential::client_config;
use phalanx::link::protocol::capture_part::Part;
use phalanx::link::protocol::{CaptureBegin, CapturePart, CaptureReceipt};
use phalanx::pcapng::{Interface, Packet, Writer};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::stage::{Feeder, Folder, Hub, await_that, options};

/// An agent's way of delivering, beside its session.
struct Deliverer {
    address: Address,
    config: Arc<rustls::ClientConfig>,
}

impl Deliverer {
    /// Delivers these parts and nothing more: the receipts, and how it ended.
    async fn deliver(&self, parts: Vec<Part>) -> (Vec<u64>, Option<Status>) {
        let mut client = connect(&self.address, Arc::clone(&self.config))
            .await
            .unwrap();
        let (sender, outgoing) = mpsc::channel(parts.len());
        for part in parts {
            sender.send(CapturePart { part: Some(part) }).await.unwrap();
        }
        drop(sender);
        let mut receipts = Vec::new();
        let taking = async {
            let response = client.deliver(ReceiverStream::new(outgoing)).await?;
            let mut inbox = response.into_inner();
            while let Some(CaptureReceipt { bytes }) = inbox.message().await? {
                receipts.push(bytes);
            }
            Ok::<(), Status>(())
        };
        let ended = tokio::time::timeout(Duration::from_secs(30), taking).await;
        let status = ended.expect("the hub ends it").err();
        (receipts, status)
    }

    async fn fails(&self, parts: Vec<Part>, expected: &str) {
        let (_, status) = self.deliver(parts).await;
        let told = explain_status(&status.unwrap());
        assert!(told.contains(expected), "{told}");
    }
}

fn pcapng(packet_count: u32) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new(), "made for a test").unwrap();
    let interface = Interface {
        name: "eth0".to_owned(),
        description: String::new(),
        link_type: 101,
        snap_length: 0,
        filter: String::new(),
    };
    let interface = writer.add_interface(&interface).unwrap();
    for number in 0..packet_count {
        // UDP from 10.0.0.1 to 10.0.0.2 with the number as payload.
        let mut bytes = vec![
            0x45, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
        ];
        bytes.extend([0x10, 0, 0, 53, 0, 12, 0, 0]);
        bytes.extend(number.to_be_bytes());
        let packet = Packet {
            interface,
            time_ns: 1_700_000_000_000_000_000 + u64::from(number) * 1_000,
            wire_length: 32,
            bytes: &bytes,
            comment: "",
        };
        writer.write(&packet).unwrap();
    }
    writer.finish().unwrap()
}

fn end(view: &Value, packets: u32) -> Part {
    let mut told = view.clone();
    told["packets"] = packets.into();
    told["state"] = "complete".into();
    told["end_reason"] = "stopped".into();
    told["hosts"] = json!([]);
    Part::End(Bytes::from(told.to_string()))
}

fn host<'view>(view: &'view Value, name: &str) -> &'view Value {
    let hosts = view["hosts"].as_array().unwrap();
    hosts.iter().find(|it| it["host"] == name).unwrap()
}

#[test]
fn what_an_agent_delivers_harms_its_own_part_only() {
    let folder = Folder::new("deliver");
    let mut hub = Hub::make(&folder, "hub");
    hub.start();
    let address = Address::parse(&format!("https://{}", hub.agents)).unwrap();
    let mut feeders = Vec::new();
    let deliverers = ["good", "greedy", "liar", "zipped", "twice"].map(|name| {
        let directory = hub.enroll(&folder, name);
        let mut feeder = Feeder::start(options(&directory, hub.agents), 1, 10);
        feeder.feed(10);
        feeder.await_acknowledged();
        feeders.push(feeder);
        Deliverer {
            address: address.clone(),
            config: Arc::new(client_config(AgentFiles::new(&directory).tls()).unwrap()),
        }
    });
    await_that("the agents are told of with their hops", || {
        let agents = hub.get("/api/v1/agents");
        let agents = agents["agents"].as_array().unwrap().clone();
        agents.len() == 5 && agents.iter().all(|it| it["hop_count"] == 1)
    });
    let request = json!({ "filter": "udp", "duration": 600, "max_bytes": 10_000 });
    let view = hub.post("/api/v1/captures", &request);
    let id = view["id"].as_str().unwrap().to_owned();
    assert_eq!(view["hosts"].as_array().unwrap().len(), 5, "{view:#}");
    let begin_file = |file: &str| {
        Part::Begin(CaptureBegin {
            id: id.clone(),
            file: file.to_owned(),
        })
    };
    let begin = || begin_file("1");
    let bytes = |bytes: &[u8]| Part::Bytes(Bytes::copy_from_slice(bytes));
    let file = pcapng(50);
    let (first, rest) = file.split_at(1_001);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let [good, greedy, liar, zipped, twice] = &deliverers;
        good.fails(vec![bytes(first)], "must be an id").await;
        let unknown = CaptureBegin {
            id: "no/../such".to_owned(),
            file: "1".to_owned(),
        };
        good.fails(vec![Part::Begin(unknown)], "wants no part")
            .await;
        let view = Part::View(Bytes::from_static(b"{\"id\": 1}"));
        good.fails(vec![begin(), view], "the view of a capture")
            .await;
        let view = Part::View(vec![b' '; 40_000].into());
        good.fails(vec![begin(), view], "too large").await;
        good.fails(vec![begin(), begin()], "told before").await;
        // In two pieces, each once.
        let (receipts, status) = good.deliver(vec![begin(), bytes(first)]).await;
        assert_eq!(receipts, [0]);
        assert!(explain_status(&status.unwrap()).contains("broke off"));
        let told = end(&view_of(&hub, &id), 50);
        let (receipts, status) = good.deliver(vec![begin(), bytes(rest), told.clone()]).await;
        assert_eq!(receipts, [first.len() as u64, file.len() as u64]);
        assert!(status.is_none());
        good.fails(vec![begin(), told], "wants no part").await;

        // Nothing that would be unpacked, nothing without an end, nothing of another file.
        let gzip = bytes(&[0x1f, 0x8b, 8, 0]);
        greedy
            .fails(vec![begin(), bytes(&[])], "nothing in a part")
            .await;
        let mut much = file.clone();
        much.resize(60_000, 0);
        let parts = vec![begin(), bytes(&much), bytes(&much)];
        greedy.fails(parts, "more than it was asked for").await;
        let (_, status) = zipped.deliver(vec![begin(), gzip]).await;
        assert!(explain_status(&status.unwrap()).contains("must be a pcapng file"));
        let (_, status) = twice.deliver(vec![begin(), bytes(first)]).await;
        assert!(status.is_some());
        let parts = vec![begin_file("2"), bytes(first)];
        twice.fails(parts, "restarted while it captured").await;
        let mut noise: Vec<u8> = (0..5_000_u32).map(|it| ((it * it) >> 3) as u8).collect();
        noise[..4].copy_from_slice(&file[..4]);
        let told = end(&view_of(&hub, &id), u32::MAX);
        let (_, status) = liar.deliver(vec![begin(), bytes(&noise), told]).await;
        assert!(status.is_none());
    });
    await_that("the capture has ended", || {
        view_of(&hub, &id)["state"] != "running"
    });
    let view = view_of(&hub, &id);
    println!("{view:#}");
    assert_eq!(view["state"], "partial");
    assert_eq!(host(&view, "good")["state"], "complete");
    for name in ["greedy", "zipped"] {
        assert_eq!(host(&view, name)["losses"][0]["kind"], "host_refused");
    }
    assert_eq!(host(&view, "twice")["losses"][0]["kind"], "host_away");
    // What is no capture is left out, and said.
    let losses = view["losses"].to_string();
    assert!(losses.contains("not_merged"), "{losses}");
    let merged = std::fs::read(hub.directory.join(format!("captures/{id}.pcapng"))).unwrap();
    let mut merged = CaptureFile::from_reader("merged", std::io::Cursor::new(merged)).unwrap();
    let frames = merged.frames().unwrap();
    let name = |interface: usize| merged.interfaces()[interface].name.as_str();
    let good = frames.iter().filter(|it| name(it.interface) == "good");
    assert_eq!(good.count(), 50);
    let report = hub.get(&format!("/api/v1/captures/{id}/report"));
    assert_eq!(
        report["conversations"].as_array().unwrap().len(),
        1,
        "{report:#}"
    );
    assert!(hub.is_alive());
    for feeder in feeders {
        feeder.end();
    }
}

#[test]
fn what_the_hub_cannot_write_is_not_acknowledged() {
    let folder = Folder::new("deliver-full");
    let mut hub = Hub::make(&folder, "hub");
    hub.file_bytes_max = Some(1 << 20);
    hub.start();
    let directory = hub.enroll(&folder, "web");
    let mut feeder = Feeder::start(options(&directory, hub.agents), 1, 10);
    feeder.feed(10);
    feeder.await_acknowledged();
    let deliverer = Deliverer {
        address: Address::parse(&format!("https://{}", hub.agents)).unwrap(),
        config: Arc::new(client_config(AgentFiles::new(&directory).tls()).unwrap()),
    };
    await_that("the agent is told of with its hop", || {
        hub.agent("web")["hop_count"] == 1
    });
    let request = json!({ "filter": "udp", "duration": 600 });
    let view = hub.post("/api/v1/captures", &request);
    let id = view["id"].as_str().unwrap().to_owned();
    let begin = CaptureBegin {
        id: id.clone(),
        file: "1".to_owned(),
    };
    // 100 bytes too many, and all of them in one part: nothing comes after it that would fail.
    let mut file = pcapng(10);
    file.resize((1 << 20) + 100, 0);
    let parts = vec![Part::Begin(begin), Part::Bytes(file.into()), end(&view, 10)];
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (receipts, status) = runtime.block_on(deliverer.deliver(parts));
    assert_eq!(receipts, [0], "{status:?}");
    assert!(explain_status(&status.unwrap()).contains("cannot write"));
    await_that("the capture has ended", || {
        view_of(&hub, &id)["state"] != "running"
    });
    let view = view_of(&hub, &id);
    assert_eq!(view["state"], "partial");
    assert_eq!(host(&view, "web")["losses"][0]["kind"], "write_failed");
    assert!(hub.is_alive());
    feeder.end();
}

fn view_of(hub: &Hub, id: &str) -> Value {
    hub.get(&format!("/api/v1/captures/{id}"))
}
