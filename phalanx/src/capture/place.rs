//! Where a capture records: the hops that its request names, or those that saw a conversation.
//!
//! Live, what a NAT has rewritten is another conversation. A capture of one takes those in that may
//! be it beyond a NAT; which of them are, its report finds by what a NAT leaves.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

use phalanx_engine::limits::JOIN_WINDOW_NS;
use phalanx_engine::{ConversationId, Features, Hop, HopId};

use super::keeper::Failure;
use super::request::{BadField, CaptureRequest};
use crate::view::{ConversationEntry, View};

/// Conversations that one capture of a path takes: each is some filters of the kernel.
const TRANSLATED_COUNT_MAX: usize = 8;
/// Of these, those that may be the same one beyond the same NAT.
const ALIKE_COUNT_MAX: usize = 4;

/// What to do about a name that nobody has.
const SEE_HOPS: &str = "see /api/v1/hops for the hosts and interfaces that are watched";

impl CaptureRequest {
    /// Puts the conversation of `path_of` in the filter.
    ///
    /// # Errors
    /// There is no such conversation, or it was seen nowhere that is still watched.
    pub(crate) fn narrow(&mut self, view: &View) -> Result<(), BadField> {
        let Some(conversation) = find(self.path_of.as_deref(), view)? else {
            return Ok(());
        };
        let all = across_nat(conversation, view.conversations.iter());
        let tuples: BTreeSet<String> = all.iter().map(|(_, it)| tuple(it)).collect();
        let tuples: Vec<String> = tuples.into_iter().collect();
        let path = match &tuples[..] {
            [tuple] => tuple.clone(),
            tuples => format!("(({}))", tuples.join(") or (")),
        };
        self.filter = match self.filter.trim() {
            "" => path,
            filter => format!("({filter}) and {path}"),
        };
        Ok(())
    }

    /// The hops that are to be recorded.
    ///
    /// # Errors
    /// A name that nobody has, or nothing is watched.
    pub(crate) fn hops(&self, view: &View) -> Result<BTreeMap<HopId, Arc<Hop>>, Failure> {
        let all = view.hops.iter();
        let all: BTreeMap<_, _> = all.map(|(id, hop)| (id, Arc::clone(&hop.facts))).collect();
        if let Some(conversation) = find(self.path_of.as_deref(), view)? {
            let whole = across_nat(conversation, view.conversations.iter());
            let is_there = |id: &HopId| whole.iter().any(|(_, it)| it.path.contains(id));
            let hops: BTreeMap<_, _> = all.into_iter().filter(|(id, _)| is_there(id)).collect();
            if hops.is_empty() {
                let detail = "none of the hops that saw it is watched any more";
                return Err(BadField::new("path_of", detail, SEE_HOPS).into());
            }
            return Ok(hops);
        }
        let (field, names, fits): (_, _, fn(&Hop, &str) -> bool) = match self {
            Self {
                hops: Some(names), ..
            } => ("hops", names, is_called),
            Self {
                interfaces: Some(names),
                ..
            } => ("interfaces", names, |hop, name| *hop.interface == *name),
            Self { .. } if all.is_empty() => {
                return Err(Failure::Unavailable("no interface is watched".to_owned()));
            }
            Self { .. } => return Ok(all),
        };
        let unknown = names
            .iter()
            .position(|name| !all.values().any(|hop| fits(hop, name)));
        if let Some(index) = unknown {
            let detail = format!("{} is not watched", names[index]);
            return Err(BadField::new(format!("{field}[{index}]"), detail, SEE_HOPS).into());
        }
        Ok(all
            .into_iter()
            .filter(|(_, hop)| names.iter().any(|name| fits(hop, name)))
            .collect())
    }
}

/// Whether a hop is meant by `HOST` or `HOST:INTERFACE`.
fn is_called(hop: &Hop, name: &str) -> bool {
    let interface = name
        .strip_prefix(&*hop.host)
        .and_then(|it| it.strip_prefix(':'));
    *hop.host == *name || interface == Some(&hop.interface)
}

type Known<'view> = (ConversationId, &'view ConversationEntry);

