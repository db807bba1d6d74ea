//! What an application does with its connection, from the payload of one flow: DNS, TLS, HTTP/1
//! and QUIC, each as far as it is in clear.
//!
//! Segments that come out of order wait for a while; what the capture lacks is passed over. A flow
//! that says nothing known, or has said all, costs a comparison for each segment.

mod bytes;
mod delay;
mod dns;
mod example;
mod http;
mod order;
mod quic;
mod text;
mod tls;

pub use delay::{Delays, Moment};
pub use dns::{DnsCounts, DnsExchange, DnsKind, DnsStory, Rcode, RecordType};
pub use http::{HttpExchange, HttpStory};
pub use quic::{QuicStory, QuicVersion, SpinStory, SpinUse};
pub use tls::{Alert, TlsStory, TlsVersion};

use phalanx_common::packet::protocol;

use crate::limits::{
    APPLICATION_DATAGRAM_PROBE_COUNT_MAX, APPLICATION_PROBE_COUNT_MAX, APPLICATION_SCARCE_BYTES_MAX,
};
use crate::side::{Side, Sides};
use dns::Dns;
use http::Http;
use order::{Parked, Piece};
use quic::Quic;
use tls::Tls;

/// A protocol that was recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ApplicationProtocol {
    /// DNS, or a kin of it.
    Dns,
    /// TLS.
    Tls,
    /// HTTP/1.
    Http,
    /// HTTP/2 in clear, of which nothing more is told.
    Http2,
    /// QUIC.
    Quic,
}

impl ApplicationProtocol {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::Tls => "tls",
            Self::Http => "http",
            Self::Http2 => "http2",
            Self::Quic => "quic",
        }
    }
}

/// What the payload of one flow told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApplicationStory {
    /// The protocol that was recognised last: behind an HTTP proxy this is what the tunnel holds.
    pub protocol: Option<ApplicationProtocol>,
    /// DNS messages.
    pub dns: Option<Box<DnsStory>>,
    /// TLS records.
    pub tls: Option<Box<TlsStory>>,
    /// HTTP messages.
    pub http: Option<Box<HttpStory>>,
    /// HTTP messages within a tunnel that those above opened.
    pub inner_http: Option<Box<HttpStory>>,
    /// QUIC packets.
    pub quic: Option<Box<QuicStory>>,
}

/// What is known of a flow's protocol.
enum State {
    /// Nothing yet: a stream or datagrams that are looked at.
    Probe(Sides<Probe>),
    /// DNS by its port, without a message so far.
    Port(DnsKind),
    Dns(Box<Dns>),
    Tls(Box<Tls>),
    Http(Box<Http>),
    Http2,
    Quic(Box<Quic>),
    /// Nothing, and nothing more is looked at.
    Silent,
}

/// One side of a flow of which the protocol is not known.
#[derive(Clone, Copy, Default)]
struct Probe {
    /// Payloads that were looked at.
    count: u8,
    /// A segment too short to tell, which the next one continues.
    held: [u8; Probe::HELD_MAX],
    held_length: u8,
    held_moment: Moment,
}

impl Probe {
    /// Enough for the longest method and its space, a record's and a hello's header.
    const HELD_MAX: usize = 16;
}

/// What the payload of one flow tells, while it goes on.
pub struct Application {
    /// The offset of each side's stream before which nothing is wanted any more.
    next: Sides<u64>,
    state: State,
    /// Segments that wait for those before them.
    parked: Option<Box<Parked>>,
    /// The HTTP of the proxy through which a tunnel was opened.
    proxy: Option<Box<Http>>,
    /// Whether a port is that of QUIC.
    is_quic_port: bool,
    /// Whether all flows together hold so much that this one keeps the least.
    is_scarce: bool,
    /// How often something was not kept because of that.
    unkept_count: u32,
    /// Bytes on the heap after the last payload.
    held_bytes: u32,
}

impl Application {
    /// A flow of an IP protocol whose payload has not been seen yet.
    #[must_use]
    pub fn new(protocol: u8, client_port: u16, server_port: u16) -> Self {
        let is_stream = protocol == protocol::TCP;
        let state = match DnsKind::of_ports(client_port, server_port) {
            _ if !is_stream && protocol != protocol::UDP => State::Silent,
            Some(kind) => State::Port(kind),
            None => State::Probe(Sides::default()),
        };
        Self {
            next: Sides::default(),
            state,
            parked: None,
            proxy: None,
            is_quic_port: client_port == 443 || server_port == 443,
            is_scarce: false,
            unkept_count: 0,
            held_bytes: 0,
        }
    }

