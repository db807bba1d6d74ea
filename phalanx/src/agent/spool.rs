//! [`Spool`]: batches on disk while the hub is away, in segment files of checksummed records.
//!
//! A segment goes when the hub has all of it. What finds the spool full makes room: the oldest
//! segment is dropped, and the numbers of the batches tell the hub that some are missing. Files are
//! written without waiting for the disk: they outlive the process, not a power failure.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use prost::Message;

use crate::disk::{Records, frame, make_directory};
use crate::link::limits::BATCH_BYTES_MAX;
use crate::link::protocol::Batch;

/// Where a segment ends: a few hundred batches of a busy host.
const SEGMENT_BYTES_MAX: u64 = 8 << 20;
/// A record beside its batch's body: numbers and the boot id.
const RECORD_BYTES_MAX: usize = BATCH_BYTES_MAX + 1_024;
/// Numbers of segments begin here, so that some can be put before the first one.
const SEGMENT_FIRST: u64 = 1 << 32;
const EXTENSION: &str = "spool";

/// Where a batch stands: its run and its number in it.
pub(crate) type Place = (u64, u64);

/// The place of a batch.
pub(crate) fn place(batch: &Batch) -> Place {
    (batch.run, batch.sequence)
}

struct Segment {
    number: u64,
    bytes: u64,
    first: Place,
    last: Place,
    batch_count: u64,
    /// Batches of it that were given out, and where the next one begins.
    read_count: u64,
    read_offset: u64,
}

/// Batches on disk.
pub(crate) struct Spool {
    directory: PathBuf,
    bytes_max: u64,
    segments: VecDeque<Segment>,
    bytes: u64,
    /// The last segment, while batches are added to it.
    open: Option<File>,
    /// Batches that were dropped.
    pub(crate) dropped_count: u64,
}

impl Spool {
    /// Opens the directory and finds what an earlier process has left there.
    pub(crate) fn open(directory: &Path, bytes_max: u64) -> anyhow::Result<Self> {
        make_directory(directory)?;
        let mut numbers = Vec::new();
        let list = || format!("list {}", directory.display());
        for entry in std::fs::read_dir(directory).with_context(list)? {
            let path = entry.with_context(list)?.path();
            if path.extension().is_some_and(|it| it == EXTENSION) {
                let stem = path.file_stem().and_then(|it| it.to_str());
                numbers.extend(stem.and_then(|it| it.parse::<u64>().ok()));
            }
        }
        numbers.sort_unstable();
        let mut spool = Self {
            directory: directory.to_owned(),
            bytes_max,
            segments: VecDeque::new(),
            bytes: 0,
            open: None,
            dropped_count: 0,
        };
        for number in numbers {
            spool.find(number)?;
        }
        Ok(spool)
    }

    fn path(&self, number: u64) -> PathBuf {
        self.directory.join(format!("{number:020}.{EXTENSION}"))
    }

    /// Reads through a segment that was left, and cuts what is torn at its end.
    fn find(&mut self, number: u64) -> anyhow::Result<()> {
        let path = self.path(number);
        let name = || format!("read {}", path.display());
        let mut records = Records::open(&path, 0, RECORD_BYTES_MAX).with_context(name)?;
        let mut segment = Segment {
            number,
            bytes: 0,
            first: (0, 0),
            last: (0, 0),
            batch_count: 0,
            read_count: 0,
            read_offset: 0,
        };
        while let Some(record) = records.next() {
            let Ok(batch) = Batch::decode(record.as_slice()) else {
                records.is_torn = true;
                break;
            };
            segment.last = place(&batch);
            if segment.batch_count == 0 {
                segment.first = segment.last;
            }
            segment.batch_count += 1;
            segment.bytes = records.offset;
        }
        if records.is_torn {
            tracing::warn!(
                file = %path.display(),
                bytes = segment.bytes,
                "the end of a segment of the spool was torn: cut"
            );
            let file = OpenOptions::new().write(true).open(&path);
            let cut = file.and_then(|file| file.set_len(segment.bytes));
            cut.with_context(|| format!("cut {}", path.display()))?;
        }
        if segment.batch_count == 0 {
            return std::fs::remove_file(&path)
                .with_context(|| format!("remove {}", path.display()));
        }
        self.bytes += segment.bytes;
        self.segments.push_back(segment);
        Ok(())
    }

    /// The place of the last batch that it holds.
    pub(crate) fn last(&self) -> Option<Place> {
        self.segments.back().map(|segment| segment.last)
    }

    /// The place of the first batch that it holds.
    pub(crate) fn first(&self) -> Option<Place> {
        self.segments.front().map(|segment| segment.first)
    }

    /// Bytes on disk.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether there are batches that were not given out.
    pub(crate) fn has_unread(&self) -> bool {
        let mut segments = self.segments.iter();
        segments.any(|segment| segment.read_count < segment.batch_count)
    }

    /// Adds a batch; drops older ones where there is no room. Whether it was kept.
    pub(crate) fn push(&mut self, batch: &Batch) -> bool {
        let record = frame(&batch.encode_to_vec());
        while self.bytes + record.len() as u64 > self.bytes_max && self.drop_first() {}
        if self.bytes + record.len() as u64 > self.bytes_max {
            return false;
        }
        loop {
            match self.append(&record, place(batch)) {
                Ok(()) => return true,
                Err(error) => {
                    tracing::warn!(%error, "the spool takes no more: the oldest makes room");
                    if !self.drop_first() {
                        return false;
                    }
                }
            }
        }
    }

