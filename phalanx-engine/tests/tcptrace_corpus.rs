//! What the tracer tells of real captures, beside what tcptrace 6.6.7 tells of the same ones.
//!
//! Where the two mean different things by a word, the tracer's values are first put into
//! tcptrace's words ([`Ours`]); a difference that remains must have a [`Cause`], which a rule
//! finds from the connection, never from the name of a file.

#[path = "support/capture.rs"]
mod capture;
#[path = "support/tcptrace.rs"]
mod tcptrace;

use std::collections::BTreeMap;
use std::path::Path;

use phalanx_common::packet::{TcpFlags, protocol};
use phalanx_engine::record::PacketRecord;
use phalanx_engine::segment::{Class, Mark, Segment};
use phalanx_engine::story::{ConnectionState, FlowStory, SideStory};
use phalanx_engine::{Endpoint, Side, Sides};

use tcptrace::{Connection, Direction};

/// Fields compared, as tcptrace calls them.
const FIELDS: [&str; 26] = [
    "total packets",
    "ack pkts sent",
    "pure acks sent",
    "sack pkts sent",
    "dsack pkts sent",
    "unique bytes sent",
    "actual data pkts",
    "actual data bytes",
    "rexmt data pkts",
    "rexmt data bytes",
    "zwnd probe pkts",
    "outoforder pkts",
    "SYN pkts sent",
    "FIN pkts sent",
    "resets sent",
    "mss requested",
    "adv wind scale",
    "max segm size",
    "max win adv",
    "min win adv",
    "zero win adv",
    "RTT samples",
    "RTT min",
    "RTT max",
    "RTT avg",
    "RTT from 3WHS",
];

/// Compared beside them, as it needs a cause more often.
const DUPLICATE_ACKS: &str = "duplicate acks";

/// Why a value differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Cause {
    /// tcptrace saw no packet of this side or the other: they are wrapped in what it does not
    /// read.
    UnreadByTcptrace,
    /// The IP header tells of more bytes than the frame had; tcptrace believes the header.
    LengthBeyondFrame,
    /// A number that no field of a packet can hold.
    TcptraceOverflow,
    /// A packet captured twice is a retransmission to tcptrace: it spoils round trips, and its
    /// acknowledgements are duplicates.
    CopiesAreNoRetransmissions,
    /// The SYN was captured after its answer or after data, so that a hole was open, or a scale
    /// was not known yet.
    HandshakeOutOfOrder,
    /// Data of an older connection of the same endpoints.
    OlderConnection,
    /// A RST of an unknown connection: its payload is a diagnostic (RFC 9293 section 3.5.1).
    ResetPayload,
    /// tcptrace takes the RST that refuses a SYN for the handshake's second step.
    RefusalIsNoHandshake,
    /// The server sent data before the handshake's last step (RFC 7413).
    DataInHandshake,
    /// The acknowledgement covers bytes that were not captured: no round trip can be told.
    UnseenBytes,
    /// Numbers beyond any window.
    Implausible,
    /// A retransmission's timestamp tells which copy was acknowledged (RFC 7323 section 4).
    TimestampsTellCopies,
    /// tcptrace takes a smallest round trip of 0 for none.
    ZeroIsUnset,
    /// Its mean is cut to the tenth of a millisecond, and off by up to a part in five thousand.
    MeanIsCut,
    /// A FIN, or an acknowledgement while nothing is under way, is no duplicate (RFC 5681
    /// section 2), but is to tcptrace.
    NothingUnderWay,
    /// With SACK the window may move (RFC 6675 section 2).
    SackedDuplicates,
    /// An IP id is missing before it: a packet that was lost before the hop, which tcptrace, by
    /// numbers alone, cannot tell.
    MissingById,
    /// A SYN sent again without the option withdraws it; tcptrace keeps it.
    ScaleWithdrawn,
    /// A scale beyond 14 counts as 14 (RFC 7323 section 2.3).
    ScaleBeyondLimit,
    /// tcptrace ignores the options where reserved bits of the header are set.
    ReservedBits,
}

