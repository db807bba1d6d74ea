//! Why a sender sends again, and whether what fills a hole came late or comes again: the rules,
//! from what a half knows.

use super::{Half, Overlap, Recovery, Run, Sending};
use crate::segment::Class;

impl Half {
    /// Why bytes that were seen before are sent again. `held` is how they were sent last.
    pub(super) fn repeat_kind(
        &mut self,
        sending: &Sending,
        run: &Run,
        held: &Run,
        overlap: &Overlap,
    ) -> (Class, &'static str) {
        if overlap.is_sacked {
            return (Class::SpuriousRetransmission, "all of it had been SACKed");
        }
        let since_ns = sending.time_ns.saturating_sub(held.last_ns);
        let timeout_ns = self.round_trips.timeout_min_ns(sending.peer_rtt_ns);
        // RFC 6298 section 5: the timer runs from the last acknowledgement that was of use.
        let quiet_ns = sending
            .time_ns
            .saturating_sub(self.last_ack_ns.max(held.last_ns));
        let is_first = run.start <= self.acknowledged;
        if is_first && quiet_ns >= timeout_ns {
            self.begin_timeout();
            return (
                Class::TimeoutRetransmission,
                "the first unacknowledged, after a retransmission timeout of silence",
            );
        }
        if let Recovery::Timeout(point) = self.recovery
            && run.start < point
        {
            return (
                Class::TimeoutRetransmission,
                "sent before the timeout that is being repaired",
            );
        }
        if self.duplicate_acks >= 3 {
            self.begin_fast();
            return (
                Class::FastRetransmission,
                "after three duplicate acknowledgements",
            );
        }
        if self.space.sacked_bytes >= 3 * self.segment_length(sending.mss) {
            self.begin_fast();
            return (
                Class::FastRetransmission,
                "three segments beyond it were SACKed",
            );
        }
        if let Recovery::Fast(point) = self.recovery
            && run.start < point
        {
            return (
                Class::FastRetransmission,
                "part of the loss that is being repaired",
            );
        }
        let window_ns = self.round_trips.min_ns().unwrap_or(0) / 4;
        if self.delivered_ns > held.last_ns.saturating_add(window_ns) {
            self.begin_fast();
            return (
                Class::FastRetransmission,
                "what was sent later has arrived (RACK)",
            );
        }
        // RFC 8985 sections 7.2 and 7.3: the timer begins anew with each acknowledgement of data,
        // and new data goes first where there is some.
        let is_tail = run.end == self.next && overlap.new == 0;
        if is_tail && quiet_ns >= self.round_trips.probe_ns(sending.peer_rtt_ns) {
            return (
                Class::TailLossProbe,
                "the last segment again, before a timeout",
            );
        }
        if is_first && since_ns >= timeout_ns {
            self.begin_timeout();
            return (
                Class::TimeoutRetransmission,
                "after a retransmission timeout",
            );
        }
        (
            Class::Retransmission,
            "seen before; neither acknowledgements nor silence say why",
        )
    }

    /// Most bytes of a segment on the wire: what is captured may be many at once, which the
    /// sender's network card cuts only later.
    fn segment_length(&self, mss: u16) -> u64 {
        let largest = self.segment_max.max(1);
        let length = match mss {
            0 => largest,
            _ => largest.min(mss.into()),
        };
        length.into()
    }

    /// Whether bytes that were not seen yet came late, or come again.
    pub(super) fn hole_kind(
        &mut self,
        sending: &Sending,
        opener: &Run,
        lateness_ns: i64,
    ) -> (Class, &'static str) {
        let has_timestamps = sending.timestamp != 0 && opener.first_timestamp != 0;
        let age = sending.timestamp.wrapping_sub(opener.first_timestamp) as i32;
        if has_timestamps && age < 0 {
            return (
                Class::Reordered,
                "its timestamp is older than that of what overtook it",
            );
        }
        if has_timestamps && age > 0 {
            return (
                Class::FillsHole,
                "its timestamp is newer than that of what came before it",
            );
        }
        if sending.ip_id != 0 && opener.ip_id != 0 && self.ids.tell_order() {
            let step = sending.ip_id.wrapping_sub(opener.ip_id) as i16;
            return if step < 0 {
                (
                    Class::Reordered,
                    "its IP id is older than that of what overtook it",
                )
            } else {
                (
                    Class::FillsHole,
                    "its IP id is newer than that of what came before it",
                )
            };
        }
        let round_trip_ns = self
            .round_trips
            .min_ns()
            .unwrap_or(0)
            .saturating_add(sending.peer_rtt_ns.unwrap_or(0));
        let limit_ns = if round_trip_ns == 0 {
            3_000_000
        } else {
            round_trip_ns * 9 / 10
        };
        if lateness_ns < limit_ns {
            (
                Class::Reordered,
                "sooner after what overtook it than a round trip",
            )
        } else {
            (
                Class::FillsHole,
                "a round trip or more after what came before it",
            )
        }
    }
}
