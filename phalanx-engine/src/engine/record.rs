//! Records of the ring: each goes to the tracer that files are read with, which makes a story of
//! each flow when it ends.
//!
//! Only headers are handed on: what a capture holds of payload is for those who asked for it, and a
//! story is told to all.

use phalanx_common::abi::RecordHeader;
use phalanx_common::packet::{Layers, LinkKind, is_error};

use super::{Engine, Sweep};
use crate::change::FlowTraced;
use crate::flow::silence_max_ns;
use crate::hop::HopId;
use crate::limits::{
    LIVE_GROWN_BYTES_MAX, LIVE_TRACE_BATCH, LIVE_TRACE_COUNT_MAX, LIVE_TRACE_DETAIL_COUNT_MAX,
    LIVE_TRACE_INTERVAL_NS,
};
use crate::record::Decoded;
use crate::time::Monotonic;
use crate::timer::Timer;
use crate::trace::{TraceLimits, Tracer};

/// The flows that are traced, at all hops.
pub(super) struct Traces {
    pub(super) tracer: Tracer,
    layers: Layers,
    /// Records handed to the tracer: they are numbered over all hops.
    record_count: u64,
    /// When they are looked at next; set while there are some.
    timer: Option<Monotonic>,
}

impl Traces {
    pub(super) fn new(seed: u64) -> Self {
        let limits = TraceLimits {
            flow_count_max: LIVE_TRACE_COUNT_MAX,
            detail_count_max: LIVE_TRACE_DETAIL_COUNT_MAX,
            grown_bytes_max: LIVE_GROWN_BYTES_MAX,
        };
        Self {
            tracer: Tracer::with_limits(limits, seed),
            layers: Layers::default(),
            record_count: 0,
            timer: None,
        }
    }
}

impl Engine {
    pub(super) fn record(&mut self, hop: HopId, header: &RecordHeader, bytes: &[u8]) {
        self.outbox.tally.records += 1;
        self.outbox.tally.record_bytes += bytes.len() as u64;
        if !self.hops.contains_key(&hop) {
            self.outbox.tally.hop_unknown += 1;
            return;
        }
        self.end_older_traces(hop);
        let kind = match header.has_ethernet {
            0 => LinkKind::None,
            _ => LinkKind::Ethernet,
        };
        let traces = &mut self.traces;
        let Ok(decoded) = Decoded::of(&mut traces.layers, bytes, kind, header.frame_length) else {
            self.outbox.tally.records_unparsed += 1;
            return;
        };
        // What an error quotes tells whose packet it was.
        let end = match is_error(&decoded.headers) {
            true => bytes.len(),
            false => bytes.len().min(decoded.headers.payload_offset as usize),
        };
        let seen = Monotonic(header.time_ns).min(self.outbox.now);
        traces.record_count += 1;
        let record = decoded.record(
            traces.record_count,
            signed(seen),
            header.frame_length,
            bytes.get(..end).unwrap_or_default(),
        );
        traces.tracer.handle(&record.at_hop(hop.0));
        self.outbox.tally.traces_evicted = traces.tracer.tally().evicted;
        self.tell_traces();
    }

    /// Ends traced flows that are silent, a bounded part of them; true once there are none.
    pub(super) fn traces_due(&mut self) -> bool {
        let tcp_idle_timeout_ns = self.config.tcp_idle_timeout_ns;
        let traces = &mut self.traces;
        traces.timer = None;
        let now_ns = signed(self.outbox.now);
        let is_done = traces
            .tracer
            .end_silent(now_ns, LIVE_TRACE_BATCH, |protocol, is_over| {
                silence_max_ns(protocol, is_over, tcp_idle_timeout_ns)
            });
        if !is_done {
            self.set_trace_timer(self.outbox.now);
        }
        self.tell_traces();
        is_done
    }

    /// Ends the traced flows of a hop that has vanished, a bounded part of them.
    pub(super) fn sweep_traces(&mut self, sweep: &mut Sweep) {
        if sweep.has_traces {
            sweep.has_traces = !self.traces.tracer.end_hop(sweep.hop.0, LIVE_TRACE_BATCH);
            self.tell_traces();
        }
    }

    /// Where a number is in use again before all flows of its last hop have ended, ends them.
    fn end_older_traces(&mut self, hop: HopId) {
        let is_older = |sweep: &&mut Sweep| sweep.hop == hop && sweep.has_traces;
        if let Some(sweep) = self.sweeps.iter_mut().find(is_older) {
            sweep.has_traces = false;
            self.traces.tracer.end_hop(hop.0, LIVE_TRACE_COUNT_MAX);
            self.tell_traces();
        }
    }

    /// Tells what has ended. There is a timer as long as something is traced.
    fn tell_traces(&mut self) {
        for story in self.traces.tracer.stories() {
            self.outbox.story(FlowTraced {
                hop: HopId(story.hop),
                story: *story,
            });
        }
        match (self.traces.tracer.count(), self.traces.timer) {
            (0, Some(at)) => {
                self.timers.clear(at, Timer::Traces);
                self.traces.timer = None;
            }
            (1.., None) => self.set_trace_timer(self.outbox.now.plus_ns(LIVE_TRACE_INTERVAL_NS)),
            _ => {}
        }
    }

    fn set_trace_timer(&mut self, at: Monotonic) {
        self.traces.timer = Some(at);
        self.timers.set(at, Timer::Traces);
    }
}

/// Times of the tracer may lie before an epoch; these do not.
fn signed(at: Monotonic) -> i64 {
    i64::try_from(at.0).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
