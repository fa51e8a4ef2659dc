//! The store itself: what it holds, how completions are routed.

use crate::alloc::Alloc;
use crate::cache::Cache;
use crate::checkpoint::Checkpoint;
use crate::config::{Geometry, OpenOptions};
use crate::error::StoreError;
use crate::inspect::BadBlock;
use crate::leaf::{Key, Leaves};
use crate::merge::Job;
use crate::read::Gather;
use crate::structure::Structure;
use crate::superblock::{ScrubMark, Superblock};
use crate::table::{Copy, OverIndex};
use bytes::Bytes;
use host::disk::{DiskDone, DiskOp, FileId, Tag};
use journal::{RecordHead, SharedLog, Space};
use replica::copy::{CopyState, ServerState};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use types::ChunkId;
use wire::CopyReq;

/// Names a request; chosen by the caller, who sees it again in [`Effects::done`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ticket(pub u64);

/// How a request ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Done {
    /// It holds what it promises.
    Ok,
    /// What was read.
    Read {
        /// The bytes, at an aligned address.
        data: Bytes,
        /// CRC32C of each block, as stored (of a block of zeros where there is a hole).
        crcs: Vec<u32>,
    },
    /// What an inspection of blocks found.
    Inspected {
        /// Blocks looked at.
        blocks: u32,
        /// Those that are not what they should be, ascending.
        bad: Vec<BadBlock>,
        /// Blocks damaged in the journal that memory has: a checkpoint writes them again.
        from_memory: u32,
    },
    /// What a check of structures found.
    Structures {
        /// What is wrong, in words; a checkpoint writes it again from memory.
        bad: Vec<String>,
        /// Where the next check goes on; None = that was all.
        next: Option<Structure>,
        /// The structures changed meanwhile: the same is to be asked again.
        again: bool,
    },
    /// It did not succeed.
    Failed(StoreError),
}

/// What a call asks for and what it finished.
#[derive(Default, Debug)]
pub struct Effects {
    /// Operations for the disk, to be started in any order.
    pub ops: Vec<(Tag, DiskOp)>,
    /// Requests that ended.
    pub done: Vec<(Ticket, Done)>,
    /// Units (64 KiB) in which the disk did not give a block, met in passing: worth an inspection.
    pub doubts: Vec<(ChunkId, u32)>,
}

/// Sizes and fill, by the store's own count.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// Blocks of data segments that exist.
    pub capacity_blocks: u64,
    /// Blocks in use: data, reservations, and space waiting for a checkpoint.
    pub allocated_blocks: u64,
    /// Free blocks.
    pub free_blocks: u64,
    /// Of the allocated blocks: those that the next checkpoint gives back.
    pub quarantined_blocks: u64,
    /// Blocks that segments may still add; None = as much as the disk has.
    pub growable_blocks: Option<u64>,
    /// Bytes of the journal in use or promised.
    pub journal_used: u64,
    /// Bytes of the journal.
    pub journal_size: u64,
    /// Blocks that stand in the journal only.
    pub journal_blocks: u64,
}

/// Files of the folder.
pub(crate) struct Files {
    pub superblock: FileId,
    pub journal: FileId,
    pub maps: Vec<FileId>,
    pub segs: Vec<FileId>,
}

/// A record on its way to the journal.
pub(crate) struct Rec {
    pub idx: u64,
    pub head: RecordHead,
    pub payload: Vec<Bytes>,
    /// Journal bytes promised to it.
    pub cost: u64,
}
/// A batch that stands, or is being written, in the journal.
pub(crate) struct BatchInfo {
    pub pos: u64,
    pub seq: u64,
    pub first: u64,
    /// Position of each record's payload.
    pub payloads: Vec<u64>,
    /// Writes outstanding.
    pub left: u32,
}

