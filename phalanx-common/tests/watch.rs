//! The watch rule on scripted segments: what each one is to its flow, and which samples it gives.

#[path = "support/ground.rs"]
mod ground;

use ground::Ground;
use phalanx_common::abi::{
    Counter, Direction, FlowUpdate, ReadSample, SampleKind, attempt_outcome, update_reason,
};
use phalanx_common::packet::{LinkKind, TcpFlags};

const SYN: u8 = TcpFlags::SYN;
const ACK: u8 = TcpFlags::ACK;
const FIN: u8 = TcpFlags::FIN;
const RST: u8 = TcpFlags::RST;
const MS: u64 = 1_000_000;

/// A conversation of 10.0.0.1:40000 (the low end, the client) with 10.0.0.2:443, as one hop sees
/// it. Numbers are relative to the initial sequence numbers.
struct Script {
    ground: Ground,
    now_ns: u64,
    ip_id: u16,
    client_isn: u32,
    server_isn: u32,
    port: u16,
}

#[derive(Clone, Copy, Default)]
struct Segment {
    flags: u8,
    sequence: u32,
    acknowledgement: u32,
    payload: usize,
    window: Option<u16>,
    timestamps: Option<(u32, u32)>,
}

impl Script {
    fn new() -> Self {
        Self::with_isn(1_000, 9_000)
    }

    fn with_isn(client_isn: u32, server_isn: u32) -> Self {
        Self {
            ground: Ground::new(),
            now_ns: 1_000_000 * MS,
            ip_id: 1,
            client_isn,
            server_isn,
            port: 40_000,
        }
    }

    fn wait(&mut self, milliseconds: u64) -> &mut Self {
        self.now_ns += milliseconds * MS;
        self
    }

    fn client(&mut self, segment: Segment) -> &mut Self {
        let (own, other) = (self.client_isn, self.server_isn);
        self.send(segment, true, own, other)
    }

    fn server(&mut self, segment: Segment) -> &mut Self {
        let (own, other) = (self.server_isn, self.client_isn);
        self.send(segment, false, own, other)
    }

    fn send(&mut self, segment: Segment, is_client: bool, own: u32, other: u32) -> &mut Self {
        self.ip_id += 1;
        let frame = self.frame(segment, is_client, own, other);
        self.ground.see(&frame, LinkKind::None, 7, self.now_ns);
        self
    }

    fn frame(&self, segment: Segment, is_client: bool, own: u32, other: u32) -> Vec<u8> {
        let options = if segment.timestamps.is_some() { 12 } else { 0 };
        let length = 40 + options + segment.payload;
        let (mut source, mut destination) = ([10, 0, 0, 1], [10, 0, 0, 2]);
        let mut ports = [self.port, 443];
        if !is_client {
            std::mem::swap(&mut source, &mut destination);
            ports.swap(0, 1);
        }
        let mut frame = vec![0x45, 0];
        frame.extend((length as u16).to_be_bytes());
        frame.extend(self.ip_id.to_be_bytes());
        frame.extend([0x40, 0, 64, 6, 0, 0]);
        frame.extend(source);
        frame.extend(destination);
        ports
            .iter()
            .for_each(|port| frame.extend(port.to_be_bytes()));
        frame.extend(own.wrapping_add(segment.sequence).to_be_bytes());
        let acknowledgement = if segment.flags & ACK == 0 {
            0
        } else {
            other.wrapping_add(segment.acknowledgement)
        };
        frame.extend(acknowledgement.to_be_bytes());
        frame.extend([(5 + options as u8 / 4) << 4, segment.flags]);
        frame.extend(segment.window.unwrap_or(500).to_be_bytes());
        frame.extend([0; 4]);
        if let Some((value, echo)) = segment.timestamps {
            frame.extend([1, 1, 8, 10]);
            frame.extend(value.to_be_bytes());
            frame.extend(echo.to_be_bytes());
        }
        frame.resize(length, 0);
        frame
    }

    /// SYN, 20 ms, SYN-ACK, 5 ms, ACK: the client's and the server's halves are one byte along.
    fn handshake(&mut self) -> &mut Self {
        self.client(Segment {
            flags: SYN,
            ..Segment::default()
        })
        .wait(20)
        .server(Segment {
            flags: SYN | ACK,
            acknowledgement: 1,
            ..Segment::default()
        })
        .wait(5)
        .client(Segment {
            flags: ACK,
            sequence: 1,
            acknowledgement: 1,
            ..Segment::default()
        })
    }

