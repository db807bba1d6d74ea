//! Promotion: a flow that turns sick is recorded, headers only, from its next packet on, for a
//! while. So many may be promoted in a time, over all CPUs; the others are counted.

use super::{FlowEntry, Tables};
use crate::abi::Counter;
use crate::word::Word64;

/// A bit beside those of `abi::update_reason`: the packet shows that its flow is sick. It never
/// leaves the rule.
pub(super) const SICK: u32 = 1 << 31;

/// What the rule may promote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PromotionLimit {
    /// How long a flow stays promoted, in nanoseconds; 0: none is.
    pub hold_ns: u64,
    /// How many flows are promoted in one window of [`WINDOW_NS`] at most.
    pub count_max: u32,
}

/// Windows in which promotions are counted, in nanoseconds: 2³⁰, which is 1.07 s, so that no more
/// than the limit are promoted in any second that a window covers, and twice as many in one that
/// lies across two.
pub const WINDOW_NS: u64 = 1 << WINDOW_SHIFT;
const WINDOW_SHIFT: u32 = 30;

/// Bits of the number of promotions in the shared word; the window's number stands above them.
const COUNT_BITS: u32 = 16;

/// The largest limit that the shared word can count.
pub const PROMOTION_COUNT_MAX: u32 = (1 << COUNT_BITS) - 1;

impl PromotionLimit {
    /// Takes one promotion out of the window of `now_ns`; false where none is left. Where another
    /// CPU takes one at the same time, one of the two goes without: its flow is promoted with the
    /// next packet that shows it sick.
    #[inline(always)]
    fn take(self, taken: &Word64, now_ns: u64) -> bool {
        let before = taken.load();
        let window = now_ns >> WINDOW_SHIFT << COUNT_BITS;
        let base = if before < window { window } else { before };
        let count = base & u64::from(PROMOTION_COUNT_MAX);
        count < u64::from(self.count_max) && taken.replace(before, base + 1)
    }
}

impl FlowEntry {
    /// Whether a packet is to be recorded because the flow was promoted before it: the packet that
    /// the flow was promoted for is not.
    #[inline(always)]
    #[must_use]
    pub fn is_promoted(&self, hold_ns: u64, now_ns: u64) -> bool {
        let left = self.promoted_until_ns.load().wrapping_sub(now_ns);
        // What is over, or never was, wraps to far more than any time that is held.
        left != 0 && left < hold_ns
    }
}

/// Promotes a flow that a packet shows sick, if it is not promoted and the limit allows it.
/// Returns whether it did.
#[inline(always)]
pub fn promote<T: Tables>(tables: &T, entry: &FlowEntry, now_ns: u64) -> bool {
    let limit = tables.promotion_limit();
    let before = entry.promoted_until_ns.load();
    if limit.hold_ns == 0 || before > now_ns {
        return false;
    }
    let Some(taken) = tables.promotions() else {
        return false;
    };
    if !limit.take(taken, now_ns) {
        tables.count(Counter::PromotionsLimited, 1);
        return false;
    }
    // Where two CPUs promote one flow at once, it is counted for the one whose write stays.
    let is_ours = entry
        .promoted_until_ns
        .replace(before, now_ns.wrapping_add(limit.hold_ns));
    if is_ours {
        tables.count(Counter::Promoted, 1);
    }
    is_ours
}
