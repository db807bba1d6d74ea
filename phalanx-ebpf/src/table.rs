//! The maps behind the watch rule: flows, pending flows, counters, events.

use crate::filter::Found;
use aya_ebpf::bindings::{BPF_NOEXIST, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, PerCpuArray, RingBuf};
use phalanx_common::abi::{
    Attempt, COUNTER_COUNT, Control, Counter, FlowKey, FlowUpdate, event_kind,
};
use phalanx_common::limits::{EVENT_RING_SIZE, FLOW_COUNT_DEFAULT, PENDING_COUNT};
use phalanx_common::packet::{Headers, Unparsed};
use phalanx_common::watch::{AttemptState, FlowEntry, Pending, Tables, write_update};
use phalanx_common::word::Word32;

/// All open flows. Preallocated: an insertion never allocates, and nothing is evicted.
#[map]
static FLOWS: HashMap<FlowKey, FlowEntry> = HashMap::with_max_entries(FLOW_COUNT_DEFAULT, 0);

/// Flows not yet open.
#[map]
static PENDING: Array<Pending> = Array::with_max_entries(PENDING_COUNT, 0);

/// Room beside the stack, by CPU, which runs one program of ours at a time.
#[map]
static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// What a packet's way needs beside the stack. Of what lies here the verifier remembers nothing:
/// all the ways through the parser are one when they have ended, which is what keeps the programs
/// within its patience.
#[repr(C)]
pub(crate) struct Scratch {
    /// The packet's headers.
    pub(crate) headers: Headers,
    /// The headers of the packet that an ICMP error quotes.
    pub(crate) quote: Headers,
    /// The packet's flow.
    pub(crate) key: FlowKey,
    /// The flow of the packet that an ICMP error quotes.
    pub(crate) quote_key: FlowKey,
    /// What the search for filters gathers.
    found: Found,
    /// An empty flow entry for insertions.
    empty: FlowEntry,
}

/// Counters by CPU.
#[map]
static COUNTERS: PerCpuArray<[u64; COUNTER_COUNT]> = PerCpuArray::with_max_entries(1, 0);

/// What user space tells the programs.
#[map]
static CONTROL: Array<Control> = Array::with_max_entries(1, 0);

/// Updates and attempts.
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(EVENT_RING_SIZE, 0);

/// Covers the numbers of all [`Unparsed`] reasons.
const REASON_MASK: u32 = 15;
const _: () = assert!(Unparsed::COUNT <= REASON_MASK as usize + 1);
const _: () = assert!(Counter::UnparsedFirst as usize + REASON_MASK as usize + 1 <= COUNTER_COUNT);

/// Seed of the pending table's hash; written by the loader.
#[unsafe(no_mangle)]
static PHALANX_SEED: u64 = 0;

/// What a packet works on: looked up once.
#[derive(Clone, Copy)]
pub(crate) struct Ground {
    counters: *mut [u64; COUNTER_COUNT],
    control: *const Control,
    scratch: *mut Scratch,
}

impl Ground {
    /// The counters of this CPU and the control word; both always exist.
    #[inline(always)]
    pub(crate) fn get() -> Option<Self> {
        Some(Self {
            counters: COUNTERS.get_ptr_mut(0)?,
            control: CONTROL.get_ptr(0)?,
            scratch: SCRATCH.get_ptr_mut(0)?,
        })
    }

    #[inline(always)]
    pub(crate) fn found(&self) -> &Found {
        // SAFETY: the scratch is this CPU's alone while the program runs.
        unsafe { &(*self.scratch).found }
    }

    #[inline(always)]
    pub(crate) fn scratch(&self) -> *mut Scratch {
        self.scratch
    }

    #[inline(always)]
    pub(crate) fn control(&self) -> &Control {
        // SAFETY: the pointer is a live map value.
        unsafe { &*self.control }
    }

