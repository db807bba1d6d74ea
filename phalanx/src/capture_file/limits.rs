//! Every bound of the reader of captures, with its arithmetic.

/// Longest frame in bytes: tshark takes 256 KiB, and a BIG TCP super-frame has 512 KiB at most
/// (`GSO_MAX_SIZE` of the kernel is 8 × 65,535); twice that. A longer one is damage.
pub(super) const FRAME_BYTES_MAX: u32 = 1 << 20;

/// Longest block of a pcapng file that is held whole, in bytes: a frame with as many bytes of
/// options. Blocks of kinds that are skipped may have any length.
pub(super) const BLOCK_BYTES_MAX: u32 = 2 * FRAME_BYTES_MAX;

/// Bytes of a chunk, which grows up to [`BLOCK_BYTES_MAX`] for a block that needs more: a quarter
/// of an L2 cache of 1 MiB, and 3,200 frames of 66 bytes with their record headers.
pub(super) const CHUNK_BYTES: usize = 256 << 10;

/// Frames of a chunk: 1,024 × 40 bytes = 40 KiB, and what they are decoded to, 220 bytes each, is
/// in the cache still when it is used.
pub(super) const CHUNK_FRAME_COUNT_MAX: usize = 1024;

/// Bytes read at once, if no record needs more: what is read beyond the last frame of a chunk is
/// copied into the next one.
pub(super) const READ_BYTES: usize = 32 << 10;

/// Interfaces that are kept, over all sections of a file: 65,536 × 160 bytes = 10 MiB. Packets of
/// others are counted and left out.
pub(super) const INTERFACE_COUNT_MAX: usize = 65_536;

/// Bytes of one text of an interface; the rest is cut off.
pub(super) const INTERFACE_TEXT_BYTES_MAX: usize = 256;

/// Bytes of the texts of all interfaces together; beyond it the texts stay empty.
pub(super) const INTERFACE_TEXTS_BYTES_MAX: usize = 4 << 20;

/// Bytes read ahead of a decompressor: a block of zstd has at most 128 KiB (RFC 8878 section
/// 3.1.1.2.4) with a header and a checksum around it, and must be held whole.
pub(super) const COMPRESSED_BYTES: usize = 256 << 10;

/// Largest window of zstd in bytes: what RFC 8878 section 3.1.1.1.2 recommends to support, and
/// what `zstd -19` uses. Only `--long` and `--ultra` write larger ones, up to 2 GiB.
pub(super) const ZSTD_WINDOW_BYTES_MAX: u64 = 8 << 20;

/// Bytes with which every format says what it is: the header of pcap; a section header has 28.
pub(super) const HEAD_BYTES: usize = 24;
