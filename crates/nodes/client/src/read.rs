//! Reads: planned per chunk, asked of one member (of another when it is slow), handed out under promises
//! (rules R1 to R4 and L5).

use crate::lease::Ready;
use crate::op::OpKind;
use crate::{Client, ClientError, block_crcs};
use bytes::Bytes;
use host::node::Effects;
use replica::sequencer::SeqOut;
use types::{BLOCK, ChunkId, CsId, InodeId, Member, Nanos, NodeId};
use wire::names::{MetaError, MetaOp, MetaOutcome};
use wire::{DataCtl, DataMsg, LeaseKind, Msg};

/// Another member is asked after so long.
const HEDGE: Nanos = Nanos::from_millis(50);
/// A member that leaves a read unanswered for so long is reported.
const SILENT: Nanos = Nanos::from_millis(1000);
const PROMISE_AGAIN: Nanos = Nanos::from_millis(30);

/// A part of a read within one chunk.
#[derive(Debug)]
pub(crate) struct Reading {
    pub ino: InodeId,
    pub ticket: u64,
    /// A partial write that needs this block, instead of a ticket.
    pub rmw: Option<u64>,
    index: u32,
    chunk: Option<ChunkId>,
    offset: u32,
    length: u32,
    /// Place of this part in what the program asked for.
    at: usize,
    asked: Vec<CsId>,
    /// When the program asked.
    begun: Nanos,
    since: Nanos,
    asked_at: Nanos,
    promised_at: Nanos,
    dirty: bool,
    data: Option<(Member, Bytes)>,
}

impl Reading {
    /// A write is issued: an answer that crosses it is worth nothing (R2).
    pub(crate) fn met_write(&mut self, chunk: ChunkId, offset: u32, length: u32) {
        if self.chunk == Some(chunk) && offset < self.offset + self.length && self.offset < offset + length {
            self.dirty = true;
        }
    }
    fn fresh(&mut self) {
        self.chunk = None;
        self.asked.clear();
        self.dirty = false;
        self.data = None;
    }
}

impl Client {
    /// Plans waiting reads and asks for what can be asked for.
    pub(crate) fn pump_reads(&mut self, ino: InodeId, fx: &mut Effects) {
        loop {
            let Some(f) = self.files.get_mut(&ino) else { return };
            let Some(ticket) = f.waiting_reads.pop_front() else { break };
            if f.inline {
                self.call(Some(ticket), MetaOp::ReadBody { ino }, LeaseKind::None);
                continue;
            }
            if !self.plan_read(ino, ticket, fx) {
                return;
            }
        }
        let Some(f) = self.files.get(&ino) else { return };
        let stalled: Vec<u64> = f.stalled_reads.iter().copied().collect();
        for id in stalled {
            self.try_read(id, fx);
        }
    }
    /// Cuts a read into parts. False = not now: where the file ends must be confirmed first, because no server's promise
    /// vouches for it (R3).
    fn plan_read(&mut self, ino: InodeId, ticket: u64, fx: &mut Effects) -> bool {
        let Some(f) = self.files.get_mut(&ino) else { return true };
        let (size, log2, record_max) = (f.size, f.layout.chunk_log2, u64::from(self.cfg.record_max));
        let Some(op) = self.ops.get_mut(&ticket) else { return true };
        let OpKind::Read { offset, length, since, .. } = &mut op.kind else { return true };
        let real = u64::from(*length).min(size.saturating_sub(*offset));
        if real < u64::from(*length) && f.checked < *since {
            f.waiting_reads.push_front(ticket);
            self.map(ino, 0, false, fx);
            return false;
        }
        *length = real as u32;
        let block = u64::from(BLOCK);
        let start = *offset / block * block;
        let end = (*offset + real).div_ceil(block) * block;
        if real == 0 {
            self.empty_read(ticket);
            return true;
        }
        let mut at = start;
        while at < end {
            let chunk_end = ((at >> log2) + 1) << log2;
            let to = end.min(chunk_end).min(at - at % record_max + record_max);
            let part = Reading {
                ino,
                ticket,
                rmw: None,
                index: (at >> log2) as u32,
                chunk: None,
                offset: (at & ((1 << log2) - 1)) as u32,
                length: (to - at) as u32,
                at: (at - start) as usize,
                asked: vec![],
                begun: self.now,
                since: self.now,
                asked_at: Nanos::ZERO,
                promised_at: Nanos::ZERO,
                dirty: false,
                data: None,
            };
            at = to;
            self.add_reading(part);
            if let Some(op) = self.ops.get_mut(&ticket) {
                op.left += 1;
            }
        }
        true
    }
    fn add_reading(&mut self, part: Reading) -> u64 {
        let id = self.id();
        let ino = part.ino;
        self.reads.insert(id, part);
        if let Some(f) = self.files.get_mut(&ino) {
            f.stalled_reads.insert(id);
        }
        id
    }
    /// Reads one block for a partial write.
    pub(crate) fn read_for(&mut self, token: u64, ino: InodeId, index: u32, offset: u32, fx: &mut Effects) {
        let part = Reading {
            ino,
            ticket: 0,
            rmw: Some(token),
            index,
            chunk: None,
            offset,
            length: BLOCK,
            at: 0,
            asked: vec![],
            begun: self.now,
            since: self.now,
            asked_at: Nanos::ZERO,
            promised_at: Nanos::ZERO,
            dirty: false,
            data: None,
        };
        let id = self.add_reading(part);
        self.try_read(id, fx);
    }