    fn flow(&self) -> FlowUpdate {
        self.ground.only_flow()
    }

    fn rtts(&self, direction: Direction) -> Vec<u32> {
        let samples = self.ground.samples();
        let wanted = SampleKind::Rtt(direction);
        samples
            .into_iter()
            .filter(|sample| sample.0 == wanted)
            .map(|sample| sample.1)
            .collect()
    }

    fn turns(&self) -> Vec<u32> {
        let samples = self.ground.samples();
        samples
            .into_iter()
            .filter(|sample| matches!(sample.0, SampleKind::Turn(_)))
            .map(|sample| sample.1)
            .collect()
    }

    /// "Destination unreachable" for the client's first data, by a router.
    fn icmp_error(&self, code: u8) -> Vec<u8> {
        let quoted = self.frame(data(1, 100, 1), true, self.client_isn, self.server_isn);
        let mut error = vec![0x45, 0, 0, 56, 0, 9, 0, 0, 64, 1, 0, 0];
        error.extend([10, 0, 0, 9, 10, 0, 0, 1]);
        error.extend([3, code, 0, 0, 0, 0, 0, 0]);
        error.extend(&quoted[..28]);
        error
    }
}

fn data(sequence: u32, payload: usize, acknowledgement: u32) -> Segment {
    Segment {
        flags: ACK,
        sequence,
        acknowledgement,
        payload,
        ..Segment::default()
    }
}

fn ack(sequence: u32, acknowledgement: u32) -> Segment {
    data(sequence, 0, acknowledgement)
}

/// Within two units of 1,024 ns.
fn assert_about(measured: u32, expected_us: u32) {
    assert!(
        measured.abs_diff(expected_us) <= 3,
        "{measured} µs instead of {expected_us} µs"
    );
}

const CLIENT: usize = Direction::FromLow as usize;
const SERVER: usize = Direction::FromHigh as usize;

#[test]
fn a_handshake_opens_the_flow_and_is_split() {
    let mut script = Script::new();
    script.handshake();
    let flow = script.flow();
    assert_eq!(flow.initiator, 1);
    assert_about(flow.handshake_server_us, 20_000);
    assert_about(flow.handshake_client_us, 5_000);
    assert_eq!(
        (flow.halves[CLIENT].packets, flow.halves[SERVER].packets),
        (2, 1)
    );
    assert_eq!(
        (flow.halves[CLIENT].bytes, flow.halves[SERVER].bytes),
        (80, 40)
    );
    assert_eq!(
        (flow.halves[CLIENT].syn_count, flow.halves[SERVER].syn_count),
        (1, 1)
    );
    assert_eq!(flow.opened_ns, 1_000_000 * MS);
    let reasons: Vec<u32> = script
        .ground
        .updates
        .borrow()
        .iter()
        .map(|update| update.reason)
        .collect();
    assert_eq!(reasons, [update_reason::OPENED]);
    assert_eq!(
        script.ground.attempts.borrow()[0].1.outcome,
        attempt_outcome::STARTED
    );
}

#[test]
fn a_repeated_syn_gives_no_handshake_sample_of_the_server() {
    let mut script = Script::new();
    script
        .client(Segment {
            flags: SYN,
            ..Segment::default()
        })
        .wait(1_000)
        .handshake();
    let flow = script.flow();
    assert_eq!(flow.handshake_server_us, 0);
    assert_about(flow.handshake_client_us, 5_000);
    assert_eq!(flow.halves[CLIENT].retransmitted_packets, 1);
    assert_eq!(
        script.ground.attempts.borrow().len(),
        1,
        "one attempt, not two"
    );
}

#[test]
fn a_refused_connection_opens_nothing() {
    let mut script = Script::new();
    script
        .client(Segment {
            flags: SYN,
            ..Segment::default()
        })
        .wait(3)
        .server(Segment {
            flags: RST | ACK,
            acknowledgement: 1,
            ..Segment::default()
        });
    assert!(script.ground.flows.borrow().is_empty());
    let attempts = script.ground.attempts.borrow();
    assert_eq!(attempts[1].1.outcome, attempt_outcome::REFUSED);
    assert_about(attempts[1].1.answer_us, 3_000);
    assert_eq!(script.ground.counter(Counter::PendingCleared), 1);
}

