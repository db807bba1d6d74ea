//! What a report says of a hop's clock, against how its capture was retimed.

use phalanx_range::retiming::Retiming;

use crate::told::{Clock, ClockStep};

/// The error as a share of the smallest round trip to the reference and back.
const ERROR_SHARE_MAX: f64 = 0.6;
/// How far a skew may be off in a minute of traffic, in parts per million.
const SKEW_OFF_MAX_PPM: f64 = 2.0;
/// How far the time of a step may be off.
const STEP_OFF_NS: i128 = 1_000_000_000;
/// Moments at which the clocks are compared.
const MOMENTS: i128 = 400;

/// How a hop's capture was retimed, and the true time of its first packet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shown {
    pub(crate) retiming: Retiming,
    pub(crate) first_ns: i128,
}

impl Shown {
    fn at(&self, true_ns: i128) -> i128 {
        self.retiming.shows(self.first_ns, true_ns)
    }

    fn step(&self) -> Option<(i128, i128)> {
        let step = self.retiming.step?;
        Some((self.first_ns + i128::from(step.after_ns), step.by_ns.into()))
    }
}

/// A hop, the reference, and the truth between them.
pub(crate) struct Case<'a> {
    pub(crate) what: &'a str,
    pub(crate) clock: &'a Clock,
    pub(crate) hop: Shown,
    pub(crate) reference: Shown,
    /// True time of the last packet.
    pub(crate) last_ns: i128,
    pub(crate) round_trip_ns: f64,
}

impl Case<'_> {
    /// What is wrong.
    pub(crate) fn judge(&self) -> Vec<String> {
        let mut faults = Vec::new();
        println!("{}: {:?}", self.what, self.clock);
        self.judge_times(&mut faults);
        let errors = self.clock.steps.iter().map(|step| step.error_ns);
        for error_ns in errors.chain([self.clock.error_ns]) {
            let bound_ns = self.round_trip_ns * ERROR_SHARE_MAX;
            if error_ns
                .partial_cmp(&bound_ns)
                .is_none_or(std::cmp::Ordering::is_gt)
            {
                faults.push(format!(
                    "{}: error {error_ns} ns, allowed {bound_ns}",
                    self.what
                ));
            }
        }
        let wanted_ppm = self.hop.retiming.skew_ppm - self.reference.retiming.skew_ppm;
        if (self.clock.skew_ppm - wanted_ppm).abs() > SKEW_OFF_MAX_PPM {
            let told = self.clock.skew_ppm;
            faults.push(format!(
                "{}: skew {told} ppm, truth {wanted_ppm}",
                self.what
            ));
        }
        self.judge_steps(&mut faults);
        faults
    }

    /// The hop's times, brought to the reference's, are those that the reference showed.
    fn judge_times(&self, faults: &mut Vec<String>) {
        let span_ns = self.last_ns - self.hop.first_ns;
        let (mut worst_ns, mut wrong) = (0.0f64, 0);
        for moment in 0..=MOMENTS {
            let true_ns = self.hop.first_ns + span_ns * moment / MOMENTS;
            if self.is_near_step(true_ns) {
                continue;
            }
            let off_ns = self.off_ns(true_ns);
            let error_ns = self
                .step_at(true_ns)
                .map_or(self.clock.error_ns, |it| it.error_ns);
            // What is not a number is wrong, too.
            wrong += usize::from(error_ns.is_nan() || off_ns > error_ns);
            worst_ns = worst_ns.max(off_ns);
        }
        println!("{}: {worst_ns} ns off at the worst", self.what);
        if wrong > 0 {
            faults.push(format!(
                "{}: {worst_ns} ns off, beyond the error at {wrong} moments: {:?}",
                self.what, self.clock
            ));
        }
    }

    /// How far the told time of the reference is from what it showed.
    fn off_ns(&self, true_ns: i128) -> f64 {
        let (hop_ns, reference_ns) = (self.hop.at(true_ns), self.reference.at(true_ns));
        let first_ns = self.hop.at(self.hop.first_ns);
        let off = |offset_ns: f64, skew_ppm: f64, since_ns: i128| {
            let drift_ns = skew_ppm / 1e6 * (hop_ns - since_ns) as f64;
            ((hop_ns - reference_ns) as f64 - offset_ns - drift_ns).abs()
        };
        match self.step_at(true_ns) {
            // From the first packet, or from the step.
            Some(step) => off(step.offset_ns, step.skew_ppm, first_ns).min(off(
                step.offset_ns,
                step.skew_ppm,
                step.at_ns,
            )),
            None => off(self.clock.offset_ns, self.clock.skew_ppm, first_ns),
        }
    }

    /// The told values that hold at a true time, after a step.
    fn step_at(&self, true_ns: i128) -> Option<&ClockStep> {
        let them = self.clock.steps.iter().rev();
        // An instant of the hop's own clock, or of the reference's.
        let is_own = |step: &&ClockStep| self.distance(step) <= STEP_OFF_NS;
        let own = them
            .clone()
            .find(|step| is_own(step) && self.is_after(step, true_ns));
        own.or_else(|| {
            them.clone()
                .find(|step| step.at_ns <= self.hop.at(true_ns) && !is_own(step))
        })
    }

    /// Steps that are told where there is one begin there.
    fn is_after(&self, step: &ClockStep, true_ns: i128) -> bool {
        let true_step = self.hop.step().or(self.reference.step());
        true_step.is_some_and(|(at_ns, _)| true_ns >= at_ns) && self.distance(step) <= STEP_OFF_NS
    }

    /// From where a step is told to where it was.
    fn distance(&self, step: &ClockStep) -> i128 {
        let true_step = self.hop.step().or(self.reference.step());
        true_step.map_or(i128::MAX, |(at_ns, _)| {
            let shown = [self.hop.at(at_ns), self.reference.at(at_ns)];
            let off = shown.map(|shown_ns| (step.at_ns - shown_ns).abs());
            off[0].min(off[1])
        })
    }

    fn is_near_step(&self, true_ns: i128) -> bool {
        let steps = [self.hop.step(), self.reference.step()];
        let mut near = steps.into_iter().flatten();
        near.any(|(at_ns, _)| (at_ns - true_ns).abs() <= STEP_OFF_NS)
    }

    fn judge_steps(&self, faults: &mut Vec<String>) {
        let wanted_ns =
            self.hop.step().map_or(0, |it| it.1) - self.reference.step().map_or(0, |it| it.1);
        match &self.clock.steps[..] {
            [] if wanted_ns == 0 => {}
            [step] if wanted_ns != 0 => {
                if self.distance(step) > STEP_OFF_NS {
                    faults.push(format!("{}: step told at {}", self.what, step.at_ns));
                }
                let first_ns = self.hop.at(self.hop.first_ns);
                let drift_ns = self.clock.skew_ppm / 1e6 * (step.at_ns - first_ns) as f64;
                let bare_ns = step.offset_ns - self.clock.offset_ns;
                let off = [bare_ns, bare_ns - drift_ns].map(|it| (it - wanted_ns as f64).abs());
                let bound_ns = self.clock.error_ns + step.error_ns;
                if off[0].min(off[1]) > bound_ns {
                    faults.push(format!(
                        "{}: step of {bare_ns} ns, truth {wanted_ns}",
                        self.what
                    ));
                }
            }
            other => faults.push(format!(
                "{}: steps {other:?}, truth {wanted_ns} ns",
                self.what
            )),
        }
    }
}
