//! The kernel programs of Phalanx: entry points only. A packet is parsed, followed by the watch
//! rule of `phalanx-common`, and recorded where a filter asks for it.
//!
//! **Invariant**: the observer never changes the fate of a packet. Every path ends in `XDP_PASS`
//! or `TC_ACT_UNSPEC`, which hands the packet to the next program of a TCX chain.
#![no_std]
#![no_main]

mod filter;
mod frame;
mod log;
mod packet;
mod record;
mod table;

use aya_ebpf::bindings::{TC_ACT_UNSPEC, xdp_action::XDP_PASS};
use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};
use frame::{SkbFrame, XdpFrame};
use phalanx_common::abi::Hook;
use phalanx_common::packet::LinkKind;

/// The version of the contract that this object keeps; the loader compares it with its own.
#[unsafe(no_mangle)]
static PHALANX_ABI_VERSION: u32 = phalanx_common::abi::ABI_VERSION;

/// XDP ingress of an Ethernet interface. Without fragments: an interface that splits frames over
/// several buffers refuses the program and is watched at TC; so the frame lies whole before the
/// parser, which saves a call for each packet.
#[xdp]
pub fn phalanx_xdp(context: XdpContext) -> u32 {
    packet::follow(XdpFrame::new(&context), Hook::Xdp, LinkKind::Ethernet);
    XDP_PASS
}

/// TC ingress of an Ethernet interface.
#[classifier]
pub fn phalanx_tc_ingress(context: TcContext) -> i32 {
    packet::follow(SkbFrame::new(&context), Hook::TcIngress, LinkKind::Ethernet);
    TC_ACT_UNSPEC
}

/// TC egress of an Ethernet interface.
#[classifier]
pub fn phalanx_tc_egress(context: TcContext) -> i32 {
    packet::follow(SkbFrame::new(&context), Hook::TcEgress, LinkKind::Ethernet);
    TC_ACT_UNSPEC
}

/// TC ingress of an interface without a link layer (tun, `WireGuard`).
#[classifier]
pub fn phalanx_tc_ingress_raw(context: TcContext) -> i32 {
    packet::follow(SkbFrame::new(&context), Hook::TcIngress, LinkKind::None);
    TC_ACT_UNSPEC
}

/// TC egress of an interface without a link layer.
#[classifier]
pub fn phalanx_tc_egress_raw(context: TcContext) -> i32 {
    packet::follow(SkbFrame::new(&context), Hook::TcEgress, LinkKind::None);
    TC_ACT_UNSPEC
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // No reachable path panics: the verifier refuses a program that could come here.
    loop {}
}
