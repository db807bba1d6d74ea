//! The table of settings: all that can be configured, from which the checks, the reference and the
//! environment's names are made.

use tracing_subscriber::EnvFilter;

use crate::auth::Token;

/// What a setting's value may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Any text; empty stands for "none".
    Text,
    /// True or false.
    Boolean,
    /// A whole number within bounds.
    Integer {
        /// Smallest.
        min: i64,
        /// Largest.
        max: i64,
    },
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A list of texts; in the environment separated by commas.
    List,
    /// A list of tokens: `name:role:sha256` each.
    Tokens,
    /// An IP address and a port.
    Address,
    /// What is logged.
    LogFilter,
}

/// The value of a setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Of [`Kind::Text`], [`Kind::Choice`], [`Kind::Address`] and [`Kind::LogFilter`].
    Text(String),
    /// Of [`Kind::Boolean`].
    Boolean(bool),
    /// Of [`Kind::Integer`].
    Integer(i64),
    /// Of [`Kind::List`] and [`Kind::Tokens`].
    List(Vec<String>),
}

impl std::fmt::Display for Value {
    /// As TOML.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Boolean(value) => write!(f, "{value}"),
            Self::Integer(value) => write!(f, "{value}"),
            Self::List(items) => write!(f, "{items:?}"),
        }
    }
}

/// One setting.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Its key in the file.
    pub key: &'static str,
    /// What its value may be.
    pub kind: Kind,
    /// Its default, as it would be typed in the environment.
    pub default: &'static str,
    /// Whether a reload changes it; otherwise it takes a restart.
    pub is_reloadable: bool,
    /// What it does.
    pub help: &'static str,
}

impl Setting {
    /// The variable of the environment that sets it.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("PHALANX_{}", self.key.to_uppercase())
    }

    /// Understands a value as it is typed in the environment or after a flag.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(&self, text: &str) -> Result<Value, String> {
        let value = match self.kind {
            Kind::Text | Kind::Choice(_) | Kind::Address | Kind::LogFilter => {
                Value::Text(text.to_owned())
            }
            Kind::Boolean => match text {
                "true" | "1" | "yes" => Value::Boolean(true),
                "false" | "0" | "no" => Value::Boolean(false),
                _ => return Err(format!("{}: {text:?} is not true or false", self.key)),
            },
            Kind::Integer { .. } => text
                .parse()
                .map(Value::Integer)
                .map_err(|_| format!("{}: {text:?} is not a whole number", self.key))?,
            Kind::List | Kind::Tokens => {
                let items = text
                    .split(',')
                    .map(str::trim)
                    .filter(|item| !item.is_empty());
                Value::List(items.map(str::to_owned).collect())
            }
        };
        self.check(&value)?;
        Ok(value)
    }

    /// Whether a value is allowed.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self, value: &Value) -> Result<(), String> {
        match (self.kind, value) {
            (Kind::Text, Value::Text(_))
            | (Kind::Boolean, Value::Boolean(_))
            | (Kind::List, Value::List(_)) => Ok(()),
            (Kind::Integer { min, max }, Value::Integer(number)) => {
                if (min..=max).contains(number) {
                    return Ok(());
                }
                Err(format!(
                    "{}: {number} is not within {min} to {max}",
                    self.key
                ))
            }
            (Kind::Choice(words), Value::Text(word)) => {
                if words.contains(&word.as_str()) {
                    return Ok(());
                }
                Err(format!(
                    "{}: {word:?} is not one of {}",
                    self.key,
                    words.join(", ")
                ))
            }
            (Kind::Address, Value::Text(address)) => {
                let parsed = address.parse::<std::net::SocketAddr>();
                parsed
                    .map(|_| ())
                    .map_err(|_| format!("{}: {address:?} is not an address and port", self.key))
            }
            (Kind::Tokens, Value::List(tokens)) => tokens
                .iter()
                .try_for_each(|token| token.parse::<Token>().map(drop))
                .map_err(|error| format!("{}: {error}", self.key)),
            (Kind::LogFilter, Value::Text(filter)) => EnvFilter::try_new(filter)
                .map(drop)
                .map_err(|error| format!("{}: {error}; such as info,phalanx=debug", self.key)),
            (kind, _) => Err(format!("{}: must be {}", self.key, kind.name())),
        }
    }
}

impl Kind {
    /// What it is called in the reference.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Text => "a text".to_owned(),
            Self::Boolean => "true or false".to_owned(),
            Self::Integer { min, max } => format!("a whole number from {min} to {max}"),
            Self::Choice(words) => format!("one of {}", words.join(", ")),
            Self::List => "a list of texts".to_owned(),
            Self::Tokens => "a list of texts `name:role:sha256`".to_owned(),
            Self::Address => "an address and port".to_owned(),
            Self::LogFilter => "a level or directives".to_owned(),
        }
    }
}

