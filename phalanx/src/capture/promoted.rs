//! The packets of flows that turned sick: the programs record their headers without being asked,
//! and the latest of them wait here, in memory, for whoever asks after a flow. No capture gets any
//! of them, unless its filter selects them as well.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use phalanx_common::abi::{Direction, FlowKey, RecordHeader};
use phalanx_common::limits::SNAP_CLASSES;
use phalanx_engine::{Endpoint, Hop, HopId, Monotonic};

use super::job::{link_type, retag, tag_beside};
use crate::clock::Clock;
use crate::pcapng::{Interface, Packet, WriteError, Writer, gso_comment};

/// Packets that are kept: 4 MiB, at 96 bytes for what is known of each, up to 128 of its headers,
/// and 32 for the allocator.
pub const PROMOTED_COUNT_MAX: usize = 16_384;

const HEADERS_MAX: usize = SNAP_CLASSES[0];
const _: () = assert!(size_of::<PromotedPacket>() <= 96 && HEADERS_MAX <= 128);
const _: () = assert!(PROMOTED_COUNT_MAX * (96 + HEADERS_MAX + 32) == 4 << 20);

/// One packet of a promoted flow: its headers.
#[derive(Clone, Debug)]
pub struct PromotedPacket {
    time_ns: u64,
    bytes: Box<[u8]>,
    hop: HopId,
    key: FlowKey,
    incarnation: u32,
    frame_length: u32,
    gso_segments: u16,
    gso_size: u16,
    vlan_tag: u16,
    has_ethernet: bool,
}

/// The flow whose packets are asked for.
#[derive(Clone, Debug)]
pub struct PromotedFlow {
    /// Its id, as the file names it.
    pub id: u64,
    /// Its hop.
    pub hop: HopId,
    /// Its ends, in whichever order.
    pub ends: [Endpoint; 2],
    /// IANA protocol number.
    pub protocol: u8,
    /// Outermost VLAN id, 0 where there is none.
    pub vlan: u16,
    /// Its incarnation, which tells it from others of the same 5-tuple.
    pub incarnation: u32,
}

/// The packets that are kept, and how many were.
#[derive(Debug, Default)]
pub struct PromotedPackets {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    packets: VecDeque<PromotedPacket>,
    count: u64,
    evicted_count: u64,
}

impl PromotedPacket {
    /// The headers of a record, whatever else a capture asked for.
    #[must_use]
    pub fn new(hop: HopId, header: &RecordHeader, bytes: &[u8]) -> Self {
        let end = usize::from(header.payload_offset).min(HEADERS_MAX);
        Self {
            time_ns: header.time_ns,
            bytes: bytes[..bytes.len().min(end)].into(),
            hop,
            key: header.key,
            incarnation: header.incarnation,
            frame_length: header.frame_length,
            gso_segments: header.gso_segments,
            gso_size: header.gso_size,
            vlan_tag: header.vlan_tag,
            has_ethernet: header.has_ethernet != 0,
        }
    }
}

impl PromotedFlow {
    fn owns(&self, packet: &PromotedPacket) -> bool {
        let key = &packet.key;
        let low = Endpoint::of(key, Direction::FromLow);
        let high = Endpoint::of(key, Direction::FromHigh);
        packet.hop == self.hop
            && packet.incarnation == self.incarnation
            && key.protocol == self.protocol
            && key.vlan == self.vlan
            && (self.ends == [low, high] || self.ends == [high, low])
    }
}

impl PromotedPackets {
    /// Keeps packets; the oldest leave where there is no room.
    pub fn keep(&self, packets: Vec<PromotedPacket>) {
        if packets.is_empty() {
            return;
        }
        let mut kept = self.lock();
        kept.count += packets.len() as u64;
        for packet in packets {
            if kept.packets.len() == PROMOTED_COUNT_MAX {
                kept.packets.pop_front();
                kept.evicted_count += 1;
            }
            kept.packets.push_back(packet);
        }
    }

