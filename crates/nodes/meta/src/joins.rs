//! Joins under way: which the leader drives, and what becomes of all.

use crate::MetaServer;
use crate::limits::{JOIN_IDLE, JOIN_TIMEOUT};
use crate::propose::Then;
use crate::views::view_changed;
use host::node::Effects;
use marks::mark;
use meta_state::{Command, Outcome, ViewChange};
use replica::sequencer::SeqOut;
use types::{ChunkId, CsId, InodeId, NodeId};
use wire::DataCtl;
use wire::meta::ViewWish;

impl MetaServer {
    /// Messages about joins that the leader drives.
    pub(crate) fn join_message(&mut self, cs: CsId, d: DataCtl, fx: &mut Effects) {
        let now = self.now;
        let Some(l) = &mut self.leader else { return };
        let mut out = SeqOut::default();
        let chunk = match d {
            DataCtl::JoinState { ans, copied, .. } => {
                let Some(j) = l.joins.get_mut(&ans.chunk) else { return };
                if copied {
                    j.since = now;
                }
                j.seq.join_state(cs, &ans, copied, now, &mut out);
                ans.chunk
            }
            DataCtl::Ack(ans) => {
                let Some(j) = l.joins.get_mut(&ans.chunk) else { return };
                j.seq.answer(cs, &ans, now, &mut out);
                ans.chunk
            }
            _ => return,
        };
        self.turn_join(chunk, out, fx);
    }

    fn turn_join(&mut self, chunk: ChunkId, out: SeqOut, fx: &mut Effects) {
        for (cs, m) in out.send {
            fx.send.push((NodeId::Cs(cs), m));
        }
        let Some(l) = &mut self.leader else { return };
        let Some(j) = l.joins.get_mut(&chunk) else { return };
        if out.fenced {
            return cancel_join(self, chunk);
        }
        for w in out.wishes {
            match w {
                ViewWish::Add(m) if m == j.member => {
                    mark!("views.group-join-done");
                    let ino = j.ino;
                    // Where it has to wait it asks again.
                    if !self.may_grow(chunk) {
                        return;
                    }
                    // Readers must not count on a view that is about to grow: they give back first. So does one whose lease
                    // was taken, until it says that it knows: it may read from a member that no later fence needs to reach.
                    let leaves_first = self.cfg.rules.readers_leave_before_join;
                    let Some(l) = &mut self.leader else { return };
                    if let Some(f) = l.files.get(&ino).filter(|_| leaves_first) {
                        if !f.deposed.is_empty() {
                            return;
                        }
                        if !f.holders.is_empty() {
                            mark!("views.readers-leave-first");
                            l.joins.entry(chunk).and_modify(|j| j.ready = true);
                            return self.recall_all(ino);
                        }
                    }
                    return self.commit_join(chunk);
                }
                ViewWish::Cancel(_) => return cancel_join(self, chunk),
                _ => {}
            }
        }
    }

    fn commit_join(&mut self, chunk: ChunkId) {
        let Some(ver) = self.state.chunk(chunk).map(|r| r.view.ver) else { return };
        let Some(l) = &mut self.leader else { return };
        if l.changing.contains(&chunk) {
            return;
        }
        let Some(j) = l.joins.get_mut(&chunk).filter(|j| !j.committing) else { return };
        j.committing = true;
        let m = j.member;
        self.change(chunk, ver, ViewChange::JoinCommit(m));
    }
    /// Nobody holds this file any more: joiners of its chunks that have everything count from now on.
    pub(crate) fn commit_ready(&mut self, ino: InodeId) {
        let Some(l) = &self.leader else { return };
        let ready: Vec<ChunkId> =
            l.joins.iter().filter(|(_, j)| j.ino == ino && j.ready && !j.committing).map(|(c, _)| *c).collect();
        for c in ready {
            match self.may_grow(c) {
                true => self.commit_join(c),
                false => {
                    self.leader.as_mut().and_then(|l| l.joins.get_mut(&c)).into_iter().for_each(|j| j.ready = false);
                }
            }
        }
    }

