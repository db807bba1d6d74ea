//! Names from the sockets of this host: who holds the socket at an address and port.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::cgroup::Workload;
use super::{NameBasis, Owner, Service, Socket, is_unprintable};
use crate::hop::NamespaceId;
use crate::limits::{LOCAL_ADDRESS_COUNT_MAX, NAME_LENGTH_MAX, OWNER_COUNT_MAX};
use crate::side::Endpoint;
use crate::tally::Tally;

struct Owned {
    service: Arc<Service>,
    is_listener: bool,
    order: u64,
}

/// The sockets that are known, bounded: the one told longest ago makes room.
#[derive(Default)]
pub(crate) struct Owners {
    sockets: BTreeMap<Socket, Owned>,
    by_order: BTreeMap<u64, Socket>,
    order_next: u64,
    local: BTreeSet<(IpAddr, NamespaceId)>,
}

impl Owners {
    pub(crate) fn count(&self) -> usize {
        self.sockets.len()
    }

    /// Returns whether that changed any name.
    pub(crate) fn add(&mut self, socket: Socket, owner: &Owner, tally: &mut Tally) -> bool {
        let socket = canonical(socket);
        let service = service(owner);
        let order = self.order_next;
        self.order_next += 1;
        let is_listener = owner.is_listener;
        let owned = Owned {
            service: Arc::clone(&service),
            is_listener,
            order,
        };
        let previous = self.sockets.insert(socket, owned);
        self.by_order.insert(order, socket);
        if let Some(previous) = &previous {
            self.by_order.remove(&previous.order);
        } else if self.sockets.len() > OWNER_COUNT_MAX
            && let Some((_, oldest)) = self.by_order.pop_first()
        {
            self.sockets.remove(&oldest);
            tally.owners_evicted += 1;
        }
        previous.is_none_or(|previous| previous.service != service)
    }

    pub(crate) fn remove(&mut self, socket: Socket) {
        let owned = self.sockets.remove(&canonical(socket));
        if let Some(owned) = &owned {
            self.by_order.remove(&owned.order);
        }
    }

    pub(crate) fn add_local(
        &mut self,
        address: IpAddr,
        namespace: NamespaceId,
        tally: &mut Tally,
    ) -> bool {
        if self.local.len() >= LOCAL_ADDRESS_COUNT_MAX {
            tally.local_addresses_refused += 1;
            return false;
        }
        self.local.insert((address, namespace))
    }

    pub(crate) fn remove_local(&mut self, address: IpAddr, namespace: NamespaceId) {
        self.local.remove(&(address, namespace));
    }

    pub(crate) fn is_listener(&self, protocol: u8, end: Endpoint, namespace: NamespaceId) -> bool {
        self.find(protocol, end, namespace)
            .is_some_and(|owned| owned.is_listener)
    }

    pub(crate) fn service(
        &self,
        protocol: u8,
        end: Endpoint,
        namespace: NamespaceId,
    ) -> Option<&Arc<Service>> {
        self.find(protocol, end, namespace)
            .map(|owned| &owned.service)
    }

    /// The socket at an endpoint: bound to the address before bound to all; of the namespace of
    /// the hop before any other that has the address, if the address means the same in all.
    fn find(&self, protocol: u8, end: Endpoint, namespace: NamespaceId) -> Option<&Owned> {
        let socket = |address, namespace| Socket {
            protocol,
            port: end.port,
            address,
            namespace,
        };
        let bound = Some(end.address);
        if let Some(owned) = self.sockets.get(&socket(bound, namespace)) {
            return Some(owned);
        }
        if end.is_scoped() {
            return self.sockets.get(&socket(None, namespace));
        }
        let any = socket(bound, NamespaceId(0))..=socket(bound, NamespaceId(u64::MAX));
        if let Some((_, owned)) = self.sockets.range(any).next() {
            return Some(owned);
        }
        if self.local.contains(&(end.address, namespace))
            && let Some(owned) = self.sockets.get(&socket(None, namespace))
        {
            return Some(owned);
        }
        let homes = (end.address, NamespaceId(0))..=(end.address, NamespaceId(u64::MAX));
        let mut homes = self.local.range(homes).take(HOME_COUNT_MAX);
        homes.find_map(|(_, home)| self.sockets.get(&socket(None, *home)))
    }
}

/// Sockets of IPv6 that speak IPv4 have mapped addresses.
fn canonical(socket: Socket) -> Socket {
    let address = socket.address.map(|address| address.to_canonical());
    Socket {
        address: address.filter(|address| !address.is_unspecified()),
        ..socket
    }
}

/// Namespaces that are asked for one address.
const HOME_COUNT_MAX: usize = 8;

/// The name of an owner: of its container, its unit, itself.
fn service(owner: &Owner) -> Arc<Service> {
    let workload = Workload::parse(&owner.cgroup);
    let (name, basis) = match (&owner.container_name, workload) {
        (Some(name), _) => (name.to_string(), NameBasis::Workload),
        (
            None,
            Workload {
                container_id: Some(id),
                ..
            },
        ) => {
            let short = id.get(..12).unwrap_or(id);
            (
                format!("{}@{short}", label(&owner.process)),
                NameBasis::Workload,
            )
        }
        (
            None,
            Workload {
                unit: Some(unit), ..
            },
        ) => (unit.to_owned(), NameBasis::Workload),
        _ => (owner.process.to_string(), NameBasis::Process),
    };
    Arc::new(Service {
        name: label(&name),
        basis,
        host: None,
        site: None,
    })
}

/// What a process is called that has no name, or one of blanks.
const UNNAMED: &str = "unnamed";

/// A name cut to what is allowed. Processes and resolvers choose names freely: what would move the
/// cursor of a terminal, or turn the text around, is replaced.
pub(crate) fn label(name: &str) -> Arc<str> {
    if name.trim().is_empty() {
        return Arc::from(UNNAMED);
    }
    let mut label = String::with_capacity(name.len().min(NAME_LENGTH_MAX));
    for letter in name.chars() {
        let letter = if is_unprintable(letter) {
            char::REPLACEMENT_CHARACTER
        } else {
            letter
        };
        if label.len() + letter.len_utf8() > NAME_LENGTH_MAX {
            break;
        }
        label.push(letter);
    }
    Arc::from(label)
}
