//! Wakes the daemon's loop from other threads: an event counter of the kernel.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use nix::sys::eventfd::{EfdFlags, EventFd};

/// One end wakes, the other waits for it in `poll`. Clones share the counter.
#[derive(Clone, Debug)]
pub(crate) struct Waker(Arc<EventFd>);

impl Waker {
    /// A counter of its own.
    ///
    /// # Errors
    /// If the process may not open another file.
    pub(crate) fn new() -> std::io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Self(Arc::new(EventFd::from_value_and_flags(0, flags)?)))
    }

    /// Wakes the one who waits; several calls before it does count once.
    pub(crate) fn wake(&self) {
        // Fails only where the counter is at its maximum: then the sleeper is woken already.
        let _ = self.0.write(1);
    }

    /// Forgets earlier calls of [`Self::wake`].
    pub(crate) fn clear(&self) {
        // Fails only where nobody has called it.
        let _ = self.0.read();
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
