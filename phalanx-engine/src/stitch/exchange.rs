//! Exchanges: what a connection's headers tell of its requests and answers. A *burst* is the
//! payload of one side until the other one speaks or falls silent for long; a burst of the client
//! and the one of the server behind it are an exchange. What was sent before counts once.

use phalanx_common::packet::TcpFlags;

use super::trail::{Crossing, Trail};
use crate::limits::{EXCHANGE_COUNT_MAX, EXCHANGE_PAUSE_MAX_NS};
use crate::segment::Class;
use crate::side::Side;

/// Payload that one side sent without a word of the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Burst {
    /// First packet, in nanoseconds of the hop's clock.
    pub(super) first_ns: i64,
    /// Last packet.
    pub(super) last_ns: i64,
    /// Payload bytes.
    pub(super) bytes: u64,
}

/// A request and its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Exchange {
    pub(super) request: Burst,
    pub(super) response: Burst,
}

impl Exchange {
    /// From the first packet of the request to that of the answer.
    pub(super) const fn wait_ns(&self) -> i64 {
        self.response.first_ns.saturating_sub(self.request.first_ns)
    }
}

/// The exchanges of a connection at one hop.
#[derive(Clone, Debug, Default)]
pub(super) struct Exchanges {
    /// In the order of their requests.
    pub(super) list: Vec<Exchange>,
    /// There were more, or packets of it are missing.
    pub(super) is_cut: bool,
    /// The SYN, and the last packet that took sequence space: where both ends were seen.
    pub(super) life_ns: Option<(i64, i64)>,
}

impl Exchanges {
    pub(super) fn of(trail: &Trail) -> Self {
        let mut exchanges = Self {
            list: Vec::new(),
            is_cut: trail.left_out > 0,
            life_ns: life(trail),
        };
        let mut bursts = Bursts::default();
        for (side, crossing) in in_order(trail) {
            if is_payload(crossing)
                && let Some(exchange) = bursts.push(side, crossing)
                && !exchanges.push(exchange)
            {
                return exchanges;
            }
        }
        if let Some(exchange) = bursts.finish() {
            exchanges.push(exchange);
        }
        exchanges
    }

    fn push(&mut self, exchange: Exchange) -> bool {
        let has_room = self.list.len() < EXCHANGE_COUNT_MAX;
        if has_room {
            self.list.push(exchange);
        }
        self.is_cut |= !has_room;
        has_room
    }
}

/// Both bursts under way.
#[derive(Debug, Default)]
struct Bursts {
    request: Option<Burst>,
    response: Option<Burst>,
}

impl Bursts {
    /// Takes a packet in; gives the exchange that it ends by beginning another.
    fn push(&mut self, side: Side, crossing: &Crossing) -> Option<Exchange> {
        let is_answered = self.response.is_some();
        let own = match side {
            Side::Client => &mut self.request,
            Side::Server => &mut self.response,
        };
        let time_ns = crossing.time_ns;
        let goes_on = own.as_ref().is_some_and(|burst| {
            time_ns.saturating_sub(burst.last_ns) <= EXCHANGE_PAUSE_MAX_NS
                && !(side == Side::Client && is_answered)
        });
        if let Some(burst) = own.as_mut().filter(|_| goes_on) {
            burst.last_ns = burst.last_ns.max(time_ns);
            burst.bytes += u64::from(crossing.length);
            return None;
        }
        let begun = Burst {
            first_ns: time_ns,
            last_ns: time_ns,
            bytes: u64::from(crossing.length),
        };
        match side {
            Side::Client => {
                let ended = self.finish();
                self.request = Some(begun);
                ended
            }
            // Nothing was asked, or this is said long after the answer.
            Side::Server if self.request.is_none() || is_answered => self.finish(),
            Side::Server => {
                self.response = Some(begun);
                None
            }
        }
    }

    fn finish(&mut self) -> Option<Exchange> {
        let bursts = std::mem::take(self);
        let (request, response) = bursts.request.zip(bursts.response)?;
        Some(Exchange { request, response })
    }
}

/// The packets of both sides, as the hop saw them.
fn in_order(trail: &Trail) -> impl Iterator<Item = (Side, &Crossing)> {
    let mut client = trail.crossings.client.iter().peekable();
    let mut server = trail.crossings.server.iter().peekable();
    std::iter::from_fn(move || {
        let is_client = match (client.peek(), server.peek()) {
            (Some(a), Some(b)) => a.frame <= b.frame,
            (one, _) => one.is_some(),
        };
        match is_client {
            true => client.next().map(|it| (Side::Client, it)),
            false => server.next().map(|it| (Side::Server, it)),
        }
    })
}

/// Whether a packet carries bytes that were not there before.
fn is_payload(crossing: &Crossing) -> bool {
    let is_again = crossing.class.is_some_and(|it| {
        it.is_retransmission()
            || it.is_copy()
            || matches!(it, Class::KeepAlive | Class::ZeroWindowProbe)
    });
    crossing.length > 0 && !is_again
}

fn life(trail: &Trail) -> Option<(i64, i64)> {
    let has = |it: &Crossing, flags| TcpFlags(it.flags).any(flags);
    let first = trail.crossings.client.first()?;
    let all = || trail.crossings.client.iter().chain(&trail.crossings.server);
    let is_over = all().any(|it| has(it, TcpFlags::FIN | TcpFlags::RST));
    let tells = |it: &&Crossing| is_payload(it) || has(it, TcpFlags::FIN | TcpFlags::RST);
    let last_ns = all().filter(tells).map(|it| it.time_ns).max()?;
    (has(first, TcpFlags::SYN) && is_over).then_some((first.time_ns, last_ns))
}
