use std::collections::BTreeSet;

use phalanx_engine::change::{ConversationClosed, ConversationOpened, PairUpdated};
use phalanx_engine::measure::{Counts, Measures};
use phalanx_engine::name::{NameBasis, Service};
use phalanx_engine::{
    ConversationId, Endpoint, Features, HopId, Monotonic, PairId, PairKey, RoleBasis, Sides,
};

use super::label::{CLIENT_SET_COUNT_MAX, IDLE_NS, SERVER_SET_COUNT_MAX};
use super::table::TABLE;
use super::*;

fn change(at: u64, kind: ChangeKind) -> Change {
    Change {
        sequence: 1,
        at: Monotonic(at),
        kind,
    }
}

fn opened(pair: u32, client: &str, server: &str) -> Change {
    opened_of(6, pair, client, server)
}

fn opened_of(protocol: u8, pair: u32, client: &str, server: &str) -> Change {
    let key = PairKey {
        client: client.into(),
        server: server.into(),
        port: 443,
        protocol,
    };
    change(
        1,
        ChangeKind::PairOpened {
            pair: PairId(pair),
            key: Arc::new(key),
        },
    )
}

fn sent(pair: u32, packets: u64, at: u64) -> Change {
    let client = Counts {
        packets,
        ..Counts::default()
    };
    let updated = PairUpdated {
        pair: PairId(pair),
        conversation: ConversationId(1),
        added: Sides {
            client,
            server: Counts::default(),
        },
        measures: Measures::default(),
    };
    change(at, ChangeKind::PairUpdated(Box::new(updated)))
}

/// The sum of the lines of a metric that contain all of `parts`.
fn sum(metrics: &Metrics, name: &str, parts: &[&str]) -> f64 {
    metrics
        .text()
        .unwrap()
        .lines()
        .filter(|line| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with(['{', ' ']))
        })
        .filter(|line| parts.iter().all(|part| line.contains(part)))
        .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
        .sum()
}

