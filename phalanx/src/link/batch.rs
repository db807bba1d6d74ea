//! Batches: what an agent tells, packed by [`Batcher`] and unpacked by [`open`] within bounds.
//!
//! **Invariant:** a batch names each hop that its items are of, so that one that comes after a gap
//! is understood without those before it.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::size_of;

use bytes::Bytes;
use phalanx_common::abi::{Attempt, FlowKey, FlowUpdate};
use phalanx_engine::{Input, Monotonic};
use prost::Message;

use super::limits::{
    BATCH_AGE_MAX, BATCH_BYTES_MAX, BATCH_HOP_COUNT_MAX, BATCH_ITEM_COUNT_MAX,
    BATCH_PLAIN_BYTES_MAX, PACK_LEVEL, PLAIN_BYTES_MAX, TEXT_LENGTH_MAX,
};
use super::protocol::item::Kind;
use super::protocol::{Batch, Contents, Hop, Item};
use super::told::Told;
use super::translate;

/// Number of the field `items` of [`Contents`].
const ITEMS_FIELD: u32 = 4;

/// Makes batches of what one run of an agent tells.
pub struct Batcher {
    run: u64,
    boot: Bytes,
    sequence: u64,
    first_item: u64,
    item_count: u32,
    /// The hops that are watched.
    hops: BTreeMap<u32, Hop>,
    /// Those of them that have vanished: flows that were read at their end may follow, until the
    /// next status.
    departed: Vec<u32>,
    /// Those that the batch under way is of; one that has vanished since is told all the same.
    named: BTreeMap<u32, Hop>,
    /// The items of the batch under way, encoded.
    items: Vec<u8>,
    began: Option<Monotonic>,
    packer: zstd::bulk::Compressor<'static>,
}

impl std::fmt::Debug for Batcher {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Batcher")
            .field("run", &self.run)
            .field("sequence", &self.sequence)
            .finish_non_exhaustive()
    }
}

impl Batcher {
    /// Begins a run; `boot` is the boot id of the host.
    ///
    /// # Errors
    /// No memory for packing.
    pub fn new(run: u64, boot: [u8; 16]) -> std::io::Result<Self> {
        Ok(Self {
            run,
            boot: Bytes::copy_from_slice(&boot),
            sequence: 0,
            first_item: 0,
            item_count: 0,
            hops: BTreeMap::new(),
            departed: Vec::new(),
            named: BTreeMap::new(),
            items: Vec::new(),
            began: None,
            packer: zstd::bulk::Compressor::new(PACK_LEVEL)?,
        })
    }

    /// Adds to the batch under way; whether it is full.
    pub fn tell(&mut self, told: &Told<'_>, now: Monotonic) -> bool {
        if let Told::Input(Input::HopAppeared(hop)) = told {
            self.hops.insert(hop.id.0, translate::hop_message(hop));
        }
        let Some(item) = translate::item(told) else {
            return false;
        };
        if let Some(hop) = self.hops.get(&item.hop)
            && !self.named.contains_key(&item.hop)
        {
            self.named.insert(item.hop, hop.clone());
        }
        match item.kind {
            Some(Kind::HopVanished(_)) => self.departed.push(item.hop),
            Some(Kind::Status(_)) => {
                for hop in self.departed.drain(..) {
                    self.hops.remove(&hop);
                }
            }
            _ => {}
        }
        prost::encoding::message::encode(ITEMS_FIELD, &item, &mut self.items);
        self.item_count += 1;
        self.began.get_or_insert(now);
        self.items.len() >= BATCH_PLAIN_BYTES_MAX
    }

    /// When the batch under way wants to be closed.
    #[must_use]
    pub fn due(&self) -> Option<Monotonic> {
        let age_max_ns = u64::try_from(BATCH_AGE_MAX.as_nanos()).unwrap_or(u64::MAX);
        self.began.map(|began| began.plus_ns(age_max_ns))
    }

