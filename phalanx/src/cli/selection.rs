//! What counts of a capture: the arguments that `phalanx analyze` and `phalanx packets` share, the
//! request made from them, and the words for a capture that could not be read to its end.

use std::error::Error as _;
use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, anyhow};
use nix::sys::signal::{SigSet, Signal};
use phalanx_engine::filter::Filter;
use tokio::signal::unix::{SignalKind, signal};

use super::{WrongUsage, say};
use crate::analysis::{Refusal, Refusals, Request};
use crate::capture_file::{Follow, ReadError, link_type_name};
use crate::plain::plain;

/// Exit code where a capture was damaged and all before the damage counts.
pub(super) const EXIT_DAMAGED: u8 = 3;

/// Exit code of what a second interrupt ended, as shells have it: 128 and the signal.
const EXIT_INTERRUPTED: i32 = 130;

/// How long to wait at the end of a file before looking for more.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(100);

const NANOSECOND_DIGITS: usize = 9;

/// What counts of a capture.
#[derive(Debug, clap::Args)]
pub(super) struct SelectionArguments {
    /// Only these frames, in the language of captures (docs/filter.md)
    #[arg(long, value_name = "EXPRESSION", value_parser = Filter::parse)]
    filter: Option<Filter>,
    /// Only this conversation, as a report names it
    #[arg(long, value_name = "ID", value_parser = parse_conversation)]
    pub(super) conversation: Option<ConversationName>,
    /// Only frames from this time on: 2026-01-31T12:00:00Z, or seconds since 1970
    #[arg(long, value_name = "TIME", value_parser = parse_time, allow_negative_numbers = true)]
    since: Option<i64>,
    /// Only frames up to this time
    #[arg(long, value_name = "TIME", value_parser = parse_time, allow_negative_numbers = true)]
    until: Option<i64>,
    /// Wait for more at the end of the file, until interrupted; takes one file. A second interrupt
    /// ends the program at once
    #[arg(long)]
    pub(super) follow: bool,
}

impl SelectionArguments {
    /// All that counts of a capture, until `stop` is set where it is followed.
    pub(super) fn request(&self, path: &Path, stop: &Arc<AtomicBool>) -> Request {
        Request {
            filter: self.filter.clone(),
            since_ns: self.since,
            until_ns: self.until,
            flow: self.conversation.as_ref().map(|name| name.flow),
            follow: self.follow.then(|| Follow {
                interval: FOLLOW_INTERVAL,
                stop: Arc::clone(stop),
            }),
            ..Request::new(path)
        }
    }

    /// What ends the reading: set by an interrupt where files are followed, else never.
    pub(super) fn stop(&self) -> anyhow::Result<Arc<AtomicBool>> {
        let stop = Arc::new(AtomicBool::new(false));
        if self.follow {
            stop_at_interrupt(&stop).context("start to wait for interrupts")?;
        }
        Ok(stop)
    }
}

/// From here on an interrupt sets `stop` and does nothing else; a second one ends the program.
fn stop_at_interrupt(stop: &Arc<AtomicBool>) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    // One that comes while the handler is put in place would be lost: it waits.
    let interrupts = SigSet::from(Signal::SIGINT);
    interrupts.thread_block()?;
    let interrupt = {
        let _entered = runtime.enter();
        signal(SignalKind::interrupt())
    };
    interrupts.thread_unblock()?;
    let mut interrupt = interrupt?;
    let stop = Arc::clone(stop);
    std::thread::spawn(move || {
        if runtime.block_on(interrupt.recv()).is_some() {
            stop.store(true, Ordering::Relaxed);
        }
        // Whoever does not want to wait for the report either.
        if runtime.block_on(interrupt.recv()).is_some() {
            std::process::exit(EXIT_INTERRUPTED);
        }
    });
    Ok(())
}

/// Says why a capture was not read to its end; whether it was not.
pub(super) fn warn(path: &Path, error: Option<&ReadError>, damage: Option<&impl Display>) -> bool {
    if let Some(error) = error {
        let told = match error.source() {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        };
        say(&format!("phalanx: {}; all before it counts", plain(&told)));
    }
    if let Some(damage) = damage {
        let told = format!("{}: {damage}", path.display());
        say(&format!("phalanx: {}; all before it counts", plain(&told)));
    }
    error.is_some() || damage.is_some()
}

/// Says what the filter could not be applied to.
pub(super) fn warn_of_refusals(path: &Path, refusals: &Refusals) {
    for refusal in refusals.list.iter().filter(|it| it.frame_count > 0) {
        let told = format!("{}: {}", path.display(), describe(refusal));
        let count = match refusal.frame_count {
            1 => "1 frame".to_owned(),
            count => format!("{count} frames"),
        };
        say(&format!("phalanx: {}: {count} left out", plain(&told)));
    }
}

