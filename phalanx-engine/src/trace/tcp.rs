//! One TCP connection, packet by packet: makes [`Segment`]s, and a [`FlowStory`] at the end.

use phalanx_common::packet::TcpFlags;

use super::account::{Account, Event, Phase, Situation, Turned};
use super::copy::Recent;
use super::count::{count_class, count_marks};
use super::grown::Grown;
use super::reset;
use super::sides::SideFacts;
use crate::application::Application;
use crate::budget::Bucket;
use crate::distribution::Distribution;
use crate::limits::DIGEST_LENGTH_MAX;
use crate::record::PacketRecord;
use crate::segment::{
    Acknowledged, Acknowledgement, Class, Half, Mark, Marks, Recovery, Segment, Sending, Sent,
    run_count_max,
};
use crate::side::{Side, Sides};
use crate::story::{ConnectionState, FlowStory, TurnStory};

/// How a handshake stands.
#[derive(Clone, Copy, Debug, Default)]
struct Handshake {
    syn_ns: Option<i64>,
    syn_ack_ns: Option<i64>,
    syn_number: Option<u32>,
    is_complete: bool,
    server_ns: Option<i64>,
    client_ns: Option<i64>,
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, Default)]
struct End {
    fins: Sides<bool>,
    /// The last RST of each side, taken back by data of the same side.
    resets: Sides<bool>,
    is_refused: bool,
    is_unreachable: bool,
}

pub(crate) struct TcpTrace {
    application: Application,
    halves: Sides<Half>,
    facts: Sides<SideFacts>,
    recent: Sides<Recent>,
    account: Account,
    handshake: Handshake,
    phase: Phase,
    end: End,
    turns: TurnStory,
    /// First and latest data of the answer under way.
    answer_ns: Option<(i64, i64)>,
    starts_mid_stream: bool,
    is_reused: bool,
    grown: Grown,
    /// Bytes of all distributions.
    distribution_bytes: u32,
}

impl TcpTrace {
    /// `side` is the first packet's sender.
    pub(crate) fn new(record: &PacketRecord<'_>, side: Side) -> Self {
        let is_syn = record.flags().any(TcpFlags::SYN);
        Self {
            application: application(record, side),
            halves: Sides::default(),
            facts: Sides::default(),
            recent: Sides::default(),
            account: Account::new(record.time_ns),
            handshake: Handshake::default(),
            phase: if is_syn {
                Phase::Handshake
            } else {
                Phase::Open
            },
            end: End::default(),
            turns: TurnStory::default(),
            answer_ns: None,
            starts_mid_stream: !is_syn,
            is_reused: false,
            grown: Grown::default(),
            distribution_bytes: 0,
        }
    }

    /// What it has grown to, as last counted.
    pub(crate) const fn grown(&mut self) -> &mut Grown {
        &mut self.grown
    }

    /// Counts what it has grown to.
    pub(crate) fn grown_bytes(&self) -> usize {
        let halves = self.halves.client.grown_bytes() + self.halves.server.grown_bytes();
        halves + self.application.held_bytes() + self.distribution_bytes as usize
    }

    /// Gives back what it can, where memory is scarce; gives how much was not kept of its payload.
    pub(crate) fn spare(&mut self) -> u32 {
        self.halves.client.spare();
        self.halves.server.spare();
        self.application.spare();
        self.application.take_unkept_count()
    }

    /// Bytes that it takes, tables counted.
    pub(crate) fn size(&self) -> usize {
        let of = |side| self.halves.get(side).capacity() + self.recent.get(side).capacity();
        let boxed = self.application.size() - size_of::<Application>();
        size_of::<Self>() + of(Side::Client) + of(Side::Server) + self.turn_bytes() + boxed
    }

    fn turn_bytes(&self) -> usize {
        let turns = [&self.turns.think, &self.turns.idle, &self.turns.transfer];
        turns.into_iter().map(Distribution::capacity).sum()
    }

