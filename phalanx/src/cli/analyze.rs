//! `phalanx analyze`: capture files to a report.

mod spool;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, Metadata};
use std::io::{BufWriter, IsTerminal, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use phalanx_engine::stitch::{Stitched, Trail};

use super::selection::{
    ConversationName, EXIT_DAMAGED, SelectionArguments, hop_name, refused, warn, warn_of_evicted,
    warn_of_refusals,
};
use super::{EXIT_FAILURE, ReaderGone, WrongUsage, complain, say};
use crate::analysis::{self, Outcome, Request, hop_reports};
use crate::plain::plain;
use crate::report::limits::{LADDER_COUNT_MAX, PLOT_COUNT_MAX, RUNG_COUNT_MAX};
use crate::report::text::TextOptions;
use crate::report::{self, ConversationReport, FlowAt, Report, Trails};

pub(super) const AFTER_HELP: &str = "\
Examples:
  phalanx analyze trace.pcapng
  phalanx analyze --filter 'tcp port 443' --top 5 trace.pcap.gz
  phalanx analyze --format json client.pcap server.pcap | jq '.conversations[].state'
  phalanx analyze --format html -o report.html trace.pcap
  phalanx analyze --format svg -o ladder.svg client.pcap server.pcap
  tcpdump -w - -i eth0 | phalanx analyze -

Exit codes: 0 done, 1 failed (a report is of the captures that could be read), 2 wrong usage, \
3 a capture is damaged (all before that counts).";

/// Conversations of a report for people, unless asked otherwise.
const TOP_DEFAULT: usize = 20;

/// The same for machines.
const TOP_DEFAULT_JSON: usize = 10_000;

/// How the report is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum ReportFormat {
    /// For people.
    #[default]
    Text,
    /// For machines; docs/report.schema.json describes it.
    Json,
    /// One page that needs no network.
    Html,
    /// The packets of one conversation at all hops as a picture: the worst, or --conversation.
    Svg,
}

/// When to use colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Colour {
    /// On a terminal, unless NO_COLOR is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// What `phalanx analyze` takes.
#[derive(Debug, clap::Args)]
pub struct AnalyzeArguments {
    /// Captures: pcap, pcapng or snoop, also gzip or zstd; `-` is the standard input. Each is a hop
    /// that is named after it
    #[arg(value_name = "FILE", required_unless_present = "hops")]
    files: Vec<PathBuf>,
    /// A capture with a name for its hop; repeat for several
    #[arg(long = "hop", value_name = "NAME=FILE", value_parser = parse_hop)]
    hops: Vec<Named>,
    /// How the report is written
    #[arg(long, value_enum, default_value_t)]
    format: ReportFormat,
    /// Where the report goes; the standard output without it
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// How many conversations, the worst ones [default: 20, with JSON 10000]
    #[arg(long, value_name = "COUNT")]
    top: Option<usize>,
    #[command(flatten)]
    selection: SelectionArguments,
    /// Show the packets of the worst conversations one by one, at all hops; the page always does
    #[arg(long)]
    ladder: bool,
    /// All captures were made by one clock, as on one host: their times are compared as they are
    #[arg(long)]
    shared_clock: bool,
    /// Threads [default: one for each processor]
    #[arg(long, value_name = "COUNT")]
    threads: Option<usize>,
    /// When to use colours
    #[arg(long, value_enum, default_value_t)]
    color: Colour,
}

/// A capture and the name of its hop.
#[derive(Clone, Debug)]
struct Named {
    name: String,
    path: PathBuf,
}

/// What was read for the report.
#[derive(Default)]
struct Reading {
    /// By the place of the file in [`ConversationReport::file`].
    files: Vec<(Request, String)>,
    report: Report,
    trails: Trails,
    is_damaged: bool,
    has_failed: bool,
}

