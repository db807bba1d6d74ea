//! What Wireshark's rules say of segments that no real stack would send, beside what the installed
//! tshark says of them: the rules meet in every order.

#[path = "support/tshark.rs"]
mod tshark;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use phalanx_common::packet::{Layers, LinkKind};
use phalanx_engine::record::Decoded;
use phalanx_engine::wireshark::{AnalysisFlag, Wireshark};

use tshark::COLUMNS;

const SEED_COUNT: u64 = 3;
const FRAME_COUNT: usize = 6_000;

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// Pseudo-random numbers (PCG's multiplier); the same ones in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u32) -> u32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        ((self.0 >> 33) as u32) % bound
    }

    fn one_in(&mut self, count: u32) -> bool {
        self.below(count) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u32) as usize]
    }
}

struct Frame {
    time_ns: i64,
    /// As captured, of `wire_length`.
    bytes: Vec<u8>,
    wire_length: u32,
}

/// One end of a stream, and what it would send next.
#[derive(Clone, Copy)]
struct Peer {
    address: [u8; 4],
    port: u16,
    next: u32,
    acknowledgement: u32,
    window: u16,
}

struct Sender {
    random: Random,
    time_ns: i64,
    streams: Vec<[Peer; 2]>,
    last: Vec<u8>,
}

impl Sender {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let streams = (0..6)
            .map(|stream: u8| {
                let mut peer = |side: u8| Peer {
                    // The last stream has one address, the one before it one port too.
                    address: [10, 0, 0, if stream >= 4 { 9 } else { 1 + side }],
                    port: 40_000
                        + u16::from(stream) * 10
                        + u16::from(side) * u16::from(stream != 4),
                    next: random.pick(&[0, 1, 1_000, u32::MAX - 2_000, 1 << 31, 77_777]),
                    acknowledgement: 0,
                    window: 1_000,
                };
                [peer(0), peer(1)]
            })
            .collect();
        Self {
            random,
            time_ns: 1_700_000_000_000_000_000,
            streams,
            last: Vec::new(),
        }
    }

    fn options(&mut self, flags: u8, edge: u32) -> Vec<u8> {
        let random = &mut self.random;
        let mut options = Vec::new();
        if (flags & SYN != 0 && !random.one_in(3)) || random.one_in(200) {
            options.extend([1, 3, 3, random.pick(&[0, 1, 2, 7, 14, 15])]);
        }
        if random.one_in(10) {
            let count = 1 + random.below(4) as u8;
            options.extend([1, 1, 5, 2 + 8 * count]);
            for _ in 0..count {
                let left = edge.wrapping_add(random.below(3_000));
                options.extend(left.to_be_bytes());
                options.extend(left.wrapping_add(random.below(2_000)).to_be_bytes());
            }
        }
        if random.one_in(40) && options.len() < 36 {
            options.extend(random.pick(&[
                [0, 0, 0, 0],
                [0, 0, 7, 0],
                [200, 60, 0, 0],
                [9, 0, 0, 0],
            ]));
        }
        options
    }

    fn segment(&mut self) -> Vec<u8> {
        let stream = self.random.below(self.streams.len() as u32) as usize;
        let side = self.random.below(2) as usize;
        let peers = self.streams[stream];
        let (mut from, to) = (peers[side], peers[1 - side]);
        let random = &mut self.random;
        let flags = match random.below(60) {
            0 => SYN,
            1 => SYN | ACK,
            2 => FIN | ACK,
            3 => RST,
            4 => RST | ACK,
            5 => 0,
            6 => FIN,
            _ => ACK,
        };
        let flags = flags | random.pick(&[0, 0, 8]);
        let length = random.pick(&[0, 0, 0, 0, 1, 2, 100, 1_448, 700]);
        let sequence = match random.below(16) {
            0 => from.next.wrapping_sub(1),
            1 => from.next.wrapping_sub(random.below(3_000)),
            2 => from.next.wrapping_add(random.below(3_000)),
            3 if random.one_in(6) => random.below(u32::MAX),
            4 => to.acknowledgement,
            5 => to.acknowledgement.wrapping_sub(length),
            _ => from.next,
        };
        from.acknowledgement = match random.below(12) {
            0..4 => to.next,
            4 => to.next.wrapping_sub(random.below(3_000)),
            5 if random.one_in(3) => to.next.wrapping_add(random.below(3_000)),
            6 if random.one_in(20) => random.below(u32::MAX),
            _ => from.acknowledgement,
        };
        if random.one_in(5) {
            from.window = random.pick(&[0, 0, 1, 100, 1_448, 65_535]);
        }
        // Sometimes to the edge of the peer's window.
        let edge = to.acknowledgement.wrapping_add(to.window.into());
        let is_full = random.one_in(15) && edge.wrapping_sub(sequence) < 4_000;
        let length = if is_full {
            edge.wrapping_sub(sequence)
        } else {
            length
        };
        let end = sequence
            .wrapping_add(length)
            .wrapping_add((flags & (SYN | FIN) != 0).into());
        if end.wrapping_sub(from.next) < 1 << 20 {
            from.next = end;
        }
        self.streams[stream][side] = from;
        let options = self.options(flags, to.acknowledgement);
        let mut tcp = [from.port.to_be_bytes(), to.port.to_be_bytes()].concat();
        tcp.extend(sequence.to_be_bytes());
        tcp.extend(from.acknowledgement.to_be_bytes());
        tcp.extend([(5 + options.len() as u8 / 4) << 4, flags]);
        tcp.extend(from.window.to_be_bytes());
        tcp.extend([0; 4]);
        tcp.extend(options);
        tcp.resize(tcp.len() + length as usize, 0);
        ipv4(from.address, to.address, 6, &tcp)
    }

    fn frame(&mut self) -> Frame {
        let step_ns: i64 = self.random.pick(&[
            0,
            0,
            1_000,
            100_000,
            1_000_000,
            2_999_000,
            3_000_000,
            9_000_000,
            19_999_999,
            20_000_000,
            150_000_000,
            2_000_000_123,
        ]);
        let is_back = self.random.one_in(50);
        self.time_ns += if is_back { -step_ns } else { step_ns };
        let bytes = if self.random.one_in(30) && !self.last.is_empty() {
            let quoted = self
                .random
                .pick(&[28, 36, 40, 44, 60, 576])
                .min(self.last.len());
            let kind = self.random.pick(&[3, 11]);
            let icmp = [&[kind, 1, 0, 0, 0, 0, 0, 0][..], &self.last[..quoted]].concat();
            ipv4([10, 0, 0, 200], [10, 0, 0, 1], 1, &icmp)
        } else {
            self.segment()
        };
        self.last.clone_from(&bytes);
        let wire_length = bytes.len() as u32;
        let mut bytes = bytes;
        if self.random.one_in(20) {
            let header = bytes.len().min(40);
            bytes.truncate(header + self.random.below(30) as usize);
        }
        Frame {
            time_ns: self.time_ns,
            bytes,
            wire_length,
        }
    }
}