/// What an operation in flight belongs to.
pub(crate) enum Pending {
    Journal {
        seq: u64,
    },
    Data {
        chunk: ChunkId,
        idx: u64,
        seg: usize,
        units: Vec<u32>,
    },
    Flush,
    Read {
        gather: u64,
        slot: usize,
    },
    Merge {
        job: u64,
        seg: usize,
    },
    Leaf,
    MapFlush,
    Super,
    SuperFlush,
    Create {
        map: bool,
    },
    Header,
    /// Something that never changes, written again.
    Rewrite,
}

/// Growth of the data area.
pub(crate) enum Growth {
    Idle,
    Map,
    Segment(FileId),
    Headers {
        map: FileId,
        seg: FileId,
        left: u32,
    },
    /// The disk was full; tried again after the next checkpoint.
    Blocked,
}

/// All copies of one disk. See the crate's description.
pub struct ChunkStore {
    pub(crate) options: OpenOptions,
    pub(crate) geo: Geometry,
    pub(crate) superblock: Superblock,
    pub(crate) files: Files,
    pub(crate) copies: BTreeMap<ChunkId, Copy>,
    pub(crate) server: ServerState,
    pub(crate) alloc: Alloc,
    pub(crate) leaves: Leaves,
    pub(crate) over: OverIndex,
    pub(crate) cache: Cache,
    pub(crate) zeros: Bytes,
    pub(crate) zero_crc: u32,

    // Journal.
    pub(crate) ring: Option<SharedLog>,
    pub(crate) space: Space,
    pub(crate) next_seq: u64,
    /// Where this life's first batch goes.
    pub(crate) born: u64,
    pub(crate) next_idx: u64,
    pub(crate) batches: VecDeque<BatchInfo>,
    pub(crate) queue: VecDeque<Rec>,
    pub(crate) promised: u64,
    pub(crate) writing: usize,
    /// Every record up to here has its journal write completed.
    pub(crate) journaled: u64,
    /// Whole units in flight: writes left per (chunk, record), and the records.
    pub(crate) flight: BTreeMap<(ChunkId, u64), u32>,
    pub(crate) flight_idx: BTreeSet<u64>,

    // Durability and answers.
    pub(crate) durable: u64,
    /// Most that a batch may claim as durable: while a start recovers, records that it cut are not.
    pub(crate) claim: u64,
    pub(crate) dirty_segs: BTreeSet<usize>,
    pub(crate) round_left: u32,
    pub(crate) round_target: u64,
    pub(crate) rounds_started: u64,
    pub(crate) rounds_done: u64,
    pub(crate) round_forced: bool,
    pub(crate) durable_wanted: u64,
    pub(crate) hard: BTreeMap<(u64, Ticket), ()>,
    pub(crate) soft: BTreeMap<(ChunkId, u64), Ticket>,
    pub(crate) lagging: VecDeque<(u64, ChunkId)>,

    // Reads and merges.
    pub(crate) gathers: BTreeMap<u64, Gather>,
    pub(crate) next_gather: u64,
    pub(crate) jobs: BTreeMap<u64, Job>,
    pub(crate) next_job: u64,

    // Checkpoints.
    pub(crate) dirty_states: BTreeSet<ChunkId>,
    pub(crate) dirty_parts: BTreeSet<Key>,
    pub(crate) checkpoint: Checkpoint,
    pub(crate) checkpoint_wanted: bool,
    pub(crate) checkpoint_tickets: Vec<Ticket>,
    pub(crate) stopping: Option<Ticket>,
    pub(crate) stopped: bool,
    /// Freed since the last capture, and freed before it: (location, blocks).
    pub(crate) quarantine: Vec<(u32, u32)>,
    pub(crate) committing: Vec<(u32, u32)>,
    pub(crate) quarantined: u64,
    /// A write of a whole unit found no room for it in one piece and went through the journal.
    pub(crate) starved: bool,
    /// Committed, but reads that started before gather n may still look: (n, runs, journal tail).
    pub(crate) limbo: VecDeque<(u64, Vec<(u32, u32)>, u64)>,
    pub(crate) growth: Growth,
    /// The map file of a segment for which the disk had no room any more: there for the next attempt.
    pub(crate) spare_map: Option<FileId>,
    /// Units whose place is not to be trusted: their next merge moves them.
    pub(crate) moved_away: BTreeSet<(ChunkId, u32)>,
    /// Units whose merge met a block that could not be read.
    pub(crate) unread: BTreeSet<(ChunkId, u32)>,
    pub(crate) scrub: ScrubMark,

