//! A flow that was followed packet by packet, as the stream shows it. Fields have the names that
//! they have in reports.

use phalanx_engine::budget::TimeBudget;
use phalanx_engine::change::FlowTraced;
use phalanx_engine::story::{SideCounts, SideStory, TurnStory};
use phalanx_engine::{Distribution, Monotonic};
use serde_json::{Map, Value, json};

use super::super::show::{self, EndpointView};
use super::sides;
use crate::clock::Clock;
use crate::view::protocol_name;

/// What was not measured is absent.
pub(super) fn show(traced: &FlowTraced, clock: &Clock) -> Value {
    let story = &traced.story;
    let start = Monotonic(u64::try_from(story.start_ns).unwrap_or(0));
    let mut body = json!({
        "hop": traced.hop.0.to_string(), "protocol": protocol_name(story.protocol),
        "state": story.state.name(), "starts_mid_stream": story.starts_mid_stream,
        "start": show::time(clock, start), "duration_s": seconds(story.duration_ns),
        "counts": sides(&story.sides, counts), "turns": turns(&story.turns),
    });
    if let Some(ends) = &story.endpoints {
        body["client"] = json!(EndpointView::new(ends.client, None));
        body["server"] = json!(EndpointView::new(ends.server, None));
    }
    if let Some(basis) = story.role_basis {
        body["role_basis"] = show::role_name(basis).into();
    }
    if let Some(budget) = &story.budget {
        body["time_budget_ms"] = time_budget(budget);
    }
    body
}

/// The counts that are not 0.
fn counts(side: &SideStory) -> Value {
    let counts = SideCounts::NAMES.iter().zip(side.counts.values());
    let counts = counts.filter(|(_, count)| *count > 0);
    let counts: Map<String, Value> = counts
        .map(|(name, count)| ((*name).to_owned(), count.into()))
        .collect();
    Value::Object(counts)
}

fn turns(turns: &TurnStory) -> Value {
    let mut body = json!({
        "count": turns.count, "is_last_unanswered": turns.is_last_unanswered,
    });
    let times = [
        ("think_ms", &turns.think),
        ("idle_ms", &turns.idle),
        ("transfer_ms", &turns.transfer),
    ];
    for (name, times) in times {
        if times.count() > 0 {
            body[name] = spread(times);
        }
    }
    body
}

fn spread(times: &Distribution) -> Value {
    let quantile = |percent| times.quantile_ns(percent).map(milliseconds);
    json!({
        "count": times.count(), "min": times.min_ns().map(milliseconds),
        "mean": times.mean_ns().map(|ns| ns / 1e6), "p50": quantile(50), "p95": quantile(95),
        "max": times.max_ns().map(milliseconds),
    })
}

fn time_budget(budget: &TimeBudget) -> Value {
    let buckets = budget.iter();
    let buckets: Map<String, Value> = buckets
        .map(|(bucket, ns)| (bucket.name().to_owned(), milliseconds(ns).into()))
        .collect();
    Value::Object(buckets)
}

#[expect(clippy::cast_precision_loss, reason = "2⁵³ ns are a hundred days")]
fn milliseconds(ns: i64) -> f64 {
    ns as f64 / 1e6
}

#[expect(clippy::cast_precision_loss, reason = "2⁵³ ns are a hundred days")]
fn seconds(ns: i64) -> f64 {
    ns as f64 / 1e9
}
