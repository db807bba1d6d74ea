//! Words in memory that several CPUs write at once: the kernel programs and user space share the
//! code that works on them, so they share the cells as well.

use core::cell::UnsafeCell;

macro_rules! word {
    ($name:ident, $integer:ty, $atomic:ident, $what:literal) => {
        #[doc = concat!("A ", $what, "-bit word that several CPUs may write at once.")]
        #[derive(Default)]
        #[repr(transparent)]
        pub struct $name(UnsafeCell<$integer>);

        // SAFETY: every access goes through volatile or atomic instructions.
        unsafe impl Sync for $name {}

        impl $name {
            /// A word that holds `value`.
            #[must_use]
            pub const fn new(value: $integer) -> Self {
                Self(UnsafeCell::new(value))
            }

            /// Reads the word.
            #[inline(always)]
            pub fn load(&self) -> $integer {
                backend::$atomic::load(self.0.get())
            }

            /// Writes the word. Where two may write, one of them is lost: only for what may be.
            #[inline(always)]
            pub fn store(&self, value: $integer) {
                backend::$atomic::store(self.0.get(), value);
            }

            /// Adds, wrapping.
            #[inline(always)]
            pub fn add(&self, value: $integer) {
                backend::$atomic::add(self.0.get(), value);
            }

            /// Sets the bits of `value`.
            #[inline(always)]
            pub fn or(&self, value: $integer) {
                backend::$atomic::or(self.0.get(), value);
            }

            /// Sets the bits of `value` and returns what the word held before.
            #[inline(always)]
            pub fn fetch_or(&self, value: $integer) -> $integer {
                backend::$atomic::fetch_or(self.0.get(), value)
            }

            /// Adds, wrapping, and returns what the word held before.
            #[inline(always)]
            pub fn fetch_add(&self, value: $integer) -> $integer {
                backend::$atomic::fetch_add(self.0.get(), value)
            }

            /// Writes the word and returns what it held before.
            #[inline(always)]
            pub fn swap(&self, value: $integer) -> $integer {
                backend::$atomic::swap(self.0.get(), value)
            }

            /// Writes `new` if the word still holds `old`; returns whether it did.
            #[inline(always)]
            pub fn replace(&self, old: $integer, new: $integer) -> bool {
                backend::$atomic::replace(self.0.get(), old, new)
            }
        }
    };
}

word!(Word32, u32, word32, "32");
word!(Word64, u64, word64, "64");

#[cfg(not(target_arch = "bpf"))]
mod backend {
    macro_rules! backend {
        ($module:ident, $integer:ty, $atomic:ident) => {
            pub(super) mod $module {
                use core::sync::atomic::{Ordering::Relaxed, Ordering::SeqCst, $atomic};

                fn cell<'word>(at: *mut $integer) -> &'word $atomic {
                    // SAFETY: `at` comes from a live `UnsafeCell` that is only accessed through
                    // this module, and the reference does not outlive the caller's borrow.
                    unsafe { $atomic::from_ptr(at) }
                }

                pub(in super::super) fn load(at: *mut $integer) -> $integer {
                    cell(at).load(Relaxed)
                }

                pub(in super::super) fn store(at: *mut $integer, value: $integer) {
                    cell(at).store(value, Relaxed);
                }

                pub(in super::super) fn add(at: *mut $integer, value: $integer) {
                    cell(at).fetch_add(value, Relaxed);
                }

                pub(in super::super) fn or(at: *mut $integer, value: $integer) {
                    cell(at).fetch_or(value, SeqCst);
                }

                pub(in super::super) fn fetch_or(at: *mut $integer, value: $integer) -> $integer {
                    cell(at).fetch_or(value, SeqCst)
                }

                pub(in super::super) fn fetch_add(at: *mut $integer, value: $integer) -> $integer {
                    cell(at).fetch_add(value, SeqCst)
                }

                pub(in super::super) fn swap(at: *mut $integer, value: $integer) -> $integer {
                    cell(at).swap(value, SeqCst)
                }

                pub(in super::super) fn replace(
                    at: *mut $integer,
                    old: $integer,
                    new: $integer,
                ) -> bool {
                    cell(at).compare_exchange(old, new, SeqCst, Relaxed).is_ok()
                }
            }
        };
    }
    backend!(word32, u32, AtomicU32);
    backend!(word64, u64, AtomicU64);
}

/// On the BPF target `core::sync::atomic` lacks read-modify-write operations (`atomic-cas: false`
/// in the target's description), but the intrinsics compile to the instructions of BPF's v3.
#[cfg(target_arch = "bpf")]
mod backend {
    macro_rules! backend {
        ($module:ident, $integer:ty) => {
            pub(super) mod $module {
                use core::intrinsics::{self, AtomicOrdering};

                #[inline(always)]
                pub(in super::super) fn load(at: *mut $integer) -> $integer {
                    // SAFETY: `at` comes from a live `UnsafeCell`; a BPF load is one instruction.
                    unsafe { core::ptr::read_volatile(at) }
                }

                #[inline(always)]
                pub(in super::super) fn store(at: *mut $integer, value: $integer) {
                    // SAFETY: as in `load`.
                    unsafe { core::ptr::write_volatile(at, value) }
                }

                #[inline(always)]
                pub(in super::super) fn add(at: *mut $integer, value: $integer) {
                    // SAFETY: as in `load`.
                    unsafe {
                        intrinsics::atomic_xadd::<_, _, { AtomicOrdering::Relaxed }>(at, value);
                    }
                }

                #[inline(always)]
                pub(in super::super) fn or(at: *mut $integer, value: $integer) {
                    // SAFETY: as in `load`.
                    unsafe {
                        intrinsics::atomic_or::<_, _, { AtomicOrdering::SeqCst }>(at, value);
                    }
                }

                #[inline(always)]
                pub(in super::super) fn fetch_or(at: *mut $integer, value: $integer) -> $integer {
                    // SAFETY: as in `load`.
                    unsafe { intrinsics::atomic_or::<_, _, { AtomicOrdering::SeqCst }>(at, value) }
                }

                #[inline(always)]
                pub(in super::super) fn fetch_add(at: *mut $integer, value: $integer) -> $integer {
                    // SAFETY: as in `load`.
                    unsafe {
                        intrinsics::atomic_xadd::<_, _, { AtomicOrdering::SeqCst }>(at, value)
                    }
                }

                #[inline(always)]
                pub(in super::super) fn swap(at: *mut $integer, value: $integer) -> $integer {
                    // SAFETY: as in `load`.
                    unsafe { intrinsics::atomic_xchg::<_, { AtomicOrdering::SeqCst }>(at, value) }
                }

                #[inline(always)]
                pub(in super::super) fn replace(
                    at: *mut $integer,
                    old: $integer,
                    new: $integer,
                ) -> bool {
                    // SAFETY: as in `load`.
                    unsafe {
                        intrinsics::atomic_cxchg::<
                            _,
                            { AtomicOrdering::SeqCst },
                            { AtomicOrdering::SeqCst },
                        >(at, old, new)
                        .1
                    }
                }
            }
        };
    }
    backend!(word32, u32);
    backend!(word64, u64);
}
