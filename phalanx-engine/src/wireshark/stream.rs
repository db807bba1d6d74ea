//! One stream: judges each of its packets, and remembers what the next ones are judged by.
//!
//! The order of the rules is tshark's, and matters: some end the judgement of what a packet
//! acknowledges, each kind of retransmission excludes those after it.

use phalanx_common::packet::TcpFlags;

use super::analysis::{Analysis, AnalysisFlag, AnalysisFlags};
use super::flow::{Flow, Scale, UNSEEN_ACKNOWLEDGED};
use super::packet::Packet;
use super::unacked::{Sent, is_after};
use crate::ends::End;

const SYN: u8 = TcpFlags::SYN;
const FIN: u8 = TcpFlags::FIN;
const RST: u8 = TcpFlags::RST;
const ACK: u8 = TcpFlags::ACK;

/// Within this after a duplicate ACK a retransmission is a fast one.
const FAST_RETRANSMISSION_NS: u64 = 20_000_000;

/// Within this after the highest segment one is out of order, where no round trip is known.
const OUT_OF_ORDER_NS: u64 = 3_000_000;

/// More cannot be in flight.
const FLIGHT_MAX: u32 = 2_000_000_000;

/// Where in its stream a packet stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The first of its addresses and ports.
    First,
    /// The first of a stream, after another of the same addresses and ports.
    FirstAgain,
    Later,
}

/// The bits of `tcp.completeness`.
mod completeness {
    pub(super) const SYN: u8 = 1;
    pub(super) const SYN_ACK: u8 = 2;
    pub(super) const ACK: u8 = 4;
    pub(super) const DATA: u8 = 8;
    pub(super) const FIN: u8 = 16;
    pub(super) const RST: u8 = 32;
}

/// One stream.
#[derive(Clone, Debug)]
pub(super) struct Stream {
    number: u32,
    completeness: u8,
    /// Time of the last SYN; 0 where there was none.
    syn_time_ns: i64,
    /// From the last SYN to the first ACK; 0 where it is not known.
    initial_rtt_ns: i64,
    flows: [Flow; 2],
}

/// What is said of a packet while it is judged.
struct Note {
    analysis: Analysis,
    /// tshark has made a record for it, be it an empty one: then it shows the initial round trip.
    is_made: bool,
}

impl Note {
    const fn set(&mut self, flag: AnalysisFlag) {
        self.analysis.flags.set(flag);
        self.is_made = true;
    }
}

const fn is_opening(packet: &Packet) -> bool {
    packet.flags.0 & (SYN | ACK) == SYN
}

/// A time that tshark does not show where it is 0.
fn known(time_ns: i64) -> Option<i64> {
    (time_ns != 0).then_some(time_ns)
}

impl Stream {
    pub(super) const fn new(number: u32) -> Self {
        Self {
            number,
            completeness: 0,
            syn_time_ns: 0,
            initial_rtt_ns: 0,
            flows: [Flow::NEW; 2],
        }
    }

    /// Room taken by lists, in segments.
    pub(super) fn unacked_room(&self) -> usize {
        self.flows.iter().map(|flow| flow.unacked.room()).sum()
    }

    /// Whether a packet is the SYN of another connection of the same ends.
    pub(super) fn is_other_connection(&self, packet: &Packet, end: End) -> bool {
        let flow = &self.flows[end as usize];
        is_opening(packet) && flow.has_base && flow.base != packet.sequence
    }

    /// The direction of what `end` sends, and the other.
    fn flows(&mut self, end: End) -> (&mut Flow, &mut Flow) {
        let [low, high] = &mut self.flows;
        match end {
            End::Low => (low, high),
            End::High => (high, low),
        }
    }

