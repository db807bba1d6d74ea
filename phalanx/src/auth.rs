//! [`Access`]: who may do what over HTTP, decided from a bearer token, and where the API may
//! listen. There are no sessions and no cookies.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};
use utoipa::ToSchema;

/// What a holder of a token may do; each role may do all that the ones before it may.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Reads metrics, flows and the list of captures.
    Viewer,
    /// Starts, stops, downloads and deletes captures of headers.
    Operator,
    /// Captures payload as well.
    Admin,
}

impl Role {
    /// The role as configuration and API spell it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

impl Role {
    /// The role of a name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        [Self::Viewer, Self::Operator, Self::Admin]
            .into_iter()
            .find(|role| role.name() == name)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// The SHA-256 of a token. The token itself is stored nowhere.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TokenDigest([u8; 32]);

impl TokenDigest {
    /// The digest of a token as a client sends it.
    #[must_use]
    pub fn of(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }
}

impl fmt::Debug for TokenDigest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("TokenDigest(…)")
    }
}

impl fmt::Display for TokenDigest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

/// A digest in the configuration that is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("sha256 must be 64 hexadecimal digits; make it with: printf %s \"$TOKEN\" | sha256sum")]
pub struct BadDigest;

impl FromStr for TokenDigest {
    type Err = BadDigest;

    fn from_str(text: &str) -> Result<Self, BadDigest> {
        let digits = text.as_bytes();
        if digits.len() != 64 {
            return Err(BadDigest);
        }
        let mut digest = [0; 32];
        for (byte, pair) in digest.iter_mut().zip(digits.chunks_exact(2)) {
            let high = (pair[0] as char).to_digit(16).ok_or(BadDigest)?;
            let low = (pair[1] as char).to_digit(16).ok_or(BadDigest)?;
            *byte = u8::try_from(high << 4 | low).map_err(|_| BadDigest)?;
        }
        Ok(Self(digest))
    }
}

/// A token that is accepted, as the configuration has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Who holds it; for the log.
    pub name: String,
    /// What its holder may do.
    pub role: Role,
    /// Its digest.
    pub digest: TokenDigest,
}

/// A token in the configuration that is not one; the digest is not repeated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadToken {
    /// It has not three parts.
    #[error("each token must be name:role:sha256")]
    Form,
    /// Its role is not known.
    #[error("{0}: the role must be viewer, operator or admin")]
    Role(String),
    /// Its digest is not one.
    #[error("{0}: {1}")]
    Digest(String, BadDigest),
}

impl FromStr for Token {
    type Err = BadToken;

    /// Reads `name:role:sha256`.
    fn from_str(text: &str) -> Result<Self, BadToken> {
        let parts: Vec<&str> = text.split(':').collect();
        let [name, role, digest] = parts[..] else {
            return Err(BadToken::Form);
        };
        let name = name.to_owned();
        let role = Role::named(role).ok_or_else(|| BadToken::Role(name.clone()))?;
        let digest = digest
            .parse()
            .map_err(|bad| BadToken::Digest(name.clone(), bad))?;
        Ok(Self { name, role, digest })
    }
}

/// Who may do what.
#[derive(Clone, Debug)]
pub struct Access {
    tokens: Vec<Token>,
    local_role: Role,
}

/// Why a request is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No token, or not in the form `Bearer TOKEN`.
    Missing,
    /// A token that is not in the configuration.
    Unknown,
}

/// Why the API must not listen where it was told to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Exposure {
    /// Listening beyond loopback, but anybody could come in.
    #[error(
        "listen on {0}: everybody who reaches this address could use the API; \
         set tokens, or listen on 127.0.0.1"
    )]
    NoTokens(IpAddr),
    /// Listening beyond loopback, but tokens would travel in clear.
    #[error(
        "listen on {0}: tokens would travel unencrypted; \
         set tls_certificate_file and tls_key_file, or listen on 127.0.0.1"
    )]
    NoTls(IpAddr),
}

/// Whether the API may listen on an address.
///
/// # Errors
/// Beyond loopback without tokens, or without TLS.
pub fn check_exposure(address: IpAddr, has_tokens: bool, has_tls: bool) -> Result<(), Exposure> {
    match (address.to_canonical().is_loopback(), has_tokens, has_tls) {
        (true, _, _) | (false, true, true) => Ok(()),
        (false, false, _) => Err(Exposure::NoTokens(address)),
        (false, true, false) => Err(Exposure::NoTls(address)),
    }
}

impl Access {
    /// Who may do what: the holders of `tokens`; without any, everybody on this machine has
    /// `local_role`.
    #[must_use]
    pub const fn new(tokens: Vec<Token>, local_role: Role) -> Self {
        Self { tokens, local_role }
    }

    /// Whether there are tokens at all.
    #[must_use]
    pub const fn has_tokens(&self) -> bool {
        !self.tokens.is_empty()
    }

    /// The role of whoever sent this `Authorization` header. All tokens are compared, each in
    /// constant time, so that the time taken tells nothing of them.
    ///
    /// # Errors
    /// There are tokens, and the header carries none of them.
    pub fn role(&self, authorization: Option<&str>) -> Result<Role, Refusal> {
        if self.tokens.is_empty() {
            return Ok(self.local_role);
        }
        let presented = authorization.and_then(bearer).ok_or(Refusal::Missing)?;
        let digest = TokenDigest::of(presented);
        let mut found = 0u8;
        for token in &self.tokens {
            let is_equal: Choice = token.digest.0.ct_eq(&digest.0);
            found.conditional_assign(&(token.role as u8 + 1), is_equal);
        }
        match found {
            1 => Ok(Role::Viewer),
            2 => Ok(Role::Operator),
            3 => Ok(Role::Admin),
            _ => Err(Refusal::Unknown),
        }
    }
}

