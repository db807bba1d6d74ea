//! The configuration: what can be set, where it was set, what is in force.
//!
//! Layers, the later ones win: defaults, the file, the environment (`PHALANX_…`), flags.

mod layer;
mod setting;

use std::ffi::OsString;
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use tracing_subscriber::EnvFilter;

pub use layer::{Fault, Layers, Origin};
pub use setting::{Kind, SETTINGS, Setting, Value, nearest};

use crate::agent::HubCaptures;
use crate::auth::{Role, Token, check_exposure};
use crate::interface::{Namespace, Pattern, Selection};
use crate::kernel::{HookChoice, KernelLogLevel, TcAttachment};
use crate::lookback::{LookbackFeed, LookbackOptions};

/// The file that is read where none is named, if it is there.
pub const FILE_DEFAULT: &str = "/etc/phalanx/phalanx.toml";

/// What the flags set: key, flag as typed, value.
pub type Flags = Vec<(&'static str, String, String)>;

/// The settings, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Interfaces of the own namespace.
    pub selection: Selection,
    /// Interfaces of further namespaces.
    pub namespace_selection: Selection,
    /// Further namespaces.
    pub namespaces: Vec<Namespace>,
    /// Where packets in are seen.
    pub hook: HookChoice,
    /// How TC programs are attached.
    pub tc_attachment: TcAttachment,
    /// Flows of the own namespace's table.
    pub flow_count_max: u32,
    /// Flows of each further namespace's table.
    pub namespace_flow_count_max: u32,
    /// Longest time between two updates of a flow.
    pub update_interval: Duration,
    /// How long a flow that turned sick stays promoted; zero: none is promoted.
    pub promotion_hold: Duration,
    /// Flows that each instance of the programs promotes in a second at most.
    pub promotion_count_max: u32,
    /// Silence after which an established TCP flow is closed.
    pub tcp_idle_timeout: Duration,
    /// Where metrics and API are served.
    pub listen: SocketAddr,
    /// Who may use the API.
    pub tokens: Vec<Token>,
    /// What everybody on this machine may do where there are no tokens.
    pub local_role: Role,
    /// Certificate chain of the API.
    pub tls_certificate_file: Option<PathBuf>,
    /// Private key of the API.
    pub tls_key_file: Option<PathBuf>,
    /// Names of addresses.
    pub names_file: Option<PathBuf>,
    /// Whether owners of sockets are found out.
    pub has_socket_owners: bool,
    /// Whether connection tracking is asked.
    pub has_connection_tracking: bool,
    /// Whether the resolver is asked.
    pub has_reverse_dns: bool,
    /// Where finished captures are kept.
    pub capture_directory: PathBuf,
    /// Bytes that kept captures may take.
    pub capture_bytes_max: u64,
    /// Age at which a kept capture is deleted.
    pub capture_age_max: Duration,
    /// What is kept of recent packets.
    pub lookback: LookbackOptions,
    /// Where the hub is that an agent tells; where it is not set, the one it was enrolled at.
    pub hub: Option<String>,
    /// Where an agent keeps its certificate and its spool.
    pub agent_directory: PathBuf,
    /// Bytes that an agent's spool may take.
    pub spool_bytes_max: u64,
    /// What an agent lets its hub record.
    pub hub_captures: HubCaptures,
    /// Where a hub keeps its certificates, its agents and its log.
    pub hub_directory: PathBuf,
    /// Where a hub listens for agents.
    pub hub_listen: SocketAddr,
    /// Flows of all agents that a hub keeps.
    pub hub_flow_count_max: u32,
    /// Bytes that a hub's log may take.
    pub hub_log_bytes_max: u64,
    /// Age at which a hub's log forgets.
    pub hub_log_age_max: Duration,
    /// What the kernel programs log.
    pub kernel_log: KernelLogLevel,
    /// What is logged.
    pub log: String,
    /// Whether log lines are JSON.
    pub has_json_log: bool,
}

/// Reads all layers. Where no file is named, the default one may be absent.
///
/// # Errors
/// All faults of the first layer that has any.
pub fn read(file: Option<&Path>, flags: Flags) -> anyhow::Result<Layers> {
    let mut layers = Layers::default();
    let path = file.unwrap_or(Path::new(FILE_DEFAULT));
    match std::fs::read_to_string(path) {
        Ok(text) => layers.add_file(path, &text).map_err(join)?,
        Err(error) if file.is_none() && error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => {
            return Err(error).with_context(|| format!("read configuration {}", path.display()));
        }
    }
    layers.add_environment(environment()?).map_err(join)?;
    layers.add_flags(flags).map_err(join)?;
    Ok(layers)
}

