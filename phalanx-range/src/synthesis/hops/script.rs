//! What the two ends of a conversation say to each other, and when.

use std::collections::BTreeSet;

use super::HopSynthesis;
use super::conversation::{Conversation, Manner};
use super::course::{Content, Course, Kind, Lookup, Packet, Sent};
use super::frame::{ACK, FIN, PSH, SYN};
use crate::random::{Random, seed_of};
use crate::synthesis::connection::exponential;
use crate::synthesis::packet::Side;

const MS: u64 = 1_000_000;
/// Until something is sent again; doubled each time.
const REPEAT_NS: u64 = 250 * MS;
/// After which the ends give up.
const ATTEMPTS_MAX: u32 = 8;
/// Between segments that are sent at once.
const SEGMENT_GAP_NS: u64 = 12_000;
/// How long a relay takes.
const RELAY_NS: u64 = 300_000;
/// What all say who say the same.
const COMMON_SEED: u64 = 0x5048_414c_414e_5801;
/// Between the end of a conversation and the next one of the same names.
const REST_NS: u64 = 1_500 * MS;

/// Plays a conversation that does not begin before `free_ns`.
pub(super) fn play(
    synthesis: &HopSynthesis,
    conversation: &Conversation,
    free_ns: u64,
    to: &mut Vec<Sent>,
) {
    let mut random = Random::new(conversation.content_seed, 3);
    let start_ns = (random.unit() * synthesis.duration_ms * 1e6) as u64;
    let is_relay = conversation
        .relay_of
        .is_some_and(|other| other != conversation.number);
    let now_ns = if free_ns > 0 {
        // Any initial time could lie within the life of the other one.
        free_ns + REST_NS + (random.unit() * 1e9) as u64
    } else {
        start_ns + if is_relay { RELAY_NS } else { 0 }
    };
    let (least, most) = synthesis.requests;
    let requests = least + random.next_u32() % (most - least + 1);
    let mut own = Random::new(conversation.course_seed, 11);
    let sides = [Side::Client, Side::Server];
    let mut script = Script {
        conversation,
        course: Course::new(synthesis, conversation),
        next: [own.next_u32(), own.next_u32()],
        received: [0; 2],
        ip_id: sides.map(|_| own.next_u32() as u16),
        clock_ms: sides.map(|_| own.next_u32()),
        echo: [0; 2],
        now_ns,
        to,
    };
    script.received = [script.next[1], script.next[0]];
    match conversation.manner {
        Manner::Connection => script.connect(&mut random, requests, synthesis.pause_ms),
        Manner::Lookup => script.look_up(&mut random),
        Manner::Datagrams => script.stream(&mut random, requests, synthesis.pause_ms),
        Manner::Echo => script.echo(requests.max(2)),
    }
}

struct Script<'a> {
    conversation: &'a Conversation,
    course: Course<'a>,
    /// What each side sends next, and what it has received to.
    next: [u32; 2],
    received: [u32; 2],
    ip_id: [u16; 2],
    clock_ms: [u32; 2],
    /// The newest timestamp that each side has got.
    echo: [u32; 2],
    now_ns: u64,
    to: &'a mut Vec<Sent>,
}

