//! Where a capture records: the hops that its request names, or those that saw a conversation.

use std::collections::BTreeMap;
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

/// What to do about a name that nobody has.
const SEE_HOPS: &str = "see /api/v1/hops for the hosts and interfaces that are watched";

impl CaptureRequest {
    /// Puts the conversation of `path_of` in the filter.
    ///
    /// # Errors
    /// There is no such conversation, or it was seen nowhere that is still watched.
    pub(crate) fn narrow(&mut self, view: &View) -> Result<(), BadField> {
        let Some((id, conversation)) = find(self.path_of.as_deref(), view)? else {
            return Ok(());
        };
        let tuples = match &tuples(&sides((id, conversation), view), view)[..] {
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
            let sides = sides(known, view);
            let is_there = |id: &HopId| sides.iter().any(|it| it.1.path.contains(id));
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
            if sides.len() < TUPLE_COUNT_MAX && sides.iter().all(|(known, _)| *known != other) {
                sides.push((other, entry));
            }
        }
    }
    sides
}

/// The packets of conversations as filters: by the ends that their flows have at their hops, which
/// NAT may have rewritten.
fn tuples(conversations: &[Known<'_>], view: &View) -> Vec<String> {
    let own = conversations
        .iter()
        .map(|(_, it)| (it.protocol, it.endpoints));
    let is_theirs = |id: ConversationId| conversations.iter().any(|(known, _)| *known == id);
    let flows = view.flows.iter().map(|(_, flow)| flow);
    let flows = flows.filter(|flow| is_theirs(flow.conversation));
    let mut tuples = Vec::new();
    for (protocol, ends) in own.chain(flows.map(|it| (it.protocol, it.endpoints))) {
        let tuple = tuple(protocol, ends);
        if !tuples.contains(&tuple) && tuples.len() < TUPLE_COUNT_MAX {
            tuples.push(tuple);
        }
    }
    tuples
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
    use phalanx_engine::{ClockId, Link, NamespaceId};

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
}
