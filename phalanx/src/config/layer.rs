//! Layers of settings: the file below the environment below the flags, each value with its origin.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::setting::{SETTINGS, Setting, Value, find, nearest};

/// Where a value was set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nowhere.
    Default,
    /// In a file.
    File {
        /// Which.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
    },
    /// In the environment.
    Environment(String),
    /// By a flag.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment(variable) => f.write_str(variable),
            Self::Flag(flag) => f.write_str(flag),
        }
    }
}

/// Something wrong in a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where.
    pub origin: Origin,
    /// What, and what to do about it.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.origin, self.message)
    }
}

/// All settings with their values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layers {
    values: BTreeMap<&'static str, (Value, Origin)>,
}

impl Default for Layers {
    /// The defaults.
    fn default() -> Self {
        let value = |setting: &Setting| {
            // A test proves that every default is allowed.
            setting
                .parse(setting.default)
                .unwrap_or_else(|_| Value::Text(String::new()))
        };
        let entry = |setting: &Setting| (setting.key, (value(setting), Origin::Default));
        Self {
            values: SETTINGS.iter().map(entry).collect(),
        }
    }
}

impl Layers {
    /// The value of a setting and where it was set.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&(Value, Origin)> {
        self.values.get(key)
    }

    /// All values in the order of the table.
    pub fn iter(&self) -> impl Iterator<Item = (&'static Setting, &Value, &Origin)> {
        SETTINGS.iter().filter_map(|setting| {
            let (value, origin) = self.values.get(setting.key)?;
            Some((setting, value, origin))
        })
    }

    /// Puts a file on top. All faults are told, not only the first.
    ///
    /// # Errors
    /// The faults, each with its line.
    pub fn add_file(&mut self, path: &Path, text: &str) -> Result<(), Vec<Fault>> {
        let at = |offset: usize| Origin::File {
            path: path.to_owned(),
            line: 1 + text
                .bytes()
                .take(offset)
                .filter(|byte| *byte == b'\n')
                .count(),
        };
        let table = DeTable::parse(text).map_err(|error| {
            let origin = at(error.span().map_or(0, |span| span.start));
            vec![Fault {
                origin,
                message: error.message().to_owned(),
            }]
        })?;
        let mut faults = Vec::new();
        for (start, name, value) in flatten(table.get_ref()) {
            let origin = at(start);
            match find(&name) {
                Some(setting) => {
                    let value = convert(setting, value);
                    self.put(setting, value, origin, &mut faults);
                }
                None => faults.push(Fault {
                    origin,
                    message: describe_unknown(&name),
                }),
            }
        }
        if faults.is_empty() {
            Ok(())
        } else {
            Err(faults)
        }
    }

    /// Puts the environment on top.
    ///
    /// # Errors
    /// The faults.
    pub fn add_environment(
        &mut self,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<(), Vec<Fault>> {
        let variables: BTreeMap<String, String> = variables.into_iter().collect();
        let mut faults = Vec::new();
        for setting in SETTINGS {
            let variable = setting.variable();
            if let Some(text) = variables.get(&variable) {
                let origin = Origin::Environment(variable);
                self.put(setting, setting.parse(text), origin, &mut faults);
            }
        }
        if faults.is_empty() {
            Ok(())
        } else {
            Err(faults)
        }
    }

    /// Puts flags on top: key, flag as typed and value.
    ///
    /// # Errors
    /// The faults.
    pub fn add_flags(
        &mut self,
        flags: impl IntoIterator<Item = (&'static str, String, String)>,
    ) -> Result<(), Vec<Fault>> {
        let mut faults = Vec::new();
        for (key, flag, text) in flags {
            let origin = Origin::Flag(flag);
            match find(key) {
                Some(setting) => self.put(setting, setting.parse(&text), origin, &mut faults),
                None => faults.push(Fault {
                    origin,
                    message: describe_unknown(key),
                }),
            }
        }
        if faults.is_empty() {
            Ok(())
        } else {
            Err(faults)
        }
    }

    fn put(
        &mut self,
        setting: &'static Setting,
        value: Result<Value, String>,
        origin: Origin,
        faults: &mut Vec<Fault>,
    ) {
        match value {
            Ok(value) => {
                self.values.insert(setting.key, (value, origin));
            }
            Err(message) => faults.push(Fault { origin, message }),
        }
    }
}

/// The settings of a file with the places where they stand, in its order. A section is the
/// beginning of the keys in it: `feed` under `[lookback]` is `lookback_feed`.
fn flatten<'table>(table: &'table DeTable<'_>) -> Vec<(usize, String, &'table DeValue<'table>)> {
    let mut settings = Vec::new();
    for (key, value) in table {
        let name: &str = key.get_ref();
        match value.get_ref() {
            DeValue::Table(section) if find(name).is_none() => {
                settings.extend(section.iter().map(|(inner, value)| {
                    let name = format!("{name}_{}", inner.get_ref());
                    (inner.span().start, name, value.get_ref())
                }));
            }
            value => settings.push((key.span().start, name.to_owned(), value)),
        }
    }
    settings.sort_by_key(|(start, _, _)| *start);
    settings
}

