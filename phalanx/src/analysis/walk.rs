//! A capture packet by packet, in its order: for what is told of packets rather than of flows.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use phalanx_common::packet::{Layers, Unparsed};
use phalanx_engine::record::{Decoded, PacketRecord};
use phalanx_engine::segment::Segment;
use phalanx_engine::trace::Tracer;

use super::Request;
use super::batch::{Choice, Selection};
use super::fragment::{Assembly, is_part};
use super::refusal::Refusals;
use crate::capture_file::{CaptureFile, Chunk, FrameAt, Interface, OpenError, ReadError};
use crate::report::{Plot, SackBlock};

/// One frame, and what is told of it.
pub struct Told<'a> {
    /// Where it lies in its file.
    pub frame: &'a FrameAt,
    /// The record and what the engine says of it, or why it is part of no flow. What was put
    /// together from fragments is told with the frame that completed it.
    pub packet: Result<(PacketRecord<'a>, Segment), Outside>,
    /// The interfaces that the file has described so far.
    pub interfaces: &'a [Interface],
}

/// Why a frame is part of no flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outside {
    /// It could not be parsed down to one.
    Unparsed(Unparsed),
    /// It holds a fragment of a packet that is told with another frame; a first fragment that was
    /// waited for in vain is told once more, late.
    Fragment,
}

impl Outside {
    /// The reason as it is printed.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unparsed(reason) => reason.name(),
            Self::Fragment => "fragment",
        }
    }
}

/// How a walk went.
pub struct Walked {
    /// The file, with its notes, interfaces and damage.
    pub file: CaptureFile,
    /// Why reading ended early.
    pub error: Option<ReadError>,
    /// What the filter could not be applied to.
    pub refusals: Refusals,
    /// Flows that were ended early to make room for others.
    pub evicted_count: u64,
}

/// Takes all frames that count in, one after the other, until `tell` breaks.
///
/// # Errors
/// The file cannot be opened, or is no capture.
pub fn walk(
    request: &Request,
    mut tell: impl FnMut(Told<'_>) -> ControlFlow<()>,
) -> Result<Walked, OpenError> {
    let mut file = request.open()?;
    let mut chunk = Chunk::new();
    let mut teller = Teller {
        layers: Layers::default(),
        tracer: Tracer::new(std::process::id().into()),
        assembly: Assembly::default(),
        left_out: BTreeMap::new(),
        interfaces: Vec::new(),
        tell: &mut tell,
    };
    let mut selection = Selection::default();
    let mut error = None;
    let mut is_whole = ControlFlow::Continue(());
    while is_whole.is_continue() {
        match file.read_chunk(&mut chunk) {
            Ok(true) => {}
            Ok(false) => break,
            Err(failed) => {
                error = Some(failed);
                break;
            }
        }
        if let Some(more) = Selection::beyond(&selection, request, file.interfaces()) {
            selection = more;
            teller.interfaces = file.interfaces().to_vec();
        }
        is_whole = teller.chunk(&chunk, &selection);
        // Their stories are not asked for.
        teller.tracer.ended().for_each(drop);
    }
    if is_whole.is_continue() {
        // Nobody is left to be told that the last one was enough.
        let _ = teller.finish();
    }
    let left_out = |index: u32| teller.left_out.get(&index).copied().unwrap_or(0);
    let refusals = Refusals::new(request.filter.as_ref(), file.interfaces(), left_out);
    Ok(Walked {
        evicted_count: teller.tracer.tally().evicted,
        file,
        error,
        refusals,
    })
}

/// What stands between the decoded frames and who is told of them.
struct Teller<'a, Tell> {
    layers: Layers,
    tracer: Tracer,
    assembly: Assembly,
    /// Frames that the filter could not be applied to, by interface.
    left_out: BTreeMap<u32, u64>,
    interfaces: Vec<Interface>,
    tell: &'a mut Tell,
}

