//! Flows that a hop took for several.

use super::{hops, trail};
use crate::side::{Side, Sides};
use crate::stitch::stitch;
use crate::stitch::trail::{Crossing, Trail};

/// What a recorder has that began anew: the packets of the first frames, and those of the others.
fn split(whole: &Trail, first_count: usize) -> [Trail; 2] {
    let mut frames: Vec<u64> = [Side::Client, Side::Server]
        .iter()
        .flat_map(|side| whole.crossings.get(*side).iter().map(|it| it.frame))
        .collect();
    frames.sort_unstable();
    let border = frames[first_count];
    let part = |keeps: &dyn Fn(&Crossing) -> bool| {
        let of = |side: Side| -> Vec<Crossing> {
            let all = whole.crossings.get(side).iter();
            all.filter(|it| keeps(it)).copied().collect()
        };
        Sides {
            client: of(Side::Client),
            server: of(Side::Server),
        }
    };
    [
        Trail {
            crossings: part(&|it| it.frame < border),
            ..whole.clone()
        },
        Trail {
            flow: border,
            crossings: part(&|it| it.frame >= border),
            ..whole.clone()
        },
    ]
}

#[test]
fn a_flow_that_a_hop_split_is_one() {
    for first_count in [100, 200, 360] {
        let [first, second] = split(&trail(1, 40_000, 0, 200, |_| false), first_count);
        let trails = vec![
            trail(0, 40_000, 0, 200, |_| false),
            first,
            second,
            trail(2, 40_000, 0, 200, |_| false),
        ];
        let stitched = stitch(trails, &hops(3));
        assert_eq!(stitched.conversations.len(), 1, "{first_count}");
        assert_eq!(stitched.ambiguous_count, 0, "{first_count}");
        let conversation = &stitched.conversations[0];
        assert_eq!(conversation.flows.len(), 3);
        assert_eq!(stitched.trails[1].parts.len(), 1);
        assert_eq!(stitched.trails[1].packet_count(), 400);
        for leg in &conversation.legs {
            for way in [&leg.forward, &leg.reverse] {
                let way = way.as_ref().expect("seen");
                let counts = (way.packets, way.lost, way.not_captured);
                assert_eq!(counts, (200, 0, 0), "{first_count}");
            }
        }
    }
}

/// Two connections with the same ends, of which nobody saw the beginning.
#[test]
fn a_connection_that_follows_another_is_no_part_of_it() {
    let later = |hop: u32| {
        let mut trail = trail(hop, 40_000, 0, 200, |_| false);
        trail.flow = 1_000;
        for side in [Side::Client, Side::Server] {
            for crossing in trail.crossings.get_mut(side) {
                crossing.frame += 1_000;
                crossing.time_ns += 100_000_000_000;
                crossing.sequence = crossing.sequence.wrapping_add(0x7654_3210);
                crossing.acknowledgement = crossing.acknowledgement.wrapping_add(0x7654_3210);
                crossing.timestamp_value += 100_000;
                crossing.timestamp_echo += 100_000;
                crossing.ip_id += 7_000;
            }
        }
        trail
    };
    let first = |hop: u32| trail(hop, 40_000, 0, 200, |_| false);
    let stitched = stitch(vec![first(0), later(0), first(1), later(1)], &hops(2));
    let flows: Vec<&[usize]> = stitched
        .conversations
        .iter()
        .map(|it| &it.flows[..])
        .collect();
    assert_eq!(flows, [[0, 2], [1, 3]]);
}
