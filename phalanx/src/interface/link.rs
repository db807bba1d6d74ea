//! Interfaces of the calling thread's namespace: what they are, read from rtnetlink.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use nix::sys::socket::SockProtocol;

use crate::netlink::{Netlink, attributes, double_word, half_word, push_attribute, text, word};

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_STATS64: u16 = 23;
const IFLA_EXT_MASK: u16 = 29;
const IFLA_XDP: u16 = 43;
const IFLA_XDP_ATTACHED: u16 = 2;
const IFLA_XDP_PROG_ID: u16 = 4;
const IFLA_PARENT_DEV_NAME: u16 = 56;
/// Leaves virtual functions out of the answer: they can be many.
const RTEXT_FILTER_NONE: u32 = 0;
const IFF_UP: u32 = 1;
const IFF_LOOPBACK: u32 = 8;
const RTA_OIF: u16 = 4;
const RTA_MULTIPATH: u16 = 9;
const RTN_UNICAST: u8 = 1;
/// Length of `struct ifinfomsg`.
const LINK_HEADER_SIZE: usize = 16;
/// Length of `struct rtmsg`.
const ROUTE_HEADER_SIZE: usize = 12;
/// Multicast groups: links, and the routes of both families, which decide the default choice.
const GROUPS: u32 = 1 | 0x40 | 0x400;

/// What an interface's frames begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LinkLayer {
    /// With an Ethernet header.
    Ethernet,
    /// With the IP header (tun, WireGuard, IP tunnels, PPP).
    None,
    /// With something that the programs do not read; the number is that of `if_arp.h`.
    Unknown(u16),
}

/// One interface, as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Index in its namespace; never used again for another interface before it wraps.
    pub index: u32,
    /// Name; can change.
    pub name: String,
    /// Kind of a virtual interface (`veth`, `bridge`, `vxlan`, …); empty for a physical one.
    pub kind: String,
    /// What its frames begin with.
    pub layer: LinkLayer,
    /// Administratively up.
    pub is_up: bool,
    /// The loopback.
    pub is_loopback: bool,
    /// A device of some bus stands behind it.
    pub is_physical: bool,
    /// Number of the XDP program that is attached, by whomever.
    pub xdp_program_id: Option<u32>,
    /// A default route leaves through it.
    pub has_default_route: bool,
    /// Packets received since it was made, as the interface counts.
    pub received_packets: u64,
}

/// Reads links and routes and tells when to read them again.
#[derive(Debug)]
pub struct LinkTable {
    question: Netlink,
    events: Netlink,
}

impl LinkTable {
    /// Opens the sockets in the namespace of the calling thread.
    ///
    /// # Errors
    /// Those of the sockets.
    pub fn open() -> io::Result<Self> {
        Ok(Self {
            question: Netlink::open(SockProtocol::NetlinkRoute, 0)?,
            events: Netlink::open(SockProtocol::NetlinkRoute, GROUPS)?,
        })
    }

    /// All interfaces by index.
    ///
    /// # Errors
    /// Those of the sockets.
    pub fn read(&mut self) -> io::Result<BTreeMap<u32, Link>> {
        let mut links = BTreeMap::new();
        let mut body = vec![0; LINK_HEADER_SIZE];
        push_attribute(&mut body, IFLA_EXT_MASK, &RTEXT_FILTER_NONE.to_ne_bytes());
        self.question.dump(RTM_GETLINK, &body, |kind, body| {
            if kind == RTM_NEWLINK
                && let Some(link) = parse_link(body)
            {
                links.insert(link.index, link);
            }
        })?;
        for index in self.read_default_routes()? {
            if let Some(link) = links.get_mut(&index) {
                link.has_default_route = true;
            }
        }
        Ok(links)
    }

    /// Whether something changed since the last call. A lost message is a change as well: each
    /// change is answered by reading everything again.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn has_changed(&mut self) -> io::Result<bool> {
        Ok(self.events.drain()? != crate::netlink::Received::Nothing)
    }

    /// The descriptor that turns readable when something changes.
    #[must_use]
    pub fn events(&self) -> std::os::fd::BorrowedFd<'_> {
        std::os::fd::AsFd::as_fd(&self.events)
    }

    fn read_default_routes(&mut self) -> io::Result<BTreeSet<u32>> {
        let mut indices = BTreeSet::new();
        self.question
            .dump(RTM_GETROUTE, &[0; ROUTE_HEADER_SIZE], |kind, body| {
                if kind == RTM_NEWROUTE {
                    parse_default_route(body, &mut indices);
                }
            })?;
        Ok(indices)
    }
}