/// What tcptrace counts and a story does not, of one side: summed up from what the tracer says of
/// each packet.
#[derive(Clone, Copy, Debug, Default)]
struct Extra {
    acks: u64,
    /// Copies: all, and what they carry.
    copies: u64,
    copied_acks: u64,
    copied_sacks: u64,
    copied_data: u64,
    copied_bytes: u64,
    copied_sequences: u64,
    copied_numbers: u64,
    copied_syns: u64,
    copied_fins: u64,
    copied_resets: u64,
    copied_zero_windows: u64,
    /// SYN and FIN among what was sent again.
    repeated_controls: u64,
    /// Keep-alives with a byte, and those without.
    byte_probes: u64,
    bare_probes: u64,
    /// SYN or FIN that announce a window of 0.
    closed_controls: u64,
    window_min: u64,
    window_max: u64,
    syn_window_min: u64,
    syn_window_max: u64,
    /// Packets of an older connection of the same endpoints.
    strangers: u64,
    /// Packets that are no SYN.
    others: u64,
    /// Of the holes filled, those that no sequence number told.
    missing_ids: u64,
    /// Some SYN announced a window scale.
    has_scale: bool,
    /// SYN behind other packets of its sender.
    late_syns: u64,
    /// Frames shorter than their IP header says.
    short_frames: u64,
    /// Bytes of payload of RST.
    reset_bytes: u64,
    /// Bits that RFC 9293 reserves.
    reserved: u64,
    /// Packets without payload that acknowledge the same as the one before with the same window,
    /// and are not marked duplicates; and marked ones with SACK.
    plain_repeats: u64,
    sacked_duplicates: u64,
    last_ack: Option<(u64, u16)>,
}

impl Extra {
    fn take(&mut self, record: &PacketRecord<'_>, segment: &Segment) {
        let flags = record.flags();
        let has = |flag| u64::from(flags.any(flag));
        let length = u64::from(segment.length);
        let controls = has(TcpFlags::SYN) + has(TcpFlags::FIN);
        let is_control = flags.any(TcpFlags::SYN | TcpFlags::FIN | TcpFlags::RST);
        let is_pure = u64::from(flags.any(TcpFlags::ACK) && length == 0 && !is_control);
        self.acks += has(TcpFlags::ACK);
        let window = segment.window.unwrap_or(record.headers.window.into());
        let window = u64::from(window);
        let is_closed = flags.any(TcpFlags::ACK) && window == 0 && !flags.any(TcpFlags::RST);
        let class = segment.class;
        self.note(record, segment);
        if class.is_some_and(Class::is_copy) {
            self.copies += 1;
            self.copied_acks += is_pure;
            self.copied_sacks += u64::from(record.options.sack_block_count > 0);
            self.copied_data += u64::from(length > 0);
            self.copied_bytes += length;
            self.copied_sequences += u64::from(length + controls > 0);
            self.copied_numbers += length + controls;
            self.copied_syns += has(TcpFlags::SYN);
            self.copied_fins += has(TcpFlags::FIN);
            self.copied_resets += has(TcpFlags::RST);
            self.copied_zero_windows += u64::from(is_closed);
            return;
        }
        if class.is_some_and(Class::is_retransmission) {
            self.repeated_controls += controls;
        }
        if class == Some(Class::KeepAlive) {
            self.byte_probes += u64::from(length > 0);
        }
        if matches!(class, Some(Class::KeepAlive | Class::ZeroWindowProbe)) {
            self.bare_probes += is_pure;
        }
        self.closed_controls += u64::from(is_control && is_closed);
        self.strangers +=
            u64::from(class.is_none() && segment.marks.has(Mark::PortReuse) && !is_control);
        self.window(flags, window);
    }

