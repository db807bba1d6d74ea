//! What happened on each leg, from comparing the captures at its two ends packet by packet, and the
//! counters of the links, which must say the same.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddrV4;

use crate::stage::Evidence;
use crate::told::Spread;
use crate::wire::{self, Identity, Packet};

/// Clients have ports from here on, servers have lower ones, before and behind any translation.
const CLIENT_PORT_FIRST: u16 = 20_000;

/// A conversation as a hop sees it: its names there, and its packets each way.
#[derive(Clone, Debug)]
pub(crate) struct Flow {
    pub(crate) client: SocketAddrV4,
    pub(crate) server: SocketAddrV4,
    /// Towards the server and towards the client.
    pub(crate) ways: [Vec<Packet>; 2],
}

/// A conversation at the hops that saw something of it.
#[derive(Debug)]
pub(crate) struct Conversation {
    pub(crate) at: BTreeMap<String, Flow>,
}

/// What a leg did to a conversation one way.
#[derive(Debug, Clone, Default)]
pub(crate) struct Way {
    pub(crate) packets: u64,
    pub(crate) lost: u64,
    pub(crate) reordered: u64,
    pub(crate) duplicated: u64,
    /// In milliseconds, of what came through.
    pub(crate) delays: Vec<f64>,
}

/// All conversations of a scenario.
pub(crate) struct Truth {
    pub(crate) conversations: Vec<Conversation>,
}

impl Truth {
    pub(crate) fn of(evidence: &Evidence) -> Self {
        let mut hops = evidence.hops.iter();
        let first = hops.next().unwrap();
        let mut conversations: Vec<Conversation> = flows(&evidence.path(first))
            .into_iter()
            .map(|flow| Conversation {
                at: BTreeMap::from([(first.clone(), flow)]),
            })
            .collect();
        let mut known = BTreeMap::new();
        for (at, conversation) in conversations.iter().enumerate() {
            for mark in marks(&conversation.at[first]) {
                known.insert(mark, at);
            }
        }
        for hop in hops {
            let mut taken = BTreeSet::new();
            for flow in flows(&evidence.path(hop)) {
                let votes: BTreeSet<usize> = marks(&flow)
                    .iter()
                    .filter_map(|mark| known.get(mark).copied())
                    .collect();
                assert_eq!(votes.len(), 1, "{hop}: whose is {}?", flow.client);
                let at = *votes.first().unwrap();
                assert!(taken.insert(at), "{hop}: two flows of one conversation");
                conversations[at].at.insert(hop.clone(), flow);
            }
        }
        Self { conversations }
    }

    /// When the last packet was seen anywhere.
    pub(crate) fn last_ns(&self) -> u64 {
        let flows = self.conversations.iter().flat_map(|it| it.at.values());
        let packets = flows.flat_map(|flow| flow.ways.iter().flatten());
        packets.map(|packet| packet.time_ns).max().unwrap_or(0)
    }

    /// What became of all packets between two hops, one way.
    pub(crate) fn sum(&self, enter: &str, leave: &str, direction: usize) -> Way {
        let mut sum = Way::default();
        for conversation in &self.conversations {
            let way = conversation.way(enter, leave, direction);
            sum.packets += way.packets;
            sum.lost += way.lost;
            sum.reordered += way.reordered;
            sum.duplicated += way.duplicated;
            sum.delays.extend(way.delays);
        }
        sum
    }
}

/// The flows of a capture, each with its client.
fn flows(path: &std::path::Path) -> Vec<Flow> {
    let mut flows: BTreeMap<(SocketAddrV4, SocketAddrV4), Flow> = BTreeMap::new();
    for packet in wire::read(path) {
        let (source, destination) = (packet.source, packet.destination);
        let is_client = source.port() >= CLIENT_PORT_FIRST;
        assert_ne!(
            is_client,
            destination.port() >= CLIENT_PORT_FIRST,
            "{packet:?}"
        );
        let (client, server) = if is_client {
            (source, destination)
        } else {
            (destination, source)
        };
        let flow = flows.entry((client, server)).or_insert_with(|| Flow {
            client,
            server,
            ways: [Vec::new(), Vec::new()],
        });
        flow.ways[usize::from(!is_client)].push(packet);
    }
    flows.into_values().collect()
}

