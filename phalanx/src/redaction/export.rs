//! [`Export`]: a capture to a redacted one, as pcapng, chunk by chunk.
//!
//! Nothing is copied but packets: no comments, names of hosts, secrets, descriptions or filters.

use std::collections::BTreeMap;
use std::io::Write;

use phalanx_common::packet::Unparsed;
use thiserror::Error;

use super::{Redacted, Redactor};
use crate::capture_file::{CaptureFile, Chunk, Damage, FrameAt, Interface as Source, ReadError};
use crate::pcapng::{Interface, Packet, Statistics, WriteError, Writer};

/// What a redacted file says of itself.
const COMMENT: &str = "redacted by Phalanx: packets that were not understood are left out";

/// An export that broke off.
#[derive(Debug, Error)]
pub enum ExportError {
    /// The capture cannot be read on.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The redacted one cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// What an export came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Packets read.
    pub read: u64,
    /// Packets written.
    pub written: u64,
    /// Packets left out, by reason.
    pub omitted: BTreeMap<Unparsed, u64>,
    /// Captured bytes of the packets written that were cut off.
    pub cut_bytes: u64,
}

/// An interface of the redacted capture.
#[derive(Clone, Copy)]
struct Port {
    index: usize,
    start_ns: u64,
    end_ns: u64,
    written: u64,
}

/// A capture on its way to a redacted one.
pub struct Export<W: Write> {
    capture: CaptureFile,
    chunk: Chunk,
    redactor: Redactor,
    sheet: Sheet<W>,
}

/// The redacted capture.
struct Sheet<W: Write> {
    writer: Writer<W>,
    are_names_kept: bool,
    /// By interface of the capture; those that no packet is of have none.
    ports: Vec<Option<Port>>,
    tally: Tally,
}

/// An export that has ended.
pub struct Exported<W> {
    /// Where the redacted capture was written to.
    pub output: W,
    /// What it came to.
    pub tally: Tally,
    /// Where the capture is damaged: all before it was redacted.
    pub damage: Option<Damage>,
    /// For the next capture.
    pub redactor: Redactor,
}

impl<W: Write> Export<W> {
    /// Begins the redacted file; with `are_names_kept` interfaces keep their names.
    ///
    /// # Errors
    /// The output cannot be written.
    pub fn new(
        capture: CaptureFile,
        redactor: Redactor,
        output: W,
        are_names_kept: bool,
    ) -> Result<Self, WriteError> {
        Ok(Self {
            capture,
            chunk: Chunk::new(),
            redactor,
            sheet: Sheet {
                writer: Writer::new(output, COMMENT)?,
                are_names_kept,
                ports: Vec::new(),
                tally: Tally::default(),
            },
        })
    }

    /// Goes on by some packets; `false` at the end of the capture.
    ///
    /// # Errors
    /// The capture cannot be read, or the output cannot be written.
    pub fn step(&mut self) -> Result<bool, ExportError> {
        if !self.capture.read_chunk(&mut self.chunk)? {
            return Ok(false);
        }
        for (frame, bytes) in self.chunk.iter() {
            self.sheet.tally.read += 1;
            let source = &self.capture.interfaces()[frame.interface as usize];
            match self
                .redactor
                .redact(bytes, source.link_type, frame.wire_length)
            {
                Ok(redacted) => self.sheet.write(frame, source, &redacted)?,
                Err(reason) => *self.sheet.tally.omitted.entry(reason).or_default() += 1,
            }
        }
        Ok(true)
    }

    /// Bytes of the capture read so far.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.capture.bytes_read()
    }

    /// Where the redacted capture is written to.
    pub fn output_mut(&mut self) -> &mut W {
        self.sheet.writer.output_mut()
    }

    /// Ends the redacted file.
    ///
    /// # Errors
    /// The output cannot be written.
    pub fn finish(mut self) -> Result<Exported<W>, WriteError> {
        for (port, source) in self.sheet.ports.iter().zip(self.capture.interfaces()) {
            let (Some(port), dropped) = (port, source.lost_count()) else {
                continue;
            };
            // Who reads the file shall not take for lost by the network what the capture lost.
            if dropped > 0 {
                let statistics = Statistics {
                    start_ns: port.start_ns,
                    end_ns: port.end_ns,
                    seen: port.written.saturating_add(dropped),
                    matched: port.written.saturating_add(dropped),
                    dropped,
                    written: port.written,
                };
                self.sheet
                    .writer
                    .write_statistics(port.index, &statistics)?;
            }
        }
        Ok(Exported {
            output: self.sheet.writer.finish()?,
            tally: self.sheet.tally,
            damage: self.capture.damage().copied(),
            redactor: self.redactor,
        })
    }
}

impl<W: Write> Sheet<W> {
    fn write(
        &mut self,
        frame: &FrameAt,
        source: &Source,
        redacted: &Redacted<'_>,
    ) -> Result<(), WriteError> {
        let time_ns = u64::try_from(frame.time_ns).unwrap_or(0);
        let interface = frame.interface as usize;
        if self.ports.len() <= interface {
            self.ports.resize(interface + 1, None);
        }
        let port = match &mut self.ports[interface] {
            Some(port) => port,
            none => none.insert(Port {
                index: self
                    .writer
                    .add_interface(&describe(source, self.are_names_kept))?,
                start_ns: time_ns,
                end_ns: time_ns,
                written: 0,
            }),
        };
        self.writer.write(&Packet {
            interface: port.index,
            time_ns,
            wire_length: redacted.wire_length,
            bytes: redacted.bytes,
            comment: "",
        })?;
        port.written += 1;
        port.start_ns = port.start_ns.min(time_ns);
        port.end_ns = port.end_ns.max(time_ns);
        self.tally.written += 1;
        let cut = (frame.captured as usize).saturating_sub(redacted.bytes.len());
        self.tally.cut_bytes += cut as u64;
        Ok(())
    }
}

fn describe(source: &Source, is_name_kept: bool) -> Interface {
    Interface {
        name: if is_name_kept {
            source.name.clone()
        } else {
            String::new()
        },
        description: String::new(),
        link_type: Redactor::link_type(source.link_type).unwrap_or(source.link_type),
        snap_length: source.snap_length,
        filter: String::new(),
    }
}
