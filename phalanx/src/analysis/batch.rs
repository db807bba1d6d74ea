//! Batches: a chunk of a capture with its records, sorted by shard.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use phalanx_common::packet::{Headers, Layers, LinkKind, Unparsed, is_error, parse_quote};
use phalanx_engine::filter::Program;
use phalanx_engine::record::Decoded;

use super::Request;
use super::fragment::is_part;
use super::hop::HopFacts;
use super::refusal::compile;
use crate::capture_file::{Chunk, FrameAt, Interface};

/// A chunk on its way from the file to the shards.
#[derive(Default)]
pub(super) struct Batch {
    /// Place in the file, from 0.
    pub(super) number: u64,
    pub(super) chunk: Chunk,
    /// By shard.
    pub(super) items: Vec<Vec<Item>>,
    /// Frames that hold a fragment: no items yet.
    pub(super) fragments: Vec<FragmentAt>,
    /// What was put together from fragments.
    pub(super) wholes: Vec<Whole>,
    pub(super) selection: Arc<Selection>,
    /// The latest time of all records of the batches before.
    pub(super) clock_before_ns: i64,
    /// The latest time of its own.
    pub(super) clock_ns: i64,
    /// Time of its first frame that counts.
    pub(super) first_ns: Option<i64>,
    /// Frames that are far earlier than one before them.
    pub(super) back_count: u64,
}

/// How much earlier than one before it a frame is still in order, in nanoseconds: several queues of
/// one interface are written by turns.
pub(super) const BACK_MAX_NS: i64 = 1_000_000_000;

/// A frame that holds a fragment.
#[derive(Clone, Copy)]
pub(super) struct FragmentAt {
    /// Among the frames of the chunk.
    pub(super) index: u32,
    /// The latest time of its batch so far.
    pub(super) clock_ns: i64,
}

/// One record of a batch.
#[derive(Clone, Copy)]
pub(super) struct Item {
    pub(super) frame: FrameAt,
    pub(super) decoded: Decoded,
    /// The latest time of its batch so far.
    pub(super) clock_ns: i64,
    pub(super) role: ItemRole,
    /// Index of the packet among [`Batch::wholes`], where it is no frame of the chunk. Items own
    /// nothing: thousands are cleared at once.
    pub(super) whole: Option<u32>,
}

/// A packet that was put together from fragments.
pub(super) struct Whole {
    /// The frame after which it belongs.
    pub(super) at: u64,
    pub(super) bytes: Box<[u8]>,
}

impl Batch {
    /// Holds no records.
    pub(super) fn clear(&mut self, shard_count: usize) {
        self.items.resize_with(shard_count, Vec::new);
        self.items.iter_mut().for_each(Vec::clear);
        self.fragments.clear();
        self.wholes.clear();
        self.clock_ns = i64::MIN;
        self.first_ns = None;
        self.back_count = 0;
    }

    /// The bytes that an item was decoded from.
    pub(super) fn bytes_of(&self, item: &Item) -> &[u8] {
        match item.whole {
            None => self.chunk.bytes_of(&item.frame),
            Some(index) => {
                let whole = self.wholes.get(index as usize);
                whole.map_or(&[], |whole| &whole.bytes)
            }
        }
    }

    /// Puts items that were added late in their place.
    pub(super) fn sort(&mut self) {
        let wholes = &self.wholes;
        let place = |item: &Item| {
            let whole = item.whole.and_then(|index| wholes.get(index as usize));
            whole.map_or(item.frame.number, |whole| whole.at)
        };
        for items in &mut self.items {
            if !items.is_sorted_by_key(place) {
                items.sort_by_key(place);
            }
        }
    }
}

impl Item {
    /// A packet that is all for one shard; [`Self::share_out`] says whether it is.
    pub(super) const fn new(frame: FrameAt, decoded: Decoded, clock_ns: i64) -> Self {
        Self {
            frame,
            decoded,
            clock_ns,
            role: ItemRole::Whole,
            whole: None,
        }
    }

    /// Gives it to the shard of its flow, and to that of what it quotes.
    #[inline]
    pub(super) fn share_out(mut self, bytes: &[u8], shards: &mut [Vec<Self>]) {
        let shard = shard_of(&self.decoded.headers, shards.len());
        let quoted = quoted_shard(&self.decoded.headers, bytes, shards.len());
        if let Some(quoted) = quoted.filter(|quoted| *quoted != shard) {
            self.role = ItemRole::Quote;
            shards[quoted].push(self);
            self.role = ItemRole::Own;
        }
        shards[shard].push(self);
    }
}

/// What a record is to its shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ItemRole {
    /// All that it says is for this shard.
    Whole,
    /// Its flow is of this shard, what it quotes of another.
    Own,
    /// What it quotes is of this shard, its flow of another.
    Quote,
}

/// Whether a frame counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    In,
    Out,
    /// It is left out since the filter cannot be applied to its link type.
    Unknown,
}

/// Which frames count, and how they begin.
#[derive(Debug, Default)]
pub(super) struct Selection {
    since_ns: Option<i64>,
    until_ns: Option<i64>,
    /// By link type; `None` where the filter cannot be applied to it.
    programs: Option<BTreeMap<u16, Option<Program>>>,
    /// By interface: the link type, and what the parser makes of it.
    links: Vec<(u16, Option<LinkKind>)>,
    /// Whether this capture is one of several.
    is_one_of_several: bool,
}

