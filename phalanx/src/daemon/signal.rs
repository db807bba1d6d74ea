//! Signals that end the daemon or have it read its configuration again. The main thread reads
//! them, in order.

use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::Context;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signalled {
    /// To read the configuration again.
    Reload,
    /// To end.
    Stop,
}

/// Blocks the signals before any thread starts, so that all inherit it.
pub(crate) fn block_signals() -> anyhow::Result<SignalFd> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block().context("block signals")?;
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    SignalFd::with_flags(&signals, flags).context("open a descriptor of signals")
}

/// Waits for a signal, for `timeout` at most.
pub(crate) fn next_signal(
    signals: &SignalFd,
    timeout: Duration,
) -> anyhow::Result<Option<Signalled>> {
    let mut descriptors = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
    match poll(&mut descriptors, timeout) {
        Ok(_) | Err(nix::Error::EINTR) => {}
        Err(error) => return Err(error).context("wait for signals"),
    }
    let Some(signal) = signals.read_signal().context("read a signal")? else {
        return Ok(None);
    };
    if signal.ssi_signo == Signal::SIGHUP as u32 {
        return Ok(Some(Signalled::Reload));
    }
    tracing::info!(signal = signal.ssi_signo, "stopping");
    Ok(Some(Signalled::Stop))
}
