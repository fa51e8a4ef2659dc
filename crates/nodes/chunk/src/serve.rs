//! Requests of holders: writes, reads, promises, flushes, states.

use crate::live::Asker;
use crate::server::{ChunkServer, FlushJob, Then, VouchJob, Work};
use bytes::Bytes;
use chunk_store::{StoreError, Ticket};
use host::node::Effects;
use replica::copy::CopyState;
use replica::member::{Access, Act, Verdict, report, write_request};
use types::{BLOCK, CHUNK_LOG2_MAX, ChunkId, Nanos, NodeId, Seq};
use wire::{CopyReq, CsToMds, DataCtl, DataMsg, Msg, Refusal, WriteHeader, WriteKind, WriteMsg, flags};

/// Most bytes of one read.
const READ_MAX: u32 = 16 << 20;
/// Bytes of writes that may wait for room in the store before further ones are dropped; their senders send them again.
const HELD_MAX: u64 = 64 << 20;

/// Bytes read with their checksums, or why not.
pub(crate) type Content = Result<(Bytes, Vec<u32>), Refusal>;

impl ChunkServer {
    /// A write: taken at once, or put behind those that wait for room.
    pub(crate) fn write(&mut self, now: Nanos, from: NodeId, msg: WriteMsg, fx: &mut Effects) {
        let msg = if self.held_back.is_empty() && !self.store.busy() {
            match self.try_write(now, from, msg, fx) {
                Some(m) => m,
                None => return,
            }
        } else {
            msg
        };
        let bytes = msg.payload.len() as u64;
        if self.held_bytes + bytes <= HELD_MAX {
            self.held_bytes += bytes;
            self.held_back.push_back((from, msg));
        }
    }
    /// Writes that waited, in order, as far as there is room.
    pub(crate) fn retry_writes(&mut self, now: Nanos, fx: &mut Effects) {
        while !self.store.busy() {
            let Some((from, msg)) = self.held_back.pop_front() else { break };
            self.held_bytes -= msg.payload.len() as u64;
            if let Some(m) = self.try_write(now, from, msg, fx) {
                self.held_bytes += m.payload.len() as u64;
                self.held_back.push_front((from, m));
                break;
            }
        }
    }

