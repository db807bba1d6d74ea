//! The kernels ring: boots Debian's cloud kernels in a virtual machine and runs the test programs
//! named `kernels*` there.
//!
//! The machine has one initial file system: a shell, `ip`, the modules of the kernel that the
//! tests need, the daemon and the test programs with their libraries. It has no disk and no
//! network. What it prints on its serial console is read like any other test output. It always
//! runs in software emulation, which works on every host; nested virtualisation does not.

mod image;

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use crate::test::{Counts, Ring, run};
use crate::{command, package, tool};
use image::Image;

/// The packages that stand for the newest cloud kernel of a series, the oldest series first.
const SERIES: [&str; 2] = ["linux-image-cloud-amd64", "linux-image-6.12-cloud-amd64"];

/// The number of kernels: what is skipped where the ring cannot run.
pub(crate) const COUNT: u64 = SERIES.len() as u64;

/// A machine that takes longer is stuck: the verifier takes over a minute for each load.
const BOOT_SECONDS_MAX: u32 = 900;
const MEMORY_MIB: u32 = 1024;

/// Printed by the machine once every program has run, followed by the number that failed.
const END_MARK: &str = "phalanx-kernels-end";

/// A kernel, unpacked.
pub(crate) struct Kernel {
    /// As `uname -r` says it.
    release: String,
    /// The folder that holds `boot` and `lib/modules`.
    root: PathBuf,
}

/// Runs the ring on every kernel; with the counts come notes on each kernel.
pub(crate) fn run_all() -> Result<(Counts, Vec<String>)> {
    let programs = run::build_programs(Ring::Kernels)?;
    let mut counts = Counts::default();
    let mut notes = Vec::new();
    if programs.is_empty() {
        return Ok((counts, notes));
    }
    for package in SERIES {
        let start = Instant::now();
        let kernel = fetch(package).with_context(|| format!("fetch {package}"))?;
        let counted = boot(&kernel, &programs).unwrap_or_else(|error| {
            println!("error: {error:#}");
            notes.push(format!("Linux {} broke: {error:#}", kernel.release));
            Counts {
                failed: 1,
                ..Counts::default()
            }
        });
        notes.push(format!(
            "Linux {}: {} passed, {} failed, {} skipped in {:.1} s",
            kernel.release,
            counted.passed,
            counted.failed,
            counted.skipped,
            start.elapsed().as_secs_f64()
        ));
        counts.add(counted);
    }
    Ok((counts, notes))
}

/// Boots one kernel with the programs, and counts their tests from its console.
fn boot(kernel: &Kernel, programs: &[PathBuf]) -> Result<Counts> {
    let folder = command::target().join("kernels").join(&kernel.release);
    let image = Image::new(folder, kernel)?;
    let archive = image.pack(programs)?;
    let mut machine = command::program("timeout", ["--kill-after=5"]);
    machine
        .arg(BOOT_SECONDS_MAX.to_string())
        .arg("qemu-system-x86_64");
    machine.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2"]);
    machine.args(["-m", &MEMORY_MIB.to_string(), "-nodefaults", "-no-reboot"]);
    machine.args(["-display", "none", "-serial", "stdio", "-kernel"]);
    machine.arg(
        kernel
            .root
            .join("boot")
            .join(format!("vmlinuz-{}", kernel.release)),
    );
    machine.arg("-initrd").arg(archive);
    machine.args(["-append", "console=ttyS0 quiet panic=-1 mitigations=off"]);
    machine.stdin(std::process::Stdio::null());
    let mut end = None;
    let counts = run::stream(&mut machine, |line| {
        if let Some(rest) = line.trim().strip_prefix(END_MARK) {
            end = Some(rest.trim().to_owned());
        }
    })?;
    match end.as_deref() {
        Some("0") => Ok(counts),
        Some(_) if counts.failed > 0 => Ok(counts),
        Some(number) => bail!("{number} test programs ended badly; see the console above"),
        None => bail!("no end within {BOOT_SECONDS_MAX} s, or a panic; see the console above"),
    }
}

/// Downloads and unpacks the newest kernel of a series into the cache.
fn fetch(series: &str) -> Result<Kernel> {
    let name = match newest(series) {
        Ok(name) => name,
        Err(_) => {
            package::update()?;
            newest(series)?
        }
    };
    let release = name
        .strip_prefix("linux-image-")
        .expect("the name was chosen by it")
        .to_owned();
    let kernels = tool::cache()?.join("kernels");
    let root = kernels.join(&release);
    if !root.is_dir() {
        // Under another name until it is whole.
        let part = kernels.join(format!("{release}.part-{}", std::process::id()));
        std::fs::create_dir_all(&part)?;
        download(&name, &part)?;
        std::fs::rename(&part, &root).context("put the unpacked kernel in its place")?;
    }
    Ok(Kernel { release, root })
}

fn download(name: &str, folder: &std::path::Path) -> Result<()> {
    let mut get = command::program("apt-get", ["-o", "APT::Sandbox::User=root", "--quiet=2"]);
    let is_fetched = command::run(get.args(["download", name]).current_dir(folder));
    if is_fetched.is_err() {
        // The lists are older than what the archive now holds.
        package::update()?;
        command::run(&mut get)?;
    }
    let archive = std::fs::read_dir(folder)?
        .next()
        .context("nothing was downloaded")??
        .path();
    command::run(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(folder))?;
    std::fs::remove_file(archive)?;
    let release = name.trim_start_matches("linux-image-");
    command::run(Command::new("depmod").arg("-b").arg(folder).arg(release))
}

/// The package that a series depends on: `linux-image-` and the release.
fn newest(series: &str) -> Result<String> {
    let depends = command::read(&mut command::program("apt-cache", ["depends", series]))?;
    let name = depends
        .lines()
        .find_map(|line| line.trim().strip_prefix("Depends: linux-image-"));
    Ok(format!(
        "linux-image-{}",
        name.with_context(|| format!("{series} has no kernel"))?
    ))
}
