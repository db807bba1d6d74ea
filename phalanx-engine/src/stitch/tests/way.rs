//! Ways that run side by side.

use super::{MS, hops, trail};
use crate::side::Side;
use crate::stitch::trail::{Crossing, Trail};
use crate::stitch::{LegStory, LegWay, Stitched, stitch};

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

/// Four hops, those in the middle on ways side by side: the first of them sees what `takes_first`
/// names. What is lost in front of them, the client sends again over the first one; nothing comes
/// back.
fn lossy(takes_first: impl Fn(&Crossing) -> bool, is_lost: impl Fn(&Crossing) -> bool) -> Stitched {
    let whole = |hop: u32| trail(hop, 40_000, 0, 200, |_| false);
    let mut trails: Vec<Trail> = (0..4).map(whole).collect();
    let lost: Vec<Crossing> = trails[0].crossings.client.clone();
    let lost: Vec<Crossing> = lost.into_iter().filter(|it| is_lost(it)).collect();
    for trail in &mut trails {
        let hop = trail.hop;
        trail.crossings.server.clear();
        let sent = &mut trail.crossings.client;
        sent.retain(|it| match hop {
            0 => true,
            1 => takes_first(it) && !is_lost(it),
            2 => !takes_first(it) && !is_lost(it),
            _ => !is_lost(it),
        });
        let again = |(index, it): (u16, &Crossing)| Crossing {
            time_ns: 3_000 * MS + i64::from(index) * 10 * MS + i64::from(hop) * MS,
            frame: 10_000 + u64::from(index),
            ip_id: 5_000 + index,
            timestamp_value: 9_000 + u32::from(index),
            ..*it
        };
        if hop != 2 {
            sent.extend((0..).zip(&lost).map(again));
        }
    }
    stitch(trails, &hops(4))
}

/// From, to, packets, lost, lost there or on a leg beside it.
fn losses(stitched: &Stitched) -> Vec<(u32, u32, u64, u64, u64)> {
    let leg = |leg: &LegStory| {
        let way = leg.forward.as_ref()?;
        let lost = (way.lost, way.lost_here_or_beside);
        Some((leg.from, leg.to, way.packets, lost.0, lost.1))
    };
    let legs = stitched.conversations[0].legs.iter();
    legs.filter_map(leg).collect()
}

#[test]
fn a_loss_where_ways_part_is_told_of_both() {
    let stitched = lossy(
        |it| it.ip_id % 2 == 0,
        |it| it.ip_id < 5_000 && it.ip_id % 20 == 10,
    );
    let wanted = [
        (0, 1, 100, 0, 10),
        (0, 2, 100, 0, 10),
        (1, 3, 100, 0, 0),
        (2, 3, 100, 0, 0),
    ];
    assert_eq!(losses(&stitched), wanted);
}

#[test]
fn a_loss_long_after_the_route_has_changed_is_told_of_the_new_one() {
    let stitched = lossy(
        |it| it.ip_id < 110,
        |it| [130, 150, 170, 190].contains(&it.ip_id),
    );
    let wanted = [
        (0, 1, 104, 0, 0),
        (0, 2, 100, 4, 0),
        (1, 3, 104, 0, 0),
        (2, 3, 96, 0, 0),
    ];
    assert_eq!(losses(&stitched), wanted);
}

/// Hops on ways of their own: 1 and 2 on one, 3 and 4 on the other, one of which is much longer
/// at its end.
/// Losses in the middle of either are told there.
#[test]
fn ways_of_several_hops_and_of_other_lengths_are_told_apart() {
    for longer in [0, 1] {
        let whole = |hop: u32| trail(hop, 40_000, 0, 200, |_| false);
        let mut trails: Vec<Trail> = (0..6).map(whole).collect();
        for trail in &mut trails {
            trail.crossings.server.clear();
            let (hop, sent) = (trail.hop, &mut trail.crossings.client);
            sent.retain(|it| match hop {
                0 => true,
                1 => it.ip_id % 2 == 0,
                2 => it.ip_id % 2 == 0 && it.ip_id % 20 != 10,
                3 => it.ip_id % 2 == 1,
                4 => it.ip_id % 2 == 1 && it.ip_id % 40 != 11,
                _ => it.ip_id % 20 != 10 && it.ip_id % 40 != 11,
            });
            let is_late = |it: &Crossing| hop == 5 && it.ip_id % 2 == longer;
            for it in sent.iter_mut().filter(|it| is_late(it)) {
                it.time_ns += 60 * MS;
            }
            sent.sort_by_key(|it| it.time_ns);
            for (frame, it) in (1..).zip(sent.iter_mut()) {
                it.frame = frame;
            }
        }
        // Of one clock: how long the ways are is known.
        let mut hops = hops(6);
        hops.iter_mut().for_each(|it| it.clock = 0);
        let stitched = stitch(trails, &hops);
        let mut told = losses(&stitched);
        told.sort_unstable();
        let wanted = [
            (0, 1, 100, 0, 0),
            (0, 3, 100, 0, 0),
            (1, 2, 100, 10, 0),
            (2, 5, 90, 0, 0),
            (3, 4, 100, 5, 0),
            (4, 5, 95, 0, 0),
        ];
        assert_eq!(told, wanted, "{:?}", stitched.conversations[0].path);
        let alignment = stitched.conversations[0].alignment;
        assert_eq!((alignment.packets, alignment.aligned), (200, 200));
    }
}
