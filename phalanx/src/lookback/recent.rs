//! The ring of recent packets: segments in memory, and behind them, where there is one, in a mapped
//! file. The oldest segment gives way to the newest; what went is counted, and until when.

use std::collections::{BTreeSet, VecDeque};

use phalanx_engine::HopId;

use super::MEMORY_MIB;
use super::mapping::Mapping;
use super::segment::{Extent, RecentPacket, SEGMENT_SIZE, Segment};

/// Segments that stay in memory before the file.
const MEMORY_SEGMENT_COUNT: usize = MEMORY_MIB as usize * (1 << 20) / SEGMENT_SIZE;

/// The ring.
#[derive(Debug)]
pub(crate) struct Recent {
    /// Behind the memory, the oldest first, each in its slot.
    filed: VecDeque<Filed>,
    /// Full ones in memory, the oldest first.
    full: VecDeque<Segment>,
    open: Segment,
    mapping: Option<Mapping>,
    full_count_max: usize,
    evicted_count: u64,
    evicted_until_ns: u64,
}

#[derive(Debug)]
struct Filed {
    extent: Extent,
    slot: usize,
    length: usize,
}

/// What was copied out of the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    /// Number of the first packet in the copy.
    pub(crate) first: u64,
    /// The number after its last one.
    pub(crate) end: u64,
    /// Packets from the number asked for on that have gone before they were read.
    pub(crate) gone: u64,
}

/// Which packets are looked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish<'a> {
    /// From this number on.
    pub(crate) from: u64,
    /// Not older than this.
    pub(crate) since_ns: u64,
    /// Seen at any of these.
    pub(crate) hops: &'a BTreeSet<HopId>,
}

impl Recent {
    /// An empty ring of so many segments in memory, or in the file beside a few in memory. Memory
    /// is taken as it is filled.
    pub(crate) fn new(segment_count: usize, mapping: Option<Mapping>) -> Self {
        let memory = match &mapping {
            Some(_) => MEMORY_SEGMENT_COUNT.min(segment_count),
            None => segment_count,
        };
        Self {
            filed: VecDeque::new(),
            full: VecDeque::new(),
            open: Segment::new(0, Vec::new()),
            mapping,
            full_count_max: memory.saturating_sub(1),
            evicted_count: 0,
            evicted_until_ns: 0,
        }
    }

    /// How many segments are to go into the file where there is one: with those in memory they make
    /// up `segment_count`.
    pub(crate) const fn slot_count(segment_count: usize) -> usize {
        segment_count.saturating_sub(MEMORY_SEGMENT_COUNT)
    }

    /// Adds a packet; the oldest segment leaves where there is no room. False where the packet is
    /// larger than any may be.
    pub(crate) fn push(&mut self, packet: &RecentPacket<'_>) -> bool {
        if self.open.push(packet) {
            return true;
        }
        if self.open.extent.count == 0 {
            return false;
        }
        let room = self.make_room();
        let next = Segment::new(self.open.extent.end(), room);
        self.full.push_back(std::mem::replace(&mut self.open, next));
        self.open.push(packet)
    }

    /// Makes room for one more full segment in memory; gives back the memory of the one that left.
    fn make_room(&mut self) -> Vec<u8> {
        if self.full.len() < self.full_count_max {
            return Vec::new();
        }
        let Some(oldest) = self.full.pop_front() else {
            return Vec::new();
        };
        let slot = self.take_slot();
        if let (Some(slot), Some(mapping)) = (slot, &mut self.mapping) {
            mapping.write(slot, &oldest.bytes);
            self.filed.push_back(Filed {
                extent: oldest.extent,
                slot,
                length: oldest.bytes.len(),
            });
        } else {
            self.evict(&oldest.extent);
        }
        oldest.bytes
    }

    /// A slot of the file, free or of its oldest segment; `None` where there is no file.
    fn take_slot(&mut self) -> Option<usize> {
        let slot_count = self.mapping.as_ref()?.slot_count();
        if self.filed.len() < slot_count {
            return Some(self.filed.len());
        }
        let oldest = self.filed.pop_front()?;
        self.evict(&oldest.extent);
        Some(oldest.slot)
    }

