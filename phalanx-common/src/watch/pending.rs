//! Flows that are not open yet: one direction has spoken, or a handshake is under way.
//!
//! The table is an array of buckets, indexed by a seeded hash; each has some places for what either
//! direction has sent. A newcomer that finds all places taken displaces the oldest, and what was
//! displaced is counted at that moment, exactly. So a flood of packets from invented sources costs
//! a bounded time, and never touches an open flow.
//! A place is told by 28 bits of the hash; its counts carry them in one word that is written by
//! compare-and-exchange, so that a place that changes hands takes no one's counts along.

use super::Tick;
use super::entry::pack;
use crate::abi::{Direction, FlowKey};
use crate::limits::{BUCKET_COUNT, BUCKET_PLACE_COUNT};
use crate::word::{Word32, Word64};

/// An entry of the table: the places for what each direction has sent.
#[derive(Default)]
#[repr(C)]
pub struct Bucket {
    /// By direction; a flow may hold another place in each.
    pub halves: [[PendingHalf; BUCKET_PLACE_COUNT]; 2],
}

/// What one direction of a pending flow has sent.
#[derive(Default)]
#[repr(C)]
pub struct PendingHalf {
    /// Fingerprint (28 bits), packets (12), bytes (24), from the highest bit down; 0: nothing.
    pub counts: Word64,
    /// Sequence number of the SYN (upper half) and its tick; 0: no SYN.
    pub syn: Word64,
    /// Lower half of the SYN's sequence number, MSS (16 bits), window scale plus one (8),
    /// nothing (16), whether it is a SYN-ACK (1), times sent (7), from the highest bit down:
    /// belongs to `syn` where the sequence numbers agree.
    pub options: Word64,
    /// When the first packet was seen, in nanoseconds.
    pub first_ns: Word64,
    /// Traits, as in the half of an open flow.
    pub traits: Word32,
    /// Nothing.
    pub reserved: Word32,
}

const PACKETS_SHIFT: u32 = 24;
const FINGERPRINT_SHIFT: u32 = 36;
const PACKETS_MAX: u64 = (1 << (FINGERPRINT_SHIFT - PACKETS_SHIFT)) - 1;
const BYTES_MAX: u64 = (1 << PACKETS_SHIFT) - 1;

/// Where a flow waits, and how its entry is known again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Address {
    /// Index of the bucket.
    pub(super) bucket: u32,
    /// 27 bits of the hash and a one: never 0.
    fingerprint: u64,
}

impl Address {
    /// The address of a flow, by a seeded multiply–mix over its key.
    #[inline(always)]
    pub(super) fn of(key: &FlowKey, seed: u64) -> Self {
        let mut hash = seed;
        let word = |high: u32, low: u32| u64::from(high) << 32 | u64::from(low);
        let ports = u32::from(key.low_port) << 16 | u32::from(key.high_port);
        let rest = u32::from(key.vlan) << 16 | u32::from(key.protocol);
        hash = mix(hash, word(key.low[0], key.low[1]));
        hash = mix(hash, word(key.low[2], key.low[3]));
        hash = mix(hash, word(key.high[0], key.high[1]));
        hash = mix(hash, word(key.high[2], key.high[3]));
        hash = mix(hash, word(ports, rest));
        hash = mix(hash, u64::from(key.ifindex));
        Self {
            bucket: hash as u32 & (BUCKET_COUNT - 1),
            fingerprint: (hash >> FINGERPRINT_SHIFT) | 1,
        }
    }
}

/// One round: an odd multiplier from the golden ratio spreads, the shift brings high bits down.
#[inline(always)]
const fn mix(hash: u64, word: u64) -> u64 {
    let mixed = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ mixed >> 29
}

/// What a direction of a pending flow holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) packets: u32,
    pub(super) bytes: u32,
}

/// What became of a packet that was to be counted in the pending table.
pub(super) enum Pended {
    /// Counted; so many packets of this direction wait now, this one included.
    Counted(u32),
    /// Counted in a place taken from another flow, with so many packets and bytes of that one lost.
    Displaced(Counts),
    /// Not counted: other CPUs were faster each time, or the place is full.
    Contended,
}

/// How often a word is tried before giving up: each failure means that another CPU succeeded.
const TRY_COUNT: usize = 8;

impl Bucket {
    #[inline(always)]
    fn places(&self, direction: Direction) -> &[PendingHalf; BUCKET_PLACE_COUNT] {
        match direction {
            Direction::FromLow => &self.halves[0],
            Direction::FromHigh => &self.halves[1],
        }
    }

    /// What the flow at `address` has sent in a direction.
    #[inline(always)]
    pub(super) fn find(&self, direction: Direction, address: Address) -> Option<&PendingHalf> {
        let places = self.places(direction);
        places.iter().find(|place| place.is_of(address))
    }

