//! The command line: what was typed, and which command answers it.

mod agent;
mod analyze;
mod capture;
mod cleanup;
mod client;
mod config;
mod doctor;
mod flows;
mod hub;
mod packets;
mod redact;
mod selection;
mod status;
mod up;

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use clap::{CommandFactory, Parser, Subcommand, ValueEnum};

use crate::plain::plain;

/// Exit code of a command that failed.
pub const EXIT_FAILURE: u8 = 1;

/// Exit code where the command line is wrong.
const EXIT_USAGE: u8 = 2;

/// How a command prints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// For machines.
    Json,
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// Tells whether it is the network, where, why, and what to do.
#[derive(Debug, Parser)]
#[command(
    name = "phalanx",
    version,
    arg_required_else_help = true,
    after_help = "Exit codes: 0 done, 1 failed (the error says why and what to do), 2 wrong usage."
)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Watches this host and serves metrics and API, in the foreground.
    Up(Box<up::UpArguments>),
    /// Watches this host and tells a hub, in the foreground.
    #[command(after_help = agent::AFTER_HELP)]
    Agent(Box<agent::AgentArguments>),
    /// Takes what agents tell and serves it as one, in the foreground.
    #[command(after_help = hub::AFTER_HELP)]
    Hub(Box<hub::HubArguments>),
    /// Tells what this host can do, what is missing and what to do about it.
    Doctor(Box<doctor::DoctorArguments>),
    /// Shows how the running daemon does and what was lost.
    Status(status::StatusArguments),
    /// Shows the flows that the running daemon knows.
    Flows(Box<flows::FlowsArguments>),
    /// Tells what happened in capture files: each conversation, worst first.
    #[command(after_help = analyze::AFTER_HELP)]
    Analyze(Box<analyze::AnalyzeArguments>),
    /// Tells what each packet of a capture is, one line a frame.
    #[command(after_help = packets::AFTER_HELP)]
    Packets(Box<packets::PacketsArguments>),
    /// Makes captures that can be handed on: without payload, with stand-ins for addresses.
    #[command(after_help = redact::AFTER_HELP)]
    Redact(Box<redact::RedactArguments>),
    /// Captures packets of the running daemon as pcapng.
    #[command(
        after_help = "Exit codes: 0 the capture is whole, 1 it failed, 2 wrong usage, \
        3 something is missing, as said."
    )]
    Capture(Box<capture::CaptureArguments>),
    /// Checks and shows the configuration.
    Config {
        /// What to do with it.
        #[command(subcommand)]
        command: config::ConfigCommand,
    },
    /// Removes what a killed daemon left behind (only where the kernel has no TCX).
    Cleanup,
    /// Prints the completions of a shell.
    Completions {
        /// For which shell.
        shell: clap_complete::Shell,
    },
    /// Prints the manual page.
    #[command(hide = true)]
    Man,
}

/// The reader of the standard output has seen enough (`| head`): no failure.
#[derive(Debug, thiserror::Error)]
#[error("nobody reads the standard output any more")]
struct ReaderGone;

/// The command line is wrong in a way that its parser does not know.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct WrongUsage(String);

/// Says what failed. It may name what others have named.
fn complain(error: &anyhow::Error) {
    let text = format!("{error:#}");
    let lines: Vec<String> = text.lines().map(plain).collect();
    say(&format!("phalanx: {}", lines.join("\n")));
}

/// Prints a line to the standard error, which may be full or gone: the work goes on without it.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Prints to the standard output.
fn print(text: &str) -> anyhow::Result<()> {
    let mut output = std::io::stdout();
    let written = output.write_all(text.as_bytes());
    match written.and_then(|()| output.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Err(ReaderGone.into()),
        written => written.context("write to the standard output"),
    }
}

/// Runs the command that was typed and gives the exit code of the process.
pub fn run() -> ExitCode {
    match execute(Arguments::parse()) {
        Ok(code) => code,
        Err(error) if error.is::<ReaderGone>() => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            let is_usage = error.is::<WrongUsage>();
            ExitCode::from(if is_usage { EXIT_USAGE } else { EXIT_FAILURE })
        }
    }
}

fn execute(arguments: Arguments) -> anyhow::Result<ExitCode> {
    match arguments.command {
        Command::Up(arguments) => up::run(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Agent(arguments) => agent::run(&arguments),
        Command::Hub(arguments) => hub::run(&arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Status(arguments) => status::run(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Flows(arguments) => flows::run(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Analyze(arguments) => analyze::run(&arguments),
        Command::Packets(arguments) => packets::run(&arguments),
        Command::Redact(arguments) => redact::run(&arguments),
        Command::Capture(arguments) => capture::run(&arguments),
        Command::Config { command } => config::run(&command),
        Command::Cleanup => cleanup::run().map(|()| ExitCode::SUCCESS),
        Command::Completions { shell } => {
            let mut command = Arguments::command();
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut command, "phalanx", &mut script);
            print(&String::from_utf8_lossy(&script)).map(|()| ExitCode::SUCCESS)
        }
        Command::Man => {
            let mut page = Vec::new();
            clap_mangen::Man::new(Arguments::command()).render(&mut page)?;
            print(&String::from_utf8_lossy(&page)).map(|()| ExitCode::SUCCESS)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_may_stand_before_or_after_the_flags() {
        let filter = |words: &[&str]| {
            let arguments = Arguments::try_parse_from([&["phalanx", "capture"], words].concat());
            match arguments.map(|it| it.command) {
                Ok(Command::Capture(arguments)) => arguments.expression(),
                other => panic!("{other:?}"),
            }
        };
        let whole = "tcp port 443 and host 10.0.0.2";
        assert_eq!(filter(&[whole, "-w", "x.pcapng"]), whole);
        let words: Vec<&str> = whole.split(' ').collect();
        assert_eq!(filter(&[&["-w", "-", "-c", "3"], &*words].concat()), whole);
        assert_eq!(
            filter(&["-w", "-", "len", "-", "4", ">", "-1"]),
            "len - 4 > -1"
        );
        assert_eq!(filter(&["-w", "-"]), "");
    }
}
