//! The kernel profile over frames built by etherparse, and by hand where it builds none.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot build its frame has failed"
)]

use etherparse::PacketBuilder;
use phalanx_common::packet::{
    Headers, LinkKind, TcpFlags, Unparsed, is_error, parse, parse_quote, parse_tcp_options,
    parse_timestamps,
};

const CLIENT: [u8; 4] = [10, 0, 0, 1];
const SERVER: [u8; 4] = [10, 0, 0, 2];

fn ethernet() -> etherparse::PacketBuilderStep<etherparse::Ethernet2Header> {
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
}

fn parsed(frame: &[u8]) -> Result<Headers, Unparsed> {
    parse(frame, LinkKind::Ethernet, frame.len() as u32)
}

fn mapped(address: [u8; 4]) -> [u64; 2] {
    words(&std::net::Ipv4Addr::from(address).to_ipv6_mapped().octets())
}

fn words(bytes: &[u8; 16]) -> [u64; 2] {
    let half = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap());
    [half(0), half(8)]
}

fn udp_frame(payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    ethernet()
        .ipv4(CLIENT, SERVER, 61)
        .udp(5000, 53)
        .write(&mut frame, payload)
        .unwrap();
    frame
}

/// An IPv6 frame whose payload is `chain`, beginning with the header of number `first`.
fn ipv6_frame(first: u8, chain: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x86, 0xdd];
    frame.extend([0x6b, 0x80, 0, 0]);
    frame.extend((chain.len() as u16).to_be_bytes());
    frame.extend([first, 63]);
    frame.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    frame.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    frame.extend(chain);
    frame
}

const UDP_OF_TWO: [u8; 10] = [0x13, 0x88, 0, 53, 0, 10, 0, 0, 7, 7];

#[test]
fn tcp_over_ipv4_is_read_field_by_field() {
    let mut frame = Vec::new();
    ethernet()
        .ipv4(CLIENT, SERVER, 61)
        .tcp(40000, 443, 0x8000_0001, 0x1234)
        .ack(77)
        .psh()
        .write(&mut frame, b"hello")
        .unwrap();
    // Padding of the frame is not payload.
    frame.extend([0; 20]);
    let headers = parsed(&frame).unwrap();
    assert_eq!(headers.source, mapped(CLIENT));
    assert_eq!(headers.destination, mapped(SERVER));
    assert_eq!(
        (headers.source_port, headers.destination_port),
        (40000, 443)
    );
    assert_eq!((headers.version, headers.protocol, headers.ttl), (4, 6, 61));
    assert_eq!(
        (headers.sequence, headers.acknowledgement),
        (0x8000_0001, 77)
    );
    assert_eq!(headers.window, 0x1234);
    assert_eq!(headers.tcp_flags, TcpFlags(TcpFlags::ACK | TcpFlags::PSH));
    assert_eq!((headers.network_offset, headers.transport_offset), (14, 34));
    assert_eq!((headers.payload_offset, headers.payload_length), (54, 5));
    assert_eq!(headers.ip_length, 45);
}

#[test]
fn vlan_tags_are_followed_up_to_two() {
    for count in 0..=3u16 {
        let plain = udp_frame(b"x");
        let mut frame = plain[..12].to_vec();
        for tag in 0..count {
            frame.extend([0x81, 0, 0, 10 + tag as u8]);
        }
        frame.extend(&plain[12..]);
        let result = parsed(&frame);
        if count == 3 {
            assert_eq!(result, Err(Unparsed::VlanTooDeep));
        } else {
            let headers = result.unwrap();
            assert_eq!(headers.vlan, if count == 0 { 0 } else { 10 });
            assert_eq!(headers.network_offset, 14 + 4 * u32::from(count));
            assert_eq!(headers.destination_port, 53);
        }
    }
}

#[test]
fn ports_are_never_read_from_a_later_fragment() {
    let mut frame = udp_frame(b"payload!");
    frame[20] = 0x20;
    let first = parsed(&frame).unwrap();
    assert!(first.is_fragmented);
    assert_eq!(first.destination_port, 53);
    frame[21] = 1;
    assert_eq!(parsed(&frame), Err(Unparsed::NonFirstFragment));

    let mut chain = vec![17, 0, 0, 1, 0xaa, 0xbb, 0xcc, 0xdd];
    chain.extend(UDP_OF_TWO);
    let first = parsed(&ipv6_frame(44, &chain)).unwrap();
    assert!(first.is_fragmented);
    assert_eq!((first.ip_id, first.destination_port), (0xccdd, 53));
    chain[3] = 8;
    assert_eq!(
        parsed(&ipv6_frame(44, &chain)),
        Err(Unparsed::NonFirstFragment)
    );
}

