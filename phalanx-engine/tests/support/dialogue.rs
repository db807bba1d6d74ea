//! Flows as short dialogues: what each side says, piece by piece; a file format for them, and the
//! builders of those that the fuzzer begins from.

use phalanx_engine::Side;

/// One segment or datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) side: Side,
    /// Bytes of the stream before it that are lacking; from 0x8000 on so many less, back.
    pub(crate) jump: u16,
    /// Bytes of it that were not captured.
    pub(crate) cut: u16,
    pub(crate) bytes: Vec<u8>,
}

/// What a flow says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Dialogue {
    pub(crate) protocol: u8,
    pub(crate) server_port: u16,
    pub(crate) pieces: Vec<Piece>,
}

/// Bytes before the pieces of a file, and before the payload of each.
const HEAD: usize = 3;
const PIECE_HEAD: usize = 7;

impl Dialogue {
    fn new(protocol: u8, server_port: u16) -> Self {
        Self {
            protocol,
            server_port,
            pieces: Vec::new(),
        }
    }

    fn client(self, bytes: impl AsRef<[u8]>) -> Self {
        self.say(Side::Client, bytes.as_ref())
    }

    fn server(self, bytes: impl AsRef<[u8]>) -> Self {
        self.say(Side::Server, bytes.as_ref())
    }

    fn say(mut self, side: Side, bytes: &[u8]) -> Self {
        self.pieces.push(Piece {
            side,
            jump: 0,
            cut: 0,
            bytes: bytes.to_vec(),
        });
        self
    }

    /// The bytes of its file.
    pub(crate) fn write(&self) -> Vec<u8> {
        let mut out = vec![self.protocol];
        out.extend(self.server_port.to_be_bytes());
        for piece in &self.pieces {
            out.push(u8::from(piece.side == Side::Server));
            let length = u16::try_from(piece.bytes.len()).expect("short piece");
            for word in [piece.jump, piece.cut, length] {
                out.extend(word.to_be_bytes());
            }
            out.extend(&piece.bytes);
        }
        out
    }

    /// The dialogue of a file, as far as it goes.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let (head, mut left) = bytes.split_at_checked(HEAD)?;
        let word = |bytes: &[u8], at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let mut dialogue = Self::new(head[0], word(head, 1));
        while let Some((head, rest)) = left.split_at_checked(PIECE_HEAD) {
            let length = usize::from(word(head, 5)).min(rest.len());
            let (bytes, rest) = rest.split_at(length);
            dialogue.pieces.push(Piece {
                side: if head[0] & 1 == 0 {
                    Side::Client
                } else {
                    Side::Server
                },
                jump: word(head, 1),
                cut: word(head, 3),
                bytes: bytes.to_vec(),
            });
            left = rest;
        }
        Some(dialogue)
    }
}

const TCP: u8 = 6;
const UDP: u8 = 17;

/// All that the fuzzer begins from, by name.
pub(crate) fn all() -> Vec<(&'static str, Dialogue)> {
    let mut all = dns_dialogues();
    all.extend(http_dialogues());
    all.extend(tls_dialogues());
    all.extend(quic_dialogues());
    all
}

fn name(labels: &[&str]) -> Vec<u8> {
    let mut out = Vec::new();
    for label in labels {
        out.push(u8::try_from(label.len()).expect("short label"));
        out.extend(label.as_bytes());
    }
    out.push(0);
    out
}

/// A message with one question and `records` behind it.
fn dns(
    id: u16,
    flags: u16,
    labels: &[&str],
    kind: u16,
    counts: [u16; 3],
    records: &[u8],
) -> Vec<u8> {
    let mut out = Vec::new();
    for word in [id, flags, 1, counts[0], counts[1], counts[2]] {
        out.extend(word.to_be_bytes());
    }
    out.extend(name(labels));
    out.extend(kind.to_be_bytes());
    out.extend([0, 1]);
    out.extend(records);
    out
}

const A_RECORD: &[u8] = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x01\x2c\x00\x04\x0a\x00\x00\x01";
const OPT_RECORD: &[u8] = b"\x00\x00\x29\x04\xd0\x01\x00\x00\x00\x00\x00";

