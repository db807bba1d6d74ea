//! The thread that writes one capture: records come, packets go to the file, until a limit.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use phalanx_common::packet::LinkKind;
use phalanx_engine::filter::{Decision, LinkType, Program};
use phalanx_engine::{Hop, HopId, Link};
use tokio::sync::watch;

use super::past::{Held, Past};
use super::remains::Remains;
use super::request::Wanted;
use super::translated::{Flows, REMARKS_SIZE};
use super::view::{CaptureView, EndReason, LossKind};
use crate::clock::Clock;
use crate::daemon::Record;
use crate::lookback::RecentPacket;
use crate::pcapng::{Interface, Packet, Statistics, WriteError, Writer, gso_comment};
use crate::redaction::mask;
use crate::translation::Translations;

/// How often the thread hands over what it has written.
const TURN: Duration = Duration::from_millis(100);

/// Largest packet in the file with its block around it: the bound on size is checked before.
const BLOCK_OVERHEAD: u64 = 128;

/// Room for the statistics of one interface at the end of the file.
const STATISTICS_SIZE: u64 = 128;

/// What is known of a capture while it runs.
#[derive(Debug, Default)]
pub(super) struct Progress {
    pub(super) packets: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) filtered_out: AtomicU64,
    pub(super) undecided: AtomicU64,
    pub(super) queue_dropped: AtomicU64,
    /// Packets of the time before the request, by hop.
    pub(super) past: Mutex<BTreeMap<HopId, u64>>,
    /// Packets of that time that left the ring before they were read.
    pub(super) past_gone: AtomicU64,
}

impl Progress {
    /// That of a capture that stands so: it may go on.
    pub(super) fn of(view: &CaptureView, bytes: u64) -> Self {
        let hops = view.lookback.iter().flat_map(|it| &it.hops);
        let past: BTreeMap<_, _> = hops.map(|hop| (HopId(hop.hop), hop.packets)).collect();
        Self {
            packets: view.packets.into(),
            bytes: bytes.into(),
            filtered_out: view.filtered_out.into(),
            past: past.into(),
            ..Self::default()
        }
    }

    pub(super) fn load(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }
}

/// What the thread needs.
pub(super) struct Job {
    pub(super) wanted: Wanted,
    pub(super) hops: BTreeMap<HopId, Arc<Hop>>,
    pub(super) records: Receiver<Arc<Vec<Record>>>,
    /// What it begins with, where it looks back.
    pub(super) past: Option<Past>,
    /// What its file holds, where the capture goes on.
    pub(super) remains: Option<Remains>,
    /// Bits of the recording filters of this capture.
    pub(super) mask: u64,
    pub(super) progress: Arc<Progress>,
    /// Bytes that readers of the file can have.
    pub(super) flushed: watch::Sender<u64>,
    pub(super) clock: Clock,
    /// What connection tracking told.
    pub(super) translations: Arc<Translations>,
    pub(super) comment: String,
    /// Counts packets written, of all captures.
    pub(super) written: prometheus::IntCounter,
}

/// How the writing ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    /// The limit that ended it; absent where its records did.
    pub(super) end_reason: Option<EndReason>,
    /// Why the file could not be written.
    pub(super) failure: Option<(LossKind, String)>,
}

/// One interface of the file.
pub(super) struct Port {
    pub(super) index: usize,
    program: Program,
    statistics: Statistics,
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// It is in the file.
    Yes,
    /// The filter does not select it.
    LeftOut,
    /// The filter cannot tell, or its hop is not asked for.
    No,
    /// It reached a limit, which ends the capture.
    End(EndReason),
}

/// A file that is being written.
pub(super) struct Sheet<W: Write> {
    pub(super) writer: Writer<BufWriter<W>>,
    pub(super) ports: BTreeMap<HopId, Port>,
    pub(super) flows: Flows,
    scratch: Vec<u8>,
}

impl Job {
    /// Writes until a limit, an error, or the end of the records.
    pub(super) fn run(self, file: File) -> Outcome {
        let synced = file.try_clone();
        let outcome = self.write(file);
        // What cannot be synced was reported by the write, or the clone failed for want of
        // descriptors: the data is in the page cache then.
        if let Ok(file) = synced {
            let _ = file.sync_data();
        }
        outcome
    }

    fn write<W: Write>(self, output: W) -> Outcome {
        let mut ended = None;
        let result = self.sheet(output).and_then(|mut sheet| {
            let result = self.follow(&mut sheet).map(|reason| ended = reason);
            let closed = self.close(&mut sheet);
            result.and(closed)
        });
        match result {
            Ok(()) => Outcome {
                end_reason: ended,
                failure: None,
            },
            Err(error) => Outcome {
                end_reason: Some(EndReason::WriteFailed),
                failure: Some(describe(&error)),
            },
        }
    }