fn ipv4(source: [u8; 4], destination: [u8; 4], protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + payload.len()).expect("short");
    let mut packet = vec![0x45, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([0, 1, 0x40, 0, 64, protocol, 0, 0]);
    packet.extend(source);
    packet.extend(destination);
    packet.extend(payload);
    packet
}

fn write(path: &PathBuf, frames: &[Frame]) {
    let mut file = Vec::new();
    for word in [0xa1b2_3c4d_u32, 0x0004_0002, 0, 0, 262_144, 101] {
        file.extend(word.to_le_bytes());
    }
    for frame in frames {
        file.extend(((frame.time_ns / 1_000_000_000) as u32).to_le_bytes());
        file.extend(((frame.time_ns % 1_000_000_000) as u32).to_le_bytes());
        file.extend((frame.bytes.len() as u32).to_le_bytes());
        file.extend(frame.wire_length.to_le_bytes());
        file.extend(&frame.bytes);
    }
    fs::write(path, file).expect("write capture");
}

fn has_tshark(test: &str) -> bool {
    let output = Command::new("tshark").arg("--version").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    if text.is_ok_and(|text| text.contains(" 4.0.")) {
        return true;
    }
    println!("SKIPPED: {test}: needs tshark 4.0");
    false
}

/// What differs between tshark and us; counts what tshark says.
fn compare(frames: &[Frame], flag_counts: &mut [usize]) -> Vec<String> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("phalanx-wireshark-{}-{number}.pcap", std::process::id());
    let path = std::env::temp_dir().join(name);
    write(&path, frames);
    let rows = tshark::run(&path);
    fs::remove_file(&path).expect("remove capture");
    let (mut layers, mut wireshark) = (Layers::default(), Wireshark::new(1));
    let mut differences = Vec::new();
    let mut count = 0;
    for (frame, number) in frames.iter().zip(1..) {
        let (bytes, length) = (frame.bytes.as_slice(), frame.wire_length);
        let decoded = Decoded::of(&mut layers, bytes, LinkKind::None, length);
        let decoded = decoded.expect("whole headers");
        let record = decoded.record(number, frame.time_ns, length, bytes);
        let Some(analysis) = wireshark.handle(&record) else {
            continue;
        };
        let row = &rows[&number];
        count += 1;
        for (flag, count) in AnalysisFlag::ALL.into_iter().zip(&mut *flag_counts) {
            let (theirs, ours) = (row.has(flag), analysis.flags.has(flag));
            *count += usize::from(theirs);
            if theirs != ours {
                differences.push(format!("{number} {}: {theirs}, ours {ours}", flag.name()));
            }
        }
        for column in COLUMNS {
            let (theirs, ours) = (row.value(column), tshark::value(&analysis, column));
            if !tshark::is_equal(column, theirs, ours) {
                differences.push(format!("{number} {column}: {theirs:?}, ours {ours:?}"));
            }
        }
    }
    assert!(count * 10 > frames.len() * 9, "{count} segments");
    differences
}

