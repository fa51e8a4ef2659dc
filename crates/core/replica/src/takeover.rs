//! Taking a chunk over: fence all members, choose the winner, merge the tails, replace what is missing
//! (protocol sections 5 and 7). One [`Takeover`] per chunk and fence; the leader runs it and carries out its actions.

use crate::copy::RangeRec;
use crate::rules::Rules;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec;
use alloc::vec::Vec;
use marks::mark;
use types::{ChunkId, CopyId, CsId, LeaseEpoch, Member, Nanos, Seq, SessionId, View};
use wire::{CopyReport, MdsToCs};

/// How long a fence waits for members beyond the `min`-th: a promise as the server counts it, and a bit.
pub const WAIT_FOR_REST: Nanos = Nanos::from_millis(760);
/// How long a fence waits for members before it prepares replacements.
pub const WAIT_FOR_MEMBERS: Nanos = Nanos::from_millis(1500);
/// A merge or replacement that makes no progress for so long starts again with a new fence.
pub const MERGE_TIMEOUT: Nanos = Nanos::from_millis(2000);
/// A replacement copies a whole chunk and gets longer.
pub const REPLACE_TIMEOUT: Nanos = Nanos::from_secs(30);
/// A copy that could be clean after all has so long to become it; then it is dropped.
pub const CLEAR_TIMEOUT: Nanos = Nanos::from_millis(1500);
const AGAIN: Nanos = Nanos::from_millis(200);

/// What the leader must do for a takeover.
#[derive(Clone, PartialEq, Debug)]
pub enum Action {
    /// Send this.
    Send(CsId, MdsToCs),
    /// Commit a view without `drop` and with `add` (and without a joiner); report by [`Takeover::committed`].
    Change {
        /// Members to take out.
        drop: Vec<Member>,
        /// Copies to take in.
        add: Vec<Member>,
        /// The remaining content ends here because every member lost its memory: commit the loss mark too.
        loss: Option<(LeaseEpoch, Seq)>,
    },
    /// Commit fresh copy ids; report by [`Takeover::minted`].
    Mint(u32),
    /// The chunk is whole: nobody holds it and everything up to `last` is on all members that answered.
    Done {
        /// Where all end.
        last: Seq,
        /// The winner, for the file's end.
        winner: CopyReport,
    },
    /// It cannot finish under this epoch: start again with a higher one.
    Restart(&'static str),
}

#[derive(Clone, PartialEq, Debug)]
enum Phase {
    Fence,
    /// Waiting for copy ids; `crown` = all members are unclean.
    Minting {
        targets: Vec<Target>,
        crown: bool,
    },
    /// With an heir (every member lost its memory) it alone takes its new copy id first; then the new view is committed
    /// and the others copy from it. So nothing is destroyed that the group still counts on.
    Replacing {
        targets: Vec<(Target, Member)>,
        heir: Option<CsId>,
        committed: bool,
    },
    /// Waiting for the commit of a view.
    Committing,
    Converge {
        winner: Member,
        last: Seq,
        ranges: Vec<RangeRec>,
        waiting: BTreeSet<CsId>,
    },
    Over,
}
/// Where a new copy is to stand and what it may destroy there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Target {
    cs: CsId,
    supersedes: CopyId,
}

/// What a takeover under `to` did to members that ended at (`was`, `last`): since then they end at (`to`, `last`), and
/// nothing else about them has changed. A member that was silent then and ends at (`was`, `last`) has all that they have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seal {
    /// Their written epoch before.
    pub was: LeaseEpoch,
    /// Their written epoch since.
    pub to: LeaseEpoch,
    /// Their newest record, before and since.
    pub last: Seq,
}

/// A server outside the view: whatever it holds is older than the copy minted for it, and nobody counts on it.
const OUTSIDE: CopyId = CopyId(u32::MAX);

