//! Reads and writes its part of a file at random, by read(2) and write(2), with O_DIRECT and through a mapping, and compares
//! it with a model, while somebody else does the same with the rest. `halves FILE START END COUNT SEED`; START and END need not
//! lie at a page's edge: a page may belong to two.

use anyhow::{Context, Result, bail, ensure};
use nix::sys::mman::{MapFlags, MsFlags, ProtFlags, mmap, msync};
use std::fs::{File, OpenOptions};
use std::num::NonZeroUsize;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::ptr::NonNull;
use stories::chance::Chance;

const PAGE: usize = 4096;
/// Longest piece of one operation.
const MOST: usize = 64 << 10;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [path, numbers @ ..] = args.as_slice() else { bail!("usage: halves FILE START END COUNT SEED") };
    let numbers: Vec<u64> = numbers.iter().map(|n| n.parse()).collect::<Result<_, _>>()?;
    let [start, end, count, seed] = numbers[..] else { bail!("usage: halves FILE START END COUNT SEED") };
    let mut part = Part::open(path, start as usize, end as usize)?;
    let chance = Chance::of(&[seed, start]);
    for number in 0..count {
        part.act(number, &chance).with_context(|| format!("operation {number} of {start}..{end}"))?;
    }
    part.file.sync_all()?;
    part.compare(&part.read(0, part.model.len())?, 0, "at the end")?;
    Ok(())
}

struct Part {
    path: String,
    file: File,
    direct: File,
    mapping: NonNull<std::ffi::c_void>,
    length: usize,
    /// Where it begins in the file.
    start: usize,
    /// What stands there.
    model: Vec<u8>,
}

impl Part {
    fn open(path: &str, start: usize, end: usize) -> Result<Part> {
        let both = || OpenOptions::new().read(true).write(true).clone();
        let file = both().open(path).with_context(|| format!("open {path}"))?;
        let direct = both().custom_flags(nix::libc::O_DIRECT).open(path).with_context(|| format!("open {path}"))?;
        let length = usize::try_from(file.metadata()?.len())?;
        ensure!(start < end && end <= length, "{start}..{end} does not lie in {length} bytes");
        let size = NonZeroUsize::new(length).context("the file is empty")?;
        let how = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: the mapping is at a place that the kernel chooses, nothing of this program lies there, and it stays to the end.
        let mapping = unsafe { mmap(None, size, how, MapFlags::MAP_SHARED, &file, 0) }?;
        Ok(Part { path: path.into(), file, direct, mapping, length, start, model: vec![0; end - start] })
    }

    fn act(&mut self, number: u64, chance: &Chance) -> Result<()> {
        let at = chance.below(self.model.len() as u64) as usize;
        let n = 1 + chance.below(MOST.min(self.model.len() - at) as u64) as usize;
        let fill = |b: usize| (number as usize * 31 + b * 7) as u8;
        match chance.below(20) {
            0..5 => {
                let data: Vec<u8> = (at..at + n).map(fill).collect();
                self.file.write_all_at(&data, (self.start + at) as u64).context("write")?;
                self.model[at..at + n].copy_from_slice(&data);
            }
            5..9 => self.compare(&self.read(at, n)?, at, "read")?,
            9..12 => {
                let data: Vec<u8> = (at..at + n).map(fill).collect();
                self.store(at, &data);
                self.model[at..at + n].copy_from_slice(&data);
            }
            12..15 => self.compare(&self.load(at, n), at, "load")?,
            15 => {
                if let Some((at, n)) = self.pages(at, n) {
                    let data: Vec<u8> = (at..at + n).map(fill).collect();
                    let own = aligned(&data);
                    self.direct.write_all_at(own.bytes(), (self.start + at) as u64).context("write with O_DIRECT")?;
                    self.model[at..at + n].copy_from_slice(&data);
                }
            }
            16 => {
                if let Some((at, n)) = self.pages(at, n) {
                    let mut own = aligned(&vec![0; n]);
                    self.direct
                        .read_exact_at(own.bytes_mut(), (self.start + at) as u64)
                        .context("read with O_DIRECT")?;
                    self.compare(own.bytes(), at, "read with O_DIRECT")?;
                }
            }
            17 => self.file.sync_data().context("fdatasync")?,
            18 => {
                // SAFETY: the whole mapping.
                unsafe { msync(self.mapping, self.length, MsFlags::MS_SYNC) }.context("msync")?;
            }
            _ => {
                self.file = OpenOptions::new().read(true).write(true).open(&self.path).context("open again")?;
            }
        }
        Ok(())
    }
    /// The whole pages of a piece.
    fn pages(&self, at: usize, n: usize) -> Option<(usize, usize)> {
        let from = (self.start + at).next_multiple_of(PAGE);
        let to = (self.start + at + n) / PAGE * PAGE;
        (from < to).then(|| (from - self.start, to - from))
    }
    fn read(&self, at: usize, n: usize) -> Result<Vec<u8>> {
        let mut found = vec![0; n];
        self.file.read_exact_at(&mut found, (self.start + at) as u64).context("read")?;
        Ok(found)
    }
    fn load(&self, at: usize, n: usize) -> Vec<u8> {
        let from = self.mapping.cast::<u8>();
        // SAFETY: the mapping has these bytes, and any bytes are a value. Volatile, because the kernel takes pages away and
        // brings them again.
        (0..n).map(|b| unsafe { from.add(self.start + at + b).read_volatile() }).collect()
    }
    fn store(&mut self, at: usize, data: &[u8]) {
        let to = self.mapping.cast::<u8>();
        for (b, byte) in data.iter().enumerate() {
            // SAFETY: the mapping has this byte, and nothing else of this program refers to it.
            unsafe { to.add(self.start + at + b).write_volatile(*byte) };
        }
    }
    fn compare(&self, found: &[u8], at: usize, how: &str) -> Result<()> {
        let right = &self.model[at..at + found.len()];
        let Some(first) = found.iter().zip(right).position(|(f, r)| f != r) else { return Ok(()) };
        let wrong = found.iter().zip(right).filter(|(f, r)| f != r).count();
        let place = self.start + at + first;
        bail!("{how}: byte {place} is {}, not {}; {wrong} of {} are wrong", found[first], right[first], found.len())
    }
}

/// Memory that O_DIRECT takes.
struct Aligned {
    memory: Vec<u8>,
    skip: usize,
    length: usize,
}
fn aligned(data: &[u8]) -> Aligned {
    let mut memory = vec![0; data.len() + PAGE];
    let skip = memory.as_ptr().align_offset(PAGE);
    memory[skip..skip + data.len()].copy_from_slice(data);
    Aligned { memory, skip, length: data.len() }
}
impl Aligned {
    fn bytes(&self) -> &[u8] {
        &self.memory[self.skip..self.skip + self.length]
    }
    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.skip..self.skip + self.length]
    }
}
