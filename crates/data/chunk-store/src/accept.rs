//! Taking requests: space first, then memory, then the record.

use crate::durable::Answer;
use crate::error::StoreError;
use crate::leaf::STATE_MAX;
use crate::record::{BLOCKS_MAX, Ext, Extent, Span, span_of, with_ops};
use crate::store::{ChunkStore, Done, Effects, Pending, Rec, Ticket};
use crate::table::{Copy, Held, Over, Unit};
use bytes::Bytes;
use host::disk::DiskOp;
use journal::{RecordHead, head_bytes};
use replica::copy::{CopyState, ServerState};
use types::{BLOCK, BLOCKS_PER_UNIT, ChunkId, UNIT};
use wire::{WriteHeader, WriteKind, flags};

/// One change as a record will carry it.
struct Change {
    header: WriteHeader,
    ext: Ext,
    crcs: Vec<u32>,
    /// Bytes of each span, None for zeros.
    bytes: Vec<Option<Bytes>>,
}

impl ChunkStore {
    /// Accepts the write `h` (Data, Zero or Discard; seq = `last` + 1 of an existing copy) with one CRC32C per block of
    /// `payload`. Applied and readable at once. Done: without `flags::DURABLE` when it survives the death of the process,
    /// with it (or without a ring) when it survives loss of power; answers of one chunk keep that order. Errors (nothing
    /// applied): Busy, NoSpace, TooLarge, NoCopy, BadRequest, Stopped, Failed.
    pub fn write(
        &mut self,
        ticket: Ticket,
        h: &WriteHeader,
        crcs: Vec<u32>,
        payload: Bytes,
        fx: &mut Effects,
    ) -> Result<(), StoreError> {
        self.usable()?;
        let copy = self.copies.get(&h.chunk).ok_or(StoreError::NoCopy(h.chunk))?;
        if h.seq != copy.state.last.next() {
            return Err(StoreError::BadRequest("seq is not the copy's next"));
        }
        let data = match h.kind {
            WriteKind::Data => true,
            WriteKind::Zero | WriteKind::Discard => false,
            WriteKind::State | WriteKind::Server => return Err(StoreError::BadRequest("kind of a write")),
        };
        let span = span_of(h);
        if !h.offset.is_multiple_of(BLOCK)
            || !h.length.is_multiple_of(BLOCK)
            || span.count == 0
            || !in_chunk(h.offset, h.length)
        {
            return Err(StoreError::BadRequest("range is not of whole blocks in the chunk"));
        }
        let want = if data { (h.length as usize, span.count as usize) } else { (0, 0) };
        if (payload.len(), crcs.len()) != want {
            return Err(StoreError::BadRequest("payload or checksums do not fit the range"));
        }
        let header = WriteHeader { flags: h.flags & !flags::REDIRECTED, ..*h };
        let ext = Ext { spans: vec![span], ..Ext::default() };
        let bytes = vec![data.then_some(payload)];
        self.accept(ticket, Change { header, ext, crcs, bytes }, h.has(flags::DURABLE), fx)
    }

    /// One atomic record: replaces the state of the copy of `chunk` (creating it when absent; None keeps it) and
    /// overwrites `extents` (ascending, not overlapping). After a crash all of it is there or nothing. Done and errors as
    /// [`Self::write`], `durable` standing for the flag.
    pub fn patch(
        &mut self,
        ticket: Ticket,
        chunk: ChunkId,
        state: Option<CopyState>,
        extents: Vec<Extent>,
        durable: bool,
        fx: &mut Effects,
    ) -> Result<(), StoreError> {
        self.usable()?;
        if state.is_none() && !self.copies.contains_key(&chunk) {
            return Err(StoreError::NoCopy(chunk));
        }
        if !chunk.is_some() || state.as_ref().is_some_and(|s| s.chunk != chunk) {
            return Err(StoreError::BadRequest("chunk of the state"));
        }
        let (mut spans, mut crcs, mut bytes, mut end) = (Vec::new(), Vec::new(), Vec::new(), 0u32);
        for e in extents {
            if e.offset % BLOCK != 0 || e.length % BLOCK != 0 || e.length == 0 || !in_chunk(e.offset, e.length) {
                return Err(StoreError::BadRequest("extent is not of whole blocks in the chunk"));
            }
            let s = Span { first: e.offset / BLOCK, count: e.length / BLOCK, data: e.payload.is_some() };
            let want = e.payload.as_ref().map_or(0, |_| s.count as usize);
            if e.payload.as_ref().is_some_and(|p| p.len() != e.length as usize) || e.crcs.len() != want {
                return Err(StoreError::BadRequest("payload or checksums do not fit the extent"));
            }
            if s.first < end {
                return Err(StoreError::BadRequest("extents are not in ascending order"));
            }
            end = s.end();
            spans.push(s);
            crcs.extend(e.crcs);
            bytes.push(e.payload);
        }
        let header = WriteHeader { kind: WriteKind::State, chunk, ..WriteHeader::default() };
        let ext = Ext { state, spans, ..Ext::default() };
        self.accept(ticket, Change { header, ext, crcs, bytes }, durable, fx)
    }

