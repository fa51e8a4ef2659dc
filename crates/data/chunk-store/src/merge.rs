//! Merging: blocks that stand in the journal only go to the data area, newest only, sorted by place.
//!
//! A unit whose mask does not grow is written in place, only with blocks of records that are durable: what is overwritten
//! can then be restored from the journal. A unit that grows moves to the space reserved for it at acceptance; that is
//! safe at any time, because nothing committed names the new place.
//!
//! A block that the disk does not give is no reason to end: the unit is merged later, when the block has come from another
//! server. Where the journal cannot wait, the unit is merged with zeros in its place, which its checksum disowns: it is a
//! damaged block like any other then.

use crate::leaf::part_of;
use crate::read::Source;
use crate::store::{ChunkStore, Effects, Pending};
use crate::table::{Held, Moving, Unit};
use bytes::Bytes;
use host::disk::DiskOp;
use types::{BLOCK, BLOCKS_PER_UNIT, ChunkId};

/// A merge of one unit in progress.
pub(crate) struct Job {
    chunk: ChunkId,
    unit: u32,
    /// The new unit (moved), or the place overwritten.
    loc: u32,
    /// Blocks of the run at `loc`.
    len: u32,
    moved: bool,
    /// Blocks taken from the overlay: (block within the unit, record, new checksum).
    taken: Vec<(u32, u64, u32)>,
    /// Its place was found damaged, and it moves for that.
    leaves: bool,
    mask: u16,
    /// Blocks to be written, in order of their place.
    blocks: Vec<u32>,
    crcs: Vec<u32>,
    left: u32,
}

impl ChunkStore {
    /// Starts the merge of a unit; records up to `target` are durable. False when there is nothing to wait for.
    pub(crate) fn start_merge(&mut self, chunk: ChunkId, unit: u32, target: u64, fx: &mut Effects) -> bool {
        let Some(mut c) = self.copies.remove(&chunk) else { return false };
        let started = self.plan_merge(&mut c, chunk, unit, target);
        self.copies.insert(chunk, c);
        match started {
            Some((job, sources)) => {
                self.gather_merge(job, sources, fx);
                true
            }
            None => false,
        }
    }

    fn plan_merge(
        &mut self,
        c: &mut crate::table::Copy,
        chunk: ChunkId,
        unit: u32,
        target: u64,
    ) -> Option<(u64, Vec<Source>)> {
        let (mut data, mut zero) = (0u16, 0u16);
        for (b, o) in c.over_unit(unit) {
            match o.held {
                Held::Data { .. } => data |= 1 << b,
                Held::Zero | Held::Bad => zero |= 1 << b,
            }
        }
        let old = c.units.get(&unit).copied();
        let base = old.map_or(0, |u| u.mask);
        let rest = (base & !zero) | data;
        let grows = data & !base != 0;
        // Zeros over a part of a unit give their place back: the unit moves to a shorter one, if there is one. So does one
        // whose place was found damaged.
        let leaves = !grows && self.moved_away.remove(&(chunk, unit));
        let shrunk =
            if !grows && (rest != base || leaves) && rest != 0 { self.alloc.get(rest.count_ones()) } else { None };
        let moved = grows || shrunk.is_some();
        if rest == 0 {
            // Nothing but zeros is left: the unit goes, in memory; the checkpoint waits for the records.
            self.over.drop_unit(c, unit);
            c.flying.remove(&unit);
            self.release_idle(c, unit);
            if let Some(u) = c.units.remove(&unit) {
                self.put_aside(u.loc, u.len());
                self.dirty_parts.insert((chunk, part_of(unit)));
            }
            return None;
        }
        let mut job = Job {
            chunk,
            unit,
            loc: 0,
            len: 0,
            moved,
            taken: Vec::new(),
            leaves,
            mask: rest,
            blocks: Vec::new(),
            crcs: Vec::new(),
            left: 0,
        };
        if moved {
            // Without a reservation (only after a start on a fragmented disk) the unit may have to stay in the journal.
            job.len = rest.count_ones();
            let (loc, len) = match (shrunk, c.reserved.remove(&unit)) {
                (None, Some(r)) => r,
                (None, None) => (self.alloc.get(job.len)?, job.len),
                (Some(loc), reserved) => {
                    if let Some((l, n)) = reserved {
                        self.alloc.give(l, n);
                    }
                    (loc, job.len)
                }
            };
            assert!(job.len <= len, "reservations cover the overlay");
            if job.len < len {
                self.alloc.give(loc + job.len, len - job.len);
            }
            job.loc = loc;
            job.blocks = (0..BLOCKS_PER_UNIT).filter(|b| rest >> b & 1 == 1).collect();
        } else {
            let u = old.expect("a unit that does not grow is there");
            (job.loc, job.len, job.mask) = (u.loc, u.len(), u.mask);
            job.blocks = c.over_unit(unit).filter(|(_, o)| o.idx <= target).map(|(b, _)| b).collect();
            self.release_idle(c, unit);
            if job.blocks.is_empty() {
                return None;
            }
        }
        let mut sources = Vec::new();
        self.sources(c, unit, job.blocks.iter().copied(), &mut sources, &mut job.crcs);
        if self.unread.contains(&(chunk, unit)) {
            sources = sources.into_iter().flat_map(each_block).collect();
        }
        for (b, o) in c.over_unit(unit) {
            if moved || job.blocks.contains(&b) {
                let crc = if let Held::Data { crc, .. } = o.held { crc } else { self.zero_crc };
                job.taken.push((b, o.idx, crc));
            }
        }
        let id = self.next_job;
        self.next_job += 1;
        if moved {
            c.moving.insert(unit, Moving { job: id, target: rest });
        }
        self.jobs.insert(id, job);
        Some((id, sources))
    }

