//! Every bound of asking connection tracking, with its arithmetic.

/// Flows that wait to be asked for: 4,096 × 64 bytes. Beyond, they are left out and counted.
pub(super) const QUESTION_COUNT_MAX: usize = 4_096;

/// Flows that are asked for in a second; the next ones wait. Two lookups took 35 µs in a debug
/// build on a busy machine: 3.5 % of a core at most.
pub(super) const QUESTIONS_PER_SECOND_MAX: u32 = 1_000;

/// Questions after which the loop is woken: a quarter of the facts that may wait for it.
pub(super) const BURST_COUNT: usize = 256;

/// Translations that are kept for captures, the latest: 16,384 × some 500 bytes = 8 MB. At the most
/// that are asked for they span 16 s. Those that make room are counted.
pub(super) const KEPT_COUNT_MAX: usize = 16_384;

/// Flows of one capture file whose translations it has: 16,384 × some 190 bytes = 3 MB when it is
/// read, and as much while it is written. Beyond, they are left out, which a comment in the file
/// tells whoever looks at it.
pub(crate) const NOTE_COUNT_MAX: usize = 16_384;

/// Translations in one block of a capture file: 1,000 × some 270 bytes at most, below what readers
/// hold of such a block.
pub(crate) const NOTES_PER_BLOCK: usize = 1_000;
