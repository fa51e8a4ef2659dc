//! Free space of the data area, in blocks: extents by place and by length.

use std::collections::{BTreeMap, BTreeSet};

/// Longest run ever asked for.
pub(crate) const RUN_MAX: u32 = 16;

/// Free extents. Extents never cross segments, because block 0 of each holds its header and is never free.
#[derive(Clone, Default)]
pub(crate) struct Alloc {
    extents: BTreeMap<u32, u32>,
    classes: [BTreeSet<u32>; RUN_MAX as usize + 1],
    free: u64,
}
fn class(len: u32) -> usize {
    len.min(RUN_MAX) as usize
}
impl Alloc {
    /// Free blocks.
    pub fn free(&self) -> u64 {
        self.free
    }
    fn insert(&mut self, start: u32, len: u32) {
        self.extents.insert(start, len);
        self.classes[class(len)].insert(start);
    }
    fn remove(&mut self, start: u32, len: u32) {
        self.extents.remove(&start);
        self.classes[class(len)].remove(&start);
    }
    /// Gives [`start`, `start` + `len`) back.
    pub fn give(&mut self, start: u32, len: u32) {
        let (mut s, mut n) = (start, len);
        if let Some((&p, &l)) = self.extents.range(..start).next_back() {
            assert!(p + l <= start, "block {start} freed twice");
            if p + l == start {
                self.remove(p, l);
                (s, n) = (p, n + l);
            }
        }
        if let Some((&p, &l)) = self.extents.range(start..).next() {
            assert!(start + len <= p, "block {p} freed twice");
            if start + len == p {
                self.remove(p, l);
                n += l;
            }
        }
        self.insert(s, n);
        self.free += u64::from(len);
    }
    /// A run of `len` blocks: the tightest class that has one, lowest place first.
    pub fn get(&mut self, len: u32) -> Option<u32> {
        let start = (class(len)..=RUN_MAX as usize).find_map(|c| self.classes[c].first().copied())?;
        assert!(self.take(start, len), "an extent of a class is at least as long as the class");
        Some(start)
    }
    /// Exactly this run, if it is free.
    pub fn take(&mut self, start: u32, len: u32) -> bool {
        let Some((&p, &l)) = self.extents.range(..=start).next_back() else { return false };
        let (end, want) = (p + l, start + len);
        if want > end {
            return false;
        }
        self.remove(p, l);
        if p < start {
            self.insert(p, start - p);
        }
        if want < end {
            self.insert(want, end - want);
        }
        self.free -= u64::from(len);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn runs_merge_and_split() {
        let mut a = Alloc::default();
        a.give(1, 31);
        let x = a.get(16).expect("room");
        let y = a.get(15).expect("room");
        assert_eq!((x, y, a.free()), (1, 17, 0));
        assert_eq!(a.get(1), None);
        a.give(17, 15);
        assert!(a.take(20, 4) && !a.take(19, 2));
        assert_eq!(a.get(8), Some(24), "the tight extent is taken before a longer one");
        a.give(20, 4);
        a.give(24, 8);
        a.give(1, 16);
        assert_eq!((a.free(), a.extents.len()), (31, 1));
    }
}
