use super::*;
use crate::limits::TLS_HELLO_LENGTH_MAX;

fn at(time_ns: i64, frame: u64) -> Moment {
    Moment { time_ns, frame }
}

fn vector(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes(), bytes].concat()
}

fn extension(number: u16, body: &[u8]) -> Vec<u8> {
    [&number.to_be_bytes()[..], &vector(body)].concat()
}

fn handshake(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u32).to_be_bytes();
    [&[kind], &length[1..], body].concat()
}

fn record(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind, 3, 3][..], &vector(body)].concat()
}

fn client_hello(session_id: &[u8], extensions: &[Vec<u8>]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.push(session_id.len() as u8);
    body.extend(session_id);
    body.extend(vector(&[0x13, 0x01, 0xc0, 0x2f]));
    body.extend([1, 0]);
    body.extend(vector(&extensions.concat()));
    record(22, &handshake(1, &body))
}

fn server_hello(random: &[u8], session_id: &[u8], extensions: &[Vec<u8>]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend(random);
    body.push(session_id.len() as u8);
    body.extend(session_id);
    body.extend([0x13, 0x01, 0]);
    body.extend(vector(&extensions.concat()));
    record(22, &handshake(2, &body))
}

fn usual_client_hello() -> Vec<u8> {
    let name = [&[0][..], &vector(b"www.example.com")].concat();
    let extensions = [
        extension(0x0a0a, &[]),
        extension(0, &vector(&name)),
        extension(16, &vector(b"\x02\x0a\x0a\x02h2\x08http/1.1")),
        extension(43, &[6, 0x7a, 0x7a, 3, 4, 3, 3]),
    ];
    client_hello(&[9; 32], &extensions)
}

fn tls_1_3() -> Vec<u8> {
    extension(43, &[3, 4])
}

fn feed(tls: &mut Tls, side: Side, offset: &mut u64, bytes: &[u8], moment: Moment) -> u64 {
    let wanted = tls.segment(side, *offset, bytes, moment);
    *offset += bytes.len() as u64;
    wanted
}

#[test]
fn a_handshake_of_tls_1_3_is_told() {
    let mut tls = Tls::new(Side::Client, true);
    let (mut client, mut server) = (0, 0);
    feed(
        &mut tls,
        Side::Client,
        &mut client,
        &usual_client_hello(),
        at(1_000, 1),
    );
    let flight = [
        server_hello(&[1; 32], &[9; 32], &[tls_1_3()]),
        record(20, &[1]),
        record(23, &[0; 900]),
    ];
    feed(
        &mut tls,
        Side::Server,
        &mut server,
        &flight.concat(),
        at(31_000, 2),
    );
    let finished = [record(20, &[1]), record(23, &[0; 53])].concat();
    feed(
        &mut tls,
        Side::Client,
        &mut client,
        &finished,
        at(32_000, 3),
    );
    feed(
        &mut tls,
        Side::Server,
        &mut server,
        &record(23, &[0; 250]),
        at(62_000, 4),
    );
    let wanted = feed(
        &mut tls,
        Side::Client,
        &mut client,
        &record(23, &[0; 80]),
        at(70_000, 5),
    );
    assert_eq!(wanted, u64::MAX);
    feed(
        &mut tls,
        Side::Server,
        &mut server,
        &record(23, &[0; 250]),
        at(99_000, 6),
    );
    let story = tls.finish();
    assert_eq!(story.server_name.as_deref(), Some("www.example.com"));
    assert_eq!(story.alpn_offered.as_deref(), Some("h2"));
    assert_eq!(
        story.version_offered.and_then(TlsVersion::name),
        Some("TLS 1.3")
    );
    assert_eq!(story.version_chosen, Some(TlsVersion::TLS_1_3));
    assert_eq!(story.cipher_suite, Some(0x1301));
    assert_eq!(story.hello_delay_ns(), Some(30_000));
    assert_eq!(story.data_delay_ns(Side::Client), Some(69_000));
    assert_eq!(story.data_delay_ns(Side::Server), Some(98_000));
    assert_eq!(story.is_resumed, Some(false));
    assert!(!story.has_early_data && !story.is_cut);
}

#[test]
fn a_handshake_of_tls_1_2_is_told_however_it_is_cut() {
    let hello = usual_client_hello();
    let chosen = extension(16, &vector(b"\x08http/1.1"));
    let flight = [
        server_hello(&[1; 32], &[9; 32], &[chosen]),
        record(20, &[1]),
        record(22, &[0xee; 40]),
        record(23, &[0; 300]),
    ]
    .concat();
    for size in [1, 2, 3, 5, 9, 50, 10_000] {
        let mut tls = Tls::new(Side::Client, true);
        let mut wanted = Sides::<u64>::default();
        for (side, stream) in [(Side::Client, &hello), (Side::Server, &flight)] {
            for (index, bytes) in stream.chunks(size).enumerate() {
                let offset = (index * size) as u64;
                let begin = wanted.get(side).saturating_sub(offset);
                if let Some(bytes) = bytes.get(begin as usize..).filter(|it| !it.is_empty()) {
                    let next = tls.segment(side, offset + begin, bytes, at(5, 1));
                    *wanted.get_mut(side) = next;
                }
            }
        }
        let story = tls.finish();
        assert_eq!(story.alpn_chosen.as_deref(), Some("http/1.1"), "{size}");
        assert_eq!(story.is_resumed, Some(true), "{size}");
        assert!(story.application_data.server.is_some(), "{size}");
        assert!(!story.is_cut, "{size}");
    }
}

