//! The two ends of an exchange, by the part they play in it.

use std::net::{IpAddr, Ipv6Addr};

use phalanx_common::abi::{Direction, FlowKey};

/// An address and a port. The port of a protocol without ports is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// IPv4 where the key holds an IPv4-mapped address.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
}

impl Endpoint {
    /// The end of `key` that sends in `direction`.
    #[must_use]
    pub fn of(key: &FlowKey, direction: Direction) -> Self {
        let (words, port) = match direction {
            Direction::FromLow => (key.low, key.low_port),
            Direction::FromHigh => (key.high, key.high_port),
        };
        let mut octets = [0; 16];
        for (octet, word) in octets.chunks_exact_mut(4).zip(words) {
            octet.copy_from_slice(&word.to_ne_bytes());
        }
        Self {
            address: Ipv6Addr::from(octets).to_canonical(),
            port,
        }
    }
}

impl Endpoint {
    /// The address that two words in wire order hold, as parsed headers do, and a port.
    #[must_use]
    pub fn of_words(words: [u64; 2], port: u16) -> Self {
        let mut octets = [0; 16];
        for (octet, word) in octets.chunks_exact_mut(8).zip(words) {
            octet.copy_from_slice(&word.to_ne_bytes());
        }
        Self {
            address: Ipv6Addr::from(octets).to_canonical(),
            port,
        }
    }

    /// The address in wire order, as keys hold it.
    pub(crate) fn words(&self) -> [u32; 4] {
        let octets = match self.address {
            IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
            IpAddr::V6(address) => address.octets(),
        };
        let mut words = [0; 4];
        for (word, octets) in words.iter_mut().zip(octets.as_chunks::<4>().0) {
            *word = u32::from_ne_bytes(*octets);
        }
        words
    }

    /// Whether the address means another place in each namespace: loopback and link-local ones.
    #[must_use]
    pub fn is_scoped(&self) -> bool {
        match self.address {
            IpAddr::V4(address) => address.is_loopback() || address.is_link_local(),
            IpAddr::V6(address) => address.is_loopback() || address.is_unicast_link_local(),
        }
    }
}

/// Which end of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// The end that asks.
    Client,
    /// The end that answers.
    Server,
}

impl Side {
    /// The end at the other side.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

/// A value for each side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sides<T> {
    /// The client's, or what the client sent.
    pub client: T,
    /// The server's, or what the server sent.
    pub server: T,
}

impl<T: Copy> Sides<T> {
    /// The same value for both sides.
    #[must_use]
    pub const fn both(value: T) -> Self {
        Self {
            client: value,
            server: value,
        }
    }
}

impl<T> Sides<T> {
    /// The value of one side.
    #[must_use]
    pub const fn get(&self, side: Side) -> &T {
        match side {
            Side::Client => &self.client,
            Side::Server => &self.server,
        }
    }

    /// The value of one side, to change it.
    pub const fn get_mut(&mut self, side: Side) -> &mut T {
        match side {
            Side::Client => &mut self.client,
            Side::Server => &mut self.server,
        }
    }
}

/// How it was decided who is the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RoleBasis {
    /// Its first packet was seen: certain.
    Opener,
    /// A process of this host is known to listen at the server's port: nearly certain.
    Listener,
    /// A guess: the server's port is a well-known one, or the client's an ephemeral one.
    Port,
    /// A guess: the client sent the first payload that was seen.
    FirstPayload,
    /// A guess from nothing but order: the server has the lower port, or is the low end.
    Order,
}

impl RoleBasis {
    /// Whether the roles may be the wrong way round.
    #[must_use]
    pub const fn is_guessed(self) -> bool {
        matches!(self, Self::Port | Self::FirstPayload | Self::Order)
    }
}
