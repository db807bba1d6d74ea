//! What of a capture's flows the host translates, written at the end of its file.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

use phalanx_common::packet::{LinkKind, parse, protocol};
use phalanx_engine::{Endpoint, HopId};

use super::job::{Job, Sheet};
use crate::pcapng::{WriteError, remarks_size};
use crate::translation::{NOTE_COUNT_MAX, NOTES_PER_BLOCK, Note};

/// A flow at a hop: protocol and ends.
type FlowAt = (HopId, u8, [Endpoint; 2]);

/// The flows of a capture that may be translated; of more than [`NOTE_COUNT_MAX`] the first.
#[derive(Debug, Default)]
pub(super) struct Flows {
    seen: BTreeSet<FlowAt>,
    latest: Option<FlowAt>,
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
        if self.seen.len() < NOTE_COUNT_MAX {
            self.seen.insert(flow);
        } else {
            self.has_left_out |= !self.seen.contains(&flow);
        }
    }
}

impl Job {
    /// Writes what connection tracking told of the flows in the file, as far as `room` bytes go.
    pub(super) fn write_translations<W: Write>(
        &self,
        sheet: &mut Sheet<W>,
        mut room: u64,
    ) -> Result<(), WriteError> {
        let mut told: BTreeMap<HopId, BTreeSet<String>> = BTreeMap::new();
        for (id, protocol, ends) in &sheet.flows.seen {
            let Some(hop) = self.hops.get(id) else {
                continue;
            };
            let found = self.translations.find(hop.namespace, *protocol, *ends);
            let note = found.map(|translation| Note::new(translation, &hop.host).to_string());
            told.entry(*id).or_default().extend(note);
            if sheet.flows.has_left_out {
                let remark = format!("translations of flows beyond {NOTE_COUNT_MAX} are left out");
                told.entry(*id).or_default().insert(remark);
            }
        }
        let end_ns = self.clock.wall_ns(crate::clock::now());
        for (hop, notes) in told {
            let Some(port) = sheet.ports.get(&hop) else {
                continue;
            };
            let notes: Vec<String> = notes.into_iter().collect();
            for part in notes.chunks(NOTES_PER_BLOCK) {
                let size = remarks_size(part);
                if size > room {
                    tracing::warn!(
                        count = part.len(),
                        "translations left out of a capture that is as large as it may be"
                    );
                    return Ok(());
                }
                room -= size;
                sheet.writer.write_remarks(port.index, end_ns, part)?;
            }
        }
        Ok(())
    }
}