#[test]
fn each_exact_acknowledgement_times_its_segment() {
    let mut script = Script::new();
    script.handshake();
    script
        .client(data(1, 100, 1))
        .wait(1)
        .client(data(101, 100, 1))
        .wait(39);
    script.server(ack(1, 101)).wait(2).server(ack(1, 201));
    let rtts = script.rtts(Direction::FromLow);
    assert_eq!(rtts.len(), 2);
    assert_about(rtts[0], 40_000);
    assert_about(rtts[1], 41_000);
}

#[test]
fn a_cumulative_acknowledgement_times_only_the_segment_it_ends_at() {
    let mut script = Script::new();
    script.handshake();
    script
        .client(data(1, 100, 1))
        .wait(10)
        .client(data(101, 100, 1))
        .wait(40);
    script.server(ack(1, 201));
    let rtts = script.rtts(Direction::FromLow);
    assert_eq!(rtts.len(), 1);
    assert_about(rtts[0], 40_000);
}

#[test]
fn a_retransmission_and_what_waited_for_it_are_not_timed() {
    let mut script = Script::new();
    script.handshake();
    script
        .client(data(1, 100, 1))
        .client(data(101, 100, 1))
        .client(data(201, 100, 1))
        .wait(60);
    // The first is sent again; all three are acknowledged by what it filled.
    script.client(data(1, 100, 1)).wait(40).server(ack(1, 301));
    assert!(script.rtts(Direction::FromLow).is_empty());
    let half = script.flow().halves[CLIENT];
    assert_eq!(
        (half.retransmitted_packets, half.retransmitted_bytes),
        (1, 100)
    );
    // What is sent after it is timed again.
    script
        .client(data(301, 100, 1))
        .wait(40)
        .server(ack(1, 401));
    assert_eq!(script.rtts(Direction::FromLow).len(), 1);
}

#[test]
fn a_timestamp_times_a_retransmission_that_karn_would_discard() {
    let stamped = |value, echo, segment: Segment| Segment {
        timestamps: Some((value, echo)),
        ..segment
    };
    let mut script = Script::new();
    script.handshake();
    script.client(stamped(100, 1, data(1, 100, 1))).wait(200);
    script.client(stamped(300, 1, data(1, 100, 1))).wait(40);
    script.server(stamped(1, 300, ack(1, 101)));
    assert!(script.rtts(Direction::FromLow).is_empty());
    let samples = script.ground.samples();
    let by_timestamp: Vec<u32> = samples
        .iter()
        .filter(|sample| sample.0 == SampleKind::RttByTimestamp(Direction::FromLow))
        .map(|sample| sample.1)
        .collect();
    assert_eq!(by_timestamp.len(), 1);
    assert_about(by_timestamp[0], 40_000);

    // The original's timestamp comes back: the sample would be of neither.
    let mut script = Script::new();
    script.handshake();
    script.client(stamped(100, 1, data(1, 100, 1))).wait(200);
    script.client(stamped(300, 1, data(1, 100, 1))).wait(40);
    script.server(stamped(1, 100, ack(1, 101)));
    assert!(script.ground.samples().is_empty());
}

#[test]
fn more_segments_than_slots_still_give_a_sample_each_round_trip() {
    let mut script = Script::new();
    script.handshake();
    let mut next = 1;
    for _ in 0..10 {
        for _ in 0..50 {
            script.client(data(next, 100, 1));
            next += 100;
        }
        script.wait(40);
        let mut acknowledged = next - 50 * 100;
        while acknowledged != next {
            acknowledged += 100;
            script.server(ack(1, acknowledged));
        }
    }
    let rtts = script.rtts(Direction::FromLow);
    assert!(rtts.len() >= 10 * 8, "{} samples", rtts.len());
    rtts.iter().for_each(|rtt| assert_about(*rtt, 40_000));
}

