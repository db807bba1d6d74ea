//! What can be wrong with a capture, and where.

use thiserror::Error;

use super::limits::{FRAME_BYTES_MAX, ZSTD_WINDOW_BYTES_MAX};

/// Why a file gives no more frames, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Damage {
    /// Where the record begins that cannot be read, in the uncompressed file: all bytes before it
    /// are good.
    pub offset: u64,
    /// Frames before the damage.
    pub frame_count: u64,
    /// What is wrong.
    pub fault: Fault,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            offset,
            frame_count,
            fault,
        } = self;
        write!(
            formatter,
            "damaged at byte {offset}, after frame {frame_count}: {fault}"
        )
    }
}

/// What can be wrong with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Fault {
    /// A record is not complete.
    #[error("the file ends inside a record, {present} bytes into at least {needed}")]
    CutOff {
        /// Bytes that are there.
        present: u64,
        /// Bytes that the record has at least.
        needed: u64,
    },
    /// A frame longer than any.
    #[error("a packet claims {captured} bytes, {FRAME_BYTES_MAX} at most are taken for real")]
    FrameTooLong {
        /// Bytes it claims.
        captured: u32,
    },
    /// A block shorter than its header, or not a multiple of four.
    #[error("a block claims a length of {total} bytes, which no such block has")]
    BlockLength {
        /// Bytes it claims.
        total: u32,
    },
    /// A packet, interface or section block longer than any.
    #[error("a block claims {total} bytes, more than is taken for real")]
    BlockTooLong {
        /// Bytes it claims.
        total: u32,
    },
    /// The length before a block is not the one behind it.
    #[error("a block has length {first} at its beginning and {last} at its end")]
    LengthsDisagree {
        /// At its beginning.
        first: u32,
        /// At its end.
        last: u32,
    },
    /// The packet is longer than the block around it.
    #[error("a packet of {captured} bytes in a record of {total}")]
    CapturedBeyondBlock {
        /// Bytes of the packet.
        captured: u32,
        /// Bytes of the record.
        total: u32,
    },
    /// The byte-order magic of a section is none.
    #[error("a section header has a byte order that does not exist")]
    SectionMagic,
    /// The compressed stream ends too early.
    #[error("the compressed stream is cut off")]
    CompressedCutOff,
    /// The compressed stream makes no sense.
    #[error("the compressed stream is damaged")]
    Compressed,
    /// What was decompressed is not what was compressed.
    #[error("the checksum of the compressed stream is wrong")]
    Checksum,
    /// Something else follows the compressed stream.
    #[error("bytes that are not compressed follow the compressed stream")]
    BehindCompressed,
    /// A window that would need too much memory.
    #[error(
        "the zstd window is {megabytes} MiB, {} at most is supported; compress without --long or \
         --ultra, or pipe through zstd -dc --long=31",
        ZSTD_WINDOW_BYTES_MAX >> 20
    )]
    ZstdWindow {
        /// What the stream asks for, rounded up.
        megabytes: u64,
    },
    /// A dictionary that is not in the stream.
    #[error("the zstd stream needs a dictionary; pipe through zstd -dc -D")]
    ZstdDictionary,
    /// A followed file has become shorter.
    #[error("the file was cut while it was followed")]
    CutWhileFollowed,
}