    /// Counts distributions where one may have grown: by a turn, or by a round trip that is the
    /// shortest or the longest.
    fn count_distributions(&mut self, other: Side, has_turned: bool, rtt_ns: Option<i64>) {
        let trips = &self.halves.get(other).round_trips;
        if has_turned || rtt_ns.is_some_and(|rtt_ns| trips.is_extreme(rtt_ns)) {
            let halves = [&self.halves.client, &self.halves.server];
            let trips = halves.map(|half| half.round_trips.capacity());
            let bytes = trips[0] + trips[1] + self.turn_bytes();
            self.distribution_bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        }
    }

    /// Whether a SYN, or a SYN-ACK whose SYN was not captured, begins a connection of its own,
    /// rather than this one again. `side` is its sender.
    pub(crate) fn is_other_connection(&self, record: &PacketRecord<'_>, side: Side) -> bool {
        let headers = record.headers;
        if record.flags().any(TcpFlags::ACK) {
            let half = self.halves.get(side);
            let has_syn = self.facts.get(side).has_syn;
            // Two answers to one SYN are of one connection, be they ever so different.
            let answers = self.handshake.syn_number.map(|it| it.wrapping_add(1));
            return answers != Some(headers.acknowledgement)
                && self.phase != Phase::Handshake
                && !half.may_begin_at(headers.sequence, has_syn);
        }
        match self.handshake.syn_number {
            Some(number) => number != headers.sequence,
            None => self.halves.client.is_started() && self.phase != Phase::Handshake,
        }
    }

    /// Whether nothing more is expected.
    pub(crate) fn is_over(&self) -> bool {
        self.phase == Phase::Closed
    }

    /// Takes an ICMP error in that quotes a packet of `side`.
    pub(crate) fn icmp_error(&mut self, side: Side, mtu: u32, is_refusal: bool) {
        self.facts.get_mut(side).icmp_error(mtu);
        if is_refusal && self.phase == Phase::Handshake {
            self.end.is_unreachable = true;
        }
    }

    /// Takes a packet in. `is_scarce` asks for less memory.
    pub(crate) fn take(
        &mut self,
        record: &PacketRecord<'_>,
        side: Side,
        is_scarce: bool,
    ) -> Segment {
        let mut segment = blank(record, side);
        if self.is_of_old_connection(record, side) {
            segment.marks.set(Mark::PortReuse);
            segment.why = "acknowledges what this connection did not send: of an older one";
            self.is_reused = true;
            self.facts.get_mut(side).pass(record);
            self.account_only(record, side);
            return segment;
        }
        if let Some(class) = self.copy(record, side) {
            segment.class = Some(class);
            segment.why = match class {
                Class::CaptureDuplicate => "the same packet from another place of its way",
                _ => "same IP id, numbers and options as a packet just before",
            };
            self.facts.get_mut(side).count_copy(class);
            self.account_only(record, side);
            self.place(&mut segment, record);
            return segment;
        }
        self.recent.get_mut(side).add(record);
        let situation = self.situation();
        let unfit = reset::unfit(record, self.facts.get(side), self.halves.get(side));
        let other = side.other();
        let rest_ns = self.halves.get(other).round_trips.smoothed_ns();
        let mut sending = sending(record, rest_ns);
        sending.mss = self.facts.get(other).mss;
        sending.is_answer = self.facts.get(side).is_answered_by(self.facts.get(other));
        let count_max = run_count_max(is_scarce);
        let sent = self.halves.get_mut(side).send(&sending, count_max);
        let acknowledged = self.acknowledge(record, side, count_max);
        self.facts.get_mut(side).take(record, &sent);
        let event = self.event(record, side, &sent, acknowledged.as_ref());
        self.watch_losses(side, &sent, acknowledged.as_ref());
        let turned = self.account.take(&situation, &event);
        if event.has_new_data {
            self.account.level(side, &self.halves.get(side).sender);
        }
        self.turn(&event, turned);
        let rtt_ns = acknowledged.as_ref().and_then(|it| it.rtt_ns);
        self.count_distributions(other, turned.is_some(), rtt_ns);
        self.application.keep_least(is_scarce);
        self.read(record, side, &sent);
        self.live(record, side, &sent, acknowledged.as_ref());
        if situation.phase != self.phase && self.phase == Phase::Closed {
            // What has ended stays for as long as copies may come, and needs little.
            self.halves.client.shrink();
            self.halves.server.shrink();
        }
        let raw_window = record.headers.window;
        self.fill(&mut segment, raw_window, &sent, acknowledged.as_ref());
        if let Some(why) = unfit {
            segment.marks.set(Mark::UnfittingReset);
            segment.why = why;
        }
        self.count(record, &segment, &sent, acknowledged.as_ref());
        segment
    }