    fn try_read(&mut self, id: u64, fx: &mut Effects) {
        let Some(r) = self.reads.get(&id) else { return };
        let (ino, index, offset, length, begun) = (r.ino, r.index, r.offset, r.length, r.begun);
        match self.chunk_ready_since(ino, index, false, begun, fx) {
            Ready::Wait => {}
            Ready::Hole => {
                self.part_read(id, Bytes::from(vec![0; length as usize]), fx);
            }
            Ready::Yes => {
                let rules = self.cfg.rules;
                let Some(f) = self.files.get_mut(&ino) else { return };
                let Some(c) = f.chunks.get_mut(&index) else { return };
                let Some(s) = &c.seq else { return };
                if rules.reads_wait_for_writes && s.overlaps(offset, length) {
                    return; // R1
                }
                f.stalled_reads.remove(&id);
                let chunk = c.id;
                if let Some(r) = self.reads.get_mut(&id) {
                    r.fresh();
                    r.chunk = Some(chunk);
                    r.since = self.now;
                }
                self.ask(id, fx);
            }
        }
    }
    /// Back to the queue: the lease changed, or the answer was worth nothing.
    pub(crate) fn stall_read(&mut self, id: u64) {
        let Some(r) = self.reads.get_mut(&id) else { return };
        r.fresh();
        let ino = r.ino;
        if let Some(f) = self.files.get_mut(&ino) {
            f.stalled_reads.insert(id);
        }
        self.dirty.insert(ino);
    }

