//! `phalanx hub`: run one, make one, let agents in and shut them out.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Subcommand};

use super::up::{log, parse_pair};
use super::{Format, print};
use crate::config::{self, Config, Flags};
use crate::hub::{Authority, Directory, HubOptions, Registry, init, make_token};
use crate::link::connection::PORT_DEFAULT;
use crate::link::credential::{Invitation, hexadecimal};
use crate::plain::plain;

pub(super) const AFTER_HELP: &str = "\
Examples:
  phalanx hub init --name hub.example        make a hub that agents reach by this name
  phalanx hub                                run it
  phalanx hub token --host web-1             let one host in: prints what to run there
  phalanx hub agents                         list the agents
  phalanx hub remove web-1                   shut one out

Exit codes: 0 done, 1 failed (the error says why and what to do), 2 wrong usage.";

/// Flags of `phalanx hub`; what they leave open comes from the environment and the file.
#[derive(Args, Clone, Debug, Default)]
#[command(args_conflicts_with_subcommands = true)]
pub struct HubArguments {
    /// What to do other than to run it.
    #[command(subcommand)]
    command: Option<HubCommand>,
    #[command(flatten)]
    run: RunArguments,
}

#[derive(Args, Clone, Debug, Default)]
struct RunArguments {
    /// Configuration file [default: /etc/phalanx/phalanx.toml where it is there].
    #[arg(long, value_name = "FILE", env = "PHALANX_CONFIG")]
    config: Option<PathBuf>,
    /// Where the hub's files are [default: /var/lib/phalanx/hub].
    #[arg(long, value_name = "DIRECTORY")]
    dir: Option<String>,
    /// Where agents come, always with TLS [default: 0.0.0.0:7071].
    #[arg(long, value_name = "ADDRESS:PORT")]
    agents: Option<String>,
    /// Where metrics and API are served [default: 127.0.0.1:7070].
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
    /// What is logged: error, warn, info, debug, trace [default: info].
    #[arg(long, value_name = "LEVEL")]
    log: Option<String>,
    /// Any other setting of the configuration, as KEY=VALUE; repeats.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = parse_pair)]
    set: Vec<(&'static str, String)>,
}

/// What to do with a hub.
#[derive(Subcommand, Clone, Debug)]
enum HubCommand {
    /// Makes a hub: its authority and its certificate.
    Init {
        #[command(flatten)]
        place: Place,
        /// A name or an address that agents reach it by; repeats [default: the host's name].
        #[arg(long, value_name = "NAME|ADDRESS")]
        name: Vec<String>,
    },
    /// Makes a token that lets one host in, once.
    Token {
        #[command(flatten)]
        place: Place,
        /// What the host is called.
        #[arg(long, value_name = "NAME")]
        host: String,
        /// Where the host reaches the hub [default: https://NAME:7071, by its first name].
        #[arg(long, value_name = "URL")]
        url: Option<String>,
        /// How long it works, in minutes.
        #[arg(long, value_name = "MINUTES", default_value_t = 60,
            value_parser = clap::value_parser!(u64).range(1..=43_200))]
        minutes: u64,
        /// How it is printed.
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Lists the agents that were let in.
    Agents {
        #[command(flatten)]
        place: Place,
        /// How they are printed.
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Shuts an agent out: its session ends within seconds, and its certificate lets it in no more.
    Remove {
        #[command(flatten)]
        place: Place,
        /// Its name or its id.
        agent: String,
    },
}

#[derive(Args, Clone, Debug)]
struct Place {
    /// Where the hub's files are.
    #[arg(
        long,
        value_name = "DIRECTORY",
        default_value = "/var/lib/phalanx/hub",
        env = "PHALANX_HUB_DIRECTORY"
    )]
    dir: PathBuf,
}