    /// New payload of one side of a TCP flow. `offset` is its place in the side's stream, in bytes
    /// from the first data byte; a jump means bytes that were not seen, or not yet. `payload` may
    /// be shorter than `length`, what was on the wire, where the capture cut it.
    #[inline]
    pub fn stream(
        &mut self,
        side: Side,
        offset: u64,
        payload: &[u8],
        length: u32,
        time_ns: i64,
        frame: u64,
    ) {
        let length = u64::from(length).max(payload.len() as u64);
        let end = offset.saturating_add(length);
        if end <= *self.next.get(side) {
            return;
        }
        self.arrive(Piece {
            side,
            offset,
            bytes: payload,
            end,
            moment: Moment { time_ns, frame },
        });
    }

    /// A datagram of a UDP flow; `payload` may be shorter than `length`, as above.
    #[inline]
    pub fn datagram(&mut self, side: Side, payload: &[u8], length: u32, time_ns: i64, frame: u64) {
        let moment = Moment { time_ns, frame };
        match &mut self.state {
            State::Silent => return,
            State::Dns(dns) => dns.datagram(side, payload, length, moment),
            State::Quic(quic) => return quic.datagram(side, payload, length, moment),
            State::Port(kind) => {
                let mut dns = Box::new(Dns::new(*kind, false));
                dns.datagram(side, payload, length, moment);
                self.state = State::Dns(dns);
            }
            _ => self.probe_datagram(side, payload, length, moment),
        }
        self.hold();
    }

    /// Whether all flows together hold so much that this one is to keep the least: nothing waits,
    /// messages that are not complete are given up, of examples one or two are left.
    pub(crate) const fn keep_least(&mut self, is_scarce: bool) {
        self.is_scarce = is_scarce;
    }

    /// Gives back what it holds beyond the least.
    pub(crate) fn spare(&mut self) {
        if self.held_bytes() > APPLICATION_SCARCE_BYTES_MAX {
            self.shed();
        }
    }

    /// Bytes that it holds on the heap.
    pub(crate) const fn held_bytes(&self) -> usize {
        self.held_bytes as usize
    }

    /// How often something was not kept, since it was asked last.
    pub(crate) const fn take_unkept_count(&mut self) -> u32 {
        std::mem::replace(&mut self.unkept_count, 0)
    }

    /// The protocol that was recognised last.
    #[must_use]
    pub const fn protocol(&self) -> Option<ApplicationProtocol> {
        match &self.state {
            State::Dns(_) => Some(ApplicationProtocol::Dns),
            State::Tls(_) => Some(ApplicationProtocol::Tls),
            State::Http(_) => Some(ApplicationProtocol::Http),
            State::Http2 => Some(ApplicationProtocol::Http2),
            State::Quic(_) => Some(ApplicationProtocol::Quic),
            State::Probe(_) | State::Port(_) | State::Silent => {
                if self.proxy.is_some() {
                    Some(ApplicationProtocol::Http)
                } else {
                    None
                }
            }
        }
    }

    /// What the flow takes, in bytes: at most [`crate::limits::APPLICATION_BYTES_MAX`].
    #[must_use]
    pub fn size(&self) -> usize {
        let boxed = match &self.state {
            State::Dns(dns) => size_of::<Dns>() + dns.heap_bytes(),
            State::Tls(tls) => size_of::<Tls>() + tls.heap_bytes(),
            State::Http(http) => size_of::<Http>() + http.heap_bytes(),
            State::Quic(quic) => size_of::<Quic>() + quic.heap_bytes(),
            State::Probe(_) | State::Port(_) | State::Http2 | State::Silent => 0,
        };
        let parked = self.parked.as_ref().map_or(0, |parked| parked.size());
        let proxy = self
            .proxy
            .as_ref()
            .map_or(0, |http| size_of::<Http>() + http.heap_bytes());
        size_of::<Self>() + boxed + parked + proxy
    }