    /// Counts a packet that takes part in no flow.
    #[inline(always)]
    pub(crate) fn count_unparsed(&self, reason: u32) {
        // A mask, not a comparison: older verifiers lose the bound of a register that was compared
        // in another width.
        let index = Counter::UnparsedFirst as usize + (reason & REASON_MASK) as usize;
        // SAFETY: the pointer is a live map value of this CPU, which runs one program of ours at a
        // time.
        unsafe { (*self.counters)[index] += 1 };
    }

    /// How an event wakes user space: not at all, unless it said that it sleeps.
    #[inline(always)]
    pub(crate) fn wake_flags(&self) -> u64 {
        // SAFETY: a word of a live map value, which other CPUs may write at the same time.
        let sleeps = unsafe { &*(&raw const (*self.control).sleeps).cast::<Word32>() };
        if sleeps.load() != 0 && sleeps.replace(1, 0) {
            u64::from(BPF_RB_FORCE_WAKEUP)
        } else {
            u64::from(BPF_RB_NO_WAKEUP)
        }
    }
}

impl Tables for Ground {
    #[inline(always)]
    fn flow(&self, key: &FlowKey) -> Option<&FlowEntry> {
        // SAFETY: all of an entry's words are written atomically. An entry that user space deletes
        // under a running program may serve another flow: only long silent flows are deleted.
        FLOWS.get_ptr(key).map(|entry| unsafe { &*entry })
    }

    #[inline(always)]
    fn open(&self, key: &FlowKey, now_ns: u64) -> Option<&FlowEntry> {
        // SAFETY: a live map value of this CPU; only the words that `begin` writes ever differ
        // from zero.
        let empty = unsafe { &(*self.scratch).empty };
        empty.begin(now_ns);
        if FLOWS.insert(key, empty, u64::from(BPF_NOEXIST)).is_ok() {
            self.count(Counter::FlowsOpened, 1);
        }
        self.flow(key)
    }

    #[inline(always)]
    fn remove(&self, key: &FlowKey) {
        let _ = FLOWS.remove(key);
    }

    #[inline(always)]
    fn pending(&self, index: u32) -> Option<&Pending> {
        PENDING.get(index)
    }

    #[inline(always)]
    fn seed(&self) -> u64 {
        // SAFETY: a static that the loader wrote before the program was loaded.
        unsafe { core::ptr::read_volatile(&raw const PHALANX_SEED) }
    }

    #[inline(always)]
    fn count(&self, counter: Counter, amount: u32) {
        // SAFETY: as in `count_unparsed`; all counters lie below `COUNTER_COUNT`.
        unsafe { (*self.counters)[counter as usize] += u64::from(amount) };
    }

    #[inline(always)]
    fn update_interval_ns(&self) -> u64 {
        self.control().update_interval_ns
    }

    #[inline(never)]
    fn send_update(&self, key: &FlowKey, entry: &FlowEntry, reason: u32, now_ns: u64) {
        let Some(mut place) = EVENTS.reserve::<FlowUpdate>(0) else {
            self.count(Counter::EventsDroppedRingFull, 1);
            return;
        };
        // SAFETY: `write_update` writes every field.
        write_update(
            unsafe { place.assume_init_mut() },
            key,
            entry,
            reason,
            now_ns,
        );
        place.submit(self.wake_flags());
        self.count(Counter::EventsDelivered, 1);
    }

    #[inline(never)]
    fn send_attempt(&self, key: &FlowKey, attempt: &AttemptState) {
        let Some(mut place) = EVENTS.reserve::<Attempt>(0) else {
            self.count(Counter::EventsDroppedRingFull, 1);
            return;
        };
        place.write(Attempt {
            kind: event_kind::ATTEMPT,
            outcome: attempt.outcome,
            key: *key,
            initiator: attempt.initiator as u32 + 1,
            now_ns: attempt.now_ns,
            answer_us: attempt.answer_us,
            icmp_error: attempt.icmp_error,
        });
        place.submit(self.wake_flags());
        self.count(Counter::EventsDelivered, 1);
    }
}
