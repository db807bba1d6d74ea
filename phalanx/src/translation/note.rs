//! [`Note`]: a translation as a capture file carries it, in one line of text. Bounded and strict,
//! since files come from anywhere: what [`Note`] would not have written is none.

use std::fmt;
use std::net::SocketAddr;

use phalanx_common::packet::protocol;
use phalanx_engine::{Endpoint, Sides, Translation};

/// What every note begins with; the number is that of the format.
const MARK: &str = "phalanx-translation/1";
/// Longest note in bytes: the mark, a protocol, four ends in brackets, a host.
pub(crate) const NOTE_LENGTH_MAX: usize = 22 + 4 + 4 * 48 + HOST_LENGTH_MAX;
/// Longest name of a host (`HOST_NAME_MAX` of Linux).
const HOST_LENGTH_MAX: usize = 64;
/// Protocols that are asked for.
const PROTOCOLS: [(u8, &str); 2] = [(protocol::TCP, "tcp"), (protocol::UDP, "udp")];

/// A translation and the host whose connection tracking told it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// What becomes of what.
    pub translation: Translation,
    /// The host: letters, digits, `.`, `-` and `_`.
    pub host: String,
}

impl Note {
    /// A note; letters that names of hosts do not have become `_`.
    #[must_use]
    pub fn new(translation: Translation, host: &str) -> Self {
        let plain = |letter| if is_of_host(letter) { letter } else { '_' };
        let host: String = host.chars().map(plain).take(HOST_LENGTH_MAX).collect();
        Self {
            translation,
            host: match host.as_str() {
                "" => "_".to_owned(),
                _ => host,
            },
        }
    }

    /// Reads a note; none where the text is anything else.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > NOTE_LENGTH_MAX {
            return None;
        }
        let text = std::str::from_utf8(bytes).ok()?;
        let parts: Vec<&str> = text.split(' ').collect();
        let [MARK, protocol, ends @ .., host] = &parts[..] else {
            return None;
        };
        let [a, b, c, d] = ends else {
            return None;
        };
        let protocol = PROTOCOLS.iter().find(|it| it.1 == *protocol)?.0;
        let translation = Translation {
            protocol,
            inside: Sides {
                client: end(a)?,
                server: end(b)?,
            },
            outside: Sides {
                client: end(c)?,
                server: end(d)?,
            },
        };
        let note = Self::new(translation, host);
        let is_own = translation.changes_anything() && note.to_string() == text;
        is_own.then_some(note)
    }
}

impl fmt::Display for Note {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Translation {
            protocol,
            inside,
            outside,
        } = &self.translation;
        let known = PROTOCOLS.iter().find(|it| it.0 == *protocol);
        write!(out, "{MARK} {}", known.map_or("none", |it| it.1))?;
        for end in [inside.client, inside.server, outside.client, outside.server] {
            write!(out, " {}", SocketAddr::new(end.address, end.port))?;
        }
        write!(out, " {}", self.host)
    }
}

const fn is_of_host(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || matches!(letter, '.' | '-' | '_')
}

fn end(text: &str) -> Option<Endpoint> {
    let end: SocketAddr = text.parse().ok()?;
    Some(Endpoint {
        address: end.ip(),
        port: end.port(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "phalanx-translation/1 tcp 10.0.0.2:50000 10.9.0.1:80 10.1.0.1:1025 \
        10.2.0.2:8080 edge-1";
    const LONG: &str = "phalanx-translation/1 udp [2001:db8:1111:2222:3333:4444:5555:6666]:50000 \
        [2001:db8:1111:2222:3333:4444:5555:7777]:65535 \
        [2001:db8:1111:2222:3333:4444:5555:8888]:50000 \
        [2001:db8:1111:2222:3333:4444:5555:9999]:65535 ";

    #[test]
    fn a_note_is_read_as_it_was_written() {
        let note = Note::parse(TEXT.as_bytes()).unwrap();
        assert_eq!(
            (note.to_string().as_str(), note.host.as_str()),
            (TEXT, "edge-1")
        );
        let long = format!("{LONG}{}", "h".repeat(HOST_LENGTH_MAX));
        assert!(long.len() <= NOTE_LENGTH_MAX, "{}", long.len());
        assert_eq!(Note::parse(long.as_bytes()).unwrap().to_string(), long);
    }

    #[test]
    fn a_host_of_any_name_is_a_host() {
        let translation = Note::parse(TEXT.as_bytes()).unwrap().translation;
        for (name, written) in [
            ("", "_"),
            ("a b\n<script>", "a_b__script_"),
            ("\u{202e}ü", "__"),
        ] {
            let note = Note::new(translation, name);
            assert_eq!(note.host, written);
            assert_eq!(Note::parse(note.to_string().as_bytes()), Some(note));
        }
        let long = Note::new(translation, &"x".repeat(300));
        assert_eq!(long.host.len(), HOST_LENGTH_MAX);
    }

    #[test]
    fn what_is_written_otherwise_is_no_note() {
        for (from, to) in [
            ("phalanx-translation/1", "phalanx-translation/2"),
            ("tcp", "TCP"),
            ("tcp", "6"),
            ("10.0.0.2:50000", "10.0.0.2:050000"),
            ("10.0.0.2:50000", "10.0.0.2"),
            ("10.0.0.2:50000", "10.0.0.02:50000"),
            ("10.0.0.2:50000", "[fe80::1%2]:80"),
            ("10.0.0.2:50000", "[::0]:80"),
            ("10.1.0.1:1025 10.2.0.2:8080", "10.0.0.2:50000 10.9.0.1:80"),
            ("10.1.0.1:1025 ", ""),
            (" edge-1", ""),
            ("edge-1", ""),
            ("edge-1", "edge-1 "),
            ("edge-1", "edge 1"),
            ("edge-1", "<b>"),
            ("edge-1", "edge\u{202e}"),
            ("edge-1", "edge-1\n"),
        ] {
            let text = TEXT.replace(from, to);
            assert_ne!(text, TEXT);
            assert_eq!(Note::parse(text.as_bytes()), None, "{text:?}");
        }
        for length in 0..TEXT.len() - "dge-1".len() {
            assert_eq!(Note::parse(&TEXT.as_bytes()[..length]), None);
        }
        assert_eq!(Note::parse(&[0xff; 100]), None);
        assert_eq!(
            Note::parse(format!("{TEXT}{}", "e".repeat(100)).as_bytes()),
            None
        );
    }
}
