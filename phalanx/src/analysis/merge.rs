//! [`Merge`]: the packets of several captures as one, in the order of time by one clock.
//!
//! Each capture is read once more, as a [`Stream`] or several, and the earliest packet of all
//! streams is the next one. A packet whose time was changed says in a comment what its own clock
//! had shown, and the first one after a gap says when nothing was recorded. Deliberately absent:
//! what stands beside the packets of a capture (their comments, names of hosts, secrets) but for
//! translations, and any judgement of which packets are the same.

mod lane;
mod limits;
mod stream;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

use phalanx_engine::Translation;
use phalanx_engine::stitch::ClockReading;
use thiserror::Error;

use self::limits::WINDOWS_BYTES_MAX;
use self::stream::{Passed, Stream};
use super::Request;
use crate::capture_file::{Interface, OpenError, ReadError};
use crate::pcapng::{self, Statistics, WriteError, Writer};
use crate::plain::plain;
use crate::report::word::{gap, instant};
use crate::translation::{NOTES_PER_BLOCK, Note};

/// What is merged.
pub struct Merge {
    /// The captures.
    pub sources: Vec<MergeSource>,
    /// Name of the hop whose clock the times are of; `None` where there is one hop alone.
    pub reference: Option<String>,
}

/// A capture to be merged.
pub struct MergeSource {
    /// What of it counts.
    pub request: Request,
    /// The file, as it was named.
    pub name: String,
    /// Its hops by interface.
    pub hops: BTreeMap<u32, MergeHop>,
}

/// A hop of a capture.
pub struct MergeHop {
    /// Its name.
    pub name: String,
    /// The interface, as the capture describes it at its end.
    pub interface: Interface,
    /// How its clock maps onto that of the reference; empty where it could not be compared.
    pub readings: Vec<ClockReading>,
    /// Its first and its last packet, in nanoseconds of its clock.
    pub window_ns: (i64, i64),
    /// When it recorded nothing in between, from and until, in nanoseconds of its clock.
    pub gaps_ns: Vec<(i64, i64)>,
}

/// What a merge came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MergeTally {
    /// Packets written.
    pub written: u64,
    /// Of these, packets that stand behind later ones: they go back in their capture by more than
    /// is held.
    pub late: u64,
    /// Of these, packets before 1970, which are written as of then.
    pub before_epoch: u64,
    /// Packets left out: their interface had none when the capture was read before.
    pub strange: u64,
}

/// A merge that has ended.
pub struct Merged<W> {
    /// Where the packets were written to.
    pub output: W,
    /// What it came to.
    pub tally: MergeTally,
    /// Why captures were not read to their ends, by the place of the source.
    pub errors: BTreeMap<usize, ReadError>,
}

/// A merge that broke off.
#[derive(Debug, Error)]
pub enum MergeError {
    /// A capture cannot be opened a second time.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The packets cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// A hop on its way into the merged capture.
struct Port<'a> {
    hop: &'a MergeHop,
    index: usize,
    times_ns: Option<(u64, u64)>,
    written: u64,
    /// Gaps that no packet has told of yet.
    gaps_ns: Vec<(i64, i64)>,
}

/// The merged capture.
struct Sheet<'a, W: Write> {
    writer: Writer<W>,
    ports: Vec<Port<'a>>,
    latest_ns: i64,
    tally: MergeTally,
}

impl MergeHop {
    /// A time of its clock by that of the reference, and what that may be off by; its own where
    /// the two could not be compared.
    fn reference_ns(&self, time_ns: i64) -> (i64, Option<i64>) {
        match ClockReading::at(&self.readings, time_ns) {
            Some(reading) => (reading.reference_ns(time_ns), reading.error_ns),
            None => (time_ns, None),
        }
    }

    fn describe(&self, has_reference: bool) -> pcapng::Interface {
        let own = self.interface.description.as_str();
        let is_own_clock = has_reference && self.readings.is_empty();
        let remark = "its clock could not be compared, the times are its own";
        let description = match (own, is_own_clock) {
            (own, false) => own.to_owned(),
            ("", true) => remark.to_owned(),
            (own, true) => format!("{own}; {remark}"),
        };
        pcapng::Interface {
            name: self.name.clone(),
            description,
            link_type: self.interface.link_type,
            snap_length: self.interface.snap_length,
            filter: self.interface.filter.clone(),
        }
    }
}

impl Merge {
    /// Reads the captures and writes their packets.
    ///
    /// # Errors
    /// A capture cannot be opened, or the output cannot be written. What cannot be read on ends
    /// there, which is told beside the rest.
    pub fn write<W: Write>(&self, output: W) -> Result<Merged<W>, MergeError> {
        let mut sheet = Sheet::new(self, output)?;
        let mut streams = self.open()?;
        let window_bytes_max = WINDOWS_BYTES_MAX / streams.len().max(1);
        // The earliest packet of each stream; of equal times that of the capture named first.
        let mut heads: BTreeSet<(i64, usize)> = BTreeSet::new();
        for (index, stream) in streams.iter_mut().enumerate() {
            stream.fill(window_bytes_max);
            heads.extend(stream.earliest_ns().map(|time_ns| (time_ns, index)));
        }
        while let Some((_, index)) = heads.pop_first() {
            let stream = &mut streams[index];
            if let Some(passed) = stream.pop() {
                sheet.write(&passed)?;
            }
            stream.fill(window_bytes_max);
            heads.extend(stream.earliest_ns().map(|time_ns| (time_ns, index)));
        }
        let mut errors = BTreeMap::new();
        for stream in streams {
            sheet.tally.strange += stream.strange_count;
            if let Some(error) = stream.error {
                errors.insert(stream.source, error);
            }
        }
        let (output, tally) = sheet.finish()?;
        Ok(Merged {
            output,
            tally,
            errors,
        })
    }

