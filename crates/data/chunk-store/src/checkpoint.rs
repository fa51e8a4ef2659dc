//! Checkpoints: settle, merge, capture, write leaves aside, swing the superblock.
//!
//! The capture takes the state of memory at one moment: everything accepted up to record A. The superblock that makes it
//! count is written only after all records up to A are durable. It names A (`covered`) and where replay begins: at the
//! oldest record whose blocks still stand in the journal only.

use crate::config::Geometry;
use crate::error::StoreError;
use crate::leaf::{self, Key, UNIT_PARTS, UNITS_PER_PART};
use crate::record::{take_ops, with_ops};
use crate::store::{ChunkStore, Effects, Pending, Ticket};
use crate::superblock::{SLOT, Superblock};
use crate::table::Copy;
use host::buffer::AlignedBuf;
use host::disk::DiskOp;
use replica::copy::{CopyState, ServerState};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use types::ChunkId;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Idle,
    /// Records up to the target become durable, older reads end.
    Settle,
    Merge,
    /// Leaves and bitmap are on their way, a flush round covers the data.
    Leaves,
    MapFlush,
    Super,
    SuperFlush,
}

/// A checkpoint in progress.
pub(crate) struct Checkpoint {
    phase: Phase,
    target: u64,
    barrier: u64,
    units: VecDeque<(ChunkId, u32)>,
    pub merging: usize,
    pub left: u32,
    covered: u64,
    /// Oldest record that replay needs.
    oldest: u64,
    round: u64,
    old: Vec<u32>,
    pub dirty_maps: BTreeSet<usize>,
    next: Option<Superblock>,
    tickets: Vec<Ticket>,
    stop: Option<Ticket>,
}
impl Checkpoint {
    /// None is under way.
    pub fn idle(&self) -> bool {
        self.phase == Phase::Idle
    }
    /// A unit is to be merged once more.
    pub fn again(&mut self, unit: (ChunkId, u32)) {
        self.units.push_back(unit);
    }
    pub fn new() -> Checkpoint {
        Checkpoint {
            phase: Phase::Idle,
            target: 0,
            barrier: 0,
            units: VecDeque::new(),
            merging: 0,
            left: 0,
            covered: 0,
            oldest: 0,
            round: 0,
            old: Vec::new(),
            dirty_maps: BTreeSet::new(),
            next: None,
            tickets: Vec::new(),
            stop: None,
        }
    }
}

/// What the leaves keep of a copy besides its units.
#[derive(Serialize, Deserialize)]
pub(crate) struct StateItem {
    pub state: CopyState,
    /// Parts of the unit table that exist; one that is missing at start is damage.
    pub parts: Vec<u16>,
}

pub(crate) fn parts_of(c: &Copy) -> Vec<u16> {
    let mut v: Vec<u16> = Vec::new();
    for u in c.units.keys() {
        let p = leaf::part_of(*u);
        if v.last() != Some(&p) {
            v.push(p);
        }
    }
    v
}

