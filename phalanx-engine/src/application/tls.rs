//! TLS handshakes, from the records of a TCP stream: both hellos, alerts in clear, and when
//! application data began. Nothing is decrypted, and certificates are not read.

mod hello;
mod record;

use super::delay::Moment;
use crate::limits::TLS_ALERT_COUNT_MAX;
use crate::side::{Side, Sides};
use hello::{ClientHello, Hello, ServerHello};
pub use record::{Alert, TlsVersion};
use record::{Kind, Records, Seen};

pub(super) use record::{begins, may_begin};

/// What the TLS records of one flow tell. Each moment is that of the segment that held the end of
/// what it names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsStory {
    /// The server's name that the client asked for.
    pub server_name: Option<Box<str>>,
    /// The first application protocol that the client offered (ALPN).
    pub alpn_offered: Option<Box<str>>,
    /// The one that the server chose; from TLS 1.3 on it is encrypted, and absent.
    pub alpn_chosen: Option<Box<str>>,
    /// The highest version that the client offered.
    pub version_offered: Option<TlsVersion>,
    /// The version that the server chose.
    pub version_chosen: Option<TlsVersion>,
    /// The cipher suite that the server chose, by its number in IANA's registry.
    pub cipher_suite: Option<u16>,
    /// The first ClientHello.
    pub client_hello: Option<Moment>,
    /// The HelloRetryRequest (RFC 8446 section 4.1.4): the client had to ask again.
    pub hello_retry: Option<Moment>,
    /// The ServerHello.
    pub server_hello: Option<Moment>,
    /// Whether an earlier session is resumed: the server took a pre-shared key, or gave the
    /// client's session id back. Absent without both hellos.
    pub is_resumed: Option<bool>,
    /// Whether the client sent data before the server's hello (0-RTT).
    pub has_early_data: bool,
    /// The first application data of each side. In TLS 1.3 the end of the handshake looks like
    /// data: the client's first is what follows a record of the length of a Finished message, the
    /// server's first is what follows the client's.
    pub application_data: Sides<Option<Moment>>,
    /// Alerts in clear, in their order.
    pub alerts: Vec<Alert>,
    /// Alerts in clear beyond those.
    pub alerts_beyond: u32,
    /// Whether the capture lacks a part of the handshake, or a hello was too long.
    pub is_cut: bool,
}

impl TlsStory {
    /// Nanoseconds from the first ClientHello to the server's first answer to it: its ServerHello
    /// or its HelloRetryRequest.
    #[must_use]
    pub fn hello_delay_ns(&self) -> Option<u64> {
        let answer = self.hello_retry.or(self.server_hello)?;
        Some(self.client_hello?.until(answer))
    }

    /// Nanoseconds from the first ClientHello to a side's first application data.
    #[must_use]
    pub fn data_delay_ns(&self, side: Side) -> Option<u64> {
        let data = (*self.application_data.get(side))?;
        Some(self.client_hello?.until(data))
    }
}

/// The type of the message by which a server asks for a hello (RFC 5246 section 7.4.1.1).
const HELLO_REQUEST: u8 = 0;

/// The TLS records of one flow.
pub(super) struct Tls {
    story: TlsStory,
    records: Sides<Records>,
    /// The side that is TLS's client: who sent a ClientHello. The roles of TCP may be guessed.
    client: Side,
    session_id: Option<Box<[u8]>>,
    /// The segment before.
    last: Sides<Moment>,
    /// The client's first data before a ServerHello: early, or the capture lacks that hello.
    data_before_hello: Option<Moment>,
    /// Whether the client's record of a Finished message was seen (TLS 1.3).
    is_client_finished: bool,
}

impl Tls {
    /// Begins with the kind of hello that a side sends.
    pub(super) fn new(side: Side, is_client_hello: bool) -> Self {
        Self {
            story: TlsStory::default(),
            records: Sides::default(),
            client: if is_client_hello { side } else { side.other() },
            session_id: None,
            last: Sides::default(),
            data_before_hello: None,
            is_client_finished: false,
        }
    }

    /// Bytes of a stream; the offset of the next byte that is wanted.
    pub(super) fn segment(&mut self, side: Side, offset: u64, bytes: &[u8], moment: Moment) -> u64 {
        *self.last.get_mut(side) = moment;
        let mut left = bytes;
        let end = offset.saturating_add(bytes.len() as u64);
        loop {
            let seen = self.records.get_mut(side).next(&mut left);
            match seen {
                Seen::Nothing if self.is_done(side) => return u64::MAX,
                Seen::Nothing => return end,
                Seen::Skip(length) => return end.saturating_add(length),
                Seen::Lost => self.story.is_cut |= !self.is_past_hellos(),
                Seen::Record { kind, length } => self.take_record(side, kind, length, moment),
                Seen::Alert { level, description } => self.take_alert(Alert {
                    side: self.role(side),
                    level,
                    description,
                    moment,
                }),
                Seen::Hello => self.take_hello(side, moment),
            }
            if self.is_done(side) {
                return u64::MAX;
            }
        }
    }

