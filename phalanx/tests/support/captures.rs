//! Captures of others that lie beside the project, and what the analysis tells of them.

#![allow(dead_code, reason = "each test uses a part of it")]
#![allow(clippy::vec_box, reason = "as the analysis gives them")]

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use phalanx::analysis::{Outcome, Request, analyze};
use phalanx_engine::story::FlowStory;

/// Folder of extra captures; `None` and a printed line when it is absent.
pub(crate) fn shared() -> Option<PathBuf> {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared");
    let root = std::env::var("PHALANX_SHARED").unwrap_or_else(|_| default.into());
    let folder = Path::new(&root).join("pcaps");
    if folder.is_dir() {
        return Some(folder);
    }
    println!(
        "SKIPPED: no captures in {}; set PHALANX_SHARED",
        folder.display()
    );
    None
}

/// All captures below a folder, in order.
pub(crate) fn list(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).expect("read folder") {
        let path = entry.expect("folder entry").path();
        let ends = ["pcap", "pcapng", "snoop", "cap", "trace", "dmp", "ntar"];
        if path.is_dir() {
            files.extend(list(&path));
        } else if path
            .extension()
            .is_some_and(|end| ends.contains(&end.to_string_lossy().as_ref()))
        {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// A request for all of a file.
pub(crate) fn request(path: &Path, threads: usize) -> Request {
    Request {
        threads,
        story_count_max: 1 << 20,
        ..Request::new(path)
    }
}

/// What one file comes to; `None` where it is no capture.
pub(crate) fn outcome(path: &Path, threads: usize) -> Option<Outcome> {
    analyze(&request(path, threads), &AtomicBool::new(false), &|_, _| {}).ok()
}

/// The stories of one file.
pub(crate) fn stories(path: &Path, threads: usize) -> Vec<Box<FlowStory>> {
    outcome(path, threads).map_or_else(Vec::new, |outcome| outcome.stories)
}
