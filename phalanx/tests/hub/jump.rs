//! The wall clock of an agent's host is set while it tells.

use phalanx::clock::ClockEvent;
use phalanx::link::Told;

use crate::stage::{Feeder, Folder, Hub, await_that, monotonic, options};

const SECOND_NS: i64 = 1_000_000_000;

/// What `clock_offset_s` shows of an agent, to the second.
fn offset_s(hub: &Hub, name: &str) -> i64 {
    let offset = hub.agent(name)["clock_offset_s"].as_f64();
    offset.unwrap_or_default().round() as i64
}

#[test]
fn a_clock_that_jumps_loses_nothing_and_is_seen() {
    let folder = Folder::new("jump");
    let mut hub = Hub::make(&folder, "hub");
    hub.start();
    let steady = hub.enroll(&folder, "steady");
    let jumping = hub.enroll(&folder, "jumping");
    let mut steady = Feeder::start(options(&steady, hub.agents), 1, 50);
    let mut jumping = Feeder::start(options(&jumping, hub.agents), 2, 50);
    // An hour on, back to where it was, a minute and a day behind, before 1970, and right again.
    let day_s = 24 * 3_600;
    let offsets = [0, 3_600, 0, -60, -day_s, -100 * 365 * day_s, day_s, 0];
    let mut before_s = 0;
    for offset in offsets {
        jumping.wall_offset_ns = offset * SECOND_NS;
        if offset != before_s {
            let by_ns = (offset - before_s) * SECOND_NS;
            let at = monotonic();
            jumping.tell(&Told::Clock(ClockEvent::Stepped { at, by_ns }));
        }
        before_s = offset;
        for _ in 0..4 {
            steady.feed(50);
            jumping.feed(50);
        }
        jumping.await_acknowledged();
        // A clock cannot show a time before 1970.
        if offset > -10 * 365 * day_s {
            await_that("the jump is seen", || offset_s(&hub, "jumping") == offset);
        }
        assert_eq!(offset_s(&hub, "steady"), 0);
        let told = steady.packet_count() + jumping.packet_count();
        await_that("the hub has counted everything once", || {
            hub.metric("phalanx_packets_total", "sender=\"client\"") == told
        });
    }
    let jumps = hub.metric("phalanx_clock_jumps_total", "step");
    assert_eq!(jumps, offsets.len() as u64 - 1);
    for (feeder, name) in [(&steady, "steady"), (&jumping, "jumping")] {
        feeder.await_acknowledged();
        await_that("the hub has all items", || {
            hub.agent(name)["items"] == feeder.item_count
        });
        assert_eq!(hub.agent(name)["gaps"], 0);
    }
    let told = steady.packet_count() + jumping.packet_count();
    hub.kill();
    hub.start();
    await_that("the log says the same", || {
        hub.metric("phalanx_packets_total", "sender=\"client\"") == told
    });
    steady.end();
    jumping.end();
}
