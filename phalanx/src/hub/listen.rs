//! The hub's door for agents: accepts connections within limits, speaks TLS, learns who comes from
//! the certificate, and serves the protocol.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;

use super::registry::AGENT_COUNT_MAX;
use super::session::{Reception, Shared};
use crate::capture::RUNNING_COUNT_MAX;
use crate::link::credential::Identity;
use crate::link::limits::{BATCH_BYTES_MAX, KEEP_ALIVE_INTERVAL, KEEP_ALIVE_TIMEOUT};
use crate::link::protocol::hub_server::HubServer;

/// Connections at once: one for each agent, and some who enroll or come anew before the hub has
/// found out that they were gone.
const CONNECTION_COUNT_MAX: usize = AGENT_COUNT_MAX + 256;
/// Of these, those that have not shown a certificate yet.
const NEWCOMER_COUNT_MAX: usize = 128;
/// Longest time for the TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest time that a connection without a certificate is kept.
const NEWCOMER_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause after an accept that failed (no descriptors left, for one).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Requests of one connection at once: a session, a delivery for each capture that runs and each
/// that has just ended, and some more.
const STREAM_COUNT_MAX: u32 = 4 + 2 * RUNNING_COUNT_MAX as u32;
/// Largest headers of a request in bytes.
const HEADER_BYTES_MAX: u32 = 16 << 10;
/// Largest message: a batch, and its numbers.
const MESSAGE_BYTES_MAX: usize = BATCH_BYTES_MAX + 4_096;
/// Bytes that may be on their way in one connection before somebody has read them.
const WINDOW_BYTES: u32 = 1 << 20;

/// The door.
pub(crate) struct Door {
    pub(crate) listener: TcpListener,
    pub(crate) tls: TlsAcceptor,
    pub(crate) shared: Arc<Shared>,
}

/// Binds the address.
///
/// # Errors
/// It is in use or may not be used.
pub(crate) async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("listen on {address} for agents: choose another address with --agents")
    })
}

impl Door {
    /// Serves until `stop` becomes true.
    pub(crate) async fn serve(self, mut stop: watch::Receiver<bool>) {
        let places = Arc::new(Semaphore::new(CONNECTION_COUNT_MAX));
        let newcomers = Arc::new(Semaphore::new(NEWCOMER_COUNT_MAX));
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                _ = stop.wait_for(|is_stopped| *is_stopped) => return,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::debug!(%error, "accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let place = Arc::clone(&places).try_acquire_owned();
            let newcomer = Arc::clone(&newcomers).try_acquire_owned();
            let (Ok(place), Ok(newcomer)) = (place, newcomer) else {
                tracing::debug!(%peer, "too many connections: closed");
                continue;
            };
            let (tls, shared) = (self.tls.clone(), Arc::clone(&self.shared));
            let mut stop = stop.clone();
            tokio::spawn(async move {
                let stopped = async move { drop(stop.wait_for(|is_stopped| *is_stopped).await) };
                tokio::select! {
                    () = greet(stream, peer, tls, shared, newcomer) => {}
                    () = stopped => {}
                }
                drop(place);
            });
        }
    }
}

async fn greet(
    stream: TcpStream,
    peer: SocketAddr,
    tls: TlsAcceptor,
    shared: Arc<Shared>,
    newcomer: tokio::sync::OwnedSemaphorePermit,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "set TCP_NODELAY");
    }
    let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::warn!(%peer, %error, "TLS with an agent failed"),
        Err(_) => return tracing::debug!(%peer, "a TLS handshake took too long"),
    };
    let certificates = stream.get_ref().1.peer_certificates();
    let identity = match certificates.and_then(<[_]>::first).map(Identity::of) {
        None => None,
        Some(Ok(identity)) => Some(identity),
        Some(Err(error)) => {
            return tracing::warn!(%peer, error = format!("{error:#}"), "a certificate");
        }
    };
    let is_known = identity.is_some();
    let reception = Reception {
        shared,
        peer,
        identity,
    };
    let service = HubServer::new(reception)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAM_COUNT_MAX)
        .max_header_list_size(HEADER_BYTES_MAX)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    let ended = if is_known {
        drop(newcomer);
        Ok(connection.await)
    } else {
        tokio::time::timeout(NEWCOMER_TIMEOUT, connection).await
    };
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%peer, %error, "connection"),
        Err(_) => tracing::debug!(%peer, "nobody enrolled in time"),
    }
}
