//! What a reader learns of a capture beside its frames: the interfaces, and what was odd.

use std::collections::BTreeMap;

use phalanx_engine::Translation;

use super::limits::{INTERFACE_COUNT_MAX, INTERFACE_TEXT_BYTES_MAX, INTERFACE_TEXTS_BYTES_MAX};
use crate::translation::{NOTE_COUNT_MAX, Note};

/// Where packets of a file were seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interface {
    /// Empty if the file does not say.
    pub name: String,
    /// Empty if the file does not say.
    pub description: String,
    /// Filter expression that packets were chosen by; empty if the file does not say.
    pub filter: String,
    /// Link type, as in the registry of tcpdump.org.
    pub link_type: u16,
    /// Most bytes kept of a packet, as the file says; 0 means no limit.
    pub snap_length: u32,
    /// Section of the file that describes it, from 0.
    pub section: u32,
    /// Packets that its capture lost, where statistics at the end of the file say so.
    pub dropped: Option<u64>,
    /// The same, as the packets that were kept say of what was lost before each of them.
    pub dropped_between: u64,
    /// What the host of the capture translated of its flows, and what the host is called.
    pub translations: BTreeMap<Translation, String>,
}

impl Interface {
    /// Packets that its capture lost, at least: statistics and packets tell of the same ones.
    #[must_use]
    pub fn lost_count(&self) -> u64 {
        self.dropped.unwrap_or(0).max(self.dropped_between)
    }
}

/// What was odd in a file, or left out; each a count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Notes {
    /// Packets of an interface that no block describes: left out.
    pub unknown_interface: u64,
    /// Packets of an interface beyond those that are kept: left out.
    pub surplus_interface: u64,
    /// Interfaces that are not kept.
    pub surplus_interfaces: u64,
    /// Packets with more bytes captured than there were on the wire.
    pub longer_than_wire: u64,
    /// Packets with more bytes captured than the snap length of their interface allows.
    pub longer_than_snap_length: u64,
    /// Packets before 1970.
    pub negative_time: u64,
    /// Packets without a time (simple packet blocks): theirs is 0.
    pub without_time: u64,
    /// Comments of packets, interfaces and sections.
    pub comments: u64,
    /// Name resolution, statistics, secrets, custom and journal blocks.
    pub other_blocks: u64,
    /// Blocks of unknown types.
    pub unknown_blocks: u64,
    /// Sections of a pcapng file.
    pub sections: u64,
    /// Interfaces with a snap length of 0.
    pub snap_length_zero: u64,
    /// Bytes of an unfinished record when reading was stopped.
    pub unfinished_bytes: u64,
    /// Translations that are not kept.
    pub surplus_translations: u64,
}

/// Filled by the formats.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) interfaces: Vec<Interface>,
    pub(super) notes: Notes,
    /// Packets met so far, also those left out.
    pub(super) frame_count: u64,
    text_bytes: usize,
    translation_count: usize,
}

impl Ledger {
    /// Keeps an interface: whether there was room.
    pub(super) fn add_interface(&mut self, interface: Interface) -> bool {
        if interface.snap_length == 0 {
            self.notes.snap_length_zero += 1;
        }
        if self.interfaces.len() >= INTERFACE_COUNT_MAX {
            self.notes.surplus_interfaces += 1;
            return false;
        }
        self.interfaces.push(interface);
        true
    }

    /// Keeps a translation of an interface.
    pub(super) fn add_translation(&mut self, interface: usize, note: Note) {
        let Some(interface) = self.interfaces.get_mut(interface) else {
            return;
        };
        if self.translation_count >= NOTE_COUNT_MAX {
            self.notes.surplus_translations += 1;
            return;
        }
        self.translation_count += 1;
        interface.translations.insert(note.translation, note.host);
    }

    /// A text of the file, as much of it as is kept.
    pub(super) fn text(&mut self, bytes: &[u8]) -> String {
        let kept = &bytes[..bytes.len().min(INTERFACE_TEXT_BYTES_MAX)];
        let text = String::from_utf8_lossy(kept);
        let text = text.trim_end_matches('\0');
        if self.text_bytes + text.len() > INTERFACE_TEXTS_BYTES_MAX {
            return String::new();
        }
        self.text_bytes += text.len();
        text.to_owned()
    }
}
