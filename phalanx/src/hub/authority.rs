//! The hub's own authority: it signs the hub's certificate, which may only serve, and those of
//! agents, which may only ask.

use std::time::{Duration, SystemTime};

use anyhow::{Context, bail, ensure};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SignatureAlgorithm,
};
use serde::{Deserialize, Serialize};

use super::directory::Directory;
use crate::disk::{make_directory, write_secret};
use crate::link::credential::{Identity, check_host, fingerprint, hexadecimal, read_certificates};

/// A day before now: clocks of hosts differ.
const CLOCK_SLACK: Duration = Duration::from_secs(24 * 3_600);
/// How long certificates are valid: ten years. An agent is shut out by removing it, at once.
const VALIDITY: Duration = Duration::from_secs(3_650 * 24 * 3_600);
/// A point on P-256, not compressed: 4, x, y.
const PUBLIC_KEY_SIZE: usize = 65;

/// What the hub was made with.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Facts {
    /// Name of the authority.
    authority: String,
    /// What the hub may be called in URLs.
    names: Vec<String>,
    /// Seed of the engine's hashes: the same at each start, so that a replay gives the same.
    seed: u64,
}

/// The authority of a hub.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// The fingerprint of its certificate.
    pub fingerprint: [u8; 32],
    /// Seed of the engine's hashes.
    pub(super) seed: u64,
    /// What the hub may be called in URLs.
    pub names: Vec<String>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Authority")
            .field("fingerprint", &hexadecimal(&self.fingerprint))
            .finish_non_exhaustive()
    }
}

/// Random bytes from the kernel.
pub(super) fn draw<const SIZE: usize>() -> anyhow::Result<[u8; SIZE]> {
    use std::io::Read;
    let mut bytes = [0; SIZE];
    let mut source = std::fs::File::open("/dev/urandom").context("open /dev/urandom")?;
    source.read_exact(&mut bytes).context("read /dev/urandom")?;
    Ok(bytes)
}

fn params(names: Vec<String>, common_name: &str) -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::new(names).context("take the names")?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    let now = SystemTime::now();
    params.not_before = (now - CLOCK_SLACK).into();
    params.not_after = (now + VALIDITY).into();
    Ok(params)
}

fn authority_params(name: &str) -> anyhow::Result<CertificateParams> {
    let mut params = params(Vec::new(), name)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

/// Makes the authority and the hub's certificate; the names that the hub may be called by.
///
/// # Errors
/// A hub is there already, a name is none, or files cannot be written.
pub fn init(directory: &Directory, names: &[String]) -> anyhow::Result<Authority> {
    if directory.facts().exists() {
        bail!(
            "{}: a hub is there already; choose another --dir, or remove it together with all of \
             its agents' certificates",
            directory.path().display()
        );
    }
    let mut all: Vec<String> = Vec::new();
    for name in names {
        let is_address = name.parse::<std::net::IpAddr>().is_ok();
        if !is_address {
            check_host(name)?;
        }
        if !all.contains(name) {
            all.push(name.clone());
        }
    }
    ensure!(!all.is_empty(), "the hub needs a name: --name");
    make_directory(directory.path())?;
    for inner in [directory.tokens(), directory.agents(), directory.log()] {
        make_directory(&inner)?;
    }
    let facts = Facts {
        authority: format!("Phalanx hub {}", hexadecimal(&draw::<8>()?)),
        names: all,
        seed: u64::from_le_bytes(draw()?),
    };
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).context("make a key")?;
    let authority = authority_params(&facts.authority)?;
    let certificate = authority.self_signed(&key).context("sign the authority")?;
    write_secret(&directory.authority_key(), key.serialize_pem().as_bytes())?;
    let path = directory.authority_certificate();
    write_secret(&path, certificate.pem().as_bytes())?;
    let issuer = Issuer::new(authority, key);
    let mut params = params(facts.names.clone(), "Phalanx hub")?;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).context("make a key")?;
    let certificate = params.signed_by(&key, &issuer).context("sign the hub")?;
    write_secret(&directory.key(), key.serialize_pem().as_bytes())?;
    write_secret(&directory.certificate(), certificate.pem().as_bytes())?;
    let text = serde_json::to_vec_pretty(&facts).context("write down the hub")?;
    write_secret(&directory.facts(), &text)?;
    Authority::open(directory)
}

/// The public key of an agent, whose private one never leaves its host.
struct AgentKey<'a>(&'a [u8]);

impl PublicKeyData for AgentKey<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

impl Authority {
    /// The authority of a directory.
    ///
    /// # Errors
    /// There is none, or its files cannot be read.
    pub fn open(directory: &Directory) -> anyhow::Result<Self> {
        let path = directory.facts();
        let text = std::fs::read(&path).with_context(|| {
            format!(
                "read {}: make a hub with phalanx hub init --dir {}",
                path.display(),
                directory.path().display()
            )
        })?;
        let facts: Facts =
            serde_json::from_slice(&text).with_context(|| format!("read {}", path.display()))?;
        let path = directory.authority_key();
        let key =
            std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let key = KeyPair::from_pem(&key).with_context(|| format!("read {}", path.display()))?;
        let certificates = read_certificates(&directory.authority_certificate())?;
        let certificate = certificates.first().context("the authority has none")?;
        Ok(Self {
            issuer: Issuer::new(authority_params(&facts.authority)?, key),
            fingerprint: fingerprint(certificate),
            seed: facts.seed,
            names: facts.names,
        })
    }

    /// Signs the certificate of an agent; in PEM.
    ///
    /// # Errors
    /// The key is none.
    pub fn sign(&self, identity: &Identity, public_key: &[u8]) -> anyhow::Result<String> {
        ensure!(
            public_key.len() == PUBLIC_KEY_SIZE && public_key.first() == Some(&4),
            "the public key is no point on P-256"
        );
        let mut params = params(Vec::new(), &identity.host)?;
        let uri = identity.uri().try_into().context("name the agent")?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params
            .signed_by(&AgentKey(public_key), &self.issuer)
            .context("sign the agent")?;
        Ok(certificate.pem())
    }
}
