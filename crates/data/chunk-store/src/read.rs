//! Reading: from the overlay, units in flight, the cache, the data area and the journal, put together.

use crate::error::StoreError;
use crate::inspect::Inspection;
use crate::record::BLOCKS_MAX;
use crate::store::{ChunkStore, Done, Effects, Pending, Ticket};
use crate::structure::StructureCheck;
use crate::table::{Copy, Held};
use bytes::Bytes;
use host::buffer::AlignedBuf;
use host::disk::{DiskError, DiskOp, FileId};
use types::{BLOCK, BLOCKS_PER_UNIT, ChunkId};

/// Where a run of blocks comes from.
pub(crate) enum Source {
    Zero(u32),
    /// Bytes of a file as they stand on the disk.
    File {
        file: FileId,
        offset: u64,
        len: u32,
    },
    Mem(Bytes),
    Disk {
        loc: u32,
        count: u32,
    },
    Journal {
        pos: u64,
        count: u32,
    },
}

/// Whom the blocks are for.
pub(crate) enum Purpose {
    Read { ticket: Ticket, chunk: ChunkId, offset: u32, crcs: Vec<u32>, verify: bool },
    Merge { job: u64 },
    Inspect(Inspection),
    Structures(StructureCheck),
}

/// Blocks being brought together. Its number orders it among all reads in flight: what it may look at is not reused
/// before it ends.
pub(crate) struct Gather {
    pieces: Vec<Option<Bytes>>,
    /// Locations of the pieces that come from the data area and may enter the cache.
    locs: Vec<Option<u32>>,
    left: u32,
    error: Option<DiskError>,
    purpose: Purpose,
}
impl Gather {
    pub fn ticket(&self) -> Option<Ticket> {
        match &self.purpose {
            Purpose::Read { ticket, .. } => Some(*ticket),
            Purpose::Inspect(i) => Some(i.ticket()),
            Purpose::Structures(c) => Some(c.ticket()),
            Purpose::Merge { .. } => None,
        }
    }
}

impl ChunkStore {
    /// Reads `len` bytes at `offset` of `chunk` (whole blocks). Done: [`Done::Read`], or Corrupt / ReadFailed; the store
    /// goes on after both. With `verify` every block is checked against its checksum. Errors: NoCopy, BadRequest,
    /// Stopped, Failed.
    pub fn read(
        &mut self,
        ticket: Ticket,
        chunk: ChunkId,
        offset: u32,
        len: u32,
        verify: bool,
        fx: &mut Effects,
    ) -> Result<(), StoreError> {
        self.usable()?;
        let copy = self.copies.get(&chunk).ok_or(StoreError::NoCopy(chunk))?;
        let end = u64::from(offset) + u64::from(len);
        if !offset.is_multiple_of(BLOCK)
            || !len.is_multiple_of(BLOCK)
            || len == 0
            || end > u64::from(BLOCKS_MAX) * u64::from(BLOCK)
        {
            return Err(StoreError::BadRequest("range is not of whole blocks in the chunk"));
        }
        let (first, count) = (offset / BLOCK, len / BLOCK);
        let mut crcs = Vec::with_capacity(count as usize);
        let mut sources = Vec::new();
        for u in first / BLOCKS_PER_UNIT..(first + count).div_ceil(BLOCKS_PER_UNIT) {
            let a = first.max(u * BLOCKS_PER_UNIT);
            let b = (first + count).min((u + 1) * BLOCKS_PER_UNIT);
            self.sources(copy, u, (a..b).map(|x| x % BLOCKS_PER_UNIT), &mut sources, &mut crcs);
        }
        self.gather(sources, Purpose::Read { ticket, chunk, offset, crcs, verify }, fx);
        Ok(())
    }

