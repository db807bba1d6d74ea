//! Flows that have ended: makes a [`FlowStory`] from each, of a lone SYN only where it is wanted. A
//! scan leaves a million of these, and a report shows some.

use super::{Detail, Opening, Trace};
use crate::side::RoleBasis;
use crate::story::FlowStory;

/// A flow that has ended.
pub struct Ended(Kind);

#[expect(
    clippy::large_enum_variant,
    reason = "nearly all openings are dropped at once"
)]
enum Kind {
    Story(Box<FlowStory>),
    /// One SYN, and nothing else.
    Opening(Trace),
}

impl From<Trace> for Ended {
    fn from(trace: Trace) -> Self {
        Self(match trace.detail {
            Detail::Opening(Opening { refusal: None, .. }) => Kind::Opening(trace),
            _ => Kind::Story(trace.finish()),
        })
    }
}

impl Ended {
    /// Number of the hop that saw it.
    #[must_use]
    pub fn hop(&self) -> u32 {
        match &self.0 {
            Kind::Story(story) => story.hop,
            Kind::Opening(trace) => trace.key.hop,
        }
    }

    /// Number of its first frame.
    #[must_use]
    pub fn flow(&self) -> u64 {
        match &self.0 {
            Kind::Story(story) => story.flow,
            Kind::Opening(trace) => trace.flow,
        }
    }

    /// How it was decided who is the client.
    #[must_use]
    pub fn role_basis(&self) -> Option<RoleBasis> {
        match &self.0 {
            Kind::Story(story) => story.role_basis,
            Kind::Opening(trace) => Some(trace.role_basis),
        }
    }

    /// How long it was watched in all, from its first packet, in nanoseconds: at least, where more
    /// than a second after its last packet (see [`FlowStory::watched_after_ns`]).
    #[must_use]
    pub fn watched_ns(&self) -> i64 {
        match &self.0 {
            Kind::Story(story) => story.watched_ns(),
            Kind::Opening(trace) => trace.watched_after_ns,
        }
    }

    /// Its story; `None` where all that was seen is one SYN, whose story is not made yet.
    #[must_use]
    pub fn story(&self) -> Option<&FlowStory> {
        match &self.0 {
            Kind::Story(story) => Some(story),
            Kind::Opening(_) => None,
        }
    }

    /// Its story.
    #[must_use]
    pub fn into_story(self) -> Box<FlowStory> {
        match self.0 {
            Kind::Story(story) => story,
            Kind::Opening(trace) => trace.finish(),
        }
    }
}

impl std::fmt::Debug for Ended {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Ended")
            .field("hop", &self.hop())
            .field("flow", &self.flow())
            .finish_non_exhaustive()
    }
}
