//! The clocks, the alignment and the association on values made for them. Real traffic:
//! `phalanx/tests/network_hops.rs`; thousands of flows: `phalanx/tests/hops_association.rs`.

mod clocks;
mod equal;
mod ladders;
mod middlebox;
mod number;
mod part;
mod proxies;
mod timing;
mod way;

use phalanx_common::packet::{TcpFlags, protocol};
use proptest::prelude::*;

use super::alignment::{Expectation, Item, align};
use super::clock::{PairClock, Sightings};
use super::hull::{Corridor, Point};
use super::journey::{Journeys, Stop};
use super::path::arrange;
use super::sighting::Order;
use super::trail::{Crossing, Trail};
use super::{StitchHop, stitch};
use crate::side::{Endpoint, RoleBasis, Side, Sides};

const MS: i64 = 1_000_000;
const SECOND: i64 = 1_000 * MS;

/// Packets every 10 ms for a minute: delays of 5 ms and more there, of 15 ms and more back.
fn sightings(ahead_ns: impl Fn(i64) -> i64) -> Sightings {
    let noise = |index: i64, scale: i64| (index * 7_919 % 997) * scale / 997;
    let mut sightings = Sightings::default();
    for index in 0..6_000 {
        let time_ns = SECOND + index * 10 * MS;
        let ahead = ahead_ns(time_ns);
        sightings.onward.push(Point {
            time_ns,
            ahead_ns: ahead + 5 * MS + noise(index, 3 * MS),
        });
        sightings.back.push(Point {
            time_ns: time_ns + 2 * MS,
            ahead_ns: ahead_ns(time_ns + 2 * MS) - 15 * MS - noise(index + 500, 9 * MS),
        });
    }
    sightings
}

#[test]
fn offset_and_skew_are_within_their_bound_and_close() {
    for (offset_ns, skew_ppm) in [(0, 0), (3_600 * SECOND, 100), (-3_600 * SECOND, -100)] {
        let truth = |time_ns: i64| offset_ns + time_ns / 1_000_000 * skew_ppm;
        let clock = PairClock::of(&mut sightings(truth)).expect("both directions");
        assert_eq!(clock.cuts().count(), 0);
        for second in 1..60 {
            let time_ns = second * SECOND;
            let found = clock.at(time_ns);
            let off = found.ahead_ns - truth(time_ns) as f64;
            assert!(off.abs() <= found.error_ns(), "{off} {found:?}");
            assert!(found.low_ns <= truth(time_ns) as f64 + 1.0);
            assert!(truth(time_ns) as f64 <= found.high_ns + 1.0);
            assert!(found.error_ns() <= 0.6 * 20.0 * MS as f64, "{found:?}");
        }
        let slope = (clock.at(60 * SECOND).ahead_ns - clock.at(2 * SECOND).ahead_ns) / 58e3;
        assert!((slope - skew_ppm as f64).abs() < 2.0, "{slope} {skew_ppm}");
    }
}

#[test]
fn a_clock_that_is_set_is_found_where_it_is_set() {
    for step_ns in [50 * MS, -50 * MS, 12 * MS] {
        let set_ns = 31 * SECOND + 3 * MS;
        let truth = |time_ns: i64| if time_ns < set_ns { 0 } else { step_ns };
        let clock = PairClock::of(&mut sightings(truth)).expect("both directions");
        let cuts: Vec<i64> = clock.cuts().collect();
        assert_eq!(cuts.len(), 1, "{step_ns}: {cuts:?}");
        assert!((cuts[0] - set_ns).abs() <= SECOND, "{cuts:?}");
        let after = clock.at(50 * SECOND);
        let size = after.ahead_ns - clock.at(10 * SECOND).ahead_ns;
        assert!((size - step_ns as f64).abs() < 1.0 * MS as f64, "{size}");
    }
}

#[test]
fn a_route_that_changes_sets_no_clock() {
    let mut changed = sightings(|_| 0);
    for point in changed
        .onward
        .iter_mut()
        .filter(|it| it.time_ns > 30 * SECOND)
    {
        point.ahead_ns += 20 * MS;
    }
    let clock = PairClock::of(&mut changed).expect("both directions");
    assert_eq!(clock.cuts().count(), 0);
}

