//! Which pages of a file the kernel may hold with content.
//!
//! When a lease goes back the kernel has to drop them, and it waits for the lock of each page it drops. A write to a part of
//! a page without content keeps that page locked until it is answered, and it may have to wait for another lease, for which
//! this one must go. So does a read until it is answered. So pages that cannot have content are left alone: a page gets
//! content by the answer to a read that covers any of it, or by a write that covers all of it. Only if the kernel has dropped
//! a page by itself meanwhile is a lock met.

use std::collections::BTreeMap;

const PAGE: u64 = 4096;
/// Runs that are told apart; with more, everything between the first and the last counts.
const RUNS_MAX: usize = 64;

/// Pages of one file; never fewer than have content.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pages {
    /// First page to the page behind the last one.
    runs: BTreeMap<u64, u64>,
}

impl Pages {
    /// These bytes are told.
    pub fn read(&mut self, offset: u64, bytes: u64) {
        self.add(offset / PAGE, offset.saturating_add(bytes).div_ceil(PAGE));
    }
    /// These bytes were written: pages covered in part stay as they were.
    pub fn written(&mut self, offset: u64, bytes: u64) {
        self.add(offset.div_ceil(PAGE), offset.saturating_add(bytes) / PAGE);
    }
    fn add(&mut self, mut first: u64, mut end: u64) {
        if first >= end {
            return;
        }
        while let Some((&f, &e)) = self.runs.range(..=end).next_back().filter(|(_, e)| **e >= first) {
            (first, end) = (first.min(f), end.max(e));
            self.runs.remove(&f);
        }
        self.runs.insert(first, end);
        if self.runs.len() > RUNS_MAX {
            let last = self.runs.last_key_value().map_or(end, |r| *r.1);
            let first = self.runs.first_key_value().map_or(first, |r| *r.0);
            self.runs = BTreeMap::from([(first, last)]);
        }
    }
    /// (first byte, bytes) of each run.
    pub fn ranges(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.runs.iter().map(|(f, e)| (f * PAGE, (e - f) * PAGE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(p: &Pages) -> Vec<(u64, u64)> {
        p.ranges().map(|(o, n)| (o / PAGE, n / PAGE)).collect()
    }

    #[test]
    fn reads_fill_what_they_touch_and_writes_what_they_cover() {
        let mut p = Pages::default();
        p.written(100, 50);
        p.written(4000, 4000);
        assert_eq!(runs(&p), []);
        p.written(4000, 8192);
        assert_eq!(runs(&p), [(1, 1)]);
        p.read(20_000, 1);
        assert_eq!(runs(&p), [(1, 1), (4, 1)]);
        p.read(8192, 8192);
        assert_eq!(runs(&p), [(1, 4)], "what touches is one run");
        p.read(0, 100_000);
        p.read(u64::MAX - 5, 100);
        assert_eq!(runs(&p)[0], (0, 25));
    }

    #[test]
    fn too_many_runs_are_one() {
        let mut p = Pages::default();
        (0..=RUNS_MAX as u64).for_each(|n| p.read(n * 3 * PAGE, 1));
        assert_eq!(runs(&p), [(0, RUNS_MAX as u64 * 3 + 1)]);
        p.read(2 * PAGE, 1);
        assert_eq!(runs(&p).len(), 1);
    }
}
