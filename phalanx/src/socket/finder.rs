//! The thread that finds names: sockets and their owners, addresses, the names file.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use anyhow::{Context, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use phalanx_engine::name::{NamesFile, Socket};
use phalanx_engine::{NameFact, NamespaceId};

use super::owner::{Owners, Walk};
use super::table::{Binding, SocketTable};
use crate::daemon::Waker;
use crate::privilege;

/// Facts that wait for the loop; full: the finder waits, names come later.
pub(crate) const FACT_COUNT_MAX: usize = 1_024;
/// Largest names file in bytes: 16,384 entries of 1,000 bytes each.
const NAMES_FILE_SIZE_MAX: u64 = 16 << 20;
/// Shortest time between two looks, however many flows are opened.
const LOOK_INTERVAL_MIN: Duration = Duration::from_secs(1);
/// Time between two looks where nothing happens.
const LOOK_INTERVAL_MAX: Duration = Duration::from_secs(30);

/// What a finder works with.
pub(crate) struct FinderOptions {
    /// Each namespace and its sockets; empty where owners are not asked for.
    pub(crate) namespaces: Vec<(NamespaceId, SocketTable)>,
    /// Where facts go.
    pub(crate) facts: SyncSender<NameFact>,
    /// Wakes the loop.
    pub(crate) told: Waker,
    /// Wakes the finder.
    pub(crate) waker: Waker,
    /// Ends it.
    pub(crate) stops: Arc<AtomicBool>,
}

/// Finds names until it is stopped.
pub(crate) struct Finder {
    options: FinderOptions,
    known: Vec<Known>,
    walk: Walk,
}

/// What was told of one namespace.
#[derive(Default)]
struct Known {
    sockets: BTreeMap<u32, Told>,
    addresses: BTreeSet<IpAddr>,
}

#[derive(Clone, Copy)]
struct Told {
    binding: Binding,
    has_owner: bool,
    /// Looked for in vain among all processes: held by the kernel, or by a process that may not be
    /// looked into. It is not looked for again.
    is_given_up: bool,
}

/// Reads a names file.
pub(crate) fn read_names(path: &Path) -> anyhow::Result<NameFact> {
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(NAMES_FILE_SIZE_MAX + 1).read_to_string(&mut text))
        .with_context(|| format!("read names file {}", path.display()))?;
    ensure!(
        text.len() as u64 <= NAMES_FILE_SIZE_MAX,
        "names file {}: more than {NAMES_FILE_SIZE_MAX} bytes; name prefixes, not each address",
        path.display()
    );
    let file = NamesFile::parse(&text).with_context(|| format!("names file {}", path.display()))?;
    Ok(NameFact::File(Arc::new(file)))
}

/// Tells the engine the content of the names file, or that there is none any more.
pub(crate) fn load_names(path: Option<&PathBuf>) -> anyhow::Result<NameFact> {
    path.map_or_else(
        || Ok(NameFact::File(Arc::default())),
        |path| read_names(path),
    )
}

impl Finder {
    pub(crate) fn new(options: FinderOptions) -> Self {
        let known = options
            .namespaces
            .iter()
            .map(|_| Known::default())
            .collect();
        Self {
            options,
            known,
            walk: Walk::default(),
        }
    }

    /// Looks whenever flows were opened, and from time to time.
    pub(crate) fn run(mut self) {
        let kept = match self.options.namespaces.is_empty() {
            true => &[][..],
            false => &privilege::TO_FIND_OWNERS,
        };
        if let Err(error) = privilege::keep_only(kept) {
            tracing::warn!(
                error = format!("{error:#}"),
                "the finder of names keeps capabilities"
            );
        }
        while !self.options.stops.load(Ordering::Acquire) {
            if let Err(error) = self.look() {
                tracing::warn!(%error, "sockets could not be read");
            }
            std::thread::sleep(LOOK_INTERVAL_MIN);
            self.wait();
        }
    }

