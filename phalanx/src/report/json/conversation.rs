//! One conversation as JSON.

use std::borrow::Cow;

use phalanx_common::packet::protocol;
use phalanx_engine::budget::TimeBudget;
use phalanx_engine::story::{FlowStory, SideStory, TurnStory};
use phalanx_engine::{Distribution, Endpoint, Side};
use serde::ser::{Serialize, SerializeMap, Serializer};

use super::application::Application;
use super::feature;
use crate::report::ConversationReport;
use crate::report::word::{self, milliseconds};
use crate::view::protocol_name;

/// Writes a conversation as one object.
pub(super) fn write(report: &ConversationReport, line: &mut Vec<u8>) -> serde_json::Result<()> {
    serde_json::to_writer(&mut *line, &Head::new(report))?;
    // Neither part is empty: what ends the first and what begins the last are single braces.
    line.pop();
    line.extend_from_slice(b",\"features\":");
    feature::write(&report.story, line)?;
    let at = line.len();
    serde_json::to_writer(&mut *line, &Tail::new(report))?;
    line[at] = b',';
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
    path: Path<'a>,
    return_path: Path<'a>,
}

impl<'a> Head<'a> {
    fn new(report: &'a ConversationReport) -> Self {
        let story = &report.story;
        let ends = story.endpoints.as_ref();
        let is_seen = |side: Side| story.sides.get(side).counts.packets > 0;
        Self {
            id: &report.id,
            protocol: protocol_name(story.protocol),
            client: End::new(ends.map(|ends| &ends.client)),
            server: End::new(ends.map(|ends| &ends.server)),
            start: word::instant(story.start_ns),
            duration_s: word::seconds(story.duration_ns),
            path: Path(is_seen(Side::Client).then_some(&report.hop)),
            return_path: Path(is_seen(Side::Server).then_some(&report.hop)),
        }
    }
}

/// What stands after them.
#[derive(serde::Serialize)]
struct Tail<'a> {
    /// What lies between hops: one hop has none.
    legs: [(); 0],
    #[serde(skip_serializing_if = "Option::is_none")]
    time_budget_ms: Option<Budget<'a>>,
    /// Nobody judges yet.
    verdicts: [(); 0],
    score: f64,
    worst_because: &'a str,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    role_basis: Option<&'static str>,
    starts_mid_stream: bool,
    reuses_ports: bool,
    frames: Frames,
    #[serde(skip_serializing_if = "Option::is_none")]
    network_identifier: Option<u32>,
    #[serde(skip_serializing_if = "OptionsOfSides::is_empty")]
    options: OptionsOfSides,
    turns: Turns<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    datagram_gaps_ms: Option<Spread<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    application: Option<Application<'a>>,
    capture: Capture,
}

impl<'a> Tail<'a> {
    fn new(report: &'a ConversationReport) -> Self {
        let story = &report.story;
        let budget = story.budget.as_ref();
        Self {
            legs: [],
            time_budget_ms: budget.filter(|_| is_tcp(story)).map(Budget),
            verdicts: [],
            score: report.score,
            worst_because: &report.worst_because,
            state: story.state.name(),
            role_basis: story.role_basis.map(word::role_basis),
            starts_mid_stream: story.starts_mid_stream,
            reuses_ports: story.reuses_ports,
            frames: Frames {
                first: story.flow,
                last: story.last_frame,
            },
            network_identifier: story.network_identifier,
            options: OptionsOfSides::new(story),
            turns: Turns::new(&story.turns),
            datagram_gaps_ms: story.gaps.as_ref().and_then(Spread::new),
            application: Application::new(&story.application),
            capture: Capture::new(story),
        }
    }
}

pub(super) fn is_tcp(story: &FlowStory) -> bool {
    story.protocol == protocol::TCP
}

#[derive(serde::Serialize)]
struct End {
    #[serde(serialize_with = "as_text")]
    address: std::net::IpAddr,
    port: u16,
}

