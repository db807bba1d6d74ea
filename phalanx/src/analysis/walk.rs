//! A capture packet by packet, in its order: for what is told of packets rather than of flows.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use phalanx_common::packet::{Layers, LinkKind, Unparsed};
use phalanx_engine::record::{Decoded, PacketRecord};
use phalanx_engine::segment::Segment;
use phalanx_engine::trace::Tracer;

use super::Request;
use super::batch::Selection;
use crate::capture_file::{self, CaptureFile, Chunk, FrameAt, OpenError, OpenOptions, ReadError};
use crate::report::{Plot, SackBlock};

/// One frame, and what is told of it.
pub struct Told<'a> {
    /// Where it lies in its file.
    pub frame: &'a FrameAt,
    /// The record and what the engine says of it, or why it is part of no flow.
    pub packet: Result<(PacketRecord<'a>, Segment), Unparsed>,
}

/// How a walk went.
pub struct Walked {
    /// The file, with its notes, interfaces and damage.
    pub file: CaptureFile,
    /// Why reading ended early.
    pub error: Option<ReadError>,
}

/// Takes all frames that count in, one after the other, until `tell` breaks.
///
/// # Errors
/// The file cannot be opened, or is no capture.
pub fn walk(
    request: &Request,
    mut tell: impl FnMut(Told<'_>) -> ControlFlow<()>,
) -> Result<Walked, OpenError> {
    let options = OpenOptions {
        follow: request.follow.clone(),
    };
    let mut file = capture_file::open(&request.path, &options)?;
    let mut chunk = Chunk::new();
    let mut layers = Layers::default();
    let mut tracer = Tracer::new(std::process::id().into());
    let mut selection = Selection::default();
    let mut kinds: Vec<Option<LinkKind>> = Vec::new();
    let error = 'file: loop {
        match file.read_chunk(&mut chunk) {
            Ok(true) => {}
            Ok(false) => break None,
            Err(error) => break Some(error),
        }
        if kinds.len() != file.interfaces().len() {
            let kind = |number: u16| LinkKind::from_linktype(number.into());
            kinds = file
                .interfaces()
                .iter()
                .map(|it| kind(it.link_type))
                .collect();
            selection = Selection::new(request, file.interfaces());
        }
        for (frame, bytes) in chunk.iter() {
            if !selection.holds(frame, bytes) {
                continue;
            }
            let decoded = match kinds.get(frame.interface as usize) {
                Some(Some(kind)) => Decoded::of(&mut layers, bytes, *kind, frame.wire_length),
                _ => Err(Unparsed::UnknownLink),
            };
            let packet = decoded.as_ref().map_err(|reason| *reason).map(|decoded| {
                let record = decoded
                    .record(frame.number, frame.time_ns, frame.wire_length, bytes)
                    .at_hop(frame.interface);
                let segment = tracer.handle(&record);
                (record, segment)
            });
            if tell(Told { frame, packet }).is_break() {
                break 'file None;
            }
        }
        // Their stories are not asked for.
        tracer.ended().for_each(drop);
    };
    Ok(Walked { file, error })
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