    /// Reads at once and blocking, for tools and checks: data and checksums. Errors: NoCopy, Disk.
    pub fn read_now(
        &self,
        folder: &mut dyn host::disk::Folder,
        chunk: ChunkId,
        offset: u32,
        len: u32,
    ) -> Result<(Bytes, Vec<u32>), StoreError> {
        let copy = self.copies.get(&chunk).ok_or(StoreError::NoCopy(chunk))?;
        let (mut crcs, mut sources) = (Vec::new(), Vec::new());
        for b in offset / BLOCK..(offset + len) / BLOCK {
            self.sources(copy, b / BLOCKS_PER_UNIT, [b % BLOCKS_PER_UNIT].into_iter(), &mut sources, &mut crcs);
        }
        let mut out = AlignedBuf::zeroed(len as usize);
        let mut at = 0;
        for s in sources {
            let b = match s {
                Source::Mem(b) => b,
                Source::Zero(n) => {
                    at += (n * BLOCK) as usize;
                    continue;
                }
                Source::Disk { loc, count } => {
                    let (seg, offset) = self.geo.place(loc);
                    folder.read(self.files.segs[seg], offset, (count * BLOCK) as usize)?
                }
                Source::Journal { pos, count } => {
                    folder.read(self.files.journal, self.space.offset(pos), (count * BLOCK) as usize)?
                }
                Source::File { file, offset, len } => folder.read(file, offset, len as usize)?,
            };
            out[at..at + b.len()].copy_from_slice(&b);
            at += b.len();
        }
        Ok((out.freeze(), crcs))
    }

    /// Appends where `blocks` of `unit` come from, and their checksums.
    pub(crate) fn sources(
        &self,
        copy: &Copy,
        unit: u32,
        blocks: impl Iterator<Item = u32>,
        out: &mut Vec<Source>,
        crcs: &mut Vec<u32>,
    ) {
        let u = copy.units.get(&unit);
        let over = copy.over_unit(unit).next().is_some();
        let flying = copy.flying.get(&unit);
        for b in blocks {
            let o = if over { copy.overlay.get(&(unit * BLOCKS_PER_UNIT + b)) } else { None };
            let (src, crc) = match (o.map(|o| (&o.held, o.idx)), u.and_then(|u| u.at(b))) {
                (Some((Held::Data { crc, mem: Some(m), .. }, _)), _) => (Source::Mem(m.clone()), *crc),
                (Some((Held::Data { crc, nth, mem: None }, idx)), _) => {
                    let pos = self.journal_pos(idx, *nth).expect("a block leaves memory after its journal write");
                    (Source::Journal { pos, count: 1 }, *crc)
                }
                (Some((Held::Zero | Held::Bad, _)), _) | (None, None) => (Source::Zero(1), self.zero_crc),
                (None, Some(loc)) => {
                    let crc = u.map_or(0, |u| u.crcs[b as usize]);
                    match flying {
                        Some((_, bytes)) => {
                            let at = (b * BLOCK) as usize;
                            (Source::Mem(bytes.slice(at..at + BLOCK as usize)), crc)
                        }
                        None => (Source::Disk { loc, count: 1 }, crc),
                    }
                }
            };
            crcs.push(crc);
            if !out.last_mut().is_some_and(|last| self.joins(last, &src)) {
                out.push(src);
            }
        }
    }
    /// Lengthens `last` by `next`, a source of one block, if one read can give both.
    pub(crate) fn joins(&self, last: &mut Source, next: &Source) -> bool {
        match (last, next) {
            (Source::Zero(n), Source::Zero(_)) => *n += 1,
            (Source::Disk { loc: l, count }, Source::Disk { loc, .. })
                if *l + *count == *loc && self.geo.place(*l).0 == self.geo.place(*loc).0 =>
            {
                *count += 1
            }
            (Source::Journal { pos: p, count }, Source::Journal { pos, .. })
                if *p + u64::from(*count * BLOCK) == *pos && *pos % self.space.size != 0 =>
            {
                *count += 1
            }
            _ => return false,
        }
        true
    }

    /// Brings the blocks of a merge together.
    pub(crate) fn gather_merge(&mut self, job: u64, sources: Vec<Source>, fx: &mut Effects) {
        self.gather(sources, Purpose::Merge { job }, fx);
    }