    /// Takes a packet in: what is said of it, and whether a segment had to be forgotten.
    pub(super) fn take(
        &mut self,
        packet: &Packet,
        end: End,
        place: Place,
        may_grow: bool,
    ) -> (Analysis, bool) {
        let mut note = Note {
            analysis: Analysis::default(),
            is_made: false,
        };
        self.judge_opening(packet, end, place, &mut note);
        let completeness = self.completeness;
        let mut is_forgotten = false;
        if !packet.is_partial {
            is_forgotten = self.judge(packet, end, may_grow, &mut note);
        }
        self.note_completeness(packet, place);
        self.note_times(packet, end);
        self.note_options(packet, end);
        if packet.is_cut {
            note.analysis = Analysis::default();
        } else if note.is_made {
            note.analysis.initial_rtt_ns = known(self.initial_rtt_ns);
        }
        note.analysis.stream = self.number;
        note.analysis.completeness = completeness;
        (note.analysis, is_forgotten)
    }

    fn judge_opening(&mut self, packet: &Packet, end: End, place: Place, note: &mut Note) {
        let (sender, _) = self.flows(end);
        sender.sacked = 0;
        if place == Place::FirstAgain {
            note.set(AnalysisFlag::ReusedPorts);
            self.completeness = completeness::SYN;
        } else if packet.flags.any(SYN) && sender.has_base {
            if is_opening(packet) {
                // The same SYN again. After a RST with a strange number nothing else would fit.
                sender.next = sender.contiguous;
            } else if sender.base != packet.sequence {
                sender.set_base(packet.sequence);
                note.set(AnalysisFlag::ReusedPorts);
            }
        }
    }

    fn note_completeness(&mut self, packet: &Packet, place: Place) {
        let flags = packet.flags;
        let mut seen = 0;
        if place == Place::First {
            if is_opening(packet) {
                seen |= completeness::SYN;
                if packet.length > 0 {
                    seen |= completeness::DATA;
                }
            }
        } else {
            seen |= match flags.0 & (SYN | ACK) {
                ACK if packet.length > 0 => completeness::DATA,
                ACK => completeness::ACK,
                SYN | 0 => 0,
                _ => completeness::SYN_ACK,
            };
            if flags.0 & (FIN | ACK) == FIN | ACK {
                seen |= completeness::FIN;
            }
            if flags.any(RST) {
                seen |= completeness::RST;
            }
        }
        self.completeness |= seen;
    }

    fn note_times(&mut self, packet: &Packet, end: End) {
        if is_opening(packet) {
            self.syn_time_ns = packet.time_ns;
        }
        let is_ack = packet.flags.0 & (SYN | ACK) == ACK;
        if is_ack && self.syn_time_ns != 0 && self.initial_rtt_ns == 0 {
            self.initial_rtt_ns = packet.time_ns.wrapping_sub(self.syn_time_ns);
        }
        let (sender, _) = self.flows(end);
        if packet.flags.any(SYN) {
            sender.awaits_first_ack = true;
        } else if is_ack {
            sender.awaits_first_ack = false;
        }
    }

    fn note_options(&mut self, packet: &Packet, end: End) {
        let (sender, peer) = self.flows(end);
        if let Some(shift) = packet.window_scale_plus_one.checked_sub(1) {
            sender.scale = Scale::Shift(shift);
        }
        sender.sacked = packet.sacked;
        if packet.is_cut || !packet.flags.any(SYN) {
            return;
        }
        if sender.scale == Scale::Unknown {
            sender.scale = Scale::Unused;
            peer.scale = Scale::Unused;
        } else if packet.flags.any(ACK) && peer.scale == Scale::Unused {
            sender.scale = Scale::Unused;
        }
    }

    /// Judges a packet by what came before and remembers it: whether a segment was forgotten.
    fn judge(&mut self, packet: &Packet, end: End, may_grow: bool, note: &mut Note) -> bool {
        let initial_rtt_ns = self.initial_rtt_ns;
        let (sender, peer) = self.flows(end);
        set_bases(packet, sender, peer);
        judge_acknowledgement(packet, sender, peer, note);
        if packet.acknowledgement != sender.acknowledgement {
            sender.acknowledgement_frame = packet.number;
            sender.duplicate_count = 0;
        }
        judge_unseen(packet, peer, note);
        if packet.length > 0 || packet.flags.any(SYN | FIN) {
            judge_repetition(packet, sender, peer, initial_rtt_ns, note);
        }
        let is_forgotten = !remember(packet, sender, may_grow, note.analysis.flags);
        if let Some(sent) = peer.unacked.acknowledge(packet.acknowledgement, peer.base) {
            note.is_made = true;
            note.analysis.acks_frame = Some(sent.frame);
            note.analysis.ack_rtt_ns = known(packet.time_ns.wrapping_sub(sent.time_ns));
        }
        measure_flight(packet, sender, peer, note);
        is_forgotten
    }
}

