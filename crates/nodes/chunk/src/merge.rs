//! Merges and replacements: a copy takes over what the winner of a takeover holds.

use crate::pull::{Phase, Pull, Purpose};
use crate::server::{ChunkServer, Then};
use chunk_store::{Extent, StoreError};
use host::node::Effects;
use marks::mark;
use replica::copy::TAIL_BYTES_MAX;
use replica::member::{lost, report, union};
use replica::orders::{ConvergeVerdict, ReplaceVerdict, converged, replaced};
use types::{ChunkId, CopyId, LeaseEpoch, Member, NodeId, Seq, SessionId, ViewVer};
use wire::{CopyReq, CsToMds, Msg, OpDone, RangeRec};

/// A merge as the group asks for it.
pub(crate) struct Converge {
    pub chunk: ChunkId,
    pub epoch: LeaseEpoch,
    pub copy: CopyId,
    pub winner: Member,
    pub last: Seq,
    pub ranges: Vec<RangeRec>,
    /// Operations of sharers that the winner remembers.
    pub ops: Vec<OpDone>,
}
/// A replacement as the group asks for it.
pub(crate) struct Replace {
    pub chunk: ChunkId,
    pub epoch: LeaseEpoch,
    pub copy: CopyId,
    pub supersedes: CopyId,
    pub source: Member,
}

/// The request under which a copy is fetched for the group. Its epoch is the fence's, which the source has promised, so
/// `stable` is not compared.
fn fetch(chunk: ChunkId, copy: CopyId, epoch: LeaseEpoch) -> CopyReq {
    CopyReq {
        chunk,
        copy,
        member: true,
        session: SessionId::GROUP,
        epoch,
        ver: ViewVer(0),
        short: true, // says nothing of the view
        stable: Seq(0),
        flushed: Seq(0),
        stamp: 0,
    }
}

impl ChunkServer {
    /// Nothing of the copy is on its way into the store.
    fn settled(&mut self, chunk: ChunkId) -> bool {
        self.live_of(chunk).is_none_or(|l| l.quiet())
    }

    pub(crate) fn converge(&mut self, reply: NodeId, c: Converge, fx: &mut Effects) {
        let Some(ranges) = union(&c.ranges, TAIL_BYTES_MAX) else {
            mark!("merge.foreign-ranges");
            self.note(format!("{}: merge under {} refused: its ranges are not those of records", c.chunk, c.epoch));
            return self.send_converged(reply, c.chunk, c.copy, c.epoch, false, fx);
        };
        let me = self.cfg.cs;
        match self.seat(c.chunk).converge(me, c.epoch, c.copy, c.winner, c.last, &ranges) {
            ConvergeVerdict::Ignore => {}
            ConvergeVerdict::Fail => self.send_converged(reply, c.chunk, c.copy, c.epoch, false, fx),
            // In memory it may be in before it is durable; then its own completion answers.
            ConvergeVerdict::Done if self.settled(c.chunk) => {
                self.send_converged(reply, c.chunk, c.copy, c.epoch, true, fx)
            }
            ConvergeVerdict::Done => {}
            ConvergeVerdict::Keep => {
                let taken = self.end_merge(c.chunk, c.epoch, c.last, &ranges, &c.ops, Vec::new(), reply);
                self.merge_taken(reply, c.chunk, c.copy, c.epoch, taken, fx);
            }
            ConvergeVerdict::Pull => {
                let running = self.pulls.get(&c.chunk);
                let merge = |p: &Pull| matches!(p.purpose, Purpose::Converge { .. });
                if running.is_some_and(|p| p.epoch == c.epoch && p.to == c.copy && merge(p)) {
                    return;
                }
                let (last, staged) = (c.last, Vec::new());
                let purpose = Purpose::Converge { reply, last, ranges: ranges.clone(), ops: c.ops, staged };
                let req = fetch(c.chunk, c.copy, c.epoch);
                let mut p = Pull::new(&req, vec![c.winner], purpose, Phase::Data);
                p.plan(&ranges);
                self.pulls.insert(c.chunk, p);
            }
        }
    }
    /// Only without the rule of one record: a piece of a merge enters the copy when it comes.
    pub(crate) fn merge_early(&mut self, chunk: ChunkId, parts: Vec<Extent>) {
        if !self.cfg.rules.merge_in_one_record
            && let Err(e) = self.patch(chunk, None, parts, false, None, Then::Nothing)
        {
            self.refused(&e);
        }
    }
    /// All ranges are staged: they, `last`, tail and epoch enter in one record, so that no crash leaves a part of them.
    pub(crate) fn apply_merge(&mut self, chunk: ChunkId, fx: &mut Effects) {
        let Some(p) = self.pulls.remove(&chunk) else { return };
        let Purpose::Converge { reply, last, ranges, ops, mut staged } = p.purpose else { return };
        let winner = match p.sources.first() {
            Some(w) => *w,
            None => return,
        };
        // The fence may have been overtaken while the pieces came.
        match self.seat(chunk).converge(self.cfg.cs, p.epoch, p.to, winner, last, &ranges) {
            ConvergeVerdict::Pull => {}
            ConvergeVerdict::Ignore => {
                mark!("merge.overtaken");
                return;
            }
            _ => return self.send_converged(reply, chunk, p.to, p.epoch, false, fx),
        }
        staged.sort_by_key(|e| e.offset);
        let taken = self.end_merge(chunk, p.epoch, last, &ranges, &ops, staged, reply);
        self.merge_taken(reply, chunk, p.to, p.epoch, taken, fx);
    }
    #[allow(clippy::too_many_arguments)]
    fn end_merge(
        &mut self,
        chunk: ChunkId,
        epoch: LeaseEpoch,
        last: Seq,
        ranges: &[(u32, u32)],
        ops: &[OpDone],
        staged: Vec<Extent>,
        reply: NodeId,
    ) -> Result<(), StoreError> {
        let Some(c) = self.store.copy(chunk) else { return Err(StoreError::NoCopy(chunk)) };
        let state = converged(&self.cfg.rules, c, epoch, last, ranges, ops);
        self.patch(chunk, Some(state), staged, true, Some(last), Then::Converged { reply, epoch })?;
        if let Some(l) = self.live_of(chunk) {
            l.filled = None;
        }
        Ok(())
    }
    fn merge_taken(
        &mut self,
        reply: NodeId,
        chunk: ChunkId,
        copy: CopyId,
        epoch: LeaseEpoch,
        taken: Result<(), StoreError>,
        fx: &mut Effects,
    ) {
        if let Err(e) = taken {
            // A full journal is asked again by the group; anything else ends this attempt.
            if self.refused(&e).is_some() {
                self.note(format!("{chunk}: merge under {epoch} failed: {e}"));
                self.send_converged(reply, chunk, copy, epoch, false, fx);
            }
        }
    }
    pub(crate) fn send_converged(
        &mut self,
        reply: NodeId,
        chunk: ChunkId,
        copy: CopyId,
        epoch: LeaseEpoch,
        ok: bool,
        fx: &mut Effects,
    ) {
        let msg = CsToMds::Converged { cs: self.cfg.cs, chunk, copy, epoch, ok };
        fx.send.push((reply, Msg::CsToMds(msg)));
    }

