//! Where the hub's files are.

use std::path::{Path, PathBuf};

/// The directory of a hub.
#[derive(Clone, Debug)]
pub struct Directory(PathBuf);

impl Directory {
    /// The directory.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// What the hub was made with.
    pub(super) fn facts(&self) -> PathBuf {
        self.0.join("hub.json")
    }

    /// The certificate of the authority.
    #[must_use]
    pub fn authority_certificate(&self) -> PathBuf {
        self.0.join("authority.pem")
    }

    pub(super) fn authority_key(&self) -> PathBuf {
        self.0.join("authority.key")
    }

    pub(super) fn certificate(&self) -> PathBuf {
        self.0.join("hub.pem")
    }

    pub(super) fn key(&self) -> PathBuf {
        self.0.join("hub.key")
    }

    pub(super) fn tokens(&self) -> PathBuf {
        self.0.join("tokens")
    }

    pub(super) fn agents(&self) -> PathBuf {
        self.0.join("agents")
    }

    pub(super) fn captures(&self) -> PathBuf {
        self.0.join("captures")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.0.join("log")
    }
}
