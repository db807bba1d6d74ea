//! The uncompressed bytes of a capture, whatever it is compressed with.

use super::Fault;
use super::gzip::Gzip;
use super::limits::COMPRESSED_BYTES;
use super::source::{Failure, Filled, Source};
use super::zstd::Zstd;

/// Uncompressed bytes.
pub(super) struct Stream {
    pub(super) source: Source,
    input: Input,
    compression: Compression,
    /// Found behind bytes that are still to be handed out.
    failed: Option<Fault>,
}

enum Compression {
    /// What follows was not looked at yet.
    Unknown,
    None,
    Gzip(Box<Gzip>),
    Zstd(Box<Zstd>),
}

/// Bytes that were read and not used yet, compressed ones where the file is.
#[derive(Default)]
pub(super) struct Input {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

/// What a decompressor does next.
pub(super) enum Decoded {
    Bytes(usize),
    /// More input is needed, so many bytes in all.
    Need(usize),
    /// The input may end here.
    Between,
    /// What was decompressed, if anything, goes up to damage.
    Damaged(usize, Fault),
}

impl Input {
    /// The bytes not used yet.
    pub(super) fn rest(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    pub(super) fn consume(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end);
    }

    fn fill(&mut self, source: &mut Source) -> Result<Filled, Failure> {
        if self.bytes.is_empty() {
            self.bytes = vec![0; COMPRESSED_BYTES];
        }
        self.bytes.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        let filled = source.read(&mut self.bytes[self.end..])?;
        if let Filled::Bytes(count) = filled {
            self.end += count;
        }
        Ok(filled)
    }
}

impl Stream {
    pub(super) fn new(source: Source) -> Self {
        Self {
            source,
            input: Input::default(),
            compression: Compression::Unknown,
            failed: None,
        }
    }

    /// What the file is compressed with.
    pub(super) fn compression(&self) -> Option<&'static str> {
        match self.compression {
            Compression::Unknown | Compression::None => None,
            Compression::Gzip(_) => Some("gzip"),
            Compression::Zstd(_) => Some("zstd"),
        }
    }

    /// Fills some of the target, which is not empty.
    pub(super) fn fill(&mut self, target: &mut [u8]) -> Result<Filled, Failure> {
        if matches!(self.compression, Compression::Unknown)
            && let Some(stays) = self.recognise()?
        {
            return Ok(stays);
        }
        if matches!(self.compression, Compression::None) {
            return self.copy(target);
        }
        loop {
            if let Some(fault) = self.failed {
                return Err(Failure::Damaged(fault));
            }
            let decoded = match &mut self.compression {
                Compression::Gzip(gzip) => gzip.decode(&mut self.input, target),
                Compression::Zstd(zstd) => zstd.decode(&mut self.input, target),
                Compression::Unknown | Compression::None => Decoded::Between,
            };
            let is_between = match decoded {
                Decoded::Bytes(count) => return Ok(Filled::Bytes(count)),
                Decoded::Damaged(count, fault) => {
                    self.failed = Some(fault);
                    if count > 0 {
                        return Ok(Filled::Bytes(count));
                    }
                    continue;
                }
                Decoded::Need(count) if count > COMPRESSED_BYTES => {
                    return Err(Failure::Damaged(Fault::Compressed));
                }
                Decoded::Need(_) => false,
                Decoded::Between => true,
            };
            match self.input.fill(&mut self.source)? {
                Filled::Bytes(_) => {}
                Filled::End if !is_between => {
                    return Err(Failure::Damaged(Fault::CompressedCutOff));
                }
                other => return Ok(other),
            }
        }
    }

    /// Looks at the first bytes; gives what came of reading if there are too few.
    fn recognise(&mut self) -> Result<Option<Filled>, Failure> {
        while self.input.rest().len() < 4 {
            match self.input.fill(&mut self.source)? {
                Filled::Bytes(_) => {}
                Filled::End => break,
                other => return Ok(Some(other)),
            }
        }
        self.compression = match self.input.rest() {
            [0x1f, 0x8b, ..] => Compression::Gzip(Box::default()),
            head if Zstd::begins(head) => Compression::Zstd(Box::default()),
            _ => Compression::None,
        };
        Ok(None)
    }

    fn copy(&mut self, target: &mut [u8]) -> Result<Filled, Failure> {
        let rest = self.input.rest();
        if rest.is_empty() {
            return self.source.read(target);
        }
        let count = rest.len().min(target.len());
        target[..count].copy_from_slice(&rest[..count]);
        self.input.consume(count);
        if self.input.rest().is_empty() {
            self.input = Input::default();
        }
        Ok(Filled::Bytes(count))
    }
}
