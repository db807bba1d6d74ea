//! Where connections begin and end, and what is known of them: each case is a conversation, packet
//! by packet.

#[path = "support/conversation.rs"]
mod conversation;

use conversation::{ACK, Packet, RST, SYN, trace};
use phalanx_common::packet::{Layers, LinkKind};
use phalanx_engine::record::Decoded;
use phalanx_engine::segment::{Class, Mark, Segment};
use phalanx_engine::story::{ConnectionState, FlowStory};
use phalanx_engine::trace::Tracer;

/// Every 20 ms a packet; the client's clock ticks in milliseconds.
fn packets(each: &[(bool, u8, (u32, u32), u16)]) -> Vec<Packet> {
    let mut out = Vec::new();
    for (index, &(is_server, flags, (sequence, acknowledgement), length)) in each.iter().enumerate()
    {
        let base = if is_server { 5_000 } else { 100 };
        out.push(Packet {
            is_server,
            time_ns: index as i64 * 20_000_000,
            sequence,
            acknowledgement,
            flags,
            window: 1_000,
            length,
            id: base + index as u16,
            ttl: 64,
            timestamps: Some((100_000 + 20 * index as u32, 1)),
            is_whole: true,
            ..Packet::default()
        });
    }
    out
}

fn tell(packets: &[Packet]) -> (Vec<Segment>, Vec<FlowStory>) {
    let mut segments = Vec::new();
    let stories = trace(packets, |segment| segments.push(*segment));
    (segments, stories)
}

type Change = fn(&mut Packet);

/// The last of a conversation is a RST of the client, which has 2,000 bytes under way.
fn with_reset(change: impl FnOnce(&mut Packet)) -> Segment {
    let mut each = vec![
        (false, SYN, (1_000, 0), 0),
        (true, SYN | ACK, (7_000, 1_001), 0),
    ];
    each.extend([(false, ACK, (1_001, 7_001), 0); 8]);
    each.extend([
        (false, ACK, (1_001, 7_001), 1_000),
        (true, ACK, (7_001, 2_001), 0),
        (false, ACK, (2_001, 7_001), 1_000),
        (false, ACK, (3_001, 7_001), 1_000),
        (false, RST | ACK, (4_001, 7_001), 0),
    ]);
    let mut it = packets(&each);
    // Each packet of the client has the next id.
    let mut id = 100;
    for packet in it.iter_mut().filter(|packet| !packet.is_server) {
        id += 1;
        packet.id = id;
    }
    change(it.last_mut().expect("a packet"));
    *tell(&it).0.last().expect("a segment")
}

#[test]
fn what_does_not_fit_about_a_reset_is_said() {
    let unfit = |change: Change| {
        let reset = with_reset(change);
        if reset.marks.has(Mark::UnfittingReset) {
            reset.why
        } else {
            ""
        }
    };
    assert_eq!(unfit(|_| ()), "");
    // An answer to what acknowledged less; a timeout went back; no timestamp, or one of 0.
    assert_eq!(unfit(|it| it.sequence = 2_001), "");
    assert_eq!(unfit(|it| it.sequence = 3_001), "");
    assert_eq!(unfit(|it| it.timestamps = None), "");
    assert_eq!(unfit(|it| it.timestamps = Some((0, 0))), "");
    assert_eq!(unfit(|it| it.timestamps = Some((99_500, 1))), "");
    // A packet is missing before it.
    assert_eq!(unfit(|it| (it.sequence, it.id) = (9_000, it.id + 1)), "");
    let cases: [(&str, Change); 6] = [
        ("TTL", |it| it.ttl = 50),
        ("IP id", |it| it.id = 40_000),
        ("timestamp is far behind", |it| it.timestamps = Some((5, 1))),
        ("within the window", |it| it.sequence = 2_500),
        ("within the window", |it| it.sequence = 9_000),
        ("would not use", |it| it.sequence = 900_000),
    ];
    for (what, change) in cases {
        assert!(unfit(change).contains(what), "{what}: {:?}", unfit(change));
    }
}

