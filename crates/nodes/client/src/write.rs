//! Writes: cut into pieces per chunk, filled to whole blocks, issued, completed.

use crate::chunks::Ready;
use crate::file::{Content, Piece};
use crate::op::{OWN_TICKETS, OpKind};
use crate::{Client, ClientAnswer, ClientError, block_crcs};
use bytes::{Bytes, BytesMut};
use host::node::Effects;
use marks::mark;
use replica::sequencer::SeqOut;
use types::{BLOCK, Durability, InodeId, OpId, Seq};
use wire::share::Placed;
use wire::{WriteHeader, WriteKind, WriteMsg, flags};

/// A piece of a write under way.
#[derive(Debug)]
pub(crate) struct Token {
    pub ino: InodeId,
    pub index: u32,
    pub ticket: u64,
    /// A record was issued for it; before that it reads the blocks it only partly covers.
    pub issued: bool,
    pub seq: Seq,
    pub rmw: Option<Rmw>,
    /// As the piece names it.
    pub op: (OpId, u32),
}
/// A write that covers its first or last block only partly.
#[derive(Debug)]
pub(crate) struct Rmw {
    pub offset: u32,
    pub data: Bytes,
    /// Zeros: nothing is to be written where they stand already.
    pub edge: bool,
    /// Nothing is to be written unless this stands there: the whole range is read.
    pub expected: Option<Bytes>,
    pub file_end: Option<u64>,
    pub head: Option<Bytes>,
    pub tail: Option<Bytes>,
    pub reads_left: usize,
}

impl Client {
    /// Issues the pieces that can be issued, in order.
    pub(crate) fn pump_pieces(&mut self, ino: InodeId, fx: &mut Effects) {
        loop {
            let Some(f) = self.files.get(&ino) else { return };
            if !f.writes() || self.front_waits(ino) {
                return;
            }
            let Some(p) = self.files.get(&ino).and_then(|f| f.pieces.front()) else { return };
            let (index, since, stores) = (p.index, p.since, matches!(p.content, Content::Data(_)));
            let gone_on = match self.chunk_ready_since(ino, index, stores, since, fx) {
                Ready::Yes => self.issue_front(ino, fx),
                Ready::Hole => self.skip_front(ino),
                Ready::Wait => false,
            };
            if !gone_on {
                return;
            }
        }
    }
    /// The first piece may have been cut under an earlier lease, and others may have cut the file since, or put content
    /// into the inode. It waits for whatever a change taken from the queue now would wait for.
    fn front_waits(&mut self, ino: InodeId) -> bool {
        let Some(f) = self.files.get(&ino) else { return true };
        let Some(p) = f.pieces.front() else { return true };
        if self.front_is_own(ino) || !self.cfg.rules.queued_writes_wait {
            return false;
        }
        let (told, end) = (p.told, p.file_end_after(f.layout.chunk_log2));
        if f.zero.is_some_and(|z| end > z.0) {
            if f.stage.is_none() {
                self.start_zeroing(ino);
            }
            return !self.front_is_own(ino);
        }
        if told || (self.body_known(ino) && self.body_left(ino)) {
            return false;
        }
        !self.front_is_own(ino)
    }
    /// Is the first piece part of a stage of the file?
    fn front_is_own(&self, ino: InodeId) -> bool {
        let ticket = self.files.get(&ino).and_then(|f| f.pieces.front()).map(|p| p.ticket);
        let op = ticket.and_then(|t| self.ops.get(&t));
        op.is_some_and(|o| matches!(o.kind, OpKind::Own(_)))
    }
    /// Zeros where nothing stands are there already.
    fn skip_front(&mut self, ino: InodeId) -> bool {
        let piece = self.files.get_mut(&ino).and_then(|f| f.pieces.pop_front());
        if let Some(p) = piece {
            self.op_part_done(p.ticket, None);
        }
        true
    }
    /// Pieces for a place where no chunk can be.
    pub(crate) fn fail_pieces(&mut self, ino: InodeId, index: u32, why: ClientError) {
        let Some(f) = self.files.get_mut(&ino) else { return };
        // Only writes need a chunk that is not there.
        let tickets: Vec<u64> = f.pieces.iter().filter(|p| p.index == index).map(|p| p.ticket).collect();
        f.pieces.retain(|p| p.index != index);
        f.set_ends(f.size);
        for t in tickets {
            self.op_part_done(t, Some(why));
        }
    }

