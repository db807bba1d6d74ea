//! Zstandard streams of any number of frames (RFC 8878). The frames are taken apart here, their
//! blocks by `ruzstd`, which has no way to go on where its input stopped.

use std::io::Read as _;

use ruzstd::decoding::errors::FrameDecoderError;
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use super::Fault;
use super::limits::ZSTD_WINDOW_BYTES_MAX;
use super::order::Order;
use super::stream::{Decoded, Input};

const MAGIC: u32 = 0xfd2f_b528;
/// The lowest four bits are free in the magic number of a skippable frame.
const MAGIC_SKIPPABLE: u32 = 0x184d_2a50;
const BLOCK_HEADER_BYTES: usize = 3;
const CHECKSUM_BYTES: usize = 4;

/// Where the decompression of a stream stands.
pub(super) struct Zstd {
    decoder: FrameDecoder,
    state: State,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Between,
    Skipping(u32),
    InFrame { has_checksum: bool },
}

impl Default for Zstd {
    fn default() -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(ZSTD_WINDOW_BYTES_MAX);
        Self {
            decoder,
            state: State::Between,
        }
    }
}

impl Zstd {
    /// Whether a file begins like such a stream.
    pub(super) fn begins(head: &[u8]) -> bool {
        let magic = Order::Little.u32(head, 0);
        magic == MAGIC || magic & !0xf == MAGIC_SKIPPABLE
    }

    /// Decompresses some of the input.
    pub(super) fn decode(&mut self, input: &mut Input, target: &mut [u8]) -> Decoded {
        loop {
            let stays = match self.state {
                State::Between => self.begin(input),
                State::Skipping(left) => self.skip(left, input),
                State::InFrame { has_checksum } => self.frame(has_checksum, input, target),
            };
            if let Some(decoded) = stays {
                return decoded;
            }
        }
    }

    /// Begins the next frame.
    fn begin(&mut self, input: &mut Input) -> Option<Decoded> {
        let rest = input.rest();
        if rest.is_empty() {
            return Some(Decoded::Between);
        }
        if rest.len() < 8 {
            // The least that a frame has: header, a block's header, and one more.
            return Some(Decoded::Need(8));
        }
        let magic = Order::Little.u32(rest, 0);
        if magic & !0xf == MAGIC_SKIPPABLE {
            self.state = State::Skipping(Order::Little.u32(rest, 4));
            input.consume(8);
            return None;
        }
        if magic != MAGIC {
            return Some(Decoded::Damaged(0, Fault::BehindCompressed));
        }
        let descriptor = rest[4];
        let size = header_size(descriptor);
        if rest.len() < size {
            return Some(Decoded::Need(size));
        }
        if let Err(error) = self.decoder.reset(&rest[..size]) {
            return Some(Decoded::Damaged(0, fault(&error)));
        }
        input.consume(size);
        self.state = State::InFrame {
            has_checksum: descriptor & 0x04 != 0,
        };
        None
    }

    fn skip(&mut self, left: u32, input: &mut Input) -> Option<Decoded> {
        let count = input.rest().len().min(left as usize);
        input.consume(count);
        let left = left - count as u32;
        if left > 0 {
            self.state = State::Skipping(left);
            return Some(Decoded::Need(1));
        }
        self.state = State::Between;
        None
    }

    fn frame(
        &mut self,
        has_checksum: bool,
        input: &mut Input,
        target: &mut [u8],
    ) -> Option<Decoded> {
        match self.decoder.read(target) {
            Ok(0) => {}
            Ok(count) => return Some(Decoded::Bytes(count)),
            Err(_) => return Some(Decoded::Damaged(0, Fault::Compressed)),
        }
        if self.decoder.is_finished() {
            self.state = State::Between;
            let written = self.decoder.get_checksum_from_data();
            let is_right = !has_checksum || written == self.decoder.get_calculated_checksum();
            return (!is_right).then_some(Decoded::Damaged(0, Fault::Checksum));
        }
        let needed = match block_size(input.rest(), has_checksum) {
            Some(size) if size <= input.rest().len() => size,
            Some(size) => return Some(Decoded::Need(size)),
            None => return Some(Decoded::Need(BLOCK_HEADER_BYTES)),
        };
        let block = &input.rest()[..needed];
        let one = BlockDecodingStrategy::UptoBlocks(1);
        if let Err(error) = self.decoder.decode_blocks(block, one) {
            return Some(Decoded::Damaged(0, fault(&error)));
        }
        input.consume(needed);
        None
    }
}

/// Bytes of a frame's header (RFC 8878 section 3.1.1.1), by its descriptor.
fn header_size(descriptor: u8) -> usize {
    let is_single_segment = descriptor & 0x20 != 0;
    let window = usize::from(!is_single_segment);
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 0x03)];
    let content = match descriptor >> 6 {
        0 => usize::from(is_single_segment),
        1 => 2,
        2 => 4,
        _ => 8,
    };
    5 + window + dictionary + content
}

/// Bytes of a block with its header, and with the checksum of the frame behind the last one
/// (RFC 8878 section 3.1.1.2).
fn block_size(rest: &[u8], has_checksum: bool) -> Option<usize> {
    let &[a, b, c, ..] = rest else {
        return None;
    };
    let header = u32::from_le_bytes([a, b, c, 0]);
    let (is_last, kind, size) = (header & 1 != 0, header >> 1 & 3, header >> 3);
    // A block of one repeated byte holds that byte alone.
    let held = if kind == 1 { 1 } else { size as usize };
    let checksum = if is_last && has_checksum {
        CHECKSUM_BYTES
    } else {
        0
    };
    Some(BLOCK_HEADER_BYTES + held + checksum)
}

fn fault(error: &FrameDecoderError) -> Fault {
    match error {
        FrameDecoderError::WindowSizeTooBig { requested, .. } => Fault::ZstdWindow {
            megabytes: requested.div_ceil(1 << 20),
        },
        FrameDecoderError::DictNotProvided { .. } => Fault::ZstdDictionary,
        _ => Fault::Compressed,
    }
}
