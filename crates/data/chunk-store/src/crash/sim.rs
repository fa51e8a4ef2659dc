//! One run: a store, its disk and ring, operations that complete in random order, images.

use super::model::{BLOCKS, Model, Version, fill, key_of};
use super::workloads::Workload;
use super::{DyingFolder, Report, Rng};
use crate::rules::StoreRules;
use crate::{
    ChunkStore, Done, Effects, Extent, OpenOptions, OpenReport, StoreConfig, StoreError, Ticket, format, open,
};
use bytes::Bytes;
use host::buffer::AlignedBuf;
use host::disk::{DiskDone, DiskOp, Folder, Ring, Tag};
use host::memory::{MemoryDisk, MemoryRing};
use replica::copy::CopyState;
use std::collections::BTreeMap;
use std::rc::Rc;
use types::{BLOCK, BLOCKS_PER_UNIT, BootVerifier, ChunkId, ClusterId, CopyId, CsId, LeaseEpoch, Seq};
use wire::{WriteHeader, WriteKind, flags};

type Res<T> = Result<T, String>;

enum Waiting {
    Change { chunk: ChunkId, version: usize, durable: bool },
    Flush(Vec<(ChunkId, usize)>),
    Read { version: Version, first: u32, count: u32 },
    Other,
}

struct Flight {
    tag: Tag,
    op: DiskOp,
    /// A flush that took effect when it was submitted.
    done: Option<DiskDone>,
}

struct Sim<'a> {
    w: &'a Workload,
    rng: Rng,
    disk: MemoryDisk,
    ring: Option<MemoryRing>,
    boot: u64,
    store: ChunkStore,
    flight: Vec<Flight>,
    fx: Effects,
    model: Model,
    waiting: BTreeMap<Ticket, Waiting>,
    next: u64,
    /// Rises with every patch, so that states differ.
    epoch: u64,
}

fn options(boot: u64, rng: &mut Rng, rules: StoreRules) -> OpenOptions {
    OpenOptions {
        boot: BootVerifier(boot),
        cluster: Some(ClusterId(7)),
        cs: None,
        overlay_bytes: if rng.percent(50) { 64 << 10 } else { 4 << 20 },
        cache_bytes: if rng.percent(50) { 0 } else { 128 << 10 },
        merge_depth: 1 + rng.below(8) as usize,
        rules,
    }
}
fn boxed(r: &Option<MemoryRing>) -> Option<Box<dyn Ring>> {
    r.as_ref().map(|r| Box::new(r.clone()) as Box<dyn Ring>)
}

/// Runs `w` until `images` images were taken and checked.
pub(super) fn run(w: &Workload, rules: StoreRules, seed: u64, images: u64, report: &mut Report) -> Res<()> {
    let mut rng = Rng::new(seed);
    let disk = MemoryDisk::new();
    let config = StoreConfig {
        cluster: ClusterId(7),
        cs: CsId(1025),
        journal_bytes: w.journal << 10,
        segment_bytes: 1 << 20,
        max_segments: Some(w.segments),
    };
    format(&mut disk.clone(), &config).map_err(|e| e.to_string())?;
    let ring = (w.ring > 0).then(|| MemoryRing::new(w.ring << 10));
    let o = options(1, &mut rng, rules);
    let (store, _) = open(&mut disk.clone(), boxed(&ring), o).map_err(|e| e.to_string())?;
    let mut s = Sim {
        w,
        rng,
        disk,
        ring,
        boot: 1,
        store,
        flight: Vec::new(),
        fx: Effects::default(),
        model: Model::default(),
        waiting: BTreeMap::new(),
        next: 1,
        epoch: 1,
    };
    let mut left = images;
    let mut steps = 0u64;
    while left > 0 {
        steps += 1;
        if steps > images * 400 {
            return Err(format!("only {} of {images} images after {steps} steps", images - left));
        }
        let mut boundary = false;
        if !s.flight.is_empty() && s.rng.percent(if s.flight.len() > 12 { 90 } else { 50 }) {
            boundary = s.complete_one()?;
        } else if s.store.busy() && !s.flight.is_empty() {
            s.complete_one()?;
        } else {
            s.request(report)?;
        }
        s.take_effects()?;
        if (boundary && s.rng.percent(30)) || s.rng.percent(4) {
            left -= 1;
            s.image(report)?;
        }
    }
    report.checkpoints += s.store.superblock.generation;
    s.finish()
}

