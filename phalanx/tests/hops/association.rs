//! Which flows a report has joined, against the truth.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use phalanx_range::synthesis::{HopProtocol, HopTruth, TrueConversation};

use crate::told::{Conversation, Flow, Report};

/// The names of a flow at a hop, whoever is told to be the client.
type Key = (usize, u8, SocketAddr, SocketAddr);

/// How well flows were joined.
#[derive(Debug, Default)]
pub(crate) struct Score {
    /// Conversations that several hops saw.
    pub(crate) joint: usize,
    /// Those of which all flows, and whole ones, were joined.
    pub(crate) found: usize,
    /// Conversations of the report with flows of several true ones.
    pub(crate) wrong: Vec<String>,
    /// What was not joined, by what is special about it.
    pub(crate) missed: BTreeMap<String, usize>,
    /// Some of those that were not joined.
    pub(crate) examples: Vec<String>,
    /// Flows that were told and are none, or do not have the packets that they have.
    pub(crate) odd: Vec<String>,
}

/// How many cases a message shows.
const SHOWN_MAX: usize = 8;

/// Compares; hops are named `hop0` and so on.
pub(crate) fn judge(report: &Report, truth: &HopTruth, protocol: HopProtocol) -> Score {
    let mut score = Score::default();
    let mut by_key: BTreeMap<Key, Vec<usize>> = BTreeMap::new();
    for (at, flow) in truth.flows.iter().enumerate() {
        if truth.conversations[flow.conversation as usize].protocol == protocol {
            let key = key(flow.hop, protocol, flow.pair.client, flow.pair.server);
            by_key.entry(key).or_default().push(at);
        }
    }
    let mut joined: BTreeMap<u32, BTreeSet<usize>> = BTreeMap::new();
    let mut told_as: BTreeMap<&str, u32> = BTreeMap::new();
    let own = report
        .conversations
        .iter()
        .filter(|told| told.protocol.starts_with(name(protocol)));
    for told in own {
        let mut members = BTreeSet::new();
        let mut whole = BTreeSet::new();
        for flow in &told.flows {
            let hop = hop_of(&flow.hop);
            let candidates =
                hop.and_then(|hop| by_key.get(&key(hop, protocol, flow.client, flow.server)));
            match candidates.map(|them| pick(truth, them, told, flow)) {
                Some(at) => {
                    let true_flow = &truth.flows[at];
                    members.insert(true_flow.conversation);
                    if flow.packets == Some(true_flow.packets) {
                        whole.insert(true_flow.hop);
                    } else {
                        score.odd.push(format!("{flow:?} is {true_flow:?}"));
                    }
                }
                None => score.odd.push(format!("there is no {flow:?}")),
            }
        }
        if members.len() > 1 {
            score.wrong.push(format!("{members:?}: {told:?}"));
        } else if let Some(one) = members.first() {
            told_as.insert(&told.id, *one);
            let best = joined.entry(*one).or_default();
            if whole.len() > best.len() {
                *best = whole;
            }
        }
    }
    score.wrong.extend(wrong_proxies(report, truth, &told_as));
    for true_one in truth
        .conversations
        .iter()
        .filter(|it| it.protocol == protocol)
    {
        score.count(truth, true_one, joined.get(&true_one.conversation));
    }
    score
}

/// Conversations that are told to go on in another one beyond a proxy, and do not.
fn wrong_proxies(report: &Report, truth: &HopTruth, told_as: &BTreeMap<&str, u32>) -> Vec<String> {
    let relay = |number: &u32| {
        let one = truth
            .conversations
            .iter()
            .find(|it| it.conversation == *number);
        one.and_then(|it| it.relay_of)
    };
    let relay_of = |id: &str| told_as.get(id).and_then(relay);
    let links = report.conversations.iter().flat_map(|it| {
        let others = it.proxies.iter();
        others.map(|other| (it.id.as_str(), other.as_str()))
    });
    let own = links.filter(|it| told_as.contains_key(it.0));
    let wrong = own.filter(|(one, other)| {
        let relays = (relay_of(one), relay_of(other));
        relays.0.is_none() || relays.0 != relays.1
    });
    wrong
        .map(|it| format!("{it:?} are no one exchange"))
        .collect()
}

