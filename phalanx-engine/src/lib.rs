//! The pure core: values in, changes out. No clock, file, socket, thread or randomness.

pub mod filter;
