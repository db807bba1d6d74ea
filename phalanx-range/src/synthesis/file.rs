//! The pcap file: records made of frames and their times, cut at the snap length.

use std::io::{self, Write};

use super::SynthesisOutcome;

/// When the first packet is taken: 2023-11-14 22:13:20 UTC.
const EPOCH_S: u64 = 1_700_000_000;
const MICROSECONDS: u32 = 0xa1b2_c3d4;
const NANOSECONDS: u32 = 0xa1b2_3c4d;
/// What tcpdump states when it keeps all.
const SNAP_BYTES_ALL: u32 = 262_144;

/// An open capture file.
pub(super) struct CaptureFile<W> {
    to: W,
    snap_bytes: usize,
    /// Nanoseconds of a unit of its times.
    unit_ns: u64,
    /// What was written so far.
    pub(super) outcome: SynthesisOutcome,
    first_ns: Option<u64>,
}

impl<W: Write> CaptureFile<W> {
    pub(super) fn create(to: W, snap_bytes: u32) -> io::Result<Self> {
        Self::open(to, snap_bytes, (MICROSECONDS, 1_000))
    }

    pub(super) fn create_with_nanoseconds(to: W, snap_bytes: u32) -> io::Result<Self> {
        Self::open(to, snap_bytes, (NANOSECONDS, 1))
    }

    /// When something of this time of the synthesis happens, in nanoseconds of Unix time.
    pub(super) fn unix_ns(at_ns: u64) -> u64 {
        EPOCH_S * 1_000_000_000 + at_ns
    }

    fn open(mut to: W, snap_bytes: u32, (magic, unit_ns): (u32, u64)) -> io::Result<Self> {
        let snap_bytes = if snap_bytes == 0 {
            SNAP_BYTES_ALL
        } else {
            snap_bytes
        };
        let mut header = [0u8; 24];
        header[..4].copy_from_slice(&magic.to_le_bytes());
        header[4..6].copy_from_slice(&2u16.to_le_bytes());
        header[6..8].copy_from_slice(&4u16.to_le_bytes());
        header[16..20].copy_from_slice(&snap_bytes.to_le_bytes());
        header[20..].copy_from_slice(&1u32.to_le_bytes());
        to.write_all(&header)?;
        Ok(Self {
            to,
            snap_bytes: snap_bytes as usize,
            unit_ns,
            outcome: SynthesisOutcome::default(),
            first_ns: None,
        })
    }

    /// How many bytes of a frame are worth making.
    pub(super) fn snap_bytes(&self) -> usize {
        self.snap_bytes
    }

    /// Writes what was kept of a frame of `length` bytes.
    pub(super) fn record(&mut self, at_ns: u64, frame: &[u8], length: usize) -> io::Result<()> {
        let kept = &frame[..frame.len().min(self.snap_bytes)];
        let seconds = (EPOCH_S + at_ns / 1_000_000_000) as u32;
        let fraction = (at_ns % 1_000_000_000 / self.unit_ns) as u32;
        let mut header = [0u8; 16];
        let words = [seconds, fraction, kept.len() as u32, length as u32];
        for (at, word) in words.into_iter().enumerate() {
            header[at * 4..at * 4 + 4].copy_from_slice(&word.to_le_bytes());
        }
        self.to.write_all(&header)?;
        self.to.write_all(kept)?;
        let first_ns = *self.first_ns.get_or_insert(at_ns);
        self.outcome.packets += 1;
        self.outcome.bytes += length as u64;
        self.outcome.duration_ns = at_ns - first_ns;
        Ok(())
    }

    pub(super) fn finish(mut self) -> io::Result<SynthesisOutcome> {
        self.to.flush()?;
        Ok(self.outcome)
    }
}
