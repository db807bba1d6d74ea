//! Every metric there is: the one place that names them. `docs/metrics.md` is made from it.

/// What kind of metric it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Only rises.
    Counter,
    /// Rises and falls.
    Gauge,
    /// Counts observations by upper bounds.
    Histogram(&'static [f64]),
}

/// One metric.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Definition {
    /// Its name, with the unit, as Prometheus has it.
    pub name: &'static str,
    /// What kind of metric it is.
    pub kind: Kind,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// What it says, in a sentence.
    pub help: &'static str,
}

/// Bounds for times on the network, in seconds: from inside a host to a bad satellite link.
const PATH_BOUNDS: &[f64] = &[
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
    1.0, 2.5,
];

/// Bounds for times of applications, in seconds.
const ANSWER_BOUNDS: &[f64] = &[
    0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

/// Bounds for the life of connections, in seconds.
const LIFE_BOUNDS: &[f64] = &[
    0.01, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0,
];

const PATH: Kind = Kind::Histogram(PATH_BOUNDS);
const ANSWER: Kind = Kind::Histogram(ANSWER_BOUNDS);
const LIFE: Kind = Kind::Histogram(LIFE_BOUNDS);

macro_rules! table {
    ($($constant:ident: $kind:expr, $name:literal [$($label:literal)*] $help:literal;)+) => {
        $(
            #[doc = $help]
            pub const $constant: Definition =
                Definition { name: $name, kind: $kind, labels: &[$($label),*], help: $help };
        )+

        /// All metrics, in the order of the documentation.
        pub const TABLE: &[&Definition] = &[$(&$constant),+];
    };
}

/// Whether a metric is of service pairs.
pub(super) fn is_of_pairs(name: &str) -> bool {
    let found = TABLE.iter().find(|it| it.name == name);
    name == LABEL_OVERFLOW.name || found.is_some_and(|it| it.labels.contains(&"client"))
}

table! {
    TCP_RTT: PATH, "phalanx_tcp_rtt_seconds" ["client" "server" "port" "side"]
        "Round trip from the host to that side and back: data to its acknowledgement, by sequence \
         range, retransmissions left out (Karn) unless timestamps tell.";
    TCP_HANDSHAKE: PATH, "phalanx_tcp_handshake_seconds" ["client" "server" "port" "side"]
        "Round trip while connecting: SYN to SYN-ACK (server side), SYN-ACK to ACK (client side).";
    TCP_THINK: ANSWER, "phalanx_tcp_think_seconds" ["client" "server" "port"]
        "Think time of the server: from the request's arrival at it to its first answer, the path \
         subtracted.";
    RESPONSE: ANSWER, "phalanx_response_seconds" ["client" "server" "port" "protocol"]
        "Last payload of the client to the first of the server with the path in it, where no \
         round trip is known (UDP).";
    TCP_DURATION: LIFE, "phalanx_tcp_connection_duration_seconds" ["client" "server" "port"]
        "First packet to FIN, RST or last packet of connections that ended.";
    PACKETS: Kind::Counter, "phalanx_packets_total" ["client" "server" "port" "protocol" "sender"]
        "Packets on the wire (the segments of a super-segment count each).";
    BYTES: Kind::Counter, "phalanx_bytes_total" ["client" "server" "port" "protocol" "sender"]
        "IP bytes on the wire, headers included.";
    ECN_MARKED: Kind::Counter, "phalanx_ecn_marked_packets_total"
        ["client" "server" "port" "protocol" "sender"]
        "Packets that carried the ECN mark congestion experienced.";
    ICMP_ERRORS: Kind::Counter, "phalanx_icmp_errors_total"
        ["client" "server" "port" "protocol" "sender"]
        "ICMP errors that quoted a packet of this sender.";
    TCP_RETRANSMITTED: Kind::Counter, "phalanx_tcp_retransmitted_packets_total"
        ["client" "server" "port" "sender"]
        "Segments whose bytes were seen before, all or in part.";
    TCP_RETRANSMITTED_BYTES: Kind::Counter, "phalanx_tcp_retransmitted_bytes_total"
        ["client" "server" "port" "sender"]
        "Payload bytes that were seen before.";
    TCP_OUT_OF_SEQUENCE: Kind::Counter, "phalanx_tcp_out_of_sequence_packets_total"
        ["client" "server" "port" "sender"]
        "Segments behind the highest sequence whose bytes were not seen before: reordered, or \
         retransmitted for a loss before this host; which is not classified.";
    TCP_DUPLICATES: Kind::Counter, "phalanx_tcp_duplicate_packets_total"
        ["client" "server" "port" "sender"]
        "Copies of the segment just before (same IP id, same sequence).";
    TCP_ZERO_WINDOWS: Kind::Counter, "phalanx_tcp_zero_windows_total"
        ["client" "server" "port" "sender"]
        "How often the receive window of the sender of the segment fell to zero.";
    TCP_RESETS: Kind::Counter, "phalanx_tcp_resets_total" ["client" "server" "port" "sender"]
        "RST segments of open connections.";
    TCP_CONNECT_FAILURES: Kind::Counter, "phalanx_tcp_connect_failures_total"
        ["client" "server" "port" "reason"]
        "Attempts to connect that failed: refused (RST), unreachable (ICMP error), unanswered.";
    CONVERSATIONS: Kind::Counter, "phalanx_conversations_total"
        ["client" "server" "port" "protocol"]
        "Conversations opened.";
    CONVERSATIONS_OPEN: Kind::Gauge, "phalanx_conversations_open"
        ["client" "server" "port" "protocol"]
        "Conversations that are open.";
    FLOWS_OPEN: Kind::Gauge, "phalanx_flows_open" ["host" "namespace" "interface"]
        "Flows that are open at an interface.";
    LABEL_OVERFLOW: Kind::Counter, "phalanx_label_overflow_total" ["label"]
        "Service pairs that found the label sets full and are counted under other instead.";
    KERNEL_PACKETS: Kind::Counter, "phalanx_kernel_packets_total" ["stage"]
        "Packets at each stage of the kernel programs; seen = parsed + the sum of unparsed.";
    KERNEL_UNPARSED: Kind::Counter, "phalanx_kernel_unparsed_packets_total" ["reason"]
        "Packets that take part in no flow.";
    KERNEL_EVENTS: Kind::Counter, "phalanx_kernel_events_total" ["outcome"]
        "Flow updates and attempts pushed to user space, or lost because the ring was full.";
    KERNEL_RECORDS: Kind::Counter, "phalanx_kernel_records_total" ["outcome"]
        "Packets that match a recording filter or are those of a promoted flow; matched = \
         delivered + dropped_ring_full + sampled_out (of flows that looking back does not sample; \
         of no capture, where the ring was half full: `withheld`).";
    KERNEL_FLOWS_OPENED: Kind::Counter, "phalanx_kernel_flows_opened_total" []
        "Flows that the kernel programs opened.";
    KERNEL_PROMOTED: Kind::Counter, "phalanx_kernel_flows_promoted_total" []
        "Flows that the programs promoted to the record level.";
    KERNEL_PROMOTIONS_LIMITED: Kind::Counter, "phalanx_kernel_promotions_limited_total" []
        "Times that a packet showed its flow sick but no more flows could be promoted in that \
         second.";
    PROMOTED_PACKETS: Kind::Counter, "phalanx_daemon_promoted_packets_total" ["outcome"]
        "Packets of promoted flows that the daemon kept, and those of them that have left its \
         memory for later ones.";
    LOOKBACK_PACKETS: Kind::Counter, "phalanx_lookback_packets_total" ["outcome"]
        "Recent packets that were kept for looking back, those of them that have left for later \
         ones, those that its filter left out, and those of flows that it did not sample.";
    LOOKBACK_USED: Kind::Gauge, "phalanx_lookback_used_bytes" []
        "Bytes that recent packets take.";
    LOOKBACK_SIZE: Kind::Gauge, "phalanx_lookback_size_bytes" []
        "Bytes that recent packets may take.";
    LOOKBACK_CPU: Kind::Gauge, "phalanx_lookback_cpu_ratio" []
        "Part of one CPU that keeping recent packets takes, smoothed; 0 unless all flows are fed.";
    LOOKBACK_FLOWS: Kind::Gauge, "phalanx_lookback_flow_ratio" []
        "Part of all flows that is recorded for looking back; 1 unless all flows are fed.";
    KERNEL_EVICTIONS: Kind::Counter, "phalanx_kernel_evictions_total" ["table"]
        "Entries that gave way to others in a table of the kernel programs.";
    RING_USED: Kind::Gauge, "phalanx_ring_used_bytes" ["namespace" "ring"]
        "Bytes that wait in a ring of the kernel programs.";
    RING_SIZE: Kind::Gauge, "phalanx_ring_size_bytes" ["namespace" "ring"]
        "Bytes that a ring of the kernel programs can hold.";
    FLOW_TABLE_ENTRIES: Kind::Gauge, "phalanx_flow_table_entries" ["namespace"]
        "Flows in the kernel's table.";
    FLOW_TABLE_CAPACITY: Kind::Gauge, "phalanx_flow_table_capacity" ["namespace"]
        "Flows that the kernel's table can hold.";
    MAP_MEMORY: Kind::Gauge, "phalanx_map_memory_bytes" []
        "Memory of the maps of the kernel programs, as the kernel accounts it.";
    HOPS: Kind::Gauge, "phalanx_hops" ["state"]
        "Interfaces that were chosen, by how they are watched.";
    EVENTS_READ: Kind::Counter, "phalanx_daemon_events_total" ["outcome"]
        "Events that the daemon took from the rings; of these, those of a kind that it does not \
         know, and those of an interface that it did not know yet or no longer.";
    RECORDS_READ: Kind::Counter, "phalanx_daemon_records_total" ["outcome"]
        "Records that the daemon took from the rings, or that no capture took in time.";
    EVENT_LAG: Kind::Gauge, "phalanx_event_lag_seconds" []
        "From the making of the last event in the kernel to its reading.";
    ENGINE_TALLY: Kind::Counter, "phalanx_engine_tally_total" ["kind"]
        "What the engine could not use or keep, and the records that it read.";
    TRANSLATION_LOOKUPS: Kind::Counter, "phalanx_translation_lookups_total" ["outcome"]
        "Flows that connection tracking was asked for, by what it said; those that were not asked \
         for since there were too many at once (`left_out`); those that it did not answer for \
         (`failed`); and translated ones that made room for later ones, so that captures may miss \
         them (`forgotten`).";
    CHANGES: Kind::Counter, "phalanx_changes_total" []
        "Changes of the engine that were folded into the views.";
    CLOCK_JUMPS: Kind::Counter, "phalanx_clock_jumps_total" ["kind"]
        "Steps of the wall clock and suspends of the host.";
    AGENTS: Kind::Gauge, "phalanx_agents" ["state"]
        "Agents of this hub that are connected, and that are away.";
    AGENT_HEARD: Kind::Gauge, "phalanx_agent_heard_timestamp_seconds" ["agent"]
        "When the hub took in the last batch of an agent, in seconds since 1970.";
    AGENT_HOPS: Kind::Gauge, "phalanx_agent_hops" ["agent"]
        "Hops that an agent watches.";
    AGENT_GAPS: Kind::Counter, "phalanx_agent_gaps_total" ["agent"]
        "Gaps in what an agent told: batches that it had to drop, or a process that was killed.";
    AGENT_LOST_BATCHES: Kind::Counter, "phalanx_agent_lost_batches_total" ["agent"]
        "Batches that are missing in those gaps, where their number is known.";
    AGENT_LOST_ITEMS: Kind::Counter, "phalanx_agent_lost_items_total" ["agent"]
        "Updates and the like that are missing in those gaps, where their number is known.";
    AGENT_REFUSED: Kind::Counter, "phalanx_agent_refused_sessions_total" ["agent"]
        "Sessions of an agent that the hub ended because of what was sent.";
    HUB_LOG: Kind::Gauge, "phalanx_hub_log_bytes" []
        "Bytes of the hub's log.";
    UPLINK_CONNECTED: Kind::Gauge, "phalanx_uplink_connected" []
        "1 while this agent has a session with its hub.";
    UPLINK_SESSIONS: Kind::Counter, "phalanx_uplink_sessions_total" []
        "Sessions with the hub that have begun.";
    UPLINK_BATCHES: Kind::Counter, "phalanx_uplink_batches_total" ["outcome"]
        "Batches for the hub: made, acknowledged by it, and dropped because memory and spool were \
         full.";
    UPLINK_MEMORY: Kind::Gauge, "phalanx_uplink_memory_batches" []
        "Batches in memory that the hub has not acknowledged.";
    UPLINK_SPOOL: Kind::Gauge, "phalanx_uplink_spool_bytes" []
        "Bytes of batches on disk that the hub has not acknowledged.";
    HTTP_REQUESTS: Kind::Counter, "phalanx_http_requests_total" ["status"]
        "Requests answered, by class of status.";
    HTTP_REFUSED: Kind::Counter, "phalanx_http_refused_connections_total" []
        "Connections closed at once because too many were open.";
    STREAM_CLIENTS: Kind::Gauge, "phalanx_stream_clients" []
        "Clients that follow the stream of changes.";
    STREAM_DROPPED: Kind::Counter, "phalanx_stream_dropped_clients_total" ["reason"]
        "Clients of the stream that were dropped.";
    CAPTURES: Kind::Gauge, "phalanx_captures" ["state"]
        "Captures that run and that are kept.";
    CAPTURE_PACKETS: Kind::Counter, "phalanx_capture_packets_total" ["outcome"]
        "Records that captures wrote, or lost because their queue was full.";
    CAPTURE_DISK: Kind::Gauge, "phalanx_capture_disk_bytes" []
        "Bytes of all capture files.";
    BUILD_INFO: Kind::Gauge, "phalanx_build_info" ["version" "kernel_abi"]
        "Always 1; the labels say what is running.";
    PROCESS_CPU: Kind::Counter, "process_cpu_seconds_total" []
        "CPU time of the daemon, user and system.";
    PROCESS_MEMORY: Kind::Gauge, "process_resident_memory_bytes" []
        "Resident memory of the daemon.";
    PROCESS_START: Kind::Gauge, "process_start_time_seconds" []
        "When the daemon started, in seconds since 1970.";
    PROCESS_FILES: Kind::Gauge, "process_open_fds" []
        "Files that the daemon has open.";
}