    /// Gives the write back when there is no room for it at the moment.
    fn try_write(&mut self, now: Nanos, from: NodeId, msg: WriteMsg, fx: &mut Effects) -> Option<WriteMsg> {
        let h = msg.header;
        let req = write_request(&h);
        let asker = Asker::new(from, &req);
        let verdict = match self.admit(&req, Access::Write { seq: h.seq }) {
            Ok(v) => v,
            Err(r) => {
                self.send_ack(now, &asker, Some(r), fx);
                return None;
            }
        };
        let Act::Apply { skips } = verdict.act else {
            self.repeat(&asker, &h);
            return None;
        };
        if !intact(&msg) {
            self.note(format!("{from}: a block of {} {} arrived damaged", h.chunk, h.seq));
            self.send_ack(now, &asker, Some(Refusal::BadCrc), fx);
            return None;
        }
        let used = self.outstanding.get(&h.session).copied().unwrap_or(0);
        if used > 2 * self.cfg.credit {
            // Beyond any credit that was given: what is here answers, the rest will be sent again.
            self.repeat(&asker, &h);
            return None;
        }
        let WriteMsg { crcs, payload, .. } = msg.clone();
        match self.prepare(&req, &verdict).and_then(|()| self.append(&h, crcs, payload, skips)) {
            Ok(()) => {
                if let Some(l) = self.live_of(h.chunk) {
                    if let Some(f) = &mut l.filled {
                        f.put_range(h.offset, h.length);
                    }
                    l.owe(asker, h.seq);
                }
                None
            }
            Err(e) => match self.refused(&e) {
                None => Some(msg),
                Some(r) => {
                    self.send_ack(now, &asker, Some(r), fx);
                    None
                }
            },
        }
    }
    fn append(&mut self, h: &WriteHeader, crcs: Vec<u32>, payload: Bytes, skips: bool) -> Result<(), StoreError> {
        if skips {
            // Only without the rule against gaps: the copy pretends to hold what is missing.
            let Some(mut s) = self.store.copy(h.chunk).cloned() else { return Err(StoreError::NoCopy(h.chunk)) };
            s.last = Seq(h.seq.0 - 1);
            self.patch(h.chunk, Some(s), Vec::new(), false, Some(Seq(h.seq.0 - 1)), Then::Nothing)?;
        }
        // Before the write: what this life has not looked at yet starts from what was there, not from what is on its way.
        self.live_of(h.chunk);
        let t = self.ticket();
        let bytes = payload.len() as u64; // zeros take no memory
        self.store.write(Ticket(t), h, crcs, payload, &mut self.sfx)?;
        let Some(l) = self.live_of(h.chunk) else { return Err(StoreError::NoCopy(h.chunk)) };
        l.submitted(t, Some(h.seq), h.has(flags::DURABLE));
        let copy = l.copy;
        *self.outstanding.entry(h.session).or_default() += bytes;
        self.works.insert(t, Work::Write { chunk: h.chunk, copy, session: h.session, bytes });
        Ok(())
    }
    /// A record that is here, or beyond a gap: the answer says where the copy stands. One that is here but must be
    /// durable and may not be waits for a flush: it can have come through the shared ring of an earlier life.
    fn repeat(&mut self, asker: &Asker, h: &WriteHeader) {
        self.store.learn(&write_request(h));
        let Some(l) = self.live_of(h.chunk) else { return };
        let here = h.seq <= l.held;
        if here && h.has(flags::DURABLE) && h.seq > l.durable {
            let at = l.held;
            self.flushes.push(FlushJob { reply: None, parts: vec![(*asker, Ok(at))] });
            return;
        }
        l.owe(*asker, if here || l.quiet() { Seq(0) } else { h.seq.min(Seq(l.held.0 + 1)) });
        self.dirty.insert(h.chunk);
    }

    /// May it be served? The gate first, then the rules.
    pub(crate) fn admit(&self, req: &CopyReq, access: Access) -> Result<Verdict, Refusal> {
        match self.gate() {
            Some(r) => Err(r),
            None => self.seat(req.chunk).judge(req, access),
        }
    }
    /// Carries out what the verdict wants done before the request: creation, or the end of a join.
    pub(crate) fn prepare(&mut self, req: &CopyReq, v: &Verdict) -> Result<(), StoreError> {
        if v.create {
            let s = CopyState::new(req.chunk, req.copy);
            self.patch(req.chunk, Some(s), Vec::new(), false, None, Then::Nothing)?;
        }
        if v.meet {
            if let Some(mut s) = self.store.copy(req.chunk).cloned() {
                s.end_join();
                self.patch(req.chunk, Some(s), Vec::new(), false, None, Then::Nothing)?;
            }
            if let Some(l) = self.live_of(req.chunk) {
                l.filled = None;
            }
        }
        Ok(())
    }
    /// As [`Self::admit`] and [`Self::prepare`] for everything that is no write; hears `stable` on the way.
    fn enter(&mut self, req: &CopyReq, access: Access) -> Result<Verdict, Option<Refusal>> {
        let v = self.admit(req, access).map_err(Some)?;
        if let Err(e) = self.prepare(req, &v) {
            return Err(self.refused(&e));
        }
        if access != Access::State {
            self.store.learn(req);
        }
        Ok(v)
    }

