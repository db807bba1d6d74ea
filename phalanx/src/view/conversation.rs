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

use super::hop::{HopEntry, Hops};
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
    /// Who says that they translate its ends, and into what: one for each host.
    claims: Vec<TranslationEntry>,
}

impl ConversationEntry {
    /// Who translates its ends, and into what. Whoever says so without having seen it anywhere is
    /// not believed: at a hub each agent could say it of any conversation.
    pub fn translations(&self) -> impl Iterator<Item = &TranslationEntry> {
        self.claims.iter().filter(|it| it.has_seen)
    }

    /// Notes which of the hosts have a hop on its path.
    fn confirm(&mut self, hops: &Hops) {
        let Self { claims, path, .. } = self;
        for claim in claims.iter_mut().filter(|it| !it.has_seen) {
            let is_there = |hop: &HopEntry| hop.facts.host == claim.host;
            claim.has_seen = path.iter().any(|id| hops.get(*id).is_some_and(is_there));
        }
    }

    /// Keeps what a host says instead of what it said before; whether something had to go for it.
    /// Those who have not seen the conversation make room.
    fn claim(&mut self, claim: TranslationEntry) -> bool {
        let claims = &mut self.claims;
        if let Some(known) = claims.iter_mut().find(|it| it.host == claim.host) {
            match known.translation == claim.translation {
                true => known.other = claim.other.or(known.other),
                false => *known = claim,
            }
            return false;
        }
        let is_full = claims.len() >= TRANSLATION_COUNT_MAX;
        if is_full {
            let Some(idle) = claims.iter().position(|it| !it.has_seen) else {
                return true;
            };
            claims.remove(idle);
        }
        claims.push(claim);
        is_full
    }
}

/// A host that translates the ends of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TranslationEntry {
    /// The host.
    pub host: Arc<str>,
    /// What becomes of what.
    pub translation: Translation,
    /// The conversation on its other side, where one was open.
    other: Option<ConversationId>,
    /// A hop of the host has seen the conversation: that may be known later than what it says.
    has_seen: bool,
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
            claims: Vec::new(),
        };
        self.insert(opened.conversation, entry);
    }

    pub(super) fn update(&mut self, updated: &ConversationUpdated, at: Monotonic, hops: &Hops) {
        let Some(entry) = self.get_mut(updated.conversation) else {
            return;
        };
        entry.endpoints = updated.endpoints;
        entry.services = updated.services.clone();
        entry.pair = updated.pair;
        entry.path.clone_from(&updated.path);
        entry.features = updated.features;
        entry.changed = at;
        entry.confirm(hops);
    }

    /// Notes on either side of a translation what lies beyond; how many found no room.
    pub(super) fn translate(&mut self, translated: &ConversationTranslated, hops: &Hops) -> u64 {
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
            left_out += u64::from(entry.claim(TranslationEntry {
                host: Arc::clone(host),
                translation: *translation,
                other: *other,
                has_seen: false,
            }));
            entry.confirm(hops);
        }
        left_out
    }

    /// The conversation on the other side of a translation, where its host has seen that as well.
    #[must_use]
    pub fn beyond(&self, known: &TranslationEntry) -> Option<(ConversationId, &ConversationEntry)> {
        let other = known.other?;
        let entry = self.get(other)?;
        let is_same =
            |it: &TranslationEntry| it.host == known.host && it.translation == known.translation;
        entry.translations().any(is_same).then_some((other, entry))
    }

    pub(super) fn close(&mut self, closed: &ConversationClosed, hops: &Hops) {
        let Some(entry) = self.get_mut(closed.conversation) else {
            return;
        };
        entry.closed = Some((closed.reason, closed.ended));
        entry.path.clone_from(&closed.path);
        entry.features = closed.features;
        entry.changed = closed.ended;
        entry.confirm(hops);
        self.retire(closed.conversation);
    }
}

#[cfg(test)]
mod tests {
    use phalanx_engine::Hop;
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

    /// What hosts say of both conversations, of which the second may not be open.
    fn translated(
        host: &str,
        port: u16,
        outside: Option<ConversationId>,
    ) -> ConversationTranslated {
        let ends = |client| Sides {
            client: end(client),
            server: end(2),
        };
        ConversationTranslated {
            host: host.into(),
            translation: Translation {
                protocol: 6,
                inside: ends(1),
                outside: ends(port),
            },
            inside: Some(SIDES[0]),
            outside,
        }
    }

