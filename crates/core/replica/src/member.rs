//! What a copy accepts: the rules by which a chunk server answers requests of holders, joiners and the metadata group.
//!
//! Everything here is a question to a [`Seat`] (the copy, the server's own state and the rules in force); the answer says
//! what the server must do and the shell does it. Time enters only through [`Promises`], as an argument.

use crate::copy::{CopyState, Joining, RECENT_MAX, ServerState, TAIL_BYTES_MAX, TAIL_MAX, UNTOLD};
use crate::rules::Rules;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use marks::mark;
use types::{BLOCK, CHUNK_LOG2_MAX, ChunkId, CopyId, CsId, LeaseEpoch, Member, Nanos, Seq, SessionId};
use wire::{CopyReport, CopyReq, RangeRec, Refusal, WriteHeader, flags};

/// How long a promise lasts by the clock of the client that asked, from the sending of its request.
pub const PROMISE: Nanos = Nanos::from_millis(500);
/// How long a server keeps it, from its answer: 1.12 × [`PROMISE`], more than two clocks may differ.
pub const PROMISE_KEPT: Nanos = Nanos::from_millis(560);

/// What a request wants of a copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Append the record `seq`.
    Write {
        /// Its number.
        seq: Seq,
    },
    /// Read for a client.
    Read,
    /// Read for another server's join, merge or replacement.
    CopyRead,
    /// Promise only.
    Promise,
    /// Hear how far `stable` and `flushed` are.
    Stable,
    /// Make durable what is here.
    Flush,
    /// Say where the copy stands.
    State,
}

/// What the server does with a request that is served.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Act {
    /// Do what was asked.
    Serve,
    /// Append the record. `skips` is set only when the rule against gaps is off: the copy must first pretend to hold
    /// everything below it.
    Apply {
        /// Records are missing below it.
        skips: bool,
    },
    /// A record that is here already, or one beyond a gap: answer with what is here, change nothing.
    Repeat,
}

/// A served request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// The initial copy is legitimately absent: create it first, empty.
    pub create: bool,
    /// The joiner is a member from now on: clear its mark first.
    pub meet: bool,
    /// Then this.
    pub act: Act,
    /// The answer may carry a promise.
    pub promise: bool,
}

/// The view from which one request is judged.
#[derive(Clone, Copy, Debug)]
pub struct Seat<'a> {
    /// Rules in force.
    pub rules: &'a Rules,
    /// The server's own state.
    pub server: &'a ServerState,
    /// The copy of the chunk that stands here.
    pub copy: Option<&'a CopyState>,
    /// This life of the server is filling that copy. A copy found half filled by a new life is void.
    pub filling: bool,
    /// The group has reconciled this life's inventory, so an absent copy may be answered for.
    pub reconciled: bool,
}

/// Is the session refused for ever?
pub fn blocked(server: &ServerState, session: SessionId) -> bool {
    session != SessionId::GROUP && (session < server.low_water || server.blocked.contains_key(&session))
}

/// The request that a write header stands for.
pub fn write_request(h: &WriteHeader) -> CopyReq {
    CopyReq {
        chunk: h.chunk,
        copy: h.copy,
        member: h.has(flags::MEMBER),
        session: h.session,
        epoch: h.epoch,
        ver: h.ver,
        short: h.has(flags::SHORT),
        stable: h.stable,
        flushed: h.flushed,
        stamp: h.stamp,
    }
}

