//! `phalanx doctor`: prints what the doctor found.

use std::process::ExitCode;

use clap::Args;

use super::up::UpArguments;
use super::{EXIT_FAILURE, Format, print};
use crate::config::Config;
use crate::doctor::{Outcome, examine};
use crate::plain::plain;

/// Flags of `phalanx doctor`: those of `phalanx up`, and how to print.
#[derive(Args, Debug)]
pub struct DoctorArguments {
    #[command(flatten)]
    up: UpArguments,
    /// How to print.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub(super) fn run(arguments: &DoctorArguments) -> anyhow::Result<ExitCode> {
    let checks = examine(&Config::new(&arguments.up.layers()?)?)?;
    match arguments.format {
        Format::Json => print(&format!("{}\n", serde_json::to_string_pretty(&checks)?))?,
        Format::Text => {
            for check in &checks {
                let mark = match check.outcome {
                    Outcome::Ok => "ok  ",
                    Outcome::Warn => "warn",
                    Outcome::Fail => "FAIL",
                };
                print(&format!(
                    "{mark}  {}: {}\n",
                    plain(&check.name),
                    plain(&check.found)
                ))?;
                if !check.remedy.is_empty() {
                    print(&format!("      -> {}\n", check.remedy))?;
                }
            }
        }
    }
    let has_failed = checks.iter().any(|check| check.outcome == Outcome::Fail);
    Ok(if has_failed {
        ExitCode::from(EXIT_FAILURE)
    } else {
        ExitCode::SUCCESS
    })
}
