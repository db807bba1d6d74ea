//! The state of one flow, as it lies in the flow table. Its head has the layout of a `FlowUpdate`,
//! so that an update is sent as it lies there, in one copy; what only the rule needs comes after.

use core::mem::offset_of;
use core::ops::Deref;

use super::{Tick, is_after, tick};
use crate::abi::{
    Direction, FlowKey, FlowUpdate, HalfCounters, RECENT_BYTES_BITS, Sample, SampleWord,
    event_kind, update_reason,
};
use crate::limits::{RTT_SLOT_COUNT, SAMPLE_COUNT};
use crate::word::{Word32, Word64};

/// The value of the flow table: all that is known of one flow.
#[derive(Default)]
#[repr(C)]
pub struct FlowEntry {
    /// See `abi::FlowUpdate` for this and what follows up to `samples`.
    pub kind: Word32,
    /// Why the last update was sent; belongs to the program that holds `sending`.
    pub reason: Word32,
    /// Which flow; never written again.
    pub key: FlowKey,
    /// Tells apart the flows that used one key one after the other.
    pub incarnation: Word32,
    /// Number of the last update; belongs to the program that holds `sending`.
    pub version: Word32,
    /// 0: not known; 1: the low end opened the flow; 2: the high end did.
    pub initiator: Word32,
    /// When the first packet was seen, in nanoseconds.
    pub opened_ns: Word64,
    /// When the last update was sent, in nanoseconds.
    pub pushed_ns: Word64,
    /// SYN to SYN-ACK in microseconds, 0 where not measured.
    pub handshake_server_us: Word32,
    /// SYN-ACK to ACK in microseconds, 0 where not measured.
    pub handshake_client_us: Word32,
    /// Type and code of the last ICMP error that quoted the flow.
    pub icmp_error: Word32,
    /// How many samples came since the flow was opened.
    pub sample_count: Word32,
    /// Which recording filters match, as of `filter_generation`.
    pub matched: Word64,
    /// What each direction has counted.
    pub counters: [HalfCells; 2],
    /// The latest samples, as `abi::SampleWord`s.
    pub samples: [Word64; SAMPLE_COUNT],
    /// 1 while a program sends an update of the flow.
    pub sending: Word32,
    /// Reasons to send an update that came up meanwhile.
    pub waiting: Word32,
    /// How many samples there were at the last update.
    pub samples_sent: Word32,
    /// Bits of the closing: FIN sent and acknowledged by direction, closed, reset.
    pub state: Word32,
    /// The generation of the filters that `matched` answers for.
    pub filter_generation: Word32,
    /// As of `filter_generation`: snap class of the records (lowest byte), whether they carry
    /// payload (next bit: see `abi::Filter`), and in the upper half the flow's `sample_of`.
    pub snap: Word32,
    /// When the flow is no longer to be recorded for being sick, in nanoseconds; 0: it is not.
    pub promoted_until_ns: Word64,
    /// What each direction remembers for the next packets.
    pub memories: [HalfMemory; 2],
}

/// Bits of a flow's closing.
pub(super) mod state {
    /// The low end has sent FIN; the high end's bit follows.
    pub(crate) const FIN_SENT: u32 = 1;
    /// The low end's FIN is acknowledged; the high end's bit follows.
    pub(crate) const FIN_ACKNOWLEDGED: u32 = 1 << 2;
    /// Both FINs are acknowledged.
    pub(crate) const CLOSED: u32 = 1 << 4;
    /// Either end has reset the connection.
    pub(crate) const RESET: u32 = 1 << 5;
}

