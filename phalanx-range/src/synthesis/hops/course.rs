//! How a packet fares on its way: when each hop sees it, or that it does not.

use super::conversation::Conversation;
use super::{HopSynthesis, LegCourse};
use crate::limits::HOPS_MAX;
use crate::random::Random;
use crate::synthesis::connection::exponential;
use crate::synthesis::packet::Side;

/// Between a host and the tap on it.
const HOST_NS: u64 = 15_000;
/// Least distance of two packets of a conversation on a leg.
const GAP_NS: u64 = 1_000;
/// How much longer a packet takes that others overtake: more than a burst lasts.
const OVERTAKEN_NS: u64 = 3_000_000;

/// A packet as its sender made it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Packet {
    pub(super) from: Side,
    pub(super) ip_id: u16,
    pub(super) content: Content,
    pub(super) kind: Kind,
}

/// What a packet says of its transport.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Tcp {
        flags: u8,
        sequence: u32,
        acknowledgement: u32,
        timestamps: Option<(u32, u32)>,
    },
    Udp,
    Echo {
        sequence: u16,
    },
}

/// A payload.
#[derive(Debug, Clone, Copy)]
pub(super) enum Content {
    /// The head comes from the seed; the rest is filling.
    Filled {
        seed: u64,
        bytes: u16,
    },
    /// A DNS message.
    Question(Lookup),
    Answer(Lookup),
}

/// What is asked of DNS: the id of the message, and which name.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lookup {
    pub(super) id: u16,
    pub(super) name: u8,
}

impl Packet {
    /// What tells packets of one direction of a conversation apart: copies share it.
    pub(super) const fn looks(&self) -> (u16, u32, u32, Option<(u32, u32)>) {
        match self.kind {
            Kind::Tcp {
                sequence,
                acknowledgement,
                timestamps,
                ..
            } => (self.ip_id, sequence, acknowledgement, timestamps),
            _ => (self.ip_id, 0, 0, None),
        }
    }
}

/// A packet on its way, or a copy of one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sent {
    pub(super) conversation: u32,
    pub(super) packet: Packet,
    /// When each hop sees it; `None` where it does not come to.
    pub(super) seen_ns: [Option<u64>; HOPS_MAX],
}

impl Sent {
    pub(super) fn last_ns(&self) -> u64 {
        self.seen_ns.iter().flatten().max().copied().unwrap_or(0)
    }
}

/// The way of the packets of one conversation.
pub(super) struct Course<'a> {
    conversation: u32,
    legs: &'a [LegCourse],
    /// The first hop and the last one on the way.
    ends: (usize, usize),
    random: Random,
    /// When the last packet left each leg, towards the server and towards the client.
    last_ns: [[u64; HOPS_MAX]; 2],
}

impl<'a> Course<'a> {
    pub(super) fn new(synthesis: &'a HopSynthesis, conversation: &Conversation) -> Self {
        let lone = conversation.seen_at.count_ones() == 1;
        let first = conversation.hops().next().unwrap_or(0);
        let last = conversation.hops().last().unwrap_or(0);
        // Who is seen at one hop only is on its way from and to elsewhere, over all of the legs.
        let ends = if lone {
            (0, synthesis.legs.len())
        } else {
            (first, last)
        };
        Self {
            conversation: conversation.number,
            legs: &synthesis.legs,
            ends,
            random: Random::new(conversation.course_seed, 7),
            last_ns: [[0; HOPS_MAX]; 2],
        }
    }

    /// Sends a packet; says when it arrives, if it does.
    pub(super) fn send(&mut self, at_ns: u64, packet: Packet, to: &mut Vec<Sent>) -> Option<u64> {
        let sent = Sent {
            conversation: self.conversation,
            packet,
            seen_ns: [None; HOPS_MAX],
        };
        let hop = match packet.from {
            Side::Client => self.ends.0,
            Side::Server => self.ends.1,
        };
        let mut copies = Vec::new();
        let arrived_ns = self.go_on((at_ns + HOST_NS, hop), sent, &mut copies, to);
        // What becomes of copies is not waited for; they come after their originals all the way.
        while let Some((place, copy)) = copies.pop() {
            self.go_on(place, copy, &mut copies, to);
        }
        arrived_ns
    }

    /// From a hop on to the end.
    fn go_on(
        &mut self,
        (mut at_ns, mut hop): (u64, usize),
        mut sent: Sent,
        copies: &mut Vec<((u64, usize), Sent)>,
        to: &mut Vec<Sent>,
    ) -> Option<u64> {
        let from = sent.packet.from;
        let mut was_overtaken = false;
        let place = to.len();
        to.push(sent);
        loop {
            sent.seen_ns[hop] = Some(at_ns);
            to[place] = sent;
            let (leg, next) = match from {
                Side::Client if hop < self.ends.1 => (hop, hop + 1),
                Side::Server if hop > self.ends.0 => (hop - 1, hop - 1),
                _ => return Some(at_ns + HOST_NS),
            };
            let course = self.legs[leg];
            let luck = [course.loss, course.duplicate, course.reorder];
            let [is_lost, is_copied, is_overtaken] = luck.map(|rate| self.random.chance(rate));
            let jitter_ms = course.jitter_ms * exponential(&mut self.random);
            if is_lost {
                return None;
            }
            let least_ms = match from {
                Side::Client => course.forward_ms,
                Side::Server => course.reverse_ms,
            };
            let due_ns = at_ns + ((least_ms + jitter_ms) * 1e6) as u64;
            let last_ns = &mut self.last_ns[from as usize][leg];
            at_ns = due_ns.max(*last_ns + GAP_NS);
            was_overtaken |= is_overtaken;
            // Those behind a late one do not wait for it.
            if !was_overtaken {
                *last_ns = at_ns;
            }
            if is_overtaken {
                at_ns += OVERTAKEN_NS;
            }
            hop = next;
            if is_copied {
                let copy = Sent {
                    seen_ns: [None; HOPS_MAX],
                    ..sent
                };
                copies.push(((at_ns + GAP_NS / 2, hop), copy));
            }
        }
    }
}
