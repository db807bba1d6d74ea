use super::*;
use crate::limits::{DNS_MESSAGE_KEPT_LENGTH_MAX, DNS_NAME_TEXT_LENGTH_MAX};

const QUERY: u16 = 0x0100;
const ANSWER: u16 = 0x8180;

fn at(time_ns: i64, frame: u64) -> Moment {
    Moment { time_ns, frame }
}

fn name(labels: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    for label in labels {
        out.push(label.len() as u8);
        out.extend(*label);
    }
    out.push(0);
    out
}

/// A message with one question, no records.
fn message(id: u16, flags: u16, labels: &[&[u8]], record_type: u16) -> Vec<u8> {
    let mut out = Vec::new();
    for word in [id, flags, 1, 0, 0, 0] {
        out.extend(word.to_be_bytes());
    }
    out.extend(name(labels));
    out.extend([record_type.to_be_bytes(), [0, 1]].concat());
    out
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u16).to_be_bytes(), message].concat()
}

fn send(dns: &mut Dns, side: Side, bytes: &[u8], moment: Moment) {
    dns.datagram(side, bytes, bytes.len() as u32, moment);
}

fn only_name(bytes: &[u8]) -> Option<String> {
    let message = Message::parse(bytes).ok()?;
    message.question.map(|_| message.name().into())
}

#[test]
fn an_answer_finds_its_query() {
    let mut dns = Dns::new(DnsKind::Unicast, false);
    let labels: &[&[u8]] = &[b"www", b"example", b"com"];
    send(
        &mut dns,
        Side::Client,
        &message(7, QUERY, labels, 1),
        at(100, 1),
    );
    send(
        &mut dns,
        Side::Client,
        &message(8, QUERY, labels, 28),
        at(150, 2),
    );
    send(
        &mut dns,
        Side::Client,
        &message(7, QUERY, labels, 1),
        at(5_100, 3),
    );
    // Case is not part of a name.
    let loud: &[&[u8]] = &[b"WWW", b"eXample", b"com"];
    send(
        &mut dns,
        Side::Server,
        &message(7, ANSWER | 3, loud, 1),
        at(6_100, 4),
    );
    send(
        &mut dns,
        Side::Server,
        &message(7, ANSWER | 3, loud, 1),
        at(6_200, 5),
    );
    let story = dns.finish();
    let counts = DnsCounts {
        queries: 2,
        retries: 1,
        answers: 2,
        answered: 1,
        unanswered: 1,
        unmatched: 1,
        ..DnsCounts::default()
    };
    assert_eq!(story.counts, counts);
    assert_eq!(story.rcodes, [(Rcode(3), 2)]);
    assert_eq!(story.delays.mean_ns(), Some(6_000));
    let first = &story.first[0];
    assert_eq!(&*first.name, "www.example.com");
    assert_eq!(first.record_type.name(), Some("A"));
    assert_eq!(first.rcode.and_then(Rcode::name), Some("NXDOMAIN"));
    assert_eq!((first.query.frame, first.retry_count), (1, 1));
    // What got no answer is worse than what was slow.
    assert_eq!(story.worst[0].record_type, RecordType(28));
    assert_eq!(story.worst[0].delay_ns(), None);
}

#[test]
fn names_are_written_as_in_a_master_file() {
    fn text(labels: &[&[u8]]) -> String {
        only_name(&message(1, QUERY, labels, 1)).unwrap()
    }
    assert_eq!(text(&[]), ".");
    assert_eq!(
        text(&[b"a.b", b"c\\d", b"e f\x00\xff"]),
        "a\\.b.c\\\\d.e\\032f\\000\\255"
    );
    let label = [b'x'; 63];
    let long = text(&[&label, &label, &label, &label[..61]]);
    assert_eq!(long.len(), DNS_NAME_TEXT_LENGTH_MAX - 2);
    let label = [0x1b; 63];
    let cut = text(&[&label, &label, &label]);
    assert!(cut.len() <= DNS_NAME_TEXT_LENGTH_MAX && cut.ends_with("\\027..."));
}

#[test]
fn pointers_are_followed_and_loops_end() {
    // RFC 1035 section 4.1.4: F.ISI.ARPA at 20, FOO.F.ISI.ARPA at 40.
    let mut bytes = message(1, ANSWER, &[], 1)[..12].to_vec();
    bytes.extend(b"\x03FOO\xc0\x17\x00\x01\x00\x01\x00");
    assert_eq!(bytes.len(), 0x17);
    bytes.extend(b"\x01F\x03ISI\x04ARPA\x00");
    assert_eq!(only_name(&bytes).as_deref(), Some("FOO.F.ISI.ARPA"));
    for pointer in [0x0c, 0x0d] {
        let mut looping = message(1, QUERY, &[], 1)[..12].to_vec();
        looping.extend([0xc0, pointer, 0xc0, 0x0c, 0, 1, 0, 1]);
        assert_eq!(only_name(&looping), None);
    }
    let mut endless = message(1, QUERY, &[], 1)[..12].to_vec();
    endless.extend(b"\x01a\xc0\x0c");
    assert_eq!(only_name(&endless), None);
}

