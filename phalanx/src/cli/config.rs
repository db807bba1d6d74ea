//! `phalanx config`: check a file, show what is in force, print the reference.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Subcommand;

use super::up::UpArguments;
use super::{EXIT_FAILURE, print};
use crate::config::{self, Config, Layers};
use crate::socket::load_names;

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
                print(&format!("{} = {value}  # {origin}\n", setting.key))?;
            }
            Ok(ExitCode::SUCCESS)
        }
        ConfigCommand::Reference => print(&config::reference()).map(|()| ExitCode::SUCCESS),
    }
}

fn check(file: &Path) -> anyhow::Result<ExitCode> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("read configuration {}", file.display()))?;
    let mut layers = Layers::default();
    if let Err(faults) = layers.add_file(file, &text) {
        for fault in faults {
            print(&format!("{fault}\n"))?;
        }
        return Ok(ExitCode::from(EXIT_FAILURE));
    }
    let config = Config::new(&layers)?;
    load_names(config.names_file.as_ref())?;
    print(&format!("{}: all right\n", file.display())).map(|()| ExitCode::SUCCESS)
}
