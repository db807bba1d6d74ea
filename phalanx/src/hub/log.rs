//! [`Log`]: what agents told, as it came, on disk: segment files of checksummed records, of which
//! the oldest go by size and by age.
//!
//! **Invariant:** what was synced is read back, whatever happened to the process or the machine
//! after it; what was not is cut off as a whole record.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use prost::Message;

use super::position::{Before, Position, Positions};
use crate::disk::{Records, frame, make_directory};
use crate::link::limits::BATCH_BYTES_MAX;

/// The records of the log.
#[expect(
    unreachable_pub,
    reason = "generated; phalanx/proto/store.proto tells what they are"
)]
pub(crate) mod record {
    include!("../../proto/generated/store.inc");
}

use record::Entry;

/// Where a segment ends: a sixteenth of the default size of the log.
const SEGMENT_BYTES_MAX: u64 = 16 << 20;
/// A record beside its batch: the positions of all agents, 1,024 of 200 bytes at most.
const RECORD_BYTES_MAX: usize = BATCH_BYTES_MAX + (256 << 10);
const EXTENSION: &str = "log";

struct Segment {
    number: u64,
    bytes: u64,
    /// When its last entry was taken in.
    last_ns: u64,
}

/// What is kept of the log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Retention {
    pub(crate) bytes_max: u64,
    pub(crate) age_max_ns: u64,
}

/// What agents told, on disk.
pub(crate) struct Log {
    directory: PathBuf,
    retention: Retention,
    segments: VecDeque<Segment>,
    open: Option<File>,
    bytes: u64,
}

impl Log {
    /// Opens the directory and lists its segments; nothing is read yet.
    pub(crate) fn open(directory: &Path, retention: Retention) -> anyhow::Result<Self> {
        make_directory(directory)?;
        let list = || format!("list {}", directory.display());
        let mut numbers = Vec::new();
        for entry in std::fs::read_dir(directory).with_context(list)? {
            let path = entry.with_context(list)?.path();
            if path.extension().is_some_and(|it| it == EXTENSION) {
                let stem = path.file_stem().and_then(|it| it.to_str());
                numbers.extend(stem.and_then(|it| it.parse::<u64>().ok()));
            }
        }
        numbers.sort_unstable();
        let segment = |number| Segment {
            number,
            bytes: 0,
            last_ns: 0,
        };
        Ok(Self {
            directory: directory.to_owned(),
            retention,
            segments: numbers.into_iter().map(segment).collect(),
            open: None,
            bytes: 0,
        })
    }

    fn path(&self, number: u64) -> PathBuf {
        self.directory.join(format!("{number:020}.{EXTENSION}"))
    }

    /// Whether it has forgotten what was told first.
    pub(crate) fn has_forgotten(&self) -> bool {
        self.segments.front().is_some_and(|first| first.number > 1)
    }

    /// Bytes on disk.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Reads all of it, in order, and cuts what is torn at an end.
    pub(crate) fn replay(
        &mut self,
        mut each: impl FnMut(Entry) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        for index in 0..self.segments.len() {
            let path = self.path(self.segments[index].number);
            let mut records = Records::open(&path, 0, RECORD_BYTES_MAX)
                .with_context(|| format!("read {}", path.display()))?;
            let segment = &mut self.segments[index];
            while let Some(bytes) = records.next() {
                let Ok(entry) = Entry::decode(&*bytes) else {
                    records.is_torn = true;
                    break;
                };
                segment.bytes = records.offset;
                segment.last_ns = entry.at_ns;
                each(entry)?;
            }
            if records.is_torn {
                let kept = segment.bytes;
                tracing::warn!(file = %path.display(), kept, "the end of the log was torn: cut");
                OpenOptions::new()
                    .write(true)
                    .open(&path)
                    .and_then(|file| file.set_len(kept))
                    .with_context(|| format!("cut {}", path.display()))?;
            }
            self.bytes += segment.bytes;
        }
        Ok(())
    }

