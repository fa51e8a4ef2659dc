//! Filling a copy from others, for a join: its beginning, what is fetched, its end; and the other side of it, giving
//! content to those who fetch.

use crate::live::Asker;
use crate::pull::{Phase, Pull, Purpose};
use crate::serve::{Content, in_range, matches_crcs};
use crate::server::{ChunkServer, Then, Work, as_cs};
use bytes::Bytes;
use chunk_store::{Extent, StoreError, Ticket};
use host::node::Effects;
use marks::mark;
use replica::copy::{CopyState, Joining, UNTOLD};
use replica::member::{Access, JoinVerdict};
use replica::regions::{Regions, common, without};
use types::{BLOCK, ChunkId, CopyId, CsId, Member, Nanos, NodeId, Seq, ViewVer};
use wire::{CopyAns, CopyReport, CopyReq, DataCtl, DataMsg, Msg, Refusal};

/// Copies that are filled at the same time; merges come on top.
const FILLING_MAX: usize = 8;

impl ChunkServer {
    /// The copy `fresh` takes the place of whatever stands there, in one durable record: no crash may leave the chunk without
    /// any copy. Content of an older copy must not show through, unless that is what it starts from.
    pub(crate) fn put_fresh(&mut self, fresh: CopyState, then: Then) -> Result<(), StoreError> {
        let chunk = fresh.chunk;
        let zeros = |(offset, length)| Extent { offset, length, crcs: Vec::new(), payload: None };
        let kept = fresh.origin.is_some() || !self.cfg.rules.fresh_is_empty;
        let old = if kept { Vec::new() } else { self.store.allocated(chunk) };
        let extents: Vec<Extent> = old.into_iter().map(zeros).collect();
        self.patch(chunk, Some(fresh), extents, true, None, then)?;
        self.pulls.remove(&chunk);
        if let Some(l) = self.live_of(chunk) {
            l.filled = Some(Default::default());
        }
        Ok(())
    }

    pub(crate) fn join_start(&mut self, now: Nanos, from: NodeId, req: &CopyReq, base: Seq, fx: &mut Effects) {
        let asker = Asker::new(from, req);
        let verdict = match self.gate() {
            Some(r) => Err(r),
            None => self.seat(req.chunk).join_start(req, base),
        };
        match verdict {
            Err(r) => self.send_join(now, &asker, Some(r), fx),
            Ok(JoinVerdict::Known) => {
                let started = match self.live_of(req.chunk).and_then(|l| l.filled.as_mut()) {
                    Some(f) => {
                        f.asker = Some(asker);
                        f.started
                    }
                    None => true,
                };
                if started {
                    self.send_join(now, &asker, None, fx);
                }
            }
            Ok(JoinVerdict::Fresh(fresh)) => match self.put_fresh(*fresh, Then::JoinStarted) {
                Ok(()) => {
                    if let Some(f) = self.live_of(req.chunk).and_then(|l| l.filled.as_mut()) {
                        f.asker = Some(asker);
                    }
                }
                Err(e) => {
                    if let Some(r) = self.refused(&e) {
                        self.send_join(now, &asker, Some(r), fx);
                    }
                }
            },
        }
    }
    pub(crate) fn join_started(&mut self, now: Nanos, chunk: ChunkId, fx: &mut Effects) {
        let Some(f) = self.live_of(chunk).and_then(|l| l.filled.as_mut()) else { return };
        f.started = true;
        if let Some(a) = f.asker {
            self.send_join(now, &a, None, fx);
        }
    }
    fn send_join(&mut self, now: Nanos, a: &Asker, refusal: Option<Refusal>, fx: &mut Effects) {
        // A copy that says so in memory says it to others only once that is durable.
        let marked = self.store.copy(a.chunk).and_then(|c| c.joining).is_none_or(|j| j.copied);
        let settled = self.live_of(a.chunk).is_none_or(|l| l.filled.is_none());
        let copied = refusal.is_none() && marked && settled;
        let (done, total) = match self.pulls.get(&a.chunk) {
            Some(p) if p.to == a.copy => (p.done, p.total),
            _ => (0, 0),
        };
        let ans = self.answer(now, a, refusal, false);
        fx.send.push((a.node, Msg::Data(DataCtl::JoinState { ans, copied, done, total })));
    }

