//! Leases on files: who waits, who must give back, who is granted what (protocol section 4).

use crate::leader::{FileLease, GroupJoin, Held, Recalled, SessionFence, Waiter};
use crate::limits::{AGAIN, CONTACT_KEPT, GONE, GONE_BARE, GRANT_CHUNKS, RECALL, RECALL_RESET, RECALL_SILENT};
use crate::propose::{PendingRead, Then};
use crate::share::{Ended, Way};
use crate::{MetaServer, joins, takeovers};
use host::node::Effects;
use marks::mark;
use meta_state::{Command, EndSource};
use placement::Domain;
use types::{ChunkId, CsId, InodeId, LeaseEpoch, Nanos, Seq, SessionId};
use wire::meta::{ChunkGrant, ChunkLoss, FileEnd, Grant};
use wire::names::{MetaOp, MetaOutcome};
use wire::{FromMds, LeaseKind};

/// Servers for the first chunk of a file about to be created.
pub(crate) fn place_for(m: &MetaServer, op: &MetaOp) -> Option<Vec<CsId>> {
    match op {
        MetaOp::Create { parent, body: None, layout, .. } => {
            let layout = layout.or_else(|| m.state.inode(*parent).map(|i| i.layout))?;
            let (domain, seed) = (Domain::from_layout(layout.domain), m.next_proposal);
            let v = m.placing().choose(usize::from(layout.norm), domain, &[], seed);
            (v.len() >= usize::from(layout.min)).then_some(v)
        }
        _ => None,
    }
}

/// A question about a file that somebody else writes waits until the writer has given its lease back. True = it waits.
pub(crate) fn recall_for_stat(m: &mut MetaServer, r: &PendingRead) -> bool {
    let asks = matches!(r.op, MetaOp::Getattr { .. } | MetaOp::Lookup { .. } | MetaOp::Info { .. });
    if !asks {
        return false;
    }
    let ino = match m.state.query(&r.op) {
        Ok(MetaOutcome::Attr { attr, .. } | MetaOutcome::Info { attr, .. }) => attr.ino,
        _ => return false,
    };
    let known = m.end_known(ino);
    let Some(l) = &mut m.leader else { return false };
    // Also while what a writer left behind is still being gathered.
    let writer = l.files.get(&ino).and_then(|f| f.writer());
    let waits = writer.map_or(!known, |(s, _)| s != r.session);
    if waits {
        let f = l.file(ino);
        // Its client repeats it; once is enough.
        if !f.stats.iter().any(|x| (x.session, x.slot, x.seq) == (r.session, r.slot, r.seq)) {
            f.stats.push(r.clone());
        }
    }
    waits
}

impl MetaServer {
    /// A session wants a lease; the grant comes now, or later as a message.
    pub(crate) fn want(
        &mut self,
        ino: InodeId,
        session: SessionId,
        want: LeaseKind,
        fx: &mut Effects,
    ) -> Option<Grant> {
        let attr_kind = self.state.inode(ino).map(|i| i.attr).map(|a| a.kind)?;
        if attr_kind != wire::names::FileKind::File {
            return None;
        }
        let want = match self.share_instead(ino, session, want, fx) {
            Way::Lease(want) => want,
            Way::Sent => return None,
        };
        let l = self.leader.as_mut()?;
        let f = l.file(ino);
        if let Some(h) = f.holders.get(&session).filter(|h| h.kind >= want) {
            // The grant was lost on its way: who has not heard of it cannot give it back, and who has is deaf to it.
            mark!("lease.granted-again");
            let (kind, epoch) = (h.kind, h.epoch);
            return self.grant_message(ino, session, kind, epoch);
        }
        match f.queue.iter_mut().find(|w| w.session == session) {
            Some(w) => w.want = w.want.max(want),
            None => f.queue.push_back(Waiter { session, want }),
        }
        self.serve_file(ino, fx)
            .into_iter()
            .fold(None, |mine, g| if g.session == session { Some(g) } else { self.send_grant(g, fx, mine) })
    }
    fn send_grant(&self, g: Grant, fx: &mut Effects, mine: Option<Grant>) -> Option<Grant> {
        self.send_session(g.session, FromMds::Grant(g), fx);
        mine
    }

