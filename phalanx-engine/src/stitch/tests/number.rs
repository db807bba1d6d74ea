//! Sequence numbers that come round, and initial ones that others make up.

use phalanx_common::packet::{Encapsulation, Headers, TcpFlags, TcpOptions, protocol};

use super::{hops, trail};
use crate::record::PacketRecord;
use crate::segment::{Marks, Segment};
use crate::side::Side;
use crate::stitch::stitch;
use crate::stitch::trail::Trail;

/// A transfer of 6 GiB, of which every 16 MiB one segment was kept.
fn long_transfer(hop: u32) -> Trail {
    let mut trail = trail(hop, 40_000, 0, 400, |_| false);
    let mebibytes = |index: usize| (index as u32).wrapping_mul(16 << 20);
    for (index, crossing) in trail.crossings.client.iter_mut().enumerate() {
        crossing.sequence = mebibytes(index).wrapping_add(1_000);
    }
    for (index, crossing) in trail.crossings.server.iter_mut().enumerate() {
        crossing.acknowledgement = mebibytes(index).wrapping_add(1_100);
    }
    trail
}

#[test]
fn a_capture_that_begins_far_into_a_transfer_is_placed() {
    for begin in [50, 90, 130, 150, 260, 300] {
        for is_first in [false, true] {
            let mut late = long_transfer(1 - u32::from(is_first));
            late.crossings.client.drain(..begin);
            late.crossings.server.drain(..begin);
            let mut trails = vec![late, long_transfer(u32::from(is_first))];
            trails.sort_by_key(|it| it.hop);
            let stitched = stitch(trails, &hops(2));
            assert_eq!(stitched.conversations.len(), 1, "{begin}");
            let leg = &stitched.conversations[0].legs[0];
            for way in [&leg.forward, &leg.reverse] {
                let way = way.as_ref().expect("seen");
                assert_eq!(way.packets, 400, "{begin}: {way:?}");
                assert_eq!(way.delay.count(), 400 - begin as u64, "{begin}: {way:?}");
            }
        }
    }
}

fn segment(side: Side) -> Segment {
    Segment {
        number: 1,
        time_ns: 0,
        flow: 1,
        protocol: protocol::TCP,
        side,
        class: None,
        why: "",
        marks: Marks::default(),
        flags: 0,
        sequence: None,
        length: 0,
        acknowledgement: None,
        window: None,
        acknowledged_frame: None,
        rtt_ns: None,
        flight: None,
        repeats_frame: None,
    }
}

/// What a trail takes the initial numbers for, of packets: side, flags, sequence and
/// acknowledgement number.
fn initial(packets: &[(Side, u8, u32, u32)]) -> [Option<u32>; 2] {
    let mut found: Option<Trail> = None;
    for (side, flags, sequence, acknowledgement) in packets {
        let headers = Headers {
            protocol: protocol::TCP,
            tcp_flags: TcpFlags(*flags),
            sequence: *sequence,
            acknowledgement: *acknowledgement,
            ..Headers::default()
        };
        let record = PacketRecord {
            hop: 0,
            number: 1,
            time_ns: 0,
            wire_length: 54,
            bytes: &[],
            headers: &headers,
            options: &TcpOptions::default(),
            encapsulation: Encapsulation::default(),
            fragment_count: 0,
        };
        let segment = segment(*side);
        let trail = found.get_or_insert_with(|| Trail::new(&record, &segment));
        assert!(trail.push(&record, &segment));
    }
    let trail = found.expect("packets");
    [trail.initial.client, trail.initial.server]
}

#[test]
fn only_what_is_acknowledged_moves_an_initial_number() {
    const SYN: u8 = TcpFlags::SYN;
    const SYN_ACK: u8 = TcpFlags::SYN | TcpFlags::ACK;
    let open = [
        (Side::Client, SYN, 100, 0),
        (Side::Server, SYN_ACK, 900, 101),
    ];
    let with = |more: &[(Side, u8, u32, u32)]| initial(&[&open[..], more].concat());
    let answer = (Side::Client, TcpFlags::ACK, 101, 901);
    let spoofed = (Side::Server, SYN_ACK, 5_555, 101);
    let believed = (Side::Client, TcpFlags::ACK, 101, 5_556);
    let again = (Side::Server, SYN_ACK, 900, 101);
    assert_eq!(with(&[spoofed]), [Some(100), Some(900)]);
    assert_eq!(with(&[answer, spoofed, believed]), [Some(100), Some(900)]);
    assert_eq!(with(&[spoofed, answer, again]), [Some(100), Some(900)]);
    // The first one was the spoofed one.
    assert_eq!(with(&[spoofed, believed]), [Some(100), Some(5_555)]);
}
