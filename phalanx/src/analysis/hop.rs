//! What is known of a hop of a file: its frames, and why some are part of no conversation.

use phalanx_common::packet::Unparsed;
use phalanx_engine::fragment::FragmentCounts;

use std::collections::{BTreeMap, BTreeSet};

use super::Outcome;
use crate::capture_file::{FrameAt, Interface, Notes, link_type_name};
use crate::report::HopReport;

/// Counts of one interface of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HopFacts {
    /// Frames that count.
    pub frames: u64,
    /// Their bytes on the wire.
    pub bytes: u64,
    /// Frames that are part of no conversation, by reason.
    pub unparsed: [u64; Unparsed::COUNT],
    /// Frames that do not count since the filter cannot be applied to their link type.
    pub left_out: u64,
    /// Earliest and latest time in nanoseconds since the epoch.
    pub times_ns: Option<(i64, i64)>,
}

impl HopFacts {
    pub(super) fn pass(&mut self, frame: &FrameAt) {
        self.frames += 1;
        self.bytes += u64::from(frame.wire_length);
        self.widen(frame.time_ns, frame.time_ns);
    }

    pub(super) fn refuse(&mut self, reason: Unparsed) {
        self.unparsed[reason as usize] += 1;
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.frames += other.frames;
        self.bytes += other.bytes;
        self.left_out += other.left_out;
        for (count, more) in self.unparsed.iter_mut().zip(other.unparsed) {
            *count += more;
        }
        if let Some((first_ns, last_ns)) = other.times_ns {
            self.widen(first_ns, last_ns);
        }
    }

    /// Whether it saw anything that is told of.
    const fn has_seen(&self) -> bool {
        self.frames > 0 || self.left_out > 0
    }

    fn widen(&mut self, first_ns: i64, last_ns: i64) {
        let (first, last) = self.times_ns.unwrap_or((first_ns, last_ns));
        self.times_ns = Some((first.min(first_ns), last.max(last_ns)));
    }
}

/// The hops of a file as a report shows them, by interface: the file's, or one for each interface
/// that saw frames. `name` is the file's.
#[must_use]
pub fn hop_reports(outcome: &Outcome, name: &str, source: &str) -> BTreeMap<u32, HopReport> {
    let seen_count = outcome.hops.iter().filter(|hop| hop.has_seen()).count();
    // A file without any frame was a place of observation all the same.
    let alone = [HopFacts::default()];
    let hops = match seen_count {
        0 => &alone[..],
        _ => &outcome.hops,
    };
    let ids = interface_ids(name, &outcome.interfaces, hops.len());
    let mut reports = BTreeMap::new();
    for ((index, hop), id) in (0_u32..).zip(hops).zip(ids) {
        let interface = outcome.interfaces.get(index as usize);
        let id = match seen_count {
            0 | 1 => name.to_owned(),
            _ => id,
        };
        // A file may describe as many interfaces as it likes that saw nothing.
        if !hop.has_seen() && seen_count > 0 {
            continue;
        }
        let unparsed = Unparsed::ALL
            .into_iter()
            .map(|reason| (reason.name(), hop.unparsed[reason as usize]))
            .filter(|(_, count)| *count > 0);
        let link_type = interface.map(|it| (link_type_name(it.link_type).to_string(), hop.frames));
        let lost_count = interface.map_or(0, Interface::lost_count);
        let mut notes = outcome.notes.clone();
        let own = [
            ("lost_by_capture", lost_count),
            ("filter_not_applicable", hop.left_out),
        ];
        let own = own.into_iter().filter(|(_, count)| *count > 0);
        notes.extend(own.map(|(name, count)| (name.to_owned(), count)));
        let report = HopReport {
            id,
            source: source.to_owned(),
            packets: hop.frames,
            unparsed: unparsed.collect(),
            notes,
            damage: outcome.damage.clone(),
            link_types: link_type.filter(|it| it.1 > 0).into_iter().collect(),
            first_ns: hop.times_ns.map(|it| it.0),
            last_ns: hop.times_ns.map(|it| it.1),
            gaps: Vec::new(),
            clock: None,
            translations: interface
                .map(|it| it.translations.clone())
                .unwrap_or_default(),
        };
        reports.insert(index, report);
    }
    reports
}

/// The names of a file's first `count` hops where more than one of them saw frames; `name` is the
/// file's.
pub(crate) fn interface_ids(name: &str, interfaces: &[Interface], count: usize) -> Vec<String> {
    let mut taken = BTreeSet::new();
    let id = |index: usize| {
        let id = match interfaces.get(index).map(|it| it.name.as_str()) {
            Some(label) if !label.is_empty() => format!("{name}:{label}"),
            _ => format!("{name}:{index}"),
        };
        if taken.insert(id.clone()) {
            id
        } else {
            format!("{id}#{index}")
        }
    };
    (0..count).map(id).collect()
}

/// What was odd about a file and its fragments, counted by name.
pub(super) fn notes(
    notes: &Notes,
    fragments: &FragmentCounts,
    back_count: u64,
    unkept_count: u64,
) -> BTreeMap<String, u64> {
    let named = [
        ("time_went_back", back_count),
        ("not_compared", unkept_count),
        ("unknown_interface", notes.unknown_interface),
        ("surplus_interface", notes.surplus_interface),
        ("surplus_interfaces", notes.surplus_interfaces),
        ("longer_than_wire", notes.longer_than_wire),
        ("longer_than_snap_length", notes.longer_than_snap_length),
        ("negative_time", notes.negative_time),
        ("without_time", notes.without_time),
        ("comments", notes.comments),
        ("other_blocks", notes.other_blocks),
        ("unknown_blocks", notes.unknown_blocks),
        ("snap_length_zero", notes.snap_length_zero),
        ("unfinished_bytes", notes.unfinished_bytes),
        ("surplus_translations", notes.surplus_translations),
    ];
    let all = named.into_iter().chain(fragments.named());
    let counted = all.filter(|(_, count)| *count > 0);
    counted
        .map(|(name, count)| (name.to_owned(), count))
        .collect()
}
