//! Translations told to the conversations on either side of them.

use std::sync::Arc;

use super::Engine;
use crate::change::{ChangeKind, ConversationTranslated};
use crate::conversation::{ConversationId, ConversationKey};
use crate::hop::NamespaceId;
use crate::side::{Endpoint, Sides};
use crate::translation::Translation;

impl Engine {
    /// Tells the open conversations on either side of a translation.
    pub(super) fn translate(
        &mut self,
        host: &Arc<str>,
        namespace: NamespaceId,
        translation: Translation,
    ) {
        let of = |ends: &Sides<Endpoint>| {
            self.conversation_between(translation.protocol, *ends, namespace)
        };
        let (inside, outside) = (of(&translation.inside), of(&translation.outside));
        // Where both sides are known to be one, it is told of once.
        let outside = outside.filter(|it| Some(*it) != inside);
        if inside.is_none() && outside.is_none() {
            self.outbox.tally.translations_unplaced += 1;
            return;
        }
        let translated = ConversationTranslated {
            host: Arc::clone(host),
            translation,
            inside,
            outside,
        };
        self.outbox
            .change(ChangeKind::ConversationTranslated(Box::new(translated)));
    }

    fn conversation_between(
        &self,
        protocol: u8,
        ends: Sides<Endpoint>,
        namespace: NamespaceId,
    ) -> Option<ConversationId> {
        // Which end is the low one is the kernel program's choice.
        let found = [[ends.client, ends.server], [ends.server, ends.client]]
            .map(|ends| ConversationKey::of_ends(protocol, ends, namespace))
            .iter()
            .find_map(|key| self.find_conversation(key))?;
        Some(self.conversations.get(found)?.id)
    }
}

#[cfg(test)]
mod tests {
    use phalanx_common::abi::FlowUpdate;

    use super::*;
    use crate::fixture::{hop, key, update};
    use crate::name::NameFact;
    use crate::{EngineConfig, HopId, Input, Monotonic};

    const NOW: Monotonic = Monotonic(2_000_000_000);
    /// What the fixture's hops are in.
    const NAMESPACE: NamespaceId = NamespaceId(7);
    const OTHER: NamespaceId = NamespaceId(8);

    fn end(address: [u8; 4], port: u16) -> Endpoint {
        let address = address.into();
        Endpoint { address, port }
    }

    /// The client hidden behind 192.0.2.1, the server as it is.
    fn masquerade() -> Translation {
        let server = end([10, 0, 0, 2], 80);
        Translation {
            protocol: 6,
            inside: Sides {
                client: end([10, 0, 0, 1], 50_000),
                server,
            },
            outside: Sides {
                client: end([192, 0, 2, 1], 1_025),
                server,
            },
        }
    }

    /// A hop tells of a flow.
    fn open(engine: &mut Engine, hop: u32, update: &FlowUpdate) {
        let hop = HopId(hop);
        engine.handle(Input::Update { hop, update }, NOW);
    }

    /// What is told of a translation.
    fn told(
        engine: &mut Engine,
        namespace: NamespaceId,
        translation: Translation,
    ) -> Vec<[Option<ConversationId>; 2]> {
        drop(engine.changes());
        let fact = NameFact::Translated {
            host: "edge-1".into(),
            namespace,
            translation,
        };
        engine.handle(Input::Names(fact), NOW);
        let both = |kind: ChangeKind| match kind {
            ChangeKind::ConversationTranslated(it) => {
                assert_eq!((&*it.host, it.translation), ("edge-1", translation));
                [it.inside, it.outside]
            }
            other => panic!("{other:?}"),
        };
        engine.changes().map(|change| both(change.kind)).collect()
    }

    #[test]
    fn the_conversations_on_both_sides_are_told() {
        let mut engine = Engine::new(EngineConfig::default());
        for id in [1, 2] {
            engine.handle(Input::HopAppeared(hop(id, "eth0")), NOW);
        }
        let translation = masquerade();
        assert!(told(&mut engine, NAMESPACE, translation).is_empty());
        assert_eq!(engine.tally().translations_unplaced, 1);
        let (inside, outside) = (ConversationId(1), ConversationId(2));
        open(&mut engine, 1, &update(1));
        let wanted = [[Some(inside), None]];
        assert_eq!(told(&mut engine, NAMESPACE, translation), wanted);
        // The hidden client is the higher end.
        let beyond = FlowUpdate {
            key: key([10, 0, 0, 2], 80, [192, 0, 2, 1], 1_025, 6),
            ..update(1)
        };
        open(&mut engine, 2, &beyond);
        let wanted = [[Some(inside), Some(outside)]];
        assert_eq!(told(&mut engine, NAMESPACE, translation), wanted);
        // These addresses mean the same in each namespace.
        assert_eq!(told(&mut engine, OTHER, translation), wanted);
        let udp = Translation {
            protocol: 17,
            ..translation
        };
        assert!(told(&mut engine, NAMESPACE, udp).is_empty());
    }

    #[test]
    fn a_loopback_address_is_one_of_its_namespace() {
        let mut engine = Engine::new(EngineConfig::default());
        engine.handle(Input::HopAppeared(hop(1, "lo")), NOW);
        let local = FlowUpdate {
            key: key([127, 0, 0, 1], 50_000, [127, 0, 0, 1], 80, 6),
            ..update(1)
        };
        open(&mut engine, 1, &local);
        let inside = Sides {
            client: end([127, 0, 0, 1], 50_000),
            server: end([127, 0, 0, 1], 80),
        };
        let translation = Translation {
            inside,
            ..masquerade()
        };
        let wanted = [[Some(ConversationId(1)), None]];
        assert_eq!(told(&mut engine, NAMESPACE, translation), wanted);
        assert!(told(&mut engine, OTHER, translation).is_empty());
    }
}