impl Score {
    fn count(
        &mut self,
        truth: &HopTruth,
        one: &TrueConversation,
        joined: Option<&BTreeSet<usize>>,
    ) {
        let own = truth
            .flows
            .iter()
            .filter(|flow| flow.conversation == one.conversation);
        let hops: BTreeSet<usize> = own.map(|flow| flow.hop).collect();
        if hops.len() < 2 || is_bare(truth, one) {
            return;
        }
        self.joint += 1;
        if joined == Some(&hops) {
            self.found += 1;
            return;
        }
        *self.missed.entry(traits(one)).or_default() += 1;
        if self.examples.len() < SHOWN_MAX {
            let number = one.conversation;
            let flows = truth
                .flows
                .iter()
                .filter(|flow| flow.conversation == number);
            let flows: Vec<String> = flows
                .map(|it| {
                    let (client, server) = (it.pair.client, it.pair.server);
                    let (frame, packets) = (it.first_frame, it.packets);
                    format!(
                        "{}: {client} {server} frame {frame}, {packets} packets",
                        it.hop
                    )
                })
                .collect();
            self.examples
                .push(format!("conversation {number}: {joined:?} of {flows:#?}"));
        }
    }

    /// The share of true conversations that were found.
    pub(crate) fn share(&self) -> f64 {
        self.found as f64 / self.joint as f64
    }

    pub(crate) fn print(&self, what: &str) {
        println!(
            "{what}: {} of {} joined ({:.3} %), {} wrong, {} odd",
            self.found,
            self.joint,
            self.share() * 1e2,
            self.wrong.len(),
            self.odd.len()
        );
        for (traits, count) in &self.missed {
            println!("  missed {count}: {traits}");
        }
        let cases = [&self.examples, &self.wrong, &self.odd];
        for case in cases
            .into_iter()
            .flat_map(|them| them.iter().take(SHOWN_MAX))
        {
            println!("  {case}");
        }
    }
}

/// Of flows with the same names, the one with these packets; else the one that is nearest in time.
fn pick(truth: &HopTruth, candidates: &[usize], told: &Conversation, flow: &Flow) -> usize {
    let near = |at: &&usize| {
        let first_ns = i128::from(truth.flows[**at].first_ns);
        (first_ns - told.start_ns).abs()
    };
    let same = |at: &&usize| flow.packets == Some(truth.flows[**at].packets);
    let exact = candidates.iter().filter(same).min_by_key(near);
    *exact
        .or_else(|| candidates.iter().min_by_key(near))
        .unwrap()
}

fn key(hop: usize, protocol: HopProtocol, client: SocketAddr, server: SocketAddr) -> Key {
    let (mut one, mut other) = (client, server);
    if protocol == HopProtocol::Icmp {
        // Identifiers are told here or there, or nowhere.
        one.set_port(0);
        other.set_port(0);
    }
    let (one, other) = if one <= other {
        (one, other)
    } else {
        (other, one)
    };
    (hop, protocol as u8, one, other)
}

/// Echoes of which nothing is their own, behind a translation of their identifier, can be those of
/// anybody. They need not be joined, but not wrongly.
fn is_bare(truth: &HopTruth, one: &TrueConversation) -> bool {
    let own = truth
        .flows
        .iter()
        .filter(|flow| flow.conversation == one.conversation);
    let identifiers: BTreeSet<u16> = own.map(|flow| flow.pair.client.port()).collect();
    let is_plain = one.is_equal_payload && !one.has_identification;
    one.protocol == HopProtocol::Icmp && is_plain && identifiers.len() > 1
}

fn hop_of(id: &str) -> Option<usize> {
    id.strip_prefix("hop")?.parse().ok()
}

fn name(protocol: HopProtocol) -> &'static str {
    match protocol {
        HopProtocol::Tcp => "tcp",
        HopProtocol::Udp => "udp",
        HopProtocol::Icmp => "icmp",
    }
}

fn traits(one: &TrueConversation) -> String {
    let all = [
        (one.is_midstream, "midstream"),
        (!one.has_timestamps, "no timestamps"),
        (one.is_equal_payload, "equal payload"),
        (one.is_reuse, "reuse"),
        (one.is_shifted, "shifted"),
        (one.relay_of.is_some(), "relayed"),
    ];
    let own: Vec<&str> = all.iter().filter(|it| it.0).map(|it| it.1).collect();
    own.join(", ")
}