    /// The capture lacks bytes of the stream that were wanted.
    pub(super) fn gap(&mut self, side: Side) {
        if self.records.get(side).is_amid_hello() {
            self.take_hello(side, *self.last.get(side));
            self.story.is_cut = true;
        }
        self.records.get_mut(side).lose();
    }

    const fn role(&self, side: Side) -> Side {
        match (side, self.client) {
            (Side::Client, Side::Client) | (Side::Server, Side::Server) => Side::Client,
            _ => Side::Server,
        }
    }

    const fn is_past_hellos(&self) -> bool {
        self.story.client_hello.is_some() && self.story.server_hello.is_some()
    }

    /// Whether nothing more is wanted of a side.
    fn is_done(&self, side: Side) -> bool {
        let is_told = self.story.application_data.get(self.role(side)).is_some();
        self.records.get(side).is_given_up()
            // Early data is not the end: a refusal in clear may follow.
            || is_told && self.story.server_hello.is_some()
    }

    fn take_record(&mut self, side: Side, kind: Kind, length: u16, moment: Moment) {
        if kind != Kind::ApplicationData {
            return;
        }
        let role = self.role(side);
        let is_early = role == Side::Client
            && self.story.server_hello.is_none()
            && self.story.client_hello.is_some();
        if is_early {
            self.data_before_hello.get_or_insert(moment);
            return;
        }
        let is_data = self.story.version_chosen != Some(TlsVersion::TLS_1_3)
            || match role {
                Side::Client => {
                    let was_finished = self.is_client_finished;
                    self.is_client_finished |= record::is_finished_length(length);
                    was_finished
                }
                Side::Server => self.story.application_data.client.is_some(),
            };
        if is_data {
            self.story
                .application_data
                .get_mut(role)
                .get_or_insert(moment);
        }
    }

    fn take_alert(&mut self, alert: Alert) {
        if self.story.alerts.len() < TLS_ALERT_COUNT_MAX {
            self.story.alerts.push(alert);
        } else {
            self.story.alerts_beyond = self.story.alerts_beyond.saturating_add(1);
        }
    }

    fn take_hello(&mut self, side: Side, moment: Moment) {
        let message = self.records.get_mut(side).take_message();
        if matches!(*message, [HELLO_REQUEST, ..]) {
            self.records.get_mut(side).want_hello();
        }
        match hello::parse(&message) {
            Some(Hello::Client(hello)) => self.take_client_hello(side, hello, moment),
            Some(Hello::Server(hello)) => self.take_server_hello(side, hello, moment),
            None => {}
        }
    }

    fn take_client_hello(&mut self, side: Side, hello: ClientHello, moment: Moment) {
        self.client = side;
        self.story.is_cut |= hello.is_cut;
        if self.story.client_hello.is_none() {
            self.story.client_hello = Some(moment);
            self.story.server_name = hello.server_name;
            self.story.alpn_offered = hello.alpn;
            self.story.version_offered = Some(hello.version);
        }
        self.session_id = Some(hello.session_id);
    }

    fn take_server_hello(&mut self, side: Side, hello: ServerHello, moment: Moment) {
        self.client = side.other();
        self.story.is_cut |= hello.is_cut;
        self.story.version_chosen = Some(hello.version);
        self.story.cipher_suite = Some(hello.cipher_suite);
        if hello.is_retry_request {
            self.story.hello_retry.get_or_insert(moment);
            // Both sides say hello once more.
            self.records.client.want_hello();
            self.records.server.want_hello();
            return;
        }
        self.story.server_hello.get_or_insert(moment);
        self.story.alpn_chosen = hello.alpn;
        if hello.version == TlsVersion::TLS_1_3 {
            self.story.has_early_data = self.data_before_hello.is_some();
            self.story.application_data.client = self.data_before_hello;
        }
        self.story.is_resumed = self.session_id.as_ref().map(|asked| {
            if hello.version == TlsVersion::TLS_1_3 {
                hello.has_pre_shared_key
            } else {
                !asked.is_empty() && *asked == hello.session_id
            }
        });
    }

    /// Gives hellos up that are not complete.
    pub(super) fn shed(&mut self) {
        for side in [Side::Client, Side::Server] {
            if self.records.get(side).is_amid_hello() {
                self.gap(side);
            }
        }
    }

    pub(super) fn heap_bytes(&self) -> usize {
        let story = &self.story;
        let texts = [&story.server_name, &story.alpn_offered, &story.alpn_chosen];
        let texts = texts.into_iter().flatten().map(|text| text.len());
        texts.sum::<usize>()
            + story.alerts.capacity() * size_of::<Alert>()
            + self.session_id.as_ref().map_or(0, |id| id.len())
            + self.records.client.heap_bytes()
            + self.records.server.heap_bytes()
    }

    pub(super) fn finish(mut self) -> TlsStory {
        for side in [Side::Client, Side::Server] {
            self.gap(side);
        }
        if self.story.server_hello.is_none() {
            self.story.application_data.client = self.data_before_hello;
        }
        self.story
    }
}

#[cfg(test)]
mod tests;