    /// How many packets came, and how many of them have left for later ones.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        let kept = self.lock();
        (kept.count, kept.evicted_count)
    }

    /// The packets of one flow as pcapng; without any where none are kept.
    ///
    /// # Errors
    /// What pcapng cannot hold.
    pub fn pcapng(
        &self,
        flow: &PromotedFlow,
        hop: Option<&Arc<Hop>>,
        clock: &Clock,
    ) -> Result<Vec<u8>, WriteError> {
        let kept = self.lock();
        let packets: Vec<PromotedPacket> = kept
            .packets
            .iter()
            .filter(|packet| flow.owns(packet))
            .cloned()
            .collect();
        let evicted = kept.evicted_count;
        drop(kept);
        let comment = format!(
            "Phalanx flow {}: headers of the packets that came while it was promoted; {evicted} \
             packets of all promoted flows have left the memory for later ones",
            flow.id
        );
        let mut writer = Writer::new(Vec::new(), &comment)?;
        let Some(hop) = hop else {
            return writer.finish();
        };
        let interface = writer.add_interface(&Interface {
            name: hop.interface.to_string(),
            description: format!("hop {} on {}", hop.id.0, hop.host),
            link_type: u16::try_from(link_type(hop.link).number()).unwrap_or(u16::MAX),
            snap_length: 0,
            filter: String::new(),
        })?;
        let mut scratch = Vec::new();
        for packet in &packets {
            let tag = tag_beside(packet.vlan_tag, packet.has_ethernet);
            let bytes = retag(tag, &packet.bytes, &mut scratch).unwrap_or(&packet.bytes);
            let grown = u32::try_from(bytes.len() - packet.bytes.len()).unwrap_or_default();
            let comment = match packet.gso_segments {
                0 | 1 => String::new(),
                segments => gso_comment(segments, packet.gso_size),
            };
            writer.write(&Packet {
                interface,
                time_ns: clock.wall_ns(Monotonic(packet.time_ns)),
                wire_length: packet.frame_length.saturating_add(grown),
                bytes,
                comment: &comment,
            })?;
        }
        writer.finish()
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture_file::CaptureFile;
    use crate::clock::Reading;
    use phalanx_engine::{Link, NamespaceId};
    use zerocopy::FromZeros;

    const INCARNATION: u32 = 7;

    fn mapped(address: [u8; 4]) -> [u32; 4] {
        [0, 0, 0xffff_u32.to_be(), u32::from_ne_bytes(address)]
    }

    fn end(address: [u8; 4], port: u16) -> Endpoint {
        Endpoint {
            address: address.into(),
            port,
        }
    }

    fn packet(port: u16, incarnation: u32, time_ns: u64) -> PromotedPacket {
        let mut header = RecordHeader::new_zeroed();
        header.key = FlowKey {
            protocol: 6,
            low: mapped([10, 0, 0, 1]),
            high: mapped([10, 0, 0, 2]),
            low_port: port,
            high_port: 443,
            ..FlowKey::default()
        };
        header.time_ns = time_ns;
        header.incarnation = incarnation;
        header.frame_length = 1_514;
        header.payload_offset = 54;
        header.has_ethernet = 1;
        PromotedPacket::new(HopId(1), &header, &[0x55; 1_514])
    }

    fn flow(port: u16) -> PromotedFlow {
        PromotedFlow {
            id: 7,
            hop: HopId(1),
            ends: [end([10, 0, 0, 2], 443), end([10, 0, 0, 1], port)],
            protocol: 6,
            vlan: 0,
            incarnation: INCARNATION,
        }
    }

    fn lengths(packets: &PromotedPackets, port: u16) -> Vec<usize> {
        let hop = Arc::new(Hop {
            id: HopId(1),
            host: "host".into(),
            namespace: NamespaceId(1),
            namespace_name: None,
            interface: "eth0".into(),
            ifindex: 2,
            link: Link::Ethernet,
            clock: phalanx_engine::ClockId::default(),
        });
        let clock = Clock::new(Reading::take());
        let file = packets.pcapng(&flow(port), Some(&hop), &clock).unwrap();
        let mut capture = CaptureFile::from_reader("flow", std::io::Cursor::new(file)).unwrap();
        let frames = capture.frames().unwrap();
        frames.iter().map(|frame| frame.bytes.len()).collect()
    }

    #[test]
    fn a_file_has_the_headers_of_its_flow_alone() {
        let packets = PromotedPackets::default();
        packets.keep(vec![
            packet(40_000, INCARNATION, 1),
            packet(40_001, INCARNATION, 2),
            // The same 5-tuple before.
            packet(40_000, INCARNATION - 1, 3),
            packet(40_000, INCARNATION, 4),
        ]);
        assert_eq!(lengths(&packets, 40_000), [54, 54]);
        assert!(lengths(&packets, 40_002).is_empty());
    }

    #[test]
    fn the_oldest_leave_and_are_counted() {
        let packets = PromotedPackets::default();
        packets.keep(vec![packet(40_000, INCARNATION, 1)]);
        packets.keep(vec![packet(40_001, INCARNATION, 2); PROMOTED_COUNT_MAX]);
        assert!(lengths(&packets, 40_000).is_empty());
        assert_eq!(lengths(&packets, 40_001).len(), PROMOTED_COUNT_MAX);
        assert_eq!(packets.counts(), (PROMOTED_COUNT_MAX as u64 + 1, 1));
    }
}