    /// What was told, at the end of the flow.
    #[must_use]
    pub fn finish(mut self) -> ApplicationStory {
        for side in [Side::Client, Side::Server] {
            self.release(side);
        }
        let mut story = ApplicationStory {
            protocol: self.protocol(),
            http: self.proxy.map(|http| Box::new(http.finish())),
            ..ApplicationStory::default()
        };
        match self.state {
            State::Dns(dns) => story.dns = Some(Box::new(dns.finish())),
            State::Tls(tls) => story.tls = Some(Box::new(tls.finish())),
            State::Http(http) => {
                let room = match story.http {
                    None => &mut story.http,
                    Some(_) => &mut story.inner_http,
                };
                *room = Some(Box::new(http.finish()));
            }
            State::Quic(quic) => story.quic = Some(Box::new(quic.finish())),
            State::Probe(_) | State::Port(_) | State::Http2 | State::Silent => {}
        }
        story
    }

    /// Notes what it holds.
    fn count_held(&mut self) {
        self.held_bytes = u32::try_from(self.size() - size_of::<Self>()).unwrap_or(u32::MAX);
    }

    /// Notes what it holds; where that is too much gives it back.
    fn hold(&mut self) {
        self.count_held();
        if self.is_scarce {
            self.spare();
        }
    }

    fn shed(&mut self) {
        self.unkept_count = self.unkept_count.saturating_add(1);
        for side in [Side::Client, Side::Server] {
            self.release(side);
        }
        match &mut self.state {
            State::Dns(dns) => dns.shed(),
            State::Tls(tls) => tls.shed(),
            State::Http(http) => http.shed(),
            State::Probe(_) | State::Port(_) | State::Http2 | State::Quic(_) | State::Silent => {}
        }
        if let Some(http) = &mut self.proxy {
            http.shed();
        }
        self.count_held();
    }

    /// A segment with something that is wanted.
    fn arrive(&mut self, piece: Piece<'_>) {
        self.take_in(piece);
        self.hold();
    }

    fn take_in(&mut self, piece: Piece<'_>) {
        let side = piece.side;
        // A side that speaks has heard what it answers to: what the other side's waiting segments
        // wait for is lost to the capture. DNS matches by id, and may speak both ways at once.
        if self.parked.is_some() && !matches!(self.state, State::Dns(_)) {
            self.release(side.other());
        }
        if piece.offset > *self.next.get(side) {
            if self.is_scarce {
                self.unkept_count = self.unkept_count.saturating_add(1);
            } else if self.parked.get_or_insert_default().park(&piece) {
                return;
            }
            // Too much waits: the bytes before are taken for lost.
            self.deliver_parked(side, piece.offset);
        }
        self.deliver(piece);
        self.deliver_parked(side, 0);
    }

    /// Delivers what waits on a side, passing over the bytes it waits for.
    fn release(&mut self, side: Side) {
        self.deliver_parked(side, u64::MAX);
    }

    /// Delivers what waits on a side and begins where it is, or at `limit` at the latest.
    fn deliver_parked(&mut self, side: Side, limit: u64) {
        while let Some(parked) = &mut self.parked {
            let limit = limit.max(*self.next.get(side));
            let Some(piece) = parked.take(side, limit) else {
                if parked.is_empty() {
                    self.parked = None;
                }
                return;
            };
            self.deliver(piece.borrow());
        }
    }

    /// Hands a segment to its protocol, from the first byte that is wanted.
    fn deliver(&mut self, piece: Piece<'_>) {
        let side = piece.side;
        let next = *self.next.get(side);
        if piece.end <= next {
            return;
        }
        if piece.offset > next {
            self.gap(side);
        }
        let offset = piece.offset.max(next);
        let known = usize::try_from(offset - piece.offset).unwrap_or(usize::MAX);
        let bytes = piece.bytes.get(known..).unwrap_or_default();
        let captured_end = offset.saturating_add(bytes.len() as u64);
        let mut wanted = if bytes.is_empty() {
            captured_end
        } else {
            self.segment(side, offset, bytes, piece.moment)
        };
        if wanted < piece.end {
            // The capture cut the segment.
            self.gap(side);
            wanted = piece.end;
        }
        let next = self.next.get_mut(side);
        *next = wanted.max(*next);
    }

    fn gap(&mut self, side: Side) {
        match &mut self.state {
            State::Dns(dns) => dns.gap(side),
            State::Tls(tls) => tls.gap(side),
            State::Http(http) => http.gap(side),
            State::Probe(probes) => probes.get_mut(side).held_length = 0,
            State::Port(_) | State::Http2 | State::Quic(_) | State::Silent => {}
        }
    }