    pub(crate) fn pull(&mut self, now: Nanos, from: NodeId, req: &CopyReq, mut sources: Vec<Member>, fx: &mut Effects) {
        let asker = Asker::new(from, req);
        let verdict = match self.gate() {
            Some(r) => Err(r),
            None => self.seat(req.chunk).pull(req),
        };
        if let Err(r) = verdict {
            return self.send_join(now, &asker, Some(r), fx);
        }
        let me = self.cfg.cs;
        sources.retain(|m| m.cs != me);
        let filled = self.live_of(req.chunk).and_then(|l| l.filled.as_mut());
        let open = match filled {
            Some(f) => {
                f.asker = Some(asker);
                f.started
            }
            None => false,
        };
        if open {
            match self.pulls.get_mut(&req.chunk) {
                Some(p) if p.to == req.copy && p.epoch == req.epoch => {
                    p.stable = p.stable.max(req.stable);
                    p.flushed = p.flushed.max(req.flushed);
                    if req.ver >= p.ver {
                        (p.ver, p.short) = (req.ver, req.short);
                    }
                    p.sources = sources;
                }
                _ => {
                    let mut p = Pull::new(req, sources, Purpose::Join { state: None }, Phase::State);
                    p.since = self.store.copy(req.chunk).and_then(|c| c.origin.as_ref()).map(|o| o.ver);
                    self.pulls.insert(req.chunk, p);
                }
            }
        }
        self.send_join(now, &asker, None, fx);
    }

    /// Moves everything that is being fetched: asks, gives up, finishes.
    pub(crate) fn step_pulls(&mut self, now: Nanos, fx: &mut Effects) {
        let chunks: Vec<ChunkId> = self.pulls.keys().copied().collect();
        let only_missing = self.cfg.rules.copy_only_missing;
        let mut filling = 0;
        let mut asks: Vec<(CsId, DataCtl)> = Vec::new();
        for chunk in chunks {
            let Some(p) = self.pulls.get(&chunk) else { continue };
            let merge = matches!(p.purpose, Purpose::Converge { .. });
            if !merge {
                if p.phase != Phase::Settling && !self.seat(chunk).takes_copied(p.to, p.epoch) {
                    self.pulls.remove(&chunk);
                    continue;
                }
                filling += 1;
                if filling > FILLING_MAX || self.store.busy() {
                    continue;
                }
            }
            let filled = self.live.get(&chunk).and_then(|l| l.filled.as_ref()).filter(|_| only_missing && !merge);
            let Some(p) = self.pulls.get_mut(&chunk) else { continue };
            if let Err(why) = p.step(now, &mut self.next_piece, filled, &mut asks) {
                self.pull_failed(chunk, why, fx);
            } else if p.complete() {
                self.pull_complete(chunk, fx);
            }
        }
        fx.send.extend(asks.into_iter().map(|(cs, ctl)| (NodeId::Cs(cs), Msg::Data(ctl))));
    }
    pub(crate) fn pulls_reset(&mut self, cs: CsId, fx: &mut Effects) {
        let chunks: Vec<ChunkId> = self.pulls.keys().copied().collect();
        for chunk in chunks {
            if let Some(Err(why)) = self.pulls.get_mut(&chunk).map(|p| p.reset(cs)) {
                self.pull_failed(chunk, why, fx);
            }
        }
    }
    /// It will not succeed. A join stays open: its driver asks again; merges and replacements are answered.
    pub(crate) fn pull_failed(&mut self, chunk: ChunkId, why: &str, fx: &mut Effects) {
        let Some(p) = self.pulls.remove(&chunk) else { return };
        mark!("pull.failed");
        self.note(format!("{chunk}: fetching {} under {} failed: {why}", p.to, p.epoch));
        match p.purpose {
            Purpose::Join { .. } => {}
            Purpose::Replace { reply, .. } => self.send_replaced(reply, chunk, p.to, p.epoch, false, fx),
            Purpose::Converge { reply, .. } => self.send_converged(reply, chunk, p.to, p.epoch, false, fx),
        }
    }
    /// Everything is here: make it durable before anybody hears of it.
    fn pull_complete(&mut self, chunk: ChunkId, fx: &mut Effects) {
        let Some(p) = self.pulls.get_mut(&chunk) else { return };
        p.enter(Phase::Settling);
        let to = p.to;
        if matches!(p.purpose, Purpose::Converge { .. }) {
            return self.apply_merge(chunk, fx);
        }
        let t = self.ticket();
        let last = self.store.copy(chunk).map_or(Seq(0), |c| c.last);
        match self.store.flush(Ticket(t), &mut self.sfx) {
            Ok(()) => {
                self.works.insert(t, Work::PullFlush { chunk, to, last });
            }
            Err(e) => {
                self.refused(&e);
                self.pull_failed(chunk, "the store does not flush", fx);
            }
        }
    }
    /// What was fetched is durable: now the mark may say so.
    pub(crate) fn pull_flushed(&mut self, chunk: ChunkId, to: CopyId, last: Seq, ticket: u64) {
        let Some(p) = self.pulls.get(&chunk).filter(|p| p.to == to && p.phase == Phase::Settling) else { return };
        if !self.seat(chunk).takes_copied(to, p.epoch) {
            self.pulls.remove(&chunk);
            return;
        }
        let taken = match &p.purpose {
            Purpose::Join { state } => {
                let Some(mut s) = self.store.copy(chunk).cloned() else { return };
                if let Some(source) = state {
                    s.learn_source(source);
                }
                s.joining = s.joining.map(|j| Joining { copied: true, ..j });
                self.patch(chunk, Some(s), Vec::new(), true, None, Then::Copied)
            }
            Purpose::Replace { .. } => self.whole(chunk),
            Purpose::Converge { .. } => return,
        };
        if let Err(e) = taken {
            mark!("pull.mark-not-taken");
            // The next turn tries again: everything is here, only the mark is missing.
            self.refused(&e);
            let t = self.ticket();
            if self.store.flush(Ticket(t), &mut self.sfx).is_ok() {
                self.works.insert(t, Work::PullFlush { chunk, to, last });
            }
            return;
        }
        // The copy is whole, so what it held when the flush was asked is durable.
        if let Some(l) = self.live.get_mut(&chunk) {
            l.flushed(ticket, last);
            self.dirty.insert(chunk);
        }
    }
    pub(crate) fn join_copied(&mut self, now: Nanos, chunk: ChunkId, fx: &mut Effects) {
        let pull = self.pulls.remove(&chunk);
        let Some(f) = self.live_of(chunk).and_then(|l| l.filled.take()) else { return };
        if let (Some(a), Some(p)) = (f.asker, pull) {
            let ans = self.answer(now, &a, None, false);
            let state = DataCtl::JoinState { ans, copied: true, done: p.done, total: p.total };
            fx.send.push((a.node, Msg::Data(state)));
        }
    }

