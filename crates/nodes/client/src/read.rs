//! Reads: planned per chunk, asked of one member (of another when it is slow), handed out under promises
//! (rules R1 to R4 and L5).

use crate::calls::For;
use crate::chunks::Ready;
use crate::op::OpKind;
use crate::small::Body;
use crate::{Client, ClientError, block_crcs};
use bytes::Bytes;
use host::node::Effects;
use marks::mark;
use replica::sequencer::SeqOut;
use std::collections::BTreeSet;
use types::{BLOCK, ChunkId, CsId, INLINE_MAX, InodeId, LeaseEpoch, Member, Nanos, NodeId};
use wire::names::{MetaError, MetaOp, MetaOutcome};
use wire::{CopyAns, DataCtl, DataMsg, LeaseKind, Msg};

/// Another member is asked after so long.
const HEDGE: Nanos = Nanos::from_millis(50);
/// A member that leaves a read unanswered for so long is reported.
const SILENT: Nanos = Nanos::from_millis(1000);
/// Bytes that no member has undamaged for so long are lost.
const LOST: Nanos = Nanos::from_secs(10);
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
    /// It asks where data stands instead of for the data.
    extents: bool,
    /// Members whose bytes did not match their checksums, and since when.
    bad: Vec<CsId>,
    bad_since: Nanos,
    got: Option<(Member, Got)>,
}
/// What a member answered.
#[derive(Clone, Debug)]
enum Got {
    Data(Bytes),
    /// (offset, length) within the chunk.
    Extents(Vec<(u32, u32)>),
}
/// Longest part of a read that is asked for in one piece although it crosses a record's border.
const PART_MAX: u64 = 2 << 20;

impl Reading {
    fn new(ino: InodeId, index: u32, now: Nanos) -> Reading {
        Reading {
            ino,
            ticket: 0,
            rmw: None,
            index,
            chunk: None,
            offset: 0,
            length: 0,
            at: 0,
            asked: vec![],
            begun: now,
            since: now,
            asked_at: Nanos::ZERO,
            promised_at: Nanos::ZERO,
            dirty: false,
            extents: false,
            bad: vec![],
            bad_since: Nanos::ZERO,
            got: None,
        }
    }
    /// A write is issued: an answer that crosses it is worth nothing (R2).
    pub(crate) fn met_write(&mut self, chunk: ChunkId, offset: u32, length: u32) {
        if self.chunk == Some(chunk) && offset < self.offset + self.length && self.offset < offset + length {
            self.dirty = true;
        }
    }
    /// Dirty bytes of the file are on their way out of memory.
    pub(crate) fn met_range(&mut self, chunk_log2: u8, start: u64, end: u64) {
        let from = (u64::from(self.index) << chunk_log2) + u64::from(self.offset);
        if start < from + u64::from(self.length) && from < end {
            self.dirty = true;
        }
    }
    /// It was asked of this chunk.
    pub(crate) fn of(&self, chunk: ChunkId) -> bool {
        self.chunk == Some(chunk)
    }
    fn fresh(&mut self) {
        self.chunk = None;
        self.asked.clear();
        self.dirty = false;
        self.got = None;
    }
}

