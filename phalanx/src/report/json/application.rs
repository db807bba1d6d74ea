//! What was read of an application's protocol, as JSON.

use std::collections::BTreeMap;

use phalanx_engine::application::{
    Alert, ApplicationStory, Delays, DnsExchange, DnsKind, DnsStory, HttpExchange, HttpStory,
    Moment, QuicStory, SpinStory, SpinUse, TlsStory,
};
use phalanx_engine::{Side, Sides};
use serde::Serialize;

use crate::report::word;

/// The parts that were recognised; nothing where none was.
#[derive(Serialize)]
pub(super) struct Application<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    protocol: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dns: Option<Dns<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls: Option<Tls<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    http: Option<Http<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    inner_http: Option<Http<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    quic: Option<Quic>,
}

impl<'a> Application<'a> {
    pub(super) fn new(story: &'a ApplicationStory) -> Option<Self> {
        let it = Self {
            protocol: story.protocol.map(|it| it.name()),
            dns: story.dns.as_deref().map(Dns::new),
            tls: story.tls.as_deref().map(Tls::new),
            http: story.http.as_deref().map(Http::new),
            inner_http: story.inner_http.as_deref().map(Http::new),
            quic: story.quic.as_deref().map(Quic::new),
        };
        let has_http = it.http.is_some() || it.inner_http.is_some();
        let has_any = it.dns.is_some() || it.tls.is_some() || it.quic.is_some();
        (it.protocol.is_some() || has_any || has_http).then_some(it)
    }
}

/// Nanoseconds as milliseconds.
#[expect(clippy::cast_precision_loss, reason = "2⁵³ ns are a hundred days")]
fn milliseconds(ns: u64) -> f64 {
    ns as f64 / 1e6
}

fn frame(moment: Option<Moment>) -> Option<u64> {
    moment.map(|moment| moment.frame)
}

#[derive(Serialize)]
struct DelaysView {
    count: u32,
    min: f64,
    mean: f64,
    max: f64,
}

impl DelaysView {
    fn new(delays: &Delays) -> Option<Self> {
        let mean = delays.mean_ns().map(milliseconds)?;
        Some(Self {
            count: delays.count,
            min: milliseconds(delays.min_ns),
            mean,
            max: milliseconds(delays.max_ns),
        })
    }
}

#[derive(Serialize)]
struct Dns<'a> {
    kind: &'static str,
    queries: u32,
    retries: u32,
    answers: u32,
    answered: u32,
    unanswered: u32,
    unmatched: u32,
    continuations: u32,
    truncated: u32,
    malformed: u32,
    cut: u32,
    evicted: u32,
    rcodes: BTreeMap<String, u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delay_ms: Option<DelaysView>,
    first: Vec<DnsExchangeView<'a>>,
    worst: Vec<DnsExchangeView<'a>>,
}

impl<'a> Dns<'a> {
    fn new(story: &'a DnsStory) -> Self {
        let counts = &story.counts;
        let rcodes = story.rcodes.iter();
        Self {
            kind: match story.kind {
                DnsKind::Unicast => "unicast",
                DnsKind::Multicast => "multicast",
                DnsKind::LinkLocal => "link_local",
            },
            queries: counts.queries,
            retries: counts.retries,
            answers: counts.answers,
            answered: counts.answered,
            unanswered: counts.unanswered,
            unmatched: counts.unmatched,
            continuations: counts.continuations,
            truncated: counts.truncated,
            malformed: counts.malformed,
            cut: counts.cut,
            evicted: counts.evicted,
            rcodes: rcodes
                .map(|(code, count)| (word::rcode(*code), *count))
                .collect(),
            delay_ms: DelaysView::new(&story.delays),
            first: story.first.iter().map(DnsExchangeView::new).collect(),
            worst: story.worst.iter().map(DnsExchangeView::new).collect(),
        }
    }
}

#[derive(Serialize)]
struct DnsExchangeView<'a> {
    name: &'a str,
    #[serde(rename = "type")]
    record_type: String,
    query_frame: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    answer_frame: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delay_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rcode: Option<String>,
    retries: u16,
    truncated: bool,
}

impl<'a> DnsExchangeView<'a> {
    fn new(exchange: &'a DnsExchange) -> Self {
        Self {
            name: &exchange.name,
            record_type: word::record_type(exchange.record_type),
            query_frame: exchange.query.frame,
            answer_frame: frame(exchange.answer),
            delay_ms: exchange.delay_ns().map(milliseconds),
            rcode: exchange.rcode.map(word::rcode),
            retries: exchange.retry_count,
            truncated: exchange.is_truncated,
        }
    }
}

#[derive(Serialize)]
struct Tls<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    server_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    alpn_offered: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    alpn_chosen: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version_offered: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version_chosen: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cipher_suite: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_hello_frame: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hello_retry_frame: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_hello_frame: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hello_delay_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_data_delay_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_data_delay_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resumed: Option<bool>,
    early_data: bool,
    cut: bool,
    alerts: Vec<AlertView>,
    alerts_beyond: u32,
}