    /// Issues the first waiting piece. False = not now.
    fn issue_front(&mut self, ino: InodeId, fx: &mut Effects) -> bool {
        let id = self.id();
        let Some(f) = self.files.get_mut(&ino) else { return false };
        let Some(p) = f.pieces.front() else { return false };
        let chunk_base = u64::from(p.index) << f.layout.chunk_log2;
        let (start, end) = (p.offset, p.offset + p.content.length());
        let (first, last) = (start / BLOCK * BLOCK, end.div_ceil(BLOCK) * BLOCK);
        let Some(c) = f.chunks.get_mut(&p.index) else { return false };
        let Some(s) = &c.seq else { return false };
        if !s.room(last - first) || c.locked.iter().any(|(o, l, _)| *o < last && first < o + l) {
            return false;
        }
        // Bytes past the end of the file are zeros; only blocks that hold something must be read first.
        let size = f.size;
        let holds = |block: u32| chunk_base + u64::from(block) < size;
        let need_head = start > first && holds(first);
        let tail_block = last - BLOCK;
        let need_tail = end < last && holds(tail_block) && chunk_base + u64::from(end) < size;
        let need_tail = need_tail && !(need_head && tail_block == first);
        let (ticket, index, op) = (p.ticket, p.index, p.op);
        let Some(p) = f.pieces.pop_front() else { return false };
        f.in_flight += 1;
        if let Some(OpKind::Append { whole, .. }) = self.ops.get_mut(&ticket).map(|o| &mut o.kind) {
            *whole = false;
        }
        let ranges = match p.expected {
            Some(_) => [Some((first, last - first)), None],
            None => [need_head.then_some((first, BLOCK)), need_tail.then_some((tail_block, BLOCK))],
        };
        let reads = ranges.iter().flatten().count();
        let token = Token { ino, index, ticket, issued: false, seq: Seq(0), rmw: None, op };
        if reads == 0 {
            self.tokens.insert(id, token);
            if let Content::Edge { .. } = p.content {
                self.nothing_to_write(id); // behind the end everything is zero
                return true;
            }
            let content = match p.content {
                Content::Data(d) if start != first || end != last => {
                    Content::Data(fill(first, last, start, &d, None, None))
                }
                c => c,
            };
            let file_end = p.file_end.unwrap_or(chunk_base + u64::from(end));
            self.issue(id, first, content, file_end, fx);
        } else {
            c.locked.push((first, last - first, id));
            let (edge, data) = match p.content {
                Content::Data(d) => (false, d),
                c => (true, Bytes::from(vec![0; c.length() as usize])),
            };
            let (expected, file_end, head, tail) = (p.expected, p.file_end, None, None);
            let rmw = Rmw { offset: start, data, edge, expected, file_end, head, tail, reads_left: reads };
            self.tokens.insert(id, Token { rmw: Some(rmw), ..token });
            for range in ranges.into_iter().flatten() {
                self.read_for(id, ino, index, range, fx);
            }
        }
        true
    }

