//! The life of conversations: joined by flows, grown by the one that leads, named, closed.

use std::sync::Arc;

use super::Engine;
use crate::change::{
    ChangeKind, CloseReason, ConversationClosed, ConversationOpened, ConversationUpdated,
    PairUpdated,
};
use crate::conversation::{Conversation, ConversationId, ConversationKey, Member, Opening};
use crate::flow::{Flow, Growth};
use crate::hop::NamespaceId;
use crate::limits::MEASURE_INTERVAL_NS;
use crate::name::{NameBasis, Service};
use crate::pair::{PairId, PairKey};
use crate::side::{Endpoint, RoleBasis, Side, Sides};
use crate::table::Slot;
use crate::time::Monotonic;

impl Engine {
    /// Finds or opens the conversation of a new flow. The flow takes over its roles.
    pub(super) fn join_conversation(
        &mut self,
        slot: Slot,
        namespace: NamespaceId,
    ) -> Option<ConversationId> {
        let flow = self.flows.get(slot)?;
        let key = ConversationKey::new(&flow.key, namespace);
        let member = Member {
            hop: flow.hop,
            flow: slot,
        };
        let is_opener_known = flow.role_basis == RoleBasis::Opener;
        let opened = flow.opened;
        let found = self.conversations.find(&key).filter(|found| {
            let conversation = self.conversations.get(*found);
            conversation.is_some_and(|held| held.admits(opened, is_opener_known))
        });
        let found = match found {
            Some(found) => found,
            None => self.open_conversation(slot, namespace)?,
        };
        let conversation = self.conversations.get_mut(found)?;
        let is_member = conversation.join(member);
        let flow = self.flows.get_mut(slot)?;
        // A flow that found no room in the path is kept, but nothing is counted from it.
        flow.conversation = if is_member { found } else { Slot::MAX };
        self.outbox.tally.paths_full += u64::from(!is_member);
        flow.client = conversation.client;
        flow.role_basis = conversation.role_basis;
        let id = conversation.id;
        if conversation.members.len() > 1 {
            self.tell_conversation(found);
        }
        Some(id)
    }

    fn open_conversation(&mut self, slot: Slot, namespace: NamespaceId) -> Option<Slot> {
        let flow = self.flows.get(slot)?;
        let (endpoints, protocol) = (flow.endpoints(), flow.key.protocol);
        let (role_basis, opened, hop) = (flow.role_basis, flow.opened, flow.hop);
        let services = self.services(protocol, &endpoints, namespace);
        let pair = self.find_pair(protocol, &endpoints, &services, true);
        let id = ConversationId(self.conversation_next);
        let opening = Opening {
            id,
            namespace,
            services: services.clone(),
            names_generation: self.names.generation(),
            pair,
        };
        let mut conversation = Conversation::new(opening, self.flows.get(slot)?);
        conversation.told = self.outbox.now;
        let found = self.conversations.insert(conversation)?;
        self.conversation_next += 1;
        self.pairs
            .open_conversation(pair, self.outbox.now, &mut self.timers);
        let opened = ConversationOpened {
            conversation: id,
            protocol,
            endpoints,
            services,
            role_basis,
            pair,
            opened,
            path: vec![hop],
        };
        self.outbox
            .change(ChangeKind::ConversationOpened(Box::new(opened)));
        Some(found)
    }

    /// What runs at two endpoints, as seen from a namespace.
    pub(super) fn services(
        &self,
        protocol: u8,
        endpoints: &Sides<Endpoint>,
        namespace: NamespaceId,
    ) -> Sides<Arc<Service>> {
        let service = |end| self.names.service(protocol, end, namespace, None);
        Sides {
            client: service(endpoints.client),
            server: service(endpoints.server),
        }
    }

    pub(super) fn find_pair(
        &mut self,
        protocol: u8,
        endpoints: &Sides<Endpoint>,
        services: &Sides<Arc<Service>>,
        may_evict: bool,
    ) -> PairId {
        let key = PairKey {
            client: Arc::clone(&services.client.name),
            server: Arc::clone(&services.server.name),
            port: endpoints.server.port,
            protocol,
        };
        self.pairs
            .find(key, may_evict, &mut self.outbox, &mut self.timers)
    }

