//! Scripts of inputs, and the changes they make.

use std::fmt::Write as _;
use std::sync::Arc;

use phalanx_common::abi::{
    Attempt, Direction, FlowKey, FlowUpdate, Sample, SampleKind, attempt_outcome, event_kind,
    update_reason,
};

use crate::change::{Change, ChangeKind};
use crate::fixture::{half, hop, key, update};
use crate::measure::Counts;
use crate::name::{NameFact, NamesFile, Owner, Socket};
use crate::{Command, Engine, EngineConfig, HopId, Input, Monotonic, NamespaceId};

const SECOND: u64 = 1_000_000_000;

/// An engine and the story of what it decided.
struct Stage {
    engine: Engine,
    story: String,
}

impl Stage {
    fn new() -> Self {
        let mut stage = Self {
            engine: Engine::new(EngineConfig::default()),
            story: String::new(),
        };
        for (id, interface) in [(1, "eth0"), (2, "veth7")] {
            stage.handle(Input::HopAppeared(hop(id, interface)), 0);
        }
        stage.story.clear();
        stage
    }

    fn handle(&mut self, input: Input<'_>, second: u64) {
        self.engine.handle(input, Monotonic(second * SECOND));
        self.drain();
    }

    /// Serves all deadlines up to a time; answers no command.
    fn pass(&mut self, second: u64) {
        let now = Monotonic(second * SECOND);
        while self
            .engine
            .deadline()
            .is_some_and(|deadline| deadline <= now)
        {
            self.engine.handle_deadline(now);
            self.drain();
        }
    }

    fn drain(&mut self) {
        for change in self.engine.changes() {
            writeln!(self.story, "{}", line(&change)).unwrap();
        }
        for command in self.engine.commands() {
            let (verb, hop, incarnation) = match command {
                Command::ReadAndDelete {
                    hop, incarnation, ..
                } => ("read", hop, incarnation),
                Command::Delete {
                    hop, incarnation, ..
                } => ("delete", hop, incarnation),
            };
            writeln!(
                self.story,
                "      ! {verb} hop {} incarnation {incarnation}",
                hop.0
            )
            .unwrap();
        }
    }
}

fn counts(counts: &Counts) -> String {
    let values = Counts::NAMES.iter().zip(counts.values());
    let set = values.filter(|(_, value)| *value > 0);
    set.map(|(name, value)| format!("{name}={value}"))
        .collect::<Vec<_>>()
        .join(" ")
}

/// One change in one line; what is at its default is left out.
fn line(change: &Change) -> String {
    let head = format!("{:>3} {}s", change.sequence, change.at.0 / SECOND);
    let tail = match &change.kind {
        ChangeKind::FlowOpened(opened) => format!(
            "flow {} opened at hop {} in conversation {}: {:?}:{} to {:?}:{}, {:?}",
            opened.flow.0,
            opened.hop.0,
            opened.conversation.0,
            opened.endpoints.client.address,
            opened.endpoints.client.port,
            opened.endpoints.server.address,
            opened.endpoints.server.port,
            opened.role_basis,
        ),
        ChangeKind::FlowUpdated(updated) => format!(
            "flow {} client [{}] server [{}] {:?} lost {}",
            updated.flow.0,
            counts(&updated.added.client),
            counts(&updated.added.server),
            updated.measures,
            updated.lost_updates,
        ),
        ChangeKind::ConversationOpened(opened) => format!(
            "conversation {} opened: {} to {}, pair {}",
            opened.conversation.0,
            opened.services.client.name,
            opened.services.server.name,
            opened.pair.0,
        ),
        ChangeKind::ConversationUpdated(updated) => format!(
            "conversation {} is {} to {}, pair {}, path {:?}",
            updated.conversation.0,
            updated.services.client.name,
            updated.services.server.name,
            updated.pair.0,
            updated.path,
        ),
        ChangeKind::ConversationClosed(closed) => {
            let names = crate::Features::NAMES.iter().zip(closed.features.values());
            let set = names.filter_map(|(name, value)| Some(format!("{name}={:.3}", value?)));
            let set = set
                .filter(|text| !text.ends_with("=0.000"))
                .collect::<Vec<_>>()
                .join(" ");
            format!(
                "conversation {} closed {:?}: {set}",
                closed.conversation.0, closed.reason
            )
        }
        ChangeKind::PairUpdated(updated) => format!(
            "pair {} client [{}] server [{}] {:?}",
            updated.pair.0,
            counts(&updated.added.client),
            counts(&updated.added.server),
            updated.measures,
        ),
        ChangeKind::PairMeasured(measured) => {
            let summary = &measured.summary;
            format!(
                "pair {} has {} open of {}, {} failed, rtt server {:?}, think {:?}",
                measured.pair.0,
                summary.conversations_open,
                summary.conversations_opened,
                summary.attempts_failed,
                summary.rtt.server,
                summary.think,
            )
        }
        other => format!("{other:?}"),
    };
    format!("{head} {tail}")
}