    /// Closes the batch under way, if it holds anything. `now` and `wall_ns` are one instant.
    ///
    /// # Errors
    /// Packing failed: its items are lost, which the number of the next one tells.
    pub fn close(&mut self, now: Monotonic, wall_ns: u64) -> std::io::Result<Option<Batch>> {
        if self.item_count == 0 {
            return Ok(None);
        }
        let head = Contents {
            now_ns: now.0,
            wall_ns,
            hops: std::mem::take(&mut self.named).into_values().collect(),
            items: Vec::new(),
        };
        let mut plain = head.encode_to_vec();
        plain.append(&mut self.items);
        self.sequence += 1;
        let first_item = self.first_item;
        let item_count = std::mem::take(&mut self.item_count);
        self.first_item += u64::from(item_count);
        self.began = None;
        let body = self.packer.compress(&plain)?;
        Ok(Some(Batch {
            run: self.run,
            sequence: self.sequence,
            first_item,
            item_count,
            plain_length: u32::try_from(plain.len()).unwrap_or(u32::MAX),
            boot: self.boot.clone(),
            body: Bytes::from(body),
            dropped_batches: 0,
            is_last: false,
        }))
    }
}

/// A batch that was unpacked and checked.
#[derive(Debug)]
pub struct Opened {
    /// What it holds.
    pub contents: Contents,
    /// Who shares a clock.
    pub boot: [u8; 16],
}

/// Why a batch is refused: its agent is broken, or hostile.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It is larger than any batch.
    #[error("a batch of {0} bytes, {max} at most", max = BATCH_BYTES_MAX)]
    Size(usize),
    /// It unpacks to more than any batch, or not at all.
    #[error("a batch that cannot be unpacked: {0}")]
    Packing(String),
    /// It is no message.
    #[error("a batch that cannot be read: {0}")]
    Message(String),
    /// Its counts are not those of its contents.
    #[error("a batch whose {0} are not as many as it says, or too many")]
    Count(&'static str),
    /// A structure has another length.
    #[error("{0} of a wrong length")]
    Length(&'static str),
    /// Items are of hops that it does not name.
    #[error("an item of hop {0}, which the batch does not name")]
    Hop(u32),
}

/// Opens batches, one after the other: unpacking takes tables of some 160 KB, which it keeps.
pub struct Opener(zstd::bulk::Decompressor<'static>);

impl std::fmt::Debug for Opener {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Opener").finish_non_exhaustive()
    }
}

impl Opener {
    /// Ready to open.
    ///
    /// # Errors
    /// No memory for unpacking.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self(zstd::bulk::Decompressor::new()?))
    }

    /// Unpacks a batch and checks all of it.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn open(&mut self, batch: &Batch) -> Result<Opened, Malformed> {
        open(batch, &mut self.0)
    }
}

fn open(
    batch: &Batch,
    unpacker: &mut zstd::bulk::Decompressor<'static>,
) -> Result<Opened, Malformed> {
    let packed_length = batch.body.len();
    if packed_length > BATCH_BYTES_MAX {
        return Err(Malformed::Size(packed_length));
    }
    let plain_length = batch.plain_length as usize;
    if plain_length > PLAIN_BYTES_MAX {
        return Err(Malformed::Size(plain_length));
    }
    let boot = <[u8; 16]>::try_from(&*batch.boot).map_err(|_| Malformed::Length("a boot id"))?;
    let plain = unpacker
        .decompress(&batch.body, plain_length)
        .map_err(|error| Malformed::Packing(error.to_string()))?;
    if plain.len() != plain_length {
        return Err(Malformed::Count("bytes"));
    }
    // Each item takes two bytes at least, and some two hundred in memory.
    if batch.item_count as usize > BATCH_ITEM_COUNT_MAX
        || count_items(&plain) > BATCH_ITEM_COUNT_MAX
    {
        return Err(Malformed::Count("items"));
    }
    let contents = Contents::decode(Bytes::from(plain))
        .map_err(|error| Malformed::Message(error.to_string()))?;
    check(batch, &contents)?;
    Ok(Opened { contents, boot })
}

