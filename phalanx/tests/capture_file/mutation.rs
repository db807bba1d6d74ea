//! Captures spoiled in ways that a seed decides, and what must hold of any file.

#![allow(dead_code, reason = "each test uses a part of it")]

#[path = "../../../phalanx-common/tests/support/random.rs"]
mod random;

use std::io::Cursor;

use phalanx::capture_file::{CaptureFile, Chunk};

use random::Random;

/// Changes that a seed decides.
pub(crate) struct Mutator {
    random: Random,
}

/// Values on the edge of a field's range.
const EDGES: [u32; 12] = [
    0,
    1,
    11,
    12,
    28,
    0x7fff_ffff,
    0xffff,
    0x10_0000,
    0x10_0001,
    0x20_0000,
    0xffff_fffc,
    u32::MAX,
];

impl Mutator {
    pub(crate) const fn new(seed: u64) -> Self {
        Self {
            random: Random(seed),
        }
    }

    /// A number below a bound.
    pub(crate) const fn below(&mut self, bound: usize) -> usize {
        self.random.below(bound)
    }

    /// A file with one to eight changes; `other` lends bytes.
    pub(crate) fn mutate(&mut self, seed: &[u8], other: &[u8]) -> Vec<u8> {
        let mut file = seed.to_vec();
        for _ in 0..=self.below(8) {
            self.change(&mut file, other);
        }
        file
    }

    /// Any place, or often one near the beginning, where the headers are.
    fn place(&mut self, length: usize) -> usize {
        let reach = if self.below(2) == 0 {
            length
        } else {
            length.min(300)
        };
        self.below(reach)
    }

    fn change(&mut self, file: &mut Vec<u8>, other: &[u8]) {
        let at = self.place(file.len());
        match self.below(7) {
            0 => {
                if let Some(byte) = file.get_mut(at) {
                    *byte ^= 1 << self.below(8);
                }
            }
            1 => {
                if let Some(byte) = file.get_mut(at) {
                    *byte = self.below(256) as u8;
                }
            }
            2 => {
                let value = EDGES[self.below(EDGES.len())];
                let bytes = if self.below(2) == 0 {
                    value.to_le_bytes()
                } else {
                    value.to_be_bytes()
                };
                if let Some(word) = file.get_mut(at & !3..(at & !3) + 4) {
                    word.copy_from_slice(&bytes);
                }
            }
            3 => file.truncate(at),
            4 => {
                let end = file.len().min(at + self.below(64));
                file.drain(at..end);
            }
            5 => {
                let from = self.place(other.len());
                let lent = &other[from..other.len().min(from + self.below(200))];
                file.splice(at..at, lent.iter().copied());
            }
            _ => {
                let end = file.len().min(at + self.below(64));
                let copied = file[at..end].to_vec();
                file.splice(at..at, copied);
            }
        }
    }
}

/// What a file came to, coarsely: the ways it can go, not the values on them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Answer {
    error: Option<String>,
    damage: Option<String>,
    frames: usize,
    notes: [bool; 11],
}

impl Answer {
    pub(crate) const fn has_frames(&self) -> bool {
        self.frames > 0
    }
}

/// Whether there are translations: each one of something, by a host that says nothing else.
fn check_translations(capture: &CaptureFile) -> bool {
    let all = capture.interfaces().iter().flat_map(|it| &it.translations);
    let mut count = 0;
    for (translation, host) in all {
        assert!(translation.changes_anything());
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        assert!(!host.is_empty() && host.len() <= 64 && host.bytes().all(is_plain));
        count += 1;
    }
    count > 0
}

/// Reads any bytes: never a panic, every frame within its chunk, numbers that rise, damage within
/// the file.
pub(crate) fn check(bytes: &[u8]) -> Answer {
    let mut answer = Answer {
        error: None,
        damage: None,
        frames: 0,
        notes: [false; 11],
    };
    let input = Cursor::new(bytes.to_vec());
    let mut capture = match CaptureFile::from_reader("memory", input) {
        Ok(capture) => capture,
        Err(error) => {
            let text = format!("{error:?}");
            answer.error = Some(text.split(['{', '"']).next().unwrap_or_default().to_owned());
            return answer;
        }
    };
    let (mut chunk, mut last, mut count) = (Chunk::new(), 0, 0_u64);
    while capture
        .read_chunk(&mut chunk)
        .expect("memory does not fail")
    {
        for (frame, held) in chunk.iter() {
            assert!(frame.number > last && frame.number <= capture.frame_count());
            assert_eq!(held.len(), frame.captured as usize);
            assert!((frame.interface as usize) < capture.interfaces().len());
            (last, count) = (frame.number, count + 1);
        }
    }
    let notes = capture.notes();
    assert_eq!(
        capture.bytes_read(),
        capture.bytes_read().min(bytes.len() as u64)
    );
    let left_out = notes.unknown_interface + notes.surplus_interface;
    assert_eq!(count + left_out, capture.frame_count());
    if let Some(damage) = capture.damage() {
        assert_eq!(damage.frame_count, capture.frame_count());
        let text = format!("{:?}", damage.fault);
        answer.damage = Some(text.split(' ').next().unwrap_or_default().to_owned());
    }
    answer.frames = (64 - count.leading_zeros()) as usize;
    answer.notes = [
        notes.unknown_interface > 0,
        notes.longer_than_wire > 0,
        notes.longer_than_snap_length > 0,
        notes.negative_time > 0,
        notes.without_time > 0,
        notes.comments > 0,
        notes.other_blocks > 0,
        notes.unknown_blocks > 0,
        notes.sections > 1,
        notes.snap_length_zero > 0,
        check_translations(&capture),
    ];
    answer
}
