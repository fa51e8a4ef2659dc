//! The client that writes files for others. It stands beside a chunk server and does nothing until sharers ask it: then it
//! takes the lease on the file and carries their operations out in the order in which they come, under it as any writer
//! does. Each record names its operation, so that whoever writes after this one's death can tell what has happened.

use crate::change::{Change, Waiting};
use crate::op::{Op, OpKind};
use crate::share::{Tried, halves};
use crate::{Client, ClientAnswer, ClientError, ClientOp};
use bytes::Bytes;
use host::node::Effects;
use marks::mark;
use std::collections::BTreeMap;
use types::{Incarnation, InodeId, LeaseEpoch, Nanos, NodeId, OpId, SessionId};
use wire::names::MetaError;
use wire::share::{Placed, ShareCtl, ShareError, ShareMsg, ShareOp, ShareSaid};
use wire::{Msg, ToMds};

/// A sharer that was not heard of for so long shares no more; with less than two of them the file goes back.
const ACTIVE: Nanos = Nanos::from_secs(1);
/// Without any file for so long the session ends.
const DORMANT: Nanos = Nanos::from_secs(10);

/// What a sharer waits for.
#[derive(Debug)]
pub(crate) struct Asked {
    from: Incarnation,
    ino: InodeId,
    share: LeaseEpoch,
    op: OpId,
    attempt: u32,
    truncate_gen: u32,
    kind: Kind,
    /// A record was issued for it.
    pub issued: bool,
    /// Where it was written.
    pub placed: Option<Placed>,
    /// It takes a lease of the sharer's own.
    alone: bool,
}
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Write(u64),
    CompareWrite(u64),
    Append,
    Read,
    Flush,
}

/// What became here of the newest operation of a slot.
#[derive(Clone, Copy, Debug)]
struct Last {
    seq: u32,
    attempt: u32,
    /// It may have happened.
    open: bool,
    /// It has not happened, and never will: its sharer may have gone on, so a late message of it hears the same.
    said: Option<ShareSaid>,
}
/// So many slots are remembered; then those of the oldest sessions are forgotten.
const LASTS: usize = 1 << 16;

/// What a steward has to remember.
#[derive(Debug, Default)]
pub(crate) struct Stewardship {
    /// By ticket.
    pub asks: BTreeMap<u64, Asked>,
    slots: BTreeMap<(SessionId, u16), u64>,
    /// What was asked for last in each slot, in this life.
    lasts: BTreeMap<(SessionId, u16), Last>,
    /// The newest session of which something was forgotten.
    forgotten: SessionId,
    /// Who asked for something of a file, and when last.
    active: BTreeMap<InodeId, BTreeMap<SessionId, Nanos>>,
    /// Since when there is nothing to do.
    idle: Nanos,
}

