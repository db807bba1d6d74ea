//! Capture files on disk: a pcapng and a description each, kept by age and total size.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::{AccessFlags, eaccess};

use super::view::{CaptureState, CaptureView, EndReason, Loss, LossKind};

/// Room that captures leave on the disk, in bytes.
pub(super) const MARGIN_BYTES: u64 = 64 << 20;

/// Largest description in bytes; a larger file is not one of ours.
const DESCRIPTION_SIZE_MAX: u64 = 64 << 10;

/// Where capture files are kept, and how long.
#[derive(Clone, Debug)]
pub struct Keeping {
    /// The directory.
    pub directory: PathBuf,
    /// Bytes of all files at most.
    pub bytes_max: u64,
    /// Age at which a finished capture is deleted.
    pub age_max: Duration,
}

/// The directory of capture files.
#[derive(Clone, Debug)]
pub(super) struct Store {
    directory: PathBuf,
}

impl Store {
    /// Opens the directory, and makes it where it is missing: for its owner only. One that cannot
    /// be written is no use.
    pub(super) fn open(directory: &Path) -> io::Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)?;
        eaccess(directory, AccessFlags::W_OK | AccessFlags::X_OK)?;
        Ok(Self {
            directory: directory.to_owned(),
        })
    }

    /// The captures of earlier runs, and of those that broke off: what is left of them.
    pub(super) fn load(&self) -> io::Result<Vec<CaptureView>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            match self.read(&path) {
                Ok(Some(view)) => found.push(view),
                // Its deletion broke off after the file.
                Ok(None) => fs::remove_file(&path)?,
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "skip a capture description");
                }
            }
        }
        Ok(found)
    }

    /// The capture of a description; none where its file is gone.
    fn read(&self, path: &Path) -> io::Result<Option<CaptureView>> {
        if fs::metadata(path)?.len() > DESCRIPTION_SIZE_MAX {
            return Err(io::Error::other("too large for a description"));
        }
        let mut view: CaptureView = serde_json::from_slice(&fs::read(path)?)?;
        if path.file_stem().is_none_or(|stem| stem != view.id.as_str()) {
            return Err(io::Error::other("names another capture"));
        }
        match fs::metadata(self.file(&view.id)) {
            Ok(file) => view.bytes = file.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        }
        if view.state == CaptureState::Running {
            view.state = CaptureState::Partial;
            view.end_reason = Some(EndReason::DaemonStopped);
            view.losses.push(Loss {
                kind: LossKind::DaemonStopped,
                packets: 0,
                detail: "the daemon ended while the capture ran; its end may be missing".into(),
            });
            self.describe(&view)?;
        }
        Ok(Some(view))
    }

    /// The file of a capture.
    pub(super) fn file(&self, id: &str) -> PathBuf {
        self.directory.join(format!("{id}.pcapng"))
    }

    fn description(&self, id: &str) -> PathBuf {
        self.directory.join(format!("{id}.json"))
    }

    fn scratch(&self, id: &str) -> PathBuf {
        self.directory.join(format!("{id}.json.new"))
    }

    /// A new file for a capture, for its owner only.
    pub(super) fn create(&self, id: &str) -> io::Result<File> {
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(self.file(id))
    }

    /// Writes the description: the old one stays until the new one is whole.
    pub(super) fn describe(&self, view: &CaptureView) -> io::Result<()> {
        let scratch = self.scratch(&view.id);
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&scratch)?;
        file.write_all(&serde_json::to_vec_pretty(view)?)?;
        file.sync_all()?;
        fs::rename(scratch, self.description(&view.id))
    }

    /// Deletes a capture's files, the description last: what breaks off is found again.
    pub(super) fn delete(&self, id: &str) -> io::Result<()> {
        for path in [self.file(id), self.scratch(id), self.description(id)] {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    /// Bytes that are free for us on the disk.
    pub(super) fn free_bytes(&self) -> io::Result<u64> {
        let disk = nix::sys::statvfs::statvfs(&self.directory)?;
        Ok(disk.blocks_available().saturating_mul(disk.fragment_size()))
    }
}
