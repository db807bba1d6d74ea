//! Ways that run side by side.

use super::{MS, hops, trail};
use crate::side::Side;
use crate::stitch::trail::{Crossing, Trail};
use crate::stitch::{LegWay, Stitched, stitch};

/// A hop on one of several ways, which packets take in turn: it sees those of one remainder.
fn on_way(hop: u32, way: u16, way_count: u16) -> Trail {
    let mut trail = trail(hop, 40_000, 0, 200, |_| false);
    for side in [Side::Client, Side::Server] {
        let crossings = trail.crossings.get_mut(side);
        crossings.retain(|it: &Crossing| it.ip_id % way_count == way);
    }
    trail
}

fn ways(stitched: &Stitched) -> Vec<&LegWay> {
    assert_eq!(stitched.conversations.len(), 1);
    let legs = stitched.conversations[0].legs.iter();
    let both = legs.flat_map(|leg| [leg.forward.as_ref(), leg.reverse.as_ref()]);
    both.flatten().collect()
}

#[test]
fn ways_side_by_side_without_a_hop_behind_lose_nothing() {
    // The hops on both ways are as far from the client.
    let mut second = on_way(1, 1, 2);
    second.hop = 2;
    let trails = vec![trail(0, 40_000, 0, 200, |_| false), on_way(1, 0, 2), second];
    let stitched = stitch(trails, &hops(3));
    for way in ways(&stitched) {
        assert_eq!(
            (way.lost, way.not_captured, way.unresolved),
            (0, 0, 0),
            "{way:?}"
        );
    }
    let paths = &stitched.conversations[0].paths;
    let of_client = paths.iter().filter(|it| it.side == Side::Client);
    let mut told: Vec<(&[u32], u64)> = of_client.map(|it| (&it.hops[..], it.packets)).collect();
    told.sort_unstable();
    assert_eq!(told, [(&[0, 1][..], 100), (&[0, 2][..], 100)]);
}

#[test]
fn what_went_around_the_only_other_hop_was_not_lost() {
    // Of the server's acknowledgements nothing tells that they arrived; of the client's data it is
    // known that half of it never crossed the hop in front of the server.
    let trails = vec![on_way(0, 0, 2), trail(1, 40_000, 0, 200, |_| false)];
    let stitched = stitch(trails, &hops(2));
    for way in ways(&stitched) {
        assert_eq!(way.lost, 0, "{way:?}");
    }
    let reverse = stitched.conversations[0].legs[0].reverse.as_ref();
    assert_eq!(
        reverse.map(|it| (it.packets, it.unresolved)),
        Some((200, 100))
    );
}

/// What is lost on one of the ways is told as lost.
#[test]
fn losses_beside_ways_side_by_side_are_found() {
    let is_lost = |it: &Crossing| it.ip_id % 20 == 10;
    let mut second = on_way(1, 1, 2);
    second.hop = 2;
    let mut first = on_way(1, 0, 2);
    let mut last = trail(3, 40_000, 0, 200, |_| false);
    for crossings in [&mut first.crossings.client, &mut last.crossings.client] {
        crossings.retain(|it| !is_lost(it));
    }
    // Nobody acknowledges them one by one: the client sends them again.
    let mut trails = vec![trail(0, 40_000, 0, 200, |_| false), first, second, last];
    for (trail, delay) in trails.iter_mut().zip([0, 1, 1, 3]) {
        let again = |index: u16| Crossing {
            sequence: 1_000 + u32::from(index) * 100,
            time_ns: 3_000 * MS + i64::from(index) * MS + delay * MS,
            frame: 10_000 + u64::from(index),
            ip_id: 5_000 + index,
            timestamp_value: 9_000 + u32::from(index),
            ..trail.crossings.client[0]
        };
        let sent = (0..200_u16).filter(|it| (it + 10) % 20 == 10);
        let again: Vec<Crossing> = sent.map(again).collect();
        if trail.hop != 2 {
            trail.crossings.client.extend(again);
        }
        trail.crossings.server.clear();
    }
    let stitched = stitch(trails, &hops(4));
    let lost: u64 = ways(&stitched).iter().map(|it| it.lost).sum();
    assert_eq!(lost, 10);
}
