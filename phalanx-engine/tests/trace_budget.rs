//! Where time goes that is easily blamed on the wrong one: each case is a conversation, packet by
//! packet.

#[path = "support/conversation.rs"]
mod conversation;

use conversation::{ACK, FIN, Packet, RST, SYN, trace};
use phalanx_engine::budget::Bucket;
use phalanx_engine::segment::{Class, Segment};
use phalanx_engine::story::FlowStory;

const MILLISECOND_NS: i64 = 1_000_000;
const ECE: u8 = 0x40;

/// Side, time in milliseconds, flags, sequence and acknowledgement, length.
type Line = (bool, i64, u8, (u32, u32), u16);

const CLIENT: bool = false;
const SERVER: bool = true;

/// Both sides begin at number 1,000; the server is 20 ms away.
const OPENING: [Line; 3] = [
    (CLIENT, 0, SYN, (1_000, 0), 0),
    (SERVER, 20, SYN | ACK, (1_000, 1_001), 0),
    (CLIENT, 20, ACK, (1_001, 1_001), 0),
];

fn packets(lines: &[Line]) -> Vec<Packet> {
    let mut ids = [100, 5_000];
    let mut packet = |&(is_server, time_ms, flags, (sequence, acknowledgement), length): &Line| {
        let id = &mut ids[usize::from(is_server)];
        *id += 1;
        Packet {
            is_server,
            time_ns: time_ms * MILLISECOND_NS,
            sequence,
            acknowledgement,
            flags,
            window: 1_000,
            length,
            id: *id,
            ttl: 64,
            is_whole: true,
            ..Packet::default()
        }
    };
    OPENING.iter().chain(lines).map(&mut packet).collect()
}

fn tell(packets: &[Packet]) -> (Vec<Segment>, FlowStory) {
    let mut segments = Vec::new();
    let mut stories = trace(packets, |segment| segments.push(*segment));
    assert_eq!(stories.len(), 1);
    (segments, stories.remove(0))
}

/// Milliseconds of a bucket.
fn spent_ms(story: &FlowStory, bucket: Bucket) -> i64 {
    let budget = story.budget.as_ref().expect("a budget");
    budget.get(bucket) / MILLISECOND_NS
}

#[test]
fn a_server_does_not_think_while_the_request_is_lost() {
    let (_, story) = tell(&packets(&[
        (CLIENT, 30, ACK, (1_001, 1_001), 100),
        (CLIENT, 1_030, ACK, (1_001, 1_001), 100),
        (SERVER, 1_055, ACK, (1_001, 1_101), 500),
    ]));
    assert_eq!(spent_ms(&story, Bucket::ServerThink), 0);
    // With the round trip of the repetition.
    assert_eq!(spent_ms(&story, Bucket::TimeoutRecovery), 1_025);
    let think_ns = story.turns.think.max_ns().expect("a turn");
    assert!(think_ns <= 25 * MILLISECOND_NS, "{think_ns}");
}

#[test]
fn a_server_whose_answer_was_not_captured_is_not_blamed() {
    let request = (CLIENT, 30, ACK, (1_001, 1_001), 100);
    let answer = (SERVER, 51, ACK, (1_001, 1_101), 0);
    for last in [
        vec![(CLIENT, 5_100, ACK, (1_101, 4_001), 0)],
        vec![
            (SERVER, 5_050, FIN | ACK, (4_001, 1_101), 0),
            (CLIENT, 5_100, ACK, (1_101, 4_002), 0),
        ],
    ] {
        let lines = [vec![request, answer], last].concat();
        let (_, story) = tell(&packets(&lines));
        assert_eq!(spent_ms(&story, Bucket::ServerThink), 0);
        assert!(spent_ms(&story, Bucket::Unknown) >= 5_000);
        assert!(!story.turns.is_last_unanswered);
        assert_eq!(story.sides.server.counts.unseen_bytes, 3_000);
    }
}

