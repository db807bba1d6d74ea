//! What lies between hops and rewrites more than addresses.

use super::{hops, trail};
use crate::side::Side;
use crate::stitch::trail::Trail;
use crate::stitch::{Stitched, stitch};

/// A connection of which the server's side sends SACK blocks with every second acknowledgement, and
/// both sides' initial numbers are known.
fn selective(hop: u32) -> Trail {
    let mut trail = trail(hop, 40_000, 0, 200, |_| false);
    trail.initial.client = Some(999);
    trail.initial.server = Some(76);
    for (index, crossing) in trail.crossings.server.iter_mut().enumerate() {
        crossing.digest = if index % 2 == 0 { 50 + index as u32 } else { 0 };
    }
    trail
}

fn assert_all_arrived(stitched: &Stitched) {
    assert_eq!(stitched.conversations.len(), 1);
    let legs = &stitched.conversations[0].legs;
    assert_eq!(legs.len(), 1);
    for way in [&legs[0].forward, &legs[0].reverse] {
        let way = way.as_ref().expect("seen");
        let missing = (way.lost, way.not_captured, way.unresolved);
        assert_eq!((way.packets, missing), (200, (0, 0, 0)));
    }
}

#[test]
fn shifted_numbers_in_acknowledgements_and_their_blocks_are_no_loss() {
    let mut shifted = selective(1);
    let shift = 0x2345_6789;
    shifted.initial.client = Some(999_u32.wrapping_add(shift));
    for crossing in &mut shifted.crossings.client {
        crossing.sequence = crossing.sequence.wrapping_add(shift);
    }
    for crossing in &mut shifted.crossings.server {
        crossing.acknowledgement = crossing.acknowledgement.wrapping_add(shift);
        crossing.digest = crossing.digest.wrapping_mul(3);
    }
    assert_all_arrived(&stitch(vec![selective(0), shifted], &hops(2)));
}

#[test]
fn rewritten_timestamps_of_acknowledgements_are_no_loss() {
    let mut rewritten = selective(1);
    for side in [Side::Client, Side::Server] {
        for crossing in rewritten.crossings.get_mut(side) {
            crossing.timestamp_value += 4_000_000;
            crossing.timestamp_echo += 1_000_000;
        }
    }
    assert_all_arrived(&stitch(vec![selective(0), rewritten], &hops(2)));
}