    fn evict(&mut self, extent: &Extent) {
        self.evicted_count += extent.count;
        self.evicted_until_ns = self.evicted_until_ns.max(extent.last_ns);
    }

    /// Copies the next segment that may hold what is wished for; `None` where there is none.
    pub(crate) fn read(&self, wish: Wish<'_>, into: &mut Vec<u8>) -> Option<Chunk> {
        let fits = |extent: &Extent| {
            extent.end() > wish.from
                && extent.last_ns >= wish.since_ns
                && !extent.hops.is_disjoint(wish.hops)
        };
        into.clear();
        let filed = self.filed.iter().find(|it| fits(&it.extent));
        let extent = if let (Some(filed), Some(mapping)) = (filed, &self.mapping) {
            into.extend_from_slice(mapping.read(filed.slot, filed.length));
            &filed.extent
        } else {
            let in_memory = self.full.iter().chain([&self.open]);
            let segment = in_memory.into_iter().find(|it| fits(&it.extent))?;
            into.extend_from_slice(&segment.bytes);
            &segment.extent
        };
        Some(Chunk {
            first: extent.first,
            end: extent.end(),
            gone: self.oldest().saturating_sub(wish.from),
        })
    }

    /// Number of the oldest packet that is here.
    pub(crate) fn oldest(&self) -> u64 {
        let filed = self.filed.front().map(|it| &it.extent);
        let full = self.full.front().map(|it| &it.extent);
        filed.or(full).unwrap_or(&self.open.extent).first
    }

    /// Number of the first packet that may not be older than a time.
    pub(crate) fn first_since(&self, since_ns: u64) -> u64 {
        let filed = self.filed.iter().map(|it| &it.extent);
        let full = self.full.iter().map(|it| &it.extent);
        filed
            .chain(full)
            .find(|extent| extent.last_ns >= since_ns)
            .unwrap_or(&self.open.extent)
            .first
    }

    /// Number that the next packet will have: so many have come.
    pub(crate) fn next(&self) -> u64 {
        self.open.extent.end()
    }

    /// How many packets have left for later ones.
    pub(crate) fn evicted_count(&self) -> u64 {
        self.evicted_count
    }

    /// The latest time of a packet that has left; 0: none has.
    pub(crate) fn evicted_until_ns(&self) -> u64 {
        self.evicted_until_ns
    }

    /// Bytes that packets take.
    pub(crate) fn used_bytes(&self) -> u64 {
        let full = (self.filed.len() + self.full.len()) as u64 * SEGMENT_SIZE as u64;
        full + self.open.bytes.len() as u64
    }

    /// Whether a part of it lies in a file.
    pub(crate) fn has_file(&self) -> bool {
        self.mapping.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lookback::segment::packets;

    /// Packets of 1,000 bytes: so many fit into a segment.
    const PER_SEGMENT: u64 = SEGMENT_SIZE as u64 / 1_040;

    fn packet(hop: u32, time_ns: u64) -> RecentPacket<'static> {
        RecentPacket {
            hop: HopId(hop),
            time_ns,
            matched: 0,
            frame_length: 1_000,
            payload_offset: 54,
            gso_segments: 1,
            gso_size: 0,
            vlan_tag: 0,
            has_ethernet: true,
            bytes: &[7; 1_000],
        }
    }

    fn file(segment_count: usize) -> Mapping {
        Mapping::new(&std::env::temp_dir(), Recent::slot_count(segment_count)).unwrap()
    }

    /// Times of the packets of a hop since a time, and how many had gone.
    fn times(recent: &Recent, from: u64, since_ns: u64, hop: u32) -> (Vec<u64>, u64) {
        let hops = [HopId(hop)].into();
        let (mut next, mut gone, mut found) = (from, 0, Vec::new());
        let mut bytes = Vec::new();
        loop {
            let wish = Wish {
                from: next,
                since_ns,
                hops: &hops,
            };
            let Some(chunk) = recent.read(wish, &mut bytes) else {
                return (found, gone);
            };
            gone += chunk.gone;
            let wanted = packets(&bytes, chunk.first)
                .filter(|(number, it)| *number >= next && it.time_ns >= since_ns)
                .filter(|(_, it)| it.hop == HopId(hop));
            found.extend(wanted.map(|(_, it)| it.time_ns));
            next = chunk.end;
        }
    }

