//! What a copy accepts: the rules by which a chunk server answers requests of holders and joiners. What the metadata group
//! orders is judged in [`crate::orders`].
//!
//! Everything here is a question to a [`Seat`] (the copy, the server's own state and the rules in force); the answer says
//! what the server must do and the shell does it.

use crate::copy::{CopyState, Joining, ServerState, TAIL_BYTES_MAX, TAIL_MAX, UNTOLD};
use crate::rules::Rules;
use alloc::boxed::Box;
use alloc::vec::Vec;
use marks::mark;
use types::{BLOCK, CHUNK_LOG2_MAX, ChunkId, CopyId, LeaseEpoch, Seq, SessionId};
use wire::{CopyReport, CopyReq, RangeRec, Refusal, WriteHeader, flags};

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
        ops: c.ops.list().to_vec(),
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
