//! The names file: which addresses and ports are which service, on which host, at which site.
//!
//! ```toml
//! [[name]]
//! prefix = "10.1.0.0/16"
//! site = "berlin"
//! service = "office"
//!
//! [[name]]
//! prefix = "10.1.2.3"
//! port = 5432            # or "8000-8099"
//! service = "orders-db"
//! host = "db-1"
//! ```
//!
//! The longest prefix wins, then the narrowest range of ports; of equals, the one that stands
//! first.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use serde::Deserialize;
use toml::Spanned;

use super::{NameBasis, Service};
use crate::limits::{NAME_LENGTH_MAX, NAMES_FILE_ENTRY_COUNT_MAX};
use crate::side::Endpoint;

/// A names file that does not read, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct NamesFileError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong there, and what is wanted.
    pub problem: String,
}

/// What a names file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamesFile {
    /// By prefix length, the longest first, then by network.
    prefixes: BTreeMap<std::cmp::Reverse<u8>, BTreeMap<u128, Vec<Entry>>>,
    count: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    ports: RangeInclusive<u16>,
    service: Arc<Service>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    #[serde(default)]
    name: Vec<RawEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEntry {
    prefix: Spanned<String>,
    port: Option<Spanned<RawPort>>,
    service: Spanned<String>,
    host: Option<Spanned<String>>,
    site: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum RawPort {
    Number(i64),
    Range(String),
}

impl NamesFile {
    /// Reads the text of a names file.
    ///
    /// # Errors
    ///
    /// The first line that is not what a names file holds.
    pub fn parse(text: &str) -> Result<Self, NamesFileError> {
        let at = |offset: usize, problem: String| {
            let before = text.get(..offset).unwrap_or(text);
            NamesFileError {
                line: before.matches('\n').count() + 1,
                problem,
            }
        };
        let raw: RawFile = toml::from_str(text).map_err(|error| {
            at(
                error.span().map_or(0, |span| span.start),
                error.message().to_owned(),
            )
        })?;
        let mut file = Self::default();
        for entry in raw.name {
            let line = entry.prefix.span().start;
            if file.count >= NAMES_FILE_ENTRY_COUNT_MAX {
                let problem = format!("more than {NAMES_FILE_ENTRY_COUNT_MAX} names");
                return Err(at(line, problem));
            }
            file.add(entry)
                .map_err(|(offset, problem)| at(offset, problem))?;
        }
        for entries in file.prefixes.values_mut().flat_map(BTreeMap::values_mut) {
            entries.sort_by_key(|entry| entry.ports.end() - entry.ports.start());
        }
        Ok(file)
    }

    /// How many entries there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// The service at an endpoint, if the file names one.
    #[must_use]
    pub fn service(&self, end: Endpoint) -> Option<&Arc<Service>> {
        let (bits, offset) = address_bits(end.address);
        // Prefixes of IPv6 do not hold addresses of IPv4.
        let mut lengths = self
            .prefixes
            .iter()
            .take_while(|(length, _)| length.0 >= offset);
        lengths.find_map(|(length, networks)| {
            let entries = networks.get(&network(bits, length.0))?;
            let entry = entries
                .iter()
                .find(|entry| entry.ports.contains(&end.port))?;
            Some(&entry.service)
        })
    }

    fn add(&mut self, raw: RawEntry) -> Result<(), (usize, String)> {
        let (bits, length) = spanned(&raw.prefix, |text| prefix(text))?;
        let ports = match &raw.port {
            Some(port) => spanned(port, ports)?,
            None => 0..=u16::MAX,
        };
        let service = Service {
            name: spanned(&raw.service, |text| label(text))?,
            basis: NameBasis::File,
            host: raw
                .host
                .map(|host| spanned(&host, |text| label(text)))
                .transpose()?,
            site: raw
                .site
                .map(|site| spanned(&site, |text| label(text)))
                .transpose()?,
        };
        let networks = self.prefixes.entry(std::cmp::Reverse(length)).or_default();
        let entries = networks.entry(network(bits, length)).or_default();
        entries.push(Entry {
            ports,
            service: Arc::new(service),
        });
        self.count += 1;
        Ok(())
    }
}

/// Reads a value, and says where it stands if it is wrong.
fn spanned<T, U>(
    value: &Spanned<T>,
    read: impl FnOnce(&T) -> Result<U, String>,
) -> Result<U, (usize, String)> {
    read(value.get_ref()).map_err(|problem| (value.span().start, problem))
}

fn label(text: &str) -> Result<Arc<str>, String> {
    if text.is_empty() || text.len() > NAME_LENGTH_MAX || text.chars().any(char::is_control) {
        return Err(format!(
            "a name has 1 to {NAME_LENGTH_MAX} bytes and no control characters"
        ));
    }
    Ok(Arc::from(text))
}

/// An address, or an address and a prefix length.
fn prefix(text: &str) -> Result<(u128, u8), String> {
    let wanted =
        || format!("`{text}` is no prefix; write an address, or 10.0.0.0/8, or 2001:db8::/32");
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().map_err(|_| wanted())?;
    let (bits, offset) = address_bits(address);
    let length = match length {
        Some(length) => length.parse::<u8>().map_err(|_| wanted())?,
        None => 128 - offset,
    };
    if length > 128 - offset {
        return Err(wanted());
    }
    let length = length + offset;
    if network(bits, length) != bits {
        return Err(format!("`{text}` has bits set beyond its prefix length"));
    }
    Ok((bits, length))
}

/// The bits of an address in IPv6, and at which one the address begins.
fn address_bits(address: IpAddr) -> (u128, u8) {
    match address {
        IpAddr::V4(address) => (address.to_ipv6_mapped().to_bits(), 96),
        IpAddr::V6(address) => (address.to_bits(), 0),
    }
}

fn network(bits: u128, length: u8) -> u128 {
    bits & u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0)
}