    /// Looks at every file where something changed.
    pub(crate) fn serve_dirty(&mut self, fx: &mut Effects) {
        let Some(l) = &mut self.leader else { return };
        let dirty = std::mem::take(&mut l.dirty);
        for ino in dirty {
            for g in self.serve_file(ino, fx) {
                self.send_session(g.session, FromMds::Grant(g), fx);
            }
            if let Some(l) = &mut self.leader
                && l.files.get(&ino).is_some_and(|f| f.idle())
            {
                l.files.remove(&ino);
            }
        }
    }

    /// Questions that wait for a file's end: its writer is asked for it, or it has become known.
    fn serve_stats(&mut self, ino: InodeId, fx: &mut Effects) {
        let waits = |f: &FileLease| !f.stats.is_empty() || f.telling.is_some();
        if !self.leader.as_ref().and_then(|l| l.files.get(&ino)).is_some_and(waits) {
            return;
        }
        self.all_told();
        let known = self.end_known(ino);
        if self.ask_steward(ino, fx) {
            return;
        }
        let Some(l) = &mut self.leader else { return };
        let Some(f) = l.files.get_mut(&ino) else { return };
        match f.writer() {
            Some((s, _)) => recall(f, &[s], self.now, ino, fx, &l.attached),
            None if known => self.new_reads.append(&mut f.stats),
            None => {}
        }
    }

    /// Does what a file's waiters allow: recalls, takeovers, grants.
    fn serve_file(&mut self, ino: InodeId, fx: &mut Effects) -> Vec<Grant> {
        let now = self.now;
        let mut grants = vec![];
        self.serve_stats(ino, fx);
        if self
            .leader
            .as_ref()
            .and_then(|l| l.files.get(&ino))
            .is_none_or(|f| f.holders.is_empty() && f.deposed.is_empty())
        {
            self.commit_ready(ino);
        }
        loop {
            let Some(l) = &mut self.leader else { return grants };
            let Some(f) = l.files.get(&ino) else { return grants };
            let Some(w) = f.queue.front().cloned() else { break };
            let upgrades = !l.busy(ino) && l.fences.is_empty() && f.may_upgrade(w.session);
            let Some(f) = l.files.get_mut(&ino) else { return grants };
            // Whoever has left would have to be taken for dead before the next one's turn, and whose session ended while its
            // question was under way gives nothing back; who comes back asks again.
            if l.attached.get(&w.session).is_none_or(|a| a.reset.is_some()) {
                mark!("lease.waiter-left");
                f.queue.pop_front();
                continue;
            }
            if self.stewards_in_vain(ino, w.session) {
                self.tell_not_shared(ino, w.session, fx);
                if let Some(l) = &mut self.leader {
                    l.file(ino).queue.pop_front();
                }
                continue;
            }
            let Some(l) = &mut self.leader else { return grants };
            let Some(f) = l.files.get_mut(&ino) else { return grants };
            let conflicting: Vec<SessionId> = f
                .holders
                .iter()
                .filter(|(_, h)| w.want == LeaseKind::Write || h.kind == LeaseKind::Write)
                .map(|(s, _)| *s)
                .filter(|s| !upgrades || *s != w.session)
                .collect();
            if !conflicting.is_empty() {
                recall(f, &conflicting, now, ino, fx, &l.attached);
                break;
            }
            // Whoever was deposed must have said so, or everything it held must have been fenced.
            if f.deposed.iter().any(|d| !d.fenced_all) {
                break;
            }
            let shown = f.shown.iter().any(|(s, until)| *s != w.session && now < *until);
            if w.want == LeaseKind::Write && shown && self.cfg.rules.pages_waited_for {
                mark!("lease.waits-for-pages");
                break;
            }
            if !self.all_told() && self.cfg.rules.sessions_told_before_grants {
                mark!("lease.waits-for-sessions");
                break; // L6; the sweep fences who is silent when the time is up
            }
            let Some(l) = &mut self.leader else { return grants };
            if l.fences.values().any(|f| !f.committed) {
                break;
            }
            if self.prepare(ino, Some(w.want)) || !self.forgotten(ino, w.session, w.want, fx) {
                break;
            }
            let share = self.share_of(ino, w.session);
            let Some(l) = &mut self.leader else { return grants };
            let epoch = l.mint();
            let f = l.file(ino);
            f.queue.pop_front();
            // Nobody but this session held the file since: what it was granted for reading goes on.
            let before = f.holders.get(&w.session);
            let replaces = before.map_or(LeaseEpoch::NONE, |h| h.epoch);
            let went_on = before.map(|h| h.unbroken);
            let deposed = f.last_writer.take().filter(|(s, _)| *s == w.session).map(|(_, since)| since);
            let unbroken = deposed.or(went_on).unwrap_or(epoch);
            if before.is_some() {
                mark!("lease.upgraded");
            }
            f.holders.insert(w.session, Held { unbroken, replaces, share, ..Held::new(w.want, epoch) });
            self.share_granted(ino, w.session, epoch);
            if let Some(g) = self.grant_message(ino, w.session, w.want, epoch) {
                grants.push(g);
            }
        }
        if let Some(l) = &mut self.leader
            && let Some(f) = l.files.get(&ino)
            && f.holders.is_empty()
            && f.deposed.iter().all(|d| d.fenced_all)
            && !f.suspects.is_empty()
        {
            self.prepare(ino, None);
        }
        grants
    }

