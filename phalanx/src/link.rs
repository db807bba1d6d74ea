//! What agents and hub say to each other: the protocol, its bounds, and what it means.
//!
//! The messages are compiled from `phalanx/proto` (`cargo xtask protocol`). Structures of the
//! contract with the kernel travel as they lie in memory, so both ends compare its version first.
//! Deliberately absent: who connects, who stores.

pub mod batch;
pub mod connection;
pub mod credential;
pub mod limits;
pub mod told;
mod translate;

pub use batch::{Batcher, Opened, Opener};
pub use told::Told;
pub(crate) use translate::{link_of, name_of, status_of};

/// The messages between agents and hub.
#[expect(
    missing_docs,
    reason = "generated; phalanx/proto/link.proto tells what they are"
)]
pub mod protocol {
    include!("../proto/generated/link.inc");
}

/// Version of the protocol. It rises when an older end could no longer understand a newer one;
/// added fields do not raise it.
pub const PROTOCOL_VERSION: u32 = 1;

/// What an end of the link is told whose version is not the other's.
#[must_use]
pub fn explain_versions(hub: (u32, &str), agent: (u32, &str)) -> Option<String> {
    let older = match hub.0.cmp(&agent.0) {
        std::cmp::Ordering::Equal => return None,
        std::cmp::Ordering::Less => "hub",
        std::cmp::Ordering::Greater => "agent",
    };
    Some(format!(
        "the hub speaks protocol {} (phalanx {}), the agent protocol {} (phalanx {}): update the \
         {older}",
        hub.0, hub.1, agent.0, agent.1
    ))
}
