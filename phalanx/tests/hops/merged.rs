//! A merged capture, read with its comments by a reader that is not ours.

use std::fs::File;
use std::path::Path;

use jiff::Timestamp;
use pcap_parser::traits::{PcapNGPacketBlock, PcapReaderIterator};
use pcap_parser::{Block, OptionCode, PcapBlockOwned, PcapError, PcapNGOption, PcapNGReader};

use crate::told::{Run, analyze};

/// As large as blocks get.
const BUFFER_BYTES: usize = 1 << 22;

/// A packet as it stands there.
#[derive(Debug)]
pub(crate) struct Packet {
    pub(crate) interface: usize,
    pub(crate) time_ns: i128,
    pub(crate) wire_length: u32,
    pub(crate) bytes: Vec<u8>,
    /// Empty if there is none.
    pub(crate) comment: String,
    pub(crate) remark: Option<Remark>,
}

/// What the comment says.
#[derive(Debug, PartialEq)]
pub(crate) struct Remark {
    pub(crate) hop: String,
    pub(crate) own_ns: i128,
    pub(crate) error_ns: i128,
}

impl Remark {
    /// `a1: 2026-11-26T10:00:00.123456789Z, ±12 µs`.
    fn read(text: &str) -> Option<Self> {
        let (hop, rest) = text.split_once(": ")?;
        let (time, error) = rest.split_once(", ±")?;
        let (count, unit) = error.split_once(' ')?;
        let unit_ns = match unit {
            "ns" => 1,
            "µs" => 1_000,
            "ms" => 1_000_000,
            _ => return None,
        };
        Some(Self {
            hop: hop.to_owned(),
            own_ns: time.parse::<Timestamp>().ok()?.as_nanosecond(),
            error_ns: count.parse::<i128>().ok()? * unit_ns,
        })
    }
}

/// Runs `phalanx analyze --merge merged.pcapng` in a folder of captures.
pub(crate) fn merge(folder: &Path, files: &[&str], more: &[&str]) -> Run {
    analyze(
        folder,
        files,
        &[&["--merge", "merged.pcapng"], more].concat(),
    )
}

fn comment(options: &[PcapNGOption<'_>]) -> String {
    let found = options.iter().find(|it| it.code == OptionCode::Comment);
    let bytes = found.map_or(&[][..], |it| &it.value()[..usize::from(it.len)]);
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The packets in the order of the file, and what it says of itself.
pub(crate) fn packets(path: &Path) -> (Vec<Packet>, String) {
    let mut reader = PcapNGReader::new(BUFFER_BYTES, File::open(path).unwrap()).unwrap();
    let (mut packets, mut about) = (Vec::new(), String::new());
    loop {
        let (offset, block) = match reader.next() {
            Ok(next) => next,
            Err(PcapError::Eof) => return (packets, about),
            Err(PcapError::Incomplete(_)) => {
                reader.refill().unwrap();
                continue;
            }
            Err(error) => panic!("{error:?}"),
        };
        match block {
            PcapBlockOwned::NG(Block::SectionHeader(header)) => about = comment(&header.options),
            PcapBlockOwned::NG(Block::EnhancedPacket(packet)) => {
                let units = u64::from(packet.ts_high) << 32 | u64::from(packet.ts_low);
                let comment = comment(&packet.options);
                packets.push(Packet {
                    interface: packet.if_id as usize,
                    time_ns: units.into(),
                    wire_length: packet.origlen,
                    bytes: packet.packet_data().to_vec(),
                    remark: Remark::read(&comment),
                    comment,
                });
            }
            _ => {}
        }
        reader.consume(offset);
    }
}
