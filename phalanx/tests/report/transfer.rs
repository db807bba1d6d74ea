//! A made-up TCP transfer, seen at the sender's host: slow start, a lost segment repaired by SACK,
//! a receiver that stops reading, a lost tail repaired by the timeout. Its numbers are invented,
//! its shape is what a capture shows.

use std::collections::{BTreeSet, VecDeque};

use phalanx::report::{Plot, SackBlock};
use phalanx_engine::Side;
use phalanx_engine::segment::{Class, Mark, Marks, Segment};

const MSS: u64 = 1_448;
const ROUND_TRIP_NS: i64 = 40_000_000;
/// Time of a segment at the slowest link: 20 Mbit/s.
const SEGMENT_NS: i64 = 600_000;
const TIMEOUT_NS: i64 = 260_000_000;
const ACK: u8 = 0x10;
const SYN: u8 = 0x02;

/// What happens on the way.
pub(crate) struct Script {
    /// Segments to send.
    pub(crate) segment_count: u64,
    /// Which of them, counted from 0, are lost when they are first sent.
    pub(crate) lost: &'static [u64],
    /// Bytes that the receiver can hold.
    pub(crate) buffer: u64,
    /// After which segment the receiver stops reading, and for how long.
    pub(crate) stall: Option<(u64, i64)>,
}

struct Acknowledgement {
    time_ns: i64,
    number: u64,
    window: u64,
    sack: Option<(u64, u64)>,
    of_frame: u64,
    sent_ns: i64,
    is_update: bool,
}

struct Transfer {
    start_ns: i64,
    now: i64,
    plot: Plot,
    acks: VecDeque<Acknowledgement>,
    frame: u64,
    link_free: i64,
    next: u64,
    acknowledged: u64,
    window_edge: u64,
    flight_max: u64,
    received: u64,
    beyond: BTreeSet<u64>,
    unread: u64,
    stalled_until: i64,
    duplicates: u32,
    recovery_until: u64,
    first_frames: Vec<u64>,
}

/// The packets of a transfer from the server to the client.
pub(crate) fn transfer(script: &Script, start_ns: i64) -> Plot {
    let mut it = Transfer {
        start_ns,
        now: start_ns,
        plot: Plot::default(),
        acks: VecDeque::new(),
        frame: 0,
        link_free: 0,
        next: 1,
        acknowledged: 1,
        window_edge: script.buffer,
        flight_max: 10 * MSS,
        received: 1,
        beyond: BTreeSet::new(),
        unread: 0,
        stalled_until: 0,
        duplicates: 0,
        recovery_until: 0,
        first_frames: Vec::new(),
    };
    it.open();
    let end = 1 + script.segment_count * MSS;
    for _ in 0..script.segment_count * 20 {
        it.fill(script, end);
        if let Some(ack) = it.acks.pop_front() {
            it.take(&ack, script);
        } else if it.acknowledged < end {
            it.now += TIMEOUT_NS;
            let class = Class::TimeoutRetransmission;
            it.send_again(class, "sent again after the timeout", script);
            it.flight_max = 4 * MSS;
            it.recovery_until = it.next;
        } else {
            break;
        }
    }
    it.close();
    it.plot
}

impl Transfer {
    fn segment(&mut self, side: Side, flags: u8) -> Segment {
        self.frame += 1;
        Segment {
            number: self.frame,
            time_ns: self.now,
            flow: 1,
            protocol: 6,
            side,
            class: None,
            why: "",
            marks: Marks::default(),
            flags,
            sequence: Some(1),
            length: 0,
            acknowledgement: Some(1),
            window: Some(65_535),
            acknowledged_frame: None,
            rtt_ns: None,
            flight: Some(0),
            repeats_frame: None,
        }
    }

    fn open(&mut self) {
        let syn = self.segment(Side::Client, SYN);
        self.plot.push(Segment {
            sequence: Some(0),
            acknowledgement: None,
            class: Some(Class::New),
            why: "opens the connection",
            ..syn
        });
        self.now += 150_000;
        let answer = self.segment(Side::Server, SYN | ACK);
        self.plot.push(Segment {
            sequence: Some(0),
            class: Some(Class::New),
            why: "opens the connection",
            acknowledged_frame: Some(1),
            rtt_ns: Some(150_000),
            ..answer
        });
        self.now += ROUND_TRIP_NS;
        let ack = self.segment(Side::Client, ACK);
        self.plot.push(Segment {
            acknowledged_frame: Some(2),
            rtt_ns: Some(ROUND_TRIP_NS),
            ..ack
        });
        self.now += 90_000;
        let request = self.segment(Side::Client, ACK | 0x08);
        self.plot.push(Segment {
            class: Some(Class::New),
            why: "new bytes in order",
            length: 410,
            flight: Some(410),
            ..request
        });
        self.now += 55_000_000;
    }

    /// Sends what the windows let through.
    fn fill(&mut self, script: &Script, end: u64) {
        while self.next < end
            && self.next + MSS <= self.window_edge
            && self.next - self.acknowledged < self.flight_max
        {
            let index = (self.next - 1) / MSS;
            let is_lost = script.lost.contains(&index);
            let sequence = self.next;
            self.next += MSS;
            let segment = self.data(sequence, Class::New, "new bytes in order");
            self.first_frames.push(segment.number);
            let is_full = self.next + MSS > self.window_edge;
            let mut marks = Marks::default();
            if is_full {
                marks.set(Mark::WindowFull);
            }
            self.plot.push(Segment { marks, ..segment });
            if !is_lost {
                self.arrive(sequence, segment.number, script);
            }
            self.now += 12_000;
        }
    }