impl<Tell: FnMut(Told<'_>) -> ControlFlow<()>> Teller<'_, Tell> {
    fn chunk(&mut self, chunk: &Chunk, selection: &Selection) -> ControlFlow<()> {
        for (frame, bytes) in chunk.iter() {
            match selection.choose(frame, bytes) {
                Choice::In => {}
                Choice::Out => continue,
                Choice::Unknown => {
                    *self.left_out.entry(frame.interface).or_default() += 1;
                    continue;
                }
            }
            let Some(kind) = selection.kind(frame.interface) else {
                self.packet(frame, bytes, &Err(Unparsed::UnknownLink))?;
                continue;
            };
            let decoded = Decoded::of(&mut self.layers, bytes, kind, frame.wire_length);
            if is_part(&mut self.layers, &decoded, frame, bytes, kind)
                && self.assembly.take(frame, bytes, kind)
            {
                self.fragment(frame)?;
            } else {
                self.packet(frame, bytes, &decoded)?;
            }
        }
        match chunk.frames().last() {
            Some(last) => self.expire(last),
            None => ControlFlow::Continue(()),
        }
    }

    fn packet(
        &mut self,
        frame: &FrameAt,
        bytes: &[u8],
        decoded: &Result<Decoded, Unparsed>,
    ) -> ControlFlow<()> {
        let packet = decoded
            .as_ref()
            .map_err(|reason| Outside::Unparsed(*reason));
        let packet = packet.map(|decoded| {
            let record = decoded
                .record(frame.number, frame.time_ns, frame.wire_length, bytes)
                .at_hop(frame.interface);
            let segment = self.tracer.handle(&record);
            (record, segment)
        });
        (self.tell)(Told {
            frame,
            packet,
            interfaces: &self.interfaces,
        })
    }

    /// A fragment that was taken in, and what it completes.
    fn fragment(&mut self, frame: &FrameAt) -> ControlFlow<()> {
        self.tracer.advance(frame.time_ns);
        if !self.settle(Some(frame))? {
            (self.tell)(Told {
                frame,
                packet: Err(Outside::Fragment),
                interfaces: &self.interfaces,
            })?;
        }
        ControlFlow::Continue(())
    }

    fn expire(&mut self, frame: &FrameAt) -> ControlFlow<()> {
        if !self.assembly.is_empty() {
            self.assembly.expire(frame);
            self.settle(None)?;
        }
        ControlFlow::Continue(())
    }

    fn finish(&mut self) -> ControlFlow<()> {
        self.assembly.finish();
        self.settle(None)?;
        ControlFlow::Continue(())
    }

    /// Tells what has come of fragments; whether one of them is told with `frame`.
    fn settle(&mut self, frame: Option<&FrameAt>) -> ControlFlow<(), bool> {
        let mut settled = Vec::new();
        self.assembly.settle(|it| settled.push(it));
        let mut is_told = false;
        for it in settled {
            is_told |= frame.is_some_and(|frame| frame.number == it.frame.number);
            self.packet(&it.frame, &it.bytes, &it.decoded)?;
        }
        ControlFlow::Continue(is_told)
    }
}

/// The packets of the flows that are asked for, by hop and first frame, to be drawn.
///
/// # Errors
/// The file cannot be opened, or is no capture.
pub fn plots(
    request: &Request,
    flows: impl IntoIterator<Item = (u32, u64)>,
) -> Result<BTreeMap<(u32, u64), Plot>, OpenError> {
    let mut plots: BTreeMap<(u32, u64), Plot> = flows
        .into_iter()
        .map(|flow| (flow, Plot::default()))
        .collect();
    walk(request, |told| {
        if let Ok((record, segment)) = &told.packet
            && let Some(plot) = plots.get_mut(&(record.hop, segment.flow))
        {
            plot.push(*segment);
            if let Some(acknowledged) = segment.acknowledgement {
                // SACK edges lie within a window of the acknowledgement.
                let relative = |edge: u32| {
                    let distance = edge.wrapping_sub(record.headers.acknowledgement) as i32;
                    acknowledged.saturating_add_signed(i64::from(distance))
                };
                for (left, right) in record.sack_blocks() {
                    plot.push_sack(SackBlock {
                        number: segment.number,
                        time_ns: segment.time_ns,
                        side: segment.side,
                        left: relative(left),
                        right: relative(right),
                    });
                }
            }
        }
        ControlFlow::Continue(())
    })?;
    Ok(plots)
}
