//! The calls to the kernel that aya does not make for us: reading and deleting a flow in one step,
//! looking at how full a ring is, waiting for programs to end.
//!
//! **Invariant**: this and `lookback/mapping.rs` are the only files of the crate with `unsafe`
//! code.
#![expect(
    unsafe_code,
    reason = "system calls and shared memory; each use is argued"
)]

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::libc;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use phalanx_common::abi::FlowKey;
use phalanx_common::watch::FlowEntry;

const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
const BPF_MAP_GET_NEXT_KEY: libc::c_long = 4;
const BPF_MAP_LOOKUP_AND_DELETE_ELEM: libc::c_long = 21;

/// The part of `union bpf_attr` that commands on one element of a map read.
#[repr(C)]
struct ElementAttribute {
    map_fd: u32,
    reserved: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Reads the entry of a flow, or `None` where there is none.
pub(super) fn read_flow(
    flows: BorrowedFd<'_>,
    key: &FlowKey,
) -> io::Result<Option<Box<FlowEntry>>> {
    element(BPF_MAP_LOOKUP_ELEM, flows, key)
}

/// Reads the entry of a flow and deletes it in one step, or `None` where there is none.
pub(super) fn read_and_delete_flow(
    flows: BorrowedFd<'_>,
    key: &FlowKey,
) -> io::Result<Option<Box<FlowEntry>>> {
    element(BPF_MAP_LOOKUP_AND_DELETE_ELEM, flows, key)
}

/// The key after `key` in the table, or the first one; `None` at its end. After a key that has gone
/// the kernel begins anew.
pub(super) fn next_flow(
    flows: BorrowedFd<'_>,
    key: Option<&FlowKey>,
) -> io::Result<Option<FlowKey>> {
    let mut next = FlowKey::default();
    let attribute = ElementAttribute {
        map_fd: flows.as_raw_fd().cast_unsigned(),
        reserved: 0,
        key: key.map_or(0, |key| std::ptr::from_ref(key).addr() as u64),
        value: std::ptr::from_mut(&mut next).expose_provenance() as u64,
        flags: 0,
    };
    // SAFETY: as in `element`; what is written is one key, of plain words of any value.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_MAP_GET_NEXT_KEY,
            std::ptr::from_ref(&attribute),
            size_of::<ElementAttribute>(),
        )
    };
    if result == 0 {
        return Ok(Some(next));
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        error => Err(error),
    }
}

/// `flows` must be a map from [`FlowKey`] to [`FlowEntry`]: `Tables` checks both sizes when it is
/// made, and hands nothing else to this file.
fn element(
    command: libc::c_long,
    flows: BorrowedFd<'_>,
    key: &FlowKey,
) -> io::Result<Option<Box<FlowEntry>>> {
    let mut entry = Box::<FlowEntry>::default();
    let attribute = ElementAttribute {
        map_fd: flows.as_raw_fd().cast_unsigned(),
        reserved: 0,
        key: std::ptr::from_ref(key).addr() as u64,
        value: std::ptr::from_mut(&mut *entry).expose_provenance() as u64,
        flags: 0,
    };
    // SAFETY: the attribute is a valid prefix of `union bpf_attr` of the size given; the key is as
    // long as the map's keys and the entry, which is plain words of any value, as long as its
    // values (checked by `Tables::take`); both outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(&attribute),
            size_of::<ElementAttribute>(),
        )
    };
    if result == 0 {
        return Ok(Some(entry));
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        error => Err(error),
    }
}

/// `MEMBARRIER_CMD_GLOBAL`: waits for a grace period of RCU, in which every kernel program that ran
/// when it was called has ended.
const MEMBARRIER_GLOBAL: libc::c_long = 1;

/// Waits until every kernel program that runs now has ended; some milliseconds. Where the kernel
/// does not know the call, or keeps CPUs for others alone (`nohz_full`), it is not waited for:
/// programs take microseconds.
pub(crate) fn await_programs() {
    // SAFETY: the call takes no pointers.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_GLOBAL, 0, 0) };
    if result != 0 {
        let error = io::Error::last_os_error();
        tracing::debug!(%error, "wait for the programs that run");
    }
}

/// A look at the two positions of a ring, without taking part.
#[derive(Debug)]
pub(super) struct RingGauge {
    consumer: NonNull<AtomicU64>,
    producer: NonNull<AtomicU64>,
    page: NonZeroUsize,
}

// SAFETY: the pages stay mapped until the gauge is dropped, and are only read, atomically.
unsafe impl Send for RingGauge {}

impl RingGauge {
    /// Maps the two pages of positions of the ring buffer `ring`.
    pub(super) fn new(ring: impl AsFd) -> io::Result<Self> {
        let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)?
            .and_then(|size| NonZeroUsize::new(usize::try_from(size).ok()?))
            .ok_or_else(|| io::Error::other("the size of a page is not known"))?;
        let offset = i64::try_from(page.get()).map_err(io::Error::other)?;
        let consumer = map_page(&ring, page, 0)?;
        let producer = match map_page(&ring, page, offset) {
            Ok(producer) => producer,
            Err(error) => {
                unmap_page(consumer, page);
                return Err(error);
            }
        };
        Ok(Self {
            consumer,
            producer,
            page,
        })
    }

    /// Bytes that wait to be read, headers of the entries included.
    pub(super) fn used_bytes(&self) -> u64 {
        // SAFETY: both pages are mapped, and begin with a position of 64 bits.
        let (consumer, producer) = unsafe { (self.consumer.as_ref(), self.producer.as_ref()) };
        let consumed = consumer.load(Ordering::Acquire);
        producer.load(Ordering::Acquire).saturating_sub(consumed)
    }
}

impl Drop for RingGauge {
    fn drop(&mut self) {
        unmap_page(self.consumer, self.page);
        unmap_page(self.producer, self.page);
    }
}

fn map_page(ring: &impl AsFd, page: NonZeroUsize, offset: i64) -> io::Result<NonNull<AtomicU64>> {
    // SAFETY: a new read-only mapping at an address of the kernel's choice touches no other memory.
    let mapping = unsafe {
        mmap(
            None,
            page,
            ProtFlags::PROT_READ,
            MapFlags::MAP_SHARED,
            ring,
            offset,
        )
    };
    Ok(mapping?.cast())
}

fn unmap_page(page: NonNull<AtomicU64>, size: NonZeroUsize) {
    // SAFETY: the page was mapped by `map_page` with this size, and nobody uses it any more.
    let result = unsafe { munmap(page.cast(), size.get()) };
    debug_assert_eq!(result, Ok(()), "a mapping of ours can be unmapped");
}
