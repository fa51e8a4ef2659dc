//! Choices that a seed decides: the same seed, asked the same questions in the same order, answers alike.

use std::sync::atomic::{AtomicU64, Ordering};

const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

/// A stream of choices (splitmix64), shared between threads without a lock.
#[derive(Debug)]
pub struct Chance(AtomicU64);

impl Chance {
    /// The stream of `seed`.
    pub fn seeded(seed: u64) -> Chance {
        Chance(AtomicU64::new(seed))
    }
    /// The stream that belongs to `parts` alone, whatever was asked of other streams before.
    pub fn of(parts: &[u64]) -> Chance {
        Chance::seeded(parts.iter().fold(STEP, |h, p| mix(h ^ mix(p.wrapping_add(STEP)))))
    }
    /// The next 64 bits.
    pub fn next(&self) -> u64 {
        mix(self.0.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP))
    }
    /// A number below `n`; 0 when `n` is 0.
    pub fn below(&self, n: u64) -> u64 {
        // The bias of the remainder is below 2^-40 for every n used here.
        self.next().checked_rem(n).unwrap_or(0)
    }
    /// True once in `n` times.
    pub fn one_in(&self, n: u64) -> bool {
        self.below(n) == 0
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_and_seeds_differ() {
        let take = |seed| {
            let c = Chance::seeded(seed);
            (0..8).map(|_| c.next()).collect::<Vec<_>>()
        };
        assert_eq!(take(7), take(7));
        assert_ne!(take(7), take(8));
        assert_ne!(Chance::of(&[1, 2]).next(), Chance::of(&[2, 1]).next());
    }

    #[test]
    fn one_in_four_is_about_a_quarter() {
        let c = Chance::seeded(1);
        let hits = (0..4000).filter(|_| c.one_in(4)).count();
        assert!((850..1150).contains(&hits), "{hits}");
        assert_eq!(c.below(0), 0);
    }
}
