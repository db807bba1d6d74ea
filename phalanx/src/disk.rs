//! Files that only their owner may read, and records on disk: each with its length and a checksum,
//! so that a torn end is found and cut.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use anyhow::Context;

/// Mode of files with secrets.
const SECRET_MODE: u32 = 0o600;
/// Mode of directories that hold them.
const DIRECTORY_MODE: u32 = 0o700;
/// What goes before a record: its length and the CRC-32 of its bytes.
pub(crate) const RECORD_HEAD_SIZE: usize = 8;

/// Makes a directory that nobody else may look into, where it is not there.
///
/// # Errors
/// It cannot be made.
pub(crate) fn make_directory(path: &Path) -> anyhow::Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(DIRECTORY_MODE)
        .create(path)
        .with_context(|| format!("make the directory {}", path.display()))
}

/// Writes a file that nobody else may read, whole or not at all.
///
/// # Errors
/// It cannot be written.
pub(crate) fn write_secret(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let name = |what: &str| format!("{what} {}", path.display());
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = Path::new(&part);
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(SECRET_MODE)
        .open(part)
        .with_context(|| name("write"))?;
    file.write_all(bytes).with_context(|| name("write"))?;
    file.sync_all().with_context(|| name("write"))?;
    std::fs::rename(part, path).with_context(|| name("put in place"))
}

/// A record as it lies on disk.
pub(crate) fn frame(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let mut framed = Vec::with_capacity(RECORD_HEAD_SIZE + bytes.len());
    framed.extend_from_slice(&length.to_le_bytes());
    framed.extend_from_slice(&crc32fast::hash(bytes).to_le_bytes());
    framed.extend_from_slice(bytes);
    framed
}

/// Reads records from a file, one after the other.
pub(crate) struct Records {
    file: std::io::BufReader<File>,
    length_max: usize,
    /// Where the record after the last whole one begins.
    pub(crate) offset: u64,
    /// What follows is no whole record.
    pub(crate) is_torn: bool,
}

impl Records {
    /// From `offset` of the file on.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn open(path: &Path, offset: u64, length_max: usize) -> std::io::Result<Self> {
        use std::io::Seek;
        let mut file = File::open(path)?;
        file.seek(std::io::SeekFrom::Start(offset))?;
        Ok(Self {
            file: std::io::BufReader::new(file),
            length_max,
            offset,
            is_torn: false,
        })
    }

    /// The next whole record; none at the end, or where the file is torn.
    pub(crate) fn next(&mut self) -> Option<Vec<u8>> {
        let mut head = [0; RECORD_HEAD_SIZE];
        let read = read_full(&mut self.file, &mut head);
        if read == 0 {
            return None;
        }
        self.is_torn = true;
        let [a, b, c, d, e, f, g, h] = head;
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        if read < RECORD_HEAD_SIZE || length > self.length_max {
            return None;
        }
        let mut bytes = vec![0; length];
        if read_full(&mut self.file, &mut bytes) < length
            || crc32fast::hash(&bytes) != u32::from_le_bytes([e, f, g, h])
        {
            return None;
        }
        self.is_torn = false;
        self.offset += (RECORD_HEAD_SIZE + length) as u64;
        Some(bytes)
    }
}

/// Reads until the buffer is full or the file ends; how much came. What cannot be read counts as
/// the end.
fn read_full(file: &mut impl Read, buffer: &mut [u8]) -> usize {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    filled
}
