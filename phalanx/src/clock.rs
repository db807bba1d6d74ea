//! Monotonic time and its mapping to the wall clock, with the steps and suspends that were noticed.
//!
//! The engine and the kernel know monotonic time only; what is shown to people is wall time. The
//! offset between them is sampled, and a time is mapped by the offset that was in force then.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use nix::time::{ClockId, clock_gettime};
use phalanx_engine::Monotonic;

/// Mappings that are kept: one for each step or suspend. Older times use the oldest one.
const MAPPING_COUNT_MAX: usize = 64;
/// A change of the offset beyond this is a step, not the slow correction of a clock: adjtime slews
/// by 0.5 ms a second, samples are a second apart, and reading two clocks is off by microseconds.
const STEP_NS_MIN: u64 = 2_000_000;
/// Time that monotonic clocks missed beyond this is a suspend: the two clocks are read one after
/// the other, and the thread may be put aside in between.
const SUSPEND_NS_MIN: u64 = 50_000_000;
/// How often the clocks are read for one sample; the tightest reading counts.
const READING_COUNT: usize = 3;

/// Something that happened to the clocks of this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockEvent {
    /// The wall clock was set.
    Stepped {
        /// When it was noticed.
        at: Monotonic,
        /// By how much, forward or back.
        by_ns: i64,
    },
    /// The host slept; monotonic time stood still.
    Suspended {
        /// When it was noticed.
        at: Monotonic,
        /// For how long.
        for_ns: u64,
    },
}

/// One reading of the three clocks, taken together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// `CLOCK_MONOTONIC` in nanoseconds.
    pub monotonic_ns: u64,
    /// `CLOCK_REALTIME` in nanoseconds since 1970.
    pub wall_ns: u64,
    /// `CLOCK_BOOTTIME` in nanoseconds: monotonic time and the time suspended.
    pub boot_ns: u64,
}

impl Reading {
    /// Reads the clocks, several times, and keeps the reading whose parts are closest together.
    #[must_use]
    pub fn take() -> Self {
        let mut best = (
            u64::MAX,
            Self {
                monotonic_ns: 0,
                wall_ns: 0,
                boot_ns: 0,
            },
        );
        for _ in 0..READING_COUNT {
            let before = read_ns(ClockId::CLOCK_MONOTONIC);
            let wall_ns = read_ns(ClockId::CLOCK_REALTIME);
            let boot_ns = read_ns(ClockId::CLOCK_BOOTTIME);
            let width = read_ns(ClockId::CLOCK_MONOTONIC).saturating_sub(before);
            if width < best.0 {
                best = (
                    width,
                    Self {
                        monotonic_ns: before + width / 2,
                        wall_ns,
                        boot_ns,
                    },
                );
            }
        }
        best.1
    }

    fn offset_ns(&self) -> i64 {
        self.wall_ns.wrapping_sub(self.monotonic_ns).cast_signed()
    }

    fn suspended_ns(&self) -> u64 {
        self.boot_ns.saturating_sub(self.monotonic_ns)
    }
}

/// The time now.
#[must_use]
pub fn now() -> Monotonic {
    Monotonic(read_ns(ClockId::CLOCK_MONOTONIC))
}

fn read_ns(clock: ClockId) -> u64 {
    // The three clocks exist on every Linux that runs eBPF, and no time is before their zero.
    clock_gettime(clock).map_or(0, |time| Duration::from(time).as_nanos() as u64)
}

#[derive(Clone, Copy, Debug)]
struct Mapping {
    from_ns: u64,
    offset_ns: i64,
}

#[derive(Debug)]
struct State {
    mappings: VecDeque<Mapping>,
    suspended_ns: u64,
}

/// Maps monotonic to wall time. Clones share what they know.
#[derive(Clone, Debug)]
pub struct Clock {
    state: Arc<Mutex<State>>,
    /// Its times are wall time.
    is_wall: bool,
}

impl Clock {
    /// Starts from a first reading.
    #[must_use]
    pub fn new(first: Reading) -> Self {
        let mapping = Mapping {
            from_ns: 0,
            offset_ns: first.offset_ns(),
        };
        let mappings = VecDeque::from([mapping]);
        let state = State {
            mappings,
            suspended_ns: first.suspended_ns(),
        };
        Self {
            state: Arc::new(Mutex::new(state)),
            is_wall: false,
        }
    }

    /// Of times that are wall time: those of a hub.
    #[must_use]
    pub fn wall_clock() -> Self {
        let same = Reading {
            monotonic_ns: 0,
            wall_ns: 0,
            boot_ns: 0,
        };
        Self {
            is_wall: true,
            ..Self::new(same)
        }
    }

