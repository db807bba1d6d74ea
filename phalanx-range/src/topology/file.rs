//! The topology as it is typed, and its way to what it means.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::Deserialize;
use serde_saphyr::Spanned;

use super::{EndSpec, FileError, LinkKind, LinkSpec, NodeKind, NodeSpec, RouteSpec, Topology};
use crate::firewall::Rule;
use crate::impairment::{Change, Impairment, Patch, Schedule};
use crate::interface::Offload;
use crate::limits::{LINKS_MAX, NODE_ENTRIES_MAX, NODES_MAX};

/// Longest name of a network interface (IFNAMSIZ less the final zero).
const INTERFACE_NAME_MAX: usize = 15;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TopologyFile {
    #[serde(default = "default_seed")]
    seed: u64,
    nodes: Vec<NodeFile>,
    #[serde(default)]
    links: Vec<LinkFile>,
}

fn default_seed() -> u64 {
    1
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeFile {
    name: Spanned<String>,
    #[serde(default = "default_kind")]
    kind: NodeKind,
    #[serde(default)]
    addresses: Vec<IpNet>,
    #[serde(default)]
    routes: Vec<RouteFile>,
    #[serde(default = "default_true")]
    default_route: bool,
    congestion_control: Option<Spanned<String>>,
    #[serde(default)]
    sysctls: BTreeMap<String, Setting>,
    #[serde(default)]
    firewall: Vec<Spanned<Rule>>,
    nft: Option<String>,
    #[serde(default)]
    run: Vec<String>,
}

fn default_kind() -> NodeKind {
    NodeKind::Host
}

fn default_true() -> bool {
    true
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Setting {
    Number(i64),
    Text(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RouteFile {
    to: Spanned<String>,
    via: Option<IpAddr>,
    #[serde(default)]
    blackhole: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LinkFile {
    name: Option<Spanned<String>>,
    #[serde(default = "default_link_kind")]
    kind: LinkKind,
    a: EndFile,
    b: EndFile,
    mtu_bytes: Option<Spanned<u32>>,
    #[serde(default)]
    offload: Offload,
    #[serde(default = "default_cost")]
    cost: u32,
    #[serde(default)]
    both: Patch,
    #[serde(default)]
    forward: Patch,
    #[serde(default)]
    reverse: Patch,
    #[serde(default)]
    schedule: Vec<Change>,
    schedule_period_ms: Option<f64>,
}

fn default_link_kind() -> LinkKind {
    LinkKind::Veth
}

fn default_cost() -> u32 {
    1
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EndFile {
    node: Spanned<String>,
    interface: Option<Spanned<String>>,
    #[serde(default)]
    addresses: Vec<IpNet>,
    mtu_bytes: Option<Spanned<u32>>,
    #[serde(default)]
    offload: Offload,
}

pub(super) fn read(text: &str) -> Result<Topology, FileError> {
    let file: TopologyFile = serde_saphyr::from_str(text)?;
    if file.nodes.is_empty() || file.nodes.len() > NODES_MAX || file.links.len() > LINKS_MAX {
        let message = format!("give 1 to {NODES_MAX} nodes and at most {LINKS_MAX} links");
        return Err(FileError::at_line(0, message));
    }
    let mut topology = Topology {
        seed: file.seed,
        nodes: Vec::new(),
        links: Vec::new(),
    };
    for node in file.nodes {
        let node = read_node(node, &topology)?;
        topology.nodes.push(node);
    }
    for link in file.links {
        let link = read_link(link, &topology)?;
        topology.links.push(link);
    }
    super::plan::check_addresses(&topology)?;
    Ok(topology)
}

fn read_node(file: NodeFile, topology: &Topology) -> Result<NodeSpec, FileError> {
    let place = file.name.defined;
    let name = file.name.value;
    check_node_name(&name).map_err(|message| FileError::at(place, message))?;
    if topology.node_index(&name).is_some() {
        return Err(FileError::at(
            place,
            format!("node `{name}` is there twice"),
        ));
    }
    if file
        .routes
        .len()
        .max(file.run.len())
        .max(file.firewall.len())
        > NODE_ENTRIES_MAX
    {
        let message = format!("node `{name}`: more than {NODE_ENTRIES_MAX} entries");
        return Err(FileError::at(place, message));
    }
    let congestion_control = match file.congestion_control {
        Some(named) if !named.value.bytes().all(|byte| byte.is_ascii_lowercase()) => {
            return Err(FileError::at(
                named.defined,
                "congestion control: a name like cubic",
            ));
        }
        Some(named) => named.value,
        None => "cubic".to_owned(),
    };
    let mut firewall = Vec::new();
    for rule in file.firewall {
        rule.value
            .check()
            .map_err(|message| FileError::at(rule.defined, message))?;
        firewall.push(rule.value);
    }
    let sysctls = read_sysctls(file.sysctls).map_err(|message| FileError::at(place, message))?;
    Ok(NodeSpec {
        kind: file.kind,
        addresses: file.addresses,
        routes: file
            .routes
            .into_iter()
            .map(read_route)
            .collect::<Result<_, _>>()?,
        has_default_route: file.default_route,
        congestion_control,
        sysctls,
        firewall,
        nft: file.nft,
        run: file.run,
        line: place.line(),
        name,
    })
}

fn check_node_name(name: &str) -> Result<(), String> {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if name.is_empty() || name.len() > 32 || !name.bytes().all(is_plain) || name.starts_with('-') {
        return Err(format!(
            "`{name}`: a node's name is 1 to 32 of a-z, 0-9 and -"
        ));
    }
    Ok(())
}

fn read_sysctls(settings: BTreeMap<String, Setting>) -> Result<BTreeMap<String, String>, String> {
    settings
        .into_iter()
        .map(|(key, setting)| {
            if !key.starts_with("net.") || key.contains("..") || key.contains('/') {
                return Err(format!("sysctl `{key}`: only names like net.ipv4.tcp_sack"));
            }
            let text = match setting {
                Setting::Number(number) => number.to_string(),
                Setting::Text(text) => text,
            };
            Ok((key, text))
        })
        .collect()
}

fn read_route(file: RouteFile) -> Result<RouteSpec, FileError> {
    let place = file.to.defined;
    if file.via.is_some() == file.blackhole {
        return Err(FileError::at(
            place,
            "a route has either `via` or `blackhole: true`",
        ));
    }
    let to = match (file.to.value.as_str(), file.via) {
        ("default", Some(IpAddr::V6(_))) => IpNet::V6(Ipv6Net::default()),
        ("default", _) => IpNet::V4(Ipv4Net::default()),
        (text, _) => text
            .parse::<IpNet>()
            .map_err(|_| FileError::at(place, format!("`{text}` is no prefix like 10.0.0.0/8")))?
            .trunc(),
    };
    if file
        .via
        .is_some_and(|via| via.is_ipv4() != to.addr().is_ipv4())
    {
        return Err(FileError::at(
            place,
            "`to` and `via` are of different families",
        ));
    }
    Ok(RouteSpec { to, via: file.via })
}

fn read_link(mut file: LinkFile, topology: &Topology) -> Result<LinkSpec, FileError> {
    let place = file.a.node.defined;
    let node_a = known_node(&file.a.node, topology)?;
    let node_b = known_node(&file.b.node, topology)?;
    if node_a == node_b {
        return Err(FileError::at(
            file.b.node.defined,
            "a link joins two different nodes",
        ));
    }
    let (name, place) = match file.name.take() {
        Some(name) => (name.value, name.defined),
        None => (
            format!("{}-{}", file.a.node.value, file.b.node.value),
            place,
        ),
    };
    if topology.links.iter().any(|link| link.name == name) {
        let message = format!("link `{name}` is there twice: give one a `name`");
        return Err(FileError::at(place, message));
    }
    let (forward, reverse, schedule) =
        read_impairments(&mut file, &name).map_err(|message| FileError::at(place, message))?;
    let common = Common {
        mtu: file.mtu_bytes,
        offload: file.offload,
    };
    let number = topology.links.len() as u16 + 1;
    let is_automatic = file.a.addresses.is_empty() && file.b.addresses.is_empty();
    let addresses = |end: u8, own: &[IpNet]| {
        if is_automatic {
            automatic(number, end)
        } else {
            own.to_vec()
        }
    };
    let a_addresses = addresses(1, &file.a.addresses);
    let b_addresses = addresses(2, &file.b.addresses);
    let b_name = file.b.node.value.clone();
    let a_name = file.a.node.value.clone();
    let a = read_end(file.a, (node_a, &b_name, a_addresses), &common, topology)?;
    let b = read_end(file.b, (node_b, &a_name, b_addresses), &common, topology)?;
    let line = place.line();
    Ok(LinkSpec {
        name,
        kind: file.kind,
        a,
        b,
        cost: file.cost,
        forward,
        reverse,
        schedule,
        line,
    })
}

fn read_impairments(
    file: &mut LinkFile,
    name: &str,
) -> Result<(Impairment, Impairment, Schedule), String> {
    let patches = [&file.both, &file.forward, &file.reverse];
    let is_impaired = patches.into_iter().any(|patch| *patch != Patch::default());
    if file.kind == LinkKind::Veth && (is_impaired || !file.schedule.is_empty()) {
        return Err(format!(
            "link `{name}`: only a link with `kind: emulated` can be impaired"
        ));
    }
    let impairment = |own: &Patch| {
        let mut impairment = Impairment::default();
        file.both.apply(&mut impairment);
        own.apply(&mut impairment);
        impairment.check().map(|()| impairment)
    };
    let (forward, reverse) = (impairment(&file.forward)?, impairment(&file.reverse)?);
    let changes = std::mem::take(&mut file.schedule);
    let schedule = Schedule {
        changes,
        period_ms: file.schedule_period_ms,
    };
    schedule.check(&forward)?;
    schedule.check(&reverse)?;
    Ok((forward, reverse, schedule))
}

/// What both ends of a link have, unless they say otherwise.
struct Common {
    mtu: Option<Spanned<u32>>,
    offload: Offload,
}

fn known_node(name: &Spanned<String>, topology: &Topology) -> Result<usize, FileError> {
    topology
        .node_index(&name.value)
        .ok_or_else(|| FileError::at(name.defined, format!("there is no node `{}`", name.value)))
}

/// Addresses of link `number`: 10.77.`number`.`end`/24 and fd77:`number`::`end`/64.
fn automatic(number: u16, end: u8) -> Vec<IpNet> {
    // LINKS_MAX keeps the number within one octet.
    let v4 = Ipv4Addr::new(10, 77, number as u8, end);
    let v6 = Ipv6Addr::new(0xfd77, number, 0, 0, 0, 0, 0, u16::from(end));
    // The prefix lengths are in range, so both exist.
    [
        Ipv4Net::new(v4, 24).ok().map(IpNet::V4),
        Ipv6Net::new(v6, 64).ok().map(IpNet::V6),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn read_end(
    file: EndFile,
    (node, peer, addresses): (usize, &str, Vec<IpNet>),
    common: &Common,
    topology: &Topology,
) -> Result<EndSpec, FileError> {
    let place = file
        .interface
        .as_ref()
        .map_or(file.node.defined, |name| name.defined);
    let mut taken = topology
        .links
        .iter()
        .flat_map(LinkSpec::ends)
        .filter(|end| end.node == node);
    let count = taken.clone().count();
    let interface = match file.interface {
        Some(name) => name.value,
        None if format!("to-{peer}").len() <= INTERFACE_NAME_MAX
            && taken
                .clone()
                .all(|end| end.interface != format!("to-{peer}")) =>
        {
            format!("to-{peer}")
        }
        None => format!("eth{count}"),
    };
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if interface.is_empty()
        || interface.len() > INTERFACE_NAME_MAX
        || !interface.bytes().all(is_plain)
        || ["lo", "all", "default"].contains(&interface.as_str())
    {
        let message = format!("`{interface}`: an interface's name is 1 to 15 of a-z, 0-9, - and _");
        return Err(FileError::at(place, message));
    }
    if taken.any(|end| end.interface == interface) {
        let message = format!("interface `{interface}` is there twice on this node");
        return Err(FileError::at(place, message));
    }
    let mtu = file.mtu_bytes.as_ref().or(common.mtu.as_ref());
    if let Some(mtu) = mtu
        && !(68..=65_535).contains(&mtu.value)
    {
        return Err(FileError::at(
            mtu.defined,
            "mtu_bytes lies between 68 and 65535",
        ));
    }
    let (own, all) = (file.offload, common.offload);
    Ok(EndSpec {
        node,
        interface,
        addresses,
        mtu_bytes: mtu.map_or(1_500, |mtu| mtu.value),
        offload: Offload {
            tso: own.tso.or(all.tso),
            gso: own.gso.or(all.gso),
            gro: own.gro.or(all.gro),
            tx_checksum: own.tx_checksum.or(all.tx_checksum),
        },
    })
}
