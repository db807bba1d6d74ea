//! Flows that no kernel saw: TCP connections between two hosts, told by the agents of both, that
//! open, carry, lose, measure and close. All but times follows from numbers, so both agents tell of
//! the same packets.

use std::collections::VecDeque;

use phalanx_common::abi::{
    Direction, FlowKey, FlowUpdate, HalfCounters, Sample, SampleKind, event_kind, update_reason,
};
use phalanx_common::packet::TcpFlags;
use phalanx_common::watch::tick;
use zerocopy::FromZeros as _;

/// Updates of one connection: the kernel sends one a second, so up to a minute, half of it on
/// average.
const LIFETIME_MAX: u64 = 60;
/// How long an agent's engine waits after the end of a connection before it reads its entry.
const READ_DELAY_NS: u64 = 5_000_000_000;
const SERVER_PORTS: [u16; 5] = [80, 443, 5_432, 6_379, 9_092];
const CLIENT_PORT_FIRST: usize = 10_000;
const CLIENT_PORT_COUNT: usize = 50_000;

/// The connections between two hosts, as the agent of one of them tells of them.
pub(crate) struct Flows {
    /// Number of the two hosts.
    pair: usize,
    /// Whether this is the agent at the servers.
    is_server_side: bool,
    slots: Vec<Slot>,
    next: usize,
    /// Closed ones that are yet to be read, and when.
    closed: VecDeque<(u64, FlowUpdate)>,
    /// Packets told of.
    pub(crate) packet_count: u64,
}

struct Slot {
    generation: usize,
    lifetime: u64,
    update: FlowUpdate,
}

