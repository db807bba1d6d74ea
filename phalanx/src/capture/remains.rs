//! [`Remains`]: what the file of a capture holds that broke off, so that it can go on.

use std::fs::{File, OpenOptions};
use std::path::Path;

use anyhow::{Context, ensure};

use crate::capture_file::{self, Chunk};
use crate::pcapng::Interface;

/// An interface of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) name: String,
    /// Tells apart those of one name.
    pub(super) description: String,
    pub(super) link_type: u16,
    /// Packets of it.
    pub(super) packets: u64,
}

impl Known {
    /// Whether a hop is described by it.
    pub(super) fn is(&self, interface: &Interface) -> bool {
        self.name == interface.name
            && self.description == interface.description
            && self.link_type == interface.link_type
    }
}

/// What is whole in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Remains {
    /// Bytes up to the end of the last whole block.
    pub(super) bytes: u64,
    pub(super) packets: u64,
    /// The latest packet, in nanoseconds since 1970.
    pub(super) last_ns: Option<u64>,
    /// In the order of the file.
    pub(super) interfaces: Vec<Known>,
}

impl Remains {
    /// Reads a file of ours.
    ///
    /// # Errors
    /// It cannot be read, or not even its beginning is whole.
    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        let mut file = capture_file::open(path, &capture_file::OpenOptions::default())?;
        let mut packets = Vec::new();
        let (mut chunk, mut last_ns) = (Chunk::new(), None);
        while file.read_chunk(&mut chunk)? {
            packets.resize(file.interfaces().len(), 0_u64);
            for frame in chunk.frames() {
                if let Some(count) = packets.get_mut(frame.interface as usize) {
                    *count += 1;
                }
                last_ns = last_ns.max(u64::try_from(frame.time_ns).ok());
            }
        }
        let length = std::fs::metadata(path).context("look at the file")?.len();
        let bytes = file.damage().map_or(length, |damage| damage.offset);
        ensure!(!file.interfaces().is_empty(), "no interface is described");
        let counts = packets.iter().copied().chain(std::iter::repeat(0));
        let interfaces = file.interfaces().iter().zip(counts);
        let known = interfaces.map(|(interface, packets)| Known {
            name: interface.name.clone(),
            description: interface.description.clone(),
            link_type: interface.link_type,
            packets,
        });
        Ok(Self {
            bytes,
            packets: packets.iter().sum(),
            last_ns,
            interfaces: known.collect(),
        })
    }

    /// Cuts the file to what is whole, and opens it for what follows.
    pub(super) fn open(&self, path: &Path) -> std::io::Result<File> {
        let file = OpenOptions::new().append(true).open(path)?;
        file.set_len(self.bytes)?;
        Ok(file)
    }

    /// The interfaces as a writer needs them that goes on.
    pub(super) fn described(&self) -> impl Iterator<Item = Interface> {
        self.interfaces.iter().map(|it| Interface {
            name: it.name.clone(),
            description: it.description.clone(),
            link_type: it.link_type,
            snap_length: 0,
            filter: String::new(),
        })
    }
}