    /// Asks the next member.
    fn ask(&mut self, id: u64, fx: &mut Effects) {
        let now = self.now;
        let Some(r) = self.reads.get_mut(&id) else { return };
        let Some(s) = self.files.get(&r.ino).and_then(|f| f.chunks.get(&r.index)).and_then(|c| c.seq.as_ref()) else {
            return;
        };
        let members = &s.view().members;
        if members.is_empty() {
            return;
        }
        // Spread over the members by place, so that neighbours of a sequential reader share one server's cache.
        let start = (r.offset >> 20) as usize + r.index as usize;
        let order = (0..members.len()).map(|i| members[(start + i) % members.len()]);
        let fresh = order.clone().find(|m| !r.asked.contains(&m.cs));
        let m = match fresh {
            Some(m) => m,
            None => {
                r.asked.clear();
                members[start % members.len()]
            }
        };
        r.asked.push(m.cs);
        r.asked_at = now;
        let req = s.request(m, now);
        let (offset, length) = (r.offset, r.length);
        fx.send.push((NodeId::Cs(m.cs), Msg::Data(DataCtl::Read { req, id, offset, length })));
        // The others are asked for a promise at once where one will be missing when the answer is here.
        self.ask_promises(id, Nanos::from_millis(100), fx);
        self.wake = self.wake.min(now + Nanos::from_millis(20));
    }
    /// Promises of members that end later than `margin` from now.
    fn promises(&self, members: &[Member], margin: Nanos) -> usize {
        let good = |m: &&Member| {
            self.promises.get(&m.cs).is_some_and(|p| p.until > self.now + margin && p.fence <= self.link.settled)
        };
        members.iter().filter(good).count()
    }
    fn ask_promises(&mut self, id: u64, margin: Nanos, fx: &mut Effects) {
        let now = self.now;
        let Some(r) = self.reads.get(&id) else { return };
        let Some(s) = self.files.get(&r.ino).and_then(|f| f.chunks.get(&r.index)).and_then(|c| c.seq.as_ref()) else {
            return;
        };
        let asked = r.asked.last().copied();
        let members = &s.view().members;
        let fresh = asked.filter(|cs| {
            !self.promises.get(cs).is_some_and(|p| p.until > now + margin && p.fence <= self.link.settled)
        });
        let will_have = self.promises(members, margin) + usize::from(fresh.is_some() && r.data.is_none());
        if will_have >= s.promises_needed() || now.since(r.promised_at) < PROMISE_AGAIN {
            return;
        }
        for m in members {
            let has = self.promises.get(&m.cs).is_some_and(|p| p.until > now + margin && p.fence <= self.link.settled);
            if !has && (r.data.is_some() || asked != Some(m.cs)) {
                fx.send.push((NodeId::Cs(m.cs), Msg::Data(DataCtl::Promise(s.request(*m, now)))));
            }
        }
        if let Some(r) = self.reads.get_mut(&id) {
            r.promised_at = now;
        }
    }

    pub(crate) fn read_answer(&mut self, cs: CsId, d: DataMsg, fx: &mut Effects) {
        self.copy_answer(cs, &d.ans, fx);
        let Some(r) = self.reads.get_mut(&d.id) else { return };
        let Some(f) = self.files.get(&r.ino) else { return };
        let held = f.lease.as_ref().map(|l| l.epoch) == Some(d.ans.epoch);
        if !held || r.chunk != Some(d.ans.chunk) || r.offset != d.offset || r.data.is_some() {
            return;
        }
        if d.ans.refusal.is_some() {
            if r.asked.last() == Some(&cs) {
                let many = r.asked.len() >= 3;
                r.asked_at = if many { self.now } else { Nanos::ZERO };
                if !many {
                    self.ask(d.id, fx);
                }
            }
            return;
        }
        if d.payload.len() != r.length as usize || block_crcs(&d.payload) != d.crcs {
            self.stats.bad_crc += 1; // R4
            fx.log
                .push(format!("read of {:?} from {cs:?}: checksum does not match; asking another member", d.ans.chunk));
            return self.ask(d.id, fx);
        }
        r.data = Some((Member { cs, copy: d.ans.copy }, d.payload));
        self.hand_out(d.id, fx);
    }
    /// Gives data to the program if everything that must hold does (R2, R3, L5).
    fn hand_out(&mut self, id: u64, fx: &mut Effects) {
        let rules = self.cfg.rules;
        let Some(r) = self.reads.get(&id) else { return };
        let Some((from, data)) = r.data.clone() else { return };
        let Some(s) = self.files.get(&r.ino).and_then(|f| f.chunks.get(&r.index)).and_then(|c| c.seq.as_ref()) else {
            return self.stall_read(id);
        };
        let member = s.view().has(from) || !rules.copy_ids;
        if (r.dirty && rules.reads_wait_for_writes) || !member {
            self.stats.repeated += 1;
            return self.stall_read(id);
        }
        if self.now >= self.link.session_until {
            self.link.hurry_renew(self.now);
            return;
        }
        if rules.promises && self.promises(&s.view().members, Nanos::ZERO) < s.promises_needed() {
            return self.ask_promises(id, Nanos::ZERO, fx);
        }
        self.part_read(id, data, fx);
    }
    fn part_read(&mut self, id: u64, data: Bytes, fx: &mut Effects) {
        let Some(r) = self.reads.remove(&id) else { return };
        if let Some(f) = self.files.get_mut(&r.ino) {
            f.stalled_reads.remove(&id);
        }
        if let Some(token) = r.rmw {
            return self.rmw_read(token, r.offset, data, fx);
        }
        if let Some(op) = self.ops.get_mut(&r.ticket)
            && let OpKind::Read { parts, .. } = &mut op.kind
        {
            parts.push((r.at, data));
        }
        self.op_part_done(r.ticket, None);
    }

