use super::*;
use crate::limits::HTTP_PATH_LENGTH_MAX;

fn at(time_ns: i64, frame: u64) -> Moment {
    Moment { time_ns, frame }
}

/// Feeds both sides, one after the other: time is the index of the step.
fn feed(steps: &[(Side, &[u8])]) -> HttpStory {
    let mut http = Http::default();
    let mut next = Sides::<u64>::default();
    let mut ends = Sides::<u64>::default();
    for (index, (side, bytes)) in steps.iter().enumerate() {
        let offset = *ends.get(*side);
        *ends.get_mut(*side) += bytes.len() as u64;
        let begin = next.get(*side).saturating_sub(offset) as usize;
        if let Some(bytes) = bytes.get(begin..).filter(|bytes| !bytes.is_empty()) {
            let moment = at(index as i64 * 1_000, index as u64 + 1);
            *next.get_mut(*side) = http.segment(*side, offset + begin as u64, bytes, moment);
        }
    }
    http.finish()
}

use Side::{Client, Server};

#[test]
fn an_exchange_is_told() {
    let story = feed(&[
        (Client, b"GET /index.html?token=secret HTTP/1.1\r\n"),
        (Client, b"Host: www.example.com\r\nAccept: */*\r\n\r\n"),
        (
            Server,
            b"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\nhel",
        ),
        (Server, b"lo"),
        (Client, b"HEAD / HTTP/1.1\r\n\r\n"),
        (Server, b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n"),
        (Client, b"POST /a HTTP/1.1\r\ncontent-length: 4\r\n\r\nGET "),
        (
            Server,
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 Busy\r\n\r\n",
        ),
    ]);
    assert_eq!((story.requests, story.responses), (3, 3));
    assert_eq!(story.status_classes, [1, 1, 0, 1, 1]);
    assert_eq!((story.unanswered, story.unmatched, story.cut), (0, 0, 0));
    let first = &story.first[0];
    assert_eq!(
        (first.method, &*first.path, first.status),
        ("GET", "/index.html", Some(404))
    );
    assert_eq!(first.host.as_deref(), Some("www.example.com"));
    assert_eq!(first.delay_ns(), Some(1_000));
    assert_eq!(story.worst[0].status, Some(503));
}

#[test]
fn requests_in_a_row_are_answered_in_their_order() {
    let story = feed(&[
        (
            Client,
            b"GET /1 HTTP/1.1\r\n\r\nGET /2 HTTP/1.1\r\n\r\nGET /3 HTTP/1.1\r\n\r\n",
        ),
        (
            Server,
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n1",
        ),
        (
            Server,
            b"0\r\n0123456789abcdef\r\n0\r\nTrailer: x\r\n\r\nHTTP/1.1 301 Moved\r\n",
        ),
        (Server, b"Content-Length: 0\r\n\r\n"),
    ]);
    let statuses: Vec<_> = story
        .first
        .iter()
        .map(|it| (&*it.path, it.status))
        .collect();
    assert_eq!(
        statuses,
        [("/1", Some(200)), ("/2", Some(301)), ("/3", None)]
    );
    assert_eq!(story.unanswered, 1);
}

#[test]
fn a_body_without_length_ends_with_a_message_that_begins_a_segment() {
    let story = feed(&[
        (Client, b"GET /1 HTTP/1.0\r\n\r\n"),
        (Server, b"HTTP/1.0 200 OK\r\n\r\nbody"),
        (Server, b"more HTTP/1.1 500 of it"),
        (Client, b"GET /2 HTTP/1.0\r\n\r\n"),
        (Server, b"HTTP/1.0 204 None\r\n\r\n"),
    ]);
    assert_eq!((story.responses, story.status_classes[1]), (2, 2));
    assert_eq!(story.cut, 0);
}

#[test]
fn heads_are_read_however_they_are_cut() {
    let request = b"\r\nGET /path HTTP/1.1\r\nHost: a\r\n\r\n";
    let response = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcHTTP/1.1 204 -\r\n\r\n";
    for size in [1, 2, 3, 7, 1_000] {
        let mut steps: Vec<(Side, &[u8])> = Vec::new();
        steps.extend(request.chunks(size).map(|bytes| (Client, bytes)));
        steps.extend(request.chunks(size).map(|bytes| (Client, bytes)));
        steps.extend(response.chunks(size).map(|bytes| (Server, bytes)));
        let story = feed(&steps);
        assert_eq!(
            (story.requests, story.responses, story.unanswered),
            (2, 2, 0),
            "{size}"
        );
        assert_eq!(story.first[1].host.as_deref(), Some("a"));
    }
}

#[test]
fn secrets_of_a_target_are_dropped() {
    let path = |target: &str| {
        let line = format!("GET {target} HTTP/1.1");
        match line::start(line.as_bytes(), true) {
            Some(Start::Request { path, host, .. }) => (path, host.map(String::from)),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(&*path("/a;session=1/b?c=d#e").0, "/a");
    let (absolute, host) = path("http://user:password@host:81/x?y");
    assert_eq!((&*absolute, host.as_deref()), ("/x", Some("host:81")));
    assert_eq!(&*path("/\x1b[2J\u{e9}").0, "/\\x1b[2J\\xc3\\xa9");
    assert!(path(&format!("/{}", "x".repeat(5_000))).0.len() <= HTTP_PATH_LENGTH_MAX);
    assert_eq!(&*line::host(b"user:password@host"), "host");
}

#[test]
fn a_tunnel_ends_http() {
    let story = feed(&[
        (Client, b"CONNECT user@example.com:443 HTTP/1.1\r\n\r\n"),
        (Server, b"HTTP/1.1 200 OK\r\n\r\n"),
    ]);
    assert!(story.is_tunnel);
    assert_eq!(&*story.first[0].path, "example.com:443");
}

#[test]
fn other_protocols_with_such_lines_are_not_http() {
    assert_eq!(begins(b"OPTIONS rtsp://a RTSP/1.0\r\n"), Some(false));
    assert_eq!(begins(b"HELO mail\r\n"), Some(false));
    assert_eq!(begins(b"\x16\x03\x01"), Some(false));
    assert_eq!(begins(b"RPC_IN_DATA /a HTTP/1.1\r\n"), Some(true));
    assert_eq!(begins(b"GE"), None);
    assert_eq!(begins(b"HTT"), None);
    assert_eq!(begins(b"GET /a"), Some(true));
    assert_eq!(begins(b"GET / HTTP/1.1\r\n"), Some(true));
}

#[test]
fn a_gap_in_a_head_keeps_its_start() {
    let mut http = Http::default();
    http.segment(Client, 0, b"GET /cut HTTP/1.1\r\nHost: exa", at(1, 1));
    http.gap(Client);
    http.segment(Server, 0, b"HTTP/1.1 200 OK\r\nServ", at(5, 2));
    http.gap(Server);
    let story = http.finish();
    assert_eq!((story.requests, story.responses, story.cut), (1, 1, 2));
    assert_eq!(story.first[0].delay_ns(), Some(4));
    assert_eq!(story.first[0].host, None);
}

#[test]
fn odd_lengths_are_no_lengths() {
    assert_eq!(line::decimal(b"+5"), None);
    assert_eq!(line::decimal(b"99999999999999999999999"), None);
    assert_eq!(line::chunk_size(b"1f;name=value"), Some(31));
    assert_eq!(line::chunk_size(b""), None);
    assert_eq!(line::chunk_size(b"-1"), None);
    assert_eq!(line::chunk_size(b"5x"), None);
}
