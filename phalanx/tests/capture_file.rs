//! Captures of every format are read as they were written, up to the damage where they have some.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use phalanx::capture_file::{
    self, CaptureFile, Chunk, Damage, Fault, Interface, Notes, OpenError, OpenOptions,
};

#[path = "capture_file/builder.rs"]
mod builder;
use builder::{MICROSECONDS, MODIFIED, NANOSECONDS, ORDERS, Order};

#[derive(Debug, Clone, PartialEq, Eq)]
struct Frame {
    number: u64,
    time_ns: i64,
    wire_length: u32,
    interface: u32,
    bytes: Vec<u8>,
}

/// What a capture gave.
#[derive(Debug, PartialEq, Eq)]
struct Read {
    frames: Vec<Frame>,
    interfaces: Vec<Interface>,
    notes: Notes,
    damage: Option<Damage>,
}

fn drain(mut capture: CaptureFile) -> Read {
    let (mut frames, mut chunk) = (Vec::new(), Chunk::new());
    while capture.read_chunk(&mut chunk).unwrap() {
        frames.extend(chunk.iter().map(|(at, bytes)| Frame {
            number: at.number,
            time_ns: at.time_ns,
            wire_length: at.wire_length,
            interface: at.interface,
            bytes: bytes.to_vec(),
        }));
    }
    assert!(
        !capture.read_chunk(&mut chunk).unwrap(),
        "ended, and goes on"
    );
    Read {
        frames,
        interfaces: capture.interfaces().to_vec(),
        notes: *capture.notes(),
        damage: capture.damage().copied(),
    }
}

fn open(bytes: &[u8]) -> Result<CaptureFile, OpenError> {
    CaptureFile::from_reader("memory", Cursor::new(bytes.to_vec()))
}

fn read(bytes: &[u8]) -> Read {
    drain(open(bytes).unwrap())
}

/// A file in the folder for temporary files, removed when dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str, bytes: &[u8]) -> Self {
        let file = format!("phalanx-capture-file-{name}-{}", std::process::id());
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

#[test]
fn pcap_of_every_kind() {
    for order in ORDERS {
        for (magic, unit_ns) in [(MICROSECONDS, 1000), (NANOSECONDS, 1), (MODIFIED, 1000)] {
            // The upper half: a frame check sequence of four bytes.
            let mut file = builder::pcap_header(order, magic, 40, 0x2400_0071);
            let is_modified = magic == MODIFIED;
            for (time, wire_length, captured) in [
                ((1_700_000_000, 999_999), 60, 40),
                ((u32::MAX, u32::MAX), 10, 50),
            ] {
                let bytes = builder::packet(wire_length, captured);
                let record = builder::pcap_record(order, is_modified, time, wire_length, &bytes);
                file.extend(record);
            }
            let read = read(&file);
            assert_eq!(read.damage, None);
            let [first, second] = &read.frames[..] else {
                panic!("{} frames", read.frames.len());
            };
            let time_ns = 1_700_000_000_000_000_000 + 999_999 * unit_ns;
            assert_eq!((first.number, first.time_ns), (1, time_ns));
            assert_eq!(
                (first.wire_length, &first.bytes),
                (60, &builder::packet(60, 40))
            );
            let most = i64::from(u32::MAX);
            assert_eq!(second.time_ns, most * 1_000_000_000 + most * unit_ns);
            assert_eq!((second.number, second.bytes.len()), (2, 50));
            assert_eq!(
                (
                    read.notes.longer_than_wire,
                    read.notes.longer_than_snap_length
                ),
                (1, 1)
            );
            assert_eq!(read.interfaces[0].link_type, 113);
            assert_eq!(read.interfaces[0].snap_length, 40);
        }
    }
}