#[test]
fn keep_alives_duplicates_and_holes_are_not_retransmissions() {
    let mut script = Script::new();
    script
        .handshake()
        .client(data(1, 100, 1))
        .wait(40)
        .server(ack(1, 101));
    // Two keep-alives: without payload, and with one byte.
    script.client(ack(100, 1)).client(data(100, 1, 1));
    // A copy made by the network: same IP id.
    script.client(data(101, 50, 1));
    script.ip_id -= 1;
    script.client(data(101, 50, 1));
    // A jump, and what fills the hole: lost or overtaken, one hop cannot tell.
    script.client(data(251, 100, 1)).client(data(151, 100, 1));
    let half = script.flow().halves[CLIENT];
    assert_eq!(half.keep_alive_count, 2);
    assert_eq!(half.duplicate_packets, 1);
    assert_eq!(half.gap_count, 1);
    assert_eq!(half.out_of_sequence_packets, 1);
    assert_eq!(half.retransmitted_packets, 0);
}

#[test]
fn a_single_byte_sent_again_is_no_keep_alive() {
    let mut script = Script::new();
    script.handshake().client(data(1, 1, 1)).wait(300);
    script.client(data(1, 1, 1)).wait(40).server(ack(1, 2));
    let half = script.flow().halves[CLIENT];
    assert_eq!((half.keep_alive_count, half.retransmitted_packets), (0, 1));
    assert!(script.rtts(Direction::FromLow).is_empty());
}

#[test]
fn sequence_numbers_wrap() {
    let mut script = Script::with_isn(u32::MAX - 150, u32::MAX - 2);
    script.handshake();
    for round in 0..4 {
        script.client(data(1 + round * 100, 100, 1)).wait(40);
        script.server(ack(1, 101 + round * 100));
    }
    script.client(data(301, 100, 1));
    let half = script.flow().halves[CLIENT];
    assert_eq!(script.rtts(Direction::FromLow).len(), 4);
    assert_eq!((half.gap_count, half.out_of_sequence_packets), (0, 0));
    assert_eq!(
        (half.retransmitted_packets, half.retransmitted_bytes),
        (1, 100)
    );
}

#[test]
fn turns_are_taken_where_payload_changes_direction() {
    let mut script = Script::new();
    script.handshake();
    script
        .client(data(1, 100, 1))
        .wait(70)
        .server(data(1, 500, 101))
        .server(data(501, 500, 101));
    script.wait(300).client(data(101, 100, 1001));
    let turns: Vec<(SampleKind, u32)> = script
        .ground
        .samples()
        .into_iter()
        .filter(|sample| matches!(sample.0, SampleKind::Turn(_)))
        .collect();
    assert_eq!(turns.len(), 2);
    assert_eq!(turns[0].0, SampleKind::Turn(Direction::FromHigh));
    assert_about(turns[0].1, 70_000);
    assert_eq!(turns[1].0, SampleKind::Turn(Direction::FromLow));
    assert_about(turns[1].1, 300_000);
}

#[test]
fn both_fins_acknowledged_close_the_flow_and_a_syn_begins_another() {
    let mut script = Script::new();
    script.handshake();
    script.client(Segment {
        flags: FIN | ACK,
        ..data(1, 0, 1)
    });
    script.server(Segment {
        flags: FIN | ACK,
        ..data(1, 0, 2)
    });
    script.client(ack(2, 2));
    assert_eq!(
        script
            .ground
            .updates
            .borrow()
            .last()
            .map(|update| update.reason),
        Some(2)
    );
    let first = script.flow().incarnation;
    script.client_isn = 77_000;
    script.wait(10).handshake();
    let reasons: Vec<u32> = script
        .ground
        .updates
        .borrow()
        .iter()
        .map(|update| update.reason)
        .collect();
    assert!(reasons.contains(&update_reason::REUSED));
    assert_ne!(script.flow().incarnation, first);
    assert_eq!(script.flow().halves[CLIENT].packets, 2);
}

#[test]
fn windows_falling_to_zero_are_counted_once() {
    let zero = |segment: Segment| Segment {
        window: Some(0),
        ..segment
    };
    let mut script = Script::new();
    script.handshake().client(data(1, 100, 1));
    script
        .server(zero(ack(1, 101)))
        .server(zero(ack(1, 101)))
        .server(ack(1, 101));
    script.server(zero(ack(1, 101)));
    // A window of a RST says nothing.
    script.client(zero(Segment {
        flags: RST,
        ..data(101, 0, 0)
    }));
    let flow = script.flow();
    assert_eq!(flow.halves[SERVER].zero_window_count, 2);
    assert_eq!(flow.halves[CLIENT].zero_window_count, 0);
    assert_eq!(flow.halves[CLIENT].rst_count, 1);
}

