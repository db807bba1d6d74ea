//! Parts: what one hop took for several flows though it is one, since its recorder began anew, or
//! its capture has a gap. Another hop tells: it shares packets with each of them.

use phalanx_common::packet::protocol;

use super::trail::Trail;
use crate::side::{Endpoint, Side};

/// Whether two flows of one hop may be parts of one: the same ends, one after the other, and
/// nothing that a new connection begins with.
pub(super) fn may_be_one(a: &Trail, b: &Trail) -> bool {
    let is_same = a.hop == b.hop && a.protocol == b.protocol && ends(a) == ends(b);
    if !is_same {
        return false;
    }
    let (earlier, later) = if first_frame(a) <= first_frame(b) {
        (a, b)
    } else {
        (b, a)
    };
    // A connection begins with SYNs, whoever of the two is taken for the client.
    let begins = later.initial.client.is_some() || later.initial.server.is_some();
    let is_begun = later.protocol == protocol::TCP && begins;
    !is_begun && last_frame(earlier) < first_frame(later)
}

/// The number of a flow's first frame that was kept.
pub(super) fn first_frame(trail: &Trail) -> u64 {
    let both = [&trail.crossings.client, &trail.crossings.server];
    let first = both.into_iter().filter_map(|it| it.first());
    first.map(|it| it.frame).min().unwrap_or(trail.flow)
}

fn last_frame(trail: &Trail) -> u64 {
    let both = [&trail.crossings.client, &trail.crossings.server];
    let last = both.into_iter().filter_map(|it| it.last());
    last.map(|it| it.frame).max().unwrap_or(trail.flow)
}

/// Both ends, whoever is taken for the client.
fn ends(trail: &Trail) -> [Endpoint; 2] {
    let (client, server) = (trail.ends.client, trail.ends.server);
    if client <= server {
        [client, server]
    } else {
        [server, client]
    }
}

/// Makes one flow of the parts that a hop has in a group, which come in the order of hops and then
/// of frames: the first takes the packets of the others in.
pub(super) fn bring_together(group: &mut Vec<usize>, trails: &mut [Trail]) {
    let mut kept: Vec<usize> = Vec::with_capacity(group.len());
    for place in group.drain(..) {
        match kept.last() {
            Some(first) if trails[*first].hop == trails[place].hop => {
                let part = take_packets(&mut trails[place]);
                absorb(&mut trails[*first], part);
            }
            _ => kept.push(place),
        }
    }
    *group = kept;
}

/// A flow with its packets, which leaves none.
fn take_packets(trail: &mut Trail) -> Trail {
    let empty = Trail {
        crossings: crate::side::Sides::default(),
        content: Box::default(),
        parts: Vec::new(),
        ..*trail
    };
    std::mem::replace(trail, empty)
}

fn absorb(whole: &mut Trail, mut part: Trail) {
    for side in [Side::Client, Side::Server] {
        let more = std::mem::take(part.crossings.get_mut(side));
        whole.crossings.get_mut(side).extend(more);
        if whole.syn.get(side).is_none() {
            *whole.syn.get_mut(side) = *part.syn.get(side);
        }
    }
    whole.parts.push(part.flow);
    whole.parts.append(&mut part.parts);
    whole.left_out += part.left_out;
}