#[test]
fn lengths_of_old_versions_are_the_other_way_round() {
    for (minor, is_swapped) in [(2, true), (3, true), (4, false)] {
        let mut file = builder::pcap_header(Order::Little, MICROSECONDS, 96, 1);
        file[6] = minor;
        let lengths = if is_swapped { [1500, 20] } else { [20, 1500] };
        for word in [1, 2, lengths[0], lengths[1]] {
            file.extend(u32::to_le_bytes(word));
        }
        file.extend(builder::packet(1, 20));
        let read = read(&file);
        assert_eq!(
            (read.frames[0].wire_length, read.frames[0].bytes.len()),
            (1500, 20)
        );
        assert_eq!(read.damage, None);
    }
}

#[test]
fn pcapng_with_sections_of_both_orders() {
    let read = read(&builder::pcapng());
    assert_eq!(read.damage, None);
    let seen: Vec<_> = read
        .frames
        .iter()
        .map(|frame| {
            (
                frame.number,
                frame.interface,
                frame.time_ns,
                frame.wire_length,
            )
        })
        .collect();
    let expected = |first: u64, interface: u32| {
        [
            (first, interface, 1_700_000_000_000_000_007, 99),
            (first + 1, interface + 1, 1_700_000_000_500_000_000, 20),
            (first + 2, interface + 1, 1_700_000_001_500_000_000, 21),
            (first + 3, interface, 0, 1500),
        ]
    };
    assert_eq!(seen, [expected(1, 0), expected(5, 2)].concat());
    for (index, frame) in read.frames.iter().enumerate() {
        let length = [31, 20, 21, 64][index % 4];
        assert_eq!(frame.bytes, builder::packet(index as u32 % 4 + 1, length));
    }
    let names: Vec<_> = read
        .interfaces
        .iter()
        .map(|interface| (&*interface.name, interface.link_type, interface.section))
        .collect();
    assert_eq!(
        names,
        [
            ("eth0", 1, 0),
            ("tun", 101, 0),
            ("eth0", 1, 1),
            ("tun", 101, 1)
        ]
    );
    let notes = Notes {
        sections: 2,
        comments: 4,
        other_blocks: 6,
        unknown_blocks: 2,
        without_time: 2,
        snap_length_zero: 2,
        ..Notes::default()
    };
    assert_eq!(read.notes, notes);
}

#[test]
fn options_of_interfaces() {
    for order in ORDERS {
        let mut file = builder::section(order, &[]);
        let options = [
            builder::option(order, 2, b"wlan0"),
            builder::option(order, 3, b"the radio"),
            builder::option(order, 11, b"\0tcp port 80"),
            builder::option(order, 14, &order.long((-1_700_000_000_i64).cast_unsigned())),
            builder::option(order, 0, &[]),
            builder::option(order, 2, b"behind the end"),
        ];
        file.extend(builder::interface(order, 127, 256, &options.concat()));
        let drops = [
            builder::option(order, 5, &order.long(40)),
            builder::option(order, 7, &order.long(2)),
        ];
        let body = [&[0; 12][..], &drops.concat()].concat();
        file.extend(builder::enhanced(
            order,
            0,
            1_699_999_999_000_001,
            60,
            &[1; 60],
            &builder::option(order, 4, &order.long(5)),
        ));
        file.extend(builder::enhanced(order, 0, u64::MAX, 60, &[1; 60], &[]));
        file.extend(builder::enhanced(order, 7, 0, 60, &[1; 60], &[]));
        file.extend(builder::block(order, 5, &body));
        let read = read(&file);
        assert_eq!(read.damage, None);
        let expected = Interface {
            name: "wlan0".into(),
            description: "the radio".into(),
            filter: "tcp port 80".into(),
            link_type: 127,
            snap_length: 256,
            section: 0,
            dropped: Some(42),
            dropped_between: 5,
            translations: BTreeMap::new(),
        };
        assert_eq!(read.interfaces, [expected]);
        assert_eq!(read.frames[0].time_ns, -999_999_000);
        assert_eq!(read.frames[1].time_ns, i64::MAX);
        assert_eq!(read.frames.len(), 2);
        assert_eq!(
            (read.notes.negative_time, read.notes.unknown_interface),
            (1, 1)
        );
    }
}

