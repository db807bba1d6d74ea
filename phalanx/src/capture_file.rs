//! Capture files to frames: pcap, pcapng and snoop, plain or compressed with gzip or zstd, from a
//! path, from standard input or from memory, also while they are still being written.
//!
//! Frames come in chunks that are filled where the bytes lie, so that none is copied alone. A
//! damaged file gives all frames up to the damage. Deliberately absent: what is in the frames.

mod chunk;
mod fault;
mod gzip;
mod ledger;
mod limits;
mod link_type;
mod option;
mod order;
mod pcap;
mod pcapng;
mod remedy;
mod scale;
mod snoop;
mod source;
mod stream;
mod zstd;

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use thiserror::Error;

pub use chunk::{Chunk, Frame, FrameAt};
pub use fault::{Damage, Fault};
pub use ledger::{Interface, Notes};
pub use link_type::link_type_name;
pub use source::Follow;

use ledger::Ledger;
use limits::HEAD_BYTES;
use pcap::Pcap;
use pcapng::Pcapng;
use source::{Failure, Filled, Source};
use stream::Stream;

use crate::plain::plain;

/// How to open a capture.
#[derive(Debug, Clone, Default)]
pub struct OpenOptions {
    /// At the end of the data wait for more, until told to stop.
    pub follow: Option<Follow>,
    /// Where all bytes are written to as they are read, for what can be read only once.
    pub copy: Option<Arc<File>>,
}

/// A file that is no capture, or cannot be read at all.
#[derive(Debug, Error)]
pub enum OpenError {
    /// It cannot be opened or its first bytes cannot be read.
    #[error("read {path}")]
    Io {
        /// Which file.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There is nothing in it.
    #[error("{path} is empty; was the capture stopped before its first packet was written?")]
    Empty {
        /// Which file.
        path: String,
    },
    /// It is cut off before the first record.
    #[error("{path} ends inside its file header; copy it again")]
    HeaderCutOff {
        /// Which file.
        path: String,
    },
    /// Something else, with what to do about it.
    #[error("{path} is no pcap, pcapng or snoop file: {remedy}")]
    NotACapture {
        /// Which file.
        path: String,
        /// What it seems to be, and what to do.
        remedy: &'static str,
    },
    /// A version that the reader does not know.
    #[error("{path} has version {version} of the {format} format; convert it with editcap")]
    UnknownVersion {
        /// Which file.
        path: String,
        /// `pcap` or `snoop`.
        format: &'static str,
        /// As the file says.
        version: String,
    },
    /// Its header makes no sense, or it cannot be decompressed.
    #[error("{path} cannot be read from its beginning: {fault}")]
    Damaged {
        /// Which file.
        path: String,
        /// What is wrong.
        fault: Fault,
    },
}

/// The disk or pipe failed in the middle.
#[derive(Debug, Error)]
#[error("read {path}")]
pub struct ReadError {
    path: String,
    #[source]
    source: io::Error,
}

/// What a format comes to at the end of what a chunk holds.
enum Step {
    /// As many frames as a chunk may have.
    Full,
    /// The next record has at least so many bytes.
    Need(usize),
    /// The next record makes no sense.
    Damaged(Fault),
}

enum Format {
    Pcap(Pcap),
    Pcapng(Pcapng),
    Snoop,
}

/// An open capture.
pub struct CaptureFile {
    path: String,
    stream: Stream,
    format: Format,
    ledger: Ledger,
    damage: Option<Damage>,
    /// Bytes read that belong to no frame handed out yet, and where they begin.
    carried: Vec<u8>,
    carried_offset: u64,
    has_ended: bool,
}

/// Opens a file, or standard input for `-`. While following, waits until there is a header.
///
/// # Errors
/// It cannot be read, or is no capture.
pub fn open(path: &Path, options: &OpenOptions) -> Result<CaptureFile, OpenError> {
    let name = if path.as_os_str() == "-" {
        "standard input".to_owned()
    } else {
        plain(&path.display().to_string())
    };
    match Source::open(path, options) {
        Ok(source) => CaptureFile::begin(name, source),
        Err(source) => Err(OpenError::Io { path: name, source }),
    }
}

impl CaptureFile {
    /// Reads a capture from anything, to its end; the name is for messages.
    ///
    /// # Errors
    /// It cannot be read, or is no capture.
    pub fn from_reader(name: &str, input: impl Read + Send + 'static) -> Result<Self, OpenError> {
        Self::begin(name.to_owned(), Source::from_reader(Box::new(input)))
    }

