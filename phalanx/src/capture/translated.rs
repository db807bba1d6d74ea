//! What of a capture's flows the host translates: looked for as the capture goes on, written at the
//! end of its file.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::Write;
use std::time::{Duration, Instant};

use phalanx_common::packet::{LinkKind, parse, protocol};
use phalanx_engine::{Endpoint, HopId, Translation};

use super::job::{Job, Sheet};
use crate::pcapng::{WriteError, remarks_size};
use crate::translation::{NOTE_COUNT_MAX, NOTES_PER_BLOCK, Note};

/// Room at the end of a file for what is said of translations that are not there.
pub(super) const REMARKS_SIZE: u64 = 512;

/// How often translations are looked for. So many a second as come at most, what is kept of them is
/// of the last 16 s.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How long a flow is looked for: as many as may wait to be asked for take 4 s, and packets come a
/// little later than their flows.
const ANSWER_TIME: Duration = Duration::from_secs(10);

/// A flow at a hop: protocol and ends.
type FlowAt = (HopId, u8, [Endpoint; 2]);

/// The flows of a capture that may be translated; of more than [`NOTE_COUNT_MAX`] the first.
#[derive(Debug, Default)]
pub(super) struct Flows {
    /// With what was found of them.
    seen: BTreeMap<FlowAt, Option<Translation>>,
    latest: Option<FlowAt>,
    /// Those that are looked for, and when they were seen first.
    sought: VecDeque<(Instant, FlowAt)>,
    /// When they were looked for.
    looked: Option<Instant>,
    /// There were more.
    has_left_out: bool,
}

impl Flows {
    /// Notes the flow of a packet that is in the file.
    pub(super) fn note(&mut self, hop: HopId, link: LinkKind, bytes: &[u8], wire_length: u32) {
        let Ok(headers) = parse(bytes, link, wire_length) else {
            return;
        };
        if !matches!(headers.protocol, protocol::TCP | protocol::UDP) {
            return;
        }
        let source = Endpoint::of_words(headers.source, headers.source_port);
        let destination = Endpoint::of_words(headers.destination, headers.destination_port);
        let ends = [source.min(destination), source.max(destination)];
        let flow = (hop, headers.protocol, ends);
        if self.latest == Some(flow) {
            return;
        }
        self.latest = Some(flow);
        if self.seen.contains_key(&flow) {
            return;
        }
        if self.seen.len() >= NOTE_COUNT_MAX {
            self.has_left_out = true;
            return;
        }
        self.seen.insert(flow, None);
        self.sought.push_back((Instant::now(), flow));
    }
}

/// Notes by hop, and what is to be said beside them.
#[derive(Debug, Default)]
struct Told {
    notes: BTreeMap<HopId, BTreeSet<String>>,
    remarks: Vec<String>,
}

impl Job {
    /// Looks for what became of the flows that were seen lately. It is known a little after their
    /// first packet, and not for long.
    pub(super) fn look_up(&self, flows: &mut Flows, now: Instant) {
        let since = |then: Instant| now.saturating_duration_since(then);
        if flows.looked.is_some_and(|it| since(it) < LOOK_INTERVAL) {
            return;
        }
        flows.looked = Some(now);
        for (seen, flow) in std::mem::take(&mut flows.sought) {
            match self.find_translation(&flow) {
                None if since(seen) < ANSWER_TIME => flows.sought.push_back((seen, flow)),
                found => drop(flows.seen.insert(flow, found)),
            }
        }
    }

    fn find_translation(&self, (hop, protocol, ends): &FlowAt) -> Option<Translation> {
        let hop = self.hops.get(hop)?;
        self.translations.find(hop.namespace, *protocol, *ends)
    }

    /// Writes what connection tracking told of the flows in the file, as far as `room` bytes go.
    pub(super) fn write_translations<W: Write>(
        &self,
        sheet: &mut Sheet<W>,
        room: u64,
    ) -> Result<(), WriteError> {
        let Told { notes, mut remarks } = self.gather(&sheet.flows);
        let end_ns = self.clock.wall_ns(crate::clock::now());
        let reserve = REMARKS_SIZE.min(room);
        let (mut room, mut left_out) = (room - reserve, 0);
        for (hop, notes) in notes {
            let Some(port) = sheet.ports.get(&hop) else {
                continue;
            };
            let notes: Vec<String> = notes.into_iter().collect();
            let mut rest = &notes[..];
            while !rest.is_empty() {
                let (part, later) = rest.split_at(fitting_count(rest, room));
                if part.is_empty() {
                    left_out += rest.len();
                    break;
                }
                room -= remarks_size(part);
                sheet.writer.write_remarks(port.index, end_ns, part)?;
                rest = later;
            }
        }
        if left_out > 0 {
            tracing::info!(
                count = left_out,
                "translations left out of a capture that is as large as it may be"
            );
            remarks.push(format!(
                "{left_out} translations are left out: the file is as large as it may be"
            ));
        }
        if let Some(port) = sheet.ports.values().next()
            && !remarks.is_empty()
            && remarks_size(&remarks) <= room + reserve
        {
            sheet.writer.write_remarks(port.index, end_ns, &remarks)?;
        }
        Ok(())
    }

    fn gather(&self, flows: &Flows) -> Told {
        let mut told = Told::default();
        let mut unknown_count = 0;
        for (flow, found) in &flows.seen {
            let Some(hop) = self.hops.get(&flow.0) else {
                continue;
            };
            match found.or_else(|| self.find_translation(flow)) {
                Some(translation) => {
                    let notes = told.notes.entry(flow.0).or_default();
                    notes.insert(Note::new(translation, &hop.host).to_string());
                }
                None => unknown_count += 1,
            }
        }
        if flows.has_left_out {
            let remark = format!("translations of flows beyond {NOTE_COUNT_MAX} are left out");
            told.remarks.push(remark);
        }
        let forgotten_count = self.translations.counts().forgotten;
        if unknown_count > 0 && forgotten_count > 0 {
            told.remarks.push(format!(
                "{unknown_count} flows may have been translated: {forgotten_count} translations \
                 were forgotten for later ones"
            ));
        }
        told
    }
}

/// How many notes fit in one block of so many bytes.
fn fitting_count(notes: &[String], room: u64) -> usize {
    let empty = remarks_size(&[]);
    let mut size = empty;
    let fits = |note: &&String| {
        size += remarks_size(std::slice::from_ref(note)) - empty;
        size <= room
    };
    notes.iter().take(NOTES_PER_BLOCK).take_while(fits).count()
}
