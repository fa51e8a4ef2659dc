//! Sessions: attach, renew, end, and the fence of one that is gone (protocol 4.4 and 5.1).

use crate::MetaServer;
use crate::leader::{Attached, FileLease, Held, SessionFence};
use crate::limits::{AGAIN, ATTACH, LEFT, RECALL, SESSION_KEPT};
use crate::maps::MapAsk;
use crate::propose::{PendingRead, Then};
use crate::share::Ended;
use host::node::Effects;
use marks::mark;
use meta_state::{Command, Duty, EndSource};
use std::collections::BTreeSet;
use types::{ChunkId, CsId, Incarnation, InodeId, LeaseEpoch, Nanos, NodeId, SessionId};
use wire::meta::{FileEnd, HeldLease};
use wire::share::Sharing;
use wire::{CopyReport, FromMds, LeaseKind, MdsToCs, Msg, ToMds};

/// What a client says of itself when it attaches.
#[derive(Clone, Debug)]
pub(crate) struct Attaching {
    pub held: Vec<HeldLease>,
    pub stamp: u64,
    pub sharing: Sharing,
}

/// A fence that has not been answered by anybody, of a session that was heard of last at `heard`.
pub(crate) fn fence(epoch: LeaseEpoch, committed: bool, heard: Nanos) -> SessionFence {
    SessionFence {
        epoch,
        reads_until: heard + SESSION_KEPT,
        answered: BTreeSet::new(),
        sent: Nanos::ZERO,
        committed,
        settling: false,
        dead: false,
        chunks: BTreeSet::new(),
    }
}

impl MetaServer {
    /// A client's message, to a leader.
    pub(crate) fn client(&mut self, c: Incarnation, m: ToMds, fx: &mut Effects) {
        if let ToMds::Attach { incarnation, session, held, ends, may_cache, sharing, stamp } = m {
            if incarnation == c {
                let who = Attaching { held, stamp, sharing };
                self.attach(c, session, who, ends, may_cache, fx);
            }
            return;
        }
        let (session, incarnation) = match &m {
            ToMds::Renew { session, incarnation, .. }
            | ToMds::Detach { session, incarnation }
            | ToMds::Meta { session, incarnation, .. }
            | ToMds::Map { session, incarnation, .. }
            | ToMds::Return { session, incarnation, .. }
            | ToMds::ViewChange { session, incarnation, .. }
            | ToMds::Unsettled { session, incarnation, .. }
            | ToMds::Leaving { session, incarnation, .. }
            | ToMds::Told { session, incarnation, .. }
            | ToMds::Forgot { session, incarnation, .. }
            | ToMds::GoneOk { session, incarnation, .. } => (*session, *incarnation),
            ToMds::Attach { .. } | ToMds::Status { .. } | ToMds::Scrub { .. } | ToMds::Death { .. } => return,
        };
        let now = self.now;
        let me = self.cfg.id;
        let Some(l) = &mut self.leader else { return };
        match l.attached.get_mut(&session) {
            Some(a) if a.incarnation == incarnation && incarnation == c => {
                a.heard = now;
                a.reset = None;
            }
            _ => {
                // Not attached in this term: it must say first what it holds. A session that is over learns it there.
                mark!("session.not-attached");
                fx.send.push((
                    NodeId::Client(c),
                    Msg::FromMds(FromMds::NotLeader { leader: Some(me), mds: self.peers() }),
                ));
                return;
            }
        }
        match m {
            ToMds::Renew { ends, stamp, .. } => self.renew(session, ends, stamp, fx),
            ToMds::Detach { .. } => self.detach(session, fx),
            ToMds::Meta { slot, seq, op, want, .. } => {
                self.meta_op(PendingRead { client: c, session, slot, seq, op, want }, fx);
            }
            ToMds::Map { ino, epoch, first, count, allocate, id, .. } => {
                self.map(MapAsk { session, ino, epoch, id, first, count }, allocate, fx);
            }
            ToMds::Return { ino, epoch, end, lasts, .. } => self.take_back(session, ino, epoch, end, lasts, fx),
            ToMds::ViewChange { ino, epoch, changes, .. } => {
                for (chunk, ver, wish) in changes {
                    self.view_wish(session, ino, epoch, chunk, ver, wish, fx);
                }
            }
            ToMds::Unsettled { ino, epoch, chunk, .. } => self.chunk_unsettled(session, ino, epoch, chunk, fx),
            ToMds::Told { number, end, .. } => self.told(session, number, end),
            ToMds::Leaving { ino, epoch, left, .. } => self.leaving(session, ino, epoch, left),
            ToMds::Forgot { term, number, .. } => self.forgot(session, term, number, fx),
            ToMds::GoneOk { ino, epoch, end, .. } => self.gone_ok(session, ino, epoch, end),
            ToMds::Attach { .. } | ToMds::Status { .. } | ToMds::Scrub { .. } | ToMds::Death { .. } => {}
        }
    }

