//! One observation point, from what the shell tells of it.

use std::sync::Arc;

/// A hop: a small number given by the shell, never used for two hops at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HopId(pub u32);

/// A network namespace: the inode number of its file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamespaceId(pub u64);

/// A clock: hops with the same number have their times from one clock. The boot id of the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClockId(pub u128);

/// What frames at a hop begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// An Ethernet header.
    Ethernet,
    /// The IP header: tun, WireGuard.
    Ip,
    /// The loopback interface.
    Loopback,
}

/// One observation point: host, network namespace, interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hop {
    /// Its number.
    pub id: HopId,
    /// Name of the host.
    pub host: Arc<str>,
    /// The network namespace of the interface.
    pub namespace: NamespaceId,
    /// Name of that namespace, where it has one.
    pub namespace_name: Option<Arc<str>>,
    /// Name of the interface.
    pub interface: Arc<str>,
    /// Index of the interface in its namespace.
    pub ifindex: u32,
    /// What frames begin with.
    pub link: Link,
    /// The clock of its times.
    pub clock: ClockId,
}
