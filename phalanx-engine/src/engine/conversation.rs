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
use crate::side::{Endpoint, Side, Sides};
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
        let found = match self.conversation_of(flow, &key) {
            Some(found) => found,
            None => self.open_conversation(slot, namespace)?,
        };
        self.know(found, &key, slot);
        let conversation = self.conversations.get_mut(found)?;
        let is_member = conversation.join(member);
        let flow = self.flows.get_mut(slot)?;
        // A flow that found no room in the path is kept, but nothing is counted from it.
        flow.conversation = if is_member { found } else { Slot::MAX };
        self.outbox.tally.paths_full += u64::from(!is_member);
        if key == conversation.key {
            flow.client = conversation.client;
            flow.role_basis = conversation.role_basis;
        }
        let id = conversation.id;
        if conversation.come_nearer(flow, namespace) {
            self.translate_conversation(found);
        } else if conversation.members.len() > 1 {
            self.tell_conversation(found);
        }
        Some(id)
    }

    /// The open conversation that a flow is of: by its beginning, which says more than its
    /// addresses and ports.
    fn conversation_of(&self, flow: &Flow, key: &ConversationKey) -> Option<Slot> {
        let held = |slot: &Slot| self.conversations.get(*slot);
        let begun = flow.beginning.and_then(|it| self.begun.get(&it.numbers));
        let by_numbers = begun.copied().filter(|found| {
            held(found).is_some_and(|it| {
                let is_called_so = it.key == *key || it.aliases.contains(key);
                is_called_so || it.admits_translated(flow)
            })
        });
        let admits = |found: &Slot| held(found).is_some_and(|it| it.admits(flow));
        by_numbers.or_else(|| self.find_conversation(key).filter(admits))
    }

    /// The open conversation that is called so at some hop.
    pub(super) fn find_conversation(&self, key: &ConversationKey) -> Option<Slot> {
        let alias = || self.aliases.get(key).copied();
        self.conversations.find(key).or_else(alias)
    }

    /// Notes by what else a conversation can be found, from a flow of it.
    fn know(&mut self, found: Slot, key: &ConversationKey, slot: Slot) {
        let flow = self.flows.get(slot);
        let Some((conversation, flow)) = self.conversations.get_mut(found).zip(flow) else {
            return;
        };
        if conversation.key == *key {
            conversation.beginning = conversation.beginning.or(flow.beginning);
        } else if !conversation.aliases.contains(key) && conversation.has_room() {
            conversation.aliases.push(*key);
            self.aliases.entry(*key).or_insert(found);
        }
        if let Some(it) = conversation.beginning {
            self.begun.entry(it.numbers).or_insert(found);
        }
    }

    /// Forgets by what else a conversation could be found.
    fn forget(&mut self, slot: Slot, conversation: &Conversation) {
        for key in &conversation.aliases {
            if self.aliases.get(key) == Some(&slot) {
                self.aliases.remove(key);
            }
        }
        if let Some(it) = conversation.beginning
            && self.begun.get(&it.numbers) == Some(&slot)
        {
            self.begun.remove(&it.numbers);
        }
    }

    /// Calls the ends of a conversation what they are called where they were seen from nearer.
    fn translate_conversation(&mut self, found: Slot) {
        let Some(conversation) = self.conversations.get(found) else {
            return;
        };
        let (protocol, namespaces) = (conversation.key.protocol, conversation.namespaces);
        let services = self.services(protocol, &conversation.endpoints, namespaces);
        self.move_conversation(found, services);
    }

    fn open_conversation(&mut self, slot: Slot, namespace: NamespaceId) -> Option<Slot> {
        let flow = self.flows.get(slot)?;
        let (endpoints, protocol) = (flow.endpoints(), flow.key.protocol);
        let (role_basis, opened, hop) = (flow.role_basis, flow.opened, flow.hop);
        let services = self.services(protocol, &endpoints, Sides::both(namespace));
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

    /// What runs at two endpoints, each as seen from a namespace.
    pub(super) fn services(
        &self,
        protocol: u8,
        endpoints: &Sides<Endpoint>,
        namespaces: Sides<NamespaceId>,
    ) -> Sides<Arc<Service>> {
        let service = |end, namespace| self.names.service(protocol, end, namespace, None);
        Sides {
            client: service(endpoints.client, namespaces.client),
            server: service(endpoints.server, namespaces.server),
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
        self.resolve_attempt(slot);
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
        let (endpoints, namespaces) = (conversation.endpoints, conversation.namespaces);
        let mut services = conversation.services.clone();
        let mut is_renamed = false;
        for side in [Side::Client, Side::Server] {
            let known = services.get_mut(side);
            let end = *endpoints.get(side);
            let namespace = *namespaces.get(side);
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
            endpoints: conversation.endpoints,
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
        let ended = conversation.on_own_clock(flow, ended);
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
        self.forget(flow.conversation, &conversation);
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

#[cfg(test)]
mod tests {
    use phalanx_common::abi::{FlowKey, FlowUpdate};

    use crate::change::ChangeKind;
    use crate::fixture::{half, hop, key, update};
    use crate::{Endpoint, Engine, EngineConfig, Expiry, HopId, Input, Monotonic, Sides};

    const S: u64 = 1_000_000_000;

    const PLAIN: ([u8; 4], u16, [u8; 4], u16) = ([10, 0, 0, 1], 50_000, [10, 0, 0, 2], 80);
    /// Source and destination rewritten; the client's end has become the high one.
    const TRANSLATED: ([u8; 4], u16, [u8; 4], u16) = ([10, 9, 9, 9], 8_080, [192, 0, 2, 1], 40_001);

    fn key_of((low, low_port, high, high_port): ([u8; 4], u16, [u8; 4], u16)) -> FlowKey {
        key(low, low_port, high, high_port, 6)
    }

    /// A handshake as a hop sees it: TTLs of both ends, and when.
    fn begun(of: FlowKey, initiator: u32, ttls: [u8; 2], opened_ns: u64) -> FlowUpdate {
        let mut update = FlowUpdate {
            key: of,
            initiator,
            opened_ns,
            now_ns: opened_ns,
            ..update(1)
        };
        let client = usize::from(initiator == 2);
        let ends = [(client, 2, 1_001, ttls[0]), (1 - client, 1, 9_001, ttls[1])];
        for (at, packets, number, ttl) in ends {
            update.halves[at] = half(packets, opened_ns);
            update.halves[at].syn_count = 1;
            update.halves[at].next_sequence = number;
            (update.halves[at].ttl_min, update.halves[at].ttl_max) = (ttl, ttl);
        }
        update.halves[client].acknowledged = 9_001;
        update
    }

    /// The same, after some data both ways.
    fn grown(of: &FlowUpdate, packets: u64, after_ns: u64) -> FlowUpdate {
        let mut update = *of;
        update.version = 2;
        update.now_ns += after_ns;
        for half in &mut update.halves {
            half.packets = packets;
            half.bytes = packets * 100;
            half.next_sequence += 1_000;
            half.seen_tick = phalanx_common::watch::tick(update.now_ns);
        }
        update
    }

    struct Told {
        opened: usize,
        ends: Option<Sides<Endpoint>>,
        path: Vec<HopId>,
        packets: u64,
        duration_s: Option<f64>,
    }

    fn tell(updates: &[(u32, FlowUpdate)]) -> Told {
        let mut engine = Engine::new(EngineConfig {
            expiry: Expiry::Told,
            ..EngineConfig::default()
        });
        let now = Monotonic(100_000 * S);
        for id in [1, 2, 3] {
            engine.handle(Input::HopAppeared(hop(id, "eth0")), now);
        }
        for (hop, update) in updates {
            let hop = HopId(*hop);
            engine.handle(Input::Update { hop, update }, now);
        }
        for (hop, update) in updates {
            let hop = HopId(*hop);
            engine.handle(Input::FlowRead { hop, update }, now);
        }
        let mut told = Told {
            opened: 0,
            ends: None,
            path: Vec::new(),
            packets: 0,
            duration_s: None,
        };
        for change in engine.changes() {
            match change.kind {
                ChangeKind::ConversationOpened(opened) => {
                    told.opened += 1;
                    told.ends.get_or_insert(opened.endpoints);
                }
                ChangeKind::ConversationUpdated(updated) => told.ends = Some(updated.endpoints),
                ChangeKind::ConversationClosed(closed) => {
                    told.path = closed.path;
                    told.duration_s = closed.features.duration_s;
                }
                ChangeKind::PairUpdated(updated) => told.packets += updated.added.client.packets,
                _ => {}
            }
        }
        assert!(engine.begun.is_empty(), "forgotten with its conversation");
        told
    }

    fn end(address: [u8; 4], port: u16) -> Endpoint {
        let address = std::net::Ipv4Addr::from(address).into();
        Endpoint { address, port }
    }

    /// Whichever hop tells of it first, and whatever its clock: the ends are those that were seen
    /// from nearest, and packets count once.
    #[test]
    fn a_translated_connection_is_one_conversation() {
        let hour = 3_600 * S;
        let inside = begun(key_of(PLAIN), 1, [64, 60], S);
        let outside = begun(key_of(TRANSLATED), 2, [62, 62], S + hour);
        let seen = [(1, inside), (2, outside)];
        for order in [[0, 1], [1, 0]] {
            let mut updates: Vec<(u32, FlowUpdate)> = order.map(|it| seen[it]).to_vec();
            updates.extend(order.map(|it| (seen[it].0, grown(&seen[it].1, 7, 2 * S))));
            let told = tell(&updates);
            assert_eq!((told.opened, told.packets), (1, 7), "{order:?}");
            assert_eq!(told.path, [HopId(1), HopId(2)]);
            let ends = Sides {
                client: end([10, 0, 0, 1], 50_000),
                server: end([10, 9, 9, 9], 8_080),
            };
            assert_eq!(told.ends, Some(ends), "{order:?}");
            let duration_s = told.duration_s.expect("it was seen");
            assert!((duration_s - 2.0).abs() < 0.1, "{duration_s}");
        }
    }

    #[test]
    fn hosts_whose_clocks_are_hours_apart_see_one_connection() {
        let first = begun(key_of(PLAIN), 1, [64, 60], S);
        let second = begun(key_of(PLAIN), 1, [63, 61], S + 3_600 * S);
        assert_eq!(tell(&[(1, first), (2, second)]).opened, 1);
        // Numbers of its own: a later connection of the same ports.
        let mut later = second;
        later.halves[0].next_sequence += 5;
        assert_eq!(tell(&[(1, first), (2, later)]).opened, 2);
    }

    /// An agent that was cut off tells late, by a clock that is ahead, at the hop that leads.
    #[test]
    fn what_a_late_hop_tells_anew_counts_once() {
        let far = begun(key_of(PLAIN), 1, [63, 61], S);
        let near = begun(key_of(PLAIN), 1, [64, 60], S + 3_600 * S);
        let mut last = grown(&near, 10_000, 60 * S);
        last.version = 3;
        let updates = [
            (2, far),
            (2, grown(&far, 10_000, 60 * S)),
            (1, near),
            (1, grown(&near, 3, S)),
            (1, last),
        ];
        let told = tell(&updates);
        assert_eq!((told.opened, told.packets), (1, 10_000));
        assert_eq!(told.duration_s, Some(60.0));
    }

    #[test]
    fn equal_numbers_at_one_hop_are_of_two_connections() {
        let one = begun(key_of(PLAIN), 1, [64, 60], S);
        let other = begun(key_of(TRANSLATED), 2, [64, 60], S);
        let told = tell(&[
            (1, one),
            (1, other),
            (1, grown(&one, 7, S)),
            (1, grown(&other, 5, S)),
        ]);
        assert_eq!((told.opened, told.packets), (2, 12));
        // A port that is used again at once.
        let mut again = begun(key_of(PLAIN), 1, [64, 60], S + S / 2);
        again.incarnation = 2;
        again.halves[0].next_sequence += 5;
        assert_eq!(tell(&[(1, one), (2, one), (1, again)]).opened, 2);
    }

    /// What has lost its first update joins by the addresses that are known by then.
    #[test]
    fn a_hop_beyond_that_missed_the_beginning_joins_by_the_addresses_there() {
        let inside = begun(key_of(PLAIN), 1, [64, 60], S);
        let outside = begun(key_of(TRANSLATED), 2, [62, 62], S);
        let missed = grown(&outside, 3, S);
        assert_eq!(tell(&[(1, inside), (2, outside), (3, missed)]).opened, 1);
        let missed = grown(&inside, 3, S);
        assert_eq!(tell(&[(3, missed), (1, inside), (2, outside)]).opened, 1);
    }

    #[test]
    fn what_is_known_of_less_than_the_beginning_joins_nothing() {
        let inside = begun(key_of(PLAIN), 1, [64, 60], S);
        let outside = begun(key_of(TRANSLATED), 2, [62, 62], S);
        let told = tell(&[(1, inside), (2, grown(&outside, 3, S))]);
        assert_eq!(told.opened, 2);
        let mut retransmitted = outside;
        retransmitted.halves[1].packets = 4;
        retransmitted.halves[1].syn_count = 3;
        assert_eq!(tell(&[(1, inside), (2, retransmitted)]).opened, 1);
    }
}
