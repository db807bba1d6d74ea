//! DNS exchanges (RFC 1035), from the messages of a flow over UDP or TCP: queries and answers
//! matched, delays, retries, response codes. Resource records are not read, but for the upper bits
//! of the response code (RFC 6891 section 6.1.3).

mod framing;
mod message;

use super::delay::{Delays, Moment};
use super::example::{Examples, Exchange};
use crate::limits::{DNS_PENDING_COUNT_MAX, DNS_RCODE_COUNT_MAX};
use crate::side::{Side, Sides};
use framing::Framing;
use message::{Message, Question};
pub use message::{Rcode, RecordType};

/// Which of the protocols with DNS's messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DnsKind {
    /// DNS, port 53.
    #[default]
    Unicast,
    /// Multicast DNS (RFC 6762), port 5353: answers are multicast, most come by another flow.
    Multicast,
    /// Link-local multicast name resolution (RFC 4795), port 5355: answers come by another flow.
    LinkLocal,
}

impl DnsKind {
    pub(super) fn of_ports(client_port: u16, server_port: u16) -> Option<Self> {
        [server_port, client_port]
            .into_iter()
            .find_map(|port| match port {
                53 => Some(Self::Unicast),
                5353 => Some(Self::Multicast),
                5355 => Some(Self::LinkLocal),
                _ => None,
            })
    }
}

/// One query and its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsExchange {
    /// The name asked for, as a master file writes it; "." is the root.
    pub name: Box<str>,
    /// The type asked for.
    pub record_type: RecordType,
    /// The first copy of the query.
    pub query: Moment,
    /// The answer, unless there is none.
    pub answer: Option<Moment>,
    /// The answer's response code.
    pub rcode: Option<Rcode>,
    /// Further copies of the query before the answer.
    pub retry_count: u16,
    /// Whether the answer was truncated (TC): the client should ask again over TCP.
    pub is_truncated: bool,
}

impl DnsExchange {
    /// Nanoseconds from the first copy of the query to the answer: what the client waited.
    #[must_use]
    pub fn delay_ns(&self) -> Option<u64> {
        self.answer.map(|answer| self.query.until(answer))
    }
}

impl Exchange for DnsExchange {
    fn badness(&self) -> (u8, u64) {
        match (self.delay_ns(), self.rcode) {
            (None, _) => (2, u64::from(self.retry_count)),
            (Some(delay_ns), Some(rcode)) if rcode.is_failure() => (1, delay_ns),
            (Some(delay_ns), _) => (0, delay_ns),
        }
    }

    fn heap_bytes(&self) -> usize {
        self.name.len()
    }
}

/// Counts of one flow's DNS messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DnsCounts {
    /// Queries, further copies aside.
    pub queries: u32,
    /// Further copies of a query still open: same id, name and type.
    pub retries: u32,
    /// Responses.
    pub answers: u32,
    /// Queries that got their answer.
    pub answered: u32,
    /// Queries that got none before the end.
    pub unanswered: u32,
    /// Responses that match no open query: copies, or the query is not in the capture.
    pub unmatched: u32,
    /// Further messages of one zone transfer.
    pub continuations: u32,
    /// Responses with the TC bit.
    pub truncated: u32,
    /// Messages that are malformed.
    pub malformed: u32,
    /// Messages of which the capture lacks a part that was needed.
    pub cut: u32,
    /// Open queries that were given up because there were too many; they count as unanswered.
    pub evicted: u32,
}

/// What the DNS messages of one flow tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsStory {
    /// Which protocol.
    pub kind: DnsKind,
    /// Counts of messages.
    pub counts: DnsCounts,
    /// Responses by response code, lowest code first.
    pub rcodes: Vec<(Rcode, u32)>,
    /// Delays of answers, each from the first copy of its query.
    pub delays: Delays,
    /// The first exchanges, in the order in which they ended; those without an answer end last.
    pub first: Vec<DnsExchange>,
    /// The worst of all: without an answer, failed, slowest.
    pub worst: Vec<DnsExchange>,
}

/// A query that waits for its answer.
struct Pending {
    id: u16,
    side: Side,
    question: Option<Question>,
    exchange: DnsExchange,
}

/// The DNS messages of one flow.
#[derive(Default)]
pub(super) struct Dns {
    kind: DnsKind,
    counts: DnsCounts,
    rcodes: Vec<(Rcode, u32)>,
    delays: Delays,
    pending: Vec<Pending>,
    examples: Examples<DnsExchange>,
    /// Id of the zone transfer under way, and who sends it.
    transfer: Option<(u16, Side)>,
    streams: Option<Box<Sides<Framing>>>,
}

impl Dns {
    pub(super) fn new(kind: DnsKind, is_stream: bool) -> Self {
        Self {
            kind,
            streams: is_stream.then(Box::default),
            ..Self::default()
        }
    }

    /// A message of its own: a datagram of `length` bytes.
    pub(super) fn datagram(&mut self, side: Side, bytes: &[u8], length: u32, moment: Moment) {
        self.take(side, bytes, bytes.len() < length as usize, moment);
    }

