use super::*;
use crate::impairment::{Change, Direction, Schedule};

const MS: u64 = 1_000_000;

fn channel(impairment: Impairment) -> Channel {
    Channel::new(impairment, 0x5eed)
}

/// A packet that is no IP packet and carries its number.
fn numbered(number: u32, length: usize) -> Vec<u8> {
    let mut packet = vec![0u8; length.max(5)];
    packet[1..5].copy_from_slice(&number.to_be_bytes());
    packet
}

fn number_of(packet: &[u8]) -> u32 {
    u32::from_be_bytes([packet[1], packet[2], packet[3], packet[4]])
}

/// Offers `count` packets of `length` bytes, one each `gap_ns`, and takes what is due between.
fn run(channel: &mut Channel, count: u32, length: usize, gap_ns: u64) -> Vec<(u64, u32)> {
    let mut out = Vec::new();
    let mut now_ns = 0;
    let drain = |channel: &mut Channel, until_ns: u64, out: &mut Vec<(u64, u32)>| {
        while let Some(due_ns) = channel.deadline_ns().filter(|due_ns| *due_ns <= until_ns) {
            channel.advance(due_ns);
            while let Some(packet) = channel.take_due(due_ns) {
                out.push((due_ns, number_of(&packet)));
            }
        }
    };
    for number in 0..count {
        drain(channel, now_ns, &mut out);
        channel.offer(now_ns, numbered(number, length));
        now_ns += gap_ns;
    }
    drain(channel, u64::MAX, &mut out);
    out
}

fn assert_accounted(counters: &Counters) {
    assert_eq!(
        counters.packets_in + counters.duplicated,
        counters.packets_out + counters.dropped.total() + counters.under_way
    );
}

#[test]
fn a_plain_link_delivers_at_once_and_in_order() {
    let mut channel = channel(Impairment::default());
    let out = run(&mut channel, 100, 60, 10);
    assert!(
        out.iter()
            .enumerate()
            .all(|(i, (at_ns, number))| { *number as usize == i && *at_ns == i as u64 * 10 })
    );
    assert_accounted(&channel.counters());
}

#[test]
fn the_same_seed_decides_the_same_and_another_differs() {
    let impairment = Impairment {
        loss: 0.1,
        duplicate: 0.05,
        reorder: 0.05,
        jitter_ms: 1.0,
        delay_ms: 2.0,
        ..Impairment::default()
    };
    let first = run(&mut Channel::new(impairment, 1), 2_000, 100, MS);
    let again = run(&mut Channel::new(impairment, 1), 2_000, 100, MS);
    let other = run(&mut Channel::new(impairment, 2), 2_000, 100, MS);
    assert_eq!(first, again);
    assert_ne!(first, other);
}

#[test]
fn more_duplication_does_not_change_what_is_lost() {
    let lost = |duplicate: f64| {
        let mut channel = channel(Impairment {
            loss: 0.1,
            duplicate,
            ..Impairment::default()
        });
        (0..500)
            .filter(|n| channel.offer(*n, numbered(0, 100)).action == Action::Lost)
            .collect::<Vec<u64>>()
    };
    assert_eq!(lost(0.0), lost(0.5));
}

#[test]
fn loss_duplication_and_reordering_have_their_rates() {
    let mut channel = channel(Impairment {
        loss: 0.02,
        duplicate: 0.01,
        reorder: 0.03,
        reorder_extra_ms: 5.0,
        ..Impairment::default()
    });
    let out = run(&mut channel, 100_000, 100, MS);
    let counters = channel.counters();
    assert_accounted(&counters);
    assert!(
        (1_800..2_200).contains(&counters.dropped.lost),
        "{counters:?}"
    );
    assert!((870..1_100).contains(&counters.duplicated), "{counters:?}");
    assert!((2_740..3_150).contains(&counters.held_back), "{counters:?}");
    // What is held back by five packets' time is overtaken, save when no other follows.
    let mut max = None;
    let mut late = std::collections::BTreeSet::new();
    for (_, number) in &out {
        if max.is_some_and(|max| *number < max) {
            late.insert(*number);
        }
        max = max.max(Some(*number));
    }
    assert_eq!(late.len() as u64, counters.reordered);
    assert!(counters.reordered + 10 > counters.held_back);
    assert_eq!(out.len() as u64, counters.packets_out);
}

