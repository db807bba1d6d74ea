//! One simulated connection: it opens, asks and answers some times, and closes.

use super::frame::{Endpoints, InitialSequences, WINDOW_SCALE};
use super::packet::{Kind, Packet, SackBlocks, Side};
use super::payload::{Payload, Protocol};
use super::transfer::{Half, Reaction};
use crate::random::Random;

const MS: u64 = 1_000_000;
/// Linux's least wait for a second segment, or for something to send.
const DELAYED_ACK_NS: u64 = 40 * MS;
/// First wait for an answer to a SYN; doubled each time.
const SYN_TIMEOUT_NS: u64 = 1_000 * MS;
const SYN_ATTEMPTS_MAX: u8 = 6;
/// Packets that opening and closing take, and that are held back for it.
const FRAME_PACKETS: u64 = 8;

/// What a connection waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Timer {
    Syn(u8),
    Retransmit(Side),
    DelayedAck(Side),
    Request,
    Respond,
}

/// What happens next to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// The packet passes the tap.
    Tap(Packet),
    /// It arrives.
    Arrive(Packet),
    Timer(Timer),
}

/// Where a connection writes what is to happen.
pub(super) trait Agenda {
    fn add(&mut self, at_ns: u64, what: What);
    /// A packet was lost before the tap, or will be after it.
    fn count_loss(&mut self, is_before: bool);
}

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Opening,
    Open,
    Over,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) endpoints: Endpoints,
    pub(super) initial: InitialSequences,
    pub(super) protocol: Protocol,
    /// Packets that have passed the tap, and how many should in the end.
    pub(super) packets: u64,
    pub(super) budget: u64,
    /// From each side to the tap.
    delay_ns: [u64; 2],
    ns_per_byte: u64,
    /// What each side sends.
    halves: [Half; 2],
    line_free_ns: [u64; 2],
    ip_id: [u16; 2],
    clock_offset_ms: [u32; 2],
    /// The newest timestamp that each side has received.
    timestamp_received: [u32; 2],
    phase: Phase,
    loss: f64,
    random: Random,
}

impl Connection {
    pub(super) fn new(number: u32, budget: u64, loss: f64, seed: u64) -> Self {
        let mut random = Random::new(seed, u64::from(number) + 1);
        let protocol = match random.unit() {
            share if share < 0.4 => Protocol::Http,
            share if share < 0.9 => Protocol::Tls,
            _ => Protocol::Other,
        };
        let rates = [80, 80, 800, 800, 160, 8];
        let delay = |random: &mut Random| log_uniform(random, 0.05, 40.0);
        let window = |random: &mut Random| log_uniform(random, 65_536.0, 1_000_000.0) as u32;
        Self {
            endpoints: Endpoints::numbered(number, protocol.port()),
            initial: InitialSequences {
                client: random.next_u32(),
                server: random.next_u32(),
            },
            protocol,
            packets: 0,
            budget,
            delay_ns: [delay(&mut random), delay(&mut random)].map(ms),
            ns_per_byte: rates[random.next_u32() as usize % rates.len()],
            halves: [window(&mut random), window(&mut random)].map(Half::new),
            line_free_ns: [0; 2],
            ip_id: [random.next_u32() as u16, random.next_u32() as u16],
            clock_offset_ms: [random.next_u32(), random.next_u32()],
            timestamp_received: [0; 2],
            phase: Phase::Opening,
            loss,
            random,
        }
    }

    /// Nothing will happen any more.
    pub(super) fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    /// Starts it.
    pub(super) fn open(&mut self, now_ns: u64, agenda: &mut impl Agenda) {
        self.send_syn(now_ns, 0, agenda);
    }

    /// The payload of a packet.
    pub(super) fn payload(&self, packet: &Packet) -> Payload {
        let head: &[u8] = match packet.kind {
            Kind::Data(0) => self
                .protocol
                .head(packet.from == Side::Client, packet.sequence == 1),
            _ => &[],
        };
        Payload {
            head,
            bytes: packet.payload_bytes.into(),
        }
    }

    /// The packet that was at the tap goes on.
    pub(super) fn pass(&mut self, now_ns: u64, packet: Packet, agenda: &mut impl Agenda) {
        self.packets += 1;
        if packet.is_lost_after {
            agenda.count_loss(false);
        } else {
            let delay_ns = self.delay_ns[packet.from.other() as usize];
            agenda.add(now_ns + delay_ns, What::Arrive(packet));
        }
    }

    /// A timer runs out.
    pub(super) fn wake(&mut self, now_ns: u64, timer: Timer, agenda: &mut impl Agenda) {
        match timer {
            Timer::Syn(attempt) => {
                if self.phase == Phase::Opening {
                    self.send_syn(now_ns, attempt, agenda);
                }
            }
            Timer::Retransmit(side) => {
                let half = &mut self.halves[side as usize];
                let Some(due_ns) = half.timeout_due_ns else {
                    return;
                };
                if due_ns > now_ns {
                    agenda.add(due_ns, What::Timer(timer));
                    return;
                }
                half.time_out();
                self.send_data(now_ns, side, agenda);
            }
            Timer::DelayedAck(side) => {
                let half = &self.halves[side.other() as usize];
                match half.delayed_due_ns {
                    Some(due_ns) if due_ns > now_ns => agenda.add(due_ns, What::Timer(timer)),
                    Some(_) => self.send_ack(now_ns, side, None, agenda),
                    None => {}
                }
            }
            Timer::Request => self.ask(now_ns, agenda),
            Timer::Respond => self.respond(now_ns, agenda),
        }
    }