    fn begin(path: String, source: Source) -> Result<Self, OpenError> {
        let mut stream = Stream::new(source);
        let mut carried = Vec::with_capacity(HEAD_BYTES);
        if let Err(failure) = read_head(&mut stream, &mut carried) {
            return Err(match failure {
                Failure::Io(source) => OpenError::Io { path, source },
                Failure::Damaged(fault) => OpenError::Damaged { path, fault },
            });
        }
        let mut ledger = Ledger::default();
        let (format, header_bytes) =
            recognise(path.clone(), &carried, stream.compression(), &mut ledger)?;
        carried.drain(..header_bytes);
        Ok(Self {
            path,
            stream,
            format,
            ledger,
            damage: None,
            carried,
            carried_offset: header_bytes as u64,
            has_ended: false,
        })
    }

    /// The interfaces met so far; more may come with each chunk. A frame's interface is its place
    /// in it.
    #[must_use]
    pub fn interfaces(&self) -> &[Interface] {
        &self.ledger.interfaces
    }

    /// Why the reading ended, if not with the file.
    #[must_use]
    pub fn damage(&self) -> Option<&Damage> {
        self.damage.as_ref()
    }

    /// What was odd so far.
    #[must_use]
    pub fn notes(&self) -> &Notes {
        &self.ledger.notes
    }

    /// Packets met so far, also those left out.
    #[must_use]
    pub fn frame_count(&self) -> u64 {
        self.ledger.frame_count
    }

    /// Bytes read so far, compressed ones where the file is.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.stream.source.byte_count()
    }

    /// Bytes of the file; `None` for a pipe.
    #[must_use]
    pub fn size(&self) -> Option<u64> {
        self.stream.source.size()
    }

    /// Fills a chunk with whole frames; `false`, and no frames, at the end. While following, a
    /// chunk is handed out as soon as nothing more is there, and an empty one is waited for.
    ///
    /// # Errors
    /// The disk or pipe failed; damage only ends the reading.
    pub fn read_chunk(&mut self, chunk: &mut Chunk) -> Result<bool, ReadError> {
        chunk.begin(&self.carried, self.carried_offset);
        self.carried.clear();
        while !self.has_ended {
            let needed = match self.take(chunk) {
                Step::Full => break,
                Step::Damaged(fault) => {
                    self.end_at(chunk, fault);
                    break;
                }
                Step::Need(needed) => needed,
            };
            if !chunk.has_room(needed) {
                break;
            }
            let filled = self.stream.fill(chunk.room(needed));
            if self.take_filled(filled, needed, chunk)? {
                break;
            }
        }
        if !self.has_ended {
            self.carried.extend_from_slice(chunk.rest());
            self.carried_offset = chunk.record_offset();
        }
        Ok(!chunk.frames.is_empty())
    }

    /// All frames that are left, each on its own: for captures that are known to be small.
    ///
    /// # Errors
    /// The disk or pipe failed.
    pub fn frames(&mut self) -> Result<Vec<Frame>, ReadError> {
        let (mut frames, mut chunk) = (Vec::new(), Chunk::new());
        while self.read_chunk(&mut chunk)? {
            for (at, bytes) in chunk.iter() {
                let interface = at.interface as usize;
                let described = self.interfaces().get(interface);
                frames.push(Frame {
                    interface,
                    link_type: described.map_or(u16::MAX, |described| described.link_type),
                    time_ns: at.time_ns,
                    wire_length: at.wire_length,
                    bytes: bytes.to_vec(),
                });
            }
        }
        Ok(frames)
    }

    fn take(&mut self, chunk: &mut Chunk) -> Step {
        match &mut self.format {
            Format::Pcap(pcap) => pcap.take(chunk, &mut self.ledger),
            Format::Pcapng(pcapng) => pcapng.take(chunk, &mut self.ledger),
            Format::Snoop => snoop::take(chunk, &mut self.ledger),
        }
    }

