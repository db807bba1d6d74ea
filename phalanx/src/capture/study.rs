//! What capture files come to: one merged file, or a report, made by `phalanx analyze` in a process
//! of its own. Packets are hostile and the work may take much memory: neither is to harm a daemon.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::process::Command;
use tokio::sync::Semaphore;

use crate::plain::plain;

/// Longest time that a study may take; 1.4 million packets of two hosts take some 15 s.
const STUDY_TIMEOUT: Duration = Duration::from_secs(300);
/// Conversations of a report, the worst ones: some 10 KB each.
const CONVERSATION_COUNT_MAX: usize = 1_000;
/// Characters that are told of what the process says of itself.
const COMPLAINT_LENGTH_MAX: usize = 400;
/// Exit codes that come with a result: all is well, or a capture is damaged further on.
const USEFUL_CODES: [i32; 2] = [0, 3];

/// One file that is studied.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    /// What its hop is called.
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    /// Sources of the same clock name it alike.
    pub(crate) clock: Option<String>,
}

/// How a report is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Json,
    Svg,
    Html,
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

/// Studies captures, one at a time.
#[derive(Debug)]
pub(crate) struct Study {
    /// Where a report lies while it is sent.
    directory: PathBuf,
    place: Semaphore,
}

impl Study {
    pub(crate) fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            place: Semaphore::new(1),
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
    ) -> anyhow::Result<File> {
        let mut arguments: Vec<OsString> = arguments(sources);
        arguments
            .extend(["--format", shape.name(), "--ladder", "--color", "never"].map(Into::into));
        arguments.push(format!("--top={CONVERSATION_COUNT_MAX}").into());
        arguments.extend(conversation.map(|it| format!("--conversation={it}").into()));
        let mut report = nameless(&self.directory).context("make a file for the report")?;
        let copy = report.try_clone().context("make a file for the report")?;
        let studied = self.run(&arguments, copy.into()).await;
        // Where some of the files cannot be read, it is of the others.
        if report.metadata().is_ok_and(|report| report.len() == 0) {
            studied?;
        }
        report.seek(SeekFrom::Start(0)).context("read the report")?;
        Ok(report)
    }

    /// Writes the packets of all captures into one file, on one clock.
    ///
    /// # Errors
    /// Not all can be read, the file cannot be written, or it takes too long.
    pub(crate) async fn merge(&self, sources: &[Source], output: &Path) -> anyhow::Result<()> {
        let mut arguments: Vec<OsString> = arguments(sources);
        arguments.extend(["--top=1".into(), "--merge".into(), output.into()]);
        self.run(&arguments, Stdio::null()).await
    }

    async fn run(&self, arguments: &[OsString], output: Stdio) -> anyhow::Result<()> {
        let _place = self.place.acquire().await.context("the daemon is ending")?;
        let program = std::env::current_exe().context("find the program")?;
        let mut command = std::process::Command::new(program);
        // By its own name: the path may be one of a file that is gone.
        command.arg0("phalanx").arg("analyze").args(arguments);
        command.env_clear();
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
            return Ok(());
        }
        let told = String::from_utf8_lossy(&stderr);
        let lines: Vec<String> = told.lines().map(plain).collect();
        // Where the daemon keeps its files is nobody's business.
        let told = lines
            .join("; ")
            .replace(&format!("{}/", self.directory.display()), "");
        let told: String = told.chars().take(COMPLAINT_LENGTH_MAX).collect();
        bail!("{status}: {told}");
    }
}

/// The files and their clocks, as `phalanx analyze` takes them.
fn arguments(sources: &[Source]) -> Vec<OsString> {
    let mut arguments = Vec::new();
    for source in sources {
        let mut argument = OsString::from(format!("--hop={}=", hop_name(&source.name)));
        argument.push(&source.path);
        arguments.push(argument);
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
        };
        let sources = [
            source("web", Some("1")),
            source("a=b,c", Some("1")),
            source("db", Some("2")),
            source("edge", None),
        ];
        let told: Vec<_> = arguments(&sources)
            .into_iter()
            .map(|it| it.into_string().unwrap())
            .collect();
        assert_eq!(
            told,
            [
                "--hop=web=/x/web.pcapng",
                "--hop=a_b_c=/x/a=b,c.pcapng",
                "--hop=db=/x/db.pcapng",
                "--hop=edge=/x/edge.pcapng",
                "--same-clock=web,a_b_c",
            ]
        );
    }
}
