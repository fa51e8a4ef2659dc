//! Seeded randomness (splitmix64): the only source of chance in a run, so that a seed names exactly one run.

/// A stream of pseudo-random numbers. Equal seeds give equal streams on every machine.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// The stream named by `seed`.
    pub fn new(seed: u64) -> Rng {
        Rng(seed ^ 0x5851_f42d_4c95_7f2d)
    }
    /// An independent stream; `salt` tells the uses of one seed apart.
    pub fn fork(&mut self, salt: u64) -> Rng {
        Rng::new(self.next().wrapping_add(salt.wrapping_mul(0xa076_1d64_78bd_642f)))
    }
    /// 64 random bits.
    #[expect(clippy::should_implement_trait, reason = "an endless stream is no iterator")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
    /// A number in 0..n; 0 when `n` is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(n)) >> 64) as u64
    }
    /// A number in `low..high`; `low` when the range is empty.
    pub fn range(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low))
    }
    /// True in `ppm` of a million cases.
    pub fn ppm(&mut self, ppm: u32) -> bool {
        self.below(1_000_000) < u64::from(ppm)
    }
    /// True in `percent` of a hundred cases.
    pub fn percent(&mut self, percent: u32) -> bool {
        self.ppm(percent * 10_000)
    }
    /// One of `items`; None when there are none.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        items.get(self.below(items.len() as u64) as usize)
    }
    /// A number that is small most of the time and now and then near `max`: uniform in magnitude.
    pub fn skewed(&mut self, max: u64) -> u64 {
        let bits = 64 - max.leading_zeros();
        let top = self.below(u64::from(bits) + 1);
        self.below((1 << top.min(63)).min(max) + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_seeds_equal_streams_and_sane_frequencies() {
        let (mut a, mut b, mut c) = (Rng::new(7), Rng::new(7), Rng::new(8));
        let (x, y): (Vec<_>, Vec<_>) = (0..100).map(|_| (a.next(), b.next())).unzip();
        assert_eq!(x, y);
        assert_ne!(x[0], c.next());
        let hits = (0..100_000).filter(|_| a.percent(10)).count();
        assert!((9_500..10_500).contains(&hits), "{hits}");
        let mut seen = [0; 7];
        (0..70_000).for_each(|_| seen[a.below(7) as usize] += 1);
        assert!(seen.iter().all(|n| (9_500..10_500).contains(n)), "{seen:?}");
        assert!((0..10_000).all(|_| a.skewed(300) <= 300));
    }
}
