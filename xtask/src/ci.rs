//! Everything that CI runs, in the order of what fails soonest, with the time of each step.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::command::{self, cargo};
use crate::{deb, ebpf, table, test, tidy, tool};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Run the checks alone, without the test rings
    #[arg(long)]
    no_test: bool,
}

/// One check, and how to run it: whether what it checks holds.
type Step = (&'static str, fn() -> Result<bool>);

const STEPS: &[Step] = &[
    ("format", check_format),
    ("tidy", tidy::run),
    ("clippy", check_lints),
    ("documentation", check_documentation),
    ("licences", check_dependencies),
    ("kernel object", ebpf::check_installing),
    ("Debian package", deb::check_quickly),
];

/// Runs every step even after one failed, so that one run tells all.
pub(crate) fn run(arguments: &Arguments) -> Result<bool> {
    let mut rows = Vec::new();
    let mut is_green = true;
    for (name, step) in STEPS {
        println!("\n== {name} ==");
        let start = Instant::now();
        let holds = step().unwrap_or_else(|error| {
            println!("error: {error:#}");
            false
        });
        is_green &= holds;
        rows.push(row(name, holds, start.elapsed()));
    }
    if arguments.no_test {
        println!("\n{}", table::format(&["step", "result", "seconds"], &rows));
        return Ok(is_green);
    }
    let start = Instant::now();
    let summary = test::run_all().context("run the test rings")?;
    rows.push(row("test", summary.is_green(), start.elapsed()));
    println!("\n{}", table::format(&["step", "result", "seconds"], &rows));
    // Last, since its closing line is what CI reads.
    Ok(summary.finish() && is_green)
}

fn row(name: &str, holds: bool, elapsed: Duration) -> Vec<String> {
    let result = if holds { "ok" } else { "FAILED" };
    vec![
        name.to_owned(),
        result.to_owned(),
        format!("{:.1}", elapsed.as_secs_f64()),
    ]
}

fn check_format() -> Result<bool> {
    command::run(&mut cargo(["fmt", "--all", "--check"]))?;
    if command::workspace()
        .join("phalanx-ebpf/Cargo.toml")
        .is_file()
    {
        let kernel_side = [
            "fmt",
            "--manifest-path",
            "phalanx-ebpf/Cargo.toml",
            "--check",
        ];
        command::run(&mut cargo(kernel_side))?;
    }
    Ok(true)
}

fn check_lints() -> Result<bool> {
    let clippy = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--locked",
        "--",
        "-Dwarnings",
    ];
    command::run(&mut cargo(clippy)).map(|()| true)
}

fn check_documentation() -> Result<bool> {
    let doc = [
        "doc",
        "--workspace",
        "--no-deps",
        "--document-private-items",
        "--locked",
    ];
    // Private items are documented too: links to them lead somewhere.
    let flags = "-Dwarnings -Arustdoc::private_intra_doc_links";
    command::run(cargo(doc).env("RUSTDOCFLAGS", flags)).map(|()| true)
}

/// Licences, sources and bans; advisories are left out, since their list lies in a repository
/// that a closed network does not reach.
fn check_dependencies() -> Result<bool> {
    let deny = tool::CARGO_DENY.path()?;
    for manifest in ["Cargo.toml", "phalanx-ebpf/Cargo.toml"] {
        if command::workspace().join(manifest).is_file() {
            let arguments = ["--locked", "--all-features", "--config", "deny.toml"];
            let mut check = command::program(&deny, arguments);
            check.args([
                "--manifest-path",
                manifest,
                "check",
                "--hide-inclusion-graph",
            ]);
            command::run(check.args(["bans", "licenses", "sources"]))?;
        }
    }
    Ok(true)
}