/// Only what the server sends was captured.
#[test]
fn a_syn_ack_of_a_new_number_begins_another_connection() {
    let server = |each: &[(u8, (u32, u32), u16)]| {
        let each: Vec<_> = each.iter().map(|it| (true, it.0, it.1, it.2)).collect();
        packets(&each)
    };
    let first = (SYN | ACK, (7_000, 1_001), 0);
    let data = (ACK, (7_001, 1_101), 1_000);
    let other = (SYN | ACK, (900_000_000, 50_001), 0);
    let answer = (ACK, (900_000_001, 50_101), 500);
    let (segments, stories) = tell(&server(&[first, data, first, other, other, answer]));
    assert_eq!(stories.len(), 2);
    assert!(segments[3].marks.has(Mark::PortReuse));
    assert!(!segments[2].marks.has(Mark::PortReuse) && !segments[4].marks.has(Mark::PortReuse));
    let bytes = |index: usize| stories[index].sides.server.counts.unique_bytes;
    assert_eq!((bytes(0), bytes(1)), (1_000, 500));
    assert!(stories[1].reuses_ports && !stories[0].reuses_ports);
    // In the middle of one, whose SYN-ACK may come late but not from far.
    assert_eq!(tell(&server(&[data, first])).1.len(), 1);
    assert_eq!(tell(&server(&[data, other, answer])).1.len(), 2);
}

#[test]
fn a_second_answer_to_a_syn_begins_nothing() {
    let it = packets(&[
        (false, SYN, (1_000, 0), 0),
        (true, SYN | ACK, (7_000, 1_001), 0),
        (false, ACK, (1_001, 7_001), 0),
        (true, SYN | ACK, (900_000_000, 1_001), 0),
    ]);
    assert_eq!(tell(&it).1.len(), 1);
}

#[test]
fn windows_of_an_unknown_scale_are_not_told_in_bytes() {
    let exchange = [
        (false, ACK, (1_001, 7_001), 1_000),
        (true, ACK, (7_001, 2_001), 0),
        (false, ACK, (2_001, 7_001), 1_000),
        (true, ACK, (7_001, 3_001), 0),
    ];
    let (segments, stories) = tell(&packets(&exchange));
    assert!(segments.iter().all(|it| !it.marks.has(Mark::WindowFull)));
    assert!(segments.iter().all(|it| it.window.is_none()));
    let sides = &stories[0].sides;
    assert_eq!(
        (sides.server.window_min, sides.server.window_max),
        (None, 0)
    );
    assert_eq!(
        (sides.client.window_min, sides.client.window_max),
        (None, 0)
    );

    // A SYN-ACK with a scale answers one with a scale: the server's is known, the client's not.
    let mut each = vec![(true, SYN | ACK, (7_000, 1_001), 0)];
    each.extend(exchange);
    let sides = &tell(&packets(&each)).1[0].sides;
    assert_eq!(sides.server.window_min, Some(1_000 << 7));
    assert_eq!(sides.client.window_min, None);
}

/// The first SYN is kept by itself until more is seen.
#[test]
fn a_syn_that_is_sent_again_with_its_ip_id_is_no_copy() {
    let mut it = packets(&[(false, SYN, (1_000, 0), 0), (false, SYN, (1_000, 0), 0)]);
    it[1].id = it[0].id;
    it[1].timestamps = it[0].timestamps;
    it[1].time_ns = 100_000_000;
    let kind = LinkKind::from_linktype(1).expect("Ethernet");
    let (mut layers, mut tracer) = (Layers::default(), Tracer::new(7));
    let mut class = None;
    for (index, packet) in it.iter().enumerate() {
        let (ip, length) = packet.frame();
        let link = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
        let (bytes, length) = ([&link[..], &ip].concat(), length + 14);
        let decoded = Decoded::of(&mut layers, &bytes, kind, length).expect("a TCP packet");
        let number = index as u64 + 1;
        class = tracer
            .handle(&decoded.record(number, packet.time_ns, length, &bytes))
            .class;
    }
    assert_eq!(class, Some(Class::Retransmission));
    let story = tracer
        .finish()
        .map(|ended| ended.into_story())
        .next()
        .expect("a story");
    assert_eq!(story.sides.client.counts.syns, 2);
}