    /// What causes are told by.
    fn note(&mut self, record: &PacketRecord<'_>, segment: &Segment) {
        let (flags, headers) = (record.flags(), record.headers);
        let is_syn = flags.any(TcpFlags::SYN);
        self.late_syns += u64::from(
            is_syn
                && (self.others > 0
                    || matches!(segment.class, Some(Class::Reordered | Class::FillsHole))),
        );
        self.others += u64::from(!is_syn);
        self.missing_ids += u64::from(segment.why.starts_with("a packet is missing by its IP id"));
        self.has_scale |= is_syn && record.options.window_scale_plus_one > 0;
        let at = headers.network_offset as usize;
        let total = record
            .bytes
            .get(at + 2..at + 4)
            .map_or(0, |it| usize::from(u16::from_be_bytes([it[0], it[1]])));
        let is_short = headers.version == 4 && at + total > record.wire_length as usize;
        self.short_frames += u64::from(is_short);
        if flags.any(TcpFlags::RST) {
            self.reset_bytes += u64::from(segment.length);
        }
        let at = headers.transport_offset as usize + 12;
        let bits = record.bytes.get(at).map_or(0, |it| it & 0x0e);
        self.reserved += u64::from(bits != 0);
        if let (0, Some(number)) = (segment.length, segment.acknowledgement) {
            let ack = (number, headers.window);
            let is_marked = segment.marks.has(Mark::DuplicateAck);
            self.plain_repeats += u64::from(self.last_ack == Some(ack) && !is_marked);
            self.sacked_duplicates += u64::from(is_marked && segment.marks.has(Mark::Sack));
        }
        if let Some(number) = segment.acknowledgement {
            self.last_ack = Some((number, headers.window));
        }
    }

    fn window(&mut self, flags: TcpFlags, window: u64) {
        if flags.any(TcpFlags::RST) || !flags.any(TcpFlags::ACK | TcpFlags::SYN) {
            return;
        }
        let (low, high) = if flags.any(TcpFlags::SYN) {
            (&mut self.syn_window_min, &mut self.syn_window_max)
        } else {
            (&mut self.window_min, &mut self.window_max)
        };
        *high = window.max(*high);
        *low = match (*low, window) {
            (low, 0) => low,
            (0, window) => window,
            (low, window) => low.min(window),
        };
    }
}

/// A flow as the tracer tells it.
struct Told {
    story: FlowStory,
    extra: Sides<Extra>,
}

/// One direction in tcptrace's words.
struct Ours<'a> {
    told: &'a Told,
    side: Side,
}

impl Ours<'_> {
    fn own(&self) -> &SideStory {
        self.told.story.sides.get(self.side)
    }

    fn peer(&self) -> &SideStory {
        self.told.story.sides.get(self.side.other())
    }

    fn extra(&self) -> &Extra {
        self.told.extra.get(self.side)
    }

    /// Both announce a window scale.
    fn is_scaled(&self) -> bool {
        self.own().window_scale.is_some() && self.peer().window_scale.is_some()
    }

    fn value(&self, field: &str) -> f64 {
        let milliseconds = |nanoseconds: Option<f64>| nanoseconds.unwrap_or(0.0) / 1e6;
        let rtt = &self.own().rtt;
        match field {
            "RTT min" => milliseconds(rtt.min_ns().map(|it| it as f64)),
            "RTT max" => milliseconds(rtt.max_ns().map(|it| it as f64)),
            "RTT avg" => milliseconds(rtt.mean_ns()),
            "RTT from 3WHS" => {
                let story = &self.told.story;
                let round_trip_ns = match self.side {
                    Side::Client => story.handshake_server_ns,
                    Side::Server => story.handshake_client_ns,
                };
                milliseconds(round_trip_ns.map(|it| it as f64))
            }
            _ => self.count(field) as f64,
        }
    }

    fn count(&self, field: &str) -> u64 {
        let (own, extra) = (self.own(), self.extra());
        let counts = &own.counts;
        match field {
            "total packets" => counts.packets + extra.copies,
            "ack pkts sent" => extra.acks,
            "pure acks sent" => {
                counts.pure_acks + extra.copied_acks + extra.bare_probes + extra.strangers
            }
            "sack pkts sent" => counts.sacks + extra.copied_sacks,
            "dsack pkts sent" => counts.dsacks,
            "unique bytes sent" => counts.unique_bytes,
            "actual data pkts" => counts.data_packets + extra.copied_data,
            "actual data bytes" => counts.payload_bytes + extra.copied_bytes,
            "rexmt data pkts" => {
                counts.retransmitted_packets + extra.copied_sequences + extra.byte_probes
            }
            "rexmt data bytes" => {
                counts.retransmitted_bytes
                    + extra.repeated_controls
                    + extra.copied_numbers
                    + extra.byte_probes
            }
            "zwnd probe pkts" => counts.zero_window_probes,
            "outoforder pkts" => counts.holes_filled + counts.reordered_packets,
            "SYN pkts sent" => counts.syns + extra.copied_syns,
            "FIN pkts sent" => counts.fins + extra.copied_fins,
            "resets sent" => counts.resets + extra.copied_resets,
            "mss requested" => own.mss.into(),
            "adv wind scale" => {
                let others = self.told.extra.client.others + self.told.extra.server.others;
                // Until another packet comes, tcptrace takes both sides to agree.
                let is_used = self.is_scaled() || others == 0;
                own.window_scale.filter(|_| is_used).map_or(0, u64::from)
            }
            "max segm size" => own.segment_max.into(),
            "max win adv" if self.is_scaled() && extra.window_max > 0 => extra.window_max,
            "max win adv" => extra.window_max.max(extra.syn_window_max),
            "min win adv" if self.is_scaled() && extra.window_min > 0 => extra.window_min,
            "min win adv" => match (extra.window_min, extra.syn_window_min) {
                (0, other) | (other, 0) => other,
                (one, other) => one.min(other),
            },
            "zero win adv" => {
                counts.zero_windows + extra.closed_controls + extra.copied_zero_windows
            }
            "RTT samples" => own.rtt.count(),
            "duplicate acks" => self.peer().counts.duplicate_acks,
            _ => unreachable!("{field}"),
        }
    }
}