impl Seat<'_> {
    /// May this request be served, and how? Errors: the refusal to send.
    ///
    /// A request of a higher epoch is served only when its `stable` equals this copy's `last`: whoever takes over a
    /// chunk knows exactly what all members hold, so a copy that differs must not answer for it. Asking for the state is
    /// the one exception, because it is how a new holder finds out.
    pub fn judge(&self, req: &CopyReq, access: Access) -> Result<Verdict, Refusal> {
        if self.shut_out(req.session) {
            mark!("member.refuse.session");
            return Err(Refusal::Fenced);
        }
        let Some(c) = self.copy else { return self.judge_absent(req, access) };
        if c.copy != req.copy && self.rules.copy_ids {
            mark!("member.refuse.other-copy");
            return Err(Refusal::NoCopy);
        }
        if c.unclean && self.rules.unclean {
            mark!("member.refuse.unclean");
            return Err(Refusal::Unclean);
        }
        if self.void() {
            mark!("member.refuse.half-filled");
            return Err(Refusal::NoCopy);
        }
        if req.epoch < c.promised && self.rules.epochs {
            mark!("member.refuse.low-epoch");
            return Err(Refusal::Fenced);
        }
        let mut meet = false;
        if let Some(j) = c.joining {
            if req.member && j.copied {
                mark!("member.meet");
                meet = true;
            } else {
                return self.judge_joiner(c, req, access);
            }
        }
        let reading = matches!(access, Access::Read | Access::CopyRead | Access::Promise | Access::Stable);
        let agrees = req.epoch <= c.promised || req.stable == c.last;
        if access != Access::State && self.rules.stable_equals_last && (!agrees || reading && req.stable > c.last) {
            mark!("member.refuse.diverged");
            return Err(Refusal::Diverged);
        }
        if req.ver < c.ver && matches!(access, Access::Write { .. } | Access::Read) {
            mark!("member.refuse.stale-view");
            return Err(Refusal::StaleView);
        }
        let act = match access {
            Access::Write { seq } => self.append(c, req, seq),
            _ => Act::Serve,
        };
        let promise = !matches!(access, Access::CopyRead) && req.session != SessionId::GROUP;
        Ok(Verdict { create: false, meet, act, promise: promise && agrees })
    }

    /// A joiner serves nobody; it takes records, and requests to make them durable, of exactly its epoch.
    fn judge_joiner(&self, c: &CopyState, req: &CopyReq, access: Access) -> Result<Verdict, Refusal> {
        let act = match access {
            Access::Write { seq } if req.epoch == c.promised => self.append(c, req, seq),
            Access::Flush | Access::State if req.epoch == c.promised => Act::Serve,
            _ => return Err(Refusal::Joining),
        };
        Ok(Verdict { create: false, meet: false, act, promise: false })
    }

    /// A chunk of which nothing is here. It is an empty initial copy only if it cannot have been lost, and only a
    /// request that believes it to be empty may create it.
    fn judge_absent(&self, req: &CopyReq, access: Access) -> Result<Verdict, Refusal> {
        if !self.reconciled {
            mark!("member.absent.starting");
            return Err(Refusal::Starting);
        }
        if !self.may_be_absent(req.chunk) {
            mark!("member.absent.lost");
            return Err(Refusal::Unclean);
        }
        let first = !matches!(access, Access::Write { seq } if seq != Seq(1));
        if !req.copy.is_some() || !first || req.stable != Seq(0) && access != Access::State {
            mark!("member.absent.not-first");
            return Err(Refusal::NoCopy);
        }
        mark!("member.absent.created");
        let act = if matches!(access, Access::Write { .. }) { Act::Apply { skips: false } } else { Act::Serve };
        let promise = !matches!(access, Access::CopyRead) && req.session != SessionId::GROUP;
        Ok(Verdict { create: true, meet: false, act, promise })
    }

    /// Can the initial copy of this chunk be absent without having been lost?
    pub fn may_be_absent(&self, chunk: ChunkId) -> bool {
        chunk > self.server.absent_mark || !self.rules.absent_is_lost
    }

    fn shut_out(&self, session: SessionId) -> bool {
        self.rules.sessions_blocked && blocked(self.server, session)
    }

    /// Half filled by an earlier life of the server.
    pub fn void(&self) -> bool {
        !self.filling && self.copy.is_some_and(|c| c.joining.is_some_and(|j| !j.copied))
    }

    fn append(&self, c: &CopyState, req: &CopyReq, seq: Seq) -> Act {
        if seq <= c.last {
            mark!("member.append.again");
            return Act::Repeat;
        }
        let skips = seq != c.last.next();
        if skips && self.rules.no_gaps {
            mark!("member.append.gap");
            return Act::Repeat;
        }
        // More than a holder may have outstanding: it does not keep the protocol, and the state must stay bounded.
        let stable = if req.stable <= c.last { req.stable.max(c.stable) } else { c.stable };
        let open = c.tail.iter().filter(|r| r.seq > stable);
        if open.clone().count() >= TAIL_MAX || open.map(|r| u64::from(r.length)).sum::<u64>() > 2 * TAIL_BYTES_MAX {
            mark!("member.append.too-many");
            return Act::Repeat;
        }
        Act::Apply { skips }
    }
}

