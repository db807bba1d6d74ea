//! What goes between the daemon's loop and those who show its work: the feed, records, requests.
//!
//! Every channel is bounded. The feed is never dropped: when it is full the loop waits, events pile
//! up in the kernel's ring, and what finds that ring full is counted there, so that loss happens in
//! one place only. Records of captures are dropped when nobody takes them, and counted.

use std::sync::Arc;

use phalanx_common::abi::RecordHeader;
use phalanx_engine::Change;
use phalanx_engine::HopId;
use tokio::sync::{mpsc, oneshot};

use super::status::KernelStatus;
use crate::capture::PromotedPackets;
use crate::clock::ClockEvent;
use crate::hub::AgentStatus;
use crate::kernel::RecordingFilter;
use crate::lookback::{Lookback, Seam};
use crate::translation::Translations;

/// Batches of the feed that wait: at the most changes the engine gives at once, some 64 × 4,096.
pub const FEED_COUNT_MAX: usize = 64;
/// Batches of records that wait; full: the batch is dropped and its records are counted.
pub const RECORD_BATCH_COUNT_MAX: usize = 64;
/// Requests that wait; full: the one who asks waits.
pub const REQUEST_COUNT_MAX: usize = 16;

/// What the daemon tells the views, in order.
#[derive(Debug)]
pub enum Feed {
    /// What the engine decided; sequence numbers rise by one.
    Changes(Vec<Change>),
    /// From here on changes are of what was before this process began, or no longer.
    Replay(Replay),
    /// How the kernel side does; once a second.
    Kernel(Box<KernelStatus>),
    /// The clocks of the host jumped.
    Clock(ClockEvent),
    /// How the agents of a hub do; once a second.
    Agents {
        /// All that were let in.
        agents: Vec<AgentStatus>,
        /// Bytes that the hub's log takes.
        log_bytes: u64,
    },
}

/// Where the replay of a hub's log stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replay {
    /// It begins.
    Begun,
    /// It has ended.
    Ended {
        /// All that was ever told was in it.
        is_whole: bool,
    },
}

/// One recorded packet.
#[derive(Clone, Debug)]
pub struct Record {
    /// Where.
    pub hop: HopId,
    /// The header as the kernel wrote it; its time is monotonic.
    pub header: RecordHeader,
    /// The captured bytes of the frame: `header.captured_length` of them.
    pub bytes: Vec<u8>,
}

/// What others ask of the daemon's loop.
#[derive(Debug)]
pub enum Request {
    /// Puts these recording filters in force, each under its number, instead of all before.
    SetRecording {
        /// Number (below 64: the bit in `matched`) and filter.
        filters: Vec<(u8, RecordingFilter)>,
        /// The answer: done at every instance of the programs, or why not (nothing is in force
        /// half: the generation changes last). Where it is, records of the filters before lie below
        /// the seam.
        reply: oneshot::Sender<Result<Seam, String>>,
    },
}

/// Sends requests to the daemon's loop.
#[derive(Clone, Debug)]
pub struct DaemonHandle {
    /// Where requests go.
    pub requests: mpsc::Sender<Request>,
    /// Wakes the loop after a request was sent.
    pub(crate) waker: super::wake::Waker,
    /// Maps times of changes and records to wall time.
    pub clock: crate::clock::Clock,
    /// The packets of promoted flows, which the loop keeps.
    pub promoted: Arc<PromotedPackets>,
    /// The recent packets, which the loop keeps.
    pub lookback: Arc<Lookback>,
    /// What connection tracking told lately.
    pub translations: Arc<Translations>,
}

impl DaemonHandle {
    /// Puts recording filters in force: see [`Request::SetRecording`].
    ///
    /// # Errors
    /// What the loop answered, or that it has ended.
    pub async fn set_recording(&self, filters: Vec<(u8, RecordingFilter)>) -> Result<Seam, String> {
        let (reply, answer) = oneshot::channel();
        let request = Request::SetRecording { filters, reply };
        let gone = "the daemon is stopping";
        self.requests
            .send(request)
            .await
            .map_err(|_| gone.to_owned())?;
        self.waker.wake();
        answer.await.map_err(|_| gone.to_owned())?
    }
}

/// What the API is given when it starts: the receiving ends, and the way to ask for something.
#[derive(Debug)]
pub struct Outlet {
    /// Changes, kernel status and clock events, in order. Must be drained all the time.
    pub feed: mpsc::Receiver<Feed>,
    /// Records of all captures; `header.matched` tells which filters wanted them.
    pub records: mpsc::Receiver<Vec<Record>>,
    /// The way back.
    pub daemon: DaemonHandle,
}
