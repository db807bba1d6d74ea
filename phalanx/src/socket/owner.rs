//! Processes and the sockets that they hold, read from procfs with a budget.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use phalanx_engine::name::Owner;

/// Links of descriptors that are read in one pass: some 100 ms of work. The next pass goes on where
/// this one ended.
const LINK_COUNT_MAX: usize = 20_000;

/// The process that systemd is: of sockets that activate a service it is the first holder only.
const FIRST_PROCESS: u32 = 1;

/// What a pass has found, by the socket's inode.
pub(super) type Owners = BTreeMap<u32, Holder>;

/// A process that holds a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) pid: u32,
    pub(super) process: Arc<str>,
    pub(super) cgroup: Arc<str>,
}

impl Holder {
    pub(super) fn owner(&self, is_listener: bool) -> Owner {
        Owner {
            process: Arc::clone(&self.process),
            pid: self.pid,
            cgroup: Arc::clone(&self.cgroup),
            container_name: None,
            is_listener,
        }
    }
}

/// Walks the processes, a part of them in each pass.
#[derive(Debug, Default)]
pub(super) struct Walk {
    /// Process after which the next pass begins; none: at the first.
    after: Option<u32>,
}

impl Walk {
    /// Looks for the owners of these sockets; whether all processes have been seen since the walk
    /// began.
    pub(super) fn pass(&mut self, wanted: &BTreeSet<u32>, found: &mut Owners) -> bool {
        let mut processes = processes();
        processes.sort_unstable();
        let mut budget = LINK_COUNT_MAX;
        let after = self.after;
        for pid in processes.into_iter().filter(|pid| Some(*pid) > after) {
            if budget == 0 {
                return false;
            }
            self.after = Some(pid);
            look_into(pid, wanted, found, &mut budget);
            // The first process holds what it will hand to services that it starts on demand.
            let is_done = |holder: &Holder| holder.pid != FIRST_PROCESS;
            if found.len() == wanted.len() && found.values().all(is_done) {
                break;
            }
        }
        self.after = None;
        true
    }
}

fn processes() -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// A process may end at any time: what cannot be read is left out.
fn look_into(pid: u32, wanted: &BTreeSet<u32>, found: &mut Owners, budget: &mut usize) {
    let directory = Path::new("/proc").join(pid.to_string());
    let Ok(entries) = std::fs::read_dir(directory.join("fd")) else {
        return;
    };
    let mut holder = None;
    for entry in entries.flatten() {
        *budget = budget.saturating_sub(1);
        let Ok(target) = std::fs::read_link(entry.path()) else {
            continue;
        };
        let Some(inode) = target.to_str().and_then(socket_inode) else {
            continue;
        };
        // A socket that was handed on belongs to the first process that holds it: parents have
        // lower numbers, and the listener of a server's workers is their parent's.
        let is_held = |holder: &Holder| holder.pid != FIRST_PROCESS;
        if wanted.contains(&inode) && !found.get(&inode).is_some_and(is_held) {
            let holder = holder.get_or_insert_with(|| read_holder(pid, &directory));
            found.insert(inode, holder.clone());
        }
    }
}

fn read_holder(pid: u32, directory: &Path) -> Holder {
    // Names of processes are bytes, and need be no UTF-8.
    let read = |name| {
        let bytes = std::fs::read(directory.join(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    Holder {
        pid,
        process: Arc::from(read("comm").trim_end()),
        cgroup: Arc::from(cgroup_path(&read("cgroup"))),
    }
}

/// The inode of a link such as `socket:[4711]`.
fn socket_inode(target: &str) -> Option<u32> {
    target
        .strip_prefix("socket:[")?
        .strip_suffix(']')?
        .parse()
        .ok()
}

/// The path in `/proc/PID/cgroup`: that of the unified hierarchy, or that of systemd's own where
/// there is none.
fn cgroup_path(text: &str) -> &str {
    let unified = text.lines().find_map(|line| line.strip_prefix("0::"));
    let named = || {
        text.lines()
            .find_map(|line| line.split_once(":name=systemd:").map(|it| it.1))
    };
    unified
        .filter(|path| *path != "/")
        .or_else(named)
        .unwrap_or(unified.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_and_cgroup_paths() {
        assert_eq!(socket_inode("socket:[4711]"), Some(4711));
        assert_eq!(socket_inode("pipe:[4711]"), None);
        assert_eq!(
            cgroup_path("0::/system.slice/a.service\n"),
            "/system.slice/a.service"
        );
        let hybrid = "4:memory:/x\n1:name=systemd:/user.slice\n0::/\n";
        assert_eq!(cgroup_path(hybrid), "/user.slice");
        assert_eq!(cgroup_path("0::/\n"), "/");
        assert_eq!(cgroup_path(""), "");
    }

    #[test]
    fn this_process_owns_its_sockets() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let sockets = super::super::SocketTable::open().unwrap().read().unwrap();
        let (inode, _) = sockets
            .iter()
            .find(|(_, binding)| binding.port == port)
            .unwrap();
        let mut found = Owners::new();
        let wanted = BTreeSet::from([*inode]);
        let mut walk = Walk::default();
        for _ in 0..1_000 {
            if walk.pass(&wanted, &mut found) {
                break;
            }
        }
        assert_eq!(found[inode].pid, std::process::id());
        assert!(!found[inode].process.is_empty());
    }
}
