//! `phalanx packets`: a capture to one line a frame.

use std::collections::BTreeMap;
use std::io::{BufWriter, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::ValueEnum;
use phalanx_common::packet::TcpFlags;
use phalanx_engine::record::PacketRecord;
use phalanx_engine::segment::Segment;
use phalanx_engine::wireshark::{Analysis, Wireshark};
use serde::Serialize;

use super::selection::{
    ConversationName, EXIT_DAMAGED, SelectionArguments, hop_name, refused, warn, warn_of_evicted,
    warn_of_refusals,
};
use super::{Format, ReaderGone};
use crate::analysis::{self, Told, interface_ids};
use crate::report::word;
use crate::view::protocol_name;

pub(super) const AFTER_HELP: &str = "\
Examples:
  phalanx packets trace.pcap | less -S
  phalanx packets --conversation tcp-17 trace.pcap
  phalanx packets --format json trace.pcap | jq 'select(.class == \"fast_retransmission\")'
  phalanx packets --compat wireshark --format json trace.pcap

Columns: frame, seconds since the first frame, conversation, addresses, flags, sequence and \
acknowledgement numbers counted from the first, payload bytes, window, what it is, and why.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 the capture is damaged (all before that counts).";

/// Whose classification stands beside our own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Compat {
    /// `tcp.analysis` by the rules of Wireshark 4.0.
    Wireshark,
}

/// What `phalanx packets` takes.
#[derive(Debug, clap::Args)]
pub struct PacketsArguments {
    /// The capture: pcap, pcapng or snoop, also gzip or zstd; `-` is the standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// How the packets are printed
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Another classification beside our own
    #[arg(long, value_enum)]
    compat: Option<Compat>,
    #[command(flatten)]
    selection: SelectionArguments,
}

pub(super) fn run(arguments: &PacketsArguments) -> anyhow::Result<ExitCode> {
    let stop = arguments.selection.stop()?;
    let request = arguments.selection.request(&arguments.file, &stop);
    let mut printer = Printer::new(arguments);
    let walked = analysis::walk(&request, |told| printer.tell(&told))?;
    let missing = printer.missing();
    printer.finish()?;
    let (error, damage) = (walked.error.as_ref(), walked.file.damage());
    let is_damaged = warn(&arguments.file, error, damage);
    warn_of_refusals(&arguments.file, &walked.refusals);
    warn_of_evicted(&arguments.file, walked.evicted_count);
    if let Some(refusal) = walked.refusals.list.first()
        && walked.refusals.are_all
    {
        return Err(refused(refusal));
    }
    if let Some(missing) = missing {
        return Err(missing);
    }
    Ok(ExitCode::from(if is_damaged { EXIT_DAMAGED } else { 0 }))
}

struct Printer {
    format: Format,
    wanted: Option<Wanted>,
    is_flushed: bool,
    wireshark: Option<Wireshark>,
    first_ns: Option<i64>,
    output: BufWriter<std::io::Stdout>,
    error: Option<std::io::Error>,
}

/// The only conversation to be printed.
struct Wanted {
    name: ConversationName,
    /// Of the file's hop.
    file: String,
    /// Whether the name's hop is that of an interface, as far as it was asked for.
    hops: BTreeMap<u32, bool>,
    is_found: bool,
}

impl Wanted {
    fn holds(&mut self, told: &Told<'_>) -> bool {
        let Ok((_, segment)) = &told.packet else {
            return false;
        };
        let (hop, bare) = self.name.parts();
        if segment.flow != self.name.flow || conversation(segment) != bare {
            return false;
        }
        let index = told.frame.interface;
        let is_hop = *self.hops.entry(index).or_insert_with(|| {
            let count = index as usize + 1;
            let id = || interface_ids(&self.file, told.interfaces, count).pop();
            hop.is_none_or(|hop| hop == self.file || id().as_deref() == Some(hop))
        });
        self.is_found |= is_hop;
        is_hop
    }
}

/// A frame as a line of JSON.
#[derive(Serialize)]
struct Line<'a> {
    number: u64,
    /// Seconds since the epoch, exactly.
    time: String,
    interface: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    unparsed: Option<&'static str>,
    #[serde(flatten)]
    packet: Option<Packet<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    wireshark: Option<Theirs>,
}

