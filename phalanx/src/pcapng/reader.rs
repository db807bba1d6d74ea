//! Pcap and pcapng to frames, in the order of the file.
//!
//! Odd blocks are skipped and counted; only a file that cannot be followed any further ends with
//! an error, after all frames before it.

use std::io::{Chain, Cursor, Read};
use std::time::Duration;

use pcap_file::DataLink;
use pcap_file::pcap::{PcapReadError, PcapReader, PcapTsResolution};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::pcapng::{Block, PcapNgReadError, PcapNgReader};
use thiserror::Error;

use super::{INTERFACE_COUNT_MAX, Interface};

/// Longest block that is read, in bytes; also the size of the buffer.
const BLOCK_BYTES_MAX: usize = 1 << 20;
/// Magic number of pcapng.
const SECTION_HEADER: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];

/// One frame of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Index into [`Reader::interfaces`].
    pub interface: usize,
    /// Link type of that interface.
    pub link_type: u16,
    /// Nanoseconds since 1970; 0 if the file does not say.
    pub time_ns: u64,
    /// Bytes on the wire.
    pub wire_length: u32,
    /// Captured bytes from the link header on.
    pub bytes: Vec<u8>,
}

/// A file that cannot be read, or not further.
#[derive(Debug, Error)]
pub enum ReadError {
    /// Neither pcap nor pcapng.
    #[error("not a pcap or pcapng file; convert it with editcap, or decompress it")]
    UnknownFormat,
    /// The file ends inside a block, or a block is longer than 1 MiB.
    #[error("the file is cut off or damaged after {frame_count} frames")]
    Truncated {
        /// Frames read before.
        frame_count: u64,
    },
    /// The disk or pipe failed.
    #[error("read the capture: {0}")]
    Io(#[source] std::io::Error),
    /// A block that cannot be followed.
    #[error("damaged after {frame_count} frames: {reason}")]
    Damaged {
        /// Frames read before.
        frame_count: u64,
        /// What is wrong.
        reason: String,
    },
    /// More interfaces than supported.
    #[error("more than {INTERFACE_COUNT_MAX} interfaces; split the file")]
    TooManyInterfaces,
}

type Source<R> = Chain<Cursor<Vec<u8>>, R>;

enum Format<R: Read> {
    Pcap(PcapReader<Source<R>>),
    PcapNg {
        reader: PcapNgReader<Source<R>>,
        /// Index of the first interface of the current section.
        section_start: usize,
    },
}

/// Reads frames; an iterator that ends after its first error.
pub struct Reader<R: Read> {
    format: Format<R>,
    interfaces: Vec<Interface>,
    frame_count: u64,
    skipped_count: u64,
    ended: bool,
}

impl<R: Read> Reader<R> {
    /// Begins to read a file of either format; it need not be buffered.
    ///
    /// # Errors
    /// Neither pcap nor pcapng, or unreadable.
    pub fn new(mut input: R) -> Result<Self, ReadError> {
        let mut magic = Vec::with_capacity(4);
        input
            .by_ref()
            .take(4)
            .read_to_end(&mut magic)
            .map_err(ReadError::Io)?;
        let is_pcapng = magic == SECTION_HEADER;
        let source = Cursor::new(magic).chain(input);
        let mut interfaces = Vec::new();
        let format = if is_pcapng {
            let reader = PcapNgReader::with_capacity(source, BLOCK_BYTES_MAX);
            let reader = reader.map_err(|error| pcapng_error(error, 0))?;
            Format::PcapNg {
                reader,
                section_start: 0,
            }
        } else {
            let reader = PcapReader::with_capacity(source, BLOCK_BYTES_MAX);
            let reader = reader.map_err(|error| match error {
                PcapReadError::Validation(_) => ReadError::UnknownFormat,
                PcapReadError::Io(error) if is_end(&error) => ReadError::UnknownFormat,
                PcapReadError::Io(error) => ReadError::Io(error),
            })?;
            interfaces.push(Interface {
                name: String::new(),
                description: String::new(),
                link_type: link_type(reader.header().datalink),
                snap_length: reader.header().snaplen,
                filter: String::new(),
            });
            Format::Pcap(reader)
        };
        Ok(Self {
            format,
            interfaces,
            frame_count: 0,
            skipped_count: 0,
            ended: false,
        })
    }

    /// The interfaces described so far; those of later sections are appended.
    #[must_use]
    pub fn interfaces(&self) -> &[Interface] {
        &self.interfaces
    }

    /// Blocks with contents that make no sense, left out so far.
    #[must_use]
    pub fn skipped_count(&self) -> u64 {
        self.skipped_count
    }

    fn next_frame(&mut self) -> Result<Option<Frame>, ReadError> {
        match &mut self.format {
            Format::Pcap(reader) => {
                let link_type = link_type(reader.header().datalink);
                next_pcap(reader, link_type, self.frame_count)
            }
            Format::PcapNg { .. } => self.next_pcapng(),
        }
    }