    pub(crate) pending: BTreeMap<u64, Pending>,
    pub(crate) next_tag: u64,
    pub(crate) failed: Option<String>,
}

impl ChunkStore {
    /// State of the copy of `chunk`.
    pub fn copy(&self, chunk: ChunkId) -> Option<&CopyState> {
        self.copies.get(&chunk).map(|c| &c.state)
    }
    /// All copies in order of their chunks.
    pub fn copies(&self) -> impl Iterator<Item = &CopyState> {
        self.copies.values().map(|c| &c.state)
    }
    /// States of the copies of chunks behind this one, in order.
    pub fn copies_behind(&self, chunk: ChunkId) -> impl Iterator<Item = &CopyState> {
        let behind = (std::ops::Bound::Excluded(chunk), std::ops::Bound::Unbounded);
        self.copies.range(behind).map(|(_, c)| &c.state)
    }
    /// State of the server.
    pub fn server(&self) -> &ServerState {
        &self.server
    }
    /// Fill and sizes.
    pub fn usage(&self) -> Usage {
        let segs = self.files.segs.len() as u64;
        let capacity = segs * u64::from(self.geo.data_blocks());
        let more = u64::from(self.geo.max_segments) - segs;
        Usage {
            capacity_blocks: capacity,
            allocated_blocks: capacity - self.alloc.free(),
            free_blocks: self.alloc.free(),
            quarantined_blocks: self.quarantined,
            growable_blocks: (self.geo.max_segments < 4096).then(|| more * u64::from(self.geo.data_blocks())),
            journal_used: self.space.used() + self.promised,
            journal_size: self.space.size,
            journal_blocks: self.over.blocks(),
        }
    }
    /// The journal is three quarters full: hold writes back, else they will be refused with [`StoreError::Busy`].
    pub fn busy(&self) -> bool {
        (self.space.used() + self.promised) * 4 > self.space.size * 3
    }
    /// Why the store takes no more requests, if so.
    pub fn failed(&self) -> Option<&str> {
        self.failed.as_deref()
    }
    /// Operations in flight.
    pub fn in_flight(&self) -> usize {
        self.pending.len()
    }

    pub(crate) fn usable(&self) -> Result<(), StoreError> {
        if let Some(r) = &self.failed {
            return Err(StoreError::Failed(r.clone()));
        }
        if self.stopping.is_some() || self.stopped {
            return Err(StoreError::Stopped);
        }
        Ok(())
    }

    /// Takes over what a request says about its copy's view, `stable` and `flushed`. Kept in memory, stored with the copy's
    /// next checkpoint; losing it is safe because all of them only lag, and together.
    pub fn learn(&mut self, req: &CopyReq) {
        let Some(c) = self.copies.get_mut(&req.chunk) else { return };
        let s = &mut c.state;
        let before = (s.stable, s.flushed, s.ver, s.full, s.missed.is_some());
        s.hear_view(req.ver, req.short);
        s.learn(req.stable, req.flushed);
        if before != (s.stable, s.flushed, s.ver, s.full, s.missed.is_some()) {
            self.dirty_states.insert(req.chunk);
        }
    }

    pub(crate) fn submit(&mut self, p: Pending, op: DiskOp, fx: &mut Effects) {
        let tag = self.next_tag;
        self.next_tag += 1;
        self.pending.insert(tag, p);
        fx.ops.push((Tag(tag), op));
    }