pub(super) fn run(arguments: &HubArguments) -> anyhow::Result<ExitCode> {
    match &arguments.command {
        None => run_hub(&arguments.run)?,
        Some(HubCommand::Init { place, name }) => make(place, name)?,
        Some(HubCommand::Token {
            place,
            host,
            url,
            minutes,
            format,
        }) => {
            let directory = Directory::new(&place.dir);
            let valid_for = Duration::from_secs(minutes * 60);
            invite(&directory, host, url.as_deref(), valid_for, *format)?;
        }
        Some(HubCommand::Agents { place, format }) => list(place, *format)?,
        Some(HubCommand::Remove { place, agent }) => {
            let removed = Registry::new(&Directory::new(&place.dir)).remove(agent)?;
            print(&format!("{} ({}): removed\n", removed.name, removed.agent))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn run_hub(arguments: &RunArguments) -> anyhow::Result<()> {
    let mut flags = Flags::new();
    for (key, value) in &arguments.set {
        flags.push((key, "--set".to_owned(), value.clone()));
    }
    for (key, flag, value) in [
        ("hub_directory", "--dir", &arguments.dir),
        ("hub_listen", "--agents", &arguments.agents),
        ("listen", "--listen", &arguments.listen),
        ("log", "--log", &arguments.log),
    ] {
        if let Some(value) = value {
            flags.push((key, flag.to_owned(), value.clone()));
        }
    }
    let config = Config::new(&config::read(arguments.config.as_deref(), flags)?)?;
    log(&config)?;
    let options = HubOptions {
        directory: config.hub_directory.clone(),
        agents: config.hub_listen,
        log_bytes_max: config.hub_log_bytes_max,
        log_age_max: config.hub_log_age_max,
    };
    crate::hub::hub(&config, &options)
}

fn make(place: &Place, names: &[String]) -> anyhow::Result<()> {
    let names = if names.is_empty() {
        let host = nix::unistd::gethostname().context("read the host's name; see --name")?;
        vec![host.to_string_lossy().into_owned()]
    } else {
        names.to_vec()
    };
    let authority = init(&Directory::new(&place.dir), &names)?;
    print(&format!(
        "A hub was made in {}.\nAgents reach it as: {}\nFingerprint of its authority: {}\n\
         Next: phalanx hub --dir {0}, and phalanx hub token --dir {0} --host NAME for each host\n",
        place.dir.display(),
        authority.names.join(", "),
        hexadecimal(&authority.fingerprint)
    ))
}

fn invite(
    directory: &Directory,
    host: &str,
    url: Option<&str>,
    valid_for: Duration,
    format: Format,
) -> anyhow::Result<()> {
    let authority = Authority::open(directory)?;
    let url = match (url, authority.names.first()) {
        (Some(url), _) => url.to_owned(),
        (None, Some(name)) if name.contains(':') => format!("https://[{name}]:{PORT_DEFAULT}"),
        (None, Some(name)) => format!("https://{name}:{PORT_DEFAULT}"),
        (None, None) => anyhow::bail!("the hub has no name: say where it is with --url"),
    };
    crate::link::connection::Address::parse(&url)?;
    let secret = make_token(directory, host, valid_for)?;
    let fingerprint = authority.fingerprint;
    let token = Invitation {
        url: url.clone(),
        fingerprint,
        secret: secret.clone(),
    };
    let token = token.encode();
    if format == Format::Json {
        let value = serde_json::json!({
            "token": token, "host": host, "hub": url, "secret": secret,
            "fingerprint": hexadecimal(&fingerprint), "minutes": valid_for.as_secs() / 60,
        });
        return print(&format!("{value}\n"));
    }
    print(&format!(
        "On {host}, within {} minutes, once:\n\n  phalanx agent enroll --token {token}\n\n\
         It holds a secret: whoever has it can come in as {host}.\n",
        valid_for.as_secs() / 60
    ))
}

fn list(place: &Place, format: Format) -> anyhow::Result<()> {
    let agents = Registry::new(&Directory::new(&place.dir)).list()?;
    if format == Format::Json {
        return print(&format!("{}\n", serde_json::to_string(&agents)?));
    }
    if agents.is_empty() {
        return print("no agents; phalanx hub token --host NAME lets one in\n");
    }
    for agent in agents {
        let enrolled = jiff::Timestamp::from_second(agent.enrolled_s.cast_signed());
        let enrolled = enrolled.map_or_else(|_| String::new(), |it| it.to_string());
        let name = plain(&agent.name);
        print(&format!("{name}  {}  enrolled {enrolled}\n", agent.agent))?;
    }
    Ok(())
}
