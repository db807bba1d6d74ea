//! One conversation as JSON.

use std::borrow::Cow;
use std::sync::LazyLock;

use phalanx_common::packet::protocol;
use phalanx_engine::budget::{Bucket, TimeBudget};
use phalanx_engine::story::{FlowStory, SideCounts, TurnStory};
use phalanx_engine::{Endpoint, Side};
use serde::ser::Serializer;

use super::across::{self, HopNames};
use super::application::Application;
use super::feature;
use super::ladder;
use super::out::{Out, name};
use crate::report::ConversationReport;
use crate::report::word::{self, milliseconds};
use crate::view::protocol_name;

/// Writes a conversation as one object.
pub(super) fn write(
    report: &ConversationReport,
    hops: HopNames<'_>,
    line: &mut Vec<u8>,
) -> serde_json::Result<()> {
    serde_json::to_writer(&mut *line, &Head::new(report, hops))?;
    // Neither part is empty: what ends the first and what begins the last are single braces.
    line.pop();
    line.extend_from_slice(b",\"features\":");
    feature::write(&report.story, line)?;
    let at = line.len();
    tail(report, hops, line)?;
    line[at] = b',';
    Ok(())
}

/// Writes a conversation with its packets, where they are to be shown.
pub(super) fn write_with_ladder(
    report: &ConversationReport,
    hops: HopNames<'_>,
    line: &mut Vec<u8>,
) -> serde_json::Result<()> {
    write(report, hops, line)?;
    let Some(ladder) = &report.ladder else {
        return Ok(());
    };
    line.pop();
    line.extend_from_slice(b",\"ladder\":");
    ladder::write(ladder, hops, Out::begin(line))?;
    line.push(b'}');
    Ok(())
}

/// What stands before the features.
#[derive(serde::Serialize)]
struct Head<'a> {
    id: &'a str,
    protocol: Cow<'static, str>,
    client: End,
    server: End,
    start: String,
    duration_s: f64,
    path: Vec<&'a str>,
    return_path: Vec<&'a str>,
}

impl<'a> Head<'a> {
    fn new(report: &'a ConversationReport, hops: HopNames<'a>) -> Self {
        let story = &report.story;
        let ends = story.endpoints.as_ref();
        let path = |side: Side| match &report.across {
            Some(across) => across::names(across.path_of(side), hops),
            // The one hop that saw a direction, or none.
            None => {
                let is_seen = story.sides.get(side).counts.packets > 0;
                is_seen.then_some(report.hop.as_str()).into_iter().collect()
            }
        };
        Self {
            id: &report.id,
            protocol: protocol_name(story.protocol),
            client: End::new(ends.map(|ends| &ends.client)),
            server: End::new(ends.map(|ends| &ends.server)),
            start: word::instant(story.start_ns),
            duration_s: word::seconds(story.duration_ns),
            path: path(Side::Client),
            return_path: path(Side::Server),
        }
    }
}

/// What stands after them.
fn tail(
    report: &ConversationReport,
    hops: HopNames<'_>,
    line: &mut Vec<u8>,
) -> serde_json::Result<()> {
    let story = &report.story;
    let mut out = Out::begin(line);
    across::legs(report.across.as_deref(), hops, out.value(name!("legs")))?;
    if let Some(across) = &report.across {
        across::write(across, hops, &mut out)?;
    }
    let budget = story.budget.as_ref().filter(|_| is_tcp(story));
    if let Some(budget) = budget {
        time_budget(budget, out.object(name!("time_budget_ms")))?;
    }
    // Nobody judges yet.
    out.put(name!("verdicts"), Some([(); 0]))?;
    out.put(name!("score"), Some(report.score))?;
    out.put(name!("worst_because"), Some(&report.worst_because))?;
    out.put(name!("state"), Some(story.state.name()))?;
    let role_basis = story.role_basis.map(word::role_basis);
    out.put(name!("role_basis"), role_basis)?;
    out.put(name!("starts_mid_stream"), Some(story.starts_mid_stream))?;
    out.put(name!("reuses_ports"), Some(story.reuses_ports))?;
    let mut frames = out.object(name!("frames"));
    frames.put(name!("first"), Some(story.flow))?;
    frames.put(name!("last"), Some(story.last_frame))?;
    frames.end();
    out.put(name!("network_identifier"), story.network_identifier)?;
    options(story, &mut out)?;
    turns(&story.turns, out.object(name!("turns")))?;
    if let Some(gaps) = &story.gaps {
        out.times(name!("datagram_gaps_ms"), gaps)?;
    }
    out.put(name!("application"), Application::new(&story.application))?;
    capture(story, out.object(name!("capture")))?;
    out.end();
    Ok(())
}

