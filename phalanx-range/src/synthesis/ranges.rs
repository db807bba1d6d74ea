//! Ranges of segments that came before their turn: sorted, apart from each other, few.

/// A set of segment numbers, as ranges `[start, end)`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Ranges {
    sorted: Vec<(u32, u32)>,
}

impl Ranges {
    /// Adds `[start, end)`; gives back the range that holds it now.
    pub(super) fn insert(&mut self, start: u32, end: u32) -> (u32, u32) {
        let from = self.sorted.partition_point(|range| range.1 < start);
        let to = self.sorted.partition_point(|range| range.0 <= end);
        let merged = match (self.sorted.get(from), to.checked_sub(1)) {
            (Some(first), Some(last)) if from < to => {
                (start.min(first.0), end.max(self.sorted[last].1))
            }
            _ => (start, end),
        };
        self.sorted.splice(from..to, [merged]);
        merged
    }

    /// Takes out what lies below `start`, or goes on from there: where that ends.
    pub(super) fn take_from(&mut self, start: u32) -> u32 {
        let mut at = start;
        while let Some(first) = self.sorted.first().filter(|first| first.0 <= at) {
            at = at.max(first.1);
            self.sorted.remove(0);
        }
        at
    }

    pub(super) fn contains(&self, number: u32) -> bool {
        let at = self.sorted.partition_point(|range| range.1 <= number);
        self.sorted.get(at).is_some_and(|range| range.0 <= number)
    }

    /// How many there are.
    pub(super) fn count(&self) -> u32 {
        self.sorted.iter().map(|range| range.1 - range.0).sum()
    }

    /// The end of the highest range.
    pub(super) fn end(&self) -> u32 {
        self.sorted.last().map_or(0, |range| range.1)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sorted.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.sorted.clear();
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = (u32, u32)> + '_ {
        self.sorted.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_merge_and_are_taken() {
        let mut ranges = Ranges::default();
        assert_eq!(ranges.insert(5, 6), (5, 6));
        assert_eq!(ranges.insert(9, 10), (9, 10));
        assert_eq!(ranges.insert(6, 7), (5, 7));
        assert_eq!(ranges.insert(1, 2), (1, 2));
        assert_eq!(
            (ranges.count(), ranges.end(), ranges.contains(6)),
            (4, 10, true)
        );
        assert!(!ranges.contains(7) && !ranges.contains(10));
        assert_eq!(ranges.insert(2, 9), (1, 10));
        assert_eq!(ranges.take_from(0), 0);
        assert_eq!(ranges.take_from(1), 10);
        assert!(ranges.is_empty());
    }
}
