//! Takeovers as the leader runs them: begun, stepped, begun again; what they want done is sent or proposed.

use crate::MetaServer;
use crate::leader::{Later, Running, ServersFor};
use crate::limits::{SEALS_MAX, TAKEOVERS_MAX, TICK};
use crate::placing::Placing;
use crate::propose::Then;
use host::node::Effects;
use marks::mark;
use meta_state::{Command, EndSource, Outcome, ViewChange, ViewResult};
use replica::takeover::{Action, Takeover};
use types::{ChunkId, CopyId, CsId, LeaseEpoch, Nanos, NodeId, SessionId};
use wire::meta::FileEnd;
use wire::{CopyReport, Msg};

impl MetaServer {
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
                        l.seals.remove(&chunk);
                        if let Some(s) = r.takeover.seal() {
                            if l.seals.len() >= SEALS_MAX {
                                l.seals.retain(|c, _| self.state.chunk(*c).is_some());
                            }
                            // Without what is remembered here a copy is filled again that lacks nothing, and that is all.
                            if l.seals.len() < SEALS_MAX {
                                l.seals.insert(chunk, s);
                            }
                        }
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
                    if winner.file_end > 0 && self.state.end_says_more(&end, EndSource::Fence) {
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
    pub(crate) fn sweep_takeovers(&mut self, fx: &mut Effects) {
        self.start_queued();
        self.start_again();
        let Some(l) = &mut self.leader else { return };
        let chunks: Vec<ChunkId> = l.takeovers.keys().copied().collect();
        for c in chunks {
            self.step(c, fx);
        }
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
        let (now, domain) = (self.now, self.domain_of(chunk));
        let placing =
            Placing { servers: &self.servers, places: &self.places, without: &self.leaving, state: &self.state, now };
        let Some(l) = &mut self.leader else { return };
        let Some(r) = l.takeovers.get_mut(&chunk) else { return };
        let Some(rec) = self.state.chunk(chunk) else {
            mark!("views.cut-while-taken-over");
            // Cut off meanwhile: nobody has a copy of it any more.
            let ino = r.ino;
            l.takeovers.remove(&chunk);
            l.seals.remove(&chunk);
            l.unwanted.retain(|(c, _)| *c != chunk);
            l.doubtful.retain(|(_, c)| *c != chunk);
            l.dirty.insert(ino);
            return;
        };
        let ino = r.ino;
        let gone = l.files.get(&ino).is_none_or(|f| f.holders.is_empty() && f.deposed.is_empty());
        let heard = !self.cfg.rules.fences_heard_before_growth || l.may_grow(&rec.view, rec.min, now);
        let holders_gone = gone && heard;
        let Some(r) = l.takeovers.get_mut(&chunk) else { return };
        let s = ServersFor { placing, domain, seed: r.takeover.epoch().0, holders_gone };
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
    if l.changing.contains(&chunk) {
        mark!("takeover.waits-for-a-change");
        // What is proposed is the view that it has to begin from.
        l.takeovers_later.insert(chunk, Later { ino: rec.ino, at: now + TICK, restarts });
        return;
    }
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
    let takeover = takeover.accusing(accused).after(l.seals.get(&chunk).copied());
    l.takeovers.insert(chunk, Running { takeover, ino: rec.ino, restarts });
    m.next_sweep = m.next_sweep.min(now);
}
/// A fence was answered.
pub(crate) fn fenced(m: &mut MetaServer, cs: CsId, epoch: LeaseEpoch, report: CopyReport, fx: &mut Effects) {
    let chunk = report.chunk;
    let Some(l) = &mut m.leader else { return };
    let Some(r) = l.takeovers.get_mut(&chunk) else {
        // The takeover did without it. Its server may have no trace of a copy that it lost, and so cannot name it either.
        let member = m.state.chunk(chunk).and_then(|c| c.view.on(cs));
        if report.unclean && member.is_some_and(|x| x.copy == report.copy) {
            mark!("takeover.answered-too-late");
            l.doubtful.insert((cs, chunk));
            m.doubt(cs);
        }
        return;
    };
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
