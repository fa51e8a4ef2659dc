//! Buffered writes: taken into memory under the write lease and answered at once; handed to the chunk servers by a flush,
//! a recall, age, or when too much is dirty. What goes wrong then, the next flush of the file tells.

use crate::calls::For;
use crate::change::cut;
use crate::op::{Op, OpKind};
use crate::small::Body;
use crate::{Client, ClientError};
use types::{InodeId, Nanos};
use wire::LeaseKind;
use wire::names::MetaOp;

/// How long what the group said about free space is good for.
const SPACE_AGE: Nanos = Nanos::from_secs(5);

/// May a buffered write be taken?
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Room {
    Yes,
    /// When something was written out, or it is known how much space there is.
    Later,
    /// It has to go to the servers before it is answered.
    Through,
}

impl Client {
    /// Takes a buffered write into memory if there is room for it.
    pub(crate) fn absorb(&mut self, ino: InodeId, offset: u64, data: &[u8]) -> Room {
        let n = data.len() as u64;
        match self.room(ino, offset, n) {
            Room::Yes => {}
            Room::Later => {
                self.starved.insert(ino);
                return Room::Later;
            }
            Room::Through => return Room::Through,
        }
        let wall = self.wall();
        let Some(f) = self.files.get_mut(&ino) else { return Room::Later };
        let before = f.buffer.bytes();
        f.buffer.write(offset, data);
        let more = f.buffer.bytes() - before;
        f.told_end = f.told_end.max(offset + n);
        f.taken_end = f.taken_end.max(offset + n);
        f.mtime = f.mtime.max(wall);
        self.buffered += more;
        self.note_dirty(ino);
        if self.buffered > self.cfg.buffer_max / 4 {
            self.write_out_full(ino);
        }
        Room::Yes
    }
    fn room(&mut self, ino: InodeId, offset: u64, n: u64) -> Room {
        let max = self.cfg.buffer_max;
        if n > max / 4 {
            return Room::Through;
        }
        if self.buffered + n > max {
            self.relieve(ino);
            return Room::Later;
        }
        match self.credit(ino, offset) {
            None => Room::Later,
            Some(c) if self.buffered + n <= c => Room::Yes,
            Some(_) => Room::Through,
        }
    }
    /// Dirty bytes for which the servers behind a place in a file have room, so that a write that was answered does not
    /// fail for lack of it. None = asked for.
    fn credit(&mut self, ino: InodeId, offset: u64) -> Option<u64> {
        let f = self.files.get(&ino)?;
        let chunk = f.chunks.get(&((offset >> f.layout.chunk_log2) as u32));
        let of =
            |c: &crate::file::Chunk| c.view.members.iter().map(|m| self.credits.get(&m.cs).copied()).min().flatten();
        if let Some(c) = chunk.and_then(of) {
            return Some(c);
        }
        let now = self.now;
        if self.space.is_none_or(|(_, at)| now.since(at) >= SPACE_AGE) && self.space_asked == Nanos::ZERO {
            self.space_asked = now;
            self.call(For::Space, MetaOp::Statfs, LeaseKind::None);
        }
        self.space.map(|(free, _)| free)
    }
    /// Something was told to the program and is in memory only.
    pub(crate) fn note_dirty(&mut self, ino: InodeId) {
        let now = self.now;
        let Some(f) = self.files.get_mut(&ino) else { return };
        f.dirty_mark += 1;
        f.end_dirty = true;
        self.ends.insert(ino);
        self.unsynced.insert(ino);
        if f.dirty_since.is_none() {
            f.dirty_since = Some(now);
            self.ages.insert((now + self.cfg.buffer_age, ino));
            self.wake = self.wake.min(now + self.cfg.buffer_age);
        }
        self.dirty.insert(ino);
    }
    /// Looks again whether anything of the file is in memory only.
    pub(crate) fn note_clean(&mut self, ino: InodeId) {
        let age = self.cfg.buffer_age;
        let Some(f) = self.files.get_mut(&ino) else { return };
        if !f.dirty()
            && let Some(t) = f.dirty_since.take()
        {
            self.ages.remove(&(t + age, ino));
        }
    }

