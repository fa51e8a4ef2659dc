//! A file changed at random past the host's cache (O_DIRECT), and compared with a model in memory after every step.

use crate::chance::Chance;
use anyhow::{Context, Result, bail};
use nix::fcntl::{FallocateFlags, OFlag, fallocate};
use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// Memory, offsets and lengths are multiples of this.
const ALIGN: u64 = 4096;
/// Longest file in bytes.
const FILE_MAX: u64 = 8 << 20;
/// Longest read or write in bytes.
const PIECE_MAX: u64 = 256 << 10;
/// Every so many steps the file is opened anew.
const REOPEN: u64 = 97;

/// Memory that begins on a border of [`ALIGN`].
struct Aligned {
    bytes: Vec<u8>,
    start: usize,
}
impl Aligned {
    fn new(len: usize) -> Aligned {
        let bytes = vec![0; len + ALIGN as usize];
        let start = bytes.as_ptr().align_offset(ALIGN as usize);
        Aligned { bytes, start }
    }
    fn slice(&mut self, len: usize) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + len]
    }
}

/// The file, what it has to hold, and what decides.
struct Player<'a> {
    path: &'a Path,
    file: File,
    model: Vec<u8>,
    chance: Chance,
    memory: Aligned,
    counts: [u64; 5],
}

/// Plays `steps` steps with a file of its own in `dir`, which it makes anew and removes when all went well; the line to
/// print.
pub fn run(dir: &Path, steps: u64, seed: u64) -> Result<String> {
    let path = dir.join(format!("direct-{seed}"));
    File::create(&path).with_context(|| format!("create `{}`", path.display()))?;
    let mut p = Player {
        path: &path,
        file: open(&path)?,
        model: Vec::new(),
        chance: Chance::of(&[seed]),
        memory: Aligned::new(PIECE_MAX as usize),
        counts: [0; 5],
    };
    for step in 0..steps {
        p.step(step).with_context(|| format!("step {step} of seed {seed} on `{}`", path.display()))?;
    }
    let whole = std::fs::read(&path)?;
    compare(&whole, &p.model, 0).context("the whole file, read through the cache")?;
    let [writes, reads, cuts, punches, zeros] = p.counts;
    std::fs::remove_file(&path)?;
    Ok(format!("{writes} writes, {reads} reads, {cuts} lengths, {punches} holes, {zeros} zeros, no difference"))
}

fn open(path: &Path) -> Result<File> {
    let file = File::options().read(true).write(true).custom_flags(OFlag::O_DIRECT.bits()).open(path);
    file.with_context(|| format!("open `{}` with O_DIRECT", path.display()))
}

/// The bytes of a file from `offset` on, as read and as they should be.
fn compare(read: &[u8], model: &[u8], offset: u64) -> Result<()> {
    if read.len() != model.len() {
        bail!("{} bytes at {offset}, not {}", read.len(), model.len());
    }
    match read.iter().zip(model).position(|(a, b)| a != b) {
        Some(i) => bail!("byte {} is {:#04x}, not {:#04x}", offset + i as u64, read[i], model[i]),
        None => Ok(()),
    }
}

impl Player<'_> {
    fn step(&mut self, step: u64) -> Result<()> {
        if step % REOPEN == REOPEN - 1 {
            self.file = open(self.path)?;
        }
        let offset = self.chance.below(FILE_MAX / ALIGN) * ALIGN;
        let len = ((self.chance.below(PIECE_MAX / ALIGN) + 1) * ALIGN).min(FILE_MAX - offset);
        match self.chance.below(10) {
            0..4 => self.write(step, offset, len),
            4..7 => self.read(offset, len),
            7 => self.cut(offset + self.chance.below(2) * self.chance.below(ALIGN)),
            8 => self.clear(FallocateFlags::FALLOC_FL_PUNCH_HOLE, offset, len, 3),
            _ => self.clear(FallocateFlags::FALLOC_FL_ZERO_RANGE, offset, len, 4),
        }?;
        let size = self.file.metadata()?.len();
        if size != self.model.len() as u64 {
            bail!("the file has {size} bytes, not {}", self.model.len());
        }
        self.read(offset / 2 / ALIGN * ALIGN, len)
    }
    fn write(&mut self, step: u64, offset: u64, len: u64) -> Result<()> {
        let (from, to) = (offset as usize, (offset + len) as usize);
        let data = self.memory.slice(len as usize);
        data.chunks_exact_mut(16).enumerate().for_each(|(i, c)| {
            c[..8].copy_from_slice(&step.to_le_bytes());
            c[8..].copy_from_slice(&(offset + 16 * i as u64).to_le_bytes());
        });
        self.file.write_all_at(data, offset).context("write")?;
        if self.model.len() < to {
            self.model.resize(to, 0);
        }
        self.model[from..to].copy_from_slice(data);
        self.counts[0] += 1;
        Ok(())
    }
    fn read(&mut self, offset: u64, len: u64) -> Result<()> {
        let data = self.memory.slice(len as usize);
        let mut got = 0;
        // A read may be short before the end; one of nothing is the end.
        while got < data.len() {
            match self.file.read_at(&mut data[got..], offset + got as u64).context("read")? {
                0 => break,
                n => got += n,
            }
            if !(got as u64).is_multiple_of(ALIGN) {
                break; // the end, where it is not on a border
            }
        }
        let size = self.model.len();
        let (from, to) = ((offset as usize).min(size), ((offset + len) as usize).min(size));
        self.counts[1] += 1;
        compare(&data[..got], &self.model[from..to], offset)
    }
    fn cut(&mut self, size: u64) -> Result<()> {
        self.file.set_len(size).context("set the length")?;
        self.model.resize(size as usize, 0);
        self.counts[2] += 1;
        Ok(())
    }
    /// Zeros over a range; the end stays where it is.
    fn clear(&mut self, how: FallocateFlags, offset: u64, len: u64, count: usize) -> Result<()> {
        fallocate(&self.file, how | FallocateFlags::FALLOC_FL_KEEP_SIZE, offset.cast_signed(), len.cast_signed())
            .with_context(|| format!("{how:?}"))?;
        let size = self.model.len();
        let (from, to) = ((offset as usize).min(size), ((offset + len) as usize).min(size));
        self.model[from..to].fill(0);
        self.counts[count] += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_found_and_memory_is_aligned() {
        assert!(compare(b"abc", b"abc", 7).is_ok());
        let e = compare(b"abc", b"abd", 7).unwrap_err().to_string();
        assert!(e.contains("byte 9"), "{e}");
        assert!(compare(b"ab", b"abd", 7).is_err());
        let aligned = |mut a: Aligned| a.slice(1).as_ptr().align_offset(ALIGN as usize) == 0;
        assert!((1..50).map(|i| Aligned::new(i * 100)).all(aligned));
    }
}
