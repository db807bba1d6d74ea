//! An API over a real engine that tests feed with the kernel's updates. Test code only.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request as HttpRequest, StatusCode};
use http_body_util::BodyExt;
use phalanx_common::abi::{
    Attempt, Direction, FlowKey, FlowUpdate, HalfCounters, RecordHeader, Sample, SampleKind,
    attempt_outcome, event_kind, update_reason,
};
use phalanx_common::limits::SAMPLE_COUNT;
use phalanx_engine::{Command, Engine, EngineConfig, Hop, HopId, Input, Link, NamespaceId};
use serde_json::Value;
use tokio::sync::mpsc;
use tower::ServiceExt;
use zerocopy::FromZeros;

use super::recorder::Recorder;
use super::service::Settings;
use super::{Api, router};
use crate::auth::{Access, Role, Token, TokenDigest};
use crate::capture::{Captures, Keeping};
use crate::clock::{Clock, Reading, now};
use crate::daemon::{DaemonHandle, Feed, KernelStatus, Record, Request};
use crate::kernel::RecordingFilter;
use crate::lookback::{Lookback, LookbackOptions, LookbackStatus};
use crate::view::Outlook;

static DIRECTORY_COUNT: AtomicU64 = AtomicU64::new(0);

pub(crate) struct Fixture {
    pub(crate) api: Arc<Api>,
    pub(crate) engine: Engine,
    pub(crate) filters: Arc<Mutex<Vec<(u8, RecordingFilter)>>>,
    pub(crate) settings: Settings,
    router: Router,
}

/// A directory of its own, gone with the value.
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        let count = DIRECTORY_COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("phalanx-test-{}-{count}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// An answer.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: axum::http::HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }
}

pub(crate) fn settings(directory: &Scratch) -> Settings {
    Settings {
        access: Access::new(Vec::new(), Role::Admin),
        is_loopback: true,
        keeping: Keeping {
            directory: directory.0.clone(),
            bytes_max: 50_000_000,
            age_max: Duration::from_secs(3_600),
        },
        lines: None,
    }
}

pub(crate) fn tokens() -> Vec<Token> {
    [
        ("v", Role::Viewer),
        ("o", Role::Operator),
        ("a", Role::Admin),
    ]
    .map(|(name, role)| Token {
        name: name.to_owned(),
        role,
        digest: TokenDigest::of(&format!("token-{name}")),
    })
    .into()
}

impl Fixture {
    /// The captures of the host that the fixture stands for.
    pub(crate) fn captures(&self) -> Arc<Captures> {
        match &self.api.captures {
            Ok(Recorder::Here(captures)) => Arc::clone(captures),
            other => panic!("{other:?}"),
        }
    }

    /// An empty API; the daemon's loop is played by a task that accepts all recording filters.
    pub(crate) fn new(settings: Settings) -> Self {
        let clock = Clock::new(Reading::take());
        let (requests, mut asked) = mpsc::channel(4);
        let filters: Arc<Mutex<Vec<_>>> = Arc::default();
        let in_force = Arc::clone(&filters);
        tokio::spawn(async move {
            while let Some(Request::SetRecording { filters, reply }) = asked.recv().await {
                *in_force.lock().unwrap() = filters;
                let _ = reply.send(Ok(crate::lookback::Seam::default()));
            }
        });
        let waker = crate::daemon::test_waker();
        let daemon = DaemonHandle {
            requests,
            waker,
            clock: clock.clone(),
            promoted: Arc::default(),
            lookback: Arc::new(Lookback::new(LookbackOptions::default()).unwrap()),
            translations: Arc::default(),
        };
        let outlook = Arc::new(Outlook::new(clock).unwrap());
        let api = Arc::new(Api::new(settings.clone(), outlook, daemon));
        let router = router(&api);
        let engine = Engine::new(EngineConfig::default());
        Self {
            api,
            engine,
            filters,
            settings,
            router,
        }
    }

