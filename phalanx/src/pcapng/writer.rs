//! Packets to pcapng.

use std::borrow::Cow;
use std::io::Write;
use std::time::Duration;

use pcap_file::DataLink;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption, InterfaceTsResolution,
};
use pcap_file::pcapng::blocks::interface_statistics::{
    InterfaceStatisticsBlock, InterfaceStatisticsOption,
};
use pcap_file::pcapng::blocks::opt_common::CommonOption;
use pcap_file::pcapng::blocks::section_header::{SectionHeaderBlock, SectionHeaderOption};
use pcap_file::pcapng::{PcapNgWriteError, PcapNgWriter};
use thiserror::Error;

use super::{INTERFACE_COUNT_MAX, Interface};

/// Longest option of a block in bytes: its length field has 16 bits, and a multiple of four fits.
const OPTION_BYTES_MAX: usize = 65_532;

/// One packet to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet<'p> {
    /// Index of the interface it was seen on.
    pub interface: usize,
    /// Nanoseconds since 1970.
    pub time_ns: u64,
    /// Bytes it had on the wire; written as at least the captured ones.
    pub wire_length: u32,
    /// Captured bytes from the link header on.
    pub bytes: &'p [u8],
    /// A remark shown beside the packet; none if empty.
    pub comment: &'p str,
}

/// What happened on an interface during a capture.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Start of the capture, nanoseconds since 1970.
    pub start_ns: u64,
    /// End of the capture, nanoseconds since 1970.
    pub end_ns: u64,
    /// Packets seen.
    pub seen: u64,
    /// Packets that matched the filter.
    pub matched: u64,
    /// Matching packets that were lost on the way here.
    pub dropped: u64,
    /// Packets in the file.
    pub written: u64,
}

