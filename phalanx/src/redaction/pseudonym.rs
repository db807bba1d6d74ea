//! [`Pseudonyms`]: a key to a stand-in for each address, the same wherever it occurs.
//!
//! Addresses that begin alike have stand-ins that begin alike, so subnets stay subnets
//! (`ipcrypt-pfx`, draft-denis-ipcrypt). Deliberately absent: the way back.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use ipcrypt_rs::IpcryptPfx;
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::special::{told_v4, told_v6};

const KEY_BYTES: usize = 32;

/// Longest key file in bytes: the digits and line ends.
const KEY_FILE_BYTES_MAX: u64 = 2 * KEY_BYTES as u64 + 2;

/// Permissions of a key file, and those that it must not have.
const MODE_OWNER: u32 = 0o600;
const MODE_OTHERS: u32 = 0o077;

/// Stand-ins that are kept of each kind: an address costs 256 or 64 runs of AES. 65,536 × 48 bytes
/// = 3 MiB of IPv6; where there are more, all are forgotten and computed anew.
const MEMORY_COUNT_MAX: usize = 65_536;

/// What stand-ins depend on. Who has it can tell whether an address is behind one.
#[derive(Clone, PartialEq, Eq)]
pub struct Key([u8; KEY_BYTES]);

/// A key that cannot be read or written.
#[derive(Debug, Error)]
pub enum KeyError {
    /// The file, or the source of random bytes, fails.
    #[error("{action} the key {path}")]
    Io {
        /// `read` or `write`.
        action: &'static str,
        /// Which file.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Others than its owner may read it.
    #[error("the key {0} can be read by others; run: chmod 600 {0}")]
    Exposed(String),
    /// It is not one.
    #[error("{0} is no key: want 64 hexadecimal digits, as --new-key writes them")]
    Form(String),
}

impl fmt::Debug for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Key(…)")
    }
}

impl Key {
    /// A key that nobody knows.
    ///
    /// # Errors
    /// The kernel gives no random bytes.
    pub fn draw() -> Result<Self, KeyError> {
        const SOURCE: &str = "/dev/urandom";
        let mut bytes = [0; KEY_BYTES];
        File::open(SOURCE)
            .and_then(|mut source| source.read_exact(&mut bytes))
            .map_err(|error| failed("read", Path::new(SOURCE), error))?;
        Ok(Self(bytes))
    }

    /// The key of these bytes: for tests, which must come to the same each time.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; KEY_BYTES]) -> Self {
        Self(bytes)
    }

    /// Reads a key from a file that only its owner may read.
    ///
    /// # Errors
    /// It cannot be read, others can read it, or it is not a key.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let name = path.display().to_string();
        let fail = |error| failed("read", path, error);
        let file = File::open(path).map_err(fail)?;
        if file.metadata().map_err(fail)?.mode() & MODE_OTHERS != 0 {
            return Err(KeyError::Exposed(name));
        }
        let mut text = String::new();
        file.take(KEY_FILE_BYTES_MAX + 1)
            .read_to_string(&mut text)
            .map_err(fail)?;
        parse(text.trim_end()).map(Self).ok_or(KeyError::Form(name))
    }

    /// Writes the key to a file that does not exist yet, for its owner alone.
    ///
    /// # Errors
    /// There is such a file, or it cannot be written.
    pub fn write_new(&self, path: &Path) -> Result<(), KeyError> {
        let mut text: String = self.0.iter().map(|byte| format!("{byte:02x}")).collect();
        text.push('\n');
        File::options()
            .write(true)
            .create_new(true)
            .mode(MODE_OWNER)
            .open(path)
            .and_then(|mut file| {
                // The mask of the process may have taken bits from it, and never adds some.
                file.set_permissions(std::fs::Permissions::from_mode(MODE_OWNER))?;
                file.write_all(text.as_bytes())?;
                file.sync_all()
            })
            .map_err(|error| failed("write", path, error))
    }

    /// Keys for different uses tell nothing of each other.
    fn derive(&self, purpose: &str) -> [u8; KEY_BYTES] {
        let mut digest = Sha256::new();
        digest.update(self.0);
        digest.update(purpose);
        digest.finalize().into()
    }
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> KeyError {
    KeyError::Io {
        action,
        path: path.display().to_string(),
        source,
    }
}

fn parse(text: &str) -> Option<[u8; KEY_BYTES]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * KEY_BYTES {
        return None;
    }
    let mut bytes = [0; KEY_BYTES];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |at: usize| char::from(pair[at]).to_digit(16);
        *byte = u8::try_from(digit(0)? << 4 | digit(1)?).ok()?;
    }
    Some(bytes)
}

