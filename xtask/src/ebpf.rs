//! Builds the kernel object reproducibly, and proves that the committed one is current.
//!
//! The object is committed so that a user needs only stable Rust. It is built by Debian's packaged
//! compiler, with every path remapped, so that the same sources give the same bytes in any folder.

mod record;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::command;
use crate::package::{self, Need};
use crate::tool::BPF_LINKER;
use record::Record;

/// The packaged compiler: the one of the pinned toolchain has no sources of `core` beside it.
const RUSTC: &str = "/usr/bin/rustc";
const STRIP: &str = "/usr/lib/llvm-22/bin/llvm-strip";
const TARGET: &str = "bpfel-unknown-none";
const OBJECT: &str = "phalanx-ebpf/prebuilt/phalanx.bpf.o";
/// The programs behind the prologue of the benches, and their controls.
const BENCH: &str = "phalanx-ebpf/prebuilt/bench.bpf.o";
const RECORD: &str = "phalanx-ebpf/prebuilt/BUILD.toml";

/// Where the build sees the workspace, wherever it lies: LLVM writes the types that are only
/// pointed at in the order of their addresses in its memory, which the lengths of paths have a part
/// in.
const SITE: &str = "/mnt";
/// In a mount namespace of the build's own: the workspace, then what is to be run in it.
const ENTER_SITE: &str = r#"mount --bind "$1" /mnt && cd /mnt/phalanx-ebpf && shift && exec "$@""#;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Change nothing: prove that a fresh build has the bytes of the committed object
    #[arg(long)]
    check: bool,
    /// Never install Debian packages; a missing one is an error
    #[arg(long)]
    no_install: bool,
}

/// Builds the object into the checkout, or checks the committed one.
pub(crate) fn run(arguments: &Arguments) -> Result<bool> {
    package::install(&[Need::Object], !arguments.no_install)?;
    if arguments.check { check() } else { renew() }
}

/// Checks the committed object, installing what the build needs.
pub(crate) fn check_installing() -> Result<bool> {
    run(&Arguments {
        check: true,
        no_install: false,
    })
}

fn renew() -> Result<bool> {
    let built = build_afresh()?;
    let object = command::workspace().join(OBJECT);
    std::fs::create_dir_all(object.parent().expect("the object lies in a folder"))?;
    std::fs::copy(&built, &object).with_context(|| format!("write {OBJECT}"))?;
    std::fs::copy(built_as(&folder(), BENCH), command::workspace().join(BENCH))
        .with_context(|| format!("write {BENCH}"))?;
    let record = Record::of_now(&object)?;
    std::fs::write(command::workspace().join(RECORD), record.to_text())
        .with_context(|| format!("write {RECORD}"))?;
    println!("wrote {OBJECT} and {RECORD}:\n{}", record.to_text());
    Ok(true)
}

fn check() -> Result<bool> {
    let committed = command::workspace().join(OBJECT);
    let text = std::fs::read_to_string(command::workspace().join(RECORD))
        .with_context(|| format!("read {RECORD}; run cargo xtask ebpf"))?;
    let recorded = Record::from_text(&text).with_context(|| format!("read {RECORD}"))?;
    let now = Record::of_now(&committed)?;
    if recorded.object_sha256 != now.object_sha256 {
        println!("{OBJECT} is not the one that {RECORD} describes; run cargo xtask ebpf");
        return Ok(false);
    }
    if recorded.sources_sha256 != now.sources_sha256 {
        println!("the sources have changed since {OBJECT} was built; run cargo xtask ebpf");
        return Ok(false);
    }
    let built = build_afresh()?;
    let is_identical = std::fs::read(&built)? == std::fs::read(&committed)?
        && std::fs::read(built_as(&folder(), BENCH))?
            == std::fs::read(command::workspace().join(BENCH))?;
    if is_identical {
        println!(
            "a fresh build is byte-identical to {OBJECT} ({})",
            now.object_sha256
        );
        return Ok(true);
    }
    let moved = recorded.moved_tools(&now);
    if moved.is_empty() {
        println!(
            "a fresh build differs from {OBJECT}, with the same tools: {}",
            built.display()
        );
        return Ok(false);
    }
    println!(
        "the tools have moved since {OBJECT} was built: {}",
        moved.join(", ")
    );
    println!("its sources are unchanged; running the program ring on both objects instead");
    let is_green = crate::test::is_program_ring_green()?;
    let kept = std::fs::read(&committed)?;
    std::fs::copy(&built, &committed).context("put the fresh object in place")?;
    let fresh = crate::test::is_program_ring_green();
    std::fs::write(&committed, kept).context("put the committed object back")?;
    let is_fresh_green = fresh?;
    println!(
        "program ring: committed object {}, fresh object {}",
        verdict(is_green),
        verdict(is_fresh_green)
    );
    Ok(is_green && is_fresh_green)
}

