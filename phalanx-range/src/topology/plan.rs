//! Routes of a topology: shortest paths through routers, each family on its own, ties by the
//! order in the file.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{EndSpec, FileError, NodeKind, Topology};

/// A route of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Where to.
    pub to: IpNet,
    /// The next hop; absent for a black hole.
    pub via: Option<IpAddr>,
}

/// The routes of node `node`: computed ones, replaced by explicit ones to the same prefix.
pub fn routes(topology: &Topology, node: usize) -> Vec<Route> {
    let spec = &topology.nodes[node];
    let mut routes = Vec::new();
    for family in [Family::V4, Family::V6] {
        let first_hops = first_hops(topology, node, family);
        let own = prefixes_of(topology, node);
        let mut seen: Vec<IpNet> = own;
        for prefix in all_prefixes(topology).filter(|prefix| family.has(prefix)) {
            if seen.contains(&prefix) {
                continue;
            }
            seen.push(prefix);
            let nearest = (0..topology.nodes.len())
                .filter(|owner| prefixes_of(topology, *owner).contains(&prefix))
                .filter_map(|owner| first_hops[owner])
                .min_by_key(|(distance, _)| *distance);
            if let Some((_, via)) = nearest {
                routes.push(Route {
                    to: prefix,
                    via: Some(via),
                });
            }
        }
        if spec.kind == NodeKind::Host
            && spec.has_default_route
            && let Some(via) = first_router(topology, node, family)
        {
            routes.push(Route {
                to: family.everything(),
                via: Some(via),
            });
        }
    }
    routes.retain(|route| spec.routes.iter().all(|explicit| explicit.to != route.to));
    routes.extend(spec.routes.iter().map(|route| Route {
        to: route.to,
        via: route.via,
    }));
    routes
}

/// Says which addresses clash: one twice, or one prefix on two links.
pub(super) fn check_addresses(topology: &Topology) -> Result<(), FileError> {
    let mut addresses: Vec<IpAddr> = Vec::new();
    let mut once = |address: IpAddr, line: u64| {
        if addresses.contains(&address) {
            return Err(FileError::at_line(
                line,
                format!("address {address} is there twice"),
            ));
        }
        addresses.push(address);
        Ok(())
    };
    for node in &topology.nodes {
        for address in &node.addresses {
            once(address.addr(), node.line)?;
        }
    }
    let mut prefixes: Vec<IpNet> = Vec::new();
    for link in &topology.links {
        let mut own = Vec::new();
        for address in link.ends().into_iter().flat_map(|end| &end.addresses) {
            once(address.addr(), link.line)?;
            own.push(address.trunc());
        }
        own.sort();
        own.dedup();
        for prefix in own {
            if let Some(other) = prefixes.iter().find(|other| overlap(other, &prefix)) {
                let message = format!("{prefix} overlaps {other} of another link");
                return Err(FileError::at_line(link.line, message));
            }
            prefixes.push(prefix);
        }
        let is_joined = [Family::V4, Family::V6]
            .into_iter()
            .any(|family| next_hop(&link.a, &link.b, family).is_some());
        if !is_joined {
            let message = format!("link `{}`: its ends share no prefix", link.name);
            return Err(FileError::at_line(link.line, message));
        }
    }
    Ok(())
}

fn overlap(one: &IpNet, other: &IpNet) -> bool {
    one.contains(other) || other.contains(one)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl Family {
    fn has(self, prefix: &IpNet) -> bool {
        prefix.addr().is_ipv4() == (self == Self::V4)
    }

    fn everything(self) -> IpNet {
        match self {
            Self::V4 => IpNet::V4(ipnet::Ipv4Net::default()),
            Self::V6 => IpNet::V6(ipnet::Ipv6Net::default()),
        }
    }
}

/// The address of `to` as seen from `from` over their link.
fn next_hop(from: &EndSpec, to: &EndSpec, family: Family) -> Option<IpAddr> {
    let of_family = |address: &&IpNet| family.has(address);
    from.addresses.iter().filter(of_family).find_map(|own| {
        let peers = to.addresses.iter().filter(of_family);
        peers
            .map(IpNet::addr)
            .find(|peer| own.contains(peer) && *peer != own.addr())
    })
}

/// The neighbours of a node: index, cost and next hop.
fn neighbours(
    topology: &Topology,
    node: usize,
    family: Family,
) -> impl Iterator<Item = (usize, u32, IpAddr)> {
    topology.links.iter().filter_map(move |link| {
        let (own, peer) = match (link.a.node == node, link.b.node == node) {
            (true, _) => (&link.a, &link.b),
            (_, true) => (&link.b, &link.a),
            _ => return None,
        };
        Some((peer.node, link.cost, next_hop(own, peer, family)?))
    })
}

fn first_router(topology: &Topology, node: usize, family: Family) -> Option<IpAddr> {
    neighbours(topology, node, family)
        .find(|(peer, _, _)| topology.nodes[*peer].kind == NodeKind::Router)
        .map(|(_, _, via)| via)
}

/// Dijkstra from `source`: for each node the distance and the first next hop. Hosts are ends,
/// never on the way.
fn first_hops(topology: &Topology, source: usize, family: Family) -> Vec<Option<(u64, IpAddr)>> {
    let count = topology.nodes.len();
    let mut best: Vec<Option<(u64, IpAddr)>> = vec![None; count];
    let mut is_done = vec![false; count];
    let mut at = Some((source, 0));
    while let Some((node, distance)) = at {
        is_done[node] = true;
        if node == source || topology.nodes[node].kind == NodeKind::Router {
            for (peer, cost, via) in neighbours(topology, node, family) {
                let reached = distance + u64::from(cost);
                let first = best[node].map_or(via, |(_, first)| first);
                if !is_done[peer] && best[peer].is_none_or(|(known, _)| reached < known) {
                    best[peer] = Some((reached, first));
                }
            }
        }
        at = (0..count)
            .filter(|next| !is_done[*next])
            .filter_map(|next| best[next].map(|(distance, _)| (next, distance)))
            .min_by_key(|(next, distance)| (*distance, *next));
    }
    best
}

fn prefixes_of(topology: &Topology, node: usize) -> Vec<IpNet> {
    let ends = topology.links.iter().flat_map(super::LinkSpec::ends);
    let linked = ends
        .filter(|end| end.node == node)
        .flat_map(|end| &end.addresses);
    linked
        .chain(&topology.nodes[node].addresses)
        .map(IpNet::trunc)
        .collect()
}

fn all_prefixes(topology: &Topology) -> impl Iterator<Item = IpNet> {
    (0..topology.nodes.len()).flat_map(|node| prefixes_of(topology, node))
}