    /// Removes the copy of `chunk` and frees its space. Done and errors as [`Self::patch`].
    pub fn remove(
        &mut self,
        ticket: Ticket,
        chunk: ChunkId,
        durable: bool,
        fx: &mut Effects,
    ) -> Result<(), StoreError> {
        self.usable()?;
        if !self.copies.contains_key(&chunk) {
            return Err(StoreError::NoCopy(chunk));
        }
        let header = WriteHeader { kind: WriteKind::State, chunk, ..WriteHeader::default() };
        let ext = Ext { remove: true, ..Ext::default() };
        self.accept(ticket, Change { header, ext, crcs: Vec::new(), bytes: Vec::new() }, durable, fx)
    }

    /// Replaces the server's own state. Done and errors as [`Self::patch`].
    pub fn set_server(
        &mut self,
        ticket: Ticket,
        server: ServerState,
        durable: bool,
        fx: &mut Effects,
    ) -> Result<(), StoreError> {
        self.usable()?;
        let header = WriteHeader { kind: WriteKind::Server, ..WriteHeader::default() };
        let ext = Ext { server: Some(server), ..Ext::default() };
        self.accept(ticket, Change { header, ext, crcs: Vec::new(), bytes: Vec::new() }, durable, fx)
    }

    /// Done when everything accepted before this call is durable, data included.
    pub fn flush(&mut self, ticket: Ticket, fx: &mut Effects) -> Result<(), StoreError> {
        self.usable()?;
        self.answer_when(ticket, ChunkId::NONE, self.next_idx - 1, Answer::Durable, fx);
        self.pump(fx);
        Ok(())
    }

    /// Merges everything journal-resident and commits a checkpoint; done when it stands.
    pub fn checkpoint(&mut self, ticket: Ticket, fx: &mut Effects) -> Result<(), StoreError> {
        self.usable()?;
        self.checkpoint_tickets.push(ticket);
        self.pump(fx);
        Ok(())
    }

    /// Stops in order: merge, checkpoint, clean flag. No request is taken any more; done when all of it is durable.
    pub fn stop(&mut self, ticket: Ticket, fx: &mut Effects) -> Result<(), StoreError> {
        self.usable()?;
        self.stopping = Some(ticket);
        self.pump(fx);
        Ok(())
    }

