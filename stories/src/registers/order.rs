//! Is there one order in which every read of a register sees the newest write? Where no value is written twice, the test of
//! Gibbons and Korach ("Testing shared memories", 1997) is exact: a value with its write and its reads is a cluster, all of a
//! cluster stands together in the order, and it is enough that no two clusters each have to come before the other.

/// A cluster, as far as it matters: when its value was there for certain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Zone {
    /// First end of an operation on the value: it was written at the latest then.
    pub first_end: u64,
    /// Last start of an operation on the value: it was not overwritten before.
    pub last_start: u64,
}
impl Zone {
    /// Must this one come before the other? An operation of it ended before one of the other began.
    fn before(self, other: Zone) -> bool {
        self.first_end < other.last_start
    }
    /// Was its value there from `first_end` to `last_start`?
    fn lasts(self) -> bool {
        self.first_end < self.last_start
    }
}

/// Two zones (by their index) of which each has to come before the other, if there are any.
pub fn conflict(zones: &[Zone]) -> Option<(usize, usize)> {
    let mut lasting: Vec<usize> = (0..zones.len()).filter(|i| zones[*i].lasts()).collect();
    lasting.sort_by_key(|i| zones[*i].first_end);
    // Values that lasted for some time: no two at the same time.
    if let Some(w) = lasting.windows(2).find(|w| zones[w[1]].before(zones[w[0]])) {
        return Some((w[0], w[1]));
    }
    // Each other one needs a moment between its last start and its first end that is not within the time of a lasting one. As
    // these do not overlap, the only one that can hold all of it is the last to begin before its last start.
    (0..zones.len()).filter(|i| !zones[*i].lasts()).find_map(|i| {
        let behind = lasting.partition_point(|l| zones[*l].first_end < zones[i].last_start);
        let around = *lasting.get(behind.checked_sub(1)?)?;
        zones[i].before(zones[around]).then_some((around, i))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::Chance;
    use std::collections::BTreeSet;

    const NEVER: u64 = u64::MAX;

    /// (is it a write, value, start, end)
    type Small = (bool, usize, u64, u64);

    /// Zones of a history, None if a value was read before it was written. Value 0 is there from the beginning.
    fn zones(ops: &[Small]) -> Option<Vec<Zone>> {
        let values = 1 + ops.iter().map(|o| o.1).max().unwrap_or(0);
        let mut all = vec![Zone { first_end: NEVER, last_start: 0 }; values];
        all[0].first_end = 0;
        for (_, value, start, end) in ops {
            all[*value].first_end = all[*value].first_end.min(*end);
            all[*value].last_start = all[*value].last_start.max(*start);
        }
        let early = |r: &Small| !r.0 && ops.iter().any(|w| w.0 && w.1 == r.1 && r.3 < w.2);
        (!ops.iter().any(early)).then_some(all)
    }
    /// The same question, answered by trying every order.
    fn tried(ops: &[Small], done: u32, value: usize, dead: &mut BTreeSet<(u32, usize)>) -> bool {
        let open = |i: &usize| done >> i & 1 == 0;
        let all = 0..ops.len();
        if all.clone().filter(open).all(|i| ops[i].3 == NEVER) {
            return true;
        }
        if !dead.insert((done, value)) {
            return false;
        }
        let limit = all.clone().filter(open).map(|i| ops[i].3).min().unwrap_or(NEVER);
        all.filter(open).any(|i| {
            let (write, v, start, _) = ops[i];
            start <= limit && (write || v == value) && tried(ops, done | 1 << i, if write { v } else { value }, dead)
        })
    }

    #[test]
    fn says_the_same_as_trying_every_order() {
        let chance = Chance::seeded(5);
        let mut count = [0; 2];
        for _ in 0..30_000 {
            let (writes, reads) = (1 + chance.below(4) as usize, 1 + chance.below(5) as usize);
            let mut times: Vec<u64> = (1..=2 * (writes + reads) as u64).collect();
            for i in (1..times.len()).rev() {
                times.swap(i, chance.below(i as u64 + 1) as usize);
            }
            let op = |i: usize| {
                let (a, b) = (times[2 * i], times[2 * i + 1]);
                let write = i < writes;
                let value = if write { i + 1 } else { chance.below(writes as u64 + 1) as usize };
                (write, value, a.min(b), if write && chance.one_in(5) { NEVER } else { a.max(b) })
            };
            let ops: Vec<Small> = (0..writes + reads).map(op).collect();
            let fast = zones(&ops).is_some_and(|z| conflict(&z).is_none());
            assert_eq!(fast, tried(&ops, 0, 0, &mut BTreeSet::new()), "{ops:?}");
            count[usize::from(fast)] += 1;
        }
        assert!(count.iter().all(|n| *n > 5000), "{count:?}: too few of one kind");
    }

    #[test]
    fn known_histories() {
        let holds = |ops: &[Small]| conflict(&zones(ops).unwrap()).is_none();
        let (w, r) = (true, false);
        assert!(holds(&[(w, 1, 1, 2), (r, 1, 3, 4), (w, 2, 5, 6), (r, 2, 7, 8)]));
        assert!(!holds(&[(w, 1, 1, 2), (w, 2, 3, 4), (r, 1, 5, 6)]), "stale");
        assert!(!holds(&[(w, 1, 1, 2), (r, 0, 3, 4)]), "lost");
        assert!(holds(&[(w, 1, 1, 10), (r, 0, 2, 3), (r, 1, 4, 5)]), "seen while it is written");
        assert!(!holds(&[(w, 1, 1, 10), (r, 1, 2, 3), (r, 0, 4, 5)]), "seen, then not");
        assert!(!holds(&[(w, 1, 1, 9), (w, 2, 1, 9), (r, 1, 10, 11), (r, 2, 12, 13), (r, 1, 14, 15)]), "in turns");
        assert!(holds(&[(w, 1, 1, NEVER), (w, 2, 3, 4), (r, 2, 5, 6), (r, 1, 7, 8)]), "late");
    }
}
