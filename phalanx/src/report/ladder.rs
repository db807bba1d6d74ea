//! A ladder in words: what is said of its rungs, the same in text and picture. Where they are drawn
//! is left to these.

use phalanx_common::packet::TcpFlags;
use phalanx_engine::Side;
use phalanx_engine::segment::Class;
use phalanx_engine::stitch::{Ladder, Rung, RungCrossing, RungEnd};

use super::HopReport;
use super::word;

/// A ladder with the names of its hops.
pub(super) struct Told<'a> {
    ladder: &'a Ladder,
    /// In the order of the ladder, fit to be shown.
    pub(super) names: Vec<String>,
    start_ns: i64,
}

/// How a rung is set off from others; the first that is true of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Lost on its way.
    Lost,
    /// Brings bytes that were sent before.
    Again,
    /// A copy that the network made.
    Copy,
    /// Later ones came before it.
    Overtaken,
    /// Payload, SYN or FIN.
    Data,
    /// Nothing but an acknowledgement.
    Bare,
}

impl<'a> Told<'a> {
    pub(super) fn new(ladder: &'a Ladder, hops: &[HopReport]) -> Self {
        let name = |hop: &u32| {
            let found = hops.get(*hop as usize);
            found.map_or_else(|| "?".to_owned(), |it| word::foreign(&it.id))
        };
        Self {
            ladder,
            names: ladder.hops.iter().map(name).collect(),
            start_ns: word::ladder_start_ns(ladder),
        }
    }

    pub(super) fn rungs(&self) -> &'a [Rung] {
        &self.ladder.rungs
    }

    pub(super) const fn left_out(&self) -> u64 {
        self.ladder.left_out
    }

    /// The place of a hop among those of the ladder, from the client's side.
    pub(super) fn column(&self, hop: u32) -> usize {
        let found = self.ladder.hops.iter().position(|it| *it == hop);
        // The engine names no other hops in its rungs.
        found.unwrap_or_default()
    }

    /// The column of the hop that packets of a side meet after one, unless it is the last.
    pub(super) fn column_after(&self, hop: u32, side: Side) -> Option<usize> {
        let column = self.column(hop);
        match side {
            Side::Client => Some(column + 1).filter(|it| *it < self.names.len()),
            Side::Server => column.checked_sub(1),
        }
    }

    /// The column before one on the way of a side's packets, unless it is the first.
    pub(super) fn column_before(&self, column: usize, side: Side) -> Option<usize> {
        match side {
            Side::Client => column.checked_sub(1),
            Side::Server => Some(column + 1).filter(|it| *it < self.names.len()),
        }
    }

    /// The last hop on the way of a side's packets.
    pub(super) fn last_column(&self, side: Side) -> usize {
        match side {
            Side::Client => self.names.len().saturating_sub(1),
            Side::Server => 0,
        }
    }

    /// When a rung begins, in nanoseconds since the first of all.
    pub(super) fn begin_ns(&self, rung: &Rung) -> i64 {
        let first = rung.crossings.first();
        first.map_or(0, |it| self.at_ns(it))
    }

    /// When a hop was crossed, by the reference's clock.
    pub(super) const fn at_ns(&self, crossing: &RungCrossing) -> i64 {
        crossing.reference_ns.saturating_sub(self.start_ns)
    }

    fn name(&self, hop: u32) -> &str {
        let name = self.names.get(self.column(hop));
        name.map_or("?", String::as_str)
    }

    /// All that is said of a rung: its numbers, notes, and frames in the order of its way.
    pub(super) fn words(&self, rung: &Rung) -> String {
        let mut parts = vec![numbers(rung)];
        parts.extend(self.notes(rung));
        let frames = rung.crossings.iter().map(|it| it.frame.to_string());
        let frames: Vec<String> = frames.collect();
        format!("{} [{}]", parts.join(", "), frames.join(", "))
    }

    /// What is said of a rung beside its numbers, what became of it first.
    fn notes(&self, rung: &Rung) -> Vec<String> {
        let mut notes = Vec::new();
        match rung.end {
            RungEnd::Arrived => {}
            RungEnd::Lost(after) => notes.push(format!("lost after {}", self.name(after))),
            RungEnd::Uncaptured(after) => {
                notes.push(format!("arrived, not captured after {}", self.name(after)));
            }
            RungEnd::Unknown(after) => {
                notes.push(format!("not seen after {}", self.name(after)));
            }
        }
        // Rungs are counted from 1 for people.
        notes.extend(rung.repeats.map(|it| format!("repeats #{}", it + 1)));
        notes.extend(rung.copy_of.map(|it| format!("copy of #{}", it + 1)));
        let hop = rung.overtaken_before.map(|it| self.name(it));
        notes.extend(hop.map(|it| format!("overtaken before {it}")));
        let class = rung.class.filter(|it| *it != Class::New);
        notes.extend(class.map(|it| it.name().replace('_', " ")));
        notes
    }
}

/// Flags and numbers of a rung.
fn numbers(rung: &Rung) -> String {
    let Some(sequence) = rung.sequence else {
        return word::count(rung.length, "byte", "bytes");
    };
    let mut parts = vec![word::flags(TcpFlags(rung.flags), " ")];
    parts.push(format!("seq {sequence}"));
    if rung.length > 0 {
        parts.push(format!("len {}", rung.length));
    }
    parts.extend(rung.acknowledgement.map(|it| format!("ack {it}")));
    parts.retain(|it| !it.is_empty());
    parts.join(" ")
}

/// How a rung is set off.
pub(super) fn kind(rung: &Rung) -> Kind {
    if matches!(rung.end, RungEnd::Lost(_)) {
        Kind::Lost
    } else if rung.copy_of.is_some() {
        Kind::Copy
    } else if is_again(rung) {
        Kind::Again
    } else if rung.overtaken_before.is_some() {
        Kind::Overtaken
    } else if rung.length > 0 || rung.sequence.is_none() {
        Kind::Data
    } else {
        Kind::Bare
    }
}

/// Whether a rung brings bytes that were sent before.
pub(super) fn is_again(rung: &Rung) -> bool {
    rung.repeats.is_some() || rung.class.is_some_and(Class::is_retransmission)
}