    /// The reads of a merge have ended; what could not be read is missing.
    pub(crate) fn merge_read(&mut self, id: u64, pieces: Vec<Option<Bytes>>, fx: &mut Effects) {
        if !pieces.contains(&None) {
            return self.merge_gathered(id, pieces.into_iter().flatten().collect(), fx);
        }
        let job = &self.jobs[&id];
        let place = (job.chunk, job.unit);
        if self.unread.insert(place) {
            // Once more, block by block: one that cannot be read says nothing about its neighbours.
            self.cancel_merge(id);
            self.checkpoint.again(place);
            return;
        }
        self.unread.remove(&place);
        fx.doubts.push(place);
        let waits = (self.space.used() + self.promised) * 2 <= self.space.size;
        if waits && self.stopping.is_none() && self.claim == u64::MAX {
            self.cancel_merge(id);
            return;
        }
        let zeros = self.zeros.slice(..BLOCK as usize);
        self.merge_gathered(id, pieces.into_iter().map(|p| p.unwrap_or_else(|| zeros.clone())).collect(), fx);
    }
    /// Undoes the plan of a merge of which nothing was written: everything stays in the journal.
    fn cancel_merge(&mut self, id: u64) {
        let job = self.jobs.remove(&id).expect("a merge lives until its writes end");
        self.checkpoint.merging -= 1;
        if !job.moved {
            return;
        }
        if let Some(c) = self.copies.get_mut(&job.chunk)
            && c.moving.get(&job.unit).is_some_and(|m| m.job == id)
        {
            c.moving.remove(&job.unit);
            if job.leaves {
                self.moved_away.insert((job.chunk, job.unit));
            }
            // What was written meanwhile has reserved room for the whole unit already.
            if c.wanted(job.unit) != c.base(job.unit) && !c.reserved.contains_key(&job.unit) {
                c.reserved.insert(job.unit, (job.loc, job.len));
                return;
            }
        }
        self.alloc.give(job.loc, job.len);
    }

