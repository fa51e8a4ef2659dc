//! Operations of sharers: while several hosts write one file, one client writes for all of them, and each record carries the
//! operation that it came from. A copy remembers the newest operation of each slot of each session, so that whoever writes
//! next can tell whether one that was not answered has happened.

use alloc::vec::Vec;
use types::{OpId, Seq, SessionId};
use wire::{OpDone, WriteHeader};

/// Most operations that a copy remembers; of more, those of the oldest records are forgotten. Who lets a file be shared sees
/// to it that its sharers do not have so many under way.
pub const OPS_MAX: usize = 512;

/// What a copy remembers, by session and slot.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ops {
    list: Vec<OpDone>,
    /// Highest record among them, or above.
    newest: Seq,
}

/// What became of an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Became {
    /// It happened, in this record, with its first byte there in the chunk.
    Done(OpDone),
    /// Its slot has been used for a later one: whoever asked for it knows already.
    Past,
    /// It has not happened in this chunk.
    Not,
}

fn key(op: &OpId) -> (SessionId, u16) {
    (op.session, op.slot)
}

impl Ops {
    /// As told by another copy, whatever order that has.
    pub fn told(list: &[OpDone]) -> Ops {
        let mut all = Ops::default();
        list.iter().for_each(|d| all.put(*d));
        all
    }
    /// All of them, by session and slot.
    pub fn list(&self) -> &[OpDone] {
        &self.list
    }
    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
    fn put(&mut self, d: OpDone) {
        self.newest = self.newest.max(d.record);
        match self.list.binary_search_by_key(&key(&d.op), |x| key(&x.op)) {
            Ok(i) if self.list[i].record <= d.record => self.list[i] = d,
            Ok(_) => {}
            Err(i) => {
                self.list.insert(i, d);
                if self.list.len() > OPS_MAX
                    && let Some(i) = (0..self.list.len()).min_by_key(|i| self.list[*i].record)
                {
                    self.list.remove(i);
                }
            }
        }
    }
    /// A record enters the copy. What was remembered of a record of the same number, or above, belongs to records that this
    /// copy never had.
    pub fn note(&mut self, h: &WriteHeader) {
        if self.newest >= h.seq {
            self.cut(Seq(h.seq.0 - 1));
        }
        if h.op.session.is_some() {
            self.put(OpDone { op: h.op, record: h.seq, at: h.op_at });
        }
    }
    /// Nothing above `last` happened.
    pub fn cut(&mut self, last: Seq) {
        self.list.retain(|d| d.record <= last);
        self.newest = self.newest.min(last);
    }
    /// Takes over what another copy remembers of records up to `base`, which were copied from it.
    pub fn learn(&mut self, source: &[OpDone], base: Seq) {
        source.iter().filter(|d| d.record <= base).for_each(|d| self.put(*d));
    }
    /// What became of this operation?
    pub fn find(&self, op: OpId) -> Became {
        match self.list.binary_search_by_key(&key(&op), |x| key(&x.op)) {
            Ok(i) if self.list[i].op.seq == op.seq => Became::Done(self.list[i]),
            Ok(i) if self.list[i].op.seq > op.seq => Became::Past,
            _ => Became::Not,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(session: u64, slot: u16, seq: u32) -> OpId {
        OpId { session: SessionId(session), slot, seq }
    }
    fn record(seq: u64, op: OpId) -> WriteHeader {
        WriteHeader { seq: Seq(seq), op, op_at: 100, length: 4096, ..WriteHeader::default() }
    }

    #[test]
    fn the_newest_of_each_slot_is_remembered() {
        let mut o = Ops::default();
        o.note(&record(1, op(7, 0, 1)));
        o.note(&record(2, OpId::default()));
        o.note(&record(3, op(7, 1, 5)));
        o.note(&record(4, op(7, 0, 2)));
        assert_eq!(o.find(op(7, 0, 1)), Became::Past);
        assert_eq!(o.find(op(7, 0, 2)), Became::Done(OpDone { op: op(7, 0, 2), record: Seq(4), at: 100 }));
        assert_eq!(o.find(op(7, 0, 3)), Became::Not);
        assert_eq!(o.find(op(8, 0, 1)), Became::Not);
        assert_eq!(Ops::told(&o.list().iter().rev().copied().collect::<Vec<_>>()), o);
    }

    #[test]
    fn what_was_remembered_of_records_that_never_were_is_forgotten() {
        let mut o = Ops::default();
        o.note(&record(1, op(7, 0, 1)));
        o.note(&record(2, op(7, 1, 1)));
        o.note(&record(3, op(7, 2, 1)));
        o.note(&record(2, op(9, 0, 1)));
        assert_eq!((o.find(op(7, 1, 1)), o.find(op(7, 2, 1))), (Became::Not, Became::Not));
        assert!(matches!(o.find(op(7, 0, 1)), Became::Done(_)) && matches!(o.find(op(9, 0, 1)), Became::Done(_)));
        o.cut(Seq(1));
        assert_eq!(o.list().len(), 1);
    }

    #[test]
    fn a_joiner_learns_only_of_what_it_copied() {
        let source = [(1, 0), (5, 1)].map(|(r, slot)| OpDone { op: op(7, slot, 1), record: Seq(r), at: 0 });
        let mut o = Ops::default();
        o.note(&record(6, op(7, 2, 1)));
        o.learn(&source, Seq(4));
        assert_eq!(o.find(op(7, 1, 1)), Became::Not);
        assert!(matches!(o.find(op(7, 0, 1)), Became::Done(_)) && matches!(o.find(op(7, 2, 1)), Became::Done(_)));
    }

    #[test]
    fn memory_is_bounded() {
        let mut o = Ops::default();
        for i in 0..2 * OPS_MAX as u64 {
            o.note(&record(i + 1, op(i, 0, 1)));
        }
        assert_eq!(o.list().len(), OPS_MAX);
        assert_eq!(o.find(op(OPS_MAX as u64 - 1, 0, 1)), Became::Not, "the oldest go first");
    }
}
