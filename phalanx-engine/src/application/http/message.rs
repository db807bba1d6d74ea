//! One side's messages: heads read line by line, bodies skipped by their length.

use super::line::{self, Start};
use crate::application::delay::Moment;
use crate::limits::HTTP_LINE_KEPT_LENGTH_MAX;

/// How the length of a body is known (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    Length(u64),
    Chunked,
}

/// The head of a message.
#[derive(Clone, Debug, Default)]
pub(super) struct Head {
    /// Where its first byte was.
    pub(super) begin: Moment,
    pub(super) start: Option<Start>,
    pub(super) host: Option<Box<str>>,
    pub(super) body: Option<Body>,
}

/// What was found next in a stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// The bytes have ended.
    Nothing,
    /// The bytes have ended, and so many beyond are not wanted.
    Skip(u64),
    /// What should be a message is none.
    Cut,
    /// A head is complete: take it and say what body follows.
    Head,
}

/// Where a stream is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    /// In or before a start line.
    #[default]
    Start,
    /// In the lines after it.
    Fields,
    /// Bytes of a body.
    Skip(u64),
    /// Bytes of a chunk, and its line end.
    Chunk(u64),
    /// In the line before a chunk.
    ChunkSize,
    /// In the lines after the last chunk.
    Trailer,
    /// Anywhere: only the begin of a segment may be the begin of a message.
    Lost,
}

/// The messages of one side.
#[derive(Default)]
pub(super) struct Messages {
    place: Place,
    /// The begin of a line whose end has not come yet.
    line: Vec<u8>,
    head: Head,
    /// The segment before.
    pub(super) last: Moment,
}

impl Messages {
    /// Goes on to the next thing worth telling; `left` loses what was read.
    pub(super) fn next(&mut self, left: &mut &[u8], moment: Moment) -> Seen {
        self.last = moment;
        if self.place == Place::Lost {
            if line::begins(left) != Some(true) {
                *left = &[];
                return Seen::Nothing;
            }
            self.place = Place::Start;
        }
        while !left.is_empty() {
            let seen = match self.place {
                Place::Skip(length) => self.skip(left, length, Place::Start),
                Place::Chunk(length) => self.skip(left, length, Place::ChunkSize),
                Place::Lost => Some(Seen::Nothing),
                _ => self.read_line(left, moment),
            };
            if let Some(seen) = seen {
                if self.place == Place::Lost {
                    *left = &[];
                }
                return seen;
            }
        }
        // A body of which nothing is here yet.
        match self.place {
            Place::Skip(length) => self.skip(left, length, Place::Start),
            Place::Chunk(length) => self.skip(left, length, Place::ChunkSize),
            _ => None,
        }
        .unwrap_or(Seen::Nothing)
    }

    fn skip(&mut self, left: &mut &[u8], length: u64, then: Place) -> Option<Seen> {
        self.place = then;
        let here = usize::try_from(length).ok();
        match here.and_then(|length| left.get(length..)) {
            Some(rest) => {
                *left = rest;
                None
            }
            None => {
                let beyond = length - left.len() as u64;
                *left = &[];
                Some(Seen::Skip(beyond))
            }
        }
    }

    fn read_line(&mut self, left: &mut &[u8], moment: Moment) -> Option<Seen> {
        if self.place == Place::Start && self.line.is_empty() {
            self.head = Head {
                begin: moment,
                ..Head::default()
            };
        }
        let Some(end) = left.iter().position(|byte| *byte == b'\n') else {
            self.keep(left);
            *left = &[];
            return None;
        };
        let (line, rest) = left.split_at(end);
        *left = rest.get(1..).unwrap_or_default();
        // The usual case: the line lies whole in the segment, and nothing is copied.
        if self.line.is_empty() {
            return self.take_line(line);
        }
        self.keep(line);
        let whole = std::mem::take(&mut self.line);
        self.take_line(&whole)
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = HTTP_LINE_KEPT_LENGTH_MAX.saturating_sub(self.line.len());
        let kept = bytes.get(..room.min(bytes.len())).unwrap_or_default();
        self.line.extend_from_slice(kept);
    }

    fn take_line(&mut self, line: &[u8]) -> Option<Seen> {
        let is_whole = line.len() < HTTP_LINE_KEPT_LENGTH_MAX;
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match self.place {
            // Empty lines before a message are allowed (RFC 9112 section 2.2).
            Place::Start if line.is_empty() => None,
            Place::Start => {
                self.head.start = line::start(line, is_whole);
                if self.head.start.is_none() {
                    self.lose();
                    return Some(Seen::Cut);
                }
                self.place = Place::Fields;
                None
            }
            Place::Fields if line.is_empty() => Some(Seen::Head),
            Place::Fields => {
                self.take_field(line);
                None
            }
            Place::ChunkSize => match line::chunk_size(line) {
                Some(0) => {
                    self.place = Place::Trailer;
                    None
                }
                Some(size) => {
                    const LINE_END: u64 = 2;
                    self.place = Place::Chunk(size.saturating_add(LINE_END));
                    None
                }
                None => {
                    self.lose();
                    Some(Seen::Cut)
                }
            },
            Place::Trailer => {
                if line.is_empty() {
                    self.place = Place::Start;
                }
                None
            }
            Place::Skip(_) | Place::Chunk(_) | Place::Lost => None,
        }
    }

    fn take_field(&mut self, line: &[u8]) {
        let Some((name, value)) = line::field(line) else {
            return;
        };
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        if is("host") {
            self.head.host = Some(line::host(value));
        } else if is("transfer-encoding") {
            let last = value.rsplit(|byte| *byte == b',').next().unwrap_or(value);
            if last.trim_ascii().eq_ignore_ascii_case(b"chunked") {
                self.head.body = Some(Body::Chunked);
            }
        } else if is("content-length") && self.head.body.is_none() {
            self.head.body = line::decimal(value).map(Body::Length);
        }
    }

    /// The head that was read; a body has to be begun after it.
    pub(super) fn take_head(&mut self) -> Head {
        std::mem::take(&mut self.head)
    }

    /// Goes on behind a head. Without a length, a body `may_last` until the connection ends.
    pub(super) const fn begin_body(&mut self, body: Option<Body>, may_last: bool) {
        self.place = match body {
            Some(Body::Length(0)) => Place::Start,
            Some(Body::Length(length)) => Place::Skip(length),
            Some(Body::Chunked) => Place::ChunkSize,
            None if may_last => Place::Lost,
            None => Place::Start,
        };
    }

    /// Whether a head has begun and not ended.
    pub(super) const fn is_amid_head(&self) -> bool {
        match self.place {
            Place::Start => !self.line.is_empty(),
            Place::Fields => true,
            _ => false,
        }
    }

    /// Ends a head early; whether its start line tells enough.
    pub(super) fn end_head(&mut self) -> bool {
        if self.place == Place::Start {
            let line = std::mem::take(&mut self.line);
            self.head.start = line::start(&line, false);
        }
        self.head.start.is_some()
    }

    /// Forgets where it is.
    pub(super) fn lose(&mut self) {
        self.place = Place::Lost;
        self.line = Vec::new();
        self.head = Head::default();
    }

    pub(super) fn heap_bytes(&self) -> usize {
        let path = match &self.head.start {
            Some(Start::Request { path, host, .. }) => {
                path.len() + host.as_ref().map_or(0, |host| host.len())
            }
            _ => 0,
        };
        self.line.capacity() + path + self.head.host.as_ref().map_or(0, |host| host.len())
    }
}