#[test]
fn a_retry_request_is_no_server_hello() {
    let mut tls = Tls::new(Side::Client, true);
    let retry = [
        0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8,
        0x91, 0xc2, 0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8,
        0x33, 0x9c,
    ];
    let (mut client, mut server) = (0, 0);
    feed(
        &mut tls,
        Side::Client,
        &mut client,
        &usual_client_hello(),
        at(1_000, 1),
    );
    let answer = server_hello(&retry, &[9; 32], &[tls_1_3()]);
    feed(&mut tls, Side::Server, &mut server, &answer, at(2_000, 2));
    feed(
        &mut tls,
        Side::Client,
        &mut client,
        &usual_client_hello(),
        at(3_000, 3),
    );
    let key = extension(41, &[0, 0]);
    let answer = server_hello(&[1; 32], &[9; 32], &[tls_1_3(), key]);
    feed(&mut tls, Side::Server, &mut server, &answer, at(4_000, 4));
    let story = tls.finish();
    assert_eq!(story.client_hello, Some(at(1_000, 1)));
    assert_eq!(story.hello_retry, Some(at(2_000, 2)));
    assert_eq!(story.server_hello, Some(at(4_000, 4)));
    assert_eq!(story.is_resumed, Some(true));
}

#[test]
fn early_data_comes_before_the_hello_of_the_server() {
    let mut tls = Tls::new(Side::Client, true);
    let (mut client, mut server) = (0, 0);
    let flight = [usual_client_hello(), record(23, &[0; 99])].concat();
    feed(&mut tls, Side::Client, &mut client, &flight, at(1_000, 1));
    let answer = server_hello(&[1; 32], &[9; 32], &[tls_1_3()]);
    feed(&mut tls, Side::Server, &mut server, &answer, at(4_000, 2));
    let story = tls.finish();
    assert!(story.has_early_data);
    assert_eq!(story.data_delay_ns(Side::Client), Some(0));
}

#[test]
fn alerts_in_clear_have_names() {
    let mut tls = Tls::new(Side::Client, true);
    let (mut client, mut server) = (0, 0);
    feed(
        &mut tls,
        Side::Client,
        &mut client,
        &usual_client_hello(),
        at(1_000, 1),
    );
    let alerts = [record(21, &[2, 40]), record(21, &[0; 26])].concat();
    feed(
        &mut tls,
        Side::Server,
        &mut server,
        &alerts[..6],
        at(2_000, 2),
    );
    feed(
        &mut tls,
        Side::Server,
        &mut server,
        &alerts[6..],
        at(2_000, 3),
    );
    let story = tls.finish();
    assert_eq!(story.alerts.len(), 1);
    let alert = story.alerts[0];
    assert_eq!(
        (alert.side, alert.level, alert.name()),
        (Side::Server, 2, Some("handshake_failure"))
    );
}

#[test]
fn a_hello_over_several_records_and_one_that_is_cut() {
    let whole = usual_client_hello();
    let (head, tail) = whole[5..].split_at(60);
    let split = [record(22, head), record(22, tail)].concat();
    let mut tls = Tls::new(Side::Client, true);
    tls.segment(Side::Client, 0, &split, at(1, 1));
    assert_eq!(tls.finish().server_name.as_deref(), Some("www.example.com"));

    let mut tls = Tls::new(Side::Client, true);
    // All but the last extension.
    tls.segment(Side::Client, 0, &whole[..whole.len() - 12], at(1, 1));
    tls.gap(Side::Client);
    let story = tls.finish();
    assert_eq!(story.server_name.as_deref(), Some("www.example.com"));
    assert_eq!(
        story.version_offered.and_then(TlsVersion::name),
        Some("TLS 1.2")
    );
    assert!(story.is_cut);
}

#[test]
fn a_hello_that_never_ends_is_given_up() {
    let mut tls = Tls::new(Side::Client, true);
    let begin = [&[1, 0xff, 0xff, 0xff, 3, 3][..], &[0; 16_000]].concat();
    let mut offset = 0;
    for _ in 0..20 {
        let bytes = record(22, &begin);
        feed(&mut tls, Side::Client, &mut offset, &bytes, at(1, 1));
        assert!(tls.heap_bytes() <= 2 * TLS_HELLO_LENGTH_MAX);
    }
    let story = tls.finish();
    assert!(story.is_cut && story.client_hello.is_some());
}

#[test]
fn what_is_no_record_is_given_up() {
    let mut tls = Tls::new(Side::Client, true);
    let mut offset = 0;
    feed(
        &mut tls,
        Side::Client,
        &mut offset,
        &usual_client_hello(),
        at(1, 1),
    );
    let mut wanted = 0;
    for _ in 0..100 {
        wanted = feed(&mut tls, Side::Client, &mut offset, &[b'x'; 100], at(1, 1));
    }
    assert_eq!(wanted, u64::MAX);
}
