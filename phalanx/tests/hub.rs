//! Agents and a hub on the loopback: what is acknowledged is never lost, nothing counts twice, and
//! every gap is seen, whatever is killed, cut or full.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[path = "hub/capture.rs"]
mod capture;
#[path = "hub/hostile.rs"]
mod hostile;
#[path = "hub/jump.rs"]
mod jump;
#[path = "hub/moments.rs"]
mod moments;
#[path = "hub/refusal.rs"]
mod refusal;
#[path = "hub/stage.rs"]
mod stage;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::Duration;

use stage::{Feeder, Folder, Hub, Way, Wire, await_that, options};

/// A pseudo-random pause: the same at each run of the tests.
fn pause(seed: u64) -> Duration {
    let mixed = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48;
    Duration::from_millis(100 + mixed % 400)
}

fn packets(hub: &Hub) -> u64 {
    hub.metric("phalanx_packets_total", "sender=\"client\"")
}

/// The hub counts what was told, once, and knows of no gap.
fn check_whole(hub: &Hub, feeder: &Feeder, name: &str) {
    await_that("the hub has counted everything", || {
        packets(hub) == feeder.packet_count()
    });
    // The agents are told of once a second.
    await_that("the hub tells of all items", || {
        hub.agent(name)["items"] == feeder.item_count
    });
    let agent = hub.agent(name);
    assert_eq!(
        (&agent["gaps"], &agent["lost_items"]),
        (&0.into(), &0.into())
    );
}

#[test]
fn a_hub_that_is_killed_at_any_moment_loses_nothing_and_counts_nothing_twice() {
    let folder = Folder::new("killed-hub");
    let mut hub = Hub::make(&folder, "hub");
    hub.start();
    let directory = hub.enroll(&folder, "web-1");
    let mut feeder = Feeder::start(options(&directory, hub.agents), 1, 500);
    for round in 0..5 {
        let end = std::time::Instant::now() + pause(round);
        while std::time::Instant::now() < end {
            feeder.feed(200);
        }
        hub.kill();
        feeder.feed(300);
        hub.start();
    }
    feeder.await_acknowledged();
    check_whole(&hub, &feeder, "web-1");
    // Once more without anything new: all of it comes out of the log.
    hub.stop();
    hub.start();
    check_whole(&hub, &feeder, "web-1");
    feeder.end();
}

/// What the counters of the others were of is then a part of the past.
#[test]
fn counters_begin_at_0_where_an_agent_was_removed_whose_batches_the_log_holds() {
    let folder = Folder::new("counters-removed");
    let mut hub = Hub::make(&folder, "hub");
    hub.start();
    let mut feeders = ["web-1", "web-2"].map(|name| {
        let directory = hub.enroll(&folder, name);
        let number = if name == "web-1" { 1 } else { 2 };
        Feeder::start(options(&directory, hub.agents), number, 100)
    });
    feeders.iter_mut().for_each(|it| it.feed(100));
    feeders.iter().for_each(Feeder::await_acknowledged);
    await_that("both are counted", || packets(&hub) == 200);
    let [mut stays, goes] = feeders;
    goes.end();
    hub.stop();
    stage::phalanx(&["hub", "remove", "--dir", hub.path(), "web-2"]);
    hub.start();
    assert_eq!(packets(&hub), 0);
    stays.feed(100);
    await_that("what is new is counted", || packets(&hub) == 100);
    stays.end();
}

/// Waits until an agent knows that its session has ended.
fn await_found_out(feeder: &Feeder, sessions: u64) {
    use phalanx::agent::UplinkState;
    await_that("the agent has found out", || {
        let state = feeder.uplink.status.state();
        matches!(state, UplinkState::Failed(_))
            || feeder.uplink.status.sessions.load(Ordering::Relaxed) > sessions + 1
    });
}

#[test]
fn a_network_that_is_cut_one_way_loses_nothing_and_counts_nothing_twice() {
    let folder = Folder::new("cut-one-way");
    let mut hub = Hub::make(&folder, "hub");
    hub.start();
    let directory = hub.enroll(&folder, "web-1");
    let wire = Wire::new(hub.agents);
    let mut feeder = Feeder::start(options(&directory, wire.address), 1, 500);
    for way in [Way::ToAgent, Way::ToHub] {
        let sessions = feeder.uplink.status.sessions.load(Ordering::Relaxed);
        feeder.feed(500);
        feeder.await_acknowledged();
        wire.cut_one(way);
        feeder.feed(500);
        if matches!(way, Way::ToAgent) {
            // What was told comes, what is answered does not.
            await_that("the hub has it", || packets(&hub) == feeder.packet_count());
            let waiting = &feeder.uplink.status.memory_batches;
            assert_ne!(
                waiting.load(Ordering::Relaxed),
                0,
                "the agent knows nothing of it"
            );
        }
        await_found_out(&feeder, sessions);
        wire.mend();
        feeder.await_acknowledged();
        check_whole(&hub, &feeder, "web-1");
    }
    feeder.end();
}

