//! Conversations: the flows at all hops that are one exchange.
//!
//! The hops saw the same packets, so one flow leads: the one that shows most. What the others
//! count beyond it is not added, and a change of the leader continues where the last one stood.
//! Flows whose addresses differ, since NAT has rewritten them, are joined by their [`Beginning`].
//! Deliberately without order in the path.

use std::sync::Arc;

use phalanx_common::abi::{Direction, FlowKey, FlowUpdate, HalfCounters};

use crate::change::CloseReason;
use crate::feature::Features;
use crate::flow::{Flow, Growth, TCP, halves};
use crate::histogram::Summary;
use crate::hop::{HopId, NamespaceId};
use crate::limits::{JOIN_WINDOW_NS, PATH_LENGTH_MAX};
use crate::measure::{Counts, MeasureKind};
use crate::name::Service;
use crate::pair::PairId;
use crate::side::{Endpoint, RoleBasis, Side, Sides};
use crate::table::{Keyed, Slot};
use crate::time::Monotonic;

/// A conversation of the engine; never used again for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConversationId(pub u64);

/// What the flows of one exchange have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ConversationKey {
    low: [u32; 4],
    high: [u32; 4],
    low_port: u16,
    high_port: u16,
    pub(crate) protocol: u8,
    /// Set where the addresses mean something else in each namespace.
    namespace: Option<NamespaceId>,
}

impl ConversationKey {
    pub(crate) fn new(key: &FlowKey, namespace: NamespaceId) -> Self {
        let ends = [Direction::FromLow, Direction::FromHigh].map(|end| Endpoint::of(key, end));
        Self {
            low: key.low,
            high: key.high,
            low_port: key.low_port,
            high_port: key.high_port,
            protocol: key.protocol,
            namespace: scope(ends, namespace),
        }
    }

    /// The key of two ends, the low one first.
    pub(crate) fn of_ends(protocol: u8, ends: [Endpoint; 2], namespace: NamespaceId) -> Self {
        let [low, high] = ends.map(|end| end.words());
        let [low_port, high_port] = ends.map(|end| end.port);
        Self {
            low,
            high,
            low_port,
            high_port,
            protocol,
            namespace: scope(ends, namespace),
        }
    }
}

fn scope(ends: [Endpoint; 2], namespace: NamespaceId) -> Option<NamespaceId> {
    let is_scoped = ends.iter().any(Endpoint::is_scoped);
    is_scoped.then_some(namespace)
}

/// How a TCP connection began, as a hop saw it: SYN, SYN-ACK, what acknowledges it, and nothing
/// more yet. That is when the kernel opens a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Beginning {
    /// What follows the initial sequence numbers: 64 bits that survive NAT, tunnels and clamped
    /// segment sizes. Stacks draw them at random (RFC 9293 section 3.4.1); whoever does not, as a
    /// replay of captures, is told apart by its addresses at each hop. Where the handshake's last
    /// packet carries data, and is cut differently at another hop, they differ.
    pub(crate) numbers: Sides<u32>,
    /// TTLs of either side's packets: the more, the nearer, unless a middlebox sets them anew.
    pub(crate) ttls: Sides<u8>,
}

impl Beginning {
    /// From a flow's first update; `None` where it tells of more, or of less.
    pub(crate) fn of(update: &FlowUpdate, client: Direction) -> Option<Self> {
        let Sides { client, server } = &halves(update, client);
        // Packets of an end beside its SYNs.
        let others = |half: &HalfCounters| {
            let syns = Some(u64::from(half.syn_count)).filter(|it| *it > 0);
            syns.and_then(|syns| half.packets.checked_sub(syns))
        };
        let is_first = update.key.protocol == TCP && update.version == 1;
        let is_answered = client.acknowledged == server.next_sequence;
        let is_beginning = (others(client), others(server)) == (Some(1), Some(0));
        (is_first && is_answered && is_beginning).then_some(Self {
            numbers: Sides {
                client: client.next_sequence,
                server: server.next_sequence,
            },
            ttls: Sides {
                client: client.ttl_max,
                server: server.ttl_max,
            },
        })
    }
}

/// One flow of a conversation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Member {
    pub(crate) hop: HopId,
    pub(crate) flow: Slot,
}

/// What the headers of one side told.
#[derive(Clone, Copy, Debug, Default)]
struct Traits {
    mss: u32,
    ttl_min: u8,
    ttl_max: u8,
}