    /// As [`Self::new`], with hops, two TCP flows, one UDP flow and failed attempts.
    pub(crate) fn with_traffic(settings: Settings) -> Self {
        let mut fixture = Self::new(settings);
        for (id, name) in [(1, "eth0"), (2, "eth1")] {
            fixture
                .engine
                .handle(Input::HopAppeared(hop(id, name)), now());
        }
        for (client, version, reason) in [
            (1, 1, update_reason::OPENED),
            (2, 1, update_reason::OPENED),
            (1, 2, update_reason::INTERVAL),
            (2, 2, update_reason::CLOSED),
        ] {
            fixture.update(1, &update(client, 6, version, reason));
        }
        fixture.update(2, &update(3, 17, 1, update_reason::OPENED));
        for outcome in [attempt_outcome::STARTED, attempt_outcome::REFUSED] {
            let attempt = attempt(outcome);
            fixture.engine.handle(
                Input::Attempt {
                    hop: HopId(1),
                    attempt: &attempt,
                },
                now(),
            );
        }
        // Past the deadlines of closed flows and of what is told from time to time.
        let later = now().plus_ns(15_000_000_000);
        for _ in 0..64 {
            if fixture
                .engine
                .deadline()
                .is_none_or(|deadline| deadline > later)
            {
                break;
            }
            fixture.engine.handle_deadline(later);
        }
        let commands: Vec<_> = fixture.engine.commands().collect();
        for command in commands {
            let Command::ReadAndDelete {
                hop,
                key,
                incarnation,
            } = command
            else {
                continue;
            };
            fixture.engine.handle(
                Input::FlowGone {
                    hop,
                    key,
                    incarnation,
                },
                later,
            );
        }
        fixture.publish();
        fixture
            .api
            .outlook
            .take(Feed::Kernel(Box::new(kernel_status())));
        fixture
    }

    pub(crate) fn update(&mut self, hop: u32, update: &FlowUpdate) {
        self.engine.handle(
            Input::Update {
                hop: HopId(hop),
                update,
            },
            now(),
        );
    }

    pub(crate) fn publish(&mut self) {
        let changes: Vec<_> = self.engine.changes().collect();
        self.api.outlook.take(Feed::Changes(changes));
    }

    pub(crate) async fn send(&self, request: HttpRequest<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes().to_vec();
        Answer {
            status: parts.status,
            headers: parts.headers,
            body,
        }
    }

    pub(crate) async fn get(&self, uri: &str) -> Answer {
        self.send(request("GET", uri).body(Body::empty()).unwrap())
            .await
    }

    pub(crate) async fn post(&self, uri: &str, body: &str) -> Answer {
        let request = request("POST", uri).header("content-type", "application/json");
        self.send(request.body(Body::from(body.to_owned())).unwrap())
            .await
    }

    pub(crate) fn router(&self) -> Router {
        self.router.clone()
    }
}

pub(crate) fn request(method: &str, uri: &str) -> axum::http::request::Builder {
    HttpRequest::builder()
        .method(method)
        .uri(uri)
        .header("host", "127.0.0.1:7070")
}

pub(crate) fn hop(id: u32, name: &str) -> Hop {
    Hop {
        id: HopId(id),
        host: "here".into(),
        namespace: NamespaceId(1),
        namespace_name: None,
        interface: name.into(),
        ifindex: id,
        link: Link::Ethernet,
        clock: phalanx_engine::ClockId::default(),
    }
}

fn words(octets: [u8; 4]) -> [u32; 4] {
    [
        0,
        0,
        u32::from_ne_bytes([0, 0, 0xff, 0xff]),
        u32::from_ne_bytes(octets),
    ]
}

pub(crate) fn key(client: u8, protocol: u8) -> FlowKey {
    FlowKey {
        low: words([10, 0, 0, client]),
        high: words([10, 0, 1, 1]),
        low_port: 40_000 + u16::from(client),
        high_port: 443,
        ifindex: 1,
        vlan: 0,
        protocol,
        reserved: 0,
    }
}

