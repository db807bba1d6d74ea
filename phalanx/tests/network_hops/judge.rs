//! What a report says of each conversation and leg, against the truth. All that is wrong is told at
//! once.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::scenario::{Crossing, Scenario};
use crate::stage::Evidence;
use crate::told::{self, DIRECTIONS, Report};
use crate::truth::{self, Truth};

/// Share of the packets that must be found again at the other hops.
const ALIGNED_MIN: f64 = 0.999;
/// How far reordered and duplicated may be off, as a share, where there are enough to tell.
const OFF_MAX: f64 = 0.01;
const FEW: u64 = 100;
/// How far the median of a leg's round trip may be from what the link was told to do, and did.
const ROUND_TRIP_OFF_MS: f64 = 1.0;
/// Reports are rounded to a microsecond at the worst.
const ROUNDING_MS: f64 = 0.002;
/// A median told of these delays may be any of those near the middle.
const MEDIAN: (f64, f64) = (0.48, 0.52);
/// The clock's error as a share of the smallest round trip.
pub(crate) const ERROR_SHARE_MAX: f64 = 0.6;

/// Below it, as between two taps of one veth pair, it is the machine that the error tells of.
pub(crate) const ROUND_TRIP_LEAST_MS: f64 = 1.0;

/// What is wrong.
pub(crate) type Faults = Vec<String>;

/// Runs the program on the captures and compares.
pub(crate) fn judge(scenario: &Scenario, evidence: &Evidence) -> Faults {
    let truth = Truth::of(evidence);
    check_truth(scenario, evidence, &truth);
    let files = evidence.files();
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    let report = told::report(&evidence.captures.0, &files);
    let mut faults = compare(scenario, &truth, &report);
    faults.extend(compare_clocks(&truth, &report, &evidence.hops));
    faults
}

/// The captures and the links' counters say the same, or the truth is none.
pub(crate) fn check_truth(scenario: &Scenario, evidence: &Evidence, truth: &Truth) {
    for conversation in &truth.conversations {
        assert_eq!(
            conversation.at.len(),
            evidence.hops.len(),
            "not seen everywhere"
        );
    }
    assert_eq!(truth.conversations.len(), scenario.connections);
    for crossing in &scenario.crossings {
        let Crossing {
            link,
            link_way,
            direction,
            enter,
            leave,
        } = crossing;
        let counted = &evidence.links[&((*link).to_owned(), *link_way)];
        let shown = truth.sum(enter, leave, *direction);
        println!(
            "{}: {enter} to {leave}: {} packets, {} lost, {} reordered, {} duplicated",
            scenario.name, shown.packets, shown.lost, shown.reordered, shown.duplicated
        );
        let of_link = (counted.entered, counted.dropped, counted.duplicated);
        let of_captures = (shown.packets, shown.lost, shown.duplicated);
        assert_eq!(of_link, of_captures, "{}: {link}", scenario.name);
    }
    for rewrite in &scenario.rewrites {
        for conversation in &truth.conversations {
            let is_shown = conversation.is_rewritten(rewrite);
            assert!(is_shown, "{}: {rewrite:?} is not so", scenario.name);
        }
    }
    let lossy = |enter: &str, leave: &str, direction: usize| {
        let mut them = scenario.crossings.iter();
        them.any(|it| (it.enter, it.leave, it.direction) == (enter, leave, direction))
    };
    for (enter, leave, direction) in scenario.legs() {
        if !lossy(enter, leave, direction) {
            let shown = truth.sum(enter, leave, direction);
            assert_eq!((shown.lost, shown.duplicated), (0, 0), "{enter} to {leave}");
        }
    }
}

