//! [`Draft`]: a frame that is being written anew. It begins as zeros.

use std::ops::Range;

pub(super) struct Draft<'a> {
    source: &'a [u8],
    bytes: Vec<u8>,
}

impl<'a> Draft<'a> {
    /// A frame that ends at `end` at the latest; `room` is written over.
    pub(super) fn new(source: &'a [u8], end: usize, mut room: Vec<u8>) -> Self {
        room.clear();
        room.resize(end.min(source.len()), 0);
        Self {
            source,
            bytes: room,
        }
    }

    /// The frame as it came.
    pub(super) const fn source(&self) -> &'a [u8] {
        self.source
    }

    /// The frame as it is by now.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Bytes of the frame as it came; `None` where they were not captured.
    pub(super) fn read<const LENGTH: usize>(&self, at: usize) -> Option<[u8; LENGTH]> {
        read(self.source, at)
    }

    /// Copies what there is of a range.
    pub(super) fn keep(&mut self, range: Range<usize>) {
        let end = range.end.min(self.bytes.len());
        let range = range.start.min(end)..end;
        self.bytes[range.clone()].copy_from_slice(&self.source[range]);
    }

    /// Writes as much of `bytes` as the frame has room for.
    pub(super) fn put(&mut self, at: usize, bytes: &[u8]) {
        let start = at.min(self.bytes.len());
        let room = &mut self.bytes[start..];
        let length = room.len().min(bytes.len());
        room[..length].copy_from_slice(&bytes[..length]);
    }

    /// Fills what there is of a range.
    pub(super) fn fill(&mut self, range: Range<usize>, value: u8) {
        let end = range.end.min(self.bytes.len());
        self.bytes[range.start.min(end)..end].fill(value);
    }
}

pub(super) fn read<const LENGTH: usize>(bytes: &[u8], at: usize) -> Option<[u8; LENGTH]> {
    bytes.get(at..at.checked_add(LENGTH)?)?.try_into().ok()
}