    /// The operation `tag` has ended. Tags that this store did not give out are ignored.
    pub fn complete(&mut self, tag: Tag, done: DiskDone, fx: &mut Effects) {
        let Some(p) = self.pending.remove(&tag.0) else { return };
        match (p, done) {
            (Pending::Read { gather, slot }, DiskDone::Data(b)) => self.gather_part(gather, slot, Ok(b), fx),
            (Pending::Read { gather, slot }, DiskDone::Failed(e)) => self.gather_part(gather, slot, Err(e), fx),
            (Pending::Create { map }, DiskDone::Created(id)) => self.created(map, id, fx),
            (Pending::Create { .. }, DiskDone::Failed(e)) => match e.kind {
                host::disk::DiskErrorKind::Full => {
                    if let Growth::Segment(map) = std::mem::replace(&mut self.growth, Growth::Blocked) {
                        self.spare_map = Some(map);
                    }
                }
                _ => self.fail(format!("{e}"), fx),
            },
            (_, DiskDone::Failed(e)) => self.fail(format!("{e}"), fx),
            (_, DiskDone::Data(_) | DiskDone::Created(_)) | (Pending::Read { .. } | Pending::Create { .. }, _) => {
                self.fail("the disk answered another question than asked".into(), fx)
            }
            (Pending::Journal { seq }, DiskDone::Ok) => self.journal_written(seq, fx),
            (Pending::Data { chunk, idx, seg, units }, DiskDone::Ok) => self.data_written(chunk, idx, seg, units, fx),
            (Pending::Flush, DiskDone::Ok) => self.flushed_one(fx),
            (Pending::Merge { job, seg }, DiskDone::Ok) => self.merge_written(job, seg),
            (Pending::Leaf | Pending::MapFlush | Pending::Super | Pending::SuperFlush, DiskDone::Ok) => {
                self.checkpoint.left -= 1
            }
            (Pending::Header, DiskDone::Ok) => self.header_written(),
            (Pending::Rewrite, DiskDone::Ok) => {}
        }
        self.pump(fx);
    }

    /// Background work: checkpoint when the journal is more than half full, growth of the data area. Called when the
    /// caller has time; completions drive the rest.
    pub fn idle(&mut self, fx: &mut Effects) {
        self.pump(fx);
    }

    /// Everything that can move, moves.
    pub(crate) fn pump(&mut self, fx: &mut Effects) {
        if self.failed.is_some() {
            return;
        }
        self.form_batches(fx);
        self.settle_limbo();
        if (self.space.used() + self.promised) * 2 > self.space.size {
            self.checkpoint_wanted = true;
        }
        self.reclaim();
        self.step_checkpoint(fx);
        self.step_rounds(fx);
        self.grow(fx);
    }

    /// Final: nothing is answered with success any more.
    pub(crate) fn fail(&mut self, reason: String, fx: &mut Effects) {
        if self.failed.is_some() {
            return;
        }
        let failed = Done::Failed(StoreError::Failed(reason.clone()));
        self.failed = Some(reason);
        let mut tickets: Vec<Ticket> = std::mem::take(&mut self.hard).into_keys().map(|k| k.1).collect();
        tickets.extend(std::mem::take(&mut self.soft).into_values());
        tickets.append(&mut self.checkpoint_tickets);
        tickets.extend(self.stopping);
        tickets.extend(std::mem::take(&mut self.gathers).into_values().filter_map(|g| g.ticket()));
        fx.done.extend(tickets.into_iter().map(|t| (t, failed.clone())));
    }

    /// Space that was given up comes back with a checkpoint. Once it is more than what is left, it is time for one: the data
    /// area would grow with every overwrite otherwise.
    fn reclaim(&mut self) {
        let worth = u64::from(self.geo.segment_blocks) / 4;
        if self.quarantined >= self.alloc.free().max(worth) && self.checkpoint.idle() {
            self.checkpoint_wanted = true;
        }
    }