impl End {
    /// An end that is not known is the unspecified address.
    fn new(end: Option<&Endpoint>) -> Self {
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

/// The one hop that saw a direction, or none.
struct Path<'a>(Option<&'a String>);

impl Serialize for Path<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0)
    }
}

/// Nanoseconds as decimal milliseconds: the sum is the duration to the nanosecond.
struct Budget<'a>(&'a TimeBudget);

impl Serialize for Budget<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let times = self.0.iter();
        serializer.collect_map(times.map(|(bucket, ns)| (bucket.name(), milliseconds(ns))))
    }
}

#[derive(serde::Serialize)]
struct Frames {
    first: u64,
    last: u64,
}

/// TCP options of the two SYNs, of each side whose SYN was seen.
#[derive(serde::Serialize)]
struct OptionsOfSides {
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<Options>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<Options>,
}

impl OptionsOfSides {
    fn new(story: &FlowStory) -> Self {
        Self {
            client: Options::new(&story.sides.client),
            server: Options::new(&story.sides.server),
        }
    }

    const fn is_empty(&self) -> bool {
        self.client.is_none() && self.server.is_none()
    }
}

#[derive(serde::Serialize)]
struct Options {
    #[serde(skip_serializing_if = "Option::is_none")]
    mss_bytes: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    window_scale: Option<u8>,
    sack_permitted: bool,
    timestamps: bool,
}

impl Options {
    fn new(side: &SideStory) -> Option<Self> {
        (side.counts.syns > 0).then_some(Self {
            mss_bytes: (side.mss > 0).then_some(side.mss),
            window_scale: side.window_scale,
            sack_permitted: side.sack_permitted,
            timestamps: side.has_timestamps,
        })
    }
}

#[derive(serde::Serialize)]
struct Turns<'a> {
    count: u64,
    is_last_unanswered: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    think_ms: Option<Spread<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    idle_ms: Option<Spread<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transfer_ms: Option<Spread<'a>>,
}

impl<'a> Turns<'a> {
    fn new(turns: &'a TurnStory) -> Self {
        Self {
            count: turns.count,
            is_last_unanswered: turns.is_last_unanswered,
            think_ms: Spread::new(&turns.think),
            idle_ms: Spread::new(&turns.idle),
            transfer_ms: Spread::new(&turns.transfer),
        }
    }
}

/// How times are distributed.
struct Spread<'a>(&'a Distribution);

impl<'a> Spread<'a> {
    fn new(distribution: &'a Distribution) -> Option<Self> {
        (distribution.count() > 0).then_some(Self(distribution))
    }
}

impl Serialize for Spread<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let quantile = |percent| self.0.quantile_ns(percent).map(milliseconds);
        let times = [
            ("min", self.0.min_ns().map(milliseconds)),
            ("mean", self.0.mean_ns().map(|ns| ns / 1e6)),
            ("p50", quantile(50)),
            ("p95", quantile(95)),
            ("max", self.0.max_ns().map(milliseconds)),
        ];
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("count", &self.0.count())?;
        for (name, time) in times {
            if let Some(time) = time {
                map.serialize_entry(name, &time)?;
            }
        }
        map.end()
    }
}

/// Properties of the capture, which say nothing of the network.
#[derive(serde::Serialize)]
struct Capture {
    duplicates: u64,
    unseen_bytes: u64,
    acks_of_unseen: u64,
    cut_packets: u64,
    one_way: bool,
}

impl Capture {
    fn new(story: &FlowStory) -> Self {
        let (client, server) = (&story.sides.client.counts, &story.sides.server.counts);
        Self {
            duplicates: client.capture_duplicates + server.capture_duplicates,
            unseen_bytes: client.unseen_bytes + server.unseen_bytes,
            acks_of_unseen: client.acks_of_unseen + server.acks_of_unseen,
            cut_packets: client.cut_packets + server.cut_packets,
            one_way: (client.packets == 0) != (server.packets == 0),
        }
    }
}
