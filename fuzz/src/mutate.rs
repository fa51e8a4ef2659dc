//! Changes to an input: bits, numbers, pieces that vanish, come twice, or come from another input.

/// Reproducible numbers (splitmix64).
#[derive(Clone, Debug)]
pub struct Rng(pub u64);

impl Rng {
    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
    /// A number below `n`; 0 if there is none.
    pub fn below(&mut self, n: usize) -> usize {
        if n == 0 { 0 } else { (self.bits() % n as u64) as usize }
    }
}

/// Numbers at which lengths and counters go wrong.
const NUMBERS: [u64; 14] =
    [0, 1, 7, 8, 63, 64, 255, 4095, 4096, 65_535, 65_536, u32::MAX as u64, i64::MAX as u64, u64::MAX];
/// Inputs grow up to this many bytes by themselves; given ones may be longer.
const GROW_MAX: usize = 1 << 16;

/// Changes `input` in one to four places; `other` is where pieces may come from.
pub fn mutate(rng: &mut Rng, input: &mut Vec<u8>, other: &[u8]) {
    for _ in 0..1 + rng.below(4) {
        once(rng, input, other);
    }
}

fn once(rng: &mut Rng, input: &mut Vec<u8>, other: &[u8]) {
    let n = input.len();
    if n == 0 {
        return input.extend(std::iter::repeat_with(|| rng.bits() as u8).take(1 + (n ^ 15)).collect::<Vec<_>>());
    }
    let at = rng.below(n);
    let len = 1 + rng.below((n - at).min(64));
    match rng.below(10) {
        0 | 1 => input[at] ^= 1 << rng.below(8),
        2 => input[at] = rng.bits() as u8,
        3 | 4 => {
            let size = [1, 2, 4, 8][rng.below(4)].min(n - at);
            let number = match rng.below(3) {
                0 => rng.bits(),
                1 => NUMBERS[rng.below(NUMBERS.len())].wrapping_add(rng.bits() % 3).wrapping_sub(1),
                _ => rng.bits() % 20,
            };
            input[at..at + size].copy_from_slice(&number.to_le_bytes()[..size]);
        }
        5 => drop(input.drain(at..at + len)),
        6 => input.truncate(at),
        7 if n + len <= GROW_MAX => {
            let piece = input[at..at + len].to_vec();
            let to = rng.below(n);
            input.splice(to..to, piece);
        }
        8 if !other.is_empty() => {
            let from = rng.below(other.len());
            let piece = &other[from..from + 1 + rng.below((other.len() - from).min(256))];
            let end = if rng.below(2) == 0 && n < GROW_MAX { at } else { (at + piece.len()).min(n) };
            input.splice(at..end, piece.iter().copied());
        }
        _ => {
            let to = rng.below(n);
            let len = len.min(n - to);
            input.copy_within(at..at + len.min(n - at), to.min(n - len.min(n - at)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_follow_from_the_seed_and_stay_in_bounds() {
        let run = |seed| {
            let (mut rng, mut input) = (Rng(seed), b"some input that is changed".to_vec());
            for _ in 0..20_000 {
                mutate(&mut rng, &mut input, b"another one");
                assert!(input.len() <= GROW_MAX + 256);
            }
            input
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }
}
