//! A segment: packets in the order in which they came, one after the other, in a buffer of constant
//! size. What it holds is known beside it: since when, until when, of which hops.

use std::collections::BTreeSet;

use phalanx_common::abi::RecordHeader;
use phalanx_engine::HopId;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes of a segment: some 10,000 packets without payload.
pub(crate) const SEGMENT_SIZE: usize = 1 << 20;

/// One packet as it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecentPacket<'a> {
    /// Where it was seen.
    pub(crate) hop: HopId,
    /// When, in monotonic nanoseconds.
    pub(crate) time_ns: u64,
    /// Recording filters that asked for it: bits by number.
    pub(crate) matched: u64,
    /// Length of the frame on the wire.
    pub(crate) frame_length: u32,
    /// Where the payload begins.
    pub(crate) payload_offset: u16,
    /// Segments of a super-segment; 1 for a plain packet.
    pub(crate) gso_segments: u16,
    /// Payload bytes of each of them.
    pub(crate) gso_size: u16,
    /// VLAN tag kept beside the frame, 0 where there is none.
    pub(crate) vlan_tag: u16,
    /// Whether the frame begins with Ethernet.
    pub(crate) has_ethernet: bool,
    /// The bytes of the frame that were captured.
    pub(crate) bytes: &'a [u8],
}

impl<'a> RecentPacket<'a> {
    /// A packet as the kernel recorded it.
    pub(crate) fn new(hop: HopId, header: &RecordHeader, bytes: &'a [u8]) -> Self {
        Self {
            hop,
            time_ns: header.time_ns,
            matched: header.matched,
            frame_length: header.frame_length,
            payload_offset: header.payload_offset,
            gso_segments: header.gso_segments,
            gso_size: header.gso_size,
            vlan_tag: header.vlan_tag,
            has_ethernet: header.has_ethernet != 0,
            bytes,
        }
    }

    /// The packet without what lies beyond `length` bytes of the frame; 0: beyond its headers.
    pub(crate) fn cut(self, length: usize) -> Self {
        let length = match length {
            0 => usize::from(self.payload_offset),
            length => length,
        };
        Self {
            bytes: &self.bytes[..self.bytes.len().min(length)],
            ..self
        }
    }
}

/// What stands before the bytes of a packet.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Prefix {
    time_ns: u64,
    matched: u64,
    hop: u32,
    frame_length: u32,
    /// Of the bytes that follow.
    length: u16,
    payload_offset: u16,
    gso_segments: u16,
    gso_size: u16,
    vlan_tag: u16,
    has_ethernet: u16,
    /// [`mark`] of the packet's number.
    mark: u32,
}

/// What tells the packet of a number from what lay in its place before.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the lower half of the number"
)]
const fn mark(number: u64) -> u32 {
    number as u32 ^ 0x5048_4c58
}

/// What is known of a segment without reading it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Number of its first packet.
    pub(crate) first: u64,
    /// How many packets it holds.
    pub(crate) count: u64,
    /// The earliest time of its packets.
    pub(crate) first_ns: u64,
    /// The latest.
    pub(crate) last_ns: u64,
    /// Their hops: no more than there are at once.
    pub(crate) hops: BTreeSet<HopId>,
}

impl Extent {
    pub(crate) fn new(first: u64) -> Self {
        Self {
            first,
            first_ns: u64::MAX,
            ..Self::default()
        }
    }

    /// The number after its last packet.
    pub(crate) const fn end(&self) -> u64 {
        self.first + self.count
    }
}

/// A segment in memory.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) extent: Extent,
    pub(crate) bytes: Vec<u8>,
    hop_last: Option<HopId>,
}

impl Segment {
    /// An empty one, whose first packet will have this number, in the memory of another or its own.
    pub(crate) fn new(first: u64, mut bytes: Vec<u8>) -> Self {
        bytes.clear();
        bytes.reserve_exact(SEGMENT_SIZE);
        Self {
            extent: Extent::new(first),
            bytes,
            hop_last: None,
        }
    }

    /// Adds a packet; false where it has no room.
    pub(crate) fn push(&mut self, packet: &RecentPacket<'_>) -> bool {
        let length = packet.bytes.len();
        let Ok(short) = u16::try_from(length) else {
            return false;
        };
        if self.bytes.len() + size_of::<Prefix>() + length > SEGMENT_SIZE {
            return false;
        }
        let prefix = Prefix {
            time_ns: packet.time_ns,
            matched: packet.matched,
            hop: packet.hop.0,
            frame_length: packet.frame_length,
            length: short,
            payload_offset: packet.payload_offset,
            gso_segments: packet.gso_segments,
            gso_size: packet.gso_size,
            vlan_tag: packet.vlan_tag,
            has_ethernet: u16::from(packet.has_ethernet),
            mark: mark(self.extent.end()),
        };
        self.bytes.extend_from_slice(prefix.as_bytes());
        self.bytes.extend_from_slice(packet.bytes);
        let extent = &mut self.extent;
        extent.count += 1;
        extent.first_ns = extent.first_ns.min(packet.time_ns);
        extent.last_ns = extent.last_ns.max(packet.time_ns);
        if self.hop_last != Some(packet.hop) {
            self.hop_last = Some(packet.hop);
            extent.hops.insert(packet.hop);
        }
        true
    }
}

