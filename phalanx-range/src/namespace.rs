//! Network namespaces: made under a name of this run, entered, and removed whatever happens.
//!
//! Names are `phx-<pid>-<start>-<node>`, where `<start>` is the process's start time in clock
//! ticks since boot, so that a name tells whether the process that made it still lives. A small
//! watcher process removes the namespaces as soon as its pipe closes, which happens however the
//! owner ends, SIGKILL included.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Where named network namespaces live (shared with `ip netns`).
pub const FOLDER: &str = "/run/netns";

const PREFIX: &str = "phx-";

/// One named network namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Names a namespace that exists, such as one made by `ip netns add`.
    pub fn existing(name: &str) -> Self {
        Self {
            name: name.to_owned(),
        }
    }

    /// Its name under `/run/netns`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its path.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(FOLDER).join(&self.name)
    }

    /// Runs `work` in the namespace, on a thread of its own, and gives back its result.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let file = self.open()?;
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                setns(&file, CloneFlags::CLONE_NEWNET)
                    .with_context(|| format!("enter {}: needs root", self.name))?;
                Ok(work())
            });
            match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// A command that will run in the namespace, with a `/sys` that shows its interfaces, as
    /// `ip netns exec` does it.
    pub fn command(&self, program: &str) -> Result<Command> {
        let file = self.open()?;
        let slash = CString::new("/")?;
        let sys = CString::new("/sys")?;
        let sysfs = CString::new("sysfs")?;
        let mut command = Command::new(program);
        let prepare = move || {
            // SAFETY: plain system calls on values made before the fork; nothing allocates.
            let failed = unsafe {
                libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) != 0
                    || libc::unshare(libc::CLONE_NEWNS) != 0
                    || libc::mount(
                        std::ptr::null(),
                        slash.as_ptr(),
                        std::ptr::null(),
                        libc::MS_SLAVE | libc::MS_REC,
                        std::ptr::null(),
                    ) != 0
                    || libc::umount2(sys.as_ptr(), libc::MNT_DETACH) != 0
                    || libc::mount(
                        sysfs.as_ptr(),
                        sys.as_ptr(),
                        sysfs.as_ptr(),
                        0,
                        std::ptr::null(),
                    ) != 0
            };
            if failed {
                Err(io::Error::last_os_error())
            } else {
                Ok(())
            }
        };
        // SAFETY: `prepare` does only async-signal-safe system calls.
        unsafe { command.pre_exec(prepare) };
        Ok(command)
    }

    fn open(&self) -> Result<File> {
        File::open(self.path()).with_context(|| format!("open the namespace {}", self.name))
    }
}

/// The namespaces of one run. They go when it is dropped.
#[derive(Debug)]
pub(crate) struct Namespaces {
    namespaces: Vec<Namespace>,
    watcher: Child,
    /// Closing it tells the watcher to remove everything.
    leash: Option<ChildStdin>,
}

/// Tells the ranges of one process apart.
static RANGES: AtomicU32 = AtomicU32::new(0);

impl Namespaces {
    /// Makes one namespace for each of `nodes`, in this order.
    pub(crate) fn create(nodes: &[&str]) -> Result<Self> {
        let pid = std::process::id();
        let start = start_ticks(pid).context("read the start time of this process")?;
        let serial = RANGES.fetch_add(1, Ordering::Relaxed);
        let namespaces: Vec<Namespace> = nodes
            .iter()
            .map(|node| Namespace {
                name: format!("{PREFIX}{pid}-{start}-{serial}-{node}"),
            })
            .collect();
        let (watcher, leash) = watch(&namespaces)?;
        let made = Self {
            namespaces,
            watcher,
            leash: Some(leash),
        };
        let lines: String = made
            .namespaces
            .iter()
            .map(|ns| format!("netns add {}\n", ns.name))
            .collect();
        ip_batch(None, &lines).context("create the network namespaces")?;
        Ok(made)
    }

    pub(crate) fn get(&self, index: usize) -> &Namespace {
        &self.namespaces[index]
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for namespace in &self.namespaces {
            // What stays is removed by the watcher, or at the next start.
            let _ = remove(namespace);
        }
        drop(self.leash.take());
        let _ = self.watcher.wait();
    }
}

/// The watcher: waits for the end of its input, then ends the processes in the namespaces and
/// removes them. In a process group of its own, so that Ctrl-C on the terminal does not end it.
const WATCHER: &str = r#"trap "" INT TERM HUP
cat >/dev/null
for name in "$@"; do
  [ -e "/run/netns/$name" ] || continue
  for pid in $(ip netns pids "$name"); do kill -9 "$pid"; done
  ip netns delete "$name"
done"#;

