//! Samples of flows: a number by which whole flows are chosen, the same for both directions, at
//! every interface and on every host, so that a flow is chosen everywhere or nowhere.

use crate::abi::FlowKey;

/// All flows: [`sample_of`] lies below.
pub const SAMPLE_ALL: u32 = 1 << SAMPLE_BITS;

const SAMPLE_BITS: u32 = 16;

/// The number of a flow, below [`SAMPLE_ALL`], from its ends and its protocol alone. Evenly spread,
/// without a seed: who forges flows to be sampled gains nothing, since the threshold falls.
#[inline(always)]
#[must_use]
pub const fn sample_of(key: &FlowKey) -> u32 {
    let mut hash = key.protocol as u64;
    let mut index = 0;
    while index < key.low.len() {
        hash = mix(hash ^ ((key.low[index] as u64) << 32 | key.high[index] as u64));
        index += 1;
    }
    hash = mix(hash ^ ((key.low_port as u64) << 16 | key.high_port as u64));
    (hash >> (u64::BITS - SAMPLE_BITS)) as u32
}

/// A multiplication by 2⁶⁴ over the golden ratio (Knuth, volume 3, section 6.4), folded.
#[inline(always)]
const fn mix(word: u64) -> u64 {
    let product = word.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    product ^ product >> 29
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(port: u16) -> FlowKey {
        FlowKey {
            low: [0, 0, 0xffff_0000, 0x0100_000a],
            high: [0, 0, 0xffff_0000, 0x0200_000a],
            low_port: port,
            high_port: 443,
            protocol: 6,
            ..FlowKey::default()
        }
    }

    #[test]
    fn a_part_of_the_threshold_is_that_part_of_the_flows() {
        const FLOWS: u32 = 20_000;
        for threshold in [SAMPLE_ALL / 64, SAMPLE_ALL / 4, SAMPLE_ALL / 2, SAMPLE_ALL] {
            let ports = 10_000..10_000 + FLOWS as u16;
            let chosen = ports.filter(|port| sample_of(&key(*port)) < threshold);
            let chosen = chosen.count() as u32;
            let expected = u64::from(FLOWS) * u64::from(threshold) / u64::from(SAMPLE_ALL);
            let expected = expected as u32;
            assert!(
                chosen.abs_diff(expected) <= expected / 5,
                "{chosen} of {FLOWS}, {expected} are due"
            );
        }
    }

    #[test]
    fn where_it_was_seen_does_not_matter() {
        let seen = |ifindex, vlan| FlowKey {
            ifindex,
            vlan,
            ..key(40_000)
        };
        assert_eq!(sample_of(&seen(1, 0)), sample_of(&seen(2, 7)));
        assert_ne!(sample_of(&key(40_000)), sample_of(&key(40_001)));
    }
}
