//! Compiles the protocol of agents and hub (`phalanx/proto`) into Rust that is committed, so that
//! whoever builds the daemon needs no compiler of protocols.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::command;

/// The protocols, and what is made of them.
const PROTOCOLS: [(&str, &str, &str); 2] = [
    (
        "link.proto",
        "phalanx.link.v1.rs",
        "phalanx/proto/generated/link.inc",
    ),
    (
        "store.proto",
        "phalanx.store.v1.rs",
        "phalanx/proto/generated/store.inc",
    ),
];

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Write nothing: tell whether what is committed is current
    #[arg(long)]
    check: bool,
}

/// Compiles, and writes or compares: whether what is committed is current now.
pub(crate) fn run(arguments: &Arguments) -> Result<bool> {
    let mut is_current = true;
    for (path, text) in compile()? {
        if arguments.check {
            let committed = std::fs::read_to_string(&path).unwrap_or_default();
            if committed != text {
                println!("{}: is old; run cargo xtask protocol", path.display());
                is_current = false;
            }
        } else {
            std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
            println!("{}", path.display());
        }
    }
    Ok(is_current)
}

/// The files and what they should hold.
fn compile() -> Result<Vec<(PathBuf, String)>> {
    let root = command::workspace();
    let folder = root.join("phalanx/proto");
    let out = root.join("target/protocol");
    std::fs::create_dir_all(&out).with_context(|| format!("create {}", out.display()))?;
    let names = PROTOCOLS.map(|(name, ..)| name);
    let files = protox::compile(names, [&folder])?;
    tonic_prost_build::configure()
        .bytes(".")
        .build_transport(false)
        .out_dir(&out)
        .compile_fds(files)?;
    let read = |(_, made, committed): (&str, &str, &str)| {
        let made: &Path = &out.join(made);
        let text =
            std::fs::read_to_string(made).with_context(|| format!("read {}", made.display()))?;
        Ok((root.join(committed), text))
    };
    PROTOCOLS.into_iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_committed_is_current() {
        for (path, text) in compile().unwrap() {
            let committed = std::fs::read_to_string(&path).unwrap();
            let path = path.display();
            assert!(committed == text, "{path} is old: run cargo xtask protocol");
        }
    }
}
