//! The kernel side as user space sees it: load, attach, rings, tables.

mod filter;
mod hook;
mod log;
mod program;
mod ring;
mod syscall;
mod table;

pub use filter::{RecordingEnd, RecordingFilter};
pub use hook::{HookChoice, Ingress, Plan, plan};
pub(crate) use log::KernelLog;
pub use log::KernelLogLevel;
pub use program::TcAttachment;
pub(crate) use program::{Attachment, Instance, LoadOptions, Programs, load, remove_stale_filters};
pub(crate) use ring::{Event, Ring};
pub(crate) use syscall::await_programs;
pub(crate) use table::Tables;
