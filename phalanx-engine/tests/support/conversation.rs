//! TCP conversations step by step, and the packets that they come to: raw IPv4 frames without a
//! link layer.

#![allow(dead_code, reason = "each test uses a part of it")]

use phalanx_common::packet::{Layers, LinkKind};
use phalanx_engine::record::Decoded;
use phalanx_engine::segment::Segment;
use phalanx_engine::story::FlowStory;
use phalanx_engine::trace::Tracer;

pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const ACK: u8 = 16;

/// A packet, numbers as on the wire.
#[derive(Clone, Debug, Default)]
pub(crate) struct Packet {
    /// From the server.
    pub(crate) is_server: bool,
    pub(crate) time_ns: i64,
    pub(crate) sequence: u32,
    pub(crate) acknowledgement: u32,
    pub(crate) flags: u8,
    pub(crate) window: u16,
    pub(crate) length: u16,
    pub(crate) id: u16,
    pub(crate) ttl: u8,
    pub(crate) timestamps: Option<(u32, u32)>,
    pub(crate) sacks: Vec<(u32, u32)>,
    /// Option bytes as they are, behind the others.
    pub(crate) options: Vec<u8>,
    /// Whether the payload was captured.
    pub(crate) is_whole: bool,
}

impl Packet {
    fn option_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        if self.flags & SYN != 0 {
            out.extend([2, 4, 5, 0xb4, 4, 2, 3, 3, 7, 1]);
        }
        if let Some((value, echo)) = self.timestamps {
            out.extend([1, 1, 8, 10]);
            out.extend(value.to_be_bytes());
            out.extend(echo.to_be_bytes());
        }
        let room = 40_usize.saturating_sub(out.len() + 4) / 8;
        let sacks = &self.sacks[..self.sacks.len().min(room)];
        if !sacks.is_empty() {
            out.extend([1, 1, 5, 2 + 8 * sacks.len() as u8]);
            for (left, right) in sacks {
                out.extend(left.to_be_bytes());
                out.extend(right.to_be_bytes());
            }
        }
        out.extend(&self.options);
        out.truncate(40);
        out.resize(out.len().next_multiple_of(4), 0);
        out
    }

    /// The frame, as captured, and its length on the wire.
    pub(crate) fn frame(&self) -> (Vec<u8>, u32) {
        let options = self.option_bytes();
        let head = 40 + options.len();
        let length = usize::from(self.length).min(65_535 - head);
        let total = (head + length) as u16;
        let (client, server) = ([10, 0, 0, 1], [10, 0, 0, 2]);
        let (client_port, server_port) = (40_000_u16.to_be_bytes(), 9_999_u16.to_be_bytes());
        let mut out = vec![0x45, 0];
        out.extend(total.to_be_bytes());
        out.extend(self.id.to_be_bytes());
        out.extend([0x40, 0, self.ttl, 6, 0, 0]);
        if self.is_server {
            out.extend(server);
            out.extend(client);
            out.extend(server_port);
            out.extend(client_port);
        } else {
            out.extend(client);
            out.extend(server);
            out.extend(client_port);
            out.extend(server_port);
        }
        out.extend(self.sequence.to_be_bytes());
        out.extend(self.acknowledgement.to_be_bytes());
        out.extend([((5 + options.len() / 4) << 4) as u8, self.flags]);
        out.extend(self.window.to_be_bytes());
        out.extend([0; 4]);
        out.extend(options);
        if self.is_whole {
            // A byte says where it stands in its packet, so that copies are alike.
            out.extend((0..length).map(|at| at as u8));
        }
        (out, u32::from(total))
    }
}

/// Runs packets through a tracer.
pub(crate) fn trace(packets: &[Packet], mut each: impl FnMut(&Segment)) -> Vec<FlowStory> {
    let kind = LinkKind::from_linktype(101).expect("raw IP");
    let (mut layers, mut tracer) = (Layers::default(), Tracer::new(7));
    for (index, packet) in packets.iter().enumerate() {
        let (bytes, wire_length) = packet.frame();
        let decoded = Decoded::of(&mut layers, &bytes, kind, wire_length).expect("a TCP packet");
        let number = index as u64 + 1;
        each(&tracer.handle(&decoded.record(number, packet.time_ns, wire_length, &bytes)));
    }
    let mut stories: Vec<FlowStory> = tracer.finish().map(|ended| *ended.into_story()).collect();
    stories.sort_by_key(|story| story.flow);
    stories
}

/// What happens next.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// The next bytes of a side; `is_lost` where they are not captured.
    Send {
        length: u16,
        is_lost: bool,
    },
    /// Bytes from so far back again.
    Again {
        back: u32,
        length: u16,
    },
    /// An acknowledgement of all but `back` of the peer's bytes, with blocks given by their
    /// distances from the peer's next byte.
    Ack {
        back: u32,
        window: u16,
        sacks: Vec<(u32, u32)>,
    },
    Syn {
        is_other: bool,
    },
    Fin,
    Reset {
        off: i32,
    },
    /// An earlier packet once more, as it was or with another TTL.
    Copy {
        back: usize,
        is_elsewhere: bool,
    },
    KeepAlive {
        has_byte: bool,
    },
    /// The side goes on so much farther.
    Jump {
        by: u32,
    },
    /// Any numbers at all.
    Wild {
        sequence: u32,
        acknowledgement: u32,
        flags: u8,
        length: u16,
        options: Vec<u8>,
    },
}