    /// A block that a partial write needs has been read. `vouched`: promises say that it is the newest.
    pub(crate) fn rmw_read(&mut self, id: u64, offset: u32, block: Bytes, vouched: bool, fx: &mut Effects) {
        let Some(t) = self.tokens.get_mut(&id) else { return };
        let (ino, index) = (t.ino, t.index);
        if t.rmw.as_ref().is_some_and(|r| r.expected.is_some()) {
            return self.compared(id, offset, &block, fx);
        }
        let Some(r) = &mut t.rmw else { return };
        if offset == r.offset / BLOCK * BLOCK {
            r.head = Some(block.clone());
        }
        if offset == (r.offset + r.data.len() as u32).div_ceil(BLOCK) * BLOCK - BLOCK {
            r.tail = Some(block);
        }
        r.reads_left -= 1;
        if r.reads_left > 0 {
            return;
        }
        let Some(r) = t.rmw.take() else { return };
        if let Some(c) = self.files.get_mut(&ino).and_then(|f| f.chunks.get_mut(&index)) {
            c.locked.retain(|l| l.2 != id);
        }
        self.dirty.insert(ino);
        if r.edge && vouched && r.zero_already() {
            return self.nothing_to_write(id);
        }
        let end = r.offset + r.data.len() as u32;
        let (first, last) = (r.offset / BLOCK * BLOCK, end.div_ceil(BLOCK) * BLOCK);
        let data = fill(first, last, r.offset, &r.data, r.head, r.tail);
        let log2 = self.files.get(&ino).map_or(0, |f| f.layout.chunk_log2);
        let file_end = r.file_end.unwrap_or((u64::from(index) << log2) + u64::from(end));
        self.issue(id, first, Content::Data(data), file_end, fx);
    }
    /// What stands in the whole range of a write that compares has been read.
    fn compared(&mut self, id: u64, first: u32, found: &[u8], fx: &mut Effects) {
        let rules = self.cfg.rules;
        let Some(t) = self.tokens.get_mut(&id) else { return };
        let (ino, index, ticket) = (t.ino, t.index, t.ticket);
        let Some(r) = t.rmw.take() else { return };
        let Some(f) = self.files.get_mut(&ino) else { return };
        if let Some(c) = f.chunks.get_mut(&index) {
            c.locked.retain(|l| l.2 != id);
        }
        self.dirty.insert(ino);
        let at = (r.offset - first) as usize;
        if let Some(n) = r.differs(first, found).filter(|_| rules.compared_first) {
            mark!("client.compared-and-differs");
            f.in_flight = f.in_flight.saturating_sub(1);
            self.tokens.remove(&id);
            return self.answer(ticket, Ok(ClientAnswer::Differs(n as u64)));
        }
        // What a copy holds behind the end of the file is none of it.
        let behind = f.size.saturating_sub(u64::from(index) << f.layout.chunk_log2).saturating_sub(u64::from(first));
        let mut buf = BytesMut::from(found);
        buf[(behind as usize).min(found.len())..].fill(0);
        buf[at..at + r.data.len()].copy_from_slice(&r.data);
        self.issue(id, first, Content::Data(buf.freeze()), 0, fx);
    }
    fn nothing_to_write(&mut self, id: u64) {
        let Some(t) = self.tokens.remove(&id) else { return };
        if let Some(f) = self.files.get_mut(&t.ino) {
            f.in_flight = f.in_flight.saturating_sub(1);
        }
        self.op_part_done(t.ticket, None);
    }