    fn fill(recent: &mut Recent, times: std::ops::Range<u64>) {
        for time_ns in times {
            assert!(recent.push(&packet(1, time_ns)));
        }
    }

    #[test]
    fn the_oldest_segment_leaves_and_is_counted_in_memory_and_in_the_file() {
        for mapping in [None, Some(file(12))] {
            let has_file = mapping.is_some();
            let mut recent = Recent::new(12, mapping);
            assert_eq!(recent.has_file(), has_file);
            fill(&mut recent, 1..12 * PER_SEGMENT + 1);
            assert_eq!(recent.evicted_count(), 0, "file: {has_file}");
            fill(&mut recent, 12 * PER_SEGMENT + 1..14 * PER_SEGMENT + 2);
            // Two whole segments and the one that the last packet began.
            assert_eq!(recent.evicted_count(), 3 * PER_SEGMENT, "file: {has_file}");
            assert_eq!(recent.evicted_until_ns(), 3 * PER_SEGMENT);
            assert_eq!(recent.oldest(), 3 * PER_SEGMENT);
            let (found, gone) = times(&recent, recent.oldest(), 0, 1);
            let expected = 3 * PER_SEGMENT + 1..14 * PER_SEGMENT + 2;
            assert_eq!(found, expected.collect::<Vec<_>>(), "file: {has_file}");
            assert_eq!(gone, 0);
        }
    }

    #[test]
    fn it_wraps_many_times_and_stays_whole() {
        for mapping in [None, Some(file(10))] {
            let mut recent = Recent::new(10, mapping);
            let count = 57 * PER_SEGMENT + 11;
            fill(&mut recent, 1..count + 1);
            let (found, _) = times(&recent, recent.oldest(), 0, 1);
            assert_eq!(found.len() as u64 + recent.evicted_count(), count);
            assert!(found.is_sorted() && found.last() == Some(&count));
            assert_eq!(recent.next(), count);
            assert!(recent.used_bytes() <= 10 * SEGMENT_SIZE as u64);
        }
    }

    #[test]
    fn an_interval_and_a_hop_are_found() {
        let mut recent = Recent::new(8, None);
        for time_ns in 1..4 * PER_SEGMENT {
            let hop = if time_ns < 2 * PER_SEGMENT { 1 } else { 2 };
            recent.push(&packet(hop, time_ns));
        }
        let since = 2 * PER_SEGMENT - 10;
        assert_eq!(times(&recent, 0, since, 1).0.len(), 10);
        assert_eq!(recent.first_since(since), PER_SEGMENT);
        assert_eq!(recent.first_since(u64::MAX), recent.open.extent.first);
        assert_eq!(times(&recent, 0, 0, 2).0.len() as u64, 2 * PER_SEGMENT);
        assert!(times(&recent, 0, 0, 3).0.is_empty());
        assert!(times(&recent, 0, 5 * PER_SEGMENT, 2).0.is_empty());
    }

    #[test]
    fn a_reader_is_told_what_went_before_it_came() {
        let mut recent = Recent::new(4, None);
        fill(&mut recent, 1..2 * PER_SEGMENT);
        let from = recent.oldest();
        fill(&mut recent, 2 * PER_SEGMENT..6 * PER_SEGMENT);
        let (found, gone) = times(&recent, from, 0, 1);
        assert!(gone > 0);
        assert_eq!(found.len() as u64 + gone, recent.next() - from);
    }

    #[test]
    fn a_packet_beyond_any_size_is_refused() {
        let mut recent = Recent::new(4, None);
        let bytes = vec![0; 70_000];
        let huge = RecentPacket {
            bytes: &bytes,
            ..packet(1, 1)
        };
        assert!(!recent.push(&huge));
        assert!(recent.push(&packet(1, 1)));
    }
}