pub(crate) fn compare(scenario: &Scenario, truth: &Truth, report: &Report) -> Faults {
    let mut faults = Vec::new();
    let mut sums: BTreeMap<(&str, &str, usize), told::Way> = BTreeMap::new();
    let (mut packets, mut aligned) = (0, 0);
    let told_count = report
        .conversations
        .iter()
        .filter(|told| told.protocol == "tcp")
        .count();
    if told_count != truth.conversations.len() {
        faults.push(format!(
            "{told_count} conversations, there are {}",
            truth.conversations.len()
        ));
    }
    let first = scenario.path[0];
    for conversation in &truth.conversations {
        let client = SocketAddr::from(conversation.at[first].client);
        let Some(told) = report
            .conversations
            .iter()
            .find(|told| told.client == client)
        else {
            faults.push(format!("no conversation of {client}"));
            continue;
        };
        compare_names(scenario, conversation, told, &mut faults);
        for (enter, leave, direction) in scenario.legs() {
            let shown = conversation.way(enter, leave, direction);
            let place = format!("{client}: {enter} to {leave}");
            let way = told
                .ways()
                .find(|way| (way.0, way.1, way.2) == (enter, leave, direction));
            let Some((.., way)) = way else {
                faults.push(format!("{place}: no leg {}", DIRECTIONS[direction]));
                continue;
            };
            if (way.packets, way.lost) != (shown.packets, shown.lost) {
                faults.push(format!(
                    "{place}: {} packets, {} lost; truth {}, {}",
                    way.packets, way.lost, shown.packets, shown.lost
                ));
            }
            let is_both_ways = [enter, leave]
                .iter()
                .all(|hop| conversation.is_both_ways(hop));
            if is_both_ways || way.delay.is_some() {
                compare_delay(&place, way, &shown, &mut faults);
            }
            let sum = sums.entry((enter, leave, direction)).or_default();
            sum.lost += way.lost;
            sum.reordered += way.reordered;
            sum.duplicated += way.duplicated;
        }
        compare_round_trips(scenario, conversation, told, &mut faults);
        let (all, found) = told.alignment.unwrap_or_default();
        packets += all;
        aligned += found;
    }
    if packets == 0 || (aligned as f64) < packets as f64 * ALIGNED_MIN {
        faults.push(format!("{aligned} of {packets} packets aligned"));
    }
    compare_sums(scenario, truth, &sums, &mut faults);
    faults
}

/// The paths, the names at each hop, and that changes of names are told.
fn compare_names(
    scenario: &Scenario,
    conversation: &truth::Conversation,
    told: &told::Conversation,
    faults: &mut Faults,
) {
    let client = told.client;
    if told.path != scenario.path {
        faults.push(format!("{client}: path {:?}", told.path));
    }
    let mut back = scenario.return_path.clone();
    if told.return_path != back {
        back.reverse();
        faults.push(format!("{client}: return path {:?}", told.return_path));
    }
    for (hop, flow) in &conversation.at {
        let wanted = (SocketAddr::from(flow.client), SocketAddr::from(flow.server));
        let mut own = told.flows.iter().filter(|it| it.hop == *hop);
        match own.next() {
            Some(it) if (it.client, it.server) == wanted => {}
            other => faults.push(format!("{client} at {hop}: {other:?}, truth {wanted:?}")),
        }
        if let Some(second) = own.next() {
            faults.push(format!("{client} at {hop}: twice: {second:?}"));
        }
    }
    for (from, to, field) in &scenario.rewrites {
        let is_told = told
            .rewrites
            .iter()
            .any(|it| it.from == *from && it.to == *to && it.fields.iter().any(|it| it == field));
        if !is_told {
            faults.push(format!(
                "{client}: no {field} from {from} to {to}: {:?}",
                told.rewrites
            ));
        }
    }
    for rewrite in &told.rewrites {
        for field in &rewrite.fields {
            let wanted = (rewrite.from.as_str(), rewrite.to.as_str(), field.as_str());
            if !scenario.rewrites.contains(&wanted) {
                faults.push(format!("{client}: nothing rewrites {wanted:?}"));
            }
        }
    }
}

fn compare_delay(place: &str, way: &told::Way, shown: &truth::Way, faults: &mut Faults) {
    let Some(truth) = shown.delay() else {
        return;
    };
    let (Some(delay), Some(error_ms)) = (way.delay, way.delay_error_ms) else {
        faults.push(format!("{place}: no delay, or no error of it"));
        return;
    };
    let bound_ms = error_ms + ROUNDING_MS;
    if (delay.min - truth.min).abs() > bound_ms {
        faults.push(format!(
            "{place}: min {delay:?} ± {error_ms}; truth {truth:?}"
        ));
    }
    let (least, most) = (shown.quantile(MEDIAN.0), shown.quantile(MEDIAN.1));
    if delay.p50 < least - bound_ms || delay.p50 > most + bound_ms {
        faults.push(format!(
            "{place}: p50 {delay:?} ± {error_ms}; truth {truth:?}"
        ));
    }
}

