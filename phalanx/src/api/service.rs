//! The [`Service`]: binds the address, follows the daemon, serves until it is told to stop.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use tokio::sync::{Semaphore, mpsc, watch};

use super::serve::{Listen, Server};
use super::{Api, router, stream};
use crate::auth::{Access, Role, Token};
use crate::capture::{Captures, Keeping};
use crate::daemon::{DaemonHandle, Feed, Outlet, Record};
use crate::view::Outlook;

/// What the API is told once.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where to listen.
    pub listen: Listen,
    /// Who may do what.
    pub tokens: Vec<Token>,
    /// What everybody on this machine may do where there are no tokens.
    pub local_role: Role,
    /// Where captures are kept.
    pub keeping: Keeping,
}

/// The API, bound to its address.
#[derive(Debug)]
pub struct Service {
    server: Server,
    api: Arc<Api>,
    feed: mpsc::Receiver<Feed>,
    records: mpsc::Receiver<Vec<Record>>,
}

impl Api {
    /// The API over what `outlook` shows.
    #[must_use]
    pub fn new(settings: &Settings, outlook: Arc<Outlook>, daemon: DaemonHandle) -> Self {
        let keeping = settings.keeping.clone();
        let directory = keeping.directory.display().to_string();
        let captures = Captures::open(keeping, Arc::clone(&outlook), daemon);
        let captures = captures.map(Arc::new).map_err(|error| {
            tracing::warn!(%error, directory, "captures cannot be kept");
            format!("{directory}: {error}")
        });
        Self {
            access: Access::new(settings.tokens.clone(), settings.local_role),
            is_loopback: settings.listen.address.ip().to_canonical().is_loopback(),
            stream_places: Arc::new(Semaphore::new(stream::READER_COUNT_MAX)),
            captures,
            outlook,
        }
    }
}

impl Service {
    /// Binds the address; call it before anything is attached, so that a port in use is told first.
    ///
    /// # Errors
    /// The address cannot be used, or would be open to others without tokens or TLS.
    pub async fn bind(settings: &Settings, outlet: Outlet) -> anyhow::Result<Self> {
        let server = Server::bind(&settings.listen, !settings.tokens.is_empty()).await?;
        let Outlet {
            feed,
            records,
            daemon,
        } = outlet;
        let outlook = Outlook::new(daemon.clock.clone()).context("define the metrics")?;
        let api = Arc::new(Api::new(settings, Arc::new(outlook), daemon));
        Ok(Self {
            server,
            api,
            feed,
            records,
        })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The socket is gone.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.server.address()
    }

    /// What is shown.
    #[must_use]
    pub fn outlook(&self) -> Arc<Outlook> {
        Arc::clone(&self.api.outlook)
    }

    /// Follows the daemon and serves, until `stop` becomes true; then ends the captures.
    pub async fn run(self, stop: watch::Receiver<bool>) {
        let Self {
            server,
            api,
            feed,
            records,
        } = self;
        let outlook = Arc::clone(&api.outlook);
        let refused = server.refused_count();
        let following = tokio::spawn(async move { outlook.follow(feed).await });
        let recording = api
            .captures
            .clone()
            .map(|captures| tokio::spawn(async move { captures.follow(records).await }));
        let counted = Arc::clone(&api);
        let counting = tokio::spawn(async move { count_refused(&counted, &refused).await });
        server.run(router(&api), stop).await;
        if let Ok(captures) = &api.captures {
            captures.end_all().await;
        }
        following.abort();
        counting.abort();
        if let Ok(recording) = recording {
            recording.abort();
        }
    }
}

/// Takes the count of refused connections over into the metrics.
async fn count_refused(api: &Api, refused: &std::sync::atomic::AtomicU64) {
    let mut tick = tokio::time::interval(std::time::Duration::from_secs(1));
    loop {
        tick.tick().await;
        let counter = &api.outlook.metrics.daemon().http_refused;
        let total = refused.load(std::sync::atomic::Ordering::Relaxed);
        counter.inc_by(total.saturating_sub(counter.get()));
    }
}
