//! Captures that are still being written are read as they grow.
//!
//! A writer appends a piece, then awaits the frames that are whole by then: nothing depends on how
//! fast either side is.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use nix::sys::stat::Mode;
use phalanx::capture_file::{self, Chunk, Damage, Fault, Follow, Notes, OpenError, OpenOptions};

#[path = "capture_file/builder.rs"]
mod builder;

/// How long a frame may take that is there: only a failure waits for so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// A path in the folder for temporary files, removed when dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let file = format!("phalanx-follow-{name}-{}", std::process::id());
        Self(std::env::temp_dir().join(file))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_file(&self.0).ok();
    }
}

/// How a reader ended.
#[derive(Debug, PartialEq, Eq)]
struct Ended {
    damage: Option<Damage>,
    notes: Notes,
}

/// Follows a capture in a thread of its own.
struct Follower {
    stop: Arc<AtomicBool>,
    /// Captured lengths of the frames of each chunk.
    chunks: Receiver<Vec<u32>>,
    seen: Vec<u32>,
    thread: JoinHandle<Result<Ended, OpenError>>,
}

impl Follower {
    fn start(path: &Path) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let follow = Follow {
            interval: Duration::from_millis(1),
            stop: Arc::clone(&stop),
        };
        let (path, (sender, chunks)) = (path.to_owned(), channel());
        let thread = thread::spawn(move || {
            let options = OpenOptions {
                follow: Some(follow),
                copy: None,
            };
            let mut capture = capture_file::open(&path, &options)?;
            let mut chunk = Chunk::new();
            while capture.read_chunk(&mut chunk).unwrap() {
                let lengths = chunk.frames().iter().map(|frame| frame.captured);
                sender.send(lengths.collect()).unwrap();
            }
            Ok(Ended {
                damage: capture.damage().copied(),
                notes: *capture.notes(),
            })
        });
        Self {
            stop,
            chunks,
            seen: Vec::new(),
            thread,
        }
    }

    fn await_frames(&mut self, count: usize) {
        while self.seen.len() < count {
            let lengths = self.chunks.recv_timeout(PATIENCE);
            self.seen.extend(lengths.expect("frames that were written"));
        }
        assert_eq!(self.seen.len(), count, "frames before they were written");
    }

    fn stop(self) -> Ended {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap().unwrap()
    }
}

/// Where each record of a file of `builder::pcap` ends.
fn ends_of_pcap(count: u32) -> Vec<usize> {
    (0..=count)
        .map(|count| builder::pcap(count).len())
        .collect()
}

/// Writes a capture in pieces that end anywhere, and awaits the frames that are whole after each.
fn append(writer: &mut impl std::io::Write, follower: &mut Follower, file: &[u8], ends: &[usize]) {
    let mut written = 0;
    for piece in [1, 5, 18, 7, 100, 1, 15, 1, 333, 2, 5000, 70_000]
        .iter()
        .cycle()
    {
        let end = file.len().min(written + piece);
        writer.write_all(&file[written..end]).unwrap();
        writer.flush().unwrap();
        written = end;
        let whole_count = ends.partition_point(|end| *end <= written);
        follower.await_frames(whole_count.saturating_sub(1));
        if written == file.len() {
            break;
        }
    }
}

#[test]
fn a_growing_file() {
    let path = Scratch::new("growing");
    let mut writer = File::create(&path.0).unwrap();
    let mut follower = Follower::start(&path.0);
    let file = builder::pcap(2000);
    append(&mut writer, &mut follower, &file, &ends_of_pcap(2000));
    // A record that is not complete when the reading is stopped is no damage.
    writer.write_all(&file[24..45]).unwrap();
    let lengths: Vec<u32> = (1..=2000).map(|number| 14 + number % 90).collect();
    assert_eq!(follower.seen, lengths);
    let ended = follower.stop();
    assert_eq!(ended.damage, None);
    assert!([0, 21].contains(&ended.notes.unfinished_bytes));
}

#[test]
fn a_growing_file_of_blocks() {
    let path = Scratch::new("blocks");
    let mut writer = File::create(&path.0).unwrap();
    let mut follower = Follower::start(&path.0);
    let file = builder::pcapng();
    for (index, byte) in file.iter().enumerate() {
        writer.write_all(&[*byte]).unwrap();
        if index + 1 == file.len() / 2 {
            follower.await_frames(4);
        }
    }
    follower.await_frames(8);
    assert_eq!(follower.stop().damage, None);
}

#[test]
fn a_pipe_ends_with_its_writer() {
    let path = Scratch::new("pipe");
    nix::unistd::mkfifo(&path.0, Mode::S_IRWXU).unwrap();
    let mut follower = Follower::start(&path.0);
    let mut writer = File::create(&path.0).unwrap();
    let file = builder::pcap(500);
    append(&mut writer, &mut follower, &file, &ends_of_pcap(500));
    writer.write_all(&file[24..45]).unwrap();
    drop(writer);
    let damage = follower.thread.join().unwrap().unwrap().damage.unwrap();
    let (present, needed) = (21, 16 + 15);
    assert_eq!(damage.fault, Fault::CutOff { present, needed });
    assert_eq!(
        (damage.offset, damage.frame_count),
        (file.len() as u64, 500)
    );
}

#[test]
fn a_growing_gzip_stream() {
    let path = Scratch::new("gzip");
    let writer = File::create(&path.0).unwrap();
    let mut follower = Follower::start(&path.0);
    let mut encoder = GzEncoder::new(writer, Compression::fast());
    let file = builder::pcap(300);
    append(&mut encoder, &mut follower, &file, &ends_of_pcap(300));
    let mut writer = encoder.finish().unwrap();
    writer.write_all(&builder::gzip(&file[24..], 1)).unwrap();
    follower.await_frames(600);
    assert_eq!(follower.stop().damage, None);
}

#[test]
fn zstd_frames_as_they_are_written() {
    let path = Scratch::new("zstd");
    let mut writer = File::create(&path.0).unwrap();
    let mut follower = Follower::start(&path.0);
    let file = builder::pcap(300);
    writer.write_all(&builder::zstd(&file, 1)).unwrap();
    follower.await_frames(300);
    let more = builder::zstd(&file[24..], 1);
    writer.write_all(&more[..more.len() - 1]).unwrap();
    writer.write_all(&more[more.len() - 1..]).unwrap();
    follower.await_frames(600);
    assert_eq!(follower.stop().damage, None);
}

#[test]
fn a_file_that_was_cut() {
    let path = Scratch::new("cut");
    let mut writer = File::create(&path.0).unwrap();
    let mut follower = Follower::start(&path.0);
    writer.write_all(&builder::pcap(30)).unwrap();
    follower.await_frames(30);
    writer.set_len(100).unwrap();
    let ended = follower.thread.join().unwrap().unwrap();
    assert_eq!(ended.damage.unwrap().fault, Fault::CutWhileFollowed);
}

#[test]
fn stopped_before_there_was_a_header() {
    for name in ["nothing", "nothing-in-a-pipe"] {
        let path = Scratch::new(name);
        let writer = if name == "nothing" {
            File::create(&path.0).unwrap()
        } else {
            nix::unistd::mkfifo(&path.0, Mode::S_IRWXU).unwrap();
            File::options()
                .read(true)
                .write(true)
                .open(&path.0)
                .unwrap()
        };
        let follower = Follower::start(&path.0);
        follower.stop.store(true, Ordering::Relaxed);
        let error = follower.thread.join().unwrap().err().unwrap();
        assert!(matches!(error, OpenError::Empty { .. }), "{error}");
        drop(writer);
    }
}
