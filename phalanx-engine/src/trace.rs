//! Traces: flows followed packet by packet. Makes [`Segment`]s from [`PacketRecord`]s, and a
//! [`FlowStory`] from each flow when it ends.
//!
//! The same value serves files and recorded flows of a running host. Flows are told apart by the
//! symmetric 5-tuple and, in VXLAN and Geneve, the network identifier; VLANs do not tell them
//! apart, since a capture may hold both sides of a router.

mod account;
mod copy;
mod count;
mod datagram;
mod end;
mod ended;
mod grown;
mod icmp;
#[cfg(test)]
pub(crate) mod part;
mod reset;
mod sides;
mod silence;
mod tcp;

use std::hash::{Hash, Hasher};

use phalanx_common::packet::{Headers, TcpFlags, Tunnel, parse_quote, protocol};

use self::datagram::DatagramTrace;
use self::grown::Growth;
use self::icmp::IcmpError;
use self::silence::{Silences, Watched};
use self::tcp::TcpTrace;
use crate::ends::{End, Ends};
use crate::limits::{
    EVICTION_TRIES, TRACE_COUNT_MAX, TRACE_DETAIL_COUNT_MAX, TRACE_GROWN_BYTES_MAX,
    TRACE_SPARED_COUNT, TRACE_WATCHED_PER_DETAIL,
};
use crate::record::{Decoded, PacketRecord};
use crate::segment::{Class, Mark, Segment};
use crate::side::{RoleBasis, Side, Sides};
use crate::story::FlowStory;
use crate::table::{Fit, Hand, Keyed, Slot, Table};

pub use self::ended::Ended;

/// Times farther from the epoch are a file's fault, and taken for this one: half of the range, so
/// that any two have a difference. 146 years.
const TIME_MAX_NS: i64 = i64::MAX / 2;

/// Beyond this how long a flow was watched after its last packet is not told: when a silent flow
/// makes room depends on the others.
const WATCHED_AFTER_MAX_NS: i64 = 1_000_000_000;

/// What tells flows apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TraceKey {
    ends: Ends,
    hop: u32,
    network_identifier: u32,
    protocol: u8,
}

impl Hash for TraceKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.ends.hash(state);
        let rest = u64::from(self.hop) << 33 ^ u64::from(self.network_identifier) << 8;
        state.write_u64(rest ^ u64::from(self.protocol));
    }
}

impl TraceKey {
    fn of(headers: &Headers, hop: u32, tunnel: Tunnel) -> (Self, End) {
        let (ends, end) = Ends::of(headers);
        let network_identifier = match tunnel {
            Tunnel::Vxlan { vni } | Tunnel::Geneve { vni } => vni + 1,
            _ => 0,
        };
        let key = Self {
            ends,
            hop,
            network_identifier,
            protocol: headers.protocol,
        };
        (key, end)
    }
}

/// How much of a flow is kept.
enum Detail {
    /// A SYN and nothing else, or a SYN and the RST that refused it: kept as they are, to be taken
    /// in once there is more. A scan leaves a million of these, in a row and small.
    Opening(Opening),
    Tcp(Box<TcpTrace>),
    Datagram(Box<DatagramTrace>),
}

/// One SYN. Its number and time are those of its flow.
#[derive(Clone, Debug)]
struct Opening {
    syn: Kept,
    refusal: Option<Box<Refusal>>,
}

/// The RST that answered a SYN.
#[derive(Clone, Debug)]
struct Refusal {
    number: u64,
    time_ns: i64,
    packet: Kept,
}

/// A packet without payload.
#[derive(Clone, Debug)]
struct Kept {
    decoded: Decoded,
    wire_length: u32,
    /// The bytes that the addresses of the link layer are in, by which copies are told.
    link: [u8; 12],
}

struct Trace {
    key: TraceKey,
    /// Number of its first frame.
    flow: u64,
    last_frame: u64,
    client: End,
    role_basis: RoleBasis,
    start_ns: i64,
    end_ns: i64,
    reuses_ports: bool,
    /// The tracer's clock at its last packet.
    clock_ns: i64,
    /// See [`FlowStory::watched_after_ns`]; set at the end.
    watched_after_ns: i64,
    /// Whether its silence is watched.
    is_watched: bool,
    /// Seen since the eviction looked at it last.
    is_fresh: bool,
    detail: Detail,
}

