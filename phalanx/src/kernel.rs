//! The kernel side as user space sees it: load, attach, rings, tables.

mod filter;

pub use filter::{RecordingEnd, RecordingFilter};