pub(super) fn is_tcp(story: &FlowStory) -> bool {
    story.protocol == protocol::TCP
}

#[derive(serde::Serialize)]
pub(super) struct End {
    #[serde(serialize_with = "as_text")]
    address: std::net::IpAddr,
    port: u16,
}

impl End {
    /// An end that is not known is the unspecified address.
    pub(super) fn new(end: Option<&Endpoint>) -> Self {
        let unknown = std::net::Ipv6Addr::UNSPECIFIED.into();
        Self {
            address: end.map_or(unknown, |end| end.address),
            port: end.map_or(0, |end| end.port),
        }
    }
}

fn as_text<S: Serializer>(value: &std::net::IpAddr, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

/// A bucket and its name as it stands in the text.
static BUCKETS: LazyLock<Vec<(Bucket, String)>> = LazyLock::new(|| {
    let named = |bucket: Bucket| (bucket, format!(",\"{}\":", bucket.name()));
    Bucket::ALL.into_iter().map(named).collect()
});

/// Nanoseconds as decimal milliseconds: the sum is the duration to the nanosecond.
fn time_budget(budget: &TimeBudget, mut out: Out<'_>) -> serde_json::Result<()> {
    for (bucket, name) in BUCKETS.iter() {
        out.put(name, Some(milliseconds(budget.get(*bucket))))?;
    }
    out.end();
    Ok(())
}

/// TCP options of the two SYNs, of each side whose SYN was seen.
fn options(story: &FlowStory, out: &mut Out<'_>) -> serde_json::Result<()> {
    let names = [name!("client"), name!("server")];
    let sides = [&story.sides.client, &story.sides.server];
    if sides.iter().all(|side| side.counts.syns == 0) {
        return Ok(());
    }
    let mut out = out.object(name!("options"));
    for (name, side) in names.into_iter().zip(sides) {
        if side.counts.syns == 0 {
            continue;
        }
        let mut out = out.object(name);
        out.put(name!("mss_bytes"), (side.mss > 0).then_some(side.mss))?;
        out.put(name!("window_scale"), side.window_scale)?;
        out.put(name!("sack_permitted"), Some(side.sack_permitted))?;
        out.put(name!("timestamps"), Some(side.has_timestamps))?;
        out.end();
    }
    out.end();
    Ok(())
}

fn turns(turns: &TurnStory, mut out: Out<'_>) -> serde_json::Result<()> {
    out.put(name!("count"), Some(turns.count))?;
    out.put(name!("is_last_unanswered"), Some(turns.is_last_unanswered))?;
    out.times(name!("think_ms"), &turns.think)?;
    out.times(name!("idle_ms"), &turns.idle)?;
    out.times(name!("transfer_ms"), &turns.transfer)?;
    out.end();
    Ok(())
}

/// Properties of the capture, which say nothing of the network.
fn capture(story: &FlowStory, mut out: Out<'_>) -> serde_json::Result<()> {
    let (client, server) = (&story.sides.client.counts, &story.sides.server.counts);
    let sum = |of: fn(&SideCounts) -> u64| Some(of(client) + of(server));
    out.put(name!("duplicates"), sum(|it| it.capture_duplicates))?;
    out.put(name!("unseen_bytes"), sum(|it| it.unseen_bytes))?;
    out.put(name!("acks_of_unseen"), sum(|it| it.acks_of_unseen))?;
    out.put(name!("cut_packets"), sum(|it| it.cut_packets))?;
    let is_one_way = (client.packets == 0) != (server.packets == 0);
    out.put(name!("one_way"), Some(is_one_way))?;
    out.end();
    Ok(())
}