    fn attach(
        &mut self,
        c: Incarnation,
        session: SessionId,
        who: Attaching,
        ends: Vec<FileEnd>,
        may_cache: bool,
        fx: &mut Effects,
    ) {
        if session.is_some() {
            match self.state.session(session) {
                Some(s) if s.block.is_none() && s.incarnation == c => {
                    self.attach_now(c, session, &who, fx);
                    self.late_ends(session, ends);
                }
                _ => {
                    mark!("session.attach-after-block");
                    let Some(term) = self.leader.as_ref().map(|l| l.term) else { return };
                    fx.send.push((NodeId::Client(c), Msg::FromMds(FromMds::SessionGone { session, term })));
                }
            }
            return;
        }
        let cmd = Command::OpenSession { incarnation: c, may_cache, time: self.wall() };
        self.propose(&cmd, Then::Attach { client: c, who });
    }

    /// The session exists: take note of it and of what it holds.
    pub(crate) fn attach_now(&mut self, c: Incarnation, session: SessionId, who: &Attaching, fx: &mut Effects) {
        let (now, held, stamp, sharing) = (self.now, &who.held[..], who.stamp, who.sharing);
        let Some(l) = &mut self.leader else { return };
        let term = l.term;
        let first = !l.attached.contains_key(&session);
        let news = l.attached.get(&session).is_none_or(|a| a.stamp < stamp);
        l.attached.insert(session, Attached { incarnation: c, heard: now, reset: None, dead: false, stamp, sharing });
        l.nodes.insert(c, session);
        let mut gone = vec![];
        let mut lost = vec![];
        for h in held {
            let known = l.files.get(&h.ino).and_then(|f| f.holders.get(&session)).map(|x| x.epoch);
            if known == Some(h.epoch) {
                continue;
            }
            let inode = self.state.inode(h.ino);
            let over = inode.is_none_or(|i| h.epoch < i.lease_floor);
            if !first || h.epoch.term() >= term || known.is_some() || over {
                gone.push(*h);
                continue;
            }
            // Re-declared from an older term. Of two that conflict the higher epoch stands.
            let f = l.file(h.ino);
            let conflicts = |x: &Held| h.kind == LeaseKind::Write || x.kind == LeaseKind::Write;
            if let Some(higher) = f.holders.values().filter(|x| conflicts(x)).map(|x| x.epoch).max()
                && higher > h.epoch
            {
                mark!("session.redeclared-too-late");
                // Until it says that it has heard so, a later leader might believe it.
                l.take_lease(h.ino, session, h.epoch, higher, (now, now));
                gone.push(*h);
                continue;
            }
            let losers: Vec<SessionId> = f.holders.iter().filter(|(_, x)| conflicts(x)).map(|(s, _)| *s).collect();
            mark!("session.redeclared-over-others");
            for s in losers {
                if let Some(x) = l.file(h.ino).holders.remove(&s) {
                    l.take_lease(h.ino, s, x.epoch, h.epoch, (now, Nanos::ZERO));
                    lost.push((h.ino, s));
                }
            }
            l.file(h.ino).holders.insert(session, Held::new(h.kind, h.epoch));
        }
        lost.extend(gone.iter().map(|h| (h.ino, session)));
        for (ino, session) in lost {
            self.may_show(ino, session);
        }
        if news {
            self.forget_unheld(session, held, fx);
        }
        let Some(l) = &self.leader else { return };
        let settled = l.settled(session);
        let servers = self.addresses();
        let m = FromMds::AttachOk { session, term, settled, gone, servers, stamp };
        fx.send.push((NodeId::Client(c), Msg::FromMds(m)));
    }
    /// Leases that the client does not know of: their grants are lost or on their way, or it has lost its memory of them.
    /// They end like leases that are taken away, because a grant may still arrive.
    fn forget_unheld(&mut self, session: SessionId, held: &[HeldLease], fx: &mut Effects) {
        let Some(l) = &self.leader else { return };
        let known: BTreeSet<(InodeId, LeaseEpoch)> = held.iter().map(|h| (h.ino, h.epoch)).collect();
        let unheld = |(ino, f): (&InodeId, &FileLease)| {
            f.holders.get(&session).is_some_and(|x| !known.contains(&(*ino, x.epoch))).then_some(*ino)
        };
        let unheld: Vec<InodeId> = l.files.iter().filter_map(unheld).collect();
        for ino in unheld {
            mark!("session.lease-unheld");
            self.depose_session(ino, session, fx);
        }
    }
    pub(crate) fn addresses(&self) -> Vec<(NodeId, String)> {
        let cs =
            self.servers.iter().filter(|(_, s)| !s.addr.is_empty()).map(|(cs, s)| (NodeId::Cs(*cs), s.addr.clone()));
        self.peers().into_iter().map(|(m, a)| (NodeId::Mds(m), a)).chain(cs).collect()
    }

