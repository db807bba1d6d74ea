//! Small captures written by hand, merged and read back.

use std::io::Cursor;
use std::path::PathBuf;

use super::limits::{APART_MAX_NS, WINDOW_PACKET_COUNT};
use super::*;
use crate::capture_file::{CaptureFile, Frame, OpenOptions, open};

const SECOND_NS: i64 = 1_000_000_000;
const START_NS: i64 = 1_700_000_000 * SECOND_NS;

/// A capture in the folder for temporary files, removed when dropped.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).ok();
    }
}

fn interface(name: &str) -> pcapng::Interface {
    pcapng::Interface {
        name: name.to_owned(),
        description: format!("port {name}"),
        link_type: 1,
        snap_length: 96,
        filter: "tcp".to_owned(),
    }
}

/// A capture of two interfaces, of which the second one lost packets; by interface and time.
fn capture(name: &str, packets: &[(usize, i64)]) -> Scratch {
    let mut writer = Writer::new(Vec::new(), "").unwrap();
    for name in ["eth0", "eth1"] {
        writer.add_interface(&interface(name)).unwrap();
    }
    for (number, (interface, time_ns)) in packets.iter().enumerate() {
        let packet = pcapng::Packet {
            interface: *interface,
            time_ns: time_ns.cast_unsigned(),
            wire_length: 1_500,
            bytes: &(number as u64).to_be_bytes(),
            comment: "",
        };
        writer.write(&packet).unwrap();
    }
    let statistics = Statistics {
        dropped: 17,
        ..Statistics::default()
    };
    writer.write_statistics(1, &statistics).unwrap();
    let file = format!("phalanx-merge-{name}-{}", std::process::id());
    let scratch = Scratch(std::env::temp_dir().join(file));
    std::fs::write(&scratch.0, writer.finish().unwrap()).unwrap();
    scratch
}

fn ahead(offset_ns: i64) -> ClockReading {
    ClockReading {
        from_ns: START_NS,
        offset_ns,
        skew_ppm: 0.0,
        error_ns: Some(12_001),
    }
}

/// What there is to merge of a capture, with how far the clocks of its interfaces are ahead.
fn source(scratch: &Scratch, offsets: [Option<i64>; 2]) -> MergeSource {
    let mut file = open(&scratch.0, &OpenOptions::default()).unwrap();
    file.frames().unwrap();
    let hops = (0..).zip(offsets).zip(file.interfaces());
    let hop = |((index, offset), interface): ((u32, Option<i64>), &Interface)| {
        let hop = MergeHop {
            name: format!("host:{}", interface.name),
            interface: interface.clone(),
            readings: offset.map(ahead).into_iter().collect(),
            window_ns: (START_NS, START_NS + 10 * SECOND_NS),
            gaps_ns: Vec::new(),
        };
        (index, hop)
    };
    MergeSource {
        request: Request::new(&scratch.0),
        name: "host.pcapng".to_owned(),
        hops: hops.map(hop).collect(),
    }
}

fn merge(source: MergeSource) -> (MergeTally, Vec<u8>) {
    let merge = Merge {
        sources: vec![source],
        reference: Some("host:eth0".to_owned()),
    };
    let merged = merge.write(Vec::new()).unwrap();
    assert!(merged.errors.is_empty());
    (merged.tally, merged.output)
}

fn read(bytes: Vec<u8>) -> (CaptureFile, Vec<Frame>) {
    let mut file = CaptureFile::from_reader("merged", Cursor::new(bytes)).unwrap();
    let frames = file.frames().unwrap();
    (file, frames)
}

fn times(frames: &[Frame]) -> Vec<(usize, i64)> {
    let time = |it: &Frame| (it.interface, it.time_ns - START_NS);
    frames.iter().map(time).collect()
}

#[test]
fn interfaces_and_what_they_lost_are_kept() {
    let scratch = capture("kept", &[(0, START_NS), (1, START_NS + 5)]);
    let (tally, bytes) = merge(source(&scratch, [Some(0), None]));
    let (file, frames) = read(bytes);
    assert_eq!(tally.written, 2);
    assert_eq!(times(&frames), [(0, 0), (1, 5)]);
    assert!(frames.iter().all(|it| it.wire_length == 1_500));
    let [first, second] = file.interfaces() else {
        panic!("{:?}", file.interfaces());
    };
    assert_eq!((first.name.as_str(), first.lost_count()), ("host:eth0", 0));
    assert_eq!(first.description, "port eth0");
    assert_eq!(
        (second.name.as_str(), second.lost_count()),
        ("host:eth1", 17)
    );
    let told = "port eth1; its clock could not be compared, the times are its own";
    assert_eq!(second.description, told);
    for it in [first, second] {
        assert_eq!(
            (it.link_type, it.snap_length, it.filter.as_str()),
            (1, 96, "tcp")
        );
    }
}