    /// A packet arrives at the other side.
    pub(super) fn arrive(&mut self, now_ns: u64, packet: Packet, agenda: &mut impl Agenda) {
        let side = packet.from.other();
        if packet.acknowledgement != 0 && packet.kind != Kind::SynAck {
            self.learn(now_ns, side, &packet);
        }
        let newest = &mut self.timestamp_received[side as usize];
        if (packet.timestamp.wrapping_sub(*newest) as i32) > 0 || *newest == 0 {
            *newest = packet.timestamp;
        }
        match packet.kind {
            Kind::Syn => {
                let answer = self.packet(side, Kind::SynAck, now_ns);
                self.send(now_ns, answer, agenda);
            }
            Kind::SynAck => {
                self.send_ack(now_ns, side, None, agenda);
                if self.phase == Phase::Opening {
                    self.phase = Phase::Open;
                    self.ask(now_ns + 20_000, agenda);
                }
            }
            Kind::Data(number) => {
                let half = &mut self.halves[packet.from as usize];
                let reaction = half.receive(number, packet.sequence, packet.payload_bytes);
                self.react(now_ns, side, reaction, agenda);
            }
            Kind::Ack if self.halves.iter().all(|half| half.is_ended) => {
                self.phase = Phase::Over;
            }
            Kind::Ack => {}
            Kind::Fin => self.end(now_ns, side, agenda),
            Kind::Reset => self.phase = Phase::Over,
        }
        if self.phase == Phase::Open {
            self.send_data(now_ns, side, agenda);
        }
    }

    fn learn(&mut self, now_ns: u64, side: Side, packet: &Packet) {
        let sent_ms = packet.timestamp_echo;
        let now_ms = self.clock_ms(side, now_ns);
        let round_trip_ns = u64::from(now_ms.wrapping_sub(sent_ms).clamp(1, 60_000)) * MS;
        let is_pure = packet.kind == Kind::Ack;
        let window_bytes = u32::from(packet.window) << WINDOW_SCALE;
        self.halves[side as usize].learn(
            now_ns,
            (packet.acknowledgement, window_bytes),
            &packet.sack,
            (is_pure, round_trip_ns),
        );
    }

    fn react(&mut self, now_ns: u64, side: Side, reaction: Reaction, agenda: &mut impl Agenda) {
        if reaction.is_prompt {
            self.send_ack(now_ns, side, reaction.duplicate, agenda);
        } else {
            let due_ns = now_ns + DELAYED_ACK_NS;
            self.halves[side.other() as usize].delayed_due_ns = Some(due_ns);
            agenda.add(due_ns, What::Timer(Timer::DelayedAck(side)));
        }
        if !reaction.is_complete {
            return;
        }
        match side {
            Side::Server => {
                let think_ns = ms(0.1 + 20.0 * exponential(&mut self.random));
                agenda.add(now_ns + think_ns, What::Timer(Timer::Respond));
            }
            Side::Client => {
                let is_long = self.random.chance(0.03);
                let mean = if is_long { 2_000.0 } else { 100.0 };
                let idle_ns = ms(0.1 + mean * exponential(&mut self.random));
                agenda.add(now_ns + idle_ns, What::Timer(Timer::Request));
            }
        }
    }

    /// The client asks again, or has had enough.
    fn ask(&mut self, now_ns: u64, agenda: &mut impl Agenda) {
        if self.halves[Side::Client as usize].is_ended {
            return;
        }
        let left = self.budget.saturating_sub(self.packets);
        if left < FRAME_PACKETS && self.packets > 3 {
            let kind = if self.random.chance(0.1) {
                Kind::Reset
            } else {
                Kind::Fin
            };
            let packet = self.packet(Side::Client, kind, now_ns);
            self.halves[Side::Client as usize].is_ended = true;
            self.send(now_ns, packet, agenda);
            return;
        }
        let is_upload = self.random.chance(0.05);
        let bytes = if is_upload {
            log_uniform(&mut self.random, 1.0, (left as f64 / 3.0).max(2.0)) * 1_448.0
        } else {
            log_uniform(&mut self.random, 120.0, 900.0)
        };
        self.halves[Side::Client as usize].start(bytes as u32);
        self.send_data(now_ns, Side::Client, agenda);
    }

    fn respond(&mut self, now_ns: u64, agenda: &mut impl Agenda) {
        let left = self.budget.saturating_sub(self.packets + FRAME_PACKETS);
        // Two segments bring three packets.
        let segments_max = (left as f64 / 1.5).clamp(1.0, 1_000_000.0);
        let segments = if self.random.chance(0.4) {
            segments_max
        } else {
            log_uniform(&mut self.random, 0.15, segments_max)
        };
        self.halves[Side::Server as usize].start((segments * 1_448.0) as u32 + 1);
        self.send_data(now_ns, Side::Server, agenda);
    }

