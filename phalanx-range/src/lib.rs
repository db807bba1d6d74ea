//! Network namespaces, an emulated link and traffic with known truth.
//!
//! A [`Topology`] read from YAML becomes a [`Range`] of network namespaces; its links carry
//! packets with delays and losses whose truth is counted; the traffic programs say what they
//! really did. Absent: any judgement of what is observed.

pub mod channel;
pub mod clock;
pub mod firewall;
pub mod impairment;
pub mod interface;
mod journal;
pub mod limits;
mod link;
pub mod namespace;
pub mod packet;
pub mod random;
pub mod range;
pub mod topology;
pub mod traffic;

pub use impairment::{Change, Direction, Impairment, Patch, Schedule};
pub use journal::HEADER as JOURNAL_HEADER;
pub use link::LinkCounters;
pub use namespace::Namespace;
pub use range::{Host, Link, Process, Range};
pub use topology::Topology;