    /// A source says which ranges hold data.
    pub(crate) fn source_list(
        &mut self,
        from: NodeId,
        ans: &CopyAns,
        to: CopyId,
        extents: &[(u32, u32)],
        changed: Option<&[(u32, u32)]>,
        fx: &mut Effects,
    ) {
        let Some(p) = self.pulls.get_mut(&ans.chunk) else { return };
        let source = p.current().filter(|m| Some(m.cs) == as_cs(from));
        let mine = p.to == to && p.epoch == ans.epoch && p.phase == Phase::List;
        if !mine || source.is_none_or(|m| m.copy != ans.copy) {
            return;
        }
        if ans.refusal == Some(Refusal::Starting) {
            mark!("pull.source-starts");
            return p.source_starts();
        }
        if ans.refusal.is_some() || !are_ranges(extents) || !changed.is_none_or(are_ranges) {
            if let Err(why) = p.next_source() {
                self.pull_failed(ans.chunk, why, fx);
            }
            return;
        }
        if changed.is_none() && p.asks_another() {
            return;
        }
        self.fill_up(ans.chunk, extents, changed, fx);
    }
    /// Plans what is fetched, now that it is known where the source has data and what can have changed there. Where it has
    /// none the copy that this one starts from may have some: that goes.
    fn fill_up(&mut self, chunk: ChunkId, extents: &[(u32, u32)], changed: Option<&[(u32, u32)]>, fx: &mut Effects) {
        let origin = self.store.copy(chunk).and_then(|c| c.origin.as_ref());
        let Some(origin) = origin else {
            if let Some(p) = self.pulls.get_mut(&chunk) {
                p.plan(extents);
            }
            return;
        };
        let differ = match changed {
            Some(ranges) => {
                let mut all: Regions = ranges.iter().copied().collect();
                if self.cfg.rules.tails_are_missed {
                    all.join(&origin.regions);
                }
                all.ranges()
            }
            None => vec![(0, 1 << types::CHUNK_LOG2_MAX)],
        };
        let nothing_there = without(&common(&self.store.allocated(chunk), &differ), extents);
        let filled = self.live.get(&chunk).and_then(|l| l.filled.as_ref());
        let gone = blocks_without(&nothing_there, |b| filled.is_some_and(|f| f.has(b)));
        let zeros = |(offset, length)| Extent { offset, length, crcs: Vec::new(), payload: None };
        let zeros: Vec<Extent> = gone.into_iter().map(zeros).collect();
        let taken = if zeros.is_empty() { Ok(()) } else { self.patch(chunk, None, zeros, false, None, Then::Nothing) };
        let refused = taken.as_ref().err().map(|e| self.refused(e));
        let Some(p) = self.pulls.get_mut(&chunk) else { return };
        match refused {
            None => p.plan(&common(extents, &differ)),
            Some(None) => p.source_starts(), // no room in the journal at the moment: asked again in a while
            Some(Some(_)) => self.pull_failed(chunk, "there is no room for it", fx),
        }
    }