fn find<'view>(id: Option<&str>, view: &'view View) -> Result<Option<Known<'view>>, BadField> {
    let Some(id) = id else {
        return Ok(None);
    };
    let number = id.parse().ok().map(ConversationId);
    let found = number.and_then(|number| Some((number, view.conversations.get(number)?)));
    found.map(Some).ok_or_else(|| {
        let remedy = "see /api/v1/conversations; closed ones are forgotten after a while";
        BadField::new(
            "path_of",
            format!("there is no conversation {id:?}"),
            remedy,
        )
    })
}

/// A conversation, and those that may be it beyond a NAT, or several: the most alike, in rounds.
fn across_nat<'view>(
    first: Known<'view>,
    all: impl Iterator<Item = Known<'view>> + Clone,
) -> Vec<Known<'view>> {
    let mut found = vec![first];
    let mut next = 0;
    while let Some((_, near)) = found.get(next).copied() {
        let is_found = |id| found.iter().any(|(known, _)| *known == id);
        let others = all.clone().filter(|(id, _)| !is_found(*id));
        let mut alike: Vec<_> = others.filter(|(_, it)| may_be(near, it)).collect();
        alike.sort_by_key(|(id, it)| (packets_apart(near, it), opened_apart_ns(near, it), *id));
        let room = TRANSLATED_COUNT_MAX.saturating_sub(found.len());
        found.extend(alike.into_iter().take(room.min(ALIKE_COUNT_MAX)));
        next += 1;
    }
    found
}

/// Whether two conversations may be one, with a NAT between the hops of both: it leaves one end as
/// it is, and when they opened. Those that have ended had as many packets.
fn may_be(a: &ConversationEntry, b: &ConversationEntry) -> bool {
    let ends = [a.endpoints.client, a.endpoints.server];
    let kept = [b.endpoints.client, b.endpoints.server]
        .iter()
        .filter(|end| ends.contains(end))
        .count();
    let is_alike = a.closed.is_none() || b.closed.is_none() || {
        let most = packet_count(a).max(packet_count(b));
        packets_apart(a, b) <= most / 10 + 2
    };
    a.protocol == b.protocol
        && matches!(a.protocol, 6 | 17)
        && kept == 1
        && opened_apart_ns(a, b) <= JOIN_WINDOW_NS
        && !a.path.iter().any(|hop| b.path.contains(hop))
        && is_alike
}

fn packet_count(it: &ConversationEntry) -> u64 {
    let Features {
        client_packets,
        server_packets,
        ..
    } = it.features;
    // Whole numbers, as the kernel counted them.
    (client_packets.unwrap_or(0.0) + server_packets.unwrap_or(0.0)) as u64
}

fn packets_apart(a: &ConversationEntry, b: &ConversationEntry) -> u64 {
    packet_count(a).abs_diff(packet_count(b))
}

fn opened_apart_ns(a: &ConversationEntry, b: &ConversationEntry) -> u64 {
    a.opened.0.abs_diff(b.opened.0)
}

