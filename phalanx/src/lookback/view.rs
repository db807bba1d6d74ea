//! What is told of looking back: how it stands, and what it covers of a request.

use phalanx_common::watch::SAMPLE_ALL;
use phalanx_engine::HopId;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::history::Span;
use super::{Lookback, LookbackFeed, Seam};
use crate::api::show::wall_time;
use crate::clock::Clock;
use phalanx_engine::Monotonic;

/// How looking back stands.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LookbackStatus {
    /// What is recorded.
    pub feed: LookbackFeed,
    /// Packets that were kept since the start.
    pub kept: u64,
    /// Those of them that have left for later ones.
    pub evicted: u64,
    /// Packets that the kernel's part of the filter selects and the rest of it does not.
    pub filtered_out: u64,
    /// Bytes that the packets take.
    pub used_bytes: u64,
    /// Bytes that they may take.
    pub size_bytes: u64,
    /// Whether a part of them lies in a file.
    pub has_file: bool,
    /// The latest time of a packet that has left, in monotonic nanoseconds; 0: none has.
    pub evicted_until_ns: u64,
    /// The part of one CPU that keeping them takes, smoothed; 0 unless all flows are fed.
    pub cpu_share: f64,
    /// The part of one CPU that it may take.
    pub cpu_share_max: f64,
    /// The part of all flows that is recorded; 1 unless all are fed.
    pub flow_share: f64,
}

impl LookbackStatus {
    /// Where nothing is kept.
    #[must_use]
    pub fn off() -> Self {
        Self {
            feed: LookbackFeed::Off,
            ..Self::default()
        }
    }
}

/// What of the time before a request a capture covers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Covered {
    /// What was recorded before the request: `promoted`, `filter` or `all`.
    pub feed: String,
    /// The filter of the feed `filter`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// Which flows that is, in words.
    pub flows: String,
    /// Bytes of each packet that were kept; 0: headers only.
    pub snaplen: u32,
    /// Each interface.
    pub hops: Vec<CoveredHop>,
    /// Packets of the time before the request in the file.
    pub packets: u64,
    /// Records that were lost in that time at most, whichever flow they were of.
    pub lost: u64,
}

/// What is covered of one interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CoveredHop {
    /// Number of the hop.
    pub hop: u32,
    /// Name of the interface.
    pub interface: String,
    /// From when on: the time asked for, or later, when the daemon or the interface came or older
    /// packets had left.
    pub from: String,
    /// Until when: by then the capture itself records.
    pub until: String,
    /// Packets of that time in the file.
    pub packets: u64,
    /// Which part of the flows that the feed selects was recorded when; flows are whole within
    /// each.
    pub spans: Vec<CoveredSpan>,
}

/// A time in which one part of the flows was recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CoveredSpan {
    /// From when on.
    pub from: String,
    /// Until when.
    pub until: String,
    /// Of 65,536 flows so many: 65,536 are all. Chosen by a number that a flow has at every hop, so
    /// those of a smaller part are among those of a larger.
    pub flows_per_65536: u32,
}

impl Lookback {
    /// How it stands.
    #[must_use]
    pub fn status(&self) -> LookbackStatus {
        let state = self.lock();
        let recent = &state.recent;
        LookbackStatus {
            feed: self.options.feed,
            kept: recent.next(),
            evicted: recent.evicted_count(),
            filtered_out: state.filtered_out,
            used_bytes: recent.used_bytes(),
            size_bytes: u64::from(self.options.size_mib) << 20,
            has_file: recent.has_file(),
            evicted_until_ns: recent.evicted_until_ns(),
            cpu_share: state.governance.cpu_share,
            cpu_share_max: f64::from(self.options.cpu_percent) / 100.0,
            flow_share: f64::from(state.governance.threshold) / f64::from(SAMPLE_ALL),
        }
    }

    /// What it covers of the time from `since_ns` to a seam, at some hops.
    pub(crate) fn cover<'a>(
        &self,
        hops: impl Iterator<Item = (HopId, &'a str)>,
        since_ns: u64,
        seam: Seam,
        clock: &Clock,
    ) -> Covered {
        let state = self.lock();
        let evicted_ns = match state.recent.evicted_until_ns() {
            0 => 0,
            until_ns => until_ns + 1,
        };
        let time = |ns| wall_time(clock.wall_ns(Monotonic(ns)));
        let hops = hops.map(|(hop, interface)| {
            let there_ns = state.history.since_ns(hop).unwrap_or(seam.at_ns);
            let from_ns = since_ns.max(there_ns).max(evicted_ns).min(seam.at_ns);
            let show = |span: Span| CoveredSpan {
                from: time(span.from_ns),
                until: time(span.until_ns),
                flows_per_65536: span.threshold,
            };
            let spans = state.history.spans(from_ns, seam.at_ns);
            CoveredHop {
                hop: hop.0,
                interface: interface.to_owned(),
                from: time(from_ns),
                until: time(seam.at_ns),
                packets: 0,
                spans: spans.into_iter().map(show).collect(),
            }
        });
        let feed = self.options.feed;
        Covered {
            feed: feed.name().to_owned(),
            filter: (feed == LookbackFeed::Filter).then(|| self.options.filter.clone()),
            flows: describe(feed).to_owned(),
            snaplen: self.options.snaplen,
            hops: hops.collect(),
            packets: 0,
            lost: state.history.lost(since_ns.max(evicted_ns), seam.at_ns),
        }
    }
}

fn describe(feed: LookbackFeed) -> &'static str {
    match feed {
        LookbackFeed::Off => "none",
        LookbackFeed::Promoted => "flows that turned sick, from the packet after that on",
        LookbackFeed::Filter => "flows that the filter of lookback_filter selects, and sick ones",
        LookbackFeed::All => "all flows, or the part of them that spans tell, and sick ones",
    }
}
