//! `phalanx capture`: a capture through the API, into a file or a pipe.

use std::fs::File;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use http_body_util::BodyExt;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::say;
use crate::api::client::{Address, Client};
use crate::capture::{CaptureRequest, CaptureState, CaptureView, DURATION_MAX_S};
use crate::lookback::Covered;
use crate::plain::plain;

/// Exit code of a capture of which something is missing.
const EXIT_PARTIAL: u8 = 3;

/// How often the progress is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// Flags of `phalanx capture`, and the filter.
#[derive(Args, Clone, Debug)]
pub struct CaptureArguments {
    /// Which packets, as for tcpdump; all where absent.
    #[arg(value_name = "FILTER", allow_negative_numbers = true)]
    filter: Vec<String>,
    /// File to write; `-`: the standard output, packets as they come.
    #[arg(short = 'w', long = "write", value_name = "FILE")]
    write: PathBuf,
    /// Interface; repeats [default: all that are watched].
    #[arg(short, long = "interface", value_name = "NAME")]
    interface: Vec<String>,
    /// Hops, as HOST or HOST:INTERFACE: with a hub, hosts of several agents.
    #[arg(
        long,
        value_name = "HOP,…",
        value_delimiter = ',',
        conflicts_with = "interface"
    )]
    hops: Option<Vec<String>>,
    /// The packets of one conversation, by its id, at all hops that saw it.
    #[arg(long, value_name = "ID", conflicts_with_all = ["interface", "hops"])]
    path_of: Option<String>,
    /// How long, such as 30s or 5m.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_duration)]
    duration: u32,
    /// Begin with what was kept of so long before, such as 30s.
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    lookback: Option<u32>,
    /// Bytes of each packet; 0: headers only. More takes the role admin.
    #[arg(short, long, value_name = "BYTES", default_value_t = 0)]
    snaplen: u32,
    /// Bytes of each packet's payload that are overwritten; repeats.
    #[arg(long, value_name = "START..END", requires = "snaplen")]
    mask: Vec<String>,
    /// Packets at most.
    #[arg(
        short = 'c',
        long = "count",
        value_name = "COUNT",
        default_value_t = 1_000_000
    )]
    count: u64,
    /// Bytes of the file at most; with a hub, of each host [default: 100 MB].
    #[arg(long, value_name = "BYTES")]
    max_bytes: Option<u64>,
    /// Bytes of all hosts together at most, with a hub [default: 100 MB a host].
    #[arg(long, value_name = "BYTES")]
    max_total_bytes: Option<u64>,
    /// Write it with stand-ins for addresses and without payload, to be handed on; once it has
    /// ended.
    #[arg(long)]
    redact: bool,
    /// Where a report of the capture goes: what its conversations lost and how they were delayed
    /// between the hops, and their packets one by one. The name ends with .json, .svg, .html or
    /// .txt.
    #[arg(long, value_name = "FILE", value_parser = parse_report)]
    report: Option<Report>,
    #[command(flatten)]
    address: Address,
}

/// Where a report goes, and how it is written.
#[derive(Clone, Debug)]
struct Report {
    path: PathBuf,
    format: &'static str,
}

fn parse_report(text: &str) -> Result<Report, &'static str> {
    let path = PathBuf::from(text);
    let extension = path.extension().and_then(|it| it.to_str());
    let format = match extension {
        Some("json") => "json",
        Some("svg") => "svg",
        Some("html" | "htm") => "html",
        Some("txt") => "text",
        _ => return Err("want a name that ends with .json, .svg, .html or .txt"),
    };
    Ok(Report { path, format })
}

impl CaptureArguments {
    /// The filter, whether it was typed as one word or as many.
    pub(super) fn expression(&self) -> String {
        self.filter.join(" ")
    }
}

/// Runs the command.
///
/// # Errors
/// The API refuses or cannot be reached, or the file cannot be written.
pub(super) fn run(arguments: &CaptureArguments) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let view = runtime.block_on(capture(arguments))?;
    report(&view);
    if let Some(wanted) = &arguments.report {
        runtime.block_on(fetch_report(arguments, &view, wanted))?;
    }
    Ok(match view.state {
        CaptureState::Complete => ExitCode::SUCCESS,
        CaptureState::Partial | CaptureState::Running => ExitCode::from(EXIT_PARTIAL),
    })
}

