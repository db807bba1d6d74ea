//! Lines of an HTTP/1 head (RFC 9112 sections 3 to 5).

use crate::application::text::printable;
use crate::limits::{HTTP_HOST_LENGTH_MAX, HTTP_PATH_LENGTH_MAX};

/// The methods that are known: RFC 9110, PATCH, WebDAV and its kin, UPnP, PURGE of caches.
const METHODS: [&str; 28] = [
    "GET",
    "POST",
    "HEAD",
    "PUT",
    "DELETE",
    "CONNECT",
    "OPTIONS",
    "TRACE",
    "PATCH",
    "PROPFIND",
    "PROPPATCH",
    "MKCOL",
    "COPY",
    "MOVE",
    "LOCK",
    "UNLOCK",
    "REPORT",
    "SEARCH",
    "MKCALENDAR",
    "ACL",
    "CHECKOUT",
    "MERGE",
    "NOTIFY",
    "SUBSCRIBE",
    "UNSUBSCRIBE",
    "PURGE",
    "QUERY",
    "MKACTIVITY",
];

/// Longest method that is looked for.
const METHOD_LENGTH_MAX: usize = 15;

const VERSION: &[u8] = b"HTTP/1.";

/// What a message begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Start {
    Request {
        method: &'static str,
        path: Box<str>,
        /// The host that the target names.
        host: Option<Box<str>>,
    },
    Response {
        status: u16,
    },
}

/// Whether bytes begin a message; nothing where they are too few to tell.
pub(in crate::application) fn begins(bytes: &[u8]) -> Option<bool> {
    if bytes.starts_with(VERSION) {
        return Some(true);
    }
    if VERSION.starts_with(bytes) {
        return None;
    }
    if !bytes.first().is_some_and(u8::is_ascii_uppercase) {
        return Some(false);
    }
    let head = bytes.get(..METHOD_LENGTH_MAX + 1).unwrap_or(bytes);
    let Some(space) = head.iter().position(|byte| *byte == b' ') else {
        if head.len() > METHOD_LENGTH_MAX {
            return Some(false);
        }
        let mut methods = METHODS.iter();
        let is_begun = methods.any(|method| method.as_bytes().starts_with(bytes));
        return if is_begun { None } else { Some(false) };
    };
    let word = bytes.get(..space).unwrap_or_default();
    // Where the line's end is there, so is its version: RTSP and SIP have others.
    let is_request = match bytes.iter().position(|byte| *byte == b'\n') {
        Some(end) => {
            let line = bytes.get(..end).unwrap_or_default();
            may_be_method(word) && version_of_request(line).is_some()
        }
        None if method(word).is_none() => false,
        None => match bytes.get(space + 1..) {
            None | Some([]) => return None,
            Some([b'/' | b'*', ..]) => true,
            Some(target) => word == b"CONNECT" || target.starts_with(b"http"),
        },
    };
    Some(is_request)
}

/// Stands for a method that is not known, in a line that is a request's all the same.
const OTHER: &str = "(other)";

fn method(word: &[u8]) -> Option<&'static str> {
    METHODS
        .iter()
        .find(|method| method.as_bytes() == word)
        .copied()
}

/// Whether a word may be a method: capitals, as those of Microsoft's extensions are.
fn may_be_method(word: &[u8]) -> bool {
    let is_plain = |byte: &u8| byte.is_ascii_uppercase() || matches!(*byte, b'_' | b'-');
    !word.is_empty() && word.iter().all(is_plain)
}

/// The place of the space before the version.
fn version_of_request(line: &[u8]) -> Option<usize> {
    let space = line.iter().rposition(|byte| *byte == b' ')?;
    line.get(space + 1..)?.starts_with(VERSION).then_some(space)
}

/// Reads a start line; `is_whole` says whether its end is there.
pub(super) fn start(line: &[u8], is_whole: bool) -> Option<Start> {
    if line.starts_with(VERSION) {
        let [_, b' ', code @ ..] = line.get(VERSION.len()..VERSION.len() + 5)? else {
            return None;
        };
        let digits = std::str::from_utf8(code).ok()?;
        let status = digits.parse().ok().filter(|code| *code >= 100)?;
        return Some(Start::Response { status });
    }
    let space = line.iter().position(|byte| *byte == b' ')?;
    let word = line.get(..space)?;
    let (method, target) = match version_of_request(line) {
        Some(end) if end > space && may_be_method(word) => {
            (method(word).unwrap_or(OTHER), line.get(space + 1..end)?)
        }
        _ if is_whole => return None,
        _ => (method(word)?, line.get(space + 1..)?),
    };
    let (path, host) = split_target(method, target);
    Some(Start::Request {
        method,
        path: printable(path, HTTP_PATH_LENGTH_MAX),
        host: host.map(|host| printable(host, HTTP_HOST_LENGTH_MAX)),
    })
}

/// Path and host of a target (RFC 9112 section 3.2). Query, fragment, parameters of the path and
/// user information are dropped.
fn split_target<'a>(method: &str, target: &'a [u8]) -> (&'a [u8], Option<&'a [u8]>) {
    let is_end = |byte: &u8| matches!(*byte, b'?' | b'#' | b';');
    let end = target.iter().position(is_end).unwrap_or(target.len());
    let target = target.get(..end).unwrap_or_default();
    if method == "CONNECT" {
        let authority = without_user(target);
        return (authority, Some(authority));
    }
    if target.starts_with(b"/") {
        return (target, None);
    }
    let Some(scheme) = target.windows(3).position(|window| window == b"://") else {
        return (without_user(target), None);
    };
    let rest = target.get(scheme + 3..).unwrap_or_default();
    let slash = rest.iter().position(|byte| *byte == b'/');
    let (authority, path) = rest.split_at(slash.unwrap_or(rest.len()));
    (path, Some(without_user(authority)))
}

/// An authority without `user:password@`.
fn without_user(authority: &[u8]) -> &[u8] {
    match authority.iter().rposition(|byte| *byte == b'@') {
        Some(at) => authority.get(at + 1..).unwrap_or_default(),
        None => authority,
    }
}

/// Name and value of a header line.
pub(super) fn field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let (name, value) = (line.get(..colon)?, line.get(colon + 1..)?);
    Some((name, value.trim_ascii()))
}

/// The value of a Content-Length.
pub(super) fn decimal(value: &[u8]) -> Option<u64> {
    let is_plain = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    let digits = std::str::from_utf8(value).ok().filter(|_| is_plain)?;
    digits.parse().ok()
}

/// The size that a line before a chunk tells (RFC 9112 section 7.1).
pub(super) fn chunk_size(line: &[u8]) -> Option<u64> {
    let end = line
        .iter()
        .position(|byte| !byte.is_ascii_hexdigit())
        .unwrap_or(line.len());
    let digits = std::str::from_utf8(line.get(..end)?).ok()?;
    let is_followed_well = matches!(line.get(end), None | Some(b';' | b' ' | b'\t'));
    u64::from_str_radix(digits, 16)
        .ok()
        .filter(|_| is_followed_well)
}

/// The text of a Host line.
pub(super) fn host(value: &[u8]) -> Box<str> {
    printable(without_user(value), HTTP_HOST_LENGTH_MAX)
}
