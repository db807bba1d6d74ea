//! Who is who on the link: identities in certificates, TLS of both ends, and the token that lets a
//! new agent in.
//!
//! A hub is its own authority. Its certificate may serve only, those of agents may ask only, so no
//! agent can pose as the hub.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use sha2::{Digest, Sha256};

use super::limits::HOST_LENGTH_MAX;

/// What the name of an agent in its certificate begins with; its id and its host follow.
const IDENTITY_PREFIX: &str = "phalanx://agent/";
/// What a token begins with: whoever finds one should know what it is of.
const TOKEN_PREFIX: &str = "phalanx-token-1.";
/// The protocol that both ends ask for.
const ALPN: &[u8] = b"h2";

/// Who an agent is, as its certificate tells.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity {
    /// Its id: drawn by the hub, never used again.
    pub agent: String,
    /// The host that its token was made for.
    pub host: String,
}

impl Identity {
    /// The name for a certificate.
    #[must_use]
    pub fn uri(&self) -> String {
        format!("{IDENTITY_PREFIX}{}/{}", self.agent, self.host)
    }

    /// Whose certificate it is. That the hub signed it, TLS has proved before.
    ///
    /// # Errors
    /// It is none of an agent.
    pub fn of(certificate: &CertificateDer<'_>) -> anyhow::Result<Self> {
        let parsed = webpki::EndEntityCert::try_from(certificate).context("read a certificate")?;
        let named = |uri: &str| {
            let (agent, host) = uri.strip_prefix(IDENTITY_PREFIX)?.split_once('/')?;
            Some(Self {
                agent: agent.to_owned(),
                host: host.to_owned(),
            })
        };
        let identity = parsed.valid_uri_names().find_map(named);
        identity.context("the certificate is none of an agent")
    }
}

/// Whether a host may be called so: it stands in certificates, file names and labels.
///
/// # Errors
/// What is wrong with it.
pub fn check_host(host: &str) -> anyhow::Result<()> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    ensure!(
        (1..=HOST_LENGTH_MAX).contains(&host.len()) && host.bytes().all(is_allowed),
        "{host:?} is no name of a host: at most {HOST_LENGTH_MAX} letters, digits, '.', '-', '_'"
    );
    Ok(())
}

/// What is copied to a new agent: one text.
#[derive(Clone, PartialEq, Eq)]
pub struct Invitation {
    /// Where the hub is.
    pub url: String,
    /// SHA-256 of the certificate of its authority.
    pub fingerprint: [u8; 32],
    /// What works once.
    pub secret: String,
}

impl std::fmt::Debug for Invitation {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Invitation")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

impl Invitation {
    /// The text.
    #[must_use]
    pub fn encode(&self) -> String {
        let fingerprint = URL_SAFE_NO_PAD.encode(self.fingerprint);
        let url = URL_SAFE_NO_PAD.encode(&self.url);
        format!("{TOKEN_PREFIX}{url}.{fingerprint}.{}", self.secret)
    }

    /// Reads the text.
    ///
    /// # Errors
    /// It is none, or was cut.
    pub fn decode(text: &str) -> anyhow::Result<Self> {
        let broken = "this is no whole token; make one with: phalanx hub token --host NAME";
        let parts: Vec<&str> = text
            .trim()
            .strip_prefix(TOKEN_PREFIX)
            .context(broken)?
            .split('.')
            .collect();
        let [url, fingerprint, secret] = parts[..] else {
            bail!(broken);
        };
        let url = URL_SAFE_NO_PAD.decode(url).context(broken)?;
        let fingerprint = URL_SAFE_NO_PAD.decode(fingerprint).context(broken)?;
        ensure!(!secret.is_empty(), broken);
        Ok(Self {
            url: String::from_utf8(url).context(broken)?,
            fingerprint: fingerprint.try_into().ok().context(broken)?,
            secret: secret.to_owned(),
        })
    }
}

/// The fingerprint of a certificate.
#[must_use]
pub fn fingerprint(certificate: &CertificateDer<'_>) -> [u8; 32] {
    Sha256::digest(certificate).into()
}

/// A fingerprint as people read it.
#[must_use]
pub fn hexadecimal(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Reads 32 bytes of hexadecimal digits; colons between them may stand.
///
/// # Errors
/// They are not that.
pub fn read_fingerprint(text: &str) -> anyhow::Result<[u8; 32]> {
    let wrong = "the fingerprint must be 64 hexadecimal digits, as phalanx hub token prints it";
    let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b':').collect();
    ensure!(digits.len() == 64, wrong);
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let pair = std::str::from_utf8(pair).context(wrong)?;
        *byte = u8::from_str_radix(pair, 16)
            .ok()
            .filter(|_| pair.bytes().all(|byte| byte.is_ascii_hexdigit()))
            .context(wrong)?;
    }
    Ok(bytes)
}

