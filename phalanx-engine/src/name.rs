//! Names of services, from facts that the shell finds out.

use std::net::IpAddr;
use std::sync::Arc;

use crate::hop::NamespaceId;

/// A socket of this host: what an owner is told for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Socket {
    /// IANA protocol number.
    pub protocol: u8,
    /// Local port.
    pub port: u16,
    /// Local address; `None` where the socket is bound to all addresses of its namespace.
    pub address: Option<IpAddr>,
    /// The network namespace of the socket.
    pub namespace: NamespaceId,
}

/// Who holds a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Name of the process.
    pub process: Arc<str>,
    /// Its process id, in the host's process namespace.
    pub pid: u32,
    /// Its cgroup path as in `/proc/PID/cgroup` (after the second colon); empty where not known.
    pub cgroup: Arc<str>,
    /// Name of its container, where a runtime has told it.
    pub container_name: Option<Arc<str>>,
    /// Whether the socket listens.
    pub is_listener: bool,
}

/// Something that gives addresses and ports a name.
#[derive(Clone, Debug)]
pub enum NameFact {
    /// A socket and who holds it. Told again, it replaces what was told before.
    SocketOwned {
        /// The socket.
        socket: Socket,
        /// Who holds it.
        owner: Owner,
    },
    /// A socket was closed.
    SocketClosed(Socket),
    /// An address belongs to an interface of this namespace: sockets bound to all addresses of the
    /// namespace answer at it.
    AddressAdded {
        /// The namespace.
        namespace: NamespaceId,
        /// The address.
        address: IpAddr,
    },
    /// The address belongs to the namespace no longer.
    AddressRemoved {
        /// The namespace.
        namespace: NamespaceId,
        /// The address.
        address: IpAddr,
    },
    /// What reverse DNS says of an address; `None`: nothing (any more).
    ReverseDns {
        /// The address.
        address: IpAddr,
        /// The host name.
        host: Option<Arc<str>>,
    },
}

/// Where a service name comes from, the most trusted first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NameBasis {
    /// The names file.
    File,
    /// The container or the systemd unit that holds the socket.
    Workload,
    /// The process that holds the socket.
    Process,
    /// Reverse DNS.
    ReverseDns,
    /// Nothing is known: the address itself.
    Address,
}

/// The service at one end of an exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name: a label.
    pub name: Arc<str>,
    /// Where the name comes from.
    pub basis: NameBasis,
    /// The host it runs on, where the names file tells it.
    pub host: Option<Arc<str>>,
    /// The site of that host, where the names file tells it.
    pub site: Option<Arc<str>>,
}
