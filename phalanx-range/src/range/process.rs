//! Programs that run inside hosts.

use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// A program running inside a host, ended when dropped. Its output is read while it runs, so
/// that it never waits for us.
#[derive(Debug)]
pub struct Process {
    child: Option<Child>,
}

impl Process {
    /// Starts a command with its output kept.
    pub fn start(mut command: Command) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {name}"))?;
        Ok(Self { child: Some(child) })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// The child itself, for its pipes.
    pub fn child(&mut self) -> Option<&mut Child> {
        self.child.as_mut()
    }

    /// Waits for its end and gives back its standard output; fails as it does.
    pub fn finish(mut self) -> Result<String> {
        let child = self
            .child
            .take()
            .context("the process was waited for already")?;
        text_of("the process", &child.wait_with_output()?)
    }

    /// Asks it to end (SIGTERM) and gives back its standard output, whatever its exit status.
    pub fn stop(mut self) -> Result<String> {
        let child = self
            .child
            .take()
            .context("the process was waited for already")?;
        terminate(child.id());
        Ok(String::from_utf8_lossy(&child.wait_with_output()?.stdout).into_owned())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            terminate(child.id());
            let end = Instant::now() + Duration::from_millis(500);
            while Instant::now() < end {
                if !matches!(child.try_wait(), Ok(None)) {
                    return;
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            // It may end just now; then there is nothing left to do.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn terminate(pid: u32) {
    let pid = nix::unistd::Pid::from_raw(pid.cast_signed());
    // A child that has ended already is reaped by its owner.
    let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
}

pub(super) fn text_of(what: &str, output: &Output) -> Result<String> {
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr);
        bail!("{what}: {}: {}", output.status, reason.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
