//! Frames of a pcapng file: sections of either byte order, the interfaces that they describe, and
//! packet blocks of all three kinds. Other blocks are passed over by their length.

use super::chunk::{Chunk, FrameAt};
use super::ledger::{Interface, Ledger};
use super::limits::{BLOCK_BYTES_MAX, CHUNK_FRAME_COUNT_MAX, FRAME_BYTES_MAX};
use super::option::{Options, code};
use super::order::Order;
use super::scale::TimeScale;
use super::{Fault, Step};
use crate::translation::Note;

/// Type of a section header: the same in both byte orders.
pub(super) const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const BYTE_ORDER_MAGIC: u32 = 0x1a2b_3c4d;

/// Types of blocks (IETF draft pcapng, section 11.1).
mod block {
    pub(super) const INTERFACE: u32 = 1;
    pub(super) const PACKET: u32 = 2;
    pub(super) const SIMPLE_PACKET: u32 = 3;
    pub(super) const NAME_RESOLUTION: u32 = 4;
    pub(super) const STATISTICS: u32 = 5;
    pub(super) const ENHANCED_PACKET: u32 = 6;
    pub(super) const JOURNAL: u32 = 9;
    pub(super) const SECRETS: u32 = 10;
    pub(super) const CUSTOM: u32 = 0x0bad;
    pub(super) const CUSTOM_NOT_COPIED: u32 = 0x4000_0bad;
}

/// Type and length, and the length again at the end.
const BLOCK_BYTES_MIN: u32 = 12;
/// Up to the data of an enhanced or obsolete packet block.
const PACKET_HEADER_BYTES: usize = 28;
/// Up to the data of a simple packet block.
const SIMPLE_HEADER_BYTES: usize = 12;
/// Up to the options of a section header.
const SECTION_HEADER_BYTES: usize = 24;
/// Up to the options of an interface description.
const INTERFACE_HEADER_BYTES: usize = 16;
/// Up to the options of interface statistics.
const STATISTICS_HEADER_BYTES: usize = 20;
/// What an obsolete packet block says where its writer does not know what was lost.
const DROPS_UNKNOWN: u16 = u16::MAX;
/// The length at the end of a block.
const TRAILER_BYTES: usize = 4;

/// Where the reading of a file stands.
#[derive(Debug)]
pub(super) struct Pcapng {
    order: Order,
    /// The interfaces of this section that are kept: snap length and time scale.
    section: Vec<(u32, TimeScale)>,
    /// How many this section describes, kept or not.
    described_count: u32,
    passing: Option<Passing>,
}

/// A block that is being passed over.
#[derive(Debug, Clone, Copy)]
struct Passing {
    /// Where it begins in the uncompressed file.
    offset: u64,
    total: u32,
    left: u32,
}

/// One block that a chunk holds whole.
#[derive(Clone, Copy)]
struct Whole<'chunk> {
    bytes: &'chunk [u8],
    /// Where it begins in the chunk.
    at: usize,
}

/// Reads the header of a file: the byte order of its first section, or `None` for no pcapng.
pub(super) fn recognise(head: &[u8]) -> Option<Result<Pcapng, Fault>> {
    if Order::Little.u32(head, 0) != SECTION_HEADER {
        return None;
    }
    let order = byte_order(head);
    Some(order.map(|order| Pcapng {
        order,
        section: Vec::new(),
        described_count: 0,
        passing: None,
    }))
}

fn byte_order(block: &[u8]) -> Result<Order, Fault> {
    for order in [Order::Little, Order::Big] {
        if order.u32(block, 8) == BYTE_ORDER_MAGIC {
            return Ok(order);
        }
    }
    Err(Fault::SectionMagic)
}

impl Pcapng {
    /// Where the record begins that is being read, if not where the chunk stands.
    pub(super) fn record_offset(&self) -> Option<u64> {
        self.passing.map(|passing| passing.offset)
    }

    /// Takes the blocks that a chunk holds whole.
    pub(super) fn take(&mut self, chunk: &mut Chunk, ledger: &mut Ledger) -> Step {
        loop {
            if chunk.frames.len() == CHUNK_FRAME_COUNT_MAX {
                return Step::Full;
            }
            let taken = if self.passing.is_some() {
                self.pass(chunk)
            } else {
                self.take_block(chunk, ledger)
            };
            match taken {
                Ok(()) => {}
                Err(step) => return step,
            }
        }
    }

