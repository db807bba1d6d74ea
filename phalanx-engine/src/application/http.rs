//! HTTP/1 exchanges (RFC 9112) in clear, from the bytes of a TCP stream: requests and responses
//! matched in their order. Bodies are skipped unread; of a target only the path is kept, since what
//! follows it may hold secrets.

mod line;
mod message;

use std::collections::VecDeque;

use super::delay::{Delays, Moment};
use super::example::{Examples, Exchange};
use crate::limits::HTTP_PENDING_COUNT_MAX;
use crate::side::{Side, Sides};
use line::Start;
pub(super) use line::begins;
use message::{Messages, Seen};

/// One request and its response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpExchange {
    /// The method, "(other)" for one that is not known; empty where the capture lacks the request.
    pub method: &'static str,
    /// The path of the target, escaped and cut; for CONNECT the host and port.
    pub path: Box<str>,
    /// The host that was asked for.
    pub host: Option<Box<str>>,
    /// The end of the request's headers.
    pub request: Option<Moment>,
    /// The begin of the status line.
    pub response: Option<Moment>,
    /// The status code.
    pub status: Option<u16>,
}

impl HttpExchange {
    /// Nanoseconds from the end of the request's headers to the status line. A request with a body
    /// is often answered only after that.
    #[must_use]
    pub fn delay_ns(&self) -> Option<u64> {
        Some(self.request?.until(self.response?))
    }
}

impl Exchange for HttpExchange {
    fn badness(&self) -> (u8, u64) {
        let delay_ns = self.delay_ns().unwrap_or(0);
        match self.status {
            None => (3, 0),
            Some(500..) => (2, delay_ns),
            Some(400..) => (1, delay_ns),
            Some(_) => (0, delay_ns),
        }
    }

    fn heap_bytes(&self) -> usize {
        self.path.len() + self.host.as_ref().map_or(0, |host| host.len())
    }
}

/// What the HTTP messages of one flow tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpStory {
    /// Requests.
    pub requests: u32,
    /// Final responses: those with a status from 200 on, and 101.
    pub responses: u32,
    /// Responses by the first digit of their status: 1xx to 5xx.
    pub status_classes: [u32; 5],
    /// Requests without a final response.
    pub unanswered: u32,
    /// Final responses to no request that is in the capture.
    pub unmatched: u32,
    /// Requests that were given up because too many were open; they count as unanswered.
    pub evicted: u32,
    /// Messages of which the capture lacks a part of the head.
    pub cut: u32,
    /// Delays of status lines, each from the end of its request's headers.
    pub delays: Delays,
    /// Whether the connection became one of another protocol: CONNECT or 101.
    pub is_tunnel: bool,
    /// The first exchanges, in the order in which they ended; those without a response end last.
    pub first: Vec<HttpExchange>,
    /// The worst of all: without a response, failed, slowest.
    pub worst: Vec<HttpExchange>,
}

/// The HTTP messages of one flow.
#[derive(Default)]
pub(super) struct Http {
    story: HttpStory,
    messages: Sides<Messages>,
    pending: VecDeque<HttpExchange>,
    examples: Examples<HttpExchange>,
}

impl Http {
    /// Bytes of a stream; the offset of the next byte that is wanted.
    pub(super) fn segment(&mut self, side: Side, offset: u64, bytes: &[u8], moment: Moment) -> u64 {
        let end = offset.saturating_add(bytes.len() as u64);
        let mut left = bytes;
        loop {
            match self.messages.get_mut(side).next(&mut left, moment) {
                Seen::Nothing => return end,
                Seen::Skip(length) => return end.saturating_add(length),
                Seen::Cut => self.story.cut += 1,
                Seen::Head => self.take_head(side, moment),
            }
            if self.story.is_tunnel {
                return end;
            }
        }
    }

    /// The capture lacks bytes of the stream that were wanted.
    pub(super) fn gap(&mut self, side: Side) {
        let messages = self.messages.get_mut(side);
        if messages.is_amid_head() {
            self.story.cut += 1;
            let moment = messages.last;
            if messages.end_head() {
                self.take_head(side, moment);
            }
        }
        self.messages.get_mut(side).lose();
    }

    /// Whether the connection has left HTTP.
    pub(super) const fn is_tunnel(&self) -> bool {
        self.story.is_tunnel
    }

    fn take_head(&mut self, side: Side, moment: Moment) {
        let head = self.messages.get_mut(side).take_head();
        match head.start {
            Some(Start::Request { method, path, host }) => {
                self.story.requests += 1;
                if self.pending.len() >= HTTP_PENDING_COUNT_MAX
                    && let Some(oldest) = self.pending.pop_front()
                {
                    self.story.evicted += 1;
                    self.give_up(oldest);
                }
                self.pending.push_back(HttpExchange {
                    method,
                    path,
                    host: head.host.or(host),
                    request: Some(moment),
                    ..HttpExchange::default()
                });
                self.messages.get_mut(side).begin_body(head.body, false);
            }
            Some(Start::Response { status }) => self.take_response(side, status, head),
            None => {}
        }
    }

    fn take_response(&mut self, side: Side, status: u16, head: message::Head) {
        let class = usize::from(status / 100).wrapping_sub(1);
        if let Some(count) = self.story.status_classes.get_mut(class) {
            *count += 1;
        }
        let is_interim = (100..200).contains(&status) && status != 101;
        if is_interim {
            self.messages.get_mut(side).begin_body(None, false);
            return;
        }
        self.story.responses += 1;
        let mut exchange = self.pending.pop_front().unwrap_or_default();
        exchange.response = Some(head.begin);
        exchange.status = Some(status);
        self.story.unmatched += u32::from(exchange.request.is_none());
        let is_success = (200..300).contains(&status);
        self.story.is_tunnel |= status == 101 || exchange.method == "CONNECT" && is_success;
        let is_bodiless = exchange.method == "HEAD" || matches!(status, 101 | 204 | 304);
        let body = if is_bodiless { None } else { head.body };
        self.messages.get_mut(side).begin_body(body, !is_bodiless);
        if let Some(delay_ns) = exchange.delay_ns() {
            self.story.delays.add(delay_ns);
        }
        self.examples.add(exchange);
    }

    fn give_up(&mut self, exchange: HttpExchange) {
        self.story.unanswered += 1;
        self.examples.add(exchange);
    }

    /// Gives back what it holds beyond the least.
    pub(super) fn shed(&mut self) {
        for side in [Side::Client, Side::Server] {
            if self.messages.get(side).heap_bytes() > 0 {
                self.gap(side);
            }
        }
        while self.pending.len() > 1
            && let Some(oldest) = self.pending.pop_front()
        {
            self.story.evicted += 1;
            self.give_up(oldest);
        }
        self.pending.shrink_to_fit();
        self.examples.shed();
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.pending.capacity() * size_of::<HttpExchange>()
            + self
                .pending
                .iter()
                .map(HttpExchange::heap_bytes)
                .sum::<usize>()
            + self.examples.heap_bytes()
            + self.messages.client.heap_bytes()
            + self.messages.server.heap_bytes()
    }

    pub(super) fn finish(mut self) -> HttpStory {
        for side in [Side::Client, Side::Server] {
            self.gap(side);
        }
        for exchange in std::mem::take(&mut self.pending) {
            self.give_up(exchange);
        }
        let (first, worst) = self.examples.finish();
        HttpStory {
            first,
            worst,
            ..self.story
        }
    }
}

#[cfg(test)]
mod tests;