    pub(crate) fn gather(&mut self, sources: Vec<Source>, purpose: Purpose, fx: &mut Effects) {
        let id = self.next_gather;
        self.next_gather += 1;
        let user = matches!(purpose, Purpose::Read { .. });
        let mut g = Gather { pieces: Vec::new(), locs: Vec::new(), left: 0, error: None, purpose };
        for s in sources {
            let slot = g.pieces.len();
            let (file, offset, count, loc) = match s {
                Source::Mem(b) => {
                    g.pieces.push(Some(b));
                    g.locs.push(None);
                    continue;
                }
                Source::Zero(n) => {
                    let mut left = (n * BLOCK) as usize;
                    while left > 0 {
                        let k = left.min(self.zeros.len());
                        g.pieces.push(Some(self.zeros.slice(..k)));
                        g.locs.push(None);
                        left -= k;
                    }
                    continue;
                }
                Source::Disk { loc, count } => {
                    if let (true, Some(b)) = (user && count == 1, self.cache.get(loc)) {
                        g.pieces.push(Some(b));
                        g.locs.push(None);
                        continue;
                    }
                    let (seg, offset) = self.geo.place(loc);
                    (self.files.segs[seg], offset, count, Some(loc))
                }
                Source::Journal { pos, count } => (self.files.journal, self.space.offset(pos), count, None),
                Source::File { file, offset, len } => (file, offset, len / BLOCK, None),
            };
            g.pieces.push(None);
            // Long reads stream past the cache: they are what the disk does best.
            g.locs.push(loc.filter(|_| user && count <= BLOCKS_PER_UNIT));
            g.left += 1;
            let op = DiskOp::Read { file, offset, len: count * BLOCK };
            self.submit(Pending::Read { gather: id, slot }, op, fx);
        }
        let ready = g.left == 0;
        self.gathers.insert(id, g);
        if ready {
            self.gathered(id, fx);
        }
    }

    /// A read of gather `id` has ended.
    pub(crate) fn gather_part(&mut self, id: u64, slot: usize, r: Result<Bytes, DiskError>, fx: &mut Effects) {
        let Some(g) = self.gathers.get_mut(&id) else { return };
        g.left -= 1;
        match r {
            Ok(b) => {
                if let Some(loc) = g.locs[slot] {
                    self.cache.keep(loc, &b);
                }
                g.pieces[slot] = Some(b);
            }
            Err(e) => g.error = Some(e),
        }
        if g.left == 0 {
            self.gathered(id, fx);
        }
    }

    fn gathered(&mut self, id: u64, fx: &mut Effects) {
        let g = self.gathers.remove(&id).expect("called for a gather that exists");
        match (g.purpose, g.error) {
            // What could not be read is missing among the pieces, which is what they look for.
            (Purpose::Merge { job }, _) => self.merge_read(job, g.pieces, fx),
            (Purpose::Inspect(i), _) => self.inspected(i, g.pieces, fx),
            (Purpose::Structures(c), _) => self.structures_read(c, g.pieces, fx),
            (Purpose::Read { ticket, chunk, .. }, Some(e)) => {
                fx.done.push((ticket, Done::Failed(StoreError::ReadFailed { chunk, detail: e.detail })));
            }
            (Purpose::Read { ticket, chunk, offset, crcs, verify }, None) => {
                let mut pieces: Vec<Bytes> = g.pieces.into_iter().flatten().collect();
                let aligned = |b: &Bytes| (b.as_ptr() as usize).is_multiple_of(host::buffer::ALIGN);
                let data = if pieces.len() == 1 && aligned(&pieces[0]) {
                    pieces.swap_remove(0)
                } else {
                    let mut buf = AlignedBuf::zeroed(crcs.len() * BLOCK as usize);
                    let mut at = 0;
                    for p in pieces {
                        buf[at..at + p.len()].copy_from_slice(&p);
                        at += p.len();
                    }
                    buf.freeze()
                };
                if verify {
                    let bad = data.chunks(BLOCK as usize).zip(&crcs).position(|(b, c)| checksum::crc32c(b) != *c);
                    if let Some(i) = bad {
                        let offset = offset + i as u32 * BLOCK;
                        fx.done.push((ticket, Done::Failed(StoreError::Corrupt { chunk, offset })));
                        return;
                    }
                }
                fx.done.push((ticket, Done::Read { data, crcs }));
            }
        }
    }
}