#[test]
fn a_flood_of_invented_sources_opens_nothing_and_is_counted() {
    let script = Script::new();
    let mut frame = script.frame(
        Segment {
            flags: ACK,
            ..data(5, 0, 5)
        },
        true,
        1,
        1,
    );
    for source in 0..200_000_u32 {
        frame[12..16].copy_from_slice(&(0x0b00_0000 + source).to_be_bytes());
        script.ground.see(&frame, LinkKind::None, 7, script.now_ns);
    }
    let count = |counter| script.ground.counter(counter);
    assert!(script.ground.flows.borrow().is_empty());
    assert_eq!(count(Counter::Pended), 200_000);
    assert!(count(Counter::PendingDisplaced) > 150_000);
    assert_eq!(
        count(Counter::PendingDisplacedPackets),
        count(Counter::PendingDisplaced)
    );
}

#[test]
fn an_acknowledgement_inside_a_super_segment_times_it() {
    let mut script = Script::new();
    script.handshake().client(data(1, 10_000, 1)).wait(40);
    // Two acknowledgements in its middle, the second of which waited, and the one of its end.
    script.server(ack(1, 2_897)).wait(1).server(ack(1, 5_793));
    script.wait(1).server(ack(1, 10_001));
    let rtts = script.rtts(Direction::FromLow);
    assert_eq!(rtts.len(), 3);
    for (rtt, expected) in rtts.into_iter().zip([40_000, 41_000, 42_000]) {
        assert_about(rtt, expected);
    }
    // Part of it is sent again: the rest is ambiguous.
    script.client(data(10_001, 10_000, 1)).wait(40);
    script.server(ack(1, 12_897)).wait(10);
    script.client(data(12_897, 1_448, 1)).wait(40);
    script.server(ack(1, 20_001));
    assert_eq!(script.rtts(Direction::FromLow).len(), 4);
}

#[test]
fn segments_that_follow_at_once_share_a_range() {
    let mut script = Script::new();
    script.handshake().client(data(1, 100, 1)).wait(40);
    script.server(ack(1, 101));
    // A burst of 60, four microseconds apart: a slot holds what came within 40 ms / 1,024.
    for number in 0..60 {
        script.client(data(101 + number * 100, 100, 1));
        script.now_ns += 4_000;
    }
    script.wait(40).server(ack(1, 101 + 60 * 100));
    let rtts = script.rtts(Direction::FromLow);
    assert_eq!(rtts.len(), 2);
    assert!(rtts[1].abs_diff(40_000) <= 42, "{rtts:?}");
}

#[test]
fn a_forged_acknowledgement_far_ahead_moves_nothing() {
    let mut script = Script::new();
    script.handshake().client(data(1, 100, 1)).wait(20);
    script.server(ack(1, 1_500_000_000)).wait(20);
    script.server(ack(1, 101)).wait(5);
    script.client(data(101, 100, 1)).wait(40);
    script.server(ack(1, 201));
    let half = script.flow().halves[SERVER];
    assert_eq!(half.implausible_packets, 1);
    assert_eq!(half.acknowledged_unseen_count, 0);
    assert_eq!(script.rtts(Direction::FromLow).len(), 2);
    assert_eq!(script.flow().halves[CLIENT].retransmitted_packets, 0);
}

#[test]
fn forged_data_far_ahead_moves_nothing() {
    let mut script = Script::new();
    script.handshake().client(data(1, 100, 1)).wait(40);
    script.server(ack(1, 101)).wait(5);
    script.client(data(1_500_000_000, 100, 1)).wait(5);
    script.client(data(101, 100, 1)).wait(40);
    script.server(ack(1, 201));
    let half = script.flow().halves[CLIENT];
    assert_eq!((half.implausible_packets, half.gap_count), (1, 0));
    assert_eq!(half.out_of_sequence_packets + half.retransmitted_packets, 0);
    assert_eq!(script.rtts(Direction::FromLow).len(), 2);
}

