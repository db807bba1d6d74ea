//! A client of the API for the commands: one request a connection, bodies as they come.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, USER_AGENT};
use hyper::{Method, Request, Response, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::version::VERSION;
use crate::plain::plain;

/// Longest time to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Largest answer that is read whole, in bytes.
const ANSWER_SIZE_MAX: usize = 64 << 20;

/// Where the API is and how to reach it.
#[derive(Clone, Debug, clap::Args)]
pub struct Address {
    /// Address of the API: a URL, or an address and port.
    #[arg(
        long = "api",
        value_name = "URL",
        env = "PHALANX_API",
        default_value = "http://127.0.0.1:7070",
        value_parser = parse_url
    )]
    url: Uri,
    /// Bearer token; better in the environment than in the list of processes.
    #[arg(
        long,
        value_name = "TOKEN",
        env = "PHALANX_TOKEN",
        hide_env_values = true
    )]
    token: Option<String>,
    /// Certificate, in PEM, that the API's certificate is signed with.
    #[arg(long, value_name = "FILE", env = "PHALANX_CA")]
    ca: Option<PathBuf>,
}

/// Reads a URL; without a scheme it is one of HTTP.
fn parse_url(text: &str) -> Result<Uri, String> {
    let url = if text.contains("://") {
        text.to_owned()
    } else {
        format!("http://{text}")
    };
    url.parse()
        .map_err(|error| format!("{error}; write http://ADDRESS:PORT"))
}

/// A client of one API.
#[derive(Clone, Debug)]
pub struct Client {
    address: Address,
    host: String,
    port: u16,
    tls: Option<Arc<rustls::ClientConfig>>,
}

impl Client {
    /// A client of the API at `address`.
    ///
    /// # Errors
    /// The URL is not one of HTTP, or the certificate cannot be read.
    pub fn new(address: &Address) -> anyhow::Result<Self> {
        let scheme = address.url.scheme_str().unwrap_or_default();
        let host = address
            .url
            .host()
            .context("the URL of the API names no host")?;
        ensure!(
            matches!(scheme, "http" | "https"),
            "{}: write http:// or https://",
            address.url
        );
        let port = address
            .url
            .port_u16()
            .unwrap_or(if scheme == "https" { 443 } else { 80 });
        let tls = if scheme == "https" {
            Some(Arc::new(tls(address)?))
        } else {
            None
        };
        Ok(Self {
            address: address.clone(),
            host: host.to_owned(),
            port,
            tls,
        })
    }

    /// Reads a resource.
    ///
    /// # Errors
    /// The API cannot be reached, or answers with a problem.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        decode(self.send(Method::GET, path, None).await?).await
    }

    /// Posts a body and reads the answer.
    ///
    /// # Errors
    /// The API cannot be reached, or answers with a problem.
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> anyhow::Result<T> {
        let body = serde_json::to_vec(body).context("write the request")?;
        decode(self.send(Method::POST, path, Some(body)).await?).await
    }

    /// Reads a resource as its bytes come.
    ///
    /// # Errors
    /// The API cannot be reached, or answers with a problem.
    pub async fn stream(&self, path: &str) -> anyhow::Result<Incoming> {
        Ok(self.send(Method::GET, path, None).await?.into_body())
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> anyhow::Result<Response<Incoming>> {
        let host = self
            .address
            .url
            .authority()
            .map_or("", hyper::http::uri::Authority::as_str);
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, host)
            .header(USER_AGENT, format!("phalanx/{VERSION}"))
            .header(CONTENT_TYPE, "application/json");
        if let Some(token) = &self.address.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let body = Full::new(Bytes::from(body.unwrap_or_default()));
        let request = request.body(body).context("write the request")?;
        let response = match tokio::time::timeout(CONNECT_TIMEOUT, self.connect()).await {
            Ok(connected) => connected?.send_request(request).await,
            Err(_) => bail!("{}: no connection in {CONNECT_TIMEOUT:?}", self.address.url),
        };
        let response = response.with_context(|| format!("ask {}", self.address.url))?;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(problem(response).await)
    }

    async fn connect(&self) -> anyhow::Result<http1::SendRequest<Full<Bytes>>> {
        let name = self.host.trim_start_matches('[').trim_end_matches(']');
        let stream = TcpStream::connect((name, self.port))
            .await
            .with_context(|| {
                format!(
                    "connect to {}: is phalanx up? choose another with --api",
                    self.address.url
                )
            })?;
        let Some(tls) = &self.tls else {
            return handshake(stream).await;
        };
        let server = ServerName::try_from(name.to_owned()).context("the name of the API")?;
        let stream = TlsConnector::from(Arc::clone(tls))
            .connect(server, stream)
            .await;
        let stream = stream.map_err(|error| {
            let remedy = describe_refusal(&error);
            anyhow::Error::new(error).context(format!("TLS with {}: {remedy}", self.address.url))
        });
        handshake(stream?).await
    }
}

async fn handshake<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
) -> anyhow::Result<http1::SendRequest<Full<Bytes>>> {
    let (sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .context("begin HTTP")?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection to the API");
        }
    });
    Ok(sender)
}

/// What to do about a TLS handshake that failed.
fn describe_refusal(error: &std::io::Error) -> &'static str {
    let cause = error.get_ref();
    match cause.and_then(|cause| cause.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(_)) => {
            "its certificate must be for this address, signed by what --ca names, and no \
             authority's own (CA:FALSE)"
        }
        Some(rustls::Error::InvalidMessage(_)) => "no TLS is spoken there; try http://",
        _ => "see the log of the daemon at the level debug",
    }
}

fn tls(address: &Address) -> anyhow::Result<rustls::ClientConfig> {
    let path = address
        .ca
        .as_ref()
        .context("https needs --ca with the API's authority in PEM")?;
    let mut roots = rustls::RootCertStore::empty();
    let read = || format!("read {}", path.display());
    for certificate in CertificateDer::pem_file_iter(path).with_context(read)? {
        roots
            .add(certificate.with_context(read)?)
            .with_context(read)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("choose TLS versions")?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

async fn decode<T: DeserializeOwned>(response: Response<Incoming>) -> anyhow::Result<T> {
    serde_json::from_slice(&whole(response).await?)
        .context("the answer is not what this version of phalanx understands")
}

async fn whole(response: Response<Incoming>) -> anyhow::Result<Bytes> {
    let body = http_body_util::Limited::new(response.into_body(), ANSWER_SIZE_MAX);
    let body = body
        .collect()
        .await
        .map_err(|error| anyhow!("read the answer: {error}"))?;
    Ok(body.to_bytes())
}

/// What the API says is wrong, in a line.
async fn problem(response: Response<Incoming>) -> anyhow::Error {
    let status = response.status();
    let body = whole(response).await.unwrap_or_default();
    let Ok(problem) = serde_json::from_slice::<serde_json::Value>(&body) else {
        return anyhow!("the API answers {status}");
    };
    let text = |name: &str| problem[name].as_str().unwrap_or_default().to_owned();
    let mut line = text("detail");
    if !text("field").is_empty() {
        line = format!("{}: {line}", text("field"));
    }
    if let Some(position) = problem["position"].as_u64() {
        line = format!("{line} (at byte {position})");
    }
    if !text("remedy").is_empty() {
        line = format!("{line}; {}", text("remedy"));
    }
    anyhow!(plain(&line))
}
