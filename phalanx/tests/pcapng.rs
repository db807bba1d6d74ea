//! Captures written are read back as they were, by us and by others.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::process::Command;

use pcap_parser::traits::{PcapNGPacketBlock, PcapReaderIterator};
use pcap_parser::{Block, OptionCode, PcapBlockOwned, PcapError, PcapNGReader};
use phalanx::capture_file::{CaptureFile, Frame};
use phalanx::pcapng::{Interface, Packet, Statistics, WriteError, Writer, gso_comment};
use phalanx::translation::Note;

const START_NS: i64 = 1_700_000_000_123_456_789;

/// A file in the folder for temporary files, removed when dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str, bytes: &[u8]) -> Self {
        let file = format!("phalanx-pcapng-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(file);
        fs::write(&path, bytes).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_file(&self.0).ok();
    }
}

fn hop(name: &str, link_type: u16) -> Interface {
    Interface {
        name: name.into(),
        description: format!("host a, interface {name}"),
        link_type,
        snap_length: 128,
        filter: "tcp port 443".into(),
    }
}

/// A connection that the host of the capture translates.
fn note() -> Note {
    let text =
        "phalanx-translation/1 tcp 10.0.0.1:51000 10.0.0.2:443 192.0.2.1:1025 10.0.0.2:443 a";
    Note::parse(text.as_bytes()).unwrap()
}

/// A TCP SYN from 10.0.0.1 to 10.0.0.2, with and without an Ethernet header.
fn ipv4_frame() -> Vec<u8> {
    let mut frame = vec![
        0x45, 0, 0, 40, 0, 1, 0x40, 0, 64, 6, 0x26, 0xcd, 10, 0, 0, 1, 10, 0, 0, 2,
    ];
    frame.extend([
        0xc7, 0x38, 0x01, 0xbb, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0,
    ]);
    frame
}

fn frames() -> Vec<Frame> {
    let bare = ipv4_frame();
    let ethernet = [&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0][..], &bare].concat();
    (0..20_u32)
        .map(|n| {
            let second = n % 3 == 2;
            Frame {
                interface: usize::from(second),
                link_type: if second { 101 } else { 1 },
                time_ns: START_NS + i64::from(n) * 1_000_003,
                wire_length: 54 + n * 1448,
                bytes: if second {
                    bare.clone()
                } else {
                    ethernet[..54 - (n as usize % 4)].into()
                },
            }
        })
        .collect()
}

fn written(frames: &[Frame]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new(), "what came before the incident").unwrap();
    assert_eq!(writer.add_interface(&hop("eth0", 1)).unwrap(), 0);
    assert_eq!(writer.add_interface(&hop("wg0", 101)).unwrap(), 1);
    for frame in frames {
        let comment = match frame.wire_length {
            54 => String::new(),
            wire => gso_comment(u16::try_from(wire / 1448).unwrap(), 1448),
        };
        let Frame {
            interface,
            time_ns,
            wire_length,
            ref bytes,
            ..
        } = *frame;
        let packet = Packet {
            interface,
            time_ns: time_ns.cast_unsigned(),
            wire_length,
            bytes,
            comment: &comment,
        };
        writer.write(&packet).unwrap();
    }
    for interface in 0..2 {
        let statistics = Statistics {
            start_ns: START_NS.cast_unsigned(),
            end_ns: START_NS.cast_unsigned() + 5_000_000_000,
            seen: 100,
            matched: 21,
            dropped: 1,
            written: 20,
        };
        writer.write_statistics(interface, &statistics).unwrap();
    }
    let remarks = ["a remark".to_owned(), note().to_string()];
    writer.write_remarks(0, 7, &remarks).unwrap();
    let count = writer.byte_count();
    let bytes = writer.finish().unwrap();
    assert_eq!(count, bytes.len() as u64);
    bytes
}

fn read(bytes: Vec<u8>) -> CaptureFile {
    CaptureFile::from_reader("capture", Cursor::new(bytes)).unwrap()
}

#[test]
fn we_read_back_what_we_write() {
    let frames = frames();
    let bytes = written(&frames);
    let mut capture = read(bytes);
    assert_eq!(capture.frames().unwrap(), frames);
    assert_eq!(capture.damage(), None);
    let interfaces = capture.interfaces().iter().map(|interface| {
        assert_eq!(interface.dropped, Some(1));
        let hosts: Vec<_> = interface.translations.iter().collect();
        let noted = note();
        match interface.name.as_str() {
            "eth0" => assert_eq!(hosts, [(&noted.translation, &noted.host)]),
            _ => assert!(hosts.is_empty()),
        }
        Interface {
            name: interface.name.clone(),
            description: interface.description.clone(),
            link_type: interface.link_type,
            snap_length: interface.snap_length,
            filter: interface.filter.clone(),
        }
    });
    let expected = [hop("eth0", 1), hop("wg0", 101)];
    assert_eq!(interfaces.collect::<Vec<_>>(), expected);
}