    /// Issues a record of whole blocks; the file ends at `file_end` or later afterwards.
    fn issue(&mut self, id: u64, offset: u32, content: Content, file_end: u64, fx: &mut Effects) {
        let now = self.now;
        let wall = self.wall();
        let Some(t) = self.tokens.get_mut(&id) else { return };
        let (ino, index) = (t.ino, t.index);
        let Some(f) = self.files.get_mut(&ino) else { return };
        f.size = f.size.max(file_end);
        // What comes from memory changed the file when it was taken there, and its time may have been set since.
        if t.ticket & OWN_TICKETS == 0 {
            f.mtime = f.mtime.max(wall);
        }
        f.end_dirty = true;
        self.ends.insert(ino);
        let (file_end, mtime, truncate_gen) = (f.size, f.mtime, f.truncate_gen);
        let sync = f.layout.durability == Durability::Sync;
        let Some(c) = f.chunks.get_mut(&index) else { return };
        let chunk = c.id;
        let Some(s) = &mut c.seq else { return };
        let length = content.length();
        let (kind, data) = match content {
            Content::Data(d) => (WriteKind::Data, d),
            Content::Zero { discard: true, .. } => (WriteKind::Discard, Bytes::new()),
            Content::Zero { .. } | Content::Edge { .. } => (WriteKind::Zero, Bytes::new()),
        };
        let header = WriteHeader {
            kind,
            flags: if sync { flags::DURABLE } else { 0 },
            offset,
            length,
            file_end,
            mtime,
            truncate_gen,
            op: t.op.0,
            op_at: t.op.1,
            ..WriteHeader::default()
        };
        let msg = WriteMsg { header, crcs: block_crcs(&data), payload: data };
        let mut out = SeqOut::default();
        t.issued = true;
        if let Some(a) = self.stewardship.asks.get_mut(&t.ticket) {
            a.issued = true;
        }
        t.seq = s.write(msg, id, now, &mut out);
        if let Some(ops) = &mut c.ops {
            ops.note(&WriteHeader { seq: t.seq, ..header });
        }
        for r in self.reads.values_mut() {
            r.met_write(chunk, offset, header.length);
        }
        self.wake = self.wake.min(now + types::Nanos::from_millis(20));
        self.carry_out(ino, chunk, out, fx);
    }

    /// A write that did not happen under the last lease goes back to the front of the queue.
    pub(crate) fn issue_again(&mut self, ino: InodeId, l: crate::file::Limbo) {
        let Some(t) = self.tokens.remove(&l.token) else { return };
        let told = self.ops.get(&t.ticket).is_some_and(|o| matches!(o.kind, OpKind::WriteOut { .. }));
        let since = self.now;
        if let Some(f) = self.files.get_mut(&ino) {
            let (offset, file_end) = (l.msg.header.offset, Some(l.msg.header.file_end));
            let content = Content::of(l.msg);
            let (ticket, index, op) = (t.ticket, l.index, t.op);
            let expected = None; // it stood there, and nobody else has written since
            f.pieces.push_front(Piece { ticket, index, offset, content, expected, file_end, since, told, op });
            f.set_ends(f.size);
        }
    }

