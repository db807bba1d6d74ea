//! The files of an agent: its certificate, its key, the hub's authority, and where the hub is.

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::disk::{make_directory, write_secret};
use crate::link::credential::Files;

/// Where the files are.
#[derive(Clone, Debug)]
pub struct AgentFiles {
    /// The directory of all of them.
    pub directory: PathBuf,
    authority: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
    facts: PathBuf,
}

/// What the agent was told when it was enrolled.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Enrolled {
    /// Its id.
    pub agent: String,
    /// What the hub knows this host as.
    pub host: String,
    /// Where the hub is.
    pub hub: String,
}

impl AgentFiles {
    /// The files of a directory.
    #[must_use]
    pub fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            authority: directory.join("authority.pem"),
            certificate: directory.join("agent.pem"),
            key: directory.join("agent.key"),
            facts: directory.join("agent.json"),
        }
    }

    /// The files of TLS.
    #[must_use]
    pub fn tls(&self) -> Files<'_> {
        Files {
            authority: &self.authority,
            certificate: &self.certificate,
            key: &self.key,
        }
    }

    /// Where batches are spooled.
    #[must_use]
    pub fn spool(&self) -> PathBuf {
        self.directory.join("spool")
    }

    /// What was told when the agent was enrolled; none: it was not.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(&self) -> anyhow::Result<Option<Enrolled>> {
        let name = || format!("read {}", self.facts.display());
        match std::fs::read(&self.facts) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).with_context(name),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(name),
        }
    }

    /// Writes all files, the one that says so last.
    ///
    /// # Errors
    /// One cannot be written.
    pub(super) fn write(
        &self,
        enrolled: &Enrolled,
        authority: &str,
        certificate: &str,
        key: &str,
    ) -> anyhow::Result<()> {
        make_directory(&self.directory)?;
        write_secret(&self.authority, authority.as_bytes())?;
        write_secret(&self.key, key.as_bytes())?;
        write_secret(&self.certificate, certificate.as_bytes())?;
        let facts = serde_json::to_vec_pretty(enrolled).context("write down the enrollment")?;
        write_secret(&self.facts, &facts)
    }
}
