//! The hub or an agent is killed at random moments, again and again.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::stage::{Feeder, Folder, Hub, await_that, options};

const MOMENT_COUNT: u32 = 50;
/// Updates of one batch, one of each flow.
const BATCH_UPDATES: u64 = 100;
/// Between two batches: what a hub that is away for seconds misses stays in memory.
const FEED_INTERVAL: Duration = Duration::from_millis(10);
const PAUSE_MS_MAX: u64 = 600;

/// Pseudo-random numbers (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (bits ^ (bits >> 31)) % bound
    }
}

/// What the processes of the next test run: they feed until they are killed or their input ends,
/// and say before each batch how much the hub has acknowledged, and how much is told with it.
#[test]
#[ignore = "run by fifty_kills_at_random_moments_lose_nothing_and_count_nothing_twice"]
fn feed_until_killed_or_told() {
    let Some(directory) = std::env::var_os("PHALANX_TEST_AGENT") else {
        return;
    };
    let variable = |name: &str| std::env::var(name).unwrap();
    let agents = variable("PHALANX_TEST_HUB").parse().unwrap();
    let number = variable("PHALANX_TEST_NUMBER").parse().unwrap();
    let flow_count = BATCH_UPDATES as usize;
    let mut feeder = Feeder::start(options(directory.as_ref(), agents), number, flow_count);
    let status = Arc::clone(&feeder.uplink.status);
    let is_over = Arc::new(AtomicBool::new(false));
    let over = Arc::clone(&is_over);
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        over.store(true, Ordering::Relaxed);
    });
    let say = |told: u64| {
        let acknowledged = status.acknowledged.load(Ordering::Relaxed) * BATCH_UPDATES;
        println!("\n{acknowledged} of {told}");
    };
    while !is_over.load(Ordering::Relaxed) {
        say(feeder.packet_count() + BATCH_UPDATES);
        feeder.feed(BATCH_UPDATES as usize);
        std::thread::sleep(FEED_INTERVAL);
    }
    feeder.await_acknowledged();
    say(feeder.packet_count());
    feeder.end();
}

/// A process that feeds.
struct Run {
    number: u16,
    child: Child,
    /// Ends when it is dropped, and the process with it.
    input: Option<ChildStdin>,
    reader: std::thread::JoinHandle<()>,
    said: Arc<Mutex<(u64, u64)>>,
}

/// A process that has ended: the packets that were acknowledged, and those that were told of.
#[derive(Debug)]
struct Ended {
    number: u16,
    acknowledged: u64,
    told: u64,
    is_killed: bool,
}

impl Run {
    fn start(directory: &Path, hub: &Hub, number: u16) -> Self {
        let test = "moments::feed_until_killed_or_told";
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture", test])
            .env("PHALANX_TEST_AGENT", directory)
            .env("PHALANX_TEST_HUB", hub.agents.to_string())
            .env("PHALANX_TEST_NUMBER", number.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = Arc::new(Mutex::new((0, 0)));
        let saying = Arc::clone(&said);
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let reader = std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let numbers = line.split_once(" of ");
                let numbers = numbers.and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
                if let Some(numbers) = numbers {
                    *saying.lock().unwrap() = numbers;
                }
            }
        });
        Self {
            number,
            input: child.stdin.take(),
            child,
            reader,
            said,
        }
    }

    fn kill(mut self) -> Ended {
        self.child.kill().unwrap();
        self.ended(true)
    }

    /// Lets it tell all it has.
    fn finish(mut self) -> Ended {
        self.input = None;
        self.ended(false)
    }

    fn ended(mut self, is_killed: bool) -> Ended {
        let status = self.child.wait().unwrap();
        assert_eq!(status.success(), !is_killed, "{status}");
        self.reader.join().unwrap();
        let (acknowledged, told) = *self.said.lock().unwrap();
        Ended {
            number: self.number,
            acknowledged,
            told,
            is_killed,
        }
    }

    fn is_heard(&self) -> bool {
        self.said.lock().unwrap().0 > 0
    }
}

/// The packets of one process that the hub has counted.
fn counted(hub: &Hub, number: u16) -> u64 {
    let [high, low] = number.to_be_bytes();
    let client = format!("client=\"10.{high}.{low}.1\"");
    hub.metric("phalanx_packets_total", &client)
}

fn seed() -> u64 {
    let given = std::env::var("PHALANX_TEST_SEED").ok();
    let drawn = || phalanx::clock::Reading::take().wall_ns;
    given.map_or_else(drawn, |seed| seed.parse().unwrap())
}

#[test]
#[ignore = "takes a minute: docs/hub.md tells how it is run"]
fn fifty_kills_at_random_moments_lose_nothing_and_count_nothing_twice() {
    let seed = seed();
    println!("PHALANX_TEST_SEED={seed}");
    let mut random = Random(seed);
    let folder = Folder::new("moments");
    let mut hub = Hub::make(&folder, "hub");
    hub.start();
    let directory = hub.enroll(&folder, "web-1");
    let mut run = Run::start(&directory, &hub, 1);
    let mut ended: Vec<Ended> = Vec::new();
    let mut hub_kills = 0;
    for _ in 0..MOMENT_COUNT {
        // The moment counts from when the hub and the agent speak, half of the time.
        if random.below(2) == 0 {
            await_that("the hub has acknowledged something", || run.is_heard());
        }
        std::thread::sleep(Duration::from_millis(random.below(PAUSE_MS_MAX)));
        if random.below(2) == 0 {
            hub.kill();
            hub_kills += 1;
            std::thread::sleep(Duration::from_millis(random.below(PAUSE_MS_MAX)));
            hub.start();
        } else {
            let next = run.number + 1;
            ended.push(run.kill());
            run = Run::start(&directory, &hub, next);
        }
    }
    ended.push(run.finish());
    println!(
        "{hub_kills} kills of the hub, {} of agents",
        ended.len() - 1
    );
    let last = ended.last().unwrap();
    await_that(
        "the hub has counted the last one, which was not killed",
        || counted(&hub, last.number) == last.told,
    );
    let all: Vec<u64> = ended.iter().map(|it| counted(&hub, it.number)).collect();
    let (mut told, mut missing) = (0, 0);
    for (ended, counted) in ended.iter().zip(&all) {
        let expected = ended.acknowledged..=ended.told;
        assert!(expected.contains(counted), "{counted} counted: {ended:?}");
        told += ended.told;
        missing += ended.told - counted;
    }
    println!("{told} packets told, {missing} in memory of agents that were killed");
    // A process of which the hub has heard nothing leaves no trace, and has lost nothing.
    let is_cut = |(it, counted): &(&Ended, &u64)| it.is_killed && **counted > 0;
    let cut = ended.iter().zip(&all).filter(is_cut).count();
    await_that("each process that was cut is a gap", || {
        hub.agent("web-1")["gaps"] == cut
    });
    hub.kill();
    hub.start();
    for (ended, before) in ended.iter().zip(&all) {
        await_that("the log says the same", || {
            counted(&hub, ended.number) == *before
        });
    }
    await_that("the log knows the same gaps", || {
        hub.agent("web-1")["gaps"] == cut
    });
}
