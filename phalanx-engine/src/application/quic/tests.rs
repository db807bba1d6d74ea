use super::header::QuicVersion;
use super::*;

fn at(time_ns: i64, frame: u64) -> Moment {
    Moment { time_ns, frame }
}

/// A packet with a long header; `kind` are the bits of version 1.
fn long(version: u32, kind: u8, ids: [usize; 2], body: usize) -> Vec<u8> {
    let shift = u8::from(version == 0x6b33_43cf);
    let mut out = vec![0xc0 | ((kind + shift) & 3) << 4];
    out.extend(version.to_be_bytes());
    for length in ids {
        out.push(length as u8);
        out.extend(vec![0xaa; length]);
    }
    if kind == 0 {
        out.push(0);
    }
    if kind < 3 {
        out.extend((body as u16 | 0x4000).to_be_bytes());
    }
    out.extend(vec![0xbb; body]);
    out
}

fn send(quic: &mut Quic, side: Side, bytes: &[u8], moment: Moment) {
    quic.datagram(side, bytes, bytes.len() as u32, moment);
}

#[test]
fn a_handshake_is_told() {
    for version in [1, 0x6b33_43cf, 0xff00_001d] {
        let mut quic = Quic::default();
        let first = long(version, 0, [8, 5], 1_200);
        assert!(begins(&first, first.len() as u32, false));
        let early = [first, long(version, 1, [8, 5], 50)].concat();
        send(&mut quic, Side::Client, &early, at(1_000, 1));
        let answer = [
            long(version, 0, [5, 12], 100),
            long(version, 2, [5, 12], 900),
        ]
        .concat();
        send(&mut quic, Side::Server, &answer, at(21_000, 2));
        let over = [long(version, 2, [12, 5], 60), vec![0x41; 40]].concat();
        send(&mut quic, Side::Client, &over, at(22_000, 3));
        send(&mut quic, Side::Server, &[0x42; 40], at(42_000, 4));
        let story = quic.finish();
        assert_eq!(story.version, Some(QuicVersion(version)));
        assert_eq!(story.destination_id_length, Some(8));
        let source = Sides {
            client: Some(5),
            server: Some(12),
        };
        assert_eq!(story.source_id_length, source);
        assert_eq!(story.hello_delay_ns(), Some(20_000));
        assert_eq!(story.handshake_ns(Side::Client), Some(21_000));
        assert_eq!(story.handshake_ns(Side::Server), Some(41_000));
        assert_eq!(
            story.long_count,
            Sides {
                client: 3,
                server: 2
            }
        );
        assert!(story.has_early_data && story.retry.is_none());
    }
}

#[test]
fn retry_and_version_negotiation_are_told() {
    let mut quic = Quic::default();
    send(
        &mut quic,
        Side::Client,
        &long(0x1a2a_3a4a, 0, [8, 0], 1_200),
        at(0, 1),
    );
    let mut negotiation = long(0, 3, [0, 8], 0);
    negotiation.extend([0, 0, 0, 1, 0xff, 0, 0, 29, 9]);
    send(&mut quic, Side::Server, &negotiation, at(5, 2));
    send(
        &mut quic,
        Side::Client,
        &long(1, 0, [8, 0], 1_200),
        at(9, 3),
    );
    send(&mut quic, Side::Server, &long(1, 3, [0, 8], 30), at(15, 4));
    let story = quic.finish();
    assert_eq!(story.version_negotiation, Some(at(5, 2)));
    assert_eq!(
        story.versions_offered,
        [QuicVersion(1), QuicVersion(0xff00_001d)]
    );
    assert_eq!(story.versions_offered[1].draft(), Some(29));
    assert_eq!(story.retry, Some(at(15, 4)));
    assert_eq!(story.client_initial, Some(at(9, 3)));
}

#[test]
fn what_only_looks_like_quic_is_not() {
    let initial = long(1, 0, [8, 0], 1_200);
    // Its length is beyond the datagram.
    assert!(!begins(&initial, 600, true));
    assert!(begins(&initial[..100], initial.len() as u32, false));
    let unknown = long(0x1234_5678, 0, [8, 0], 1_200);
    assert!(!begins(&unknown, unknown.len() as u32, false));
    assert!(begins(&unknown, unknown.len() as u32, true));
    assert!(!begins(&[0x40; 1_200], 1_200, true));
}