impl ChunkStore {
    /// Moves the checkpoint as far as it goes.
    pub(crate) fn step_checkpoint(&mut self, fx: &mut Effects) {
        loop {
            let before = self.checkpoint.phase;
            match before {
                Phase::Idle => {
                    let asked = !self.checkpoint_tickets.is_empty() || (self.stopping.is_some() && !self.stopped);
                    if !self.checkpoint_wanted && !asked {
                        return;
                    }
                    self.checkpoint_wanted = false;
                    self.checkpoint.tickets = std::mem::take(&mut self.checkpoint_tickets);
                    self.checkpoint.stop = self.stopping;
                    self.checkpoint.target = self.next_idx - 1;
                    self.checkpoint.barrier = self.next_gather;
                    self.durable_wanted = self.durable_wanted.max(self.checkpoint.target);
                    self.checkpoint.phase = Phase::Settle;
                }
                Phase::Settle => {
                    let oldest = self.gathers.keys().next().copied().unwrap_or(self.next_gather);
                    if self.durable < self.checkpoint.target || oldest < self.checkpoint.barrier {
                        return;
                    }
                    let mut units: Vec<_> = self.over.units.iter().map(|u| (self.place_of(*u), *u)).collect();
                    units.sort_unstable();
                    self.checkpoint.units = units.into_iter().map(|u| u.1).collect();
                    self.checkpoint.phase = Phase::Merge;
                }
                Phase::Merge => {
                    while self.checkpoint.merging < self.options.merge_depth.max(1) {
                        let Some((chunk, unit)) = self.checkpoint.units.pop_front() else { break };
                        self.checkpoint.merging += 1;
                        if !self.start_merge(chunk, unit, self.checkpoint.target, fx) {
                            self.checkpoint.merging -= 1;
                        }
                    }
                    if self.checkpoint.merging > 0 || !self.checkpoint.units.is_empty() || self.failed.is_some() {
                        return;
                    }
                    if let Err(e) = self.capture(fx) {
                        self.fail(format!("checkpoint: {e}"), fx);
                        return;
                    }
                    self.checkpoint.phase = Phase::Leaves;
                }
                Phase::Leaves => {
                    let c = &self.checkpoint;
                    let rules = self.options.rules;
                    let merged = self.rounds_done >= c.round || !rules.data_before_leaves;
                    let covered = self.durable >= c.covered || !rules.covered_is_durable;
                    if (c.left > 0 && rules.map_before_super) || !merged || !covered {
                        return;
                    }
                    let dirty = std::mem::take(&mut self.checkpoint.dirty_maps);
                    for n in dirty.into_iter().filter(|_| rules.map_before_super) {
                        let file = self.files.maps[n];
                        self.checkpoint.left += 1;
                        self.submit(Pending::MapFlush, DiskOp::Flush { file }, fx);
                    }
                    self.checkpoint.phase = Phase::MapFlush;
                }
                Phase::MapFlush => {
                    if self.checkpoint.left > 0 {
                        return;
                    }
                    let mut next = self.checkpoint.next.take().expect("made by the capture");
                    next.covered = self.checkpoint.covered;
                    next.replay = self.replay_start(self.checkpoint.oldest);
                    next.scrub = self.scrub;
                    next.clean = self.superblock.clean || self.checkpoint.stop.is_some();
                    self.write_super(next, fx);
                    self.checkpoint.phase = Phase::Super;
                }
                Phase::Super => {
                    if self.checkpoint.left > 0 {
                        return;
                    }
                    self.checkpoint.left += 1;
                    self.submit(Pending::SuperFlush, DiskOp::Flush { file: self.files.superblock }, fx);
                    self.checkpoint.phase = Phase::SuperFlush;
                }
                Phase::SuperFlush => {
                    if self.checkpoint.left > 0 {
                        return;
                    }
                    self.committed(fx);
                    self.checkpoint.phase = Phase::Idle;
                }
            }
            self.step_rounds(fx);
        }
    }

    fn place_of(&self, (chunk, unit): (ChunkId, u32)) -> u32 {
        let Some(c) = self.copies.get(&chunk) else { return 0 };
        match c.reserved.get(&unit) {
            Some(r) => r.0,
            None => c.units.get(&unit).map_or(0, |u| u.loc),
        }
    }

    fn replay_start(&self, oldest: u64) -> journal::Start {
        let i = self.batches.partition_point(|b| b.first <= oldest);
        let found = i.checked_sub(1).map(|i| &self.batches[i]);
        // Before this life's first batch stand, at most, blocks that a start could not merge.
        let life = |pos: u64| if pos < self.born { self.superblock.replay.life } else { self.superblock.life };
        match found.filter(|b| oldest < b.first + b.payloads.len() as u64) {
            Some(b) => journal::Start { pos: b.pos, seq: b.seq, record: oldest, life: life(b.pos) },
            None => {
                journal::Start { pos: self.space.head, seq: self.next_seq, record: oldest, life: life(self.space.head) }
            }
        }
    }

