//! The features of a conversation as one flat object of numbers, units last in each name. Names
//! that `phalanx_engine::Features` has too mean the same there.
//!
//! Most of a report are names of features: see `out`.

use std::sync::LazyLock;

use phalanx_engine::Side;
use phalanx_engine::story::{FlowStory, SideCounts, SideStory};

use super::conversation::is_tcp;
use super::out::{Out, SpreadNames, name};
use crate::report::word::{milliseconds, ratio, seconds};

/// Writes what was measured of a story; what was not is absent.
pub(super) fn write(story: &FlowStory, line: &mut Vec<u8>) -> serde_json::Result<()> {
    let mut out = Out::begin(line);
    times(story, &mut out)?;
    for side in [Side::Client, Side::Server] {
        counts(story, side, &mut out)?;
        side_features(story, side, &mut out)?;
    }
    let (client, server) = (&story.sides.client.counts, &story.sides.server.counts);
    let errors = client.icmp_errors + server.icmp_errors;
    out.put(name!("icmp_error_count"), Some(errors))?;
    out.end();
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
    let count_name = |name: &&str| CountName {
        client: format!(",\"client_{name}\":"),
        server: format!(",\"server_{name}\":"),
        is_of_all: COUNTS_OF_ALL.contains(name),
        is_presence: ["packets", "bytes"].contains(name),
    };
    SideCounts::NAMES.iter().map(count_name).collect()
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
            retransmitted_ratio: name!($side, "_retransmitted_ratio"),
            ecn_marked_ratio: name!($side, "_ecn_marked_ratio"),
            reset_count: name!($side, "_reset_count"),
            mss_bytes: name!($side, "_mss_bytes"),
            ttl_range: name!($side, "_ttl_range"),
            ttl_min: name!($side, "_ttl_min"),
            ttl_max: name!($side, "_ttl_max"),
            window_min_bytes: name!($side, "_window_min_bytes"),
            window_max_bytes: name!($side, "_window_max_bytes"),
            flight_max_bytes: name!($side, "_flight_max_bytes"),
            congestion_window_bytes: name!($side, "_congestion_window_bytes"),
            segment_max_bytes: name!($side, "_segment_max_bytes"),
            icmp_mtu_bytes: name!($side, "_icmp_mtu_bytes"),
            rto_ms: name!($side, "_rto_ms"),
            silence_max_ms: name!($side, "_silence_max_ms"),
            data_time_ms: name!($side, "_data_time_ms"),
            goodput_bytes_per_s: name!($side, "_goodput_bytes_per_s"),
        }
    };
}

const CLIENT: SideNames = side_names!("client");
const SERVER: SideNames = side_names!("server");

fn times(story: &FlowStory, out: &mut Out<'_>) -> serde_json::Result<()> {
    out.put(name!("duration_s"), Some(seconds(story.duration_ns)))?;
    let (server, client) = (story.handshake_server_ns, story.handshake_client_ns);
    let both = server
        .zip(client)
        .map(|(server, client)| server.saturating_add(client));
    out.put(name!("handshake_rtt_ms"), both.map(milliseconds))?;
    out.put(name!("handshake_server_ms"), server.map(milliseconds))?;
    out.put(name!("handshake_client_ms"), client.map(milliseconds))?;
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

macro_rules! spread_names {
    ($what:literal) => {
        SpreadNames {
            count: name!($what, "_count"),
            min: name!($what, "_min_ms"),
            mean: name!($what, "_mean_ms"),
            p50: name!($what, "_p50_ms"),
            p95: name!($what, "_p95_ms"),
            max: name!($what, "_max_ms"),
        }
    };
}

const RTT_SERVER: SpreadNames = spread_names!("rtt_server");
const RTT_CLIENT: SpreadNames = spread_names!("rtt_client");
const THINK: SpreadNames = spread_names!("think");
const IDLE: SpreadNames = spread_names!("idle");
