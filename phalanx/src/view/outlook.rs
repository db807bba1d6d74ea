//! The [`Outlook`]: views, metrics and stream, fed together and shared with the API.

use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard};

use tokio::sync::{mpsc, watch};

use super::View;
use crate::agent::UplinkStatus;
use crate::clock::{Clock, ClockEvent};
use crate::daemon::{Feed, KernelStatus};
use crate::hub::AgentStatus;
use crate::metrics::Metrics;
use crate::stream::Stream;

/// Clock events that are shown, the latest.
const CLOCK_EVENT_COUNT_MAX: usize = 64;

/// All that is shown of this host.
#[derive(Debug)]
pub struct Outlook {
    view: RwLock<View>,
    kernel: watch::Sender<Option<Arc<KernelStatus>>>,
    clock_events: RwLock<Vec<ClockEvent>>,
    agents: watch::Sender<Arc<[AgentStatus]>>,
    /// The uplink of an agent.
    uplink: OnceLock<Arc<UplinkStatus>>,
    /// The metrics.
    pub metrics: Metrics,
    /// The stream of changes.
    pub stream: Stream,
    /// Maps times to wall time.
    pub clock: Clock,
}

impl Outlook {
    /// Nothing seen yet.
    ///
    /// # Errors
    /// See [`Metrics::new`].
    pub fn new(clock: Clock) -> Result<Self, prometheus::Error> {
        Ok(Self {
            view: RwLock::default(),
            kernel: watch::Sender::default(),
            clock_events: RwLock::default(),
            agents: watch::Sender::new(Arc::from([])),
            uplink: OnceLock::new(),
            metrics: Metrics::new()?,
            stream: Stream::new(),
            clock,
        })
    }

    /// Takes in what the daemon tells.
    pub fn take(&self, feed: Feed) {
        match feed {
            Feed::Changes(changes) => {
                let mut view = self.view.write().unwrap_or_else(PoisonError::into_inner);
                changes.iter().for_each(|change| view.fold(change));
                drop(view);
                self.metrics.fold(&changes);
                self.stream.push(changes);
            }
            Feed::Replay(replay) => self.metrics.replay(replay),
            Feed::Kernel(status) => {
                self.metrics.kernel(&status);
                if let Some(uplink) = self.uplink.get() {
                    self.metrics.uplink(uplink);
                }
                self.kernel.send_replace(Some(Arc::from(status)));
            }
            Feed::Agents { agents, log_bytes } => {
                self.metrics.agents(&agents, log_bytes);
                self.agents.send_replace(Arc::from(agents));
            }
            Feed::Clock(event) => {
                self.metrics.clock(&event);
                let mut events = self
                    .clock_events
                    .write()
                    .unwrap_or_else(PoisonError::into_inner);
                if events.len() == CLOCK_EVENT_COUNT_MAX {
                    events.remove(0);
                }
                events.push(event);
            }
        }
    }

    /// Takes in all that comes, until the daemon's loop ends.
    pub async fn follow(&self, mut feed: mpsc::Receiver<Feed>) {
        while let Some(item) = feed.recv().await {
            self.take(item);
        }
    }

    /// The views, for as long as one page is made.
    pub fn view(&self) -> RwLockReadGuard<'_, View> {
        self.view.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// How the kernel side does, once it has told.
    #[must_use]
    pub fn kernel(&self) -> Option<Arc<KernelStatus>> {
        self.kernel.borrow().clone()
    }

    /// The agents of a hub, by name.
    #[must_use]
    pub fn agents(&self) -> Arc<[AgentStatus]> {
        Arc::clone(&self.agents.borrow())
    }

    /// The uplink of an agent; none: this is none.
    #[must_use]
    pub fn uplink(&self) -> Option<&Arc<UplinkStatus>> {
        self.uplink.get()
    }

    /// Shows the uplink of an agent.
    pub(crate) fn set_uplink(&self, uplink: Arc<UplinkStatus>) {
        // It is set once, before anybody is served.
        let _ = self.uplink.set(uplink);
    }

    /// Waits until the kernel side has told how it does for the first time.
    pub async fn kernel_told(&self) {
        // Fails only where the sender is gone, which `self` holds.
        let _ = self.kernel.subscribe().wait_for(Option::is_some).await;
    }

    /// The jumps of the clocks, the latest last.
    #[must_use]
    pub fn clock_events(&self) -> Vec<ClockEvent> {
        self.clock_events
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}
