//! The payload of the flows of a capture file, fed to [`Application`] as a tracker of segments
//! does: each byte of a stream once, at its offset.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;

use phalanx_common::packet::{Layers, LinkKind, TcpFlags, protocol};
use phalanx_engine::Side;
use phalanx_engine::application::{Application, ApplicationStory};
use phalanx_engine::record::{Decoded, PacketRecord};

/// One captured frame.
struct Frame {
    number: u64,
    time_ns: i64,
    wire_length: u32,
    bytes: Vec<u8>,
}

/// The link type and the frames of a file, as tcpdump reads it; nothing where it refuses.
fn read(path: &Path) -> Option<(u32, Vec<Frame>)> {
    let output = Command::new("tcpdump")
        .arg("--time-stamp-precision=nano")
        .arg("-r")
        .arg(path)
        .args(["-w", "-"])
        .output()
        .expect("run tcpdump");
    let bytes = output.stdout;
    let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    assert!(
        word(0).is_none_or(|magic| magic == 0xa1b2_3c4d),
        "little-endian nanoseconds"
    );
    let link = word(20)? & 0xffff;
    let mut frames = Vec::new();
    let mut at = 24;
    while let Some(wire_length) = word(at + 12) {
        let end = at + 16 + word(at + 8)? as usize;
        let Some(data) = bytes.get(at + 16..end) else {
            break;
        };
        frames.push(Frame {
            number: frames.len() as u64 + 1,
            time_ns: i64::from(word(at)?) * 1_000_000_000 + i64::from(word(at + 4)?),
            wire_length,
            bytes: data.to_vec(),
        });
        at = end;
    }
    Some((link, frames))
}

/// What one side of a stream has sent.
#[derive(Default)]
struct Stream {
    /// Sequence number of the first data byte.
    base: Option<u32>,
    /// Ranges of offsets that were seen, in their order.
    seen: Vec<(u64, u64)>,
    highest: u64,
}

impl Stream {
    fn begin(&mut self, sequence: u32) {
        self.base.get_or_insert(sequence);
    }

    /// The parts of a segment that are new.
    fn take(&mut self, sequence: u32, length: u64) -> Vec<(u64, u64)> {
        let base = *self.base.get_or_insert(sequence);
        let expected = base.wrapping_add(self.highest as u32);
        let distance = i64::from(sequence.wrapping_sub(expected).cast_signed());
        let begin = self.highest as i64 + distance;
        // Before the first byte that is known, or out of any window.
        if begin < 0 || distance > 1 << 24 {
            return Vec::new();
        }
        let (mut at, end) = (begin as u64, begin as u64 + length);
        let mut fresh = Vec::new();
        for (from, to) in &self.seen {
            if *to <= at {
                continue;
            }
            if *from >= end {
                break;
            }
            if *from > at {
                fresh.push((at, *from));
            }
            at = *to;
        }
        if at < end {
            fresh.push((at, end));
        }
        self.seen.extend(&fresh);
        self.seen.sort_unstable();
        self.seen.dedup_by(|later, earlier| {
            let touches = later.0 <= earlier.1;
            if touches {
                earlier.1 = earlier.1.max(later.1);
            }
            touches
        });
        self.highest = self.highest.max(end);
        fresh
    }
}

type End = ([u64; 2], u16);

struct Flow {
    client: End,
    application: Application,
    client_stream: Stream,
    server_stream: Stream,
    /// Sequence number of the client's SYN.
    opened: Option<u32>,
}

impl Flow {
    fn new(record: &PacketRecord<'_>, source: End, destination: End) -> Self {
        let flags = record.flags();
        let is_answer = flags.any(TcpFlags::SYN) && flags.any(TcpFlags::ACK);
        let is_server = is_answer || !flags.any(TcpFlags::SYN) && source.1 < destination.1;
        let (client, server) = if is_server {
            (destination, source)
        } else {
            (source, destination)
        };
        Self {
            client,
            application: Application::new(record.headers.protocol, client.1, server.1),
            client_stream: Stream::default(),
            server_stream: Stream::default(),
            opened: None,
        }
    }

    fn take(&mut self, record: &PacketRecord<'_>, side: Side) {
        let headers = record.headers;
        let payload = record.payload();
        let (length, time_ns) = (headers.payload_length, record.time_ns);
        if headers.protocol == protocol::UDP {
            let application = &mut self.application;
            return application.datagram(side, payload, length, time_ns, record.number);
        }
        let stream = match side {
            Side::Client => &mut self.client_stream,
            Side::Server => &mut self.server_stream,
        };
        let is_syn = record.flags().any(TcpFlags::SYN);
        let first = headers.sequence.wrapping_add(u32::from(is_syn));
        if is_syn {
            stream.begin(first);
        }
        if length == 0 {
            return;
        }
        let fresh = stream.take(first, length.into());
        let base = stream.base.unwrap_or_default();
        for (from, to) in fresh {
            let skip = base.wrapping_add(from as u32).wrapping_sub(first) as usize;
            let room = payload.get(skip..).unwrap_or_default();
            let captured = &room[..room.len().min((to - from) as usize)];
            let length = (to - from) as u32;
            let application = &mut self.application;
            application.stream(side, from, captured, length, time_ns, record.number);
        }
    }
}

/// What the flows of a file tell, in the order of their first packets; nothing where tcpdump or
/// the parser cannot read it.
pub(crate) fn stories(path: &Path) -> Vec<ApplicationStory> {
    let Some((link, frames)) = read(path) else {
        return Vec::new();
    };
    let Some(kind) = LinkKind::from_linktype(link) else {
        return Vec::new();
    };
    let (mut layers, mut open, mut flows) = (Layers::default(), HashMap::new(), Vec::new());
    for frame in &frames {
        let Ok(decoded) = Decoded::of(&mut layers, &frame.bytes, kind, frame.wire_length) else {
            continue;
        };
        let headers = &decoded.headers;
        if ![protocol::TCP, protocol::UDP].contains(&headers.protocol) || headers.is_fragmented {
            continue;
        }
        let record = decoded.record(frame.number, frame.time_ns, frame.wire_length, &frame.bytes);
        let source: End = (headers.source, headers.source_port);
        let destination: End = (headers.destination, headers.destination_port);
        let key = (
            headers.protocol,
            source.min(destination),
            source.max(destination),
        );
        let flags = record.flags();
        let is_opening = headers.protocol == protocol::TCP
            && flags.any(TcpFlags::SYN)
            && !flags.any(TcpFlags::ACK);
        let mut index = *open.entry(key).or_insert_with(|| {
            flows.push(Flow::new(&record, source, destination));
            flows.len() - 1
        });
        if is_opening && flows[index].opened.is_some_and(|it| it != headers.sequence) {
            flows.push(Flow::new(&record, source, destination));
            index = flows.len() - 1;
            open.insert(key, index);
        }
        let flow = &mut flows[index];
        if is_opening {
            flow.opened = Some(headers.sequence);
        }
        let side = if source == flow.client {
            Side::Client
        } else {
            Side::Server
        };
        flow.take(&record, side);
    }
    flows
        .into_iter()
        .map(|flow| flow.application.finish())
        .collect()
}
