//! Content: what a connection carries, cut into chunks at places that the bytes themselves choose,
//! so that a proxy that ends one connection and begins another is recognised by what it passes on,
//! however it cuts segments. Needs payload that was captured.
//!
//! Chunks end where a rolling hash says so (gear hash, Xia and others, 2014), and where the other
//! side begins to speak.

use phalanx_common::packet::TcpFlags;

use crate::limits::{CONTENT_CHUNK_BYTES_MIN, CONTENT_CHUNK_COUNT_MAX};
use crate::record::PacketRecord;
use crate::side::{Side, Sides};

/// Ends a chunk where these bits of the rolling hash are 0: after 256 bytes on average.
const BORDER_MASK: u64 = 0xff << 56;

/// What each byte adds to the rolling hash.
const GEAR: [u64; 256] = gear();

/// FNV-1a (Fowler, Noll, Vo), 64 bits.
const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0100_0000_01b3;

const fn gear() -> [u64; 256] {
    let mut table = [0; 256];
    let mut index = 0;
    let mut state = 0_u64;
    while index < table.len() {
        // SplitMix64 (Steele, Lea, Flood 2014).
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        table[index] = word ^ (word >> 31);
        index += 1;
    }
    table
}

/// The chunks of both directions.
#[derive(Clone, Debug, Default)]
pub struct Content {
    streams: Sides<Stream>,
}

/// A chunk of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ContentChunk {
    pub(super) hash: u64,
    /// When its last byte was seen, in nanoseconds of the hop's clock.
    pub(super) time_ns: i64,
}

/// The chunks of one direction.
#[derive(Clone, Debug, Default)]
struct Stream {
    chunks: Vec<ContentChunk>,
    /// Time of the latest payload.
    time_ns: i64,
    /// The next byte in order.
    next: Option<u32>,
    rolling: u64,
    hash: u64,
    length: u32,
    /// Bytes that differ from the one before: what hardly changes tells nothing.
    change_count: u32,
    last: u8,
    /// The beginning of this chunk was not seen.
    is_torn: bool,
}

impl Content {
    /// Takes the payload of a segment in, as far as it goes on where the last one ended.
    pub(super) fn push(&mut self, record: &PacketRecord<'_>, side: Side) {
        let flags = record.flags();
        let sequence = record.headers.sequence;
        if flags.any(TcpFlags::SYN) {
            *self.streams.get_mut(side) = Stream {
                next: Some(sequence.wrapping_add(1)),
                ..Stream::default()
            };
            return;
        }
        if record.headers.payload_length == 0 {
            return;
        }
        self.streams.get_mut(side.other()).end_chunk();
        let stream = self.streams.get_mut(side);
        stream.time_ns = record.time_ns;
        stream.push(sequence, record.payload(), record.headers.payload_length);
    }

    /// The chunks that a side sent, in their order.
    pub(super) fn chunks(&self, side: Side) -> &[ContentChunk] {
        &self.streams.get(side).chunks
    }

    pub(super) const fn turn_round(&mut self) {
        std::mem::swap(&mut self.streams.client, &mut self.streams.server);
    }

    /// Content of these chunks: of each side, hashes and times.
    #[cfg(test)]
    pub(super) fn of_chunks(chunks: Sides<Vec<(u64, i64)>>) -> Self {
        let stream = |chunks: Vec<(u64, i64)>| Stream {
            chunks: chunks
                .into_iter()
                .map(|(hash, time_ns)| ContentChunk { hash, time_ns })
                .collect(),
            ..Stream::default()
        };
        Self {
            streams: Sides {
                client: stream(chunks.client),
                server: stream(chunks.server),
            },
        }
    }

    /// Chunks of both sides.
    pub(super) fn count(&self) -> usize {
        self.streams.client.chunks.len() + self.streams.server.chunks.len()
    }
}

impl Stream {
    fn push(&mut self, sequence: u32, payload: &[u8], length: u32) {
        let next = *self.next.get_or_insert(sequence);
        let known = next.wrapping_sub(sequence);
        if known > i32::MAX.unsigned_abs() {
            // Bytes before these are missing.
            self.tear();
        }
        let known = if known > i32::MAX.unsigned_abs() {
            0
        } else {
            known
        };
        if known >= length || self.chunks.len() >= CONTENT_CHUNK_COUNT_MAX {
            return;
        }
        for byte in payload.get(known as usize..).unwrap_or_default() {
            self.add(*byte);
        }
        if (payload.len() as u32) < length {
            self.tear();
        }
        self.next = Some(sequence.wrapping_add(length));
    }

    fn add(&mut self, byte: u8) {
        if self.length == 0 {
            self.hash = FNV_OFFSET;
        }
        self.change_count += u32::from(byte != self.last);
        self.last = byte;
        self.length += 1;
        self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(FNV_PRIME);
        self.rolling = (self.rolling << 1).wrapping_add(GEAR[usize::from(byte)]);
        if self.rolling & BORDER_MASK == 0 && self.length >= CONTENT_CHUNK_BYTES_MIN {
            self.end_chunk();
            self.is_torn = false;
        }
    }

    fn end_chunk(&mut self) {
        let is_telling = self.length >= CONTENT_CHUNK_BYTES_MIN
            && self.change_count * 3 >= self.length
            && !self.is_torn;
        if is_telling && self.chunks.len() < CONTENT_CHUNK_COUNT_MAX {
            self.chunks.push(ContentChunk {
                hash: self.hash,
                time_ns: self.time_ns,
            });
        }
        (self.length, self.change_count, self.rolling) = (0, 0, 0);
    }

    fn tear(&mut self) {
        (self.length, self.change_count, self.rolling) = (0, 0, 0);
        self.is_torn = true;
    }
}