    fn open(&self) -> Result<Vec<Stream<'_>>, OpenError> {
        let mut streams = Vec::new();
        let mut port = 0;
        for (index, source) in self.sources.iter().enumerate() {
            streams.extend(Stream::open_all(index, source, port)?);
            port += source.hops.len();
        }
        Ok(streams)
    }

    /// What the merged capture says of itself.
    fn comment(&self) -> String {
        let names: Vec<String> = self.sources.iter().map(|it| plain(&it.name)).collect();
        let times = match &self.reference {
            Some(reference) => format!("the times are by the clock of {}", plain(reference)),
            None => "the times are as captured".to_owned(),
        };
        format!("merged by Phalanx from {}; {times}", names.join(", "))
    }
}

impl<'a, W: Write> Sheet<'a, W> {
    /// Begins it with an interface for each hop.
    fn new(merge: &'a Merge, output: W) -> Result<Self, WriteError> {
        let mut writer = Writer::new(output, &merge.comment())?;
        let mut ports = Vec::new();
        for hop in merge.sources.iter().flat_map(|it| it.hops.values()) {
            ports.push(Port {
                index: writer.add_interface(&hop.describe(merge.reference.is_some()))?,
                hop,
                times_ns: None,
                written: 0,
                gaps_ns: hop.gaps_ns.clone(),
            });
        }
        Ok(Self {
            writer,
            ports,
            latest_ns: i64::MIN,
            tally: MergeTally::default(),
        })
    }

    fn write(&mut self, passed: &Passed) -> Result<(), WriteError> {
        let Some(port) = self.ports.get_mut(passed.port) else {
            return Err(WriteError::UnknownInterface(passed.port));
        };
        let tally = &mut self.tally;
        tally.written += 1;
        tally.late += u64::from(passed.time_ns < self.latest_ns);
        tally.before_epoch += u64::from(passed.time_ns < 0);
        self.latest_ns = self.latest_ns.max(passed.time_ns);
        let time_ns = u64::try_from(passed.time_ns).unwrap_or(0);
        let clock = passed.comment(&port.hop.name).into_iter();
        let comments: Vec<String> = clock.chain(port.gaps_before(passed.own_ns)).collect();
        self.writer.write(&pcapng::Packet {
            interface: port.index,
            time_ns,
            wire_length: passed.wire_length,
            bytes: &passed.bytes,
            comment: &comments.join("; "),
        })?;
        port.written += 1;
        let (first_ns, last_ns) = port.times_ns.unwrap_or((time_ns, time_ns));
        port.times_ns = Some((first_ns.min(time_ns), last_ns.max(time_ns)));
        Ok(())
    }

    fn finish(mut self) -> Result<(W, MergeTally), WriteError> {
        for port in &mut self.ports {
            let dropped = port.hop.interface.lost_count();
            // Who reads the file shall not take for lost by the network what a capture lost.
            if dropped > 0 {
                let (start_ns, end_ns) = port.times_ns.unwrap_or_default();
                let seen = port.written.saturating_add(dropped);
                let statistics = Statistics {
                    start_ns,
                    end_ns,
                    seen,
                    matched: seen,
                    dropped,
                    written: port.written,
                };
                self.writer.write_statistics(port.index, &statistics)?;
            }
            let (_, end_ns) = port.times_ns.unwrap_or_default();
            let translations = &port.hop.interface.translations;
            let note = |(it, host): (&Translation, &String)| Note::new(*it, host).to_string();
            let mut notes: Vec<String> = translations.iter().map(note).collect();
            notes.extend(port.gaps_before(i64::MAX));
            for part in notes.chunks(NOTES_PER_BLOCK) {
                self.writer.write_remarks(port.index, end_ns, part)?;
            }
        }
        Ok((self.writer.finish()?, self.tally))
    }
}

impl Port<'_> {
    /// The gaps that were over at a time of its clock and are not told of yet, in words.
    fn gaps_before(&mut self, own_ns: i64) -> Vec<String> {
        let gaps = self
            .gaps_ns
            .extract_if(.., |(_, until_ns)| *until_ns <= own_ns);
        gaps.map(|it| format!("{}: {}", self.hop.name, gap(it)))
            .collect()
    }
}

impl Passed {
    /// What the hop's clock had shown, where another time is written.
    fn comment(&self, hop: &str) -> Option<String> {
        if self.time_ns == self.own_ns && self.time_ns >= 0 {
            return None;
        }
        let own = instant(self.own_ns);
        Some(match self.error_ns {
            Some(error_ns) => format!("{hop}: {own}, ±{}", bound(error_ns)),
            None => format!("{hop}: {own}"),
        })
    }
}

/// A bound in a unit that leaves few digits; it never becomes less than it is.
fn bound(ns: i64) -> String {
    let ns = ns.unsigned_abs();
    match ns {
        0..10_000 => format!("{ns} ns"),
        10_000..100_000_000 => format!("{} µs", ns.div_ceil(1_000)),
        _ => format!("{} ms", ns.div_ceil(1_000_000)),
    }
}

#[cfg(test)]
mod tests;
