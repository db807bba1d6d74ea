//! The byte-for-byte contract between the kernel programs and user space, and the packet parser.
#![cfg_attr(not(test), no_std)]
