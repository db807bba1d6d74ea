//! What a reader of a flow's updates finds of its samples, whatever lies there.

use phalanx_common::abi::{
    Direction, FlowUpdate, ReadSample, Sample, SampleKind, SampleWord, update_reason,
};
use zerocopy::FromZeros;

fn sample(microseconds: u32) -> Sample {
    let kind = SampleKind::Rtt(Direction::FromLow);
    Sample { kind, microseconds }
}

fn empty(sample_count: u32) -> FlowUpdate {
    FlowUpdate {
        reason: update_reason::INTERVAL,
        sample_count,
        ..FlowUpdate::new_zeroed()
    }
}

/// Samples by their microseconds; what was lost as a negative number.
fn read(update: &FlowUpdate, read_count: &mut u32) -> Vec<i64> {
    let mut found = Vec::new();
    update.read_samples(read_count, |read| {
        found.push(match read {
            ReadSample::Sample(sample) => i64::from(sample.microseconds),
            ReadSample::Lost(count) => -i64::from(count),
        });
    });
    found
}

#[test]
fn numbers_come_round() {
    for first in [0, 250, u32::MAX - 5] {
        let (mut update, mut read_count) = (empty(first), first);
        for number in 1..=10 {
            update.push_sample(sample(number));
        }
        let expected: Vec<i64> = (1..=10).collect();
        assert_eq!(read(&update, &mut read_count), expected, "from {first}");
        assert_eq!(read_count, first.wrapping_add(10));
        (11..=40).for_each(|number| update.push_sample(sample(number)));
        let expected: Vec<i64> = [-14].into_iter().chain(25..=40).collect();
        assert_eq!(read(&update, &mut read_count), expected, "from {first}");
    }
}

#[test]
fn an_older_update_after_a_newer_one_says_nothing() {
    let (mut update, mut read_count) = (empty(0), 0);
    (1..=5).for_each(|number| update.push_sample(sample(number)));
    let older = update;
    (6..=9).for_each(|number| update.push_sample(sample(number)));
    assert_eq!(read(&update, &mut read_count).len(), 9);
    assert_eq!(read(&older, &mut read_count), []);
    assert_eq!(read_count, 9);
}

#[test]
fn what_is_not_written_yet_is_left_for_the_next_update() {
    let (mut update, mut read_count) = (empty(0), 0);
    (1..=20).for_each(|number| update.push_sample(sample(number)));
    assert_eq!(read(&update, &mut read_count).len(), 17);
    (21..=23).for_each(|number| update.push_sample(sample(number)));
    let whole = update;
    // Number 21 (of microseconds 22): the word of the round before, then half of each.
    let before = SampleWord::new(5, sample(6)).0;
    for word in [
        before,
        before & !0xffff_ffff | whole.samples[5] & 0xffff_ffff,
    ] {
        update.samples[5] = word;
        assert!(read(&update, &mut read_count).len() <= 1);
        assert_eq!(read_count, 21);
    }
    assert_eq!(read(&whole, &mut read_count), [22, 23]);
}

#[test]
fn what_a_newer_sample_has_overwritten_is_lost() {
    let (mut update, mut read_count) = (empty(0), 0);
    (1..=3).for_each(|number| update.push_sample(sample(number)));
    update.samples[1] = SampleWord::new(17, sample(18)).0;
    assert_eq!(read(&update, &mut read_count), [1, -1, 3]);
}

#[test]
fn a_sample_of_no_known_kind_is_lost() {
    let (mut update, mut read_count) = (empty(0), 0);
    (1..=3).for_each(|number| update.push_sample(sample(number)));
    update.samples[1] |= 0xff << 40;
    assert_eq!(read(&update, &mut read_count), [1, -1, 3]);
}
