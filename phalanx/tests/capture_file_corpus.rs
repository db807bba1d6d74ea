//! Real captures give the frames that others read of them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::io::Cursor;
use std::path::Path;
use std::time::{Duration, Instant};

use phalanx::capture_file::{self, CaptureFile, Chunk, OpenOptions};
use phalanx_common::packet::{LinkKind, parse_layers};

#[path = "capture_file/mutation.rs"]
mod mutation;
#[path = "capture_file/reference.rs"]
mod reference;
use mutation::{Mutator, check};
use reference::{Frame, list, name_in, read_with_pcap_parser, shared_captures, times_of_tshark};

/// Files that pcap-parser reads differently: it does not know that before version 2.3 the length
/// on the wire came first, as libpcap and tshark do; nor snoop.
const PARSER_DIFFERS: &[&str] = &[
    "ndpi/cfgs__default__pcap__fuzz-2021-10-13.pcap",
    "pcapplusplus/ExamplesTest__pcap_examples__solaris.snoop",
];

/// All frames, and the damage in words.
fn read(mut capture: CaptureFile) -> (Vec<(u64, Frame)>, Option<String>) {
    let (mut frames, mut chunk) = (Vec::new(), Chunk::new());
    while capture.read_chunk(&mut chunk).unwrap() {
        for (at, bytes) in chunk.iter() {
            let frame = Frame {
                time_ns: at.time_ns,
                wire_length: at.wire_length,
                link_type: capture.interfaces()[at.interface as usize].link_type,
                bytes: bytes.to_vec(),
            };
            frames.push((at.number, frame));
        }
    }
    assert_eq!(
        capture.frame_count() as usize,
        frames.len(),
        "frames were left out"
    );
    (frames, capture.damage().map(ToString::to_string))
}

fn read_path(path: &Path) -> (Vec<(u64, Frame)>, Option<String>) {
    let opened = capture_file::open(path, &OpenOptions::default());
    read(opened.unwrap_or_else(|error| panic!("{error}")))
}

#[test]
fn as_pcap_parser_reads() {
    let Some(folder) = shared_captures() else {
        return;
    };
    let (mut frame_count, mut file_count) = (0, 0);
    for path in list(&folder) {
        let name = name_in(&folder, &path);
        let (frames, damage) = read_path(&path);
        let (expected, stopped) = read_with_pcap_parser(fs::read(&path).unwrap());
        if damage.is_some() || stopped.is_some() {
            println!("{name}: {damage:?}; pcap-parser: {stopped:?}");
        }
        if PARSER_DIFFERS.contains(&&*name) {
            println!(
                "{name}: {} frames; pcap-parser: {}",
                frames.len(),
                expected.len()
            );
            continue;
        }
        assert_eq!(frames.len(), expected.len(), "{name}");
        for (index, ((number, frame), expected)) in frames.iter().zip(&expected).enumerate() {
            assert_eq!(*number, index as u64 + 1);
            assert_eq!(frame, expected, "{name}, frame {number}");
        }
        frame_count += frames.len();
        file_count += 1;
    }
    println!("{frame_count} frames of {file_count} files");
}

#[test]
fn times_as_tshark_has_them() {
    let Some(folder) = shared_captures() else {
        return;
    };
    let (mut frame_count, mut file_count) = (0, 0);
    for path in list(&folder) {
        let name = name_in(&folder, &path);
        let Some(times) = times_of_tshark(&folder, &name) else {
            continue;
        };
        let (frames, _) = read_path(&path);
        for (number, time_ns) in &times {
            let (_, frame) = &frames[*number as usize - 1];
            assert_eq!(frame.time_ns, *time_ns, "{name}, frame {number}");
        }
        frame_count += times.len();
        file_count += 1;
    }
    println!("{frame_count} TCP frames of {file_count} files");
}

#[test]
fn from_memory_as_from_a_path() {
    let Some(folder) = shared_captures() else {
        return;
    };
    for path in list(&folder).iter().take(40) {
        let bytes = fs::read(path).unwrap();
        let capture = CaptureFile::from_reader("memory", Cursor::new(bytes)).unwrap();
        assert_eq!(read(capture), read_path(path), "{}", path.display());
    }
}

#[test]
fn twenty_thousand_mutations() {
    /// Longer files give as many ways to go, more slowly.
    const BYTES_MAX: usize = 20_000;
    let Some(folder) = shared_captures() else {
        return;
    };
    let files: Vec<Vec<u8>> = list(&folder)
        .iter()
        .map(|path| {
            let mut bytes = fs::read(path).unwrap();
            bytes.truncate(BYTES_MAX);
            bytes
        })
        .collect();
    let mut mutator = Mutator::new(1);
    let (mut longest, mut frame_files, begun) = (Duration::ZERO, 0, Instant::now());
    for round in 0..20_000 {
        let (seed, other) = (round % files.len(), mutator.below(files.len()));
        let mutated = mutator.mutate(&files[seed], &files[other]);
        let one = Instant::now();
        frame_files += usize::from(check(&mutated).has_frames());
        longest = longest.max(one.elapsed());
    }
    println!(
        "{:?}, the longest {longest:?}; {frame_files} gave frames",
        begun.elapsed()
    );
    assert!(longest < Duration::from_secs(5), "{longest:?}");
    assert!(frame_files > 10_000, "{frame_files} gave frames");
}

#[test]
fn link_types_of_the_captures() {
    let Some(folder) = shared_captures() else {
        return;
    };
    // By link type: frames, and those that lead to IP.
    let mut counts = BTreeMap::<u16, (u64, u64)>::new();
    for path in list(&folder) {
        for (_, frame) in read_path(&path).0 {
            let count = counts.entry(frame.link_type).or_default();
            count.0 += 1;
            let kind = LinkKind::from_linktype(frame.link_type.into());
            let layers = kind.map(|kind| parse_layers(&frame.bytes[..], kind, frame.wire_length));
            count.1 += u64::from(matches!(layers, Some(Ok(_))));
        }
    }
    for (link_type, (all, ip)) in &counts {
        let name = capture_file::link_type_name(*link_type);
        println!("{link_type} {name}: {all} frames, {ip} lead to IP");
        assert_ne!(name, "unknown", "{link_type}");
    }
    // As tshark finds: of five frames in a PPI header three carry IP.
    assert_eq!(counts[&192], (5, 3));
}