/// The packets in the bytes of a segment whose first has the number `first`, each with its number.
/// Ends where a packet is torn or another one's.
pub(crate) fn packets(bytes: &[u8], first: u64) -> impl Iterator<Item = (u64, RecentPacket<'_>)> {
    let (mut rest, mut number) = (bytes, first);
    std::iter::from_fn(move || {
        let (prefix, after) = Prefix::read_from_prefix(rest).ok()?;
        if prefix.mark != mark(number) {
            return None;
        }
        let (bytes, after) = after.split_at_checked(usize::from(prefix.length))?;
        rest = after;
        number += 1;
        let packet = RecentPacket {
            hop: HopId(prefix.hop),
            time_ns: prefix.time_ns,
            matched: prefix.matched,
            frame_length: prefix.frame_length,
            payload_offset: prefix.payload_offset,
            gso_segments: prefix.gso_segments,
            gso_size: prefix.gso_size,
            vlan_tag: prefix.vlan_tag,
            has_ethernet: prefix.has_ethernet != 0,
            bytes,
        };
        Some((number - 1, packet))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(hop: u32, time_ns: u64, bytes: &[u8]) -> RecentPacket<'_> {
        RecentPacket {
            hop: HopId(hop),
            time_ns,
            matched: 1 << 63,
            frame_length: 1_514,
            payload_offset: 54,
            gso_segments: 2,
            gso_size: 1_448,
            vlan_tag: 7,
            has_ethernet: true,
            bytes,
        }
    }

    fn filled(first: u64) -> Segment {
        let mut segment = Segment::new(first, Vec::new());
        for (hop, time_ns, bytes) in [(1, 30, &[1_u8; 54][..]), (2, 20, &[]), (1, 40, &[3; 66])] {
            assert!(segment.push(&packet(hop, time_ns, bytes)));
        }
        segment
    }

    #[test]
    fn packets_come_back_as_they_went_in_with_their_numbers() {
        let segment = filled(100);
        let read: Vec<_> = packets(&segment.bytes, 100).collect();
        assert_eq!(read.len(), 3);
        assert_eq!(read[0], (100, packet(1, 30, &[1; 54])));
        assert_eq!(read[1], (101, packet(2, 20, &[])));
        assert_eq!(read[2], (102, packet(1, 40, &[3; 66])));
        let extent = &segment.extent;
        assert_eq!((extent.first_ns, extent.last_ns), (20, 40));
        assert_eq!(extent.hops, [HopId(1), HopId(2)].into());
        assert_eq!(extent.end(), 103);
    }

    #[test]
    fn a_torn_packet_ends_the_reading_at_every_byte() {
        let segment = filled(0);
        let ends = [0, 94, 134, 240];
        assert_eq!(segment.bytes.len(), ends[3]);
        for cut in 0..=segment.bytes.len() {
            let whole = ends.iter().rposition(|end| *end <= cut).unwrap();
            let read = packets(&segment.bytes[..cut], 0).count();
            assert_eq!(read, whole, "cut at {cut}");
        }
    }

    #[test]
    fn what_lay_there_before_is_not_read() {
        let (old, mut bytes) = (filled(50), filled(100).bytes);
        bytes.truncate(94);
        bytes.extend_from_slice(&old.bytes[94..]);
        assert_eq!(packets(&bytes, 100).count(), 1);
    }

    #[test]
    fn a_full_segment_takes_no_more_and_grows_no_further() {
        let mut segment = Segment::new(0, Vec::new());
        let capacity = segment.bytes.capacity();
        let bytes = [0; 66];
        while segment.push(&packet(1, 1, &bytes)) {}
        assert_eq!(segment.bytes.capacity(), capacity);
        assert_eq!(segment.extent.count as usize, SEGMENT_SIZE / (40 + 66));
        assert!(!segment.push(&packet(1, 1, &vec![0; 70_000])));
    }

    #[test]
    fn a_packet_is_cut_to_its_headers_or_to_a_length() {
        let bytes = [0; 200];
        assert_eq!(packet(1, 1, &bytes).cut(0).bytes.len(), 54);
        assert_eq!(packet(1, 1, &bytes).cut(128).bytes.len(), 128);
        assert_eq!(packet(1, 1, &bytes[..30]).cut(0).bytes.len(), 30);
    }
}
