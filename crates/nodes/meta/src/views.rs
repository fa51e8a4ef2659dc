//! Views: what holders wish, what is proposed, who is told (protocol section 5).

use crate::MetaServer;
use crate::leader::{Accusation, GroupJoin, Recalled};
use crate::limits::{ACCUSATION_KEPT, ACCUSED};
use crate::propose::Then;
use host::node::Effects;
use marks::mark;
use meta_state::{Command, Outcome, ViewChange, ViewResult};
use replica::sequencer::Sequencer;
use types::{ChunkId, InodeId, LeaseEpoch, Member, Nanos, SessionId, View, ViewVer};
use wire::meta::{DropReason, ViewWish};
use wire::{FromMds, Refusal};

impl MetaServer {
    /// A holder's wish about a view.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn view_wish(
        &mut self,
        session: SessionId,
        ino: InodeId,
        epoch: LeaseEpoch,
        chunk: ChunkId,
        ver: ViewVer,
        wish: ViewWish,
        fx: &mut Effects,
    ) {
        let Some(l) = &mut self.leader else { return };
        let held = l.files.get(&ino).and_then(|f| f.holders.get(&session)).is_some_and(|h| h.epoch == epoch);
        if !held {
            return self.send_session(session, FromMds::Gone { ino, epoch }, fx);
        }
        let Some(rec) = self.state.chunk(chunk).filter(|r| r.ino == ino) else { return };
        let view = rec.view.clone();
        if view.ver != ver {
            return self.send_session(session, FromMds::Record { ino, epoch, chunk, view }, fx);
        }
        if l.changing.contains(&chunk) {
            return;
        }
        match wish {
            ViewWish::Add(m) if view.joiner == Some(m) && self.may_grow(chunk) => {
                self.change(chunk, ver, ViewChange::JoinCommit(m));
            }
            ViewWish::Cancel(m) if view.joiner == Some(m) => self.change(chunk, ver, ViewChange::JoinCancel(m)),
            ViewWish::Drop(m, reason) if view.has(m) => {
                self.accuse(chunk, m, reason, fx);
            }
            _ => {}
        }
    }
    /// A holder asks to drop a member of the view. Proof, or its silence for some time, is wanted.
    fn accuse(&mut self, chunk: ChunkId, m: Member, reason: DropReason, fx: &mut Effects) {
        let now = self.now;
        let Some(rec) = self.state.chunk(chunk) else { return };
        let (ino, view) = (rec.ino, rec.view);
        let proof = matches!(reason, DropReason::Refused(_));
        let dead = |o: &Member| self.servers.get(&o.cs).is_none_or(|s| s.dead(now));
        let Some(l) = &mut self.leader else { return };
        let a = l.accused.entry((chunk, m)).or_insert(Accusation { first: now, newest: now });
        a.newest = now;
        let long = now.since(a.first) >= ACCUSED;
        if !(proof || dead(&m) || long) {
            return;
        }
        let others = || view.members.iter().filter(|o| o.cs != m.cs);
        if !proof && others().all(dead) && self.cfg.rules.somebody_stays {
            // Who is silent as all others are may be the last good copy. It is dropped, or the lease taken back, when it can be
            // known what the others are; until then the holder keeps what it has under way.
            mark!("views.all-silent");
            return;
        }
        l.accused.remove(&(chunk, m));
        // A copy that lost its memory, or another id than the view's, may be all that is left of something only a
        // fence can see. And who drops a silent member while another one is unclean may drop the last good copy.
        let doubtful = |o: &Member| !l.counted.contains(&o.cs) || l.doubtful.contains(&(o.cs, chunk));
        let lost = matches!(reason, DropReason::Refused(Refusal::Unclean | Refusal::NoCopy)) || others().any(doubtful);
        if view.members.len() > usize::from(rec.min) && !lost {
            self.change(chunk, view.ver, ViewChange::Drop(m));
        } else {
            // At its smallest the lease is taken back, and the merge or a replacement makes the chunk whole.
            mark!("views.at-its-smallest");
            l.unwanted.insert((chunk, m));
            l.file(ino).suspects.insert(chunk);
            l.lasts.remove(&chunk);
            self.depose(ino, fx);
        }
    }
    /// May a further copy of this chunk count, for all that fenced sessions may still read?
    pub(crate) fn may_grow(&self, chunk: ChunkId) -> bool {
        if !self.cfg.rules.fences_heard_before_growth {
            return true;
        }
        let (Some(l), Some(rec)) = (&self.leader, self.state.chunk(chunk)) else { return false };
        let may = l.may_grow(&rec.view, rec.min, self.now);
        if !may {
            mark!("views.fences-first");
        }
        may
    }
    /// What nobody has repeated is an old story.
    pub(crate) fn sweep_accusations(&mut self) {
        let now = self.now;
        let Some(l) = &mut self.leader else { return };
        let before = l.accused.len();
        l.accused.retain(|_, a| now.since(a.newest) <= ACCUSATION_KEPT);
        if l.accused.len() < before {
            mark!("views.old-accusation");
        }
    }
    pub(crate) fn change(&mut self, chunk: ChunkId, ver: ViewVer, change: ViewChange) {
        if self.propose(&Command::ChangeView { chunk, ver, change }, Then::View { chunk })
            && let Some(l) = &mut self.leader
        {
            l.changing.insert(chunk);
        }
    }

    /// Tells every holder of the file what the view is.
    pub(crate) fn tell_view(&mut self, chunk: ChunkId, fx: &mut Effects) {
        let Some(rec) = self.state.chunk(chunk) else { return };
        let (ino, view) = (rec.ino, rec.view.clone());
        let Some(l) = &mut self.leader else { return };
        l.dirty.insert(ino);
        let holders: Vec<(SessionId, LeaseEpoch)> =
            l.files.get(&ino).map(|f| f.holders.iter().map(|(s, h)| (*s, h.epoch)).collect()).unwrap_or_default();
        for (s, epoch) in holders {
            self.send_session(s, FromMds::Record { ino, epoch, chunk, view: view.clone() }, fx);
        }
    }

    /// Asks all holders of a file to give back, so that the leader can look after its chunks.
    pub(crate) fn recall_all(&mut self, ino: InodeId) {
        let now = self.now;
        let Some(l) = &mut self.leader else { return };
        if let Some(f) = l.files.get_mut(&ino) {
            for h in f.holders.values_mut() {
                // Sent with the next look at all leases.
                h.recalled.get_or_insert(Recalled { sent: Nanos::ZERO, ..Recalled::new(now) });
            }
        }
    }
}

