//! What the daemon itself takes: CPU time, memory, memory of its maps.

use std::path::Path;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// CPU time of the process in nanoseconds.
pub(crate) fn cpu_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map_or(0, |time| {
        u64::try_from(Duration::from(time).as_nanos()).unwrap_or(u64::MAX)
    })
}

/// CPU time of the calling thread in nanoseconds.
pub(super) fn thread_cpu_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(0, |time| {
        u64::try_from(Duration::from(time).as_nanos()).unwrap_or(u64::MAX)
    })
}

/// Resident memory of the process in bytes; 0 where `/proc` does not tell.
pub(crate) fn resident_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|statm| {
            statm
                .split_ascii_whitespace()
                .nth(1)
                .and_then(|pages| pages.parse::<u64>().ok())
        });
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)
        .ok()
        .flatten();
    pages.unwrap_or(0) * page.and_then(|size| u64::try_from(size).ok()).unwrap_or(0)
}

/// Memory of all maps that the process holds, in bytes, as the kernel accounts it. A map that is
/// held by two descriptors counts once.
pub(super) fn map_memory_bytes() -> u64 {
    let Ok(entries) = std::fs::read_dir(Path::new("/proc/self/fdinfo")) else {
        return 0;
    };
    let mut maps = std::collections::BTreeMap::new();
    for entry in entries.flatten() {
        let Ok(text) = std::fs::read_to_string(entry.path()) else {
            continue;
        };
        let field = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok())
        };
        if let (Some(bytes), Some(id)) = (field("memlock:"), field("map_id:")) {
            maps.insert(id, bytes);
        }
    }
    maps.values().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_takes_something() {
        assert!(resident_bytes() > 100_000);
        assert!(cpu_ns() > 0);
    }
}
