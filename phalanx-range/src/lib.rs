//! Network namespaces, an emulated link and traffic with known truth.
//!
//! A [`Topology`] read from YAML becomes a [`Range`] of network namespaces; its links carry
//! packets with delays and losses whose truth is counted; the traffic programs say what they
//! really did. Absent: any judgement of what is observed.
//!
//! ```no_run
//! use std::net::SocketAddr;
//! use std::time::Duration;
//!
//! use phalanx_range::traffic::{Program, RequestResponse, Server, run};
//! use phalanx_range::{Direction, Impairment, Range, Topology};
//!
//! # fn main() -> anyhow::Result<()> {
//! let topology = Topology::from_yaml_str(
//!     "
//! nodes: [{ name: client }, { name: server }]
//! links: [{ name: wire, kind: emulated, a: { node: client }, b: { node: server } }]
//! ",
//! )?;
//! let range = Range::build(&topology)?;
//! let link = range.link("wire")?;
//! link.set(Direction::Forward, Impairment { loss: 0.02, ..Impairment::delay(20.0) })?;
//! let server = range.host("server")?;
//! let service = server.enter(|| Server::start(8080))??;
//! let target = SocketAddr::new(server.ipv4()?.into(), service.port());
//! let program = Program::RequestResponse(RequestResponse::default());
//! let outcome = range.host("client")?.enter(|| run(&program, target))??;
//! range.settle(Duration::from_millis(50), Duration::from_secs(5))?;
//! let truth = link.counters()?;
//! println!("{} requests, {} packets lost", outcome.requests, truth.forward.dropped.lost);
//! # Ok(())
//! # }
//! ```

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
pub mod retiming;
pub mod synthesis;
pub mod topology;
pub mod traffic;

pub use impairment::{Change, Direction, Impairment, Patch, Schedule};
pub use journal::{HEADER as JOURNAL_HEADER, JournalLine};
pub use link::LinkCounters;
pub use namespace::Namespace;
pub use range::{Host, Link, Process, Range};
pub use topology::Topology;
