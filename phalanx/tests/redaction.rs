//! Redacted frames: they parse as before up to the addresses, hold none of the old ones, and their
//! checksums are what they were.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "redaction/invariant.rs"]
mod invariant;
#[path = "../../phalanx-common/tests/support/tunnels.rs"]
mod tunnels;

use std::net::IpAddr;

use etherparse::{PacketBuilder, SlicedPacket, TcpOptionElement, TransportSlice};
use invariant::{Ground, holds};
use phalanx::redaction::{Addresses, MASK, Payload, Redactor};
use phalanx_common::packet::Unparsed;
use tunnels::{ethernet, join};

const ETHERNET: u32 = 1;
const CLIENT: [u8; 4] = [203, 0, 113, 77];
const SERVER: [u8; 4] = [198, 51, 100, 88];

fn client_v6() -> [u8; 16] {
    std::array::from_fn(|index| [0x20, 0x01, 0x0d, 0xb8][index & 3] ^ (index as u8 & 0xfc))
}

fn server_v6() -> [u8; 16] {
    std::array::from_fn(|index| [0x26, 0x06, 0x47, 0x31][index & 3] ^ (index as u8 & 0xfc))
}

fn tcp(payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([0xac, 0xde, 0x48, 1, 2, 3], [0xac, 0xde, 0x48, 4, 5, 6])
        .ipv4(CLIENT, SERVER, 61)
        .tcp(40_000, 443, 0x1234_5678, 501)
        .ack(77)
        .options(&[TcpOptionElement::Timestamp(5, 6)])
        .unwrap()
        .write(&mut frame, payload)
        .unwrap();
    frame
}

fn udp_v6(payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([0xac, 0xde, 0x48, 1, 2, 3], [0xac, 0xde, 0x48, 4, 5, 6])
        .ipv6(client_v6(), server_v6(), 61)
        .udp(40_000, 53)
        .write(&mut frame, payload)
        .unwrap();
    frame
}

fn cut() -> Ground {
    Ground::new(Payload::Cut)
}

fn redact(frame: &[u8]) -> Vec<u8> {
    cut().check(frame, ETHERNET, frame.len() as u32).unwrap()
}

fn assert_nobody_named(bytes: &[u8]) {
    let named: [&[u8]; 6] = [
        &CLIENT,
        &SERVER,
        &client_v6(),
        &server_v6(),
        &[0xac, 0xde, 0x48, 1, 2, 3],
        &[0xac, 0xde, 0x48, 4, 5, 6],
    ];
    for name in named {
        assert!(!holds(bytes, name), "{name:x?} in {bytes:x?}");
    }
}

/// Whether the checksums of IPv4 and TCP are right, as etherparse says.
fn are_right(frame: &[u8]) -> (bool, bool) {
    let sliced = SlicedPacket::from_ethernet(frame).unwrap();
    let net = sliced.net.unwrap();
    let ip = net.ipv4_ref().unwrap().header();
    let Some(TransportSlice::Tcp(tcp)) = sliced.transport else {
        panic!("no TCP");
    };
    let (header, computed) = (
        tcp.to_header(),
        tcp.calc_checksum_ipv4(ip.source(), ip.destination()),
    );
    (
        ip.header_checksum() == ip.to_header().calc_header_checksum(),
        header.checksum == computed.unwrap(),
    )
}

#[test]
fn every_encapsulation_is_followed() {
    let mut ground = cut();
    for (name, link_type, frame) in tunnels::all() {
        let redacted = ground.check(&frame, link_type, frame.len() as u32);
        if name == "ppi_ethernet" {
            assert_eq!(redacted, Err(Unparsed::UnknownLink));
            continue;
        }
        let redacted = redacted.unwrap_or_else(|reason| panic!("{name}: {reason:?}"));
        assert!(!holds(&redacted, b"hello"), "{name}");
        for address in [
            tunnels::INNER.0,
            tunnels::INNER.1,
            tunnels::OUTER.0,
            tunnels::OUTER.1,
        ] {
            assert!(!holds(&redacted, &address), "{name}: {address:?}");
        }
        for address in tunnels::MAC.chunks(6) {
            assert!(!holds(&redacted, address), "{name}: {address:?}");
        }
    }
}