    /// Pieces that came when there was no room.
    pub(crate) fn retry_pieces(&mut self, fx: &mut Effects) {
        while !self.store.busy()
            && let Some((from, m)) = self.held_pieces.pop_front()
        {
            let held = self.held_pieces.len();
            self.source_data(from, m, fx);
            if self.held_pieces.len() > held {
                // Still none; it was the first to come.
                self.held_pieces.rotate_right(1);
                break;
            }
        }
    }
    /// A source gives a piece.
    pub(crate) fn source_gives(&mut self, from: NodeId, m: DataMsg, fx: &mut Effects) {
        let p = self.pulls.get(&m.ans.chunk).filter(|p| p.epoch == m.ans.epoch);
        if p.zip(as_cs(from)).is_some_and(|(p, cs)| p.piece(m.id as u32, cs).is_some()) && m.ans.refusal.is_none() {
            self.fetched += m.payload.len() as u64;
        }
        self.source_data(from, m, fx);
    }
    fn source_data(&mut self, from: NodeId, m: DataMsg, fx: &mut Effects) {
        let (chunk, to, id) = (m.ans.chunk, CopyId((m.id >> 32) as u32), m.id as u32);
        let Some(cs) = as_cs(from) else { return };
        let Some(p) = self.pulls.get_mut(&chunk).filter(|p| p.to == to && p.epoch == m.ans.epoch) else { return };
        let Some((offset, length)) = p.piece(id, cs) else { return };
        let whole = m.ans.refusal.is_none() && m.offset == offset && m.payload.len() == length as usize;
        if m.ans.refusal == Some(Refusal::Starting) {
            p.source_starts();
            // The piece goes back to the queue; nobody is to blame.
            if p.postpone(id).is_ok() {
                return;
            }
        }
        if !whole || !matches_crcs(&m.payload, &m.crcs) {
            if let Err(why) = p.failed(id) {
                self.pull_failed(chunk, why, fx);
            }
            return;
        }
        if let Purpose::Converge { staged, .. } = &mut p.purpose {
            let parts = sparse(offset, &m.crcs, &m.payload);
            staged.extend(parts.iter().cloned());
            p.stored(id);
            return self.merge_early(chunk, parts);
        }
        if !self.seat(chunk).takes_copied(to, m.ans.epoch) {
            self.pulls.remove(&chunk);
            return;
        }
        let extents = self.missing(chunk, offset, &m.crcs, &m.payload);
        if extents.is_empty() {
            if let Some(p) = self.pulls.get_mut(&chunk) {
                p.stored(id);
            }
            return;
        }
        match self.patch(chunk, None, extents, false, None, Then::Piece(id)) {
            Ok(()) => {
                if let Some(p) = self.pulls.get_mut(&chunk) {
                    p.storing(id);
                }
                if let Some(f) = self.live_of(chunk).and_then(|l| l.filled.as_mut()) {
                    f.put_range(offset, length);
                }
            }
            Err(e) => {
                if self.refused(&e).is_some() {
                    return self.pull_failed(chunk, "there is no room for it", fx);
                }
                // No room at the moment. What is in flight is bounded, so it can be kept.
                mark!("pull.no-room");
                if let Some(p) = self.pulls.get_mut(&chunk) {
                    p.hold(id);
                }
                self.held_pieces.push_back((from, m));
            }
        }
    }
    pub(crate) fn piece_stored(&mut self, chunk: ChunkId, copy: CopyId, id: u32) {
        if let Some(p) = self.pulls.get_mut(&chunk).filter(|p| p.to == copy) {
            p.stored(id);
        }
    }
    /// The runs of blocks that are not here yet. A block that is here came with a record of this join, or was fetched:
    /// what a source had when it was asked says nothing about which is newer.
    fn missing(&self, chunk: ChunkId, offset: u32, crcs: &[u32], payload: &Bytes) -> Vec<Extent> {
        let filled = self.live.get(&chunk).and_then(|l| l.filled.as_ref());
        let lacks =
            |i: usize| !self.cfg.rules.copy_only_missing || filled.is_some_and(|f| !f.has(offset / BLOCK + i as u32));
        let mut out = Vec::new();
        let mut i = 0;
        while i < crcs.len() {
            let start = i;
            while i < crcs.len() && lacks(i) {
                i += 1;
            }
            if i > start {
                let (a, b) = (start * BLOCK as usize, i * BLOCK as usize);
                out.push(Extent {
                    offset: offset + a as u32,
                    length: (b - a) as u32,
                    crcs: crcs[start..i].to_vec(),
                    payload: Some(payload.slice(a..b)),
                });
            } else {
                i += 1;
            }
        }
        out
    }