#[test]
fn bursts_lose_runs_of_packets() {
    let mut channel = channel(Impairment {
        burst_enter: 0.01,
        burst_leave: 0.25,
        ..Impairment::default()
    });
    let out = run(&mut channel, 100_000, 100, 10);
    let counters = channel.counters();
    // Stationary share of the bad state: 0.01 / (0.01 + 0.25) = 3.85 %.
    let share = counters.dropped.burst_lost as f64 / 100_000.0;
    assert!((0.033..0.044).contains(&share), "{share}");
    let runs = out
        .windows(2)
        .filter(|pair| pair[1].1 - pair[0].1 > 1)
        .count();
    let mean_run = counters.dropped.burst_lost as f64 / runs as f64;
    assert!((3.5..4.5).contains(&mean_run), "{mean_run}");
}

#[test]
fn the_bottleneck_keeps_its_rate_and_drops_at_the_tail() {
    let mut channel = channel(Impairment {
        rate_mbit_per_s: 10.0,
        queue_bytes: 15_000,
        ..Impairment::default()
    });
    // 20 Mbit/s offered: 1250 bytes each 0.5 ms, for ten seconds.
    let out = run(&mut channel, 20_000, 1_250, MS / 2);
    let counters = channel.counters();
    assert_accounted(&counters);
    let seconds = out.last().map_or(0.0, |(at_ns, _)| *at_ns as f64 / 1e9);
    let rate = counters.bytes_out as f64 * 8.0 / seconds / 1e6;
    assert!((9.99..10.01).contains(&rate), "{rate}");
    assert!(counters.dropped.queue_full > 9_900);
    // The queue of 15,000 bytes holds a packet for at most 12 ms, its own time included.
    let slowest_ns = out
        .iter()
        .map(|(at_ns, n)| at_ns - u64::from(*n) * MS / 2)
        .max();
    assert!(
        slowest_ns.is_some_and(|ns| (11 * MS..=12 * MS).contains(&ns)),
        "{slowest_ns:?}"
    );
}

#[test]
fn the_policer_passes_a_burst_and_then_its_rate_without_delay() {
    let mut channel = channel(Impairment {
        police_mbit_per_s: 8.0,
        police_burst_bytes: 10_000,
        ..Impairment::default()
    });
    // 1 MB/s allowed, 4 MB/s offered for one second.
    let out = run(&mut channel, 4_000, 1_000, MS / 4);
    assert!(
        out.iter()
            .take(10)
            .enumerate()
            .all(|(i, (_, n))| i as u32 == *n)
    );
    assert!((1_005..=1_012).contains(&out.len()), "{}", out.len());
    assert!(
        out.iter()
            .all(|(at_ns, n)| *at_ns == u64::from(*n) * MS / 4)
    );
    assert_accounted(&channel.counters());
}

#[test]
fn jitter_keeps_order_unless_told_otherwise() {
    let ordered = Impairment {
        delay_ms: 10.0,
        jitter_ms: 5.0,
        ..Impairment::default()
    };
    let mut kept = channel(ordered);
    let out = run(&mut kept, 2_000, 100, MS / 2);
    assert_eq!(kept.counters().reordered, 0);
    assert!(out.windows(2).all(|pair| pair[0].1 < pair[1].1));
    let mut free = channel(Impairment {
        keep_order: false,
        ..ordered
    });
    let out = run(&mut free, 2_000, 100, MS / 2);
    assert!(free.counters().reordered > 500);
    assert!(out.iter().all(|(at_ns, n)| {
        let took_ns = at_ns - u64::from(*n) * MS / 2;
        (5 * MS..=15 * MS).contains(&took_ns)
    }));
}