    #[allow(clippy::too_many_arguments)]
    pub(crate) fn read(
        &mut self,
        now: Nanos,
        from: NodeId,
        req: &CopyReq,
        id: u64,
        offset: u32,
        length: u32,
        fx: &mut Effects,
    ) {
        let asker = Asker::new(from, req);
        if !in_range(offset, length) {
            self.note(format!("{from}: read of {length} bytes at {offset} is not of whole blocks in the chunk"));
            return;
        }
        let promise = match self.enter(req, Access::Read) {
            Ok(v) => v.promise,
            Err(None) => return,
            Err(Some(r)) => return self.send_data(now, &asker, id, offset, Err(r), false, fx),
        };
        let t = self.ticket();
        match self.store.read(Ticket(t), req.chunk, offset, length, false, &mut self.sfx) {
            Ok(()) => {
                self.works.insert(t, Work::Read { asker, id, offset, length, promise });
            }
            Err(e) => {
                if let Some(r) = self.refused(&e) {
                    self.send_data(now, &asker, id, offset, Err(r), false, fx);
                }
            }
        }
    }
    /// Answers a read. A copy that was replaced or given up while the disk worked answers for nothing.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn send_data(
        &mut self,
        now: Nanos,
        a: &Asker,
        id: u64,
        offset: u32,
        content: Content,
        promise: bool,
        fx: &mut Effects,
    ) {
        let content = content.and_then(|c| self.still_here(a).map(|()| c));
        let ans = self.answer(now, a, content.as_ref().err().copied(), promise);
        let (payload, crcs) = content.unwrap_or_default();
        fx.send.push((a.node, Msg::Read(DataMsg { ans, id, offset, crcs, payload })));
    }
    pub(crate) fn still_here(&self, a: &Asker) -> Result<(), Refusal> {
        let same = |c: &CopyState| c.copy == a.copy || !self.cfg.rules.copy_ids;
        if self.store.copy(a.chunk).is_some_and(same) { Ok(()) } else { Err(Refusal::NoCopy) }
    }

    /// Which ranges hold data, under the rules for reads.
    pub(crate) fn allocation(
        &mut self,
        now: Nanos,
        from: NodeId,
        req: &CopyReq,
        id: u64,
        (offset, length): (u32, u32),
        fx: &mut Effects,
    ) {
        let asker = Asker::new(from, req);
        let (refusal, promise) = match self.enter(req, Access::Read) {
            Ok(v) => (None, v.promise),
            Err(None) => return,
            Err(Some(r)) => (Some(r), false),
        };
        let ans = self.answer(now, &asker, refusal, promise);
        let runs = if refusal.is_none() { self.store.allocated(req.chunk) } else { Vec::new() };
        let runs = clip(&runs, offset, length);
        fx.send.push((from, Msg::Data(DataCtl::Allocated { ans, id, runs })));
    }

    pub(crate) fn promise(&mut self, now: Nanos, from: NodeId, req: &CopyReq, fx: &mut Effects) {
        let asker = Asker::new(from, req);
        match self.enter(req, Access::Promise) {
            Ok(_) => self.send_ack(now, &asker, None, fx),
            Err(Some(r)) => self.send_ack(now, &asker, Some(r), fx),
            Err(None) => {}
        }
    }
    pub(crate) fn stable(&mut self, now: Nanos, from: NodeId, req: &CopyReq, fx: &mut Effects) {
        let asker = Asker::new(from, req);
        match self.enter(req, Access::Stable) {
            Ok(_) => self.send_ack(now, &asker, None, fx),
            Err(Some(r)) => self.send_ack(now, &asker, Some(r), fx),
            Err(None) => {}
        }
    }

    pub(crate) fn flush(&mut self, now: Nanos, from: NodeId, reqs: &[CopyReq], id: u64, fx: &mut Effects) {
        let mut parts = Vec::with_capacity(reqs.len());
        for req in reqs {
            let part = match self.enter(req, Access::Flush) {
                Ok(_) => Ok(self.store.copy(req.chunk).map_or(Seq(0), |c| c.last)),
                Err(Some(r)) => Err(r),
                Err(None) => return, // no room for now: it is asked again
            };
            parts.push((Asker::new(from, req), part));
        }
        let job = FlushJob { reply: Some((from, id)), parts };
        if job.parts.iter().any(|p| p.1.is_ok()) {
            self.flushes.push(job);
        } else {
            self.answer_flush(now, job, fx);
        }
    }
    /// One flush of the store serves all that were asked for since the last turn.
    pub(crate) fn start_flushes(&mut self) {
        if self.flushes.is_empty() && self.vouches.is_empty() {
            return;
        }
        let t = self.ticket();
        match self.store.flush(Ticket(t), &mut self.sfx) {
            Ok(()) => {
                // Where the copies end now is what becomes durable.
                let mut jobs = std::mem::take(&mut self.flushes);
                for (a, end) in jobs.iter_mut().flat_map(|j| &mut j.parts) {
                    if end.is_ok() {
                        *end = self.store.copy(a.chunk).map(|c| c.last).ok_or(Refusal::NoCopy);
                    }
                }
                self.works.insert(t, Work::Flush(jobs, std::mem::take(&mut self.vouches)));
            }
            Err(e) => {
                self.vouches.clear(); // asked again
                self.refused(&e);
            }
        }
    }
    pub(crate) fn flush_done(
        &mut self,
        now: Nanos,
        ticket: u64,
        jobs: Vec<FlushJob>,
        vouches: Vec<VouchJob>,
        fx: &mut Effects,
    ) {
        for job in jobs {
            for (a, end) in &job.parts {
                if let (Ok(end), Some(l)) = (end, self.live.get_mut(&a.chunk)) {
                    // A joiner lacks blocks below its `last`: nothing of it is durable before it is whole.
                    if l.copy == a.copy && l.filled.is_none() {
                        l.flushed(ticket, *end);
                        self.dirty.insert(a.chunk);
                    }
                }
            }
            self.answer_flush(now, job, fx);
        }
        let (cs, incarnation) = (self.cfg.cs, self.cfg.incarnation);
        for VouchJob { reply, number, mut copies } in vouches {
            // A member of a committed view that nobody has asked since does not know yet that it is one.
            let good = |c: &CopyState| !c.unclean && c.joining.is_none_or(|j| j.copied);
            copies.retain(|(chunk, copy)| self.store.copy(*chunk).is_some_and(|c| c.copy == *copy && good(c)));
            fx.send.push((reply, Msg::CsToMds(CsToMds::Vouched { cs, incarnation, number, copies })));
        }
    }
    fn answer_flush(&mut self, now: Nanos, job: FlushJob, fx: &mut Effects) {
        let answers = job.parts.iter().map(|(a, end)| (self.answer(now, a, end.err(), true), *a)).collect::<Vec<_>>();
        match job.reply {
            Some((node, id)) => {
                let answers = answers.into_iter().map(|x| x.0).collect();
                fx.send.push((node, Msg::Data(DataCtl::FlushAck { answers, id })));
            }
            None => {
                fx.send.extend(answers.into_iter().map(|(ans, a)| (a.node, Msg::Data(DataCtl::Ack(ans)))));
            }
        }
    }

    pub(crate) fn chunk_state(&mut self, now: Nanos, from: NodeId, req: &CopyReq, fx: &mut Effects) {
        let asker = Asker::new(from, req);
        let v = match self.admit(req, Access::State) {
            Ok(v) => v,
            Err(r) => {
                let ans = self.answer(now, &asker, Some(r), false);
                fx.send.push((from, Msg::Data(DataCtl::State { ans, report: None })));
                return;
            }
        };
        if v.create {
            // Created with the epoch stored, so that an older holder cannot slip in behind the answer.
            let mut s = CopyState::new(req.chunk, req.copy);
            s.promised = req.epoch;
            if let Err(e) = self.patch(req.chunk, Some(s), Vec::new(), true, None, Then::State(asker)) {
                self.refused(&e);
            }
            return;
        }
        let mut taken = self.prepare(req, &v);
        let settled = self.live_of(req.chunk).is_none_or(|l| l.quiet());
        if taken.is_ok() && !settled {
            // What is on its way must be in before the copy says that it has it.
            taken = self.patch(req.chunk, None, Vec::new(), false, None, Then::State(asker));
            if taken.is_ok() {
                return;
            }
        }
        match taken {
            Ok(()) => self.send_state(now, &asker, fx),
            Err(e) => {
                self.refused(&e);
            }
        }
    }
    pub(crate) fn send_state(&mut self, now: Nanos, a: &Asker, fx: &mut Effects) {
        let held = self.live_of(a.chunk).map(|l| l.held);
        let copy = self.store.copy(a.chunk).filter(|c| c.copy == a.copy || !self.cfg.rules.copy_ids);
        let agrees = copy.is_some_and(|c| a.epoch == c.promised && Some(c.last) == held);
        let report = copy.map(report);
        let refusal = if report.is_some() { None } else { Some(Refusal::NoCopy) };
        let ans = self.answer(now, a, refusal, agrees);
        fx.send.push((a.node, Msg::Data(DataCtl::State { ans, report })));
    }

    /// Sends the acknowledgements that have become due, one per sender and chunk.
    pub(crate) fn send_owed(&mut self, now: Nanos, fx: &mut Effects) {
        for chunk in std::mem::take(&mut self.dirty) {
            let Some(l) = self.live.get_mut(&chunk) else { continue };
            let held = l.held;
            let due: Vec<Asker> = l.owed.values().filter(|o| o.due <= held).map(|o| o.asker).collect();
            let last = l.owed.len();
            l.owed.retain(|_, o| o.due > held);
            debug_assert_eq!(last, l.owed.len() + due.len());
            // Whoever has further records on their way is owed the next one.
            for a in &due {
                if !l.quiet() {
                    l.owe(*a, held.next());
                }
            }
            for a in due {
                self.send_ack(now, &a, None, fx);
            }
        }
    }

    /// Ends of copies for tests and tools: (last, held, durable).
    pub fn ends(&self, chunk: ChunkId) -> Option<(Seq, Seq, Seq)> {
        let c = self.store.copy(chunk)?;
        let l = self.live.get(&chunk);
        Some((c.last, l.map_or(c.last, |l| l.held), l.map_or(c.flushed, |l| l.durable)))
    }
}

