//! Writes: cut into pieces per chunk, filled to whole blocks, issued, completed.

use crate::lease::{Piece, Ready};
use crate::{Client, ClientError, block_crcs};
use bytes::{Bytes, BytesMut};
use host::node::Effects;
use replica::sequencer::SeqOut;
use types::{BLOCK, Durability, InodeId, Seq};
use wire::names::MetaError;
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
}
/// A write that covers its first or last block only partly.
#[derive(Debug)]
pub(crate) struct Rmw {
    pub offset: u32,
    pub data: Bytes,
    pub head: Option<Bytes>,
    pub tail: Option<Bytes>,
    pub reads_left: usize,
}

impl Client {
    /// Cuts waiting writes into pieces and issues what can be issued, in order.
    pub(crate) fn pump_writes(&mut self, ino: InodeId, fx: &mut Effects) {
        let record_max = self.cfg.record_max;
        let Some(f) = self.files.get_mut(&ino) else { return };
        if !f.writes() {
            return;
        }
        while let Some((ticket, offset, data)) = f.waiting_writes.pop_front() {
            let error = if f.inline && f.size > 0 {
                Some(MetaError::Unsupported)
            } else if offset + data.len() as u64 > u64::from(u32::MAX) << f.layout.chunk_log2 {
                Some(MetaError::TooLarge)
            } else {
                None
            };
            if let Some(e) = error {
                self.answer(ticket, Err(ClientError::Meta(e)));
                return self.pump_writes(ino, fx);
            }
            let pieces = cut(ticket, offset, data, f.layout.chunk_log2, record_max);
            let n = pieces.len();
            f.pieces.extend(pieces);
            if let Some(op) = self.ops.get_mut(&ticket) {
                op.left += n;
            }
        }
        loop {
            let Some(f) = self.files.get(&ino) else { return };
            let Some(p) = f.pieces.front() else { return };
            let index = p.index;
            if self.chunk_ready(ino, index, true, fx) != Ready::Yes || !self.issue_front(ino, fx) {
                return;
            }
        }
    }

    /// Issues the first waiting piece. False = not now.
    fn issue_front(&mut self, ino: InodeId, fx: &mut Effects) -> bool {
        let id = self.id();
        let Some(f) = self.files.get_mut(&ino) else { return false };
        let Some(p) = f.pieces.front() else { return false };
        let chunk_base = u64::from(p.index) << f.layout.chunk_log2;
        let (start, end) = (p.offset, p.offset + p.data.len() as u32);
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
        let (ticket, index) = (p.ticket, p.index);
        let Some(p) = f.pieces.pop_front() else { return false };
        f.in_flight += 1;
        let reads = usize::from(need_head) + usize::from(need_tail);
        let token = Token { ino, index, ticket, issued: false, seq: Seq(0), rmw: None };
        if reads == 0 {
            self.tokens.insert(id, token);
            let data =
                if start == first && end == last { p.data } else { fill(first, last, start, &p.data, None, None) };
            let file_end = p.file_end.unwrap_or(chunk_base + u64::from(end));
            self.issue(id, first, data, file_end, fx);
        } else {
            c.locked.push((first, last - first, id));
            let rmw = Rmw { offset: start, data: p.data, head: None, tail: None, reads_left: reads };
            self.tokens.insert(id, Token { rmw: Some(rmw), ..token });
            if need_head {
                self.read_for(id, ino, index, first, fx);
            }
            if need_tail {
                self.read_for(id, ino, index, tail_block, fx);
            }
        }
        true
    }

    /// A block that a partial write needs has been read.
    pub(crate) fn rmw_read(&mut self, id: u64, offset: u32, block: Bytes, fx: &mut Effects) {
        let Some(t) = self.tokens.get_mut(&id) else { return };
        let (ino, index) = (t.ino, t.index);
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
        let end = r.offset + r.data.len() as u32;
        let (first, last) = (r.offset / BLOCK * BLOCK, end.div_ceil(BLOCK) * BLOCK);
        let data = fill(first, last, r.offset, &r.data, r.head, r.tail);
        if let Some(c) = self.files.get_mut(&ino).and_then(|f| f.chunks.get_mut(&index)) {
            c.locked.retain(|l| l.2 != id);
        }
        let log2 = self.files.get(&ino).map_or(0, |f| f.layout.chunk_log2);
        self.issue(id, first, data, (u64::from(index) << log2) + u64::from(end), fx);
        self.dirty.insert(ino);
    }

