//! What others read of a capture: pcap-parser all frames, tshark the TCP frames' times.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Cursor, Read as _};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use pcap_parser::traits::PcapNGPacketBlock as _;
use pcap_parser::{Block, PcapBlockOwned, PcapError, create_reader};

/// One frame, as any reader gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) time_ns: i64,
    pub(crate) wire_length: u32,
    pub(crate) link_type: u16,
    pub(crate) bytes: Vec<u8>,
}

/// Folder of extra captures; `None` and a printed line when it is absent.
pub(crate) fn shared_captures() -> Option<PathBuf> {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared");
    let root = std::env::var("PHALANX_SHARED").unwrap_or_else(|_| default.into());
    let folder = Path::new(&root).join("pcaps");
    if folder.is_dir() {
        return Some(folder);
    }
    println!(
        "SKIPPED: no captures in {}; set PHALANX_SHARED",
        folder.display()
    );
    None
}

/// Every capture below a folder.
pub(crate) fn list(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(list(&path));
        } else if path.extension().is_some_and(|end| {
            ["pcap", "pcapng", "snoop", "cap"].contains(&&*end.to_string_lossy())
        }) {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// Name of a capture below the folder.
pub(crate) fn name_in(folder: &Path, path: &Path) -> String {
    path.strip_prefix(folder)
        .unwrap_or(path)
        .display()
        .to_string()
}

/// The frames that pcap-parser reads, and why it stopped if not at the end.
pub(crate) fn read_with_pcap_parser(bytes: Vec<u8>) -> (Vec<Frame>, Option<String>) {
    let mut frames = Vec::new();
    let mut reader = match create_reader(1 << 21, Cursor::new(bytes)) {
        Ok(reader) => reader,
        Err(error) => return (frames, Some(format!("{error:?}"))),
    };
    let (mut interfaces, mut legacy) = (Vec::new(), (0, 1000));
    let mut was_incomplete = false;
    loop {
        let (length, block) = match reader.next() {
            Ok(next) => next,
            Err(PcapError::Eof) => return (frames, None),
            Err(PcapError::Incomplete(_)) if !was_incomplete => {
                was_incomplete = true;
                reader.refill().unwrap();
                continue;
            }
            Err(error) => return (frames, Some(format!("{error:?}"))),
        };
        was_incomplete = false;
        match block {
            PcapBlockOwned::LegacyHeader(header) => {
                let unit_ns = if header.is_nanosecond_precision() {
                    1
                } else {
                    1000
                };
                legacy = (header.network.0 as u16, unit_ns);
            }
            PcapBlockOwned::Legacy(packet) => frames.push(Frame {
                time_ns: i64::from(packet.ts_sec) * 1_000_000_000
                    + i64::from(packet.ts_usec) * legacy.1,
                wire_length: packet.origlen,
                link_type: legacy.0,
                bytes: packet.data[..packet.caplen as usize].into(),
            }),
            PcapBlockOwned::NG(block) => frames.extend(of_block(&block, &mut interfaces)),
        }
        reader.consume(length);
    }
}

/// Link type, ticks a second and seconds of an interface.
type Described = (u16, u128, i64);

fn of_block(block: &Block<'_>, interfaces: &mut Vec<Described>) -> Option<Frame> {
    match block {
        Block::SectionHeader(_) => interfaces.clear(),
        Block::InterfaceDescription(described) => {
            let power = u32::from(described.if_tsresol & 0x7f);
            let per_second = match described.if_tsresol & 0x80 {
                0 => 10_u128.pow(power),
                _ => 1 << power,
            };
            let link_type = described.linktype.0 as u16;
            interfaces.push((link_type, per_second, described.if_tsoffset));
        }
        Block::EnhancedPacket(packet) => {
            let (link_type, per_second, offset) = *interfaces.get(packet.if_id as usize)?;
            let ticks = u128::from(packet.ts_high) << 32 | u128::from(packet.ts_low);
            let time_ns = (ticks * 1_000_000_000 / per_second) as i128;
            let time_ns = time_ns + i128::from(offset) * 1_000_000_000;
            return Some(Frame {
                time_ns: time_ns.clamp(i64::MIN.into(), i64::MAX.into()) as i64,
                wire_length: packet.origlen,
                link_type,
                bytes: packet.packet_data().to_vec(),
            });
        }
        Block::SimplePacket(packet) => {
            let (link_type, ..) = *interfaces.first()?;
            let captured = packet.data.len().min(packet.origlen as usize);
            return Some(Frame {
                time_ns: 0,
                wire_length: packet.origlen,
                link_type,
                bytes: packet.data[..captured].to_vec(),
            });
        }
        _ => {}
    }
    None
}

/// The times of TCP frames by number, in nanoseconds, as tshark gave them; `None` where there is
/// no such file.
pub(crate) fn times_of_tshark(folder: &Path, name: &str) -> Option<BTreeMap<u64, i64>> {
    let path = folder.join("ref").join(format!("{name}.tshark.tsv.gz"));
    let mut text = String::new();
    let file = File::open(path).ok()?;
    MultiGzDecoder::new(file).read_to_string(&mut text).unwrap();
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next()?.split('\t').collect();
    let column = |wanted: &str| header.iter().position(|name| *name == wanted).unwrap();
    let (number, time) = (column("frame.number"), column("frame.time_epoch"));
    let times = lines.map(|line| {
        let fields: Vec<&str> = line.split('\t').collect();
        (fields[number].parse().unwrap(), nanoseconds(fields[time]))
    });
    Some(times.collect())
}

fn nanoseconds(epoch: &str) -> i64 {
    let (seconds, fraction) = epoch.split_once('.').unwrap_or((epoch, "0"));
    let sign = if seconds.starts_with('-') { -1 } else { 1 };
    // Ten digits where the file has more than a second's worth of microseconds.
    let fraction_ns: i64 = format!("{fraction:0<9}").parse().unwrap();
    seconds.parse::<i64>().unwrap() * 1_000_000_000 + sign * fraction_ns
}