    fn accept(&mut self, ticket: Ticket, mut c: Change, durable: bool, fx: &mut Effects) -> Result<(), StoreError> {
        let chunk = c.header.chunk;
        let plain = c.header.kind != WriteKind::State && c.header.kind != WriteKind::Server;
        let state = match (&c.ext.state, &c.ext.server) {
            (Some(s), _) => postcard::to_allocvec(s).map_or(usize::MAX, |v| with_ops(v, s).len()),
            (_, Some(s)) => postcard::to_allocvec(s).map_or(usize::MAX, |v| v.len()),
            _ => 0,
        };
        if state > STATE_MAX / 2 {
            return Err(StoreError::BadRequest("state too large to store"));
        }
        let data_blocks = c.ext.data_blocks();
        // Most this record can cost: nothing redirected in the payload, everything redirected in the extension.
        let ext_most = 64 + state + 16 * c.ext.spans.len() + 10 * (data_blocks / BLOCKS_PER_UNIT) as usize;
        let head_most = journal::RECORD_FIXED_LEN + ext_most + 4 * c.crcs.len() + 8;
        let most = head_bytes(head_most) as u64 + u64::from(data_blocks) * u64::from(BLOCK);
        if most > self.geo.record_limit() {
            return Err(StoreError::TooLarge { bytes: most, limit: self.geo.record_limit() });
        }
        if self.space.used() + self.promised + most > self.space.size {
            self.checkpoint_wanted = true;
            self.pump(fx);
            return Err(StoreError::Busy);
        }
        let growth = (state + 64 + 16 * data_blocks as usize) as u64;
        let total = u64::from(self.geo.leaves()) * self.files.maps.len() as u64;
        if !c.ext.remove && c.ext.server.is_none() && data_blocks > 0 && !self.leaves.room(growth, total) {
            return Err(self.no_space(0, fx));
        }
        c.ext.redirects = match self.plan_space(chunk, &c.ext.spans) {
            Ok(r) => r,
            Err(need) => return Err(self.no_space(need, fx)),
        };
        let idx = self.next_idx;
        self.next_idx += 1;
        self.apply_state(chunk, &c.header, &c.ext);

        // The record: inline blocks are what is not redirected.
        let mut payload = Vec::new();
        let mut payload_len = 0;
        for (s, b) in c.ext.spans.iter().zip(&c.bytes) {
            let Some(b) = b else { continue };
            let mut from = s.first;
            let mut push = |from: u32, to: u32| {
                if from < to {
                    let (x, y) = ((from - s.first) * BLOCK, (to - s.first) * BLOCK);
                    payload.push(b.slice(x as usize..y as usize));
                    payload_len += y - x;
                }
            };
            for u in s.units() {
                if s.covers(u) && c.ext.redirect(u).is_some() {
                    push(from, u * BLOCKS_PER_UNIT);
                    from = (u + 1) * BLOCKS_PER_UNIT;
                }
            }
            push(from, s.end());
        }
        let mems = InlineBlocks::new(&payload);
        self.apply_blocks(chunk, idx, &c.ext, &c.crcs, &mems);
        self.start_data(chunk, idx, &c, fx);
        if !c.ext.redirects.is_empty() {
            c.header.flags |= flags::REDIRECTED;
        }
        let ext = if plain {
            c.ext.spans.clear();
            if c.ext.redirects.is_empty() { Vec::new() } else { c.ext.encode() }
        } else {
            c.ext.encode()
        };
        let head = RecordHead { header: c.header, ext, crcs: c.crcs, payload_len };
        self.enqueue(Rec { idx, head, payload, cost: 0 });
        self.answer_when(ticket, chunk, idx, if durable { Answer::Durable } else { Answer::Kept }, fx);
        self.pump(fx);
        Ok(())
    }

    fn no_space(&mut self, need: u64, fx: &mut Effects) -> StoreError {
        let growing = (self.files.segs.len() as u32) < self.geo.max_segments
            && !matches!(self.growth, crate::store::Growth::Blocked);
        let coming = self.quarantined + if growing { u64::from(self.geo.data_blocks()) } else { 0 };
        if self.quarantined > 0 {
            self.checkpoint_wanted = true;
        }
        self.pump(fx);
        StoreError::NoSpace { need, free: self.alloc.free(), coming }
    }

