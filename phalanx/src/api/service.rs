//! The API at work: follows the daemon, serves until it is told to stop, ends the captures.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, watch};

use super::serve::Server;
use super::{Api, router, stream};
use crate::auth::Access;
use crate::capture::{Captures, Keeping};
use crate::daemon::{DaemonHandle, Feed, Record};
use crate::view::Outlook;

/// What the API is told once.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Who may do what.
    pub access: Access,
    /// Whether the API listens on loopback only.
    pub is_loopback: bool,
    /// Where captures are kept; none: none are taken, as at a hub.
    pub keeping: Option<Keeping>,
}

/// What the daemon's loop sends.
#[derive(Debug)]
pub struct Inlet {
    /// Changes, status and clock events, in order.
    pub feed: mpsc::Receiver<Feed>,
    /// Records of all captures.
    pub records: mpsc::Receiver<Vec<Record>>,
}

impl Api {
    /// The API over what `outlook` shows.
    #[must_use]
    pub fn new(settings: Settings, outlook: Arc<Outlook>, daemon: DaemonHandle) -> Self {
        let Settings {
            access,
            is_loopback,
            keeping,
        } = settings;
        let promoted = Arc::clone(&daemon.promoted);
        let captures = match keeping {
            Some(keeping) => open_captures(keeping, &outlook, daemon),
            None => Err("a hub takes no captures: ask the API of the agent".to_owned()),
        };
        let stream_places = Arc::new(Semaphore::new(stream::READER_COUNT_MAX));
        Self {
            access,
            is_loopback,
            stream_places,
            captures,
            promoted,
            outlook,
        }
    }
}

fn open_captures(
    keeping: Keeping,
    outlook: &Arc<Outlook>,
    daemon: DaemonHandle,
) -> Result<Arc<Captures>, String> {
    let directory = keeping.directory.display().to_string();
    let captures = Captures::open(keeping, Arc::clone(outlook), daemon);
    captures.map(Arc::new).map_err(|error| {
        tracing::warn!(%error, directory, "captures cannot be kept");
        format!("{directory}: {error}")
    })
}

/// Follows the daemon and serves, until `stop` becomes true; then ends the captures.
pub async fn run(server: Server, api: Arc<Api>, inlet: Inlet, stop: watch::Receiver<bool>) {
    let outlook = Arc::clone(&api.outlook);
    let following = tokio::spawn(async move { outlook.follow(inlet.feed).await });
    let captures = api.captures.clone().ok();
    let recording = captures
        .clone()
        .map(|captures| tokio::spawn(async move { captures.follow(inlet.records).await }));
    let (counted, refused) = (Arc::clone(&api), server.refused_count());
    let counting = tokio::spawn(async move { count_refused(&counted, &refused).await });
    let mut told = stop.clone();
    let serving = server.run(router(&api), stop);
    let ending = async {
        drop(told.wait_for(|is_stopped| *is_stopped).await);
        if let Some(captures) = captures {
            captures.end_all().await;
        }
    };
    tokio::join!(serving, ending);
    following.abort();
    counting.abort();
    if let Some(recording) = recording {
        recording.abort();
    }
}

/// Takes the count of refused connections over into the metrics.
async fn count_refused(api: &Api, refused: &AtomicU64) {
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    loop {
        tick.tick().await;
        let counter = &api.outlook.metrics.daemon().http_refused;
        counter.inc_by(
            refused
                .load(Ordering::Relaxed)
                .saturating_sub(counter.get()),
        );
    }
}
