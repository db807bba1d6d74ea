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
    /// Where the last jump led that was not believed.
    jump: Option<(u32, i64)>,
}

impl Unwrap {
    pub(super) const fn from(number: u32) -> Self {
        Self {
            number,
            position: ORIGIN,
            jump: None,
        }
    }

    /// The position of a number, the nearest to the one before. A jump that is not believed does
    /// not move what follows until a second number stands near it, as where a capture begins late.
    pub(super) const fn position(&mut self, number: u32) -> u64 {
        let step = number.wrapping_sub(self.number) as i32 as i64;
        let mut position = self.position + step;
        if step.unsigned_abs() <= SEQUENCE_JUMP_MAX {
            self.number = number;
            self.position = position;
            self.jump = None;
        } else if let Some((other, there)) = self.jump
            && (number.wrapping_sub(other) as i32).unsigned_abs() as u64 <= SEQUENCE_JUMP_MAX
        {
            position = there + number.wrapping_sub(other) as i32 as i64;
            self.number = number;
            self.position = position;
            self.jump = None;
        } else {
            self.jump = Some((number, position));
        }
        if position < 0 { 0 } else { position as u64 }
    }
}

/// Packets of a hop that are looked for at another, to find out in which round of sequence numbers
/// it begins.
const ROUND_SAMPLE_COUNT: usize = 64;

/// Moves the positions of each hop into the rounds of 2³² in which the others saw the same packets:
/// a hop whose capture begins late cannot know how often the numbers had come round.
pub(super) fn settle_rounds(packets: &mut [Sides<Vec<Item>>]) {
    for side in [Side::Client, Side::Server] {
        let span = |items: &[Item]| {
            let ends = || items.iter().map(|it| it.start);
            ends().min().zip(ends().max())
        };
        let spans: Vec<Option<(u64, u64)>> = packets.iter().map(|it| span(it.get(side))).collect();
        // Near the beginning there is no doubt.
        let is_near = |(least, most): &(u64, u64)| {
            let origin = ORIGIN as u64;
            least.abs_diff(origin) <= SEQUENCE_JUMP_MAX
                && most.abs_diff(origin) <= SEQUENCE_JUMP_MAX
        };
        if spans.iter().flatten().all(is_near) {
            continue;
        }
        // Who saw most of it knows best.
        let known = (0..packets.len()).max_by_key(|it| {
            let bytes = spans[*it].map_or(0, |(least, most)| most - least);
            (bytes, std::cmp::Reverse(*it))
        });
        let Some(known) = known else {
            continue;
        };
        let rounds = Rounds::of(packets[known].get(side));
        for (member, of) in packets.iter_mut().enumerate() {
            if member != known
                && let Some([sent, acknowledged]) = rounds.shift(of.get(side))
            {
                for item in of.get_mut(side) {
                    item.start = item.start.saturating_add_signed(sent);
                    item.end = item.end.saturating_add_signed(sent);
                    if item.acknowledged > 0 {
                        item.acknowledged = item.acknowledged.saturating_add_signed(acknowledged);
                    }
                }
            }
        }
    }
}

/// What tells a packet apart, whatever the round.
type Sign = ([u32; 5], u8);

fn sign(item: &Item) -> Sign {
    let crossing = &item.crossing;
    let words = [
        crossing.sequence,
        crossing.acknowledgement,
        crossing.timestamp_value,
        crossing.digest,
        crossing.length,
    ];
    (words, crossing.flags)
}

/// The packets of the hop that knows best: what tells them apart, and their positions.
struct Rounds {
    signs: Vec<(Sign, [u64; 2])>,
}

impl Rounds {
    fn of(items: &[Item]) -> Self {
        let signed = |it: &Item| (sign(it), [it.start, it.acknowledged]);
        let mut signs: Vec<(Sign, [u64; 2])> = items.iter().map(signed).collect();
        signs.sort_unstable();
        signs.dedup();
        Self { signs }
    }

    /// How far positions have to be moved: what most of those say of which there is only one.
    fn shift(&self, items: &[Item]) -> Option<[i64; 2]> {
        let mut counts: std::collections::BTreeMap<[i64; 2], usize> =
            std::collections::BTreeMap::new();
        let shifts = items.iter().filter_map(|item| {
            let sign = sign(item);
            let at = self.signs.partition_point(|it| it.0 < sign);
            let (found, [start, acknowledged]) = self.signs.get(at)?;
            let is_only = self.signs.get(at + 1).is_none_or(|next| next.0 != sign);
            let moved = |from: u64, to: u64| to.wrapping_sub(from) as i64;
            (*found == sign && is_only).then(|| {
                [
                    moved(item.start, *start),
                    moved(item.acknowledged, *acknowledged),
                ]
            })
        });
        for shift in shifts.take(ROUND_SAMPLE_COUNT) {
            *counts.entry(shift).or_default() += 1;
        }
        let most = counts.into_iter().max_by_key(|it| it.1)?;
        (most.0 != [0, 0]).then_some(most.0)
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