#[test]
fn times_that_contradict_each_other_make_no_clock() {
    let point = |ahead_ns| Point {
        time_ns: SECOND,
        ahead_ns,
    };
    let above = [point(-5)];
    let below = [point(5)];
    assert!(Corridor::of(above.into_iter(), below.into_iter()).is_none());
    assert!(Corridor::of(above.into_iter(), [].into_iter()).is_none());
}

proptest! {
    #[test]
    fn a_corridor_holds_every_line_that_passes(
        offset in -1_000_000_000_000_i64..1_000_000_000_000,
        ppm in -200_i64..200,
        delays in prop::collection::vec((0_i64..60_000_000, 0_i64..60_000_000), 2..60),
    ) {
        let truth = |time_ns: i64| offset + time_ns / 1_000_000 * ppm;
        let times = |index: usize| index as i64 * 100 * MS;
        let points = |sign: i64, of: fn(&(i64, i64)) -> i64| -> Vec<Point> {
            let point = |(index, delay): (usize, &(i64, i64))| Point {
                time_ns: times(index),
                ahead_ns: truth(times(index)) + sign * of(delay),
            };
            delays.iter().enumerate().map(point).collect()
        };
        let (above, below) = (points(1, |it| it.0), points(-1, |it| it.1));
        let corridor = Corridor::of(above.into_iter(), below.into_iter());
        let corridor = corridor.expect("the truth passes");
        for index in 0..delays.len() {
            let (low, high) = corridor.bounds(times(index));
            let truth = truth(times(index)) as f64;
            prop_assert!(low <= truth + 1.0 && truth <= high + 1.0, "{} {} {}", low, truth, high);
        }
    }

    /// However segments are cut, overlap and repeat, each byte of each side is linked once.
    #[test]
    fn any_segments_are_linked_byte_by_byte(
        sent in prop::collection::vec((0_u64..400, 0_u64..200), 0..24),
        seen in prop::collection::vec((0_u64..400, 0_u64..200), 0..24),
    ) {
        let items = |ranges: &[(u64, u64)]| -> Vec<Item> {
            ranges.iter().enumerate().map(|(at, it)| item(it.0, it.1, at as i64)).collect()
        };
        let (xs, ys) = (items(&sent), items(&seen));
        let links = align(&xs, &ys, &Expectation::default());
        if let Some(links) = links {
            let bytes = |items: &[Item]| items.iter().map(|it| it.end - it.start).sum::<u64>();
            let linked = |of: fn(&super::alignment::Link) -> Option<u32>| -> u64 {
                let mine = links.iter().filter(|it| of(it).is_some());
                mine.map(|it| it.range.end - it.range.start).sum()
            };
            prop_assert_eq!(linked(|it| it.upstream), bytes(&xs));
            prop_assert_eq!(linked(|it| it.downstream), bytes(&ys));
            let stops = [&xs, &ys].map(|items| Stop {
                items,
                expectation: Expectation::default(),
            });
            let journeys = Journeys::of(&stops, |_, _, _| 0);
            prop_assert!(journeys.is_some());
        }
    }
}

fn item(start: u64, length: u64, time_ns: i64) -> Item {
    Item {
        start,
        end: start + length,
        time_ns,
        acknowledged: 0,
        missed_count: 0,
        crossing: Crossing {
            frame: time_ns as u64,
            length: length as u32,
            ..Crossing::default()
        },
    }
}

