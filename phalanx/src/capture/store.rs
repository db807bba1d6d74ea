//! Capture files on disk: a pcapng and a description each, kept by age and total size.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::{AccessFlags, eaccess};

use super::KEPT_COUNT_MAX;
use super::age::Age;
use super::keeper::Failure;
use super::view::{CaptureState, CaptureView, EndReason, Loss, LossKind};

/// Room that captures leave on the disk, in bytes.
const MARGIN_BYTES: u64 = 64 << 20;

/// Largest description in bytes: 64 hosts of a hub, some 32 KiB each at most. A larger file is not
/// one of ours.
const DESCRIPTION_SIZE_MAX: u64 = 4 << 20;

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
pub(crate) struct Store {
    directory: PathBuf,
}

impl Store {
    /// Opens the directory, and makes it where it is missing: for its owner only. One that cannot
    /// be written is no use.
    pub(crate) fn open(directory: &Path) -> io::Result<Self> {
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
        let mut views = self.load_as_it_was()?;
        for view in &mut views {
            if view.state == CaptureState::Running {
                view.state = CaptureState::Partial;
                view.end_reason = Some(EndReason::DaemonStopped);
                view.losses.push(Loss {
                    kind: LossKind::DaemonStopped,
                    packets: 0,
                    detail: "the daemon ended while the capture ran; its end may be missing".into(),
                });
                self.describe(view)?;
            }
        }
        Ok(views)
    }

    /// The captures of earlier runs, also those that ran when they ended.
    pub(crate) fn load_as_it_was(&self) -> io::Result<Vec<CaptureView>> {
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
        Ok(Some(view))
    }

    /// The file of a capture.
    pub(crate) fn file(&self, id: &str) -> PathBuf {
        self.directory.join(format!("{id}.pcapng"))
    }

    /// The file of one host's part of a capture.
    pub(crate) fn part(&self, id: &str, number: usize) -> PathBuf {
        self.parts(id).join(format!("{number}.pcapng"))
    }

    fn parts(&self, id: &str) -> PathBuf {
        self.directory.join(id)
    }

    /// Files for a capture of several hosts, and its description; gives those of its parts.
    pub(crate) fn create_parts(&self, view: &CaptureView) -> io::Result<Vec<PathBuf>> {
        DirBuilder::new().mode(0o700).create(self.parts(&view.id))?;
        let mut paths = Vec::new();
        for number in 0..view.hosts.len() {
            let path = self.part(&view.id, number);
            create(&path)?;
            paths.push(path);
        }
        create(&self.file(&view.id))?;
        self.describe(view)?;
        Ok(paths)
    }

    fn description(&self, id: &str) -> PathBuf {
        self.directory.join(format!("{id}.json"))
    }

    fn scratch(&self, id: &str) -> PathBuf {
        self.directory.join(format!("{id}.json.new"))
    }

    /// A new file for a capture, for its owner only.
    pub(super) fn create(&self, id: &str) -> io::Result<File> {
        create(&self.file(id))
    }

    /// Writes the description: the old one stays until the new one is whole.
    pub(crate) fn describe(&self, view: &CaptureView) -> io::Result<()> {
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
    pub(crate) fn delete(&self, id: &str) -> io::Result<()> {
        match fs::remove_dir_all(self.parts(id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        for path in [self.file(id), self.scratch(id), self.description(id)] {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    /// Whether so many bytes fit on the disk.
    pub(crate) fn check_room(&self, bytes: u64) -> Result<(), Failure> {
        let disk = nix::sys::statvfs::statvfs(&self.directory).map_err(|error| {
            Failure::Unavailable(format!("look at the disk of the captures: {error}"))
        })?;
        let free = disk.blocks_available().saturating_mul(disk.fragment_size());
        let needed = bytes.saturating_add(MARGIN_BYTES);
        if free < needed {
            return Err(Failure::DiskFull(format!(
                "{free} bytes are free, the capture may need {needed}"
            )));
        }
        Ok(())
    }
}

/// A new file, for its owner only.
fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

impl Store {
    /// Deletes kept captures that are overdue; the ids of those that are gone.
    pub(crate) fn clear(
        &self,
        kept: Vec<(Age, String, u64)>,
        keeping: &Keeping,
        needed: u64,
    ) -> Vec<String> {
        let mut gone = overdue(kept, keeping, needed);
        gone.retain(|id| match self.delete(id) {
            Ok(()) => {
                tracing::info!(id, "deleted an old capture");
                true
            }
            Err(error) => {
                tracing::warn!(%error, id, "delete an old capture");
                false
            }
        });
        gone
    }
}

/// Of kept captures, with the time of their end and their bytes, those that are to go: too old, or
/// the oldest beyond the bounds, so that `needed` more bytes fit.
fn overdue(mut kept: Vec<(Age, String, u64)>, keeping: &Keeping, needed: u64) -> Vec<String> {
    let now = Age::now();
    kept.sort();
    let mut total: u64 = kept.iter().map(|(_, _, bytes)| bytes).sum();
    let mut count = kept.len();
    let mut gone = Vec::new();
    for (ended, id, bytes) in kept {
        let is_old = now.since(ended) > keeping.age_max;
        let is_much = total.saturating_add(needed) > keeping.bytes_max;
        if !is_old && !is_much && count <= KEPT_COUNT_MAX {
            break;
        }
        gone.push(id);
        total = total.saturating_sub(bytes);
        count -= 1;
    }
    gone
}