fn set_bases(packet: &Packet, sender: &mut Flow, peer: &mut Flow) {
    if !sender.has_base {
        sender.set_base(if packet.flags.any(SYN) {
            packet.sequence
        } else {
            packet.sequence.wrapping_sub(1)
        });
    }
    if packet.flags.any(ACK) {
        if !peer.has_base {
            peer.set_base(packet.acknowledgement.wrapping_sub(1));
        }
        peer.tells_flight = true;
    }
}

/// Windows, probes, keep-alives and duplicate ACKs.
fn judge_acknowledgement(packet: &Packet, sender: &mut Flow, peer: &Flow, note: &mut Note) {
    let is_next = packet.sequence == sender.next;
    if packet.length == 1 && is_next && peer.window == 0 {
        note.set(AnalysisFlag::ZeroWindowProbe);
        return;
    }
    let is_plain = !packet.flags.any(SYN | FIN | RST);
    if packet.window == 0 && is_plain {
        note.set(AnalysisFlag::ZeroWindow);
    }
    if sender.next != 0 && is_after(packet.sequence, sender.next) && !packet.flags.any(RST) {
        note.set(AnalysisFlag::LostSegment);
        sender.tells_flight = false;
    }
    if packet.length <= 1 && packet.sequence == sender.next.wrapping_sub(1) && is_plain {
        note.set(AnalysisFlag::KeepAlive);
    }
    if packet.length > 0 {
        if is_plain && fills_window(packet, peer) {
            note.set(AnalysisFlag::WindowFull);
        }
        return;
    }
    if !is_next || packet.acknowledgement != sender.acknowledgement || !is_plain {
        return;
    }
    if packet.window != sender.window {
        if packet.window != 0 {
            note.set(AnalysisFlag::WindowUpdate);
        }
    } else if packet.window == 0 {
        if peer.flags.has(AnalysisFlag::ZeroWindowProbe) {
            note.set(AnalysisFlag::ZeroWindowProbeAck);
        }
    } else if peer.flags.has(AnalysisFlag::KeepAlive) {
        note.set(AnalysisFlag::KeepAliveAck);
    } else {
        sender.duplicate_count = match sender.duplicate_count {
            UNSEEN_ACKNOWLEDGED => 1,
            count => count.saturating_add(1),
        };
        note.set(AnalysisFlag::DuplicateAck);
        note.analysis.duplicate_ack_number = Some(sender.duplicate_count);
        note.analysis.duplicate_ack_frame = Some(sender.acknowledgement_frame);
    }
}

fn fills_window(packet: &Packet, peer: &Flow) -> bool {
    let shift = if peer.awaits_first_ack {
        0
    } else {
        peer.scale.shift()
    };
    let edge = peer.acknowledgement.wrapping_add(peer.window << shift);
    peer.scale != Scale::Unknown && packet.sequence.wrapping_add(packet.length) == edge
}

/// Whether what is acknowledged was not captured.
fn judge_unseen(packet: &Packet, peer: &mut Flow, note: &mut Note) {
    if peer.contiguous == 0
        || !is_after(packet.acknowledgement, peer.contiguous)
        || !packet.flags.any(ACK)
    {
        return;
    }
    note.is_made = true;
    if is_after(peer.next, peer.contiguous) {
        peer.contiguous = peer.next;
        note.set(AnalysisFlag::AckLostSegment);
        return;
    }
    // Said once; again only after the peer has acknowledged something else.
    if peer.duplicate_count == 0 {
        note.set(AnalysisFlag::AckLostSegment);
    }
    peer.duplicate_count = UNSEEN_ACKNOWLEDGED;
}

