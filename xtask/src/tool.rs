//! Cargo tools that the verbs need, built from crates.io once per version into a cache folder.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::command;

/// A tool of crates.io, pinned.
pub(crate) struct Tool {
    /// Name of the crate and of its program.
    pub(crate) name: &'static str,
    /// Exact version.
    pub(crate) version: &'static str,
    /// Flags of `cargo install`, features above all.
    flags: &'static [&'static str],
    /// Environment of the build.
    environment: &'static [(&'static str, &'static str)],
}

/// A quarter less to build, and quick enough to run.
const UNOPTIMISED: &[&str] = &["--debug"];

/// Links the kernel object; built against the LLVM of the packaged compiler.
pub(crate) const BPF_LINKER: Tool = Tool {
    name: "bpf-linker",
    version: "0.13.0",
    flags: &["--no-default-features", "--features", "llvm-22"],
    environment: &[
        ("LLVM_PREFIX", "/usr/lib/llvm-22"),
        ("LLVM_SYS_221_PREFIX", "/usr/lib/llvm-22"),
    ],
};

/// Checks licences, sources and banned crates.
pub(crate) const CARGO_DENY: Tool = Tool {
    name: "cargo-deny",
    version: "0.20.2",
    flags: UNOPTIMISED,
    environment: &[],
};

/// Builds the Debian package.
pub(crate) const CARGO_DEB: Tool = Tool {
    name: "cargo-deb",
    version: "3.8.0",
    flags: UNOPTIMISED,
    environment: &[],
};

impl Tool {
    /// The path of the program, which is built first when this version is not in the cache.
    pub(crate) fn path(&self) -> Result<PathBuf> {
        let root = cache()?.join(format!("{}-{}", self.name, self.version));
        let program = root.join("bin").join(self.name);
        if program.is_file() {
            return Ok(program);
        }
        let mut install =
            command::cargo(["install", "--quiet", "--locked", self.name, "--version"]);
        install
            .args([self.version, "--root"])
            .arg(&root)
            .args(self.flags);
        install.envs(self.environment.iter().copied());
        // Its build is no part of the workspace's: one that stops half-way leaves nothing there.
        install.env("CARGO_TARGET_DIR", root.join("build"));
        command::run(&mut install)
            .with_context(|| format!("build {} {}", self.name, self.version))?;
        std::fs::remove_dir_all(root.join("build")).context("remove the tool's build folder")?;
        Ok(program)
    }
}

/// The folder of the tools, shared by all checkouts of this user.
pub(crate) fn cache() -> Result<PathBuf> {
    let base = match std::env::var_os("XDG_CACHE_HOME") {
        Some(set) => PathBuf::from(set),
        None => PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?).join(".cache"),
    };
    Ok(base.join("phalanx"))
}
