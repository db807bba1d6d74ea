//! Network interfaces and namespaces, and how they come and go.

pub(crate) mod clsact;
mod link;
mod namespace;
mod pattern;

pub use link::{Link, LinkLayer, LinkTable, driver};
pub use namespace::Namespace;
pub use pattern::{Pattern, Selection};
