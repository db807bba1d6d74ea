//! The segments of one direction that wait for their acknowledgement.
//!
//! tshark walks the whole list for every packet. Here it is known whether the list is in order,
//! which it is unless something was sent twice: then its ends tell all there is to tell.

use std::collections::VecDeque;

use crate::limits::WIRESHARK_UNACKED_COUNT_MAX;

/// A list wider than this in sequence space is walked: within, all comparisons agree.
const SPAN_MAX: u32 = 1 << 30;

/// An emptied list keeps room for so many segments of 24 bytes.
const ROOM_KEPT: usize = 64;

/// One segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    pub(super) frame: u64,
    pub(super) time_ns: i64,
    pub(super) start: u32,
    pub(super) end: u32,
}

/// Whether `left` comes after `right` in sequence space; each of the other at half of it.
pub(super) const fn is_after(left: u32, right: u32) -> bool {
    (right.wrapping_sub(left) as i32) < 0
}

/// What is known of a whole list; positions count from the direction's base.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    low: u32,
    high: u32,
    /// Each segment begins where the one before it ends, or later.
    is_ordered: bool,
    /// A segment begins before the base and ends behind it.
    has_wrapped: bool,
}

impl Bounds {
    const EMPTY: Self = Self {
        low: u32::MAX,
        high: 0,
        is_ordered: true,
        has_wrapped: false,
    };

    /// Takes in a segment that comes after all others.
    fn add(&mut self, sent: &Sent, base: u32) {
        let start = sent.start.wrapping_sub(base);
        let end = sent.end.wrapping_sub(base);
        self.has_wrapped |= start >= end;
        self.is_ordered &= start >= self.high && !self.has_wrapped;
        self.low = self.low.min(start);
        self.high = self.high.max(end);
    }

    /// Where an acknowledgement stands to the lowest start; `None` where the list is too wide for
    /// its comparisons to agree.
    fn ahead(&self, acknowledgement: u32, base: u32) -> Option<i32> {
        let ahead = acknowledgement.wrapping_sub(base).wrapping_sub(self.low) as i32;
        let span = self.high.checked_sub(self.low)?;
        let agrees = !self.has_wrapped && span < SPAN_MAX && ahead.unsigned_abs() < SPAN_MAX;
        agrees.then_some(ahead)
    }

    fn of(segments: &VecDeque<Sent>, base: u32) -> Self {
        let mut bounds = Self::EMPTY;
        for sent in segments {
            bounds.add(sent, base);
        }
        bounds
    }
}

/// The segments, oldest first.
#[derive(Clone, Debug)]
pub(super) struct Unacked {
    segments: VecDeque<Sent>,
    bounds: Bounds,
}

impl Unacked {
    pub(super) const EMPTY: Self = Self {
        segments: VecDeque::new(),
        bounds: Bounds::EMPTY,
    };

    /// Room taken, in segments.
    pub(super) fn room(&self) -> usize {
        self.segments.capacity()
    }

    pub(super) fn is_full(&self) -> bool {
        self.segments.len() >= WIRESHARK_UNACKED_COUNT_MAX
    }

    pub(super) fn oldest(&self) -> Option<&Sent> {
        self.segments.front()
    }

    /// From the lowest start to the highest end, in bytes; `None` for an empty list.
    pub(super) fn span(&self) -> Option<u32> {
        let span = self.bounds.high.wrapping_sub(self.bounds.low);
        (!self.segments.is_empty()).then_some(span)
    }

    /// Adds a segment: whether there was room, of which it takes more only where it `may_grow`.
    pub(super) fn add(&mut self, sent: Sent, base: u32, may_grow: bool) -> bool {
        if self.segments.len() == self.segments.capacity() {
            if !may_grow {
                return false;
            }
            if self.segments.capacity() == 0 {
                // Most streams of a scan have one SYN and nothing else.
                self.segments.reserve_exact(1);
            }
        }
        self.bounds.add(&sent, base);
        self.segments.push_back(sent);
        true
    }

    /// Counts from another base from now on.
    pub(super) fn rebase(&mut self, base: u32) {
        self.bounds = Bounds::of(&self.segments, base);
    }

    /// Takes out what `acknowledgement` covers; gives the oldest segment that ends there.
    pub(super) fn acknowledge(&mut self, acknowledgement: u32, base: u32) -> Option<Sent> {
        if self.segments.is_empty() {
            return None;
        }
        let exact = match self.bounds.ahead(acknowledgement, base) {
            Some(..=0) => return None,
            Some(_) if self.bounds.is_ordered => self.take_front(acknowledgement, base),
            _ => self.walk(acknowledgement, base),
        };
        if self.segments.is_empty() {
            self.bounds = Bounds::EMPTY;
            if self.segments.capacity() > ROOM_KEPT {
                self.segments = VecDeque::new();
            }
        }
        exact
    }

