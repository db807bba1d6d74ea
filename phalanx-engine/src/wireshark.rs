//! Wireshark's words: makes an [`Analysis`] from each TCP [`PacketRecord`], by the rules that
//! tshark 4.0.17 has with its default preferences when it reads a file in one pass.
//!
//! What those rules get wrong they get wrong here too: this is for people who compare. The engine's
//! own judgement is [`crate::trace`]. Streams are told apart as tshark does: by addresses and ports
//! alone, whatever they are wrapped in. Absent is what tshark knows of Multipath TCP, where it does
//! not count a duplicate ACK that follows a new option; IP fragments must be put together before.

mod analysis;
mod flow;
mod packet;
mod stream;
mod unacked;

pub use analysis::{Analysis, AnalysisFlag, AnalysisFlags};

use phalanx_common::packet::{is_error, protocol};

use self::packet::Packet;
use self::stream::{Place, Stream};
use crate::ends::{End, Ends};
use crate::limits::{EVICTION_TRIES, WIRESHARK_STREAM_COUNT_MAX, WIRESHARK_UNACKED_TOTAL_MAX};
use crate::record::PacketRecord;
use crate::table::{Fit, Hand, Keyed, Slot, Table};

struct Entry {
    key: Ends,
    /// Seen since the eviction looked at it last.
    is_fresh: bool,
    stream: Stream,
}

impl Keyed for Entry {
    type Key = Ends;

    fn key(&self) -> Ends {
        self.key
    }
}

/// What was lost to the bounds: where any of it is not 0, tshark may say something else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WiresharkTally {
    /// Streams forgotten to make room; one that goes on begins anew, with another number.
    pub evicted: u64,
    /// Segments that were not kept until their acknowledgement, as those of all streams together
    /// had reached their bound.
    pub forgotten: u64,
}

/// All streams of one hop, packet by packet.
///
/// ```
/// use phalanx_engine::wireshark::Wireshark;
///
/// let wireshark = Wireshark::new(1);
/// assert_eq!(wireshark.stream_count(), 0);
/// ```
pub struct Wireshark {
    streams: Table<Entry>,
    stream_count: u32,
    /// Room that the lists of segments have taken, in segments.
    unacked_room: usize,
    hand: Hand,
    tally: WiresharkTally,
}

