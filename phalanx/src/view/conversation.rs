//! Conversations as they are shown.

use std::sync::Arc;

use phalanx_engine::change::{
    CloseReason, ConversationClosed, ConversationOpened, ConversationUpdated,
};
use phalanx_engine::name::Service;
use phalanx_engine::{
    ConversationId, Endpoint, Features, HopId, Monotonic, PairId, RoleBasis, Sides,
};

use super::table::Table;

/// The conversations.
pub type Conversations = Table<ConversationId, ConversationEntry>;

/// One conversation.
#[derive(Clone, Debug)]
pub struct ConversationEntry {
    /// IANA protocol number.
    pub protocol: u8,
    /// Client and server.
    pub endpoints: Sides<Endpoint>,
    /// What runs there.
    pub services: Sides<Arc<Service>>,
    /// How it was decided who is the client.
    pub role_basis: RoleBasis,
    /// Its service pair.
    pub pair: PairId,
    /// When its first packet was seen.
    pub opened: Monotonic,
    /// When it last changed.
    pub changed: Monotonic,
    /// Why and when it ended, if it did.
    pub closed: Option<(CloseReason, Monotonic)>,
    /// The hops that saw it.
    pub path: Vec<HopId>,
    /// What was measured.
    pub features: Features,
}

impl Conversations {
    pub(super) fn open(&mut self, opened: &ConversationOpened) {
        let entry = ConversationEntry {
            protocol: opened.protocol,
            endpoints: opened.endpoints,
            services: opened.services.clone(),
            role_basis: opened.role_basis,
            pair: opened.pair,
            opened: opened.opened,
            changed: opened.opened,
            closed: None,
            path: opened.path.clone(),
            features: Features::default(),
        };
        self.insert(opened.conversation, entry);
    }

    pub(super) fn update(&mut self, updated: &ConversationUpdated, at: Monotonic) {
        let Some(entry) = self.get_mut(updated.conversation) else {
            return;
        };
        entry.endpoints = updated.endpoints;
        entry.services = updated.services.clone();
        entry.pair = updated.pair;
        entry.path.clone_from(&updated.path);
        entry.features = updated.features;
        entry.changed = at;
    }

    pub(super) fn close(&mut self, closed: &ConversationClosed) {
        let Some(entry) = self.get_mut(closed.conversation) else {
            return;
        };
        entry.closed = Some((closed.reason, closed.ended));
        entry.path.clone_from(&closed.path);
        entry.features = closed.features;
        entry.changed = closed.ended;
        self.retire(closed.conversation);
    }
}
