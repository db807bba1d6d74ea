//! The packets of the page as JSON, a short array for each; `html/plot.js` knows their places.

use std::collections::BTreeMap;
use std::io::{self, Write};

use phalanx_engine::Side;
use phalanx_engine::segment::{Class, Mark, Segment};
use serde::ser::{Serialize, SerializeMap, Serializer};

use super::shown;
use crate::report::limits::PAGE_SEGMENT_COUNT_MAX;
use crate::report::{Plot, Report, SackBlock};

/// Writes the plots, known by the place of their conversation in the page.
pub(super) fn write(report: &Report, output: impl Write) -> io::Result<()> {
    let page = Page {
        classes: Class::ALL.map(Class::name),
        marks: Mark::ALL.map(Mark::name),
        of: Plots(report),
    };
    Ok(serde_json::to_writer(output, &page)?)
}

#[derive(serde::Serialize)]
struct Page<'a> {
    classes: [&'static str; Class::COUNT],
    marks: [&'static str; Mark::ALL.len()],
    of: Plots<'a>,
}

struct Plots<'a>(&'a Report);

impl Serialize for Plots<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        let mut room = PAGE_SEGMENT_COUNT_MAX;
        for (index, conversation) in shown(self.0).iter().enumerate() {
            let Some(plot) = &conversation.plot else {
                continue;
            };
            let start_ns = conversation.story.start_ns;
            let drawn = Drawn::new(plot, start_ns, room >= plot.segments.len());
            room -= drawn.plot.map_or(0, |plot| plot.segments.len());
            map.serialize_entry(&index, &drawn)?;
        }
        map.end()
    }
}

/// A plot, or how many packets it would have.
struct Drawn<'a> {
    plot: Option<&'a Plot>,
    left_out: u64,
    start_ns: i64,
    /// The reasons of the classes, each once, with its place.
    reasons: BTreeMap<&'static str, usize>,
}

impl<'a> Drawn<'a> {
    fn new(plot: &'a Plot, start_ns: i64, fits: bool) -> Self {
        if !fits {
            return Self {
                plot: None,
                left_out: plot.left_out.saturating_add(plot.segments.len() as u64),
                start_ns,
                reasons: BTreeMap::new(),
            };
        }
        let mut reasons: BTreeMap<&str, usize> = plot
            .segments
            .iter()
            .map(|segment| (segment.why, 0))
            .collect();
        for (index, place) in reasons.values_mut().enumerate() {
            *place = index;
        }
        Self {
            plot: Some(plot),
            left_out: plot.left_out,
            start_ns,
            reasons,
        }
    }

    fn row(&self, segment: &Segment) -> impl Serialize + use<> {
        let marks = Mark::ALL.iter().enumerate();
        let marks = marks.filter(|(_, mark)| segment.marks.has(**mark));
        let acknowledgement = segment.acknowledgement.map(i64::try_from);
        (
            segment.number,
            segment.time_ns.saturating_sub(self.start_ns),
            side(segment.side),
            segment.class.map_or(-1, |class| class as i16),
            segment.flags,
            segment
                .sequence
                .map_or(-1, |it| i64::try_from(it).unwrap_or(-1)),
            segment.length,
            acknowledgement.and_then(Result::ok).unwrap_or(-1),
            segment.window.map_or(-1, i64::from),
            segment.acknowledged_frame.unwrap_or(0),
            segment.rtt_ns.unwrap_or(-1),
            segment
                .flight
                .map_or(-1, |it| i64::try_from(it).unwrap_or(-1)),
            segment.repeats_frame.unwrap_or(0),
            marks.fold(0_u32, |bits, (bit, _)| bits | 1 << bit),
            self.reasons.get(segment.why).copied().unwrap_or(0),
        )
    }
}

impl Serialize for Drawn<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let segments = self.plot.map_or(&[][..], |plot| &plot.segments);
        let sacks = self.plot.map_or(&[][..], |plot| &plot.sacks);
        let rows = segments.iter().map(|segment| self.row(segment));
        let blocks = sacks.iter().map(|block| block_row(block, self.start_ns));
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("left_out", &self.left_out)?;
        let reasons: Vec<&str> = self.reasons.keys().copied().collect();
        map.serialize_entry("why", &reasons)?;
        map.serialize_entry("segments", &List(rows))?;
        map.serialize_entry("sacks", &List(blocks))?;
        map.end()
    }
}

fn block_row(block: &SackBlock, start_ns: i64) -> impl Serialize + use<> {
    let time_ns = block.time_ns.saturating_sub(start_ns);
    (
        block.number,
        time_ns,
        side(block.side),
        block.left,
        block.right,
    )
}

const fn side(side: Side) -> u8 {
    match side {
        Side::Client => 0,
        Side::Server => 1,
    }
}

/// What an iterator gives, written as it comes.
struct List<I>(I);

impl<I: Iterator<Item: Serialize> + Clone> Serialize for List<I> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.clone())
    }
}