    fn take_front(&mut self, acknowledgement: u32, base: u32) -> Option<Sent> {
        let mut exact = None;
        while let Some(front) = self.segments.front_mut() {
            if is_after(front.end, acknowledgement) {
                if is_after(acknowledgement, front.start) {
                    front.start = acknowledgement;
                }
                self.bounds.low = front.start.wrapping_sub(base);
                break;
            }
            if front.end == acknowledgement {
                exact = Some(*front);
            }
            self.segments.pop_front();
        }
        exact
    }

    fn walk(&mut self, acknowledgement: u32, base: u32) -> Option<Sent> {
        let mut exact = None;
        let mut bounds = Bounds::EMPTY;
        self.segments.retain_mut(|sent| {
            if sent.end == acknowledgement {
                exact.get_or_insert(*sent);
                return false;
            }
            let is_within = is_after(acknowledgement, sent.start)
                && (acknowledgement.wrapping_sub(sent.end) as i32) <= 0;
            if is_within {
                sent.start = acknowledgement;
            }
            let stays = is_after(sent.end, acknowledgement);
            if stays {
                bounds.add(sent, base);
            }
            stays
        });
        self.bounds = bounds;
        exact
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The list as tshark keeps it, walked from the newest to the oldest.
    fn acknowledge_slowly(segments: &mut Vec<Sent>, acknowledgement: u32) -> Option<u64> {
        let mut exact = None;
        for at in (0..segments.len()).rev() {
            let sent = &mut segments[at];
            if sent.end == acknowledgement {
                exact = Some(sent.frame);
            } else if is_after(acknowledgement, sent.start) && is_after(sent.end, acknowledgement) {
                sent.start = acknowledgement;
                continue;
            } else if is_after(sent.end, acknowledgement) {
                continue;
            }
            segments.remove(at);
        }
        exact
    }

    fn span_slowly(segments: &[Sent], base: u32) -> Option<u32> {
        let low = segments.iter().map(|sent| sent.start.wrapping_sub(base));
        let high = segments.iter().map(|sent| sent.end.wrapping_sub(base));
        Some(high.max()?.wrapping_sub(low.min()?))
    }

    #[test]
    fn short_cuts_give_what_a_walk_gives() {
        let mut state = 7_u64;
        let mut random = |below: u32| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            ((state >> 33) as u32) % below
        };
        for round in 0..200_u32 {
            let mut base = random(u32::MAX);
            let mut next = if round % 3 == 0 {
                base
            } else {
                base.wrapping_sub(random(9_000))
            };
            let mut quick = Unacked::EMPTY;
            let mut slow: Vec<Sent> = Vec::new();
            for frame in 0..400_u64 {
                let start = match random(12) {
                    0 => next.wrapping_sub(random(5_000)),
                    3 if round % 2 == 0 => base.wrapping_sub(random(1_400)),
                    1 => next.wrapping_add(random(5_000)),
                    2 if round % 5 == 0 => random(u32::MAX),
                    _ => next,
                };
                let end = start.wrapping_add(1 + random(1_500));
                next = end;
                let sent = Sent {
                    frame,
                    time_ns: 0,
                    start,
                    end,
                };
                assert!(quick.add(sent, base, true), "round {round}, frame {frame}");
                slow.push(sent);
                if random(90) == 0 {
                    base = random(u32::MAX);
                    quick.rebase(base);
                }
                assert_eq!(quick.span(), span_slowly(&slow, base), "round {round}");
                if random(2) == 0 {
                    let acknowledgement = match random(9) {
                        0 if round % 5 == 0 => random(u32::MAX),
                        1 => next.wrapping_sub(random(3_000)),
                        2 => slow[random(slow.len() as u32) as usize].start,
                        _ => slow[random(slow.len() as u32) as usize].end,
                    };
                    let exact = quick.acknowledge(acknowledgement, base);
                    let expected = acknowledge_slowly(&mut slow, acknowledgement);
                    assert_eq!(exact.map(|sent| sent.frame), expected, "round {round}");
                    assert_eq!(quick.span(), span_slowly(&slow, base), "round {round}");
                    if slow.is_empty() {
                        assert!(quick.oldest().is_none(), "round {round}");
                    }
                }
            }
        }
    }
}
