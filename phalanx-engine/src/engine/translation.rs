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
        let of =
            |ends: &Sides<Endpoint>| self.find_conversation(translation.protocol, *ends, namespace);
        let (inside, outside) = (of(&translation.inside), of(&translation.outside));
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

    fn find_conversation(
        &self,
        protocol: u8,
        ends: Sides<Endpoint>,
        namespace: NamespaceId,
    ) -> Option<ConversationId> {
        // Which end is the low one is the kernel program's choice.
        let found = [[ends.client, ends.server], [ends.server, ends.client]]
            .map(|ends| ConversationKey::of_ends(protocol, ends, namespace))
            .iter()
            .find_map(|key| self.conversations.find(key))?;
        Some(self.conversations.get(found)?.id)
    }
}