/// The token of an `Authorization` header (RFC 6750 section 2.1; the scheme in any case).
fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// Whether a `Host` header names this machine's loopback: what a page that had its name rebound
/// to 127.0.0.1 cannot say.
#[must_use]
pub fn is_loopback_host(host: &str) -> bool {
    let name = host_name(host);
    name.eq_ignore_ascii_case("localhost")
        || name
            .trim_start_matches('[')
            .trim_end_matches(']')
            .parse::<IpAddr>()
            .is_ok_and(|address| address.to_canonical().is_loopback())
}

/// Whether the page at `origin` was served under `host`.
#[must_use]
pub fn is_same_origin(origin: &str, host: &str) -> bool {
    origin
        .split_once("://")
        .is_some_and(|(_, authority)| authority.eq_ignore_ascii_case(host))
}

/// A host header without its port.
fn host_name(host: &str) -> &str {
    if host.starts_with('[') {
        return host.split_inclusive(']').next().unwrap_or(host);
    }
    host.rsplit_once(':').map_or(host, |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_read_and_faults_named_without_the_digest() {
        let parse = |text: &str| text.parse::<Token>();
        let digest = "ab".repeat(32);
        let token = parse(&format!("prometheus:viewer:{digest}")).unwrap();
        assert_eq!(
            (token.name.as_str(), token.role),
            ("prometheus", Role::Viewer)
        );
        let error = parse(&format!("x:boss:{digest}")).unwrap_err().to_string();
        assert!(
            error.contains("operator") && !error.contains(&digest),
            "{error}"
        );
        assert!(parse("x:viewer").is_err());
        assert!(parse("x:viewer:short").is_err());
    }

    fn access() -> Access {
        let token = |name: &str, role, token| Token {
            name: name.into(),
            role,
            digest: TokenDigest::of(token),
        };
        Access::new(
            vec![
                token("prometheus", Role::Viewer, "aaaa"),
                token("ci", Role::Operator, "bbbb"),
                token("root", Role::Admin, "cccc"),
            ],
            Role::Operator,
        )
    }

    #[test]
    fn each_token_has_its_role() {
        let access = access();
        assert_eq!(access.role(Some("Bearer aaaa")), Ok(Role::Viewer));
        assert_eq!(access.role(Some("bearer  bbbb ")), Ok(Role::Operator));
        assert_eq!(access.role(Some("BEARER cccc")), Ok(Role::Admin));
    }

    #[test]
    fn what_is_no_token_is_refused() {
        let access = access();
        assert_eq!(access.role(None), Err(Refusal::Missing));
        assert_eq!(access.role(Some("")), Err(Refusal::Missing));
        assert_eq!(access.role(Some("Bearer")), Err(Refusal::Missing));
        assert_eq!(access.role(Some("Bearer  ")), Err(Refusal::Missing));
        assert_eq!(access.role(Some("Basic aaaa")), Err(Refusal::Missing));
        assert_eq!(access.role(Some("Bearer aaaaa")), Err(Refusal::Unknown));
        assert_eq!(access.role(Some("Bearer aaaa bbbb")), Err(Refusal::Unknown));
    }

    #[test]
    fn without_tokens_the_machine_itself_has_the_local_role() {
        let access = Access::new(Vec::new(), Role::Viewer);
        assert_eq!(access.role(None), Ok(Role::Viewer));
        assert_eq!(access.role(Some("Bearer whatever")), Ok(Role::Viewer));
    }

    #[test]
    fn a_digest_reads_back_what_it_wrote() {
        let digest = TokenDigest::of("secret");
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert_eq!(
            digest.to_string(),
            "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"
        );
        for bad in ["", "zz", &"g".repeat(64), &"ü".repeat(32), &"a".repeat(65)] {
            assert_eq!(bad.parse::<TokenDigest>(), Err(BadDigest), "{bad}");
        }
        assert!(!format!("{digest:?}").contains("2bb8"));
    }

    #[test]
    fn beyond_loopback_tokens_and_tls_are_needed() {
        let local = "127.0.0.1".parse().unwrap();
        let mapped = "::ffff:127.0.0.9".parse().unwrap();
        let open = "0.0.0.0".parse().unwrap();
        assert_eq!(check_exposure(local, false, false), Ok(()));
        assert_eq!(check_exposure(mapped, false, false), Ok(()));
        assert_eq!(check_exposure("::1".parse().unwrap(), false, false), Ok(()));
        assert_eq!(
            check_exposure(open, false, true),
            Err(Exposure::NoTokens(open))
        );
        assert_eq!(
            check_exposure(open, true, false),
            Err(Exposure::NoTls(open))
        );
        assert_eq!(check_exposure(open, true, true), Ok(()));
    }

    #[test]
    fn only_loopback_names_pass_for_this_machine() {
        for good in [
            "localhost",
            "LOCALHOST:7070",
            "127.0.0.1:7070",
            "127.9.9.9",
            "[::1]:7070",
        ] {
            assert!(is_loopback_host(good), "{good}");
        }
        for bad in [
            "",
            "evil.example",
            "evil.example:7070",
            "localhost.evil.example",
            "10.0.0.1",
            "[::2]",
        ] {
            assert!(!is_loopback_host(bad), "{bad}");
        }
    }

    #[test]
    fn an_origin_is_the_scheme_and_the_host() {
        assert!(is_same_origin("http://localhost:7070", "localhost:7070"));
        assert!(!is_same_origin("http://localhost:8080", "localhost:7070"));
        assert!(!is_same_origin("null", "localhost:7070"));
        assert!(!is_same_origin("http://evil.example", "localhost:7070"));
    }
}