/// What one direction of a flow has counted: the cells of an `abi::HalfCounters`, see there.
#[derive(Default)]
#[repr(C)]
pub struct HalfCells {
    /// Packets on the wire.
    pub packets: Word64,
    /// IP bytes on the wire.
    pub bytes: Word64,
    /// Packets and bytes that are not yet in the two above, in one word: an atomic addition is
    /// the dearest thing that is done to a packet.
    pub recent: Word64,
    /// Payload bytes seen before.
    pub retransmitted_bytes: Word64,
    /// Highest sequence number plus one (upper half) and the tick when it was reached: 0 before
    /// the first segment.
    pub head: Word64,
    /// Highest acknowledgement number sent by this end.
    pub acknowledged: Word32,
    /// Tick of the last packet.
    pub seen: Word32,
    /// TTL minimum, TTL maximum, flags seen, window scale plus one, from the lowest byte up.
    pub traits: Word32,
    /// Last window sent, not scaled, plus one; 0: none yet.
    pub window: Word32,
    /// MSS option of the SYN.
    pub mss: Word32,
    /// Segments whose bytes were all or partly seen before.
    pub retransmitted_packets: Word32,
    /// Segments behind the highest sequence that may have been lost before this hop.
    pub out_of_sequence_packets: Word32,
    /// Copies of the segment just before.
    pub duplicate_packets: Word32,
    /// Jumps ahead of the sequence.
    pub gap_count: Word32,
    /// Falls of the window to zero.
    pub zero_window_count: Word32,
    /// Keep-alives.
    pub keep_alive_count: Word32,
    /// Packets marked by ECN.
    pub ecn_marked_packets: Word32,
    /// SYNs.
    pub syn_count: Word32,
    /// FINs.
    pub fin_count: Word32,
    /// RSTs.
    pub rst_count: Word32,
    /// ICMP errors that quoted this direction.
    pub icmp_error_count: Word32,
    /// Acknowledgements of what this hop has not seen.
    pub acknowledged_unseen_count: Word32,
    /// Packets whose numbers lie beyond any window.
    pub implausible_packets: Word32,
    /// Smallest RTT sample in microseconds.
    pub rtt_min_us: Word32,
    /// RTT samples.
    pub rtt_sample_count: Word32,
}

/// What one direction of a flow remembers: the clocks of its data, what it repeated, its holes.
/// What every packet touches comes first, within one line of the cache.
#[derive(Default)]
#[repr(C)]
pub struct HalfMemory {
    /// TTL, flags and window of the last packet, unless it was one of a handshake or a closing:
    /// most packets look like the one before.
    pub look: Word32,
    /// Tick of the last new payload.
    pub payload: Word32,
    /// IP id (upper half) and lower half of the sequence number of the last segment with payload.
    pub last_segment: Word32,
    /// Slots filled since the flow was opened.
    pub slots_filled: Word32,
    /// Slots consumed since the flow was opened.
    pub slots_consumed: Word32,
    /// `TSval` of the retransmission.
    pub retransmission_timestamp: Word32,
    /// A retransmission that its timestamp can tell from the original: end of range and tick.
    pub retransmission: Word64,
    /// First byte after the data that was contiguous before the oldest hole, and the end of the
    /// newest hole: all holes lie between (upper half: start, lower: end). Equal where none is.
    pub hole: Word64,
    /// Initial sequence number.
    pub initial_sequence: Word32,
    /// Sequence number of the FIN plus one; counts once `FIN_SENT` is set.
    pub fin_end: Word32,
    /// An acknowledgement number beyond any window, plus one: the next one shows whether it was
    /// forged. 0: none.
    pub doubted_acknowledgement: Word32,
    /// The same for a sequence number.
    pub doubted_sequence: Word32,
    /// The widest window that this end has told, not scaled, plus one.
    pub window_max: Word32,
    /// What acknowledges a SYN that came on the open flow after a silence, 0: none.
    pub doubted_syn: Word32,
    /// Outstanding data: end of the sequence range (upper half) and tick; 0 is a free slot, tick 0
    /// a range that can no longer be timed.
    pub slots: [Word64; RTT_SLOT_COUNT],
    /// Where the ranges in `slots` begin.
    pub slot_starts: [Word32; RTT_SLOT_COUNT],
    /// Latest `TSval` of the ranges in `slots`, 0 where there was none.
    pub slot_timestamps: [Word32; RTT_SLOT_COUNT],
    /// RTT samples in a row that lie far above the least: see `rtt::note_step`.
    pub rtt_high_count: Word32,
    /// Nothing.
    pub reserved: Word32,
}

/// Proves that fields of ours lie where those of the contract do.
macro_rules! same_places {
    ($ours:ty, $contract:ty: $($field:ident = $name:ident),+ $(,)?) => {
        const _: () = {
            $(assert!(offset_of!($ours, $field) == offset_of!($contract, $name));)+
        };
    };
}

same_places!(FlowEntry, FlowUpdate:
    kind = kind, reason = reason, key = key, incarnation = incarnation, version = version,
    initiator = initiator, opened_ns = opened_ns, pushed_ns = now_ns,
    handshake_server_us = handshake_server_us, handshake_client_us = handshake_client_us,
    icmp_error = icmp_error, sample_count = sample_count, matched = matched,
    counters = halves, samples = samples,
);
const _: () = assert!(offset_of!(FlowEntry, sending) == size_of::<FlowUpdate>());

