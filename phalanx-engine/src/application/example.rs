//! The exchanges of a flow that its story tells one by one: the first ones and the worst ones.

use crate::limits::APPLICATION_EXAMPLE_COUNT_MAX;

/// What can be an example.
pub(super) trait Exchange: Clone {
    /// How bad it went; more is worse.
    fn badness(&self) -> (u8, u64);
    /// Bytes that it holds on the heap.
    fn heap_bytes(&self) -> usize;
}

/// The first exchanges, and of those after them the worst.
#[derive(Clone, Debug)]
pub(super) struct Examples<T> {
    first: Vec<T>,
    later_worst: Vec<T>,
    /// Bytes that they hold on the heap.
    held_bytes: usize,
}

impl<T> Default for Examples<T> {
    fn default() -> Self {
        Self {
            first: Vec::new(),
            later_worst: Vec::new(),
            held_bytes: 0,
        }
    }
}

impl<T: Exchange> Examples<T> {
    pub(super) fn add(&mut self, exchange: T) {
        if self.first.len() < APPLICATION_EXAMPLE_COUNT_MAX {
            // Most flows have one exchange: no room for four.
            self.first.reserve_exact(1);
            self.held_bytes += exchange.heap_bytes();
            self.first.push(exchange);
            return;
        }
        if self.later_worst.len() < APPLICATION_EXAMPLE_COUNT_MAX {
            self.held_bytes += exchange.heap_bytes();
            self.later_worst.push(exchange);
            return;
        }
        let least = self
            .later_worst
            .iter_mut()
            .min_by_key(|kept| kept.badness());
        if let Some(least) = least
            && least.badness() < exchange.badness()
        {
            self.held_bytes += exchange.heap_bytes();
            self.held_bytes -= least.heap_bytes();
            *least = exchange;
        }
    }

    /// Keeps the first one and the worst one after it.
    pub(super) fn shed(&mut self) {
        self.first.truncate(1);
        self.first.shrink_to_fit();
        let worst = self.later_worst.drain(..).max_by_key(T::badness);
        self.later_worst = Vec::from_iter(worst);
        let all = self.first.iter().chain(&self.later_worst);
        self.held_bytes = all.map(T::heap_bytes).sum();
    }

    pub(super) fn heap_bytes(&self) -> usize {
        let rooms = self.first.capacity() + self.later_worst.capacity();
        rooms * size_of::<T>() + self.held_bytes
    }

    /// The first ones in their order, and the worst of all, worst first.
    pub(super) fn finish(self) -> (Vec<T>, Vec<T>) {
        let mut worst: Vec<T> = self.first.iter().cloned().chain(self.later_worst).collect();
        worst.sort_by_key(|exchange| std::cmp::Reverse(exchange.badness()));
        worst.truncate(APPLICATION_EXAMPLE_COUNT_MAX);
        (self.first, worst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Exchange for u64 {
        fn badness(&self) -> (u8, u64) {
            (0, *self)
        }

        fn heap_bytes(&self) -> usize {
            0
        }
    }

    #[test]
    fn first_and_worst_are_kept() {
        let mut examples = Examples::default();
        for value in (0..100).chain([50, 7]) {
            examples.add(value);
        }
        let (first, worst) = examples.finish();
        assert_eq!(first, [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(worst, [99, 98, 97, 96, 95, 94, 93, 92]);
    }
}