/// What to do with a request to begin a join.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum JoinVerdict {
    /// This copy takes the place of whatever is here, durably; then answer. With an origin it keeps the content, without
    /// it is empty.
    Fresh(Box<CopyState>),
    /// It has begun already: answer.
    Known,
}

impl Seat<'_> {
    /// Judges the beginning of a join as copy `req.copy` with everything up to `base` to be copied. A server never goes
    /// back to an older copy id, and never below the promised epoch.
    pub fn join_start(&self, req: &CopyReq, base: Seq) -> Result<JoinVerdict, Refusal> {
        if self.shut_out(req.session) {
            return Err(Refusal::Fenced);
        }
        if !self.reconciled {
            return Err(Refusal::Starting);
        }
        if let Some(c) = self.copy {
            if req.epoch < c.promised && self.rules.epochs {
                mark!("join.low-epoch");
                return Err(Refusal::Fenced);
            }
            if req.copy == c.copy && c.joining.is_some() && req.epoch == c.promised {
                if c.unclean && self.rules.unclean {
                    return Err(Refusal::Unclean);
                }
                mark!("join.known");
                return if self.void() { Err(Refusal::NoCopy) } else { Ok(JoinVerdict::Known) };
            }
            if req.copy <= c.copy && self.rules.no_older_copy {
                mark!("join.older-id");
                return Err(Refusal::NoCopy);
            }
        } else if !req.copy.is_some() {
            return Err(Refusal::NoCopy);
        }
        let mut fresh = CopyState::new(req.chunk, req.copy);
        fresh.promised = req.epoch;
        fresh.written = req.epoch;
        fresh.ver = req.ver;
        fresh.last = base;
        fresh.stable = base;
        fresh.session = req.session;
        fresh.recent = None;
        fresh.full = UNTOLD;
        fresh.joining = Some(Joining { base, copied: false });
        fresh.origin = self.copy.and_then(CopyState::as_origin);
        Ok(JoinVerdict::Fresh(Box::new(fresh)))
    }

    /// May data copied for `copy` under `epoch` still enter? Only while that very join goes on.
    pub fn takes_copied(&self, copy: CopyId, epoch: LeaseEpoch) -> bool {
        self.copy.is_some_and(|c| {
            (c.copy == copy || !self.rules.copy_ids)
                && c.promised == epoch
                && c.joining.is_some_and(|j| !j.copied)
                && !(c.unclean && self.rules.unclean)
                && self.filling
        })
    }

    /// Is a request to pull for the join `req` in order?
    pub fn pull(&self, req: &CopyReq) -> Result<(), Refusal> {
        if self.shut_out(req.session) {
            return Err(Refusal::Fenced);
        }
        let c = self.copy.ok_or(if self.reconciled { Refusal::NoCopy } else { Refusal::Starting })?;
        if c.copy != req.copy && self.rules.copy_ids || self.void() {
            return Err(Refusal::NoCopy);
        }
        if c.unclean && self.rules.unclean {
            return Err(Refusal::Unclean);
        }
        if req.epoch != c.promised {
            return Err(Refusal::Fenced);
        }
        Ok(())
    }
}