    fn end(&mut self, now_ns: u64, side: Side, agenda: &mut impl Agenda) {
        self.halves[side.other() as usize].is_end_received = true;
        let half = &self.halves[side as usize];
        if half.is_ended {
            self.send_ack(now_ns, side, None, agenda);
        } else {
            let packet = self.packet(side, Kind::Fin, now_ns);
            self.halves[side as usize].is_ended = true;
            self.send(now_ns, packet, agenda);
        }
    }

    fn send_syn(&mut self, now_ns: u64, attempt: u8, agenda: &mut impl Agenda) {
        if attempt == SYN_ATTEMPTS_MAX {
            self.phase = Phase::Over;
            return;
        }
        let mut packet = self.packet(Side::Client, Kind::Syn, now_ns);
        packet.is_again = attempt > 0;
        let due_ns = now_ns + (SYN_TIMEOUT_NS << attempt);
        agenda.add(due_ns, What::Timer(Timer::Syn(attempt + 1)));
        self.send(now_ns, packet, agenda);
    }

    /// Sends what may be sent.
    fn send_data(&mut self, now_ns: u64, side: Side, agenda: &mut impl Agenda) {
        let had_timer = self.halves[side as usize].timeout_due_ns;
        while let Some((number, is_again)) = self.halves[side as usize].take_next(now_ns) {
            let mut packet = self.packet(side, Kind::Data(number), now_ns);
            let half = &self.halves[side as usize];
            (packet.sequence, packet.payload_bytes) = half.segment(number);
            packet.is_push = half.is_last(number);
            packet.is_again = is_again;
            self.halves[side.other() as usize].acknowledged();
            self.send(now_ns, packet, agenda);
        }
        if had_timer.is_none()
            && let Some(due_ns) = self.halves[side as usize].timeout_due_ns
        {
            agenda.add(due_ns, What::Timer(Timer::Retransmit(side)));
        }
    }

    fn send_ack(
        &mut self,
        now_ns: u64,
        side: Side,
        duplicate: Option<(u32, u32)>,
        agenda: &mut impl Agenda,
    ) {
        let mut packet = self.packet(side, Kind::Ack, now_ns);
        let half = &mut self.halves[side.other() as usize];
        packet.sack = half.blocks(duplicate);
        half.acknowledged();
        self.send(now_ns, packet, agenda);
    }

    /// A packet without data, as things stand.
    fn packet(&mut self, from: Side, kind: Kind, now_ns: u64) -> Packet {
        let id = &mut self.ip_id[from as usize];
        *id = id.wrapping_add(1);
        let ip_id = *id;
        let other = &self.halves[from.other() as usize];
        let is_syn = matches!(kind, Kind::Syn | Kind::SynAck);
        let window = if is_syn {
            64_240
        } else {
            (other.receive_window_bytes() >> WINDOW_SCALE) as u16
        };
        Packet {
            from,
            kind,
            sequence: if is_syn {
                0
            } else {
                self.halves[from as usize].next_sequence()
            },
            acknowledgement: if kind == Kind::Syn {
                0
            } else {
                other.acknowledgement()
            },
            payload_bytes: 0,
            window,
            ip_id,
            is_push: false,
            is_again: false,
            is_lost_after: false,
            timestamp: self.clock_ms(from, now_ns),
            timestamp_echo: self.timestamp_received[from as usize],
            sack: SackBlocks::default(),
        }
    }

    /// On its way to the tap, through the bottleneck before it; or lost.
    fn send(&mut self, now_ns: u64, mut packet: Packet, agenda: &mut impl Agenda) {
        // What closes the connection is not sent again, so it is not lost either.
        let is_last = self.halves.iter().any(|half| half.is_ended);
        if !is_last && self.random.chance(self.loss) {
            if self.random.chance(0.5) {
                agenda.count_loss(true);
                return;
            }
            packet.is_lost_after = true;
        }
        let from = packet.from as usize;
        let line_ns = self.ns_per_byte * (u64::from(packet.payload_bytes) + 66);
        let leaves_ns = self.line_free_ns[from].max(now_ns) + line_ns;
        self.line_free_ns[from] = leaves_ns;
        agenda.add(leaves_ns + self.delay_ns[from], What::Tap(packet));
    }

    /// The clock that a side's timestamps come from.
    fn clock_ms(&self, side: Side, now_ns: u64) -> u32 {
        self.clock_offset_ms[side as usize].wrapping_add((now_ns / MS) as u32)
    }
}

fn ms(milliseconds: f64) -> u64 {
    (milliseconds * 1e6) as u64
}

/// Exponentially distributed with mean 1.
pub(super) fn exponential(random: &mut Random) -> f64 {
    -(1.0 - random.unit()).ln()
}

/// Each order of magnitude is equally likely.
fn log_uniform(random: &mut Random, least: f64, most: f64) -> f64 {
    least * (most.max(least) / least).powf(random.unit())
}