#[test]
fn addresses_and_payload_go_and_all_else_stays() {
    for frame in [tcp(b"GET / HTTP/1.1"), udp_v6(b"secret")] {
        let redacted = redact(&frame);
        assert_nobody_named(&redacted);
        let header = if redacted[12..14] == [8, 0] {
            14 + 20 + 32
        } else {
            14 + 40 + 8
        };
        assert_eq!(redacted.len(), header);
    }
}

#[test]
fn right_checksums_stay_right_and_wrong_ones_wrong() {
    let right = tcp(b"");
    assert_eq!(are_right(&right), (true, true));
    assert_eq!(are_right(&redact(&right)), (true, true));
    let mut wrong = right.clone();
    wrong[14 + 11] ^= 4;
    wrong[14 + 20 + 16] ^= 4;
    assert_eq!(are_right(&redact(&wrong)), (false, false));
    // Masked payload is what the checksum covers.
    let mut kept = Ground::new(Payload::Kept {
        masks: vec![2..3, 3..4],
    });
    let long = tcp(b"abcdefg");
    let redacted = kept.check(&long, ETHERNET, long.len() as u32).unwrap();
    assert_eq!(
        redacted[14 + 20 + 32..],
        [b'a', b'b', MASK, MASK, b'e', b'f', b'g']
    );
    assert_eq!(are_right(&redacted), (true, true));
}

#[test]
fn checksums_do_not_tell_the_payload() {
    // Each is right; the sum would tell two bytes whole.
    assert_eq!(redact(&tcp(b"no")), redact(&tcp(b"ye")));
    assert_eq!(redact(&udp_v6(b"a")), redact(&udp_v6(b"b")));
    let wrong = |payload| {
        let mut frame = tcp(payload);
        frame[14 + 20 + 17] ^= 1;
        frame
    };
    assert_eq!(redact(&wrong(b"no")), redact(&wrong(b"ye")));
    // What was captured of the payload does not decide.
    let cut_off = |payload| tcp(payload)[..14 + 20 + 32].to_vec();
    let (one, other) = (cut_off(b"no"), cut_off(b"ye"));
    assert_ne!(one, other);
    let mut ground = cut();
    let one = ground.check(&one, ETHERNET, one.len() as u32 + 2);
    assert_eq!(one, ground.check(&other, ETHERNET, other.len() as u32 + 2));
}

#[test]
fn a_checksum_left_to_the_card_stays_so() {
    // The sum of the pseudo-header, not complemented, as Linux writes it.
    let pseudo = |frame: &[u8]| {
        let words = frame[26..34]
            .chunks(2)
            .map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
        let sum = words.sum::<u32>() + 6 + (frame.len() as u32 - 34);
        ((sum & 0xffff) + (sum >> 16)) as u16
    };
    let mut frame = tcp(b"");
    let partial = pseudo(&frame).to_be_bytes();
    frame[14 + 20 + 16..14 + 20 + 18].copy_from_slice(&partial);
    let redacted = redact(&frame);
    assert_eq!(
        redacted[14 + 20 + 16..14 + 20 + 18],
        pseudo(&redacted).to_be_bytes()
    );
}

#[test]
fn errors_quote_the_same_stand_ins() {
    let quoted = &tcp(b"payload")[14..14 + 28];
    let icmp = join(&[&[3, 4, 0, 0, 0, 0, 5, 0xdc], quoted]);
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4([192, 0, 2, 5], CLIENT, 64)
        .write(&mut frame, etherparse::IpNumber::ICMP, &icmp)
        .unwrap();
    let redacted = redact(&frame);
    assert_nobody_named(&redacted);
    assert!(!holds(&redacted, &[192, 0, 2, 5]));
    let client = cut().pseudonyms.v4(CLIENT);
    assert_eq!(redacted[14 + 16..14 + 20], client);
    assert_eq!(redacted[14 + 20 + 8 + 12..14 + 20 + 8 + 16], client);
    assert_eq!(redacted[14 + 20 + 6..14 + 20 + 8], [5, 0xdc], "the MTU");
}