    /// Hands everything dirty of a file to the chunk servers, or its content to the group if it is small.
    pub(crate) fn write_out(&mut self, ino: InodeId) {
        let Some(f) = self.files.get_mut(&ino) else { return };
        if !f.writes() || !f.dirty() {
            return;
        }
        if f.body == Body::Yes && f.small.is_none() {
            return; // the content moves into chunks first
        }
        if f.small.is_some() {
            if f.writing_out == 0 && f.stage.is_none() {
                f.handed_mark = f.dirty_mark;
                self.write_out_small(ino);
            }
            return;
        }
        f.handed_mark = f.dirty_mark;
        let runs = f.buffer.take();
        self.hand_over(ino, runs);
    }
    fn write_out_full(&mut self, ino: InodeId) {
        let Some(f) = self.files.get_mut(&ino) else { return };
        if f.writes() && f.body == Body::No && f.small.is_none() {
            let runs = f.buffer.take_full();
            self.hand_over(ino, runs);
        }
    }
    fn hand_over(&mut self, ino: InodeId, runs: Vec<crate::buffer::Run>) {
        let (record_max, now) = (self.cfg.record_max, self.now);
        for r in runs {
            let ticket = self.own_ticket();
            let (start, bytes) = (r.offset, r.data.len() as u64);
            let Some(f) = self.files.get_mut(&ino) else { return };
            let log2 = f.layout.chunk_log2;
            let pieces = cut(ticket, r.offset, r.data, log2, record_max, now, true);
            let kind = OpKind::WriteOut { ino, bytes };
            self.ops.insert(ticket, Op { left: pieces.len(), kind, error: None });
            f.pieces.extend(pieces);
            f.writing_out += 1;
            // A read that has asked already may be answered with what was there before; a partial write wants just that.
            let end = start + bytes;
            for x in self.reads.values_mut().filter(|x| x.ino == ino && x.rmw.is_none()) {
                x.met_range(log2, start, end);
            }
        }
        self.note_clean(ino);
        self.dirty.insert(ino);
    }
    /// Everything of the file is with the servers; what is not, goes there.
    pub(crate) fn written_out(&mut self, ino: InodeId) -> bool {
        self.write_out(ino);
        self.files.get(&ino).is_none_or(|f| !f.owes())
    }
    /// A write-out has ended.
    pub(crate) fn write_out_done(&mut self, ino: InodeId, bytes: u64, error: Option<ClientError>) {
        self.buffered = self.buffered.saturating_sub(bytes);
        if let Some(f) = self.files.get_mut(&ino) {
            f.writing_out = f.writing_out.saturating_sub(1);
            if let Some(e) = error {
                f.failed = f.failed.or(Some(e));
                f.set_ends(f.size);
                self.unsynced.insert(ino);
            }
        }
        self.dirty.insert(ino);
        self.wake_starved();
    }
    pub(crate) fn wake_starved(&mut self) {
        self.dirty.extend(std::mem::take(&mut self.starved));
    }

    /// Too much is dirty: this file's and the oldest one's goes.
    fn relieve(&mut self, ino: InodeId) {
        let oldest = self.ages.first().map(|(_, i)| *i);
        self.write_out(ino);
        if let Some(i) = oldest {
            self.write_out(i);
        }
    }
    /// What has been dirty for long enough goes.
    pub(crate) fn tick_buffers(&mut self) {
        let now = self.now;
        let due: Vec<InodeId> = self.ages.iter().take_while(|(t, _)| *t <= now).map(|(_, i)| *i).collect();
        for ino in due {
            self.write_out(ino);
            // What could not go waits for a lease or for its content to move: that brings it on.
            let Some(f) = self.files.get_mut(&ino) else { continue };
            if let Some(t) = f.dirty_since {
                self.ages.remove(&(t + self.cfg.buffer_age, ino));
                f.dirty_since = Some(now);
                self.ages.insert((now + self.cfg.buffer_age, ino));
            }
        }
    }
    /// Nobody needs the file any more: no write-out, no error to be told, no lease.
    pub(crate) fn drop_file(&mut self, ino: InodeId) {
        if !self.files.contains_key(&ino) {
            return;
        }
        self.lose_dirty(ino, ClientError::Meta(wire::names::MetaError::NotFound));
        let f = self.file(ino);
        f.failed = None;
        f.unflushed.clear();
        f.unflushed_before.clear();
        f.cached = false;
        f.closing = true;
        self.unsynced.remove(&ino);
        self.dirty.insert(ino);
    }
    /// Another lease, and others may have held one since: what was told and not written out is lost.
    pub(crate) fn lose_dirty(&mut self, ino: InodeId, why: ClientError) {
        let Some(f) = self.files.get_mut(&ino) else { return };
        let lost = f.dirty();
        if lost {
            f.failed = f.failed.or(Some(why));
            self.unsynced.insert(ino);
        }
        self.drop_dirty(ino);
        // What is queued of write-outs as well.
        let Some(f) = self.files.get_mut(&ino) else { return };
        let mut tickets = vec![];
        f.pieces.retain(|p| {
            if p.told {
                tickets.push(p.ticket);
            }
            !p.told
        });
        for t in tickets {
            self.op_part_done(t, Some(why));
        }
    }
}