/// The variables of the environment that may be ours; others need not even be UTF-8.
fn environment() -> anyhow::Result<Vec<(String, String)>> {
    let name = |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value));
    std::env::vars_os()
        .filter_map(name)
        .filter(|(name, _)| name.starts_with("PHALANX_"))
        .map(|(name, value)| match value.into_string() {
            Ok(value) => Ok((name, value)),
            Err(_) => Err(anyhow!("configuration: {name}: is no UTF-8")),
        })
        .collect()
}

fn join(faults: Vec<Fault>) -> anyhow::Error {
    let lines: Vec<String> = faults.iter().map(ToString::to_string).collect();
    anyhow!("configuration: {}", lines.join("\n         "))
}

impl Config {
    /// Understands the settings.
    ///
    /// # Errors
    /// Values that fit their kind but make no sense, with the place where they were set.
    pub fn new(layers: &Layers) -> anyhow::Result<Self> {
        let namespaces = list(layers, "namespaces")
            .into_iter()
            .map(Namespace::Other)
            .collect();
        let patterns: Vec<Pattern> = list(layers, "interfaces")
            .into_iter()
            .map(Pattern)
            .collect();
        let select = |otherwise| match boolean(layers, "all_interfaces") {
            true => Selection::All,
            false if patterns.is_empty() => otherwise,
            false => Selection::Patterns(patterns.clone()),
        };
        let config = Self {
            selection: select(Selection::DefaultRoute),
            namespace_selection: select(Selection::All),
            namespaces,
            hook: text(layers, "hook").parse().map_err(anyhow::Error::msg)?,
            tc_attachment: text(layers, "tc_attachment")
                .parse()
                .map_err(anyhow::Error::msg)?,
            flow_count_max: u32::try_from(integer(layers, "flow_count_max"))?,
            namespace_flow_count_max: u32::try_from(integer(layers, "namespace_flow_count_max"))?,
            update_interval: Duration::from_millis(integer(layers, "update_interval_ms")),
            promotion_hold: match boolean(layers, "promotion") {
                true => Duration::from_millis(integer(layers, "promotion_hold_ms")),
                false => Duration::ZERO,
            },
            promotion_count_max: u32::try_from(integer(layers, "promotions_per_second_max"))?,
            tcp_idle_timeout: Duration::from_secs(integer(layers, "tcp_idle_timeout_s")),
            listen: text(layers, "listen").parse().context("listen")?,
            tokens: tokens(layers).with_context(|| place(layers, "tokens"))?,
            local_role: Role::named(text(layers, "local_role")).context("local_role")?,
            tls_certificate_file: path(layers, "tls_certificate_file"),
            tls_key_file: path(layers, "tls_key_file"),
            names_file: path(layers, "names_file"),
            has_socket_owners: boolean(layers, "socket_owners"),
            has_connection_tracking: boolean(layers, "connection_tracking"),
            has_reverse_dns: boolean(layers, "reverse_dns"),
            capture_directory: PathBuf::from(text(layers, "capture_directory")),
            capture_bytes_max: integer(layers, "capture_bytes_max"),
            capture_age_max: Duration::from_secs(integer(layers, "capture_age_max_s")),
            lookback: lookback(layers)?,
            hub: Some(text(layers, "hub").to_owned()).filter(|text| !text.is_empty()),
            agent_directory: PathBuf::from(text(layers, "agent_directory")),
            spool_bytes_max: integer(layers, "spool_bytes_max"),
            hub_captures: HubCaptures::from_name(text(layers, "hub_captures")),
            hub_directory: PathBuf::from(text(layers, "hub_directory")),
            hub_listen: text(layers, "hub_listen").parse().context("hub_listen")?,
            hub_flow_count_max: u32::try_from(integer(layers, "hub_flow_count_max"))?,
            hub_log_bytes_max: integer(layers, "hub_log_bytes_max"),
            hub_log_age_max: Duration::from_secs(integer(layers, "hub_log_age_max_s")),
            kernel_log: text(layers, "kernel_log")
                .parse()
                .map_err(anyhow::Error::msg)?,
            log: check_log(text(layers, "log")).with_context(|| place(layers, "log"))?,
            has_json_log: text(layers, "log_format") == "json",
        };
        config.check(layers)?;
        Ok(config)
    }

