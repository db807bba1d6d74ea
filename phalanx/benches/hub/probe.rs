//! How long it takes until the API of the hub shows what an agent was told: one more agent, with
//! the uplink of a real one, that watches one flow.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use phalanx::agent::{UplinkOptions, start_uplink};
use phalanx::clock::Reading;
use phalanx::link::connection::Address;
use phalanx::link::{Batcher, Told};
use phalanx_engine::{HopId, Input, Monotonic};

use crate::fleet::Fleet;
use crate::stage::{BOOT, Hub, await_that, hop, monotonic, update};

/// A number that makes its flow none of the others.
const NUMBER: u16 = 60_000;
/// Between two updates.
const INTERVAL: Duration = Duration::from_millis(20);

/// An agent that watches one flow.
pub(crate) struct Probe {
    /// When each update was made.
    made: Arc<Mutex<Vec<Instant>>>,
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<Result<()>>,
    flow: String,
    seen: Vec<Duration>,
}

impl Probe {
    pub(crate) fn start(hub: &Hub, fleet: &Path, number: usize) -> Result<Self> {
        let fleet = Fleet::new(fleet);
        let options = UplinkOptions {
            agent: number.to_string(),
            address: Address::parse(&format!("https://{}", hub.agents))?,
            config: fleet.tls(number)?,
            spool: fleet.spool(number),
            spool_bytes_max: 256 << 20,
        };
        let (made, is_over) = (Arc::default(), Arc::<AtomicBool>::default());
        let telling = Telling {
            made: Arc::clone(&made),
            is_over: Arc::clone(&is_over),
        };
        let thread = std::thread::spawn(move || telling.run(options));
        let path = format!("/api/v1/flows?port={}", update(NUMBER, 0, 1).key.high_port);
        let find = || {
            let list = hub.get(&path);
            let flow = &list["flows"][0]["id"];
            flow.as_str().map(str::to_owned)
        };
        await_that("the flow of the probe is seen", || find().is_some());
        Ok(Self {
            made,
            is_over,
            thread,
            flow: find().context("the flow has gone")?,
            seen: Vec::new(),
        })
    }

    /// Looks which updates are there.
    pub(crate) fn look(&mut self, hub: &Hub) -> Result<()> {
        let flow = hub.get(&format!("/api/v1/flows/{}", self.flow));
        let now = Instant::now();
        let packets = flow["client_sent"]["packets"].as_u64();
        let count = usize::try_from(packets.context("a flow without packets")?)?;
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let news = made.get(self.seen.len()..count).unwrap_or_default();
        self.seen
            .extend(news.iter().map(|it| now.duration_since(*it)));
        Ok(())
    }

    /// How long the last update took that was seen.
    pub(crate) fn last(&self) -> Option<Duration> {
        self.seen.last().copied()
    }

    /// How many updates were seen.
    pub(crate) fn len(&self) -> usize {
        self.seen.len()
    }

    /// Ends it: the times until updates were seen, in the order of the updates, and how many
    /// packets were told of.
    pub(crate) fn end(self) -> Result<(Vec<Duration>, u64)> {
        self.is_over.store(true, Ordering::Relaxed);
        let ended = self.thread.join();
        ended.map_err(|_| anyhow::anyhow!("the probe panicked"))??;
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        Ok((self.seen, made.len() as u64))
    }
}

struct Telling {
    made: Arc<Mutex<Vec<Instant>>>,
    is_over: Arc<AtomicBool>,
}

impl Telling {
    fn note(&self) {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.push(Instant::now());
    }

    /// Makes updates and closes batches when they are due, as the loop of an agent does.
    fn run(self, options: UplinkOptions) -> Result<()> {
        let uplink = start_uplink(options, Reading::take().wall_ns)?;
        let mut batcher = Batcher::new(uplink.run, BOOT)?;
        batcher.tell(&Told::Input(Input::HopAppeared(hop())), monotonic());
        let mut version = 0;
        while !self.is_over.load(Ordering::Relaxed) {
            version += 1;
            let update = &update(NUMBER, 0, version);
            self.note();
            let input = Input::Update {
                hop: HopId(1),
                update,
            };
            batcher.tell(&Told::Input(input), monotonic());
            if batcher.due().is_some_and(|due| due <= monotonic()) {
                let now = Reading::take();
                let batch = batcher.close(Monotonic(now.monotonic_ns), now.wall_ns)?;
                uplink
                    .batches
                    .blocking_send(batch.context("an empty batch")?)?;
            }
            std::thread::sleep(INTERVAL);
        }
        let now = Reading::take();
        let mut batch = batcher.close(Monotonic(now.monotonic_ns), now.wall_ns)?;
        if let Some(batch) = &mut batch {
            batch.is_last = true;
            uplink.batches.blocking_send(batch.clone())?;
        }
        drop(uplink.batches);
        let ended = uplink.thread.join();
        ended.map_err(|_| anyhow::anyhow!("the uplink panicked"))
    }
}