    fn next_pcapng(&mut self) -> Result<Option<Frame>, ReadError> {
        let Format::PcapNg {
            reader,
            section_start,
        } = &mut self.format
        else {
            return Ok(None);
        };
        loop {
            let block = match reader.next_block() {
                None => return Ok(None),
                Some(Ok((block, _))) => block,
                Some(Err(PcapNgReadError::BlockConversion(_))) => {
                    self.skipped_count += 1;
                    match reader.next_raw_block() {
                        None => return Ok(None),
                        Some(Ok(_)) => continue,
                        Some(Err(error)) => return Err(pcapng_error(error, self.frame_count)),
                    }
                }
                Some(Err(error)) => return Err(pcapng_error(error, self.frame_count)),
            };
            let (interface, time, wire_length, bytes) = match block {
                Block::SectionHeader(_) => {
                    *section_start = self.interfaces.len();
                    continue;
                }
                Block::InterfaceDescription(block) => {
                    if self.interfaces.len() == INTERFACE_COUNT_MAX {
                        return Err(ReadError::TooManyInterfaces);
                    }
                    self.interfaces.push(describe(&block));
                    continue;
                }
                Block::EnhancedPacket(block) => (
                    block.interface_id,
                    block.timestamp,
                    block.original_len,
                    block.data,
                ),
                Block::Packet(block) => {
                    let interface = u32::from(block.interface_id);
                    (interface, block.timestamp, block.original_len, block.data)
                }
                Block::SimplePacket(block) => (0, Duration::ZERO, block.original_len, block.data),
                _ => continue,
            };
            let interface = *section_start + interface as usize;
            let Some(described) = self.interfaces.get(interface) else {
                self.skipped_count += 1;
                continue;
            };
            let link_type = described.link_type;
            let bytes = bytes.into_owned();
            let time_ns = nanoseconds(time);
            return Ok(Some(Frame {
                interface,
                link_type,
                time_ns,
                wire_length,
                bytes,
            }));
        }
    }
}

impl<R: Read> Iterator for Reader<R> {
    type Item = Result<Frame, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = self.next_frame().transpose();
        match &next {
            Some(Ok(_)) => self.frame_count += 1,
            Some(Err(_)) | None => self.ended = true,
        }
        next
    }
}

fn next_pcap<R: Read>(
    reader: &mut PcapReader<R>,
    link_type: u16,
    frame_count: u64,
) -> Result<Option<Frame>, ReadError> {
    let fraction_ns = match reader.header().ts_resolution {
        PcapTsResolution::MicroSecond => 1000,
        PcapTsResolution::NanoSecond => 1,
    };
    // The raw packet: a fraction above a second or a length above the snap length is no reason
    // to leave a frame out.
    let packet = match reader.next_raw_packet() {
        None => return Ok(None),
        Some(Ok(packet)) => packet,
        Some(Err(PcapReadError::Io(error))) if is_end(&error) => {
            return Err(ReadError::Truncated { frame_count });
        }
        Some(Err(PcapReadError::Io(error))) => return Err(ReadError::Io(error)),
        Some(Err(error)) => {
            return Err(ReadError::Damaged {
                frame_count,
                reason: error.to_string(),
            });
        }
    };
    let seconds_ns = u64::from(packet.ts_sec) * 1_000_000_000;
    Ok(Some(Frame {
        interface: 0,
        link_type,
        time_ns: seconds_ns + u64::from(packet.ts_frac) * fraction_ns,
        wire_length: packet.orig_len,
        bytes: packet.data.into_owned(),
    }))
}

fn describe(block: &InterfaceDescriptionBlock<'_>) -> Interface {
    let mut interface = Interface {
        name: String::new(),
        description: String::new(),
        link_type: link_type(block.linktype),
        snap_length: block.snaplen,
        filter: String::new(),
    };
    for option in &block.options {
        match option {
            InterfaceDescriptionOption::IfName(name) => interface.name = name.to_string(),
            InterfaceDescriptionOption::IfDescription(text) => {
                interface.description = text.to_string();
            }
            InterfaceDescriptionOption::IfFilter(filter) if filter.first() == Some(&0) => {
                interface.filter = String::from_utf8_lossy(&filter[1..]).into_owned();
            }
            _ => {}
        }
    }
    interface
}

/// The upper half of the field says how long the frame check sequence is.
fn link_type(link: DataLink) -> u16 {
    (u32::from(link) & 0xffff) as u16
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn is_end(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::UnexpectedEof
}

fn pcapng_error(error: PcapNgReadError, frame_count: u64) -> ReadError {
    match error {
        PcapNgReadError::Io(error) if is_end(&error) => ReadError::Truncated { frame_count },
        PcapNgReadError::Io(error) => ReadError::Io(error),
        other => ReadError::Damaged {
            frame_count,
            reason: other.to_string(),
        },
    }
}
