//! What capture files come to: one merged file, or a report, made by `phalanx analyze` in a process
//! of its own. Packets are hostile and the work may take much memory: neither is to harm a daemon.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use serde::Deserialize;
use tokio::process::Command;
use tokio::sync::Semaphore;
use utoipa::ToSchema;

use crate::plain::plain;

/// Longest time that a study may take; 1.4 million packets of two hosts take some 15 s.
const STUDY_TIMEOUT: Duration = Duration::from_secs(300);
/// Reports that are asked for at once; each may take a while.
const WAITING_COUNT_MAX: usize = 4;
/// Largest report in bytes.
const REPORT_BYTES_MAX: u64 = 256 << 20;
/// What a merged file may take of its sources: a packet of 60 bytes takes some 100 in a file, and
/// its comment with a long name of a host as much again.
const MERGED_FACTOR: u64 = 2;
/// What it may take beyond: interfaces and their statistics.
const MERGED_SLACK: u64 = 1 << 20;
/// Conversations of a report, the worst ones: some 10 KB each.
const CONVERSATION_COUNT_MAX: usize = 1_000;
/// Characters that are told of what the process says of itself.
const COMPLAINT_LENGTH_MAX: usize = 400;
/// Exit codes that come with a result: all is well, or a capture is damaged further on.
const USEFUL_CODES: [i32; 2] = [0, 3];
/// Exit code where some of the captures could not be read; the result is of the others.
const SOME_CODE: i32 = 1;

/// One file that is studied.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    /// What its hop is called.
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    /// Sources of the same clock name it alike.
    pub(crate) clock: Option<String>,
    /// The host that it was taken on, where it is not to be believed in that.
    pub(crate) host: Option<String>,
    /// Times in which nothing was recorded, in nanoseconds since 1970 of its clock.
    pub(crate) gaps: Vec<(i64, i64)>,
}

/// How a report is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Shape {
    /// As `docs/report.schema.json` says, with ladders.
    #[default]
    Json,
    /// The ladder of one conversation as a picture.
    Svg,
    /// A page.
    Html,
    /// For a terminal.
    Text,
}

impl Shape {
    const fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Svg => "svg",
            Self::Html => "html",
            Self::Text => "text",
        }
    }
}

/// Studies captures: merges one at a time, and beside them reports one at a time.
#[derive(Debug)]
pub(crate) struct Study {
    /// Where a report lies while it is sent.
    directory: PathBuf,
    merging: Semaphore,
    reporting: Semaphore,
    /// Those who may wait for a report.
    waiting: Semaphore,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StudyError {
    /// Too many wait for one.
    #[error("{WAITING_COUNT_MAX} reports are asked for already")]
    Busy,
    /// It could not be made.
    #[error("{0:#}")]
    Failed(#[from] anyhow::Error),
}

impl Study {
    pub(crate) fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            merging: Semaphore::new(1),
            reporting: Semaphore::new(1),
            waiting: Semaphore::new(WAITING_COUNT_MAX),
        }
    }

    /// The report of captures, as a file without a name.
    ///
    /// # Errors
    /// They cannot be read, or it takes too long.
    pub(crate) async fn report(
        &self,
        sources: &[Source],
        shape: Shape,
        conversation: Option<&str>,
    ) -> Result<File, StudyError> {
        let _waiting = self.waiting.try_acquire().map_err(|_| StudyError::Busy)?;
        let place = self.reporting.acquire().await;
        let _place = place.context("the daemon is ending")?;
        let mut arguments: Vec<OsString> = self.arguments(sources);
        arguments
            .extend(["--format", shape.name(), "--ladder", "--color", "never"].map(Into::into));
        arguments.push(format!("--top={CONVERSATION_COUNT_MAX}").into());
        arguments.extend(conversation.map(|it| format!("--conversation={it}").into()));
        let mut report = nameless(&self.directory).context("make a file for the report")?;
        let copy = report.try_clone().context("make a file for the report")?;
        let missing = self.run(&arguments, copy.into(), REPORT_BYTES_MAX).await?;
        let is_empty = report.metadata().is_ok_and(|report| report.len() == 0);
        if let Some(missing) = missing.filter(|_| is_empty) {
            return Err(anyhow!(missing).into());
        }
        report.seek(SeekFrom::Start(0)).context("read the report")?;
        Ok(report)
    }

    /// Writes the packets of all captures into one file, on one clock.
    ///
    /// # Errors
    /// Not all can be read, the file cannot be written, or it takes too long.
    pub(crate) async fn merge(&self, sources: &[Source], output: &Path) -> anyhow::Result<()> {
        let _place = self
            .merging
            .acquire()
            .await
            .context("the daemon is ending")?;
        let mut arguments: Vec<OsString> = self.arguments(sources);
        let output_here = output.strip_prefix(&self.directory).unwrap_or(output);
        arguments.extend(["--top=1".into(), "--merge".into(), output_here.into()]);
        let sizes = sources
            .iter()
            .filter_map(|it| std::fs::metadata(&it.path).ok());
        let bytes: u64 = sizes.map(|file| file.len()).sum();
        let bytes_max = bytes.saturating_mul(MERGED_FACTOR) + MERGED_SLACK;
        match self.run(&arguments, Stdio::null(), bytes_max).await {
            Ok(None) => Ok(()),
            // It is of those that could be read.
            Ok(Some(missing)) => bail!(missing),
            Err(error) => {
                // What broke off is of no use, and may be large. That fails where it is not there.
                drop(
                    std::fs::File::options()
                        .write(true)
                        .truncate(true)
                        .open(output),
                );
                Err(error)
            }
        }
    }

