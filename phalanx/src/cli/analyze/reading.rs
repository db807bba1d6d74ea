//! [`Reading`]: what the captures of a run come to, as one report.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::bail;
use phalanx_engine::stitch::Trail;

use super::super::selection::ConversationName;
use super::super::{WrongUsage, complain};
use super::{Gap, Host, Named, OneClock, spool};
use crate::analysis::{self, Merge, MergeHop, MergeSource, Outcome, Request, hop_reports};
use crate::capture_file::Interface;
use crate::plain::plain;
use crate::report::limits::PLOT_COUNT_MAX;
use crate::report::{ConversationReport, FlowAt, HopReport, Report, Trails};

/// What was read for the report.
#[derive(Default)]
pub(super) struct Reading {
    /// By the place of the file in [`ConversationReport::file`].
    pub(super) files: Vec<ReadFile>,
    pub(super) report: Report,
    pub(super) trails: Trails,
    pub(super) is_damaged: bool,
    pub(super) has_failed: bool,
}

/// A file that was read.
pub(super) struct ReadFile {
    request: Request,
    name: String,
    /// By interface, those that are hops, with their places in [`Report::hops`].
    interfaces: BTreeMap<u32, (u32, Interface)>,
}

impl Reading {
    /// Adds what one file came to.
    pub(super) fn add(&mut self, request: Request, file: &Named, outcome: Outcome) {
        let is_only = !request.is_one_of_several;
        let hops = hop_reports(&outcome, &file.name, &file.path.display().to_string());
        let report = &mut self.report;
        let first_place = report.hops.len() as u32;
        let places: BTreeMap<u32, u32> = hops.keys().copied().zip(first_place..).collect();
        let place = |hop: u32| places.get(&hop).copied().unwrap_or(first_place);
        let clock = self.files.len() as u32;
        self.trails.clocks.extend(hops.iter().map(|_| clock));
        let trails = outcome.trails.into_iter();
        self.trails.trails.extend(trails.map(|trail| Trail {
            hop: place(trail.hop),
            ..trail
        }));
        let totals = &mut report.totals;
        totals.conversations += outcome.conversation_count;
        totals.evicted_flows += outcome.evicted_count;
        totals.packets += outcome.hops.iter().map(|hop| hop.frames).sum::<u64>();
        totals.bytes += outcome.hops.iter().map(|hop| hop.bytes).sum::<u64>();
        for story in outcome.stories {
            let hop = hops
                .get(&story.hop)
                .map_or(file.name.clone(), |it| it.id.clone());
            let protocol = crate::view::protocol_name(story.protocol);
            let bare = format!("{protocol}-{}", story.flow);
            let id = if is_only {
                bare
            } else {
                format!("{}/{bare}", file.name)
            };
            let hop_place = place(story.hop);
            let conversation = ConversationReport::new(id, hop, story);
            report.conversations.push(ConversationReport {
                hop_place,
                file: self.files.len(),
                ..conversation
            });
        }
        report.hops.extend(hops.into_values());
        let interfaces = (0..).zip(outcome.interfaces);
        let interfaces =
            interfaces.filter_map(|(index, it)| Some((index, (*places.get(&index)?, it))));
        self.files.push(ReadFile {
            request,
            name: file.name.clone(),
            interfaces: interfaces.collect(),
        });
        let first = report.hops.iter().filter_map(|hop| hop.first_ns).min();
        let last = report.hops.iter().filter_map(|hop| hop.last_ns).max();
        if let (Some(first), Some(last)) = (first, last) {
            report.totals.duration_ns = last.saturating_sub(first);
        }
    }

    /// Gives hops one clock that are said to have one; a file's name stands for all hops of it.
    /// `given` are all files: one that could not be read has no hop.
    pub(super) fn share_clocks(
        &mut self,
        groups: &[OneClock],
        given: &[Named],
    ) -> Result<(), WrongUsage> {
        let hops = &self.report.hops;
        // Until now the clock of a hop is its file's, and has its number.
        let file_of = self.trails.clocks.clone();
        let is_named = |place: usize, name: &str| {
            let file = self.files.get(file_of[place] as usize);
            hops[place].id == name || file.is_some_and(|it| it.name == name)
        };
        for OneClock(names) in groups {
            let mut shared = BTreeSet::new();
            for name in names {
                let named = (0..hops.len()).filter(|place| is_named(*place, name));
                let mut clocks = named.map(|place| self.trails.clocks[place]).peekable();
                let is_given = given.iter().any(|it| it.name == *name);
                if clocks.peek().is_none() && !is_given {
                    return Err(unknown_hop(name, hops));
                }
                shared.extend(clocks);
            }
            let clocks = self.trails.clocks.iter_mut();
            for clock in clocks.filter(|it| shared.contains(it)) {
                *clock = shared.first().copied().unwrap_or(*clock);
            }
        }
        Ok(())
    }

    /// Notes when nothing was recorded; a file's name stands for all hops of it.
    pub(super) fn note_gaps(&mut self, gaps: &[Gap]) {
        for gap in gaps {
            let files = self.files.iter().filter(|it| it.name == gap.name);
            let places = files.flat_map(|it| it.interfaces.values().map(|(place, _)| *place));
            for place in places {
                if let Some(hop) = self.report.hops.get_mut(place as usize) {
                    hop.gaps.push((gap.from_ns, gap.until_ns));
                }
            }
        }
    }