/// What Wireshark says, in the names of its fields behind `tcp.analysis.`.
#[derive(Serialize)]
struct Theirs {
    stream: u32,
    flags: Vec<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    duplicate_ack_num: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    acks_frame: Option<u64>,
    /// In seconds, as the others.
    #[serde(skip_serializing_if = "Option::is_none")]
    ack_rtt: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    initial_rtt: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rto: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_in_flight: Option<u32>,
}

impl Theirs {
    fn new(analysis: &Analysis) -> Self {
        let seconds = |time_ns: Option<i64>| time_ns.map(|it| it as f64 / 1e9);
        Self {
            stream: analysis.stream,
            flags: analysis.flags.iter().map(|flag| flag.name()).collect(),
            duplicate_ack_num: analysis.duplicate_ack_number,
            acks_frame: analysis.acks_frame,
            ack_rtt: seconds(analysis.ack_rtt_ns),
            initial_rtt: seconds(analysis.initial_rtt_ns),
            rto: seconds(analysis.rto_ns),
            bytes_in_flight: analysis.bytes_in_flight,
        }
    }
}

#[derive(Serialize)]
struct Packet<'a> {
    flow: String,
    protocol: &'a str,
    direction: &'static str,
    source: String,
    destination: String,
    length: u32,
    /// Fragments that it came in; 1 for a first fragment that the others never followed.
    #[serde(skip_serializing_if = "Option::is_none")]
    fragments: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    class: Option<&'static str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    why: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    marks: Vec<&'static str>,
    #[serde(flatten)]
    tcp: Option<Tcp>,
}

#[derive(Serialize)]
struct Tcp {
    flags: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    sequence: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    acknowledgement: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    window: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    acknowledged_frame: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rtt_us: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    flight: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    repeats_frame: Option<u64>,
}

impl Printer {
    fn new(arguments: &PacketsArguments) -> Self {
        let name = arguments.selection.conversation.clone();
        let wanted = name.map(|name| Wanted {
            name,
            file: hop_name(&arguments.file).to_owned(),
            hops: BTreeMap::new(),
            is_found: false,
        });
        Self {
            format: arguments.format,
            wanted,
            is_flushed: arguments.selection.follow,
            wireshark: arguments
                .compat
                .map(|Compat::Wireshark| Wireshark::new(std::process::id().into())),
            first_ns: None,
            output: BufWriter::with_capacity(1 << 16, std::io::stdout()),
            error: None,
        }
    }

