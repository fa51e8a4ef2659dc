//! Copies whose newest records stand for long without anybody saying that all members have them: their writer is gone or
//! has lost the lease, and no other has looked at the chunk since. The group is told, because members may differ.

use replica::copy::CopyState;
use std::collections::BTreeMap;
use types::{ChunkId, Nanos, Seq};

/// A writer says within a fraction of this that all members have a record.
const STANDING: Nanos = Nanos::from_secs(5);
/// Copies looked at in one go.
const STEP: usize = 1024;
/// Told in one go.
const TOLD_MAX: usize = 64;

/// What was seen.
#[derive(Debug, Default)]
pub(crate) struct Tails {
    /// Looked at up to here.
    cursor: ChunkId,
    /// Tails by chunk: the newest record, and when it was first seen.
    seen: BTreeMap<ChunkId, (Seq, Nanos)>,
}

impl Tails {
    /// Where the next look begins: copies behind this chunk, in order.
    pub fn cursor(&self) -> ChunkId {
        self.cursor
    }
    /// Looks at some copies; the tails that stand too long.
    pub fn look<'a>(&mut self, now: Nanos, copies: impl Iterator<Item = &'a CopyState>) -> Vec<ChunkId> {
        let mut looked = 0;
        for c in copies.take(STEP) {
            looked += 1;
            self.cursor = c.chunk;
            if c.tail.is_empty() || c.unclean || c.joining.is_some() {
                self.seen.remove(&c.chunk);
                continue;
            }
            let s = self.seen.entry(c.chunk).or_insert((c.last, now));
            if s.0 != c.last {
                *s = (c.last, now);
            }
        }
        if looked < STEP {
            self.cursor = ChunkId::NONE;
        }
        let old = self.seen.iter().filter(|(_, (_, since))| now.since(*since) >= STANDING);
        old.map(|(c, _)| *c).take(TOLD_MAX).collect()
    }
    /// The copy is gone.
    pub fn forget(&mut self, chunk: ChunkId) {
        self.seen.remove(&chunk);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use types::CopyId;
    use wire::RangeRec;

    fn copy(chunk: u64, last: u64, tail: bool) -> CopyState {
        let mut c = CopyState::new(ChunkId(chunk), CopyId(1));
        c.last = Seq(last);
        c.tail = if tail { vec![RangeRec { seq: Seq(last), offset: 0, length: 4096 }] } else { vec![] };
        c
    }

    #[test]
    fn told_when_the_same_record_stands_too_long() {
        let mut t = Tails::default();
        let at = Nanos::from_secs;
        let all = [copy(1, 5, true), copy(2, 9, true), copy(3, 7, false)];
        assert!(t.look(at(1), all.iter()).is_empty());
        let all = [copy(1, 5, true), copy(2, 10, true), copy(3, 7, false)];
        assert!(t.look(at(4), all.iter()).is_empty());
        assert_eq!(t.look(at(6), all.iter()), [ChunkId(1)], "2 goes on");
        let all = [copy(1, 5, false), copy(2, 10, true)];
        assert_eq!(t.look(at(9), all.iter()), [ChunkId(2)]);
        t.forget(ChunkId(2));
        assert!(t.look(at(9), std::iter::empty()).is_empty());
    }

    #[test]
    fn many_copies_are_looked_at_in_turns() {
        let mut t = Tails::default();
        let all: Vec<CopyState> = (1..=1500).map(|c| copy(c, 1, true)).collect();
        let behind = |t: &Tails| all.iter().filter(|c| c.chunk > t.cursor()).cloned().collect::<Vec<_>>();
        let b = behind(&t);
        t.look(Nanos::from_secs(1), b.iter());
        assert_eq!(t.cursor(), ChunkId(1024));
        let b = behind(&t);
        t.look(Nanos::from_secs(1), b.iter());
        assert_eq!((t.cursor(), t.seen.len()), (ChunkId::NONE, 1500));
    }
}