    /// Hands payload on that was not seen before; a probe's byte too, which may be taken.
    fn read(&mut self, record: &PacketRecord<'_>, side: Side, sent: &Sent) {
        let is_probe = sent.class == Some(Class::ZeroWindowProbe);
        if (sent.new == 0 && !is_probe) || record.headers.payload_length == 0 {
            return;
        }
        let at = self.halves.get(side).relative(sent.start);
        let is_syn = record.flags().any(TcpFlags::SYN);
        let offset = (at + u64::from(is_syn)).saturating_sub(1);
        let length = record.headers.payload_length;
        let (payload, time_ns) = (record.payload(), record.time_ns);
        self.application
            .stream(side, offset, payload, length, time_ns, record.number);
    }

    /// Of which kind of copy the packet is; only what brings nothing new can be one.
    fn copy(&self, record: &PacketRecord<'_>, side: Side) -> Option<Class> {
        let half = self.halves.get(side);
        let is_news = half.is_news(record.headers.sequence, record.sequence_length())
            || self
                .halves
                .get(side.other())
                .is_newer_ack(record.headers.acknowledgement, record.flags());
        if is_news {
            return None;
        }
        // What a sender sends again after a timeout may have the same IP id.
        let rest_ns = self.halves.get(side.other()).round_trips.smoothed_ns();
        let again_ns = half.round_trips.timeout_min_ns(rest_ns);
        self.recent
            .get(side)
            .find(record, half.ids_tell_order(), again_ns)
    }

    /// Whether the server's packet belongs to an earlier connection of the same 5-tuple (RFC 9293
    /// section 3.10.7.3: such an acknowledgement is answered by a RST).
    fn is_of_old_connection(&self, record: &PacketRecord<'_>, side: Side) -> bool {
        let flags = record.flags();
        side == Side::Server
            && self.phase == Phase::Handshake
            && self.handshake.syn_ack_ns.is_none()
            && flags.any(TcpFlags::ACK)
            && !flags.any(TcpFlags::SYN | TcpFlags::RST)
            && self
                .handshake
                .syn_number
                .is_some_and(|number| record.headers.acknowledgement != number.wrapping_add(1))
    }

    fn account_only(&mut self, record: &PacketRecord<'_>, side: Side) {
        let situation = self.situation();
        let event = Event {
            time_ns: record.time_ns,
            side,
            class: None,
            has_new_data: false,
            is_end: false,
            is_after_capture_gap: false,
            repeats_data: false,
            reach_ns: 0,
            upstream_ns: 0,
            pause_ns: 0,
        };
        self.account.take(&situation, &event);
    }

    fn situation(&self) -> Situation {
        let halves = [&self.halves.client, &self.halves.server];
        let recovery = match (halves[0].recovery, halves[1].recovery) {
            (Recovery::Timeout(at), _) | (_, Recovery::Timeout(at)) => Recovery::Timeout(at),
            (Recovery::Fast(at), _) | (_, Recovery::Fast(at)) => Recovery::Fast(at),
            _ => Recovery::None,
        };
        let has = |test: fn(&Half) -> bool| halves.iter().any(|half| test(half));
        Situation {
            phase: self.phase,
            is_blocked: has(|half| half.is_blocked),
            recovery,
            is_outstanding: has(Half::is_outstanding),
            limited_until_ns: halves.into_iter().find_map(Half::limited_until_ns),
        }
    }

