//! The governor: how many of all flows are recorded, so that recording them keeps within a share of
//! one CPU. It is told what was spent and says which samples are taken ([`sample_of`]): flows are
//! taken or left whole, never packets. A value, without a clock of its own.
//!
//! Two loops. The inner one is an account: each second pays in the share, what was spent is taken
//! out, and while it is overdrawn the threshold falls, by as much as was spent too much. So no more
//! than the share is spent in the long run, whatever the traffic does. The outer one raises the
//! threshold, slowly and only while the account is well filled. A threshold that has overdrawn the
//! account is a ceiling for a while, twice as long each time: a single flow that takes more than
//! the share comes and goes as one, and would otherwise be taken in again and again.
//!
//! [`sample_of`]: phalanx_common::watch::sample_of

use phalanx_common::watch::SAMPLE_ALL;
use phalanx_engine::Monotonic;

/// Time between two looks at what was spent. At most so long is spent without bounds.
pub(crate) const INTERVAL_NS: u64 = 50_000_000;

/// What the account holds at most: half a second of the share. Larger, and a quiet hour would pay
/// for a burst that takes a whole CPU for seconds.
const CREDIT_MAX_S: f64 = 0.5;

/// The part of the share that the threshold aims at when it falls: what is left refills the
/// account.
const AIM: f64 = 0.85;

/// The threshold rises only where less than this part of the share is spent.
const RAISE_BELOW: f64 = 0.7;

/// How much the threshold rises at once at most, and the time between.
const RAISE_FACTOR: f64 = 1.5;
const RAISE_NS: u64 = 500_000_000;

/// How much it falls at once at most.
const FALL_FACTOR: f64 = 1.0 / 16.0;

/// A fall shows only after what waits in the ring has been read: half of it, 4 MiB, is 16,000
/// records or some 20 ms.
const FALL_NS: u64 = 2 * INTERVAL_NS;

/// Where it rises from none: a thousandth of the flows.
const THRESHOLD_MIN: u32 = SAMPLE_ALL >> 10;

/// How long a threshold that overdrew the account is a ceiling: at first, and at most.
const CEILING_NS_MIN: u64 = 2_000_000_000;
const CEILING_NS_MAX: u64 = 128_000_000_000;

/// Weight of the latest interval in the smoothed use: it takes some ten to follow a step.
const WEIGHT: f64 = 0.2;

/// How the governor stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Governance {
    /// The part of one CPU that is spent, smoothed.
    pub(crate) cpu_share: f64,
    /// Flows are recorded whose sample lies below.
    pub(crate) threshold: u32,
}

/// Moves the threshold.
#[derive(Clone, Debug)]
pub(crate) struct Governor {
    share: f64,
    threshold: u32,
    credit_ns: f64,
    smoothed: f64,
    looked: Option<(Monotonic, u64)>,
    fell: Monotonic,
    rose: Monotonic,
    ceiling: Option<Ceiling>,
}

#[derive(Clone, Copy, Debug)]
struct Ceiling {
    threshold: u32,
    until: Monotonic,
    held_ns: u64,
}

impl Governor {
    /// Begins with all flows; `share` is a part of one CPU.
    pub(crate) fn new(share: f64) -> Self {
        Self {
            share,
            threshold: SAMPLE_ALL,
            credit_ns: 0.0,
            smoothed: 0.0,
            looked: None,
            fell: Monotonic::default(),
            rose: Monotonic::default(),
            ceiling: None,
        }
    }

    /// How it stands.
    pub(crate) fn state(&self) -> Governance {
        Governance {
            cpu_share: self.smoothed,
            threshold: self.threshold,
        }
    }

    /// Takes in the CPU time that was spent since the beginning; the new threshold where it moves.
    #[expect(clippy::cast_precision_loss, reason = "2⁵³ ns are a hundred days")]
    pub(crate) fn look(&mut self, spent_ns: u64, now: Monotonic) -> Option<u32> {
        let Some((before, spent_before_ns)) = self.looked else {
            self.looked = Some((now, spent_ns));
            return None;
        };
        let elapsed_ns = now.since_ns(before);
        if elapsed_ns < INTERVAL_NS {
            return None;
        }
        self.looked = Some((now, spent_ns));
        let (elapsed, spent) = (
            elapsed_ns as f64,
            spent_ns.saturating_sub(spent_before_ns) as f64,
        );
        let used = spent / elapsed;
        let most = self.share * CREDIT_MAX_S * 1e9;
        self.credit_ns = (self.credit_ns + self.share * elapsed - spent).min(most);
        self.smoothed += (used - self.smoothed) * WEIGHT;
        let threshold = if self.credit_ns < 0.0 {
            self.fall(used, now)
        } else if self.credit_ns >= most / 2.0 {
            self.rise(now)
        } else {
            self.threshold
        };
        let has_moved = threshold != self.threshold;
        self.threshold = threshold;
        has_moved.then_some(threshold)
    }

    fn fall(&mut self, used: f64, now: Monotonic) -> u32 {
        if used <= self.share || now.since_ns(self.fell) < FALL_NS {
            return self.threshold;
        }
        // Fallen again soon after the last time: the traffic is what it was.
        let held_ns = match self.ceiling {
            Some(ceiling) if now.since_ns(ceiling.until) < ceiling.held_ns => {
                if self.rose > self.fell {
                    (ceiling.held_ns * 2).min(CEILING_NS_MAX)
                } else {
                    ceiling.held_ns
                }
            }
            _ => CEILING_NS_MIN,
        };
        self.ceiling = Some(Ceiling {
            threshold: self.threshold,
            until: now.plus_ns(held_ns),
            held_ns,
        });
        self.fell = now;
        scale(self.threshold, (AIM * self.share / used).max(FALL_FACTOR))
    }

