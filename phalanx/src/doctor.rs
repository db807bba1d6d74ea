//! What this host can do for Phalanx, what is missing and what to do about it.

mod check;

use std::net::SocketAddr;

use anyhow::Context;
use nix::sys::utsname::uname;

pub use check::{Check, Outcome};

use crate::config::Config;
use crate::interface::{Link, LinkLayer, LinkTable, driver};
use crate::kernel::{Ingress, LoadOptions, load, plan};
use crate::lookback::{self, LookbackFeed};
use crate::privilege;
use crate::translation::{Conntrack, Presence, presence};

/// Oldest kernel that the programs are tested on.
const KERNEL_MIN: (u32, u32) = (6, 1);
/// First kernel with TCX.
const KERNEL_TCX: (u32, u32) = (6, 6);
/// First kernel that accounts map memory to the cgroup instead of RLIMIT_MEMLOCK.
const KERNEL_MEMCG: (u32, u32) = (5, 11);
/// Flows of the instance that is loaded for a try.
const FLOW_COUNT_TRIED: u32 = 1_024;
/// Clock sources that are read without a system call and never fall back.
const CLOCK_SOURCES: &[&str] = &[
    "tsc",
    "kvm-clock",
    "hyperv_clocksource_tsc_page",
    "arch_sys_counter",
];

/// Looks at everything that `phalanx up` with this configuration needs.
///
/// # Errors
/// If the interfaces cannot be read.
pub fn examine(config: &Config) -> anyhow::Result<Vec<Check>> {
    let release = uname().map(|it| it.release().to_string_lossy().into_owned());
    let release = release.unwrap_or_default();
    let version = parse_version(&release);
    let mut checks = vec![
        check_kernel(&release, version),
        check_btf(),
        check_capabilities(),
        check_owners(),
        check_connection_tracking(config),
        check_programs(config),
        check_tcx(version),
        check_memory(version),
        check_namespace(),
        check_cgroup(),
        check_port(config.listen),
        check_clock_source(),
        check_lookback(config),
    ];
    let links = LinkTable::open()?.read().context("read the interfaces")?;
    checks.extend(links.values().map(|link| check_interface(config, link)));
    if !links
        .values()
        .any(|link| config.selection.judge(link).is_ok())
    {
        checks.push(Check::warn(
            "interfaces",
            "none fits the configuration",
            "name some with -i, or use --all",
        ));
    }
    Ok(checks)
}

fn parse_version(release: &str) -> (u32, u32) {
    let mut parts = release.split(|letter: char| !letter.is_ascii_digit());
    let mut number = || parts.next().and_then(|part| part.parse().ok()).unwrap_or(0);
    (number(), number())
}

fn check_kernel(release: &str, version: (u32, u32)) -> Check {
    if version >= KERNEL_MIN {
        return Check::ok("kernel", release);
    }
    Check::warn(
        "kernel",
        release,
        "Phalanx is tested on Linux 6.1 and later: update the kernel",
    )
}

fn check_btf() -> Check {
    if std::path::Path::new("/sys/kernel/btf/vmlinux").exists() {
        return Check::ok("btf", "/sys/kernel/btf/vmlinux");
    }
    Check::warn(
        "btf",
        "none",
        "not needed, but verifier errors are harder to read without it",
    )
}

fn check_capabilities() -> Check {
    let missing = privilege::missing(&privilege::TO_LOAD);
    if missing.is_empty() {
        return Check::ok("capabilities", "all that loading and attaching needs");
    }
    let names: Vec<String> = missing.iter().map(ToString::to_string).collect();
    Check::fail(
        "capabilities",
        format!("{} missing", names.join(", ")),
        "run as root",
    )
}

fn check_owners() -> Check {
    let missing = privilege::missing(&privilege::TO_FIND_OWNERS);
    if missing.is_empty() {
        return Check::ok("socket owners", "processes can be looked into");
    }
    let names: Vec<String> = missing.iter().map(ToString::to_string).collect();
    let found = format!("{} missing", names.join(", "));
    Check::warn(
        "socket owners",
        found,
        "services of other users are not named; run as root",
    )
}

fn check_connection_tracking(config: &Config) -> Check {
    const NAME: &str = "connection tracking";
    if !config.has_connection_tracking {
        return Check::ok(NAME, "not asked for");
    }
    if presence() == Presence::NotLoaded {
        return Check::ok(
            NAME,
            "nf_conntrack_netlink is not loaded: translations of addresses are not known",
        );
    }
    match Conntrack::open().and_then(|mut it| it.prove()) {
        Ok(()) => Check::ok(NAME, "answers: translations of addresses are told"),
        Err(error) => Check::warn(
            NAME,
            error.to_string(),
            "translations of addresses are not known; run as root",
        ),
    }
}

/// The only proof that the programs load is to load them.
fn check_programs(config: &Config) -> Check {
    let options = LoadOptions {
        flow_count_max: FLOW_COUNT_TRIED,
        seed: 0,
        update_interval_ns: 1_000_000_000,
        promotion: phalanx_common::watch::PromotionLimit::default(),
        tc_attachment: config.tc_attachment,
        log: config.kernel_log,
    };
    match load(options) {
        Ok(_) => Check::ok("programs", "the kernel takes them"),
        Err(error) => Check::fail(
            "programs",
            format!("{error:#}"),
            "see the checks above and below",
        ),
    }
}

fn check_tcx(version: (u32, u32)) -> Check {
    if version >= KERNEL_TCX {
        return Check::ok("tc", "TCX");
    }
    Check::warn(
        "tc",
        "clsact only",
        "works; after a SIGKILL the next start, or phalanx cleanup, removes the filters",
    )
}

