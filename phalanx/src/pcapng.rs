//! Captures as files: written as pcapng with one interface block per hop and nanoseconds.
//!
//! Deliberately absent: reading, which is `capture_file`'s; decryption secrets, name resolution
//! blocks.

mod writer;

pub(crate) use writer::remarks_size;
pub use writer::{Packet, Statistics, WriteError, Writer};

/// Most interfaces in one file.
pub const INTERFACE_COUNT_MAX: usize = 4096;

/// Where packets of a file were seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Name of the hop; empty if the file does not say.
    pub name: String,
    /// What a reader of the capture should know about it; may be empty.
    pub description: String,
    /// Link type, as in the registry of tcpdump.org.
    pub link_type: u16,
    /// Most bytes kept of a packet; 0 means no limit.
    pub snap_length: u32,
    /// Filter expression that packets were chosen by; empty if none.
    pub filter: String,
}

/// The comment of a packet that the host handed over as one piece but that travels as several.
#[must_use]
pub fn gso_comment(segment_count: u16, segment_bytes: u16) -> String {
    format!("GSO super-segment: {segment_count} segments of {segment_bytes} bytes")
}
