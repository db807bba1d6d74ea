//! Real captures with other clocks.

use phalanx_range::retiming::{Retiming, Step};

use crate::clocks::{Case, Shown};
use crate::judge::{self, Faults};
use crate::scenario::{self, Scenario};
use crate::stage::{Evidence, file_of};
use crate::told;
use crate::truth::Truth;
use crate::wire;

const OFFSET_NS: i64 = 1_234_567_890;
const HOUR_NS: i64 = 3_600_000_000_000;

/// Retimes the captures in place; gives back how, by hop.
fn retime(evidence: &Evidence, retimings: &[(&str, Retiming)]) -> Vec<(String, Shown)> {
    let own = |hop: &String| {
        let found = retimings.iter().find(|it| it.0 == hop);
        let retiming = found.map_or_else(Retiming::default, |it| it.1);
        let path = evidence.path(hop);
        let first_ns = wire::read(&path)[0].time_ns.into();
        let bytes = std::fs::read(&path).unwrap();
        let to = std::fs::File::create(&path).unwrap();
        retiming
            .rewrite(&bytes[..], std::io::BufWriter::new(to))
            .unwrap();
        (hop.clone(), Shown { retiming, first_ns })
    };
    evidence.hops.iter().map(own).collect()
}

/// What is wrong with what is told of the clocks. The truth was made before they were changed.
fn compare(report: &told::Report, truth: &Truth, shown: &[(String, Shown)], what: &str) -> Faults {
    let last_ns = truth.last_ns();
    let of = |hop: &str| shown.iter().find(|it| it.0 == hop).map(|it| it.1);
    let mut faults = Vec::new();
    for (hop, own) in shown {
        let Some(clock) = report.clock(hop) else {
            faults.push(format!("{what}: no clock of {hop}"));
            continue;
        };
        let Some(reference) = of(&clock.reference) else {
            faults.push(format!(
                "{what}: the reference of {hop} is {:?}",
                clock.reference
            ));
            continue;
        };
        if clock.reference == *hop {
            continue;
        }
        let round_trip_ms = judge::smallest_round_trip(truth, &clock.reference, hop).unwrap();
        let case = Case {
            what: &format!("{what}, {hop}"),
            clock,
            hop: *own,
            reference,
            last_ns: last_ns.into(),
            round_trip_ns: round_trip_ms * 1e6,
        };
        faults.extend(case.judge());
    }
    faults
}

fn report(evidence: &Evidence) -> told::Report {
    let files: Vec<String> = evidence.hops.iter().map(|hop| file_of(hop)).collect();
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    told::report(&evidence.captures.0, &files)
}

fn recorded(scenario: &Scenario) -> (Evidence, Truth) {
    let evidence = scenario.run();
    let truth = Truth::of(&evidence);
    judge::check_truth(scenario, &evidence, &truth);
    (evidence, truth)
}

fn ahead(offset_ns: i64, skew_ppm: f64) -> Retiming {
    Retiming {
        offset_ns,
        skew_ppm,
        step: None,
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn a_minute_with_clocks_that_drift_and_step() {
    let (evidence, truth) = recorded(&scenario::steady());
    let mut faults = compare(
        &report(&evidence),
        &truth,
        &retime(&evidence, &[]),
        "as they were",
    );
    let kept: Vec<Vec<u8>> = evidence
        .hops
        .iter()
        .map(|hop| std::fs::read(evidence.path(hop)).unwrap())
        .collect();
    let step = Retiming {
        step: Some(Step {
            after_ns: 29_000_000_000,
            by_ns: 50_000_000,
        }),
        ..ahead(OFFSET_NS, 0.0)
    };
    for (what, retimings) in [
        (
            "drift",
            vec![
                ("left", ahead(OFFSET_NS, 80.0)),
                ("server", ahead(-HOUR_NS, -35.0)),
            ],
        ),
        ("step", vec![("server", step)]),
    ] {
        for (hop, bytes) in evidence.hops.iter().zip(&kept) {
            std::fs::write(evidence.path(hop), bytes).unwrap();
        }
        let shown = retime(&evidence, &retimings);
        faults.extend(compare(&report(&evidence), &truth, &shown, what));
    }
    assert!(faults.is_empty(), "{} faults: {faults:#?}", faults.len());
}

/// Offset, drift, segmentation after the capture, other delays there than back, no beginning.
#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn everything_at_once() {
    let scenario = scenario::everything();
    let (evidence, truth) = recorded(&scenario);
    let retimings = [
        ("left", ahead(OFFSET_NS, 60.0)),
        ("server", ahead(-HOUR_NS, -20.0)),
    ];
    let shown = retime(&evidence, &retimings);
    let report = report(&evidence);
    let mut faults = judge::compare(&scenario, &truth, &report);
    // It lasts for some seconds: too short to tell the drift, but not for its error.
    let of_clocks = compare(&report, &truth, &shown, "everything");
    faults.extend(
        of_clocks
            .into_iter()
            .filter(|fault| !fault.contains("skew")),
    );
    assert!(faults.is_empty(), "{} faults: {faults:#?}", faults.len());
}
