//! A piece of a capture as it was read: many frames that lie where the file has them.

use super::limits::{CHUNK_BYTES, CHUNK_FRAME_COUNT_MAX, READ_BYTES};

/// Whole frames, in the order of the file. It is filled again and again, and may be handed to
/// another thread.
#[derive(Debug)]
pub struct Chunk {
    /// As long as can be filled; what is filled is up to `filled`.
    pub(super) bytes: Vec<u8>,
    pub(super) filled: usize,
    /// Where the next record begins: what is before has been read.
    pub(super) at: usize,
    /// Where the bytes begin in the uncompressed file.
    pub(super) offset: u64,
    pub(super) frames: Vec<FrameAt>,
}

/// One frame of a [`Chunk`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameAt {
    /// Number in the file, from 1; frames that are left out are counted too.
    pub number: u64,
    /// Nanoseconds since 1970, cut to what fits; 0 where the file does not say.
    pub time_ns: i64,
    /// Bytes on the wire, as the file says; may be less than were captured.
    pub wire_length: u32,
    /// Where the frame begins among the bytes of the chunk.
    pub at: u32,
    /// Bytes captured, from the link header on.
    pub captured: u32,
    /// Index into the interfaces of the file.
    pub interface: u32,
}

/// One frame on its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Index into the interfaces of the file.
    pub interface: usize,
    /// Link type of that interface.
    pub link_type: u16,
    /// Nanoseconds since 1970, cut to what fits; 0 where the file does not say.
    pub time_ns: i64,
    /// Bytes on the wire, as the file says.
    pub wire_length: u32,
    /// Captured bytes, from the link header on.
    pub bytes: Vec<u8>,
}

impl Default for Chunk {
    fn default() -> Self {
        Self::new()
    }
}

impl Chunk {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self {
            bytes: vec![0; CHUNK_BYTES],
            filled: 0,
            at: 0,
            offset: 0,
            frames: Vec::with_capacity(CHUNK_FRAME_COUNT_MAX),
        }
    }

    /// Where its frames are.
    #[must_use]
    pub fn frames(&self) -> &[FrameAt] {
        &self.frames
    }

    /// The captured bytes of one of its frames, from the link header on.
    #[inline]
    #[must_use]
    pub fn bytes_of(&self, frame: &FrameAt) -> &[u8] {
        let start = frame.at as usize;
        self.bytes
            .get(start..start + frame.captured as usize)
            .unwrap_or_default()
    }

    /// Each frame with its captured bytes.
    pub fn iter(&self) -> impl Iterator<Item = (&FrameAt, &[u8])> {
        self.frames
            .iter()
            .map(|frame| (frame, self.bytes_of(frame)))
    }

    /// Begins anew with bytes that were read before and belong to no frame yet.
    pub(super) fn begin(&mut self, carried: &[u8], offset: u64) {
        self.frames.clear();
        self.at = 0;
        self.filled = carried.len();
        self.offset = offset;
        if self.bytes.len() < carried.len() {
            self.bytes.resize(carried.len(), 0);
        }
        self.bytes[..carried.len()].copy_from_slice(carried);
    }

    /// Bytes that were read and belong to no frame yet.
    pub(super) fn rest(&self) -> &[u8] {
        &self.bytes[self.at..self.filled]
    }

    /// Offset in the uncompressed file of the record that is not read yet.
    pub(super) fn record_offset(&self) -> u64 {
        self.offset + self.at as u64
    }

    /// Where to read on, for a record of so many bytes.
    pub(super) fn room(&mut self, needed: usize) -> &mut [u8] {
        let end = (self.filled + READ_BYTES).max(self.at + needed);
        let end = end.min(self.bytes.len());
        &mut self.bytes[self.filled..end]
    }

    /// Whether a record of so many bytes can be completed, made so if there are no frames yet.
    pub(super) fn has_room(&mut self, needed: usize) -> bool {
        let end = self.at + needed;
        if self.filled < self.bytes.len() && end <= self.bytes.len() {
            return true;
        }
        if !self.frames.is_empty() {
            return false;
        }
        self.bytes.copy_within(self.at..self.filled, 0);
        self.offset += self.at as u64;
        self.filled -= self.at;
        self.at = 0;
        if needed > self.bytes.len() {
            self.bytes.resize(needed, 0);
        }
        true
    }
}
