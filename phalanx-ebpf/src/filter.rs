//! Which recording filters a flow matches: tuple-space search (Srinivasan, Suri, Varghese, SIGCOMM
//! 1999) in bounded time. Filters with equal prefix lengths share a shape; each shape in force is
//! one masked lookup, both ways round; ports are compared for the candidates only. The answer is
//! kept in the flow's entry until the filters change.

use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap};
use phalanx_common::abi::{Filter, FlowKey, Shape, TupleKey};
use phalanx_common::limits::{FILTER_COUNT_MAX, SHAPE_COUNT_MAX};
use phalanx_common::watch::{FlowEntry, Sighting, sample_of};
use phalanx_common::word::{Word32, Word64};

use crate::log::{self, Event};
use crate::table::Ground;

/// The filters in force, by number.
#[map]
static FILTERS: Array<Filter> = Array::with_max_entries(FILTER_COUNT_MAX as u32, 0);

/// The shapes in force.
#[map]
static SHAPES: Array<Shape> = Array::with_max_entries(SHAPE_COUNT_MAX as u32, 0);

/// Candidates by shape and masked tuple; two generations while user space changes the filters.
#[map]
static TUPLES: HashMap<TupleKey, u64> = HashMap::with_max_entries(2 * FILTER_COUNT_MAX as u32, 0);

/// The filters that match a flow (bits by number), and how much of its packets they ask for, as
/// `FlowEntry::snap` has it.
#[inline(always)]
pub(crate) fn matched(
    ground: &Ground,
    sighting: &Sighting,
    entry: Option<&FlowEntry>,
) -> (u64, u32) {
    let generation = ground.control().generation;
    if let Some(entry) = entry
        && entry.filter_generation.load() == generation
    {
        return (entry.matched.load(), entry.snap.load());
    }
    phalanx_match(&sighting.key);
    let found = ground.found();
    let (matched, snap) = (found.matched.load(), found.snap.load());
    if let Some(entry) = entry {
        entry.matched.store(matched);
        entry.snap.store(snap);
        entry.filter_generation.store(generation);
    }
    (matched, snap)
}

/// Searches the filters that match a flow, and leaves them in the scratch. Proven on its own by
/// the verifier.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn phalanx_match(key: *const FlowKey) -> u32 {
    // SAFETY: what is not null is a key in the scratch.
    let (Some(key), Some(ground)) = (unsafe { key.as_ref() }, Ground::get()) else {
        return 0;
    };
    let (found, control) = (ground.found(), ground.control());
    found.straight.store(0);
    found.swapped.store(0);
    search(found, key, control.generation, control.shape_count);
    check(found, key);
    found.snap.store(found.snap.load() | sample_of(key) << 16);
    log::note(Event::Filtered);
    1
}

/// What a search gathers: kept beside the stack, since of a sum that lies in registers the verifier
/// remembers each value it can have, and follows each way to it.
#[derive(Default)]
#[repr(C)]
pub(crate) struct Found {
    /// Candidates with the low end as `a`.
    straight: Word64,
    /// Candidates with the high end as `a`.
    swapped: Word64,
    /// Filters that match.
    matched: Word64,
    /// The largest snap that they ask for, and the flow's sample above it.
    snap: Word32,
    /// Nothing.
    reserved: Word32,
}

/// Gathers the candidates of all shapes, with the low end as `a`, and with the high end as `a`.
#[inline(never)]
fn search(found: &Found, key: &FlowKey, generation: u32, shape_count: u32) {
    for number in 0..SHAPE_COUNT_MAX as u32 {
        if number >= shape_count {
            break;
        }
        let Some(shape) = SHAPES.get(number) else {
            break;
        };
        let straight = look_up(key, shape, number, generation, false);
        found.straight.store(found.straight.load() | straight);
        let swapped = look_up(key, shape, number, generation, true);
        found.swapped.store(found.swapped.load() | swapped);
    }
}

#[inline(always)]
fn look_up(key: &FlowKey, shape: &Shape, number: u32, generation: u32, is_swapped: bool) -> u64 {
    let (a, b) = if is_swapped {
        (&key.high, &key.low)
    } else {
        (&key.low, &key.high)
    };
    let tuple = TupleKey {
        a: masked(a, &shape.a_mask),
        b: masked(b, &shape.b_mask),
        generation,
        shape: number as u16,
        protocol: if shape.has_protocol == 0 {
            0
        } else {
            key.protocol
        },
        reserved: 0,
    };
    // SAFETY: a value is one word, which user space writes once.
    TUPLES
        .get_ptr(&tuple)
        .map_or(0, |candidates| unsafe { *candidates })
}

#[inline(always)]
fn masked(address: &[u32; 4], mask: &[u32; 4]) -> [u32; 4] {
    [
        address[0] & mask[0],
        address[1] & mask[1],
        address[2] & mask[2],
        address[3] & mask[3],
    ]
}

/// Compares the ports of the candidates.
#[inline(never)]
fn check(found: &Found, key: &FlowKey) {
    found.matched.store(0);
    found.snap.store(0);
    for number in 0..FILTER_COUNT_MAX as u32 {
        let straight = found.straight.load() >> number;
        let swapped = found.swapped.load() >> number;
        if straight | swapped == 0 {
            break;
        }
        let Some(filter) = FILTERS.get(number) else {
            break;
        };
        let is_match = (straight & 1 != 0 && admits(filter, key.low_port, key.high_port))
            || (swapped & 1 != 0 && admits(filter, key.high_port, key.low_port));
        if is_match {
            found.matched.store(found.matched.load() | 1 << number);
            let wanted = u32::from(filter.has_payload) << 8 | u32::from(filter.snap_class);
            if wanted > found.snap.load() {
                found.snap.store(wanted);
            }
        }
    }
}

#[inline(always)]
fn admits(filter: &Filter, a_port: u16, b_port: u16) -> bool {
    filter.is_set != 0
        && a_port >= filter.a_port_first
        && a_port <= filter.a_port_last
        && b_port >= filter.b_port_first
        && b_port <= filter.b_port_last
}
