//! The byte-for-byte contract between the kernel programs and user space, and the packet parser:
//! all that must be one code on both sides of the kernel boundary.
#![cfg_attr(not(test), no_std)]
#![cfg_attr(
    target_arch = "bpf",
    feature(core_intrinsics),
    allow(internal_features)
)]

pub mod abi;
pub mod bytes;
pub mod limits;
pub mod packet;
pub mod watch;
pub mod word;
