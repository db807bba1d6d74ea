//! Names of services, from facts that the shell finds out.
//!
//! The names file is trusted most, then the container or unit that holds the socket, then the
//! process, then reverse DNS; where nothing is known, a service is called by its address.

mod cgroup;
mod file;
mod owner;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::hop::NamespaceId;
use crate::limits::REVERSE_NAME_COUNT_MAX;
use crate::side::Endpoint;
use crate::tally::Tally;
use owner::{Owners, clip};

pub use cgroup::{Runtime, Workload};
pub use file::{NamesFile, NamesFileError};

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
    /// A socket was closed, and no other one has its local address and port.
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
    /// The names file was read: it replaces the one before.
    File(Arc<NamesFile>),
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

struct Reverse {
    service: Arc<Service>,
    order: u64,
}

/// All names that are known.
#[derive(Default)]
pub(crate) struct Names {
    file: Arc<NamesFile>,
    owners: Owners,
    reverse: BTreeMap<IpAddr, Reverse>,
    reverse_by_order: BTreeMap<u64, IpAddr>,
    order_next: u64,
    generation: u64,
}

impl Names {
    /// Rises whenever a name may have changed.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    pub(crate) fn owner_count(&self) -> usize {
        self.owners.count()
    }

    pub(crate) fn learn(&mut self, fact: NameFact, tally: &mut Tally) {
        let is_new = match fact {
            NameFact::SocketOwned { socket, owner } => self.owners.add(socket, &owner, tally),
            // What was called by a name keeps it: its socket closes before its last packet comes.
            NameFact::SocketClosed(socket) => {
                self.owners.remove(socket);
                false
            }
            NameFact::AddressAdded { namespace, address } => {
                self.owners
                    .add_local(address.to_canonical(), namespace, tally)
            }
            NameFact::AddressRemoved { namespace, address } => {
                self.owners.remove_local(address.to_canonical(), namespace);
                false
            }
            NameFact::File(file) => {
                let is_new = self.file != file;
                self.file = file;
                is_new
            }
            NameFact::ReverseDns { address, host } => {
                self.learn_reverse(address.to_canonical(), host.as_deref(), tally)
            }
        };
        self.generation += u64::from(is_new);
    }

    fn learn_reverse(&mut self, address: IpAddr, host: Option<&str>, tally: &mut Tally) -> bool {
        let previous = self.reverse.remove(&address);
        if let Some(previous) = &previous {
            self.reverse_by_order.remove(&previous.order);
        }
        let Some(host) = host.filter(|host| !host.is_empty()) else {
            return previous.is_some();
        };
        if self.reverse.len() >= REVERSE_NAME_COUNT_MAX
            && let Some((_, oldest)) = self.reverse_by_order.pop_first()
        {
            self.reverse.remove(&oldest);
            tally.reverse_names_evicted += 1;
        }
        let name = clip(host.trim_end_matches('.'));
        let is_new = previous.is_none_or(|previous| previous.service.name != name);
        let basis = NameBasis::ReverseDns;
        let service = Arc::new(Service {
            name,
            basis,
            host: None,
            site: None,
        });
        let order = self.order_next;
        self.order_next += 1;
        self.reverse.insert(address, Reverse { service, order });
        self.reverse_by_order.insert(order, address);
        is_new
    }

    pub(crate) fn is_listener(&self, protocol: u8, end: Endpoint, namespace: NamespaceId) -> bool {
        self.owners.is_listener(protocol, end, namespace)
    }

    /// The service at an endpoint as seen from a namespace.
    ///
    /// `known` is what it was called so far. A name from a socket outlives the socket, unless a
    /// name as good or better takes its place: connections close before they are forgotten.
    pub(crate) fn service(
        &self,
        protocol: u8,
        end: Endpoint,
        namespace: NamespaceId,
        known: Option<&Arc<Service>>,
    ) -> Arc<Service> {
        let found = self
            .file
            .service(end)
            .or_else(|| self.owners.service(protocol, end, namespace))
            .or_else(|| {
                self.reverse
                    .get(&end.address)
                    .map(|reverse| &reverse.service)
            });
        let is_kept = |known: &&Arc<Service>| {
            let is_owner = matches!(known.basis, NameBasis::Workload | NameBasis::Process);
            let basis = found.map_or(NameBasis::Address, |found| found.basis);
            known.basis == basis && found.is_none() || is_owner && known.basis < basis
        };
        match (known.filter(is_kept), found) {
            (Some(known), _) => Arc::clone(known),
            (None, Some(found)) => Arc::clone(found),
            (None, None) => Arc::new(Service {
                name: Arc::from(end.address.to_string()),
                basis: NameBasis::Address,
                host: None,
                site: None,
            }),
        }
    }
}
