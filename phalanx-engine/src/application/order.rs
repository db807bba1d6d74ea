//! Segments that wait for those before them, in the order of their offsets.

use super::delay::Moment;
use crate::limits::{APPLICATION_PARKED_BYTES_MAX, APPLICATION_PARKED_COUNT_MAX};
use crate::side::{Side, Sides};

/// A segment.
#[derive(Clone, Copy)]
pub(super) struct Piece<'a> {
    pub(super) side: Side,
    pub(super) offset: u64,
    /// What was captured of it.
    pub(super) bytes: &'a [u8],
    /// The offset behind it.
    pub(super) end: u64,
    pub(super) moment: Moment,
}

/// A segment that waits.
pub(super) struct Waiting {
    side: Side,
    offset: u64,
    bytes: Box<[u8]>,
    end: u64,
    moment: Moment,
}

impl Waiting {
    pub(super) fn borrow(&self) -> Piece<'_> {
        Piece {
            side: self.side,
            offset: self.offset,
            bytes: &self.bytes,
            end: self.end,
            moment: self.moment,
        }
    }
}

/// The segments of both sides that wait.
#[derive(Default)]
pub(super) struct Parked {
    waiting: Sides<Vec<Waiting>>,
    byte_count: usize,
}

impl Parked {
    /// Keeps a copy of a segment; `false` where there is no room.
    pub(super) fn park(&mut self, piece: &Piece<'_>) -> bool {
        let waiting = self.waiting.get_mut(piece.side);
        let byte_count = self.byte_count + piece.bytes.len();
        if waiting.len() >= APPLICATION_PARKED_COUNT_MAX
            || byte_count > APPLICATION_PARKED_BYTES_MAX
        {
            return false;
        }
        self.byte_count = byte_count;
        let place = waiting.partition_point(|other| other.offset <= piece.offset);
        waiting.insert(
            place,
            Waiting {
                side: piece.side,
                offset: piece.offset,
                bytes: piece.bytes.into(),
                end: piece.end,
                moment: piece.moment,
            },
        );
        true
    }

    /// Takes the first segment of a side if it begins at `limit` at the latest.
    pub(super) fn take(&mut self, side: Side, limit: u64) -> Option<Waiting> {
        let waiting = self.waiting.get_mut(side);
        waiting.first().filter(|first| first.offset <= limit)?;
        let first = waiting.remove(0);
        self.byte_count -= first.bytes.len();
        Some(first)
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.waiting.client.is_empty() && self.waiting.server.is_empty()
    }

    /// What it takes, in bytes.
    pub(super) fn size(&self) -> usize {
        let rooms = self.waiting.client.capacity() + self.waiting.server.capacity();
        size_of::<Self>() + rooms * size_of::<Waiting>() + self.byte_count
    }
}