fn describe_unknown(key: &str) -> String {
    match nearest(key) {
        Some(near) => format!("unknown key {key:?}; did you mean {near:?}?"),
        None => format!("unknown key {key:?}; phalanx config show lists all"),
    }
}

fn convert(setting: &Setting, value: &DeValue<'_>) -> Result<Value, String> {
    let wrong = || format!("{}: must be {}", setting.key, setting.kind.name());
    let value = match value {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Boolean(value) => Value::Boolean(*value),
        DeValue::Integer(number) => {
            let parsed = i64::from_str_radix(number.as_str(), number.radix());
            Value::Integer(parsed.map_err(|_| wrong())?)
        }
        DeValue::Array(items) => {
            let text = |item: &toml::Spanned<DeValue<'_>>| match item.get_ref() {
                DeValue::String(text) => Ok(text.to_string()),
                _ => Err(wrong()),
            };
            Value::List(items.iter().map(text).collect::<Result<_, _>>()?)
        }
        _ => return Err(wrong()),
    };
    setting.check(&value)?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> Result<Layers, Vec<String>> {
        let mut layers = Layers::default();
        match layers.add_file(Path::new("p.toml"), text) {
            Ok(()) => Ok(layers),
            Err(faults) => Err(faults.iter().map(ToString::to_string).collect()),
        }
    }

    #[test]
    fn later_layers_win_and_tell_their_origin() {
        let mut layers = file("# comment\nhook = \"tc\"\ninterfaces = [\"eth0\"]\n").unwrap();
        let environment = [("PHALANX_HOOK".to_owned(), "xdp".to_owned())];
        layers.add_environment(environment).unwrap();
        let flag = ("interfaces", "-i".to_owned(), "veth*,br0".to_owned());
        layers.add_flags([flag]).unwrap();
        let (hook, origin) = layers.get("hook").unwrap();
        assert_eq!(
            (hook.to_string(), origin.to_string()),
            ("\"xdp\"".into(), "PHALANX_HOOK".into())
        );
        let (interfaces, origin) = layers.get("interfaces").unwrap();
        assert_eq!(interfaces.to_string(), r#"["veth*", "br0"]"#);
        assert_eq!(origin.to_string(), "-i");
        assert_eq!(layers.get("listen").unwrap().1, Origin::Default);
    }

    #[test]
    fn a_section_begins_the_keys_in_it() {
        let text = "hook = \"tc\"\n[lookback]\nfeed = \"all\"\nsize_mib = 16\n";
        let layers = file(text).unwrap();
        let (feed, origin) = layers.get("lookback_feed").unwrap();
        assert_eq!(feed.to_string(), "\"all\"");
        assert_eq!(origin.to_string(), "p.toml:3");
        let faults = file("[lookback]\nfed = \"all\"\n\n[nowhere]\nkey = 1\n").unwrap_err();
        assert!(faults[0].starts_with("p.toml:2: ") && faults[0].contains("lookback_feed"));
        assert!(faults[1].starts_with("p.toml:5: "), "{faults:?}");
    }

    #[test]
    fn every_fault_has_its_line() {
        let faults = file("interface = []\n\nhook = 3\nflow_count_max = 1\nhok = 1\n").unwrap_err();
        assert_eq!(
            faults,
            [
                "p.toml:1: unknown key \"interface\"; did you mean \"interfaces\"?",
                "p.toml:3: hook: must be one of auto, xdp, xdp-generic, tc",
                "p.toml:4: flow_count_max: 1 is not within 1024 to 4194304",
                "p.toml:5: unknown key \"hok\"; did you mean \"hook\"?",
            ]
        );
        let syntax = file("hook = \"tc\"\nlisten = = 3\n").unwrap_err();
        assert!(syntax[0].starts_with("p.toml:2: "), "{syntax:?}");
    }
}