    /// Goes by what came of reading: whether the chunk is to be handed out.
    fn take_filled(
        &mut self,
        filled: Result<Filled, Failure>,
        needed: usize,
        chunk: &mut Chunk,
    ) -> Result<bool, ReadError> {
        match filled {
            Ok(Filled::Bytes(count)) => {
                chunk.filled += count;
                return Ok(false);
            }
            Ok(Filled::NothingYet) if chunk.frames.is_empty() => {
                self.stream
                    .source
                    .wait()
                    .map_err(|error| self.fail(error))?;
                return Ok(false);
            }
            Ok(Filled::NothingYet) => {}
            Ok(Filled::Stopped) => {
                self.ledger.notes.unfinished_bytes = chunk.rest().len() as u64;
                self.has_ended = true;
            }
            Ok(Filled::End) => {
                let record = self.record_offset(chunk);
                let present = chunk.offset + chunk.filled as u64 - record;
                if present > 0 {
                    let needed = chunk.record_offset() - record + needed as u64;
                    self.end_at(chunk, Fault::CutOff { present, needed });
                }
                self.has_ended = true;
            }
            Err(Failure::Damaged(fault)) => self.end_at(chunk, fault),
            // What was read before is still handed out; the next call meets the error again.
            Err(Failure::Io(_)) if !chunk.frames.is_empty() => {}
            Err(Failure::Io(error)) => return Err(self.fail(error)),
        }
        Ok(true)
    }

    fn end_at(&mut self, chunk: &Chunk, fault: Fault) {
        self.has_ended = true;
        self.damage = Some(Damage {
            offset: self.record_offset(chunk),
            frame_count: self.ledger.frame_count,
            fault,
        });
    }

    fn record_offset(&self, chunk: &Chunk) -> u64 {
        let begun = match &self.format {
            Format::Pcapng(pcapng) => pcapng.record_offset(),
            Format::Pcap(_) | Format::Snoop => None,
        };
        begun.unwrap_or_else(|| chunk.record_offset())
    }

    fn fail(&mut self, source: io::Error) -> ReadError {
        self.has_ended = true;
        ReadError {
            path: self.path.clone(),
            source,
        }
    }
}

/// Reads the first bytes of a file, as many as every format needs to be recognised, or all.
fn read_head(stream: &mut Stream, head: &mut Vec<u8>) -> Result<(), Failure> {
    let mut bytes = [0; HEAD_BYTES];
    while head.len() < HEAD_BYTES {
        match stream.fill(&mut bytes[head.len()..])? {
            Filled::Bytes(count) => {
                let start = head.len();
                head.extend_from_slice(&bytes[start..start + count]);
            }
            Filled::NothingYet => stream.source.wait()?,
            Filled::End | Filled::Stopped => break,
        }
    }
    Ok(())
}

/// The format that the first bytes are of, and how many of them are the file's header.
fn recognise(
    path: String,
    head: &[u8],
    compression: Option<&'static str>,
    ledger: &mut Ledger,
) -> Result<(Format, usize), OpenError> {
    if head.is_empty() {
        return Err(OpenError::Empty { path });
    }
    match pcapng::recognise(head) {
        Some(_) if head.len() < HEAD_BYTES => return Err(OpenError::HeaderCutOff { path }),
        Some(Ok(pcapng)) => return Ok((Format::Pcapng(pcapng), 0)),
        Some(Err(fault)) => return Err(OpenError::Damaged { path, fault }),
        None => {}
    }
    match snoop::recognise(head) {
        snoop::Recognised::Snoop(_) if head.len() < snoop::HEADER_BYTES => {
            return Err(OpenError::HeaderCutOff { path });
        }
        snoop::Recognised::Snoop(interface) => {
            ledger.add_interface(interface);
            return Ok((Format::Snoop, snoop::HEADER_BYTES));
        }
        snoop::Recognised::UnknownVersion(version) => {
            return Err(OpenError::UnknownVersion {
                path,
                format: "snoop",
                version: version.to_string(),
            });
        }
        snoop::Recognised::No => {}
    }
    match pcap::recognise(head) {
        pcap::Recognised::No => {
            let remedy = remedy::of(head, compression.is_some());
            Err(OpenError::NotACapture { path, remedy })
        }
        _ if head.len() < HEAD_BYTES => Err(OpenError::HeaderCutOff { path }),
        pcap::Recognised::Pcap(pcap, interface) => {
            ledger.add_interface(interface);
            Ok((Format::Pcap(pcap), HEAD_BYTES))
        }
        pcap::Recognised::UnknownVersion(major, minor) => Err(OpenError::UnknownVersion {
            path,
            format: "pcap",
            version: format!("{major}.{minor}"),
        }),
    }
}