#[derive(Debug)]
pub(crate) struct Conversation {
    pub(crate) id: ConversationId,
    pub(crate) key: ConversationKey,
    pub(crate) endpoints: Sides<Endpoint>,
    pub(crate) client: Direction,
    pub(crate) role_basis: RoleBasis,
    /// Of the hops that `endpoints` are of.
    pub(crate) namespaces: Sides<NamespaceId>,
    /// The hops that these are of.
    nearest: Sides<HopId>,
    pub(crate) beginning: Option<Beginning>,
    /// What it is called where NAT has rewritten it.
    pub(crate) aliases: Vec<ConversationKey>,
    pub(crate) opened: Monotonic,
    pub(crate) last: Monotonic,
    pub(crate) services: Sides<Arc<Service>>,
    /// State of the names that `services` were found in.
    pub(crate) names_generation: u64,
    pub(crate) pair: PairId,
    pub(crate) members: Vec<Member>,
    /// The hops that saw it, in order, those whose flow has ended included.
    path: Vec<HopId>,
    leader: Slot,
    counted: Sides<Counts>,
    /// What was counted before the leading flow was first seen; rare, so it stands apart.
    missed: Option<Box<Sides<Counts>>>,
    rtt: Sides<Summary>,
    handshake: Sides<Summary>,
    think: Summary,
    idle: Summary,
    think_and_path: Summary,
    traits: Sides<Traits>,
    /// FIN or RST, seen by any of its flows.
    end: Option<(CloseReason, Monotonic)>,
    /// When it was last told about.
    pub(crate) told: Monotonic,
}

impl Keyed for Conversation {
    type Key = ConversationKey;

    fn key(&self) -> ConversationKey {
        self.key
    }
}

/// What is known of a conversation when it opens.
pub(crate) struct Opening {
    pub(crate) id: ConversationId,
    pub(crate) namespace: NamespaceId,
    pub(crate) services: Sides<Arc<Service>>,
    pub(crate) names_generation: u64,
    pub(crate) pair: PairId,
}

impl Conversation {
    pub(crate) fn new(opening: Opening, flow: &Flow) -> Self {
        Self {
            id: opening.id,
            key: ConversationKey::new(&flow.key, opening.namespace),
            endpoints: flow.endpoints(),
            client: flow.client,
            role_basis: flow.role_basis,
            namespaces: Sides::both(opening.namespace),
            nearest: Sides::both(flow.hop),
            beginning: flow.beginning,
            aliases: Vec::new(),
            opened: flow.opened,
            last: flow.opened,
            services: opening.services,
            names_generation: opening.names_generation,
            pair: opening.pair,
            members: Vec::new(),
            path: Vec::new(),
            leader: Slot::MAX,
            counted: Sides::default(),
            missed: None,
            rtt: Sides::default(),
            handshake: Sides::default(),
            think: Summary::default(),
            idle: Summary::default(),
            think_and_path: Summary::default(),
            traits: Sides::default(),
            end: None,
            told: Monotonic::default(),
        }
    }

    /// Whether a flow of the same addresses and ports can be this exchange at another hop.
    pub(crate) fn admits(&self, flow: &Flow) -> bool {
        if self.began_with(flow) {
            // Whatever the clocks say.
            return true;
        }
        // Other numbers at another hop may be of a middlebox that shifts them.
        let is_another = flow.beginning.is_some()
            && self.beginning.is_some()
            && self.path.binary_search(&flow.hop).is_ok();
        let is_dated = self.key.protocol == TCP
            && flow.role_basis == RoleBasis::Opener
            && self.role_basis == RoleBasis::Opener;
        let is_near = apart_ns(flow.opened, self.opened) <= JOIN_WINDOW_NS;
        !is_another && self.end.is_none_or(|_| is_dated) && (!is_dated || is_near)
    }

    /// Whether a flow of other addresses or ports, and of the same beginning, is this exchange
    /// where NAT has rewritten it: at another hop.
    pub(crate) fn admits_translated(&self, flow: &Flow) -> bool {
        self.began_with(flow) && self.path.binary_search(&flow.hop).is_err()
    }

    /// Whether a flow shows the beginning of this exchange.
    fn began_with(&self, flow: &Flow) -> bool {
        let both = self.beginning.zip(flow.beginning);
        both.is_some_and(|(own, other)| own.numbers == other.numbers)
    }