    /// The place where the flow at `address` waits or may wait: its own, else a free one, else the
    /// oldest.
    #[inline(always)]
    pub(super) fn place(&self, direction: Direction, address: Address) -> &PendingHalf {
        let places = self.places(direction);
        let mut best = &places[0];
        let mut best_rank = u64::MAX;
        for place in places {
            let rank = if place.is_of(address) {
                0
            } else if place.counts.load() == 0 {
                1
            } else {
                // No packet of a daemon's life is seen in the first two nanoseconds.
                place.first_ns.load() | 2
            };
            if rank < best_rank {
                (best, best_rank) = (place, rank);
            }
        }
        best
    }
}

impl PendingHalf {
    #[inline(always)]
    fn is_of(&self, address: Address) -> bool {
        self.counts.load() >> FINGERPRINT_SHIFT == address.fingerprint
    }

    /// Counts a packet of the flow at `address`.
    #[inline(always)]
    pub(super) fn count(&self, address: Address, packets: u32, bytes: u32) -> Pended {
        for _ in 0..TRY_COUNT {
            let old = self.counts.load();
            let is_own = old >> FINGERPRINT_SHIFT == address.fingerprint;
            let before = if is_own {
                unpack(old)
            } else {
                Counts::default()
            };
            let sum = Counts {
                packets: before.packets + packets,
                bytes: before.bytes + bytes,
            };
            if u64::from(sum.packets) > PACKETS_MAX || u64::from(sum.bytes) > BYTES_MAX {
                return Pended::Contended;
            }
            let new = address.fingerprint << FINGERPRINT_SHIFT
                | u64::from(sum.packets) << PACKETS_SHIFT
                | u64::from(sum.bytes);
            if self.counts.replace(old, new) {
                return if is_own || old == 0 {
                    Pended::Counted(sum.packets)
                } else {
                    Pended::Displaced(unpack(old))
                };
            }
        }
        Pended::Contended
    }

    /// How many packets of the flow at `address` wait here.
    #[inline(always)]
    pub(super) fn packets(&self, address: Address) -> u32 {
        let word = self.counts.load();
        if word >> FINGERPRINT_SHIFT == address.fingerprint {
            unpack(word).packets
        } else {
            0
        }
    }

    /// Takes what the flow at `address` has here; of several that try, one gets it.
    #[inline(always)]
    pub(super) fn take(&self, address: Address) -> Option<Counts> {
        for _ in 0..TRY_COUNT {
            let word = self.counts.load();
            if word >> FINGERPRINT_SHIFT != address.fingerprint {
                return None;
            }
            if self.counts.replace(word, 0) {
                return Some(unpack(word));
            }
        }
        None
    }

    /// Keeps a SYN; one that was sent before keeps its first time and counts.
    #[inline(always)]
    pub(super) fn keep_syn(
        &self,
        sequence: u32,
        now: Tick,
        mss: u16,
        window_scale_plus_one: u8,
        is_answer: bool,
    ) {
        let old = self.options.load();
        let is_again = self.syn.load() != 0
            && sequence_half(old) == sequence as u16
            && (self.syn.load() >> 32) as u32 == sequence;
        let sent = if is_again {
            (old & 0x7f).min(0x7e) + 1
        } else {
            1
        };
        if !is_again {
            self.syn.store(pack(sequence, now));
        }
        self.options.store(
            u64::from(sequence as u16) << 48
                | u64::from(mss) << 32
                | u64::from(window_scale_plus_one) << 24
                | u64::from(is_answer) << 7
                | sent,
        );
    }

    /// The SYN that was kept, if all of it belongs together; else one that was never sent.
    #[inline(always)]
    pub(super) fn syn(&self) -> Syn {
        let (syn, options) = (self.syn.load(), self.options.load());
        let sequence = (syn >> 32) as u32;
        let is_whole = syn != 0 && sequence_half(options) == sequence as u16;
        Syn {
            sequence,
            tick: syn as u32,
            mss: (options >> 32) as u16,
            window_scale_plus_one: (options >> 24) as u8,
            sent_count: if is_whole { (options & 0x7f) as u32 } else { 0 },
            is_answer: options & 0x80 != 0,
        }
    }

    /// Forgets the SYN.
    #[inline(always)]
    pub(super) fn clear_syn(&self) {
        self.syn.store(0);
    }
}

/// A SYN, or a SYN-ACK, that waits for its answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Syn {
    pub(super) sequence: u32,
    pub(super) tick: Tick,
    pub(super) mss: u16,
    pub(super) window_scale_plus_one: u8,
    /// How often it was sent; 0: there is none, and the other fields say nothing. (A plain value
    /// instead of an `Option`: of an `Option` that is `None` the compiler leaves registers unset,
    /// and the verifier refuses to see them copied.)
    pub(super) sent_count: u32,
    /// It is a SYN-ACK.
    pub(super) is_answer: bool,
}

#[inline(always)]
const fn sequence_half(options: u64) -> u16 {
    (options >> 48) as u16
}

#[inline(always)]
const fn unpack(word: u64) -> Counts {
    Counts {
        packets: (word >> PACKETS_SHIFT & PACKETS_MAX) as u32,
        bytes: (word & BYTES_MAX) as u32,
    }
}
