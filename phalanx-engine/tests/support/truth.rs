//! What is true of every story, whatever the packets were.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::collections::BTreeMap;

use phalanx_common::packet::protocol;
use phalanx_engine::segment::{Class, Segment};
use phalanx_engine::story::{FlowStory, SideStory};
use phalanx_engine::{Side, Sides};

/// Packets of each flow and side that were handed in, and of these the copies.
#[derive(Clone, Debug, Default)]
pub(crate) struct Handed(BTreeMap<u64, Sides<(u64, u64)>>);

impl Handed {
    pub(crate) fn note(&mut self, segment: &Segment) {
        let sides = self.0.entry(segment.flow).or_default();
        let (packets, copies) = sides.get_mut(segment.side);
        *packets += 1;
        *copies += u64::from(segment.class.is_some_and(Class::is_copy));
    }

    /// What is wrong with the stories that were told of them.
    pub(crate) fn check(&self, stories: &[FlowStory]) -> Result<(), String> {
        for story in stories {
            let name = |wrong| format!("flow {}: {wrong}\n{story:?}", story.flow);
            check_budget(story).map_err(name)?;
            for side in [Side::Client, Side::Server] {
                check_side(story.sides.get(side)).map_err(name)?;
                let handed = self.0.get(&story.flow).copied().unwrap_or_default();
                let counts = &story.sides.get(side).counts;
                let copies = counts.network_duplicates + counts.capture_duplicates;
                if (counts.packets + copies, copies) != *handed.get(side) {
                    return Err(name(format!("{side:?}: handed {:?}", handed.get(side))));
                }
            }
        }
        if stories.len() == self.0.len() {
            Ok(())
        } else {
            Err(format!("{} of {} flows", stories.len(), self.0.len()))
        }
    }
}

fn check_budget(story: &FlowStory) -> Result<(), String> {
    if story.duration_ns < 0 {
        return Err("negative duration".into());
    }
    let Some(budget) = &story.budget else {
        return if story.protocol == protocol::TCP {
            Err("no budget".into())
        } else {
            Ok(())
        };
    };
    if let Some((bucket, time_ns)) = budget.iter().find(|(_, time_ns)| *time_ns < 0) {
        return Err(format!("{} of {time_ns} ns", bucket.name()));
    }
    // Wide, so that the sum itself cannot go wrong.
    let total: i128 = budget.iter().map(|(_, time_ns)| i128::from(time_ns)).sum();
    if total == i128::from(story.duration_ns) {
        Ok(())
    } else {
        Err(format!("{total} ns in buckets"))
    }
}

fn check_side(side: &SideStory) -> Result<(), String> {
    let counts = &side.counts;
    let kinds =
        counts.fast_retransmissions + counts.timeout_retransmissions + counts.tail_loss_probes;
    let classes = counts.retransmitted_packets
        + counts.holes_filled
        + counts.reordered_packets
        + counts.keep_alives
        + counts.zero_window_probes;
    let order = |what, small: u64, large: u64| {
        if small <= large {
            Ok(())
        } else {
            Err(format!("{what}: {small} above {large}"))
        }
    };
    order(
        "kinds of retransmissions",
        kinds,
        counts.retransmitted_packets,
    )?;
    let needless = counts.spurious_retransmissions;
    order("needless", needless, counts.retransmitted_packets)?;
    order("classes", classes, counts.packets)?;
    order("unique bytes", counts.unique_bytes, counts.payload_bytes)?;
    let again = counts.retransmitted_bytes;
    order(
        "bytes again",
        again + counts.unique_bytes,
        counts.payload_bytes,
    )?;
    order("data packets", counts.data_packets, counts.packets)?;
    order("payload", counts.payload_bytes, counts.bytes)?;
    for (what, count) in [
        ("pure acks", counts.pure_acks),
        ("SYN", counts.syns),
        ("FIN", counts.fins),
        ("RST", counts.resets),
        ("duplicate acks", counts.duplicate_acks),
        ("SACK", counts.sacks),
        ("implausible", counts.implausible_packets),
        ("cut", counts.cut_packets),
        ("round trips", side.rtt.count()),
    ] {
        let limit = if what == "round trips" {
            u64::MAX
        } else {
            counts.packets
        };
        order(what, count, limit)?;
    }
    order("DSACK", counts.dsacks, counts.sacks)?;
    let smallest = u64::from(side.window_min.unwrap_or(0));
    order("window", smallest, side.window_max.into())?;
    if side.rtt.min_ns() < Some(0) && side.rtt.count() > 0 || side.rtt.max_ns() < side.rtt.min_ns()
    {
        return Err("round trips".into());
    }
    Ok(())
}