#[test]
fn hostile_label_values_are_escaped() {
    let metrics = Metrics::new().unwrap();
    let evil = "a\"} 1\nphalanx_packets_total{x=\"\\";
    metrics.fold(&[opened(1, evil, "b"), sent(1, 7, 2)]);
    let text = metrics.text().unwrap();
    let packets: Vec<_> = text
        .lines()
        .filter(|line| line.starts_with("phalanx_packets_total"))
        .collect();
    assert_eq!(packets.len(), 2, "{packets:?}");
    assert!(
        packets[0].contains(r#"client="a\"} 1\nphalanx_packets_total{x=\"\\""#),
        "{packets:?}"
    );
}

#[test]
fn what_overflows_is_counted_under_other_and_nothing_is_lost() {
    let metrics = Metrics::new().unwrap();
    let count = (CLIENT_SET_COUNT_MAX + SERVER_SET_COUNT_MAX + 100) as u32;
    for pair in 0..count {
        let (client, server) = (format!("c{pair}"), format!("s{pair}"));
        metrics.fold(&[opened(pair, &client, &server), sent(pair, 1, 2)]);
    }
    let name = "phalanx_packets_total";
    assert_eq!(sum(&metrics, name, &[]), f64::from(count));
    assert_eq!(
        sum(&metrics, name, &["client=\"other\"", "server=\"other\""]),
        100.0
    );
    assert_eq!(
        sum(&metrics, "phalanx_label_overflow_total", &["client"]),
        164.0
    );
    assert_eq!(
        sum(&metrics, "phalanx_label_overflow_total", &["server"]),
        100.0
    );
}

#[test]
fn an_idle_label_set_makes_room() {
    let metrics = Metrics::new().unwrap();
    for pair in 0..CLIENT_SET_COUNT_MAX as u32 {
        metrics.fold(&[opened(pair, &format!("c{pair}"), "s"), sent(pair, 1, 2)]);
    }
    metrics.fold(&[
        sent(1, 1, IDLE_NS),
        opened(9_999, "late", "s"),
        sent(9_999, 5, IDLE_NS + 9),
    ]);
    let name = "phalanx_packets_total";
    assert_eq!(
        sum(&metrics, name, &["client=\"late\"", "sender=\"client\""]),
        5.0
    );
    assert_eq!(sum(&metrics, name, &["client=\"c0\""]), 0.0);
    assert_eq!(
        sum(&metrics, name, &["client=\"c1\"", "sender=\"client\""]),
        2.0
    );
    // The pair that gave way speaks again: it takes the place of another idle one, from zero.
    metrics.fold(&[sent(0, 3, IDLE_NS + 10)]);
    assert_eq!(
        sum(&metrics, name, &["client=\"c0\"", "sender=\"client\""]),
        3.0
    );
    assert_eq!(sum(&metrics, name, &["client=\"other\""]), 0.0);
}

#[test]
fn series_of_tcp_stay_when_another_protocol_of_the_pair_gives_way() {
    let metrics = Metrics::new().unwrap();
    metrics.fold(&[opened_of(17, 0, "c", "s"), sent(0, 1, 2)]);
    for pair in 1..CLIENT_SET_COUNT_MAX as u32 {
        let client = if pair == 1 {
            "c".to_owned()
        } else {
            format!("c{pair}")
        };
        metrics.fold(&[opened(pair, &client, "s"), sent(pair, 1, IDLE_NS)]);
    }
    metrics.fold(&[opened(9_999, "late", "s"), sent(9_999, 5, IDLE_NS + 9)]);
    let text = metrics.text().unwrap();
    let has = |name: &str, labels: &str| {
        text.lines()
            .any(|line| line.starts_with(name) && line.contains(labels))
    };
    let pair = r#"client="c",port="443""#;
    assert!(!has(
        "phalanx_packets_total",
        &format!(r#"{pair},protocol="udp""#)
    ));
    assert!(has(
        "phalanx_packets_total",
        &format!(r#"{pair},protocol="tcp""#)
    ));
    assert!(has("phalanx_tcp_rtt_seconds_count", pair));
    assert!(has("phalanx_tcp_connect_failures_total", pair));
}

#[test]
fn the_series_of_an_interface_goes_with_its_last_flow() {
    let metrics = Metrics::new().unwrap();
    let hop = |id| {
        let hop = crate::api::fixture::hop(id, "veth0");
        change(1, ChangeKind::HopAppeared(Arc::new(hop)))
    };
    let vanished = |id| change(3, ChangeKind::HopVanished(HopId(id)));
    let closed = |id| {
        change(
            3,
            ChangeKind::FlowClosed(phalanx_engine::change::FlowClosed {
                flow: phalanx_engine::FlowId(1),
                hop: HopId(id),
                reason: phalanx_engine::change::CloseReason::HopVanished,
                opened: Monotonic(1),
                ended: Monotonic(3),
            }),
        )
    };
    let count = || {
        let text = metrics.text().unwrap();
        text.lines()
            .filter(|line| line.starts_with("phalanx_flows_open{"))
            .count()
    };
    metrics.fold(&[hop(1)]);
    metrics.fold.lock().unwrap().hops.flow_opened(HopId(1));
    assert_eq!(sum(&metrics, "phalanx_flows_open", &["veth0"]), 1.0);
    metrics.fold(&[vanished(1)]);
    assert_eq!(count(), 1, "its flow is open still");
    // It came again before that flow was closed.
    metrics.fold(&[hop(2), closed(1)]);
    assert_eq!(
        (count(), sum(&metrics, "phalanx_flows_open", &[])),
        (1, 0.0)
    );
    metrics.fold(&[vanished(2)]);
    assert_eq!(count(), 0);
}

fn ends() -> Sides<Endpoint> {
    let end = Endpoint {
        address: "10.0.0.1".parse().unwrap(),
        port: 1,
    };
    Sides {
        client: end,
        server: end,
    }
}

fn services() -> Sides<Arc<Service>> {
    let service = Arc::new(Service {
        name: "x".into(),
        basis: NameBasis::Address,
        host: None,
        site: None,
    });
    Sides {
        client: Arc::clone(&service),
        server: service,
    }
}

/// That conversation 1 is opened, and that it is closed, of a pair.
fn conversation(pair: u32) -> (Change, Change) {
    let opening = ConversationOpened {
        conversation: ConversationId(1),
        protocol: 6,
        endpoints: ends(),
        services: services(),
        role_basis: RoleBasis::Opener,
        pair: PairId(pair),
        opened: Monotonic(1),
        path: Vec::new(),
    };
    let closing = ConversationClosed {
        conversation: ConversationId(1),
        pair: PairId(pair),
        reason: phalanx_engine::change::CloseReason::Fin,
        opened: Monotonic(0),
        ended: Monotonic(2_000_000_000),
        path: Vec::new(),
        features: Features::default(),
    };
    (
        change(1, ChangeKind::ConversationOpened(Box::new(opening))),
        change(3, ChangeKind::ConversationClosed(Box::new(closing))),
    )
}

#[test]
fn open_conversations_move_with_their_pair() {
    let metrics = Metrics::new().unwrap();
    let (opening, _) = conversation(1);
    metrics.fold(&[opened(1, "old", "s"), opened(2, "new", "s"), opening]);
    let name = "phalanx_conversations_open";
    assert_eq!(sum(&metrics, name, &["client=\"old\""]), 1.0);
    let updated = phalanx_engine::change::ConversationUpdated {
        conversation: ConversationId(1),
        endpoints: ends(),
        services: services(),
        pair: PairId(2),
        path: Vec::new(),
        features: Features::default(),
    };
    metrics.fold(&[change(
        2,
        ChangeKind::ConversationUpdated(Box::new(updated)),
    )]);
    assert_eq!(sum(&metrics, name, &["client=\"old\""]), 0.0);
    assert_eq!(sum(&metrics, name, &["client=\"new\""]), 1.0);
    let (_, closing) = conversation(2);
    metrics.fold(&[closing]);
    assert_eq!(sum(&metrics, name, &[]), 0.0);
    let duration = "phalanx_tcp_connection_duration_seconds_sum";
    assert_eq!(sum(&metrics, duration, &["client=\"new\""]), 2.0);
}

/// Who scrapes while the past is taken in sees nothing of it; behind it the whole past, or, where a
/// part of it is missing, nothing but what is open.
#[test]
fn what_was_before_is_told_whole_or_not_at_all() {
    for is_whole in [true, false] {
        let metrics = Metrics::new().unwrap();
        let names = ["phalanx_packets_total", "phalanx_conversations_open"];
        let told = || names.map(|name| sum(&metrics, name, &[]));
        let is_told = || names.map(|name| metrics.text().unwrap().contains(name));
        metrics.replay(Replay::Begun);
        let (opening, _) = conversation(1);
        metrics.fold(&[opened(1, "a", "b"), opening, sent(1, 100, 1)]);
        assert_eq!(is_told(), [false; 2]);
        let text = metrics.text().unwrap();
        assert!(text.contains("phalanx_changes_total 3"), "{text}");
        assert!(!text.contains("client=\"a\""), "{text}");
        metrics.replay(Replay::Ended { is_whole });
        let before = if is_whole { 100.0 } else { 0.0 };
        assert_eq!(told(), [before, 1.0]);
        assert_eq!(is_told(), [true; 2]);
        metrics.fold(&[sent(1, 7, 2)]);
        assert_eq!(told(), [before + 7.0, 1.0]);
        let (_, closing) = conversation(1);
        metrics.fold(&[closing]);
        assert_eq!(told(), [before + 7.0, 0.0]);
    }
}

#[test]
fn the_table_has_each_name_once_and_follows_the_conventions() {
    let names: BTreeSet<_> = TABLE.iter().map(|definition| definition.name).collect();
    assert_eq!(names.len(), TABLE.len());
    for definition in TABLE {
        let is_total = definition.name.ends_with("_total");
        assert_eq!(
            is_total,
            definition.kind == table::Kind::Counter,
            "{}",
            definition.name
        );
        assert!(definition.help.ends_with('.'), "{}", definition.name);
    }
}
