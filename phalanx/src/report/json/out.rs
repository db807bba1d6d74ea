//! Objects written name by name: a name is kept as it stands in the text, with the comma before and
//! the colon behind, and goes past the serializer, which would look at each of its bytes.

use phalanx_engine::Distribution;
use serde::Serialize;

use crate::report::word::milliseconds;

/// A name as it stands in the text, the comma before it included.
macro_rules! name {
    ($($part:expr),+) => {
        concat!(",\"", $($part),+, "\":")
    };
}
pub(super) use name;

/// An object that is being written.
pub(super) struct Out<'a> {
    line: &'a mut Vec<u8>,
    start: usize,
}

/// The names of what is told of a distribution; an empty one is not told.
pub(super) struct SpreadNames {
    pub(super) count: &'static str,
    pub(super) min: &'static str,
    pub(super) mean: &'static str,
    pub(super) p50: &'static str,
    pub(super) p95: &'static str,
    pub(super) max: &'static str,
}

const TIMES: SpreadNames = SpreadNames {
    count: name!("count"),
    min: name!("min"),
    mean: name!("mean"),
    p50: name!("p50"),
    p95: name!("p95"),
    max: name!("max"),
};

impl<'a> Out<'a> {
    /// Begins an object at the end of a text.
    pub(super) fn begin(line: &'a mut Vec<u8>) -> Self {
        let start = line.len();
        Self { line, start }
    }

    /// Ends it: its first comma becomes the brace that begins it.
    pub(super) fn end(self) {
        match self.line.get_mut(self.start) {
            Some(first) => *first = b'{',
            None => self.line.push(b'{'),
        }
        self.line.push(b'}');
    }

    /// Writes a name and its value, if there is one.
    pub(super) fn put(
        &mut self,
        name: &str,
        value: Option<impl Serialize>,
    ) -> serde_json::Result<()> {
        let Some(value) = value else {
            return Ok(());
        };
        self.line.extend_from_slice(name.as_bytes());
        serde_json::to_writer(&mut *self.line, &value)
    }

    /// Begins the object that is the value of a name.
    pub(super) fn object(&mut self, name: &str) -> Out<'_> {
        self.line.extend_from_slice(name.as_bytes());
        Out::begin(self.line)
    }

    /// Writes a name; the value is to follow in the text that is returned.
    pub(super) fn value(&mut self, name: &str) -> &mut Vec<u8> {
        self.line.extend_from_slice(name.as_bytes());
        self.line
    }

    /// Writes how times are distributed, as an object of its own; nothing where there are none.
    pub(super) fn times(&mut self, name: &str, times: &Distribution) -> serde_json::Result<()> {
        if times.count() == 0 {
            return Ok(());
        }
        let mut out = self.object(name);
        out.spread(&TIMES, times)?;
        out.end();
        Ok(())
    }

    /// Writes what is told of times, in milliseconds.
    pub(super) fn spread(
        &mut self,
        names: &SpreadNames,
        times: &Distribution,
    ) -> serde_json::Result<()> {
        if times.count() == 0 {
            return Ok(());
        }
        self.put(names.count, Some(times.count()))?;
        self.put(names.min, times.min_ns().map(milliseconds))?;
        self.put(names.mean, times.mean_ns().map(|ns| ns / 1e6))?;
        self.put(names.p50, times.quantile_ns(50).map(milliseconds))?;
        self.put(names.p95, times.quantile_ns(95).map(milliseconds))?;
        self.put(names.max, times.max_ns().map(milliseconds))
    }
}
