//! Looking for damage while the store runs, and putting right what was found: blocks are read from where they stand, past
//! every cache, and compared with the checksums in memory.
//!
//! A block counts as damaged only if its place and checksum are the same after the read as before it: merges and writes go
//! on meanwhile. What replaces it enters as a record like any other, and the unit moves to another place with its next
//! merge, because the place it stood at is not to be trusted.

use crate::Extent;
use crate::error::StoreError;
use crate::read::{Purpose, Source};
use crate::store::{ChunkStore, Done, Effects, Ticket};
use crate::superblock::ScrubMark;
use crate::table::{Copy, Held};
use bytes::Bytes;
use types::{BLOCK, BLOCKS_PER_UNIT, ChunkId};

/// A block that does not hold what its checksum says.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct BadBlock {
    /// Number of the block within the chunk.
    pub block: u32,
    /// CRC32C of what should stand there.
    pub crc: u32,
    /// The disk did not give it at all.
    pub unreadable: bool,
}

/// Stored blocks that lie together in the order of an inspection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stretch {
    /// Which chunk.
    pub chunk: ChunkId,
    /// First unit (64 KiB) of the chunk.
    pub unit: u32,
    /// Units.
    pub units: u32,
    /// Blocks of the data area in them.
    pub blocks: u32,
}

/// Where a block was looked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    Data(u32),
    /// Block `nth` of record `idx`; `kept` = memory has it too.
    Journal {
        idx: u64,
        nth: u32,
        kept: bool,
    },
}
struct Look {
    block: u32,
    crc: u32,
    at: At,
}
/// What an inspection compares.
pub(crate) struct Inspection {
    ticket: Ticket,
    chunk: ChunkId,
    looks: Vec<Look>,
    /// First look of each read.
    starts: Vec<usize>,
}
impl Inspection {
    pub fn ticket(&self) -> Ticket {
        self.ticket
    }
}

impl ChunkStore {
    /// The next stored units at or behind `unit` of `chunk`, at most `most`, all of one chunk and without gaps. None = the
    /// end.
    pub fn next_stored(&self, chunk: ChunkId, unit: u32, most: u32) -> Option<Stretch> {
        let mut from = unit;
        for (id, c) in self.copies.range(chunk..) {
            let start = if *id == chunk { std::mem::take(&mut from) } else { 0 };
            let next = |u: u32| {
                let a = c.units.range(u..).next().map(|x| x.0);
                let b = c.overlay.range(u.saturating_mul(BLOCKS_PER_UNIT)..).next().map(|x| x.0 / BLOCKS_PER_UNIT);
                match (a, b) {
                    (Some(a), Some(b)) => Some((*a).min(b)),
                    (a, b) => a.copied().or(b),
                }
            };
            let Some(first) = next(start) else { continue };
            let mut units = 1;
            while units < most.max(1) && next(first + units) == Some(first + units) {
                units += 1;
            }
            let blocks = c.units.range(first..first + units).map(|(_, u)| u.len()).sum();
            return Some(Stretch { chunk: *id, unit: first, units, blocks });
        }
        None
    }

    /// Reads what stands on the disk of `units` units of `chunk` from `unit` on, and compares. Done: [`Done::Inspected`].
    /// With `each` every block is read by itself, so that one that cannot be read says nothing about its neighbours.
    /// Blocks whose journal copy is damaged while memory has them are written again by a checkpoint, which this starts.
    /// Errors: NoCopy, Stopped, Failed.
    pub fn examine(
        &mut self,
        ticket: Ticket,
        chunk: ChunkId,
        unit: u32,
        units: u32,
        each: bool,
        fx: &mut Effects,
    ) -> Result<(), StoreError> {
        self.usable()?;
        let copy = self.copies.get(&chunk).ok_or(StoreError::NoCopy(chunk))?;
        let mut looks = Vec::new();
        for u in unit..unit.saturating_add(units) {
            self.looks(copy, u, &mut looks);
        }
        let (mut sources, mut starts): (Vec<Source>, Vec<usize>) = (Vec::new(), Vec::new());
        for (i, l) in looks.iter().enumerate() {
            let s = match l.at {
                At::Data(loc) => Source::Disk { loc, count: 1 },
                At::Journal { idx, nth, .. } => {
                    let pos = self.journal_pos(idx, nth).expect("looked up when the look was planned");
                    Source::Journal { pos, count: 1 }
                }
            };
            if each || !sources.last_mut().is_some_and(|last| self.joins(last, &s)) {
                sources.push(s);
                starts.push(i);
            }
        }
        self.gather(sources, Purpose::Inspect(Inspection { ticket, chunk, looks, starts }), fx);
        Ok(())
    }