#[test]
fn a_super_segment_is_the_segments_that_it_was_cut_into() {
    let sent = [item(0, 4_344, 10)];
    let seen = [
        item(0, 1_448, 20),
        item(1_448, 1_448, 21),
        item(2_896, 1_448, 22),
    ];
    let stops = [&sent[..], &seen[..]].map(|items| Stop {
        items,
        expectation: Expectation::default(),
    });
    let journeys = Journeys::of(&stops, |_, _, _| 0).expect("plain segments");
    assert_eq!(journeys.len(), 3);
    for journey in 0..3 {
        assert_eq!(journeys.place(journey, 0), Some(0));
        assert!(journeys.place(journey, 1).is_some());
    }
    // One that is lost is lost alone.
    let stops = [&sent[..], &seen[..2]].map(|items| Stop {
        items,
        expectation: Expectation::default(),
    });
    let journeys = Journeys::of(&stops, |_, _, _| 0).expect("plain segments");
    let lost: Vec<usize> = (0..journeys.len())
        .filter(|it| journeys.place(*it, 1).is_none())
        .collect();
    assert_eq!(lost.len(), 1);
    assert_eq!(*journeys.range(lost[0]), 2_896..4_344);
}

#[test]
fn hops_are_arranged_by_what_is_known() {
    let known = |a: usize, b: usize| match (a, b) {
        (0, 1) => Order::Second,
        (1, 2) => Order::First,
        _ => Order::Unknown,
    };
    assert_eq!(arrange(3, known), [1, 0, 2]);
    assert_eq!(arrange(3, |_, _| Order::Unknown), [0, 1, 2]);
    // A circle comes to an end as well.
    let circle = |a: usize, b: usize| match (a, b) {
        (0, 2) => Order::Second,
        _ => Order::First,
    };
    assert_eq!(arrange(3, circle).len(), 3);
}

/// A connection with data and acknowledgements at a hop.
fn trail(
    hop: u32,
    port: u16,
    shift_ns: i64,
    data_count: u32,
    is_missing: impl Fn(u32) -> bool,
) -> Trail {
    let end = |last: u8, port: u16| Endpoint {
        address: std::net::Ipv4Addr::new(10, 0, 0, last).into(),
        port,
    };
    let mut crossings: Sides<Vec<Crossing>> = Sides::default();
    let mut frame = 0;
    let mut put = |side: Side, time_ns: i64, of: Crossing| {
        frame += 1;
        crossings.get_mut(side).push(Crossing {
            time_ns: time_ns + shift_ns,
            frame,
            ..of
        });
    };
    let ttl = 64 - hop as u8;
    for index in 0..data_count {
        let sent_ns = i64::from(index) * 10 * MS;
        let data = Crossing {
            sequence: 1_000 + index * 100,
            acknowledgement: 77,
            length: 100,
            timestamp_value: 5_000 + index,
            timestamp_echo: 9,
            ip_id: 10 + index as u16,
            flags: TcpFlags::ACK,
            ttl,
            ..Crossing::default()
        };
        if !is_missing(index) {
            put(Side::Client, sent_ns + i64::from(hop) * MS, data);
        }
        let acknowledgement = Crossing {
            sequence: 77,
            acknowledgement: 1_100 + index * 100,
            timestamp_value: 8_000 + index,
            timestamp_echo: 5_000 + index,
            ip_id: 90 + index as u16,
            flags: TcpFlags::ACK,
            ttl: 60 + hop as u8,
            ..Crossing::default()
        };
        put(
            Side::Server,
            sent_ns + (9 - i64::from(hop)) * MS,
            acknowledgement,
        );
    }
    Trail {
        hop,
        flow: 1,
        protocol: protocol::TCP,
        ends: Sides {
            client: end(1, port),
            server: end(2, 80),
        },
        role_basis: RoleBasis::Port,
        crossings,
        initial: Sides::default(),
        syn: Sides::default(),
        handshake: super::trail::Handshake::default(),
        content: Box::default(),
        left_out: 0,
        parts: Vec::new(),
    }
}

fn hops(count: u32) -> Vec<StitchHop> {
    let hop = |hop| StitchHop {
        hop,
        clock: hop,
        window_ns: (i64::MIN, i64::MAX),
        gaps_ns: Vec::new(),
    };
    (0..count).map(hop).collect()
}