async fn capture(arguments: &CaptureArguments) -> anyhow::Result<CaptureView> {
    let client = Client::new(&arguments.address)?;
    let output = Output::open(&arguments.write)?;
    let request = CaptureRequest {
        filter: arguments.expression(),
        interfaces: (!arguments.interface.is_empty()).then(|| arguments.interface.clone()),
        duration: arguments.duration,
        lookback: arguments.lookback,
        snaplen: arguments.snaplen,
        mask: (!arguments.mask.is_empty()).then(|| arguments.mask.clone()),
        max_packets: arguments.count,
        max_bytes: arguments.max_bytes,
        max_total_bytes: arguments.max_total_bytes,
        hops: arguments.hops.clone(),
        path_of: arguments.path_of.clone(),
    };
    let view: CaptureView = match client.post("/api/v1/captures", &request).await {
        Ok(view) => view,
        Err(error) => {
            output.give_back();
            return Err(error);
        }
    };
    let mut output = output.begin()?;
    say(&format!(
        "capture {} on {}: {}",
        plain(&view.id),
        plain(&view.interfaces.join(", ")),
        plain(&view.plan.explanation)
    ));
    let path = format!("/api/v1/captures/{}", view.id);
    let bar = progress_bar(&view);
    let file = format!("{}?follow=true", view.file);
    // What is redacted comes in one piece, at the end.
    let mut nothing = std::io::sink();
    let target: &mut dyn Write = match arguments.redact {
        true => &mut nothing,
        false => &mut output,
    };
    let copied = tokio::select! {
        copied = copy(&client, &file, target) => copied,
        () = show_progress(&client, &path, &bar) => Ok(()),
    };
    bar.finish_and_clear();
    // Also after an error here: nothing shall record for somebody who has gone.
    let stopped: anyhow::Result<CaptureView> = client.post(&format!("{path}/stop"), &()).await;
    copied?;
    let view = stopped?;
    if arguments.redact {
        let file = format!("{}?redact=addresses", view.file);
        copy(&client, &file, &mut output).await?;
    }
    Ok(view)
}

/// Writes the report that the API makes of a capture.
async fn fetch_report(
    arguments: &CaptureArguments,
    view: &CaptureView,
    wanted: &Report,
) -> anyhow::Result<()> {
    let client = Client::new(&arguments.address)?;
    let path = format!(
        "/api/v1/captures/{}/report?format={}",
        view.id, wanted.format
    );
    let mut body = client.stream(&path).await.context("get the report")?;
    let write = || format!("write {}", wanted.path.display());
    let mut file = File::create(&wanted.path).with_context(write)?;
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.context("read the report")?.into_data() {
            file.write_all(&data).with_context(write)?;
        }
    }
    Ok(())
}

/// Where the capture goes: opened before anything is asked for, and replaced only when the capture
/// has begun.
enum Output {
    /// The standard output.
    Pipe,
    File {
        path: PathBuf,
        file: File,
        is_new: bool,
    },
}

impl Output {
    fn open(path: &Path) -> anyhow::Result<Self> {
        if path == Path::new("-") {
            if std::io::stdout().is_terminal() {
                bail!(
                    "pcapng is not for terminals: pipe it, as in \
                     phalanx capture -w - | wireshark -k -i -"
                );
            }
            return Ok(Self::Pipe);
        }
        let is_new = !path.exists();
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .with_context(|| format!("write {}", path.display()))?;
        Ok(Self::File {
            path: path.to_owned(),
            file,
            is_new,
        })
    }

    /// Leaves what was there as it was.
    fn give_back(self) {
        if let Self::File {
            path, is_new: true, ..
        } = self
        {
            // Fails only where somebody else was faster.
            let _ = std::fs::remove_file(path);
        }
    }

    fn begin(self) -> anyhow::Result<Box<dyn Write>> {
        match self {
            Self::Pipe => Ok(Box::new(std::io::stdout().lock())),
            Self::File { path, file, .. } => {
                // A pipe or a device has no length.
                if file.metadata().is_ok_and(|metadata| metadata.is_file()) {
                    file.set_len(0)
                        .with_context(|| format!("write {}", path.display()))?;
                }
                Ok(Box::new(file))
            }
        }
    }
}

/// Copies the file as it grows, until the capture has ended. The first interrupt stops the capture,
/// and what is left of it still comes; the second breaks off.
async fn copy(client: &Client, path: &str, output: &mut dyn Write) -> anyhow::Result<()> {
    let mut body = client.stream(path).await?;
    let stop = path.split("/file").next().unwrap_or(path).to_owned() + "/stop";
    let mut is_stopping = false;
    loop {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            interrupt = tokio::signal::ctrl_c() => {
                interrupt.context("wait for an interrupt")?;
                if is_stopping {
                    bail!("interrupted twice: the file is cut off");
                }
                is_stopping = true;
                let client = client.clone();
                let stop = stop.clone();
                tokio::spawn(async move { client.post::<CaptureView>(&stop, &()).await });
                continue;
            }
        };
        let Some(frame) = frame else { return Ok(()) };
        let Ok(data) = frame.context("read the capture")?.into_data() else {
            continue;
        };
        match output.write_all(&data).and_then(|()| output.flush()) {
            Ok(()) => {}
            // The reader of the pipe has seen enough.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
            Err(error) => return Err(error).context("write the capture"),
        }
    }
}