impl Stewardship {
    /// Is it carried out, as far as this steward `may`? Otherwise what its sharer hears: whether it may have happened here is
    /// known of what was asked for in this life. An attempt that was refused stays so: whoever hears of it makes another one.
    fn judge(&mut self, m: &ShareMsg, may: bool) -> Option<ShareSaid> {
        let key = (m.op.session, m.op.slot);
        let last = self.lasts.get(&key).copied();
        if last.is_none()
            && self.lasts.len() >= LASTS
            && let Some(((session, _), _)) = self.lasts.pop_first()
        {
            self.forgotten = self.forgotten.max(session);
        }
        let answer = match last {
            // Its sharer has gone on since.
            Some(l) if l.seq > m.op.seq => return Some(ShareSaid::Over),
            Some(l) if l.seq == m.op.seq && l.said.is_some() => return l.said,
            Some(l) if l.seq == m.op.seq && l.open => return (!may).then_some(ShareSaid::Over),
            Some(l) if l.seq == m.op.seq && l.attempt >= m.attempt => return Some(ShareSaid::Refused),
            None if m.op.session <= self.forgotten => ShareSaid::Over,
            _ => ShareSaid::Refused,
        };
        let open = answer == ShareSaid::Over;
        self.lasts.insert(key, Last { seq: m.op.seq, attempt: m.attempt, open, said: None });
        (!may).then_some(answer)
    }
    /// Nothing of this operation is under way; of another one of its slot something may be.
    fn free_slot(&mut self, op: OpId, ticket: u64) {
        let key = (op.session, op.slot);
        if self.slots.get(&key) == Some(&ticket) {
            self.slots.remove(&key);
        }
    }
    /// It ends without an answer: has it certainly not happened here, now or before?
    fn not_here(&self, a: &Asked) -> bool {
        let last = self.lasts.get(&(a.op.session, a.op.slot)).filter(|l| l.seq == a.op.seq);
        last.is_some_and(|l| !l.open) && !a.issued && a.placed.is_none()
    }
    fn answered(&mut self, op: OpId, what: ShareSaid) {
        if let Some(l) = self.lasts.get_mut(&(op.session, op.slot)).filter(|l| l.seq == op.seq) {
            l.open |= what != ShareSaid::Refused;
            l.said = Some(what).filter(|w| matches!(w, ShareSaid::Differs { .. } | ShareSaid::Failed(_)));
        }
    }
}

impl Client {
    /// Something of a sharer.
    pub(crate) fn sharer_asks(&mut self, from: Incarnation, m: ShareMsg, what: ShareOp, fx: &mut Effects) {
        if !self.cfg.steward || !m.is_intact() || !m.op.session.is_some() {
            return;
        }
        let key = (m.op.session, m.op.slot);
        if let Some(a) = self.stewardship.slots.get(&key).and_then(|t| self.stewardship.asks.get_mut(t))
            && a.op.seq >= m.op.seq
        {
            a.from = from;
            return; // under way
        }
        let comparable = m.payload.len().is_multiple_of(2) && !m.payload.is_empty();
        if matches!(what, ShareOp::CompareWrite { .. }) && !comparable {
            return said(from, &m, ShareSaid::Failed(ShareError::Invalid), Bytes::new(), fx);
        }
        let may = self.may_carry_out(&m);
        if let Some(no) = self.stewardship.judge(&m, may) {
            mark!("steward.not-its-share");
            return said(from, &m, no, Bytes::new(), fx);
        }
        let now = self.now;
        let active = self.stewardship.active.entry(m.ino).or_default();
        active.insert(m.op.session, now);
        let ticket = self.id();
        let kind = match &what {
            ShareOp::Write { offset } => Kind::Write(*offset),
            ShareOp::CompareWrite { offset } => Kind::CompareWrite(*offset),
            ShareOp::Append { .. } => Kind::Append,
            ShareOp::Read { .. } => Kind::Read,
            ShareOp::Flush { .. } => Kind::Flush,
        };
        let (ino, share, op, attempt, truncate_gen) = (m.ino, m.share, m.op, m.attempt, m.truncate_gen);
        let asked =
            Asked { from, ino, share, op, attempt, truncate_gen, kind, issued: false, placed: None, alone: false };
        self.stewardship.asks.insert(ticket, asked);
        self.stewardship.slots.insert(key, ticket);
        self.file(ino).closing = false;
        match what {
            ShareOp::Write { offset } => self.carry_out_for(ticket, &m, write(Some(offset), &m), offset),
            ShareOp::CompareWrite { offset } => {
                self.carry_out_for(ticket, &m, halves(offset, m.payload.clone()), offset);
            }
            ShareOp::Append { after } => self.carry_out_for(ticket, &m, write(None, &m), after),
            ShareOp::Read { offset, length } => self.start(ticket, ClientOp::Read { ino, offset, length }, fx),
            ShareOp::Flush { records } => self.flush_for_sharer(ticket, ino, &records, fx),
        }
    }
    /// It holds the file for this sharer, or does not hold it yet.
    fn may_carry_out(&self, m: &ShareMsg) -> bool {
        let Some(f) = self.files.get(&m.ino) else { return true };
        let named = |share: LeaseEpoch| share == m.share || !self.cfg.rules.shares_named;
        match &f.lease {
            Some(l) => named(l.share) && f.truncate_gen == m.truncate_gen && !f.recalled && f.returning.is_none(),
            None => self.stewardship.asks.values().filter(|a| a.ino == m.ino).all(|a| a.share == m.share),
        }
    }
    fn carry_out_for(&mut self, ticket: u64, m: &ShareMsg, change: Change, after: u64) {
        let ino = m.ino;
        let kind = match change {
            Change::Write { at: None, .. } => OpKind::Append { ino, at: None, data: m.payload.clone(), whole: true },
            _ => OpKind::Write { ino },
        };
        self.ops.insert(ticket, Op { left: 0, kind, error: None });
        let tried = Tried { op: m.op, after, begun: m.begun, part: false, sent: true, attempt: m.attempt };
        let since = self.now;
        self.file(ino).waiting.push_back(Waiting { ticket, since, change, tried: Some(tried) });
        self.dirty.insert(ino);
    }
    fn flush_for_sharer(&mut self, ticket: u64, ino: InodeId, records: &[Placed], fx: &mut Effects) {
        let f = self.file(ino);
        let gone = |p: &Placed| {
            let taken = f.losses.iter().any(|l| l.chunk == p.chunk && l.took((p.epoch, p.record)));
            let at = f.sequencer(p.index).filter(|s| s.chunk() == p.chunk);
            taken || at.is_some_and(|s| p.record > s.done())
        };
        let lost = f.lease.is_some() && records.iter().any(gone);
        if lost {
            mark!("steward.sharer-lost-writes");
            self.ops.insert(ticket, Op { left: 1, kind: OpKind::Call, error: None });
            return self.op_part_done(ticket, Some(ClientError::WritesLost));
        }
        for p in records {
            f.note_unflushed(*p);
        }
        self.unsynced.insert(ino);
        self.start(ticket, ClientOp::Flush { ino: Some(ino) }, fx);
    }