/// As mergecap leaves what hosts with different clocks have captured.
#[test]
fn interfaces_with_clocks_an_hour_apart_come_in_order() {
    let hour = 3_600 * SECOND_NS;
    let count = 3 * WINDOW_PACKET_COUNT as i64;
    let mut packets: Vec<(usize, i64)> = Vec::new();
    packets.extend((0..count).map(|at| (0, START_NS + 2 * at)));
    packets.extend((0..count).map(|at| (1, START_NS + hour + 2 * at + 1)));
    let scratch = capture("apart", &packets);
    let (tally, bytes) = merge(source(&scratch, [Some(0), Some(hour)]));
    let (file, frames) = read(bytes);
    assert_eq!((tally.written, tally.late), (2 * count as u64, 0));
    let wanted: Vec<(usize, i64)> = (0..2 * count).map(|at| ((at % 2) as usize, at)).collect();
    assert_eq!(times(&frames), wanted);
    // Those of the second one say what its clock had shown.
    assert_eq!(file.notes().comments, 1 + count as u64);
}

#[test]
fn when_nothing_was_recorded_is_told_once() {
    let packets = [
        (0, START_NS),
        (0, START_NS + 10),
        (1, START_NS + 20),
        (1, START_NS + 30),
    ];
    let scratch = capture("gap", &packets);
    let told = |gaps_ns: &[(i64, i64)]| {
        let mut source = source(&scratch, [Some(0), Some(0)]);
        source.hops.get_mut(&1).unwrap().gaps_ns = gaps_ns.to_vec();
        let (_, bytes) = merge(source);
        let find = |what: &[u8]| bytes.windows(what.len()).position(|it| it == what);
        let remark = find(b"host:eth1: nothing was recorded from");
        // The length on the wire stands before the bytes of the last packet.
        let last = find(b"\0\0\x05\xdc\0\0\0\0\0\0\0\x03").unwrap();
        let is_before_last = remark.map(|it| it < last);
        (read(bytes).0.notes().comments, is_before_last)
    };
    let [early, late] = [
        (START_NS + 1, START_NS + 20),
        (START_NS + 31, START_NS + 40),
    ];
    assert_eq!(told(&[]), (1, None));
    assert_eq!(told(&[early]), (2, Some(true)), "by the first packet after");
    assert_eq!(told(&[late]), (1, Some(false)), "behind the packets");
    assert_eq!(told(&[early, late]), (2, Some(true)));
}

#[test]
fn what_goes_back_within_the_window_is_put_in_order() {
    let back = WINDOW_PACKET_COUNT as i64 - 1;
    let mut packets: Vec<(usize, i64)> = (1..=back).map(|at| (0, START_NS + at)).collect();
    packets.push((1, START_NS));
    let scratch = capture("back", &packets);
    let (tally, bytes) = merge(source(&scratch, [Some(0), Some(0)]));
    assert_eq!((tally.written, tally.late), (back as u64 + 1, 0));
    assert_eq!(times(&read(bytes).1)[0], (1, 0));
}

#[test]
fn what_goes_back_further_is_written_where_it_comes_and_counted() {
    let back = WINDOW_PACKET_COUNT as i64 + 1;
    let mut packets: Vec<(usize, i64)> = (1..=back).map(|at| (0, START_NS + at)).collect();
    packets.push((1, START_NS));
    // One from far ahead holds up nobody.
    packets.insert(3, (0, START_NS + 90 * SECOND_NS));
    let scratch = capture("late", &packets);
    let (tally, bytes) = merge(source(&scratch, [Some(0), Some(0)]));
    let times = times(&read(bytes).1);
    assert_eq!((tally.written, tally.late), (back as u64 + 2, 1));
    assert_eq!(times.last(), Some(&(0, 90 * SECOND_NS)));
    assert!(times.iter().position(|it| *it == (1, 0)).unwrap() > 0);
}

#[test]
fn absurd_times_are_written_and_told() {
    let packets = [(0, 0), (0, START_NS), (1, 5), (1, i64::MAX)];
    let scratch = capture("absurd", &packets);
    let offsets = [Some(START_NS), Some(i64::MIN)];
    let (tally, bytes) = merge(source(&scratch, offsets));
    let (file, frames) = read(bytes);
    assert_eq!((tally.written, tally.before_epoch), (4, 1));
    let times: Vec<i64> = frames.iter().map(|it| it.time_ns).collect();
    assert_eq!(times, [0, 0, i64::MAX, i64::MAX]);
    assert_eq!(file.notes().comments, 1 + 4 - 1);
}

#[test]
fn packets_of_an_interface_that_was_not_there_before_are_counted() {
    let scratch = capture("strange", &[(0, START_NS), (1, START_NS), (1, START_NS)]);
    let mut source = source(&scratch, [Some(0), Some(0)]);
    source.hops.remove(&1);
    let (tally, _) = merge(source);
    assert_eq!((tally.written, tally.strange), (1, 2));
}

#[test]
fn clocks_a_little_apart_share_a_reading() {
    let scratch = capture("near", &[(0, START_NS)]);
    let apart = APART_MAX_NS.cast_signed();
    for (offset, count) in [(apart, 1), (apart + 1, 2), (-apart, 1), (-apart - 1, 2)] {
        let source = source(&scratch, [Some(0), Some(offset)]);
        let streams = Stream::open_all(0, &source, 0).unwrap();
        assert_eq!(streams.len(), count, "{offset}");
    }
}

#[test]
fn a_bound_is_never_told_as_less() {
    let cases = [
        (0, "0 ns"),
        (9_999, "9999 ns"),
        (10_001, "11 µs"),
        (99_999_999, "100000 µs"),
        (100_000_001, "101 ms"),
        (3_600_000_000_000, "3600000 ms"),
    ];
    for (ns, text) in cases {
        assert_eq!(bound(ns), text);
    }
}
