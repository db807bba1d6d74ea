//! The ladders of the page as JSON, a short array for each packet; `html/ladder.js` knows their
//! places.

use std::io::{self, Write};

use phalanx_engine::Side;
use phalanx_engine::stitch::{Ladder, Rung, RungEnd};
use serde::ser::{Serialize, SerializeMap, Serializer};

use super::shown;
use crate::report::limits::PAGE_CROSSING_COUNT_MAX;
use crate::report::{ConversationReport, HopReport, Report, word};

/// Writes the ladders, known by the place of their conversation in the page.
pub(super) fn write(report: &Report, output: impl Write) -> io::Result<()> {
    Ok(serde_json::to_writer(output, &Ladders(report))?)
}

struct Ladders<'a>(&'a Report);

impl Serialize for Ladders<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        let mut room = PAGE_CROSSING_COUNT_MAX;
        for (index, conversation) in shown(self.0).iter().enumerate() {
            let Some(ladder) = &conversation.ladder else {
                continue;
            };
            let drawn = Drawn::new(ladder, conversation, &self.0.hops, room);
            room -= drawn.crossing_count;
            map.serialize_entry(&index, &drawn)?;
        }
        map.end()
    }
}

/// As many rungs of a ladder as there is room for.
struct Drawn<'a> {
    ladder: &'a Ladder,
    hops: &'a [HopReport],
    /// The hop whose packets are in the plot.
    hop: u32,
    count: usize,
    crossing_count: usize,
    start_ns: i64,
}

impl<'a> Drawn<'a> {
    fn new(
        ladder: &'a Ladder,
        conversation: &ConversationReport,
        hops: &'a [HopReport],
        room: usize,
    ) -> Self {
        let (mut count, mut crossing_count) = (0, 0);
        for rung in &ladder.rungs {
            if crossing_count + rung.crossings.len() > room {
                break;
            }
            crossing_count += rung.crossings.len();
            count += 1;
        }
        Self {
            ladder,
            hops,
            hop: conversation.hop_place,
            count,
            crossing_count,
            start_ns: word::ladder_start_ns(ladder),
        }
    }

    fn column(&self, hop: u32) -> i64 {
        let found = self.ladder.hops.iter().position(|it| *it == hop);
        found.and_then(|it| i64::try_from(it).ok()).unwrap_or(-1)
    }

    fn row(&self, rung: &Rung) -> impl Serialize + use<> {
        let place = |of: Option<usize>| {
            let of = of.filter(|it| *it < self.count);
            of.and_then(|it| i64::try_from(it).ok()).unwrap_or(-1)
        };
        let (end, after) = match rung.end {
            RungEnd::Arrived => (0_u8, -1),
            RungEnd::Lost(after) => (1, self.column(after)),
            RungEnd::Uncaptured(after) => (2, self.column(after)),
            RungEnd::Unknown(after) => (3, self.column(after)),
        };
        (
            u8::from(rung.side == Side::Server),
            rung.flags,
            rung.sequence.map_or(-1, i64::from),
            rung.length,
            rung.acknowledgement.map_or(-1, i64::from),
            rung.class.map_or(-1, |class| class as i16),
            end,
            after,
            place(rung.repeats),
            place(rung.copy_of),
            rung.overtaken_before.map_or(-1, |hop| self.column(hop)),
            self.crossings(rung),
        )
    }

    /// One after the other: column, frame, time by the reference, its error or -1 where that is not
    /// known, time since the hop's first frame by its own clock.
    fn crossings(&self, rung: &Rung) -> Vec<i64> {
        let mut row = Vec::with_capacity(rung.crossings.len() * 5);
        for crossing in &rung.crossings {
            let hop = self.hops.get(crossing.hop as usize);
            let first_ns = hop.and_then(|it| it.first_ns).unwrap_or_default();
            row.extend([
                self.column(crossing.hop),
                i64::try_from(crossing.frame).unwrap_or(i64::MAX),
                crossing.reference_ns.saturating_sub(self.start_ns),
                crossing.error_ns.unwrap_or(-1),
                crossing.time_ns.saturating_sub(first_ns),
            ]);
        }
        row
    }
}

impl Serialize for Drawn<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let rungs = &self.ladder.rungs;
        let rows: Vec<_> = rungs
            .iter()
            .take(self.count)
            .map(|it| self.row(it))
            .collect();
        let left_out = (rungs.len() - self.count) as u64;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("hops", &self.ladder.hops)?;
        map.serialize_entry("plot", &self.column(self.hop))?;
        map.serialize_entry("left_out", &self.ladder.left_out.saturating_add(left_out))?;
        map.serialize_entry("rungs", &rows)?;
        map.end()
    }
}
