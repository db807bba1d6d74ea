//! Capabilities: which are there, which are kept, which are dropped. They belong to threads, so
//! each thread of the daemon drops its own as soon as it can do without.

use anyhow::Context;
use caps::{CapSet, Capability, CapsHashSet};

/// What loading and attaching the programs needs.
pub(crate) const TO_LOAD: [Capability; 3] = [
    Capability::CAP_BPF,
    Capability::CAP_NET_ADMIN,
    Capability::CAP_PERFMON,
];

/// What finding the owners of sockets needs: to look into other users' processes.
pub(crate) const TO_FIND_OWNERS: [Capability; 2] =
    [Capability::CAP_DAC_READ_SEARCH, Capability::CAP_SYS_PTRACE];

/// Which of these capabilities the calling thread lacks. `CAP_SYS_ADMIN` stands for `CAP_BPF` and
/// `CAP_PERFMON`, as in the kernel.
#[must_use]
pub(crate) fn missing(wanted: &[Capability]) -> Vec<Capability> {
    let held = caps::read(None, CapSet::Effective).unwrap_or_default();
    let stands_in = |capability: &Capability| {
        matches!(capability, Capability::CAP_BPF | Capability::CAP_PERFMON)
            && held.contains(&Capability::CAP_SYS_ADMIN)
    };
    let lacks = |capability: &&Capability| !held.contains(capability) && !stands_in(capability);
    wanted.iter().filter(lacks).copied().collect()
}

/// Drops all capabilities of the calling thread but those in `kept` that it holds, for good.
///
/// # Errors
/// If the kernel refuses: then the thread may hold more than it should.
pub(crate) fn keep_only(kept: &[Capability]) -> anyhow::Result<()> {
    let permitted = caps::read(None, CapSet::Permitted).context("read capabilities")?;
    let kept: CapsHashSet = kept
        .iter()
        .copied()
        .filter(|it| permitted.contains(it))
        .collect();
    // Without CAP_SETPCAP the bounding set cannot shrink; nothing is started by the daemon that
    // could gain from it, and no_new_privs holds all the same.
    if permitted.contains(&Capability::CAP_SETPCAP) {
        for capability in caps::read(None, CapSet::Bounding).context("read capabilities")? {
            if !kept.contains(&capability) {
                caps::drop(None, CapSet::Bounding, capability).context("drop capabilities")?;
            }
        }
    }
    caps::clear(None, CapSet::Ambient).context("drop capabilities")?;
    caps::clear(None, CapSet::Inheritable).context("drop capabilities")?;
    caps::set(None, CapSet::Effective, &kept).context("drop capabilities")?;
    caps::set(None, CapSet::Permitted, &kept).context("drop capabilities")
}

/// Nothing that this process starts can gain privileges; inherited by threads.
///
/// # Errors
/// If the kernel refuses.
pub(crate) fn forbid_new_privileges() -> anyhow::Result<()> {
    nix::sys::prctl::set_no_new_privs().context("set no_new_privs")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_drops_its_own_and_no_others() {
        let before = caps::read(None, CapSet::Effective).unwrap();
        let dropping = std::thread::spawn(|| {
            keep_only(&[]).unwrap();
            (
                caps::read(None, CapSet::Effective).unwrap().len(),
                missing(&TO_LOAD).len(),
            )
        });
        assert_eq!(dropping.join().unwrap(), (0, TO_LOAD.len()));
        assert_eq!(caps::read(None, CapSet::Effective).unwrap(), before);
    }
}