    fn acknowledge(
        &mut self,
        record: &PacketRecord<'_>,
        side: Side,
        run_count_max: usize,
    ) -> Option<Acknowledged> {
        let flags = record.flags();
        if !flags.any(TcpFlags::ACK) {
            return None;
        }
        let mut blocks = [(0, 0); 4];
        let mut count = 0;
        if record.options.sack_block_count > 0 {
            for (room, block) in blocks.iter_mut().zip(record.sack_blocks()) {
                *room = block;
                count += 1;
            }
        }
        let is_control = flags.any(TcpFlags::SYN | TcpFlags::FIN | TcpFlags::RST);
        let is_syn = flags.any(TcpFlags::SYN);
        let ack = Acknowledgement {
            number: record.headers.acknowledgement,
            window: self.window(side, record.headers.window, is_syn),
            raw_window: record.headers.window,
            is_pure: record.headers.payload_length == 0 && !is_control,
            is_control,
            is_reset: flags.any(TcpFlags::RST),
            has_ecn_echo: flags.any(TcpFlags::ECE) && !is_syn,
            sacks: &blocks[..count],
            run_count_max,
            echo: record.options.timestamp_echo,
            time_ns: record.time_ns,
            // What the side that acknowledges has sent goes to the data's sender and back.
            upstream_ns: self.halves.get(side).round_trips.min_ns().unwrap_or(0),
        };
        Some(self.halves.get_mut(side.other()).acknowledge(&ack))
    }

    /// The window that `side` announces, in bytes; `None` where its scale is not known.
    fn window(&self, side: Side, raw: u16, is_syn: bool) -> Option<u32> {
        let raw = u32::from(raw);
        if is_syn {
            return Some(raw);
        }
        let (own, peer) = (self.facts.get(side), self.facts.get(side.other()));
        match (own.window_scale, peer.window_scale) {
            (Some(scale), Some(_)) => Some(raw << scale),
            // RFC 7323 section 2.2: both or none, where both SYNs were seen.
            _ if own.has_syn && peer.has_syn => Some(raw),
            // It answers the option of a SYN that was not captured.
            (Some(scale), None) if side == Side::Server => Some(raw << scale),
            (None, _) if own.has_syn => Some(raw),
            (_, None) if peer.has_syn => Some(raw),
            _ => None,
        }
    }

    /// The window that a segment tells of, in bytes: none is none at any scale.
    fn told_window(&self, segment: &Segment, raw: u16) -> Option<u32> {
        let is_syn = segment.flags & TcpFlags::SYN != 0;
        let window = self.window(segment.side, raw, is_syn);
        window.or((raw == 0).then_some(0))
    }

    fn event(
        &self,
        record: &PacketRecord<'_>,
        side: Side,
        sent: &Sent,
        acknowledged: Option<&Acknowledged>,
    ) -> Event {
        let half = self.halves.get(side);
        let trips = &half.round_trips;
        let has_new_data = sent.new > 0
            && record.headers.payload_length > 0
            && matches!(
                sent.class,
                Some(Class::New | Class::Reordered | Class::FillsHole)
            );
        // What is more than a segment under way fills queues: its round trip is today's.
        let is_bulk = half.flight() > u64::from(half.segment_max);
        let reach_ns = if is_bulk {
            trips.last_ns()
        } else {
            trips.min_ns()
        };
        let reach_ns = reach_ns.unwrap_or(0);
        let upstream = &self.halves.get(side.other()).round_trips;
        let upstream_ns = upstream.min_ns().unwrap_or(0);
        Event {
            time_ns: record.time_ns,
            side,
            class: sent.class,
            has_new_data,
            is_end: record.flags().any(TcpFlags::FIN | TcpFlags::RST) && !sent.marks.has(Mark::Gap),
            is_after_capture_gap: acknowledged.is_some_and(|it| it.unseen > 0),
            repeats_data: record.headers.payload_length > 0
                && sent.class.is_some_and(|class| {
                    class.is_retransmission() && class != Class::SpuriousRetransmission
                }),
            reach_ns,
            upstream_ns,
            pause_ns: ((reach_ns + upstream_ns) / 2).max(2_000_000),
        }
    }

    /// Tells the account of losses suspected, confirmed and repaired.
    fn watch_losses(&mut self, side: Side, sent: &Sent, acknowledged: Option<&Acknowledged>) {
        if sent.marks.has(Mark::Gap) {
            self.account.suspect(side);
        }
        match sent.class {
            Some(Class::FastRetransmission) => self.account.confirm(side, Bucket::FastRecovery),
            Some(Class::FillsHole) => {
                let rest_ns = self.halves.get(side.other()).round_trips.smoothed_ns();
                let timeout_ns = self.halves.get(side).round_trips.timeout_min_ns(rest_ns);
                let is_timeout = sent.lateness_ns >= timeout_ns;
                self.account.confirm(
                    side,
                    if is_timeout {
                        Bucket::TimeoutRecovery
                    } else {
                        Bucket::FastRecovery
                    },
                );
            }
            _ => {}
        }
        let Some(acknowledged) = acknowledged else {
            return;
        };
        let other = side.other();
        if acknowledged.is_first_duplicate {
            self.account.suspect(other);
        }
        if acknowledged.new > 0 {
            let half = self.halves.get(other);
            if half.recovery == Recovery::None && !half.has_hole() {
                self.account.clear(other);
            }
        }
    }