    /// The time now, as this clock's times are.
    #[must_use]
    pub fn now(&self) -> Monotonic {
        if self.is_wall {
            Monotonic(read_ns(ClockId::CLOCK_REALTIME))
        } else {
            now()
        }
    }

    /// Learns from another reading; what happened since the one before, if anything did.
    pub fn sample(&self, reading: Reading) -> Vec<ClockEvent> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let at = Monotonic(reading.monotonic_ns);
        let mut events = Vec::new();
        let slept_ns = reading.suspended_ns().saturating_sub(state.suspended_ns);
        if slept_ns >= SUSPEND_NS_MIN {
            events.push(ClockEvent::Suspended {
                at,
                for_ns: slept_ns,
            });
            state.suspended_ns = reading.suspended_ns();
        }
        let offset_ns = reading.offset_ns();
        let Some(latest) = state.mappings.back_mut() else {
            return events;
        };
        let moved_ns = offset_ns.wrapping_sub(latest.offset_ns);
        // What was slept moved the wall clock without anybody having set it.
        let slept_signed_ns = if events.is_empty() {
            0
        } else {
            slept_ns.cast_signed()
        };
        let stepped_ns = moved_ns.wrapping_sub(slept_signed_ns);
        if stepped_ns.unsigned_abs() >= STEP_NS_MIN {
            events.push(ClockEvent::Stepped {
                at,
                by_ns: stepped_ns,
            });
        }
        if events.is_empty() {
            latest.offset_ns = offset_ns;
        } else {
            if state.mappings.len() == MAPPING_COUNT_MAX {
                state.mappings.pop_front();
            }
            state.mappings.push_back(Mapping {
                from_ns: reading.monotonic_ns,
                offset_ns,
            });
        }
        events
    }

    /// The wall time of an instant, in nanoseconds since 1970.
    #[must_use]
    pub fn wall_ns(&self, at: Monotonic) -> u64 {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let in_force = state
            .mappings
            .iter()
            .rev()
            .find(|mapping| mapping.from_ns <= at.0);
        let mapping = in_force.or(state.mappings.front());
        at.0.saturating_add_signed(mapping.map_or(0, |mapping| mapping.offset_ns))
    }

    /// The wall time of an instant.
    #[must_use]
    pub fn wall(&self, at: Monotonic) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_nanos(self.wall_ns(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    fn reading(monotonic_ns: u64, offset_ns: u64, suspended_ns: u64) -> Reading {
        let wall_ns = monotonic_ns + offset_ns;
        Reading {
            monotonic_ns,
            wall_ns,
            boot_ns: monotonic_ns + suspended_ns,
        }
    }

    #[test]
    fn a_slewed_clock_is_followed_without_an_event() {
        let clock = Clock::new(reading(S, 100 * S, 0));
        assert_eq!(clock.sample(reading(2 * S, 100 * S + 500_000, 0)), []);
        assert_eq!(clock.wall_ns(Monotonic(2 * S)), 102 * S + 500_000);
    }

    #[test]
    fn a_step_leaves_times_before_it_alone() {
        let clock = Clock::new(reading(S, 100 * S, 0));
        let events = clock.sample(reading(5 * S, 97 * S, 0));
        let by_ns = -3 * S.cast_signed();
        assert_eq!(
            events,
            [ClockEvent::Stepped {
                at: Monotonic(5 * S),
                by_ns
            }]
        );
        assert_eq!(clock.wall_ns(Monotonic(4 * S)), 104 * S);
        assert_eq!(clock.wall_ns(Monotonic(6 * S)), 103 * S);
    }

    #[test]
    fn a_suspend_is_not_a_step() {
        let clock = Clock::new(reading(S, 100 * S, S));
        let events = clock.sample(reading(2 * S, 160 * S, 61 * S));
        assert_eq!(
            events,
            [ClockEvent::Suspended {
                at: Monotonic(2 * S),
                for_ns: 60 * S
            }]
        );
        assert_eq!(clock.sample(reading(3 * S, 160 * S, 61 * S)), []);
    }

    #[test]
    fn mappings_are_bounded() {
        let clock = Clock::new(reading(S, 100 * S, 0));
        for step in 1..200 {
            let events = clock.sample(reading((1 + step) * S, (100 + step) * S, 0));
            assert_eq!(events.len(), 1);
        }
        assert_eq!(
            clock.state.lock().unwrap().mappings.len(),
            MAPPING_COUNT_MAX
        );
        assert_eq!(clock.wall_ns(Monotonic(200 * S)), 499 * S);
    }

    #[test]
    fn the_clocks_of_this_host_agree_with_the_standard_library() {
        let clock = Clock::new(Reading::take());
        let mapped = clock.wall(now());
        let difference = SystemTime::now().duration_since(mapped).unwrap_or_default();
        assert!(difference < Duration::from_secs(1), "{difference:?}");
    }
}
