//! Runs the test programs of one ring through cargo, showing their output as it comes.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use super::Ring;
use super::count::{Counts, Reader};
use crate::command;

/// A ring that takes longer is stuck: it is ended, and has failed.
const RING_SECONDS_MAX: u32 = 1500;

/// The programs of the kernels ring run on this machine's kernel as well.
const HOST_KERNEL: (Ring, Ring) = (Ring::Program, Ring::Kernels);

/// What to run.
pub(super) struct Request<'a> {
    pub(super) ring: Ring,
    /// Time of each fuzz target.
    pub(super) fuzz_seconds: u64,
    /// Only tests whose name contains this.
    pub(super) filter: Option<&'a str>,
}

/// Runs a ring that consists of test programs of the workspace.
pub(super) fn cargo_ring(request: &Request<'_>) -> Result<Counts> {
    let mut counts = Counts::default();
    for targets in targets(request.ring)? {
        let mut cargo = test_command(&targets);
        cargo.args(["--no-fail-fast", "--"]);
        // Otherwise a test that passes keeps to itself why it skipped.
        cargo.arg("--show-output");
        cargo.args(request.filter);
        if request.ring.needs_root() {
            cargo.args(["--include-ignored", "--test-threads=1"]);
        }
        if request.ring == Ring::Fuzz {
            cargo.env("PHALANX_FUZZ_SECONDS", request.fuzz_seconds.to_string());
        }
        counts.add(stream(&mut cargo, |_| ())?);
    }
    Ok(counts)
}

/// Counts the tests of a ring that cannot run here, all as skipped.
pub(super) fn skip(ring: Ring) -> Result<Counts> {
    if ring == Ring::Kernels {
        return Ok(Counts {
            skipped: crate::kernels::COUNT,
            ..Counts::default()
        });
    }
    let mut skipped = 0;
    for targets in targets(ring)? {
        let mut cargo = test_command(&targets);
        cargo.args(["--quiet", "--", "--list", "--include-ignored"]);
        let list = command::read(&mut cargo)?;
        skipped += list.lines().filter(|line| line.ends_with(": test")).count() as u64;
    }
    Ok(Counts {
        skipped,
        ..Counts::default()
    })
}

/// The choices of targets to give to `cargo test`, one for each time that it has to run.
fn targets(ring: Ring) -> Result<Vec<Vec<String>>> {
    if ring == Ring::Unit {
        let programs = vec!["--lib".to_owned(), "--bins".to_owned()];
        return Ok(vec![programs, vec!["--doc".to_owned()]]);
    }
    let mut names = target_names("tests")?;
    names.retain(|name| ring_of(name) == ring || (ring, ring_of(name)) == HOST_KERNEL);
    if names.is_empty() {
        println!("this ring has no tests yet");
        return Ok(vec![]);
    }
    Ok(vec![
        names
            .into_iter()
            .flat_map(|name| ["--test".to_owned(), name])
            .collect(),
    ])
}

/// The ring of a test file, by its name without extension.
fn ring_of(name: &str) -> Ring {
    let named = [
        Ring::Fuzz,
        Ring::Program,
        Ring::Network,
        Ring::Kernels,
        Ring::Ui,
    ];
    named
        .into_iter()
        .find(|ring| name.starts_with(ring.name()))
        .unwrap_or(Ring::Scenario)
}

/// The names of the test or bench programs of all crates, by the folder that holds them.
pub(crate) fn target_names(folder: &str) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for member in std::fs::read_dir(command::workspace())? {
        let member = member?.path();
        let programs = member.join(folder);
        // The kernel side is a workspace of its own, and its target runs no test programs.
        if !programs.is_dir() || member.ends_with("phalanx-ebpf") {
            continue;
        }
        for entry in std::fs::read_dir(programs)? {
            let path = entry?.path();
            let is_program =
                path.extension() == Some(OsStr::new("rs")) || path.join("main.rs").is_file();
            if is_program {
                names.extend(path.file_stem().and_then(OsStr::to_str).map(str::to_owned));
            }
        }
    }
    Ok(names)
}

fn test_command(targets: &[String]) -> Command {
    let mut cargo = command::program("timeout", ["--kill-after=10"]);
    cargo.arg(RING_SECONDS_MAX.to_string());
    cargo.args(["cargo", "test", "--workspace"]).args(targets);
    cargo
}

/// Builds the test programs of a ring, and the daemon that they start: the programs' paths.
pub(crate) fn build_programs(ring: Ring) -> Result<Vec<PathBuf>> {
    let mut programs = Vec::new();
    for targets in targets(ring)? {
        let mut cargo = command::cargo(["test", "--workspace", "--no-run"]);
        cargo.args(targets);
        command::print(&cargo);
        let output = cargo.output().context("start cargo")?;
        let said = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            bail!("the tests did not build:\n{said}");
        }
        // `  Executable tests/NAME.rs (PATH)`, the path relative to the workspace.
        let paths = said.lines().filter_map(|line| {
            let rest = line.trim_start().strip_prefix("Executable ")?;
            Some(command::workspace().join(rest.rsplit_once('(')?.1.strip_suffix(')')?))
        });
        programs.extend(paths);
    }
    Ok(programs)
}

/// Runs a command that prints as test programs do: shows its lines as they come, to the caller
/// too, and counts its tests.
pub(crate) fn stream(command: &mut Command, mut see: impl FnMut(&str)) -> Result<Counts> {
    command::print(command);
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .context("start the tests")?;
    let output = child
        .stdout
        .take()
        .expect("the output was asked for as a pipe");
    let mut reader = Reader::default();
    for line in BufReader::new(output).split(b'\n') {
        let line = line.context("read the output of the tests")?;
        let line = String::from_utf8_lossy(&line);
        let line = line.trim_end();
        println!("{line}");
        reader.read_line(line);
        see(line);
    }
    let status = child.wait().context("wait for the tests")?;
    if !status.success() && reader.counts.failed == 0 {
        match status.code() {
            Some(124 | 137) => bail!("ended for taking too long"),
            _ => bail!("the tests did not build, or a test program ended with {status}"),
        }
    }
    Ok(reader.counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_belongs_to_the_ring_that_it_is_named_for() {
        assert_eq!(ring_of("network_rtt"), Ring::Network);
        assert_eq!(ring_of("program"), Ring::Program);
        assert_eq!(ring_of("fuzz_parser"), Ring::Fuzz);
        assert_eq!(ring_of("kernels"), Ring::Kernels);
        assert_eq!(ring_of("captures"), Ring::Scenario);
    }
}
