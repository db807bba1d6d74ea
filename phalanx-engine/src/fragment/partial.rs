//! A datagram under way: the bytes and the header that its fragments have brought so far.

use super::header::{Fault, Header, Key};
use super::range::Ranges;
use super::{Datagram, Fragment, Place};
use crate::limits::FRAGMENT_ROOM_STEP;

#[derive(Debug)]
pub(super) struct Partial {
    key: Key,
    started_ns: i64,
    first: Option<First>,
    /// Length of the payload, once the last fragment has told it.
    total: Option<u32>,
    /// What came over the wire.
    seen: Ranges,
    /// What was captured of it.
    held: Ranges,
    bytes: Vec<u8>,
    frame_count: u32,
}

/// The first fragment.
#[derive(Debug)]
struct First {
    number: u64,
    time_ns: i64,
    place: Place,
    /// From the IP header to the payload.
    header: Box<[u8]>,
    is_ipv4: bool,
    next_at: u32,
    /// Where its payload ends, on the wire and in the capture.
    end: u32,
    held_end: u32,
}

/// How a fragment fits those before it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Added {
    pub(super) is_duplicate: bool,
    pub(super) is_overlap: bool,
    pub(super) is_conflict: bool,
}

impl Partial {
    pub(super) fn new(key: Key, fragment: &Fragment<'_>) -> Self {
        Self {
            key,
            started_ns: fragment.time_ns,
            first: None,
            total: None,
            seen: Ranges::default(),
            held: Ranges::default(),
            bytes: Vec::new(),
            frame_count: 0,
        }
    }

    pub(super) const fn key(&self) -> &Key {
        &self.key
    }

    pub(super) const fn started_ns(&self) -> i64 {
        self.started_ns
    }

    pub(super) const fn frame_count(&self) -> u32 {
        self.frame_count
    }

    /// Nothing was added yet.
    pub(super) fn is_new(&self) -> bool {
        self.seen.is_empty()
    }

    /// Bytes that it takes.
    pub(super) fn size(&self) -> usize {
        let header = self.first.as_ref().map_or(0, |it| it.header.len());
        let ranges = self.seen.size() + self.held.size();
        size_of::<Self>() + header + ranges + self.bytes.capacity()
    }

    pub(super) fn add(&mut self, fragment: &Fragment<'_>, header: &Header) -> Result<Added, Fault> {
        let (start, end) = (header.start, header.end);
        match self.total {
            Some(total) if end > total || !header.has_more && end != total => {
                return Err(Fault::Contradictory);
            }
            None if !header.has_more && self.seen.end() > end => return Err(Fault::Contradictory),
            _ => {}
        }
        let at = fragment.place.offset as usize;
        let payload_at = at + header.length as usize;
        let length = (end - start) as usize;
        let captured = fragment.bytes.get(payload_at..).unwrap_or_default();
        let captured = &captured[..length.min(captured.len())];
        if start == 0 && self.first.is_none() {
            let bytes = fragment.bytes.get(at..payload_at).ok_or(Fault::Malformed)?;
            self.first = Some(First {
                number: fragment.number,
                time_ns: fragment.time_ns,
                place: fragment.place,
                header: bytes.into(),
                is_ipv4: header.is_ipv4(),
                next_at: header.next_at,
                end,
                held_end: captured.len() as u32,
            });
        }
        if !header.has_more {
            self.total = Some(end);
        }
        self.frame_count = self.frame_count.saturating_add(1);
        let known = self.seen.add(start, end);
        Ok(Added {
            is_duplicate: known == end - start,
            is_overlap: known > 0 && known < end - start,
            is_conflict: self.fill(start, captured),
        })
    }

    /// Puts bytes where there are none yet; whether those that are there are others.
    fn fill(&mut self, start: u32, bytes: &[u8]) -> bool {
        if bytes.is_empty() {
            return false;
        }
        let end = start + bytes.len() as u32;
        self.grow(end as usize);
        let mut is_conflict = false;
        let mut at = start;
        let mut put = |from: u32, to: u32| {
            let source = &bytes[(from - start) as usize..(to - start) as usize];
            self.bytes[from as usize..to as usize].copy_from_slice(source);
        };
        let mut known = Vec::new();
        for (from, to) in self.held.within(start, end) {
            put(at, from);
            known.push((from, to));
            at = to;
        }
        put(at, end);
        for (from, to) in known {
            let source = &bytes[(from - start) as usize..(to - start) as usize];
            is_conflict |= self.bytes[from as usize..to as usize] != *source;
        }
        self.held.add(start, end);
        is_conflict
    }

    fn grow(&mut self, length: usize) {
        if length > self.bytes.capacity() {
            let room = length.next_multiple_of(FRAGMENT_ROOM_STEP);
            self.bytes.reserve_exact(room - self.bytes.len());
        }
        if length > self.bytes.len() {
            self.bytes.resize(length, 0);
        }
    }

    /// The datagram, once all of it has come over the wire; `last` has completed it.
    pub(super) fn whole(&self, last: &Fragment<'_>) -> Option<Datagram> {
        let total = self.total?;
        let first = self.first.as_ref()?;
        if self.seen.prefix() != total {
            return None;
        }
        let mut bytes = first.whole_header(total);
        let wire_length = bytes.len() as u32 + total;
        let held = self.held.prefix() as usize;
        bytes.extend_from_slice(&self.bytes[..held]);
        Some(Datagram {
            hop: last.hop,
            number: last.number,
            time_ns: last.time_ns,
            wire_length,
            bytes: bytes.into(),
            fragment_count: u16::try_from(self.frame_count).unwrap_or(u16::MAX),
            place: first.place,
            identification: self.key.identification as u16,
        })
    }

    /// The first fragment as it was.
    pub(super) fn first_alone(self) -> Option<Datagram> {
        let first = self.first?;
        let mut bytes = Vec::from(first.header);
        let wire_length = bytes.len() as u32 + first.end;
        bytes.extend_from_slice(&self.bytes[..first.held_end as usize]);
        Some(Datagram {
            hop: self.key.hop,
            number: first.number,
            time_ns: first.time_ns,
            wire_length,
            bytes: bytes.into(),
            fragment_count: 0,
            place: first.place,
            identification: self.key.identification as u16,
        })
    }
}

impl First {
    /// The header of the whole datagram, whose payload has so many bytes.
    fn whole_header(&self, total: u32) -> Vec<u8> {
        let mut header = self.header.to_vec();
        if self.is_ipv4 {
            let length = header.len() as u32 + total;
            put_u16(&mut header, 2, length);
            // "Don't fragment" stays.
            header[6] &= 0xc0;
            header[7] = 0;
            return header;
        }
        let kept = header.len() - 8;
        header[self.next_at as usize] = header[kept];
        header.truncate(kept);
        put_u16(&mut header, 4, kept as u32 - 40 + total);
        header
    }
}

/// The payload is bounded so that the number fits, unless the first fragment has more options than
/// the last: then 0 stands for "as long as the frame".
fn put_u16(header: &mut [u8], at: usize, number: u32) {
    let number = u16::try_from(number).unwrap_or(0);
    header[at..at + 2].copy_from_slice(&number.to_be_bytes());
}
