//! Views: who is dropped, who joins, what is taken over (protocol sections 5 to 7).

use crate::MetaServer;
use crate::leader::{Accusation, FileLease, GroupJoin, Later, Running, ServersFor};
use crate::limits::{ACCUSED, JOIN_IDLE, JOIN_TIMEOUT, JOINS_MAX, TAKEOVERS_MAX};
use crate::propose::Then;
use host::node::Effects;
use marks::mark;
use meta_state::{Command, Outcome, ViewChange, ViewResult};
use replica::sequencer::{SeqOut, Sequencer};
use replica::takeover::{Action, Takeover};
use types::{ChunkId, CopyId, CsId, InodeId, LeaseEpoch, Nanos, NodeId, SessionId, View, ViewVer};
use wire::meta::{DropReason, FileEnd, ViewWish};
use wire::{CopyReport, DataCtl, FromMds, Msg, Refusal};

/// Up to `n` living servers for a new chunk, the emptier ones first, rotated by `seed`; none of `without`. Servers on
/// hosts that have none yet come before second ones on the same host.
pub(crate) fn place(m: &MetaServer, n: usize, without: &[CsId], seed: u64) -> Vec<CsId> {
    let now = m.now;
    let mut v: Vec<(u64, CsId, &str)> = m
        .servers
        .iter()
        .filter(|(cs, s)| s.known && !s.dead(now) && s.trouble.is_empty() && !without.contains(cs))
        .filter(|(_, s)| s.space.capacity.saturating_sub(s.space.allocated) > s.space.capacity / 20)
        .map(|(cs, s)| (s.space.allocated * 16 / s.space.capacity.max(1), *cs, s.host.as_str()))
        .collect();
    if v.is_empty() {
        return vec![];
    }
    v.sort_unstable();
    let len = v.len();
    v.rotate_left((seed % len as u64) as usize);
    let mut hosts: Vec<&str> = vec![];
    let mut first = vec![];
    let mut second = vec![];
    for (_, cs, host) in v {
        if hosts.contains(&host) {
            second.push(cs);
        } else {
            hosts.push(host);
            first.push(cs);
        }
    }
    first.extend(second);
    first.truncate(n);
    first
}

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
        let now = self.now;
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
            ViewWish::Add(m) if view.joiner == Some(m) => self.change(chunk, ver, ViewChange::JoinCommit(m)),
            ViewWish::Cancel(m) if view.joiner == Some(m) => self.change(chunk, ver, ViewChange::JoinCancel(m)),
            ViewWish::Drop(m, reason) if view.has(m) => {
                let proof = matches!(reason, DropReason::Refused(_));
                let dead = self.servers.get(&m.cs).is_none_or(|s| s.dead(now));
                let Some(l) = &mut self.leader else { return };
                let a = l.accused.entry((chunk, m)).or_insert(Accusation { first: now, newest: now });
                if now.since(a.newest) > Nanos::from_secs(1) {
                    mark!("views.old-accusation");
                    a.first = now; // an old story
                }
                a.newest = now;
                let long = now.since(a.first) >= ACCUSED;
                if !(proof || dead || long) {
                    return;
                }
                l.accused.remove(&(chunk, m));
                // A copy that lost its memory, or another id than the view's, may be all that is left of something only a
                // fence can see. And who drops a silent member while another one is unclean may drop the last good copy.
                let lost = matches!(reason, DropReason::Refused(Refusal::Unclean | Refusal::NoCopy))
                    || view
                        .members
                        .iter()
                        .any(|o| o.cs != m.cs && (!l.counted.contains(&o.cs) || l.doubtful.contains(&(o.cs, chunk))));
                if view.members.len() > usize::from(rec.min) && !lost {
                    self.change(chunk, ver, ViewChange::Drop(m));
                } else {
                    // At its smallest the lease is taken back, and the merge or a replacement makes the chunk whole.
                    mark!("views.at-its-smallest");
                    l.unwanted.insert((chunk, m));
                    l.file(ino).suspects.insert(chunk);
                    l.lasts.remove(&chunk);
                    self.depose(ino, fx);
                }
            }
            _ => {}
        }
    }
    fn change(&mut self, chunk: ChunkId, ver: ViewVer, change: ViewChange) {
        if self.propose(&Command::ChangeView { chunk, ver, change }, Then::View { chunk })
            && let Some(l) = &mut self.leader
        {
            l.changing.insert(chunk);
        }
    }

    /// Tells every holder of the file what the view is.
    fn tell_view(&mut self, chunk: ChunkId, fx: &mut Effects) {
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

    fn turn_takeover(&mut self, chunk: ChunkId, actions: Vec<Action>, fx: &mut Effects) {
        for a in actions {
            let Some(l) = &mut self.leader else { return };
            let Some(r) = l.takeovers.get(&chunk) else { return };
            let (ino, epoch) = (r.ino, r.takeover.epoch());
            match a {
                Action::Send(cs, m) => fx.send.push((NodeId::Cs(cs), Msg::MdsToCs(m))),
                Action::Change { drop, add, loss } => {
                    let Some(rec) = self.state.chunk(chunk) else { return }; // the next step clears up
                    let ver = rec.view.ver;
                    let time = self.wall();
                    let then = Then::Takeover { chunk, epoch };
                    if let Some((written, last)) = loss {
                        let named = self.cfg.rules.losses_name_takeovers;
                        let epoch = if named { epoch } else { LeaseEpoch(written.0 + 1) };
                        let loss = Command::Loss { chunk, epoch, written, last, time };
                        let text = format!(
                            "chunk {chunk} of inode {ino}: every server lost its memory; writes after record {last} that \
                             were not flushed are lost"
                        );
                        let event = Command::Event { time, text };
                        let change = ViewChange::Crown { survivors: add };
                        let change = Command::ChangeView { chunk, ver, change };
                        self.propose(&Command::Batch(vec![change, loss, event]), then);
                    } else {
                        // A copy that was being filled is given up, so that its server may take a whole one.
                        let joiner = rec.view.joiner.map(|j| (ver, ViewChange::JoinCancel(j)));
                        let next = if joiner.is_some() { ver.next() } else { ver };
                        let changes = joiner.into_iter().chain([(next, ViewChange::Replace { drop, add })]);
                        let all = changes.map(|(ver, change)| Command::ChangeView { chunk, ver, change });
                        let all = Command::Batch(all.collect());
                        self.propose(&all, then);
                    }
                }
                Action::Mint(count) => {
                    self.propose(&Command::MintCopies { chunk, count }, Then::Takeover { chunk, epoch });
                }
                Action::Done { last, winner } => {
                    if let Some(r) = l.takeovers.remove(&chunk) {
                        // Who took part is clean, whatever its server said of the copy that stood there before.
                        let stay = !self.cfg.rules.doubts_end;
                        l.doubtful.retain(|(cs, c)| stay || *c != chunk || !r.takeover.answered(*cs));
                    }
                    l.unwanted.retain(|(c, _)| *c != chunk);
                    l.lasts.insert(chunk, last);
                    l.dirty.insert(ino);
                    let end = FileEnd {
                        ino,
                        epoch,
                        size: winner.file_end,
                        mtime: winner.mtime,
                        truncate_gen: winner.truncate_gen,
                        zeroed: false,
                    };
                    if winner.file_end > 0 && self.says_more(&end) {
                        self.find_ends(vec![end], None);
                    }
                    self.doubt_again(chunk);
                }
                Action::Restart(why) => {
                    let restarts = r.restarts + 1;
                    if restarts % 20 == 0 {
                        self.log
                            .push(format!("takeover of chunk {chunk} starts again for the {restarts}th time: {why}"));
                    }
                    l.takeovers.remove(&chunk);
                    // At once the first time, then with longer and longer pauses.
                    let wait = Nanos::from_millis(if restarts < 3 { 0 } else { u64::from(restarts.min(20)) * 50 });
                    l.takeovers_later.insert(chunk, Later { ino, at: self.now + wait, restarts });
                    return;
                }
            }
        }
    }

    /// Would a file's end change by this? Not if all of it is committed: a commit for each chunk of a server that comes back
    /// would be a high price for nothing.
    fn says_more(&self, end: &FileEnd) -> bool {
        self.state.inode(end.ino).is_none_or(|i| {
            let same = end.truncate_gen == i.attr.truncate_gen && i.zero.is_none();
            !same || end.size > i.attr.size || end.mtime > i.attr.mtime.max(i.attr.ctime)
        })
    }

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
                    // Readers must not count on a view that is about to grow: they give back first.
                    let ino = j.ino;
                    // So does one whose lease was taken, until it says that it knows: it may read from a member that
                    // no later fence needs to reach.
                    let reads = |f: &FileLease| !f.holders.is_empty() || !f.deposed.is_empty();
                    let read = l.files.get(&ino).is_some_and(reads);
                    if read && self.cfg.rules.readers_leave_before_join {
                        mark!("views.readers-leave-first");
                        return self.recall_all(ino);
                    }
                    if j.committing || l.changing.contains(&chunk) {
                        return;
                    }
                    j.committing = true;
                    let Some(ver) = self.state.chunk(chunk).map(|r| r.view.ver) else { return };
                    return self.change(chunk, ver, ViewChange::JoinCommit(m));
                }
                ViewWish::Cancel(_) => return cancel_join(self, chunk),
                _ => {}
            }
        }
    }

    pub(crate) fn sweep_views(&mut self, fx: &mut Effects) {
        let now = self.now;
        self.start_queued();
        self.start_again();
        // Takeovers step.
        let Some(l) = &mut self.leader else { return };
        let chunks: Vec<ChunkId> = l.takeovers.keys().copied().collect();
        for c in chunks {
            self.step(c, fx);
        }
        // Joins that the leader drives.
        let Some(l) = &mut self.leader else { return };
        let mut outs = vec![];
        let mut cancel = vec![];
        for (c, j) in &mut l.joins {
            let dead = self.servers.get(&j.member.cs).is_none_or(|s| s.dead(now));
            if dead || now.since(j.since) >= JOIN_TIMEOUT {
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
        self.begin_joins();
    }

    /// Asks all holders of a file to give back, so that the leader can look after its chunks.
    pub(crate) fn recall_all(&mut self, ino: InodeId) {
        let now = self.now;
        let Some(l) = &mut self.leader else { return };
        if let Some(f) = l.files.get_mut(&ino) {
            for h in f.holders.values_mut() {
                h.recalled.get_or_insert(now);
            }
        }
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
            let dead = self.servers.get(&j.cs).is_none_or(|s| s.dead(now));
            if !written || dead || now.since(began) >= JOIN_TIMEOUT {
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

    /// Chunks with fewer copies than they want get a joiner.
    fn begin_joins(&mut self) {
        let Some(l) = &self.leader else { return };
        let under_way = l.joins.len() + l.join_began.len();
        let mut begin = vec![];
        let mut take = vec![];
        let mut recall = vec![];
        for c in self.state.degraded().take(256) {
            if begin.len() + under_way >= JOINS_MAX {
                break;
            }
            if l.changing.contains(&c) || l.taking(c) {
                continue;
            }
            let Some(rec) = self.state.chunk(c) else { continue };
            if rec.view.joiner.is_some() {
                continue;
            }
            let f = l.files.get(&rec.ino);
            let busy = f.is_some_and(|f| !f.suspects.is_empty() || !f.deposed.is_empty());
            if busy {
                continue;
            }
            let written = f.is_some_and(|f| f.writer().is_some());
            let waited_for = f.is_some_and(|f| !f.queue.is_empty());
            if !written && waited_for {
                continue;
            }
            let members: Vec<CsId> = rec.view.members.iter().map(|m| m.cs).collect();
            let Some(to) = self.place_joiner(c, &members) else { continue };
            if !written && !l.lasts.contains_key(&c) {
                if f.is_none_or(|f| f.holders.is_empty()) {
                    take.push(c);
                } else {
                    recall.push(rec.ino); // only readers hold it; they come back afterwards
                }
                continue;
            }
            begin.push((c, rec.view.ver, to));
        }
        for (c, ver, to) in begin {
            self.change(c, ver, ViewChange::JoinBegin(to));
        }
        for ino in recall {
            self.recall_all(ino);
        }
        for c in take.into_iter().take(TAKEOVERS_MAX) {
            start_takeover(self, c);
        }
    }

    /// Where a further copy is made: preferably where one stood that has left, because that one lacks little.
    fn place_joiner(&self, chunk: ChunkId, members: &[CsId]) -> Option<CsId> {
        let places = place(self, self.servers.len(), members, chunk.0);
        places.iter().copied().find(|cs| self.state.remnant(*cs, chunk)).or(places.first().copied())
    }

    fn start_again(&mut self) {
        let now = self.now;
        let Some(l) = &mut self.leader else { return };
        let due: Vec<(ChunkId, u32)> =
            l.takeovers_later.iter().filter(|(_, a)| a.at <= now).map(|(c, a)| (*c, a.restarts)).collect();
        for (c, restarts) in due {
            if let Some(l) = &mut self.leader {
                l.takeovers_later.remove(&c);
            }
            begin(self, c, restarts);
        }
    }
    fn start_queued(&mut self) {
        loop {
            let Some(l) = &mut self.leader else { return };
            if l.takeovers.len() >= TAKEOVERS_MAX {
                return;
            }
            let Some(c) = l.takeover_queue.pop_front() else { return };
            begin(self, c, 0);
        }
    }
    fn step(&mut self, chunk: ChunkId, fx: &mut Effects) {
        let now = self.now;
        let Some(l) = &mut self.leader else { return };
        let Some(r) = l.takeovers.get_mut(&chunk) else { return };
        if self.state.chunk(chunk).is_none() {
            mark!("views.cut-while-taken-over");
            // Cut off meanwhile: nobody has a copy of it any more.
            let ino = r.ino;
            l.takeovers.remove(&chunk);
            l.unwanted.retain(|(c, _)| *c != chunk);
            l.doubtful.retain(|(_, c)| *c != chunk);
            l.dirty.insert(ino);
            return;
        }
        let holders_gone = l.files.get(&r.ino).is_none_or(|f| f.holders.is_empty() && f.deposed.is_empty());
        let s = ServersFor { servers: &self.servers, now, holders_gone };
        let actions = r.takeover.step(now, &s);
        self.turn_takeover(chunk, actions, fx);
    }
}

/// Queues a takeover of a chunk that nobody holds.
pub(crate) fn start_takeover(m: &mut MetaServer, chunk: ChunkId) {
    let Some(l) = &mut m.leader else { return };
    if !l.taking(chunk) {
        l.lasts.remove(&chunk);
        l.takeover_queue.push_back(chunk);
        m.start_queued();
    }
}
fn begin(m: &mut MetaServer, chunk: ChunkId, restarts: u32) {
    let now = m.now;
    let rules = m.cfg.rules;
    let Some(l) = &mut m.leader else { return };
    let Some(rec) = m.state.chunk(chunk) else {
        return l.unwanted.retain(|(c, _)| *c != chunk);
    };
    l.joins.remove(&chunk);
    let epoch = l.mint();
    let view = rec.view.clone();
    let deposed: Vec<SessionId> =
        l.files.get(&rec.ino).map(|f| f.deposed.iter().map(|d| d.session).collect()).unwrap_or_default();
    let against = match deposed.as_slice() {
        [one] => *one,
        _ => SessionId::NONE,
    };
    let takeover = Takeover::new(rules, chunk, epoch, usize::from(rec.min), view, CopyId(rec.initial), against, now);
    let accused = l.unwanted.iter().filter(|(c, _)| *c == chunk).map(|(_, m)| *m).collect();
    let takeover = takeover.accusing(accused);
    l.takeovers.insert(chunk, Running { takeover, ino: rec.ino, restarts });
    m.next_sweep = m.next_sweep.min(now);
}

/// A fence was answered.
pub(crate) fn fenced(m: &mut MetaServer, cs: CsId, epoch: LeaseEpoch, report: CopyReport, fx: &mut Effects) {
    let chunk = report.chunk;
    let Some(r) = m.leader.as_mut().and_then(|l| l.takeovers.get_mut(&chunk)) else { return };
    r.takeover.fenced(cs, epoch, report);
    m.step(chunk, fx);
}
/// A copy that lost its memory is clean after all, or is not.
pub(crate) fn cleared(m: &mut MetaServer, cs: CsId, epoch: LeaseEpoch, ok: bool, report: CopyReport, fx: &mut Effects) {
    let chunk = report.chunk;
    let Some(r) = m.leader.as_mut().and_then(|l| l.takeovers.get_mut(&chunk)) else { return };
    r.takeover.cleared(cs, epoch, report, ok);
    m.step(chunk, fx);
}
pub(crate) fn converged(
    m: &mut MetaServer,
    cs: CsId,
    chunk: ChunkId,
    copy: CopyId,
    epoch: LeaseEpoch,
    ok: bool,
    fx: &mut Effects,
) {
    let Some(r) = m.leader.as_mut().and_then(|l| l.takeovers.get_mut(&chunk)) else { return };
    let actions = r.takeover.converged(cs, epoch, copy, ok);
    m.turn_takeover(chunk, actions, fx);
}
pub(crate) fn replaced(
    m: &mut MetaServer,
    cs: CsId,
    epoch: LeaseEpoch,
    ok: bool,
    report: CopyReport,
    fx: &mut Effects,
) {
    let now = m.now;
    let chunk = report.chunk;
    let Some(r) = m.leader.as_mut().and_then(|l| l.takeovers.get_mut(&chunk)) else { return };
    let actions = r.takeover.replaced(cs, epoch, report, ok, now);
    m.turn_takeover(chunk, actions, fx);
    m.step(chunk, fx);
}
/// What a takeover asked for has been applied.
pub(crate) fn takeover_committed(
    m: &mut MetaServer,
    chunk: ChunkId,
    epoch: LeaseEpoch,
    outcome: Outcome,
    fx: &mut Effects,
) {
    let now = m.now;
    let outcome = match outcome {
        Outcome::Batch(v) => v.into_iter().rev().find(|o| matches!(o, Outcome::View(_))).unwrap_or(Outcome::Done),
        o => o,
    };
    let changed = matches!(outcome, Outcome::View(ViewResult::Ok(_)));
    let gone = matches!(outcome, Outcome::View(ViewResult::Gone) | Outcome::Copies(None));
    let Some(l) = &mut m.leader else { return };
    if gone {
        l.takeovers.remove(&chunk);
        l.unwanted.retain(|(c, _)| *c != chunk);
        return;
    }
    let Some(r) = l.takeovers.get_mut(&chunk).filter(|r| r.takeover.epoch() == epoch) else { return };
    let actions = match outcome {
        Outcome::View(ViewResult::Ok(view)) => r.takeover.committed(view, now),
        Outcome::Copies(Some(ids)) => r.takeover.minted(&ids, now),
        _ => r.takeover.refused(),
    };
    if changed {
        m.tell_view(chunk, fx);
    }
    m.turn_takeover(chunk, actions, fx);
    m.step(chunk, fx);
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
            l.joins.remove(&chunk);
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
                l.joins.insert(chunk, GroupJoin { ino, seq, member, since: now, committing: false });
            }
        }
        _ => {}
    }
    m.tell_view(chunk, fx);
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