fn verdict(is_green: bool) -> &'static str {
    if is_green { "passed" } else { "FAILED" }
}

/// Where the object is built: apart from the workspace's own results, which another compiler made.
fn folder() -> PathBuf {
    command::target().join("ebpf")
}

/// Builds from nothing: no earlier build's results take part in the object, or in the proof.
fn build_afresh() -> Result<PathBuf> {
    if folder().exists() {
        std::fs::remove_dir_all(folder()).context("remove the last build of the object")?;
    }
    build(&folder())
}

/// Builds the object in a folder and gives its path.
fn build(folder: &Path) -> Result<PathBuf> {
    let manifest = command::workspace().join("phalanx-ebpf/Cargo.toml");
    if !manifest.is_file() {
        bail!("{} is missing", manifest.display());
    }
    let linker = BPF_LINKER.path()?;
    let seen = |path: &Path| match path.strip_prefix(command::workspace()) {
        Ok(inside) => Path::new(SITE).join(inside),
        Err(_) => path.to_owned(),
    };
    // Started in its own folder: the toolchain file of the workspace still names the cargo.
    let mut cargo = command::program("unshare", ["--mount", "setarch", "--addr-no-randomize"]);
    cargo.args(["sh", "-c", ENTER_SITE, "sh"]);
    cargo.arg(command::workspace()).arg("cargo");
    cargo.args([
        "build",
        "--release",
        "--locked",
        "--bins",
        "-Z",
        "build-std=core",
    ]);
    cargo
        .args(["--target", TARGET])
        .arg("--target-dir")
        .arg(seen(folder));
    cargo.env("RUSTC", RUSTC).env("RUSTC_BOOTSTRAP", "1");
    cargo.env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", linker);
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags()?.join("\u{1f}"));
    cargo
        .env("RUSTC_WRAPPER", seen(&write_wrapper(folder)?))
        .env_remove("RUSTFLAGS");
    command::run(&mut cargo).context("build the kernel object")?;
    for (program, object) in [("phalanx-bench", BENCH), ("phalanx-ebpf", OBJECT)] {
        let linked = folder.join(TARGET).join("release").join(program);
        // No loader reads DWARF; BTF stays.
        let mut strip = command::program(STRIP, ["--strip-debug", "-o"]);
        command::run(strip.arg(built_as(folder, object)).arg(linked))?;
    }
    Ok(built_as(folder, OBJECT))
}

/// Where [`build`] leaves what is committed as `object`.
fn built_as(folder: &Path, object: &str) -> PathBuf {
    folder.join(Path::new(object).file_name().expect("an object has a name"))
}

/// Writes a stand-in for the compiler that names our crates' symbols by the crates alone: cargo
/// would put a hash of the folder of `phalanx-common` into them.
fn write_wrapper(folder: &Path) -> Result<PathBuf> {
    std::fs::create_dir_all(folder)?;
    let path = folder.join("rustc-wrapper");
    std::fs::write(&path, include_str!("ebpf/rustc-wrapper.sh")).context("write the wrapper")?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

/// The flags of the compiler: the instruction set of Linux 5.12, which has atomic operations that
/// give a value back, type information for the maps, copies as loads and stores (as the linker
/// would have them, `memset` and `memmove` are loops over bytes), and no path of this machine.
fn flags() -> Result<Vec<String>> {
    let mut flags: Vec<String> = [
        "-Ctarget-cpu=v3",
        "-Cdebuginfo=2",
        "-Clink-arg=--btf",
        "-Clink-arg=--disable-expand-memcpy-in-order",
    ]
    .iter()
    .map(|flag| (*flag).to_owned())
    .collect();
    let mut remap = |from: &Path, to: &str| {
        flags.push(format!("--remap-path-prefix={}={to}", from.display()));
    };
    // The last prefix that matches wins: from the general to the particular.
    let home = match std::env::var_os("CARGO_HOME") {
        Some(set) => PathBuf::from(set),
        None => PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?).join(".cargo"),
    };
    remap(&home, "/cargo");
    for registry in sorted_entries(&home.join("registry/src"))? {
        remap(&registry, "/cargo");
    }
    remap(Path::new(SITE), "/phalanx");
    let sysroot = command::read(Command::new(RUSTC).args(["--print", "sysroot"]))?;
    let library = Path::new(sysroot.trim()).join("lib/rustlib/src/rust");
    remap(&library, "/rust");
    let real = library
        .canonicalize()
        .with_context(|| format!("find {}", library.display()))?;
    remap(&real, "/rust");
    Ok(flags)
}

fn sorted_entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    if folder.is_dir() {
        for entry in std::fs::read_dir(folder)? {
            paths.push(entry?.path());
        }
    }
    paths.sort();
    Ok(paths)
}
