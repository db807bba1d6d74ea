//! Exchanges of whole frames, with their times; a file format for them, and the builders of those
//! that the fuzzer begins from.

use super::conversation::{ACK, FIN, Packet, RST, SYN, Script, Step, Turn};

/// One frame, raw IP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    /// Since the frame before, in microseconds.
    pub(crate) passed_us: i32,
    /// Bytes that were not captured.
    pub(crate) cut: u16,
    pub(crate) bytes: Vec<u8>,
}

/// Bytes before each frame of a file.
const HEAD: usize = 8;

/// The bytes of a file.
pub(crate) fn write(frames: &[Frame]) -> Vec<u8> {
    let mut out = Vec::new();
    for frame in frames {
        let length = u16::try_from(frame.bytes.len()).expect("short frame");
        out.extend(frame.passed_us.to_be_bytes());
        out.extend(frame.cut.to_be_bytes());
        out.extend(length.to_be_bytes());
        out.extend(&frame.bytes);
    }
    out
}

/// The frames of a file, as far as they go.
pub(crate) fn read(mut left: &[u8]) -> Vec<Frame> {
    let mut frames = Vec::new();
    while let Some((head, rest)) = left.split_at_checked(HEAD) {
        let half = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
        let length = usize::from(half(6)).min(rest.len());
        let (bytes, rest) = rest.split_at(length);
        frames.push(Frame {
            passed_us: i32::from_be_bytes([head[0], head[1], head[2], head[3]]),
            cut: half(4),
            bytes: bytes.to_vec(),
        });
        left = rest;
    }
    frames
}

fn frames(packets: &[Packet]) -> Vec<Frame> {
    let mut last_ns = packets.first().map_or(0, |packet| packet.time_ns);
    packets
        .iter()
        .map(|packet| {
            let (bytes, wire_length) = packet.frame();
            let passed_us = (packet.time_ns - last_ns) / 1_000;
            last_ns = packet.time_ns;
            Frame {
                passed_us: i32::try_from(passed_us).expect("short wait"),
                cut: u16::try_from(wire_length as usize - bytes.len()).expect("short frame"),
                bytes,
            }
        })
        .collect()
}

fn script(turns: Vec<(bool, i64, Step)>) -> Vec<Frame> {
    let turn = |(is_server, passed_ms, step)| Turn {
        is_server,
        passed_ns: passed_ms * 1_000_000,
        step,
    };
    let script = Script {
        initial: [u32::MAX - 2_000, 0x7fff_f000],
        start_ns: 0,
        has_timestamps: true,
        has_ids: true,
        is_whole: false,
        is_opened: true,
        turns: turns.into_iter().map(turn).collect(),
    };
    frames(&script.packets())
}

const fn send(length: u16) -> Step {
    Step::Send {
        length,
        is_lost: false,
    }
}

const fn lose(length: u16) -> Step {
    Step::Send {
        length,
        is_lost: true,
    }
}

const fn again(back: u32, length: u16) -> Step {
    Step::Again { back, length }
}

fn ack(back: u32, window: u16, sacks: &[(u32, u32)]) -> Step {
    Step::Ack {
        back,
        window,
        sacks: sacks.to_vec(),
    }
}