    fn rise(&mut self, now: Monotonic) -> u32 {
        let is_soon = now.since_ns(self.rose.max(self.fell)) < RAISE_NS;
        if is_soon || self.threshold == SAMPLE_ALL || self.smoothed > RAISE_BELOW * self.share {
            return self.threshold;
        }
        let factor = (AIM * self.share / self.smoothed.max(1e-6)).min(RAISE_FACTOR);
        let threshold = scale(self.threshold, factor).max(THRESHOLD_MIN);
        let is_held = |it: Ceiling| threshold >= it.threshold && now < it.until && it.threshold > 0;
        if self.ceiling.is_some_and(is_held) {
            return self.threshold;
        }
        self.rose = now;
        threshold
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "within 0 and SAMPLE_ALL"
)]
fn scale(threshold: u32, factor: f64) -> u32 {
    (f64::from(threshold) * factor).clamp(0.0, f64::from(SAMPLE_ALL)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARE: f64 = 0.05;
    const SECOND: u64 = 1_000_000_000;

    /// Flows with their samples and what each costs as a part of a CPU; no more than one CPU is
    /// spent.
    struct Load(Vec<(u32, f64)>);

    impl Load {
        fn even(flows: u32, whole: f64) -> Self {
            let sample = |flow| flow * 40_503 % SAMPLE_ALL;
            Self(
                (0..flows)
                    .map(|flow| (sample(flow), whole / f64::from(flows)))
                    .collect(),
            )
        }

        fn cost(&self, threshold: u32) -> f64 {
            let taken = self.0.iter().filter(|(sample, _)| *sample < threshold);
            taken.map(|(_, cost)| cost).sum::<f64>().min(1.0)
        }
    }

    /// Runs for so many seconds; what was spent in each second, as a part of a CPU.
    struct Bench {
        governor: Governor,
        now: Monotonic,
        spent_ns: u64,
    }

    impl Bench {
        fn new() -> Self {
            Self {
                governor: Governor::new(SHARE),
                now: Monotonic(SECOND),
                spent_ns: 0,
            }
        }

        fn run(&mut self, load: &Load, seconds: u64) -> f64 {
            let before = self.spent_ns;
            for _ in 0..seconds * 100 {
                let cost = load.cost(self.governor.threshold);
                self.spent_ns += (cost * 1e7) as u64;
                self.now = self.now.plus_ns(SECOND / 100);
                self.governor.look(self.spent_ns, self.now);
            }
            (self.spent_ns - before) as f64 / (seconds * SECOND) as f64
        }
    }

    #[test]
    fn a_light_load_is_taken_whole() {
        let mut bench = Bench::new();
        bench.run(&Load::even(1_000, 0.03), 60);
        assert_eq!(bench.governor.threshold, SAMPLE_ALL);
    }

    #[test]
    fn a_step_of_load_holds_the_share_from_the_first_ten_seconds_on() {
        for whole in [0.1, 0.4, 1.0, 3.0] {
            let mut bench = Bench::new();
            bench.run(&Load::even(5_000, 0.02), 30);
            let load = Load::even(5_000, whole);
            let first = bench.run(&load, 10);
            assert!(
                first <= 1.2 * SHARE,
                "{first} of {whole} in the first ten seconds"
            );
            let then = bench.run(&load, 60);
            assert!(then <= 1.05 * SHARE, "{then} of {whole}");
            assert!(
                then >= 0.6 * SHARE,
                "{then} of {whole}: far less than may be"
            );
        }
    }

    #[test]
    fn after_the_load_all_flows_are_taken_again() {
        let mut bench = Bench::new();
        bench.run(&Load::even(5_000, 2.0), 30);
        assert!(bench.governor.threshold < SAMPLE_ALL / 20);
        bench.run(&Load::even(5_000, 0.02), 200);
        assert_eq!(bench.governor.threshold, SAMPLE_ALL);
    }

    #[test]
    fn a_single_flow_that_takes_too_much_is_tried_ever_more_rarely() {
        let mut bench = Bench::new();
        let load = Load(vec![(SAMPLE_ALL / 3, 0.9)]);
        let first = bench.run(&load, 10);
        assert!(first <= 1.2 * SHARE, "{first}");
        let before = bench.spent_ns;
        bench.run(&load, 590);
        let spent = (bench.spent_ns - before) as f64 / (590 * SECOND) as f64;
        assert!(spent <= SHARE / 4.0, "{spent}");
    }

    #[test]
    fn an_even_load_does_not_make_it_waver() {
        let mut bench = Bench::new();
        let load = Load::even(5_000, 0.5);
        bench.run(&load, 60);
        let (mut low, mut high) = (u32::MAX, 0);
        for _ in 0..60 {
            bench.run(&load, 1);
            low = low.min(bench.governor.threshold);
            high = high.max(bench.governor.threshold);
        }
        assert!(high <= low + low / 2, "{low} to {high}");
    }

    #[test]
    fn it_looks_once_in_an_interval() {
        let mut governor = Governor::new(SHARE);
        assert_eq!(governor.look(0, Monotonic(SECOND)), None);
        let early = Monotonic(SECOND + INTERVAL_NS - 1);
        assert_eq!(governor.look(SECOND, early), None);
        let due = Monotonic(SECOND + INTERVAL_NS);
        assert!(governor.look(SECOND, due).is_some_and(|it| it < SAMPLE_ALL));
    }
}