    fn renew(&mut self, session: SessionId, ends: Vec<FileEnd>, stamp: u64, fx: &mut Effects) {
        let Some(l) = &self.leader else { return };
        let (term, settled) = (l.term, l.settled(session));
        let servers = self.addresses();
        self.send_session(session, FromMds::RenewOk { term, settled, servers, stamp }, fx);
        self.tell_nameless(session, fx);
        let (held, late): (Vec<FileEnd>, Vec<FileEnd>) = ends.into_iter().partition(|e| self.writes(session, e));
        if !held.is_empty() {
            let time = self.wall();
            self.propose(&Command::SetEnds { ends: held, source: EndSource::Holder, time }, Then::Nothing);
        }
        self.late_ends(session, late);
    }
    /// Is this the end of a file as its present writer knows it?
    fn writes(&self, session: SessionId, end: &FileEnd) -> bool {
        let file = self.leader.as_ref().and_then(|l| l.files.get(&end.ino));
        file.and_then(|f| f.writer()) == Some((session, end.epoch))
    }
    /// Ends of files whose leases were taken away before the group knew them. Nothing of these files is granted before they
    /// are committed.
    fn late_ends(&mut self, session: SessionId, mut ends: Vec<FileEnd>) {
        ends.retain(|e| !self.writes(session, e));
        if !ends.is_empty() {
            mark!("session.late-ends");
            self.find_ends(ends, Some(session));
        }
    }

    fn detach(&mut self, session: SessionId, fx: &mut Effects) {
        let Some(l) = &mut self.leader else { return };
        // In order means with nothing held; what is held after all is taken as from a dead client.
        let holds = l.files.values().any(|f| f.holders.contains_key(&session));
        if let Some(a) = l.attached.remove(&session) {
            l.nodes.remove(&a.incarnation);
        }
        l.keepers.ended(session);
        for (ino, f) in &mut l.files {
            f.queue.retain(|w| w.session != session);
            f.deposed.retain(|d| d.session != session);
            l.dirty.insert(*ino);
        }
        let time = self.wall();
        if holds {
            mark!("session.detach-while-holding");
            self.block(session, fx);
        } else {
            self.propose(&Command::CloseSession { session, time }, Then::Nothing);
        }
    }