/// Well mixed bits of a number (SplitMix64).
fn mix(seed: u64) -> u64 {
    let mut bits = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

impl Flows {
    pub(crate) fn new(pair: usize, is_server_side: bool, count: usize) -> Self {
        let slot = |index| {
            let (lifetime, update) = Self::open(pair, index, 0, count);
            Slot {
                generation: 0,
                lifetime,
                update,
            }
        };
        Self {
            pair,
            is_server_side,
            slots: (0..count).map(slot).collect(),
            next: 0,
            closed: VecDeque::new(),
            packet_count: 0,
        }
    }

    /// The life of a new connection, and what is told of it before its first packet.
    fn open(pair: usize, index: usize, generation: usize, count: usize) -> (u64, FlowUpdate) {
        let address = |second: u8| {
            let [high, low] = (pair as u16).to_be_bytes();
            let words = [
                [0; 4],
                [0; 4],
                [0, 0, 255, 255],
                [10, second + high, low, 1],
            ];
            words.map(u32::from_ne_bytes)
        };
        let bits = mix((pair << 40 | generation << 20 | index) as u64);
        let port = CLIENT_PORT_FIRST + (index + generation * count) % CLIENT_PORT_COUNT;
        let mut update = FlowUpdate::new_zeroed();
        update.kind = event_kind::FLOW_UPDATE;
        update.key = FlowKey {
            low: address(0),
            high: address(128),
            low_port: port as u16,
            high_port: SERVER_PORTS[index % SERVER_PORTS.len()],
            ifindex: 2,
            vlan: 0,
            protocol: 6,
            reserved: 0,
        };
        update.incarnation = generation as u32 + 1;
        update.initiator = 1;
        for (half, bits) in update.halves.iter_mut().zip([bits, bits >> 32]) {
            half.next_sequence = bits as u32;
            half.mss = 1_460;
            half.window_scale_plus_one = 8;
            half.syn_count = 1;
            half.flags_seen = TcpFlags::SYN | TcpFlags::ACK | TcpFlags::PSH;
            half.ttl_min = 60;
            half.ttl_max = 64;
        }
        let [life, other] = [1, 2].map(|salt| mix(bits ^ salt) % LIFETIME_MAX);
        // Of those that are there at the start what is left: long ones are met more often.
        let lifetime = match generation {
            0 => mix(bits ^ 3) % (life.max(other) + 1),
            _ => life,
        };
        (1 + lifetime, update)
    }

    /// The next update, of one connection after the other.
    pub(crate) fn step(&mut self, now_ns: u64) -> FlowUpdate {
        let (index, count) = (self.next, self.slots.len());
        self.next = (index + 1) % count;
        let (pair, is_server_side) = (self.pair, self.is_server_side);
        let slot = &mut self.slots[index];
        let version = slot.update.version + 1;
        let bits =
            mix(((pair << 40 | slot.generation << 20 | index) as u64) << 8 ^ mix(version.into()));
        let update = &mut slot.update;
        update.version = version;
        update.now_ns = now_ns;
        update.reason = update_reason::INTERVAL;
        if version == 1 {
            update.reason = update_reason::OPENED;
            update.opened_ns = now_ns - 1_000;
            let (near, far) = (100 + bits as u32 % 50, 2_000 + bits as u32 % 9_000);
            let (client, server) = if is_server_side {
                (far, near)
            } else {
                (near, far)
            };
            update.handshake_client_us = client;
            update.handshake_server_us = server;
        }
        for (half, bits) in update.halves.iter_mut().zip([bits, bits.rotate_left(21)]) {
            self.packet_count += carry(half, bits, now_ns);
        }
        measure(update, bits, is_server_side);
        if u64::from(version) == slot.lifetime {
            update.reason = update_reason::CLOSED;
            for half in &mut update.halves {
                half.fin_count = 1;
                half.flags_seen |= TcpFlags::FIN;
            }
        }
        let told = *update;
        if u64::from(version) == slot.lifetime {
            let mut read = told;
            read.version += 1;
            read.reason = update_reason::EXPIRED;
            self.closed.push_back((now_ns + READ_DELAY_NS, read));
            slot.generation += 1;
            (slot.lifetime, slot.update) = Self::open(pair, index, slot.generation, count);
        }
        told
    }

    /// What was read of a closed one, if it is time.
    pub(crate) fn read(&mut self, now_ns: u64) -> Option<FlowUpdate> {
        let is_due = self
            .closed
            .front()
            .is_some_and(|(due_ns, _)| *due_ns <= now_ns);
        let (_, read) = self.closed.pop_front_if(|_| is_due)?;
        Some(read)
    }
}

/// What one direction has carried since its last update; the packets.
fn carry(half: &mut HalfCounters, bits: u64, now_ns: u64) -> u64 {
    let packets = 1 + bits % 40;
    let bytes = packets * (52 + bits / 64 % 1_400);
    half.packets += packets;
    half.bytes += bytes;
    half.next_sequence = half
        .next_sequence
        .wrapping_add((bytes - packets * 52) as u32);
    half.acknowledged = half.next_sequence.wrapping_sub(bits as u32 % 1_460);
    half.window_plus_one = 400 + (bits >> 20) as u32 % 200;
    half.seen_tick = tick(now_ns - bits % 1_000_000);
    half.next_sequence_tick = half.seen_tick;
    if bits.is_multiple_of(32) {
        half.retransmitted_packets += 1;
        half.retransmitted_bytes += 1_460;
    }
    packets
}

/// Samples since the last update: one to four.
fn measure(update: &mut FlowUpdate, bits: u64, is_server_side: bool) {
    for number in 0..=(bits >> 40) % 4 {
        let jitter = mix(bits ^ number) as u32 % 1_000;
        let far = 2_000 + update.key.low_port as u32 % 9_000 + jitter;
        let near = 100 + jitter / 8;
        let (to_client, to_server) = if is_server_side {
            (far, near)
        } else {
            (near, far)
        };
        let (kind, microseconds) = match number {
            0 => (SampleKind::Rtt(Direction::FromLow), to_server),
            1 => (
                SampleKind::Turn(Direction::FromHigh),
                to_server + 4_000 + 7 * jitter,
            ),
            2 => (SampleKind::Rtt(Direction::FromHigh), to_client),
            _ => (
                SampleKind::Turn(Direction::FromLow),
                to_client + 90 * jitter,
            ),
        };
        update.push_sample(Sample { kind, microseconds });
        let half = match kind {
            SampleKind::Rtt(Direction::FromLow) => &mut update.halves[0],
            SampleKind::Rtt(Direction::FromHigh) => &mut update.halves[1],
            _ => continue,
        };
        half.rtt_sample_count += 1;
        half.rtt_min_us = match half.rtt_min_us {
            0 => microseconds,
            least => least.min(microseconds),
        };
    }
}