    /// Notes on which hosts files were taken: what these translate is theirs, whatever the file
    /// says. Who wrote it may have written the name of another.
    pub(super) fn note_hosts(&mut self, hosts: &[Host]) {
        for Host { name, host } in hosts {
            for file in self.files.iter_mut().filter(|it| it.name == *name) {
                for (place, interface) in file.interfaces.values_mut() {
                    let hop = self.report.hops.get_mut(*place as usize);
                    let of_hop = hop.map(|it| &mut it.translations);
                    let all = of_hop.into_iter().chain([&mut interface.translations]);
                    for told in all.flat_map(|it| it.values_mut()) {
                        told.clone_from(host);
                    }
                }
            }
        }
    }

    /// Leaves only the conversations of a name: `HOP/tcp-17`, or `tcp-17` of any hop.
    pub(super) fn choose(&mut self, wanted: &ConversationName) -> anyhow::Result<()> {
        let (hop, bare) = wanted.parts();
        let files = &self.files;
        let names: Vec<String> = self.report.hops.iter().map(|it| it.id.clone()).collect();
        let is_wanted = |it: &ConversationReport| {
            let file = files.get(it.file).map(|it| it.name.as_str());
            let is_there = hop.is_none() || hop == file || hop == Some(&it.hop);
            let is_lead = is_there && it.id.rsplit('/').next() == Some(bare);
            // It may be named after its flow at any hop.
            let at_hop = |flow: &FlowAt| {
                let name = names.get(flow.hop as usize).map(String::as_str);
                let protocol = crate::view::protocol_name(flow.protocol);
                hop == name && format!("{protocol}-{}", flow.flow) == bare
            };
            let mut flows = it.across.iter().flat_map(|across| &across.flows);
            is_lead || flows.any(at_hop)
        };
        self.report.conversations.retain(is_wanted);
        if self.report.conversations.is_empty() {
            return Err(wanted.missing());
        }
        Ok(())
    }

    /// Leaves only the conversations that several hops saw.
    pub(super) fn keep_shared(&mut self) -> anyhow::Result<()> {
        self.report
            .conversations
            .retain(ConversationReport::is_shared);
        if self.report.conversations.is_empty() {
            bail!(
                "there is nothing to draw: no conversation was seen at two hops; give the captures \
                 of several, or use --format html"
            );
        }
        Ok(())
    }

    /// Reads the files once more for the packets of the worst conversations. What cannot be read
    /// again is not drawn.
    pub(super) fn draw(&mut self) {
        let conversations = &mut self.report.conversations;
        for (file, read) in self.files.iter().enumerate() {
            let drawn = conversations.iter_mut().take(PLOT_COUNT_MAX);
            let mut drawn: Vec<_> = drawn.filter(|it| it.file == file).collect();
            if drawn.is_empty() {
                continue;
            }
            let flow = |it: &ConversationReport| (it.story.hop, it.story.flow);
            let flows: Vec<_> = drawn.iter().map(|it| flow(it)).collect();
            match analysis::plots(&again(&read.request), flows) {
                Ok(mut plots) => {
                    for it in &mut drawn {
                        it.plot = plots.remove(&flow(it));
                    }
                }
                Err(error) => {
                    complain(&anyhow::Error::from(error).context("draw the packets"));
                    self.has_failed = true;
                }
            }
        }
    }

    /// The captures as what can be merged, once their hops were joined.
    pub(super) fn merge(&self) -> Merge {
        let hops = &self.report.hops;
        let hop = |(index, (place, interface)): (&u32, &(u32, Interface))| {
            let hop = hops.get(*place as usize)?;
            let readings = hop.clock.as_ref().map(|it| it.readings.clone());
            let merged = MergeHop {
                name: hop.id.clone(),
                interface: interface.clone(),
                readings: readings.unwrap_or_default(),
                window_ns: (
                    hop.first_ns.unwrap_or_default(),
                    hop.last_ns.unwrap_or_default(),
                ),
                gaps_ns: hop.gaps.clone(),
            };
            Some((*index, merged))
        };
        let source = |file: &ReadFile| MergeSource {
            request: again(&file.request),
            name: file.request.path.display().to_string(),
            hops: file.interfaces.iter().filter_map(hop).collect(),
        };
        let reference = hops.iter().find_map(|it| it.clock.as_ref());
        Merge {
            sources: self.files.iter().map(source).collect(),
            reference: reference.map(|it| it.reference.clone()),
        }
    }
}

/// The request for what was read to be read a second time.
fn again(request: &Request) -> Request {
    let spool = request.copy.as_deref().map(spool::path);
    Request {
        path: spool.unwrap_or_else(|| request.path.clone()),
        follow: None,
        copy: None,
        ..request.clone()
    }
}

fn unknown_hop(name: &str, hops: &[HopReport]) -> WrongUsage {
    let names: Vec<String> = hops.iter().map(|it| plain(&it.id)).collect();
    WrongUsage(format!(
        "--same-clock names {}, which is no hop; there are: {}",
        plain(name),
        names.join(", ")
    ))
}
