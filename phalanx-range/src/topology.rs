//! What a range consists of, read strictly from YAML: nodes, links, addresses and faults.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::firewall::Rule;
use crate::impairment::{Direction, Impairment, Schedule};
use crate::interface::Offload;

mod file;
pub mod plan;

/// Why a file is no topology (or no list of flows), and where.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{}: {message}", Place(*.line, *.column))]
pub struct FileError {
    /// Line in the file, from 1; 0 when it concerns the whole file.
    pub line: u64,
    /// Column in the line, from 1; 0 when unknown.
    pub column: u64,
    /// What is wrong, and what would be right.
    pub message: String,
}

struct Place(u64, u64);

impl std::fmt::Display for Place {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.0, self.1) {
            (0, _) => write!(formatter, "file"),
            (line, 0) => write!(formatter, "line {line}"),
            (line, column) => write!(formatter, "line {line}, column {column}"),
        }
    }
}

impl FileError {
    pub(crate) fn at(location: serde_saphyr::Location, message: impl Into<String>) -> Self {
        Self {
            line: location.line(),
            column: location.column(),
            message: message.into(),
        }
    }

    pub(crate) fn at_line(line: u64, message: impl Into<String>) -> Self {
        Self {
            line,
            column: 0,
            message: message.into(),
        }
    }
}

impl From<serde_saphyr::Error> for FileError {
    fn from(error: serde_saphyr::Error) -> Self {
        let (line, column) = error
            .location()
            .map_or((0, 0), |place| (place.line(), place.column()));
        // The text repeats the place in its own words and draws a snippet: keep its first line.
        let text = error.without_snippet().to_string();
        let message = text.lines().next().unwrap_or("unreadable");
        let message = message.split(" at line ").next().unwrap_or(message);
        Self {
            line,
            column,
            message: message.to_owned(),
        }
    }
}

/// What a node does with packets of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeKind {
    /// An end of conversations; has a default route by its first router.
    Host,
    /// Forwards IPv4 and IPv6.
    Router,
}

/// A route that replaces a computed one or adds to them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RouteSpec {
    /// Where to.
    pub to: IpNet,
    /// The next hop; absent for a black hole, which drops silently.
    pub via: Option<IpAddr>,
}

/// A host or router: one network namespace.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NodeSpec {
    /// Its name, unique in the topology.
    pub name: String,
    /// Host or router.
    pub kind: NodeKind,
    /// Addresses on its loopback interface, reachable from everywhere.
    pub addresses: Vec<IpNet>,
    /// Routes beside the computed ones.
    pub routes: Vec<RouteSpec>,
    /// Whether a host gets a default route.
    pub has_default_route: bool,
    /// TCP congestion control, `cubic` unless said otherwise.
    pub congestion_control: String,
    /// Kernel settings, such as `net.ipv4.tcp_sack: 0`.
    pub sysctls: BTreeMap<String, String>,
    /// Packet filter and address translation.
    pub firewall: Vec<Rule>,
    /// A ruleset in the language of nftables, loaded after the rules of `firewall`.
    pub nft: Option<String>,
    /// Shell commands, run in the namespace when all is up.
    pub run: Vec<String>,
    pub(crate) line: u64,
}

/// How a link carries packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkKind {
    /// A pair of veth interfaces, without any impairment.
    Veth,
    /// A pair of tun interfaces, impaired in user space; they have no link layer.
    Emulated,
}

/// One end of a link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EndSpec {
    /// Index of the node.
    pub node: usize,
    /// Name of the interface in the node's namespace.
    pub interface: String,
    /// Its addresses with their prefix lengths.
    pub addresses: Vec<IpNet>,
    /// MTU of the interface in bytes.
    pub mtu_bytes: u32,
    /// Offloads of the interface.
    pub offload: Offload,
}

/// A link between two nodes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LinkSpec {
    /// Its name, unique in the topology; `<a>-<b>` unless said otherwise.
    pub name: String,
    /// How it carries packets.
    pub kind: LinkKind,
    /// End `a`, where the direction "forward" starts.
    pub a: EndSpec,
    /// End `b`.
    pub b: EndSpec,
    /// Cost of the link for the choice of routes.
    pub cost: u32,
    /// What an emulated link does from `a` to `b`.
    pub forward: Impairment,
    /// What an emulated link does from `b` to `a`.
    pub reverse: Impairment,
    /// How that changes from the moment the range is up.
    pub schedule: Schedule,
    pub(crate) line: u64,
}

impl LinkSpec {
    /// What the link does in a direction.
    pub fn impairment(&self, direction: Direction) -> &Impairment {
        match direction {
            Direction::Forward => &self.forward,
            Direction::Reverse => &self.reverse,
        }
    }

    /// Both ends, `a` first.
    pub fn ends(&self) -> [&EndSpec; 2] {
        [&self.a, &self.b]
    }
}

/// Nodes and the links between them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Topology {
    /// Seed of all random decisions.
    pub seed: u64,
    /// Hosts and routers.
    pub nodes: Vec<NodeSpec>,
    /// Links.
    pub links: Vec<LinkSpec>,
}

impl Topology {
    /// Reads a topology; anything unknown or out of range is an error with its line.
    pub fn from_yaml_str(text: &str) -> Result<Self, FileError> {
        file::read(text)
    }

    /// Reads a topology from a file.
    pub fn from_yaml_file(path: &Path) -> anyhow::Result<Self> {
        use anyhow::Context;
        let text = read_bounded(path)?;
        Self::from_yaml_str(&text).with_context(|| format!("topology {}", path.display()))
    }

    /// The index of a node by its name.
    pub fn node_index(&self, name: &str) -> Option<usize> {
        self.nodes.iter().position(|node| node.name == name)
    }
}

/// Reads a text file of bounded size.
pub(crate) fn read_bounded(path: &Path) -> anyhow::Result<String> {
    use anyhow::Context;
    use std::io::Read;
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| {
            file.take(crate::limits::FILE_BYTES_MAX + 1)
                .read_to_string(&mut text)
        })
        .with_context(|| format!("read {}", path.display()))?;
    anyhow::ensure!(
        text.len() as u64 <= crate::limits::FILE_BYTES_MAX,
        "{}: larger than {} bytes",
        path.display(),
        crate::limits::FILE_BYTES_MAX
    );
    Ok(text)
}

#[cfg(test)]
#[path = "topology_tests.rs"]
mod tests;
