//! The maps behind the watch rule: flows, pending flows, counters, events.

use crate::filter::Found;
use crate::frame::Options;
use crate::log::{self, Event};
use aya_ebpf::bindings::{BPF_NOEXIST, BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, PerCpuArray, RingBuf};
use phalanx_common::abi::{
    Attempt, COUNTER_COUNT, Control, Counter, FlowKey, FlowUpdate, attempt_outcome, event_kind,
};
use phalanx_common::limits::{BUCKET_COUNT, EVENT_RING_SIZE, FLOW_COUNT_DEFAULT};
use phalanx_common::packet::{Headers, Unparsed};
use phalanx_common::watch::{
    self, AttemptState, Bucket, FlowEntry, PromotionLimit, Sighting, Tables,
};
use phalanx_common::word::{Word32, Word64};

/// All open flows. Preallocated: an insertion never allocates, and nothing is evicted.
#[map]
static FLOWS: HashMap<FlowKey, FlowEntry> = HashMap::with_max_entries(FLOW_COUNT_DEFAULT, 0);

/// Flows not yet open.
#[map]
static PENDING: Array<Bucket> = Array::with_max_entries(BUCKET_COUNT, 0);

/// Room beside the stack, by CPU, which runs one program of ours at a time.
#[map]
static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// What a packet's way needs beside the stack. Of what lies here the verifier remembers nothing:
/// all the ways through the parser are one when they have ended, which is what keeps the programs
/// within its patience.
#[repr(C)]
pub(crate) struct Scratch {
    /// The packet.
    pub(crate) sighting: Sighting,
    /// The options of a SYN.
    pub(crate) options: Options,
    /// The headers of the packet that an ICMP error quotes.
    pub(crate) quote: Headers,
    /// The flow of the packet that an ICMP error quotes.
    pub(crate) quote_key: FlowKey,
    /// What the search for filters gathers.
    found: Found,
    /// What is to be logged of the packet: bits of `log::Event`.
    noted: Word32,
    /// Nothing.
    reserved: Word32,
    /// An empty flow entry for insertions.
    empty: FlowEntry,
}

/// Counters by CPU.
#[map]
static COUNTERS: PerCpuArray<[u64; COUNTER_COUNT]> = PerCpuArray::with_max_entries(1, 0);

/// What user space tells the programs.
#[map]
static CONTROL: Array<Control> = Array::with_max_entries(1, 0);

/// How many promotions were made in which window: one word for all CPUs. Apart from the control
/// word, which user space writes as a whole.
#[map]
static PROMOTIONS: Array<Word64> = Array::with_max_entries(1, 0);

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
    pub(crate) fn noted(&self) -> &Word32 {
        // SAFETY: the scratch is this CPU's alone while the program runs.
        unsafe { &(*self.scratch).noted }
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
        // SAFETY: all of an entry's words are written atomically. An entry that is deleted under a
        // program on another CPU may serve another flow at once, and that program's packet is then
        // counted there: deleted are flows that were silent for long, and those whose connection
        // has ended when a SYN begins another on its ports.
        FLOWS.get_ptr(key).map(|entry| unsafe { &*entry })
    }

    #[inline(always)]
    fn open(&self, key: &FlowKey, now_ns: u64) -> Option<&FlowEntry> {
        // SAFETY: a live map value of this CPU, which nothing else borrows; only the words that
        // `begin` writes ever differ from zero.
        let empty = unsafe { &mut (*self.scratch).empty };
        empty.begin(key, now_ns);
        if FLOWS.insert(key, &*empty, u64::from(BPF_NOEXIST)).is_ok() {
            self.count(Counter::FlowsOpened, 1);
        }
        let entry = self.flow(key);
        if entry.is_none() {
            log::note(Event::TableFull);
        }
        entry
    }

    #[inline(always)]
    fn remove(&self, key: &FlowKey) {
        let _ = FLOWS.remove(key);
    }

    #[inline(always)]
    fn bucket(&self, index: u32) -> Option<&Bucket> {
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

    #[inline(always)]
    fn send_update(&self, entry: &FlowEntry) {
        // SAFETY: the head of an entry has the layout of an update, as `entry.rs` proves; where
        // other CPUs write meanwhile, each word is either the old or the new one.
        let update = unsafe { &*core::ptr::from_ref(entry).cast::<FlowUpdate>() };
        let counter = match EVENTS.output::<FlowUpdate>(update, self.wake_flags()) {
            Ok(()) => Counter::EventsDelivered,
            Err(_) => Counter::EventsDroppedRingFull,
        };
        self.count(counter, 1);
    }

    #[inline(always)]
    fn observe(&self, entry: &FlowEntry, sighting: &Sighting) -> u32 {
        phalanx_observe(entry, sighting)
    }

    #[inline(always)]
    fn first_packets(&self, sighting: &Sighting) -> bool {
        // The sighting lies in the scratch.
        let _ = sighting;
        phalanx_first_packets() != 0
    }

    #[inline(always)]
    fn promotion_limit(&self) -> PromotionLimit {
        let control = self.control();
        PromotionLimit {
            hold_ns: control.promotion_hold_ns,
            count_max: control.promotion_count_max,
        }
    }

    #[inline(always)]
    fn promotions(&self) -> Option<&Word64> {
        PROMOTIONS.get(0)
    }

    #[inline(always)]
    fn promote(&self, entry: &FlowEntry, now_ns: u64) {
        phalanx_promote(entry, now_ns);
    }

    #[inline(never)]
    fn send_attempt(&self, key: &FlowKey, attempt: &AttemptState) {
        if attempt.outcome == attempt_outcome::REFUSED {
            log::note(Event::Refused);
        }
        if EVENTS.query(u64::from(BPF_RB_AVAIL_DATA)) > u64::from(EVENT_RING_SIZE / 2) {
            self.count(Counter::AttemptsWithheld, 1);
            return;
        }
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

// Functions that the verifier proves on their own, once for each program, whatever calls them with
// what: they are exported, so their arguments may be anything of their type, or null.

/// [`watch::observe`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn phalanx_observe(entry: *const FlowEntry, sighting: *const Sighting) -> u32 {
    // SAFETY: what is not null is a live map value.
    match unsafe { (entry.as_ref(), sighting.as_ref()) } {
        (Some(entry), Some(sighting)) => watch::observe(entry, sighting),
        _ => 0,
    }
}

/// [`watch::first_packets`] on the sighting in the scratch; returns 1 where the flow was opened, or
/// else 0. Without arguments: Linux 6.1 takes no key for a map from them.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn phalanx_first_packets() -> u32 {
    let Some(ground) = Ground::get() else {
        return 0;
    };
    // SAFETY: the scratch is this CPU's alone while the program runs.
    let sighting = unsafe { &(*ground.scratch).sighting };
    u32::from(watch::first_packets(&ground, sighting))
}

/// [`watch::promote`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn phalanx_promote(entry: *const FlowEntry, now_ns: u64) -> u32 {
    // SAFETY: what is not null is a live map value.
    let (Some(entry), Some(ground)) = (unsafe { entry.as_ref() }, Ground::get()) else {
        return 0;
    };
    let is_promoted = watch::promote(&ground, entry, now_ns);
    if is_promoted {
        log::note(Event::Promoted);
    }
    u32::from(is_promoted)
}