#[test]
fn a_second_reader_agrees() {
    let frames = frames();
    let bytes = written(&frames);
    let mut reader = PcapNGReader::new(1 << 16, bytes.as_slice()).unwrap();
    let (mut names, mut comments, mut read, mut statistics) = (vec![], vec![], vec![], 0);
    loop {
        let (length, block) = match reader.next() {
            Ok(next) => next,
            Err(PcapError::Eof) => break,
            Err(PcapError::Incomplete(_)) => {
                reader.refill().unwrap();
                continue;
            }
            Err(error) => panic!("{error:?}"),
        };
        match block {
            PcapBlockOwned::NG(Block::SectionHeader(section)) => {
                let text = section
                    .options
                    .iter()
                    .find(|o| o.code == OptionCode::Comment);
                comments.push(text.unwrap().as_str().unwrap().to_owned());
            }
            PcapBlockOwned::NG(Block::InterfaceDescription(interface)) => {
                assert_eq!(interface.if_tsresol, 9);
                assert_eq!(interface.snaplen, 128);
                let name = interface
                    .options
                    .iter()
                    .find(|o| o.code == OptionCode::IfName);
                names.push(name.unwrap().as_str().unwrap().to_owned());
            }
            PcapBlockOwned::NG(Block::EnhancedPacket(packet)) => {
                let time_ns = (i64::from(packet.ts_high) << 32) | i64::from(packet.ts_low);
                read.push((
                    packet.if_id as usize,
                    time_ns,
                    packet.origlen,
                    packet.packet_data().to_vec(),
                ));
                let text = packet
                    .options
                    .iter()
                    .find(|o| o.code == OptionCode::Comment);
                comments.extend(text.map(|o| o.as_str().unwrap().to_owned()));
            }
            PcapBlockOwned::NG(Block::InterfaceStatistics(_)) => statistics += 1,
            _ => {}
        }
        reader.consume(length);
    }
    let expected: Vec<_> = frames
        .into_iter()
        .map(|frame| {
            (
                frame.interface,
                frame.time_ns,
                frame.wire_length,
                frame.bytes,
            )
        })
        .collect();
    assert_eq!(read, expected);
    assert_eq!(names, ["eth0", "wg0"]);
    assert_eq!(statistics, 3);
    assert_eq!(
        comments.len(),
        20,
        "one of the section, one of each super-segment"
    );
    assert_eq!(comments[0], "what came before the incident");
    assert_eq!(comments[12], "GSO super-segment: 12 segments of 1448 bytes");
}

fn run(program: &str, arguments: &[&str], path: &Path) -> Option<String> {
    let Ok(output) = Command::new(program).args(arguments).arg(path).output() else {
        println!("SKIPPED: {program} is not installed");
        return None;
    };
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program}: {stderr}");
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn tcpdump_and_tshark_agree() {
    // Tcpdump reads files of one link type only.
    let frames: Vec<_> = frames()
        .into_iter()
        .filter(|frame| frame.interface == 0)
        .collect();
    let mut writer = Writer::new(Vec::new(), "").unwrap();
    writer.add_interface(&hop("eth0", 1)).unwrap();
    for Frame {
        interface,
        time_ns,
        wire_length,
        bytes,
        ..
    } in &frames
    {
        let (interface, wire_length) = (*interface, *wire_length);
        let packet = Packet {
            interface,
            time_ns: time_ns.cast_unsigned(),
            wire_length,
            bytes,
            comment: "",
        };
        writer.write(&packet).unwrap();
    }
    writer.write_remarks(0, 7, &[note().to_string()]).unwrap();
    let file = Scratch::new("tools", &writer.finish().unwrap());
    let time = |ns: i64| format!("{}.{:09}", ns / 1_000_000_000, ns % 1_000_000_000);
    let times: Vec<_> = frames.iter().map(|frame| time(frame.time_ns)).collect();
    let arguments = ["-tt", "-n", "--time-stamp-precision=nano", "-r"];
    if let Some(text) = run("tcpdump", &arguments, &file.0) {
        let read: Vec<_> = text
            .lines()
            .filter_map(|line| line.split(' ').next())
            .collect();
        assert_eq!(read, times);
    }
    let fields = [
        "-T",
        "fields",
        "-e",
        "frame.time_epoch",
        "-e",
        "frame.len",
        "-e",
    ];
    let arguments = [
        &fields[..],
        &["frame.cap_len", "-e", "frame.interface_name", "-r"],
    ]
    .concat();
    if let Some(text) = run("tshark", &arguments, &file.0) {
        let expected: Vec<_> = frames
            .iter()
            .zip(&times)
            .map(|(f, time)| format!("{time}\t{}\t{}\teth0", f.wire_length, f.bytes.len()))
            .collect();
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
    }
    if let Some(text) = run("capinfos", &["-c", "-M"], &file.0) {
        assert!(text.contains(&format!("{}", frames.len())), "{text}");
    }
}

#[test]
fn what_cannot_be_written_is_an_error() {
    let mut writer = Writer::new(Vec::new(), "").unwrap();
    let packet = Packet {
        interface: 0,
        time_ns: 0,
        wire_length: 0,
        bytes: &[1; 60],
        comment: "",
    };
    assert!(matches!(
        writer.write(&packet),
        Err(WriteError::UnknownInterface(0))
    ));
    let long = "é".repeat(40_000);
    writer
        .add_interface(&Interface {
            filter: long.clone(),
            ..hop(&long, 1)
        })
        .unwrap();
    writer
        .write(&Packet {
            comment: &long,
            ..packet
        })
        .unwrap();
    let bytes = writer.finish().unwrap();
    // The name, an option of number 2, is cut to what fits.
    let is_name = |word: &[u8]| word == [0, 2, 0xff, 0xfc] || word == [2, 0, 0xfc, 0xff];
    assert!(bytes.windows(4).any(is_name));
    let mut capture = read(bytes);
    let frames = capture.frames().unwrap();
    assert_eq!(frames[0].wire_length, 60, "at least the captured bytes");
    assert_eq!(capture.interfaces()[0].name.len(), 256);
    struct Full;
    impl std::io::Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    assert!(matches!(Writer::new(Full, ""), Err(WriteError::Io(_))));
}