    fn turn(&mut self, event: &Event, turned: Option<Turned>) {
        if !event.has_new_data {
            return;
        }
        if let Some(turned) = turned {
            match turned.side {
                Side::Server => {
                    self.turns.count += 1;
                    self.turns.think.add(turned.own_ns);
                }
                Side::Client => {
                    self.turns.idle.add(turned.own_ns);
                    self.end_answer();
                }
            }
        }
        if event.side == Side::Server {
            let first_ns = self.answer_ns.map_or(event.time_ns, |it| it.0);
            self.answer_ns = Some((first_ns, event.time_ns));
        }
    }

    fn end_answer(&mut self) {
        if let Some((first_ns, last_ns)) = self.answer_ns.take() {
            self.turns
                .transfer
                .add(last_ns.saturating_sub(first_ns).max(0));
        }
    }

    /// Follows the connection from its handshake to its end.
    fn live(
        &mut self,
        record: &PacketRecord<'_>,
        side: Side,
        sent: &Sent,
        acknowledged: Option<&Acknowledged>,
    ) {
        let flags = record.flags();
        if sent.marks.has(Mark::Implausible) {
            return;
        }
        if *self.end.resets.get(side) && !flags.any(TcpFlags::RST) {
            self.facts.get_mut(side).counts.packets_after_reset += 1;
        }
        if flags.any(TcpFlags::SYN) {
            self.syn(record, flags.any(TcpFlags::ACK));
        } else if flags.any(TcpFlags::RST) {
            self.reset(side);
            return;
        } else if !self.handshake.is_complete && !self.starts_mid_stream {
            self.establish(record, side);
        }
        if record.headers.payload_length > 0 {
            *self.end.resets.get_mut(side) = false;
            if self.phase == Phase::Closed && !(self.end.fins.client && self.end.fins.server) {
                self.phase = Phase::Open;
            }
        }
        if flags.any(TcpFlags::FIN) {
            *self.end.fins.get_mut(side) = true;
        }
        let fins = self.end.fins;
        if self.phase != Phase::Closed
            && (self.handshake.is_complete || self.starts_mid_stream)
            && (fins.client || fins.server)
        {
            let is_done = fins.client && fins.server;
            let is_acknowledged = acknowledged.is_some()
                && !self.halves.client.is_outstanding()
                && !self.halves.server.is_outstanding();
            self.phase = if is_done && (is_acknowledged || flags.any(TcpFlags::FIN)) {
                Phase::Closed
            } else {
                Phase::Closing
            };
        }
    }

    fn syn(&mut self, record: &PacketRecord<'_>, is_answer: bool) {
        let time_ns = record.time_ns;
        if is_answer {
            if let (Some(syn_ns), None) = (self.handshake.syn_ns, self.handshake.server_ns) {
                self.handshake.server_ns = Some(time_ns.saturating_sub(syn_ns).max(0));
            }
            self.handshake.syn_ack_ns = Some(time_ns);
            self.end.is_refused = false;
            self.end.resets.server = false;
        } else {
            self.handshake.syn_ns = Some(time_ns);
            self.handshake.syn_number = Some(record.headers.sequence);
        }
        if !self.starts_mid_stream && !self.handshake.is_complete {
            if self.phase == Phase::Closed {
                self.account.reopen();
            }
            self.phase = Phase::Handshake;
        }
    }

