//! A tcpdump of one interface of a host: what an independent observer saw there.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Serialize;

use super::Host;

/// Buffer between the kernel and tcpdump in KiB: 64 MiB, some seconds at a Gbit/s.
const BUFFER_KIB: &str = "65536";

/// How long a capture's file must stand still to count as complete.
const QUIET: Duration = Duration::from_millis(100);
/// How long that is waited for.
const QUIET_LIMIT: Duration = Duration::from_secs(5);

/// A running capture; it ends when dropped.
#[derive(Debug)]
pub struct Capture {
    child: Option<Child>,
    stderr: BufReader<ChildStderr>,
    path: PathBuf,
}

/// What tcpdump said at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct CaptureCounters {
    /// Packets in the file.
    pub captured: u64,
    /// Packets that passed the filter, written or not.
    pub received: u64,
    /// Packets that the kernel dropped for want of room; 0 in a capture to be trusted.
    pub dropped: u64,
}

impl Host {
    /// Captures on an interface into a pcap file with nanoseconds, `snap_bytes` of each packet
    /// (0 for all), and returns once tcpdump listens.
    pub fn capture(&self, interface: &str, path: &Path, snap_bytes: u32) -> Result<Capture> {
        let mut child = self
            .command("tcpdump")?
            .args([
                "-n",
                "-U",
                "--immediate-mode",
                "-Z",
                "root",
                "-B",
                BUFFER_KIB,
                "-i",
                interface,
            ])
            .args([
                "--time-stamp-precision",
                "nano",
                "-s",
                &snap_bytes.to_string(),
                "-w",
            ])
            .arg(path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("start tcpdump: is it installed?")?;
        let stderr = child
            .stderr
            .take()
            .context("tcpdump has no standard error")?;
        let mut capture = Capture {
            child: Some(child),
            stderr: BufReader::new(stderr),
            path: path.to_owned(),
        };
        let mut said = String::new();
        while !said.contains("listening on") {
            if capture
                .stderr
                .read_line(&mut said)
                .context("read from tcpdump")?
                == 0
            {
                bail!("tcpdump on {interface} of {}: {}", self.name(), said.trim());
            }
        }
        Ok(capture)
    }
}

impl Capture {
    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Ends the capture once its file has stopped growing, the file being complete then.
    pub fn finish(mut self) -> Result<CaptureCounters> {
        self.wait_until_quiet()?;
        let mut child = self.child.take().context("the capture has ended")?;
        kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).context("end tcpdump")?;
        let mut said = String::new();
        self.stderr
            .read_to_string(&mut said)
            .context("read from tcpdump")?;
        child.wait()?;
        let number = |what: &str| {
            said.lines()
                .find(|line| line.contains(what))
                .and_then(|line| line.split(' ').next()?.parse().ok())
                .with_context(|| format!("tcpdump: {}", said.trim()))
        };
        Ok(CaptureCounters {
            captured: number("captured")?,
            received: number("received by filter")?,
            dropped: number("dropped by kernel")?,
        })
    }
}

impl Capture {
    fn wait_until_quiet(&self) -> Result<()> {
        let end = Instant::now() + QUIET_LIMIT;
        let (mut bytes, mut since) = (0, Instant::now());
        while since.elapsed() < QUIET && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
            let now = std::fs::metadata(&self.path)
                .with_context(|| format!("look at {}", self.path.display()))?
                .len();
            if now != bytes {
                (bytes, since) = (now, Instant::now());
            }
        }
        Ok(())
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
