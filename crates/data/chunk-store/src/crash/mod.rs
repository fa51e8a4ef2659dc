//! Crash images: random workloads on a disk that forgets, stopped at many points, opened again and compared with a model.
//!
//! [`explore`] runs all [`workloads`]; after each step it may take an image: the process is killed (memory and ring stay,
//! writes under way stand in part) or the power goes (unflushed sectors stay or not). The image is opened, and every chunk
//! must be exactly one of the versions it went through, not older than what was promised. Some images are killed again
//! while they recover, some are opened twice, and some become the store on which the workload goes on.

mod model;
mod sim;
pub mod workloads;

use crate::rules::StoreRules;
use host::disk::{DiskError, DiskErrorKind, FileId, Folder};
use host::memory::MemoryDisk;

/// A small generator of numbers (xorshift); the same seed gives the same run.
#[derive(Clone, Debug)]
pub struct Rng(u64);
impl Rng {
    /// From a seed.
    pub fn new(seed: u64) -> Rng {
        let mut r = Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d);
        r.next();
        r
    }
    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = if self.0 == 0 { 1 } else { self.0 };
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }
    /// A number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }
    /// True in `n` of 100 cases.
    pub fn percent(&mut self, n: u64) -> bool {
        self.below(100) < n
    }
}

/// What was explored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Images opened.
    pub images: u64,
    /// Of these: process kills, the others are power cuts.
    pub kills: u64,
    /// Images that were stopped again while they recovered.
    pub recovery_crashes: u64,
    /// Requests accepted.
    pub accepted: u64,
    /// Requests refused for want of space or journal room.
    pub refused: u64,
    /// Checkpoints that the runs made, counted by superblock generations.
    pub checkpoints: u64,
    /// Records replayed in all images.
    pub replayed: u64,
    /// Images in which a torn tail cut a chunk.
    pub cuts: u64,
    /// What went wrong, each with workload and seed; empty = nothing.
    pub failures: Vec<String>,
}

/// Explores about `images` images, spread over all workloads. Stops after ten failures.
pub fn explore(seed: u64, images: u64) -> Report {
    explore_with(StoreRules::ALL, 10, seed, images)
}

/// As [`explore`] with these rules only; stops after `failures`.
pub fn explore_with(rules: StoreRules, failures: usize, seed: u64, images: u64) -> Report {
    let mut report = Report::default();
    let all = workloads::all();
    let each = images.div_ceil(all.len() as u64);
    for (i, w) in all.iter().enumerate() {
        let mut left = each;
        let mut run = 0;
        while left > 0 && report.failures.len() < failures {
            let n = left.min(40);
            let s = seed.wrapping_mul(1_000_003).wrapping_add(run * 64 + i as u64);
            if let Err(e) = sim::run(w, rules, s, n, &mut report) {
                report.failures.push(format!("workload `{}`, seed {s}: {e}", w.name));
            }
            left -= n;
            run += 1;
        }
    }
    report
}

/// Runs one workload with the seed that a failure names. Unknown names explore nothing.
pub fn explore_one(name: &str, seed: u64, images: u64) -> Report {
    let mut report = Report::default();
    for w in workloads::all().iter().filter(|w| w.name == name) {
        if let Err(e) = sim::run(w, StoreRules::ALL, seed, images, &mut report) {
            report.failures.push(format!("workload `{name}`, seed {seed}: {e}"));
        }
    }
    report
}

/// A folder whose process dies after some writes and flushes.
struct DyingFolder {
    disk: MemoryDisk,
    left: u64,
}
impl DyingFolder {
    fn step(&mut self) -> Result<(), DiskError> {
        if self.left == 0 {
            return Err(DiskError { kind: DiskErrorKind::Io, detail: "the process is dead".into() });
        }
        self.left -= 1;
        Ok(())
    }
}
impl Folder for DyingFolder {
    fn list(&mut self) -> Result<Vec<(String, u64)>, DiskError> {
        self.disk.list()
    }
    fn create(&mut self, name: &str, size: u64) -> Result<FileId, DiskError> {
        self.step()?;
        self.disk.create(name, size)
    }
    fn open(&mut self, name: &str) -> Result<FileId, DiskError> {
        self.disk.open(name)
    }
    fn size(&mut self, file: FileId) -> Result<u64, DiskError> {
        self.disk.size(file)
    }
    fn read(&mut self, file: FileId, offset: u64, len: usize) -> Result<bytes::Bytes, DiskError> {
        self.disk.read(file, offset, len)
    }
    fn write(&mut self, file: FileId, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        self.step()?;
        self.disk.write(file, offset, data)
    }
    fn flush(&mut self, file: FileId) -> Result<(), DiskError> {
        self.step()?;
        self.disk.flush(file)
    }
    fn remove(&mut self, name: &str) -> Result<(), DiskError> {
        self.step()?;
        self.disk.remove(name)
    }
}
