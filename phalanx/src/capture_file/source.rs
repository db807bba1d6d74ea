//! Bytes of a file, of standard input or of memory as they come, also while they are still being
//! written.

use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{Fault, OpenOptions};

/// How to read what is still being written.
#[derive(Debug, Clone)]
pub struct Follow {
    /// How long to wait before looking for more; also how long a stop may go unnoticed.
    pub interval: Duration,
    /// Set to end the reading.
    pub stop: Arc<AtomicBool>,
}

/// What came of an attempt to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Filled {
    Bytes(usize),
    /// Nothing now; there may be more later.
    NothingYet,
    End,
    /// The reading was told to stop.
    Stopped,
}

/// Why a stream goes no further.
#[derive(Debug)]
pub(super) enum Failure {
    Io(io::Error),
    Damaged(Fault),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Where bytes come from.
pub(super) struct Source {
    input: Input,
    follow: Option<Follow>,
    copy: Option<Arc<File>>,
    byte_count: u64,
    /// Size of a regular file.
    size: Option<u64>,
}

enum Input {
    File(File),
    Other(Box<dyn Read + Send>),
}

impl Source {
    /// Opens a file, or standard input for `-`.
    pub(super) fn open(path: &Path, options: &OpenOptions) -> io::Result<Self> {
        let file = if path.as_os_str() == "-" {
            File::from(io::stdin().as_fd().try_clone_to_owned()?)
        } else if options.follow.is_some() {
            // A pipe without a writer is waited for where it can be stopped.
            let flags = OFlag::O_NONBLOCK.bits();
            File::options().read(true).custom_flags(flags).open(path)?
        } else {
            File::open(path)?
        };
        let metadata = file.metadata()?;
        Ok(Self {
            input: Input::File(file),
            follow: options.follow.clone(),
            copy: options.copy.clone(),
            byte_count: 0,
            size: metadata.is_file().then_some(metadata.len()),
        })
    }

    /// Reads from anything, to its end.
    pub(super) fn from_reader(input: Box<dyn Read + Send>) -> Self {
        Self {
            input: Input::Other(input),
            follow: None,
            copy: None,
            byte_count: 0,
            size: None,
        }
    }

    /// Bytes read so far.
    pub(super) fn byte_count(&self) -> u64 {
        self.byte_count
    }

    /// Bytes of the file when it was last looked at; `None` where nobody knows.
    pub(super) fn size(&self) -> Option<u64> {
        self.size
    }

    /// Reads what there is; waits only where nothing else is left to do and nobody asked to
    /// follow.
    pub(super) fn read(&mut self, target: &mut [u8]) -> Result<Filled, Failure> {
        if self.is_stopped() {
            return Ok(Filled::Stopped);
        }
        if self.follow.is_some() && self.size.is_none() && !self.is_readable(Duration::ZERO)? {
            return Ok(Filled::NothingYet);
        }
        let count = loop {
            let read = match &mut self.input {
                Input::File(file) => file.read(target),
                Input::Other(input) => input.read(target),
            };
            match read {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error)
                    if error.kind() == io::ErrorKind::WouldBlock && self.follow.is_some() =>
                {
                    return Ok(Filled::NothingYet);
                }
                other => break other?,
            }
        };
        self.byte_count += count as u64;
        if count > 0 {
            self.keep(&target[..count])?;
            return Ok(Filled::Bytes(count));
        }
        match (&self.follow, self.size) {
            (Some(_), Some(_)) => self.look_at_size(),
            // A pipe that nobody writes to any more has ended, and so has a file not followed.
            _ => Ok(Filled::End),
        }
    }

    /// Waits until there may be more, for the interval at most.
    pub(super) fn wait(&self) -> io::Result<()> {
        let Some(follow) = &self.follow else {
            return Ok(());
        };
        if self.size.is_some() {
            // A regular file is always readable: only its size says whether there is more.
            std::thread::sleep(follow.interval);
            return Ok(());
        }
        self.is_readable(follow.interval).map(drop)
    }

    /// Writes what was read to the copy.
    fn keep(&self, bytes: &[u8]) -> io::Result<()> {
        let Some(copy) = &self.copy else {
            return Ok(());
        };
        let written = copy.as_ref().write_all(bytes);
        written.map_err(|error| io::Error::new(error.kind(), format!("keep a copy: {error}")))
    }

    fn is_stopped(&self) -> bool {
        let stop = self.follow.as_ref().map(|follow| &follow.stop);
        stop.is_some_and(|stop| stop.load(Ordering::Relaxed))
    }

    /// At the end of a file that is followed: nothing yet, unless somebody cut it.
    fn look_at_size(&mut self) -> Result<Filled, Failure> {
        let Input::File(file) = &self.input else {
            return Ok(Filled::End);
        };
        let size = file.metadata()?.len();
        self.size = Some(size);
        if size < self.byte_count {
            return Err(Failure::Damaged(Fault::CutWhileFollowed));
        }
        Ok(Filled::NothingYet)
    }

    fn is_readable(&self, wait: Duration) -> io::Result<bool> {
        let Input::File(file) = &self.input else {
            return Ok(true);
        };
        let mut polled = [PollFd::new(file.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX);
        match poll(&mut polled, timeout) {
            Ok(count) => Ok(count > 0),
            Err(nix::Error::EINTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}