    /// Another server asks which ranges hold data.
    pub(crate) fn copy_list(
        &mut self,
        now: Nanos,
        from: NodeId,
        req: &CopyReq,
        to: CopyId,
        since: Option<ViewVer>,
        fx: &mut Effects,
    ) {
        let asker = Asker::new(from, req);
        let (refusal, extents) = match self.enter_copy(req) {
            Ok(()) => (None, self.store.allocated(req.chunk)),
            Err(Some(r)) => (Some(r), Vec::new()),
            Err(None) => return,
        };
        let ans = self.answer(now, &asker, refusal, false);
        let since = if self.cfg.rules.missed_since_member { since } else { since.map(|_| UNTOLD) };
        let changed = since.zip(self.store.copy(req.chunk)).and_then(|(v, c)| c.changed_since(v)).map(Regions::ranges);
        fx.send.push((from, Msg::Data(DataCtl::Extents { ans, to, extents, changed })));
    }
    /// Another server fetches.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn copy_read(
        &mut self,
        now: Nanos,
        from: NodeId,
        req: &CopyReq,
        to: CopyId,
        id: u64,
        (offset, length): (u32, u32),
        fx: &mut Effects,
    ) {
        let asker = Asker::new(from, req);
        let id = u64::from(to.0) << 32 | id & u64::from(u32::MAX);
        if !in_range(offset, length) {
            self.note(format!("{from}: copy of {length} bytes at {offset} is not of whole blocks in the chunk"));
            return;
        }
        match self.enter_copy(req) {
            Ok(()) => {}
            Err(Some(r)) => return self.send_copy(now, &asker, id, offset, Err(r), fx),
            Err(None) => return,
        }
        let t = self.ticket();
        match self.store.read(Ticket(t), req.chunk, offset, length, true, &mut self.sfx) {
            Ok(()) => {
                self.works.insert(t, Work::CopyRead { asker, id, offset, length });
            }
            Err(e) => {
                if let Some(r) = self.refused(&e) {
                    self.send_copy(now, &asker, id, offset, Err(r), fx);
                }
            }
        }
    }
    fn enter_copy(&mut self, req: &CopyReq) -> Result<(), Option<Refusal>> {
        let v = self.admit(req, Access::CopyRead).map_err(Some)?;
        self.prepare(req, &v).map_err(|e| self.refused(&e))?;
        self.store.learn(req);
        Ok(())
    }
    pub(crate) fn send_copy(
        &mut self,
        now: Nanos,
        a: &Asker,
        id: u64,
        offset: u32,
        content: Content,
        fx: &mut Effects,
    ) {
        let content = content.and_then(|c| self.still_here(a).map(|()| c));
        let ans = self.answer(now, a, content.as_ref().err().copied(), false);
        let (payload, crcs) = content.unwrap_or_default();
        fx.send.push((a.node, Msg::Copy(DataMsg { ans, id, offset, crcs, payload })));
    }
    /// A source tells its state, for a join or a replacement. A source of a join must hold what the join builds on.
    pub(crate) fn source_state(&mut self, from: NodeId, ans: &CopyAns, report: Option<CopyReport>, fx: &mut Effects) {
        let Some(p) = self.pulls.get_mut(&ans.chunk) else { return };
        let source = p.current().filter(|m| Some(m.cs) == as_cs(from));
        let mine = p.epoch == ans.epoch && p.phase == Phase::State;
        let Some(source) = source.filter(|m| mine && m.copy == ans.copy) else { return };
        if ans.refusal == Some(Refusal::Starting) {
            return p.source_starts();
        }
        let sound = |r: &CopyReport| r.copy == source.copy && r.chunk == ans.chunk && !r.joining && !r.unclean;
        let base = if matches!(p.purpose, Purpose::Join { .. }) { p.stable } else { Seq(0) };
        match (report.filter(|r| sound(r) && r.last >= base), &mut p.purpose) {
            (Some(r), Purpose::Replace { state, .. } | Purpose::Join { state }) => {
                *state = Some(r);
                p.enter(Phase::List);
            }
            _ => {
                if let Err(why) = p.next_source() {
                    self.pull_failed(ans.chunk, why, fx);
                }
            }
        }
    }
}