/// A link of a machine that does other things too is late now and then: what it did counts then,
/// as the captures at both of its ends show it.
fn compare_round_trips(
    scenario: &Scenario,
    conversation: &truth::Conversation,
    told: &told::Conversation,
    faults: &mut Faults,
) {
    for (from, to, wanted_ms) in &scenario.round_trips {
        let leg = told
            .legs
            .iter()
            .find(|leg| leg.from == *from && leg.to == *to);
        let round_trip = leg.and_then(|leg| leg.round_trip);
        let ways = [(0, from, to), (1, to, from)];
        let medians = ways.map(|(direction, enter, leave)| {
            let delay = conversation.way(enter, leave, direction).delay();
            delay.map_or(f64::NAN, |delay| delay.p50)
        });
        let shown_ms: f64 = medians.iter().sum();
        let within = wanted_ms - ROUND_TRIP_OFF_MS..=shown_ms.max(*wanted_ms) + ROUND_TRIP_OFF_MS;
        match round_trip {
            Some(told) if within.contains(&told.p50) => {}
            other => faults.push(format!(
                "{}: round trip {from} to {to}: {other:?}, the link was told {wanted_ms} ms, and \
                 took {shown_ms}",
                told.client
            )),
        }
    }
}

fn compare_sums(
    scenario: &Scenario,
    truth: &Truth,
    sums: &BTreeMap<(&str, &str, usize), told::Way>,
    faults: &mut Faults,
) {
    for (enter, leave, direction) in scenario.legs() {
        let told = sums
            .get(&(enter, leave, direction))
            .copied()
            .unwrap_or_default();
        let shown = truth.sum(enter, leave, direction);
        for (what, told, truth) in [
            ("reordered", told.reordered, shown.reordered),
            ("duplicated", told.duplicated, shown.duplicated),
        ] {
            let off = told.abs_diff(truth);
            let off_max = if truth < FEW {
                1
            } else {
                (truth as f64 * OFF_MAX) as u64
            };
            if off > off_max {
                faults.push(format!("{enter} to {leave}: {told} {what}, truth {truth}"));
            }
        }
        if told.lost != shown.lost {
            faults.push(format!(
                "{enter} to {leave}: {} lost, truth {}",
                told.lost, shown.lost
            ));
        }
    }
}

/// All hops have one clock here: every offset is 0, within its error, and that one is small.
fn compare_clocks(truth: &Truth, report: &Report, hops: &[String]) -> Faults {
    let mut faults = Vec::new();
    for hop in hops {
        let Some(clock) = report.clock(hop) else {
            // Of one direction alone no offset can be told.
            if truth.conversations.iter().any(|it| it.is_both_ways(hop)) {
                faults.push(format!("{hop}: no clock"));
            }
            continue;
        };
        if clock.offset_ns.abs() > clock.error_ns {
            faults.push(format!("{hop}: {clock:?}, truth 0"));
        }
        if clock.reference != *hop
            && let Some(round_trip_ms) = smallest_round_trip(truth, &clock.reference, hop)
            && round_trip_ms >= ROUND_TRIP_LEAST_MS
            && clock
                .error_ns
                .partial_cmp(&(round_trip_ms * 1e6 * ERROR_SHARE_MAX))
                != Some(std::cmp::Ordering::Less)
        {
            faults.push(format!(
                "{hop}: {clock:?}, smallest round trip {round_trip_ms} ms"
            ));
        }
    }
    faults
}

/// From one hop to another and back, at the best; nothing where one of them saw one direction only.
pub(crate) fn smallest_round_trip(truth: &Truth, one: &str, other: &str) -> Option<f64> {
    let least = |enter: &str, leave: &str, direction: usize| {
        let way = truth.sum(enter, leave, direction);
        way.delay().map(|delay| delay.min)
    };
    // Whichever of them is nearer to the client: the other way round, delays are negative.
    let there = least(one, other, 0)?;
    let back = if there >= 0.0 {
        least(other, one, 1)?
    } else {
        least(one, other, 1)?
    };
    let there = if there >= 0.0 {
        there
    } else {
        least(other, one, 0)?
    };
    Some(there + back)
}