#[test]
fn translations_are_read_strictly_and_so_many() {
    const MAX: u32 = 16_384;
    for order in ORDERS {
        let read = read(&builder::noted(order));
        assert_eq!(read.damage, None);
        assert_eq!(read.interfaces[0].dropped, Some(3));
        let told = read.interfaces.iter().map(|it| {
            let hosts = it.translations.values().map(String::as_str);
            hosts.collect::<Vec<&str>>()
        });
        assert_eq!(told.collect::<Vec<_>>(), [vec!["edge-1"], vec![]]);
    }
    let order = Order::Little;
    let mut file = builder::section(order, &[]);
    file.extend(builder::interface(order, 1, 0, &[]));
    for part in 0..2 {
        let notes: Vec<Vec<u8>> = (0..MAX / 2 + 8)
            .map(|number| builder::note(part * 100_000 + number))
            .collect();
        file.extend(builder::statistics(order, 0, &notes));
    }
    let read = read(&file);
    assert_eq!(read.interfaces[0].translations.len(), MAX as usize);
    assert_eq!(read.notes.surplus_translations, 16);
}

#[test]
fn snoop_frames() {
    let read = read(&builder::snoop(50));
    assert_eq!((read.frames.len(), read.damage), (50, None));
    assert_eq!(read.interfaces[0].link_type, 1);
    let last = &read.frames[49];
    assert_eq!(last.time_ns, 1_700_000_000_000_050_000);
    assert_eq!(
        (last.wire_length, &last.bytes),
        (25, &builder::packet(50, 24))
    );
}

/// A pcap file of several chunks, some of whose frames are longer than a chunk.
fn long_pcap() -> Vec<u8> {
    let mut file = builder::pcap(5000);
    for (number, length) in [(1, 300_000), (2, 1 << 20), (3, 60)] {
        let bytes = builder::packet(number, length);
        file.extend(builder::pcap_record(
            Order::Little,
            false,
            (9, 9),
            9,
            &bytes,
        ));
    }
    file.extend(&builder::pcap(3000)[24..]);
    file
}

#[test]
fn compressed_as_plain() {
    let plain = long_pcap();
    let expected = read(&plain);
    assert_eq!((expected.frames.len(), expected.damage), (8003, None));
    for compressed in [
        builder::gzip(&plain, 1),
        builder::gzip(&plain, 100),
        builder::zstd(&plain, 1),
        builder::zstd(&plain, 100),
        [builder::gzip(&plain, 2), vec![0; 700]].concat(),
        [
            &[0x5f, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3][..],
            &builder::zstd(&plain, 1),
        ]
        .concat(),
    ] {
        assert!(
            read(&compressed) == expected,
            "differs from what was compressed"
        );
    }
}

#[test]
fn compressed_by_the_programs() {
    let file = Scratch::new("to-compress", &long_pcap());
    let expected = read(&fs::read(&file.0).unwrap());
    for (program, options) in [
        ("gzip", &["-9"][..]),
        ("zstd", &["-1"]),
        ("zstd", &["-19"]),
        ("zstd", &["-3", "--no-check", "--no-content-size"]),
    ] {
        let output = Command::new(program)
            .args(options)
            .arg("-c")
            .arg(&file.0)
            .output();
        let Ok(output) = output else {
            println!("SKIPPED: {program} is not installed");
            continue;
        };
        assert!(read(&output.stdout) == expected, "{program} {options:?}");
    }
}

#[test]
fn windows_of_zstd_are_bounded() {
    // A window of 1 GiB: exponent 20.
    let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 20 << 3, 0x01, 0x00, 0x00];
    let error = open(&frame).err().unwrap().to_string();
    assert!(
        error.contains("the zstd window is 1024 MiB, 8 at most"),
        "{error}"
    );
    let late = [builder::zstd(&builder::pcap(30), 1), frame.to_vec()].concat();
    let read = read(&late);
    assert_eq!(read.frames.len(), 30);
    assert_eq!(
        read.damage.unwrap().fault,
        Fault::ZstdWindow { megabytes: 1024 }
    );
}