    fn tell(&mut self, told: &Told<'_>) -> ControlFlow<()> {
        // It follows all streams, whichever is printed.
        let theirs = match (&mut self.wireshark, &told.packet) {
            (Some(wireshark), Ok((record, _))) => wireshark.handle(record),
            _ => None,
        };
        if self.wanted.as_mut().is_some_and(|it| !it.holds(told)) {
            return ControlFlow::Continue(());
        }
        let written = match self.format {
            Format::Json => self.json(told, theirs.as_ref()),
            Format::Text => self.text(told, theirs.as_ref()),
        };
        let written = written.and_then(|()| match self.is_flushed {
            true => self.output.flush(),
            false => Ok(()),
        });
        match written {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                self.error = Some(error);
                ControlFlow::Break(())
            }
        }
    }

    /// The error where nothing was printed of the conversation that is wanted.
    fn missing(&self) -> Option<anyhow::Error> {
        let wanted = self.wanted.as_ref().filter(|it| !it.is_found);
        wanted.map(|it| it.name.missing())
    }

    fn finish(mut self) -> anyhow::Result<()> {
        let flushed = self.output.flush();
        match self.error.map_or(flushed, Err) {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Err(ReaderGone.into()),
            written => written.context("write to the standard output"),
        }
    }

    fn json(&mut self, told: &Told<'_>, theirs: Option<&Analysis>) -> std::io::Result<()> {
        let frame = told.frame;
        let name = told
            .packet
            .as_ref()
            .map(|(_, segment)| protocol_name(segment.protocol));
        let line = Line {
            number: frame.number,
            time: seconds(frame.time_ns),
            interface: frame.interface,
            unparsed: told.packet.as_ref().err().map(|reason| reason.name()),
            packet: told.packet.as_ref().ok().map(|(record, segment)| {
                packet(record, segment, name.as_deref().unwrap_or_default())
            }),
            wireshark: theirs.map(Theirs::new),
        };
        serde_json::to_writer(&mut self.output, &line)?;
        self.output.write_all(b"\n")
    }

    fn text(&mut self, told: &Told<'_>, theirs: Option<&Analysis>) -> std::io::Result<()> {
        let frame = told.frame;
        let first_ns = *self.first_ns.get_or_insert(frame.time_ns);
        let since = seconds(frame.time_ns.saturating_sub(first_ns));
        let (record, segment) = match &told.packet {
            Ok(told) => told,
            Err(reason) => {
                let reason = reason.name();
                return writeln!(self.output, "{:>6} {since:>14} {reason}", frame.number);
            }
        };
        let (source, destination) = ends(record);
        let name = conversation(segment);
        write!(
            self.output,
            "{:>6} {since:>14} {name:<9} {source} > {destination}",
            frame.number
        )?;
        if record.headers.protocol == phalanx_common::packet::protocol::TCP {
            let flags = word::flags(TcpFlags(segment.flags), ",");
            write!(self.output, " [{flags}]")?;
            if let Some(number) = segment.sequence {
                write!(self.output, " seq {number}")?;
            }
            if let Some(number) = segment.acknowledgement {
                write!(self.output, " ack {number}")?;
            }
            if let Some(window) = segment.window {
                write!(self.output, " win {window}")?;
            }
        }
        write!(self.output, " len {}", segment.length)?;
        match record.fragment_count {
            0 if record.came_in_fragments() => write!(self.output, " first fragment alone")?,
            0 => {}
            count => write!(self.output, " in {count} fragments")?,
        }
        if let Some(class) = segment.class {
            write!(self.output, " {}", class.name())?;
        }
        for mark in segment.marks.iter() {
            write!(self.output, " {}", mark.name())?;
        }
        if let Some(frame) = segment.repeats_frame {
            write!(self.output, " of {frame}")?;
        }
        if let (Some(rtt_ns), Some(frame)) = (segment.rtt_ns, segment.acknowledged_frame) {
            write!(self.output, " rtt {:.3} ms of {frame}", rtt_ns as f64 / 1e6)?;
        }
        if let Some(theirs) = theirs.filter(|it| !it.flags.is_empty()) {
            let flags: Vec<&str> = theirs.flags.iter().map(|flag| flag.name()).collect();
            write!(self.output, " wireshark {}", flags.join(","))?;
        }
        let is_plain = segment.class == Some(phalanx_engine::segment::Class::New);
        if !segment.why.is_empty() && !is_plain {
            write!(self.output, ": {}", segment.why)?;
        }
        writeln!(self.output)
    }
}

fn packet<'a>(record: &PacketRecord<'_>, segment: &Segment, protocol: &'a str) -> Packet<'a> {
    let (source, destination) = ends(record);
    let is_tcp = record.headers.protocol == phalanx_common::packet::protocol::TCP;
    Packet {
        flow: conversation(segment),
        protocol,
        direction: word::direction(segment.side),
        source,
        destination,
        length: segment.length,
        fragments: record
            .came_in_fragments()
            .then(|| record.fragment_count.max(1)),
        class: segment.class.map(phalanx_engine::segment::Class::name),
        why: segment.why,
        marks: segment.marks.iter().map(|mark| mark.name()).collect(),
        tcp: is_tcp.then(|| Tcp {
            flags: word::flags(TcpFlags(segment.flags), ","),
            sequence: segment.sequence,
            acknowledgement: segment.acknowledgement,
            window: segment.window,
            acknowledged_frame: segment.acknowledged_frame,
            rtt_us: segment.rtt_ns.map(|it| it as f64 / 1e3),
            flight: segment.flight,
            repeats_frame: segment.repeats_frame,
        }),
    }
}

/// The name of a packet's conversation.
fn conversation(segment: &Segment) -> String {
    format!("{}-{}", protocol_name(segment.protocol), segment.flow)
}

fn ends(record: &PacketRecord<'_>) -> (String, String) {
    let (source, destination) = record.endpoints();
    let text = |end: phalanx_engine::Endpoint| match (end.port, end.address) {
        (0, address) => address.to_string(),
        (port, address) => std::net::SocketAddr::new(address, port).to_string(),
    };
    (text(source), text(destination))
}

/// Nanoseconds as seconds, exactly.
fn seconds(time_ns: i64) -> String {
    let sign = if time_ns < 0 { "-" } else { "" };
    let time_ns = time_ns.unsigned_abs();
    format!(
        "{sign}{}.{:09}",
        time_ns / 1_000_000_000,
        time_ns % 1_000_000_000
    )
}