    /// What of a unit stands on the disk, block by block.
    fn looks(&self, c: &Copy, unit: u32, out: &mut Vec<Look>) {
        let u = c.units.get(&unit);
        for b in 0..BLOCKS_PER_UNIT {
            let block = unit * BLOCKS_PER_UNIT + b;
            match (c.overlay.get(&block), u.and_then(|u| u.at(b).map(|loc| (loc, u.crcs[b as usize])))) {
                (Some(o), _) => {
                    if let Held::Data { crc, nth, mem } = &o.held
                        && o.idx <= self.journaled
                        && self.journal_pos(o.idx, *nth).is_some()
                    {
                        let at = At::Journal { idx: o.idx, nth: *nth, kept: mem.is_some() };
                        out.push(Look { block, crc: *crc, at });
                    }
                }
                (None, Some((loc, crc))) if !c.flying.contains_key(&unit) => {
                    out.push(Look { block, crc, at: At::Data(loc) });
                }
                _ => {}
            }
        }
    }

    /// The reads of an inspection have ended.
    pub(crate) fn inspected(&mut self, i: Inspection, pieces: Vec<Option<Bytes>>, fx: &mut Effects) {
        let mut bad = Vec::new();
        let mut from_memory = 0;
        let blocks = i.looks.len() as u32;
        for (s, piece) in pieces.iter().enumerate() {
            let end = i.starts.get(s + 1).copied().unwrap_or(i.looks.len());
            for (k, l) in i.looks[i.starts[s]..end].iter().enumerate() {
                let at = k * BLOCK as usize;
                let found = piece.as_ref().and_then(|p| p.get(at..at + BLOCK as usize));
                if found.is_some_and(|f| checksum::crc32c(f) == l.crc) || !self.stands(i.chunk, l) {
                    continue;
                }
                match l.at {
                    At::Journal { kept: true, .. } => from_memory += 1,
                    _ => bad.push(BadBlock { block: l.block, crc: l.crc, unreadable: found.is_none() }),
                }
            }
        }
        self.checkpoint_wanted |= from_memory > 0;
        bad.sort_unstable();
        fx.done.push((i.ticket, Done::Inspected { blocks, bad, from_memory }));
    }
    /// Is it still so that this very content should stand there?
    fn stands(&self, chunk: ChunkId, l: &Look) -> bool {
        let Some(c) = self.copies.get(&chunk) else { return false };
        let (unit, b) = (l.block / BLOCKS_PER_UNIT, l.block % BLOCKS_PER_UNIT);
        match (l.at, c.overlay.get(&l.block)) {
            (At::Journal { idx, .. }, Some(o)) => o.idx == idx,
            (At::Data(loc), None) => {
                let same = |u: &crate::table::Unit| u.at(b) == Some(loc) && u.crcs[b as usize] == l.crc;
                c.units.get(&unit).is_some_and(same) && !c.flying.contains_key(&unit)
            }
            _ => false,
        }
    }