macro_rules! settings {
    ($($key:literal, $kind:expr, $default:literal, $reload:literal, $help:literal;)+) => {
        /// All settings.
        pub static SETTINGS: &[Setting] = &[$(Setting {
            key: $key, kind: $kind, default: $default, is_reloadable: $reload, help: $help,
        }),+];
    };
}

settings! {
    "interfaces", Kind::List, "", true,
        "Interfaces to watch: names or patterns such as `veth*`, which follow interfaces as they \
         come and go. Empty: those through which a default route leaves.";
    "all_interfaces", Kind::Boolean, "false", true,
        "Watch all interfaces, whatever `interfaces` says.";
    "namespaces", Kind::List, "", false,
        "Further network namespaces to watch: a name of `ip netns`, a path or a process id. Each \
         gets programs and tables of its own; `interfaces` holds in each of them, and with \
         neither set all interfaces of the namespace are watched.";
    "hook", Kind::Choice(crate::kernel::HookChoice::NAMES), "auto", false,
        "Where packets in are seen. `auto`: XDP where the driver has it natively and it does no \
         harm, TC otherwise.";
    "tc_attachment", Kind::Choice(crate::kernel::TcAttachment::NAMES), "auto", false,
        "How TC programs are attached. `auto`: TCX where the kernel has it (6.6 and later), \
         otherwise the `clsact` queueing discipline.";
    "flow_count_max", Kind::Integer { min: 1024, max: 4_194_304 }, "131072", false,
        "Flows that the kernel's table holds; it is allocated at the start, about 1.3 KiB a flow. \
         A full table takes some 3 KiB a flow more in the daemon: raise `MemoryMax` of the systemd \
         unit with it.";
    "namespace_flow_count_max", Kind::Integer { min: 256, max: 4_194_304 }, "8192", false,
        "Flows that the table of each further namespace holds.";
    "update_interval_ms", Kind::Integer { min: 100, max: 60_000 }, "1000", false,
        "Longest time between two updates of a flow that sees packets.";
    "promotion", Kind::Boolean, "true", false,
        "Record the headers of flows that turn sick (a retransmission, a segment out of sequence, \
         a window that falls to zero, a reset, a round trip that has doubled and grown by 50 ms \
         for four samples), from the next packet on. The latest 4 MiB are kept in memory: \
         `/api/v1/flows/{id}/packets`.";
    "promotion_hold_ms", Kind::Integer { min: 100, max: 600_000 }, "10000", false,
        "How long a flow that turned sick is recorded.";
    "promotions_per_second_max", Kind::Integer { min: 1, max: 1_000 }, "10", false,
        "Flows of a namespace that begin to be recorded in a second for being sick, at most; the \
         others are counted.";
    "tcp_idle_timeout_s", Kind::Integer { min: 10, max: 86_400 }, "600", false,
        "Silence after which an established TCP flow is closed in the tables.";
    "listen", Kind::Address, "127.0.0.1:7070", false,
        "Where metrics and API are served. Beyond the loopback it takes tokens and TLS.";
    "tokens", Kind::Tokens, "", false,
        "Who may use the API: `name:role:sha256` each, with the role `viewer`, `operator` or \
         `admin` and the SHA-256 of the token in hexadecimal digits.";
    "local_role", Kind::Choice(&["viewer", "operator", "admin"]), "operator", false,
        "What everybody on this machine may do where there are no tokens. Payload is captured for \
         `admin` only.";
    "tls_certificate_file", Kind::Text, "", false, "Certificate chain of the API in PEM.";
    "tls_key_file", Kind::Text, "", false, "Private key of the API in PEM.";
    "names_file", Kind::Text, "", true,
        "File that names addresses: a prefix or address, a port, a service, a host, a site.";
    "socket_owners", Kind::Boolean, "true", false,
        "Find out which local process and container own a socket, to name services by them.";
    "connection_tracking", Kind::Boolean, "true", false,
        "Ask the kernel's connection tracking, where it is loaded, whether this host translates \
         the addresses or ports of a flow (NAT). Told with conversations, and in captures.";
    "reverse_dns", Kind::Boolean, "false", false,
        "Ask the resolver for the names of addresses. Off, since it tells others what is watched.";
    "capture_directory", Kind::Text, "/var/lib/phalanx/captures", false,
        "Where finished captures are kept.";
    "capture_bytes_max", Kind::Integer { min: 1_048_576, max: 1_099_511_627_776 }, "1073741824",
        false, "Bytes that kept captures may take; the oldest are deleted first.";
    "capture_age_max_s", Kind::Integer { min: 60, max: 31_536_000 }, "604800", false,
        "Age at which a kept capture is deleted.";
    "lookback_feed", Kind::Choice(crate::lookback::LookbackFeed::NAMES), "promoted", false,
        "Which recent packets are kept, so that a capture can begin before it was asked for. \
         `promoted`: those of flows that turned sick (see `promotion`); `filter`: also those that \
         `lookback_filter` selects; `all`: all, or whole flows of them as far as \
         `lookback_cpu_percent` allows; `off`: none.";
    "lookback_filter", Kind::Text, "", false,
        "Filter of the feed `filter`, in the language of captures.";
    "lookback_snaplen", Kind::Integer { min: 0, max: 9_216 }, "0", false,
        "Bytes that are kept of each packet of the feeds `filter` and `all`; 0: the headers only. \
         Payload is given out to `admin` only.";
    "lookback_size_mib", Kind::Integer { min: 4, max: 65_536 }, "64", false,
        "Mebibytes of recent packets; the oldest leave for the newest. One holds some 10,000 \
         packets without payload. Memory is taken as it is filled.";
    "lookback_directory", Kind::Text, "", false,
        "Directory of a file without a name that takes recent packets beyond 8 MiB, allocated at \
         the start and gone with the daemon. Empty, or where the file cannot be had: all lie in \
         memory.";
    "lookback_cpu_percent", Kind::Integer { min: 1, max: 100 }, "5", false,
        "Percent of one CPU that keeping the packets of the feed `all` may take in the daemon; \
         beyond, whole flows are left out, chosen by a hash.";
    "hub", Kind::Text, "", false,
        "Where the hub is that `phalanx agent` tells, such as `https://hub.example:7071`. Empty: \
         the one that the agent was enrolled at.";
    "agent_directory", Kind::Text, "/var/lib/phalanx/agent", false,
        "Where an agent keeps its certificate, its key and its spool.";
    "spool_bytes_max", Kind::Integer { min: 4_194_304, max: 1_099_511_627_776 }, "268435456",
        false, "Bytes that an agent keeps on disk while its hub is away; beyond, the oldest are \
         dropped, which the hub shows as a gap.";
    "hub_captures", Kind::Choice(crate::agent::HubCaptures::NAMES), "headers", false,
        "What an agent lets its hub record: `headers` (packets without payload), `payload`, or \
         `off`. Whoever has the hub has what this allows of every host.";
    "hub_directory", Kind::Text, "/var/lib/phalanx/hub", false,
        "Where a hub keeps its certificates, its tokens and agents, and its log.";
    "hub_listen", Kind::Address, "0.0.0.0:7071", false,
        "Where a hub listens for agents, always with TLS.";
    "hub_flow_count_max", Kind::Integer { min: 1024, max: 4_194_304 }, "524288", false,
        "Flows of all agents that a hub keeps at once; beyond, those longest silent make room and \
         are counted.";
    "hub_log_bytes_max", Kind::Integer { min: 33_554_432, max: 1_099_511_627_776 }, "268435456",
        false, "Bytes that a hub's log may take: what it knows again after a restart. The oldest \
         goes first.";
    "hub_log_age_max_s", Kind::Integer { min: 60, max: 31_536_000 }, "86400", false,
        "Age at which a hub's log forgets.";
    "log", Kind::LogFilter, "info", false,
        "What is logged: `error`, `warn`, `info`, `debug`, `trace`, or directives of \
         tracing-subscriber such as `info,phalanx::kernel=debug`.";
    "kernel_log", Kind::Choice(crate::kernel::KernelLogLevel::NAMES), "off", false,
        "What the kernel programs log, for debugging: `debug` tells of rare events (a flow \
         promoted, a table full, a connection refused, filters asked), as lines of the level \
         `info`.";
    "log_format", Kind::Choice(&["text", "json"]), "text", false, "How log lines look.";
}

