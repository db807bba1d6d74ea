//! The agent's end of a connection: TCP, TLS and HTTP/2 under the generated client.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use axum::http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::body::Body;
use tower::{BoxError, Service};

use super::credential::fingerprint;
use super::limits::{KEEP_ALIVE_INTERVAL, KEEP_ALIVE_TIMEOUT};
use super::protocol::hub_client::HubClient;

/// Longest time to connect and to agree on TLS.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long it may take until it is known why a connection ended.
const END_TIMEOUT: Duration = Duration::from_secs(1);
/// The port of hubs, where the URL has none.
pub const PORT_DEFAULT: u16 = 7071;

/// Where a hub is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    host: String,
    port: u16,
}

impl std::fmt::Display for Address {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(formatter, "https://[{}]:{}", self.host, self.port)
        } else {
            write!(formatter, "https://{}:{}", self.host, self.port)
        }
    }
}

impl Address {
    /// Reads `https://HOST:PORT`.
    ///
    /// # Errors
    /// It is none.
    pub fn parse(url: &str) -> anyhow::Result<Self> {
        let wrong = || format!("{url:?} is not where a hub is: such as https://hub.example:7071");
        let uri: Uri = url.parse().with_context(wrong)?;
        let has_path = !matches!(uri.path(), "" | "/");
        ensure!(uri.scheme_str() == Some("https") && !has_path, wrong());
        let host = uri.host().with_context(wrong)?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        Ok(Self {
            host: host.to_owned(),
            port: uri.port_u16().unwrap_or(PORT_DEFAULT),
        })
    }
}

/// A connection that the generated client can use.
#[derive(Clone, Debug)]
pub struct Connection {
    sender: SendRequest<Body>,
    /// Why it ended.
    ended: watch::Receiver<Option<String>>,
}

impl Service<Request<Body>> for Connection {
    type Response = Response<Incoming>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut TaskContext<'_>) -> Poll<Result<(), Self::Error>> {
        // What is wrong with it, the request tells.
        self.sender.poll_ready(context).map(|_| Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let answer = self.sender.send_request(request);
        let mut ended = self.ended.clone();
        Box::pin(async move {
            match answer.await {
                Ok(response) => Ok(response),
                Err(error) => Err(why_ended(&mut ended).await.unwrap_or_else(|| error.into())),
            }
        })
    }
}

/// Why a connection ended: the request that was under way knows less.
async fn why_ended(ended: &mut watch::Receiver<Option<String>>) -> Option<BoxError> {
    let told = tokio::time::timeout(END_TIMEOUT, ended.wait_for(Option::is_some)).await;
    let why = told.ok()?.ok()?.clone()?;
    Some(std::io::Error::other(why).into())
}

/// An error and all that lies behind it.
fn whole(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

async fn connect_tls(
    address: &Address,
    config: Arc<ClientConfig>,
) -> anyhow::Result<TlsStream<TcpStream>> {
    let target = (address.host.as_str(), address.port);
    let stream = TcpStream::connect(target)
        .await
        .with_context(|| format!("connect to {address}: is the hub running there?"))?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from(address.host.clone())
        .with_context(|| format!("{}: no name of a host", address.host))?;
    let stream = TlsConnector::from(config).connect(name, stream).await;
    stream.map_err(|error| explain(address, &error))
}

/// What a failed handshake means here.
fn explain(address: &Address, error: &std::io::Error) -> anyhow::Error {
    use rustls::{CertificateError, Error};
    let tls = error.get_ref().and_then(|it| it.downcast_ref::<Error>());
    let told = match tls {
        Some(Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        )) => format!(
            "the hub's certificate is not for {}: use a name that phalanx hub init was given, or \
             add it there",
            address.host
        ),
        Some(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            "this is not the hub that this agent was enrolled at: enroll it anew".to_owned()
        }
        Some(Error::InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        )) => {
            "the hub's certificate is not valid now: are the clocks of both hosts right?".to_owned()
        }
        Some(Error::AlertReceived(_)) => {
            "the hub refused the certificate of this agent: it is of another hub, or no longer \
             valid; enroll this host anew"
                .to_owned()
        }
        _ => "TLS failed".to_owned(),
    };
    anyhow::anyhow!("{address}: {told} ({error})")
}

/// What an error of a session means.
#[must_use]
pub fn explain_status(status: &tonic::Status) -> String {
    match status.message() {
        "" => status.code().to_string(),
        message => message.to_owned(),
    }
}

/// Connects. The connection ends with the last clone of the client.
///
/// # Errors
/// Nobody is there, or it is not the hub.
pub async fn connect(
    address: &Address,
    config: Arc<ClientConfig>,
) -> anyhow::Result<HubClient<Connection>> {
    let connecting = async {
        let mut stream = BufReader::new(connect_tls(address, config).await?);
        // The hub speaks first, unless it refuses the certificate: in TLS 1.3 an agent learns that
        // after its own handshake, and must not write before, or it learns of a broken pipe only.
        let first = stream.fill_buf().await;
        let is_ended = first.map_err(|error| explain(address, &error))?.is_empty();
        ensure!(!is_ended, "{address}: the hub closed the connection");
        let (sender, connection) = Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(stream))
            .await
            .with_context(|| format!("{address}: HTTP/2 failed"))?;
        let (tell, ended) = watch::channel(None);
        tokio::spawn(async move {
            let why = match connection.await {
                Ok(()) => "the hub closed the connection".to_owned(),
                Err(error) => whole(&error),
            };
            tracing::debug!(why, "the connection to the hub ended");
            tell.send_replace(Some(why));
        });
        let origin: Uri = address.to_string().parse()?;
        let connection = Connection { sender, ended };
        Ok(HubClient::with_origin(connection, origin))
    };
    match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
        Ok(connected) => connected,
        Err(_) => bail!("connect to {address}: no answer within {CONNECT_TIMEOUT:?}"),
    }
}

/// The certificate of the authority with this fingerprint, if whoever answers there shows it. That
/// it is the hub which shows it, the next connection proves.
///
/// # Errors
/// Nobody is there, or shows another one.
pub async fn look(
    address: &Address,
    config: Arc<ClientConfig>,
    wanted: [u8; 32],
) -> anyhow::Result<CertificateDer<'static>> {
    let stream = match tokio::time::timeout(CONNECT_TIMEOUT, connect_tls(address, config)).await {
        Ok(stream) => stream?,
        Err(_) => bail!("connect to {address}: no answer within {CONNECT_TIMEOUT:?}"),
    };
    let shown = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let authority = shown.iter().find(|it| fingerprint(it) == wanted);
    let authority = authority.with_context(|| {
        format!(
            "{address}: who answers there is not the hub of this token (the fingerprint of its \
             authority is another): nothing was sent"
        )
    })?;
    Ok(authority.clone().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_hubs_are_read_and_others_refused() {
        let shown = |url| Address::parse(url).unwrap().to_string();
        assert_eq!(shown("https://hub.example"), "https://hub.example:7071");
        assert_eq!(shown("https://10.0.0.1:99/"), "https://10.0.0.1:99");
        assert_eq!(shown("https://[fd00::1]:99"), "https://[fd00::1]:99");
        for bad in ["", "hub", "http://hub:7071", "https://hub/path", "https://"] {
            let error = Address::parse(bad).unwrap_err().to_string();
            assert!(error.contains("https://hub.example:7071"), "{bad}: {error}");
        }
    }
}
