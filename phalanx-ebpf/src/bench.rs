//! The kernel programs under measurement, and their controls, for `BPF_PROG_TEST_RUN`. A test run
//! repeats one frame: all programs share a prologue that makes each repetition another packet, by
//! moving on the sequence number of one flow after the other.
#![no_std]
#![no_main]

mod filter;
mod frame;
mod log;
mod packet;
mod record;
mod table;

use aya_ebpf::bindings::{BPF_RB_NO_WAKEUP, xdp_action::XDP_PASS};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::{Array, HashMap, RingBuf};
use aya_ebpf::programs::XdpContext;
use frame::XdpFrame;
use phalanx_common::abi::{FlowKey, FlowUpdate, Hook};
use phalanx_common::limits::{EVENT_RING_SIZE, FLOW_COUNT_DEFAULT};
use phalanx_common::packet::LinkKind;
use phalanx_common::watch::FlowEntry;

/// What the prologue does: written by the bench.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Course {
    /// Packets so far.
    count: u64,
    /// Flows that take turns.
    flow_count: u64,
    /// What is added to the word at `offset` from one packet of a flow to its next.
    step: u32,
    /// Offset of the word that moves on, in bytes from the start of the frame.
    offset: u32,
}

#[map]
static COURSE: Array<Course> = Array::with_max_entries(1, 0);

/// The map of the control: keys and values as in the flow table.
#[map]
static CONTROL_FLOWS: HashMap<FlowKey, FlowEntry> =
    HashMap::with_max_entries(FLOW_COUNT_DEFAULT, 0);

/// An empty value for it.
#[map]
static CONTROL_EMPTY: Array<FlowEntry> = Array::with_max_entries(1, 0);

/// The ring of the control.
#[map]
static CONTROL_EVENTS: RingBuf = RingBuf::with_byte_size(EVENT_RING_SIZE, 0);

/// Offset of the source address in an Ethernet frame with IPv4.
const SOURCE: usize = 26;
/// Words that may move on lie below this.
const FRAME_MIN: usize = 54;

/// Makes the frame the next packet: the source address says which flow.
#[inline(always)]
fn advance(context: &XdpContext) -> Option<usize> {
    let course = COURSE.get_ptr_mut(0)?;
    let (start, end) = (context.data(), context.data_end());
    if start + FRAME_MIN > end {
        return None;
    }
    // SAFETY: a live map value, written by one test run at a time; packet bytes that were checked.
    unsafe {
        let Course {
            count,
            flow_count,
            step,
            offset,
        } = *course;
        (*course).count = count + 1;
        let flow = count.checked_rem(flow_count)?;
        let round = count.checked_div(flow_count)?;
        *((start + SOURCE) as *mut u32) = (0x0a00_0000 | flow as u32).to_be();
        let word = (round as u32).wrapping_mul(step).to_be();
        match offset {
            38 => *((start + 38) as *mut u32) = word,
            42 => *((start + 42) as *mut u32) = word,
            _ => {}
        }
    }
    Some(start)
}

/// Control: the prologue alone.
#[xdp]
pub fn control_empty(context: XdpContext) -> u32 {
    let _ = advance(&context);
    XDP_PASS
}

/// Control: takes the time.
#[xdp]
pub fn control_time(context: XdpContext) -> u32 {
    let _ = advance(&context);
    // SAFETY: the helper has no preconditions.
    let _ = unsafe { bpf_ktime_get_ns() };
    XDP_PASS
}

/// Control: takes the time and hits a hash map with the key of the flow.
#[xdp]
pub fn control_hash(context: XdpContext) -> u32 {
    if let Some(start) = advance(&context) {
        hit(&context, start);
    }
    XDP_PASS
}

#[inline(always)]
fn hit(context: &XdpContext, start: usize) {
    if start + FRAME_MIN > context.data_end() {
        return;
    }
    // SAFETY: as above.
    let key = unsafe {
        let _ = bpf_ktime_get_ns();
        FlowKey {
            low: [0, 0, 0xffff_0000, *((start + 26) as *const u32)],
            high: [0, 0, 0xffff_0000, *((start + 30) as *const u32)],
            low_port: *((start + 34) as *const u16),
            high_port: *((start + 36) as *const u16),
            ifindex: (*context.ctx).ingress_ifindex,
            vlan: 0,
            protocol: *((start + 23) as *const u8),
            reserved: 0,
        }
    };
    if CONTROL_FLOWS.get_ptr(&key).is_none()
        && let Some(empty) = CONTROL_EMPTY.get(0)
    {
        let _ = CONTROL_FLOWS.insert(&key, empty, 0);
    }
}

/// Control: takes the time and sends an empty event of an update's size.
#[xdp]
pub fn control_event(context: XdpContext) -> u32 {
    let _ = advance(&context);
    // SAFETY: the helper has no preconditions.
    let _ = unsafe { bpf_ktime_get_ns() };
    if let Some(place) = CONTROL_EVENTS.reserve::<FlowUpdate>(0) {
        place.submit(u64::from(BPF_RB_NO_WAKEUP));
    }
    XDP_PASS
}

/// A part of the way of a packet: parsed, its key written, the time taken.
#[xdp]
pub fn sighted(context: XdpContext) -> u32 {
    let _ = advance(&context);
    if let Some(ground) = table::Ground::get() {
        let _ = packet::sight(
            &ground,
            XdpFrame::new(&context),
            Hook::Xdp,
            LinkKind::Ethernet,
        );
    }
    XDP_PASS
}

/// A part of the way of a packet: the same, and its flow looked up.
#[xdp]
pub fn found(context: XdpContext) -> u32 {
    let _ = advance(&context);
    if let Some(ground) = table::Ground::get()
        && let Some(sighting) = packet::sight(
            &ground,
            XdpFrame::new(&context),
            Hook::Xdp,
            LinkKind::Ethernet,
        )
    {
        let _ = phalanx_common::watch::Tables::flow(&ground, &sighting.key);
    }
    XDP_PASS
}

/// Under test: the whole way of a packet.
#[xdp]
pub fn watched(context: XdpContext) -> u32 {
    let _ = advance(&context);
    packet::follow(XdpFrame::new(&context), Hook::Xdp, LinkKind::Ethernet);
    XDP_PASS
}

/// Control: a pass-through at XDP.
#[xdp]
pub fn pass_xdp(_: XdpContext) -> u32 {
    XDP_PASS
}

/// Control: a pass-through at TC.
#[aya_ebpf::macros::classifier]
pub fn pass_tc(_: aya_ebpf::programs::TcContext) -> i32 {
    aya_ebpf::bindings::TC_ACT_UNSPEC
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
