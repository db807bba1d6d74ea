//! Random numbers of the tests that try what nobody has thought of, of all crates: by path.

/// Numbers from a seed (SplitMix64: Steele, Lea, Flood, OOPSLA 2014); the same seed gives the same
/// ones.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below a bound; 0 for 0.
    pub(crate) const fn below(&mut self, bound: usize) -> usize {
        let next = self.next();
        if bound == 0 {
            0
        } else {
            (next % bound as u64) as usize
        }
    }
}
