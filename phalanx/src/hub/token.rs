//! Tokens that let a new agent in: each is made for one host, works once, and expires. A file each,
//! named by the hash of the token, so that whoever reads them cannot use them, and a rename decides
//! who was first.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::authority::draw;
use super::directory::Directory;
use crate::auth::TokenDigest;
use crate::disk::{make_directory, write_secret};
use crate::link::credential::check_host;

/// Used and expired tokens are forgotten after this: until then a replay is told what it is.
const KEPT: Duration = Duration::from_secs(30 * 24 * 3_600);
/// Tokens that are kept at once.
const TOKEN_COUNT_MAX: usize = 4_096;

#[derive(Debug, Serialize, Deserialize)]
struct Facts {
    host: String,
    /// Seconds since 1970.
    expires_s: u64,
}

/// Why a token does not let in.
#[derive(Debug, thiserror::Error)]
pub enum TokenFault {
    /// It was never made here, or so long ago that it was forgotten.
    #[error("the token is not known here: make one at the hub with phalanx hub token --host NAME")]
    Unknown,
    /// It has let somebody in.
    #[error(
        "the token was used already, and works once: if that was not you, remove the agent that \
         came with it (phalanx hub agents); make another with phalanx hub token --host NAME"
    )]
    Used,
    /// It is too old.
    #[error("the token has expired: make another with phalanx hub token --host NAME")]
    Expired,
    /// The hub's disk.
    #[error("the hub cannot read its tokens")]
    Disk(#[source] anyhow::Error),
}

/// The tokens of a hub.
#[derive(Clone, Debug)]
pub struct Tokens(Directory);

fn now_s() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}

/// Makes a token for a host: its secret.
///
/// # Errors
/// The name is none, there are too many, or the file cannot be written.
pub fn make_token(
    directory: &Directory,
    host: &str,
    valid_for: Duration,
) -> anyhow::Result<String> {
    check_host(host)?;
    let tokens = directory.tokens();
    make_directory(&tokens)?;
    let count = std::fs::read_dir(&tokens)
        .with_context(|| format!("list {}", tokens.display()))?
        .filter_map(Result::ok)
        .filter(|entry| !is_forgotten(entry))
        .count();
    anyhow::ensure!(
        count < TOKEN_COUNT_MAX,
        "{}: {count} tokens are there; remove old ones",
        tokens.display()
    );
    let secret = URL_SAFE_NO_PAD.encode(draw::<32>()?);
    let facts = Facts {
        host: host.to_owned(),
        expires_s: now_s().saturating_add(valid_for.as_secs()),
    };
    let text = serde_json::to_vec(&facts).context("write down the token")?;
    write_secret(&tokens.join(TokenDigest::of(&secret).to_string()), &text)?;
    Ok(secret)
}

/// Removes a file that is older than what is kept; whether it was.
fn is_forgotten(entry: &std::fs::DirEntry) -> bool {
    let age = entry
        .metadata()
        .and_then(|it| it.modified())
        .ok()
        .and_then(|modified| modified.elapsed().ok());
    age.is_some_and(|age| age > KEPT) && std::fs::remove_file(entry.path()).is_ok()
}

impl Tokens {
    /// The tokens of a directory.
    #[must_use]
    pub fn new(directory: &Directory) -> Self {
        Self(directory.clone())
    }

    /// Uses a token up: the host that it was made for.
    ///
    /// # Errors
    /// It does not let in.
    pub fn redeem(&self, secret: &str) -> Result<String, TokenFault> {
        let digest = TokenDigest::of(secret).to_string();
        let fresh = self.0.tokens().join(&digest);
        let used = self.0.tokens().join(format!("{digest}.used"));
        if used.exists() {
            return Err(TokenFault::Used);
        }
        let text = match std::fs::read(&fresh) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(TokenFault::Unknown);
            }
            Err(error) => return Err(TokenFault::Disk(error.into())),
        };
        let facts: Facts =
            serde_json::from_slice(&text).map_err(|error| TokenFault::Disk(error.into()))?;
        if facts.expires_s <= now_s() {
            return Err(TokenFault::Expired);
        }
        // Of two who come at once, one finds the file gone.
        match std::fs::rename(&fresh, &used) {
            Ok(()) => Ok(facts.host),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(TokenFault::Used),
            Err(error) => Err(TokenFault::Disk(error.into())),
        }
    }
}
