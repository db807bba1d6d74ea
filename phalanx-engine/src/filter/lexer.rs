//! Text to tokens. As in libpcap's scanner the longest match wins: `80-90` and `len-4` are words.

use std::net::Ipv6Addr;

use super::error::FilterError;
use super::limit::{EXPRESSION_BYTES_MAX, TOKEN_COUNT_MAX};

/// One token and where it stands in the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token<'t> {
    pub(crate) kind: TokenKind,
    pub(crate) text: &'t str,
    pub(crate) position: usize,
}

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TokenKind {
    /// Decimal, octal (leading 0) or hexadecimal (0x).
    Number(u32),
    /// Two to four dotted decimal numbers: the bits given, left-aligned, and how many.
    Ipv4 {
        bits: u32,
        length: u8,
    },
    Ipv6(Ipv6Addr),
    Mac([u8; 6]),
    /// A keyword or a name.
    Word,
    /// A name behind a backslash, which is part of the text.
    Escaped,
    And,
    Or,
    Not,
    Symbol,
    End,
}

/// Splits `text` into tokens; the last one is `End`.
pub(crate) fn tokenize(text: &str) -> Result<Vec<Token<'_>>, FilterError> {
    if text.len() > EXPRESSION_BYTES_MAX {
        return Err(FilterError::limit(
            EXPRESSION_BYTES_MAX,
            "bytes",
            EXPRESSION_BYTES_MAX,
        ));
    }
    let mut tokens = Vec::new();
    let mut position = 0;
    while let Some(skip) = text[position..].find(|c: char| !matches!(c, ' ' | '\t' | '\r' | '\n')) {
        position += skip;
        if tokens.len() == TOKEN_COUNT_MAX {
            return Err(FilterError::limit(
                position,
                "words and symbols",
                TOKEN_COUNT_MAX,
            ));
        }
        let (kind, length) = scan(text, position)?;
        tokens.push(Token {
            kind,
            text: &text[position..position + length],
            position,
        });
        position += length;
    }
    tokens.push(Token {
        kind: TokenKind::End,
        text: "",
        position: text.len(),
    });
    Ok(tokens)
}

fn scan(text: &str, position: usize) -> Result<(TokenKind, usize), FilterError> {
    let rest = &text[position..];
    if let Some(found) = scan_symbol(rest) {
        return Ok(found);
    }
    if let Some(escaped) = rest.strip_prefix('\\') {
        let end = escaped
            .find([' ', '!', '(', ')', '\n', '\t'])
            .unwrap_or(escaped.len());
        if end == 0 {
            return Err(FilterError::unexpected(
                position,
                "\\",
                "a name after the backslash",
            ));
        }
        return Ok((TokenKind::Escaped, end + 1));
    }
    let word = word_length(rest);
    if let Some((kind, length)) = scan_colons(rest).filter(|(_, length)| *length >= word) {
        return Ok((kind, length));
    }
    if word == 0 {
        let character = rest.chars().next().map_or(0, char::len_utf8);
        let found = &rest[..character];
        return Err(FilterError::unexpected(
            position,
            found,
            "a word, a number or an operator",
        ));
    }
    Ok((classify_word(&rest[..word], position)?, word))
}

fn scan_symbol(rest: &str) -> Option<(TokenKind, usize)> {
    for (symbol, kind) in [
        ("&&", TokenKind::And),
        ("||", TokenKind::Or),
        ("!=", TokenKind::Symbol),
        ("==", TokenKind::Symbol),
        (">=", TokenKind::Symbol),
        ("<=", TokenKind::Symbol),
        ("<<", TokenKind::Symbol),
        (">>", TokenKind::Symbol),
        ("!", TokenKind::Not),
    ] {
        if rest.starts_with(symbol) {
            return Some((kind, symbol.len()));
        }
    }
    // A colon may also begin an IPv6 address such as `::1`.
    let first = rest.chars().next()?;
    let colon = first == ':' && scan_colons(rest).is_none();
    (colon || "()[]+-*/%&|^<>=".contains(first)).then_some((TokenKind::Symbol, 1))
}

/// Length of the word at the start: it begins with a letter or digit and may hold `-`, `_` and
/// `.` inside, but does not end in `-` or `_`.
fn word_length(rest: &str) -> usize {
    if !rest.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return 0;
    }
    let inside = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let run = &rest[..rest.find(|c| !inside(c)).unwrap_or(rest.len())];
    run.trim_end_matches(['-', '_']).len()
}

