//! Reports of captures: JSON for machines, text for people, one HTML page that needs no
//! network, and a picture of one conversation, all made from the same values.
//!
//! Deliberately absent: reading captures and measuring them; what is told here was measured by the
//! engine. Nothing here knows a clock, so that the same values give the same bytes.

mod across;
mod failure;
pub mod html;
pub mod json;
mod ladder;
pub mod limits;
mod score;
pub mod svg;
pub mod text;
pub(crate) mod word;

use std::collections::BTreeMap;

use phalanx_engine::segment::Segment;
use phalanx_engine::stitch::{ClockReading, Ladder};
use phalanx_engine::story::FlowStory;
use phalanx_engine::{Side, Translation};

pub use across::{Across, Confirmed, FlowAt, Proxied, Trails};
pub use score::{lone_syn_points, points, rank, score};

/// What a whole run came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// Where packets were seen, in the order of the files.
    pub hops: Vec<HopReport>,
    /// The conversations to be shown, in the order to be shown in (see [`rank`]).
    pub conversations: Vec<ConversationReport>,
    /// All of the run.
    pub totals: Totals,
}

/// Sums over all hops and conversations, also those that are not shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Conversations that were found.
    pub conversations: u64,
    /// Of these, how many the report leaves out: more than were asked for, or than fit.
    pub omitted: u64,
    /// Flows that were ended early to make room for others: one that went on is a conversation once
    /// more, in the middle.
    pub evicted_flows: u64,
    /// Frames that were read, those that were not understood too.
    pub packets: u64,
    /// Their bytes on the wire.
    pub bytes: u64,
    /// From the first frame to the last, in nanoseconds.
    pub duration_ns: i64,
}

/// One point of observation: a file, or an interface of one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HopReport {
    /// Its name.
    pub id: String,
    /// The file it was read from, as it was named.
    pub source: String,
    /// Frames that were read.
    pub packets: u64,
    /// Frames that are part of no conversation, by reason.
    pub unparsed: BTreeMap<&'static str, u64>,
    /// Oddities of the capture, counted.
    pub notes: BTreeMap<String, u64>,
    /// Where the file is damaged; what stands before was read.
    pub damage: Option<Damage>,
    /// Frames by the name of their link type.
    pub link_types: BTreeMap<String, u64>,
    /// The earliest frame, in nanoseconds since the epoch.
    pub first_ns: Option<i64>,
    /// The latest.
    pub last_ns: Option<i64>,
    /// Times in which nothing was recorded there, in nanoseconds of its clock.
    pub gaps: Vec<(i64, i64)>,
    /// How its clock maps onto that of the reference, where several hops were compared.
    pub clock: Option<ClockReport>,
    /// What connection tracking of its host translated there, and what the host is called.
    pub translations: BTreeMap<Translation, String>,
}

/// How the clock of a hop maps onto that of the reference.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClockReport {
    /// Name of the hop whose clock is the reference.
    pub reference: String,
    /// Whether both are one clock.
    pub is_shared: bool,
    /// The first, and one more for each time that a clock was set.
    pub readings: Vec<ClockReading>,
}

/// Where a file cannot be read on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Damage {
    /// Byte offset in the (unpacked) file.
    pub offset: u64,
    /// Number of the last frame that was read.
    pub frame: u64,
    /// What is wrong there.
    pub reason: String,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            offset,
            frame,
            reason,
        } = self;
        write!(
            formatter,
            "damaged at byte {offset}, after frame {frame}: {reason}"
        )
    }
}

/// One conversation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ConversationReport {
    /// Its name in the report.
    pub id: String,
    /// The hop that saw it.
    pub hop: String,
    /// The place of that hop in [`Report::hops`].
    pub hop_place: u32,
    /// Which of the files that were read it comes from, from 0.
    pub file: usize,
    /// What was measured.
    pub story: Box<FlowStory>,
    /// How bad it is: higher is worse (see [`score()`]).
    pub score: f64,
    /// What makes most of the score, in words.
    pub worst_because: String,
    /// What all hops tell of it, where several saw it.
    pub across: Option<Box<Across>>,
    /// Its packets at all hops, where they are to be shown and several hops saw it.
    pub ladder: Option<Ladder>,
    /// Its packets, where they are to be drawn.
    pub plot: Option<Plot>,
}

impl ConversationReport {
    /// Whether several hops saw it.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        let across = self.across.as_ref();
        across.is_some_and(|it| it.flows.len() > 1)
    }

    /// A conversation with its score.
    #[must_use]
    pub fn new(id: String, hop: String, story: impl Into<Box<FlowStory>>) -> Self {
        let story = story.into();
        let (score, worst_because) = score(&story);
        Self {
            id,
            hop,
            hop_place: 0,
            file: 0,
            story,
            score,
            worst_because,
            across: None,
            ladder: None,
            plot: None,
        }
    }
}

/// The packets of a conversation, to be drawn.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plot {
    /// In the order of the capture.
    pub segments: Vec<Segment>,
    /// SACK blocks that they carried, in the order of the capture.
    pub sacks: Vec<SackBlock>,
    /// Packets that are left out, since there are more than
    /// [`PLOT_SEGMENT_COUNT_MAX`](limits::PLOT_SEGMENT_COUNT_MAX).
    pub left_out: u64,
}

/// One block of a SACK option (RFC 2018).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SackBlock {
    /// Number of the frame that carried it.
    pub number: u64,
    /// When that frame was seen, in nanoseconds since the epoch.
    pub time_ns: i64,
    /// Who sent it; the bytes are the other side's.
    pub side: Side,
    /// First byte, counted as the other side's [`Segment::sequence`].
    pub left: u64,
    /// The byte after the last.
    pub right: u64,
}

impl Plot {
    /// Takes a packet in, or counts it where the plot is full.
    pub fn push(&mut self, segment: Segment) {
        if self.segments.len() < limits::PLOT_SEGMENT_COUNT_MAX {
            self.segments.push(segment);
        } else {
            self.left_out = self.left_out.saturating_add(1);
        }
    }

    /// Takes a SACK block in, unless the plot is full.
    pub fn push_sack(&mut self, block: SackBlock) {
        if self.sacks.len() < limits::PLOT_SACK_COUNT_MAX && self.left_out == 0 {
            self.sacks.push(block);
        }
    }
}