    /// The body of an inline file has come.
    pub(crate) fn body_read(&mut self, ticket: u64, outcome: Result<MetaOutcome, MetaError>) {
        let Some(op) = self.ops.get(&ticket) else { return };
        let OpKind::Read { offset, length, .. } = op.kind else { return };
        match outcome {
            Ok(MetaOutcome::Body(b)) => {
                let start = (offset as usize).min(b.len());
                let end = (start + length as usize).min(b.len());
                let data = Bytes::from(b).slice(start..end);
                self.answer(ticket, Ok(crate::ClientAnswer::Data(data)));
            }
            Ok(_) => self.end_read(ticket, Some(ClientError::Meta(MetaError::Invalid))),
            Err(e) => self.end_read(ticket, Some(ClientError::Meta(e))),
        }
    }

    pub(crate) fn reads_reset(&mut self, cs: CsId, fx: &mut Effects) {
        let ids: Vec<u64> = self
            .reads
            .iter()
            .filter(|(_, r)| r.data.is_none() && r.asked.last() == Some(&cs))
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            self.ask(id, fx);
        }
    }
    pub(crate) fn tick_reads(&mut self, fx: &mut Effects) {
        let now = self.now;
        let ids: Vec<u64> = self.reads.iter().filter(|(_, r)| r.chunk.is_some()).map(|(id, _)| *id).collect();
        for id in ids {
            let Some(r) = self.reads.get(&id) else { continue };
            if r.data.is_some() {
                self.hand_out(id, fx);
            }
            let Some(r) = self.reads.get(&id) else { continue };
            if now.since(r.since) >= SILENT {
                self.accuse(id, fx);
            }
            let Some(r) = self.reads.get(&id) else { continue };
            if r.data.is_none() && now.since(r.asked_at) >= HEDGE {
                self.ask(id, fx);
            }
        }
    }
    /// Members that neither answer reads nor give promises are reported, as a writer would.
    fn accuse(&mut self, id: u64, fx: &mut Effects) {
        let now = self.now;
        let Some(r) = self.reads.get(&id) else { return };
        let (ino, index, data) = (r.ino, r.index, r.data.is_some());
        let asked = r.asked.clone();
        let promised: Vec<CsId> = self.promises.iter().filter(|(_, p)| p.until > now).map(|(cs, _)| *cs).collect();
        let Some(c) = self.files.get_mut(&ino).and_then(|f| f.chunks.get_mut(&index)) else { return };
        let chunk = c.id;
        let Some(s) = &mut c.seq else { return };
        let silent: Vec<CsId> = s
            .view()
            .members
            .iter()
            .map(|m| m.cs)
            .filter(|cs| !promised.contains(cs) && (data || asked.contains(cs)))
            .collect();
        let mut out = SeqOut::default();
        for cs in silent {
            s.accuse(cs, now, &mut out);
        }
        self.carry_out(ino, chunk, out, fx);
    }
}