    /// Joins that the leader drives go on, and idle joiners are looked after.
    pub(crate) fn sweep_joins(&mut self, fx: &mut Effects) {
        let now = self.now;
        let Some(l) = &mut self.leader else { return };
        let mut outs = vec![];
        let mut cancel = vec![];
        for (c, j) in &mut l.joins {
            let cs = j.member.cs;
            let lost = self.servers.get(&cs).is_none_or(|s| s.dead(now)) || self.leaving.contains(&cs);
            if lost || now.since(j.since) >= JOIN_TIMEOUT {
                cancel.push(*c);
                continue;
            }
            let mut out = SeqOut::default();
            j.seq.tick(now, &mut out);
            outs.push((*c, out));
        }
        for c in cancel {
            cancel_join(self, c);
        }
        for (c, out) in outs {
            self.turn_join(c, out, fx);
        }
        self.tend_joiners(fx);
    }

    /// Joiners that nobody drives are cancelled; holders who may not have heard of theirs are told again.
    fn tend_joiners(&mut self, fx: &mut Effects) {
        let now = self.now;
        let joining: Vec<ChunkId> = self.state.joining().collect();
        let Some(l) = &mut self.leader else { return };
        l.join_began.retain(|c, _| joining.contains(c));
        let mut cancel = vec![];
        let mut tell = vec![];
        let mut recall = vec![];
        for c in joining {
            if l.joins.contains_key(&c) || l.changing.contains(&c) || l.taking(c) {
                continue;
            }
            let Some(rec) = self.state.chunk(c) else { continue };
            let Some(j) = rec.view.joiner else { continue };
            let written = l.files.get(&rec.ino).is_some_and(|f| f.writer().is_some());
            let began = *l.join_began.entry(c).or_insert(now);
            let lost = self.servers.get(&j.cs).is_none_or(|s| s.dead(now)) || self.leaving.contains(&j.cs);
            if !written || lost || now.since(began) >= JOIN_TIMEOUT {
                cancel.push((c, rec.view.ver, j));
            } else if now.since(began) >= JOIN_IDLE {
                mark!("views.join-of-idle-holder");
                recall.push(rec.ino); // its holder has no use for this chunk; the leader drives the next join
            } else if now.since(began).as_millis() % 1000 < 60 && now != began {
                tell.push(c);
            }
        }
        for c in tell {
            self.tell_view(c, fx);
        }
        for ino in recall {
            self.recall_all(ino);
        }
        for (c, ver, j) in cancel {
            self.change(c, ver, ViewChange::JoinCancel(j));
        }
    }
}

pub(crate) fn join_cancelled(m: &mut MetaServer, chunk: ChunkId, outcome: Outcome, fx: &mut Effects) {
    if let Some(l) = &mut m.leader {
        l.joins.remove(&chunk);
    }
    view_changed(m, chunk, outcome, fx);
}
/// Gives up a join that the leader drives.
pub(crate) fn cancel_join(m: &mut MetaServer, chunk: ChunkId) {
    let Some(rec) = m.state.chunk(chunk) else {
        mark!("views.cut-while-joining");
        // Its file was removed or cut meanwhile.
        if let Some(l) = &mut m.leader {
            l.joins.remove(&chunk);
        }
        return;
    };
    let (ver, joiner) = (rec.view.ver, rec.view.joiner);
    let Some(l) = &mut m.leader else { return };
    if l.changing.contains(&chunk) {
        return;
    }
    match joiner {
        Some(j) => {
            let change = ViewChange::JoinCancel(j);
            if m.propose(&Command::ChangeView { chunk, ver, change }, Then::JoinCancelled { chunk })
                && let Some(l) = &mut m.leader
            {
                l.changing.insert(chunk);
            }
        }
        None => {
            l.joins.remove(&chunk);
        }
    }
}
