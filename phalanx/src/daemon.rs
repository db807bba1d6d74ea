//! The loop that ties the kernel side to the engine and the engine to the views.

mod core;
mod feed;
mod link;
pub(crate) mod notify;
mod process;
mod serve;
mod signal;
mod status;
mod turn;
mod up;
mod wake;
mod watcher;

pub(crate) use core::{Core, FeedClosed};
pub use feed::{
    DaemonHandle, FEED_COUNT_MAX, Feed, Outlet, RECORD_BATCH_COUNT_MAX, REQUEST_COUNT_MAX, Record,
    Replay, Request,
};
pub(crate) use process::{cpu_ns, resident_bytes};
pub(crate) use serve::Service;
pub(crate) use signal::{Signalled, block_signals, next_signal};
pub use status::{HopState, HopStatus, InstanceStatus, KernelStatus, RingStatus};
pub use up::up;
pub(crate) use wake::Waker;

/// A waker that wakes nobody, for tests that play the loop.
#[cfg(test)]
pub(crate) fn test_waker() -> wake::Waker {
    wake::Waker::new().expect("an event counter can be opened")
}
