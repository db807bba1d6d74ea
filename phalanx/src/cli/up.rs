//! `phalanx up`: its flags, and what they set.

use std::path::PathBuf;

use clap::Args;
use tracing_subscriber::EnvFilter;

use crate::config::{self, Config, Flags};

/// Flags of `phalanx up`; what they leave open comes from the environment and the file.
#[derive(Args, Clone, Debug, Default)]
pub struct UpArguments {
    /// Configuration file [default: /etc/phalanx/phalanx.toml where it is there].
    #[arg(long, value_name = "FILE", env = "PHALANX_CONFIG")]
    pub config: Option<PathBuf>,
    /// Interface to watch, or a pattern such as 'veth*'; repeats [default: those with a default
    /// route].
    #[arg(
        short,
        long = "interface",
        value_name = "NAME|PATTERN",
        conflicts_with = "all"
    )]
    interface: Vec<String>,
    /// Watch all interfaces.
    #[arg(long)]
    all: bool,
    /// Watch a further network namespace; repeats.
    #[arg(long, value_name = "NAME|PATH|PID")]
    netns: Vec<String>,
    /// Where packets in are seen [default: auto].
    #[arg(long, value_name = "auto|xdp|xdp-generic|tc")]
    hook: Option<String>,
    /// Where metrics and API are served [default: 127.0.0.1:7070].
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
    /// Flows that the kernel's table holds [default: 131072].
    #[arg(long, value_name = "COUNT")]
    flow_count_max: Option<String>,
    /// File that names addresses.
    #[arg(long, value_name = "FILE")]
    names_file: Option<String>,
    /// Ask the resolver for the names of addresses.
    #[arg(long)]
    reverse_dns: bool,
    /// What is logged: error, warn, info, debug, trace [default: info].
    #[arg(long, value_name = "LEVEL")]
    log: Option<String>,
    /// Any other setting of the configuration, as KEY=VALUE; repeats.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = parse_pair)]
    set: Vec<(&'static str, String)>,
}

impl UpArguments {
    pub(super) fn flags(&self) -> Flags {
        let mut flags = Flags::new();
        let mut put = |key, flag: &str, value: String| flags.push((key, flag.to_owned(), value));
        for (key, value) in &self.set {
            put(key, "--set", value.clone());
        }
        if !self.interface.is_empty() {
            put("interfaces", "--interface", self.interface.join(","));
            put("all_interfaces", "--interface", "false".to_owned());
        }
        if self.all {
            put("all_interfaces", "--all", "true".to_owned());
        }
        if !self.netns.is_empty() {
            put("namespaces", "--netns", self.netns.join(","));
        }
        if self.reverse_dns {
            put("reverse_dns", "--reverse-dns", "true".to_owned());
        }
        for (key, flag, value) in [
            ("hook", "--hook", &self.hook),
            ("listen", "--listen", &self.listen),
            ("flow_count_max", "--flow-count-max", &self.flow_count_max),
            ("names_file", "--names-file", &self.names_file),
            ("log", "--log", &self.log),
        ] {
            if let Some(value) = value {
                put(key, flag, value.clone());
            }
        }
        flags
    }

    /// All layers of the configuration.
    ///
    /// # Errors
    /// See [`config::read`].
    pub fn layers(&self) -> anyhow::Result<config::Layers> {
        config::read(self.config.as_deref(), self.flags())
    }
}

pub(super) fn parse_pair(text: &str) -> Result<(&'static str, String), String> {
    let (key, value) = text.split_once('=').ok_or("must be KEY=VALUE")?;
    let setting = config::SETTINGS.iter().find(|setting| setting.key == key);
    let setting = setting.ok_or_else(|| match config::nearest(key) {
        Some(near) => format!("unknown key {key:?}; did you mean {near:?}?"),
        None => format!("unknown key {key:?}; phalanx config show lists all"),
    })?;
    Ok((setting.key, value.to_owned()))
}

/// Runs the daemon in the foreground.
pub(super) fn run(arguments: &UpArguments) -> anyhow::Result<()> {
    let layers = arguments.layers()?;
    log(&Config::new(&layers)?)?;
    crate::daemon::up(layers, || arguments.layers(), None)
}

pub(super) fn log(config: &Config) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&config.log)
        .map_err(|error| anyhow::anyhow!("log: {error}; such as info or info,phalanx=debug"))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    if config.has_json_log {
        builder.json().init();
    } else {
        builder
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .init();
    }
    Ok(())
}
