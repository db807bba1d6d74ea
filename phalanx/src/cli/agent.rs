//! `phalanx agent`: watch this host as `phalanx up` does, and tell a hub.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};

use super::print;
use super::up::{UpArguments, log};
use crate::agent::{AgentFiles, EnrollOptions, UplinkOptions, enroll};
use crate::config::{self, Config, Layers};
use crate::link::connection::Address;
use crate::link::credential::{Invitation, client_config, read_fingerprint};

pub(super) const AFTER_HELP: &str = "\
Examples:
  phalanx agent enroll --token TEXT          once, with what phalanx hub token printed
  phalanx agent                              watch this host and tell the hub
  phalanx agent --hub https://10.0.0.9:7071  the same, where the hub has moved

Exit codes: 0 done, 1 failed (the error says why and what to do), 2 wrong usage.";

/// Flags of `phalanx agent`; those of `phalanx up` hold as well.
#[derive(Args, Clone, Debug, Default)]
#[command(args_conflicts_with_subcommands = true)]
pub struct AgentArguments {
    /// What to do other than to run it.
    #[command(subcommand)]
    command: Option<AgentCommand>,
    /// Where the hub is [default: where this host was enrolled].
    #[arg(long, value_name = "URL")]
    hub: Option<String>,
    /// Where the agent keeps its certificate and its spool [default: /var/lib/phalanx/agent].
    #[arg(long, value_name = "DIRECTORY")]
    dir: Option<String>,
    #[command(flatten)]
    up: UpArguments,
}

/// What to do with an agent.
#[derive(Subcommand, Clone, Debug)]
enum AgentCommand {
    /// Gets the certificate of this host, with a token that works once.
    Enroll {
        /// What phalanx hub token printed.
        #[arg(
            long,
            value_name = "TEXT",
            env = "PHALANX_TOKEN",
            hide_env_values = true
        )]
        token: String,
        /// Where the hub is [default: as the token says].
        #[arg(long, value_name = "URL")]
        hub: Option<String>,
        /// Fingerprint of the hub's authority [default: as the token says].
        #[arg(long, value_name = "SHA-256")]
        ca_fingerprint: Option<String>,
        /// Where the files go.
        #[arg(
            long,
            value_name = "DIRECTORY",
            default_value = "/var/lib/phalanx/agent",
            env = "PHALANX_AGENT_DIRECTORY"
        )]
        dir: PathBuf,
        /// Replace an enrollment that is there.
        #[arg(long)]
        force: bool,
    },
}

pub(super) fn run(arguments: &AgentArguments) -> anyhow::Result<ExitCode> {
    match &arguments.command {
        Some(AgentCommand::Enroll {
            token,
            hub,
            ca_fingerprint,
            dir,
            force,
        }) => {
            let invitation = invitation(token, hub.as_deref(), ca_fingerprint.as_deref())?;
            let enrolled = enroll(&EnrollOptions {
                url: &invitation.url,
                fingerprint: invitation.fingerprint,
                secret: &invitation.secret,
                directory: dir,
                may_replace: *force,
            })?;
            print(&format!(
                "enrolled at {} as {} ({})\nNext: phalanx agent\n",
                enrolled.hub, enrolled.host, enrolled.agent
            ))?;
        }
        None => run_agent(arguments)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// A whole token says all; a bare secret takes the two flags.
fn invitation(
    token: &str,
    hub: Option<&str>,
    fingerprint: Option<&str>,
) -> anyhow::Result<Invitation> {
    let fingerprint = fingerprint.map(read_fingerprint).transpose()?;
    if let (Some(url), Some(fingerprint)) = (hub, fingerprint)
        && !token.contains('.')
    {
        return Ok(Invitation {
            url: url.to_owned(),
            fingerprint,
            secret: token.to_owned(),
        });
    }
    let mut invitation = Invitation::decode(token)?;
    if let Some(url) = hub {
        url.clone_into(&mut invitation.url);
    }
    if let Some(fingerprint) = fingerprint {
        invitation.fingerprint = fingerprint;
    }
    Ok(invitation)
}

impl AgentArguments {
    fn layers(&self) -> anyhow::Result<Layers> {
        let mut flags = self.up.flags();
        for (key, flag, value) in [
            ("hub", "--hub", &self.hub),
            ("agent_directory", "--dir", &self.dir),
        ] {
            if let Some(value) = value {
                flags.push((key, flag.to_owned(), value.clone()));
            }
        }
        config::read(self.up.config.as_deref(), flags)
    }
}

fn run_agent(arguments: &AgentArguments) -> anyhow::Result<()> {
    let layers = arguments.layers()?;
    let config = Config::new(&layers)?;
    log(&config)?;
    let files = AgentFiles::new(&config.agent_directory);
    let Some(enrolled) = files.read()? else {
        bail!(
            "{}: this host is not enrolled; at the hub: phalanx hub token --host NAME, then here: \
             phalanx agent enroll --token …",
            config.agent_directory.display()
        );
    };
    let url = config.hub.as_deref().unwrap_or(&enrolled.hub);
    let uplink = UplinkOptions {
        agent: enrolled.agent.clone(),
        address: Address::parse(url)?,
        config: client_config(files.tls()).context("prepare TLS with the hub")?,
        spool: files.spool(),
        spool_bytes_max: config.spool_bytes_max,
    };
    crate::daemon::up(layers, || arguments.layers(), Some(uplink))
}
