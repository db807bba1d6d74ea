//! What an application did, in words: a line for each subject.

use phalanx_engine::Side;
use phalanx_engine::application::{
    ApplicationStory, Delays, DnsExchange, DnsStory, HttpExchange, HttpStory, QuicStory, SpinUse,
    TlsStory,
};

use crate::report::word;

/// Exchanges that are told one by one.
const EXCHANGE_COUNT_MAX: usize = 3;

pub(super) fn dns(story: &ApplicationStory) -> Vec<String> {
    story.dns.as_deref().map_or(vec![], describe_dns)
}

pub(super) fn tls(story: &ApplicationStory) -> Vec<String> {
    story.tls.as_deref().map_or(vec![], describe_tls)
}

pub(super) fn http(story: &ApplicationStory) -> Vec<String> {
    let parts = [story.http.as_deref(), story.inner_http.as_deref()];
    parts
        .into_iter()
        .flatten()
        .flat_map(describe_http)
        .collect()
}

pub(super) fn quic(story: &ApplicationStory) -> Vec<String> {
    story.quic.as_deref().map_or(vec![], describe_quic)
}

fn duration(ns: u64) -> String {
    word::duration(i64::try_from(ns).unwrap_or(i64::MAX))
}

/// Counts that are not 0, with their words for one and for many.
fn counted(counts: &[(u32, &str, &str)]) -> String {
    let counts = counts.iter().filter(|(count, ..)| *count > 0);
    let words = counts.map(|(count, one, many)| word::count((*count).into(), one, many));
    words.collect::<Vec<_>>().join(", ")
}

fn delays(delays: &Delays, what: &str) -> Option<String> {
    let mean = duration(delays.mean_ns()?);
    let (min, max) = (duration(delays.min_ns), duration(delays.max_ns));
    Some(match delays.count {
        1 => format!("{what} after {mean}"),
        _ => format!("{what} after {min} to {max}, {mean} on average"),
    })
}

fn describe_dns(dns: &DnsStory) -> Vec<String> {
    let counts = &dns.counts;
    let mut lines = vec![counted(&[
        (counts.queries, "query", "queries"),
        (counts.answered, "answered", "answered"),
        (counts.unanswered, "without an answer", "without an answer"),
        (counts.retries, "asked again", "asked again"),
        (
            counts.unmatched,
            "answer to no query",
            "answers to no query",
        ),
        (counts.truncated, "truncated", "truncated"),
        (counts.malformed, "malformed", "malformed"),
    ])];
    lines.extend(delays(&dns.delays, "answers"));
    let is_bad = |exchange: &&DnsExchange| {
        exchange.answer.is_none() || exchange.rcode.is_some_and(|rcode| rcode.is_failure())
    };
    let bad: Vec<_> = dns
        .worst
        .iter()
        .filter(is_bad)
        .take(EXCHANGE_COUNT_MAX)
        .collect();
    let shown = match bad.is_empty() {
        true => dns.first.iter().take(EXCHANGE_COUNT_MAX).collect(),
        false => bad,
    };
    lines.extend(shown.into_iter().map(describe_dns_exchange));
    lines.retain(|line| !line.is_empty());
    lines
}

fn describe_dns_exchange(exchange: &DnsExchange) -> String {
    let name = word::foreign(&exchange.name);
    let asked = format!("{} {name}", word::record_type(exchange.record_type));
    let answer = match (exchange.delay_ns(), exchange.rcode) {
        (None, _) => "no answer".to_owned(),
        (Some(ns), None) => duration(ns),
        (Some(ns), Some(rcode)) => format!("{} after {}", word::rcode(rcode), duration(ns)),
    };
    let frame = exchange.query.frame;
    format!("{asked}: {answer} (frame {frame})")
}

fn describe_tls(tls: &TlsStory) -> Vec<String> {
    let mut parts = Vec::new();
    if let Some(version) = tls.version_chosen {
        parts.push(word::tls_version(version));
    } else if let Some(version) = tls.version_offered {
        parts.push(format!("offers {}", word::tls_version(version)));
    }
    if let Some(name) = &tls.server_name {
        parts.push(format!("for {}", word::foreign(name)));
    }
    if let Some(protocol) = tls.alpn_chosen.as_ref().or(tls.alpn_offered.as_ref()) {
        let is_chosen = tls.alpn_chosen.is_some();
        let how = if is_chosen { "speaks" } else { "offers" };
        parts.push(format!("{how} {}", word::foreign(protocol)));
    }
    if tls.is_resumed == Some(true) {
        parts.push("resumed".to_owned());
    }
    if tls.has_early_data {
        parts.push("early data".to_owned());
    }
    if tls.hello_retry.is_some() {
        parts.push("the client had to ask again".to_owned());
    }
    if tls.is_cut {
        parts.push("the capture lacks a part of the handshake".to_owned());
    }
    let mut lines = vec![parts.join(", ")];
    let times = [
        (tls.hello_delay_ns(), "hello answered after"),
        (tls.data_delay_ns(Side::Client), "client's data after"),
        (tls.data_delay_ns(Side::Server), "server's data after"),
    ];
    let times = times
        .iter()
        .filter_map(|(ns, what)| Some(format!("{what} {}", duration((*ns)?))));
    lines.push(times.collect::<Vec<_>>().join(", "));
    lines.extend(tls.alerts.iter().map(|alert| {
        let level = if alert.level == 2 {
            "fatal alert"
        } else {
            "alert"
        };
        let (side, frame) = (word::side(alert.side), alert.moment.frame);
        format!(
            "{level} of the {side}: {} (frame {frame})",
            word::alert(alert)
        )
    }));
    lines.retain(|line| !line.is_empty());
    lines
}