    /// Takes over the ends that a flow shows from nearer: what NAT shows of them is farther away.
    /// Whether they have changed.
    pub(crate) fn come_nearer(&mut self, flow: &Flow, namespace: NamespaceId) -> bool {
        let (Some(known), Some(beginning)) = (&mut self.beginning, flow.beginning) else {
            return false;
        };
        let ends = flow.endpoints();
        let mut has_changed = false;
        for side in [Side::Client, Side::Server] {
            // Of equals it does not matter who tells first.
            let near = |ttl: u8, hop: HopId| (ttl, std::cmp::Reverse(hop));
            let own = near(*beginning.ttls.get(side), flow.hop);
            let nearest = self.nearest.get_mut(side);
            if own <= near(*known.ttls.get(side), *nearest) {
                continue;
            }
            *nearest = flow.hop;
            *known.ttls.get_mut(side) = *beginning.ttls.get(side);
            if self.endpoints.get(side) != ends.get(side) {
                *self.endpoints.get_mut(side) = *ends.get(side);
                *self.namespaces.get_mut(side) = namespace;
                has_changed = true;
            }
        }
        has_changed
    }

    /// Takes a flow into the path; `false` where it is full.
    pub(crate) fn join(&mut self, member: Member) -> bool {
        if !self.has_room() {
            return false;
        }
        if self.members.is_empty() {
            self.leader = member.flow;
        }
        let place = self
            .members
            .partition_point(|other| other.hop <= member.hop);
        self.members.insert(place, member);
        if let Err(place) = self.path.binary_search(&member.hop)
            && self.path.len() < PATH_LENGTH_MAX
        {
            self.path.insert(place, member.hop);
        }
        true
    }

    /// Whether another flow finds room in the path.
    pub(crate) fn has_room(&self) -> bool {
        self.members.len() < PATH_LENGTH_MAX
    }

    pub(crate) fn leave(&mut self, flow: Slot) {
        self.members.retain(|member| member.flow != flow);
    }

    pub(crate) fn leads(&self, flow: Slot) -> bool {
        self.leader == flow
    }

    pub(crate) fn leader(&self) -> Slot {
        self.leader
    }

    /// Lets another flow lead. One that was first seen with the conversation goes on where the
    /// old one stood; of one that was first seen later, only what comes from now on is new.
    pub(crate) fn set_leader(&mut self, slot: Slot, flow: &Flow) {
        self.leader = slot;
        let is_late = !self.began_with(flow) && flow.opened.since_ns(self.opened) > JOIN_WINDOW_NS;
        self.missed = is_late.then(|| {
            Box::new(Sides {
                client: self.counted.client.beyond(&flow.counted.client),
                server: self.counted.server.beyond(&flow.counted.server),
            })
        });
    }

    /// A time of a flow, where need be by the clock of the first hop: both saw the first packet.
    pub(crate) fn on_own_clock(&self, flow: &Flow, at: Monotonic) -> Monotonic {
        if apart_ns(flow.opened, self.opened) <= JOIN_WINDOW_NS || !self.began_with(flow) {
            return at;
        }
        self.opened.plus_ns(at.since_ns(flow.opened))
    }

    pub(crate) fn path(&self) -> Vec<HopId> {
        self.path.clone()
    }

    /// Remembers how the exchange ended, the first time it is told.
    pub(crate) fn note_end(&mut self, reason: CloseReason, at: Monotonic) {
        if matches!(reason, CloseReason::Fin | CloseReason::Reset) && self.end.is_none() {
            self.end = Some((reason, at));
        }
    }

    /// Why and when it ended, given why its last flow did.
    pub(crate) fn end(&self, reason: CloseReason) -> (CloseReason, Monotonic) {
        self.end.unwrap_or((reason, self.last))
    }

