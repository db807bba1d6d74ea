use super::*;
use crate::limits::APPLICATION_PARKED_COUNT_MAX;

use Side::{Client, Server};

const TCP: u8 = protocol::TCP;
const REQUEST: &[u8] = b"GET /a HTTP/1.1\r\nHost: b\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n";

fn send(flow: &mut Application, side: Side, offset: u64, bytes: &[u8]) {
    flow.stream(side, offset, bytes, bytes.len() as u32, 0, 1);
}

#[test]
fn a_flow_is_small_until_it_is_recognised() {
    assert!(
        size_of::<Application>() <= 200,
        "{}",
        size_of::<Application>()
    );
    let flow = Application::new(TCP, 40_000, 53);
    assert_eq!(flow.size(), size_of::<Application>());
}

#[test]
fn segments_out_of_order_are_put_in_order() {
    let mut flow = Application::new(TCP, 40_000, 8_080);
    for (from, to) in [(20, 28), (10, 20), (0, 10)] {
        send(&mut flow, Client, from as u64, &REQUEST[from..to]);
    }
    send(&mut flow, Server, 0, RESPONSE);
    let story = flow.finish();
    assert_eq!(story.protocol, Some(ApplicationProtocol::Http));
    let http = story.http.unwrap();
    assert_eq!((http.requests, http.responses, http.cut), (1, 1, 0));
}

#[test]
fn what_never_comes_is_given_up() {
    let mut flow = Application::new(TCP, 40_000, 8_080);
    send(&mut flow, Client, 0, &REQUEST[..10]);
    // The rest of the head is lost, and so is some more; then a request begins a segment.
    send(&mut flow, Client, 1_000, REQUEST);
    send(&mut flow, Server, 0, b"HTTP/1.1 204 -\r\n\r\n");
    for index in 0..2 * APPLICATION_PARKED_COUNT_MAX as u64 {
        send(&mut flow, Client, 5_000 + index * 100, REQUEST);
    }
    let http = flow.finish().http.unwrap();
    assert_eq!(http.cut, 1);
    assert_eq!(
        http.requests,
        1 + 1 + 2 * APPLICATION_PARKED_COUNT_MAX as u32
    );
    assert_eq!(http.responses, 1);
}

#[test]
fn bodies_are_passed_over_with_their_gaps() {
    let mut flow = Application::new(TCP, 40_000, 8_080);
    send(&mut flow, Client, 0, REQUEST);
    send(&mut flow, Server, 0, RESPONSE);
    let end = RESPONSE.len() as u64 + 1_000_000;
    send(&mut flow, Server, end - 500, &[b'x'; 500]);
    assert!(flow.parked.is_none());
    send(&mut flow, Client, REQUEST.len() as u64, REQUEST);
    send(&mut flow, Server, end, RESPONSE);
    let http = flow.finish().http.unwrap();
    assert_eq!((http.responses, http.cut), (2, 0));
}

#[test]
fn a_segment_that_was_cut_is_a_gap() {
    let mut flow = Application::new(TCP, 40_000, 8_080);
    flow.stream(Client, 0, &REQUEST[..20], 500, 0, 1);
    flow.stream(Server, 0, &RESPONSE[..20], 1_448, 7, 2);
    flow.stream(Client, 500, &REQUEST[..20], 500, 9, 3);
    let http = flow.finish().http.unwrap();
    assert_eq!((http.requests, http.responses, http.cut), (2, 1, 3));
}

#[test]
fn a_first_segment_may_be_one_byte() {
    let hello = b"\x16\x03\x01\x00\x2a\x01\x00\x00\x26\x03\x03";
    let mut stream = hello.to_vec();
    stream.extend([0; 36]);
    for (bytes, protocol) in [
        (&stream[..], ApplicationProtocol::Tls),
        (REQUEST, ApplicationProtocol::Http),
        (
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            ApplicationProtocol::Http2,
        ),
    ] {
        let mut flow = Application::new(TCP, 40_000, 1_234);
        for (index, byte) in bytes.iter().enumerate() {
            send(&mut flow, Client, index as u64, &[*byte]);
        }
        assert_eq!(flow.protocol(), Some(protocol));
        let story = flow.finish();
        assert!(story.tls.is_none_or(|tls| tls.client_hello.is_some()));
        assert!(story.http.is_none_or(|http| http.requests == 1));
    }
}

