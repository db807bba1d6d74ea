//! What the API and the metrics read: views folded from the engine's changes.
//!
//! **Invariant:** a view is made from changes and status alone, in their order; it never asks the
//! engine. Folding holds the lock of one batch, reading that of one page. Deliberately absent:
//! anything that the engine could have computed.

mod conversation;
mod flow;
mod hop;
mod limits;
mod outlook;
mod pair;
mod table;
mod times;

use std::borrow::Cow;

use phalanx_engine::{Change, ChangeKind};

pub use conversation::{ConversationEntry, Conversations, TranslationEntry};
pub use flow::{FlowEntry, Flows};
pub use hop::{HopEntry, Hops};
pub use outlook::Outlook;
pub use pair::{PairEntry, Pairs};
pub use times::Times;

/// All that is known of flows, conversations, pairs and hops.
#[derive(Debug, Default)]
pub struct View {
    /// Where is observed.
    pub hops: Hops,
    /// 5-tuples at one hop.
    pub flows: Flows,
    /// Exchanges end to end.
    pub conversations: Conversations,
    /// Who talks to whom.
    pub pairs: Pairs,
    /// Number of the last change that was folded.
    pub sequence: u64,
    /// Changes that were missing between others.
    pub missing_count: u64,
    /// Translations that found no room at their conversation.
    pub translations_left_out: u64,
}

impl View {
    /// Folds one change in.
    pub fn fold(&mut self, change: &Change) {
        let expected = self.sequence + 1;
        self.missing_count += change.sequence.saturating_sub(expected);
        self.sequence = change.sequence;
        match &change.kind {
            ChangeKind::HopAppeared(hop) => self.hops.appear(hop),
            ChangeKind::HopVanished(hop) => self.hops.vanish(*hop),
            ChangeKind::FlowOpened(opened) => {
                let hop = self.hops.get(opened.hop);
                self.flows.open(opened, hop);
            }
            ChangeKind::FlowUpdated(updated) => self.flows.update(updated),
            ChangeKind::FlowClosed(closed) => self.flows.close(closed),
            ChangeKind::ConversationOpened(opened) => self.conversations.open(opened),
            ChangeKind::ConversationUpdated(updated) => {
                self.conversations.update(updated, change.at, &self.hops);
            }
            ChangeKind::ConversationClosed(closed) => {
                self.conversations.close(closed, &self.hops);
            }
            ChangeKind::ConversationTranslated(translated) => {
                let left_out = self.conversations.translate(translated, &self.hops);
                self.translations_left_out += left_out;
            }
            ChangeKind::PairOpened { pair, key } => self.pairs.open(*pair, key),
            ChangeKind::PairUpdated(updated) => self.pairs.update(updated, change.at),
            ChangeKind::PairMeasured(measured) => self.pairs.measure(measured, change.at),
            ChangeKind::PairForgotten(pair) => self.pairs.forget(*pair),
            ChangeKind::AttemptFailed(failed) => self.pairs.fail(failed, change.at),
            ChangeKind::NameLearned { .. } | ChangeKind::FlowTraced(_) => {}
        }
    }
}

/// A protocol as API and metrics spell it: by name where it is common, else its number.
#[must_use]
pub fn protocol_name(protocol: u8) -> Cow<'static, str> {
    match protocol {
        1 => "icmp".into(),
        6 => "tcp".into(),
        17 => "udp".into(),
        58 => "icmpv6".into(),
        132 => "sctp".into(),
        number => number.to_string().into(),
    }
}