/// The same, with an answer that comes after all.
#[test]
fn a_hole_before_the_end_that_is_filled_is_the_servers_time() {
    let (_, story) = tell(&packets(&[
        (CLIENT, 30, ACK, (1_001, 1_001), 100),
        (SERVER, 51, ACK, (1_001, 1_101), 0),
        (SERVER, 551, FIN | ACK, (1_501, 1_101), 0),
        (SERVER, 552, ACK, (1_001, 1_101), 500),
        (CLIENT, 552, ACK, (1_101, 1_502), 0),
    ]));
    assert_eq!(spent_ms(&story, Bucket::Unknown), 0);
    assert!(spent_ms(&story, Bucket::ServerThink) >= 480);
}

#[test]
fn what_nobody_acknowledges_is_not_the_paths_for_long() {
    let (_, story) = tell(&packets(&[
        (CLIENT, 100, ACK, (1_001, 1_001), 100),
        (SERVER, 120_000, RST | ACK, (1_001, 1_001), 0),
    ]));
    assert!(spent_ms(&story, Bucket::Path) <= 100);
    assert!(spent_ms(&story, Bucket::Unknown) >= 119_000);
}

#[test]
fn a_forged_reset_does_not_end_the_handshake() {
    let mut it = packets(&[(CLIENT, 1_300, ACK, (1_001, 1_001), 10)]);
    it[1].time_ns = 1_200 * MILLISECOND_NS;
    it[2].time_ns = 1_201 * MILLISECOND_NS;
    let forged = Packet {
        flags: RST | ACK,
        time_ns: 200 * MILLISECOND_NS,
        ..it[1].clone()
    };
    it.insert(1, forged);
    let (_, story) = tell(&it);
    assert_eq!(spent_ms(&story, Bucket::Close), 0);
    assert_eq!(spent_ms(&story, Bucket::Handshake), 1_201);
}

#[test]
fn the_same_ip_id_after_a_timeout_is_no_copy() {
    let mut it = packets(&[
        (CLIENT, 30, ACK, (1_001, 1_001), 100),
        (SERVER, 51, ACK, (1_001, 1_101), 0),
        (CLIENT, 60, ACK, (1_101, 1_001), 100),
        (CLIENT, 460, ACK, (1_101, 1_001), 100),
        (SERVER, 481, ACK, (1_001, 1_201), 0),
    ]);
    it[6].id = it[5].id;
    let (segments, _) = tell(&it);
    assert_eq!(segments[6].class, Some(Class::TimeoutRetransmission));
    it[6].time_ns = 65 * MILLISECOND_NS;
    let (segments, _) = tell(&it);
    assert_eq!(segments[6].class, Some(Class::NetworkDuplicate));
}

/// A window that is cut by an echo of congestion, and grows slowly from there, is no buffer.
#[test]
fn a_window_that_congestion_cut_is_not_the_senders_limit() {
    let limited_ms = |flags: u8| {
        let mut lines = Vec::new();
        let (mut next, mut time_ms) = (1_001, 100);
        for round in 0..24_u32 {
            // 40 segments, then 28, one more each second round.
            let count = if round < 4 { 40 } else { 26 + round / 2 };
            for _ in 0..count {
                lines.push((CLIENT, time_ms, ACK, (next, 1_001), 1_000));
                next += 1_000;
            }
            time_ms += 20;
            let echo = if round == 3 { flags } else { 0 };
            let half = next - count / 2 * 1_000;
            lines.push((SERVER, time_ms, ACK | echo, (1_001, half), 0));
            lines.push((SERVER, time_ms, ACK, (1_001, next), 0));
        }
        let mut it = packets(&lines);
        it.iter_mut().for_each(|packet| packet.window = 60_000);
        spent_ms(&tell(&it).1, Bucket::SenderLimited)
    };
    assert!(limited_ms(0) >= 200, "{}", limited_ms(0));
    assert_eq!(limited_ms(ECE), 0);
}
