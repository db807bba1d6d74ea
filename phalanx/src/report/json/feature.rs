//! The features of a conversation as one flat object of numbers, units last in each name. Names
//! that `phalanx_engine::Features` has too mean the same there.
//!
//! Most of a report are names of features: they are kept as they are written, with the comma before
//! and the colon behind, and go past the serializer.

use std::sync::LazyLock;

use phalanx_engine::story::{FlowStory, SideCounts, SideStory};
use phalanx_engine::{Distribution, Side};
use serde::Serialize;

use super::conversation::is_tcp;
use crate::report::word::{milliseconds, ratio, seconds};

/// Writes what was measured of a story; what was not is absent.
pub(super) fn write(story: &FlowStory, line: &mut Vec<u8>) -> serde_json::Result<()> {
    let at = line.len();
    let mut out = Out(line);
    times(story, &mut out)?;
    for side in [Side::Client, Side::Server] {
        counts(story, side, &mut out)?;
        side_features(story, side, &mut out)?;
    }
    let (client, server) = (&story.sides.client.counts, &story.sides.server.counts);
    let errors = client.icmp_errors + server.icmp_errors;
    out.put(",\"icmp_error_count\":", Some(errors))?;
    // The first comma is the brace that begins it: there is always a duration.
    line[at] = b'{';
    line.push(b'}');
    Ok(())
}

/// The counts that are measured of any protocol; the others are of TCP.
const COUNTS_OF_ALL: [&str; 10] = [
    "packets",
    "bytes",
    "data_packets",
    "payload_bytes",
    "network_duplicates",
    "capture_duplicates",
    "ecn_marked_packets",
    "cut_packets",
    "fragmented_packets",
    "icmp_errors",
];

/// A count on both sides.
struct CountName {
    client: String,
    server: String,
    /// Whether it is measured of any protocol.
    is_of_all: bool,
    /// Whether a zero says that a side was not seen.
    is_presence: bool,
}

static COUNT_NAMES: LazyLock<Vec<CountName>> = LazyLock::new(|| {
    let name = |name: &&str| CountName {
        client: format!(",\"client_{name}\":"),
        server: format!(",\"server_{name}\":"),
        is_of_all: COUNTS_OF_ALL.contains(name),
        is_presence: ["packets", "bytes"].contains(name),
    };
    SideCounts::NAMES.iter().map(name).collect()
});

/// The names of what else is measured of a side.
struct SideNames {
    retransmitted_ratio: &'static str,
    ecn_marked_ratio: &'static str,
    reset_count: &'static str,
    mss_bytes: &'static str,
    ttl_range: &'static str,
    ttl_min: &'static str,
    ttl_max: &'static str,
    window_min_bytes: &'static str,
    window_max_bytes: &'static str,
    flight_max_bytes: &'static str,
    congestion_window_bytes: &'static str,
    segment_max_bytes: &'static str,
    icmp_mtu_bytes: &'static str,
    rto_ms: &'static str,
    silence_max_ms: &'static str,
    data_time_ms: &'static str,
    goodput_bytes_per_s: &'static str,
}

macro_rules! side_names {
    ($side:literal) => {
        SideNames {
            retransmitted_ratio: concat!(",\"", $side, "_retransmitted_ratio\":"),
            ecn_marked_ratio: concat!(",\"", $side, "_ecn_marked_ratio\":"),
            reset_count: concat!(",\"", $side, "_reset_count\":"),
            mss_bytes: concat!(",\"", $side, "_mss_bytes\":"),
            ttl_range: concat!(",\"", $side, "_ttl_range\":"),
            ttl_min: concat!(",\"", $side, "_ttl_min\":"),
            ttl_max: concat!(",\"", $side, "_ttl_max\":"),
            window_min_bytes: concat!(",\"", $side, "_window_min_bytes\":"),
            window_max_bytes: concat!(",\"", $side, "_window_max_bytes\":"),
            flight_max_bytes: concat!(",\"", $side, "_flight_max_bytes\":"),
            congestion_window_bytes: concat!(",\"", $side, "_congestion_window_bytes\":"),
            segment_max_bytes: concat!(",\"", $side, "_segment_max_bytes\":"),
            icmp_mtu_bytes: concat!(",\"", $side, "_icmp_mtu_bytes\":"),
            rto_ms: concat!(",\"", $side, "_rto_ms\":"),
            silence_max_ms: concat!(",\"", $side, "_silence_max_ms\":"),
            data_time_ms: concat!(",\"", $side, "_data_time_ms\":"),
            goodput_bytes_per_s: concat!(",\"", $side, "_goodput_bytes_per_s\":"),
        }
    };
}

const CLIENT: SideNames = side_names!("client");
const SERVER: SideNames = side_names!("server");

fn times(story: &FlowStory, out: &mut Out<'_>) -> serde_json::Result<()> {
    out.put(",\"duration_s\":", Some(seconds(story.duration_ns)))?;
    let (server, client) = (story.handshake_server_ns, story.handshake_client_ns);
    let both = server
        .zip(client)
        .map(|(server, client)| server.saturating_add(client));
    out.put(",\"handshake_rtt_ms\":", both.map(milliseconds))?;
    out.put(",\"handshake_server_ms\":", server.map(milliseconds))?;
    out.put(",\"handshake_client_ms\":", client.map(milliseconds))?;
    // What a side sends is acknowledged by the other: its round trips are to the other.
    out.spread(&RTT_SERVER, &story.sides.client.rtt)?;
    out.spread(&RTT_CLIENT, &story.sides.server.rtt)?;
    out.spread(&THINK, &story.turns.think)?;
    out.spread(&IDLE, &story.turns.idle)
}