    /// Issues a record of whole blocks; the file ends at `file_end` or later afterwards.
    fn issue(&mut self, id: u64, offset: u32, data: Bytes, file_end: u64, fx: &mut Effects) {
        let now = self.now;
        let wall = self.wall();
        let Some(t) = self.tokens.get_mut(&id) else { return };
        let (ino, index) = (t.ino, t.index);
        let Some(f) = self.files.get_mut(&ino) else { return };
        f.size = f.size.max(file_end);
        f.mtime = f.mtime.max(wall);
        f.end_dirty = true;
        let (file_end, mtime, truncate_gen) = (f.size, f.mtime, f.truncate_gen);
        let sync = f.layout.durability == Durability::Sync;
        let Some(c) = f.chunks.get_mut(&index) else { return };
        let chunk = c.id;
        let Some(s) = &mut c.seq else { return };
        let header = WriteHeader {
            kind: WriteKind::Data,
            flags: if sync { flags::DURABLE } else { 0 },
            offset,
            length: data.len() as u32,
            file_end,
            mtime,
            truncate_gen,
            ..WriteHeader::default()
        };
        let msg = WriteMsg { header, crcs: block_crcs(&data), payload: data };
        let mut out = SeqOut::default();
        t.issued = true;
        t.seq = s.write(msg, id, now, &mut out);
        for r in self.reads.values_mut() {
            r.met_write(chunk, offset, header.length);
        }
        self.wake = self.wake.min(now + types::Nanos::from_millis(20));
        self.carry_out(ino, chunk, out, fx);
    }

    /// A write that did not happen under the last lease goes back to the front of the queue.
    pub(crate) fn issue_again(&mut self, ino: InodeId, l: crate::lease::Limbo) {
        let Some(t) = self.tokens.remove(&l.token) else { return };
        if let Some(f) = self.files.get_mut(&ino) {
            let (offset, data) = (l.msg.header.offset, l.msg.payload);
            let file_end = Some(l.msg.header.file_end);
            f.pieces.push_front(Piece { ticket: t.ticket, index: l.index, offset, data, file_end });
        }
    }

    /// A write is on all members.
    pub(crate) fn write_completed(&mut self, id: u64) {
        let Some(t) = self.tokens.remove(&id) else { return };
        if let Some(f) = self.files.get_mut(&t.ino) {
            f.in_flight = f.in_flight.saturating_sub(1);
            let epoch = f.lease.as_ref().map(|l| l.epoch);
            if let (Some(e), Some(c)) = (epoch, f.chunks.get(&t.index)) {
                let u = f.unflushed.entry(c.id).or_insert((e, t.seq));
                *u = (*u).max((e, t.seq));
                f.indices.insert(c.id, t.index);
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
    /// Partial writes that were still reading go back to the queue.
    pub(crate) fn requeue_rmw(&mut self, ino: InodeId) {
        let partial = |t: &Token| t.ino == ino && t.rmw.is_some();
        let ids: Vec<u64> = self.tokens.iter().filter(|(_, t)| partial(t)).map(|(id, _)| *id).collect();
        for id in ids.into_iter().rev() {
            let Some(t) = self.tokens.remove(&id) else { continue };
            let Some(r) = t.rmw else { continue };
            self.reads.retain(|_, x| x.rmw != Some(id));
            if let Some(f) = self.files.get_mut(&ino) {
                let (offset, data) = (r.offset, r.data);
                f.pieces.push_front(Piece { ticket: t.ticket, index: t.index, offset, data, file_end: None });
            }
        }
    }
}

/// Cuts a write at chunk borders and at multiples of `record_max`.
fn cut(ticket: u64, mut offset: u64, mut data: Bytes, chunk_log2: u8, record_max: u32) -> Vec<Piece> {
    let mut pieces = vec![];
    let chunk_bytes = 1u64 << chunk_log2;
    while !data.is_empty() {
        let index = (offset >> chunk_log2) as u32;
        let within = (offset & (chunk_bytes - 1)) as u32;
        let to_chunk_end = chunk_bytes - u64::from(within);
        let to_record_end = u64::from(record_max - within % record_max);
        let n = (data.len() as u64).min(to_chunk_end).min(to_record_end);
        pieces.push(Piece { ticket, index, offset: within, data: data.split_to(n as usize), file_end: None });
        offset += n;
    }
    pieces
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
