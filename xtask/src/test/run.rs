//! Runs the test programs of one ring through cargo, showing their output as it comes.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use super::Ring;
use super::count::{Counts, Reader};
use crate::command;

/// A ring that takes longer is stuck: it is ended, and has failed.
const RING_SECONDS_MAX: u32 = 1500;

/// What to run.
pub(super) struct Request<'a> {
    pub(super) ring: Ring,
    /// CPU time of the fuzz ring.
    pub(super) fuzz_seconds: u64,
    /// Only tests whose name contains this.
    pub(super) filter: Option<&'a str>,
    /// Another kernel object than the committed one.
    pub(super) object: Option<&'a Path>,
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
        if let Some(object) = request.object {
            cargo.env("PHALANX_BPF_OBJECT", object);
        }
        counts.add(stream(&mut cargo)?);
    }
    Ok(counts)
}

/// Counts the tests of a ring that cannot run here, all as skipped.
pub(super) fn skip(ring: Ring) -> Result<Counts> {
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
    let names: Vec<String> = test_files()?
        .into_iter()
        .filter(|name| ring_of(name) == ring)
        .collect();
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
    let named = [Ring::Fuzz, Ring::Program, Ring::Network, Ring::Ui];
    named
        .into_iter()
        .find(|ring| name.starts_with(ring.name()))
        .unwrap_or(Ring::Scenario)
}

/// The names of the test programs of all crates.
fn test_files() -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for member in std::fs::read_dir(command::workspace())? {
        let member = member?.path();
        let tests = member.join("tests");
        // The kernel side is a workspace of its own, and its target runs no test programs.
        if !tests.is_dir() || member.ends_with("phalanx-ebpf") {
            continue;
        }
        for entry in std::fs::read_dir(tests)? {
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

/// Runs a test command, prints its lines as they come, and counts its tests.
fn stream(command: &mut Command) -> Result<Counts> {
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
        println!("{line}");
        reader.read_line(&line);
    }
    let status = child.wait().context("wait for the tests")?;
    if !status.success() && reader.counts.failed == 0 {
        match status.code() {
            Some(124 | 137) => bail!("no end within {RING_SECONDS_MAX} s"),
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
        assert_eq!(ring_of("captures"), Ring::Scenario);
    }
}