/// Are they ranges of whole blocks in a chunk, ascending and without overlaps?
fn are_ranges(v: &[(u32, u32)]) -> bool {
    let mut end = 0;
    v.iter().all(|&(offset, length)| {
        let fits = offset >= end && offset % BLOCK == 0 && length % BLOCK == 0 && length > 0;
        end = offset.saturating_add(length);
        fits && end <= 1 << types::CHUNK_LOG2_MAX
    })
}

/// Ranges (offset, length) without the blocks for which `leave` holds.
fn blocks_without(ranges: &[(u32, u32)], leave: impl Fn(u32) -> bool) -> Vec<(u32, u32)> {
    let mut out: Vec<(u32, u32)> = Vec::new();
    for b in ranges.iter().flat_map(|&(o, l)| o / BLOCK..(o + l) / BLOCK).filter(|b| !leave(*b)) {
        match out.last_mut() {
            Some(l) if l.0 + l.1 == b * BLOCK => l.1 += BLOCK,
            _ => out.push((b * BLOCK, BLOCK)),
        }
    }
    out
}

/// What was fetched as extents in which blocks of zeros are nothing: a record of zeros covers far more than a journal takes
/// as data, and a merge must fit into one record.
fn sparse(offset: u32, crcs: &[u32], payload: &Bytes) -> Vec<Extent> {
    let block = BLOCK as usize;
    let zero = |i: usize| payload[i * block..(i + 1) * block].iter().all(|b| *b == 0);
    let mut out = Vec::new();
    let mut i = 0;
    while i < crcs.len() {
        let (start, empty) = (i, zero(i));
        while i < crcs.len() && zero(i) == empty {
            i += 1;
        }
        let (a, b) = (start * block, i * block);
        out.push(Extent {
            offset: offset + a as u32,
            length: (b - a) as u32,
            crcs: if empty { Vec::new() } else { crcs[start..i].to_vec() },
            payload: (!empty).then(|| payload.slice(a..b)),
        });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_of_a_merge_are_nothing() {
        let mut data = vec![0u8; 6 * BLOCK as usize];
        data[2 * BLOCK as usize] = 1;
        data[4 * BLOCK as usize - 1] = 1;
        let crcs: Vec<u32> = data.chunks(BLOCK as usize).map(checksum::crc32c).collect();
        let parts = sparse(3 * BLOCK, &crcs, &Bytes::from(data));
        let shape: Vec<_> = parts.iter().map(|e| (e.offset / BLOCK, e.length / BLOCK, e.payload.is_some())).collect();
        assert_eq!(shape, [(3, 2, false), (5, 2, true), (7, 2, false)]);
        assert_eq!(parts[1].crcs, crcs[2..4]);
        assert!(parts[0].crcs.is_empty());
    }
}
