//! Records (RFC 8446 section 5), found in a stream: their headers, the first handshake message,
//! alerts in clear. The bodies of all others are skipped unseen.

use crate::application::delay::Moment;
use crate::limits::{TLS_HELLO_LENGTH_MAX, TLS_LOST_COUNT_MAX};
use crate::side::Side;

/// Bytes of a record's header, and of a handshake message's.
const HEADER: usize = 5;
const MESSAGE_HEADER: usize = 4;
/// The longest body: that of TLS 1.2 (RFC 5246 section 6.2.3).
const BODY_MAX: u16 = (1 << 14) + 2_048;

/// A version by its number on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TlsVersion(pub u16);

impl TlsVersion {
    pub(super) const TLS_1_3: Self = Self(0x0304);

    /// The name of a version that was published.
    #[must_use]
    pub const fn name(self) -> Option<&'static str> {
        Some(match self.0 {
            0x0300 => "SSL 3.0",
            0x0301 => "TLS 1.0",
            0x0302 => "TLS 1.1",
            0x0303 => "TLS 1.2",
            0x0304 => "TLS 1.3",
            _ => return None,
        })
    }
}

/// An alert that was sent in clear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alert {
    /// Who sent it, by the roles of TLS.
    pub side: Side,
    /// 1 is a warning, 2 is fatal.
    pub level: u8,
    /// What it says.
    pub description: u8,
    /// When.
    pub moment: Moment,
}

impl Alert {
    /// The name of the description (RFC 8446 section 6, and the registry for older ones).
    #[must_use]
    pub const fn name(&self) -> Option<&'static str> {
        Some(match self.description {
            0 => "close_notify",
            10 => "unexpected_message",
            20 => "bad_record_mac",
            21 => "decryption_failed",
            22 => "record_overflow",
            30 => "decompression_failure",
            40 => "handshake_failure",
            41 => "no_certificate",
            42 => "bad_certificate",
            43 => "unsupported_certificate",
            44 => "certificate_revoked",
            45 => "certificate_expired",
            46 => "certificate_unknown",
            47 => "illegal_parameter",
            48 => "unknown_ca",
            49 => "access_denied",
            50 => "decode_error",
            51 => "decrypt_error",
            60 => "export_restriction",
            70 => "protocol_version",
            71 => "insufficient_security",
            80 => "internal_error",
            86 => "inappropriate_fallback",
            90 => "user_canceled",
            100 => "no_renegotiation",
            109 => "missing_extension",
            110 => "unsupported_extension",
            111 => "certificate_unobtainable",
            112 => "unrecognized_name",
            113 => "bad_certificate_status_response",
            114 => "bad_certificate_hash_value",
            115 => "unknown_psk_identity",
            116 => "certificate_required",
            120 => "no_application_protocol",
            121 => "ech_required",
            _ => return None,
        })
    }
}

/// What a record holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    ChangeCipherSpec,
    Alert,
    Handshake,
    ApplicationData,
    Heartbeat,
}

/// The type and the length of the body that a header tells of, if it is one.
fn header(bytes: &[u8]) -> Option<(Kind, u16)> {
    let [kind, 3, 0..=4, high, low] = *bytes.first_chunk::<HEADER>()? else {
        return None;
    };
    let kind = match kind {
        20 => Kind::ChangeCipherSpec,
        21 => Kind::Alert,
        22 => Kind::Handshake,
        23 => Kind::ApplicationData,
        24 => Kind::Heartbeat,
        _ => return None,
    };
    let length = u16::from_be_bytes([high, low]);
    (length <= BODY_MAX).then_some((kind, length))
}

/// Whether a stream begins with a hello: a handshake record, then a ClientHello (`true`) or a
/// ServerHello (`false`).
pub(in crate::application) fn begins(bytes: &[u8]) -> Option<bool> {
    let (Kind::Handshake, MESSAGE_LENGTH_MIN..) = header(bytes)? else {
        return None;
    };
    match *bytes.get(HEADER..HEADER + MESSAGE_HEADER)? {
        [1, 0, ..] => Some(true),
        [2, 0, ..] => Some(false),
        _ => None,
    }
}

/// Whether bytes that are too few to tell may begin so.
pub(in crate::application) fn may_begin(bytes: &[u8]) -> bool {
    let is_short = bytes.len() < HEADER + MESSAGE_HEADER;
    let is_header = match *bytes {
        [kind] => kind == 22,
        [kind, major] => (kind, major) == (22, 3),
        [kind, major, minor, ..] => (kind, major) == (22, 3) && minor <= 4,
        [] => false,
    };
    is_short && is_header && matches!(bytes.get(HEADER), None | Some(1 | 2))
}

const MESSAGE_LENGTH_MIN: u16 = MESSAGE_HEADER as u16;

/// Whether a protected record has the length of one Finished message: header, hash of SHA-256 or
/// SHA-384, type, tag.
pub(super) const fn is_finished_length(length: u16) -> bool {
    const OVERHEAD: u16 = 4 + 1 + 16;
    length == 32 + OVERHEAD || length == 48 + OVERHEAD
}

/// What was found next in a stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// The bytes have ended.
    Nothing,
    /// The bytes have ended, and so many beyond are not wanted.
    Skip(u64),
    /// No record begins where one should.
    Lost,
    /// A record begins.
    Record { kind: Kind, length: u16 },
    /// An alert in clear.
    Alert { level: u8, description: u8 },
    /// The first handshake message is complete: take it.
    Hello,
}

