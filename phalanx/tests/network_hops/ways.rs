//! Ways side by side: the packets of one conversation go over one router or another.

use std::collections::BTreeMap;

use phalanx_range::Impairment;

use crate::judge;
use crate::scenario::{Crossing, FIRST_MS, SEGMENTS, Scenario, faulty};
use crate::stage::{Evidence, Place};
use crate::told::{self, Report, Way};

/// client, near, then up or down, far, server. What the client sends goes where `choice` says, and
/// comes back over `up`.
fn fork(choice: &str) -> String {
    format!(
        "
nodes:
  - {{ name: client }}
  - name: near
    kind: router
    routes: [{{ to: 10.66.9.0/24, via: 10.66.2.2 }}]
    run: [ip rule add fwmark 1 lookup 100, ip route add 10.66.9.0/24 via 10.66.5.2 table 100]
    nft: 'table ip own {{ chain pre {{ type filter hook prerouting priority mangle;
      iifname \"to-client\" meta l4proto tcp meta mark set {choice}; }}; }}'
  - {{ name: up, kind: router, routes: [{{ to: 10.66.9.0/24, via: 10.66.3.2 }}] }}
  - {{ name: down, kind: router, routes: [{{ to: 10.66.9.0/24, via: 10.66.6.2 }}] }}
  - {{ name: far, kind: router, routes: [{{ to: 10.66.1.0/24, via: 10.66.3.1 }}] }}
  - {{ name: server }}
links:
  - a: {{ node: client, addresses: [10.66.1.1/24], {SEGMENTS} }}
    b: {{ node: near, addresses: [10.66.1.2/24], {SEGMENTS} }}
  - name: upper
    kind: emulated
    a: {{ node: near, interface: upper0, addresses: [10.66.2.1/24] }}
    b: {{ node: up, addresses: [10.66.2.2/24] }}
  - name: lower
    kind: emulated
    a: {{ node: near, interface: lower0, addresses: [10.66.5.1/24] }}
    b: {{ node: down, addresses: [10.66.5.2/24] }}
  - a: {{ node: up, addresses: [10.66.3.1/24], {SEGMENTS} }}
    b: {{ node: far, addresses: [10.66.3.2/24], {SEGMENTS} }}
  - a: {{ node: down, addresses: [10.66.6.1/24], {SEGMENTS} }}
    b: {{ node: far, addresses: [10.66.6.2/24], {SEGMENTS} }}
  - a: {{ node: far, addresses: [10.66.9.1/24], {SEGMENTS} }}
    b: {{ node: server, addresses: [10.66.9.2/24], {SEGMENTS} }}
"
    )
}

/// One packet up, the next one down.
const IN_TURN: &str = "numgen inc mod 2";
const UP: &str = "0";

const CLIENT: Place = ("client", "client", "to-near");
const UPPER: Place = ("upper", "near", "upper0");
const LOWER: Place = ("lower", "near", "lower0");
const ROUTER_UP: Place = ("up", "up", "to-far");
const ROUTER_DOWN: Place = ("down", "down", "to-far");
const SERVER: Place = ("server", "server", "to-far");

const LOWER_MS: f64 = 12.0;

fn scenario(name: &'static str, choice: &str, places: &[Place]) -> Scenario {
    let cross = |link, link_way, direction, enter, leave| Crossing {
        link,
        link_way,
        direction,
        enter,
        leave,
    };
    Scenario {
        path: places.iter().map(|it| it.0).collect(),
        return_path: vec!["server", "up", "upper", "client"],
        impairments: vec![
            ("upper", [faulty(FIRST_MS), Impairment::delay(FIRST_MS)]),
            ("lower", [faulty(LOWER_MS), Impairment::delay(LOWER_MS)]),
        ],
        crossings: vec![
            cross("upper", 0, 0, "upper", "up"),
            cross("upper", 1, 1, "up", "upper"),
            cross("lower", 0, 0, "lower", "down"),
        ],
        legs: vec![
            ("upper", "up", 0),
            ("lower", "down", 0),
            ("server", "up", 1),
            ("up", "upper", 1),
            ("upper", "client", 1),
        ],
        round_trips: vec![("upper", "up", 2.0 * FIRST_MS)],
        places: places.to_vec(),
        ..Scenario::along(name, fork(choice), &[CLIENT, ROUTER_UP, SERVER])
    }
}