    /// Whoever may write a file may change its attributes unheard: everybody else has to forget them first.
    fn forgotten(&mut self, ino: InodeId, session: SessionId, want: LeaseKind, fx: &mut Effects) -> bool {
        let (now, rule) = (self.now, self.cfg.rules.changes_forgotten_first);
        let Some(l) = self.leader.as_mut().filter(|_| want == LeaseKind::Write && rule) else { return true };
        let Some(f) = l.files.get_mut(&ino) else { return true };
        if let Some((_, waits)) = f.forgetting.as_ref().filter(|(s, _)| *s == session) {
            let over = waits.iter().all(|w| l.keepers.is_over(*w, now));
            if over {
                f.forgetting = None;
            }
            return over;
        }
        let demands = l.keepers.demand(session, &[ino], now);
        if demands.is_empty() {
            return true;
        }
        let waits = self.send_forgets(demands, fx);
        if let Some(f) = self.leader.as_mut().and_then(|l| l.files.get_mut(&ino)) {
            f.forgetting = Some((session, waits));
        }
        false
    }

    /// Are the attributes of a file those of now, without asking anybody?
    pub(crate) fn nobody_writes(&self, ino: InodeId) -> bool {
        let file = self.leader.as_ref().and_then(|l| l.files.get(&ino));
        file.is_none_or(|f| f.writer().is_none()) && self.end_known(ino)
    }
    /// Is it certain how far a file goes that nobody writes? Whoever was shut out, or is gone since before this term, may have
    /// come further than what is committed: then copies tell, once they have been looked at.
    fn end_known(&self, ino: InodeId) -> bool {
        let Some(l) = &self.leader else { return false };
        let file = l.files.get(&ino);
        if file.is_some_and(|f| f.gathering(l.busy(ino))) {
            return false;
        }
        // Who reads was told the end.
        if file.is_some_and(|f| !f.holders.is_empty()) {
            return true;
        }
        if !l.all_told || l.ending.contains_key(&ino) || l.fences.values().any(|f| !f.committed) {
            return false;
        }
        // Every member has what was acknowledged: one server's word about a session is enough, if its copy is plain.
        let open = |view: &types::View| {
            let heard = |f: &SessionFence| view.members.iter().any(|m| f.answered.contains(&m.cs));
            l.fences.values().any(|f| !heard(f))
        };
        let listed = |c: ChunkId| l.fences.values().any(|f| f.chunks.contains(&c));
        let looked_at = |c: ChunkId| l.taking(c) || file.is_some_and(|f| f.suspects.contains(&c));
        let doubtful = |c: ChunkId| {
            !l.lasts.contains_key(&c)
                && (listed(c) || looked_at(c) || self.state.chunk(c).is_some_and(|r| open(&r.view)))
        };
        l.fences.is_empty() || !self.state.all_chunks(ino).any(|(_, c, _)| doubtful(c))
    }