pub(super) fn run(arguments: &AnalyzeArguments) -> anyhow::Result<ExitCode> {
    let files = name_files(&arguments.files, &arguments.hops);
    if arguments.selection.follow && files.len() > 1 {
        let error = "--follow takes one file; run it once for each";
        return Err(WrongUsage(error.to_owned()).into());
    }
    spare_inputs(arguments, &files)?;
    let mut reading = read(arguments, &files)?;
    let mut trails = std::mem::take(&mut reading.trails);
    if arguments.shared_clock {
        trails.clocks.fill(0);
    }
    let stitched = reading.report.join_hops(trails);
    if let Some(wanted) = &arguments.selection.conversation {
        reading.choose(wanted)?;
    }
    report::rank(&mut reading.report.conversations);
    if arguments.format == ReportFormat::Svg {
        reading.keep_shared()?;
    }
    reading.report.conversations.truncate(top(arguments));
    if arguments.format == ReportFormat::Html {
        reading.draw();
    }
    if let Some(stitched) = &stitched {
        warn_of_hops(stitched, &reading.report);
        let shown = ladders(arguments);
        let worst = reading.report.conversations.iter_mut().take(shown);
        for it in worst.filter(|it| it.is_shared()) {
            let place = it.across.as_ref().map(|across| across.place);
            it.ladder = place.map(|place| stitched.ladder(place, RUNG_COUNT_MAX));
        }
    }
    let totals = &mut reading.report.totals;
    let shown = reading.report.conversations.len() as u64;
    totals.omitted = totals.conversations.saturating_sub(shown);
    write(arguments, &reading.report)?;
    Ok(ExitCode::from(if reading.has_failed {
        EXIT_FAILURE
    } else if reading.is_damaged {
        EXIT_DAMAGED
    } else {
        0
    }))
}

/// Of how many conversations the packets are shown one by one, the worst ones.
const fn ladders(arguments: &AnalyzeArguments) -> usize {
    match (arguments.format, arguments.ladder) {
        (ReportFormat::Html, _) => PLOT_COUNT_MAX,
        (ReportFormat::Svg, _) => 1,
        (_, true) => LADDER_COUNT_MAX,
        (_, false) => 0,
    }
}

/// Says what is odd about the captures as hops of one path.
fn warn_of_hops(stitched: &Stitched, report: &Report) {
    let name = |hop: u32| {
        let found = report.hops.get(hop as usize);
        found.map_or(String::new(), |it| plain(&it.id))
    };
    for (first, second) in &stitched.twins {
        let (first, second) = (name(*first), name(*second));
        say(&format!(
            "phalanx: {first} and {second} saw the same packets at the same times; is it one \
             capture, given twice?"
        ));
    }
    let joined = |hop: u32| {
        let mut flows = stitched
            .conversations
            .iter()
            .filter(|it| it.flows.len() > 1);
        flows.any(|it| {
            it.flows
                .iter()
                .any(|flow| stitched.trails[*flow].hop == hop)
        })
    };
    for hop in (0..report.hops.len() as u32).filter(|hop| !joined(*hop)) {
        let name = name(hop);
        say(&format!(
            "phalanx: no conversation of {name} was seen at another hop; are the captures of the \
             same time and traffic?"
        ));
    }
    match stitched.ambiguous_count {
        0 => {}
        count => say(&format!(
            "phalanx: {count} pairs of flows look alike and were not joined; {} things that tell \
             flows apart are those of too many",
            stitched.crowded_key_count
        )),
    }
}

/// Refuses to write the report over a capture that it is made from.
fn spare_inputs(arguments: &AnalyzeArguments, files: &[Named]) -> anyhow::Result<()> {
    let Some(output) = &arguments.output else {
        return Ok(());
    };
    let identity = |path: &Path| {
        let path = match path.as_os_str() == "-" {
            true => Path::new("/dev/stdin"),
            false => path,
        };
        // What is no file, as a terminal, may be read and written.
        let metadata = std::fs::metadata(path).ok().filter(Metadata::is_file)?;
        Some((metadata.dev(), metadata.ino()))
    };
    let Some(taken) = identity(output) else {
        return Ok(());
    };
    if files.iter().any(|it| identity(&it.path) == Some(taken)) {
        let output = output.display();
        let error = format!("--output {output} is a capture to be read; name another file");
        return Err(WrongUsage(error).into());
    }
    Ok(())
}