    /// Bytes that follow each other; the offset of the next byte that is wanted.
    fn segment(&mut self, side: Side, offset: u64, bytes: &[u8], moment: Moment) -> u64 {
        match &mut self.state {
            State::Dns(dns) => dns.segment(side, offset, bytes, moment),
            State::Tls(tls) => tls.segment(side, offset, bytes, moment),
            State::Http(http) => {
                let wanted = http.segment(side, offset, bytes, moment);
                if http.is_tunnel() {
                    return self.enter_tunnel(wanted);
                }
                wanted
            }
            State::Probe(_) => self.probe(side, offset, bytes, moment),
            State::Port(kind) => {
                self.state = State::Dns(Box::new(Dns::new(*kind, true)));
                self.segment(side, offset, bytes, moment)
            }
            State::Http2 | State::Quic(_) | State::Silent => u64::MAX,
        }
    }

    /// What was HTTP is another protocol from here on. A tunnel in a tunnel is not looked into.
    fn enter_tunnel(&mut self, wanted: u64) -> u64 {
        if self.proxy.is_some() {
            self.next = Sides {
                client: u64::MAX,
                server: u64::MAX,
            };
            return u64::MAX;
        }
        let inner = State::Probe(Sides::default());
        if let State::Http(http) = std::mem::replace(&mut self.state, inner) {
            self.proxy = Some(http);
        }
        wanted
    }

    fn probe(&mut self, side: Side, offset: u64, bytes: &[u8], moment: Moment) -> u64 {
        let end = offset.saturating_add(bytes.len() as u64);
        let State::Probe(probes) = &mut self.state else {
            return end;
        };
        let probe = probes.get_mut(side);
        let held_length = usize::from(probe.held_length);
        let mut head = [0; 2 * Probe::HELD_MAX];
        // What is looked at: the segment, or its begin behind what was held.
        let look = if held_length == 0 {
            bytes
        } else {
            let (held, rest) = head.split_at_mut(held_length);
            held.copy_from_slice(probe.held.get(..held_length).unwrap_or_default());
            let count = rest.len().min(bytes.len());
            let (rest, _) = rest.split_at_mut(count);
            rest.copy_from_slice(bytes.get(..count).unwrap_or_default());
            head.get(..held_length + count).unwrap_or_default()
        };
        match recognise(side, look) {
            Recognised::Nothing => {}
            Recognised::Unclear if look.len() <= Probe::HELD_MAX => {
                if held_length == 0 {
                    probe.held_moment = moment;
                }
                if let Some(held) = probe.held.get_mut(..look.len()) {
                    held.copy_from_slice(look);
                    probe.held_length = look.len() as u8;
                }
                return end;
            }
            Recognised::Unclear => {}
            Recognised::As(state) => {
                let (held, held_moment) = (probe.held, probe.held_moment);
                self.state = state;
                if let Some(held) = held.get(..held_length)
                    && !held.is_empty()
                {
                    let begin = offset.saturating_sub(held.len() as u64);
                    self.segment(side, begin, held, held_moment);
                }
                return self.segment(side, offset, bytes, moment);
            }
        }
        probe.held_length = 0;
        probe.count += 1;
        if probe.count >= APPLICATION_PROBE_COUNT_MAX {
            return u64::MAX;
        }
        end
    }

    fn probe_datagram(&mut self, side: Side, bytes: &[u8], length: u32, moment: Moment) {
        let State::Probe(probes) = &mut self.state else {
            return;
        };
        if quic::begins(bytes, length, self.is_quic_port) {
            let mut quic = Box::<Quic>::default();
            quic.datagram(side, bytes, length, moment);
            self.state = State::Quic(quic);
            return;
        }
        probes.get_mut(side).count += 1;
        if probes.client.count + probes.server.count >= APPLICATION_DATAGRAM_PROBE_COUNT_MAX {
            self.state = State::Silent;
        }
    }
}

/// What the begin of a segment may be.
enum Recognised {
    Nothing,
    /// Too short to tell.
    Unclear,
    As(State),
}

fn recognise(side: Side, bytes: &[u8]) -> Recognised {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n";
    if let Some(is_client_hello) = tls::begins(bytes) {
        return Recognised::As(State::Tls(Box::new(Tls::new(side, is_client_hello))));
    }
    if bytes.starts_with(PREFACE) {
        return Recognised::As(State::Http2);
    }
    if PREFACE.starts_with(bytes) || tls::may_begin(bytes) {
        return Recognised::Unclear;
    }
    match http::begins(bytes) {
        Some(true) => Recognised::As(State::Http(Box::default())),
        Some(false) => Recognised::Nothing,
        None => Recognised::Unclear,
    }
}

#[cfg(test)]
mod tests;