    /// The lease is here, or another one: whoever was told of another share, or of a file that was cut since, asks the group.
    pub(crate) fn others_shares(&mut self, ino: InodeId) {
        let Some(f) = self.files.get(&ino) else { return };
        let Some(l) = &f.lease else { return };
        let (share, truncate_gen) = (l.share, f.truncate_gen);
        let named = self.cfg.rules.shares_named;
        let other = |a: &Asked| a.ino == ino && ((a.share != share && named) || a.truncate_gen != truncate_gen);
        let others: Vec<u64> = self.stewardship.asks.iter().filter(|(_, a)| other(a)).map(|(t, _)| *t).collect();
        if others.is_empty() {
            return;
        }
        let f = self.file(ino);
        f.waiting.retain(|w| !others.contains(&w.ticket));
        f.waiting_reads.retain(|t| !others.contains(t));
        for t in others {
            self.answer(t, Err(ClientError::LeaseLost));
        }
    }
    /// The group says that nobody shares this file here.
    pub(crate) fn not_steward(&mut self, ino: InodeId) {
        let Some(f) = self.files.get_mut(&ino) else { return };
        f.asking = None;
        if f.lease.is_none() {
            self.stewardship_over(ino);
        }
    }
    /// Without the lease nothing is carried out: sharers find somebody else.
    pub(crate) fn stewardship_over(&mut self, ino: InodeId) {
        self.fail_waiting(ino, ClientError::LeaseLost);
        let Some(f) = self.files.get_mut(&ino) else { return };
        f.flush_wants = false;
        // Sharers know what of it they were told.
        f.unflushed.clear();
        f.indices.clear();
        f.failed = None;
        f.closing = true;
        let asks: Vec<u64> = self.stewardship.asks.iter().filter(|(_, a)| a.ino == ino).map(|(t, _)| *t).collect();
        for t in asks {
            self.answer(t, Err(ClientError::LeaseLost));
        }
        self.stewardship.active.remove(&ino);
        self.dirty.insert(ino);
    }