/// Reads all files that can be read.
fn read(arguments: &AnalyzeArguments, files: &[Named]) -> anyhow::Result<Reading> {
    let stop = arguments.selection.stop()?;
    let mut reading = Reading::default();
    let budget = Arc::default();
    let (mut refusals, mut is_filtered) = (Vec::new(), false);
    for file in files {
        let request = Request {
            is_one_of_several: files.len() > 1,
            trail_budget: Arc::clone(&budget),
            ..request(arguments, file, &stop)?
        };
        match analyze(&request, &stop) {
            Ok(outcome) => {
                reading.is_damaged |=
                    warn(&file.path, outcome.error.as_ref(), outcome.damage.as_ref());
                warn_of_refusals(&file.path, &outcome.refusals);
                warn_of_evicted(&file.path, outcome.evicted_count);
                match outcome.refusals.are_all {
                    true => refusals.extend(outcome.refusals.list.first().cloned()),
                    false => is_filtered = true,
                }
                reading.add(file, outcome, files.len() == 1);
                reading.files.push((request, file.name.clone()));
            }
            Err(error) if files.len() == 1 => return Err(error),
            Err(error) => {
                complain(&error);
                reading.has_failed = true;
            }
        }
    }
    if reading.files.is_empty() {
        bail!("none of the captures could be read");
    }
    match refusals.first() {
        Some(refusal) if !is_filtered => return Err(refused(refusal)),
        _ => {}
    }
    Ok(reading)
}

impl Reading {
    /// Adds what one file came to.
    fn add(&mut self, file: &Named, outcome: Outcome, is_only: bool) {
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
        let first = report.hops.iter().filter_map(|hop| hop.first_ns).min();
        let last = report.hops.iter().filter_map(|hop| hop.last_ns).max();
        if let (Some(first), Some(last)) = (first, last) {
            report.totals.duration_ns = last.saturating_sub(first);
        }
    }