/// Is it a range of whole blocks within a chunk, not empty and not more than one answer may carry?
pub(crate) fn in_range(offset: u32, length: u32) -> bool {
    let end = u64::from(offset) + u64::from(length);
    offset.is_multiple_of(BLOCK)
        && length.is_multiple_of(BLOCK)
        && length > 0
        && length <= READ_MAX
        && end <= 1 << CHUNK_LOG2_MAX
}

/// Do the payload's blocks match their checksums?
pub(crate) fn matches_crcs(payload: &[u8], crcs: &[u32]) -> bool {
    payload.len() == crcs.len() * BLOCK as usize
        && payload.chunks(BLOCK as usize).zip(crcs).all(|(b, c)| checksum::crc32c(b) == *c)
}
fn intact(m: &WriteMsg) -> bool {
    match m.header.kind {
        WriteKind::Data => m.payload.len() == m.header.length as usize && matches_crcs(&m.payload, &m.crcs),
        _ => m.payload.is_empty() && m.crcs.is_empty(),
    }
}

/// The parts of `runs`, which ascend, that lie within a range.
fn clip(runs: &[(u32, u32)], offset: u32, length: u32) -> Vec<(u32, u32)> {
    let end = u64::from(offset) + u64::from(length);
    let part = |&(o, l): &(u32, u32)| {
        let (from, to) = (o.max(offset), (u64::from(o) + u64::from(l)).min(end));
        // No more than `l`, so it fits.
        (u64::from(from) < to).then(|| (from, (to - u64::from(from)) as u32))
    };
    runs.iter().filter_map(part).collect()
}