/// The SYN and its refusal are kept as they are until more is seen.
#[test]
fn what_follows_a_refusal_is_of_the_same_connection() {
    let mut it = packets(&[
        (false, SYN, (1_000, 0), 0),
        (true, RST | ACK, (0, 1_001), 0),
        (true, RST | ACK, (0, 1_001), 0),
        (false, SYN, (1_000, 0), 0),
        (true, SYN | ACK, (7_000, 1_001), 0),
        (false, ACK, (1_001, 7_001), 0),
        (false, ACK, (1_001, 7_001), 500),
    ]);
    // A copy of the refusal comes at once.
    (it[2].id, it[2].timestamps) = (it[1].id, it[1].timestamps);
    it[2].time_ns = it[1].time_ns + 1_000;
    let (segments, stories) = tell(&it[..2]);
    assert_eq!(stories[0].state, ConnectionState::Refused);
    assert_eq!(stories[0].sides.server.counts.resets, 1);
    assert_eq!(stories[0].duration_ns, 20_000_000);
    assert_eq!(segments[1].acknowledgement, Some(1));
    assert_eq!(segments[1].acknowledged_frame, Some(1));

    let (segments, stories) = tell(&it);
    assert_eq!(stories.len(), 1);
    assert_eq!(stories[0].state, ConnectionState::Established);
    assert_eq!(segments[2].class, Some(Class::NetworkDuplicate));
    let sides = &stories[0].sides;
    assert_eq!(
        (sides.client.counts.syns, sides.server.counts.resets),
        (2, 1)
    );
    assert_eq!(sides.server.counts.network_duplicates, 1);
    assert_eq!(sides.client.counts.unique_bytes, 500);
}

#[test]
fn the_congestion_window_is_no_less_than_what_is_under_way_at_the_end() {
    let open = [
        (false, SYN, (1_000, 0), 0),
        (true, SYN | ACK, (7_000, 1_001), 0),
        (false, ACK, (1_001, 7_001), 1_000),
        (false, ACK, (2_001, 7_001), 1_000),
        (false, ACK, (3_001, 7_001), 1_000),
    ];
    let window = |each: &[_]| {
        let (segments, stories) = tell(&packets(each));
        let client = &stories[0].sides.client;
        (
            segments.last().map(|it| it.class),
            client.congestion_window,
            client.flight_max,
        )
    };
    assert_eq!(window(&open), (Some(Some(Class::New)), 3_000, 3_000));
    // What was under way before a loss is not what there is room for after it.
    let duplicate = (true, ACK, (7_001, 1_001), 0);
    let mut lost = open.to_vec();
    lost.extend([duplicate; 4]);
    lost.push((false, ACK, (1_001, 7_001), 1_000));
    let fast = Some(Some(Class::FastRetransmission));
    assert_eq!(window(&lost), (fast, 1_500, 3_000));
}

#[test]
fn numbers_of_copies_are_told_and_unknown_ones_are_not() {
    let mut it = packets(&[
        (false, SYN, (1_000, 0), 0),
        // Of an older connection.
        (true, ACK, (90_000, 80_000), 0),
        (true, SYN | ACK, (7_000, 1_001), 0),
        (false, ACK, (1_001, 7_001), 300),
        (false, ACK, (1_301, 7_001), 200),
        (false, ACK, (1_301, 7_001), 200),
    ]);
    it[5] = Packet {
        time_ns: it[4].time_ns + 1_000,
        ttl: 63,
        ..it[4].clone()
    };
    let (segments, _) = tell(&it);
    let numbers = |at: usize| {
        let it: &Segment = &segments[at];
        (it.sequence, it.acknowledgement, it.window, it.flight)
    };
    assert_eq!(numbers(0), (Some(0), None, Some(1_000), Some(1)));
    assert!(segments[1].marks.has(Mark::PortReuse));
    assert_eq!(numbers(1), (None, None, None, None));
    assert_eq!(segments[5].class, Some(Class::CaptureDuplicate));
    assert_eq!(numbers(5), numbers(4));
    assert_eq!(
        numbers(5),
        (Some(301), Some(1), Some(1_000 << 7), Some(500))
    );
}