/// The setting with this key.
#[must_use]
pub(super) fn find(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.key == key)
}

/// The known key that looks most like `key`, if any looks like it.
#[must_use]
pub fn nearest(key: &str) -> Option<&'static str> {
    let distance_max = 1 + key.len() / 3;
    SETTINGS
        .iter()
        .map(|setting| (distance(key, setting.key), setting.key))
        .min()
        .filter(|(distance, _)| *distance <= distance_max)
        .map(|(_, key)| key)
}

/// How many letters must be added, removed or replaced to come from one to the other (Levenshtein).
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (index, letter) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = index + 1;
        for (column, other) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *other);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_allowed_and_every_key_is_there_once() {
        for (index, setting) in SETTINGS.iter().enumerate() {
            setting.parse(setting.default).unwrap();
            assert!(
                SETTINGS[..index]
                    .iter()
                    .all(|other| other.key != setting.key)
            );
        }
    }

    #[test]
    fn the_nearest_key_is_offered_only_where_it_is_near() {
        assert_eq!(nearest("interface"), Some("interfaces"));
        assert_eq!(nearest("flow_cuont_max"), Some("flow_count_max"));
        assert_eq!(nearest("zzzzzz"), None);
        assert_eq!(distance("kitten", "sitting"), 3);
    }

    #[test]
    fn values_out_of_bounds_are_refused_with_the_bounds() {
        let error = find("update_interval_ms").unwrap().parse("5").unwrap_err();
        assert_eq!(error, "update_interval_ms: 5 is not within 100 to 60000");
        assert!(
            find("hook")
                .unwrap()
                .parse("xpd")
                .unwrap_err()
                .contains("xdp-generic")
        );
        assert!(find("listen").unwrap().parse("7070").is_err());
    }
}