pub(crate) fn update(client: u8, protocol: u8, version: u32, reason: u32) -> FlowUpdate {
    let half = |factor: u64| HalfCounters {
        packets: u64::from(version) * 10 * factor,
        bytes: u64::from(version) * 1_000 * factor * u64::from(client),
        retransmitted_packets: version,
        retransmitted_bytes: u64::from(version) * 100,
        zero_window_count: version,
        rst_count: 0,
        mss: 1_460,
        ..HalfCounters::default()
    };
    let mut update = FlowUpdate {
        kind: event_kind::FLOW_UPDATE,
        reason,
        key: key(client, protocol),
        incarnation: 1,
        version,
        initiator: 1,
        opened_ns: now().0,
        now_ns: now().0 + u64::from(version),
        handshake_server_us: if protocol == 6 { 20_000 } else { 0 },
        handshake_client_us: if protocol == 6 { 300 } else { 0 },
        icmp_error: 0,
        sample_count: 2 * (version - 1),
        matched: 0,
        halves: [half(1), half(2)],
        samples: [0; SAMPLE_COUNT],
    };
    for (kind, microseconds) in [
        (SampleKind::Rtt(Direction::FromLow), 20_000),
        (SampleKind::Turn(Direction::FromHigh), 30_000),
    ] {
        update.push_sample(Sample { kind, microseconds });
    }
    update
}

fn attempt(outcome: u32) -> Attempt {
    let mut attempt = Attempt::new_zeroed();
    attempt.kind = event_kind::ATTEMPT;
    attempt.outcome = outcome;
    attempt.key = FlowKey {
        high_port: 444,
        ..key(9, 6)
    };
    attempt.initiator = 1;
    attempt.now_ns = now().0;
    attempt
}

pub(crate) fn kernel_status() -> KernelStatus {
    use crate::daemon::{HopState, HopStatus, InstanceStatus, RingStatus};
    let mut counters = [0; phalanx_common::abi::COUNTER_COUNT];
    counters[phalanx_common::abi::Counter::Seen as usize] = 100;
    counters[phalanx_common::abi::Counter::Parsed as usize] = 98;
    let hop = |hop, interface: &str, state| HopStatus {
        hop,
        namespace: "own".into(),
        interface: interface.into(),
        ifindex: 1,
        ingress: "tcx".into(),
        egress: "tcx".into(),
        reason: "default route".into(),
        state,
    };
    KernelStatus {
        at: now(),
        counters,
        instances: vec![InstanceStatus {
            namespace: "own".into(),
            events: RingStatus {
                used_bytes: 512,
                size_bytes: 2 << 20,
            },
            records: RingStatus {
                used_bytes: 0,
                size_bytes: 8 << 20,
            },
            flow_count: 3,
            flow_count_max: 131_072,
        }],
        tally: phalanx_engine::Tally::default(),
        map_memory_bytes: 64 << 20,
        hops: vec![
            hop(Some(HopId(1)), "eth0", HopState::Running),
            hop(None, "eth9", HopState::Failed("no such interface".into())),
        ],
        events_read: 5,
        events_unknown: 0,
        events_unplaced: 0,
        records_read: 0,
        promoted_packets: 0,
        promoted_evicted: 0,
        lookback: LookbackStatus::default(),
        translations: crate::translation::LookupCounts::default(),
        records_dropped_queue_full: 0,
        event_lag_ns: 1_000_000,
        cpu_ns: 1_000_000,
        resident_bytes: 20 << 20,
    }
}

/// A record of a TCP segment to port 443 with `payload` bytes, of which none are captured.
pub(crate) fn record(hop: u32, matched: u64, payload: u16) -> Record {
    let total = 40 + payload;
    let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0];
    bytes.extend_from_slice(&total.to_be_bytes());
    bytes.extend_from_slice(&[0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 1, 1]);
    bytes.extend_from_slice(&40_001_u16.to_be_bytes());
    bytes.extend_from_slice(&443_u16.to_be_bytes());
    bytes.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x18, 1, 0, 0, 0, 0, 0]);
    let mut header = RecordHeader::new_zeroed();
    header.time_ns = now().0;
    header.matched = matched;
    header.frame_length = 14 + u32::from(total);
    header.captured_length = bytes.len() as u32;
    header.payload_offset = bytes.len() as u16;
    header.has_ethernet = 1;
    header.gso_segments = 1;
    Record {
        hop: HopId(hop),
        header,
        bytes,
    }
}
