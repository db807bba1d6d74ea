//! The agent's way to the hub: enrolled once, then batches over one session at a time, kept in
//! memory and on disk until the hub has them.
//!
//! Deliberately absent: what is watched (the daemon's loop) and what the batches mean.

mod enroll;
mod identity;
mod queue;
mod recording;
mod spool;
mod uplink;

pub use enroll::{EnrollOptions, enroll};
pub use identity::{AgentFiles, Enrolled};
pub use recording::HubCaptures;
pub(crate) use recording::{Orders, record};
pub use uplink::{
    UPLINK_BATCH_COUNT_MAX, Uplink, UplinkOptions, UplinkState, UplinkStatus, start_uplink,
};