impl Sim<'_> {
    fn take_effects(&mut self) -> Res<()> {
        let mut fx = std::mem::take(&mut self.fx);
        for (tag, op) in fx.ops.drain(..) {
            let at_once = matches!(op, DiskOp::Flush { .. }) && self.rng.percent(50);
            let done = at_once.then(|| self.disk.run(op.clone()));
            self.flight.push(Flight { tag, op, done });
        }
        for (t, d) in fx.done.drain(..) {
            let Some(w) = self.waiting.remove(&t) else { return Err(format!("ticket {t:?} answered twice")) };
            if let Done::Failed(e) = &d {
                return Err(format!("a request failed: {e}"));
            }
            match (w, d) {
                (Waiting::Change { chunk, version, durable }, _) => {
                    let h = self.model.history(chunk);
                    h.answered = h.answered.max(version);
                    if durable {
                        h.durable = h.durable.max(version);
                    }
                }
                (Waiting::Flush(all), _) => {
                    for (chunk, version) in all {
                        let h = self.model.history(chunk);
                        h.answered = h.answered.max(version);
                        h.durable = h.durable.max(version);
                    }
                }
                (Waiting::Read { version, first, count }, Done::Read { data, crcs }) => {
                    compare(&version, first, count, &data, &crcs).map_err(|e| format!("a read while running: {e}"))?;
                }
                (Waiting::Read { .. }, _) => return Err("a read was answered without data".into()),
                (Waiting::Other, _) => {}
            }
        }
        self.fx = fx;
        Ok(())
    }

    /// Completes one operation in flight. True for a flush.
    fn complete_one(&mut self) -> Res<bool> {
        let i = self.rng.below(self.flight.len() as u64) as usize;
        let f = self.flight.swap_remove(i);
        let flush = matches!(f.op, DiskOp::Flush { .. });
        let done = f.done.unwrap_or_else(|| self.disk.run(f.op));
        self.store.complete(f.tag, done, &mut self.fx);
        Ok(flush)
    }

    fn ticket(&mut self) -> Ticket {
        self.next += 1;
        Ticket(self.next)
    }
    fn data(&mut self, count: u32) -> (Vec<u64>, Vec<u32>, Bytes) {
        let mut b = AlignedBuf::zeroed((count * BLOCK) as usize);
        let mut stamps = Vec::new();
        for part in b.chunks_mut(BLOCK as usize) {
            // Few different stamps in some blocks: equal contents must not deceive recovery.
            let stamp = if self.rng.percent(10) { 1 + self.rng.below(2) } else { self.rng.next() | 4 };
            fill(stamp, part);
            stamps.push(stamp);
        }
        let crcs = b.chunks(BLOCK as usize).map(checksum::crc32c).collect();
        (stamps, crcs, b.freeze())
    }
    fn range(&mut self, kind: u8) -> (u32, u32) {
        let w = self.w;
        match kind {
            0 => {
                let within = if w.hot > 0 { w.hot } else { u64::from(BLOCKS) - 4 };
                (self.rng.below(within) as u32, 1 + self.rng.below(4) as u32)
            }
            1 => {
                let u = self.rng.below(7) as u32;
                (u * BLOCKS_PER_UNIT, (1 + self.rng.below(2) as u32) * BLOCKS_PER_UNIT)
            }
            _ => {
                let first = self.rng.below(u64::from(BLOCKS)) as u32;
                (first, (1 + self.rng.below(64) as u32).min(BLOCKS - first))
            }
        }
    }

    fn request(&mut self, report: &mut Report) -> Res<()> {
        let w = *self.w;
        let weights = [
            w.small,
            w.units,
            w.mixed,
            w.zero,
            w.discard,
            w.patch,
            w.join,
            w.remove,
            w.server,
            w.flush,
            w.read,
            w.checkpoint,
        ];
        let mut pick = self.rng.below(weights.iter().sum());
        let what = weights
            .iter()
            .position(|x| {
                let hit = pick < *x;
                pick = pick.saturating_sub(*x);
                hit
            })
            .unwrap_or(0);
        let chunk = ChunkId(1 + self.rng.below(w.chunks));
        let there = self.store.copy(chunk).is_some();
        let t = self.ticket();
        let durable = self.rng.percent(w.durable);
        let r = match what {
            0..=4 if there => self.write(t, chunk, what as u8, durable),
            0..=5 => self.patch(t, chunk, true, durable),
            6 if there => self.patch(t, chunk, false, durable),
            7 if there => {
                let r = self.store.remove(t, chunk, durable, &mut self.fx);
                self.note(r, t, chunk, Version::absent(), durable)
            }
            8 => {
                let mut s = self.store.server().clone();
                s.absent_mark = ChunkId(s.absent_mark.0 + 1);
                for i in 0..self.rng.below(30) {
                    s.blocked.insert(types::SessionId(s.absent_mark.0 * 100 + i), LeaseEpoch(s.absent_mark.0));
                }
                while s.blocked.len() > 900 {
                    s.blocked.pop_first();
                }
                let v = Version { key: Some((0, s.absent_mark.0, s.blocked.len() as u64)), ..Version::absent() };
                let r = self.store.set_server(t, s, durable, &mut self.fx);
                self.note(r, t, ChunkId::NONE, v, durable)
            }
            9 => {
                let r = self.store.flush(t, &mut self.fx);
                let all = self.model.chunks.iter().map(|(c, h)| (*c, h.versions.len() - 1)).collect();
                self.waiting.insert(t, Waiting::Flush(all));
                r
            }
            10 if there => {
                let (first, count) = self.range(2);
                let verify = self.rng.percent(50);
                let version = self.model.newest(chunk);
                self.waiting.insert(t, Waiting::Read { version, first, count });
                self.store.read(t, chunk, first * BLOCK, count * BLOCK, verify, &mut self.fx)
            }
            11 => {
                self.waiting.insert(t, Waiting::Other);
                self.store.checkpoint(t, &mut self.fx)
            }
            _ => {
                let stable = self.store.copy(chunk).map_or(Seq(0), |c| c.last);
                let header = WriteHeader { chunk, stable, ..WriteHeader::default() };
                self.store.learn(&replica::member::write_request(&header));
                Ok(())
            }
        };
        match r {
            Ok(()) => report.accepted += 1,
            Err(StoreError::NoSpace { .. } | StoreError::Busy | StoreError::TooLarge { .. }) => report.refused += 1,
            Err(e) => return Err(format!("refused: {e}")),
        }
        self.store.idle(&mut self.fx);
        Ok(())
    }

    fn note(
        &mut self,
        r: Result<(), StoreError>,
        t: Ticket,
        chunk: ChunkId,
        v: Version,
        durable: bool,
    ) -> Result<(), StoreError> {
        if r.is_ok() {
            let version = self.model.push(chunk, v);
            self.waiting.insert(t, Waiting::Change { chunk, version, durable });
        }
        r
    }

    fn write(&mut self, t: Ticket, chunk: ChunkId, what: u8, durable: bool) -> Result<(), StoreError> {
        let range_kind = if what < 3 { what } else { 1 + self.rng.below(2) as u8 };
        let (first, count) = self.range(range_kind);
        let kind =
            [WriteKind::Data, WriteKind::Data, WriteKind::Data, WriteKind::Zero, WriteKind::Discard][what as usize];
        let (stamps, crcs, payload) = match kind {
            WriteKind::Data => self.data(count),
            _ => (vec![0; count as usize], Vec::new(), Bytes::new()),
        };
        let c = self.store.copy(chunk).expect("callers looked").clone();
        let h = WriteHeader {
            kind,
            flags: if durable { flags::DURABLE } else { 0 },
            chunk,
            copy: c.copy,
            epoch: c.promised,
            seq: c.last.next(),
            stable: Seq(c.last.0.saturating_sub(3)),
            offset: first * BLOCK,
            length: count * BLOCK,
            ..WriteHeader::default()
        };
        let mut v = self.model.newest(chunk);
        Rc::make_mut(&mut v.blocks)[first as usize..(first + count) as usize].copy_from_slice(&stamps);
        v.key = Some((c.copy.0, h.seq.0, c.promised.0));
        let r = self.store.write(t, &h, crcs, payload, &mut self.fx);
        self.note(r, t, chunk, v, durable)
    }

    fn patch(&mut self, t: Ticket, chunk: ChunkId, with_state: bool, durable: bool) -> Result<(), StoreError> {
        let mut v = self.model.newest(chunk);
        let mut state = None;
        if with_state {
            self.epoch += 1;
            let mut s =
                self.store.copy(chunk).cloned().unwrap_or_else(|| CopyState::new(chunk, CopyId(self.epoch as u32)));
            s.promised = LeaseEpoch(self.epoch);
            s.unclean = false;
            v.key = Some(key_of(&s));
            v.unclean = false;
            state = Some(s);
        }
        let mut extents = Vec::new();
        let mut at = 0;
        for _ in 0..self.rng.below(4) {
            let first = at + self.rng.below(20) as u32;
            let count = 1 + self.rng.below(36) as u32;
            if first + count > BLOCKS {
                break;
            }
            at = first + count;
            let zero = self.rng.percent(25);
            let (stamps, crcs, payload) = match zero {
                true => (vec![0; count as usize], Vec::new(), None),
                false => {
                    let (s, c, p) = self.data(count);
                    (s, c, Some(p))
                }
            };
            Rc::make_mut(&mut v.blocks)[first as usize..at as usize].copy_from_slice(&stamps);
            extents.push(Extent { offset: first * BLOCK, length: count * BLOCK, crcs, payload });
        }
        let r = self.store.patch(t, chunk, state, extents, durable, &mut self.fx);
        self.note(r, t, chunk, v, durable)
    }

    /// Takes an image, opens it, compares it.
    fn image(&mut self, report: &mut Report) -> Res<()> {
        report.images += 1;
        let kill = self.rng.percent(50);
        report.kills += u64::from(kill);
        let disk = self.disk.fork();
        for f in self.flight.iter().filter(|f| f.done.is_none()) {
            match &f.op {
                DiskOp::Write { file, offset, data } => {
                    let mut at = *offset;
                    let mode = self.rng.below(3);
                    for b in data.iter().flat_map(|d| d.chunks(BLOCK as usize)) {
                        if mode == 1 || (mode == 2 && self.rng.percent(50)) {
                            disk.clone().write(*file, at, b).map_err(|e| e.to_string())?;
                        }
                        at += u64::from(BLOCK);
                    }
                }
                DiskOp::Create { name, size } if self.rng.percent(60) => {
                    let part = if self.rng.percent(30) { size / 2 } else { *size };
                    disk.clone().create(name, part).map_err(|e| e.to_string())?;
                }
                _ => {}
            }
        }
        let ring = self.ring.as_ref().map(MemoryRing::fork);
        let what = if kill { "kill" } else { "power cut" };
        if !kill {
            self.cut_power(&disk);
        }
        let (mut boot, mut ring) = if kill { (self.boot, ring) } else { (self.boot + 1, self.fresh_ring()) };
        let mut lost = !kill;
        for again in 0..2 {
            if self.rng.percent(70) {
                continue;
            }
            report.recovery_crashes += 1;
            let o = options(boot, &mut self.rng, self.store.options.rules);
            let mut dying = DyingFolder { disk: disk.clone(), left: self.rng.below(60) };
            let opened = open(&mut dying, boxed(&ring), o);
            // It may have got through: that is a kill right after the start.
            drop(opened);
            if self.rng.percent(50) {
                self.cut_power(&disk);
                lost = true;
                boot += 1 + again;
                ring = self.fresh_ring();
            }
        }
        let o = options(boot, &mut self.rng, self.store.options.rules);
        let (store, found) = open(&mut disk.clone(), boxed(&ring), o).map_err(|e| format!("{what}: refused: {e}"))?;
        report.replayed += found.replayed;
        report.cuts += u64::from(!found.cut.is_empty());
        let picked = self
            .check(&store, &disk, &found, lost)
            .map_err(|e| format!("{what} (memory lost: {lost}): {e}; events: {}", found.events.join("; ")))?;
        let mut store = store;
        if self.rng.percent(30) {
            drop(store);
            let o = options(boot, &mut self.rng, self.store.options.rules);
            let (second, f2) = open(&mut disk.clone(), boxed(&ring), o).map_err(|e| format!("second start: {e}"))?;
            let same = self.check(&second, &disk, &f2, lost).map_err(|e| format!("second start: {e}"))?;
            let kept = found.events.iter().any(|e| e.contains("stay in the journal"));
            if f2.memory_lost || (f2.replayed > 0 && !kept) || same != picked {
                return Err(format!("the second start found something else: {:?}", f2.events));
            }
            store = second;
        }
        if self.rng.percent(15) {
            self.go_on(store, disk, ring, boot, picked);
        }
        Ok(())
    }

    fn cut_power(&mut self, disk: &MemoryDisk) {
        let keep = [0, 50, 95, 100][self.rng.below(4) as usize];
        let rng = &mut self.rng;
        disk.power_cut(|| rng.percent(keep));
    }
    fn fresh_ring(&mut self) -> Option<MemoryRing> {
        (self.w.ring > 0).then(|| MemoryRing::new(self.w.ring << 10))
    }

    /// The image becomes the store.
    fn go_on(
        &mut self,
        store: ChunkStore,
        disk: MemoryDisk,
        ring: Option<MemoryRing>,
        boot: u64,
        picked: Vec<(ChunkId, usize)>,
    ) {
        (self.store, self.disk, self.ring, self.boot) = (store, disk, ring, boot);
        self.flight.clear();
        self.waiting.clear();
        self.fx = Effects::default();
        for (chunk, i) in picked {
            let unclean = self.store.copy(chunk).is_some_and(|c| c.unclean);
            let h = self.model.history(chunk);
            let v = Version { unclean, ..h.versions[i].clone() };
            (h.versions, h.answered, h.durable) = (vec![v], 0, 0);
        }
    }

    /// Compares a store just opened with the model; returns which version each chunk has.
    fn check(
        &self,
        store: &ChunkStore,
        disk: &MemoryDisk,
        found: &OpenReport,
        lost: bool,
    ) -> Res<Vec<(ChunkId, usize)>> {
        if !found.damaged.is_empty() || found.copies_lost {
            return Err(format!("damage was reported: {:?}", found.damaged));
        }
        let mut picked = Vec::new();
        for (chunk, h) in &self.model.chunks {
            let floor = if lost { h.durable } else { h.answered };
            let (key, unclean) = match chunk.is_some() {
                false => {
                    let s = store.server();
                    (s.absent_mark.is_some().then_some((0, s.absent_mark.0, s.blocked.len() as u64)), false)
                }
                true => (store.copy(*chunk).map(key_of), store.copy(*chunk).is_some_and(|c| c.unclean)),
            };
            let content = match (chunk.is_some(), key) {
                (true, Some(_)) => {
                    Some(store.read_now(&mut disk.clone(), *chunk, 0, BLOCKS * BLOCK).map_err(|e| e.to_string())?)
                }
                _ => None,
            };
            let mut why = String::new();
            let hit = (floor..h.versions.len()).rev().find(|i| {
                let v = &h.versions[*i];
                if v.key != key {
                    return false;
                }
                match content.as_ref().map_or(Ok(()), |(d, c)| compare(v, 0, BLOCKS, d, c)) {
                    Ok(()) => true,
                    Err(e) => {
                        why = format!("version {i}: {e}");
                        false
                    }
                }
            });
            let Some(i) = hit else {
                let keys: Vec<_> = h.versions.iter().map(|v| v.key).collect();
                return Err(format!(
                    "chunk {chunk} is {key:?}, no version from {floor} on fits ({why}); last {:?}",
                    &keys[keys.len().saturating_sub(6)..]
                ));
            };
            let want = key.is_some() && chunk.is_some() && (lost || h.versions[i].unclean);
            if unclean != want {
                return Err(format!("chunk {chunk}: unclean is {unclean}"));
            }
            picked.push((*chunk, i));
        }
        Ok(picked)
    }

    /// Everything completes; then an orderly stop, and a start that finds the same.
    fn finish(&mut self) -> Res<()> {
        let t = self.ticket();
        self.waiting.insert(t, Waiting::Other);
        self.store.stop(t, &mut self.fx).map_err(|e| e.to_string())?;
        self.take_effects()?;
        while !self.flight.is_empty() {
            self.complete_one()?;
            self.take_effects()?;
        }
        if !self.waiting.is_empty() {
            return Err(format!("{} requests were never answered", self.waiting.len()));
        }
        self.disk.power_cut(|| false);
        let before = self.store.usage();
        let o = options(self.boot + 1, &mut self.rng, self.store.options.rules);
        let (store, found) = open(&mut self.disk.clone(), None, o).map_err(|e| format!("after a stop: {e}"))?;
        let picked = self.check(&store, &self.disk, &found, false).map_err(|e| format!("after a stop: {e}"))?;
        let newest = picked.iter().all(|(c, i)| self.model.chunks[c].versions.len() == i + 1);
        if found.memory_lost || found.replayed > 0 || !newest {
            return Err(format!("a stop was not clean (newest: {newest}): {found:?}, {before:?}"));
        }
        let after = store.usage();
        if (before.allocated_blocks, before.quarantined_blocks) != (after.allocated_blocks, 0) {
            return Err(format!("space leaked: {before:?}, after the start {after:?}"));
        }
        Ok(())
    }
}

fn compare(v: &Version, first: u32, count: u32, data: &[u8], crcs: &[u32]) -> Res<()> {
    if data.len() != (count * BLOCK) as usize || crcs.len() != count as usize {
        return Err(format!("{} bytes and {} checksums for {count} blocks", data.len(), crcs.len()));
    }
    let mut want = vec![0; BLOCK as usize];
    for (i, (b, c)) in data.chunks(BLOCK as usize).zip(crcs).enumerate() {
        let stamp = v.blocks[first as usize + i];
        fill(stamp, &mut want);
        if b != &want[..] {
            return Err(format!("block {} differs", first as usize + i));
        }
        if checksum::crc32c(b) != *c {
            return Err(format!("checksum of block {} differs", first as usize + i));
        }
    }
    Ok(())
}
