//! What one direction of an emulated link does to packets, and how that changes with time.

use serde::{Deserialize, Serialize};

use crate::limits::DELAY_MS_MAX;

macro_rules! impairment {
    ($( $(#[$doc:meta])* $name:ident: $kind:ty = $default:expr, )*) => {
        /// What one direction of an emulated link does to packets; zero means "does not".
        ///
        /// A packet meets the stages in this order: outage, TTL, MTU, policing, rate and queue,
        /// random loss, burst loss, duplication, delay with jitter and reordering.
        /// Sizes are those of the IP packet.
        #[derive(Debug, Clone, Copy, PartialEq, Serialize)]
        pub struct Impairment { $( $(#[$doc])* pub $name: $kind, )* }

        impl Default for Impairment {
            fn default() -> Self {
                Self { $( $name: $default, )* }
            }
        }

        /// Values that replace those of an [`Impairment`]; what is absent stays as it is.
        #[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct Patch {
            $( $(#[$doc])* #[serde(default)] pub $name: Option<$kind>, )*
        }

        impl Patch {
            /// Writes the values that are present into `impairment`.
            pub fn apply(&self, impairment: &mut Impairment) {
                $( if let Some(value) = self.$name { impairment.$name = value; } )*
            }
        }

        impl From<Impairment> for Patch {
            fn from(impairment: Impairment) -> Self {
                Self { $( $name: Some(impairment.$name), )* }
            }
        }
    };
}

impairment! {
    /// One-way delay in milliseconds.
    delay_ms: f64 = 0.0,
    /// Each packet's delay is uniform in `delay_ms ± jitter_ms`, never below zero.
    jitter_ms: f64 = 0.0,
    /// With jitter, a packet waits for the one before it, so that order is kept.
    keep_order: bool = true,
    /// Probability that a packet is lost, each on its own.
    loss: f64 = 0.0,
    /// Gilbert–Elliott: probability per packet of entering the bad state.
    burst_enter: f64 = 0.0,
    /// Gilbert–Elliott: probability per packet of leaving the bad state.
    burst_leave: f64 = 0.0,
    /// Gilbert–Elliott: probability of loss in the bad state.
    burst_loss: f64 = 1.0,
    /// Probability that a packet is held back by `reorder_extra_ms`, so that others overtake it.
    reorder: f64 = 0.0,
    /// How much longer such a packet takes, in milliseconds.
    reorder_extra_ms: f64 = 10.0,
    /// Probability that a packet is delivered twice.
    duplicate: f64 = 0.0,
    /// Rate of the bottleneck in Mbit/s, with a drop-tail queue before it.
    rate_mbit_per_s: f64 = 0.0,
    /// Room of that queue in bytes.
    queue_bytes: u64 = 256 * 1024,
    /// Rate of a token-bucket policer in Mbit/s: what is above it is dropped, without a queue.
    police_mbit_per_s: f64 = 0.0,
    /// Depth of the policer's bucket in bytes.
    police_burst_bytes: u64 = 32 * 1024,
    /// Larger packets are dropped without an ICMP message.
    mtu_bytes: u32 = 0,
    /// Taken off the TTL or hop limit; packets that would reach zero are dropped silently.
    ttl_decrement: u8 = 0,
    /// Nothing passes. What is already under way still arrives.
    outage: bool = false,
}

impl Impairment {
    /// A plain delay of `delay_ms` milliseconds.
    pub fn delay(delay_ms: f64) -> Self {
        Self {
            delay_ms,
            ..Self::default()
        }
    }

    /// Says which value is out of its range, if one is.
    pub fn check(&self) -> Result<(), String> {
        let probabilities = [
            ("loss", self.loss),
            ("burst_enter", self.burst_enter),
            ("burst_leave", self.burst_leave),
            ("burst_loss", self.burst_loss),
            ("reorder", self.reorder),
            ("duplicate", self.duplicate),
        ];
        for (name, value) in probabilities {
            if !(0.0..=1.0).contains(&value) {
                return Err(format!(
                    "{name} is {value}: a probability lies between 0 and 1"
                ));
            }
        }
        let delays = [
            ("delay_ms", self.delay_ms),
            ("jitter_ms", self.jitter_ms),
            ("reorder_extra_ms", self.reorder_extra_ms),
        ];
        for (name, value) in delays {
            if !(0.0..=DELAY_MS_MAX).contains(&value) {
                return Err(format!(
                    "{name} is {value}: it lies between 0 and {DELAY_MS_MAX}"
                ));
            }
        }
        for (name, value) in [
            ("rate_mbit_per_s", self.rate_mbit_per_s),
            ("police_mbit_per_s", self.police_mbit_per_s),
        ] {
            if !(0.0..=100_000.0).contains(&value) {
                return Err(format!(
                    "{name} is {value}: it lies between 0 (off) and 100000"
                ));
            }
        }
        if self.burst_enter > 0.0 && self.burst_leave == 0.0 {
            return Err("burst_leave is 0: the bad state would never end".to_owned());
        }
        Ok(())
    }
}

/// One of the two directions of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// From the link's end `a` to its end `b`.
    Forward,
    /// From the link's end `b` to its end `a`.
    Reverse,
}

impl Direction {
    /// Both, forward first.
    pub const BOTH: [Self; 2] = [Self::Forward, Self::Reverse];

    /// The name used in files and counters.
    pub fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Reverse => "reverse",
        }
    }
}

/// A change of a link at a moment of its schedule.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// When, in milliseconds from the start of the schedule.
    pub at_ms: f64,
    /// Which direction; both when absent.
    #[serde(default)]
    pub direction: Option<Direction>,
    /// What becomes different.
    pub set: Patch,
}

/// Changes of a link over time.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Schedule {
    /// The changes, in any order.
    pub changes: Vec<Change>,
    /// When given, the schedule starts over after this many milliseconds.
    pub period_ms: Option<f64>,
}

impl Schedule {
    /// Says what is wrong with the schedule, if something is. `base` gives the values before it.
    pub fn check(&self, base: &Impairment) -> Result<(), String> {
        if self.changes.len() > crate::limits::CHANGES_MAX {
            return Err(format!("more than {} changes", crate::limits::CHANGES_MAX));
        }
        let last_ms = self.period_ms.unwrap_or(f64::MAX);
        if last_ms.is_nan() || last_ms < 1.0 {
            return Err(format!(
                "schedule_period_ms is {last_ms}: it must be at least 1"
            ));
        }
        for change in &self.changes {
            if !(change.at_ms >= 0.0 && change.at_ms <= last_ms && change.at_ms < 1e12) {
                return Err(format!(
                    "at_ms is {}: outside of the schedule",
                    change.at_ms
                ));
            }
            let mut after = *base;
            change.set.apply(&mut after);
            after.check()?;
        }
        Ok(())
    }
}

/// The part of a schedule that concerns one direction, being carried out.
#[derive(Debug, Clone)]
pub(crate) struct Timetable {
    start_ns: u64,
    changes: Vec<(u64, Patch)>,
    next: usize,
    period_ns: Option<u64>,
}

impl Timetable {
    pub(crate) fn new(schedule: &Schedule, direction: Direction, start_ns: u64) -> Self {
        let mut changes: Vec<(u64, Patch)> = schedule
            .changes
            .iter()
            .filter(|change| change.direction.is_none_or(|only| only == direction))
            .map(|change| (ms_to_ns(change.at_ms), change.set))
            .collect();
        changes.sort_by_key(|(at_ns, _)| *at_ns);
        Self {
            start_ns,
            changes,
            next: 0,
            period_ns: schedule.period_ms.map(ms_to_ns),
        }
    }

    /// When the next change is due.
    pub(crate) fn next_at_ns(&self) -> Option<u64> {
        self.changes
            .get(self.next)
            .map(|(at_ns, _)| self.start_ns.saturating_add(*at_ns))
    }

    /// The next change that is due at `now_ns`.
    pub(crate) fn take_due(&mut self, now_ns: u64) -> Option<Patch> {
        if self.next_at_ns()? > now_ns {
            return None;
        }
        let patch = self.changes[self.next].1;
        self.next += 1;
        if self.next == self.changes.len()
            && let Some(period_ns) = self.period_ns
        {
            self.start_ns = self.start_ns.saturating_add(period_ns);
            self.next = 0;
        }
        Some(patch)
    }
}

pub(crate) fn ms_to_ns(milliseconds: f64) -> u64 {
    (milliseconds * 1e6).round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loss_at(at_ms: f64, loss: f64) -> Change {
        let set = Patch {
            loss: Some(loss),
            ..Patch::default()
        };
        Change {
            at_ms,
            direction: None,
            set,
        }
    }

    #[test]
    fn a_patch_leaves_the_rest_alone() {
        let mut impairment = Impairment {
            delay_ms: 20.0,
            loss: 0.1,
            ..Impairment::default()
        };
        Patch {
            loss: Some(0.0),
            ..Patch::default()
        }
        .apply(&mut impairment);
        assert_eq!(impairment, Impairment::delay(20.0));
    }

    #[test]
    fn values_out_of_range_are_named() {
        let wrong = [
            (
                Impairment {
                    loss: 1.5,
                    ..Impairment::default()
                },
                "loss is 1.5",
            ),
            (
                Impairment {
                    delay_ms: -1.0,
                    ..Impairment::default()
                },
                "delay_ms is -1",
            ),
            (
                Impairment {
                    delay_ms: f64::NAN,
                    ..Impairment::default()
                },
                "delay_ms is NaN",
            ),
            (
                Impairment {
                    burst_enter: 0.1,
                    ..Impairment::default()
                },
                "burst_leave is 0",
            ),
            (
                Impairment {
                    rate_mbit_per_s: -3.0,
                    ..Impairment::default()
                },
                "rate_mbit_per_s",
            ),
        ];
        for (impairment, expected) in wrong {
            let message = impairment.check().unwrap_err();
            assert!(message.contains(expected), "{message}");
        }
        assert_eq!(Impairment::default().check(), Ok(()));
    }

    #[test]
    fn a_timetable_runs_in_order_and_starts_over() {
        let schedule = Schedule {
            changes: vec![loss_at(20.0, 0.2), loss_at(10.0, 0.1)],
            period_ms: Some(100.0),
        };
        let mut timetable = Timetable::new(&schedule, Direction::Forward, 1_000_000);
        assert_eq!(timetable.take_due(10_999_999), None);
        assert_eq!(
            timetable.take_due(11_000_000).and_then(|p| p.loss),
            Some(0.1)
        );
        assert_eq!(timetable.take_due(11_000_000), None);
        assert_eq!(
            timetable.take_due(50_000_000).and_then(|p| p.loss),
            Some(0.2)
        );
        assert_eq!(timetable.next_at_ns(), Some(111_000_000));
    }

    #[test]
    fn a_change_of_one_direction_is_not_the_others() {
        let change = Change {
            direction: Some(Direction::Reverse),
            ..loss_at(1.0, 0.5)
        };
        let schedule = Schedule {
            changes: vec![change],
            period_ms: None,
        };
        assert_eq!(
            Timetable::new(&schedule, Direction::Forward, 0).next_at_ns(),
            None
        );
        assert_eq!(
            Timetable::new(&schedule, Direction::Reverse, 0).next_at_ns(),
            Some(1_000_000)
        );
    }
}