    /// What settings demand of each other.
    fn check(&self, layers: &Layers) -> anyhow::Result<()> {
        let origin = |key| {
            layers
                .get(key)
                .map_or(String::new(), |it| format!("{}: ", it.1))
        };
        let has_tls = self.tls_certificate_file.is_some();
        if has_tls != self.tls_key_file.is_some() {
            let key = if has_tls {
                "tls_certificate_file"
            } else {
                "tls_key_file"
            };
            bail!(
                "{}tls_certificate_file and tls_key_file: set both or neither",
                origin(key)
            );
        }
        check_exposure(self.listen.ip(), !self.tokens.is_empty(), has_tls)
            .map_err(|exposure| anyhow!("{}{exposure}", origin("listen")))
    }
}

/// Keys whose values differ between two readings: those that a reload changes, and those that take
/// a restart.
#[must_use]
pub fn compare(before: &Layers, after: &Layers) -> (Vec<&'static str>, Vec<&'static str>) {
    let differs = |setting: &&Setting| {
        before.get(setting.key).map(|(value, _)| value)
            != after.get(setting.key).map(|(value, _)| value)
    };
    let (reloadable, fixed): (Vec<&Setting>, Vec<&Setting>) = SETTINGS
        .iter()
        .filter(differs)
        .partition(|setting| setting.is_reloadable);
    let keys = |settings: Vec<&Setting>| settings.iter().map(|setting| setting.key).collect();
    (keys(reloadable), keys(fixed))
}

/// The reference of all settings in Markdown, as `docs/configuration.md` has it.
#[must_use]
pub fn reference() -> String {
    let mut text = String::from(
        "# Configuration\n\n\
         Written by `phalanx config reference`; a test keeps it true.\n\n\
         Settings come from, the later ones win: their defaults, the file (`--config FILE`, or\n\
         `/etc/phalanx/phalanx.toml` where it is there), the environment, flags of `phalanx up`.\n\
         `phalanx config check [FILE]` checks a file and names the line of every fault, `phalanx\n\
         config show` tells what is in force and where it was set. On `SIGHUP` the daemon reads\n\
         all layers again: settings marked *reload* change at once, the others are named in the\n\
         log and take a restart.\n",
    );
    for setting in SETTINGS {
        let default = setting
            .parse(setting.default)
            .map_or_else(|it| it, |it| it.to_string());
        let reload = if setting.is_reloadable {
            ", *reload*"
        } else {
            ""
        };
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "\n## `{}`\n\n{}\n\nMust be {}{reload}. Default: `{default}`. Environment: `{}`.\n",
            setting.key,
            setting.help,
            setting.kind.name(),
            setting.variable(),
        );
    }
    text
}

/// Where a setting was set, and its key: what goes before that which is wrong with it.
fn place(layers: &Layers, key: &str) -> String {
    match layers.get(key) {
        Some((_, origin)) => format!("{origin}: {key}"),
        None => key.to_owned(),
    }
}

/// What is logged, if it can be understood.
fn check_log(text: &str) -> anyhow::Result<String> {
    EnvFilter::try_new(text)
        .map_err(|error| anyhow!("{error}; such as info or info,phalanx=debug"))?;
    Ok(text.to_owned())
}

fn lookback(layers: &Layers) -> anyhow::Result<LookbackOptions> {
    let options = LookbackOptions {
        feed: text(layers, "lookback_feed")
            .parse()
            .map_err(anyhow::Error::msg)?,
        filter: text(layers, "lookback_filter").to_owned(),
        snaplen: u32::try_from(integer(layers, "lookback_snaplen"))?,
        size_mib: u32::try_from(integer(layers, "lookback_size_mib"))?,
        directory: path(layers, "lookback_directory"),
        cpu_percent: u32::try_from(integer(layers, "lookback_cpu_percent"))?,
    };
    let is_filter = options.feed == LookbackFeed::Filter;
    if is_filter == options.filter.is_empty() {
        bail!(
            "{}: set it with lookback_feed = \"filter\", and only then",
            place(layers, "lookback_filter")
        );
    }
    let memory_mib = crate::lookback::MEMORY_MIB;
    if options.directory.is_some() && options.size_mib <= memory_mib {
        bail!(
            "{}: more than {memory_mib}, which stay in memory, where lookback_directory is set",
            place(layers, "lookback_size_mib")
        );
    }
    crate::lookback::check(&options)
        .map_err(anyhow::Error::msg)
        .with_context(|| place(layers, "lookback_filter"))?;
    Ok(options)
}

