//! Fragments on their way past the sequence: what the engine puts together from them becomes items
//! of the batch that completed it.

use std::sync::Arc;

use phalanx_common::packet::{Layers, LinkKind, Unparsed};
use phalanx_engine::fragment::{
    Datagram, Fragment, FragmentCounts, Reassembler, Taken, find, is_fragment,
};
use phalanx_engine::record::Decoded;

use super::batch::{Batch, FragmentAt, Item, Whole};
use super::hop::HopFacts;
use crate::capture_file::FrameAt;

/// Datagrams under way in a file.
#[derive(Default)]
pub(super) struct Assembly {
    reassembler: Reassembler,
    layers: Layers,
    /// By interface: what fragments add to the frames that are part of no conversation.
    facts: Vec<HopFacts>,
    last: u64,
}

/// What has come of fragments.
pub(super) struct Settled {
    /// The frame after which it belongs.
    pub(super) at: u64,
    /// The packet's number, time and length on the wire; it lies in no chunk.
    pub(super) frame: FrameAt,
    pub(super) bytes: Box<[u8]>,
    pub(super) decoded: Result<Decoded, Unparsed>,
}

impl Assembly {
    /// Whether nothing is under way.
    pub(super) const fn is_empty(&self) -> bool {
        self.reassembler.is_empty()
    }

    pub(super) const fn counts(&self) -> &FragmentCounts {
        self.reassembler.counts()
    }

    pub(super) fn facts(&self) -> &[HopFacts] {
        &self.facts
    }

    /// Takes a frame in; `false` where it cannot be part of a datagram, and stands for itself.
    pub(super) fn take(&mut self, frame: &FrameAt, bytes: &[u8], kind: LinkKind) -> bool {
        let Some(place) = find(&mut self.layers, bytes, kind, frame.wire_length) else {
            return false;
        };
        let taken = self.reassembler.take(&Fragment {
            hop: frame.interface,
            number: frame.number,
            time_ns: frame.time_ns,
            wire_length: frame.wire_length,
            bytes,
            place,
        });
        taken == Taken::Kept
    }

    /// Gives up what has waited too long once this frame has come.
    pub(super) fn expire(&mut self, frame: &FrameAt) {
        self.last = frame.number;
        self.reassembler.expire(frame.time_ns, frame.number);
    }

    /// Gives up all: the file has ended.
    pub(super) fn finish(&mut self) {
        self.reassembler.finish(self.last);
    }

    /// Hands out what was released since.
    pub(super) fn settle(&mut self, mut out: impl FnMut(Settled)) {
        // What is put together may be a fragment within a tunnel; each turn takes two of them to
        // one at least.
        while self.reassembler.has_released() {
            for release in self.reassembler.released() {
                self.miss(
                    release.hop,
                    Unparsed::NonFirstFragment,
                    release.unused.into(),
                );
                let Some(datagram) = release.datagram else {
                    continue;
                };
                let decoded = datagram.decode(&mut self.layers);
                if self.take_inner(&datagram, decoded.as_ref().err().copied()) {
                    continue;
                }
                if let Err(reason) = decoded {
                    self.miss(datagram.hop, reason, 1);
                }
                out(Settled {
                    at: release.at,
                    frame: FrameAt {
                        number: datagram.number,
                        time_ns: datagram.time_ns,
                        wire_length: datagram.wire_length,
                        at: 0,
                        captured: 0,
                        interface: datagram.hop,
                    },
                    bytes: datagram.bytes,
                    decoded,
                });
            }
        }
    }

    fn take_inner(&mut self, datagram: &Datagram, error: Option<Unparsed>) -> bool {
        let inner = datagram.inner_fragment(&mut self.layers, error);
        inner.is_some_and(|inner| self.reassembler.take(&inner) == Taken::Kept)
    }

    fn miss(&mut self, hop: u32, reason: Unparsed, count: u64) {
        if count == 0 {
            return;
        }
        let hop = hop as usize;
        if self.facts.len() <= hop {
            self.facts.resize_with(hop + 1, HopFacts::default);
        }
        self.facts[hop].unparsed[reason as usize] += count;
    }

    /// Takes the fragments of a batch in, which comes in the order of the file, and puts what has
    /// come of them between its items.
    pub(super) fn pass(&mut self, batch: &mut Batch) {
        let selection = Arc::clone(&batch.selection);
        for FragmentAt { index, clock_ns } in std::mem::take(&mut batch.fragments) {
            let Some(frame) = batch.chunk.frames().get(index as usize) else {
                continue;
            };
            let Some(kind) = selection.kind(frame.interface) else {
                continue;
            };
            let bytes = batch.chunk.bytes_of(frame);
            if self.take(frame, bytes, kind) {
                self.add_to(batch, clock_ns);
                continue;
            }
            match Decoded::of(&mut self.layers, bytes, kind, frame.wire_length) {
                Ok(decoded) => {
                    Item::new(*frame, decoded, clock_ns).share_out(bytes, &mut batch.items);
                }
                Err(reason) => self.miss(frame.interface, reason, 1),
            }
        }
        if let Some(last) = batch.chunk.frames().last() {
            self.expire(last);
        }
        self.add_to(batch, batch.clock_ns);
        batch.sort();
    }

    /// Adds what was released to the items of a batch.
    pub(super) fn add_to(&mut self, batch: &mut Batch, clock_ns: i64) {
        self.settle(|settled| {
            let Ok(decoded) = settled.decoded else {
                return;
            };
            let mut item = Item::new(settled.frame, decoded, clock_ns);
            item.whole = Some(batch.wholes.len() as u32);
            item.share_out(&settled.bytes, &mut batch.items);
            batch.wholes.push(Whole {
                at: settled.at,
                bytes: settled.bytes,
            });
        });
    }
}

/// Whether a frame that was decoded with `layers` belongs to the [`Assembly`].
#[inline]
pub(super) fn is_part(
    layers: &mut Layers,
    decoded: &Result<Decoded, Unparsed>,
    frame: &FrameAt,
    bytes: &[u8],
    kind: LinkKind,
) -> bool {
    let error = decoded.as_ref().err().copied();
    is_fragment(layers, error, bytes, kind, frame.wire_length)
}
