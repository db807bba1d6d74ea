//! Packets that nothing tells apart but their times and their order.

use super::{MS, SECOND, item};
use crate::side::Sides;
use crate::stitch::alignment::{Expectation, Item, align};
use crate::stitch::sighting::Common;

/// Equal datagrams, one every 20 ms, with delays of 5 ms and what `jitter_ns` adds.
fn datagrams(count: i64, is_missing: impl Fn(i64) -> bool, is_sent: bool) -> Vec<Item> {
    let sent_ns = |index: i64| 1_000 * MS + index * 20 * MS + index * 7_919 % 997 * MS / 500;
    let delay_ns = |index: i64| 5 * MS + index * 6_007 % 991 * 4 * MS / 991;
    (0..count)
        .filter(|index| !is_missing(*index))
        .map(|index| {
            let delay_ns = if is_sent { 0 } else { delay_ns(index) };
            let mut item = item(0, 0, sent_ns(index) + delay_ns);
            item.crossing.frame = index as u64;
            item.crossing.digest = 7;
            item.crossing.length = 40;
            item
        })
        .collect()
}

/// Frames upstream that nothing downstream is, and pairs that are wrong.
fn unmatched(xs: &[Item], ys: &[Item], expectation: &Expectation) -> (Vec<u64>, usize) {
    let links = align(xs, ys, expectation).expect("few");
    let frame = |items: &[Item], place: u32| items[place as usize].crossing.frame;
    let alone = links.iter().filter(|it| it.downstream.is_none());
    let alone = alone.filter_map(|it| Some(frame(xs, it.upstream?)));
    let wrong = links
        .iter()
        .filter(|it| match (it.upstream, it.downstream) {
            (Some(x), Some(y)) => frame(xs, x) != frame(ys, y),
            _ => false,
        });
    (alone.collect(), wrong.count())
}

#[test]
fn one_loss_among_many_equal_datagrams_is_one() {
    let known = Expectation {
        delay_ns: Some((4 * MS, 10 * MS)),
        ..Expectation::default()
    };
    for expectation in [Expectation::default(), known] {
        let xs = datagrams(1_000, |_| false, true);
        for lost in [vec![500], vec![3, 30, 31, 700], (100..120).collect()] {
            let ys = datagrams(1_000, |it| lost.contains(&it), false);
            let (alone, wrong) = unmatched(&xs, &ys, &expectation);
            let lost: Vec<u64> = lost.iter().map(|it| *it as u64).collect();
            assert_eq!((alone, wrong), (lost, 0), "{expectation:?}");
        }
        // What upstream did not capture.
        let ys = datagrams(1_000, |_| false, false);
        let xs = datagrams(1_000, |it| it == 400, true);
        assert_eq!(unmatched(&xs, &ys, &expectation), (vec![], 0));
    }
}

/// A packet that is repeated, of which one hop saw the first and the other the second: nothing to
/// set clocks by. Where ids are rewritten, many pairs tell.
#[test]
fn a_repetition_is_no_sighting_of_the_first() {
    let packets = |ids: &[u16], time_ns: i64| -> Sides<Vec<Item>> {
        let of = |(index, ip_id): (usize, &u16)| {
            let mut item = item(0, 0, time_ns + index as i64 * MS);
            item.crossing.digest = 7 + index as u32;
            item.crossing.length = 40;
            item.crossing.ip_id = *ip_id;
            item
        };
        Sides {
            client: ids.iter().enumerate().map(of).collect(),
            server: Vec::new(),
        }
    };
    let sightings = |ids: [&[u16]; 2]| {
        let common = Common::of(&packets(ids[0], SECOND), &packets(ids[1], 6 * SECOND));
        common.sightings.client.len()
    };
    assert_eq!(sightings([&[31], &[31]]), 1);
    assert_eq!(sightings([&[0], &[0]]), 1);
    assert_eq!(sightings([&[31], &[32]]), 0);
    assert_eq!(sightings([&[31, 40, 50], &[32, 40, 50]]), 2);
    assert_eq!(sightings([&[1, 2, 3, 4, 5], &[71, 72, 73, 74, 75]]), 5);
}
