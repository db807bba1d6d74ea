//! One conversation: the flows of several hops brought together, its path in both directions, and
//! what happened on its legs.

use std::collections::BTreeMap;

use phalanx_common::packet::protocol;

use super::alignment::Item;
use super::clock::AllSightings;
use super::hull::Point;
use super::leg::LegStory;
use super::position::{Base, items, settle_rounds};
use super::scene::{Known, Scene};
use super::sighting::{Common, Order};
use super::trail::Trail;
use crate::side::{Side, Sides};

/// A conversation, as all hops that saw it tell of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StitchedConversation {
    /// Its flows: places among the trails, in the order of the hops.
    pub flows: Vec<usize>,
    /// Hops from the client to the server, in the order in which packets meet them.
    pub path: Vec<u32>,
    /// Hops from the server to the client.
    pub return_path: Vec<u32>,
    /// The ways that packets took, where they took several.
    pub paths: Vec<PathCount>,
    /// What lies between neighbouring hops.
    pub legs: Vec<LegStory>,
    /// What was rewritten between neighbouring hops.
    pub rewrites: Vec<Rewrite>,
    /// How well packets could be told apart.
    pub alignment: Alignment,
}

/// Packets that took one of several ways.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathCount {
    /// Who sent them.
    pub side: Side,
    /// The hops that saw them, in the order of the way.
    pub hops: Vec<u32>,
    /// How many.
    pub packets: u64,
}

/// What became of the packets in the alignment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Alignment {
    /// Packets of which more than one hop could tell.
    pub packets: u64,
    /// Of these, those of which it is known what became of them at every hop.
    pub aligned: u64,
}

/// What a middlebox between two hops rewrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewrite {
    /// The hop nearer to the client.
    pub from: u32,
    /// The other.
    pub to: u32,
    /// What differs.
    pub fields: Vec<RewriteField>,
}

/// What can be rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RewriteField {
    /// Address of the client.
    ClientAddress,
    /// Port of the client.
    ClientPort,
    /// Address of the server.
    ServerAddress,
    /// Port of the server.
    ServerPort,
    /// MSS option of a SYN.
    Mss,
    /// Window scale option of a SYN.
    WindowScale,
    /// SACK-permitted option of a SYN.
    SackPermitted,
    /// Timestamps option of a SYN.
    Timestamps,
    /// Initial sequence number.
    Sequence,
}

impl RewriteField {
    /// The field as reports spell it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ClientAddress => "client_address",
            Self::ClientPort => "client_port",
            Self::ServerAddress => "server_address",
            Self::ServerPort => "server_port",
            Self::Mss => "mss",
            Self::WindowScale => "window_scale",
            Self::SackPermitted => "sack_permitted",
            Self::Timestamps => "timestamps",
            Self::Sequence => "sequence",
        }
    }
}

/// A conversation on its way to be stitched.
#[derive(Debug)]
pub(super) struct Group {
    /// Places among the trails.
    pub(super) members: Vec<usize>,
    /// By pair of members, the lower place first.
    orders: BTreeMap<(usize, usize), Sides<Order>>,
}

/// The packets of one member.
pub(super) type Packets = Sides<Vec<Item>>;

impl Group {
    pub(super) const fn new(members: Vec<usize>) -> Self {
        Self {
            members,
            orders: BTreeMap::new(),
        }
    }

    pub(super) fn packets(&self, trails: &[Trail]) -> Vec<Packets> {
        let own: Vec<&Trail> = self.members.iter().map(|it| &trails[*it]).collect();
        let bases = Base::of(&own);
        let of = |(trail, base): (&&Trail, &Base)| Sides {
            client: items(trail, Side::Client, base),
            server: items(trail, Side::Server, base),
        };
        let mut packets: Vec<Packets> = own.iter().zip(&bases).map(of).collect();
        if own.iter().any(|it| it.protocol == protocol::TCP) {
            settle_rounds(&mut packets);
        }
        packets
    }

    /// Finds the order of the hops as far as packets alone tell it, and what tells of their clocks.
    pub(super) fn sight(&mut self, trails: &[Trail], sightings: &mut AllSightings) {
        if self.members.len() < 2 {
            return;
        }
        let packets = self.packets(trails);
        for (first, second) in pairs(self.members.len()) {
            let common = Common::of(&packets[first], &packets[second]);
            let hops = [first, second].map(|it| trails[self.members[it]].hop);
            let mut orders = Sides::default();
            for side in [Side::Client, Side::Server] {
                let seen = common.sightings.get(side);
                let equal = seen.iter().filter(|it| it.times_ns[0] == it.times_ns[1]);
                sightings.note_equal((hops[0], hops[1]), equal.count(), seen.len());
                let order = common.order(side);
                *orders.get_mut(side) = order;
                if order == Order::Unknown {
                    continue;
                }
                for sighting in common.sightings.get(side) {
                    let [time_ns, seen_ns] = sighting.times_ns;
                    let ahead_ns = seen_ns.saturating_sub(time_ns);
                    let point = Point { time_ns, ahead_ns };
                    sightings.add((hops[0], hops[1]), point, order == Order::First);
                }
            }
            self.orders.insert((first, second), orders);
        }
    }

    /// Which of two members the packets of a side meet first, as far as packets alone tell it.
    pub(super) fn order(&self, a: usize, b: usize, side: Side) -> Order {
        let orders = self.orders.get(&(a, b));
        orders.map_or(Order::Unknown, |it| *it.get(side))
    }

    /// Brings the flows together, now that clocks are known.
    pub(super) fn stitch(&self, known: Known<'_>) -> StitchedConversation {
        let mut conversation = StitchedConversation {
            flows: self.members.clone(),
            ..StitchedConversation::default()
        };
        match self.members[..] {
            [only] => {
                let trail = &known.trails[only];
                let has = |side: Side| !trail.crossings.get(side).is_empty();
                let path = |side: Side| has(side).then_some(trail.hop).into_iter().collect();
                conversation.path = path(Side::Client);
                conversation.return_path = path(Side::Server);
            }
            _ => Scene::new(self, known).fill(&mut conversation),
        }
        conversation
    }
}

/// All pairs of `count` members, the lower first.
pub(super) fn pairs(count: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..count).flat_map(move |a| (a + 1..count).map(move |b| (a, b)))
}
