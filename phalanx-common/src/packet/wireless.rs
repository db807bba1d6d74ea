//! From a frame of IEEE 802.11 to the LLC header in it, over the headers that capture programs put
//! before such frames: radiotap, Prism, AVS, PPI. Only in files.
//!
//! Deliberately absent: decryption, what follows the first frame of an aggregate, mesh headers.

use super::Unparsed;
use super::encapsulation::{Next, Walk};
use super::link::LinkKind;
use crate::bytes::Window as _;
use crate::limits::NETWORK_OFFSET_MAX;

/// Bits of the first byte of frame control: version and type, and that a data frame has no data.
const KIND_MASK: u8 = 0x0f;
const KIND_DATA: u8 = 0x08;
const NO_DATA: u8 = 0x40;
/// A subtype with a QoS control field.
const QOS: u8 = 0x80;
/// Bits of the second byte: both directions (a fourth address follows), encrypted, and that a QoS
/// frame has an HT control field.
const TO_AND_FROM: u8 = 0x03;
const PROTECTED: u8 = 0x40;
const HT_CONTROL: u8 = 0x80;
/// In QoS control: the frame is an aggregate of several (A-MSDU).
const AGGREGATE: u8 = 0x80;
/// In radiotap's flags: padding between the header and the data, to a multiple of four.
const DATA_PADDING: u8 = 0x20;

impl Walk<'_> {
    /// An IEEE 802.11 header (IEEE 802.11-2020 section 9.2.4), behind which LLC follows.
    pub(super) fn wireless(&mut self, is_padded: bool) -> Result<Next, Unparsed> {
        let control = self.peek::<2>(0)?;
        let (kind, flags) = (control.u8(0), control.u8(1));
        if kind & KIND_MASK != KIND_DATA || kind & NO_DATA != 0 || flags & PROTECTED != 0 {
            return Err(Unparsed::NotIp);
        }
        if self.peek::<24>(0)?.u8(22) & 0x0f != 0 {
            return Err(Unparsed::NonFirstFragment);
        }
        let mut length = 24;
        if flags & TO_AND_FROM == TO_AND_FROM {
            length += 6;
        }
        let mut is_aggregate = false;
        if kind & QOS != 0 {
            is_aggregate = self.peek::<2>(length)?.u8(0) & AGGREGATE != 0;
            length += if flags & HT_CONTROL == 0 { 2 } else { 6 };
        }
        if is_padded {
            length = length.next_multiple_of(4);
        }
        self.at += length as u32;
        if is_aggregate {
            // Two addresses and the length of the first frame in it.
            let first = self.take::<14>()?;
            self.end_after(first.u16(12));
        }
        Ok(Next::Llc)
    }

    /// A radiotap header (radiotap.org): version 0, its length, and words of bits that say which
    /// fields it has; all in little-endian order.
    pub(super) fn radiotap(&mut self) -> Result<Next, Unparsed> {
        let header = self.peek::<8>(0)?;
        let length = header.u16(2).swap_bytes();
        if header.u8(0) != 0 || length < 8 {
            return Err(Unparsed::BadEncapsulation);
        }
        let flags = self.radiotap_flags(usize::from(length));
        self.at += u32::from(length);
        Ok(Next::Wireless {
            is_padded: flags & DATA_PADDING != 0,
        })
    }

    /// The field of flags; 0 where there is none.
    fn radiotap_flags(&self, length: usize) -> u8 {
        let word = |at| {
            let word = self.peek::<4>(at).ok()?;
            Some(word.u32(0).swap_bytes())
        };
        let present = word(4).unwrap_or(0);
        let (mut last, mut at) = (present, 8);
        while last & 0x8000_0000 != 0 && at + 4 <= length {
            last = word(at).unwrap_or(0);
            at += 4;
        }
        // Before it, a time of eight bytes, aligned.
        if present & 1 != 0 {
            at = at.next_multiple_of(8) + 8;
        }
        if present & 2 == 0 || at >= length {
            return 0;
        }
        self.peek::<1>(at).map_or(0, |flags| flags.u8(0))
    }

    /// A Prism header, whose length is in the byte order of the machine that captured, or an AVS
    /// header, which took its place under the same link type.
    pub(super) fn prism(&mut self) -> Result<Next, Unparsed> {
        const AVS_MAGIC: u32 = 0x8021_1000;
        let header = self.peek::<8>(0)?;
        let is_avs = header.u32(0) & 0xffff_f000 == AVS_MAGIC;
        let length = match header.u32(4) {
            length if is_avs || length <= 0xffff => length,
            length => length.swap_bytes(),
        };
        if !(8..=NETWORK_OFFSET_MAX).contains(&length) {
            return Err(Unparsed::BadEncapsulation);
        }
        self.at += length;
        Ok(Next::Wireless { is_padded: false })
    }

    /// A PPI header: its length and the link type of what follows, in little-endian order.
    pub(super) fn ppi(&mut self) -> Result<Next, Unparsed> {
        let header = self.peek::<8>(0)?;
        let length = header.u16(2).swap_bytes();
        if header.u8(0) != 0 || length < 8 {
            return Err(Unparsed::BadEncapsulation);
        }
        self.at += u32::from(length);
        let kind = LinkKind::from_linktype(header.u32(4).swap_bytes());
        kind.map(Next::from).ok_or(Unparsed::UnknownLink)
    }
}