    /// Leaves only the conversations of a name: `HOP/tcp-17`, or `tcp-17` of any hop.
    fn choose(&mut self, wanted: &ConversationName) -> anyhow::Result<()> {
        let (hop, bare) = wanted.parts();
        let files = &self.files;
        let names: Vec<String> = self.report.hops.iter().map(|it| it.id.clone()).collect();
        let is_wanted = |it: &ConversationReport| {
            let file = files.get(it.file).map(|(_, name)| name.as_str());
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
    fn keep_shared(&mut self) -> anyhow::Result<()> {
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
    fn draw(&mut self) {
        let conversations = &mut self.report.conversations;
        for (file, (request, _)) in self.files.iter().enumerate() {
            let drawn = conversations.iter_mut().take(PLOT_COUNT_MAX);
            let mut drawn: Vec<_> = drawn.filter(|it| it.file == file).collect();
            if drawn.is_empty() {
                continue;
            }
            let flow = |it: &ConversationReport| (it.story.hop, it.story.flow);
            let flows: Vec<_> = drawn.iter().map(|it| flow(it)).collect();
            match analysis::plots(&again(request), flows) {
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

fn top(arguments: &AnalyzeArguments) -> usize {
    arguments.top.unwrap_or(match arguments.format {
        ReportFormat::Json => TOP_DEFAULT_JSON,
        ReportFormat::Text | ReportFormat::Html | ReportFormat::Svg => TOP_DEFAULT,
    })
}

fn name_files(files: &[PathBuf], hops: &[Named]) -> Vec<Named> {
    let mut named: Vec<Named> = Vec::new();
    for path in files {
        named.push(Named {
            name: hop_name(path).to_owned(),
            path: path.clone(),
        });
    }
    named.extend(hops.iter().cloned());
    // The first of a name keeps it; behind a later one stands a number, the first that is free.
    let mut taken: BTreeSet<String> = BTreeSet::new();
    for (index, it) in named.iter_mut().enumerate() {
        let name = &it.name;
        let numbered = (index + 1..).map(|number| format!("{name}#{number}"));
        let free = std::iter::once(name.clone())
            .chain(numbered)
            .find(|name| !taken.contains(name));
        // Some number is always free.
        if let Some(free) = free {
            taken.insert(free.clone());
            it.name = free;
        }
    }
    named
}

fn parse_hop(text: &str) -> Result<Named, &'static str> {
    let (name, path) = text
        .split_once('=')
        .filter(|(name, _)| !name.is_empty())
        .ok_or("want NAME=FILE")?;
    Ok(Named {
        name: name.to_owned(),
        path: path.into(),
    })
}

fn request(
    arguments: &AnalyzeArguments,
    file: &Named,
    stop: &Arc<AtomicBool>,
) -> anyhow::Result<Request> {
    let is_read_twice = arguments.format == ReportFormat::Html;
    let copy = is_read_twice && spool::is_needed(&file.path);
    Ok(Request {
        threads: threads(arguments),
        story_count_max: top(arguments).max(1),
        copy: copy.then(spool::create).transpose()?,
        ..arguments.selection.request(&file.path, stop)
    })
}

fn threads(arguments: &AnalyzeArguments) -> usize {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    arguments.threads.unwrap_or(threads).clamp(1, 64)
}

fn analyze(request: &Request, stop: &AtomicBool) -> anyhow::Result<Outcome> {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    let style = "{bar:30} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";
    bar.set_style(ProgressStyle::with_template(style)?);
    let begun = std::time::Instant::now();
    let progress = |read: u64, size: Option<u64>| {
        // Work that takes less than a second needs no bar.
        if begun.elapsed() > Duration::from_secs(1) {
            if let Some(size) = size {
                bar.set_length(size);
            }
            bar.set_position(read);
        }
    };
    let outcome = analysis::analyze(request, stop, &progress);
    bar.finish_and_clear();
    Ok(outcome?)
}

fn write(arguments: &AnalyzeArguments, report: &Report) -> anyhow::Result<()> {
    let stdout = std::io::stdout();
    let is_terminal = arguments.output.is_none() && stdout.is_terminal();
    let output: Box<dyn Write> = match &arguments.output {
        Some(path) => {
            let file = File::create(path);
            Box::new(file.with_context(|| format!("create {}", path.display()))?)
        }
        None => Box::new(stdout.lock()),
    };
    let mut output = BufWriter::with_capacity(1 << 16, output);
    let written = match arguments.format {
        ReportFormat::Json => {
            report::json::write_by_threads(report, threads(arguments), &mut output)
        }
        ReportFormat::Html => report::html::write(report, &mut output),
        ReportFormat::Svg => match report.conversations.first() {
            Some(worst) => report::svg::write(report, worst, &mut output),
            // Some are left, or it ends earlier.
            None => Ok(()),
        },
        ReportFormat::Text => {
            let options = TextOptions {
                colours: match arguments.color {
                    Colour::Always => true,
                    Colour::Never => false,
                    Colour::Auto => is_terminal && std::env::var_os("NO_COLOR").is_none(),
                },
                width: width(is_terminal),
                ..TextOptions::default()
            };
            report::text::write(report, &options, &mut output)
        }
    };
    match written.and_then(|()| output.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Err(ReaderGone.into()),
        written => written.context("write the report"),
    }
}

fn width(is_terminal: bool) -> usize {
    let asked = std::env::var("COLUMNS").ok().and_then(|it| it.parse().ok());
    let terminal = || terminal_size::terminal_size().map(|(width, _)| width.0.into());
    match is_terminal {
        true => asked.or_else(terminal).unwrap_or(120),
        false => asked.unwrap_or(160),
    }
}
