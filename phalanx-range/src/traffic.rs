//! Traffic whose truth is known: what a client orders from a server, byte by byte, and what both
//! say they did.
//!
//! One server serves all programs: each TCP request and each datagram begins with an order that
//! says how long to think and how much to answer, and the answer begins with how long the server
//! really slept.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

mod client;
mod datagram;
mod flood;
mod flows;
mod server;
mod socket;

pub use client::run;
pub use flood::{Flood, FloodKind, FloodOutcome};
pub use flows::{Flow, FlowOutcome, Flows};
pub use server::{ConnectionRecord, Server, ServerCounters};
pub use socket::TcpTruth;

macro_rules! programs {
    ($( $(#[$doc:meta])* $name:ident {
        $( $(#[$field_doc:meta])* $field:ident: $kind:ty = $default:expr, )*
    } )*) => { $(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct $name { $( $(#[$field_doc])* pub $field: $kind, )* }

        impl Default for $name {
            fn default() -> Self {
                Self { $( $field: $default, )* }
            }
        }
    )* };
}

programs! {
    /// Requests and responses on one connection, or on several at once.
    RequestResponse {
        /// Connections at once.
        connections: u32 = 1,
        /// Requests per connection.
        requests: u32 = 10,
        /// Bytes of each request, at least that of an order (48).
        request_bytes: u64 = 200,
        /// Bytes of each response, at least 16.
        response_bytes: u64 = 1_000,
        /// How long the server sleeps before it answers, in milliseconds.
        think_ms: f64 = 0.0,
        /// How long the client waits between a response and the next request, in milliseconds.
        pause_ms: f64 = 0.0,
    }

    /// Bulk transfer from the server to the client.
    Download {
        /// Connections at once.
        connections: u32 = 1,
        /// Bytes per connection; 0 for "until `seconds` are over".
        bytes: u64 = 0,
        /// How long, in seconds, when `bytes` is 0.
        seconds: f64 = 0.0,
        /// The client pauses after reading this many bytes; 0 for never.
        read_chunk_bytes: u32 = 0,
        /// How long it pauses, in milliseconds.
        read_pause_ms: f64 = 0.0,
        /// Receive buffer of the client in bytes; 0 leaves it to the kernel.
        receive_buffer_bytes: u32 = 0,
        /// The server pauses after writing this many bytes; 0 for never.
        write_chunk_bytes: u32 = 0,
        /// How long it pauses, in milliseconds.
        write_pause_ms: f64 = 0.0,
    }

    /// Bulk transfer from the client to the server.
    Upload {
        /// Connections at once.
        connections: u32 = 1,
        /// Bytes per connection; 0 for "until `seconds` are over".
        bytes: u64 = 0,
        /// How long, in seconds, when `bytes` is 0.
        seconds: f64 = 0.0,
        /// The server pauses after reading this many bytes; 0 for never.
        read_chunk_bytes: u32 = 0,
        /// How long it pauses, in milliseconds.
        read_pause_ms: f64 = 0.0,
        /// The client pauses after writing this many bytes; 0 for never.
        write_chunk_bytes: u32 = 0,
        /// How long it pauses, in milliseconds.
        write_pause_ms: f64 = 0.0,
    }

    /// Connections that say nothing for a while, between two requests.
    Idle {
        /// Connections at once.
        connections: u32 = 1,
        /// How long they are silent, in milliseconds.
        idle_ms: f64 = 1_000.0,
    }

    /// Many short connections, one request each.
    ShortConnections {
        /// Connections altogether.
        count: u32 = 100,
        /// Connections opened per second; 0 for one after the other.
        rate_per_s: f64 = 100.0,
        /// Bytes of each request, at least that of an order (48).
        request_bytes: u64 = 100,
        /// Bytes of each response, at least 16.
        response_bytes: u64 = 500,
        /// How long the server sleeps before it answers, in milliseconds.
        think_ms: f64 = 0.0,
        /// The client ends each connection with a reset.
        reset: bool = false,
    }

    /// Datagrams that are answered.
    UdpRequestResponse {
        /// Requests altogether.
        requests: u32 = 10,
        /// Payload bytes of each request, at least that of an order (20).
        request_bytes: u32 = 64,
        /// Payload bytes of each answer, at least 20.
        response_bytes: u32 = 200,
        /// How long the server sleeps before it answers, in milliseconds.
        think_ms: f64 = 0.0,
        /// How long the client waits between an answer and the next request, in milliseconds.
        pause_ms: f64 = 0.0,
        /// When an answer counts as missing, in milliseconds.
        timeout_ms: f64 = 1_000.0,
    }

    /// Datagrams in one direction, from several threads on one socket: one flow.
    UdpStream {
        /// Threads that send.
        threads: u32 = 1,
        /// Datagrams per thread.
        datagrams: u32 = 1_000,
        /// Payload bytes of each, at least that of an order (20).
        bytes: u32 = 1_000,
        /// Datagrams per second and thread; 0 for as fast as it goes.
        rate_per_s: f64 = 1_000.0,
    }
}

/// What a client does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Program {
    /// See [`RequestResponse`].
    RequestResponse(RequestResponse),
    /// See [`Download`].
    Download(Download),
    /// See [`Upload`].
    Upload(Upload),
    /// See [`Idle`].
    Idle(Idle),
    /// See [`ShortConnections`].
    ShortConnections(ShortConnections),
    /// See [`UdpRequestResponse`].
    UdpRequestResponse(UdpRequestResponse),
    /// See [`UdpStream`].
    UdpStream(UdpStream),
}

/// What a client really did; sums over its connections.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Outcome {
    /// Connections that were established (for UDP: sockets).
    pub connections: u64,
    /// Connections that failed, at any time.
    pub failed: u64,
    /// The first error, if there was one.
    pub error: Option<String>,
    /// Requests that were answered.
    pub requests: u64,
    /// Application bytes sent.
    pub bytes_sent: u64,
    /// Application bytes received.
    pub bytes_received: u64,
    /// Datagrams sent.
    pub datagrams_sent: u64,
    /// Datagrams received.
    pub datagrams_received: u64,
    /// From the first `connect` to the end, in seconds.
    pub seconds: f64,
    /// How long `connect` took, in microseconds.
    pub connect_us: Summary,
    /// From the request's first byte written to the response's first byte read, microseconds.
    pub response_us: Summary,
    /// How long the server says it slept per request, in microseconds.
    pub slept_us: Summary,
    /// Segments that the client's kernel retransmitted (`tcpi_total_retrans`).
    pub retransmits: u64,
    /// Local addresses used, at most 16 of them.
    pub local: Vec<SocketAddr>,
}

/// Local addresses named in one outcome.
const LOCAL_MAX: usize = 16;

impl Outcome {
    fn add(&mut self, other: Self) {
        self.connections += other.connections;
        self.failed += other.failed;
        self.error = self.error.take().or(other.error);
        self.requests += other.requests;
        self.bytes_sent += other.bytes_sent;
        self.bytes_received += other.bytes_received;
        self.datagrams_sent += other.datagrams_sent;
        self.datagrams_received += other.datagrams_received;
        self.connect_us.add(other.connect_us);
        self.response_us.add(other.response_us);
        self.slept_us.add(other.slept_us);
        self.retransmits += other.retransmits;
        self.local.extend(other.local);
        self.local.truncate(LOCAL_MAX);
    }
}

/// Samples kept of one measure; later ones are counted but not kept.
const SAMPLES_MAX: usize = 1_000_000;

/// A handful of samples and what is told of them.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Summary {
    samples: Vec<u64>,
}

impl Summary {
    /// Adds a sample.
    pub fn push(&mut self, sample: u64) {
        if self.samples.len() < SAMPLES_MAX {
            self.samples.push(sample);
        }
    }

    /// How many samples there are.
    pub fn count(&self) -> usize {
        self.samples.len()
    }

    /// The sample below which a share of all lie (nearest rank), if there is any.
    pub fn quantile(&self, share: f64) -> Option<u64> {
        let mut sorted = self.samples.clone();
        sorted.sort_unstable();
        let rank = (share * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.saturating_sub(1)).copied()
    }

    fn add(&mut self, other: Self) {
        other
            .samples
            .into_iter()
            .for_each(|sample| self.push(sample));
    }
}

impl Serialize for Summary {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;
        let mut map = serializer.serialize_map(Some(5))?;
        map.serialize_entry("count", &self.count())?;
        for (name, share) in [("min", 0.0), ("p50", 0.5), ("p95", 0.95), ("max", 1.0)] {
            map.serialize_entry(name, &self.quantile(share))?;
        }
        map.end()
    }
}

/// Length of a TCP order in bytes.
pub(crate) const ORDER_BYTES: usize = 48;
/// Length of what a response begins with: nanoseconds slept, bytes received.
pub(crate) const ANSWER_BYTES: usize = 16;
/// Stands for "until the other side ends it".
pub(crate) const UNTIL_END: u64 = u64::MAX;

const TCP_MAGIC: u32 = 0x5048_5854;
const UDP_MAGIC: u32 = 0x5048_5855;

/// What a TCP client orders.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Order {
    pub(crate) request_bytes: u64,
    pub(crate) response_bytes: u64,
    pub(crate) think_us: u32,
    /// With a response until the end: for how long the server writes.
    pub(crate) write_for_ms: u32,
    pub(crate) read: Pace,
    pub(crate) write: Pace,
}