impl Wireshark {
    /// Knows no stream yet. `seed` is of its hash: addresses and ports are chosen by others.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            streams: Table::new(WIRESHARK_STREAM_COUNT_MAX, seed),
            stream_count: 0,
            unacked_room: 0,
            hand: Hand::default(),
            tally: WiresharkTally::default(),
        }
    }

    /// How many streams there were so far: the number of the next one.
    #[must_use]
    pub const fn stream_count(&self) -> u32 {
        self.stream_count
    }

    /// What was lost to the bounds.
    #[must_use]
    pub const fn tally(&self) -> WiresharkTally {
        self.tally
    }

    /// Takes a packet in, in the order of the file. `None` for what is not TCP, though a segment
    /// that an ICMP error quotes changes its stream, as it does in tshark; and for a fragment, but
    /// for a first one that was not captured whole.
    pub fn handle(&mut self, record: &PacketRecord<'_>) -> Option<Analysis> {
        let headers = record.headers;
        if headers.protocol == protocol::TCP {
            if headers.is_fragmented && packet::is_captured_whole(record) {
                return None;
            }
            let (key, end) = Ends::of(headers);
            return self.take(key, end, &Packet::of(record));
        }
        if is_error(headers)
            && let Some((quoted, packet)) = packet::quoted(record)
        {
            let (key, end) = Ends::of(&quoted);
            self.take(key, end, &packet);
        }
        None
    }

    fn take(&mut self, key: Ends, end: End, packet: &Packet) -> Option<Analysis> {
        let found = self.streams.find(&key);
        let mut place = if found.is_some() {
            Place::Later
        } else {
            Place::First
        };
        let slot = found.or_else(|| self.open(key))?;
        let may_grow = self.unacked_room < WIRESHARK_UNACKED_TOTAL_MAX;
        let entry = self.streams.get_mut(slot)?;
        entry.is_fresh = true;
        let room = entry.stream.unacked_room();
        if entry.stream.is_other_connection(packet, end) {
            entry.stream = Stream::new(self.stream_count);
            self.stream_count = self.stream_count.wrapping_add(1);
            place = Place::FirstAgain;
        }
        let stream = &mut entry.stream;
        let (analysis, is_forgotten) = stream.take(packet, end, place, may_grow);
        self.unacked_room = (self.unacked_room + stream.unacked_room()).saturating_sub(room);
        self.tally.forgotten += u64::from(is_forgotten);
        Some(analysis)
    }

    fn open(&mut self, key: Ends) -> Option<Slot> {
        if self.streams.is_full() {
            self.evict();
        }
        let slot = self.streams.insert(Entry {
            key,
            is_fresh: true,
            stream: Stream::new(self.stream_count),
        })?;
        self.stream_count = self.stream_count.wrapping_add(1);
        Some(slot)
    }

    /// Forgets the stream that the clock's hand comes to first that was silent for a whole round;
    /// within a bounded number of steps, else the one it has come to.
    fn evict(&mut self) {
        let slot = self.hand.turn(&mut self.streams, EVICTION_TRIES, |entry| {
            if std::mem::take(&mut entry.is_fresh) {
                Fit::Fresh
            } else {
                Fit::Stale
            }
        });
        if let Some(entry) = slot.and_then(|slot| self.streams.remove(slot)) {
            self.unacked_room = self
                .unacked_room
                .saturating_sub(entry.stream.unacked_room());
            self.tally.evicted += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use phalanx_common::packet::{Headers, TcpFlags, TcpOptions};

    use super::*;
    use crate::limits::WIRESHARK_UNACKED_COUNT_MAX;
    use crate::record::Decoded;

    fn data(source: u64, sequence: u32, length: u32) -> Decoded {
        let headers = Headers {
            source: [source, 0],
            source_port: 1_000,
            destination_port: 80,
            protocol: protocol::TCP,
            tcp_flags: TcpFlags(TcpFlags::ACK),
            sequence,
            payload_length: length,
            ..Headers::default()
        };
        Decoded {
            headers,
            options: TcpOptions::default(),
            ..Decoded::default()
        }
    }

    fn handle(wireshark: &mut Wireshark, decoded: &Decoded) -> Analysis {
        let record = decoded.record(1, 1, 0, &[]);
        wireshark.handle(&record).expect("TCP")
    }

    #[test]
    fn a_silent_stream_makes_room_and_is_counted() {
        assert!(size_of::<Entry>() <= 304, "{}", size_of::<Entry>());
        let mut wireshark = Wireshark::new(1);
        let count = WIRESHARK_STREAM_COUNT_MAX as u64;
        for source in 1..=count + 10 {
            let analysis = handle(&mut wireshark, &data(source, 1, 0));
            assert_eq!(u64::from(analysis.stream), source - 1);
        }
        assert_eq!(wireshark.tally().evicted, 10);
        assert_eq!(wireshark.streams.count(), WIRESHARK_STREAM_COUNT_MAX);
    }

    #[test]
    fn lists_of_all_streams_have_one_bound() {
        let mut wireshark = Wireshark::new(1);
        let streams = WIRESHARK_UNACKED_TOTAL_MAX / WIRESHARK_UNACKED_COUNT_MAX + 2;
        for source in 1..=streams as u64 {
            for at in 0..WIRESHARK_UNACKED_COUNT_MAX as u32 {
                handle(&mut wireshark, &data(source, 1 + at, 1));
            }
        }
        let bound = WIRESHARK_UNACKED_TOTAL_MAX + 2 * WIRESHARK_UNACKED_COUNT_MAX;
        assert!(wireshark.unacked_room < bound, "{}", wireshark.unacked_room);
        assert!(wireshark.tally().forgotten > 0);
    }
}
