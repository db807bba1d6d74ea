//! One conversation before it begins: who, how, and what each hop sees of it.

use super::names::Names;
use super::{HopProtocol, HopSynthesis, Pair, Shares};
use crate::limits::HOPS_MAX;
use crate::random::Random;

/// What a segment carries at most: 1,460 less timestamps.
const SEGMENT_BYTES: u16 = 1_448;
/// The same where it is clamped to 1,360.
const SEGMENT_BYTES_CLAMPED: u16 = 1_348;

/// What is said in a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    /// TCP.
    Connection,
    /// UDP: a question, an answer.
    Lookup,
    /// UDP both ways.
    Datagrams,
    Echo,
}

/// A conversation, decided before anything is sent.
#[derive(Debug, Clone)]
pub(super) struct Conversation {
    pub(super) number: u32,
    pub(super) manner: Manner,
    /// The names of its ends at each hop.
    pub(super) pairs: [Pair; HOPS_MAX],
    /// Which hops see it, a bit each.
    pub(super) seen_at: u8,
    /// The conversation whose names it has too, having ended.
    pub(super) after: Option<usize>,
    /// The conversation whose content it has too, on the other side of a relay.
    pub(super) relay_of: Option<u32>,
    pub(super) is_midstream: bool,
    pub(super) has_timestamps: bool,
    pub(super) has_identification: bool,
    pub(super) is_equal_payload: bool,
    /// Added to the client's sequence numbers behind the first leg.
    pub(super) shift: u32,
    /// Payload bytes of a segment.
    pub(super) segment_bytes: u16,
    /// What it says, and when: of this conversation and the one beyond its relay.
    pub(super) content_seed: u64,
    /// How its packets fare.
    pub(super) course_seed: u64,
}

impl Conversation {
    pub(super) fn draw(
        synthesis: &HopSynthesis,
        number: usize,
        random: &mut Random,
        names: &mut Names,
    ) -> Self {
        let shares = &synthesis.shares;
        let hop_count = synthesis.hop_count();
        let number = number as u32;
        let manner = draw_manner(random, shares);
        let protocol = manner.protocol();
        // All dice are thrown for each, so that one share does not shift the others.
        let mut is = |share: f64| random.chance(share);
        let is_relayed = is(shares.relayed) && manner == Manner::Connection;
        let (is_v6, is_translated) = (is(shares.ipv6), is(shares.translated));
        let (is_redirected, is_shifted) = (is(shares.redirected), is(shares.shifted));
        let (is_lone, is_detour) = (is(shares.lone), is(shares.detour));
        let (is_clamped, is_midstream) = (is(shares.clamped), is(shares.midstream));
        let (no_timestamps, no_identification) =
            (is(shares.no_timestamps), is(shares.no_identification));
        let is_equal_payload = is(shares.equal_payload);
        let (shift, lone_at) = (random.next_u32(), random.next_u32() as usize % hop_count);
        let own = names.pair(manner, is_v6);
        let mut pairs = [own; HOPS_MAX];
        if is_translated {
            pairs[1..].fill(names.translate(protocol, own));
        }
        // Of two hops, the second is behind both.
        if is_redirected && !is_relayed {
            let last = hop_count - 1;
            let pair = names.redirect(protocol, pairs[last]);
            pairs[last..].fill(pair);
        }
        let all = u8::MAX >> (8 - hop_count);
        let seen_at = match (is_relayed, is_lone, is_detour && hop_count > 2) {
            (true, ..) => all & ((1 << (hop_count / 2 + 1)) - 1),
            (_, true, _) => 1 << lone_at,
            (_, _, true) => all & !2,
            _ => all,
        };
        let is_midstream = is_midstream && manner == Manner::Connection && !is_relayed;
        Self {
            number,
            manner,
            pairs,
            seen_at,
            after: None,
            relay_of: is_relayed.then_some(number),
            is_midstream,
            has_timestamps: !no_timestamps,
            has_identification: !no_identification && !is_v6,
            is_equal_payload: is_equal_payload && !is_relayed,
            shift: if is_shifted && is_translated && !is_midstream {
                shift
            } else {
                0
            },
            segment_bytes: if is_clamped {
                SEGMENT_BYTES_CLAMPED
            } else {
                SEGMENT_BYTES
            },
            content_seed: seed(synthesis, number, 0),
            course_seed: seed(synthesis, number, 1),
        }
    }

    /// The connection from the relay on, where there is one.
    pub(super) fn relay(&self, synthesis: &HopSynthesis, names: &mut Names) -> Option<Self> {
        self.relay_of?;
        let hop_count = synthesis.hop_count();
        let before = (1u8 << (hop_count / 2)) - 1;
        let number = self.number + 1;
        Some(Self {
            number,
            pairs: [names.pair(Manner::Connection, self.pairs[0].client.is_ipv6()); HOPS_MAX],
            seen_at: (u8::MAX >> (8 - hop_count)) & !before,
            course_seed: seed(synthesis, number, 1),
            shift: 0,
            ..self.clone()
        })
    }

    /// Whether another one may have its names: it ends where all can see it.
    pub(super) fn is_reusable(&self, hop_count: usize) -> bool {
        self.manner == Manner::Connection
            && !self.is_midstream
            && self.relay_of.is_none()
            && self.after.is_none()
            && self.seen_at.count_ones() as usize == hop_count
    }

    /// Another one with the same names.
    pub(super) fn reuse(&self, random: &mut Random, shares: &Shares) -> Option<Self> {
        let is_reused = random.chance(shares.reused);
        let seeds = [random.next_u32(), random.next_u32()].map(u64::from);
        is_reused.then(|| Self {
            number: self.number + 1,
            after: Some(self.number as usize),
            shift: if self.shift == 0 { 0 } else { seeds[0] as u32 },
            content_seed: seeds[0] << 32 | seeds[1],
            course_seed: seeds[1] << 32 | seeds[0],
            ..self.clone()
        })
    }

    pub(super) fn is_seen_at(&self, hop: usize) -> bool {
        self.seen_at & (1 << hop) != 0
    }

    /// The hops that see it, in order.
    pub(super) fn hops(&self) -> impl Iterator<Item = usize> {
        (0..HOPS_MAX).filter(|hop| self.is_seen_at(*hop))
    }

    /// Whether its segment size is clamped.
    pub(super) fn is_clamped(&self) -> bool {
        self.segment_bytes == SEGMENT_BYTES_CLAMPED
    }
}

impl Manner {
    pub(super) fn protocol(self) -> HopProtocol {
        match self {
            Self::Connection => HopProtocol::Tcp,
            Self::Lookup | Self::Datagrams => HopProtocol::Udp,
            Self::Echo => HopProtocol::Icmp,
        }
    }
}

/// Two of another synthesis have nothing in common with these.
fn seed(synthesis: &HopSynthesis, number: u32, use_of: u64) -> u64 {
    let mut random = Random::new(synthesis.seed, u64::from(number) * 2 + use_of + 1);
    u64::from(random.next_u32()) << 32 | u64::from(random.next_u32())
}

fn draw_manner(random: &mut Random, shares: &Shares) -> Manner {
    let mut luck = random.unit();
    for (share, manner) in [
        (shares.lookup, Manner::Lookup),
        (shares.datagrams, Manner::Datagrams),
        (shares.echo, Manner::Echo),
    ] {
        if luck < share {
            return manner;
        }
        luck -= share;
    }
    Manner::Connection
}
