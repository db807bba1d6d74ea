//! What the first bytes of requests and responses say; the rest is filling.

/// Fills payloads beyond their head.
pub(super) const FILL: u8 = 0x5a;

/// The payload of a segment: its first bytes, and how long it is. The head has an even length, so
/// that checksums need not look at the filling.
#[derive(Debug, Clone, Copy)]
pub(super) struct Payload {
    pub(super) head: &'static [u8],
    pub(super) bytes: usize,
}

/// What a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Http,
    Tls,
    /// Something that no analysis knows.
    Other,
}

impl Protocol {
    pub(super) fn port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Tls => 443,
            Self::Other => 9_000,
        }
    }

    /// What a request or a response begins with.
    pub(super) fn head(self, is_request: bool, is_first: bool) -> &'static [u8] {
        match (self, is_request, is_first) {
            (Self::Http, true, _) => REQUEST,
            (Self::Http, false, _) => RESPONSE,
            (Self::Tls, true, true) => CLIENT_HELLO,
            (Self::Tls, false, true) => SERVER_HELLO,
            (Self::Tls, _, false) => &[0x17, 3, 3, 0x3f, 0xff, FILL],
            (Self::Other, _, _) => &[],
        }
    }
}

const REQUEST: &[u8] = b"GET /api/v1/items/1024 HTTP/1.1\r\nHost: shop.example.com\r\n\
    User-Agent: synthesis/1.0\r\nAccept: application/json\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n\
    Server: synthesis/1.0\r\n\r\n";

/// A ClientHello for `shop.example.com` that offers TLS 1.3.
const CLIENT_HELLO: &[u8] = &[
    0x16, 3, 1, 0, 85, // handshake record
    1, 0, 0, 81, 3, 3, // ClientHello
    1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, // random
    17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, //
    0,  // no session
    0, 4, 0x13, 1, 0x13, 2, // two cipher suites
    1, 0, // no compression
    0, 36, // extensions
    0, 0, 0, 21, 0, 19, 0, 0, 16, // server_name
    b's', b'h', b'o', b'p', b'.', b'e', b'x', b'a', b'm', b'p', b'l', b'e', b'.', b'c', b'o', b'm',
    0, 43, 0, 3, 2, 3, 4, // supported_versions
    0, 23, 0, 0, // extended_master_secret
];

/// A ServerHello that takes TLS 1.3, then application data.
const SERVER_HELLO: &[u8] = &[
    0x16, 3, 3, 0, 50, // handshake record
    2, 0, 0, 46, 3, 3, // ServerHello
    1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, // random
    17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, //
    0,  // no session
    0x13, 1, 0, // cipher suite, no compression
    0, 6, 0, 43, 0, 2, 3, 4, // supported_versions
    0x17, 3, 3, 0x3f, 0xff, // application data
];

/// A query for the address of `shop.example.com`; the answer appends a record.
pub(super) const DNS_QUESTION: &[u8] = &[
    4, b's', b'h', b'o', b'p', 7, b'e', b'x', b'a', b'm', b'p', b'l', b'e', 3, b'c', b'o', b'm', 0,
    0, 1, 0, 1,
];
/// Its answer: a pointer to the name, A, IN, 60 s, an address.
pub(super) const DNS_ANSWER: &[u8] = &[0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 198, 51, 100, 7];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_even_and_their_records_whole() {
        for protocol in [Protocol::Http, Protocol::Tls, Protocol::Other] {
            for (is_request, is_first) in [(true, true), (true, false), (false, true)] {
                let head = protocol.head(is_request, is_first);
                assert_eq!(head.len() % 2, 0, "{protocol:?}");
            }
        }
        let record = |hello: &[u8]| usize::from(u16::from_be_bytes([hello[3], hello[4]])) + 5;
        assert_eq!(record(CLIENT_HELLO), CLIENT_HELLO.len());
        assert_eq!(record(SERVER_HELLO) + 5, SERVER_HELLO.len());
    }
}