#[test]
fn three_hops_without_beginning_behind_a_nat_are_one_conversation() {
    let shifts = [0, 3_600 * SECOND, -40 * SECOND];
    let trails = (0_u32..3)
        .zip(shifts)
        .map(|(hop, shift)| trail(hop, 40_000 + hop as u16, shift, 200, |_| false));
    // In another order than that of the path.
    let mut trails: Vec<Trail> = trails.collect();
    trails.reverse();
    let stitched = stitch(trails, &hops(3));
    assert_eq!(stitched.conversations.len(), 1);
    let conversation = &stitched.conversations[0];
    assert_eq!(conversation.path, [0, 1, 2]);
    assert_eq!(conversation.return_path, [2, 1, 0]);
    assert_eq!(conversation.rewrites.len(), 2);
    assert_eq!(
        conversation.alignment.packets,
        conversation.alignment.aligned
    );
    for (leg, shift) in conversation.legs.iter().zip(shifts) {
        let forward = leg.forward.as_ref().expect("seen");
        assert_eq!((forward.packets, forward.lost), (200, 0), "{shift}");
        let rtt = leg.rtt.quantile_ns(50).expect("data was acknowledged");
        assert!((rtt - 2 * MS).abs() <= MS / 10, "{rtt}");
    }
    let far = &stitched.clocks[2].readings[0];
    assert!(
        (far.offset_ns + 40 * SECOND).abs() <= far.error_ns.expect("both directions"),
        "{far:?}"
    );
    let ladder = stitched.ladder(0, 10);
    assert_eq!((ladder.rungs.len(), ladder.left_out), (10, 390));
}

#[test]
fn what_was_acknowledged_was_not_lost() {
    // The middle hop misses some, the last one never sees some that were acknowledged.
    let trails = vec![
        trail(0, 40_000, 0, 200, |_| false),
        trail(1, 40_000, 0, 200, |index| index % 10 == 3),
        trail(2, 40_000, 0, 200, |index| index % 50 == 7),
    ];
    let stitched = stitch(trails, &hops(3));
    let legs = &stitched.conversations[0].legs;
    let of = |leg: usize| legs[leg].forward.as_ref().expect("seen");
    assert_eq!((of(0).lost, of(0).not_captured), (0, 20));
    assert_eq!((of(1).lost, of(1).not_captured), (0, 4));
}

/// Three hops, the clock of the middle one an hour ahead, which is away twice: while data of 100 to
/// 119 and of 130 to 149 passes. Whether it says so is `is_told`.
fn with_gaps(is_told: bool, change: impl Fn(&mut Trail)) -> super::Stitched {
    let hour = 3_600 * SECOND;
    let is_away = |it: &Crossing, first_id: u16| {
        let index = it.ip_id - first_id;
        (100..120).contains(&index) || (130..150).contains(&index)
    };
    let mut trails: Vec<Trail> = [0, hour, 0]
        .into_iter()
        .zip(0..)
        .map(|(shift_ns, hop)| trail(hop, 40_000, shift_ns, 200, |_| false))
        .collect();
    let middle = &mut trails[1].crossings;
    middle.client.retain(|it| !is_away(it, 10));
    middle.server.retain(|it| !is_away(it, 90));
    trails.iter_mut().for_each(&change);
    let mut hops = hops(3);
    if is_told {
        // From the last packet before it.
        let sent_ns = |index: i64| hour + index * 10 * MS + MS;
        hops[1].gaps_ns = [(99, 120), (129, 150)]
            .map(|(last, next)| (sent_ns(last) + 7 * MS, sent_ns(next)))
            .to_vec();
    }
    stitch(trails, &hops)
}

/// Lost and unresolved on the legs of a direction.
fn missing(stitched: &super::Stitched, side: Side) -> Vec<(u64, u64)> {
    let legs = stitched.conversations[0].legs.iter();
    let way = |leg: &super::LegStory| match side {
        Side::Client => leg.forward.clone(),
        Side::Server => leg.reverse.clone(),
    };
    let ways = legs.map(|leg| way(leg).expect("seen"));
    ways.map(|it| (it.lost, it.unresolved)).collect()
}

