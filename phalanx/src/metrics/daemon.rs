//! The daemon's own metrics: from the status of the kernel side, and from those who count here.

use phalanx_common::abi::{ABI_VERSION, Counter};
use phalanx_common::packet::Unparsed;
use prometheus::{Gauge, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};

use super::family::{counter, counters, float_gauge, gauge, gauges};
use super::table;
use crate::api::version::VERSION;
use crate::clock::ClockEvent;
use crate::daemon::{HopState, KernelStatus};

/// Stages of packets in the kernel programs.
const STAGES: [(&str, Counter); 11] = [
    ("seen", Counter::Seen),
    ("seen_xdp", Counter::SeenXdp),
    ("seen_tc_ingress", Counter::SeenTcIngress),
    ("seen_tc_egress", Counter::SeenTcEgress),
    ("parsed", Counter::Parsed),
    ("watched", Counter::Watched),
    ("pended", Counter::Pended),
    ("untracked_table_full", Counter::UntrackedTableFull),
    ("icmp_errors", Counter::IcmpErrors),
    ("icmp_errors_matched", Counter::IcmpErrorsMatched),
    ("refused", Counter::Refused),
];

/// The daemon's own metrics.
#[derive(Debug)]
pub struct DaemonMetrics {
    /// Changes folded.
    pub changes: IntCounter,
    /// Requests answered, by class of status: `2xx` and so on.
    pub http_requests: IntCounterVec,
    /// Connections closed at once.
    pub http_refused: IntCounter,
    /// Clients of the stream.
    pub stream_clients: IntGauge,
    /// Clients of the stream that were dropped, by reason.
    pub stream_dropped: IntCounterVec,
    /// Captures by state.
    pub captures: IntGaugeVec,
    /// Records of captures by outcome: `written`, `dropped_queue_full`, `failed`.
    pub capture_packets: IntCounterVec,
    /// Bytes of capture files.
    pub capture_disk: IntGauge,
    packets: IntCounterVec,
    unparsed: IntCounterVec,
    events: IntCounterVec,
    records: IntCounterVec,
    flows_opened: IntCounter,
    promoted: IntCounter,
    promotions_limited: IntCounter,
    promoted_packets: IntCounterVec,
    lookback: Lookback,
    evictions: IntCounterVec,
    ring_used: IntGaugeVec,
    ring_size: IntGaugeVec,
    table_entries: IntGaugeVec,
    table_capacity: IntGaugeVec,
    map_memory: IntGauge,
    hops: IntGaugeVec,
    events_read: IntCounterVec,
    records_read: IntCounterVec,
    event_lag: Gauge,
    tally: IntCounterVec,
    translation_lookups: IntCounterVec,
    clock_jumps: IntCounterVec,
    process: Process,
}