#[test]
fn a_redirect_names_no_gateway() {
    let icmp = join(&[&[5, 1, 0, 0], &SERVER, &tcp(b"")[14..14 + 28]]);
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4([192, 0, 2, 5], CLIENT, 64)
        .write(&mut frame, etherparse::IpNumber::ICMP, &icmp)
        .unwrap();
    assert_nobody_named(&redact(&frame));
}

#[test]
fn neighbours_are_asked_for_by_their_stand_ins() {
    let mut pseudonyms = cut().pseudonyms;
    let target = client_v6();
    let mut group = [0; 16];
    group[..13].copy_from_slice(&[0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff]);
    group[13..].copy_from_slice(&target[13..]);
    let icmp = join(&[
        &[135, 0, 0, 0, 0, 0, 0, 0],
        &target,
        &[1, 1, 0xac, 0xde, 0x48, 1, 2, 3],
    ]);
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(
        [0xac, 0xde, 0x48, 1, 2, 3],
        [0x33, 0x33, 0xff, target[13], target[14], target[15]],
    )
    .ipv6(server_v6(), group, 255)
    .write(&mut frame, etherparse::IpNumber::IPV6_ICMP, &icmp)
    .unwrap();
    let redacted = redact(&frame);
    assert_nobody_named(&redacted);
    assert!(
        !holds(&redacted, &target[13..]),
        "the end of the address shows"
    );
    let group = pseudonyms.v6(group);
    assert_eq!(redacted[14 + 24..14 + 40], group);
    assert_eq!(
        redacted[..6],
        [0x33, 0x33, 0xff, group[13], group[14], group[15]]
    );
    assert_eq!(redacted[14 + 40 + 8..], pseudonyms.v6(target));
}

#[test]
fn arp_is_rewritten_and_what_is_like_it_left_out() {
    let mut arp = join(&[
        &[0, 1, 8, 0, 6, 4, 0, 1],
        &[0xac, 0xde, 0x48, 1, 2, 3],
        &CLIENT,
    ]);
    arp.extend([0; 6]);
    arp.extend(SERVER);
    // Padding of a frame may hold what was in memory before.
    let frame = ethernet(0x0806, &join(&[&arp, &CLIENT, &[9; 14]]));
    let redacted = redact(&frame);
    assert_nobody_named(&redacted);
    assert_eq!(redacted.len(), 14 + 28);
    assert_eq!(redacted[28..32], cut().pseudonyms.v4(CLIENT));
    arp[4] = 8;
    let unknown = [
        ethernet(0x0806, &arp),
        ethernet(0x88cc, b"the name of a switch"),
        ethernet(0x888e, b"who logs in"),
    ];
    for frame in unknown {
        let redacted = cut().check(&frame, ETHERNET, frame.len() as u32);
        assert_eq!(redacted, Err(Unparsed::NotIp));
    }
    assert_eq!(cut().check(&frame, 147, 60), Err(Unparsed::UnknownLink));
}

#[test]
fn later_fragments_end_with_their_header() {
    let mut frame = tcp(b"what was said");
    frame[14 + 6..14 + 8].copy_from_slice(&[0x20, 9]);
    let redacted = redact(&frame);
    assert_eq!(redacted.len(), 14 + 20);
    assert_nobody_named(&redacted);
    let mut frame = udp_v6(b"");
    frame.truncate(14 + 40);
    frame[14 + 6] = 44;
    frame[14 + 5] = 16;
    frame.extend([17, 0, 0, 9, 0, 0, 0, 1]);
    frame.extend(b"was said");
    let redacted = redact(&frame);
    assert_eq!(redacted.len(), 14 + 40 + 8);
    assert_nobody_named(&redacted);
}

