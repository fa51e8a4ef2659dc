//! Damage done to the disks of running servers: flipped bits, blocks that changed places, older content, structures.

use crate::chance::Chance;
use anyhow::{Context, Result, bail};
use chunk_store::{LiveBlock, Survey};
use host::real::{Options, RealDisk};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use types::ChunkId;

const BLOCK: usize = 4096;

/// What was done to one server.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Done {
    pub flipped: u64,
    pub swapped: u64,
    pub older: u64,
    pub structures: u64,
}
impl Done {
    /// Blocks of the data area that are not what they were.
    pub fn blocks(&self) -> u64 {
        self.flipped + self.swapped + self.older
    }
}

/// The store of one server, from outside.
pub struct Store {
    dir: PathBuf,
    survey: Survey,
}

impl Store {
    /// Reads what stands there. A checkpoint meanwhile is waited out.
    pub fn look(dir: &Path) -> Result<Store> {
        let mut tries = 0;
        loop {
            let disk = RealDisk::open(dir, Options::default())?;
            match chunk_store::survey(&mut disk.folder()) {
                Ok(survey) => return Ok(Store { dir: dir.into(), survey }),
                Err(e) if tries >= 20 => bail!("`{}`: {e}", dir.display()),
                Err(_) => tries += 1,
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }
    /// All that was found.
    pub fn survey(&self) -> &Survey {
        &self.survey
    }
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
    pub fn blocks(&self) -> &[LiveBlock] {
        &self.survey.blocks
    }
    fn open(&self, name: &str) -> Result<File> {
        let path = self.dir.join(name);
        File::options().read(true).write(true).open(&path).with_context(|| format!("open `{}`", path.display()))
    }
    fn change(&self, name: &str, offset: u64, f: impl FnOnce(&mut [u8])) -> Result<()> {
        let file = self.open(name)?;
        let mut bytes = vec![0; BLOCK];
        file.read_exact_at(&mut bytes, offset)?;
        f(&mut bytes);
        file.write_all_at(&bytes, offset)?;
        file.sync_data()?;
        Ok(())
    }
    fn content(&self, b: &LiveBlock) -> Result<Vec<u8>> {
        let mut bytes = vec![0; BLOCK];
        self.open(&segment(b))?.read_exact_at(&mut bytes, b.offset)?;
        Ok(bytes)
    }
    fn put(&self, b: &LiveBlock, content: &[u8]) -> Result<()> {
        self.change(&segment(b), b.offset, |x| x.copy_from_slice(content))
    }
    /// Blocks that do not match their checksums.
    pub fn damaged(&self) -> Result<usize> {
        let mut files: BTreeMap<String, File> = BTreeMap::new();
        let (mut n, mut bytes) = (0, vec![0; BLOCK]);
        for b in &self.survey.blocks {
            let name = segment(b);
            if !files.contains_key(&name) {
                files.insert(name.clone(), self.open(&name)?);
            }
            files[&name].read_exact_at(&mut bytes, b.offset)?;
            n += usize::from(checksum::crc32c(&bytes) != b.crc);
        }
        Ok(n)
    }
}
/// Flips a bit of the byte at `offset` of a file.
pub fn flip(path: &Path, offset: u64, chance: &Chance) -> Result<()> {
    let file = File::options().read(true).write(true).open(path);
    let file = file.with_context(|| format!("open `{}`", path.display()))?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset)?;
    byte[0] ^= 1 << chance.below(8);
    file.write_all_at(&byte, offset)?;
    file.sync_data()?;
    Ok(())
}
fn segment(b: &LiveBlock) -> String {
    format!("seg-{:05}", b.segment)
}

/// How much is to be done.
pub struct Plan<'a> {
    pub flips: usize,
    /// Pairs.
    pub swaps: usize,
    /// Older content by the checksum of the newer one that stands there.
    pub older: &'a BTreeMap<u32, Vec<u8>>,
    pub leaves: usize,
}

/// Damages the stores, no block of a chunk on more than one of them. Only blocks whose checksum is one of `mine` are touched.
pub fn damage(stores: &[Store], mine: &BTreeSet<u32>, plan: &Plan<'_>, chance: &Chance) -> Result<Vec<Done>> {
    let mut done = vec![Done::default(); stores.len()];
    let mut hit: BTreeSet<(ChunkId, u32)> = BTreeSet::new();
    // First, because mending blocks changes leaves.
    for (s, store) in stores.iter().enumerate() {
        for (name, offset) in store.survey.leaves.iter().take(plan.leaves) {
            let at = chance.below(BLOCK as u64) as usize;
            store.change(name, *offset, |x| x[at] ^= 1)?;
            done[s].structures += 1;
        }
        // One slot of two, not the one in force: the server may be writing the other at this moment.
        let idle = BLOCK as u64 - store.survey.superblock;
        store.change("super", idle, |x| x[60] ^= 1)?;
        done[s].structures += 1;
    }
    let usable = |b: &&LiveBlock| mine.contains(&b.crc);
    for (crc, content) in plan.older {
        let s = chance.below(stores.len() as u64) as usize;
        let b =
            stores[s].blocks().iter().find(|b| b.crc == *crc).context("overwritten content does not stand there")?;
        if hit.insert((b.chunk, b.block)) {
            stores[s].put(b, content)?;
            done[s].older += 1;
        }
    }
    let lists: Vec<Vec<&LiveBlock>> = stores.iter().map(|s| s.blocks().iter().filter(usable).collect()).collect();
    let pick = |s: usize, hit: &mut BTreeSet<(ChunkId, u32)>| -> Result<LiveBlock> {
        for _ in 0..10_000 {
            let b = lists[s][chance.below(lists[s].len() as u64) as usize];
            if hit.insert((b.chunk, b.block)) {
                return Ok(b.clone());
            }
        }
        bail!("too few blocks for so much damage: use a larger --size")
    };
    for i in 0..plan.swaps {
        let s = i % stores.len();
        let (a, b) = (pick(s, &mut hit)?, pick(s, &mut hit)?);
        let (x, y) = (stores[s].content(&a)?, stores[s].content(&b)?);
        stores[s].put(&a, &y)?;
        stores[s].put(&b, &x)?;
        done[s].swapped += 2;
    }
    for i in 0..plan.flips {
        let s = i % stores.len();
        let b = pick(s, &mut hit)?;
        let (at, bit) = (chance.below(BLOCK as u64) as usize, chance.below(8));
        stores[s].change(&segment(&b), b.offset, |x| x[at] ^= 1 << bit)?;
        done[s].flipped += 1;
    }
    Ok(done)
}

/// Flips a bit in the first batch of the oldest segment of a metadata server's log, and one in its newest snapshot. Returns the
/// files.
pub fn damage_log(dir: &Path) -> Result<Vec<String>> {
    let mut names: Vec<String> = Vec::new();
    for e in std::fs::read_dir(dir).with_context(|| format!("list `{}`", dir.display()))? {
        names.push(e?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    let segment = names.iter().find(|n| n.starts_with("log-")).context("no segment")?;
    let snapshot = names.iter().rev().find(|n| n.starts_with("snap-")).context("no snapshot")?;
    for (name, at) in [(segment, BLOCK as u64 + 70), (snapshot, 44)] {
        let file = File::options().read(true).write(true).open(dir.join(name))?;
        let mut byte = [0];
        file.read_exact_at(&mut byte, at)?;
        byte[0] ^= 16;
        file.write_all_at(&byte, at)?;
        file.sync_data()?;
    }
    Ok(vec![segment.clone(), snapshot.clone()])
}