    /// The group asks how far a file goes.
    pub(crate) fn tell_end(&mut self, ino: InodeId, epoch: LeaseEpoch, number: u64, fx: &mut Effects) {
        let (session, incarnation) = (self.link.session, self.cfg.incarnation);
        let held = self.files.get(&ino).filter(|f| f.epoch() == Some(epoch));
        if let Some(end) = held.map(|f| f.file_end(epoch)) {
            self.tell_leader(ToMds::Told { session, incarnation, number, end }, fx);
        }
    }
    /// Time has passed: a file that nobody shares any more goes back.
    pub(crate) fn tick_steward(&mut self, ino: InodeId) {
        let now = self.now;
        let Some(f) = self.files.get(&ino) else { return };
        let Some(l) = f.lease.as_ref().filter(|_| !f.closing) else { return };
        let active = self.stewardship.active.get(&ino);
        let sharers = active.map_or(0, |a| a.values().filter(|t| now.since(**t) < ACTIVE).count());
        if sharers < 2 && now.since(l.since) >= ACTIVE {
            mark!("steward.alone");
            self.file(ino).recalled = true;
            self.dirty.insert(ino);
        }
    }
    /// A steward without any file needs no session.
    pub(crate) fn dormant(&mut self) -> bool {
        if !self.cfg.steward {
            return false;
        }
        if !self.files.is_empty() || !self.ops.is_empty() {
            self.stewardship.idle = self.now;
            return false;
        }
        !self.link.attached() || self.now.since(self.stewardship.idle) >= DORMANT
    }

    /// Tells sharers what has come of what they asked for.
    pub(crate) fn answer_sharers(&mut self, fx: &mut Effects) {
        for (ticket, result) in self.finished() {
            let Some(a) = self.stewardship.asks.remove(&ticket) else { continue };
            self.stewardship.free_slot(a.op, ticket);
            let end = self.files.get(&a.ino).map_or(0, |f| f.end());
            let not_here = self.stewardship.not_here(&a);
            let written = |at| a.placed.map_or(ShareSaid::Over, |placed| ShareSaid::Written { at, end, placed });
            let mut bytes = Bytes::new();
            let what = match (result, a.kind) {
                _ if a.alone => ShareSaid::Alone,
                (Ok(ClientAnswer::Data(b)), Kind::Read) => {
                    bytes = b;
                    ShareSaid::Read
                }
                (Ok(ClientAnswer::Done), Kind::Flush) => ShareSaid::Flushed,
                (Ok(ClientAnswer::Done), Kind::Write(at) | Kind::CompareWrite(at)) => written(at),
                (Ok(ClientAnswer::Differs(at)), Kind::CompareWrite(_)) => ShareSaid::Differs { at },
                (Ok(ClientAnswer::Placed(at)), Kind::Append) => written(at),
                (Err(ClientError::Meta(MetaError::NoSpace)), _) => ShareSaid::Failed(ShareError::NoSpace),
                (Err(ClientError::Meta(MetaError::Invalid)), _) => ShareSaid::Failed(ShareError::Invalid),
                (Err(ClientError::Meta(MetaError::TooLarge)), _) => ShareSaid::Failed(ShareError::TooLarge),
                (Err(ClientError::DataLost), _) => ShareSaid::Failed(ShareError::DataLost),
                (Err(ClientError::WritesLost), Kind::Flush) => ShareSaid::Failed(ShareError::WritesLost),
                _ if not_here => ShareSaid::Refused,
                _ => ShareSaid::Over,
            };
            self.stewardship.answered(a.op, what);
            let m = ShareMsg::bare(a.ino, a.share, a.op, a.truncate_gen, ShareCtl::Answer(what)).with(bytes);
            fx.send.push((NodeId::Client(a.from), Msg::Share(ShareMsg { attempt: a.attempt, ..m })));
        }
    }
    /// An operation was found among those that have happened.
    pub(crate) fn found_done(&mut self, ticket: u64, placed: Placed) {
        mark!("client.operation-had-happened");
        if let Some(a) = self.stewardship.asks.get_mut(&ticket) {
            a.placed = Some(placed);
        }
    }
    /// What a sharer asks for takes a lease of its own.
    pub(crate) fn takes_own_lease(&mut self, ticket: u64) {
        if let Some(a) = self.stewardship.asks.get_mut(&ticket) {
            a.alone = true;
        }
    }
    /// A repeated message of an operation whose sharer has gone on since.
    pub(crate) fn outdated_ask(&mut self, ticket: u64) {
        mark!("steward.outdated");
        self.ops.remove(&ticket);
        if let Some(a) = self.stewardship.asks.remove(&ticket) {
            self.stewardship.free_slot(a.op, ticket);
        }
    }
}

