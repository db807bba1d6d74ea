//! Frames for the tests of whatever parses packets: those of capture files, and seeded mutations
//! of them. It knows nothing of the parser, so that tests of other crates can take it in by path.
#![allow(dead_code, unreachable_pub, reason = "each test takes in what it uses")]
#![allow(
    clippy::unwrap_used,
    reason = "a test whose captures cannot be read has failed"
)]

#[path = "random.rs"]
mod random;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use pcap_file::pcap::PcapReader;
use pcap_file::pcapng::{Block, PcapNgReader};

use random::Random;

/// One frame as a capture file holds it.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The file's path below the folder of the captures.
    pub file: Rc<str>,
    /// Number of the frame in its file, from 1.
    pub number: usize,
    /// Link type by its pcap number.
    pub linktype: u32,
    /// What was captured.
    pub bytes: Vec<u8>,
    /// Length of the frame on the wire in bytes.
    pub wire_length: u32,
}

/// The folder of extra captures, if this machine has one: `$PHALANX_SHARED/pcaps`, by default
/// `../shared/pcaps` beside the workspace. Says so where it is absent.
pub fn shared_captures(test: &str) -> Option<PathBuf> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let shared = match std::env::var_os("PHALANX_SHARED") {
        // Cargo runs tests in the folder of their crate; a relative path means the workspace.
        Some(folder) => workspace.join(folder),
        None => workspace.join("../shared"),
    };
    let captures = shared.join("pcaps");
    if captures.is_dir() {
        return Some(captures);
    }
    println!("SKIPPED: {test}: no captures at {}", captures.display());
    None
}

/// All frames of all capture files below `folder`, in the order of their paths.
pub fn read_folder(folder: &Path) -> Vec<Frame> {
    let mut frames = Vec::new();
    for path in capture_files(folder) {
        let name = path.strip_prefix(folder).unwrap().to_string_lossy();
        frames.extend(read_capture(&path, &name));
    }
    frames
}