    fn establish(&mut self, record: &PacketRecord<'_>, side: Side) {
        let has_answer = self.handshake.syn_ack_ns.is_some();
        let is_ack = record.flags().any(TcpFlags::ACK) && (side == Side::Client || has_answer);
        let is_data = record.headers.payload_length > 0;
        if !is_ack && !is_data {
            return;
        }
        if let Some(syn_ack_ns) = self.handshake.syn_ack_ns
            && side == Side::Client
        {
            self.handshake.client_ns = Some(record.time_ns.saturating_sub(syn_ack_ns).max(0));
        }
        self.handshake.is_complete = true;
        self.phase = Phase::Open;
    }

    fn reset(&mut self, side: Side) {
        *self.end.resets.get_mut(side) = true;
        let is_answer = side == Side::Server
            && self.phase == Phase::Handshake
            && self.handshake.syn_ack_ns.is_none();
        if is_answer {
            self.end.is_refused = true;
        }
        self.phase = Phase::Closed;
    }

    /// Fills in what its numbers say of a packet that is not taken in.
    fn place(&self, segment: &mut Segment, record: &PacketRecord<'_>) {
        let (side, flags) = (segment.side, record.flags());
        let half = self.halves.get(side);
        segment.sequence = half.place(record.headers.sequence);
        segment.flight = half.is_started().then(|| half.flight());
        segment.window = self.told_window(segment, record.headers.window);
        if flags.any(TcpFlags::ACK) {
            let other = self.halves.get(side.other());
            segment.acknowledgement = other.place(record.headers.acknowledgement);
        }
    }

    fn fill(
        &self,
        segment: &mut Segment,
        raw_window: u16,
        sent: &Sent,
        acknowledged: Option<&Acknowledged>,
    ) {
        let side = segment.side;
        let half = self.halves.get(side);
        let other = self.halves.get(side.other());
        segment.class = sent.class;
        segment.why = sent.why;
        segment.marks = sent.marks;
        if sent.is_conflict {
            segment.marks.set(Mark::Conflict);
        }
        segment.sequence = half.offset(sent.start);
        segment.repeats_frame = sent.repeats_frame;
        segment.flight = half.is_started().then(|| half.flight());
        segment.window = self.told_window(segment, raw_window);
        if let Some(acknowledged) = acknowledged {
            segment.marks.join(acknowledged.marks);
            segment.acknowledgement = other.offset(acknowledged.number);
            segment.rtt_ns = acknowledged.rtt_ns;
            segment.acknowledged_frame = acknowledged.frame;
        }
    }

    fn count(
        &mut self,
        record: &PacketRecord<'_>,
        segment: &Segment,
        sent: &Sent,
        acknowledged: Option<&Acknowledged>,
    ) {
        let side = segment.side;
        let is_pure = segment.class.is_none()
            && record.headers.payload_length == 0
            && !record
                .flags()
                .any(TcpFlags::SYN | TcpFlags::FIN | TcpFlags::RST);
        // One whose scale is not known says nothing in bytes.
        let window = self.window(side, record.headers.window, false);
        let facts = self.facts.get_mut(side);
        facts.counts.pure_acks += u64::from(is_pure && record.flags().any(TcpFlags::ACK));
        if let Some(window) = window
            && record.flags().any(TcpFlags::ACK)
            && !record.flags().any(TcpFlags::SYN | TcpFlags::RST)
        {
            facts.window_min = Some(facts.window_min.map_or(window, |it| it.min(window)));
            facts.window_max = facts.window_max.max(window);
        }
        facts.counts.unique_bytes += sent.accepted;
        facts.counts.unseen_bytes = facts.counts.unseen_bytes.saturating_sub(sent.found);
        count_class(&mut facts.counts, segment.class, sent);
        count_marks(&mut facts.counts, segment.marks);
        if let Some(acknowledged) = acknowledged {
            let counts = &mut self.facts.get_mut(side.other()).counts;
            counts.unseen_bytes += acknowledged.unseen;
            counts.unique_bytes += acknowledged.accepted;
            counts.spurious_retransmissions += u64::from(acknowledged.is_needless);
        }
    }

