//! `phalanx config`: check a file, show what is in force, print the reference.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Subcommand;

use super::EXIT_FAILURE;
use super::up::UpArguments;
use crate::config::{self, Config, Layers};

/// What to do with the configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Checks a file and names the line of every fault.
    Check {
        /// Which file.
        #[arg(default_value = config::FILE_DEFAULT)]
        file: PathBuf,
    },
    /// Shows every setting, its value and where it was set.
    Show {
        /// Flags as they would be given to `phalanx up`.
        #[command(flatten)]
        arguments: Box<UpArguments>,
    },
    /// Prints the reference of all settings in Markdown.
    Reference,
}

pub(super) fn run(command: &ConfigCommand) -> anyhow::Result<ExitCode> {
    match command {
        ConfigCommand::Check { file } => check(file),
        ConfigCommand::Show { arguments } => {
            for (setting, value, origin) in arguments.layers()?.iter() {
                println!("{} = {value}  # {origin}", setting.key);
            }
            Ok(ExitCode::SUCCESS)
        }
        ConfigCommand::Reference => {
            print!("{}", config::reference());
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn check(file: &Path) -> anyhow::Result<ExitCode> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("read configuration {}", file.display()))?;
    let mut layers = Layers::default();
    if let Err(faults) = layers.add_file(file, &text) {
        for fault in faults {
            println!("{fault}");
        }
        return Ok(ExitCode::from(EXIT_FAILURE));
    }
    Config::new(&layers)?;
    println!("{}: all right", file.display());
    Ok(ExitCode::SUCCESS)
}