    pub(crate) fn replace(&mut self, reply: NodeId, r: Replace, fx: &mut Effects) {
        let running = |p: &Pull| p.to == r.copy && p.epoch == r.epoch && matches!(p.purpose, Purpose::Replace { .. });
        if self.pulls.get(&r.chunk).is_some_and(running) {
            return;
        }
        let me = self.cfg.cs;
        let verdict = self.seat(r.chunk).replace(r.chunk, me, r.epoch, r.copy, r.supersedes, r.source);
        let taken = match verdict {
            ReplaceVerdict::Ignore => Ok(()),
            ReplaceVerdict::Fail => return self.send_replaced(reply, r.chunk, r.copy, r.epoch, false, fx),
            ReplaceVerdict::Done => {
                if self.settled(r.chunk) {
                    self.send_replaced(reply, r.chunk, r.copy, r.epoch, true, fx);
                }
                Ok(())
            }
            ReplaceVerdict::Adopt(state) => {
                let then = Then::Replaced { reply, epoch: r.epoch };
                self.pulls.remove(&r.chunk);
                self.patch(r.chunk, Some(state), Vec::new(), true, None, then)
            }
            ReplaceVerdict::Copy(fresh) => {
                let taken = self.put_fresh(fresh, Then::ReplaceBegun);
                if taken.is_ok() {
                    let purpose = Purpose::Replace { reply, state: None };
                    let req = fetch(r.chunk, r.copy, r.epoch);
                    self.pulls.insert(r.chunk, Pull::new(&req, vec![r.source], purpose, Phase::Begin));
                }
                taken
            }
        };
        if let Err(e) = taken
            && self.refused(&e).is_some()
        {
            self.note(format!("{}: replacement under {} failed: {e}", r.chunk, r.epoch));
            self.send_replaced(reply, r.chunk, r.copy, r.epoch, false, fx);
        }
    }
    pub(crate) fn replace_begun(&mut self, chunk: ChunkId, copy: CopyId) {
        if let Some(p) = self.pulls.get_mut(&chunk).filter(|p| p.to == copy && p.phase == Phase::Begin) {
            p.enter(Phase::State);
        }
    }
    /// Everything of the source is here and flushed: the copy takes over the source's state and becomes whole.
    pub(crate) fn whole(&mut self, chunk: ChunkId) -> Result<(), StoreError> {
        let Some(p) = self.pulls.get(&chunk) else { return Ok(()) };
        let (to, epoch) = (p.to, p.epoch);
        let Purpose::Replace { reply, state: Some(source) } = &p.purpose else { return Ok(()) };
        let (reply, state) = (*reply, replaced(to, epoch, source));
        let last = state.last;
        self.patch(chunk, Some(state), Vec::new(), true, Some(last), Then::Replaced { reply, epoch })
    }
    pub(crate) fn replace_done(&mut self, chunk: ChunkId, reply: NodeId, epoch: LeaseEpoch, fx: &mut Effects) {
        let fetched = self.pulls.remove(&chunk).is_some();
        let Some(last) = self.store.copy(chunk).map(|c| c.last) else { return };
        let Some(l) = self.live_of(chunk) else { return };
        l.filled = None;
        if fetched {
            l.durable = last.min(l.held); // all of it was flushed before the state said so
        }
        let copy = l.copy;
        self.send_replaced(reply, chunk, copy, epoch, true, fx);
    }
    pub(crate) fn send_replaced(
        &mut self,
        reply: NodeId,
        chunk: ChunkId,
        copy: CopyId,
        epoch: LeaseEpoch,
        ok: bool,
        fx: &mut Effects,
    ) {
        let here = self.store.copy(chunk).filter(|c| c.copy == copy);
        let report = here.map(report).unwrap_or_else(|| lost(chunk, copy));
        let msg = CsToMds::Replaced { cs: self.cfg.cs, epoch, ok, report };
        fx.send.push((reply, Msg::CsToMds(msg)));
    }
}
