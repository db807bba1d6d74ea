//! The tables of one instance of the programs: counters, flows, filters.

use std::os::fd::AsFd;

use anyhow::{Context, anyhow, ensure};
use aya::Ebpf;
use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray};
use phalanx_common::abi::{
    COUNTER_COUNT, Control, Filter, FlowKey, FlowUpdate, HalfCounters, Shape, TupleKey,
    update_reason,
};
use phalanx_common::limits::{FILTER_COUNT_MAX, SHAPE_COUNT_MAX};
use phalanx_common::watch::{FlowEntry, PromotionLimit, SAMPLE_ALL, tick};
use phalanx_engine::Monotonic;
use zerocopy::transmute;

use super::filter::{RecordingFilter, TupleIndex, TupleSpace};
use super::syscall;

/// Silence after which a flow does not tell of itself any more: longer than any interval of updates
/// of a flow that sees packets would be, were the ring not full.
const SILENCE_NS: u64 = 2_000_000_000;

/// A walk through the table of flows.
#[derive(Clone, Copy, Debug)]
struct Walk {
    after: Option<FlowKey>,
    /// A key that goes under the walk makes it begin anew: it ends after so many.
    left: u32,
}

/// The tables of one instance.
pub(crate) struct Tables {
    counters: PerCpuArray<MapData, [u64; COUNTER_COUNT]>,
    flows: MapData,
    flow_count_max: u32,
    control: Array<MapData, [u8; size_of::<Control>()]>,
    filters: Array<MapData, [u8; size_of::<Filter>()]>,
    shapes: Array<MapData, [u8; size_of::<Shape>()]>,
    tuples: HashMap<MapData, [u8; size_of::<TupleKey>()], u64>,
    generation: u32,
    shape_count: u32,
    update_interval_ns: u64,
    promotion: PromotionLimit,
    lookback: u64,
    sample_threshold: u32,
    tuples_in_force: Vec<TupleIndex>,
    /// Of the generation before.
    tuples_stale: Vec<TupleKey>,
    walk: Option<Walk>,
}

impl Tables {
    /// Takes the tables out of the loaded object.
    pub(super) fn take(
        ebpf: &mut Ebpf,
        update_interval_ns: u64,
        promotion: PromotionLimit,
    ) -> anyhow::Result<Self> {
        let flows = match take(ebpf, "FLOWS")? {
            Map::HashMap(data) => data,
            _ => return Err(anyhow!("the object's map FLOWS is not a hash")),
        };
        let info = flows
            .info()
            .context("read what the kernel says of the map FLOWS")?;
        ensure!(
            info.key_size() as usize == size_of::<FlowKey>()
                && info.value_size() as usize == size_of::<FlowEntry>(),
            "the object's map FLOWS has entries of another layout; rebuild it"
        );
        let mut tables = Self {
            counters: PerCpuArray::try_from(take(ebpf, "COUNTERS")?)?,
            flows,
            flow_count_max: info.max_entries(),
            control: Array::try_from(take(ebpf, "CONTROL")?)?,
            filters: Array::try_from(take(ebpf, "FILTERS")?)?,
            shapes: Array::try_from(take(ebpf, "SHAPES")?)?,
            tuples: HashMap::try_from(take(ebpf, "TUPLES")?)?,
            generation: 0,
            shape_count: 0,
            update_interval_ns,
            promotion,
            lookback: 0,
            sample_threshold: SAMPLE_ALL,
            tuples_in_force: Vec::new(),
            tuples_stale: Vec::new(),
            walk: None,
        };
        tables.write_control(false)?;
        Ok(tables)
    }

    /// The counters, summed over all CPUs.
    pub(crate) fn counters(&self) -> anyhow::Result<[u64; COUNTER_COUNT]> {
        let mut sums = [0_u64; COUNTER_COUNT];
        for counters in self
            .counters
            .get(&0, 0)
            .context("read the map COUNTERS")?
            .iter()
        {
            for (sum, counter) in sums.iter_mut().zip(counters) {
                *sum = sum.wrapping_add(*counter);
            }
        }
        Ok(sums)
    }

    /// How many flows the table can hold.
    pub(crate) fn flow_count_max(&self) -> u32 {
        self.flow_count_max
    }

