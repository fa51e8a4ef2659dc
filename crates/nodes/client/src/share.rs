//! A file that several clients write at once goes through one of them, the steward: here a sharer sends what its programs
//! want there, as it is, and learns what came of it. What was not answered when the steward is gone is asked again under the
//! same id, of the next steward, or carried out under a lease of its own if the copies do not know it.

use crate::change::{Change, Waiting};
use crate::file::File;
use crate::op::{Op, OpKind};
use crate::{Client, ClientAnswer, ClientError};
use bytes::Bytes;
use host::node::Effects;
use marks::mark;
use std::collections::VecDeque;
use types::{BLOCK, ChunkId, Incarnation, InodeId, Layout, LeaseEpoch, Nanos, NodeId, OpId};
use wire::names::{Attr, MetaError};
use wire::share::{Begun, Placed, ShareCtl, ShareError, ShareMsg, ShareOp, ShareSaid};
use wire::{LeaseKind, Msg};

/// Operations that a sharer may have under way with stewards, all files together.
const SLOTS: usize = 32;
/// What is not answered is sent again after this …
const AGAIN: Nanos = Nanos::from_millis(500);
/// … and a steward that answers nothing for so long is given up: the group takes the file from it.
const SILENT: Nanos = Nanos::from_secs(2);
/// Longest range that is compared and written: what is expected and what is written go into one message.
const COMPARE_MAX: u32 = 256 << 10;
/// A share whose steward carries nothing out, perhaps because it is about to give the file back, is tried again after this.
const PAUSE: Nanos = Nanos::from_millis(10);
/// With so many records of earlier leases a file is flushed, so that they can be forgotten.
const BEFORE_MAX: usize = 64;
/// Longest read in one piece.
const READ_MAX: u32 = 1 << 20;

/// Where the operations on a file go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shared {
    pub epoch: LeaseEpoch,
    pub steward: Incarnation,
    pub begun: Begun,
    /// When it answered last, or was named.
    pub heard: Nanos,
    /// Nothing is asked before.
    pub from: Nanos,
    /// It refuses what it is asked: the share is over when the rest is answered.
    pub over: bool,
}

/// Something that a steward is to do, or has done without having said so.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    ticket: u64,
    op: OpId,
    what: ShareOp,
    data: Bytes,
    since: Nanos,
    begun: Begun,
    /// ZERO = not yet.
    sent: Nanos,
    /// Another steward may have carried it out before.
    open: bool,
    attempt: u32,
}

/// The operation under which a change went to a steward that is gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Tried {
    pub op: OpId,
    /// The file was at least so long then.
    pub after: u64,
    pub begun: Begun,
    /// A part of an operation that counts it as begun.
    pub part: bool,
    /// It has been on its way.
    pub sent: bool,
    /// As the next message says.
    pub attempt: u32,
}

/// Ids of operations: what is under way in each slot.
#[derive(Debug, Default)]
pub(crate) struct Slots(Vec<(u32, u64)>);

impl Client {
    /// The most that goes into one operation: with the blocks that it covers in part it is one record.
    pub(crate) fn share_max(&self) -> u32 {
        self.cfg.record_max.min(1 << 20) - BLOCK
    }
    /// The most that can be compared and written.
    pub(crate) fn compare_max(&self) -> u32 {
        self.share_max().min(COMPARE_MAX)
    }
    /// The lease to ask for: one's own, or whichever way is quicker.
    pub(crate) fn way(&self, ino: InodeId, wants: LeaseKind) -> LeaseKind {
        let Some(f) = self.files.get(&ino) else { return wants };
        if f.alone && wants == LeaseKind::Read && self.cfg.shares {
            return LeaseKind::Write; // one for reading is not had beside a steward
        }
        let shares = self.cfg.shares && !f.alone && wants == LeaseKind::Write && !f.dirty() && f.pieces.is_empty();
        let short = |w: &Waiting| matches!(&w.change, Change::Write { .. } | Change::CompareWrite { .. });
        if shares && f.limbo.is_empty() && f.waiting.iter().all(short) { LeaseKind::Shared } else { wants }
    }

