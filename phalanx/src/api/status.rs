//! `/api/v1/status`: the daemon and its losses.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Json;
use axum::extract::State as Shared;
use phalanx_common::abi::Counter;
use phalanx_common::packet::Unparsed;
use phalanx_engine::Monotonic;
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;
use super::problem::Problem;
use super::show;
use super::version::VERSION;
use crate::agent::{UplinkState, UplinkStatus};
use crate::clock::ClockEvent;
use crate::daemon::{KernelStatus, RingStatus};

/// How the daemon does.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Status {
    /// The version of Phalanx.
    pub version: &'static str,
    /// Whether it has attached.
    pub is_ready: bool,
    /// The time now.
    pub now: String,
    /// The kernel side; absent until it has told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<KernelView>,
    /// The way to the hub; absent where this is no agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uplink: Option<UplinkView>,
    /// What the views hold.
    pub views: ViewCounts,
    /// The stream of changes.
    pub stream: StreamView,
    /// Jumps of the clocks, the latest last.
    pub clock_events: Vec<ClockView>,
}

/// How the kernel side and the daemon's loop do.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct KernelView {
    /// When this was read.
    pub at: String,
    /// Counters of the kernel programs by stage, over all CPUs.
    pub counters: BTreeMap<&'static str, u64>,
    /// Packets that could not be parsed, by reason.
    pub unparsed: BTreeMap<&'static str, u64>,
    /// What the engine could not use or keep.
    pub engine: BTreeMap<&'static str, u64>,
    /// Each instance of the programs: one a namespace.
    pub instances: Vec<InstanceView>,
    /// Memory of the maps.
    pub map_memory_bytes: u64,
    /// Events taken from the rings.
    pub events_read: u64,
    /// Events that were not known.
    pub events_unknown: u64,
    /// Events of interfaces that the daemon did not know yet, or no longer; what they told is
    /// looked for in the flow table.
    pub events_unplaced: u64,
    /// Records taken from the rings.
    pub records_read: u64,
    /// Recent packets that are kept, so that captures can look back.
    pub lookback: LookbackView,
    /// Records that no capture took in time.
    pub records_dropped_queue_full: u64,
    /// From the making of the last event to its reading, in milliseconds.
    pub event_lag_ms: f64,
    /// CPU time of the daemon, in seconds.
    pub cpu_s: f64,
    /// Resident memory of the daemon.
    pub resident_bytes: u64,
}

/// One instance of the kernel programs.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct InstanceView {
    /// The network namespace.
    pub namespace: String,
    /// The ring of events.
    pub event_ring: RingView,
    /// The ring of records.
    pub record_ring: RingView,
    /// Flows in the table.
    pub flow_count: u64,
    /// Flows that fit into the table.
    pub flow_count_max: u64,
}

/// How looking back stands.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct LookbackView {
    /// What is recorded: `promoted`, `filter`, `all` or `off`.
    pub feed: &'static str,
    /// Packets that were kept since the start.
    pub kept: u64,
    /// Those of them that have left for later ones.
    pub evicted: u64,
    /// Packets that the filter does not select, though the kernel's part of it does.
    pub filtered_out: u64,
    /// Packets of flows that were not sampled, since the start: see `flow_share`.
    pub sampled_out: u64,
    /// Until when packets have left: later ones are here. Absent where none has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evicted_until: Option<String>,
    /// Bytes that the packets take.
    pub used_bytes: u64,
    /// Bytes that they may take.
    pub size_bytes: u64,
    /// Where they lie: `memory`, or `file` for all but the latest.
    pub place: &'static str,
    /// The part of one CPU that keeping them takes, smoothed; 0 unless all flows are fed.
    pub cpu_share: f64,
    /// The part of one CPU that it may take.
    pub cpu_share_max: f64,
    /// The part of all flows that is recorded; 1 unless all are fed.
    pub flow_share: f64,
}

