//! Bounds of the link, with their arithmetic.

use std::time::Duration;

/// Contents of a batch in bytes, unpacked: 2,000 updates of some 500 bytes.
pub const BATCH_PLAIN_BYTES_MAX: usize = 1 << 20;

/// What one item may add beyond it: the status of 4,096 hops of 200 bytes, or a long list of hops.
pub const BATCH_PLAIN_SLACK: usize = 1 << 20;

/// Contents of a batch in bytes as the hub takes them.
pub const PLAIN_BYTES_MAX: usize = BATCH_PLAIN_BYTES_MAX + BATCH_PLAIN_SLACK;

/// A batch in bytes as it travels. What cannot be packed grows by less than a hundredth.
pub const BATCH_BYTES_MAX: usize = PLAIN_BYTES_MAX + (PLAIN_BYTES_MAX >> 6) + 1_024;

/// Items of one batch: none takes less than 16 bytes but those that say nothing.
pub const BATCH_ITEM_COUNT_MAX: usize = PLAIN_BYTES_MAX / 16;

/// Hops that one batch names: as many as the engine keeps.
pub const BATCH_HOP_COUNT_MAX: usize = phalanx_engine::limits::HOP_COUNT_MAX;

/// Longest text of a message, in bytes: a cgroup path.
pub const TEXT_LENGTH_MAX: usize = 4_096;

/// Bytes that an agent may have sent without an acknowledgement: some batches, so that the wire is
/// never idle for a round trip, and 1,000 agents take 4 GiB at the very most, all hostile.
pub const CREDIT_BYTES: u64 = 2 * BATCH_BYTES_MAX as u64;

/// A batch is closed after this time, however little it holds.
pub const BATCH_AGE_MAX: Duration = Duration::from_millis(200);

/// How hard batches are packed: the fastest of zstd's levels that are not negative.
pub const PACK_LEVEL: i32 = 1;

/// How long the other end may take to say who it is.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// After so long without a byte each end asks whether the other is still there (HTTP/2 PING), and
/// waits so long for the answer: a cut wire is found out after 10 s. Agents tell their status each
/// second, so that nobody is asked who is well, and the answer comes without the program's doing.
/// An end that stands still for 8 s costs a new session, and nothing else.
pub const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(2);
/// See [`KEEP_ALIVE_INTERVAL`].
pub const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(8);

/// Longest name of a host, in bytes (`HOST_NAME_MAX` of Linux is 64; a DNS name has 253).
pub const HOST_LENGTH_MAX: usize = 253;
