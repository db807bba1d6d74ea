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
        entry.endpoints = updated.endpoints;
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

#[cfg(test)]
mod tests {
    use phalanx_engine::name::NameBasis;

    use super::*;

    const SIDES: [ConversationId; 2] = [ConversationId(1), ConversationId(2)];

    fn end(port: u16) -> Endpoint {
        let address = [10, 0, 0, 1].into();
        Endpoint { address, port }
    }

    fn opened(conversation: ConversationId) -> ConversationOpened {
        let service = Arc::new(Service {
            name: "10.0.0.1".into(),
            basis: NameBasis::Address,
            host: None,
            site: None,
        });
        ConversationOpened {
            conversation,
            protocol: 6,
            endpoints: Sides {
                client: end(1),
                server: end(2),
            },
            services: Sides {
                client: Arc::clone(&service),
                server: service,
            },
            role_basis: RoleBasis::Opener,
            pair: PairId(1),
            opened: Monotonic(0),
            path: Vec::new(),
        }
    }

    fn translated(host: &str, outside: Option<ConversationId>) -> ConversationTranslated {
        let ends = |client| Sides {
            client: end(client),
            server: end(2),
        };
        ConversationTranslated {
            host: host.into(),
            translation: Translation {
                protocol: 6,
                inside: ends(1),
                outside: ends(3),
            },
            inside: Some(SIDES[0]),
            outside,
        }
    }

    #[test]
    fn each_side_of_a_translation_knows_the_other_and_no_host_twice() {
        let mut view = Conversations::default();
        SIDES.iter().for_each(|id| view.open(&opened(*id)));
        let others = |view: &Conversations, id: ConversationId| -> Vec<Option<ConversationId>> {
            let entry = view.get(id).unwrap();
            entry.translations.iter().map(|it| it.other).collect()
        };
        assert_eq!(view.translate(&translated("edge-1", None)), 0);
        assert_eq!(others(&view, SIDES[0]), [None]);
        assert!(others(&view, SIDES[1]).is_empty());
        for _ in 0..2 {
            assert_eq!(view.translate(&translated("edge-1", Some(SIDES[1]))), 0);
        }
        assert_eq!(view.translate(&translated("edge-1", None)), 0);
        assert_eq!(others(&view, SIDES[0]), [Some(SIDES[1])]);
        assert_eq!(others(&view, SIDES[1]), [Some(SIDES[0])]);
        for number in 0..TRANSLATION_COUNT_MAX {
            let left_out = view.translate(&translated(&format!("more-{number}"), None));
            assert_eq!(left_out, u64::from(number + 1 == TRANSLATION_COUNT_MAX));
        }
        assert_eq!(others(&view, SIDES[0]).len(), TRANSLATION_COUNT_MAX);
    }
}