    fn wait(&self) {
        let mut descriptors = [PollFd::new(self.options.waker.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(LOOK_INTERVAL_MAX).unwrap_or(PollTimeout::MAX);
        // An interrupted wait is a look too early.
        let _ = poll(&mut descriptors, timeout);
        self.options.waker.clear();
    }

    fn look(&mut self) -> std::io::Result<()> {
        let mut wanted = BTreeSet::new();
        for number in 0..self.known.len() {
            let (namespace, table) = &mut self.options.namespaces[number];
            let namespace = *namespace;
            let (sockets, addresses) = (table.read()?, table.read_addresses()?);
            let mut facts = Vec::new();
            let known = &mut self.known[number];
            known.compare_addresses(namespace, addresses, &mut facts);
            known.forget_closed(namespace, &sockets, &mut facts);
            for (inode, binding) in sockets {
                let fresh = Told {
                    binding,
                    has_owner: false,
                    is_given_up: false,
                };
                let told = known.sockets.entry(inode).or_insert(fresh);
                if !told.has_owner && !told.is_given_up {
                    wanted.insert(inode);
                }
            }
            self.tell(facts);
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let mut found = Owners::new();
        let is_complete = self.walk.pass(&wanted, &mut found);
        self.tell_owners(&wanted, &found, is_complete);
        if !is_complete {
            self.options.waker.wake();
        }
        Ok(())
    }

    fn tell_owners(&mut self, wanted: &BTreeSet<u32>, found: &Owners, is_complete: bool) {
        let mut facts = Vec::new();
        for (known, (namespace, _)) in self.known.iter_mut().zip(&self.options.namespaces) {
            let listening = known.listening(*namespace);
            for inode in wanted {
                let Some(told) = known.sockets.get_mut(inode) else {
                    continue;
                };
                match found.get(inode) {
                    Some(holder) => {
                        told.has_owner = true;
                        let socket = socket(*namespace, told.binding);
                        let owner = holder.owner(listening.contains(&socket));
                        facts.push(NameFact::SocketOwned { socket, owner });
                    }
                    None => told.is_given_up = is_complete,
                }
            }
        }
        self.tell(facts);
    }

    fn tell(&self, facts: Vec<NameFact>) {
        if facts.is_empty() {
            return;
        }
        for fact in facts {
            if self.options.facts.send(fact).is_err() {
                return;
            }
        }
        self.options.told.wake();
    }
}

impl Known {
    /// Where somebody listens. What a listener bound to one address has accepted is bound to the
    /// same: to the engine they are one socket.
    fn listening(&self, namespace: NamespaceId) -> BTreeSet<Socket> {
        let bindings = self.sockets.values().map(|told| told.binding);
        bindings
            .filter(|binding| binding.is_listener)
            .map(|binding| socket(namespace, binding))
            .collect()
    }

    fn compare_addresses(
        &mut self,
        namespace: NamespaceId,
        addresses: BTreeSet<IpAddr>,
        facts: &mut Vec<NameFact>,
    ) {
        let removed = self.addresses.difference(&addresses);
        facts.extend(removed.map(|&address| NameFact::AddressRemoved { namespace, address }));
        let added = addresses.difference(&self.addresses);
        facts.extend(added.map(|&address| NameFact::AddressAdded { namespace, address }));
        self.addresses = addresses;
    }

    fn forget_closed(
        &mut self,
        namespace: NamespaceId,
        sockets: &BTreeMap<u32, Binding>,
        facts: &mut Vec<NameFact>,
    ) {
        // Another socket may be bound to the same: then the name holds on.
        let bound: BTreeSet<Socket> = sockets
            .values()
            .map(|binding| socket(namespace, *binding))
            .collect();
        self.sockets.retain(|inode, told| {
            let stays = sockets.get(inode) == Some(&told.binding);
            let socket = socket(namespace, told.binding);
            if !stays && told.has_owner && !bound.contains(&socket) {
                facts.push(NameFact::SocketClosed(socket));
            }
            stays
        });
    }
}

fn socket(namespace: NamespaceId, binding: Binding) -> Socket {
    let Binding {
        protocol,
        port,
        address,
        is_listener: _,
    } = binding;
    Socket {
        protocol,
        port,
        address,
        namespace,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binding(port: u16) -> Binding {
        Binding {
            protocol: 6,
            port,
            address: None,
            is_listener: true,
        }
    }

    #[test]
    fn a_closed_socket_is_told_once_and_only_if_nobody_else_has_its_place() {
        let namespace = NamespaceId(1);
        let told = |port| Told {
            binding: binding(port),
            has_owner: true,
            is_given_up: false,
        };
        let sockets = BTreeMap::from([(1, told(80)), (2, told(443)), (3, told(53))]);
        let mut known = Known {
            sockets,
            ..Known::default()
        };
        let now = BTreeMap::from([(3, binding(53)), (9, binding(443))]);
        let mut facts = Vec::new();
        known.forget_closed(namespace, &now, &mut facts);
        assert!(
            matches!(&facts[..], [NameFact::SocketClosed(socket)] if socket.port == 80),
            "{facts:?}"
        );
        assert_eq!(known.sockets.keys().copied().collect::<Vec<_>>(), [3]);
    }

    #[test]
    fn a_listener_with_connections_stays_a_listener() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let _connection = std::net::TcpStream::connect(address).unwrap();
        let _accepted = listener.accept().unwrap();
        let (facts, told) = std::sync::mpsc::sync_channel(FACT_COUNT_MAX);
        let mut finder = Finder::new(FinderOptions {
            namespaces: vec![(NamespaceId(1), SocketTable::open().unwrap())],
            facts,
            told: Waker::new().unwrap(),
            waker: Waker::new().unwrap(),
            stops: Arc::default(),
        });
        let reader = std::thread::spawn(move || {
            let facts = told.iter().filter_map(|fact| match fact {
                NameFact::SocketOwned { socket, owner } => Some((socket, owner.is_listener)),
                _ => None,
            });
            facts
                .filter(|(socket, _)| socket.port == address.port())
                .map(|(_, is_listener)| is_listener)
                .collect::<Vec<_>>()
        });
        for _ in 0..1_000 {
            finder.look().unwrap();
            let at_port = |told: &&Told| told.binding.port == address.port();
            let sockets = || finder.known[0].sockets.values().filter(at_port);
            if sockets().count() == 2 && sockets().all(|told| told.has_owner) {
                break;
            }
        }
        drop(finder);
        assert_eq!(reader.join().unwrap(), [true, true]);
    }

    #[test]
    fn an_endless_names_file_is_refused() {
        let error = read_names(Path::new("/dev/zero")).unwrap_err().to_string();
        assert!(error.contains("more than"), "{error}");
    }

    #[test]
    fn addresses_are_told_as_they_change() {
        let namespace = NamespaceId(1);
        let address = |last| IpAddr::from([10, 0, 0, last]);
        let mut known = Known::default();
        let mut facts = Vec::new();
        known.compare_addresses(namespace, BTreeSet::from([address(1)]), &mut facts);
        known.compare_addresses(namespace, BTreeSet::from([address(2)]), &mut facts);
        assert_eq!(facts.len(), 3);
        assert!(
            matches!(facts[1], NameFact::AddressRemoved { address: it, .. } if it == address(1))
        );
    }
}
