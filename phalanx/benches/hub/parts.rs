//! Agents that deliver their parts of a capture, as a process: records of the size that headers
//! have, so many a second.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use phalanx::link::connection::{Address, connect};
use phalanx::link::protocol::capture_part::Part;
use phalanx::link::protocol::{CaptureBegin, CapturePart};
use phalanx::pcapng::{Interface, Packet, Writer};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_stream::wrappers::ReceiverStream;

use crate::fleet::Fleet;

/// Where a process of this program finds that it is this load.
pub(crate) const ORDER: &str = "PHALANX_BENCH_PARTS";
/// Bytes of a record: Ethernet, IPv4, TCP with timestamps.
const RECORD_BYTES: usize = 66;
/// Records that travel together: some 64 KiB, as agents send them.
const PART_RECORD_COUNT: usize = 600;
/// Parts that wait for the connection, as in an agent.
const PART_COUNT_MAX: usize = 4;

/// What the load is to be.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) fleet: PathBuf,
    pub(crate) hub: SocketAddr,
    pub(crate) agent_count: usize,
    /// Id of the capture.
    pub(crate) capture: String,
    /// Records a second of all agents.
    pub(crate) rate: u64,
    pub(crate) seconds: u64,
}

/// What was delivered.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Delivered {
    pub(crate) records: u64,
    pub(crate) bytes: u64,
    /// CPU of this process in seconds is read by whoever started it; this is its run.
    pub(crate) seconds: f64,
}

/// Delivers; tells what at the end, one line of JSON.
pub(crate) fn run(order: &Order) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let delivered = runtime.block_on(async {
        let mut agents = tokio::task::JoinSet::new();
        for number in 0..order.agent_count {
            agents.spawn(deliver(order.clone(), number));
        }
        let mut sum = Delivered::default();
        while let Some(delivered) = agents.join_next().await {
            let delivered = delivered??;
            sum.records += delivered.records;
            sum.bytes += delivered.bytes;
            sum.seconds = sum.seconds.max(delivered.seconds);
        }
        anyhow::Ok(sum)
    })?;
    println!("{}", serde_json::to_string(&delivered)?);
    Ok(())
}

/// The beginning of a file, and records that follow on it, again and again.
fn file() -> Result<(Bytes, Bytes)> {
    let mut writer = Writer::new(Vec::new(), "a load")?;
    let interface = writer.add_interface(&Interface {
        name: "eth0".to_owned(),
        description: String::new(),
        link_type: 1,
        snap_length: 0,
        filter: String::new(),
    })?;
    let head = std::mem::take(writer.output_mut());
    for number in 0..PART_RECORD_COUNT as u64 {
        writer.write(&Packet {
            interface,
            time_ns: 1_700_000_000_000_000_000 + number,
            wire_length: 1_514,
            bytes: &[0x45; RECORD_BYTES],
            comment: "",
        })?;
    }
    Ok((head.into(), writer.finish()?.into()))
}

async fn deliver(order: Order, number: usize) -> Result<Delivered> {
    let tls = Fleet::new(&order.fleet).tls(number)?;
    let address = Address::parse(&format!("https://{}", order.hub))?;
    let mut client = connect(&address, Arc::new(tls)).await?;
    let (parts, outgoing) = mpsc::channel(PART_COUNT_MAX);
    let send = async |part: Part| parts.send(CapturePart { part: Some(part) }).await;
    let begin = CaptureBegin {
        id: order.capture.clone(),
        file: "1".to_owned(),
    };
    send(Part::Begin(begin)).await?;
    let response = client.deliver(ReceiverStream::new(outgoing)).await?;
    let mut receipts = response.into_inner();
    let first = receipts.message().await?.context("no receipt")?;
    ensure!(first.bytes == 0, "there is something already");
    let (head, records) = file()?;
    let mut delivered = Delivered {
        bytes: head.len() as u64,
        ..Delivered::default()
    };
    send(Part::Bytes(head)).await?;
    let rate = order.rate as f64 / order.agent_count as f64 / PART_RECORD_COUNT as f64;
    let mut turn = tokio::time::interval(Duration::from_secs_f64(1.0 / rate));
    turn.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let start = Instant::now();
    let count = (rate * order.seconds as f64).ceil() as u64;
    for _ in 0..count {
        turn.tick().await;
        send(Part::Bytes(records.clone())).await?;
        delivered.records += PART_RECORD_COUNT as u64;
        delivered.bytes += records.len() as u64;
    }
    delivered.seconds = start.elapsed().as_secs_f64();
    // What is on its way still comes; the part stays without an end.
    drop(parts);
    drop(receipts.message().await);
    Ok(delivered)
}
