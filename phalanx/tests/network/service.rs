//! Processes of a known name with sockets, and the cgroups and namespaces that they are put into.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::Duration;

use phalanx_range::Host;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/network/service.py");

/// A process that has its name, and does nothing before it is told to; ended when dropped, and when
/// the test ends.
pub(crate) struct Service {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Service {
    /// Starts `serve PORT` or `ask ADDRESS PORT COUNT` under a name, by way of `wrap`: programs
    /// that put it into namespaces of its own.
    pub(crate) fn start(host: &Host, wrap: &[&str], name: &str, task: &[&str]) -> Self {
        let mut child = host
            .command("setpriv")
            .unwrap()
            .args(["--pdeathsig", "KILL"])
            .args(wrap)
            .args(["python3", SCRIPT, name])
            .args(task)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            input: child.stdin.take(),
            output: BufReader::new(child.stdout.take().unwrap()),
            child,
        }
    }

    /// Its process, as this process sees it. Where a program that wraps it forks, its child.
    pub(crate) fn id(&self) -> u32 {
        let mut id = self.child.id();
        loop {
            let path = format!("/proc/{id}/task/{id}/children");
            match std::fs::read_to_string(path).unwrap().trim().parse() {
                Ok(child) => id = child,
                Err(_) => return id,
            }
        }
    }

    /// Lets it go on, and waits until it says this.
    pub(crate) fn go_on_until(&mut self, wanted: &str) {
        self.input.as_ref().unwrap().write_all(b"\n").unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        assert_eq!(line.trim_end(), wanted);
    }

    /// Lets it close its connection, and waits for its end.
    pub(crate) fn close(mut self) {
        drop(self.input.take());
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the slices of tests begin with; the number of the test's process follows.
const SLICE: &str = "phalanx-test-";

/// A slice of cgroups for this process; removed when dropped, its processes having ended.
pub(crate) struct Slice {
    path: PathBuf,
}

impl Slice {
    /// Makes it in the unified hierarchy; says why not where there is none that can be written.
    pub(crate) fn new() -> Result<Self, String> {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let mount = mounts.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(' ').collect();
            (fields[2] == "cgroup2").then(|| PathBuf::from(fields[1]))
        });
        let mount = mount.ok_or("no cgroup2 is mounted")?;
        remove_stale(&mount);
        let path = mount.join(format!("{SLICE}{}.slice", std::process::id()));
        std::fs::create_dir_all(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Self { path })
    }

    /// Puts a process into a cgroup of the slice.
    pub(crate) fn put(&self, service: &Service, cgroup: &str) {
        let path = self.path.join(cgroup);
        std::fs::create_dir_all(&path).unwrap();
        std::fs::write(path.join("cgroup.procs"), service.id().to_string()).unwrap();
    }
}

impl Drop for Slice {
    fn drop(&mut self) {
        // A process that has just ended may still count.
        for _ in 0..100 {
            if remove(&self.path).is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Removes the slices of tests that were killed.
fn remove_stale(mount: &Path) {
    for entry in std::fs::read_dir(mount).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let process = name.to_str().and_then(|name| name.strip_prefix(SLICE));
        let process = process.and_then(|rest| rest.strip_suffix(".slice"));
        if process.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
            // Another test may be at it.
            let _ = remove(&entry.path());
        }
    }
}

/// Removes a cgroup and those in it.
fn remove(path: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(path)?.flatten() {
        if entry.file_type()?.is_dir() {
            std::fs::remove_dir(entry.path())?;
        }
    }
    std::fs::remove_dir(path)
}
