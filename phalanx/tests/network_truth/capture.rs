//! A tcpdump that disturbs little: the kernel hands it packets by the block, so that no packet on
//! its way from the tap to the programs' hook waits for tcpdump to be woken.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStderr, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use phalanx_range::Range;

/// Snap length: Ethernet, IPv4 and TCP headers fit.
const SNAP_BYTES: &str = "128";
/// Buffer between the kernel and tcpdump in KiB.
const BUFFER_KIB: &str = "65536";
/// A block is handed over after a second at the latest, full or not.
const BLOCK_TIMEOUT: Duration = Duration::from_millis(1_500);

/// A running tcpdump; ended when dropped.
pub(crate) struct Capture {
    child: Child,
    stderr: BufReader<ChildStderr>,
}

impl Capture {
    /// Captures an interface of a host into a file, and returns once it does.
    pub(crate) fn start(range: &Range, host: &str, interface: &str, path: &Path) -> Self {
        let mut command = range.host(host).unwrap().command("tcpdump").unwrap();
        command.args(["-n", "-Z", "root", "-B", BUFFER_KIB, "-i", interface]);
        command.args(["--time-stamp-precision", "nano", "-s", SNAP_BYTES, "-w"]);
        let stdio = command.arg(path).stdin(Stdio::null()).stdout(Stdio::null());
        let mut child = stdio.stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut said = String::new();
        while !said.contains("listening on") {
            assert_ne!(stderr.read_line(&mut said).unwrap(), 0, "tcpdump: {said}");
        }
        Self { child, stderr }
    }

    /// Ends it once all packets have reached the file; none may have been dropped.
    pub(crate) fn finish(mut self) {
        std::thread::sleep(BLOCK_TIMEOUT);
        kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGINT).unwrap();
        let mut said = String::new();
        self.stderr.read_to_string(&mut said).unwrap();
        assert!(
            said.contains("\n0 packets dropped by kernel"),
            "tcpdump: {said}"
        );
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
