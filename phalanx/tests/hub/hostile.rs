//! An agent that was let in and is hostile ends its own sessions, and harms nobody.

use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use phalanx::agent::AgentFiles;
use phalanx::link::connection::{Address, Connection, connect, explain_status};
use phalanx::link::credential::client_config;
use phalanx::link::protocol::agent_message::Message;
use phalanx::link::protocol::hub_client::HubClient;
use phalanx::link::protocol::hub_message::Message as FromHub;
use phalanx::link::protocol::item::Kind;
use phalanx::link::protocol::{AgentMessage, Batch, Contents, Hello, Hop, HubMessage, Item};
use phalanx::link::{Batcher, PROTOCOL_VERSION, Told};
use phalanx_common::abi::ABI_VERSION;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use zerocopy::IntoBytes;

use crate::stage::{BOOT, Feeder, Folder, Hub, await_that, monotonic, options, update};

struct Hostile {
    address: Address,
    config: Arc<rustls::ClientConfig>,
}

impl Hostile {
    async fn connect(&self) -> HubClient<Connection> {
        connect(&self.address, Arc::clone(&self.config))
            .await
            .unwrap()
    }

    /// Says these messages; what the hub says in the end.
    async fn say(&self, messages: Vec<AgentMessage>) -> String {
        let mut client = self.connect().await;
        // Open still: the hub ends it.
        let (outbox, outgoing) = mpsc::channel(messages.len() + 1);
        for message in messages {
            outbox.send(message).await.unwrap();
        }
        let answer = async {
            let mut inbox: Streaming<HubMessage> = client
                .session(ReceiverStream::new(outgoing))
                .await?
                .into_inner();
            while inbox.message().await?.is_some() {}
            Ok::<(), tonic::Status>(())
        };
        let ended = tokio::time::timeout(Duration::from_secs(30), answer).await;
        let status = ended.expect("the hub ends it").unwrap_err();
        explain_status(&status)
    }
}

fn hello(run: u64) -> AgentMessage {
    message(Message::Hello(Hello {
        protocol_version: PROTOCOL_VERSION,
        abi_version: ABI_VERSION,
        version: "9.9.9".to_owned(),
        run,
    }))
}

fn message(message: Message) -> AgentMessage {
    AgentMessage {
        message: Some(message),
    }
}

/// A batch that is all right.
fn batch(run: u64, sequence: u64) -> Batch {
    contents(run, sequence, &[item(1, update(77, 1, 1).as_bytes())])
}

fn item(hop: u32, bytes: &[u8]) -> Item {
    Item {
        hop,
        kind: Some(Kind::Update(Bytes::copy_from_slice(bytes))),
    }
}

fn contents(run: u64, sequence: u64, items: &[Item]) -> Batch {
    let hop = Hop {
        id: 1,
        interface: "eth0".to_owned(),
        ..Hop::default()
    };
    let contents = Contents {
        now_ns: monotonic().0,
        wall_ns: 1,
        hops: vec![hop],
        items: items.to_vec(),
    };
    let plain = contents.encode_to_vec();
    Batch {
        run,
        sequence,
        first_item: sequence - 1,
        item_count: u32::try_from(items.len()).unwrap(),
        plain_length: u32::try_from(plain.len()).unwrap(),
        boot: Bytes::copy_from_slice(&BOOT),
        body: zstd::bulk::compress(&plain, 1).unwrap().into(),
        ..Batch::default()
    }
}

/// Batches that no agent sends, and what is said of them.
fn faults(run: u64) -> Vec<(&'static str, Batch)> {
    let good = batch(run, 1);
    let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 1).unwrap();
    let noise: Vec<u8> = (0..3_000_u32)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    let with = |change: &dyn Fn(&mut Batch)| {
        let mut batch = good.clone();
        change(&mut batch);
        batch
    };
    let many: Vec<Item> = vec![Item::default(); 200_000];
    vec![
        (
            "cannot be unpacked",
            with(&|it| it.body = noise.clone().into()),
        ),
        (
            "cannot be unpacked",
            with(&|it| {
                it.body = bomb.clone().into();
                it.plain_length = 1_000;
            }),
        ),
        ("at most", with(&|it| it.plain_length = u32::MAX)),
        ("bytes are not as many", with(&|it| it.plain_length += 1)),
        ("items are not as many", with(&|it| it.item_count += 1)),
        (
            "items are not as many",
            with(&|it| it.item_count = u32::MAX),
        ),
        ("items are not as many", contents(run, 1, &many)),
        (
            "a boot id of a wrong length",
            with(&|it| it.boot = Bytes::new()),
        ),
        (
            "cannot be read",
            with(&|it| {
                it.plain_length = 12_000;
                it.body = zstd::bulk::compress(&noise, 1).unwrap().into();
            }),
        ),
        (
            "which the batch does not name",
            contents(run, 1, &[item(2, update(77, 1, 1).as_bytes())]),
        ),
        (
            "an update of a wrong length",
            contents(run, 1, &[item(1, &[0; 7])]),
        ),
        ("are said to be missing", batch(run, 5)),
        ("are said to be missing", with(&|it| it.first_item = 9)),
        ("are said to be missing", with(&|it| it.dropped_batches = 9)),
        ("", with(&|it| it.body = vec![0; 8 << 20].into())),
    ]
}