/// Retransmissions and what is out of order.
fn judge_repetition(
    packet: &Packet,
    sender: &Flow,
    peer: &Flow,
    initial_rtt_ns: i64,
    note: &mut Note,
) {
    if note.analysis.flags.has(AnalysisFlag::KeepAlive) {
        return;
    }
    let end = packet.sequence.wrapping_add(packet.length);
    if packet.length > 0
        && peer.acknowledgement != 0
        && end.wrapping_sub(peer.acknowledgement) as i32 <= 0
    {
        note.set(AnalysisFlag::SpuriousRetransmission);
        note.set(AnalysisFlag::Retransmission);
        return;
    }
    // More than a byte that begins at the last one follows a window probe.
    let follows_probe = packet.length > 1 && packet.sequence == sender.next.wrapping_sub(1);
    if sender.next == 0 || !is_after(sender.next, packet.sequence) || follows_probe {
        return;
    }
    // Unsigned: a time before the other is a long time after it.
    let since_ack_ns = packet.time_ns.wrapping_sub(peer.time_ns) as u64;
    if peer.duplicate_count >= 2
        && peer.acknowledgement == packet.sequence
        && since_ack_ns < FAST_RETRANSMISSION_NS
    {
        note.set(AnalysisFlag::FastRetransmission);
        note.set(AnalysisFlag::Retransmission);
        return;
    }
    let since_highest_ns = packet.time_ns.wrapping_sub(sender.next_time_ns) as u64;
    let limit_ns = known(initial_rtt_ns).map_or(OUT_OF_ORDER_NS, |rtt_ns| rtt_ns as u64);
    let end = end.wrapping_add(packet.flags.any(SYN | FIN).into());
    if since_highest_ns < limit_ns && end != sender.next {
        note.set(AnalysisFlag::OutOfOrder);
        return;
    }
    note.set(AnalysisFlag::Retransmission);
    let oldest = sender.unacked.oldest();
    let since_ns = oldest.map_or(sender.next_time_ns, |sent| sent.time_ns);
    note.analysis.rto_ns = known(packet.time_ns.wrapping_sub(since_ns));
}

/// Remembers a packet of its sender: whether its segment could be kept.
fn remember(packet: &Packet, sender: &mut Flow, may_grow: bool, flags: AnalysisFlags) -> bool {
    let mut end = packet.sequence.wrapping_add(packet.length);
    let is_control = packet.flags.any(SYN | FIN);
    let mut is_kept = true;
    if (packet.length > 0 || is_control) && !sender.unacked.is_full() {
        end = end.wrapping_add(is_control.into());
        let sent = Sent {
            frame: packet.number,
            time_ns: packet.time_ns,
            start: packet.sequence,
            end,
        };
        is_kept = sender.unacked.add(sent, sender.base, may_grow);
    }
    if !flags.has(AnalysisFlag::ZeroWindowProbe) {
        if sender.next == 0 || is_after(end, sender.next) {
            sender.next = end;
            sender.next_time_ns = packet.time_ns;
        }
        if sender.contiguous == 0 || sender.contiguous == packet.sequence {
            sender.contiguous = sender.next;
        }
    }
    sender.window = packet.window;
    sender.acknowledgement = packet.acknowledgement;
    sender.time_ns = packet.time_ns;
    sender.flags = flags;
    is_kept
}

fn measure_flight(packet: &Packet, sender: &Flow, peer: &Flow, note: &mut Note) {
    if packet.length == 0 || !sender.tells_flight {
        return;
    }
    let Some(span) = sender.unacked.span() else {
        return;
    };
    note.is_made = true;
    let flight = span.wrapping_sub(peer.sacked);
    if flight > 0 && flight < FLIGHT_MAX {
        let flight = flight - u32::from(packet.flags.any(SYN | FIN));
        note.analysis.bytes_in_flight = (flight > 0).then_some(flight);
    }
}
