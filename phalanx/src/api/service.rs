//! The API at work: follows the daemon, serves until it is told to stop, ends the captures.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, watch};

use super::recorder::Recorder;
use super::serve::Server;
use super::{Api, router, stream};
use crate::auth::Access;
use crate::capture::{Captures, Keeping};
use crate::daemon::{DaemonHandle, Feed, Record};
use crate::hub::{Lines, capture::PathCaptures};
use crate::view::Outlook;

/// What the API is told once.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Who may do what.
    pub access: Access,
    /// Whether the API listens on loopback only.
    pub is_loopback: bool,
    /// Where captures are kept.
    pub keeping: Keeping,
    /// The ways to the agents of a hub, which take the captures; none: this host does.
    pub(crate) lines: Option<Arc<Lines>>,
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
            lines,
        } = settings;
        let promoted = Arc::clone(&daemon.promoted);
        let captures = open_captures(keeping, lines, &outlook, daemon);
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
    lines: Option<Arc<Lines>>,
    outlook: &Arc<Outlook>,
    daemon: DaemonHandle,
) -> Result<Recorder, String> {
    let directory = keeping.directory.display().to_string();
    let outlook = Arc::clone(outlook);
    let recorder = match lines {
        None => Captures::open(keeping, outlook, daemon)
            .map(|captures| Recorder::Here(Arc::new(captures))),
        Some(lines) => PathCaptures::open(keeping, outlook, lines)
            .map(|captures| Recorder::Agents(Arc::new(captures))),
    };
    recorder.map_err(|error| {
        tracing::warn!(%error, directory, "captures cannot be kept");
        format!("{directory}: {error}")
    })
}

/// Follows the daemon and serves, until `stop` becomes true; then ends the captures.
pub async fn run(server: Server, api: Arc<Api>, inlet: Inlet, stop: watch::Receiver<bool>) {
    let outlook = Arc::clone(&api.outlook);
    let following = tokio::spawn(async move { outlook.follow(inlet.feed).await });
    let (captures, recording) = match api.captures.clone() {
        Ok(Recorder::Here(captures)) => {
            let follower = Arc::clone(&captures);
            let following = async move { follower.follow(inlet.records).await };
            (Some(captures), Some(tokio::spawn(following)))
        }
        Ok(Recorder::Agents(captures)) => (None, Some(tokio::spawn(captures.keep()))),
        Err(_) => (None, None),
    };
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
