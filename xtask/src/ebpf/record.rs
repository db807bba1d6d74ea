//! The record beside the committed object: which tools built it, from which sources.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

use crate::command;
use crate::tool::BPF_LINKER;

/// What the object is made of, besides the compiler. Folders are walked.
const SOURCES: &[&str] = &[
    "phalanx-common/Cargo.toml",
    "phalanx-common/src",
    "phalanx-ebpf/Cargo.lock",
    "phalanx-ebpf/Cargo.toml",
    "phalanx-ebpf/src",
];

const HEADING: &str = "\
# Written by `cargo xtask ebpf`: what phalanx.bpf.o was built with and from.
# `cargo xtask ebpf --check` proves it.
";

/// The tools and hashes of one build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    /// Names and versions of the tools, in the order in which they are written.
    tools: Vec<(String, String)>,
    /// SHA-256 over the names and bytes of all sources, in hexadecimal.
    pub(super) sources_sha256: String,
    /// SHA-256 of the object, in hexadecimal.
    pub(super) object_sha256: String,
}

impl Record {
    /// The record of an object, with the tools and sources as they are now.
    pub(super) fn of_now(object: &Path) -> Result<Self> {
        let bytes = std::fs::read(object).with_context(|| format!("read {}", object.display()))?;
        let llvm = Path::new("/usr/lib/llvm-22/bin/llvm-config");
        let tools = [
            (
                "rustc",
                command::read(Command::new(super::RUSTC).arg("--version"))?,
            ),
            ("llvm", command::read(Command::new(llvm).arg("--version"))?),
            ("bpf_linker", BPF_LINKER.version.to_owned()),
            ("aya_ebpf", locked_version("aya-ebpf")?),
        ];
        Ok(Self {
            tools: tools
                .map(|(name, said)| (name.to_owned(), said.trim().to_owned()))
                .to_vec(),
            sources_sha256: sources_sha256()?,
            object_sha256: hex(Sha256::digest(bytes).as_slice()),
        })
    }

    /// Reads what [`Self::to_text`] wrote.
    pub(super) fn from_text(text: &str) -> Result<Self> {
        let mut pairs = Vec::new();
        for line in text
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
        {
            let (name, value) = line
                .split_once(" = ")
                .with_context(|| format!("no ` = ` in {line:?}"))?;
            pairs.push((name.to_owned(), value.trim_matches('"').to_owned()));
        }
        let mut take = |wanted: &str| -> Result<String> {
            let index = pairs.iter().position(|(name, _)| name == wanted);
            Ok(pairs
                .remove(index.with_context(|| format!("no {wanted}"))?)
                .1)
        };
        let sources_sha256 = take("sources_sha256")?;
        let object_sha256 = take("object_sha256")?;
        Ok(Self {
            tools: pairs,
            sources_sha256,
            object_sha256,
        })
    }

    /// The record as TOML, with quoted values only.
    pub(super) fn to_text(&self) -> String {
        let mut text = HEADING.to_owned();
        for (name, value) in &self.tools {
            text.push_str(&format!("{name} = \"{value}\"\n"));
        }
        text.push_str(&format!("sources_sha256 = \"{}\"\n", self.sources_sha256));
        text.push_str(&format!("object_sha256 = \"{}\"\n", self.object_sha256));
        text
    }

    /// The tools whose version is not that of `now`, each as `name: then, now`.
    pub(super) fn moved_tools(&self, now: &Self) -> Vec<String> {
        let version = |name: &str| now.tools.iter().find(|(other, _)| other == name);
        let moved = self
            .tools
            .iter()
            .filter_map(|(name, then)| match version(name) {
                Some((_, now)) if now == then => None,
                Some((_, now)) => Some(format!("{name}: was {then}, is {now}")),
                None => Some(format!("{name}: was {then}, is gone")),
            });
        moved.collect()
    }
}

fn sources_sha256() -> Result<String> {
    let mut files = Vec::new();
    for source in SOURCES {
        collect_files(&command::workspace().join(source), &mut files)?;
    }
    files.sort();
    let mut hasher = Sha256::new();
    for file in files {
        let bytes = std::fs::read(&file).with_context(|| format!("read {}", file.display()))?;
        let name = file
            .strip_prefix(command::workspace())
            .expect("sources lie in the workspace");
        // Name and length first, so that no two sets of files read the same.
        hasher.update(format!("{} {}\n", name.display(), bytes.len()));
        hasher.update(bytes);
    }
    Ok(hex(hasher.finalize().as_slice()))
}

fn collect_files(path: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    if path.is_dir() {
        for entry in super::sorted_entries(path)? {
            collect_files(&entry, files)?;
        }
    } else {
        files.push(path.to_owned());
    }
    Ok(())
}

/// The version of a package in the lock file of the kernel side.
fn locked_version(package: &str) -> Result<String> {
    let path = command::workspace().join("phalanx-ebpf/Cargo.lock");
    let text = std::fs::read_to_string(path).context("read phalanx-ebpf/Cargo.lock")?;
    let mut lines = text
        .lines()
        .skip_while(|line| *line != format!("name = \"{package}\""));
    let version = lines
        .nth(1)
        .and_then(|line| line.strip_prefix("version = "));
    Ok(version
        .with_context(|| format!("no {package} in the lock file"))?
        .trim_matches('"')
        .into())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(rustc: &str) -> Record {
        Record {
            tools: vec![
                ("rustc".into(), rustc.into()),
                ("llvm".into(), "22.1.8".into()),
            ],
            sources_sha256: "aa".into(),
            object_sha256: "bb".into(),
        }
    }

    #[test]
    fn a_record_reads_back_as_written() {
        let record = record("rustc 1.96.0 (ac68faa20 2026-05-25)");
        assert_eq!(Record::from_text(&record.to_text()).unwrap(), record);
    }

    #[test]
    fn a_record_without_a_hash_is_refused() {
        let error = Record::from_text("rustc = \"1\"\nobject_sha256 = \"bb\"\n").unwrap_err();
        assert_eq!(error.to_string(), "no sources_sha256");
    }

    #[test]
    fn only_tools_that_moved_are_named() {
        assert!(record("1.96").moved_tools(&record("1.96")).is_empty());
        let moved = record("1.96").moved_tools(&record("1.97"));
        assert_eq!(moved, ["rustc: was 1.96, is 1.97"]);
    }
}
