//! The samples of the kernel programs against those of the reference: by identity, not by value.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};

use phalanx_common::abi::{Direction, FlowKey, FlowUpdate, ReadSample, SampleKind};
use phalanx_common::limits::RTT_SLOT_FIRST_COUNT;

use super::reference::{self, Reference, Way};

/// An RTT of the kernel programs.
struct Measured {
    way: Way,
    /// What the receiver had acknowledged when the sample was taken.
    acknowledged: u32,
    microseconds: f64,
    is_by_timestamp: bool,
}

/// How the samples of one way agree.
#[derive(Debug, Default)]
pub(crate) struct Agreement {
    /// Samples of the reference.
    pub(crate) reference_count: usize,
    /// Samples of the kernel programs by sequence.
    pub(crate) measured_count: usize,
    /// Samples of the kernel programs that the reference does not have.
    pub(crate) ambiguous: Vec<String>,
    /// Samples by timestamp, and those of them that belong to no retransmission.
    pub(crate) by_timestamp: (usize, usize),
    /// Reference samples with fewer segments outstanding than there are slots; found among them.
    pub(crate) few: (usize, usize),
    /// Round trips in which the reference has a sample; those in which the kernel has one too.
    pub(crate) round_trips: (usize, usize),
    /// Median and 95th percentile in microseconds: reference, kernel.
    pub(crate) p50: (f64, f64),
    /// See `p50`.
    pub(crate) p95: (f64, f64),
    /// Differences of each kernel sample from its reference: median, 95th percentile, largest.
    pub(crate) deviation_us: (f64, f64, f64),
}

impl Agreement {
    pub(crate) const HEADER: &'static str = "case                                way      \
         ref  kernel  bad  by-ts(bad)     few: found      rounds: found      \
         p50 ref     kernel      %      p95 ref     kernel      %   deviation p50/p95/max us";

    pub(crate) fn print(&self, case: &str, way: &str) {
        let (p50, p95) = (self.p50, self.p95);
        let (middle, high, largest) = self.deviation_us;
        println!(
            "{case:<35} {way:<6} {:>6}  {:>6}  {:>3}  {:>5}({:>2})  {:>6}: {:>6}     {:>6}: {:>6}  \
             {:>9.1}  {:>9.1}  {:>5.2}    {:>9.1}  {:>9.1}  {:>5.2}   \
             {middle:.1}/{high:.1}/{largest:.1}",
            self.reference_count,
            self.measured_count,
            self.ambiguous.len(),
            self.by_timestamp.0,
            self.by_timestamp.1,
            self.few.0,
            self.few.1,
            self.round_trips.0,
            self.round_trips.1,
            p50.0,
            p50.1,
            off_percent(p50),
            p95.0,
            p95.1,
            off_percent(p95),
        );
    }
}

/// How far the second is from the first, in percent.
pub(crate) fn off_percent((reference, measured): (f64, f64)) -> f64 {
    if reference == 0.0 {
        0.0
    } else {
        100.0 * (measured - reference).abs() / reference
    }
}

/// Acknowledgements that may come between the counters of an update and its samples.
const LATE_COUNT_MAX: usize = 16;
/// How far such a sample may be from its reference, in microseconds: hook and tap lie apart by a
/// few, and a CPU that is taken away in between adds to them.
const LATE_OFF_US: f64 = 50.0;

/// Compares what was sent towards `server`, or from it.
pub(crate) fn compare(
    updates: &[FlowUpdate],
    reference: &Reference,
    is_ours: impl Fn(&Way) -> bool,
) -> Agreement {
    let ours: Vec<&reference::Sample> = reference
        .samples
        .iter()
        .filter(|it| is_ours(&it.way))
        .collect();
    let retransmitted: BTreeSet<&(Way, u32)> = reference.retransmissions.iter().collect();
    let by_end: BTreeMap<(Way, u32), usize> = (0..)
        .zip(&ours)
        .map(|(index, it)| ((it.way, it.end), index))
        .collect();
    // An update of the other direction may have read the counters just before the acknowledgement
    // came, and its sample just after: then the sample is that of the next acknowledgement.
    let by_end_before: BTreeMap<(Way, u32), usize> = (0..)
        .zip(&ours)
        .map(|(index, it)| ((it.way, it.acknowledged_before), index))
        .collect();
    let mut agreement = Agreement {
        reference_count: ours.len(),
        ..Agreement::default()
    };
    let mut found: BTreeMap<usize, f64> = BTreeMap::new();
    for sample in measured(updates).into_iter().filter(|it| is_ours(&it.way)) {
        let identity = (sample.way, sample.acknowledged);
        if sample.is_by_timestamp {
            agreement.by_timestamp.0 += 1;
            agreement.by_timestamp.1 += usize::from(!retransmitted.contains(&identity));
            continue;
        }
        agreement.measured_count += 1;
        let index = [&by_end, &by_end_before]
            .into_iter()
            .find_map(|by| by.get(&identity).filter(|index| !found.contains_key(index)));
        // Where the CPU was taken away in between, more acknowledgements may have come: the sample
        // is of one of the next, and has its time.
        let index = index.copied().or_else(|| {
            let next = by_end.get(&identity)? + 1;
            (next..ours.len().min(next + LATE_COUNT_MAX)).find(|index| {
                let it = ours[*index];
                let off_us = (it.microseconds() - sample.microseconds).abs();
                it.way == sample.way && !found.contains_key(index) && off_us <= LATE_OFF_US
            })
        });
        match index {
            Some(index) => {
                found.insert(index, sample.microseconds);
            }
            None => agreement.ambiguous.push(format!(
                "{identity:?}: {} us, retransmitted: {}",
                sample.microseconds,
                retransmitted.contains(&identity)
            )),
        }
    }
    agreement.fill(&ours, &found);
    agreement
}

