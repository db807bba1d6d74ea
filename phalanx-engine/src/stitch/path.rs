//! Paths: in which order the packets of one direction meet the hops.

use super::sighting::Order;

/// Orders `count` hops by what is known of pairs of them: `order(a, b)` with `a < b`. Where nothing
/// is known, the order in which they were given stands.
pub(super) fn arrange(count: usize, order: impl Fn(usize, usize) -> Order) -> Vec<usize> {
    let comes_first = |a: usize, b: usize| match a.cmp(&b) {
        std::cmp::Ordering::Less => order(a, b) == Order::First,
        std::cmp::Ordering::Greater => order(b, a) == Order::Second,
        std::cmp::Ordering::Equal => false,
    };
    let mut left: Vec<usize> = (0..count).collect();
    let mut arranged = Vec::with_capacity(count);
    while !left.is_empty() {
        // The first that nobody has to come before; in a circle, the one with the fewest.
        let before = |it: usize| left.iter().filter(|other| comes_first(**other, it)).count();
        let next = left.iter().enumerate().min_by_key(|(_, it)| before(**it));
        let Some((at, _)) = next else {
            break;
        };
        arranged.push(left.remove(at));
    }
    arranged
}
