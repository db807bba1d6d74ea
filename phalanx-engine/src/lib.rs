//! The pure core: values in, changes out. No clock, file, socket, thread or randomness.
//!
//! Time is an argument, and nothing here can fail: odd input is data, counted by reason
//! ([`Tally`]). The same inputs give the same changes.

pub mod application;
mod attempt;
pub mod budget;
pub mod change;
mod conversation;
mod distribution;
mod ends;
mod engine;
mod feature;
pub mod filter;
#[cfg(test)]
mod fixture;
mod flow;
pub mod fragment;
mod histogram;
mod hop;
mod input;
pub mod limits;
pub mod measure;
#[cfg(test)]
mod memory;
pub mod name;
mod outbox;
mod pair;
#[cfg(test)]
mod property;
pub mod record;
mod role;
#[cfg(test)]
mod scenario;
pub mod segment;
mod side;
pub mod stitch;
pub mod story;
mod table;
mod tally;
mod time;
mod timer;
pub mod trace;
mod translation;
pub mod wireshark;

pub use change::{Change, ChangeKind};
pub use conversation::ConversationId;
pub use distribution::Distribution;
pub use engine::{Engine, EngineConfig, Expiry, Occupancy};
pub use feature::Features;
pub use flow::FlowId;
pub use hop::{ClockId, Hop, HopId, Link, NamespaceId};
pub use input::{Command, Input};
pub use name::NameFact;
pub use pair::{PairId, PairKey, PairSummary, Quantiles};
pub use side::{Endpoint, RoleBasis, Side, Sides};
pub use tally::Tally;
pub use time::Monotonic;
pub use translation::Translation;
