//! Captures written by hand, byte for byte, in either byte order.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

pub(crate) const MICROSECONDS: u32 = 0xa1b2_c3d4;
pub(crate) const NANOSECONDS: u32 = 0xa1b2_3c4d;
pub(crate) const MODIFIED: u32 = 0xa1b2_cd34;

/// Numbers in one byte order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    Little,
    Big,
}

pub(crate) const ORDERS: [Order; 2] = [Order::Little, Order::Big];

impl Order {
    pub(crate) fn half(self, value: u16) -> [u8; 2] {
        match self {
            Self::Little => value.to_le_bytes(),
            Self::Big => value.to_be_bytes(),
        }
    }

    pub(crate) fn word(self, value: u32) -> [u8; 4] {
        match self {
            Self::Little => value.to_le_bytes(),
            Self::Big => value.to_be_bytes(),
        }
    }

    pub(crate) fn long(self, value: u64) -> [u8; 8] {
        match self {
            Self::Little => value.to_le_bytes(),
            Self::Big => value.to_be_bytes(),
        }
    }

    fn words(self, values: &[u32]) -> Vec<u8> {
        values.iter().flat_map(|value| self.word(*value)).collect()
    }
}

/// Bytes of a packet that differ by number.
pub(crate) fn packet(number: u32, length: usize) -> Vec<u8> {
    (0..length)
        .map(|at| (number as usize * 7 + at) as u8)
        .collect()
}

/// The header of a pcap file of version 2.4.
pub(crate) fn pcap_header(order: Order, magic: u32, snap_length: u32, link_type: u32) -> Vec<u8> {
    let mut out = order.word(magic).to_vec();
    out.extend(order.half(2));
    out.extend(order.half(4));
    out.extend(order.words(&[0, 0, snap_length, link_type]));
    out
}

/// A record of a pcap file; `modified` adds what the modified format has in its header.
pub(crate) fn pcap_record(
    order: Order,
    is_modified: bool,
    (seconds, fraction): (u32, u32),
    wire_length: u32,
    bytes: &[u8],
) -> Vec<u8> {
    let mut out = order.words(&[seconds, fraction, bytes.len() as u32, wire_length]);
    if is_modified {
        out.extend([9, 9, 9, 9, 8, 8, 7, 7]);
    }
    out.extend(bytes);
    out
}

/// A pcap file of so many small frames, a millisecond apart.
pub(crate) fn pcap(count: u32) -> Vec<u8> {
    let order = Order::Little;
    let mut out = pcap_header(order, MICROSECONDS, 65_535, 1);
    for number in 1..=count {
        let length = 14 + number as usize % 90;
        let (bytes, time) = (packet(number, length), (1_700_000_000 + number, number));
        out.extend(pcap_record(order, false, time, length as u32 + 5, &bytes));
    }
    out
}

/// A block of pcapng with its lengths; the body is padded.
pub(crate) fn block(order: Order, kind: u32, body: &[u8]) -> Vec<u8> {
    let padded = body.len().next_multiple_of(4);
    let total = (padded + 12) as u32;
    let mut out = order.words(&[kind, total]);
    out.extend(body);
    out.resize(8 + padded, 0);
    out.extend(order.word(total));
    out
}

/// An option; the value is padded.
pub(crate) fn option(order: Order, number: u16, value: &[u8]) -> Vec<u8> {
    let mut out = order.half(number).to_vec();
    out.extend(order.half(value.len() as u16));
    out.extend(value);
    out.resize(4 + value.len().next_multiple_of(4), 0);
    out
}

/// A section header of unknown length.
pub(crate) fn section(order: Order, options: &[u8]) -> Vec<u8> {
    let mut body = order.word(0x1a2b_3c4d).to_vec();
    body.extend(order.half(1));
    body.extend(order.half(0));
    body.extend(order.long(u64::MAX));
    body.extend(options);
    block(order, 0x0a0d_0d0a, &body)
}

/// An interface description.
pub(crate) fn interface(order: Order, link_type: u16, snap_length: u32, options: &[u8]) -> Vec<u8> {
    let mut body = order.half(link_type).to_vec();
    body.extend(order.half(0));
    body.extend(order.word(snap_length));
    body.extend(options);
    block(order, 1, &body)
}

/// An enhanced packet.
pub(crate) fn enhanced(
    order: Order,
    interface: u32,
    units: u64,
    wire_length: u32,
    bytes: &[u8],
    options: &[u8],
) -> Vec<u8> {
    let (high, low) = ((units >> 32) as u32, units as u32);
    let mut body = order.words(&[interface, high, low, bytes.len() as u32, wire_length]);
    body.extend(bytes);
    body.resize(body.len().next_multiple_of(4), 0);
    body.extend(options);
    block(order, 6, &body)
}

/// An obsolete packet block.
pub(crate) fn obsolete(
    order: Order,
    interface: u16,
    units: u64,
    wire_length: u32,
    bytes: &[u8],
) -> Vec<u8> {
    let (high, low) = ((units >> 32) as u32, units as u32);
    let mut body = order.half(interface).to_vec();
    body.extend(order.half(3));
    body.extend(order.words(&[high, low, bytes.len() as u32, wire_length]));
    body.extend(bytes);
    block(order, 2, &body)
}

