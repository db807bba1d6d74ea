//! What several resources show alike: endpoints, counters, times.

use phalanx_common::abi::HalfCounters;
use phalanx_engine::change::CloseReason;
use phalanx_engine::measure::Counts;
use phalanx_engine::name::{NameBasis, Service};
use phalanx_engine::{HopId, Monotonic, Quantiles, RoleBasis};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::clock::Clock;
use crate::view::{Times, View};

/// An instant as RFC 3339 in UTC.
pub(super) fn time(clock: &Clock, at: Monotonic) -> String {
    wall_time(clock.wall_ns(at))
}

/// Nanoseconds since 1970 as RFC 3339 in UTC.
pub(crate) fn wall_time(wall_ns: u64) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(wall_ns))
        .map_or_else(|_| wall_ns.to_string(), |time| format!("{time:.9}"))
}

#[expect(clippy::cast_precision_loss, reason = "2⁵³ ns are a hundred days")]
pub(super) fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

pub(super) fn milliseconds(us: impl Into<u64>) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "2⁵³ µs are centuries")]
    let us = us.into() as f64;
    us / 1e3
}

/// An end of a flow or conversation.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct EndpointView {
    /// IPv4 or IPv6 address.
    pub address: String,
    /// Port; 0 for protocols without.
    pub port: u16,
    /// Name of the service there, where one is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Where the name comes from: `file`, `workload`, `process`, `reverse_dns`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_basis: Option<&'static str>,
    /// The host it runs on, where the names file tells it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The site of that host, where the names file tells it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
}

impl EndpointView {
    pub(super) fn new(endpoint: phalanx_engine::Endpoint, service: Option<&Service>) -> Self {
        let named = service.filter(|service| service.basis != NameBasis::Address);
        let text = |text: &Option<std::sync::Arc<str>>| text.as_deref().map(str::to_owned);
        Self {
            address: endpoint.address.to_string(),
            port: endpoint.port,
            service: named.map(|service| service.name.to_string()),
            service_basis: named.map(|service| basis_name(service.basis)),
            host: service.and_then(|service| text(&service.host)),
            site: service.and_then(|service| text(&service.site)),
        }
    }
}

pub(super) const fn basis_name(basis: NameBasis) -> &'static str {
    match basis {
        NameBasis::File => "file",
        NameBasis::Workload => "workload",
        NameBasis::Process => "process",
        NameBasis::ReverseDns => "reverse_dns",
        NameBasis::Address => "address",
    }
}

pub(super) const fn role_name(basis: RoleBasis) -> &'static str {
    match basis {
        RoleBasis::Opener => "opener",
        RoleBasis::Listener => "listener",
        RoleBasis::Port => "port",
        RoleBasis::FirstPayload => "first_payload",
        RoleBasis::Order => "order",
    }
}

pub(super) const fn close_name(reason: CloseReason) -> &'static str {
    match reason {
        CloseReason::Fin => "fin",
        CloseReason::Reset => "reset",
        CloseReason::Idle => "idle",
        CloseReason::Reused => "reused",
        CloseReason::HopVanished => "hop_vanished",
        CloseReason::Evicted => "evicted",
    }
}

/// Whether something is open: a filter of lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It is open.
    Open,
    /// It has ended.
    Closed,
}

impl State {
    pub(super) const fn of(is_closed: bool) -> Self {
        if is_closed { Self::Closed } else { Self::Open }
    }
}

/// A hop by its number and interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct HopRef {
    /// Its id.
    pub id: String,
    /// Its interface, where the hop is known still.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
}

impl HopRef {
    pub(super) fn new(id: HopId, view: &View) -> Self {
        let interface = view.hops.get(id).map(|hop| hop.facts.interface.to_string());
        Self {
            id: id.0.to_string(),
            interface,
        }
    }
}

/// What one side has sent. Fields of TCP are 0 for other protocols.
#[derive(Clone, Copy, Debug, Default, Serialize, ToSchema)]
pub struct SentView {
    /// Packets on the wire.
    pub packets: u64,
    /// IP bytes on the wire.
    pub bytes: u64,
    /// Segments whose bytes were seen before.
    pub retransmitted_packets: u64,
    /// Payload bytes that were seen before.
    pub retransmitted_bytes: u64,
    /// Segments behind the highest sequence: reordered, or retransmitted for an earlier loss.
    pub out_of_sequence_packets: u64,
    /// Copies of the segment just before.
    pub duplicate_packets: u64,
    /// How often the sequence jumped ahead.
    pub gap_count: u64,
    /// How often the window fell to zero.
    pub zero_window_count: u64,
    /// Keep-alive segments.
    pub keep_alive_count: u64,
    /// Packets marked "congestion experienced".
    pub ecn_marked_packets: u64,
    /// RST segments.
    pub reset_count: u64,
    /// ICMP errors that quoted a packet of this side.
    pub icmp_error_count: u64,
    /// Packets whose numbers lie beyond any window: forged, or of a connection whose middle this
    /// host did not see.
    pub implausible_packets: u64,
}

impl From<&Counts> for SentView {
    fn from(counts: &Counts) -> Self {
        Self {
            packets: counts.packets,
            bytes: counts.bytes,
            retransmitted_packets: counts.retransmitted_packets,
            retransmitted_bytes: counts.retransmitted_bytes,
            out_of_sequence_packets: counts.out_of_sequence_packets,
            duplicate_packets: counts.duplicate_packets,
            gap_count: counts.gap_count,
            zero_window_count: counts.zero_window_count,
            keep_alive_count: counts.keep_alive_count,
            ecn_marked_packets: counts.ecn_marked_packets,
            reset_count: counts.rst_count,
            icmp_error_count: counts.icmp_error_count,
            implausible_packets: counts.implausible_packets,
        }
    }
}

impl From<&HalfCounters> for SentView {
    fn from(half: &HalfCounters) -> Self {
        Self::from(&Counts::from(half))
    }
}

/// Times of one kind since the flow was opened.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub struct TimesView {
    /// How many were measured.
    pub count: u64,
    /// The smallest, in milliseconds.
    pub min_ms: f64,
    /// The mean, in milliseconds.
    pub mean_ms: f64,
    /// The largest, in milliseconds.
    pub max_ms: f64,
    /// The latest, in milliseconds.
    pub last_ms: f64,
}

impl TimesView {
    /// Absent where nothing was measured.
    pub(super) fn new(times: &Times) -> Option<Self> {
        (times.count > 0).then(|| Self {
            count: times.count,
            min_ms: milliseconds(times.min_us),
            mean_ms: milliseconds(times.mean_us()),
            max_ms: milliseconds(times.max_us),
            last_ms: milliseconds(times.last_us),
        })
    }
}

/// How times were distributed in the last one to two minutes.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub struct QuantilesView {
    /// How many were measured.
    pub count: u64,
    /// The median, in milliseconds.
    pub p50_ms: f64,
    /// 95 of 100 were at most this, in milliseconds.
    pub p95_ms: f64,
    /// 99 of 100 were at most this, in milliseconds.
    pub p99_ms: f64,
}

impl QuantilesView {
    pub(super) fn new(quantiles: &Quantiles) -> Self {
        Self {
            count: quantiles.count,
            p50_ms: milliseconds(quantiles.p50_us),
            p95_ms: milliseconds(quantiles.p95_us),
            p99_ms: milliseconds(quantiles.p99_us),
        }
    }
}
