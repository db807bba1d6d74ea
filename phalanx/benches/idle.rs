//! What the daemon takes while nothing happens: the release daemon on one quiet interface, some
//! packets now and then, its CPU time, its memory and that of its maps.
#![allow(missing_docs)]
#![expect(
    clippy::unwrap_used,
    reason = "the daemon of the network tests, which may panic"
)]

use std::fs::{self, File};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use daemon::Daemon;
use nix::unistd::{SysconfVar, sysconf};
use phalanx_common::abi::FlowKey;
use phalanx_common::limits::{BUCKET_COUNT, EVENT_RING_SIZE, FLOW_COUNT_DEFAULT, RECORD_RING_SIZE};
use phalanx_common::watch::{Bucket, FlowEntry};
use phalanx_range::traffic::{Program, RequestResponse, Server, run};
use phalanx_range::{Range, Topology};

#[expect(dead_code, reason = "the tests use the rest")]
#[path = "../tests/network/daemon.rs"]
mod daemon;

const TOPOLOGY: &str = "
nodes: [{ name: peer }, { name: host }]
links: [{ a: { node: peer }, b: { node: host } }]
";

/// Longer than what the daemon does after its start, and than the time a closed flow is kept.
const SETTLE: Duration = Duration::from_secs(15);
const WINDOW: Duration = Duration::from_secs(30);
/// Between two exchanges of a handful of packets.
const EXCHANGE_INTERVAL: Duration = Duration::from_secs(5);

/// Budget: share of one CPU, in percent.
const CPU_PERCENT_BUDGET: f64 = 0.5;
/// Budget: resident memory, in bytes.
const RESIDENT_BUDGET: u64 = 60_000_000;

/// What the kernel keeps beside the key and the value of a hash map's entry, for an entry and a
/// bucket (`struct htab_elem`, `struct bucket`), in bytes.
const HASH_ENTRY_SIZE: usize = 48 + 16;
/// The maps beside the large ones, and the pages that the rings keep their positions in, in bytes.
const SMALL_MAPS_SIZE: usize = 128 << 10;

fn main() -> Result<()> {
    // `cargo test --benches` runs benches too, to see that they start.
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    let lock = File::create(std::env::temp_dir().join("phalanx-range-network.lock"))?;
    lock.lock()?;
    let range = Range::build(&Topology::from_yaml_str(TOPOLOGY)?)?;
    let (peer, host) = (range.host("peer")?, range.host("host")?);
    let daemon = Daemon::start(host, 7603, &["-i", "to-peer"]);
    let service = host.enter(|| Server::start(8080))??;
    let target: SocketAddr = (host.ipv4()?, service.port()).into();
    let exchange = Program::RequestResponse(RequestResponse::default());
    peer.enter(|| run(&exchange, target))??;
    std::thread::sleep(SETTLE);
    let (start, start_s) = (Instant::now(), cpu_s(daemon.id())?);
    while start.elapsed() < WINDOW {
        std::thread::sleep(EXCHANGE_INTERVAL);
        peer.enter(|| run(&exchange, target))??;
    }
    let percent = (cpu_s(daemon.id())? - start_s) / start.elapsed().as_secs_f64() * 100.0;
    let status = daemon.get("/api/v1/status");
    let seen = status["kernel"]["counters"]["seen"].as_u64().unwrap_or(0);
    ensure!(seen > 0, "the daemon saw no packets: {status}");
    println!(
        "{seen} packets seen; {percent:.3} % of a CPU over {:?}",
        start.elapsed()
    );
    report_cpu(percent);
    report_memory(&daemon, &status)
}

fn report_cpu(percent: f64) {
    let verdict = verdict(percent < CPU_PERCENT_BUDGET);
    println!("bench: idle, CPU | {percent:.2} % | < {CPU_PERCENT_BUDGET} % | {verdict}");
}

fn report_memory(daemon: &Daemon<'_>, status: &serde_json::Value) -> Result<()> {
    let resident = daemon.resident_bytes();
    println!(
        "bench: idle, resident memory | {} | < {} | {}",
        megabytes(resident),
        megabytes(RESIDENT_BUDGET),
        verdict(resident < RESIDENT_BUDGET)
    );
    let anonymous = daemon.memory_bytes("RssAnon");
    println!(
        "bench: idle, of it anonymous | {} | - | -",
        megabytes(anonymous)
    );
    let maps = status["kernel"]["map_memory_bytes"].as_u64();
    let maps = maps.context("the status has no memory of the maps")?;
    let configured = configured_bytes();
    println!(
        "bench: idle, maps | {} | ≤ {} | {}",
        megabytes(maps),
        megabytes(configured),
        verdict(maps <= configured)
    );
    Ok(())
}

/// The ring of `aya-log`, which is there also where nothing is logged.
const LOG_RING_SIZE: usize = 128 << 10;

/// What the maps of one instance are configured to take, by the sizes in `phalanx-common`.
fn configured_bytes() -> u64 {
    let flow = HASH_ENTRY_SIZE
        + size_of::<FlowKey>().next_multiple_of(8)
        + size_of::<FlowEntry>().next_multiple_of(8);
    let flows = FLOW_COUNT_DEFAULT as usize * flow;
    let pending = BUCKET_COUNT as usize * size_of::<Bucket>();
    let rings = EVENT_RING_SIZE as usize + RECORD_RING_SIZE as usize + LOG_RING_SIZE;
    (flows + pending + rings + SMALL_MAPS_SIZE) as u64
}

/// User and system time of a process so far, in seconds: fields 14 and 15 of its `stat` (proc(5)).
fn cpu_s(pid: u32) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = text.rsplit_once(')').context("stat has no name")?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    let per_second = sysconf(SysconfVar::CLK_TCK)?.context("no clock tick")?;
    Ok(ticks as f64 / per_second as f64)
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

const fn verdict(is_kept: bool) -> &'static str {
    if is_kept { "ok" } else { "over" }
}