    /// Goes on over a block that is passed over.
    fn pass(&mut self, chunk: &mut Chunk) -> Result<(), Step> {
        let Some(passing) = &mut self.passing else {
            return Ok(());
        };
        let held = chunk.filled - chunk.at;
        let step = held.min(passing.left as usize);
        chunk.at += step;
        passing.left -= step as u32;
        if passing.left > 0 {
            return Err(Step::Need(1));
        }
        let Some(trailer) = chunk.bytes[chunk.at..chunk.filled].get(..TRAILER_BYTES) else {
            return Err(Step::Need(TRAILER_BYTES));
        };
        let last = self.order.u32(trailer, 0);
        if last != passing.total {
            let first = passing.total;
            return Err(Step::Damaged(Fault::LengthsDisagree { first, last }));
        }
        chunk.at += TRAILER_BYTES;
        self.passing = None;
        Ok(())
    }

    #[inline]
    fn take_block(&mut self, chunk: &mut Chunk, ledger: &mut Ledger) -> Result<(), Step> {
        let bytes = &chunk.bytes[chunk.at..chunk.filled];
        if bytes.len() < BLOCK_BYTES_MIN as usize {
            return Err(Step::Need(BLOCK_BYTES_MIN as usize));
        }
        let kind = self.order.u32(bytes, 0);
        if kind == SECTION_HEADER {
            self.order = byte_order(bytes).map_err(Step::Damaged)?;
        }
        let total = self.order.u32(bytes, 4);
        if total < BLOCK_BYTES_MIN || !total.is_multiple_of(4) {
            return Err(Step::Damaged(Fault::BlockLength { total }));
        }
        if !is_held(kind, total) {
            self.begin_passing(kind, total, chunk, ledger);
            return Ok(());
        }
        if total > BLOCK_BYTES_MAX {
            return Err(Step::Damaged(Fault::BlockTooLong { total }));
        }
        let size = total as usize;
        if bytes.len() < size {
            return Err(Step::Need(size));
        }
        let last = self.order.u32(bytes, size - TRAILER_BYTES);
        if last != total {
            return Err(Step::Damaged(Fault::LengthsDisagree { first: total, last }));
        }
        let whole = Whole {
            bytes: &bytes[..size],
            at: chunk.at,
        };
        let frame = match kind {
            block::ENHANCED_PACKET | block::PACKET => self.packet(kind, whole, ledger),
            block::SIMPLE_PACKET => self.simple_packet(whole, ledger),
            SECTION_HEADER => self.begin_section(whole, ledger),
            block::INTERFACE => self.describe(whole, ledger),
            _ => self.statistics(whole, ledger),
        };
        if let Some(frame) = frame.map_err(Step::Damaged)? {
            chunk.frames.push(frame);
        }
        chunk.at += size;
        Ok(())
    }

    fn begin_passing(&mut self, kind: u32, total: u32, chunk: &mut Chunk, ledger: &mut Ledger) {
        let is_known = matches!(
            kind,
            block::NAME_RESOLUTION
                | block::STATISTICS
                | block::JOURNAL
                | block::SECRETS
                | block::CUSTOM
                | block::CUSTOM_NOT_COPIED
        );
        if is_known {
            ledger.notes.other_blocks += 1;
        } else {
            ledger.notes.unknown_blocks += 1;
        }
        self.passing = Some(Passing {
            offset: chunk.record_offset(),
            total,
            left: total - BLOCK_BYTES_MIN,
        });
        // Its type and length: what is left before the trailer is the body.
        chunk.at += BLOCK_BYTES_MIN as usize - TRAILER_BYTES;
    }

