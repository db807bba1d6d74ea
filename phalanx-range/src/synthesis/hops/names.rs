//! Addresses and ports, no two pairs the same at any hop unless that is wanted.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::conversation::Manner;
use super::{HopProtocol, Pair};
use crate::random::Random;

/// Conversations of one client address.
const CLIENT_CONVERSATIONS: u32 = 20;
const SERVER_COUNT: u32 = 40;
const SERVICE_PORTS: [u16; 4] = [443, 80, 5_432, 8_080];
/// None that a dissector takes for its own.
const DATAGRAM_PORT: u16 = 4_499;
/// What most systems take for clients.
const PORT_FIRST: u16 = 32_768;
/// All that is translated comes from here.
const SHARED_ADDRESS: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const SHARED_ADDRESS_V6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 9, 0, 0, 0, 1);

/// What was given away.
pub(super) struct Names {
    random: Random,
    taken: BTreeSet<(u8, Pair)>,
    clients: u32,
}

impl Names {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            random: Random::new(seed, u64::MAX >> 1),
            taken: BTreeSet::new(),
            clients: 0,
        }
    }

    /// A client and a server as they call themselves.
    pub(super) fn pair(&mut self, manner: Manner, is_v6: bool) -> Pair {
        loop {
            let number = self.clients;
            self.clients += 1;
            let client = client_address(number / CLIENT_CONVERSATIONS, is_v6);
            let server = server_address(self.random.next_u32() % SERVER_COUNT, is_v6);
            let service = match manner {
                Manner::Connection => SERVICE_PORTS[self.random.next_u32() as usize % 4],
                Manner::Lookup => 53,
                Manner::Datagrams => DATAGRAM_PORT,
                Manner::Echo => 0,
            };
            let pair = Pair {
                client: SocketAddr::new(client, self.port()),
                server: SocketAddr::new(server, service),
            };
            if self.taken.insert((manner.protocol() as u8, pair)) {
                return pair;
            }
        }
    }

    /// The same, behind the address that all share: with its own port where that is free, for
    /// every second one, as with another one.
    pub(super) fn translate(&mut self, protocol: HopProtocol, pair: Pair) -> Pair {
        let shared: IpAddr = match pair.client {
            SocketAddr::V4(_) => SHARED_ADDRESS.into(),
            SocketAddr::V6(_) => SHARED_ADDRESS_V6.into(),
        };
        let mut port = pair.client.port();
        if self.random.chance(0.5) {
            port = self.port();
        }
        loop {
            let client = SocketAddr::new(shared, port);
            let translated = Pair { client, ..pair };
            if self.taken.insert((protocol as u8, translated)) {
                return translated;
            }
            port = self.port();
        }
    }

    /// The same, to the server that the address stands for.
    pub(super) fn redirect(&mut self, protocol: HopProtocol, pair: Pair) -> Pair {
        loop {
            let host = self.random.next_u32() as u8;
            let address: IpAddr = match pair.server {
                SocketAddr::V4(_) => Ipv4Addr::new(10, 200, 0, host).into(),
                SocketAddr::V6(_) => Ipv6Addr::new(0xfd77, 0, 0, 8, 0, 0, 0, host.into()).into(),
            };
            let port = match protocol {
                HopProtocol::Icmp => 0,
                HopProtocol::Tcp | HopProtocol::Udp => pair.server.port() % 1_000 + 8_000,
            };
            let server = SocketAddr::new(address, port);
            let redirected = Pair { server, ..pair };
            if self.taken.insert((protocol as u8, redirected)) {
                return redirected;
            }
        }
    }

    fn port(&mut self) -> u16 {
        let room = u32::from(u16::MAX - PORT_FIRST);
        PORT_FIRST + (self.random.next_u32() % room) as u16
    }
}

fn client_address(number: u32, is_v6: bool) -> IpAddr {
    let [_, a, b, c] = number.to_be_bytes();
    if is_v6 {
        return Ipv6Addr::new(0xfd77, 0, 0, 1, 0, 0, a.into(), u16::from_be_bytes([b, c])).into();
    }
    Ipv4Addr::new(10, a, b, c).into()
}

fn server_address(number: u32, is_v6: bool) -> IpAddr {
    if is_v6 {
        return Ipv6Addr::new(0xfd77, 0, 0, 2, 0, 0, 0, number as u16 + 1).into();
    }
    Ipv4Addr::new(198, 51, 100, number as u8 + 1).into()
}
