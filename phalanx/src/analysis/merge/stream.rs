//! [`Stream`]: the packets of a capture in the order of time by the clock of the reference.
//!
//! Packets come almost in order, so a window of some is held and the earliest taken from it.
//! Interfaces of one capture whose clocks are far apart have a stream each.

use std::collections::BTreeMap;

use super::super::batch::{Choice, Selection};
use super::lane::Lane;
use super::limits::{APART_MAX_NS, STREAM_COUNT_MAX, WINDOW_PACKET_COUNT};
use super::{MergeHop, MergeSource};
use crate::capture_file::{CaptureFile, Chunk, FrameAt, OpenError, ReadError};

/// A packet on its way into the merged capture.
pub(super) struct Passed {
    /// The place of its hop among all hops.
    pub(super) port: usize,
    /// By its own clock, in nanoseconds since the epoch.
    pub(super) own_ns: i64,
    /// By that of the reference.
    pub(super) time_ns: i64,
    /// What that may be off by; `None` where the clocks could not be compared.
    pub(super) error_ns: Option<i64>,
    pub(super) wire_length: u32,
    pub(super) bytes: Vec<u8>,
}

/// By interface of the capture.
type Lanes<'a> = BTreeMap<u32, Lane<'a>>;

/// One reading of a capture, for some of its interfaces.
pub(super) struct Stream<'a> {
    /// The place of the source.
    pub(super) source: usize,
    /// Why it was not read to its end.
    pub(super) error: Option<ReadError>,
    /// Packets of interfaces that no stream is for.
    pub(super) strange_count: u64,
    capture: &'a MergeSource,
    lanes: Lanes<'a>,
    /// Of the streams of a capture the first one counts what none is for.
    is_first: bool,
    file: CaptureFile,
    chunk: Chunk,
    /// The next frame of the chunk.
    next: usize,
    selection: Selection,
    has_ended: bool,
    /// By time and, of equal times, in the order of the capture.
    window: BTreeMap<(i64, u64), Passed>,
    window_bytes: usize,
}

impl<'a> Stream<'a> {
    /// Opens a capture as often as it takes; the first of its hops has the place `port`.
    pub(super) fn open_all(
        source: usize,
        capture: &'a MergeSource,
        port: usize,
    ) -> Result<Vec<Self>, OpenError> {
        let lanes = (port..).zip(&capture.hops);
        let lanes = lanes.map(|(port, (interface, hop))| (*interface, Lane::new(port, hop)));
        let open = |(index, lanes): (usize, Lanes<'a>)| {
            Ok(Self {
                source,
                error: None,
                strange_count: 0,
                capture,
                lanes,
                is_first: index == 0,
                file: capture.request.open()?,
                chunk: Chunk::new(),
                next: 0,
                selection: Selection::default(),
                has_ended: false,
                window: BTreeMap::new(),
                window_bytes: 0,
            })
        };
        split(lanes).into_iter().enumerate().map(open).collect()
    }

    /// The time of the packet that is the next one.
    pub(super) fn earliest_ns(&self) -> Option<i64> {
        self.window
            .first_key_value()
            .map(|((time_ns, _), _)| *time_ns)
    }

    pub(super) fn pop(&mut self) -> Option<Passed> {
        let (_, passed) = self.window.pop_first()?;
        self.window_bytes -= passed.bytes.len();
        Some(passed)
    }

    /// Reads on until the window is full.
    pub(super) fn fill(&mut self, window_bytes_max: usize) {
        while !self.has_ended
            && self.window.len() < WINDOW_PACKET_COUNT
            && (self.window_bytes < window_bytes_max || self.window.is_empty())
        {
            match self.chunk.frames().get(self.next).copied() {
                Some(frame) => {
                    self.next += 1;
                    self.take(&frame);
                }
                None => self.read(),
            }
        }
    }

    fn read(&mut self) {
        self.next = 0;
        match self.file.read_chunk(&mut self.chunk) {
            Ok(true) => {}
            Ok(false) => self.has_ended = true,
            Err(error) => {
                self.has_ended = true;
                self.error = Some(error);
            }
        }
        let (request, interfaces) = (&self.capture.request, self.file.interfaces());
        if let Some(more) = Selection::beyond(&self.selection, request, interfaces) {
            self.selection = more;
        }
    }

    fn take(&mut self, frame: &FrameAt) {
        let lane = self.lanes.get_mut(&frame.interface);
        let is_strange = self.is_first && !self.capture.hops.contains_key(&frame.interface);
        if lane.is_none() && !is_strange {
            return;
        }
        let bytes = self.chunk.bytes_of(frame);
        if self.selection.choose(frame, bytes) != Choice::In {
            return;
        }
        let Some(lane) = lane else {
            self.strange_count += 1;
            return;
        };
        let (time_ns, error_ns) = lane.reference_ns(frame.time_ns);
        self.window_bytes += bytes.len();
        let passed = Passed {
            port: lane.port,
            own_ns: frame.time_ns,
            time_ns,
            error_ns,
            wire_length: frame.wire_length,
            bytes: bytes.to_vec(),
        };
        self.window.insert((time_ns, frame.number), passed);
    }
}

/// Brings the interfaces together whose clocks are nearly one.
fn split<'a>(lanes: impl Iterator<Item = (u32, Lane<'a>)>) -> Vec<Lanes<'a>> {
    // A capture without any is read all the same: there may be packets now.
    let mut groups = vec![Lanes::new()];
    for (interface, lane) in lanes {
        let is_place = |group: &Lanes<'a>| {
            let first = group.values().next();
            first.is_none_or(|first| are_near(first.hop, lane.hop))
        };
        match groups.iter().position(is_place) {
            None if groups.len() < STREAM_COUNT_MAX => {
                groups.push(Lanes::from([(interface, lane)]));
            }
            near => {
                let place = near.unwrap_or(STREAM_COUNT_MAX - 1);
                groups[place].insert(interface, lane);
            }
        }
    }
    groups
}

/// Whether the corrections of two hops are about the same, whenever one of them changes.
fn are_near(a: &MergeHop, b: &MergeHop) -> bool {
    let ends = [a.window_ns, b.window_ns].into_iter();
    let ends = ends.flat_map(|(first_ns, last_ns)| [first_ns, last_ns]);
    let steps = a.readings.iter().chain(&b.readings).map(|it| it.from_ns);
    ends.chain(steps).all(|time_ns| {
        let (a_ns, b_ns) = (a.reference_ns(time_ns).0, b.reference_ns(time_ns).0);
        a_ns.abs_diff(b_ns) <= APART_MAX_NS
    })
}
