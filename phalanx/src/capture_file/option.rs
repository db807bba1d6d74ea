//! Options of pcapng blocks.

use super::order::Order;

/// Numbers of the options that are read (IETF draft pcapng, sections 3.5 and 4).
pub(super) mod code {
    pub(in crate::capture_file) const END: u16 = 0;
    pub(in crate::capture_file) const COMMENT: u16 = 1;
    pub(in crate::capture_file) const IF_NAME: u16 = 2;
    pub(in crate::capture_file) const EPB_DROPCOUNT: u16 = 4;
    pub(in crate::capture_file) const IF_DESCRIPTION: u16 = 3;
    pub(in crate::capture_file) const IF_TSRESOL: u16 = 9;
    pub(in crate::capture_file) const IF_FILTER: u16 = 11;
    pub(in crate::capture_file) const IF_TSOFFSET: u16 = 14;
    pub(in crate::capture_file) const ISB_IFDROP: u16 = 5;
    pub(in crate::capture_file) const ISB_OSDROP: u16 = 7;
}

/// The options of a block: number and value, until the end mark or where they stop making sense.
#[derive(Clone)]
pub(super) struct Options<'block> {
    order: Order,
    rest: &'block [u8],
}

impl<'block> Options<'block> {
    pub(super) fn new(order: Order, bytes: &'block [u8]) -> Self {
        Self { order, rest: bytes }
    }
}

impl<'block> Iterator for Options<'block> {
    type Item = (u16, &'block [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.len() < 4 {
            return None;
        }
        let number = self.order.u16(self.rest, 0);
        let length = usize::from(self.order.u16(self.rest, 2));
        if number == code::END {
            return None;
        }
        let value = self.rest.get(4..4 + length)?;
        let next = 4 + length.next_multiple_of(4);
        self.rest = self.rest.get(next..).unwrap_or_default();
        Some((number, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn until_the_end_mark_or_nonsense() {
        let bytes = [
            1, 0, 2, 0, b'h', b'i', 0, 0, 9, 0, 1, 0, 6, 0, 0, 0, 0, 0, 0, 0, 9, 9,
        ];
        let all: Vec<_> = Options::new(Order::Little, &bytes).collect();
        assert_eq!(all, [(1, &b"hi"[..]), (9, &[6][..])]);
        let long = [0, 1, 0xff, 0xff, 1, 2, 3, 4];
        assert_eq!(Options::new(Order::Big, &long).count(), 0);
        let without_padding = [0, 1, 0, 1, 7];
        assert_eq!(Options::new(Order::Big, &without_padding).count(), 1);
    }
}
