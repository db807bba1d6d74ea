//! Developer verbs of Phalanx, run as `cargo xtask VERB`.
//!
//! Every command that a verb runs is printed first, so that it can be repeated by hand.

mod bench;
mod ci;
mod command;
mod deb;
mod ebpf;
mod kernels;
mod package;
mod protocol;
mod table;
mod test;
mod tidy;
mod tool;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Developer verbs of Phalanx.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Build the kernel object and its record of tools, or prove that the committed one is current
    Ebpf(ebpf::Arguments),
    /// Run the test rings, one table at the end
    Test(test::Arguments),
    /// Run everything that CI runs
    Ci(ci::Arguments),
    /// Check what no linter checks: sizes, names, words
    Tidy,
    /// Build the Debian package, or prove that it installs, starts and removes cleanly
    Deb(deb::Arguments),
    /// Compile the protocol of agents and hub, or prove that what is committed is current
    Protocol(protocol::Arguments),
    /// Run the benches and print their tables
    Bench(bench::Arguments),
}

fn main() -> ExitCode {
    match run(Arguments::parse().verb) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs one verb: whether what it checked holds.
fn run(verb: Verb) -> Result<bool> {
    match verb {
        Verb::Ebpf(arguments) => ebpf::run(&arguments),
        Verb::Test(arguments) => test::run(&arguments),
        Verb::Ci(arguments) => ci::run(&arguments),
        Verb::Tidy => tidy::run(),
        Verb::Deb(arguments) => deb::run(&arguments),
        Verb::Protocol(arguments) => protocol::run(&arguments),
        Verb::Bench(arguments) => bench::run(&arguments),
    }
}
