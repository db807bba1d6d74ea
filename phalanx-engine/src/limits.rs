//! Every bound of the engine, with its arithmetic.

use crate::time::Monotonic;

const SECOND_NS: u64 = 1_000_000_000;

/// Hops watched at once: some hundreds of containers, two interfaces each.
pub const HOP_COUNT_MAX: usize = 4_096;

/// Flows kept by default: what the kernel's table holds by default.
pub const FLOW_COUNT_DEFAULT: usize = phalanx_common::limits::FLOW_COUNT_DEFAULT as usize;

/// Changes waiting to be drained. One input makes at most a dozen; the shell drains after each
/// batch of events.
pub const CHANGE_COUNT_MAX: usize = 16_384;

/// Commands waiting to be drained.
pub const COMMAND_COUNT_MAX: usize = 4_096;

/// Deadlines served by one call: the shell calls again at once while there are more.
pub const DEADLINE_BATCH: usize = 1_024;

/// Default silence after which an established TCP flow is closed. Longer than a keep-alive
/// interval of most servers and pools; shorter than RFC 5382's two hours, since a flow that speaks
/// again is opened again.
pub const TCP_IDLE_TIMEOUT_NS: u64 = 600 * SECOND_NS;

/// Silence after FIN or RST: stragglers still count.
pub const TCP_CLOSED_TIMEOUT_NS: u64 = 5 * SECOND_NS;

/// Silence of UDP and of all other protocols but ICMP.
pub const UDP_IDLE_TIMEOUT_NS: u64 = 60 * SECOND_NS;

/// Silence of ICMP and ICMPv6.
pub const ICMP_IDLE_TIMEOUT_NS: u64 = 30 * SECOND_NS;

/// How long an answer to a read is waited for before the flow is closed without.
pub const READ_TIMEOUT_NS: u64 = 10 * SECOND_NS;

/// The far future: a deadline that never comes.
pub(crate) const NEVER: Monotonic = Monotonic(u64::MAX);
