//! Fences: what is stored, what must be over before they are answered, and what the answer says.

use crate::server::{ChunkServer, FenceWait, ServerThen, SessionWait, Then, Work};
use chunk_store::Ticket;
use host::node::Effects;
use marks::mark;
use replica::copy::CopyState;
use replica::member::{lost, not_plain, report, store_fence};
use replica::orders::{ClearVerdict, FenceVerdict};
use types::{ChunkId, CopyId, LeaseEpoch, Nanos, NodeId, Seq, SessionId};
use wire::{CopyReport, CsToMds, Msg};

/// How long an answered fence is remembered, so that a repetition waits for the same promises as the first.
const REMEMBERED: Nanos = Nanos::from_secs(30);

/// The word that a copy is clean which ends where a clean one does.
pub(crate) struct Clear {
    pub chunk: ChunkId,
    pub epoch: LeaseEpoch,
    pub copy: CopyId,
    pub against: SessionId,
    pub written: LeaseEpoch,
    pub last: Seq,
}

impl ChunkServer {
    /// Blocks a session: refused from now on, answered when that is durable, its writes are in and its promises are over. What
    /// was promised to a `dead` process binds nobody.
    pub(crate) fn fence_session(&mut self, reply: NodeId, session: SessionId, epoch: LeaseEpoch, dead: bool) {
        if !session.is_some() || session == SessionId::GROUP {
            return;
        }
        let key = (session, epoch);
        if dead {
            mark!("fence.session-dead");
            self.promises.void(session);
        }
        if let Some(w) = self.session_fences.get_mut(&key) {
            mark!("fence.session-again");
            w.reply = reply;
            if dead {
                w.until = Nanos::ZERO;
            }
            return;
        }
        let known = self.store.server().blocked.get(&session).is_some_and(|e| *e >= epoch)
            || session < self.store.server().low_water;
        // Promises end with the block, so those given are all that can be waited for.
        let until = self.promises.clear_at(session, &self.cfg.rules);
        if !known {
            let mut s = self.store.server().clone();
            s.blocked.insert(session, epoch);
            if let Err(e) = self.set_server(s, ServerThen::Session(session, epoch)) {
                self.refused(&e);
                return; // it is asked again
            }
        }
        // A block that an earlier fence or a registration stored may not be durable yet.
        let storing = !known || self.server_pending();
        if known && storing {
            let s = self.store.server().clone();
            if let Err(e) = self.set_server(s, ServerThen::Session(session, epoch)) {
                self.refused(&e);
                return;
            }
        }
        self.session_fences.insert(key, SessionWait { reply, until, storing });
    }
    fn server_pending(&self) -> bool {
        self.works.values().any(|w| matches!(w, Work::Server(_)))
    }