    /// Reads a flow and deletes it, if it is still of this incarnation; `None`: it is not.
    pub(crate) fn read_and_delete(
        &self,
        key: &FlowKey,
        incarnation: u32,
        now: Monotonic,
    ) -> anyhow::Result<Option<FlowUpdate>> {
        let flows = self.flows.fd();
        let context = "read and delete in the map FLOWS";
        let found = syscall::read_flow(flows.as_fd(), key).context(context)?;
        if found.is_none_or(|entry| entry.incarnation.load() != incarnation) {
            return Ok(None);
        }
        // Between the two calls the key may pass to another connection. Its state is lost then,
        // and its next packet opens it again, under a new incarnation.
        let Some(entry) = syscall::read_and_delete_flow(flows.as_fd(), key).context(context)?
        else {
            return Ok(None);
        };
        let before = entry.update();
        let update = FlowUpdate {
            reason: update_reason::EXPIRED,
            version: before.version.wrapping_add(1),
            now_ns: now.0,
            ..before
        };
        Ok((update.incarnation == incarnation).then_some(update))
    }

    /// Begins a walk through the table: events were lost.
    pub(crate) fn begin_walk(&mut self) {
        self.walk = Some(Walk {
            after: None,
            left: self.flow_count_max,
        });
    }

    /// Whether a walk is under way.
    pub(crate) fn is_walking(&self) -> bool {
        self.walk.is_some()
    }

    /// Goes on with the walk, by `count` flows at most: the silent ones among them, as the updates
    /// that may have been lost would have told of them.
    pub(crate) fn walk(&mut self, count: u32, now: Monotonic) -> anyhow::Result<Vec<FlowUpdate>> {
        let mut found = Vec::new();
        let flows = self.flows.fd();
        let context = "walk through the map FLOWS";
        for _ in 0..count {
            let Some(walk) = &mut self.walk else { break };
            let next = syscall::next_flow(flows.as_fd(), walk.after.as_ref()).context(context)?;
            let Some(key) = next.filter(|_| walk.left > 0) else {
                self.walk = None;
                break;
            };
            walk.after = next;
            walk.left -= 1;
            // An entry that passed to another flow while it was copied may hold parts of both.
            let entry = syscall::read_flow(flows.as_fd(), &key).context(context)?;
            let last = entry.map(|entry| entry.update()).filter(|it| it.key == key);
            found.extend(last.and_then(|last| silent_update(&last, now)));
        }
        Ok(found)
    }

    /// Asks the programs to wake us with the next event.
    pub(crate) fn announce_sleep(&mut self) -> anyhow::Result<()> {
        self.write_control(true)
    }

    /// Tells the programs which filters are those of who looks back, bits by number.
    pub(crate) fn set_lookback(&mut self, lookback: u64) -> anyhow::Result<()> {
        self.lookback = lookback;
        self.write_control(false)
    }

    /// Tells the programs which flows are sampled for who looks back: see `Control`.
    pub(crate) fn set_sample_threshold(&mut self, threshold: u32) -> anyhow::Result<()> {
        self.sample_threshold = threshold;
        self.write_control(false)
    }

    /// Puts recording filters in force instead of those before. What a packet meets between the
    /// first and the last write may be judged by either set: the records are judged again in user
    /// space. Programs that run go by the filters before until they have ended: then
    /// [`Self::forget_filters`] is due.
    pub(crate) fn set_filters(&mut self, filters: &[(u8, RecordingFilter)]) -> anyhow::Result<()> {
        let space = TupleSpace::build(filters).map_err(anyhow::Error::msg)?;
        debug_assert!(space.shapes.len() <= SHAPE_COUNT_MAX);
        debug_assert!(space.filters.len() == FILTER_COUNT_MAX);
        self.forget_filters()?;
        // Generation 0 means that no flow has asked yet.
        let generation = self.generation.wrapping_add(1).max(1);
        for (index, set) in &space.tuples {
            let key: [u8; size_of::<TupleKey>()] = transmute!(index.key(generation));
            self.tuples
                .insert(key, *set, 0)
                .context("write the map TUPLES")?;
        }
        for (number, filter) in (0..).zip(&space.filters) {
            let filter: [u8; size_of::<Filter>()] = transmute!(*filter);
            self.filters
                .set(number, filter, 0)
                .context("write the map FILTERS")?;
        }
        for (number, shape) in (0..).zip(&space.shapes) {
            let shape: [u8; size_of::<Shape>()] = transmute!(*shape);
            self.shapes
                .set(number, shape, 0)
                .context("write the map SHAPES")?;
        }
        let before = std::mem::replace(&mut self.generation, generation);
        self.shape_count = u32::try_from(space.shapes.len())?;
        self.write_control(false)?;
        let in_force = space.tuples.into_keys().collect();
        let stale = std::mem::replace(&mut self.tuples_in_force, in_force);
        self.tuples_stale = stale.into_iter().map(|index| index.key(before)).collect();
        Ok(())
    }

