//! The report as JSON, `phalanx.report/1`: `docs/report.schema.json` describes every field.
//!
//! Written conversation by conversation, one a line, so that a report of any length takes little
//! memory, also where several threads make it. What was not measured is absent, never 0. The same
//! report gives the same bytes.

mod across;
mod application;
mod conversation;
mod feature;
mod ladder;
mod out;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use phalanx_engine::stitch::ClockReading;
use serde::Serialize;

use super::word;
use super::{ClockReport, ConversationReport, HopReport, Report, Totals};

/// The name and version of the form.
pub const SCHEMA: &str = "phalanx.report/1";

/// Writes a whole report.
///
/// # Errors
///
/// What the output cannot take.
pub fn write(report: &Report, output: impl Write) -> io::Result<()> {
    let mut writer = Writer::new(output, &report.hops)?;
    for conversation in &report.conversations {
        writer.write(conversation)?;
    }
    writer.finish(&report.totals)
}

/// Conversations that a thread writes at once: some 4 KB each, so that they stay in its cache.
const PART_LENGTH: usize = 64;

/// Parts that each thread has waiting for those before them; it waits where there are more.
const PART_COUNT_MAX: usize = 2;

/// Writes a whole report that as many threads make: the same bytes, whatever their number.
///
/// # Errors
///
/// What the output cannot take.
pub fn write_by_threads(report: &Report, threads: usize, output: impl Write) -> io::Result<()> {
    let parts: Vec<&[ConversationReport]> = report.conversations.chunks(PART_LENGTH).collect();
    let threads = threads.min(parts.len());
    if threads < 2 {
        return write(report, output);
    }
    let mut writer = Writer::new(output, &report.hops)?;
    std::thread::scope(|scope| {
        let make = |first: usize| -> Receiver<io::Result<Vec<u8>>> {
            let (sender, receiver) = sync_channel(PART_COUNT_MAX);
            let parts = parts.iter().skip(first).step_by(threads);
            let hops = writer.hops.clone();
            scope.spawn(move || make_parts(parts, &hops, &sender));
            receiver
        };
        let makers: Vec<_> = (0..threads).map(make).collect();
        for maker in makers.iter().cycle().take(parts.len()) {
            let text = maker.recv().map_err(io::Error::other)??;
            writer.write_text(&text)?;
        }
        io::Result::Ok(())
    })?;
    writer.finish(&report.totals)
}

/// Ends early where nobody wants more.
fn make_parts<'a>(
    parts: impl Iterator<Item = &'a &'a [ConversationReport]>,
    hops: &[String],
    sender: &SyncSender<io::Result<Vec<u8>>>,
) {
    for part in parts {
        let mut text = Vec::new();
        let made = part.iter().try_for_each(|it| append(it, hops, &mut text));
        if sender.send(made.map(|()| text)).is_err() {
            return;
        }
    }
}

/// Appends a conversation and what sets it apart from the one before.
fn append(
    conversation: &ConversationReport,
    hops: &[String],
    text: &mut Vec<u8>,
) -> io::Result<()> {
    text.extend_from_slice(b",\n");
    Ok(conversation::write_with_ladder(conversation, hops, text)?)
}

/// Writes a report whose conversations come one by one.
pub struct Writer<W> {
    output: W,
    /// One conversation at a time, so that the output need not be buffered.
    line: Vec<u8>,
    is_first: bool,
    /// Their names.
    hops: Vec<String>,
}

impl<W: Write> Writer<W> {
    /// Begins a report.
    ///
    /// # Errors
    ///
    /// What the output cannot take.
    pub fn new(output: W, hops: &[HopReport]) -> io::Result<Self> {
        let mut writer = Self {
            output,
            line: Vec::new(),
            is_first: true,
            hops: hops.iter().map(|hop| hop.id.clone()).collect(),
        };
        write!(writer.output, "{{\"schema\":\"{SCHEMA}\",\n\"hops\":[")?;
        for (index, hop) in hops.iter().enumerate() {
            let separator: &[u8] = if index == 0 { b"\n" } else { b",\n" };
            writer.output.write_all(separator)?;
            serde_json::to_writer(&mut writer.output, &Hop::new(hop, hops.len() == 1))?;
        }
        writer.output.write_all(b"],\n\"conversations\":[")?;
        Ok(writer)
    }

    /// Writes one conversation.
    ///
    /// # Errors
    ///
    /// What the output cannot take.
    pub fn write(&mut self, conversation: &ConversationReport) -> io::Result<()> {
        let mut line = std::mem::take(&mut self.line);
        line.clear();
        append(conversation, &self.hops, &mut line)?;
        let written = self.write_text(&line);
        self.line = line;
        written
    }