#[test]
fn a_network_that_is_cut_loses_nothing_and_counts_nothing_twice() {
    let folder = Folder::new("cut");
    let mut hub = Hub::make(&folder, "hub");
    hub.start();
    let directory = hub.enroll(&folder, "web-1");
    let wire = Wire::new(hub.agents);
    let mut feeder = Feeder::start(options(&directory, wire.address), 1, 500);
    for round in 0..2 {
        // Else the failure of the round before would be taken for one of this.
        await_that("the agent is connected", || {
            feeder.uplink.status.state() == phalanx::agent::UplinkState::Connected
        });
        let sessions = feeder.uplink.status.sessions.load(Ordering::Relaxed);
        let end = std::time::Instant::now() + pause(round + 100);
        while std::time::Instant::now() < end {
            feeder.feed(200);
        }
        wire.cut();
        let cut = std::time::Instant::now();
        feeder.feed(1_000);
        await_that("the hub has found out", || {
            hub.agent("web-1")["state"] == "away"
        });
        let found_out = cut.elapsed();
        assert!(found_out < Duration::from_secs(14), "{found_out:?}");
        // Found out by asking: nobody says that the wire is cut.
        await_found_out(&feeder, sessions);
        wire.mend();
    }
    feeder.await_acknowledged();
    check_whole(&hub, &feeder, "web-1");
    assert!(wire.connection_count.load(Ordering::Relaxed) >= 3);
    feeder.end();
}

