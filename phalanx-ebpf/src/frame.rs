//! The bytes of a packet at its hook: the only file that reads packet memory.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{__sk_buff, xdp_md};
use aya_ebpf::helpers::{
    bpf_skb_load_bytes, bpf_skb_pull_data, bpf_xdp_get_buff_len, bpf_xdp_load_bytes,
};
use aya_ebpf::programs::{TcContext, XdpContext};
use phalanx_common::bytes::{Bytes, Window};

/// Bytes that a packet's headers are pulled to be readable: 14 of Ethernet, 8 of VLAN tags, 40 of
/// IPv6, 96 of its extensions, 60 of TCP; what lies beyond ends the parse.
const HEADERS_MAX: u32 = 218;

/// A packet at its hook.
pub(crate) trait Frame: Copy {
    /// The bytes that can be read without a copy.
    fn bytes(self) -> Linear;
    /// Length of the whole frame in bytes.
    fn length(self) -> u32;
    /// The same for the parser, from what the packet's context says without a call.
    fn parse_length(self) -> u32;
    /// Index of the interface.
    fn ifindex(self) -> u32;
    /// Segments of a super-segment, 1 for a plain packet, 0 where the kernel does not say.
    fn segments(self) -> u32;
    /// Payload bytes of each segment of a super-segment, 0 for a plain packet.
    fn segment_size(self) -> u32;
    /// The VLAN tag (TCI) that the kernel keeps beside the frame, 0 where there is none.
    fn vlan_tag(self) -> u16;
    /// Makes the headers readable where they lie outside of the linear part; returns whether
    /// that changed anything.
    fn pull(self) -> bool;
    /// Copies `length` bytes at `offset` to `to`, and returns whether it did.
    ///
    /// # Safety
    /// `to` must be valid for `length` bytes.
    unsafe fn load(self, offset: u32, to: *mut u8, length: u32) -> bool;
}

/// The readable part of a packet: `start..end` in packet memory, as the verifier knows it.
#[derive(Clone, Copy)]
pub(crate) struct Linear {
    start: usize,
    end: usize,
}

impl Bytes for Linear {
    type Window = Pointer;

    #[inline(always)]
    fn window<const LENGTH: usize>(self, offset: usize) -> Option<Pointer> {
        let at = self.start + offset;
        if at + LENGTH > self.end {
            None
        } else {
            Some(Pointer(at as *const u8))
        }
    }

    #[inline(always)]
    fn forget(self, number: u32) -> u32 {
        forget(number)
    }
}

/// Takes a number through memory, where verifiers that need it lose track of it.
#[inline(always)]
fn forget(number: u32) -> u32 {
    // SAFETY: a local variable; read so that the compiler forgets what it knows of it.
    unsafe { (&raw const number).read_volatile() }
}

/// A place in packet memory from which a window's bytes have been proven to be readable.
#[derive(Clone, Copy)]
pub(crate) struct Pointer(*const u8);

impl Pointer {
    #[inline(always)]
    fn read<T: Copy>(self, at: usize) -> T {
        // SAFETY: the window was checked, and the verifier proves that again. BPF loads need no
        // alignment where the kernel can do without; `read_unaligned` would load byte by byte.
        unsafe { *self.0.add(at).cast::<T>() }
    }
}

impl Window for Pointer {
    #[inline(always)]
    fn u8(self, at: usize) -> u8 {
        self.read(at)
    }

    #[inline(always)]
    fn u16(self, at: usize) -> u16 {
        u16::from_be(self.read(at))
    }

    #[inline(always)]
    fn u32(self, at: usize) -> u32 {
        u32::from_be(self.read(at))
    }

    #[inline(always)]
    fn address(self, at: usize) -> [u64; 2] {
        [self.read(at), self.read(at + 8)]
    }

    #[inline(always)]
    fn word(self, at: usize) -> u32 {
        self.read(at)
    }
}

/// A length of 1 to `max` bytes, in a form that every verifier understands: Linux 6.1 forgets a
/// bound that was checked on one copy of a register and used on another, which is what the compiler
/// makes of a plain comparison.
#[inline(always)]
pub(crate) fn one_to(length: u32, max: u32) -> u32 {
    let less_one = forget(length.wrapping_sub(1));
    let bounded = if less_one > max - 1 {
        max - 1
    } else {
        less_one
    };
    bounded + 1
}

/// TCP options at most, in bytes (RFC 9293 section 3.1).
pub(crate) const OPTIONS_MAX: u32 = 40;

/// The options of a SYN, copied, and room behind them: an offset that is masked stays inside.
#[repr(C, align(8))]
pub(crate) struct Options(pub(crate) [u8; 128]);