#[test]
fn extended_codes_come_from_the_opt_record() {
    let mut bytes = message(1, ANSWER, &[b"a"], 1);
    bytes[7] = 1;
    bytes[11] = 1;
    bytes.extend(b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\x0a\x00\x00\x01");
    bytes.extend(b"\x00\x00\x29\x10\x00\x01\x00\x00\x00\x00\x00");
    let message = Message::parse(&bytes).unwrap();
    assert_eq!(message.rcode.name(), Some("BADVERS"));
}

#[test]
fn answers_without_a_question_match_by_id() {
    let mut dns = Dns::new(DnsKind::Unicast, false);
    send(
        &mut dns,
        Side::Client,
        &message(7, QUERY, &[b"a"], 1),
        at(0, 1),
    );
    let mut refused = message(7, ANSWER | 5, &[], 1)[..12].to_vec();
    refused[5] = 0;
    send(&mut dns, Side::Server, &refused, at(30, 2));
    let story = dns.finish();
    assert_eq!(story.counts.answered, 1);
    assert_eq!(story.first[0].rcode.and_then(Rcode::name), Some("REFUSED"));
}

#[test]
fn what_is_no_message_is_counted() {
    let mut dns = Dns::new(DnsKind::Unicast, false);
    send(&mut dns, Side::Client, b"hello", at(0, 1));
    let query = message(7, QUERY, &[b"a"], 1);
    dns.datagram(Side::Client, &query[..14], query.len() as u32, at(0, 2));
    let story = dns.finish();
    assert_eq!((story.counts.malformed, story.counts.cut), (1, 1));
}

#[test]
fn open_queries_are_bounded() {
    let mut dns = Dns::new(DnsKind::Unicast, false);
    let count = DNS_PENDING_COUNT_MAX as u16 + 10;
    for id in 0..count {
        send(
            &mut dns,
            Side::Client,
            &message(id, QUERY, &[b"a"], 1),
            at(0, 1),
        );
    }
    let story = dns.finish();
    assert_eq!(
        (story.counts.evicted, story.counts.unanswered),
        (10, count.into())
    );
}

#[test]
fn a_stream_gives_the_same_however_it_is_cut() {
    let labels: &[&[u8]] = &[b"www", b"example", b"com"];
    let queries = [
        framed(&message(1, QUERY, labels, 1)),
        framed(&message(2, QUERY, labels, 28)),
    ]
    .concat();
    let mut long = message(2, ANSWER, labels, 28);
    long.resize(2 * DNS_MESSAGE_KEPT_LENGTH_MAX, 0);
    let answers = [framed(&message(1, ANSWER, labels, 1)), framed(&long)].concat();
    for size in [1, 2, 3, 7, 100, 100_000] {
        let mut dns = Dns::new(DnsKind::Unicast, true);
        for (side, stream) in [(Side::Client, &queries), (Side::Server, &answers)] {
            let mut wanted = 0;
            for (index, bytes) in stream.chunks(size).enumerate() {
                let offset = (index * size) as u64;
                if offset >= wanted {
                    wanted = dns.segment(side, offset, bytes, at(5, 1));
                }
            }
        }
        let story = dns.finish();
        assert_eq!(
            (story.counts.queries, story.counts.answered),
            (2, 2),
            "{size}"
        );
        assert_eq!(story.counts.malformed, 0, "{size}");
    }
}

#[test]
fn a_stream_goes_on_behind_a_gap() {
    let mut dns = Dns::new(DnsKind::Unicast, true);
    let first = framed(&message(1, QUERY, &[b"a"], 1));
    let second = framed(&message(2, QUERY, &[b"b"], 1));
    dns.segment(Side::Client, 0, &first[..10], at(0, 1));
    dns.gap(Side::Client);
    dns.segment(Side::Client, 500, &[0xff; 40], at(0, 2));
    dns.segment(Side::Client, 600, &second, at(0, 3));
    let story = dns.finish();
    assert_eq!((story.counts.queries, story.counts.cut), (1, 1));
    assert_eq!(&*story.first[0].name, "b");
}

#[test]
fn a_zone_transfer_is_one_answer() {
    let mut dns = Dns::new(DnsKind::Unicast, true);
    const AXFR: u16 = 252;
    let query = framed(&message(1, QUERY, &[b"a"], AXFR));
    dns.segment(Side::Client, 0, &query, at(0, 1));
    let answer = framed(&message(1, ANSWER, &[b"a"], AXFR));
    dns.segment(Side::Server, 0, &answer.repeat(3), at(9, 2));
    let counts = dns.finish().counts;
    assert_eq!(
        (counts.answered, counts.continuations, counts.unmatched),
        (1, 2, 0)
    );
}