    /// Takes the filters before those in force out of the maps: no program looks for them any more.
    pub(crate) fn forget_filters(&mut self) -> anyhow::Result<()> {
        for key in std::mem::take(&mut self.tuples_stale) {
            let key: [u8; size_of::<TupleKey>()] = transmute!(key);
            self.tuples.remove(&key).context("clean the map TUPLES")?;
        }
        Ok(())
    }

    fn write_control(&mut self, sleeps: bool) -> anyhow::Result<()> {
        let control = control_bytes(self, sleeps);
        self.control
            .set(0, control, 0)
            .context("write the map CONTROL")
    }
}

/// What is told of a flow that is silent, `None` of one that is not. Of one that has ended it is
/// the update that comes after its last; of another it is its last once more, which the engine
/// knows unless it was lost.
fn silent_update(last: &FlowUpdate, now: Monotonic) -> Option<FlowUpdate> {
    let mut update = FlowUpdate {
        reason: 0,
        now_ns: now.0,
        ..*last
    };
    if !update.halves.iter().all(|half| is_silent(half, now)) {
        return None;
    }
    if update.halves.iter().any(|half| half.rst_count > 0) {
        update.reason = update_reason::RESET;
    } else if update.halves.iter().all(|half| half.fin_count > 0) {
        update.reason = update_reason::CLOSED;
    }
    if update.reason != 0 {
        update.version = last.version.wrapping_add(1);
    }
    Some(update)
}

/// Whether the last packet of a direction is long ago. One that came after `now` was read is not:
/// its tick looks like one of 73 minutes before.
fn is_silent(half: &HalfCounters, now: Monotonic) -> bool {
    let latest = tick(now.0.saturating_add(SILENCE_NS));
    let ticks = u64::from(latest.wrapping_sub(half.seen_tick));
    half.seen_tick == 0 || ticks > 2 * (SILENCE_NS >> 10)
}

/// The control word as it lies in the map.
fn control_bytes(tables: &Tables, sleeps: bool) -> [u8; size_of::<Control>()] {
    let control = Control {
        generation: tables.generation,
        shape_count: tables.shape_count,
        update_interval_ns: tables.update_interval_ns,
        sleeps: u32::from(sleeps),
        promotion_count_max: tables.promotion.count_max,
        promotion_hold_ns: tables.promotion.hold_ns,
        lookback: tables.lookback,
        sample_threshold: tables.sample_threshold,
        reserved: 0,
    };
    transmute!(control)
}

pub(super) fn take(ebpf: &mut Ebpf, name: &str) -> anyhow::Result<Map> {
    ebpf.take_map(name)
        .with_context(|| format!("the object has no map {name}; rebuild it"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromZeros as _;

    #[test]
    fn a_packet_after_the_clock_was_read_is_no_silence() {
        let now = Monotonic(10_000_000_000);
        let cases = [
            (0, true),
            (tick(now.0 - SILENCE_NS - 2_048), true),
            (tick(now.0 - SILENCE_NS + 2_048), false),
            (tick(now.0), false),
            (tick(now.0 + 5_000_000), false),
        ];
        for (seen_tick, expected) in cases {
            let mut half = HalfCounters::new_zeroed();
            half.seen_tick = seen_tick;
            assert_eq!(is_silent(&half, now), expected, "{seen_tick}");
        }
    }
}