/// What to do with a fence of one chunk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FenceVerdict {
    /// Older than what is promised, or not to be answered yet: say nothing.
    Ignore,
    /// Answer at once with this report: nothing here can be trusted.
    Report(CopyReport),
    /// Store this state durably, then wait (promises, writes in flight), then report.
    Store(CopyState),
    /// Stored already: wait as before, then report.
    Known,
}

/// What to do with the word that a copy is clean after all.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ClearVerdict {
    /// Older than what is promised: say nothing.
    Ignore,
    /// It is not so: answer that it failed.
    Fail,
    /// Store this state durably, then wait as for a fence, then answer.
    Store(Box<CopyState>),
    /// Stored already: wait as before, then answer.
    Known,
}

/// What to do with a merge.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConvergeVerdict {
    /// Of an older epoch than the promised one: say nothing.
    Ignore,
    /// It cannot be taken: answer that it failed.
    Fail,
    /// It is in already: answer that it succeeded.
    Done,
    /// Take the ranges from the winner and end at its `last`.
    Pull,
    /// This copy wins, or nothing differs: change the state only.
    Keep,
}

/// What to do with a replacement.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ReplaceVerdict {
    /// Older than what is here: say nothing.
    Ignore,
    /// Not the copy that may be destroyed: answer that it failed.
    Fail,
    /// It is in already: answer that it succeeded.
    Done,
    /// What stands here becomes the new copy: store this state durably.
    Adopt(CopyState),
    /// Replace whatever is here by this empty copy, durably, then copy all from the source.
    Copy(CopyState),
}

