//! Builds the Debian package, and proves that it installs, starts and removes cleanly.

mod check;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::package::{self, Need};
use crate::{command, tool};

/// Not `phalanx`: Debian has a chess program of that name.
const PACKAGE: &str = "phalanx-sre";

/// Shells, and the name of the file that the package has for each.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "phalanx.bash"),
    ("zsh", "_phalanx"),
    ("fish", "phalanx.fish"),
];

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Also install it on this machine, start the daemon as the unit would, and remove it again
    #[arg(long)]
    check: bool,
    /// Pack the unoptimised program: quicker, for the check
    #[arg(long)]
    dev: bool,
    /// Never install Debian packages that the build needs; a missing one is an error
    #[arg(long)]
    no_install: bool,
}

/// Builds the package, prints where it lies and what it holds.
pub(crate) fn run(arguments: &Arguments) -> Result<bool> {
    package::install(&[Need::Deb], !arguments.no_install)?;
    let archive = build(arguments.dev)?;
    command::run(Command::new("dpkg-deb").arg("--contents").arg(&archive))?;
    println!("built {}", archive.display());
    if arguments.check {
        check::run(&archive)?;
    }
    Ok(true)
}

/// Builds and checks the package as CI does.
pub(crate) fn check_quickly() -> Result<bool> {
    if !command::is_root() {
        println!("SKIPPED: installing a package needs root");
        return Ok(true);
    }
    run(&Arguments {
        check: true,
        dev: true,
        no_install: false,
    })
}

fn build(is_dev: bool) -> Result<PathBuf> {
    let cargo_deb = tool::CARGO_DEB.path()?;
    let (profile, folder) = if is_dev {
        ("dev", "debug")
    } else {
        ("release", "release")
    };
    let build = [
        "build",
        "--profile",
        profile,
        "--locked",
        "--package",
        "phalanx",
    ];
    command::run(&mut command::cargo(build))?;
    let built = command::target().join(folder);
    write_generated(&built.join("phalanx"), &built.join("assets"))?;
    let archive = command::target().join(format!("{PACKAGE}.deb"));
    let mut pack = command::program(cargo_deb, ["--no-build", "--strip", "--profile", profile]);
    if is_dev {
        pack.arg("--fast");
    }
    pack.args(["--package", "phalanx", "--output"])
        .arg(&archive);
    command::run(&mut pack).context("pack the Debian package")?;
    Ok(archive)
}

/// Writes what the program itself can tell: completions and the manual page.
fn write_generated(program: &Path, folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    for (shell, name) in COMPLETIONS {
        let text = command::read(Command::new(program).args(["completions", shell]))?;
        std::fs::write(folder.join(name), text)?;
    }
    let page = command::read(Command::new(program).arg("man"))?;
    std::fs::write(folder.join("phalanx.1"), page)?;
    Ok(())
}

/// What the unit runs: the words of its `ExecStart`.
fn exec_start(unit: &str) -> Result<Vec<OsString>> {
    let line = unit
        .lines()
        .find_map(|line| line.strip_prefix("ExecStart="));
    let words: Vec<OsString> = line
        .unwrap_or_default()
        .split_whitespace()
        .map(OsString::from)
        .collect();
    if words.is_empty() {
        bail!("the unit has no ExecStart");
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_units_start_the_installed_program_with_the_installed_configuration() {
        let folder = command::workspace().join("examples/systemd");
        for (unit, verb) in [
            ("phalanx.service", "up"),
            ("phalanx-agent.service", "agent"),
            ("phalanx-hub.service", "hub"),
        ] {
            let unit = std::fs::read_to_string(folder.join(unit)).unwrap();
            let words = exec_start(&unit).unwrap();
            let configuration = "/etc/phalanx/phalanx.toml";
            assert_eq!(words, ["/usr/bin/phalanx", verb, "--config", configuration]);
        }
        assert!(exec_start("[Service]\nType=notify\n").is_err());
    }
}