#[test]
fn damaged_compression_gives_all_before_it() {
    let plain = builder::pcap(6000);
    let expected = read(&plain).frames;
    for (name, compress) in [
        ("gzip", builder::gzip as fn(&[u8], usize) -> Vec<u8>),
        ("zstd", builder::zstd),
    ] {
        let whole = compress(&plain, 3);
        for cut in [whole.len() / 2, whole.len() - 1] {
            let read = read(&whole[..cut]);
            let damage = read.damage.unwrap();
            assert_eq!(damage.fault, Fault::CompressedCutOff, "{name}");
            assert!(expected.starts_with(&read.frames), "{name}");
            assert!(read.frames.len() > 1500, "{name}: {}", read.frames.len());
            assert_eq!(damage.frame_count, read.frames.len() as u64);
        }
        let mut wrong_checksum = whole.clone();
        let last = whole.len() - 1 - usize::from(name == "gzip") * 4;
        wrong_checksum[last] ^= 1;
        let damage = read(&wrong_checksum).damage.unwrap();
        assert!(
            matches!(damage.fault, Fault::Checksum | Fault::Compressed),
            "{name}"
        );
        assert_eq!(
            (damage.frame_count, damage.offset),
            (6000, plain.len() as u64)
        );
        let behind = read(&[&whole[..], b"more than that"].concat());
        assert_eq!(
            behind.damage.unwrap().fault,
            Fault::BehindCompressed,
            "{name}"
        );
        assert_eq!(behind.frames.len(), 6000);
    }
}

#[test]
fn cut_at_every_byte() {
    for (name, file) in [
        ("pcap", builder::pcap(20)),
        ("pcapng", builder::pcapng()),
        ("snoop", builder::snoop(20)),
    ] {
        let whole = read(&file);
        let mut ends = Vec::new();
        for length in 0..=file.len() {
            let capture = match open(&file[..length]) {
                Ok(capture) => capture,
                Err(OpenError::Empty { .. }) => {
                    assert_eq!(length, 0);
                    continue;
                }
                Err(error) => {
                    assert!(length < 24, "{name}, {length} bytes: {error}");
                    continue;
                }
            };
            let read = drain(capture);
            assert!(
                whole.frames.starts_with(&read.frames),
                "{name}, {length} bytes"
            );
            match read.damage {
                None => ends.push((length as u64, read.frames.len() as u64)),
                Some(damage) => {
                    let good = ends.last().copied().unwrap_or((0, 0));
                    assert_eq!(
                        (damage.offset, damage.frame_count),
                        good,
                        "{name}, {length}"
                    );
                    let Fault::CutOff { present, needed } = damage.fault else {
                        panic!("{name}: {damage}");
                    };
                    assert_eq!(present, length as u64 - good.0);
                    assert!(needed > present, "{name}: {damage}");
                }
            }
        }
        assert_eq!(
            ends.last(),
            Some(&(file.len() as u64, whole.frames.len() as u64))
        );
    }
}