    /// The group says who writes the file for all.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn shared(
        &mut self,
        ino: InodeId,
        share: LeaseEpoch,
        steward: Incarnation,
        addr: String,
        attr: &Attr,
        layout: Layout,
        chunks: ChunkId,
        fx: &mut Effects,
    ) {
        if self.cfg.steward {
            return self.not_steward(ino);
        }
        let now = self.now;
        if !share.is_some() || self.outdated(share.term()) || !self.cfg.shares {
            return;
        }
        let f = self.file(ino);
        f.asking = None;
        self.dirty.insert(ino);
        let f = self.file(ino);
        if let Some(l) = &f.lease {
            // The steward writes only when nobody reads by a lease of his own.
            f.recalled |= l.kind == LeaseKind::Read;
            return;
        }
        if f.shared.is_some_and(|s| s.epoch >= share) {
            return;
        }
        if !addr.is_empty() {
            fx.address.push((NodeId::Client(steward), addr));
        }
        self.give_up_steward(ino, false);
        let f = self.file(ino);
        f.layout = layout;
        let begun = Begun { truncate_gen: attr.truncate_gen, chunks };
        let from = if f.refused == share { now + PAUSE } else { now };
        f.shared = Some(Shared { epoch: share, steward, begun, heard: from, from, over: false });
        f.known_end = attr.size;
        self.unplan_reads(ino);
        mark!("client.shares");
    }

    /// Does what a shared file allows.
    pub(crate) fn forward(&mut self, ino: InodeId, fx: &mut Effects) {
        let from = self.files.get(&ino).and_then(|f| f.shared).map_or(Nanos::ZERO, |s| s.from);
        if self.now < from {
            self.wake = self.wake.min(from);
            return;
        }
        if self.files.get(&ino).and_then(|f| f.shared).is_some_and(|s| s.over) {
            if self.files.get(&ino).is_some_and(|f| f.parts.is_empty()) {
                self.give_up_steward(ino, false);
            }
            return self.send_parts(ino, fx);
        }
        while self.take_change_to_share(ino) {}
        while self.take_read_to_share(ino) {}
        self.take_flush_to_share(ino);
        self.send_parts(ino, fx);
        let Some(f) = self.files.get(&ino) else { return };
        let waits = f.waits_for() != LeaseKind::None;
        if f.parts.is_empty() && waits && self.slots_free() > 0 {
            // What waits takes a lease.
            self.give_up_steward(ino, true);
            self.dirty.insert(ino);
        } else if f.parts.is_empty() && f.closing && !waits {
            self.give_up_steward(ino, false);
            self.dirty.insert(ino);
        }
    }
    fn slots_free(&self) -> usize {
        let busy = self.share_slots.0.iter().filter(|(_, t)| self.ops.contains_key(t)).count();
        SLOTS - busy.min(SLOTS)
    }
    fn slot(&mut self, ticket: u64) -> OpId {
        let session = self.link.session;
        let free = self.share_slots.0.iter().position(|(_, t)| !self.ops.contains_key(t));
        let i = free.unwrap_or_else(|| {
            self.share_slots.0.push((0, 0));
            self.share_slots.0.len() - 1
        });
        let s = &mut self.share_slots.0[i];
        *s = (s.0 + 1, ticket);
        OpId { session, slot: i as u16, seq: s.0 }
    }
    /// A slot is free although its operation goes on elsewhere.
    fn free_slot(&mut self, op: OpId) {
        if let Some(s) = self.share_slots.0.get_mut(usize::from(op.slot)) {
            s.1 = 0;
        }
    }

    fn take_change_to_share(&mut self, ino: InodeId) -> bool {
        let (most, free) = (self.share_max(), self.slots_free());
        let Some(f) = self.files.get(&ino) else { return false };
        let Some(w) = f.waiting.front() else { return false };
        let (ticket, since, tried) = (w.ticket, w.since, w.tried);
        let log2 = f.layout.chunk_log2;
        let parts = match &w.change {
            Change::Write { at: None, data, .. } if data.len() > most as usize || data.is_empty() => return false,
            Change::Write { at: None, data, .. } => {
                let after = tried.map_or(f.known_end, |t| t.after);
                vec![(ShareOp::Append { after }, data.clone())]
            }
            Change::Write { at: Some(at), data, .. } => pieces(*at, data.clone(), log2, most),
            Change::CompareWrite { offset, data, .. } if pieces(*offset, data.clone(), log2, most).len() != 1 => {
                return false;
            }
            Change::CompareWrite { offset, expected, data } => {
                vec![(ShareOp::CompareWrite { offset: *offset }, [&expected[..], &data[..]].concat().into())]
            }
            _ => return false,
        };
        // What was tried before has its slot.
        if (tried.is_none() && parts.len() > free) || parts.is_empty() {
            return false;
        }
        if let Some(f) = self.files.get_mut(&ino) {
            f.waiting.pop_front();
        }
        let counted = usize::from(tried.is_some_and(|t| t.part));
        if let Some(op) = self.ops.get_mut(&ticket) {
            op.left += parts.len() - counted;
        }
        let now = self.begun(ino);
        for (what, data) in parts {
            let op = tried.map_or_else(|| self.slot(ticket), |t| t.op);
            let begun = tried.filter(|t| t.sent).map_or(now, |t| t.begun);
            let (open, attempt) = tried.map_or((false, 0), |t| (t.sent, t.attempt));
            self.file(ino).parts.push(Part { ticket, op, what, data, since, begun, sent: Nanos::ZERO, open, attempt });
        }
        true
    }
    fn take_read_to_share(&mut self, ino: InodeId) -> bool {
        if self.slots_free() == 0 {
            return false;
        }
        let Some(ticket) = self.files.get(&ino).and_then(|f| f.waiting_reads.front()).copied() else { return false };
        let Some(op) = self.ops.get(&ticket) else {
            self.file(ino).waiting_reads.pop_front();
            return true;
        };
        let OpKind::Read { offset, wanted, since, .. } = op.kind else { return false };
        if wanted > READ_MAX {
            return false;
        }
        self.file(ino).waiting_reads.pop_front();
        let op = self.slot(ticket);
        let what = ShareOp::Read { offset, length: wanted };
        let (data, begun) = (Bytes::new(), self.begun(ino));
        self.file(ino).parts.push(Part {
            ticket,
            op,
            what,
            data,
            since,
            begun,
            sent: Nanos::ZERO,
            open: false,
            attempt: 0,
        });
        true
    }
    fn take_flush_to_share(&mut self, ino: InodeId) {
        let Some(f) = self.files.get(&ino) else { return };
        let under_way = f.parts.iter().any(|p| matches!(p.what, ShareOp::Flush { .. }));
        if !f.flush_wants || under_way || self.slots_free() == 0 {
            return;
        }
        let place = |(c, u): (&types::ChunkId, &(LeaseEpoch, types::Seq))| Placed {
            chunk: *c,
            index: f.indices.get(c).copied().unwrap_or(0),
            epoch: u.0,
            record: u.1,
        };
        let records = f.unflushed_before.iter().copied().chain(f.unflushed.iter().map(place)).collect();
        let what = ShareOp::Flush { records };
        let ticket = self.own_ticket();
        self.ops.insert(ticket, Op { left: 1, kind: OpKind::Call, error: None });
        let op = self.slot(ticket);
        let (data, since, begun) = (Bytes::new(), self.now, self.begun(ino));
        self.file(ino).parts.push(Part {
            ticket,
            op,
            what,
            data,
            since,
            begun,
            sent: Nanos::ZERO,
            open: false,
            attempt: 0,
        });
    }
    fn begun(&self, ino: InodeId) -> Begun {
        self.files.get(&ino).and_then(|f| f.shared).map_or(Begun::default(), |s| s.begun)
    }
    /// Sends what was not sent, and again what was not answered.
    fn send_parts(&mut self, ino: InodeId, fx: &mut Effects) {
        let now = self.now;
        let Some(f) = self.files.get_mut(&ino) else { return };
        let Some(s) = f.shared else { return };
        for p in f.parts.iter_mut().filter(|p| p.sent == Nanos::ZERO || now.since(p.sent) >= AGAIN) {
            p.sent = now;
            let ctl = ShareCtl::Ask(p.what.clone());
            let m = ShareMsg::bare(ino, s.epoch, p.op, s.begun.truncate_gen, ctl).with(p.data.clone());
            let m = ShareMsg { begun: p.begun, attempt: p.attempt, ..m };
            fx.send.push((NodeId::Client(s.steward), Msg::Share(m)));
        }
        self.wake = self.wake.min(now + Nanos::from_millis(20));
    }

    /// The steward says what came of an operation.
    pub(crate) fn steward_said(&mut self, from: Incarnation, m: ShareMsg, said: ShareSaid) {
        let now = self.now;
        let Some(f) = self.files.get_mut(&m.ino) else { return };
        let Some(s) = f.shared.as_mut().filter(|s| (s.epoch, s.steward) == (m.share, from)) else { return };
        let Some(i) = f.parts.iter().position(|p| (p.op, p.attempt) == (m.op, m.attempt)) else { return };
        s.heard = now;
        self.dirty.insert(m.ino);
        match said {
            ShareSaid::Over => {
                f.refused = m.share;
                return self.give_up_steward(m.ino, false);
            }
            ShareSaid::Alone => return self.give_up_steward(m.ino, true),
            ShareSaid::Refused => {
                mark!("client.share-refused");
                s.over = true;
                f.refused = m.share;
                let part = f.parts.remove(i);
                return self.put_back(m.ino, Part { sent: Nanos::ZERO, ..part });
            }
            _ if !m.is_intact() => return, // asked again
            _ => {}
        }
        let part = f.parts.remove(i);
        self.free_slot(part.op);
        match (said, part.what) {
            (
                ShareSaid::Written { at, end, placed },
                ShareOp::Write { .. } | ShareOp::Append { .. } | ShareOp::CompareWrite { .. },
            ) => {
                f_note(self.file(m.ino), end, placed);
                self.unsynced.insert(m.ino);
                self.place(part.ticket, at);
                self.op_part_done(part.ticket, None);
            }
            (ShareSaid::Differs { at }, ShareOp::CompareWrite { .. }) => {
                self.answer(part.ticket, Ok(ClientAnswer::Differs(at)));
            }
            (ShareSaid::Read, ShareOp::Read { length, .. }) if m.payload.len() <= length as usize => {
                self.stats.reads += 1;
                self.answer(part.ticket, Ok(ClientAnswer::Data(m.payload)));
            }
            (ShareSaid::Flushed, ShareOp::Flush { records }) => {
                self.ops.remove(&part.ticket);
                let f = self.file(m.ino);
                f.unflushed_before.retain(|p| !records.contains(p));
                for r in records {
                    if f.unflushed.get(&r.chunk).is_some_and(|u| *u <= (r.epoch, r.record)) {
                        f.unflushed.remove(&r.chunk);
                    }
                }
                f.flush_wants = false;
            }
            (ShareSaid::Failed(_), ShareOp::Flush { records }) => {
                self.ops.remove(&part.ticket);
                mark!("client.loss-told-by-steward");
                let f = self.file(m.ino);
                f.unflushed.retain(|c, _| records.iter().all(|r| r.chunk != *c));
                f.unflushed_before.retain(|p| !records.contains(p));
                f.failed = f.failed.or(Some(ClientError::WritesLost));
                f.flush_wants = false;
            }
            (ShareSaid::Failed(e), ShareOp::Read { .. }) => self.end_read(part.ticket, Some(share_error(e))),
            (ShareSaid::Failed(e), _) => self.op_part_done(part.ticket, Some(share_error(e))),
            // Nothing that this program sends: the operation fails rather than hangs.
            (_, ShareOp::Flush { .. }) => drop(self.ops.remove(&part.ticket)),
            (_, ShareOp::Read { .. }) => self.end_read(part.ticket, Some(ClientError::LeaseLost)),
            _ => self.op_part_done(part.ticket, Some(ClientError::LeaseLost)),
        }
    }

    /// The steward is gone, or has no more to say: what it did not answer is asked again elsewhere. `alone`: under a lease
    /// of one's own.
    pub(crate) fn give_up_steward(&mut self, ino: InodeId, alone: bool) {
        let Some(f) = self.files.get_mut(&ino) else { return };
        f.shared = None;
        f.alone |= alone;
        let parts = std::mem::take(&mut f.parts);
        parts.into_iter().rev().for_each(|p| self.put_back(ino, p));
        self.dirty.insert(ino);
    }
    /// It waits again for somebody to carry it out.
    fn put_back(&mut self, ino: InodeId, p: Part) {
        let write = |at, data| Change::Write { at, data, buffered: false };
        let (change, after) = match p.what {
            ShareOp::Flush { .. } => return drop(self.ops.remove(&p.ticket)),
            ShareOp::Read { .. } => {
                self.free_slot(p.op);
                return self.file(ino).waiting_reads.push_front(p.ticket);
            }
            ShareOp::Write { offset } => (write(Some(offset), p.data), offset),
            ShareOp::CompareWrite { offset } => (halves(offset, p.data), offset),
            ShareOp::Append { after } => (write(None, p.data), after),
        };
        let (sent, attempt) = (p.open || p.sent != Nanos::ZERO, p.attempt.wrapping_add(1));
        let tried = Some(Tried { op: p.op, after, begun: p.begun, part: true, sent, attempt });
        self.file(ino).waiting.push_front(Waiting { ticket: p.ticket, since: p.since, change, tried });
    }
    /// Time has passed for a shared file.
    pub(crate) fn tick_share(&mut self, ino: InodeId) {
        let now = self.now;
        let silent = |f: &File| {
            let oldest = f.parts.iter().filter(|p| p.sent != Nanos::ZERO).map(|p| p.since).min();
            let waits = oldest.is_some_and(|t| now.since(t) >= SILENT);
            waits && f.shared.is_some_and(|s| now.since(s.heard) >= SILENT)
        };
        if self.files.get(&ino).is_some_and(silent) {
            mark!("client.steward-silent");
            self.give_up_steward(ino, true);
        }
    }
    /// The connection to another client broke: if it is a steward, everything that went there is asked elsewhere.
    pub(crate) fn steward_reset(&mut self, steward: Incarnation) {
        let through = |f: &File| f.shared.is_some_and(|s| s.steward == steward);
        let files: Vec<InodeId> = self.files.iter().filter(|(_, f)| through(f)).map(|(ino, _)| *ino).collect();
        for ino in files {
            mark!("client.steward-lost");
            // It may be dead, and the group not know it yet: who wants the file for himself makes it find out.
            self.give_up_steward(ino, true);
        }
    }
    /// Shares are the word of one leader, and others have to hold the file before locks of the dead are free: with the
    /// leader they end.
    pub(crate) fn leave_shares(&mut self) {
        let files: Vec<InodeId> = self.files.iter().filter(|(_, f)| f.shared.is_some()).map(|(ino, _)| *ino).collect();
        files.into_iter().for_each(|ino| self.give_up_steward(ino, false));
    }
    /// What went to stewards under a session that is over: nobody knows whether it happened.
    pub(crate) fn parts_lost(&mut self, ino: InodeId) {
        self.give_up_steward(ino, false);
        let Some(f) = self.files.get_mut(&ino) else { return };
        let lost: Vec<u64> =
            take_out(&mut f.waiting, |w| w.tried.is_some_and(|t| t.sent)).into_iter().map(|w| w.ticket).collect();
        for ticket in lost {
            self.answer(ticket, Err(ClientError::SessionLost));
        }
    }
}