    /// Starts takeovers that must end before a grant, and cancels joins that the leader drives if somebody wants to write. True =
    /// something is under way that the grant waits for.
    fn prepare(&mut self, ino: InodeId, want: Option<LeaseKind>) -> bool {
        let Some(l) = &mut self.leader else { return true };
        let Some(f) = l.files.get_mut(&ino) else { return false };
        let suspects = std::mem::take(&mut f.suspects);
        let fenced: bool = l.fences.values().any(|x| x.committed);
        let mut take: Vec<ChunkId> = suspects.into_iter().collect();
        let mut cancel = vec![];
        let chunks: Vec<ChunkId> = self.state.all_chunks(ino).map(|(_, c, _)| c).collect();
        // Who reads may do so until a joiner is to count; who writes gives out the numbers himself.
        let reads = want == Some(LeaseKind::Read) && f.deposed.is_empty();
        let in_the_way = |j: &GroupJoin| !reads || j.ready || j.committing;
        if want.is_some() && !reads {
            cancel.extend(chunks.iter().filter(|c| l.joins.contains_key(c)));
        }
        if fenced {
            // A fenced session may still read from a server that has not heard of it: its chunks are fenced one by one.
            for c in &chunks {
                let rec = self.state.chunk(*c);
                let open = rec.is_some_and(|r| r.view.members.iter().any(|m| self.unanswered(m.cs)));
                let known = self.leader.as_ref().is_some_and(|l| l.lasts.contains_key(c));
                if open && !known {
                    take.push(*c);
                }
            }
        }
        for c in cancel {
            joins::cancel_join(self, c);
        }
        for c in take {
            takeovers::start_takeover(self, c);
        }
        let Some(l) = &self.leader else { return true };
        l.busy(ino)
            || chunks.iter().any(|c| {
                l.joins.get(c).is_some_and(in_the_way)
                    || l.takeover_queue.contains(c)
                    || (l.changing.contains(c) && !l.takeovers.is_empty())
            })
    }

    fn grant_message(&self, ino: InodeId, session: SessionId, kind: LeaseKind, epoch: LeaseEpoch) -> Option<Grant> {
        let l = self.leader.as_ref()?;
        let incarnation = l.attached.get(&session)?.incarnation;
        let meta_state::InodeView { attr, layout, zero, .. } = self.state.inode(ino)?;
        let chunks = self.state.all_chunks(ino).take(GRANT_CHUNKS);
        let chunks = chunks.filter_map(|(index, chunk, _)| self.chunk_grant(index, chunk)).collect();
        let held = l.files.get(&ino).and_then(|f| f.holders.get(&session));
        let (unbroken, replaces) = held.map_or((epoch, LeaseEpoch::NONE), |h| (h.unbroken, h.replaces));
        let share = held.map_or(LeaseEpoch::NONE, |h| h.share);
        Some(Grant {
            session,
            incarnation,
            ino,
            kind,
            epoch,
            attr,
            layout,
            chunks,
            losses: self.state.losses(ino).map(told).collect(),
            unbroken,
            replaces,
            zero,
            share,
        })
    }
    pub(crate) fn chunk_grant(&self, index: u32, chunk: ChunkId) -> Option<ChunkGrant> {
        let l = self.leader.as_ref()?;
        let rec = self.state.chunk(chunk)?;
        Some(ChunkGrant { index, chunk, view: rec.view.clone(), last: l.lasts.get(&chunk).copied() })
    }