/// Counts fields of the outermost message without making anything of them; what is no message is
/// found out by its decoder.
fn count_items(plain: &[u8]) -> usize {
    let mut rest = plain;
    let mut count = 0;
    while let Ok(key) = prost::encoding::decode_varint(&mut rest) {
        let skipped = match key & 7 {
            0 => prost::encoding::decode_varint(&mut rest).map(|_| 0),
            1 => Ok(8),
            2 => prost::encoding::decode_varint(&mut rest),
            5 => Ok(4),
            _ => return count,
        };
        let Some(next) = skipped
            .ok()
            .and_then(|length| usize::try_from(length).ok())
            .and_then(|length| rest.get(length..))
        else {
            return count;
        };
        rest = next;
        count += 1;
    }
    count
}

fn check(batch: &Batch, contents: &Contents) -> Result<(), Malformed> {
    if contents.items.len() != batch.item_count as usize || contents.items.is_empty() {
        return Err(Malformed::Count("items"));
    }
    if contents.hops.len() > BATCH_HOP_COUNT_MAX {
        return Err(Malformed::Count("hops"));
    }
    for hop in &contents.hops {
        check_texts(&[&hop.namespace_name, &hop.interface])?;
    }
    let named: BTreeSet<u32> = contents.hops.iter().map(|hop| hop.id).collect();
    for item in &contents.items {
        check_item(item, &named)?;
    }
    Ok(())
}

fn check_item(item: &Item, named: &BTreeSet<u32>) -> Result<(), Malformed> {
    let of = |bytes: &Bytes, length: usize, what| match bytes.len() == length {
        true => Ok(()),
        false => Err(Malformed::Length(what)),
    };
    let is_of_hop = match &item.kind {
        Some(Kind::Update(bytes) | Kind::FlowRead(bytes)) => {
            of(bytes, size_of::<FlowUpdate>(), "an update")?;
            true
        }
        Some(Kind::FlowGone(gone)) => {
            of(&gone.key, size_of::<FlowKey>(), "a key")?;
            true
        }
        Some(Kind::Attempt(bytes)) => {
            of(bytes, size_of::<Attempt>(), "an attempt")?;
            true
        }
        Some(Kind::HopAppeared(_)) => true,
        Some(Kind::Name(fact)) => {
            check_name(fact)?;
            false
        }
        Some(Kind::Status(status)) => {
            if status.hops.len() > BATCH_HOP_COUNT_MAX
                || status.instances.len() > BATCH_HOP_COUNT_MAX
            {
                return Err(Malformed::Count("hops"));
            }
            false
        }
        // Of a hop that need not be known; or of a kind that a newer agent knows.
        Some(Kind::HopVanished(_) | Kind::Clock(_)) | None => false,
    };
    if is_of_hop && !named.contains(&item.hop) {
        return Err(Malformed::Hop(item.hop));
    }
    Ok(())
}

fn check_name(fact: &super::protocol::NameFact) -> Result<(), Malformed> {
    use super::protocol::name_fact::Fact;
    match &fact.fact {
        Some(Fact::SocketOwned(owned)) => {
            let container = owned.container_name.as_deref().unwrap_or("");
            check_texts(&[&owned.process, &owned.cgroup, container])
        }
        Some(Fact::ReverseName(name)) => check_texts(&[name.host.as_deref().unwrap_or("")]),
        _ => Ok(()),
    }
}

fn check_texts(texts: &[&str]) -> Result<(), Malformed> {
    match texts.iter().all(|text| text.len() <= TEXT_LENGTH_MAX) {
        true => Ok(()),
        false => Err(Malformed::Length("a text")),
    }
}