impl Bytes for &Options {
    type Window = Pointer;

    #[inline(always)]
    fn window<const LENGTH: usize>(self, offset: usize) -> Option<Pointer> {
        const { assert!(LENGTH <= 64) };
        // What the options' own length allows, the parser checks.
        Some(Pointer(self.0.as_ptr().wrapping_add(offset & 63)))
    }
}

/// A packet at XDP.
#[derive(Clone, Copy)]
pub(crate) struct XdpFrame {
    context: *mut xdp_md,
}

impl XdpFrame {
    #[inline(always)]
    pub(crate) fn new(context: &XdpContext) -> Self {
        Self {
            context: context.as_ptr().cast(),
        }
    }
}

impl Frame for XdpFrame {
    #[inline(always)]
    fn bytes(self) -> Linear {
        // SAFETY: the context is valid while the program runs. Volatile, so that the loads stay in
        // one function with their use: as an argument the verifier would see a plain number.
        unsafe {
            Linear {
                start: (&raw const (*self.context).data).read_volatile() as usize,
                end: (&raw const (*self.context).data_end).read_volatile() as usize,
            }
        }
    }

    #[inline(always)]
    fn length(self) -> u32 {
        // SAFETY: as above.
        unsafe { bpf_xdp_get_buff_len(self.context) as u32 }
    }

    #[inline(always)]
    fn parse_length(self) -> u32 {
        let linear = self.bytes();
        (linear.end - linear.start) as u32
    }

    #[inline(always)]
    fn ifindex(self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.context).ingress_ifindex }
    }

    #[inline(always)]
    fn segments(self) -> u32 {
        1
    }

    #[inline(always)]
    fn segment_size(self) -> u32 {
        0
    }

    #[inline(always)]
    fn vlan_tag(self) -> u16 {
        0
    }

    #[inline(always)]
    fn pull(self) -> bool {
        false
    }

    #[inline(always)]
    unsafe fn load(self, offset: u32, to: *mut u8, length: u32) -> bool {
        // SAFETY: the caller vouches for `to`.
        unsafe { bpf_xdp_load_bytes(self.context, offset, to.cast(), length) == 0 }
    }
}

/// A packet at TC.
#[derive(Clone, Copy)]
pub(crate) struct SkbFrame {
    context: *mut __sk_buff,
}

impl SkbFrame {
    #[inline(always)]
    pub(crate) fn new(context: &TcContext) -> Self {
        Self {
            context: context.as_ptr().cast(),
        }
    }
}

impl Frame for SkbFrame {
    #[inline(always)]
    fn bytes(self) -> Linear {
        // SAFETY: the context is valid while the program runs. Volatile, so that the loads stay in
        // one function with their use: as an argument the verifier would see a plain number.
        unsafe {
            Linear {
                start: (&raw const (*self.context).data).read_volatile() as usize,
                end: (&raw const (*self.context).data_end).read_volatile() as usize,
            }
        }
    }

    #[inline(always)]
    fn length(self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.context).len }
    }

    #[inline(always)]
    fn parse_length(self) -> u32 {
        self.length()
    }

    #[inline(always)]
    fn ifindex(self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.context).ifindex }
    }

    #[inline(always)]
    fn segments(self) -> u32 {
        // SAFETY: as above.
        let (segments, size) = unsafe { ((*self.context).gso_segs, (*self.context).gso_size) };
        if segments == 0 && size == 0 {
            1
        } else {
            segments
        }
    }

    #[inline(always)]
    fn segment_size(self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.context).gso_size }
    }

    #[inline(always)]
    fn vlan_tag(self) -> u16 {
        // SAFETY: as above.
        unsafe {
            if (*self.context).vlan_present == 0 {
                0
            } else {
                (*self.context).vlan_tci as u16
            }
        }
    }

    #[inline(always)]
    fn pull(self) -> bool {
        let linear = self.bytes();
        let held = (linear.end - linear.start) as u32;
        let length = self.length();
        let wanted = if length < HEADERS_MAX {
            length
        } else {
            HEADERS_MAX
        };
        if held >= wanted {
            return false;
        }
        // SAFETY: the context is valid; packet pointers are read again after this.
        unsafe { bpf_skb_pull_data(self.context, wanted) == 0 }
    }

    #[inline(always)]
    unsafe fn load(self, offset: u32, to: *mut u8, length: u32) -> bool {
        // SAFETY: the caller vouches for `to`.
        unsafe { bpf_skb_load_bytes(self.context.cast(), offset, to.cast(), length) == 0 }
    }
}