#[test]
fn a_connection_whose_middle_was_not_seen_is_followed_again() {
    let mut script = Script::new();
    script.handshake().client(data(1, 100, 1)).wait(40);
    script.server(ack(1, 101)).wait(5);
    // Two gigabytes passed elsewhere.
    let far = 2_000_000_001;
    script.client(data(far, 100, 1)).wait(40);
    script.server(ack(1, far + 100)).wait(5);
    script.client(data(far + 100, 100, 1)).wait(40);
    script.server(ack(1, far + 200)).wait(5);
    script.client(data(far + 200, 100, 1)).wait(40);
    script.server(ack(1, far + 300));
    let [client, server] = script.flow().halves;
    assert_eq!(
        (client.implausible_packets, server.implausible_packets),
        (1, 1)
    );
    assert_eq!(client.retransmitted_packets, 0);
    let sequence = script.client_isn.wrapping_add(far + 300);
    assert_eq!(client.next_sequence, sequence);
    assert_eq!(script.rtts(Direction::FromLow).len(), 3);
}

#[test]
fn a_flood_of_icmp_errors_sends_one_update() {
    let mut script = Script::new();
    script.handshake().client(data(1, 100, 1));
    let error = script.icmp_error(1);
    let before = script.ground.updates.borrow().len();
    for _ in 0..1_000 {
        script.ground.see(&error, LinkKind::None, 7, script.now_ns);
    }
    assert_eq!(script.ground.updates.borrow().len(), before + 1);
    assert_eq!(script.flow().halves[CLIENT].icmp_error_count, 1_000);
}

#[test]
fn flows_that_share_a_bucket_wait_side_by_side() {
    let mut script = Script::new();
    let mut opened = 0;
    // 6,000 handshakes whose SYNs all come before the first answer: at most 0.3 % of the buckets
    // have more than four of them (Poisson with a mean of 0.73).
    for step in 0..3 {
        for port in 0..6_000 {
            script.port = 20_000 + port;
            match step {
                0 => script.client(Segment {
                    flags: SYN,
                    ..Segment::default()
                }),
                1 => script.server(Segment {
                    flags: SYN | ACK,
                    acknowledgement: 1,
                    ..Segment::default()
                }),
                _ => script.client(ack(1, 1)),
            };
        }
        script.wait(20);
    }
    let flows = script.ground.flows.borrow();
    for entry in flows.values() {
        let [client, server] = entry.update().halves;
        opened += usize::from((client.packets, server.packets) == (2, 1));
    }
    assert!(opened > 5_980, "{opened} whole ones");
    let lost = script.ground.counter(Counter::PendingDisplacedPackets);
    assert_eq!(
        script.ground.counter(Counter::PendedPackets),
        script.ground.counter(Counter::PendingFolded) + lost
    );
    let bytes = script.ground.counter(Counter::PendingDisplacedBytes);
    assert_eq!(bytes, 40 * lost);
}

#[test]
fn an_update_that_was_lost_costs_no_sample_that_still_lies_there() {
    let mut script = Script::new();
    script.handshake();
    for round in 0..40 {
        script.client(data(1 + round * 100, 100, 1)).wait(40);
        script.server(ack(1, 101 + round * 100));
    }
    assert_eq!(script.rtts(Direction::FromLow).len(), 40);
    // Whoever comes late is told how many are gone.
    let (mut read_count, mut samples, mut lost) = (0, 0, 0);
    script
        .flow()
        .read_samples(&mut read_count, |read| match read {
            ReadSample::Sample(_) => samples += 1,
            ReadSample::Lost(count) => lost += count,
        });
    assert_eq!((samples, lost, read_count), (16, 24, 40));
    script
        .flow()
        .read_samples(&mut read_count, |read| panic!("{read:?} comes again"));
}

#[test]
fn what_two_cpus_see_at_once_is_no_turn() {
    let mut script = Script::new();
    script.handshake().client(data(1, 100, 1)).wait(10);
    script.server(data(1, 100, 101));
    // Another CPU took the time before, and comes to the entry after.
    script.now_ns -= 2_048;
    script.client(data(101, 100, 1));
    let turns = script.turns();
    assert_eq!(turns.len(), 1, "{turns:?}");
    assert_about(turns[0], 10_000);
}

