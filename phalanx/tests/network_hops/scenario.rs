//! Paths with known faults, and what goes over them.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use phalanx_range::Impairment;

use crate::judge;
use crate::stage::{Evidence, Place, Stage};
use crate::talk::{Round, Talk};

/// A path, what it does, and what is said.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) topology: String,
    /// The hops, those of the path first.
    pub(crate) places: Vec<Place>,
    pub(crate) path: Vec<&'static str>,
    /// From the server on.
    pub(crate) return_path: Vec<&'static str>,
    pub(crate) impairments: Vec<(&'static str, [Impairment; 2])>,
    pub(crate) crossings: Vec<Crossing>,
    /// Enter, leave, and 0 for what goes towards the server; empty: the neighbours of both ways.
    pub(crate) legs: Vec<(&'static str, &'static str, usize)>,
    /// From, to, and twice the delay in milliseconds.
    pub(crate) round_trips: Vec<(&'static str, &'static str, f64)>,
    /// From, to, field.
    pub(crate) rewrites: Vec<(&'static str, &'static str, &'static str)>,
    pub(crate) target: Option<SocketAddr>,
    pub(crate) connections: usize,
    pub(crate) rounds: Vec<Round>,
    /// A round is over before the captures begin, and the connections outlive them.
    pub(crate) is_midstream: bool,
}

/// An emulated link that lies between two hops.
pub(crate) struct Crossing {
    pub(crate) link: &'static str,
    /// 0 for what goes from its end `a` to its end `b`.
    pub(crate) link_way: usize,
    /// 0 for what goes towards the server.
    pub(crate) direction: usize,
    pub(crate) enter: &'static str,
    pub(crate) leave: &'static str,
}

const PORT: u16 = 8_080;
/// What stands for the server where its address is translated.
const SHOWN_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
const SHOWN_PORT: u16 = 80;

/// Of each link in milliseconds, one way.
pub(crate) const FIRST_MS: f64 = 5.0;
const SECOND_MS: f64 = 12.0;

pub(crate) const SEGMENTS: &str =
    "offload: { tso: false, gso: false, gro: false, tx_checksum: false }";

/// client, near, left = first = right, middle = second = far, server: six places to capture.
fn chain(client_offload: &str, near: &str, far: &str) -> String {
    format!(
        "
nodes:
  - {{ name: client }}
  - {{ name: near, kind: router{near} }}
  - {{ name: left, kind: router }}
  - {{ name: right, kind: router }}
  - {{ name: far, kind: router{far} }}
  - {{ name: server }}
links:
  - {{ a: {{ node: client, {client_offload} }}, b: {{ node: near, {SEGMENTS} }} }}
  - {{ name: first, kind: emulated, a: {{ node: near, interface: first0 }}, b: {{ node: left }} }}
  - {{ a: {{ node: left, {SEGMENTS} }}, b: {{ node: right, {SEGMENTS} }} }}
  - {{ name: second, kind: emulated, a: {{ node: right, interface: second0 }}, b: {{ node: far }} }}
  - {{ a: {{ node: far, {SEGMENTS} }}, b: {{ node: server, {SEGMENTS} }} }}
"
    )
}

const CLIENT: Place = ("client", "client", "to-near");
const LEFT: Place = ("left", "left", "to-right");
const SERVER: Place = ("server", "server", "to-far");
const THREE: [Place; 3] = [CLIENT, LEFT, SERVER];
const SIX: [Place; 6] = [
    CLIENT,
    ("near", "near", "first0"),
    LEFT,
    ("right", "right", "second0"),
    ("far", "far", "to-server"),
    SERVER,
];

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// Small requests with pauses, then larger ones both ways.
fn rounds() -> Vec<Round> {
    vec![
        Round {
            exchanges: 40,
            request_bytes: 300,
            response_bytes: 900,
            pause: ms(5),
        },
        Round {
            exchanges: 4,
            request_bytes: 150_000,
            response_bytes: 2_000,
            pause: ms(0),
        },
        Round {
            exchanges: 4,
            request_bytes: 500,
            response_bytes: 150_000,
            pause: ms(0),
        },
    ]
}

/// Loses, lets overtake and copies, on top of its delay.
pub(crate) fn faulty(delay_ms: f64) -> Impairment {
    Impairment {
        loss: 0.01,
        reorder: 0.01,
        reorder_extra_ms: 2.0,
        duplicate: 0.01,
        ..Impairment::delay(delay_ms)
    }
}

impl Scenario {
    /// Along the chain, with the second link at fault.
    pub(crate) fn along(name: &'static str, topology: String, places: &[Place]) -> Self {
        let hops: Vec<&'static str> = places.iter().map(|place| place.0).collect();
        let cross = |link, enter: usize, leave: usize| {
            let ways = [(0, hops[enter], hops[leave]), (1, hops[leave], hops[enter])];
            ways.map(|(direction, enter, leave)| Crossing {
                link,
                link_way: direction,
                direction,
                enter,
                leave,
            })
        };
        let (first, second) = match hops.len() {
            3 => ((0, 1), (1, 2)),
            _ => ((1, 2), (3, 4)),
        };
        let crossings = cross("first", first.0, first.1)
            .into_iter()
            .chain(cross("second", second.0, second.1));
        Self {
            name,
            topology,
            places: places.to_vec(),
            crossings: crossings.collect(),
            legs: Vec::new(),
            impairments: vec![
                ("first", [Impairment::delay(FIRST_MS); 2]),
                ("second", [faulty(SECOND_MS); 2]),
            ],
            round_trips: vec![
                (hops[first.0], hops[first.1], 2.0 * FIRST_MS),
                (hops[second.0], hops[second.1], 2.0 * SECOND_MS),
            ],
            return_path: hops.iter().rev().copied().collect(),
            path: hops,
            rewrites: Vec::new(),
            target: None,
            connections: 6,
            rounds: rounds(),
            is_midstream: false,
        }
    }

    /// What packets enter and leave, hop by hop: enter, leave, direction.
    pub(crate) fn legs(&self) -> Vec<(&'static str, &'static str, usize)> {
        if !self.legs.is_empty() {
            return self.legs.clone();
        }
        let ways = [&self.path, &self.return_path];
        let legs = ways.into_iter().enumerate().flat_map(|(direction, path)| {
            path.windows(2)
                .map(move |pair| (pair[0], pair[1], direction))
        });
        legs.collect()
    }

    pub(crate) fn run(&self) -> Evidence {
        self.run_with(&|_, _| {})
    }

    /// The same; `before` is told of each round before it begins.
    pub(crate) fn run_with(&self, before: &dyn Fn(&Stage, usize)) -> Evidence {
        let stage = Stage::new(self.name, &self.topology);
        for (link, impairments) in &self.impairments {
            stage.impair(link, *impairments);
        }
        let open = |stage: &Stage| {
            let (client, server) = ["client", "server"]
                .map(|it| stage.range.host(it).unwrap())
                .into();
            let own = SocketAddr::new(server.ipv4().unwrap().into(), PORT);
            let target = self.target.unwrap_or(own);
            Talk::open((client, target), (server, PORT), self.connections)
        };
        let mut early = None;
        if self.is_midstream {
            let talk = open(&stage);
            talk.round(self.rounds[0]);
            early = Some(talk);
        }
        let mut late = None;
        let evidence = stage.record(&self.places, |stage| {
            let is_early = early.is_some();
            let talk = early.take().unwrap_or_else(|| open(stage));
            for (number, round) in self.rounds.iter().enumerate() {
                before(stage, number);
                talk.round(*round);
            }
            if is_early {
                late = Some(talk);
            } else {
                talk.close();
            }
        });
        // The range is gone: nobody answers any more.
        drop(late);
        evidence
    }

    pub(crate) fn check(&self) {
        let evidence = self.run();
        let faults = judge::judge(self, &evidence);
        assert!(
            faults.is_empty(),
            "{}: {} faults: {faults:#?}",
            self.name,
            faults.len()
        );
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn three_hops() {
    Scenario::along("three", chain(SEGMENTS, "", ""), &THREE).check();
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn six_hops() {
    Scenario::along("six", chain(SEGMENTS, "", ""), &SIX).check();
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn faults_on_the_first_link() {
    let mut scenario = Scenario::along("first", chain(SEGMENTS, "", ""), &SIX);
    scenario.impairments = vec![
        ("first", [faulty(FIRST_MS), faulty(FIRST_MS)]),
        ("second", [Impairment::delay(SECOND_MS); 2]),
    ];
    scenario.check();
}

/// Masquerading with ports of its own.
const MASQUERADE: &str = r#", nft: "table ip own { chain post {
    type nat hook postrouting priority srcnat;
    oifname \"first0\" meta l4proto tcp masquerade to :20000-29999; }; }""#;

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn one_translation() {
    let mut scenario = Scenario::along("masquerade", chain(SEGMENTS, MASQUERADE, ""), &THREE);
    scenario.rewrites = vec![
        ("client", "left", "client_address"),
        ("client", "left", "client_port"),
    ];
    scenario.check();
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn two_translations() {
    let rule =
        format!(r#"verdict: dnat, protocol: tcp, port: {SHOWN_PORT}, to: "10.77.5.2:{PORT}""#);
    let far = format!(", addresses: [{SHOWN_ADDRESS}/32], firewall: [{{ {rule} }}]");
    let mut scenario = Scenario::along("translations", chain(SEGMENTS, MASQUERADE, &far), &SIX);
    scenario.target = Some((SHOWN_ADDRESS, SHOWN_PORT).into());
    scenario.rewrites = vec![
        ("client", "near", "client_address"),
        ("client", "near", "client_port"),
        ("right", "far", "server_address"),
        ("right", "far", "server_port"),
    ];
    scenario.check();
}

/// Towards the server over one router, and back over another one.
fn ring() -> String {
    format!(
        "
nodes:
  - {{ name: client }}
  - {{ name: near, kind: router, routes: [{{ to: 10.66.9.0/24, via: 10.66.2.2 }}] }}
  - {{ name: up, kind: router, routes: [{{ to: 10.66.9.0/24, via: 10.66.3.2 }}] }}
  - {{ name: down, kind: router, routes: [{{ to: 10.66.1.0/24, via: 10.66.5.2 }}] }}
  - {{ name: far, kind: router, routes: [{{ to: 10.66.1.0/24, via: 10.66.4.2 }}] }}
  - {{ name: server }}
links:
  - a: {{ node: client, addresses: [10.66.1.1/24], {SEGMENTS} }}
    b: {{ node: near, addresses: [10.66.1.2/24], {SEGMENTS} }}
  - a: {{ node: near, addresses: [10.66.2.1/24], {SEGMENTS} }}
    b: {{ node: up, addresses: [10.66.2.2/24], {SEGMENTS} }}
  - name: there
    kind: emulated
    a: {{ node: up, addresses: [10.66.3.1/24] }}
    b: {{ node: far, addresses: [10.66.3.2/24] }}
  - a: {{ node: far, addresses: [10.66.4.1/24], {SEGMENTS} }}
    b: {{ node: down, addresses: [10.66.4.2/24], {SEGMENTS} }}
  - name: back
    kind: emulated
    a: {{ node: down, addresses: [10.66.5.1/24] }}
    b: {{ node: near, addresses: [10.66.5.2/24] }}
  - a: {{ node: far, addresses: [10.66.9.1/24], {SEGMENTS} }}
    b: {{ node: server, addresses: [10.66.9.2/24], {SEGMENTS} }}
"
    )
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn another_way_back() {
    let cross = |link, direction, enter, leave| Crossing {
        link,
        link_way: 0,
        direction,
        enter,
        leave,
    };
    let scenario = Scenario {
        places: vec![
            ("client", "client", "to-near"),
            ("up", "up", "to-near"),
            ("server", "server", "to-far"),
            ("down", "down", "to-far"),
        ],
        path: vec!["client", "up", "server"],
        return_path: vec!["server", "down", "client"],
        impairments: vec![
            ("there", [faulty(SECOND_MS), Impairment::default()]),
            ("back", [faulty(FIRST_MS), Impairment::default()]),
        ],
        crossings: vec![
            cross("there", 0, "up", "server"),
            cross("back", 1, "down", "client"),
        ],
        round_trips: Vec::new(),
        ..Scenario::along("ring", ring(), &THREE)
    };
    scenario.check();
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn segmentation_after_the_capture() {
    Scenario::along(
        "offload",
        chain("offload: { tso: true, gso: true }", "", ""),
        &THREE,
    )
    .check();
}

/// Both ways, as routers do it.
const CLAMP: &str = r#", nft: "table ip own { chain pass {
    type filter hook forward priority mangle;
    tcp flags syn tcp option maxseg size set 1200; }; }""#;

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn clamped_segment_size() {
    let mut scenario = Scenario::along("clamp", chain(SEGMENTS, CLAMP, ""), &THREE);
    scenario.rewrites = vec![("client", "left", "mss")];
    scenario.check();
}

/// What had begun before the captures did.
pub(crate) fn midstream(name: &'static str, client_offload: &str) -> Scenario {
    let mut scenario = Scenario::along(name, chain(client_offload, "", ""), &THREE);
    scenario.is_midstream = true;
    scenario
}

#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn begun_before_the_captures() {
    midstream("midstream", SEGMENTS).check();
}

/// Many at once, over a lossy path.
#[test]
#[ignore = "needs root: run by cargo xtask test --ring network"]
fn fifty_at_once() {
    let mut scenario = Scenario::along("fifty", chain(SEGMENTS, MASQUERADE, ""), &SIX);
    scenario.connections = 50;
    scenario.rounds.truncate(1);
    scenario.rewrites = vec![
        ("client", "near", "client_address"),
        ("client", "near", "client_port"),
    ];
    scenario.check();
}

/// For clocks: a minute of small requests, and delays that vary.
pub(crate) fn steady() -> Scenario {
    let mut scenario = Scenario::along("steady", chain(SEGMENTS, "", ""), &THREE);
    let vary = |delay_ms| Impairment {
        jitter_ms: 1.0,
        ..Impairment::delay(delay_ms)
    };
    scenario.impairments = vec![
        ("first", [vary(3.0), vary(5.0)]),
        ("second", [vary(8.0), vary(6.0)]),
    ];
    scenario.round_trips = vec![("client", "left", 8.0), ("left", "server", 14.0)];
    scenario.connections = 3;
    scenario.rounds = vec![Round {
        exchanges: 2_200,
        request_bytes: 200,
        response_bytes: 400,
        pause: ms(4),
    }];
    scenario
}

/// Everything at once: segmentation after the capture, no beginning, other delays there than back.
pub(crate) fn everything() -> Scenario {
    let mut scenario = midstream("everything", "offload: { tso: true, gso: true }");
    scenario.impairments = vec![
        ("first", [Impairment::delay(3.0), Impairment::delay(9.0)]),
        ("second", [faulty(11.0), faulty(4.0)]),
    ];
    scenario.round_trips = vec![("client", "left", 12.0), ("left", "server", 15.0)];
    scenario.rounds.push(Round {
        exchanges: 300,
        request_bytes: 200,
        response_bytes: 400,
        pause: ms(5),
    });
    scenario
}
