//! What can be read only once, kept in a file without a name while it is read, to be read again.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;

/// Packets are nobody else's business.
const SPOOL_MODE: u32 = 0o600;

/// Whether a path leads to bytes that are gone once they were read.
pub(super) fn is_needed(path: &Path) -> bool {
    path.as_os_str() == "-" || std::fs::metadata(path).is_ok_and(|it| !it.is_file())
}

/// A file that is gone when it is closed.
pub(super) fn create() -> anyhow::Result<Arc<File>> {
    let name = format!("phalanx-spool-{}", std::process::id());
    let path = std::env::temp_dir().join(name);
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(SPOOL_MODE)
        .open(&path)
        .with_context(|| format!("create {}", path.display()))?;
    std::fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
    Ok(Arc::new(file))
}

/// Where a spool is read from its beginning.
pub(super) fn path(spool: &File) -> PathBuf {
    format!("/proc/self/fd/{}", spool.as_raw_fd()).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn only_its_owner_reads_a_spool() {
        let spool = create().expect("a folder for temporary files");
        let mode = spool.metadata().expect("an open file").permissions().mode();
        assert_eq!(mode & 0o777, SPOOL_MODE);
    }
}
