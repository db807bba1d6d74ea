//! The families that are labelled with a service pair or an interface.

use prometheus::core::Collector;
use prometheus::{
    Gauge, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry,
};

use super::table::{self, Definition, Kind};

/// The families of one service pair's series, and the flows open.
#[derive(Debug)]
pub(super) struct Families {
    pub(super) rtt: HistogramVec,
    pub(super) handshake: HistogramVec,
    pub(super) think: HistogramVec,
    pub(super) response: HistogramVec,
    pub(super) duration: HistogramVec,
    pub(super) packets: IntCounterVec,
    pub(super) bytes: IntCounterVec,
    pub(super) ecn_marked: IntCounterVec,
    pub(super) icmp_errors: IntCounterVec,
    pub(super) retransmitted: IntCounterVec,
    pub(super) retransmitted_bytes: IntCounterVec,
    pub(super) out_of_sequence: IntCounterVec,
    pub(super) duplicates: IntCounterVec,
    pub(super) zero_windows: IntCounterVec,
    pub(super) resets: IntCounterVec,
    pub(super) connect_failures: IntCounterVec,
    pub(super) conversations: IntCounterVec,
    pub(super) conversations_open: IntGaugeVec,
    pub(super) flows_open: IntGaugeVec,
    pub(super) label_overflow: IntCounterVec,
}

impl Families {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Self {
            rtt: histogram(registry, &table::TCP_RTT)?,
            handshake: histogram(registry, &table::TCP_HANDSHAKE)?,
            think: histogram(registry, &table::TCP_THINK)?,
            response: histogram(registry, &table::RESPONSE)?,
            duration: histogram(registry, &table::TCP_DURATION)?,
            packets: counters(registry, &table::PACKETS)?,
            bytes: counters(registry, &table::BYTES)?,
            ecn_marked: counters(registry, &table::ECN_MARKED)?,
            icmp_errors: counters(registry, &table::ICMP_ERRORS)?,
            retransmitted: counters(registry, &table::TCP_RETRANSMITTED)?,
            retransmitted_bytes: counters(registry, &table::TCP_RETRANSMITTED_BYTES)?,
            out_of_sequence: counters(registry, &table::TCP_OUT_OF_SEQUENCE)?,
            duplicates: counters(registry, &table::TCP_DUPLICATES)?,
            zero_windows: counters(registry, &table::TCP_ZERO_WINDOWS)?,
            resets: counters(registry, &table::TCP_RESETS)?,
            connect_failures: counters(registry, &table::TCP_CONNECT_FAILURES)?,
            conversations: counters(registry, &table::CONVERSATIONS)?,
            conversations_open: gauges(registry, &table::CONVERSATIONS_OPEN)?,
            flows_open: gauges(registry, &table::FLOWS_OPEN)?,
            label_overflow: counters(registry, &table::LABEL_OVERFLOW)?,
        })
    }

    /// Removes all series of service pairs.
    pub(super) fn clear_pairs(&self) {
        for family in [
            &self.rtt,
            &self.handshake,
            &self.think,
            &self.response,
            &self.duration,
        ] {
            family.reset();
        }
        for family in [
            &self.packets,
            &self.bytes,
            &self.ecn_marked,
            &self.icmp_errors,
            &self.retransmitted,
            &self.retransmitted_bytes,
            &self.out_of_sequence,
            &self.duplicates,
            &self.zero_windows,
            &self.resets,
            &self.connect_failures,
            &self.conversations,
            &self.label_overflow,
        ] {
            family.reset();
        }
        self.conversations_open.reset();
    }
}

fn register<C: Collector + Clone + 'static>(
    registry: &Registry,
    collector: C,
) -> Result<C, prometheus::Error> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

fn options(definition: &Definition) -> Opts {
    Opts::new(definition.name, definition.help)
}

fn histogram(
    registry: &Registry,
    definition: &Definition,
) -> Result<HistogramVec, prometheus::Error> {
    let mut options = HistogramOpts::from(options(definition));
    if let Kind::Histogram(bounds) = definition.kind {
        options = options.buckets(bounds.to_vec());
    }
    register(registry, HistogramVec::new(options, definition.labels)?)
}

pub(super) fn counters(
    registry: &Registry,
    definition: &Definition,
) -> Result<IntCounterVec, prometheus::Error> {
    register(
        registry,
        IntCounterVec::new(options(definition), definition.labels)?,
    )
}

pub(super) fn counter(
    registry: &Registry,
    definition: &Definition,
) -> Result<IntCounter, prometheus::Error> {
    register(registry, IntCounter::with_opts(options(definition))?)
}

pub(super) fn gauges(
    registry: &Registry,
    definition: &Definition,
) -> Result<IntGaugeVec, prometheus::Error> {
    register(
        registry,
        IntGaugeVec::new(options(definition), definition.labels)?,
    )
}

pub(super) fn gauge(
    registry: &Registry,
    definition: &Definition,
) -> Result<IntGauge, prometheus::Error> {
    register(registry, IntGauge::with_opts(options(definition))?)
}

pub(super) fn float_gauges(
    registry: &Registry,
    definition: &Definition,
) -> Result<GaugeVec, prometheus::Error> {
    register(
        registry,
        GaugeVec::new(options(definition), definition.labels)?,
    )
}

pub(super) fn float_gauge(
    registry: &Registry,
    definition: &Definition,
) -> Result<Gauge, prometheus::Error> {
    register(registry, Gauge::with_opts(options(definition))?)
}
