//! Every bound of this crate, with its arithmetic.

/// Nodes in one topology: each is a network namespace (about 0.5 MiB of kernel memory).
pub const NODES_MAX: usize = 200;

/// Links in one topology; automatic subnets are numbered in one octet, 1 to 254.
pub const LINKS_MAX: usize = 254;

/// Explicit routes, firewall rules or commands of one node.
pub const NODE_ENTRIES_MAX: usize = 256;

/// Scheduled changes of one link.
pub const CHANGES_MAX: usize = 10_000;

/// Size of a topology or flows file in bytes.
pub const FILE_BYTES_MAX: u64 = 1 << 20;

/// Longest delay or jitter that a link can be given, in milliseconds.
pub const DELAY_MS_MAX: f64 = 60_000.0;

/// Packets under way in one direction of an emulated link: 1 Gbit/s of 1500-byte packets for
/// three seconds. A packet beyond it is dropped and counted as `overflow`.
pub const UNDER_WAY_PACKETS_MAX: usize = 262_144;

/// Bytes under way in one direction of an emulated link.
pub const UNDER_WAY_BYTES_MAX: u64 = 256 << 20;

/// Packets taken from a tun device before what is due is delivered.
pub const BATCH_PACKETS: usize = 32;

/// Largest packet that a tun device hands over (no link-layer header, no offload header).
pub const PACKET_BYTES_MAX: usize = 65_535;

/// Length of a tun device's kernel queue: 0.4 s of 1500-byte packets at 300 Mbit/s. What the
/// kernel drops beyond it is counted as `device_dropped`.
pub const TUN_QUEUE_PACKETS: u32 = 10_000;

/// Lines of one decision log; the file then ends with a line that says so.
pub const LOG_LINES_MAX: u64 = 10_000_000;

/// Commands waiting for a link thread. The caller blocks when it is full; the thread empties it
/// at least once per batch.
pub const COMMANDS_MAX: usize = 16;

/// Flows in one flows file.
pub const FLOWS_MAX: usize = 256;

/// Connections that one traffic client keeps open at once.
pub const CONNECTIONS_MAX: u32 = 4_096;

/// Threads of one traffic server; a connection beyond it is closed and counted.
pub const SERVER_THREADS_MAX: usize = 4_096;

/// Packets of one flood.
pub const FLOOD_PACKETS_MAX: u64 = 10_000_000;

/// Distinct sources of one flood.
pub const FLOOD_SOURCES_MAX: u32 = 1_000_000;

/// Packets handed to the kernel in one `sendmmsg`.
pub const FLOOD_BATCH: usize = 64;

/// Connections of one synthetic capture: 8 bytes each while it is made.
pub const SYNTHESIS_CONNECTIONS_MAX: u32 = 10_000_000;

/// Packets of one synthetic capture: about 150 GB when they are written whole.
pub const SYNTHESIS_PACKETS_MAX: u64 = 200_000_000;

/// Hops of one synthetic capture of several.
pub const HOPS_MAX: usize = 8;

/// Conversations of one synthetic capture of several hops: some 30 packets of 200 bytes each are
/// kept while it is made, 6 GB.
pub const SYNTHESIS_HOP_CONVERSATIONS_MAX: u32 = 1_000_000;
