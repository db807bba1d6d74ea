//! A file without a name, mapped into memory, in slots of one segment each. It belongs to this
//! process alone and goes with it, however it ends.
//!
//! Writing to a mapping whose block the disk has no room for kills the process (SIGBUS). So all
//! blocks are allocated before it is mapped, and file systems that copy on write, where that is no
//! promise, are refused.
#![expect(
    unsafe_code,
    reason = "a mapping of a file of our own; each use is argued"
)]

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::ptr::NonNull;

use nix::fcntl::{FallocateFlags, fallocate};
use nix::libc;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::sys::statfs::fstatfs;

use super::segment::SEGMENT_SIZE;

/// File systems that copy on write, by the magic numbers of `statfs(2)`: an allocated block is
/// written elsewhere.
const COPY_ON_WRITE: [(u64, &str); 3] = [
    (0x9123_683e, "btrfs"),
    (0x2fc1_2fc1, "zfs"),
    (0xca45_1a4e, "bcachefs"),
];

/// The mapped file.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<u8>,
    slot_count: usize,
    size: NonZeroUsize,
}

// SAFETY: the mapping is private to its owner, who alone reads and writes it through `&mut` and
// `&`.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Makes a file of so many slots in a directory, which must be there.
    ///
    /// # Errors
    /// The directory cannot be written, its disk has no room, or it copies on write.
    pub(crate) fn new(directory: &Path, slot_count: usize) -> io::Result<Self> {
        let size = slot_count
            .checked_mul(SEGMENT_SIZE)
            .and_then(NonZeroUsize::new)
            .ok_or_else(|| io::Error::other("no slots, or too many"))?;
        let file = open_without_name(directory)?;
        let kind = fstatfs(&file)?.filesystem_type().0;
        let kind = kind.cast_unsigned() & u64::from(u32::MAX);
        if let Some((_, name)) = COPY_ON_WRITE.iter().find(|(magic, _)| *magic == kind) {
            return Err(io::Error::other(format!(
                "{name} copies on write: blocks cannot be kept for a mapping"
            )));
        }
        let length = i64::try_from(size.get()).map_err(io::Error::other)?;
        fallocate(&file, FallocateFlags::empty(), 0, length)?;
        // SAFETY: a new mapping at an address of the kernel's choice touches no other memory; the
        // file has no name, so nobody else can shorten it.
        let mapping = unsafe {
            mmap(
                None,
                size,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_SHARED,
                &file,
                0,
            )
        };
        Ok(Self {
            start: mapping?.cast(),
            slot_count,
            size,
        })
    }

    /// How many segments it holds.
    pub(crate) const fn slot_count(&self) -> usize {
        self.slot_count
    }

    /// Puts bytes into a slot, instead of what was there.
    pub(crate) fn write(&mut self, slot: usize, bytes: &[u8]) {
        assert!(slot < self.slot_count && bytes.len() <= SEGMENT_SIZE);
        // SAFETY: the slot lies within the mapping, and the bytes within the slot, as asserted;
        // `&mut` excludes other users.
        unsafe {
            let place = self.start.add(slot * SEGMENT_SIZE);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), place.as_ptr(), bytes.len());
        }
    }

    /// The first `length` bytes of a slot.
    pub(crate) fn read(&self, slot: usize, length: usize) -> &[u8] {
        assert!(slot < self.slot_count && length <= SEGMENT_SIZE);
        // SAFETY: as in `write`; the bytes live as long as the mapping, and only `write` changes
        // them, which `&self` excludes.
        unsafe {
            let place = self.start.add(slot * SEGMENT_SIZE);
            std::slice::from_raw_parts(place.as_ptr(), length)
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this size, and nobody uses it any more.
        let result = unsafe { munmap(self.start.cast(), self.size.get()) };
        debug_assert_eq!(result, Ok(()), "a mapping of ours can be unmapped");
    }
}

/// A file that never has a name, or loses it at once where the file system knows no such files.
fn open_without_name(directory: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.read(true).write(true).mode(0o600);
    let nameless = options
        .clone()
        .custom_flags(libc::O_TMPFILE | libc::O_CLOEXEC)
        .open(directory);
    match nameless.as_ref().map_err(io::Error::raw_os_error) {
        Err(Some(libc::EOPNOTSUPP | libc::EISDIR)) => {}
        _ => return nameless,
    }
    let path = directory.join(format!(".phalanx-lookback-{}", std::process::id()));
    let file = options.create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_has_a_name() {
        let directory =
            std::env::temp_dir().join(format!("phalanx-mapping-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let mut mapping = Mapping::new(&directory, 2).unwrap();
        mapping.write(0, &[1; 100]);
        mapping.write(1, &[2; SEGMENT_SIZE]);
        mapping.write(0, &[3; 50]);
        assert_eq!(mapping.read(0, 100), [[3; 50], [1; 50]].concat());
        assert_eq!(mapping.read(1, SEGMENT_SIZE), [2; SEGMENT_SIZE]);
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 0);
        std::fs::remove_dir_all(&directory).unwrap();
        assert!(Mapping::new(&directory, 2).is_err());
        assert!(Mapping::new(&std::env::temp_dir(), 0).is_err());
    }

    #[test]
    fn a_disk_without_room_is_an_error_and_no_signal() {
        // More than any disk has.
        let error = Mapping::new(&std::env::temp_dir(), 1 << 36).unwrap_err();
        let code = error.raw_os_error();
        assert!(
            matches!(code, Some(libc::ENOSPC | libc::EFBIG)),
            "{error:?}"
        );
    }
}