/// A capture that cannot be written.
#[derive(Debug, Error)]
pub enum WriteError {
    /// The disk is full, the reader of the pipe is gone, ….
    #[error("write the capture: {0}; check the space left and the reader of the pipe")]
    Io(#[source] std::io::Error),
    /// A packet names an interface that was not described before.
    #[error("write the capture: interface {0} was not described")]
    UnknownInterface(usize),
    /// Too many interfaces.
    #[error("write the capture: more than {INTERFACE_COUNT_MAX} interfaces; capture on fewer")]
    TooManyInterfaces,
    /// A value that pcapng cannot hold.
    #[error("write the capture: {0}")]
    Format(#[source] PcapNgWriteError),
}

impl From<PcapNgWriteError> for WriteError {
    fn from(error: PcapNgWriteError) -> Self {
        match error {
            PcapNgWriteError::Io(error) => Self::Io(error),
            other => Self::Format(other),
        }
    }
}

/// Writes one section; interfaces may be added at any time before their first packet.
pub struct Writer<W: Write> {
    inner: PcapNgWriter<Counter<W>>,
    interface_count: usize,
}

impl<W: Write> Writer<W> {
    /// Begins a file; `comment` says what the capture is, none if empty.
    ///
    /// # Errors
    /// The output cannot be written.
    pub fn new(output: W, comment: &str) -> Result<Self, WriteError> {
        let counter = Counter {
            output,
            byte_count: 0,
            is_mute: false,
        };
        Self::begin(counter, comment)
    }

    /// Goes on with a file of this writer that broke off: `output` takes what follows on its
    /// `byte_count` bytes, and `interfaces` are described there.
    ///
    /// # Errors
    /// There are too many interfaces.
    pub fn resume(
        output: W,
        byte_count: u64,
        interfaces: &[Interface],
    ) -> Result<Self, WriteError> {
        let counter = Counter {
            output,
            byte_count,
            is_mute: true,
        };
        let mut writer = Self::begin(counter, "")?;
        for interface in interfaces {
            writer.add_interface(interface)?;
        }
        writer.inner.get_mut().is_mute = false;
        Ok(writer)
    }

    fn begin(counter: Counter<W>, comment: &str) -> Result<Self, WriteError> {
        let application = concat!("Phalanx ", env!("CARGO_PKG_VERSION"));
        let mut options = vec![SectionHeaderOption::UserApplication(application.into())];
        options.extend(comment_option(comment).map(SectionHeaderOption::Common));
        let section = SectionHeaderBlock {
            options,
            ..SectionHeaderBlock::default()
        };
        let inner = PcapNgWriter::with_section_header(counter, section)?;
        Ok(Self {
            inner,
            interface_count: 0,
        })
    }

    /// Describes an interface and returns its index.
    ///
    /// # Errors
    /// The output cannot be written, or there are too many.
    pub fn add_interface(&mut self, interface: &Interface) -> Result<usize, WriteError> {
        if self.interface_count == INTERFACE_COUNT_MAX {
            return Err(WriteError::TooManyInterfaces);
        }
        let mut options = vec![InterfaceDescriptionOption::IfTsResol(
            InterfaceTsResolution::NANO,
        )];
        let text = |text| (!str::is_empty(text)).then(|| Cow::Borrowed(shorten(text)));
        options.extend(text(&interface.name).map(InterfaceDescriptionOption::IfName));
        let description = text(&interface.description);
        options.extend(description.map(InterfaceDescriptionOption::IfDescription));
        options.extend(text(&interface.filter).map(|filter| {
            // The first byte says that the filter is a text in pcap-filter syntax.
            let bytes = [&[0], shorten_to(&filter, OPTION_BYTES_MAX - 1).as_bytes()].concat();
            InterfaceDescriptionOption::IfFilter(bytes.into())
        }));
        self.inner.write_pcapng_block(InterfaceDescriptionBlock {
            linktype: DataLink::from(u32::from(interface.link_type)),
            snaplen: interface.snap_length,
            options,
        })?;
        self.interface_count += 1;
        Ok(self.interface_count - 1)
    }

    /// Writes one packet.
    ///
    /// # Errors
    /// The output cannot be written, or the interface was not described.
    pub fn write(&mut self, packet: &Packet<'_>) -> Result<(), WriteError> {
        let captured = u32::try_from(packet.bytes.len()).unwrap_or(u32::MAX);
        let options = comment_option(packet.comment).map(EnhancedPacketOption::Common);
        self.inner.write_pcapng_block(EnhancedPacketBlock {
            interface_id: self.interface_id(packet.interface)?,
            timestamp: Duration::from_nanos(packet.time_ns),
            original_len: packet.wire_length.max(captured),
            data: Cow::Borrowed(packet.bytes),
            options: options.into_iter().collect(),
        })?;
        Ok(())
    }

    /// Writes what happened on an interface; belongs at the end of the file.
    ///
    /// # Errors
    /// The output cannot be written, or the interface was not described.
    pub fn write_statistics(
        &mut self,
        interface: usize,
        statistics: &Statistics,
    ) -> Result<(), WriteError> {
        let end = Duration::from_nanos(statistics.end_ns);
        self.inner.write_pcapng_block(InterfaceStatisticsBlock {
            interface_id: self.interface_id(interface)?,
            timestamp: end,
            options: vec![
                InterfaceStatisticsOption::IsbStartTime(Duration::from_nanos(statistics.start_ns)),
                InterfaceStatisticsOption::IsbEndTime(end),
                InterfaceStatisticsOption::IsbIfRecv(statistics.seen),
                InterfaceStatisticsOption::IsbFilterAccept(statistics.matched),
                InterfaceStatisticsOption::IsbOsDrop(statistics.dropped),
                InterfaceStatisticsOption::IsbUsrDeliv(statistics.written),
            ],
        })?;
        Ok(())
    }

    /// Writes remarks about an interface, each a comment, in a block of statistics without any.
    ///
    /// # Errors
    /// The output cannot be written, or the interface was not described.
    pub fn write_remarks(
        &mut self,
        interface: usize,
        time_ns: u64,
        remarks: &[String],
    ) -> Result<(), WriteError> {
        let comments = remarks.iter().filter_map(|remark| comment_option(remark));
        self.inner.write_pcapng_block(InterfaceStatisticsBlock {
            interface_id: self.interface_id(interface)?,
            timestamp: Duration::from_nanos(time_ns),
            options: comments.map(InterfaceStatisticsOption::Common).collect(),
        })?;
        Ok(())
    }

    /// Bytes written so far.
    #[must_use]
    pub fn byte_count(&self) -> u64 {
        self.inner.get_ref().byte_count
    }

    /// Where the bytes go; what has been written may be taken from there.
    pub fn output_mut(&mut self) -> &mut W {
        &mut self.inner.get_mut().output
    }

    /// Hands the bytes over to whoever reads the other end.
    ///
    /// # Errors
    /// The output cannot be written.
    pub fn flush(&mut self) -> Result<(), WriteError> {
        self.inner.get_mut().flush().map_err(WriteError::Io)
    }

    /// Flushes and returns the output.
    ///
    /// # Errors
    /// The output cannot be written.
    pub fn finish(mut self) -> Result<W, WriteError> {
        self.flush()?;
        Ok(self.inner.into_inner().output)
    }

    fn interface_id(&self, interface: usize) -> Result<u32, WriteError> {
        match u32::try_from(interface) {
            Ok(id) if interface < self.interface_count => Ok(id),
            _ => Err(WriteError::UnknownInterface(interface)),
        }
    }
}

/// Bytes that [`Writer::write_remarks`] takes for remarks.
pub(crate) fn remarks_size(remarks: &[String]) -> u64 {
    // The block's header, time, interface and trailer; the end of its options.
    const BLOCK_SIZE: usize = 24 + 4;
    let option = |remark: &String| 4 + remark.len().min(OPTION_BYTES_MAX).next_multiple_of(4);
    remarks.iter().map(option).sum::<usize>() as u64 + BLOCK_SIZE as u64
}

fn comment_option(comment: &str) -> Option<CommonOption<'_>> {
    (!comment.is_empty()).then(|| CommonOption::Comment(Cow::Borrowed(shorten(comment))))
}

fn shorten(text: &str) -> &str {
    shorten_to(text, OPTION_BYTES_MAX)
}

fn shorten_to(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

/// Counts what passes through.
struct Counter<W> {
    output: W,
    byte_count: u64,
    /// What is written is there already.
    is_mute: bool,
}

impl<W: Write> Write for Counter<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.is_mute {
            return Ok(bytes.len());
        }
        let written = self.output.write(bytes)?;
        self.byte_count += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.output.flush()
    }
}