fn write(at: Option<u64>, m: &ShareMsg) -> Change {
    Change::Write { at, data: m.payload.clone(), buffered: false }
}
fn said(from: Incarnation, m: &ShareMsg, what: ShareSaid, bytes: Bytes, fx: &mut Effects) {
    let answer = ShareMsg::bare(m.ino, m.share, m.op, m.truncate_gen, ShareCtl::Answer(what)).with(bytes);
    fx.send.push((NodeId::Client(from), Msg::Share(ShareMsg { attempt: m.attempt, ..answer })));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_refused_is_never_carried_out() {
        let mut s = Stewardship::default();
        let ask = |slot, seq, attempt| {
            let op = OpId { session: SessionId(7), slot, seq };
            let ask = ShareCtl::Ask(ShareOp::Append { after: 0 });
            ShareMsg { attempt, ..ShareMsg::bare(InodeId(2), LeaseEpoch(5), op, 0, ask) }
        };
        assert_eq!(s.judge(&ask(0, 1, 0), false), Some(ShareSaid::Refused));
        assert_eq!(s.judge(&ask(0, 1, 0), true), Some(ShareSaid::Refused), "it came twice");
        assert_eq!(s.judge(&ask(0, 1, 1), true), None, "asked for anew");
        s.answered(ask(0, 1, 1).op, ShareSaid::Refused);
        assert_eq!(s.judge(&ask(0, 1, 1), true), Some(ShareSaid::Refused));
        assert_eq!(s.judge(&ask(0, 1, 0), true), Some(ShareSaid::Refused), "late");
        assert_eq!(s.judge(&ask(0, 1, 2), true), None);
        s.answered(ask(0, 1, 2).op, ShareSaid::Over);
        assert_eq!(s.judge(&ask(0, 1, 3), false), Some(ShareSaid::Over), "it may have happened");
        assert_eq!(s.judge(&ask(0, 1, 3), true), None, "and is looked up");
        assert_eq!(s.judge(&ask(0, 2, 0), false), Some(ShareSaid::Refused), "the next one");
        assert_eq!(s.judge(&ask(0, 1, 3), true), Some(ShareSaid::Over), "its sharer has gone on");
        assert_eq!(s.judge(&ask(0, 3, 0), true), None);
        s.answered(ask(0, 3, 0).op, ShareSaid::Differs { at: 4 });
        assert_eq!(s.judge(&ask(0, 3, 0), true), Some(ShareSaid::Differs { at: 4 }), "whatever stands there now");
        assert_eq!(s.judge(&ask(0, 1, 4), false), Some(ShareSaid::Over), "long past");
        s.forgotten = SessionId(7);
        assert_eq!(s.judge(&ask(1, 1, 0), false), Some(ShareSaid::Over), "nobody knows");
        assert_eq!(s.judge(&ask(1, 1, 1), false), Some(ShareSaid::Over));
    }
}