fn dns_dialogues() -> Vec<(&'static str, Dialogue)> {
    let labels: &[&str] = &["www", "example", "com"];
    let query = |id| dns(id, 0x0100, labels, 1, [0, 0, 1], OPT_RECORD);
    let answer = |id, flags| {
        let records = [A_RECORD, OPT_RECORD].concat();
        dns(id, flags, labels, 1, [1, 0, 1], &records)
    };
    let framed = |message: Vec<u8>| {
        let length = u16::try_from(message.len()).expect("short message");
        [&length.to_be_bytes()[..], &message].concat()
    };
    let transfer = dns(3, 0x0000, &["example", "com"], 252, [0, 0, 0], &[]);
    let part = dns(3, 0x8400, &["example", "com"], 252, [1, 0, 0], A_RECORD);
    let pointers = [
        b"\xc0\x10\x00\x01\x00\x01".as_slice(),
        &[0xc0, 0x0c].repeat(8),
    ]
    .concat();
    let mut looping = dns(4, 0x0100, &[], 1, [0, 0, 0], &pointers);
    looping.drain(12..17);
    vec![
        (
            "dns_lookup",
            Dialogue::new(UDP, 53)
                .client(query(1))
                .client(query(1))
                .server(answer(1, 0x8180))
                .client(query(2))
                .server(answer(2, 0x8383))
                .server(answer(2, 0x8182)),
        ),
        (
            "dns_escapes",
            Dialogue::new(UDP, 5_355)
                .client(dns(9, 0, &["a.b\\", "\u{1b}[2J", ""], 28, [0; 3], &[]))
                .client(looping)
                .client("short"),
        ),
        (
            "dns_stream",
            Dialogue::new(TCP, 53)
                .client([framed(query(1)), framed(query(2))].concat())
                .server([framed(answer(2, 0x8180)), framed(answer(1, 0x8180))].concat())
                .client(framed(transfer))
                .server(framed(part).repeat(5)),
        ),
    ]
}

fn http_dialogues() -> Vec<(&'static str, Dialogue)> {
    vec![
        (
            "http_exchanges",
            Dialogue::new(TCP, 80)
                .client("GET /path?secret=1 HTTP/1.1\r\nHost: a.example\r\n\r\n")
                .server("HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nhello world")
                .client("HEAD / HTTP/1.1\r\nHost: a\r\n\r\nPUT /x HTTP/1.1\r\n")
                .client("Expect: 100-continue\r\nContent-Length: 4\r\n\r\n")
                .server("HTTP/1.1 304 Not Modified\r\nContent-Length: 999\r\n\r\n")
                .server("HTTP/1.1 100 Continue\r\n\r\n")
                .client("body")
                .server("HTTP/1.1 500 Internal\r\nTransfer-Encoding: chunked\r\n\r\n")
                .server("5;a=b\r\nhello\r\n10\r\n0123456789abcdef\r\n0\r\nTrailer: x\r\n\r\n"),
        ),
        (
            "http_until_close",
            Dialogue::new(TCP, 8_080)
                .client("GET http://user:password@b.example/a;b HTTP/1.0\r\n\r\n")
                .server("HTTP/1.0 200 OK\r\nServer: x\r\n\r\nbody that goes on")
                .server("and on")
                .client("POST /z HTTP/1.0\r\n\r\n")
                .server("HTTP/1.0 404 Not Found\r\n\r\n"),
        ),
        (
            "http_tunnel",
            Dialogue::new(TCP, 3_128)
                .client("CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n")
                .server("HTTP/1.1 200 Connection established\r\n\r\n")
                .client(client_hello())
                .server(server_hello(&[1; 32], 0x0303)),
        ),
        (
            "http_upgrade",
            Dialogue::new(TCP, 80)
                .client("GET /chat HTTP/1.1\r\nUpgrade: websocket\r\n\r\n")
                .server("HTTP/1.1 101 Switching Protocols\r\n\r\n")
                .server(b"\x81\x05hello"),
        ),
        (
            "http2",
            Dialogue::new(TCP, 80).client("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"),
        ),
        (
            "mail_to_tls",
            Dialogue::new(TCP, 25)
                .server("220 mail.example ESMTP\r\n")
                .client("EHLO me\r\n")
                .server("250 STARTTLS\r\n")
                .client("STARTTLS\r\n")
                .server("220 go ahead\r\n")
                .client(client_hello())
                .server(server_hello(&[1; 32], 0x0304)),
        ),
    ]
}

fn vector(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).expect("short vector");
    [&length.to_be_bytes()[..], bytes].concat()
}

fn record(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind, 3, 3][..], &vector(body)].concat()
}

fn handshake(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len())
        .expect("short message")
        .to_be_bytes();
    record(22, &[&[kind], &length[1..], body].concat())
}

fn extension(number: u16, body: &[u8]) -> Vec<u8> {
    [&number.to_be_bytes()[..], &vector(body)].concat()
}