#[test]
fn extension_headers_are_walked_up_to_their_bound() {
    for count in 0..=5usize {
        let mut chain = Vec::new();
        for index in 0..count {
            let next = if index + 1 == count { 17 } else { 60 };
            // The second one is sixteen bytes long.
            let units = u8::from(index == 1);
            chain.extend([next, units, 1, 4, 0, 0, 0, 0]);
            chain.extend(vec![0; usize::from(units) * 8]);
        }
        chain.extend(UDP_OF_TWO);
        let first = if count == 0 { 17 } else { 0 };
        let result = parsed(&ipv6_frame(first, &chain));
        if count == 5 {
            assert_eq!(result, Err(Unparsed::ExtensionsTooMany));
            continue;
        }
        let headers = result.unwrap();
        assert_eq!(headers.protocol, 17);
        assert_eq!(headers.payload_length, 2);
        assert_eq!((headers.ttl, headers.traffic_class), (63, 0xb8));
        assert_eq!(headers.destination_port, 53);
    }
    // The authentication header counts in words of four bytes: (4 + 2) * 4 = 24.
    let mut chain = vec![0; 24];
    chain[..2].copy_from_slice(&[17, 4]);
    chain.extend(UDP_OF_TWO);
    assert_eq!(parsed(&ipv6_frame(51, &chain)).unwrap().payload_length, 2);
}

#[test]
fn an_ipv6_header_that_nothing_follows_has_no_payload() {
    let mut frame = ipv6_frame(59, &[]);
    frame.extend([0; 6]);
    let headers = parsed(&frame).unwrap();
    assert_eq!((headers.ip_length, headers.payload_length), (40, 0));
}

#[test]
fn length_of_zero_means_as_long_as_the_frame() {
    let mut frame = udp_frame(b"payload");
    frame[16..18].copy_from_slice(&[0, 0]);
    frame[38..40].copy_from_slice(&[0, 0]);
    assert_eq!(parsed(&frame).unwrap().payload_length, 7);
}

#[test]
fn udp_payload_ends_where_the_datagram_says() {
    let mut frame = udp_frame(b"payload");
    frame[39] = 10;
    assert_eq!(parsed(&frame).unwrap().payload_length, 2);
    frame[39] = 7;
    assert_eq!(parsed(&frame), Err(Unparsed::BadTransportHeader));
}

#[test]
fn payload_length_is_that_of_the_wire_not_of_the_capture() {
    let frame = udp_frame(&[1; 100]);
    let headers = parse(&frame[..42], LinkKind::Ethernet, frame.len() as u32).unwrap();
    assert_eq!(headers.payload_length, 100);
    let cut = parse(&frame[..41], LinkKind::Ethernet, frame.len() as u32);
    assert_eq!(cut, Err(Unparsed::Truncated));
}

#[test]
fn bad_headers_are_refused() {
    let frame = udp_frame(b"payload");
    let with = |at: usize, value: u8| {
        let mut frame = frame.clone();
        frame[at] = value;
        parsed(&frame)
    };
    assert_eq!(with(14, 0x44), Err(Unparsed::BadIpHeader));
    assert_eq!(with(14, 0x65), Err(Unparsed::BadIpHeader));
    assert_eq!(with(17, 19), Err(Unparsed::BadIpHeader));
    assert_eq!(with(12, 0x09), Err(Unparsed::NotIp));
    let mut tcp = Vec::new();
    ethernet()
        .ipv4(CLIENT, SERVER, 61)
        .tcp(1, 2, 3, 4)
        .write(&mut tcp, b"")
        .unwrap();
    for data_offset in [0x40, 0x60] {
        tcp[46] = data_offset;
        assert_eq!(parsed(&tcp), Err(Unparsed::BadTransportHeader));
    }
}

#[test]
fn a_link_without_header_takes_either_version() {
    let frame = udp_frame(b"x");
    let raw = parse(&frame[14..], LinkKind::None, frame.len() as u32 - 14).unwrap();
    assert_eq!((raw.version, raw.network_offset), (4, 0));
    let frame = ipv6_frame(17, &UDP_OF_TWO);
    let raw = parse(&frame[14..], LinkKind::None, frame.len() as u32 - 14).unwrap();
    assert_eq!((raw.version, raw.destination_port), (6, 53));
    let other = [0x50u8; 40];
    assert_eq!(
        parse(other.as_slice(), LinkKind::None, 40),
        Err(Unparsed::NotIp)
    );
}

