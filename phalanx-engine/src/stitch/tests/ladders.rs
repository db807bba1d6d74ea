//! What ladders and legs tell of the same packets.

use phalanx_common::packet::TcpFlags;

use super::{MS, SECOND, hops, trail};
use crate::side::Side;
use crate::stitch::trail::{Crossing, Trail};
use crate::stitch::{RungEnd, stitch};

/// Acknowledgements that may as well not have been captured are drawn as that.
#[test]
fn what_is_not_known_to_be_lost_is_not_drawn_as_lost() {
    let mut near = trail(0, 40_000, 0, 200, |_| false);
    for side in [Side::Client, Side::Server] {
        near.crossings.get_mut(side).retain(|it| it.ip_id % 2 == 0);
    }
    let stitched = stitch(vec![near, trail(1, 40_000, 0, 200, |_| false)], &hops(2));
    let leg = &stitched.conversations[0].legs[0];
    let reverse = leg.reverse.as_ref().expect("seen");
    assert_eq!((reverse.lost, reverse.unresolved), (0, 100));
    let ladder = stitched.ladder(0, usize::MAX);
    let count = |end: RungEnd| ladder.rungs.iter().filter(|it| it.end == end).count();
    assert_eq!(
        (count(RungEnd::Lost(1)), count(RungEnd::Unknown(1))),
        (0, 100)
    );
}

/// The same bytes were sent first where the clock is an hour ahead, and sent again from a hop
/// before that had not captured the first sending.
#[test]
fn what_repeats_what_is_told_by_one_clock() {
    let shift_ns = 3_600 * SECOND;
    let mut near = trail(0, 40_000, 0, 200, |index| index == 50);
    let mut far = trail(1, 40_000, shift_ns, 200, |_| false);
    for (trail, delay_ns) in [(&mut near, 0), (&mut far, shift_ns + MS)] {
        let again = Crossing {
            sequence: 1_000 + 50 * 100,
            time_ns: 3 * SECOND + delay_ns,
            frame: 10_000,
            ip_id: 7_777,
            timestamp_value: 90_000,
            ..trail.crossings.client[0]
        };
        trail.crossings.client.push(again);
    }
    let stitched = stitch(vec![near, far], &hops(2));
    let ladder = stitched.ladder(0, usize::MAX);
    let of_bytes: Vec<usize> = (0..ladder.rungs.len())
        .filter(|at| ladder.rungs[*at].side == Side::Client)
        .filter(|at| {
            let rung = &ladder.rungs[*at];
            let first = &rung.crossings[0];
            rung.crossings.len() == 1 || first.frame == 10_000
        })
        .collect();
    assert_eq!(of_bytes.len(), 2);
    assert_eq!(ladder.rungs[of_bytes[0]].repeats, None);
    assert_eq!(ladder.rungs[of_bytes[1]].repeats, Some(of_bytes[0]));
}

/// A datagram that is sent again and again, and copied on the way the second time.
#[test]
fn a_copy_is_compared_with_the_packet_beside_it() {
    let datagrams = |hop: u32, times_ms: &[i64]| -> Trail {
        let mut trail = trail(hop, 40_000, 0, 0, |_| false);
        trail.protocol = phalanx_common::packet::protocol::UDP;
        let of = |(index, ms): (usize, &i64)| Crossing {
            time_ns: ms * MS,
            frame: 1 + index as u64,
            length: 40,
            digest: 7,
            ttl: 64 - hop as u8,
            flags: TcpFlags::default().0,
            ..Crossing::default()
        };
        trail.crossings.client = times_ms.iter().enumerate().map(of).collect();
        trail
    };
    let first = datagrams(0, &[1_000, 2_000, 3_000]);
    let second = datagrams(1, &[1_005, 2_005, 2_006, 3_005]);
    let stitched = stitch(vec![first, second], &hops(2));
    assert_eq!(stitched.conversations.len(), 1);
    let forward = stitched.conversations[0].legs[0].forward.as_ref();
    let counts = forward.map(|it| (it.packets, it.lost, it.duplicated));
    assert_eq!(counts, Some((3, 0, 1)));
}
