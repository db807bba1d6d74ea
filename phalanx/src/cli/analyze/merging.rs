//! `--merge`: where the merged capture goes, and what is said of it.

use std::fs::{File, Metadata};
use std::io::{self, BufWriter, IsTerminal, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::super::selection::warn;
use super::super::{WrongUsage, complain, say};
use super::reading::Reading;
use super::{AnalyzeArguments, Named};
use crate::analysis::{MergeError, MergeTally};
use crate::pcapng::WriteError;
use crate::plain::plain;

/// Refuses to write the report or the merged capture over a capture that it is made from, over each
/// other, or to a terminal that cannot show it.
pub(super) fn check_outputs(arguments: &AnalyzeArguments, files: &[Named]) -> anyhow::Result<()> {
    let outputs = [
        ("--output", arguments.output.as_deref()),
        ("--merge", arguments.merge.as_deref()),
    ];
    for (flag, path) in outputs {
        let Some(path) = path else { continue };
        let is_stdout = flag == "--merge" && path.as_os_str() == "-";
        let standard = Path::new("/dev/stdout");
        let Some(taken) = identity(if is_stdout { standard } else { path }) else {
            continue;
        };
        if files
            .iter()
            .any(|it| identity(input(&it.path)) == Some(taken))
        {
            let path = path.display();
            let error = format!("{flag} {path} is a capture to be read; name another file");
            return Err(WrongUsage(error).into());
        }
    }
    let Some(merge) = &arguments.merge else {
        return Ok(());
    };
    let error = match &arguments.output {
        None if merge.as_os_str() == "-" => {
            "--merge - and the report both go to the standard output; give the report a file with \
             --output"
        }
        Some(_) if merge.as_os_str() == "-" && io::stdout().is_terminal() => {
            "pcapng is not for terminals: pipe it, or name a file with --merge"
        }
        Some(output) if is_one_place(output, merge) => {
            "--output and --merge name one file; name two"
        }
        _ => return Ok(()),
    };
    Err(WrongUsage(error.to_owned()).into())
}

fn input(path: &Path) -> &Path {
    match path.as_os_str() == "-" {
        true => Path::new("/dev/stdin"),
        false => path,
    }
}

/// Which file a path leads to. What is no file, as a terminal, may be read and written.
fn identity(path: &Path) -> Option<(u64, u64)> {
    let metadata = std::fs::metadata(path).ok().filter(Metadata::is_file)?;
    Some((metadata.dev(), metadata.ino()))
}

/// Whether two paths lead to one file, which need not be there yet.
fn is_one_place(a: &Path, b: &Path) -> bool {
    let place = |path: &Path| -> Option<PathBuf> {
        let folder = path.parent().filter(|it| !it.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new(".")).canonicalize().ok()?;
        Some(folder.join(path.file_name()?))
    };
    let there = identity(a).zip(identity(b));
    there.is_some_and(|(a, b)| a == b) || place(a).is_some_and(|a| Some(a) == place(b))
}

impl Reading {
    /// Writes the packets of all captures to one. What fails is told; the report is there all the
    /// same.
    pub(super) fn merge_into(&mut self, path: &Path) {
        match self.write_merged(path) {
            Ok(()) => {}
            // Whoever read it has enough.
            Err(error) if is_reader_gone(&error) => {}
            Err(error) => {
                let broken = format!("{} is not complete", path.display());
                complain(&error.context(broken));
                self.has_failed = true;
            }
        }
    }

    fn write_merged(&mut self, path: &Path) -> anyhow::Result<()> {
        let output: Box<dyn Write> = match path.as_os_str() == "-" {
            true => Box::new(io::stdout()),
            false => {
                let file = File::create(path);
                Box::new(file.with_context(|| format!("create {}", path.display()))?)
            }
        };
        let merge = self.merge();
        let merged = merge.write(BufWriter::with_capacity(1 << 16, output))?;
        for (source, error) in &merged.errors {
            let path = merge.sources.get(*source).map(|it| Path::new(&it.name));
            let none: Option<&String> = None;
            self.is_damaged |= warn(path.unwrap_or(Path::new("-")), Some(error), none);
        }
        tell(path, &merged.tally);
        Ok(())
    }
}

/// Says what is odd about the merged capture.
fn tell(path: &Path, tally: &MergeTally) {
    let name = plain(&path.display().to_string());
    let oddities = [
        (
            tally.late,
            "stand behind later ones: they are far out of order in their captures",
        ),
        (
            tally.before_epoch,
            "are from before 1970 and have that time",
        ),
        (
            tally.strange,
            "are left out: their captures have changed since they were read",
        ),
    ];
    let written = tally.written;
    say(&format!("phalanx: {name}: {written} packets"));
    for (count, what) in oddities.into_iter().filter(|it| it.0 > 0) {
        say(&format!("phalanx: {name}: {count} packets {what}"));
    }
}

fn is_reader_gone(error: &anyhow::Error) -> bool {
    matches!(
        error.downcast_ref(),
        Some(MergeError::Write(WriteError::Io(error))) if error.kind() == io::ErrorKind::BrokenPipe
    )
}
