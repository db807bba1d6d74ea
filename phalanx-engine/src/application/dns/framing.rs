//! Messages, cut out of a stream that frames each with its length (RFC 1035 section 4.2.2).

use super::message::begins_framed;
use crate::limits::{DNS_LOST_COUNT_MAX, DNS_MESSAGE_KEPT_LENGTH_MAX};

/// Bytes of the length in front of each message.
const PREFIX: usize = 2;

/// One side's stream.
pub(super) struct Framing {
    /// The begin of a message whose end has not come yet, its length in front.
    kept: Vec<u8>,
    /// Whether it is unknown where the next message begins.
    is_lost: bool,
    /// Segments in which none began.
    lost_count: u8,
}

impl Default for Framing {
    fn default() -> Self {
        // What a stream begins with has to look like a message as well.
        Self {
            kept: Vec::new(),
            is_lost: true,
            lost_count: 0,
        }
    }
}

impl Framing {
    /// Forgets where it is; whether that was amid a message.
    pub(super) fn lose(&mut self) -> bool {
        let is_amid = !self.kept.is_empty();
        self.kept = Vec::new();
        self.is_lost = true;
        is_amid
    }

    /// Gives back what is kept; whether that was of a message.
    pub(super) fn shed(&mut self) -> bool {
        if self.kept.is_empty() {
            self.kept = Vec::new();
            return false;
        }
        self.lose()
    }

    /// Hands over each message that ends in `bytes`, and whether it was cut for its length; gives
    /// the offset of the next byte that is wanted.
    pub(super) fn read(
        &mut self,
        offset: u64,
        bytes: &[u8],
        mut take: impl FnMut(&[u8], bool),
    ) -> u64 {
        let end = offset.saturating_add(bytes.len() as u64);
        if self.is_lost {
            if !begins_framed(bytes) {
                self.lost_count = self.lost_count.saturating_add(1);
                let is_given_up = self.lost_count >= DNS_LOST_COUNT_MAX;
                return if is_given_up { u64::MAX } else { end };
            }
            self.is_lost = false;
        }
        let mut left = bytes;
        while !left.is_empty() {
            let Some(length) = self.fill_prefix(&mut left) else {
                return end;
            };
            let kept_max = PREFIX + length.min(DNS_MESSAGE_KEPT_LENGTH_MAX);
            // The usual case: the message lies whole in the segment, and nothing is copied.
            if self.kept.len() == PREFIX
                && let Some((message, rest)) = left.split_at_checked(length)
            {
                take(message, false);
                left = rest;
                self.kept.clear();
                continue;
            }
            let missing = kept_max.saturating_sub(self.kept.len());
            let (more, rest) = left.split_at(missing.min(left.len()));
            self.kept.extend_from_slice(more);
            left = rest;
            if self.kept.len() < kept_max {
                return end;
            }
            let beyond = PREFIX + length - kept_max;
            take(self.kept.get(PREFIX..).unwrap_or_default(), beyond > 0);
            self.kept = Vec::new();
            match left.get(beyond..) {
                Some(rest) => left = rest,
                None => return end.saturating_add((beyond - left.len()) as u64),
            }
        }
        end
    }

    /// The length of the message that begins; nothing while its prefix is not complete.
    fn fill_prefix(&mut self, left: &mut &[u8]) -> Option<usize> {
        while self.kept.len() < PREFIX {
            let (first, rest) = left.split_first()?;
            self.kept.push(*first);
            *left = rest;
        }
        let prefix = self.kept.first_chunk::<PREFIX>()?;
        Some(usize::from(u16::from_be_bytes(*prefix)))
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.kept.capacity()
    }
}
