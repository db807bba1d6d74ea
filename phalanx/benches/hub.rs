//! What a hub bears: the real hub as a process, and a process that plays 1,000 agents over real
//! mutual TLS which tell 100,000 flow updates a second, for a minute once it is warm; then 8 agents
//! which tell as much as it takes, and 8 which deliver their parts of a capture. All processes
//! share the machine.
#![allow(missing_docs)]
#![expect(
    clippy::unwrap_used,
    reason = "the stage of the tests of the hub, which may panic"
)]

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::unistd::{SysconfVar, sysconf};
use phalanx::stream::REPLAY_COUNT_MAX;

use fleet::Fleet;
use load::{Order, Progress};
use probe::Probe;
use stage::{Folder, Hub, await_that};

#[path = "hub/fleet.rs"]
mod fleet;
#[path = "hub/flow.rs"]
mod flow;
#[path = "hub/load.rs"]
mod load;
#[path = "hub/parts.rs"]
mod parts;
#[path = "hub/probe.rs"]
mod probe;
#[expect(dead_code, reason = "the tests use the rest")]
#[path = "../tests/hub/stage.rs"]
mod stage;

const AGENT_COUNT: usize = 1_000;
/// Of all agents: one in a hundred more than the budget asks for, so that a rate that is kept is
/// not a little below it.
const RATE: u64 = 101_000;
/// Connections of two agents at once: each is told of once a second by both.
const FLOW_COUNT: usize = 101;
const SECONDS: u64 = 60;
/// What is measured after it: within half a minute the buffers of 1,000 sessions have met their
/// largest batches, and the allocator has as many pages as it will ever have.
const WARM_UP: Duration = Duration::from_secs(30);
const FEW_AGENT_COUNT: usize = 8;
/// The same number of connections in all.
const FEW_FLOW_COUNT: usize = 12_500;
const FEW_SECONDS: u64 = 20;
/// Records a second of a capture: one in a hundred more than the budget asks for.
const RECORD_RATE: u64 = 202_000;
/// What all of a minute takes, and three times that on disk.
const RECORD_SETTINGS: &str = "capture_bytes_max=6000000000";
const RECORD_BYTES_MAX: u64 = 1_900_000_000;
/// How long the memory is looked at for one figure, which is the median: between two looks it goes
/// up and down by a few percent.
const MEMORY_SPAN: Duration = Duration::from_secs(15);
/// How long what was acknowledged may take to be counted.
const SETTLE: Duration = Duration::from_secs(20);
/// Between two lines that tell how far it is.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);
/// Between two looks at the API.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Budgets.
const RATE_BUDGET: f64 = 100_000.0;
const RECORD_RATE_BUDGET: f64 = 200_000.0;
const LATENCY_BUDGET: Duration = Duration::from_secs(1);
const GROWTH_PERCENT_BUDGET: f64 = 5.0;

fn main() -> Result<()> {
    if let Ok(order) = std::env::var(load::ORDER) {
        return load::run(&serde_json::from_str(&order)?);
    }
    if let Ok(order) = std::env::var(parts::ORDER) {
        return parts::run(&serde_json::from_str(&order)?);
    }
    // `cargo test --benches` runs benches too, to see that they start.
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    bear_many()?;
    bear_most()?;
    bear_captures()
}

/// The load as a process; killed when dropped.
struct Load {
    child: Child,
    lines: Receiver<Progress>,
    last: Progress,
}