/// A conversation's packets as a filter.
fn tuple(conversation: &ConversationEntry) -> String {
    let ends = conversation.endpoints;
    let is_ipv4 = matches!(ends.client.address, IpAddr::V4(_));
    let protocol = match (conversation.protocol, is_ipv4) {
        (1, _) => "icmp".to_owned(),
        (6, _) => "tcp".to_owned(),
        (17, _) => "udp".to_owned(),
        (58, _) => "icmp6".to_owned(),
        (number, true) => format!("ip proto {number}"),
        (number, false) => format!("ip6 proto {number}"),
    };
    let mut text = protocol;
    for end in [ends.client, ends.server] {
        // Writing to a string does not fail.
        let _ = write!(text, " and host {}", end.address);
        if matches!(conversation.protocol, 6 | 17) {
            let _ = write!(text, " and port {}", end.port);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use phalanx_engine::change::CloseReason;
    use phalanx_engine::name::{NameBasis, Service};
    use phalanx_engine::{
        ClockId, Endpoint, Link, Monotonic, NamespaceId, PairId, RoleBasis, Sides,
    };

    use super::*;

    /// A conversation that was opened so many milliseconds late, had so many packets, and ended.
    fn entry(ends: [&str; 2], hop: u32, (late_ms, packets): (u64, f64)) -> ConversationEntry {
        let end = |text: &str| {
            let socket: std::net::SocketAddr = text.parse().unwrap();
            Endpoint {
                address: socket.ip(),
                port: socket.port(),
            }
        };
        let service = |end: &str| {
            Arc::new(Service {
                name: end.into(),
                basis: NameBasis::Address,
                host: None,
                site: None,
            })
        };
        let opened = Monotonic(100_000_000_000 + late_ms * 1_000_000);
        ConversationEntry {
            protocol: 6,
            endpoints: Sides {
                client: end(ends[0]),
                server: end(ends[1]),
            },
            services: Sides {
                client: service(ends[0]),
                server: service(ends[1]),
            },
            role_basis: RoleBasis::Opener,
            pair: PairId(1),
            opened,
            changed: opened,
            closed: Some((CloseReason::Fin, opened)),
            path: vec![HopId(hop)],
            features: Features {
                client_packets: Some(packets),
                ..Features::default()
            },
        }
    }

    #[test]
    fn what_may_lie_beyond_a_nat_is_found_and_no_more() {
        let (client, server, inner) = ("10.0.0.2:5000", "192.0.2.9:443", "10.9.0.1:8443");
        let all = [
            entry([client, server], 1, (0, 100.0)),
            // Beyond a source NAT, and from there beyond a destination NAT.
            entry(["198.51.100.1:6000", server], 2, (30, 97.0)),
            entry(["198.51.100.1:6000", inner], 3, (60, 98.0)),
            // Another client behind the same NAT.
            entry(["198.51.100.1:6001", server], 2, (30, 50.0)),
            // Earlier, of another host, of other ends, at the same hop.
            entry(["198.51.100.1:6002", server], 2, (3_000, 100.0)),
            entry(["198.51.100.1:6003", "192.0.2.7:443"], 2, (0, 100.0)),
            entry([client, "192.0.2.8:443"], 1, (0, 100.0)),
        ];
        let known = || (0..).map(ConversationId).zip(&all);
        let found = |first: usize| -> Vec<u64> {
            let first = known().nth(first).unwrap();
            let all = across_nat(first, known());
            all.iter().map(|(id, _)| id.0).collect()
        };
        assert_eq!(found(0), [0, 1, 2]);
        assert_eq!(found(2), [2, 1, 0]);
        assert_eq!(found(5), [5]);
    }

    #[test]
    fn the_most_alike_are_taken() {
        let server = "192.0.2.9:443";
        let mut all = vec![entry(["10.0.0.2:5000", server], 1, (0, 1_000.0))];
        let clients: Vec<String> = (0..50)
            .map(|port| format!("198.51.100.1:{}", 6_000 + port))
            .collect();
        let others = clients.iter().zip(0_u32..);
        all.extend(
            others.map(|(client, number)| {
                entry([client, server], 2, (1, 1_000.0 - f64::from(number)))
            }),
        );
        let known = || (0..).map(ConversationId).zip(&all);
        let found = across_nat(known().next().unwrap(), known());
        let ids: Vec<u64> = found.iter().map(|(id, _)| id.0).collect();
        assert_eq!(ids, [0, 1, 2, 3, 4]);
    }

    #[test]
    fn hosts_and_their_interfaces_are_names_of_hops() {
        let hop = Hop {
            id: HopId(1),
            host: "web:1".into(),
            namespace: NamespaceId(1),
            namespace_name: None,
            interface: "eth0".into(),
            ifindex: 2,
            link: Link::Ethernet,
            clock: ClockId(1),
        };
        for (name, fits) in [
            ("web:1", true),
            ("web:1:eth0", true),
            ("web:1:eth1", false),
            ("web", false),
            ("web:1:", false),
            ("eth0", false),
        ] {
            assert_eq!(is_called(&hop, name), fits, "{name}");
        }
    }
}
