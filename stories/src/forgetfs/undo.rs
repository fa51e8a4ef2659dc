//! What one file would fall back to: old contents of the blocks written since its last sync, and its length then.

use crate::chance::Chance;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::AddAssign;
use std::os::unix::fs::FileExt;

/// Bytes that are lost or kept together, unless torn.
pub const BLOCK: u64 = 4096;
/// Bytes that a disk never tears.
pub const SECTOR: usize = 512;

const BLOCK_LEN: usize = BLOCK as usize;
/// Memory charged for an entry of the index, content apart: a B-tree slot with its share of half-full nodes.
const ENTRY_COST: usize = 48;
/// Bytes looked at in one go when a range is preserved.
const PIECE: u64 = 1 << 20;

static ZEROS: [u8; BLOCK_LEN] = [0; BLOCK_LEN];

/// How much a power cut takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Loss {
    /// Everything that was not synced.
    All,
    /// Block by block and sector by sector, as the seed decides.
    #[default]
    Mixed,
}

/// What became of the unsynced blocks at a power cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Lost {
    /// Blocks that fell back to their old content.
    pub lost: u64,
    /// Blocks that had reached the disk on their own.
    pub kept: u64,
    /// Blocks of which some sectors are old and some new.
    pub torn: u64,
    /// Files whose length fell back.
    pub lengths: u64,
}
impl AddAssign for Lost {
    fn add_assign(&mut self, o: Lost) {
        self.lost += o.lost;
        self.kept += o.kept;
        self.torn += o.torn;
        self.lengths += o.lengths;
    }
}

/// A block before it was written.
enum Old {
    /// Zeros, or nothing at all behind the end of the file.
    Zero,
    /// These bytes.
    Bytes(Box<[u8]>),
}
impl Old {
    fn of(content: &[u8]) -> Old {
        if content == &ZEROS[..content.len()] { Old::Zero } else { Old::Bytes(content.into()) }
    }
    fn cost(&self) -> usize {
        match self {
            Old::Zero => ENTRY_COST,
            Old::Bytes(b) => ENTRY_COST + b.len(),
        }
    }
    fn bytes(&self) -> &[u8] {
        match self {
            Old::Zero => &ZEROS,
            Old::Bytes(b) => b,
        }
    }
}

/// One file with what it would lose.
pub struct Unsynced {
    /// Open for reading and writing.
    file: File,
    /// Length at the last sync, or at the last moment the disk may have taken over by itself.
    durable_len: u64,
    /// The shortest the file has been since, if shorter than `durable_len`: a truncation not yet synced. It is lost or kept
    /// as a whole, as a journal of metadata would do it, and nothing written behind it is kept without it.
    shrunk_to: Option<u64>,
    blocks: BTreeMap<u64, Old>,
    cost: usize,
    loss: Loss,
    /// The block in which the newest write ended between two sectors. The kernel cuts long writes of unaligned buffers at
    /// any byte, so the rest of that sector may be on its way, and half a sector must not count as having reached the disk.
    unfinished: Option<u64>,
}

impl Unsynced {
    /// A file of which everything is durable now. `file` must be open for reading and writing.
    pub fn new(file: File, loss: Loss) -> io::Result<Unsynced> {
        let durable_len = file.metadata()?.len();
        let blocks = BTreeMap::new();
        Ok(Unsynced { file, durable_len, shrunk_to: None, blocks, cost: 0, loss, unfinished: None })
    }
    /// Memory held, bytes.
    pub fn cost(&self) -> usize {
        self.cost
    }
    /// Nothing would be lost.
    pub fn is_clean(&self) -> io::Result<bool> {
        Ok(self.blocks.is_empty() && self.shrunk_to.is_none() && self.file.metadata()?.len() == self.durable_len)
    }

    /// Writes all of `data`.
    pub fn write(&mut self, offset: u64, data: &[u8], chance: &Chance) -> io::Result<()> {
        let end = offset.saturating_add(data.len() as u64);
        self.preserve(offset, end, chance, usize::MAX)?;
        self.unfinished = (!end.is_multiple_of(SECTOR as u64)).then_some(end / BLOCK);
        self.file.write_all_at(data, offset)
    }
    /// Lets `change` alter the content of `len` bytes at `offset` (punch a hole, zero a range). Old contents are kept up to
    /// `memory` bytes; beyond it the change counts as durable at once.
    pub fn alter(
        &mut self,
        offset: u64,
        len: u64,
        chance: &Chance,
        memory: usize,
        change: impl FnOnce(&File) -> io::Result<()>,
    ) -> io::Result<()> {
        self.preserve(offset, offset.saturating_add(len), chance, memory)?;
        change(&self.file)
    }
    /// Grows by zeros or cuts off. Old contents are kept up to `memory` bytes; beyond it a cut counts as durable at once.
    pub fn set_len(&mut self, len: u64, chance: &Chance, memory: usize) -> io::Result<()> {
        let now = self.file.metadata()?.len();
        if len < self.durable_len && len < now {
            self.preserve(len, now.min(self.durable_len), chance, memory)?;
            self.shrunk_to = Some(self.shrunk_to.map_or(len, |s| s.min(len)));
        }
        self.file.set_len(len)?;
        if self.cost > memory {
            self.settle_truncation();
        }
        Ok(())
    }
    /// Everything is durable from now on.
    pub fn sync(&mut self) -> io::Result<()> {
        self.durable_len = self.file.metadata()?.len();
        self.shrunk_to = None;
        self.blocks.clear();
        self.cost = 0;
        self.unfinished = None;
        Ok(())
    }
    /// The disk takes one block over by itself, as it may at any time. False if there is none that it could take.
    pub fn write_back_one(&mut self, chance: &Chance) -> bool {
        let Some((&top, _)) = self.blocks.last_key_value() else { return false };
        let from = chance.below(top + 1);
        let may = |b: &u64| Some(*b) != self.unfinished;
        let (behind, before) = (self.blocks.range(from..), self.blocks.range(..from));
        let Some(block) = behind.chain(before).map(|(b, _)| *b).find(may) else { return false };
        if self.shrunk_to.is_some_and(|s| (block + 1) * BLOCK > s) {
            self.settle_truncation();
        }
        self.drop_old(block);
        true
    }