    /// Ends a session that does not answer: refused for ever, from the commit on.
    pub(crate) fn block(&mut self, session: SessionId, fx: &mut Effects) {
        let time = self.wall();
        let known = self.leader.as_ref().is_none_or(|l| l.fences.contains_key(&session));
        if known {
            return;
        }
        let waits = self.leaves_shares(session, fx);
        let Some(l) = &mut self.leader else { return };
        if waits {
            l.leaving.insert(session);
            return;
        }
        l.leaving.remove(&session);
        let epoch = l.mint();
        let (dead, heard) = l.attached.get(&session).map_or((false, l.since), |a| (a.dead, a.heard));
        l.fences.insert(session, SessionFence { dead, ..fence(epoch, false, heard) });
        if !self.propose(&Command::BlockSession { session, epoch, time }, Then::Blocked { session })
            && let Some(l) = &mut self.leader
        {
            l.fences.remove(&session);
        }
    }
    /// The block is committed: now every server is told, and what the session held is free.
    pub(crate) fn session_blocked(&mut self, session: SessionId, fx: &mut Effects) {
        let Some(l) = &self.leader else { return };
        if l.attached.get(&session).is_some_and(|a| !a.dead) {
            let holds = |f: &FileLease| f.holders.contains_key(&session);
            let held: Vec<InodeId> = l.files.iter().filter(|(_, f)| holds(f)).map(|(ino, _)| *ino).collect();
            held.into_iter().for_each(|ino| self.may_show(ino, session));
        }
        let Some(l) = &mut self.leader else { return };
        if let Some(f) = l.fences.get_mut(&session) {
            f.committed = true;
        }
        if let Some(a) = l.attached.remove(&session) {
            l.nodes.remove(&a.incarnation);
            let m = FromMds::SessionGone { session, term: l.term };
            fx.send.push((NodeId::Client(a.incarnation), Msg::FromMds(m)));
        }
        l.openers.session_over(session);
        let (mut forget, mut stewarded) = (vec![], vec![]);
        for (ino, f) in &mut l.files {
            let held = f.holders.remove(&session);
            if let Some(h) = &held {
                stewarded.push((*ino, h.epoch));
            }
            let wrote = held.is_some_and(|h| h.kind == LeaseKind::Write);
            // What was fenced chunk by chunk already is settled; others may hold the file by now.
            let open = f.deposed.iter().any(|d| d.session == session && !d.fenced_all);
            f.queue.retain(|w| w.session != session);
            if wrote {
                forget.push(*ino);
            }
            // Its word that it is gone will not come; the fence of the session stands for it.
            f.deposed.retain(|d| d.session != session);
            if open {
                f.suspects.extend(self.state.all_chunks(*ino).map(|(_, c, _)| c));
            }
            if f.last_writer.is_some_and(|(s, _)| s == session) {
                f.last_writer = None;
            }
            l.dirty.insert(*ino);
        }
        for ino in forget {
            for (_, c, _) in self.state.all_chunks(ino) {
                l.lasts.remove(&c);
            }
        }
        for (ino, epoch) in stewarded {
            self.share_over(ino, session, epoch, Ended::Fenced);
        }
        self.log.push(format!("session {session} is over; fencing it"));
    }

    /// A server has blocked the session and says what is not plain.
    pub(crate) fn session_fenced(
        &mut self,
        cs: CsId,
        session: SessionId,
        epoch: LeaseEpoch,
        reports: Vec<CopyReport>,
        _fx: &mut Effects,
    ) {
        let Some(l) = &mut self.leader else { return };
        let taking: BTreeSet<ChunkId> = reports.iter().map(|r| r.chunk).filter(|c| l.taking(*c)).collect();
        let Some(f) = l.fences.get_mut(&session) else { return };
        if f.epoch != epoch || !f.answered.insert(cs) {
            return;
        }
        let (mut ends, mut listed) = (vec![], vec![]);
        for r in &reports {
            let Some(rec) = self.state.chunk(r.chunk) else { continue };
            let member = rec.view.members.iter().any(|m| m.cs == cs && m.copy == r.copy);
            let plain = r.tail.is_empty() && !r.unclean && !r.joining;
            if member && !plain {
                listed.push(r.chunk);
            }
            // A takeover under way may have put another copy in its place, and has not told yet how far the file goes.
            if (member && !plain) || taking.contains(&r.chunk) {
                f.chunks.insert(r.chunk);
            }
            if !member {
                continue;
            }
            // Of a copy that is not plain the takeover decides whether its newest record counts at all, and tells the end.
            if r.session == session && r.file_end > 0 && plain {
                ends.push(FileEnd {
                    ino: rec.ino,
                    epoch: r.written,
                    size: r.file_end,
                    mtime: r.mtime,
                    truncate_gen: r.truncate_gen,
                    zeroed: false,
                });
            }
        }
        // At once: a grant or an answer in between would name an old end.
        for chunk in listed {
            self.suspect(chunk);
        }
        if !ends.is_empty() {
            mark!("session.ends-found");
            self.find_ends(ends, None);
        }
    }

    /// Servers that have not yet said that this session is blocked there.
    pub(crate) fn unanswered(&self, cs: CsId) -> bool {
        self.leader.as_ref().is_some_and(|l| l.fences.values().any(|f| !f.answered.contains(&cs)))
    }

    /// Committed sessions that have not attached in this term.
    pub(crate) fn unattached(&self) -> Vec<SessionId> {
        let Some(l) = &self.leader else { return vec![] };
        self.state
            .sessions()
            .filter(|(s, x)| x.block.is_none() && !l.attached.contains_key(s) && !l.fences.contains_key(s))
            .map(|(s, _)| s)
            .collect()
    }