#[test]
fn random_segments_are_judged_as_tshark_does() {
    if !has_tshark("random_segments_are_judged_as_tshark_does") {
        return;
    }
    let mut flag_counts = [0; AnalysisFlag::ALL.len()];
    for seed in 1..=SEED_COUNT {
        let mut sender = Sender::new(seed);
        let frames: Vec<Frame> = (0..FRAME_COUNT).map(|_| sender.frame()).collect();
        let mut differences = compare(&frames, &mut flag_counts);
        let count = differences.len();
        differences.truncate(20);
        assert!(count == 0, "seed {seed}: {count}: {differences:#?}");
    }
    for (flag, count) in AnalysisFlag::ALL.into_iter().zip(flag_counts) {
        println!("{}: {count}", flag.name());
        assert!(count > 5, "{} hardly occurs", flag.name());
    }
}

#[test]
fn segments_beyond_the_longest_list_are_forgotten_as_tshark_does() {
    if !has_tshark("segments_beyond_the_longest_list_are_forgotten_as_tshark_does") {
        return;
    }
    let mut sender = Sender::new(1);
    let [from, to] = sender.streams[0];
    let mut frames = Vec::new();
    let mut send = |[from, to]: [Peer; 2], sequence: u32, acknowledgement: u32, length: usize| {
        let mut tcp = [from.port.to_be_bytes(), to.port.to_be_bytes()].concat();
        tcp.extend(sequence.to_be_bytes());
        tcp.extend(acknowledgement.to_be_bytes());
        tcp.extend([5 << 4, ACK, 1, 0, 0, 0, 0, 0]);
        tcp.resize(20 + length, 0);
        let bytes = ipv4(from.address, to.address, 6, &tcp);
        sender.time_ns += 1_000_000;
        frames.push(Frame {
            time_ns: sender.time_ns,
            wire_length: bytes.len() as u32,
            bytes,
        });
    };
    for at in 0..10_010 {
        send([from, to], 1 + at * 10, 1, 10);
    }
    // An old segment again, so that the list is not in order; then ACKs of the middle, the last
    // one kept, and the last one sent.
    send([to, from], 1, 5_001, 0);
    send([from, to], 1 + 9_000 * 10, 1, 10);
    for acknowledgement in [20_001, 90_005, 100_001, 100_101] {
        send([to, from], 1, acknowledgement, 0);
        send([from, to], 200_001, 1, 10);
    }
    let differences = compare(&frames, &mut [0; AnalysisFlag::ALL.len()]);
    assert!(differences.is_empty(), "{differences:#?}");
}
