//! What a server knows about a copy only while it lives: which records have been made safe, who waits for an answer, and
//! which blocks a joiner has.

use std::collections::{BTreeMap, VecDeque};
use types::{BLOCK, ChunkId, CopyId, LeaseEpoch, NodeId, Seq, SessionId};
use wire::CopyReq;

/// Who asked, as far as the answer needs it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asker {
    pub node: NodeId,
    pub chunk: ChunkId,
    pub copy: CopyId,
    pub session: SessionId,
    pub epoch: LeaseEpoch,
    pub stamp: u64,
}
impl Asker {
    pub fn new(node: NodeId, req: &CopyReq) -> Asker {
        Asker { node, chunk: req.chunk, copy: req.copy, session: req.session, epoch: req.epoch, stamp: req.stamp }
    }
}

/// A change on its way into the store.
#[derive(Debug)]
struct Pending {
    ticket: u64,
    /// The record it appends, or where it makes the copy end.
    ends: Option<Seq>,
    durable: bool,
    done: bool,
}

/// Blocks of a copy that a join need not fetch: written since it began, or fetched.
#[derive(Debug, Default)]
pub(crate) struct Filled {
    words: Vec<u64>,
    /// The beginning of the join is durable, so it may be answered.
    pub started: bool,
    /// Who drives the join.
    pub asker: Option<Asker>,
}
impl Filled {
    /// Is block number `block` there?
    pub fn has(&self, block: u32) -> bool {
        self.words.get(block as usize / 64).is_some_and(|w| w >> (block % 64) & 1 == 1)
    }
    fn put(&mut self, block: u32) {
        let i = block as usize / 64;
        if i >= self.words.len() {
            self.words.resize(i + 1, 0);
        }
        self.words[i] |= 1 << (block % 64);
    }
    /// The range is there from now on. Bytes, whole blocks.
    pub fn put_range(&mut self, offset: u32, length: u32) {
        for b in offset / BLOCK..(offset + length) / BLOCK {
            self.put(b);
        }
    }
    /// Is the whole range there?
    pub fn has_range(&self, offset: u32, length: u32) -> bool {
        (offset / BLOCK..(offset + length) / BLOCK).all(|b| self.has(b))
    }
}

/// An acknowledgement that is owed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owed {
    pub asker: Asker,
    /// To be sent when this record is held; 0 = at once.
    pub due: Seq,
}

/// The volatile side of one copy.
#[derive(Debug)]
pub(crate) struct Live {
    pub copy: CopyId,
    /// Highest record up to which everything is as safe as was asked for.
    pub held: Seq,
    /// Highest record up to which everything is known to be durable here.
    pub durable: Seq,
    queue: VecDeque<Pending>,
    pub owed: BTreeMap<NodeId, Owed>,
    /// This life began the join (or replacement) that fills the copy.
    pub filled: Option<Filled>,
}

impl Live {
    pub fn new(copy: CopyId, held: Seq, durable: Seq) -> Live {
        Live { copy, held, durable, queue: VecDeque::new(), owed: BTreeMap::new(), filled: None }
    }
    /// A change was handed to the store.
    pub fn submitted(&mut self, ticket: u64, ends: Option<Seq>, durable: bool) {
        self.queue.push_back(Pending { ticket, ends, durable, done: false });
    }
    /// Nothing is on its way.
    pub fn quiet(&self) -> bool {
        self.queue.is_empty()
    }
    /// The change `ticket` is in. True if `held` moved.
    pub fn finished(&mut self, ticket: u64) -> bool {
        if let Some(p) = self.queue.iter_mut().find(|p| p.ticket == ticket) {
            p.done = true;
        }
        self.advance()
    }
    /// A flush that was asked after every change below `ticket`, when the copy ended at `last`, is done.
    pub fn flushed(&mut self, ticket: u64, last: Seq) -> bool {
        for p in self.queue.iter_mut().filter(|p| p.ticket < ticket) {
            p.done = true;
            p.durable = true;
        }
        let moved = self.advance();
        self.durable = self.durable.max(last).min(self.held);
        moved
    }
    /// Answers are cumulative: only up to the first change that is not in.
    fn advance(&mut self) -> bool {
        let before = self.held;
        while self.queue.front().is_some_and(|p| p.done) {
            let Some(p) = self.queue.pop_front() else { break };
            if let Some(s) = p.ends {
                if p.durable && self.durable.next() == s {
                    self.durable = s;
                }
                self.held = s;
                self.durable = self.durable.min(s);
            }
        }
        self.held != before
    }
    /// Owes `asker` an answer when `due` is held.
    pub fn owe(&mut self, asker: Asker, due: Seq) {
        let o = self.owed.entry(asker.node).or_insert(Owed { asker, due });
        o.asker = asker;
        o.due = o.due.min(due);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn held_stops_at_the_first_change_that_is_not_in() {
        let mut l = Live::new(CopyId(1), Seq(0), Seq(0));
        l.submitted(1, None, false);
        for s in 1..=4 {
            l.submitted(s + 1, Some(Seq(s)), s % 2 == 1);
        }
        assert!(!l.finished(3));
        assert!(!l.finished(2));
        assert_eq!(l.held, Seq(0));
        assert!(l.finished(1));
        assert_eq!((l.held, l.durable), (Seq(2), Seq(1)), "record 2 was not asked to be durable");
        l.finished(5);
        assert_eq!(l.held, Seq(2));
        l.finished(4);
        assert_eq!((l.held, l.durable), (Seq(4), Seq(1)), "3 is durable, but 2 before it may not be");
        assert!(l.quiet());
    }

    #[test]
    fn a_flush_makes_all_before_it_held_and_durable() {
        let mut l = Live::new(CopyId(1), Seq(0), Seq(0));
        l.submitted(1, Some(Seq(1)), false);
        l.submitted(2, Some(Seq(2)), false);
        l.submitted(4, Some(Seq(3)), false);
        assert!(l.flushed(3, Seq(2)));
        assert_eq!((l.held, l.durable), (Seq(2), Seq(2)));
    }

    #[test]
    fn a_merge_may_end_a_copy_earlier() {
        let mut l = Live::new(CopyId(1), Seq(9), Seq(8));
        l.submitted(1, Some(Seq(7)), true);
        l.finished(1);
        assert_eq!((l.held, l.durable), (Seq(7), Seq(7)));
    }

    #[test]
    fn filled_blocks() {
        let mut f = Filled::default();
        f.put_range(BLOCK * 63, BLOCK * 3);
        assert!(f.has(63) && f.has(64) && f.has(65) && !f.has(62) && !f.has(66) && !f.has(1 << 18));
        assert!(f.has_range(BLOCK * 63, BLOCK * 3) && !f.has_range(BLOCK * 62, BLOCK * 2));
    }
}