impl Keyed for Trace {
    type Key = TraceKey;

    fn key(&self) -> TraceKey {
        self.key
    }
}

impl Trace {
    fn side(&self, end: End) -> Side {
        if end == self.client {
            Side::Client
        } else {
            Side::Server
        }
    }

    /// Whether a packet is the RST that answers its SYN, of which nothing else was seen.
    fn is_refused_by(&self, end: End, record: &PacketRecord<'_>) -> bool {
        let Detail::Opening(opening) = &self.detail else {
            return false;
        };
        opening.refusal.is_none()
            && self.side(end) == Side::Server
            && record.flags().any(TcpFlags::RST)
            && record.headers.payload_length == 0
            && record.options.sack_block_count == 0
    }

    /// How it ends by silence, where it does.
    fn watched(&self) -> Option<Watched> {
        match &self.detail {
            Detail::Tcp(tcp) => tcp.is_over().then_some(Watched::Closed),
            Detail::Datagram(_) => Some(Watched::Datagram),
            Detail::Opening(opening) => opening.refusal.as_ref().map(|_| Watched::Closed),
        }
    }

    /// Ends it at a time of the tracer's clock.
    fn end(mut self, clock_ns: i64) -> Ended {
        let after_ns = clock_ns.saturating_sub(self.clock_ns);
        self.watched_after_ns = after_ns.clamp(0, WATCHED_AFTER_MAX_NS);
        Ended::from(self)
    }

    /// Whether it has ended by silence.
    fn is_silent(&self, clock_ns: i64) -> bool {
        let silence_ns = clock_ns.saturating_sub(self.clock_ns);
        self.watched()
            .is_some_and(|watched| silence_ns > watched.silence_max_ns())
    }

    fn finish(self) -> Box<FlowStory> {
        let ends = self.key.ends;
        let mut story = Box::new(FlowStory {
            hop: self.key.hop,
            flow: self.flow,
            last_frame: self.last_frame,
            protocol: self.key.protocol,
            endpoints: Some(Sides {
                client: ends.endpoint(self.client),
                server: ends.endpoint(self.client.other()),
            }),
            role_basis: Some(self.role_basis),
            start_ns: self.start_ns,
            duration_ns: self.end_ns.saturating_sub(self.start_ns),
            watched_after_ns: self.watched_after_ns,
            reuses_ports: self.reuses_ports,
            network_identifier: self.key.network_identifier.checked_sub(1),
            ..FlowStory::default()
        });
        match self.detail {
            Detail::Opening(opening) => {
                opening.trace(self.flow, self.start_ns).finish(&mut story);
            }
            Detail::Tcp(trace) => trace.finish(&mut story),
            Detail::Datagram(trace) => trace.finish(&mut story),
        }
        story
    }
}

impl Opening {
    fn new(record: &PacketRecord<'_>) -> Self {
        Self {
            syn: Kept::new(record),
            refusal: None,
        }
    }

    /// The trace of the packets that were kept: the first of `flow`, at `time_ns`.
    fn trace(&self, flow: u64, time_ns: i64) -> TcpTrace {
        let syn = self.syn.record(flow, time_ns);
        let mut trace = TcpTrace::new(&syn, Side::Client);
        trace.take(&syn, Side::Client, false);
        if let Some(refusal) = &self.refusal {
            let rst = refusal.packet.record(refusal.number, refusal.time_ns);
            trace.take(&rst, Side::Server, false);
        }
        trace
    }

    /// Takes the RST in that refuses the SYN.
    fn refuse(&mut self, record: &PacketRecord<'_>, flow: u64, time_ns: i64) -> Segment {
        let segment = self.trace(flow, time_ns).take(record, Side::Server, false);
        self.refusal = Some(Box::new(Refusal {
            number: record.number,
            time_ns: record.time_ns,
            packet: Kept::new(record),
        }));
        segment
    }
}

impl Kept {
    fn new(record: &PacketRecord<'_>) -> Self {
        Self {
            decoded: Decoded {
                headers: *record.headers,
                options: *record.options,
                encapsulation: record.encapsulation,
                fragment_count: record.fragment_count,
            },
            wire_length: record.wire_length,
            link: record.bytes.first_chunk().copied().unwrap_or_default(),
        }
    }