    fn arguments(&self, sources: &[Source]) -> Vec<OsString> {
        arguments(sources, &self.directory)
    }

    /// Runs it; what it says of captures that could not be read.
    async fn run(
        &self,
        arguments: &[OsString],
        output: Stdio,
        file_bytes_max: u64,
    ) -> anyhow::Result<Option<String>> {
        // Also where another version has been put in its place.
        let mut command = std::process::Command::new("/proc/self/exe");
        command.arg0("phalanx").arg("analyze").args(arguments);
        command.arg(format!("--confined={file_bytes_max}"));
        command.env_clear().current_dir(&self.directory);
        command
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(Stdio::piped());
        let mut command = Command::from(command);
        let child = command.kill_on_drop(true).spawn();
        let child = child.context("start phalanx analyze")?;
        let ended = tokio::time::timeout(STUDY_TIMEOUT, child.wait_with_output()).await;
        let Ok(ended) = ended else {
            bail!("it took longer than {STUDY_TIMEOUT:?}");
        };
        let Output { status, stderr, .. } = ended.context("wait for phalanx analyze")?;
        if status
            .code()
            .is_some_and(|code| USEFUL_CODES.contains(&code))
        {
            return Ok(None);
        }
        let told = String::from_utf8_lossy(&stderr);
        let lines: Vec<String> = told.lines().map(plain).collect();
        let told = lines.join("; ");
        let told: String = told.chars().take(COMPLAINT_LENGTH_MAX).collect();
        match status.code() {
            Some(SOME_CODE) => Ok(Some(told)),
            _ => bail!("{status}: {told}"),
        }
    }
}

/// The files, below a directory, and their clocks, as `phalanx analyze` takes them. Where the
/// daemon keeps its files is nobody's business: it is run in that directory.
fn arguments(sources: &[Source], directory: &Path) -> Vec<OsString> {
    let mut arguments = Vec::new();
    for source in sources {
        let mut argument = OsString::from(format!("--hop={}=", hop_name(&source.name)));
        argument.push(source.path.strip_prefix(directory).unwrap_or(&source.path));
        arguments.push(argument);
        let gaps = source.gaps.iter().map(|(from_ns, until_ns)| {
            format!("--gap={}={from_ns}..{until_ns}", hop_name(&source.name)).into()
        });
        arguments.extend(gaps);
        let host = source.host.iter();
        arguments.extend(host.map(|it| format!("--host={}={it}", hop_name(&source.name)).into()));
    }
    let mut clocks: Vec<&str> = sources
        .iter()
        .filter_map(|it| it.clock.as_deref())
        .collect();
    clocks.sort_unstable();
    clocks.dedup();
    for clock in clocks {
        let same = sources
            .iter()
            .filter(|it| it.clock.as_deref() == Some(clock));
        let names: Vec<String> = same.map(|it| hop_name(&it.name)).collect();
        if names.len() > 1 {
            arguments.push(format!("--same-clock={}", names.join(",")).into());
        }
    }
    arguments
}

/// A name that says nothing to the shell of `phalanx analyze`.
fn hop_name(name: &str) -> String {
    name.replace(['=', ','], "_")
}

/// A file that is gone when it is closed.
fn nameless(directory: &Path) -> std::io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    File::options()
        .read(true)
        .write(true)
        .custom_flags(nix::libc::O_TMPFILE)
        .mode(0o600)
        .open(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_become_hops_and_those_of_one_host_share_its_clock() {
        let source = |name: &str, clock: Option<&str>| Source {
            name: name.to_owned(),
            path: format!("/x/{name}.pcapng").into(),
            clock: clock.map(str::to_owned),
            host: (name == "db").then(|| "db-1".to_owned()),
            gaps: Vec::from_iter((name == "db").then_some((-1, 2))),
        };
        let sources = [
            source("web", Some("1")),
            source("a=b,c", Some("1")),
            source("db", Some("2")),
            source("edge", None),
        ];
        let told: Vec<_> = arguments(&sources, Path::new("/x"))
            .into_iter()
            .map(|it| it.into_string().unwrap())
            .collect();
        assert_eq!(
            told,
            [
                "--hop=web=web.pcapng",
                "--hop=a_b_c=a=b,c.pcapng",
                "--hop=db=db.pcapng",
                "--gap=db=-1..2",
                "--host=db=db-1",
                "--hop=edge=edge.pcapng",
                "--same-clock=web,a_b_c",
            ]
        );
    }
}
