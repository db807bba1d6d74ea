//! Clocks of which little is known.

use super::{MS, SECOND, hops, sightings, trail};
use crate::side::Side;
use crate::stitch::clock::PairClock;
use crate::stitch::stitch;

#[test]
fn a_clock_that_was_set_is_not_bounded_by_packets_of_one_direction() {
    let set_ns = 31 * SECOND + 3 * MS;
    let truth = |time_ns: i64| if time_ns < set_ns { 0 } else { -50 * MS };
    let mut seen = sightings(truth);
    seen.back.retain(|it| it.time_ns < set_ns - SECOND);
    let clock = PairClock::of(&mut seen).expect("both directions at first");
    assert_eq!(clock.cuts().count(), 1);
    let before = clock.at(10 * SECOND);
    assert!(before.is_bounded() && before.error_ns() < 20.0 * MS as f64);
    let after = clock.at(50 * SECOND);
    assert!(!after.is_bounded(), "{after:?}");
    // The middle of the room that both directions left before is moved by the step.
    let moved = after.ahead_ns - before.ahead_ns;
    assert!((moved + 50.0 * MS as f64).abs() < MS as f64, "{moved}");
}

/// A fast clock is no queue, also where packets of one direction alone tell nothing of it.
#[test]
fn queueing_without_clocks_has_no_skew() {
    let one_way = |hop: u32, ppm: i64| {
        let mut trail = trail(hop, 40_000, 0, 3_000, |_| false);
        trail.crossings.server.clear();
        for crossing in trail.crossings.get_mut(Side::Client) {
            crossing.time_ns += crossing.time_ns / 1_000_000 * ppm;
        }
        trail
    };
    let stitched = stitch(vec![one_way(0, 0), one_way(1, 200)], &hops(2));
    let forward = stitched.conversations[0].legs[0]
        .forward
        .as_ref()
        .expect("seen");
    assert_eq!(forward.delay.count(), 0);
    let most = forward.queueing.quantile_ns(100).expect("delays");
    assert!(most < MS / 10, "{most}");
}