    fn record(&self, number: u64, time_ns: i64) -> PacketRecord<'_> {
        self.decoded
            .record(number, time_ns, self.wire_length, &self.link)
    }
}

/// What could not be followed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TraceTally {
    /// Packets taken in.
    pub packets: u64,
    /// Flows ended early to make room; one that goes on begins anew, in the middle.
    pub evicted: u64,
    /// Segments that were not kept until those before them came, and messages that were given up,
    /// because all flows together held too much.
    pub payloads_unkept: u64,
}

/// How much a tracer may hold.
#[derive(Clone, Copy, Debug)]
pub struct TraceLimits {
    /// Flows at once.
    pub flow_count_max: usize,
    /// Of these, flows that more was seen of than one SYN.
    pub detail_count_max: usize,
    /// Bytes that all flows together may grow to; from three quarters on each gets less.
    pub grown_bytes_max: usize,
}

/// The flows of one hop, or those of them that fall to one shard.
pub struct Tracer {
    traces: Table<Trace>,
    detail_count: usize,
    growth: Growth,
    /// The flow that gave memory back last.
    spared: Slot,
    limits: TraceLimits,
    hand: Hand,
    /// The latest time of all packets so far.
    clock_ns: i64,
    silences: Silences,
    done: Vec<Ended>,
    tally: TraceTally,
}

