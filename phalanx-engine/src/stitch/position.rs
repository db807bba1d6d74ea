//! Positions: the sequence numbers of one direction, counted on beyond 2³² from a number that all
//! hops of a conversation share.

use phalanx_common::packet::{TcpFlags, protocol};

use super::alignment::Item;
use super::trail::{Crossing, Trail};
use crate::limits::SEQUENCE_JUMP_MAX;
use crate::side::{Side, Sides};

/// Where positions begin: numbers before the shared one are positions as well.
const ORIGIN: i64 = 1 << 40;

/// The numbers that a conversation's positions are counted from, at one hop.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Base {
    /// Initial sequence numbers, or the first that any hop saw.
    pub(super) numbers: Sides<u32>,
}

impl Base {
    /// That of all hops of a conversation: a sequence randomiser shifts the numbers of those beyond
    /// it, as the initial ones tell.
    pub(super) fn of(trails: &[&Trail]) -> Vec<Self> {
        let shared = |side: Side| {
            let initial = trails.iter().find_map(|it| *it.initial.get(side));
            initial.unwrap_or_else(|| {
                let first = trails.iter().find_map(|it| first_number(it, side));
                first.unwrap_or_default()
            })
        };
        let shared = Sides {
            client: shared(Side::Client),
            server: shared(Side::Server),
        };
        let own = |trail: &&Trail| Self {
            numbers: Sides {
                client: trail.initial.client.unwrap_or(shared.client),
                server: trail.initial.server.unwrap_or(shared.server),
            },
        };
        trails.iter().map(own).collect()
    }
}

/// The first sequence number of a side: sent, or acknowledged by the other.
fn first_number(trail: &Trail, side: Side) -> Option<u32> {
    let sent = trail.crossings.get(side).first().map(|it| it.sequence);
    let acknowledged = trail.crossings.get(side.other()).iter();
    sent.or_else(|| {
        acknowledged
            .map(|it| it.acknowledgement)
            .find(|it| *it != 0)
    })
}

/// Counts numbers on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unwrap {
    number: u32,
    position: i64,
}

impl Unwrap {
    pub(super) const fn from(number: u32) -> Self {
        Self {
            number,
            position: ORIGIN,
        }
    }

    /// The position of a number, the nearest to the one before; a jump that is not believed does
    /// not move what follows.
    pub(super) const fn position(&mut self, number: u32) -> u64 {
        let step = number.wrapping_sub(self.number) as i32 as i64;
        let position = self.position + step;
        if step.unsigned_abs() <= SEQUENCE_JUMP_MAX {
            self.number = number;
            self.position = position;
        }
        if position < 0 { 0 } else { position as u64 }
    }
}

/// The packets of one side as items, in the order of the capture.
pub(super) fn items(trail: &Trail, side: Side, base: &Base) -> Vec<Item> {
    let crossings = trail.crossings.get(side).iter();
    if trail.protocol != protocol::TCP {
        let plain = |crossing: &Crossing| Item {
            start: 0,
            end: 0,
            time_ns: crossing.time_ns,
            acknowledged: 0,
            missed_count: 0,
            crossing: *crossing,
        };
        return crossings.map(plain).collect();
    }
    let (own, other) = (*base.numbers.get(side), *base.numbers.get(side.other()));
    let mut sent = Unwrap::from(own);
    let mut acknowledged = Unwrap::from(other);
    let item = |crossing: &Crossing| {
        let start = sent.position(crossing.sequence);
        let has_ack = TcpFlags(crossing.flags).any(TcpFlags::ACK);
        let acknowledgement = match has_ack {
            true => crossing.acknowledgement.wrapping_sub(other),
            false => 0,
        };
        Item {
            start,
            end: start + u64::from(crossing.sequence_length()),
            time_ns: crossing.time_ns,
            acknowledged: match has_ack {
                true => acknowledged.position(crossing.acknowledgement),
                false => 0,
            },
            missed_count: 0,
            crossing: Crossing {
                sequence: crossing.sequence.wrapping_sub(own),
                acknowledgement,
                ..*crossing
            },
        }
    };
    crossings.map(item).collect()
}