impl Seat<'_> {
    /// Judges a fence of `epoch` for the chunk's copy `copy`, which is the chunk's first one on this server if `initial`.
    pub fn fence(&self, chunk: ChunkId, epoch: LeaseEpoch, copy: CopyId, initial: bool) -> FenceVerdict {
        let Some(c) = self.copy else {
            if !self.reconciled {
                mark!("fence.starting");
                return FenceVerdict::Ignore;
            }
            if !initial || !self.may_be_absent(chunk) || !copy.is_some() {
                mark!("fence.absent-lost");
                return FenceVerdict::Report(lost(chunk, copy));
            }
            mark!("fence.absent-created");
            let mut fresh = CopyState::new(chunk, copy);
            fresh.promised = epoch;
            return FenceVerdict::Store(fresh);
        };
        if c.copy < copy {
            // The group has seen the named copy here and an older one stands in its place: the named one is lost.
            mark!("fence.older-copy-in-place");
            return FenceVerdict::Report(lost(chunk, copy));
        }
        if c.unclean && self.rules.unclean {
            mark!("fence.unclean");
            return FenceVerdict::Report(report(c));
        }
        if epoch < c.promised && self.rules.epochs {
            mark!("fence.low-epoch");
            return FenceVerdict::Ignore;
        }
        if epoch <= c.promised {
            mark!("fence.known");
            return FenceVerdict::Known;
        }
        let mut raised = c.clone();
        raised.promised = epoch;
        FenceVerdict::Store(raised)
    }

    /// Judges the word that under the fence of `epoch` a clean copy ends at (`written`, `last`). A power loss leaves a copy as
    /// it was after some record; if that is the record where a clean one stands, nothing is missing. Damage is another thing.
    pub fn clear(&self, epoch: LeaseEpoch, copy: CopyId, written: LeaseEpoch, last: Seq) -> ClearVerdict {
        let Some(c) = self.copy.filter(|c| c.copy == copy) else { return ClearVerdict::Fail };
        if epoch < c.promised {
            return ClearVerdict::Ignore;
        }
        if !c.unclean {
            return if epoch == c.promised { ClearVerdict::Known } else { ClearVerdict::Fail };
        }
        if c.damaged || c.joining.is_some() || (c.written, c.last) != (written, last) {
            return ClearVerdict::Fail;
        }
        ClearVerdict::Store(Box::new(CopyState { promised: epoch, unclean: false, ..c.clone() }))
    }

    /// Judges a merge under the fence of `epoch`. Only the clean copy named, whose promised epoch is the fence's, takes
    /// it: any other has moved on or was not asked.
    pub fn converge(
        &self,
        me: CsId,
        epoch: LeaseEpoch,
        copy: CopyId,
        winner: Member,
        last: Seq,
        ranges: &[(u32, u32)],
    ) -> ConvergeVerdict {
        let Some(c) = self.copy else { return ConvergeVerdict::Fail };
        let newest = epoch == c.promised || !self.rules.merges_of_this_fence;
        if epoch < c.promised && !newest {
            mark!("converge.low-epoch");
            return ConvergeVerdict::Ignore;
        }
        let foreign = c.copy != copy && self.rules.copy_ids;
        if foreign || c.unclean && self.rules.unclean || !newest {
            mark!("converge.not-this-copy");
            return ConvergeVerdict::Fail;
        }
        if c.joining.is_some_and(|j| !j.copied) {
            mark!("converge.half-filled");
            return ConvergeVerdict::Fail;
        }
        if c.written == epoch && c.joining.is_none() {
            mark!("converge.again");
            return if c.last == last { ConvergeVerdict::Done } else { ConvergeVerdict::Fail };
        }
        if winner.cs == me || ranges.is_empty() {
            let mine = winner.cs != me || winner.copy == c.copy;
            // Without ranges a copy that ends elsewhere cannot have what it lacks.
            let ends = c.last == last || !self.rules.merge_tails;
            return if mine && ends { ConvergeVerdict::Keep } else { ConvergeVerdict::Fail };
        }
        ConvergeVerdict::Pull
    }

    /// Judges a replacement. A server never goes back to an older copy id, and destroys only the copy it is told to.
    pub fn replace(
        &self,
        chunk: ChunkId,
        me: CsId,
        epoch: LeaseEpoch,
        copy: CopyId,
        supersedes: CopyId,
        source: Member,
    ) -> ReplaceVerdict {
        let adopts = source == Member { cs: me, copy: supersedes };
        if let Some(c) = self.copy {
            if epoch < c.promised && self.rules.epochs || copy < c.copy && self.rules.no_older_copy {
                mark!("replace.low-epoch-or-older");
                return ReplaceVerdict::Ignore;
            }
            if copy == c.copy {
                mark!("replace.again");
                let whole = c.joining.is_none() && !(c.unclean && self.rules.unclean);
                return if whole { ReplaceVerdict::Done } else { ReplaceVerdict::Fail };
            }
            // An older copy than the one to be destroyed stands in for it: the group knows that one to be lost.
            if supersedes < c.copy || adopts && supersedes != c.copy {
                mark!("replace.not-superseded");
                return ReplaceVerdict::Fail;
            }
            if adopts {
                if c.joining.is_some_and(|j| !j.copied) {
                    mark!("replace.heir-half-filled");
                    return ReplaceVerdict::Fail;
                }
                mark!("replace.crowned");
                let mut s = c.clone();
                s.copy = copy;
                s.promised = epoch;
                s.unclean = false;
                s.damaged = false;
                s.end_join();
                // What those had who left before may be more than what is left.
                s.full = UNTOLD;
                s.missed = None;
                s.stable = s.stable.min(s.last);
                return ReplaceVerdict::Adopt(s);
            }
        } else if !self.reconciled {
            return ReplaceVerdict::Ignore;
        } else if !copy.is_some() {
            return ReplaceVerdict::Fail;
        } else if adopts {
            // No server of the view has anything: the chunk goes on empty, if that is what the group says.
            if supersedes.is_some() {
                return ReplaceVerdict::Fail;
            }
            mark!("replace.crowned-empty");
            let mut s = CopyState::new(chunk, copy);
            s.promised = epoch;
            return ReplaceVerdict::Adopt(s);
        }
        if source.cs == me {
            return ReplaceVerdict::Fail;
        }
        let mut fresh = CopyState::new(chunk, copy);
        fresh.promised = epoch;
        fresh.recent = None;
        fresh.full = UNTOLD;
        fresh.joining = Some(Joining { base: Seq(0), copied: false });
        ReplaceVerdict::Copy(fresh)
    }

    /// Is this exactly the copy to forget?
    pub fn delete(&self, copy: CopyId) -> bool {
        self.copy.is_some_and(|c| c.copy == copy)
    }
}

