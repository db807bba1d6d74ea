//! Agents that a hub has let in: identities made in its directory before it starts, as enrolling
//! makes them, without the pace at which it lets newcomers in.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use phalanx::hub::{Authority, Directory, Registry};
use phalanx::link::credential::{Files, Identity, client_config};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData as _};
use rustls::ClientConfig;

/// The files of some agents.
pub(crate) struct Fleet(PathBuf);

impl Fleet {
    pub(crate) fn new(folder: &Path) -> Self {
        Self(folder.to_owned())
    }

    /// Lets so many agents in at the hub of this directory.
    pub(crate) fn make(&self, hub: &Path, count: usize) -> Result<()> {
        let directory = Directory::new(hub);
        let authority = Authority::open(&directory)?;
        let registry = Registry::new(&directory);
        std::fs::copy(
            directory.authority_certificate(),
            self.file("authority.pem"),
        )?;
        for number in 0..count {
            let registered = registry.add(&format!("host-{number:04}"))?;
            let identity = Identity {
                agent: registered.agent,
                host: registered.host,
            };
            let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).context("make a key")?;
            let certificate = authority.sign(&identity, key.der_bytes())?;
            std::fs::write(self.file(&format!("{number}.pem")), certificate)?;
            std::fs::write(self.file(&format!("{number}.key")), key.serialize_pem())?;
        }
        Ok(())
    }

    /// TLS of one of them.
    pub(crate) fn tls(&self, number: usize) -> Result<ClientConfig> {
        client_config(Files {
            authority: &self.file("authority.pem"),
            certificate: &self.file(&format!("{number}.pem")),
            key: &self.file(&format!("{number}.key")),
        })
    }

    /// Where the batches of one of them may be spooled.
    pub(crate) fn spool(&self, number: usize) -> PathBuf {
        self.file(&format!("{number}.spool"))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}
