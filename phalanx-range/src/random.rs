//! A small seeded generator (PCG-XSH-RR 64/32, O'Neill 2014), so that a seed gives the same
//! decisions on every machine and in every version.

/// A stream of random numbers.
#[derive(Debug, Clone)]
pub struct Random {
    state: u64,
    increment: u64,
}

impl Random {
    /// Makes the stream `stream` of `seed`; streams of one seed are independent.
    pub fn new(seed: u64, stream: u64) -> Self {
        let mut random = Self {
            state: 0,
            increment: (stream << 1) | 1,
        };
        random.next_u32();
        random.state = random.state.wrapping_add(seed);
        random.next_u32();
        random
    }

    /// The next 32 bits.
    pub fn next_u32(&mut self) -> u32 {
        let old = self.state;
        self.state = old
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(self.increment);
        let folded = (((old >> 18) ^ old) >> 27) as u32;
        folded.rotate_right((old >> 59) as u32)
    }

    /// The next number in `[0, 1)`, with 32 bits of resolution.
    pub fn unit(&mut self) -> f64 {
        f64::from(self.next_u32()) / 4_294_967_296.0
    }

    /// True with probability `probability`; always consumes one number, so that a decision does
    /// not shift the ones after it.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }
}

/// Folds a name into a seed (FNV-1a), so that each link and direction has a seed of its own.
pub fn seed_of(seed: u64, name: &str) -> u64 {
    name.bytes()
        .fold(seed ^ 0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// First outputs of the reference implementation's demo (`pcg32_srandom(42, 54)`).
    #[test]
    fn agrees_with_the_reference_implementation() {
        let mut random = Random::new(42, 54);
        let first: Vec<u32> = (0..6).map(|_| random.next_u32()).collect();
        let reference = [
            0xa15c_02b7,
            0x7b47_f409,
            0xba1d_3330,
            0x83d2_f293,
            0xbfa4_784b,
            0xcbed_606e,
        ];
        assert_eq!(first, reference);
    }

    #[test]
    fn chance_has_the_asked_probability() {
        let mut random = Random::new(7, 1);
        let hits = (0..100_000).filter(|_| random.chance(0.02)).count();
        // 2000 expected, standard deviation 44.
        assert!((1_800..2_200).contains(&hits), "{hits} hits");
    }

    #[test]
    fn names_give_different_seeds() {
        assert_ne!(seed_of(1, "a-b forward"), seed_of(1, "a-b reverse"));
    }
}
