//! Changes of the engine as the stream shows them.

mod traced;

use phalanx_engine::change::{
    AttemptFailed, AttemptFailure, ConversationClosed, ConversationOpened, ConversationTranslated,
    ConversationUpdated, FlowClosed, FlowOpened, FlowUpdated,
};
use phalanx_engine::measure::{Measure, MeasureKind, Measures};
use phalanx_engine::name::Service;
use phalanx_engine::{Change, ChangeKind, ConversationId, Endpoint, Hop, Side, Sides};
use serde_json::{Map, Value, json};

use super::conversations::{EndsView, measured};
use super::show::{self, EndpointView, QuantilesView, SentView};
use crate::clock::Clock;
use crate::view::protocol_name;

/// The kinds of change.
pub(super) const KINDS: [&str; 16] = [
    "hop_appeared",
    "hop_vanished",
    "flow_opened",
    "flow_updated",
    "flow_closed",
    "conversation_opened",
    "conversation_updated",
    "conversation_closed",
    "pair_opened",
    "pair_updated",
    "pair_measured",
    "pair_forgotten",
    "attempt_failed",
    "name_learned",
    "flow_traced",
    "conversation_translated",
];

/// The kind of a change as the stream spells it: one of [`KINDS`].
pub(super) const fn kind_name(kind: &ChangeKind) -> &'static str {
    KINDS[match kind {
        ChangeKind::HopAppeared(_) => 0,
        ChangeKind::HopVanished(_) => 1,
        ChangeKind::FlowOpened(_) => 2,
        ChangeKind::FlowUpdated(_) => 3,
        ChangeKind::FlowClosed(_) => 4,
        ChangeKind::ConversationOpened(_) => 5,
        ChangeKind::ConversationUpdated(_) => 6,
        ChangeKind::ConversationClosed(_) => 7,
        ChangeKind::PairOpened { .. } => 8,
        ChangeKind::PairUpdated(_) => 9,
        ChangeKind::PairMeasured(_) => 10,
        ChangeKind::PairForgotten(_) => 11,
        ChangeKind::AttemptFailed(_) => 12,
        ChangeKind::NameLearned { .. } => 13,
        ChangeKind::FlowTraced(_) => 14,
        ChangeKind::ConversationTranslated(_) => 15,
    }]
}

/// A change as a message of the stream.
pub(super) fn show(change: &Change, clock: &Clock) -> Value {
    let mut message = json!({
        "type": "change",
        "sequence": change.sequence,
        "at": show::time(clock, change.at),
        "kind": kind_name(&change.kind),
    });
    if let (Value::Object(message), Value::Object(body)) = (&mut message, body(&change.kind, clock))
    {
        message.extend(body);
    }
    message
}

fn body(kind: &ChangeKind, clock: &Clock) -> Value {
    match kind {
        ChangeKind::HopAppeared(hop) => hop_appeared(hop),
        ChangeKind::HopVanished(hop) => json!({"hop": hop.0.to_string()}),
        ChangeKind::FlowOpened(opened) => flow_opened(opened, clock),
        ChangeKind::FlowUpdated(updated) => flow_updated(updated),
        ChangeKind::FlowClosed(closed) => flow_closed(closed, clock),
        ChangeKind::ConversationOpened(opened) => conversation_opened(opened, clock),
        ChangeKind::ConversationUpdated(updated) => conversation_updated(updated),
        ChangeKind::ConversationClosed(closed) => conversation_closed(closed, clock),
        ChangeKind::PairOpened { pair, key } => json!({
            "pair": pair.0.to_string(), "client": *key.client, "server": *key.server,
            "port": key.port, "protocol": protocol_name(key.protocol),
        }),
        ChangeKind::PairUpdated(updated) => json!({
            "pair": updated.pair.0.to_string(),
            "conversation": updated.conversation.0.to_string(),
            "added": sides(&updated.added, |counts| json!(SentView::from(counts))),
            "measures": measures(&updated.measures),
        }),
        ChangeKind::PairMeasured(measured) => {
            let summary = &measured.summary;
            let times = |of: &Option<_>| json!(of.as_ref().map(QuantilesView::new));
            json!({
                "pair": measured.pair.0.to_string(),
                "conversations_open": summary.conversations_open,
                "conversations_opened": summary.conversations_opened,
                "attempts_failed": summary.attempts_failed,
                "rtt": sides(&summary.rtt, times),
                "handshake": sides(&summary.handshake, times),
                "think": times(&summary.think),
            })
        }
        ChangeKind::PairForgotten(pair) => json!({"pair": pair.0.to_string()}),
        ChangeKind::AttemptFailed(failed) => attempt_failed(failed, clock),
        ChangeKind::NameLearned {
            endpoint,
            name,
            basis,
        } => json!({
            "endpoint": EndpointView::new(*endpoint, None), "name": **name,
            "basis": show::basis_name(*basis),
        }),
        ChangeKind::FlowTraced(traced) => traced::show(traced, clock),
        ChangeKind::ConversationTranslated(translated) => conversation_translated(translated),
    }
}

fn hop_appeared(hop: &Hop) -> Value {
    json!({
        "hop": hop.id.0.to_string(), "host": *hop.host, "interface": *hop.interface,
        "ifindex": hop.ifindex, "namespace": hop.namespace_name.as_deref().unwrap_or("own"),
    })
}

