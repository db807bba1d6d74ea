//! Who owns a socket: the sockets of a namespace (sock_diag) and the processes that hold them
//! (procfs), told as facts to the engine.
//!
//! Deliberately absent: what a cgroup path means (the engine knows) and short-lived sockets, which
//! are gone before anybody looks.

mod finder;
mod owner;
mod reverse;
mod table;

pub(crate) use finder::{FACT_COUNT_MAX, Finder, FinderOptions, load_names};
pub(crate) use reverse::start_resolver;
pub(crate) use table::SocketTable;