impl Selection {
    /// One for the interfaces that are known now; `None` where `known` is that.
    pub(super) fn beyond(
        known: &Self,
        request: &Request,
        interfaces: &[Interface],
    ) -> Option<Self> {
        (interfaces.len() != known.links.len()).then(|| Self::new(request, interfaces))
    }

    fn new(request: &Request, interfaces: &[Interface]) -> Self {
        let link = |it: &Interface| (it.link_type, LinkKind::from_linktype(it.link_type.into()));
        let links: Vec<_> = interfaces.iter().map(link).collect();
        let programs = request.filter.as_ref().map(|filter| {
            // A file may have as many interfaces as it likes: each link type is compiled once.
            let link_types: BTreeSet<u16> = interfaces.iter().map(|it| it.link_type).collect();
            let program = |number| (number, compile(filter, number).ok());
            link_types.into_iter().map(program).collect()
        });
        Self {
            since_ns: request.since_ns,
            until_ns: request.until_ns,
            programs,
            links,
            is_one_of_several: request.is_one_of_several,
        }
    }

    /// Whether there is more than one hop, so that their packets are to be compared.
    pub(super) fn keeps_trails(&self) -> bool {
        self.is_one_of_several || self.links.len() > 1
    }

    /// What the parser makes of an interface's frames, where it knows them.
    pub(super) fn kind(&self, interface: u32) -> Option<LinkKind> {
        self.links.get(interface as usize)?.1
    }

    pub(super) fn choose(&self, frame: &FrameAt, bytes: &[u8]) -> Choice {
        if self.since_ns.is_some_and(|since| frame.time_ns < since)
            || self.until_ns.is_some_and(|until| frame.time_ns > until)
        {
            return Choice::Out;
        }
        let Some(programs) = &self.programs else {
            return Choice::In;
        };
        let link = self.links.get(frame.interface as usize);
        match link.and_then(|(link_type, _)| programs.get(link_type)?.as_ref()) {
            None => Choice::Unknown,
            Some(program) if program.matches(bytes, frame.wire_length) => Choice::In,
            Some(_) => Choice::Out,
        }
    }
}

/// Decodes the frames of a batch and sorts them by shard; `facts` are by interface.
pub(super) fn decode(
    batch: &mut Batch,
    layers: &mut Layers,
    shard_count: usize,
    facts: &mut Vec<HopFacts>,
) {
    batch.clear(shard_count);
    for (index, (frame, bytes)) in batch.chunk.iter().enumerate() {
        let choice = batch.selection.choose(frame, bytes);
        if choice == Choice::Out {
            continue;
        }
        let hop = frame.interface as usize;
        if facts.len() <= hop {
            facts.resize_with(hop + 1, HopFacts::default);
        }
        let fact = &mut facts[hop];
        if choice == Choice::Unknown {
            fact.left_out += 1;
            continue;
        }
        fact.pass(frame);
        batch.first_ns.get_or_insert(frame.time_ns);
        let is_back = batch.clock_ns.saturating_sub(frame.time_ns) > BACK_MAX_NS;
        batch.back_count += u64::from(is_back && batch.clock_ns != i64::MIN);
        let decoded = match batch.selection.kind(frame.interface) {
            Some(kind) => {
                let decoded = Decoded::of(layers, bytes, kind, frame.wire_length);
                if is_part(layers, &decoded, frame, bytes, kind) {
                    batch.clock_ns = batch.clock_ns.max(frame.time_ns);
                    batch.fragments.push(FragmentAt {
                        index: index as u32,
                        clock_ns: batch.clock_ns,
                    });
                    continue;
                }
                decoded
            }
            None => Err(Unparsed::UnknownLink),
        };
        match decoded {
            Ok(decoded) => {
                batch.clock_ns = batch.clock_ns.max(frame.time_ns);
                let item = Item::new(*frame, decoded, batch.clock_ns);
                item.share_out(bytes, &mut batch.items);
            }
            Err(reason) => fact.refuse(reason),
        }
    }
}

/// The shard of a packet's flow.
fn shard_of(headers: &Headers, shard_count: usize) -> usize {
    if shard_count == 1 {
        return 0;
    }
    (symmetric_hash(headers) % shard_count as u64) as usize
}

/// The shard of the flow that an ICMP error quotes.
fn quoted_shard(headers: &Headers, bytes: &[u8], shard_count: usize) -> Option<usize> {
    if shard_count == 1 || !is_error(headers) {
        return None;
    }
    let quoted = parse_quote(bytes, headers).ok()?;
    Some(shard_of(&quoted, shard_count))
}

/// The same for both directions of a flow. A sender that aims at one shard makes it slow, no more.
fn symmetric_hash(headers: &Headers) -> u64 {
    let end = |address: [u64; 2], port: u16| {
        let word = address[0] ^ address[1].rotate_left(23) ^ u64::from(port) << 7;
        let wide = u128::from(word | 1) * 0x9e37_79b9_7f4a_7c15_u128;
        wide as u64 ^ (wide >> 64) as u64
    };
    let both = end(headers.source, headers.source_port)
        .wrapping_add(end(headers.destination, headers.destination_port));
    (both ^ (both >> 32)).wrapping_mul(0xff51_afd7_ed55_8ccd) >> 33
}
