//! Frames of a snoop file (RFC 1761), as Solaris writes.

use super::chunk::{Chunk, FrameAt};
use super::ledger::{Interface, Ledger};
use super::limits::{BLOCK_BYTES_MAX, CHUNK_FRAME_COUNT_MAX, FRAME_BYTES_MAX};
use super::order::Order;
use super::{Fault, Step};

/// Bytes of the header of a file.
pub(super) const HEADER_BYTES: usize = 16;
const RECORD_HEADER_BYTES: usize = 24;

/// What the first bytes of a file say.
pub(super) enum Recognised {
    /// Records follow.
    Snoop(Interface),
    /// A version other than 2.
    UnknownVersion(u32),
    /// Something else.
    No,
}

/// Reads the header of a file.
pub(super) fn recognise(head: &[u8]) -> Recognised {
    if !head.starts_with(b"snoop\0\0\0") {
        return Recognised::No;
    }
    let version = Order::Big.u32(head, 8);
    if version != 2 {
        return Recognised::UnknownVersion(version);
    }
    Recognised::Snoop(Interface {
        link_type: link_type(Order::Big.u32(head, 12)),
        ..Interface::default()
    })
}

/// Datalink types of RFC 1761 section 4 and Solaris' own as link types of pcap. Others become the
/// one that is reserved for nobody, so that their frames are still counted.
fn link_type(datalink: u32) -> u16 {
    match datalink {
        // IEEE 802.3 and Ethernet.
        0 | 4 => 1,
        // Token ring.
        2 => 6,
        // FDDI.
        8 => 10,
        // DLPI's IPNET.
        26 => 226,
        _ => u16::MAX,
    }
}

/// Takes the records that a chunk holds whole.
pub(super) fn take(chunk: &mut Chunk, ledger: &mut Ledger) -> Step {
    let bytes = &chunk.bytes[..chunk.filled];
    let mut at = chunk.at;
    let step = loop {
        if chunk.frames.len() == CHUNK_FRAME_COUNT_MAX {
            break Step::Full;
        }
        let Some(header) = bytes.get(at..at + RECORD_HEADER_BYTES) else {
            break Step::Need(RECORD_HEADER_BYTES);
        };
        let word = |index: usize| Order::Big.u32(header, index * 4);
        let (wire_length, captured, total) = (word(0), word(1), word(2));
        if captured > FRAME_BYTES_MAX {
            break Step::Damaged(Fault::FrameTooLong { captured });
        }
        if total > BLOCK_BYTES_MAX || (total as usize) < RECORD_HEADER_BYTES + captured as usize {
            break Step::Damaged(Fault::CapturedBeyondBlock { captured, total });
        }
        let size = total as usize;
        if bytes.len() - at < size {
            break Step::Need(size);
        }
        ledger.frame_count += 1;
        ledger.notes.longer_than_wire += u64::from(captured > wire_length);
        chunk.frames.push(FrameAt {
            number: ledger.frame_count,
            time_ns: i64::from(word(4)) * 1_000_000_000 + i64::from(word(5)) * 1000,
            wire_length,
            at: (at + RECORD_HEADER_BYTES) as u32,
            captured,
            interface: 0,
        });
        at += size;
    };
    chunk.at = at;
    step
}
