//! Conversations as they are shown.

use std::sync::Arc;

use phalanx_engine::change::{
    CloseReason, ConversationClosed, ConversationOpened, ConversationTranslated,
    ConversationUpdated,
};
use phalanx_engine::name::Service;
use phalanx_engine::{
    ConversationId, Endpoint, Features, HopId, Monotonic, PairId, RoleBasis, Sides, Translation,
};

use super::limits::TRANSLATION_COUNT_MAX;
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
    /// Who translates its ends, and into what.
    pub translations: Vec<TranslationEntry>,
}

/// A host that translates the ends of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TranslationEntry {
    /// The host.
    pub host: Arc<str>,
    /// What becomes of what.
    pub translation: Translation,
    /// The conversation on its other side, where one was open.
    pub other: Option<ConversationId>,
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
            translations: Vec::new(),
        };
        self.insert(opened.conversation, entry);
    }

    pub(super) fn update(&mut self, updated: &ConversationUpdated, at: Monotonic) {
        let Some(entry) = self.get_mut(updated.conversation) else {
            return;
        };
        entry.services = updated.services.clone();
        entry.pair = updated.pair;
        entry.path.clone_from(&updated.path);
        entry.features = updated.features;
        entry.changed = at;
    }

    /// Notes on either side of a translation what lies beyond; how many found no room.
    pub(super) fn translate(&mut self, translated: &ConversationTranslated) -> u64 {
        let ConversationTranslated {
            host,
            translation,
            inside,
            outside,
        } = translated;
        let mut left_out = 0;
        for (side, other) in [(inside, outside), (outside, inside)] {
            let Some(entry) = side.and_then(|side| self.get_mut(side)) else {
                continue;
            };
            let mut known = entry.translations.iter();
            match known.position(|it| (&it.host, &it.translation) == (host, translation)) {
                Some(known) => {
                    let known = &mut entry.translations[known];
                    known.other = other.or(known.other);
                }
                None if entry.translations.len() >= TRANSLATION_COUNT_MAX => left_out += 1,
                None => entry.translations.push(TranslationEntry {
                    host: Arc::clone(host),
                    translation: *translation,
                    other: *other,
                }),
            }
        }
        left_out
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
