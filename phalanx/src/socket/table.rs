//! The sockets and addresses of one namespace, read from the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nix::sys::socket::SockProtocol;

use crate::netlink::{Netlink, attributes, word};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const TCP: u8 = 6;
const UDP: u8 = 17;
const TCP_LISTEN: u8 = 10;
/// A UDP socket that is not connected is in the state CLOSE.
const UDP_UNCONNECTED: u8 = 7;
/// All states but SYN_RECV and TIME_WAIT: neither has an owner.
const STATES: u32 = 0xfff & !(1 << 3) & !(1 << 6);
/// Length of `struct inet_diag_req_v2`.
const REQUEST_SIZE: usize = 56;
/// Length of `struct ifaddrmsg`.
const ADDRESS_HEADER_SIZE: usize = 8;
/// Sockets that are looked at in one namespace; more are left without an owner.
const SOCKET_COUNT_MAX: usize = 65_536;

/// What a socket is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Binding {
    /// IANA protocol number.
    pub(super) protocol: u8,
    /// Local port.
    pub(super) port: u16,
    /// Local address; absent: all.
    pub(super) address: Option<IpAddr>,
    /// Whether it listens (or, for UDP, is not connected).
    pub(super) is_listener: bool,
}

/// Reads the sockets and addresses of the namespace that it was opened in, from any thread.
#[derive(Debug)]
pub(crate) struct SocketTable {
    sockets: Netlink,
    addresses: Netlink,
}

impl SocketTable {
    /// Opens it in the namespace of the calling thread.
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self {
            sockets: Netlink::open(SockProtocol::NetlinkSockDiag, 0)?,
            addresses: Netlink::open(SockProtocol::NetlinkRoute, 0)?,
        })
    }

    /// The sockets by inode.
    pub(super) fn read(&mut self) -> io::Result<BTreeMap<u32, Binding>> {
        let mut sockets = BTreeMap::new();
        for (family, protocol) in [
            (AF_INET, TCP),
            (AF_INET6, TCP),
            (AF_INET, UDP),
            (AF_INET6, UDP),
        ] {
            let mut request = [0; REQUEST_SIZE];
            request[0] = family;
            request[1] = protocol;
            request[4..8].copy_from_slice(&STATES.to_ne_bytes());
            let result = self.sockets.dump(SOCK_DIAG_BY_FAMILY, &request, |_, body| {
                if sockets.len() < SOCKET_COUNT_MAX
                    && let Some((inode, binding)) = parse_socket(body, protocol)
                {
                    sockets.insert(inode, binding);
                }
            });
            match result {
                // A kernel without this family or without the module for it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => other?,
            }
        }
        Ok(sockets)
    }

    /// The addresses of the namespace's interfaces.
    pub(super) fn read_addresses(&mut self) -> io::Result<BTreeSet<IpAddr>> {
        let mut addresses = BTreeSet::new();
        self.addresses
            .dump(RTM_GETADDR, &[0; ADDRESS_HEADER_SIZE], |kind, body| {
                if kind == RTM_NEWADDR {
                    addresses.extend(parse_address(body));
                }
            })?;
        Ok(addresses)
    }
}

/// Inode and binding of one `struct inet_diag_msg`.
fn parse_socket(body: &[u8], protocol: u8) -> Option<(u32, Binding)> {
    let family = *body.first()?;
    let state = *body.get(1)?;
    let port = u16::from_be_bytes(*body.get(4..6)?.first_chunk()?);
    let source: [u8; 16] = *body.get(8..24)?.first_chunk()?;
    let inode = word(body, 68)?;
    let address = match family {
        AF_INET => IpAddr::V4(Ipv4Addr::new(source[0], source[1], source[2], source[3])),
        AF_INET6 => Ipv6Addr::from(source).to_canonical(),
        _ => return None,
    };
    let listening = if protocol == TCP {
        TCP_LISTEN
    } else {
        UDP_UNCONNECTED
    };
    let binding = Binding {
        protocol,
        port,
        address: Some(address).filter(|address| !address.is_unspecified()),
        is_listener: state == listening,
    };
    (inode != 0 && port != 0).then_some((inode, binding))
}

fn parse_address(body: &[u8]) -> Option<IpAddr> {
    let family = *body.first()?;
    let mut found = None;
    for (kind, value) in attributes(body.get(ADDRESS_HEADER_SIZE..)?) {
        // On point-to-point interfaces IFA_ADDRESS is the peer's, IFA_LOCAL ours.
        if kind == IFA_LOCAL || (kind == IFA_ADDRESS && found.is_none()) {
            found = match family {
                AF_INET => value.first_chunk::<4>().map(|it| IpAddr::from(*it)),
                AF_INET6 => value.first_chunk::<16>().map(|it| IpAddr::from(*it)),
                _ => None,
            };
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, UdpSocket};

    #[test]
    fn sockets_of_this_process_are_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let everywhere = UdpSocket::bind("[::]:0").unwrap();
        let sockets = SocketTable::open().unwrap().read().unwrap();
        let port = listener.local_addr().unwrap().port();
        let found = sockets
            .values()
            .find(|it| it.protocol == TCP && it.port == port)
            .unwrap();
        assert_eq!(found.address, Some(IpAddr::from([127, 0, 0, 1])));
        assert!(found.is_listener);
        let port = everywhere.local_addr().unwrap().port();
        let found = sockets
            .values()
            .find(|it| it.protocol == UDP && it.port == port)
            .unwrap();
        assert_eq!((found.address, found.is_listener), (None, true));
    }

    #[test]
    fn the_loopback_has_its_address() {
        let addresses = SocketTable::open().unwrap().read_addresses().unwrap();
        assert!(
            addresses.contains(&IpAddr::from([127, 0, 0, 1])),
            "{addresses:?}"
        );
    }
}