    /// Bytes of a stream; the offset of the next byte that is wanted.
    pub(super) fn segment(&mut self, side: Side, offset: u64, bytes: &[u8], moment: Moment) -> u64 {
        let Some(mut streams) = self.streams.take() else {
            return u64::MAX;
        };
        let framing = streams.get_mut(side);
        let wanted = framing.read(offset, bytes, |message, is_cut| {
            self.take(side, message, is_cut, moment);
        });
        self.streams = Some(streams);
        wanted
    }

    /// The capture lacks bytes of the stream that were wanted.
    pub(super) fn gap(&mut self, side: Side) {
        if let Some(streams) = &mut self.streams {
            let is_amid = streams.get_mut(side).lose();
            self.counts.cut += u32::from(is_amid);
        }
    }

    fn take(&mut self, side: Side, bytes: &[u8], is_cut: bool, moment: Moment) {
        match Message::parse(bytes) {
            Ok(message) if message.is_response => self.take_answer(side, &message, moment),
            Ok(message) => self.take_query(side, &message, moment),
            Err(message::Ended) if is_cut => self.counts.cut += 1,
            Err(message::Ended) => self.counts.malformed += 1,
        }
    }

    fn take_query(&mut self, side: Side, message: &Message<'_>, moment: Moment) {
        let again = self.pending.iter_mut().find(|pending| {
            pending.side == side && pending.id == message.id && pending.question == message.question
        });
        if let Some(pending) = again {
            let exchange = &mut pending.exchange;
            exchange.retry_count = exchange.retry_count.saturating_add(1);
            self.counts.retries += 1;
            return;
        }
        self.counts.queries += 1;
        if self.pending.len() >= DNS_PENDING_COUNT_MAX {
            let oldest = self.pending.remove(0);
            self.counts.evicted += 1;
            self.give_up(oldest.exchange);
        }
        if self.pending.capacity() == 0 {
            self.pending.reserve_exact(1);
        }
        self.pending.push(Pending {
            id: message.id,
            side,
            question: message.question,
            exchange: DnsExchange {
                name: message.name(),
                record_type: message.question.unwrap_or_default().record_type,
                query: moment,
                answer: None,
                rcode: None,
                retry_count: 0,
                is_truncated: false,
            },
        });
    }

    fn take_answer(&mut self, side: Side, message: &Message<'_>, moment: Moment) {
        self.counts.answers += 1;
        self.counts.truncated += u32::from(message.is_truncated);
        self.count_rcode(message.rcode);
        let place = self.pending.iter().position(|pending| {
            pending.side != side
                && pending.id == message.id
                && (message.question.is_none() || pending.question == message.question)
        });
        let Some(place) = place else {
            if self.transfer == Some((message.id, side)) {
                self.counts.continuations += 1;
            } else {
                self.counts.unmatched += 1;
            }
            return;
        };
        let mut exchange = self.pending.remove(place).exchange;
        exchange.answer = Some(moment);
        exchange.rcode = Some(message.rcode);
        exchange.is_truncated = message.is_truncated;
        self.transfer = exchange
            .record_type
            .is_transfer()
            .then_some((message.id, side));
        self.counts.answered += 1;
        self.delays.add(exchange.query.until(moment));
        self.examples.add(exchange);
    }

    fn give_up(&mut self, exchange: DnsExchange) {
        self.counts.unanswered += 1;
        self.examples.add(exchange);
    }

    fn count_rcode(&mut self, rcode: Rcode) {
        match self.rcodes.binary_search_by_key(&rcode, |entry| entry.0) {
            Ok(place) => {
                if let Some(entry) = self.rcodes.get_mut(place) {
                    entry.1 = entry.1.saturating_add(1);
                }
            }
            Err(place) if self.rcodes.len() < DNS_RCODE_COUNT_MAX => {
                self.rcodes.reserve_exact(1);
                self.rcodes.insert(place, (rcode, 1));
            }
            Err(_) => {}
        }
    }

    /// Gives back what it holds beyond the least.
    pub(super) fn shed(&mut self) {
        if let Some(streams) = &mut self.streams {
            let is_amid = [streams.client.shed(), streams.server.shed()];
            self.counts.cut += is_amid.map(u32::from).into_iter().sum::<u32>();
        }
        while self.pending.len() > 1 {
            let oldest = self.pending.remove(0);
            self.counts.evicted += 1;
            self.give_up(oldest.exchange);
        }
        self.pending.shrink_to_fit();
        self.examples.shed();
    }

    pub(super) fn heap_bytes(&self) -> usize {
        let names = self.pending.iter().map(|it| it.exchange.name.len());
        let streams = self.streams.as_ref().map_or(0, |streams| {
            size_of::<Sides<Framing>>() + streams.client.heap_bytes() + streams.server.heap_bytes()
        });
        self.rcodes.capacity() * size_of::<(Rcode, u32)>()
            + self.pending.capacity() * size_of::<Pending>()
            + names.sum::<usize>()
            + self.examples.heap_bytes()
            + streams
    }

    pub(super) fn finish(mut self) -> DnsStory {
        for pending in std::mem::take(&mut self.pending) {
            self.give_up(pending.exchange);
        }
        let (first, worst) = self.examples.finish();
        DnsStory {
            kind: self.kind,
            counts: self.counts,
            rcodes: self.rcodes,
            delays: self.delays,
            first,
            worst,
        }
    }
}

#[cfg(test)]
mod tests;