    /// Adds records and waits until they are on disk; all of them or none.
    ///
    /// # Errors
    /// The disk takes no more, also after older segments made room.
    pub(crate) fn append(
        &mut self,
        entries: &[Entry],
        before: &Before<'_>,
        now_ns: u64,
    ) -> std::io::Result<()> {
        let mut records = Vec::new();
        for entry in entries {
            records.append(&mut frame(&entry.encode_to_vec()));
        }
        loop {
            match self.write(&records, before, now_ns) {
                Ok(()) => break,
                Err(error) if self.segments.len() > 1 => {
                    tracing::warn!(%error, "the log takes no more: its oldest segment goes");
                    self.drop_first();
                }
                Err(error) => return Err(error),
            }
        }
        self.make_room(now_ns);
        Ok(())
    }

    fn write(&mut self, records: &[u8], before: &Before<'_>, now_ns: u64) -> std::io::Result<()> {
        let is_full = |segment: &Segment| segment.bytes >= SEGMENT_BYTES_MAX;
        if self.open.is_none() || self.segments.back().is_none_or(is_full) {
            self.begin(before, now_ns)?;
        }
        let (Some(file), Some(segment)) = (&mut self.open, self.segments.back_mut()) else {
            return Err(std::io::Error::other("no segment is open"));
        };
        let written = file.write_all(records).and_then(|()| file.sync_data());
        if let Err(error) = written {
            // What was written in part must not stand before what comes next.
            if file.set_len(segment.bytes).is_err() {
                self.open = None;
            }
            return Err(error);
        }
        segment.bytes += records.len() as u64;
        segment.last_ns = now_ns;
        self.bytes += records.len() as u64;
        Ok(())
    }

    /// Begins a segment with how far each agent had come before it.
    fn begin(&mut self, before: &Before<'_>, now_ns: u64) -> std::io::Result<()> {
        self.open = None;
        let number = self.segments.back().map_or(1, |segment| segment.number + 1);
        let entry = Entry {
            at_ns: now_ns,
            positions: Some(message(&before.positions())),
            ..Entry::default()
        };
        let head = frame(&entry.encode_to_vec());
        let path = self.path(number);
        let begun = OpenOptions::new()
            .append(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| {
                file.write_all(&head)?;
                file.sync_data()?;
                File::open(&self.directory)?.sync_all()?;
                Ok(file)
            });
        match begun {
            Ok(file) => self.open = Some(file),
            Err(error) => {
                // It is not there, or of no use: its number is used again.
                drop(std::fs::remove_file(&path));
                return Err(error);
            }
        }
        self.segments.push_back(Segment {
            number,
            bytes: head.len() as u64,
            last_ns: now_ns,
        });
        self.bytes += head.len() as u64;
        Ok(())
    }

    fn make_room(&mut self, now_ns: u64) {
        let Retention {
            bytes_max,
            age_max_ns,
        } = self.retention;
        while self.segments.len() > 1 {
            let is_old = self
                .segments
                .front()
                .is_some_and(|first| now_ns.saturating_sub(first.last_ns) > age_max_ns);
            if self.bytes <= bytes_max && !is_old {
                return;
            }
            self.drop_first();
        }
    }

    fn drop_first(&mut self) {
        let Some(segment) = self.segments.pop_front() else {
            return;
        };
        self.bytes = self.bytes.saturating_sub(segment.bytes);
        let path = self.path(segment.number);
        if let Err(error) = std::fs::remove_file(&path) {
            tracing::warn!(%error, file = %path.display(), "a segment of the log stays");
        }
    }
}

fn message(positions: &Positions) -> record::Positions {
    let position = |(agent, position): (&String, &Position)| record::Position {
        agent: agent.clone(),
        run: position.run,
        sequence: position.sequence,
        items: position.items,
        lost_batches: position.lost_batches,
        lost_items: position.lost_items,
        gaps: position.gaps,
        is_ended: position.is_ended,
    };
    record::Positions {
        positions: positions.0.iter().map(position).collect(),
    }
}

/// How far agents had come before a segment; those that are known better stay.
pub(crate) fn seed(positions: &mut Positions, head: record::Positions) {
    for told in head.positions {
        positions.0.entry(told.agent).or_insert(Position {
            run: told.run,
            sequence: told.sequence,
            items: told.items,
            is_ended: told.is_ended,
            gaps: told.gaps,
            lost_batches: told.lost_batches,
            lost_items: told.lost_items,
        });
    }
}
