//! The kernel's connection tracking of one namespace: whether it can be read, and what it says.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::net::Ipv4Addr;
use std::path::Path;

use nix::sys::socket::SockProtocol;
use phalanx_common::packet::protocol;
use phalanx_engine::{Endpoint, Sides, Translation};

use super::message::{self, Tuple};
use crate::netlink::Netlink;

/// Where connection tracking is seen, loaded or built in.
const TRACKING: &str = "/sys/module/nf_conntrack";
/// Where its module for questions is seen.
const MODULE: &str = "/sys/module/nf_conntrack_netlink";
/// Where a built-in one is seen: some 10 MB of text, read only where the module is not.
const SYMBOLS: &str = "/proc/kallsyms";
/// A function of it.
const SYMBOL: &[u8] = b" ctnetlink_get_conntrack";
/// Longest line of it that is looked at whole.
const LINE_LENGTH_MAX: usize = 1_024;

/// Whether connection tracking can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    /// It can.
    There,
    /// `nf_conntrack_netlink` is not in the kernel: a question would load it.
    NotLoaded,
}

/// Whether the kernel answers questions without loading a module first.
pub(crate) fn presence() -> Presence {
    let is_built_in = || File::open(SYMBOLS).is_ok_and(|it| names(BufReader::new(it), SYMBOL));
    let is_there = Path::new(TRACKING).exists() && (Path::new(MODULE).exists() || is_built_in());
    match is_there {
        true => Presence::There,
        false => Presence::NotLoaded,
    }
}

/// Whether a symbol is among lines of `address type name [module]`.
fn names(mut lines: impl BufRead, symbol: &[u8]) -> bool {
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut part = io::Read::take(&mut lines, LINE_LENGTH_MAX as u64);
        match part.read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return false,
            Ok(_) => {}
        }
        let name = line.trim_ascii_end();
        let name = name.split(|byte| *byte == b'\t').next().unwrap_or_default();
        if name.ends_with(symbol) {
            return true;
        }
    }
}

/// Connection tracking of the namespace that it was opened in, from any thread. Opening and asking
/// take `CAP_NET_ADMIN`.
#[derive(Debug)]
pub(crate) struct Conntrack(Netlink);

impl Conntrack {
    /// Opens it in the namespace of the calling thread; only where [`presence`] says so.
    pub(crate) fn open() -> io::Result<Self> {
        Netlink::open(SockProtocol::NetlinkNetFilter, 0).map(Self)
    }

    /// Asks for a connection that there cannot be.
    ///
    /// # Errors
    /// The kernel does not answer such questions of this thread.
    pub(crate) fn prove(&mut self) -> io::Result<()> {
        let nobody = Endpoint {
            address: Ipv4Addr::UNSPECIFIED.into(),
            port: 0,
        };
        self.find(protocol::TCP, Sides::both(nobody)).map(|_| ())
    }

    /// What becomes of the ends of a flow that is seen here; none where no connection has them.
    ///
    /// # Errors
    /// The kernel refuses: the capability is missing.
    pub(super) fn find(
        &mut self,
        protocol: u8,
        ends: Sides<Endpoint>,
    ) -> io::Result<Option<Translation>> {
        // Before the rewriting the client's packets have the original tuple; behind it the
        // server's have the reply tuple. The kernel finds a connection by either.
        for (source, destination) in [(ends.client, ends.server), (ends.server, ends.client)] {
            let tuple = Tuple {
                protocol,
                source,
                destination,
            };
            if let Some(found) = self.get(&tuple)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn get(&mut self, tuple: &Tuple) -> io::Result<Option<Translation>> {
        let Some(question) = message::question(tuple) else {
            return Ok(None);
        };
        let mut found = None;
        let answered = self.0.get(message::GET, 0, &question, |kind, body| {
            if kind == message::NEW {
                found = message::connection(body);
            }
        });
        match answered {
            Ok(()) => Ok(found),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_symbol_is_found_in_the_kernel_or_in_a_module() {
        let lines = "0000000000000000 T schedule\n\
            0000000000000000 t ctnetlink_get_conntrack\t[nf_conntrack_netlink]\n";
        assert!(names(lines.as_bytes(), SYMBOL));
        assert!(names(lines.split('\t').next().unwrap().as_bytes(), SYMBOL));
        assert!(!names(&lines.as_bytes()[..30], SYMBOL));
        let longer = "0000000000000000 t ctnetlink_get_conntrack_dying\n";
        assert!(!names(longer.as_bytes(), SYMBOL));
        assert!(!names(&vec![b'x'; 1 << 20][..], SYMBOL));
    }
}