/// A value of both that differs.
struct Difference<'a> {
    field: &'static str,
    ours: f64,
    its: f64,
    direction: &'a Ours<'a>,
    /// What tcptrace tells of this direction and the other one.
    told: [&'a Direction; 2],
}

impl Difference<'_> {
    /// Why, as far as the connection tells.
    fn cause(&self) -> Option<Cause> {
        self.cause_in_capture()
            .or_else(|| self.cause_in_round_trips())
            .or_else(|| self.cause_in_words())
    }

    fn extras(&self) -> (&Extra, &Extra) {
        let told = self.direction.told;
        let side = self.direction.side;
        (told.extra.get(side), told.extra.get(side.other()))
    }

    /// Causes that touch any field.
    fn cause_in_capture(&self) -> Option<Cause> {
        let (own, peer) = self.extras();
        let counts = &self.direction.own().counts;
        let peer_counts = &self.direction.peer().counts;
        let is_unread =
            |direction: &Direction| direction.get("total packets").is_none_or(|it| *it == 0.0);
        let has_both = counts.packets > 0 && peer_counts.packets > 0;
        Some(match self.field {
            _ if has_both && self.told.into_iter().any(is_unread) => Cause::UnreadByTcptrace,
            _ if own.short_frames > 0 => Cause::LengthBeyondFrame,
            "mss requested" | "max win adv" | "min win adv" if self.its > f64::from(1 << 30) => {
                Cause::TcptraceOverflow
            }
            _ if own.copies + peer.copies > 0 => Cause::CopiesAreNoRetransmissions,
            _ if own.late_syns + peer.late_syns > 0 => Cause::HandshakeOutOfOrder,
            _ if own.strangers + peer.strangers > 0 => Cause::OlderConnection,
            "max segm size" | "unique bytes sent" if own.reset_bytes > 0 => Cause::ResetPayload,
            _ if own.reserved > 0 => Cause::ReservedBits,
            _ if counts.implausible_packets + peer_counts.implausible_packets > 0 => {
                Cause::Implausible
            }
            _ => return None,
        })
    }

    fn cause_in_round_trips(&self) -> Option<Cause> {
        if !self.field.starts_with("RTT ") {
            return None;
        }
        let story = &self.direction.told.story;
        let (own, peer) = (self.direction.own(), self.direction.peer());
        let is_repeated = own.counts.retransmitted_packets > 0;
        Some(match self.field {
            "RTT avg" if (self.ours - self.its).abs() < 0.11 + self.ours / 5_000.0 => {
                Cause::MeanIsCut
            }
            "RTT min" if own.rtt.min_ns() < Some(1_000) => Cause::ZeroIsUnset,
            "RTT from 3WHS" if story.state == ConnectionState::Refused => {
                Cause::RefusalIsNoHandshake
            }
            "RTT from 3WHS" | "RTT samples" if story.handshake_client_ns.is_none() => {
                Cause::DataInHandshake
            }
            _ if peer.counts.acks_of_unseen > 0 => Cause::UnseenBytes,
            _ if own.has_timestamps && is_repeated => Cause::TimestampsTellCopies,
            _ => return None,
        })
    }

    fn cause_in_words(&self) -> Option<Cause> {
        let (own, peer) = self.extras();
        let more = self.its - self.ours;
        let scale = self.direction.own().window_scale;
        let scale_max = scale.max(self.direction.peer().window_scale);
        Some(match self.field {
            DUPLICATE_ACKS if more > 0.0 && more <= peer.plain_repeats as f64 => {
                Cause::NothingUnderWay
            }
            DUPLICATE_ACKS if more < 0.0 && -more <= peer.sacked_duplicates as f64 => {
                Cause::SackedDuplicates
            }
            "outoforder pkts" if -more == own.missing_ids as f64 => Cause::MissingById,
            "adv wind scale" if own.has_scale && scale.is_none() => Cause::ScaleWithdrawn,
            "max win adv" | "min win adv" | "adv wind scale" if scale_max >= Some(14) => {
                Cause::ScaleBeyondLimit
            }
            _ => return None,
        })
    }
}

