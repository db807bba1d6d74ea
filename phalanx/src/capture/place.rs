//! Where a capture records: the hops that its request names, or those that saw a conversation.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

use phalanx_engine::{ConversationId, Endpoint, Hop, HopId, Sides};

use super::keeper::Failure;
use super::request::{BadField, CaptureRequest};
use crate::view::{ConversationEntry, View};

/// Pairs of ends that one conversation is recorded by: with both rewritten at several hosts. The
/// kernel has room for 64 filters.
const TUPLE_COUNT_MAX: usize = 8;
/// Conversations that are recorded as one: a host that translates lies between each and the next.
/// Below the pairs of ends, so that each has its own.
const SIDE_COUNT_MAX: usize = 4;

/// What to do about a name that nobody has.
const SEE_HOPS: &str = "see /api/v1/hops for the hosts and interfaces that are watched";

impl CaptureRequest {
    /// Puts the conversation of `path_of` in the filter.
    ///
    /// # Errors
    /// There is no such conversation, or it was seen nowhere that is still watched.
    pub(crate) fn narrow(&mut self, view: &View) -> Result<(), BadField> {
        let Some(known) = find(self.path_of.as_deref(), view)? else {
            return Ok(());
        };
        let tuples = match &Course::of(known, view).tuples[..] {
            [only] => only.clone(),
            several => format!("(({}))", several.join(") or (")),
        };
        self.filter = match self.filter.trim() {
            "" => tuples,
            filter => format!("({filter}) and {tuples}"),
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
        if let Some(known) = find(self.path_of.as_deref(), view)? {
            let course = Course::of(known, view).hops;
            let is_there = |id: &HopId| course.contains(id);
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

/// A conversation, and those on the other sides of hosts that translate it.
fn sides<'view>(conversation: Known<'view>, view: &'view View) -> Vec<Known<'view>> {
    let mut sides = vec![conversation];
    let mut next = 0;
    while let Some((_, side)) = sides.get(next).copied() {
        next += 1;
        let beyond = side
            .translations()
            .filter_map(|it| view.conversations.beyond(it));
        for (other, entry) in beyond {
            if sides.len() < SIDE_COUNT_MAX && sides.iter().all(|(known, _)| *known != other) {
                sides.push((other, entry));
            }
        }
    }
    sides
}

/// By what packets a conversation is recorded, and where.
struct Course {
    /// Filters by the ends that its flows have at their hops, which NAT may have rewritten.
    tuples: Vec<String>,
    /// The hops that saw it as one of these.
    hops: BTreeSet<HopId>,
}

impl Course {
    fn of(known: Known<'_>, view: &View) -> Self {
        let sides = sides(known, view);
        let mut tuples = Vec::new();
        let mut has_room = |tuple: String| {
            let is_known = tuples.contains(&tuple);
            if !is_known && tuples.len() < TUPLE_COUNT_MAX {
                tuples.push(tuple);
                return true;
            }
            is_known
        };
        for (_, side) in &sides {
            has_room(tuple(side.protocol, side.endpoints));
        }
        let (mut seen, mut left_out) = (BTreeSet::new(), BTreeSet::new());
        let is_theirs = |id: ConversationId| sides.iter().any(|(known, _)| *known == id);
        let flows = view.flows.iter().map(|(_, flow)| flow);
        for flow in flows.filter(|flow| is_theirs(flow.conversation)) {
            match has_room(tuple(flow.protocol, flow.endpoints)) {
                true => seen.insert(flow.hop),
                false => left_out.insert(flow.hop),
            };
        }
        // No filter would match there.
        left_out.retain(|hop| !seen.contains(hop));
        if !left_out.is_empty() {
            tracing::warn!(
                hop_count = left_out.len(),
                "a conversation has too many pairs of ends: some hops do not record it"
            );
        }
        let path = sides.iter().flat_map(|(_, it)| it.path.iter().copied());
        Self {
            hops: path.filter(|hop| !left_out.contains(hop)).collect(),
            tuples,
        }
    }
}

fn tuple(protocol: u8, ends: Sides<Endpoint>) -> String {
    let is_ipv4 = matches!(ends.client.address, IpAddr::V4(_));
    let name = match (protocol, is_ipv4) {
        (1, _) => "icmp".to_owned(),
        (6, _) => "tcp".to_owned(),
        (17, _) => "udp".to_owned(),
        (58, _) => "icmp6".to_owned(),
        (number, true) => format!("ip proto {number}"),
        (number, false) => format!("ip6 proto {number}"),
    };
    let mut text = name;
    for end in [ends.client, ends.server] {
        // Writing to a string does not fail.
        let _ = write!(text, " and host {}", end.address);
        if matches!(protocol, 6 | 17) {
            let _ = write!(text, " and port {}", end.port);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use phalanx_common::abi::FlowKey;
    use phalanx_engine::change::{ConversationOpened, ConversationTranslated, FlowOpened};
    use phalanx_engine::name::{NameBasis, Service};
    use phalanx_engine::{
        Change, ChangeKind, ClockId, FlowId, Link, Monotonic, NamespaceId, PairId, RoleBasis,
        Translation,
    };
    use zerocopy::FromZeros;

    use super::*;

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

    fn ends(client: u16) -> Sides<Endpoint> {
        let end = |port| Endpoint {
            address: [10, 0, 0, 1].into(),
            port,
        };
        Sides {
            client: end(client),
            server: end(80),
        }
    }

    fn fold(view: &mut View, kind: ChangeKind) {
        let change = Change {
            sequence: view.sequence + 1,
            at: Monotonic(1),
            kind,
        };
        view.fold(&change);
    }

    fn open(view: &mut View, id: u64, path: impl Iterator<Item = u32>) {
        let service = Arc::new(Service {
            name: "10.0.0.1".into(),
            basis: NameBasis::Address,
            host: None,
            site: None,
        });
        let opened = ConversationOpened {
            conversation: ConversationId(id),
            protocol: 6,
            endpoints: ends(id as u16),
            services: Sides {
                client: Arc::clone(&service),
                server: service,
            },
            role_basis: RoleBasis::Opener,
            pair: PairId(1),
            opened: Monotonic(1),
            path: path.map(HopId).collect(),
        };
        fold(view, ChangeKind::ConversationOpened(Box::new(opened)));
    }

    fn course(view: &View) -> Course {
        Course::of(find(Some("1"), view).unwrap().unwrap(), view)
    }

    #[test]
    fn where_no_filter_would_match_nothing_is_recorded() {
        const HOPS: u32 = 12;
        let mut view = View::default();
        open(&mut view, 1, 1..=HOPS);
        // The first hop has the ends of the conversation, each other one its own; the last one
        // has those of the second too.
        let at = |hop: u32| (hop, hop as u16);
        let flows = (1..=HOPS).map(at).chain([(HOPS, 2)]);
        for (number, (hop, port)) in (1..).zip(flows) {
            let opened = FlowOpened {
                flow: FlowId(number),
                hop: HopId(hop),
                conversation: ConversationId(1),
                key: FlowKey {
                    protocol: 6,
                    ..FlowKey::new_zeroed()
                },
                incarnation: 1,
                endpoints: ends(port),
                role_basis: RoleBasis::Opener,
                opened: Monotonic(1),
            };
            fold(&mut view, ChangeKind::FlowOpened(Box::new(opened)));
        }
        let Course { tuples, hops } = course(&view);
        assert_eq!(tuples.len(), TUPLE_COUNT_MAX);
        let wanted = (1..=TUPLE_COUNT_MAX as u32).chain([HOPS]);
        assert_eq!(hops, wanted.map(HopId).collect());
    }

    #[test]
    fn a_path_goes_on_beyond_three_hosts() {
        const COUNT: u64 = 6;
        let mut view = View::default();
        for id in 1..=COUNT as u32 {
            let host = format!("edge-{id}").into();
            let hop = crate::api::fixture::hop(id, "eth0");
            fold(
                &mut view,
                ChangeKind::HopAppeared(Arc::new(Hop { host, ..hop })),
            );
        }
        // Each host translates a conversation into the next.
        for id in 1..=COUNT {
            let last = id as u32;
            open(&mut view, id, last.saturating_sub(1).max(1)..=last);
        }
        for id in 1..COUNT {
            let translated = ConversationTranslated {
                host: format!("edge-{id}").into(),
                translation: Translation {
                    protocol: 6,
                    inside: ends(id as u16),
                    outside: ends(id as u16 + 1),
                },
                inside: Some(ConversationId(id)),
                outside: Some(ConversationId(id + 1)),
            };
            fold(
                &mut view,
                ChangeKind::ConversationTranslated(Box::new(translated)),
            );
        }
        let Course { tuples, hops } = course(&view);
        assert_eq!((tuples.len(), hops.len()), (SIDE_COUNT_MAX, SIDE_COUNT_MAX));
    }
}
