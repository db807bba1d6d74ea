//! Which flows this host translates (NAT): asked of the kernel's connection tracking over
//! ctnetlink, one connection at a time, told as facts to the engine and kept for captures.
//!
//! Deliberately absent: dumps and events of the table (it may hold millions), anything that would
//! load a module or change a rule, and connections in zones of their own.

mod conntrack;
mod limits;
mod message;
mod note;
mod seeker;
mod table;

pub(crate) use conntrack::{Conntrack, Presence, presence};
pub(crate) use limits::{NOTE_COUNT_MAX, NOTES_PER_BLOCK};
pub use note::Note;
pub(crate) use seeker::{Asker, Seeker, start_seeker};
pub use table::{LookupCounts, Translations};