fn sample(kind: SampleKind, microseconds: u32) -> Sample {
    Sample { kind, microseconds }
}

fn with_samples(version: u32, samples: &[Sample]) -> FlowUpdate {
    let mut update = update(version);
    samples.iter().for_each(|it| update.push_sample(*it));
    update
}

fn attempt(key: FlowKey, outcome: u32, second: u64) -> Attempt {
    Attempt {
        kind: event_kind::ATTEMPT,
        outcome,
        key,
        initiator: 1,
        now_ns: second * SECOND,
        answer_us: if outcome == attempt_outcome::STARTED {
            0
        } else {
            400
        },
        icmp_error: if outcome == attempt_outcome::ICMP_ERROR {
            0x030d
        } else {
            0
        },
    }
}

#[test]
fn a_connection_seen_at_two_hops_is_counted_once() {
    let mut stage = Stage::new();
    let mut first = update(1);
    first.reason = update_reason::OPENED;
    first.handshake_server_us = 40_000;
    first.handshake_client_us = 100;
    let asked = sample(SampleKind::Turn(Direction::FromHigh), 65_000);
    let acknowledged = sample(SampleKind::Rtt(Direction::FromLow), 41_000);
    let mut second = with_samples(2, &[acknowledged, asked]);
    second.halves[0].rtt_min_us = 41_000;
    let mut last = update(4);
    last.reason = update_reason::CLOSED;
    for hop in [HopId(1), HopId(2)] {
        stage.handle(
            Input::Update {
                hop,
                update: &first,
            },
            1,
        );
        stage.handle(
            Input::Update {
                hop,
                update: &second,
            },
            2,
        );
    }
    for hop in [HopId(1), HopId(2)] {
        stage.handle(Input::Update { hop, update: &last }, 4);
    }
    stage.pass(9);
    let (hop, mut read) = (HopId(1), update(5));
    read.reason = update_reason::EXPIRED;
    stage.handle(Input::FlowRead { hop, update: &read }, 9);
    let gone = Input::FlowGone {
        hop: HopId(2),
        key: read.key,
        incarnation: 1,
    };
    stage.handle(gone, 9);
    stage.handle(
        Input::Update {
            hop,
            update: &update(6),
        },
        10,
    );
    stage.pass(20);
    // One last time, when the quantiles have passed.
    stage.pass(140);
    insta::assert_snapshot!(stage.story);
    let tally = stage.engine.tally();
    assert_eq!((tally.updates_lost, tally.updates_after_close), (2, 1));
    assert_eq!(stage.engine.occupancy().flows, 0);
    assert_eq!(stage.engine.deadline(), None);
}

#[test]
fn attempts_fail_once_each_with_their_reason() {
    let mut stage = Stage::new();
    let keys: Vec<_> = (1..=4)
        .map(|port| key([10, 0, 0, 1], port, [10, 0, 0, 2], 80, 6))
        .collect();
    for hop in [HopId(1), HopId(2)] {
        for key in &keys {
            let attempt = attempt(*key, attempt_outcome::STARTED, 1);
            stage.handle(
                Input::Attempt {
                    hop,
                    attempt: &attempt,
                },
                1,
            );
        }
    }
    for hop in [HopId(2), HopId(1)] {
        for (key, outcome) in [
            (keys[0], attempt_outcome::REFUSED),
            (keys[1], attempt_outcome::ICMP_ERROR),
        ] {
            stage.handle(
                Input::Attempt {
                    hop,
                    attempt: &attempt(key, outcome, 2),
                },
                2,
            );
        }
    }
    // The third one opens, the fourth one is opened by the kernel because its SYNs go on.
    let mut opened = update(1);
    opened.key = keys[2];
    stage.handle(
        Input::Update {
            hop: HopId(1),
            update: &opened,
        },
        3,
    );
    let mut one_way = update(1);
    one_way.key = keys[3];
    one_way.halves[1] = half(0, 0);
    stage.handle(
        Input::Update {
            hop: HopId(1),
            update: &one_way,
        },
        8,
    );
    stage.pass(11);
    stage.pass(12);
    insta::assert_snapshot!(stage.story);
    assert_eq!(stage.engine.occupancy().attempts, 0);
}

#[test]
fn a_name_that_comes_late_moves_the_conversation_to_its_pair() {
    let mut stage = Stage::new();
    let hop = HopId(1);
    stage.handle(
        Input::Update {
            hop,
            update: &update(1),
        },
        1,
    );
    let namespace = NamespaceId(7);
    let local = NameFact::AddressAdded {
        namespace,
        address: [10, 0, 0, 2].into(),
    };
    stage.handle(Input::Names(local), 1);
    let socket = Socket {
        protocol: 6,
        port: 80,
        address: None,
        namespace,
    };
    let owner = Owner {
        process: "nginx".into(),
        pid: 100,
        cgroup: "/system.slice/nginx.service".into(),
        container_name: None,
        is_listener: true,
    };
    stage.handle(Input::Names(NameFact::SocketOwned { socket, owner }), 2);
    stage.handle(
        Input::Update {
            hop,
            update: &update(2),
        },
        2,
    );
    stage.handle(Input::Names(NameFact::SocketClosed(socket)), 3);
    let text = "[[name]]\nprefix = \"10.0.0.1\"\nservice = \"shop\"\n";
    let file = NameFact::File(Arc::new(NamesFile::parse(text).unwrap()));
    stage.handle(Input::Names(file), 3);
    stage.handle(
        Input::Update {
            hop,
            update: &update(3),
        },
        3,
    );
    insta::assert_snapshot!(stage.story);
    assert_eq!(stage.engine.occupancy().pairs, 3);
}