fn watch(namespaces: &[Namespace]) -> Result<(Child, ChildStdin)> {
    let mut watcher = Command::new("sh")
        .args(["-c", WATCHER, "phalanx-range-watcher"])
        .args(namespaces.iter().map(|namespace| &namespace.name))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .context("start sh, which watches over the namespaces")?;
    let leash = watcher.stdin.take().context("the watcher has no input")?;
    Ok((watcher, leash))
}

/// Ends the processes in a namespace and removes it.
pub(crate) fn remove(namespace: &Namespace) -> Result<()> {
    end_processes(namespace)?;
    let output = Command::new("ip")
        .args(["netns", "delete", &namespace.name])
        .output()?;
    if !output.status.success() && namespace.path().exists() {
        bail!(
            "remove {}: {}",
            namespace.name,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

/// Removes the namespaces of runs whose process has ended, and gives back their names.
pub fn remove_stale() -> Result<Vec<String>> {
    let mut removed = Vec::new();
    for name in names()? {
        if owner(&name).is_some_and(|(pid, start)| start_ticks(pid) != Some(start)) {
            // Another process may be cleaning up at the same time.
            if remove(&Namespace { name: name.clone() }).is_ok() {
                removed.push(name);
            }
        }
    }
    Ok(removed)
}

/// The names of all namespaces made by this crate, of living and dead runs, sorted.
pub fn names() -> Result<Vec<String>> {
    let entries = match fs::read_dir(FOLDER) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).context(format!("list {FOLDER}")),
    };
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| owner(name).is_some())
        .collect();
    names.sort();
    Ok(names)
}

/// The process that a namespace's name speaks of: its id and start time.
fn owner(name: &str) -> Option<(u32, u64)> {
    let mut parts = name.strip_prefix(PREFIX)?.splitn(4, '-');
    let pid = parts.next()?.parse().ok()?;
    let start = parts.next()?.parse().ok()?;
    parts.next()?.parse::<u32>().ok()?;
    parts.next()?;
    Some((pid, start))
}

/// Field 22 of `/proc/<pid>/stat` (proc(5)); the name in field 2 may hold spaces and brackets.
fn start_ticks(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok()
}

/// Asks the processes in a namespace to end, and after half a second makes them. This process
/// is left out, even when one of its threads is in there.
fn end_processes(namespace: &Namespace) -> Result<()> {
    let deadline = Instant::now() + Duration::from_millis(500);
    let mut asked = Vec::new();
    loop {
        let pids = processes(namespace)?;
        if pids.is_empty() {
            return Ok(());
        }
        let is_late = Instant::now() > deadline;
        for pid in pids {
            if is_late {
                let _ = kill(pid, Signal::SIGKILL);
            } else if !asked.contains(&pid) {
                // It may have ended in between.
                let _ = kill(pid, Signal::SIGTERM);
                asked.push(pid);
            }
        }
        if Instant::now() > deadline + Duration::from_secs(2) {
            bail!("processes in {} do not end", namespace.name);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn processes(namespace: &Namespace) -> Result<Vec<Pid>> {
    use std::os::unix::fs::MetadataExt;
    let wanted = fs::metadata(namespace.path())
        .with_context(|| format!("look at the namespace {}", namespace.name))?;
    let mut pids = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<i32>().ok())
        else {
            continue;
        };
        let Ok(found) = fs::metadata(format!("/proc/{pid}/ns/net")) else {
            continue;
        };
        let is_inside = (found.dev(), found.ino()) == (wanted.dev(), wanted.ino());
        if is_inside && pid.unsigned_abs() != std::process::id() {
            pids.push(Pid::from_raw(pid));
        }
    }
    Ok(pids)
}

/// Gives `lines` to `ip -batch`, in `namespace` when there is one.
pub(crate) fn ip_batch(namespace: Option<&Namespace>, lines: &str) -> Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    let mut command = Command::new("ip");
    if let Some(namespace) = namespace {
        command.args(["-netns", &namespace.name]);
    }
    feed(command.args(["-batch", "-"]), lines).context("ip (from iproute2)")
}

/// Runs `command` with `input`, and makes its error output the error.
pub(crate) fn feed(command: &mut Command, input: &str) -> Result<()> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("start it: is it installed?")?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that stops reading says why on its error output.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_its_owner() {
        assert_eq!(owner("phx-12-3456-0-edge-1"), Some((12, 3456)));
        for other in ["phx-12-edge", "phx-a-1-0-x", "docker", "phx-1-2-3", "phx-"] {
            assert_eq!(owner(other), None, "{other}");
        }
    }

    #[test]
    fn the_start_time_of_this_process_is_known_and_fixed() {
        let start = start_ticks(std::process::id());
        assert!(start.is_some_and(|ticks| ticks > 0));
        assert_eq!(start, start_ticks(std::process::id()));
        assert_eq!(start_ticks(u32::MAX), None);
    }
}