/// Stand-ins for addresses, by one key.
pub struct Pseudonyms {
    cipher: IpcryptPfx,
    hardware_key: [u8; KEY_BYTES],
    are_private_kept: bool,
    v4: HashMap<[u8; 4], [u8; 4]>,
    v6: HashMap<[u8; 16], [u8; 16]>,
    hardware: HashMap<[u8; 6], [u8; 6]>,
}

impl fmt::Debug for Pseudonyms {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Pseudonyms(…)")
    }
}

impl Pseudonyms {
    /// The stand-ins of a key; with `are_private_kept` none for private addresses.
    #[must_use]
    pub fn new(key: &Key, are_private_kept: bool) -> Self {
        let mut cipher_key = key.derive("phalanx redaction: IP addresses");
        // The cipher is the exclusive or of two, which must not be the same: one key in 2^128.
        if cipher_key[..KEY_BYTES / 2] == cipher_key[KEY_BYTES / 2..] {
            cipher_key[0] ^= 1;
        }
        Self {
            cipher: IpcryptPfx::new(cipher_key),
            hardware_key: key.derive("phalanx redaction: MAC addresses"),
            are_private_kept,
            v4: HashMap::new(),
            v6: HashMap::new(),
            hardware: HashMap::new(),
        }
    }

    /// The stand-in of an address of IPv4.
    pub fn v4(&mut self, address: [u8; 4]) -> [u8; 4] {
        if let Some(known) = self.v4.get(&address) {
            return *known;
        }
        let told = told_v4(address, self.are_private_kept);
        let encrypted = match self.cipher.encrypt_ipaddr(Ipv4Addr::from(address).into()) {
            IpAddr::V4(encrypted) => encrypted.octets(),
            IpAddr::V6(_) => unreachable!("the cipher keeps the prefix of mapped addresses"),
        };
        let pseudonym = splice(address, encrypted, told);
        remember(&mut self.v4, address, pseudonym)
    }

    /// The stand-in of an address of IPv6.
    pub fn v6(&mut self, address: [u8; 16]) -> [u8; 16] {
        if let Some(known) = self.v6.get(&address) {
            return *known;
        }
        let told = told_v6(address, self.are_private_kept);
        let encrypted = match self.cipher.encrypt_ipaddr(Ipv6Addr::from(address).into()) {
            IpAddr::V6(encrypted) => encrypted.octets(),
            IpAddr::V4(encrypted) => encrypted.to_ipv6_mapped().octets(),
        };
        let pseudonym = splice(address, encrypted, told);
        remember(&mut self.v6, address, pseudonym)
    }

    /// The stand-in of a MAC address: a locally administered one. What is the same on every host
    /// stays: no address, broadcast, the groups of bridges.
    pub fn hardware(&mut self, address: [u8; 6]) -> [u8; 6] {
        match address {
            [0, 0, 0, 0, 0, 0]
            | [0xff, 0xff, 0xff, 0xff, 0xff, 0xff]
            | [0x01, 0x80, 0xc2, 0, 0, _] => return address,
            _ => {}
        }
        if let Some(known) = self.hardware.get(&address) {
            return *known;
        }
        let digest = Sha256::new()
            .chain_update(self.hardware_key)
            .chain_update(address)
            .finalize();
        let mut pseudonym = [0; 6];
        pseudonym.copy_from_slice(&digest[..6]);
        match address {
            // Groups of IPv6 and IPv4 (RFC 2464 section 7, RFC 1112 section 6.4).
            [0x33, 0x33, ..] => pseudonym[..2].copy_from_slice(&address[..2]),
            [0x01, 0x00, 0x5e, ..] => {
                pseudonym[..3].copy_from_slice(&address[..3]);
                pseudonym[3] &= 0x7f;
            }
            _ => pseudonym[0] = pseudonym[0] & 0xfc | 0x02 | address[0] & 0x01,
        }
        remember(&mut self.hardware, address, pseudonym)
    }
}

/// The first bits of one address, and then those of the other.
fn splice<const LENGTH: usize>(
    first: [u8; LENGTH],
    second: [u8; LENGTH],
    first_bits: u32,
) -> [u8; LENGTH] {
    std::array::from_fn(|index| {
        let bits = first_bits.saturating_sub(8 * index as u32).min(8);
        let mask = !(0xff_u32 >> bits) as u8;
        first[index] & mask | second[index] & !mask
    })
}

fn remember<Address: std::hash::Hash + Eq + Copy>(
    memory: &mut HashMap<Address, Address>,
    address: Address,
    pseudonym: Address,
) -> Address {
    if memory.len() >= MEMORY_COUNT_MAX {
        memory.clear();
    }
    memory.insert(address, pseudonym);
    pseudonym
}

#[cfg(test)]
#[path = "pseudonym_tests.rs"]
mod tests;
