//! [`Translation`]: a connection whose ends a host rewrites (NAT), as its connection tracking says.
//!
//! Told as a fact of a host, and to the conversations of either side. Deliberately absent: joining
//! of the two sides, which packets tell (`conversation`, `stitch`), whatever a host says.

use crate::side::{Endpoint, Sides};

/// A connection whose ends a host rewrites.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Translation {
    /// IANA protocol number.
    pub protocol: u8,
    /// Client and server as the client's side of the host knows them: the original tuple of
    /// connection tracking.
    pub inside: Sides<Endpoint>,
    /// Client and server as the server's side of the host knows them: the reply tuple, turned
    /// round.
    pub outside: Sides<Endpoint>,
}

impl Translation {
    /// What lies between two hops that know the ends of one connection as `near` and `far`, `near`
    /// being called nearer to the client; the second one where both have the roles the wrong way
    /// round.
    #[must_use]
    pub fn between(protocol: u8, near: Sides<Endpoint>, far: Sides<Endpoint>) -> [Self; 2] {
        let of = |inside, outside| Self {
            protocol,
            inside,
            outside,
        };
        [of(near, far), of(swapped(far), swapped(near))]
    }

    /// Whether anything is translated.
    #[must_use]
    pub fn changes_anything(&self) -> bool {
        self.inside != self.outside
    }
}

fn swapped(ends: Sides<Endpoint>) -> Sides<Endpoint> {
    Sides {
        client: ends.server,
        server: ends.client,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(client: &str, server: &str) -> Sides<Endpoint> {
        let end = |text: &str| {
            let end: std::net::SocketAddr = text.parse().unwrap();
            Endpoint {
                address: end.ip(),
                port: end.port(),
            }
        };
        Sides {
            client: end(client),
            server: end(server),
        }
    }

    #[test]
    fn a_translation_is_known_by_its_tuples_whatever_the_roles() {
        let inside = ends("10.0.0.2:50000", "10.9.0.1:80");
        let outside = ends("10.1.0.1:1025", "10.2.0.2:8080");
        let translation = Translation {
            protocol: 6,
            inside,
            outside,
        };
        let lies =
            |protocol, near, far| Translation::between(protocol, near, far).contains(&translation);
        assert!(lies(6, inside, outside));
        assert!(lies(6, swapped(outside), swapped(inside)));
        assert!(!lies(17, inside, outside));
        assert!(!lies(6, outside, inside));
        assert!(!lies(6, inside, inside));
        assert!(!lies(6, inside, ends("10.1.0.1:1026", "10.2.0.2:8080")));
    }
}