    /// A holder that was asked for its lease says how much it has left to do: as long as that grows less it is waited for.
    pub(crate) fn leaving(&mut self, session: SessionId, ino: InodeId, epoch: LeaseEpoch, left: u64) {
        let now = self.now;
        let file = self.leader.as_mut().and_then(|l| l.files.get_mut(&ino));
        let held = file.and_then(|f| f.holders.get_mut(&session)).filter(|h| h.epoch == epoch);
        if let Some(r) = held.and_then(|h| h.recalled.as_mut()) {
            r.leaving(now, left);
        }
    }
    /// A lease comes back. The file's end is committed first.
    pub(crate) fn take_back(
        &mut self,
        session: SessionId,
        ino: InodeId,
        epoch: LeaseEpoch,
        end: Option<FileEnd>,
        lasts: Vec<(ChunkId, Seq)>,
        fx: &mut Effects,
    ) {
        let Some(l) = &self.leader else { return };
        let held = l.files.get(&ino).and_then(|f| f.holders.get(&session)).map(|h| (h.epoch, h.kind));
        let writer = held == Some((epoch, LeaseKind::Write));
        match end {
            Some(e) if writer && e.ino == ino => {
                let cmd = Command::SetEnds { ends: vec![e], source: EndSource::Holder, time: self.wall() };
                self.propose(&cmd, Then::Return { session, ino, epoch, lasts });
            }
            _ => self.return_now(session, ino, epoch, if writer { lasts } else { vec![] }, fx),
        }
    }
    pub(crate) fn return_now(
        &mut self,
        session: SessionId,
        ino: InodeId,
        epoch: LeaseEpoch,
        lasts: Vec<(ChunkId, Seq)>,
        fx: &mut Effects,
    ) {
        let Some(l) = &mut self.leader else { return };
        l.dirty.insert(ino);
        let f = l.files.entry(ino).or_default();
        if f.holders.get(&session).is_some_and(|h| h.epoch <= epoch) {
            let h = f.holders.remove(&session);
            match h.as_ref().is_some_and(|h| h.recalled.is_some()) {
                true => l.openers.insert(ino, session),
                false => l.openers.remove(ino, session),
            }
            if h.is_some_and(|h| h.kind == LeaseKind::Write && h.epoch == epoch) {
                // A lease of an earlier term may have ended long ago without its holder's knowledge: what it knows of the
                // chunks is asked of the servers instead.
                mark!("lease.writer-returned");
                let trusted = epoch.term() == l.term;
                for (c, s) in lasts {
                    l.lasts.remove(&c);
                    l.lasts.extend(trusted.then_some((c, s)));
                }
            }
        }
        self.share_over(ino, session, epoch, Ended::Returned);
        self.send_session(session, FromMds::ReturnOk { ino, epoch }, fx);
    }

    /// Commits ends that a takeover, a fence or a former holder has found. The files wait for it: a grant names the end.
    /// `tell`, the former holder,
    /// hears of it; None = copies said it. False = it cannot be proposed now.
    pub(crate) fn find_ends(&mut self, ends: Vec<FileEnd>, tell: Option<SessionId>) -> bool {
        let of: Vec<(InodeId, LeaseEpoch)> = ends.iter().map(|e| (e.ino, e.epoch)).collect();
        let source = if tell.is_some() { EndSource::Former } else { EndSource::Fence };
        let cmd = Command::SetEnds { ends, source, time: self.wall() };
        let proposed = self.propose(&cmd, Then::Ends { ends: of.clone(), tell });
        if let Some(l) = self.leader.as_mut().filter(|_| proposed) {
            for (ino, _) in of {
                *l.ending.entry(ino).or_default() += 1;
            }
        }
        proposed
    }
    /// What a grant of this file had to wait for is committed, once.
    pub(crate) fn known(&mut self, ino: InodeId) {
        let Some(l) = &mut self.leader else { return };
        let left = l.ending.get(&ino).map_or(0, |n| n.saturating_sub(1));
        if left == 0 {
            l.ending.remove(&ino);
            l.dirty.insert(ino);
        } else {
            l.ending.insert(ino, left);
        }
    }
    /// They are committed.
    pub(crate) fn ended(&mut self, ends: &[(InodeId, LeaseEpoch)], tell: Option<SessionId>, fx: &mut Effects) {
        for (ino, _) in ends {
            self.known(*ino);
        }
        for (ino, epoch) in ends.iter().copied() {
            if let Some(session) = tell {
                self.send_session(session, FromMds::ReturnOk { ino, epoch }, fx);
            }
        }
    }