impl<'a> Tls<'a> {
    fn new(story: &'a TlsStory) -> Self {
        Self {
            server_name: story.server_name.as_deref(),
            alpn_offered: story.alpn_offered.as_deref(),
            alpn_chosen: story.alpn_chosen.as_deref(),
            version_offered: story.version_offered.map(word::tls_version),
            version_chosen: story.version_chosen.map(word::tls_version),
            cipher_suite: story.cipher_suite.map(|suite| format!("{suite:#06x}")),
            client_hello_frame: frame(story.client_hello),
            hello_retry_frame: frame(story.hello_retry),
            server_hello_frame: frame(story.server_hello),
            hello_delay_ms: story.hello_delay_ns().map(milliseconds),
            client_data_delay_ms: story.data_delay_ns(Side::Client).map(milliseconds),
            server_data_delay_ms: story.data_delay_ns(Side::Server).map(milliseconds),
            resumed: story.is_resumed,
            early_data: story.has_early_data,
            cut: story.is_cut,
            alerts: story.alerts.iter().map(AlertView::new).collect(),
            alerts_beyond: story.alerts_beyond,
        }
    }
}

#[derive(Serialize)]
struct AlertView {
    side: &'static str,
    level: u8,
    description: String,
    frame: u64,
}

impl AlertView {
    fn new(alert: &Alert) -> Self {
        let name = alert.name().map(str::to_owned);
        Self {
            side: word::side(alert.side),
            level: alert.level,
            description: name.unwrap_or_else(|| alert.description.to_string()),
            frame: alert.moment.frame,
        }
    }
}

#[derive(Serialize)]
struct Http<'a> {
    requests: u32,
    responses: u32,
    unanswered: u32,
    unmatched: u32,
    evicted: u32,
    cut: u32,
    status_1xx: u32,
    status_2xx: u32,
    status_3xx: u32,
    status_4xx: u32,
    status_5xx: u32,
    tunnel: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    delay_ms: Option<DelaysView>,
    first: Vec<HttpExchangeView<'a>>,
    worst: Vec<HttpExchangeView<'a>>,
}

impl<'a> Http<'a> {
    fn new(story: &'a HttpStory) -> Self {
        let [status_1xx, status_2xx, status_3xx, status_4xx, status_5xx] = story.status_classes;
        Self {
            requests: story.requests,
            responses: story.responses,
            unanswered: story.unanswered,
            unmatched: story.unmatched,
            evicted: story.evicted,
            cut: story.cut,
            status_1xx,
            status_2xx,
            status_3xx,
            status_4xx,
            status_5xx,
            tunnel: story.is_tunnel,
            delay_ms: DelaysView::new(&story.delays),
            first: story.first.iter().map(HttpExchangeView::new).collect(),
            worst: story.worst.iter().map(HttpExchangeView::new).collect(),
        }
    }
}

#[derive(Serialize)]
struct HttpExchangeView<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    method: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    path: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_frame: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_frame: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delay_ms: Option<f64>,
}

impl<'a> HttpExchangeView<'a> {
    fn new(exchange: &'a HttpExchange) -> Self {
        Self {
            method: exchange.method,
            path: &exchange.path,
            host: exchange.host.as_deref(),
            status: exchange.status,
            request_frame: frame(exchange.request),
            response_frame: frame(exchange.response),
            delay_ms: exchange.delay_ns().map(milliseconds),
        }
    }
}

#[derive(Serialize)]
struct Quic {
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    versions_offered: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_initial_frame: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_hello_frame: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_frame: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version_negotiation_frame: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hello_delay_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_handshake_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_handshake_ms: Option<f64>,
    early_data: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    destination_id_bytes: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_source_id_bytes: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_source_id_bytes: Option<u8>,
    client_long_packets: u32,
    server_long_packets: u32,
    client_short_packets: u32,
    server_short_packets: u32,
    spin: Spin,
}

impl Quic {
    fn new(story: &QuicStory) -> Self {
        let versions = story.versions_offered.iter();
        Self {
            version: story.version.map(word::quic_version),
            versions_offered: versions.map(|it| word::quic_version(*it)).collect(),
            client_initial_frame: frame(story.client_initial),
            server_hello_frame: frame(story.server_hello),
            retry_frame: frame(story.retry),
            version_negotiation_frame: frame(story.version_negotiation),
            hello_delay_ms: story.hello_delay_ns().map(milliseconds),
            client_handshake_ms: story.handshake_ns(Side::Client).map(milliseconds),
            server_handshake_ms: story.handshake_ns(Side::Server).map(milliseconds),
            early_data: story.has_early_data,
            destination_id_bytes: story.destination_id_length,
            client_source_id_bytes: story.source_id_length.client,
            server_source_id_bytes: story.source_id_length.server,
            client_long_packets: story.long_count.client,
            server_long_packets: story.long_count.server,
            client_short_packets: story.short_count.client,
            server_short_packets: story.short_count.server,
            spin: Spin::new(&story.spin),
        }
    }
}

/// Round trips by the spin bit (RFC 9000 section 17.4), in milliseconds.
#[derive(Serialize)]
struct Spin {
    usage: &'static str,
    idle: u32,
    refused: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_round_trip_ms: Option<DelaysView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_round_trip_ms: Option<DelaysView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_half_ms: Option<DelaysView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_half_ms: Option<DelaysView>,
}

impl Spin {
    fn new(story: &SpinStory) -> Self {
        let pair = |times: &Sides<Delays>| {
            let [client, server] = [&times.client, &times.server].map(DelaysView::new);
            (client, server)
        };
        let (client_round_trip_ms, server_round_trip_ms) = pair(&story.round_trips);
        let (client_half_ms, server_half_ms) = pair(&story.halves);
        Self {
            usage: match story.usage {
                SpinUse::Unknown => "unknown",
                SpinUse::Disabled => "disabled",
                SpinUse::Random => "random",
                SpinUse::Active => "active",
            },
            idle: story.idle_count,
            refused: story.refused_count,
            client_round_trip_ms,
            server_round_trip_ms,
            client_half_ms,
            server_half_ms,
        }
    }
}