    /// A write is on all members.
    pub(crate) fn write_completed(&mut self, id: u64) {
        let Some(t) = self.tokens.remove(&id) else { return };
        if let Some(f) = self.files.get_mut(&t.ino) {
            f.in_flight = f.in_flight.saturating_sub(1);
            let epoch = f.lease.as_ref().map(|l| l.epoch);
            if let (Some(e), Some(c)) = (epoch, f.chunks.get(&t.index)) {
                let placed = Placed { chunk: c.id, index: t.index, epoch: e, record: t.seq };
                f.note_unflushed(placed);
                self.unsynced.insert(t.ino);
                if let Some(a) = self.stewardship.asks.get_mut(&t.ticket) {
                    a.placed = Some(placed);
                }
            }
        }
        self.dirty.insert(t.ino);
        self.op_part_done(t.ticket, None);
    }
    pub(crate) fn write_failed(&mut self, id: u64, why: ClientError) {
        if let Some(t) = self.tokens.remove(&id) {
            self.op_part_done(t.ticket, Some(why));
        }
    }
    /// A partial write cannot be: what it does not cover of a block cannot be had.
    pub(crate) fn rmw_lost(&mut self, id: u64, why: ClientError) {
        let Some(t) = self.tokens.remove(&id) else { return };
        self.drop_rmw_reads(t.ino, t.index, id);
        if let Some(f) = self.files.get_mut(&t.ino) {
            f.set_ends(f.size);
        }
        self.dirty.insert(t.ino);
        self.op_part_done(t.ticket, Some(why));
    }
    /// Partial writes that were still reading go back to the queue, all or those that compare.
    pub(crate) fn requeue_rmw(&mut self, ino: InodeId, all: bool) {
        let partial = |t: &Token| t.ino == ino && t.rmw.as_ref().is_some_and(|r| all || r.expected.is_some());
        let ids: Vec<u64> = self.tokens.iter().filter(|(_, t)| partial(t)).map(|(id, _)| *id).collect();
        for id in ids.into_iter().rev() {
            let Some(t) = self.tokens.remove(&id) else { continue };
            let Some(r) = t.rmw else { continue };
            self.drop_rmw_reads(ino, t.index, id);
            let told = self.ops.get(&t.ticket).is_some_and(|o| matches!(o.kind, OpKind::WriteOut { .. }));
            let since = self.now;
            if let Some(f) = self.files.get_mut(&ino) {
                let (offset, file_end, expected) = (r.offset, r.file_end, r.expected);
                let length = r.data.len() as u32;
                let content = if r.edge { Content::Edge { length } } else { Content::Data(r.data) };
                let (ticket, index, op) = (t.ticket, t.index, t.op);
                f.pieces.push_front(Piece { ticket, index, offset, content, expected, file_end, since, told, op });
            }
        }
    }
    /// What a partial write was reading is not waited for any more.
    fn drop_rmw_reads(&mut self, ino: InodeId, index: u32, id: u64) {
        let reads: Vec<u64> = self.reads.iter().filter(|(_, x)| x.rmw == Some(id)).map(|x| *x.0).collect();
        for r in &reads {
            self.reads.remove(r);
        }
        let Some(f) = self.files.get_mut(&ino) else { return };
        for r in &reads {
            f.stalled_reads.remove(r);
        }
        f.in_flight = f.in_flight.saturating_sub(1);
        if let Some(c) = f.chunks.get_mut(&index) {
            c.locked.retain(|l| l.2 != id);
        }
    }
    /// Does what is read for a partial write go into a record, and nowhere else? Then it takes no promises: where the lease
    /// is over and others have written since, one of the members has been fenced and refuses the record. Where promises are
    /// not to be had, zeros are written even where there may be some, and what stands as expected goes on.
    pub(crate) fn goes_into_a_record(&self, token: u64, read: Option<(u32, &[u8])>) -> bool {
        let Some(t) = self.tokens.get(&token) else { return false };
        let Some(r) = &t.rmw else { return false };
        match &r.expected {
            None => !r.edge || self.without_promises(t.ino),
            Some(_) => {
                let differs = read.is_none_or(|(first, found)| r.differs(first, found).is_some());
                !differs && self.without_promises(t.ino)
            }
        }
    }
}

impl Rmw {
    /// Place of the first byte that is not as expected, from the first that is compared; `found` stands at `first` in the chunk.
    fn differs(&self, first: u32, found: &[u8]) -> Option<usize> {
        let at = (self.offset - first) as usize;
        let there = found.get(at..at + self.data.len())?;
        there.iter().zip(self.expected.iter().flatten()).position(|(a, b)| a != b)
    }
    /// The part to be zeroed reads as zeros.
    fn zero_already(&self) -> bool {
        let within = (self.offset % BLOCK) as usize;
        let block = self.head.as_ref().or(self.tail.as_ref());
        block.is_some_and(|b| b[within..within + self.data.len()].iter().all(|x| *x == 0))
    }
}

/// Whole blocks from `first` to `last` with `data` at `start`; what it does not cover comes from `head` and `tail`.
fn fill(first: u32, last: u32, start: u32, data: &[u8], head: Option<Bytes>, tail: Option<Bytes>) -> Bytes {
    let mut buf = BytesMut::zeroed((last - first) as usize);
    if let Some(h) = head {
        buf[..h.len()].copy_from_slice(&h);
    }
    if let Some(t) = tail {
        let at = buf.len() - t.len();
        buf[at..].copy_from_slice(&t);
    }
    let at = (start - first) as usize;
    buf[at..at + data.len()].copy_from_slice(data);
    buf.freeze()
}
