//! Stitching: the flows that several hops saw become conversations, each with its path, the legs
//! between its hops, and the clocks of these. Made from [`Trail`]s; how they are shown is the
//! shell's.
//!
//! 1. *Association*: which flows are one conversation, by what survives a hop.
//! 2. *Sightings*: packets that two hops saw beyond doubt tell the order of the hops.
//! 3. *Clocks*: from the sightings of all conversations, with hard bounds.
//! 4. *Journeys*: all packets aligned hop by hop, with what became of each.
//! 5. *Legs*: what happened between neighbours.
//!
//! Nothing here asks whether clocks agree, and nothing is kept from one call to the next.

mod alignment;
mod association;
mod beside;
mod clock;
mod content;
mod conversation;
mod exchange;
mod fate;
mod hull;
mod journey;
mod key;
mod ladder;
mod leg;
mod part;
mod path;
mod position;
mod proxy;
mod reading;
mod rhythm;
mod scene;
mod sighting;
mod step;
#[cfg(test)]
mod tests;
mod timing;
mod trail;

use self::association::associate;
use self::clock::Clocks;
use self::conversation::Group;
use self::scene::{Known, Scene};

pub use self::content::Content;
pub use self::conversation::{Alignment, PathCount, Rewrite, RewriteField, StitchedConversation};
pub use self::ladder::{Ladder, Rung, RungCrossing, RungEnd};
pub use self::leg::{LegStory, LegWay};
pub use self::proxy::{ProxyBasis, ProxyLink};
pub use self::reading::{ClockReading, HopClock};
pub use self::trail::{Crossing, SynOptions, Trail};

/// What is known of a hop beside its packets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StitchHop {
    /// Its number, as trails name it.
    pub hop: u32,
    /// Hops of one number share a clock: those of one host.
    pub clock: u32,
    /// First and last packet of its capture, in nanoseconds of its clock.
    pub window_ns: (i64, i64),
    /// When it recorded nothing in between, from and until, in nanoseconds of its clock.
    pub gaps_ns: Vec<(i64, i64)>,
}

/// What the flows of several hops come to.
#[derive(Debug, Default)]
pub struct Stitched {
    /// The trails, in the order in which they were given; roles that were guessed wrongly are
    /// turned round.
    pub trails: Vec<Trail>,
    /// Conversations, also those that one hop alone saw.
    pub conversations: Vec<StitchedConversation>,
    /// The clock of each hop against that of the reference, in the order of the hops.
    pub clocks: Vec<HopClock>,
    /// Conversations that are one exchange: a proxy lies between them.
    pub proxies: Vec<ProxyLink>,
    /// Pairs of flows that are alike, and no more so than others: not joined.
    pub ambiguous_count: u64,
    /// Things that flows are known by which more than 32 flows have, so that they tell nothing.
    pub crowded_key_count: u64,
    /// Pairs of hops that saw the same packets at the same times: one capture given twice.
    pub twins: Vec<(u32, u32)>,
    hops: Vec<StitchHop>,
    /// By conversation.
    groups: Vec<Group>,
    all_clocks: Clocks,
    reference: u32,
}

impl Stitched {
    /// The packets of a conversation one by one, the first `most` of them.
    #[must_use]
    pub fn ladder(&self, conversation: usize, most: usize) -> Ladder {
        let group = self.groups.get(conversation);
        group.map_or_else(Ladder::default, |group| {
            let known = Known {
                trails: &self.trails,
                hops: &self.hops,
                clocks: &self.all_clocks,
            };
            Scene::new(group, known).ladder(self.reference, most)
        })
    }
}

/// Stitches the flows of several hops. `hops` are in the order in which they are shown; it is a
/// hint where nothing tells their order.
#[must_use]
pub fn stitch(mut trails: Vec<Trail>, hops: &[StitchHop]) -> Stitched {
    let clamp = |time_ns: i64| time_ns.clamp(-trail::TIME_MAX_NS, trail::TIME_MAX_NS);
    let hops: Vec<StitchHop> = hops
        .iter()
        .map(|hop| StitchHop {
            window_ns: (clamp(hop.window_ns.0), clamp(hop.window_ns.1)),
            ..hop.clone()
        })
        .collect();
    let hops = &hops[..];
    let associations = associate(&mut trails);
    let mut clocks = Clocks::default();
    let mut groups: Vec<Group> = associations.groups.into_iter().map(Group::new).collect();
    let mut sightings = clock::AllSightings::default();
    for group in &mut groups {
        group.sight(&trails, &mut sightings);
    }
    let twins = sightings.twins();
    sightings.settle(hops, &mut clocks);
    let known = Known {
        trails: &trails,
        hops,
        clocks: &clocks,
    };
    let stitched = groups.iter().map(|group| group.stitch(known));
    let conversations: Vec<StitchedConversation> = stitched.collect();
    let reference = reading::reference(&conversations, hops);
    let proxies = proxy::link(&conversations, &trails, &clocks);
    Stitched {
        trails,
        proxies,
        conversations,
        clocks: reading::readings(reference, hops, &clocks),
        ambiguous_count: associations.ambiguous_count,
        crowded_key_count: associations.crowded_key_count,
        twins,
        hops: hops.to_vec(),
        groups,
        all_clocks: clocks,
        reference,
    }
}