fn counts(story: &FlowStory, side: Side, out: &mut Out<'_>) -> serde_json::Result<()> {
    let counts = &story.sides.get(side).counts;
    let (is_tcp, is_seen) = (is_tcp(story), counts.packets > 0);
    for (name, value) in COUNT_NAMES.iter().zip(counts.values()) {
        // Of a side that was not seen it is known that it was not, and nothing else.
        let is_of_this = if is_seen {
            is_tcp || name.is_of_all
        } else {
            name.is_presence
        };
        if is_of_this || value > 0 {
            let name = match side {
                Side::Client => &name.client,
                Side::Server => &name.server,
            };
            out.put(name, Some(value))?;
        }
    }
    Ok(())
}

fn side_features(story: &FlowStory, side: Side, out: &mut Out<'_>) -> serde_json::Result<()> {
    let is_tcp = is_tcp(story);
    let story = story.sides.get(side);
    let names = match side {
        Side::Client => &CLIENT,
        Side::Server => &SERVER,
    };
    let counts = &story.counts;
    if counts.packets == 0 {
        return Ok(());
    }
    let ecn = ratio(counts.ecn_marked_packets, counts.packets);
    out.put(names.ecn_marked_ratio, ecn)?;
    out.put(
        names.ttl_range,
        Some(story.ttl_max.saturating_sub(story.ttl_min)),
    )?;
    out.put(names.ttl_min, Some(story.ttl_min))?;
    out.put(names.ttl_max, Some(story.ttl_max))?;
    out.put(
        names.silence_max_ms,
        Some(milliseconds(story.silence_max_ns)),
    )?;
    out.put(names.icmp_mtu_bytes, positive(story.icmp_mtu))?;
    let data_ns = story.data_last_ns.zip(story.data_first_ns);
    let data_ns = data_ns.map(|(last, first)| last.saturating_sub(first));
    out.put(names.data_time_ms, data_ns.map(milliseconds))?;
    if is_tcp {
        tcp_side(story, names, data_ns, out)?;
    }
    Ok(())
}

/// What only TCP has.
fn tcp_side(
    story: &SideStory,
    names: &SideNames,
    data_ns: Option<i64>,
    out: &mut Out<'_>,
) -> serde_json::Result<()> {
    let counts = &story.counts;
    let retransmitted = ratio(counts.retransmitted_packets, counts.packets);
    out.put(names.retransmitted_ratio, retransmitted)?;
    out.put(names.reset_count, Some(counts.resets))?;
    out.put(names.mss_bytes, positive(story.mss.into()))?;
    out.put(names.window_min_bytes, story.window_min)?;
    let has_window = story.window_min.is_some();
    out.put(
        names.window_max_bytes,
        has_window.then_some(story.window_max),
    )?;
    let has_data = counts.data_packets > 0;
    out.put(names.flight_max_bytes, has_data.then_some(story.flight_max))?;
    out.put(
        names.congestion_window_bytes,
        has_data.then_some(story.congestion_window),
    )?;
    out.put(names.segment_max_bytes, positive(story.segment_max))?;
    out.put(names.rto_ms, story.rto_ns.map(milliseconds))?;
    #[expect(clippy::cast_precision_loss, reason = "bytes lie below 2⁵³")]
    let goodput = data_ns
        .filter(|ns| *ns > 0)
        .map(|ns| counts.unique_bytes as f64 / seconds(ns));
    out.put(names.goodput_bytes_per_s, goodput)
}

fn positive(value: u32) -> Option<u32> {
    (value > 0).then_some(value)
}

/// The names of what is told of a distribution; an empty one is not told.
struct SpreadNames {
    count: &'static str,
    min: &'static str,
    mean: &'static str,
    p50: &'static str,
    p95: &'static str,
    max: &'static str,
}

macro_rules! spread_names {
    ($what:literal) => {
        SpreadNames {
            count: concat!(",\"", $what, "_count\":"),
            min: concat!(",\"", $what, "_min_ms\":"),
            mean: concat!(",\"", $what, "_mean_ms\":"),
            p50: concat!(",\"", $what, "_p50_ms\":"),
            p95: concat!(",\"", $what, "_p95_ms\":"),
            max: concat!(",\"", $what, "_max_ms\":"),
        }
    };
}

const RTT_SERVER: SpreadNames = spread_names!("rtt_server");
const RTT_CLIENT: SpreadNames = spread_names!("rtt_client");
const THINK: SpreadNames = spread_names!("think");
const IDLE: SpreadNames = spread_names!("idle");

/// The object that is written: a comma before each name.
struct Out<'a>(&'a mut Vec<u8>);

impl Out<'_> {
    fn put(&mut self, name: &str, value: Option<impl Serialize>) -> serde_json::Result<()> {
        let Some(value) = value else {
            return Ok(());
        };
        self.0.extend_from_slice(name.as_bytes());
        serde_json::to_writer(&mut *self.0, &value)
    }

    fn spread(&mut self, names: &SpreadNames, times: &Distribution) -> serde_json::Result<()> {
        if times.count() == 0 {
            return Ok(());
        }
        self.put(names.count, Some(times.count()))?;
        self.put(names.min, times.min_ns().map(milliseconds))?;
        self.put(names.mean, times.mean_ns().map(|ns| ns / 1e6))?;
        self.put(names.p50, times.quantile_ns(50).map(milliseconds))?;
        self.put(names.p95, times.quantile_ns(95).map(milliseconds))?;
        self.put(names.max, times.max_ns().map(milliseconds))
    }
}
