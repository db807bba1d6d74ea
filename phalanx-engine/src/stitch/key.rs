//! Keys: what of a flow survives the way from one hop to the next, whoever rewrites its addresses
//! and ports. Two flows that share enough of them are one conversation.

use std::collections::BinaryHeap;
use std::hash::{BuildHasher, Hasher};

use foldhash::fast::FixedState;
use phalanx_common::packet::{TcpFlags, protocol};

use super::trail::{Crossing, Trail};
use crate::limits::{KEY_CELL_COUNT, KEY_SAMPLE_COUNT};
use crate::side::Side;

/// What a key is made of, and so how much it tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Family {
    /// Both initial sequence numbers: 64 bits that nothing but a sequence randomiser rewrites.
    Initial,
    /// Initial sequence number and first `TSval` of one SYN.
    Syn,
    /// Initial sequence number of one SYN without timestamps.
    BareSyn,
    /// Sequence and acknowledgement number of one segment.
    Point,
    /// Both timestamps of one segment: the same however segments are merged and cut.
    Stamp,
    /// Where both sequence numbers are, to 16 KiB: the same however segments are merged and cut.
    Cell,
    /// What a segment is but for its numbers: length, window, first bytes, IP id, and how far it is
    /// from the initial numbers. All that a sequence randomiser leaves where there are no
    /// timestamps.
    Shape,
    /// The first bytes of a datagram, and its length.
    Digest,
    /// The same with its IP id: tells datagrams of the same content apart.
    Numbered,
    /// The same, or an initial sequence number, with one end: what a NAT leaves of both, or a
    /// sequence randomiser of the side that it does not know.
    Addressed,
    /// Addresses and ports.
    Tuple,
}

impl Family {
    /// What a shared key adds to the score, in logarithms of the odds (METHODS: initial sequence
    /// numbers 40, SYN 30, samples 20, tuple 10; a tuple is all that other protocols may have).
    pub(super) const fn weight(self, protocol: u8) -> u32 {
        match self {
            Self::Initial => 40,
            Self::Syn => 32,
            Self::BareSyn => 24,
            Self::Point | Self::Digest => 20,
            Self::Stamp | Self::Addressed => 16,
            Self::Cell | Self::Numbered => 12,
            // Sixteen bits of the IP id, and little else where flows do the same.
            Self::Shape => 6,
            Self::Tuple if protocol == protocol::TCP => 10,
            Self::Tuple => 32,
        }
    }
}

/// A key of a trail, and which side of the trail it is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) hash: u64,
    pub(super) family: Family,
    pub(super) side: Side,
}

