//! Round trips by the spin bit (RFC 9000 section 17.4, RFC 9312 section 4.2).
//!
//! The client turns the value over once a round trip, the server gives it back. So an edge of the
//! client's packets comes after the server's value has become the client's, and one of the server's
//! after the client has turned: an edge out of this order is a packet that was overtaken, or a bit
//! that means nothing. Where only one direction is in the capture, a second packet has to confirm
//! an edge.

use crate::application::delay::Delays;
use crate::limits::{SPIN_EDGE_COUNT_MIN, SPIN_PACKET_COUNT_MIN};
use crate::side::{Side, Sides};

/// What the bit is used for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SpinUse {
    /// Too few packets tell.
    #[default]
    Unknown,
    /// A side never changes it.
    Disabled,
    /// It changes without order: a side sets it at random.
    Random,
    /// It spins.
    Active,
}

/// What the spin bit tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpinStory {
    /// What the bit is used for.
    pub usage: SpinUse,
    /// Round trips, from edge to edge of each side's packets; nothing unless the bit spins.
    pub round_trips: Sides<Delays>,
    /// The parts of round trips between the hop and the client, and between the hop and the server.
    pub halves: Sides<Delays>,
    /// Samples left out: the flow was silent for most of a time that is longer than others.
    pub idle_count: u32,
    /// Edges out of order.
    pub refused_count: u32,
}

#[derive(Clone, Copy, Default)]
struct Direction {
    packet_count: u32,
    value: bool,
    /// When the value last changed.
    edge_ns: Option<i64>,
    edge_count: u32,
    /// A change that waits for its confirmation.
    candidate_ns: Option<i64>,
    /// The longest silence of the flow since this side's edge.
    silence_ns: u64,
    round_trips: Delays,
    half: Delays,
}

/// The spin bit of both directions of a flow.
#[derive(Default)]
pub(super) struct Spin {
    directions: Sides<Direction>,
    last_ns: Option<i64>,
    idle_count: u32,
    refused_count: u32,
}

fn elapsed_ns(from_ns: i64, to_ns: i64) -> u64 {
    u64::try_from(to_ns.saturating_sub(from_ns)).unwrap_or(0)
}

impl Spin {
    /// A packet with a short header.
    pub(super) fn take(&mut self, side: Side, value: bool, time_ns: i64) {
        let silence_ns = self.last_ns.map_or(0, |last| elapsed_ns(last, time_ns));
        self.last_ns = Some(time_ns);
        for direction in [&mut self.directions.client, &mut self.directions.server] {
            direction.silence_ns = direction.silence_ns.max(silence_ns);
        }
        let other = *self.directions.get(side.other());
        let this = self.directions.get_mut(side);
        this.packet_count = this.packet_count.saturating_add(1);
        if this.packet_count == 1 {
            this.value = value;
            return;
        }
        if other.packet_count == 0 {
            self.take_alone(side, value, time_ns);
            return;
        }
        if this.value == value {
            return;
        }
        let is_in_order = match side {
            Side::Client => other.value != value,
            Side::Server => other.value == value,
        };
        if is_in_order {
            self.take_edge(side, value, time_ns);
        } else {
            self.refused_count = self.refused_count.saturating_add(1);
        }
    }

    /// A packet where the other direction is not in the capture.
    fn take_alone(&mut self, side: Side, value: bool, time_ns: i64) {
        let this = self.directions.get_mut(side);
        match (this.value == value, this.candidate_ns.take()) {
            (true, None) => {}
            (true, Some(_)) => self.refused_count = self.refused_count.saturating_add(1),
            (false, None) => this.candidate_ns = Some(time_ns),
            (false, Some(edge_ns)) => self.take_edge(side, value, edge_ns),
        }
    }

    fn take_edge(&mut self, side: Side, value: bool, time_ns: i64) {
        let before = self.directions.get(side.other()).edge_ns;
        let this = self.directions.get_mut(side);
        this.value = value;
        this.edge_count = this.edge_count.saturating_add(1);
        let silence_ns = std::mem::take(&mut this.silence_ns);
        let Some(edge_ns) = this.edge_ns.replace(time_ns) else {
            return;
        };
        let period_ns = elapsed_ns(edge_ns, time_ns);
        // A flow that has nothing to send does not spin: the period is then longer than a round
        // trip. A long silence alone does not tell, since a window that is full is silent as well.
        let is_silent = silence_ns.saturating_mul(4) > period_ns.saturating_mul(3);
        let least_ns = this.round_trips.min_ns;
        let is_long = this.round_trips.count > 0 && period_ns > least_ns.saturating_mul(2);
        if is_silent && is_long {
            self.idle_count = self.idle_count.saturating_add(1);
            return;
        }
        this.round_trips.add(period_ns);
        if let Some(before_ns) = before
            && before_ns >= edge_ns
        {
            this.half.add(elapsed_ns(before_ns, time_ns));
        }
    }

    fn usage(&self) -> SpinUse {
        let Sides { client, server } = &self.directions;
        let seen = [client, server]
            .into_iter()
            .filter(|direction| direction.packet_count > 0);
        let (mut is_enough, mut is_still) = (true, false);
        let mut edge_count = 0_u32;
        for direction in seen {
            is_enough &= direction.packet_count >= SPIN_PACKET_COUNT_MIN;
            is_still |= direction.edge_count == 0;
            edge_count = edge_count.saturating_add(direction.edge_count);
        }
        let all = edge_count.saturating_add(self.refused_count);
        // Of random edges half are in order.
        if all >= SPIN_EDGE_COUNT_MIN && self.refused_count > all / 4 {
            SpinUse::Random
        } else if edge_count >= 2 && !is_still {
            SpinUse::Active
        } else if is_enough && self.last_ns.is_some() && is_still {
            SpinUse::Disabled
        } else {
            SpinUse::Unknown
        }
    }

    pub(super) fn finish(&self) -> SpinStory {
        let usage = self.usage();
        let Sides { client, server } = self.directions;
        let mut story = SpinStory {
            usage,
            idle_count: self.idle_count,
            refused_count: self.refused_count,
            ..SpinStory::default()
        };
        if usage == SpinUse::Active {
            story.round_trips.client = client.round_trips;
            story.round_trips.server = server.round_trips;
            // What ends with an edge of the server's packets was between the hop and the server.
            story.halves.client = client.half;
            story.halves.server = server.half;
        }
        story
    }
}
