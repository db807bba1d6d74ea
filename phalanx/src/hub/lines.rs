//! [`Lines`]: the ways to the agents that are here, for whoever has something to ask of them.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tonic::Status;

use crate::link::protocol::HubMessage;
use crate::link::protocol::hub_message::Message as FromHub;

/// How long an agent may take to take in what it is asked.
const TELL_TIMEOUT: Duration = Duration::from_secs(5);

type Outbox = mpsc::Sender<Result<HubMessage, Status>>;

/// The session of each agent that began last; bounded by the registry.
#[derive(Debug, Default)]
pub(crate) struct Lines(Mutex<BTreeMap<String, (u64, Outbox)>>);

impl Lines {
    /// A session begins.
    pub(super) fn open(&self, agent: &str, session: u64, outbox: Outbox) {
        let mut lines = self.lock();
        if lines.get(agent).is_none_or(|line| line.0 < session) {
            lines.insert(agent.to_owned(), (session, outbox));
        }
    }

    /// A session has ended; a later one stays.
    pub(super) fn close(&self, agent: &str, session: u64) {
        let mut lines = self.lock();
        if lines.get(agent).is_some_and(|line| line.0 == session) {
            lines.remove(agent);
        }
    }

    /// Whether an agent is here.
    pub(crate) fn is_open(&self, agent: &str) -> bool {
        self.lock().contains_key(agent)
    }

    /// Asks something of an agent; whether it is on its way.
    pub(crate) async fn tell(&self, agent: &str, message: FromHub) -> bool {
        let Some((_, outbox)) = self.lock().get(agent).cloned() else {
            return false;
        };
        let message = HubMessage {
            message: Some(message),
        };
        let sent = tokio::time::timeout(TELL_TIMEOUT, outbox.send(Ok(message)));
        matches!(sent.await, Ok(Ok(())))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, (u64, Outbox)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