    /// What the connection comes to.
    pub(crate) fn finish(mut self, story: &mut FlowStory) {
        self.end_answer();
        let is_one_way =
            self.facts.client.counts.packets == 0 || self.facts.server.counts.packets == 0;
        story.state = self.state();
        let never_began = self.phase == Phase::Handshake || story.state.is_failed();
        self.turns.is_last_unanswered = self.account.last_data() == Some(Side::Client);
        story.starts_mid_stream = self.starts_mid_stream;
        story.reuses_ports |= self.is_reused;
        story.handshake_server_ns = self.handshake.server_ns;
        story.handshake_client_ns = self.handshake.client_ns;
        story.turns = std::mem::take(&mut self.turns);
        story.application = self.application.finish();
        for side in [Side::Client, Side::Server] {
            let rest_ns = self.halves.get(side.other()).round_trips.smoothed_ns();
            let half = std::mem::take(self.halves.get_mut(side));
            let told = story.sides.get_mut(side);
            self.facts.get(side).tell(told);
            told.rto_ns = half
                .round_trips
                .smoothed_ns()
                .map(|_| half.round_trips.timeout_ns(rest_ns));
            told.flight_max = half.flight_max;
            told.congestion_window = half.congestion_window();
            told.segment_max = half.segment_max;
            told.rtt = half.round_trips.samples;
        }
        story.budget = Some(self.account.finish(is_one_way && !never_began));
    }

    fn state(&self) -> ConnectionState {
        let (fins, resets) = (self.end.fins, self.end.resets);
        let is_complete = self.handshake.is_complete || self.starts_mid_stream;
        if !is_complete {
            return match (self.handshake.syn_ack_ns, resets) {
                _ if self.end.is_refused && resets.server => ConnectionState::Refused,
                (_, Sides { client: true, .. }) => ConnectionState::Aborted,
                (Some(_), _) => ConnectionState::HalfOpen,
                _ if self.end.is_unreachable => ConnectionState::Unreachable,
                _ => ConnectionState::Unanswered,
            };
        }
        match (fins.client, fins.server) {
            (true, true) => ConnectionState::Closed,
            _ if resets.client || resets.server => ConnectionState::Reset,
            (false, false) => ConnectionState::Established,
            _ => ConnectionState::HalfClosed,
        }
    }
}

/// What is known of a flow's application from its ports.
pub(crate) fn application(record: &PacketRecord<'_>, side: Side) -> Application {
    let headers = record.headers;
    let (client, server) = match side {
        Side::Client => (headers.source_port, headers.destination_port),
        Side::Server => (headers.destination_port, headers.source_port),
    };
    Application::new(headers.protocol, client, server)
}

/// What is said of a packet before anything is known of it.
pub(crate) fn blank(record: &PacketRecord<'_>, side: Side) -> Segment {
    Segment {
        number: record.number,
        time_ns: record.time_ns,
        flow: 0,
        protocol: record.headers.protocol,
        side,
        class: None,
        why: "",
        marks: Marks::default(),
        flags: record.flags().0,
        sequence: None,
        length: record.headers.payload_length,
        acknowledgement: None,
        window: None,
        acknowledged_frame: None,
        rtt_ns: None,
        flight: None,
        repeats_frame: None,
    }
}

fn sending(record: &PacketRecord<'_>, peer_rtt_ns: Option<i64>) -> Sending {
    let flags = record.flags();
    Sending {
        sequence: record.headers.sequence,
        length: record.headers.payload_length,
        is_syn: flags.any(TcpFlags::SYN),
        is_fin: flags.any(TcpFlags::FIN),
        is_rst: flags.any(TcpFlags::RST),
        time_ns: record.time_ns,
        frame: record.number,
        ip_id: record.headers.ip_id,
        timestamp: record.options.timestamp_value,
        digest: digest(record),
        mss: 0,
        is_answer: false,
        peer_rtt_ns,
    }
}

/// A hash of the first bytes of the payload, never 0; 0 where they were not captured.
fn digest(record: &PacketRecord<'_>) -> u32 {
    let wanted = record.headers.payload_length.min(DIGEST_LENGTH_MAX as u32) as usize;
    let payload = record.payload();
    if wanted == 0 || payload.len() < wanted {
        return 0;
    }
    let mut bytes = [0; DIGEST_LENGTH_MAX];
    bytes[..wanted].copy_from_slice(&payload[..wanted]);
    let wide = u128::from_le_bytes(bytes) | 1 << 127;
    let folded = (wide as u64 ^ (wide >> 64) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (folded >> 32) as u32 | 1
}