    /// Sets space aside for `spans`: whole units to be redirected (returned) and reservations for later merges. On
    /// failure everything is as before and the blocks missing are returned.
    fn plan_space(&mut self, chunk: ChunkId, spans: &[Span]) -> Result<Vec<(u32, u32)>, u64> {
        let mut redirects: Vec<(u32, u32)> = Vec::new();
        let mut undo: Vec<(u32, Option<(u32, u32)>)> = Vec::new();
        let mut short = None;
        let mut empty = Copy::new(CopyState::new(chunk, types::CopyId::NONE));
        let copy = self.copies.get_mut(&chunk).unwrap_or(&mut empty);
        let mut at = 0;
        'spans: while at < spans.len() {
            let s = spans[at];
            at += 1;
            if !s.data {
                continue;
            }
            for u in s.units() {
                if s.covers(u) {
                    if let Some(loc) = self.alloc.get(BLOCKS_PER_UNIT) {
                        redirects.push((u, loc));
                        continue;
                    }
                    self.starved = true;
                }
                // All ranges that touch this unit count together; a unit seen twice is simply reserved again.
                let touched = spans.iter().filter(|x| x.data).fold(0u16, |m, x| {
                    let (a, b) = x.within(u);
                    (a..b.max(a)).fold(m, |m, k| m | 1 << (k % BLOCKS_PER_UNIT))
                });
                let base = copy.base(u);
                let want = copy.wanted(u) | touched;
                if want == base {
                    continue;
                }
                let need = want.count_ones();
                let old = copy.reserved.get(&u).copied();
                if old.is_some_and(|r| r.1 >= need) {
                    continue;
                }
                if let Some((l, n)) = old {
                    self.alloc.give(l, n);
                }
                match self.alloc.get(need) {
                    Some(l) => {
                        copy.reserved.insert(u, (l, need));
                        undo.push((u, old));
                    }
                    None => {
                        if let Some((l, n)) = old {
                            assert!(self.alloc.take(l, n), "just given back");
                        }
                        short = Some(u64::from(need));
                        break 'spans;
                    }
                }
            }
        }
        let Some(need) = short else {
            // An absent copy is created by the same record; its reservations wait in the copy made here.
            if !self.copies.contains_key(&chunk) && !empty.reserved.is_empty() {
                self.copies.insert(chunk, empty);
            }
            redirects.sort_unstable();
            for (_, l) in &redirects {
                self.cache.forget(*l, BLOCKS_PER_UNIT);
            }
            return Ok(redirects);
        };
        // They may lie where a reservation lay that is made again below.
        for (_, l) in redirects {
            self.alloc.give(l, BLOCKS_PER_UNIT);
        }
        for (u, old) in undo.into_iter().rev() {
            let (l, n) = copy.reserved.remove(&u).expect("reserved above");
            self.alloc.give(l, n);
            if let Some((l, n)) = old {
                assert!(self.alloc.take(l, n), "undone in reverse order");
                copy.reserved.insert(u, (l, n));
            }
        }
        Err(need)
    }

    /// The part of a record that concerns states; also used by replay.
    pub(crate) fn apply_state(&mut self, chunk: ChunkId, h: &WriteHeader, ext: &Ext) {
        if let Some(s) = &ext.server {
            self.server = s.clone();
            self.dirty_states.insert(ChunkId::NONE);
            return;
        }
        self.dirty_states.insert(chunk);
        if ext.remove {
            self.drop_copy(chunk);
        } else if let Some(s) = &ext.state {
            match self.copies.get_mut(&chunk) {
                Some(c) => c.state = s.clone(),
                None => {
                    self.copies.insert(chunk, Copy::new(s.clone()));
                }
            }
        } else if h.kind != WriteKind::State {
            let c = self.copies.get_mut(&chunk).expect("callers looked the copy up");
            c.state.apply_write(h);
        }
    }

    fn drop_copy(&mut self, chunk: ChunkId) {
        let Some(mut c) = self.copies.remove(&chunk) else { return };
        self.dirty_parts.extend(self.leaves.keys(chunk, 0..=u16::MAX));
        for (_, u) in std::mem::take(&mut c.units) {
            self.put_aside(u.loc, u.len());
        }
        for (_, (l, n)) in std::mem::take(&mut c.reserved) {
            self.alloc.give(l, n);
        }
        while let Some((&b, _)) = c.overlay.first_key_value() {
            self.over.drop(&mut c, b);
        }
    }

    /// The part of a record that concerns blocks; also used by replay. `mem` gives the inline blocks that are in memory.
    pub(crate) fn apply_blocks(&mut self, chunk: ChunkId, idx: u64, ext: &Ext, crcs: &[u32], mem: &InlineBlocks) {
        let mut copy = self.copies.remove(&chunk);
        let Some(c) = copy.as_mut() else { return };
        let (mut crc_at, mut nth) = (0usize, 0u32);
        for s in &ext.spans {
            for u in s.units() {
                let (a, b) = s.within(u);
                if !s.data && s.covers(u) {
                    self.vacate(c, u);
                    continue;
                }
                let redirect = if s.data && s.covers(u) { ext.redirect(u) } else { None };
                if let Some(loc) = redirect {
                    self.vacate(c, u);
                    let mut unit = Unit { loc, mask: u16::MAX, birth: 0, crcs: [0; BLOCKS_PER_UNIT as usize] };
                    unit.crcs.copy_from_slice(&crcs[crc_at..crc_at + BLOCKS_PER_UNIT as usize]);
                    crc_at += BLOCKS_PER_UNIT as usize;
                    c.units.insert(u, unit);
                    self.dirty_parts.insert((chunk, crate::leaf::part_of(u)));
                    continue;
                }
                for block in a..b {
                    if s.data {
                        let held = Held::Data { crc: crcs[crc_at], nth, mem: mem.get(nth) };
                        (crc_at, nth) = (crc_at + 1, nth + 1);
                        self.over.put(c, block, Over { idx, held });
                    } else if (c.base(u) | c.placed(u)) >> (block % BLOCKS_PER_UNIT) & 1 == 1 {
                        self.over.put(c, block, Over { idx, held: Held::Zero });
                    } else {
                        self.over.drop(c, block);
                    }
                }
            }
        }
        // Only now: a later range of the same record may need what an earlier one seems to leave idle.
        for s in ext.spans.iter().filter(|s| !s.data) {
            for u in s.units() {
                self.release_idle(c, u);
            }
        }
        if let Some(c) = copy {
            self.copies.insert(chunk, c);
        }
        self.trim_resident();
    }

    /// A unit loses all it had: its place is put aside, its overlay dropped, its reservation given back.
    fn vacate(&mut self, c: &mut Copy, unit: u32) {
        self.over.drop_unit(c, unit);
        c.flying.remove(&unit);
        c.moving.remove(&unit);
        if let Some((l, n)) = c.reserved.remove(&unit) {
            self.alloc.give(l, n);
        }
        if let Some(u) = c.units.remove(&unit) {
            self.put_aside(u.loc, u.len());
            self.dirty_parts.insert((c.state.chunk, crate::leaf::part_of(unit)));
        }
    }

    /// Gives a reservation back that no block waits for any more.
    pub(crate) fn release_idle(&mut self, c: &mut Copy, unit: u32) {
        if c.reserved.contains_key(&unit)
            && c.wanted(unit) == c.base(unit)
            && let Some((l, n)) = c.reserved.remove(&unit)
        {
            self.alloc.give(l, n);
        }
    }

    /// Starts the writes of redirected units; neighbours in chunk and place share one.
    fn start_data(&mut self, chunk: ChunkId, idx: u64, c: &Change, fx: &mut Effects) {
        let mut left = 0;
        for (s, b) in c.ext.spans.iter().zip(&c.bytes) {
            let Some(b) = b else { continue };
            let units: Vec<(u32, u32)> = c.ext.redirects.iter().copied().filter(|r| s.covers(r.0)).collect();
            let mut i = 0;
            while i < units.len() {
                let (u0, l0) = units[i];
                let mut n = 1;
                while units.get(i + n) == Some(&(u0 + n as u32, l0 + n as u32 * BLOCKS_PER_UNIT)) {
                    n += 1;
                }
                let from = ((u0 * BLOCKS_PER_UNIT - s.first) * BLOCK) as usize;
                let data = b.slice(from..from + n * UNIT as usize);
                let copy = self.copies.get_mut(&chunk).expect("the change created it");
                for k in 0..n {
                    let bytes = data.slice(k * UNIT as usize..(k + 1) * UNIT as usize);
                    copy.flying.insert(u0 + k as u32, (idx, bytes));
                }
                let (seg, offset) = self.geo.place(l0);
                let units = (u0..u0 + n as u32).collect();
                let op = DiskOp::Write { file: self.files.segs[seg], offset, data: vec![data] };
                self.submit(Pending::Data { chunk, idx, seg, units }, op, fx);
                left += 1;
                i += n;
            }
        }
        if left > 0 {
            self.flight.insert((chunk, idx), left);
            self.flight_idx.insert(idx);
        }
    }

    /// Ranges of `chunk` that hold data, ascending, adjacent ones joined: (offset, bytes).
    pub fn allocated(&self, chunk: ChunkId) -> Vec<(u32, u32)> {
        let Some(c) = self.copies.get(&chunk) else { return Vec::new() };
        let mut out: Vec<(u32, u32)> = Vec::new();
        let mut units: Vec<u32> = c.units.keys().copied().collect();
        units.extend(c.overlay.keys().map(|b| b / BLOCKS_PER_UNIT));
        units.sort_unstable();
        units.dedup();
        for u in units {
            let mut m = c.units.get(&u).map_or(0, |x| x.mask);
            for (b, o) in c.over_unit(u) {
                if matches!(o.held, Held::Zero) { m &= !(1 << b) } else { m |= 1 << b }
            }
            for b in (0..BLOCKS_PER_UNIT).filter(|b| m >> b & 1 == 1) {
                let at = (u * BLOCKS_PER_UNIT + b) * BLOCK;
                match out.last_mut() {
                    Some(l) if l.0 + l.1 == at => l.1 += BLOCK,
                    _ => out.push((at, BLOCK)),
                }
            }
        }
        out
    }

    pub(crate) fn answer(&self, ticket: Ticket, fx: &mut Effects) {
        fx.done.push((ticket, Done::Ok));
    }
}

fn in_chunk(offset: u32, length: u32) -> bool {
    u64::from(offset) + u64::from(length) <= u64::from(BLOCKS_MAX) * u64::from(BLOCK)
}

/// Inline blocks of a record by number, as slices of its payload pieces.
pub(crate) struct InlineBlocks<'a> {
    pieces: &'a [Bytes],
}
impl<'a> InlineBlocks<'a> {
    pub fn new(pieces: &'a [Bytes]) -> InlineBlocks<'a> {
        InlineBlocks { pieces }
    }
    /// Block `nth`, if it is in memory.
    pub fn get(&self, nth: u32) -> Option<Bytes> {
        let mut at = nth as usize * BLOCK as usize;
        for p in self.pieces {
            if at < p.len() {
                return Some(p.slice(at..at + BLOCK as usize));
            }
            at -= p.len();
        }
        None
    }
}
