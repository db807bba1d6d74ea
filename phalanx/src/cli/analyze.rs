//! `phalanx analyze`: capture files to a report.

mod merging;
mod reading;
mod spool;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufWriter, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use phalanx_engine::stitch::Stitched;

use self::reading::Reading;
use super::selection::{
    EXIT_DAMAGED, SelectionArguments, hop_name, refused, warn, warn_of_evicted, warn_of_refusals,
};
use super::{EXIT_FAILURE, ReaderGone, WrongUsage, complain, say};
use crate::analysis::{self, Outcome, Request};
use crate::plain::plain;
use crate::report::limits::{LADDER_COUNT_MAX, PLOT_COUNT_MAX, RUNG_COUNT_MAX};
use crate::report::text::TextOptions;
use crate::report::{self, Report};

pub(super) const AFTER_HELP: &str = "\
Examples:
  phalanx analyze trace.pcapng
  phalanx analyze --filter 'tcp port 443' --top 5 trace.pcap.gz
  phalanx analyze --format json client.pcap server.pcap | jq '.conversations[].state'
  phalanx analyze --format html -o report.html trace.pcap
  phalanx analyze --format svg -o ladder.svg client.pcap server.pcap
  phalanx analyze --merge one-clock.pcapng client.pcap server.pcap
  tcpdump -w - -i eth0 | phalanx analyze -

Exit codes: 0 done, 1 failed (a report is of the captures that could be read), 2 wrong usage, \
3 a capture is damaged (all before that counts).";

/// Conversations of a report for people, unless asked otherwise.
const TOP_DEFAULT: usize = 20;

/// The same for machines.
const TOP_DEFAULT_JSON: usize = 10_000;

/// Memory of a confined study in bytes: two captures of 1.4 million packets take 450 MB; addresses
/// that are reserved and never used count as well.
const CONFINED_BYTES_MAX: u64 = 3 << 30;

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
    /// The captures of these hops were made by one clock; repeat for other clocks
    #[arg(long, value_name = "NAME,NAME", value_parser = parse_one_clock)]
    same_clock: Vec<OneClock>,
    /// Also writes the packets of all captures to one pcapng file, in the order of time by one
    /// clock; `-` is the standard output
    #[arg(long, value_name = "FILE", conflicts_with = "conversation")]
    merge: Option<PathBuf>,
    /// Threads [default: one for each processor]
    #[arg(long, value_name = "COUNT")]
    threads: Option<usize>,
    /// When to use colours
    #[arg(long, value_enum, default_value_t)]
    color: Colour,
    /// For a daemon that studies captures of others: files of so many bytes at most, bounded
    /// memory, and no longer than the daemon itself
    #[arg(long, value_name = "BYTES", hide = true)]
    confined: Option<u64>,
    /// A time in which nothing was recorded at a hop, in nanoseconds since 1970 of its clock
    #[arg(long, value_name = "NAME=FROM..UNTIL", value_parser = parse_gap, hide = true)]
    gap: Vec<Gap>,
    /// The host that a capture was taken on, whatever it says of that itself
    #[arg(long, value_name = "NAME=HOST", value_parser = parse_host, hide = true)]
    host: Vec<Host>,
}

/// The host that a file was taken on.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Host {
    name: String,
    host: String,
}

/// A time in which nothing was recorded at the hops of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Gap {
    name: String,
    from_ns: i64,
    until_ns: i64,
}

/// Names of hops that have one clock, at least two.
#[derive(Clone, Debug, PartialEq, Eq)]
struct OneClock(Vec<String>);

/// A capture and the name of its hop.
#[derive(Clone, Debug)]
struct Named {
    name: String,
    path: PathBuf,
}

pub(super) fn run(arguments: &AnalyzeArguments) -> anyhow::Result<ExitCode> {
    if let Some(file_bytes_max) = arguments.confined {
        confine(file_bytes_max)?;
    }
    let files = name_files(&arguments.files, &arguments.hops);
    if arguments.selection.follow && files.len() > 1 {
        let error = "--follow takes one file; run it once for each";
        return Err(WrongUsage(error.to_owned()).into());
    }
    merging::check_outputs(arguments, &files)?;
    let mut reading = read(arguments, &files)?;
    reading.share_clocks(&arguments.same_clock, &files)?;
    reading.note_gaps(&arguments.gap);
    reading.note_hosts(&arguments.host);
    let mut trails = std::mem::take(&mut reading.trails);
    if arguments.shared_clock {
        trails.clocks.fill(0);
    }
    let stitched = reading.report.join_hops(trails);
    if let Some(path) = &arguments.merge {
        reading.merge_into(path);
    }
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

/// Gives up what a study of hostile captures does not need.
fn confine(file_bytes_max: u64) -> anyhow::Result<()> {
    use nix::sys::prctl::set_pdeathsig;
    use nix::sys::resource::{Resource, setrlimit};
    use nix::sys::signal::Signal;
    set_pdeathsig(Signal::SIGKILL).context("end with the daemon")?;
    // Where memory is short, this goes first. Where that cannot be said, it may be the daemon.
    drop(std::fs::write("/proc/self/oom_score_adj", "1000"));
    setrlimit(Resource::RLIMIT_FSIZE, file_bytes_max, file_bytes_max)
        .and_then(|()| setrlimit(Resource::RLIMIT_AS, CONFINED_BYTES_MAX, CONFINED_BYTES_MAX))
        .context("limit files and memory")
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
                reading.add(request, file, outcome);
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

fn parse_gap(text: &str) -> Result<Gap, &'static str> {
    let parsed = || {
        let (name, times) = text.split_once('=')?;
        let (from, until) = times.split_once("..")?;
        Some(Gap {
            name: name.to_owned(),
            from_ns: from.parse().ok()?,
            until_ns: until.parse().ok()?,
        })
    };
    parsed()
        .filter(|it| it.from_ns < it.until_ns)
        .ok_or("want NAME=FROM..UNTIL")
}

fn parse_host(text: &str) -> Result<Host, &'static str> {
    let parts = text.split_once('=').filter(|(_, host)| !host.is_empty());
    let (name, host) = parts.ok_or("want NAME=HOST")?;
    Ok(Host {
        name: name.to_owned(),
        host: host.to_owned(),
    })
}

fn parse_one_clock(text: &str) -> Result<OneClock, &'static str> {
    let names: Vec<String> = text.split(',').map(str::to_owned).collect();
    let are_names = names.len() > 1 && names.iter().all(|name| !name.is_empty());
    are_names
        .then_some(OneClock(names))
        .ok_or("want the names of two hops or more, as NAME,NAME")
}

fn request(
    arguments: &AnalyzeArguments,
    file: &Named,
    stop: &Arc<AtomicBool>,
) -> anyhow::Result<Request> {
    let is_read_twice = arguments.format == ReportFormat::Html || arguments.merge.is_some();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_clock_has_two_hops_or_more() {
        let names = |text: &str| parse_one_clock(text).map(|it| it.0.join(" "));
        assert_eq!(names("a,b:eth0"), Ok("a b:eth0".to_owned()));
        assert_eq!(names("a,b,c"), Ok("a b c".to_owned()));
        for bad in ["", "a", "a,", ",b", "a,,b", ","] {
            assert!(parse_one_clock(bad).is_err(), "{bad}");
        }
    }
}