/// What names a conversation at any hop: numbers and timestamps, 64 bits that nobody shares.
fn marks(flow: &Flow) -> BTreeSet<(usize, u32, u32)> {
    let ways = flow.ways.iter().enumerate();
    ways.flat_map(|(direction, packets)| {
        packets.iter().map(move |packet| {
            let Identity {
                sequence,
                timestamp,
                ..
            } = packet.identity;
            (direction, sequence, timestamp)
        })
    })
    .collect()
}

impl Flow {
    /// What the client announced.
    fn segment_size(&self) -> Option<u16> {
        self.ways[0].iter().find_map(|packet| packet.segment_size)
    }
}

impl Conversation {
    pub(crate) fn way(&self, enter: &str, leave: &str, direction: usize) -> Way {
        let (Some(enter), Some(leave)) = (self.at.get(enter), self.at.get(leave)) else {
            return Way::default();
        };
        let (entered, left) = (&enter.ways[direction], &leave.ways[direction]);
        if entered.is_empty() || left.is_empty() {
            return Way::default();
        }
        // Where one end saw packets before they were cut, the other one says how they were.
        let segment_bytes = self.segment_bytes(direction);
        let cut = |packets: &[Packet]| -> Vec<Packet> {
            packets
                .iter()
                .flat_map(|packet| packet.split(segment_bytes))
                .collect()
        };
        compare(&cut(entered), &cut(left))
    }

    /// Whether a hop saw both directions of it.
    pub(crate) fn is_both_ways(&self, hop: &str) -> bool {
        self.at
            .get(hop)
            .is_some_and(|flow| flow.ways.iter().all(|way| !way.is_empty()))
    }

    /// Whether something is one thing at a hop, and another at a later one.
    pub(crate) fn is_rewritten(&self, (from, to, field): &(&str, &str, &str)) -> bool {
        let [one, other] = [from, to].map(|hop| &self.at[*hop]);
        match *field {
            "client_address" => one.client.ip() != other.client.ip(),
            "client_port" => one.client.port() != other.client.port(),
            "server_address" => one.server.ip() != other.server.ip(),
            "server_port" => one.server.port() != other.server.port(),
            "mss" => one.segment_size() != other.segment_size(),
            unknown => panic!("{unknown}"),
        }
    }

    /// The largest payload that was seen where it is smallest.
    fn segment_bytes(&self, direction: usize) -> u32 {
        let largest = self.at.values().filter_map(|flow| {
            let bytes = flow.ways[direction]
                .iter()
                .map(|it| it.identity.payload_bytes);
            bytes.max()
        });
        largest.filter(|bytes| *bytes > 0).min().unwrap_or(u32::MAX)
    }
}

fn compare(entered: &[Packet], left: &[Packet]) -> Way {
    let mut way = Way {
        packets: entered.len() as u64,
        ..Way::default()
    };
    let mut waiting: BTreeMap<Identity, Vec<usize>> = BTreeMap::new();
    for (at, packet) in entered.iter().enumerate().rev() {
        waiting.entry(packet.identity).or_default().push(at);
    }
    let mut latest = None;
    for packet in left {
        let them = waiting.get_mut(&packet.identity);
        let them = them.unwrap_or_else(|| panic!("{packet:?}: nobody sent it"));
        let Some(at) = them.pop() else {
            way.duplicated += 1;
            continue;
        };
        way.delays
            .push((packet.time_ns as f64 - entered[at].time_ns as f64) / 1e6);
        way.reordered += u64::from(latest.is_some_and(|latest| at < latest));
        latest = latest.max(Some(at));
    }
    way.lost = waiting.values().map(|them| them.len() as u64).sum();
    way
}

impl Way {
    pub(crate) fn delay(&self) -> Option<Spread> {
        Spread::of(self.delays.clone())
    }

    /// The share of delays below which a told median must lie, or above.
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.delays.clone();
        sorted.sort_by(f64::total_cmp);
        let at = (share * sorted.len() as f64).floor() as usize;
        sorted[at.min(sorted.len() - 1)]
    }
}