    /// Fences one chunk: lower epochs are refused from now on.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn fence_chunk(
        &mut self,
        reply: NodeId,
        chunk: ChunkId,
        epoch: LeaseEpoch,
        copy: CopyId,
        initial: bool,
        against: SessionId,
        fx: &mut Effects,
    ) {
        let verdict = self.seat(chunk).fence(chunk, epoch, copy, initial);
        let state = match verdict {
            FenceVerdict::Ignore => return,
            FenceVerdict::Report(r) => return self.send_fenced(reply, epoch, r, fx),
            FenceVerdict::Store(s) => Some(s),
            FenceVerdict::Known => None,
        };
        self.await_fence(reply, chunk, epoch, against, state, false);
    }
    /// A copy that lost its memory is clean after all, and fenced.
    pub(crate) fn clear_copy(&mut self, reply: NodeId, c: Clear, fx: &mut Effects) {
        let state = match self.seat(c.chunk).clear(c.epoch, c.copy, c.written, c.last) {
            ClearVerdict::Ignore => return,
            ClearVerdict::Fail => {
                let report = self.store.copy(c.chunk).map_or_else(|| lost(c.chunk, c.copy), report);
                return self.send_cleared(reply, c.epoch, false, report, fx);
            }
            ClearVerdict::Store(s) => Some(*s),
            ClearVerdict::Known => None,
        };
        self.await_fence(reply, c.chunk, c.epoch, c.against, state, true);
    }
    /// Stores a fence, and the copy's state under it unless that is known already. It is answered when both are durable and
    /// what was promised before is over.
    fn await_fence(
        &mut self,
        reply: NodeId,
        chunk: ChunkId,
        epoch: LeaseEpoch,
        against: SessionId,
        state: Option<CopyState>,
        cleared: bool,
    ) {
        if let Some(w) = self.fences.get_mut(&(chunk, epoch)) {
            w.reply = reply;
            w.answered = false;
            w.cleared |= cleared;
            return;
        }
        let until = self.promises.clear_at(against, &self.cfg.rules);
        let mut storing = 0;
        let mut server = self.store.server().clone();
        if store_fence(&mut server, against, epoch) {
            if let Err(e) = self.set_server(server, ServerThen::Fence(chunk, epoch)) {
                self.refused(&e);
                return; // it is asked again
            }
            storing += 1;
        }
        if let Some(s) = state {
            // The fence ends whatever an older epoch was filling or merging here.
            self.pulls.remove(&chunk);
            if let Err(e) = self.patch(chunk, Some(s), Vec::new(), true, None, Then::FenceStored(epoch)) {
                self.refused(&e);
                return;
            }
            storing += 1;
        }
        self.fences.insert((chunk, epoch), FenceWait { reply, until, storing, answered: false, cleared });
    }
    pub(crate) fn fence_stored(&mut self, chunk: ChunkId, epoch: LeaseEpoch) {
        if let Some(w) = self.fences.get_mut(&(chunk, epoch)) {
            w.storing = w.storing.saturating_sub(1);
        }
    }

    /// Answers the fences that have nothing left to wait for.
    pub(crate) fn advance_fences(&mut self, now: Nanos, fx: &mut Effects) {
        self.fences.retain(|_, w| !w.answered || now.since(w.until) < REMEMBERED);
        let due: Vec<(ChunkId, LeaseEpoch)> = self
            .fences
            .iter()
            .filter(|(_, w)| !w.answered && w.storing == 0 && now >= w.until)
            .map(|(k, _)| *k)
            .collect();
        for (chunk, epoch) in due {
            let Some(c) = self.store.copy(chunk) else {
                self.fences.remove(&(chunk, epoch));
                continue;
            };
            if c.promised > epoch && !c.unclean {
                mark!("fence.overtaken");
                // A higher epoch came first: nobody counts this answer any more.
                self.fences.remove(&(chunk, epoch));
                continue;
            }
            let r = report(c);
            if self.live.get(&chunk).is_some_and(|l| !l.quiet()) {
                mark!("fence.waits-for-writes");
                continue; // what was accepted before is on its way and must be in
            }
            let Some(w) = self.fences.get_mut(&(chunk, epoch)) else { continue };
            w.answered = true;
            let (reply, cleared) = (w.reply, w.cleared);
            if cleared {
                self.send_cleared(reply, epoch, true, r, fx);
            } else {
                self.send_fenced(reply, epoch, r, fx);
            }
        }
        let due: Vec<(SessionId, LeaseEpoch)> = self
            .session_fences
            .iter()
            .filter(|((s, _), w)| !w.storing && now >= w.until && !self.outstanding.contains_key(s))
            .map(|(k, _)| *k)
            .collect();
        for (session, epoch) in due {
            let Some(w) = self.session_fences.remove(&(session, epoch)) else { continue };
            let reports = self.store.copies().filter(|c| not_plain(&self.cfg.rules, c, session)).map(|c| {
                // The ranges since the last flush come with the fence of the chunk; here they would only be long.
                CopyReport { recent: None, ..report(c) }
            });
            let reports = reports.collect();
            let msg = CsToMds::SessionFenced { cs: self.cfg.cs, session, epoch, reports };
            fx.send.push((w.reply, Msg::CsToMds(msg)));
        }
    }
    fn send_fenced(&mut self, reply: NodeId, epoch: LeaseEpoch, report: CopyReport, fx: &mut Effects) {
        let msg = CsToMds::Fenced { cs: self.cfg.cs, incarnation: self.cfg.incarnation, epoch, report };
        fx.send.push((reply, Msg::CsToMds(msg)));
    }

    fn send_cleared(&mut self, reply: NodeId, epoch: LeaseEpoch, ok: bool, report: CopyReport, fx: &mut Effects) {
        fx.send.push((reply, Msg::CsToMds(CsToMds::Cleared { cs: self.cfg.cs, epoch, ok, report })));
    }

    /// Forgets exactly that copy; one that is not here is gone already.
    pub(crate) fn delete(&mut self, reply: NodeId, chunk: ChunkId, copy: CopyId, fx: &mut Effects) {
        if !self.seat(chunk).delete(copy) {
            if self.works.values().any(|w| matches!(w, Work::Deleted { chunk: c, .. } if *c == chunk)) {
                return; // its own completion answers
            }
            return self.send_deleted(reply, chunk, copy, fx);
        }
        let t = self.ticket();
        match self.store.remove(Ticket(t), chunk, true, &mut self.sfx) {
            Ok(()) => {
                self.works.insert(t, Work::Deleted { reply, chunk, copy });
                self.live.remove(&chunk);
                self.tails.forget(chunk);
                self.pulls.remove(&chunk);
                self.fences.retain(|(c, _), _| *c != chunk);
            }
            Err(e) => {
                self.refused(&e);
            }
        }
    }
    pub(crate) fn send_deleted(&mut self, reply: NodeId, chunk: ChunkId, copy: CopyId, fx: &mut Effects) {
        fx.send.push((reply, Msg::CsToMds(CsToMds::Deleted { cs: self.cfg.cs, chunk, copy })));
    }
}