    /// Takes all leases on a file away. They count as gone when their holders say so, or when all chunks are fenced.
    pub(crate) fn depose(&mut self, ino: InodeId, fx: &mut Effects) {
        let Some(l) = &mut self.leader else { return };
        let holders: Vec<SessionId> = l.file(ino).holders.keys().copied().collect();
        for session in holders {
            self.depose_session(ino, session, fx);
        }
    }
    /// Takes the lease of one session away.
    pub(crate) fn depose_session(&mut self, ino: InodeId, session: SessionId, fx: &mut Effects) {
        let now = self.now;
        let Some(l) = &mut self.leader else { return };
        let fence = l.mint();
        let Some(Held { kind, epoch, unbroken, .. }) = l.file(ino).holders.remove(&session) else { return };
        l.take_lease(ino, session, epoch, fence, (now, now));
        self.share_over(ino, session, epoch, Ended::Taken);
        self.may_show(ino, session);
        let Some(l) = &mut self.leader else { return };
        if kind == LeaseKind::Write {
            l.file(ino).last_writer = Some((session, unbroken));
            for (_, c, _) in self.state.all_chunks(ino) {
                l.lasts.remove(&c);
            }
        }
        self.send_session(session, FromMds::Gone { ino, epoch }, fx);
    }
    /// The kernel of the host of a session that lost this file may show content of it, until it says otherwise or its time is
    /// up: whatever it was answered was asked before it was heard of last, or behind the word that the lease is gone.
    pub(crate) fn may_show(&mut self, ino: InodeId, session: SessionId) {
        let Some(l) = self.leader.as_mut().filter(|_| self.state.may_cache(session)) else { return };
        let heard = l.attached.get(&session).map_or(self.now, |a| a.heard);
        l.file(ino).shown.insert(session, heard + CONTACT_KEPT);
    }
    pub(crate) fn gone_ok(&mut self, session: SessionId, ino: InodeId, epoch: LeaseEpoch, end: Option<FileEnd>) {
        if let Some(e) = end.filter(|e| e.ino == ino)
            && !self.find_ends(vec![e], Some(session))
        {
            mark!("lease.end-not-proposed");
            return; // asked again
        }
        // It issues nothing more, but what it has issued may stand in front of servers still.
        self.share_over(ino, session, epoch, Ended::Fenced);
        let Some(l) = &mut self.leader else { return };
        let f = l.file(ino);
        f.deposed.retain(|d| d.session != session || d.epoch > epoch);
        if f.deposed.iter().all(|d| d.session != session) {
            f.shown.remove(&session);
        }
        // An older life of the grant that this answers is over as well.
        if f.holders.get(&session).is_some_and(|h| h.epoch <= epoch) {
            f.holders.remove(&session);
        }
    }
    /// A holder does not say that its lease is over. Whoever leads later must not believe it then.
    fn raise_floor(&mut self, ino: InodeId, session: SessionId, epoch: LeaseEpoch) {
        if !self.cfg.rules.lease_floors {
            return self.floored(ino, session, epoch);
        }
        mark!("lease.floor-raised");
        let floor = LeaseEpoch(epoch.0 + 1);
        let proposed = self.propose(&Command::LeaseFloor { ino, epoch: floor }, Then::Floor { ino, session, epoch });
        let file = self.leader.as_mut().and_then(|l| l.files.get_mut(&ino));
        let deposed = file.and_then(|f| f.deposed.iter_mut().find(|d| d.session == session && d.epoch == epoch));
        if let Some(d) = deposed {
            d.flooring = proposed;
        }
    }
    /// It is committed: now its chunks are fenced.
    pub(crate) fn floored(&mut self, ino: InodeId, session: SessionId, epoch: LeaseEpoch) {
        let Some(l) = &mut self.leader else { return };
        let Some(f) = l.files.get_mut(&ino) else { return };
        let Some(d) = f.deposed.iter_mut().find(|d| d.session == session && d.epoch == epoch) else { return };
        d.fenced_all = true;
        f.suspects.extend(self.state.all_chunks(ino).map(|(_, c, _)| c));
        l.dirty.insert(ino);
    }
    /// A holder cannot use a chunk: it gives the lease back, then the chunk is taken over.
    pub(crate) fn chunk_unsettled(
        &mut self,
        session: SessionId,
        ino: InodeId,
        epoch: LeaseEpoch,
        chunk: ChunkId,
        fx: &mut Effects,
    ) {
        let belongs = self.state.chunk(chunk).is_some_and(|r| r.ino == ino);
        let Some(l) = &mut self.leader else { return };
        let held = l.files.get(&ino).and_then(|f| f.holders.get(&session)).is_some_and(|h| h.epoch == epoch);
        if !held || !belongs {
            mark!("lease.unsettled-not-held");
            return self.send_session(session, FromMds::Gone { ino, epoch }, fx);
        }
        mark!("lease.unsettled");
        l.file(ino).suspects.insert(chunk);
        l.lasts.remove(&chunk);
        self.depose(ino, fx);
    }
    pub(crate) fn forget_file(&mut self, ino: InodeId, fx: &mut Effects) {
        let Some(l) = &mut self.leader else { return };
        if let Some(f) = l.files.remove(&ino) {
            for r in f.stats {
                self.new_reads.push(r);
            }
            for (s, h) in f.holders {
                self.send_session(s, FromMds::Gone { ino, epoch: h.epoch }, fx);
            }
            for w in f.queue {
                self.log.push(format!("session {} waited for inode {ino}, which is gone", w.session));
            }
        }
    }