/// The certificates of a PEM file, the owner's own first.
///
/// # Errors
/// The file cannot be read or holds none.
pub fn read_certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let text = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
    let certificates = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<Vec<_>, _>>()
        .with_context(|| format!("read the certificates of {}", path.display()))?;
    ensure!(
        !certificates.is_empty(),
        "{}: no certificate in it",
        path.display()
    );
    Ok(certificates)
}

fn read_key(path: &Path) -> anyhow::Result<PrivateKeyDer<'static>> {
    let text = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
    PrivateKeyDer::from_pem_slice(&text)
        .with_context(|| format!("read the private key of {}", path.display()))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn roots(authority: &[CertificateDer<'static>]) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in authority {
        roots
            .add(certificate.clone())
            .context("take the authority's certificate")?;
    }
    Ok(roots)
}

/// The files of one end.
#[derive(Clone, Copy, Debug)]
pub struct Files<'a> {
    /// The certificate of the authority.
    pub authority: &'a Path,
    /// The own certificate.
    pub certificate: &'a Path,
    /// Its key.
    pub key: &'a Path,
}

/// TLS of a hub. Who has no certificate yet may come in, to enroll; who has one of another
/// authority may not.
///
/// # Errors
/// Files that cannot be read or do not belong together.
pub fn server_config(files: Files<'_>) -> anyhow::Result<ServerConfig> {
    let authority = read_certificates(files.authority)?;
    let mut chain = read_certificates(files.certificate)?;
    // A new agent knows its fingerprint only.
    chain.extend(authority.iter().cloned());
    let roots = Arc::new(roots(&authority)?);
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider())
        .allow_unauthenticated()
        .build()
        .context("prepare the check of certificates")?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .context("prepare TLS")?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, read_key(files.key)?)
        .with_context(|| format!("use the certificate {}", files.certificate.display()))?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

/// TLS of an agent that has its certificate.
///
/// # Errors
/// Files that cannot be read or do not belong together.
pub fn client_config(files: Files<'_>) -> anyhow::Result<ClientConfig> {
    let roots = roots(&read_certificates(files.authority)?)?;
    let chain = read_certificates(files.certificate)?;
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .context("prepare TLS")?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, read_key(files.key)?)
        .with_context(|| format!("use the certificate {}", files.certificate.display()))?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

/// TLS of an agent that has no certificate yet and knows the authority by its certificate.
///
/// # Errors
/// The authority is none.
pub fn newcomer_config(authority: CertificateDer<'static>) -> anyhow::Result<ClientConfig> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .context("prepare TLS")?
        .with_root_certificates(roots(&[authority])?)
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

/// TLS that believes any certificate: only to be shown the authority's, whose fingerprint is then
/// compared before anything is said.
///
/// # Errors
/// TLS cannot be prepared.
pub fn looking_config() -> anyhow::Result<ClientConfig> {
    let provider = provider();
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .context("prepare TLS")?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Looking(provider)))
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

#[derive(Debug)]
struct Looking(Arc<CryptoProvider>);

impl ServerCertVerifier for Looking {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_back_and_a_cut_one_says_so() {
        let invitation = Invitation {
            url: "https://hub.example:7071".to_owned(),
            fingerprint: [7; 32],
            secret: "abc-_".to_owned(),
        };
        let text = invitation.encode();
        assert_eq!(
            Invitation::decode(&format!(" {text}\n")).unwrap(),
            invitation
        );
        assert!(!format!("{invitation:?}").contains("abc"));
        let end = text.rfind('.').unwrap();
        for bad in ["", "x", &text[..end], &text[..=end], &text[1..]] {
            let error = Invitation::decode(bad).unwrap_err().to_string();
            assert!(error.contains("phalanx hub token"), "{bad}: {error}");
        }
    }

    #[test]
    fn a_fingerprint_reads_back_with_and_without_colons() {
        let text = hexadecimal(&[0xab; 32]);
        assert_eq!(read_fingerprint(&text).unwrap(), [0xab; 32]);
        assert_eq!(read_fingerprint(&"ab:".repeat(32)).unwrap(), [0xab; 32]);
        for bad in ["", "ab", &"zz".repeat(32), &"+1".repeat(32)] {
            assert!(read_fingerprint(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn hosts_are_plain_words() {
        for good in ["web-1", "a.b.example", "x_1"] {
            check_host(good).unwrap();
        }
        for bad in ["", "a/b", "a b", "ü", &"a".repeat(254)] {
            assert!(check_host(bad).is_err(), "{bad}");
        }
    }
}