/// A pause after each so many bytes; none when `chunk_bytes` is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Pace {
    pub(crate) chunk_bytes: u32,
    pub(crate) pause_us: u32,
}

impl Order {
    pub(crate) fn to_bytes(self) -> [u8; ORDER_BYTES] {
        let mut bytes = [0; ORDER_BYTES];
        bytes[..4].copy_from_slice(&TCP_MAGIC.to_be_bytes());
        bytes[4..12].copy_from_slice(&self.request_bytes.to_be_bytes());
        bytes[12..20].copy_from_slice(&self.response_bytes.to_be_bytes());
        let words = [
            self.think_us,
            self.read.chunk_bytes,
            self.read.pause_us,
            self.write.chunk_bytes,
            self.write.pause_us,
            self.write_for_ms,
        ];
        for (index, word) in words.into_iter().enumerate() {
            bytes[20 + index * 4..24 + index * 4].copy_from_slice(&word.to_be_bytes());
        }
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8; ORDER_BYTES]) -> Option<Self> {
        if be32(bytes, 0) != TCP_MAGIC {
            return None;
        }
        let be64 = |at| (u64::from(be32(bytes, at)) << 32) | u64::from(be32(bytes, at + 4));
        Some(Self {
            request_bytes: be64(4),
            response_bytes: be64(12),
            think_us: be32(bytes, 20),
            write_for_ms: be32(bytes, 40),
            read: Pace {
                chunk_bytes: be32(bytes, 24),
                pause_us: be32(bytes, 28),
            },
            write: Pace {
                chunk_bytes: be32(bytes, 32),
                pause_us: be32(bytes, 36),
            },
        })
    }
}

