//! Which interfaces are meant: names, patterns, all, or those with a default route.

use std::fmt;

use super::link::{Link, LinkLayer};

/// A name with `*` (any characters) and `?` (one character).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(pub String);

impl Pattern {
    /// Whether the pattern names exactly one interface.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        !self.0.contains(['*', '?'])
    }

    /// Whether `name` fits.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        matches_wildcards(self.0.as_bytes(), name.as_bytes())
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The greedy match that goes back to the last star only: linear in practice, and at most the
/// product of two lengths that the kernel bounds at 15.
fn matches_wildcards(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut last_star = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                last_star = Some((p, n));
                p += 1;
            }
            Some(&byte) if byte == b'?' || byte == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match last_star {
                Some((star, taken)) => {
                    p = star + 1;
                    n = taken + 1;
                    last_star = Some((star, n));
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

/// Which interfaces of a namespace are watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// Those through which a default route leaves.
    DefaultRoute,
    /// Those that fit one of the patterns.
    Patterns(Vec<Pattern>),
    /// All.
    All,
}

impl Selection {
    /// Why this interface is chosen or left out, in words.
    ///
    /// # Errors
    /// The reason why it is left out.
    pub fn judge(&self, link: &Link) -> Result<String, String> {
        let reason = match self {
            Self::DefaultRoute if link.has_default_route => "has a default route".to_owned(),
            Self::DefaultRoute => return Err("has no default route".to_owned()),
            Self::All => "all interfaces were asked for".to_owned(),
            Self::Patterns(patterns) => {
                match patterns.iter().find(|pattern| pattern.matches(&link.name)) {
                    Some(pattern) => format!("fits {pattern}"),
                    None => return Err("fits no pattern".to_owned()),
                }
            }
        };
        match link.layer {
            LinkLayer::Unknown(hardware) => {
                Err(format!("its link layer (type {hardware}) is not supported"))
            }
            _ if !link.is_up => Err("is down; it is taken when it comes up".to_owned()),
            _ => Ok(reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_as_in_a_shell() {
        for (pattern, name, fits) in [
            ("veth*", "veth12", true),
            ("veth*", "eth0", false),
            ("*", "", true),
            ("*a*b?", "xaybz", true),
            ("*a*b?", "xayb", false),
            ("eth?", "eth10", false),
            ("eth0", "eth0", true),
            ("e*0*0", "eth0100", true),
        ] {
            let pattern = Pattern(pattern.to_owned());
            assert_eq!(pattern.matches(name), fits, "{pattern} on {name}");
        }
    }
}