fn check_memory(version: (u32, u32)) -> Check {
    use nix::sys::resource::{Resource, getrlimit};
    let limit = getrlimit(Resource::RLIMIT_MEMLOCK).map_or(0, |(soft, _)| soft);
    if version >= KERNEL_MEMCG || limit == nix::sys::resource::RLIM_INFINITY {
        return Check::ok("map memory", "accounted to the cgroup, or without limit");
    }
    Check::fail(
        "map memory",
        format!("RLIMIT_MEMLOCK {limit}"),
        "ulimit -l unlimited",
    )
}

fn check_namespace() -> Check {
    let inode = |path: &str| std::fs::read_link(path).ok();
    match (inode("/proc/self/ns/net"), inode("/proc/1/ns/net")) {
        (Some(own), Some(first)) if own == first => {
            Check::ok("namespace", "that of the host's first process")
        }
        (Some(own), _) => Check::warn(
            "namespace",
            own.to_string_lossy(),
            "interfaces of other namespaces are seen with --netns only",
        ),
        (None, _) => Check::warn("namespace", "not known", "mount /proc"),
    }
}

fn check_cgroup() -> Check {
    if std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        return Check::ok("cgroup", "unified hierarchy");
    }
    let remedy = "containers are named only where the paths of cgroup 1 tell them";
    Check::warn("cgroup", "no unified hierarchy", remedy)
}

fn check_port(listen: SocketAddr) -> Check {
    match std::net::TcpListener::bind(listen) {
        Ok(_) => Check::ok("listen", format!("{listen} is free")),
        Err(error) => Check::fail(
            "listen",
            format!("{listen}: {error}"),
            "is another phalanx running? choose another address with --listen",
        ),
    }
}

fn check_clock_source() -> Check {
    let path = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    let source = std::fs::read_to_string(path).unwrap_or_default();
    let source = source.trim();
    if CLOCK_SOURCES.contains(&source) {
        return Check::ok("clock source", source);
    }
    let found = if source.is_empty() {
        "not known"
    } else {
        source
    };
    Check::warn(
        "clock source",
        found,
        "reading the time may be slow: prefer tsc",
    )
}

fn check_lookback(config: &Config) -> Check {
    let options = &config.lookback;
    if options.feed == LookbackFeed::Promoted && config.promotion_hold.is_zero() {
        return Check::warn(
            "lookback",
            "nothing is kept: promotion is off",
            "set promotion, or another lookback_feed",
        );
    }
    if let Err(error) = lookback::examine(options) {
        let remedy = "all would lie in memory: name a directory with room, on ext4, xfs or tmpfs";
        return Check::warn("lookback", error, remedy);
    }
    let place = match &options.directory {
        Some(directory) => format!("in {}", directory.display()),
        None => "in memory".to_owned(),
    };
    let found = match options.feed {
        LookbackFeed::Off => "off".to_owned(),
        feed => format!("{} fed, {} MiB {place}", feed.name(), options.size_mib),
    };
    Check::ok("lookback", found)
}

fn check_interface(config: &Config, link: &Link) -> Check {
    let name = format!("interface {}", link.name);
    if let LinkLayer::Unknown(hardware) = link.layer {
        return Check::ok(
            name,
            format!("link layer {hardware} is not supported: left out"),
        );
    }
    let driver = driver(&link.name);
    let plan = plan(config.hook, link, driver.as_deref());
    let judged = match config.selection.judge(link) {
        Ok(reason) => format!("watched ({reason})"),
        Err(reason) => format!("not watched ({reason})"),
    };
    let egress = if plan.has_egress { "tc" } else { "none" };
    let driver = driver
        .map(|driver| format!(", driver {driver}"))
        .unwrap_or_default();
    let found = format!(
        "{judged}; in {}, out {egress}: {}{driver}",
        plan.ingress, plan.reason
    );
    match plan.ingress {
        Ingress::Xdp => Check::warn(
            name,
            found,
            "attaching native XDP may reset the queues of the NIC for a moment; \
             --hook tc avoids it",
        ),
        Ingress::XdpGeneric | Ingress::Tc => Check::ok(name, found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_releases() {
        assert_eq!(parse_version("6.18.44-fc-v657"), (6, 18));
        assert_eq!(parse_version("6.1.0-13-cloud-amd64"), (6, 1));
        assert_eq!(parse_version(""), (0, 0));
        for (release, outcome) in [
            ("5.15.0", Outcome::Warn),
            ("6.1.0-13-cloud-amd64", Outcome::Ok),
        ] {
            let check = check_kernel(release, parse_version(release));
            assert_eq!(check.outcome, outcome, "{release}");
        }
    }

    #[test]
    fn looking_back_is_told_and_a_file_that_cannot_be_had_is_warned_of() {
        let mut config = Config::new(&crate::config::Layers::default()).unwrap();
        let check = check_lookback(&config);
        assert_eq!(check.outcome, Outcome::Ok);
        assert_eq!(check.found, "promoted fed, 64 MiB in memory");
        config.lookback.directory = Some("/nonexistent/phalanx".into());
        let check = check_lookback(&config);
        assert_eq!(check.outcome, Outcome::Warn);
        assert!(check.found.contains("56 MiB in /nonexistent/phalanx"));
        config.lookback.directory = None;
        config.promotion_hold = std::time::Duration::ZERO;
        assert_eq!(check_lookback(&config).outcome, Outcome::Warn);
    }

    #[test]
    fn a_port_in_use_is_a_failure_with_a_remedy() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let check = check_port(address);
        assert_eq!(check.outcome, Outcome::Fail);
        assert!(check.remedy.contains("--listen"));
        drop(listener);
        assert_eq!(check_port(address).outcome, Outcome::Ok);
    }
}