fn f_note(f: &mut File, end: u64, p: Placed) {
    f.known_end = f.known_end.max(end);
    if let Some((epoch, record)) = f.unflushed.get(&p.chunk).copied().filter(|u| u.0 < p.epoch) {
        f.unflushed_before.push(Placed { epoch, record, ..p });
        f.flush_wants |= f.unflushed_before.len() > BEFORE_MAX;
    }
    f.note_unflushed(p);
}

fn share_error(e: ShareError) -> ClientError {
    match e {
        ShareError::NoSpace => ClientError::Meta(MetaError::NoSpace),
        ShareError::TooLarge => ClientError::Meta(MetaError::TooLarge),
        ShareError::DataLost => ClientError::DataLost,
        ShareError::WritesLost => ClientError::WritesLost,
        ShareError::Invalid => ClientError::Meta(MetaError::Invalid),
    }
}

/// What is to be compared and written, as it goes in one message: what is expected, then what is written.
pub(crate) fn halves(offset: u64, both: Bytes) -> Change {
    let mut expected = both;
    let data = expected.split_off(expected.len() / 2);
    Change::CompareWrite { offset, expected, data }
}

/// A write in parts, each within one chunk and no longer than `most`.
fn pieces(mut at: u64, mut data: Bytes, chunk_log2: u8, most: u32) -> Vec<(ShareOp, Bytes)> {
    let mut parts = vec![];
    while !data.is_empty() {
        let to_end = (1u64 << chunk_log2) - (at & ((1 << chunk_log2) - 1));
        let n = (data.len() as u64).min(to_end).min(u64::from(most));
        parts.push((ShareOp::Write { offset: at }, data.split_to(n as usize)));
        at += n;
    }
    parts
}

/// Takes out of a queue what fits, in order.
fn take_out(queue: &mut VecDeque<Waiting>, mut fits: impl FnMut(&Waiting) -> bool) -> Vec<Waiting> {
    let mut out = vec![];
    for w in std::mem::take(queue) {
        if fits(&w) { out.push(w) } else { queue.push_back(w) }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_cut_at_chunks_and_at_their_longest() {
        let p = pieces((1 << 20) - 10, Bytes::from(vec![1; 100]), 20, 50);
        let of = |p: &(ShareOp, Bytes)| match p.0 {
            ShareOp::Write { offset } => (offset, p.1.len()),
            _ => (0, 0),
        };
        assert_eq!(p.iter().map(of).collect::<Vec<_>>(), [((1 << 20) - 10, 10), (1 << 20, 50), ((1 << 20) + 50, 40)]);
    }
}