impl Agreement {
    fn fill(&mut self, ours: &[&reference::Sample], found: &BTreeMap<usize, f64>) {
        let few = (0..)
            .zip(ours)
            .filter(|(_, it)| it.outstanding < RTT_SLOT_FIRST_COUNT as usize);
        self.few = count(few.map(|(index, _)| found.contains_key(&index)));
        self.round_trips = round_trips(ours, found);
        let truth: Vec<f64> = ours.iter().map(|it| it.microseconds()).collect();
        let values: Vec<f64> = found.values().copied().collect();
        self.p50 = (quantile(&truth, 0.5), quantile(&values, 0.5));
        self.p95 = (quantile(&truth, 0.95), quantile(&values, 0.95));
        let off: Vec<f64> = found
            .iter()
            .map(|(index, value)| (value - truth[*index]).abs())
            .collect();
        self.deviation_us = (
            quantile(&off, 0.5),
            quantile(&off, 0.95),
            quantile(&off, 1.0),
        );
    }
}

fn count(hits: impl Iterator<Item = bool>) -> (usize, usize) {
    hits.fold((0, 0), |(all, hit), is_hit| {
        (all + 1, hit + usize::from(is_hit))
    })
}

/// Cuts the time of each connection into round trips, from one sample of the reference on for as
/// long as it took: how many there are, and in how many a sample was found.
fn round_trips(ours: &[&reference::Sample], found: &BTreeMap<usize, f64>) -> (usize, usize) {
    let mut open: BTreeMap<Way, (u64, bool)> = BTreeMap::new();
    let mut ended = Vec::new();
    for (index, sample) in (0..).zip(ours) {
        let is_found = found.contains_key(&index);
        match open.get_mut(&sample.way) {
            Some((end_ns, hit)) if sample.acknowledged_ns < *end_ns => *hit |= is_found,
            _ => {
                let end_ns = 2 * sample.acknowledged_ns - sample.sent_ns;
                ended.extend(open.insert(sample.way, (end_ns, is_found)));
            }
        }
    }
    count(
        ended
            .into_iter()
            .chain(open.into_values())
            .map(|(_, hit)| hit),
    )
}

/// The value below which a share of all lie (nearest rank); 0 where there are none.
pub(crate) fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
}

fn measured(updates: &[FlowUpdate]) -> Vec<Measured> {
    let mut read_counts: BTreeMap<(FlowKey, u32), u32> = BTreeMap::new();
    let mut measured = Vec::new();
    for update in updates {
        let identity = (update.key, update.incarnation);
        let read_count = read_counts.entry(identity).or_default();
        update.read_samples(read_count, |read| {
            let sample = match read {
                ReadSample::Sample(sample) => sample,
                ReadSample::Lost(count) => panic!("{count} samples were overwritten"),
            };
            let (sender, is_by_timestamp) = match sample.kind {
                SampleKind::Rtt(sender) => (sender, false),
                SampleKind::RttByTimestamp(sender) => (sender, true),
                SampleKind::Turn(_) => return,
            };
            measured.push(Measured {
                way: way(&update.key, sender),
                acknowledged: update.halves[sender.reverse() as usize].acknowledged,
                microseconds: f64::from(sample.microseconds),
                is_by_timestamp,
            });
        });
    }
    measured
}

/// Sender and receiver of one direction of a flow.
pub(crate) fn way(key: &FlowKey, sender: Direction) -> Way {
    let low = SocketAddrV4::new(address(key.low), key.low_port);
    let high = SocketAddrV4::new(address(key.high), key.high_port);
    match sender {
        Direction::FromLow => (low, high),
        Direction::FromHigh => (high, low),
    }
}

/// The last word of an IPv4 address mapped into IPv6, which lies there in wire order.
fn address(words: [u32; 4]) -> Ipv4Addr {
    Ipv4Addr::from(words[3].to_ne_bytes())
}