    fn append(&mut self, record: &[u8], last: Place) -> std::io::Result<()> {
        let is_full = |segment: &Segment| segment.bytes >= SEGMENT_BYTES_MAX;
        if self.open.is_none() || self.segments.back().is_none_or(is_full) {
            self.begin()?;
        }
        let (Some(file), Some(segment)) = (&mut self.open, self.segments.back_mut()) else {
            return Err(std::io::Error::other("no segment is open"));
        };
        if let Err(error) = file.write_all(record) {
            // A part of it may be there: what follows must begin after the last whole record.
            let cut = file.set_len(segment.bytes);
            if cut.is_err() || segment.batch_count == 0 {
                self.open = None;
                self.forget_empty();
            }
            return Err(error);
        }
        if segment.batch_count == 0 {
            segment.first = last;
        }
        segment.bytes += record.len() as u64;
        segment.batch_count += 1;
        segment.last = last;
        self.bytes += record.len() as u64;
        Ok(())
    }

    fn forget_empty(&mut self) {
        if let Some(segment) = self.segments.pop_back_if(|it| it.batch_count == 0) {
            self.remove(segment.number);
        }
    }

    fn begin(&mut self) -> std::io::Result<()> {
        let number = self
            .segments
            .back()
            .map_or(SEGMENT_FIRST, |segment| segment.number + 1);
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(self.path(number))?;
        file.set_len(0)?;
        self.open = Some(file);
        self.segments.push_back(Segment {
            number,
            bytes: 0,
            first: (0, 0),
            last: (0, 0),
            batch_count: 0,
            read_count: 0,
            read_offset: 0,
        });
        Ok(())
    }

    /// Drops the oldest segment; whether there was one.
    fn drop_first(&mut self) -> bool {
        let Some(segment) = self.segments.pop_front() else {
            return false;
        };
        if self.segments.is_empty() {
            self.open = None;
        }
        self.dropped_count += segment.batch_count - segment.read_count;
        self.bytes -= segment.bytes;
        self.remove(segment.number);
        true
    }

    fn remove(&self, number: u64) {
        let path = self.path(number);
        if let Err(error) = std::fs::remove_file(&path) {
            tracing::warn!(%error, file = %path.display(), "a segment of the spool stays");
        }
    }

    /// Gives out the next batch. It stays on disk until [`Self::forget`] is told of it.
    pub(crate) fn read(&mut self) -> Option<Batch> {
        let unread = |segment: &&mut Segment| segment.read_count < segment.batch_count;
        let directory = &self.directory;
        let segment = self.segments.iter_mut().find(unread)?;
        let path = directory.join(format!("{:020}.{EXTENSION}", segment.number));
        let batch = Records::open(&path, segment.read_offset, RECORD_BYTES_MAX)
            .ok()
            .and_then(|mut records| Some((records.next()?, records.offset)))
            .and_then(|(record, offset)| Some((Batch::decode(&*record).ok()?, offset)));
        let Some((batch, offset)) = batch else {
            let lost = segment.batch_count - segment.read_count;
            tracing::warn!(file = %path.display(), lost, "a segment of the spool cannot be read");
            self.dropped_count += lost;
            segment.read_count = segment.batch_count;
            return None;
        };
        segment.read_offset = offset;
        segment.read_count += 1;
        Some(batch)
    }

    /// The hub has all batches to this place.
    pub(crate) fn forget(&mut self, place: Place) {
        while self
            .segments
            .front()
            .is_some_and(|first| first.last <= place)
        {
            let Some(segment) = self.segments.pop_front() else {
                return;
            };
            if self.segments.is_empty() {
                self.open = None;
            }
            self.bytes -= segment.bytes;
            self.remove(segment.number);
        }
    }

    /// Begins to give out from the first batch again.
    pub(crate) fn rewind(&mut self) {
        for segment in &mut self.segments {
            segment.read_count = 0;
            segment.read_offset = 0;
        }
    }

    /// Puts batches before all others, for the next process; how many found no room.
    pub(crate) fn put_first(&mut self, batches: &[Batch]) -> u64 {
        let Some(last) = batches.last() else {
            return 0;
        };
        let number = self
            .segments
            .front()
            .map_or(SEGMENT_FIRST, |segment| segment.number)
            - 1;
        let records: Vec<u8> = batches
            .iter()
            .flat_map(|batch| frame(&batch.encode_to_vec()))
            .collect();
        let bytes = records.len() as u64;
        let path = self.path(number);
        let written = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| file.write_all(&records));
        if let Err(error) = written {
            tracing::warn!(%error, file = %path.display(), "batches could not be spooled");
            self.dropped_count += batches.len() as u64;
            return batches.len() as u64;
        }
        self.bytes += bytes;
        self.segments.push_front(Segment {
            number,
            bytes,
            first: batches.first().map_or((0, 0), place),
            last: place(last),
            batch_count: batches.len() as u64,
            read_count: 0,
            read_offset: 0,
        });
        0
    }
}
