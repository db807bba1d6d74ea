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
use crate::translation::Translation;
use owner::{Owners, label};

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

/// Something that gives addresses and ports a name, or others in their place.
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
    /// Connection tracking rewrites the ends of a connection. It names nothing: conversations are
    /// told.
    Translated {
        /// The host that does.
        host: Arc<str>,
        /// The namespace whose connection tracking it is.
        namespace: NamespaceId,
        /// What becomes of what.
        translation: Translation,
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

/// Whether a letter must not come to a terminal as it is: controls, and marks that turn the
/// direction of the text around.
#[must_use]
pub fn is_unprintable(letter: char) -> bool {
    let turns = |letter| {
        matches!(letter, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}')
            || matches!(letter, '\u{2066}'..='\u{2069}')
    };
    letter.is_control() || turns(letter)
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
            NameFact::Translated { .. } => false,
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
        let name = label(host.trim_end_matches('.'));
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

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: NamespaceId = NamespaceId(1);
    const CONTAINER: NamespaceId = NamespaceId(2);

    fn owned(names: &mut Names, address: Option<&str>, namespace: NamespaceId, process: &str) {
        let address = address.map(|address| address.parse().unwrap());
        let socket = Socket {
            protocol: 6,
            port: 80,
            address,
            namespace,
        };
        let owner = Owner {
            process: process.into(),
            pid: 1,
            cgroup: "/init.scope".into(),
            container_name: None,
            is_listener: true,
        };
        names.learn(
            NameFact::SocketOwned { socket, owner },
            &mut Tally::default(),
        );
    }

    fn local(names: &mut Names, address: &str, namespace: NamespaceId) {
        let address = address.parse().unwrap();
        names.learn(
            NameFact::AddressAdded { namespace, address },
            &mut Tally::default(),
        );
    }

    fn name(names: &Names, address: &str) -> String {
        let end = Endpoint {
            address: address.parse().unwrap(),
            port: 80,
        };
        names.service(6, end, HOST, None).name.to_string()
    }

    #[test]
    fn a_socket_is_found_from_another_namespace_unless_its_address_is_scoped() {
        let mut names = Names::default();
        owned(&mut names, None, CONTAINER, "inside");
        local(&mut names, "172.17.0.2", CONTAINER);
        local(&mut names, "127.0.0.1", CONTAINER);
        assert_eq!(name(&names, "172.17.0.2"), "inside");
        assert_eq!(name(&names, "127.0.0.1"), "127.0.0.1");
        assert_eq!(name(&names, "172.17.0.3"), "172.17.0.3");
        // The namespace of the hop comes first, and an address before all addresses.
        owned(&mut names, None, HOST, "outside");
        assert_eq!(name(&names, "127.0.0.1"), "outside");
        assert_eq!(name(&names, "172.17.0.2"), "inside");
        local(&mut names, "172.17.0.2", HOST);
        assert_eq!(name(&names, "172.17.0.2"), "outside");
        owned(&mut names, Some("::ffff:172.17.0.2"), CONTAINER, "bound");
        assert_eq!(name(&names, "172.17.0.2"), "bound");
    }

    #[test]
    fn hostile_names_are_made_plain() {
        for (process, called) in [
            ("\x1b[31mred\x07", "\u{fffd}[31mred\u{fffd}"),
            ("a\nb\u{202e}c", "a\u{fffd}b\u{fffd}c"),
            ("", "unnamed"),
            (" \t", "unnamed"),
            ("<script>", "<script>"),
        ] {
            let mut names = Names::default();
            owned(&mut names, Some("10.0.0.1"), HOST, process);
            assert_eq!(name(&names, "10.0.0.1"), called);
        }
        let long = "ü".repeat(300);
        let mut names = Names::default();
        owned(&mut names, Some("10.0.0.1"), HOST, &long);
        assert_eq!(name(&names, "10.0.0.1").len(), 252);
    }

    #[test]
    fn the_names_file_wins_over_owners_and_these_over_reverse_dns() {
        let mut names = Names::default();
        let mut tally = Tally::default();
        let address = "10.0.0.1".parse().unwrap();
        let host = Some("web-1.example.".into());
        names.learn(NameFact::ReverseDns { address, host }, &mut tally);
        assert_eq!(name(&names, "10.0.0.1"), "web-1.example");
        owned(&mut names, Some("10.0.0.1"), HOST, "nginx");
        assert_eq!(name(&names, "10.0.0.1"), "nginx");
        let text = "[[name]]\nprefix = \"10.0.0.0/8\"\nservice = \"shop\"";
        let file = Arc::new(NamesFile::parse(text).unwrap());
        let generation = names.generation();
        names.learn(NameFact::File(Arc::clone(&file)), &mut tally);
        assert_eq!(name(&names, "10.0.0.1"), "shop");
        assert_eq!(names.generation(), generation + 1);
        names.learn(NameFact::File(file), &mut tally);
        assert_eq!(names.generation(), generation + 1, "nothing new");
        names.learn(NameFact::File(Arc::default()), &mut tally);
        names.learn(
            NameFact::ReverseDns {
                address,
                host: None,
            },
            &mut tally,
        );
        assert_eq!(name(&names, "10.0.0.1"), "nginx");
    }

    #[test]
    fn a_name_outlives_its_socket_but_not_a_better_name() {
        let mut names = Names::default();
        let mut tally = Tally::default();
        owned(&mut names, Some("10.0.0.1"), HOST, "curl");
        let end = Endpoint {
            address: "10.0.0.1".parse().unwrap(),
            port: 80,
        };
        let known = names.service(6, end, HOST, None);
        let socket = Socket {
            protocol: 6,
            port: 80,
            address: Some(end.address),
            namespace: HOST,
        };
        names.learn(NameFact::SocketClosed(socket), &mut tally);
        let host = Some("web-1".into());
        names.learn(
            NameFact::ReverseDns {
                address: end.address,
                host,
            },
            &mut tally,
        );
        assert_eq!(&*names.service(6, end, HOST, Some(&known)).name, "curl");
        assert_eq!(&*names.service(6, end, HOST, None).name, "web-1");
        let file = NamesFile::parse("[[name]]\nprefix = \"0.0.0.0/0\"\nservice = \"all\"").unwrap();
        names.learn(NameFact::File(Arc::new(file)), &mut tally);
        assert_eq!(&*names.service(6, end, HOST, Some(&known)).name, "all");
    }

    #[test]
    fn tables_of_names_are_bounded() {
        let mut names = Names::default();
        let mut tally = Tally::default();
        for number in 0..REVERSE_NAME_COUNT_MAX as u32 + 5 {
            let address = std::net::Ipv4Addr::from(number).into();
            names.learn(
                NameFact::ReverseDns {
                    address,
                    host: Some("a".into()),
                },
                &mut tally,
            );
        }
        assert_eq!(names.reverse.len(), REVERSE_NAME_COUNT_MAX);
        assert_eq!(names.reverse_by_order.len(), REVERSE_NAME_COUNT_MAX);
        assert_eq!(tally.reverse_names_evicted, 5);
        for port in 0..=u16::MAX {
            let socket = Socket {
                protocol: 17,
                port,
                address: None,
                namespace: HOST,
            };
            let owner = Owner {
                process: "p".into(),
                pid: 1,
                cgroup: "".into(),
                container_name: None,
                is_listener: false,
            };
            names.learn(NameFact::SocketOwned { socket, owner }, &mut tally);
        }
        let owner_max = crate::limits::OWNER_COUNT_MAX;
        assert_eq!(names.owner_count(), owner_max);
        assert_eq!(
            tally.owners_evicted,
            (usize::from(u16::MAX) + 1 - owner_max) as u64
        );
    }
}