    /// Writes one conversation without its packets, for those who get them another way.
    ///
    /// # Errors
    ///
    /// What the output cannot take.
    pub(super) fn write_without_ladder(
        &mut self,
        conversation: &ConversationReport,
    ) -> io::Result<()> {
        let mut line = b",\n".to_vec();
        conversation::write(conversation, &self.hops, &mut line)?;
        self.write_text(&line)
    }

    /// Writes what [`append`] made.
    fn write_text(&mut self, text: &[u8]) -> io::Result<()> {
        // Nothing is set apart from the first.
        let skipped = usize::from(std::mem::take(&mut self.is_first));
        self.output
            .write_all(text.get(skipped..).unwrap_or_default())
    }

    /// Ends the report.
    ///
    /// # Errors
    ///
    /// What the output cannot take.
    pub fn finish(mut self, totals: &Totals) -> io::Result<()> {
        self.output.write_all(b"],\n\"totals\":")?;
        serde_json::to_writer(&mut self.output, &TotalsView::from(totals))?;
        self.output.write_all(b"}\n")?;
        self.output.flush()
    }
}

#[derive(Serialize)]
struct Hop<'a> {
    id: &'a str,
    source: &'a str,
    packets: u64,
    unparsed: &'a BTreeMap<&'static str, u64>,
    notes: &'a BTreeMap<String, u64>,
    link_types: &'a BTreeMap<String, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    first: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    damage: Option<DamageView<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    gaps: Vec<GapView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    clock: Option<Clock<'a>>,
}

/// How the hop's clock maps onto that of the reference.
#[derive(Serialize)]
struct Clock<'a> {
    reference: &'a str,
    offset_ns: i64,
    skew_ppm: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_ns: Option<i64>,
    #[serde(skip_serializing_if = "is_false")]
    shared: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    steps: Vec<ClockStep>,
}

/// The same from the time on at which a clock was set.
#[derive(Serialize)]
struct ClockStep {
    at: String,
    offset_ns: i64,
    skew_ppm: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_ns: Option<i64>,
}

impl<'a> Clock<'a> {
    /// One clock agrees with itself.
    const fn alone(reference: &'a str) -> Self {
        Self {
            reference,
            offset_ns: 0,
            skew_ppm: 0.0,
            error_ns: Some(0),
            shared: false,
            steps: Vec::new(),
        }
    }

    fn new(clock: &'a ClockReport) -> Option<Self> {
        let (first, later) = clock.readings.split_first()?;
        let step = |reading: &ClockReading| ClockStep {
            at: word::instant(reading.from_ns),
            offset_ns: reading.offset_ns,
            skew_ppm: reading.skew_ppm,
            error_ns: reading.error_ns,
        };
        Some(Self {
            reference: &clock.reference,
            offset_ns: first.offset_ns,
            skew_ppm: first.skew_ppm,
            error_ns: first.error_ns,
            shared: clock.is_shared,
            steps: later.iter().map(step).collect(),
        })
    }
}

#[derive(Serialize)]
struct GapView {
    from: String,
    until: String,
}

#[derive(Serialize)]
struct DamageView<'a> {
    offset: u64,
    frame: u64,
    reason: &'a str,
}

impl GapView {
    fn new((from_ns, until_ns): &(i64, i64)) -> Self {
        Self {
            from: word::instant(*from_ns),
            until: word::instant(*until_ns),
        }
    }
}

impl<'a> Hop<'a> {
    fn new(hop: &'a HopReport, is_only_one: bool) -> Self {
        Self {
            id: &hop.id,
            source: &hop.source,
            packets: hop.packets,
            unparsed: &hop.unparsed,
            notes: &hop.notes,
            link_types: &hop.link_types,
            first: hop.first_ns.map(word::instant),
            last: hop.last_ns.map(word::instant),
            damage: hop.damage.as_ref().map(|damage| DamageView {
                offset: damage.offset,
                frame: damage.frame,
                reason: &damage.reason,
            }),
            gaps: hop.gaps.iter().map(GapView::new).collect(),
            clock: match &hop.clock {
                None => is_only_one.then(|| Clock::alone(&hop.id)),
                Some(clock) => Clock::new(clock),
            },
        }
    }
}

#[derive(Serialize)]
struct TotalsView {
    conversations: u64,
    omitted: u64,
    #[serde(skip_serializing_if = "is_zero")]
    evicted_flows: u64,
    packets: u64,
    bytes: u64,
    duration_s: f64,
}

impl From<&Totals> for TotalsView {
    fn from(totals: &Totals) -> Self {
        Self {
            conversations: totals.conversations,
            omitted: totals.omitted,
            evicted_flows: totals.evicted_flows,
            packets: totals.packets,
            bytes: totals.bytes,
            duration_s: word::seconds(totals.duration_ns),
        }
    }
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the serializer gives a reference"
)]
const fn is_zero(count: &u64) -> bool {
    *count == 0
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the serializer gives a reference"
)]
const fn is_false(is: &bool) -> bool {
    !*is
}
