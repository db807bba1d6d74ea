//! How the kernel side does: what is attached where, counted and lost.

use phalanx_common::abi::{COUNTER_COUNT, Counter};
use phalanx_engine::{HopId, Monotonic, Tally};

use crate::lookback::LookbackStatus;
use crate::translation::LookupCounts;

/// How a hop is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HopState {
    /// Programs are attached, no packet was seen yet.
    Quiet,
    /// Programs are attached and were seen to run.
    Running,
    /// The interface counts packets but the programs do not see any.
    Blind,
    /// Nothing is attached, and why.
    Failed(String),
}

/// One interface of a namespace and what watches it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HopStatus {
    /// Its number; absent where nothing is attached.
    pub hop: Option<HopId>,
    /// The namespace: `own` or as the user named it.
    pub namespace: String,
    /// Name of the interface.
    pub interface: String,
    /// Index of the interface in its namespace.
    pub ifindex: u32,
    /// How packets in are seen: `xdp`, `xdp-generic`, `tcx` or `clsact`; empty: not at all.
    pub ingress: String,
    /// How packets out are seen: `tcx` or `clsact`; empty: not at all (the loopback).
    pub egress: String,
    /// Why this interface, and why these hooks.
    pub reason: String,
    /// How it goes.
    pub state: HopState,
}

/// How full a ring is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingStatus {
    /// Bytes that wait for the daemon.
    pub used_bytes: u64,
    /// Bytes that it can hold.
    pub size_bytes: u64,
}

/// One instance of the programs: one a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceStatus {
    /// The namespace: `own` or as the user named it.
    pub namespace: String,
    /// The ring of events.
    pub events: RingStatus,
    /// The ring of records.
    pub records: RingStatus,
    /// Flows that the table holds, as far as the counters tell (opened minus deleted).
    pub flow_count: u64,
    /// Flows that the table can hold.
    pub flow_count_max: u64,
}

/// How the kernel side and the daemon's loop do.
#[derive(Clone, Debug, PartialEq)]
pub struct KernelStatus {
    /// When this was read.
    pub at: Monotonic,
    /// Counters of the programs, summed over CPUs and instances, by [`Counter`].
    pub counters: [u64; COUNTER_COUNT],
    /// Each instance.
    pub instances: Vec<InstanceStatus>,
    /// What the engine could not use or keep.
    pub tally: Tally,
    /// Memory of all maps of all instances in bytes, as the kernel accounts it.
    pub map_memory_bytes: u64,
    /// Each interface that was chosen.
    pub hops: Vec<HopStatus>,
    /// Events taken from the rings since the start.
    pub events_read: u64,
    /// Events whose length or kind this daemon does not know.
    pub events_unknown: u64,
    /// Events of interfaces that the daemon did not know yet, or no longer.
    pub events_unplaced: u64,
    /// Records taken from the rings since the start.
    pub records_read: u64,
    /// Packets of promoted flows that were kept since the start.
    pub promoted_packets: u64,
    /// Those of them that have left the memory for later ones.
    pub promoted_evicted: u64,
    /// How looking back stands.
    pub lookback: LookbackStatus,
    /// What became of the questions to connection tracking.
    pub translations: LookupCounts,
    /// Records that no capture took in time.
    pub records_dropped_queue_full: u64,
    /// Between the making of the last event and its reading, in nanoseconds.
    pub event_lag_ns: u64,
    /// CPU time of the process, in nanoseconds.
    pub cpu_ns: u64,
    /// Resident memory of the process, in bytes.
    pub resident_bytes: u64,
}

impl KernelStatus {
    /// One counter.
    #[must_use]
    pub fn counter(&self, counter: Counter) -> u64 {
        self.counters[counter as usize]
    }

    /// Packets of flows that looking back did not sample.
    #[must_use]
    pub fn sampled_out(&self) -> u64 {
        self.counter(Counter::SampledOut)
            .saturating_sub(self.counter(Counter::RecordsWithheld))
    }
}