/// How full a ring is.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub struct RingView {
    /// Bytes that wait.
    pub used_bytes: u64,
    /// Bytes that fit.
    pub size_bytes: u64,
}

/// What the views hold.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub struct ViewCounts {
    /// Number of the last change.
    pub sequence: u64,
    /// Changes that were missing between others.
    pub missing_count: u64,
    /// Flows that are open.
    pub flows_open: usize,
    /// Conversations that are open.
    pub conversations_open: usize,
    /// Flows, conversations and translations left out because the views were full.
    pub refused_count: u64,
}

/// The way of an agent to its hub.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct UplinkView {
    /// `connected`, `connecting` or `failed`.
    pub state: &'static str,
    /// Why the last try failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// Batches made since the start.
    pub batches: u64,
    /// Batches that the hub has acknowledged, those that an earlier process left included.
    pub acknowledged: u64,
    /// Batches dropped because memory and spool were full: the hub shows them as a gap.
    pub dropped: u64,
    /// Batches that wait in memory.
    pub memory_batches: u64,
    /// Bytes of batches on disk.
    pub spool_bytes: u64,
}

fn show_uplink(uplink: &UplinkStatus) -> UplinkView {
    let (state, failure) = match uplink.state() {
        UplinkState::Connecting => ("connecting", None),
        UplinkState::Connected => ("connected", None),
        UplinkState::Failed(why) => ("failed", Some(why)),
    };
    let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
    UplinkView {
        state,
        failure,
        batches: load(&uplink.batches),
        acknowledged: load(&uplink.acknowledged),
        dropped: load(&uplink.dropped),
        memory_batches: load(&uplink.memory_batches),
        spool_bytes: load(&uplink.spool_bytes),
    }
}

/// The stream of changes.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct StreamView {
    /// Its id: another one after a restart.
    pub id: String,
    /// Number of the last change.
    pub sequence: u64,
}

/// A jump of the clocks.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ClockView {
    /// When it was noticed.
    pub at: String,
    /// `step` or `suspend`.
    pub kind: &'static str,
    /// By how much, in seconds.
    pub seconds: f64,
}

const COUNTERS: [(&str, Counter); 24] = [
    ("seen", Counter::Seen),
    ("parsed", Counter::Parsed),
    ("watched", Counter::Watched),
    ("pended", Counter::Pended),
    ("untracked_table_full", Counter::UntrackedTableFull),
    ("icmp_errors", Counter::IcmpErrors),
    ("icmp_errors_matched", Counter::IcmpErrorsMatched),
    ("flows_opened", Counter::FlowsOpened),
    (
        "pending_displaced_packets",
        Counter::PendingDisplacedPackets,
    ),
    ("pending_displaced", Counter::PendingDisplaced),
    ("events_delivered", Counter::EventsDelivered),
    ("events_dropped_ring_full", Counter::EventsDroppedRingFull),
    ("attempts_withheld", Counter::AttemptsWithheld),
    ("matched", Counter::Matched),
    ("delivered", Counter::Delivered),
    ("dropped_ring_full", Counter::DroppedRingFull),
    ("sampled_out", Counter::SampledOut),
    ("refused", Counter::Refused),
    ("records_withheld", Counter::RecordsWithheld),
    ("promoted", Counter::Promoted),
    ("promotions_limited", Counter::PromotionsLimited),
    ("seen_xdp", Counter::SeenXdp),
    ("seen_tc_ingress", Counter::SeenTcIngress),
    ("seen_tc_egress", Counter::SeenTcEgress),
];