/// A flow over a path of `rtt` packet times, seen in its middle: each end sends all the time.
fn spin(length: usize, rtt: usize, mut change: impl FnMut(usize, Side, bool) -> bool) -> SpinStory {
    let mut quic = Quic::default();
    let quarter = rtt / 4;
    // Values that the ends sent, by the time they sent them.
    let (mut client, mut server) = (vec![false; length], vec![false; length]);
    for time in 0..length {
        let from_client = time.checked_sub(2 * quarter).map(|sent| client[sent]);
        server[time] = change(time, Side::Server, from_client.unwrap_or(false));
        let from_server = time.checked_sub(2 * quarter).map(|sent| server[sent]);
        client[time] = change(time, Side::Client, !from_server.unwrap_or(true));
        let Some(sent) = time.checked_sub(quarter) else {
            continue;
        };
        for (side, value) in [(Side::Client, client[sent]), (Side::Server, server[sent])] {
            let first = 0x40 | u8::from(value) << 5;
            send(&mut quic, side, &[first; 30], at(time as i64 * 1_000, 1));
        }
    }
    quic.finish().spin
}

#[test]
fn a_spin_bit_gives_round_trips() {
    let story = spin(2_000, 100, |_, _, value| value);
    assert_eq!(story.usage, SpinUse::Active);
    assert_eq!(story.refused_count, 0);
    for trips in [story.round_trips.client, story.round_trips.server] {
        assert!(trips.count >= 17, "{trips:?}");
        assert_eq!((trips.min_ns, trips.max_ns), (100_000, 100_000));
    }
    for half in [story.halves.client, story.halves.server] {
        assert_eq!((half.min_ns, half.max_ns), (50_000, 50_000));
    }
}

#[test]
fn a_packet_that_was_overtaken_makes_no_edge() {
    // One late packet a few packets behind each edge, as the observer sees it.
    let mut since = Sides::<(usize, bool)>::default();
    let story = spin(2_000, 100, |time, side, value| {
        let (edge, last) = since.get_mut(side);
        if *last != value {
            (*edge, *last) = (time, value);
        }
        if time == *edge + 3 { !value } else { value }
    });
    // The ends take the late value for real: what matters is that no sample is too short.
    for trips in [story.round_trips.client, story.round_trips.server] {
        assert!(trips.count == 0 || trips.min_ns >= 90_000, "{trips:?}");
    }
}

#[test]
fn a_spin_bit_that_means_nothing_gives_nothing() {
    let still = spin(500, 100, |_, _, _| false);
    assert_eq!(still.usage, SpinUse::Disabled);
    let one_sided = spin(500, 100, |_, side, value| side == Side::Client && value);
    assert_eq!(one_sided.usage, SpinUse::Disabled);
    let mut state = 1_u64;
    let random = spin(500, 100, |_, _, _| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        state >> 63 == 1
    });
    assert_eq!(random.usage, SpinUse::Random);
    assert_eq!(random.round_trips.client.count, 0);
    let few = spin(30, 8, |_, _, _| false);
    assert_eq!(few.usage, SpinUse::Disabled);
    let fewer = spin(10, 8, |_, _, _| false);
    assert_eq!(fewer.usage, SpinUse::Unknown);
}

#[test]
fn silence_makes_no_round_trip() {
    let mut quic = Quic::default();
    let mut time_ns = 0;
    let mut turn = |quic: &mut Quic, gap_ns: i64, value: u8| {
        time_ns += gap_ns;
        send(quic, Side::Client, &[0x40 | value << 5; 30], at(time_ns, 1));
        time_ns += 10_000;
        send(quic, Side::Server, &[0x40 | value << 5; 30], at(time_ns, 1));
    };
    for index in 0..20 {
        let gap_ns = if index == 10 { 5_000_000 } else { 10_000 };
        turn(&mut quic, gap_ns, index % 2);
    }
    let story = quic.finish().spin;
    assert_eq!(story.usage, SpinUse::Active);
    assert_eq!(
        (story.round_trips.client.max_ns, story.idle_count),
        (20_000, 2)
    );
}

#[test]
fn one_direction_alone_needs_confirmation() {
    let mut quic = Quic::default();
    for index in 0..100_i64 {
        let mut value = (index / 10 % 2) as u8;
        if index % 10 == 5 {
            value ^= 1;
        }
        let first = 0x40 | value << 5;
        send(&mut quic, Side::Server, &[first; 30], at(index * 1_000, 1));
    }
    let story = quic.finish().spin;
    assert_eq!(story.refused_count, 10);
    // Ten of nineteen edges are not confirmed: it might as well be random.
    assert_eq!(story.usage, SpinUse::Random);
}