/// Length of the order in a datagram.
pub(crate) const DATAGRAM_ORDER_BYTES: usize = 20;

/// What a datagram begins with; in an answer `think_us` is the time really slept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct DatagramOrder {
    /// First, so that decision logs name the datagram by it.
    pub(crate) sequence: u32,
    pub(crate) thread: u32,
    pub(crate) think_us: u32,
    pub(crate) response_bytes: u32,
}

impl DatagramOrder {
    pub(crate) fn write(self, payload: &mut [u8]) {
        let words = [
            self.sequence,
            UDP_MAGIC,
            self.thread,
            self.think_us,
            self.response_bytes,
        ];
        for (chunk, word) in payload.chunks_exact_mut(4).zip(words) {
            chunk.copy_from_slice(&word.to_be_bytes());
        }
    }

    pub(crate) fn read(payload: &[u8]) -> Option<Self> {
        if payload.len() < DATAGRAM_ORDER_BYTES || be32(payload, 4) != UDP_MAGIC {
            return None;
        }
        Some(Self {
            sequence: be32(payload, 0),
            thread: be32(payload, 8),
            think_us: be32(payload, 12),
            response_bytes: be32(payload, 16),
        })
    }
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Milliseconds as whole microseconds, as orders carry them.
pub(crate) fn ms_to_us(milliseconds: f64) -> u32 {
    (milliseconds * 1e3).round().clamp(0.0, f64::from(u32::MAX)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_survive_the_wire() {
        let order = Order {
            request_bytes: UNTIL_END,
            response_bytes: 1 << 40,
            think_us: 30_000,
            write_for_ms: 5,
            read: Pace {
                chunk_bytes: 1,
                pause_us: 2,
            },
            write: Pace {
                chunk_bytes: 3,
                pause_us: 4,
            },
        };
        assert_eq!(Order::from_bytes(&order.to_bytes()), Some(order));
        assert_eq!(Order::from_bytes(&[0; ORDER_BYTES]), None);
        let order = DatagramOrder {
            sequence: 7,
            thread: 2,
            think_us: 9,
            response_bytes: 100,
        };
        let mut payload = [0u8; 64];
        order.write(&mut payload);
        assert_eq!(DatagramOrder::read(&payload), Some(order));
        assert_eq!(DatagramOrder::read(&payload[..19]), None);
    }

    #[test]
    fn quantiles_are_samples() {
        let mut summary = Summary::default();
        assert_eq!(summary.quantile(0.5), None);
        (1..=100).rev().for_each(|sample| summary.push(sample));
        assert_eq!(summary.quantile(0.5), Some(50));
        assert_eq!(summary.quantile(0.95), Some(95));
        assert_eq!(
            (summary.quantile(0.0), summary.quantile(1.0)),
            (Some(1), Some(100))
        );
    }
}
