//! Clocks of hops that are set off, too fast or too slow, and put right in the middle: what the
//! report says of them, against how the captures were retimed.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[path = "hops/clock.rs"]
mod clock;
#[path = "network/folder.rs"]
mod folder;
#[path = "hops/made.rs"]
mod made;
#[path = "hops/steady.rs"]
mod steady;
#[path = "hops/told.rs"]
mod told;

use phalanx_range::retiming::{Retiming, Step};
use steady::judge;

const HOUR_NS: i64 = 3_600_000_000_000;

fn ahead(offset_ns: i64, skew_ppm: f64) -> Retiming {
    Retiming {
        offset_ns,
        skew_ppm,
        step: None,
    }
}

fn stepped(offset_ns: i64, by_ns: i64) -> Retiming {
    Retiming {
        offset_ns,
        skew_ppm: 0.0,
        step: Some(Step {
            after_ns: 31_000_000_000,
            by_ns,
        }),
    }
}

#[test]
fn offsets_and_skews_are_found_within_their_error() {
    let made = steady::made("clock");
    let own = Retiming::default();
    let cases = [
        ("none", [own; 3]),
        ("an hour ahead", [own, ahead(HOUR_NS, 0.0), own]),
        (
            "both off",
            [own, ahead(-3_700_000, 0.0), ahead(250_000_000, 0.0)],
        ),
        ("too slow", [own, ahead(1_000_000, -100.0), ahead(40, 17.3)]),
        (
            "off and too fast",
            [own, ahead(HOUR_NS, 100.0), ahead(-HOUR_NS, -100.0)],
        ),
        ("the first one", [ahead(HOUR_NS, -42.0), own, own]),
        (
            "all",
            [
                ahead(-9_000_000, 5.0),
                ahead(77_000_000, -61.0),
                ahead(HOUR_NS / 2, 99.0),
            ],
        ),
    ];
    let faults: Vec<String> = cases
        .into_iter()
        .flat_map(|(what, retimings)| judge(&made, what, retimings))
        .collect();
    assert!(faults.is_empty(), "{} faults: {faults:#?}", faults.len());
}

#[test]
fn a_step_is_found() {
    let made = steady::made("step");
    let own = Retiming::default();
    let cases = [
        ("forward", [own, stepped(0, 50_000_000), own]),
        ("back", [own, own, stepped(HOUR_NS, -50_000_000)]),
        ("of the first one", [stepped(0, 50_000_000), own, own]),
    ];
    let faults: Vec<String> = cases
        .into_iter()
        .flat_map(|(what, retimings)| judge(&made, what, retimings))
        .collect();
    assert!(faults.is_empty(), "{} faults: {faults:#?}", faults.len());
}

/// Of three hops the first two are said to have one clock, by the names of their files; that of the
/// third is found out.
#[test]
fn hops_that_are_named_share_a_clock() {
    let made = steady::made("same");
    let late = ahead(HOUR_NS, 0.0);
    made::retime(&late, &made.path("hop2.pcap"), &made.path("late.pcap"));
    let files = ["hop0.pcap", "hop1.pcap", "late.pcap"];
    let run = |more: &[&str]| told::analyze(&made.folder.0, &files, more);
    let shared = |run: told::Run| {
        let hops = run.report.unwrap().all["hops"].as_array().unwrap().clone();
        let of_hop = hops.iter().map(|hop| hop["clock"]["shared"] == true);
        let clocks: Vec<bool> = of_hop.collect();
        let errors = hops.iter().map(|hop| hop["clock"]["error_ns"].as_i64());
        (clocks, errors.collect::<Vec<_>>())
    };
    let (clocks, errors) = shared(run(&[]));
    assert_eq!(clocks, [false; 3]);
    assert!(errors[1] > Some(0) && errors[2] > Some(0), "{errors:?}");
    for more in [
        &["--same-clock", "hop0,hop1"][..],
        // Said twice, of a hop that was given alone as well.
        &["--same-clock", "hop1,hop0", "--same-clock", "hop1,hop1"],
    ] {
        let (clocks, errors) = shared(run(more));
        assert_eq!(clocks, [false, true, false], "{more:?}");
        assert_eq!(errors[1], Some(0), "{more:?}");
        assert!(errors[2] > Some(0), "{more:?}: {errors:?}");
    }
    for (names, told) in [
        (
            "hop0,hop7",
            "hop7, which is no hop; there are: hop0, hop1, late",
        ),
        ("hop0", "want the names of two hops or more"),
    ] {
        let run = run(&["--same-clock", names]);
        assert_eq!(run.code, Some(2), "{}", run.errors);
        assert!(run.errors.contains(told), "{}", run.errors);
    }
}
