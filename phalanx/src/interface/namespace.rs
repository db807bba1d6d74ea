//! Network namespaces: named as the user does, entered by a thread.

use std::fmt;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use nix::sched::{CloneFlags, setns};

/// Where named namespaces are, by the convention of iproute2.
const NAMED_DIRECTORY: &str = "/run/netns";

/// A network namespace as the user named it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Namespace {
    /// That of the daemon.
    Own,
    /// By a name of `ip netns`, a path or a process.
    Other(String),
}

impl Namespace {
    /// The file that stands for the namespace.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        match self {
            Self::Own => PathBuf::from("/proc/thread-self/ns/net"),
            Self::Other(name) if name.contains('/') => PathBuf::from(name),
            Self::Other(name) if name.bytes().all(|byte| byte.is_ascii_digit()) => {
                Path::new("/proc").join(name).join("ns/net")
            }
            Self::Other(name) => Path::new(NAMED_DIRECTORY).join(name),
        }
    }

    /// The inode number that tells namespaces apart.
    ///
    /// # Errors
    /// If there is no such namespace, with the path that was tried.
    pub fn inode(&self) -> anyhow::Result<u64> {
        let path = self.path();
        let metadata = std::fs::metadata(&path).with_context(|| self.describe_missing(&path))?;
        Ok(metadata.ino())
    }

    /// Moves the calling thread into the namespace, for good.
    ///
    /// # Errors
    /// If there is no such namespace or `CAP_SYS_ADMIN` is missing.
    pub fn enter(&self) -> anyhow::Result<()> {
        if *self == Self::Own {
            return Ok(());
        }
        let path = self.path();
        let file = File::open(&path).with_context(|| self.describe_missing(&path))?;
        setns(file, CloneFlags::CLONE_NEWNET).with_context(|| {
            format!("enter network namespace {self}: needs CAP_SYS_ADMIN; run as root")
        })
    }

    fn describe_missing(&self, path: &Path) -> String {
        format!(
            "network namespace {self}: looked for {}; name one of `ip netns`, a path or a process",
            path.display()
        )
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own => f.write_str("own"),
            Self::Other(name) => f.write_str(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_paths_and_processes_lead_to_their_files() {
        let path = |name: &str| Namespace::Other(name.to_owned()).path();
        assert_eq!(path("blue"), Path::new("/run/netns/blue"));
        assert_eq!(path("/proc/1/ns/net"), Path::new("/proc/1/ns/net"));
        assert_eq!(path("4711"), Path::new("/proc/4711/ns/net"));
        assert!(Namespace::Own.inode().unwrap() > 0);
        let error = Namespace::Other("no-such-namespace".to_owned())
            .inode()
            .unwrap_err();
        assert!(format!("{error:#}").contains("/run/netns/no-such-namespace"));
    }
}
