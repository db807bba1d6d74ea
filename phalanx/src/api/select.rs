//! What a list is narrowed down by: addresses, ports, protocol.

use std::net::IpAddr;

use phalanx_engine::{Endpoint, Sides};

use super::problem::Problem;

/// An address or a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Network {
    address: IpAddr,
    length: u8,
}

impl Network {
    /// Reads `ADDRESS` or `ADDRESS/LENGTH`.
    fn parse(field: &'static str, text: &str) -> Result<Self, Problem> {
        let bad = || {
            Problem::invalid(
                field,
                format!("{text:?} is neither an address nor a prefix"),
                "write 10.0.0.1, 10.0.0.0/8 or 2001:db8::/32",
            )
        };
        let (address, length) = text
            .split_once('/')
            .map_or((text, None), |(a, l)| (a, Some(l)));
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let length = match length {
            None => most,
            Some(length) => length
                .parse()
                .ok()
                .filter(|length| *length <= most)
                .ok_or_else(bad)?,
        };
        Ok(Self { address, length })
    }

    fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let mask = u32::MAX
                    .checked_shl(32 - u32::from(self.length))
                    .unwrap_or(0);
                (network.to_bits() ^ address.to_bits()) & mask == 0
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let mask = u128::MAX
                    .checked_shl(128 - u32::from(self.length))
                    .unwrap_or(0);
                (network.to_bits() ^ address.to_bits()) & mask == 0
            }
            _ => false,
        }
    }
}

/// Reads a protocol by name or number.
pub(super) fn protocol(text: &str) -> Result<u8, Problem> {
    let known = [1, 6, 17, 58, 132]
        .into_iter()
        .find(|number| crate::view::protocol_name(*number).eq_ignore_ascii_case(text));
    known.or_else(|| text.parse().ok()).ok_or_else(|| {
        Problem::invalid(
            "protocol",
            format!("{text:?} is no protocol"),
            "write tcp, udp, icmp, icmpv6, sctp or an IANA number",
        )
    })
}

/// What the ends must be, as a query has it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct EndsQuery<'a> {
    pub(super) address: Option<&'a str>,
    pub(super) client: Option<&'a str>,
    pub(super) server: Option<&'a str>,
    pub(super) port: Option<u16>,
    pub(super) protocol: Option<&'a str>,
}

/// What the ends must be.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ends {
    address: Option<Network>,
    client: Option<Network>,
    server: Option<Network>,
    port: Option<u16>,
    protocol: Option<u8>,
}

impl EndsQuery<'_> {
    /// Understands each parameter.
    pub(super) fn parse(self) -> Result<Ends, Problem> {
        let network =
            |field, text: Option<&str>| text.map(|text| Network::parse(field, text)).transpose();
        Ok(Ends {
            address: network("address", self.address)?,
            client: network("client", self.client)?,
            server: network("server", self.server)?,
            port: self.port,
            protocol: self.protocol.map(protocol).transpose()?,
        })
    }
}

impl Ends {
    pub(super) fn fit(&self, ends: &Sides<Endpoint>, protocol: u8) -> bool {
        let inside = |network: Option<Network>, end: &Endpoint| {
            network.is_none_or(|network| network.contains(end.address))
        };
        self.protocol.is_none_or(|wanted| wanted == protocol)
            && inside(self.client, &ends.client)
            && inside(self.server, &ends.server)
            && (inside(self.address, &ends.client) || inside(self.address, &ends.server))
            && self
                .port
                .is_none_or(|port| port == ends.client.port || port == ends.server.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_contain_what_they_should() {
        let contains = |network: &str, address: &str| {
            Network::parse("address", network)
                .unwrap()
                .contains(address.parse().unwrap())
        };
        assert!(contains("10.0.0.0/8", "10.255.0.1"));
        assert!(!contains("10.0.0.0/8", "11.0.0.1"));
        assert!(contains("0.0.0.0/0", "1.2.3.4"));
        assert!(!contains("0.0.0.0/0", "::1"));
        assert!(contains("::/0", "2001:db8::1"));
        assert!(contains("2001:db8::1", "2001:db8::1"));
        assert!(!contains("10.0.0.1", "10.0.0.2"));
        for bad in [
            "",
            "10.0.0.0/33",
            "::/129",
            "host",
            "10.0.0.1/",
            "10.0.0.1/-1",
        ] {
            assert!(Network::parse("address", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn protocols_have_names_and_numbers() {
        assert_eq!(protocol("TCP"), Ok(6));
        assert_eq!(protocol("47"), Ok(47));
        assert!(protocol("256").is_err());
        assert!(protocol("tpc").is_err());
    }
}
