//! The Debian packages that the rings and the BPF toolchain need: the one list, and its installer.

use anyhow::{Context as _, Result, bail};

use crate::command;

/// What a package is needed for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Need {
    /// Building the kernel object.
    Object,
    /// Captures and filters compared with other programs.
    Scenario,
    /// Loading the kernel object into this machine's kernel.
    Program,
    /// Namespaces with real traffic.
    Network,
    /// Other kernels in a virtual machine.
    Kernels,
    /// Pages in a browser.
    Ui,
    /// Building and trying the Debian package.
    Deb,
    /// Measured beside ours.
    Bench,
}

use Need::{Bench, Deb, Kernels, Network, Object, Program, Scenario, Ui};

/// Every Debian package that a verb may install, and what for.
const PACKAGES: &[(&str, &[Need])] = &[
    ("rustc-web", &[Object]),
    ("rust-web-src", &[Object]),
    ("llvm-22", &[Object]),
    ("llvm-22-dev", &[Object]),
    ("libpolly-22-dev", &[Object]),
    ("libzstd-dev", &[Object]),
    ("zlib1g-dev", &[Object]),
    ("iproute2", &[Program, Network, Kernels]),
    ("ethtool", &[Network]),
    ("iptables", &[Network]),
    ("nftables", &[Network]),
    ("iputils-ping", &[Network]),
    ("tcpdump", &[Scenario, Network]),
    ("tshark", &[Scenario, Network, Bench]),
    ("tcptrace", &[Bench]),
    ("python3-jsonschema", &[Scenario]),
    ("prometheus", &[Network]),
    ("curl", &[Network]),
    ("openssl", &[Network]),
    ("python3-venv", &[Network]),
    ("busybox-static", &[Kernels]),
    ("binutils", &[Kernels]),
    ("cpio", &[Kernels]),
    ("kmod", &[Kernels]),
    ("qemu-system-x86", &[Kernels]),
    ("xz-utils", &[Kernels]),
    ("dpkg-dev", &[Deb]),
    ("debootstrap", &[Deb]),
    ("systemd", &[Deb]),
    ("chromium", &[Ui]),
];

/// Installs what the given needs lack; prints the list. Needs root; without it, or when told not
/// to install, a missing package is an error that names them all.
pub(crate) fn install(needs: &[Need], may_install: bool) -> Result<()> {
    let wanted = wanted(needs);
    if wanted.is_empty() {
        return Ok(());
    }
    println!("Debian packages needed: {}", wanted.join(" "));
    let missing: Vec<&str> = wanted
        .into_iter()
        .filter(|package| !is_installed(package))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if !may_install {
        bail!("Debian packages missing: {list}; install them, or run without --no-install");
    }
    if !command::is_root() {
        bail!("Debian packages missing: {list}; run as root, or apt-get install them");
    }
    update()?;
    let mut install = command::program("apt-get", ["install", "--yes", "--quiet=2"]);
    install.args(["-o", "Dpkg::Use-Pty=0"]);
    install.arg("--no-install-recommends").args(missing);
    command::run(install.env("DEBIAN_FRONTEND", "noninteractive"))
        .with_context(|| format!("install {list}"))
}

/// Fetches the package lists, once in the life of this process.
pub(crate) fn update() -> Result<()> {
    static UPDATED: std::sync::Once = std::sync::Once::new();
    let mut result = Ok(());
    UPDATED.call_once(|| {
        let mut update = command::program("apt-get", ["update", "--quiet=2"]);
        result = command::run(update.env("DEBIAN_FRONTEND", "noninteractive"));
    });
    result
}

fn wanted(needs: &[Need]) -> Vec<&'static str> {
    let is_wanted = |whose: &[Need]| whose.iter().any(|need| needs.contains(need));
    PACKAGES
        .iter()
        .filter(|(_, whose)| is_wanted(whose))
        .map(|(name, _)| *name)
        .collect()
}

fn is_installed(package: &str) -> bool {
    let mut query = command::program("dpkg-query", ["--show", "--showformat=${db:Status-Status}"]);
    command::read(query.arg(package)).is_ok_and(|status| status == "installed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_needed_is_wanted() {
        assert!(wanted(&[]).is_empty());
        assert_eq!(wanted(&[Ui]), ["chromium"]);
        assert!(wanted(&[Object, Network]).contains(&"llvm-22-dev"));
    }
}
