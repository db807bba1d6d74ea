//! How the agents of a hub do, and the uplink of an agent.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};

use prometheus::{GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};

use super::daemon::raise;
use super::family::{counter, counters, float_gauges, gauge, gauges};
use super::table;
use crate::agent::{UplinkState, UplinkStatus};
use crate::hub::{AgentState, AgentStatus};

/// Metrics of agents.
#[derive(Debug)]
pub(super) struct AgentMetrics {
    agents: IntGaugeVec,
    heard: GaugeVec,
    hops: IntGaugeVec,
    gaps: IntCounterVec,
    lost_batches: IntCounterVec,
    lost_items: IntCounterVec,
    refused: IntCounterVec,
    log: IntGauge,
    connected: IntGauge,
    sessions: IntCounter,
    batches: IntCounterVec,
    memory: IntGauge,
    spool: IntGauge,
    /// The names that series are there of.
    named: Mutex<BTreeSet<String>>,
}

impl AgentMetrics {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Self {
            agents: gauges(registry, &table::AGENTS)?,
            heard: float_gauges(registry, &table::AGENT_HEARD)?,
            hops: gauges(registry, &table::AGENT_HOPS)?,
            gaps: counters(registry, &table::AGENT_GAPS)?,
            lost_batches: counters(registry, &table::AGENT_LOST_BATCHES)?,
            lost_items: counters(registry, &table::AGENT_LOST_ITEMS)?,
            refused: counters(registry, &table::AGENT_REFUSED)?,
            log: gauge(registry, &table::HUB_LOG)?,
            connected: gauge(registry, &table::UPLINK_CONNECTED)?,
            sessions: counter(registry, &table::UPLINK_SESSIONS)?,
            batches: counters(registry, &table::UPLINK_BATCHES)?,
            memory: gauge(registry, &table::UPLINK_MEMORY)?,
            spool: gauge(registry, &table::UPLINK_SPOOL)?,
            named: Mutex::default(),
        })
    }

    pub(super) fn tell(&self, agents: &[AgentStatus], log_bytes: u64) {
        let connected = agents
            .iter()
            .filter(|it| it.state == AgentState::Connected)
            .count();
        for (state, count) in [("connected", connected), ("away", agents.len() - connected)] {
            self.agents.with_label_values(&[state]).set(whole(count));
        }
        self.log.set(i64::try_from(log_bytes).unwrap_or(i64::MAX));
        for agent in agents {
            let name = [agent.name.as_str()];
            if let Some(heard) = agent.heard {
                self.heard
                    .with_label_values(&name)
                    .set(heard.0 as f64 / 1e9);
            }
            self.hops
                .with_label_values(&name)
                .set(whole(agent.hop_count));
            raise(&self.gaps.with_label_values(&name), agent.gaps);
            raise(
                &self.lost_batches.with_label_values(&name),
                agent.lost_batches,
            );
            raise(&self.lost_items.with_label_values(&name), agent.lost_items);
            raise(&self.refused.with_label_values(&name), agent.refused);
        }
        self.forget(agents);
    }

    /// The series of agents that were removed go.
    fn forget(&self, agents: &[AgentStatus]) {
        let now: BTreeSet<String> = agents.iter().map(|it| it.name.clone()).collect();
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        for gone in named.difference(&now) {
            let name = [gone.as_str()];
            // Fails only where the series is not there.
            drop(self.heard.remove_label_values(&name));
            drop(self.hops.remove_label_values(&name));
            for counters in [
                &self.gaps,
                &self.lost_batches,
                &self.lost_items,
                &self.refused,
            ] {
                drop(counters.remove_label_values(&name));
            }
        }
        *named = now;
    }

    pub(super) fn tell_uplink(&self, uplink: &UplinkStatus) {
        let is_connected = uplink.state() == UplinkState::Connected;
        self.connected.set(i64::from(is_connected));
        raise(&self.sessions, uplink.sessions.load(Ordering::Relaxed));
        for (outcome, count) in [
            ("made", &uplink.batches),
            ("acknowledged", &uplink.acknowledged),
            ("dropped", &uplink.dropped),
        ] {
            let counter = self.batches.with_label_values(&[outcome]);
            raise(&counter, count.load(Ordering::Relaxed));
        }
        let load = |count: &std::sync::atomic::AtomicU64| {
            i64::try_from(count.load(Ordering::Relaxed)).unwrap_or(i64::MAX)
        };
        self.memory.set(load(&uplink.memory_batches));
        self.spool.set(load(&uplink.spool_bytes));
    }
}

fn whole(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
