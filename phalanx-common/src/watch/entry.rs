//! The state of one flow, as it lies in the flow table.

use super::{Tick, tick};
use crate::abi::{Direction, Sample, update_reason};
use crate::limits::{RTT_SLOT_COUNT, SAMPLE_COUNT};
use crate::word::{Word32, Word64};

/// The value of the flow table: all that is known of one flow.
#[derive(Default)]
#[repr(C)]
pub struct FlowEntry {
    /// When the first packet was seen, in nanoseconds.
    pub opened_ns: Word64,
    /// When the last update was sent, in nanoseconds.
    pub pushed_ns: Word64,
    /// Which recording filters match, as of `filter_generation`.
    pub matched: Word64,
    /// Each direction has its own half.
    pub halves: [Half; 2],
    /// Samples since the last update; 0 is an empty place.
    pub samples: [Word32; SAMPLE_COUNT],
    /// How many samples came since the last update.
    pub sample_count: Word32,
    /// Number of the last update.
    pub version: Word32,
    /// Tells apart the flows that used one key one after the other.
    pub incarnation: Word32,
    /// 0: not known; 1: the low end opened the flow; 2: the high end did.
    pub initiator: Word32,
    /// SYN to SYN-ACK in microseconds, 0 where not measured.
    pub handshake_server_us: Word32,
    /// SYN-ACK to ACK in microseconds, 0 where not measured.
    pub handshake_client_us: Word32,
    /// Type and code of the last ICMP error that quoted the flow.
    pub icmp_error: Word32,
    /// Bits of the closing: FIN sent and acknowledged by direction, closed, reset.
    pub state: Word32,
    /// The generation of the filters that `matched` answers for.
    pub filter_generation: Word32,
    /// Snap class of the records, as of `filter_generation`: see `abi::Filter`.
    pub snap: Word32,
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

/// The state of one direction of a flow: what its sender sent, and the clocks of its data.
#[derive(Default)]
#[repr(C)]
pub struct Half {
    /// Packets on the wire.
    pub packets: Word64,
    /// IP bytes on the wire.
    pub bytes: Word64,
    /// Highest sequence number plus one (upper half) and the tick when it was reached: 0 before
    /// the first segment.
    pub head: Word64,
    /// Highest acknowledgement number sent by this end.
    pub acknowledged: Word32,
    /// TTL minimum, TTL maximum, flags seen, window scale plus one, from the lowest byte up.
    pub traits: Word32,
    /// Tick of the last packet.
    pub seen: Word32,
    /// Tick of the last new payload.
    pub payload: Word32,
    /// Slots filled since the flow was opened.
    pub slots_filled: Word32,
    /// Slots consumed since the flow was opened.
    pub slots_consumed: Word32,
    /// Last window sent, not scaled, plus one; 0: none yet.
    pub window: Word32,
    /// IP id (upper half) and lower half of the sequence number of the last segment with payload.
    pub last_segment: Word32,
    /// Outstanding segments: end of the sequence range (upper half) and tick; 0 is a free slot,
    /// tick 0 a segment that can no longer be timed.
    pub slots: [Word64; RTT_SLOT_COUNT],
    /// `TSval` of the segments in `slots`, 0 where there was none.
    pub slot_timestamps: [Word32; RTT_SLOT_COUNT],
    /// A retransmission that its timestamp can tell from the original: end of range and tick.
    pub retransmission: Word64,
    /// `TSval` of that retransmission.
    pub retransmission_timestamp: Word32,
    /// Initial sequence number.
    pub initial_sequence: Word32,
    /// Payload bytes seen before.
    pub retransmitted_bytes: Word64,
    /// First byte after the data that was contiguous before the oldest hole, and the end of the
    /// newest hole: all holes lie between (upper half: start, lower: end). Equal where none is.
    pub hole: Word64,
    /// See `abi::HalfCounters` for this and what follows.
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
    /// Smallest RTT sample in microseconds.
    pub rtt_min_us: Word32,
    /// RTT samples.
    pub rtt_sample_count: Word32,
    /// Samples that found no room.
    pub sample_lost_count: Word32,
    /// MSS option of the SYN.
    pub mss: Word32,
    /// Sequence number of the FIN plus one; counts once `FIN_SENT` is set.
    pub fin_end: Word32,
    /// Nothing.
    pub reserved: Word32,
}

impl FlowEntry {
    /// The half of a direction.
    #[inline(always)]
    pub fn half(&self, direction: Direction) -> &Half {
        match direction {
            Direction::FromLow => &self.halves[0],
            Direction::FromHigh => &self.halves[1],
        }
    }

    /// Marks an empty entry as opened now.
    #[inline(always)]
    pub fn begin(&self, now_ns: u64) {
        self.opened_ns.store(now_ns);
        self.pushed_ns.store(now_ns);
        // Two flows of one key cannot be opened within one tick: their packets alone take longer.
        self.incarnation.store(tick(now_ns));
    }

    /// Whether the bits of `mask` are all set in the state.
    #[inline(always)]
    pub(super) fn has_state(&self, mask: u32) -> bool {
        self.state.load() & mask == mask
    }

    /// Sets bits of the state; returns whether this call set them.
    #[inline(always)]
    pub(super) fn set_state(&self, mask: u32) -> bool {
        let old = self.state.load();
        old & mask != mask && self.state.replace(old, old | mask)
    }

    /// Keeps a sample for the next update; returns the reason to send one when the place is full.
    #[inline(always)]
    pub(super) fn push_sample(&self, sample: Sample, half: &Half) -> u32 {
        let index = self.sample_count.fetch_add(1);
        if index >= SAMPLE_COUNT as u32 {
            half.sample_lost_count.add(1);
            return 0;
        }
        self.samples[(index as usize) & (SAMPLE_COUNT - 1)].store(sample.0);
        if index == SAMPLE_COUNT as u32 - 1 {
            update_reason::SAMPLES
        } else {
            0
        }
    }
}

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
