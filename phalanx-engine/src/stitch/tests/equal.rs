//! Packets that nothing tells apart but their times and their order.

use super::{MS, item};
use crate::stitch::alignment::{Expectation, Item, align};

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
