//! Regions of 64 KiB of a chunk, one bit each: what a copy that was away may lack, at a price that does not grow with what is
//! written.

use alloc::vec::Vec;
use serde::{Deserialize, Serialize};
use types::CHUNK_LOG2_MAX;

const REGION_LOG2: u32 = 16;
/// Bytes of a region.
pub const REGION: u32 = 1 << REGION_LOG2;
const REGIONS_MAX: u32 = 1 << (CHUNK_LOG2_MAX as u32 - REGION_LOG2);

/// A set of regions. At most 2 KiB, for the largest chunk.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Regions(Vec<u64>);

impl Regions {
    /// Every region that the range touches is in from now on. Bytes; what lies behind the largest chunk is left out.
    pub fn put(&mut self, offset: u32, length: u32) {
        if length == 0 {
            return;
        }
        let last = (u64::from(offset) + u64::from(length) - 1) >> REGION_LOG2;
        for r in offset >> REGION_LOG2..=(last as u32).min(REGIONS_MAX - 1) {
            let word = r as usize / 64;
            if word >= self.0.len() {
                self.0.resize(word + 1, 0);
            }
            self.0[word] |= 1 << (r % 64);
        }
    }
    /// Everything of `other` is in from now on.
    pub fn join(&mut self, other: &Regions) {
        if other.0.len() > self.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        for (mine, theirs) in self.0.iter_mut().zip(&other.0) {
            *mine |= theirs;
        }
    }
    /// What is in, as ascending ranges (offset, length) in bytes that do not touch.
    pub fn ranges(&self) -> Vec<(u32, u32)> {
        let mut out: Vec<(u32, u32)> = Vec::new();
        let bits = self.0.iter().take(REGIONS_MAX as usize / 64).flat_map(|w| (0..64).map(move |b| w >> b & 1 == 1));
        for (r, _) in bits.enumerate().filter(|(_, set)| *set) {
            let offset = (r as u32) << REGION_LOG2;
            match out.last_mut() {
                Some(l) if l.0 + l.1 == offset => l.1 += REGION,
                _ => out.push((offset, REGION)),
            }
        }
        out
    }
}

impl FromIterator<(u32, u32)> for Regions {
    fn from_iter<I: IntoIterator<Item = (u32, u32)>>(ranges: I) -> Regions {
        let mut r = Regions::default();
        ranges.into_iter().for_each(|(offset, length)| r.put(offset, length));
        r
    }
}

/// What two lists of ranges share. Both (offset, length), ascending, not overlapping.
pub fn common(a: &[(u32, u32)], b: &[(u32, u32)]) -> Vec<(u32, u32)> {
    let end = |r: &(u32, u32)| r.0 + r.1;
    let (mut i, mut j) = (0, 0);
    let mut out = Vec::new();
    while let (Some(x), Some(y)) = (a.get(i), b.get(j)) {
        let (from, to) = (x.0.max(y.0), end(x).min(end(y)));
        if from < to {
            out.push((from, to - from));
        }
        if end(x) < end(y) { i += 1 } else { j += 1 }
    }
    out
}

/// What of `a` is not in `b`. Both (offset, length), ascending, not overlapping.
pub fn without(a: &[(u32, u32)], b: &[(u32, u32)]) -> Vec<(u32, u32)> {
    let mut out = Vec::new();
    let mut j = 0;
    for &(offset, length) in a {
        let (mut at, end) = (offset, offset + length);
        while b.get(j).is_some_and(|r| r.0 + r.1 <= at) {
            j += 1;
        }
        for &(o, l) in b[j..].iter().take_while(|r| r.0 < end) {
            if o > at {
                out.push((at, o - at));
            }
            at = at.max(o + l);
        }
        if at < end {
            out.push((at, end - at));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const K: u32 = 1024;

    #[test]
    fn a_range_takes_every_region_it_touches() {
        let mut r = Regions::default();
        r.put(60 * K, 8 * K);
        r.put(640 * K, 64 * K);
        r.put(5, 0);
        assert_eq!(r.ranges(), [(0, 128 * K), (640 * K, 64 * K)]);
        let other: Regions = [(128 * K, 4 * K), (1 << 29, 4 * K)].into_iter().collect();
        r.join(&other);
        assert_eq!(r.ranges(), [(0, 192 * K), (640 * K, 64 * K), (1 << 29, 64 * K)]);
    }

    #[test]
    fn no_bytes_make_a_range_beyond_the_largest_chunk() {
        let mut r = Regions(alloc::vec![u64::MAX; 1000]);
        r.put(u32::MAX - 4 * K, 4 * K);
        assert_eq!(r.ranges(), [(0, 1 << CHUNK_LOG2_MAX)]);
    }

    #[test]
    fn sets_of_ranges() {
        // Compared with the same on single numbers.
        let cells =
            |v: &[(u32, u32)]| v.iter().flat_map(|(o, l)| *o..o + l).collect::<alloc::collections::BTreeSet<_>>();
        let lists: Vec<Vec<(u32, u32)>> = (0..256u32)
            .map(|m| {
                let bits = (0..8).filter(|b| m >> b & 1 == 1);
                let mut v: Vec<(u32, u32)> = Vec::new();
                bits.for_each(|b| match v.last_mut() {
                    Some(l) if l.0 + l.1 == b && m % 3 > 0 => l.1 += 1,
                    _ => v.push((b, 1)),
                });
                v
            })
            .collect();
        for a in &lists {
            for b in &lists {
                assert_eq!(cells(&common(a, b)), &cells(a) & &cells(b), "{a:?} {b:?}");
                assert_eq!(cells(&without(a, b)), &cells(a) - &cells(b), "{a:?} {b:?}");
            }
        }
    }
}
