//! The end of flows that no packet ends: those that went silent, and those whose hop has gone.
//! Makes nothing of its own: [`Tracer::stories`](super::Tracer::stories) has them.

use super::{Detail, Trace, Tracer};

impl Trace {
    /// Whether a RST or both FINs were seen.
    fn is_over(&self) -> bool {
        matches!(&self.detail, Detail::Tcp(tcp) if tcp.is_over())
    }
}

impl Tracer {
    /// Flows that are followed now.
    #[must_use]
    pub fn count(&self) -> usize {
        self.traces.count()
    }

    /// Ends flows of which nothing was seen for too long, at most `count_max` of them. `timeout_ns`
    /// says how long that is, from the IP protocol and whether the connection is over. True once
    /// none is left.
    pub fn end_silent(
        &mut self,
        now_ns: i64,
        count_max: usize,
        timeout_ns: impl Fn(u8, bool) -> u64,
    ) -> bool {
        self.end_some(count_max, |trace| {
            let silence_ns = now_ns.saturating_sub(trace.end_ns);
            let timeout_ns = timeout_ns(trace.key.protocol, trace.is_over());
            u64::try_from(silence_ns).is_ok_and(|silence_ns| silence_ns >= timeout_ns)
        })
    }

    /// Ends the flows of a hop, at most `count_max` of them. True once none is left.
    pub fn end_hop(&mut self, hop: u32, count_max: usize) -> bool {
        self.end_some(count_max, |trace| trace.key.hop == hop)
    }

    fn end_some(&mut self, count_max: usize, is_meant: impl Fn(&Trace) -> bool) -> bool {
        let mut left = count_max;
        for slot in 0..self.traces.slot_end() {
            if !self.traces.get(slot).is_some_and(&is_meant) {
                continue;
            }
            if left == 0 {
                return false;
            }
            left -= 1;
            self.end(slot);
        }
        true
    }
}