    /// The checksum of what should stand in `block` of `chunk`; None where nothing is stored.
    pub fn stored_crc(&self, chunk: ChunkId, block: u32) -> Option<u32> {
        let c = self.copies.get(&chunk)?;
        match c.overlay.get(&block).map(|o| &o.held) {
            Some(Held::Data { crc, .. }) => Some(*crc),
            Some(Held::Zero | Held::Bad) => None,
            None => {
                let (unit, b) = (block / BLOCKS_PER_UNIT, block % BLOCKS_PER_UNIT);
                c.units.get(&unit).filter(|u| u.mask >> b & 1 == 1).map(|u| u.crcs[b as usize])
            }
        }
    }

    /// Every block of `chunk` that holds anything but zeros, ascending, with its checksum.
    pub fn blocks(&self, chunk: ChunkId) -> Vec<(u32, u32)> {
        let mut out = Vec::new();
        let Some(c) = self.copies.get(&chunk) else { return out };
        let mut over = c.overlay.iter().peekable();
        let mut push = |block: u32, crc: u32| {
            if crc != self.zero_crc {
                out.push((block, crc));
            }
        };
        let mut covered = |end: u32, push: &mut dyn FnMut(u32, u32), mask: &mut u16| {
            while let Some((b, o)) = over.next_if(|(b, _)| **b < end) {
                if end - *b <= BLOCKS_PER_UNIT {
                    *mask &= !(1 << (b % BLOCKS_PER_UNIT));
                }
                if let Held::Data { crc, .. } = &o.held {
                    push(*b, *crc);
                }
            }
        };
        for (n, u) in &c.units {
            covered(n * BLOCKS_PER_UNIT, &mut push, &mut 0);
            let mut mask = u.mask;
            covered((n + 1) * BLOCKS_PER_UNIT, &mut push, &mut mask);
            for b in (0..BLOCKS_PER_UNIT).filter(|b| mask >> b & 1 == 1) {
                push(n * BLOCKS_PER_UNIT + b, u.crcs[b as usize]);
            }
        }
        covered(u32::MAX, &mut push, &mut 0);
        out.sort_unstable();
        out
    }

    /// Puts content back: (block, its bytes), ascending. A block is taken only while the checksum stored for it is that of
    /// the bytes, so whatever was written meanwhile stays. With `fresh` the units move to another place with the next
    /// merge. Done as [`Self::patch`]; Ok(0) = nothing was to be done, and there will be no answer. Errors as
    /// [`Self::patch`].
    pub fn mend(
        &mut self,
        ticket: Ticket,
        chunk: ChunkId,
        blocks: &[(u32, Bytes)],
        fresh: bool,
        fx: &mut Effects,
    ) -> Result<usize, StoreError> {
        self.usable()?;
        let fits = |(block, data): &&(u32, Bytes)| {
            data.len() == BLOCK as usize && self.stored_crc(chunk, *block) == Some(checksum::crc32c(data))
        };
        let extents: Vec<Extent> = blocks
            .iter()
            .filter(fits)
            .map(|(block, data)| Extent {
                offset: block * BLOCK,
                length: BLOCK,
                crcs: vec![checksum::crc32c(data)],
                payload: Some(data.clone()),
            })
            .collect();
        let n = extents.len();
        if n == 0 {
            return Ok(0);
        }
        let units: Vec<u32> = extents.iter().map(|e| e.offset / types::UNIT).collect();
        self.patch(ticket, chunk, None, extents, false, fx)?;
        if fresh {
            self.moved_away.extend(units.into_iter().map(|u| (chunk, u)));
        }
        Ok(n)
    }

    /// How far the inspection of this disk has come, as the last start or [`Self::mark_scrub`] left it.
    pub fn scrub_mark(&self) -> ScrubMark {
        self.scrub
    }
    /// Notes it; the next checkpoint makes it durable. A mark that is lost costs only looking again.
    pub fn mark_scrub(&mut self, mark: ScrubMark) {
        self.scrub = mark;
    }
    /// Has everything accepted so far been merged and committed?
    pub fn settled(&self) -> bool {
        self.over.blocks() == 0 && self.checkpoint.idle() && self.dirty_parts.is_empty()
    }
}