impl Load {
    fn start(order: &Order) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .env(load::ORDER, serde_json::to_string(order)?)
            .stdout(Stdio::piped())
            .spawn()?;
        let lines = BufReader::new(child.stdout.take().context("no output")?).lines();
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let Ok(progress) = serde_json::from_str(&line) else {
                    continue;
                };
                if sender.send(progress).is_err() {
                    return;
                }
            }
        });
        let mut load = Self {
            child,
            lines: receiver,
            last: Progress::default(),
        };
        let all = order.agent_count as u64;
        while count(&load.last.connected) < all || count(&load.last.made) == 0 {
            load.last = load.lines.recv_timeout(stage::STEP_TIMEOUT)?;
        }
        Ok(load)
    }

    /// Takes in what it has told; whether it plays still.
    fn look(&mut self) -> bool {
        loop {
            match self.lines.try_recv() {
                Ok(progress) => self.last = progress,
                Err(TryRecvError::Empty) => return !self.last.is_done,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn end(mut self) -> Result<Progress> {
        while let Ok(progress) = self.lines.recv_timeout(stage::STEP_TIMEOUT) {
            self.last = progress;
        }
        ensure!(self.child.wait()?.success(), "the load failed");
        ensure!(self.last.is_done, "the load did not end");
        Ok(std::mem::take(&mut self.last))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // Fails only where it has ended.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn count(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// CPU times of the hub and of the load, and what was acknowledged, at one instant.
struct Sample {
    at: Instant,
    hub_s: f64,
    load_s: f64,
    acknowledged: u64,
}

impl Sample {
    fn take(hub: &Hub, load: &Load) -> Result<Self> {
        Ok(Self {
            at: Instant::now(),
            hub_s: cpu_s(hub.id())?,
            load_s: cpu_s(load.child.id())?,
            acknowledged: count(&load.last.acknowledged),
        })
    }

    /// Prints how far the load is.
    fn tell(&self, load: &Load, resident: u64, latency: Option<Duration>) {
        println!(
            "{:4.0?}: {} updates made, {} acknowledged, {} MB resident, {:.0?} to the API",
            self.at.elapsed(),
            count(&load.last.made),
            count(&load.last.acknowledged),
            resident / 1_000_000,
            latency.unwrap_or_default()
        );
    }

    /// Prints what it cost from here to another; the rate.
    fn report(&self, later: &Self, who: &str) -> f64 {
        let updates = (later.acknowledged - self.acknowledged) as f64;
        let seconds = later.at.duration_since(self.at).as_secs_f64();
        let hub_s = (later.hub_s - self.hub_s) / updates * 1e6;
        let load_s = (later.load_s - self.load_s) / updates * 1e6;
        println!("bench: hub, {who}, CPU per million updates | {hub_s:.2} s | - | -");
        let share = hub_s * RATE_BUDGET / 1e6 * 100.0;
        println!("bench: hub, {who}, of one CPU at 100,000 updates/s | {share:.0} % | - | -");
        println!("bench: the load, {who}, CPU per million updates | {load_s:.2} s | - | -");
        updates / seconds
    }
}

/// 1,000 agents. Rates are those of the whole run, memory and times those of the minute after the
/// first half.
fn bear_many() -> Result<()> {
    let folder = Folder::new("bench-many");
    let mut hub = Hub::make(&folder, "hub");
    let fleet = Fleet::new(&folder.0);
    fleet.make(&hub.directory, AGENT_COUNT + 1)?;
    hub.start();
    let mut probe = Probe::start(&hub, &folder.0, AGENT_COUNT)?;
    let mut load = Load::start(&Order {
        fleet: folder.0.clone(),
        hub: hub.agents,
        agent_count: AGENT_COUNT,
        flow_count: FLOW_COUNT,
        rate: Some(RATE / AGENT_COUNT as u64),
        seconds: WARM_UP.as_secs() + SECONDS,
    })?;
    let first = Sample::take(&hub, &load)?;
    let connected = hub.metric("phalanx_agents", "connected") as usize;
    // The probe is one more.
    row(
        "hub, agents connected at once",
        &connected.to_string(),
        &format!("> {AGENT_COUNT}"),
        connected > AGENT_COUNT,
    );
    let mut memory = Memory::default();
    let mut last = Sample::take(&hub, &load)?;
    let mut tell_next = PROGRESS_INTERVAL;
    let mut skipped = 0;
    while load.look() && first.at.elapsed() < WARM_UP + Duration::from_secs(SECONDS) {
        match first.at.elapsed().checked_sub(WARM_UP) {
            None => skipped = probe.len(),
            Some(since) => memory.look(since, &hub),
        }
        if count(&load.last.acknowledged) != last.acknowledged {
            last = Sample::take(&hub, &load)?;
        }
        probe.look(&hub)?;
        if first.at.elapsed() >= tell_next {
            tell_next += PROGRESS_INTERVAL;
            first.tell(&load, hub.resident_bytes(), probe.last());
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
    memory.report("1,000 agents")?;
    let rate = first.report(&last, "1,000 agents");
    let kept = format!("{rate:.0}/s");
    row(
        "hub, 1,000 agents, updates",
        &kept,
        "≥ 100000/s",
        rate >= RATE_BUDGET,
    );
    let (seen, probe_packets) = probe.end()?;
    report_latency(&seen, skipped)?;
    let told = load.end()?;
    check(&hub, &told)?;
    check_packets(&hub, count(&told.packets) + probe_packets)?;
    report_replay(&mut hub, &told)
}

/// Eight agents that tell as much as the hub takes.
fn bear_most() -> Result<()> {
    let folder = Folder::new("bench-most");
    let mut hub = Hub::make(&folder, "hub");
    Fleet::new(&folder.0).make(&hub.directory, FEW_AGENT_COUNT)?;
    hub.start();
    let mut load = Load::start(&Order {
        fleet: folder.0.clone(),
        hub: hub.agents,
        agent_count: FEW_AGENT_COUNT,
        flow_count: FEW_FLOW_COUNT,
        rate: None,
        seconds: FEW_SECONDS,
    })?;
    let first = Sample::take(&hub, &load)?;
    let mut last = Sample::take(&hub, &load)?;
    while load.look() && first.at.elapsed() < Duration::from_secs(FEW_SECONDS) {
        if count(&load.last.acknowledged) != last.acknowledged {
            last = Sample::take(&hub, &load)?;
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
    let rate = first.report(&last, "8 agents");
    println!("bench: hub, 8 agents, updates at most | {rate:.0}/s | - | -");
    check(&hub, &load.end()?)
}

/// Eight agents that deliver their parts of a capture, for a minute.
fn bear_captures() -> Result<()> {
    let folder = Folder::new("bench-parts");
    let mut hub = Hub::make(&folder, "hub");
    hub.settings.push(RECORD_SETTINGS.to_owned());
    Fleet::new(&folder.0).make(&hub.directory, FEW_AGENT_COUNT)?;
    hub.start();
    // Their sessions, in which little is told.
    let load = Load::start(&Order {
        fleet: folder.0.clone(),
        hub: hub.agents,
        agent_count: FEW_AGENT_COUNT,
        flow_count: 10,
        rate: Some(20),
        seconds: 3 * SECONDS,
    })?;
    await_that("the hops of all agents are known", || {
        let list = hub.get("/api/v1/agents");
        let agents = list["agents"].as_array().cloned().unwrap_or_default();
        agents.len() == FEW_AGENT_COUNT && agents.iter().all(|it| it["hop_count"] == 1)
    });
    // A hub that has run for a while keeps as many changes for readers of its stream as ever.
    await_that("the changes that are kept are as many as ever", || {
        hub.metric("phalanx_changes_total", "") > REPLAY_COUNT_MAX as u64
    });
    let request = serde_json::json!({
        "filter": "", "duration": 3600, "max_bytes": RECORD_BYTES_MAX,
        "max_total_bytes": RECORD_BYTES_MAX,
    });
    let view = hub.post("/api/v1/captures", &request);
    let id = view["id"].as_str().context("no capture")?.to_owned();
    let order = parts::Order {
        fleet: folder.0.clone(),
        hub: hub.agents,
        agent_count: FEW_AGENT_COUNT,
        capture: id.clone(),
        rate: RECORD_RATE,
        seconds: SECONDS,
    };
    let (start, before_s) = (Instant::now(), cpu_s(hub.id())?);
    let mut delivering = Command::new(std::env::current_exe()?)
        .env(parts::ORDER, serde_json::to_string(&order)?)
        .stdout(Stdio::piped())
        .spawn()?;
    let (mut memory, mut load_s) = (Memory::default(), 0.0);
    while delivering.try_wait()?.is_none() {
        memory.look(start.elapsed(), &hub);
        load_s = cpu_s(delivering.id()).unwrap_or(load_s);
        std::thread::sleep(LOOK_INTERVAL);
    }
    let told = delivering.wait_with_output()?;
    ensure!(told.status.success(), "the delivery failed");
    let told: parts::Delivered = serde_json::from_slice(&told.stdout)?;
    let path = format!("/api/v1/captures/{id}");
    await_that("all of it is there", || {
        hub.get(&path)["bytes"] == told.bytes
    });
    let million = told.records as f64 / 1e6;
    let hub_s = (cpu_s(hub.id())? - before_s) / million;
    println!("bench: hub, captures, CPU per million records | {hub_s:.2} s | - | -");
    let load_s = load_s / million;
    println!("bench: the load, captures, CPU per million records | {load_s:.2} s | - | -");
    let rate = told.records as f64 / told.seconds;
    row(
        "hub, captures of 8 agents, records",
        &format!("{rate:.0}/s"),
        "≥ 200000/s",
        rate >= RECORD_RATE_BUDGET,
    );
    memory.report("captures")?;
    drop(load);
    Ok(())
}

/// Resident memory of the hub over time, in bytes.
#[derive(Default)]
struct Memory(Vec<(Duration, u64)>);

impl Memory {
    fn look(&mut self, since: Duration, hub: &Hub) {
        self.0.push((since, hub.resident_bytes()));
    }

    /// Prints how it was at the beginning and at the end, and by how much it grew.
    fn report(&self, who: &str) -> Result<()> {
        let (end, _) = *self.0.last().context("it was over too soon")?;
        let median = |from: Duration| {
            let within = from..=from + MEMORY_SPAN;
            let looks = self.0.iter().filter(|it| within.contains(&it.0));
            let mut bytes: Vec<u64> = looks.map(|it| it.1).collect();
            bytes.sort_unstable();
            bytes[bytes.len() / 2] as f64
        };
        ensure!(end > 2 * MEMORY_SPAN, "it was over too soon");
        let [first, last] = [Duration::ZERO, end - MEMORY_SPAN].map(median);
        let seconds = MEMORY_SPAN.as_secs();
        for (which, bytes) in [("first", first), ("last", last)] {
            let megabytes = bytes / 1e6;
            println!(
                "bench: hub, {who}, resident memory, {which} {seconds} s of the minute | \
                 {megabytes:.1} MB | - | -"
            );
        }
        let growth = (last / first - 1.0) * 100.0;
        row(
            &format!("hub, {who}, growth of memory between these"),
            &format!("{growth:.1} %"),
            &format!("< {GROWTH_PERCENT_BUDGET} %"),
            growth < GROWTH_PERCENT_BUDGET,
        );
        Ok(())
    }
}

/// The start, when all connections are opened within a second, is told apart.
fn report_latency(seen: &[Duration], skipped: usize) -> Result<()> {
    let (start, seen) = seen.split_at(skipped);
    let worst = |seen: &[Duration]| seen.iter().max().copied().unwrap_or_default();
    let (at_start, later) = (worst(start), worst(seen));
    println!("bench: hub, event to API, worst of the first 30 s | {at_start:.0?} | - | -");
    println!("bench: hub, event to API, worst after that | {later:.0?} | - | -");
    let mut seen = seen.to_vec();
    seen.sort_unstable();
    let count = seen.len();
    ensure!(count > 1_000, "the API showed {count} updates only");
    let quantile = |percent: usize| seen[(seen.len() - 1) * percent / 100];
    println!(
        "bench: hub, event to API after that, median | {:.0?} | - | -",
        quantile(50)
    );
    row(
        "hub, event to API after that, p99",
        &format!("{:.0?}", quantile(99)),
        &format!("≤ {LATENCY_BUDGET:?}"),
        quantile(99) <= LATENCY_BUDGET,
    );
    Ok(())
}

/// The hub has all items, once, and lost nothing on the way.
fn check(hub: &Hub, told: &Progress) -> Result<()> {
    let items = count(&told.items);
    let sum = |field: &str| {
        let list = hub.get("/api/v1/agents");
        let agents = list["agents"].as_array().cloned().unwrap_or_default();
        let hosts = agents.iter().filter(|it| it["version"].is_string());
        hosts.filter_map(|it| it[field].as_u64()).sum::<u64>()
    };
    await_that("the hub has everything", || sum("items") >= items);
    ensure!(sum("gaps") == 0, "the hub knows of gaps");
    let engine = &hub.get("/api/v1/status")["kernel"]["engine"];
    for what in [
        "changes_lost",
        "flows_evicted",
        "samples_lost",
        "updates_lost",
    ] {
        ensure!(engine[what] == 0, "the engine has lost something: {engine}");
    }
    Ok(())
}

/// The hub has counted each packet once, though two agents told of it.
fn check_packets(hub: &Hub, told: u64) -> Result<()> {
    let end = Instant::now() + SETTLE;
    loop {
        let counted = hub.metric("phalanx_packets_total", "sender=");
        if counted == told {
            return Ok(());
        }
        ensure!(
            Instant::now() < end,
            "{counted} packets are counted, {told} were told"
        );
        std::thread::sleep(LOOK_INTERVAL);
    }
}

/// What a hub that was killed takes to be back.
fn report_replay(hub: &mut Hub, told: &Progress) -> Result<()> {
    let log = hub.metric("phalanx_hub_log_bytes", "");
    let share = log as f64 / count(&told.bytes) as f64;
    let updates = count(&told.made) as f64 * share.min(1.0);
    hub.kill();
    let start = Instant::now();
    hub.start();
    let elapsed = start.elapsed();
    if elapsed.is_zero() {
        bail!("no time has passed");
    }
    let what = format!(
        "replay of {} MiB of log, {:.1} M updates",
        log >> 20,
        updates / 1e6
    );
    println!(
        "bench: hub, {what} | {:.1} s | - | -",
        elapsed.as_secs_f64()
    );
    Ok(())
}

/// User and system time of a process so far, in seconds: fields 14 and 15 of its `stat` (proc(5)).
fn cpu_s(pid: u32) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = text.rsplit_once(')').context("stat has no name")?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    let per_second = sysconf(SysconfVar::CLK_TCK)?.context("no clock tick")?;
    Ok(ticks as f64 / per_second as f64)
}

fn row(what: &str, measured: &str, budget: &str, is_kept: bool) {
    let verdict = if is_kept { "ok" } else { "over" };
    println!("bench: {what} | {measured} | {budget} | {verdict}");
}