    /// The power goes: each unsynced block falls back or not.
    pub fn forget(&mut self, chance: &Chance) -> io::Result<Lost> {
        let mut out = Lost::default();
        let all = self.loss == Loss::All;
        if self.shrunk_to.is_some() && !all && chance.one_in(2) {
            self.settle_truncation();
        }
        let now = self.file.metadata()?.len();
        // Blocks that end behind this keep nothing new, because the truncation before them was lost.
        let bound = self.shrunk_to;
        let end = if bound.is_some() || all || chance.one_in(2) { self.durable_len } else { now };
        if end != now {
            out.lengths += 1;
        }
        self.file.set_len(end.max(now))?;
        for (block, old) in std::mem::take(&mut self.blocks) {
            let at = block * BLOCK;
            if at >= end {
                out.lost += 1;
                continue;
            }
            let forced = all || bound.is_some_and(|s| at + BLOCK > s);
            match if forced { 0 } else { chance.below(3) } {
                0 => {
                    self.file.write_all_at(old.bytes(), at)?;
                    out.lost += 1;
                }
                1 => out.kept += 1,
                _ => {
                    // One bit a sector; all and none are left out, they would not be torn.
                    let mask = 1 + chance.below((1 << (BLOCK_LEN / SECTOR)) - 2);
                    for (i, sector) in old.bytes().chunks(SECTOR).enumerate() {
                        if mask >> i & 1 == 1 {
                            self.file.write_all_at(sector, at + (i * SECTOR) as u64)?;
                        }
                    }
                    out.torn += 1;
                }
            }
        }
        self.file.set_len(end)?;
        self.sync()?;
        Ok(out)
    }