/// A simple packet.
pub(crate) fn simple(order: Order, wire_length: u32, bytes: &[u8]) -> Vec<u8> {
    let mut body = order.word(wire_length).to_vec();
    body.extend(bytes);
    block(order, 3, &body)
}

/// A pcapng file with two sections of both byte orders, two interfaces each, all kinds of packet
/// blocks and some blocks that are passed over.
pub(crate) fn pcapng() -> Vec<u8> {
    let mut out = Vec::new();
    for order in ORDERS {
        out.extend(section(order, &option(order, 1, b"a comment")));
        let nanoseconds = [option(order, 2, b"eth0"), option(order, 9, &[9])].concat();
        out.extend(interface(order, 1, 64, &nanoseconds));
        let halves = [option(order, 9, &[0x81]), option(order, 2, b"tun")].concat();
        out.extend(interface(order, 101, 0, &halves));
        out.extend(block(order, 4, &[0; 20]));
        out.extend(enhanced(
            order,
            0,
            1_700_000_000_000_000_007,
            99,
            &packet(1, 31),
            &[],
        ));
        let comment = option(order, 1, b"of a packet");
        out.extend(enhanced(
            order,
            1,
            3_400_000_001,
            20,
            &packet(2, 20),
            &comment,
        ));
        out.extend(block(order, 0x0bad, b"custom"));
        out.extend(obsolete(order, 1, 3_400_000_003, 21, &packet(3, 21)));
        out.extend(block(order, 0x7777, &packet(9, 300)));
        out.extend(simple(order, 1500, &packet(4, 64)));
        out.extend(block(order, 10, b"secrets"));
    }
    out
}

/// A translation as captures of the daemon carry it, of a client by number.
pub(crate) fn note(client: u32) -> Vec<u8> {
    let [_, a, b, c] = client.to_be_bytes();
    format!(
        "phalanx-translation/1 tcp 10.{a}.{b}.{c}:50000 10.9.0.1:80 192.0.2.1:1025 \
        10.2.0.2:8080 edge-1"
    )
    .into_bytes()
}

/// Interface statistics with comments.
pub(crate) fn statistics(order: Order, interface: u32, comments: &[Vec<u8>]) -> Vec<u8> {
    let mut body = order.words(&[interface, 0, 0]);
    for comment in comments {
        body.extend(option(order, 1, comment));
    }
    block(order, 5, &body)
}

/// A pcapng file with statistics of two interfaces, one of which has a translation among comments
/// that are none, and of an interface that is not there.
pub(crate) fn noted(order: Order) -> Vec<u8> {
    let mut out = section(order, &[]);
    out.extend(interface(order, 1, 64, &[]));
    out.extend(interface(order, 101, 0, &[]));
    out.extend(enhanced(order, 0, 7, 99, &packet(1, 31), &[]));
    let dropped = [
        &order.words(&[0, 0, 0])[..],
        &option(order, 5, &order.long(3)),
    ]
    .concat();
    out.extend(block(order, 5, &dropped));
    let none = [
        b"a remark".to_vec(),
        [&note(1)[..], b"<b>"].concat(),
        note(1)[..30].to_vec(),
        note(1).to_ascii_uppercase(),
        Vec::new(),
    ];
    out.extend(statistics(
        order,
        0,
        &[&none[..], &[note(1), note(1)]].concat(),
    ));
    out.extend(statistics(order, 1, &none));
    out.extend(statistics(order, 2, &[note(2)]));
    out
}

/// A snoop file of so many frames.
pub(crate) fn snoop(count: u32) -> Vec<u8> {
    let order = Order::Big;
    let mut out = b"snoop\0\0\0".to_vec();
    out.extend(order.words(&[2, 4]));
    for number in 1..=count {
        let bytes = packet(number, 14 + number as usize % 40);
        let padded = bytes.len().next_multiple_of(4);
        let (captured, total) = (bytes.len() as u32, padded as u32 + 24);
        out.extend(order.words(&[captured + 1, captured, total, 0, 1_700_000_000, number]));
        out.extend(&bytes);
        out.resize(out.len() + padded - bytes.len(), 0);
    }
    out
}

/// Compressed as so many members of gzip.
pub(crate) fn gzip(bytes: &[u8], member_count: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for piece in bytes.chunks(bytes.len().div_ceil(member_count).max(1)) {
        let mut encoder = GzEncoder::new(&mut out, Compression::fast());
        encoder.write_all(piece).unwrap();
        encoder.finish().unwrap();
    }
    out
}

/// Compressed as so many frames of zstd, each with a checksum.
pub(crate) fn zstd(bytes: &[u8], frame_count: usize) -> Vec<u8> {
    let pieces = bytes.chunks(bytes.len().div_ceil(frame_count).max(1));
    let compressed = pieces.map(|piece| compress_to_vec(piece, CompressionLevel::Fastest));
    compressed.collect::<Vec<_>>().concat()
}