#[test]
fn a_silent_mtu_drops_by_size_alone() {
    let mut channel = channel(Impairment {
        mtu_bytes: 1_400,
        ..Impairment::default()
    });
    assert_eq!(channel.offer(0, vec![0; 1_400]).action, Action::Pass);
    assert_eq!(channel.offer(0, vec![0; 1_401]).action, Action::Mtu);
    assert_eq!(channel.counters().dropped.mtu, 1);
}

#[test]
fn an_outage_by_schedule_drops_exactly_what_arrives_in_it() {
    let outage = |at_ms: f64, outage: bool| Change {
        at_ms,
        direction: None,
        set: Patch {
            outage: Some(outage),
            ..Patch::default()
        },
    };
    let schedule = Schedule {
        changes: vec![outage(100.0, true), outage(200.0, false)],
        period_ms: None,
    };
    let mut channel = channel(Impairment::delay(50.0));
    channel.follow(Timetable::new(&schedule, Direction::Forward, 0));
    let out = run(&mut channel, 300, 100, MS);
    let expected: Vec<u32> = (0..100).chain(200..300).collect();
    assert_eq!(out.iter().map(|(_, n)| *n).collect::<Vec<_>>(), expected);
    assert_eq!(channel.counters().dropped.outage, 100);
    // Already under way when the outage begins: still delivered, on time.
    assert_eq!(out[99], (149 * MS, 99));
}

#[test]
fn what_is_under_way_is_bounded() {
    let mut channel = channel(Impairment::delay(1_000.0));
    let packets = (UNDER_WAY_BYTES_MAX / 60_000) + 10;
    let overflow = (0..packets)
        .filter(|_| channel.offer(0, vec![0; 60_000]).action == Action::Overflow)
        .count();
    assert!(overflow >= 9, "{overflow}");
    assert_accounted(&channel.counters());
}

#[test]
fn a_shorter_delay_does_not_let_later_packets_overtake() {
    let mut channel = channel(Impairment::delay(50.0));
    channel.offer(0, numbered(0, 100));
    channel.patch(&Patch {
        delay_ms: Some(1.0),
        ..Patch::default()
    });
    let second = channel.offer(MS, numbered(1, 100));
    assert_eq!(second.due_ns, 50 * MS);
}

#[test]
fn every_packet_is_accounted_for_under_any_impairment() {
    let mut random = Random::new(11, 11);
    for round in 0..300 {
        let mut maybe = |most: f64| {
            if random.chance(0.5) {
                random.unit() * most
            } else {
                0.0
            }
        };
        let impairment = Impairment {
            delay_ms: maybe(20.0),
            jitter_ms: maybe(10.0),
            keep_order: round % 2 == 0,
            loss: maybe(0.3),
            burst_enter: maybe(0.1),
            burst_leave: 0.2,
            reorder: maybe(0.3),
            duplicate: maybe(0.3),
            rate_mbit_per_s: maybe(20.0),
            queue_bytes: maybe(50_000.0) as u64,
            police_mbit_per_s: maybe(20.0),
            police_burst_bytes: maybe(50_000.0) as u64,
            mtu_bytes: maybe(1_500.0) as u32,
            ttl_decrement: 1,
            outage: round % 50 == 0,
            ..Impairment::default()
        };
        let mut channel = Channel::new(impairment, round);
        let out = run(&mut channel, 300, 100 + (round as usize % 10) * 140, MS / 4);
        let counters = channel.counters();
        assert_accounted(&counters);
        assert_eq!(counters.under_way, 0, "{impairment:?}");
        assert_eq!(counters.packets_out, out.len() as u64, "{impairment:?}");
        assert!(
            out.windows(2).all(|pair| pair[0].0 <= pair[1].0),
            "{impairment:?}"
        );
    }
}