#[test]
fn lengths_that_lie() {
    let order = Order::Little;
    let start = [
        builder::section(order, &[]),
        builder::interface(order, 1, 0, &[]),
    ]
    .concat();
    let good = builder::enhanced(order, 0, 1, 60, &[1; 60], &[]);
    let offset = (start.len() + good.len()) as u64;
    let damaged = |change: &dyn Fn(&mut Vec<u8>), expected: Fault| {
        let mut bad = builder::enhanced(order, 0, 2, 60, &[2; 60], &[]);
        change(&mut bad);
        let damage = read(&[&start[..], &good, &bad, &good].concat())
            .damage
            .unwrap();
        let frame_count = 1;
        assert_eq!(
            damage,
            Damage {
                offset,
                frame_count,
                fault: expected
            }
        );
    };
    damaged(&|block| block[4] = 8, Fault::BlockLength { total: 8 });
    damaged(&|block| block[4] = 93, Fault::BlockLength { total: 93 });
    damaged(
        &|block| block[7] = 1,
        Fault::BlockTooLong { total: 0x0100_005c },
    );
    damaged(
        &|block| block[88] = 96,
        Fault::LengthsDisagree {
            first: 92,
            last: 96,
        },
    );
    damaged(
        &|block| block[20] = 61,
        Fault::CapturedBeyondBlock {
            captured: 61,
            total: 92,
        },
    );
    damaged(
        &|block| block[23] = 1,
        Fault::FrameTooLong {
            captured: 0x0100_003c,
        },
    );
    damaged(
        &|block| {
            block.splice(.., builder::section(order, &[]));
            block[8] = 0;
        },
        Fault::SectionMagic,
    );
    damaged(
        &|block| {
            block.splice(.., builder::block(order, 0x99, &[0; 8]));
            block[16] = 24;
        },
        Fault::LengthsDisagree {
            first: 20,
            last: 24,
        },
    );

    let mut pcap = builder::pcap(3);
    let offset = pcap.len() as u64;
    pcap.extend(builder::pcap_record(order, false, (1, 1), 9, &[]));
    let captured = (1 << 20) + 1;
    pcap[offset as usize + 8..][..4].copy_from_slice(&u32::to_le_bytes(captured));
    let fault = Fault::FrameTooLong { captured };
    let frame_count = 3;
    assert_eq!(
        read(&pcap).damage,
        Some(Damage {
            offset,
            frame_count,
            fault
        })
    );
    let text = read(&pcap).damage.unwrap().to_string();
    let expected = format!(
        "damaged at byte {offset}, after frame 3: a packet claims 1048577 bytes, 1048576 at most \
         are taken for real"
    );
    assert_eq!(text, expected);
}

#[test]
fn blocks_of_any_length_are_passed_over() {
    let order = Order::Big;
    let packet = builder::enhanced(order, 0, 1, 60, &[1; 60], &[]);
    let mut file = builder::section(order, &[]);
    file.extend(builder::interface(order, 1, 0, &[]));
    for length in [0, 4, 262_100, 262_144, 5 << 20] {
        file.extend(&packet);
        file.extend(builder::block(order, 0x0bad, &vec![7; length]));
    }
    file.extend(&packet);
    let read = read(&file);
    assert_eq!((read.frames.len(), read.damage), (6, None));
    assert_eq!(read.notes.other_blocks, 5);
}

#[test]
fn a_million_interfaces() {
    let order = Order::Little;
    let mut file = builder::section(order, &[]);
    let name = builder::option(order, 2, &[b'x'; 600]);
    for number in 0..1_000_000 {
        let options = if number < 65_536 { &name[..] } else { &[] };
        file.extend(builder::interface(order, 1, 96, options));
    }
    for interface in [0, 65_535, 65_536, 999_999, 1_000_000, u32::MAX] {
        file.extend(builder::enhanced(order, interface, 1, 60, &[1; 60], &[]));
    }
    let begun = Instant::now();
    let read = drain(CaptureFile::from_reader("memory", Cursor::new(file)).unwrap());
    println!("{:?}", begun.elapsed());
    assert_eq!(read.damage, None);
    assert_eq!(read.interfaces.len(), 65_536);
    let text_bytes: usize = read.interfaces.iter().map(|one| one.name.len()).sum();
    assert_eq!((read.interfaces[0].name.len(), text_bytes), (256, 4 << 20));
    let numbers: Vec<_> = read.frames.iter().map(|frame| frame.interface).collect();
    assert_eq!(numbers, [0, 65_535]);
    assert_eq!(read.notes.surplus_interfaces, 1_000_000 - 65_536);
    assert_eq!(
        (read.notes.surplus_interface, read.notes.unknown_interface),
        (2, 2)
    );
}

