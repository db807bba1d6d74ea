//! Whole numbers of a file, in the byte order that its writer had.

/// Byte order of a file or section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Little,
    Big,
}

impl Order {
    /// The 16 bits at an offset; 0 where the bytes end before.
    #[inline]
    pub(super) fn u16(self, bytes: &[u8], at: usize) -> u16 {
        match (bytes.get(at..at + 2), self) {
            (Some(&[a, b]), Self::Little) => u16::from_le_bytes([a, b]),
            (Some(&[a, b]), Self::Big) => u16::from_be_bytes([a, b]),
            _ => 0,
        }
    }

    /// The 32 bits at an offset; 0 where the bytes end before.
    #[inline]
    pub(super) fn u32(self, bytes: &[u8], at: usize) -> u32 {
        match (bytes.get(at..at + 4), self) {
            (Some(&[a, b, c, d]), Self::Little) => u32::from_le_bytes([a, b, c, d]),
            (Some(&[a, b, c, d]), Self::Big) => u32::from_be_bytes([a, b, c, d]),
            _ => 0,
        }
    }

    /// The 64 bits at an offset; 0 where the bytes end before.
    #[inline]
    pub(super) fn u64(self, bytes: &[u8], at: usize) -> u64 {
        let (first, second) = (self.u32(bytes, at), self.u32(bytes, at + 4));
        let (high, low) = match self {
            Self::Little => (second, first),
            Self::Big => (first, second),
        };
        u64::from(high) << 32 | u64::from(low)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_both_orders_and_beyond_the_end() {
        let bytes = [1, 2, 3, 4, 5, 6, 7, 8];
        assert_eq!(Order::Little.u16(&bytes, 0), 0x0201);
        assert_eq!(Order::Big.u16(&bytes, 6), 0x0708);
        assert_eq!(Order::Little.u32(&bytes, 1), 0x0504_0302);
        assert_eq!(Order::Big.u32(&bytes, 1), 0x0203_0405);
        assert_eq!(Order::Little.u64(&bytes, 0), 0x0807_0605_0403_0201);
        assert_eq!(Order::Big.u64(&bytes, 0), 0x0102_0304_0506_0708);
        assert_eq!(Order::Big.u32(&bytes, 5), 0);
        assert_eq!(Order::Little.u16(&bytes, 7), 0);
    }
}