#[test]
fn options_name_nobody() {
    // Record route, with two addresses; then router alert.
    let mut route = vec![7, 11, 12];
    route.extend(CLIENT);
    route.extend(SERVER);
    route.extend([148, 4, 0, 0, 0]);
    let mut frame = Vec::new();
    let options: etherparse::Ipv4Options = route[..].try_into().unwrap();
    let mut header =
        etherparse::Ipv4Header::new(20, 9, etherparse::IpNumber::TCP, CLIENT, SERVER).unwrap();
    header.options = options;
    header.header_checksum = header.calc_header_checksum();
    frame.extend(ethernet(0x0800, &header.to_bytes()));
    // MP_CAPABLE with a key, SACK, and an address advertised.
    let mut tcp = vec![
        0x9c, 0x40, 1, 0xbb, 0, 0, 0, 1, 0, 0, 0, 2, 0xe0, 0x10, 1, 0, 0, 0, 0, 0,
    ];
    tcp.extend([
        30, 12, 0, 0x81, 0xde, 0xad, 0xbe, 0xef, 0xfe, 0xed, 0xfa, 0xce,
    ]);
    tcp.extend([5, 10, 0, 0, 0, 9, 0, 0, 0, 12]);
    tcp.extend([30, 8, 0x34, 2]);
    tcp.extend(SERVER);
    tcp.extend([1, 1, 0, 0, 0, 0]);
    frame.extend(&tcp);
    let length = (frame.len() - 14) as u16;
    frame[16..18].copy_from_slice(&length.to_be_bytes());
    let redacted = redact(&frame);
    assert_nobody_named(&redacted);
    assert!(!holds(&redacted, &[0xde, 0xad]));
    assert!(holds(&redacted, &[148, 4, 0, 0]));
    assert!(holds(&redacted, &[5, 10, 0, 0, 0, 9, 0, 0, 0, 12]));
    assert_eq!(redacted.len(), frame.len());
}

#[test]
fn extensions_of_ipv6_name_nobody() {
    let home = join(&[&[0, 2, 1, 0, 0xc9, 16], &client_v6(), &[0, 0]]);
    let route = join(&[&[43, 2, 0, 1, 0, 0, 0, 0], &server_v6()]);
    let options = join(&[&[60, 0, 5, 2, 0, 0, 1, 0], &[]]);
    let mut frame = udp_v6(b"");
    frame.truncate(14 + 40);
    frame[14 + 6] = 0;
    let home = join(&[&[17], &home[1..]]);
    let chain = join(&[&[60], &options[1..], &[43], &home[1..], &[17], &route[1..]]);
    frame.extend(&chain);
    frame.extend([0, 1, 0, 2, 0, 8, 0, 0]);
    frame[14 + 4..14 + 6].copy_from_slice(&(chain.len() as u16 + 8).to_be_bytes());
    let redacted = redact(&frame);
    assert_nobody_named(&redacted);
    assert_eq!(redacted.len(), frame.len());
    assert!(holds(&redacted, &[5, 2, 0, 0]), "router alert");
}

#[test]
fn kept_addresses_stay_everywhere() {
    let frame = tcp(b"secret");
    let mut redactor = Redactor::new(Addresses::Kept, Payload::Cut);
    let redacted = redactor.redact(&frame, 1, frame.len() as u32).unwrap();
    assert_eq!(redacted.wire_length, frame.len() as u32);
    assert_eq!(redacted.bytes.len(), frame.len() - 6);
    assert_eq!(redacted.bytes[..50], frame[..50]);
}

#[test]
fn one_host_has_one_stand_in_in_both_directions() {
    let mut pseudonyms = invariant::pseudonyms();
    let (client, server) = (pseudonyms.v4(CLIENT), pseudonyms.v4(SERVER));
    let redacted = redact(&tcp(b""));
    let ends = [&redacted[26..30], &redacted[30..34]].map(|it| {
        let octets: [u8; 4] = it.try_into().unwrap();
        IpAddr::from(octets)
    });
    assert_eq!(ends, [IpAddr::from(client), IpAddr::from(server)]);
}