impl DaemonMetrics {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let build = gauges(registry, &table::BUILD_INFO)?;
        build
            .with_label_values(&[VERSION, &ABI_VERSION.to_string()])
            .set(1);
        Ok(Self {
            changes: counter(registry, &table::CHANGES)?,
            http_requests: counters(registry, &table::HTTP_REQUESTS)?,
            http_refused: counter(registry, &table::HTTP_REFUSED)?,
            stream_clients: gauge(registry, &table::STREAM_CLIENTS)?,
            stream_dropped: counters(registry, &table::STREAM_DROPPED)?,
            captures: gauges(registry, &table::CAPTURES)?,
            capture_packets: counters(registry, &table::CAPTURE_PACKETS)?,
            capture_disk: gauge(registry, &table::CAPTURE_DISK)?,
            packets: counters(registry, &table::KERNEL_PACKETS)?,
            unparsed: counters(registry, &table::KERNEL_UNPARSED)?,
            events: counters(registry, &table::KERNEL_EVENTS)?,
            records: counters(registry, &table::KERNEL_RECORDS)?,
            flows_opened: counter(registry, &table::KERNEL_FLOWS_OPENED)?,
            promoted: counter(registry, &table::KERNEL_PROMOTED)?,
            promotions_limited: counter(registry, &table::KERNEL_PROMOTIONS_LIMITED)?,
            promoted_packets: counters(registry, &table::PROMOTED_PACKETS)?,
            lookback: Lookback::new(registry)?,
            evictions: counters(registry, &table::KERNEL_EVICTIONS)?,
            ring_used: gauges(registry, &table::RING_USED)?,
            ring_size: gauges(registry, &table::RING_SIZE)?,
            table_entries: gauges(registry, &table::FLOW_TABLE_ENTRIES)?,
            table_capacity: gauges(registry, &table::FLOW_TABLE_CAPACITY)?,
            map_memory: gauge(registry, &table::MAP_MEMORY)?,
            hops: gauges(registry, &table::HOPS)?,
            events_read: counters(registry, &table::EVENTS_READ)?,
            records_read: counters(registry, &table::RECORDS_READ)?,
            event_lag: float_gauge(registry, &table::EVENT_LAG)?,
            tally: counters(registry, &table::ENGINE_TALLY)?,
            translation_lookups: counters(registry, &table::TRANSLATION_LOOKUPS)?,
            clock_jumps: counters(registry, &table::CLOCK_JUMPS)?,
            process: Process::new(registry)?,
        })
    }

    pub(super) fn clock(&self, event: &ClockEvent) {
        let kind = match event {
            ClockEvent::Stepped { .. } => "step",
            ClockEvent::Suspended { .. } => "suspend",
        };
        self.clock_jumps.with_label_values(&[kind]).inc();
    }

    pub(super) fn kernel(&self, status: &KernelStatus) {
        for (stage, counter) in STAGES {
            raise(
                &self.packets.with_label_values(&[stage]),
                status.counter(counter),
            );
        }
        for reason in Unparsed::ALL {
            let index = Counter::UnparsedFirst as usize + reason as usize;
            raise(
                &self.unparsed.with_label_values(&[reason.name()]),
                status.counters[index],
            );
        }
        let count = |family: &IntCounterVec, label, counter| {
            raise(&family.with_label_values(&[label]), status.counter(counter));
        };
        count(&self.events, "delivered", Counter::EventsDelivered);
        count(
            &self.events,
            "dropped_ring_full",
            Counter::EventsDroppedRingFull,
        );
        count(&self.events, "attempt_withheld", Counter::AttemptsWithheld);
        count(&self.records, "matched", Counter::Matched);
        count(&self.records, "delivered", Counter::Delivered);
        count(&self.records, "dropped_ring_full", Counter::DroppedRingFull);
        count(&self.records, "sampled_out", Counter::SampledOut);
        count(&self.evictions, "pending", Counter::PendingDisplaced);
        raise(&self.flows_opened, status.counter(Counter::FlowsOpened));
        count(&self.records, "withheld", Counter::RecordsWithheld);
        self.promotion(status);
        self.lookback.tell(status);
        self.instances(status);
        self.loop_and_engine(status);
    }

    fn promotion(&self, status: &KernelStatus) {
        raise(&self.promoted, status.counter(Counter::Promoted));
        let limited = status.counter(Counter::PromotionsLimited);
        raise(&self.promotions_limited, limited);
        for (outcome, count) in [
            ("kept", status.promoted_packets),
            ("evicted", status.promoted_evicted),
        ] {
            raise(&self.promoted_packets.with_label_values(&[outcome]), count);
        }
    }

    fn instances(&self, status: &KernelStatus) {
        for family in [
            &self.ring_used,
            &self.ring_size,
            &self.table_entries,
            &self.table_capacity,
        ] {
            family.reset();
        }
        for instance in &status.instances {
            let namespace = instance.namespace.as_str();
            for (name, ring) in [("events", instance.events), ("records", instance.records)] {
                set(&self.ring_used, &[namespace, name], ring.used_bytes);
                set(&self.ring_size, &[namespace, name], ring.size_bytes);
            }
            set(&self.table_entries, &[namespace], instance.flow_count);
            set(&self.table_capacity, &[namespace], instance.flow_count_max);
        }
        self.map_memory.set(signed(status.map_memory_bytes));
        for state in ["quiet", "running", "blind", "failed"] {
            let count = status
                .hops
                .iter()
                .filter(|hop| state_name(&hop.state) == state)
                .count();
            set(&self.hops, &[state], count as u64);
        }
    }

    fn loop_and_engine(&self, status: &KernelStatus) {
        raise(
            &self.events_read.with_label_values(&["read"]),
            status.events_read,
        );
        raise(
            &self.events_read.with_label_values(&["unknown"]),
            status.events_unknown,
        );
        raise(
            &self.events_read.with_label_values(&["unplaced"]),
            status.events_unplaced,
        );
        raise(
            &self.records_read.with_label_values(&["read"]),
            status.records_read,
        );
        let dropped = self.records_read.with_label_values(&["dropped_queue_full"]);
        raise(&dropped, status.records_dropped_queue_full);
        self.event_lag.set(seconds(status.event_lag_ns));
        for (kind, count) in status.tally.entries() {
            raise(&self.tally.with_label_values(&[kind]), count);
        }
        let lookups = &status.translations;
        for (outcome, count) in [
            ("translated", lookups.translated),
            ("untranslated", lookups.untranslated),
            ("unknown", lookups.unknown),
            ("left_out", lookups.left_out),
            ("forgotten", lookups.forgotten),
            ("failed", lookups.failed),
        ] {
            raise(
                &self.translation_lookups.with_label_values(&[outcome]),
                count,
            );
        }
    }

    pub(super) fn read_process(&self) {
        self.process.read();
    }
}