    /// Opens the file and describes its interfaces.
    fn sheet<W: Write>(&self, output: W) -> Result<Sheet<W>, WriteError> {
        let output = BufWriter::new(output);
        let (mut writer, mut known) = match &self.remains {
            None => (Writer::new(output, &self.comment)?, Vec::new()),
            Some(remains) => {
                let described: Vec<Interface> = remains.described().collect();
                let known = remains.interfaces.iter().enumerate().collect();
                (Writer::resume(output, remains.bytes, &described)?, known)
            }
        };
        let mut ports = BTreeMap::new();
        let request = &self.wanted.request;
        for (id, hop) in &self.hops {
            let link = link_type(hop.link);
            // A filter on the link layer that a hop does not have matches nothing there.
            let Ok(program) = self.wanted.filter.compile(link) else {
                continue;
            };
            let interface = Interface {
                name: hop.interface.to_string(),
                description: place(hop),
                link_type: u16::try_from(link.number()).unwrap_or(u16::MAX),
                snap_length: request.snaplen,
                filter: request.filter.clone(),
            };
            let place = known.iter().position(|(_, it)| it.is(&interface));
            let (index, written) = match place.map(|place| known.remove(place)) {
                Some((index, it)) => (index, it.packets),
                None => (writer.add_interface(&interface)?, 0),
            };
            let start_ns = self.clock.wall_ns(crate::clock::now());
            let statistics = Statistics {
                start_ns,
                seen: written,
                matched: written,
                written,
                ..Statistics::default()
            };
            ports.insert(
                *id,
                Port {
                    index,
                    program,
                    statistics,
                },
            );
        }
        let mut sheet = Sheet {
            writer,
            ports,
            flows: Flows::default(),
            scratch: Vec::new(),
        };
        self.flush(&mut sheet)?;
        Ok(sheet)
    }