/// What the leader knows about servers, asked at every step.
pub trait Servers {
    /// Known to be dead (by certificate, or by long silence): not waited for.
    fn dead(&self, cs: CsId) -> bool;
    /// Up to `n` servers that take a new copy of a chunk with copies on `members`, none of these.
    fn choose(&self, n: usize, members: &[CsId]) -> Vec<CsId>;
    /// Every holder of the file has said that it is gone, or its session has run out.
    fn holders_gone(&self) -> bool;
}

/// A takeover of one chunk under one epoch.
#[derive(Clone, Debug)]
pub struct Takeover {
    rules: Rules,
    chunk: ChunkId,
    epoch: LeaseEpoch,
    min: usize,
    view: View,
    /// Copy ids up to this one are initial (given at the chunk's creation).
    initial_max: CopyId,
    against: SessionId,
    phase: Phase,
    since: Nanos,
    sent: Nanos,
    answers: BTreeMap<CsId, CopyReport>,
    unclean: BTreeMap<CsId, CopyReport>,
    /// Since when unclean copies are asked to become clean, and when they were asked last.
    clearing: Option<(Nanos, Nanos)>,
    /// Copies of a committed view that are still to be filled.
    rest: Vec<(Target, Member)>,
    /// Members whose drop somebody asked for.
    accused: Vec<Member>,
    /// What the takeover before this one did, if it left a silent member.
    sealed: Option<Seal>,
    /// A copy has to be made anew, and holders that were shut out have not said that they are gone.
    held_up: bool,
}