    /// Takes in what its leading flow saw; returns what no flow had counted before.
    pub(crate) fn grow(&mut self, flow: &Flow, growth: &Growth) -> Sides<Counts> {
        self.last = self.last.max(self.on_own_clock(flow, flow.last));
        let mut total = flow.counted;
        if let Some(missed) = &self.missed {
            total.client.add(&missed.client);
            total.server.add(&missed.server);
        }
        let added = Sides {
            client: total.client.beyond(&self.counted.client),
            server: total.server.beyond(&self.counted.server),
        };
        for side in [Side::Client, Side::Server] {
            self.counted.get_mut(side).add(added.get(side));
            let half = growth.totals.get(side);
            if half.packets > 0 {
                *self.traits.get_mut(side) = Traits {
                    mss: half.mss,
                    ttl_min: half.ttl_min,
                    ttl_max: half.ttl_max,
                };
            }
        }
        for measure in growth.measures.iter() {
            let summary = match measure.kind {
                MeasureKind::Rtt(side) | MeasureKind::RttByTimestamp(side) => {
                    self.rtt.get_mut(side)
                }
                MeasureKind::Handshake(side) => self.handshake.get_mut(side),
                MeasureKind::Think => &mut self.think,
                MeasureKind::Idle => &mut self.idle,
                MeasureKind::ThinkAndPath => &mut self.think_and_path,
                MeasureKind::IdleAndPath => continue,
            };
            summary.add(measure.microseconds);
        }
        added
    }

    /// All that was measured so far.
    pub(crate) fn features(&self) -> Features {
        let is_tcp = self.key.protocol == TCP;
        let Sides { client, server } = &self.counted;
        let traits = &self.traits;
        Features {
            duration_s: Some(self.last.since_ns(self.opened) as f64 / 1e9),
            handshake_server_ms: self.handshake.server.min_ms(),
            handshake_client_ms: self.handshake.client.min_ms(),
            rtt_server_min_ms: self.rtt.server.min_ms(),
            rtt_server_mean_ms: self.rtt.server.mean_ms(),
            rtt_server_max_ms: self.rtt.server.max_ms(),
            rtt_client_min_ms: self.rtt.client.min_ms(),
            rtt_client_mean_ms: self.rtt.client.mean_ms(),
            rtt_client_max_ms: self.rtt.client.max_ms(),
            think_min_ms: self.think.min_ms(),
            think_mean_ms: self.think.mean_ms(),
            think_max_ms: self.think.max_ms(),
            idle_mean_ms: self.idle.mean_ms(),
            think_and_path_mean_ms: self.think_and_path.mean_ms(),
            client_packets: Some(client.packets as f64),
            server_packets: Some(server.packets as f64),
            client_bytes: Some(client.bytes as f64),
            server_bytes: Some(server.bytes as f64),
            client_retransmitted_ratio: tcp_ratio(is_tcp, client, client.retransmitted_packets),
            server_retransmitted_ratio: tcp_ratio(is_tcp, server, server.retransmitted_packets),
            client_out_of_sequence_ratio: tcp_ratio(is_tcp, client, client.out_of_sequence_packets),
            server_out_of_sequence_ratio: tcp_ratio(is_tcp, server, server.out_of_sequence_packets),
            client_duplicate_ratio: tcp_ratio(is_tcp, client, client.duplicate_packets),
            server_duplicate_ratio: tcp_ratio(is_tcp, server, server.duplicate_packets),
            client_zero_window_count: is_tcp.then_some(client.zero_window_count as f64),
            server_zero_window_count: is_tcp.then_some(server.zero_window_count as f64),
            client_reset_count: is_tcp.then_some(client.rst_count as f64),
            server_reset_count: is_tcp.then_some(server.rst_count as f64),
            client_ecn_marked_ratio: ratio(client, client.ecn_marked_packets),
            server_ecn_marked_ratio: ratio(server, server.ecn_marked_packets),
            icmp_error_count: Some((client.icmp_error_count + server.icmp_error_count) as f64),
            client_mss_bytes: traits.client.mss(),
            server_mss_bytes: traits.server.mss(),
            client_ttl_range: traits.client.ttl_range(),
            server_ttl_range: traits.server.ttl_range(),
        }
    }
}

fn apart_ns(a: Monotonic, b: Monotonic) -> u64 {
    a.since_ns(b).max(b.since_ns(a))
}

impl Traits {
    fn mss(self) -> Option<f64> {
        (self.mss > 0).then(|| f64::from(self.mss))
    }

    fn ttl_range(self) -> Option<f64> {
        (self.ttl_max > 0).then(|| f64::from(self.ttl_max.saturating_sub(self.ttl_min)))
    }
}

fn ratio(counts: &Counts, part: u64) -> Option<f64> {
    (counts.packets > 0).then(|| part as f64 / counts.packets as f64)
}

fn tcp_ratio(is_tcp: bool, counts: &Counts, part: u64) -> Option<f64> {
    ratio(counts, part).filter(|_| is_tcp)
}