/// Says that flows had to make room.
pub(super) fn warn_of_evicted(path: &Path, count: u64) {
    let flows = match count {
        0 => return,
        1 => "1 flow was".to_owned(),
        count => format!("{count} flows were"),
    };
    let told = plain(&path.display().to_string());
    say(&format!(
        "phalanx: {told}: {flows} ended early to make room for others and may come again as new \
         conversations; take fewer at once with --filter, --since or --until"
    ));
}

/// The error where the filter can be applied to no capture at all.
pub(super) fn refused(refusal: &Refusal) -> anyhow::Error {
    WrongUsage(format!(
        "{}: {}; without --filter all frames count, and `tcpdump -r FILE -w - EXPRESSION` may know \
         how to choose",
        describe(refusal),
        refusal.reason
    ))
    .into()
}

fn describe(refusal: &Refusal) -> String {
    let name = link_type_name(refusal.link_type);
    let name = match name {
        "unknown" | "private use" => refusal.link_type.to_string(),
        name => name.to_owned(),
    };
    format!("the filter cannot be applied to link type {name}")
}

/// The name of a conversation: `HOP/tcp-17` or `tcp-17`.
#[derive(Clone, Debug)]
pub(super) struct ConversationName {
    pub(super) text: String,
    /// Number of its first frame.
    pub(super) flow: u64,
}

impl ConversationName {
    /// The hop, where it is named, and `tcp-17`.
    pub(super) fn parts(&self) -> (Option<&str>, &str) {
        match self.text.rsplit_once('/') {
            Some((hop, bare)) => (Some(hop), bare),
            None => (None, &self.text),
        }
    }

    /// The error where there is no such conversation.
    pub(super) fn missing(&self) -> anyhow::Error {
        let text = &self.text;
        anyhow!("there is no conversation {text}; a report without --conversation names them")
    }
}

/// The name of a file's hop.
pub(super) fn hop_name(path: &Path) -> &str {
    let name = path.file_name().and_then(|it| it.to_str());
    match name.unwrap_or("capture") {
        "-" => "stdin",
        name => name
            .split('.')
            .next()
            .filter(|it| !it.is_empty())
            .unwrap_or(name),
    }
}

fn parse_conversation(text: &str) -> Result<ConversationName, String> {
    let number = text.rsplit('-').next().and_then(|it| it.parse().ok());
    Ok(ConversationName {
        text: text.to_owned(),
        flow: number.ok_or("want a name as in a report, like tcp-17")?,
    })
}

/// A time in nanoseconds since the epoch, exactly.
fn parse_time(text: &str) -> Result<i64, String> {
    let time_ns = match parse_seconds(text) {
        Some(time_ns) => time_ns,
        None => text
            .parse::<jiff::Timestamp>()
            .map_err(|error| format!("{error}; want 2026-01-31T12:00:00Z or seconds since 1970"))?
            .as_nanosecond(),
    };
    i64::try_from(time_ns).map_err(|_| "too far away".to_owned())
}

/// Decimal seconds in nanoseconds; what is less than one of them is cut off. `None` for any other
/// text.
fn parse_seconds(text: &str) -> Option<i128> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let are_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !are_digits(whole) || !are_digits(fraction) {
        return None;
    }
    let fraction = &fraction[..fraction.len().min(NANOSECOND_DIGITS)];
    let digits = format!("{whole}{fraction:0<NANOSECOND_DIGITS$}");
    // More digits than 128 bits hold are too far away as well.
    Some(
        digits
            .parse::<i128>()
            .map_or(i128::MAX, |time_ns| sign * time_ns),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_exact_to_the_nanosecond() {
        let cases = [
            ("1700000000.123456789", 1_700_000_000_123_456_789),
            ("1700000000", 1_700_000_000_000_000_000),
            ("1700000000.", 1_700_000_000_000_000_000),
            ("+0.5", 500_000_000),
            ("-1.000000001", -1_000_000_001),
            ("0.0000000019", 1),
            ("9223372036.854775807", i64::MAX),
            ("2023-11-14T22:13:20.123456789Z", 1_700_000_000_123_456_789),
        ];
        for (text, time_ns) in cases {
            assert_eq!(parse_time(text), Ok(time_ns), "{text}");
        }
        let far = "9".repeat(60);
        for text in ["9223372036.854775808", &far, "9999-01-01T00:00:00Z"] {
            assert_eq!(parse_time(text), Err("too far away".to_owned()), "{text}");
        }
        for text in ["", ".", "-", "1.2.3", "1,5", "inf", "NaN", "0x10", "soon"] {
            let error = parse_time(text).expect_err(text);
            assert!(error.contains("seconds since 1970"), "{text}: {error}");
        }
    }
}