// The halves of a packed word, and the bytes of the traits, lie in the order of the machine.
#[cfg(target_endian = "little")]
same_places!(HalfCells, HalfCounters:
    packets = packets, bytes = bytes, recent = recent, retransmitted_bytes = retransmitted_bytes,
    head = next_sequence_tick, acknowledged = acknowledged, seen = seen_tick, traits = ttl_min,
    window = window_plus_one, mss = mss, retransmitted_packets = retransmitted_packets,
    out_of_sequence_packets = out_of_sequence_packets, duplicate_packets = duplicate_packets,
    gap_count = gap_count, zero_window_count = zero_window_count,
    keep_alive_count = keep_alive_count, ecn_marked_packets = ecn_marked_packets,
    syn_count = syn_count, fin_count = fin_count, rst_count = rst_count,
    icmp_error_count = icmp_error_count, acknowledged_unseen_count = acknowledged_unseen_count,
    implausible_packets = implausible_packets, rtt_min_us = rtt_min_us,
    rtt_sample_count = rtt_sample_count,
);
const _: () = assert!(size_of::<HalfCells>() == size_of::<HalfCounters>());
#[cfg(not(target_endian = "little"))]
compile_error!("the contract with the kernel is written for little-endian machines");

/// One direction of a flow: what it has counted, and beside it what it remembers.
#[derive(Clone, Copy)]
pub struct Half<'entry> {
    counters: &'entry HalfCells,
    /// What it remembers.
    pub memory: &'entry HalfMemory,
}

impl Deref for Half<'_> {
    type Target = HalfCells;

    #[inline(always)]
    fn deref(&self) -> &HalfCells {
        self.counters
    }
}