fn flow_opened(opened: &FlowOpened, clock: &Clock) -> Value {
    json!({
        "flow": opened.flow.0.to_string(), "hop": opened.hop.0.to_string(),
        "conversation": opened.conversation.0.to_string(),
        "protocol": protocol_name(opened.key.protocol),
        "client": EndpointView::new(opened.endpoints.client, None),
        "server": EndpointView::new(opened.endpoints.server, None),
        "role_basis": show::role_name(opened.role_basis),
        "opened": show::time(clock, opened.opened),
    })
}

fn flow_updated(updated: &FlowUpdated) -> Value {
    json!({
        "flow": updated.flow.0.to_string(), "hop": updated.hop.0.to_string(),
        "totals": sides(&updated.totals, |half| json!(SentView::from(half))),
        "added": sides(&updated.added, |counts| json!(SentView::from(counts))),
        "measures": measures(&updated.measures), "lost_updates": updated.lost_updates,
    })
}

fn flow_closed(closed: &FlowClosed, clock: &Clock) -> Value {
    json!({
        "flow": closed.flow.0.to_string(), "hop": closed.hop.0.to_string(),
        "reason": show::close_name(closed.reason), "opened": show::time(clock, closed.opened),
        "ended": show::time(clock, closed.ended),
    })
}

fn conversation_opened(opened: &ConversationOpened, clock: &Clock) -> Value {
    json!({
        "conversation": opened.conversation.0.to_string(),
        "protocol": protocol_name(opened.protocol),
        "client": endpoint(&opened.endpoints.client, &opened.services.client),
        "server": endpoint(&opened.endpoints.server, &opened.services.server),
        "role_basis": show::role_name(opened.role_basis), "pair": opened.pair.0.to_string(),
        "opened": show::time(clock, opened.opened), "path": path(&opened.path),
    })
}

fn conversation_updated(updated: &ConversationUpdated) -> Value {
    json!({
        "conversation": updated.conversation.0.to_string(), "pair": updated.pair.0.to_string(),
        "client": endpoint(&updated.endpoints.client, &updated.services.client),
        "server": endpoint(&updated.endpoints.server, &updated.services.server),
        "services": sides(&updated.services, |service| json!(*service.name)),
        "path": path(&updated.path), "features": measured(&updated.features),
    })
}

fn conversation_closed(closed: &ConversationClosed, clock: &Clock) -> Value {
    json!({
        "conversation": closed.conversation.0.to_string(), "pair": closed.pair.0.to_string(),
        "reason": show::close_name(closed.reason), "opened": show::time(clock, closed.opened),
        "ended": show::time(clock, closed.ended), "path": path(&closed.path),
        "features": measured(&closed.features),
    })
}

fn conversation_translated(translated: &ConversationTranslated) -> Value {
    let translation = &translated.translation;
    let id = |id: Option<ConversationId>| id.map(|id| id.0.to_string());
    json!({
        "host": *translated.host, "protocol": protocol_name(translation.protocol),
        "inside": EndsView::from(&translation.inside),
        "outside": EndsView::from(&translation.outside),
        "inside_conversation": id(translated.inside),
        "outside_conversation": id(translated.outside),
    })
}

fn attempt_failed(failed: &AttemptFailed, clock: &Clock) -> Value {
    let (reason, icmp) = match failed.failure {
        AttemptFailure::Refused => ("refused", Value::Null),
        AttemptFailure::Unanswered => ("unanswered", Value::Null),
        AttemptFailure::Unreachable {
            icmp_type,
            icmp_code,
        } => ("unreachable", json!({"type": icmp_type, "code": icmp_code})),
    };
    json!({
        "hop": failed.hop.0.to_string(), "pair": failed.pair.0.to_string(),
        "client": EndpointView::new(failed.endpoints.client, None),
        "server": EndpointView::new(failed.endpoints.server, None),
        "reason": reason, "icmp": icmp,
        "started": failed.started.map(|at| show::time(clock, at)),
        "answer_ms": failed.answer_us.map(show::milliseconds),
    })
}

fn endpoint(endpoint: &Endpoint, service: &Service) -> Value {
    json!(EndpointView::new(*endpoint, Some(service)))
}

fn path(path: &[phalanx_engine::HopId]) -> Value {
    path.iter().map(|hop| hop.0.to_string()).collect()
}

fn sides<T>(sides: &Sides<T>, show: impl Fn(&T) -> Value) -> Value {
    let mut both = Map::new();
    both.insert("client".to_owned(), show(&sides.client));
    both.insert("server".to_owned(), show(&sides.server));
    Value::Object(both)
}

fn measures(measures: &Measures) -> Value {
    measures.iter().map(measure).collect()
}

fn measure(measure: &Measure) -> Value {
    let (name, side) = match measure.kind {
        MeasureKind::Rtt(side) => ("rtt", Some(side)),
        MeasureKind::RttByTimestamp(side) => ("rtt_by_timestamp", Some(side)),
        MeasureKind::Handshake(side) => ("handshake", Some(side)),
        MeasureKind::Think => ("think", None),
        MeasureKind::Idle => ("idle", None),
        MeasureKind::ThinkAndPath => ("think_and_path", None),
        MeasureKind::IdleAndPath => ("idle_and_path", None),
    };
    let side = side.map(|side| match side {
        Side::Client => "client",
        Side::Server => "server",
    });
    json!({"what": name, "side": side, "ms": show::milliseconds(measure.microseconds)})
}