    fn follow<W: Write>(&self, sheet: &mut Sheet<W>) -> Result<Option<EndReason>, WriteError> {
        // Of what goes on: the process before may have ended between the last one and the end.
        if Progress::load(&self.progress.packets) >= self.wanted.request.max_packets {
            return Ok(Some(EndReason::MaxPackets));
        }
        let mut held = Held::default();
        if let Some(past) = &self.past
            && let Some(reason) = self.look_back(sheet, past, &mut held)?
        {
            return Ok(Some(reason));
        }
        for batch in held.take() {
            if let Some(reason) = self.take_batch(sheet, &batch)? {
                return Ok(Some(reason));
            }
        }
        let mut flushed = Instant::now();
        loop {
            match self.records.recv_timeout(TURN) {
                Ok(batch) => {
                    if let Some(reason) = self.take_batch(sheet, &batch)? {
                        return Ok(Some(reason));
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
            }
            if flushed.elapsed() >= TURN {
                self.look_up(&mut sheet.flows, Instant::now());
                self.flush(sheet)?;
                flushed = Instant::now();
            }
        }
    }

    fn take_batch<W: Write>(
        &self,
        sheet: &mut Sheet<W>,
        batch: &[Record],
    ) -> Result<Option<EndReason>, WriteError> {
        for record in batch.iter().filter(|it| it.header.matched & self.mask != 0) {
            let packet = RecentPacket::new(record.hop, &record.header, &record.bytes);
            match self.take(sheet, &packet)? {
                Taken::End(reason) => return Ok(Some(reason)),
                Taken::LeftOut => {
                    self.progress.filtered_out.fetch_add(1, Ordering::Relaxed);
                }
                Taken::Yes | Taken::No => {}
            }
        }
        Ok(None)
    }

    /// Writes one packet, if the whole filter matches; tells where that reaches a limit.
    pub(super) fn take<W: Write>(
        &self,
        sheet: &mut Sheet<W>,
        packet: &RecentPacket<'_>,
    ) -> Result<Taken, WriteError> {
        let reserve = BLOCK_OVERHEAD + REMARKS_SIZE + STATISTICS_SIZE * sheet.ports.len() as u64;
        let Some(port) = sheet.ports.get_mut(&packet.hop) else {
            return Ok(Taken::No);
        };
        port.statistics.seen += 1;
        let tag = tag_beside(packet.vlan_tag, packet.has_ethernet);
        let tagged = retag(tag, packet.bytes, &mut sheet.scratch);
        let bytes = tagged.unwrap_or(packet.bytes);
        let grown = bytes.len() - packet.bytes.len();
        let grown_length = u32::try_from(grown).unwrap_or_default();
        let wire_length = packet.frame_length.saturating_add(grown_length);
        let request = &self.wanted.request;
        // Others may have asked for the payload of the same packet: it is not for this one, neither
        // to be kept nor to be asked about.
        let length = match request.snaplen as usize {
            0 => usize::from(packet.payload_offset) + grown,
            snaplen => snaplen,
        };
        let kept = &bytes[..bytes.len().min(length)];
        match port.program.decide(kept, wire_length) {
            Decision::Match => port.statistics.matched += 1,
            Decision::NoMatch => return Ok(Taken::LeftOut),
            Decision::Undecided => {
                self.progress.undecided.fetch_add(1, Ordering::Relaxed);
                return Ok(Taken::No);
            }
        }
        if sheet.writer.byte_count() + kept.len() as u64 + reserve > self.wanted.bytes_max {
            return Ok(Taken::End(EndReason::MaxBytes));
        }
        let mut masked = Vec::new();
        let kept = match &self.wanted.masks[..] {
            [] => kept,
            masks => {
                masked.extend_from_slice(kept);
                mask(
                    &mut masked,
                    usize::from(packet.payload_offset) + grown,
                    masks,
                );
                &masked
            }
        };
        let comment = match packet.gso_segments {
            0 | 1 => String::new(),
            segments => gso_comment(segments, packet.gso_size),
        };
        sheet.writer.write(&Packet {
            interface: port.index,
            time_ns: self
                .clock
                .wall_ns(phalanx_engine::Monotonic(packet.time_ns)),
            wire_length,
            bytes: kept,
            comment: &comment,
        })?;
        port.statistics.written += 1;
        let link = link_kind(packet.has_ethernet);
        sheet.flows.note(packet.hop, link, kept, wire_length);
        self.written.inc();
        let packets = self.progress.packets.fetch_add(1, Ordering::Relaxed) + 1;
        Ok(if packets >= request.max_packets {
            Taken::End(EndReason::MaxPackets)
        } else {
            Taken::Yes
        })
    }

    pub(super) fn flush<W: Write>(&self, sheet: &mut Sheet<W>) -> Result<(), WriteError> {
        sheet.writer.flush()?;
        let bytes = sheet.writer.byte_count();
        self.progress.bytes.store(bytes, Ordering::Relaxed);
        self.flushed.send_replace(bytes);
        Ok(())
    }

    fn close<W: Write>(&self, sheet: &mut Sheet<W>) -> Result<(), WriteError> {
        let end_ns = self.clock.wall_ns(crate::clock::now());
        for port in sheet.ports.values_mut() {
            port.statistics.end_ns = end_ns;
            sheet
                .writer
                .write_statistics(port.index, &port.statistics)?;
        }
        let written = sheet.writer.byte_count();
        let room = self.wanted.bytes_max.saturating_sub(written);
        self.write_translations(sheet, room)?;
        self.flush(sheet)
    }
}

/// Where a hop is, in words: the same whenever the host is watched, unlike its number.
fn place(hop: &Hop) -> String {
    let namespace = hop.namespace_name.as_deref().unwrap_or("own");
    let inode = hop.namespace.0;
    format!("on {}, network namespace {namespace} ({inode})", hop.host)
}

/// The frame with the VLAN tag put back that the kernel keeps beside it, as on the wire; absent
/// where there is none (`tag` is 0).
pub(crate) fn retag<'a>(tag: u16, frame: &[u8], scratch: &'a mut Vec<u8>) -> Option<&'a [u8]> {
    const ADDRESSES: usize = 12;
    const ETHERTYPE_VLAN: [u8; 2] = [0x81, 0x00];
    if tag == 0 || frame.len() < ADDRESSES {
        return None;
    }
    let (addresses, rest) = frame.split_at(ADDRESSES);
    scratch.clear();
    scratch.extend_from_slice(addresses);
    scratch.extend_from_slice(&ETHERTYPE_VLAN);
    scratch.extend_from_slice(&tag.to_be_bytes());
    scratch.extend_from_slice(rest);
    Some(scratch)
}

/// The tag beside a frame that begins with Ethernet, or 0.
pub(crate) const fn tag_beside(vlan_tag: u16, has_ethernet: bool) -> u16 {
    if has_ethernet { vlan_tag } else { 0 }
}

/// What a frame begins with.
const fn link_kind(has_ethernet: bool) -> LinkKind {
    match has_ethernet {
        true => LinkKind::Ethernet,
        false => LinkKind::None,
    }
}

pub(crate) const fn link_type(link: Link) -> LinkType {
    match link {
        Link::Ethernet | Link::Loopback => LinkType::Ethernet,
        Link::Ip => LinkType::Raw,
    }
}

fn describe(error: &WriteError) -> (LossKind, String) {
    let is_full = matches!(error, WriteError::Io(error) if matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    ));
    let kind = if is_full {
        LossKind::DiskFull
    } else {
        LossKind::WriteFailed
    };
    (kind, error.to_string())
}

#[cfg(test)]
#[path = "job_tests.rs"]
mod tests;
