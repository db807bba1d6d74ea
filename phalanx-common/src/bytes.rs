//! Bounded byte access to one packet: the seam that lets one parser serve three callers, XDP, TC
//! and files. A [`Window`] is a run of bytes that has been proven to be there; every read inside
//! it is free of checks.

/// The captured bytes of one packet.
pub trait Bytes: Copy {
    /// What a checked run of bytes is read through.
    type Window: Window;

    /// The `LENGTH` bytes at `offset`, or `None` where the capture ends before.
    fn window<const LENGTH: usize>(self, offset: usize) -> Option<Self::Window>;

    /// The same number, of which the kernel's verifier forgets what it has found out on the way
    /// there: on ways that cannot be taken Linux 6.1 finds out contradictions, and then refuses an
    /// offset that is masked for all it should care.
    #[inline(always)]
    fn forget(self, number: u32) -> u32 {
        number
    }
}

/// A checked run of bytes. Multi-byte reads are big-endian, as on the wire.
///
/// `at` must lie inside the length the window was made with; callers pass constants.
pub trait Window: Copy {
    /// The byte at `at`.
    fn u8(self, at: usize) -> u8;
    /// The two bytes at `at`.
    fn u16(self, at: usize) -> u16;
    /// The four bytes at `at`.
    fn u32(self, at: usize) -> u32;
    /// Sixteen bytes at `at`, in wire order, as two words in the machine's own order: an address
    /// to be compared and copied, never to be counted with.
    fn address(self, at: usize) -> [u64; 2];
    /// Four bytes at `at`, in wire order, as one word in the machine's own order.
    fn word(self, at: usize) -> u32;
}

impl<'packet> Bytes for &'packet [u8] {
    type Window = &'packet [u8];

    #[inline]
    fn window<const LENGTH: usize>(self, offset: usize) -> Option<Self::Window> {
        self.get(offset..offset.checked_add(LENGTH)?)
    }
}

impl Window for &[u8] {
    #[inline]
    fn u8(self, at: usize) -> u8 {
        self[at]
    }

    #[inline]
    fn u16(self, at: usize) -> u16 {
        u16::from_be_bytes([self[at], self[at + 1]])
    }

    #[inline]
    fn u32(self, at: usize) -> u32 {
        u32::from_be_bytes([self[at], self[at + 1], self[at + 2], self[at + 3]])
    }

    #[inline]
    fn address(self, at: usize) -> [u64; 2] {
        let half = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&self[at..at + 8]);
            u64::from_ne_bytes(bytes)
        };
        [half(at), half(at + 8)]
    }

    #[inline]
    fn word(self, at: usize) -> u32 {
        u32::from_ne_bytes([self[at], self[at + 1], self[at + 2], self[at + 3]])
    }
}