/// A view change of a holder or of the leader's own has been applied.
pub(crate) fn view_changed(m: &mut MetaServer, chunk: ChunkId, outcome: Outcome, fx: &mut Effects) {
    let now = m.now;
    let rules = m.cfg.rules;
    let Some(l) = &mut m.leader else { return };
    l.changing.remove(&chunk);
    let Outcome::View(result) = outcome else { return };
    let view: View = match result {
        ViewResult::Ok(v) => v,
        ViewResult::Gone => {
            l.joins.remove(&chunk);
            return;
        }
        ViewResult::Stale(_) | ViewResult::BelowMin(_) | ViewResult::Refused(..) => {
            mark!("views.change-refused");
            // A join goes on if the view is still the one that it is about.
            let now = m.state.chunk(chunk).map(|r| (r.view.ver, r.view.joiner));
            match l.joins.get_mut(&chunk) {
                Some(j) if now == Some((j.seq.ver(), Some(j.member))) => j.committing = false,
                _ => _ = l.joins.remove(&chunk),
            }
            return m.tell_view(chunk, fx);
        }
    };
    let Some(rec) = m.state.chunk(chunk) else { return };
    let ino = rec.ino;
    let written = l.files.get(&ino).is_some_and(|f| f.writer().is_some());
    match (l.joins.contains_key(&chunk), view.joiner) {
        (true, None) => {
            l.joins.remove(&chunk); // committed or cancelled
            l.dirty.insert(ino);
        }
        (false, Some(member)) if !written => {
            // Nobody writes: the leader drives the join under an epoch of its own.
            if let Some(last) = l.lasts.get(&chunk).copied() {
                let epoch = l.mint();
                let (norm, min) = (usize::from(rec.norm), usize::from(rec.min));
                let group = SessionId::GROUP;
                let seq = Sequencer::new(rules, chunk, ino, group, epoch, norm, min, view.clone(), last, now);
                l.joins.insert(chunk, GroupJoin { ino, seq, member, since: now, ready: false, committing: false });
            }
        }
        _ => {}
    }
    m.tell_view(chunk, fx);
}