    pub(crate) fn sweep_leases(&mut self, fx: &mut Effects) {
        let now = self.now;
        let Some(l) = &mut self.leader else { return };
        let mut depose = vec![];
        let mut floor = vec![];
        let mut send = vec![];
        let mut log = vec![];
        for (ino, f) in &mut l.files {
            for (s, h) in &mut f.holders {
                let Some(r) = &mut h.recalled else { continue };
                let reset = l.attached.get(s).is_none_or(|a| a.reset.is_some());
                let patience = match r.answered() {
                    _ if reset => RECALL_RESET,
                    false if !self.state.may_cache(*s) => RECALL_SILENT,
                    _ => RECALL,
                };
                if r.ignored(now, patience) {
                    mark!("lease.recall-ignored");
                    log.push(format!("session {s} does not give back inode {ino}: its lease is taken"));
                    depose.push(*ino);
                } else if now.since(r.sent) >= AGAIN {
                    r.sent = now;
                    let m = FromMds::Recall { ino: *ino, epoch: h.epoch, keep: LeaseKind::None };
                    send.push((*s, m));
                }
            }
            for d in &mut f.deposed {
                if now.since(d.sent) >= AGAIN {
                    d.sent = now;
                    send.push((d.session, FromMds::Gone { ino: *ino, epoch: d.epoch }));
                }
                // Its word cannot come over a connection that broke, and one has been waited for already.
                let reset = l.attached.get(&d.session).is_none_or(|a| a.reset.is_some());
                let patience = match self.state.may_cache(d.session) {
                    _ if reset => Nanos::ZERO,
                    true => GONE,
                    false => GONE_BARE,
                };
                if !d.flooring && now.since(d.since) >= patience {
                    floor.push((*ino, d.session, d.epoch));
                }
            }
            let shown = f.shown.len();
            f.shown.retain(|_, until| now < *until);
            if f.shown.len() < shown {
                l.dirty.insert(*ino);
            }
            if !f.queue.is_empty() || !f.stats.is_empty() || !f.suspects.is_empty() || f.telling.is_some() {
                l.dirty.insert(*ino);
            }
        }
        self.log.append(&mut log);
        for (s, m) in send {
            self.send_session(s, m, fx);
        }
        for (ino, session, epoch) in floor {
            self.raise_floor(ino, session, epoch);
        }
        for ino in depose {
            if let Some(f) = self.leader.as_mut().and_then(|l| l.files.get_mut(&ino)) {
                f.suspects.extend(self.state.all_chunks(ino).map(|(_, c, _)| c));
            }
            self.depose(ino, fx);
        }
    }
}

fn told(l: meta_state::Loss) -> ChunkLoss {
    ChunkLoss { chunk: l.chunk, epoch: l.epoch, written: l.written, last: l.last }
}

pub(crate) fn recall(
    f: &mut crate::leader::FileLease,
    sessions: &[SessionId],
    now: Nanos,
    ino: InodeId,
    fx: &mut Effects,
    attached: &std::collections::BTreeMap<SessionId, crate::leader::Attached>,
) {
    for s in sessions {
        if let Some(h) = f.holders.get_mut(s)
            && h.recalled.is_none()
        {
            h.recalled = Some(Recalled::new(now));
            if let Some(a) = attached.get(s) {
                let m = FromMds::Recall { ino, epoch: h.epoch, keep: LeaseKind::None };
                fx.send.push((types::NodeId::Client(a.incarnation), wire::Msg::FromMds(m)));
            }
        }
    }
}