/// The state of a hop as API and metrics spell it.
#[must_use]
pub(crate) const fn state_name(state: &HopState) -> &'static str {
    match state {
        HopState::Quiet => "quiet",
        HopState::Running => "running",
        HopState::Blind => "blind",
        HopState::Failed(_) => "failed",
    }
}

/// Raises a counter to a total that somebody else keeps; one that fell (a namespace went away)
/// leaves it as it is.
pub(super) fn raise(counter: &IntCounter, total: u64) {
    counter.inc_by(total.saturating_sub(counter.get()));
}

fn set(family: &IntGaugeVec, labels: &[&str], value: u64) {
    family.with_label_values(labels).set(signed(value));
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "2⁵³ ns are a hundred days")]
fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

/// How looking back stands.
#[derive(Debug)]
struct Lookback {
    packets: IntCounterVec,
    used: IntGauge,
    size: IntGauge,
    cpu: Gauge,
    flows: Gauge,
}

impl Lookback {
    fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Self {
            packets: counters(registry, &table::LOOKBACK_PACKETS)?,
            used: gauge(registry, &table::LOOKBACK_USED)?,
            size: gauge(registry, &table::LOOKBACK_SIZE)?,
            cpu: float_gauge(registry, &table::LOOKBACK_CPU)?,
            flows: float_gauge(registry, &table::LOOKBACK_FLOWS)?,
        })
    }

    fn tell(&self, status: &KernelStatus) {
        let lookback = &status.lookback;
        for (outcome, count) in [
            ("kept", lookback.kept),
            ("evicted", lookback.evicted),
            ("filtered_out", lookback.filtered_out),
            ("sampled_out", status.sampled_out()),
        ] {
            raise(&self.packets.with_label_values(&[outcome]), count);
        }
        self.used.set(signed(lookback.used_bytes));
        self.size.set(signed(lookback.size_bytes));
        self.cpu.set(lookback.cpu_share);
        self.flows.set(lookback.flow_share);
    }
}

/// What Prometheus wants to know of every process, read when it asks.
#[derive(Debug)]
struct Process {
    cpu: prometheus::Counter,
    memory: IntGauge,
    files: IntGauge,
}

impl Process {
    fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let definition = &table::PROCESS_CPU;
        let cpu = prometheus::Counter::new(definition.name, definition.help)?;
        registry.register(Box::new(cpu.clone()))?;
        let start = float_gauge(registry, &table::PROCESS_START)?;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        start.set(now.unwrap_or_default().as_secs_f64().floor());
        Ok(Self {
            cpu,
            memory: gauge(registry, &table::PROCESS_MEMORY)?,
            files: gauge(registry, &table::PROCESS_FILES)?,
        })
    }

    fn read(&self) {
        use nix::sys::resource::{UsageWho, getrusage};
        use nix::sys::time::TimeValLike;
        if let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) {
            let microseconds =
                usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
            #[expect(clippy::cast_precision_loss, reason = "2⁵³ µs are centuries")]
            let total = microseconds as f64 / 1e6;
            self.cpu.inc_by((total - self.cpu.get()).max(0.0));
        }
        if let Some(bytes) = resident_bytes() {
            self.memory.set(signed(bytes));
        }
        if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
            self.files.set(signed(files.count() as u64));
        }
    }
}

/// Resident memory of this process in bytes, from `/proc/self/status`.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim()
        .trim_end_matches(" kB")
        .trim()
        .parse::<u64>()
        .ok()?
        .checked_mul(1024)
}
