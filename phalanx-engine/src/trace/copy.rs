//! Copies: packets that were captured before, on the same way or at another place of it.
//!
//! A packet is known again by its IP id, numbers, options and length. What a sender sends again has
//! another IP id, or another timestamp, or comes later than a copy would: some stacks send the very
//! same packet again after a timeout.

use phalanx_common::packet::protocol;

use crate::limits::COPY_WINDOW;
use crate::record::PacketRecord;
use crate::segment::Class;

/// Longest time between a packet and its copy where its IP id proves it, in nanoseconds: the ids of
/// a sender come again after 65,536 packets, and the other place of the way may lie behind a queue,
/// which rarely holds more than a second.
const PROVEN_NS: i64 = 1_000_000_000;

/// The same where only its content is the same: less than any timer of TCP.
const LIKELY_NS: i64 = 2_000_000;

/// What a packet is known by.
#[derive(Clone, Copy, Debug, Default)]
struct Print {
    content: u64,
    time_ns: i64,
    /// TTL, addresses of the link layer, VLAN: what differs elsewhere on the way.
    place: u32,
}

/// The latest packets of one direction.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recent {
    prints: Vec<Print>,
    at: usize,
}

impl Recent {
    #[cfg(test)]
    pub(crate) const PRINT_BYTES: usize = size_of::<Print>();

    /// Notes a packet that is no copy.
    pub(crate) fn add(&mut self, record: &PacketRecord<'_>) {
        let print = Print {
            content: content(record),
            time_ns: record.time_ns,
            place: place(record),
        };
        if self.prints.len() < COPY_WINDOW {
            self.prints.push(print);
        } else {
            self.prints[self.at % COPY_WINDOW] = print;
        }
        self.at = (self.at + 1) % COPY_WINDOW;
    }

    /// Whether the packet is a copy of one seen of late, and of which kind. `tells_order` says that
    /// the sender's IP ids rise, so that an equal one proves it; from `again_ns` on, in
    /// nanoseconds, the sender may send it again.
    pub(crate) fn find(
        &self,
        record: &PacketRecord<'_>,
        tells_order: bool,
        again_ns: i64,
    ) -> Option<Class> {
        let content = content(record);
        let found = self.prints.iter().rev().find(|it| it.content == content)?;
        let headers = record.headers;
        let passed_ns = record
            .time_ns
            .saturating_sub(found.time_ns)
            .saturating_abs();
        let is_here = found.place == place(record);
        let has_id = headers.ip_id != 0;
        let limit_ns = match (has_id, record.options.has_timestamps) {
            (true, _) if !is_here => PROVEN_NS,
            (true, _) if tells_order => PROVEN_NS.min(again_ns),
            (true, _) | (false, true) => LIKELY_NS,
            // Nothing but the content: duplicate acknowledgements look the same, and who sends
            // datagrams may send the same twice.
            (false, false) if is_here && headers.protocol != protocol::TCP => return None,
            (false, false) if headers.payload_length == 0 => return None,
            (false, false) => LIKELY_NS,
        };
        if !has_id && record.sequence_length() == 0 {
            return None;
        }
        (passed_ns <= limit_ns).then_some(if is_here {
            Class::NetworkDuplicate
        } else {
            Class::CaptureDuplicate
        })
    }

    pub(crate) fn capacity(&self) -> usize {
        self.prints.capacity() * size_of::<Print>()
    }
}

const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

fn mix(hash: u64, word: u64) -> u64 {
    let wide = u128::from(hash ^ word) * u128::from(FACTOR);
    (wide as u64) ^ ((wide >> 64) as u64)
}

fn content(record: &PacketRecord<'_>) -> u64 {
    let headers = record.headers;
    let options = record.options;
    let numbers = u64::from(headers.sequence) << 32 | u64::from(headers.acknowledgement);
    let times = u64::from(options.timestamp_value) << 32 | u64::from(options.timestamp_echo);
    let rest = u64::from(headers.ip_id) << 48
        | u64::from(headers.window) << 32
        | u64::from(headers.tcp_flags.0) << 24
        | u64::from(headers.payload_length & 0x00ff_ffff);
    let hash = mix(mix(mix(FACTOR, numbers), times), rest);
    let hash = match record.sack_blocks().next() {
        Some((left, right)) => mix(hash, u64::from(left) << 32 | u64::from(right)),
        None => hash,
    };
    if options.has_timestamps || headers.ip_id != 0 {
        return hash;
    }
    // Nothing else tells it from what is sent again: the payload at least must be the same.
    let payload = record.payload();
    payload
        .chunks(8)
        .take(8)
        .fold(hash, |hash, chunk| mix(hash, word(chunk)))
}

fn word(chunk: &[u8]) -> u64 {
    chunk
        .iter()
        .fold(0, |word, byte| word << 8 | u64::from(*byte))
}

fn place(record: &PacketRecord<'_>) -> u32 {
    let headers = record.headers;
    let link = record
        .bytes
        .first_chunk::<12>()
        .filter(|_| headers.network_offset >= 14);
    let addresses = link.map_or(0, |it| {
        let [a, b, c, d, e, f, g, h, rest @ ..] = *it;
        let first = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
        mix(mix(FACTOR, first), u32::from_be_bytes(rest).into())
    });
    let wrapping = u64::from(headers.network_offset) << 32 | u64::from(headers.vlan);
    let hash = mix(mix(addresses, wrapping), u64::from(headers.ttl));
    (hash ^ (hash >> 32)) as u32
}
