//! Attempts to connect: SYNs that wait for what becomes of them.
//!
//! All hops that see one attempt tell of it; the first one counts. The kernel tells of the first
//! SYN only, so that the time an attempt gets includes that of the retries behind it.

use crate::conversation::ConversationKey;
use crate::hop::{HopId, NamespaceId};
use crate::side::{Endpoint, Sides};
use crate::table::Keyed;
use crate::time::Monotonic;

/// What an attempt waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AttemptState {
    /// Its answer, until its timer fires.
    Waiting,
    /// Nothing: it failed then, and what other hops tell of it does not count.
    Failed(Monotonic),
}

#[derive(Debug)]
pub(crate) struct PendingAttempt {
    pub(crate) key: ConversationKey,
    pub(crate) hop: HopId,
    pub(crate) namespace: NamespaceId,
    pub(crate) endpoints: Sides<Endpoint>,
    pub(crate) started: Option<Monotonic>,
    pub(crate) state: AttemptState,
    pub(crate) timer: Monotonic,
}

impl Keyed for PendingAttempt {
    type Key = ConversationKey;

    fn key(&self) -> ConversationKey {
        self.key
    }
}