impl Tracer {
    /// Follows no flow yet. `seed` is of its hash: flow keys are chosen by others.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self::one_of(1, seed)
    }

    /// One of `count` that share the limits among them.
    #[must_use]
    pub fn one_of(count: usize, seed: u64) -> Self {
        let part = |limit: usize| limit / count.max(1);
        let limits = TraceLimits {
            flow_count_max: part(TRACE_COUNT_MAX),
            detail_count_max: part(TRACE_DETAIL_COUNT_MAX),
            grown_bytes_max: part(TRACE_GROWN_BYTES_MAX),
        };
        Self::with_limits(limits, seed)
    }

    /// One with limits of its own; each counts as 1 at least.
    #[must_use]
    pub fn with_limits(limits: TraceLimits, seed: u64) -> Self {
        let limits = TraceLimits {
            flow_count_max: limits.flow_count_max.max(1),
            detail_count_max: limits.detail_count_max.max(1),
            grown_bytes_max: limits.grown_bytes_max.max(1),
        };
        Self {
            traces: Table::new(limits.flow_count_max, seed),
            limits,
            detail_count: 0,
            growth: Growth::new(limits.grown_bytes_max),
            spared: 0,
            hand: Hand::default(),
            clock_ns: i64::MIN,
            silences: Silences::new(limits.detail_count_max * TRACE_WATCHED_PER_DETAIL),
            done: Vec::new(),
            tally: TraceTally::default(),
        }
    }

    /// What could not be followed.
    #[must_use]
    pub const fn tally(&self) -> TraceTally {
        self.tally
    }

    /// Bytes that the flows take, tables counted: looks at each of them.
    #[must_use]
    pub fn size(&self) -> usize {
        let of = |slot| match self.traces.get(slot).map(|trace| &trace.detail) {
            Some(Detail::Tcp(trace)) => trace.size(),
            Some(Detail::Datagram(trace)) => trace.size(),
            Some(Detail::Opening(opening)) => {
                opening.refusal.as_deref().map_or(0, size_of_val::<Refusal>)
            }
            None => 0,
        };
        let flows: usize = (0..self.traces.slot_end()).map(of).sum();
        flows + self.traces.capacity() + self.silences.capacity()
    }

    /// Sets the clock to the time of a packet that another tracer of the same capture takes in:
    /// what is silent for long ends by the latest time of all. A clock never goes back.
    pub fn advance(&mut self, time_ns: i64) {
        self.clock_ns = self.clock_ns.max(time_ns.clamp(-TIME_MAX_NS, TIME_MAX_NS));
    }

    /// Takes a packet in. Packets of one flow must come in the order of their capture.
    pub fn handle(&mut self, record: &PacketRecord<'_>) -> Segment {
        if phalanx_common::packet::is_error(record.headers) {
            self.handle_quote(record);
        }
        self.handle_own(record)
    }

    /// Takes an ICMP error in as what it says of the flow that it quotes, where another tracer
    /// follows its own.
    pub fn handle_quote(&mut self, record: &PacketRecord<'_>) {
        self.advance(record.time_ns);
        self.icmp_error(record);
    }

    /// Takes a packet in as one of its own flow, and nothing that it quotes.
    pub fn handle_own(&mut self, record: &PacketRecord<'_>) -> Segment {
        if record.time_ns.saturating_abs() > TIME_MAX_NS {
            let mut record = *record;
            record.time_ns = record.time_ns.clamp(-TIME_MAX_NS, TIME_MAX_NS);
            return self.handle_own(&record);
        }
        self.tally.packets += 1;
        self.advance(record.time_ns);
        self.reclaim_silent();
        if self.growth.is_used_up() {
            self.end_for_growth();
        }
        let (key, end) = TraceKey::of(record.headers, record.hop, record.encapsulation.tunnel);
        let mut found = self.traces.find(&key);
        if let Some(slot) = found
            && self.is_silent(slot)
        {
            self.end(slot);
            found = None;
        }
        let reused = found.filter(|slot| self.is_other_connection(*slot, end, record));
        if let Some(slot) = reused {
            self.end(slot);
        }
        let slot = match found {
            Some(slot) if reused.is_none() => Some(slot),
            _ => self.open(key, end, record, reused.is_some()),
        };
        let segment = slot.and_then(|slot| self.take(slot, end, record));
        let mut segment = segment.unwrap_or_else(|| tcp::blank(record, Side::Client));
        if reused.is_some() {
            segment.marks.set(Mark::PortReuse);
        }
        segment
    }

    /// Ends all flows, one after the other as they are asked for; those that ended before come
    /// first.
    pub fn finish(&mut self) -> impl Iterator<Item = Ended> + use<> {
        self.detail_count = 0;
        self.growth.clear();
        let done = std::mem::take(&mut self.done);
        let clock_ns = self.clock_ns;
        done.into_iter()
            .chain(self.traces.take_all().map(move |trace| trace.end(clock_ns)))
    }

    /// Drains the flows that have ended.
    pub fn ended(&mut self) -> impl Iterator<Item = Ended> + '_ {
        self.done.drain(..)
    }

    /// Drains the stories of flows that have ended.
    pub fn stories(&mut self) -> impl Iterator<Item = Box<FlowStory>> + '_ {
        self.ended().map(Ended::into_story)
    }

    fn is_silent(&self, slot: Slot) -> bool {
        let trace = self.traces.get(slot);
        trace.is_some_and(|trace| trace.is_silent(self.clock_ns))
    }

    /// Ends flows that have been silent for long; looks at two at most.
    fn reclaim_silent(&mut self) {
        for _ in 0..2 {
            let Some(due) = self.silences.pop_due(self.clock_ns) else {
                return;
            };
            let trace = self.traces.get_mut(due.slot);
            let Some(trace) = trace.filter(|trace| trace.flow == due.flow && trace.is_watched)
            else {
                continue;
            };
            trace.is_watched = false;
            if trace.is_silent(self.clock_ns) {
                self.end(due.slot);
            } else {
                watch(trace, due.slot, &mut self.silences);
            }
        }
    }

    fn is_other_connection(&self, slot: Slot, end: End, record: &PacketRecord<'_>) -> bool {
        if !record.flags().any(TcpFlags::SYN) {
            return false;
        }
        let Some(trace) = self.traces.get(slot) else {
            return false;
        };
        match &trace.detail {
            Detail::Opening(opening) => {
                is_first_syn(record)
                    && opening.syn.decoded.headers.sequence != record.headers.sequence
            }
            Detail::Tcp(tcp) => tcp.is_other_connection(record, trace.side(end)),
            Detail::Datagram(_) => false,
        }
    }

    fn open(
        &mut self,
        key: TraceKey,
        end: End,
        record: &PacketRecord<'_>,
        reuses_ports: bool,
    ) -> Option<Slot> {
        if self.traces.is_full() {
            self.evict(|_| true);
        }
        let (client, role_basis) = role(record, end);
        let detail = if is_first_syn(record) && record.headers.payload_length == 0 {
            Detail::Opening(Opening::new(record))
        } else {
            self.make_room_for_detail();
            let side = if end == client {
                Side::Client
            } else {
                Side::Server
            };
            new_detail(record, side)
        };
        self.traces.insert_new(Trace {
            key,
            flow: record.number,
            last_frame: record.number,
            client,
            role_basis,
            start_ns: record.time_ns,
            end_ns: record.time_ns,
            reuses_ports,
            clock_ns: self.clock_ns,
            watched_after_ns: 0,
            is_watched: false,
            is_fresh: false,
            detail,
        })
    }

    /// Makes the trace of a flow of which more than its SYN is seen.
    fn detail(&mut self, slot: Slot) {
        let trace = self.traces.get(slot);
        if !trace.is_some_and(|trace| matches!(trace.detail, Detail::Opening(_))) {
            return;
        }
        self.make_room_for_detail();
        if let Some(trace) = self.traces.get_mut(slot)
            && let Detail::Opening(opening) = &trace.detail
        {
            let tcp = opening.trace(trace.flow, trace.start_ns);
            trace.detail = Detail::Tcp(Box::new(tcp));
        }
    }

    /// Counts one more flow that is traced in detail, and ends others so that they stay within
    /// their bound. Two for one: where the hand finds none, the next ones make up for it.
    fn make_room_for_detail(&mut self) {
        for _ in 0..2 {
            if self.detail_count < self.limits.detail_count_max {
                break;
            }
            self.evict(|trace| !matches!(trace.detail, Detail::Opening(_)));
        }
        self.detail_count += 1;
    }

    fn take(&mut self, slot: Slot, end: End, record: &PacketRecord<'_>) -> Option<Segment> {
        let trace = self.traces.get(slot)?;
        if trace.flow != record.number && !trace.is_refused_by(end, record) {
            self.detail(slot);
        }
        let is_scarce = self.growth.is_scarce();
        if is_scarce {
            self.spare();
        }
        let trace = self.traces.get_mut(slot)?;
        let is_first = trace.flow == record.number;
        // A first fragment that was waited for in vain comes late.
        trace.last_frame = trace.last_frame.max(record.number);
        trace.end_ns = trace.end_ns.max(record.time_ns);
        trace.clock_ns = self.clock_ns;
        // One that says nothing more, as of a scan, makes room first.
        trace.is_fresh = !is_first;
        let side = trace.side(end);
        let mut segment = match &mut trace.detail {
            Detail::Tcp(tcp) => {
                let segment = tcp.take(record, side, is_scarce);
                if is_scarce {
                    self.tally.payloads_unkept += u64::from(tcp.spare());
                }
                let bytes = tcp.grown_bytes();
                self.growth.count(tcp.grown(), bytes);
                segment
            }
            Detail::Datagram(datagram) => {
                let segment = datagram.take(record, side, is_scarce);
                if is_scarce {
                    self.tally.payloads_unkept += u64::from(datagram.spare());
                }
                let bytes = datagram.grown_bytes();
                self.growth.count(datagram.grown(), bytes);
                segment
            }
            Detail::Opening(opening) if !is_first => {
                opening.refuse(record, trace.flow, trace.start_ns)
            }
            Detail::Opening(_) => {
                let mut segment = tcp::blank(record, side);
                segment.class = Some(Class::New);
                segment.why = "begins the sequence";
                segment.sequence = Some(0);
                segment.flight = Some(u64::from(record.sequence_length()));
                segment.window = Some(u32::from(record.headers.window));
                segment
            }
        };
        segment.flow = trace.flow;
        if !trace.is_watched {
            watch(trace, slot, &mut self.silences);
        }
        Some(segment)
    }

    fn icmp_error(&mut self, record: &PacketRecord<'_>) {
        let Ok(quoted) = parse_quote(record.bytes, record.headers) else {
            return;
        };
        let (key, end) = TraceKey::of(&quoted, record.hop, record.encapsulation.tunnel);
        let Some(slot) = self.traces.find(&key) else {
            return;
        };
        if self.is_silent(slot) {
            return;
        }
        self.detail(slot);
        let Some(trace) = self.traces.get_mut(slot) else {
            return;
        };
        let (side, error) = (trace.side(end), IcmpError::of(record));
        match &mut trace.detail {
            Detail::Tcp(tcp) => tcp.icmp_error(side, error.mtu, error.is_refusal),
            Detail::Datagram(datagram) => datagram.icmp_error(side, error.mtu),
            Detail::Opening(_) => {}
        }
    }

    /// Has flows give memory back, a few in turn: those that are silent hold some too.
    fn spare(&mut self) {
        for _ in 0..TRACE_SPARED_COUNT {
            self.spared = (self.spared + 1) % self.traces.slot_end().max(1);
            let Some(trace) = self.traces.get_mut(self.spared) else {
                continue;
            };
            match &mut trace.detail {
                Detail::Opening(_) => {}
                Detail::Tcp(tcp) => {
                    self.tally.payloads_unkept += u64::from(tcp.spare());
                    let bytes = tcp.grown_bytes();
                    self.growth.count(tcp.grown(), bytes);
                }
                Detail::Datagram(datagram) => {
                    self.tally.payloads_unkept += u64::from(datagram.spare());
                    let bytes = datagram.grown_bytes();
                    self.growth.count(datagram.grown(), bytes);
                }
            }
        }
    }

    /// Ends flows until the others have grown to no more than they may.
    fn end_for_growth(&mut self) {
        while self.growth.is_used_up() {
            let count = self.detail_count;
            self.evict(|trace| !matches!(trace.detail, Detail::Opening(_)));
            if self.detail_count == count {
                return;
            }
        }
    }

    fn end(&mut self, slot: Slot) {
        let Some(mut trace) = self.traces.remove(slot) else {
            return;
        };
        match &mut trace.detail {
            Detail::Opening(_) => {}
            Detail::Tcp(tcp) => {
                self.detail_count -= 1;
                self.growth.forget(*tcp.grown());
            }
            Detail::Datagram(datagram) => {
                self.detail_count -= 1;
                self.growth.forget(*datagram.grown());
            }
        }
        self.done.push(trace.end(self.clock_ns));
    }

    /// Ends a flow that was silent for a round of the hand, of those that are meant. Only so many
    /// are looked at; where none of them was silent the last one goes.
    fn evict(&mut self, is_meant: impl Fn(&Trace) -> bool) {
        let slot = self
            .hand
            .turn(&mut self.traces, 4 * EVICTION_TRIES, |trace| {
                let is_fresh = std::mem::take(&mut trace.is_fresh);
                match is_meant(trace) {
                    false => Fit::Stays,
                    true if is_fresh => Fit::Fresh,
                    true => Fit::Stale,
                }
            });
        if let Some(slot) = slot {
            self.tally.evicted += 1;
            self.end(slot);
        }
    }
}