fn text<'layers>(layers: &'layers Layers, key: &str) -> &'layers str {
    match layers.get(key) {
        Some((Value::Text(text), _)) => text,
        _ => "",
    }
}

fn path(layers: &Layers, key: &str) -> Option<PathBuf> {
    Some(text(layers, key))
        .filter(|text| !text.is_empty())
        .map(PathBuf::from)
}

fn boolean(layers: &Layers, key: &str) -> bool {
    matches!(layers.get(key), Some((Value::Boolean(true), _)))
}

fn integer(layers: &Layers, key: &str) -> u64 {
    match layers.get(key) {
        // The kinds allow no negative number.
        Some((Value::Integer(number), _)) => number.unsigned_abs(),
        _ => 0,
    }
}

fn tokens(layers: &Layers) -> anyhow::Result<Vec<Token>> {
    let parse = |text: String| text.parse::<Token>().map_err(anyhow::Error::msg);
    list(layers, "tokens").into_iter().map(parse).collect()
}

fn list(layers: &Layers, key: &str) -> Vec<String> {
    match layers.get(key) {
        Some((Value::List(items), _)) => items.clone(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_is_kept_true() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
        let written = std::fs::read_to_string(path).unwrap();
        assert!(
            written == reference(),
            "docs/configuration.md is old: phalanx config reference > docs/configuration.md"
        );
    }

    #[test]
    fn the_defaults_make_sense() {
        let config = Config::new(&Layers::default()).unwrap();
        assert_eq!(config.selection, Selection::DefaultRoute);
        assert_eq!(config.namespace_selection, Selection::All);
        assert_eq!(
            config.flow_count_max,
            phalanx_common::limits::FLOW_COUNT_DEFAULT
        );
        assert_eq!(config.names_file, None);
        assert!(config.has_socket_owners && !config.has_reverse_dns);
    }

    #[test]
    fn what_settings_demand_of_each_other_is_told_with_its_line() {
        let fault = |text: &str| {
            let mut layers = Layers::default();
            layers.add_file(Path::new("p.toml"), text).unwrap();
            Config::new(&layers).unwrap_err().to_string()
        };
        let open = fault("\nlisten = \"0.0.0.0:7070\"\n");
        assert!(
            open.starts_with("p.toml:2: ") && open.contains("set tokens"),
            "{open}"
        );
        let half = fault("tls_key_file = \"/key.pem\"\n");
        assert!(
            half.starts_with("p.toml:1: ") && half.contains("both or neither"),
            "{half}"
        );
    }

    #[test]
    fn what_looking_back_demands_is_told() {
        let read = |text: &str| {
            let mut layers = Layers::default();
            layers.add_file(Path::new("p.toml"), text).unwrap();
            Config::new(&layers).map_err(|error| format!("{error:#}"))
        };
        let config = read("[lookback]\nfeed = \"filter\"\nfilter = \"tcp port 443\"\n").unwrap();
        assert_eq!(config.lookback.feed, LookbackFeed::Filter);
        for (text, part) in [
            ("[lookback]\nfeed = \"filter\"\n", "lookback_filter: set it"),
            (
                "[lookback]\nfilter = \"tcp\"\n",
                "p.toml:2: lookback_filter: set it",
            ),
            (
                "[lookback]\nfeed = \"filter\"\nfilter = \"tcp prot 1\"\n",
                "p.toml:3: lookback_filter: tcp prot 1: ",
            ),
            (
                "[lookback]\nsize_mib = 8\ndirectory = \"/tmp\"\n",
                "p.toml:2: lookback_size_mib: more than 8",
            ),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_reload_tells_what_takes_a_restart() {
        let mut after = Layers::default();
        let flag = |key, value: &str| (key, String::new(), value.to_owned());
        after
            .add_flags([flag("hook", "tc"), flag("interfaces", "lo")])
            .unwrap();
        assert_eq!(
            compare(&Layers::default(), &after),
            (vec!["interfaces"], vec!["hook"])
        );
    }
}