#[test]
fn a_session_may_turn_to_tls() {
    let mut flow = Application::new(TCP, 40_000, 25);
    send(&mut flow, Server, 0, b"220 mail\r\n");
    send(&mut flow, Client, 0, b"STARTTLS\r\n");
    send(&mut flow, Server, 10, b"220 go\r\n");
    send(
        &mut flow,
        Client,
        10,
        b"\x16\x03\x01\x00\x2a\x01\x00\x00\x26\x03\x03",
    );
    assert_eq!(flow.protocol(), Some(ApplicationProtocol::Tls));
}

#[test]
fn a_tunnel_is_looked_into() {
    let mut flow = Application::new(TCP, 40_000, 3_128);
    let connect = b"CONNECT a:443 HTTP/1.1\r\n\r\n";
    let success = b"HTTP/1.1 200 OK\r\n\r\n";
    send(&mut flow, Client, 0, connect);
    send(&mut flow, Server, 0, success);
    assert_eq!(flow.protocol(), Some(ApplicationProtocol::Http));
    let hello = b"\x16\x03\x01\x00\x2a\x01\x00\x00\x26\x03\x03";
    send(&mut flow, Client, connect.len() as u64, hello);
    let story = flow.finish();
    assert_eq!(story.protocol, Some(ApplicationProtocol::Tls));
    assert!(story.tls.is_some() && story.http.is_some_and(|http| http.is_tunnel));
}

#[test]
fn what_is_not_known_is_looked_at_for_a_while() {
    let mut flow = Application::new(TCP, 40_000, 1_234);
    for index in 0..u64::from(APPLICATION_PROBE_COUNT_MAX) {
        assert_ne!(flow.next.client, u64::MAX);
        send(&mut flow, Client, index * 100, &[0; 100]);
    }
    assert_eq!(flow.next.client, u64::MAX);
    assert_eq!(flow.finish(), ApplicationStory::default());

    let mut flow = Application::new(protocol::UDP, 40_000, 1_234);
    for _ in 0..APPLICATION_DATAGRAM_PROBE_COUNT_MAX {
        flow.datagram(Client, &[0; 100], 100, 0, 1);
    }
    assert!(matches!(flow.state, State::Silent));
}

#[test]
fn where_memory_is_scarce_the_least_is_kept() {
    // A ClientHello of 10,000 bytes that never ends.
    let hello = [22, 3, 1, 0x27, 0x14, 1, 0, 0x27, 0x10, 3, 3];
    let mut flow = Application::new(TCP, 40_000, 443);
    send(&mut flow, Client, 0, &hello);
    send(&mut flow, Client, 11, &[1; 4_000]);
    assert!(flow.held_bytes() > 4_000);
    flow.keep_least(true);
    send(&mut flow, Client, 4_011, &[1; 1_000]);
    assert!(flow.held_bytes() <= APPLICATION_SCARCE_BYTES_MAX);
    send(&mut flow, Client, 6_000, &[1; 1_000]);
    assert!(flow.held_bytes() <= APPLICATION_SCARCE_BYTES_MAX);
    assert_eq!(flow.take_unkept_count(), 2);
    assert!(flow.finish().tls.unwrap().is_cut);

    // More requests than are answered.
    let mut flow = Application::new(TCP, 40_000, 8_080);
    flow.keep_least(true);
    let mut request = b"GET /".to_vec();
    request.extend([b'a'; 200]);
    request.extend(b" HTTP/1.1\r\nHost: b\r\n\r\n");
    for number in 0..40 {
        send(&mut flow, Client, number * request.len() as u64, &request);
        assert!(flow.held_bytes() <= APPLICATION_SCARCE_BYTES_MAX);
        assert_eq!(flow.held_bytes(), flow.size() - size_of::<Application>());
    }
    let http = flow.finish().http.unwrap();
    assert_eq!((http.requests, http.unanswered), (40, 40));
    assert!(http.evicted > 20);
}