impl Takeover {
    /// Begins; call [`Self::step`] to get the first actions. A joiner in `view` is cancelled with the first change of the
    /// view or has been cancelled by the caller.
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        rules: Rules,
        chunk: ChunkId,
        epoch: LeaseEpoch,
        min: usize,
        view: View,
        initial_max: CopyId,
        against: SessionId,
        now: Nanos,
    ) -> Takeover {
        Takeover {
            rules,
            chunk,
            epoch,
            min,
            view,
            initial_max,
            against,
            phase: Phase::Fence,
            since: now,
            sent: Nanos::ZERO,
            answers: BTreeMap::new(),
            unclean: BTreeMap::new(),
            clearing: None,
            rest: Vec::new(),
            accused: Vec::new(),
            sealed: None,
            held_up: false,
        }
    }
    /// Does it wait for holders to say that they are gone?
    pub fn held_up(&self) -> bool {
        self.held_up && self.phase == Phase::Fence
    }
    /// These do not stay members out of patience: whoever of them does not answer the fence is dropped, tail or no tail.
    /// Otherwise the next holder would accuse them again, and nothing would ever come of it.
    pub fn accusing(self, accused: Vec<Member>) -> Takeover {
        Takeover { accused, ..self }
    }
    /// What the takeover before this one left behind.
    pub fn after(self, sealed: Option<Seal>) -> Takeover {
        Takeover { sealed, ..self }
    }
    /// What is to be remembered of this one when it is done: something if it left a silent member.
    pub fn seal(&self) -> Option<Seal> {
        let w = self.answers.values().max_by_key(|r| self.rank(r.written, r.last))?;
        let before = self.sealed.filter(|s| (s.to, s.last) == (w.written, w.last));
        let was = before.map_or(w.written, |s| s.was);
        (self.leaves_silent()).then_some(Seal { was, to: self.epoch, last: w.last })
    }
    /// Does it leave a member in the view that did not answer?
    fn leaves_silent(&self) -> bool {
        self.rules.silent_outranked && !self.view.members.iter().all(|m| self.answered(m.cs))
    }
    /// Has this server's copy answered, clean?
    pub fn answered(&self, cs: CsId) -> bool {
        self.answers.contains_key(&cs)
    }
    /// Its epoch.
    pub fn epoch(&self) -> LeaseEpoch {
        self.epoch
    }
    /// Its chunk.
    pub fn chunk(&self) -> ChunkId {
        self.chunk
    }
    /// Where it stands, for people.
    pub fn describe(&self) -> &'static str {
        match self.phase {
            Phase::Fence => "waiting for the members' answers",
            Phase::Minting { .. } | Phase::Committing => "waiting for a commit",
            Phase::Replacing { .. } => "copying a survivor",
            Phase::Converge { .. } => "merging",
            Phase::Over => "done",
        }
    }

    /// Takes a Fenced.
    pub fn fenced(&mut self, cs: CsId, epoch: LeaseEpoch, mut report: CopyReport) {
        let Some(m) = self.view.on(cs) else { return };
        if epoch != self.epoch || self.phase != Phase::Fence || report.chunk != self.chunk {
            return;
        }
        if m.copy != report.copy && self.rules.copy_ids {
            if report.copy > m.copy {
                mark!("takeover.uncommitted-replacement");
                // A replacement that was made here and never committed took the member's place. It counts as a copy that
                // lost its memory: it serves nothing, and its content matters only when no clean copy is left.
                report.unclean = true;
            } else if report.copy.is_some() {
                report.unclean = true;
                mark!("takeover.older-copy");
                report.joining = true; // older than the member: nothing to be crowned
            } else if !report.unclean {
                return;
            }
        }
        // A copy that is half filled holds nothing that counts, whatever view names it.
        report.unclean |= report.joining;
        if report.unclean && self.rules.unclean {
            // "Unclean" overrides a clean answer of the same copy, whichever came first.
            self.answers.remove(&cs);
            self.unclean.insert(cs, report);
        } else if !self.unclean.contains_key(&cs) {
            self.answers.insert(cs, report);
        }
    }
    /// Takes a Cleared: the copy is clean and fenced now. One that refuses stays what it is.
    pub fn cleared(&mut self, cs: CsId, epoch: LeaseEpoch, report: CopyReport, ok: bool) {
        let asked = self.unclean.get(&cs).is_some_and(|r| r.copy == report.copy && report.chunk == self.chunk);
        if epoch != self.epoch || self.phase != Phase::Fence || !asked {
            return;
        }
        if ok && !report.unclean {
            self.unclean.remove(&cs);
            self.answers.insert(cs, report);
        } else {
            // As bad as it can be, so that it is not asked again.
            self.unclean.entry(cs).and_modify(|r| r.damaged = true);
        }
    }
    /// Takes a Converged.
    pub fn converged(&mut self, cs: CsId, epoch: LeaseEpoch, copy: CopyId, ok: bool) -> Vec<Action> {
        if epoch != self.epoch || self.view.on(cs).map(|m| m.copy) != Some(copy) {
            return vec![];
        }
        let Phase::Converge { waiting, .. } = &mut self.phase else { return vec![] };
        if !ok {
            mark!("takeover.pull-failed");
            return self.restart("a copy could not pull from the winner");
        }
        waiting.remove(&cs);
        if waiting.is_empty() { self.finish() } else { vec![] }
    }
    /// Takes a Replaced.
    pub fn replaced(&mut self, cs: CsId, epoch: LeaseEpoch, report: CopyReport, ok: bool, now: Nanos) -> Vec<Action> {
        if epoch != self.epoch {
            return vec![];
        }
        let Phase::Replacing { targets, heir, committed } = self.phase.clone() else { return vec![] };
        let Some((_, m)) = targets.iter().find(|(t, m)| t.cs == cs && m.copy == report.copy) else { return vec![] };
        if !ok || report.unclean {
            mark!("takeover.replacement-failed");
            return self.restart("a replacement could not be made");
        }
        let first = !self.answers.contains_key(&m.cs);
        self.answers.insert(m.cs, report);
        self.since = if first { now } else { self.since };
        let made = |m: &Member| self.answers.get(&m.cs).is_some_and(|r| r.copy == m.copy);
        if heir.is_some() && !committed {
            mark!("takeover.heir-crowned");
            // The heir has its new id: from the commit on it is the one clean member, and the others are filled from it.
            let w = self.winner();
            let loss = Some((w.written, w.last));
            self.rest = targets.iter().filter(|(_, m)| !made(m)).copied().collect();
            self.phase = Phase::Committing;
            let (drop, add) = (self.view.members.clone(), targets.iter().map(|(_, m)| *m).collect());
            return vec![Action::Change { drop, add, loss }];
        }
        if !targets.iter().all(|(_, m)| made(m)) {
            return vec![];
        }
        if committed {
            return self.merge(now);
        }
        mark!("takeover.replaced");
        let add: Vec<Member> = targets.iter().map(|(_, m)| *m).collect();
        let keep: BTreeSet<CopyId> = self.answers.values().map(|r| r.copy).collect();
        let drop = self.view.members.iter().filter(|m| !keep.contains(&m.copy)).copied().collect();
        self.phase = Phase::Committing;
        vec![Action::Change { drop, add, loss: None }]
    }
    /// The change of the view is committed.
    pub fn committed(&mut self, view: View, now: Nanos) -> Vec<Action> {
        if self.phase != Phase::Committing {
            return vec![];
        }
        self.view = view;
        self.unclean.clear();
        let view = &self.view;
        self.answers.retain(|cs, r| view.has(Member { cs: *cs, copy: r.copy }));
        let targets = core::mem::take(&mut self.rest);
        if targets.is_empty() {
            return self.merge(now);
        }
        self.phase = Phase::Replacing { targets: targets.clone(), heir: None, committed: true };
        self.since = now;
        self.sent = Nanos::ZERO;
        self.send_replaces(&targets, None, now)
    }
    /// The copy ids are committed.
    pub fn minted(&mut self, ids: &[CopyId], now: Nanos) -> Vec<Action> {
        let Phase::Minting { targets, crown } = self.phase.clone() else { return vec![] };
        if ids.len() != targets.len() {
            return self.restart("fewer copy ids than asked for");
        }
        let targets = targets.iter().zip(ids).map(|(t, id)| (*t, Member { cs: t.cs, copy: *id })).collect();
        let heir = if crown { self.heir() } else { None };
        self.phase = Phase::Replacing { targets, heir, committed: false };
        self.since = now;
        self.sent = Nanos::ZERO;
        vec![]
    }
    /// The commit was refused (the view is another one by now).
    pub fn refused(&mut self) -> Vec<Action> {
        mark!("takeover.view-changed");
        self.restart("the view changed meanwhile")
    }

    fn restart(&mut self, why: &'static str) -> Vec<Action> {
        self.phase = Phase::Over;
        vec![Action::Restart(why)]
    }
    fn winner(&self) -> &CopyReport {
        let rank = |r: &CopyReport| self.rank(r.written, r.last);
        self.answers.values().max_by_key(|r| rank(r)).expect("asked for only with at least one answer")
    }
    /// What decides which answer wins.
    fn rank(&self, written: LeaseEpoch, last: Seq) -> (LeaseEpoch, Seq) {
        (if self.rules.written_epoch_decides { written } else { LeaseEpoch::NONE }, last)
    }
    fn finish(&mut self) -> Vec<Action> {
        let winner = self.winner().clone();
        self.phase = Phase::Over;
        vec![Action::Done { last: winner.last, winner }]
    }

    /// Time has passed, or an answer came.
    pub fn step(&mut self, now: Nanos, servers: &dyn Servers) -> Vec<Action> {
        match self.phase.clone() {
            Phase::Fence => self.step_fence(now, servers),
            Phase::Replacing { targets, heir, .. } => {
                if now.since(self.since) > REPLACE_TIMEOUT || targets.iter().any(|(t, _)| servers.dead(t.cs)) {
                    return self.restart("a replacement took too long");
                }
                self.send_replaces(&targets, heir, now)
            }
            Phase::Converge { winner, last, ranges, waiting } => {
                if now.since(self.since) > MERGE_TIMEOUT || waiting.iter().any(|cs| servers.dead(*cs)) {
                    return self.restart("a copy did not answer the merge");
                }
                self.send_converge(winner, last, &ranges, &waiting, now)
            }
            Phase::Minting { .. } | Phase::Committing | Phase::Over => vec![],
        }
    }

    fn step_fence(&mut self, now: Nanos, servers: &dyn Servers) -> Vec<Action> {
        let mut out = vec![];
        if now.since(self.sent) >= AGAIN || self.sent == Nanos::ZERO {
            self.sent = now;
            for m in &self.view.members {
                if !self.answers.contains_key(&m.cs) {
                    let initial = m.copy <= self.initial_max;
                    let fence = MdsToCs::FenceChunk {
                        chunk: self.chunk,
                        epoch: self.epoch,
                        copy: m.copy,
                        initial,
                        against: self.against,
                    };
                    out.push(Action::Send(m.cs, fence));
                }
            }
        }
        let waited = now.since(self.since);
        let heard = |m: &Member| self.answers.contains_key(&m.cs) || self.unclean.contains_key(&m.cs);
        let silent: Vec<Member> = self.view.members.iter().filter(|m| !heard(m)).copied().collect();
        let all = silent.iter().all(|m| servers.dead(m.cs));
        if !all && waited < WAIT_FOR_REST {
            return out;
        }
        // A copy that ends below what another knows to be on all members is not what it says it is.
        let floor = self.answers.values().map(|r| r.stable).max().unwrap_or(Seq(0));
        if self.rules.unclean {
            for r in self.answers.values().filter(|r| r.last < floor).cloned().collect::<Vec<_>>() {
                if let Some(cs) = self.view.members.iter().find(|m| m.copy == r.copy).map(|m| m.cs) {
                    self.answers.remove(&cs);
                    mark!("takeover.below-stable");
                    self.unclean.insert(cs, r);
                }
            }
        }
        let clear = self.clear_equals(now);
        if clear.is_some() {
            out.extend(clear.into_iter().flatten());
        } else if self.answers.len() >= self.min {
            out.extend(self.choose(now));
        } else if all || waited >= WAIT_FOR_MEMBERS {
            out.extend(self.replace_missing(&silent, servers));
        }
        out
    }

    /// Members that lost their memory and end where the best clean one does, or beyond, lack nothing: they become clean, and
    /// the view stays as it is. None: there are none, or they had their time. Otherwise what to send, while they are waited for.
    fn clear_equals(&mut self, now: Nanos) -> Option<Vec<Action>> {
        let best = self.answers.values().map(|r| (r.written, r.last)).max()?;
        // Where the others stood before they were sealed is as good as where they stand. And whoever outranks a clean member
        // lacks nothing either: nothing was acknowledged since without that member.
        let before = self.sealed.filter(|s| (s.to, s.last) == best).map(|s| (s.was, s.last));
        let outranks = |at| at >= best && (at == best || self.rules.silent_outranked);
        let stands = |r: &CopyReport| outranks((r.written, r.last)) || Some((r.written, r.last)) == before;
        let equal = |r: &CopyReport| r.unclean && !r.absent && !r.joining && !r.damaged && stands(r);
        let of = |m: &Member| {
            let r = self.unclean.get(&m.cs).filter(|r| r.copy == m.copy && equal(r))?;
            Some((*m, r.written, r.last))
        };
        let equals: Vec<(Member, LeaseEpoch, Seq)> = self.view.members.iter().filter_map(of).collect();
        let (since, sent) = self.clearing.unwrap_or((now, Nanos::ZERO));
        if equals.is_empty() || now.since(since) >= CLEAR_TIMEOUT {
            return None;
        }
        if sent != Nanos::ZERO && now.since(sent) < AGAIN {
            return Some(vec![]);
        }
        self.clearing = Some((since, now));
        let (chunk, epoch, against) = (self.chunk, self.epoch, self.against);
        let clear = |(m, written, last): &(Member, LeaseEpoch, Seq)| {
            let (written, last) = (*written, *last);
            Action::Send(m.cs, MdsToCs::Clear { chunk, epoch, copy: m.copy, against, written, last })
        };
        Some(equals.iter().map(clear).collect())
    }

    /// Enough clean copies answered: drop who must go, then merge.
    fn choose(&mut self, now: Nanos) -> Vec<Action> {
        let tails = self.answers.values().any(|r| !r.tail.is_empty()) && self.rules.silent_leave_tails;
        // Where the next takeover may do without everybody who takes part in this one, who is silent now must not be asked then.
        let apart = 2 * self.min <= self.view.members.len() && self.rules.silent_outranked;
        let drop: Vec<Member> = self
            .view
            .members
            .iter()
            .filter(|m| !self.answered(m.cs))
            .filter(|m| self.unclean.contains_key(&m.cs) || tails || apart || self.accused.contains(m))
            .copied()
            .collect();
        if drop.is_empty() && self.view.joiner.is_none() {
            return self.merge(now);
        }
        mark!("takeover.members-dropped");
        self.phase = Phase::Committing;
        vec![Action::Change { drop, add: vec![], loss: None }]
    }

    fn merge(&mut self, now: Nanos) -> Vec<Action> {
        let w = self.winner();
        let (written, last) = (w.written, w.last);
        let tails = self.answers.values().any(|r| !r.tail.is_empty());
        let best = self.rank(written, last);
        let equal = self.answers.values().all(|r| self.rank(r.written, r.last) == best && !r.joining);
        // A silent member may have a record of the old holder that nobody here has. It must not win later, when others have
        // read what is here: those that answered get a written epoch above all it can have.
        let seals = self.leaves_silent();
        if seals {
            mark!("takeover.seals");
        }
        if !tails && equal && !seals {
            mark!("takeover.all-equal");
            return self.finish();
        }
        let winner = self
            .view
            .members
            .iter()
            .find(|m| self.answers.get(&m.cs).is_some_and(|r| (r.written, r.last) == (written, last)))
            .copied()
            .expect("the winner is a member");
        let mut ranges: Vec<RangeRec> = vec![];
        if self.rules.merge_tails {
            let all: BTreeSet<(u32, u32)> =
                self.answers.values().flat_map(|r| &r.tail).map(|r| (r.offset, r.offset + r.length)).collect();
            for (s, e) in all {
                match ranges.last_mut() {
                    Some(r) if r.offset + r.length >= s => r.length = r.length.max(e - r.offset),
                    _ => ranges.push(RangeRec { seq: last, offset: s, length: e - s }),
                }
            }
        }
        mark!("takeover.merge");
        let waiting: BTreeSet<CsId> = self.answers.keys().copied().collect();
        self.since = now;
        self.sent = Nanos::ZERO;
        self.phase = Phase::Converge { winner, last, ranges: ranges.clone(), waiting: waiting.clone() };
        self.send_converge(winner, last, &ranges, &waiting, now)
    }
    fn send_converge(
        &mut self,
        winner: Member,
        last: Seq,
        ranges: &[RangeRec],
        waiting: &BTreeSet<CsId>,
        now: Nanos,
    ) -> Vec<Action> {
        if self.sent != Nanos::ZERO && now.since(self.sent) < AGAIN {
            return vec![];
        }
        self.sent = now;
        let to: Vec<Member> = self.view.members.iter().filter(|m| waiting.contains(&m.cs)).copied().collect();
        let ops = self.answers.get(&winner.cs).map_or(Vec::new(), |r| r.ops.clone());
        to.iter()
            .map(|m| {
                let msg = MdsToCs::Converge {
                    chunk: self.chunk,
                    epoch: self.epoch,
                    copy: m.copy,
                    winner,
                    last,
                    ranges: ranges.to_vec(),
                    ops: ops.clone(),
                };
                Action::Send(m.cs, msg)
            })
            .collect()
    }

    /// Fewer than `min` clean copies (section 7).
    fn replace_missing(&mut self, silent: &[Member], servers: &dyn Servers) -> Vec<Action> {
        // Where the copy that the view names is lost, an older one may stand in its place, and is as worthless.
        let copy_on = |cs: CsId| self.unclean.get(&cs).map_or(CopyId::NONE, |r| r.copy);
        let (targets, crown): (Vec<Target>, bool) = if self.answers.is_empty() {
            // Every member lost its memory: the best one is crowned; a silent one is waited for.
            if !silent.is_empty() && self.rules.all_heard_before_crown || self.heir().is_none() {
                mark!("takeover.waits-for-silent");
                return vec![];
            }
            let all = self.view.members.iter().map(|m| Target { cs: m.cs, supersedes: copy_on(m.cs) });
            (all.collect(), true)
        } else {
            if !servers.holders_gone() && self.rules.holders_leave_first {
                mark!("takeover.waits-for-holders");
                self.held_up = true;
                return vec![];
            }
            let missing = self.min - self.answers.len();
            let unclean = self.unclean.keys().copied().filter(|cs| !servers.dead(*cs));
            let silent = silent.iter().filter(|_| !self.rules.silent_not_replaced);
            let silent = silent.map(|m| Target { cs: m.cs, supersedes: m.copy });
            let mut list: Vec<Target> =
                silent.chain(unclean.map(|cs| Target { cs, supersedes: copy_on(cs) })).collect();
            list.truncate(missing);
            let members: Vec<CsId> = self.view.members.iter().map(|m| m.cs).collect();
            let outside = servers.choose(missing - list.len(), &members);
            list.extend(outside.into_iter().map(|cs| Target { cs, supersedes: OUTSIDE }));
            if list.len() < missing {
                mark!("takeover.too-few-servers");
                return vec![];
            }
            (list, false)
        };
        let n = u32::try_from(targets.len()).expect("views are small");
        self.phase = Phase::Minting { targets, crown };
        vec![Action::Mint(n)]
    }
    /// Whose copy goes on when every member lost its memory: the furthest one that is whole. Where none is, a member whose
    /// initial copy never reached its disk shows that nothing of the chunk was ever flushed, and it goes on empty.
    fn heir(&self) -> Option<CsId> {
        let whole = self.unclean.iter().filter(|(_, r)| !r.absent && !r.joining);
        let best = whole.max_by_key(|(_, r)| (r.written, r.last)).map(|(cs, _)| *cs);
        let initial = |cs: CsId| self.view.on(cs).is_some_and(|m| m.copy <= self.initial_max);
        let never = self.unclean.iter().find(|(cs, r)| r.absent && initial(**cs)).map(|(cs, _)| *cs);
        best.or(never)
    }
    fn send_replaces(&mut self, targets: &[(Target, Member)], heir: Option<CsId>, now: Nanos) -> Vec<Action> {
        if self.sent != Nanos::ZERO && now.since(self.sent) < AGAIN {
            return vec![];
        }
        self.sent = now;
        let mut out = vec![];
        for (t, m) in targets {
            if self.answers.get(&m.cs).is_some_and(|r| r.copy == m.copy) {
                continue;
            }
            let source = match heir {
                Some(cs) if cs == t.cs => {
                    let nothing = self.unclean.get(&cs).is_some_and(|r| r.absent);
                    Member { cs, copy: if nothing { CopyId::NONE } else { t.supersedes } }
                }
                Some(_) => continue,
                None => {
                    let copy = self.winner().copy;
                    let Some(w) = self.view.members.iter().find(|m| m.copy == copy) else { continue };
                    *w
                }
            };
            let supersedes = match t.supersedes {
                OUTSIDE => CopyId(m.copy.0 - 1),
                _ if source.cs == t.cs => source.copy,
                known => known,
            };
            let msg = MdsToCs::Replace { chunk: self.chunk, epoch: self.epoch, copy: m.copy, supersedes, source };
            out.push(Action::Send(t.cs, msg));
        }
        out
    }
}