/// Whether a packet asks for a connection.
fn is_first_syn(record: &PacketRecord<'_>) -> bool {
    let flags = record.flags();
    flags.any(TcpFlags::SYN) && !flags.any(TcpFlags::ACK)
}

/// Watches a flow that may end by silence.
fn watch(trace: &mut Trace, slot: Slot, silences: &mut Silences) {
    if let Some(watched) = trace.watched() {
        trace.is_watched = silences.watch(watched, slot, trace.flow, trace.clock_ns);
    }
}

fn new_detail(record: &PacketRecord<'_>, side: Side) -> Detail {
    if record.headers.protocol == protocol::TCP {
        Detail::Tcp(Box::new(TcpTrace::new(record, side)))
    } else {
        Detail::Datagram(Box::new(DatagramTrace::new(record, side)))
    }
}

/// Who is the client, as the first packet tells.
fn role(record: &PacketRecord<'_>, sender: End) -> (End, RoleBasis) {
    let receiver = sender.other();
    let headers = record.headers;
    if headers.protocol == protocol::TCP && headers.tcp_flags.any(TcpFlags::SYN) {
        let is_answer = headers.tcp_flags.any(TcpFlags::ACK);
        return (if is_answer { receiver } else { sender }, RoleBasis::Opener);
    }
    let by_port = crate::role::by_port(headers.source_port, headers.destination_port);
    match by_port {
        Some(is_source) => (if is_source { sender } else { receiver }, RoleBasis::Port),
        None => (sender, RoleBasis::FirstPayload),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::APPLICATION_BYTES_MAX;

    #[test]
    fn answered_openings_stay_within_the_bound_of_details() {
        const DETAIL_COUNT_MAX: usize = 64;
        let limits = TraceLimits {
            flow_count_max: 1_024,
            detail_count_max: DETAIL_COUNT_MAX,
            grown_bytes_max: 1 << 20,
        };
        let mut tracer = Tracer::with_limits(limits, 1);
        let mut number = 0;
        for flags in [TcpFlags::SYN, TcpFlags::SYN | TcpFlags::ACK] {
            for port in 1..=1_000_u16 {
                let mut decoded = Decoded::default();
                decoded.headers.protocol = protocol::TCP;
                decoded.headers.tcp_flags = TcpFlags(flags);
                let ports = [port, 0];
                let is_answer = usize::from(flags != TcpFlags::SYN);
                decoded.headers.source_port = ports[is_answer];
                decoded.headers.destination_port = ports[1 - is_answer];
                number += 1;
                tracer.handle(&decoded.record(number, 0, 60, &[]));
                // A scan of the hand that finds no detail lets one more in.
                let count = tracer.detail_count;
                assert!(count <= DETAIL_COUNT_MAX + 1_024 / 64, "{count} details");
            }
        }
        let is_detail = |trace: &Trace| !matches!(trace.detail, Detail::Opening(_));
        let slots = 0..tracer.traces.slot_end();
        let details = slots
            .filter_map(|slot| tracer.traces.get(slot))
            .filter(|it| is_detail(it));
        assert_eq!(details.count(), tracer.detail_count);
        assert_eq!(tracer.finish().count() as u64, 1_000);
        assert_eq!(tracer.detail_count, 0);
    }

    /// A segment of a flow to a TLS port, 2,000 bytes long; its bytes are all of them zero.
    fn segment(tracer: &mut Tracer, number: &mut u64, port: u16, sequence: u32) -> usize {
        let mut decoded = Decoded::default();
        decoded.headers.protocol = protocol::TCP;
        decoded.headers.tcp_flags = TcpFlags(TcpFlags::ACK);
        decoded.headers.ip_id = sequence as u16;
        decoded.headers.sequence = sequence;
        (
            decoded.headers.source_port,
            decoded.headers.destination_port,
        ) = (port, 443);
        decoded.headers.payload_length = 2_000;
        *number += 1;
        tracer.handle(&decoded.record(*number, 0, 2_000, &[0; 2_000]));
        tracer.growth.bytes()
    }

    #[test]
    fn what_flows_grow_to_has_a_bound_of_all_together() {
        const COUNT: u16 = 500;
        const LIMITS: TraceLimits = TraceLimits {
            flow_count_max: 1_024,
            detail_count_max: 1_024,
            grown_bytes_max: 2 << 20,
        };
        // What a flow takes that has grown to nothing.
        let fixed = size_of::<Option<Trace>>() + part::TCP + 64 * part::PRINT + 100;
        let bound = 1_024 * fixed + LIMITS.grown_bytes_max + APPLICATION_BYTES_MAX;
        let mut tracer = Tracer::with_limits(LIMITS, 1);
        let mut number = 0;
        for port in 1..=COUNT {
            // One byte is missing behind the first.
            for at in 0..9 {
                let sequence = at * 2_000 + u32::from(at > 0);
                let grown = segment(&mut tracer, &mut number, port, sequence);
                assert!(grown <= LIMITS.grown_bytes_max + APPLICATION_BYTES_MAX);
            }
            let size = tracer.size();
            assert!(size <= bound, "{size} bytes of {port} flows");
        }
        let tally = tracer.tally();
        assert!(tally.payloads_unkept > 100, "{tally:?}");
        assert_eq!(tally.evicted, 0);
        let counted: usize = (0..tracer.traces.slot_end())
            .filter_map(|slot| match &tracer.traces.get(slot)?.detail {
                Detail::Tcp(tcp) => Some(tcp.grown_bytes()),
                _ => None,
            })
            .sum();
        assert_eq!(tracer.growth.bytes(), counted);
        assert_eq!(tracer.finish().count(), usize::from(COUNT));
    }

    #[test]
    fn flows_end_where_others_have_grown_too_much() {
        let limits = TraceLimits {
            flow_count_max: 1_024,
            detail_count_max: 1_024,
            grown_bytes_max: 64 << 10,
        };
        let mut tracer = Tracer::with_limits(limits, 1);
        let mut number = 0;
        for sequence in 0..4 {
            for port in 1..=500 {
                let grown = segment(&mut tracer, &mut number, port, sequence * 4_000);
                assert!(grown <= limits.grown_bytes_max + (4 << 10), "{grown}");
            }
        }
        assert!(tracer.tally().evicted > 0);
    }
}