fn progress_bar(view: &CaptureView) -> ProgressBar {
    let seconds = u64::from(view.request.duration);
    let style = "{spinner} {elapsed} of {len}s {bar:30} {msg}";
    let bar = ProgressBar::with_draw_target(Some(seconds), ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template(style) {
        bar.set_style(style);
    }
    bar
}

/// Shows how far the capture is; never ends by itself.
async fn show_progress(client: &Client, path: &str, bar: &ProgressBar) {
    loop {
        if let Ok(view) = client.get::<CaptureView>(path).await {
            bar.set_position(
                bar.elapsed()
                    .as_secs()
                    .min(u64::from(view.request.duration)),
            );
            bar.set_message(format!("{} packets, {} bytes", view.packets, view.bytes));
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

fn report(view: &CaptureView) {
    say(&format!(
        "{} packets, {} bytes; {} left out by the rest of the filter",
        view.packets, view.bytes, view.filtered_out
    ));
    if let Some(lookback) = &view.lookback {
        say(&describe_past(lookback));
    }
    for host in &view.hosts {
        say(&format!(
            "  {} {} packets, {} bytes",
            plain(&host.host),
            host.packets,
            host.bytes
        ));
        if let Some(lookback) = &host.lookback {
            say(&describe_past(lookback));
        }
    }
    for loss in &view.losses {
        say(&format!(
            "missing: {} ({} packets)",
            plain(&loss.detail),
            loss.packets
        ));
    }
}

/// What a capture holds of the time before it.
fn describe_past(covered: &Covered) -> String {
    let filter = covered
        .filter
        .as_deref()
        .map(|it| format!(" ({})", plain(it)));
    let mut text = format!(
        "{} packets of before the request: {}{}",
        covered.packets,
        plain(&covered.flows),
        filter.unwrap_or_default()
    );
    for hop in &covered.hops {
        let least = hop.spans.iter().map(|span| span.flows_per_65536).min();
        let part = match least {
            Some(least) if least < 65_536 => {
                format!(", at least {:.1}% of flows", f64::from(least) / 655.36)
            }
            _ => String::new(),
        };
        text += &format!(
            "\n  {} {} packets from {} to {}{part}",
            plain(&hop.interface),
            hop.packets,
            plain(&hop.from),
            plain(&hop.until)
        );
    }
    text
}

/// A time in seconds, with its unit: `30`, `30s`, `5m`, `1h`.
fn parse_duration(text: &str) -> Result<u32, String> {
    let bad = || format!("{text:?} is no time: write 30s, 5m or 1h, at most {DURATION_MAX_S}s");
    let (number, unit) = match text.find(|letter: char| !letter.is_ascii_digit()) {
        Some(end) => text.split_at(end),
        None => (text, "s"),
    };
    let factor = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        _ => return Err(bad()),
    };
    let seconds = number
        .parse::<u32>()
        .ok()
        .and_then(|number| number.checked_mul(factor));
    seconds
        .filter(|seconds| (1..=DURATION_MAX_S).contains(seconds))
        .ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_only_when_the_capture_has_begun() {
        let directory = std::env::temp_dir().join(format!("phalanx-output-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let (old, new) = (directory.join("old"), directory.join("new"));
        std::fs::write(&old, "kept").unwrap();
        Output::open(&old).unwrap().give_back();
        Output::open(&new).unwrap().give_back();
        assert_eq!(std::fs::read_to_string(&old).unwrap(), "kept");
        assert!(!new.exists());
        let mut output = Output::open(&old).unwrap().begin().unwrap();
        output.write_all(b"x").unwrap();
        assert_eq!(std::fs::read_to_string(&old).unwrap(), "x");
        assert!(Output::open(&directory.join("no/where")).is_err());
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn times_have_units_and_bounds() {
        for (text, seconds) in [("30", 30), ("30s", 30), ("5m", 300), ("1h", 3_600)] {
            assert_eq!(parse_duration(text), Ok(seconds));
        }
        for bad in ["", "s", "0s", "2h", "5 m", "-1s", "99999999999s", "1d"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}
