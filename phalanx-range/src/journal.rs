//! The decision log of one direction: a CSV file with one line per packet offered to the link.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

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