    /// Takes the state of memory and starts to write it aside.
    fn capture(&mut self, fx: &mut Effects) -> Result<(), StoreError> {
        self.checkpoint.covered = self.next_idx - 1;
        self.checkpoint.oldest = self.over.oldest().unwrap_or(self.next_idx);
        self.durable_wanted = self.durable_wanted.max(self.checkpoint.covered);
        // Merged data is covered by a round that starts from now on.
        self.checkpoint.round = self.rounds_started + 1;
        self.round_forced = true;
        self.committing.append(&mut self.quarantine);

        let mut dirty = std::mem::take(&mut self.dirty_parts);
        let mut states = std::mem::take(&mut self.dirty_states);
        states.extend(dirty.iter().map(|k| k.0));
        let mut encoded: BTreeMap<ChunkId, Vec<Vec<u8>>> = BTreeMap::new();
        for chunk in states {
            let all = if chunk.is_some() && !self.copies.contains_key(&chunk) { u16::MAX } else { UNIT_PARTS - 1 };
            dirty.extend(self.leaves.keys(chunk, 0..=all));
            let v = encode_state(&self.copies, &self.server, chunk);
            dirty.extend((0..v.len() as u16).map(|i| (chunk, i)));
            encoded.insert(chunk, v);
        }
        let (copies, server) = (&self.copies, &self.server);
        let turn = self.leaves.turn(dirty, self.options.rules.live_leaf_kept, |key: Key| {
            if key.1 < UNIT_PARTS {
                let v = encoded.entry(key.0).or_insert_with(|| encode_state(copies, server, key.0));
                return v.get(usize::from(key.1)).cloned();
            }
            let s = u32::from(key.1 - UNIT_PARTS) * UNITS_PER_PART;
            let c = copies.get(&key.0)?;
            Some(leaf::encode_units(c.units.range(s..s + UNITS_PER_PART).map(|(n, u)| (*n, u))))
        })?;
        let generation = self.superblock.generation + 1;
        for (number, items) in turn.write {
            let (n, offset) = self.geo.leaf_at(number);
            let data = vec![leaf::encode(number, generation, &items).freeze()];
            self.write_map(n, offset, data, fx);
        }
        let segments = self.files.segs.len() as u32;
        let bitmap = self.leaves.bitmap(self.geo.bitmap_used(segments));
        let aside = self.options.rules.bitmap_aside;
        let slot = if aside { 1 - self.superblock.bitmap_slot } else { self.superblock.bitmap_slot };
        let next = Superblock {
            generation,
            segments,
            bitmap_slot: slot,
            bitmap_len: bitmap.len() as u32,
            bitmap_crc: checksum::crc32c(&bitmap),
            ..self.superblock
        };
        self.write_map(0, self.geo.bitmap_at(slot), vec![bitmap.freeze()], fx);
        self.checkpoint.next = Some(next);
        self.checkpoint.old = turn.old;
        if !self.options.rules.journal_kept_for_super {
            self.space.tail = self.space.tail.max(self.replay_start(self.checkpoint.oldest).pos);
        }
        Ok(())
    }

    fn write_map(&mut self, n: usize, offset: u64, data: Vec<bytes::Bytes>, fx: &mut Effects) {
        self.checkpoint.left += 1;
        self.checkpoint.dirty_maps.insert(n);
        self.submit(Pending::Leaf, DiskOp::Write { file: self.files.maps[n], offset, data }, fx);
    }
    fn write_super(&mut self, next: Superblock, fx: &mut Effects) {
        self.checkpoint.left += 1;
        let data = vec![AlignedBuf::from_slice(&next.encode()).freeze()];
        let op = DiskOp::Write { file: self.files.superblock, offset: super_at(next.generation), data };
        self.submit(Pending::Super, op, fx);
        self.checkpoint.next = Some(next);
    }

    fn committed(&mut self, fx: &mut Effects) {
        self.superblock = self.checkpoint.next.take().expect("written before");
        let old = std::mem::take(&mut self.checkpoint.old);
        self.leaves.settle(old);
        let runs = std::mem::take(&mut self.committing);
        self.limbo.push_back((self.next_gather, runs, self.superblock.replay.pos));
        self.settle_limbo();
        if matches!(self.growth, crate::store::Growth::Blocked) {
            self.growth = crate::store::Growth::Idle;
        }
        for t in std::mem::take(&mut self.checkpoint.tickets) {
            self.answer(t, fx);
        }
        if let Some(t) = self.checkpoint.stop.take() {
            self.stopped = true;
            self.stopping = None;
            self.answer(t, fx);
        }
    }
}

/// Offset of the slot for `generation`.
pub(crate) fn super_at(generation: u64) -> u64 {
    generation % 2 * SLOT as u64
}

pub(crate) fn encode_state(copies: &BTreeMap<ChunkId, Copy>, server: &ServerState, chunk: ChunkId) -> Vec<Vec<u8>> {
    const WHY: &str = "states hold only what postcard can write";
    if !chunk.is_some() {
        return leaf::fragments(&postcard::to_allocvec(server).expect(WHY));
    }
    let Some(c) = copies.get(&chunk) else { return Vec::new() };
    let item = StateItem { state: c.state.clone(), parts: parts_of(c) };
    leaf::fragments(&with_ops(postcard::to_allocvec(&item).expect(WHY), &c.state))
}

/// What [`encode_state`] has written of a copy; None = it is damaged.
pub(crate) fn decode_state(bytes: &[u8]) -> Option<StateItem> {
    let (mut item, rest) = postcard::take_from_bytes::<StateItem>(bytes).ok()?;
    item.state.ops = take_ops(rest)?;
    Some(item)
}

/// Leaves of all map files together.
pub(crate) fn leaf_count(geo: &Geometry, segments: u32) -> u32 {
    geo.leaves() * segments
}