/// An IPv6 or a MAC address at the start: the longest prefix of the run that is one.
fn scan_colons(rest: &str) -> Option<(TokenKind, usize)> {
    let inside = |c: char| c.is_ascii_hexdigit() || matches!(c, ':' | '.' | '-');
    let run = &rest[..rest.find(|c| !inside(c)).unwrap_or(rest.len())];
    // No address is longer than eight groups with an embedded IPv4 address.
    (2..=run.len().min(45)).rev().find_map(|length| {
        let text = run.get(..length)?;
        if let Ok(address) = text.parse() {
            return Some((TokenKind::Ipv6(address), length));
        }
        parse_mac(text).map(|address| (TokenKind::Mac(address), length))
    })
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let separator = text.chars().find(|c| matches!(c, ':' | '-' | '.'))?;
    let mut address = [0; 6];
    let mut groups = text.split(separator);
    for byte in &mut address {
        let group = groups.next()?;
        if group.is_empty() || group.len() > 2 {
            return None;
        }
        *byte = u8::from_str_radix(group, 16).ok()?;
    }
    groups.next().is_none().then_some(address)
}

fn classify_word(word: &str, position: usize) -> Result<TokenKind, FilterError> {
    match word {
        "and" => return Ok(TokenKind::And),
        "or" => return Ok(TokenKind::Or),
        "not" => return Ok(TokenKind::Not),
        _ => {}
    }
    if word.bytes().all(|b| b.is_ascii_digit() || b == b'.') && word.contains('.') {
        return Ok(parse_ipv4(word).unwrap_or(TokenKind::Word));
    }
    let (digits, radix) = match word.get(..2) {
        Some("0x" | "0X") => (&word[2..], 16),
        _ if word.len() > 1 && word.starts_with('0') => (&word[1..], 8),
        _ => (word, 10),
    };
    if digits.is_empty() || !word.starts_with(|c: char| c.is_ascii_digit()) {
        return Ok(TokenKind::Word);
    }
    if !digits
        .chars()
        .all(|c| c.is_digit(if radix == 16 { 16 } else { 10 }))
    {
        return Ok(TokenKind::Word);
    }
    u32::from_str_radix(digits, radix)
        .map(TokenKind::Number)
        .map_err(|_| {
            let reason = "not a number of at most 32 bits (a leading 0 means octal)";
            FilterError::value(position, word, reason)
        })
}

fn parse_ipv4(word: &str) -> Option<TokenKind> {
    let (mut bits, mut length) = (0u32, 0u8);
    for part in word.split('.') {
        if length == 32 || part.is_empty() || part.len() > 3 {
            return None;
        }
        let byte: u8 = part.parse().ok()?;
        bits |= u32::from(byte) << (24 - length);
        length += 8;
    }
    Some(TokenKind::Ipv4 { bits, length })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Vec<TokenKind> {
        tokenize(text)
            .unwrap()
            .into_iter()
            .map(|token| token.kind)
            .collect()
    }

    #[test]
    fn the_longest_match_wins() {
        assert_eq!(kinds("80-90"), [TokenKind::Word, TokenKind::End]);
        assert_eq!(kinds("len-4"), [TokenKind::Word, TokenKind::End]);
        assert_eq!(kinds("dead::beef").len(), 2);
        let net = TokenKind::Ipv4 {
            bits: 0x0a01_0000,
            length: 16,
        };
        let slash = TokenKind::Symbol;
        assert_eq!(
            kinds("10.1/16"),
            [net, slash, TokenKind::Number(16), TokenKind::End]
        );
    }

    #[test]
    fn numbers_have_three_radices() {
        let numbers = [10, 8, 255].map(TokenKind::Number);
        assert_eq!(kinds("10 010 0xff")[..3], numbers);
        assert!(tokenize("0x100000000").is_err());
        assert!(tokenize("09").is_err());
    }

    #[test]
    fn a_slice_is_not_an_address() {
        assert_eq!(kinds("ip[2:2]").len(), 7);
        assert_eq!(kinds("::1")[0], TokenKind::Ipv6(Ipv6Addr::LOCALHOST));
        assert_eq!(
            kinds("0:1:2:3:4:ff")[0],
            TokenKind::Mac([0, 1, 2, 3, 4, 255])
        );
        assert_eq!(
            kinds("0-1-2-3-4-ff")[0],
            TokenKind::Mac([0, 1, 2, 3, 4, 255])
        );
    }

    #[test]
    fn errors_say_where() {
        assert_eq!(tokenize("tcp and é").unwrap_err().position, 8);
        assert_eq!(tokenize("tcp and \\").unwrap_err().position, 8);
    }
}