/// The state after a merge under `epoch` that ends at `last`: the merged ranges stay as tail until the next holder's
/// `stable` passes them, because until then the other members may lack them.
pub fn converged(rules: &Rules, c: &CopyState, epoch: LeaseEpoch, last: Seq, ranges: &[(u32, u32)]) -> CopyState {
    let mut s = c.clone();
    s.last = last;
    s.stable = s.stable.min(last);
    s.flushed = s.flushed.min(last);
    s.written = epoch;
    s.end_join();
    if let Some(m) = &mut s.missed {
        ranges.iter().for_each(|&(offset, length)| m.regions.put(offset, length));
    }
    let recs = || ranges.iter().map(|&(offset, length)| RangeRec { seq: last, offset, length });
    let tail = last > s.stable && rules.merged_stay_tail;
    s.tail = if tail { recs().collect() } else { Vec::new() };
    if let Some(r) = &mut s.recent {
        // What this copy held above `last` was overwritten by the winner's content, so its ranges count as of `last`.
        r.iter_mut().for_each(|x| x.seq = x.seq.min(last));
        r.extend(recs());
        if r.len() > RECENT_MAX {
            s.recent = None;
        }
    }
    s
}

/// The state of a copy made whole from `source` under the id `copy` and the fence `epoch`: all that the source knows of
/// its records, so that a merge treats both alike.
pub fn replaced(copy: CopyId, epoch: LeaseEpoch, source: &CopyReport) -> CopyState {
    let mut s = CopyState::new(source.chunk, copy);
    s.file = source.file;
    s.full = UNTOLD;
    s.promised = epoch;
    s.written = source.written;
    s.last = source.last;
    s.stable = source.stable.min(source.last);
    s.flushed = source.flushed.min(source.last);
    s.tail = source.tail.iter().copied().filter(|r| r.seq > s.stable).take(3 * TAIL_MAX).collect();
    s.recent = source.recent.clone().filter(|r| r.len() <= RECENT_MAX);
    s.session = source.session;
    s.file_end = source.file_end;
    s.mtime = source.mtime;
    s.truncate_gen = source.truncate_gen;
    s
}

/// What is told to holders and to the group about a copy.
pub fn report(c: &CopyState) -> CopyReport {
    CopyReport {
        chunk: c.chunk,
        copy: c.copy,
        unclean: c.unclean,
        damaged: c.damaged,
        joining: c.joining.is_some_and(|j| !j.copied),
        absent: false,
        promised: c.promised,
        written: c.written,
        last: c.last,
        stable: c.stable,
        flushed: c.flushed,
        tail: c.tail.clone(),
        recent: c.recent.clone(),
        session: c.session,
        file: c.file,
        file_end: c.file_end,
        mtime: c.mtime,
        truncate_gen: c.truncate_gen,
    }
}

/// The report of a copy that should be here and is not.
pub fn lost(chunk: ChunkId, copy: CopyId) -> CopyReport {
    let mut r = report(&CopyState::new(chunk, copy));
    r.unclean = true;
    r.absent = true;
    r
}

/// Does the fence of `session` have to name this copy? Everything that is not plain, and what that session wrote last,
/// because the group may not know the file's end yet.
pub fn not_plain(rules: &Rules, c: &CopyState, session: SessionId) -> bool {
    let newest = c.session == session && c.last > Seq(0) && rules.newest_records_listed;
    !c.tail.is_empty() || c.unclean || c.joining.is_some() || newest
}