#[test]
fn tcp_options_are_read() {
    use etherparse::TcpOptionElement::{
        MaximumSegmentSize, Noop, SelectiveAcknowledgement, SelectiveAcknowledgementPermitted,
        Timestamp, WindowScale,
    };
    let frame_with = |options: &[etherparse::TcpOptionElement]| {
        let mut frame = Vec::new();
        ethernet()
            .ipv4(CLIENT, SERVER, 61)
            .tcp(1, 2, 3, 4)
            .options(options)
            .unwrap()
            .write(&mut frame, b"data")
            .unwrap();
        frame
    };
    let options_of = |frame: &[u8]| {
        let headers = parsed(frame).unwrap();
        parse_tcp_options(frame, headers.transport_offset + 20, headers.payload_offset)
    };
    let syn = frame_with(&[
        MaximumSegmentSize(1460),
        SelectiveAcknowledgementPermitted,
        Timestamp(0xaabb_ccdd, 5),
        Noop,
        WindowScale(7),
    ]);
    let options = options_of(&syn);
    assert_eq!((options.mss, options.window_scale_plus_one), (1460, 8));
    assert!(options.sack_permitted && options.has_timestamps);
    assert_eq!(options.timestamp_value, 0xaabb_ccdd);
    assert_eq!(options.timestamp_echo, 5);
    assert_eq!(options.sack_block_count, 0);

    let ack = frame_with(&[
        Noop,
        Noop,
        Timestamp(1, 2),
        Noop,
        Noop,
        SelectiveAcknowledgement((10, 20), [Some((0xffff_fff0, 5)), None, None]),
    ]);
    let options = options_of(&ack);
    let blocks: Vec<_> = options.sack_blocks(ack.as_slice()).collect();
    assert_eq!(blocks, [(10, 20), (0xffff_fff0, 5)]);
    assert_eq!(parse_timestamps(ack.as_slice(), 54, 86), Some((1, 2)));
    // Cut inside the second block: the first one stands.
    assert_eq!(
        options.sack_blocks(&ack[..80]).collect::<Vec<_>>(),
        [(10, 20)]
    );
    assert_eq!(parse_timestamps(ack.as_slice(), 54, 65), None);
}

#[test]
fn a_malformed_option_ends_the_walk() {
    let options = [2, 4, 5, 0xb4, 8, 1, 3, 3, 7, 0];
    let read = parse_tcp_options(options.as_slice(), 0, 10);
    assert_eq!((read.mss, read.window_scale_plus_one), (1460, 0));
    // Longer than the list.
    let options = [3, 3, 15, 8, 10, 0, 0];
    let read = parse_tcp_options(options.as_slice(), 0, 7);
    assert_eq!(
        (read.window_scale_plus_one, read.has_timestamps),
        (15, false)
    );
}

/// An ICMP error about the UDP datagram of [`udp_frame`], quoting `quoted` bytes of it.
fn unreachable(quoted: usize) -> Vec<u8> {
    let quote = &udp_frame(&[9; 40])[14..14 + quoted];
    let mut frame = Vec::new();
    ethernet()
        .ipv4(SERVER, CLIENT, 64)
        .icmpv4_raw(3, 4, [0, 0, 5, 0])
        .write(&mut frame, quote)
        .unwrap();
    frame
}

#[test]
fn icmp_errors_give_the_packet_they_quote() {
    let frame = unreachable(28);
    let error = parsed(&frame).unwrap();
    assert!(is_error(&error));
    assert_eq!(error.sequence, 0x0304);
    assert_eq!((error.source_port, error.destination_port), (0, 0));
    let quote = parse_quote(frame.as_slice(), &error).unwrap();
    assert_eq!(quote.source, mapped(CLIENT));
    assert_eq!((quote.source_port, quote.destination_port), (5000, 53));
    assert_eq!(quote.ip_length, 68);
    // What lies behind the error is the frame's padding, not its quote.
    let mut short = unreachable(27);
    short.extend([0; 20]);
    let error = parsed(&short).unwrap();
    assert_eq!(
        parse_quote(short.as_slice(), &error),
        Err(Unparsed::Truncated)
    );
}

#[test]
fn icmp_echo_has_its_identifier_for_ports() {
    let mut frame = Vec::new();
    ethernet()
        .ipv6([1; 16], [2; 16], 64)
        .icmpv6_echo_request(0x1234, 1)
        .write(&mut frame, b"ping")
        .unwrap();
    let headers = parsed(&frame).unwrap();
    assert_eq!(headers.source, words(&[1; 16]));
    assert_eq!(
        (headers.source_port, headers.destination_port),
        (0x1234, 0x1234)
    );
    assert!(!is_error(&headers));
    assert_eq!(headers.sequence, 0x8000);
}
