//! Flows that end by silence: connections that are over, and exchanges that are not TCP's.
//!
//! Whether one has ended is told from its own packets and the clock alone, when it is looked at;
//! the queues here only find those that nobody will look at any more, so that their room is free.

use std::collections::VecDeque;

use crate::limits::{TRACE_CLOSED_SILENCE_MAX_NS, TRACE_DATAGRAM_SILENCE_MAX_NS};
use crate::table::Slot;

/// Which flows end by silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Watched {
    /// A TCP connection that is over.
    Closed,
    /// What is not TCP.
    Datagram,
}

impl Watched {
    /// A packet that comes later begins a new flow.
    pub(super) const fn silence_max_ns(self) -> i64 {
        match self {
            Self::Closed => TRACE_CLOSED_SILENCE_MAX_NS,
            Self::Datagram => TRACE_DATAGRAM_SILENCE_MAX_NS,
        }
    }
}

/// A flow that is to be looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Due {
    pub(super) slot: Slot,
    /// Names the flow: the slot may be another's by then.
    pub(super) flow: u64,
    at_ns: i64,
}

#[cfg(test)]
pub(super) const DUE_BYTES: usize = size_of::<Due>();

/// Flows to be looked at, by kind: those that began to be silent first stand in front.
#[derive(Debug)]
pub(super) struct Silences {
    closed: VecDeque<Due>,
    datagram: VecDeque<Due>,
    count_max: usize,
}

impl Silences {
    pub(super) const fn new(count_max: usize) -> Self {
        Self {
            closed: VecDeque::new(),
            datagram: VecDeque::new(),
            count_max,
        }
    }

    /// Looks at a flow again once it may have been silent for long; false where there is no room.
    pub(super) fn watch(&mut self, watched: Watched, slot: Slot, flow: u64, since_ns: i64) -> bool {
        if self.closed.len() + self.datagram.len() >= self.count_max {
            return false;
        }
        let queue = match watched {
            Watched::Closed => &mut self.closed,
            Watched::Datagram => &mut self.datagram,
        };
        queue.push_back(Due {
            slot,
            flow,
            at_ns: since_ns.saturating_add(watched.silence_max_ns()),
        });
        true
    }

    /// Heap bytes in use.
    pub(super) fn capacity(&self) -> usize {
        (self.closed.capacity() + self.datagram.capacity()) * size_of::<Due>()
    }

    /// A flow that is to be looked at now.
    pub(super) fn pop_due(&mut self, clock_ns: i64) -> Option<Due> {
        let is_due = |due: &mut Due| due.at_ns < clock_ns;
        self.closed
            .pop_front_if(is_due)
            .or_else(|| self.datagram.pop_front_if(is_due))
    }
}

#[cfg(test)]
mod tests {
    use phalanx_common::packet::{TcpFlags, protocol};

    use super::*;
    use crate::record::Decoded;
    use crate::trace::Tracer;

    const SECOND_NS: i64 = 1_000_000_000;

    struct Capture {
        tracer: Tracer,
        number: u64,
    }

    impl Capture {
        fn new() -> Self {
            Self {
                tracer: Tracer::new(1),
                number: 0,
            }
        }

        /// Takes in a packet of the flow that `port` names, and gives the number of its flow.
        fn take(&mut self, protocol: u8, port: u16, flags: TcpFlags, time_ns: i64) -> u64 {
            let mut decoded = Decoded::default();
            decoded.headers.protocol = protocol;
            decoded.headers.source_port = port;
            decoded.headers.destination_port = 1;
            decoded.headers.tcp_flags = flags;
            self.number += 1;
            let record = decoded.record(self.number, time_ns, 60, &[]);
            self.tracer.handle(&record).flow
        }
    }

    #[test]
    fn a_connection_that_is_over_ends_after_a_minute_of_silence() {
        let mut capture = Capture::new();
        let mut take = |flags, time_ns| capture.take(protocol::TCP, 2, TcpFlags(flags), time_ns);
        assert_eq!(take(TcpFlags::RST, 0), 1);
        assert_eq!(take(TcpFlags::RST, TRACE_CLOSED_SILENCE_MAX_NS), 1);
        assert_eq!(take(TcpFlags::ACK, 2 * TRACE_CLOSED_SILENCE_MAX_NS + 1), 3);
        // Not over: it may go on.
        assert_eq!(take(TcpFlags::ACK, 9 * TRACE_CLOSED_SILENCE_MAX_NS), 3);
    }

    #[test]
    fn an_exchange_ends_by_the_time_of_all_packets() {
        let mut capture = Capture::new();
        let none = TcpFlags(0);
        assert_eq!(capture.take(protocol::UDP, 2, none, 0), 1);
        capture.tracer.advance(TRACE_DATAGRAM_SILENCE_MAX_NS);
        assert_eq!(capture.take(protocol::UDP, 2, none, SECOND_NS), 1);
        capture
            .tracer
            .advance(2 * TRACE_DATAGRAM_SILENCE_MAX_NS + 1);
        assert_eq!(capture.take(protocol::UDP, 2, none, 2 * SECOND_NS), 3);
    }

    #[test]
    fn what_is_silent_makes_room_by_itself() {
        let mut capture = Capture::new();
        for index in 0..20_000_u16 {
            let time_ns = i64::from(index) * SECOND_NS;
            capture.take(protocol::TCP, index, TcpFlags(TcpFlags::RST), time_ns);
            capture.take(protocol::UDP, index, TcpFlags(0), time_ns);
            assert!(capture.tracer.traces.count() <= 61 + 301 + 2, "{index}");
        }
        assert_eq!(capture.tracer.tally.evicted, 0);
    }
}