fn describe_http(http: &HttpStory) -> Vec<String> {
    let [_, good, moved, refused, failed] = http.status_classes;
    let mut lines = vec![counted(&[
        (http.requests, "request", "requests"),
        (http.unanswered, "without an answer", "without an answer"),
        (good, "answer 2xx", "answers 2xx"),
        (moved, "answer 3xx", "answers 3xx"),
        (refused, "answer 4xx", "answers 4xx"),
        (failed, "answer 5xx", "answers 5xx"),
    ])];
    lines.extend(delays(&http.delays, "answers"));
    let is_bad = |exchange: &&HttpExchange| exchange.status.is_none_or(|status| status >= 400);
    let bad: Vec<_> = http
        .worst
        .iter()
        .filter(is_bad)
        .take(EXCHANGE_COUNT_MAX)
        .collect();
    let shown = match bad.is_empty() {
        true => http.first.iter().take(EXCHANGE_COUNT_MAX).collect(),
        false => bad,
    };
    lines.extend(shown.into_iter().map(describe_http_exchange));
    lines.retain(|line| !line.is_empty());
    lines
}

fn describe_http_exchange(exchange: &HttpExchange) -> String {
    let host = exchange.host.as_deref().unwrap_or_default();
    let target = match exchange.method {
        "" => "a request that was not captured".to_owned(),
        "CONNECT" => format!("CONNECT {}", word::foreign(&exchange.path)),
        method => format!(
            "{method} {}",
            word::foreign(&format!("{host}{}", exchange.path))
        ),
    };
    let status = match exchange.status {
        None => "no answer".to_owned(),
        Some(status) => status.to_string(),
    };
    let after = exchange.delay_ns();
    let after = after.map_or_else(String::new, |ns| format!(" after {}", duration(ns)));
    let moment = exchange.request.or(exchange.response);
    let frame = moment.map_or_else(String::new, |it| format!(" (frame {})", it.frame));
    format!("{target}: {status}{after}{frame}")
}

fn describe_quic(quic: &QuicStory) -> Vec<String> {
    let mut parts: Vec<String> = quic.version.map(word::quic_version).into_iter().collect();
    for (is_so, words) in [
        (
            quic.retry.is_some(),
            "the server wanted the address confirmed",
        ),
        (
            quic.version_negotiation.is_some(),
            "the server does not speak the client's version",
        ),
        (quic.has_early_data, "early data"),
    ] {
        if is_so {
            parts.push(words.to_owned());
        }
    }
    let times = [
        (quic.hello_delay_ns(), "hello answered after"),
        (quic.handshake_ns(Side::Client), "client ready after"),
        (quic.handshake_ns(Side::Server), "server ready after"),
    ];
    let times = times
        .iter()
        .filter_map(|(ns, what)| Some(format!("{what} {}", duration((*ns)?))));
    let mut lines = vec![parts.join(", "), times.collect::<Vec<_>>().join(", ")];
    if quic.spin.usage == SpinUse::Active {
        let trips = [&quic.spin.round_trips.client, &quic.spin.round_trips.server];
        let most = trips.into_iter().max_by_key(|trips| trips.count);
        lines.extend(most.and_then(|trips| delays(trips, "the spin bit turns")));
    }
    lines.retain(|line| !line.is_empty());
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use phalanx_engine::application::TlsVersion;

    #[test]
    fn what_is_only_offered_is_said_to_be() {
        let mut tls = TlsStory {
            version_offered: Some(TlsVersion(0x0304)),
            server_name: Some("shop.example".into()),
            ..TlsStory::default()
        };
        assert_eq!(describe_tls(&tls), ["offers TLS 1.3, for shop.example"]);
        tls.version_chosen = Some(TlsVersion(0x0303));
        assert_eq!(describe_tls(&tls), ["TLS 1.2, for shop.example"]);
    }
}