    fn data(&mut self, sequence: u64, class: Class, why: &'static str) -> Segment {
        let segment = self.segment(Side::Server, ACK);
        Segment {
            class: Some(class),
            why,
            sequence: Some(sequence),
            length: MSS as u32,
            acknowledgement: Some(411),
            flight: Some(self.next - self.acknowledged),
            ..segment
        }
    }

    fn send_again(&mut self, class: Class, why: &'static str, script: &Script) {
        let sequence = self.acknowledged;
        let segment = self.data(sequence, class, why);
        let index = ((sequence - 1) / MSS) as usize;
        self.plot.push(Segment {
            repeats_frame: self.first_frames.get(index).copied(),
            ..segment
        });
        self.arrive(sequence, segment.number, script);
    }

    /// The segment reaches the receiver, which answers at once.
    fn arrive(&mut self, sequence: u64, frame: u64, script: &Script) {
        self.link_free = self.link_free.max(self.now) + SEGMENT_NS;
        let at = self.link_free + ROUND_TRIP_NS / 2;
        self.beyond.insert(sequence);
        while self.beyond.remove(&self.received) {
            self.received += MSS;
        }
        if let Some((after, pause_ns)) = script.stall
            && self.stalled_until == 0
            && self.received > after * MSS
        {
            self.stalled_until = at + pause_ns;
            self.unread = self.received;
            self.push_ack(self.stalled_until, script.buffer, None, (frame, 0), true);
        }
        let is_stalled = at < self.stalled_until;
        let held = if is_stalled {
            self.received - self.unread
        } else {
            0
        };
        let window = script.buffer.saturating_sub(held) / MSS * MSS;
        let sack = self.beyond.first().map(|first| {
            let run = (0..).take_while(|index| self.beyond.contains(&(first + index * MSS)));
            (*first, first + run.count() as u64 * MSS)
        });
        self.push_ack(at, window, sack, (frame, self.now), false);
    }

    fn push_ack(
        &mut self,
        at: i64,
        window: u64,
        sack: Option<(u64, u64)>,
        (of_frame, sent_ns): (u64, i64),
        is_update: bool,
    ) {
        let ack = Acknowledgement {
            time_ns: at + ROUND_TRIP_NS / 2,
            number: self.received,
            window,
            sack,
            of_frame,
            sent_ns,
            is_update,
        };
        let place = self
            .acks
            .partition_point(|other| other.time_ns <= ack.time_ns);
        self.acks.insert(place, ack);
    }

    /// The acknowledgement reaches the sender.
    fn take(&mut self, ack: &Acknowledgement, script: &Script) {
        self.now = self.now.max(ack.time_ns);
        let number = ack.number.max(self.acknowledged);
        let grown = number - self.acknowledged;
        self.acknowledged = number;
        let mut marks = Marks::default();
        if ack.is_update {
            marks.set(Mark::WindowUpdate);
        } else if grown == 0 {
            marks.set(Mark::DuplicateAck);
            self.duplicates += 1;
        }
        if ack.window == 0 {
            marks.set(Mark::ZeroWindow);
        }
        if ack.sack.is_some() {
            marks.set(Mark::Sack);
        }
        let segment = self.segment(Side::Client, ACK);
        let is_sample = grown > 0 && number > self.recovery_until;
        self.plot.push(Segment {
            marks,
            sequence: Some(411),
            acknowledgement: Some(number),
            window: Some(ack.window as u32),
            acknowledged_frame: (grown > 0).then_some(ack.of_frame),
            rtt_ns: is_sample.then_some(self.now - ack.sent_ns),
            ..segment
        });
        if let Some((left, right)) = ack.sack {
            self.plot.push_sack(SackBlock {
                number: segment.number,
                time_ns: self.now,
                side: Side::Client,
                left,
                right,
            });
        }
        self.window_edge = if ack.is_update || ack.window > 0 {
            self.window_edge.max(number + ack.window)
        } else {
            number
        };
        self.adapt(grown, script);
    }

    /// What an acknowledgement does to the sender's own window.
    fn adapt(&mut self, grown: u64, script: &Script) {
        if grown > 0 {
            self.duplicates = 0;
            if self.acknowledged > self.recovery_until {
                let step = if self.flight_max < 60 * MSS {
                    grown
                } else {
                    MSS / 16
                };
                self.flight_max += step;
            }
        } else if self.duplicates == 3 && self.acknowledged > self.recovery_until {
            self.flight_max = (self.flight_max / 2).max(2 * MSS);
            self.recovery_until = self.next;
            self.now += 20_000;
            let why = "sent again after 3 duplicate acknowledgements";
            self.send_again(Class::FastRetransmission, why, script);
        }
    }

    fn close(&mut self) {
        debug_assert!(self.now > self.start_ns);
        self.now += 1_000_000;
        let segment = self.data(self.next, Class::New, "ends the stream");
        self.plot.push(Segment {
            flags: ACK | 0x01,
            length: 0,
            ..segment
        });
        self.now += ROUND_TRIP_NS;
        let segment = self.segment(Side::Client, ACK | 0x01);
        self.plot.push(Segment {
            class: Some(Class::New),
            why: "ends the stream",
            sequence: Some(411),
            acknowledgement: Some(self.next + 1),
            ..segment
        });
    }
}