#[test]
fn what_came_an_hour_ago_is_no_turn() {
    let minutes = |count: u64| count * 60 * 1_000;
    // In silence: beyond what a tick can tell.
    let mut script = Script::new();
    script.handshake().client(data(1, 100, 1));
    script.wait(minutes(80)).server(data(1, 100, 101));
    assert_eq!(script.turns(), []);
    // The same with keep-alives between.
    let mut script = Script::new();
    script.ground.interval_ns = 1_000 * MS;
    script.handshake().client(data(1, 100, 1)).wait(20);
    script.server(ack(1, 101));
    for _ in 0..80 {
        script.wait(minutes(1)).client(ack(100, 1));
        script.server(ack(1, 101));
    }
    script.server(data(1, 100, 101));
    assert_eq!(script.turns(), []);
}

#[test]
fn icmp_errors_of_changing_kinds_send_one_update() {
    let mut script = Script::new();
    script.handshake().client(data(1, 100, 1));
    let before = script.ground.updates.borrow().len();
    for number in 0..1_000 {
        let error = script.icmp_error(number as u8 & 7);
        script.ground.see(&error, LinkKind::None, 7, script.now_ns);
    }
    assert_eq!(script.ground.updates.borrow().len(), before + 1);
    assert_eq!(script.flow().halves[CLIENT].icmp_error_count, 1_000);
    assert_eq!(script.flow().icmp_error, 3 << 8 | 7, "the last one");
}

#[test]
fn a_clock_that_is_a_little_behind_sends_no_update() {
    let mut script = Script::new();
    script.ground.interval_ns = 1_000 * MS;
    script.handshake().wait(2_000).client(data(1, 100, 1));
    let before = script.ground.updates.borrow().len();
    script.now_ns -= 300;
    script.client(data(101, 100, 1));
    assert_eq!(script.ground.updates.borrow().len(), before);
}

#[test]
fn a_count_of_slots_that_was_put_back_does_not_blind_the_flow() {
    let mut script = Script::new();
    script.handshake().client(data(1, 100, 1)).wait(40);
    script.server(ack(1, 101)).wait(5);
    // What a slow CPU stores late.
    let entry = *script.ground.flows.borrow().values().next().unwrap();
    entry.half(Direction::FromLow).memory.slots_filled.store(0);
    for round in 0..10 {
        script.client(data(101 + round * 100, 100, 1)).wait(40);
        script.server(ack(1, 201 + round * 100)).wait(5);
    }
    let rtts = script.rtts(Direction::FromLow);
    assert!(rtts.len() >= 10, "{rtts:?}");
}

#[test]
fn forged_data_that_was_believed_does_not_blind_the_flow() {
    let mut script = Script::new();
    script.handshake().client(data(1, 100, 1)).wait(40);
    script.server(ack(1, 101)).wait(5);
    script.client(data(1_500_000_000, 100, 1));
    script.client(data(1_500_000_100, 100, 1)).wait(5);
    for round in 0..10 {
        script.client(data(101 + round * 100, 100, 1)).wait(40);
        script.server(ack(1, 201 + round * 100)).wait(5);
    }
    let rtts = script.rtts(Direction::FromLow);
    assert!(rtts.len() >= 8, "{rtts:?}");
    rtts.into_iter().for_each(|rtt| assert_about(rtt, 40_000));
}

#[test]
fn forged_acknowledgements_that_were_believed_do_not_blind_the_flow() {
    let mut script = Script::new();
    script.handshake().client(data(1, 100, 1)).wait(40);
    script.server(ack(1, 101)).wait(5);
    script.server(ack(1, 1_500_000_000));
    script.server(ack(1, 1_500_000_100)).wait(5);
    for round in 0..10 {
        script.client(data(101 + round * 100, 100, 1)).wait(40);
        script.server(ack(1, 201 + round * 100)).wait(5);
    }
    let rtts = script.rtts(Direction::FromLow);
    assert!(rtts.len() >= 7, "{rtts:?}");
    rtts.into_iter().for_each(|rtt| assert_about(rtt, 40_000));
}

