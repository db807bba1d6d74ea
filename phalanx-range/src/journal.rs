//! The decision log of one direction: a CSV file with one line per packet offered to the link.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::channel::Decision;
use crate::limits::LOG_LINES_MAX;
use crate::packet::Marks;

/// The first line of every log. Times are nanoseconds of `CLOCK_MONOTONIC`; `due_ns` is 0 for
/// what was dropped.
pub const HEADER: &str = "time_ns,direction,version,protocol,ip_id,sequence,bytes,action,due_ns";

/// An open decision log.
#[derive(Debug)]
pub(crate) struct Journal {
    file: BufWriter<File>,
    direction: &'static str,
    lines: u64,
}

impl Journal {
    pub(crate) fn create(path: &Path, direction: &'static str) -> io::Result<Self> {
        let mut file = BufWriter::with_capacity(1 << 16, File::create(path)?);
        writeln!(file, "{HEADER}")?;
        Ok(Self {
            file,
            direction,
            lines: 0,
        })
    }

    pub(crate) fn write(
        &mut self,
        now_ns: u64,
        marks: Marks,
        bytes: usize,
        decision: Decision,
    ) -> io::Result<()> {
        self.lines += 1;
        if self.lines == LOG_LINES_MAX {
            writeln!(self.file, "# ends here: {LOG_LINES_MAX} lines")?;
        }
        if self.lines >= LOG_LINES_MAX {
            return Ok(());
        }
        writeln!(
            self.file,
            "{now_ns},{},{},{},{},{},{bytes},{},{}",
            self.direction,
            marks.version,
            marks.protocol,
            marks.id,
            marks.sequence,
            decision.action.name(),
            decision.due_ns
        )
    }

    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// A line of a decision log: a packet that was offered to the link, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalLine {
    /// When it was offered, in nanoseconds of `CLOCK_MONOTONIC`.
    pub time_ns: u64,
    /// The marks by which the log names it.
    pub marks: Marks,
    /// Its length from the IP header on.
    pub bytes: u32,
    /// What happened to it: a name of [`Action`](crate::channel::Action).
    pub action: String,
    /// When it was due at the far end; 0 for what was dropped.
    pub due_ns: u64,
}

impl JournalLine {
    /// Reads a complete decision log; one that was cut off at its limit is an error.
    pub fn read_all(path: &Path) -> Result<Vec<Self>> {
        let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
        let mut lines = BufReader::new(file).lines();
        let header = lines.next().context("the log is empty")??;
        if header != HEADER {
            bail!("{}: not a decision log", path.display());
        }
        lines
            .map(|line| {
                let line = line?;
                Self::parse(&line).with_context(|| format!("{}: `{line}`", path.display()))
            })
            .collect()
    }

    fn parse(line: &str) -> Option<Self> {
        let cells: Vec<&str> = line.split(',').collect();
        let [time, _, version, protocol, id, sequence, bytes, action, due] = cells[..] else {
            return None;
        };
        Some(Self {
            time_ns: time.parse().ok()?,
            marks: Marks {
                version: version.parse().ok()?,
                protocol: protocol.parse().ok()?,
                id: id.parse().ok()?,
                sequence: sequence.parse().ok()?,
            },
            bytes: bytes.parse().ok()?,
            action: action.to_owned(),
            due_ns: due.parse().ok()?,
        })
    }

    /// It never arrived.
    pub fn is_dropped(&self) -> bool {
        self.due_ns == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::Action;

    #[test]
    fn what_is_written_is_read() {
        let name = format!("phx-journal-{}.csv", std::process::id());
        let path = std::env::temp_dir().join(name);
        let marks = Marks {
            version: 4,
            protocol: 6,
            id: 0xbeef,
            sequence: u32::MAX,
        };
        let decision = |action, due_ns| Decision { action, due_ns };
        let mut journal = Journal::create(&path, "forward").unwrap();
        let passed = decision(Action::HeldBack, 9);
        journal.write(1, marks, 52, passed).unwrap();
        journal
            .write(2, marks, 52, decision(Action::Lost, 0))
            .unwrap();
        journal.flush().unwrap();
        let lines = JournalLine::read_all(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(lines.len(), 2);
        assert_eq!(
            (lines[0].marks, lines[0].bytes, lines[0].due_ns),
            (marks, 52, 9)
        );
        assert_eq!(
            (lines[0].action.as_str(), lines[0].is_dropped()),
            ("held_back", false)
        );
        assert!(lines[1].is_dropped());
        assert_eq!(JournalLine::parse("# ends here: 5 lines"), None);
    }
}