    /// Keeps the old content of the blocks in [`from`, `to`) that are not kept yet. A block written again before a sync may
    /// have reached the disk in between: then that content is what it falls back to.
    fn preserve(&mut self, from: u64, to: u64, chance: &Chance, memory: usize) -> io::Result<()> {
        let len = self.file.metadata()?.len();
        let mut at = from / BLOCK * BLOCK;
        let mut buf = Vec::new();
        while at < to {
            let stop = (at + PIECE).min(to.div_ceil(BLOCK) * BLOCK);
            buf.clear();
            buf.resize((stop - at) as usize, 0);
            if at < len {
                let there = (len.min(stop) - at) as usize;
                self.file.read_exact_at(&mut buf[..there], at)?;
            }
            for (i, content) in buf.chunks(BLOCK_LEN).enumerate() {
                let block = at / BLOCK + i as u64;
                let known = self.blocks.contains_key(&block);
                if !known || (self.may_settle(block, from) && chance.one_in(4)) {
                    self.drop_old(block);
                    let old = Old::of(content);
                    self.cost += old.cost();
                    self.blocks.insert(block, old);
                }
            }
            if self.cost > memory {
                return Ok(());
            }
            at = stop;
        }
        Ok(())
    }
    /// Whether what stands in `block` may have reached the disk before a change that starts at `from`.
    fn may_settle(&self, block: u64, from: u64) -> bool {
        let behind_truncation = self.shrunk_to.is_some_and(|s| (block + 1) * BLOCK > s);
        let in_mid_sector = from > block * BLOCK && !from.is_multiple_of(SECTOR as u64);
        self.loss == Loss::Mixed && !behind_truncation && !in_mid_sector
    }
    fn drop_old(&mut self, block: u64) {
        if let Some(old) = self.blocks.remove(&block) {
            self.cost -= old.cost();
        }
    }
    /// The truncation is durable from now on: what stood behind it is gone for good.
    fn settle_truncation(&mut self) {
        let Some(len) = self.shrunk_to.take() else { return };
        self.durable_len = len;
        let behind = self.blocks.split_off(&(len / BLOCK));
        for (block, old) in behind {
            self.cost -= old.cost();
            let mut content = old.bytes().to_vec();
            content[len.saturating_sub(block * BLOCK).min(BLOCK) as usize..].fill(0);
            let old = Old::of(&content);
            self.cost += old.cost();
            self.blocks.insert(block, old);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn scratch(name: &str) -> (PathBuf, File) {
        let path = std::env::temp_dir().join(format!("undo-{}-{name}", std::process::id()));
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
        (path, file)
    }

    /// Every byte of each sector is from one of the versions written to it since its last sync, and a synced one stays.
    #[test]
    fn each_sector_is_a_version_it_had() {
        for seed in 0..60 {
            let (path, file) = scratch(&format!("versions{seed}"));
            let chance = Chance::seeded(seed);
            let mut u = Unsynced::new(file.try_clone().unwrap(), Loss::Mixed).unwrap();
            u.write(0, &[1; 16 << 12], &chance).unwrap();
            u.sync().unwrap();
            let mut versions = vec![vec![1u8]; 16];
            for v in 2..40u8 {
                let block = chance.below(16);
                u.write(block * BLOCK, &[v; BLOCK_LEN], &chance).unwrap();
                versions[block as usize].push(v);
                if v == 20 {
                    u.sync().unwrap();
                    versions.iter_mut().for_each(|v| *v = vec![*v.last().unwrap()]);
                }
                if v % 7 == 0 {
                    u.write_back_one(&chance);
                }
            }
            u.forget(&chance).unwrap();
            assert!(u.is_clean().unwrap());
            let content = std::fs::read(&path).unwrap();
            std::fs::remove_file(&path).unwrap();
            assert_eq!(content.len(), 16 << 12);
            for (i, sector) in content.chunks(SECTOR).enumerate() {
                let had = &versions[i / 8];
                assert!(sector.iter().all(|b| *b == sector[0]) && had.contains(&sector[0]), "seed {seed} sector {i}");
            }
        }
    }

    #[test]
    fn losing_all_restores_content_and_length() {
        let (path, file) = scratch("all");
        let chance = Chance::seeded(3);
        let mut u = Unsynced::new(file.try_clone().unwrap(), Loss::All).unwrap();
        let first: Vec<u8> = (0..50_000u32).map(|i| (i % 251) as u8 + 1).collect();
        u.write(0, &first, &chance).unwrap();
        u.sync().unwrap();
        u.set_len(10_001, &chance, usize::MAX).unwrap();
        u.write(9_000, &[9; 70_000], &chance).unwrap();
        u.set_len(5, &chance, usize::MAX).unwrap();
        u.set_len(60_000, &chance, usize::MAX).unwrap();
        let lost = u.forget(&chance).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), first);
        assert!(lost.kept == 0 && lost.torn == 0 && lost.lengths == 1, "{lost:?}");
        std::fs::remove_file(&path).unwrap();
    }

    /// A truncation is lost or kept as a whole: never the old length with holes where the old content was.
    #[test]
    fn a_truncation_is_whole() {
        let (mut kept, mut lost) = (0, 0);
        for seed in 0..60 {
            let (path, file) = scratch(&format!("trunc{seed}"));
            let chance = Chance::seeded(seed);
            let mut u = Unsynced::new(file.try_clone().unwrap(), Loss::Mixed).unwrap();
            u.write(0, &[7; 64 << 10], &chance).unwrap();
            u.sync().unwrap();
            u.set_len(0, &chance, usize::MAX).unwrap();
            u.write(0, &[8; 32 << 10], &chance).unwrap();
            u.forget(&chance).unwrap();
            let content = std::fs::read(&path).unwrap();
            std::fs::remove_file(&path).unwrap();
            if content.len() == 64 << 10 {
                lost += 1;
                assert!(content.iter().all(|b| *b == 7), "seed {seed}");
            } else {
                kept += 1;
                assert!(content.len() <= 32 << 10 && content.iter().all(|b| *b == 8 || *b == 0), "seed {seed}");
            }
        }
        assert!(kept > 10 && lost > 10, "{kept} kept, {lost} lost");
    }

    #[test]
    fn memory_is_bounded_by_early_write_back() {
        let (path, file) = scratch("memory");
        let chance = Chance::seeded(3);
        let mut u = Unsynced::new(file, Loss::Mixed).unwrap();
        u.write(0, &[1; 1 << 20], &chance).unwrap();
        assert!(u.cost() <= 256 * ENTRY_COST, "zeros cost only their entry: {}", u.cost());
        u.sync().unwrap();
        u.write(0, &[2; 1 << 20], &chance).unwrap();
        assert!(u.cost() > 1 << 20);
        while u.cost() > 1 << 16 {
            assert!(u.write_back_one(&chance));
        }
        u.sync().unwrap();
        u.set_len(0, &chance, 1 << 16).unwrap();
        assert!(u.cost() <= 256 * ENTRY_COST, "a large truncation settles early: {}", u.cost());
        std::fs::remove_file(&path).unwrap();
    }
}