/// A step of one side, some time after the one before.
#[derive(Clone, Debug)]
pub(crate) struct Turn {
    pub(crate) is_server: bool,
    pub(crate) passed_ns: i64,
    pub(crate) step: Step,
}

/// How a conversation is told.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    /// Initial sequence numbers of client and server.
    pub(crate) initial: [u32; 2],
    pub(crate) start_ns: i64,
    pub(crate) has_timestamps: bool,
    pub(crate) has_ids: bool,
    pub(crate) is_whole: bool,
    /// Begins with a handshake.
    pub(crate) is_opened: bool,
    pub(crate) turns: Vec<Turn>,
}

impl Script {
    pub(crate) fn packets(&self) -> Vec<Packet> {
        let mut out = Vec::new();
        let mut next = self.initial;
        let mut time_ns = self.start_ns;
        if self.is_opened {
            for (is_server, flags) in [(false, SYN), (true, SYN | ACK), (false, ACK)] {
                let own = usize::from(is_server);
                let mut packet = self.packet(is_server, time_ns, &next);
                packet.flags = flags;
                next[own] = next[own].wrapping_add(u32::from(flags & SYN != 0));
                time_ns = time_ns.saturating_add(1_000_000);
                out.push(packet);
            }
        }
        for turn in &self.turns {
            time_ns = time_ns.saturating_add(turn.passed_ns);
            let packet = self.packet(turn.is_server, time_ns, &next);
            out.extend(turn.step.apply(packet, &mut next, &out));
        }
        for (index, packet) in out.iter_mut().enumerate() {
            if self.has_ids && packet.id == 0 {
                packet.id = index as u16 + 1;
            }
        }
        out
    }

    fn packet(&self, is_server: bool, time_ns: i64, next: &[u32; 2]) -> Packet {
        let own = usize::from(is_server);
        let ticks = (time_ns / 1_000_000) as u32;
        Packet {
            is_server,
            time_ns,
            sequence: next[own],
            acknowledgement: next[1 - own],
            flags: ACK,
            window: 1_000,
            ttl: 64 - own as u8,
            timestamps: self
                .has_timestamps
                .then_some((ticks | 1, ticks.wrapping_sub(1))),
            is_whole: self.is_whole,
            ..Packet::default()
        }
    }
}

impl Step {
    fn apply(&self, mut packet: Packet, next: &mut [u32; 2], sent: &[Packet]) -> Option<Packet> {
        let own = usize::from(packet.is_server);
        match self {
            Self::Send { length, is_lost } => {
                packet.length = *length;
                next[own] = next[own].wrapping_add(u32::from(*length));
                return (!is_lost).then_some(packet);
            }
            Self::Again { back, length } => {
                packet.sequence = packet.sequence.wrapping_sub(*back);
                packet.length = *length;
            }
            Self::Ack {
                back,
                window,
                sacks,
            } => {
                let end = packet.acknowledgement;
                packet.acknowledgement = end.wrapping_sub(*back);
                packet.window = *window;
                let block = |(left, right): &(u32, u32)| {
                    (end.wrapping_sub(*left), end.wrapping_sub(*right))
                };
                packet.sacks = sacks.iter().map(block).collect();
            }
            Self::Syn { is_other } => {
                if *is_other {
                    next[own] = next[own].wrapping_add(100_000);
                    packet.sequence = next[own];
                }
                packet.flags = if packet.is_server { SYN | ACK } else { SYN };
                next[own] = packet.sequence.wrapping_add(1);
            }
            Self::Fin => {
                packet.flags |= FIN;
                next[own] = next[own].wrapping_add(1);
            }
            Self::Reset { off } => {
                packet.flags |= RST;
                packet.sequence = packet.sequence.wrapping_add_signed(*off);
            }
            Self::Copy { back, is_elsewhere } => {
                let index = sent.len().checked_sub(1 + back)?;
                let time_ns = packet.time_ns;
                packet = sent[index].clone();
                packet.time_ns = time_ns;
                packet.id = index as u16 + 1;
                packet.ttl -= u8::from(*is_elsewhere);
            }
            Self::Jump { by } => {
                next[own] = next[own].wrapping_add(*by);
                return None;
            }
            Self::KeepAlive { has_byte } => {
                packet.sequence = packet.sequence.wrapping_sub(1);
                packet.length = u16::from(*has_byte);
            }
            Self::Wild {
                sequence,
                acknowledgement,
                flags,
                length,
                options,
            } => {
                packet.sequence = *sequence;
                packet.acknowledgement = *acknowledgement;
                packet.flags = *flags;
                packet.length = *length;
                packet.options.clone_from(options);
            }
        }
        Some(packet)
    }
}