impl FlowEntry {
    /// The half of a direction.
    #[inline(always)]
    pub fn half(&self, direction: Direction) -> Half<'_> {
        let index = match direction {
            Direction::FromLow => 0,
            Direction::FromHigh => 1,
        };
        Half {
            counters: &self.counters[index],
            memory: &self.memories[index],
        }
    }

    /// Makes an empty entry that of a flow opened now.
    #[inline(always)]
    pub fn begin(&mut self, key: &FlowKey, now_ns: u64) {
        self.key = *key;
        self.kind.store(event_kind::FLOW_UPDATE);
        self.opened_ns.store(now_ns);
        self.pushed_ns.store(now_ns);
        // Two flows of one key cannot be opened within one tick: their packets alone take longer.
        self.incarnation.store(tick(now_ns));
    }

    /// The head of the entry: the last update, with what has come since.
    #[cfg(not(target_arch = "bpf"))]
    #[must_use]
    pub fn update(&self) -> FlowUpdate {
        // SAFETY: the head has the layout of an update, as proven above, of which any bits are one;
        // where other threads write, a word is either the old or the new one.
        let update = unsafe {
            core::ptr::from_ref(self)
                .cast::<FlowUpdate>()
                .read_volatile()
        };
        update.settle()
    }

    /// Begins an update, unless another program is just sending one: that one sends it then.
    #[inline(always)]
    pub(super) fn begin_update(&self, reasons: u32, now_ns: u64) -> bool {
        if !self.sending.replace(0, 1) {
            if reasons == update_reason::INTERVAL {
                return false;
            }
            self.waiting.or(reasons);
            // Whoever sends looks there after its end; unless that was between these two.
            if !self.sending.replace(0, 1) {
                return false;
            }
        }
        let waiting = if self.waiting.load() == 0 {
            0
        } else {
            self.waiting.swap(0)
        };
        self.forget_old_payload(now_ns);
        self.reason.store(reasons | waiting);
        self.version.store(self.version.load().wrapping_add(1));
        self.pushed_ns.store(now_ns);
        self.samples_sent.store(self.sample_count.load());
        true
    }

    /// Whether the last update is half a round of ticks ago (36 minutes): then so is the last
    /// packet before this one, since after the interval each packet sends an update.
    #[inline(always)]
    pub(super) fn was_silent_for_long(&self, now_ns: u64) -> bool {
        now_ns.saturating_sub(self.pushed_ns.load()) >= HALF_ROUND_NS
    }

    /// Forgets when payload was seen, before the ticks come round and it looks new again.
    #[inline(always)]
    fn forget_old_payload(&self, now_ns: u64) {
        let (now, is_old) = (tick(now_ns), self.was_silent_for_long(now_ns));
        for memory in &self.memories {
            let payload = memory.payload.load();
            if payload != now && (is_old || is_after(payload, now)) {
                memory.payload.store(0);
            }
        }
    }

    /// Ends an update that `begin_update` has begun; returns the reasons that came up meanwhile.
    #[inline(always)]
    pub(super) fn end_update(&self) -> u32 {
        // Not a plain store: what was written before must be seen by whoever begins the next one,
        // and what waits must not be read before.
        self.sending.swap(0);
        self.waiting.load()
    }

    /// Counts packets and bytes of a direction.
    #[inline(always)]
    pub(super) fn count(&self, direction: Direction, packets: u32, bytes: u32) {
        let own = self.half(direction);
        let more = u64::from(packets) << RECENT_BYTES_BITS | u64::from(bytes);
        let before = own.recent.fetch_add(more);
        // Long before either part is full: other CPUs may add some more until it is emptied.
        if before & (1 << 63 | 1 << (RECENT_BYTES_BITS - 1)) != 0 {
            let recent = own.recent.swap(0);
            own.packets.add(recent >> RECENT_BYTES_BITS);
            own.bytes.add(recent & ((1 << RECENT_BYTES_BITS) - 1));
        }
    }

    /// Whether the bits of `mask` are all set in the state.
    #[inline(always)]
    pub(super) fn has_state(&self, mask: u32) -> bool {
        self.state.load() & mask == mask
    }

    /// Sets bits of the state; returns whether this call set them.
    #[inline(always)]
    pub(super) fn set_state(&self, mask: u32) -> bool {
        self.state.load() & mask != mask && self.state.fetch_or(mask) & mask != mask
    }

    /// Keeps a sample for the next update; returns the reason to send one before its place is
    /// needed again.
    #[inline(always)]
    pub(super) fn push_sample(&self, sample: Sample) -> u32 {
        let number = self.sample_count.fetch_add(1);
        let word = SampleWord::new(number, sample);
        self.samples[number as usize & (SAMPLE_COUNT - 1)].store(word.0);
        let waiting = number.wrapping_sub(self.samples_sent.load());
        if waiting >= SAMPLE_COUNT as u32 - SAMPLES_SPARE {
            update_reason::SAMPLES
        } else {
            0
        }
    }
}

/// Half a round of ticks, in nanoseconds: what lies farther back than that looks like the future.
const HALF_ROUND_NS: u64 = 1 << (31 + 10);

/// Places left when an update is sent for the samples: another CPU may bring some meanwhile.
const SAMPLES_SPARE: u32 = 2;

const _: () = assert!(SAMPLE_COUNT.is_power_of_two() && RTT_SLOT_COUNT.is_power_of_two());

/// Packs a sequence number and a tick.
#[inline(always)]
pub(super) const fn pack(sequence: u32, tick: Tick) -> u64 {
    (sequence as u64) << 32 | tick as u64
}

/// The sequence number of a packed word.
#[inline(always)]
pub(super) const fn sequence_of(word: u64) -> u32 {
    (word >> 32) as u32
}

/// The tick of a packed word.
#[inline(always)]
pub(super) const fn tick_of(word: u64) -> Tick {
    word as u32
}

/// Merges a packet's TTL and flags into the traits of a half; the window scale is kept.
#[inline(always)]
pub(super) const fn merge_traits(traits: u32, ttl: u8, flags: u8) -> u32 {
    let ttl = ttl as u32;
    let (low, high) = (traits & 0xff, traits >> 8 & 0xff);
    // A maximum of 0 stands for "no packet yet": a packet with TTL 0 does not travel.
    let low = if high == 0 || ttl < low { ttl } else { low };
    let high = if ttl > high { ttl } else { high };
    low | high << 8 | (traits & 0xffff_0000) | (flags as u32) << 16
}

/// Sets the window scale (plus one) in the traits of a half.
#[inline(always)]
pub(super) const fn with_window_scale(traits: u32, window_scale_plus_one: u8) -> u32 {
    (traits & 0x00ff_ffff) | (window_scale_plus_one as u32) << 24
}