#[test]
fn whatever_an_agent_sends_harms_nobody_but_itself() {
    let folder = Folder::new("hostile");
    let mut hub = Hub::make(&folder, "hub");
    hub.start();
    let good = hub.enroll(&folder, "good");
    let bad = hub.enroll(&folder, "bad");
    let mut feeder = Feeder::start(options(&good, hub.agents), 1, 100);
    let hostile = Hostile {
        address: Address::parse(&format!("https://{}", hub.agents)).unwrap(),
        config: Arc::new(client_config(AgentFiles::new(&bad).tls()).unwrap()),
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let told = hostile
            .say(vec![message(Message::Batch(batch(1, 1)))])
            .await;
        assert!(told.contains("must be a hello"), "{told}");
        let told = hostile.say(vec![hello(0)]).await;
        assert!(told.contains("must have a number"), "{told}");
        let mut other = hello(1);
        if let Some(Message::Hello(hello)) = &mut other.message {
            hello.protocol_version = PROTOCOL_VERSION + 1;
        }
        let told = hostile.say(vec![other]).await;
        let versions = "the hub speaks protocol 1 (phalanx 0.1.0), the agent protocol 2 (phalanx \
                        9.9.9): update the hub";
        assert!(told.contains(versions), "{told}");
        let told = hostile.say(vec![hello(1), hello(1)]).await;
        assert!(told.contains("hello was said before"), "{told}");
        for (run, (expected, batch)) in (1..).zip(faults(1)) {
            let mut batch = batch;
            batch.run = run;
            let told = hostile
                .say(vec![hello(run), message(Message::Batch(batch))])
                .await;
            assert!(told.contains(expected), "{run}: {told}");
            println!("{told}");
        }
    });
    feeder.feed(1_000);
    feeder.await_acknowledged();
    // The agents are told of once a second.
    await_that("the good one is whole", || {
        hub.agent("good")["items"] == feeder.item_count
    });
    assert_eq!(hub.agent("good")["gaps"], 0);
    // Each of the faults; what came before them began no session.
    await_that("all of it is counted", || {
        hub.agent("bad")["refused_sessions"].as_u64() >= Some(12)
    });
    assert!(hub.is_alive());
    feeder.end();
}

#[test]
fn one_that_never_reads_and_one_that_never_ends_keep_nobody_waiting() {
    let folder = Folder::new("endless");
    let mut hub = Hub::make(&folder, "hub");
    hub.start();
    let good = hub.enroll(&folder, "good");
    let bad = hub.enroll(&folder, "bad");
    let address = Address::parse(&format!("https://{}", hub.agents)).unwrap();
    let config = Arc::new(client_config(AgentFiles::new(&bad).tls()).unwrap());
    // Nobody speaks on these.
    let silent: Vec<TcpStream> = (0..64)
        .map(|_| TcpStream::connect(hub.agents).unwrap())
        .collect();
    let mut junk = TcpStream::connect(hub.agents).unwrap();
    junk.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let flood = runtime.spawn(async move {
        let mut client = connect(&address, config).await.unwrap();
        let (outbox, outgoing) = mpsc::channel(4);
        outbox.send(hello(1)).await.unwrap();
        let response = client.session(ReceiverStream::new(outgoing)).await;
        let mut inbox = response.unwrap().into_inner();
        let welcome = inbox.message().await.unwrap().unwrap();
        assert!(matches!(welcome.message, Some(FromHub::Welcome(_))));
        // No acknowledgement is read, no credit is kept to.
        let mut batcher = Batcher::new(1, BOOT).unwrap();
        let mut version = 0;
        loop {
            for flow in 0..2_000 {
                version += 1;
                let update = update(78, flow, version);
                let update = &update;
                let hop = phalanx_engine::HopId(1);
                let input = phalanx_engine::Input::Update { hop, update };
                if version == 1 {
                    let appeared = crate::stage::hop();
                    let input = phalanx_engine::Input::HopAppeared(appeared);
                    batcher.tell(&Told::Input(input), monotonic());
                }
                batcher.tell(&Told::Input(input), monotonic());
            }
            let batch = batcher.close(monotonic(), 1).unwrap().unwrap();
            if outbox.send(message(Message::Batch(batch))).await.is_err() {
                return;
            }
        }
    });
    let mut feeder = Feeder::start(options(&good, hub.agents), 1, 100);
    let before = hub.resident_bytes();
    for _ in 0..50 {
        feeder.feed(200);
        std::thread::sleep(Duration::from_millis(50));
    }
    feeder.await_acknowledged();
    let told = hub.agent("bad");
    println!("{told}");
    assert!(told["items"].as_u64().unwrap() > 0, "{told}");
    // The flows that it invents have their bound; nothing waits without one.
    let after = hub.resident_bytes();
    println!("{before} bytes before, {after} after");
    assert!(after < before + (300 << 20));
    await_that("the good one is whole", || {
        hub.agent("good")["items"] == feeder.item_count
    });
    flood.abort();
    drop((silent, junk));
    feeder.end();
}