    /// Hops 1 and up, of these hosts.
    fn hops(hosts: &[&str]) -> Hops {
        let mut hops = Hops::default();
        for (id, host) in (1..).zip(hosts) {
            let hop = crate::api::fixture::hop(id, "eth0");
            let host = Arc::from(*host);
            hops.appear(&Arc::new(Hop { host, ..hop }));
        }
        hops
    }

    fn update(view: &mut Conversations, id: ConversationId, path: &[u32], hops: &Hops) {
        let ConversationOpened {
            endpoints,
            services,
            pair,
            ..
        } = opened(id);
        let updated = ConversationUpdated {
            conversation: id,
            endpoints,
            services,
            pair,
            path: path.iter().copied().map(HopId).collect(),
            features: Features::default(),
        };
        view.update(&updated, Monotonic(1), hops);
    }

    fn told(view: &Conversations, id: ConversationId) -> Vec<(String, Option<ConversationId>)> {
        let beyond = |it| view.beyond(it).map(|(id, _)| id);
        let all = view.get(id).unwrap().translations();
        all.map(|it| (it.host.to_string(), beyond(it))).collect()
    }

    #[test]
    fn each_side_of_a_translation_knows_the_other_once_its_host_has_seen_both() {
        let (mut view, hops) = (Conversations::default(), hops(&["edge-1"]));
        SIDES.iter().for_each(|id| view.open(&opened(*id)));
        let edge = |other: Option<ConversationId>| vec![("edge-1".to_owned(), other)];
        // It is told before the path is known.
        assert_eq!(view.translate(&translated("edge-1", 3, None), &hops), 0);
        assert_eq!(told(&view, SIDES[0]), []);
        update(&mut view, SIDES[0], &[1], &hops);
        assert_eq!(told(&view, SIDES[0]), edge(None));
        for outside in [Some(SIDES[1]), Some(SIDES[1]), None] {
            assert_eq!(view.translate(&translated("edge-1", 3, outside), &hops), 0);
        }
        assert_eq!(told(&view, SIDES[0]), edge(None));
        assert_eq!(told(&view, SIDES[1]), []);
        update(&mut view, SIDES[1], &[1], &hops);
        assert_eq!(told(&view, SIDES[0]), edge(Some(SIDES[1])));
        assert_eq!(told(&view, SIDES[1]), edge(Some(SIDES[0])));
        // A hop that is gone has seen it all the same.
        update(&mut view, SIDES[0], &[1], &Hops::default());
        assert_eq!(told(&view, SIDES[0]).len(), 1);
        // A host has one, the latest.
        let later = translated("edge-1", 4, None);
        assert_eq!(view.translate(&later, &hops), 0);
        assert_eq!(told(&view, SIDES[0]), edge(None));
        let entry = view.get(SIDES[0]).unwrap();
        assert_eq!(entry.claims[0].translation, later.translation);
    }

    #[test]
    fn whoever_has_not_seen_a_conversation_is_not_believed_and_takes_nobody_s_place() {
        let (mut view, hops) = (Conversations::default(), hops(&["edge-1", "web-1"]));
        SIDES.iter().for_each(|id| view.open(&opened(*id)));
        update(&mut view, SIDES[0], &[1], &hops);
        update(&mut view, SIDES[1], &[2], &hops);
        let count = 2 * TRANSLATION_COUNT_MAX as u64;
        let mut left_out = 0;
        for number in 0..count {
            let strange = translated(&format!("strange-{number}"), 3, Some(SIDES[1]));
            left_out += view.translate(&strange, &hops);
            // One alone has several.
            view.translate(&translated("web-1", number as u16, Some(SIDES[1])), &hops);
        }
        assert!(left_out >= count - TRANSLATION_COUNT_MAX as u64);
        assert_eq!(told(&view, SIDES[0]), []);
        view.translate(&translated("edge-1", 3, Some(SIDES[1])), &hops);
        // It has not seen the other, which may be anybody's.
        assert_eq!(told(&view, SIDES[0]), [("edge-1".to_owned(), None)]);
        for number in 0..count {
            let strange = translated(&format!("strange-{number}"), 3, Some(SIDES[1]));
            view.translate(&strange, &hops);
        }
        assert_eq!(told(&view, SIDES[0]), [("edge-1".to_owned(), None)]);
        let entry = view.get(SIDES[0]).unwrap();
        assert_eq!(entry.claims.len(), TRANSLATION_COUNT_MAX);
    }
}
