//! The hub: takes what agents tell, keeps it in its store, and runs one engine over all of it.
//!
//! ```text
//! agent ─► session ─► store (log, acknowledgement) ─► loop (roster, engine) ─► feed ─► views, API
//! ```
//! Deliberately absent: commands of the engine are not obeyed here, the agents' engines look after
//! the kernel's tables.

mod authority;
pub(crate) mod capture;
mod directory;
mod lines;
mod listen;
mod log;
mod openers;
mod position;
mod registry;
mod roster;
mod run;
mod session;
mod shift;
mod store;
mod token;

pub use authority::{Authority, init};
pub use directory::Directory;
pub(crate) use lines::Lines;
pub use registry::{Registered, Registry};
pub use roster::{AgentState, AgentStatus};
pub use run::{HubOptions, hub};
pub use token::{TokenFault, Tokens, make_token};