/// What the process of the next test runs: it feeds until it is killed, and says how much the hub
/// has acknowledged.
#[test]
#[ignore = "run by an_agent_that_is_killed_loses_nothing_that_was_acknowledged"]
fn feed_until_killed() {
    let Some(directory) = std::env::var_os("PHALANX_TEST_AGENT") else {
        return;
    };
    let agents = std::env::var("PHALANX_TEST_HUB").unwrap().parse().unwrap();
    let number = std::env::var("PHALANX_TEST_NUMBER")
        .unwrap()
        .parse()
        .unwrap();
    let mut feeder = Feeder::start(options(directory.as_ref(), agents), number, 400);
    let status = std::sync::Arc::clone(&feeder.uplink.status);
    // Each batch tells of 400 updates; the hop is in the first.
    loop {
        feeder.feed(400);
        println!(
            "{} of {}",
            status.acknowledged.load(Ordering::Relaxed),
            feeder.packet_count()
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn an_agent_that_is_killed_loses_nothing_that_was_acknowledged() {
    let folder = Folder::new("killed-agent");
    let mut hub = Hub::make(&folder, "hub");
    hub.start();
    let directory = hub.enroll(&folder, "web-1");
    let (mut acknowledged, mut told) = (0, 0);
    let run_count = 4;
    for number in 1..=run_count {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture", "feed_until_killed"])
            .env("PHALANX_TEST_AGENT", &directory)
            .env("PHALANX_TEST_HUB", hub.agents.to_string())
            .env("PHALANX_TEST_NUMBER", number.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut last = (0, 0);
        let parse = |line: &str| {
            let (acknowledged, told) = line.split_once(" of ")?;
            Some((acknowledged.parse().ok()?, told.parse().ok()?))
        };
        let mut end = None;
        while end.is_none_or(|end| std::time::Instant::now() < end) {
            let line = lines.next().unwrap().unwrap();
            last = parse(&line).unwrap_or(last);
            if last.0 > 0 && end.is_none() {
                end = Some(std::time::Instant::now() + pause(number + 200));
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        for line in lines.map_while(Result::ok) {
            last = parse(&line).unwrap_or(last);
        }
        acknowledged += last.0 * 400;
        // One batch may have been told after the last line was written.
        told += last.1 + 400;
        println!(
            "run {number}: {} batches acknowledged of {} updates",
            last.0, last.1
        );
    }
    // What the last one left on disk is told by a process that tells nothing else.
    let mut feeder = Feeder::start(options(&directory, hub.agents), 99, 1);
    feeder.close(false);
    feeder.await_acknowledged();
    feeder.end();
    await_that("every run that was cut is seen as a gap", || {
        hub.agent("web-1")["gaps"] == run_count
    });
    let counted = packets(&hub);
    println!("counted {counted}, acknowledged {acknowledged}, told {told}");
    assert!((acknowledged..=told).contains(&counted));
    hub.kill();
    hub.start();
    await_that("the log says the same", || packets(&hub) == counted);
    assert_eq!(hub.agent("web-1")["gaps"], run_count);
}

#[test]
fn what_finds_the_spool_full_is_a_gap_of_known_size() {
    let folder = Folder::new("spool");
    let mut hub = Hub::make(&folder, "hub");
    hub.start();
    let directory = hub.enroll(&folder, "web-1");
    hub.stop();
    let mut options = options(&directory, hub.agents);
    // Two segments of 8 MiB, behind 16 MiB in memory.
    options.spool_bytes_max = 17 << 20;
    let mut feeder = Feeder::start(options, 1, 60_000);
    let status = std::sync::Arc::clone(&feeder.uplink.status);
    while status.dropped.load(Ordering::Relaxed) == 0 {
        feeder.feed(60_000);
    }
    let made = status.batches.load(Ordering::Relaxed);
    hub.start();
    feeder.feed(60_000);
    await_that("the hub has the newest", || {
        hub.agent("web-1")["items"] == feeder.item_count
    });
    let agent = hub.agent("web-1");
    println!("{made} batches: {agent}");
    assert!(agent["gaps"].as_u64().unwrap() >= 1, "{agent}");
    let dropped = status.dropped.load(Ordering::Relaxed);
    assert_eq!(agent["lost_batches"], dropped, "{agent}");
    let lost = hub.metric("phalanx_agent_lost_items_total", "web-1");
    assert_eq!(agent["lost_items"], lost);
    assert!(lost > 0 && lost < feeder.item_count, "{agent}");
    // Updates are cumulative: a later one of each flow makes good what is missing.
    await_that("the counts are whole all the same", || {
        packets(&hub) == feeder.packet_count()
    });
    feeder.end();
}

#[test]
fn counters_begin_anew_where_the_log_has_forgotten_what_they_counted() {
    let folder = Folder::new("forgotten");
    let mut hub = Hub::make(&folder, "hub");
    hub.settings = vec!["hub_log_bytes_max=33554432".to_owned()];
    hub.start();
    let directory = hub.enroll(&folder, "web-1");
    let mut feeder = Feeder::start(options(&directory, hub.agents), 1, 1_000);
    let oldest = hub.directory.join("log/00000000000000000001.log");
    loop {
        feeder.feed(2_000);
        feeder.await_acknowledged();
        if !oldest.exists() {
            break;
        }
    }
    check_whole(&hub, &feeder, "web-1");
    let before = feeder.packet_count();
    hub.stop();
    hub.start();
    assert_eq!(
        packets(&hub),
        0,
        "a part of {before} looks as if it were new"
    );
    feeder.feed(3_000);
    await_that("what is new is counted", || packets(&hub) >= 3_000);
    assert_eq!(packets(&hub), 3_000);
    let open = hub.metric("phalanx_conversations_open", "");
    assert_eq!(open, 1_000, "the log tells what is open");
    feeder.end();
}

#[test]
fn a_hub_whose_disk_is_full_acknowledges_nothing_and_goes_on_later() {
    let folder = Folder::new("full");
    let mut hub = Hub::make(&folder, "hub");
    hub.start();
    let directory = hub.enroll(&folder, "web-1");
    hub.stop();
    hub.file_bytes_max = Some(200 << 10);
    hub.start();
    let mut feeder = Feeder::start(options(&directory, hub.agents), 1, 5_000);
    let mut is_told = false;
    await_that("the agent is told that the hub cannot store", || {
        use phalanx::agent::UplinkState;
        feeder.feed(1_000);
        let state = feeder.uplink.status.state();
        is_told |= matches!(&state, UplinkState::Failed(why) if why.contains("cannot store"));
        is_told
    });
    assert!(hub.is_alive());
    let status = &feeder.uplink.status;
    let acknowledged = status.acknowledged.load(Ordering::Relaxed);
    let made = status.batches.load(Ordering::Relaxed);
    assert!(
        acknowledged > 0 && acknowledged < made,
        "{acknowledged} of {made}"
    );
    hub.kill();
    hub.file_bytes_max = None;
    hub.start();
    feeder.await_acknowledged();
    check_whole(&hub, &feeder, "web-1");
    feeder.end();
}