    /// An enhanced packet block, or the obsolete one that is laid out like it but for the first
    /// word: an interface of 16 bits and drops.
    #[inline]
    fn packet(
        &self,
        kind: u32,
        block: Whole<'_>,
        ledger: &mut Ledger,
    ) -> Result<Option<FrameAt>, Fault> {
        let (bytes, order) = (block.bytes, self.order);
        let total = bytes.len() as u32;
        let captured = order.u32(bytes, 20);
        check_captured(captured, PACKET_HEADER_BYTES, total)?;
        let number = if kind == block::ENHANCED_PACKET {
            order.u32(bytes, 8)
        } else {
            u32::from(order.u16(bytes, 8))
        };
        ledger.frame_count += 1;
        let Some((interface, snap_length, scale)) = self.interface(number, ledger) else {
            return Ok(None);
        };
        let units = u64::from(order.u32(bytes, 12)) << 32 | u64::from(order.u32(bytes, 16));
        let time_ns = scale.nanoseconds(units);
        let wire_length = order.u32(bytes, 24);
        let notes = &mut ledger.notes;
        notes.negative_time += u64::from(time_ns < 0);
        notes.longer_than_wire += u64::from(captured > wire_length);
        notes.longer_than_snap_length += u64::from(captured > snap_length && snap_length != 0);
        let options = PACKET_HEADER_BYTES + (captured as usize).next_multiple_of(4);
        let mut dropped = match order.u16(bytes, 10) {
            count if kind == block::PACKET && count != DROPS_UNKNOWN => u64::from(count),
            _ => 0,
        };
        if options + TRAILER_BYTES < bytes.len() {
            let options = Options::new(order, &bytes[options..bytes.len() - TRAILER_BYTES]);
            notes.comments += count_comments(options.clone());
            if kind == block::ENHANCED_PACKET {
                dropped = count_dropped(options, order);
            }
        }
        if dropped > 0 {
            let sum = &mut ledger.interfaces[interface as usize].dropped_between;
            *sum = sum.saturating_add(dropped);
        }
        Ok(Some(FrameAt {
            number: ledger.frame_count,
            time_ns,
            wire_length,
            at: (block.at + PACKET_HEADER_BYTES) as u32,
            captured,
            interface,
        }))
    }

    /// A simple packet block: of the first interface, without a time and a captured length.
    fn simple_packet(
        &self,
        block: Whole<'_>,
        ledger: &mut Ledger,
    ) -> Result<Option<FrameAt>, Fault> {
        let total = block.bytes.len() as u32;
        let wire_length = self.order.u32(block.bytes, 8);
        let Some((interface, snap_length, _)) = self.interface(0, ledger) else {
            ledger.frame_count += 1;
            return Ok(None);
        };
        let limit = if snap_length == 0 {
            u32::MAX
        } else {
            snap_length
        };
        let captured = wire_length.min(limit);
        check_captured(captured, SIMPLE_HEADER_BYTES, total)?;
        ledger.frame_count += 1;
        ledger.notes.without_time += 1;
        Ok(Some(FrameAt {
            number: ledger.frame_count,
            time_ns: 0,
            wire_length,
            at: (block.at + SIMPLE_HEADER_BYTES) as u32,
            captured,
            interface,
        }))
    }

    /// The index in the file, the snap length and the scale of an interface of this section;
    /// `None`, and counted, if there is none.
    #[inline]
    fn interface(&self, number: u32, ledger: &mut Ledger) -> Option<(u32, u32, TimeScale)> {
        let Some(&(snap_length, scale)) = self.section.get(number as usize) else {
            if number < self.described_count {
                ledger.notes.surplus_interface += 1;
            } else {
                ledger.notes.unknown_interface += 1;
            }
            return None;
        };
        let first = ledger.interfaces.len() - self.section.len();
        Some((first as u32 + number, snap_length, scale))
    }

    fn begin_section(
        &mut self,
        block: Whole<'_>,
        ledger: &mut Ledger,
    ) -> Result<Option<FrameAt>, Fault> {
        let total = block.bytes.len() as u32;
        let end = block.bytes.len() - TRAILER_BYTES;
        let Some(options) = block.bytes[..end].get(SECTION_HEADER_BYTES..) else {
            return Err(Fault::BlockLength { total });
        };
        ledger.notes.sections += 1;
        ledger.notes.comments += count_comments(Options::new(self.order, options));
        self.section.clear();
        self.described_count = 0;
        Ok(None)
    }

