//! Synthetic captures of several hops in a folder of their own. What is true of them is kept in
//! memory: the program under test cannot find it.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use phalanx_range::retiming::Retiming;
use phalanx_range::synthesis::{HopSynthesis, HopTruth};

use crate::folder::Folder;

/// A folder where captures are kept, for who wants to look at frames afterwards.
const KEEP: &str = "PHALANX_KEEP_CAPTURES";

/// Captures, one a hop, named `hop0.pcap` and so on.
pub(crate) struct Made {
    pub(crate) folder: Folder,
    pub(crate) truth: HopTruth,
    pub(crate) files: Vec<String>,
}

impl Made {
    pub(crate) fn new(tag: &str, synthesis: &HopSynthesis) -> Self {
        let folder = Folder::new(&format!("hops-{tag}"));
        let files: Vec<String> = (0..synthesis.hop_count())
            .map(|hop| format!("hop{hop}.pcap"))
            .collect();
        let writers = files.iter().map(|file| {
            let file = File::create(folder.0.join(file)).unwrap();
            BufWriter::with_capacity(1 << 20, file)
        });
        let truth = synthesis.write(writers.collect()).unwrap();
        if let Some(keep) = std::env::var_os(KEEP).map(PathBuf::from) {
            for file in &files {
                std::fs::copy(folder.0.join(file), keep.join(format!("{tag}-{file}"))).unwrap();
            }
        }
        Self {
            folder,
            truth,
            files,
        }
    }

    pub(crate) fn names(&self) -> Vec<&str> {
        self.files.iter().map(String::as_str).collect()
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.folder.0.join(file)
    }
}

/// Gives a capture the times of another clock.
pub(crate) fn retime(retiming: &Retiming, from: &Path, to: &Path) {
    let from = std::io::BufReader::new(File::open(from).unwrap());
    let to = BufWriter::new(File::create(to).unwrap());
    retiming.rewrite(from, to).unwrap();
}