/// All that the fuzzer begins from, by name.
pub(crate) fn all() -> Vec<(&'static str, Vec<Frame>)> {
    let (client, server) = (false, true);
    let copy = |is_elsewhere| Step::Copy {
        back: 0,
        is_elsewhere,
    };
    vec![
        (
            "request_answer_close",
            script(vec![
                (client, 1, send(200)),
                (server, 20, ack(0, 1_000, &[])),
                (server, 30, send(1_448)),
                (server, 0, send(700)),
                (client, 10, ack(0, 1_000, &[])),
                (client, 500, Step::Fin),
                (server, 10, Step::Fin),
                (client, 10, ack(0, 1_000, &[])),
            ]),
        ),
        (
            "fast_recovery",
            script(vec![
                (server, 1, lose(1_448)),
                (server, 0, send(1_448)),
                (client, 10, ack(2_896, 1_000, &[(1_448, 0)])),
                (server, 0, send(1_448)),
                (client, 0, ack(4_344, 1_000, &[(2_896, 0)])),
                (server, 0, send(1_448)),
                (client, 0, ack(5_792, 1_000, &[(4_344, 0)])),
                (server, 10, again(5_792, 1_448)),
                (client, 10, ack(0, 1_000, &[])),
            ]),
        ),
        (
            "timeout_needless",
            script(vec![
                (client, 1, send(1_448)),
                (client, 900, again(1_448, 1_448)),
                (server, 1, ack(0, 1_000, &[])),
                (server, 1, ack(0, 1_000, &[(1_448, 0)])),
                (client, 10, Step::Reset { off: 0 }),
            ]),
        ),
        (
            "window",
            script(vec![
                (client, 1, send(1_000)),
                (server, 1, ack(0, 0, &[])),
                (client, 200, send(1)),
                (server, 1, ack(1, 0, &[])),
                (server, 300, ack(1, 500, &[])),
                (client, 1, again(1, 1_000)),
                (client, 7_000, Step::KeepAlive { has_byte: true }),
                (server, 1, ack(0, 500, &[])),
            ]),
        ),
        (
            "copies_and_order",
            script(vec![
                (client, 1, send(100)),
                (client, 0, copy(true)),
                (client, 0, copy(false)),
                (client, 1, lose(100)),
                (client, 0, send(100)),
                (client, 1, again(200, 100)),
                (server, 5, ack(0, 1_000, &[])),
                (client, -3, send(100)),
            ]),
        ),
        (
            "ports_again",
            script(vec![
                (client, 1, Step::Reset { off: 0 }),
                (client, 1, Step::Syn { is_other: true }),
                (server, 1, send(10)),
                (server, 1, Step::Syn { is_other: false }),
                (client, 1, ack(0, 1_000, &[])),
                (client, 1, Step::Jump { by: 1 << 31 }),
                (client, 1, send(100)),
                (client, 1, send(100)),
            ]),
        ),
        ("flags", every_flag()),
        ("unreachable", unreachable()),
        ("datagrams", datagrams()),
    ]
}

fn every_flag() -> Vec<Frame> {
    let flags = [
        SYN | FIN,
        SYN | RST,
        FIN | RST | ACK,
        0,
        0xff,
        SYN | ACK,
        ACK,
    ];
    let packets: Vec<Packet> = flags
        .into_iter()
        .enumerate()
        .map(|(index, flags)| Packet {
            is_server: index % 2 == 1,
            time_ns: index as i64 * 1_000_000,
            flags,
            ttl: 64,
            length: 5,
            is_whole: true,
            ..Packet::default()
        })
        .collect();
    frames(&packets)
}

/// A SYN, and the ICMP error that quotes it.
fn unreachable() -> Vec<Frame> {
    let syn = Packet {
        flags: SYN,
        ttl: 64,
        ..Packet::default()
    };
    let mut out = frames(&[syn]);
    let quoted = out[0].bytes.clone();
    let total = (28 + quoted.len()) as u8;
    let mut error = vec![0x45, 0, 0, total, 0, 0, 0, 0, 60, 1, 0, 0];
    error.extend([10, 0, 0, 9, 10, 0, 0, 1, 3, 4, 0, 0, 0, 0, 5, 0x14]);
    error.extend(quoted);
    out.push(Frame {
        passed_us: 500,
        cut: 0,
        bytes: error,
    });
    out
}

fn datagrams() -> Vec<Frame> {
    let one = |is_answer: bool| {
        let (from, to) = ([10, 0, 0, 1], [10, 0, 0, 2]);
        let mut bytes = vec![0x45, 0, 0, 40, 0, 1, 0, 0, 64, 17, 0, 0];
        bytes.extend(if is_answer { [to, from] } else { [from, to] }.as_flattened());
        bytes.extend(if is_answer {
            [0, 53, 156, 64]
        } else {
            [156, 64, 0, 53]
        });
        bytes.extend([0, 20, 0, 0, 0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        bytes[30] |= if is_answer { 0x80 } else { 0 };
        Frame {
            passed_us: 4_000,
            cut: 0,
            bytes,
        }
    };
    vec![one(false), one(true), one(false), one(true)]
}
