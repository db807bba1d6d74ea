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
    /// The first bytes of a datagram, and its length.
    Digest,
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
            Self::Stamp => 16,
            Self::Cell => 12,
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
        for crossing in trail.crossings.get(side) {
            if !is_tcp {
                if crossing.digest != 0 {
                    points.add(hash(Family::Digest, trail, [crossing.digest, 0]));
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
                continue;
            }
            segment(crossing, trail, &mut points, &mut stamps, &mut cells);
        }
        let family = if is_tcp {
            Family::Point
        } else {
            Family::Digest
        };
        points.hashes().for_each(|hash| put(hash, family, side));
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
