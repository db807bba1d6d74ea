//! The listener: accepts connections within limits, speaks TLS where configured, serves the
//! router.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use axum::Router;
use axum::http::header::CONNECTION;
use axum::response::{IntoResponse, Response};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::TcpUserTimeout;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;

use super::problem::{Kind, Problem};
use crate::auth::check_exposure;

/// Connections served at once; what comes beyond is closed at once, and counted.
pub const CONNECTION_COUNT_MAX: usize = 256;

/// Longest time in which the head of a request must have come.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest time for the TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest time that sent bytes may stay unacknowledged, or the peer's window shut.
const SEND_TIMEOUT_MS: u32 = 30_000;

/// Largest head of a request in bytes, and what is read ahead of a body.
const READ_BUFFER_SIZE: usize = 32 << 10;

/// Headers of a request at most.
const HEADER_COUNT_MAX: usize = 64;

/// Pause after an accept that failed (no descriptors left, for one).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a file's mode lets those do who are neither its owner nor of its group.
const MODE_OTHERS: u32 = 0o007;

/// Where to listen and how.
#[derive(Clone, Debug)]
pub struct Listen {
    /// The address and port.
    pub address: SocketAddr,
    /// Certificate chain and key in PEM.
    pub tls: Option<TlsFiles>,
}

/// Files in PEM.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The certificate chain, the server's own first.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// A bound listener.
pub struct Server {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    refused_count: Arc<AtomicU64>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Server")
            .field("listener", &self.listener)
            .finish_non_exhaustive()
    }
}

impl Server {
    /// Binds the address.
    ///
    /// # Errors
    /// The address is in use or may not be used, the TLS files cannot be read, or the API would
    /// be open to others without tokens or TLS.
    pub async fn bind(listen: &Listen, has_tokens: bool) -> anyhow::Result<Self> {
        check_exposure(listen.address.ip(), has_tokens, listen.tls.is_some())?;
        let tls = listen.tls.as_ref().map(acceptor).transpose()?;
        let listener = TcpListener::bind(listen.address).await.with_context(|| {
            format!(
                "listen on {}: is another phalanx running? choose another address with --listen",
                listen.address
            )
        })?;
        Ok(Self {
            listener,
            tls,
            refused_count: Arc::default(),
        })
    }

    /// Where it listens: the port is known where 0 was asked for.
    ///
    /// # Errors
    /// The socket is gone.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Counts the connections that were closed because too many were open.
    #[must_use]
    pub fn refused_count(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.refused_count)
    }

    /// Serves until `stop` becomes true, then lets running requests end within `HEADER_TIMEOUT`.
    pub async fn run(self, router: Router, mut stop: watch::Receiver<bool>) {
        let places = Arc::new(Semaphore::new(CONNECTION_COUNT_MAX));
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = stopped(&mut stop) => break,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::debug!(%error, "accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                self.refused_count.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            let connection = Connection {
                tls: self.tls.clone(),
                router: router.clone(),
                stop: stop.clone(),
            };
            tokio::spawn(async move {
                connection.run(stream).await;
                drop(place);
            });
        }
        drop(self.listener);
        let all = u32::try_from(CONNECTION_COUNT_MAX).unwrap_or(u32::MAX);
        if tokio::time::timeout(HEADER_TIMEOUT, places.acquire_many(all))
            .await
            .is_err()
        {
            tracing::debug!("connections were cut off at the end");
        }
    }
}

/// Waits until the daemon stops; a sender that is gone stops it too.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    drop(stop.wait_for(|is_stopped| *is_stopped).await);
}

struct Connection {
    tls: Option<TlsAcceptor>,
    router: Router,
    stop: watch::Receiver<bool>,
}

impl Connection {
    async fn run(mut self, stream: TcpStream) {
        if let Err(error) = setsockopt(&stream, TcpUserTimeout, &SEND_TIMEOUT_MS) {
            tracing::debug!(%error, "set TCP_USER_TIMEOUT");
        }
        let Some(acceptor) = self.tls.clone() else {
            return self.serve(stream).await;
        };
        match tokio::time::timeout(HANDSHAKE_TIMEOUT, is_plain_http(&stream)).await {
            Ok(false) => {}
            Ok(true) => {
                self.router = Router::new().fallback(refuse_plain_http);
                return self.serve(stream).await;
            }
            Err(_) => return tracing::debug!("nothing came for a TLS handshake"),
        }
        match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => self.serve(stream).await,
            Ok(Err(error)) => tracing::debug!(%error, "TLS handshake"),
            Err(_) => tracing::debug!("TLS handshake took too long"),
        }
    }

    async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(mut self, stream: S) {
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .max_buf_size(READ_BUFFER_SIZE)
            .max_headers(HEADER_COUNT_MAX)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(self.router))
            .with_upgrades();
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = stopped(&mut self.stop) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "connection");
        }
    }
}

/// Whether what comes is a request in clear: it begins with a letter, a TLS handshake with 22.
async fn is_plain_http(stream: &TcpStream) -> bool {
    let mut first = [0];
    matches!(stream.peek(&mut first).await, Ok(1) if first[0].is_ascii_alphabetic())
}

/// What whoever speaks in clear to an address with TLS is told, instead of bytes of a failed
/// handshake.
async fn refuse_plain_http() -> Response {
    let problem = Problem::new(Kind::Malformed, "this address speaks TLS, not plain HTTP")
        .remedy("use https://; a token that was sent in clear is to be replaced");
    ([(CONNECTION, "close")], problem).into_response()
}

fn acceptor(files: &TlsFiles) -> anyhow::Result<TlsAcceptor> {
    let read = |path: &Path, what: &str| format!("read the {what} in PEM from {}", path.display());
    let certificate = || read(&files.certificate, "certificate");
    let chain = CertificateDer::pem_file_iter(&files.certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .with_context(certificate)?;
    ensure!(!chain.is_empty(), "{}: there is none", certificate());
    check_secret(&files.key)?;
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .with_context(|| read(&files.key, "private key"))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("choose TLS versions")?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .with_context(|| {
            format!(
                "use {} with {}: the key must belong to the first certificate",
                files.certificate.display(),
                files.key.display()
            )
        })?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// A private key is for the daemon and its group alone.
fn check_secret(path: &Path) -> anyhow::Result<()> {
    let metadata = std::fs::metadata(path)
        .with_context(|| format!("read the private key in PEM from {}", path.display()))?;
    ensure!(
        metadata.permissions().mode() & MODE_OTHERS == 0,
        "{}: everybody on this machine can use the private key; chmod o= {0}",
        path.display()
    );
    Ok(())
}
