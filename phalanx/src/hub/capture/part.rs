//! What one agent gives to a capture: its file, and who writes to it.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;

/// The part of one agent.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) path: PathBuf,
    /// Bytes of it at most.
    pub(super) bytes_max: u64,
    /// Files that it was begun with in this run of the hub.
    pub(super) file_count: usize,
    /// Nothing more is waited for.
    pub(super) is_done: bool,
    /// When bytes of it came the last time.
    pub(super) heard: Instant,
    /// Number of the delivery that counts: the last one that began.
    pub(super) delivery: watch::Sender<u64>,
    /// Held by whoever writes the file.
    pub(super) writing: Arc<tokio::sync::Mutex<()>>,
}

impl Part {
    /// A part whose file is there.
    pub(super) fn found(path: PathBuf, bytes_max: u64, is_done: bool) -> Self {
        Self {
            path,
            bytes_max,
            file_count: 0,
            is_done,
            heard: Instant::now(),
            delivery: watch::Sender::new(0),
            writing: Arc::default(),
        }
    }
}