    /// The blocks of a merge are together: write them.
    fn merge_gathered(&mut self, id: u64, pieces: Vec<Bytes>, fx: &mut Effects) {
        let job = self.jobs.get_mut(&id).expect("a merge lives until its writes end");
        let mut runs: Vec<(u32, u32)> = Vec::new();
        for (i, b) in job.blocks.iter().enumerate() {
            let rank = if job.moved { i as u32 } else { (job.mask & ((1 << b) - 1)).count_ones() };
            match runs.last_mut() {
                Some(r) if r.0 + r.1 == rank => r.1 += 1,
                _ => runs.push((rank, 1)),
            }
        }
        job.left = runs.len() as u32;
        let (loc, len) = (job.loc, job.len);
        self.cache.forget(loc, len);
        let (seg, _) = self.geo.place(loc);
        let mut pieces = pieces.into_iter();
        let mut rest: Option<Bytes> = None;
        for (rank, n) in runs {
            let mut want = (n * BLOCK) as usize;
            let mut data = Vec::new();
            while want > 0 {
                let mut p = rest.take().or_else(|| pieces.next()).expect("pieces cover the blocks");
                if p.len() > want {
                    rest = Some(p.split_off(want));
                }
                want -= p.len();
                data.push(p);
            }
            let (_, offset) = self.geo.place(loc + rank);
            let op = DiskOp::Write { file: self.files.segs[seg], offset, data };
            self.submit(Pending::Merge { job: id, seg }, op, fx);
        }
    }

    /// A write of merge `id` has completed.
    pub(crate) fn merge_written(&mut self, id: u64, seg: usize) {
        self.dirty_segs.insert(seg);
        let job = self.jobs.get_mut(&id).expect("a merge lives until its writes end");
        job.left -= 1;
        if job.left > 0 {
            return;
        }
        let job = self.jobs.remove(&id).expect("looked up above");
        self.checkpoint.merging -= 1;
        self.unread.remove(&(job.chunk, job.unit));
        let mut found = self.copies.remove(&job.chunk);
        let current = found.as_ref().is_some_and(|c| match job.moved {
            true => c.moving.get(&job.unit).is_some_and(|m| m.job == id),
            // Its place cannot have been given to anybody else while the checkpoint runs.
            false => c.units.get(&job.unit).is_some_and(|u| u.loc == job.loc),
        });
        match found.as_mut().filter(|_| current) {
            Some(c) => {
                if job.moved {
                    c.moving.remove(&job.unit);
                    let mut u = Unit { loc: job.loc, mask: job.mask, birth: 0, crcs: [0; BLOCKS_PER_UNIT as usize] };
                    for (b, crc) in job.blocks.iter().zip(&job.crcs) {
                        u.crcs[*b as usize] = *crc;
                    }
                    if let Some(old) = c.units.insert(job.unit, u) {
                        self.put_aside(old.loc, old.len());
                    }
                } else if let Some(u) = c.units.get_mut(&job.unit) {
                    for (b, _, crc) in &job.taken {
                        u.crcs[*b as usize] = *crc;
                    }
                }
                for (b, idx, _) in &job.taken {
                    let block = job.unit * BLOCKS_PER_UNIT + b;
                    if c.overlay.get(&block).is_some_and(|o| o.idx == *idx) {
                        self.over.drop(c, block);
                    }
                }
                // Zeros written over blocks that have no place now have nothing to say.
                let mask = c.base(job.unit);
                let idle: Vec<u32> = c
                    .over_unit(job.unit)
                    .filter(|(b, o)| matches!(o.held, Held::Zero) && mask >> b & 1 == 0)
                    .map(|(b, _)| job.unit * BLOCKS_PER_UNIT + b)
                    .collect();
                for b in idle {
                    self.over.drop(c, b);
                }
                self.dirty_parts.insert((job.chunk, part_of(job.unit)));
            }
            None if job.moved => self.put_aside(job.loc, job.len),
            None => {}
        }
        if let Some(c) = found {
            self.copies.insert(job.chunk, c);
        }
    }
}

/// The same blocks, each by itself.
fn each_block(s: Source) -> Vec<Source> {
    match s {
        Source::Disk { loc, count } => (0..count).map(|i| Source::Disk { loc: loc + i, count: 1 }).collect(),
        Source::Journal { pos, count } => {
            let at = |i: u32| pos + u64::from(i) * u64::from(BLOCK);
            (0..count).map(|i| Source::Journal { pos: at(i), count: 1 }).collect()
        }
        other => vec![other],
    }
}