/// How a field compares over all connections.
#[derive(Debug, Default)]
struct Row {
    compared: usize,
    equal: usize,
    /// The same of values of which one at least is not 0.
    told: usize,
    told_equal: usize,
    causes: BTreeMap<Cause, usize>,
    unexplained: Vec<String>,
}

#[derive(Default)]
struct Table {
    rows: BTreeMap<&'static str, Row>,
    matched: usize,
    /// Connections that only one of the two tells of, or that one tells as two.
    only_ours: usize,
    only_its: Vec<String>,
    split: Vec<String>,
}

impl Table {
    fn compare(&mut self, name: &str, told: &Told, connection: &Connection) {
        self.matched += 1;
        let endpoints = told.story.endpoints.expect("endpoints");
        let [one, other] = &connection.directions;
        for (host, both) in connection.hosts.iter().zip([[one, other], [other, one]]) {
            let side = if *host == endpoints.client {
                Side::Client
            } else {
                Side::Server
            };
            let ours = Ours { told, side };
            for field in FIELDS.into_iter().chain([DUPLICATE_ACKS]) {
                let place = format!("{name} flow {} #{}", told.story.flow, connection.number);
                self.field(field, &ours, both, &place);
            }
        }
    }

    fn field(
        &mut self,
        field: &'static str,
        direction: &Ours<'_>,
        told: [&Direction; 2],
        place: &str,
    ) {
        let row = self.rows.entry(field).or_default();
        // Fields that only some connections have are left out where they are 0.
        let (one, other) = (
            direction.value(field),
            told[0].get(field).copied().unwrap_or(0.0),
        );
        let difference = Difference {
            field,
            ours: one,
            its: other,
            direction,
            told,
        };
        let is_equal = if field.starts_with("RTT ") && field != "RTT samples" {
            (one - other).abs() <= 0.1
        } else {
            (one - other).abs() < 0.5
        };
        let is_told = one != 0.0 || other != 0.0;
        row.compared += 1;
        row.told += usize::from(is_told);
        if is_equal {
            row.equal += 1;
            row.told_equal += usize::from(is_told);
        } else if let Some(cause) = difference.cause() {
            *row.causes.entry(cause).or_default() += 1;
        } else {
            let side = direction.side;
            row.unexplained
                .push(format!("{place} {side:?}: {one} for {other}"));
        }
    }