/// Where a stream is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    /// In a record's header.
    #[default]
    Header,
    /// In a body that is collected; bytes left.
    Handshake(u16),
    Alert(u16),
    /// In a body that is skipped; bytes left.
    Other(u16),
    /// Anywhere: only the begin of a segment may be the begin of a record.
    Lost,
}

/// The records of one side.
#[derive(Default)]
pub(super) struct Records {
    place: Place,
    /// A header or an alert that is not complete yet.
    head: [u8; HEADER],
    head_length: u8,
    /// Segments in which no record began.
    lost_count: u8,
    has_said_hello: bool,
    message: Vec<u8>,
}

impl Records {
    /// Goes on to the next thing worth telling; `left` loses what was read.
    pub(super) fn next(&mut self, left: &mut &[u8]) -> Seen {
        if self.place == Place::Lost {
            if header(left).is_none() {
                self.lost_count = self.lost_count.saturating_add(1);
                *left = &[];
                return Seen::Nothing;
            }
            self.place = Place::Header;
        }
        while !left.is_empty() {
            match self.place {
                Place::Header => {
                    if self.fill_head(left, HEADER) {
                        let seen = self.begin_record();
                        if seen == Seen::Lost {
                            *left = &[];
                        }
                        return seen;
                    }
                }
                Place::Handshake(body) => {
                    if self.collect(left, body) {
                        return Seen::Hello;
                    }
                }
                Place::Alert(body) => {
                    if self.fill_head(left, usize::from(body)) {
                        self.place = Place::Header;
                        let [level, description, ..] = self.head;
                        return Seen::Alert { level, description };
                    }
                }
                Place::Other(body) => {
                    self.place = Place::Header;
                    match left.get(usize::from(body)..) {
                        Some(rest) => *left = rest,
                        None => {
                            let beyond = usize::from(body) - left.len();
                            *left = &[];
                            return Seen::Skip(beyond as u64);
                        }
                    }
                }
                Place::Lost => return Seen::Nothing,
            }
        }
        // An empty segment ends nothing, but a body without bytes may end here.
        match self.place {
            Place::Other(body) => {
                self.place = Place::Header;
                Seen::Skip(u64::from(body))
            }
            _ => Seen::Nothing,
        }
    }

    /// Moves bytes into the head until it has `length`; whether it has.
    fn fill_head(&mut self, left: &mut &[u8], length: usize) -> bool {
        while usize::from(self.head_length) < length.min(HEADER) {
            let Some((first, rest)) = left.split_first() else {
                return false;
            };
            if let Some(place) = self.head.get_mut(usize::from(self.head_length)) {
                *place = *first;
            }
            self.head_length += 1;
            *left = rest;
        }
        self.head_length = 0;
        true
    }

    fn begin_record(&mut self) -> Seen {
        let Some((kind, length)) = header(&self.head) else {
            self.lose();
            return Seen::Lost;
        };
        self.place = match kind {
            Kind::Handshake if !self.has_said_hello => Place::Handshake(length),
            // With a cipher an alert is longer: its two bytes and a tag at least.
            Kind::Alert if length == 2 => Place::Alert(length),
            _ => Place::Other(length),
        };
        Seen::Record { kind, length }
    }

    /// Collects a handshake body; whether the message is complete, or too long to be kept.
    fn collect(&mut self, left: &mut &[u8], body: u16) -> bool {
        let wanted = self.message_length().saturating_sub(self.message.len());
        let taken = wanted.min(usize::from(body)).min(left.len());
        let (more, rest) = left.split_at(taken);
        self.message.extend_from_slice(more);
        *left = rest;
        let body = body - taken as u16;
        self.place = if body == 0 {
            Place::Header
        } else {
            Place::Handshake(body)
        };
        let is_complete =
            self.message.len() >= MESSAGE_HEADER && self.message.len() >= self.message_length();
        if is_complete {
            self.has_said_hello = true;
            self.place = Place::Other(body);
        }
        is_complete
    }

    /// How long the message is that is collected, its header included, as far as it is kept.
    fn message_length(&self) -> usize {
        match *self.message.as_slice() {
            [_, high, middle, low, ..] => {
                let length = u32::from_be_bytes([0, high, middle, low]) as usize;
                (MESSAGE_HEADER + length).min(TLS_HELLO_LENGTH_MAX)
            }
            _ => MESSAGE_HEADER,
        }
    }

    /// The message that was collected; its room is given back.
    pub(super) fn take_message(&mut self) -> Vec<u8> {
        self.has_said_hello = true;
        std::mem::take(&mut self.message)
    }

    pub(super) const fn want_hello(&mut self) {
        self.has_said_hello = false;
    }

    pub(super) const fn is_amid_hello(&self) -> bool {
        !self.message.is_empty()
    }

    /// Forgets where it is.
    pub(super) fn lose(&mut self) {
        self.place = Place::Lost;
        self.head_length = 0;
        self.message = Vec::new();
        self.lost_count = self.lost_count.saturating_add(1);
    }

    /// Whether the stream is no longer one of records.
    pub(super) const fn is_given_up(&self) -> bool {
        self.lost_count >= TLS_LOST_COUNT_MAX
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.message.capacity()
    }
}