#[test]
fn a_hop_that_vanishes_takes_its_flows_along() {
    let mut stage = Stage::new();
    for hop in [HopId(1), HopId(2)] {
        stage.handle(
            Input::Update {
                hop,
                update: &update(1),
            },
            1,
        );
    }
    stage.handle(Input::HopVanished(HopId(1)), 2);
    stage.pass(2);
    assert_eq!(stage.engine.occupancy().flows, 1);
    let deleted = stage.story.matches("! delete hop 1 incarnation").count();
    assert_eq!(deleted, 1, "{}", stage.story);
    stage.story.clear();
    // The flow that stays leads now, and goes on where the other one stood.
    stage.handle(
        Input::Update {
            hop: HopId(2),
            update: &update(3),
        },
        3,
    );
    insta::assert_snapshot!(stage.story);
}

#[test]
fn a_hop_that_came_late_goes_on_where_the_first_one_stood() {
    let mut stage = Stage::new();
    stage.handle(
        Input::Update {
            hop: HopId(1),
            update: &update(9),
        },
        9,
    );
    let late = |version: u32| {
        let now_ns = u64::from(version) * SECOND;
        let halves = [half(u64::from(version) - 8, now_ns); 2];
        FlowUpdate {
            initiator: 0,
            opened_ns: 8 * SECOND,
            halves,
            ..update(version)
        }
    };
    stage.handle(
        Input::Update {
            hop: HopId(2),
            update: &late(9),
        },
        9,
    );
    stage.handle(Input::HopVanished(HopId(1)), 9);
    stage.pass(9);
    stage.story.clear();
    stage.handle(
        Input::Update {
            hop: HopId(2),
            update: &late(12),
        },
        12,
    );
    assert!(
        stage
            .story
            .contains("pair 1 client [packets=3 bytes=300] server [packets=3 bytes=300]"),
        "{}",
        stage.story
    );
}

#[test]
fn a_tuple_used_again_is_another_conversation() {
    let mut stage = Stage::new();
    let hop = HopId(1);
    stage.handle(
        Input::Update {
            hop,
            update: &update(1),
        },
        1,
    );
    let mut last = update(2);
    last.reason = update_reason::REUSED;
    stage.handle(Input::Update { hop, update: &last }, 5);
    let mut next = update(1);
    next.incarnation = 2;
    next.opened_ns = 5 * SECOND;
    next.now_ns = 5 * SECOND;
    stage.handle(Input::Update { hop, update: &next }, 5);
    // One whose last update was lost.
    next.incarnation = 3;
    next.opened_ns = 9 * SECOND;
    next.now_ns = 9 * SECOND;
    stage.handle(Input::Update { hop, update: &next }, 9);
    // A late update of an old one changes nothing.
    next.incarnation = 2;
    next.opened_ns = 5 * SECOND;
    stage.handle(Input::Update { hop, update: &next }, 9);
    assert_eq!(stage.engine.tally().updates_after_close, 1);
    insta::assert_snapshot!(stage.story);
}

#[test]
fn udp_has_no_path_to_subtract() {
    let mut stage = Stage::new();
    let turn = sample(SampleKind::Turn(Direction::FromHigh), 20_000);
    let mut update = with_samples(1, &[turn]);
    update.key = key([10, 0, 0, 1], 40_000, [10, 0, 0, 2], 53, 17);
    update.initiator = 0;
    stage.engine.handle(
        Input::Update {
            hop: HopId(1),
            update: &update,
        },
        Monotonic(SECOND),
    );
    let measured = stage.engine.changes().find_map(|change| match change.kind {
        ChangeKind::FlowUpdated(updated) => updated.measures.first().copied(),
        _ => None,
    });
    let kind = crate::measure::MeasureKind::ThinkAndPath;
    assert_eq!(
        measured,
        Some(crate::measure::Measure {
            kind,
            microseconds: 20_000
        })
    );
    assert_eq!(
        stage.engine.deadline(),
        Some(Monotonic(6 * SECOND)),
        "the pair is told of first"
    );
    stage.pass(60);
    assert!(stage.story.ends_with("think None\n"), "{}", stage.story);
    stage.pass(61);
    assert!(
        stage.story.ends_with("read hop 1 incarnation 1\n"),
        "{}",
        stage.story
    );
    stage.pass(71);
    assert_eq!(stage.engine.tally().reads_unanswered, 1);
}