/// Captures on all interfaces of the router where ways part: each leg is exact.
#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn ways_in_turn() {
    let places = [CLIENT, UPPER, ROUTER_UP, LOWER, ROUTER_DOWN, SERVER];
    let mut scenario = scenario("turns", IN_TURN, &places);
    // Both links are busy at once, and their round trips are measured.
    scenario.connections = 3;
    let evidence = scenario.run();
    assert_eq!(judge::judge(&scenario, &evidence), [""; 0]);
    // Nothing is lost before the ways part and where they have met again.
    let report = told_of(&evidence);
    let onward = |from: &str, to: &str| {
        let way = sum(&report, from, to);
        assert_eq!((way.lost, way.lost_here_or_beside), (0, 0), "{from} {to}");
        way.packets
    };
    for (first, router) in [("upper", "up"), ("lower", "down")] {
        let entered = onward("client", first);
        assert_eq!(entered, sum(&report, first, router).packets);
        assert!(onward(router, "server") > 0);
    }
    for (from, to) in [("upper", "lower"), ("up", "lower"), ("up", "down")] {
        assert_eq!(sum(&report, from, to).packets, 0, "{from} {to}");
    }
}

/// What the forward legs between two hops say, all conversations together.
fn sum(report: &Report, from: &str, to: &str) -> Way {
    // Routers tell their neighbours of themselves as well.
    let them = report
        .conversations
        .iter()
        .filter(|it| it.protocol == "tcp");
    let ways = them.flat_map(told::Conversation::ways);
    let mut sum = Way::default();
    for (.., way) in ways.filter(|it| (it.0, it.1, it.2) == (from, to, 0)) {
        sum.packets += way.packets;
        sum.lost += way.lost;
        sum.lost_here_or_beside += way.lost_here_or_beside;
        sum.unresolved_here_or_beside += way.unresolved_here_or_beside;
    }
    sum
}

/// Captures that leave out where ways part.
const AROUND: [Place; 4] = [CLIENT, ROUTER_UP, ROUTER_DOWN, SERVER];

fn told_of(evidence: &Evidence) -> Report {
    let files = evidence.files();
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    told::report(&evidence.captures.0, &files)
}

/// What the two links in front of the routers lost.
fn lost(evidence: &Evidence) -> BTreeMap<&str, u64> {
    let lost = |link: &'static str| {
        let counted = &evidence.links[&(link.to_owned(), 0)];
        (link, counted.dropped)
    };
    ["upper", "lower"].map(lost).into()
}

/// Nothing tells on which of two links a packet was lost that was seen before both alone: the sum
/// is exact, and neither is blamed.
#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn losses_where_ways_part() {
    let evidence = scenario("parting", IN_TURN, &AROUND).run();
    let report = told_of(&evidence);
    let lost = lost(&evidence);
    let all = lost["upper"] + lost["lower"];
    assert!(all > 10, "{lost:?}");
    for router in ["up", "down"] {
        let first = sum(&report, "client", router);
        println!("client to {router}: {first:?}; the links lost {lost:?}");
        assert_eq!(
            (first.lost, first.lost_here_or_beside),
            (0, all),
            "{router}"
        );
        assert_eq!(sum(&report, router, "server").lost, 0);
    }
    assert_eq!(sum(&report, "up", "down").packets, 0);
}

/// The route changes half-way: what is lost goes to the link that was in use, but for what is lost
/// right beside the change.
#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn a_route_that_changes() {
    let mut scenario = scenario("change", UP, &AROUND);
    scenario.rounds.extend(scenario.rounds.clone());
    let half = scenario.rounds.len() / 2;
    let evidence = scenario.run_with(&|stage, round| {
        if round == half {
            let near = stage.range.host("near").unwrap();
            near.exec(&["ip", "route", "replace", "10.66.9.0/24", "via", "10.66.5.2"])
                .unwrap();
        }
    });
    let report = told_of(&evidence);
    let lost = lost(&evidence);
    let ways = [("upper", "up"), ("lower", "down")];
    let told = ways.map(|(link, router)| (lost[link], sum(&report, "client", router)));
    println!("lost and told: {told:?}");
    let [(_, up), (_, down)] = told;
    assert_eq!(up.lost_here_or_beside, down.lost_here_or_beside);
    // A router that saw nothing yet may as well not have been watching.
    let either = up.lost_here_or_beside + up.unresolved_here_or_beside;
    let all = up.lost + down.lost + either;
    assert_eq!(all, lost["upper"] + lost["lower"]);
    assert!(either * 5 <= all, "a fifth is not told");
    for (link, way) in told {
        assert!(link > 10 && way.lost <= link, "{link} {way:?}");
    }
}