/// The driver of an interface of the namespace that `/sys` was mounted for.
#[must_use]
pub fn driver(name: &str) -> Option<String> {
    let link = Path::new("/sys/class/net").join(name).join("device/driver");
    let target = std::fs::read_link(link).ok()?;
    Some(target.file_name()?.to_string_lossy().into_owned())
}

fn parse_link(body: &[u8]) -> Option<Link> {
    let flags = word(body, 8)?;
    let mut link = Link {
        index: word(body, 4)?,
        name: String::new(),
        kind: String::new(),
        layer: link_layer(half_word(body, 2)?),
        is_up: flags & IFF_UP != 0,
        is_loopback: flags & IFF_LOOPBACK != 0,
        is_physical: false,
        xdp_program_id: None,
        has_default_route: false,
        received_packets: 0,
    };
    for (kind, value) in attributes(body.get(LINK_HEADER_SIZE..)?) {
        match kind {
            IFLA_IFNAME => link.name = text(value),
            IFLA_LINKINFO => {
                let kind = attributes(value).find(|(kind, _)| *kind == IFLA_INFO_KIND);
                link.kind = kind.map(|(_, value)| text(value)).unwrap_or_default();
            }
            IFLA_STATS64 => link.received_packets = double_word(value, 0).unwrap_or_default(),
            IFLA_XDP => link.xdp_program_id = parse_xdp(value),
            IFLA_PARENT_DEV_NAME => link.is_physical = true,
            _ => {}
        }
    }
    (!link.name.is_empty()).then_some(link)
}

fn parse_xdp(value: &[u8]) -> Option<u32> {
    let mut is_attached = false;
    let mut id = 0;
    for (kind, value) in attributes(value) {
        match kind {
            IFLA_XDP_ATTACHED => is_attached = value.first().is_some_and(|&mode| mode != 0),
            IFLA_XDP_PROG_ID => id = word(value, 0).unwrap_or_default(),
            _ => {}
        }
    }
    is_attached.then_some(id)
}

/// From the hardware types of `if_arp.h`.
fn link_layer(hardware: u16) -> LinkLayer {
    match hardware {
        1 | 772 => LinkLayer::Ethernet,
        512 | 519 | 768 | 769 | 776 | 778 | 823 | 0xfffe => LinkLayer::None,
        other => LinkLayer::Unknown(other),
    }
}

fn parse_default_route(body: &[u8], indices: &mut BTreeSet<u32>) {
    let is_default = body.get(1) == Some(&0) && body.get(7) == Some(&RTN_UNICAST);
    if !is_default {
        return;
    }
    for (kind, value) in attributes(body.get(ROUTE_HEADER_SIZE..).unwrap_or_default()) {
        match kind {
            RTA_OIF => indices.extend(word(value, 0)),
            RTA_MULTIPATH => {
                let mut hops = value;
                while let (Some(length), Some(index)) = (half_word(hops, 0), word(hops, 4)) {
                    indices.insert(index);
                    let step = usize::from(length).next_multiple_of(4).max(8);
                    hops = hops.get(step..).unwrap_or_default();
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_of_this_host_is_read() {
        let mut table = LinkTable::open().unwrap();
        let links = table.read().unwrap();
        let loopback = links.values().find(|link| link.is_loopback).unwrap();
        assert_eq!(loopback.name, "lo");
        assert_eq!(loopback.layer, LinkLayer::Ethernet);
        assert!(!loopback.is_physical && !loopback.has_default_route);
        assert!(!table.has_changed().unwrap());
    }

    #[test]
    fn default_routes_of_one_and_of_several_next_hops() {
        let mut route = vec![0; ROUTE_HEADER_SIZE];
        route[7] = RTN_UNICAST;
        let mut single = route.clone();
        push_attribute(&mut single, RTA_OIF, &3_u32.to_ne_bytes());
        let mut hops = Vec::new();
        for index in [5_u32, 6] {
            hops.extend_from_slice(&8_u16.to_ne_bytes());
            hops.extend_from_slice(&[0; 2]);
            hops.extend_from_slice(&index.to_ne_bytes());
        }
        push_attribute(&mut route, RTA_MULTIPATH, &hops);
        let mut to_a_network = single.clone();
        to_a_network[1] = 24;
        to_a_network[ROUTE_HEADER_SIZE + 4] = 9;

        let mut indices = BTreeSet::new();
        for message in [&single, &route, &to_a_network] {
            parse_default_route(message, &mut indices);
        }
        assert_eq!(indices.into_iter().collect::<Vec<_>>(), [3, 5, 6]);
    }
}
