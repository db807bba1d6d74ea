//! A new agent gets its certificate: it makes a key that never leaves the host, and shows a token
//! that works once to the hub whose authority the token names.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use bytes::Bytes;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};
use rustls::pki_types::CertificateDer;

use super::identity::{AgentFiles, Enrolled};
use crate::link::PROTOCOL_VERSION;
use crate::link::connection::{Address, connect, explain_status, look};
use crate::link::credential::{looking_config, newcomer_config};
use crate::link::protocol::EnrollRequest;

/// What it takes to enroll.
#[derive(Clone, Debug)]
pub struct EnrollOptions<'a> {
    /// Where the hub is.
    pub url: &'a str,
    /// The fingerprint of its authority.
    pub fingerprint: [u8; 32],
    /// What works once.
    pub secret: &'a str,
    /// Where the files go.
    pub directory: &'a Path,
    /// Whether an enrollment that is there may be replaced.
    pub may_replace: bool,
}

/// Enrolls this host.
///
/// # Errors
/// It is enrolled already, the hub is not reached or not the right one, or it refuses the token.
pub fn enroll(options: &EnrollOptions<'_>) -> anyhow::Result<Enrolled> {
    let files = AgentFiles::new(options.directory);
    if let Some(before) = files.read()?
        && !options.may_replace
    {
        bail!(
            "{}: this host is enrolled at {} as {} already; --force replaces that",
            options.directory.display(),
            before.hub,
            before.host
        );
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(ask(options, &files))
}

async fn ask(options: &EnrollOptions<'_>, files: &AgentFiles) -> anyhow::Result<Enrolled> {
    let address = Address::parse(options.url)?;
    let authority = look(&address, Arc::new(looking_config()?), options.fingerprint).await?;
    let config = newcomer_config(authority.clone())?;
    let mut client = connect(&address, Arc::new(config)).await?;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).context("make a key")?;
    let request = EnrollRequest {
        protocol_version: PROTOCOL_VERSION,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        secret: options.secret.to_owned(),
        public_key: Bytes::copy_from_slice(key.der_bytes()),
    };
    let response = match client.enroll(request).await {
        Ok(response) => response.into_inner(),
        Err(status) => bail!("{address}: {}", explain_status(&status)),
    };
    let enrolled = Enrolled {
        agent: response.agent,
        host: response.host,
        hub: address.to_string(),
    };
    files.write(
        &enrolled,
        &pem(&authority),
        &response.certificate_pem,
        &key.serialize_pem(),
    )?;
    Ok(enrolled)
}

fn pem(certificate: &CertificateDer<'_>) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(certificate);
    let lines: Vec<&str> = text
        .as_bytes()
        .chunks(64)
        .filter_map(|line| std::str::from_utf8(line).ok())
        .collect();
    format!(
        "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
        lines.join("\n")
    )
}
