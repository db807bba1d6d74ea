//! Frames of a classic pcap file, of either byte order, with microseconds or nanoseconds, and of
//! the modified one with longer record headers.

use super::chunk::{Chunk, FrameAt};
use super::ledger::{Interface, Ledger};
use super::limits::{CHUNK_FRAME_COUNT_MAX, FRAME_BYTES_MAX};
use super::order::Order;
use super::{Fault, Step};

/// How the records of a file are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pcap {
    order: Order,
    fraction_ns: u32,
    header_size: usize,
    lengths: Lengths,
    snap_length: u32,
}

/// In which order old writers put the two lengths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lengths {
    CapturedFirst,
    /// Version 2.3 in some: the lesser one was captured.
    Either,
    /// Before 2.3.
    WireFirst,
}

/// Magic number of microseconds.
const MAGIC_MICROSECONDS: u32 = 0xa1b2_c3d4;
/// Magic number of nanoseconds.
const MAGIC_NANOSECONDS: u32 = 0xa1b2_3c4d;
/// Magic number of the modified format of Alexey Kuznetsov's patches: the record header goes on
/// with an interface index, a protocol and a packet type.
const MAGIC_MODIFIED: u32 = 0xa1b2_cd34;

/// What the first bytes of a file say.
pub(super) enum Recognised {
    /// Its records follow.
    Pcap(Pcap, Interface),
    /// A version that nobody writes.
    UnknownVersion(u16, u16),
    /// Something else.
    No,
}

/// Reads the header of a file.
pub(super) fn recognise(head: &[u8]) -> Recognised {
    for order in [Order::Little, Order::Big] {
        let (fraction_ns, header_size) = match order.u32(head, 0) {
            MAGIC_MICROSECONDS => (1000, 16),
            MAGIC_NANOSECONDS => (1, 16),
            MAGIC_MODIFIED => (1000, 24),
            _ => continue,
        };
        // As libpcap does (sf-pcap.c): 543.0 is what Digital Unix wrote.
        let lengths = match (order.u16(head, 4), order.u16(head, 6)) {
            (2, 0..=2) | (543, 0) => Lengths::WireFirst,
            (2, 3) => Lengths::Either,
            (2, 4) => Lengths::CapturedFirst,
            (major, minor) => return Recognised::UnknownVersion(major, minor),
        };
        let snap_length = order.u32(head, 16);
        let interface = Interface {
            // The upper half says how long the frame check sequence is.
            link_type: (order.u32(head, 20) & 0xffff) as u16,
            snap_length,
            ..Interface::default()
        };
        let pcap = Pcap {
            order,
            fraction_ns,
            header_size,
            lengths,
            snap_length,
        };
        return Recognised::Pcap(pcap, interface);
    }
    Recognised::No
}

impl Pcap {
    /// Takes the records that a chunk holds whole.
    pub(super) fn take(&self, chunk: &mut Chunk, ledger: &mut Ledger) -> Step {
        let bytes = &chunk.bytes[..chunk.filled];
        let mut at = chunk.at;
        let step = loop {
            if chunk.frames.len() == CHUNK_FRAME_COUNT_MAX {
                break Step::Full;
            }
            let Some(header) = bytes.get(at..at + self.header_size) else {
                break Step::Need(self.header_size);
            };
            let (captured, wire_length) = self.lengths(header);
            if captured > FRAME_BYTES_MAX {
                break Step::Damaged(Fault::FrameTooLong { captured });
            }
            let size = self.header_size + captured as usize;
            if bytes.len() - at < size {
                break Step::Need(size);
            }
            ledger.frame_count += 1;
            ledger.notes.longer_than_wire += u64::from(captured > wire_length);
            let is_longer = captured > self.snap_length && self.snap_length != 0;
            ledger.notes.longer_than_snap_length += u64::from(is_longer);
            chunk.frames.push(FrameAt {
                number: ledger.frame_count,
                time_ns: self.time_ns(header),
                wire_length,
                at: (at + self.header_size) as u32,
                captured,
                interface: 0,
            });
            at += size;
        };
        chunk.at = at;
        step
    }

    #[inline]
    fn lengths(&self, header: &[u8]) -> (u32, u32) {
        let (first, second) = (self.order.u32(header, 8), self.order.u32(header, 12));
        match self.lengths {
            Lengths::CapturedFirst => (first, second),
            Lengths::Either if first <= second => (first, second),
            Lengths::Either | Lengths::WireFirst => (second, first),
        }
    }

    /// Both parts are unsigned: at most 2^32 × 10^9 + 2^32 × 1000 < 2^63.
    #[inline]
    fn time_ns(&self, header: &[u8]) -> i64 {
        let seconds = i64::from(self.order.u32(header, 0));
        let fraction = i64::from(self.order.u32(header, 4));
        seconds * 1_000_000_000 + fraction * i64::from(self.fraction_ns)
    }
}