    fn grow(&mut self, fx: &mut Effects) {
        let n = self.files.segs.len() as u32;
        // What comes back soon counts, unless writes had to do without it: then there is more given up between two
        // checkpoints than there is room for.
        let coming = if self.starved { 0 } else { self.quarantined };
        let low = self.alloc.free() + coming < u64::from(self.geo.segment_blocks) / 2;
        if matches!(self.growth, Growth::Idle) && low && n < self.geo.max_segments && !self.stopped {
            self.starved = false;
            self.growth = Growth::Map;
            if let Some(map) = self.spare_map.take() {
                return self.created(true, map, fx);
            }
            let op = DiskOp::Create { name: crate::config::map_name(n), size: self.geo.map_bytes(n) };
            self.submit(Pending::Create { map: true }, op, fx);
        }
    }
    fn created(&mut self, is_map: bool, id: FileId, fx: &mut Effects) {
        use crate::superblock::{FileKind, file_header};
        let n = self.files.segs.len() as u32;
        let (cluster, cs) = (self.superblock.cluster, self.superblock.cs);
        if is_map {
            self.growth = Growth::Segment(id);
            let op = DiskOp::Create { name: crate::config::segment_name(n), size: self.geo.segment_bytes() };
            self.submit(Pending::Create { map: false }, op, fx);
        } else if let Growth::Segment(map) = self.growth {
            self.growth = Growth::Headers { map, seg: id, left: 2 };
            for (file, kind) in [(map, FileKind::Map), (id, FileKind::Segment)] {
                let b = host::buffer::AlignedBuf::from_slice(&file_header(kind, n, cluster, cs)).freeze();
                self.submit(Pending::Header, DiskOp::Write { file, offset: 0, data: vec![b] }, fx);
            }
        }
    }
    fn header_written(&mut self) {
        if let Growth::Headers { map, seg, left } = &mut self.growth {
            *left -= 1;
            if *left == 0 {
                let (map, seg) = (*map, *seg);
                self.adopt(map, seg);
                self.growth = Growth::Idle;
            }
        }
    }
    /// Takes a segment and its map file into use.
    pub(crate) fn adopt(&mut self, map: FileId, seg: FileId) {
        let n = self.files.segs.len() as u32;
        self.files.maps.push(map);
        self.files.segs.push(seg);
        self.leaves.grow(n * self.geo.leaves()..(n + 1) * self.geo.leaves());
        self.alloc.give(n * self.geo.segment_blocks + 1, self.geo.data_blocks());
        // So that the headers are flushed with the next round and checkpoint.
        self.dirty_segs.insert(n as usize);
        self.checkpoint.dirty_maps.insert(n as usize);
    }

    /// Puts space aside until no committed leaf names it.
    pub(crate) fn put_aside(&mut self, loc: u32, len: u32) {
        if !self.options.rules.named_space_kept {
            self.cache.forget(loc, len);
            return self.alloc.give(loc, len);
        }
        self.quarantine.push((loc, len));
        self.quarantined += u64::from(len);
        self.cache.forget(loc, len);
    }
    /// Gives back what no read in flight can still look at.
    pub(crate) fn settle_limbo(&mut self) {
        let oldest = self.gathers.keys().next().copied().unwrap_or(self.next_gather);
        while self.limbo.front().is_some_and(|l| l.0 <= oldest) {
            let (_, runs, tail) = self.limbo.pop_front().expect("front was looked at");
            for (loc, len) in runs {
                self.quarantined -= u64::from(len);
                self.alloc.give(loc, len);
            }
            self.space.tail = self.space.tail.max(tail);
            while self.batches.front().is_some_and(|b| b.pos < tail) {
                self.batches.pop_front();
            }
        }
    }
    /// Position in the ring of inline block `nth` of record `idx`, once it is in a batch.
    pub(crate) fn journal_pos(&self, idx: u64, nth: u32) -> Option<u64> {
        let i = self.batches.partition_point(|b| b.first <= idx).checked_sub(1)?;
        let b = &self.batches[i];
        let p = b.payloads.get((idx - b.first) as usize)?;
        Some(p + u64::from(nth) * u64::from(types::BLOCK))
    }
}