#[test]
fn what_is_no_capture_is_refused_with_a_remedy() {
    for (bytes, expected) in [
        (&b""[..], "memory is empty"),
        (
            b"GET / HTTP/1.1\r\nHost: here\r\n",
            "first bytes are unknown",
        ),
        (b"\xfd7zXZ\0 and so on and so on and on", "xz -dc"),
        (
            &builder::gzip(&builder::gzip(&builder::pcap(1), 1), 1),
            "compressed twice",
        ),
        (
            &builder::gzip(b"a text that is none of them", 1),
            "what is compressed in it is none",
        ),
        (&builder::gzip(&[], 1), "is empty"),
        (b"ab", "too short"),
        (&builder::pcap(1)[..23], "ends inside its file header"),
        (&builder::pcapng()[..20], "ends inside its file header"),
        (b"snoop\0\0\0\0\0\0\x02", "ends inside its file header"),
        (
            b"snoop\0\0\0\0\0\0\x03\0\0\0\x04",
            "version 3 of the snoop format",
        ),
        (
            b"\x0a\x0d\x0d\x0a\x20\0\0\0\x44\x44\x44\x44\0\0\0\0\0\0\0\0\0\0\0\0",
            "byte order",
        ),
    ] {
        let error = open(bytes).err().unwrap().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let mut version = builder::pcap(1);
    version[6] = 9;
    let error = open(&version).err().unwrap().to_string();
    assert!(error.contains("version 2.9 of the pcap format"), "{error}");
    for path in ["/nonexistent/file.pcap", "/"] {
        let opened = capture_file::open(Path::new(path), &OpenOptions::default());
        let error = opened.err().unwrap();
        assert!(matches!(error, OpenError::Io { .. }), "{error}");
        assert_eq!(error.to_string(), format!("read {path}"));
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains("os error"), "{source}");
    }
}

const CHILD: &str = "PHALANX_TEST_READS_STANDARD_INPUT";

#[test]
fn standard_input_as_a_path() {
    if std::env::var_os(CHILD).is_some() {
        let capture = capture_file::open(Path::new("-"), &OpenOptions::default()).unwrap();
        assert_eq!(
            capture.size().is_some(),
            std::env::var(CHILD).unwrap() == "file"
        );
        let read = drain(capture);
        assert_eq!((read.frames.len(), read.damage), (8003, None));
        return;
    }
    let this = std::env::current_exe().unwrap();
    let child = |kind: &str| {
        let mut command = Command::new(&this);
        command
            .args(["--exact", "standard_input_as_a_path"])
            .env(CHILD, kind);
        command
    };
    for bytes in [
        long_pcap(),
        builder::gzip(&long_pcap(), 3),
        builder::zstd(&long_pcap(), 3),
    ] {
        let file = Scratch::new("standard-input", &bytes);
        let opened = fs::File::open(&file.0).unwrap();
        assert!(child("file").stdin(opened).status().unwrap().success());
        let mut piped = child("pipe").stdin(Stdio::piped()).spawn().unwrap();
        std::io::Write::write_all(&mut piped.stdin.take().unwrap(), &bytes).unwrap();
        assert!(piped.wait().unwrap().success());
    }
}

#[test]
fn progress_is_of_the_file_as_it_lies_on_disk() {
    let bytes = builder::gzip(&long_pcap(), 2);
    let file = Scratch::new("progress", &bytes);
    let mut capture = capture_file::open(&file.0, &OpenOptions::default()).unwrap();
    assert_eq!(capture.size(), Some(bytes.len() as u64));
    let mut chunk = Chunk::new();
    while capture.read_chunk(&mut chunk).unwrap() {
        assert!(capture.bytes_read() <= bytes.len() as u64);
    }
    assert_eq!(capture.bytes_read(), bytes.len() as u64);
}
