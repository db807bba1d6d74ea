//! [`Shift`]: from an agent's monotonic time to the hub's time, which is wall time.

use phalanx_common::abi::{Attempt, FlowUpdate};
use phalanx_engine::Monotonic;

/// Nanoseconds of a tick of `phalanx_common::watch`.
const TICK_NS: i64 = 1_024;

/// What is added to an agent's time: whole ticks, so that times in ticks move exactly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shift {
    ticks: i64,
}

impl Shift {
    /// The shift that makes `monotonic_ns` of a host its `wall_ns`, to half a microsecond.
    pub(crate) fn new(monotonic_ns: u64, wall_ns: u64) -> Self {
        let offset_ns = wall_ns.wrapping_sub(monotonic_ns).cast_signed();
        Self {
            ticks: offset_ns.div_euclid(TICK_NS),
        }
    }

    /// An instant of the agent in the hub's time.
    pub(crate) fn instant(self, ns: u64) -> Monotonic {
        Monotonic(ns.saturating_add_signed(self.ticks.wrapping_mul(TICK_NS)))
    }

    /// 0 stands for no time at all, and stays.
    fn tick(self, tick: u32) -> u32 {
        if tick == 0 {
            return 0;
        }
        // Ticks are counted modulo 2³².
        tick.wrapping_add(self.ticks as u32).max(1)
    }

    pub(crate) fn update(self, update: &mut FlowUpdate) {
        update.opened_ns = self.instant(update.opened_ns).0;
        update.now_ns = self.instant(update.now_ns).0;
        for half in &mut update.halves {
            half.seen_tick = self.tick(half.seen_tick);
            half.next_sequence_tick = self.tick(half.next_sequence_tick);
        }
    }

    pub(crate) fn attempt(self, attempt: &mut Attempt) {
        attempt.now_ns = self.instant(attempt.now_ns).0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use phalanx_common::watch::tick;

    #[test]
    fn ticks_move_with_their_time() {
        let wall_ns = 1_790_000_000_123_456_789;
        for monotonic_ns in [2_048, 5_000_000_000, u64::from(u32::MAX) * 1_024 + 5_000] {
            let shift = Shift::new(monotonic_ns, wall_ns);
            let moved = shift.instant(monotonic_ns).0;
            assert!(wall_ns.abs_diff(moved) < 1_024);
            for later_ns in [0, 1_023, 1_024, 9_999_999] {
                let at = monotonic_ns + later_ns;
                let expected = tick(shift.instant(at).0);
                assert_eq!(shift.tick(tick(at).max(1)), expected.max(1));
            }
        }
        assert_eq!(Shift::new(7, wall_ns).tick(0), 0);
    }

    #[test]
    fn a_clock_that_is_before_1970_stays_at_its_begin() {
        let shift = Shift::new(u64::MAX / 2, 0);
        assert_eq!(shift.instant(5), Monotonic(0));
    }
}