    /// Counts what a flow saw, if it leads its conversation or shows more than the one that does.
    pub(super) fn grow_conversation(&mut self, slot: Slot, growth: &Growth) {
        let Some(found) = self.flows.get(slot).map(|flow| flow.conversation) else {
            return;
        };
        self.rename_conversation(found);
        self.resolve_attempt(found, slot);
        let Some(flow) = self.flows.get(slot) else {
            return;
        };
        let Some(conversation) = self.conversations.get_mut(found) else {
            return;
        };
        if !conversation.leads(slot) {
            let leader = self.flows.get(conversation.leader());
            if leader.is_some_and(|leader| leader.detail() >= flow.detail()) {
                return;
            }
            conversation.set_leader(slot, flow);
        }
        let added = conversation.grow(flow, growth);
        let now = self.outbox.now;
        let is_due = now.since_ns(conversation.told) >= MEASURE_INTERVAL_NS;
        let (pair, id) = (conversation.pair, conversation.id);
        let is_empty = added.client.is_zero() && added.server.is_zero();
        if !is_empty || !growth.measures.is_empty() {
            let grown = (&added, &*growth.measures);
            self.pairs.grow(pair, now, &mut self.timers, grown);
            let measures = growth.measures.clone();
            let updated = PairUpdated {
                pair,
                conversation: id,
                added,
                measures,
            };
            self.outbox
                .change(ChangeKind::PairUpdated(Box::new(updated)));
        }
        if is_due {
            self.tell_conversation(found);
        }
    }

    /// Looks whether the ends of a conversation are called otherwise by now.
    fn rename_conversation(&mut self, found: Slot) {
        let generation = self.names.generation();
        let Some(conversation) = self.conversations.get_mut(found) else {
            return;
        };
        if conversation.names_generation == generation {
            return;
        }
        conversation.names_generation = generation;
        let protocol = conversation.key.protocol;
        let (endpoints, namespace) = (conversation.endpoints, conversation.namespace);
        let mut services = conversation.services.clone();
        let mut is_renamed = false;
        for side in [Side::Client, Side::Server] {
            let known = services.get_mut(side);
            let end = *endpoints.get(side);
            let service = self.names.service(protocol, end, namespace, Some(known));
            if service == *known {
                continue;
            }
            is_renamed = true;
            let (name, basis) = (Arc::clone(&service.name), service.basis);
            if basis != NameBasis::Address {
                self.outbox.change(ChangeKind::NameLearned {
                    endpoint: end,
                    name,
                    basis,
                });
            }
            *known = service;
        }
        if is_renamed {
            self.move_conversation(found, services);
        }
    }

    /// Gives a conversation to the pair that its new names make.
    fn move_conversation(&mut self, found: Slot, services: Sides<Arc<Service>>) {
        let Some(conversation) = self.conversations.get_mut(found) else {
            return;
        };
        let (protocol, endpoints) = (conversation.key.protocol, conversation.endpoints);
        let old = conversation.pair;
        conversation.services = services.clone();
        let pair = self.find_pair(protocol, &endpoints, &services, true);
        if pair != old {
            let now = self.outbox.now;
            self.pairs.close_conversation(old, now, &mut self.timers);
            self.pairs.open_conversation(pair, now, &mut self.timers);
            if let Some(conversation) = self.conversations.get_mut(found) {
                conversation.pair = pair;
            }
        }
        self.tell_conversation(found);
    }

    fn tell_conversation(&mut self, found: Slot) {
        let Some(conversation) = self.conversations.get_mut(found) else {
            return;
        };
        conversation.told = self.outbox.now;
        let updated = ConversationUpdated {
            conversation: conversation.id,
            services: conversation.services.clone(),
            pair: conversation.pair,
            path: conversation.path(),
            features: conversation.features(),
        };
        self.outbox
            .change(ChangeKind::ConversationUpdated(Box::new(updated)));
    }

    /// Takes a closed flow out of its conversation; closes it with its last one.
    pub(super) fn leave_conversation(
        &mut self,
        slot: Slot,
        flow: &Flow,
        (reason, ended): (CloseReason, Monotonic),
    ) {
        let Some(conversation) = self.conversations.get_mut(flow.conversation) else {
            return;
        };
        let path = conversation.path();
        conversation.leave(slot);
        conversation.note_end(reason, ended);
        if let Some(first) = conversation.members.first().copied() {
            if conversation.leads(slot) {
                let flows = &self.flows;
                let detail = |member: &&Member| flows.get(member.flow).map(Flow::detail);
                let best = conversation.members.iter().max_by_key(detail).copied();
                let best = best.unwrap_or(first).flow;
                if let Some(flow) = self.flows.get(best) {
                    conversation.set_leader(best, flow);
                }
            }
            return;
        }
        let Some(conversation) = self.conversations.remove(flow.conversation) else {
            return;
        };
        self.pairs
            .close_conversation(conversation.pair, self.outbox.now, &mut self.timers);
        let (reason, ended) = conversation.end(reason);
        let closed = ConversationClosed {
            conversation: conversation.id,
            pair: conversation.pair,
            reason,
            opened: conversation.opened,
            ended,
            path,
            features: conversation.features(),
        };
        self.outbox
            .change(ChangeKind::ConversationClosed(Box::new(closed)));
    }
}