/// The keys of a trail. Of what each segment has, those with the least hashes are taken, so that
/// hops choose the same ones.
pub(super) fn keys(trail: &Trail) -> Vec<Key> {
    let mut keys = Vec::new();
    let mut put = |hash: u64, family, side| keys.push(Key { hash, family, side });
    let is_tcp = trail.protocol == protocol::TCP;
    if is_tcp {
        let initial = &trail.initial;
        if let (Some(client), Some(server)) = (initial.client, initial.server) {
            put(
                hash(Family::Initial, trail, [client, server]),
                Family::Initial,
                Side::Client,
            );
        }
    }
    for side in [Side::Client, Side::Server] {
        let mut points = Least::new(KEY_SAMPLE_COUNT);
        let mut stamps = Least::new(KEY_SAMPLE_COUNT);
        let mut cells = Least::new(KEY_CELL_COUNT);
        let mut shapes = Least::new(KEY_SAMPLE_COUNT);
        let mut addressed = Least::new(2 * KEY_CELL_COUNT);
        for crossing in trail.crossings.get(side) {
            if let Some(shape) = shape(crossing, side, trail) {
                shapes.add(shape);
            }
            if !is_tcp {
                if crossing.digest != 0 {
                    points.add(hash(Family::Digest, trail, [crossing.digest, 0]));
                    for end in [Side::Client, Side::Server] {
                        addressed.add(addressed_hash(crossing.digest, trail, end));
                    }
                }
                continue;
            }
            if TcpFlags(crossing.flags).any(TcpFlags::SYN) {
                let of = [crossing.sequence, crossing.timestamp_value];
                let family = if crossing.has_timestamps() {
                    Family::Syn
                } else {
                    Family::BareSyn
                };
                put(hash(family, trail, of), family, side);
                addressed.add(addressed_hash(crossing.sequence, trail, side));
                continue;
            }
            segment(crossing, trail, &mut points, &mut stamps, &mut cells);
        }
        let (family, numbered) = match is_tcp {
            true => (Family::Point, Family::Shape),
            false => (Family::Digest, Family::Numbered),
        };
        points.hashes().for_each(|hash| put(hash, family, side));
        shapes.hashes().for_each(|hash| put(hash, numbered, side));
        let hashes = addressed.hashes();
        hashes.for_each(|hash| put(hash, Family::Addressed, side));
        stamps
            .hashes()
            .for_each(|hash| put(hash, Family::Stamp, side));
        cells
            .hashes()
            .for_each(|hash| put(hash, Family::Cell, side));
    }
    let tuple = [Side::Client, Side::Server].map(|side| {
        let end = trail.ends.get(side);
        let mut hasher = FixedState::with_seed(0).build_hasher();
        std::hash::Hash::hash(end, &mut hasher);
        hasher.finish()
    });
    // The same whoever is taken for the client; the side says which is the lower.
    let side = if tuple[0] <= tuple[1] {
        Side::Client
    } else {
        Side::Server
    };
    let (low, high) = (tuple[0].min(tuple[1]), tuple[0].max(tuple[1]));
    put(
        hash(Family::Tuple, trail, [low as u32, high as u32]) ^ low ^ high.rotate_left(32),
        Family::Tuple,
        side,
    );
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// The keys of a segment that is no SYN.
fn segment(
    crossing: &Crossing,
    trail: &Trail,
    points: &mut Least,
    stamps: &mut Least,
    cells: &mut Least,
) {
    if !TcpFlags(crossing.flags).any(TcpFlags::ACK) {
        return;
    }
    let both = [crossing.sequence, crossing.acknowledgement];
    points.add(hash(Family::Point, trail, both));
    let cell = both.map(|number| number >> 14);
    cells.add(hash(Family::Cell, trail, cell));
    if crossing.has_timestamps() {
        let both = [crossing.timestamp_value, crossing.timestamp_echo];
        stamps.add(hash(Family::Stamp, trail, both));
    }
}

/// See [`Family::Addressed`].
fn addressed_hash(word: u32, trail: &Trail, end: Side) -> u64 {
    let mut hasher = FixedState::with_seed(u64::from(trail.protocol)).build_hasher();
    hasher.write_u8(Family::Addressed as u8);
    hasher.write_u32(word);
    std::hash::Hash::hash(trail.ends.get(end), &mut hasher);
    hasher.finish()
}

/// See [`Family::Shape`] and [`Family::Numbered`].
fn shape(crossing: &Crossing, side: Side, trail: &Trail) -> Option<u64> {
    if crossing.ip_id == 0 {
        return None;
    }
    let mut hasher = FixedState::with_seed(u64::from(trail.protocol)).build_hasher();
    hasher.write_u8(Family::Shape as u8);
    hasher.write_u16(crossing.ip_id);
    hasher.write_u32(crossing.length);
    if trail.protocol == protocol::TCP {
        // Of SACK blocks the numbers are shifted or not, as the randomiser knows of them.
        let digest = if crossing.length > 0 {
            crossing.digest
        } else {
            0
        };
        hasher.write_u32(digest);
        let (own, other) = (trail.initial.get(side), trail.initial.get(side.other()));
        hasher.write_u32(crossing.sequence.wrapping_sub((*own)?));
        let acknowledged = match TcpFlags(crossing.flags).any(TcpFlags::ACK) {
            true => crossing.acknowledgement.wrapping_sub((*other)?),
            false => 0,
        };
        hasher.write_u32(acknowledged);
        hasher.write_u16(crossing.window);
        hasher.write_u8(crossing.flags);
    } else {
        hasher.write_u32(crossing.digest);
    }
    Some(hasher.finish())
}

fn hash(family: Family, trail: &Trail, words: [u32; 2]) -> u64 {
    let mut hasher = FixedState::with_seed(u64::from(trail.protocol)).build_hasher();
    hasher.write_u8(family as u8);
    hasher.write_u32(words[0]);
    hasher.write_u32(words[1]);
    hasher.finish()
}

/// The least of many hashes, each once (min-wise sampling, Broder 1997).
struct Least {
    most: usize,
    heap: BinaryHeap<u64>,
}

impl Least {
    fn new(most: usize) -> Self {
        Self {
            most,
            heap: BinaryHeap::new(),
        }
    }

    fn add(&mut self, hash: u64) {
        if self.heap.len() < self.most {
            if !self.heap.iter().any(|it| *it == hash) {
                self.heap.push(hash);
            }
            return;
        }
        if self.heap.peek().is_some_and(|worst| hash < *worst)
            && !self.heap.iter().any(|it| *it == hash)
        {
            self.heap.pop();
            self.heap.push(hash);
        }
    }

    fn hashes(self) -> impl Iterator<Item = u64> {
        self.heap.into_iter()
    }
}
