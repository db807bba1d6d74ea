//! Why an expression was refused: what was found, where, and what is supported instead.

use thiserror::Error;

/// What is supported where a term was expected.
pub(crate) const TERMS: &str = "host, net, port, portrange, proto (each after an optional \
     protocol and src, dst, `src or dst`, `src and dst`), ip, ip6, arp, rarp, tcp, udp, sctp, \
     icmp, icmp6, igmp, pim, vrrp, ah, esp, ether host/src/dst/proto, broadcast, multicast, vlan, \
     less, greater, and comparisons of len, numbers and bytes such as tcp[13] & 2 != 0";

/// An expression that was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{kind} (at byte {position})")]
pub struct FilterError {
    /// Byte offset of what was found; the length of the text when it ended too early.
    pub position: usize,
    /// What is wrong with it.
    pub kind: FilterErrorKind,
}

/// What is wrong with an expression.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FilterErrorKind {
    /// Valid pcap-filter syntax that is outside the supported subset.
    #[error("`{found}` is not supported: {remedy}")]
    Unsupported {
        /// The text found.
        found: String,
        /// What to write instead.
        remedy: String,
    },
    /// Not valid here.
    #[error("found {found}, expected {expected}")]
    Unexpected {
        /// The text found, in backquotes, or "the end".
        found: String,
        /// What may stand here.
        expected: String,
    },
    /// A value out of range or without meaning for its qualifier.
    #[error("`{found}` cannot stand here: {reason}")]
    Value {
        /// The text found.
        found: String,
        /// Why not, with the remedy.
        reason: String,
    },
    /// One of the bounds of the language.
    #[error("the expression is too large: at most {max} {what}; split it into several filters")]
    Limit {
        /// What is bounded.
        what: &'static str,
        /// The bound.
        max: usize,
    },
}

impl FilterError {
    pub(crate) fn unsupported(position: usize, found: &str, remedy: impl Into<String>) -> Self {
        let kind = FilterErrorKind::Unsupported {
            found: found.into(),
            remedy: remedy.into(),
        };
        Self { position, kind }
    }

    pub(crate) fn value(position: usize, found: &str, reason: impl Into<String>) -> Self {
        let kind = FilterErrorKind::Value {
            found: found.into(),
            reason: reason.into(),
        };
        Self { position, kind }
    }

    pub(crate) fn unexpected(position: usize, found: &str, expected: impl Into<String>) -> Self {
        let found = if found.is_empty() {
            "the end".into()
        } else {
            format!("`{found}`")
        };
        Self {
            position,
            kind: FilterErrorKind::Unexpected {
                found,
                expected: expected.into(),
            },
        }
    }

    pub(crate) fn limit(position: usize, what: &'static str, max: usize) -> Self {
        Self {
            position,
            kind: FilterErrorKind::Limit { what, max },
        }
    }
}