#[test]
fn what_was_due_while_a_hop_recorded_nothing_is_not_lost_before_it() {
    // Data that comes to the middle hop at most, while it is away and later.
    let lose = |trail: &mut Trail| {
        let lost = [110, 140, 141, 170, 171, 180].map(|index| 10 + index);
        let client = &mut trail.crossings.client;
        client.retain(|it| trail.hop < 2 || !lost.contains(&it.ip_id));
        // Nothing acknowledges it.
        trail.crossings.server.retain(|it| it.ip_id < 90 + 100);
    };
    let lost = |is_told| missing(&with_gaps(is_told, lose), Side::Client);
    assert_eq!(lost(false), [(3, 0), (3, 0)]);
    assert_eq!(lost(true), [(0, 3), (3, 0)]);
}

#[test]
fn what_was_sent_again_because_a_hop_recorded_nothing_is_not_lost_before_it() {
    // Lost behind the middle hop while it is away, and sent again later.
    let lose = |trail: &mut Trail| {
        let hop = trail.hop;
        let client = &mut trail.crossings.client;
        let again = Crossing {
            sequence: 1_000 + 110 * 100,
            acknowledgement: 77,
            length: 100,
            timestamp_value: 9_000,
            ip_id: 600,
            time_ns: client[0].time_ns + 1_605 * MS,
            frame: 1_000,
            flags: TcpFlags::ACK,
            ..client[0]
        };
        client.retain(|it| hop < 2 || it.ip_id != 10 + 110);
        client.push(again);
        client.sort_by_key(|it| it.time_ns);
        let behind = 1_100 + 110 * 100;
        // What comes after it is acknowledged once it is there.
        let server = &mut trail.crossings.server;
        server.retain(|it| it.acknowledgement < behind || it.ip_id >= 90 + 162);
    };
    let lost = |is_told| missing(&with_gaps(is_told, lose), Side::Client);
    assert_eq!(lost(false), [(1, 0), (0, 0)]);
    assert_eq!(lost(true), [(0, 1), (0, 0)]);
}

#[test]
fn a_gap_says_nothing_of_what_a_hop_misses_while_it_records() {
    // Acknowledgements that come neither to the middle hop nor to the client.
    let lose = |trail: &mut Trail| {
        let lost = [20, 40, 60].map(|index| 90 + index);
        let server = &mut trail.crossings.server;
        server.retain(|it| trail.hop == 2 || !lost.contains(&it.ip_id));
    };
    let lost = |is_told| missing(&with_gaps(is_told, lose), Side::Server);
    assert_eq!(lost(false), [(0, 0), (0, 3)]);
    assert_eq!(lost(true), [(0, 0), (3, 0)]);
}

#[test]
fn a_full_segment_that_ends_a_connection_is_one_packet() {
    let mut trails = vec![
        trail(0, 40_000, 0, 200, |_| false),
        trail(1, 40_000, 0, 200, |index| index == 199),
    ];
    // The one that never arrives, and that nothing acknowledges.
    let last = trails[0].crossings.client.last_mut().expect("data");
    last.flags |= TcpFlags::FIN;
    for trail in &mut trails {
        trail.crossings.server.pop();
    }
    let stitched = stitch(trails, &hops(2));
    let leg = stitched.conversations[0].legs[0].forward.as_ref();
    assert_eq!(leg.map(|it| (it.packets, it.lost)), Some((200, 1)));
}

#[test]
fn flows_that_share_nothing_stay_apart() {
    let mut other = trail(1, 40_000, 0, 50, |_| false);
    for crossing in &mut other.crossings.client {
        crossing.sequence = crossing.sequence.wrapping_add(1 << 20);
        crossing.timestamp_value += 1_000_000;
        crossing.ip_id += 5_000;
    }
    for crossing in &mut other.crossings.server {
        crossing.acknowledgement = crossing.acknowledgement.wrapping_add(1 << 20);
        crossing.timestamp_echo += 1_000_000;
        crossing.timestamp_value += 70_000;
    }
    let stitched = stitch(vec![trail(0, 40_000, 0, 50, |_| false), other], &hops(2));
    assert_eq!(stitched.conversations.len(), 2);
    assert!(stitched.conversations.iter().all(|it| it.legs.is_empty()));
}
