//! What an application says went wrong, from what was in clear.

use phalanx_engine::application::{Alert, DnsStory, HttpStory, Rcode};
use phalanx_engine::story::FlowStory;

use super::score::ANSWER_FREE_NS;
use super::word;

/// The level of an alert that ends a connection (RFC 8446 section 6).
const FATAL: u8 = 2;
/// "close_notify" is not a failure, whatever its level.
const CLOSE_NOTIFY: u8 = 0;

const POINTS: f64 = 30.0;
/// For requests that the server did not like.
const POINTS_OF_CLIENT: f64 = 10.0;

/// The worst thing that an application says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// A fatal alert of TLS.
    Alert(Alert),
    /// DNS queries without an answer.
    DnsUnanswered(u32),
    /// A response code that says that something is wrong, and how often it came.
    DnsFailed(Rcode, u32),
    /// Responses of the server's own failure.
    HttpServer(u32),
    /// Responses that blame the request.
    HttpClient(u32),
}

/// The failure that is told of, if there is any.
pub(super) fn of(story: &FlowStory) -> Option<Failure> {
    let has_all = story.sides.server.counts.unseen_bytes == 0;
    // A capture often ends while an answer is under way.
    let has_time = story.watched_ns() >= ANSWER_FREE_NS;
    let story = &story.application;
    let alerts = story.tls.iter().flat_map(|tls| &tls.alerts);
    let fatal = |alert: &&Alert| alert.level == FATAL && alert.description != CLOSE_NOTIFY;
    let alert = alerts
        .copied()
        .find(|alert| fatal(&alert))
        .map(Failure::Alert);
    let http = [&story.http, &story.inner_http];
    alert
        .or_else(|| {
            story
                .dns
                .as_deref()
                .and_then(|dns| of_dns(dns, has_all && has_time))
        })
        .or_else(|| http.into_iter().flatten().find_map(|http| of_http(http)))
}

/// `tells_unanswered` says that what has no answer here had none.
fn of_dns(dns: &DnsStory, tells_unanswered: bool) -> Option<Failure> {
    // Answers to multicast queries come by other flows.
    let is_unicast = dns.kind == phalanx_engine::application::DnsKind::Unicast;
    if dns.counts.unanswered > 0 && is_unicast && tells_unanswered {
        return Some(Failure::DnsUnanswered(dns.counts.unanswered));
    }
    let failures = dns.rcodes.iter().filter(|(rcode, _)| rcode.is_failure());
    let most = failures.max_by_key(|(rcode, count)| (*count, std::cmp::Reverse(rcode.0)));
    most.map(|(rcode, count)| Failure::DnsFailed(*rcode, *count))
}

fn of_http(http: &HttpStory) -> Option<Failure> {
    match http.status_classes {
        [.., 0, 0] => None,
        [.., count, 0] => Some(Failure::HttpClient(count)),
        [.., count] => Some(Failure::HttpServer(count)),
    }
}

impl Failure {
    pub(super) const fn points(&self) -> f64 {
        match self {
            Self::HttpClient(_) => POINTS_OF_CLIENT,
            _ => POINTS,
        }
    }

    pub(super) fn say(&self) -> String {
        match self {
            Self::Alert(alert) => {
                let name = word::alert(alert);
                format!("TLS alert of the {}: {name}", word::side(alert.side))
            }
            Self::DnsUnanswered(count) => {
                let queries = word::count(u64::from(*count), "DNS query", "DNS queries");
                format!("{queries} without an answer")
            }
            Self::DnsFailed(rcode, count) => {
                let answers = word::count(u64::from(*count), "DNS answer", "DNS answers");
                format!("{answers} {}", word::rcode(*rcode))
            }
            Self::HttpServer(count) => {
                let answers = word::count(u64::from(*count), "HTTP status", "HTTP statuses");
                format!("{answers} from 500 on")
            }
            Self::HttpClient(count) => {
                let answers = word::count(u64::from(*count), "HTTP status", "HTTP statuses");
                format!("{answers} from 400 on")
            }
        }
    }
}