    fn print(&self) {
        println!(
            "{} connections matched; only ours {}, only tcptrace's {}, split otherwise {}",
            self.matched,
            self.only_ours,
            self.only_its.len(),
            self.split.len()
        );
        println!(
            "{:<20} {:>8} {:>8} {:>8} {:>8} {:>8}  explained",
            "field", "compared", "equal", "not 0", "equal", "unexpl."
        );
        for (field, row) in &self.rows {
            println!(
                "{field:<20} {:>8} {:>7.2}% {:>8} {:>7.2}% {:>8}  {:?}",
                row.compared,
                100.0 * row.equal as f64 / row.compared as f64,
                row.told,
                100.0 * row.told_equal as f64 / row.told.max(1) as f64,
                row.unexplained.len(),
                row.causes
            );
        }
        for (field, row) in &self.rows {
            for line in row.unexplained.iter().take(40) {
                println!("{field}: {line}");
            }
        }
        for line in self.only_its.iter().chain(&self.split) {
            println!("{line}");
        }
    }
}

/// What the tracer tells of the TCP flows of a file.
fn tell(path: &Path) -> Option<Vec<Told>> {
    let (kind, frames) = capture::read(path)?;
    let mut extras = BTreeMap::<u64, Sides<Extra>>::new();
    let stories = capture::trace(kind, &frames, |record, segment| {
        if segment.protocol == protocol::TCP {
            let extra = extras.entry(segment.flow).or_default();
            extra.get_mut(segment.side).take(record, segment);
        }
    });
    let flows = stories
        .into_iter()
        .filter(|story| story.protocol == protocol::TCP);
    Some(
        flows
            .map(|story| Told {
                extra: extras.remove(&story.flow).unwrap_or_default(),
                story,
            })
            .collect(),
    )
}

fn pair(one: Endpoint, other: Endpoint) -> (Endpoint, Endpoint) {
    (one.min(other), one.max(other))
}

fn compare_file(table: &mut Table, name: &str, told: &[Told], connections: &[Connection]) {
    let mut ours = BTreeMap::<_, Vec<&Told>>::new();
    for flow in told {
        let ends = flow.story.endpoints.expect("endpoints");
        ours.entry(pair(ends.client, ends.server))
            .or_default()
            .push(flow);
    }
    let mut its = BTreeMap::<_, Vec<&Connection>>::new();
    for connection in connections {
        let [one, other] = connection.hosts;
        its.entry(pair(one, other)).or_default().push(connection);
    }
    for (ends, connections) in &its {
        let Some(flows) = ours.remove(ends) else {
            table
                .only_its
                .push(format!("{name}: only tcptrace tells of {ends:?}"));
            continue;
        };
        if flows.len() != connections.len() {
            let (one, other) = (flows.len(), connections.len());
            table
                .split
                .push(format!("{name}: {one} for {other} connections of {ends:?}"));
            continue;
        }
        for (flow, connection) in flows.iter().zip(connections) {
            table.compare(name, flow, connection);
        }
    }
    table.only_ours += ours.values().map(Vec::len).sum::<usize>();
}

#[test]
fn stories_say_what_tcptrace_says() {
    let Some(folder) = capture::shared_captures("stories_say_what_tcptrace_says") else {
        return;
    };
    let mut table = Table::default();
    let references = folder.join("ref");
    for path in capture::list(&references) {
        let relative = path
            .strip_prefix(&references)
            .expect("below")
            .to_string_lossy();
        let Some(name) = relative.strip_suffix(".tcptrace.txt.gz") else {
            continue;
        };
        let connections = tcptrace::read(&path);
        let Some(told) = tell(&folder.join(name)) else {
            table
                .only_its
                .push(format!("{name}: tcpdump or the parser refuses it"));
            continue;
        };
        compare_file(&mut table, name, &told, &connections);
    }
    table.print();
    for (field, row) in &table.rows {
        let allowed = row.compared / 100;
        assert!(
            row.unexplained.len() <= allowed,
            "{field}: {} of {} differ without a cause",
            row.unexplained.len(),
            row.compared
        );
    }
    assert!(table.matched > 1_000, "only {} matched", table.matched);
}