    fn describe(
        &mut self,
        block: Whole<'_>,
        ledger: &mut Ledger,
    ) -> Result<Option<FrameAt>, Fault> {
        let (bytes, order) = (block.bytes, self.order);
        let total = bytes.len() as u32;
        let Some(options) = bytes[..bytes.len() - TRAILER_BYTES].get(INTERFACE_HEADER_BYTES..)
        else {
            return Err(Fault::BlockLength { total });
        };
        let mut interface = Interface {
            link_type: order.u16(bytes, 8),
            snap_length: order.u32(bytes, 12),
            section: u32::try_from(ledger.notes.sections.saturating_sub(1)).unwrap_or(u32::MAX),
            ..Interface::default()
        };
        let mut scale = TimeScale::default();
        for (number, value) in Options::new(order, options) {
            match (number, value) {
                (code::COMMENT, _) => ledger.notes.comments += 1,
                (code::IF_NAME, text) => interface.name = ledger.text(text),
                (code::IF_DESCRIPTION, text) => interface.description = ledger.text(text),
                // A first byte of 0 says that the filter is a text.
                (code::IF_FILTER, [0, text @ ..]) => interface.filter = ledger.text(text),
                (code::IF_TSRESOL, &[resolution, ..]) => scale.set_resolution(resolution),
                (code::IF_TSOFFSET, seconds) if seconds.len() >= 8 => {
                    scale.set_offset_seconds(order.u64(seconds, 0).cast_signed());
                }
                _ => {}
            }
        }
        self.described_count = self.described_count.saturating_add(1);
        let snap_length = interface.snap_length;
        if ledger.add_interface(interface) {
            self.section.push((snap_length, scale));
        }
        Ok(None)
    }

    /// What the capture of an interface lost, of which the latest block counts, and translations
    /// among its comments.
    fn statistics(&self, block: Whole<'_>, ledger: &mut Ledger) -> Result<Option<FrameAt>, Fault> {
        ledger.notes.other_blocks += 1;
        let (bytes, order) = (block.bytes, self.order);
        let first = ledger.interfaces.len() - self.section.len();
        let number = order.u32(bytes, 8) as usize;
        let Some(options) = bytes[..bytes.len() - TRAILER_BYTES].get(STATISTICS_HEADER_BYTES..)
        else {
            return Ok(None);
        };
        let is_known = number < self.section.len();
        let mut dropped = None;
        for (code, value) in Options::new(order, options) {
            if code == code::COMMENT
                && is_known
                && let Some(note) = Note::parse(value)
            {
                ledger.add_translation(first + number, note);
            }
            let is_dropped = matches!(code, code::ISB_IFDROP | code::ISB_OSDROP);
            if is_dropped && value.len() >= 8 {
                let count = order.u64(value, 0);
                dropped = Some(u64::saturating_add(dropped.unwrap_or(0), count));
            }
        }
        if is_known
            && let (Some(interface), Some(_)) = (ledger.interfaces.get_mut(first + number), dropped)
        {
            interface.dropped = dropped;
        }
        Ok(None)
    }
}

/// Whether a block is read, and so held whole, rather than passed over.
#[inline]
fn is_held(kind: u32, total: u32) -> bool {
    match kind {
        block::ENHANCED_PACKET
        | block::PACKET
        | block::SIMPLE_PACKET
        | block::INTERFACE
        | SECTION_HEADER => true,
        block::STATISTICS => total <= FRAME_BYTES_MAX,
        _ => false,
    }
}

#[inline]
fn check_captured(captured: u32, header: usize, total: u32) -> Result<(), Fault> {
    if captured > FRAME_BYTES_MAX {
        return Err(Fault::FrameTooLong { captured });
    }
    // At most 2^20 + 32.
    if header + captured as usize + TRAILER_BYTES > total as usize {
        return Err(Fault::CapturedBeyondBlock { captured, total });
    }
    Ok(())
}

/// Packets that were lost before an enhanced packet block.
fn count_dropped(options: Options<'_>, order: Order) -> u64 {
    options
        .filter(|(number, value)| *number == code::EPB_DROPCOUNT && value.len() >= 8)
        .fold(0, |sum, (_, value)| sum.saturating_add(order.u64(value, 0)))
}

fn count_comments(options: Options<'_>) -> u64 {
    options
        .filter(|(number, _)| *number == code::COMMENT)
        .count() as u64
}
