//! A capture as a host with another clock would have taken it: set off, too fast or too slow, put
//! right in the middle. For judging who compares clocks.

use std::io::{self, Read, Write};

use serde::Serialize;

/// A clock that goes wrong at a time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Step {
    /// When, in nanoseconds of true time after the first packet.
    pub after_ns: u64,
    /// By how much the clock goes forward then, in nanoseconds.
    pub by_ns: i64,
}

/// How a clock differs from the one that took a capture.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Retiming {
    /// How far it is ahead at the first packet, in nanoseconds.
    pub offset_ns: i64,
    /// How much too fast it runs, in parts per million.
    pub skew_ppm: f64,
    /// When it is put right, or wrong.
    pub step: Option<Step>,
}

const RECORD_HEADER_BYTES: usize = 16;
const FILE_HEADER_BYTES: usize = 24;
/// Larger records than any tool writes.
const RECORD_BYTES_MAX: u32 = 1 << 20;
const NANOSECONDS: u32 = 0xa1b2_3c4d;
const MICROSECONDS: u32 = 0xa1b2_c3d4;
const SECOND_NS: i128 = 1_000_000_000;

impl Retiming {
    /// What the clock shows at a true time, where the first packet of the capture was at
    /// `first_ns`; both in nanoseconds of Unix time.
    pub fn shows(&self, first_ns: i128, true_ns: i128) -> i128 {
        let elapsed_ns = true_ns - first_ns;
        // 100 ppm of an hour in floating point is exact to well below a nanosecond.
        let drift_ns = (elapsed_ns as f64 * self.skew_ppm / 1e6).round() as i128;
        let step_ns = match self.step {
            Some(step) if elapsed_ns >= i128::from(step.after_ns) => i128::from(step.by_ns),
            _ => 0,
        };
        true_ns + i128::from(self.offset_ns) + drift_ns + step_ns
    }

    /// Copies a capture (pcap) with the times that the clock would have given, in nanoseconds;
    /// records keep their order. Gives back how many there were.
    pub fn rewrite(&self, mut from: impl Read, mut to: impl Write) -> io::Result<u64> {
        let mut header = [0; FILE_HEADER_BYTES];
        from.read_exact(&mut header)?;
        let order = Order::of(&header)?;
        header[..4].copy_from_slice(&order.bytes(NANOSECONDS));
        to.write_all(&header)?;
        let (mut first_ns, mut records) = (None, 0);
        let mut frame = Vec::new();
        loop {
            let mut record = [0; RECORD_HEADER_BYTES];
            if !read_whole(&mut from, &mut record)? {
                to.flush()?;
                return Ok(records);
            }
            let word = |at: usize| order.word(&record[at..at + 4]);
            let true_ns = i128::from(word(0)) * SECOND_NS + i128::from(word(4)) * order.unit_ns;
            let kept = word(8);
            if kept > RECORD_BYTES_MAX {
                return Err(io::Error::other(format!("record {}: damaged", records + 1)));
            }
            let shown_ns = self.shows(*first_ns.get_or_insert(true_ns), true_ns);
            let seconds = u32::try_from(shown_ns.div_euclid(SECOND_NS))
                .map_err(|_| io::Error::other("a time that a pcap cannot tell"))?;
            record[..4].copy_from_slice(&order.bytes(seconds));
            let rest = shown_ns.rem_euclid(SECOND_NS) as u32;
            record[4..8].copy_from_slice(&order.bytes(rest));
            frame.resize(kept as usize, 0);
            from.read_exact(&mut frame)?;
            to.write_all(&record)?;
            to.write_all(&frame)?;
            records += 1;
        }
    }
}

/// How the numbers of a file are written, and the unit of its times.
struct Order {
    is_big: bool,
    unit_ns: i128,
}

impl Order {
    fn of(header: &[u8; FILE_HEADER_BYTES]) -> io::Result<Self> {
        let magic = [header[0], header[1], header[2], header[3]];
        for (is_big, magic) in [
            (false, u32::from_le_bytes(magic)),
            (true, u32::from_be_bytes(magic)),
        ] {
            match magic {
                NANOSECONDS => return Ok(Self { is_big, unit_ns: 1 }),
                MICROSECONDS => {
                    return Ok(Self {
                        is_big,
                        unit_ns: 1_000,
                    });
                }
                _ => {}
            }
        }
        Err(io::Error::other("no pcap file (pcapng is not read)"))
    }

    fn word(&self, bytes: &[u8]) -> u32 {
        let bytes = [bytes[0], bytes[1], bytes[2], bytes[3]];
        if self.is_big {
            u32::from_be_bytes(bytes)
        } else {
            u32::from_le_bytes(bytes)
        }
    }

    fn bytes(&self, word: u32) -> [u8; 4] {
        if self.is_big {
            word.to_be_bytes()
        } else {
            word.to_le_bytes()
        }
    }
}

/// Whether there was something to read; half a record is an error.
fn read_whole(from: &mut impl Read, bytes: &mut [u8]) -> io::Result<bool> {
    let mut done = 0;
    while done < bytes.len() {
        match from.read(&mut bytes[done..])? {
            0 if done == 0 => return Ok(false),
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => done += read,
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(is_big: bool, magic: u32, times: &[(u32, u32)]) -> Vec<u8> {
        let order = Order { is_big, unit_ns: 1 };
        let mut bytes = order.bytes(magic).to_vec();
        bytes.resize(FILE_HEADER_BYTES, 0);
        for (seconds, rest) in times {
            for word in [*seconds, *rest, 3, 60] {
                bytes.extend_from_slice(&order.bytes(word));
            }
            bytes.extend_from_slice(b"abc");
        }
        bytes
    }

    #[test]
    fn times_move_and_nothing_else() {
        let retiming = Retiming {
            offset_ns: -1_500_000_000,
            skew_ppm: 100.0,
            step: Some(Step {
                after_ns: 10_000_000_000,
                by_ns: 50_000_000,
            }),
        };
        let before = [(100, 999_999), (101, 0), (110, 999_999), (200, 999_999)];
        // 100 ppm of 1 µs, 10 s and 100 s: 100 ps, 1 ms, 10 ms.
        let after = [
            (99, 499_999_000),
            (99, 500_000_000),
            (109, 550_999_000),
            (199, 559_999_000),
        ];
        for is_big in [false, true] {
            let from = file(is_big, MICROSECONDS, &before);
            let mut to = Vec::new();
            assert_eq!(retiming.rewrite(&from[..], &mut to).unwrap(), 4);
            assert!(to == file(is_big, NANOSECONDS, &after));
        }
    }

    #[test]
    fn no_change_is_none() {
        let from = file(false, NANOSECONDS, &[(7, 8), (9, 999_999_999)]);
        let mut to = Vec::new();
        Retiming::default().rewrite(&from[..], &mut to).unwrap();
        assert!(to == from);
    }

    #[test]
    fn what_is_no_capture_is_refused() {
        let whole = file(false, NANOSECONDS, &[(7, 8)]);
        let rewrite = |bytes: &[u8]| Retiming::default().rewrite(bytes, io::sink()).is_ok();
        assert!(rewrite(&whole));
        assert!(!rewrite(&whole[..whole.len() - 1]));
        assert!(!rewrite(&whole[..FILE_HEADER_BYTES + 5]));
        assert!(!rewrite(&[0; 100]));
    }
}