fn ports(raw: &RawPort) -> Result<RangeInclusive<u16>, String> {
    let port = |text: &str| text.trim().parse::<u16>();
    let range = match raw {
        RawPort::Number(number) => u16::try_from(*number).ok().map(|port| port..=port),
        RawPort::Range(text) => match text.split_once('-') {
            Some((first, last)) => port(first).ok().zip(port(last).ok()).map(|(a, b)| a..=b),
            None => port(text).ok().map(|port| port..=port),
        },
    };
    range.filter(|range| !range.is_empty()).ok_or_else(|| {
        "a port is a number up to 65535, or a range such as \"8000-8099\"".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
[[name]]
prefix = "10.0.0.0/8"
service = "inside"

[[name]]
prefix = "10.1.2.3"
port = "8000-8099"
service = "pool"

[[name]]
prefix = "10.1.2.3"
port = 8080
service = "shop"
host = "web-1"
site = "berlin"

[[name]]
prefix = "0.0.0.0/0"
service = "internet"

[[name]]
prefix = "2001:db8::/32"
service = "documentation"
"#;

    #[test]
    fn the_longest_prefix_then_the_narrowest_range_wins() {
        let file = NamesFile::parse(FILE).unwrap();
        assert_eq!(file.count(), 5);
        let cases = [
            ("10.1.2.3:8080", Some("shop")),
            ("10.1.2.3:8081", Some("pool")),
            ("10.1.2.3:22", Some("inside")),
            ("10.255.0.1:8080", Some("inside")),
            ("192.0.2.1:443", Some("internet")),
            ("[2001:db8::1]:53", Some("documentation")),
            ("[2001:db9::1]:53", None),
        ];
        let everywhere = "[[name]]\nprefix = \"::/0\"\nservice = \"all of IPv6\"";
        let everywhere = NamesFile::parse(everywhere).unwrap();
        for (end, expected) in cases {
            let end: std::net::SocketAddr = end.parse().unwrap();
            let endpoint = Endpoint {
                address: end.ip(),
                port: end.port(),
            };
            let service = file.service(endpoint);
            assert_eq!(service.map(|service| &*service.name), expected, "{end}");
            assert_eq!(
                everywhere.service(endpoint).is_some(),
                end.is_ipv6(),
                "{end}"
            );
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        let name = "[[name]]\nservice = \"a\"\n";
        let cases = [
            (format!("{name}prefix = \"10.0.0.0/33\"\n"), 3, "no prefix"),
            (
                format!("{name}prefix = \"10.0.0.1/8\"\n"),
                3,
                "beyond its prefix length",
            ),
            (format!("{name}prefix = \"host\"\n"), 3, "no prefix"),
            (
                format!("{name}prefix = \"::/0\"\nport = 65536\n"),
                4,
                "a port is",
            ),
            (
                format!("{name}prefix = \"::/0\"\nport = \"9-8\"\n"),
                4,
                "a port is",
            ),
            (
                format!("{name}prefix = \"::/0\"\nprt = 9\n"),
                4,
                "unknown field",
            ),
            (name.to_owned(), 1, "missing field `prefix`"),
            (
                "[[name]]\nprefix = \"::/0\"\nservice = \"\"\n".to_owned(),
                3,
                "a name has",
            ),
            ("\n\nname =\n".to_owned(), 3, ""),
        ];
        for (text, line, problem) in cases {
            let error = NamesFile::parse(&text).unwrap_err();
            assert_eq!(error.line, line, "{text}: {error}");
            assert!(error.problem.contains(problem), "{text}: {error}");
        }
        assert_eq!(NamesFile::parse("").unwrap().count(), 0);
    }
}