/// Ranges as (offset, length), sorted, overlaps joined. None if one is not of whole blocks, empty or past the largest
/// chunk, or if they are more than `limit` bytes together.
pub fn union(ranges: &[RangeRec], limit: u64) -> Option<Vec<(u32, u32)>> {
    let mut v: Vec<(u64, u64)> = Vec::with_capacity(ranges.len());
    for r in ranges {
        let (start, end) = (u64::from(r.offset), u64::from(r.offset) + u64::from(r.length));
        if r.offset % BLOCK != 0 || r.length % BLOCK != 0 || r.length == 0 || end > 1 << CHUNK_LOG2_MAX {
            return None;
        }
        v.push((start, end));
    }
    v.sort_unstable();
    let mut out: Vec<(u64, u64)> = Vec::new();
    for (s, e) in v {
        match out.last_mut() {
            Some(l) if s <= l.1 => l.1 = l.1.max(e),
            _ => out.push((s, e)),
        }
    }
    if out.iter().map(|(s, e)| e - s).sum::<u64>() > limit {
        return None;
    }
    // Both fit: nothing reaches past 2^30.
    Some(out.into_iter().map(|(s, e)| (s as u32, (e - s) as u32)).collect())
}

/// Stores a fence against `session` (NONE = all sessions) in the server's state. True if that changed it.
pub fn store_fence(server: &mut ServerState, session: SessionId, epoch: LeaseEpoch) -> bool {
    let e = server.fenced.entry(session).or_default();
    let raised = epoch > *e;
    *e = epoch.max(*e);
    raised
}

/// Takes over what the group says about refused sessions and absent copies. Nothing goes back; sessions below the mark
/// need no entry of their own. True if that changed the state.
pub fn store_marks(
    server: &mut ServerState,
    sessions: &[(SessionId, LeaseEpoch)],
    low_water: SessionId,
    absent_mark: ChunkId,
) -> bool {
    let before = server.clone();
    for (s, e) in sessions {
        let known = server.blocked.entry(*s).or_default();
        *known = (*e).max(*known);
    }
    server.low_water = server.low_water.max(low_water);
    server.absent_mark = server.absent_mark.max(absent_mark);
    let low = server.low_water;
    server.blocked.retain(|s, _| *s >= low);
    server.fenced.retain(|s, _| *s >= low || !s.is_some());
    *server != before
}

/// The promises of one life of a server: until when it answers no fence, per session. They belong to the process, not to
/// a copy, so one answer about any chunk prolongs them; a fence therefore waits only for those given before it.
#[derive(Clone, Debug)]
pub struct Promises {
    until: BTreeMap<SessionId, Nanos>,
    restart: Nanos,
}

impl Promises {
    /// A life begins at `now`; the one before may have promised until the moment it ended.
    pub fn new(now: Nanos, rules: &Rules) -> Promises {
        Promises { until: BTreeMap::new(), restart: if rules.restart_waits { now + PROMISE_KEPT } else { Nanos::ZERO } }
    }

    /// Gives a promise to `session` in an answer sent at `now`; what it must carry: the highest fence stored against it.
    pub fn give(&mut self, now: Nanos, session: SessionId, server: &ServerState) -> LeaseEpoch {
        let until = self.until.entry(session).or_default();
        *until = (*until).max(now + PROMISE_KEPT);
        let of = |s| server.fenced.get(&s).copied().unwrap_or_default();
        of(session).max(of(SessionId::NONE))
    }

    /// When a fence against `session` (NONE = all) that is stored now may be answered.
    pub fn clear_at(&self, session: SessionId, rules: &Rules) -> Nanos {
        if !rules.fence_waits {
            return self.restart;
        }
        let given = match session {
            SessionId::NONE => self.until.values().copied().max(),
            s => self.until.get(&s).copied(),
        };
        given.unwrap_or(Nanos::ZERO).max(self.restart)
    }

    /// Forgets what has run out.
    pub fn prune(&mut self, now: Nanos) {
        self.until.retain(|_, t| *t > now);
    }
}
