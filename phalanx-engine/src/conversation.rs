//! Conversations: the flows of one 5-tuple at the hops of this host that are one exchange.

/// A conversation of the engine; never used again for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConversationId(pub u64);
