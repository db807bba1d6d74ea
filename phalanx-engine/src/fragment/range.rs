//! Ranges: which bytes of a datagram are there.

/// Ranges that neither overlap nor touch, in order.
#[derive(Clone, Debug, Default)]
pub(super) struct Ranges(Vec<(u32, u32)>);

impl Ranges {
    /// Adds a range that is not empty; gives the bytes that were there already.
    pub(super) fn add(&mut self, start: u32, end: u32) -> u32 {
        let from = self.0.partition_point(|it| it.1 < start);
        let to = self.0.partition_point(|it| it.0 <= end);
        let (mut low, mut high, mut known) = (start, end, 0);
        for it in self.0.drain(from..to) {
            known += it.1.min(end).saturating_sub(it.0.max(start));
            low = low.min(it.0);
            high = high.max(it.1);
        }
        self.0.insert(from, (low, high));
        known
    }

    /// The parts of a range that are there, in order.
    pub(super) fn within(&self, start: u32, end: u32) -> impl Iterator<Item = (u32, u32)> + '_ {
        let from = self.0.partition_point(|it| it.1 <= start);
        let later = self.0[from..].iter().take_while(move |it| it.0 < end);
        later.map(move |it| (it.0.max(start), it.1.min(end)))
    }

    /// Where the first range ends that begins at 0.
    pub(super) fn prefix(&self) -> u32 {
        self.0
            .first()
            .map_or(0, |it| if it.0 == 0 { it.1 } else { 0 })
    }

    /// Where the last range ends.
    pub(super) fn end(&self) -> u32 {
        self.0.last().map_or(0, |it| it.1)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn size(&self) -> usize {
        self.0.capacity() * size_of::<(u32, u32)>()
    }
}