/// The paths of all files below `folder` that begin as a pcap or pcapng file does, sorted.
pub fn capture_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if magic(&path).is_some() {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

enum Format {
    Pcap,
    PcapNg,
}

fn magic(path: &Path) -> Option<Format> {
    let mut magic = [0; 4];
    File::open(path).ok()?.read_exact(&mut magic).ok()?;
    match magic {
        [0xa1, 0xb2, 0xc3, 0xd4]
        | [0xd4, 0xc3, 0xb2, 0xa1]
        | [0xa1, 0xb2, 0x3c, 0x4d]
        | [0x4d, 0x3c, 0xb2, 0xa1] => Some(Format::Pcap),
        [0x0a, 0x0d, 0x0d, 0x0a] => Some(Format::PcapNg),
        _ => None,
    }
}

/// The frames of one file, up to its end or the first thing in it that is malformed.
pub fn read_capture(path: &Path, name: &str) -> Vec<Frame> {
    let file: Rc<str> = name.into();
    match magic(path) {
        Some(Format::Pcap) => read_pcap(path, &file),
        Some(Format::PcapNg) => read_pcapng(path, &file),
        None => Vec::new(),
    }
}

fn read_pcap(path: &Path, file: &Rc<str>) -> Vec<Frame> {
    let mut frames = Vec::new();
    let Ok(mut reader) = PcapReader::with_capacity(File::open(path).unwrap(), 1 << 22) else {
        return frames;
    };
    // The upper half of the field may hold the length of a frame check sequence.
    let linktype = u32::from(reader.header().datalink) & 0xffff;
    while let Some(Ok(packet)) = reader.next_raw_packet() {
        frames.push(Frame {
            file: Rc::clone(file),
            number: frames.len() + 1,
            linktype,
            wire_length: packet.orig_len,
            bytes: packet.data.into_owned(),
        });
    }
    frames
}

fn read_pcapng(path: &Path, file: &Rc<str>) -> Vec<Frame> {
    let mut frames = Vec::new();
    let Ok(mut reader) = PcapNgReader::with_capacity(File::open(path).unwrap(), 1 << 22) else {
        return frames;
    };
    while let Some(Ok((block, state))) = reader.next_block() {
        let (interface, wire_length, data) = match block {
            Block::EnhancedPacket(packet) => {
                (packet.interface_id, packet.original_len, packet.data)
            }
            Block::SimplePacket(packet) => (0, packet.original_len, packet.data),
            Block::Packet(packet) => (
                u32::from(packet.interface_id),
                packet.original_len,
                packet.data,
            ),
            _ => continue,
        };
        let Some(interface) = state.interfaces().get(interface as usize) else {
            continue;
        };
        frames.push(Frame {
            file: Rc::clone(file),
            number: frames.len() + 1,
            linktype: u32::from(interface.linktype),
            wire_length,
            bytes: data.into_owned(),
        });
    }
    frames
}

/// A seeded source of mutations: the same seed makes the same frames.
pub struct Mutator {
    random: Random,
}

/// No mutated frame is longer, in bytes.
pub const MUTATED_LENGTH_MAX: usize = 4096;

/// Values that sit on the edge of a field's range.
const EDGES: [u8; 12] = [0, 1, 2, 4, 5, 6, 0x0f, 0x40, 0x45, 0x60, 0x80, 0xff];

impl Mutator {
    pub const fn new(seed: u64) -> Self {
        Self {
            random: Random(seed ^ 0x9e37_79b9_7f4a_7c15),
        }
    }

    /// A number below `bound`.
    pub const fn below(&mut self, bound: usize) -> usize {
        self.random.below(bound)
    }

    /// A frame made from `seed` by one to four changes, most of them in its first 128 bytes, where
    /// the headers are; `other` lends bytes.
    pub fn mutate(&mut self, seed: &[u8], other: &[u8]) -> Vec<u8> {
        let mut frame = seed[..seed.len().min(MUTATED_LENGTH_MAX)].to_vec();
        for _ in 0..=self.below(4) {
            self.change(&mut frame, other);
        }
        frame.truncate(MUTATED_LENGTH_MAX);
        frame
    }

    fn place(&mut self, length: usize) -> usize {
        let reach = if self.below(8) == 0 {
            length
        } else {
            length.min(128)
        };
        self.below(reach)
    }

    fn change(&mut self, frame: &mut Vec<u8>, other: &[u8]) {
        let at = self.place(frame.len());
        match self.below(8) {
            0 => frame.truncate(at),
            1 if at < frame.len() => frame[at] ^= 1 << self.below(8),
            2 if at < frame.len() => frame[at] = EDGES[self.below(EDGES.len())],
            3 if at < frame.len() => frame[at] = self.below(256) as u8,
            4 if at + 1 < frame.len() => {
                let length = self.below(3) * 0x7f80 + self.below(64);
                frame[at..at + 2].copy_from_slice(&(length as u16).to_be_bytes());
            }
            5 => {
                let count = 4 * (1 + self.below(8));
                let from = self.place(other.len());
                let lent = other.iter().skip(from).take(count).copied();
                frame.splice(at..at, lent);
            }
            6 => {
                let end = (at + 4 * (1 + self.below(4))).min(frame.len());
                frame.drain(at..end);
            }
            _ => {
                // The head of this frame, then the tail of another: one header inside another.
                let from = self.place(other.len());
                frame.truncate(at);
                frame.extend(other.iter().skip(from).take(256));
            }
        }
    }
}

/// `count` mutated frames of `frames`, each by its link type, the same ones for the same seed.
pub fn mutated(frames: &[Frame], count: usize, seed: u64) -> impl Iterator<Item = Frame> + '_ {
    let mut mutator = Mutator::new(seed);
    let count = if frames.is_empty() { 0 } else { count };
    (0..count).map(move |_| {
        let seed = &frames[mutator.below(frames.len())];
        let other = &frames[mutator.below(frames.len())];
        let bytes = mutator.mutate(&seed.bytes, &other.bytes);
        // Now and then the wire holds more than was captured.
        let more = if mutator.below(4) == 0 {
            mutator.below(2000)
        } else {
            0
        };
        Frame {
            wire_length: (bytes.len() + more) as u32,
            bytes,
            ..seed.clone()
        }
    })
}