    /// Every session of an earlier term has said what it holds, or is being fenced. Also when nobody waited till the time
    /// for that was up: it may still hold something.
    pub(crate) fn all_told(&mut self) -> bool {
        let told = self.leader.as_ref().is_some_and(|l| l.all_told) || self.unattached().is_empty();
        if let Some(l) = &mut self.leader {
            l.all_told = told;
        }
        told
    }

    pub(crate) fn sweep_sessions(&mut self, fx: &mut Effects) {
        let now = self.now;
        let Some(l) = &mut self.leader else { return };
        let since = l.since;
        let expired: Vec<SessionId> =
            l.attached.iter().filter(|(_, a)| now.since(a.heard) >= SESSION_KEPT).map(|(s, _)| *s).collect();
        // Whoever keeps others from a lock and has left its connection is taken for dead: only then are its locks free.
        let locks = self.state.locks();
        let in_the_way = if locks.waits().next().is_some() { locks.in_the_way() } else { BTreeSet::new() };
        let left = |a: &Attached, patience| a.reset.is_some_and(|t| now.since(t) >= patience);
        let gone: Vec<SessionId> = in_the_way.into_iter().map(|(s, _)| s).collect();
        let dead = gone.iter().copied().filter(|s| l.attached.get(s).is_some_and(|a| left(a, LEFT)));
        let dead = dead.filter(|_| self.cfg.rules.left_lose_locks).inspect(|_| mark!("session.left-with-locks"));
        // So is whoever lost a file, does not say that it is gone, and keeps a chunk from having enough copies.
        let held_up = l.takeovers.values().filter(|r| r.takeover.held_up()).filter_map(|r| l.files.get(&r.ino));
        let holding = held_up.flat_map(|f| &f.deposed).map(|d| d.session);
        let holding = holding.filter(|s| l.attached.get(s).is_some_and(|a| left(a, RECALL)));
        let holding: BTreeSet<SessionId> = holding.inspect(|_| mark!("session.kept-a-chunk-short")).collect();
        let expired: BTreeSet<SessionId> = expired.into_iter().chain(dead).chain(holding).collect();
        let unheard = gone.iter().any(|s| !l.attached.contains_key(s));
        let waiting = unheard || l.files.values().any(|f| !f.queue.is_empty() || !f.stats.is_empty());
        let old = now.since(since);
        let mut block: BTreeSet<SessionId> = expired.union(&l.leaving).copied().collect();
        let hurry = waiting && self.cfg.rules.silent_sessions_fenced;
        if (hurry && old >= ATTACH) || old >= SESSION_KEPT {
            mark!("session.unattached-blocked");
            block.extend(self.unattached());
        }
        for s in block {
            self.block(s, fx);
        }
        // Tell servers, again and again until they answer. When what they reported has been taken over too, the session is
        // settled; before that a later leader has to ask again, because how far the files go stands only there.
        if self.leader.as_ref().is_none_or(|l| l.fences.is_empty()) {
            return;
        }
        let all: Vec<CsId> = self.servers.iter().filter(|(_, s)| s.known).map(|(cs, _)| *cs).collect();
        let counts = |cs: CsId, s: &meta_state::Server| s.incarnation.is_some() && self.state.duty(cs) != Duty::Dropped;
        let needed: Vec<CsId> = self.state.servers().filter(|(cs, s)| counts(*cs, s)).map(|(cs, _)| cs).collect();
        let Some(l) = &mut self.leader else { return };
        let mut settle = vec![];
        let state = &self.state;
        let (lasts, ending) = (&l.lasts, &l.ending);
        let open = |c: &ChunkId| state.chunk(*c).is_some_and(|r| !lasts.contains_key(c) || ending.contains_key(&r.ino));
        for (session, f) in &mut l.fences {
            if !f.committed {
                continue;
            }
            if f.sent == Nanos::ZERO || now.since(f.sent) >= AGAIN {
                f.sent = now;
                for cs in all.iter().filter(|cs| !f.answered.contains(cs)) {
                    let m = MdsToCs::FenceSession { session: *session, epoch: f.epoch, dead: f.dead };
                    fx.send.push((NodeId::Cs(*cs), Msg::MdsToCs(m)));
                }
            }
            f.chunks.retain(open);
            if needed.iter().all(|cs| f.answered.contains(cs)) && f.chunks.is_empty() && !f.settling {
                f.settling = true;
                mark!("session.settled");
                settle.push(*session);
            }
        }
        for session in settle {
            self.propose(&Command::SettleSession { session }, Then::Settled { session });
        }
    }
}
