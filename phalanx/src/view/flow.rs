//! Flows as they are shown.

use std::sync::Arc;

use phalanx_common::abi::HalfCounters;
use phalanx_engine::change::{CloseReason, FlowClosed, FlowOpened, FlowUpdated};
use phalanx_engine::measure::MeasureKind;
use phalanx_engine::{
    ConversationId, Endpoint, FlowId, Hop, HopId, Monotonic, RoleBasis, Side, Sides,
};

use super::hop::HopEntry;
use super::table::Table;
use super::times::Times;

/// The flows.
pub type Flows = Table<FlowId, FlowEntry>;

/// One flow.
#[derive(Clone, Debug)]
pub struct FlowEntry {
    /// The hop's number.
    pub hop: HopId,
    /// The hop, where it was told of before the flow.
    pub hop_facts: Option<Arc<Hop>>,
    /// The conversation it is part of.
    pub conversation: ConversationId,
    /// IANA protocol number.
    pub protocol: u8,
    /// Outermost VLAN id, 0 where there is none.
    pub vlan: u16,
    /// Its incarnation in the kernel: tells apart flows of one 5-tuple.
    pub incarnation: u32,
    /// Client and server.
    pub endpoints: Sides<Endpoint>,
    /// How it was decided who is the client.
    pub role_basis: RoleBasis,
    /// When its first packet was seen.
    pub opened: Monotonic,
    /// When the kernel last told of it.
    pub observed: Monotonic,
    /// Why and when it ended, if it did.
    pub closed: Option<(CloseReason, Monotonic)>,
    /// The counters, by sender.
    pub totals: Sides<HalfCounters>,
    /// RTT toward each side.
    pub rtt: Sides<Times>,
    /// Each side's part of the handshake in microseconds, where it was seen.
    pub handshake_us: Sides<Option<u32>>,
    /// Think time of the server.
    pub think: Times,
    /// First answers of the server with the path in it.
    pub response: Times,
    /// Updates that were lost, with their samples.
    pub lost_update_count: u64,
}

impl FlowEntry {
    /// When it ended, or was last heard of.
    #[must_use]
    pub fn last_seen(&self) -> Monotonic {
        self.closed.map_or(self.observed, |(_, ended)| ended)
    }

    /// A sum over both directions.
    #[must_use]
    pub fn total(&self, field: impl Fn(&HalfCounters) -> u64) -> u64 {
        field(&self.totals.client).saturating_add(field(&self.totals.server))
    }

    fn measure(&mut self, kind: MeasureKind, us: u32) {
        match kind {
            MeasureKind::Rtt(side) | MeasureKind::RttByTimestamp(side) => {
                self.rtt.get_mut(side).add(us);
            }
            MeasureKind::Handshake(side @ (Side::Client | Side::Server)) => {
                *self.handshake_us.get_mut(side) = Some(us);
            }
            MeasureKind::Think => self.think.add(us),
            MeasureKind::ThinkAndPath => self.response.add(us),
            MeasureKind::Idle | MeasureKind::IdleAndPath => {}
        }
    }
}

impl Flows {
    pub(super) fn open(&mut self, opened: &FlowOpened, hop: Option<&HopEntry>) {
        let entry = FlowEntry {
            hop: opened.hop,
            hop_facts: hop.map(|hop| Arc::clone(&hop.facts)),
            conversation: opened.conversation,
            protocol: opened.key.protocol,
            vlan: opened.key.vlan,
            incarnation: opened.incarnation,
            endpoints: opened.endpoints,
            role_basis: opened.role_basis,
            opened: opened.opened,
            observed: opened.opened,
            closed: None,
            totals: Sides::default(),
            rtt: Sides::default(),
            handshake_us: Sides::default(),
            think: Times::default(),
            response: Times::default(),
            lost_update_count: 0,
        };
        self.insert(opened.flow, entry);
    }

    pub(super) fn update(&mut self, updated: &FlowUpdated) {
        let Some(entry) = self.get_mut(updated.flow) else {
            return;
        };
        entry.observed = entry.observed.max(updated.observed);
        entry.totals = updated.totals;
        entry.lost_update_count += u64::from(updated.lost_updates);
        for measure in updated.measures.iter() {
            entry.measure(measure.kind, measure.microseconds);
        }
    }

    pub(super) fn close(&mut self, closed: &FlowClosed) {
        let Some(entry) = self.get_mut(closed.flow) else {
            return;
        };
        entry.closed = Some((closed.reason, closed.ended));
        self.retire(closed.flow);
    }
}