impl Client {
    /// Plans waiting reads and asks for what can be asked for.
    pub(crate) fn pump_reads(&mut self, ino: InodeId, fx: &mut Effects) {
        loop {
            let Some(f) = self.files.get(&ino) else { return };
            let Some(&ticket) = f.waiting_reads.front() else { break };
            if f.end() > 0 && !self.body_known(ino) {
                return;
            }
            if !self.plan_read(ino, ticket, fx) {
                return;
            }
            if let Some(f) = self.files.get_mut(&ino) {
                f.waiting_reads.pop_front();
            }
        }
        self.pump_stalled(ino, false, fx);
    }
    /// Asks again for what has to be read for partial writes: writing out waits for them.
    pub(crate) fn pump_own_reads(&mut self, ino: InodeId, fx: &mut Effects) {
        self.pump_stalled(ino, true, fx);
    }
    fn pump_stalled(&mut self, ino: InodeId, own: bool, fx: &mut Effects) {
        let Some(f) = self.files.get(&ino) else { return };
        let mine = |id: &u64| !own || self.reads.get(id).is_some_and(|r| r.rmw.is_some());
        let stalled: Vec<u64> = f.stalled_reads.iter().copied().filter(mine).collect();
        for id in stalled {
            self.try_read(id, fx);
        }
    }
    /// Cuts a read into parts. False = not now: where the file ends, or that what is in memory counts, must be confirmed
    /// first, because no server's promise vouches for it (R3).
    fn plan_read(&mut self, ino: InodeId, ticket: u64, fx: &mut Effects) -> bool {
        let Some(f) = self.files.get(&ino) else { return true };
        let (size, log2) = (f.end(), f.layout.chunk_log2);
        let in_inode = f.body == Body::Yes || f.small.is_some();
        let epoch = f.epoch().unwrap_or_default();
        let (checked, small) = (f.checked, f.small.as_ref().filter(|s| s.dirty).map(|s| s.content.clone()));
        let Some(op) = self.ops.get_mut(&ticket) else { return true };
        let (offset, wanted, since, extents) = match &op.kind {
            OpKind::Read { offset, wanted, since, .. } => (*offset, u64::from(*wanted), *since, false),
            OpKind::Extents { offset, length, since, .. } => (*offset, *length, *since, true),
            _ => return true,
        };
        let real = wanted.min(size.saturating_sub(offset));
        let from_memory = in_inode && (small.is_some() || extents);
        if (real < wanted || from_memory) && checked < since {
            self.map(ino, 0, false, fx);
            return false;
        }
        match &mut op.kind {
            OpKind::Read { length, under, .. } => (*length, *under) = (real as u32, epoch),
            OpKind::Extents { length, .. } => *length = real,
            _ => {}
        }
        if real == 0 && !extents {
            self.empty_read(ticket);
        } else if in_inode && extents {
            if let OpKind::Extents { runs, .. } = &mut op.kind {
                // What lies behind the longest body is a hole.
                let body = (offset + real).min(INLINE_MAX as u64).saturating_sub(offset);
                runs.push((offset, body));
            }
            self.op_done_at_once(ticket);
        } else if real == 0 {
            self.op_done_at_once(ticket);
        } else if let Some(mut content) = small {
            content.resize(size as usize, 0);
            let part = Bytes::from(content).slice(offset as usize..(offset + real) as usize);
            self.answer(ticket, Ok(crate::ClientAnswer::Data(part)));
        } else if in_inode {
            self.call(For::Program(ticket), MetaOp::ReadBody { ino }, LeaseKind::None);
        } else {
            self.plan_parts(ino, ticket, (offset, real), log2, extents);
        }
        true
    }
    fn plan_parts(&mut self, ino: InodeId, ticket: u64, (offset, real): (u64, u64), log2: u8, extents: bool) {
        let record_max = u64::from(self.cfg.record_max);
        let block = u64::from(BLOCK);
        let start = offset / block * block;
        let end = (offset + real).div_ceil(block) * block;
        let mut at = start;
        while at < end {
            let chunk_end = ((at >> log2) + 1) << log2;
            let one = extents || end - start <= PART_MAX;
            let part_end = if one { u64::MAX } else { at - at % record_max + record_max };
            let to = end.min(chunk_end).min(part_end);
            let part = Reading {
                ticket,
                extents,
                offset: (at & ((1 << log2) - 1)) as u32,
                length: (to - at) as u32,
                at: (at - start) as usize,
                ..Reading::new(ino, (at >> log2) as u32, self.now)
            };
            at = to;
            self.add_reading(part);
            if let Some(op) = self.ops.get_mut(&ticket) {
                op.left += 1;
            }
        }
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
    pub(crate) fn read_for(
        &mut self,
        token: u64,
        ino: InodeId,
        index: u32,
        (offset, length): (u32, u32),
        fx: &mut Effects,
    ) {
        let part = Reading { rmw: Some(token), offset, length, ..Reading::new(ino, index, self.now) };
        let id = self.add_reading(part);
        self.try_read(id, fx);
    }

    fn try_read(&mut self, id: u64, fx: &mut Effects) {
        let Some(r) = self.reads.get(&id) else { return };
        let (ino, index, offset, length, begun) = (r.ino, r.index, r.offset, r.length, r.begun);
        let (own, extents) = (r.rmw.is_some(), r.extents);
        if !own && self.in_the_way(ino, index, offset, length) {
            return;
        }
        match self.chunk_ready_since(ino, index, false, begun, fx) {
            Ready::Wait => {}
            Ready::Hole => {
                let nothing = if extents { Got::Extents(vec![]) } else { Got::Data(vec![0; length as usize].into()) };
                self.part_read(id, nothing, true, fx);
            }
            Ready::Yes => {
                let rules = self.cfg.rules;
                let Some(f) = self.files.get_mut(&ino) else { return };
                let Some(c) = f.chunks.get_mut(&index) else { return };
                let Some(s) = &c.seq else { return };
                if rules.reads_wait_for_writes && s.overlaps(offset, length) {
                    mark!("client.read-waits");
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
    /// Something that the program was told is written is on its way to this range and not yet a record.
    fn in_the_way(&self, ino: InodeId, index: u32, offset: u32, length: u32) -> bool {
        let Some(f) = self.files.get(&ino) else { return false };
        let meets = |o: u32, l: u32| o < offset + length && offset < o + l;
        f.pieces.iter().any(|p| p.told && p.index == index && meets(p.offset, p.content.length()))
            || f.chunks.get(&index).is_some_and(|c| c.locked.iter().any(|(o, l, _)| meets(*o, *l)))
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
        let question = match r.extents {
            true => DataCtl::Allocation { req, id, offset, length },
            false => DataCtl::Read { req, id, offset, length },
        };
        fx.send.push((NodeId::Cs(m.cs), Msg::Data(question)));
        // The others are asked for a promise at once where one will be missing when the answer is here.
        self.ask_promises(id, Nanos::from_millis(100), fx);
        self.wake = self.wake.min(now + Nanos::from_millis(20));
    }
    /// Promises of members that end later than `margin` from now.
    fn promises(&self, members: &[Member], margin: Nanos) -> usize {
        let good =
            |m: &&Member| self.promises.get(&m.cs).is_some_and(|p| p.until > self.now + margin && self.counts(p.fence));
        members.iter().filter(good).count()
    }
    /// A promise that names this fence says something: all that the session lost up to it is known.
    fn counts(&self, fence: LeaseEpoch) -> bool {
        fence <= self.link.settled || !self.cfg.rules.promises_name_fences
    }
    fn ask_promises(&mut self, id: u64, margin: Nanos, fx: &mut Effects) {
        let now = self.now;
        let Some(r) = self.reads.get(&id) else { return };
        let Some(s) = self.files.get(&r.ino).and_then(|f| f.chunks.get(&r.index)).and_then(|c| c.seq.as_ref()) else {
            return;
        };
        if r.rmw.is_some_and(|t| self.goes_into_a_record(t, None)) {
            return;
        }
        let asked = r.asked.last().copied();
        let members = &s.view().members;
        let fresh =
            asked.filter(|cs| !self.promises.get(cs).is_some_and(|p| p.until > now + margin && self.counts(p.fence)));
        let will_have = self.promises(members, margin) + usize::from(fresh.is_some() && r.got.is_none());
        if will_have >= s.promises_needed() || now.since(r.promised_at) < PROMISE_AGAIN {
            return;
        }
        for m in members {
            let has = self.promises.get(&m.cs).is_some_and(|p| p.until > now + margin && self.counts(p.fence));
            if !has && (r.got.is_some() || asked != Some(m.cs)) {
                fx.send.push((NodeId::Cs(m.cs), Msg::Data(DataCtl::Promise(s.request(*m, now)))));
            }
        }
        if let Some(r) = self.reads.get_mut(&id) {
            r.promised_at = now;
        }
    }

    pub(crate) fn read_answer(&mut self, cs: CsId, d: DataMsg, fx: &mut Effects) {
        self.copy_answer(cs, &d.ans, fx);
        if !self.answers(cs, &d.ans, d.id, d.offset, false, fx) {
            return;
        }
        let Some(r) = self.reads.get_mut(&d.id) else { return };
        let matches = block_crcs(&d.payload) == d.crcs || !self.cfg.rules.reads_are_compared;
        if d.payload.len() != r.length as usize || !matches {
            mark!("client.read-damaged");
            self.stats.bad_crc += 1; // R4
            fx.log
                .push(format!("read of {:?} from {cs:?}: checksum does not match; asking another member", d.ans.chunk));
            return self.bad_answer(cs, d.id, fx);
        }
        r.got = Some((Member { cs, copy: d.ans.copy }, Got::Data(d.payload)));
        self.hand_out(d.id, fx);
    }
    /// The server is told, which mends what is damaged; another member is asked. Where all members are damaged at once,
    /// they are given time to help each other before the bytes count as lost.
    fn bad_answer(&mut self, cs: CsId, id: u64, fx: &mut Effects) {
        let now = self.now;
        let Some(r) = self.reads.get_mut(&id) else { return };
        let Some(chunk) = r.chunk else { return };
        let doubt = wire::integrity::Care::Doubt { chunk, offset: r.offset, length: r.length };
        fx.send.push((NodeId::Cs(cs), Msg::Care(doubt)));
        if r.bad.is_empty() {
            r.bad_since = now;
        }
        if !r.bad.contains(&cs) {
            r.bad.push(cs);
        }
        let s = self.files.get(&r.ino).and_then(|f| f.chunks.get(&r.index)).and_then(|c| c.seq.as_ref());
        if !s.is_some_and(|s| s.view().members.iter().all(|m| r.bad.contains(&m.cs))) {
            return self.ask(id, fx);
        }
        if now.since(r.bad_since) >= LOST {
            return self.read_lost(id);
        }
        r.asked_at = now;
        self.wake = self.wake.min(now + HEDGE);
    }
    fn read_lost(&mut self, id: u64) {
        let Some(r) = self.reads.remove(&id) else { return };
        if let Some(f) = self.files.get_mut(&r.ino) {
            f.stalled_reads.remove(&id);
        }
        match r.rmw {
            // It may not invent what it does not overwrite.
            Some(token) => self.rmw_lost(token, ClientError::DataLost),
            None => self.op_part_done(r.ticket, Some(ClientError::DataLost)),
        }
    }
    /// Where data stands, by one member.
    pub(crate) fn allocation(&mut self, cs: CsId, ans: CopyAns, id: u64, runs: Vec<(u32, u32)>, fx: &mut Effects) {
        self.copy_answer(cs, &ans, fx);
        let offset = self.reads.get(&id).map_or(0, |r| r.offset);
        if !self.answers(cs, &ans, id, offset, true, fx) {
            return;
        }
        let Some(r) = self.reads.get_mut(&id) else { return };
        r.got = Some((Member { cs, copy: ans.copy }, Got::Extents(runs)));
        self.hand_out(id, fx);
    }
    /// Is this the answer that read `id` waits for? A refusal makes it ask somebody else.
    fn answers(&mut self, cs: CsId, ans: &CopyAns, id: u64, offset: u32, extents: bool, fx: &mut Effects) -> bool {
        let Some(r) = self.reads.get_mut(&id) else { return false };
        let held = self.files.get(&r.ino).and_then(|f| f.epoch()) == Some(ans.epoch);
        // An answer to an earlier asking may have crossed the write because of which it is asked again (R2).
        let late = Nanos(ans.stamp) < r.since && self.cfg.rules.reads_wait_for_writes;
        if !held || late || !r.of(ans.chunk) || r.offset != offset || r.got.is_some() || r.extents != extents {
            return false;
        }
        if ans.refusal == Some(wire::Refusal::BadCrc) {
            self.bad_answer(cs, id, fx); // its disk does not give the bytes at all
            return false;
        }
        if ans.refusal.is_some() {
            if r.asked.last() == Some(&cs) {
                let many = r.asked.len() >= 3;
                r.asked_at = if many { self.now } else { Nanos::ZERO };
                if !many {
                    self.ask(id, fx);
                }
            }
            return false;
        }
        true
    }
    /// Gives data to the program if everything that must hold does (R2, R3, L5).
    fn hand_out(&mut self, id: u64, fx: &mut Effects) {
        let rules = self.cfg.rules;
        let Some(r) = self.reads.get(&id) else { return };
        let Some((from, got)) = r.got.clone() else { return };
        let Some(s) = self.files.get(&r.ino).and_then(|f| f.chunks.get(&r.index)).and_then(|c| c.seq.as_ref()) else {
            return self.stall_read(id);
        };
        let member = s.view().has(from) || !rules.copy_ids;
        if (r.dirty && rules.reads_wait_for_writes) || !member {
            mark!("client.read-crossed");
            self.stats.repeated += 1;
            return self.stall_read(id);
        }
        if self.now >= self.link.session_until && rules.reads_end_with_session {
            mark!("client.session-run-out");
            self.link.hurry_renew(self.now);
            return;
        }
        let vouched = !rules.promises || self.promises(&s.view().members, Nanos::ZERO) >= s.promises_needed();
        let read = if let Got::Data(d) = &got { Some((r.offset, &d[..])) } else { None };
        if !vouched && !r.rmw.is_some_and(|t| self.goes_into_a_record(t, read)) {
            mark!("client.promises-missing");
            return self.ask_promises(id, Nanos::ZERO, fx);
        }
        self.part_read(id, got, vouched, fx);
    }
    fn part_read(&mut self, id: u64, got: Got, vouched: bool, fx: &mut Effects) {
        let Some(r) = self.reads.remove(&id) else { return };
        if let Some(f) = self.files.get_mut(&r.ino) {
            f.stalled_reads.remove(&id);
        }
        match (got, r.rmw) {
            (Got::Data(data), Some(token)) => return self.rmw_read(token, r.offset, data, vouched, fx),
            (Got::Data(data), None) => {
                let data = self.with_dirty(&r, data);
                let epoch = self.held_epoch(r.ino);
                if let Some(OpKind::Read { parts, under, .. }) = self.ops.get_mut(&r.ticket).map(|o| &mut o.kind) {
                    parts.push((r.at, data));
                    if *under != epoch && self.cfg.keeps_pages {
                        mark!("client.read-over-leases");
                        // The end, and other parts, were right in their time; kept longer they may be wrong.
                        return self.read_again(r.ino, r.ticket);
                    }
                }
            }
            (Got::Extents(found), _) => {
                let found = self.with_dirty_ranges(&r, &found);
                if let Some(OpKind::Extents { runs, .. }) = self.ops.get_mut(&r.ticket).map(|o| &mut o.kind) {
                    runs.extend(found);
                }
            }
        }
        self.op_part_done(r.ticket, None);
    }
    /// Epoch of the lease that reads go by; none when it is on its way back.
    fn held_epoch(&self, ino: InodeId) -> LeaseEpoch {
        self.files.get(&ino).and_then(|f| f.held()).map_or(LeaseEpoch::NONE, |l| l.epoch)
    }
    /// Reads that were planned under a lease of this client's own are to go another way.
    pub(crate) fn unplan_reads(&mut self, ino: InodeId) {
        let Some(f) = self.files.get(&ino) else { return };
        let planned = f.stalled_reads.iter().filter_map(|id| self.reads.get(id)).filter(|r| r.rmw.is_none());
        let tickets: BTreeSet<u64> = planned.map(|r| r.ticket).collect();
        tickets.into_iter().for_each(|t| self.read_again(ino, t));
    }
    /// Begins a read anew.
    fn read_again(&mut self, ino: InodeId, ticket: u64) {
        let others: Vec<u64> = self.reads.iter().filter(|(_, r)| r.ticket == ticket).map(|(id, _)| *id).collect();
        for id in others {
            self.reads.remove(&id);
            if let Some(f) = self.files.get_mut(&ino) {
                f.stalled_reads.remove(&id);
            }
        }
        let Some(op) = self.ops.get_mut(&ticket) else { return };
        op.left = 0;
        match &mut op.kind {
            OpKind::Read { parts, .. } => parts.clear(),
            OpKind::Extents { runs, .. } => runs.clear(),
            _ => {}
        }
        self.file(ino).waiting_reads.push_back(ticket);
        self.dirty.insert(ino);
    }
    /// What is in memory here lies over what the servers have.
    fn with_dirty(&self, r: &Reading, data: Bytes) -> Bytes {
        let Some(f) = self.files.get(&r.ino) else { return data };
        let start = (u64::from(r.index) << f.layout.chunk_log2) + u64::from(r.offset);
        if !f.buffer.overlaps(start, start + data.len() as u64) {
            return data;
        }
        let mut out = data.to_vec();
        f.buffer.overlay(start, &mut out);
        out.into()
    }
    fn with_dirty_ranges(&self, r: &Reading, found: &[(u32, u32)]) -> Vec<(u64, u64)> {
        let Some(f) = self.files.get(&r.ino) else { return vec![] };
        let base = u64::from(r.index) << f.layout.chunk_log2;
        let start = base + u64::from(r.offset);
        let stored = found.iter().map(|(o, l)| (base + u64::from(*o), u64::from(*l)));
        stored.chain(f.buffer.ranges(start, start + u64::from(r.length))).collect()
    }

    /// The body of an inline file has come.
    pub(crate) fn body_read(&mut self, ino: InodeId, ticket: u64, outcome: Result<MetaOutcome, MetaError>) {
        let Some(op) = self.ops.get(&ticket) else { return };
        let OpKind::Read { offset, length, .. } = op.kind else { return };
        if self.cfg.keeps_pages && self.files.get(&ino).is_none_or(|f| f.held().is_none()) {
            mark!("client.body-without-lease");
            // Somebody may have written it since, and the front end could not be told to drop it.
            return self.read_again(ino, ticket);
        }
        match outcome {
            Ok(MetaOutcome::Body(b)) => {
                let start = (offset as usize).min(b.len());
                let end = (start + length as usize).min(b.len());
                let mut data = b[start..end].to_vec();
                // A file that was lengthened may end behind its body.
                data.resize(length as usize, 0);
                self.answer(ticket, Ok(crate::ClientAnswer::Data(data.into())));
            }
            // It has moved to chunks, perhaps by this client's own doing while the question was under way.
            Err(MetaError::Invalid) => {
                self.body_moved(ino);
                self.file(ino).waiting_reads.push_back(ticket);
            }
            Ok(_) => self.end_read(ticket, Some(ClientError::Meta(MetaError::Invalid))),
            Err(e) => self.end_read(ticket, Some(ClientError::Meta(e))),
        }
    }

    pub(crate) fn reads_reset(&mut self, cs: CsId, fx: &mut Effects) {
        let ids: Vec<u64> = self
            .reads
            .iter()
            .filter(|(_, r)| r.got.is_none() && r.asked.last() == Some(&cs))
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
            if r.got.is_some() {
                self.hand_out(id, fx);
            }
            let Some(r) = self.reads.get(&id) else { continue };
            if now.since(r.since) >= SILENT {
                self.accuse(id, fx);
            }
            let Some(r) = self.reads.get(&id) else { continue };
            if r.got.is_none() && now.since(r.asked_at) >= HEDGE {
                self.ask(id, fx);
            }
        }
    }
    /// Members that neither answer reads nor give promises are reported, as a writer would.
    fn accuse(&mut self, id: u64, fx: &mut Effects) {
        let now = self.now;
        let Some(r) = self.reads.get(&id) else { return };
        let (ino, index, data) = (r.ino, r.index, r.got.is_some());
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