impl Script<'_> {
    fn connect(&mut self, random: &mut Random, requests: u32, pause_ms: f64) {
        if !self.conversation.is_midstream {
            self.deliver(Side::Client, SYN, &[]);
            self.deliver(Side::Server, SYN | ACK, &[]);
            self.acknowledge(Side::Client);
        }
        for number in 0..requests {
            if number > 0 {
                self.now_ns += (pause_ms * exponential(random) * 1e6) as u64 + 100_000;
            }
            let request_bytes = 40 + random.next_u32() % 600;
            self.say(Side::Client, u64::from(number) * 2, request_bytes);
            self.now_ns += (exponential(random) * 2e6) as u64 + 50_000;
            let is_long = random.chance(0.1);
            let response_bytes = if is_long {
                3_000 + random.next_u32() % 12_000
            } else {
                60 + random.next_u32() % 1_200
            };
            self.say(Side::Server, u64::from(number) * 2 + 1, response_bytes);
            self.acknowledge(Side::Client);
        }
        if !self.conversation.is_midstream {
            self.deliver(Side::Client, FIN | ACK, &[]);
            self.deliver(Side::Server, FIN | ACK, &[]);
            self.acknowledge(Side::Client);
        }
    }

    fn look_up(&mut self, random: &mut Random) {
        let (id, name) = (random.next_u32() as u16, random.next_u32() as u8);
        let is_common = self.conversation.is_equal_payload;
        let lookup = Lookup {
            id,
            name: if is_common { 0 } else { name },
        };
        for _ in 0..ATTEMPTS_MAX {
            let asked_ns = self.now_ns;
            let arrived = self.datagram(Side::Client, Content::Question(lookup));
            let answered = arrived.and_then(|at_ns| {
                self.now_ns = at_ns + 200_000;
                self.datagram(Side::Server, Content::Answer(lookup))
            });
            if answered.is_some() {
                return;
            }
            self.now_ns = asked_ns + 1_000 * MS;
        }
    }

    fn stream(&mut self, random: &mut Random, requests: u32, pause_ms: f64) {
        for number in 0..requests * 3 {
            let client_bytes = 40 + (random.next_u32() % 1_160) as u16;
            let server_bytes = 40 + (random.next_u32() % 1_160) as u16;
            let start_ns = self.now_ns;
            for (side, bytes, part) in [
                (Side::Client, client_bytes, 0),
                (Side::Server, server_bytes, 1),
            ] {
                // Encrypted, so that no two datagrams are the same.
                let seed = self.conversation.content_seed ^ (u64::from(number) << 1 | part);
                self.datagram(side, Content::Filled { seed, bytes });
                self.now_ns = start_ns + 400_000;
            }
            self.now_ns = start_ns + (pause_ms * exponential(random) * 1e6) as u64 + 500_000;
        }
    }

    fn echo(&mut self, requests: u32) {
        for sequence in 1..=requests as u16 {
            let start_ns = self.now_ns;
            let content = Content::Filled {
                seed: self.seed_of(sequence.into()),
                bytes: 56,
            };
            let packet = |ip_id, from| Packet {
                from,
                ip_id,
                content,
                kind: Kind::Echo { sequence },
            };
            let ip_id = self.take_id(Side::Client);
            let arrived = self
                .course
                .send(start_ns, packet(ip_id, Side::Client), self.to);
            if let Some(at_ns) = arrived {
                let ip_id = self.take_id(Side::Server);
                let answer = packet(ip_id, Side::Server);
                self.course.send(at_ns + 20_000, answer, self.to);
            }
            self.now_ns = start_ns + 1_000 * MS;
        }
    }

    fn datagram(&mut self, from: Side, content: Content) -> Option<u64> {
        let packet = Packet {
            from,
            ip_id: self.take_id(from),
            content,
            kind: Kind::Udp,
        };
        self.course.send(self.now_ns, packet, self.to)
    }

    /// Says so many bytes, and waits until all have arrived.
    fn say(&mut self, from: Side, message: u64, bytes: u32) {
        let seed = self.seed_of(message);
        let segment = u32::from(self.conversation.segment_bytes);
        let parts: Vec<Content> = (0..bytes.div_ceil(segment))
            .map(|at| Content::Filled {
                seed: seed ^ u64::from(at),
                bytes: (bytes - at * segment).min(segment) as u16,
            })
            .collect();
        self.deliver(from, ACK, &parts);
    }

    fn seed_of(&self, message: u64) -> u64 {
        let own = if self.conversation.is_equal_payload {
            COMMON_SEED
        } else {
            self.conversation.content_seed
        };
        seed_of(own ^ message, "message")
    }

    /// Sends segments until each has arrived; that is when the other side has it all.
    fn deliver(&mut self, from: Side, flags: u8, parts: &[Content]) {
        let nothing = [Content::Filled { seed: 0, bytes: 0 }];
        let parts = if parts.is_empty() { &nothing } else { parts };
        let start_ns = self.now_ns;
        let mut complete_ns = start_ns;
        let phantom = u32::from(flags & (SYN | FIN) != 0);
        // In the order of time, so that a repetition comes after what was sent meanwhile.
        let mut due = BTreeSet::new();
        let mut sequences = Vec::new();
        for (at, content) in parts.iter().enumerate() {
            due.insert((start_ns + at as u64 * SEGMENT_GAP_NS, at, 0));
            let sequence = self.next[from as usize];
            sequences.push(sequence);
            let end = sequence.wrapping_add(length(content).into());
            self.next[from as usize] = end.wrapping_add(phantom);
        }
        while let Some((at_ns, at, attempt)) = due.pop_first() {
            let is_last = at + 1 == parts.len() && flags == ACK;
            let push = if is_last { PSH } else { 0 };
            let packet = self.segment(at_ns, from, flags | push, sequences[at], parts[at]);
            match self.course.send(at_ns, packet, self.to) {
                Some(arrived_ns) => complete_ns = complete_ns.max(arrived_ns),
                None if attempt < ATTEMPTS_MAX => {
                    due.insert((at_ns + (REPEAT_NS << attempt), at, attempt + 1));
                }
                None => {}
            }
        }
        self.received[from.other() as usize] = self.next[from as usize];
        self.echo[from.other() as usize] = self.clock(from, start_ns);
        self.now_ns = complete_ns + 30_000;
    }

    /// An acknowledgement alone, which may be lost.
    fn acknowledge(&mut self, from: Side) {
        let sequence = self.next[from as usize];
        let nothing = Content::Filled { seed: 0, bytes: 0 };
        let packet = self.segment(self.now_ns, from, ACK, sequence, nothing);
        self.course.send(self.now_ns, packet, self.to);
        self.now_ns += SEGMENT_GAP_NS;
    }

    fn segment(
        &mut self,
        at_ns: u64,
        from: Side,
        flags: u8,
        sequence: u32,
        content: Content,
    ) -> Packet {
        let timestamps = self
            .conversation
            .has_timestamps
            .then(|| (self.clock(from, at_ns), self.echo[from as usize]));
        Packet {
            from,
            ip_id: self.take_id(from),
            content,
            kind: Kind::Tcp {
                flags,
                sequence,
                acknowledgement: if flags & ACK == 0 {
                    0
                } else {
                    self.received[from as usize]
                },
                timestamps,
            },
        }
    }

    fn clock(&self, side: Side, at_ns: u64) -> u32 {
        self.clock_ms[side as usize].wrapping_add((at_ns / MS) as u32)
    }

    fn take_id(&mut self, side: Side) -> u16 {
        if !self.conversation.has_identification {
            return 0;
        }
        let id = &mut self.ip_id[side as usize];
        *id = id.wrapping_add(1);
        *id
    }
}

/// Payload bytes of a segment.
fn length(content: &Content) -> u16 {
    match content {
        Content::Filled { bytes, .. } => *bytes,
        Content::Question(_) | Content::Answer(_) => 0,
    }
}