fn client_hello() -> Vec<u8> {
    let name = [&[0][..], &vector(b"www.example.com")].concat();
    let extensions = [
        extension(0x1a1a, &[]),
        extension(0, &vector(&name)),
        extension(16, &vector(b"\x02h2\x08http/1.1")),
        extension(43, &[4, 3, 4, 3, 3]),
        extension(51, &[0; 40]),
    ];
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.push(32);
    body.extend([9; 32]);
    body.extend(vector(&[0x13, 0x01, 0xc0, 0x2f]));
    body.extend([1, 0]);
    body.extend(vector(&extensions.concat()));
    handshake(1, &body)
}

fn server_hello(random: &[u8; 32], version: u16) -> Vec<u8> {
    let extensions = if version == 0x0304 {
        [
            extension(43, &version.to_be_bytes()),
            extension(51, &[0; 36]),
        ]
        .concat()
    } else {
        extension(16, &vector(b"\x02h2"))
    };
    let mut body = vec![3, 3];
    body.extend(random);
    body.push(32);
    body.extend([9; 32]);
    body.extend([0x13, 0x01, 0]);
    body.extend(vector(&extensions));
    handshake(2, &body)
}

/// The random of a HelloRetryRequest.
const RETRY_RANDOM: [u8; 32] = [
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91,
    0xc2, 0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
];

fn tls_dialogues() -> Vec<(&'static str, Dialogue)> {
    let change = record(20, &[1]);
    let data = |length| record(23, &vec![0xdd; length]);
    let flight = [server_hello(&[1; 32], 0x0304), change.clone(), data(300)].concat();
    vec![
        (
            "tls_1_3",
            Dialogue::new(TCP, 443)
                .client(client_hello())
                .server(server_hello(&RETRY_RANDOM, 0x0304))
                .client([client_hello(), data(60)].concat())
                .server(flight)
                .client([change.clone(), data(53), data(90)].concat())
                .server([data(200), data(70)].concat()),
        ),
        (
            "tls_1_2",
            Dialogue::new(TCP, 443)
                .client(client_hello())
                .server(
                    [
                        server_hello(&[1; 32], 0x0303),
                        record(22, &[11, 0, 0, 2, 0, 0]),
                    ]
                    .concat(),
                )
                .client(
                    [
                        record(22, &[16, 0, 0, 1, 0]),
                        change.clone(),
                        record(22, &[0; 40]),
                    ]
                    .concat(),
                )
                .server([change, record(22, &[0; 40])].concat())
                .client(data(100))
                .server(data(1_000))
                .client(record(21, &[0; 26])),
        ),
        (
            "tls_alert",
            Dialogue::new(TCP, 8_443)
                .client(client_hello())
                .server([record(21, &[1, 112]), record(21, &[2, 40])].concat()),
        ),
    ]
}

/// A packet with a long header; `kind` are the bits of version 1.
fn long(version: u32, kind: u8, ids: [u8; 2], body: u16) -> Vec<u8> {
    let shift = u8::from(version == 0x6b33_43cf);
    let mut out = vec![0xc0 | ((kind + shift) & 3) << 4];
    out.extend(version.to_be_bytes());
    for length in ids {
        out.push(length);
        out.extend(vec![0xaa; length.into()]);
    }
    if kind == 0 {
        out.extend([3, 1, 2, 3]);
    }
    if kind < 3 {
        out.extend((body | 0x4000).to_be_bytes());
    }
    out.extend(vec![0xbb; body.into()]);
    out
}

fn quic_dialogues() -> Vec<(&'static str, Dialogue)> {
    let mut handshake = Dialogue::new(UDP, 443)
        .client([long(1, 0, [8, 4], 200), long(1, 1, [8, 4], 30)].concat())
        .server([long(1, 0, [4, 8], 60), long(1, 2, [4, 8], 90)].concat())
        .client([long(1, 2, [8, 4], 40), vec![0x41; 20]].concat());
    for index in 0..24_u8 {
        let first = 0x40 | (index / 4 % 2) << 5;
        handshake = handshake.server([first; 21]).client([first ^ 0x20; 21]);
    }
    let offer = [
        long(0, 3, [4, 8], 0),
        vec![0, 0, 0, 1, 0x6b, 0x33, 0x43, 0xcf],
    ]
    .concat();
    let negotiation = Dialogue::new(UDP, 443)
        .client(long(0x1a2a_3a4a, 0, [8, 4], 1_200))
        .server(offer)
        .client(long(0x6b33_43cf, 0, [8, 4], 100))
        .server(long(0x6b33_43cf, 3, [4, 8], 40));
    vec![
        ("quic_handshake", handshake),
        ("quic_negotiation", negotiation),
    ]
}