#[test]
fn a_forged_reset_or_fin_ends_nothing() {
    let mut script = Script::new();
    script.handshake().client(data(1, 100, 1)).wait(40);
    script.server(ack(1, 101)).wait(5);
    let before = script.ground.updates.borrow().len();
    let far = |flags| Segment {
        flags,
        ..data(1_500_000_000, 0, 1)
    };
    script.client(far(RST)).client(far(FIN | ACK)).wait(5);
    assert_eq!(script.ground.updates.borrow().len(), before);
    let half = script.flow().halves[CLIENT];
    assert_eq!((half.rst_count, half.fin_count), (0, 0));
    assert_eq!(half.implausible_packets, 2);
    // The real one is within the window.
    script.client(Segment {
        flags: RST,
        ..data(101, 0, 0)
    });
    let reasons = script.ground.updates.borrow().last().map(|it| it.reason);
    assert_eq!(reasons, Some(update_reason::RESET));
}

#[test]
fn what_comes_up_while_an_update_is_sent_is_told_at_once() {
    let mut script = Script::new();
    script.ground.meanwhile.set(update_reason::CLOSED);
    script.handshake();
    let updates = script.ground.updates.borrow();
    let told: Vec<(u32, u32)> = updates.iter().map(|it| (it.version, it.reason)).collect();
    let expected = [(1, update_reason::OPENED), (2, update_reason::CLOSED)];
    assert_eq!(told, expected);
}

#[test]
fn a_round_trip_that_shrinks_is_not_timed_by_a_wide_range() {
    let mut script = Script::new();
    script.handshake().client(data(1, 100, 1)).wait(10_000);
    script.server(ack(1, 101));
    // A burst within 10 s / 1,024, whose last segment is acknowledged after 1 ms.
    script.client(data(101, 100, 1)).wait(9);
    script.client(data(201, 100, 1)).wait(1);
    script.server(ack(1, 301));
    let rtts = script.rtts(Direction::FromLow);
    assert_eq!(rtts.len(), 1, "{rtts:?}");
    // The next ones are timed by what is known now.
    script.client(data(301, 100, 1)).wait(1);
    script.client(data(401, 100, 1)).wait(1);
    script.server(ack(1, 501));
    let rtts = script.rtts(Direction::FromLow);
    assert_eq!(rtts.len(), 2, "{rtts:?}");
    assert_about(rtts[1], 1_000);
}

#[test]
fn forged_numbers_within_a_window_of_16_mib_move_nothing() {
    // The window is 500 bytes and was never wider than 64 KiB.
    for is_data in [true, false] {
        let mut script = Script::new();
        script.handshake().client(data(1, 100, 1)).wait(40);
        script.server(ack(1, 101)).wait(5);
        if is_data {
            script.client(data(5_000_000, 100, 1));
        } else {
            script.server(ack(1, 5_000_000));
        }
        for number in 1..50 {
            script
                .wait(5)
                .client(data(1 + number * 100, 100, 1))
                .wait(40);
            script.server(ack(1, 101 + number * 100));
        }
        let [client, _] = script.flow().halves;
        assert_eq!(client.retransmitted_packets, 0);
        assert_eq!(client.out_of_sequence_packets, 0);
        assert_eq!(script.rtts(Direction::FromLow).len(), 50);
    }
}

#[test]
fn a_forged_syn_on_an_idle_connection_ends_nothing_and_an_answered_one_does() {
    let syn = |flags, sequence, acknowledgement| Segment {
        flags,
        sequence,
        acknowledgement,
        ..Segment::default()
    };
    let mut script = Script::new();
    script.handshake().client(data(1, 100, 1)).wait(40);
    script.server(ack(1, 101)).wait(5_000);
    let first = script.flow().incarnation;
    script.client(syn(SYN, 700_000_000, 0)).wait(40);
    // The peer of a live connection answers by an acknowledgement (RFC 5961 section 4).
    script.server(ack(1, 101)).wait(40);
    script.client(data(101, 100, 1)).wait(40);
    script.server(ack(1, 201));
    assert_eq!(script.flow().incarnation, first);
    assert_eq!(script.rtts(Direction::FromLow).len(), 2);
    // A new connection on the same ports.
    script.wait(5_000).client(syn(SYN, 900_000_000, 0)).wait(20);
    script
        .server(syn(SYN | ACK, 300_000_000, 900_000_001))
        .wait(5);
    script.client(syn(ACK, 900_000_001, 300_000_001));
    let flow = script.flow();
    assert_ne!(flow.incarnation, first);
    assert_eq!(flow.initiator, 1);
    assert_about(flow.handshake_client_us, 5_000);
}