/// Shows how the daemon does.
#[utoipa::path(get, path = "/api/v1/status", tag = "daemon",
    responses((status = 200, body = Status),
        (status = "4XX", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn get(Shared(api): Shared<Arc<Api>>) -> Json<Status> {
    let outlook = &api.outlook;
    let kernel = outlook.kernel().map(|kernel| show_kernel(&api, &kernel));
    let view = outlook.view();
    let views = ViewCounts {
        sequence: view.sequence,
        missing_count: view.missing_count,
        flows_open: view.flows.open_count(),
        conversations_open: view.conversations.open_count(),
        refused_count: view.flows.refused_count()
            + view.conversations.refused_count()
            + view.translations_left_out,
    };
    drop(view);
    Json(Status {
        version: VERSION,
        uplink: outlook.uplink().map(|it| show_uplink(it)),
        is_ready: api.is_ready(),
        now: show::time(&outlook.clock, outlook.clock.now()),
        kernel,
        views,
        stream: StreamView {
            id: outlook.stream.id().to_owned(),
            sequence: outlook.stream.latest(),
        },
        clock_events: outlook
            .clock_events()
            .iter()
            .map(|event| show_clock(&api, event))
            .collect(),
    })
}

fn show_kernel(api: &Api, kernel: &KernelStatus) -> KernelView {
    let unparsed = |reason: Unparsed| {
        let index = Counter::UnparsedFirst as usize + reason as usize;
        (reason.name(), kernel.counters[index])
    };
    let instances = kernel.instances.iter().map(|instance| InstanceView {
        namespace: instance.namespace.clone(),
        event_ring: RingView::from(instance.events),
        record_ring: RingView::from(instance.records),
        flow_count: instance.flow_count,
        flow_count_max: instance.flow_count_max,
    });
    KernelView {
        at: show::time(&api.outlook.clock, kernel.at),
        counters: COUNTERS
            .iter()
            .map(|(name, of)| (*name, kernel.counter(*of)))
            .collect(),
        unparsed: Unparsed::ALL.into_iter().map(unparsed).collect(),
        engine: kernel.tally.entries().collect(),
        instances: instances.collect(),
        map_memory_bytes: kernel.map_memory_bytes,
        events_read: kernel.events_read,
        events_unknown: kernel.events_unknown,
        events_unplaced: kernel.events_unplaced,
        records_read: kernel.records_read,
        lookback: show_lookback(api, kernel),
        records_dropped_queue_full: kernel.records_dropped_queue_full,
        event_lag_ms: show::seconds(kernel.event_lag_ns) * 1e3,
        cpu_s: show::seconds(kernel.cpu_ns),
        resident_bytes: kernel.resident_bytes,
    }
}

fn show_lookback(api: &Api, kernel: &KernelStatus) -> LookbackView {
    let status = &kernel.lookback;
    let until_ns = Some(status.evicted_until_ns).filter(|until_ns| *until_ns > 0);
    LookbackView {
        feed: status.feed.name(),
        kept: status.kept,
        evicted: status.evicted,
        filtered_out: status.filtered_out,
        sampled_out: kernel.sampled_out(),
        evicted_until: until_ns.map(|ns| show::time(&api.outlook.clock, Monotonic(ns))),
        used_bytes: status.used_bytes,
        size_bytes: status.size_bytes,
        place: if status.has_file { "file" } else { "memory" },
        cpu_share: status.cpu_share,
        cpu_share_max: status.cpu_share_max,
        flow_share: status.flow_share,
    }
}

impl From<RingStatus> for RingView {
    fn from(ring: RingStatus) -> Self {
        Self {
            used_bytes: ring.used_bytes,
            size_bytes: ring.size_bytes,
        }
    }
}

fn show_clock(api: &Api, event: &ClockEvent) -> ClockView {
    let (at, kind, seconds) = match event {
        ClockEvent::Stepped { at, by_ns } => {
            let size = show::seconds(by_ns.unsigned_abs());
            (at, "step", if *by_ns < 0 { -size } else { size })
        }
        ClockEvent::Suspended { at, for_ns } => (at, "suspend", show::seconds(*for_ns)),
    };
    ClockView {
        at: show::time(&api.outlook.clock, *at),
        kind,
        seconds,
    }
}
